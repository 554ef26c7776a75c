"""Bounds in real time against an exhaustive search, and the search against the judge."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import serving_bounds
from realtime_brute_force import METRICS, OBJECTIVES, judged_value, optimum, question
from serving_bounds import against_policies, claims, excesses, larger_instance

import modelkit as mk
from modelkit.authoring.check.brute_force import best_schedule
from modelkit.authoring.check.tiny_instances import mixed_instance
from modelkit.formulation.formulation import Formulation
from modelkit.instance import LinearClock, Request, Server
from modelkit.judge import judge
from modelkit.problems.problem import SERVING, problem_of


@pytest.mark.parametrize("seed", range(24))
def test_schedules_of_the_search_are_valid_and_have_its_value(seed: int) -> None:
    """Tests the search under every law, with chunks and evictions, against the judge."""
    instance, chunk, evictions = question(seed)
    for objective in OBJECTIVES:
        best = optimum(instance, objective, evictions=evictions, chunk=chunk)
        verdict = judge(instance, best.schedule)
        assert verdict.violations == ()
        assert judged_value(verdict, objective) == pytest.approx(best.value, rel=1e-9, abs=1e-9)


def least_over_starts(
    arrival: list[int], prompt: list[int], output: list[int], limits: Server
) -> dict[str, int] | None:
    """The three optima when every round lasts 1 ms, over all whole starts."""
    memory, slots = limits.kv_capacity_tokens or 10**9, limits.slots or 10**9
    last = max(arrival) + sum(output)
    best: dict[str, int] = {}
    for starts in product(*(range(a, last) for a in arrival)):
        active = [[i for i, k in enumerate(starts) if k < t <= k + output[i]] for t in range(last + max(output) + 1)]
        if any(
            len(now) > slots or sum(prompt[i] + t - starts[i] for i in now) > memory for t, now in enumerate(active)
        ):
            continue
        found = {
            "latency": sum(k + o - a for k, o, a in zip(starts, output, arrival, strict=True)),
            "makespan": max(k + o for k, o in zip(starts, output, strict=True)),
            "ttft": sum(k + 1 - a for k, a in zip(starts, arrival, strict=True)),
        }
        best = {name: min(value, best.get(name, value)) for name, value in found.items()}
    return best or None


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("law", [{"mixed": True, "base_ms": 1.0}, {"mixed": False, "decode_base_ms": 1.0}])
def test_rounds_of_one_millisecond_are_the_unit_clock(law: dict, seed: int) -> None:
    """Tests the search against an enumeration of starts that knows nothing of iterations."""
    rng = np.random.default_rng(seed)
    arrival, prompt, output = (rng.integers(low, high, 3).tolist() for low, high in ((0, 5), (1, 5), (1, 5)))
    memory = int(rng.integers(max(s + o for s, o in zip(prompt, output, strict=True)), 18))
    server = Server(
        kv_capacity_tokens=memory, slots=2 if seed % 3 == 0 else None, clock=LinearClock(kind="linear", **law)
    )
    rows = zip(arrival, prompt, output, strict=True)
    requests = [
        Request(id=f"q{i}", arrival=a / 1000, prompt_tokens=s, output_tokens=o) for i, (a, s, o) in enumerate(rows)
    ]
    instance = mk.Instance(server=server, requests=tuple(requests))
    expected = least_over_starts(arrival, prompt, output, server)
    for objective in OBJECTIVES:
        assert optimum(instance, objective).value == expected[objective]
        assert optimum(instance, objective, evictions=True).value == expected[objective]


def test_the_search_waits_and_gathers_when_that_is_best() -> None:
    """Tests optima found by hand: prompts that share a fixed part, and one that waits for the other's end."""
    clock = LinearClock(kind="linear", mixed=True, prefill_base_ms=10.0, decode_base_ms=1.0)
    requests = tuple(Request(id=f"q{i}", arrival=i / 1000, prompt_tokens=1, output_tokens=2) for i in range(2))
    together = mk.Instance(server=Server(clock=clock), requests=requests)
    # from 1 ms on both read until 11 and decode until 12: 12 + 11, one by one 11 + 21 and more
    assert optimum(together).value == 23
    alone = together.replace(server=Server(clock=clock, slots=1))
    assert optimum(alone).value == 11 + 21
    assert optimum(alone, "ttft").value == 10 + 20
    assert optimum(alone, "makespan").value == 22


