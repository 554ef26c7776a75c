"""Studies: the file and its faults, the grid, resuming after kills, limits, the cluster, claims."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import modelkit as mk
from modelkit.cli import cli
from modelkit.errors import InputError, SolverError, UsageError
from modelkit.experiments.study import (
    Measured,
    PaperFigure,
    Store,
    StoredRun,
    cells,
    export,
    load_study,
    measure,
    run_study,
    shipped_studies,
    status,
    verdicts,
)
from modelkit.experiments.study.cluster import run_on_cluster
from modelkit.experiments.study.running import run_of as study_run

TINY = """
name = "tiny"
limits = { time_limit = 5 }

[[instances]]
family = "kv-synthetic"
seeds = "0..5"
parameters = { requests = [2, 3], arrivals = "poisson" }

[[policies]]
names = ["mc-sf", "svf"]
seeds = [0, 1]
"""


def written(folder: Path, text: str = TINY) -> Path:
    """A study file."""
    path = folder / "tiny.toml"
    path.write_text(text)
    return path


def content(entries: list[StoredRun]) -> list[StoredRun]:
    """What must not depend on how a study ran: everything but the time it took."""
    return [replace(entry, seconds=None) for entry in entries]


# --- the file ----------------------------------------------------------------------------------


def test_the_grid(tmp_path: Path) -> None:
    """Tests that lists are axes, that every run has a key of its own, and that keys do not change."""
    study = load_study(written(tmp_path))
    grid = cells(study)
    assert len(grid) == 2 * 6 * 2 * 2
    assert len({cell.key for cell in grid}) == len(grid)
    assert [cell.key for cell in grid] == [cell.key for cell in cells(load_study(written(tmp_path)))]


def test_all_faults_at_once(tmp_path: Path) -> None:
    """Tests that each fault is told with its place and the nearest name."""
    text = """
        name = "x"
        [[instances]]
        family = "kv-syntetic"
        [[instances]]
        family = "chat"
        parameters = { request = 3, rate = "fast" }
        [[instances]]
        file = "nowhere.json"
        [[policies]]
        names = ["mc-sg", "mc-sf:gate=auto,wait=2", "mc-sf:gate=-1"]
        groups = ["chats"]
        [[formulations]]
        names = ["kv-hindsight", "mine.py"]
        solvers = ["higs"]
        parameters = { warm_stat = "none" }
    """
    with pytest.raises(InputError) as caught:
        load_study(written(tmp_path, text))
    told = {fault.path: fault.message for fault in caught.value.faults}
    assert set(told) == {
        "$.instances[0].family",
        "$.instances[1].parameters.request",
        "$.instances[1].parameters.rate",
        "$.instances[2].file",
        "$.policies[0].names[0]",
        "$.policies[0].names[2]",
        "$.policies[0].groups",
        "$.formulations[0].names[1]",
        "$.formulations[0].solvers[0]",
        "$.formulations[0].parameters.warm_stat",
    }
    assert "did you mean 'kv-synthetic'" in told["$.instances[0].family"]
    assert "did you mean 'highs'" in told["$.formulations[0].solvers[0]"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "not TOML"),
        ('name = "a/b"\n[[instances]]\nfamily = "chat"', "$.name"),
        ('name = "a"\n[[instances]]\nfamly = "chat"', "did you mean 'family'"),
        ('name = "a"\n[[instances]]\nfamily = "chat"\nfile = "x"', "either family or file"),
        ('name = "a"\n[[instances]]\nfamily = "chat"\nseeds = "9..0"', "a list of seeds or a range"),
        ('name = "a"\n[[instances]]\nfamily = "chat"', "nothing to run"),
        ('name = "a"\ninstances = []', "is empty"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, words: str) -> None:
    """Tests one fault each."""
    with pytest.raises(InputError) as caught:
        load_study(written(tmp_path, text))
    assert words in str(caught.value)


def test_unknown_names() -> None:
    """Tests a shipped study that does not exist, and a file that does not."""
    with pytest.raises(UsageError, match="did you mean"):
        load_study("kv-ratio-smal")
    with pytest.raises(UsageError, match="cannot read"):
        load_study("nowhere/x.toml")


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_are_right(name: str) -> None:
    """Tests that each shipped study can be read and is named like its file."""
    study = load_study(name)
    assert study.name == name
    assert cells(study)
    assert study.description


# --- running -----------------------------------------------------------------------------------


def test_parameters_of_formulations(tmp_path: Path, two: mk.Instance) -> None:
    """Tests that a formulation's own parameters are axes, and reach it beside the arguments of ``solve``."""
    mk.save_instance(two, tmp_path / "two.json")
    head = 'name = "caps"\n[[instances]]\nfile = "two.json"\n[[formulations]]\nnames = ["kv-batch-cap"]\n'
    study = load_study(written(tmp_path, head + 'parameters = { batch_cap = [1, 2], warm_start = "none" }\n'))
    assert [cell.label for cell in cells(study)] == [
        f"kv-batch-cap on highs batch_cap={cap} warm_start=none" for cap in (1, 2)
    ]
    done = run_study(study, tmp_path / "out", jobs=1).done
    with Store(tmp_path / "out") as store:
        results = [mk.load_result(store.path(entry.key)) for entry in done]
    assert sorted(r.producer.parameters["batch_cap"] for r in results) == [1, 2]
    for result in results:
        direct = mk.solve(two, "kv-batch-cap", "highs", parameters=result.producer.parameters)
        assert result.objective.value == direct.objective.value
        assert result.start.policy is None
    wrong = "parameters = { batch_cup = 1, batch_cap = [1, 0] }\n"
    with pytest.raises(InputError) as error:
        load_study(written(tmp_path, head + wrong))
    assert [(fault.path, fault.message.split(";")[0]) for fault in error.value.faults] == [
        ("$.formulations[0].parameters.batch_cup", "formulation 'kv-batch-cap' has no parameter 'batch_cup'"),
        ("$.formulations[0].parameters.batch_cap", "found 0"),
    ]
    assert "did you mean 'batch_cap'?" in error.value.faults[0].message


