"""Iterations under a known law in the shape of every log of iterations, as the sources of their writers have it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

LAW = (2.0, 5.0, 0.02, 12.0, 0.1, 3e-4)
CAPACITY = 100_000


class Step(NamedTuple):
    """Prompts, their tokens, decoding requests and the KV tokens that these hold."""

    prompts: int
    tokens: int
    decoding: int
    kv: int

    @property
    def ms(self) -> float:
        values = (1, self.tokens > 0, self.tokens, self.decoding > 0, self.decoding, self.kv)
        return round(sum(c * v for c, v in zip(LAW, values, strict=True)), 6)


STEPS = [
    *(Step(1, n, 0, 0) for n in (100, 400, 900)),
    *(Step(0, 0, b, kv) for b in (1, 5, 20) for kv in (500, 4000, 20_000)),
    *(Step(2, n, b, kv) for n in (100, 800) for b, kv in ((3, 700), (12, 9000))),
]  # fmt: skip


def fpm(steps: list[Step]) -> str:
    rows = [
        {"version": 1, "worker_id": "w", "dp_rank": 0, "counter_id": i, "wall_time": s.ms / 1000,
         "scheduled_requests": {"num_prefill_requests": s.prompts, "sum_prefill_tokens": s.tokens,
                                "var_prefill_length": 0.0, "sum_prefill_kv_tokens": 0,
                                "num_decode_requests": s.decoding, "sum_decode_kv_tokens": s.kv},
         "queued_requests": {"num_prefill_requests": 3}}
        for i, s in enumerate(steps)
    ]  # fmt: skip
    idle = {**rows[0], "wall_time": 0.0, "scheduled_requests": {"num_prefill_requests": 0}}
    return "".join(json.dumps(row) + "\n" for row in [*rows, idle])


def tensorrt(steps: list[Step]) -> str:
    rows = [
        {"iter": i, "iterLatencyMS": s.ms, "staticBatchingStats": None,
         "inflightBatchingStats": {"numContextRequests": s.prompts, "numGenRequests": s.decoding,
                                   "numCtxTokens": s.tokens, "numPausedRequests": 0, "numGenKvTokens": s.kv},
         "kvCacheStats": {"usedNumBlocks": 1 + s.kv // 32, "maxNumBlocks": 9000, "tokensPerBlock": 32}}
        for i, s in enumerate(steps)
    ]  # fmt: skip
    return json.dumps([*rows, {"iter": 99, "iterLatencyMS": 1.0, "inflightBatchingStats": None}])


def vllm(steps: list[Step]) -> str:
    begin = "(EngineCore_DP0 pid=1) INFO 07-08 00:00:00 [core.py:359] "
    lines = ["INFO starting", f"{begin}GPU KV cache size: {CAPACITY:,} tokens"]
    lines += [
        f"{begin}Iteration({i}): {s.prompts} context requests, {s.tokens} context tokens, {s.decoding} generation"
        f" requests, {s.decoding} generation tokens, iteration elapsed time: {s.ms} ms, GPU KV cache usage:"
        f" {s.kv * 100 / CAPACITY}%"
        for i, s in enumerate(steps)
    ]
    lines.append(
        f"{begin}Iteration(99): 0 context requests, 0 context tokens, 1 generation requests, 1 generation tokens,"
        " iteration elapsed time: 3.00 ms (dummy), GPU KV cache usage: 0.0%"
    )
    return "\n".join(lines) + "\n"


def tensorrt_lines(steps: list[Step]) -> str:
    return "".join(
        f"[07/08/2026-00:00:00] [TRT-LLM] [I] iter = {i}, global_rank = 0, rank = 0, currank_total_requests = 1/1,"
        f" host_step_time = {s.ms}ms, prev_device_step_time = 1.0ms, timestamp = 2026-07-08 00:00:00,"
        f" num_scheduled_requests: {s.prompts + s.decoding}, states = {{'num_ctx_requests': {s.prompts},"
        f" 'num_ctx_tokens': {s.tokens}, 'num_generation_tokens': {s.decoding}}}\n"
        for i, s in enumerate(steps)
    )


WRITERS: dict[str, Callable[[list[Step]], str]] = {
    "fpm": fpm, "tensorrt": tensorrt, "vllm": vllm, "tensorrt_lines": tensorrt_lines,
}  # fmt: skip
