"""Faults from outside, at every command: full disks, no memory, odd clocks, missing solvers, Ctrl-C at any moment."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import njit

import modelkit as mk
from modelkit.instance import Instance
from modelkit.io import save_instance
from modelkit.result import Progress
from modelkit.runtime.interrupts import interrupt, interruptible, interrupts_held
from modelkit.sources.families import generate

MODELKIT = [sys.executable, "-m", "modelkit"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an instance that nothing solves in a second, and a study."""
    monkeypatch.chdir(tmp_path)
    save_instance(generate("kv-synthetic", requests=30, seed=1), "a.json")
    save_instance(generate("chat", requests=300, kv_capacity=3000, seed=1), "chats.json")
    save_instance(generate("gsm8k", requests=60, slots=8, seed=1), "slots.json")
    Path("study.toml").write_text(
        'name = "s"\n[[instances]]\nfile = "a.json"\n[[policies]]\nnames = ["mc-sf", "svf"]\n[[bounds]]\n'
        '[[formulations]]\nnames = ["kv-hindsight-flow"]\nlimits = { time_limit = 60 }\n'
    )
    return tmp_path


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MODELKIT, *arguments], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "COLUMNS": "80", **environment},
    )  # fmt: skip


# --- Ctrl-C ------------------------------------------------------------------------------------

COMMANDS = {
    "solve": (["solve", "a.json", "-o", "out.json", "--time-limit", "30"], "out.json", 7.0),
    "solve on scip": (["solve", "a.json", "-s", "scip", "-o", "out.json", "--time-limit", "30"], "out.json", 7.0),
    "bound": (
        ["bound", "chats.json", "-o", "out.json", "--schedule", "best.json", "--time-limit", "30"],
        "out.json",
        7.0,
    ),
    "simulate": (["simulate", "slots.json", "-p", "hybrid", "-o", "out.json"], "out.json", 4.0),
    "generate": (["generate", "service-hour", "-o", "out.json"], "out.json", 2.0),
    "verify": (["verify", "none.json", "-i", "a.json"], "", 1.0),
    "list": (["list", "formulations"], "", 1.5),
    "study": (["study", "run", "study.toml", "--jobs", "2"], "", 8.0),
}


def interrupted(name: str, after: float) -> None:
    """Press Ctrl-C so many seconds after the command began, and look at what it leaves."""
    arguments, output, _ = COMMANDS[name]
    with subprocess.Popen(
        [*MODELKIT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        time.sleep(after)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode in (130, -signal.SIGINT, 0, 2), (after, err)
    assert "unexpected fault" not in err
    if "Traceback" in err:  # Python itself was still starting
        assert "modelkit/" not in err, (after, err)
    assert not [path for path in Path.cwd().iterdir() if path.name.startswith(".")], "a half-written file is left"
    if output and Path(output).exists():
        json.loads(Path(output).read_text())
        if name not in ("generate",):
            checked = run("verify", output, "-i", arguments[1])
            assert checked.returncode == 0, (after, checked.stdout)


@pytest.mark.parametrize("name", ["solve", "bound"])
def test_ctrl_c_at_one_moment(name: str, home: Path) -> None:
    """Tests a moment at which each is at work."""
    interrupted(name, 5.0)
    if name == "bound":
        assert mk.load_result("best.json").stop == "interrupted"


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("importlib._bootstrap", "def cb():\n    meet()"),  # by which an import gives up its lock
        ("numba.anything", "class Owner:\n    def __del__(self):\n        meet()\ndef cb():\n    Owner()"),
        ("llvmlite.binding.ffi", "def cb():\n    meet()"),
    ],
)
def test_ctrl_c_where_python_would_not_stand_it(module: str, code: str) -> None:
    """Tests that Ctrl-C in code whose errors are thrown away, or do harm, is raised behind it, and once."""
    done: list[str] = []

    def meet() -> None:
        interrupt(2, sys._getframe())
        done.append("met")

    namespace: dict[str, Any] = {"__name__": module, "meet": meet}
    exec(compile(code, "there.py", "exec"), namespace)

    def give_up() -> None:
        namespace["cb"]()
        done.append("behind")

    with pytest.raises(KeyboardInterrupt):
        give_up()
    assert done == ["met"]


