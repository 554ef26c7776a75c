"""Runs in processes of their own: the same results as direct calls, and no failure that takes another run with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import modelkit as mk
from modelkit.errors import UsageError
from modelkit.experiments.run import Run, perform, plan_run
from modelkit.experiments.workers import _Worker, run_all
from modelkit.instance import Instance
from modelkit.result import Result

BROKEN = '''"""Ends badly."""
import os, signal, time
from modelkit import Formulation

def build(m):
    {body}

FORMULATION = Formulation(
    name="broken", summary="ends badly", claim="exact", reference="none", build=build,
    data=lambda instance: {{}}, objective="total_latency",
)
'''


@pytest.fixture
def saved(two: Instance, tmp_path: Path) -> Path:
    """The instance of two requests as a file."""
    mk.save_instance(two, tmp_path / "two.json")
    return tmp_path / "two.json"


def broken(saved: Path, two: Instance, body: str, **settings: Any) -> Run:
    """A run whose formulation does ``body`` when its model is built."""
    path = saved.parent / body.split("(")[0].replace(".", "_").replace(" ", "_") / "broken.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(BROKEN.format(body=body))
    parameters = {"warm_start": "none"}
    return plan_run(two, saved, "formulation", str(path), solver="highs", parameters=parameters, **settings)


def results(runs: list[Run], folder: Path, jobs: int = 2) -> list[Result]:
    """Results of the runs, in the order of ``runs``, read from what was written."""
    tasks = [(run, folder / f"{i}.result.json") for i, run in enumerate(runs)]
    finished = list(run_all(tasks, jobs=jobs))
    assert sorted(f.path for f in finished) == sorted(path for _, path in tasks)
    return [mk.load_result(path) for _, path in tasks]


@pytest.mark.slow
def test_runs_give_what_direct_calls_give(two: Instance, saved: Path) -> None:
    """Tests a formulation, a policy and the bound against the functions themselves."""
    runs = [
        plan_run(two, saved, "formulation", "kv-hindsight", solver="scip", parameters={"warm_start": "none"}),
        plan_run(two, saved, "policy", "mc-sf", seed=3),
        plan_run(two, saved, "bound", "bound", time_limit=0.5),
    ]
    solved, simulated, bounded = results(runs, saved.parent)
    assert (solved.status, solved.producer.solver, solved.start.policy) == ("optimal", "scip", None)
    direct = mk.simulate(two, "mc-sf", seed=3)
    assert simulated.model_copy(update={"seconds": direct.seconds}) == direct
    assert bounded.certificate is not None
    assert mk.verify_certificate(bounded.certificate, two).holds
    assert bounded.objective.value == mk.bound(two, time_limit=0.5).result.objective.value


def test_a_run_that_fails_takes_no_other_with_it(two: Instance, saved: Path) -> None:
    """Tests crashes, faults, limits and a changed file: each is a result in words, and the rest runs."""
    other = two.replace(name="other")
    runs = [
        broken(saved, two, "os.kill(os.getpid(), signal.SIGSEGV)"),
        plan_run(two, saved, "policy", "mc-sf"),
        broken(saved, two, "raise RuntimeError('on purpose')"),
        broken(saved, two, "time.sleep(60)", kill_after=1.0),
        broken(saved, two, "m.eaten = bytes(64 * 2**30)", memory_mb=32768),
        plan_run(other, saved, "policy", "mc-sf"),
        plan_run(two, saved, "formulation", "no-such", solver="highs"),
        plan_run(two, saved, "policy", "svf"),
    ]
    crashed, sound, raised, late, greedy, changed, unknown, last = results(runs, saved.parent)
    assert (sound.status, last.status) == ("feasible", "feasible")
    for result, stop, words in (
        (crashed, "failed", "build() ended its interpreter, which crashed with signal 11"),
        (raised, "failed", "on purpose"),
        (late, "time_limit", "ended after 1 s"),
        (greedy, "failed", "not enough memory: the limit is 32,768 MiB; raise it, or take a smaller instance"),
        (changed, "failed", "holds another instance"),
        (unknown, "failed", "unknown formulation 'no-such'"),
    ):
        assert (result.status, result.stop) == ("no_schedule", stop), result.message
        assert words in result.message
        assert result.schedule is None
        assert result.objective.value is None


def test_infeasible_and_parameters(two: Instance, tmp_path: Path) -> None:
    """Tests that infeasibility is told as such and misspelt parameters before anything runs."""
    tight = two.replace(server=two.server.model_copy(update={"kv_capacity_tokens": 3}))
    mk.save_instance(tight, tmp_path / "tight.json")
    for run in (
        plan_run(tight, tmp_path / "tight.json", "policy", "mc-sf"),
        plan_run(tight, tmp_path / "tight.json", "formulation", "kv-hindsight", solver="highs"),
    ):
        assert perform(run).status == "infeasible"
    with pytest.raises(UsageError, match="did you mean 'warm_start'"):
        plan_run(two, "two.json", "formulation", "kv-hindsight", parameters={"warmstart": "none"})


def test_keys_say_what_decides_the_result(two: Instance) -> None:
    """Tests that the key depends on everything but the file's place, and that runs survive JSON."""
    run = plan_run(two, "a.json", "policy", "mc-sf")
    assert run.key == plan_run(two, "b.json", "policy", "mc-sf").key
    others = [
        plan_run(two, "a.json", "policy", "svf"),
        plan_run(two, "a.json", "policy", "mc-sf", seed=1),
        plan_run(two.replace(name="x"), "a.json", "policy", "mc-sf"),
    ]
    assert len({run.key, *(other.key for other in others)}) == 4
    assert Run.model_validate_json(run.model_dump_json()) == run


