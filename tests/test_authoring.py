"""The commands for authors as they meet them: new, check, show, diagnose, export."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highspy
import pyscipopt
import pytest

import modelkit as mk
from modelkit.authoring.diagnose import obstacles
from modelkit.authoring.export import export_model
from modelkit.formulation.loading import FOLDERS_VARIABLE
from modelkit.runtime.resources import bundled

Cli = Callable[..., Any]
TWO = str(bundled("instances") / "two-requests.json")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("extends", [None, "kv-hindsight"])
def test_new_works_as_written(extends: str | None, home: Path, cli: Cli) -> None:
    """Tests that what `new` writes keeps the rules, solves, is shown, and is not written over."""
    said = cli("new", "formulation", "my-own", *(["--extends", extends] if extends else []))
    assert said.out.splitlines() == ["wrote my_own.py", "wrote test_my_own.py", "next: modelkit check my_own.py"]
    found = mk.check("my_own.py", instances=4, rules=("claim", "docstring", "units", "used", "growth"))
    assert [f.rule for f in found if f.status != "ok"] == []
    extra = ["--param", "longest_wait=9"] if extends else []
    assert "optimal" in cli("solve", TWO, "-f", "my_own.py", *extra).out
    assert "started_once" in cli("show", "my_own.py").out
    assert "is there already" in cli("new", "formulation", "my-own", code=2).err


@pytest.mark.slow
@pytest.mark.parametrize("extends", [None, "slot-full-mip"])
def test_the_written_test_passes(extends: str | None, home: Path, cli: Cli) -> None:
    """Tests the test that `new` writes, run by pytest in the folder, for bases of all kinds."""
    cli("new", "formulation", "my-own", *(["--extends", extends] if extends else []))
    made = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(home)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["My_Own"], "cannot name a formulation"),
        (["kv-hindsight"], "there is a formulation 'kv-hindsight' already"),
        (["mine", "--extends", "kv-hindsigth"], "did you mean 'kv-hindsight'"),
    ],
)
def test_new_refuses(arguments: list[str], words: str, home: Path, cli: Cli) -> None:
    """Tests names that cannot be."""
    assert words in cli("new", "formulation", *arguments, code=2).err
    assert not list(home.iterdir())


def test_check_says_one_line_a_rule(home: Path, cli: Cli, edited: Callable[..., Path]) -> None:
    """Tests the screen: one line a rule, what is wrong and what to do below, exit code 5."""
    wrong = edited("misspelt_key", ('"kv_capacity": ', '"kv_capactiy": '))
    said = cli("check", str(wrong), "--instances", "2", code=5)
    lines = said.out.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    assert any(line.startswith("FAILED data ") for line in lines)
    assert "did you mean 'kv_capacity'" in " ".join(said.out.split())
    assert "       do:    names in data() are those of m.NAME in build()" in lines
    assert "1 rule broken, 7 not reached" in lines[-1]


def test_a_broken_file_hides_nothing(home: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that a user's broken file is named where formulations are listed, and the others work."""
    (home / "unclosed.py").write_text("x = (")
    monkeypatch.setenv(FOLDERS_VARIABLE, str(home))
    listed = cli("list", "formulations").out
    assert "BROKEN" in listed
    assert "unclosed.py" in " ".join(listed.split())
    assert "kv-hindsight-flow" in listed
    assert "optimal" in cli("solve", TWO).out
    assert "unclosed.py cannot be loaded: line 1" in cli("show", "unclosed", code=2).err


def test_show_knows_more_than_formulations(cli: Cli, home: Path) -> None:
    """Tests policies, families, formats, files and near misses."""
    assert "smallest predicted volume" in cli("show", "svf").out
    assert "--requests" in cli("show", "kv-synthetic").out
    assert "trace format" in cli("show", "azure").out
    assert "did you mean 'kv-hindsight'" in cli("show", "kv-hindsigth", code=2).err
    cli("show", "kv-batch-cap", "--format", "html", "-o", "cap.html")
    assert "batch_within_cap" in Path("cap.html").read_text(encoding="utf-8")
    assert r"\mathit{batch\_cap}" in cli("show", "kv-batch-cap", "--format", "latex").out


# --- diagnose ----------------------------------------------------------------------------------


def test_requests_that_cannot_fit(two: mk.Instance, home: Path, cli: Cli) -> None:
    """Tests the domain's words, with numbers, where no model is built."""
    small = two.replace(server=mk.Server(kv_capacity_tokens=5))
    mk.save_instance(small, "small.json")
    said = cli("diagnose", "small.json", code=3).out
    assert "request 'long' needs 2 + 4 = 6 tokens in its last round, the server has 5" in " ".join(said.split())
    levels = mk.LinearClock(kind="linear", prefill_levels=((1, 5.0),), decode_base_ms=1.0)
    assert obstacles(two.replace(server=mk.Server(slots=1, clock=levels)))[0].startswith(
        "the prompt of request 'short'"
    )


