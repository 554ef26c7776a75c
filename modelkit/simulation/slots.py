"""Simulation of policies on slots: stages of prefill and decoding under the linear clock."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from types import MappingProxyType

import numpy as np

from modelkit.errors import Fault, InputError, PolicyError, UsageError
from modelkit.instance import Instance
from modelkit.policies import Policy, Predictions, Running, View, seen_requests
from modelkit.problems.problem import stages_refusal
from modelkit.problems.slots.stages import StageClock
from modelkit.schedule import Admission, Schedule, Segment
from modelkit.text import count

#: Times closer than this are the same moment [ms].
SAME_MOMENT_MS = 1e-6


class StageSimulation:
    """One run of a policy on slots; time O(decisions * policy + n log n).

    The policy is asked at every arrival, completion, outgrown prediction and change of the slots, and after
    as many rounds as its `Policy.patience` says.

    Parameters
    ----------
    predicted
        Lower and upper predicted outputs that the policy may see [token].
    slots_over_time
        (second, number of slots) in time order: from then on this many of the server's slots are open. A busy
        slot that closes serves its request to the end. None: all are open.

    Raises
    ------
    UsageError
        The instance is outside the slot problem.
    InputError
        ``slots_over_time`` is not in time order, or names more slots than the server has or none at all
        at the end.
    """

    def __init__(
        self,
        instance: Instance,
        policy: Policy,
        rng: np.random.Generator,
        predicted: Predictions,
        slots_over_time: Sequence[tuple[float, int]] | None = None,
    ) -> None:
        if (why := stages_refusal(instance)) is not None:
            raise UsageError(f"the simulation of slots does not take this instance: it {why}")
        self.ids = [request.id for request in instance.requests]
        self.policy = policy
        self.rng = rng
        self.clock = StageClock(instance)
        self.total = instance.server.slots or 0
        self.seen = seen_requests(instance, predicted)
        self.arrivals = sorted(range(len(self.ids)), key=lambda i: (self.seen[i].arrival, i), reverse=True)
        self.changes = _checked_changes(slots_over_time or (), self.total)[::-1]
        self.open = self.total
        self.free = list(range(self.total))  # heap; closed ones are in it too
        self.slot: dict[int, int] = {}
        self.waiting: set[int] = set()
        self.running: dict[int, Running] = {}
        self.view_running = MappingProxyType(self.running)
        self.predicted: list[tuple[int, int]] = []  # heap of predicted ends; stale entries are passed over
        self.segments: list[Segment] = []

    def run(self) -> Schedule:
        """Serve every request."""
        while self.arrivals or self.waiting or self.running:
            self.take_arrivals()
            if self.admit():
                continue  # arrivals during the prefill are seen before the next round
            if self.running:
                self.decode(self.next_event())
            else:
                self.wait()
        return Schedule(tuple(self.segments))

    def free_slots(self) -> int:
        """Open slots that hold no request."""
        if self.open == self.total:
            return len(self.free)
        return sum(slot < self.open for slot in self.free)

    def view(self) -> View:
        """What the policy may see."""
        return View(
            now=self.clock.now / 1000,
            capacity=None,
            held=0,
            running=self.view_running,
            free_slots=self.free_slots(),
            rng=self.rng,
            round=self.clock.round,
            linear_clock=self.clock.linear_clock,
            prompt_room=self.clock.linear_clock.largest_prefill,
        )

    def take_arrivals(self) -> None:
        now = self.clock.now + SAME_MOMENT_MS
        while self.changes and self.changes[-1][0] * 1000 <= now:
            self.open = self.changes.pop()[1]
        while self.arrivals and self.seen[self.arrivals[-1]].arrival * 1000 <= now:
            i = self.arrivals.pop()
            self.waiting.add(i)
            self.policy.arrived(self.seen[i])

    def admit(self) -> bool:
        """Ask the policy for a stage; whether it wants one."""
        if not self.waiting or not self.free_slots():
            return False
        chosen: list[int] = []
        admitted: list[Admission] = []
        largest, tokens = self.clock.linear_clock.largest_prefill, 0
        for i in self.policy.admit(self.view()):
            if i not in self.waiting:
                raise PolicyError(f"the policy admits request {self.name(i)}, which does not wait")
            if not self.free or self.free[0] >= self.open:
                raise PolicyError(f"the policy admits request {self.name(i)}, but no slot is free")
            tokens += self.clock.prompt[i]
            if largest is not None and tokens > largest:
                raise PolicyError(
                    f"the policy admits request {self.name(i)}, but the largest prefill level holds"
                    f" {count(largest, 'token')}"
                )
            self.waiting.remove(i)
            self.slot[i] = heapq.heappop(self.free)
            self.running[i] = Running(self.seen[i], self.clock.round)
            heapq.heappush(self.predicted, (self.clock.round + self.seen[i].predicted_upper, i))
            self.policy.started(self.seen[i], self.clock.round)
            chosen.append(i)
            admitted.append(Admission(self.ids[i], self.slot[i]))
        if chosen:
            self.segments.append(Segment(self.clock.now / 1000, tuple(admitted)))
            self.clock.prefill(chosen)
        return bool(chosen)

    def next_event(self) -> int:
        """Rounds until the next moment at which anything can happen or be decided."""
        clock = self.clock
        rounds = clock.ends[0][0] - clock.round
        while self.predicted and (
            self.predicted[0][1] not in self.running or self.predicted[0][0] != self.predicted_end(self.predicted[0][1])
        ):
            heapq.heappop(self.predicted)
        if self.predicted:
            rounds = min(rounds, self.predicted[0][0] - clock.round)
        if self.waiting and self.free_slots():
            patience = self.policy.patience(self.view())
            rounds = rounds if patience is None else min(rounds, max(1, patience))
        if (time := self.next_time()) is not None and rounds > 1:
            rounds = clock.rounds_until(time, rounds)
        return rounds

    def next_time(self) -> float | None:
        """When the next request arrives or the slots change next [ms]."""
        times = [self.seen[self.arrivals[-1]].arrival * 1000] if self.arrivals else []
        return min([*times, *(at * 1000 for at, _ in self.changes[-1:])], default=None)

    def decode(self, rounds: int) -> None:
        last = self.segments[-1]
        self.segments[-1] = Segment(last.at, last.admit, rounds=last.rounds + rounds)
        for i in self.clock.decode(rounds):
            del self.running[i]
            heapq.heappush(self.free, self.slot.pop(i))
            self.policy.ended(self.seen[i], self.clock.round)
        while self.predicted and self.predicted[0][0] <= self.clock.round:
            end, i = heapq.heappop(self.predicted)
            if i in self.running and self.predicted_end(i) == end:
                self.raise_prediction(i)
                self.policy.outgrew(self.seen[i], self.clock.round)

    def wait(self) -> None:
        """No request is in progress: time goes by until something happens."""
        time = self.next_time()
        if time is None:
            raise PolicyError("the policy admits no request although the server is empty")
        self.clock.now = max(self.clock.now, time)

    def predicted_end(self, i: int) -> int:
        return int(self.running[i].start) + self.seen[i].predicted_upper

    def raise_prediction(self, i: int) -> None:
        """It runs on: its output has at least one token more than seen so far."""
        least = self.clock.round - int(self.running[i].start) + 1
        seen = self.seen[i]
        self.seen[i] = seen._replace(predicted_lower=max(seen.predicted_lower, least), predicted_upper=least)
        self.running[i] = self.running[i]._replace(request=self.seen[i])
        heapq.heappush(self.predicted, (self.predicted_end(i), i))

    def name(self, i: int) -> str:
        return repr(self.ids[i]) if 0 <= i < len(self.ids) else f"number {i}"


def _checked_changes(changes: Sequence[tuple[float, int]], slots: int) -> list[tuple[float, int]]:
    faults = [
        Fault("slots over time", f"found {count} slots at {at:g} s; allowed: 0 to the server's {slots}")
        for at, count in changes
        if not 0 <= count <= slots
    ]
    faults += [
        Fault("slots over time", f"{b:g} s comes after {a:g} s; allowed: times that increase from 0 on")
        for (a, _), (b, _) in zip([(-1.0, 0), *changes], changes, strict=False)
        if not max(a, -1e-12) < b < float("inf")
    ]
    if changes and changes[-1][1] == 0:
        faults.append(Fault("slots over time", "no slot is open at the end; allowed: 1 or more"))
    if faults:
        raise InputError("simulate", faults)
    return list(changes)
