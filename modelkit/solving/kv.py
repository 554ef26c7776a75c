"""The KV-cache problem: prices on memory that prove a bound, and the schedule that they and a local search lead to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkit.certificate import Certificate, CertificateKind, Partitions
from modelkit.errors import InputError, InterruptedWith, SolverError
from modelkit.instance import Instance
from modelkit.problems.kv.best_known import best_list_schedule
from modelkit.problems.kv.diagram import NEIGHBOURHOODS
from modelkit.problems.kv.diagram.root import best_multipliers
from modelkit.problems.kv.idle import Busy, busy
from modelkit.problems.kv.local_search import (
    MANY,
    first_schedule,
    improve_starts,
    latency,
    schedule_of,
    starts_of,
)
from modelkit.problems.kv.neighbourhoods import improve_windows, runs_few_at_once
from modelkit.problems.kv.prices import Ascent, ascend
from modelkit.problems.kv.relaxation import Floats, Ints
from modelkit.problems.kv.start_windows import Starts, check_size
from modelkit.problems.problem import KV
from modelkit.result import Result, StopReason
from modelkit.runtime.deadline import Deadline, within
from modelkit.runtime.interrupts import interrupts_held
from modelkit.solving.candidates import first_starts
from modelkit.solving.certified import CertifiedBound, Task
from modelkit.solving.method import NO_SOLVER, Method
from modelkit.verify.exact_bounds import certify, certify_partitions

if TYPE_CHECKING:
    from modelkit.solving.outcome import Candidate, SolveState

#: Share of the time for the prices; the search over schedules has the rest.
PRICES_SHARE = 0.5
#: Share of that for a local search where exact neighbourhoods follow it.
LOCAL_SHARE = 0.2
#: Share of the time that is left for a search, where judging and certifying follow.
SEARCH_SHARE = 0.8
#: Seconds for each request that certifying takes, which follows the prices.
CERTIFYING = 3e-5
#: Seconds for each request that replaying takes, which comes last.
REPLAYING = 3e-5


#: What certificates of each kind are called among the bounds of a problem that this one bounds.
BOUNDS: dict[CertificateKind, str] = {"kv-prices": "memory", "kv-partitions": "partitions"}


def bound(task: Task, first: Ints | None = None) -> CertifiedBound:
    """Bound on the total latency by prices on memory, and a schedule close to it.

    Parameters
    ----------
    first
        Starts of the schedule to begin with where it is known, shape [n], of the instance without idle time.
    """
    value: float | None = None
    least: float | None = None

    def priced(found: float) -> None:
        nonlocal least
        least = float(np.floor(found))
        task.tell("prices", value, least)

    def shorten(found: int) -> None:
        nonlocal value
        value = float(found)
        task.tell("local search", value, least)

    def find_certificate(prices: Floats) -> Certificate:
        rounds = timeline.rounds(len(prices))
        found = certify(original, prices, rounds=rounds, seconds=task.elapsed)
        if found.value < int(original.arrays.output.sum()):  # the bound without prices
            found = certify(original, np.zeros(0), seconds=task.elapsed)
        return found

    task.tell("list scheduling")
    original, timeline = task.instance, busy(task.instance)
    instance = timeline.instance
    with within(task.deadline):
        starts = first_starts(instance) if first is None else first
    search = Deadline(task.deadline.at - REPLAYING * len(starts))
    value = float(latency(instance, starts))
    prices = np.zeros(0)
    certificate: Certificate | None = None
    interrupted = False
    try:
        if (starts > instance.arrays.arrival).any():
            until = Deadline(search.share(PRICES_SHARE).at - CERTIFYING * len(starts))
            # where requests are many, prices rise sooner from a list schedule than from that of a policy
            reference = starts if len(starts) <= MANY else first_schedule(instance)
            ascent = ascend(instance, reference, deadline=until, listen=priced)
            prices = ascent.prices
        certificate = find_certificate(prices)
        least = float(certificate.value)
        few = runs_few_at_once(instance)
        if few and least < value and not task.prices_only:
            certificate = _over_partitions(task, instance, int(value), certificate, search.share(PRICES_SHARE), priced)
            least = float(certificate.value)
        if len(prices):
            starts = best_list_schedule(instance, starts, ascent.mean_starts, search)
            left = None if task.time_limit is None else search.left
            limits: dict[str, Any] = {"time_limit": left, "effort": None} if left is not None else {}
            target = certificate.value / max(1e-9, 1 - task.gap)
            if few and left is not None:
                limits["time_limit"] = LOCAL_SHARE * left
            starts = improve_starts(instance, starts, seed=task.seed, target=target, listen=shorten, **limits)
            if few:
                if left is not None:
                    limits["time_limit"] = search.left
                starts = improve_windows(instance, starts, seed=task.seed, target=target, listen=shorten, **limits)
    except KeyboardInterrupt as stop:
        interrupted = True
        found = stop.best if isinstance(stop, InterruptedWith) else None
        if isinstance(found, Ascent):
            prices = found.prices
        elif found is not None:
            starts = found
    with interrupts_held() as held:
        if certificate is None:
            certificate = find_certificate(prices)
        known = task.judge_schedule(certificate, schedule_of(original, timeline.starts(starts)))
    return known.interrupted() if interrupted or held.pressed else known


def _over_partitions(
    task: Task,
    instance: Instance,
    value: int,
    known: Certificate,
    until: Deadline,
    listen: Callable[[float], None],
) -> Certificate:
    """The better of a certificate and one by partitions of the held tokens.

    Parameters
    ----------
    instance
        That of the task without idle time.
    value
        Total latency of a known schedule.
    listen
        Told the best bound so far.
    """
    try:
        found = best_multipliers(instance, value, until.at, listen)
        if found is None:
            return known
        proof = Partitions(
            denominator=found.denominator, floors=found.floors.tolist(), multipliers=found.values.tolist()
        )
        return max(certify_partitions(task.instance, proof, seconds=task.elapsed), known, key=lambda c: c.value)
    except (InputError, SolverError):  # too much to recompute, or no linear program
        return known


class KvMethod(Method):
    """Local search from list schedules, certificates by prices, start windows."""

    def bound(self, task: Task) -> CertifiedBound:
        """See `bound`."""
        return bound(task)

    def timeline(self, instance: Instance) -> Busy:
        """Without idle rounds."""
        return busy(instance)

    def check_size(self, run: SolveState) -> None:
        """Refuse what leaves more starts than can be looked at."""
        check_size(run.inner, run.known.first)

    def starts_kept(self, run: SolveState) -> Starts:
        """How many starts the windows keep; they are looked for before the model, so that they are handed on."""
        return run.known.starts_kept

    def find_certificate(self, run: SolveState) -> Certificate | None:
        """By the prices that were computed for the start windows."""
        if run.formulation.claim != "exact":
            return None
        if run.certificate is None and run.searched and run.instance.server.kv_capacity_tokens is not None:
            return run.proven(run.known.local_search.prices)
        return run.certificate

    def first_schedules(self, run: SolveState) -> list[Candidate]:
        """That of a local search."""
        try:
            return [run.judge_schedule("local-search", run.outer(run.known.local_search.schedule))]
        except InterruptedWith as stop:
            run.start = run.judge_schedule("local-search", run.outer(stop.best.schedule))
            if run.formulation.claim == "exact" and run.instance.server.kv_capacity_tokens is not None:
                run.certificate = run.proven(stop.best.prices)
            raise

    def refine_start(self, run: SolveState) -> None:
        """Large neighbourhood search from the schedule of the local search, where few requests run at once."""
        if run.start is None or run.start.source != "local-search" or not runs_few_at_once(run.inner):
            return
        before = time.perf_counter()
        run.tell(NEIGHBOURHOODS)
        try:
            run.start = run.judge_schedule("local-search", run.outer(run.known.hindsight.schedule))
        except InterruptedWith as stop:
            run.start = run.judge_schedule("local-search", run.outer(stop.best.schedule))
            raise
        run.passed(NEIGHBOURHOODS, before, "windows of requests started again at their best")

    def without_solver(self, run: SolveState, reason: str, stop: StopReason) -> Result:
        """The schedule of a local search with a certified bound."""
        message = f"{reason}; {NO_SOLVER}"
        if run.deadline.finite and run.start is not None:
            self._improve(run, run.start)
            return run.conclude(None, stop, message)
        left = run.deadline.left if run.deadline.finite else None
        limits = run.limits
        task = Task(run.instance, KV.objective, left, limits.gap, limits.seed, run.listen)
        known = bound(task, run.known.first)
        assert known.result.schedule is not None
        run.certificate = known.certificate
        run.start = run.judge_schedule("local-search", known.result.schedule, known.verdict)
        return run.conclude(None, known.result.stop, message)

    @staticmethod
    def _improve(run: SolveState, start: Candidate) -> None:
        """Spend the time that is left on the schedule known, with the bound that the prices prove."""
        run.certificate = run.proven(run.known.local_search.prices)
        starts = starts_of(run.inner, run.timeline.within(start.schedule))
        left, target = SEARCH_SHARE * run.deadline.left, run.certificate.value
        found = improve_starts(run.inner, starts, seed=run.limits.seed, effort=None, time_limit=left, target=target)
        better = run.judge_schedule("local-search", run.outer(schedule_of(run.inner, found)))
        if better.value is not None and better.value < (start.value or 0):
            run.start = better
