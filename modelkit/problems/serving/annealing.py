"""Simulated annealing over the releases and ranks of a plan, compiled.

A move changes when some requests are released: one joins the group of a near one, is put off for long or let in sooner;
two change groups; a group waits for the next, begins at another time, or does so for those who are there already; where
memory or the batch binds, two near requests change ranks. Moves are made in blocks, each close behind a state that has
been run to once, and the plan is run from there to the horizon after each. Good groups begin right after somebody
arrives, so those that start together are released when the last of them arrives.
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
    Setting,
    State,
    Workspace,
    copy_state,
    run_plan,
)
from modelkit.runtime.kernel import kernel

#: How far a request or a group moves: places in the order, and ms.
NEAR, SHIFT, FAR = 12, 200.0, 20_000.0
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
                gather(requests.arrival, settled, trial, space.admitted, costs.decode_base / 2, rule.gated_from)
        w = np.random.randint(near)
        i = block[w]
        swapped = -1
        kind = np.random.random()
        if ranked and kind < 0.3:
            v = min(m - 1, max(0, w + np.random.randint(-4 * NEAR, 4 * NEAR + 1)))
            swapped = block[v]
            rank[i], rank[swapped] = rank[swapped], rank[i]
        elif kind < 0.45:  # join the group of a near one
            v = min(m - 1, max(0, w + np.random.randint(-NEAR, NEAR + 1)))
            trial[i] = max(earliest[i], release[block[v]])
        elif kind < 0.6:  # change groups with one
            v = min(m - 1, max(0, w + np.random.randint(-4 * NEAR, 4 * NEAR + 1)))
            j = block[v]
            trial[i], trial[j] = max(earliest[i], release[j]), max(earliest[j], release[i])
        elif kind < 0.75:  # a group begins when another one arrives, or a little earlier or later
            v = min(m - 1, max(0, w + np.random.randint(-NEAR, NEAR + 1)))
            moment = requests.arrival[block[v]]
            if np.random.random() < 0.5:
                moment = release[i] + (2 * np.random.random() - 1) * SHIFT
            low, high = group_of(block[:m], release, w)
            for v in range(low, high):
                trial[block[v]] = max(earliest[block[v]], moment)
        elif kind < 0.8:  # a group waits for the next
            low, high = group_of(block[:m], release, w)
            for v in range(low, high):
                trial[block[v]] = release[block[min(high, m - 1)]]
        elif kind < 0.85:  # those of a group that are there when one of it arrives do not wait for the others
            moment = max(earliest[i], requests.arrival[i])
            low, high = group_of(block[:m], release, w)
            for v in range(low, high):
                if requests.arrival[block[v]] <= moment:
                    trial[block[v]] = moment
        else:  # one is put off for long, or let in much sooner
            moment = release[i] + FAR * np.random.random()
            if kind < 0.93:
                moment = earliest[i] + np.random.random() * max(0.0, release[i] - earliest[i])
            v = w
            while v < m - 1 and release[block[v]] < moment:
                v += 1
            while v > 0 and release[block[v - 1]] >= moment:
                v -= 1
            trial[i] = max(earliest[i], release[block[v]])
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
