"""Goodput: how many requests can keep their service levels, certified, and a schedule in which many do.

1. Policies, told the true lengths.
2. Prices on intervals (`modelkit.problems.serving.goodput`), recomputed exactly by ``modelkit.verify``.
3. A search for a schedule with more requests in time, all or those that the prices choose
   (`modelkit.problems.serving.in_time`); on several replicas of each, with the requests that the best policy sends it.
   Where requests share prefixes, the best policy once more, on the chosen alone; the others come after these.

Both sides are said of the requests outside their levels, which a schedule is to make few: a lower bound like others.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

from modelkit.arguments import checked_arguments
from modelkit.certificate import Certificate
from modelkit.errors import InterruptedWith, UsageError
from modelkit.instance import Instance
from modelkit.io import load
from modelkit.judge import Verdict, judge
from modelkit.judge.slo import Slo, service_levels
from modelkit.problems.problem import OUTSIDE_SLO
from modelkit.problems.replicas.servers import alone, served, side_by_side
from modelkit.problems.serving.goodput import GoodputPrices, goodput_certificate, goodput_prices
from modelkit.problems.serving.in_time import in_time_schedule
from modelkit.problems.serving.plans import search_refusal
from modelkit.requests import ServiceLevels
from modelkit.runtime.deadline import Deadline
from modelkit.schedule import Schedule
from modelkit.simulation.simulate import clairvoyant_schedule, fitting_policies
from modelkit.solving.certified import CertifiedBound, Task
from modelkit.verify.serving_goodput import rate_bound

#: Shares of the time that is left: policies, then prices, then the search.
POLICIES_SHARE, PRICES_SHARE, SEARCH_SHARE = 0.2, 0.5, 0.95
#: Shares of a request that the program must choose for it to be served first.
CHOSEN = (0.99, 0.5)
COUNTS = "the work that requests in time leave room for, in intervals of time"


def goodput(task: Task) -> CertifiedBound:
    """The certified bound on the requests outside their levels, and the schedule with the fewest that was found.

    Raises
    ------
    UsageError
        The instance has no service levels, and none are given; or it is under the unit clock.
    """
    if task.instance.is_unit:
        raise UsageError("goodput is bounded in real time; this instance has the unit clock")
    if task.slo is None and task.instance.server.slo is None:
        raise UsageError("goodput needs service levels: --slo ttft=450ms,tpot=40ms, or server.slo in the instance")
    search = _Search(replace(task, metric=OUTSIDE_SLO))
    interrupted = False
    try:
        search.run()
    except KeyboardInterrupt:
        interrupted = True
        search.least()
    found = search.conclude()
    return found.interrupted() if interrupted else found


def most_in_time(instance: Instance, slo: ServiceLevels | None = None, seconds: float = 20.0) -> float:
    """The share of the requests that no schedule exceeds within their levels, by a bound found in so many seconds."""
    certificate = goodput_certificate(instance, goodput_prices(instance, slo, Deadline.after(seconds)))
    return 1.0 - certificate.value / len(instance.requests)


@checked_arguments
def sustainable_rate(instance: Instance, slo: Slo = None, share: float = 0.99) -> float | None:
    """The rate [requests/s] above which no policy keeps the service levels of a share of the requests in the long run.

    For a stationary stream of requests with lengths as those of the instance, such as a Poisson stream; in closed form.
    `docs/pages/notes/goodput.md` proves it.

    Parameters
    ----------
    slo
        Service levels, such as ``"ttft=450ms,tpot=40ms"``; None: those of the instance.
    share
        Of the requests, above 0 and at most 1.

    Returns
    -------
    float or None
        0 where fewer can keep their levels even alone; None where the levels set no end to anything.

    Raises
    ------
    UsageError
        There are no levels, or the instance is under the unit clock.
    """
    instance = load(instance)
    levels = service_levels(slo, instance) or instance.server.slo
    if levels is None or not 0 < share <= 1:
        raise UsageError("sustainable_rate needs service levels, and a share above 0 and at most 1")
    most = rate_bound(instance, levels, Fraction(str(share)))
    return math.nextafter(float(most), math.inf) if most else most if most is None else 0.0


class _Search:
    """The best schedule, judged, and the bound so far."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.best: tuple[float, Verdict, Schedule, str] | None = None
        self.certificate: Certificate | None = None

    def run(self) -> None:
        """All stages."""
        self.try_policies(self.task.deadline.share(POLICIES_SHARE))
        prices = self.prove(self.task.deadline.share(PRICES_SHARE))
        if search_refusal(self.task.instance) is None:
            self.improve(prices, self.task.deadline.share(SEARCH_SHARE))
        else:
            self.serve_chosen(prices)

    def least(self) -> None:
        """A schedule and a bound, in the least time."""
        if self.best is None:
            self.try_policies(Deadline(0.0))
        if self.certificate is None:
            self.prove(Deadline(0.0))

    def see(self, name: str, schedule: Schedule) -> None:
        """Judge a schedule, and keep it if it is valid and the best."""
        verdict = judge(self.task.instance, schedule, self.task.slo)
        value = verdict.metrics[OUTSIDE_SLO] if verdict.valid else None
        if self.best is None or (value is not None and value < self.best[0]):
            self.best = value if value is not None else len(self.task.instance.requests), verdict, schedule, name

    def tell(self, phase: str, bound: float | None = None) -> None:
        self.task.tell(phase, None if self.best is None else self.best[0], bound)

    def try_policies(self, deadline: Deadline) -> None:
        """Every fitting policy that there is time for, with and without a gate."""
        for name in policy_names(self.task.instance):
            if self.best is not None and deadline.over:
                break
            self.tell(f"policy {name}")
            self.see(name, clairvoyant_schedule(self.task.instance, name))

    def prove(self, deadline: Deadline) -> GoodputPrices:
        """Prices on intervals, and their certificate."""
        task = self.task
        prices = goodput_prices(task.instance, task.slo, deadline, lambda most: self.tell("prices on intervals", most))
        self.certificate = goodput_certificate(task.instance, prices, round(task.elapsed, 3))
        return prices

    @property
    def done(self) -> bool:
        """Whether the gap asked for is reached."""
        if self.best is None or self.certificate is None:
            return False
        return self.best[0] - self.certificate.value <= self.task.gap * abs(self.best[0])

    def improve(self, prices: GoodputPrices, deadline: Deadline) -> None:
        """Search each replica with the requests that the best schedule sends it."""
        assert self.best is not None
        assert self.certificate is not None
        instance, least = self.task.instance, self.certificate.value
        if self.done or not self.best[1].valid:
            return
        self.tell("search for requests in time", least)
        stays = self.best[1].residencies
        homes = served(stays, instance.server.replicas)
        left, found, interrupted = sum(map(len, homes)), [], False
        for requests in homes:
            until = Deadline(0.0) if interrupted else deadline.share(len(requests) / left) if left else deadline
            left -= len(requests)
            try:
                found.append(self.search_alone(requests, prices, until) if requests else Schedule())
            except InterruptedWith as stop:
                found.append(stop.best)
                interrupted = True
        self.see("local-search", side_by_side(found))
        if interrupted:
            raise KeyboardInterrupt

    def search_alone(self, requests: list[int], prices: GoodputPrices, deadline: Deadline) -> Schedule:
        """The search of one replica."""
        instance, levels = self.task.instance, self.task.slo or self.task.instance.server.slo
        assert levels is not None
        assert self.certificate is not None
        is_all, bound = len(requests) == len(instance.requests), self.certificate.value

        def listen(within: int) -> None:
            if is_all:
                self.task.tell("search for requests in time", float(len(requests) - within), bound)

        return in_time_schedule(
            alone(instance, requests) if instance.server.replicas > 1 else instance, levels,
            choices=[prices.chosen[requests] >= least for least in CHOSEN], deadline=deadline, seed=self.task.seed,
            enough=math.floor(len(requests) - bound) if is_all else None, listen=listen,
        )  # fmt: skip

    def serve_chosen(self, prices: GoodputPrices) -> None:
        """The best policy on the requests that the prices choose, and then on the others."""
        assert self.best is not None
        name = self.best[3]
        for least in CHOSEN:
            if self.task.deadline.over:
                return
            first = {
                r.id for r, share in zip(self.task.instance.requests, prices.chosen, strict=True) if share >= least
            }
            if 0 < len(first) < len(self.task.instance.requests):
                self.see(name, _in_two_parts(self.task.instance, first, name))

    def conclude(self) -> CertifiedBound:
        """Both sides."""
        assert self.best is not None
        assert self.certificate is not None
        _, verdict, schedule, name = self.best
        found = self.task.judge_schedule(self.certificate, schedule, verdict=verdict, name=name)
        return replace(found, counts=COUNTS, result=found.result.model_copy(update={"slo": self.task.slo}))


def policy_names(instance: Instance) -> list[str]:
    """Policies for an instance, each also with a gate where it takes one."""
    from modelkit.policies import get_policy

    names = fitting_policies(instance)
    gated = [f"{name}:gate=auto" for name in names if any(o.name == "gate" for o in get_policy(name).options)]
    return [*names, *gated]


def _in_two_parts(instance: Instance, first: set[str], policy: str) -> Schedule:
    """The schedule of a policy on some requests, and when these are done on the others."""
    early = instance.replace(requests=tuple(r for r in instance.requests if r.id in first))
    one = clairvoyant_schedule(early, policy)
    end = (judge(early, one).metrics["makespan_ms"] or 0.0) / 1000.0
    rest = [r for r in instance.requests if r.id not in first]
    late = instance.replace(requests=tuple(r.model_copy(update={"arrival": max(float(r.arrival), end)}) for r in rest))
    two = clairvoyant_schedule(late, policy)
    return replace(one, segments=(*one.segments, *two.segments))
