"""Continuous batching: which requests start is decided before every round, while the others go on decoding.

One loop for the unit clock and for the linear clock with prompts inside the iterations (``mixed = true``) or
ahead of them (``mixed = false``, exclusive). Rounds are counted; what differs is how long they last:

==================  =================================================================================
clock               time
==================  =================================================================================
unit                a round lasts 1, and rounds go by while no request is served
linear, mixed       an iteration lasts its prefill part plus its decode part
linear, exclusive   a prefill over the admitted holds up all requests, then rounds of decoding
==================  =================================================================================

The simulator keeps the true output lengths to itself. It goes from event to event: an arrival, a completion,
an outgrown prediction, a round in which the cache would overflow, and while a request waits the round in which
the policy wants to be asked again. Times are added as the judge adds them, so that both agree to the last bit:
from one change of what is in progress to the next in one sum, however many events lie between.
"""

from __future__ import annotations

import heapq
import math
from types import MappingProxyType
from typing import Any

import numpy as np

from modelkit.errors import PolicyError, shown
from modelkit.instance import Instance, LinearClock
from modelkit.judge.prefixes import PrefixLedger
from modelkit.policies import Policy, Predictions, Running, View, seen_requests
from modelkit.schedule import Admission, Schedule, Segment
from modelkit.simulation.clocks import LinearTime, UnitTime
from modelkit.simulation.limits import BatchLimits
from modelkit.simulation.reading import PromptReading


