"""Simulated annealing over the releases and ranks of a plan, compiled.

A move changes when some requests are released: one joins the group of a near one, a group is shifted or merged with the
next, one is put off for long or let in sooner; where memory binds, two near requests change ranks. The plan is run from
``state`` to the horizon after each move, about 10 ns an iteration.
Kirkpatrick, Gelatt, Vecchi, Optimization by simulated annealing (Science 1983).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from modelkit.problems.serving.plan_kernel import Costs, Requests, Rule, Scratch, State, copy_state, run_plan
from modelkit.runtime.kernel import kernel

#: How far a request or a group moves: places in the order, and ms.
NEAR, SHIFT, FAR = 12, 2000.0, 20_000.0


@kernel
def anneal(
    requests: Requests, order: Any, release: Any, rank: Any, costs: Costs, rule: Rule, begin: State, state: State,
    scratch: Scratch, horizon: float, pace: float, price: float, first: Any, start: Any, free: int, moves: int,
    temperature: float, current: float, best: float, best_release: Any, best_rank: Any,
) -> tuple[float, float]:  # fmt: skip
    """Try that number of moves at a temperature [ms]; returns the current and best totals.

    ``order``, ``release`` and ``rank`` are the current plan, changed in place; ``best_release`` and ``best_rank`` the
    best. Moves begin with one of the first ``free`` of the order. Seed the random numbers by `seed_generator`.
    """
    m = len(order)
    earliest = np.maximum(requests.arrival, begin.now[0])
    trial = release.copy()
    trial_order = order.copy()
    ranked = rule.batch < m or 0 <= rule.capacity < (requests.prompt + requests.output)[order].sum()
    for _ in range(moves):
        w = np.random.randint(free)
        i = order[w]
        swapped = -1
        kind = np.random.random()
        if ranked and kind < 0.3:
            v = min(m - 1, max(0, w + np.random.randint(-4 * NEAR, 4 * NEAR + 1)))
            swapped = order[v]
            rank[i], rank[swapped] = rank[swapped], rank[i]
        elif kind < 0.5:
            v = min(m - 1, max(0, w + np.random.randint(-NEAR, NEAR + 1)))
            trial[i] = max(earliest[i], release[order[v]])
        elif kind < 0.75:
            reach = SHIFT if np.random.random() < 0.5 else SHIFT / 10
            by = (2 * np.random.random() - 1) * reach
            v = w
            while v >= 0 and release[order[v]] == release[i]:
                trial[order[v]] = max(earliest[order[v]], release[i] + by)
                v -= 1
            v = w + 1
            while v < m and release[order[v]] == release[i]:
                trial[order[v]] = max(earliest[order[v]], release[i] + by)
                v += 1
        elif kind < 0.85:
            v = w
            while v < m and release[order[v]] == release[i]:
                v += 1
            if v == m:
                continue
            later = release[order[v]]
            v -= 1
            while v >= 0 and release[order[v]] == release[i]:
                trial[order[v]] = later
                v -= 1
        elif kind < 0.92:
            until = release[i] + FAR * np.random.random()
            v = w
            while v < m - 1 and release[order[v]] < until:
                v += 1
            trial[i] = max(earliest[i], release[order[v]])
        else:
            trial[i] = earliest[i] + np.random.random() * max(0.0, release[i] - earliest[i])
        sort_nearly_sorted(trial_order, trial)
        copy_state(begin, state)
        value = run_plan(
            requests, trial_order, trial, rank, costs, rule, state, scratch, horizon, pace, price, first, start
        )
        if value <= current or np.random.random() < math.exp((current - value) / temperature):
            current = value
            release[order] = trial[order]
            order[:] = trial_order
            if value < best:
                best = value
                best_release[order] = release[order]
                best_rank[order] = rank[order]
        else:
            trial[order] = release[order]
            trial_order[:] = order
            if swapped >= 0:
                rank[i], rank[swapped] = rank[swapped], rank[i]
    return current, best


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
