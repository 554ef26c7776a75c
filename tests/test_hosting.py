"""Formulation files that misbehave: whatever a function does, one clear message, in bounded time, and nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkit.authoring.check import check
from modelkit.authoring.export import export_model
from modelkit.backends import Limits, backend
from modelkit.backends.standard_form import CompiledModel, compile_model, pyomo_model
from modelkit.errors import FormulationError, FormulationFailedError
from modelkit.formulation.formulation import Formulation
from modelkit.formulation.hosting import HeldFormulation, found_formulations, host
from modelkit.formulation.loading import FOLDERS_VARIABLE
from modelkit.formulation.loading import load_formulation as load_here
from modelkit.instance import Instance
from modelkit.result import Result
from modelkit.runtime.resources import bundled
from modelkit.solving import solve
from modelkit.solving.known import known_of

Cli = Callable[..., Any]

#: A variant that is right but for what stands where a function begins.
FILE = '''
"""A variant.

Claim
-----
Exact.

Reference
---------
None.
"""
import os, sys, threading, time
from modelkit import Formulation
from modelkit.formulation.loading import load_formulation

BASE = load_formulation("kv-hindsight-flow")


def misbehave():
    {code}


{at_import}


def build(m):
    {build}


def data(instance):
    {data}
    return {{}}


def extract(model, instance):
    {extract}
    return BASE.extract(model, instance)


def admissible(instance, verdict):
    {admissible}
    return []


def value(instance, verdict):
    {value}
    return verdict.metrics["total_latency_rounds"]


def start(model, instance, schedule):
    {start}
    BASE.start(model, instance, schedule)


def needs(instance):
    {needs}


FORMULATION = Formulation(
    name="mine", summary="a variant", claim="exact", reference="none", extends="kv-hindsight-flow", build=build,
    data=data, extract=extract, admissible=admissible, value=value, start=start, needs=needs,
)
'''
#: A ``data`` that tells what it is handed: whether windows were found before, and how many starts each request has.
TELLING = """def data(instance, known):
    raise ValueError("windows" in vars(known), *map(len, known.starts))
"""
FUNCTIONS = ("at_import", "build", "data", "extract", "admissible", "value", "start", "needs")
#: What a function may do, what is said of it, and whether it still returns.
MISBEHAVIOURS = {
    "exit": ("sys.exit(0)", "called sys.exit(0)"),
    "gone": ("os._exit(3)", "ended its interpreter, which ended with exit code 3"),
    "loop": ("while True: pass", "did not end within "),
    "crash": ("import ctypes; ctypes.string_at(0)", "crashed with signal 11"),
    "thread": ("threading.Thread(target=time.sleep, args=(1000,)).start()", None),
    "ctrl-c": ("raise KeyboardInterrupt", "raised KeyboardInterrupt"),
    "prints": ("print('x' * 10_000_000)", None),
    "deep": ("misbehave()", "raised RecursionError"),
    "moves": ("os.chdir('/')", None),
}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience of two seconds; of the children, too, since they hear of no other."""
    monkeypatch.setattr(host, "TIMEOUT", 2.0)


def written(folder: Path, function: str = "", misbehaviour: str = "thread", stem: str = "mine") -> Path:
    """A file in which one function misbehaves."""
    code = MISBEHAVIOURS[misbehaviour][0]
    where = {name: "misbehave()" if name == function else "pass" for name in FUNCTIONS}
    path = folder / f"{stem}.py"
    path.write_text(FILE.format(code=code, **where).replace('"mine"', f'"{stem.replace("_", "-")}"'))
    return path


def judged_in_vain(result: Result) -> bool:
    """Whether the result is what follows when no schedule is known to be admissible."""
    return (result.status, result.stop, result.schedule) == ("no_schedule", "failed", None)


def hold(function: str, misbehaviour: str, instance: Instance, folder: Path) -> None:
    """Solve with a file in which one function misbehaves, and hold what comes of it to the contract."""
    path = written(folder, function, misbehaviour)
    words = MISBEHAVIOURS[misbehaviour][1]
    said = "import" if function == "at_import" else f"{function}()"
    began = time.monotonic()
    before = Path.cwd()
    if words is None:
        result = solve(instance, str(path))
        assert (result.status, result.objective.value) == ("optimal", 8)
    elif function in ("at_import", "needs"):
        kind = FormulationError if function == "at_import" else FormulationFailedError
        with pytest.raises(kind) as caught:
            solve(instance, str(path))
        assert caught.value.exit_code == (2 if function == "at_import" else 4)
        words = words.replace("called sys.exit(0)", "SystemExit: 0") if function == "at_import" else words
        words = words.removeprefix("raised ") if function == "at_import" else words
        assert words in str(caught.value)
        assert str(path) in str(caught.value)
    else:
        building = function in ("build", "data")
        result = solve(instance, str(path), time_limit=2.0 if building and misbehaviour == "loop" else 60.0)
        assert result.stop == ("time_limit" if building and misbehaviour == "loop" else "failed")
        if function in ("admissible", "value"):
            assert judged_in_vain(result), result
        else:
            assert (result.status in ("feasible", "optimal"), result.objective.value) == (True, 8)
        assert f"formulation {path}: {said}" in result.message
        assert words in result.message
        if misbehaviour != "gone":
            assert "in line " in result.message
    assert time.monotonic() - began < 60
    assert Path.cwd() == before


