"""What a policy is: what it sees of requests and of the server, and the base of all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from modelkit.errors import UsageError
from modelkit.instance import Instance, LinearClock
from modelkit.judge.prefixes import PrefixLedger

#: Lower and upper predicted outputs, int64 of shape [n] [token].
Predictions = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


class Seen(NamedTuple):
    """A request as a policy sees it. ``number`` names it; lengths in tokens, ``arrival`` in rounds or seconds.

    Of its prompt it may share the first ``shared`` tokens with others, through the server's prefix cache.
    """

    number: int
    arrival: float
    prompt: int
    predicted_lower: int
    predicted_upper: int
    shared: int = 0

    @property
    def own(self) -> int:
        """Prompt tokens that it holds alone whoever else runs [token]."""
        return self.prompt - self.shared


def seen_requests(instance: Instance, predicted: Predictions) -> list[Seen]:
    """The requests as a policy sees them, with these predictions."""
    lower, upper = (end.tolist() for end in predicted)
    prefixes = instance.shared_prefixes
    shared = (0,) * len(lower) if prefixes is None else prefixes.tokens
    columns = (instance.arrays.arrival.tolist(), instance.arrays.prompt.tolist(), lower, upper, shared)
    return [Seen(number, *row) for number, row in enumerate(zip(*columns, strict=True))]


class Running(NamedTuple):
    """A request in progress: ``start`` counts the rounds run before the one that gave its first token."""

    request: Seen
    start: float


#: The ledger of servers on which no request shares anything.
_NOTHING_SHARED = PrefixLedger(None, None)


class Paused(NamedTuple):
    """A paused request, and the tokens that it has produced."""

    request: Seen
    made: int


class View(NamedTuple):
    """The state of the server as a policy sees it.

    Parameters
    ----------
    now
        Rounds or seconds.
    capacity
        M [token], None without limit.
    held
        Tokens that the requests in progress hold now, what they share counted once, with those of paused requests
        that stay in the cache.
    running
        Requests that run, by number, in order of admission.
    free_slots
        None without limit.
    rng
        The policy's own source of randomness, seeded by the run.
    round
        Rounds run so far; under the unit clock the same as ``now``.
    linear_clock
        How long iterations last; None under the unit clock. Where prefills are iterations of their own, ``base_ms``
        is in both other bases.
    prompt_room
        Prompt tokens that the iteration ahead takes; None without limit.
    chunked
        Whether the last prompt may exceed ``prompt_room``, to be processed in several iterations.
    prefixes
        The prefix cache, as it is at the moment.
    paused
        Paused requests by number, in the order of their pauses.
    keeps
        Where the server keeps their tokens, ``held`` or ``swapped``; None where it pauses nobody.
    """

    now: float
    capacity: int | None
    held: int
    running: Mapping[int, Running]
    free_slots: int | None
    rng: np.random.Generator
    round: int = 0
    linear_clock: LinearClock | None = None
    prompt_room: int | None = None
    chunked: bool = False
    prefixes: PrefixLedger = _NOTHING_SHARED

    def unread(self, request: Seen) -> int:
        """Prompt tokens that a waiting request would have to read: those that the prefix cache does not hold."""
        return request.prompt - self.prefixes.cached(request.number)

    def taken(self, request: Seen) -> int:
        """Tokens that the prompt of a waiting request would take of the memory, beside those in use."""
        return request.prompt - (self.prefixes.used(request.number) if request.shared else 0)

    paused: Mapping[int, Paused] = MappingProxyType({})
    keeps: str | None = None

    @property
    def law(self) -> LinearClock | None:
        """Former name of ``linear_clock``, for policy files that ask for it."""
        return self.linear_clock


class Room:
    """What the round ahead still takes, beside memory: slots and prompt tokens."""

    def __init__(self, view: View) -> None:
        self._slots: float = math.inf if view.free_slots is None else view.free_slots
        self._tokens: float = math.inf if view.prompt_room is None else view.prompt_room
        self._chunked = view.chunked
        self._view = view

    def takes(self, request: Seen) -> bool:
        """Whether ``request`` may start; if so, what it takes is gone."""
        unread = self._view.unread(request)
        if self._slots < 1 or self._tokens < (1 if self._chunked else unread):
            return False
        self._slots -= 1
        self._tokens -= unread
        return True


class Leaving:
    """What requests in progress free as one after the other leaves: of what they share, what nobody else uses."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._gone: dict[int, list[int]] = {}  # prefixes still in use, by group

    def frees(self, number: int) -> int:
        """Tokens that this one would hold in the round ahead and that are free when it leaves too."""
        request, start = self._view.running[number]
        own = request.own + int(self._view.round - start) + 1
        return own + (self._release(request) if request.shared else 0)

    def _release(self, request: Seen) -> int:
        """Shared tokens that nobody else uses."""
        ledger = self._view.prefixes
        users = self._gone.setdefault(ledger.group(request.number), ledger.users(request.number))
        longest = users[-1]
        users.remove(request.shared)
        return longest - (users[-1] if users else 0)


