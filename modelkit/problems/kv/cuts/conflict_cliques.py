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
    members, begin = _grown(of, x, violation, most, turn)
    return [ones(members[a:b]) for a, b in pairwise(begin)]


@kernel
def conflict(a: int, b: int, of: Candidates) -> bool:
    """Whether no schedule has the starts of columns a and b."""
    i, k, j, l = of.request[a], of.start[a], of.request[b], of.start[b]  # noqa: E741
    if i == j:
        return True
    end = min(k + of.output[i], l + of.output[j])
    if end <= k or end <= l:
        return False
    return bool(of.prompt[i] + end - k + of.prompt[j] + end - l > of.capacity)


@kernel
def _grown(of: Candidates, x: Any, violation: float, most: int, turn: int) -> Any:
    """Cliques that a fractional solution violates: grown greedily by the weight of the common neighbourhood.

    Each is then extended by all starts that conflict with every member, from the start ``turn`` on. Returns members and
    where those of each clique begin.
    """
    columns = len(of.request)
    support = np.flatnonzero(x > 1e-7)
    m = len(support)
    weight = x[support]
    meets = np.zeros((m, m), np.bool_)
    for a in range(m):
        for b in range(a):
            meets[a, b] = meets[b, a] = conflict(support[a], support[b], of)
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
                if not conflict(c, v, of):
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
