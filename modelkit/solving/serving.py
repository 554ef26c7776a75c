"""Serving in real time: the best of several certified bounds, and the schedule of a search that knows all lengths.

1. The best of the fitting policies, told the true lengths, and of list schedules with gates.
2. Bounds that take no ascent: by residence, work and interference (`modelkit.problems.serving.bounds`).
3. Of few requests the optimum, where a search over states ends (`modelkit.problems.serving.states`).
4. Prices on time, started from that schedule (`modelkit.problems.serving.prices`).
5. With the time that is left, the search over when prompts are let in (`modelkit.problems.serving.search`).

The greatest of the bounds is published, each recomputed exactly by ``modelkit.verify``, with the best schedule as the
judge replays it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from modelkit.certificate import Certificate
from modelkit.errors import InterruptedWith
from modelkit.instance import Instance
from modelkit.judge import Verdict, judge
from modelkit.problems.problem import SERVING, TOTAL_LATENCY_MS
from modelkit.problems.serving.bounds import TITLES, serving_bounds
from modelkit.problems.serving.gap import open_words
from modelkit.problems.serving.iterations import schedule_from_iterations
from modelkit.problems.serving.plans import search_refusal
from modelkit.problems.serving.prices import Prices, certificate_of, price_bound
from modelkit.problems.serving.search import search_schedule
from modelkit.problems.serving.states import Windows, start_windows, states_refusal
from modelkit.result import Result, StopReason
from modelkit.runtime.deadline import Deadline
from modelkit.runtime.interrupts import interrupts_held
from modelkit.schedule import Schedule
from modelkit.simulation.simulate import clairvoyant_schedule, fitting_policies
from modelkit.solving.certified import CertifiedBound, Task
from modelkit.solving.method import NO_SOLVER, Method

if TYPE_CHECKING:
    from modelkit.solving.outcome import Candidate, SolveState

#: Shares of the time that is left: policies, then prices, then the search.
POLICIES_SHARE, PRICES_SHARE, SEARCH_SHARE = 0.2, 0.5, 0.9
#: Policies that are tried first: told the true lengths, these are seldom beaten. The first is for servers that pause.
FIRST = ("srpt", "svf:gate=auto", "mc-sf:gate=auto", "svf", "sorted-f", "mc-sf")
#: Share of the time that is left for a search over states, and what is said where it ended.
STATES_SHARE = 0.3
OPTIMAL = "a search over states has ended: the schedule is optimal, which no certificate proves"
#: Requests up to which each has prices of its own, in coarser buckets where there are many.
OWN_PRICES = 20_000
#: Requests up to which a fixed amount of work includes prices.
PRICED = 2000


def bound(task: Task) -> CertifiedBound:
    """The best certified bound on the task's metric, and the best schedule found."""
    return ServingSearch(task).run()


