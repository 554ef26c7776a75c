"""new-formulation keeps every rule of `modelkit check`, and solves an instance whose optimum is known by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

import modelkit as mk
from modelkit.authoring.check import check

FILE = str(Path(__file__).with_name("new_formulation.py"))


def test_conformance() -> None:
    """Tests every rule, on fewer tiny instances than `modelkit check` draws."""
    for finding in check(FILE, instances=12):
        assert finding.status == "ok", [complaint.what for complaint in finding.complaints]


@pytest.mark.parametrize("solver", ["highs", "scip"])
def test_by_hand(solver: str) -> None:
    """Tests two requests of which each holds at most 3 tokens: the server has 6, so that neither waits."""
    instance = mk.load(
        {
            "schema": "modelkit/instance/1",
            "server": {"kv_capacity_tokens": 6},
            "requests": [{"prompt_tokens": 1, "output_tokens": 2}, {"prompt_tokens": 1, "output_tokens": 2}],
        }
    )
    result = mk.solve(instance, FILE, solver)
    assert (result.status, result.objective.value) == ("optimal", 4)
