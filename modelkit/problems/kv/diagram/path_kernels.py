"""Compiled kernels of paths in the decision diagram: cheapest paths, and leaving out what lies on none.

All values are exact: costs are 64-bit integers in units of 1 / ``SCALE`` rounds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from modelkit.problems.kv.diagram.kernels import NEVER
from modelkit.runtime.kernel import kernel

_ONE = np.uint64(1)


class Graph(NamedTuple):
    """Arrays of `Diagram`."""

    layers: Any
    first: Any
    arc_to: Any
    arc_set: Any
    terminal: Any


@kernel
def add_up(sets: Any, fixed: Any, slope: int, costs: Any) -> None:
    """Cost of starting each set at round 0, and how much it grows in a round."""
    for q in range(len(sets)):
        mask, i = sets[q], 0
        costs[q, 0], costs[q, 1] = 0, 0
        while mask:
            if mask & _ONE:
                costs[q, 0] += fixed[i]
                costs[q, 1] += slope
            mask >>= _ONE
            i += 1


@kernel
def costs_to_go(graph: Graph, set_cost: Any, to_go: Any) -> None:
    """Cost of the cheapest path from each node to a terminal."""
    layers, first, arc_to, arc_set, terminal = graph
    for k in range(len(layers) - 2, -1, -1):
        for v in range(layers[k], layers[k + 1]):
            low = 0 if terminal[v] else NEVER
            for a in range(first[v], first[v + 1]):
                rest = to_go[arc_to[a]]
                if rest < NEVER:
                    q = arc_set[a]
                    low = min(low, rest + set_cost[q, 0] + k * set_cost[q, 1])
            to_go[v] = low


@kernel
def cheapest_path(graph: Graph, set_cost: Any, sets: Any, to_go: Any, times: Any, starts: Any) -> None:
    """How often the cheapest path starts each request, and when last."""
    _, first, arc_to, arc_set, terminal = graph
    times[:] = 0
    v = 0
    k = 0
    while not (terminal[v] and to_go[v] == 0):
        for a in range(first[v], first[v + 1]):
            rest = to_go[arc_to[a]]
            q = arc_set[a]
            if rest < NEVER and rest + set_cost[q, 0] + k * set_cost[q, 1] == to_go[v]:
                mask = sets[q]
                i = 0
                while mask:
                    if mask & _ONE:
                        times[i] += 1
                        starts[i] = k
                    mask >>= _ONE
                    i += 1
                v = arc_to[a]
                break
        k += 1


@kernel
def prune(graph: Graph, set_cost: Any, to_go: Any, limit: int, into: Graph) -> tuple[int, int]:
    """Copy what lies on paths that cost at most ``limit``; returns the numbers of nodes and arcs left."""
    layers, first, arc_to, arc_set, terminal = graph
    new_layers, new_first, new_arc_to, new_arc_set, new_terminal = into
    number = np.full(len(terminal), -1, np.int64)
    come = np.full(len(terminal), NEVER, np.int64)
    come[0] = 0
    for k in range(len(layers) - 1):
        for v in range(layers[k], layers[k + 1]):
            if come[v] >= NEVER or to_go[v] >= NEVER or come[v] + to_go[v] > limit:
                continue
            number[v] = 0
            for a in range(first[v], first[v + 1]):
                q, w = arc_set[a], arc_to[a]
                value = come[v] + set_cost[q, 0] + k * set_cost[q, 1]
                if to_go[w] < NEVER and value + to_go[w] <= limit:
                    come[w] = min(come[w], value)
    nodes = 0
    for k in range(len(layers) - 1):
        new_layers[k] = nodes
        for v in range(layers[k], layers[k + 1]):
            if number[v] >= 0:
                number[v] = nodes
                new_terminal[nodes] = terminal[v]
                nodes += 1
    new_layers[len(layers) - 1] = nodes
    arcs = 0
    for k in range(len(layers) - 1):
        for v in range(layers[k], layers[k + 1]):
            if number[v] < 0:
                continue
            new_first[number[v]] = arcs
            for a in range(first[v], first[v + 1]):
                q, w = arc_set[a], arc_to[a]
                if to_go[w] < NEVER and come[v] + set_cost[q, 0] + k * set_cost[q, 1] + to_go[w] <= limit:
                    new_arc_to[arcs], new_arc_set[arcs] = number[w], q
                    arcs += 1
    new_first[nodes] = arcs
    return nodes, arcs


@kernel
def path_costs(graph: Graph, set_cost: Any, to_go: Any, through: Any) -> None:
    """Cost of the cheapest path through each arc."""
    layers, first, arc_to, arc_set, _ = graph
    come = np.full(len(to_go), NEVER, np.int64)
    come[0] = 0
    for k in range(len(layers) - 1):
        for v in range(layers[k], layers[k + 1]):
            for a in range(first[v], first[v + 1]):
                q, w = arc_set[a], arc_to[a]
                through[a] = NEVER
                if come[v] < NEVER and to_go[w] < NEVER:
                    value = come[v] + set_cost[q, 0] + k * set_cost[q, 1]
                    come[w] = min(come[w], value)
                    through[a] = value + to_go[w]
