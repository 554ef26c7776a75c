"""Backend conformance: every way a solve can end, in one vocabulary, on every solver of our own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pyomo.environ as pyo
import pytest

import modelkit as mk
from modelkit.backends import Limits, SolverProgress, backend, backends, watch, worker
from modelkit.backends.process import ProcessBackend
from modelkit.backends.standard_form import StandardForm, compile_model
from modelkit.errors import SolverError, UsageError
from modelkit.sources.families import generate

OWN = tuple(name for name, engine in backends().items() if isinstance(engine, ProcessBackend))
REGISTERED = ("highs", "scip", "cp-sat")
TESTED = tuple(name for name in REGISTERED if backend(name).availability()[0])
#: CP-SAT is an extra: without it its tests are not there.
CP_SAT_FAULTS = [
    ("cp-sat", {"num_worker": "1"}, "CP-SAT has no option 'num_worker'; did you mean 'num_workers'?"),
    ("cp-sat", {"num_workers": "many"}, "takes a whole number"),
][: 2 if "cp-sat" in TESTED else 0]
#: Pyomo drives this one, and it is always there.
GENERIC = "appsi_highs"


def test_every_backend_of_our_own_is_tested() -> None:
    """Tests that the list of tested backends is the registry."""
    assert OWN == REGISTERED


def knapsack(n: int = 6, seed: int = 0) -> Any:
    """A small knapsack; its optimum is integral."""
    rng = np.random.default_rng(seed)
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(n), domain=pyo.Binary)
    weight, worth = rng.integers(5, 50, n).tolist(), rng.integers(5, 50, n).tolist()
    model.worth = pyo.Objective(expr=-sum(worth[i] * model.x[i] for i in range(n)) + 7)
    model.fits = pyo.Constraint(expr=sum(weight[i] * model.x[i] for i in range(n)) <= sum(weight) // 3)
    return model


def hard(n: int = 90, rows: int = 30) -> Any:
    """A market-split program that no solver finishes in a second, with a slack so that solutions are easy."""
    rng = np.random.default_rng(1)
    weights = rng.integers(0, 100, (rows, n))
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(n), domain=pyo.Binary)
    model.over = pyo.Var(range(rows), domain=pyo.NonNegativeIntegers)
    model.under = pyo.Var(range(rows), domain=pyo.NonNegativeIntegers)
    model.miss = pyo.Objective(expr=sum(model.over[r] + model.under[r] for r in range(rows)))
    model.split = pyo.Constraint(
        range(rows),
        rule=lambda m, r: (
            sum(int(weights[r, i]) * m.x[i] for i in range(n)) + m.under[r] - m.over[r] == int(weights[r].sum()) // 2
        ),
    )
    return model


@pytest.mark.parametrize("name", [*TESTED, GENERIC])
def test_optimal(name: str) -> None:
    """Tests a proven optimum: values loaded, bound equal to the objective, version and size known."""
    model = knapsack()
    heard: list[SolverProgress] = []
    outcome = backend(name).solve(model, Limits(time_limit=30), {}, listen=heard.append)
    assert (outcome.stop, outcome.found) == ("finished", "solution")
    assert outcome.bound == pytest.approx(pyo.value(model.worth))
    assert outcome.bound == round(outcome.bound or 0.5)
    assert outcome.version
    assert outcome.size is not None
    assert (outcome.size.variables, outcome.size.integers, outcome.size.constraints) == (6, 6, 1)
    assert heard
    assert heard[-1].incumbent == pytest.approx(outcome.bound)


@pytest.mark.parametrize("name", [*TESTED, GENERIC])
def test_infeasible(name: str) -> None:
    """Tests that infeasibility is found, with no bound and no solution."""
    model = knapsack()
    model.much = pyo.Constraint(expr=sum(model.x.values()) >= 6)
    outcome = backend(name).solve(model, Limits(), {})
    assert (outcome.stop, outcome.found, outcome.bound) == ("finished", "infeasible", None)


@pytest.mark.parametrize("name", TESTED)
def test_unbounded(name: str) -> None:
    """Tests that an unbounded model is called that."""
    model = pyo.ConcreteModel()
    model.x = pyo.Var([0, 1], domain=pyo.NonNegativeIntegers)
    model.cost = pyo.Objective(expr=-model.x[0] - model.x[1])
    model.tie = pyo.Constraint(expr=model.x[0] - model.x[1] <= 3)
    assert backend(name).solve(model, Limits(), {}).found == "unbounded"


@pytest.mark.parametrize("name", TESTED)
def test_time_limit_with_incumbent(name: str) -> None:
    """Tests that a limit leaves incumbent and bound."""
    model = hard()
    outcome = backend(name).solve(model, Limits(time_limit=1.0), {})
    assert (outcome.stop, outcome.found) == ("time_limit", "solution")
    assert outcome.bound is not None
    assert 0 <= outcome.bound < pyo.value(model.miss)
    assert len(outcome.log) > 100


@pytest.mark.parametrize("name", TESTED)
def test_time_limit_without_incumbent(name: str) -> None:
    """Tests that a limit of nothing finds nothing, without an error."""
    model = hard()
    for r in range(30):
        model.over[r].fix(0)
        model.under[r].fix(0)
    outcome = backend(name).solve(model, Limits(time_limit=0.3), {})
    assert (outcome.stop, outcome.found) == ("time_limit", "nothing")


@pytest.mark.parametrize("name", TESTED)
def test_gap_limit(name: str) -> None:
    """Tests that the gap asked for is kept and a looser bound is reported as it is."""
    model = hard(30, 2)
    outcome = backend(name).solve(model, Limits(time_limit=20, gap=0.9), {})
    assert (outcome.stop, outcome.found) == ("finished", "solution")


@pytest.mark.parametrize("name", TESTED)
def test_start(name: str) -> None:
    """Tests that a start is taken when it is feasible and that it is said when it is not."""
    for values, accepted in (((1, 0, 0, 0, 0, 0), True), ((1, 1, 1, 1, 1, 1), False)):
        model = knapsack()
        for var, value in zip(model.x.values(), values, strict=True):
            var.set_value(value)
        outcome = backend(name).solve(model, Limits(), {}, use_start=True)
        assert outcome.start_accepted is accepted
        assert outcome.found == "solution"
    assert backend(name).solve(knapsack(), Limits(), {}).start_accepted is None


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [
        ("highs", {"mip_rel_gab": "1"}, "HiGHS has no option 'mip_rel_gab'; did you mean 'mip_rel_gap'?"),
        ("highs", {"threads": "many"}, "takes a whole number"),
        ("highs", {"presolve": "perhaps"}, "HiGHS rejects presolve='perhaps'"),
        ("scip", {"limits/gab": "1"}, "SCIP has no option 'limits/gab'; did you mean 'limits/gap'?"),
        ("scip", {"limits/nodes": "many"}, "takes a whole number"),
        *CP_SAT_FAULTS,
    ],
)
def test_options_are_checked(name: str, option: dict[str, str], words: str) -> None:
    """Tests that a wrong option is an error with the nearest name, not silence."""
    with pytest.raises(UsageError, match=words.replace("?", r"\?")):
        backend(name).solve(knapsack(), Limits(), option)


@pytest.mark.parametrize(("name", "option"), [("highs", {"mip_max_nodes": "1"}), ("scip", {"limits/nodes": "1"})])
def test_options_reach_the_solver(name: str, option: dict[str, str]) -> None:
    """Tests that an option does something, and that threads and seed are taken."""
    outcome = backend(name).solve(hard(), Limits(time_limit=20, threads=1, seed=3), option)
    assert outcome.stop == "finished"
    assert outcome.bound is not None


@pytest.mark.parametrize("name", TESTED)
def test_interrupt_keeps_the_incumbent(name: str) -> None:
    """Tests that Ctrl-C stops the solver with the best solution so far."""
    model = hard()

    def press(progress: SolverProgress) -> None:
        if progress.incumbent is not None and not pressed:
            pressed.append(progress)
            os.kill(os.getpid(), signal.SIGINT)

    pressed: list[SolverProgress] = []
    outcome = backend(name).solve(model, Limits(time_limit=60), {}, listen=press)
    assert (outcome.stop, outcome.found) == ("interrupted", "solution")
    assert pyo.value(model.miss) <= (pressed[0].incumbent or 0) + 1e-6


@pytest.mark.parametrize("name", TESTED)
def test_a_dead_solver_loses_nothing(name: str) -> None:
    """Tests that the incumbent survives the death of the solver process, and that the next solve works."""
    engine = backend(name)
    assert isinstance(engine, ProcessBackend)
    outcome = engine.solve(hard(), Limits(time_limit=60), {}, listen=when_incumbent(engine, signal.SIGKILL))
    assert (outcome.stop, outcome.found) == ("failed", "solution")
    assert outcome.message == "the solver process was killed by signal 9"
    assert engine.solve(knapsack(), Limits(), {}).found == "solution"


def test_nothing_is_told_after_the_end() -> None:
    """Tests that what a solver says while its memory is freed does not pass for news of the next job."""
    reading, writing = os.pipe()
    report = worker.Report(writing, 3)
    report.solution(np.ones(1), 7.0, 3.0)
    report.end("outcome", {})
    report.bound(5.0)
    os.close(writing)
    messages = list(worker.frames(reading))
    os.close(reading)
    assert [message[:2] for message in messages] == [(3, "solution"), (3, "outcome")]


def test_a_stuck_solver_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that the watchdog ends a solver that overruns its limit, with the incumbent kept."""
    monkeypatch.setattr(watch, "GRACE", 0.3)
    engine = backend("highs")
    assert isinstance(engine, ProcessBackend)
    outcome = engine.solve(hard(), Limits(time_limit=1), {}, listen=when_incumbent(engine, signal.SIGSTOP))
    assert (outcome.stop, outcome.found) == ("time_limit", "solution")
    assert outcome.message == "the solver did not stop when asked to and was terminated"


