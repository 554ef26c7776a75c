"""Several replicas: bounds of all of them as one server or as machines that share the work, and who is served where.

Under the unit clock prices on the memory of one server with R times as much bound every schedule, and a local search
moves requests between replicas and rounds. In real time the bounds are those of one server, for R of them
(``modelkit.verify.serving_work``, ``modelkit.verify.serving_prices``). Policies, told the true lengths, say with each
rule of dispatch who is served where; then each replica is a server with its requests alone, searched as such.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

from modelkit.certificate import Certificate
from modelkit.errors import InterruptedWith
from modelkit.instance import Instance, InstanceStamp
from modelkit.judge.rules import Residency
from modelkit.policies import policies
from modelkit.problems.problem import TOTAL_LATENCY_MS, UNIT_REPLICAS
from modelkit.problems.replicas.search import best_list, improve, placed_in, placed_schedule
from modelkit.problems.replicas.servers import alone, one_server, served, side_by_side
from modelkit.problems.serving.bounds import TITLES
from modelkit.problems.serving.search import search_schedule
from modelkit.result import Result, StopReason
from modelkit.runtime.deadline import Deadline
from modelkit.schedule import Schedule
from modelkit.simulation.simulate import clairvoyant_schedule, fitting_policies
from modelkit.solving import kv
from modelkit.solving.certified import CertifiedBound, Task
from modelkit.solving.method import NO_SOLVER, Method
from modelkit.solving.preemptive import volume_certificate
from modelkit.solving.serving import FIRST, ServingMethod, ServingSearch
from modelkit.solving.unit_slots import slot_schedule
from modelkit.verify.exact_bounds import certify, with_bound

if TYPE_CHECKING:
    from modelkit.solving.outcome import Candidate, SolveState

#: Share of the time that is left for prices on the memory of all replicas.
PRICES_SHARE = 0.4
#: Policy that shares the requests out for the first list schedules, where it fits.
SHARING = "svf"


def dispatched(names: Iterable[str]) -> Iterator[str]:
    """Policies with each rule of dispatch that they take."""
    for name in names:
        base, colon, _ = name.partition(":")
        option = next(o for o in policies()[base].options if o.name == "dispatch")
        for rule in option.choices or ():
            yield f"{name}{',' if colon else ':'}dispatch={rule}"


class ReplicaSearch(ServingSearch):
    """What is known of one task in real time: the best schedule, judged, and the best bound, certified."""

    titles: ClassVar[Mapping[str, str]] = TITLES

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.searches = self.searches and task.instance.server.pause is None

    def to_try(self, fitting: list[str]) -> Iterable[str]:
        """Policies with each rule of dispatch, the best at first."""
        first = [name for name in FIRST if name.partition(":")[0] in fitting]
        return dict.fromkeys(dispatched((*first, *fitting)))

    def list_schedule(self, deadline: Deadline) -> Schedule:
        """List schedules on replicas whose requests a policy has shared out."""
        return self.searched(deadline, anneal=False)

    def searched(self, deadline: Deadline, *, anneal: bool = True) -> Schedule:
        """Each replica searched as a server, with the requests of the best schedule, or at first of a policy's."""
        instance = self.task.instance
        if self.best is not None:
            stays: tuple[Residency, ...] = self.best[1].residencies
            homes = served(stays, instance.server.replicas)
        else:
            stays = ()
            fitting = fitting_policies(instance)
            policy = SHARING if SHARING in fitting else fitting[0]
            homes = homes_of(instance, clairvoyant_schedule(instance, policy))
        left = sum(map(len, homes))
        found = []
        for requests in homes:
            until = deadline.share(len(requests) / left) if left else deadline
            left -= len(requests)
            found.append(self.search_alone(requests, stays, until, anneal) if requests else Schedule())
        return side_by_side(found)

    def search_alone(
        self, requests: list[int], stays: tuple[Residency, ...], deadline: Deadline, anneal: bool
    ) -> Schedule:
        """The search of one replica."""
        place = {request: k for k, request in enumerate(requests)}
        begin = [stay._replace(request=place[stay.request]) for stay in stays if stay.request in place]
        return search_schedule(
            alone(self.task.instance, requests), deadline=deadline, seed=self.task.seed, begin=begin or None,
            metric=self.task.metric, anneal=anneal,
        )  # fmt: skip

    def improve(self, deadline: Deadline) -> None:
        """Search each replica with the time that is left."""
        if self.task.metric != TOTAL_LATENCY_MS or not self.searches:
            return
        if self.done or (deadline.finite and deadline.over):
            return
        self.tell("local search on each replica")
        try:
            schedule = self.searched(deadline)
        except InterruptedWith:
            raise KeyboardInterrupt from None
        self.see("local-search", schedule)


def homes_of(instance: Instance, schedule: Schedule) -> list[list[int]]:
    """The requests of each replica in a schedule."""
    home = {instance.index[a.request]: s.replica for s in schedule.segments for a in s.admit}
    return [sorted(i for i, replica in home.items() if replica == r) for r in range(1, instance.server.replicas + 1)]


