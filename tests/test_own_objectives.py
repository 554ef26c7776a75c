"""Formulations with rules and objectives of their own: every command says of them what their author said."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import modelkit as mk
from modelkit.errors import FormulationError
from modelkit.experiments.run import failure, plan_run
from modelkit.formulation.loading import load_formulation
from modelkit.instance import Instance, LinearClock, Request, Server
from modelkit.io.lookup import Instances
from modelkit.reporting.evidence import Case, ReadFile
from modelkit.reporting.gathering import cases
from modelkit.reporting.goals import Formulations
from modelkit.result import Objective, Producer, Result
from modelkit.solving.outcome import SolveState
from modelkit.text import brief, quantity

ENERGY = '''r"""kv-hindsight-flow with the price of busy rounds, and a cap on each latency."""

import pyomo.environ as pyo

from modelkit import Formulation, Parameter


def build(m):
    m.del_component(m.total_latency)
    m.price = pyo.Param(within=pyo.NonNegativeReals, doc="price of a busy round [$/round]")
    m.cap = pyo.Param(within=pyo.NonNegativeReals, doc="largest latency [round]")
    m.busy = pyo.Var(m.ROUNDS, domain=pyo.Binary, doc="1 if something is active")
    m.energy_cost = pyo.Objective(rule=lambda m: m.price * sum(m.busy.values()), doc="cost of the energy [$]")
    m.busy_if_active = pyo.Constraint(
        m.ROUNDS, rule=lambda m, t: m.running[t] <= len(m.REQUESTS) * m.busy[t], doc="activity is busy"
    )
    m.capped = pyo.Constraint(
        m.REQUESTS,
        rule=lambda m, i: sum((k + m.output[i] - m.arrival[i]) * m.start[i, k] for k in m.STARTS_OF[i]) <= m.cap,
        doc="no latency is above the cap",
    )


def admissible(instance, verdict):
    ends = {instance.requests[s.request].id: s.end for s in verdict.stays if s.completed}
    return [f"{i} ends in round {end:g}" for i, end in ends.items() if end > instance.extra["cap"]]


def value(instance, verdict):
    return instance.extra["price"] * len({t for s in verdict.stays for t in range(int(s.begin), int(s.end))})


FORMULATION = Formulation(
    name="energy-cost", summary="the price of busy rounds", claim="exact", objective="energy_cost",
    reference="an example", extends="kv-hindsight-flow",
    parameters=(
        Parameter(name="price", doc="price of a busy round [$/round]", kind=float, least=0, default=0.25),
        Parameter(name="cap", doc="largest latency [round]", least=1, default=99),
    ),
    build=build, data=lambda instance: {k: instance.extra[k] for k in ("price", "cap")},
    admissible=admissible, value=value,
)
'''
TTFT = '''r"""kv-hindsight-flow with the time to first token as its objective."""

import pyomo.environ as pyo

from modelkit import Formulation


def build(m):
    m.del_component(m.total_latency)
    m.total_ttft = pyo.Objective(
        rule=lambda m: sum((k + 1 - m.arrival[i]) * m.start[i, k] for i, k in m.STARTS),
        doc="total time to first token [round]",
    )


FORMULATION = Formulation(
    name="first-token", summary="the time to first token", claim="exact", objective="total_ttft",
    reference="an example", extends="kv-hindsight-flow", build=build, data=lambda instance: {},
    admissible=lambda instance, verdict: [],
    value=lambda instance, verdict: sum(
        s.first_token - instance.requests[s.request].arrival for s in verdict.stays if s.completed
    ),
)
'''


@pytest.fixture
def energy(tmp_path: Path) -> Path:
    path = tmp_path / "energy_cost.py"
    path.write_text(ENERGY)
    return path


def solved(file: Path, instance: Instance, **parameters: Any) -> Result:
    """The optimum by the formulation in a file, solved here."""
    return mk.solve(instance, load_formulation(str(file)), warm_start="mc-sf", parameters=parameters)


def found(instance: Instance, file: Path | None, *results: Result) -> list[Case]:
    claims = [ReadFile(result, f"{k}.result.json") for k, result in enumerate(results)]
    known = Formulations([load_formulation(str(file))] if file else [])
    return cases(claims, Instances(known=[instance]), known)


def test_a_parameter_has_one_digest() -> None:
    """Tests that values by request are called the same in whatever order they stand, numbers or not."""
    values = {f"request-{k}": [k, "s"] for k in range(9)}
    turned = dict(reversed(values.items()))
    assert brief(values) == brief(turned)
    assert brief(values).startswith("9 values, digest ")


def words(page: Path) -> str:
    """What people read of a page."""
    text = re.sub(r"(?s)<(script|style)\b.*?</\1>", " ", page.read_text())
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))


def test_an_objective_keeps_its_name_and_unit(two: Instance, energy: Path, tmp_path: Path, cli: Any) -> None:
    """Tests the summary of solve, the file, its name, verify, and the page: dollars are dollars everywhere."""
    mk.save_instance(two, tmp_path / "two.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        said = cli("solve", "two.json", "-f", "energy_cost.py", "-P", "price=0.5", "--report", "page.html").out
        assert "energy cost [$]" in said
        assert "round" not in said.partition("energy cost")[2].partition("lower bound")[0]
        file = Path("two.energy-cost.price=0.5.highs.result.json")
        objective = json.loads(file.read_text())["objective"]
        assert (objective["name"], objective["unit"], objective["value"], objective["gap"]) == (
            "energy_cost",
            "$",
            3,
            0,
        )
        said = cli("verify", str(file), "-f", "energy_cost.py").out
        assert "ok: energy_cost = 3 [$]" in said
        assert "(price = 0.5, cap = 99)" in said
        assert "rules of energy-cost not checked: file not found" in cli("verify", str(file)).out
    page = words(tmp_path / "page.html")
    assert "energy cost of energy-cost (cap = 99, price = 0.5)" in page
    assert "Best energy cost 3 $" in page
    assert "Energy cost [$]" in page
    assert "price = 0.5, cap = 99, time_limit = 60" in page, "the parameters stand where the result's origin does"
    assert "rounds]" not in page.partition("Runs on this instance")[2].partition("Figures")[0]


def test_an_objective_keeps_its_unit_without_time_for_a_model(two: Instance, energy: Path) -> None:
    """Tests a result of a search alone, as no time is left to build the model: verify finds nothing wrong in it."""
    late = mk.solve(two, str(energy), time_limit=0.01)
    assert late.stop == "time_limit"
    assert "no solver ran" in (late.message or "")
    assert late.objective.unit == "$"
    assert mk.verify_result(late, two, load_formulation(str(energy))).holds


def test_a_policy_is_held_to_rules_and_objective(two: Instance, energy: Path, tmp_path: Path) -> None:
    """Tests a schedule that keeps the rules and one that breaks them, in a table and by verify."""
    policy = mk.simulate(two, "mc-sf")
    own = load_formulation(str(energy))
    kept = mk.verify_result(policy, two, own)
    assert "energy_cost = 1.5 [$], by 'energy-cost'" in kept.confirmed
    broken = mk.verify_result(policy, two, own, {"cap": 2})
    assert any(fault.startswith("energy-cost: long ends in round") for fault in broken.faults)
    plain, free = found(two, energy, policy, solved(energy, two))
    assert (plain.objective, [e.label for e in plain.entries]) == ("total_latency_rounds", ["mc-sf"])
    assert plain.bound is None, "a bound on dollars is none on rounds"
    assert {e.label: e.value for e in free.entries} == {"energy-cost on HiGHS": 1.5, "mc-sf": 1.5}
    assert free.headline.startswith("mc-sf is optimal (by HiGHS's bound)")


def test_parameters_make_problems_of_their_own(two: Instance, energy: Path) -> None:
    """Tests that two prices are two problems, each with its own bound and headline."""
    both = found(two, energy, solved(energy, two, price=1.0), solved(energy, two, price=2.0))
    assert [case.goal.title for case in both] == [
        f"energy cost of energy-cost (cap = 99, price = {price})" for price in (1, 2)
    ]
    assert [(case.best and case.best.value, case.gap(case.entries[0])) for case in both] == [(6, 0), (12, 0)]


def test_without_the_file_nothing_is_called_invalid(two: Instance, energy: Path) -> None:
    """Tests that what nobody could check is said not to be, and that policies are said to be missing."""
    plain, own = found(two, None, mk.simulate(two, "mc-sf"), solved(energy, two))
    (entry,) = own.entries
    assert entry.words == "optimal; rules of energy-cost not checked: file not found"
    assert own.goal.quantity(entry.value) == "1.500\u202f$", "the unit stands in the result"
    assert any(said.startswith("1 schedule of policies is not among these") for said in own.findings)
    assert not any("not among these" in said for said in plain.findings)


def test_a_failed_run_stays_with_its_problem(two: Instance, energy: Path, tmp_path: Path) -> None:
    """Tests that a run without an objective is no failure of another problem."""
    mk.save_instance(two, tmp_path / "two.json")
    run = plan_run(two, tmp_path / "two.json", "formulation", str(energy), parameters={"parameters": {"price": 2.0}})
    failed = failure(run, "out of luck")
    plain, one, two_dollars = found(
        two,
        energy,
        mk.simulate(two, "mc-sf"),
        failed,
        solved(energy, two),
        solved(energy, two, price=2.0),
    )
    assert [len(case.failures) for case in (plain, one, two_dollars)] == [0, 0, 1]
    plain, alone = found(two, energy, mk.simulate(two, "mc-sf"), failed)
    assert (len(plain.failures), alone.goal.variant, alone.goal.unit) == (0, "energy-cost", "$")


def test_a_schedule_of_the_search_alone_names_its_rules(two: Instance, energy: Path) -> None:
    """Tests that where no solver ran, the result still says whose rules its schedule keeps."""
    result = mk.solve(two, load_formulation(str(energy)), time_limit=0, warm_start="mc-sf")
    if result.schedule is not None:
        assert (result.producer.kind, result.producer.name) == ("formulation", "energy-cost")
        assert result.producer.solver is None
    (case,) = found(two, energy, result)
    assert case.goal.variant == "energy-cost"


def test_rounds_of_an_objective_are_rounds(two: Instance, tmp_path: Path) -> None:
    """Tests an objective of the judge's words but not of its metrics under this clock."""
    path = tmp_path / "first_token.py"
    path.write_text(TTFT)
    (case,) = found(two, path, solved(path, two))
    assert case.goal.title == "total time to first token of first-token"
    assert case.goal.quantity(case.best.value if case.best else None) == "4\u202frounds"
    assert (case.goal.bare(4), case.goal.unit_words) == ("4", " [rounds]")


