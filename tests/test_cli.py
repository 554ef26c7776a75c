"""The command line as a user meets it: what is printed where, what is written, exit codes."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelkit.io import save_instance
from modelkit.runtime.resources import bundled

Cli = Callable[..., Any]

SYNTHETIC = ["generate", "kv-synthetic", "--requests", "5", "--kv-capacity", "20"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "modelkit", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "80", **environment},
        check=False,
    )


def test_solve_verify_and_refuse(home: Path, cli: Cli) -> None:
    """Tests the way of a new user: draw, solve, verify; and that an altered result is refused."""
    cli(*SYNTHETIC, "-o", "a.json")
    solved = run("solve", "a.json")
    assert solved.returncode == 0
    assert "optimal: value and bound agree" in solved.stdout
    assert solved.stderr == ""
    assert max(map(len, solved.stdout.splitlines())) <= 80
    said = cli("verify", "a.kv-hindsight.highs.result.json").out.splitlines()[-1]
    assert said.startswith("a.kv-hindsight.highs.result.json: verified: instance, schedule, metrics,")
    assert "; not checked: bound, optimality, " in said

    result = json.loads(Path("a.kv-hindsight.highs.result.json").read_text())
    result["schedule"]["segments"][-1]["admit"] = []
    Path("forged.json").write_text(json.dumps(result))
    refused = run("verify", "forged.json")
    assert refused.returncode == 5
    assert "WRONG: missing: " in refused.stdout
    assert refused.stdout.splitlines()[-1] == "forged.json: refused"


def test_standard_streams(home: Path, cli: Cli) -> None:
    """Tests that - reads and writes streams, with all words on standard error."""
    drawn = cli(*SYNTHETIC, "-o", "-")
    assert json.loads(drawn.out)["schema"] == "modelkit/instance/1"
    assert "5 requests" in drawn.err
    solved = run("solve", "-", "-s", "scip", "-o", "-", stdin=drawn.out)
    assert solved.returncode == 0
    assert json.loads(solved.stdout)["status"] == "optimal"
    assert "optimal: value and bound agree" in solved.stderr
    Path("i.json").write_text(drawn.out)
    assert run("verify", "-", "--instance", "i.json", stdin=solved.stdout).returncode == 0


def test_simulate_several(home: Path, cli: Cli) -> None:
    """Tests several policies: one result each, in a folder when asked for."""
    cli(*SYNTHETIC, "-o", "a.json")
    cli("simulate", "a.json", "-p", "mc-sf", "-p", "svf")
    assert {p.name for p in home.glob("*.result.json")} == {"a.mc-sf.result.json", "a.svf.result.json"}
    assert cli("simulate", "a.json", "-p", "mc-sf", "-p", "svf", "-o", "out", "-q").out == ""
    assert len(list((home / "out").iterdir())) == 2


def test_results_are_found_by_hash(home: Path, cli: Cli) -> None:
    """Tests that verify finds a shipped instance by its hash, and says so when there is none."""
    shutil.copy(bundled("instances") / "two-requests.json", "elsewhere.json")
    cli("simulate", "elsewhere.json", "-p", "mc-sf", "-q")
    Path("elsewhere.json").unlink()
    cli("verify", "elsewhere.mc-sf.result.json")
    result = json.loads(Path("elsewhere.mc-sf.result.json").read_text())
    result["instance"]["sha256"] = "0" * 64
    Path("lost.result.json").write_text(json.dumps(result))
    assert "name one with --instance" in cli("verify", "lost.result.json", code=2).err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["solve", "nothing.json"], 2, "error: cannot read nothing.json: No such file or directory"),
        (["solve", "bad.json"], 2, "error: bad.json: 1 fault\n  $.requests[0].output_tokens: is missing"),
        (["solve", "a.json", "-f", "kv-hindsigt"], 2, "did you mean 'kv-hindsight'"),
        (["solve", "a.json", "-s", "hihgs"], 2, "did you mean 'highs'"),
        (["solve", "a.json", "-s", "cplex"], 4, "solver 'cplex' is not available"),
        (["solve", "a.json", "--option", "mip_rel_gab=1"], 2, "did you mean 'mip_rel_gap'"),
        (["solve", "a.json", "--option", "rubbish"], 2, "--option takes KEY=VALUE, found 'rubbish'"),
        (["solve", "a.json", "--time-limit", "-1"], 2, "Invalid value for '--time-limit'"),
        (["solve", "a.json", "--warm-start", "mcsf"], 2, "did you mean 'mc-sf'"),
        (["simulate", "a.json", "-p", "mc-fs"], 2, "did you mean 'mc-sf'"),
        (["simulate", "a.json"], 2, "Missing option '--policy'"),
        (["simulate", "small.json", "-p", "mc-sf"], 3, "the server holds 5 tokens"),
        (["verify", "a.json"], 2, "$.schema: found 'modelkit/instance/1'; allowed: 'modelkit/result/1'"),
        (["generate", "chat", "--requests", "0", "--rate", "-1"], 2, "--requests: found 0; allowed: 1 or more"),
        (["generate", "chatt"], 2, "No such command 'chatt'"),
        (["import", "azure", "bad.json"], 2, "line 1: it is JSON; allowed: a CSV table with TIMESTAMP"),
        (["frobnicate"], 2, "No such command 'frobnicate'"),
        (["list", "wishes"], 2, "'wishes' is not one of"),
    ],
)
def test_mistakes(arguments: list[str], code: int, words: str, home: Path, cli: Cli) -> None:
    """Tests exit code and message of the usual mistakes; never a traceback, nothing on standard output."""
    cli(*SYNTHETIC, "-q", "-o", "a.json")
    request = {"id": "x", "prompt_tokens": 3}
    base = {"schema": "modelkit/instance/1", "server": {"kv_capacity_tokens": 5}}
    Path("bad.json").write_text(json.dumps({**base, "requests": [request]}))
    Path("small.json").write_text(json.dumps({**base, "requests": [{**request, "output_tokens": 3}]}))
    made = cli(*arguments, code=code)
    assert words in made.err
    assert "Traceback" not in made.err
    assert made.out == ""


def test_infeasible(home: Path, cli: Cli) -> None:
    """Tests that an infeasible instance writes a result, says why, and exits with 3."""
    document = {
        "schema": "modelkit/instance/1",
        "server": {"kv_capacity_tokens": 5},
        "requests": [{"prompt_tokens": 3, "output_tokens": 3}],
    }
    Path("small.json").write_text(json.dumps(document))
    made = cli("solve", "small.json", code=3)
    assert "request 'r1' needs 3 + 3 = 6 tokens" in " ".join(made.out.split())
    assert json.loads(Path("small.kv-hindsight.highs.result.json").read_text())["status"] == "infeasible"


#: A variant, of which no schedule is known that no solver found.
WEIGHTED = ("-f", "kv-weighted-latency", "-P", "weight=1")


def test_no_schedule(home: Path, cli: Cli) -> None:
    """Tests that a limit with nothing to show exits with 4 and still writes the result."""
    cli("generate", "kv-synthetic", "--requests", "20", "-o", "a.json")
    cli("solve", "a.json", "--time-limit", "0.01", "--warm-start", "none", "-o", "r.json", *WEIGHTED, code=4)
    assert json.loads(Path("r.json").read_text())["status"] == "no_schedule"


def test_a_result_that_cannot_be_written_is_refused(home: Path, cli: Cli) -> None:
    """Tests that nothing is solved for a file that nobody can write."""
    cli(*SYNTHETIC, "-o", "a.json")
    said = cli("solve", "a.json", "-o", "no/such/folder/r.json", code=2).err
    assert "cannot write no/such/folder/r.json: No such file or directory" in said
    assert "nothing was begun" in said


@pytest.mark.parametrize("kind", ["formulations", "policies", "solvers", "families", "formats"])
def test_lists(kind: str, cli: Cli) -> None:
    """Tests that every registry is listed within 80 columns."""
    listed = cli("list", kind).out
    expected = {
        "formulations": "kv-hindsight-flow",
        "policies": "mc-sf",
        "solvers": "cplex",
        "families": "kv-synthetic",
        "formats": "azure",
    }[kind]
    assert expected in listed
    assert max(map(len, listed.splitlines())) <= 80


def test_broken_formulations_are_listed_with_their_fault(home: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that the list shows a user's broken file beside the good ones."""
    (home / "mine.py").write_text("x = (")
    monkeypatch.setenv("MODELKIT_FORMULATIONS", str(home))
    listed = cli("list", "formulations").out
    assert "BROKEN" in listed
    assert "kv-hindsight-flow" in listed


