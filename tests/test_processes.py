"""Solver processes as callers meet them: errors in callbacks, threads, forks, event loops, kills, others' HiGHS."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highspy
import histories
import numpy as np
import pytest

import modelkit as mk
from modelkit.backends import Limits, Outcome, backend, engine
from modelkit.backends.crew import SolverProcess
from modelkit.backends.standard_form import StandardForm
from modelkit.backends.watch import STOPPING_SHARE, Watch, overrun
from modelkit.backends.worker import Job, Report
from modelkit.errors import ArgumentError, SolverError
from modelkit.problems.kv.cuts import clique_program as cliques
from modelkit.problems.kv.diagram import Search
from modelkit.runtime import scratch as scratch
from modelkit.solving.candidates import first_starts
from modelkit.solving.known import start_windows
from modelkit.solving.pipeline import Pipeline
from modelkit.sources.families import generate

OPTIMA = {0: 97.0, 1: 27.0, 2: 29.0}


def answer(number: int, solver: str = "highs") -> tuple[float | None, float | None]:
    """Value and bound of one of the small instances."""
    return histories.solved((number, solver))[2:4]


def right(number: int) -> tuple[float, float]:
    return OPTIMA[number], OPTIMA[number]


def knapsack(**changes: Any) -> StandardForm:
    """Minimise -5 x - 4 y - 3 z where 2 x + 3 y + z <= 5, over 0 and 1: the optimum is -9."""
    fields = {
        "cost": np.array([-5.0, -4.0, -3.0]), "offset": 0.0,
        "indptr": np.array([0, 3], np.int32), "indices": np.array([0, 1, 2], np.int32),
        "values": np.array([2.0, 3.0, 1.0]), "row_lower": np.array([-np.inf]), "row_upper": np.array([5.0]),
        "lower": np.zeros(3), "upper": np.ones(3), "integer": np.ones(3, np.bool_),
    }  # fmt: skip
    return StandardForm(**{**fields, **changes})


# --- errors and wrong arguments ----------------------------------------------------------------


class OwnError(Exception):
    """What a caller's callback raises."""


@pytest.mark.parametrize("solver", ["highs", "scip"])
def test_an_error_in_a_callback_leaves_no_answer_behind(solver: str) -> None:
    """Tests that the next answers are their own, and not that of the question whose callback raised."""

    def listen(news: Any) -> None:
        if news.bound is not None:
            raise OwnError

    with pytest.raises(OwnError):
        histories.solved((0, solver), listen=listen)
    assert [answer(1, solver), answer(0, solver)] == [right(1), right(0)]


@pytest.mark.parametrize(
    "wrong",
    [{"time_limit": "5"}, {"time_limit": -1}, {"time_limit": float("nan")}, {"time_limit": True}, {"gap": "0"},
     {"gap": 2}, {"threads": 0}, {"threads": 1.0}, {"seed": -1}, {"seed": None}, {"warm_start": 3}, {"options": "a=b"},
     {"options": {1: 2}}, {"parameters": [1]}, {"listen": "me"}, {"formulation": 7}, {"solver": 7}],
)  # fmt: skip
def test_wrong_arguments(wrong: dict[str, Any]) -> None:
    """Tests that an argument of another kind is named before anything starts, whatever else is wrong."""
    name, value = next(iter(wrong.items()))
    with pytest.raises(ArgumentError, match=rf"(?s)solve: .*{name}: found .*; allowed: "):
        mk.solve(histories.instance(0), **wrong)
    if name in ("time_limit", "gap", "seed", "listen"):
        with pytest.raises(ArgumentError, match=rf"(?s)bound: .*{name}: found"):
            mk.bound(histories.instance(0), **wrong)
    if name == "seed":
        with pytest.raises(ArgumentError, match=r"(?s)simulate: .*seed: found"):
            mk.simulate(histories.instance(0), seed=value)


