"""Comparisons as a user meets them: the matrix, what is printed, what lies in the folder, exit codes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import modelkit as mk
from modelkit.cli import main
from modelkit.errors import UsageError
from modelkit.instance import Instance, LinearClock, Server
from modelkit.io.lookup import Instances
from modelkit.policies import REGISTRY, policy
from modelkit.policies.lookahead import McSf
from modelkit.reporting.evidence import ReadFile
from modelkit.reporting.gathering import cases
from modelkit.result import Producer
from modelkit.sources.families import generate

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two: Instance) -> Path:
    """A folder to work in, with the instance of two requests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    mk.save_instance(two, "two.json")
    return tmp_path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process: (exit code, standard output, standard error)."""

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["modelkit", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code
        assert isinstance(code, int)
        return code, *capfd.readouterr()

    return command


def test_compare(home: Path, run: Run) -> None:
    """Tests the whole command: each run a result that verifies, a table of 80 columns, the report."""
    code, stdout, stderr = run("compare", "two.json", "-f", "kv-hindsight", "-s", "highs", "-s", "scip", "-p", "mc-sf",
               "-p", "mc-benchmark", "--time-limit", "0.5", "-o", "out", "--jobs", "2")  # fmt: skip
    assert (code, stderr) == (0, "")
    assert max(map(len, stdout.splitlines())) <= 80
    assert "total latency" in stdout
    assert "mc-benchmark is optimal" in stdout
    files = sorted(path.name for path in Path("out").iterdir())
    assert files == [
        "report.html", "two.bound.result.json", "two.json", "two.kv-hindsight.highs.result.json",
        "two.kv-hindsight.scip.result.json", "two.mc-benchmark.result.json", "two.mc-sf.result.json",
    ]  # fmt: skip
    for name in files[3:]:
        assert run("verify", f"out/{name}")[0] == 0
    result = mk.load_result("out/two.mc-sf.result.json")
    assert result.producer.command is not None
    assert result.producer.command.startswith("modelkit compare two.json -f kv-hindsight")
    page = Path("out/report.html").read_text()
    assert "modelkit compare two.json -f kv-hindsight" in page
    assert run("report", "out", "-o", "again.html")[0] == 0
    assert Path("again.html").read_text() == page


def test_failures_hinder_no_other(home: Path, run: Run) -> None:
    """Tests that a run which cannot be done is shown in words, and the exit code is that of the rest."""
    Path("broken.py").write_text(
        '"""Broken."""\nfrom modelkit import Formulation\n'
        "def build(m):\n    raise RuntimeError('on purpose')\n"
        "FORMULATION = Formulation(name='broken', summary='s', claim='exact', reference='r', objective='total_latency',"
        " build=build, data=lambda i: {})\n"
    )
    code, stdout, _ = run("compare", "two.json", "-f", "broken.py", "-p", "mc-sf", "--no-bound", "-o", "out", "-j", "1")
    assert code == 0
    assert "(failed)" in stdout
    assert "on purpose" in Path("out/report.html").read_text()


def test_bad_input(home: Path, run: Run, two: Instance) -> None:
    """Tests that names, files and folders are checked before anything runs."""
    for arguments, words in (
        (["two.json", "-p", "mc-fs"], "did you mean 'mc-sf'"),
        (["two.json", "-p", "mc-sf:gat=1"], "did you mean 'gate'"),
        (["two.json", "-p", "mc-sf:gate=-1"], "found -1; allowed: a whole number from 0 on, or auto"),
        (["two.json", "--predictions", "nois:0.2"], "did you mean 'noise'"),
        (["two.json", "-f", "none", "--no-bound", "--chunked-prefill"], "give that number"),
        (["two.json", "-f", "kv-hindsite"], "did you mean 'kv-hindsight'"),
        (["two.json", "-s", "hihgs"], "unknown solver"),
        (["two.json", "-p", "none", "-f", "none", "--no-bound", "-j", "1"], "there is nothing to run"),
        (["two.json", "-p", "none", "-p", "mc-sf"], "'none' cannot be combined with other names"),
        (["missing.json"], "cannot read missing.json"),
        (["two.json", "-o", "two.json"], "--output two.json is a file; name a folder"),
    ):
        code, stdout, stderr = run("compare", *arguments)
        assert (code, stdout) == (2, "")
        assert words in stderr
    assert run("report", "two.json")[0] == 2
    assert run("report", "nothing-here.json")[0] == 2
    Path("empty").mkdir()
    assert "nothing to report" in run("report", "empty")[2]
    mk.save_result(mk.simulate(two, "mc-sf"), "r.result.json")
    assert run("report", "r.result.json", "-o", "no/such/folder.html")[0] == 2
    code, stdout, _ = run("report", "r.result.json", "-o", "-")
    assert code == 0
    assert stdout.startswith("<!doctype html>")


@pytest.mark.slow
def test_what_simulate_takes(home: Path, run: Run, two: Instance) -> None:
    """Tests that policies run with their options, predictions and limits, as ``simulate`` runs them."""
    options = ["-p", "mc-sf:gate=2,wait=3", "-p", "mc-sf", "--predictions", "noise:0.5", "--max-batch", "1"]
    code, stdout, stderr = run("compare", "two.json", *options, "-f", "kv-hindsight", "-o", "out", "-j", "1")
    assert (code, stderr) == (0, "")
    assert "mc-sf:gate=2,wait=3" in stdout
    assert run("simulate", "two.json", *options, "-o", "alone/", "-q")[0] == 0
    for name, alone in (("mc-sf-gate-2-wait-3", "mc-sf.gate=2.wait=3"), ("mc-sf", "mc-sf")):
        made, one = (mk.load_result(f) for f in (f"out/two.{name}.result.json", f"alone/two.{alone}.result.json"))
        assert made.producer.options == one.producer.options
        assert made.producer.options["max_batch"] == 1
        assert made.schedule == one.schedule
    other = two.replace(requests=tuple(r.model_copy(update={"prompt_tokens": 3}) for r in two.requests))
    stages = generate("slot-synthetic", seed=1)
    found = mk.compare(
        [two, other, stages], "limits", formulations=[], bound=False, max_batch_tokens=2, policies=["mc-sf"], jobs=1
    )
    assert [case.stamp.sha256 for case in found.cases] == [two.sha256]
    assert "3 prompt tokens, but an iteration takes 2" in found.left_out[0]
    assert "the slots are the limit" in found.left_out[1]


def test_infeasible(home: Path, run: Run, two: Instance) -> None:
    """Tests that an instance without a schedule gives exit code 3 and a report that says why."""
    mk.save_instance(two.replace(server=Server(kv_capacity_tokens=5)), "tight.json")
    code, stdout, _ = run("compare", "tight.json", "-o", "out", "-p", "mc-sf", "-j", "1")
    assert code == 3
    assert "No schedule exists" in stdout
    assert "needs 2 + 4 = 6 tokens" in Path("out/report.html").read_text()


def test_reports_of_single_commands(home: Path, run: Run) -> None:
    """Tests --report of solve, simulate and bound."""
    assert run("simulate", "two.json", "-p", "mc-sf", "-p", "svf", "--report", "s.html")[0] == 0
    assert run("solve", "two.json", "--report", "o.html")[0] == 0
    assert run("bound", "two.json", "--time-limit", "0.2", "--report", "b.html", "-q")[0] == 0
    for name in ("s", "o", "b"):
        assert Path(f"{name}.html").read_text().startswith("<!doctype html>")
    assert run("solve", "two.json", "-o", "-", "--report", "p.html")[1].count("\n") == 1


def test_matrix(two: Instance, tmp_path: Path) -> None:
    """Tests defaults by kind of instance, seeds, equal names, and what is left out in words."""
    stages = generate("slot-synthetic", seed=1)
    other = two.replace(description="another of the same name")
    chosen: dict[str, Any] = {"policies": ["mc-sf", "sorted"], "formulations": [], "bound": False, "jobs": 1}
    made = mk.compare([two, other, two, stages], tmp_path, seeds=[0, 1, 1], **chosen)
    assert [case.stamp.sha256 for case in made.cases] == [two.sha256, other.sha256, stages.sha256]
    assert made.stems[:2] == ("two", "two-2")
    assert [[e.label for e in case.entries] for case in made.cases] == [
        ["mc-sf (seed 0)", "mc-sf (seed 1)"], ["mc-sf (seed 0)", "mc-sf (seed 1)"],
        ["sorted (seed 0)", "sorted (seed 1)"],
    ]  # fmt: skip
    assert "two: policy sorted is not for its clock" in made.left_out
    assert all(e.standing == "checked" for case in made.cases for e in case.entries)

    defaults = mk.compare(two, tmp_path / "d", time_limit=10, jobs=1)
    kinds = {e.result.producer.kind for e in defaults.cases[0].entries}
    assert kinds == {"formulation", "policy", "improvement"}

    mixed = two.replace(server=Server(clock=LinearClock(kind="linear", mixed=True, decode_base_ms=1.0)))
    with pytest.raises(UsageError, match="nothing to run"):
        mk.compare(mixed, tmp_path / "m", policies=[], formulations=[], bound=False)


def test_large_instances_are_written_compressed(tmp_path: Path) -> None:
    """Tests the folder of a large instance."""
    instance = generate("chat", requests=2001, rate=50.0, kv_capacity=16492)
    made = mk.compare(instance, tmp_path, policies=["svf"], formulations=[], bound=False)
    assert made.results[0].status == "feasible"
    assert (tmp_path / f"{instance.name}.json.gz").exists()


def test_progress_on_a_terminal(home: Path) -> None:
    """Tests that a terminal sees each run as it ends, on standard error only."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "modelkit", "compare", "two.json", "-p", "mc-sf", "-f", "none", "--no-bound", "-j", "1"],
        stdout=subprocess.PIPE, stderr=child, text=True, env={**os.environ, "COLUMNS": "80", "TERM": "xterm"},
    )  # fmt: skip
    os.close(child)
    seen = b""
    while True:
        try:
            data = os.read(parent, 4096)
        except OSError:
            break
        if not data:
            break
        seen += data
    os.close(parent)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"mc-sf: feasible, " in seen
    assert "mc-sf: feasible" not in stdout


