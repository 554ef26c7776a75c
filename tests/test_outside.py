"""The world outside a command: files that cannot be written, signals, closed streams, terminals of 80 columns."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import modelkit as mk
from modelkit.cli import main, saving
from modelkit.cli.live import Line
from modelkit.cli.saving import keeping
from modelkit.errors import InputError, UnwritableError
from modelkit.formulation.loading import formulation_files
from modelkit.io import check_writable, save_instance, write_text
from modelkit.result import Progress
from modelkit.runtime.interrupts import Ending, interruptible, interrupts_held, taken
from modelkit.sources.families import generate
from modelkit.text import file_name

MODELKIT = [sys.executable, "-m", "modelkit"]
Cli = Callable[..., Any]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small instance and the result of a policy."""
    monkeypatch.chdir(tmp_path)
    save_instance(generate("kv-synthetic", requests=5, kv_capacity=20, seed=1), "a.json")
    mk.io.save_result(mk.simulate(mk.load("a.json"), "mc-sf"), "a.result.json")
    Path("timings.csv").write_text("phase,batch_size,prompt_tokens,kv_tokens,iteration_ms\n")
    Path("s.toml").write_text('name = "s"\n[[instances]]\nfile = "a.json"\n[[policies]]\nnames = ["mc-sf"]\n')
    return tmp_path


# --- what cannot be written is refused before the work ------------------------------------------

