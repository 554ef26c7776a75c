"""The least cost of each request at whole prices, in exact integer arithmetic, compiled.

It serves ``modelkit.certificate`` and shares nothing with the code that finds prices.

Blocks of starts are passed over together, large ones and the small ones in them: with m_t the least of the next B
prices, a start less than B rounds after k pays at least ``sum_j m_{k+j} (s + j)``, and has at least the latency of k.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelkit.runtime.kernel import kernel

Ints = npt.NDArray[np.int64]

#: Starts that are passed over together at first, a power of two.
LARGE = 1024
#: Starts that are passed over together among those that are left, a power of two.
BLOCK = 64


def least_ahead(priced: Ints, block: int) -> Ints:
    """The least of the next ``block`` prices from each round on; behind the last round nothing is charged."""
    least, reach = np.append(priced, np.zeros(block, dtype=np.int64)), 1
    while reach < block:
        least[:-reach] = np.minimum(least[:-reach], least[reach:])
        reach *= 2
    return least[: len(priced)]


def cumulative(priced: Ints) -> Ints:
    """Cumulative sums of prices n_t and of t n_t, of the prices themselves and of the least of many; shape [6, rounds].

    In pairs: of the prices, of the least of the next BLOCK, of the least of the next LARGE.
    """
    time = np.arange(len(priced))
    prices = (priced, least_ahead(priced, BLOCK), least_ahead(priced, LARGE))
    return np.stack([np.cumsum(row) for some in prices for row in (some, some * time)])


@kernel
def least_costs(sums: Any, arrival: Any, prompt: Any, output: Any, last: int, denominator: int, least: Any) -> None:
    """``least[i]``: the least over k >= a_i of ``d (k + o - a) + (s - k)(P[k+o] - P[k]) + Q[k+o] - Q[k]``.

    The rows of ``sums`` are P and Q, the cumulative sums of the prices n_t and of t n_t; those of the least of the next
    BLOCK prices; and those of the least of the next LARGE.
    All arrays are int64. P and Q and the products may wrap around; sums, differences and products are exact modulo
    2^64, so the cost is exact when it is itself below 2^63, which the caller makes sure of.

    From ``last``, the last round with a price, on nothing is charged, so no later start is cheaper; and
    since prices are not negative, neither is a start whose ``d (k + o - a)`` alone is at least the least so far.
    """
    p, q, block_p, block_q, large_p, large_q = sums
    for i in range(len(output)):
        a, s, o = arrival[i], prompt[i], output[i]
        low = denominator * o + (s - a) * (p[a + o] - p[a]) + (q[a + o] - q[a])
        first, promising = a, low  # the large block with the least of what its starts pay at least
        for c in range(a, last + 1, LARGE):
            latency = denominator * (c + o - a)
            if latency >= low:
                break
            ahead = latency + (s - c) * (large_p[c + o] - large_p[c]) + (large_q[c + o] - large_q[c])
            if ahead < promising:
                first, promising = c, ahead
        for k in range(first, min(first + LARGE, last + 1), BLOCK):
            low = min(low, denominator * (k + o - a) + (s - k) * (p[k + o] - p[k]) + (q[k + o] - q[k]))
        for c in range(a, last + 1, LARGE):
            latency = denominator * (c + o - a)
            if latency >= low:
                break
            if latency + (s - c) * (large_p[c + o] - large_p[c]) + (large_q[c + o] - large_q[c]) >= low:
                continue
            for b in range(c, min(c + LARGE, last + 1), BLOCK):
                latency = denominator * (b + o - a)
                if latency + (s - b) * (block_p[b + o] - block_p[b]) + (block_q[b + o] - block_q[b]) >= low:
                    continue
                for k in range(b, min(b + BLOCK, last + 1)):
                    low = min(low, denominator * (k + o - a) + (s - k) * (p[k + o] - p[k]) + (q[k + o] - q[k]))
        least[i] = low