def test_json_of_results_is_read_by_older_rules(two: Instance, tmp_path: Path) -> None:
    """Tests that results without the newer fields of the producer are still read."""
    mk.save_result(mk.simulate(two, "mc-sf"), tmp_path / "r.result.json")
    document = json.loads((tmp_path / "r.result.json").read_text())
    for key in ("problem", "modelkit", "command"):
        del document["producer"][key]
    (tmp_path / "old.result.json").write_text(json.dumps(document))
    assert mk.load_result(tmp_path / "old.result.json").producer.modelkit is None


@pytest.mark.slow
def test_parameters_go_to_the_formulations_that_have_them(home: Path, run: Run, two: Instance) -> None:
    """Tests that a variant runs with its parameter, and one without it as ever."""
    mk.save_instance(two.replace(server=Server(kv_capacity_tokens=100)), "two.json")
    asked = ["compare", "two.json", "-f", "kv-batch-cap", "-f", "kv-hindsight-flow", "-p", "none", "--no-bound"]
    code, _, err = run(*asked, "--param", "batch_cap=1")
    assert code == 0, err
    capped = mk.load_result("compare/two.kv-batch-cap.batch_cap=1.highs.result.json")
    free = mk.load_result("compare/two.kv-hindsight-flow.highs.result.json")
    assert (capped.producer.parameters, free.producer.parameters) == ({"batch_cap": 1}, {})
    direct = mk.solve("two.json", "kv-batch-cap", "highs", parameters={"batch_cap": 1})
    assert capped.objective.value == direct.objective.value
    assert direct.objective.value > free.objective.value  # type: ignore[operator]