#: Commands without their output, and a function that each would call for its work.
WRITERS = {
    "solve": (["solve", "a.json", "-o"], "modelkit.solving.solve"),
    "solve's page": (["solve", "a.json", "--report"], "modelkit.solving.solve"),
    "simulate": (["simulate", "a.json", "-p", "mc-sf", "-o"], "modelkit.simulation.simulate.simulate"),
    "bound": (["bound", "a.json", "-o"], "modelkit.solving.bound.bound"),
    "bound's schedule": (["bound", "a.json", "--schedule"], "modelkit.solving.bound.bound"),
    "import": (["import", "azure", "a.csv", "-o"], "modelkit.sources.traces.import_trace"),
    "generate": (["generate", "chat", "-o"], "modelkit.sources.families.generate"),
    "calibrate": (["calibrate", "timings.csv", "-o"], "modelkit.sources.calibrate.calibrate"),
    "compare's page": (["compare", "a.json", "--report"], "modelkit.experiments.compare.compare"),
    "report": (["report", "a.result.json", "-o"], "modelkit.reporting.render.report"),
    "export": (["export", "a.json", "-o"], "modelkit.authoring.export.export_model"),
    "show": (["show", "kv-hindsight", "-o"], "modelkit.authoring.show.mathematics"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_refused_before_the_work(name: str, home: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests a missing folder, a folder for a file and a name that is too long, at every command that writes."""
    arguments, work = WRITERS[name]

    def worked(*arguments: object, **options: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(mk, work.rpartition(".")[2], worked, raising=False)  # first: it looks the other one up
    module, _, function = work.rpartition(".")
    monkeypatch.setattr(importlib.import_module(module), function, worked)
    (home / "folder").mkdir()
    for path, words in (
        ("no/such/r", "No such file or directory"), ("folder", "it is a folder"), ("n" * 500, "File name too long")
    ):  # fmt: skip
        if (name, path) == ("simulate", "folder"):
            continue  # the result goes into it
        said = cli(*arguments, path, code=2)
        assert said.err.startswith("error: ")
        assert words in said.err
        assert "nothing was begun" in said.err
        assert len(said.err) < 400
    assert not [path for path in home.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["solve", "a.json", "-o", "./a.json"], "this file is read"),
        (["report", "a.result.json", "-o", "a.result.json"], "this file is read"),
        (["solve", "a.json", "-o", "r", "--report", "./r"], "--output and --report name the same file"),
        (["solve", "a.json", "-o", "-", "--report", "-"], "--output and --report name the same file"),
        (["bound", "a.json", "-o", "r", "--schedule", "r"], "--output and --schedule name the same file"),
        (["simulate", "a.json", "-p", "mc-sf", "-p", "svf", "-o", "a.json"], "a.json is a file; name a folder"),
    ],
)
def test_files_that_meet(arguments: list[str], words: str, home: Path, cli: Cli) -> None:
    """Tests that no output destroys an input or another output."""
    before = Path("a.json").read_bytes()
    assert words in cli(*arguments, code=2).err
    assert Path("a.json").read_bytes() == before


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that a file which its owner protects is not replaced."""
    path = tmp_path / "r.json"
    path.write_text("old")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UnwritableError, match="Permission denied"):
        check_writable(path)


def test_simulate_writes_into_a_folder(home: Path, cli: Cli) -> None:
    """Tests a folder that is there, and one that ends in a slash, with one policy."""
    (home / "there").mkdir()
    cli("simulate", "a.json", "-p", "mc-sf", "-o", "there")
    cli("simulate", "a.json", "-p", "mc-sf", "-o", "new/")
    assert [p.name for d in ("there", "new") for p in (home / d).iterdir()] == ["a.mc-sf.result.json"] * 2


def test_long_names(home: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests names of 500 letters, of four bytes each too: the file is named shorter, and two stay two."""
    for letter in "x𝔵":
        names = {file_name(letter * 500 + end, ending="result.json") for end in "ab"}
        assert len(names) == 2
        assert all(len(os.fsencode(name)) <= 200 and name.endswith(".result.json") for name in names)
    document = {**json.loads(Path("a.json").read_text()), "name": "n" * 500}
    Path("long.json").write_text(json.dumps(document))
    with Path("long.json").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        said = cli("simulate", "-", "-p", "mc-sf")
    assert len(list(home.glob("nnn*.result.json"))) == 1
    assert max(map(len, said.out.splitlines()[:-1])) <= 80


def test_what_fails_late_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that files which cannot be written after the work go to the temporary folder, each, and that it is said."""
    monkeypatch.setattr(saving.tempfile, "gettempdir", lambda: str(tmp_path))

    def write_both() -> None:
        with keeping() as keep:
            keep(lambda path: write_text(path, "1"), "no/such/certificate.json")
            keep(lambda path: write_text(path, "2"), "no/such/schedule.json")

    with pytest.raises(UnwritableError) as caught:
        write_both()
    assert [(tmp_path / name).read_text() for name in ("certificate.json", "schedule.json")] == ["1", "2"]
    assert str(caught.value).count("it is kept in") == 2


def test_bound_keeps_what_the_disk_refuses(home: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests the command whose work was lost."""
    monkeypatch.setattr("modelkit.io.check_writable", lambda path: None)
    monkeypatch.setattr(saving.tempfile, "gettempdir", lambda: str(home))
    said = cli("bound", "a.json", "-o", "no/c.json", "--schedule", "no/s.json", "--time-limit", "0.5", code=2)
    assert "it is kept in" in said.err
    assert mk.load_certificate("c.json").value <= mk.load_result("s.json").objective.value


# --- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["nan", "-inf", "-1", "1e400", "x"])
@pytest.mark.parametrize("command", [["solve"], ["bound"], ["compare"], ["diagnose"]])
def test_time_limits_that_are_none(command: list[str], value: str, home: Path, cli: Cli) -> None:
    said = cli(*command, "a.json", f"--time-limit={value}", code=2)
    assert f"found '{value}'; allowed: 0 to 30,000,000,000 seconds, or inf for no limit" in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["solve", "a.json", "--gap", "nan"],
        ["bound", "a.json", "--gap", "1"],
        ["generate", "chat", "--rate", "nan"],
        ["generate", "chat", "--rate", "inf"],
        ["import", "azure", "a.csv", "--round-ms", "nan"],
        ["simulate", "a.json", "-p", "mc-sf", "--slots-at", "nan=3"],
        ["simulate", "a.json", "-p", "mc-sf:alpha=nan"],
    ],
)
def test_numbers_that_are_none(arguments: list[str], home: Path, cli: Cli) -> None:
    assert "found" in cli(*arguments, code=2).err


# --- signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_signals_keep_the_best(
    number: int, code: int, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tests that each signal, in the middle of the search, leaves certificate and schedule, and its exit code."""
    save_instance(generate("chat", requests=200, kv_capacity=2000, seed=3), "c.json")
    sent: list[Progress] = []

    def hear(line: Line, news: Progress) -> None:
        if news.phase == "local search" and not sent:
            sent.append(news)
            signal.raise_signal(number)

    monkeypatch.setattr(Line, "hear", hear)
    monkeypatch.setattr(sys, "argv", ["modelkit", "bound", "c.json", "-o", "c.cert.json", "--schedule", "s.json"])
    usual = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    ending = Ending()
    try:
        taken(ending)
        with pytest.raises(SystemExit) as ended:
            main(ending)
    finally:
        for n, handler in usual.items():
            signal.signal(n, handler)
    assert sent
    assert ended.value.code == code
    result = mk.load_result("s.json")
    assert result.stop == "interrupted"
    assert mk.verify_result(result, mk.load("c.json")).holds
    said = capsys.readouterr().err
    assert ("interrupted" if code == 130 else signal.Signals(number).name) in said


def test_ignored_signals_stay_ignored() -> None:
    """Tests nohup: what is ignored when the command begins stays so."""
    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    others = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert signal.SIGHUP not in taken(Ending())
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, usual)
        for n, handler in others.items():
            signal.signal(n, handler)


def test_all_signals_are_held_and_the_second_is_not() -> None:
    usual = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    ending = Ending()
    try:
        taken(ending)
        with interruptible(), interrupts_held() as held:
            signal.raise_signal(signal.SIGTERM)
            assert (held.pressed, ending.exit_code) == (True, 143)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGHUP)
        assert ending.exit_code == 143
        assert signal.getsignal(signal.SIGTERM) is ending
    finally:
        for n, handler in usual.items():
            signal.signal(n, handler)


def group_lives(group: int) -> bool:
    """Whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_at_many_moments(number: int, home: Path) -> None:
    """Tests that no moment leaves half a file or a process."""
    save_instance(generate("kv-synthetic", requests=30, seed=1), "k.json")
    for after in (0.3, 1.0, 2.5, 5.0):
        Path("r.json").unlink(missing_ok=True)
        with subprocess.Popen(
            [*MODELKIT, "solve", "k.json", "-s", "highs", "-o", "r.json", "--time-limit", "60"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            time.sleep(after)
            os.killpg(process.pid, number)  # as a service manager does: all processes of the group
            _, err = process.communicate(timeout=120)
        assert process.returncode in (-number, 128 + number), err
        assert "Traceback" not in err
        assert not [path for path in home.iterdir() if path.name.startswith(".")]
        if Path("r.json").exists():
            assert mk.load_result("r.json").stop == "interrupted"
        deadline = time.monotonic() + 60  # soon, but a busy machine takes its time
        while group_lives(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not group_lives(process.pid)


# --- streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "streams",
    ["<&- >&- 2>&-", "2>/dev/full", "2>&1 | true",
     *(pytest.param(s, marks=pytest.mark.slow) for s in ("2>&-", ">&-", "| true"))],
)  # fmt: skip
def test_no_stream_loses_a_file(streams: str, home: Path) -> None:
    """Tests closed streams and readers that stop reading: all files are written, and nothing is called a fault."""
    command = " ".join([*MODELKIT, "simulate a.json -p mc-sf -p svf -o out --report page.html"])
    made = subprocess.run(
        ["bash", "-c", f"{command} {streams}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    assert len(list((home / "out").glob("*.result.json"))) == 2
    assert Path("page.html").stat().st_size > 1000
    assert "Traceback" not in made.stderr
    assert "Exception ignored" not in made.stderr


@pytest.mark.parametrize(
    "around", ["COLUMNS=0 {} >&-", *(pytest.param(s, marks=pytest.mark.slow) for s in ("{} >&-", "COLUMNS=wide {}"))]
)
def test_tables_need_no_terminal(around: str, home: Path) -> None:
    """Tests that the table of a comparison stands neither a closed stream nor an odd width in the way."""
    command = around.format(" ".join([*MODELKIT, "compare a.json -p svf -f none --no-bound -j 1"]))
    made = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert (home / "compare" / "report.html").exists()


# --- terminals ----------------------------------------------------------------------------------


def seen_on_terminal(arguments: list[str], seconds: float = 60) -> str:
    """What a command draws on standard error when that is a terminal."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [*MODELKIT, *arguments], stdout=subprocess.DEVNULL, stderr=slave,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    ) as process:  # fmt: skip
        os.close(slave)
        shown = b""
        while select.select([master], [], [], seconds)[0]:
            try:
                shown += os.read(master, 4096)
            except OSError:
                break
        process.wait(timeout=seconds)
    os.close(master)
    return shown.decode(errors="replace")


def test_the_clock_ticks(home: Path) -> None:
    """Tests that each second of a solver that tells nothing is shown."""
    save_instance(generate("kv-synthetic", requests=30, seed=1), "k.json")
    text = seen_on_terminal(["solve", "k.json", "-s", "highs", "--warm-start", "none", "--time-limit", "4", "-o", "r"])
    seconds = [int(s) for s in re.findall(r"[|/\\-] .*? (\d+) s", text)]
    assert seconds[0] <= 2
    assert max(b - a for a, b in itertools.pairwise(seconds)) <= 2  # a busy machine may skip one
    assert max(seconds) >= 4


@pytest.mark.slow
def test_check_shows_what_it_does(home: Path) -> None:
    """Tests a command that was silent."""
    text = seen_on_terminal(["check", "kv-hindsight", "--instances", "1"])
    assert re.search(r"[|/\\-] checking kv-hindsight \d+ s", text)


def test_the_line_is_cut_at_the_width() -> None:
    line = Line("phase")
    line.hear(Progress("solving with highs", 0.0, 123456.0, 1.0))
    drawn = line.drawn()
    assert drawn.no_wrap
    assert "solving with highs 0 s · incumbent 123,456 · bound 1 · gap 100.00%" in drawn.plain


@pytest.mark.parametrize(
    "arguments",
    [
        ["solve", "a.json"],
        ["bound", "a.json", "--time-limit", "0.5"],
        ["simulate", "a.json", "-p", "alpha-beta-clearing", "-p", "a-max"],
        ["diagnose", "a.json"],
        ["export", "a.json"],
        ["generate", "chat", "--requests", "50"],
        ["generate", "chat", "--requests", "50", "--kv-capacity", "500"],
        ["list", "policies"],
        ["list", "servers"],
        ["study", "list"],
        ["show", "mc-sf"],
        ["versions"],
    ],
    ids=" ".join,
)
def test_eighty_columns(arguments: list[str], home: Path, cli: Cli) -> None:
    """Tests what commands say; a path or a file's name may be longer."""
    said = cli(*arguments)
    lines = [line for line in (said.out + said.err).splitlines() if not line.startswith("  wrote ")]
    assert max(map(len, lines)) <= 80, [line for line in lines if len(line) > 80]


# --- what is said -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["slove", "a.json"], "No such command 'slove'; did you mean 'solve'?"),
        (["generate", "chatt"], "No such command 'chatt'; did you mean 'chat'?"),
        (["solve", "a.json", "--tme-limit", "3"], "No such option"),
        (["solve"], "Missing argument 'INSTANCE'"),
        (["solve", "nothing.json"], "cannot read nothing.json"),
    ],
)
def test_one_style_of_errors(arguments: list[str], words: str, home: Path, cli: Cli) -> None:
    said = cli(*arguments, code=2)
    assert said.err.startswith("error: ")
    assert words in said.err
    assert "Usage:" not in said.err
    assert "\t" not in said.err


