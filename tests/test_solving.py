"""Solving: what is kept and said, whichever way a solve ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import modelkit as mk
from modelkit import solving
from modelkit.backends import Limits, Outcome
from modelkit.errors import FormulationError, SolverError, UsageError
from modelkit.formulation.formulation import Formulation
from modelkit.formulation.loading import load_formulation
from modelkit.instance import Instance, LinearClock, Request, Server
from modelkit.judge import Verdict, judge
from modelkit.problems.kv import best_known, start_windows
from modelkit.schedule import Schedule
from modelkit.solving import Progress, candidates, certified, choose, known, outcome, pipeline, solve
from modelkit.sources.families import generate

EXACT = load_formulation("kv-hindsight")


def hard() -> Instance:
    """An instance that no solver proves within seconds."""
    from modelkit.sources.families import generate

    return generate("kv-synthetic", seed=7, requests=24, kv_capacity=31)


def test_optimal(two: Instance) -> None:
    """Tests a proven optimum with everything a result must say."""
    result = solve(two)
    assert (result.status, result.stop) == ("optimal", "finished")
    assert (result.objective.value, result.objective.bound, result.objective.gap) == (8, 8, 0)
    assert result.objective.bound_by == "solver"
    assert (result.producer.name, result.producer.solver) == ("kv-hindsight", "highs")
    assert result.producer.solver_version
    assert result.start.policy == "local-search"
    assert result.start.accepted is True
    assert result.model is not None
    assert result.model.nonzeros > 0
    assert result.seconds.total is not None
    assert "HiGHS" in result.log
    assert mk.verify_result(result, two).holds


def test_time_limit_keeps_schedule_and_bound() -> None:
    """Tests that a limit leaves a valid schedule no worse than any policy's, and a bound."""
    instance = hard()
    result = solve(instance, time_limit=2)
    assert (result.status, result.stop) == ("feasible", "time_limit")
    for policy in ("mc-sf", "svf", "mc-benchmark"):
        online = mk.simulate(instance, policy).objective.value
        assert online is not None
        assert result.objective.value is not None
        assert result.objective.value <= online
    assert result.objective.bound is not None
    assert result.objective.bound < result.objective.value
    assert mk.verify_result(result, instance).holds


def test_large_models_have_a_certified_bound() -> None:
    """Tests that the bound does not depend on the solver where prices were computed, and is rechecked."""
    from modelkit.sources.families import generate

    instance = generate("kv-synthetic", seed=1, requests=25, kv_capacity=40)
    result = solve(instance, time_limit=0.01)
    assert result.objective.bound_by == "certificate"
    assert result.certificate is not None
    assert result.certificate.value == result.objective.bound
    verification = mk.verify_result(result, instance)
    assert verification.holds
    assert any("recomputed exactly" in line for line in verification.confirmed)


def test_interrupt_keeps_the_best() -> None:
    """Tests that Ctrl-C gives a result with the schedule found so far."""

    def press(news: Progress) -> None:
        if news.phase.startswith("solving") and not pressed:
            pressed.append(news)
            os.kill(os.getpid(), signal.SIGINT)

    pressed: list[Progress] = []
    result = solve(hard(), time_limit=60, listen=press)
    assert (result.status, result.stop) == ("feasible", "interrupted")
    assert result.objective.value is not None


def test_interrupt_while_building_keeps_the_start(two: Instance) -> None:
    """Tests that Ctrl-C before the solver runs gives the schedule of the warm start."""

    def press(news: Progress) -> None:
        if news.phase == "building the model":
            raise KeyboardInterrupt

    result = solve(two, listen=press)
    assert (result.status, result.stop) == ("feasible", "interrupted")
    assert result.objective.value == 8
    assert "before the solver began" in result.message


def test_interrupt_of_the_neighbourhoods_ends_them() -> None:
    """Tests that Ctrl-C there keeps the schedule and the certified bound, and that the search is not begun again."""
    instance = generate("kv-synthetic", seed=3, requests=14)

    def press(news: Progress) -> None:
        if news.phase == "exact neighbourhoods":
            raise KeyboardInterrupt

    result = solve(instance, listen=press)
    assert (result.status, result.stop) == ("feasible", "interrupted")
    assert result.certificate is not None
    assert [stage.name for stage in result.stages] == ["warm start"]


