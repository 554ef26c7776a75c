"""The linear program over starts with cuts, and the bound that its prices prove.

With prices lambda_t >= 0 on rounds and pi_C >= 0 on cuts ``sum_c a_C(c) x_c <= b_C`` (`modelkit.problems.kv.cuts`),

    L = sum_i min_k rc_i(k) - M sum_t lambda_t - sum_C b_C pi_C,
    rc_i(k) = k + o_i - a_i + sum_{j=1}^{o_i} lambda_{k+j} (s_i + j) + sum_C a_C(i,k) pi_C

is at most the total latency of any schedule whose starts are looked at. Prices are taken from the linear program's
duals and rounded to multiples of 1 / SCALE; L is then recomputed in integers, so the solver need not be trusted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelkit.errors import SolverError
from modelkit.instance import Instance
from modelkit.problems.kv.cuts import Candidates, Cut, Family, Floats, Ints, conflict_cliques, find_first

#: Units of a round in which costs are whole numbers.
SCALE = 1 << 20
#: Cost of a start that is not looked at.
NEVER = 1 << 60
#: A cut is added when it is violated by more than this.
VIOLATION = 0.02
#: The same when little else is found.
SMALL_VIOLATION = 0.005
#: Rounds of separation after which small violations count.
COARSE = 60
#: Cuts of a family added in a round, at most.
MOST_ADDED = 60
#: Rounds after which cuts that do not bind are taken out.
CLEANING = 6


@dataclass
class CliqueBound:
    """Prices on rounds and cuts, in units of 1 / SCALE, and what they prove.

    Parameters
    ----------
    bound
        L, times SCALE.
    reduced
        rc_i(k) - min_k rc_i(k), shape [n, rounds]; NEVER where no optimal schedule starts i at k.
    prices
        Of each round; index = round, entry 0 unused.
    multipliers
        Of each request, shape [n]: duals of "started once".
    cuts
        Those with a price.
    """

    bound: int
    reduced: Ints
    prices: Ints
    multipliers: Ints
    cuts: int


class CliqueProgram:
    """The linear program over starts, with cuts added as they are violated.

    Parameters
    ----------
    windows
        Starts of each request that are looked at.
    families
        Of cuts; one is asked only when those before it find nothing.

    Attributes
    ----------
    trouble
        Why the linear program was left before its end, in words; empty when it was not.
    """

    trouble = ""

    def __init__(
        self, instance: Instance, windows: list[Ints], families: Sequence[Family] = (conflict_cliques,)
    ) -> None:
        self.candidates = Candidates.of(instance, windows)
        self.families = families
        self.arrival = instance.arrays.arrival.astype(np.int64)
        ends = self.candidates.start + self.candidates.output[self.candidates.request]
        self.rounds = int(ends.max())
        self.cuts: list[Cut] = []

    def cut_and_solve(self, deadline: float, target: float) -> CliqueBound:
        """Cutting planes until none is found, the deadline, or the bound exceeds ``target`` - 1."""
        from modelkit.backends.engine import run

        solver = self.linear_program()
        rows = len(self.arrival) + self.rounds
        best = self.prove(np.zeros(rows))
        turn = 0
        for separations in range(1, 100_000):
            solver.setOptionValue("time_limit", solver.getRunTime() + max(0.1, deadline - time.perf_counter()))
            try:
                run(solver)
            except SolverError as error:
                self.trouble = str(error)
                break
            solution = solver.getSolution()
            if solution.dual_valid:
                found = self.prove(np.array(solution.row_dual))
                best = max(best, found, key=lambda b: b.bound)
            if time.perf_counter() > deadline or best.bound > (target - 1) * SCALE or not solution.value_valid:
                break
            if separations % CLEANING == 0:
                binding = np.array(solution.row_value)[rows:] > np.array([c.right for c in self.cuts]) - 1e-6
                slack = np.flatnonzero(~binding)
                solver.deleteRows(len(slack), (slack + rows).astype(np.int32))
                self.cuts = [c for c, binds in zip(self.cuts, binding, strict=True) if binds]
            violation = VIOLATION if separations < COARSE else SMALL_VIOLATION
            x = np.array(solution.col_value)
            added = find_first(self.families, self.candidates, x, violation, MOST_ADDED, turn)
            turn = (turn + len(x) // 3 + 1) % len(x)
            if not added:
                break
            self.cuts += added
            add_cuts(solver, added)
        return best

    def linear_program(self) -> Any:
        """A HiGHS model of the starts, with the cuts found so far as its last rows."""
        from scipy.sparse import csr_matrix  # late, as HiGHS is for all other solves

        from modelkit.backends.engine import new_highs
        from modelkit.backends.standard_form import StandardForm

        of, n = self.candidates, len(self.arrival)
        columns, length = len(of.start), of.output[of.request]
        column = np.repeat(np.arange(columns), length)
        step = np.arange(len(column)) - np.repeat(np.cumsum(length) - length, length)
        held = of.prompt[of.request][column] + 1 + step
        matrix = csr_matrix(
            (
                np.concatenate([np.ones(columns), held]),
                (
                    np.concatenate([of.request, n + of.start[column] + step]),
                    np.concatenate([np.arange(columns), column]),
                ),
            ),
            shape=(n + self.rounds, columns),
        )
        form = StandardForm(
            cost=(of.start + length - self.arrival[of.request]).astype(np.float64),
            offset=0.0,
            indptr=matrix.indptr,
            indices=matrix.indices,
            values=matrix.data,
            row_lower=np.concatenate([np.ones(n), np.full(self.rounds, -np.inf)]),
            row_upper=np.concatenate([np.ones(n), np.full(self.rounds, float(of.capacity))]),
            lower=np.zeros(columns),
            upper=np.full(columns, np.inf),
            integer=np.zeros(columns, dtype=np.bool_),
        )
        solver = new_highs(form, threads=1)
        add_cuts(solver, self.cuts)
        return solver

    def prove(self, duals: Floats, allowed: npt.NDArray[np.bool_] | None = None) -> CliqueBound:
        """What the prices in these duals prove, in integers: of all schedules, or those with allowed starts."""
        of, n = self.candidates, len(self.arrival)
        prices = np.zeros(self.rounds + int(of.output.max()) + 2, dtype=np.int64)
        prices[1 : self.rounds + 1] = np.rint(np.maximum(0, -duals[n : n + self.rounds]) * SCALE)
        cut_prices = np.rint(np.maximum(0, -duals[n + self.rounds :]) * SCALE).astype(np.int64)
        p, q = np.cumsum(prices), np.cumsum(prices * np.arange(len(prices)))
        s, o, k = of.prompt[of.request], of.output[of.request], of.start
        cost = SCALE * (k + o - self.arrival[of.request]) + (s - k) * (p[k + o] - p[k]) + q[k + o] - q[k]
        paid = 0
        for cut, price in zip(self.cuts, cut_prices.tolist(), strict=False):
            cost[cut.members] += price * cut.coefficients
            paid += price * cut.right
        table = np.full((n, int(k.max()) + 1), NEVER, dtype=np.int64)
        table[of.request, k] = cost if allowed is None else np.where(allowed, cost, NEVER)
        least = table.min(axis=1)
        bound = int(least.sum()) - of.capacity * int(prices.sum()) - paid
        reduced = np.where(table < NEVER, table - least[:, None], NEVER)
        multipliers = np.rint(duals[:n] * SCALE).astype(np.int64)
        return CliqueBound(bound, reduced, prices, multipliers, int((cut_prices > 0).sum()))


def add_cuts(solver: Any, cuts: list[Cut]) -> None:
    """Add rows to a HiGHS model."""
    if cuts:
        begin = np.cumsum([0, *(len(c.members) for c in cuts)])
        solver.addRows(
            len(cuts), np.full(len(cuts), -np.inf), np.array([c.right for c in cuts], dtype=np.float64), int(begin[-1]),
            begin[:-1].astype(np.int32), np.concatenate([c.members for c in cuts]).astype(np.int32),
            np.concatenate([c.coefficients for c in cuts]).astype(np.float64),
        )  # fmt: skip