def test_help_names_the_codes_that_a_command_returns(cli: Cli) -> None:
    """Tests that verify knows no infeasibility, solve no refusal of a file, and that signals stand there."""
    verify, solve = (" ".join(cli(name, "--help").out.split()) for name in ("verify", "solve"))
    assert "5 refused" in verify
    assert "proven infeasible" not in verify
    assert "3 proven infeasible" in solve
    assert "; 5 " not in solve
    assert "143 by SIGTERM, 129 by SIGHUP" in solve


def test_no_solver_is_explained_by_its_own_list(cli: Cli) -> None:
    assert "modelkit list solvers" not in cli("list", "solvers").out


def test_tests_are_no_formulations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    """Tests the folder that ``modelkit new`` leaves."""
    cli("new", "formulation", "kv-mine", "-o", str(tmp_path))
    (tmp_path / "conftest.py").touch()
    monkeypatch.setenv("MODELKIT_FORMULATIONS", str(tmp_path))
    assert (tmp_path / "test_kv_mine.py").exists()
    assert formulation_files().keys() - {"kv-mine"} == formulation_files().keys() ^ {"kv-mine"}
    assert "BROKEN" not in cli("list", "formulations").out


def test_unknown_extra_keys_do_not_stop_solve(home: Path, cli: Cli) -> None:
    """Tests a key that nobody knows, which is named and passed over, and one that is nearly a parameter."""
    document = json.loads(Path("a.json").read_text())
    Path("b.json").write_text(json.dumps({**document, "extra": {"provenance": "a cluster"}}))
    said = cli("solve", "b.json")
    assert "note: extra.provenance is not used" in said.err
    Path("c.json").write_text(json.dumps({**document, "extra": {"batch_capp": 2, "provenance": 1}}))
    with pytest.raises(InputError) as caught:
        mk.solve(mk.load("c.json"))
    assert [fault.path for fault in caught.value.faults] == ["$.extra.batch_capp"]
    assert "did you mean 'batch_cap'?" in str(caught.value)
