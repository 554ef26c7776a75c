"""The slot problem from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "modelkit", *arguments], cwd=folder, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_generate_simulate_solve_verify(tmp_path: Path) -> None:
    """Tests the whole way, a forged certificate, and slots that change over time."""
    assert run(tmp_path, "generate", "gsm8k", "--requests", "60", "--slots", "9", "-o", "a.json").returncode == 0
    done = run(tmp_path, "simulate", "a.json", "-p", "hybrid", "-p", "fcfs", "--slots-at", "10=5", "-o", ".")
    assert done.returncode == 0, done.stderr
    assert "makespan [ms]" in done.stdout
    assert "decoding" in done.stdout
    assert run(tmp_path, "simulate", "a.json", "-p", "fcfs", "--slots-at", "ten=5").returncode == 2
    refused = run(tmp_path, "simulate", "a.json", "-p", "mc-sf")
    assert refused.returncode == 2
    assert "is for the unit clock" in refused.stderr
    done = run(tmp_path, "solve", "a.json", "-o", "s.json", "--time-limit", "2", "--threads", "1")
    assert done.returncode == 0, done.stderr
    verified = run(tmp_path, "verify", "s.json", "-i", "a.json")
    assert verified.returncode == 0, verified.stdout
    assert "recomputed exactly from its closed form" in verified.stdout
    document = json.loads((tmp_path / "s.json").read_text())
    document["certificate"]["bound"]["numerator"] += 1
    (tmp_path / "s.json").write_text(json.dumps(document))
    assert run(tmp_path, "verify", "s.json", "-i", "a.json").returncode == 5


def test_import_lengths(tmp_path: Path) -> None:
    """Tests columns named on the command line."""
    (tmp_path / "t.csv").write_text("q,a\n5,6\n7,8\n")
    done = run(
        tmp_path, "import", "lengths", "t.csv", "--prompt-column", "q", "--output-column", "a", "--slots", "2",
        "-o", "t.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "t.json").read_text())["requests"]["output_tokens"] == [6, 8]
