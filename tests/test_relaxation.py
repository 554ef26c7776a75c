"""The linear relaxation alone: its optimum, duals, reduced costs, and certificates of the duals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import modelkit as mk
from modelkit.errors import UsageError
from modelkit.verify.result import verify_result

Cli = Callable[..., Any]
TWO = mk.Instance.from_arrays([2, 2], [2, 4], server={"kv_capacity_tokens": 6}, name="two")


@pytest.mark.parametrize("name", ["kv-hindsight", "kv-hindsight-flow"])
def test_duals_of_memory_are_prices(name: str) -> None:
    """Tests that the optimum is that of Pyomo's own relaxation, and that its duals prove it exactly."""
    result = mk.solve(TWO, name, relax=True)
    found = result.relaxation
    assert found is not None
    assert (result.status, result.schedule, result.objective.bound_by) == ("no_schedule", None, "certificate")
    assert result.certificate is not None
    assert result.objective.bound == result.certificate.value == pytest.approx(found.value)
    assert not verify_result(result, TWO).faults
    model = mk.build(TWO, name)
    import pyomo.environ as pyo

    pyo.TransformationFactory("core.relax_integer_vars").apply_to(model)
    model.dual = pyo.Suffix(direction=pyo.Suffix.IMPORT)
    pyo.SolverFactory("appsi_highs").solve(model)
    assert pyo.value(model.total_latency) == pytest.approx(found.value)
    once = {str(index): model.dual[row] for index, row in model.started_once.items()}
    assert found.duals["started_once"] == pytest.approx(once)
    assert all(value < 0 for value in found.duals.get("kv_capacity_holds", {}).values())


def test_what_is_no_bound_is_not_claimed() -> None:
    """Tests objectives of one's own, cuts above the prices, infeasible relaxations, other solvers."""
    weighted = mk.solve(TWO, "kv-weighted-latency", parameters={"weight": {"r2": 5}}, relax=True)
    assert (weighted.objective.bound_by, weighted.certificate) == ("solver", None)
    cut = mk.solve(TWO, "kv-hindsight-cliques", relax=True)
    assert cut.objective.bound_by == "solver"
    assert cut.objective.bound is not None
    assert cut.objective.bound > 7
    late = mk.solve(TWO, "kv-deadlines", parameters={"deadline": 3}, relax=True)
    assert (late.status, late.relaxation) == ("infeasible", None)
    with pytest.raises(UsageError, match="relaxations are solved by 'highs'; found solver 'scip'"):
        mk.solve(TWO, solver="scip", relax=True)


def test_the_command_writes_a_bound(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that ``--relax`` ends with 0, beside the result of a solve, and that ``verify`` recomputes the bound."""
    monkeypatch.chdir(tmp_path)
    mk.save_instance(TWO, "two.json")
    said = cli("solve", "two.json", "-f", "kv-hindsight", "--relax").out
    assert "no schedule: the linear relaxation alone" in said
    assert "2 of started_once" in said
    (written,) = Path().glob("*.relaxed.result.json")
    assert mk.load_result(written).relaxation == mk.solve(TWO, "kv-hindsight", relax=True).relaxation
    assert "recomputed exactly" in cli("verify", str(written), "--instance", "two.json").out


def test_a_report_calls_it_a_relaxation(tmp_path: Path) -> None:
    """Tests that a page names it, beside a schedule, and counts no run that failed."""
    runs = [mk.solve(TWO, "kv-hindsight", relax=True), mk.simulate(TWO, "svf")]
    mk.report(runs, tmp_path / "page.html", instances=[TWO])
    page = (tmp_path / "page.html").read_text()
    assert "linear relaxation, without a schedule" in page
    assert "no valid schedule" not in page
