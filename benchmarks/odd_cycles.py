"""Odd cycles of the conflict graph: of 2r + 1 starts in a cycle of conflicts, a schedule has at most r; lifted.

*Cycle.* Let C be 2r + 1 starts, each in conflict with the next and the last with the first. A schedule has no two
neighbours, so at most r of them: ``sum_C x <= r``.

*Lifting.* Let D be pairwise conflicting starts outside C. For d in D, those of C that do not conflict with d fall into
paths; of a path of v starts a schedule has at most ceil(v / 2), so with d it has at most alpha(d) of C, the sum of
these (r if nothing of C conflicts with d). Then ``sum_C x + sum_{d in D} (r - alpha(d)) x_d <= r``: a schedule has at
most one of D; with none the row is that of the cycle, with d its left side is at most alpha(d) + r - alpha(d).

*Separation.* With all edge rows satisfied, y_uv = 1 - x_u - x_v >= 0, and the cycle's row is violated iff the y along
it sum to less than 1. Shortest paths between the two copies of each start in the doubled graph find it (Groetschel,
Lovasz and Schrijver, Geometric Algorithms and Combinatorial Optimization, 1988, section 8.3).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from modelkit.cuts import Candidates, Cut, Floats, Ints, conflict

#: Smallest value of a start that cycles go through.
SMALL = 1e-3


def odd_cycles(of: Candidates, x: Floats, violation: float, most: int, turn: int = 0) -> list[Cut]:
    """Lifted cycles, the shortest through each start of the support: O(m^3) with m starts in it."""
    support = np.flatnonzero((x > SMALL) & (x < 1 - SMALL))
    if len(support) < 5:
        return []
    walks, lengths = _shortest(support, of.request, of.start, x, of.prompt, of.output, of.capacity)
    cuts: list[Cut] = []
    seen = set()
    for source in np.argsort(lengths).tolist():
        # sum_C x = (2r + 1 - y(C)) / 2, so the excess over r is (1 - y(C)) / 2
        if len(cuts) >= most or (1 - lengths[source]) / 2 <= violation / 2:
            break
        cycle = _simple(walks[source])
        if len(cycle) < 5 or frozenset(cycle) in seen:  # three in a cycle are a clique
            continue
        seen.add(frozenset(cycle))
        cut = _lifted(of, x, support[np.array(cycle)], turn)
        if x[cut.members] @ cut.coefficients > cut.right + violation:
            cuts.append(cut)
    return cuts


def _simple(walk: Any) -> list[int]:
    """A cycle without repetition within a closed walk of odd length; no longer, for no edge has negative length."""
    path: list[int] = []
    for node in (int(v) for v in walk if v >= 0):
        if node in path:
            first = path.index(node)
            if (len(path) - first) % 2:  # an odd cycle by itself
                return path[first:]
            del path[first:]
        path.append(node)
    return path


def _lifted(of: Candidates, x: Floats, cycle: Ints, turn: int) -> Cut:
    coefficient = _coefficients(cycle, of.request, of.start, of.prompt, of.output, of.capacity)
    columns = np.flatnonzero(coefficient)
    turned = (columns - turn) % len(x)
    columns = columns[np.lexsort((turned, -coefficient[columns] * x[columns]))]
    chosen: list[int] = []
    for c in columns.tolist():
        if all(
            conflict(of.request[c], of.start[c], of.request[d], of.start[d], of.prompt, of.output, of.capacity)
            for d in chosen
        ):
            chosen.append(c)
    members = np.concatenate([cycle, np.array(chosen, dtype=np.int64)])
    coefficients = np.concatenate([np.ones(len(cycle), dtype=np.int64), coefficient[chosen]])
    return Cut(members, coefficients, len(cycle) // 2)


@njit(cache=True)
def _coefficients(cycle: Any, request: Any, start: Any, prompt: Any, output: Any, capacity: int) -> Any:
    """Coefficient r - alpha of every start; 0 of those on the cycle."""
    length = len(cycle)
    found = np.zeros(len(request), np.int64)
    free = np.zeros(length, np.bool_)
    for c in range(len(request)):
        first = -1
        on_it = False
        for u in range(length):
            if cycle[u] == c:
                on_it = True
            free[u] = not conflict(request[c], start[c], request[cycle[u]], start[cycle[u]], prompt, output, capacity)
            if not free[u]:
                first = u
        if on_it or first < 0:
            continue
        alpha, run = 0, 0
        for step in range(1, length + 1):
            if free[(first + step) % length]:
                run += 1
            else:
                alpha += (run + 1) // 2
                run = 0
        found[c] = length // 2 - alpha
    return found


@njit(cache=True)
def _shortest(support: Any, request: Any, start: Any, x: Any, prompt: Any, output: Any, capacity: int) -> Any:
    """For each start of the support the shortest odd closed walk through it, padded with -1, and its length."""
    m = len(support)
    edge = np.full((m, m), 2.0)
    for a in range(m):
        for b in range(a):
            u, v = support[a], support[b]
            if conflict(request[u], start[u], request[v], start[v], prompt, output, capacity):
                edge[a, b] = edge[b, a] = max(0.0, 1 - x[u] - x[v]) + 1e-9  # fewest edges among the shortest
    walks = np.full((m, 2 * m + 1), -1)
    lengths = np.full(m, 2.0)
    distance, before, done = np.empty(2 * m), np.empty(2 * m, np.int64), np.empty(2 * m, np.bool_)
    for source in range(m):
        distance[:], before[:], done[:] = 2.0, -1, False
        distance[source] = 0.0
        while True:
            near = -1
            for v in range(2 * m):
                if not done[v] and distance[v] < 1 and (near < 0 or distance[v] < distance[near]):
                    near = v
            if near < 0 or near == source + m:
                break
            done[near] = True
            side = 0 if near >= m else m
            for v in range(m):
                further = distance[near] + edge[near % m, v]
                if further < distance[v + side]:
                    distance[v + side], before[v + side] = further, near
        if distance[source + m] < 1:
            lengths[source] = distance[source + m]
            v, many = before[source + m], 0
            while v >= 0:
                walks[source, many] = v % m
                many, v = many + 1, before[v]
    return walks, lengths
