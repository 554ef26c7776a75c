"""The simulator: the clock, the arrivals and the KV ledger; it asks a policy and writes down a schedule.

The simulator keeps the true output lengths to itself. It goes from event to event: an arrival, a
completion, a round in which the cache would overflow, or, while somebody waits, the next round.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from types import MappingProxyType

import numpy as np

from modelkit.errors import PolicyError, UsageError, shown
from modelkit.instance import Instance, UnitClock
from modelkit.io import load
from modelkit.judge import judge
from modelkit.policies import Policy, PolicyEntry, Running, Seen, View, get_policy, policies
from modelkit.result import InstanceStamp, Objective, Producer, Result, Seconds, status_of
from modelkit.schedule import Admission, Schedule, Segment
from modelkit.stages import StageSimulation
from modelkit.version import VERSION


def simulate(
    instance: Instance,
    policy: str = "mc-sf",
    *,
    seed: int = 0,
    slots_over_time: Sequence[tuple[float, int]] | None = None,
) -> Result:
    """Run an online policy on an instance and judge what it did.

    Parameters
    ----------
    policy
        Name of a registered policy.
    seed
        Of the policy's randomness.
    slots_over_time
        Where stages run: (second, number of slots) in time order; from then on so many of the server's
        slots are open. None: all of them.

    Raises
    ------
    UsageError
        No such policy, or one that is not for the instance's clock.
    InfeasibleError
        Some request can never run.
    PolicyError
        The policy admitted what does not fit or evicted what does not run.
    """
    instance = load(instance)
    begun = time.perf_counter()
    schedule = policy_schedule(instance, policy, seed=seed, slots_over_time=slots_over_time)
    simulated = time.perf_counter()
    verdict = judge(instance, schedule)
    judged = time.perf_counter()
    name = "total_latency_rounds" if instance.is_unit else "makespan_ms"
    return Result(
        instance=InstanceStamp.of(instance),
        producer=Producer(kind="policy", name=policy, seed=seed, modelkit=VERSION),
        status=status_of(verdict, verdict.metrics[name], None),
        stop="finished",
        objective=Objective(name=name, value=verdict.metrics[name]),
        metrics=verdict.metrics,
        violations=[v.document() for v in verdict.violations],
        schedule=schedule,
        seconds=Seconds(solve=simulated - begun, judge=judged - simulated, total=judged - begun),
    )


def policy_schedule(
    instance: Instance,
    policy: str,
    *,
    seed: int = 0,
    slots_over_time: Sequence[tuple[float, int]] | None = None,
) -> Schedule:
    """The schedule that a policy makes; see `simulate`."""
    return _run(instance, get_policy(policy), seed, False, slots_over_time)


def clairvoyant_schedule(instance: Instance, policy: str) -> Schedule:
    """The schedule of a policy that is told the true output lengths: hindsight, not a fair run."""
    return _run(instance, get_policy(policy), 0, True, None)


def fitting_policies(instance: Instance) -> list[str]:
    """Names of the policies for the instance's clock."""
    return [name for name, entry in policies().items() if entry.clock == _clock(instance)]


def _run(
    instance: Instance,
    entry: PolicyEntry,
    seed: int,
    clairvoyant: bool,
    slots_over_time: Sequence[tuple[float, int]] | None,
) -> Schedule:
    if entry.clock != (clock := _clock(instance)):
        names = {"unit": "the unit clock", "stages": "slots under the linear clock with mixed = false"}
        here = names.get(clock, "the linear clock with mixed = true")
        fitting = ", ".join(fitting_policies(instance)) or "none yet"
        raise UsageError(
            f"policy {entry.name!r} is for {names[entry.clock]}; this instance has {here}\n  policies for it: {fitting}"
        )
    instance.check_fits()
    rng = np.random.default_rng(seed)
    clairvoyant = clairvoyant or entry.clairvoyant
    if clock == "stages":
        return StageSimulation(instance, entry.make(), rng, clairvoyant, slots_over_time).run()
    if slots_over_time is not None:
        raise UsageError("the number of slots changes over time only under the linear clock with mixed = false")
    return UnitSimulation(instance, entry.make(), rng, clairvoyant).run()


def _clock(instance: Instance) -> str:
    clock = instance.server.clock
    return "unit" if isinstance(clock, UnitClock) else "mixed" if clock.mixed else "stages"


