"""Online policies: what decides, round by round, which waiting requests start.

A policy is a small class. It is told what happens (a request arrives, is done, is evicted) and
asked what to do; it never sees a true output length, a later arrival or the instance, unless it
is registered with ``clairvoyant=True``, which gives it the true lengths as predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from modelkit.errors import UsageError, did_you_mean
from modelkit.policies.base import Leaving as Leaving
from modelkit.policies.base import Paused as Paused
from modelkit.policies.base import Policy as Policy
from modelkit.policies.base import Predictions as Predictions
from modelkit.policies.base import Room as Room
from modelkit.policies.base import Running as Running
from modelkit.policies.base import Seen as Seen
from modelkit.policies.base import View as View
from modelkit.policies.base import seen_requests as seen_requests
from modelkit.policies.base import share as share
from modelkit.policies.dispatch import DISPATCH, STAGED_DISPATCH
from modelkit.policies.dispatch import RULES as DISPATCH_RULES
from modelkit.policies.dispatch import Dispatch as Dispatch
from modelkit.policies.files import load_policy_file, split_file
from modelkit.policies.gates import GATE_OPTIONS, gate_policy
from modelkit.registry import Option, Registry, options_of

#: Modules of this package that register policies.
_MODULES = (
    "clearing", "groups", "hybrid", "intervals", "lookahead", "prefixes", "sglang", "slots", "sorted_f", "srpt",
    "timed", "vllm", "wait",
)  # fmt: skip


#: Where a policy can run: ``unit``, in continuous batching, counted in rounds under the unit clock and in
#: iterations under the linear clock; ``stages``, on slots in stages (linear clock, mixed = false).
PolicyClock = Literal["unit", "stages"]


@dataclass(frozen=True)
class PolicyEntry:
    """A policy in the registry.

    ``work_conserving``: no request waits on purpose while the server could serve it. ``options``: its own, and those
    of the gate before every policy of continuous batching (`modelkit.policies.gates`) and of the dispatch to replicas
    (`modelkit.policies.dispatch`).
    """

    name: str
    summary: str
    reference: str
    make: type[Policy]
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
        options = {key: value for key, value in options.items() if key != DISPATCH.name}
        if self.clock != "unit":
            return self.make(**options)
        gate = {option.name: options[option.name] for option in GATE_OPTIONS if option.name in options}
        return gate_policy(self.make(**{key: value for key, value in options.items() if key not in gate}), **gate)

    def dispatch(self, options: Mapping[str, Any]) -> Dispatch:
        """The rule that sends arrivals to replicas with these options."""
        default = next(option.default for option in self.options if option.name == DISPATCH.name)
        return DISPATCH_RULES[options.get(DISPATCH.name, default)]()

    def lets_wait(self, options: Mapping[str, Any]) -> bool:
        """Whether with these options requests wait on purpose while the server could serve them."""
        return not self.work_conserving or bool(options.get("gate") or options.get("wait"))

    @property
    def pauses(self) -> bool:
        """Whether it pauses requests whatever its options, and so is for servers that allow it alone."""
        return self.make.pauses is not None

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

    def decorate(make: _P) -> _P:
        options = options_of(make, helps) if helps else ()
        options += (*GATE_OPTIONS, DISPATCH) if clock == "unit" else (STAGED_DISPATCH,)
        if len({option.name for option in options}) < len(options):
            words = "options called gate, wait or dispatch are those of what stands before every policy"
            raise ValueError(f"policy {name!r}: {words}")
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
    """The policy and options that ``NAME`` or ``NAME:option=value,option=value`` names; ``FILE.py:`` may come before.

    Raises
    ------
    UsageError
        No such policy or option, one twice, or a value of another type or out of range; or the file cannot be run.
    """
    file, said = split_file(text)
    if file is not None:
        load_policy_file(file)
    name, colon, rest = said.partition(":")
    if name in DISPATCH_RULES and name not in policies():
        raise UsageError(f"{name!r} is a rule of dispatch, which every policy takes: mc-sf:dispatch={name}")
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