def test_variants_have_tables_of_their_own(home: Path, run: Run) -> None:
    """Tests that what the terminal says of a variant is about its objective, and that its optimum has no gap."""
    code, stdout, err = run("compare", "two.json", "-f", "kv-weighted-latency", "-P", 'weight={"long": 5}',
                            "-p", "mc-sf", "--time-limit", "20", "-j", "1")  # fmt: skip
    assert code == 0, err
    plain, own = stdout.split("two (2 requests, ")[1:]
    assert plain.startswith("total latency)")
    assert "kv-weighted-latency" not in plain
    flat = " ".join(own.split())
    assert flat.startswith('weighted latency of kv-weighted-latency (weight = {"long": 5, "short": 1})):')
    (row,) = [line for line in own.splitlines() if line.startswith(" kv-weighted-latency")]
    assert "0 %" in row
    assert run("report", "compare", "-o", "again.html")[0] == 0
    assert Path("again.html").read_text() == Path("compare/report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-f", "kv-batch-cap", "-P", "batch_cup=1"], "a parameter 'batch_cup'; did you mean 'batch_cap'?"),
        (["-f", "kv-hindsight", "-P", "batch_cap=1"], "a parameter 'batch_cap'; they take none"),
        (["-f", "kv-batch-cap", "-P", "batch_cap=0"], "found 0; allowed: a whole number"),
        (["-f", "kv-batch-cap", "-P", "batch_cap"], "--param takes NAME=VALUE"),
        (["-f", "kv-batch-cap"], "needs the parameter 'batch_cap'"),
    ],
)
def test_wrong_parameters(home: Path, run: Run, arguments: list[str], words: str) -> None:
    code, _, err = run("compare", "two.json", "-p", "none", "--no-bound", *arguments)
    assert code == 2
    assert words in " ".join(err.split())


