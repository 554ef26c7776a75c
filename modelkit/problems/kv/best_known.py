"""What is known of an instance in hindsight without a solver: a good schedule and prices with a good bound.

A fixed amount of work, the same on every machine. Within a deadline (`modelkit.runtime.deadline`) it may be cut
short; what is then found serves the same solve only.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import update_wrapper

import numpy as np

from modelkit.errors import InterruptedWith
from modelkit.instance import Instance
from modelkit.problems.kv.local_search import LISTS_SHARE, first_schedule, latency, list_schedule, schedule_of, searched
from modelkit.problems.kv.neighbourhoods import few_run_at_once, windows_searched
from modelkit.problems.kv.prices import ascend
from modelkit.problems.kv.relaxation import Floats, Ints
from modelkit.runtime.deadline import Deadline, current
from modelkit.schedule import Schedule

#: Up to about this number of starts no prices are sought: a solver is done with them sooner.
FEW_STARTS = 500
#: Shares of the time that is left: for the prices, for the local search after them, for exact neighbourhoods.
PRICES_SHARE, SEARCH_SHARE, WINDOWS_SHARE = 0.2, 0.2, 0.2
#: Instances of which something is kept.
KEPT = 8


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
    cut
        Whether the deadline cut the work short.
    """

    schedule: Schedule
    starts: Ints
    latency: int
    prices: Floats
    cut: bool = False


class _Kept:
    """Keeps what is found: for good, or for the solve that has this deadline where that cut it short."""

    def __init__(self, find: Callable[..., Hindsight]) -> None:
        self.find = find
        self.known: OrderedDict[tuple[Instance, Deadline | None], Hindsight] = OrderedDict()
        update_wrapper(self, find)

    def __call__(self, instance: Instance, first: Ints | None = None) -> Hindsight:
        for key in ((instance, None), (instance, current())):
            if key in self.known:
                self.known.move_to_end(key)
                return self.known[key]
        found = self.find(instance) if first is None else self.find(instance, first)
        self.known[instance, current() if found.cut else None] = found
        if len(self.known) > KEPT:
            self.known.popitem(last=False)
        return found

    def __contains__(self, instance: Instance) -> bool:
        """Whether something is kept of it, for whatever deadline."""
        return any(known == instance for known, _ in self.known)

    def cache_clear(self) -> None:
        """Forget everything."""
        self.known.clear()


@_Kept
def local_search(instance: Instance, first: Ints | None = None) -> Hindsight:
    """Prices and the schedule of a local search; the same on every machine.

    Parameters
    ----------
    first
        Starts of `first_schedule`, where they are known already, shape [n].

    Raises
    ------
    InfeasibleError
        Some request can never run.
    TooLargeError
        Arrivals and outputs reach too far.
    InterruptedWith
        Ctrl-C; it carries the best schedule so far.
    """
    begun = time.perf_counter()
    starts = first_schedule(instance) if first is None else first
    prices = np.zeros(0)
    waiting = starts - instance.arrays.arrival
    # some schedules may have been left out
    interrupted, cut = False, time.perf_counter() - begun > LISTS_SHARE * current().left
    try:
        if len(starts) * int(waiting.sum()) <= FEW_STARTS:
            starts = searched(instance, starts, deadline=(ends := current().share(SEARCH_SHARE)))
        else:
            ascent = ascend(instance, starts, deadline=(ends := current().share(PRICES_SHARE)))
            prices, cut = ascent.prices, cut or ascent.cut or ends.over
            starts = best_listed(instance, starts, ascent.mean_starts, current())
            ends = current().share(SEARCH_SHARE)
            starts = searched(instance, starts, target=ascent.bound, deadline=ends)
        cut |= ends.over
    except KeyboardInterrupt as stop:
        interrupted = True
        if isinstance(stop, InterruptedWith) and isinstance(stop.best, np.ndarray):
            starts = stop.best
    found = _known(instance, starts, prices, cut)
    if interrupted:
        raise InterruptedWith(found)
    return found


@_Kept
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
        starts = windows_searched(instance, found.starts, deadline=(ends := current().share(WINDOWS_SHARE)))
    except InterruptedWith as stop:
        raise InterruptedWith(_known(instance, stop.best, found.prices)) from None
    return _known(instance, starts, found.prices, found.cut or ends.over)


def best_listed(instance: Instance, starts: Ints, keys: Floats, deadline: Deadline) -> Ints:
    """The best of these starts and of list schedules by keys, shape [m, n], as far as there is time, the last first."""
    found: list[Ints] = []
    for key in keys[::-1]:
        if deadline.over:
            break
        found.append(list_schedule(instance, key))
    return min([starts, *found[::-1]], key=lambda s: int(s.sum()))


def _known(instance: Instance, starts: Ints, prices: Floats, cut: bool = False) -> Hindsight:
    return Hindsight(schedule_of(instance, starts), starts, latency(instance, starts), prices, cut)
