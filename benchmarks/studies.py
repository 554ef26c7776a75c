"""What a study costs beside its runs, and whether kills lose anything.

    python benchmarks/studies.py [--runs 10000] [--kills 200] [--output benchmarks/results/studies.json]

Tiny runs (a policy on two or three requests) show the overhead a run; then a study is killed again and again at random
moments and compared, run by run, with one that was left alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from record import stamp

from modelkit.experiments.run import plan_run
from modelkit.experiments.study import cells, load_study, run_study, status
from modelkit.experiments.study.store import drawn
from modelkit.simulation.simulate import simulate

TEXT = """
name = "tiny"
[[instances]]
family = "kv-synthetic"
seeds = "0..{last}"
parameters = {{ requests = [2, 3] }}
[[policies]]
names = ["mc-sf", "svf", "mc-benchmark", "sorted-f", "alpha-protection"]
"""


def overhead(runs: int, folder: Path) -> dict[str, Any]:
    """Seconds a run of ``runs`` tiny runs on two processes, beyond the work itself; and the size of the store."""
    path = folder / "tiny.toml"
    path.write_text(TEXT.format(last=runs // 10 - 1))
    study = load_study(path)
    began = time.perf_counter()
    done = run_study(study, folder / "tiny.study", jobs=2).done
    spent = time.perf_counter() - began
    some = cells(study)[:: max(1, runs // 200)]
    began = time.perf_counter()
    for cell in some:
        instance = drawn(cell.instance)
        simulate(instance, plan_run(instance, "", cell.kind, cell.name).name)
    work = (time.perf_counter() - began) / len(some)
    files = [file for file in (folder / "tiny.study").rglob("*") if file.is_file()]
    began = time.perf_counter()
    run_study(study, folder / "tiny.study", jobs=2)
    return {
        "runs": len(done),
        "seconds": round(spent, 1),
        "overhead_ms": round(1e3 * (2 * spent / len(done) - work), 2),
        "wall_ms_a_run": round(1e3 * spent / len(done), 2),
        "store_mb": round(sum(file.stat().st_size for file in files) / 1e6, 1),
        "store_on_disk_mb": round(sum(file.stat().st_blocks * 512 for file in files) / 1e6, 1),
        "nothing_to_do_seconds": round(time.perf_counter() - began, 2),
    }


def kills(count: int, folder: Path) -> dict[str, Any]:
    """A study that is killed ``count`` times, against one that is not."""
    path = folder / "tiny.toml"
    path.write_text(TEXT.format(last=max(1, 2 * count)))
    study = load_study(path)
    command = [sys.executable, "-m", "modelkit", "study", "run", str(path), "--folder", str(folder / "killed"), "-q"]
    rng = random.Random(0)
    moments, warm = [], 0.0
    for _ in range(count):
        began = time.perf_counter()
        process = subprocess.Popen(command, start_new_session=True)
        if not warm:  # how long it takes until a first run is done: kills come around then, most of them later
            while not list((folder / "killed" / "runs").glob("??/*.gz")):
                time.sleep(0.01)
            warm = time.perf_counter() - began
        else:
            time.sleep(rng.uniform(0.8, 1.2) * warm)
        if process.poll() is None:
            rng.choice([os.kill, os.killpg])(process.pid, signal.SIGKILL)
        process.wait()
        moments.append(len(list((folder / "killed" / "runs").glob("??/*.gz"))))
    subprocess.run(command, check=True)
    killed, whole = status(study, folder / "killed"), run_study(study, folder / "whole", jobs=2)
    files = list((folder / "killed" / "runs").glob("??/*"))
    same = [replace(e, seconds=None) for e in killed.done] == [replace(e, seconds=None) for e in whole.done]
    return {
        "kills": count,
        "kills_that_found_work": sum(a < b for a, b in zip([0, *moments], moments, strict=False)),
        "runs": len(whole.done),
        "equal": same and len(files) == len(whole.done) and not killed.left,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--output", default="benchmarks/results/studies.json")
    chosen = parser.parse_args()
    output = Path(chosen.output)
    found: dict[str, Any] = {**stamp()}
    for name, count, measure in (("overhead", chosen.runs, overhead), ("kills", chosen.kills, kills)):
        if count:
            with tempfile.TemporaryDirectory() as folder:
                found[name] = measure(count, Path(folder))
            print(name, found[name], flush=True)
    kept = json.loads(output.read_text()) if output.exists() else {}
    output.write_text(json.dumps({**kept, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
