"""The same input, seed and versions give the same bytes of result, whatever the order of hashes.

Times aside: ``seconds``, the solver's ``log``, and ``progress``, whose entries come when a solver reports, by the
clock. A run that its time limit ends is out of reach of this: how far a search gets by then is the machine's affair.
Runs with a fixed amount of work (``--time-limit inf``, or ended by a proof) are held to it here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

#: What a fresh interpreter does: every kind of result once, each as a line of name and document.
CODE = """
import json, sys, tempfile
from pathlib import Path
import modelkit as mk
from modelkit.sources.families import generate
from modelkit.io import save_result

def tell(name, result):
    with tempfile.TemporaryDirectory() as folder:
        text = mk.save_result(result, Path(folder) / "r.json").read_text()
    document = json.loads(text)
    for key in ("seconds", "log", "progress"):
        document.pop(key)
    for stage in document["stages"]:
        stage.pop("seconds")
    if document.get("certificate"):
        document["certificate"].pop("seconds")
    print(name, json.dumps(document), flush=True)

kv = generate("kv-synthetic", requests=4, kv_capacity=15, seed=2)
slots = generate("gsm8k", requests=30, slots=6, seed=2)
chats = generate("chat", requests=60, kv_capacity=1000, seed=2)
print("instance", chats.sha256, slots.sha256, kv.sha256)
for solver in ("highs", "scip"):
    for threads in (1, 2):
        for formulation in ("kv-hindsight", "kv-hindsight-flow"):
            name = f"{formulation}-{solver}-{threads}"
            tell(name, mk.solve(kv, formulation, solver, threads=threads, seed=5, time_limit=None))
tell("slots", mk.solve(generate("gsm8k", requests=5, slots=2, seed=2), threads=1, time_limit=None))
tell("bound", mk.bound(chats, time_limit=None, seed=3).result)
tell("bound of slots", mk.bound(slots, time_limit=None, seed=3).result)
for policy in ("mc-sf", "svf", "alpha-protection", "mc-benchmark"):
    tell(policy, mk.simulate(chats, policy, seed=4))
for policy in ("sorted", "hybrid"):
    tell(policy, mk.simulate(slots, policy, seed=4))
"""


def told(seed: int) -> dict[str, str]:
    """What a fresh interpreter with this order of hashes says, by name."""
    made = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
    )  # fmt: skip
    lines = [line.split(" {", 1) for line in made.stdout.splitlines()]
    return {line[0]: line[-1] for line in lines}


def differences(runs: list[dict[str, str]]) -> list[str]:
    """Names whose bytes are not the same in all runs."""
    return [name for name in runs[0] if len({run.get(name) for run in runs}) > 1]


def test_the_same_bytes() -> None:
    """Tests two orders of hashes."""
    runs = [told(seed) for seed in (0, 1)]
    assert len(runs[0]) == 18
    assert differences(runs) == []


@pytest.mark.slow
def test_the_same_bytes_many_times() -> None:
    """Tests more orders of hashes."""
    assert differences([told(seed) for seed in range(2, 5)]) == []


def test_files_are_the_same_bytes(tmp_path: Path) -> None:
    """Tests instances drawn and imported twice, plain and compressed."""
    trace = tmp_path / "t.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9,48,10\n2023-11-16 18:17:04,1,1\n")
    found: list[dict[str, Any]] = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        for arguments in (
            ["generate", "service-hour", "--requests", "50", "--seed", "7", "-o", "a.json.gz"],
            ["import", "azure", str(trace), "-o", "b.json"],
        ):
            command = [sys.executable, "-m", "modelkit", *arguments]
            subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONHASHSEED": seed}, check=True)
        found.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert found[0] == found[1]
    assert json.loads(found[0]["b.json"])["requests"]["id"] == ["r1", "r2"]
