"""Exact neighbourhoods: a few requests of a schedule are freed and started again at their best.

`modelkit.problems.kv.window_kernel` finds these starts and has the proofs.

`improve_windows` frees windows of consecutive starts one after the other until none improves, then disturbs one
part of the schedule by list scheduling, repairs what is near, and keeps the result if it is not much worse.

Unit clock, no slots. Shaw, Using constraint programming and local search methods (CP 1998), for large neighbourhoods;
Lourenco, Martin and Stutzle, Iterated local search (2003).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from modelkit.errors import InterruptedWith
from modelkit.instance import Instance
from modelkit.problems.kv.local_search import latency
from modelkit.problems.kv.memory_profile import change, empty_memory, first_fit
from modelkit.problems.kv.window_kernel import Window, resolve, room

Ints = npt.NDArray[np.int64]

#: Sizes of the windows that repair a disturbance, drawn each time; the first are those of the first pass.
REPAIRS = ((4, 5), (4,), (4, 5, 6), (5, 7))
#: Least requests that a disturbance lists anew.
LEAST_MOVED = 3
#: Most requests that a disturbance lists anew.
MOST_MOVED = 9
#: Nodes for a window.
NODES = 20_000
#: Nodes for each request in a search without a time limit.
EFFORT = 40_000
#: Nodes in such a search in all; about 3 seconds.
MOST_NODES = 3_000_000
#: By how much worse a schedule is kept, as a share of the mean waiting.
HEAT = 0.05
#: Requests that run at once, on average, up to which exact neighbourhoods are worth their time.
FEW_AT_ONCE = 5.0


class Ending(Protocol):
    """What ends a search."""

    @property
    def over(self) -> bool: ...


def runs_few_at_once(instance: Instance) -> bool:
    """Whether so few requests fit the memory together that exact neighbourhoods beat a local search."""
    arrays, capacity = instance.arrays, instance.server.kv_capacity_tokens
    return capacity is not None and capacity <= FEW_AT_ONCE * float((arrays.prompt + arrays.output / 2).mean())


def improve_windows(
    instance: Instance,
    starts: Ints,
    *,
    seed: int = 0,
    effort: float | None = EFFORT,
    time_limit: float | None = None,
    target: float | None = None,
    listen: Callable[[int], None] | None = None,
    deadline: Ending | None = None,
) -> Ints:
    """Starts no worse than these, by iterated local search whose moves are exact.

    Parameters
    ----------
    seed
        Of the disturbances; without a time limit the same seed gives the same starts on every machine.
    effort
        Bound on the nodes for each request, None for none.
    time_limit
        Seconds, None for none.
    deadline
        When it is over at the latest, None for never.
    target
        Total latency at which to stop, such as a lower bound.
    listen
        Called with the total latency of each better schedule.

    Raises
    ------
    InterruptedWith
        Ctrl-C; it carries the best starts so far.
    """
    arrays = instance.arrays
    if instance.server.kv_capacity_tokens is None or (starts == arrays.arrival).all():
        return starts
    began = time.perf_counter()
    nodes = np.inf if effort is None else min(MOST_NODES, effort * len(starts))
    goal = -np.inf if target is None else np.ceil(target) - latency(instance, np.zeros_like(starts))
    rng = np.random.default_rng(seed)
    heat = HEAT * float((starts - arrays.arrival).mean())
    current, best = starts, starts

    def over() -> bool:
        late = time_limit is not None and time.perf_counter() - began >= time_limit
        return late or (deadline is not None and deadline.over) or plan.visited >= nodes or best.sum() <= goal

    plan = _MovableSchedule(instance, starts, over)
    try:
        plan.repair(0, plan.end, REPAIRS[0])
        while True:
            if plan.starts.sum() < best.sum():
                best = plan.starts.copy()
                if listen:
                    listen(latency(instance, best))
            if over() or plan.all_at_once:
                return best
            if plan.starts.sum() <= current.sum() - heat * np.log(1 - rng.random()):
                current = plan.starts.copy()
            else:
                plan.restore(current)
            moved = int(rng.integers(min(LEAST_MOVED, len(starts)), min(MOST_MOVED, len(starts)) + 1))
            first, last = plan.disturb(rng, moved)
            plan.repair(first, last, REPAIRS[int(rng.integers(len(REPAIRS)))])
    except KeyboardInterrupt:
        raise InterruptedWith(best) from None


class _MovableSchedule:
    """A schedule with its memory profile, changed by moves."""

    def __init__(self, instance: Instance, starts: Ints, over: Callable[[], bool]) -> None:
        arrays = instance.arrays
        assert instance.server.kv_capacity_tokens is not None
        self.arrival, self.prompt, self.output = arrays.arrival, arrays.prompt, arrays.output
        self.over = over
        self.starts = starts.copy()
        longest = int(arrays.output.max())
        # a request that is listed anew fits after all others at the latest
        self.end = int(starts.max()) + (MOST_MOVED + 1) * longest
        self.memory = empty_memory(self.end + 2 * longest + 2, instance.server.kv_capacity_tokens)
        self.put(np.arange(len(starts)), 1)
        largest = max(map(max, REPAIRS))
        self.seen = room(longest, min(largest, len(starts)))
        self.visited = 0
        self.all_at_once = False  # an exact search freed all requests

    def put(self, requests: Ints, sign: int) -> None:
        for i in requests:
            change(self.memory, self.starts[i], self.prompt[i], self.output[i], sign)

    def restore(self, starts: Ints) -> None:
        moved = np.flatnonzero(starts != self.starts)
        self.put(moved, -1)
        self.starts[moved] = starts[moved]
        self.put(moved, 1)

    def improve(self, freed: Ints) -> bool:
        """Best starts of the freed requests; whether they are better."""
        before = int(self.starts[freed].sum())
        self.put(freed, -1)
        best = self.starts[freed]
        after, visited, exact = resolve(
            Window(freed, self.arrival[freed], self.prompt, self.output, self.end),
            self.memory, before, NODES, self.seen, best,
        )  # fmt: skip
        self.starts[freed] = best
        self.put(freed, 1)
        self.visited += visited
        self.all_at_once |= exact and len(freed) == len(self.starts)
        return after < before

    def repair(self, first: int, last: int, sizes: tuple[int, ...]) -> None:
        """Free windows of these sizes, of consecutive starts, from ``first`` to ``last``, until none improves."""
        n = len(self.starts)
        for size in (min(size, n) for size in sizes):
            improved = True
            while improved:
                improved = False
                ordered = np.sort(self.starts)
                low = max(0, int(np.searchsorted(ordered, first)) - size + 1)
                high = min(n - size, int(np.searchsorted(ordered, last)))
                for p in range(low, high + 1, max(1, size // 3)):
                    if self.over():
                        return
                    improved |= self.improve(np.sort(np.argsort(self.starts, kind="stable")[p : p + size]))

    def disturb(self, rng: np.random.Generator, moved: int) -> tuple[int, int]:
        """List some requests anew in a similar order; the rounds of their starts before, and some more."""
        n = len(self.starts)
        if rng.random() < 0.5:  # consecutive starts, or runs that meet or nearly meet a round
            p = int(rng.integers(0, n - moved + 1))
            freed = np.argsort(self.starts, kind="stable")[p : p + moved]
        else:
            i = int(rng.integers(0, n))
            t = self.starts[i] + int(rng.integers(0, self.output[i] + 1))
            away = np.maximum(0, np.maximum(self.starts + 1 - t, t - self.starts - self.output))
            freed = np.argsort(away + rng.random(n) * self.output.mean() * rng.random(), kind="stable")[:moved]
        self.put(freed, -1)
        first, last = int(self.starts[freed].min()), int(self.starts[freed].max())
        key = self.starts[freed] + rng.normal(size=moved) * (0.3 * (last - first) + 1)
        for i in freed[np.argsort(key, kind="stable")]:
            k = first_fit(self.memory, self.arrival[i], self.prompt[i], self.output[i], self.end)
            self.starts[i] = k
            self.put(np.array([i]), 1)
        near = int(self.output.mean())
        return first - near, last + near
