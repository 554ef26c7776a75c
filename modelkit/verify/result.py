"""Verification: a result file is judged again from its instance; nothing in the file is believed.

What becomes of each field stands in ``modelkit.verify.fields``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from modelkit.arguments import checked_arguments
from modelkit.errors import ModelkitError
from modelkit.instance import Instance
from modelkit.io import load
from modelkit.judge import Verdict, judge
from modelkit.judge.load import load as load_of
from modelkit.result import Result, agree
from modelkit.schedule import Schedule
from modelkit.text import count
from modelkit.verify.certificates import certificate_faults, stamp_faults
from modelkit.verify.consistency import contradictions, shown
from modelkit.verify.feasibility import obstacles, one_at_a_time
from modelkit.verify.fields import unverified
from modelkit.verify.findings import Findings, Verification

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OwnRules:
    """What a formulation adds to the judge, for one instance and its parameters.

    Parameters
    ----------
    name
        Of the formulation.
    unknown
        Why its rules are not at hand; empty when they are.
    parameters
        Their values, in words.
    misfit
        Why the parameters that the result records are none of this formulation; empty when they are.
    breaks
        Rules that a judged schedule breaks, one sentence each; None when it adds none.
    value
        The objective of a judged schedule; None when that is the judge's metric.
    objective, unit, problem
        Metric that it minimises, the unit where that is one of its own, and problem that it is a model of; None when
        not known.
    obstacles
        Why there is no schedule, one sentence each.
    """

    name: str
    unknown: str = ""
    parameters: str = ""
    misfit: str = ""
    breaks: Callable[[Verdict], list[str]] | None = None
    value: Callable[[Verdict], float | None] | None = None
    objective: str | None = None
    unit: str | None = None
    problem: str | None = None
    obstacles: Callable[[], list[str]] | None = None


@checked_arguments
def verify_result(result: Result, instance: Instance, own: OwnRules | None = None) -> Verification:
    """Judge the schedule of ``result`` again and hold every field of the file against the replay.

    Parameters
    ----------
    own
        What the formulation of the result says. None: its rules are not checked, nor is an objective of its own.
    """
    instance = load(instance)
    if result.instance.sha256 != instance.sha256:
        words = (
            f"the result is about another instance: its sha256 is {result.instance.sha256[:16]}...,"
            f" this instance's is {instance.sha256[:16]}..."
        )
        return Verification((words,))
    found = Findings()
    found.confirmed["instance"] = f"instance {instance.sha256[:16]}..."
    found.faults += stamp_faults(result.instance, instance, "the file says")
    if result.load is not None and not agree(result.load, share := _load(result, instance)):
        found.faults.append(f"the file says a load of {shown(result.load)}, the instance {shown(share)}")
    found.faults += contradictions(result)
    own = own or _own_rules_missing(result)
    _verify_producer(result, own, found)
    if result.schedule is None:
        _verify_absence(result, instance, own, found)
    else:
        _verify_schedule(result, result.schedule, instance, own, found)
    _verify_bound(result, instance, found)
    found.unconfirmed |= dict(unverified(result))
    return found.conclusion()


def _own_rules_missing(result: Result) -> OwnRules | None:
    """What stands for the rules of a formulation that was not given; None where there are none."""
    producer = result.producer
    if producer.kind == "formulation":
        return OwnRules(producer.name, unknown="the formulation was not given")
    if producer.parameters:
        return OwnRules("the parameters", unknown="the file does not name their formulation")
    return None


def _verify_producer(result: Result, own: OwnRules | None, found: Findings) -> None:
    producer = result.producer
    if own is not None and own.misfit:
        found.faults.append(f"producer.parameters: {own.misfit}")
    if own is None or own.unknown or own.name != producer.name:
        if producer.problem is not None:
            found.unconfirmed["problem"] = (
                f"producer.problem {producer.problem!r}: no formulation is available to check it"
            )
        if result.objective.unit is not None:
            found.unconfirmed["objective unit"] = (
                f"objective.unit {result.objective.unit!r}: no formulation is available to check it"
            )
        return
    if producer.problem is not None:
        found.compare("producer.problem", producer.problem, own.problem)
    if result.objective.name is not None and own.objective is not None:
        found.compare("objective.name", result.objective.name, own.objective)
        found.compare("objective.unit", result.objective.unit, own.unit)


def _verify_absence(result: Result, instance: Instance, own: OwnRules | None, found: Findings) -> None:
    """What can be told without a schedule: that there is none at all, or that there is one."""
    if result.objective.name is not None and own is None:
        if result.objective.name not in judge(instance, Schedule()).metrics:
            found.faults.append(f"the objective {result.objective.name!r} is not a metric")
    elif result.objective.name is not None and own is not None and own.unknown:
        found.unconfirmed["objective name"] = f"the objective {result.objective.name!r}: no formulation is available"
    if result.status != "infeasible":
        found.unconfirmed["status"] = f"the status {result.status!r}: what a run found cannot be checked from its file"
        return
    why = obstacles(instance)
    if why:
        found.confirmed["infeasibility"] = f"no schedule exists: {why[0]}"
        return
    if own is not None and not own.unknown and own.obstacles is not None:
        why = _ask(own, "obstacles", own.obstacles, found) or []
    if why:
        found.confirmed["infeasibility"] = (
            f"no schedule exists, as formulation {own.name!r} says: {why[0]}" if own else ""
        )
    elif _is_feasible(instance, own, found):
        found.faults.append("the status is 'infeasible', but a schedule exists: each request alone, one after another")
    else:
        who = result.producer.solver or result.producer.name
        found.unconfirmed["infeasibility"] = f"the status 'infeasible' is claimed by {who}, not independently checked"


def _is_feasible(instance: Instance, own: OwnRules | None, found: Findings) -> bool:
    """Whether there is a schedule for sure."""
    if own is not None and (own.unknown or (own.breaks is None and own.problem is None)):
        return False
    schedule = one_at_a_time(instance)
    verdict = None if schedule is None else judge(instance, schedule)
    if verdict is None or not verdict.valid:
        return False
    return own is None or own.breaks is None or _find_broken(own, own.breaks, verdict, found) == []


def _load(result: Result, instance: Instance) -> float | None:
    """The load under the limits that the result says it kept; without them where they make no sense."""
    stated = result.producer.options
    limits = {key: stated[key] for key in ("max_batch", "max_batch_tokens", "slots_over_time") if key in stated}
    counts = [value for key, value in limits.items() if key != "slots_over_time"]
    if not all(isinstance(value, int) and value >= 1 for value in counts):
        return load_of(instance)
    try:
        return load_of(instance, **limits)
    except (TypeError, ValueError, ZeroDivisionError):
        return load_of(instance)


def _verify_schedule(
    result: Result, schedule: Schedule, instance: Instance, own: OwnRules | None, found: Findings
) -> None:
    verdict = judge(instance, schedule, result.slo)
    found.faults += [f"{violation.rule}: {violation.message}" for violation in verdict.violations]
    if verdict.valid:
        found.confirmed["schedule"] = f"the schedule of {count(len(instance.requests), 'request')} breaks no rule"
    elif result.status in ("optimal", "feasible"):
        found.faults.append(f"the status is {result.status!r}, but the schedule is not valid")
    _verify_violations(result, verdict, found)
    _verify_metrics(result, verdict, instance, found)
    keeps = _keeps_own_rules(own, verdict, found)
    if result.status in ("no_schedule", "infeasible") and verdict.valid and keeps:
        found.faults.append(f"the status is {result.status!r}, but the schedule is valid")
    elif result.status == "no_schedule":
        found.unconfirmed["status"] = "the status 'no_schedule': what a run found cannot be checked from its file"
    _verify_value(result, verdict, instance, own, found)
    if own is not None and keeps and result.objective.name != own.objective:
        _value_by(own, verdict, found)


def _value_by(own: OwnRules, verdict: Verdict, found: Findings) -> None:
    """Say what a schedule that was made for another objective is worth by a formulation's own."""
    if own.value is not None and verdict.valid:
        compute = own.value
        value = _ask(own, "value", lambda: compute(verdict), found)
        unit = f" [{own.unit}]" if own.unit else ""
        if value is not None:
            found.confirmed[f"objective of {own.name}"] = f"{own.objective} = {shown(value)}{unit}, by {own.name!r}"


