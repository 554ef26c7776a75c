"""Building decision diagrams layer by layer: the first within partitions, and finer ones within it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from modelkit.problems.kv.diagram import kernels
from modelkit.problems.kv.diagram.diagram import Diagram, Ints, Reversed
from modelkit.problems.kv.diagram.domination_kernel import dominate
from modelkit.problems.kv.diagram.kernels import Coarse, NextLayer, Older, Remembered, Requests, Round, Sets, States
from modelkit.problems.kv.diagram.partitions import PartitionBound

#: Arcs that a layer may have at most, and sets of requests that start together.
MOST_ARCS = 8_000_000
MOST_SETS = 400_000
#: Most states of a layer.
MOST_STATES = 600_000
#: Most arcs of a diagram.
MOST_ALL_ARCS = 24_000_000
#: Kept states that a state is compared with, at most.
MOST_COMPARED = 1000


class TooWideError(Exception):
    """A layer does not fit, or the deadline is over."""


def _states(problem: Reversed, most: int) -> States:
    return States(
        np.zeros((most, problem.width), np.uint16),
        np.zeros(most, np.uint64),
        np.zeros(most, np.int32),
        np.zeros(most, np.int64),
    )


def _first(states: States, many: int) -> States:
    return States(*(array[:many] for array in states))


class _Builder:
    """Layers put together."""

    def __init__(self, problem: Reversed, multipliers: Ints) -> None:
        self.problem = problem
        self.state, self.next = _states(problem, MOST_STATES), _states(problem, MOST_STATES)
        self.state.costs[0] = int(multipliers.sum())
        self.requests = Requests(
            problem.capacity, problem.load, problem.output, problem.twin, problem.allowed,
            problem.fixed - multipliers, problem.slope,
        )  # fmt: skip
        self.table = np.full(1 << 17, -1, np.int64)
        self.chain = np.zeros(MOST_STATES, np.int64)
        self.arc_to, self.arc_set = np.zeros(MOST_ARCS, np.int32), np.zeros(MOST_ARCS, np.int32)
        self.first_of = np.zeros(MOST_STATES + 1, np.int64)
        self.layers = [0, 1]
        self.first: list[Any] = []
        self.to: list[Any] = []
        self.set: list[Any] = []
        self.terminal: list[Any] = []
        self.arcs = 0

    @property
    def layer(self) -> int:
        """The current one."""
        return len(self.layers) - 2

    @property
    def count(self) -> int:
        """States of the current layer."""
        return self.layers[-1] - self.layers[-2]

    @property
    def current(self) -> States:
        """States of the current layer."""
        return _first(self.state, self.count)

    def round(self, limit: int) -> Round:
        """That of the current layer."""
        return Round(self.layer, limit)

    def next_layer(self) -> NextLayer:
        """What the next layer is made in, empty."""
        self.table[:] = -1
        return NextLayer(self.next, self.table, self.chain, self.first_of, self.arc_to, self.arc_set)

    def dominated(self, fresh: int) -> Ints:
        """For each state of the next layer one that dominates it, or itself."""
        profile, started, coarse, costs = _first(self.next, fresh)
        into = np.empty(fresh, dtype=np.int64)
        dominate(profile, started, coarse, np.lexsort((costs, coarse, started)), MOST_COMPARED, into)
        return into

    def drop(self, keep: Any, arcs: int) -> tuple[int, int]:
        """Leave out states of the next layer, and the arcs to them; returns the numbers of both."""
        fresh, count = int(keep.sum()), self.count
        if fresh == len(keep):
            return fresh, arcs
        number = np.where(keep, np.cumsum(keep) - 1, -1)
        to = number[self.arc_to[:arcs]]
        alive = to >= 0
        left = int(alive.sum())
        self.first_of[count] = arcs
        self.first_of[: count + 1] = np.concatenate([[0], np.cumsum(alive)])[self.first_of[: count + 1]]
        self.arc_to[:left], self.arc_set[:left] = to[alive], self.arc_set[:arcs][alive]
        for array in self.next:
            array[:fresh] = array[: len(keep)][keep]
        return fresh, left

    def drop_worst(self, most: int, to_go: Ints, fresh: int, arcs: int) -> tuple[int, int]:
        """Keep the best states of the next layer by the coarse costs to go, and the arcs to them; as `drop`."""
        score = self.next.costs[:fresh] + to_go[self.next.coarse[:fresh]]
        keep = np.zeros(fresh, dtype=np.bool_)
        keep[np.argpartition(score, most)[:most]] = True
        return self.drop(keep, arcs)

    def close_layer(self, fresh: int, arcs: int, terminal: Any) -> None:
        """Keep the arcs of the current layer and make the next, of ``fresh`` states, the current one."""
        count = self.count
        if fresh == 0:
            self.first_of[:count] = 0
            arcs = 0
        self.first.append(self.first_of[:count] + self.arcs)
        self.to.append(self.arc_to[:arcs] + np.int32(self.layers[-1]))
        self.set.append(self.arc_set[:arcs].copy())
        self.terminal.append(terminal)
        self.arcs += arcs
        if self.arcs > MOST_ALL_ARCS:
            raise TooWideError
        self.layers.append(self.layers[-1] + fresh)
        self.state, self.next = self.next, self.state

    def diagram(self, sets: Any, exact: bool) -> Diagram:
        return Diagram(
            np.array(self.layers[:-1], dtype=np.int64),
            np.concatenate([*self.first, [self.arcs]]).astype(np.int64),
            np.concatenate(self.to),
            np.concatenate(self.set),
            np.concatenate(self.terminal),
            sets,
            exact,
        )


def first_diagram(problem: Reversed, bound: PartitionBound, multipliers: Ints, limit: int, deadline: float) -> Diagram:
    """The diagram of all schedules up to a limit that knows the memory, but not which requests have started.

    Parameters
    ----------
    bound
        By partitions; its floors are no lower than those of the problem.
    limit
        Total latency, times SCALE; a way that the bound shows to be more expensive is left out.

    Raises
    ------
    TooWideError
        A layer does not fit, or the deadline is over.
    """
    return _within(problem, bound, multipliers, limit, deadline, beam=None)


def beam_search(
    problem: Reversed, bound: PartitionBound, multipliers: Ints, limit: int, deadline: float, *, width: int
) -> Diagram:
    """Some schedules up to a limit: of each layer of the exact diagram only the best ``width`` states are kept.

    Where that leaves none, its paths end early and miss some of the requests that start first.

    The other parameters, and what is raised, are those of `first_diagram`.
    """
    return _within(problem, bound, multipliers, limit, deadline, beam=width)


def _within(
    problem: Reversed, bound: PartitionBound, multipliers: Ints, limit: int, deadline: float, beam: int | None
) -> Diagram:
    # no placement of a request that the bound forgets costs less than nothing then, so that it may leave them out
    multipliers = bound.free(multipliers)
    bound.price(multipliers)
    build = _Builder(problem, multipliers)
    parts, sets, known = bound.partitions, Sets(np.zeros(MOST_SETS, np.uint64), np.full(1 << 20, -1, np.int32)), 0
    n = len(multipliers)
    bits = np.uint64(2**n - 1 if beam else 0)
    last = [int(np.flatnonzero(problem.allowed[i])[-1]) for i in range(n)]
    for k in range(problem.rounds + 1):
        if time.perf_counter() > deadline:
            raise TooWideError
        due = np.uint64(sum(1 << i for i in range(n) if last[i] <= k))
        fresh, arcs = 0, 0
        if k < problem.rounds:
            coarse = Coarse(parts.age, parts.place, parts.kind, bound.to_go[k], bound.to_go[k + 1])
            fresh, arcs, known = kernels.expand(
                build.round(limit), build.requests, coarse, Remembered(bits, bits & due), build.current,
                build.next_layer(), sets, known,
            )  # fmt: skip
            if min(fresh, arcs, known) < 0:
                raise TooWideError
        if beam and fresh > beam:
            fresh, arcs = build.drop_worst(beam, bound.to_go[k + 1], fresh, arcs)
        count = build.count
        empty = ~build.state.profile[:count].any(axis=1)
        build.close_layer(fresh, arcs, empty & (build.state.started[:count] == bits))
        if fresh == 0:
            if beam and not any(terminal.any() for terminal in build.terminal):
                build.terminal[-1][:] = True  # paths that miss some requests
            break
    return build.diagram(sets.masks[:known].copy(), exact=beam is not None)


def refine(
    old: Diagram,
    problem: Reversed,
    multipliers: Ints,
    limit: int,
    deadline: float,
    *,
    remembered: Sequence[int],
    beam: int | None = None,
) -> Diagram:
    """The diagram within an older one that knows more of the memory, and of some requests whether they have started.

    Where all requests are ``remembered``, it is exact: every path is a schedule.

    Parameters
    ----------
    beam
        How many states of a layer are kept, the best by the older diagram; all where it is None. With a beam not
        every schedule is a path.

    Raises
    ------
    TooWideError
        A layer does not fit, or the deadline is over.
    """
    build = _Builder(problem, multipliers)
    everyone, bits = len(remembered) == len(problem.output), np.uint64(sum(1 << i for i in remembered))
    set_cost = old.set_cost(problem, multipliers)
    older = Older(old.sets, old.first, old.arc_to, old.arc_set, set_cost, old.costs_to_go(set_cost))
    for k in range(len(old.layers) - 1):
        if time.perf_counter() > deadline:
            raise TooWideError
        fresh, arcs = 0, 0
        if k < len(old.layers) - 2:
            fresh, arcs = kernels.refine(
                build.round(limit), build.requests, older, bits, build.current, build.next_layer()
            )
            if min(fresh, arcs) < 0:
                raise TooWideError
        if everyone:
            fresh, arcs = build.drop(build.dominated(fresh) == np.arange(fresh), arcs)
        if beam and fresh > beam:
            fresh, arcs = build.drop_worst(beam, older.to_go, fresh, arcs)
        count = build.count
        done = old.terminal[build.state.coarse[:count]] & (build.state.started[:count] == bits)
        build.close_layer(fresh, arcs, done)
        if fresh == 0:
            break
    return build.diagram(old.sets, everyone)
