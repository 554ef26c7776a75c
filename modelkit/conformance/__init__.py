"""The conformance suite: what every formulation is held to, bundled or written by a user.

`check` runs the rules of `RULES` in order. A rule whose predecessors failed is not reached; a rule that stumbles over
an error in the file says so and in which line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from modelkit.conformance import shown, stated  # noqa: F401  register their rules
from modelkit.conformance.rules import RULES, Complaint, Finding, Rule
from modelkit.conformance.subject import Subject
from modelkit.errors import ModelkitError, UsageError
from modelkit.plugins import file_of, place

__all__ = ["RULES", "Complaint", "Finding", "Rule", "check"]

#: Tiny instances that a check draws.
INSTANCES = 50
#: The order in which people read them.
ORDER = ("loads", "import", "docstring", "documented", "units", "data", "builds", "used", "solves", "judged", "claim",
         "stable", "growth")  # fmt: skip


def check(
    name: str,
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
        Name or ``.py`` file.
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
        There is no formulation of that name, or no such file.
    """
    if not file_of(name).is_file():
        raise UsageError(f"cannot read formulation {name}: there is no such file")
    subject = Subject(name, dict(parameters or {}), instances)
    found: dict[str, Finding] = {}
    wanted = _with_predecessors(rules)
    for each in ORDER:
        if each in wanted:
            found[each] = _finding(RULES[each], subject, found)
            if listen is not None:
                listen(found[each])
    return list(found.values())


def _with_predecessors(rules: Collection[str]) -> set[str]:
    wanted = set(rules)
    for name in reversed(ORDER):
        if name in wanted:
            wanted.update(RULES[name].after)
    return wanted


def _finding(rule: Rule, subject: Subject, found: Mapping[str, Finding]) -> Finding:
    missing = [name for name in rule.after if found[name].status != "ok"]
    if missing:
        return Finding(rule.name, rule.checks, "not reached", f"after {', '.join(missing)}")
    try:
        said = rule.check(subject)
    except Exception as error:
        where = str(error) if isinstance(error, ModelkitError) else place(error, subject.path)
        said = [Complaint(where, "mend what raises it; the instance was one that needs() takes")]
    if isinstance(said, str):
        return Finding(rule.name, rule.checks, "ok", said)
    return Finding(rule.name, rule.checks, "failed", complaints=tuple(said))