class UnitSimulation:
    """One run under the unit clock.

    Between two decisions nothing is done a round, so time is O(decisions * policy + n log n).
    """

    def __init__(self, instance: Instance, policy: Policy, rng: np.random.Generator, clairvoyant: bool = False) -> None:
        arrays = instance.arrays
        self.ids = [request.id for request in instance.requests]
        self.policy = policy
        self.rng = rng
        self.capacity = instance.server.kv_capacity_tokens
        self.slots = instance.server.slots
        self.output = arrays.output.tolist()
        lower, upper = (
            (arrays.output, arrays.output) if clairvoyant else (arrays.predicted_lower, arrays.predicted_upper)
        )
        if self.capacity is not None:  # that much is known of every request that can be served at all
            lower, upper = (np.minimum(end, self.capacity - arrays.prompt) for end in (lower, upper))
        self.seen = [
            Seen(*row)
            for row in zip(
                range(len(self.ids)), arrays.arrival.tolist(), arrays.prompt.tolist(), lower.tolist(),
                upper.tolist(), strict=True,
            )
        ]  # fmt: skip
        self.arrivals = sorted(range(len(self.ids)), key=lambda i: (self.seen[i].arrival, i))
        self.arrivals.reverse()  # next at the end
        self.waiting: set[int] = set()
        self.running: dict[int, Running] = {}  # in order of admission
        self.view_running = MappingProxyType(self.running)
        self.ends: list[tuple[int, int]] = []  # heap of (true end, index); stale entries are passed over
        self.predicted: list[tuple[int, int]] = []  # the same of predicted ends
        self.free = list(range(self.slots)) if self.slots else []
        self.slot: dict[int, int] = {}
        self.offset = 0  # sum over those in progress of prompt - start
        self.now = 0
        self.segments: list[Segment] = []

    def run(self) -> Schedule:
        """Serve every request."""
        while self.arrivals or self.waiting or self.running:
            self.take_arrivals()
            evicted = self.make_room()
            admitted = self.admit()
            if admitted or evicted:
                self.segments.append(Segment(self.now, tuple(admitted), tuple(evicted)))
            following = self.next_event()
            if self.running:
                last = self.segments[-1]
                self.segments[-1] = Segment(last.at, last.admit, last.evict, following - int(last.at))
            self.now = following
            self.take_completions()
        return Schedule(tuple(self.segments))

    @property
    def held(self) -> int:
        """Tokens held after round ``now``."""
        return self.offset + len(self.running) * self.now

    def view(self) -> View:
        """What the policy may see."""
        return View(
            now=self.now,
            capacity=self.capacity,
            held=self.held,
            running=self.view_running,
            free_slots=len(self.free) if self.slots else None,
            rng=self.rng,
        )

    def take_arrivals(self) -> None:
        while self.arrivals and self.seen[self.arrivals[-1]].arrival <= self.now:
            i = self.arrivals.pop()
            self.waiting.add(i)
            self.policy.arrived(self.seen[i])

    def take_completions(self) -> None:
        while self.ends and self.ends[0][0] <= self.now:
            end, i = heapq.heappop(self.ends)
            if self.runs_until(i, end):
                self.leave(i)
        while self.predicted and self.predicted[0][0] <= self.now:
            end, i = heapq.heappop(self.predicted)
            if i in self.running and self.start(i) + self.seen[i].predicted_upper == end:
                self.raise_prediction(i)
                self.policy.outgrew(self.seen[i], self.now)

    def start(self, i: int) -> int:
        return int(self.running[i].start)

    def runs_until(self, i: int, end: int) -> bool:
        return i in self.running and self.start(i) + self.output[i] == end

    def raise_prediction(self, i: int) -> None:
        """It runs on: its output has at least one token more than seen so far."""
        least = self.now - self.start(i) + 1
        seen = self.seen[i]
        self.seen[i] = seen._replace(
            predicted_lower=max(seen.predicted_lower, least), predicted_upper=max(seen.predicted_upper, least)
        )
        self.running[i] = self.running[i]._replace(request=self.seen[i])
        heapq.heappush(self.predicted, (self.start(i) + self.seen[i].predicted_upper, i))

    def overflows(self) -> bool:
        return self.capacity is not None and self.held + len(self.running) > self.capacity

    def make_room(self) -> list[str]:
        """Let the policy evict if the next round would exceed the capacity."""
        if not self.overflows():
            return []
        evicted = []
        for i in list(self.policy.evict(self.view())):
            if i not in self.running:
                raise PolicyError(f"the policy evicts request {self.name(i)}, which is not in progress")
            evicted.append(self.ids[i])
            self.raise_prediction(i)
            self.leave(i)
            self.waiting.add(i)
            self.policy.arrived(self.seen[i])
        if self.overflows():
            raise PolicyError(f"in round {self.now + 1} the policy leaves more tokens than the KV cache holds")
        return evicted

    def admit(self) -> list[Admission]:
        admitted: list[Admission] = []
        if not self.waiting:
            return admitted
        for i in self.policy.admit(self.view()):
            if i not in self.waiting:
                raise PolicyError(f"the policy admits request {self.name(i)}, which does not wait")
            if self.slots and not self.free:
                raise PolicyError(f"the policy admits request {self.name(i)}, but no slot is free")
            self.waiting.remove(i)
            slot = heapq.heappop(self.free) if self.slots else None
            if slot is not None:
                self.slot[i] = slot
            self.running[i] = Running(self.seen[i], self.now)
            self.offset += self.seen[i].prompt - self.now
            heapq.heappush(self.ends, (self.now + self.output[i], i))
            heapq.heappush(self.predicted, (self.now + self.seen[i].predicted_upper, i))
            self.policy.started(self.seen[i], self.now)
            admitted.append(Admission(self.ids[i], slot))
        if self.overflows():
            raise PolicyError(f"in round {self.now + 1} the policy admits more tokens than the KV cache holds")
        return admitted

    def leave(self, i: int) -> None:
        self.offset -= self.seen[i].prompt - int(self.running.pop(i).start)
        if self.slots:
            heapq.heappush(self.free, self.slot.pop(i))
        self.policy.ended(self.seen[i], self.now)

    def next_event(self) -> int:
        """The next moment at which anything can happen or be decided."""
        times: list[int] = []
        if self.arrivals:
            times.append(int(self.seen[self.arrivals[-1]].arrival))
        if self.running:
            times += [heap[0][0] for heap in (self.ends, self.predicted) if heap]
            if self.capacity is not None:  # the first round that would overflow
                times.append(self.now + (self.capacity - self.held) // len(self.running))
        if self.waiting:
            times.append(self.now + 1)
        if self.waiting and not self.running and not self.arrivals:
            raise PolicyError("the policy admits nobody although the server is empty")
        return max(self.now + 1, min(times))

    def name(self, i: object) -> str:
        return repr(self.ids[i]) if isinstance(i, int) and 0 <= i < len(self.ids) else f"number {shown(i)}"