def when_incumbent(engine: ProcessBackend, number: int) -> Callable[[SolverProgress], None]:
    """Send a signal to the solver process as soon as it has an incumbent."""

    def listen(progress: SolverProgress) -> None:
        busy = [solver for solver in engine.crew.all if not solver.free and solver.alive]
        if progress.incumbent is not None and busy:
            os.kill(busy[0].process.pid, number)

    return listen


@pytest.mark.skipif("cp-sat" not in TESTED, reason="the extra is not installed")
def test_cp_sat_takes_whole_numbers_only() -> None:
    """Tests that fractions are refused in words, and that memory as a flow is found to be whole."""
    model = knapsack()
    model.y = pyo.Var(bounds=(0, 1))
    model.half = pyo.Constraint(expr=2 * model.y + model.x[0] == 1)
    with pytest.raises(SolverError, match="whole numbers only"):
        backend("cp-sat").solve(model, Limits(), {})
    instance = generate("kv-synthetic", requests=5, kv_capacity=14)
    values = {
        (name, solver): mk.solve(instance, name, solver=solver).objective
        for name in ("kv-hindsight", "kv-hindsight-flow")
        for solver in ("highs", "cp-sat")
    }
    assert len({(o.value, o.bound) for o in values.values()}) == 1, values


def test_missing_solvers() -> None:
    """Tests what is said of a solver that nobody knows and of one that is not installed."""
    with pytest.raises(UsageError, match="unknown solver 'hihgs'; did you mean 'highs'"):
        backend("hihgs")
    with pytest.raises(SolverError, match="solver 'cplex' is not available"):
        backend("cplex").solve(knapsack(), Limits(), {})
    available, reason = backend("cplex").availability()
    assert not available
    assert reason