def test_versions(cli: Cli) -> None:
    """Tests that everything a bug report needs is named."""
    assert {line.split()[0] for line in cli("versions").out.splitlines()} >= {"modelkit", "python", "pyomo", "highspy"}


def test_interrupt_writes_the_best_schedule(home: Path) -> None:
    """Tests that Ctrl-C writes what was found and exits with 130."""
    run("generate", "kv-synthetic", "--requests", "30", "-o", "a.json")
    status = ""
    for patience in (2.5, 6, 15, 40):  # a busy machine takes longer until it has a schedule
        with subprocess.Popen(
            [sys.executable, "-m", "modelkit", "solve", "a.json", "-o", "r.json", "--time-limit", "60"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            time.sleep(patience)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the solver process hears it too
            out, err = process.communicate(timeout=120)
        assert process.returncode in (130, -signal.SIGINT), err
        if Path("r.json").exists():
            assert "interrupted" in out
            status = json.loads(Path("r.json").read_text())["status"]
        if status == "feasible":
            break
    assert status == "feasible"
    assert run("verify", "r.json").returncode == 0


@pytest.mark.slow
def test_progress_on_a_terminal(home: Path) -> None:
    """Tests that phases and bounds appear on standard error when that is a terminal, and only then."""
    run("generate", "kv-synthetic", "--requests", "9", "--kv-capacity", "30", "-o", "a.json")
    for limit in ("8", "60"):  # a busy machine takes longer until it has anything to tell
        text = shown_on_a_terminal("solve", "a.json", "-s", "highs", "--time-limit", limit, "-o", "r.json")
        if "solving with highs" in text and "gap" in text:
            break
    assert "solving with highs" in text
    assert "incumbent" in text
    assert "gap" in text


def shown_on_a_terminal(*arguments: str) -> str:
    """What a command draws on standard error when that is a terminal."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "modelkit", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=slave,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        os.close(slave)
        shown = b""
        while select.select([master], [], [], 60)[0]:
            try:
                shown += os.read(master, 4096)
            except OSError:
                break
        process.wait(timeout=60)
    os.close(master)
    return shown.decode(errors="replace")


def test_debug_shows_the_traceback(home: Path, cli: Cli) -> None:
    """Tests that --debug adds where an error was raised."""
    assert "Traceback" in cli("solve", "nothing.json", "--debug", code=2).err


def test_hostile_instance_files_never_give_a_traceback(home: Path, two: Any, cli: Cli) -> None:
    """Tests a damaged copy of a good file, cut off at many places."""
    save_instance(two, "a.json.gz")
    raw = Path("a.json.gz").read_bytes()
    for cut in (1, 10, len(raw) // 2, len(raw) - 1):
        Path("cut.json.gz").write_bytes(raw[:cut])
        said = cli("simulate", "cut.json.gz", "-p", "mc-sf", code=2).err
        assert said.startswith("error: cut.json.gz: 1 fault")