@pytest.mark.parametrize(
    ("function", "misbehaviour"),
    [("build", "exit"), ("admissible", "loop"), ("extract", "crash")],
)
def test_solve_loses_nothing(function: str, misbehaviour: str, two: Instance, tmp_path: Path) -> None:
    """Tests one function for each kind of misbehaviour that differs in how it is found out."""
    hold(function, misbehaviour, two, tmp_path)


#: Each function with a third of the misbehaviours, and each of these with a third of the functions.
SOME = [(f, m) for i, f in enumerate(FUNCTIONS) for j, m in enumerate(MISBEHAVIOURS) if (i + j) % 3 == 0]
#: Half of them: each function and each misbehaviour, but not each with each; what `check` makes of them costs more.
FEWER = [(f, m) for k, (f, m) in enumerate(SOME) if k % 2 == 0]


@pytest.mark.slow
@pytest.mark.parametrize(("function", "misbehaviour"), SOME)
def test_solve_with_many(function: str, misbehaviour: str, two: Instance, tmp_path: Path) -> None:
    """Tests every function with a third of the misbehaviours."""
    hold(function, misbehaviour, two, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("function", "misbehaviour"), FEWER)
def test_check_with_many(function: str, misbehaviour: str, tmp_path: Path) -> None:
    """Tests that each is a broken rule whose complaint names the function."""
    words = MISBEHAVIOURS[misbehaviour][1]
    path = written(tmp_path, function, misbehaviour)
    rules = ("import",) if function == "at_import" else ("used", "claim")
    found = check(str(path), instances=2, rules=rules)
    said = " ".join(c.what for f in found for c in f.complaints)
    broken = [f.rule for f in found if f.status == "failed"]
    if function == "at_import" and misbehaviour in ("thread", "prints", "moves"):
        assert broken == ["import"]
    elif words is None:
        assert broken == []
    elif function == "at_import":
        assert broken == ["loads"]
        words = words.replace("called sys.exit(0)", "SystemExit: 0").removeprefix("raised ")
        assert words in said
    else:
        assert len(broken) == 1
        assert words in said
        assert f"{function}()" in said


def test_check_names_the_function_that_ends_it(tmp_path: Path) -> None:
    """Tests that the rule in which the interpreter is ended is broken, and the rest is not reached."""
    found = check(str(written(tmp_path, "data", "gone")), instances=2, rules=("units", "data", "builds"))
    assert [f.status for f in found] == ["ok", "ok", "ok", "failed", "not reached"]
    words = "data() ended its interpreter, which ended with exit code 3"
    assert words in found[3].complaints[0].what


def test_objects_cannot_end_python(two: Instance) -> None:
    """Tests that sys.exit in a function of an object given in Python is an error of that function."""
    base = load_here("kv-hindsight")
    fields = {name: getattr(base, name) for name in Formulation.__dataclass_fields__}
    result = solve(two, Formulation(**{**fields, "build": lambda m: sys.exit(0)}))
    assert (result.status, result.stop, result.objective.value) == ("feasible", "failed", 8)
    assert "formulation 'kv-hindsight': build() called sys.exit(0) in line" in result.message
    wrong = Formulation(**{**fields, "admissible": lambda instance, verdict: "few run"})
    assert "admissible() returns 'few run'; allowed: a list of sentences" in solve(two, wrong).message
    missing = Formulation(**{**fields, "extract": lambda model, instance: None})
    assert "extract() returns None; allowed: a Schedule" in solve(two, missing).message


@pytest.mark.slow
def test_answers_of_unknown_classes(two: Instance, tmp_path: Path) -> None:
    """Tests that an object of a class of the file itself, which nobody else can load, is said to be one."""
    path = written(tmp_path)
    kind = "class Own(Schedule):\n    pass\n\n\ndef build(m):"
    text = (
        path.read_text()
        .replace("def build(m):", kind, 1)
        .replace("import Formulation", "import Formulation, Schedule", 1)
    )
    path.write_text(text.replace("return BASE.extract(model, instance)", "return Own()"))
    result = solve(two, str(path))
    assert (result.status, result.stop, result.objective.value) == ("optimal", "failed", 8)  # of the start
    assert "only its file knows" in result.message


def test_one_file_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that a listing names a file that loops at import, and goes on; and that nobody else imports it."""
    folder = tmp_path / "own"
    folder.mkdir()
    written(folder, "at_import", "loop", "looping")
    written(folder, stem="whole")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(FOLDERS_VARIABLE, "own")
    found = {entry.name: entry for entry in found_formulations()}
    assert "looping.py cannot be loaded: its import did not end within 2 s; it was in line" in str(
        found["looping"].error
    )
    assert isinstance(found["whole"].formulation, HeldFormulation)


def test_solvers_through_pyomo_and_export(two: Instance, tmp_path: Path) -> None:
    """Tests what works with Pyomo's own model for a file in another process."""
    path = str(written(tmp_path))
    result = solve(two, path, "appsi_highs")
    assert (result.status, result.objective.value) == ("optimal", 8)
    text, made_by = export_model(two, path)
    assert made_by.name == "mine"
    assert text == export_model(two, load_here(path))[0]


