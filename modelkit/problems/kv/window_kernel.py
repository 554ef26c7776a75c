"""The best starts of a few freed requests: the compiled search of exact neighbourhoods.

Which starts of the freed requests F are best while all others stay where they are is a small problem of its own: the
memory left is what the others leave in each round. `resolve` solves it by depth-first search over the starts in time
order: a node has started some of F, the last in round k, and every further start is k or later. With i not yet
started, p_i = s_i + o_i its peak, v_i its memory volume and e_i >= k the first start at which it fits alone:

*Bounds.* The r-th completion to come is not before the r-th smallest e_i + o_i, nor before the free memory from k on
sums to the r smallest volumes, for what is complete was held. The larger of the two is taken for each r. Apart from
that, if i completes before j then ``c_j - c_i >= min(o_j, p_i + p_j - M)``: either they do not meet, or in the last
round of i they hold p_i and p_j - (c_j - c_i). With q_i = min(p_i, M - max s) this is at least q_i + q_j - M, and
where all 2 q_i > M the completions in ascending order of q, each the least later than the one before, have the least
sum.

*Left shift.* In a best solution no request can start one round earlier. One that could, given what is started so far,
must be hindered by what comes later; since the shift adds one token to each of its rounds but the last, one of these
must get full. When none is and nothing to come can meet them, the node is left out.

*Dominance.* Of two nodes that have started the same requests, one that costs no more, holds no more in any later
round and whose last start (round, then number) is no later takes the place of the other: what follows the other can
follow it.

*Symmetry.* Requests that are alike start in the order of their numbers, as do those that start in one round.

The search ends with its limit of nodes at the latest and says whether it was exact. A node costs O(m (o + m)) for m
freed requests of o rounds: 1 microsecond for m = 6, o = 25. Among requests of which two or three run at once m = 5
takes some 1,000 nodes, m = 6 some 5,000, m = 8 more than 10,000; where dozens run at once nothing is gained by it.

Unit clock, no slots. Sprecher, Kolisch and Drexl (European Journal of Operational Research 80, 1995) for left shifts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modelkit.problems.kv.memory_profile import Memory, change, first_fit
from modelkit.runtime.kernel import kernel

Ints = npt.NDArray[np.int64]

#: Nodes of a subset that further ones are compared with.
COMPARED = 8


class Window(NamedTuple):
    """The freed requests, and where they may start.

    Parameters
    ----------
    freed
        Requests, shape [m]; they are not in the profile.
    earliest
        Round from which on each of them may start, shape [m].
    prompt, output
        Of all requests, shape [n].
    end
        Starts are before this round.
    """

    freed: Any
    earliest: Any
    prompt: Any
    output: Any
    end: int


class SeenNodes(NamedTuple):
    """Nodes that others are compared with, by the subset that they have started; arrays from `room`."""

    kept: Ints
    cost: Ints
    last: Ints
    number: Ints
    held: Ints


@kernel
def resolve(
    window: Window, memory: Memory, allowed: int, nodes: int, seen: SeenNodes, best: Any
) -> tuple[int, int, bool]:
    """Best starts of the freed requests in the memory that the profile leaves, if their sum is below ``allowed``.

    Parameters
    ----------
    memory
        The same after as before.
    allowed
        Sum of starts that is to be undercut.
    nodes
        The search ends after this number.
    seen
        Room for nodes, written over.
    best
        Takes the starts, shape [m]; unchanged when there are none.

    Returns
    -------
    Sum of the best starts, or ``allowed``; nodes; whether the search was exact.
    """
    freed, earliest, end = window.freed, window.earliest, window.end
    held, capacity = memory.held, memory.capacity
    count, seen_cost, seen_last, seen_number, seen_held = seen.kept, seen.cost, seen.last, seen.number, seen.held
    m = len(freed)
    width = seen_held.shape[2]
    count[: 1 << m] = 0
    s, o, volume = np.empty(m, np.int64), np.empty(m, np.int64), np.empty(m, np.int64)
    for i in range(m):
        s[i], o[i] = window.prompt[freed[i]], window.output[freed[i]]
        volume[i] = s[i] * o[i] + o[i] * (o[i] + 1) // 2
    by_volume = np.argsort(volume)
    peak = np.minimum(s + o, capacity - s.max())
    by_peak = np.argsort(peak)
    twin = np.full(m, -1, np.int64)
    for i in range(m):
        for j in range(i):
            if s[i] == s[j] and o[i] == o[j] and earliest[i] == earliest[j]:
                twin[i] = j
    fits = np.empty((m + 1, m), np.int64)  # earliest fit of each at each depth
    turn = np.empty((m + 1, m), np.int64)  # the request tried at each depth, in turn
    many = np.zeros(m + 1, np.int64)
    position = np.zeros(m + 1, np.int64)
    next_start = np.zeros(m + 1, np.int64)
    member, start = np.full(m + 1, -1, np.int64), np.zeros(m + 1, np.int64)
    waits = np.zeros(m + 1, np.bool_)  # must be hindered by what is to come
    ready = np.empty(m, np.int64)
    cost, mask, depth, visited = 0, 0, 0, 0
    fits[0] = earliest
    fresh = True
    while depth >= 0:
        if fresh:
            fresh = False
            visited += 1
            if visited > nodes:
                break
            last = start[depth] if depth else -1
            number = member[depth]
            many[depth] = 0
            position[depth] = 0
            alive = True
            if depth == m:
                if cost < allowed:
                    allowed = cost
                    for d in range(1, m + 1):
                        best[member[d]] = start[d]
                alive = False
            # earliest fits
            left = 0
            total = cost
            soonest = end
            if alive:
                above = depth - 1 if depth else 0
                for i in range(m):
                    if mask >> i & 1:
                        continue
                    k = max(fits[above, i], last + 1 if i < number else last)
                    k = first_fit(memory, k, s[i], o[i], end)
                    fits[depth, i] = k
                    total += k
                    if k >= end or total >= allowed:
                        alive = False
                        break
                    turn[depth, left] = i
                    left += 1
                    soonest = min(soonest, k)
            # a request that waits for a hindrance that can come no more
            d = 1
            while alive and d <= depth:
                if waits[d] and start[d] + o[member[d]] - 1 <= soonest:
                    alive = False
                    for t in range(start[d] + 1, start[d] + o[member[d]]):
                        if held[t] >= capacity:
                            alive = True
                            break
                d += 1
            # completions, rank by rank
            if alive and left > 1:
                for q in range(left):
                    c = fits[depth, turn[depth, q]] + o[turn[depth, q]]
                    p = q
                    while p > 0 and ready[p - 1] > c:
                        ready[p] = ready[p - 1]
                        p -= 1
                    ready[p] = c
                total = cost
                need, free, rank = 0, 0, 0
                t = max(last, 0)
                for i in by_volume:
                    if mask >> i & 1:
                        continue
                    need += volume[i]
                    while free < need and t < len(held) - 1:
                        t += 1
                        free += capacity - held[t]
                    total += max(t, ready[rank]) - o[i]
                    rank += 1
                alive = total < allowed
            # completions of those of which no two hold their peaks together
            if alive and left > 1:
                total, big, before_it = cost, 0, 0
                for i in by_peak:
                    if mask >> i & 1:
                        continue
                    if big or 2 * peak[i] > capacity:
                        c = fits[depth, i] + o[i]
                        p = big
                        while p > 0 and ready[p - 1] > c:
                            ready[p] = ready[p - 1]
                            p -= 1
                        ready[p] = c
                        big += 1
                    else:
                        total += fits[depth, i]
                if big > 1:
                    c, rank = ready[0], 0
                    for i in by_peak:
                        if mask >> i & 1 or 2 * peak[i] <= capacity:
                            continue
                        if rank:
                            c += before_it + peak[i] - capacity
                        c = max(c, ready[rank])
                        total += c - o[i]
                        before_it = peak[i]
                        rank += 1
                    alive = total < allowed
            # a node before that is no worse
            if alive and depth:
                at = count[mask]
                for c in range(min(at, COMPARED)):
                    if seen_cost[mask, c] > cost or seen_last[mask, c] > last:
                        continue
                    if seen_last[mask, c] == last and seen_number[mask, c] > number:
                        continue
                    ahead = last - seen_last[mask, c]
                    no_more = True
                    for t in range(width - ahead):
                        if seen_held[mask, c, t + ahead] > held[last + 1 + t]:
                            no_more = False
                            break
                    if no_more:
                        alive = False
                        break
                if alive:
                    c = at % COMPARED
                    count[mask] = at + 1
                    seen_cost[mask, c], seen_last[mask, c], seen_number[mask, c] = cost, last, number
                    for t in range(width):
                        seen_held[mask, c, t] = held[last + 1 + t]
            if alive:
                # in order of the earliest fits, small volumes first
                for q in range(1, left):
                    i = turn[depth, q]
                    p = q
                    while p > 0 and (fits[depth, turn[depth, p - 1]], volume[turn[depth, p - 1]]) > (
                        fits[depth, i], volume[i],
                    ):  # fmt: skip
                        turn[depth, p] = turn[depth, p - 1]
                        p -= 1
                    turn[depth, p] = i
                many[depth] = left
                next_start[depth] = fits[depth, turn[depth, 0]]
        # the next start at this depth
        found = False
        while position[depth] < many[depth]:
            i = turn[depth, position[depth]]
            k = next_start[depth]
            good = k < end and (twin[i] < 0 or mask >> twin[i] & 1)
            if good:
                total = cost + k
                for q in range(many[depth]):
                    j = turn[depth, q]
                    if j != i:
                        total += max(fits[depth, j], k + 1 if j < i else k)
                good = total < allowed
            if good:
                found = True
                break
            position[depth] += 1
            if position[depth] < many[depth]:
                next_start[depth] = fits[depth, turn[depth, position[depth]]]
        if found:
            before = first_fit(memory, max(k - 1, earliest[i]), s[i], o[i], k)
            next_start[depth] = first_fit(memory, k + 1, s[i], o[i], end)
            depth += 1
            member[depth], start[depth], waits[depth] = i, k, before < k
            change(memory, k, s[i], o[i], 1)
            cost += k
            mask |= 1 << i
            fresh = True
        else:
            if depth:
                i = member[depth]
                change(memory, start[depth], s[i], o[i], -1)
                cost -= start[depth]
                mask ^= 1 << i
            depth -= 1
    exact = depth < 0
    while depth > 0:
        i = member[depth]
        change(memory, start[depth], s[i], o[i], -1)
        depth -= 1
    return allowed, visited, exact


def room(longest: int, freed: int) -> SeenNodes:
    """Room for the nodes that `resolve` compares with, for outputs of up to ``longest`` rounds."""
    rows = 1 << freed
    shape = (rows, COMPARED)
    return SeenNodes(
        np.zeros(rows, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64),
        np.zeros((*shape, longest), np.int64),
    )  # fmt: skip
