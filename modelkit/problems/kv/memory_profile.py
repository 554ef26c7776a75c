"""The tokens held in each round, and where one more request fits: compiled, changed request by request.

Request i started at k holds s_i + t - k tokens in its rounds t = k + 1 .. k + o_i. A profile has two arrays:
``held[t]``, and ``least[b]``, the least of ``held`` over the rounds of block b, by which whole blocks
without room are passed over.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modelkit.runtime.kernel import kernel

Ints = npt.NDArray[np.int64]

#: Rounds in a block.
BLOCK = 32


class Memory(NamedTuple):
    """A profile, and the capacity M [token] that it must keep to."""

    held: Any
    least: Any
    capacity: int


def empty_memory(rounds: int, capacity: int) -> Memory:
    """An empty cache for at least this many rounds."""
    blocks = rounds // BLOCK + 2
    return Memory(np.zeros(blocks * BLOCK, dtype=np.int64), np.zeros(blocks, dtype=np.int64), capacity)


@kernel
def change(memory: Memory, k: int, s: int, o: int, sign: int) -> None:
    """Add (``sign`` 1) or take out (-1) a request of prompt s and output o started at k. O(o)."""
    held, least = memory.held, memory.least
    for t in range(k + 1, k + o + 1):
        held[t] += sign * (s + t - k)
    for b in range((k + 1) // BLOCK, (k + o) // BLOCK + 1):
        low = held[b * BLOCK]
        for t in range(b * BLOCK + 1, (b + 1) * BLOCK):
            low = min(low, held[t])
        least[b] = low


@kernel
def first_fit(memory: Memory, k: int, s: int, o: int, limit: int) -> int:
    """First start from k on at which the request fits; ``limit`` when there is none before ``limit``.

    A start k is possible iff ``held[t] + s + t - k <= M`` for t = k+1 .. k+o; when it fails in round t,
    no start before ``t - (M - held[t] - s)`` is possible. O(o + rounds skipped / BLOCK) in the usual case.
    """
    held, least, capacity = memory
    while k < limit:
        b = (k + 1) // BLOCK
        while least[b] > capacity - s - 1 and k < limit:
            b += 1
            k = b * BLOCK - 1
        if k >= limit:
            break
        t = k + o
        while t > k:
            room = capacity - held[t] - s
            if t - k > room:
                break
            t -= 1
        if t == k:
            return k
        k = t - max(room, 0)
    return limit


@kernel
def place(order: Any, arrival: Any, prompt: Any, output: Any, memory: Memory, starts: Any) -> None:
    """List scheduling: each request in this order at the first start at which it fits beside those before."""
    for i in order:
        k = first_fit(memory, arrival[i], prompt[i], output[i], 1 << 60)
        starts[i] = k
        change(memory, k, prompt[i], output[i], 1)


@kernel
def link(i: int, k: int, head: Any, following: Any, previous: Any) -> None:
    """Enter i in the list of requests that start at k; the lists begin at ``head[k]`` and end with -1."""
    j = head[k]
    following[i], previous[i] = j, -1
    if j >= 0:
        previous[j] = i
    head[k] = i


@kernel
def unlink(i: int, k: int, head: Any, following: Any, previous: Any) -> None:
    """Take i out of the list of requests that start at k."""
    before, after = previous[i], following[i]
    if before >= 0:
        following[before] = after
    else:
        head[k] = after
    if after >= 0:
        previous[after] = before
