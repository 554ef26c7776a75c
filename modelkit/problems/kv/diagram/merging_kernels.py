"""Compiled kernels of the decision diagram: which states of a layer dominate others, are alike, and are merged."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from modelkit.problems.kv.diagram.kernels import FNV, MIX, States
from modelkit.runtime.kernel import kernel


class Likeness(NamedTuple):
    """How states are grouped: those first in order stand ``alone``, and the groups are at most ``most``.

    The others are alike by memory in units of ``grain`` (0: whatever it is) and by the requests in ``bits``.
    """

    alone: int
    most: int
    grain: int
    bits: Any


@kernel
def dominate(profile: Any, started: Any, coarse: Any, order: Any, most: int, into: Any) -> None:
    """``into[e]``: a state that costs no more than e and holds no more in any round; e when none is found.

    ``order`` sorts the states by the requests started, then by coarse node, then by cost; each is compared with at most
    ``most`` of those that stay, of the same coarse node and with the same requests started.
    """
    width = profile.shape[1]
    kept = np.empty(len(order), np.int64)
    last = np.empty(len(order), np.int64)
    volume = np.empty(len(order), np.int64)
    many = 0
    before = np.int64(-1)
    for e in order:
        if before >= 0 and (started[e] != started[before] or coarse[e] != coarse[before]):
            many = 0
        before = e
        into[e] = e
        end = width
        while end > 0 and profile[e, end - 1] == 0:
            end -= 1
        total = 0
        for t in range(end):
            total += profile[e, t]
        for c in range(min(many, most)):
            if last[c] > end or volume[c] > total:
                continue
            d = kept[c]
            less = True
            for t in range(last[c]):
                if profile[d, t] > profile[e, t]:
                    less = False
                    break
            if less:
                into[e] = d
                # what was of use is tried sooner
                h = c // 2
                kept[c], kept[h] = kept[h], kept[c]
                last[c], last[h] = last[h], last[c]
                volume[c], volume[h] = volume[h], volume[c]
                break
        if into[e] == e:
            kept[many], last[many], volume[many] = e, end, total
            many += 1


@kernel
def group(state: States, order: Any, alike: Likeness, into: Any, table: Any, chain: Any) -> Any:
    """``into[e]``: the first state of e's group; returns the number of groups, or -1 when they are too many.

    States share a group when they stand for the same coarse node and are alike.
    """
    profile, started, _, coarse, _ = state
    alone, most, grain, bits = alike
    width = profile.shape[1]
    table[:] = -1
    groups = 0
    for position in range(len(order)):
        e = order[position]
        into[e] = e
        d = np.int64(-1)
        slot = np.int64(0)
        if position >= alone:
            x = (np.uint64(coarse[e] + 1) * MIX) ^ ((started[e] & bits) * FNV)
            if grain:
                for t in range(width - 1):
                    x = (x ^ np.uint64(profile[e, t] // grain)) * FNV
            x ^= x >> np.uint64(29)
            slot = np.int64(x & np.uint64(len(table) - 1))
            d = table[slot]
            while d >= 0:
                same = coarse[d] == coarse[e] and (started[d] & bits) == (started[e] & bits)
                if grain:
                    for t in range(width - 1):
                        if not same:
                            break
                        same = profile[d, t] // grain == profile[e, t] // grain
                if same:
                    break
                d = chain[d]
        if d >= 0:
            into[e] = d
            continue
        groups += 1
        if groups > most:
            return -1
        if position >= alone:
            chain[e] = table[slot]
            table[slot] = e
    return groups


@kernel
def merge(profile: Any, all_started: Any, some_started: Any, costs: Any, into: Any) -> None:
    """Let the first state of each group stand for all: it holds as little and costs as little as any of them."""
    for e in range(len(into)):
        d = into[e]
        if d != e:
            for t in range(profile.shape[1]):
                profile[d, t] = min(profile[d, t], profile[e, t])
            all_started[d] &= all_started[e]
            some_started[d] |= some_started[e]
            costs[d] = min(costs[d], costs[e])
