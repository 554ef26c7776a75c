"""The conformance suite: what every formulation is held to, bundled or written by a user.

`check` runs the rules of `RULES` in order. A rule whose predecessors failed is not reached; a rule that stumbles over
an error in the file says so and in which line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from modelkit.authoring.check import behaviour, documentation  # noqa: F401  register their rules
from modelkit.authoring.check.candidate import Subject
from modelkit.authoring.check.rules import RULES, Complaint, Finding, Rule, Step
from modelkit.errors import FormulationLateError, ModelkitError, UsageError
from modelkit.formulation.formulation import Formulation
from modelkit.formulation.hosting import host as hosting
from modelkit.formulation.hosting.guest import tell
from modelkit.formulation.loading import file_of, is_bundled, place
from modelkit.runtime.deadline import Deadline

__all__ = ["RULES", "Complaint", "Finding", "Rule", "Step", "check"]

#: Tiny instances that a check draws.
INSTANCES = 50
#: The order in which people read them.
ORDER = ("loads", "import", "docstring", "documented", "units", "data", "builds", "used", "solves", "judged", "claim",
         "stable", "growth")  # fmt: skip


#: Rules whose evidence is all instances.
_OF_INSTANCES = ("solves", "judged", "claim")
#: Seconds after the time limit at which the process of a file is ended.
_GRACE = 2.0
_LATE = "the time limit was over"

#: Rules that look at the file, which an object may not have.
OF_FILES = ("loads", "import", "docstring", "stable")


def check(
    name: str | Formulation,
    parameters: Mapping[str, Any] | None = None,
    *,
    instances: int = INSTANCES,
    rules: Collection[str] = ORDER,
    time_limit: float | None = None,
    listen: Callable[[Finding], None] | None = None,
    progress: Callable[[Step], None] | None = None,
) -> list[Finding]:
    """Hold a formulation to every rule.

    Parameters
    ----------
    name
        Name, ``.py`` file, or the object itself: then it is checked in this process, and what only a file shows is not.
    parameters
        Values to check a variant with; those not given take the examples that it declares.
    instances
        Tiny instances to draw.
    rules
        Those to check; others that they build on are checked too.
    time_limit
        Seconds after which no further instance is solved and no further rule begun; None for no limit.
    listen
        Called with each finding as it is made.
    progress
        Called with each step of a rule.

    Raises
    ------
    UsageError
        There is no formulation of that name, no such file, or no such rule.
    """
    for rule in rules:
        _ = RULES[rule]  # refuses what there is not
    wanted = [rule for rule in ORDER if rule in _with_predecessors(rules)]

    def hear(said: Finding | Step) -> None:
        told = listen if isinstance(said, Finding) else progress
        if told is not None:
            told(said)  # type: ignore[arg-type]

    if isinstance(name, str) and not file_of(name).is_file():
        raise UsageError(f"cannot read formulation {name}: there is no such file")
    if isinstance(name, Formulation) or is_bundled(name):
        return list(_findings(name, dict(parameters or {}), instances, wanted, time_limit, hear).values())
    return _check_apart(name, dict(parameters or {}), instances, wanted, time_limit, hear)


def _findings(
    asked: str | Formulation,
    parameters: dict[str, Any],
    instances: int,
    wanted: Sequence[str],
    time_limit: float | None,
    hear: Callable[[Finding | Step], None],
) -> dict[str, Finding]:
    deadline = Deadline.after(time_limit)
    subject = Subject(asked, parameters, instances, deadline)
    found: dict[str, Finding] = {}
    for name in wanted:
        subject.tell = lambda done, of, rule=name: hear(Step(rule, done, of))  # type: ignore[misc]
        over = deadline.over
        found[name] = _finding(RULES[name], subject, found) if not over else _not_reached(name, _LATE)
        if deadline.over and not over and name in _OF_INSTANCES and found[name].status == "ok":
            found[name] = replace(found[name], words=f"{found[name].words}, then {_LATE}")
        hear(found[name])
    return found


def _not_reached(name: str, words: str) -> Finding:
    return Finding(name, RULES[name].checks, "not reached", words)


def _check_apart(
    name: str,
    parameters: dict[str, Any],
    instances: int,
    wanted: Sequence[str],
    time_limit: float | None,
    listen: Callable[[Finding | Step], None],
) -> list[Finding]:
    """Check a user's file in a process of its own; the rule in which it ends that process is broken."""
    path = file_of(name).resolve()
    named = name if name.endswith(".py") else str(path)
    found: list[Finding] = []

    def hear(finding: Finding | Step) -> None:
        if isinstance(finding, Step):
            listen(finding)
            return
        complaints = tuple(Complaint(c.what.replace(str(path), named), c.advice) for c in finding.complaints)
        found.append(replace(finding, complaints=complaints))
        listen(found[-1])

    host = hosting.Host()
    try:
        call = ("call", _tell_findings, (str(path), parameters, instances, wanted, time_limit))
        within = None if time_limit is None else time_limit + _GRACE
        host.request(call, f"formulation {named}", path, timeout=hosting.TIMEOUT, within=within, listen=hear)
    except FormulationLateError:
        for rest in wanted[len(found) :]:
            hear(_not_reached(rest, _LATE))
    except ModelkitError as error:
        ended = RULES[wanted[len(found)]]
        advice = "every function must return within the time limit and must not end the process; fix it and check again"
        hear(Finding(ended.name, ended.checks, "failed", complaints=(Complaint(str(error), advice),)))
        for rest in wanted[len(found) :]:
            hear(_not_reached(rest, f"{ended.name} ended the check"))
    finally:
        host.end()
    return found


def _tell_findings(
    name: str, parameters: dict[str, Any], instances: int, wanted: Sequence[str], time_limit: float | None
) -> None:
    """The part of the process of its own."""
    _findings(name, parameters, instances, wanted, time_limit, tell)


def _with_predecessors(rules: Collection[str]) -> set[str]:
    wanted = set(rules)
    for name in reversed(ORDER):
        if name in wanted:
            wanted.update(RULES[name].after)
    return wanted


def _finding(rule: Rule, subject: Subject, found: Mapping[str, Finding]) -> Finding:
    skipped = OF_FILES if isinstance(subject.asked, Formulation) else ()
    if rule.name in skipped:
        return _not_reached(rule.name, "it is an object, and this looks at a file")
    missing = [name for name in rule.after if found[name].status != "ok" and name not in skipped]
    if missing:
        return _not_reached(rule.name, f"after {', '.join(missing)}")
    try:
        said = rule.check(subject)
    except Exception as error:
        advice = "fix the exception; needs() accepts this instance"
        said = [Complaint.of(error, advice) if isinstance(error, ModelkitError)
                else Complaint(place(error, subject.path), advice)]  # fmt: skip
    if isinstance(said, str):
        return Finding(rule.name, rule.checks, "ok", said)
    return Finding(rule.name, rule.checks, "failed", complaints=tuple(said))
