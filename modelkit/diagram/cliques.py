"""Conflict cliques of the KV-cache problem, and the linear program that they strengthen.

*Conflict.* Two starts (i, k) and (j, l) of different requests conflict when both are active in the round e of the first
of their two ends and ``s_i + e - k + s_j + e - l > M``. Proof that no schedule has both: held memory grows while a
request runs, so e is the round in which they hold most together, and there they hold more than M. Two starts of one
request conflict because it starts once.

*Clique.* Of pairwise conflicting starts a schedule has at most one: ``sum x <= 1``. The peak cliques of one round with
q = 1 are among them: of any two members, the one that ends first holds its peak >= p in its last round and the
other more than M - p.

*Bound.* With prices lambda_t >= 0 on rounds and pi_C >= 0 on cliques,

    L = sum_i min_k rc_i(k) - M sum_t lambda_t - sum_C pi_C,
    rc_i(k) = k + o_i - a_i + sum_{j=1}^{o_i} lambda_{k+j} (s_i + j) + sum_{C contains (i,k)} pi_C

is at most the total latency of any schedule whose starts are looked at. Prices are taken from the linear program's
duals and rounded to multiples of 1 / SCALE; L is then recomputed in integers, so the solver's word is not needed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from modelkit.diagram.kernels import NEVER
from modelkit.instance import Instance

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Units of a round in which costs are whole numbers.
SCALE = 1 << 20
#: A clique is added when it is violated by more; less when little else is found.
VIOLATION, SMALL_VIOLATION = 0.02, 0.005
#: Rounds of separation after which small violations count, cliques added in a round at most.
PATIENCE, MOST_ADDED = 60, 60
#: Every so many rounds, cliques that do not bind are taken out.
CLEANING = 6


@njit(cache=True)
def conflict(i: int, k: int, j: int, l: int, prompt: Any, output: Any, capacity: int) -> bool:  # noqa: E741
    """Whether no schedule starts i at k and j at l."""
    if i == j:
        return True
    end = min(k + output[i], l + output[j])
    if end <= k or end <= l:
        return False
    return bool(prompt[i] + end - k + prompt[j] + end - l > capacity)


@njit(cache=True)
def separate(
    request: Any, start: Any, x: Any, prompt: Any, output: Any, capacity: int, violation: float, most: int, turn: int
) -> Any:
    """Cliques that a fractional solution violates: grown greedily by the weight of the common neighbourhood.

    Each is then extended by all starts that conflict with every member, from the start ``turn`` on. Returns members and
    where those of each clique begin.
    """
    columns = len(request)
    support = np.flatnonzero(x > 1e-7)
    m = len(support)
    weight = x[support]
    meets = np.zeros((m, m), np.bool_)
    for a in range(m):
        for b in range(a):
            meets[a, b] = meets[b, a] = conflict(
                request[support[a]], start[support[a]], request[support[b]], start[support[b]], prompt, output, capacity
            )
    members = [np.int64(0) for _ in range(0)]
    begin = [0]
    used = np.zeros(m, np.int64)
    for seed in np.argsort(-weight):
        if used[seed] >= 2:
            continue
        common = meets[seed].copy()
        clique = [seed]
        total = weight[seed]
        while True:
            best, most_weight = -1, -1.0
            for v in range(m):
                if common[v]:
                    worth = weight[v]
                    for u in range(m):
                        if common[u] and meets[v, u]:
                            worth += weight[u]
                    if worth > most_weight:
                        best, most_weight = v, worth
            if best < 0:
                break
            clique.append(best)
            total += weight[best]
            common &= meets[best]
        if total <= 1 + violation:
            continue
        whole = [support[v] for v in clique]
        inside = np.zeros(columns, np.bool_)
        for v in clique:
            used[v] += 1
            inside[support[v]] = True
        for step in range(columns):
            c = (step + turn) % columns
            if inside[c]:
                continue
            fits = True
            for v in whole:
                if not conflict(request[c], start[c], request[v], start[v], prompt, output, capacity):
                    fits = False
                    break
            if fits:
                whole.append(c)
                inside[c] = True
        members.extend(whole)
        begin.append(len(members))
        if len(begin) > most:
            break
    return np.array(members), np.array(begin)


@dataclass
class CliqueBound:
    """Prices on rounds and cliques, in units of 1 / SCALE, and what they prove.

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
    cliques
        Those with a price.
    """

    bound: int
    reduced: Ints
    prices: Ints
    multipliers: Ints
    cliques: int


class CliqueProgram:
    """The linear program over starts, with cliques added as they are violated.

    Parameters
    ----------
    windows
        Starts of each request that are looked at.
    """

    def __init__(self, instance: Instance, windows: list[Ints]) -> None:
        arrays = instance.arrays
        assert instance.server.kv_capacity_tokens is not None
        self.capacity = instance.server.kv_capacity_tokens
        self.arrival, self.prompt, self.output = (
            np.ascontiguousarray(a, dtype=np.int64) for a in (arrays.arrival, arrays.prompt, arrays.output)
        )
        self.request = np.concatenate([np.full(len(w), i, dtype=np.int64) for i, w in enumerate(windows)])
        self.start = np.concatenate(windows).astype(np.int64)
        self.rounds = int((self.start + self.output[self.request]).max())
        self.cliques: list[Ints] = []

    def solved(self, deadline: float, target: float) -> CliqueBound:
        """Cutting planes until none is found, the deadline, or the bound exceeds ``target`` - 1."""
        solver = self._program()
        n, rows = len(self.output), len(self.output) + self.rounds
        best = self._priced(np.zeros(rows))
        turn = 0
        for separations in range(1, 100_000):
            solver.setOptionValue("time_limit", solver.getRunTime() + max(0.1, deadline - time.perf_counter()))
            solver.run()
            solution = solver.getSolution()
            if solution.dual_valid:
                found = self._priced(np.array(solution.row_dual))
                best = max(best, found, key=lambda b: b.bound)
            if time.perf_counter() > deadline or best.bound > (target - 1) * SCALE or not solution.value_valid:
                break
            if separations % CLEANING == 0:
                binding = np.array(solution.row_value)[rows:] > 1 - 1e-6
                slack = np.flatnonzero(~binding)
                solver.deleteRows(len(slack), (slack + rows).astype(np.int32))
                self.cliques = [c for c, binds in zip(self.cliques, binding, strict=True) if binds]
            violation = VIOLATION if separations < PATIENCE else SMALL_VIOLATION
            members, begin = separate(
                self.request, self.start, np.array(solution.col_value), self.prompt, self.output, self.capacity,
                violation, MOST_ADDED, turn,
            )  # fmt: skip
            turn = (turn + len(self.start) // 3 + 1) % len(self.start)
            many = len(begin) - 1
            if many == 0:
                break
            self.cliques += [members[a:b] for a, b in pairwise(begin)]
            solver.addRows(
                many, np.full(many, -np.inf), np.ones(many), len(members), begin[:-1].astype(np.int32),
                members.astype(np.int32), np.ones(len(members)),
            )  # fmt: skip
        assert len(best.multipliers) == n
        return best

    def _program(self) -> Any:
        import highspy  # late, as it is for all other solves
        from scipy.sparse import csr_matrix

        from modelkit.backends.highs import lp_model
        from modelkit.backends.standard_form import StandardForm

        n, columns = len(self.output), len(self.start)
        length = self.output[self.request]
        column = np.repeat(np.arange(columns), length)
        step = np.arange(len(column)) - np.repeat(np.cumsum(length) - length, length)
        held = self.prompt[self.request][column] + 1 + step
        matrix = csr_matrix(
            (
                np.concatenate([np.ones(columns), held]),
                (
                    np.concatenate([self.request, n + self.start[column] + step]),
                    np.concatenate([np.arange(columns), column]),
                ),
            ),
            shape=(n + self.rounds, columns),
        )
        form = StandardForm(
            cost=(self.start + length - self.arrival[self.request]).astype(np.float64),
            offset=0.0,
            indptr=matrix.indptr,
            indices=matrix.indices,
            values=matrix.data,
            row_lower=np.concatenate([np.ones(n), np.full(self.rounds, -np.inf)]),
            row_upper=np.concatenate([np.ones(n), np.full(self.rounds, float(self.capacity))]),
            lower=np.zeros(columns),
            upper=np.full(columns, np.inf),
            integer=np.zeros(columns, dtype=np.bool_),
        )
        solver = highspy.Highs()
        solver.setOptionValue("output_flag", False)
        solver.setOptionValue("threads", 1)
        solver.passModel(lp_model(form))
        return solver

    def _priced(self, duals: Floats) -> CliqueBound:
        """What the prices in these duals prove, in integers."""
        n = len(self.output)
        prices = np.zeros(self.rounds + int(self.output.max()) + 2, dtype=np.int64)
        prices[1 : self.rounds + 1] = np.rint(np.maximum(0, -duals[n : n + self.rounds]) * SCALE)
        clique_prices = np.rint(np.maximum(0, -duals[n + self.rounds :]) * SCALE).astype(np.int64)
        p, q = np.cumsum(prices), np.cumsum(prices * np.arange(len(prices)))
        s, o, k = self.prompt[self.request], self.output[self.request], self.start
        cost = SCALE * (k + o - self.arrival[self.request]) + (s - k) * (p[k + o] - p[k]) + q[k + o] - q[k]
        for clique, price in zip(self.cliques, clique_prices.tolist(), strict=False):
            cost[clique] += price
        table = np.full((n, int(k.max()) + 1), NEVER, dtype=np.int64)
        table[self.request, k] = cost
        least = table.min(axis=1)
        bound = int(least.sum()) - self.capacity * int(prices.sum()) - int(clique_prices.sum())
        reduced = np.where(table < NEVER, table - least[:, None], NEVER)
        multipliers = np.rint(duals[:n] * SCALE).astype(np.int64)
        return CliqueBound(bound, reduced, prices, multipliers, int((clique_prices > 0).sum()))
