"""The best multipliers of a relaxation by paths, found by column generation.

Let path p place request i v_ip times and have latency c_p. The best bound over the multipliers of "each request
once" is the value of the linear program

    min sum_p c_p x_p    subject to    sum_p v_ip x_p = 1 for every request i,  sum_p x_p = 1,  x >= 0,

and multipliers are its duals. At any multipliers the cheapest path is a column, and its value a bound: HiGHS, which
solves the program over the columns so far, need not be trusted. Multipliers are drawn towards the best so far
(Wentges, International Transactions in Operational Research 4, 1997).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from modelkit.problems.kv.diagram.diagram import SCALE, Floats, Ints, Path

#: Share of the best multipliers so far in those tried next.
SMOOTHING = 0.6
#: Steps of subgradients that make the first columns.
STEPS = 100
#: Distance between bound and program at which multipliers are good enough [round].
CLOSE = 0.02


class Relaxation(Protocol):
    """What gives a cheapest path at any multipliers."""

    def evaluate(self, multipliers: Ints) -> Path: ...


class Column(NamedTuple):
    """A path of the program: how often it places each request, and its latency times SCALE."""

    times: Ints
    latency: int


class _Master:
    """The linear program over the columns so far; a request may be missed or repeated at a price."""

    def __init__(self, n: int, price: float) -> None:
        from modelkit.backends.engine import new_highs
        from modelkit.backends.standard_form import StandardForm

        eye = np.arange(n)
        form = StandardForm(
            cost=np.full(2 * n, price),
            offset=0.0,
            indptr=np.append(2 * np.arange(n + 1), 2 * n).astype(np.int32),
            indices=np.stack([eye, n + eye], axis=1).ravel().astype(np.int32),
            values=np.tile([1.0, -1.0], n),
            row_lower=np.ones(n + 1),
            row_upper=np.ones(n + 1),
            lower=np.zeros(2 * n),
            upper=np.full(2 * n, np.inf),
            integer=np.zeros(2 * n, dtype=np.bool_),
        )
        self.highs = new_highs(form, threads=1, presolve="off")
        self.columns: list[Column] = []
        self.known: set[tuple[bytes, int]] = set()

    def add(self, column: Column) -> bool:
        """Add a column; whether it is a new one."""
        times, latency = column
        key = (times.tobytes(), latency)
        if key in self.known:
            return False
        self.known.add(key)
        self.columns.append(column)
        placed = np.flatnonzero(times)
        rows = np.append(placed, len(times)).astype(np.int32)
        values = np.append(times[placed], 1).astype(np.float64)
        self.highs.addCol(latency / SCALE, 0.0, np.inf, len(rows), rows, values)
        return True

    def solve(self) -> tuple[float, Ints]:
        """Value, and multipliers."""
        from modelkit.backends.engine import run

        run(self.highs)
        duals = np.array(self.highs.getSolution().row_dual)[:-1]
        return float(self.highs.getInfo().objective_function_value), np.rint(duals * SCALE).astype(np.int64)

    def misses(self) -> Floats:
        """How far from once each request is placed in the paths of the solution, shape [n]."""
        weights = np.array(self.highs.getSolution().col_value)[-len(self.columns) :]
        return np.asarray(weights @ abs(np.array([column.times for column in self.columns]) - 1))


@dataclass
class Ascent:
    """Best multipliers so far, the bound that they give times SCALE, and how often requests were missed or repeated."""

    multipliers: Ints
    value: int
    misses: Floats
    columns: list[Column]
    steps: int = 0


def ascend(
    relaxation: Relaxation,
    multipliers: Ints,
    *,
    target: int,
    most: int,
    over: Callable[[], bool],
    steps: int = STEPS,
    columns: Sequence[Column] = (),
    slack: float = 0.0,
    listen: Callable[[Path], Any] = lambda path: None,
) -> Ascent:
    """The best multipliers from these on.

    Parameters
    ----------
    target
        Total latency times SCALE; what is above it ends the ascent.
    most
        Largest multiplier that is tried, times SCALE.
    over
        Whether to stop.
    steps
        Of subgradients before the first linear program.
    columns
        Of the relaxation, that are known.
    slack
        Share of the way to the target that may be missing to the best multipliers.
    listen
        Is told every path.

    Raises
    ------
    SolverError
        HiGHS could not solve a linear program.
    """
    master = _Master(len(multipliers), 2.0 * most / SCALE)
    for column in columns:
        master.add(column)
    found = Ascent(multipliers, -(1 << 62), np.zeros(len(multipliers)), master.columns)

    def look(at: Ints) -> tuple[Path, bool]:
        path = relaxation.evaluate(at)
        found.steps += 1
        if path.value > found.value:
            found.value, found.multipliers = path.value, at
        listen(path)
        return path, master.add(Column(path.times, path.latency(at)))

    def done() -> bool:
        return found.value > target or over()

    _subgradients(look, found, target, most, steps, done)
    while not done():
        value, duals = master.solve()
        found.misses = master.misses()
        if value * SCALE - found.value < max(CLOSE * SCALE, slack * (target - found.value)):
            break
        share = SMOOTHING
        while True:
            tried = np.rint(share * found.multipliers + (1 - share) * duals).astype(np.int64)
            _, new = look(np.clip(tried, -most, most))
            if new or share == 0 or done():
                break
            share = share / 2 if share > 0.1 else 0.0
        if not new:
            break
    return found


def _subgradients(
    look: Callable[[Ints], tuple[Path, bool]],
    found: Ascent,
    target: int,
    most: int,
    steps: int,
    done: Callable[[], bool],
) -> None:
    """Polyak's steps, deflected; they end when there is no progress."""
    share, stale, best = 1.0, 0, found.value
    multipliers, before = found.multipliers, np.zeros(len(found.multipliers))
    for _ in range(steps):
        path, _ = look(multipliers)
        stale = 0 if path.value > best + SCALE // 50 else stale + 1
        best = found.value
        missed: Floats = np.asarray(1.0 - path.times)
        if done() or not missed.any():
            return
        if stale >= 6:
            share, stale, multipliers = share / 2, 0, found.multipliers
            continue
        direction: Floats = missed + 0.3 * before
        length = float(direction @ direction)
        if length < 0.1:
            direction, length = missed, float(missed @ missed)
        before = direction
        step = share * max(target + SCALE - path.value, SCALE // 4) / length
        multipliers = np.clip(multipliers + np.rint(step * direction).astype(np.int64), -most, most)
