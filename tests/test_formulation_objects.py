"""Formulations given as objects, as in a notebook: what they extend is filled in wherever they are taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyomo.environ as pyo
import pytest

import modelkit as mk
from modelkit.formulation.loading import load_formulation
from modelkit.instance import Instance

ROOMY = Instance(
    name="roomy",
    server={"kv_capacity_tokens": 60},
    requests=[{"id": "short", "prompt_tokens": 2, "output_tokens": 2},
              {"id": "long", "prompt_tokens": 2, "output_tokens": 4}],
)  # fmt: skip


def build(m: Any) -> None:
    m.most = pyo.Param(within=pyo.PositiveIntegers, doc="requests active at once [request]")
    m.few = pyo.Constraint(m.ROUNDS, rule=lambda m, t: m.running[t] <= m.most, doc="few at once")


def admissible(instance: Instance, verdict: mk.Verdict) -> list[str]:
    most = instance.extra["most"]
    return [f"{s.active} run at {s.begin:g}" for s in verdict.stretches if s.active > most]


OBJECT = mk.Formulation(
    name="few-at-once",
    summary="kv-hindsight-flow with few requests at once",
    claim="exact",
    reference="an example",
    extends="kv-hindsight-flow",
    parameters=(mk.Parameter(name="most", doc="requests active at once [request]", least=1, default=1, examples=(1,)),),
    build=build,
    data=lambda instance: {"most": instance.extra["most"]},
    admissible=admissible,
)


def test_solve_and_verify_take_an_object_that_extends() -> None:
    """Tests that the base is there, that a parameter counts, and that the result is held against the object."""
    result = mk.solve(ROOMY, OBJECT)
    assert (result.status, result.objective.name, result.objective.value) == ("optimal", "total_latency_rounds", 8)
    assert mk.solve(ROOMY, OBJECT, parameters={"most": 2}).objective.value == 6
    checked = mk.verify_result(result, ROOMY, OBJECT)
    assert (checked.holds, "rules of few-at-once" in checked.checked) == (True, True)
    assert not mk.verify_result(mk.simulate(ROOMY, "mc-sf"), ROOMY, OBJECT).holds


def test_what_is_in_full_is_not_extended_again() -> None:
    """Tests that a loaded variant, altered, keeps one copy of what it inherits."""
    loaded = load_formulation("kv-batch-cap")
    altered = replace(loaded, summary="another")
    assert mk.solve(ROOMY, altered, parameters={"batch_cap": 1}).objective.value == 8


def test_compare_takes_objects(tmp_path: Path) -> None:
    """Tests that workers, which do not know it, do not run it; and that it has a table of its own."""
    found = mk.compare(
        ROOMY, tmp_path, formulations=[OBJECT], policies=["mc-sf"], bound=False, parameters={"most": 1}, jobs=1
    )
    plain, own = found.cases
    assert [e.label for e in plain.entries] == ["mc-sf"]
    assert {e.label: e.state for e in own.entries} == {"few-at-once on HiGHS": "optimal", "mc-sf": "invalid"}
    assert (tmp_path / "roomy.few-at-once.most=1.highs.result.json").is_file()
    page = mk.report(tmp_path, tmp_path / "page.html", formulations=[OBJECT])
    assert page is not None
    assert "rules of few-at-once not checked" not in page.read_text()
    with pytest.raises(mk.UsageError, match="has a parameter 'mots'"):
        mk.compare(ROOMY, tmp_path, formulations=[OBJECT], parameters={"mots": 1})


def test_check_takes_objects() -> None:
    """Tests the rules that need no file, and that the others are said not to be reached."""
    rules = ("documented", "units", "data", "builds", "judged", "claim")
    found = {f.rule: f for f in mk.check(OBJECT, instances=2, rules=rules)}
    assert {name: found[name].status for name in rules} == dict.fromkeys(rules, "ok")
    assert found["loads"].status == "not reached"
    assert "looks at a file" in found["loads"].words
    lax = replace(OBJECT, admissible=lambda instance, verdict: ["never"])
    assert {f.rule: f.status for f in mk.check(lax, instances=2, rules=("judged",))}["judged"] == "failed"


def test_pyomo_adds_no_lines_of_its_own(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """Tests that what Pyomo refuses is said once, by the error."""

    def wrong(m: Any) -> None:
        build(m)
        m.odd = pyo.Constraint(m.ROUNDS, rule=lambda m, t: True, doc="no expression")

    with pytest.raises(mk.FormulationError, match="trivial Boolean"):
        mk.solve(ROOMY, replace(OBJECT, build=wrong), warm_start="none")
    assert capfd.readouterr().err == ""
    assert not caplog.records


def test_an_unknown_base_is_named() -> None:
    with pytest.raises(mk.UsageError, match="kv-hindsight-flwo"):
        mk.solve(ROOMY, replace(OBJECT, extends="kv-hindsight-flwo"))
