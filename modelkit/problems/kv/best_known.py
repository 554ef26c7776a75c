"""What is known of an instance in hindsight without a solver: a good schedule and prices with a good bound.

A fixed amount of work, the same on every machine. Within a deadline (`modelkit.runtime.deadline`) it may be cut short.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelkit.errors import InterruptedWith
from modelkit.instance import Instance
from modelkit.problems.kv.local_search import improve_starts, latency, list_schedule, schedule_of
from modelkit.problems.kv.neighbourhoods import improve_windows, runs_few_at_once
from modelkit.problems.kv.prices import ascend
from modelkit.problems.kv.relaxation import Floats, Ints
from modelkit.runtime.deadline import Deadline, current
from modelkit.schedule import Schedule

#: Up to about this number of starts no prices are sought: a solver is done with them sooner.
FEW_STARTS = 500
#: Share of the time that is left for the prices.
PRICES_SHARE = 0.2
#: Share of the time that is left for the local search after them.
SEARCH_SHARE = 0.2
#: Share of the time that is left for exact neighbourhoods.
WINDOWS_SHARE = 0.2


@dataclass(frozen=True)
class Hindsight:
    """A schedule, and prices where the capacity binds.

    Parameters
    ----------
    schedule, starts
        The best schedule found; its starts have shape [n].
    latency
        Its total latency [round].
    prices
        Price of each round; index = round, entry 0 unused. Empty when there are few starts.
    """

    schedule: Schedule
    starts: Ints
    latency: int
    prices: Floats


def local_search(instance: Instance, first: Ints) -> Hindsight:
    """Prices and the schedule of a local search; the same on every machine.

    Parameters
    ----------
    first
        Starts of the schedule to begin with, shape [n]; see `modelkit.problems.kv.local_search.first_schedule`.

    Raises
    ------
    InfeasibleError
        Some request can never run.
    TooLargeError
        Arrivals and outputs reach too far.
    InterruptedWith
        Ctrl-C; it carries the best schedule so far.
    """
    starts, prices = first, np.zeros(0)
    waiting = starts - instance.arrays.arrival
    interrupted = False
    try:
        if len(starts) * int(waiting.sum()) <= FEW_STARTS:
            starts = improve_starts(instance, starts, deadline=current().share(SEARCH_SHARE))
        else:
            ascent = ascend(instance, starts, deadline=current().share(PRICES_SHARE))
            prices = ascent.prices
            starts = best_list_schedule(instance, starts, ascent.mean_starts, current())
            starts = improve_starts(instance, starts, target=ascent.bound, deadline=current().share(SEARCH_SHARE))
    except KeyboardInterrupt as stop:
        interrupted = True
        if isinstance(stop, InterruptedWith) and isinstance(stop.best, np.ndarray):
            starts = stop.best
    found = _known(instance, starts, prices)
    if interrupted:
        raise InterruptedWith(found)
    return found


def hindsight(instance: Instance, found: Hindsight) -> Hindsight:
    """The best schedule that a few seconds more give, where few requests run at once; the same on every machine.

    Parameters
    ----------
    found
        By `local_search`.

    Raises
    ------
    InterruptedWith
        Ctrl-C; it carries the best schedule so far.
    """
    if not runs_few_at_once(instance):
        return found
    try:
        starts = improve_windows(instance, found.starts, deadline=current().share(WINDOWS_SHARE))
    except InterruptedWith as stop:
        raise InterruptedWith(_known(instance, stop.best, found.prices)) from None
    return _known(instance, starts, found.prices)


def best_list_schedule(instance: Instance, starts: Ints, keys: Floats, deadline: Deadline) -> Ints:
    """The best of these starts and of list schedules by keys, shape [m, n], as far as there is time, the last first."""
    found: list[Ints] = []
    for key in keys[::-1]:
        if deadline.over:
            break
        found.append(list_schedule(instance, key))
    return min([starts, *found[::-1]], key=lambda s: int(s.sum()))


def _known(instance: Instance, starts: Ints, prices: Floats) -> Hindsight:
    return Hindsight(schedule_of(instance, starts), starts, latency(instance, starts), prices)
