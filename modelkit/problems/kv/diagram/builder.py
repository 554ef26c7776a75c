"""Building decision diagrams layer by layer: the first within partitions, and finer ones within it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from modelkit.problems.kv.diagram import kernels, merging_kernels
from modelkit.problems.kv.diagram.diagram import Diagram, Ints, Reversed
from modelkit.problems.kv.diagram.kernels import Coarse, NextLayer, Older, Remembered, Requests, Round, Sets, States
from modelkit.problems.kv.diagram.merging_kernels import Likeness
from modelkit.problems.kv.diagram.partitions import PartitionBound

#: Arcs that a layer may have at most, and sets of requests that start together.
MOST_ARCS = 8_000_000
MOST_SETS = 400_000
#: Most states of a layer before they are merged.
MOST_STATES = 600_000
#: Most arcs of a diagram.
MOST_ALL_ARCS = 24_000_000
#: Kept states that a state is compared with, at most.
MOST_COMPARED = 1000
#: Units of memory in which states are alike, tried in turn until there are few enough; 0: all are.
GRAINS = (2, 4, 8, 16, 0)


class TooWideError(Exception):
    """A layer does not fit, or the deadline is over."""


def _states(problem: Reversed, most: int) -> States:
    return States(
        np.zeros((most, problem.width), np.uint16),
        np.zeros(most, np.uint64),
        np.zeros(most, np.uint64),
        np.zeros(most, np.int32),
        np.zeros(most, np.int64),
    )


def _first(states: States, many: int) -> States:
    return States(*(array[:many] for array in states))


class _Builder:
    """Layers put together.

    Parameters
    ----------
    levels
        Units of memory and requests remembered in which states are alike when they must be merged, tried in turn.
    """

    def __init__(self, problem: Reversed, multipliers: Ints, levels: list[tuple[int, int]]) -> None:
        self.problem, self.levels, self.level = problem, levels, 0
        self.state, self.next = _states(problem, MOST_STATES), _states(problem, MOST_STATES)
        self.state.costs[0] = int(multipliers.sum())
        self.requests = Requests(
            problem.capacity, problem.load, problem.output, problem.twin, problem.allowed,
            problem.fixed - multipliers, problem.slope,
        )  # fmt: skip
        self.table, self.groups = np.full(1 << 17, -1, np.int64), np.empty(1 << 20, np.int64)
        self.chain = np.zeros(MOST_STATES, np.int64)
        self.arc_to, self.arc_set = np.zeros(MOST_ARCS, np.int32), np.zeros(MOST_ARCS, np.int32)
        self.first_of = np.zeros(MOST_STATES + 1, np.int64)
        self.layers = [0, 1]
        self.first: list[Any] = []
        self.to: list[Any] = []
        self.set: list[Any] = []
        self.terminal: list[Any] = []
        self.arcs = self.merged = 0

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
        profile, all_started, _, coarse, costs = _first(self.next, fresh)
        into = np.empty(fresh, dtype=np.int64)
        order = np.lexsort((costs, coarse, all_started))
        merging_kernels.dominate(profile, all_started, coarse, order, MOST_COMPARED, into)
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

    def score(self, to_go: Ints) -> Any:
        """Bound on the paths through each state of the current layer, by the coarse costs to go."""
        return self.state.costs[: self.count] + to_go[self.state.coarse[: self.count]]

    def narrow(self, width: int, score: Ints) -> None:
        """Merge states of the current layer until they are at most ``width``; half of it for the least scores."""
        count = self.count
        if width < 2:
            raise TooWideError
        profile, all_started, some_started, _, costs = current = self.current
        into, order = np.empty(count, np.int64), np.argsort(score, kind="stable")
        self.level = max(0, self.level - 1)
        tries = [(alone, level) for alone in (width // 2, 0) for level in range(self.level, len(self.levels))]
        for alone, level in tries:
            grain, bits = self.levels[level]
            alike = Likeness(alone, width, grain, np.uint64(bits))
            groups = merging_kernels.group(current, order, alike, into, self.groups, self.chain)
            if groups >= 0:
                break
        else:
            raise TooWideError
        self.level = level
        merging_kernels.merge(profile, all_started, some_started, costs, into)
        base = np.int32(self.layers[-2])
        self.to[-1], groups = self._renumbered(self.state, into, into == np.arange(count), self.to[-1] - base)
        self.to[-1] += base
        self.merged += count - groups
        self.layers[-1] = self.layers[-2] + groups

    @staticmethod
    def _renumbered(state: States, into: Ints, kept: Any, to: Any) -> tuple[Any, int]:
        """Close the gaps between the states kept; returns arcs to them, and how many they are."""
        number = np.cumsum(kept) - 1
        left = int(kept.sum())
        for array in state:
            array[:left] = array[: len(kept)][kept]
        return number[into[to]].astype(np.int32), left

    def diagram(self, sets: Any, exact: bool) -> Diagram:
        return Diagram(
            np.array(self.layers[:-1], dtype=np.int64),
            np.concatenate([*self.first, [self.arcs]]).astype(np.int64),
            np.concatenate(self.to),
            np.concatenate(self.set),
            np.concatenate(self.terminal),
            sets,
            exact,
            self.merged,
        )


def first_diagram(
    problem: Reversed, bound: PartitionBound, multipliers: Ints, limit: int, deadline: float, *, width: int
) -> Diagram:
    """The diagram of all schedules up to a limit that knows the memory, but not which requests have started.

    Parameters
    ----------
    bound
        By partitions; its floors are no lower than those of the problem.
    limit
        Total latency, times SCALE; a way that the bound shows to be more expensive is left out.
    width
        States of a layer, at most; more are merged.

    Raises
    ------
    TooWideError
        A layer does not fit, or the deadline is over.
    """
    return _within(problem, bound, multipliers, limit, deadline, width, beam=False)


def beam_search(
    problem: Reversed, bound: PartitionBound, multipliers: Ints, limit: int, deadline: float, *, width: int
) -> Diagram:
    """Some schedules up to a limit: of each layer of the exact diagram only the best ``width`` states are kept.

    Where that leaves none, its paths end early and miss some of the requests that start first.

    The parameters, and what is raised, are those of `first_diagram`.
    """
    return _within(problem, bound, multipliers, limit, deadline, width, beam=True)


def _within(
    problem: Reversed, bound: PartitionBound, multipliers: Ints, limit: int, deadline: float, width: int, beam: bool
) -> Diagram:
    # no placement of a request that the bound forgets costs less than nothing then, so that it may leave them out
    multipliers = bound.free(multipliers)
    bound.evaluate(multipliers)
    build = _Builder(problem, multipliers, [(grain, 0) for grain in GRAINS])
    parts, sets, known = bound.partitions, Sets(np.zeros(MOST_SETS, np.uint64), np.full(1 << 20, -1, np.int32)), 0
    n = len(multipliers)
    bits = np.uint64(2**n - 1 if beam else 0)
    last = [int(np.flatnonzero(problem.allowed[i])[-1]) for i in range(n)]
    for k in range(problem.rounds + 1):
        if time.perf_counter() > deadline:
            raise TooWideError
        if build.count > width and not beam:
            build.narrow(width, build.score(bound.to_go[k]))
        due = np.uint64(sum(1 << i for i in range(n) if last[i] <= k))
        fresh, arcs = 0, 0
        while k < problem.rounds:
            coarse = Coarse(parts.age, parts.place, parts.kind, bound.to_go[k], bound.to_go[k + 1])
            fresh, arcs, known = kernels.expand(
                build.round(limit), build.requests, coarse, Remembered(bits, bits & due), build.current,
                build.next_layer(), sets, known,
            )  # fmt: skip
            if known < 0 or (beam and (fresh < 0 or arcs < 0)):
                raise TooWideError
            if fresh >= 0 and arcs >= 0:
                break
            build.narrow(build.count // 3, build.score(bound.to_go[k]))
        if beam and fresh > width:
            score = build.next.costs[:fresh] + bound.to_go[k + 1][build.next.coarse[:fresh]]
            keep = np.zeros(fresh, dtype=np.bool_)
            keep[np.argpartition(score, width)[:width]] = True
            fresh, arcs = build.drop(keep, arcs)
        count = build.count
        empty = ~build.state.profile[:count].any(axis=1)
        build.close_layer(fresh, arcs, empty & (build.state.some_started[:count] == bits))
        if fresh == 0:
            if beam and not any(terminal.any() for terminal in build.terminal):
                build.terminal[-1][:] = True  # paths that miss some requests
            break
    return build.diagram(sets.masks[:known].copy(), exact=beam)


def refine(
    old: Diagram,
    problem: Reversed,
    multipliers: Ints,
    limit: int,
    deadline: float,
    *,
    remembered: Sequence[int],
    width: int,
) -> Diagram:
    """The diagram within an older one that knows more of the memory, and of some requests whether they have started.

    Where all requests are remembered and nothing had to be merged, it is exact: every path is a schedule.

    Parameters
    ----------
    remembered
        Requests, the one that matters most first: when states must be merged, the last are forgotten first.
    width
        States of a layer, at most; more are merged.

    Raises
    ------
    TooWideError
        A layer does not fit, or the deadline is over.
    """
    masks = [sum(1 << i for i in remembered[:many]) for many in range(len(remembered), -1, -1)]
    build = _Builder(problem, multipliers, [(4, masks[0])] + [(0, mask) for mask in masks])
    everyone, bits = len(remembered) == len(problem.output), np.uint64(masks[0])
    set_cost = old.set_cost(problem, multipliers)
    to_go = old.costs_to_go(set_cost)
    older = Older(old.sets, old.first, old.arc_to, old.arc_set, set_cost, to_go)
    for k in range(len(old.layers) - 1):
        if time.perf_counter() > deadline:
            raise TooWideError
        if build.count > width:
            build.narrow(width, build.score(to_go))
        fresh, arcs = 0, 0
        while k < len(old.layers) - 2:
            fresh, arcs = kernels.refine(
                build.round(limit), build.requests, older, bits, build.current, build.next_layer()
            )
            if fresh >= 0 and arcs >= 0:
                break
            build.narrow(build.count // 3, build.score(to_go))
        if everyone and not build.merged:
            fresh, arcs = build.drop(build.dominated(fresh) == np.arange(fresh), arcs)
        count = build.count
        done = old.terminal[build.state.coarse[:count]] & (build.state.some_started[:count] == bits)
        build.close_layer(fresh, arcs, done)
        if fresh == 0:
            break
    return build.diagram(old.sets, everyone and not build.merged)