class ContinuousSimulation(PromptReading):
    """One run of a policy; time O(events * policy + n log n).

    Parameters
    ----------
    predicted
        Lower and upper predicted outputs that the policy may see [token].
    """

    def __init__(
        self,
        instance: Instance,
        policy: Policy,
        rng: np.random.Generator,
        predicted: Predictions,
        limits: BatchLimits | None = None,
    ) -> None:
        limits = limits or BatchLimits()
        limits.check(instance)
        limits = limits.within_levels(instance)
        arrays = instance.arrays
        self.clock = clock = instance.server.clock
        self.largest_prefill = clock.largest_prefill if isinstance(clock, LinearClock) else None
        self.limits = limits
        self.ids = [request.id for request in instance.requests]
        self.capacity = instance.server.kv_capacity_tokens
        self.slots = instance.server.slots
        caps = [cap for cap in (self.slots, limits.max_batch) if cap is not None]
        self.max_batch = min(caps) if caps else None
        self.output = arrays.output.tolist()
        if self.capacity is not None:  # that much is known of every request that can be served at all
            lower, upper = (np.minimum(end, self.capacity - arrays.prompt) for end in predicted)
            predicted = lower, upper
        self.shared_prefixes = instance.shared_prefixes
        self.seen = seen_requests(instance, predicted)
        self.begin(policy, rng)
        self.moments = [self.time.moment(arrival) for arrival in arrays.arrival.tolist()]
        self.arrivals += sorted(range(len(self.ids)), key=lambda i: (self.moments[i], i), reverse=True)

    def begin(self, policy: Policy, rng: np.random.Generator) -> None:
        """Nothing has happened yet."""
        self.policy = policy
        self.rng = rng
        self.time = LinearTime(self.clock) if isinstance(self.clock, LinearClock) else UnitTime()
        self.arrivals: list[int] = []  # next at the end
        self.prefixes = PrefixLedger(self.shared_prefixes, self.capacity)
        self.horizon = math.inf  # until then it is known who arrives
        self.leaving: list[Running] = []  # done at the end of the rounds run last
        self.waiting: set[int] = set()
        self.running: dict[int, Running] = {}  # in order of admission
        self.view_running = MappingProxyType(self.running)
        self.unread: dict[int, int] = {}  # prompt tokens not yet processed; first round not yet run
        self.ends: list[tuple[int, int]] = []  # heap of (true end, index); stale entries are passed over
        self.predicted: list[tuple[int, int]] = []  # the same of predicted ends
        self.free = list(range(self.slots)) if self.slots else []
        self.slot: dict[int, int] = {}
        self.offset = 0  # sum over those in progress of prompt - start
        self.asked: View | None = None  # what the policy saw in this round, if it admitted no request
        self.segments: list[dict[str, Any]] = []  # what each does, by field
        self.rounds: list[int] = []  # of each segment

    def run(self) -> Schedule:
        """Serve every request."""
        self.advance(math.inf)
        return self.schedule()

    def advance(self, moment: float) -> None:
        """Serve those that have arrived until ``moment`` has come; others may arrive from then on."""
        self.horizon = moment
        while (self.arrivals or self.present) and self.time.now < moment:
            self.leaving.clear()
            self.take_arrivals()
            done = self.decide()
            if any(done.values()):
                self.segments.append({"at": self.time.begin(), **done})
                self.rounds.append(0)
                self.copy()
                if (admitted := done["admit"]) and isinstance(self.time, LinearTime) and self.time.exclusive:
                    self.time.prefill(sum(self.unread[i] for i in list(self.running)[-len(admitted) :]))
                    self.prefixes.make_room(self.occupied)
                    continue  # arrivals during the prefill are seen before the next round
                self.settle()
            if self.running:
                self.go_on()
            else:
                self.wait()

    def schedule(self) -> Schedule:
        """What was done so far."""
        segments = (Segment(**does, rounds=rounds) for does, rounds in zip(self.segments, self.rounds, strict=True))
        return Schedule(tuple(segments), self.limits.max_batch_tokens if self.limits.chunked_prefill else None)

    def decide(self) -> dict[str, tuple[Any, ...]]:
        """What the policy does now, by field of a segment."""
        return {"evict": tuple(self.make_room()), "admit": tuple(self.admit())}

    def copy(self) -> None:
        """Let the time go by in which tokens of paused requests are copied: none here."""

    @property
    def now(self) -> int:
        """Rounds run."""
        return self.time.round

    @property
    def held(self) -> int:
        """Tokens held after the rounds run so far by those who run, the shared counted for each."""
        return self.offset + len(self.running) * self.time.round

    @property
    def occupied(self) -> int:
        """Tokens in use, the shared counted once."""
        return self.held - self.prefixes.saved

    @property
    def present(self) -> int:
        """Requests that have arrived and are not done."""
        return len(self.waiting) + len(self.running)

    @property
    def places(self) -> int:
        """Requests that take a place in the batch."""
        return len(self.running)

    def settle(self) -> None:
        """What is in progress has changed: a new interval of rounds that are alike begins."""
        if self.time.exclusive or not self.unread:
            self.time.settle(len(self.running), self.held)
        else:
            prompts = sum(self.seen[i].prompt for i in self.unread)
            self.time.settle(len(self.running) - len(self.unread), self.held - prompts, self.chunk_room())

    def view(self) -> View:
        """What the policy may see."""
        return View(
            now=self.time.seen(),
            capacity=self.capacity,
            held=self.occupied,
            running=self.view_running,
            free_slots=None if self.max_batch is None else self.max_batch - self.places,
            rng=self.rng,
            round=self.time.round,
            linear_clock=self.time.linear_clock,
            prompt_room=self.prompt_room(),
            chunked=self.limits.chunked_prefill,
            prefixes=self.prefixes,
        )

    def prompt_room(self) -> int | None:
        """Prompt tokens that the iteration ahead takes beside those of the requests in progress."""
        unread = 0 if self.time.exclusive else sum(self.unread.values())
        decoding = 0 if self.time.exclusive else len(self.running) - len(self.unread)
        rooms = [] if self.largest_prefill is None else [self.largest_prefill - unread]
        if self.limits.max_batch_tokens is not None:
            rooms.append(self.limits.max_batch_tokens - decoding - unread)
        return max(0, min(rooms)) if rooms else None

    # --- events --------------------------------------------------------------------------------

    def take_arrivals(self) -> None:
        while self.arrivals and self.moments[self.arrivals[-1]] <= self.time.now:
            i = self.arrivals.pop()
            self.waiting.add(i)
            self.policy.arrived(self.seen[i])

    def take_completions(self) -> bool:
        """Whether a request is done; predictions that were outgrown are raised."""
        done = False
        while self.ends and self.ends[0][0] <= self.now:
            end, i = heapq.heappop(self.ends)
            if self.runs_until(i, end):
                self.leaving.append(self.running[i])
                self.leave(i)
                done = True
        while self.predicted and self.predicted[0][0] <= self.now:
            end, i = heapq.heappop(self.predicted)
            if self.predicted_until(i, end):
                self.raise_prediction(i)
                self.policy.outgrew(self.seen[i], self.now)
        return done

    def start(self, i: int) -> int:
        return int(self.running[i].start)

    def runs_until(self, i: int, end: int) -> bool:
        return i in self.running and self.start(i) + self.output[i] == end

    def predicted_until(self, i: int, end: int) -> bool:
        return i in self.running and self.start(i) + self.seen[i].predicted_upper == end

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
        if self.capacity is None:
            return False
        return self.occupied + len(self.running) > self.capacity

    # --- decisions -----------------------------------------------------------------------------

    def make_room(self) -> list[str]:
        """Let the policy evict if the next round would exceed the capacity."""
        if not self.overflows():
            return []
        evicted = []
        for i in list(self.policy.evict(self.view())):
            self.evict(i)
            evicted.append(self.ids[i])
        if self.overflows():
            raise PolicyError(f"in round {self.now + 1} the policy leaves more tokens than the KV cache holds")
        return evicted

    def evict(self, i: int) -> None:
        """Let a request wait again."""
        if i not in self.running:
            raise PolicyError(f"the policy evicts request {self.name(i)}, which is not in progress")
        self.raise_prediction(i)
        self.leave(i)
        self.waiting.add(i)
        self.policy.arrived(self.seen[i])

    def admit(self) -> list[Admission]:
        admitted: list[Admission] = []
        if not self.waiting:
            return admitted
        view = self.asked = self.view()
        room = view.prompt_room
        for i in self.policy.admit(view):
            if i not in self.waiting:
                raise PolicyError(f"the policy admits request {self.name(i)}, which does not wait")
            if self.max_batch is not None and self.places >= self.max_batch:
                raise PolicyError(f"the policy admits request {self.name(i)}, but no slot is free")
            prompt = self.seen[i].prompt
            unread = prompt - self.prefixes.cached(i)
            if room is not None:
                if room < (1 if view.chunked else unread):
                    raise PolicyError(f"the policy admits request {self.name(i)}, but the iteration is full")
                room -= unread
            self.prefixes.enter(i, self.time.now)
            self.waiting.remove(i)
            slot = heapq.heappop(self.free) if self.slots else None
            if slot is not None:
                self.slot[i] = slot
            self.running[i] = Running(self.seen[i], self.now)
            self.offset += prompt - self.now
            if self.time.linear_clock is None:
                self.expect(i)
            else:
                self.unread[i] = unread
            self.policy.started(self.seen[i], self.now)
            admitted.append(Admission(self.ids[i], slot))
            self.asked = None
        if admitted and self.overflows():
            raise PolicyError(f"in round {self.now + 1} the policy admits more tokens than the KV cache holds")
        return admitted

    def expect(self, i: int) -> None:
        """Its prompt is processed in the round ahead: from now on its end is known."""
        heapq.heappush(self.ends, (self.start(i) + self.output[i], i))
        heapq.heappush(self.predicted, (self.start(i) + self.seen[i].predicted_upper, i))

    def leave(self, i: int) -> None:
        prompt = self.seen[i].prompt
        self.offset -= prompt - int(self.running.pop(i).start)
        unread = self.unread.pop(i, 0)
        read = prompt if self.time.exclusive else prompt - unread
        for other, tokens in self.prefixes.leave(i, self.time.now, read, self.unread).items():
            self.unread[other] += tokens
        if (slot := self.slot.pop(i, None)) is not None:
            heapq.heappush(self.free, slot)
        self.policy.ended(self.seen[i], self.now)

    # --- time ----------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Run rounds until something happens."""
        alike = self.alike() if self.unread else 0
        reading = bool(self.unread) and not alike
        if reading:
            rounds = 1
            self.read_prompts()
        else:
            rounds = min(self.rounds_to_event(), alike or 1 << 62)
            if alike:
                self.read_on(rounds)
            self.time.run(rounds)
        self.rounds[-1] += rounds
        self.prefixes.make_room(self.occupied)
        if self.take_completions() or reading or alike == rounds:
            self.settle()

    def rounds_to_event(self) -> int:
        """Rounds until the next moment at which anything can happen or be decided."""
        while self.ends and not self.runs_until(self.ends[0][1], self.ends[0][0]):
            heapq.heappop(self.ends)
        while self.predicted and not self.predicted_until(self.predicted[0][1], self.predicted[0][0]):
            heapq.heappop(self.predicted)
        rounds = min(heap[0][0] if heap else 1 << 62 for heap in (self.ends, self.predicted)) - self.now
        if self.capacity is not None:  # the first round that would overflow
            rounds = min(rounds, (self.capacity - self.occupied) // len(self.running))
        moment = min(self.moments[self.arrivals[-1]], self.horizon) if self.arrivals else self.horizon
        if len(self.running) < self.present and rounds > 1:
            view = self.asked or self.view()
            patience = self.policy.patience(view)
            rounds = rounds if patience is None else min(rounds, max(1, patience))
            if (alarm := self.policy.alarm(view)) is not None:
                moment = min(moment, self.time.moment(alarm))
        if rounds > 1 and moment < math.inf:
            rounds = self.time.rounds_until(moment, rounds)
        return max(1, rounds)

    def wait(self) -> None:
        """No request is in progress: time goes by until something happens."""
        moments = [self.moments[i] for i in self.arrivals[-1:]]
        moments += [self.horizon] if self.horizon < math.inf else []
        if self.present and not moments:
            raise PolicyError("the policy admits no request although the server is empty")
        if self.present and self.time.linear_clock is None:
            patience = self.policy.patience(self.view())
            moments += [] if patience is None else [self.now + max(1, patience)]
        if moments:
            self.time.wait(min(moments))

    def name(self, i: object) -> str:
        return repr(self.ids[i]) if isinstance(i, int) and 0 <= i < len(self.ids) else f"number {shown(i)}"
