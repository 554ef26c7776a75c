"""What is refused says why, and what to do: messages that no other test comes by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import modelkit as mk
from modelkit.errors import FormulationError, InputError, UsageError
from modelkit.experiments.study import PaperFigure
from modelkit.formulation.formulation import chosen
from modelkit.instance import Server
from modelkit.sources.families import generate

TINY: dict[str, Any] = {
    "schema": "modelkit/instance/1",
    "server": {"kv_capacity_tokens": 20},
    "requests": [{"prompt_tokens": 3, "output_tokens": 4}],
}


def tiny() -> mk.Instance:
    return mk.load(TINY)


def slots(**options: Any) -> mk.Instance:
    return generate("slot-synthetic", **options)


def vast() -> mk.Instance:
    return tiny().replace(server=Server(kv_capacity_tokens=70_000))


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda: mk.solve(tiny(), "kv-makespan", "diagram"), "solves the problem of kv-hindsight, not formulation"),
        (lambda: mk.solve(tiny(), solver="diagram", options={"a": 1}), "'diagram' has no options; found a"),
        (lambda: mk.solve(vast(), solver="diagram"), "a KV capacity below 65,536 tokens; found 70,000"),
        (lambda: mk.solve(tiny(), warm_start="bets"), "unknown warm start 'bets'; did you mean 'best'?"),
        (lambda: mk.solve(tiny(), parameters={"nonsense": 1}), "no formulation has a parameter 'nonsense'"),
        (lambda: mk.diagnose(tiny(), solver="cplex"), "unknown solver for diagnosing 'cplex'"),
        (lambda: mk.compare([]), "no instance is given"),
        (lambda: mk.simulate(tiny(), "length-groups:size=0"), "option size: found 0; allowed: 1 or more"),
        (lambda: mk.simulate(tiny(), "nested-wait:first=0"), "option first: found 0; allowed: 1 or more"),
        (lambda: mk.simulate(tiny(), "alpha-beta-clearing:beta=0"), "option beta: found 0"),
        (lambda: mk.simulate(slots(), "sorted", max_batch=2), "here the slots are the limit"),
        (lambda: mk.simulate(tiny(), "mc-sf", slots_over_time=[(0.0, 1)]), "only in stages on slots"),
        (
            lambda: mk.solve(tiny(), solver="highs", options={"presolv": 1}),
            "HiGHS has no option 'presolv'; did you mean",
        ),
    ],
)
def test_usage(attempt: Callable[[], object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        attempt()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({"how": "gap_closed"}, "gap_closed needs another run's name as against"),
        ({"statistic": "count_equal"}, "count_equal needs against"),
    ],
)
def test_claims_without_their_pair(claim: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PaperFigure.model_validate({"says": "a claim", "paper": 1.0, "of": "mc-sf", **claim})


def test_a_binary_between_0_and_1() -> None:
    """Tests that rounding is refused where there is nothing to round to."""

    class Half:
        name, value = "x[1]", 0.5

    with pytest.raises(FormulationError, match=r"binary x\[1\] has the value 0.5, not 0 or 1 to 1e-4; its domain"):
        chosen(Half())


def test_the_file_changed_after_the_plan(tmp_path: Any) -> None:
    """Tests that a run is about the instance that it was planned for, or about none."""
    from modelkit.experiments.run import perform, plan_run

    path = tmp_path / "a.json"
    mk.save_instance(tiny(), path)
    run = plan_run(tiny(), path, "policy", "mc-sf")
    mk.save_instance(vast(), path)
    assert "holds another instance than when the run was planned" in perform(run).message
    path.write_text("[")
    assert "not JSON" in perform(run).message
    wrong = plan_run(tiny(), path, "policy", "mc-sf", parameters={"predictions": "nonsense"})
    mk.save_instance(tiny(), path)
    assert "unknown prediction model 'nonsense'" in perform(wrong).message


def test_options_out_of_range() -> None:
    with pytest.raises(InputError, match="--requests: found 0; allowed: 1 or more"):
        generate("chat", requests=0)