@pytest.mark.parametrize("seed", range(200, 212))
def test_evictions_gain_nothing_with_whole_prompts(seed: int) -> None:
    """Tests that the optimum is the same with them: without cut residencies every iteration is shorter."""
    instance, _, _ = question(seed, most=3, longest=4)
    for objective in OBJECTIVES:
        assert optimum(instance, objective).value == optimum(instance, objective, evictions=True).value


def test_what_does_not_fit_has_no_schedule() -> None:
    """Tests a request beyond the memory and a prompt beyond the largest level, unless it is split."""
    clock = LinearClock(kind="linear", mixed=True, decode_base_ms=1.0, prefill_levels=((4, 1.0),))
    instance = mk.Instance(server=Server(clock=clock), requests=(Request(id="q", prompt_tokens=5, output_tokens=3),))
    assert optimum(instance) is None
    assert optimum(instance, chunk=3).value == 1 + 1 + 2
    small = instance.replace(server=Server(clock=LinearClock(kind="linear", mixed=True), kv_capacity_tokens=7))
    assert optimum(small) is None


@pytest.mark.parametrize(
    "seeds",
    [range(8), *(pytest.param(range(k, k + 100), marks=pytest.mark.slow) for k in range(8, 1508, 100))],
)
def test_no_bound_is_above_the_optimum(seeds: range) -> None:
    """Tests every kind of bound, with found and with random proofs, on every metric, under every law and limit."""
    assert [(seed, *wrong) for seed in seeds if (wrong := excesses(question(seed), seed))] == []


def test_a_bound_above_the_optimum_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests the comparison itself: with bounds a millionth above the optimum, and at it."""
    parametrised = question(1, plain=True)
    least = {metric: optimum(parametrised.instance, name).value for name, metric in METRICS.items()}
    assert min(least.values()) > 0

    def raised(by: float) -> list[str]:
        rows = [
            serving_bounds.Claim("made up", metric, Fraction(value * (1 + by)), "") for metric, value in least.items()
        ]
        monkeypatch.setattr(serving_bounds, "claims", lambda *_: rows)
        return excesses(parametrised, 1)

    assert raised(0.0) == []
    assert len(raised(1e-6)) == 3


def test_bounds_are_worth_something() -> None:
    """Tests that the best bound is not far below the optimum where everybody's prompt is processed whole."""
    shares: dict[str, list[float]] = {name: [] for name in OBJECTIVES}
    for seed in range(500, 512):
        instance, _, _ = question(seed, plain=True)
        found = list(claims(instance, seed))
        for name, metric in METRICS.items():
            if (best := optimum(instance, name).value) > 0:
                shares[name].append(float(max(c.value for c in found if c.metric == metric)) / best)
    means = {name: sum(values) / len(values) for name, values in shares.items()}
    assert means["latency"] > 0.7
    assert means["makespan"] > 0.8
    assert means["ttft"] > 0.5


@pytest.mark.parametrize("objective", ["total_latency", "makespan", "total_ttft"])
def test_check_tries_all_schedules_in_real_time(objective: str) -> None:
    """Tests the enumeration that `modelkit check` holds users' formulations to."""
    formulation = Formulation(name="made-up", summary="", claim="exact", reference="", objective=objective)
    name = objective.removeprefix("total_")
    for seed in range(8):
        instance = mixed_instance(seed, 3)
        best = best_schedule(formulation, instance)
        assert best.value == pytest.approx(optimum(instance, name).value, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_no_bound_is_above_the_value_of_a_policy(seed: int) -> None:
    """Tests every bound against all policies on 10 to 500 requests; ``benchmarks/serving_truth.py`` takes 300."""
    assert against_policies(larger_instance(seed), seed).excesses == []


@pytest.mark.parametrize("seed", [5, *(pytest.param(s, marks=pytest.mark.slow) for s in range(40, 70))])
def test_bound_says_what_is_so(seed: int) -> None:
    """Tests the command's answer on every objective: bound <= optimum <= value, and both are verified."""
    instance, _, _ = question(seed)
    if problem_of(instance) is not SERVING:
        return
    for name, metric in METRICS.items():
        known = mk.bound(instance, objective=name, time_limit=0.5)
        best = optimum(instance, name).value
        assert known.result.objective.name == metric
        assert known.value <= best * (1 + 1e-12)
        assert known.result.objective.value >= best * (1 - 1e-9)
        assert mk.verify_certificate(known.certificate, instance).holds
        assert mk.verify_result(known.result, instance).holds
