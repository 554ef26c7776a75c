"""A relaxed decision diagram of all schedules that cost at most so much: layers of rounds, states of the memory.

A node of layer k stands for a way to be before the starts of round k: the tokens that the requests started so far
will hold in each later round (and, from the second diagram on, which they are). An arc starts a set of requests
and goes to the layer of round k + 1. Every schedule within the limit is a path. Not every path is a schedule: the
first diagram does not remember who has started, and where a layer grows too wide its states are merged.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelkit.diagram import kernels
from modelkit.diagram.cliques import SCALE, CliqueBound
from modelkit.instance import Instance

Ints = npt.NDArray[np.int64]

#: Requests that a mask can hold.
MOST_REQUESTS = 63
#: Arcs that a layer may have at most, and sets of requests that start together.
MOST_ARCS = 8_000_000
MOST_SETS = 400_000
#: States of a layer before they are merged, at most.
MOST_STATES = 600_000
#: Kept states that a state is compared with, at most.
MOST_COMPARED = 1000


class TooWideError(Exception):
    """A layer does not fit."""


@dataclass
class Reversed:
    """An instance with its bound by cliques, as the kernels take it: time runs backwards.

    Layer t is what forwards is round ``rounds - t``: a request that is placed at layer t ends with round
    ``rounds - t`` and holds its peak first. Going backwards, the few long requests that end a schedule come first, and
    when it comes to the many short ones at its beginning most of the slack is spent: layers stay narrow. (Forwards they
    were 30 to 300 times as wide on kv-synthetic instances with 12 and 16 requests.)

    Parameters
    ----------
    load
        Tokens of each request in each of its rounds, the last first; shape [n, longest].
    twin
        For each request one that is alike and may be asked to be placed no later, or -1.
    fixed
        Latency of a request placed at layer 0, times SCALE; at layer t it is t rounds less.
    reduced, prices
        Reduced cost of placing each request at each layer, price of each layer.
    bound
        What these add to, times SCALE.
    """

    capacity: int
    load: Ints
    output: Ints
    twin: Ints
    fixed: Ints
    reduced: Ints
    prices: Ints
    bound: int
    rounds: int
    slope: int = -SCALE

    @classmethod
    def of(cls, instance: Instance, known: CliqueBound) -> Reversed:
        """Of an instance with KV capacity and without slots."""
        arrays = instance.arrays
        arrival, prompt, output = (a.astype(np.int64) for a in (arrays.arrival, arrays.prompt, arrays.output))
        n = len(output)
        load = np.zeros((n, int(output.max())), dtype=np.int64)
        for i, (s, o) in enumerate(zip(prompt.tolist(), output.tolist(), strict=True)):
            load[i, :o] = np.arange(s + o, s, -1)
        twin = np.full(n, -1, dtype=np.int64)
        last: dict[tuple[int, int, int], int] = {}
        for i, key in enumerate(zip(arrival.tolist(), prompt.tolist(), output.tolist(), strict=True)):
            if key in last:
                twin[last[key]] = i
            last[key] = i
        request, start = np.nonzero(known.reduced < kernels.NEVER)
        rounds = int((start + output[request]).max())
        reduced = np.full((n, rounds + 1), kernels.NEVER)
        reduced[request, rounds - start - output[request]] = known.reduced[request, start]
        prices = np.zeros(rounds + 1 + 2 * (int(output.max()) + 2), dtype=np.int64)
        inside = known.prices[1 : rounds + 1]
        prices[rounds - np.arange(len(inside))] = inside
        assert instance.server.kv_capacity_tokens is not None
        beyond = instance.server.kv_capacity_tokens * int(known.prices[rounds + 1 :].sum())
        return cls(
            instance.server.kv_capacity_tokens, load, output, twin, SCALE * (rounds - arrival), reduced, prices,
            known.bound + beyond, rounds,
        )  # fmt: skip

    @property
    def width(self) -> int:
        """Rounds of a profile, and one."""
        return int(self.output.max()) + 1

    @property
    def most_multiplier(self) -> int:
        """Multipliers up to which the cost of any path fits 64 bits.

        A path places at most one request for each token of memory and round, and each costs at most a
        multiplier and SCALE for each round.
        """
        return (1 << 58) // (self.capacity * max(1, self.rounds)) - SCALE * self.rounds

    def starts(self, layers: Ints) -> Ints:
        """Starts of requests placed at these layers."""
        return self.rounds - layers - self.output


@dataclass
class Diagram:
    """Nodes in the order of the layers, arcs in the order of their nodes."""

    layers: Ints  # first node of each layer, and the number of nodes
    first: Ints  # first arc of each node, and the number of arcs
    arc_to: npt.NDArray[np.int32]
    arc_set: npt.NDArray[np.int32]
    terminal: npt.NDArray[np.bool_]
    sets: npt.NDArray[np.uint64]
    exact: bool  # every path is a schedule, and a cheapest schedule within the limit is a path
    widest: int = 0  # states in a layer

    @property
    def nodes(self) -> int:
        return int(self.layers[-1])

    @property
    def arcs(self) -> int:
        return len(self.arc_to)

    def set_cost(self, problem: Reversed, multipliers: Ints) -> Ints:
        """Cost of starting each set at round 0, and how much it grows in a round; shape [sets, 2]."""
        members = (self.sets[:, None] >> np.arange(len(multipliers), dtype=np.uint64)) & np.uint64(1)
        members = members.astype(np.int64)
        fixed = members @ (problem.fixed - multipliers)
        return np.ascontiguousarray(np.stack([fixed, problem.slope * members.sum(axis=1)], axis=1))

    def costs_to_go(self, set_cost: Ints) -> Ints:
        """Cost of the cheapest path from each node to a terminal, shape [nodes]."""
        to_go = np.empty(self.nodes, dtype=np.int64)
        kernels.costs_to_go(self.layers, self.first, self.arc_to, self.arc_set, self.terminal, set_cost, to_go)
        return to_go

    def cheapest_path(self, set_cost: Ints, to_go: Ints, n: int) -> tuple[Ints, Ints]:
        """How often the cheapest path starts each request, and when last; shapes [n]."""
        times, starts = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        kernels.cheapest_path(
            self.layers, self.first, self.arc_to, self.arc_set, self.terminal, set_cost, self.sets, to_go, times, starts
        )
        return times, starts

    def pruned(self, set_cost: Ints, to_go: Ints, limit: int) -> Diagram:
        """Without what lies on no path that costs at most ``limit``."""
        layers, first = np.zeros_like(self.layers), np.zeros_like(self.first)
        arc_to, arc_set, terminal = (
            np.empty_like(self.arc_to),
            np.empty_like(self.arc_set),
            np.empty_like(self.terminal),
        )
        number, come = np.empty(self.nodes, dtype=np.int64), np.empty(self.nodes, dtype=np.int64)
        nodes, arcs = kernels.prune(
            self.layers, self.first, self.arc_to, self.arc_set, self.terminal, set_cost, to_go, limit, first, arc_to,
            arc_set, terminal, layers, number, come,
        )  # fmt: skip
        return Diagram(
            layers, first[: nodes + 1].copy(), arc_to[:arcs].copy(), arc_set[:arcs].copy(), terminal[:nodes].copy(),
            self.sets, self.exact,
        )  # fmt: skip


State = tuple[Any, Any, Any, Any, Any, Any]


def _states(problem: Reversed, most: int) -> State:
    return (
        np.zeros((most, problem.width), np.uint16),
        np.zeros(most, np.uint64),
        np.zeros(most, np.uint64),
        np.zeros(most, np.int32),
        np.zeros(most, np.int64),
        np.zeros(most, np.int64),
    )


class _Builder:
    """Layers put together."""

    def __init__(self, problem: Reversed, most_states: int) -> None:
        self.state, self.next = _states(problem, most_states), _states(problem, most_states)
        self.table = np.full(1 << 17, -1, np.int64)
        self.chain = np.zeros(most_states, np.int64)
        self.arc_to, self.arc_set = np.zeros(MOST_ARCS, np.int32), np.zeros(MOST_ARCS, np.int32)
        self.first_of = np.zeros(most_states + 1, np.int64)
        self.layers = [0, 1]
        self.first: list[Any] = []
        self.to: list[Any] = []
        self.set: list[Any] = []
        self.terminal: list[Any] = []
        self.arcs = 0

    def check(self, fresh: int, arcs: int) -> None:
        """Raise when the kernel had no room."""
        if fresh < 0 or arcs < 0:
            raise TooWideError

    def close_layer(
        self, count: int, fresh: int, arcs: int, terminal: Any, into: Any = None, prices: Any = None
    ) -> int:
        """Keep the arcs of the layer just made and make the next the current one; returns its number of states.

        ``into[e]`` is the state of the next layer that takes the place of e, and ``prices`` those of the profiles'
        rounds. The bound of the one in place must hold for whatever it stands for: what follows e leaves less
        memory unused than it does after ``into[e]``, by what e holds more.
        """
        if fresh == 0:
            self.first_of[:count] = 0
            arcs = 0
        to = self.arc_to[:arcs]
        if into is not None:
            kept = into == np.arange(fresh)
            number = np.cumsum(kept) - 1
            bounds, paid = self.next[5][:fresh], self.next[0][:fresh].astype(np.int64) @ prices
            unpaid = bounds - paid
            np.minimum.at(unpaid, into, unpaid.copy())
            bounds[:] = unpaid + paid
            to = number[into[to]].astype(np.int32)
            fresh = int(kept.sum())
            for array in self.next:
                array[:fresh] = array[: len(kept)][kept]
        self.first.append(self.first_of[:count] + self.arcs)
        self.to.append(to + np.int32(self.layers[-1]))
        self.set.append(self.arc_set[:arcs].copy())
        self.terminal.append(terminal)
        self.arcs += arcs
        self.layers.append(self.layers[-1] + fresh)
        self.state, self.next = self.next, self.state
        return fresh

    def drop(self, keep: Any, count: int, arcs: int) -> tuple[int, int]:
        """Leave out states of the next layer, and the arcs to them; returns the numbers of both."""
        fresh = int(keep.sum())
        if fresh == len(keep):
            return fresh, arcs
        self.first_of[count] = arcs
        number = np.where(keep, np.cumsum(keep) - 1, -1)
        to = number[self.arc_to[:arcs]]
        alive = to >= 0
        left = int(alive.sum())
        self.first_of[: count + 1] = np.concatenate([[0], np.cumsum(alive)])[self.first_of[: count + 1]]
        self.arc_to[:left], self.arc_set[:left] = to[alive], self.arc_set[:arcs][alive]
        for array in self.next:
            array[:fresh] = array[: len(keep)][keep]
        return fresh, left

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


def first_diagram(
    problem: Reversed, multipliers: Ints, limit: int, deadline: float, *, beam: int | None = None
) -> Diagram:
    """The diagram that knows the memory, but not who has started.

    A state that holds no more than another in any round and costs no more at these multipliers takes its place:
    whatever could follow the other can follow it.

    Parameters
    ----------
    limit
        Total latency, times SCALE; a way that reduced costs show to be more expensive is left out.
    beam
        Keep so many states of a layer, those with the least bound. The paths are then no relaxation any more.

    Raises
    ------
    TooWideError
        A layer does not fit, or the deadline is over.
    """
    build = _Builder(problem, MOST_STATES)
    sets, set_table, known = np.zeros(MOST_SETS, np.uint64), np.full(1 << 20, -1, np.int32), 0
    build.state[4][0], build.state[5][0] = int(multipliers.sum()), problem.bound
    pure = problem.fixed - multipliers
    count, widest = 1, 1
    for k in range(problem.rounds + 1):
        if time.perf_counter() > deadline:
            raise TooWideError
        build.table[:] = -1
        terminal = ~build.state[0][:count].any(axis=1)
        if k == problem.rounds:
            build.close_layer(count, 0, 0, terminal)
            break
        fresh, arcs, known = kernels.expand(
            k, problem.capacity, problem.load, problem.output, pure, int(problem.prices[k + 1]), problem.reduced, limit,
            build.state, count, build.next, build.table, build.chain, sets, set_table, known, build.first_of,
            build.arc_to, build.arc_set, 0, problem.slope,
        )  # fmt: skip
        build.check(fresh, arcs)
        into = None
        if beam is not None and fresh > beam:
            keep = np.zeros(fresh, dtype=np.bool_)
            keep[np.argpartition(build.next[5][:fresh], beam)[:beam]] = True
            fresh, arcs = build.drop(keep, count, arcs)
        elif beam is None and fresh > 1:
            into = np.empty(fresh, dtype=np.int64)
            order = np.argsort(build.next[4][:fresh], kind="stable")
            kernels.dominate(build.next[0], order, MOST_COMPARED, into)
        prices = problem.prices[k + 2 : k + 2 + problem.width]
        count = build.close_layer(count, fresh, arcs, terminal, into, prices)
        widest = max(widest, count)
        if count == 0:
            break
    diagram = build.diagram(sets[:known].copy(), exact=False)
    diagram.widest = widest
    return diagram


def refined(
    old: Diagram, problem: Reversed, multipliers: Ints, limit: int, deadline: float, *, beam: int | None = None
) -> Diagram:
    """The diagram that knows the memory and who has started, within an older diagram.

    A state to which another is preferable for every end of the schedule is left out: who has started is the same, the
    other holds no more in any round and costs no more.

    Parameters
    ----------
    beam
        Keep so many states of a layer, those with the least bound; the diagram is then not exact.

    Raises
    ------
    TooWideError
        A layer does not fit, or the deadline is over.
    """
    build = _Builder(problem, MOST_STATES)
    set_cost = old.set_cost(problem, multipliers)
    to_go = old.costs_to_go(set_cost)
    everybody = np.uint64((1 << len(problem.output)) - 1)
    build.state[4][0], build.state[5][0] = int(multipliers.sum()), problem.bound
    tail = np.minimum.accumulate(problem.reduced[:, ::-1], axis=1)[:, ::-1].copy()
    count, widest, exact = 1, 1, True
    for k in range(len(old.layers) - 1):
        if time.perf_counter() > deadline:
            raise TooWideError
        build.table[:] = -1
        terminal = build.state[2][:count] == everybody
        if k == len(old.layers) - 2:
            build.close_layer(count, 0, 0, terminal)
            break
        fresh, arcs = kernels.refine(
            k, problem.capacity, problem.load, problem.output, problem.twin, set_cost, old.sets, old.first, old.arc_to,
            old.arc_set, to_go, limit, build.state, count, build.next, build.table, build.chain, build.first_of,
            build.arc_to, build.arc_set, 0, int(problem.prices[k + 1]), problem.reduced, tail,
        )  # fmt: skip
        build.check(fresh, arcs)
        if fresh > 1:
            keep = np.empty(fresh, dtype=np.bool_)
            order = np.lexsort((build.next[4][:fresh], build.next[1][:fresh]))
            kernels.undominated(build.next[0], build.next[1], order, MOST_COMPARED, keep)
            fresh, arcs = build.drop(keep, count, arcs)
        if beam is not None and fresh > beam:
            keep = np.zeros(fresh, dtype=np.bool_)
            keep[np.argpartition(build.next[4][:fresh] + to_go[build.next[3][:fresh]], beam)[:beam]] = True
            fresh, arcs = build.drop(keep, count, arcs)
            exact = False
        count = build.close_layer(count, fresh, arcs, terminal)
        widest = max(widest, count)
        if count == 0:
            break
    diagram = build.diagram(old.sets, exact=exact)
    diagram.widest = widest
    return diagram