def test_run_resume_and_change(tmp_path: Path) -> None:
    """Tests that nothing runs twice, that a larger study runs only what is new, and that the rest is called stale."""
    told: list[str] = []
    study, folder = load_study(written(tmp_path)), tmp_path / "kept"
    first = run_study(study, folder, jobs=2, listen=lambda step: told.append(step.label))
    assert len(first.done) == len(told) == 48
    assert not first.left
    assert not first.failed
    run_study(study, folder, listen=lambda step: told.append(step.label))
    assert len(told) == 48
    with pytest.raises(UsageError, match="no results yet"):
        status(study, tmp_path / "elsewhere")

    changed = load_study(written(tmp_path, TINY.replace('"0..5"', '"3..7"')))
    now = status(changed, folder)
    assert (len(now.planned), len(now.done), len(now.stale), len(now.left)) == (40, 24, 24, 16)
    after = run_study(changed, folder, jobs=2)
    assert (len(after.done), len(after.stale)) == (40, 24)


def test_results_are_those_of_direct_calls(tmp_path: Path) -> None:
    """Tests that a result in the store is that of the function, of the instance in the store."""
    study, folder = load_study(written(tmp_path)), tmp_path / "kept"
    done = run_study(study, folder, jobs=2).done
    with Store(folder) as store:
        for cell in cells(study)[::7]:
            result = mk.load_result(store.path(cell.key))
            instance = mk.load(store.instance(cell.instance)[0])
            assert mk.verify_result(result, instance).holds
            again = mk.simulate(instance, cell.name, seed=cell.seed)
            assert (result.schedule, result.metrics) == (again.schedule, again.metrics)
    export(done, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 48
    assert {float(row["value"]) for row in rows} == {entry.value for entry in done}


@pytest.mark.slow
def test_limits_are_kept_and_recorded(tmp_path: Path) -> None:
    """Tests runs beyond their memory and their time: failures in words, and the others are done."""
    text = """
        name = "limits"
        [[instances]]
        file = "instance.json"
        [[policies]]
        names = ["mc-sf"]
        [[formulations]]
        names = ["sleeper.py"]
        limits = { kill_after = 1.5 }
        [[formulations]]
        names = ["kv-hindsight"]
        limits = { memory_mb = 50 }
    """
    mk.save_instance(mk.load(Path(__file__).parents[1] / "instances" / "two-requests.json"), tmp_path / "instance.json")
    (tmp_path / "sleeper.py").write_text(
        '"""Sleeps."""\nimport time\nfrom modelkit import Formulation\n'
        "def build(m):\n    time.sleep(60)\n"
        'FORMULATION = Formulation(name="sleeper", summary="s", claim="exact", reference="none", build=build,'
        ' data=lambda i: {}, objective="total_latency")\n'
    )
    study = load_study(written(tmp_path, text))
    after = run_study(study, tmp_path / "kept", jobs=2)
    by_name = {entry.name: entry for entry in after.done}
    assert by_name["mc-sf"].status == "feasible"
    assert by_name["sleeper"].stop == "time_limit"
    assert "limit of wall-clock time" in by_name["sleeper"].message
    assert by_name["kv-hindsight"].status == "no_schedule"
    assert len(after.failed) == 2
    again: list[str] = []
    run_study(study, tmp_path / "kept", again=True, listen=lambda step: again.append(step.label))
    assert len(again) == 2


def killed_at_random(study: Path, folder: Path, kills: int, seed: int) -> None:
    """Start the study and kill its process, so often; then let it end."""
    rng = random.Random(seed)
    command = [sys.executable, "-m", "modelkit", "study", "run", str(study), "--folder", str(folder), "-q", "-j", "2"]
    for _ in range(kills):
        process = subprocess.Popen(command, start_new_session=True)
        time.sleep(rng.uniform(0.3, 2.0))
        kill = rng.choice([os.kill, os.killpg])
        if process.poll() is None:
            kill(process.pid, signal.SIGKILL)
        process.wait()
    while subprocess.run(command, check=False).returncode == 2:  # the orphans of the last kill still hold nothing
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 5])
def test_kills_lose_and_repeat_nothing(tmp_path: Path, kills: int) -> None:
    """Tests that a study killed at random moments ends like one that was not, with every run once."""
    text = TINY.replace("0..5", f"0..{3 + 2 * kills}")
    study = load_study(written(tmp_path, text))
    killed_at_random(tmp_path / "tiny.toml", tmp_path / "killed", kills, seed=kills)
    whole = run_study(study, tmp_path / "whole", jobs=2)
    now = status(study, tmp_path / "killed")
    assert not now.left
    assert content(now.done) == content(whole.done)
    files = list((tmp_path / "killed" / "runs").glob("??/*"))
    assert len(files) == len(whole.done)


