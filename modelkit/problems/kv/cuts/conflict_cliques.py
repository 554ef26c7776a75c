"""Conflict cliques: of starts that pairwise exceed the memory, a schedule has at most one.

*Conflict.* Two starts (i, k) and (j, l) of different requests conflict when both are active in the round e of the first
of their two ends and ``s_i + e - k + s_j + e - l > M``. Proof that no schedule has both: held memory grows while a
request runs, so e is the round in which they hold most together, and there they hold more than M. Two starts of one
request conflict because it starts once.

*Clique.* Of pairwise conflicting starts a schedule has at most one: ``sum x <= 1``. The peak cliques of one round with
q = 1 are among them: of any two members, the one that ends first holds its peak >= p in its last round and the
other more than M - p.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from modelkit.problems.kv.cuts.rows import Candidates, Cut, Floats, ones
from modelkit.runtime.kernel import kernel


def conflict_cliques(of: Candidates, x: Floats, violation: float, most: int, turn: int = 0) -> list[Cut]:
    """Cliques grown greedily on the support: O(m^2) a clique with m starts in it."""
    members, begin = _grown(of.request, of.start, x, of.prompt, of.output, of.capacity, violation, most, turn)
    return [ones(members[a:b]) for a, b in pairwise(begin)]


@kernel
def conflict(i: int, k: int, j: int, l: int, prompt: Any, output: Any, capacity: int) -> bool:  # noqa: E741
    """Whether no schedule starts i at k and j at l."""
    if i == j:
        return True
    end = min(k + output[i], l + output[j])
    if end <= k or end <= l:
        return False
    return bool(prompt[i] + end - k + prompt[j] + end - l > capacity)


@kernel
def _grown(
    request: Any, start: Any, x: Any, prompt: Any, output: Any, capacity: int, violation: float, most: int, turn: int
) -> Any:
    """Cliques that a fractional solution violates: grown greedily by the weight of the common neighbourhood.

    Each is then extended by all starts that conflict with every member, from the start ``turn`` on. Returns members and
    where those of each clique begin.
    """
    columns = len(request)
    support = np.flatnonzero(x > 1e-7)
    m = len(support)
    weight = x[support]
    meets = np.zeros((m, m), np.bool_)
    for a in range(m):
        for b in range(a):
            meets[a, b] = meets[b, a] = conflict(
                request[support[a]], start[support[a]], request[support[b]], start[support[b]], prompt, output, capacity
            )
    members = [np.int64(0) for _ in range(0)]
    begin = [0]
    used = np.zeros(m, np.int64)
    for seed in np.argsort(-weight):
        if used[seed] >= 2:
            continue
        common = meets[seed].copy()
        clique = [seed]
        total = weight[seed]
        while True:
            best, most_weight = -1, -1.0
            for v in range(m):
                if common[v]:
                    worth = weight[v]
                    for u in range(m):
                        if common[u] and meets[v, u]:
                            worth += weight[u]
                    if worth > most_weight:
                        best, most_weight = v, worth
            if best < 0:
                break
            clique.append(best)
            total += weight[best]
            common &= meets[best]
        if total <= 1 + violation:
            continue
        whole = [support[v] for v in clique]
        inside = np.zeros(columns, np.bool_)
        for v in clique:
            used[v] += 1
            inside[support[v]] = True
        for step in range(columns):
            c = (step + turn) % columns
            if inside[c]:
                continue
            fits = True
            for v in whole:
                if not conflict(request[c], start[c], request[v], start[v], prompt, output, capacity):
                    fits = False
                    break
            if fits:
                whole.append(c)
                inside[c] = True
        members.extend(whole)
        begin.append(len(members))
        if len(begin) > most:
            break
    return np.array(members), np.array(begin)
