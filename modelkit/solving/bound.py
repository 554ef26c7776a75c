"""A certified lower bound and a schedule close to it, at trace scale and without a solver."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelkit.arguments import checked_arguments
from modelkit.certificate import Certificate, Weights
from modelkit.errors import InterruptedWith, ModelkitError, UsageError
from modelkit.instance import Instance, InstanceStamp
from modelkit.io import load
from modelkit.judge import judge
from modelkit.problems.kv.best_known import best_listed
from modelkit.problems.kv.idle import busy
from modelkit.problems.kv.local_search import first_schedule, latency, schedule_of, searched
from modelkit.problems.kv.neighbourhoods import few_run_at_once, windows_searched
from modelkit.problems.kv.prices import Ascent, ascend
from modelkit.problems.kv.relaxation import Floats
from modelkit.problems.slots.packing import packing_bound
from modelkit.problems.slots.search import improved_slot_schedule
from modelkit.problems.slots.stages import stages_refusal
from modelkit.resources import VERSION
from modelkit.result import News, Objective, Producer, Result, Seconds, status_of
from modelkit.runtime.deadline import Deadline, within
from modelkit.runtime.interrupts import interruptible, interrupts_held
from modelkit.schedule import Schedule
from modelkit.verify.exact_bounds import certify, certify_slots

#: Default limit [s].
TIME_LIMIT = 60.0
#: Share of the time for the prices; the search over schedules has the rest.
PRICES_SHARE = 0.5
#: Share of that for a local search where exact neighbourhoods follow it.
LOCAL_SHARE = 0.2
#: Seconds for each request that certifying takes, which follows the prices, and replaying, which comes last.
CERTIFYING, REPLAYING = 3e-5, 3e-5
#: Share of the value by which floating point may put it below an exact bound.
ROUNDING = 1e-9


@dataclass(frozen=True)
class CertifiedBound:
    """A lower bound with its certificate, and the best schedule found on the way, judged.

    The result carries the certificate too.

    Raises
    ------
    ModelkitError
        The schedule is valid and better than the bound, so that one of the two is wrong.
    """

    certificate: Certificate
    result: Result

    def __post_init__(self) -> None:
        value, bound = self.result.objective.value, self.certificate.value
        if value is not None and bound - value > ROUNDING * abs(value):
            raise ModelkitError(
                f"the bound {bound:.10g} is above the value {value:.10g} of a valid schedule: one of the two is wrong,"
                " and neither is reported; this is a fault of modelkit, please report it with the instance"
            )

    @property
    def value(self) -> float:
        """The bound on the total latency [round] or the makespan [ms]."""
        return self.certificate.value

    @property
    def gap(self) -> float | None:
        """(best schedule - bound) / best schedule."""
        return self.result.objective.gap


@checked_arguments
@interruptible()
def bound(
    instance: Instance,
    *,
    time_limit: float | None = TIME_LIMIT,
    gap: float = 0.0,
    seed: int = 0,
    listen: Callable[[News], None] | None = None,
) -> CertifiedBound:
    """Lower bound on any schedule, recomputed exactly, and a schedule close to it.

    On the total latency under the unit clock, and on the makespan of slots in stages. Ctrl-C ends the search: the
    bound and the schedule are then the best so far, and the result's ``stop`` is ``interrupted``.

    Parameters
    ----------
    time_limit
        Seconds until the result is there: prices, search and judgement; only the first compilation of what is compiled
        when it is first used overruns it. None: a fixed amount of work, after which the same seed gives the same bytes.
    gap
        Gap (value - bound) / value at which the search stops.
    seed
        Of the search.
    listen
        Called with news of the phases, schedules and bounds.

    Raises
    ------
    UsageError
        The instance is neither of the KV-cache problem nor of the slot problem, or an argument is not of its kind.
    InfeasibleError
        Some request can never run.
    TooLargeError
        Arrivals and outputs reach too far.
    """
    instance = load(instance)
    instance.check_fits()
    began = time.perf_counter()
    deadline = Deadline.after(time_limit)
    if (outside := stages_refusal(instance)) is None:
        return _slot_bound(instance, time_limit, gap, seed, listen or (lambda news: None))
    if not instance.is_unit or instance.server.slots is not None:
        raise UsageError(
            "certified bounds are for the unit clock without slots, and for slots in stages; this instance is"
            f" neither: for the latter it {outside}"
        )
    value: float | None = None
    least: float | None = None

    def tell(phase: str) -> None:
        if listen:
            listen(News(phase, time.perf_counter() - began, value, least))

    def priced(found: float) -> None:
        nonlocal least
        least = float(np.floor(found))
        tell("prices")

    def shortened(found: int) -> None:
        nonlocal value
        value = float(found)
        tell("local search")

    def certified(prices: Floats) -> Certificate:
        rounds = timeline.rounds(len(prices))
        found = certify(original, prices, rounds=rounds, seconds=time.perf_counter() - began)
        if found.value < int(original.arrays.output.sum()):  # the bound without prices
            found = certify(original, np.zeros(0), seconds=time.perf_counter() - began)
        return found

    tell("list scheduling")
    original, timeline = instance, busy(instance)
    instance = timeline.instance
    with within(deadline):
        starts = first_schedule(instance)
    search = Deadline(deadline.at - REPLAYING * len(starts))
    value = float(latency(instance, starts))
    prices = np.zeros(0)
    certificate: Certificate | None = None
    interrupted = False
    try:
        if (starts > instance.arrays.arrival).any():
            until = Deadline(search.share(PRICES_SHARE).at - CERTIFYING * len(starts))
            ascent = ascend(instance, starts, deadline=until, listen=priced)
            prices = ascent.prices
        certificate = certified(prices)
        least = float(certificate.value)
        if len(prices):
            starts = best_listed(instance, starts, ascent.mean_starts, search)
            left = None if time_limit is None else search.left
            limits: dict[str, Any] = {"time_limit": left, "effort": None} if left is not None else {}
            target = certificate.value / max(1e-9, 1 - gap)
            few = few_run_at_once(instance)
            if few and left is not None:
                limits["time_limit"] = LOCAL_SHARE * left
            starts = searched(instance, starts, seed=seed, target=target, listen=shortened, **limits)
            if few:
                if left is not None:
                    limits["time_limit"] = search.left
                starts = windows_searched(instance, starts, seed=seed, target=target, listen=shortened, **limits)
    except KeyboardInterrupt as stop:
        interrupted = True
        found = stop.best if isinstance(stop, InterruptedWith) else None
        if isinstance(found, Ascent):
            prices = found.prices
        elif found is not None:
            starts = found
    options = {"time_limit": time_limit, "gap": gap}
    with interrupts_held() as held:
        if certificate is None:
            certificate = certified(prices)
        known = _judged(
            original,
            certificate,
            schedule_of(original, timeline.starts(starts)),
            "total_latency_rounds",
            options,
            seed,
            began,
        )
    return _interrupted(known) if interrupted or held.pressed else known


def _interrupted(known: CertifiedBound) -> CertifiedBound:
    result = known.result.model_copy(update={"stop": "interrupted", "message": "interrupted; the best so far"})
    return CertifiedBound(known.certificate, result)


def slot_certificate(instance: Instance) -> Certificate:
    """Certificate of the slot problem: the closed form, or weights where packing proves more rounds."""
    rounds, weights = packing_bound(instance.arrays.output, instance.server.slots or 1)
    return certify_slots(instance, None if weights is None else Weights(rounds=rounds, values=weights.tolist()))


def _slot_bound(
    instance: Instance, time_limit: float | None, gap: float, seed: int, listen: Callable[[News], None]
) -> CertifiedBound:
    began = time.perf_counter()
    deadline = None if time_limit is None else began + time_limit
    listen(News("packing", 0.0))
    certificate = slot_certificate(instance)
    listen(News("local search", time.perf_counter() - began, None, certificate.value))
    interrupted = False
    try:
        schedule = improved_slot_schedule(instance, seed=seed, deadline=deadline, gap=gap)
    except InterruptedWith as stop:
        interrupted, schedule = True, stop.best
    options = {"time_limit": time_limit, "gap": gap}
    with interrupts_held() as held:
        known = _judged(instance, certificate, schedule, "makespan_ms", options, seed, began)
    return _interrupted(known) if interrupted or held.pressed else known


def _judged(
    instance: Instance,
    certificate: Certificate,
    schedule: Schedule,
    metric: str,
    options: dict[str, float | None],
    seed: int,
    began: float,
) -> CertifiedBound:
    """The bound with its schedule, replayed; one that the judge refuses is shown and has no value."""
    solved = time.perf_counter()
    verdict = judge(instance, schedule)
    value = verdict.metrics[metric] if verdict.valid else None
    least = certificate.value
    if value is not None and value < least <= value + ROUNDING * abs(value):
        least = value  # the same number, added up in doubles
    message = "" if verdict.valid else f"the judge rejects the schedule: {verdict.violations[0].message}"
    result = Result(
        instance=InstanceStamp.of(instance),
        producer=Producer(kind="improvement", name="local-search", options=dict(options), seed=seed, modelkit=VERSION),
        status=status_of(verdict, value, least),
        stop="finished" if verdict.valid else "failed",
        message=message,
        objective=Objective(name=metric, value=value, bound=least, bound_by="certificate"),
        metrics=verdict.metrics,
        violations=[v.document() for v in verdict.violations],
        schedule=schedule,
        certificate=certificate,
        seconds=Seconds(solve=solved - began, judge=time.perf_counter() - solved, total=time.perf_counter() - began),
    )
    return CertifiedBound(certificate, result)
