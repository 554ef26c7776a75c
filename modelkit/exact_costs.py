"""The least cost of each request at whole prices, in exact integer arithmetic, compiled.

It serves ``modelkit.certificate`` and shares nothing with the code that finds prices.

Blocks of starts are passed over together: with m_t the least of the next BLOCK prices, a start less than BLOCK rounds
after k pays at least ``sum_j m_{k+j} (s + j)``, and has at least the latency of k.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelkit.kernel import kernel

Ints = npt.NDArray[np.int64]

#: Starts that are passed over together; a power of two.
BLOCK = 64


def least_ahead(priced: Ints) -> Ints:
    """The least of the next BLOCK prices from each round on; behind the last round nothing is charged."""
    least, reach = np.append(priced, np.zeros(BLOCK, dtype=np.int64)), 1
    while reach < BLOCK:
        least[:-reach] = np.minimum(least[:-reach], least[reach:])
        reach *= 2
    return least[: len(priced)]


@kernel
def least_costs(
    p: Any, q: Any, block_p: Any, block_q: Any, arrival: Any, prompt: Any, output: Any, last: int, denominator: int,
    least: Any,
) -> None:  # fmt: skip
    """``least[i]``: the least over k >= a_i of ``d (k + o - a) + (s - k)(P[k+o] - P[k]) + Q[k+o] - Q[k]``.

    P and Q are the cumulative sums of the prices n_t and of t n_t, ``block_p`` and ``block_q`` those of `least_ahead`.
    All arrays are int64. P and Q and the products may wrap around; sums, differences and products are exact modulo
    2^64, so the cost is exact when it is itself below 2^63, which the caller makes sure of.

    From ``last``, the last round with a price, on nothing is charged, so no later start is cheaper; and
    since prices are not negative, neither is a start whose ``d (k + o - a)`` alone is at least the least so far.
    """
    for i in range(len(output)):
        a, s, o = arrival[i], prompt[i], output[i]
        low = denominator * o + (s - a) * (p[a + o] - p[a]) + (q[a + o] - q[a])
        first, promising = a, low  # the block with the least of what its starts pay at least
        for b in range(a, last + 1, BLOCK):
            latency = denominator * (b + o - a)
            if latency >= low:
                break
            ahead = latency + (s - b) * (block_p[b + o] - block_p[b]) + (block_q[b + o] - block_q[b])
            if ahead < promising:
                first, promising = b, ahead
        for k in range(first, min(first + BLOCK, last + 1)):
            cost = denominator * (k + o - a) + (s - k) * (p[k + o] - p[k]) + (q[k + o] - q[k])
            low = min(low, cost)
        for b in range(a, last + 1, BLOCK):
            latency = denominator * (b + o - a)
            if latency >= low:
                break
            ahead = latency + (s - b) * (block_p[b + o] - block_p[b]) + (block_q[b + o] - block_q[b])
            if ahead >= low:
                continue
            for k in range(b, min(b + BLOCK, last + 1)):
                cost = denominator * (k + o - a) + (s - k) * (p[k + o] - p[k]) + (q[k + o] - q[k])
                low = min(low, cost)
        least[i] = low