@pytest.mark.parametrize("solver", ["highs", "scip"])
def test_deadlines_are_explained_first_in_words(solver: str, two: mk.Instance) -> None:
    """Tests deadlines that no request alone could keep, and volume that the server does not have; then the rows."""
    alone = mk.diagnose(two, "kv-deadlines", solver, parameters={"deadline": {"long": 3}})
    assert alone.verdict == "infeasible"
    assert "request 'long' arrives at 0 and needs 4 rounds" in alone.obstacles[0]
    assert alone.conflict is not None
    assert {"started_once", "deadline_kept"} <= {name for name, _, _ in alone.conflict.families}
    volume = mk.diagnose(two, "kv-deadlines", solver, parameters={"deadline": 4})
    assert "hold 25 token-rounds together; from round 1 to 4 the server has 6 x 4 = 24" in volume.obstacles[0]


@pytest.mark.parametrize("solver", ["highs", "scip"])
def test_conflicts_are_named(solver: str, two: mk.Instance) -> None:
    """Tests an instance that no sentence explains: the conflict names constraints, and without one it is gone."""
    found = mk.diagnose(two, "kv-deadlines", solver, parameters={"deadline": {"short": 3, "long": 5}})
    assert (found.verdict, found.obstacles) == ("infeasible", ())
    assert found.conflict is not None
    families = {name: members for name, _, members in found.conflict.families}
    assert "deadline_kept[short]" in families["deadline_kept"]
    assert all(doc for _, doc, _ in found.conflict.families)
    assert (
        mk.diagnose(two, "kv-deadlines", solver, parameters={"deadline": {"short": 6, "long": 5}}).verdict == "feasible"
    )


def test_diagnose_on_the_screen(two: mk.Instance, home: Path, cli: Cli) -> None:
    """Tests lines, width and exit codes."""
    mk.save_instance(two, "two.json")
    said = cli("diagnose", "two.json", "-f", "kv-deadlines", "--param", 'deadline={"short": 3, "long": 5}', code=3).out
    assert "contradict each other" in said
    assert "no request starts too late for its deadline" in said
    assert max(map(len, said.splitlines())) <= 80
    assert "feasible: there is a schedule" in cli("diagnose", "two.json").out


# --- export ------------------------------------------------------------------------------------


def odd() -> mk.Instance:
    """Ids that no format likes, two of which differ only in what it does not like."""
    ids = ("a b", "a_b", "ä:[é]", "a,b", "1e5", "x" * 200)
    rows = tuple(mk.Request(id=i, prompt_tokens=2, output_tokens=2 + n % 3) for n, i in enumerate(ids))
    return mk.Instance(name="odd", server=mk.Server(kv_capacity_tokens=12), requests=rows)


@pytest.mark.parametrize("kind", ["lp", "mps"])
@pytest.mark.parametrize("name", ["kv-hindsight", "kv-hindsight-flow", "kv-makespan"])
def test_exported_models_have_the_same_optimum(name: str, kind: Any, tmp_path: Path) -> None:
    """Tests the round trip: both solvers read the file and find what modelkit finds."""
    instance = odd()
    best = mk.solve(instance, name).objective.value
    text, made_by = export_model(instance, name, kind)
    assert made_by.name == name
    path = tmp_path / f"model.{kind}"
    path.write_text(text)
    assert text.isascii()
    highs = highspy.Highs()
    highs.setOptionValue("log_to_console", False)
    assert highs.readModel(str(path)) == highspy.HighsStatus.kOk
    highs.run()
    assert highs.getInfo().objective_function_value == pytest.approx(best)
    scip = pyscipopt.Model()
    scip.hideOutput()
    scip.readProblem(str(path))
    scip.optimize()
    assert scip.getObjVal() == pytest.approx(best)
    names = [variable.name for variable in scip.getVars()]
    assert len(set(names)) == len(names)
    assert any(each.startswith("start(a_b_") for each in names)


def test_export_writes_where_it_is_told(two: mk.Instance, home: Path, cli: Cli) -> None:
    """Tests default names, standard output and compression."""
    mk.save_instance(two, "two.json")
    assert "wrote two.kv-hindsight.lp" in cli("export", "two.json").out
    streamed = cli("export", "two.json", "--format", "mps", "-o", "-")
    assert streamed.out.splitlines()[3].startswith("NAME")
    cli("export", "two.json", "-f", "kv-batch-cap", "--param", "batch_cap=1", "-o", "two.lp.gz")
    assert Path("two.lp.gz").read_bytes()[:2] == b"\x1f\x8b"
    mk.save_instance(two.replace(server=mk.Server(kv_capacity_tokens=5)), "small.json")
    assert "no schedule exists" in cli("export", "small.json", code=3).err
