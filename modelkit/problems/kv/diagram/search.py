"""The search for a proven optimum: cliques, then relaxed diagrams that remember more and more of the requests started.

1. *Cliques.* The linear program with conflict cliques gives prices and a first bound.
2. *Root.* "Each request starts once" is relaxed with a multiplier for each request; the memory is kept, as the states
   of a decision diagram of bounded width. Subgradients find multipliers; the cheapest path is a lower bound then,
   usually within 3 % where that of the cliques is 5 to 15 % away.
3. *Climbs.* Of the root only what is on paths up to a limit is kept, so much that a given number of arcs is left. Then
   it is refined again and again: each time one more request is remembered, the one that paths most often start twice
   or not at all; multipliers are sought anew and what is above the limit is pruned. When nothing is left, no schedule
   is within the limit. When all requests are remembered, paths are schedules, and the cheapest is optimal.
4. The next climb may keep twice as many arcs, so that its limit is higher, up to just below the schedule known.

That the limit follows from the size, and not the size from the limit, lets every climb end, and each gives a bound.

Related: Ibaraki and Nakamura, successive sublimation dynamic programming (Management Science 40, 1994), Tanaka,
Fujikuma and Araki (Journal of Scheduling 12, 2009) for one machine; Boland, Dethridge and Dumitrescu, decremental
state space relaxation (Operations Research Letters 34, 2006); Bergman, Cire, van Hoeve and Hooker, Decision Diagrams
for Optimization (2016) for relaxed diagrams.

Every bound is exact: prices and multipliers are whole multiples of 1 / SCALE, sums of them are 64-bit integers.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from modelkit.instance import Instance
from modelkit.problems.kv.best_known import hindsight, local_search
from modelkit.problems.kv.cuts import Floats, Ints
from modelkit.problems.kv.diagram import kernels
from modelkit.problems.kv.diagram.builder import TooWideError, first_diagram, refine
from modelkit.problems.kv.diagram.diagram import MOST_REQUESTS, Diagram, Reversed
from modelkit.problems.kv.diagram.linear_program import SCALE, CliqueProgram
from modelkit.problems.kv.local_search import fits, improve_starts, latency, list_schedule
from modelkit.problems.kv.neighbourhoods import improve_windows
from modelkit.problems.kv.start_windows import start_windows
from modelkit.problems.problem import KV

#: The stages of large neighbourhood search.
NEIGHBOURHOODS = "exact neighbourhoods"
#: Share of the time for the first of them.
NEIGHBOURHOODS_SHARE = 0.06
#: Longest output that a profile holds [round].
MOST_OUTPUT = 128
#: Most starts that the linear program takes.
MOST_STARTS = 200_000
#: Share of the time for the cliques.
CLIQUES_SHARE = 0.15
#: Requests from which on they have another share.
LARGE = 24
#: That share.
LARGE_SHARE = 0.4
#: Gap above which no diagram gets anywhere in minutes: too many sets of requests may start together.
WIDE_GAP = 0.25
#: Widths of the root, tried in turn while there is no room.
ROOT_WIDTHS = (20_000, 6000, 2000)
#: Width of a diagram within it.
WIDTH = 100_000
#: Width of the beam for multipliers.
BEAM = 3000
#: Width of the beam for schedules.
SCHEDULES_BEAM = 1000
#: Share of the time for a beam, at most.
BEAM_SHARE = 0.3
#: Arcs kept by the first climb.
LEAST_KEPT = 250_000
#: Arcs kept by any climb, at most.
MOST_KEPT = 8_000_000
#: Arcs, so few that all requests are remembered next.
FEW = 20_000
#: Share of the time that climbs leave to large neighbourhood search.
RESERVE = 0.1
#: Refinements for which a climb must have time.
AHEAD = 3
#: Iterations of subgradients.
ITERATIONS = 150
#: Iterations of subgradients between two prunings.
PRUNING = 5
#: Seconds of local search from a path.
LOCAL = 0.5


def refusal(instance: Instance) -> str | None:
    """Why the search does not take the instance, or None."""
    if KV.refusal(instance) or instance.server.kv_capacity_tokens is None:
        return "needs the unit clock, a KV capacity and no slots"
    if len(instance.requests) > MOST_REQUESTS:
        return f"takes at most {MOST_REQUESTS} requests; found {len(instance.requests)}"
    if (longest := int(instance.arrays.output.max())) > MOST_OUTPUT:
        return f"takes outputs of at most {MOST_OUTPUT} tokens; found {longest}"
    if instance.server.kv_capacity_tokens >= 1 << 16:
        return f"takes a KV capacity below 65,536 tokens; found {instance.server.kv_capacity_tokens:,}"
    return None


@dataclass(frozen=True)
class SearchProgress:
    """Where the search stands after a stage.

    Parameters
    ----------
    name
        Of the stage.
    seconds
        That it took.
    value, bound
        Total latency of the best schedule, and the best bound on it [round].
    note
        What it did.
    """

    name: str
    seconds: float
    value: int
    bound: int
    note: str


@dataclass
class Search:
    """One search; whenever it is interrupted, ``starts`` and ``bound`` hold what is known.

    Parameters
    ----------
    instance
        One that ``refusal`` does not refuse.
    starts
        Of a known schedule, shape [n].
    deadline
        On the clock of ``time.perf_counter``; infinite for none.
    gap
        Gap (value - bound) / value at which to stop.
    listen
        Called after each stage.
    windows
        Gives the start windows, for each request in ascending order. None: they are found from ``starts``.
    """

    instance: Instance
    starts: Ints
    deadline: float = math.inf
    gap: float = 0.0
    listen: Callable[[SearchProgress], None] = lambda progress: None
    windows: Callable[[], list[Ints]] | None = None
    bound: int = 0
    stages: list[SearchProgress] = field(default_factory=list)
    trouble: str = ""  # what kept a stage from its work

    def __post_init__(self) -> None:
        self.bound = max(self.bound, int(self.instance.arrays.output.sum()))
        self._began = time.perf_counter()

    @property
    def value(self) -> int:
        """Total latency of the best schedule known [round]."""
        return latency(self.instance, self.starts)

    @property
    def proven(self) -> bool:
        """Whether the gap asked for is reached."""
        return self.value - self.bound <= self.gap * self.value

    @property
    def late(self) -> bool:
        return time.perf_counter() >= self.deadline

    def run(self) -> None:
        """Search until the optimum is proven or the time is over."""
        finite = math.isfinite(self.deadline)
        if finite and not self.proven:
            self._neighbourhoods(NEIGHBOURHOODS_SHARE)
        if self.proven or (problem := self._cliques()) is None or self.proven:
            return
        if not finite or self.value - self.bound <= WIDE_GAP * self.value:
            try:
                self._climbs(*self._root(problem), problem)
            except TooWideError:
                self._done("root diagram", "too wide, or out of time")
        if finite and not self.proven:
            self._neighbourhoods(1.0)

    def _cliques(self) -> Reversed | None:
        """Prove the bound of the linear program; returns the problem with its prices, if the diagrams can take it."""
        windows = self.windows() if self.windows else self._find_windows()
        many = sum(map(len, windows))
        self._done("start windows", f"{many:,} starts")
        if many > MOST_STARTS:
            self._done("cliques", "not tried: too many starts")
            return None
        share = LARGE_SHARE if len(self.starts) > LARGE else CLIQUES_SHARE
        program = CliqueProgram(self.instance, windows)
        known = program.cut_and_solve(self._until(share), self.value)
        self._prove(known.bound)
        self.trouble = program.trouble
        note = f"{known.cuts} conflict cliques with a price"
        self._done("cliques", f"{note}; {self.trouble}" if self.trouble else note)
        problem = Reversed.of(self.instance, known)
        if problem.most_multiplier < SCALE * self.value:
            self._done("root diagram", "not tried: sums of costs might not fit 64 bits")
            return None
        return problem

    def _find_windows(self) -> list[Ints]:
        known = hindsight(self.instance, local_search(self.instance, self.starts))
        return start_windows(self.instance, known)

    def _until(self, share: float) -> float:
        """When that share of the time left is over."""
        now = time.perf_counter()
        return now + share * (self.deadline - now)

    def _root(self, problem: Reversed) -> tuple[Diagram, Ints]:
        """The relaxed diagram of all schedules better than the one known, and multipliers for it.

        Which states give way to others depends on the multipliers: a beam makes better ones than those for the cliques.
        """
        most, limit = problem.most_multiplier, self.value - 1
        multipliers = np.clip(problem.multipliers, -most, most)
        try:
            beam = first_diagram(problem, multipliers, limit * SCALE, self._until(BEAM_SHARE), width=BEAM, beam=True)
            multipliers, beam, _ = self._ascend(beam, problem, multipliers, limit)
            self._done("multipliers", f"from a beam of {BEAM:,}")
            self._schedules(beam, problem, multipliers)
        except TooWideError:
            self._done("multipliers", "those for the cliques: no time for a beam")
        widths, limit = ROOT_WIDTHS[len(multipliers) > LARGE :], self.value - 1
        for width in widths:
            try:
                made = first_diagram(problem, multipliers, limit * SCALE, self.deadline, width=width)
                break
            except TooWideError:
                if self.late or width == widths[-1]:
                    raise
        multipliers, root, _ = self._ascend(made, problem, multipliers, limit)
        self._schedules(root, problem, multipliers)
        self._done("root diagram", f"{made.nodes:,} nodes, {made.arcs:,} arcs; {root.arcs:,} left")
        return root, multipliers

    def _climbs(self, root: Diagram, multipliers: Ints, problem: Reversed) -> None:
        """Climb, each time with up to twice as many arcs, as there is time."""
        kept, ends = LEAST_KEPT, self._until(1 - RESERVE)
        now = time.perf_counter()
        while not self.proven and now < ends:
            before, began = self.bound, now
            multipliers = self._climb(root, problem, multipliers, kept, ends)
            if kept == MOST_KEPT and self.bound == before:
                return
            now = time.perf_counter()
            kept = min(2 * kept, MOST_KEPT)
            if math.isfinite(ends):
                kept = min(kept, int(kept * max(0, ends - now) / (now - began)))

    def _climb(self, root: Diagram, problem: Reversed, multipliers: Ints, kept: int, ends: float) -> Ints:
        """Prove that no schedule is within a limit that leaves this many arcs, or find one; returns the multipliers.

        As the time comes to an end fewer arcs are kept, so that the climb, with a lower limit, ends before it.
        """
        n = len(multipliers)
        remembered: list[int] = []
        limit, diagram = root.find_limit(problem, multipliers, self.bound, self.value - 1, kept)
        note = ""
        while diagram.nodes and not self.proven:
            began, arcs = time.perf_counter(), diagram.arcs
            try:
                made = refine(diagram, problem, multipliers, limit * SCALE, ends, remembered=remembered, width=WIDTH)
            except TooWideError:
                note = ": too wide, or out of time"
                break
            if made.exact:
                self._keep(made, problem, multipliers)
                self.bound = max(self.bound, min(limit + 1, self.value))
                break
            multipliers, diagram, repeats = self._ascend(made, problem, multipliers, limit)
            now = time.perf_counter()
            if math.isfinite(ends):
                kept = min(kept, max(FEW, int((ends - now) / AHEAD / (now - began) * arcs)))
            limit, diagram = diagram.find_limit(problem, multipliers, self.bound, min(limit, self.value - 1), kept)
            if len(remembered) == n and diagram.arcs >= arcs:
                note = ": too wide"
                break
            repeats[remembered] = -1
            # of those equally often repeated, the one that takes the most memory
            order = np.lexsort((-problem.load.sum(axis=1), -repeats))[: n - len(remembered)].tolist()
            remembered += order if diagram.arcs <= FEW else order[:1]
        else:
            if not self.proven:
                self.bound = limit + 1
        self._done("climb", f"limit {limit}, {len(remembered)} of {n} requests remembered{note}")
        return multipliers

    def _schedules(self, diagram: Diagram, problem: Reversed, multipliers: Ints) -> None:
        """Look for schedules with a narrow refinement."""
        if not diagram.nodes:
            return
        everyone = range(len(multipliers))
        with contextlib.suppress(TooWideError):
            found = refine(
                diagram, problem, multipliers, (self.value - 1) * SCALE, self._until(BEAM_SHARE),
                remembered=everyone, width=SCHEDULES_BEAM, beam=True,
            )  # fmt: skip
            self._keep(found, problem, multipliers)

    def _keep(self, diagram: Diagram, problem: Reversed, multipliers: Ints) -> None:
        """Keep the cheapest path of a diagram that knows the requests started, if it has a path."""
        set_cost = diagram.set_cost(problem, multipliers)
        to_go = diagram.costs_to_go(set_cost)
        if to_go[0] < kernels.NEVER:
            times, layers = diagram.cheapest_path(set_cost, to_go, len(multipliers))
            if (times == 1).all():
                self._offer(problem.starts(layers))

    def _offer(self, starts: Ints) -> None:
        """Take better starts. What is merged may ask for more memory than there is: it is looked at here."""
        if latency(self.instance, starts) < self.value and fits(self.instance, starts):
            self.starts = starts

    def _ascend(
        self, diagram: Diagram, problem: Reversed, multipliers: Ints, limit: int
    ) -> tuple[Ints, Diagram, Floats]:
        """Subgradients with Polyak's step: the best multipliers, what is left, how often paths missed "once" [n].

        Paths above the limit [round] are pruned on the way, each by multipliers at which it is above.
        """
        best, best_multipliers = -kernels.NEVER, multipliers
        share, stale = 1.0, 0
        before, repeats = np.zeros(len(multipliers)), np.zeros(len(multipliers))
        for iteration in range(ITERATIONS):
            set_cost = diagram.set_cost(problem, multipliers)
            to_go = diagram.costs_to_go(set_cost)
            total = int(multipliers.sum())
            value = total + int(to_go[0])
            if diagram.complete:
                self._prove(min(value, limit * SCALE + 1))
            if value > limit * SCALE:
                return multipliers, diagram.prune_to(set_cost, to_go, -kernels.NEVER), repeats
            stale = 0 if value > best + SCALE // 50 else stale + 1
            if value > best:
                best, best_multipliers = value, multipliers
            if iteration % PRUNING == PRUNING - 1:
                diagram = diagram.prune_to(set_cost, to_go, limit * SCALE - total)
                to_go = diagram.costs_to_go(set_cost)
            if share < 0.02 or self.late or self.proven:
                break
            if stale >= 6:
                share, stale, multipliers = share / 2, 0, best_multipliers
                continue
            times, layers = diagram.cheapest_path(set_cost, to_go, len(multipliers))
            repeats = 0.9 * repeats + abs(times - 1)
            if iteration % 25 == 0:
                self._improve(problem.starts(layers), times)
            if (times == 1).all():
                self._offer(problem.starts(layers))
                break
            direction = 1.0 - times.astype(np.float64) + 0.3 * before
            length = float(direction @ direction)
            if length < 0.1:
                direction = 1.0 - times.astype(np.float64)
                length = float(direction @ direction)
            before = direction
            step = share * max((limit + 1) * SCALE - value, SCALE // 4) / length
            moved = multipliers + np.rint(step * direction).astype(np.int64)
            multipliers = np.clip(moved, -problem.most_multiplier, problem.most_multiplier)
        set_cost = diagram.set_cost(problem, best_multipliers)
        to_go = diagram.costs_to_go(set_cost)
        return best_multipliers, diagram.prune_to(set_cost, to_go, limit * SCALE - int(best_multipliers.sum())), repeats

    def _neighbourhoods(self, share: float) -> None:
        """Large neighbourhood search for a share of the time that is left."""
        left = share * (self.deadline - time.perf_counter())
        if left > 0:
            found = improve_windows(self.instance, self.starts, effort=None, time_limit=left, target=self.bound)
            self._offer(found)
            self._done(NEIGHBOURHOODS, "windows of requests started again at their best")

    def _improve(self, starts: Ints, times: Ints) -> None:
        """List the requests as a path starts them, and search locally from there."""
        key = np.where(times > 0, starts, starts.max() + self.instance.arrays.output)
        left = min(LOCAL, self.deadline - time.perf_counter())
        if left > 0:
            self._offer(
                improve_starts(
                    self.instance, list_schedule(self.instance, key), effort=2e7, time_limit=left, target=self.bound
                )
            )

    def _prove(self, bound: int) -> None:
        """Raise the bound, which comes in units of 1 / SCALE."""
        self.bound = max(self.bound, min(-(-bound // SCALE), self.value))

    def _done(self, name: str, note: str) -> None:
        now = time.perf_counter()
        self.stages.append(SearchProgress(name, now - self._began, self.value, self.bound, note))
        self._began = now
        self.listen(self.stages[-1])