def test_a_file_without_entry_is_entered(tmp_path: Path) -> None:
    """Tests the moment between the file and its entry, and what a killed writer leaves behind."""
    study, folder = load_study(written(tmp_path)), tmp_path / "kept"
    whole = run_study(study, folder, jobs=2)
    lost = whole.done[3]
    with Store(folder, writing=True) as store:
        store._database.execute("DELETE FROM runs WHERE key = ?", [lost.key])
        store.path(lost.key).with_name(".left-over").touch()
    told: list[str] = []
    assert run_study(study, folder, listen=lambda step: told.append(step.label)).done == whole.done
    assert not told
    assert not list(folder.glob("runs/??/.*"))


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    """Tests that a second run of the same study is refused."""
    study, folder = load_study(written(tmp_path)), tmp_path / "kept"
    with Store(folder, writing=True), pytest.raises(UsageError, match="another process runs the study"):
        run_study(study, folder)


@pytest.mark.slow
def test_cluster_loses_a_worker(tmp_path: Path) -> None:
    """Tests a Dask cluster of two workers, one of which is killed: the results are those of this machine."""
    distributed = pytest.importorskip("distributed")
    study = load_study(written(tmp_path, TINY.replace("seeds = [0, 1]", "seeds = [0]").replace("[2, 3]", "3")))
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        pids = [worker.process.process.pid for worker in cluster.workers.values()]

        def kill_one(step: Any) -> None:
            if step.done == 3:
                os.kill(pids[0], signal.SIGKILL)

        far = run_study(study, tmp_path / "far", cluster=cluster.scheduler_address, listen=kill_one)
    near = run_study(study, tmp_path / "near", jobs=2)
    assert len(far.done) == 12
    assert content(far.done) == content(near.done)


