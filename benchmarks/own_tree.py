"""A small branch and cut of our own on HiGHS's linear program, for measuring.

Best first. A node says in which rounds each request may start; one request's start is at most t in one child and
later in the other, t the weighted mean of its fractional starts. At every node rows are separated, which hold
everywhere and stay. Each bound comes from prices by exact recomputation (`CliqueProgram`), which also takes starts
away: those whose reduced cost is above what is left to the best schedule.
"""

from __future__ import annotations

import heapq
import itertools
import time
from typing import Any

import numpy as np

from modelkit.bounds import hindsight, start_windows
from modelkit.cuts import Family, Floats, Ints, first_found
from modelkit.diagram.cliques import MOST_ADDED, SCALE, CliqueProgram, add_cuts
from modelkit.improve import latency, listed, schedule_of, searched
from modelkit.instance import Instance
from modelkit.judge import judge

#: Share of the time for the root's cuts, rounds of separation at a node, and excess that a row needs there.
ROOT_SHARE, SEPARATIONS, VIOLATION = 0.4, 3, 0.05


class BranchAndCut:
    """One search; ``value``, ``bound`` and ``nodes`` say where it stands."""

    def __init__(self, instance: Instance, deadline: float, families: tuple[Family, ...]) -> None:
        self.instance, self.deadline = instance, deadline
        self.starts = hindsight(instance).starts
        self.program = CliqueProgram(instance, start_windows(instance), families)
        self.bound, self.nodes = 0, 0

    @property
    def value(self) -> int:
        """Total latency of the best schedule known [round]."""
        return latency(self.instance, self.starts)

    def run(self) -> None:
        """Search until the optimum is proven or the time is over."""
        now = time.perf_counter()
        root = self.program.solved(now + ROOT_SHARE * (self.deadline - now), self.value)
        of = self.program.candidates
        self.solver = self.program.linear_program()
        everything = root.reduced[of.request, of.start] <= (self.value - 1) * SCALE - root.bound
        ticket = itertools.count(1)
        heap = [(root.bound, 0, everything)]
        while heap:
            self.bound = min(-(-heap[0][0] // SCALE), self.value)
            if self.bound == self.value or time.perf_counter() > self.deadline:
                return
            bound, _, allowed = heapq.heappop(heap)
            self.nodes += 1
            found, x, allowed = self._solved(bound, allowed)
            if found is None or -(-found // SCALE) >= self.value:
                continue
            if x is None:  # out of time
                heap.append((bound, 0, allowed))
                return
            for child in self._children(x, allowed):
                heapq.heappush(heap, (max(bound, found), next(ticket), child))
        self.bound = self.value

    def _solved(self, bound: int, allowed: Any) -> tuple[int | None, Floats | None, Any]:
        """The bound of a node, a fractional point, and the starts left; no bound when no schedule is left."""
        of, solver, best = self.program.candidates, self.solver, bound
        columns = np.arange(len(allowed), dtype=np.int32)
        for separation in range(SEPARATIONS + 1):
            if np.bincount(of.request[allowed], minlength=len(of.output)).min() == 0:
                return None, None, allowed
            upper = np.where(allowed, np.inf, 0.0)
            solver.changeColsBounds(len(columns), columns, np.zeros(len(columns)), upper)
            solver.setOptionValue("time_limit", solver.getRunTime() + max(0.1, self.deadline - time.perf_counter()))
            solver.run()
            status = solver.modelStatusToString(solver.getModelStatus())
            if status == "Unknown":  # numerical trouble: from scratch, without the basis
                solver.clearSolver()
                solver.run()
                status = solver.modelStatusToString(solver.getModelStatus())
            solution = solver.getSolution()
            if status == "Infeasible":
                return None, None, allowed
            if status != "Optimal":  # out of time: the point keeps to no rows
                return best, None, allowed
            priced = self.program.priced(np.array(solution.row_dual), allowed)
            best = max(best, priced.bound)
            allowed = allowed & (priced.reduced[of.request, of.start] <= (self.value - 1) * SCALE - priced.bound)
            if -(-best // SCALE) >= self.value:
                return best, None, allowed
            x = np.array(solution.col_value)
            if separation == SEPARATIONS:
                break
            turn = (self.nodes * 97 + separation) % len(x)
            cuts = first_found(self.program.families, of, x, VIOLATION, MOST_ADDED, turn)
            if not cuts:
                break
            self.program.cuts += cuts
            add_cuts(solver, cuts)
        return best, x, allowed

    def _children(self, x: Floats, allowed: Any) -> list[Any]:
        """Both sides of the most spread request's mean start; none when x is a schedule."""
        of = self.program.candidates
        mean = np.bincount(of.request, x * of.start)
        spread = np.bincount(of.request, x * np.abs(of.start - mean[of.request]))
        key = np.rint(mean * 1000).astype(np.int64)
        if self.nodes % 10 == 1:
            self._offer(searched(self.instance, listed(self.instance, key), effort=1e6, time_limit=0.2))
        i = int(np.argmax(spread))
        if spread[i] < 1e-6:
            starts = np.rint(mean).astype(np.int64)
            assert judge(self.instance, schedule_of(self.instance, starts)).valid  # else the node is not done
            self._offer(starts)
            return []
        cut = np.floor(mean[i])
        early = (of.request != i) | (of.start <= cut)
        return [allowed & early, allowed & ((of.request != i) | ~early)]

    def _offer(self, starts: Ints) -> None:
        better = latency(self.instance, starts) < self.value
        if better and judge(self.instance, schedule_of(self.instance, starts)).valid:
            self.starts = starts
