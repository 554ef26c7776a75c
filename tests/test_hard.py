"""The library of hard instances: its table is true."""

from __future__ import annotations

import json

import numpy as np
import pytest

import modelkit as mk
from modelkit.instance import InstanceStamp
from modelkit.io.results import parse_certificate
from modelkit.judge import judge
from modelkit.problems.kv.diagram import Search
from modelkit.problems.kv.local_search import schedule_of
from modelkit.runtime.resources import bundled
from modelkit.solving.known import Known
from modelkit.verify.certificates import verify_certificate

FOLDER = bundled("instances") / "hard"
TABLE = json.loads((FOLDER / "table.json").read_text())


def test_every_instance_has_a_row() -> None:
    """Tests that files and rows are the same."""
    assert {path.stem for path in FOLDER.glob("kv-*.json")} == set(TABLE)
    assert {row["value"] == row["bound"] for row in TABLE.values()} == {True, False}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if i % 2 else n for i, n in enumerate(sorted(TABLE))]
)
def test_values_and_bounds(name: str) -> None:
    """Tests that the judge finds the value, that the bound is not above it, and that a fresh bound is not either."""
    row = TABLE[name]
    instance = mk.load(str(FOLDER / f"{name}.json"))
    assert InstanceStamp.of(instance).sha256 == row["sha256"]
    verdict = judge(instance, schedule_of(instance, np.array(row["starts"])))
    assert verdict.valid
    assert verdict.metrics["total_latency_rounds"] == row["value"]
    assert sum(r.output_tokens for r in instance.requests) <= row["bound"] <= row["value"]
    assert row["value"] <= Known(instance).hindsight.latency


@pytest.mark.slow
def test_certificates() -> None:
    """Tests that the verifier finds what each certificate says, and that it is not above the bound."""
    for name, row in TABLE.items():
        certificate = parse_certificate(row["certificate"], name)
        found = verify_certificate(certificate, mk.load(str(FOLDER / f"{name}.json")))
        assert found.holds, (name, found.faults)
        assert certificate.value == row["certified"] <= row["bound"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kv-synthetic-all-at-once-n16-m47-s0", "kv-synthetic-all-at-once-n16-m39-s1"])
def test_proofs_are_repeated(name: str) -> None:
    """Tests that the search proves the value again, from its own schedule."""
    instance = mk.load(str(FOLDER / f"{name}.json"))
    search = Search(instance, Known(instance).hindsight.starts)
    search.run()
    assert search.value == search.bound == TABLE[name]["value"] == TABLE[name]["bound"]
