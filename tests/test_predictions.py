"""Prediction models and the load of a server."""

from __future__ import annotations

import random

import numpy as np
import pytest

import modelkit as mk
from modelkit.errors import UsageError
from modelkit.instance import Instance, LinearClock, Request, Server
from modelkit.judge.load import load, load_words
from modelkit.policies.predictions import predicted_lengths
from modelkit.simulation.simulate import fitting_policies, simulate
from modelkit.sources.families import generate

OUTPUT = np.random.default_rng(0).integers(1, 1000, 5000)


def predicted(model: str) -> tuple[np.ndarray, np.ndarray]:
    """For ``OUTPUT``."""
    return predicted_lengths(OUTPUT, model, np.random.default_rng(1))


def test_exact() -> None:
    """Tests that exact predictions are the outputs."""
    assert all(np.array_equal(end, OUTPUT) for end in predicted("exact"))


def test_noise() -> None:
    """Tests that errors are within the stated one, on both sides, and fill it."""
    lower, upper = predicted("noise:0.5")
    assert np.array_equal(lower, upper)
    assert lower.min() >= 1
    error = (lower - OUTPUT) / OUTPUT
    large = OUTPUT > 100
    assert abs(error[large]).max() <= 0.505
    assert error[large].min() < -0.48
    assert error[large].max() > 0.48
    assert abs(error[large].mean()) < 0.02


def test_intervals_hold_the_truth() -> None:
    """Tests that intervals contain the outputs and say nothing by their middle."""
    lower, upper = predicted("interval:0.3")
    assert ((lower <= OUTPUT) & (upper >= OUTPUT) & (lower >= 1)).all()
    large = OUTPUT > 100
    assert ((OUTPUT - lower) / OUTPUT)[large].max() > 0.28
    assert (((lower + upper) / 2 - OUTPUT) / OUTPUT)[large].std() > 0.05


def test_classes() -> None:
    """Tests upper ends of classes of equal width, and of stated ones with a last that some outgrow."""
    _, upper = predicted("class:100")
    assert ((upper % 100 == 0) & (upper >= OUTPUT) & (upper - OUTPUT < 100)).all()
    _, upper = predicted("class:64,256,512")
    assert set(upper) == {64, 256, 512}
    assert (upper[OUTPUT <= 64] == 64).all()
    assert (upper[OUTPUT > 256] == 512).all()


@pytest.mark.parametrize(
    "model",
    ["", "noise", "noise:x", "noise:-1", "noise:2", "noise:0.1,0.2", "exact:1", "class", "class:0", "class:5,3",
     "class:1.5", "interval:nan", "class:inf"],
)  # fmt: skip
def test_models_that_are_none(model: str) -> None:
    """Tests what is refused."""
    with pytest.raises(UsageError, match="prediction model"):
        predicted(model)


def test_near_miss() -> None:
    """Tests that a near name is suggested."""
    with pytest.raises(UsageError, match="did you mean 'noise'"):
        predicted("nose:0.2")


def test_simulation_with_predictions() -> None:
    """Tests that predictions change what a policy does, not the instance; the same seed draws the same ones."""
    instance = generate("chat", requests=300, rate=20)
    exact = simulate(instance, "mc-sf", predictions="exact")
    noisy = simulate(instance, "mc-sf:alpha=0.1", predictions="noise:0.8", seed=3)
    assert exact.schedule == simulate(instance, "mc-sf").schedule
    assert noisy.schedule == simulate(instance, "mc-sf:alpha=0.1", predictions="noise:0.8", seed=3).schedule
    assert noisy.schedule != exact.schedule
    assert noisy.instance.sha256 == instance.sha256
    assert noisy.producer.options == {"alpha": 0.1, "predictions": "noise:0.8"}
    assert mk.verify_result(noisy, instance).holds


def test_families_with_predictions() -> None:
    """Tests that any family takes a model, and that only the predictions differ."""
    plain, told = (generate("chat", requests=50, predictions=p) for p in (None, "interval:0.5"))
    assert [r.output_tokens for r in plain.requests] == [r.output_tokens for r in told.requests]
    assert any(isinstance(r.predicted_output_tokens, tuple) for r in told.requests)
    assert "interval0.5" in told.name
    assert generate("chat", requests=50, predictions="exact").requests == plain.requests


# --- load --------------------------------------------------------------------------------------


def test_load_by_hand() -> None:
    """Tests the least share of the server that requests of one size need, each second one."""
    law = LinearClock(
        kind="linear", mixed=True, prefill_base_ms=50, prefill_per_token_ms=1, decode_base_ms=40,
        decode_per_request_ms=2, decode_per_kv_token_ms=0.5,
    )  # fmt: skip
    requests = tuple(Request(id=f"r{i}", arrival=float(i), prompt_tokens=10, output_tokens=3) for i in range(5))
    # 10 ms for the prompt; two decode rounds with 12 and 13 tokens: 4 + 12.5 ms, and 25 / 50 of a fixed part
    instance = Instance(server=Server(kv_capacity_tokens=50, clock=law), requests=requests)
    assert load(instance) == pytest.approx((10 + 4 + 12.5 + 20) / 1000)
    few = instance.replace(server=Server(slots=1, clock=law))
    assert load(few) == pytest.approx((10 + 4 + 12.5 + 80) / 1000)
    alone = instance.replace(server=Server(slots=1, clock=law.model_copy(update={"mixed": False})))
    assert load(alone) == pytest.approx((10 + 6 + 18 + 120) / 1000)
    unit = instance.replace(server=Server(kv_capacity_tokens=50))
    assert load(unit) == pytest.approx((11 + 12 + 13) / 50)
    at_once = instance.replace(requests=tuple(r.model_copy(update={"arrival": 0.0}) for r in requests))
    assert load(at_once) is None


def test_overload_is_said() -> None:
    """Tests the words, in the result too, and that a load under the whole is said to nobody."""
    instance = generate("chat", requests=500, rate=50, server="llama2-70b-2xa100")
    share = load(instance)
    assert share is not None
    assert share > 1
    result = simulate(instance, "svf")
    assert result.load == share
    assert result.message == load_words(share)
    assert f"{share:.0%} of capacity" in result.message
    assert not mk.verify_result(result.model_copy(update={"load": 0.5}), instance).holds
    assert mk.verify_result(result, instance).holds
    assert load_words(0.99) is None
    assert load_words(None) is None


def test_load_is_a_lower_bound() -> None:
    """Tests that no policy on random instances is done before the load's least work is."""
    rng = random.Random(0)
    for seed in range(30):
        law = LinearClock(
            kind="linear",
            mixed=rng.random() < 0.5,
            prefill_base_ms=rng.uniform(0, 20),
            prefill_per_token_ms=rng.random(),
            decode_base_ms=rng.uniform(1, 50),
            decode_per_request_ms=rng.random(),
            decode_per_kv_token_ms=rng.random() / 9,
            base_ms=rng.uniform(0, 20),
        )
        rows = generate("kv-synthetic", seed=seed, requests=25, kv_capacity=60).requests
        last = rng.uniform(0.01, 3)
        requests = tuple(r.model_copy(update={"arrival": last * i / 24}) for i, r in enumerate(rows))
        instance = Instance(server=Server(kv_capacity_tokens=60, clock=law), requests=requests)
        share = load(instance)
        assert share is not None
        for policy in rng.sample(fitting_policies(instance), 3):
            makespan = simulate(instance, policy).metrics["makespan_ms"]
            assert makespan >= share * last * 25 / 24 * 1000 - 1e-6, policy
