"""Slots under the unit clock: bounds without the slots and without the memory, schedules as in real time.

Every schedule on slots is one without them, so prices on memory (``modelkit.solving.kv``) bound it; and a machine that
serves at most J requests a round bounds it where slots are short. A round lasts as long whoever is in it: the instance
is one of serving in real time with iterations of 1 ms, where the search over when prompts are let in knows slots.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from modelkit.certificate import Certificate
from modelkit.errors import InterruptedWith
from modelkit.instance import Instance, InstanceStamp, LinearClock
from modelkit.problems.problem import UNIT_SLOTS
from modelkit.problems.serving.search import search_schedule
from modelkit.runtime.deadline import Deadline
from modelkit.schedule import Schedule, Segment
from modelkit.solving import kv
from modelkit.solving.certified import CertifiedBound, Task
from modelkit.solving.method import Method
from modelkit.solving.serving import ServingSearch
from modelkit.verify.exact_bounds import NOTHING, with_bound

#: A start that is later by no more than this is that of the round [round].
NOISE = 1e-6


class UnitSlotSearch(ServingSearch):
    """What is known of one task: the best schedule, judged, and the best bound on the total latency in rounds."""

    titles: ClassVar[Mapping[str, str]] = {
        "slots": "how many the slots serve in a round",
        "memory": "prices on memory",
        "partitions": "what is held, as a multiset of tokens",
    }

    def list_schedule(self, deadline: Deadline) -> Schedule:
        """The best list schedule with a gate."""
        return slot_schedule(self.task.instance, deadline, self.task.seed, anneal=False)

    def prove(self, deadline: Deadline) -> None:
        """The bound without memory."""
        began = time.perf_counter()
        certificate = rounds_certificate(self.task.instance)
        self.offer("slots", certificate, time.perf_counter() - began)

    def price(self, deadline: Deadline) -> None:
        """Prices on memory and a schedule without slots, which may keep to them all the same."""
        instance = self.task.instance
        if instance.server.kv_capacity_tokens is None or self.done:
            return
        self.tell("prices")
        began = time.perf_counter()
        limit = deadline.left if deadline.finite else None
        freed = instance.replace(server=instance.server.model_copy(update={"slots": None}))
        known = kv.bound(self.task.of_another(freed, limit))
        certificate = known.certificate.model_copy(update={"instance": InstanceStamp.of(instance)})
        self.offer(kv.BOUNDS[certificate.kind], certificate, time.perf_counter() - began)
        if known.result.schedule is not None:
            self.see("local-search", known.result.schedule)
        if known.result.stop == "interrupted":
            raise KeyboardInterrupt

    def improve(self, deadline: Deadline) -> None:
        """Search with the time that is left."""
        if self.done or (deadline.finite and deadline.over):
            return
        self.tell("local search")
        try:
            schedule = slot_schedule(self.task.instance, deadline, self.task.seed)
        except InterruptedWith as stop:
            self.see("local-search", stop.best)
            raise
        self.see("local-search", schedule)


def search_rounds(task: Task) -> CertifiedBound:
    """The bound and the schedule of a task under the unit clock, with slots or without."""
    return kv.bound(task) if task.instance.server.slots is None else UnitSlotSearch(task).run()


def rounds_certificate(instance: Instance) -> Certificate:
    """The certificate that needs nothing but the instance."""
    draft = Certificate(
        instance=InstanceStamp.of(instance),
        kind="slot-rounds",
        objective=UNIT_SLOTS.objective,
        bound=NOTHING,
    )
    return with_bound(draft, instance)


def slot_schedule(instance: Instance, deadline: Deadline, seed: int, *, anneal: bool = True) -> Schedule:
    """A schedule of small total latency, searched with rounds of 1 ms.

    Raises
    ------
    InterruptedWith
        Ctrl-C; carries the best schedule.
    """
    clock = LinearClock(kind="linear", mixed=True, base_ms=1.0)
    timed = instance.replace(
        server=instance.server.model_copy(update={"clock": clock}),
        requests=tuple(r.model_copy(update={"arrival": r.arrival / 1000}) for r in instance.requests),
    )
    try:
        return in_rounds(search_schedule(timed, deadline=deadline, seed=seed, anneal=anneal))
    except InterruptedWith as stop:
        raise InterruptedWith(in_rounds(stop.best)) from None


def in_rounds(schedule: Schedule) -> Schedule:
    """A schedule in iterations of 1 ms, each begun at the next whole one; none then begins before another has ended."""
    return Schedule(tuple(replace(s, at=_next_round(s)) for s in schedule.segments))


def _next_round(segment: Segment) -> int:
    return math.ceil(segment.at * 1000 - NOISE)


class UnitSlotMethod(Method):
    """Bounds without the slots or without the memory, and a search as in real time."""

    def bound(self, task: Task) -> CertifiedBound:
        """See `UnitSlotSearch`."""
        return UnitSlotSearch(task).run()