def test_a_variant_in_real_time_is_shown_by_means() -> None:
    """Tests that what is called a mean is one: of a variant's schedules and failures, and of the bounds it inherits."""
    clock = LinearClock(kind="linear", mixed=True, prefill_base_ms=10, decode_base_ms=10)
    rows = tuple(Request(id=f"r{k}", prompt_tokens=2, output_tokens=2) for k in range(4))
    instance = Instance(server=Server(kv_capacity_tokens=9, clock=clock), requests=rows)
    policy, certificate = mk.simulate(instance, "mc-sf"), mk.bound(instance, time_limit=0.1).certificate
    producer = Producer(kind="formulation", name="mine")
    own = policy.model_copy(update={"producer": producer})
    failed = Result(instance=policy.instance, producer=producer, status="no_schedule", stop="failed")
    for results in ((own,), (own, failed)):
        _, case = found(instance, None, policy, *results)
        assert case.goal.noun == "mean latency"
        assert case.goal.quantity(own.objective.value) == quantity("mean_latency_ms", own.metrics["mean_latency_ms"])
    assert certificate is not None
    (case,) = cases([ReadFile(certificate)], Instances(known=[instance]))
    assert case.goal.quantity(4.0) == quantity("mean_latency_ms", 1.0)


def test_values_below_zero_have_distances_in_their_unit(two: Instance) -> None:
    """Tests what is said of a negative that is minimised, with a bound and with none, and its gap."""
    policy = mk.simulate(two, "mc-sf")

    def result(name: str, value: float, bound: float | None) -> Result:
        said = Objective(name="good", unit="request", value=value, bound=bound, bound_by=bound and "solver")
        made = Producer(kind="formulation", name="few-late", solver=name)
        return policy.model_copy(update={"producer": made, "objective": said})

    (case,) = found(two, None, result("highs", -4, -5), result("scip", -2, None))
    good, poor = sorted(case.entries, key=lambda e: e.value or 0)
    assert (good.result.objective.gap, case.gap(good), case.gap(poor)) == (0.25, 0.25, 1.5)
    quantities = case.sentence(good).replace("\u202f", " "), case.sentence(poor).replace("\u202f", " ")
    assert quantities == (
        "few-late on HiGHS is at most 1 request above the optimum (upper limit: HiGHS's bound)",
        "few-late on SCIP is between 2 requests and 3 requests above the optimum (upper limit: HiGHS's bound)",
    )
    (case,) = found(two, None, result("highs", -4, None), result("scip", -2, None))
    assert "is at least 2\u202frequests above the optimum; no upper limit" in case.sentence(case.entries[1])


