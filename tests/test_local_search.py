"""Hindsight improvement: valid schedules, no worse than what they began with, repeatable."""

from __future__ import annotations

import numpy as np
import pytest

from modelkit.errors import InfeasibleError
from modelkit.instance import Instance, Request, Server
from modelkit.judge import judge
from modelkit.problems.kv.local_search import (
    TooLargeError,
    improve_starts,
    latency,
    list_schedule,
    schedule_of,
    starts_of,
)
from modelkit.problems.kv.memory_profile import BLOCK, change, empty_memory, first_fit
from modelkit.runtime.deadline import Deadline, within
from modelkit.simulation.simulate import clairvoyant_schedule
from modelkit.solving import candidates
from modelkit.solving.candidates import SCOUTS, first_starts
from modelkit.sources.families import generate

#: An instance whose optimum, 262, no order reaches: the best of all orders has 264.
NO_ORDER = [(3, 12), (4, 31), (5, 15), (1, 11), (1, 32), (5, 9), (5, 14), (2, 24)]


def instance_of(rows: list[tuple[int, int]], capacity: int) -> Instance:
    return Instance(
        server=Server(kv_capacity_tokens=capacity),
        requests=tuple(Request(id=f"r{i}", prompt_tokens=s, output_tokens=o) for i, (s, o) in enumerate(rows)),
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("arrivals", ["all-at-once", "poisson"])
def test_schedules_are_valid_and_no_worse_than_policies(seed: int, arrivals: str) -> None:
    """Tests the search against the judge and against every policy in hindsight."""
    instance = generate("kv-synthetic", seed=seed, arrivals=arrivals)
    verdict = judge(instance, schedule_of(instance, improve_starts(instance, first_starts(instance), effort=2e7)))
    assert verdict.valid
    for policy in SCOUTS:
        online = judge(instance, clairvoyant_schedule(instance, policy))
        assert verdict.metrics["total_latency_rounds"] <= online.metrics["total_latency_rounds"]


def test_delays_find_what_no_order_does() -> None:
    """Tests the instance on which the best order is not optimal."""
    instance = instance_of(NO_ORDER, 39)
    assert latency(instance, improve_starts(instance, first_starts(instance))) == 262


def test_list_schedules_start_at_the_first_fit() -> None:
    """Tests list scheduling by blocks against the definition, round by round."""
    instance = generate("kv-synthetic", seed=7, arrivals="poisson")
    arrays, capacity = instance.arrays, instance.server.kv_capacity_tokens
    key = np.random.default_rng(0).permutation(len(arrays.output))
    starts = list_schedule(instance, key)
    held = np.zeros(int(arrays.arrival.max() + arrays.output.sum()) + 2, dtype=np.int64)
    for i in np.argsort(key):
        a, s, o = int(arrays.arrival[i]), int(arrays.prompt[i]), int(arrays.output[i])
        grows = s + np.arange(1, o + 1)
        k = next(k for k in range(a, len(held)) if (held[k + 1 : k + o + 1] + grows <= capacity).all())
        assert starts[i] == k
        held[k + 1 : k + o + 1] += grows


def test_profile_changes_cancel() -> None:
    """Tests that adding and taking out leaves nothing, and that a limit is kept."""
    memory = empty_memory(100, 60)
    held, least, _ = memory
    change(memory, 10, 5, 50, 1)
    assert held[11] == 6
    assert held[60] == 55
    assert least[1] == held[BLOCK : 2 * BLOCK].min()
    assert first_fit(memory, 0, 5, 50, 40) == 40
    assert first_fit(memory, 0, 5, 50, 90) == 60 - (60 - 55 - 5)
    change(memory, 10, 5, 50, -1)
    assert not held.any()
    assert not least.any()


def test_the_same_seed_gives_the_same_schedule() -> None:
    """Tests that without a time limit nothing but the seed matters."""
    instance = generate("kv-synthetic", seed=1)
    start = first_starts(instance)
    first, second = (improve_starts(instance, start, seed=5, effort=1e7) for _ in range(2))
    assert (first == second).all()
    assert (starts_of(instance, schedule_of(instance, first)) == first).all()


def test_limits_and_targets_stop_the_search() -> None:
    """Tests that no time means no search and that a target ends it."""
    instance = generate("kv-synthetic", seed=2)
    start = first_starts(instance)
    assert (improve_starts(instance, start, effort=None, time_limit=0) == start).all()
    assert (improve_starts(instance, start, target=latency(instance, start)) == start).all()
    told: list[int] = []
    improve_starts(instance, start, effort=1e7, listen=told.append)
    assert told == sorted(told, reverse=True)


def test_refusals() -> None:
    """Tests requests that never fit and horizons that no memory holds."""
    with pytest.raises(InfeasibleError):
        first_starts(instance_of([(30, 20)], 40))
    far = instance_of([(1, 2), (1, 2)], 3).model_copy(
        update={"requests": (Request(id="a", prompt_tokens=1, output_tokens=2, arrival=900_000_000),)}
    )
    with pytest.raises(TooLargeError):
        first_starts(far)


def test_a_policy_is_asked_on_large_instances_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that the search begins with the schedule of a policy where there are many requests and the time for it."""
    instance = generate("chat", requests=30, kv_capacity=1000, seed=2)
    monkeypatch.setattr(candidates, "MANY", 10)
    assert list(candidates._scout(instance)) == [clairvoyant_schedule(instance, "svf")]
    with within(Deadline(0.0)):
        assert not list(candidates._scout(instance))
