"""What is known of an instance in hindsight without a solver: a good schedule and prices with a good bound."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from modelkit.bounds.prices import ascend
from modelkit.bounds.relaxation import Floats, Ints
from modelkit.errors import InterruptedWith
from modelkit.improve import first_schedule, latency, listed, schedule_of, searched
from modelkit.instance import Instance
from modelkit.neighbourhoods import few_run_at_once, windows_searched
from modelkit.schedule import Schedule

#: Up to about so many starts no prices are sought: a solver is done with them sooner.
FEW_STARTS = 500


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


@lru_cache(maxsize=8)
def local_search(instance: Instance) -> Hindsight:
    """Prices and the schedule of a local search; the same on every machine.

    Raises
    ------
    InfeasibleError
        Some request can never run.
    TooLargeError
        Arrivals and outputs reach too far.
    InterruptedWith
        Ctrl-C; it carries the best schedule so far.
    """
    starts = first_schedule(instance)
    prices = np.zeros(0)
    waiting = starts - instance.arrays.arrival
    interrupted = False
    try:
        if len(starts) * int(waiting.sum()) <= FEW_STARTS:
            starts = searched(instance, starts)
        else:
            ascent = ascend(instance, starts)
            prices = ascent.prices
            orders = [listed(instance, mean) for mean in ascent.mean_starts]
            starts = min([starts, *orders], key=lambda s: int(s.sum()))
            starts = searched(instance, starts, target=ascent.bound)
    except KeyboardInterrupt as stop:
        interrupted = True
        if isinstance(stop, InterruptedWith) and isinstance(stop.best, np.ndarray):
            starts = stop.best
    found = _known(instance, starts, prices)
    if interrupted:
        raise InterruptedWith(found)
    return found


@lru_cache(maxsize=8)
def hindsight(instance: Instance) -> Hindsight:
    """The best schedule and prices that a few seconds give; the same on every machine.

    Raises
    ------
    InfeasibleError, TooLargeError, InterruptedWith
        As `local_search`.
    """
    found = local_search(instance)
    if not few_run_at_once(instance):
        return found
    try:
        starts = windows_searched(instance, found.starts)
    except InterruptedWith as stop:
        raise InterruptedWith(_known(instance, stop.best, found.prices)) from None
    return _known(instance, starts, found.prices)


def _known(instance: Instance, starts: Ints, prices: Floats) -> Hindsight:
    return Hindsight(schedule_of(instance, starts), starts, latency(instance, starts), prices)