class ServingSearch:
    """What is known of one task: the best schedule, judged, and the best bound, certified.

    Attributes
    ----------
    bounds
        By its name, the best value [ms] of each kind of bound that was looked at, and how long that took [s].
    titles
        What each bound counts, by its name.
    hurried
        Whether prices on time had too little time.
    optimal
        Whether the best schedule is an optimum, by a search over states that ended.
    """

    titles: ClassVar[Mapping[str, str]] = TITLES

    def __init__(self, task: Task) -> None:
        self.task = task
        self.searches = search_refusal(task.instance) is None
        self.best: tuple[float, Verdict, Schedule, str] | None = None
        self.certificate: Certificate | None = None
        self.bounds: dict[str, tuple[float, float]] = {}
        self.hurried = False
        self.optimal = False

    def run(self) -> CertifiedBound:
        """All stages, and what they found; Ctrl-C ends them."""
        task, interrupted = self.task, False
        try:
            self.try_policies(task.deadline.share(POLICIES_SHARE))
            self.tell("bounds by residence, work and interference")
            self.prove(task.deadline)
            self.look_at_states(task.deadline.share(STATES_SHARE))
            self.price(task.deadline.share(PRICES_SHARE))
            self.improve(task.deadline.share(SEARCH_SHARE))
        except KeyboardInterrupt:
            interrupted = True
        with interrupts_held() as held:
            if self.best is None or self.certificate is None:
                self.task = replace(task, listen=lambda progress: None)  # a caller that interrupts once may do it again
                self.least()
            known = self.conclude()
        return known.interrupted() if interrupted or held.pressed else known

    def conclude(self) -> CertifiedBound:
        """The best of both, with what is known beside them."""
        assert self.best is not None
        assert self.certificate is not None
        value, verdict, schedule, name = self.best
        known = self.task.judge_schedule(self.certificate, schedule, verdict=verdict, name=name)
        first, *others = sorted(((name, least) for name, (least, _) in self.bounds.items()), key=lambda b: -b[1])
        return replace(
            known,
            counts=self.titles[first[0]],
            others=tuple(others),
            open_words=OPTIMAL
            if self.optimal and known.gap
            else open_words(
                self.task.instance, self.task.metric, value, self.certificate.value, verdict, hurried=self.hurried
            ),
        )

    def least(self) -> None:
        """A schedule and a bound, in the least time."""
        if self.best is None:
            self.try_policies(Deadline(0.0))  # the first plan of all
        if self.certificate is None:
            self.prove(Deadline(0.0))

    def list_schedule(self, deadline: Deadline) -> Schedule:
        """The best list schedule with a gate."""
        return search_schedule(self.task.instance, deadline=deadline, metric=self.task.metric, anneal=False)

    def tell(self, phase: str) -> None:
        """Tell the best so far."""
        least = None if self.certificate is None else self.certificate.value
        self.task.tell(phase, None if self.best is None else self.best[0], least)

    def see(self, name: str, schedule: Schedule) -> float | None:
        """Judge a schedule, and keep it if it is valid and the best; its value where it is valid."""
        verdict = judge(self.task.instance, schedule)
        value = verdict.metrics[self.task.metric] if verdict.valid else None
        if value is not None and (self.best is None or value < self.best[0]):
            self.best = value, verdict, schedule, name
        return value

    def to_try(self, fitting: list[str]) -> Iterable[str]:
        """The policies to try, the best at first."""
        first = [name for name in FIRST if name.partition(":")[0] in fitting]
        return dict.fromkeys((*first, *fitting))

    def try_policies(self, deadline: Deadline) -> None:
        """Every fitting policy that there is time for, told the true lengths; the search's own list schedules first."""
        instance = self.task.instance
        self.tell("list scheduling")
        if self.searches:
            self.see("local-search", self.list_schedule(deadline.share(0.5)))
        longest = 0.0
        for name in self.to_try(fitting_policies(instance)):
            if self.best is not None and (deadline.over or longest > deadline.left):
                break
            self.tell(f"policy {name}")
            began = time.perf_counter()
            self.see(name, clairvoyant_schedule(instance, name))
            longest = max(longest, time.perf_counter() - began)

    def prove(self, deadline: Deadline) -> None:
        """The best of the bounds that take no ascent."""
        for found in serving_bounds(self.task.instance, self.task.metric, deadline):
            self.offer(found.name, found.certificate, found.seconds)

    def offer(self, name: str, certificate: Certificate, seconds: float) -> None:
        """Keep a bound if it is the best."""
        self.bounds[name] = certificate.value, seconds
        if self.certificate is None or certificate.value > self.certificate.value:
            self.certificate = certificate.model_copy(update={"seconds": round(self.task.elapsed, 3)})

    def look_at_states(self, deadline: Deadline) -> None:
        """An optimal schedule, where a search over states ends."""
        if self.task.metric != TOTAL_LATENCY_MS or self.done or states_refusal(self.task.instance) is not None:
            return
        self.tell("search over states")
        found = start_windows(self.task.instance, deadline)
        if found is not None:
            self.see("local-search", schedule_of(self.task.instance, found))
            self.optimal = True

    def price(self, deadline: Deadline) -> None:
        """Prices on time, which bound the total latency; Ctrl-C keeps what they prove."""
        instance, n = self.task.instance, len(self.task.instance.requests)
        if self.task.metric != TOTAL_LATENCY_MS or self.best is None or (not deadline.finite and n > PRICED):
            return
        if self.done:
            return

        most = -math.inf

        def listen(value: float) -> None:
            nonlocal most
            most = max(most, value)
            least = self.certificate.value if self.certificate is not None else most
            phase = "prices on time" if most <= least else "prices on time, the bound not yet certified"
            self.task.tell(phase, self.best[0] if self.best else None, max(most, least))

        self.hurried = True
        completions, began = _completions(self.best[1], n), time.perf_counter()

        def offer(prices: Prices) -> None:
            self.hurried = prices.cut
            self.offer("prices", certificate_of(instance, prices), time.perf_counter() - began)

        try:
            prices = price_bound(instance, completions, own=n <= OWN_PRICES, deadline=deadline, listen=listen)
        except InterruptedWith as stop:
            if isinstance(stop.best, Prices):
                with interrupts_held():
                    offer(stop.best)
            raise
        offer(prices)

    def improve(self, deadline: Deadline) -> None:
        """Search with the time that is left."""
        if self.task.metric != TOTAL_LATENCY_MS or not self.searches or self.optimal:
            return
        if self.done or (deadline.finite and deadline.over):
            return
        least = None if self.certificate is None else self.certificate.value
        try:
            schedule = search_schedule(
                self.task.instance, deadline=deadline, seed=self.task.seed, begin=self.best and
                self.best[1].residencies, listen=lambda value: self.task.tell("local search", value, least),
            )  # fmt: skip
        except InterruptedWith as stop:
            self.see("local-search", stop.best)
            raise
        self.see("local-search", schedule)

    @property
    def done(self) -> bool:
        """Whether the gap asked for is reached."""
        if self.best is None or self.certificate is None:
            return False
        return self.best[0] - self.certificate.value <= self.task.gap * abs(self.best[0])


