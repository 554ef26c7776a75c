"""Shared prefixes: bounds by the least that requests hold and read, and the best schedule of several origins.

Under the unit clock: the schedules of policies, those of a search without the cache, which need more memory than there
is to spare and so are valid, and those of a search in which only the first of each group counts what they share, where
the judge finds them valid all the same. In real time the bounds are those of `modelkit.solving.serving`. Under both
clocks the time that is left goes to a search over orders (`modelkit.solving.orders`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from modelkit.certificate import Certificate
from modelkit.instance import Instance, InstanceStamp
from modelkit.judge.prefixes import unshared
from modelkit.problems.problem import UNIT_PREFIXES
from modelkit.result import Result, StopReason
from modelkit.runtime.deadline import Deadline
from modelkit.solving import kv, unit_slots
from modelkit.solving.certified import CertifiedBound, Task
from modelkit.solving.method import NO_SOLVER, Method
from modelkit.solving.orders import search_orders
from modelkit.solving.serving import ServingMethod, ServingSearch
from modelkit.verify.exact_bounds import certify

if TYPE_CHECKING:
    from modelkit.solving.outcome import SolveState

#: Share of the time that is left for prices and the search with the least of the prompts.
LEAST_SHARE = 0.6


class UnitPrefixSearch(ServingSearch):
    """What is known of one task: the best schedule, judged, and the best bound on the total latency in rounds."""

    titles: ClassVar[Mapping[str, str]] = {
        "outputs": "the rounds of all outputs",
        "memory": "prices on memory, with what a group shares counted for the first of it",
        "partitions": "what is held, as a multiset of tokens, with what a group shares counted for the first of it",
        "slots": "how many the slots serve in a round",
    }

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.searches = False

    def prove(self, deadline: Deadline) -> None:
        """The bounds that need nothing but the instance."""
        began, instance = time.perf_counter(), self.task.instance
        self.offer("outputs", certify(instance, np.zeros(0)), time.perf_counter() - began)
        if instance.server.slots is not None:
            self.offer("slots", unit_slots.rounds_certificate(instance), time.perf_counter() - began)

    def price(self, deadline: Deadline) -> None:
        """Prices with the least of the prompts, and the schedules of searches with the least and with all of them."""
        if self.done:
            return
        least = self._search(unshared(self.task.instance, once=True), deadline.share(LEAST_SHARE))
        stamp = InstanceStamp.of(self.task.instance)
        name = kv.BOUNDS.get(least.certificate.kind, "slots")
        self.offer(name, least.certificate.model_copy(update={"instance": stamp}), least.certificate.seconds or 0.0)
        if not self.done:
            self._search(without_cache(self.task.instance), deadline)

    def improve(self, deadline: Deadline) -> None:
        """Search over orders with the time that is left."""
        improve_orders(self, deadline)

    def _search(self, instance: Instance, deadline: Deadline) -> CertifiedBound:
        """Search an instance without shared prefixes; its schedule is judged with them."""
        self.tell("schedules without shared prefixes")
        limit = deadline.left if deadline.finite else None
        known = unit_slots.search_rounds(self.task.of_another(instance, limit))
        if known.result.schedule is not None:
            self.see("local-search", known.result.schedule)
        if known.result.stop == "interrupted":
            raise KeyboardInterrupt
        return known


class ServingPrefixSearch(ServingSearch):
    """What is known of one task in real time: policies, bounds, and a search over orders."""

    def improve(self, deadline: Deadline) -> None:
        """Search over orders with the time that is left."""
        improve_orders(self, deadline)


def improve_orders(search: ServingSearch, deadline: Deadline) -> None:
    """Try orders of requests until the deadline."""
    if search.done or (deadline.finite and deadline.over):
        return
    search.tell("local search")
    search_orders(
        search.task.instance, lambda s: search.see("local-search", s), deadline=deadline, seed=search.task.seed
    )


def without_cache(instance: Instance) -> Instance:
    """The same requests on a server that shares nothing."""
    return instance.replace(server=instance.server.model_copy(update={"prefix_cache": None}))


class UnitPrefixMethod(Method):
    """Policies, schedules without the cache, and prices on what requests hold at least."""

    certifies_at_once = True

    def bound(self, task: Task) -> CertifiedBound:
        """See `UnitPrefixSearch`."""
        return UnitPrefixSearch(task).run()

    def find_certificate(self, run: SolveState) -> Certificate | None:
        """That of a search, or else the one that needs nothing but the instance."""
        if run.formulation.claim != "exact":
            return None
        return run.certificate or certify(run.instance, np.zeros(0))

    def without_solver(self, run: SolveState, reason: str, stop: StopReason) -> Result:
        """The best schedule found, with a certified bound."""
        left = run.deadline.left if run.deadline.finite else None
        limits = run.limits
        known = self.bound(Task(run.instance, UNIT_PREFIXES.objective, left, limits.gap, limits.seed, run.listen))
        assert known.result.schedule is not None
        run.certificate = known.certificate
        run.start = run.judge_schedule(known.result.producer.name, known.result.schedule, known.verdict)
        return run.conclude(None, known.result.stop, f"{reason}; {NO_SOLVER}")


class ServingPrefixMethod(ServingMethod):
    """As in real time without a cache, with a search over orders in place of plans."""

    def bound(self, task: Task) -> CertifiedBound:
        """See `ServingPrefixSearch`."""
        return ServingPrefixSearch(task).run()
