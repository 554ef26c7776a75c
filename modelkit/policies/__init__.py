"""Online policies: what decides, round by round, which waiting requests start.

A policy is a small class. It is told what happens (a request arrives, is done, is evicted) and
asked what to do; it never sees a true output length, a later arrival or the instance, unless it
is registered with ``clairvoyant=True``, which gives it the true lengths as predictions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from modelkit.errors import UsageError, did_you_mean
from modelkit.instance import Instance, LinearClock
from modelkit.registry import Option, Registry, options_of

#: Modules of this package that register policies.
_MODULES = (
    "clearing", "groups", "hybrid", "intervals", "lookahead", "sglang", "slots", "sorted_f", "timed", "vllm", "wait",
)  # fmt: skip


#: Where a policy can run: ``unit``, in continuous batching, counted in rounds under the unit clock and in
#: iterations under the linear clock; ``stages``, on slots in stages (linear clock, mixed = false).
PolicyClock = Literal["unit", "stages"]

#: Lower and upper predicted outputs, int64 of shape [n] [token].
Predictions = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


class Seen(NamedTuple):
    """A request as a policy sees it. ``number`` names it; lengths in tokens, ``arrival`` in rounds or seconds."""

    number: int
    arrival: float
    prompt: int
    predicted_lower: int
    predicted_upper: int


def seen_requests(instance: Instance, predicted: Predictions) -> list[Seen]:
    """The requests as a policy sees them, with these predictions."""
    lower, upper = (end.tolist() for end in predicted)
    columns = (instance.arrays.arrival.tolist(), instance.arrays.prompt.tolist(), lower, upper)
    return [Seen(number, *row) for number, row in enumerate(zip(*columns, strict=True))]


class Running(NamedTuple):
    """A request in progress: ``start`` counts the rounds run before the one that gave its first token."""

    request: Seen
    start: float


class View(NamedTuple):
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
        Rounds run so far; under the unit clock the same as ``now``.
    linear_clock
        How long iterations last; None under the unit clock. Where prefills are iterations of their own, ``base_ms``
        is in both other bases.
    prompt_room
        Prompt tokens that the iteration ahead takes; None without limit.
    chunked
        Whether the last prompt may exceed ``prompt_room``, to be processed in several iterations.
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

    def takes(self, request: Seen) -> bool:
        """Whether ``request`` may start; if so, what it takes is gone."""
        if self._slots < 1 or self._tokens < (1 if self._chunked else request.prompt):
            return False
        self._slots -= 1
        self._tokens -= request.prompt
        return True


class Policy:
    """Base of all policies; the defaults ignore events and admit no request.

    Keyword parameters of the constructor are the policy's options.
    """

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

        Called only then. The default evicts the latest admitted until the next round fits, so
        the oldest request always gets on.
        """
        excess = view.held + len(view.running) - (view.capacity or 0)
        for number, (request, start) in reversed(list(view.running.items())):
            if excess <= 0:
                return
            yield number
            excess -= request.prompt + int(view.round - start) + 1


@dataclass(frozen=True)
class PolicyEntry:
    """A policy in the registry.

    ``work_conserving``: no request waits on purpose while the server could serve it. ``options``: its own, and those
    of the gate before every policy of continuous batching (`modelkit.policies.gates`).
    """

    name: str
    summary: str
    reference: str
    make: Callable[..., Policy]
    clairvoyant: bool
    clock: PolicyClock
    work_conserving: bool = True
    options: tuple[Option, ...] = ()

    def build(self, options: Mapping[str, Any]) -> Policy:
        """The policy with these options, behind its gate where it has one.

        Raises
        ------
        UsageError
            A value that an option does not take.
        """
        from modelkit.policies.gates import GATE_OPTIONS, gate_policy

        if self.clock != "unit":
            return self.make(**options)
        gate = {option.name: options[option.name] for option in GATE_OPTIONS if option.name in options}
        return gate_policy(self.make(**{key: value for key, value in options.items() if key not in gate}), **gate)

    def lets_wait(self, options: Mapping[str, Any]) -> bool:
        """Whether with these options requests wait on purpose while the server could serve them."""
        return not self.work_conserving or bool(options.get("gate") or options.get("wait"))

    @property
    def bundled(self) -> bool:
        """Whether it comes with modelkit; other processes know no other."""
        return self.make.__module__.partition(".")[0] == "modelkit"


REGISTRY: Registry[PolicyEntry] = Registry("policy", modules=[f"{__name__}.{module}" for module in _MODULES])
_P = TypeVar("_P", bound=type[Policy])


def policy(
    name: str,
    *,
    summary: str,
    reference: str,
    clairvoyant: bool = False,
    clock: PolicyClock = "unit",
    work_conserving: bool = True,
    **helps: str,
) -> Callable[[_P], _P]:
    """Class decorator that registers a policy under ``name``; ``helps`` says what its options are for.

    A class that is defined again, as in a notebook, takes the place of the one before.
    """
    from modelkit.policies.gates import GATE_OPTIONS

    def decorate(make: _P) -> _P:
        options = options_of(make, helps) if helps else ()
        options += GATE_OPTIONS if clock == "unit" else ()
        if len({option.name for option in options}) < len(options):
            raise ValueError(f"policy {name!r}: options called gate or wait are those of the gate before every policy")
        entry = PolicyEntry(name, summary, reference, make, clairvoyant, clock, work_conserving, options)
        REGISTRY.add(name, entry, make)
        return make

    return decorate


def policies() -> dict[str, PolicyEntry]:
    """All policies by name."""
    return REGISTRY.entries()


def get_policy(name: str) -> PolicyEntry:
    """The policy called ``name``.

    Raises
    ------
    UsageError
        There is none.
    """
    return REGISTRY[name]


def chosen_policy(text: str) -> tuple[PolicyEntry, dict[str, Any]]:
    """The policy and options that ``NAME`` or ``NAME:option=value,option=value`` names.

    Raises
    ------
    UsageError
        No such policy or option, one twice, or a value of another type or out of range.
    """
    name, colon, rest = text.partition(":")
    entry = get_policy(name)
    known = {option.name: option for option in entry.options}
    values: dict[str, Any] = {}
    for part in rest.split(",") if colon else ():
        key, equals, value = part.partition("=")
        if not equals or key not in known:
            takes = ", ".join(f"{o.name}={o.default}" for o in entry.options) or "none"
            raise UsageError(f"policy {name!r} has no option {part!r}{did_you_mean(key, known)}\n  options: {takes}")
        if key in values:
            raise UsageError(f"policy {name!r} has option {key!r} twice; give it once")
        try:
            values[key] = known[key].read(value)
        except ValueError as error:
            raise UsageError(f"policy {name!r}, option {key}: found {value!r}; allowed: {error}") from None
    entry.build(values)  # refuses what is out of range
    return entry, values


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