def test_all_wrong_arguments_are_named_together_and_numpy_numbers_are_right() -> None:
    """Tests one message for all, and that numbers of numpy are numbers."""
    with pytest.raises(ArgumentError, match=r"(?s)time_limit.*gap.*threads"):
        mk.solve(histories.instance(0), time_limit="1", gap="0", threads="1")
    with pytest.raises(ArgumentError, match=r"(?s)max_batch.*chunked_prefill"):
        mk.simulate(histories.instance(0), max_batch=0, chunked_prefill="no")
    numbers = {"time_limit": np.float32(30), "gap": np.float64(0), "threads": np.int64(1), "seed": np.int32(1)}
    result = mk.solve(histories.instance(1), "kv-weighted-latency", "highs", **numbers)
    assert result.objective.value == OPTIMA[1]
    assert type(result.producer.seed) is int
    assert mk.simulate(histories.instance(1), seed=np.int64(1), max_batch=np.int64(3)).status == "feasible"


# --- threads, forks, loops ---------------------------------------------------------------------


def test_threads() -> None:
    """Tests that questions asked at once in threads get their own answers."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [(k, solver) for k in OPTIMA for solver in ("highs", "scip")]
        assert [a[2:4] for a in pool.map(histories.solved, asked)] == [right(k) for k, _ in asked]


def test_event_loops() -> None:
    """Tests a solve in threads of a loop, and in a loop that runs in the main thread, as in notebooks."""

    async def several() -> list[Any]:
        here = answer(1)
        return [here, *await asyncio.gather(*(asyncio.to_thread(answer, k) for k in (0, 2)))]

    assert asyncio.run(several()) == [right(1), right(0), right(2)]


def pooled(kind: str) -> list[Any]:
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(kind)) as pool:
        return list(pool.map(answer, (0, 1), timeout=100))


def test_forks_after_a_solve() -> None:
    """Tests that forked processes solve, although their parent has solver processes, and so does the parent then."""
    assert answer(2) == right(2)
    mine = {process.process.pid for process in backend("highs").crew.all}  # type: ignore[attr-defined]
    assert pooled("fork") == [right(0), right(1)]
    assert answer(0) == right(0)
    assert mine & {process.process.pid for process in backend("highs").crew.all}  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spawn", "forkserver"])
def test_other_ways_to_start_processes(kind: str) -> None:
    """Tests the ways that import everything anew."""
    assert pooled(kind) == [right(0), right(1)]


def test_fork_after_a_bound() -> None:
    """Tests that a certificate is computed in a fork of a process that computed one: threads of OpenMP would end it."""
    instance = generate("chat", requests=30, kv_capacity=500, seed=1)
    mk.bound(instance, time_limit=0.5)
    child = multiprocessing.get_context("fork").Process(target=mk.bound, args=(instance,), kwargs={"time_limit": 0.5})
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_a_daemonic_process_compares(tmp_path: Path) -> None:
    """Tests that ``compare`` runs in a process that may have no children of multiprocessing."""
    context = multiprocessing.get_context("fork")
    names = context.SimpleQueue()

    def work() -> None:
        made = mk.compare([histories.instance(0).replace(extra={})], tmp_path, policies=["svf"], formulations=[],
                          bound=False, jobs=1)  # fmt: skip
        names.put([(r.producer.name, r.status) for r in made.results])

    child = context.Process(target=work, daemon=True)
    child.start()
    child.join(100)
    assert child.exitcode == 0
    assert names.get() == [("svf", "feasible")]


def test_random_histories() -> None:
    """Tests short random lives of processes: whatever happened before, answers are those of a fresh one."""
    histories.load_all()
    fresh = {
        (k, solver): ("optimal", "finished", value, value, "")
        for k, value in OPTIMA.items()
        for solver in histories.SOLVERS
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histories, "QUESTIONS", list(fresh))
        patch.setattr(histories, "INSTANCES", len(OPTIMA))
        patch.setattr(histories, "STEPS", 2)
        for seed in range(5):
            assert histories.performed(1000 + seed, fresh)[0] == []


@pytest.mark.slow
def test_many_random_histories() -> None:
    """Tests longer lives, against processes that did nothing else."""
    histories.load_all()
    fresh = histories.fresh_answers()
    assert {seed: faults for seed in range(6) if (faults := histories.performed(seed, fresh)[0])} == {}


# --- answers are checked -----------------------------------------------------------------------


class Told:
    """Stands in for a solver process that says these things."""

    def __init__(self, *messages: tuple[Any, ...]) -> None:
        self.messages, self.free = list(messages), False

    def ask(self, job: Job) -> None: ...

    def next(self, timeout: float) -> tuple[Any, ...]:
        return self.messages.pop(0)


def told(form: StandardForm, *messages: tuple[Any, ...]) -> tuple[Outcome, Watch]:
    watch = Watch(Told(*messages), Job("highs", form, Limits(), {}), None)  # type: ignore[arg-type]
    return watch.run(), watch


def outcome(**fields: Any) -> tuple[Any, ...]:
    return "outcome", {"found": "solution", "stop": "finished", "message": "", **fields}


def test_what_a_solution_costs_is_computed() -> None:
    """Tests that a solver's own word for the cost of its solution is not used, and that its error is said."""
    x = np.array([0.0, 1.0, 1.0])
    found, watch = told(knapsack(), ("solution", 0.1, -9.0, -9.0, x), outcome(x=x, objective=-9.0, bound=-9.0))
    assert [p.incumbent for p in found.progress] == [-7.0]
    assert watch.incumbents.value == -7.0
    assert found.message == "highs reported -9 for a solution that costs -7; the recomputed value is used"


