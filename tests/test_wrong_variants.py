"""Variants, each wrong in its own way: ``check`` finds every one, and its advice names the fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import modelkit as mk
from modelkit import Formulation, Parameter, Schedule
from modelkit.authoring.check import check
from modelkit.authoring.check.behaviour import claim
from modelkit.authoring.check.candidate import Subject
from modelkit.formulation.loading import load_formulation

CAP = Parameter(name="cap", doc="requests in progress at once [request]", least=1, examples=(1, 2))


def build(m: Any) -> None:
    import pyomo.environ as pyo

    m.cap = pyo.Param(doc="requests in progress at once [request]")
    m.few_run = pyo.Constraint(m.ROUNDS, rule=lambda m, t: m.running[t] <= m.cap, doc="few run at once")


def broken(instance: mk.Instance, verdict: mk.Verdict) -> list[str]:
    cap = instance.extra["cap"]
    return [f"{s.active} requests run at {s.begin:g}" for s in verdict.intervals if s.active > cap]


RIGHT = Formulation(
    name="right", summary="a cap", claim="exact", reference="none", extends="kv-hindsight-flow", parameters=(CAP,),
    build=build, data=lambda instance: {"cap": instance.extra["cap"]}, admissible=broken,
)  # fmt: skip
#: The same problem as that of what it extends.
PLAIN = Formulation(
    name="plain", summary="nothing added", claim="exact", reference="none", extends="kv-hindsight",
    admissible=lambda instance, verdict: [],
)  # fmt: skip


def also(add: Callable[[Any, Any], None], to: Formulation = RIGHT, **other: Any) -> Formulation:
    """A variant whose build does more."""

    def more(m: Any) -> None:
        import pyomo.environ as pyo

        if to.build is not None:
            to.build(m)
        add(m, pyo)

    return replace(to, build=more, **other)


def objective(sign: int, sense: str = "minimize", to: Formulation = PLAIN, **other: Any) -> Formulation:
    """A variant with its own total latency."""

    def add(m: Any, pyo: Any) -> None:
        m.total_latency.deactivate()
        rule = lambda m: sum(sign * (k + m.output[i] - m.arrival[i]) * m.start[i, k] for i, k in m.STARTS)  # noqa: E731
        m.own = pyo.Objective(rule=rule, sense=getattr(pyo, sense), doc="latency [round]")

    return also(add, to, **other)


def data(change: Callable[[mk.Instance], dict[str, Any]]) -> Formulation:
    """A variant with other data than what it extends."""
    return replace(PLAIN, data=change)


def starts(first: Callable[[mk.Request], float]) -> Callable[[mk.Instance], dict[str, Any]]:
    return lambda instance: {"STARTS_OF": {r.id: list(range(int(first(r)), 30)) for r in instance.requests}}


def late(model: Any, instance: mk.Instance) -> Schedule:
    extract = load_formulation("kv-hindsight").extract
    assert extract is not None
    found = extract(model, instance)
    return replace(found, segments=tuple(replace(s, at=s.at + 1) for s in found.segments))


def relaxed(m: Any, pyo: Any) -> None:
    def relax(m: Any) -> None:
        for var in m.start.values():
            var.domain = pyo.UnitInterval

    m.relaxed = pyo.BuildAction(rule=relax)


def unbounded(m: Any, pyo: Any) -> None:
    m.gift = pyo.Var(doc="a gift [round]")
    m.gift_fits = pyo.Constraint(rule=lambda m: m.gift <= 5, doc="the gift is small")
    m.total_latency.deactivate()
    m.own = pyo.Objective(rule=lambda m: m.gift + sum(m.start[s] for s in m.STARTS), doc="latency [round]")


def constrain(rule: Callable[[Any], Any]) -> Callable[[Any, Any], None]:
    def add(m: Any, pyo: Any) -> None:
        m.further = pyo.Constraint(rule=rule, doc="a further rule")

    return add


def memory_gone(m: Any, pyo: Any) -> None:
    m.del_component(m.kv_capacity_holds)


def shadowing(m: Any, pyo: Any) -> None:
    m.started_once = pyo.Constraint(m.REQUESTS, rule=lambda m, i: m.start[i, m.STARTS_OF[i].first()] <= 1, doc="mine")


def spare(m: Any, pyo: Any, large: int) -> None:
    m.busy = pyo.Var(m.ROUNDS, domain=pyo.Binary, doc="1 if somebody runs")
    rule = lambda m, t: sum(m.start[i, k] for i, k in m.STARTS if k < t <= k + m.output[i]) <= large * m.busy[t]  # noqa: E731
    m.busy_follows = pyo.Constraint(m.ROUNDS, rule=rule, doc="who runs makes the round busy")


def earliness(m: Any, pyo: Any) -> None:
    m.total_latency.deactivate()
    rule = lambda m: sum((100 - k) * m.start[i, k] for i, k in m.STARTS)  # noqa: E731
    m.earliness = pyo.Objective(rule=rule, doc="how early requests start [round]")


#: What is wrong, the variant, the rule that finds it, and words of what is wrong and of the advice.
WRONG: dict[str, tuple[Formulation, str, str, str]] = {
    "sign of the objective": (objective(-1), "claim", "the model's optimum is -", "the sign of the objective"),
    "no memory row": (also(memory_gone, PLAIN), "judged", "breaks kv_capacity", "rows of the memory are missing"),
    "window begins late": (data(starts(lambda r: r.arrival + 1)), "claim", "brute force finds", "cuts off good"),
    "arrival ignored": (data(starts(lambda r: 0)), "judged", "breaks before_arrival", "starts before the arrival"),
    "wrong duration": (
        data(lambda instance: {"output": {r.id: max(1, r.output_tokens - 1) for r in instance.requests}}),
        "judged", "breaks kv_capacity", "is taken to end too early",
    ),
    "value is another": (
        replace(objective(1), objective="own", value=lambda i, v: 2 * v.metrics["total_latency_rounds"]),
        "claim", "brute force finds", "value() is about something else",
    ),
    "maximised": (objective(-1, "maximize"), "builds", "'own' is maximised", "minimise its negative"),
    "no integrality": (also(relaxed, PLAIN), "solves", "binary start[", "pyo.Binary"),
    "another schedule": (replace(PLAIN, extract=late), "judged", "the schedule's total_latency", "extract() misreads"),
    "parameter without value": (
        replace(RIGHT, parameters=(replace(CAP, examples=()),)), "data", "needs the parameter 'cap'", "examples=",
    ),
    "wrong unit": (
        replace(RIGHT, parameters=(replace(CAP, doc="requests at once [requests]"),)), "units", "[requests]", "",
    ),
    "no lower bound": (
        objective(2, claim="lower-bound"), "claim", "the bound is", "an objective coefficient that is too large",
    ),
    "admissible too strict": (
        replace(RIGHT, admissible=lambda i, v: [f"{s.active} run" for s in v.intervals if s.active >= i.extra["cap"]]),
        "judged", "run", "admissible() and the constraints disagree",
    ),
    "admissible too lax": (replace(RIGHT, admissible=lambda i, v: []), "claim", "brute", "admissible() leaves out"),
    "infeasible": (
        also(constrain(lambda m: sum(m.start[s] for s in m.STARTS) <= 0), PLAIN), "claim", "infeasible", "constraint",
    ),
    "unbounded": (also(unbounded, PLAIN), "solves", "unbounded", "has no bound"),
    "index outside a set": (
        also(constrain(lambda m: m.start[m.REQUESTS.first(), 999] <= 1), PLAIN), "builds", "999", "the rules must hold",
    ),
    "shadowed name": (also(shadowing, PLAIN), "documented", "defines 'started_once'", "a name of its own"),
    "metric that is none": (
        replace(PLAIN, objective="total_ttft"), "builds", "no metric 'total_ttft_rounds'", "total_latency",
    ),
    "given data changed": (
        replace(RIGHT, data=lambda i: {"cap": i.extra.__setitem__("cap", 2) or 2}),
        "data", "'cap'] was 1 and is 2", "copy",
    ),
    "two units of one name": (
        replace(RIGHT, parameters=(replace(CAP, doc="requests at once [token]"),)), "units", "[token] where users", "",
    ),
    "start of another schedule": (
        replace(RIGHT, start=lambda m, i, s: m.start.set_values(dict.fromkeys(m.start, 0))),
        "judged", "started_once[", "start() sets every",
    ),
    "row that forbids": (
        also(lambda m, pyo: spare(m, pyo, 2), PLAIN), "claim", "breaks busy_follows[", "cuts off good",
    ),
    "not linear": (
        also(constrain(lambda m: sum(x * x for x in m.start.values()) <= 9), PLAIN), "builds", "not linear", "product",
    ),
    "no number": (
        also(constrain(lambda m: sum(float("inf") * m.start[s] for s in m.STARTS) <= 9), PLAIN),
        "builds", "has the coefficient inf of start[", "",
    ),
    "obstacles that are none": (
        replace(RIGHT, obstacles=lambda i: ["too many"] * (len(i.requests) > 1)),
        "claim", "'too many', but", "returns []",
    ),
    "waiting is better": (
        replace(
            also(earliness, PLAIN), objective="earliness",
            value=lambda i, v: float(sum(100 - r.begin for r in v.residencies)),
        ),
        "claim", "a round later", "no optimum but the horizon",
    ),
    "unknown base": (replace(RIGHT, extends="kv-hindsigth"), "documented", "extends what there is not", "kv-hindsight"),
}  # fmt: skip

RANDOM = '''"""A cap on the starts of some.

