"""The checker of one file says what `verify` says."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from claims import HOLDS, answers, check, claims, within_rounding

import modelkit as mk
from modelkit.certificate import KINDS
from modelkit.runtime.resources import bundled

CHECKER = Path(__file__).resolve().parents[1] / "checker" / "check.py"


def disagreements(seeds: range) -> tuple[list[str], int]:
    """Claims that one accepts and the other does not, but for bounds within the rounding of `verify`, of how many."""
    found, asked = [], 0
    for seed in seeds:
        for claim in claims(seed):
            said, asked = answers(claim), asked + 1
            if not said.agree and not (said.checker == HOLDS and within_rounding(claim)):
                found.append(f"seed {seed}, {claim.how}: {said.words or 'verified'} | {said.line}")
    return found, asked


def test_the_checker_agrees_with_the_judge() -> None:
    """Tests that schedules and certificates, right and wrong, are accepted by both or by neither."""
    found, asked = disagreements(range(9))
    assert found == []
    assert asked > 55


@pytest.mark.slow
def test_the_checker_agrees_with_the_judge_on_more() -> None:
    """Tests the same of some 300 claims."""
    found, asked = disagreements(range(100, 145))
    assert found == []
    assert asked > 280


def test_the_checker_knows_every_kind() -> None:
    """Tests that it recomputes each kind of certificate, for what it can bound."""
    known = {kind: (objectives, at_most) for kind, (_, _, objectives, at_most) in check.KINDS.items()}
    rounds, ms = ("total_latency_rounds",), ("total_latency_ms", "makespan_ms", "total_ttft_ms")
    assert known.keys() == set(KINDS)
    for kind, (objectives, at_most) in known.items():
        assert objectives == KINDS[kind].objectives, kind
        assert at_most == KINDS[kind].at_most
        assert set(objectives) <= {*rounds, *ms, "requests_within_slo"}


def test_the_checker_is_a_program(tmp_path: Path) -> None:
    """Tests its line and exit code: valid, invalid with the place, and what cannot be checked; gzipped files too."""
    instance = bundled("instances") / "synthetic-10.json"
    result = mk.simulate(mk.load(instance), "mc-sf").document()
    wrong = json.loads(json.dumps(result))
    wrong["schedule"]["segments"][1]["at"] -= 1
    (tmp_path / "right.json.gz").write_bytes(gzip.compress(json.dumps(result).encode()))
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    (tmp_path / "cut.json").write_text('{"schema": ')
    said = {}
    for name in ("right.json.gz", "wrong.json", "cut.json", "absent.json"):
        command = [sys.executable, "-I", str(CHECKER), str(instance), str(tmp_path / name)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        assert made.stderr == ""
        assert made.stdout.count("\n") == 1
        said[name] = made.returncode, made.stdout
    assert [code for code, _ in said.values()] == [0, 5, 2, 2]
    assert said["right.json.gz"][1].startswith("valid: schedule of 10 requests; total_latency_rounds = 558")
    assert said["wrong.json"][1].startswith("invalid: schedule.segments[1]: ")
    assert said["cut.json"][1].startswith("cannot check: ")


def test_the_checker_stands_alone() -> None:
    """Tests that it refuses what it does not know, which might change what a schedule means."""
    instance = json.loads((bundled("instances") / "two-requests.json").read_text())
    instance["server"]["overclocked"] = True
    line, code = check.verdict([instance, {"schema": "modelkit/result/1"}])
    assert (line, code) == ("cannot check: $.server: unknown keys {'overclocked'}", 2)


def test_no_claim_makes_the_checker_fail() -> None:
    """Tests that any value in place of any other in a claim gives a line and an exit code."""
    junk = [None, True, -1, 0.5, 1e308, "x", [], {}, [[1]], 10**30, float("nan")]
    drawn = [claim for seed in (2, 3) for claim in claims(seed) if answers(claim).checker == HOLDS]
    for k, claim in enumerate(drawn):
        for n, path in enumerate(places(claim.document)):
            document = json.loads(json.dumps(claim.document))
            inner = document
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = junk[(k + n) % len(junk)]
            line, code = check.verdict([claim.instance.document(), document])
            assert line.startswith({0: "valid: ", 5: "invalid: ", 2: "cannot check: "}[code]), (path, line)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all values of a document, of long lists to the first."""
    for key, some in value.items() if isinstance(value, dict) else enumerate(value[:3]):
        yield (*path, key)
        if isinstance(some, dict | list):
            yield from places(some, (*path, key))