def test_availability() -> None:
    """Tests that our own solvers and the generic adapter answer."""
    for name in (*TESTED, GENERIC):
        available, words = backend(name).availability()
        assert available, words


def test_standard_form() -> None:
    """Tests the arrays of a small model: sides, bounds, integrality, offset, sense."""
    model = pyo.ConcreteModel()
    model.x = pyo.Var(bounds=(1, 4), domain=pyo.Integers)
    model.y = pyo.Var()
    model.gain = pyo.Objective(expr=3 * model.x - 2 * model.y + 5, sense=pyo.maximize)
    model.upper = pyo.Constraint(expr=model.x + model.y <= 6)
    model.equal = pyo.Constraint(expr=model.x - 2 * model.y == 1)
    model.lower = pyo.Constraint(expr=model.y >= -2)
    form, columns = compile_model(model)
    assert [c.name for c in columns] == ["x", "y"]
    assert form.cost.tolist() == [-3, 2]
    assert form.offset == -5
    assert form.lower.tolist() == [1, -np.inf]
    assert form.upper.tolist() == [4, np.inf]
    assert form.integer.tolist() == [True, False]
    assert form.row_lower.tolist() == [-np.inf, 1, -2]
    assert form.row_upper.tolist() == [6, 1, np.inf]
    assert not form.objective_is_integral()


def test_integral_objectives_round_the_bound_up() -> None:
    """Tests that a bound is rounded up exactly when the objective is whole, less a solver's tolerance."""
    form, _ = compile_model(knapsack())
    assert form.objective_is_integral()
    assert [form.tighten(b) for b in (None, 7.2, 7.0000001, 7.0)] == [None, 8, 7, 7]
    broken = StandardForm(**{f: getattr(form, f) for f in StandardForm.__slots__})
    broken.offset = 0.5
    assert broken.tighten(7.2) == 7.2


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda m: setattr(m, "square", pyo.Constraint(expr=m.x[0] * m.x[1] <= 1)), "not linear"),
        (lambda m: m.worth.deactivate(), "0 active objectives"),
    ],
)
def test_models_out_of_reach(spoil: Callable[[Any], None], words: str) -> None:
    """Tests that a model that is not linear or has no objective is refused in words."""
    model = knapsack()
    spoil(model)
    with pytest.raises(SolverError, match=words):
        backend("highs").solve(model, Limits(), {})
