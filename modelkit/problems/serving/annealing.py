"""Simulated annealing over the releases and ranks of a plan, compiled.

A move changes when some requests are released (`propose`); where memory or the batch binds, it may change the ranks of
two near ones. Moves are made in blocks, each close behind a state that has been run to once, and the plan is run from
there to the horizon after each. Good groups begin right after somebody arrives, so those that start together are
released when the last of them arrives.
Kirkpatrick, Gelatt, Vecchi, Optimization by simulated annealing (Science 1983).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from modelkit.problems.serving.plan_kernel import (
    Admitted,
    Horizon,
    Releases,
    Requests,
    Setting,
    State,
    Workspace,
    copy_state,
    run_plan,
    shortest_iteration,
)
from modelkit.runtime.kernel import kernel

#: How far a request or a group moves: places in the order, and ms; groups that slide together, at most.
NEAR, FARTHER, SHIFT, FAR, SLIDING = 12, 48, 200.0, 20_000.0, 6
#: Share of moves that change ranks, where these matter.
RANKED = 0.3
#: Moves from one state that has been run to.
BLOCK = 100


class Walk(NamedTuple):
    """A number of moves at a temperature [ms], each from one of the first ``free`` of the order.

    ``begin`` is the state that plans are run from; ``current`` and ``best`` are the totals so far [ms].
    """

    begin: State
    free: int
    moves: int
    temperature: float
    current: float
    best: float


@kernel
def anneal(
    setting: Setting, plan: Releases, space: Workspace, until: Horizon, walk: Walk, kept: Releases
) -> tuple[float, float]:
    """Walk from the current plan, which is changed in place; ``kept`` is the best. Returns their totals.

    Seed the random numbers by `seed_generator`.
    """
    requests, costs, rule = setting
    order, release, rank = plan
    state, scratch, (first, _) = space
    horizon, pace, price = until
    begin, free, moves, temperature, current, best = walk
    trial = release.copy()
    earliest = np.empty_like(release)
    block, trial_block = order.copy(), order.copy()
    of_block, near, m = 0.0, 0, 0
    reached = State(
        np.empty_like(begin.ending), np.empty_like(begin.ending), np.empty_like(begin.now), np.empty_like(begin.sums)
    )
    before = shortest_iteration(costs) / 2
    tight = 0 <= rule.capacity < (requests.prompt + requests.output)[order].sum()
    ranked = tight or rule.batch < len(order)
    for move in range(moves):
        if move % BLOCK == 0:
            sort_nearly_sorted(order, release)
            w = max(0, np.random.randint(-NEAR, free))
            for i in order:
                first[i] = -1
            copy_state(begin, reached)
            soon = Horizon(min(horizon, release[order[w]]), pace, price)
            run_plan(setting, plan, Workspace(reached, scratch, space.admitted), soon)
            near, m = 0, 0
            for w in range(len(order)):
                i = order[w]
                if first[i] < 0:
                    block[m] = i
                    earliest[i] = max(requests.arrival[i], reached.now[0])
                    m += 1
                    near += w < free
            near = min(near, 2 * NEAR)
            trial_block[:m] = block[:m]
            copy_state(reached, state)
            settled = Releases(block[:m], release, rank)
            of_block = run_plan(setting, settled, space, until)
            if not tight:
                gather(requests.arrival, settled, trial, space.admitted, before, rule.gated_from)
        w = np.random.randint(near)
        i = block[w]
        swapped = -1
        if ranked and np.random.random() < RANKED:
            v = near_place(w, FARTHER, m)
            swapped = block[v]
            rank[i], rank[swapped] = rank[swapped], rank[i]
        else:
            propose(requests, Releases(block[:m], release, rank), earliest, w, trial)
        sort_nearly_sorted(trial_block[:m], trial)
        copy_state(reached, state)
        value = run_plan(setting, Releases(trial_block[:m], trial, rank), space, until)
        if value <= of_block or np.random.random() < math.exp((of_block - value) / temperature):
            current += value - of_block
            of_block = value
            for v in range(m):
                i = trial_block[v]
                block[v] = i
                release[i] = trial[i]
            if current < best:
                best = current
                kept.release[order] = release[order]
                kept.rank[order] = rank[order]
        else:
            for v in range(m):
                trial[block[v]] = release[block[v]]
                trial_block[v] = block[v]
            if swapped >= 0:
                rank[i], rank[swapped] = rank[swapped], rank[i]
    sort_nearly_sorted(order, release)
    return current, best


@kernel
def propose(requests: Requests, plan: Releases, earliest: Any, w: int, trial: Any) -> None:
    """Change ``trial``, a copy of the releases, for some of the plan's requests; the one at place ``w`` is among them.

    It joins the group of a near one, or changes groups with one; its group begins at another time, waits for the next,
    or begins when it is there; it is let in sooner or put off for long; those of its group whose outputs are longer, or
    shorter, leave it; or it and some groups that follow each gain the first of the next one, or lose their last.
    """
    order, release, _ = plan
    m, i = len(order), order[w]
    low, high = group_of(order, release, w)
    kind = np.random.random()
    if kind < 0.15:
        v = near_place(w, NEAR, m)
        trial[i] = max(earliest[i], release[order[v]])
    elif kind < 0.37:
        v = near_place(w, FARTHER, m) if kind < 0.3 else np.random.randint(m)
        j = order[v]
        trial[i], trial[j] = max(earliest[i], release[j]), max(earliest[j], release[i])
    elif kind < 0.52:
        moment = requests.arrival[order[near_place(w, NEAR, m)]]
        if np.random.random() < 0.5:
            moment = release[i] + (2 * np.random.random() - 1) * SHIFT
        for v in range(low, high):
            trial[order[v]] = max(earliest[order[v]], moment)
    elif kind < 0.57:
        for v in range(low, high):
            trial[order[v]] = release[order[min(high, m - 1)]]
    elif kind < 0.62:
        for v in range(low, high):
            if requests.arrival[order[v]] <= earliest[i]:
                trial[order[v]] = earliest[i]
    elif kind < 0.79:
        moment = release[i] + FAR * np.random.random()
        if kind < 0.7:
            moment = earliest[i] + np.random.random() * max(0.0, release[i] - earliest[i])
        v = w
        while v < m - 1 and release[order[v]] < moment:
            v += 1
        while v > 0 and release[order[v - 1]] >= moment:
            v -= 1
        trial[i] = max(earliest[i], release[order[v]])
    elif kind < 0.86:
        moment = release[order[np.random.randint(m)]]
        if np.random.random() < 0.5:
            moment = release[i] + (np.random.random() - 0.5) * FAR / 2
        longer = np.random.random() < 0.5
        for v in range(low, high):
            if (requests.output[order[v]] >= requests.output[i]) == longer:
                trial[order[v]] = max(earliest[order[v]], moment)
    else:
        gaining = kind < 0.93
        for _ in range(1 + np.random.randint(SLIDING)):
            if high == m:
                break
            after = group_of(order, release, high)
            if gaining:
                gain_first(requests.arrival, order, release, earliest, (low, *after), trial)
            else:
                lose_last(requests.arrival, order, release, earliest, (low, high), trial)
            low, high = after


@kernel
def gain_first(arrival: Any, order: Any, release: Any, earliest: Any, places: tuple[int, int, int], trial: Any) -> None:
    """Let a group wait for the first arrival of the next one that it does not wait for yet; see `propose`.

    The group begins and the next one begins and ends at the ``places``.
    """
    low, high, end = places
    gained = -1
    for k in order[high:end]:
        if arrival[k] > release[order[low]] and (gained < 0 or arrival[k] < arrival[gained]):
            gained = k
    if gained < 0:
        return
    for k in order[low:high]:
        if trial[k] == release[k]:
            trial[k] = max(earliest[k], arrival[gained])
    trial[gained] = max(earliest[gained], arrival[gained])


@kernel
def lose_last(arrival: Any, order: Any, release: Any, earliest: Any, places: tuple[int, int], trial: Any) -> None:
    """Let the last arrived of a group, which begins and ends at the ``places``, go to the next one; see `propose`."""
    low, high = places
    if high - low < 2:
        return
    lost, last = order[low], -np.inf
    for k in order[low + 1 : high]:
        if arrival[k] > arrival[lost]:
            lost = k
    for k in order[low:high]:
        if k != lost:
            last = max(last, arrival[k])
    for k in order[low:high]:
        trial[k] = max(earliest[k], last)
    trial[lost] = release[order[high]]


@kernel
def near_place(place: int, far: int, size: int) -> int:
    """A place at most so far from one."""
    return min(size - 1, max(0, place + np.random.randint(-far, far + 1)))


@kernel
def gather(arrival: Any, plan: Releases, trial: Any, admitted: Admitted, before: float, until: float) -> None:
    """Release those together that have started together, when the last arrives or so long before they start.

    Nobody starts at another time, as the iteration before lasts longer. Only those that start before ``until``.
    """
    order, release, _ = plan
    first, start = admitted
    low = 0
    while low < len(order) and first[order[low]] >= 0 and start[order[low]] < until:
        high, arrived, released, at = low, 0.0, 0.0, start[order[low]]
        while high < len(order) and first[order[high]] == first[order[low]]:
            arrived = max(arrived, arrival[order[high]])
            released = max(released, release[order[high]])
            high += 1
        if released < at:
            released = max(arrived, min(released, at - before))
        for v in range(low, high):
            release[order[v]] = trial[order[v]] = released
        low = high


@kernel
def group_of(order: Any, release: Any, place: int) -> tuple[int, int]:
    """Where those begin and end in an order by release that are released together with the one at a place."""
    low, high, at = place, place + 1, release[order[place]]
    while low > 0 and release[order[low - 1]] == at:
        low -= 1
    while high < len(order) and release[order[high]] == at:
        high += 1
    return low, high


@kernel
def sort_nearly_sorted(order: Any, key: Any) -> None:
    """Sort positions by key, in place. O(m + inversions)."""
    for w in range(1, len(order)):
        i = order[w]
        v = w
        while v > 0 and key[order[v - 1]] > key[i]:
            order[v] = order[v - 1]
            v -= 1
        order[v] = i


@kernel
def seed_generator(seed: int) -> None:
    """Seed the random numbers of compiled code, which have a state of their own in each thread."""
    np.random.seed(seed)