@pytest.mark.parametrize("way", [["-m", "dataclass_maker"], ["dataclass_maker.py"]])
def test_a_handled_ctrl_c_leaves_the_exit_code(way: list[str], tmp_path: Path) -> None:
    """Tests that ``python -m`` does not end by SIGINT after Ctrl-C in a string that ``exec`` runs."""
    (tmp_path / "dataclass_maker.py").write_text(
        "import signal, sys\nimport modelkit.cli\nfrom modelkit.__main__ import main\n"
        "def command(ending):\n"
        "    try:\n        exec('signal.raise_signal(signal.SIGTERM)')\n        print('gone on')\n"
        "    except KeyboardInterrupt:\n        sys.exit(ending.exit_code)\n"
        "modelkit.cli.main = command\nmain()\n"
    )
    made = subprocess.run([sys.executable, *way], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (made.returncode, made.stdout, made.stderr) == (143, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_at_random_moments(name: str, home: Path) -> None:
    """Tests two moments of each command, from its first import to its last byte."""
    rng = random.Random(name)
    for _ in range(2):
        Path("out.json").unlink(missing_ok=True)
        interrupted(name, rng.uniform(0.02, COMMANDS[name][2]))


def test_interrupts_are_held() -> None:
    """Tests that Ctrl-C waits for the end of the block, that the second does not, and that all is as before then."""
    with interrupts_held() as held:
        signal.raise_signal(signal.SIGINT)
        assert held.pressed
    with interrupts_held():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_ends_compiled_functions_cleanly() -> None:
    """Tests it while one runs that hands over arrays, which numba does by a call of Python code."""

    @njit
    def work(steps: int) -> Any:
        found = np.zeros(100, np.int64)
        for step in range(steps):
            found[step * step % 100] += 1
        return found, found[:50].copy()

    def keep_working() -> None:
        while True:
            work(5_000_000)

    work(1)
    for _ in range(3):
        press = ["sh", "-c", f"sleep 0.5; kill -INT {os.getpid()}"]
        with interruptible(), subprocess.Popen(press), pytest.raises(KeyboardInterrupt):
            keep_working()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("phase", ["prices", "local search"])
def test_a_bound_that_is_interrupted_holds(phase: str) -> None:
    """Tests that Ctrl-C in the search leaves the certificate and the best schedule."""
    instance = generate("chat", requests=200, kv_capacity=2000, seed=3)
    pressed: list[Progress] = []

    def press(news: Progress) -> None:
        if news.phase == phase and not pressed:
            pressed.append(news)
            signal.raise_signal(signal.SIGINT)

    found = mk.bound(instance, time_limit=20, listen=press)
    assert pressed
    assert (found.result.stop, found.result.status) == ("interrupted", "feasible")
    assert mk.verify_result(found.result, instance).holds


def test_a_warm_start_that_is_interrupted_is_kept() -> None:
    """Tests that solve returns the best schedule of the search that Ctrl-C ended."""
    instance = generate("chat", requests=300, kv_capacity=3000, seed=3)

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def listen(news: Progress) -> None:
        if news.phase == "warm start":
            signal.setitimer(signal.ITIMER_REAL, 0.5)

    mk.bound(instance, time_limit=0)  # what is compiled is compiled
    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        result = mk.solve(instance, listen=listen)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert (result.stop, result.status) == ("interrupted", "feasible")
    assert mk.verify_result(result, instance).holds


# --- disks, streams, memory, clocks ------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, nearly full."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    (place / "ballast").write_bytes(b"x" * 60_000)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_full_disk(home: Path, small_disk: Path) -> None:
    """Tests that results go elsewhere, that others say what is wrong, and that no half file is left."""
    made = run("simulate", "chats.json", "-p", "mc-sf", "-o", str(small_disk / "r.json"), TMPDIR=str(home))
    assert made.returncode == 2
    assert "No space left on device" in made.stderr
    assert f"it is kept in {home / 'r.json'}" in made.stderr
    assert mk.load_result(home / "r.json").status == "feasible"
    made = run("generate", "chat", "-o", str(small_disk / "i.json"), TMPDIR=str(home))
    assert (made.returncode, "wrote" in made.stdout) == (2, False)
    assert "error: cannot write " in made.stderr
    assert mk.load(home / "i.json").requests
    made = run("study", "run", "study.toml", "--folder", str(small_disk / "s"), "--jobs", "1", TMPDIR=str(home))
    assert made.returncode == 2, made.stderr
    assert "Traceback" not in made.stderr
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    made = run("generate", "chat", "--requests", "3", "-o", str(small_disk / "i.json"))
    assert (made.returncode, "Read-only file system" in made.stderr) == (2, True)
    assert sorted(path.name for path in small_disk.iterdir() if path.is_file()) == ["ballast"]


@pytest.mark.parametrize(
    ("arguments", "redirection", "words"),
    [
        ("list policies", "> /dev/full", "No space left on device"),
        ("generate chat --requests 2 -o -", "> /dev/full", "cannot write standard output: No space left on device"),
        ("list policies", ">&-", ""),
        ("simulate - -p mc-sf", "<&-", "cannot read standard input: it is closed"),
    ],
)
def test_streams(arguments: str, redirection: str, words: str) -> None:
    """Tests standard streams that are full or closed."""
    command = f"{sys.executable} -m modelkit {arguments} {redirection}"
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    made = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, check=False, env=buffered)
    assert made.returncode == (2 if words else 0), made.stderr
    assert words in made.stderr
    assert "Traceback" not in made.stderr
    assert "Exception ignored" not in made.stderr


def test_no_memory_for_the_model(two: Instance, tmp_path: Path) -> None:
    """Tests that the schedule of the search is kept when the model does not fit into memory."""
    path = tmp_path / "vast.py"
    path.write_text(
        "from modelkit.formulation.formulation import Formulation\n"
        "FORMULATION = Formulation(name='vast', summary='', claim='exact', reference='', problem='kv-hindsight',\n"
        "    extends='kv-hindsight', data=lambda instance: {'x': bytes(2**46)})\n"
    )
    result = mk.solve(two, str(path))
    assert (result.stop, result.objective.value) == ("failed", 8)
    assert result.message == "not enough memory; take a smaller instance or a machine with more"
    assert mk.verify_result(result, two).holds


def test_a_clock_that_goes_backwards(two: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that setting the clock of the wall back changes nothing: limits and durations use another."""
    backwards = itertools.count(2_000_000_000, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(backwards)))
    for result in (mk.solve(two, time_limit=20), mk.bound(two, time_limit=1).result, mk.simulate(two, "mc-sf")):
        assert result.status in ("optimal", "feasible")
        assert all(s is None or s >= 0 for s in result.seconds.model_dump().values())


HIDE = """
import importlib.machinery as machinery
find = machinery.PathFinder.find_spec
def without(name, path=None, target=None):
    return None if name.partition(".")[0] == "pyscipopt" else find(name, path, target)
machinery.PathFinder.find_spec = without
"""


@pytest.mark.slow
def test_without_pyscipopt(home: Path) -> None:
    """Tests that everything but SCIP works without its package, and that it is said what is missing."""
    (home / "hidden").mkdir()
    (home / "hidden" / "sitecustomize.py").write_text(HIDE)
    path = os.pathsep.join(filter(None, [str(home / "hidden"), os.environ.get("PYTHONPATH")]))
    listed = run("list", "solvers", PYTHONPATH=path)
    assert "not available: the Python package pyscipopt is not installed" in " ".join(listed.stdout.split())
    assert "available: highspy" in listed.stdout
    refused = run("solve", "a.json", "-s", "scip", "-o", "r.json", PYTHONPATH=path)
    assert refused.returncode == 4
    assert refused.stderr == (
        "error: solver 'scip' is not available: the Python package pyscipopt is not installed;"
        " pip install pyscipopt, or take another (modelkit list solvers)\n"
    )
    assert run("generate", "kv-synthetic", "--requests", "5", "-o", "five.json", PYTHONPATH=path).returncode == 0
    assert run("solve", "five.json", PYTHONPATH=path).returncode == 0