def test_a_model_of_arrays_is_the_model(two: Instance) -> None:
    """Tests that a Pyomo model made of arrays compiles to the same arrays, and that every solver takes them."""
    flow = load_here("kv-hindsight-flow")
    form, _ = compile_model(flow.instantiate(two, known_of(flow, two)))
    again, columns = compile_model(pyomo_model(form))
    order = [var.index() for var in columns]
    assert np.array_equal(form.cost[order], again.cost)
    assert np.array_equal(form.lower[order], again.lower)
    assert np.array_equal(form.integer[order], again.integer)
    assert sorted(form.values) == sorted(again.values)
    model = CompiledModel(form, 0)
    assert backend("highs").solve(model, Limits(60), {}).found == "solution"
    assert model.x is not None
    assert form.cost @ model.x + form.offset == pytest.approx(8)


def test_threads_do_not_keep_the_command(tmp_path: Path) -> None:
    """Tests that the command line ends with its work, not with threads that somebody began."""
    code = (
        "import sys, threading, time; threading.Thread(target=time.sleep, args=(1000,)).start();"
        " sys.argv = ['modelkit', 'list', 'nothing']; from modelkit.__main__ import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "Invalid value" in ended.stderr


@pytest.mark.slow
def test_the_process_dies_with_its_parent(tmp_path: Path) -> None:
    """Tests that no process is left that loops when its parent is killed."""
    path = written(tmp_path, "build", "loop")
    path.write_text(
        path.read_text().replace("while True: pass", "print(os.getpid(), flush=True)\n    while True: pass")
    )
    instance = str(bundled("instances") / "two-requests.json")
    command = [sys.executable, "-m", "modelkit", "solve", instance, "-f", str(path)]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=tmp_path)
    assert parent.stderr is not None
    child = int(next(line for line in parent.stderr if line.strip().isdigit()))
    parent.kill()
    parent.wait()
    parent.stderr.close()
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the process outlived its parent")


def test_a_functions_patience_is_within_the_time_limit(two: Instance, tmp_path: Path, monkeypatch: Any) -> None:
    """Tests that a rule which does not end costs about the time limit of the solve, and not a timeout of its own."""
    monkeypatch.setattr(host, "TIMEOUT", 300.0)
    monkeypatch.setattr(host, "LEAST_TIMEOUT", 1.0)
    result = solve(two, str(written(tmp_path, "admissible", "loop")), time_limit=2.0)
    assert "admissible() did not end within" in result.message


def test_a_model_that_is_too_large_is_refused_there_too(two: Instance, tmp_path: Path) -> None:
    """Tests that data() refuses what is too large where the file runs, and that the message names the file."""
    path = written(tmp_path)
    path.write_text(path.read_text().replace("data=data,", "data=lambda instance, known: known.check_size(10**12),"))
    result = solve(two, str(path))
    assert f"formulation {path}: its model would have about 1,000,000,000,000 non-zeros" in result.message


@pytest.mark.parametrize(("problem", "said"), [("", "(False, 5, 3)"), ("problem='kv-hindsight', ", "(True, 3, 3)")])
def test_what_is_known_goes_along(problem: str, said: str, two: Instance, tmp_path: Path) -> None:
    """Tests that data() is handed what the solve found: its windows where the problem is the same, else all starts."""
    path = written(tmp_path)
    text = path.read_text().replace("data=data,", f"data=data, {problem}").replace("def data(instance):", TELLING)
    path.write_text(text)
    assert f"data() raised ValueError: {said}" in solve(two, str(path)).message


def test_known_is_handed_on(two: Instance, tmp_path: Path) -> None:
    """Tests that a file which asks another formulation's data without what is known is told what to write."""
    path = written(tmp_path)
    path.write_text(path.read_text().replace("data=data,", "data=lambda instance: BASE.data(instance),"))
    assert "(write data(instance, known), and hand known on)" in solve(two, str(path)).message
    path.write_text(path.read_text().replace("lambda instance: BASE.data(instance)", "BASE.data"))
    assert solve(two, str(path)).status == "optimal"


@pytest.mark.parametrize("field", ["variant_data", "nonzeros", "variant_nonzeros", "suits"])
def test_fields_that_are_gone_say_what_to_do(field: str, two: Instance, tmp_path: Path) -> None:
    """Tests one sentence for each."""
    path = written(tmp_path)
    path.write_text(path.read_text().replace("data=data,", f"data=data, {field}=lambda instance: None,"))
    with pytest.raises(FormulationError, match=f"unexpected keyword argument '{field}'; leave {field} out: "):
        solve(two, str(path))
