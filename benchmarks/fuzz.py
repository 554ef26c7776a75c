"""Thousands of hostile inputs to every reader and to the command line, each within limits of time and memory.

    python benchmarks/fuzz.py [--mutations 8000] [--hypothesis 1500] [--atheris 1500] [--seed 0] [--jobs 2]
                              [--output benchmarks/results/fuzz.json] [--keep benchmarks/results/fuzz-failures]

Four sources: nasty files (bombs, devices, pipes, encodings) for every reader; a mutator that knows the formats;
Hypothesis; and atheris (``pip install atheris``), which is guided by coverage. An input passes when it is read, or
refused as bad input (exit code 2) with its place and a reason, within 5 s of processor time, 60 s of wall-clock time
and 1 GiB of memory. Inputs that fail are kept.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import os
import queue
import random
import re
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import fuzz_files
import fuzz_inputs as inputs
from fuzz_reading import MEMORY, PROCESSOR, WALL
from record import stamp

ROOT = Path(__file__).resolve().parents[1]
READING = str(Path(__file__).with_name("fuzz_reading.py"))


class Answering:
    """A worker process; one that hangs or dies is replaced."""

    def __init__(self, folder: Path) -> None:
        self.environment = {**os.environ, "FUZZ_FOLDER": str(folder), "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
        self.process: subprocess.Popen[str] | None = None

    def answer(self, job: dict[str, Any]) -> list[Any]:
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, READING, "--worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True, env=self.environment,
            )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], WALL + 60)  # the first job waits for the imports
        line = self.process.stdout.readline() if ready else ""
        if line:
            full, *found = json.loads(line)
            if full:
                self.end()
            return found
        self.end()
        return ["hang" if not ready else "death of the process", "", 0.0, WALL, 0]

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Tally:
    """Counts outcomes and keeps what fails."""

    def __init__(self, keep: Path) -> None:
        self.keep = keep
        self.counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.worst = [0.0, 0.0, 0.0]
        self.dearest = ["", "", ""]
        self.failures: list[dict[str, str]] = []
        self.lock = threading.Lock()

    def add(self, source: str, job: dict[str, Any], answer: list[Any]) -> None:
        outcome, words, *cost = answer
        with self.lock:
            good = outcome in ("read", "refused")
            self.counts[f"{source} {job['reader']}"][outcome if good else "failed"] += 1
            for i, value in enumerate(cost):
                if value > self.worst[i]:
                    self.worst[i], self.dearest[i] = value, job.get("what", job["reader"])
            if not good:
                print(json.dumps([source, job, outcome, words, cost])[:300], file=sys.stderr, flush=True)
            if not good and len(self.failures) < 500:
                self.failures.append({"source": source, "reader": job["reader"], "outcome": outcome, "words": words,
                                      "what": self._kept(job)})  # fmt: skip

    def _kept(self, job: dict[str, Any]) -> str:
        if "arguments" in job:
            return json.dumps(job["arguments"])
        path = Path(job["path"])
        if "what" in job or not path.is_file() or path.stat().st_size > 2**20:
            return str(job.get("what", path))
        self.keep.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes()
        target = (
            self.keep / f"{job['reader']}-{hashlib.sha256(content).hexdigest()[:12]}{inputs.ENDINGS[job['reader']]}"
        )
        target.write_bytes(content)
        return target.name


def run(jobs: Iterator[tuple[str, dict[str, Any]]], count: int, folder: Path, tally: Tally) -> None:
    """Give the jobs to ``count`` workers."""
    waiting: queue.Queue[tuple[str, dict[str, Any]] | None] = queue.Queue(maxsize=4 * count)

    def serve() -> None:
        answering = Answering(folder)
        while (item := waiting.get()) is not None:
            source, job = item
            tally.add(source, job, answering.answer(job))
            if job.get("drop"):
                Path(job["path"]).unlink(missing_ok=True)
        answering.end()

    threads = [threading.Thread(target=serve) for _ in range(count)]
    for thread in threads:
        thread.start()
    for item in jobs:
        waiting.put(item)
    for _ in threads:
        waiting.put(None)
    for thread in threads:
        thread.join()


def jobs_of(folder: Path, mutations: int, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The nasty files for every reader, then mutations of good inputs, then command lines."""
    for what, path in fuzz_files.nasty_files(folder):
        for reader in inputs.ENDINGS:
            yield "nasty", {"reader": reader, "path": str(path), "what": what}
        if "rows within" in what:
            continue  # a good instance: what solving it costs is another question
        for arguments in (
            ["solve"], ["simulate", "-p", "mc-sf"], ["study", "status"], ["import", "azure"], ["calibrate"],
            ["report", "-o", "r.html"], ["generate", "chat", "--requests", "5", "--server"],
        ):  # fmt: skip
            yield (
                "nasty",
                {"reader": "command", "arguments": [*arguments, str(path)], "what": f"{arguments[0]}: {what}"},
            )
        yield (
            "nasty",
            {"reader": "command", "arguments": ["verify", "-i", "a.json", str(path)], "what": f"verify: {what}"},
        )
    rng = random.Random(seed)
    names = [*inputs.ENDINGS, "command"]
    for i in range(mutations):
        name = names[i % len(names)]
        if name == "command":
            yield "mutation", {"reader": name, "arguments": inputs.command_line(rng)}
            continue
        path = folder / f"mutation-{i}{inputs.ENDINGS[name]}"
        path.write_bytes(inputs.mutated(name, rng))
        yield "mutation", {"reader": name, "path": str(path), "drop": True}


