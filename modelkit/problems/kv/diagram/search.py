"""The search for a proven optimum: relaxed diagrams that know more and more of the memory and of the requests started.

"Each request starts once" is relaxed with a multiplier for each request; the cheapest path is a lower bound then, and
column generation finds the best multipliers (`columns`).

1. *Root.* The memory as a multiset of held tokens, in which requests are forgotten once they hold no more than a floor
   (`partitions`): the same few thousand states in every layer.
2. *Climbs.* Of the root only what is on paths up to a limit is kept, and made finer and pruned until nothing is left or
   paths are schedules (`climbs`). The first keeps little and has little time; the next keep more, up to a limit just
   below the schedule known.
3. *Schedules.* Beams within the root, and large neighbourhood search, have time in proportion to what climbs took.

Related: Ibaraki and Nakamura, successive sublimation dynamic programming (Management Science 40, 1994), Tanaka,
Fujikuma and Araki (Journal of Scheduling 12, 2009) for one machine; Boland, Dethridge and Dumitrescu, decremental
state space relaxation (Operations Research Letters 34, 2006); Bergman, Cire, van Hoeve and Hooker, Decision Diagrams
for Optimization (2016) for relaxed diagrams; Desaulniers, Desrosiers and Solomon, Column Generation (2005).

Every bound is exact: multipliers are whole multiples of 1 / SCALE, sums of them are 64-bit integers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from modelkit.errors import SolverError
from modelkit.instance import Instance
from modelkit.problems.kv.best_known import hindsight, local_search
from modelkit.problems.kv.diagram.climbs import Climbs
from modelkit.problems.kv.diagram.columns import STEPS, Ascent, Column, Relaxation, ascend
from modelkit.problems.kv.diagram.diagram import MOST_REQUESTS, SCALE, Ints, Path, Reversed
from modelkit.problems.kv.diagram.partitions import PartitionBound
from modelkit.problems.kv.diagram.schedules import Schedules
from modelkit.problems.kv.local_search import fits, improve_starts, latency, list_schedule
from modelkit.problems.kv.start_windows import start_windows
from modelkit.problems.problem import KV

#: The stages of large neighbourhood search.
NEIGHBOURHOODS = "exact neighbourhoods"
#: Share of the time for the first of them, at most.
NEIGHBOURHOODS_SHARE = 0.06
#: Time for schedules as a share of what the root or a climb before took.
BETWEEN_SHARE = 0.25
#: Longest output that a profile holds [round].
MOST_OUTPUT = 128
#: Most starts that are looked at.
MOST_STARTS = 200_000
#: Share of the time for the root.
ROOT_SHARE = 0.4
#: States of the partitions kept by the first climb, how many more by the next, and by any at most.
LEAST_KEPT, MORE, MOST_KEPT = 250_000, 4, 16_000_000
#: Share of the time for the first climb.
FIRST_SHARE = 0.3
#: Share of the time kept from the climbs.
RESERVE = 0.1
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
        self._schedules = Schedules(self)
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
        if self._finite and not self.proven:
            self._schedules.run(self.starts, NEIGHBOURHOODS_SHARE * (self.deadline - time.perf_counter()))
            self._done(NEIGHBOURHOODS, "windows of requests started again at their best")
        if self.proven or (problem := self._reversed()) is None:
            return
        try:
            if (root := self._root(problem)) is not None and len(self.starts) <= MOST_REQUESTS:
                self._climb(*root)
        except SolverError as error:
            self.trouble = str(error)
        if self._finite and not self.proven:
            self._explore("", self.deadline)

    @property
    def _finite(self) -> bool:
        return math.isfinite(self.deadline)

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

    def _root(self, problem: Reversed) -> tuple[PartitionBound, Ascent] | None:
        """The bound by partitions with its best multipliers."""
        bound = PartitionBound.of(problem)
        if bound is None:
            self._done("root", "not tried: what is held has too many partitions")
            return None
        found = self.ascend(bound, bound.equal(self.value), problem, self._until(ROOT_SHARE), repair=True)
        states, floor = len(bound.partitions.age), bound.floor
        self._done("root", f"{states:,} states, forgotten at {floor} tokens; {found.steps} steps")
        return bound, found

    def _climb(self, root: PartitionBound, found: Ascent) -> None:
        """Climb as often as there is time, and look for schedules before each."""
        climbs, kept, ends = Climbs(self, root, found), LEAST_KEPT, self._until(1 - RESERVE)
        took, share = self.stages[-1].seconds, FIRST_SHARE
        while not self.proven and time.perf_counter() < ends:
            if self._finite:
                until = time.perf_counter() + min(BETWEEN_SHARE * took, ends - time.perf_counter())
                self._explore(self._schedules.beams(root, climbs.multipliers, until), until)
            before, began = self.bound, time.perf_counter()
            climb = climbs.climb(kept, min(ends, self._until(share)))
            self._done("climb", str(climb))
            took, share = time.perf_counter() - began, 1.0
            if self.bound == before and (climb.crowded or kept == MOST_KEPT):
                return
            if not climb.crowded:
                kept = min(MORE * kept, MOST_KEPT)
            elif ends - time.perf_counter() < took:
                return

    def _explore(self, found: str, until: float) -> None:
        """Large neighbourhood search until then."""
        self._schedules.explore(until - time.perf_counter())
        self._done(NEIGHBOURHOODS, f"{found}windows of requests started again at their best")

    def ascend(
        self,
        relaxation: Relaxation,
        multipliers: Ints,
        problem: Reversed,
        until: float,
        *,
        target: int | None = None,
        steps: int = STEPS,
        columns: Sequence[Column] = (),
        slack: float = 0.0,
        repair: bool = False,
    ) -> Ascent:
        """The best multipliers of a relaxation, or some that prove its paths to be above a target.

        Parameters
        ----------
        until
            When to stop, on the clock of ``time.perf_counter``.
        target
            Total latency that paths of the relaxation may have [round]; None for any.
        steps, columns, slack
            As of `columns.ascend`.
        repair
            Whether to search locally from some of the paths.
        """
        heard = 0
        last: Path | None = None

        def hear(path: Path) -> None:
            nonlocal heard, last
            heard, last = heard + 1, path
            self.prove(path.value if target is None else min(path.value, (target + 1) * SCALE))
            if (path.times == 1).all():
                self.offer(problem.starts(path.layers))
            elif repair and heard % TAKING == 0:
                self._improve(self._key(problem, path))

        def over() -> bool:
            return self.late or self.proven or time.perf_counter() > until

        goal = (self.value - 1 if target is None else target) * SCALE
        found = ascend(
            relaxation, multipliers, target=goal, most=problem.most_tried, over=over, steps=steps, columns=columns,
            slack=slack, listen=hear,
        )  # fmt: skip
        if last is not None:
            self._schedules.suggest(self._key(problem, last))
        return found

    def _key(self, problem: Reversed, path: Path) -> Ints:
        """Order of the requests as a path starts them; those that it misses come last."""
        starts = problem.starts(path.layers)
        return np.where(path.times > 0, starts, starts.max() + self.instance.arrays.output)

    def _improve(self, key: Ints) -> None:
        """List the requests in this order, and search locally from there."""
        left = min(LOCAL, self.deadline - time.perf_counter())
        if left > 0:
            first = list_schedule(self.instance, key)
            self.offer(improve_starts(self.instance, first, effort=2e7, time_limit=left, target=self.bound))

    def offer(self, starts: Ints) -> None:
        """Take better starts. What is forgotten may need more memory than there is: it is looked at here."""
        if latency(self.instance, starts) < self.value and fits(self.instance, starts):
            self.starts = starts

    def prove(self, bound: int) -> None:
        """Raise the bound, which comes in units of 1 / SCALE."""
        self.bound = max(self.bound, min(-(-bound // SCALE), self.value))

    def _done(self, name: str, note: str) -> None:
        now = time.perf_counter()
        self.stages.append(SearchProgress(name, now - self._began, self.value, self.bound, note))
        self._began = now
        self.listen(self.stages[-1])
