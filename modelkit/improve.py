"""Clairvoyant improvement: a good schedule of the KV-cache problem in hindsight, from any start.

Simulated annealing over (order, delays): the requests are placed one after the other, each at the
first start, from its arrival plus its delay on, at which it fits beside those already placed.
Orders alone are not complete: a request that starts earlier holds more memory in any given later
round, so its earliest start is not always best. The delays make every schedule reachable.

Unit clock, no slots.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from modelkit.instance import Instance
from modelkit.schedule import Schedule, schedule_from_starts
from modelkit.simulator import clairvoyant_schedule

Ints = npt.NDArray[np.int64]

#: Policies whose hindsight schedules are the candidates to begin with.
SCOUTS = ("svf", "mc-sf", "mc-benchmark")
#: Placed request-rounds that one improvement may cost; about a second.
EFFORT = 5e8


@lru_cache(maxsize=8)
def improved_schedule(instance: Instance, *, seed: int = 0, effort: float = EFFORT) -> Schedule:
    """The best schedule found, no worse than any policy's in hindsight.

    Parameters
    ----------
    seed
        Of the search; the same seed gives the same schedule on every machine.
    effort
        Bound on the work, in request-rounds placed: the search makes ``effort / sum(o)`` trials.

    Raises
    ------
    InfeasibleError
        Some request can never run.
    """
    instance.check_fits()
    arrays = instance.arrays
    candidates = [_starts(instance, clairvoyant_schedule(instance, policy)) for policy in SCOUTS]
    best = min(candidates, key=lambda starts: int(starts.sum()))
    capacity = instance.server.kv_capacity_tokens
    trials = int(min(50_000, effort / int(arrays.output.sum())))
    if capacity is not None and trials >= 100 and (best > arrays.arrival).any():
        horizon = int(max(best.max(), arrays.arrival.max())) + int(arrays.output.sum()) + 2
        best = _anneal(
            best, arrays.arrival, arrays.prompt, arrays.output, capacity, horizon, trials, np.random.default_rng(seed)
        )
    return schedule_from_starts(instance, {r.id: k for r, k in zip(instance.requests, best.tolist(), strict=True)})


def _starts(instance: Instance, schedule: Schedule) -> Ints:
    """Start of each request [round], shape [n]."""
    starts = np.empty(len(instance.requests), dtype=np.int64)
    for segment in schedule.segments:
        for admission in segment.admit:
            starts[instance.index[admission.request]] = segment.at
    return starts


@njit(cache=True)
def _place(
    order: Any, delay: Any, arrival: Any, prompt: Any, output: Any, capacity: int, held: Any, starts: Any
) -> int:
    """Place all requests in this order; ``held`` [rounds] is working space. Returns the sum of starts.

    A start k is possible iff ``held[t] + s + t - k <= M`` for t = k+1 .. k+o; when it fails in round t, no
    start before ``t - (M - held[t] - s)`` is possible. O(sum o + rounds skipped).
    """
    held[:] = 0
    total = 0
    for i in order:
        k = arrival[i] + delay[i]
        s = prompt[i]
        t = k + output[i]
        while t > k:
            room = capacity - held[t] - s
            if t - k > room:
                k = t - max(room, 0)
                t = k + output[i]
            else:
                t -= 1
        starts[i] = k
        total += k
        for t in range(k + 1, k + output[i] + 1):
            held[t] += s + t - k
    return total


@njit(cache=True)
def _anneal(
    first: Any, arrival: Any, prompt: Any, output: Any, capacity: int, horizon: int, trials: int, rng: Any
) -> Any:
    n = len(first)
    held = np.zeros(horizon, dtype=np.int64)
    starts = np.empty(n, dtype=np.int64)
    order = np.argsort(first, kind="mergesort")
    delay = np.zeros(n, dtype=np.int64)
    cost = _place(order, delay, arrival, prompt, output, capacity, held, starts)
    best, best_cost = starts.copy(), cost
    if first.sum() < cost:
        best, best_cost = first.copy(), first.sum()
    waiting = max(1.0, (cost - arrival.sum()) / n)
    hot, cold = 0.3 * waiting, 0.003 * waiting
    for trial in range(trials):
        temperature = hot * (cold / hot) ** (trial / trials)
        i = int(rng.integers(0, n))
        kind = rng.random()
        old_delay = delay[order[i]]
        j = i
        if kind < 0.95:  # move one request to another place, mostly nearby
            reach = max(1, int(n * 0.5 * rng.random() ** 3))
            j = min(n - 1, max(0, i + int(rng.integers(-reach, reach + 1))))
            _shift(order, i, j)
        else:  # delay one request, or give up its delay
            delay[order[i]] = 0 if old_delay > 0 and kind < 0.975 else int(rng.integers(0, 4)) + old_delay
        new = _place(order, delay, arrival, prompt, output, capacity, held, starts)
        if new <= cost or rng.random() < np.exp((cost - new) / temperature):
            cost = new
            if new < best_cost:
                best_cost = new
                best[:] = starts
        else:
            _shift(order, j, i)
            delay[order[i]] = old_delay
    return best


@njit(cache=True)
def _shift(order: Any, i: int, j: int) -> None:
    """Take the entry at i out and put it in at j."""
    moved = order[i]
    if i < j:
        for p in range(i, j):
            order[p] = order[p + 1]
    else:
        for p in range(i, j, -1):
            order[p] = order[p - 1]
    order[j] = moved
