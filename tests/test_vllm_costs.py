"""What the benchmark of vLLM's iterations makes of runs whose costs are known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BASE, REQUEST, TOKEN, PROMPT = 15.0, 0.05, 1e-4, 0.04

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
MEASURE = """
import json, sys, pathlib, vllm_costs
print(json.dumps(vllm_costs.measured(vllm_costs.read(pathlib.Path(sys.argv[1])))))
"""


def measured(folder: Path) -> dict[str, Any]:
    """What the benchmark finds in a run."""
    command = [sys.executable, "-c", MEASURE, str(folder)]
    return json.loads(subprocess.run(command, cwd=BENCHMARKS, check=True, capture_output=True).stdout)


def simulated(folder: Path, extra: float, slower: float) -> Path:
    """A run of an engine that schedules an iteration while the one before runs."""
    rng = np.random.default_rng(0)
    arrival = np.cumsum(rng.exponential(120, 250)).tolist()
    prompt, output = rng.integers(100, 1200, 250).tolist(), rng.integers(60, 500, 250).tolist()
    rows = [{"request_id": str(i), "input_toks": prompt[i], "output_toks": output[i]} for i in range(250)]
    now, waiting, decoding, scheduled = 0.0, list(range(250)), {}, []
    while waiting or decoding or scheduled:
        running, scheduled = scheduled, []
        tokens = 0
        while waiting and arrival[waiting[0]] <= now and len(decoding) + len(running) + len(scheduled) < 60:
            if tokens + prompt[waiting[0]] > 1900:
                break
            i = waiting.pop(0)
            tokens += prompt[i]
            scheduled.append(i)
            rows[i] |= {"queued_ts": now / 1000, "scheduled_ts": now / 1000}
        read = sum(prompt[i] for i in running)
        held = sum(prompt[i] + done for i, done in decoding.items())
        moving = REQUEST * len(decoding) + TOKEN * held
        lasts = (BASE if decoding or running else 0) + moving
        lasts += extra + PROMPT * read + slower * moving if running else 0
        now = max(now + lasts, arrival[waiting[0]] if waiting and not (decoding or running or scheduled) else 0)
        for i in [*decoding, *running]:
            decoding[i] = decoding.get(i, 0) + 1
            if decoding[i] == 1:
                rows[i]["first_token_ts"] = now / 1000
            if decoding[i] == output[i]:
                rows[i]["last_token_ts"] = now / 1000
                del decoding[i]
    folder.mkdir()
    (folder / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "meta.json").write_text(
        json.dumps({"engine_kwargs": {"max_num_batched_tokens": 2048, "data_parallel_size": 1}})
    )
    return folder


@pytest.mark.parametrize(
    ("extra", "slower", "best"),
    [
        pytest.param(0.0, 0.0, "once", marks=pytest.mark.slow),
        pytest.param(9.0, 0.0, "free", marks=pytest.mark.slow),
        (15.0, 0.0, "twice"),
        (0.0, 1.0, "slower"),
    ],
)
def test_known_costs_are_found(tmp_path: Path, extra: float, slower: float, best: str) -> None:
    """Tests that the coefficients of decode rounds are found, and the way in which prompts cost."""
    found = measured(simulated(tmp_path / "run", extra, slower))
    decode, mixed = found["decode"], found["with_prompts"]
    assert [decode[f"{name}_ms"] for name in ("base", "per_request", "per_kv_token")] == pytest.approx(
        [BASE, REQUEST, TOKEN], rel=0.06
    )
    assert decode["median_error_of_the_other_half"] < 0.01
    assert mixed["iterations"] > 40
    assert mixed["ways"][best]["median_error"] < 0.01
    assert mixed["extra_base_of_decode_base"]["both"] == pytest.approx(extra / BASE, abs=0.05)
    worse = {"once": "twice", "free": "once", "twice": "once", "slower": "free"}[best]
    assert mixed["ways"][worse]["median_error"] > 2 * mixed["ways"][best]["median_error"]


@pytest.mark.slow
def test_recorded_costs_are_those_of_the_runs(shared_data: Path) -> None:
    """Tests that the results file holds what the two runs say, where they are at hand."""
    recorded = json.loads((BENCHMARKS / "results" / "vllm_costs.json").read_text())["runs"]
    folders = sorted(path.parent for path in (shared_data / "vllm_runs").glob("*/requests.jsonl"))
    for run, folder in zip(recorded, folders, strict=True):
        found = measured(folder)
        assert found["decode"]["base_ms"] == pytest.approx(run["decode"]["base_ms"], rel=1e-3)
        ways = found["with_prompts"]["ways"]
        assert min(ways, key=lambda way: ways[way]["median_error"]) in ("slower", "both")
        assert found["with_prompts"]["extra_base_of_decode_base"]["both"] < 0.1
