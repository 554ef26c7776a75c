"""Pauses under the unit clock: bounds that hold with them, and the best of what runs with and without.

Every schedule without pauses is one with them, so the search for those (``modelkit.solving.kv``, or
``modelkit.solving.unit_slots`` on slots) gives a schedule to beat. Its prices bound nothing here as they are: a paused
request passes over dear rounds. Made to never rise they do (``modelkit.verify.kv_bound``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from modelkit.certificate import Certificate, Prices
from modelkit.instance import Instance, InstanceStamp
from modelkit.problems.kv.best_known import local_search
from modelkit.problems.kv.local_search import TooLargeError, schedule_of
from modelkit.problems.problem import PREEMPTIVE
from modelkit.result import Result, StopReason
from modelkit.runtime.deadline import Deadline
from modelkit.simulation.simulate import clairvoyant_schedule
from modelkit.solving import unit_slots
from modelkit.solving.candidates import first_starts
from modelkit.solving.certified import CertifiedBound, Task
from modelkit.solving.method import Method
from modelkit.solving.serving import ServingSearch
from modelkit.verify.exact_bounds import NOTHING, with_bound

if TYPE_CHECKING:
    from modelkit.solving.outcome import Candidate, SolveState

#: Policies that are tried beside those without options.
PAUSING = ("srpt:by=volume",)
#: Output tokens from which no model is made.
MOST_TOKENS = 20_000


class PreemptiveSearch(ServingSearch):
    """What is known of one task: the best schedule, judged, and the best bound on the total latency in rounds."""

    titles: ClassVar[Mapping[str, str]] = {
        "volume": "the memory and the slots that requests take, shortest remaining first",
        "memory": "prices on memory that never rise",
    }

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.searches = False

    def try_policies(self, deadline: Deadline) -> None:
        """Those that pause with options of theirs, then all."""
        for name in PAUSING:
            self.tell(f"policy {name}")
            self.see(name, clairvoyant_schedule(self.task.instance, name))
        super().try_policies(deadline)

    def prove(self, deadline: Deadline) -> None:
        """The bound that needs nothing but the instance."""
        began = time.perf_counter()
        self.offer("volume", volume_certificate(self.task.instance), time.perf_counter() - began)

    def price(self, deadline: Deadline) -> None:
        """A schedule without pauses, and its prices where they can be made to prove something."""
        if self.done:
            return
        self.tell("schedules without pauses")
        began = time.perf_counter()
        instance = without_pauses(self.task.instance)
        limit = deadline.left if deadline.finite else None
        known = unit_slots.search_rounds(replace(self.task.of_another(instance, limit), prices_only=True))
        if known.result.schedule is not None:
            self.see("local-search", known.result.schedule)
        if known.certificate.prices is not None and known.certificate.prices.rounds:
            candidates = [priced(self.task.instance, prices) for prices in never_rising(known.certificate.prices)]
            self.offer("memory", max(candidates, key=lambda c: c.value), time.perf_counter() - began)
        if known.result.stop == "interrupted":
            raise KeyboardInterrupt

    def improve(self, deadline: Deadline) -> None:
        """Nothing more."""


def without_pauses(instance: Instance) -> Instance:
    """The same requests on a server that pauses none."""
    return instance.replace(server=instance.server.model_copy(update={"pause": None}))


def volume_certificate(instance: Instance) -> Certificate:
    """The certificate that needs nothing but the instance."""
    return with_bound(Certificate(kind="kv-volume", bound=NOTHING, **_about(instance)), instance)


def priced(instance: Instance, prices: Prices) -> Certificate:
    """The certificate of prices that never rise."""
    return with_bound(Certificate(kind="kv-prices", bound=NOTHING, prices=prices, **_about(instance)), instance)


def _about(instance: Instance) -> dict[str, Any]:
    return {"instance": InstanceStamp.of(instance), "objective": PREEMPTIVE.objective}


def never_rising(prices: Prices) -> list[Prices]:
    """Prices near these that never rise: the most that is still to come, the least so far, and what lies between.

    The last are means over runs of rounds: of all prices that never rise the nearest in squares (pool adjacent
    violators; Ayer, Brunk, Ewing, Reid, Silverman 1955).
    """
    full = np.zeros(prices.rounds[-1], dtype=np.int64)
    full[np.array(prices.rounds) - 1] = prices.numerators
    above = np.maximum.accumulate(full[::-1])[::-1]
    below = np.minimum.accumulate(full)
    found = []
    for row in (above, _pooled(full), below):
        last = int(np.flatnonzero(row)[-1]) + 1 if row.any() else 0
        rounds, numerators = list(range(1, last + 1)), row[:last].tolist()
        found.append(Prices(denominator=prices.denominator, rounds=rounds, numerators=numerators))
    return found


def _pooled(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The nearest in squares that never rise, rounded down."""
    blocks: list[tuple[int, int]] = []  # sum, length
    for value in values.tolist():
        total, length = value, 1
        while blocks and blocks[-1][0] * length < total * blocks[-1][1]:
            before = blocks.pop()
            total, length = total + before[0], length + before[1]
        blocks.append((total, length))
    return np.concatenate([np.full(length, total // length) for total, length in blocks])


class PreemptiveMethod(Method):
    """Policies that pause, schedules without pauses, and bounds that hold for both."""

    certifies_at_once = True

    def bound(self, task: Task) -> CertifiedBound:
        """See `PreemptiveSearch`."""
        return PreemptiveSearch(task).run()

    def check_size(self, run: SolveState) -> None:
        """Refuse what no model holds before all policies are run on it."""
        tokens = int(run.instance.arrays.output.sum())
        if tokens > MOST_TOKENS:
            words = f"{tokens:,} output tokens, at most {MOST_TOKENS:,}"
            raise TooLargeError(f"the instance is too large for {PREEMPTIVE.model}: {words}")

    def find_certificate(self, run: SolveState) -> Certificate | None:
        """The bound that needs nothing but the instance, where none is known."""
        if run.formulation.claim != "exact" or run.formulation.value is not None:
            return None
        return run.certificate or volume_certificate(run.instance)

    def first_schedules(self, run: SolveState) -> list[Candidate]:
        """Those of policies, and that of a local search without pauses."""
        found = super().first_schedules(run)
        found += [run.judge_schedule(name, clairvoyant_schedule(run.instance, name)) for name in PAUSING]
        instance = without_pauses(run.instance)
        if instance.server.slots is None:
            starts = local_search(instance, first_starts(instance)).starts
            found.append(run.judge_schedule("local-search", schedule_of(instance, starts)))
        return found

    def without_solver(self, run: SolveState, reason: str, stop: StopReason) -> Result:
        """The best of policies and of schedules without pauses, with a certified bound."""
        left = run.deadline.left if run.deadline.finite else None
        known = self.bound(Task(run.instance, PREEMPTIVE.objective, left, run.limits.gap, run.limits.seed, run.listen))
        assert known.result.schedule is not None
        run.certificate = known.certificate
        found = run.judge_schedule(known.result.producer.name, known.result.schedule, known.verdict)
        if run.start is None or run.start.value is None or (found.value is not None and found.value < run.start.value):
            run.start = found
        best = run.start.source
        words = f"no solver ran: this is the schedule of {best}, with a certified bound"
        return run.conclude(None, known.result.stop, f"{reason}; {words}")
