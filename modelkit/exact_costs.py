"""The least cost of each request at whole prices, in exact integer arithmetic, compiled.

It serves ``modelkit.certificate`` and shares nothing with the code that finds prices.
"""

from __future__ import annotations

from typing import Any

from numba import njit


@njit(cache=True, nogil=True)
def least_costs(
    p: Any, q: Any, arrival: Any, prompt: Any, output: Any, last: int, denominator: int, least: Any
) -> None:
    """``least[i]``: the least over k >= a_i of ``d (k + o - a) + (s - k)(P[k+o] - P[k]) + Q[k+o] - Q[k]``.

    All arrays are int64. P and Q and the products may wrap around; sums, differences and products are
    exact modulo 2^64, so the cost is exact when it is itself below 2^63, which the caller makes sure of.

    From ``last``, the last round with a price, on nothing is charged, so no later start is cheaper; and
    since prices are not negative, neither is a start whose ``d (k + o - a)`` alone is at least the least so far.
    """
    for i in range(len(output)):
        a, s, o = arrival[i], prompt[i], output[i]
        low = denominator * o + (s - a) * (p[a + o] - p[a]) + (q[a + o] - q[a])
        for k in range(a + 1, last + 1):
            latency = denominator * (k + o - a)
            if latency >= low:
                break
            cost = latency + (s - k) * (p[k + o] - p[k]) + (q[k + o] - q[k])
            low = min(low, cost)
        least[i] = low