@pytest.mark.slow
def test_cluster_loses_all_workers_again_and_again(tmp_path: Path) -> None:
    """Tests a cluster whose workers have no nanny and are all killed, twice; new ones join: no run is given up."""
    distributed = pytest.importorskip("distributed")
    study = load_study(written(tmp_path, TINY.replace("seeds = [0, 1]", "seeds = [0]")))
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0") as cluster:
        address = cluster.scheduler_address
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", "1"]
        workers = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(2)]

        def kill_all(step: Any) -> None:
            if step.done in (5, 9):
                for worker in workers:
                    worker.kill()
                    worker.wait()
                workers[:] = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(2)]

        try:
            far = run_study(study, tmp_path / "far", cluster=address, listen=kill_all)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    assert not far.left
    assert not far.failed


@pytest.mark.slow
def test_cluster_without_workers(tmp_path: Path) -> None:
    """Tests that a cluster that has no worker ends the command after a stated time, and nothing counts as done."""
    distributed = pytest.importorskip("distributed")
    study = load_study(written(tmp_path))
    with Store(tmp_path / "kept", writing=True) as store:
        cell = cells(study)[0]
        task = (study_run(cell, store), store.path(cell.key))
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        pytest.raises(SolverError, match="had no worker for 1 s; what was finished is kept"),
    ):
        list(run_on_cluster([task], cluster.scheduler_address, worker_timeout=1.0))
    assert not status(study, tmp_path / "kept").done