def test_news(two: Instance) -> None:
    """Tests that the phases are told in order, with the incumbent from the start on."""
    heard: list[Progress] = []
    solve(two, listen=heard.append)
    phases = list(dict.fromkeys(news.phase for news in heard))
    assert phases == ["warm start", "exact neighbourhoods", "building the model", "solving with highs"]
    assert heard[-1].incumbent == 8
    assert all(a.seconds <= b.seconds for a, b in pairwise(heard))


def test_infeasible_is_said_in_the_words_of_the_domain(two: Instance) -> None:
    """Tests that a request that can never fit makes an infeasible result, not an error."""
    result = solve(two.replace(server=Server(kv_capacity_tokens=5)))
    assert (result.status, result.stop) == ("infeasible", "finished")
    assert "request 'long' needs 2 + 4 = 6 tokens" in result.message


def test_too_large_returns_the_best_known_schedule(two: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that an instance too large for the model still gives a schedule, and says so."""
    monkeypatch.setattr(start_windows, "MOST_LOOKED_AT", 3)
    found = counted(monkeypatch, candidates, "first_schedule")
    result = solve(two, time_limit=1)
    assert len(found) == 1
    assert (result.stop, result.objective.bound_by) == ("finished", "certificate")
    assert result.objective.value == 8
    assert "too large for a formulation over starts" in result.message


@pytest.mark.slow
def test_a_schedule_with_its_bound_is_judged_once(two: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that the verdict that comes with a certified bound is taken over: a long trace takes a second to replay."""
    judged = []

    def count(instance: Instance, schedule: Schedule, *levels: Any) -> Verdict:
        judged.append(schedule)
        return judge(instance, schedule, *levels)

    monkeypatch.setattr(start_windows, "MOST_LOOKED_AT", 3)
    monkeypatch.setattr(certified, "judge", count)
    monkeypatch.setattr(outcome, "judge", count)
    assert solve(two).schedule == judged[0]
    assert len(judged) == 1


def test_the_time_limit_begins_with_the_call(two: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that loading formulations, and Pyomo with them, is part of the time that a solve may take."""

    def slow(*arguments: Any) -> tuple[Formulation, Instance]:
        time.sleep(0.3)
        return choose(*arguments)

    monkeypatch.setattr(solving, "choose", slow)
    result = solve(two, time_limit=0.2)
    assert result.stop == "time_limit"
    assert result.seconds.total is not None
    assert result.seconds.total >= 0.3


@pytest.mark.parametrize("warm_start", ["mc-sf", "svf", "mc-benchmark", "none", "best"])
def test_warm_starts(warm_start: str, two: Instance) -> None:
    """Tests every warm start by name."""
    result = solve(two, warm_start=warm_start)
    assert result.status == "optimal"
    assert result.start.policy == {"none": None, "best": "local-search"}.get(warm_start, warm_start)


def test_a_start_outside_the_model_is_not_accepted(two: Instance) -> None:
    """Tests that a start that the model has no variable for is reported as not taken."""

    def refuse(model: object, instance: Instance, schedule: Schedule) -> None:
        raise KeyError("no such variable")

    result = solve(two, formulation=variant(start=refuse))
    assert (result.status, result.start.accepted) == ("optimal", False)


def variant(**changes: object) -> Formulation:
    """The plain formulation with something changed."""
    fields = {name: getattr(EXACT, name) for name in Formulation.__dataclass_fields__}
    return Formulation(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_wrong_extract_is_refused_by_the_judge(two: Instance) -> None:
    """Tests that an invalid schedule is shown with its violations and claimed to be nothing."""
    result = solve(two, formulation=variant(extract=lambda model, instance: Schedule()), warm_start="none")
    assert (result.status, result.stop) == ("no_schedule", "failed")
    assert result.objective.value is None
    assert {v["rule"] for v in result.violations} == {"missing"}
    assert "the judge rejects the schedule that formulation 'kv-hindsight' extracted" in result.message


def test_a_valid_schedule_outlives_a_refused_one(two: Instance) -> None:
    """Tests that the warm start stands, with what is proven without the solver, and that it is said why."""
    result = solve(two, formulation=variant(extract=lambda model, instance: Schedule()))
    assert (result.status, result.stop) == ("feasible", "failed")
    assert result.violations == []
    assert "is refused" in result.message
    assert result.objective.bound_by in (None, "certificate")


def test_memory_above_a_million_tokens_is_kept_to() -> None:
    """Tests a proof where one token is less than the usual tolerance of a solver."""
    instance = Instance(
        name="large",
        server=Server(kv_capacity_tokens=4_219_832),
        requests=(
            Request(id="q0", prompt_tokens=2_070_499, output_tokens=5),
            Request(id="q1", prompt_tokens=2_367_070, output_tokens=6),
            Request(id="q2", arrival=3, prompt_tokens=2_359_818, output_tokens=2),
            Request(id="long", prompt_tokens=1_860_011, output_tokens=275),
        ),
    )
    result = solve(instance, time_limit=30)
    assert (result.status, result.violations) == ("optimal", [])


def test_a_formulation_that_cuts_off_valid_schedules_is_named(two: Instance) -> None:
    """Tests that an infeasible model of a feasible instance is a fault of the formulation."""

    def build(m: object) -> None:
        import pyomo.environ as pyo

        assert EXACT.build is not None
        EXACT.build(m)
        never = pyo.Constraint(rule=lambda m: sum(m.start.values()) <= 0)
        m.never = never  # type: ignore[attr-defined]

    result = solve(two, formulation=variant(build=build))
    assert (result.status, result.stop) == ("feasible", "failed")
    assert "cuts off valid schedules" in result.message
    assert result.objective.bound_by != "solver"


def test_a_bound_above_a_valid_schedule_is_dropped(two: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that a contradiction between bound and schedule is said and the bound not reported."""
    from modelkit.backends.process import ProcessBackend

    def lie(self: ProcessBackend, model: object, limits: Limits, options: object, **rest: object) -> Outcome:
        return Outcome("finished", "nothing", bound=100.0)

    monkeypatch.setattr(ProcessBackend, "solve", lie)
    result = solve(two)
    assert (result.status, result.stop, result.objective.bound) == ("feasible", "failed", None)
    assert "the formulation or the solver is wrong" in result.message


def test_usage_errors(two: Instance) -> None:
    """Tests the messages for names that do not exist and instances outside a formulation."""
    with pytest.raises(UsageError, match="did you mean 'kv-hindsight'"):
        solve(two, formulation="kv-hindsigt")
    with pytest.raises(UsageError, match="unknown solver"):
        solve(two, solver="hihgs")
    with pytest.raises(UsageError, match="unknown warm start 'mcsf'; did you mean 'mc-sf'"):
        solve(two, warm_start="mcsf")
    with pytest.raises(UsageError, match="HiGHS has no option 'nonsense'"):
        solve(two, options={"nonsense": 1})
    slotted = two.replace(server=Server(kv_capacity_tokens=6, slots=1))
    with pytest.raises(
        UsageError, match="formulation 'kv-hindsight' does not take this instance: it does not support slots"
    ):
        solve(slotted, formulation="kv-hindsight")
    linear = two.replace(server=Server(kv_capacity_tokens=6, clock=LinearClock(kind="linear", mixed=True)))
    with pytest.raises(
        UsageError, match="formulation 'kv-hindsight' does not take this instance: it needs the unit clock"
    ):
        solve(linear, formulation="kv-hindsight")
    with pytest.raises(UsageError, match="no formulation takes this instance"):
        solve(linear, parameters={"batch_cap": 2})
    with pytest.raises(SolverError, match="solver 'cplex' is not available"):
        solve(two, solver="cplex")


def test_generic_solver(two: Instance) -> None:
    """Tests that a solver that only Pyomo drives gives the same optimum."""
    result = solve(two, solver="appsi_highs")
    assert (result.status, result.objective.value) == ("optimal", 8)


@pytest.mark.parametrize("solver", ["highs", "scip"])
def test_same_seed_same_schedule(solver: str, draw: Callable[..., Instance]) -> None:
    """Tests that a finished solve is reproducible."""
    instance = draw(11, 6)
    first, second = (solve(instance, solver=solver, seed=5) for _ in range(2))
    assert first.schedule == second.schedule


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["highs", "scip"])
def test_a_real_trace(solver: str, shared_data: Path) -> None:
    """Tests 100 requests of the Azure conversation trace: valid, no worse than MC-SF, with a bound."""
    from modelkit.sources.traces import import_trace

    instance = import_trace("azure", shared_data / "azure_llm_2023_conv.csv", requests=100, kv_capacity=16_492)
    result = solve(instance, solver=solver, time_limit=10)
    online = mk.simulate(instance, "mc-sf").objective.value
    assert online == 21_199
    assert result.objective.value is not None
    assert result.objective.value <= online
    assert result.objective.bound is not None
    assert mk.verify_result(result, instance).holds


def test_formulation_errors_name_the_key(two: Instance) -> None:
    """Tests that a misspelt or missing data key is an error with the nearest name."""
    assert EXACT.data is not None
    data = EXACT.data

    def misspelt(instance: Instance, known: mk.Known) -> dict[str, object]:
        values = data(instance, known)
        return {("promt" if key == "prompt" else key): value for key, value in values.items()}

    with pytest.raises(FormulationError, match="data\\(\\) gives 'promt', .*did you mean 'prompt'"):
        solve(two, formulation=variant(data=misspelt))
    with pytest.raises(FormulationError, match="data\\(\\) gives no 'prompt', which the model needs"):
        solve(
            two, formulation=variant(data=lambda i, known: {k: v for k, v in data(i, known).items() if k != "prompt"})
        )
    with pytest.raises(FormulationError, match="cannot be built for instance 'two'"):
        solve(two, formulation=variant(data=lambda i, known: {**data(i, known), "prompt": {"short": -1, "long": 2}}))


def counted(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> list[int]:
    """One entry for each call of a function from now on."""
    calls: list[int] = []
    function = getattr(module, name)

    def counts(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, counts)
    return calls


@pytest.mark.parametrize("solver", ["highs", "diagram"])
def test_one_solve_finds_one_first_schedule(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that what is found first is handed on to the local search, the windows and the model."""
    found = counted(monkeypatch, candidates, "first_schedule")
    instance = mk.generate("kv-synthetic", requests=5, seed=77)
    assert mk.solve(instance, "kv-hindsight-flow", solver).status == "optimal"
    assert len(found) == 1


@pytest.mark.parametrize("warm_start", ["best", "none"])
@pytest.mark.parametrize("name", ["kv-hindsight-flow", "kv-hindsight-cliques"])
def test_one_solve_finds_the_start_windows_once(name: str, warm_start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that the windows are found once, and what they rest on too, for rows, data, model and result."""
    functions = [(known, "first_starts"), (best_known, "local_search"), (known, "find_windows"), (known, "find_rows")]
    found = [counted(monkeypatch, *function) for function in functions]
    instance = mk.generate("kv-synthetic", requests=5, seed=77)
    assert mk.solve(instance, name, "highs", warm_start=warm_start).status == "optimal"
    assert [len(calls) for calls in found] == [1, 1, 1, int(name == "kv-hindsight-cliques")]


def test_the_search_and_a_solver_after_it_share_the_start_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests an instance that the search does not end: the model has the windows that the search had."""
    monkeypatch.setattr(pipeline.Pipeline, "search_ends_it", lambda run: bool(run.known.windows) and False)
    found = counted(monkeypatch, known, "find_windows")
    result = mk.solve(mk.generate("kv-synthetic", requests=5, seed=77))
    assert result.producer.solver == "highs"
    assert len(found) == 1
