"""The side of ``benchmarks/fuzz.py`` that reads: every reader of files, the command line, and what an input may cost.

Run by it as a process of its own: ``--worker`` answers jobs, ``--coverage-guided`` runs atheris on one reader.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import fuzz_inputs as inputs

#: What an input may cost: processor and wall-clock seconds, bytes of memory.
PROCESSOR, WALL, MEMORY = 5.0, 60.0, 2**30
ROOT = Path(__file__).resolve().parents[1]


def readers() -> dict[str, Callable[[str], object]]:
    """What reads, by name; each takes a path."""
    import numpy as np

    import modelkit as mk
    from modelkit.experiments.study import cells, load_study
    from modelkit.formulation.loading import load_formulation
    from modelkit.io.files import read_text
    from modelkit.policies.predictions import with_predictions
    from modelkit.sources.calibrate import calibrate
    from modelkit.sources.logs import log_formats, recognised
    from modelkit.sources.logs.importing import import_log
    from modelkit.sources.servers import find_server
    from modelkit.sources.traces import import_trace

    judged = mk.load(inputs.INSTANCE)

    def claim(path: str) -> None:
        found = mk.load_claim(path)
        (mk.verify_certificate if isinstance(found, mk.Certificate) else mk.verify_result)(found, judged)  # type: ignore[operator]

    logs = {name: partial(import_log, format=name) for name in log_formats()}
    return {
        **logs,
        "recognised": recognised,
        "instance": mk.load,
        "result": mk.load_result,
        "certificate": mk.load_certificate,
        "claim": claim,
        "study": lambda path: cells(load_study(path)),
        "azure": lambda path: import_trace("azure", path),
        "burstgpt": lambda path: import_trace("burstgpt", path),
        "mooncake": lambda path: import_trace("mooncake", path, block=16, time_unit="ms"),
        "bailian": lambda path: import_trace("bailian", path),
        **dict.fromkeys(("fpm", "tensorrt", "vllm", "tensorrt_lines"), calibrate),
        "lengths": lambda path: import_trace("lengths", path, output_column="output_tokens"),
        "formulation": load_formulation,
        "report": lambda path: mk.report([path], os.devnull, instances=[judged]),
        "server": find_server,
        "calibration": calibrate,
        "predictions": lambda path: with_predictions(judged, read_text(path), np.random.default_rng(0)),
    }


def read(reader: Callable[[str], object], path: str) -> tuple[str, str]:
    """Outcome of reading a file: ``read``, ``refuse``, or a failure in words."""
    from modelkit.errors import InputError, ModelkitError

    try:
        reader(path)
    except ModelkitError as error:
        words = str(error)
        if error.exit_code != 2:
            return f"exit code {error.exit_code}", words[:500]
        if isinstance(error, InputError) and not (error.faults and all(f.path and f.message for f in error.faults)):
            return "no place", words[:500]
        if len(words) > 20_000 or "\n\n" in words or not words.strip():
            return "no message for people", words[:500]
        return "refused", words[:500]
    except BaseException as error:
        return type(error).__name__, str(error)[:500]
    return "read", ""


def command(arguments: list[str]) -> tuple[str, str]:
    """Outcome of a command line."""
    from modelkit.cli import main

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    before = sys.argv
    sys.argv = ["modelkit", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
        code: object = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException as error:
        return type(error).__name__, str(error)[:500]
    finally:
        sys.argv = before
    said = err.buffer.getvalue().decode(errors="replace")  # type: ignore[attr-defined]
    if code not in (0, 2, 3, 4, 5) or "Traceback" in said:
        return f"exit code {code}", said[:500]
    if code == 2 and not said.strip():
        return "no message for people", ""
    return ("read" if code == 0 else "refused"), said[:500]


def worker() -> None:
    """Answer jobs on standard input, one JSON line each, with what they led to and what they cost."""
    known = readers()
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    status = Path("/proc/self/status")
    here = int(re.search(r"VmData:\s+(\d+)", status.read_text())[1]) * 1024  # type: ignore[index]
    resource.setrlimit(resource.RLIMIT_DATA, (here + MEMORY, here + MEMORY))
    os.chdir(tempfile.mkdtemp(dir=os.environ["FUZZ_FOLDER"]))
    inputs.furnish()
    for line in sys.stdin:
        job = json.loads(line)
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        base = int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1]) * 1024  # type: ignore[index]
        began, wall = time.process_time(), time.monotonic()
        if job["reader"] == "command":
            outcome, words = command(job["arguments"])
        else:
            outcome, words = read(known[job["reader"]], job["path"])
        peak = int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) * 1024  # type: ignore[index]
        cost = (time.process_time() - began, time.monotonic() - wall, max(0, peak - base))
        if outcome in ("read", "refused"):
            late = [
                n
                for n, c, most in zip(("time", "wall", "memory"), cost, (PROCESSOR, WALL, MEMORY), strict=True)
                if c > most
            ]
            outcome = f"too much {late[0]}" if late else outcome
        full = cost[2] > MEMORY // 8  # Python gives some of it back only at its end
        channel.write(json.dumps([full, outcome, words, *cost]) + "\n")
        channel.flush()


def coverage_guided(name: str, runs: int, folder: str) -> None:
    """Atheris on one reader, from the good inputs in ``folder``: a process of its own, which ends at the first failure.

    Good inputs are read first, so that whatever is imported on the way is instrumented and the first input that is
    timed does not wait for it.
    """
    import atheris

    path, corpus = os.path.join(folder, f"input{inputs.ENDINGS[name]}"), Path(folder) / "corpus"

    compiled = [f"modelkit.{file.stem}" for file in (ROOT / "modelkit").glob("*.py") if "numba" in file.read_text()]
    with atheris.instrument_imports(include=["modelkit"], exclude=compiled):
        reader = readers()[name]
        for seed in corpus.iterdir():
            Path(path).write_bytes(seed.read_bytes())
            read(reader, path)

    def one(data: bytes) -> None:
        Path(path).write_bytes(data)
        began = time.process_time()
        outcome, words = read(reader, path)
        if outcome not in ("read", "refused"):
            raise RuntimeError(f"{outcome}: {words}")
        if (spent := time.process_time() - began) > PROCESSOR:
            raise RuntimeError(f"too much time: {spent:.1f} s of the processor")

    atheris.Setup(
        [sys.argv[0], f"-runs={runs}", f"-timeout={WALL:g}", "-report_slow_units=86400", "-rss_limit_mb=1500",
         "-max_len=4096", "-seed=1",
         f"-artifact_prefix={folder}/failed-", str(corpus)],
        one,
    )  # fmt: skip
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker()
    else:
        coverage_guided(sys.argv[2], int(sys.argv[3]), sys.argv[4])
