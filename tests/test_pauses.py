"""Pauses: policies that pause under every clock, and what is said where they cannot."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelkit as mk
from modelkit.errors import UsageError
from modelkit.judge import judge
from modelkit.policies import chosen_policy
from modelkit.simulation.pausing import PausingSimulation
from modelkit.simulation.simulate import fitting_policies

LAW: dict[str, Any] = {
    "kind": "linear",
    "prefill_base_ms": 3.0,
    "prefill_per_token_ms": 0.3,
    "decode_base_ms": 7.0,
    "decode_per_request_ms": 0.3,
    "decode_per_kv_token_ms": 0.01,
    "swap_out_per_token_ms": 0.2,
    "swap_in_per_token_ms": 0.1,
}
CLOCKS: dict[str, dict[str, Any]] = {"unit": {"kind": "unit"}, "mixed": {**LAW, "mixed": True}, "exclusive": LAW}


def drawn(clock: str, keep: str, seed: int) -> mk.Instance:
    """A small server that requests overfill; predictions are wrong in every third instance, slots few in another."""
    rng = random.Random(seed)
    n, memory = rng.randint(2, 12), rng.randint(12, 40)
    prompt = [rng.randint(1, 6) for _ in range(n)]
    output = [rng.randint(1, memory - s) for s in prompt]
    arrival = [rng.randint(0, 30) if clock == "unit" else rng.uniform(0, 0.4) for _ in range(n)]
    guessed = [max(1, int(o * rng.uniform(0.4, 1.8))) for o in output] if seed % 3 == 0 else output
    return mk.Instance(
        server={
            "kv_capacity_tokens": memory,
            "slots": 3 if seed % 3 == 2 else None,
            "clock": CLOCKS[clock],
            "pause": {"keep": keep},
        },
        requests={
            "prompt_tokens": prompt,
            "output_tokens": output,
            "arrival": arrival,
            "predicted_output_tokens": guessed,
        },
    )


def pausing_policies(keep: str) -> list[str]:
    """Policies that pause, with their options."""
    preempt = "swap" if keep == "swapped" else "pause"
    return [
        "srpt",
        "srpt:by=volume",
        "srpt:limit=0.9,gate=2",
        f"vllm-like:block=1,preempt={preempt}",
        f"vllm-like:block=1,victim=cheapest,preempt={preempt}",
        f"sglang-like:conservativeness=0.05,preempt={preempt}",
    ]


@pytest.mark.parametrize("keep", ["held", "swapped"])
@pytest.mark.parametrize("clock", CLOCKS)
def test_policies_that_pause_make_valid_schedules(clock: str, keep: str) -> None:
    """Every schedule is valid and serves all, with chunks too; each policy pauses somebody; swapping evicts nobody."""
    paused = dict.fromkeys(pausing_policies(keep), 0.0)
    for seed in range(11):
        instance = drawn(clock, keep, seed)
        limits: list[dict[str, Any]] = [{}]
        limits += [{"max_batch_tokens": 9, "chunked_prefill": True}] if clock == "mixed" else []
        for name in paused:
            for limit in limits:
                result = mk.simulate(instance, name, **limit)
                assert result.violations == [], (seed, name, limit)
                assert keep == "held" or not result.metrics["evictions"]
                assert bool(result.metrics["swapped_tokens"]) <= (keep == "swapped")
                paused[name] += result.metrics["pauses"] or 0
    assert all(paused.values()), paused


class Recording(PausingSimulation):
    """A simulation that notes when each request ends by its own clock."""

    def run(self) -> mk.Schedule:
        self.times: dict[int, float] = {}
        return super().run()

    def leave(self, i: int) -> None:
        self.times[i] = self.time.now
        super().leave(i)


@pytest.mark.parametrize("clock", CLOCKS)
def test_judge_agrees_to_the_last_bit(clock: str) -> None:
    """Every completion comes at the very time at which the judge has it, with pauses and copies too."""
    for seed in range(6):
        for keep in ("held", "swapped"):
            instance = drawn(clock, keep, seed)
            for name in pausing_policies(keep)[::2]:
                entry, options = chosen_policy(name)
                predicted = instance.arrays.predicted_lower, instance.arrays.predicted_upper
                run = Recording(instance, entry.build(options), np.random.default_rng(seed), predicted)
                ends = {r.request: r.end for r in judge(instance, run.run()).residencies if r.completed}
                assert run.times == ends


def test_pauses_by_hand() -> None:
    """Durations, tokens held and metrics of one pause, counted by hand under the mixed clock, held and swapped."""
    schedule = mk.Schedule(
        (
            mk.Segment(0, "a", rounds=1),
            mk.Segment(0, "b", rounds=2, pause="a"),
            mk.Segment(0, rounds=2, resume=["a"]),
        )
    )
    requests = {"id": ["a", "b"], "prompt_tokens": [2, 3], "output_tokens": [3, 2]}
    # a's prompt; b's prompt; b decodes over 5 tokens; a decodes over 4, then 5
    iterations = [3.6, 3.9, 7.3 + 0.05, 7.3 + 0.04, 7.3 + 0.05]
    for keep, copied, peak in (("held", [0.0, 0.0], 3 + 5), ("swapped", [3 * 0.2, 3 * 0.1], 5)):
        server = {"kv_capacity_tokens": peak, "clock": CLOCKS["mixed"], "pause": {"keep": keep}}
        found = judge(mk.Instance(server=server, requests=requests), forgiving(schedule, [3.6, 14.85 + copied[0]]))
        assert found.violations == ()
        b_ends = sum(iterations[:3]) + copied[0]
        makespan = sum(iterations) + sum(copied)
        assert found.metrics["makespan_ms"] == pytest.approx(makespan)
        assert found.metrics["total_latency_ms"] == pytest.approx(makespan + b_ends)
        assert found.metrics["paused_ms"] == pytest.approx(b_ends - 3.6)
        assert (found.metrics["pauses"], found.metrics["peak_kv_tokens"]) == (1, peak)
        assert found.metrics["swapped_tokens"] == (3 if keep == "swapped" else 0)
        held = 3 if keep == "held" else 0
        tokens = [3, held + 4, held + 5, 4, 5]  # in each iteration
        copying = copied[0] * 3 + copied[1] * 3  # b's prompt, and a's tokens
        volume = sum(ms * n for ms, n in zip(iterations, tokens, strict=True)) + copying
        assert found.metrics["kv_utilisation"] == pytest.approx(volume / (peak * makespan))


def forgiving(schedule: mk.Schedule, times: list[float]) -> mk.Schedule:
    """The schedule with the later segments at these times [ms]."""
    first, *others = schedule.segments
    return mk.Schedule((first, *(replace(s, at=ms / 1000) for s, ms in zip(others, times, strict=True))))


def test_pauses_beat_recomputation() -> None:
    """Where memory runs out, the tokens that are kept need not be made again."""
    instance = drawn("unit", "swapped", 1)
    values = {
        preempt: mk.simulate(instance, f"vllm-like:block=1,preempt={preempt}").metrics["total_latency_rounds"]
        for preempt in ("recompute", "swap")
    }
    assert values["swap"] < values["recompute"]


def test_servers_that_pause_nobody() -> None:
    """Policies that pause are refused where tokens are kept elsewhere or nowhere, and are not among those that fit."""
    without = drawn("unit", "held", 1).replace(server={"kv_capacity_tokens": 40})
    assert "srpt" not in fitting_policies(without)
    assert "srpt" in fitting_policies(drawn("unit", "held", 1))
    with pytest.raises(
        UsageError, match=r"policy 'srpt' pauses requests .* held or swapped; this instance has no serv"
    ):
        mk.simulate(without, "srpt")
    with pytest.raises(UsageError, match=r"whose tokens are swapped; this instance has server.pause .*held"):
        mk.simulate(drawn("unit", "held", 1), "vllm-like:preempt=swap")
    with pytest.raises(UsageError, match="option limit"):
        mk.simulate(drawn("unit", "held", 1), "srpt:limit=2")


def test_reports_and_frames_show_pauses(tmp_path: Path) -> None:
    """A page says how often and how long requests were paused, and shows where; columns of times say it too."""
    instance = drawn("unit", "swapped", 1)
    result = mk.simulate(instance, "srpt")
    times = result.requests(instance)
    columns = times.columns()
    assert sum(columns["paused_rounds"]) == result.metrics["paused_rounds"] > 0
    assert "paused" not in "".join(
        mk.simulate(instance.replace(server={}), "svf").requests(instance.replace(server={})).columns()
    )
    page = tmp_path / "page.html"
    mk.report([result], page, instances=[instance])
    text = page.read_text()
    assert "paused: it keeps its tokens" in text
    assert f"{result.metrics['pauses']:g} pauses" in text
    assert "Time paused" in text
    assert "tokens of paused requests are swapped" in text