@pytest.mark.slow
def test_runs_that_fail_on_the_cluster_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that runs that fail on the cluster are tried again, then given up with the reason, and are still to do."""
    distributed = pytest.importorskip("distributed")
    study = load_study(written(tmp_path))

    def fail(*_: Any) -> str:
        raise RuntimeError("no room here")

    monkeypatch.setattr("modelkit.experiments.study.cluster.perform_remotely", fail)
    with (
        distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        pytest.raises(
            SolverError, match=r"gave up 48 of 48 runs after 4 tries each \(48 times RuntimeError: no room here"
        ),
    ):
        run_study(study, tmp_path / "kept", cluster=cluster.scheduler_address)
    assert len(status(study, tmp_path / "kept").left) == 48


@pytest.mark.slow
def test_no_cluster(tmp_path: Path) -> None:
    """Tests the words for a cluster that is not there, or for Dask that is not."""
    with pytest.raises(UsageError, match=r"cannot reach the cluster|needs Dask"):
        run_study(load_study(written(tmp_path)), tmp_path / "kept", cluster="tcp://127.0.0.1:9")


# --- claims ------------------------------------------------------------------------------------


def test_claims_by_hand() -> None:
    """Tests each way to measure, on two instances with round numbers."""

    def run(instance: str, n: int, name: str, value: float | None, certified: float | None = None) -> Measured:
        return Measured("g", instance, n, name, name, value, certified, {"m": value})

    runs = [
        run("a", 10, "sorted", 120), run("a", 10, "hybrid", 105), run("a", 10, "bound", 104, 100),
        run("b", 30, "sorted", 130), run("b", 30, "hybrid", 130), run("b", 30, "bound", 130, 120),
    ]  # fmt: skip

    def ours(**claim: Any) -> float | None:
        return verdicts([PaperFigure(says="", **claim)], runs)[0].ours

    assert ours(of="sorted") == 125
    assert ours(of="bound") == 110
    assert ours(of="hybrid", against="sorted", how="gap_closed") == pytest.approx((0.75 + 0) / 2)
    assert ours(of="hybrid", against="sorted", how="difference", statistic="min") == -15
    assert ours(of="sorted", against="best", statistic="max") == pytest.approx(120 / 104)
    assert ours(of="hybrid", against="bound", statistic="max") == pytest.approx(130 / 120)
    assert ours(of="hybrid", against="sorted", statistic="count_equal") == 1
    assert ours(of="hybrid", statistic="slope", scale=2) == pytest.approx(2 * 25 / 20)
    assert ours(of="nobody") is None

    def words(paper: float, **rest: Any) -> str:
        return verdicts([PaperFigure(says="", of="sorted", paper=paper, **rest)], runs)[0].words

    assert words(124) == "near, but undecided: too few cases (0.8% higher)"
    assert words(100, statistic="max") == "not near, but undecided: an extreme has no interval (30.0% higher)"


def test_a_figure_is_reproduced_by_an_interval_that_covers_it() -> None:
    """Tests verdicts on twenty cases about 100: by the interval, not by nearness; a wide one is told from a match."""
    values = [100 + (k * 7 % 20) - 9.5 for k in range(20)]
    runs = [Measured("g", f"i{k}", 10 + k, "p", "p", value, None, {}) for k, value in enumerate(values)]

    def words(paper: float, **rest: Any) -> str:
        verdict = verdicts([PaperFigure(says="", of="p", paper=paper, **rest)], runs)[0]
        assert verdict.low is not None
        assert verdict.high is not None
        assert 96 < verdict.low < 98.5 < 101.5 < verdict.high < 104
        return verdict.words

    assert words(101) == "reproduced (1.0% lower)"
    assert words(104) == "near, but not reproduced: the interval does not cover it (3.8% lower)"
    assert words(101, tolerance=0.001) == "covered by a wide interval alone (1.0% lower)"
    assert words(120) == "not reproduced (16.7% lower)"
    assert words(120, better="lower") == "better than the paper (16.7% lower)"
    assert words(120, better="higher") == "not reproduced (16.7% lower)"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shipped_studies() if name.endswith("-small")])
def test_small_studies_end_in_a_minute(tmp_path: Path, name: str) -> None:
    """Tests the small variant of each shipped study: it ends soon, nothing fails, and every claim has its figure."""
    study = load_study(name)
    began = time.perf_counter()
    after = run_study(study, tmp_path / "kept")
    assert time.perf_counter() - began < 120
    assert not after.failed
    assert not after.left
    assert all(verdict.ours is not None for verdict in verdicts(study.claims, measure(after.done)))


# --- the command line --------------------------------------------------------------------------


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests the commands one after the other."""
    from click.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    text = TINY + '\n[[claims]]\nsays = "mc-sf as svf"\nof = "mc-sf"\nagainst = "svf"\npaper = 1.0\ntolerance = 0.5\n'
    path = str(written(tmp_path, text))

    def invoke(*arguments: str) -> str:
        done = CliRunner().invoke(cli, ["study", *arguments], obj={}, standalone_mode=False)
        assert done.exception is None, done.output
        return done.output

    assert "48 runs to do, 0 done" in invoke("run", path, "--dry-run")
    assert not (tmp_path / "tiny.study").exists()
    assert "done  48 of 48" in invoke("run", path)
    assert "0 runs to do, 48 done" in invoke("run", path, "--dry-run")
    assert "48 of 48" in invoke("status", path)
    assert "paper 1; ours" in invoke("report", path, "--runs")
    page = (tmp_path / "tiny.html").read_text()
    assert "What the papers say" in page
    assert "mc-sf as svf" in page
    assert "Every run." in page
    invoke("export", path, "-o", "t.csv")
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 49
    assert "kv-ratio-small" in invoke("list")
    written(tmp_path, text.replace("0..5", "0..4"))
    assert "8 results stale" in invoke("status", path)
    assert "8 stale results deleted" in invoke("status", path, "--prune")
    assert "stale" not in invoke("status", path)


def test_parquet(tmp_path: Path) -> None:
    """Tests the table as Parquet, where pyarrow is installed."""
    parquet = pytest.importorskip("pyarrow.parquet")
    study = load_study(written(tmp_path, TINY.replace("0..5", "0..1")))
    done = run_study(study, tmp_path / "kept", jobs=2).done
    export(done, tmp_path / "t.parquet")
    table = parquet.read_table(tmp_path / "t.parquet")
    assert table.num_rows == 16
    assert table["value"].to_pylist() == [entry.value for entry in done]
    assert json.loads(table["parameters"][0].as_py()) == {}


@pytest.mark.slow
def test_measured_takes_certified_bounds_only(tmp_path: Path) -> None:
    """Tests that a solver's own bound is not called certified."""
    text = TINY.replace("0..5", "0..0").replace("[2, 3]", "3") + '\n[[formulations]]\nnames = ["kv-hindsight"]\n'
    entries = run_study(load_study(written(tmp_path, text + "\n[[bounds]]\n")), tmp_path / "kept", jobs=2).done
    for entry, found in zip(entries, measure(entries), strict=True):
        assert (found.certified is not None) == (entry.bound_by == "certificate")
