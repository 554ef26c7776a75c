"""Rows of starts of which few fit together, for formulations over starts: cuts of the linear relaxation.

See `modelkit.problems.kv.cuts` for their families and proofs.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from modelkit.instance import Instance
from modelkit.problems.kv.best_known import Hindsight
from modelkit.problems.kv.cuts import Candidates, Ints, Separation, conflict_cliques, triples
from modelkit.problems.kv.cuts.clique_program import SCALE, CliqueProgram
from modelkit.problems.kv.start_windows import possible_starts
from modelkit.runtime.deadline import current

#: Seconds of separation, at most.
SEPARATION = 30.0
#: Share of the time that is left for it, at most.
SHARE = 0.3
#: The second family is asked when the first finds nothing.
FAMILIES = (conflict_cliques, triples)
#: A row in the tree is added when it is violated by more than this.
VIOLATION = 0.05
#: Rows in the tree added at a time, at most.
MOST_ADDED = 20


class CliqueRow(NamedTuple):
    """At most ``most`` of ``members``, pairs of a request's number and a start, are in a schedule."""

    members: list[tuple[int, int]]
    most: int


def clique_rows(
    instance: Instance, known: Hindsight, windows: list[Ints], *, use_prices: bool = True
) -> tuple[list[Ints], list[CliqueRow]]:
    """Starts for each request, ascending, and the rows that the linear relaxation over them violates in turn.

    Parameters
    ----------
    instance
        Unit clock, no slots, with a KV capacity.
    known
        A schedule of it.
    windows
        Its start windows (`modelkit.problems.kv.start_windows`).
    use_prices
        Whether to keep only the starts that the prices of the last relaxation leave to an optimal schedule of minimum
        total latency. Without, starts are those of `possible_starts`, and the rows hold for every schedule.

    Raises
    ------
    InfeasibleError, TooLargeError
        As `possible_starts`.
    """
    program = CliqueProgram(instance, windows, FAMILIES)
    ends = min(time.perf_counter() + SEPARATION, current().share(SHARE).at)
    bound = program.cut_and_solve(ends, float("inf"))
    if use_prices:
        kept = bound.reduced <= known.latency * SCALE - bound.bound
        windows = [np.flatnonzero(row) for row in kept]
    else:
        windows = possible_starts(instance)
        kept = np.zeros((len(windows), int(program.candidates.start.max()) + 1), dtype=np.bool_)
        for allowed, starts in zip(kept, windows, strict=True):
            allowed[starts[starts < len(allowed)]] = True
    of, rows = program.candidates, []
    for columns, _, right in program.cuts:
        pairs = zip(of.request[columns].tolist(), of.start[columns].tolist(), strict=True)
        left = [(i, k) for i, k in pairs if kept[i, k]]
        if len(left) > right:
            rows.append(CliqueRow(left, right))
    return windows, rows


def clique_separation(instance: Instance, windows: list[Ints]) -> Separation:
    """What finds more such rows at a fractional point over ``windows``, for a solver that asks in its tree."""
    return Separation(Candidates.of(instance, windows), FAMILIES, VIOLATION, MOST_ADDED)
