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
from modelkit.authoring.check.rules import RULES, Complaint, Finding, Rule
from modelkit.errors import ModelkitError, UsageError
from modelkit.formulation.formulation import Formulation
from modelkit.formulation.hosting import host as hosting
from modelkit.formulation.hosting.guest import tell
from modelkit.formulation.loading import file_of, is_bundled, place

__all__ = ["RULES", "Complaint", "Finding", "Rule", "check"]

#: Tiny instances that a check draws.
INSTANCES = 50
#: The order in which people read them.
ORDER = ("loads", "import", "docstring", "documented", "units", "data", "builds", "used", "solves", "judged", "claim",
         "stable", "growth")  # fmt: skip


#: Rules that look at the file, which an object may not have.
OF_FILES = ("loads", "import", "docstring", "stable")


def check(
    name: str | Formulation,
    parameters: Mapping[str, Any] | None = None,
    *,
    instances: int = INSTANCES,
    rules: Collection[str] = ORDER,
    listen: Callable[[Finding], None] | None = None,
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
    listen
        Called with each finding as it is made.

    Raises
    ------
    UsageError
        There is no formulation of that name, no such file, or no such rule.
    """
    for rule in rules:
        _ = RULES[rule]  # refuses what there is not
    hear = listen or (lambda finding: None)
    wanted = [rule for rule in ORDER if rule in _with_predecessors(rules)]
    if isinstance(name, Formulation):
        return list(_findings(Subject(name, dict(parameters or {}), instances), wanted, hear).values())
    if not file_of(name).is_file():
        raise UsageError(f"cannot read formulation {name}: there is no such file")
    if is_bundled(name):
        return list(_findings(Subject(name, dict(parameters or {}), instances), wanted, hear).values())
    return _check_apart(name, dict(parameters or {}), instances, wanted, hear)


def _findings(subject: Subject, wanted: Sequence[str], listen: Callable[[Finding], None]) -> dict[str, Finding]:
    found: dict[str, Finding] = {}
    for name in wanted:
        found[name] = _finding(RULES[name], subject, found)
        listen(found[name])
    return found


def _check_apart(
    name: str, parameters: dict[str, Any], instances: int, wanted: Sequence[str], listen: Callable[[Finding], None]
) -> list[Finding]:
    """Check a user's file in a process of its own; the rule in which it ends that process is broken."""
    path = file_of(name).resolve()
    named = name if name.endswith(".py") else str(path)
    found: list[Finding] = []

    def hear(finding: Finding) -> None:
        complaints = tuple(Complaint(c.what.replace(str(path), named), c.advice) for c in finding.complaints)
        found.append(replace(finding, complaints=complaints))
        listen(found[-1])

    host = hosting.Host()
    try:
        call = ("call", _tell_findings, (str(path), parameters, instances, wanted))
        host.request(call, f"formulation {named}", path, timeout=hosting.TIMEOUT, listen=hear)
    except ModelkitError as error:
        ended = RULES[wanted[len(found)]]
        advice = "every function must return within the time limit and must not end the process; fix it and check again"
        hear(Finding(ended.name, ended.checks, "failed", complaints=(Complaint(str(error), advice),)))
        for rest in wanted[len(found) :]:
            hear(Finding(rest, RULES[rest].checks, "not reached", f"{ended.name} ended the check"))
    finally:
        host.end()
    return found


def _tell_findings(name: str, parameters: dict[str, Any], instances: int, wanted: Sequence[str]) -> None:
    """The part of the process of its own."""
    _findings(Subject(name, parameters, instances), wanted, tell)


def _with_predecessors(rules: Collection[str]) -> set[str]:
    wanted = set(rules)
    for name in reversed(ORDER):
        if name in wanted:
            wanted.update(RULES[name].after)
    return wanted


def _finding(rule: Rule, subject: Subject, found: Mapping[str, Finding]) -> Finding:
    skipped = OF_FILES if isinstance(subject.asked, Formulation) else ()
    if rule.name in skipped:
        return Finding(rule.name, rule.checks, "not reached", "it is an object, and this looks at a file")
    missing = [name for name in rule.after if found[name].status != "ok" and name not in skipped]
    if missing:
        return Finding(rule.name, rule.checks, "not reached", f"after {', '.join(missing)}")
    try:
        said = rule.check(subject)
    except Exception as error:
        where = str(error) if isinstance(error, ModelkitError) else place(error, subject.path)
        said = [Complaint(where, "fix the exception; needs() accepts this instance")]
    if isinstance(said, str):
        return Finding(rule.name, rule.checks, "ok", said)
    return Finding(rule.name, rule.checks, "failed", complaints=tuple(said))