def _verify_violations(result: Result, verdict: Verdict, found: Findings) -> None:
    known = [violation.document() for violation in verdict.violations]
    if len(result.violations) != len(known):
        found.faults.append(f"violations: the file lists {len(result.violations)}, the replay finds {len(known)}")
        return
    for i, (stated, judged) in enumerate(zip(result.violations, known, strict=True)):
        if stated != judged:
            found.faults.append(f"violations[{i}]: the replay finds {judged['rule']}: {judged['message']}")


def _verify_metrics(result: Result, verdict: Verdict, instance: Instance, found: Findings) -> None:
    unlike = [name for name, stated in result.metrics.items() if not _is_metric(name, stated, verdict, instance)]
    for name in sorted(unlike):
        stated, judged = result.metrics[name], verdict.metrics.get(name)
        found.faults.append(f"metric {name}: the file says {shown(stated)}, the replay {shown(judged)}")
    silent = [name for name in verdict.metrics if name not in result.metrics]
    if result.metrics and not unlike:
        found.confirmed["metrics"] = f"{len(result.metrics)} metrics"
    if silent:
        found.unconfirmed["metrics not stated"] = f"metrics that the file does not state: {', '.join(silent)}"


def _is_metric(name: str, stated: float | None, verdict: Verdict, instance: Instance) -> bool:
    return name in verdict.metrics and _is_value(stated, verdict.metrics[name], name, instance)