def test_interrupted_runs_write_what_they_have(two: Instance, saved: Path) -> None:
    """Tests Ctrl-C on the parent: the run in progress is recorded as interrupted, and no process is left."""
    slow = broken(saved, two, "open('child', 'w').write(str(os.getpid())); time.sleep(60)")
    script = saved.parent / "script.py"
    script.write_text(
        "import sys; from pathlib import Path\n"
        "from modelkit.experiments.run import Run; from modelkit.experiments.workers import run_all\n"
        f"run = Run.model_validate_json({slow.model_dump_json()!r})\n"
        "list(run_all([(run, Path('slow.result.json')), (run, Path('never.result.json'))], jobs=1))\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], cwd=saved.parent, stderr=subprocess.PIPE)
    note = saved.parent / "child"
    while not (note.exists() and note.read_text()):
        assert parent.poll() is None
        time.sleep(0.02)
    child = int(note.read_text())
    parent.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in parent.communicate(timeout=30)[1]
    assert mk.load_result(saved.parent / "slow.result.json").stop == "interrupted"
    assert not (saved.parent / "never.result.json").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_killed_parent_leaves_no_run_behind(two: Instance, saved: Path) -> None:
    """Tests that runs end when the process that wanted them is killed."""
    slow = broken(saved, two, "open('child', 'w').write(str(os.getpid())); time.sleep(60)")
    code = (
        "from pathlib import Path; from modelkit.experiments.run import Run;"
        "from modelkit.experiments.workers import run_all;"
        f"list(run_all([(Run.model_validate_json({slow.model_dump_json()!r}), Path('x.result.json'))]))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=saved.parent)
    note = saved.parent / "child"
    while not (note.exists() and note.read_text()):
        assert parent.poll() is None
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    for _ in range(250):
        try:
            os.kill(int(note.read_text()), 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    pytest.fail("the run is still there after 5 s")


def test_a_stop_that_comes_with_the_run_is_heard(two: Instance, saved: Path) -> None:
    """Tests that a run that is asked to stop before its process can hear it ends at once, not when timeout does."""
    worker = _Worker("1")
    worker.timeout = 50.0
    began = time.monotonic()
    try:
        done = worker.do(broken(saved, two, "time.sleep(60)"), saved.parent / "slow.result.json")
    finally:
        worker.end()
    assert done.result.stop == "interrupted"
    assert time.monotonic() - began < 40
