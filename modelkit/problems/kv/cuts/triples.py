"""Triples: of starts of which any three exceed the memory, a schedule has at most two.

Three starts of different requests *exceed* when two of them conflict (`.conflict_cliques`) or when all are
active in the round e of the first of their three ends and hold more than M together there. No schedule has all three:
it has no conflict, and in e it would hold too much. (The converse holds too: while all three are active the memory they
hold grows, and two that do not conflict fit whenever they are alone.) Of three starts of which two are of one request,
a schedule has at most two because a request starts once.

So if any three starts of a set S exceed, or share a request, ``sum_S x <= 2``: a cover inequality of three members,
extended and lifted at once by everything that exceeds with every pair of members. The peak cliques with q = 2 are
among these.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from modelkit.problems.kv.cuts.conflict_cliques import conflict
from modelkit.problems.kv.cuts.rows import Candidates, Cut, Floats, ones
from modelkit.runtime.kernel import kernel

#: Smallest value of a start that a row is grown from.
SMALL = 1e-4


class _Held(NamedTuple):
    """Rounds of the starts of a support, and what they hold there: ``level + t`` in round t of ``capacity``."""

    begin: Any
    end: Any
    level: Any
    capacity: int


def triples(of: Candidates, x: Floats, violation: float, most: int, turn: int = 0) -> list[Cut]:
    """Sets grown greedily on the support from each start of it: O(m^3) with m starts in it."""
    support = np.flatnonzero(x > SMALL)
    members, begin = _grown(of, support, x, violation, most, turn)
    return [ones(members[a:b], 2) for a, b in pairwise(begin)]


@kernel
def exceed(a: int, b: int, c: int, of: Candidates) -> bool:
    """Whether no schedule has the starts of columns a, b and c."""
    if conflict(a, b, of) or conflict(a, c, of) or conflict(b, c, of):
        return True
    prompt, output = of.prompt, of.output
    i, j, h = of.request[a], of.request[b], of.request[c]
    k, l, m = of.start[a], of.start[b], of.start[c]  # noqa: E741
    end = min(k + output[i], l + output[j], m + output[h])
    if end <= max(k, l, m):
        return False
    return bool(prompt[i] + prompt[j] + prompt[h] + 3 * end - k - l - m > of.capacity)


@kernel
def _grown(of: Candidates, support: Any, x: Any, violation: float, most: int, turn: int) -> Any:
    columns, m = len(of.request), len(support)
    starts, who = of.start[support], of.request[support]
    held = _Held(starts, starts + of.output[who], of.prompt[who] - starts, of.capacity)
    k, end = held.begin, held.end
    weight = x[support]
    meets = np.zeros((m, m), np.bool_)
    for a in range(m):
        for b in range(a + 1):
            meets[a, b] = meets[b, a] = conflict(support[a], support[b], of)
    members = [np.int64(0) for _ in range(0)]
    begin = [0]
    used = np.zeros(m, np.bool_)
    order = np.argsort(-weight)
    for a in order:
        if used[a]:
            continue
        best, most_worth = -1, 2.0 + violation
        for b in range(m):  # the second member: the one with the largest weight of all that exceed with both
            if meets[a, b] or min(end[a], end[b]) <= max(k[a], k[b]):
                continue
            worth = weight[a] + weight[b]
            for c in range(m):
                if meets[a, c] or meets[b, c] or _too_much(a, b, c, held):
                    worth += weight[c]
            if worth > most_worth:
                best, most_worth = b, worth
        if best < 0:
            continue
        inner = [a, best]
        free = [(a, best)]  # pairs of members that fit by themselves
        total = weight[a] + weight[best]
        for c in order:
            fits = c != a and c != best
            for d, e in free:
                if not fits:
                    break
                fits = meets[c, d] or meets[c, e] or _too_much(c, d, e, held)
            if fits:
                free.extend([(c, d) for d in inner if not meets[c, d]])
                inner.append(c)
                total += weight[c]
        if total <= 2 + violation:
            continue
        whole = [support[v] for v in inner]
        inside = np.zeros(columns, np.bool_)
        for v in inner:
            inside[support[v]] = True
            used[v] = True
        apart = [(support[d], support[e]) for d, e in free]
        for step in range(columns):
            c = (step + turn) % columns
            fits = not inside[c]
            for d, e in apart:
                if not fits:
                    break
                fits = exceed(c, d, e, of)
            if fits:
                for d in whole:
                    if not conflict(c, d, of):
                        apart.append((c, d))
                whole.append(c)
                inside[c] = True
        members.extend(whole)
        begin.append(len(members))
        if len(begin) > most:
            break
    return np.array(members), np.array(begin)


@kernel
def _too_much(a: int, b: int, c: int, held: _Held) -> bool:
    """Whether three starts of the support are active in the round of the first of their ends and hold too much."""
    k, end, level = held.begin, held.end, held.level
    t = min(end[a], end[b], end[c])
    return bool(t > max(k[a], k[b], k[c]) and level[a] + level[b] + level[c] + 3 * t > held.capacity)
