"""A relaxed decision diagram of all schedules that cost at most so much: layers of rounds, states of the memory.

A node of layer k stands for a way to be before the starts of round k: the tokens that the requests started so far
will hold in each later round and, of some requests, whether they have started. An arc starts a set of requests and
goes to the layer of round k + 1. Every schedule within the limit is a path, or one that costs no more is. Not every
path is a schedule: a diagram does not remember of every request whether it has started, and where a layer grows too
wide its states are merged. A merged state holds in each round what the one of them that holds least does, and
remembers only what all of them do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelkit.instance import Instance
from modelkit.problems.kv.diagram import kernels, path_kernels
from modelkit.problems.kv.diagram.linear_program import SCALE, CliqueBound
from modelkit.problems.kv.diagram.path_kernels import Graph

Ints = npt.NDArray[np.int64]

#: Requests that a mask can hold.
MOST_REQUESTS = 63


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
    multipliers
        Of each request: duals of "started once", shape [n].
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
    multipliers: Ints
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
            known.multipliers, known.bound + beyond, rounds,
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
    complete: bool  # a cheapest schedule within the limit is a path
    exact: bool  # every path is a schedule
    merged: int = 0  # states that others stand for

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
        members = (self.sets[:, None] >> np.arange(len(multipliers), dtype=np.uint64)) & np.uint64(1)
        members = members.astype(np.int64)
        fixed = members @ (problem.fixed - multipliers)
        return np.ascontiguousarray(np.stack([fixed, problem.slope * members.sum(axis=1)], axis=1))

    def costs_to_go(self, set_cost: Ints) -> Ints:
        """Cost of the cheapest path from each node to a terminal, shape [nodes]."""
        to_go = np.empty(self.nodes, dtype=np.int64)
        path_kernels.costs_to_go(self.graph, set_cost, to_go)
        return to_go

    def cheapest_path(self, set_cost: Ints, to_go: Ints, n: int) -> tuple[Ints, Ints]:
        """How often the cheapest path starts each request, and when last; shapes [n]."""
        times, starts = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        path_kernels.cheapest_path(self.graph, set_cost, self.sets, to_go, times, starts)
        return times, starts

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
        return limit, self.prune_to(set_cost, to_go, limit * SCALE - total)

    def prune_to(self, set_cost: Ints, to_go: Ints, limit: int) -> Diagram:
        """Without what lies on no path that costs at most ``limit``."""
        left = Graph(*(np.zeros_like(array) for array in self.graph))
        nodes, arcs = path_kernels.prune(self.graph, set_cost, to_go, limit, left)
        return Diagram(
            left.layers, left.first[: nodes + 1].copy(), left.arc_to[:arcs].copy(), left.arc_set[:arcs].copy(),
            left.terminal[:nodes].copy(), self.sets, self.complete, self.exact,
        )  # fmt: skip
