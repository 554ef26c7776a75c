"""The hybrid policy: an offline plan, online sorting, and preemption by a Lagrangian comparison.

Offline, when it is first asked, it packs the waiting requests by their predicted lengths and plans stages in
which slots finish together (``modelkit.problems.slots.packing`` and ``stage_plan``). Online it follows the plan as long
as the predictions hold. When they have cost as much as a stage costs, or requests or slots come and go, it drops
the plan and compares, round by round, the price of waiting with the price of interrupting.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterator
from itertools import takewhile

import numpy as np

from modelkit.policies import Policy, Room, Seen, View, policy
from modelkit.policies.slots import LongestFirst, Waiting
from modelkit.problems.slots.packing import pack
from modelkit.problems.slots.stage_plan import StagePlan, align

#: Requests for each slot up to which a plan is made. With more, batches in order of length finish together by
#: themselves (measured: they cross at about 20), and the comparison alone does as well.
MOST_PLANNED = 16
#: What is left of a stage in the multiplier after the next.
_MEMORY = 0.9


class FollowPlan(Policy):
    """At each boundary of a plan, start the requests planned for it; who finds no slot starts at the next.

    Where a prefill level does not hold all prompts, further prefills follow at once. When nobody is in progress
    there is nothing to wait for: the rest of the plan moves up, past boundaries at which nobody starts.
    """

    def __init__(self, plan: StagePlan, numbers: list[int]) -> None:
        self.boundaries: list[int] = plan.boundaries.tolist()
        self.starts = dict(zip(numbers, plan.start.tolist(), strict=True))
        self._planned: list[list[Waiting]] = [[] for _ in self.boundaries]
        self._due: list[Waiting] = []
        self._next = 0  # first boundary not yet come
        self._opened = -1  # round in which the last one came

    def arrived(self, request: Seen) -> None:
        entry = Waiting(-request.predicted_upper, request.number, request)
        insort(self._planned[self.starts[request.number]], entry)

    def admit(self, view: View) -> Iterator[int]:
        self._come(view.round)
        while not view.running and not self._due and self._next < len(self.boundaries):
            early = self.boundaries[self._next] - view.round
            self.boundaries[self._next :] = [b - early for b in self.boundaries[self._next :]]
            self._come(view.round)
        if view.running and self._opened != view.round and self._next < len(self.boundaries):
            return
        room = Room(view)
        batch = list(takewhile(lambda entry: room.takes(entry.request), self._due))
        del self._due[: len(batch)]
        yield from (entry.number for entry in batch)

    def patience(self, view: View) -> int | None:
        return max(1, self.boundaries[self._next] - view.round) if self._next < len(self.boundaries) else None

    def _come(self, now: int) -> None:
        """Who is planned for boundaries up to round ``now`` is due."""
        while self._next < len(self.boundaries) and self.boundaries[self._next] <= now:
            self._due = sorted(self._due + self._planned[self._next])
            self._next, self._opened = self._next + 1, now


@policy(
    "hybrid",
    summary="stages planned offline so that slots finish together; when predictions fail, longest first with a"
    " Lagrangian comparison",
    reference="Pang, Li, She, Wang, arXiv 2502.15763: offline packing, online sorting, preemption; the alignment of"
    " the stages is ours",
    clock="stages",
)
class Hybrid(LongestFirst):
    """The plan while it holds, then the comparison.

    The comparison: one more round of waiting costs the number of idle slots; the multiplier is what a round
    costs on average: the sum of active slots * price of a stage + idle slot-rounds, over the stages so far, by the
    sum of their rounds, both fading with time. A stage is due when waiting costs at least the multiplier, which
    is updated at each stage.
    """

    def __init__(self) -> None:
        super().__init__()
        self._plan: FollowPlan | None = None
        self._asked = False
        self._ends: dict[int, int] = {}  # predicted when they started
        self._surprise = 0  # rounds by which predictions were wrong
        self._loss = self._rounds = 0.0  # whose ratio is the multiplier
        self._slots = 0
        self._idle = self._free = self._round = self._last = 0

    def arrived(self, request: Seen) -> None:
        super().arrived(request)
        if self._asked:
            self._plan = None

    def started(self, request: Seen, now: float) -> None:
        self._ends[request.number] = int(now) + request.predicted_upper

    def ended(self, request: Seen, now: float) -> None:
        self._surprise += abs(self._ends.pop(request.number) - int(now))

    def admit(self, view: View) -> Iterator[int]:
        self._idle += self._free * (view.round - self._round)
        self._round, self._free = view.round, view.free_slots or 0
        if not self._asked:
            self._asked = True
            self._make_plan(view)
        if self._plan is not None and self._plan_holds(view):
            chosen = set(self._plan.admit(view))
            self.waiting = [entry for entry in self.waiting if entry.number not in chosen]
            self._free -= len(chosen)
            yield from chosen
            return
        self._plan = None
        for number in self._compare(view):
            self._free -= 1
            yield number

    def patience(self, view: View) -> int | None:
        return None if self._plan is None else self._plan.patience(view)

    def _make_plan(self, view: View) -> None:
        free = view.free_slots or 0
        if view.running or not free < len(self.waiting) <= MOST_PLANNED * free or not math.isfinite(_price(view)):
            return
        requests = [entry.request for entry in self.waiting]
        if sum(r.predicted_upper - r.predicted_lower for r in requests) > free * _price(view):
            return  # intervals so wide that the plan would be dropped
        output = np.array([request.predicted_upper for request in requests], dtype=np.int64)
        packing = pack(output, free, view.rng)
        plan = align(output, free, packing.makespan, _price(view), view.rng)
        if plan.overload:
            return
        self._plan = FollowPlan(plan, [entry.number for entry in self.waiting])
        self._slots = free
        for request in requests:
            self._plan.arrived(request)

    def _plan_holds(self, view: View) -> bool:
        assert self._plan is not None
        same_slots = (view.free_slots or 0) + len(view.running) == self._slots
        in_time = view.round < self._plan.boundaries[-1]
        return same_slots and in_time and self._surprise <= self._slots * _price(view)

    def _compare(self, view: View) -> Iterator[int]:
        """A stage over the longest waiting, if it is due; the multiplier is updated."""
        free, active = view.free_slots or 0, len(view.running)
        if active:
            price = active * _price(view)
            if not math.isfinite(price):
                return
            if not self._rounds:  # completions come evenly: the loss is least at sqrt(2 price rate)
                mean = sum(request.predicted_upper for request, _ in view.running.values()) / active
                self._loss, self._rounds = math.sqrt(2 * price * active / mean), 1.0
            if free < self._loss / self._rounds:
                return
            self._loss = _MEMORY * self._loss + price + self._idle
            self._rounds = _MEMORY * self._rounds + view.round - self._last
        self._idle, self._last = 0, view.round
        yield from self.taken(view)


def _price(view: View) -> float:
    """What a prefill without tokens costs [round]; that of the tokens is the same in every schedule."""
    assert view.linear_clock is not None
    base, tau = view.linear_clock.prefill_ms(0), view.linear_clock.decode_base_ms
    return base / tau if tau else math.inf if base else 0.0
