"""Optima of the KV-cache problem by exhaustive search, independent of the product's code."""

from __future__ import annotations

import numpy as np

from modelkit.instance import Instance


def brute_force(instance: Instance) -> tuple[int, list[dict[str, int]]]:
    """Least total latency over all starts up to the trivial horizon, and every schedule that has it.

    Independent of the library's windows: a request may start until all could have run one by one.
    """
    requests = instance.requests
    capacity = instance.server.kv_capacity_tokens
    assert capacity is not None
    horizon = int(max(r.arrival for r in requests)) + sum(r.output_tokens for r in requests)
    best, winners = None, []
    held = np.zeros(2 * horizon + 2, dtype=int)

    def place(i: int, cost: int, starts: dict[str, int]) -> None:
        nonlocal best, winners
        if best is not None and cost > best:
            return
        if i == len(requests):
            if best is None or cost < best:
                best, winners = cost, []
            winners.append(dict(starts))
            return
        r = requests[i]
        profile = r.prompt_tokens + np.arange(1, r.output_tokens + 1)
        for k in range(int(r.arrival), horizon):
            latency = k + r.output_tokens - int(r.arrival)
            if best is not None and cost + latency > best:
                break
            window = held[k + 1 : k + r.output_tokens + 1]
            if (window + profile > capacity).any():
                continue
            window += profile
            place(i + 1, cost + latency, {**starts, r.id: k})
            window -= profile

    place(0, 0, {})
    assert best is not None
    return best, winners
