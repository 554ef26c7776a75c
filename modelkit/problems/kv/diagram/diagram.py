"""A relaxed decision diagram of all schedules that cost at most so much: layers of rounds, states of the memory.

A node of layer k stands for a way to be before the starts of round k: the tokens that the requests started so far
will hold in each later round and, of some requests, whether they have started. An arc starts a set of requests and
goes to the layer of round k + 1. Every schedule within the limit is a path, or one that costs no more is. Not every
path is a schedule: a diagram may forget requests that hold few tokens, and does not remember of every request whether
it has started.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from modelkit.instance import Instance
from modelkit.problems.kv.diagram import kernels, path_kernels
from modelkit.problems.kv.diagram.path_kernels import Graph

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Units of a round in which costs are whole numbers.
SCALE = 1 << 20
#: Steps after which a diagram is pruned.
PRUNING = 30
#: Requests that a mask can hold.
MOST_REQUESTS = 63


@dataclass(frozen=True)
class Reversed:
    """An instance as the kernels take it: time runs backwards.

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
    allowed
        Whether a request may be placed at a layer, shape [n, rounds + 1].
    """

    capacity: int
    prompt: Ints
    output: Ints
    load: Ints
    twin: Ints
    fixed: Ints
    allowed: npt.NDArray[np.bool_]
    rounds: int
    slope: int = -SCALE

    @classmethod
    def of(cls, instance: Instance, windows: Sequence[Ints]) -> Reversed:
        """Of an instance with KV capacity and without slots, and the starts of each request that are looked at."""
        arrays, capacity = instance.arrays, instance.server.kv_capacity_tokens
        assert capacity is not None
        arrival, prompt, output = (a.astype(np.int64) for a in (arrays.arrival, arrays.prompt, arrays.output))
        n = len(output)
        load = np.maximum(0, (prompt + output)[:, None] - np.arange(int(output.max())))
        load[load <= prompt[:, None]] = 0
        twin = np.full(n, -1, dtype=np.int64)
        last: dict[tuple[int, int, int], int] = {}
        for i, key in enumerate(zip(arrival.tolist(), prompt.tolist(), output.tolist(), strict=True)):
            if key in last:
                twin[last[key]] = i
            last[key] = i
        rounds = max(int(starts.max()) + o for starts, o in zip(windows, output.tolist(), strict=True))
        allowed = np.zeros((n, rounds + 1), dtype=np.bool_)
        for i, starts in enumerate(windows):
            allowed[i, rounds - starts - output[i]] = True
        return cls(capacity, prompt, output, load, twin, SCALE * (rounds - arrival), allowed, rounds)

    def forget_below(self, floor: int) -> Reversed:
        """The relaxation in which a request is forgotten once it holds at most so many tokens, or its prompt."""
        return replace(self, load=np.where(self.load > floor, self.load, 0))

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

    @property
    def most_tried(self) -> int:
        """Multipliers that are tried, at most."""
        return min(self.most_multiplier, 4 * self.rounds * SCALE)

    def starts(self, layers: Ints) -> Ints:
        """Starts of requests placed at these layers."""
        return self.rounds - layers - self.output


class Path(NamedTuple):
    """A cheapest path: its value as a bound, times SCALE; how often it places each request, and at which layer last."""

    value: int
    times: Ints
    layers: Ints

    def latency(self, multipliers: Ints) -> int:
        """Latency of what it places, times SCALE, where these are the multipliers that it is cheapest at."""
        return self.value - int(multipliers @ (1 - self.times))


@dataclass
class Diagram:
    """Nodes in the order of the layers, arcs in the order of their nodes."""

    layers: Ints  # first node of each layer, and the number of nodes
    first: Ints  # first arc of each node, and the number of arcs
    arc_to: npt.NDArray[np.int32]
    arc_set: npt.NDArray[np.int32]
    terminal: npt.NDArray[np.bool_]
    sets: npt.NDArray[np.uint64]
    exact: bool  # every path is a schedule

    @property
    def graph(self) -> Graph:
        """As the kernels see it."""
        return Graph(self.layers, self.first, self.arc_to, self.arc_set, self.terminal)

    @property
    def nodes(self) -> int:
        return int(self.layers[-1])

    @property
    def arcs(self) -> int:
        return len(self.arc_to)

    def set_cost(self, problem: Reversed, multipliers: Ints) -> Ints:
        """Cost of starting each set at round 0, and how much it grows in a round; shape [sets, 2]."""
        costs = np.empty((len(self.sets), 2), dtype=np.int64)
        path_kernels.add_up(self.sets, problem.fixed - multipliers, problem.slope, costs)
        return costs

    def costs_to_go(self, set_cost: Ints) -> Ints:
        """Cost of the cheapest path from each node to a terminal, shape [nodes]."""
        to_go = np.empty(self.nodes, dtype=np.int64)
        path_kernels.costs_to_go(self.graph, set_cost, to_go)
        return to_go

    def evaluate(self, problem: Reversed, multipliers: Ints) -> Path | None:
        """The cheapest path; None where there is none."""
        set_cost = self.set_cost(problem, multipliers)
        to_go = self.costs_to_go(set_cost)
        if not self.nodes or to_go[0] >= kernels.NEVER:
            return None
        times, layers = np.zeros_like(multipliers), np.zeros_like(multipliers)
        path_kernels.cheapest_path(self.graph, set_cost, self.sets, to_go, times, layers)
        return Path(int(to_go[0]) + int(multipliers.sum()), times, layers)

    def find_limit(self, problem: Reversed, multipliers: Ints, least: int, most: int, arcs: int) -> tuple[int, Diagram]:
        """The highest limit from ``least`` to ``most`` that leaves at most ``arcs`` arcs, and what it leaves.

        It is ``least`` where that leaves more.
        """
        if not self.nodes:
            return most, self
        set_cost, total = self.set_cost(problem, multipliers), int(multipliers.sum())
        to_go = self.costs_to_go(set_cost)
        limit = most
        if self.arcs > arcs:
            through = np.empty(self.arcs, dtype=np.int64)
            path_kernels.path_costs(self.graph, set_cost, to_go, through)
            beyond = int(np.partition(through, arcs)[arcs]) + total
            limit = min(most, max(least, (beyond - 1) // SCALE))
        return limit, self.prune(problem, multipliers, limit)

    def prune(self, problem: Reversed, multipliers: Ints, limit: int) -> Diagram:
        """Without what lies on no path of at most ``limit`` [round]."""
        set_cost = self.set_cost(problem, multipliers)
        left = Graph(*(np.zeros_like(array) for array in self.graph))
        nodes, arcs = path_kernels.prune(
            self.graph, set_cost, self.costs_to_go(set_cost), limit * SCALE - int(multipliers.sum()), left
        )
        used = np.bincount(left.arc_set[:arcs], minlength=len(self.sets)) > 0
        arc_set = (np.cumsum(used) - 1)[left.arc_set[:arcs]]
        return Diagram(
            left.layers, left.first[: nodes + 1].copy(), left.arc_to[:arcs].copy(), arc_set.astype(np.int32),
            left.terminal[:nodes].copy(), self.sets[used], self.exact,
        )  # fmt: skip


class WithinLimit:
    """A diagram as a relaxation by paths; what is above the limit is pruned every so many steps."""

    def __init__(self, diagram: Diagram, problem: Reversed, limit: int) -> None:
        self.diagram, self.problem, self.limit, self.steps = diagram, problem, limit, 0

    def evaluate(self, multipliers: Ints) -> Path:
        """The cheapest path, or where none is left a bound above the limit."""
        self.steps += 1
        path = self.diagram.evaluate(self.problem, multipliers)
        if path is None:
            n = len(multipliers)
            return Path((self.limit + 1) * SCALE, np.ones(n, np.int64), np.full(n, self.problem.rounds))
        if self.steps % PRUNING == 0:
            self.diagram = self.diagram.prune(self.problem, multipliers, self.limit)
        return path
