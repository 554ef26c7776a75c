"""Families: their laws, their options, and that a seed is all there is to them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from modelkit.errors import InputError, UsageError
from modelkit.io import load
from modelkit.runtime.resources import bundled
from modelkit.sources.families import families, generate


@pytest.mark.parametrize("name", list(families()))
def test_every_family_draws_feasible_instances_from_its_seed(name: str) -> None:
    """Tests that a draw depends on the seed alone, and that every request fits."""
    first, again, other = (generate(name, seed=seed) for seed in (1, 1, 2))
    assert first.sha256 == again.sha256 != other.sha256
    first.check_fits()
    assert first.source == f"family {name}"
    assert {option.name for option in families()[name].options} >= {"seed", "requests"}


def test_kv_synthetic_follows_its_law() -> None:
    """Tests the ranges of both arrival models over many seeds."""
    for arrivals, lengths in (("all-at-once", range(40, 61)), ("poisson", range(1, 150))):
        sizes = set()
        for seed in range(60):
            instance = generate("kv-synthetic", seed=seed, arrivals=arrivals)
            capacity = instance.server.kv_capacity_tokens
            assert capacity in range(30, 51)
            assert len(instance.requests) in lengths
            assert instance.arrays.prompt.max() <= 5
            assert instance.arrays.peak.max() <= capacity
            assert instance.arrays.arrival.max() == 0 or arrivals == "poisson"
            sizes.add(len(instance.requests))
        assert len(sizes) > 10


def test_chat_has_the_published_moments() -> None:
    """Tests mean and median of the lengths, and the rate."""
    arrays = generate("chat", requests=60_000, rate=50.0, kv_capacity=10**6).arrays
    assert np.median(arrays.prompt) == 11
    assert np.median(arrays.output) == pytest.approx(45, abs=1)
    assert arrays.prompt.mean() == pytest.approx(40.62, rel=0.08)
    assert arrays.output.mean() == pytest.approx(85.32, rel=0.05)
    assert 60_000 / arrays.arrival.max() == pytest.approx(50, rel=0.02)
    assert generate("chat", requests=10, rate=0.0).arrays.arrival.max() == 0


def test_service_hour_looks_like_the_trace() -> None:
    """Tests the summary figures that it was drawn to resemble."""
    arrays = generate("service-hour").arrays
    assert len(arrays.prompt) == 19_366
    assert arrays.prompt.mean() == pytest.approx(1155, rel=0.05)
    assert np.median(arrays.prompt) == pytest.approx(1020, rel=0.05)
    assert arrays.output.mean() == pytest.approx(211, rel=0.05)
    assert np.median(arrays.output) == pytest.approx(129, rel=0.1)
    assert 3200 < arrays.arrival.max() * 0.055 < 3800


def test_options_out_of_range_are_refused_together() -> None:
    """Tests that all wrong options are named at once, and unknown families with the nearest."""
    with pytest.raises(InputError) as caught:
        generate("chat", requests=0, rate=-1.0, kv_capacity=1)
    assert [fault.path for fault in caught.value.faults] == ["--requests", "--rate", "--kv-capacity"]
    with pytest.raises(UsageError, match="did you mean 'chat'"):
        generate("chatt")


def test_shipped_instances_are_what_they_say() -> None:
    """Tests that each shipped instance loads, is feasible, and that the optima beside them are of these instances."""
    optima = json.loads((bundled("instances") / "optima.json").read_text())
    shipped = {}
    for path in sorted(bundled("instances").glob("*.json*")):
        if path.name not in ("optima.json", "instance.schema.json"):
            instance = load(path)
            instance.check_fits()
            assert path.name.startswith(f"{instance.name}.json")
            shipped[instance.name] = instance
    assert len(optima) >= 4
    for name, optimum in optima.items():
        assert optimum["sha256"] == shipped[name].sha256
    assert len(load(bundled("instances") / "service-hour.json.gz").requests) == 19_366
