"""Policies on slots: in which order requests start, and when a prefill may interrupt the decoding.

A prefill stage costs the active slots its duration; waiting costs the idle slots theirs. Once they insert a stage,
all policies here fill the free slots, as far as the largest prefill level holds the prompts; they differ in order and
moment.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

from modelkit.policies import Policy, Room, Seen, View, policy


class Waiting(NamedTuple):
    """A request in the order of a queue: smaller places first, ties by number."""

    place: float
    number: int
    request: Seen


class Queue(Policy):
    """Waiting requests in an order; a stage as soon as a slot is idle."""

    def __init__(self) -> None:
        self.waiting: list[Waiting] = []

    def key(self, request: Seen) -> float:
        """Smaller goes first; ties go by position."""
        raise NotImplementedError

    def due(self, view: View) -> bool:
        """Whether to insert a prefill stage now."""
        return True

    def arrived(self, request: Seen) -> None:
        insort(self.waiting, Waiting(self.key(request), request.number, request))

    def admit(self, view: View) -> Iterator[int]:
        if self.due(view):
            yield from self.taken(view)

    def batch(self, view: View) -> list[Seen]:
        """Who would share the prefill now: the first in order, as many as slots and levels take."""
        room = Room(view)
        return list(takewhile(room.takes, (entry.request for entry in self.waiting[: view.free_slots])))

    def taken(self, view: View) -> Iterator[int]:
        """The same, who wait no more."""
        batch = self.batch(view)
        del self.waiting[: len(batch)]
        yield from (request.number for request in batch)

    def patience(self, view: View) -> int | None:
        return None


class LongestFirst(Queue):
    """Longest predicted output first: what is left for the end is short. Intervals count with their upper end."""

    def key(self, request: Seen) -> float:
        """Predicted output, negated."""
        return -request.predicted_upper


@policy(
    "fcfs",
    summary="arrival order; a prefill as soon as a slot is idle",
    reference="Pang, Li, She, Wang, arXiv 2502.15763, the baseline in words; its figures are `sorted`'s",
    clock="stages",
)
class FirstComeFirstServed(Queue):
    """First come, first served."""

    def key(self, request: Seen) -> float:
        """Arrival."""
        return request.arrival


@policy(
    "sorted",
    summary="longest predicted output first; a prefill as soon as a slot is idle",
    reference="Pang, Li, She, Wang, arXiv 2502.15763, online sorting; it has the figures of the paper's baseline",
    clock="stages",
)
class Sorted(LongestFirst):
    """Longest first, prefill at once."""


@policy(
    "lagrangian",
    summary="longest predicted output first; a prefill when the idle slots have lost as much as it costs the active",
    reference="Pang, Li, She, Wang, arXiv 2502.15763, preemption by a Lagrangian cost comparison",
    clock="stages",
)
class Lagrangian(LongestFirst):
    """A stage when the price of waiting reaches the price of interrupting.

    With tau the duration of a decode round: sum over the rounds since the last prefill of idle slots * tau
    >= active slots * duration of the prefill over the batch that would be admitted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._idle = 0  # slot-rounds since the last prefill
        self._free = 0
        self._round = 0

    def due(self, view: View) -> bool:
        self._idle += self._free * (view.round - self._round)
        self._round, self._free = view.round, view.free_slots or 0
        return self._missing(view) <= 0

    def admit(self, view: View) -> Iterator[int]:
        for number in super().admit(view):
            self._idle = 0
            self._free -= 1
            yield number

    def patience(self, view: View) -> int | None:
        missing = self._missing(view)
        return math.ceil(missing / self._free) if self._free and math.isfinite(missing) else None

    def _missing(self, view: View) -> float:
        """Slot-rounds of idling that are missing until a stage is due."""
        assert view.linear_clock is not None
        if not view.running:
            return 0.0
        tokens = sum(request.prompt for request in self.batch(view))
        price = len(view.running) * view.linear_clock.prefill_ms(tokens)
        tau = view.linear_clock.decode_base_ms
        return price / tau - self._idle if tau else math.inf if price else 0.0


@policy(
    "exclusive-batching",
    summary="longest predicted output first; a prefill when a fixed share of the slots is idle",
    reference="Zhang, Nie, Pang, Ma, Wu, arXiv 2606.00516 (second-hand):"
    " theta/(1-theta) + ln(1-theta) = p0 alpha_p/alpha_d",
    clock="stages",
)
class ExclusiveBatching(LongestFirst):
    """A stage when floor(theta J) slots are idle, or all that are left to fill.

    Our reading: p0 is the chance that a request ends in a round, 1 / mean predicted output of those seen;
    alpha_p and alpha_d are the fixed durations of a prefill and of a decode round.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen = 0
        self._tokens = 0

    def arrived(self, request: Seen) -> None:
        super().arrived(request)
        self._seen += 1
        self._tokens += request.predicted_upper

    def due(self, view: View) -> bool:
        assert view.linear_clock is not None
        free = view.free_slots or 0
        if not view.linear_clock.decode_base_ms:
            return not view.running
        price = view.linear_clock.prefill_ms(0) / view.linear_clock.decode_base_ms
        slots = free + len(view.running)
        return not view.running or free >= max(1, math.floor(idle_share(price * self._seen / self._tokens) * slots))


def idle_share(price: float) -> float:
    """Theta in [0, 1) with theta / (1 - theta) + ln(1 - theta) = ``price``, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(50):  # so that theta is a double below 1
        theta = (low + high) / 2
        if theta / (1 - theta) + math.log1p(-theta) < price:
            low = theta
        else:
            high = theta
    return low
