"""Verification: a result file is judged again from its instance; nothing in the file is believed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from modelkit.arguments import checked_arguments
from modelkit.certificate import Certificate
from modelkit.errors import InputError
from modelkit.instance import Instance
from modelkit.io import load
from modelkit.judge import Verdict, judge
from modelkit.result import Result
from modelkit.stability import load as load_of

#: Metrics of a file may differ from the judge's by so much, relatively; sums of doubles are no closer.
METRIC_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found wrong, what was confirmed, and what cannot be confirmed from these files."""

    faults: tuple[str, ...]
    confirmed: tuple[str, ...]
    unconfirmed: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


@dataclass(frozen=True, slots=True)
class OwnRules:
    """What a formulation adds to the judge: the rules that a schedule breaks, and its objective; None where not."""

    breaks: Callable[[Verdict], list[str]] | None = None
    value: Callable[[Verdict], float | None] | None = None


@checked_arguments
def verify_result(result: Result, instance: Instance, own: OwnRules | None = None) -> Verification:
    """Judge the schedule of ``result`` again and hold every number of the file against the replay.

    ``own`` says what a variant's formulation adds; without, its rules and its objective are not confirmed.
    """
    instance = load(instance)
    if result.instance.sha256 != instance.sha256:
        return Verification(
            (
                f"the result is about another instance: its sha256 is {result.instance.sha256[:16]}...,"
                f" this instance's is {instance.sha256[:16]}...",
            ),
            (),
            (),
        )
    faults: list[str] = []
    confirmed = [f"instance {instance.sha256[:16]}..."]
    unconfirmed: list[str] = []
    if result.instance.requests != len(instance.requests):
        faults.append(f"the file says {result.instance.requests} requests, the instance has {len(instance.requests)}")
    share = _load(result, instance)
    if result.load is not None and not _same(result.load, share):
        faults.append(f"the file says a load of {_shown(result.load)}, the instance {_shown(share)}")
    if result.schedule is None:
        if result.status in ("optimal", "feasible"):
            faults.append(f"the status is {result.status!r}, but there is no schedule")
        if result.objective.value is not None or result.metrics:
            faults.append("the file states metrics, but there is no schedule")
    else:
        _verify_schedule(result, instance, own or OwnRules(), faults, confirmed, unconfirmed)
    _verify_bound(result, instance, faults, confirmed, unconfirmed)
    return Verification(tuple(faults), tuple(confirmed), tuple(unconfirmed))


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
    result: Result,
    instance: Instance,
    own: OwnRules,
    faults: list[str],
    confirmed: list[str],
    unconfirmed: list[str],
) -> None:
    assert result.schedule is not None
    verdict = judge(instance, result.schedule)
    faults += [f"{violation.rule}: {violation.message}" for violation in verdict.violations]
    if verdict.valid:
        confirmed.append(f"the schedule of {len(instance.requests)} requests breaks no rule")
    if not verdict.valid and result.status in ("optimal", "feasible"):
        faults.append(f"the status is {result.status!r}, but the schedule is not valid")
    for name in sorted({*verdict.metrics, *result.metrics}):
        stated, judged = result.metrics.get(name), verdict.metrics.get(name)
        if not _same(stated, judged):
            faults.append(f"metric {name}: the file says {_shown(stated)}, the replay {_shown(judged)}")
    name = result.producer.name
    if own.breaks is not None:
        broken = own.breaks(verdict)
        faults += [f"{name}: {words}" for words in broken]
        if verdict.valid and not broken:
            confirmed.append(f"it breaks no rule of formulation {name!r}")
    elif result.producer.parameters:
        unconfirmed.append(f"whether it keeps the rules of formulation {name!r}, which is not at hand")
    value = verdict.metrics.get(result.objective.name or "")
    if own.value is not None:
        value = own.value(verdict)
    elif result.objective.name not in verdict.metrics and result.producer.parameters:
        unconfirmed.append(f"the objective {result.objective.name!r}, which only formulation {name!r} can compute")
        return
    if own.value is None and result.objective.name not in verdict.metrics:
        faults.append(f"the objective {result.objective.name!r} is no metric")
    elif not verdict.valid:
        if result.objective.value is not None:
            faults.append(f"the file states the value {_shown(result.objective.value)} of a schedule that is not valid")
    elif not _same(result.objective.value, value):
        faults.append(f"objective: the file says {_shown(result.objective.value)}, the replay {_shown(value)}")
    else:
        confirmed.append(f"{result.objective.name} = {_shown(value)}, and {len(verdict.metrics)} metrics")


def _verify_bound(
    result: Result, instance: Instance, faults: list[str], confirmed: list[str], unconfirmed: list[str]
) -> None:
    value, bound = result.objective.value, result.objective.bound
    if value is not None and bound is not None and bound > value and not _same(bound, value):
        faults.append(f"the bound {_shown(bound)} is above the value {_shown(value)}")
    if result.objective.bound_by == "certificate":
        wrong = certificate_faults(result.certificate, instance)
        faults += wrong
        if result.certificate is not None and not _same(bound, float(result.certificate.value)):
            faults.append(
                f"the bound is {_shown(bound)}, its certificate says {_shown(float(result.certificate.value))}"
            )
        elif result.certificate is not None and not wrong:
            confirmed.append(f"the bound {_shown(bound)}, recomputed exactly from its {result.certificate.proof}")
    elif bound is not None:
        who = result.producer.solver or result.producer.name
        unconfirmed.append(f"the bound {_shown(bound)} is the word of {who}; only certificates can be recomputed")
    if result.status == "optimal" and (bound is None or value is None or not _same(bound, value)):
        faults.append(f"the status is 'optimal', but value {_shown(value)} and bound {_shown(bound)} do not agree")


@checked_arguments
def verify_certificate(certificate: Certificate, instance: Instance) -> Verification:
    """Recompute the bound of ``certificate`` from its proof and the instance alone, exactly."""
    instance = load(instance)
    what, unit = ("total latency", "rounds") if certificate.kind == "kv-prices" else ("makespan", "ms")
    faults = certificate_faults(certificate, instance)
    confirmed = (
        f"instance {instance.sha256[:16]}...",
        f"no schedule has a {what} below {_shown(certificate.value)} {unit}: recomputed exactly from the"
        f" {certificate.proof}",
    )
    return Verification(tuple(faults), () if faults else confirmed, ())


def certificate_faults(certificate: Certificate | None, instance: Instance) -> list[str]:
    """What is wrong with a certificate; the bound is recomputed exactly from its proof alone."""
    if certificate is None:
        return ["the bound claims a certificate, but there is none"]
    if certificate.instance.sha256 != instance.sha256:
        return ["the certificate is about another instance"]
    if certificate.instance.requests != len(instance.requests):
        said = certificate.instance.requests
        return [f"the certificate says {said} requests, the instance has {len(instance.requests)}"]
    try:
        bound = certificate.recomputed(instance)
    except InputError as error:
        return [str(fault) for fault in error.faults]
    stated = Fraction(certificate.bound.numerator, certificate.bound.denominator)
    if bound != stated:
        return [f"the certificate says {float(stated):.10g}, its {certificate.proof} gives {float(bound):.10g}"]
    return []


def _same(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=METRIC_TOLERANCE, abs_tol=1e-12)


def _shown(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.10g}"
