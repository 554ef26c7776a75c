"""Logs whose truth is known: what a policy does under a known law, written as the result of a vLLM benchmark."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from log_files import Served

import modelkit as mk
from modelkit.instance import Instance, LinearClock, Request, Server
from modelkit.judge import Verdict, judge


def random_requests(rng: np.random.Generator, n: int, rate: float) -> tuple[Request, ...]:
    """Poisson arrivals, lengths of three orders of magnitude."""
    arrival = np.cumsum(rng.exponential(1 / rate, n))
    prompts = np.clip(rng.lognormal(5.5, 1.0, n), 8, 4000).astype(int)
    outputs = np.clip(rng.lognormal(4.5, 0.9, n), 2, 1200).astype(int)
    return tuple(
        Request(id=f"r{i}", arrival=float(a), prompt_tokens=int(p), output_tokens=int(o))
        for i, (a, p, o) in enumerate(zip(arrival, prompts, outputs, strict=True))
    )


def history(seed: int, clock: LinearClock, n: int = 200, rate: float = 4.0, capacity: int | None = None, **limits: Any):
    """An instance, and the verdict on what ``vllm-like`` does with it."""
    instance = Instance(
        name=f"truth-{seed}",
        server=Server(kv_capacity_tokens=capacity, clock=clock),
        requests=random_requests(np.random.default_rng(seed), n, rate),
    )
    result = mk.simulate(instance, "vllm-like", **limits)
    assert result.schedule is not None
    return instance, judge(instance, result.schedule)


def round_ends(instance: Instance, verdict: Verdict) -> np.ndarray:
    """Ends of all rounds of a replay [ms]."""
    clock = instance.server.clock
    assert isinstance(clock, LinearClock)
    ends = []
    for interval in verdict.intervals:
        held = np.linspace(interval.first_tokens, interval.last_tokens, interval.rounds)
        lasting = clock.base_ms + clock.decode_base_ms + clock.decode_per_request_ms * interval.active
        durations = lasting + clock.decode_per_kv_token_ms * held
        prompts = (interval.end - interval.begin - durations.sum()) / interval.rounds  # the same in each of them
        ends.append(interval.begin + np.cumsum(durations + prompts))
    return np.concatenate(ends)


def vllm_bench(instance: Instance, verdict: Verdict, *, pieces: bool = False) -> dict[str, Any]:
    """The result that ``vllm bench serve`` would write; with ``pieces`` answers are streamed in one piece."""
    ends = round_ends(instance, verdict)
    rows: dict[str, list[Any]] = defaultdict(list)
    for residency in sorted((s for s in verdict.residencies if s.completed), key=lambda s: s.request):
        request = instance.requests[residency.request]
        assert residency.first_token is not None
        assert residency.end is not None
        inside = ends[(ends > residency.first_token + 1e-6) & (ends < residency.end - 1e-6)]
        times = np.concatenate([[residency.first_token], inside, [residency.end]])
        gaps = np.diff(times)
        rows["input_lens"].append(request.prompt_tokens)
        rows["output_lens"].append(request.output_tokens)
        rows["start_times"].append(1000.0 + request.arrival)
        rows["ttfts"].append(residency.first_token / 1000 - request.arrival)
        rows["itls"].append([float(gaps.sum() / 1000)] if pieces else (gaps / 1000).tolist())
        rows["errors"].append("")
    return {
        "date": "20260101-000000", "backend": "vllm", "model_id": "m", "num_prompts": len(instance.requests),
        "request_rate": 4.0, "max_concurrency": None, "completed": len(instance.requests), **rows,
    }  # fmt: skip


LAW = {
    "prefill_base_ms": 5.0, "prefill_per_token_ms": 0.02, "decode_base_ms": 12.0, "decode_per_request_ms": 0.1,
    "decode_per_kv_token_ms": 3e-4,
}  # fmt: skip


def clock(**changes: float) -> LinearClock:
    return LinearClock(kind="linear", mixed=True, **{**LAW, **changes})


def served(seed: int = 1, n: int = 60) -> list[Served]:
    """What a server with a known law did, to whole microseconds."""
    instance, verdict = history(seed, clock(), n=n)
    ends = {residency.request: residency for residency in verdict.residencies if residency.completed}
    return [
        Served(r.id, round(r.arrival, 6), r.prompt_tokens, r.output_tokens,
               round((ends[i].first_token or 0) / 1000, 6), round((ends[i].end or 0) / 1000, 6))
        for i, r in enumerate(instance.requests)
    ]  # fmt: skip
