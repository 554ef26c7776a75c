"""The slot problem: a bound from packing, and the schedule of a search over plans of stages."""

from __future__ import annotations

from modelkit.certificate import Certificate, Weights
from modelkit.errors import InterruptedWith
from modelkit.instance import Instance
from modelkit.problems.slots.packing import packing_bound
from modelkit.runtime.interrupts import interrupts_held
from modelkit.solving.candidates import slot_search
from modelkit.solving.certified import CertifiedBound, Task
from modelkit.verify.exact_bounds import certify_slots


def bound(task: Task) -> CertifiedBound:
    """Bound on the makespan by packing, and a schedule close to it."""
    task.tell("packing")
    certificate = slot_certificate(task.instance)
    task.tell("local search", None, certificate.value)
    interrupted = False
    try:
        schedule = slot_search(task.instance, seed=task.seed).run(task.deadline.at, task.gap)
    except InterruptedWith as stop:
        interrupted, schedule = True, stop.best
    with interrupts_held() as held:
        known = task.judged(certificate, schedule)
    return known.interrupted() if interrupted or held.pressed else known


def slot_certificate(instance: Instance) -> Certificate:
    """Certificate of the slot problem: the closed form, or weights where packing proves more rounds."""
    rounds, weights = packing_bound(instance.arrays.output, instance.server.slots or 1)
    return certify_slots(instance, None if weights is None else Weights(rounds=rounds, values=weights.tolist()))
