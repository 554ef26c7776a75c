"""Whether the fields of a result say the same of one run; whether they are true is another question (``verify``)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from modelkit.judge import metric_names
from modelkit.result import Result, agree

#: By so much, relatively, the incumbents and bounds of a solver may pass each other: its own tolerance.
SOLVER_TOLERANCE = 1e-6
_JUDGED = {name for is_unit in (True, False) for name in metric_names(is_unit, slo=True, pauses=True, prefixes=True)}


def contradictions(result: Result) -> list[str]:
    """What fields of a result say against each other, one sentence each, with the fields' names."""
    rules = (
        _of_status,
        _of_missing_schedule,
        _of_unit,
        _of_bound,
        _of_relaxation,
        _of_gap,
        _of_times,
        _of_progress,
        _of_stages,
    )
    return [words for rule in rules for words in rule(result)]


def _of_status(result: Result) -> Iterator[str]:
    status, value, bound = result.status, result.objective.value, result.objective.bound
    claims_schedule = status in ("optimal", "feasible")
    if claims_schedule and result.schedule is None:
        yield f"the status is {status!r}, but there is no schedule"
    if claims_schedule and value is None:
        yield f"the status is {status!r}, but there is no objective value"
    if claims_schedule and result.violations:
        yield f"the status is {status!r}, but the file lists violations"
    met = value is not None and agree(bound, value)
    if status == "optimal" and not met:
        yield f"the status is 'optimal', but value {shown(value)} and bound {shown(bound)} do not agree"
    if status == "feasible" and met:
        yield f"the status is 'feasible', but value and bound are both {shown(value)}: that is 'optimal'"
    if status == "infeasible":
        yield from _of_infeasible(result)


def _of_infeasible(result: Result) -> Iterator[str]:
    if result.schedule is not None:
        yield "the status is 'infeasible', but there is a schedule"
    if result.objective.bound is not None:
        yield "the status is 'infeasible', but there is an objective bound"
    if result.stop in ("time_limit", "failed"):
        yield f"the status is 'infeasible', but the stop is {result.stop!r}: only a run that finished proves it"
    if any(v is not None for _, v, _ in result.progress) or any(s.value is not None for s in result.stages):
        yield "the status is 'infeasible', but progress or stages tell of a schedule"


def _of_missing_schedule(result: Result) -> Iterator[str]:
    if result.schedule is not None:
        return
    if result.objective.value is not None:
        yield "the file states an objective value, but there is no schedule"
    if result.metrics:
        yield "the file states metrics, but there is no schedule"
    if result.violations:
        yield "the file states violations, but there is no schedule"


def _of_unit(result: Result) -> Iterator[str]:
    name, unit = result.objective.name, result.objective.unit
    if unit is not None and name in _JUDGED:
        yield f"objective.unit: the file says {unit!r}, but the name {name!r} ends in its unit"
    if unit is not None and name is None:
        yield f"objective.unit: the file says {unit!r}, but names no objective"


def _of_bound(result: Result) -> Iterator[str]:
    value, bound, by = result.objective.value, result.objective.bound, result.objective.bound_by
    if value is not None and bound is not None and bound > value and not agree(bound, value):
        yield f"the bound {shown(bound)} is above the value {shown(value)}"
    if bound is not None and by is None:
        yield f"there is a bound {shown(bound)}, but bound_by does not name its source"
    if bound is None and by is not None:
        yield f"bound_by says {by!r}, but there is no bound"
    if by == "certificate" and result.certificate is None:
        yield "the bound claims a certificate, but there is none"
    if result.certificate is None:
        return
    proven = float(result.certificate.value)
    if by != "certificate":
        yield f"there is a certificate, but bound_by says {by or 'nothing'}"
    elif not agree(bound, proven):
        yield f"the bound is {shown(bound)}, its certificate says {shown(proven)}"


def _of_relaxation(result: Result) -> Iterator[str]:
    """A bound is the optimum of the relaxation, rounded up where the objective is whole."""
    if result.relaxation is None:
        return
    value, bound = result.relaxation.value, result.objective.bound
    off = SOLVER_TOLERANCE * max(1.0, abs(value))
    if bound is not None and not value - off <= bound < value + 1 + off:
        yield f"the bound is {shown(bound)}, the optimum of the relaxation {shown(value)}: one of the two is wrong"
    if result.schedule is not None:
        yield "there is a relaxation, but its solution is no schedule, and the file has one"


def _of_gap(result: Result) -> Iterator[str]:
    said = result.objective._gap_said
    if said is not None:
        yield f"the file states the gap {said}; (value - bound) / value is {shown(result.objective.gap)}"


def _of_times(result: Result) -> Iterator[str]:
    for name, seconds in result.seconds:
        if seconds is not None and seconds < 0:
            yield f"seconds.{name} is {shown(seconds)}, below 0"
    times = [seconds for seconds, _, _ in result.progress]
    if any(t < 0 for t in times) or any(b < a for a, b in pairwise(times)):
        yield "the seconds of the progress go backwards"
    for stage in result.stages:
        if stage.seconds < 0:
            yield f"stages: {stage.name!r} took {shown(stage.seconds)} seconds, below 0"


def _of_progress(result: Result) -> Iterator[str]:
    values = [value for _, value, _ in result.progress if value is not None]
    bounds = [bound for _, _, bound in result.progress if bound is not None]
    if any(after > before for before, after in pairwise(values)):
        yield "the values of the progress get worse: an incumbent is kept until there is a better one"
    if any(after < before for before, after in pairwise(bounds)):
        yield "the bounds of the progress get worse: a bound is kept until there is a better one"
    yield from _beside_the_end(result, "the progress", min(values, default=None), max(bounds, default=None))


def _of_stages(result: Result) -> Iterator[str]:
    for stage in result.stages:
        yield from _beside_the_end(result, f"stage {stage.name!r}", stage.value, stage.bound)


def _beside_the_end(result: Result, what: str, value: float | None, bound: float | None) -> Iterator[str]:
    """A value or bound on the way against the bound at the end: it was proven then, and none was above it."""
    last = result.objective.bound
    if last is None:
        return
    slack = SOLVER_TOLERANCE * max(1.0, abs(last))
    if value is not None and value < last - slack:
        yield f"{what} has a value {shown(value)} below the bound {shown(last)}"
    if bound is not None and bound > last + slack:
        yield f"{what} has a bound {shown(bound)} above the final one, {shown(last)}"


def shown(value: float | None) -> str:
    """A number as it is said: a whole one to the last digit, another to ten."""
    if value is None:
        return "nothing"
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.10g}"
