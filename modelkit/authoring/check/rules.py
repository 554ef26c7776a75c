"""The registry of rules, and what a rule says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from modelkit.authoring.check.candidate import Subject
from modelkit.errors import FormulationError, ModelkitError, UsageError
from modelkit.registry import Registry

Status = Literal["ok", "failed", "not reached"]


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong, and what to do about it."""

    what: str
    advice: str

    @classmethod
    def of(cls, error: ModelkitError, advice: str, before: str = "") -> Complaint:
        """An error and what it says is to be done, behind its last semicolon, or else this advice."""
        what, _, own = (
            str(error).rpartition("; ") if type(error) in (FormulationError, UsageError) else (str(error), "", "")
        )
        return cls(before + (what or own), own if what and own else advice)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule says: ``words`` is the evidence when it holds, or why it was not reached."""

    rule: str
    checks: str
    status: Status
    words: str = ""
    complaints: tuple[Complaint, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """How far a rule is: instances that it has solved or searched."""

    rule: str
    done: int
    of: int


#: A rule returns its evidence in a few words, or what is wrong.
Check = Callable[[Subject], "str | list[Complaint]"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the conformance suite.

    Parameters
    ----------
    name
        One word.
    checks
        What it holds a formulation to, as a true sentence.
    after
        Rules that must hold for this one to make sense.
    check
        The rule itself.
    """

    name: str
    checks: str
    after: tuple[str, ...]
    check: Check


#: Every rule.
RULES: Registry[Rule] = Registry("rule")


def rule(name: str, checks: str, *after: str) -> Callable[[Check], Check]:
    """Decorator that registers a rule."""

    def register(check: Check) -> Check:
        RULES.add(name, Rule(name, checks, after, check), check)
        return check

    return register
