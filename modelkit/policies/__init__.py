"""Online policies: what decides, round by round, which waiting requests start.

A policy is a small class. It is told what happens (a request arrives, is done, is evicted) and
asked what to do; it never sees a true output length, a later arrival or the instance, unless it
is registered with ``clairvoyant=True``, which gives it the true lengths as predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from modelkit.errors import unknown_name
from modelkit.instance import LinearClock

#: Modules of this package that register policies.
_MODULES = ("batching", "clearing", "hybrid", "lookahead", "slots")


#: Where a policy can run: under the unit clock, or on slots in stages (linear clock, mixed = false).
PolicyClock = Literal["unit", "stages"]


class Seen(NamedTuple):
    """A request as a policy sees it. ``number`` names it; lengths in tokens, ``arrival`` in rounds or seconds."""

    number: int
    arrival: float
    prompt: int
    predicted_lower: int
    predicted_upper: int


class Running(NamedTuple):
    """A request in progress and its admission: ``start`` counts the rounds run before it."""

    request: Seen
    start: float


@dataclass(frozen=True, slots=True)
class View:
    """The state of the server as a policy sees it.

    Parameters
    ----------
    now
        Rounds or seconds.
    capacity
        M [token], None without limit.
    held
        Tokens that the requests in progress hold now.
    running
        Requests in progress by number, in order of admission.
    free_slots
        None without limit.
    rng
        The policy's own source of randomness, seeded by the run.
    round
        Rounds run so far, in stages; under the unit clock ``now`` says it.
    law
        How long iterations last, in stages.
    """

    now: float
    capacity: int | None
    held: int
    running: Mapping[int, Running]
    free_slots: int | None
    rng: np.random.Generator
    round: int = 0
    law: LinearClock | None = None


class Policy:
    """Base of all policies; the defaults ignore what happens and admit nobody."""

    def arrived(self, request: Seen) -> None:
        """``request`` has arrived, or was evicted and waits again (its predictions may have grown)."""

    def started(self, request: Seen, now: float) -> None:
        """``request`` was admitted."""

    def ended(self, request: Seen, now: float) -> None:
        """``request`` has produced its last token or was evicted."""

    def outgrew(self, request: Seen, now: float) -> None:
        """``request`` runs on past its prediction, which is now one token longer than seen so far."""

    def admit(self, view: View) -> Iterable[int]:
        """Numbers of waiting requests to start now, in order.

        May be a generator: `started` is called for each request before the next is asked for.
        In stages they share one prefill, which interrupts the decoding of the others; the policy is asked
        whenever something has happened while a slot is free and somebody waits.
        """
        return ()

    def patience(self, view: View) -> int | None:
        """In stages: rounds after which to be asked again although nothing has happened; None: never."""
        return None

    def evict(self, view: View) -> Iterable[int]:
        """Requests to evict because the next round would exceed the capacity.

        Called only then. The default evicts the latest admitted until the next round fits, so
        the oldest request always gets on.
        """
        excess = view.held + len(view.running) - (view.capacity or 0)
        for number, (request, start) in reversed(list(view.running.items())):
            if excess <= 0:
                return
            yield number
            excess -= request.prompt + int(view.now - start) + 1


@dataclass(frozen=True)
class PolicyEntry:
    """A policy in the registry."""

    name: str
    summary: str
    reference: str
    make: Callable[[], Policy]
    clairvoyant: bool
    clock: PolicyClock


_REGISTRY: dict[str, PolicyEntry] = {}
_P = TypeVar("_P", bound=type[Policy])


def register(
    name: str, *, summary: str, reference: str, clairvoyant: bool = False, clock: PolicyClock = "unit"
) -> Callable[[_P], _P]:
    """Class decorator that registers a policy under ``name``."""

    def decorate(make: _P) -> _P:
        if name in _REGISTRY:
            raise ValueError(f"policy {name!r} is registered twice")
        _REGISTRY[name] = PolicyEntry(name, summary, reference, make, clairvoyant, clock)
        return make

    return decorate


def policies() -> dict[str, PolicyEntry]:
    """All policies by name."""
    for module in _MODULES:
        import_module(f"{__name__}.{module}")
    return dict(sorted(_REGISTRY.items()))


def get_policy(name: str) -> PolicyEntry:
    """The policy called ``name``.

    Raises
    ------
    UsageError
        There is none.
    """
    known = policies()
    if name not in known:
        raise unknown_name("policy", name, known)
    return known[name]