class UnitReplicaSearch(ReplicaSearch):
    """What is known of one task under the unit clock."""

    titles: ClassVar[Mapping[str, str]] = {
        "volume": "the memory and the slots that requests take on all replicas, shortest remaining first",
        "memory": "prices on the memory of all replicas",
        "partitions": "what is held on all replicas, as a multiset of tokens",
    }

    @property
    def moves(self) -> bool:
        """Whether the search that moves requests between replicas takes the instance."""
        return self.task.instance.server.slots is None and self.searches

    def list_schedule(self, deadline: Deadline) -> Schedule:
        """The best list schedule."""
        if not self.moves:
            return self.searched(deadline, anneal=False)
        return placed_schedule(self.task.instance, best_list(self.task.instance))

    def search_alone(
        self, requests: list[int], stays: tuple[Residency, ...], deadline: Deadline, anneal: bool
    ) -> Schedule:
        """The search of one replica on slots."""
        return slot_schedule(alone(self.task.instance, requests), deadline, self.task.seed, anneal=anneal)

    def prove(self, deadline: Deadline) -> None:
        """The bound that needs nothing but the instance."""
        began = time.perf_counter()
        self.offer("volume", volume_certificate(self.task.instance), time.perf_counter() - began)

    def price(self, deadline: Deadline) -> None:
        """Prices on memory, and the list schedule in the order in which one server would start."""
        instance, server = self.task.instance, self.task.instance.server
        if server.kv_capacity_tokens is None or server.pause is not None or self.done:
            return
        self.tell("prices")
        began = time.perf_counter()
        limit = deadline.share(PRICES_SHARE).left if deadline.finite else None
        known = kv.bound(self.task.of_another(one_server(instance), limit))
        name = kv.BOUNDS[known.certificate.kind]
        self.offer(name, of_replicas(known.certificate, instance), time.perf_counter() - began)
        if known.result.schedule is not None and self.moves:
            key = placed_in(instance, known.result.schedule).starts
            self.see("local-search", placed_schedule(instance, best_list(instance, key)))
        if known.result.stop == "interrupted":
            raise KeyboardInterrupt

    def improve(self, deadline: Deadline) -> None:
        """Search with the time that is left."""
        if self.best is None or self.done or (deadline.finite and deadline.over):
            return
        if not self.moves:
            if self.searches:
                self.tell("local search on each replica")
                self.see("local-search", self.searched(deadline))
            return
        self.tell("local search")
        instance, target = self.task.instance, self.certificate.value if self.certificate else 0.0
        begin = placed_in(instance, self.best[2])
        found = improve(instance, begin, seed=self.task.seed, deadline=deadline, patient=True, target=target)
        self.see("local-search", placed_schedule(instance, found))


def of_replicas(certificate: Certificate, instance: Instance) -> Certificate:
    """What the proof of a certificate of one server with all memory proves of the replicas, recomputed."""
    return with_bound(certificate.model_copy(update={"instance": InstanceStamp.of(instance)}), instance)


class ServingReplicasMethod(ServingMethod):
    """Bounds in real time for R servers, and a search of each with the requests that a policy sends it."""

    def bound(self, task: Task) -> CertifiedBound:
        """See `ReplicaSearch`."""
        return ReplicaSearch(task).run()


class UnitReplicasMethod(Method):
    """Prices on the memory of all replicas, and a search that moves requests between them."""

    def bound(self, task: Task) -> CertifiedBound:
        """See `UnitReplicaSearch`."""
        return UnitReplicaSearch(task).run()

    def find_certificate(self, run: SolveState) -> Certificate | None:
        """By the prices that were computed for the start windows, or by volume."""
        if run.formulation.claim != "exact":
            return None
        known = [volume_certificate(run.instance)]
        if run.searched and run.instance.server.kv_capacity_tokens is not None:
            known.append(certify(run.instance, run.known.on_replicas.prices))
        return max(known, key=lambda certificate: certificate.value)

    def first_schedules(self, run: SolveState) -> list[Candidate]:
        """Those of policies, and that of a local search."""
        return [*super().first_schedules(run), run.judge_schedule("local-search", run.known.on_replicas.schedule)]

    def without_solver(self, run: SolveState, reason: str, stop: StopReason) -> Result:
        """The schedule of a search with a certified bound."""
        left = run.deadline.left if run.deadline.finite else None
        task = Task(run.instance, UNIT_REPLICAS.objective, left, run.limits.gap, run.limits.seed, run.listen)
        known = self.bound(task)
        assert known.result.schedule is not None
        run.certificate = known.certificate
        found = run.judge_schedule("local-search", known.result.schedule, known.verdict)
        if run.start is None or (found.value or 0) < (run.start.value or 0):
            run.start = found
        return run.conclude(None, known.result.stop, f"{reason}; {NO_SOLVER}")