@pytest.mark.parametrize(
    ("x", "words"),
    [([1, 1, 1], "breaks a row by"), ([2, 0, 0], "breaks a bound"), ([0.5, 0, 0], "away from a whole number"),
     ([np.nan, 0, 0], "not a point"), ([1, 0], "not a point")],
)  # fmt: skip
def test_what_breaks_the_model_is_no_solution(x: list[float], words: str) -> None:
    """Tests that a point outside the model is neither an incumbent nor the end's solution."""
    point = np.array(x, dtype=np.float64)
    found, watch = told(knapsack(), ("solution", 0.1, -9.0, -9.0, point), outcome(x=point, objective=-9.0, bound=-9.0))
    assert (found.found, watch.incumbents.x) == ("nothing", None)
    assert words in found.message


def test_bounds_that_a_solution_refutes_are_withdrawn() -> None:
    """Tests bounds in the news and at the end, and "infeasible" after a solution."""
    x = np.array([1.0, 1.0, 0.0])
    found, _ = told(knapsack(), ("bound", 0.1, -8.0), ("solution", 0.2, -9.0, -9.0, x), outcome(bound=-8.0))
    assert (found.stop, found.bound, [p.bound for p in found.progress]) == ("failed", None, [None, -9.0])
    assert "the bound -8 of highs was withdrawn: it knows a solution that costs -9" in found.message
    found, _ = told(knapsack(), ("solution", 0.2, -9.0, None, x), outcome(found="infeasible"))
    assert (found.stop, found.found, found.bound) == ("failed", "solution", None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_solver_process_outlives_signals_of_its_first_moment(number: int) -> None:
    """Tests that a signal to the whole group leaves it to the parent to end a solver process that only starts."""
    process = SolverProcess()
    try:
        os.kill(process.process.pid, number)
        process.ask(Job("highs", knapsack(), Limits(), {}))
        assert process.next(60) == ("begun",)  # and not ("died",)
    finally:
        process.kill()


def test_answers_to_other_questions_are_dropped() -> None:
    """Tests that a message with another number is not read as an answer."""
    process = SolverProcess()
    try:
        process.ask(Job("highs", knapsack(), Limits(), {}))
        process.messages.put((process.number - 1, "outcome", {}))
        message = None
        while message is None or message[0] != "outcome":
            message = process.next(1.0)
        assert message[1]["bound"] == -9.0
    finally:
        process.kill()


@pytest.mark.parametrize("solver", ["highs", "scip"])
def test_fate_of_a_start(solver: str) -> None:
    """Tests whole and partial starts, possible and impossible ones."""
    nan = np.nan
    fates = {(0, 0, 0): True, (1, 1, 0): True, (1, 1, 1): False, (nan, 0, nan): True, (nan, 2, nan): False, (): None}
    for start, accepted in fates.items():
        form = knapsack(start=np.array(start, dtype=np.float64) if start else None)
        found, x = backend(solver).solve_form(form, Limits(), {})  # type: ignore[attr-defined]
        assert (found.start_accepted, found.bound, form.objective(x)) == (accepted, -9.0, -9.0), start


def test_a_bound_is_checked_against_every_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that a bound above a schedule that was judged on the way is published nowhere."""
    result = mk.solve(histories.instance(1), "kv-weighted-latency", "highs")
    false = OPTIMA[1] + 5

    def lying(run: Pipeline, model: Any) -> Outcome:
        run.outcome = Outcome("finished", "nothing", bound=false)
        run.passed("solver", time.perf_counter(), "")
        return run.outcome

    monkeypatch.setattr(Pipeline, "run_solver", lying)
    monkeypatch.setattr(Pipeline, "search_ends_it", lambda run: False)
    wrong = mk.solve(histories.instance(1), "kv-weighted-latency", "highs")
    assert result.objective.bound == OPTIMA[1]
    assert (wrong.objective.bound, wrong.stop, wrong.status) == (None, "failed", "feasible")
    assert f"the bound {false:g} of highs is above the value" in wrong.message
    assert not [stage for stage in wrong.stages if stage.bound == false]


# --- HiGHS in this process ---------------------------------------------------------------------


def own_solve(threads: int | None) -> tuple[Any, Any]:
    """What another library does with HiGHS in this process."""
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    if threads is not None:
        solver.setOptionValue("threads", threads)
    solver.addVar(0, 1)
    solver.changeColCost(0, -1.0)
    return solver.run(), solver.getModelStatus()


@pytest.mark.parametrize(("before", "after"), [(None, 2), (3, 3), (2, None)])
def test_highs_solves_of_others(before: int | None, after: int | None) -> None:
    """Tests that others' solves with any number of threads neither disturb ours nor are disturbed."""

    def life() -> None:
        if before is not None:
            assert own_solve(before)[0] == highspy.HighsStatus.kOk
        form = knapsack(integer=np.zeros(3, np.bool_))
        solver = engine.new_highs(form, threads=1)
        engine.run(solver)
        assert engine.is_optimal(solver)
        assert own_solve(after) == (highspy.HighsStatus.kOk, highspy.HighsModelStatus.kOptimal)

    with concurrent.futures.ThreadPoolExecutor(1) as thread:  # schedulers belong to threads
        thread.submit(life).result()


def test_ctrl_c_stops_a_linear_program() -> None:
    """Tests that Ctrl-C reaches the thread in which HiGHS runs and is raised when that is over."""
    stop = threading.Event()
    ended: list[bool] = []

    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        ended.append(stop.wait(20))

    with pytest.raises(KeyboardInterrupt):
        engine.apart(work, stop)
    assert ended == [True]


def test_a_linear_program_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that the cliques and the search say why they stopped."""
    monkeypatch.setattr(engine, "apart", lambda call, stop=None: highspy.HighsStatus.kError)
    with pytest.raises(SolverError, match="could not solve a linear program"):
        engine.run(engine.new_highs(knapsack()))
    instance = generate("kv-synthetic", requests=9, kv_capacity=20, seed=2)
    program = cliques.CliqueProgram(instance, start_windows(instance))
    assert program.cut_and_solve(np.inf, np.inf).bound > 0
    assert "could not solve a linear program" in program.trouble
    harder = generate("kv-synthetic", requests=16, seed=2)
    search = Search(harder, first_starts(harder))
    search.run()
    assert "could not solve a linear program" in search.trouble


def test_the_banner_is_kept_from_standard_output(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """Tests that what a talkative HiGHS prints when it is made is dropped, once, and everything else is not."""
    made = highspy.Highs

    def talkative() -> Any:
        os.write(1, b"Running HiGHS 9.9.9 (git hash: 0): Copyright (c) 2026 under MIT licence terms\n")
        os.write(1, b"Includes third-party software components, see THIRD_PARTY_NOTICES.md for full details\nothers\n")
        return made()

    monkeypatch.setattr(highspy, "Highs", talkative)
    monkeypatch.setattr(engine, "_talks", lambda: True)
    monkeypatch.setattr(engine, "_told", [])
    engine.new_highs(knapsack())
    assert capfd.readouterr().out == "others\n"


# --- kills -------------------------------------------------------------------------------------

LONG = """
import os, sys
import modelkit as mk
from modelkit.backends import backend
from modelkit.sources.families import generate
def listen(news):
    for process in backend(sys.argv[1]).crew.all:
        if not process.free: print(process.process.pid, flush=True)
mk.solve(generate("kv-synthetic", requests=14, seed=1), "kv-hindsight-flow", sys.argv[1], time_limit=60,
         warm_start="none", listen=listen)
"""


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["highs", "scip"])
def test_a_killed_parent_leaves_nothing(solver: str, tmp_path: Path) -> None:
    """Tests that solver process and files go with a process that is killed without a chance to tidy up."""
    command = [sys.executable, "-c", LONG, solver]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    waited_for(lambda: scratch.began(child) is None)
    assert not list(tmp_path.iterdir())


def waited_for(condition: Callable[[], bool]) -> None:
    for _ in range(100):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("nothing happened in ten seconds")


def test_folders_of_the_dead_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that folders of processes that are no more go, and those of living ones and of others stay."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    me = os.getpid()
    dead = [tmp_path / f"modelkit-{me}-12345-abc", tmp_path / "modelkit-999999999-77-xyz"]
    others = [tmp_path / f"modelkit-{me}-{scratch.began(me)}-abc", tmp_path / "modelkit-abc", tmp_path / "else"]
    for folder in (*dead, *others):
        folder.mkdir()
        (folder / "file").touch()
    with scratch.scratch_folder() as mine:
        assert mine.is_dir()
        assert sorted(tmp_path.iterdir()) == sorted([*others, mine])
    assert sorted(tmp_path.iterdir()) == sorted(others)


@pytest.mark.parametrize("solver", ["highs", "scip"])
def test_a_stop_before_the_solver_begins(solver: str) -> None:
    """Tests that a solver that is stopped while it takes the model ends cleanly, without a bound."""
    module = importlib.import_module(f"modelkit.backends.{solver}")
    stop = threading.Event()
    stop.set()
    reading, writing = os.pipe()
    made = module.solve(Job(solver, knapsack(), Limits(), {}), Report(writing, 1), stop)
    os.close(reading)
    os.close(writing)
    assert made["stop"] in ("interrupted", "finished")
    assert made.get("bound") in (None, -9.0)


def test_ctrl_c_is_kept_where_the_solver_dies_of_it() -> None:
    """Tests that a solver process that ends after Ctrl-C is no failure of its own."""
    watch = Watch(Told(), Job("highs", knapsack(), Limits(), {}), None)  # type: ignore[arg-type]
    watch.stopping = "interrupted"
    watch.process.last_words = lambda: "gone"  # type: ignore[method-assign]
    found = watch.take(("died",))
    assert found is not None
    assert (found.stop, found.message) == ("interrupted", "gone")


def test_patience_fits_the_limit() -> None:
    """Tests that a solver that does not stop is ended within a tenth of the limit and two seconds, less a second."""
    for limit in (0.0, 0.5, 1.0, 10.0, 60.0, 120.0, 3600.0):
        limits = Limits(time_limit=limit)
        assert overrun(limits) + overrun(limits, STOPPING_SHARE) <= 0.1 * limit + 1.0


def test_starting_a_process_counts() -> None:
    """Tests that a solver's limit counts from the question, and that it has half of it however late it begins."""
    for since, least, most in ((0.0, 9.0, 10.0), (3.0, 6.0, 7.0), (8.0, 5.0, 5.0)):
        job = Job("highs", knapsack(), Limits(time_limit=10), {}, asked=time.monotonic() - since)
        left = job.limit_left()
        assert left is not None
        assert least <= left <= most
    assert Job("highs", knapsack(), Limits(), {}, asked=0.0).limit_left() is None
    process = SolverProcess()
    try:
        process.ask(job := Job("highs", knapsack(), Limits(time_limit=10), {}))
        assert job.asked is not None
        assert 0 <= time.monotonic() - job.asked < 5
    finally:
        process.kill()


@pytest.mark.parametrize("solver", ["highs", "scip"])
def test_two_interrupts_end_a_solver_and_the_next_answer_is_right(solver: str) -> None:
    """Tests that impatience loses nothing but the solver process."""

    def listen(news: Any) -> None:
        if news.phase.startswith("solving"):
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)

    with contextlib.suppress(KeyboardInterrupt):
        histories.solved((0, solver), listen=listen)
    assert answer(1, solver) == right(1)
    assert threading.current_thread() is threading.main_thread()