class Policy:
    """Base of all policies; the defaults ignore events and admit no request.

    Keyword parameters of the constructor are the policy's options.

    Attributes
    ----------
    pauses
        Where the server must keep the tokens of paused requests for it, ``held``, ``swapped`` or ``anywhere``; None: it
        pauses nobody.
    """

    pauses: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def arrived(self, request: Seen) -> None:
        """``request`` has arrived, or was evicted and waits again (its predictions may have grown)."""

    def started(self, request: Seen, now: float) -> None:
        """``request`` was admitted."""

    def ended(self, request: Seen, now: float) -> None:
        """``request`` has produced its last token or was evicted."""

    def outgrew(self, request: Seen, now: float) -> None:
        """``request`` runs on past its prediction, which is now one token longer than seen so far."""

    def postponed(self, request: Seen, start: int) -> None:
        """``request``, in progress, gives its first token later: chunks of its prompt are left to process."""

    def paused(self, request: Seen, now: float) -> None:
        """``request`` is paused."""

    def resumed(self, request: Seen, start: int) -> None:
        """``request`` goes on, as if it had been admitted in round ``start`` and run ever since."""

    def admit(self, view: View) -> Iterable[int]:
        """Numbers of waiting requests to start now, in order.

        May be a generator: `started` is called for each request before the next is asked for.
        In stages they share one prefill, which interrupts the decoding of the others; the policy is asked
        whenever something has happened while a slot is free and somebody waits.
        """
        return ()

    def patience(self, view: View) -> int | None:
        """Rounds after which to be asked again although nothing has happened; None: never."""
        return 1

    def alarm(self, view: View) -> float | None:
        """Moment at which to be asked again although nothing has happened, in rounds or seconds; None: never."""
        return None

    def evict(self, view: View) -> Iterable[int]:
        """Requests to evict because the next round would exceed the capacity.

        Called only then, after `pause`. The default evicts the latest admitted until the next round fits, so
        the oldest request always gets on; before them the paused, latest first, where their tokens are in the cache.
        """
        excess, leaving = view.held + len(view.running) - (view.capacity or 0), Leaving(view)
        for number, (request, made) in reversed(list(view.paused.items()) if view.keeps == "held" else []):
            if excess <= 0:
                return
            yield number
            excess -= request.prompt + made
        for number in reversed(list(view.running)):
            if excess <= 0:
                return
            yield number
            excess -= leaving.frees(number)

    def pause(self, view: View) -> Iterable[int]:
        """Requests that run and are to be paused.

        Asked for before all else whenever something has happened, where the server pauses requests.
        """
        return ()

    def resume(self, view: View) -> Iterable[int]:
        """Paused requests that are to go on; asked for after evictions and before admissions."""
        return ()


def share(name: str, value: float) -> float:
    """``value`` of the option ``name``, once it is a share of less than the whole.

    Raises
    ------
    UsageError
        It is below 0, or 1 or more.
    """
    if not 0 <= value < 1:
        raise UsageError(f"option {name}: found {value}; allowed: 0 or more, less than 1")
    return value