def test_own_policies_are_compared_and_defined_again(two: Instance, tmp_path: Path) -> None:
    """Tests that a policy of the calling program runs beside those that workers know, and that a cell may run twice."""

    def define() -> None:
        @policy("another", summary="mc-sf by another name", reference="a test")
        class Another(McSf):
            pass

    define()
    try:
        define()
        found = mk.compare(two, tmp_path / "c", policies=["another", "svf"], formulations=[], bound=False)
        assert [(r.producer.name, r.status) for r in found.results] == [("another", "feasible"), ("svf", "feasible")]
        assert len(list((tmp_path / "c").glob("*another*.json"))) == 1
    finally:
        REGISTRY.remove("another")


def test_an_objective_is_compared_alone(tmp_path: Path) -> None:
    """Tests that policies and the bound are compared by the objective that is asked for, and which there are."""
    chat = generate("chat", requests=12, rate=8.0, server="llama2-70b-2xa100")
    made = mk.compare(
        chat, tmp_path / "ttft", formulations=[], policies=["vllm-like"], objective="ttft", time_limit=0.5, jobs=1
    )
    (case,) = made.cases
    assert case.objective == "total_ttft_ms"
    assert case.bound is not None
    assert case.bound.certified
    policy_run = next(e for e in case.entries if e.result.producer.kind == "policy")
    assert policy_run.value == policy_run.result.metrics["total_ttft_ms"]
    assert policy_run.value >= case.bound.value
    online = next(r for r in made.results if r.producer.kind == "policy")
    model = Producer(kind="formulation", name="serving-latency", problem="serving")
    ran, both = online.model_copy(update={"producer": model}), ["total_ttft_ms", "total_latency_ms"]
    for results, objectives in (((online,), both[:1]), ((ran, online), both)):
        shown = cases(map(ReadFile, results), Instances(known=[chat]), asked={chat.sha256: "total_ttft_ms"})
        assert [case.objective for case in shown] == objectives, "what a formulation was run for is shown, too"
        assert [len(case.valid) for case in shown] == [1, 2][: len(objectives)]
    with pytest.raises(UsageError, match="has no objective 'makespan'"):
        mk.compare(generate("kv-synthetic", requests=4), tmp_path / "no", policies=["svf"], objective="makespan")