def checking(name: str, path: Path, answering: Answering, tally: Tally) -> Callable[[bytes], None]:
    """A test of one input for Hypothesis."""

    def check(data: bytes) -> None:
        path.write_bytes(data)
        job = {"reader": name, "path": str(path)}
        answer = answering.answer(job)
        tally.add("hypothesis", job, answer)
        assert answer[0] in ("read", "refused"), answer

    return check


def with_hypothesis(count: int, folder: Path, tally: Tally, seed: int) -> None:
    """Documents that Hypothesis draws, for the readers of JSON and TOML; it shrinks what fails."""
    import hypothesis

    answering = Answering(folder)
    names = ("instance", "result", "certificate", "claim", "study", "report", "server")
    for name in names:
        path = folder / f"hypothesis{inputs.ENDINGS[name]}"

        check = checking(name, path, answering, tally)

        settings = hypothesis.settings(
            max_examples=count // len(names), database=None, deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        )  # fmt: skip
        with contextlib.suppress(AssertionError):
            hypothesis.seed(seed)(settings(hypothesis.given(inputs.drawn(name))(check)))()
    answering.end()


def with_atheris(runs: int, tally: Tally, keep: Path) -> str:
    """Coverage-guided runs of each reader of data; says what became of it."""
    try:
        import atheris  # noqa: F401
    except ImportError as error:
        return f"not run: {error}"
    said = {}
    for name in (name for name in inputs.ENDINGS if name != "formulation"):
        with tempfile.TemporaryDirectory() as folder:
            corpus = Path(folder) / "corpus"
            corpus.mkdir()
            for i, seed in enumerate(inputs.seeds(name)):
                (corpus / str(i)).write_bytes(seed)
            made = subprocess.run(
                [sys.executable, READING, "--coverage-guided", name, str(runs), folder],
                capture_output=True, text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)}, errors="replace", check=False,
            )  # fmt: skip
            done = re.findall(r"^#(\d+)", made.stderr, re.MULTILINE)
            covered = re.findall(r"cov: (\d+)", made.stderr)
            said[name] = f"{covered[0]} to {covered[-1]} points" if covered else made.stderr[-300:]
            tally.counts[f"atheris {name}"]["read or refused"] += int(done[-1]) if done else 0
            if made.returncode and not list(Path(folder).glob("failed-*")):  # it did not even begin
                (Path(folder) / "failed-to-run").touch()
            for failed in Path(folder).glob("failed-*"):
                reason = [line for line in made.stderr.splitlines() if "Error" in line or "ERROR" in line][:1]
                words = reason[0] if reason else f"{failed.name}: {made.stderr[-300:]}"
                tally.add("atheris", {"reader": name, "path": str(failed)}, ["failure", words, 0, 0, 0])
    return ", ".join(f"{name}: {words}" for name, words in said.items())


def main() -> None:
    """Fuzz and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("mutations", 8000), ("hypothesis", 1500), ("atheris", 1500), ("seed", 0), ("jobs", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    results = ROOT / "benchmarks" / "results"
    parser.add_argument("--output", type=Path, default=results / "fuzz.json")
    parser.add_argument("--keep", type=Path, default=results / "fuzz-failures")
    options = parser.parse_args()
    began, began_on = time.perf_counter(), stamp()
    tally = Tally(options.keep)
    folder = Path(tempfile.mkdtemp(prefix="modelkit-fuzz-"))
    try:
        run(jobs_of(folder, options.mutations, options.seed), options.jobs, folder, tally)
        with_hypothesis(options.hypothesis, folder, tally, options.seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    guided = with_atheris(options.atheris, tally, options.keep)
    inputs_done = sum(sum(counter.values()) for counter in tally.counts.values())
    report = {
        **began_on,
        "limits": {"processor_s": PROCESSOR, "wall_s": WALL, "memory_mib": MEMORY // 2**20},
        "seed": options.seed,
        "inputs": inputs_done,
        "failed": sum(counter["failed"] for counter in tally.counts.values()),
        "worst": {
            "processor_s": [round(tally.worst[0], 2), tally.dearest[0]],
            "wall_s": [round(tally.worst[1], 2), tally.dearest[1]],
            "memory_mib": [round(tally.worst[2] / 2**20), tally.dearest[2]],
        },
        "counts": {name: dict(sorted(counter.items())) for name, counter in sorted(tally.counts.items())},
        "atheris": guided,
        "failures": tally.failures,
        "seconds": round(time.perf_counter() - began),
    }
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({key: report[key] for key in ("inputs", "failed", "worst", "atheris", "seconds")}, indent=1))
    for failure in tally.failures[:40]:
        print(json.dumps(failure)[:400])
    sys.exit(bool(tally.failures))


if __name__ == "__main__":
    main()
