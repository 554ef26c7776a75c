"""The search for a proven optimum: relaxed diagrams that know more and more of the memory and of the requests started.

"Each request starts once" is relaxed with a multiplier for each request; the cheapest path is a lower bound then, and
column generation finds the best multipliers (`columns`).

1. *Root.* The memory as a multiset of held tokens, in which requests are forgotten once they hold no more than a floor
   (`partitions`): the same few thousand states in every layer.
2. *Climbs.* Of the root only what is on paths up to a limit is kept, so much that a given number of arcs is left. It is
   made finer again and again, each time with the best multipliers, and what is above the limit is pruned: first the
   floor is lowered until all that is held is known; then one more request is remembered at a time, of those that paths
   most often start twice or not at all. When nothing is left, no schedule is within the limit. When all requests are
   remembered, paths are schedules, and the cheapest is optimal.
3. The next climb keeps twice as many arcs, so that its limit is higher, up to just below the schedule known.

That the limit follows from the size, and not the size from the limit, lets every climb end, and each gives a bound.

Related: Ibaraki and Nakamura, successive sublimation dynamic programming (Management Science 40, 1994), Tanaka,
Fujikuma and Araki (Journal of Scheduling 12, 2009) for one machine; Boland, Dethridge and Dumitrescu, decremental
state space relaxation (Operations Research Letters 34, 2006); Bergman, Cire, van Hoeve and Hooker, Decision Diagrams
for Optimization (2016) for relaxed diagrams; Desaulniers, Desrosiers and Solomon, Column Generation (2005).

Every bound is exact: multipliers are whole multiples of 1 / SCALE, sums of them are 64-bit integers.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from modelkit.errors import SolverError
from modelkit.instance import Instance
from modelkit.problems.kv.best_known import hindsight, local_search
from modelkit.problems.kv.diagram.builder import TooWideError, beam_search, first_diagram, refine
from modelkit.problems.kv.diagram.columns import Ascent, ascend
from modelkit.problems.kv.diagram.diagram import MOST_REQUESTS, SCALE, Diagram, Ints, Path, Reversed, WithinLimit
from modelkit.problems.kv.diagram.partitions import PartitionBound
from modelkit.problems.kv.local_search import fits, improve_starts, latency, list_schedule
from modelkit.problems.kv.neighbourhoods import improve_windows
from modelkit.problems.kv.start_windows import start_windows
from modelkit.problems.problem import KV

#: The stages of large neighbourhood search.
NEIGHBOURHOODS = "exact neighbourhoods"
#: Share of the time for the first of them.
NEIGHBOURHOODS_SHARE = 0.06
#: Share of the time of a climb for the schedules that follow it.
BETWEEN_SHARE = 0.25
#: Share of the time for the first beams.
BEAM_SHARE = 0.08
#: Width of the first beam, and how much wider the next is.
BEAM, WIDER = 100, 3
#: Seconds of large neighbourhood search from the schedule of a beam.
REPAIR = 1.0
#: Longest output that a profile holds [round].
MOST_OUTPUT = 128
#: Most starts that are looked at.
MOST_STARTS = 200_000
#: Share of the time for the root.
ROOT_SHARE = 0.4
#: Width of a diagram.
WIDTH = 100_000
#: Arcs kept by the first climb.
LEAST_KEPT = 250_000
#: Arcs kept by any climb, at most.
MOST_KEPT = 8_000_000
#: Arcs up to which requests are remembered 2, 3 and 5 at a time, and then all.
SEVERAL = ((300_000, 2), (100_000, 3), (30_000, 5), (5_000, MOST_REQUESTS))
#: Share of the time kept from the climbs.
RESERVE = 0.05
#: A step may take this share of the time left, or fewer arcs are kept.
AHEAD = 3
#: Steps of subgradients in a climb.
STEPS = 20
#: Steps of the root after which a path is taken to start a local search from.
TAKING = 25
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
        self._beam, self._beam_took, self._seed = BEAM, 0.0, 0
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
        if self.proven or (problem := self._reversed()) is None:
            return
        try:
            if (root := self._root(problem)) is not None and len(self.starts) <= MOST_REQUESTS:
                self._climbs(*root)
        except SolverError as error:
            self.trouble = str(error)
        if finite and not self.proven:
            self._neighbourhoods(1.0)

    def _reversed(self) -> Reversed | None:
        """The problem with its start windows, if the diagrams can take it."""
        windows = self.windows() if self.windows else self._find_windows()
        many = sum(map(len, windows))
        self._done("start windows", f"{many:,} starts")
        if many > MOST_STARTS:
            self._done("root", "not tried: too many starts")
            return None
        problem = Reversed.of(self.instance, windows)
        if problem.most_multiplier < SCALE * self.value:
            self._done("root", "not tried: sums of costs might not fit 64 bits")
            return None
        return problem

    def _find_windows(self) -> list[Ints]:
        known = hindsight(self.instance, local_search(self.instance, self.starts))
        return start_windows(self.instance, known)

    def _until(self, share: float) -> float:
        """When that share of the time left is over."""
        now = time.perf_counter()
        return now + share * (self.deadline - now)

    def _root(self, problem: Reversed) -> tuple[PartitionBound, Ints] | None:
        """The bound by partitions with its best multipliers."""
        bound = PartitionBound.of(problem)
        if bound is None:
            self._done("root", "not tried: what is held has too many partitions")
            return None
        until = self._until(ROOT_SHARE)
        found = self._ascend(bound, bound.equal(self.value), problem, until)
        states, floor = len(bound.partitions.age), bound.floor
        self._done("root", f"{states:,} states, forgotten at {floor} tokens; {found.steps} steps")
        return bound, bound.free(found.multipliers)

    def _climbs(self, root: PartitionBound, multipliers: Ints) -> None:
        """Climb, each time with up to twice as many arcs, as there is time."""
        kept, ends = LEAST_KEPT, self._until(1 - RESERVE)
        if math.isfinite(ends):
            self._schedules(root, multipliers, self._until(BEAM_SHARE))
        now = time.perf_counter()
        while not self.proven and now < ends:
            before, began = self.bound, now
            self._climb(root, multipliers, kept, ends)
            if kept == MOST_KEPT and self.bound == before:
                return
            now = time.perf_counter()
            kept = min(2 * kept, MOST_KEPT)
            if math.isfinite(ends) and not self.proven:
                self._schedules(root, multipliers, now + BETWEEN_SHARE * min(now - began, ends - now))
                kept = min(kept, int(kept * max(0, ends - time.perf_counter()) / (now - began)))

    def _climb(self, root: PartitionBound, multipliers: Ints, kept: int, ends: float) -> None:
        """Prove that no schedule is within a limit that leaves about this many arcs, or find one.

        As the time comes to an end fewer arcs are kept, so that the climb, with a lower limit, ends before it.
        """
        exact, floor = root.problem, root.floor
        lowest, n = int(exact.prompt.min()), len(multipliers)
        root.evaluate(multipliers)
        limit = root.find_limit(multipliers, self.bound, self.value - 1, kept)
        remembered: list[int] = []
        diagram: Diagram | None = None
        note, misses = "", np.zeros(n)
        while not self.proven:
            began = time.perf_counter()
            arcs = diagram.arcs if diagram else kept
            problem = exact.forget_below(floor)
            try:
                if diagram is None:
                    made = first_diagram(problem, root, multipliers, limit * SCALE, ends, width=WIDTH)
                else:
                    made = refine(
                        diagram, problem, multipliers, limit * SCALE, ends, remembered=remembered, width=WIDTH
                    )
            except TooWideError:
                note = ": too wide, or out of time"
                break
            if made.exact:
                self._keep(made, problem, multipliers)
                self._prove((limit + 1) * SCALE)
                break
            ascent, diagram = self._ascend_within(made, multipliers, problem, limit)
            multipliers = ascent.multipliers
            if not diagram.nodes:
                self._prove((limit + 1) * SCALE)
                break
            now = time.perf_counter()
            if math.isfinite(ends):
                kept = min(kept, max(SEVERAL[-1][0], int((ends - now) / AHEAD / (now - began) * arcs)))
            limit, diagram = diagram.find_limit(problem, multipliers, self.bound, min(limit, self.value - 1), kept)
            if floor > lowest:
                floor = max(lowest, min(floor - 1, floor * 4 // 5))
                continue
            if len(remembered) == n and diagram.arcs >= arcs:
                note = ": too wide"
                break
            misses = ascent.misses
            misses[remembered] = -1
            # of those equally often missed or repeated, the one that takes the most memory
            order = np.lexsort((-problem.load.sum(axis=1), -misses))[: n - len(remembered)].tolist()
            remembered += order[: max((many for most, many in SEVERAL if diagram.arcs <= most), default=1)]
        self._done("climb", f"limit {limit}, {len(remembered)} of {n} requests remembered{note}")

    def _schedules(self, root: PartitionBound, multipliers: Ints, until: float) -> None:
        """Look for schedules: by ever wider beams, and in the neighbourhoods of the best known."""
        found = ""
        while not self.proven and time.perf_counter() + WIDER * self._beam_took < until:
            began = time.perf_counter()
            limit = (2 * self.value - self.bound) * SCALE
            with contextlib.suppress(TooWideError):
                beam = beam_search(root.problem, root, multipliers, limit, self.deadline, width=self._beam)
                path = beam.evaluate(root.problem, multipliers)
                self._beam_took = time.perf_counter() - began
                if path is not None:
                    starts = root.problem.starts(path.layers)
                    key = np.where(path.times > 0, starts, self.instance.arrays.output - self.value)
                    self._offer(starts)
                    self._explore(list_schedule(self.instance, key), min(REPAIR, until - time.perf_counter()))
            self._beam_took = max(self._beam_took, REPAIR / WIDER)
            found = f"a beam of {self._beam:,}; "
            self._beam *= WIDER
        self._explore(self.starts, until - time.perf_counter())
        self._done(NEIGHBOURHOODS, f"{found}windows of requests started again at their best")

    def _explore(self, starts: Ints, seconds: float) -> None:
        """Large neighbourhood search from these starts."""
        if seconds > 0 and not self.proven:
            self._seed += 1
            self._offer(
                improve_windows(
                    self.instance, starts, seed=self._seed, effort=None, time_limit=seconds, target=self.bound
                )
            )

    def _keep(self, diagram: Diagram, problem: Reversed, multipliers: Ints) -> None:
        """Keep the cheapest path of a diagram that knows the requests started, if it has a path."""
        path = diagram.evaluate(problem, multipliers)
        if path is not None and (path.times == 1).all():
            self._offer(problem.starts(path.layers))

    def _offer(self, starts: Ints) -> None:
        """Take better starts. What is merged may ask for more memory than there is: it is looked at here."""
        if latency(self.instance, starts) < self.value and fits(self.instance, starts):
            self.starts = starts

    def _ascend_within(
        self, diagram: Diagram, multipliers: Ints, problem: Reversed, limit: int
    ) -> tuple[Ascent, Diagram]:
        """The best multipliers for a diagram, and what they leave of it; it is pruned on the way."""
        within = WithinLimit(diagram, problem, limit)
        found = self._ascend(within, multipliers, problem, math.inf, target=limit, steps=STEPS)
        return found, within.diagram.prune(problem, found.multipliers, limit)

    def _ascend(
        self,
        relaxation: PartitionBound | WithinLimit,
        multipliers: Ints,
        problem: Reversed,
        until: float,
        *,
        target: int | None = None,
        steps: int = 100,
    ) -> Ascent:
        heard = 0

        def hear(path: Path) -> None:
            nonlocal heard
            heard += 1
            self._prove(path.value if target is None else min(path.value, (target + 1) * SCALE))
            if (path.times == 1).all():
                self._offer(problem.starts(path.layers))
            elif target is None and heard % TAKING == 0:
                self._improve(problem.starts(path.layers), path.times)

        def over() -> bool:
            return self.late or self.proven or time.perf_counter() > until

        goal = (self.value - 1 if target is None else target) * SCALE
        most = problem.most_tried
        return ascend(relaxation, multipliers, target=goal, most=most, over=over, steps=steps, listen=hear)

    def _neighbourhoods(self, share: float) -> None:
        """Large neighbourhood search for a share of the time that is left."""
        self._explore(self.starts, share * (self.deadline - time.perf_counter()))
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
