"""Certificates by partitions of the held tokens, against brute force and the finder's own bound."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from kv_brute_force import brute_force

import modelkit as mk
from modelkit.certificate import Partitions
from modelkit.errors import InputError
from modelkit.instance import Instance, Request, Server
from modelkit.sources.families import generate
from modelkit.verify.exact_bounds import certify_partitions
from modelkit.verify.kv_partitions import partitions_bound


@pytest.mark.parametrize("seeds", [range(40), pytest.param(range(40, 400), marks=pytest.mark.slow)])
def test_no_schedule_is_below(seeds: range, draw: Callable[..., Instance]) -> None:
    """Tests random multipliers and floors on random instances with arrivals: never above the optimum, often close."""
    close = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        instance = draw(seed, 1 + seed % 5, most_memory=8 + seed % 5, spread=seed % 4)
        value, _ = brute_force(instance)
        n, d = len(instance.requests), int(rng.choice([1, 4, 64]))
        for _ in range(4):
            floors = instance.arrays.prompt + rng.integers(0, 3, n)
            multipliers = rng.integers(-d, 2 * d * value // n + d, n)
            proof = Partitions(denominator=d, floors=floors.tolist(), multipliers=multipliers.tolist())
            bound = partitions_bound(instance, proof)
            assert bound <= value, seed
            close += bound > 0.9 * value
    assert close > len(seeds) // 4


@pytest.mark.parametrize("arrivals", ["all-at-once", "poisson"])
def test_bound_publishes_it(arrivals: str) -> None:
    """Tests that ``bound`` finds a certificate far above that by prices, that it verifies, and what it is below."""
    instance = generate("kv-synthetic", seed=2, requests=9, kv_capacity=20, arrivals=arrivals)
    found = mk.bound(instance, time_limit=None)
    assert found.certificate.kind == "kv-partitions"
    assert mk.verify_certificate(found.certificate, instance).holds
    assert mk.verify_result(found.result, instance).holds
    assert found.certificate.value > instance.arrays.output.sum()
    assert found.certificate.value <= mk.solve(instance, time_limit=20).objective.value


@pytest.mark.parametrize("changes", [{"slots": 3}, {"replicas": 2}])
def test_bounds_say_that_it_is_this_one(changes: dict[str, int]) -> None:
    """Tests that problems that it bounds too, with slots or replicas, call it by its name, and that it verifies."""
    drawn = generate("kv-synthetic", seed=2, requests=9, kv_capacity=20 // changes.get("replicas", 1))
    instance = drawn.replace(server=drawn.server.model_copy(update=changes))
    found = mk.bound(instance, time_limit=None)
    assert found.certificate.kind == "kv-partitions"
    assert "a multiset of tokens" in found.counts
    assert mk.verify_certificate(found.certificate, instance).holds


def test_what_it_refuses() -> None:
    """Tests that what is no proof is refused, and says where."""
    request = Request(id="a", prompt_tokens=3, output_tokens=2)
    instance = Instance(name="one", server=Server(kv_capacity_tokens=9), requests=(request,))

    def refused(words: str, instance: Instance = instance, **changes: object) -> None:
        proof = {"denominator": 1, "floors": [3], "multipliers": [4], **changes}
        with pytest.raises(InputError, match=words):
            certify_partitions(instance, Partitions(**proof))

    assert certify_partitions(instance, Partitions(denominator=1, floors=[3], multipliers=[2])).value == 2
    refused("no lower than its request's prompt", floors=[2])
    refused("2 numbers, but 1 requests", floors=[3, 3])
    refused("0 numbers, but 1 requests", multipliers=[])
    refused("too high", multipliers=[2**59])
    refused(
        "without pauses", instance.model_copy(update={"server": Server(kv_capacity_tokens=9, pause={"keep": "held"})})
    )
    large = Request(id="a", prompt_tokens=3, output_tokens=400)
    refused(
        "more than 60,000 states",
        Instance(name="many", server=Server(kv_capacity_tokens=400 * 5), requests=(large,)),
        multipliers=[400],
    )
