"""Instances from arrays and frames, results as frames, and models as Pyomo has them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyomo.environ as pyo
import pytest

import modelkit as mk
from modelkit.instance import Instance


class Frame(dict[str, Any]):
    """As much of a frame as is asked for."""

    columns = property(lambda self: list(self))


def test_arrays_and_frames_are_instances(two: Instance) -> None:
    """Tests columns with and without arrivals and ids, numpy's numbers, and columns that requests do not have."""
    server = {"kv_capacity_tokens": np.int64(6)}
    made = Instance.from_arrays(np.array([2, 2]), (2, 4), server=server, name="two", id=["short", "long"])
    assert made == Instance.from_frame(
        Frame(id=["short", "long"], prompt_tokens=np.array([2, 2]), output_tokens=np.array([2, 4]), user=["a", "b"]),
        server=server, name="two",
    )  # fmt: skip
    assert [r.id for r in made.requests] == ["short", "long"]
    late = Instance.from_arrays([2], [2], [3], server=server, predicted_output_tokens=[4])
    assert (late.requests[0].arrival, late.requests[0].predicted_output_tokens, late.requests[0].id) == (3, 4, "r1")
    with pytest.raises(mk.UsageError, match="no column 'prompt_tokens'; did you mean 'prompt_token'"):
        Instance.from_frame(Frame(prompt_token=[1], output_tokens=[1]), server=server)
    with pytest.raises(mk.UsageError, match="a frame with columns is needed"):
        Instance.from_frame([1, 2], server=server)
    with pytest.raises(mk.ModelkitError, match="columns of other lengths"):
        Instance.from_arrays([1, 2], [1], server=server)


def test_results_are_frames_where_pandas_is(two: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests the columns that a frame is made of, and the word where it cannot be made."""
    result = mk.simulate(two, "mc-sf")
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=dict))
    assert result.to_frame()["id"] == [r.id for r in two.requests]
    assert set(result.to_frame()) == set(result.requests().columns())
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(mk.UsageError, match="pip install pandas"):
        result.to_frame()


def test_build_gives_the_model_that_solve_builds(two: Instance, tmp_path: Path) -> None:
    """Tests names, files and the default; what Pyomo finds with the model is what solve finds."""
    model = mk.build(two, "kv-batch-cap", parameters={"batch_cap": 1})
    assert isinstance(model, pyo.ConcreteModel)
    assert pyo.value(model.batch_cap) == 1
    pyo.SolverFactory("appsi_highs").solve(model)
    best = mk.solve(two, "kv-batch-cap", parameters={"batch_cap": 1})
    assert round(pyo.value(model.total_latency)) == best.objective.value
    assert hasattr(mk.build(two), "start")
    own = tmp_path / "my_cap.py"
    bundled = Path(__file__).parents[1] / "formulations" / "kv_batch_cap.py"
    own.write_text(bundled.read_text().replace('name="kv-batch-cap"', 'name="my-cap"'))
    assert pyo.value(mk.build(two, str(own), parameters={"batch_cap": 2}).batch_cap) == 2
    with pytest.raises(mk.InfeasibleError):
        mk.build(two.replace(server={"kv_capacity_tokens": 5}), "kv-hindsight")
