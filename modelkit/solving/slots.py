"""The slot problem: a bound from packing, and the schedule of a search over plans of stages.

Packing knows of no arrivals: where requests arrive over time, and for other objectives than the makespan, an instance
is one of serving in real time (``modelkit.solving.serving``) whose slots are a limit on the batch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from modelkit.certificate import Certificate, Weights
from modelkit.errors import InterruptedWith
from modelkit.instance import Instance
from modelkit.problems.problem import SLOTS
from modelkit.problems.serving.bounds import TITLES, serving_bounds
from modelkit.problems.slots.packing import packing_bound
from modelkit.result import Result, StopReason
from modelkit.runtime.deadline import Deadline
from modelkit.runtime.interrupts import interrupts_held
from modelkit.solving.candidates import slot_search
from modelkit.solving.certified import CertifiedBound, Task
from modelkit.solving.method import NO_SOLVER, Method
from modelkit.solving.serving import ServingSearch
from modelkit.verify.exact_bounds import certify_slots

if TYPE_CHECKING:
    from modelkit.solving.outcome import Candidate, SolveState


def bound(task: Task) -> CertifiedBound:
    """Bound on the makespan by packing, and a schedule close to it; on the total latency as in real time."""
    if task.metric != SLOTS.objective or task.instance.arrays.arrival.any():
        return _InRealTime(task).run()
    task.tell("packing")
    certificate = slot_certificate(task.instance)
    task.tell("local search", None, certificate.value)
    interrupted = False
    try:
        schedule = slot_search(task.instance, seed=task.seed).run(task.deadline.at, task.gap)
    except InterruptedWith as stop:
        interrupted, schedule = True, stop.best
    with interrupts_held() as held:
        known = task.judge_schedule(certificate, schedule)
    return known.interrupted() if interrupted or held.pressed else known


class _InRealTime(ServingSearch):
    """The search of the serving problem, which packing helps where it bounds the makespan."""

    titles: ClassVar[Mapping[str, str]] = {**TITLES, "packing": "the rounds that some slot decodes, from 0 on"}

    def prove(self, deadline: Deadline) -> None:
        """The best of the bounds that take no ascent."""
        if self.task.metric == SLOTS.objective:
            began = time.perf_counter()
            certificate = slot_certificate(self.task.instance)
            self.offer("packing", certificate, time.perf_counter() - began)
        super().prove(deadline)


def makespan_certificate(instance: Instance) -> Certificate:
    """The better one of packing and, where requests arrive over time, the work that they bring."""
    packed = slot_certificate(instance)
    if not instance.arrays.arrival.any():
        return packed
    worked = serving_bounds(instance, SLOTS.objective)[0].certificate
    return max(packed, worked, key=lambda certificate: certificate.value)


def slot_certificate(instance: Instance) -> Certificate:
    """Certificate of the slot problem: the closed form, or weights where packing proves more rounds.

    It counts from 0 on, whenever requests arrive.
    """
    rounds, weights = packing_bound(instance.arrays.output, instance.server.slots or 1)
    return certify_slots(instance, None if weights is None else Weights(rounds=rounds, values=weights.tolist()))


class SlotMethod(Method):
    """Search over plans of stages, certificates by packing."""

    certifies_at_once = True

    def bound(self, task: Task) -> CertifiedBound:
        """See `bound`."""
        return bound(task)

    def find_certificate(self, run: SolveState) -> Certificate:
        """By packing, or the work that arrives."""
        return makespan_certificate(run.instance)

    def first_schedules(self, run: SolveState) -> list[Candidate]:
        """That of a search, which has a value for exact formulations alone."""
        if run.formulation.claim != "exact":
            return super().first_schedules(run)
        try:
            return [run.judge_schedule("local-search", run.known.slot_search.run(run.deadline.at))]
        except InterruptedWith as stop:
            run.start = run.judge_schedule("local-search", stop.best)
            raise

    def without_solver(self, run: SolveState, reason: str, stop: StopReason) -> Result:
        """The schedule to start from, with a certified bound."""
        if run.start is None:
            return super().without_solver(run, reason, stop)
        return run.conclude(None, stop, f"{reason}; {NO_SOLVER}")
