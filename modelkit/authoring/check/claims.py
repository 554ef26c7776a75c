"""What a claim says of an instance, and why it may be wrong."""

from __future__ import annotations

import math
from dataclasses import replace

from modelkit.authoring.check.brute_force import Best
from modelkit.authoring.check.candidate import Solved
from modelkit.authoring.check.rules import Complaint
from modelkit.formulation.formulation import Formulation
from modelkit.instance import Instance
from modelkit.judge import judge
from modelkit.schedule import Schedule
from modelkit.solving.known import known_of

#: Values closer than this are equal.
TOLERANCE = 1e-6


def against(formulation: Formulation, solved: Solved, best: Best | None) -> Complaint | None:
    """What is wrong with one claim on one instance, or None."""
    where, model_value, bound = describe(solved.instance), solved.model_value, solved.outcome.bound
    if best is None:
        if formulation.claim == "exact" and model_value is not None:
            return Complaint(
                f"{where}: the model has a solution of {words(model_value)}, but no admissible schedule exists",
                "a constraint is missing or too weak, or admissible() is too strict",
            )
        return None
    found = f"; one is {_starts(solved.instance, best)}{forbidden(formulation, solved.instance, best.schedule)}"
    if model_value is None:
        return Complaint(
            f"{where}: the model is infeasible, but there is a schedule of {words(best.value)}{found}",
            "a constraint is too strong, or the horizon is too short" + _stated_problem(formulation),
        )
    if formulation.claim == "exact" and not same(model_value, best.value):
        high = model_value > best.value
        return Complaint(
            f"{where}: the model's optimum is {words(model_value)}, brute force finds {words(best.value)}"
            + (found if high else ""),
            _cause(formulation, solved, best.value),
        )
    if obstacles := formulation.hindrances(solved.instance):
        return Complaint(
            f"{where}: obstacles() says {obstacles[0]!r}, but there is a schedule of {words(best.value)}{found}",
            "obstacles() says why there is no schedule, and returns [] where there may be one",
        )
    if formulation.claim == "exact" and (later := _a_round_later(formulation, solved.instance, best)) is not None:
        return Complaint(
            f"{where}: the best schedule up to the horizon has {words(best.value)}, and a round later the same one has"
            f" {words(later)}{found}",
            "an objective that waiting makes better has no optimum but the horizon; let later ends never be better, or"
            " let data() give starts as late as waiting helps",
        )
    if formulation.claim == "lower-bound" and bound is not None and bound > best.value + TOLERANCE:
        return Complaint(
            f"{where}: the bound is {words(bound)}, but there is a schedule of {words(best.value)}{found}",
            "a relaxation keeps every schedule of the problem: look for the constraint that this one breaks, or for an"
            " objective coefficient that is too large",
        )
    if formulation.claim == "heuristic" and (solved.value is None or solved.value < best.value - TOLERANCE):
        return Complaint(
            f"{where}: its schedule has {words(solved.value)}, but the optimum is {words(best.value)}",
            "a heuristic returns a schedule of the problem; this is a relaxation",
        )
    return None


def _a_round_later(formulation: Formulation, instance: Instance, best: Best) -> float | None:
    """The value of the schedule when all of it happens a round later, where that is better; None where it is not."""
    if not instance.is_unit:
        return None
    segments = tuple(replace(segment, at=segment.at + 1) for segment in best.schedule.segments)
    value = formulation.evaluate(instance, judge(instance, replace(best.schedule, segments=segments)))
    return value if value is not None and value < best.value - TOLERANCE else None


def _stated_problem(formulation: Formulation) -> str:
    """That schedules may be missing because the file says that it is a model of a problem which it changes."""
    if formulation.problem is None or not (formulation.admissible or formulation.value):
        return ""
    return (
        f", or problem={formulation.problem!r} is wrong: it leaves out starts that no best schedule of that problem"
        " uses; a variant with rules or an objective of its own states no problem"
    )


def _cause(formulation: Formulation, solved: Solved, best: float) -> str:
    """Why the optimum of an exact model is another than that of brute force."""
    model_value = solved.model_value
    assert model_value is not None
    if model_value < 0 < best:
        return "the sign of the objective is wrong: modelkit minimises"
    if same(solved.value, best):
        judged = "value()" if formulation.value else f"the judge's {formulation.metric(solved.instance)}"
        return (
            f"the model's schedule is a best one, and {judged} is {words(best)} for it: a coefficient of the objective"
            f" is wrong, or {'value()' if formulation.value else '`objective`'} is about something else"
        )
    if model_value > best:
        said = (
            "a constraint cuts off good schedules, the horizon is too short, or an objective coefficient is too large"
        )
        rules = ", or admissible() leaves out a rule that the model has" if formulation.admissible else ""
        rules += _stated_problem(formulation)
    else:
        said = "a constraint is missing or too weak, or an objective coefficient is too small"
        rules = ", or admissible() has a rule that the model has not" if formulation.admissible else ""
    return said + rules + (", or value() counts something else than the objective" if formulation.value else "")


def same(a: float | None, b: float | None) -> bool:
    """Equal within the tolerance, or both unknown."""
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def words(value: float | None) -> str:
    """A value for people."""
    return "no value" if value is None else f"{round(value, 6):g}"


def describe(instance: Instance) -> str:
    """A tiny instance in one line, so that it can be followed by hand."""
    server = instance.server
    limits = [f"M {server.kv_capacity_tokens or 'free'}"]
    if server.slots is not None:
        limits.append(f"{server.slots} slots")
    if server.replicas > 1:
        limits.append(f"{server.replicas} replicas")
    if server.pause is not None:
        limits.append(f"paused tokens {server.pause.keep}")
    rows = " ".join(f"({r.arrival:g},{r.prompt_tokens},{r.output_tokens})" for r in instance.requests)
    extra = "".join(f", {k} {list(v.values()) if isinstance(v, dict) else v}" for k, v in instance.extra.items())
    shared = [f"{r.prefix.tokens} of {r.prefix.group}" if r.prefix else "none" for r in instance.requests]
    prefixes = f", prefixes {', '.join(shared)}" if server.prefix_cache is not None else ""
    return f"{instance.name} ({', '.join(limits)}, (a,s,o) {rows}{prefixes}{extra})"


def forbidden(formulation: Formulation, instance: Instance, schedule: Schedule) -> str:
    """What of the model forbids a schedule, as far as its variables can be set to what the schedule says."""
    from pyomo.contrib.fbbt.fbbt import compute_bounds_on_expr
    from pyomo.environ import Constraint, Var

    if formulation.start is None:
        return ""
    model = formulation.instantiate(instance, known_of(formulation, instance))
    if not formulation.set_start(model, instance, schedule):
        return ", for which the model has no variable"
    for var in model.component_data_objects(Var):
        if var.value is not None:
            var.fix()
    rows = []
    for row in model.component_data_objects(Constraint, active=True):
        least, most = compute_bounds_on_expr(row.body)  # whatever the variables are that the schedule does not say
        above = least is not None and row.ub is not None and least > row.ub + TOLERANCE
        below = most is not None and row.lb is not None and most < row.lb - TOLERANCE
        if above or below:
            rows.append(row.name)
    return f", which, as start() sets it, breaks {', '.join(rows[:2])}" if rows else ""


def _starts(instance: Instance, best: Best) -> str:
    """When each request starts, and where there are several replicas, on which."""
    several = instance.server.replicas > 1
    return ", ".join(
        f"{a.request} at {s.at:g}{f' on replica {s.replica}' if several else ''}"
        for s in best.schedule.segments
        for a in s.admit
    )
