"""Solving a model again after a change: the same as building it anew, and refused where it is not."""

from __future__ import annotations

from typing import Any

import pytest

import modelkit as mk
from modelkit.errors import InputError, UsageError

INSTANCE = mk.Instance.from_arrays([2, 2, 1], [2, 4, 3], [0, 0, 1], server={"kv_capacity_tokens": 12}, name="three")


@pytest.mark.parametrize("name", ["kv-hindsight", "kv-hindsight-flow"])
def test_a_changed_capacity_is_that_of_a_new_model(name: str) -> None:
    """Tests values both ways, also after an infeasible one, against models that are built anew."""
    model = mk.build(INSTANCE, name, changing=["kv_capacity"])
    for capacity in (12, 6, 5, 8, 12):
        found = mk.resolve(model, {"kv_capacity_tokens": capacity})
        anew = mk.solve(INSTANCE.replace(server={"kv_capacity_tokens": capacity}), name)
        assert (found.status, found.objective.value) == (anew.status, anew.objective.value)
        assert found.instance == anew.instance
    assert mk.resolve(model).objective == found.objective


@pytest.mark.parametrize(
    ("name", "changing", "values"),
    [
        ("kv-weighted-latency", "weight", [{"r1": 9}, {"r2": 9, "r1": 1}, 2]),
        ("kv-batch-cap", "batch_cap", [1, 2, 3]),
    ],
)
def test_parameters_change(name: str, changing: str, values: list[Any]) -> None:
    """Tests coefficients of the objective and right sides."""
    model = mk.build(INSTANCE, name, parameters={changing: values[0]}, changing=[changing])
    for value in values:
        found = mk.resolve(model, {changing: value})
        anew = mk.solve(INSTANCE, name, parameters={changing: value})
        assert (found.status, found.objective.value) == ("optimal", anew.objective.value)
        assert found.producer.parameters == anew.producer.parameters


def test_what_may_not_change_is_refused() -> None:
    """Tests names, values, parameters that were not named, and models built without."""
    model = mk.build(INSTANCE, "kv-batch-cap", parameters={"batch_cap": 2}, changing=["kv_capacity"])
    with pytest.raises(UsageError, match="alter 'batch_cap' .* changing=\\['kv_capacity', 'batch_cap'\\]"):
        mk.resolve(model, {"batch_cap": 1})
    with pytest.raises(UsageError, match="there is no 'batch_cup' to change; did you mean 'batch_cap'"):
        mk.resolve(model, {"batch_cup": 1})
    with pytest.raises(InputError, match="kv_capacity_tokens"):
        mk.resolve(model, {"kv_capacity_tokens": 0})
    assert mk.resolve(model, {"kv_capacity_tokens": 8}).status == "optimal"
    with pytest.raises(UsageError, match="no parameter 'kv_capactiy'; did you mean 'kv_capacity'"):
        mk.build(INSTANCE, "kv-hindsight", changing=["kv_capactiy"])
    with pytest.raises(UsageError, match="resolve takes a model of mk.build"):
        mk.resolve(mk.build(INSTANCE, "kv-hindsight"))
