"""Compiled kernels of the decision diagram: making a layer from the one before.

All values are exact: costs are 64-bit integers in units of 1 / ``SCALE`` rounds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from modelkit.runtime.kernel import kernel

#: No value: no schedule, no path.
NEVER = 1 << 60

_ONE = np.uint64(1)
#: Multipliers of the hashes.
MIX = np.uint64(0x9E3779B97F4A7C15)
FNV = np.uint64(1099511628211)


class States(NamedTuple):
    """States of a layer: tokens held in each round to come, and the cost of the best way to each.

    ``started`` are those of the requests remembered that have started, as bits; ``coarse`` is the node of an older
    diagram, or the state of the partitions, that it lies in.
    """

    profile: Any
    started: Any
    coarse: Any
    costs: Any


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
    """Arrays of `Reversed`, the capacity, and what a start costs: ``fixed`` less multipliers, ``slope`` by round."""

    capacity: int
    load: Any
    output: Any
    twin: Any
    allowed: Any
    fixed: Any
    slope: int


class Round(NamedTuple):
    """The round of a layer, and the cost up to which ways are kept."""

    k: int
    limit: int


class Way(NamedTuple):
    """What leads to a state: see `States`."""

    started: Any
    coarse: int
    cost: int


class Remembered(NamedTuple):
    """Requests of which it is known whether they have started, and those that cannot start later on, as bits."""

    bits: Any
    due: Any


class Coarse(NamedTuple):
    """Partitions that a layer lies in: see `partitions.Partitions`, and the costs to go of the layer and the next."""

    age: Any
    place: Any
    kind: Any
    to_go: Any
    next_to_go: Any


class Older(NamedTuple):
    """An older diagram, with the costs of its sets and of the ways from its nodes."""

    sets: Any
    first: Any
    arc_to: Any
    arc_set: Any
    set_cost: Any
    to_go: Any


@kernel
def _place(held: Any, way: Way, layer: NextLayer, count: int) -> Any:
    """Index in the next layer of the state that holds this, a round later; -1 when there is no room."""
    started, coarse, cost = way
    profile, started_of, coarse_node, costs = layer.states
    table, chain = layer.table, layer.chain
    width = profile.shape[1]
    x = (started * MIX) ^ (np.uint64(coarse) * FNV)
    for t in range(width - 1):
        x = (x ^ np.uint64(held[1 + t])) * FNV
    x ^= x >> np.uint64(29)
    slot = np.int64(x & np.uint64(len(table) - 1))
    e = table[slot]
    while e >= 0:
        same = started_of[e] == started and coarse_node[e] == coarse
        if same:
            for t in range(width - 1):
                if profile[e, t] != held[1 + t]:
                    same = False
                    break
        if same:
            costs[e] = min(costs[e], cost)
            return np.int64(e)
        e = chain[e]
    if count >= len(costs):
        return -1
    for t in range(width - 1):
        profile[count, t] = held[1 + t]
    profile[count, width - 1] = 0
    started_of[count], coarse_node[count], costs[count] = started, coarse, cost
    chain[count] = table[slot]
    table[slot] = count
    return count


@kernel
def _set_number(mask: Any, sets: Sets, known: int) -> Any:
    """Number of a set of requests, which is added when it is new; -1 when there is no room."""
    x = mask * MIX
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
    now: Round, requests: Requests, coarse: Coarse, remembered: Remembered, state: States, layer: NextLayer,
    sets: Sets, known: int,
) -> tuple[int, int, int]:  # fmt: skip
    """The layer of round k + 1 from that of round k, by all sets of requests that may start at k.

    A state stands for one state of the partitions. What costs more than ``limit``, together with the partitions' cost
    to go, is left out, and so is what starts a remembered request twice, or leaves one that is due.

    Returns
    -------
    Numbers of new states (-1: no room), arcs (-1: no room) and sets (-1: no room).
    """
    k, limit = now
    capacity, load, output, _, allowed, fixed, slope = requests
    _, _, _, first, arc_to, arc_set = layer
    n = len(output)
    profile, started, coarse_node, costs = state
    width = profile.shape[1]
    # of each member of a set, in ascending order: tokens held, cost and state of the partitions with it
    held = np.zeros((n + 1, width), np.int64)
    cost = np.zeros(n + 1, np.int64)
    at = np.zeros(n + 1, np.int64)
    member = np.zeros(n + 1, np.int64)
    fresh, arcs, count = 0, 0, len(costs)
    for node in range(count):
        first[node] = arcs
        for t in range(width):
            held[0, t] = profile[node, t]
        cost[0], at[0] = costs[node], coarse_node[node]
        depth = 0
        mask = np.uint64(0)
        i = 0
        while True:
            after = coarse.age[at[depth]]
            with_it = started[node] | (mask & remembered.bits)
            if cost[depth] + coarse.next_to_go[after] <= limit and not remembered.due & ~with_it:
                new = _place(held[depth], Way(with_it, after, cost[depth]), layer, fresh)
                number = _set_number(mask, sets, known)
                if number < 0:
                    return fresh, arcs, -1
                if new < 0:
                    return -1, arcs, known
                if arcs >= len(arc_to):
                    return fresh, -1, known
                fresh = max(fresh, new + 1)
                known = max(known, number + 1)
                arc_to[arcs], arc_set[arcs] = new, number
                arcs += 1
            # the next set
            grown = False
            while True:
                y = np.int64(-1)
                while i < n:
                    if allowed[i, k] and not (started[node] >> np.uint64(i)) & _ONE:
                        y = at[depth] if coarse.kind[i] < 0 else np.int64(coarse.place[at[depth], coarse.kind[i]])
                        if y >= 0 and cost[depth] + fixed[i] + k * slope + coarse.to_go[y] <= limit:
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
                    cost[depth + 1] = cost[depth] + fixed[i] + k * slope
                    at[depth + 1] = y
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
    now: Round, requests: Requests, older: Older, remembered: Any, state: States, layer: NextLayer
) -> tuple[int, int]:
    """The layer of round k + 1 from that of round k, by the arcs that an older diagram has left.

    A state stands for one node of the older diagram. What costs more than ``limit``, together with the older diagram's
    cost to go, is left out, and so is what does not fit, or starts a request that is ``remembered`` (as bits) twice, or
    one before its twin with a smaller number.

    Returns
    -------
    Numbers of new states (-1: no room) and arcs (-1: no room).
    """
    k, limit = now
    capacity, load, output, twin, _, _, _ = requests
    sets, old_first, old_arc_to, old_arc_set, set_cost, to_go = older
    _, _, _, first, arc_to, arc_set = layer
    profile, started, coarse_node, costs = state
    width = profile.shape[1]
    held = np.zeros(width, np.int64)
    fresh, arcs, count = 0, 0, len(costs)
    for node in range(count):
        first[node] = arcs
        old = coarse_node[node]
        for a in range(old_first[old], old_first[old + 1]):
            target, number = old_arc_to[a], old_arc_set[a]
            cost = costs[node] + set_cost[number, 0] + k * set_cost[number, 1]
            if to_go[target] >= NEVER or cost + to_go[target] > limit:
                continue
            mask = sets[number]
            if mask & started[node]:
                continue
            with_it = started[node] | (mask & remembered)
            for t in range(width):
                held[t] = profile[node, t]
            fits = True
            left = mask
            i = 0
            while left and fits:
                if left & _ONE:
                    if twin[i] >= 0:
                        other = _ONE << np.uint64(twin[i])
                        fits = not remembered & other or bool(with_it & other)
                    for j in range(output[i]):
                        held[j] += load[i, j]
                        if held[j] > capacity:
                            fits = False
                            break
                left >>= _ONE
                i += 1
            if not fits:
                continue
            new = _place(held, Way(with_it, target, cost), layer, fresh)
            if new < 0:
                return -1, arcs
            if arcs >= len(arc_to):
                return fresh, -1
            fresh = max(fresh, new + 1)
            arc_to[arcs], arc_set[arcs] = new, number
            arcs += 1
    first[count] = arcs
    return fresh, arcs
