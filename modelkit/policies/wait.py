"""Threshold batching: requests of a class start together once enough of them wait.

Ao, Luo, Simchi-Levi, Wang, arXiv 2504.11320. In the fluid limit iterations of duration τ follow each other and each
takes in λ_j τ requests of class j. Then

    τ = base + τ Σ_j λ_j (prefill_per_token s_j + decode_per_request (o_j - 1) + decode_per_kv_token v_j),

with base the fixed parts of prefill and decode and v_j the tokens that a request holds, summed over its rounds; the
cache holds τ Σ_j λ_j v_j <= M tokens. The thresholds are n_j = λ_j τ, with the largest such τ.

Our reading, for a policy that sees neither rates nor future: rates and mean lengths are those seen so far; classes are
predicted outputs by powers of two; an empty server waits for no threshold; and where the paper's memory is safe in the
limit only, `mc-sf`'s look-ahead holds newcomers back.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

from modelkit.errors import UsageError
from modelkit.policies import Policy, Room, Seen, View, policy, share
from modelkit.policies.intervals import OwnLengths
from modelkit.policies.lookahead import LookAhead, Profile, shared_with


class Fluid:
    """Rates and mean lengths seen so far, and the iteration of the fluid limit."""

    def __init__(self) -> None:
        self.count = 0
        self._first = 0.0
        self._prompt = self._output = self._volume = 0

    def see(self, arrival: float, prompt: int, output: int) -> None:
        """A request has arrived."""
        if not self.count:
            self._first = arrival
        self.count += 1
        self._prompt += prompt
        self._output += output
        self._volume += prompt * output + output * (output + 1) // 2

    def iterations(self, view: View) -> float:
        """Duration τ of an iteration, as a share of the time since the first arrival.

        A class of which n requests have come in that time has the threshold n τ; infinite when nothing is known yet.
        """
        elapsed = view.now - self._first
        if elapsed <= 0 or not self.count:
            return math.inf
        memory = math.inf if view.capacity is None else view.capacity / self._volume
        clock = view.linear_clock
        if clock is None:
            return min(1 / elapsed, memory)
        work = (
            clock.prefill_ms(self._prompt) - clock.prefill_ms(0)
            + clock.decode_per_request_ms * (self._output - self.count)
            + clock.decode_per_kv_token_ms * self._volume
        )  # fmt: skip
        idle = elapsed * 1000 - work
        return min((clock.prefill_ms(0) + clock.decode_base_ms) / idle if idle > 0 else math.inf, memory)


@policy(
    "wait",
    summary="classes by predicted output; those of a class start together once as many wait as the fluid limit says",
    reference="Ao, Luo, Simchi-Levi, Wang, arXiv 2504.11320, WAIT; rates and classes are our reading",
    work_conserving=False,
    alpha="share of M kept free of new requests, in case predictions fail",
)
class Wait(Policy):
    """Waiting for Accumulated Inference Threshold."""

    def __init__(self, *, alpha: float = 0.0) -> None:
        self._alpha = share("alpha", alpha)
        self._classes: dict[int, deque[Seen]] = {}
        self._counts: dict[int, int] = {}
        self._known: set[int] = set()
        self._fluid = Fluid()
        self._profile = Profile()

    def arrived(self, request: Seen) -> None:
        kind = request.predicted_upper.bit_length()
        queue = self._classes.setdefault(kind, deque())
        if request.number in self._known:
            queue.appendleft(request)  # evicted
            return
        self._known.add(request.number)
        queue.append(request)
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._fluid.see(request.arrival, request.prompt, request.predicted_upper)

    def started(self, request: Seen, now: float) -> None:
        self._profile.add(request.number, request.own, int(now), int(now) + request.predicted_upper)

    def ended(self, request: Seen, now: float) -> None:
        self._profile.remove(request.number)

    def outgrew(self, request: Seen, now: float) -> None:
        self._profile.outgrow(request.number)

    def postponed(self, request: Seen, start: int) -> None:
        self._profile.move(request.number, request.own, start, start + request.predicted_upper)

    def admit(self, view: View) -> Iterator[int]:
        room, share_of_time = Room(view), self._fluid.iterations(view)
        limit = None if view.capacity is None else int((1 - self._alpha) * view.capacity)
        due = [
            (queue[0].arrival, kind)
            for kind, queue in self._classes.items()
            if queue and len(queue) >= self._counts.get(kind, 0) * share_of_time
        ]
        if not due and not view.running:
            due = [(queue[0].arrival, kind) for kind, queue in self._classes.items() if queue]
        alone = not view.running
        for _, kind in sorted(due):
            queue = self._classes[kind]
            while queue:
                request = queue[0]
                fits = limit is None or alone
                if not fits and limit is not None:
                    alone_for = limit - shared_with(request, view)
                    fits = self._profile.fits(request.own, request.predicted_upper, view.round, alone_for)
                if not fits or not room.takes(request):
                    break
                queue.popleft()
                yield request.number
                alone = False

    def patience(self, view: View) -> int | None:
        return None


@policy(
    "nested-wait",
    summary="no predictions: every request enters the first segment of lengths, in groups sized by the fluid limit,"
    " and is expected to finish within its segment",
    reference="Ao, Luo, Simchi-Levi, Wang, arXiv 2504.11320, Nested WAIT; our reading",
    work_conserving=False,
    alpha="share of M kept free of new requests, for requests that outlive their segments",
    first="length of the first segment [token]; each segment ends at twice the one before",
)
class NestedWait(OwnLengths):
    """Segments nested by length.

    Different from the paper, where a request that outlives its segment is held until enough of them have gathered
    for the next: here requests in progress always go on, so only the entrance waits for its threshold.
    """

    def __init__(self, *, alpha: float = 0.1, first: int = 64) -> None:
        super().__init__(alpha=alpha)
        if first < 1:
            raise UsageError(f"option first: found {first}; allowed: 1 or more")
        self._first = first
        self._fluid = Fluid()
        self._seen = 0  # arrivals
        self._known: set[int] = set()
        self._started: dict[int, int] = {}
        self._held_back = False

    def key(self, request: Seen) -> float:
        """Arrival."""
        return request.arrival

    def length(self, request: Seen) -> int:
        return self._first

    def longer(self, number: int, now: int) -> int:
        segment = self._first
        while segment <= now - self._started[number]:
            segment *= 2
        return self._started[number] + segment

    def arrived(self, request: Seen) -> None:
        super().arrived(request)
        if request.number not in self._known:
            self._known.add(request.number)
            self._seen += 1

    def started(self, request: Seen, now: float) -> None:
        super().started(request, now)
        self._started[request.number] = int(now)

    def postponed(self, request: Seen, start: int) -> None:
        super().postponed(request, start)
        self._started[request.number] = start

    def ended(self, request: Seen, now: float) -> None:
        super().ended(request, now)
        self._fluid.see(request.arrival, request.prompt, max(1, int(now) - self._started.pop(request.number)))

    def admit(self, view: View) -> Iterator[int]:
        self._held_back = bool(view.running) and len(self._waiting) < self._threshold(view)
        if not self._held_back:
            yield from super().admit(view)

    def _threshold(self, view: View) -> float:
        """How many enter together."""
        return self._fluid.iterations(view) * self._seen if self._fluid.count else 1

    def fits(self, request: Seen, view: View) -> bool:
        return not view.running or super().fits(request, view)

    def patience(self, view: View) -> int | None:
        # the end of a segment alone makes no room
        return None if self._held_back else LookAhead.patience(self, view)