def test_a_solver_that_ends_has_proven_its_value() -> None:
    """Tests that an optimum is one although the solver's model is off by its tolerance, and that no other gap is."""
    outcome = SimpleNamespace(stop="finished")
    state: Any = SimpleNamespace(outcome=outcome, limits=SimpleNamespace(gap=0.0), engine=SimpleNamespace(name="highs"))
    assert SolveState.ended_at(state, 198.8, 198.799999, "highs")
    assert not SolveState.ended_at(state, 198.8, 198.799999, "the certificate")
    assert not SolveState.ended_at(state, 198.8, 198.79, "highs")
    assert not SolveState.ended_at(state, 1e-5, 9e-6, "highs")
    outcome.stop = "time_limit"
    assert not SolveState.ended_at(state, 198.8, 198.799999, "highs")


def test_a_metric_of_the_judge_has_no_value_of_its_own(two: Instance, energy: Path) -> None:
    """Tests that an objective under a name that means something else everywhere is refused before it is solved."""
    energy.write_text(
        ENERGY.replace("m.energy_cost", "m.mean_latency_rounds").replace('="energy_cost"', '="mean_latency_rounds"')
    )
    with pytest.raises(FormulationError, match="a metric of the judge; give the objective a name of its own"):
        mk.solve(two, str(energy))


def test_a_forged_unit_is_named(two: Instance, energy: Path) -> None:
    """Tests a unit for a metric that has one, and another one than the formulation's."""
    policy = mk.simulate(two, "mc-sf")
    forged = policy.model_copy(update={"objective": policy.objective.model_copy(update={"unit": "$"})})
    assert any("ends in its unit" in fault for fault in mk.verify_result(forged, two).faults)
    own = solved(energy, two)
    euro = own.model_copy(update={"objective": own.objective.model_copy(update={"unit": "€"})})
    faults = mk.verify_result(euro, two, load_formulation(str(energy))).faults
    assert faults == ("objective.unit: the file says '€', it is '$'",)


def test_an_objective_that_nobody_computes_is_refused(two: mk.Instance) -> None:
    """Tests that it is said before the search, not called a solve without a schedule."""
    unknown = replace(load_formulation("kv-hindsight"), objective="total_ttft")
    with pytest.raises(mk.FormulationError, match="no metric 'total_ttft_rounds'.*give value"):
        mk.build(two, unknown)
