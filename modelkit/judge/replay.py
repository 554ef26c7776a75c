"""The replay of a schedule.

Round r of request i (r = 1 .. o_i, counted from its admission) holds s_i + r tokens. Between two
events (an admission, an eviction, a completion) the number N of active requests is constant and
the held tokens grow by N a round, so the replay jumps from event to event:
O((n + segments) log n) time, whatever the number of rounds.

Between rounds (in a gap before a segment, during a prefill that blocks decoding) a request in progress
holds what it held after its last round, s_i tokens before its first. An evicted request loses its
tokens and starts anew: its first token is that of the residency in which it completes. One that is paused
keeps what it has (`modelkit.judge.pauses`).

Under chunked prefill (``Schedule.tokens_per_iteration``) the round r of a request counts from the iteration that
processes the last of its prompt; until then it holds s_i, for its memory is reserved from its admission on.

With a prefix cache (``modelkit.judge.prefixes``) memory counts what requests share once, and they read what is not in
the cache; the cost of held tokens is that of attention, which each decoding request pays for all of its own.

==================  =================================================================================
clock               an iteration lasts
==================  =================================================================================
unit                1 a round; prompts are processed in their request's first round
linear, not mixed   a prefill over the admitted, blocking all decoding; then decode rounds
linear, mixed       prefill part over those not yet processed plus decode part over the others
==================  =================================================================================
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator

from modelkit.clock import add_time
from modelkit.instance import Instance, LinearClock
from modelkit.judge.excess import Excess
from modelkit.judge.metrics import Totals
from modelkit.judge.ongoing import Ongoing
from modelkit.judge.pauses import Pauses
from modelkit.judge.prefixes import PrefixLedger
from modelkit.judge.reading import Reading
from modelkit.judge.rules import Interval, Residency, Violation
from modelkit.schedule import Segment
from modelkit.text import count

#: Under the linear clock, times closer than this are the same moment [ms].
TIME_TOLERANCE_MS = 1e-3


class Replay:
    """A schedule replayed on one replica, segment by segment; see the module.

    Parameters
    ----------
    beside
        Replay of another replica of the server.
    """

    def __init__(
        self, instance: Instance, tokens_per_iteration: int | None, replica: int = 1, beside: Replay | None = None
    ) -> None:
        self.instance = instance
        self.replica = replica
        clock = instance.server.clock
        self.linear = clock if isinstance(clock, LinearClock) else None
        self.exclusive = self.linear is not None and not self.linear.mixed
        self.tolerance = TIME_TOLERANCE_MS if self.linear else 0.0
        self.per_time = 1000.0 if self.linear else 1.0  # replay time units in one unit of `at`
        self.prompt: list[int] = beside.prompt if beside else instance.arrays.prompt.tolist()
        self.output: list[int] = beside.output if beside else instance.arrays.output.tolist()
        self.arrival: list[float] = (
            beside.arrival if beside else [a * self.per_time for a in instance.arrays.arrival.tolist()]
        )

        self.now: float = 0.0
        self.lost = 0.0  # by so much the sum of all durations is above its double, `now`
        self.doubt = 0.0  # by so much a sum of the same durations without that may be wrong
        self.round = 0  # rounds run with some request in progress, or left over by an eviction
        self.active = 0
        self.base = 0  # sum over active of prompt - starts_at: held after `round` = base + active * round
        self.current: dict[int, Ongoing] = {}  # last residency of each request
        self.holder: dict[int, Ongoing] = {}  # last residency in each slot
        self.ending: list[tuple[int, int]] = []  # heap of (ends_at, position in residencies)
        self.fresh: dict[int, Ongoing] = {}  # admitted, prompt not yet processed or first round not yet run
        self.residencies: list[Ongoing] = []
        self.prefixes = PrefixLedger(instance.shared_prefixes, instance.server.kv_capacity_tokens)
        self.violations: list[Violation] = []
        self.intervals: list[Interval] = []
        self.over = Excess(self, "kv_capacity", instance.server.kv_capacity_tokens, "the KV cache holds")
        self.crowd = Excess(self, "too_many_in_progress", instance.server.slots, "the server has slots for")

        self.totals = Totals()
        self.pauses = Pauses(self)
        self.reading = Reading(self, tokens_per_iteration)
        if self.reading.chunk != tokens_per_iteration and beside is None:
            self.violate("chunked_prefill", 1, None, "the schedule splits prompts, which this clock does not allow")

    # --- what a segment does -------------------------------------------------------------------

    def run_segment(self, segment: Segment) -> None:
        self.advance_to(segment.at * self.per_time)
        for request in segment.evict:
            self.evict(request)
        for request in segment.pause:
            self.pauses.pause(request)
        for admission in segment.resume:
            self.pauses.resume(*admission)
        admitted = [residency for admission in segment.admit if (residency := self.admit(*admission)) is not None]
        self.crowd.see(self.occupied, 0)
        if copying := self.pauses.copying_ms():
            self.pass_time(copying)
        if self.linear is not None and self.exclusive and admitted:
            self.pass_time(self.prefill_ms(sum(residency.unread for residency in admitted)))
        self.reading.begin(segment.chunks)
        self.run_rounds(segment.rounds)

    def advance_to(self, at: float) -> None:
        """Begin a segment at ``at``, or now when the segment before has not ended."""
        if at < self.now - self.tolerance - self.doubt:
            words = f"a segment is to begin at {self.clock(at)}; the one before ends at {self.clock(self.now)}"
            self.violate("time_order", self.now - at, None, words)
        if self.linear is None and not float(at).is_integer():
            self.violate("whole_rounds", at % 1, None, f"the segment begins at {at}")
            at = math.ceil(at)
        if at > self.now:
            if self.linear is None:
                self.totals.idle_rounds += at - self.now
            self.pass_time(at - self.now)
            self.now, self.lost = at, 0.0

    def pass_time(self, duration: float) -> None:
        """Let time go by in which no request decodes; those in progress keep their tokens."""
        self.over.see(self.held_once, 0)
        self.crowd.see(self.occupied, 0)
        self.totals.token_time += self.held_once * duration
        self.prefixes.make_room(self.held_once)
        self.add_time(duration)

    def add_time(self, duration: float) -> None:
        if self.linear is None:
            self.now += duration
            return
        self.now, self.lost = add_time(self.now, self.lost, duration)
        self.doubt += math.ulp(self.now)

    def evict(self, name: str) -> None:
        i = self.find(name)
        if i is None:
            return
        residency = self.current.get(i)
        if residency is None or not self.in_progress(residency):
            self.violate("not_running", 1, name, f"request {name!r} is evicted but not in progress")
            return
        self.totals.evictions += 1
        self.totals.recomputed += self.cached(residency)
        if residency.paused_at is None:
            self.stop(residency)
        else:
            self.pauses.end(residency)
        self.release(residency)

    def release(self, residency: Ongoing) -> None:
        """A request is in progress no more, and its shared tokens are used by others alone."""
        i, residency.end = residency.request, self.now
        read = self.prompt[i] - (0 if self.exclusive else residency.unread)
        for other, tokens in self.prefixes.leave(i, self.now, read, self.fresh).items():
            self.fresh[other].unread += tokens
            self.fresh[other].found -= tokens
            self.totals.found -= tokens

    def cached(self, residency: Ongoing) -> int:
        """Tokens of a request in progress that were processed for it."""
        made = residency.made if residency.paused_at is not None else self.round - residency.starts_at
        unread = 0 if self.exclusive else residency.unread
        return int(self.prompt[residency.request]) - residency.found - unread + made

    def stop(self, residency: Ongoing) -> None:
        """A request that runs runs no more."""
        self.active -= 1
        self.base -= self.prompt[residency.request] - residency.starts_at
        self.fresh.pop(residency.request, None)

    def admit(self, name: str, slot: int | None) -> Ongoing | None:
        i = self.find(name)
        if i is None:
            return None
        before = self.current.get(i)
        if before is not None and (before.completed or self.in_progress(before)):
            state = "done" if before.completed else "in progress" if before.paused_at is None else "paused"
            self.violate("admitted_twice", 1, name, f"request {name!r} is admitted again while it is {state}")
            return None
        if self.now < self.arrival[i] - self.tolerance:
            early = self.arrival[i] - self.now
            self.violate("before_arrival", early, name, f"request {name!r} arrives at {self.clock(self.arrival[i])}")
        ends_at, found = self.round + self.output[i], self.prefixes.enter(i, self.now)
        self.totals.prompts += self.prompt[i]
        self.totals.found += found
        residency = Ongoing(
            i, slot, self.now, self.round, ends_at, self.prompt[i] - found, found, len(self.residencies)
        )
        if slot is not None:
            self.take_slot(residency, slot, name)
        self.current[i] = residency
        self.residencies.append(residency)
        self.fresh[i] = residency
        self.active += 1
        self.base += self.prompt[i] - residency.starts_at
        return residency

    def take_slot(self, residency: Ongoing, slot: int, name: str) -> None:
        slots = self.instance.server.slots
        if slot < 0 or (slots is not None and slot >= slots):
            size = -slot if slot < 0 else slot - (slots or 0) + 1
            allowed = "0 or more" if slots is None else f"0 to {slots - 1}"
            self.violate("unknown_slot", size, name, f"slot {slot}; allowed: {allowed}")
        other = self.holder.get(slot)
        if other is not None and self.pauses.holds(other, slot):
            holder = self.instance.requests[other.request].id
            left = self.left(other)
            self.violate("slot_overlap", left, name, f"slot {slot} holds request {holder!r} for {left} more rounds")
        self.holder[slot] = residency

    # --- rounds --------------------------------------------------------------------------------

    def run_rounds(self, rounds: int) -> None:
        self.totals.rounds += rounds
        while rounds and self.active:
            self.drop_stale_ends()
            span = rounds if self.active == len(self.fresh) else min(rounds, self.ending[0][0] - self.round)
            if self.fresh:
                span = min(span, self.reading.rounds_alike(span))
            self.run_span(span)
            rounds -= span
        if rounds:
            self.totals.idle_rounds += rounds
            self.pass_time(
                rounds if self.linear is None else 0 if self.linear.mixed else self.linear.decode_ms(rounds, 0, 0)
            )

    def run_span(self, span: int) -> None:
        """Run ``span`` rounds in which no request starts after the first and none ends before the last."""
        held, decoding = self.held, self.active - len(self.fresh)
        read, prompts = self.reading.read(span) if self.fresh else ([], 0)
        growing = decoding + len(read)
        first, last = held + growing, held + growing * span
        kv_first = first - self.pauses.held
        new_tokens = sum(self.prompt[residency.request] for residency in self.fresh.values()) + len(read)
        if self.fresh and self.linear is not None and self.linear.mixed:
            self.check_level(prompts)

        def lasting(rounds: int) -> float:
            """The first ``rounds`` of the span."""
            if self.linear is None:
                return rounds
            if not (self.fresh and self.linear.mixed):
                return self.linear.decode_ms(
                    rounds, growing * rounds, rounds * (2 * kv_first + growing * (rounds - 1)) // 2
                )
            kv_tokens = rounds * (kv_first - new_tokens) + decoding * (rounds * (rounds - 1) // 2)
            return self.linear.iterations_ms(rounds, prompts, decoding, kv_tokens)

        duration, saved = lasting(span), self.prefixes.saved
        low, high = first - saved, last - saved
        beside = (self.replica, decoding, 0 if self.exclusive else prompts)
        self.intervals.append(Interval(self.now, self.now + duration, span, self.active, low, high, *beside))
        self.over.see_span(low, high, growing, span, lasting)
        self.crowd.see(self.occupied, span)
        self.totals.token_time += duration * (low + high) / 2
        if self.linear is not None:  # rounds that hold more last longer: sum of (tokens - their mean)^2 over the span
            self.totals.token_time += self.linear.decode_per_kv_token_ms * growing**2 * span * (span**2 - 1) / 12
        self.totals.slot_time += duration * self.active
        self.totals.peak = max(self.totals.peak, high)
        self.totals.saved = max(self.totals.saved, saved)
        self.add_time(duration)
        self.round += span
        self.prefixes.make_room(high)
        for residency in read:
            residency.first_token = self.now
            del self.fresh[residency.request]
        while self.ending and self.ending[0][0] <= self.round:
            entry = heapq.heappop(self.ending)
            if self.will_end(entry):
                residency = self.residencies[entry[1]]
                residency.completed = True
                self.stop(residency)
                self.release(residency)

    def prefill_ms(self, tokens: int) -> float:
        assert self.linear is not None
        self.check_level(tokens)
        return self.linear.prefill_ms(tokens)

    def check_level(self, tokens: int) -> None:
        """Violated by more prompt tokens in one iteration than any level holds."""
        levels = self.linear.prefill_levels if self.linear is not None else None
        if levels is not None and tokens > (largest := max(capacity for capacity, _ in levels)):
            self.violate(
                "prefill_level",
                tokens - largest,
                None,
                f"a prefill over {count(tokens, 'token')}; the largest level holds {largest}",
            )

    # --- the end -------------------------------------------------------------------------------

    def close(self, expected: Iterable[int]) -> None:
        """No segment follows; these requests should have been served."""
        self.over.close()
        self.crowd.close()
        self.pauses.close()
        for i in expected:
            residency, request = self.current.get(i), self.instance.requests[i]
            if residency is None:
                self.violate("missing", self.output[i], request.id, f"request {request.id!r} is never admitted")
            elif not residency.completed:
                left = self.left(residency)
                why = "" if residency.end is not None or residency.paused_at is None else ": it is paused to the end"
                self.violate("unfinished", left, request.id, f"request {request.id!r} lacks {left} of its tokens{why}")

    def replayed(self) -> Iterator[Residency]:
        """The residencies, once it is closed."""
        for s in self.residencies:
            pauses = tuple(s.pauses)
            yield Residency(s.request, s.slot, s.begin, s.first_token, s.end, s.completed, self.replica, pauses)

    # --- small things --------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Tokens held after the rounds run so far by those that run or are paused, the shared counted for each."""
        return self.base + self.active * self.round + self.pauses.held

    @property
    def held_once(self) -> int:
        """The same, the shared counted once: what the KV cache holds."""
        return self.held - self.prefixes.saved

    @property
    def occupied(self) -> int:
        """Requests that take a slot."""
        return self.active + self.pauses.slots

    def left(self, residency: Ongoing) -> int:
        """Tokens that a request has not produced in this residency; all, once it is evicted."""
        output = int(self.output[residency.request])
        if residency.end is not None:
            return output
        return residency.ends_at - self.round if residency.paused_at is None else output - residency.made

    def in_progress(self, residency: Ongoing) -> bool:
        return residency.end is None

    def will_end(self, entry: tuple[int, int]) -> bool:
        """Whether an end to come still holds: its request was neither evicted nor paused since."""
        residency = self.residencies[entry[1]]
        return residency.end is None and residency.paused_at is None and residency.ends_at == entry[0]

    def drop_stale_ends(self) -> None:
        while self.ending and not self.will_end(self.ending[0]):
            heapq.heappop(self.ending)

    def find(self, name: str) -> int | None:
        i = self.instance.index.get(name)
        if i is None:
            self.violate("unknown_request", 1, name, f"the instance has no request {name!r}")
        return i

    def clock(self, time: float) -> str:
        return f"{time / 1000:.10g} s" if self.linear else f"round {time:.16g}"

    def violate(self, rule: str, size: float, request: str | None, message: str) -> None:
        at = self.now / self.per_time
        self.violations.append(Violation(rule, size, at, request, f"at {self.clock(self.now)}: {message}"))