def _completions(verdict: Verdict, n: int) -> npt.NDArray[np.float64]:
    """When each request completes [ms], shape [n]."""
    ends = np.zeros(n)
    for residency in verdict.residencies:
        if residency.completed and residency.end is not None:
            ends[residency.request] = residency.end
    return ends


def schedule_of(instance: Instance, found: Windows) -> Schedule:
    """The schedule that a search over states ended with."""
    ids = (request.id for request in instance.requests)
    return schedule_from_iterations(instance, dict(zip(ids, found.starts, strict=True)))


def metric_of(run: SolveState) -> str | None:
    """The metric that a run's formulation minimises; None where that is none that is bounded here."""
    metric = run.formulation.metric(run.instance)
    return metric if metric in SERVING.objectives and run.formulation.value is None else None


class ServingMethod(Method):
    """Certified bounds in real time, list schedules with gates and a search over when prompts are let in."""

    def bound(self, task: Task) -> CertifiedBound:
        """See `bound`."""
        return bound(task)

    def find_certificate(self, run: SolveState) -> Certificate | None:
        """By the bounds that take no ascent."""
        metric = metric_of(run)
        if run.formulation.claim != "exact" or metric is None:
            return None
        return serving_bounds(run.instance, metric, run.deadline)[0].certificate

    def first_schedules(self, run: SolveState) -> list[Candidate]:
        """Those of policies, and that of list scheduling with gates."""
        until = run.deadline.share(POLICIES_SHARE / 2)
        metric, known = metric_of(run) or SERVING.objective, super().first_schedules(run)
        if search_refusal(run.instance) is not None:
            return known
        schedule = search_schedule(run.instance, deadline=until, metric=metric, anneal=False)
        known.append(run.judge_schedule("local-search", schedule))
        windows = run.known.searched_windows
        if windows is not None and windows.starts:
            schedule = schedule_of(run.instance, windows)
            known.append(run.judge_schedule("local-search", schedule))
        return known

    def without_solver(self, run: SolveState, reason: str, stop: StopReason) -> Result:
        """An optimal schedule, where a search over states has ended; else that of a search with a certified bound."""
        if run.known.searched_windows is not None and run.start is not None:
            run.optimum = run.known.searched_windows.value
        if run.optimum is not None:
            return run.conclude(None, "finished", f"{reason}; {OPTIMAL}")
        left = run.deadline.left if run.deadline.finite else None
        metric = metric_of(run) or SERVING.objective
        known = bound(Task(run.instance, metric, left, run.limits.gap, run.limits.seed, run.listen))
        assert known.result.schedule is not None
        run.certificate = known.certificate
        run.start = run.judge_schedule("local-search", known.result.schedule, known.verdict)
        return run.conclude(None, known.result.stop, f"{reason}; {NO_SOLVER}")