Constraints
-----------
capped[i]
    few start

Claim
-----
Exact.

Reference
---------
None.
"""

import random

import pyomo.environ as pyo

from modelkit import Formulation


def build(m):
    m.capped = pyo.Constraint(m.REQUESTS, rule=lambda m, i: random.random() * m.start[i, 0] <= 9, doc="few start")


FORMULATION = Formulation(name="by-chance", summary="a cap", claim="exact", reference="none", extends="kv-hindsight",
                          build=build, admissible=lambda instance, verdict: [],
                          needs=lambda i: None if all(r.arrival == 0 for r in i.requests) else "arrives late")
'''


@pytest.mark.parametrize("formulation", [RIGHT, PLAIN], ids=lambda f: f.name)
def test_the_right_ones_pass(formulation: Formulation) -> None:
    """Tests that what the wrong ones are made of is right."""
    assert not [f for f in check(formulation, instances=4) if f.status == "failed"]


@pytest.mark.slow
@pytest.mark.parametrize("fault", WRONG)
def test_wrong_variants_are_caught(fault: str) -> None:
    """Tests the first rule that fails, what it says, and what it advises."""
    formulation, rule, what, advice = WRONG[fault]
    found = next(f for f in check(formulation, instances=8) if f.status == "failed")
    complaint = found.complaints[0]
    print(f"{fault}: {found.rule}\n  {complaint.what}\n  {complaint.advice}")
    assert (found.rule, what in complaint.what, advice in complaint.advice) == (rule, True, True), complaint


@pytest.mark.slow
def test_chance_is_caught(tmp_path: Path) -> None:
    """Tests that a model that is another one in each run is not accepted."""
    file = tmp_path / "by_chance.py"
    file.write_text(RANDOM)
    found = next(f for f in check(str(file), instances=2, rules=["stable"]) if f.status == "failed")
    assert found.rule == "stable"
    assert "differs between runs" in found.complaints[0].what
    assert "not deterministic" in found.complaints[0].advice


def vips(*, apart: bool) -> Formulation:
    """Requests with long prompts on the second of two replicas, which the model tells ``apart`` or not."""

    def add(m: Any, pyo: Any) -> None:
        m.VIPS = pyo.Set(doc="requests with long prompts")
        rule = lambda m, i: sum(m.start[j, r, k] for j, r, k in m.STARTS if (j, r) == (i, 1)) == 0  # noqa: E731
        m.vips_apart = pyo.Constraint(m.VIPS, rule=rule, doc="they are on the second")
        if apart:
            m.del_component(m.used_in_turn)

    def more(instance: mk.Instance) -> dict[str, Any]:
        both = {"REPLICAS_OF": {r.id: [1, 2] for r in instance.requests}} if apart else {}
        return {"VIPS": [r.id for r in instance.requests if r.prompt_tokens > 1], **both}

    def stray(instance: mk.Instance, verdict: mk.Verdict) -> list[str]:
        there = [instance.requests[r.request] for r in verdict.residencies if r.replica == 1]
        return [f"{r.id} is on the first" for r in there if r.prompt_tokens > 1]

    return also(add, replace(PLAIN, extends="kv-replicas", admissible=stray, data=more))


def test_rules_may_tell_replicas_apart() -> None:
    """Tests that brute force numbers replicas in all ways where a variant has rules of its own."""
    assert [f.words for f in check(vips(apart=True), instances=4) if f.rule == "claim"] == [
        "exact: equal to brute force on 4 instances"
    ]
    wrong = next(f for f in check(vips(apart=False), instances=4) if f.rule == "claim").complaints[0]
    assert " on replica 2" in wrong.what


def test_a_problem_that_is_another() -> None:
    """Tests that a variant that says it is a model of the base's problem learns what that costs."""
    wrong = claim(Subject(replace(RIGHT, problem="kv-hindsight"), wanted=1))
    assert isinstance(wrong, list)
    assert ("no variable" in wrong[0].what, "states no problem" in wrong[0].advice) == (True, True)