def _is_value(stated: float | None, known: float | None, name: str, instance: Instance) -> bool:
    """Whether a file states what is known: what is counted exactly, what is measured to a tolerance."""
    measured = not instance.is_unit and name.endswith(("_ms", "_second"))
    if known is not None and float(known).is_integer() and not measured:
        return stated == known
    return agree(stated, known)


def _keeps_own_rules(own: OwnRules | None, verdict: Verdict, found: Findings) -> bool:
    """Whether a valid schedule keeps the rules of its formulation for sure."""
    if own is None:
        return True
    what = f"rules of {own.name}"
    if own.unknown:
        found.unconfirmed[what] = f"{what} not checked: {own.unknown}"
        return False
    if own.breaks is None and own.problem is None:
        found.unconfirmed[what] = f"{what} not checked: the formulation does not state them in Python (admissible)"
        return False
    broken = [] if own.breaks is None or not verdict.valid else _find_broken(own, own.breaks, verdict, found)
    if broken is None:
        return False
    found.faults += [f"{own.name}: {words}" for words in broken]
    if verdict.valid and not broken:
        found.confirmed[what] = (
            f"it breaks no rule of formulation {own.name!r}"
            if own.breaks is not None
            else f"formulation {own.name!r} has no rules but the judge's"
        ) + (f" ({own.parameters})" if own.parameters else "")
    return not broken


def _find_broken(
    own: OwnRules, breaks: Callable[[Verdict], list[str]], verdict: Verdict, found: Findings
) -> list[str] | None:
    """The own rules that a schedule breaks; None when the formulation cannot say."""
    broken = _ask(own, "admissible", lambda: breaks(verdict), found)
    if broken is None or (isinstance(broken, list) and all(isinstance(words, str) for words in broken)):
        return broken
    what = f"rules of {own.name}"
    found.unconfirmed[what] = f"{what} not checked: admissible does not return a list of sentences"
    return None


def _ask(own: OwnRules, name: str, question: Callable[[], T], found: Findings) -> T | None:
    """What a function of the formulation answers; None, and said, when it fails."""
    try:
        return question()
    except (Exception, SystemExit) as error:
        what = f"rules of {own.name}"
        words = str(error) if isinstance(error, ModelkitError) else f"{name} fails with {type(error).__name__}: {error}"
        found.unconfirmed[what] = f"{what} not checked: {words}"
        return None


def _verify_value(result: Result, verdict: Verdict, instance: Instance, own: OwnRules | None, found: Findings) -> None:
    name, stated = result.objective.name, result.objective.value
    of_own = own is not None and not own.unknown and own.value is not None and name == own.objective
    if not of_own and name not in verdict.metrics:
        if own is not None and own.unknown:
            words = f"the objective {name!r}, which only formulation {own.name!r} can compute"
            found.unconfirmed["objective value"] = words
        else:
            found.faults.append(f"the objective {name!r} is not a metric")
        return
    if not verdict.valid:
        if stated is not None:
            found.faults.append(f"the file states the objective value {shown(stated)} of a schedule that is not valid")
        return
    if of_own and own is not None and own.value is not None:
        compute = own.value
        value = _ask(own, "value", lambda: compute(verdict), found)
        if f"rules of {own.name}" in found.unconfirmed:
            found.unconfirmed["objective value"] = f"the objective {name!r}: formulation {own.name!r} cannot compute it"
            return
    else:
        value = verdict.metrics[name or ""]
    if not _is_value(stated, value, name or "", instance):
        found.faults.append(f"objective: the file says {shown(stated)}, the replay {shown(value)}")
    else:
        unit = f" [{result.objective.unit}]" if result.objective.unit else ""
        found.confirmed["objective value"] = f"{name} = {shown(value)}{unit}"


def _verify_bound(result: Result, instance: Instance, found: Findings) -> None:
    objective, certificate = result.objective, result.certificate
    if certificate is not None:
        wrong = certificate_faults(certificate, instance)
        if objective.name != certificate.metric:
            wrong.append(f"the certificate bounds {certificate.metric}, the objective is {objective.name}")
        if certificate.goodput is not None and certificate.goodput.slo != result.slo:
            wrong.append("the certificate is about other service levels than the result")
        found.faults += wrong
        if not wrong:
            words = f"the bound {shown(certificate.value)}, recomputed exactly from its {certificate.proof}"
            found.confirmed["certificate bound"] = words
            if result.status == "optimal" and "objective value" in found.confirmed:
                found.confirmed["optimality"] = "the value meets that bound: no schedule is better"
    elif objective.bound is not None:
        who = result.producer.solver or result.producer.name
        words = (
            f"the bound {shown(objective.bound)} is claimed by {who}, not independently checked;"
            " only certificates can be recomputed"
        )
        found.unconfirmed["bound"] = words
        if result.status == "optimal":
            found.unconfirmed["optimality"] = f"the status 'optimal' is claimed by {who}, not independently checked"
