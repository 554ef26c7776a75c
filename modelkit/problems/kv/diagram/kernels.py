"""Compiled kernels of the decision diagram: making a layer from the one before, domination, merging.

All values are exact: costs are 64-bit integers in units of 1 / ``SCALE`` rounds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from modelkit.runtime.kernel import kernel

#: No value: no schedule, no path.
NEVER = 1 << 60

_ONE = np.uint64(1)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_FNV = np.uint64(1099511628211)


class States(NamedTuple):
    """States of a layer: tokens held in each round to come, sets of requests as bits, and two values of each.

    ``all_started`` is what every way to a state has started, ``some_started`` what some way has; ``coarse`` is the node
    of an older diagram that it lies in.
    """

    profile: Any
    all_started: Any
    some_started: Any
    coarse: Any
    costs: Any
    bounds: Any


class NextLayer(NamedTuple):
    """What a layer is made in: the states of the next, found by hash, and the arcs that lead there."""

    states: States
    table: Any
    chain: Any
    first: Any
    arc_to: Any
    arc_set: Any


class Sets(NamedTuple):
    """Sets of requests that start together, as bits, found by hash."""

    masks: Any
    table: Any


class Requests(NamedTuple):
    """Arrays of `Reversed`, and the capacity."""

    capacity: int
    load: Any
    output: Any
    twin: Any
    reduced: Any


class Older(NamedTuple):
    """An older diagram, with the costs of its sets and of the ways from its nodes."""

    sets: Any
    first: Any
    arc_to: Any
    arc_set: Any
    set_cost: Any
    to_go: Any


@kernel
def _place(
    held: Any, begin: int, started: Any, maybe: Any, coarse: int, value: int, bound: int, layer: NextLayer, count: int
) -> Any:  # fmt: skip
    """Index of the state with this profile, mask and coarse node in the next layer; -1 when there is no room."""
    profile, all_started, some_started, coarse_node, values, bounds = layer.states
    table, chain = layer.table, layer.chain
    width = profile.shape[1]
    x = (started * _MIX) ^ (np.uint64(coarse) * _FNV)
    for t in range(width - 1):
        x = (x ^ np.uint64(held[begin + t])) * _FNV
    x ^= x >> np.uint64(29)
    slot = np.int64(x & np.uint64(len(table) - 1))
    e = table[slot]
    while e >= 0:
        same = all_started[e] == started and some_started[e] == maybe and coarse_node[e] == coarse
        if same:
            for t in range(width - 1):
                if profile[e, t] != held[begin + t]:
                    same = False
                    break
        if same:
            values[e] = min(values[e], value)
            bounds[e] = min(bounds[e], bound)
            return np.int64(e)
        e = chain[e]
    if count >= len(values):
        return -1
    for t in range(width - 1):
        profile[count, t] = held[begin + t]
    profile[count, width - 1] = 0
    all_started[count], some_started[count], coarse_node[count] = started, maybe, coarse
    values[count], bounds[count] = value, bound
    chain[count] = table[slot]
    table[slot] = count
    return count


@kernel
def _set_number(mask: Any, sets: Sets, known: int) -> Any:
    """Number of a set of requests, which is added when it is new; -1 when there is no room."""
    x = mask * _MIX
    x ^= x >> np.uint64(31)
    slot = np.int64(x & np.uint64(len(sets.table) - 1))
    while sets.table[slot] >= 0:
        if sets.masks[sets.table[slot]] == mask:
            return np.int64(sets.table[slot])
        slot = (slot + 1) % len(sets.table)
    if known >= len(sets.masks):
        return -1
    sets.masks[known] = mask
    sets.table[slot] = known
    return known


@kernel
def expand(
    k: int, requests: Requests, pure: Any, unit: int, price: int, limit: int, state: States, count: int,
    layer: NextLayer, sets: Sets, known: int,
) -> tuple[int, int, int]:  # fmt: skip
    """The layer of round k + 1 from that of round k, by all sets of requests that may start at k.

    The value of a state is the bound ``L + reduced costs + price of the memory not used`` of the best way to
    it; what exceeds ``limit`` is left out.

    Returns
    -------
    Numbers of new states (-1: no room), arcs (-1: no room) and sets.
    """
    capacity, load, output, _, reduced = requests
    _, _, _, first, arc_to, arc_set = layer
    n = len(output)
    profile, _, _, _, costs, values = state
    width = profile.shape[1]
    held = np.zeros((n + 1, width), np.int64)
    bound = np.zeros(n + 1, np.int64)
    cost = np.zeros(n + 1, np.int64)
    member = np.zeros(n + 1, np.int64)
    fresh, arcs = 0, 0
    for node in range(count):
        first[node] = arcs
        for t in range(width):
            held[0, t] = profile[node, t]
        bound[0], cost[0] = values[node], costs[node]
        depth = 0
        mask = np.uint64(0)
        i = 0
        while True:
            value = bound[depth] + price * (capacity - held[depth, 0])
            if value <= limit:
                new = _place(held[depth], 1, np.uint64(0), np.uint64(0), 0, cost[depth], value, layer, fresh)
                number = _set_number(mask, sets, known)
                if new < 0 or number < 0:
                    return -1, arcs, known
                if arcs >= len(arc_to):
                    return fresh, -1, known
                fresh = max(fresh, new + 1)
                known = max(known, number + 1)
                arc_to[arcs], arc_set[arcs] = new, number
                arcs += 1
            # the next set: the members are in ascending order
            grown = False
            while True:
                while i < n:
                    if reduced[i, k] < NEVER and bound[depth] + reduced[i, k] <= limit:
                        fits = True
                        for j in range(output[i]):
                            if held[depth, j] + load[i, j] > capacity:
                                fits = False
                                break
                        if fits:
                            break
                    i += 1
                if i < n:
                    held[depth + 1] = held[depth]
                    for j in range(output[i]):
                        held[depth + 1, j] += load[i, j]
                    bound[depth + 1] = bound[depth] + reduced[i, k]
                    cost[depth + 1] = cost[depth] + pure[i] + k * unit
                    depth += 1
                    member[depth] = i
                    mask |= _ONE << np.uint64(i)
                    i += 1
                    grown = True
                    break
                if depth == 0:
                    break
                mask &= ~(_ONE << np.uint64(member[depth]))
                i = member[depth] + 1
                depth -= 1
            if not grown:
                break
    first[count] = arcs
    return fresh, arcs, known


@kernel
def refine(
    k: int, requests: Requests, tail: Any, older: Older, price: int, limit: int, remembered: Any, state: States,
    count: int, layer: NextLayer,
) -> tuple[int, int]:  # fmt: skip
    """The layer of round k + 1 from that of round k, by the arcs that an older diagram has left.

    A state stands for one node of the older diagram. Its value is the cost of the best way to it; what exceeds
    ``limit`` together with the older diagram's cost to go is left out, and so is what does not fit, or starts a
    request of ``remembered`` twice, or one before its twin with a smaller number.

    Returns
    -------
    Numbers of new states (-1: no room) and arcs (-1: no room).
    """
    capacity, load, output, twin, reduced = requests
    sets, old_first, old_arc_to, old_arc_set, set_cost, to_go = older
    _, _, _, first, arc_to, arc_set = layer
    profile, all_started, some_started, coarse_node, values, bounds = state
    width = profile.shape[1]
    n = len(output)
    held = np.zeros(width, np.int64)
    fresh, arcs = 0, 0
    for node in range(count):
        first[node] = arcs
        old = coarse_node[node]
        for a in range(old_first[old], old_first[old + 1]):
            target, number = old_arc_to[a], old_arc_set[a]
            value = values[node] + set_cost[number, 0] + k * set_cost[number, 1]
            if to_go[target] >= NEVER or value + to_go[target] > limit:
                continue
            mask = sets[number]
            if mask & all_started[node]:
                continue
            some = some_started[node] | (mask & remembered)
            bound = bounds[node] + price * (capacity - profile[node, 0])
            to_come = 0
            in_order = True
            for i in range(n):
                bit = _ONE << np.uint64(i)
                if mask & bit:
                    bound += reduced[i, k] - price * load[i, 0]
                    if twin[i] >= 0:
                        other = _ONE << np.uint64(twin[i])
                        in_order = in_order and (not remembered & other or bool(some & other))
                elif remembered & bit and not some & bit:
                    to_come += tail[i, k + 1]
            if not in_order or bound + to_come > limit:
                continue
            for t in range(width):
                held[t] = profile[node, t]
            fits = True
            for i in range(n):
                if fits and (mask >> np.uint64(i)) & _ONE:
                    for j in range(output[i]):
                        held[j] += load[i, j]
                        if held[j] > capacity:
                            fits = False
                            break
            if not fits:
                continue
            new = _place(held, 1, all_started[node] | (mask & remembered), some, target, value, bound, layer, fresh)
            if new < 0:
                return -1, arcs
            if arcs >= len(arc_to):
                return fresh, -1
            fresh = max(fresh, new + 1)
            arc_to[arcs], arc_set[arcs] = new, number
            arcs += 1
    first[count] = arcs
    return fresh, arcs


@kernel
def paid(profile: Any, prices: Any, count: int, out: Any) -> None:
    """What the memory costs that each state holds already."""
    for e in range(count):
        out[e] = 0
        for t in range(profile.shape[1]):
            out[e] += profile[e, t] * prices[t]


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
def group(
    profile: Any, started: Any, coarse: Any, order: Any, alone: int, most: int, grain: int, bits: Any, into: Any,
    table: Any, chain: Any,
) -> Any:  # fmt: skip
    """``into[e]``: the first state of e's group; returns the number of groups, or -1 when they are more than ``most``.

    The first ``alone`` of ``order`` are groups of their own. The others share one when they stand for the same
    coarse node, of the requests in ``bits`` the same have started, and the memory is the same in units of ``grain``
    (0: whatever it is).
    """
    width = profile.shape[1]
    table[:] = -1
    groups = 0
    for position in range(len(order)):
        e = order[position]
        into[e] = e
        d = np.int64(-1)
        slot = np.int64(0)
        if position >= alone:
            x = (np.uint64(coarse[e] + 1) * _MIX) ^ ((started[e] & bits) * _FNV)
            if grain:
                for t in range(width - 1):
                    x = (x ^ np.uint64(profile[e, t] // grain)) * _FNV
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
def merge(profile: Any, all_started: Any, some_started: Any, costs: Any, unpaid: Any, into: Any) -> None:
    """Let the first state of each group stand for all: it holds as little and costs as little as any of them."""
    for e in range(len(into)):
        d = into[e]
        if d != e:
            for t in range(profile.shape[1]):
                profile[d, t] = min(profile[d, t], profile[e, t])
            all_started[d] &= all_started[e]
            some_started[d] |= some_started[e]
            costs[d] = min(costs[d], costs[e])
            unpaid[d] = min(unpaid[d], unpaid[e])
