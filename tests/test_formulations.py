"""The formulations against brute force, against each other and on both solvers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product

import numpy as np
import pytest
from kv_brute_force import brute_force

from modelkit.backends import Limits, backend
from modelkit.backends.standard_form import compile_model
from modelkit.certificate import SHARE, Work
from modelkit.formulation.loading import found_formulations, load_formulation
from modelkit.instance import Instance, LinearClock
from modelkit.judge import judge
from modelkit.problems.kv import best_known as hindsight_module
from modelkit.problems.problem import TOTAL_LATENCY_MS
from modelkit.schedule import schedule_from_starts
from modelkit.simulation.simulate import clairvoyant_schedule, fitting_policies
from modelkit.solving.known import known_of, start_windows
from modelkit.verify.exact_bounds import certify
from modelkit.verify.serving_work import work_bounds

#: SCIP spends seconds on cuts at the root of tiny models; the optimum is the same without.
SOLVERS = {"highs": {}, "scip": {"separating/maxroundsroot": 5}}
KV_FORMULATIONS = tuple(
    e.name
    for e in found_formulations()
    if e.formulation and (e.formulation.problem, e.formulation.claim) == ("kv-hindsight", "exact")
)


@cache
def least(instance: Instance) -> int:
    """The optimum by exhaustive search, found once for all formulations."""
    return brute_force(instance)[0]


def optimum(name: str, solver: str, instance: Instance) -> float:
    """The judge's value of the schedule that a formulation proves optimal."""
    formulation = load_formulation(name)
    model = formulation.instantiate(instance, known_of(formulation, instance))
    separator = formulation.separator_for(model, instance)
    outcome = backend(solver).solve(model, Limits(time_limit=60), SOLVERS[solver], separator=separator)
    assert (outcome.stop, outcome.found) == ("finished", "solution")
    assert formulation.extract is not None
    verdict = judge(instance, formulation.extract(model, instance))
    assert verdict.valid
    value = verdict.metrics["total_latency_rounds"]
    assert value == outcome.bound
    assert value is not None
    return value


@pytest.mark.parametrize("seeds", [range(12), pytest.param(range(12, 200), marks=pytest.mark.slow)])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", KV_FORMULATIONS)
def test_equals_brute_force(name: str, solver: str, seeds: range, draw: Callable[..., Instance]) -> None:
    """Tests that the proven optimum is that of brute force on 200 random instances of up to 4 requests."""
    for seed in seeds:
        instance = draw(seed, 1 + seed % 4, most_memory=8, spread=3)
        assert optimum(name, solver, instance) == least(instance), seed


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 8))])
def test_siblings_and_solvers_agree(seed: int, draw: Callable[..., Instance]) -> None:
    """Tests that all formulations and both solvers prove one optimum with 6 to 9 requests."""
    instance = draw(1000 + seed, 6 + seed % 4, most_memory=10)
    values = {(name, solver): optimum(name, solver, instance) for name, solver in product(KV_FORMULATIONS, SOLVERS)}
    assert len(set(values.values())) == 1, values


@pytest.mark.slow
def test_policies_are_never_below_the_optimum(draw: Callable[..., Instance]) -> None:
    """Tests that certificate <= optimum <= every policy."""
    for seed in range(60):
        instance = draw(2000 + seed, 4)
        best, _ = brute_force(instance)
        for policy in fitting_policies(instance):
            value = judge(instance, clairvoyant_schedule(instance, policy)).metrics["total_latency_rounds"]
            assert value is not None
            assert value >= best


def lp_bound(name: str, instance: Instance) -> float:
    """Optimum of the continuous relaxation."""
    formulation = load_formulation(name)
    form, _ = compile_model(formulation.instantiate(instance, known_of(formulation, instance)))
    form.integer[:] = False
    form.offset += 0.5  # not integral: the bound is not to be rounded up
    outcome, _ = backend("highs").solve_form(form, Limits(), {})  # type: ignore[attr-defined]
    assert outcome.bound is not None
    return float(outcome.bound - 0.5)


@pytest.mark.slow
def test_lp_bounds_are_equal(draw: Callable[..., Instance]) -> None:
    """Tests that plain and flow formulation have the same LP bound on several instances."""
    for seed in range(5):
        instance = draw(3000 + seed, 8, most_memory=25)
        plain, flow = lp_bound("kv-hindsight", instance), lp_bound("kv-hindsight-flow", instance)
        assert plain == pytest.approx(flow, rel=0, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("with_prices", [False, True])
def test_windows_keep_every_optimum(
    with_prices: bool, draw: Callable[..., Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests that every optimal schedule lies within the start windows, with and without prices."""
    monkeypatch.setattr(hindsight_module, "FEW_STARTS", 0)
    cut = 0
    for seed in range(15):
        instance = draw(4000 + seed, 2 + seed % 3)
        windows = start_windows(instance, use_prices=with_prices)
        _, winners = brute_force(instance)
        for starts in winners:
            for request, window in zip(instance.requests, windows, strict=True):
                assert starts[request.id] in window, (seed, request.id)
        cut += sum(map(len, start_windows(instance, use_prices=False))) - sum(map(len, windows))
    assert (cut > 0) == with_prices


def test_certificate_is_below_the_optimum(draw: Callable[..., Instance]) -> None:
    """Tests that whatever the prices, the certified bound is at most the optimum; good prices give a good one."""
    rng = np.random.default_rng(0)
    for seed in range(60):
        instance = draw(5000 + seed, 3)
        best, _ = brute_force(instance)
        last = int(instance.arrays.arrival.max() + instance.arrays.output.sum())
        prices = rng.exponential(0.1, last) * rng.integers(0, 2, last)
        assert certify(instance, prices).value <= best
        nothing = certify(instance, np.zeros(5))
        assert nothing.value == sum(r.output_tokens for r in instance.requests)


@pytest.mark.parametrize("name", KV_FORMULATIONS)
def test_start_is_the_schedule(name: str, two: Instance) -> None:
    """Tests that a schedule written into the model is feasible there and extracted again."""
    formulation = load_formulation(name)
    model = formulation.instantiate(two, known_of(formulation, two))
    schedule = schedule_from_starts(two, {"short": 0, "long": 2})
    assert formulation.start is not None
    assert formulation.extract is not None
    formulation.start(model, two, schedule)
    assert formulation.extract(model, two) == schedule
    form, _ = compile_model(model, use_start=True)
    assert form.start is not None
    activity = np.zeros(len(form.row_lower))
    np.add.at(
        activity,
        np.repeat(np.arange(len(activity)), np.diff(form.indptr)),
        form.values * form.start[form.indices],
    )
    assert (activity >= form.row_lower - 1e-9).all()
    assert (activity <= form.row_upper + 1e-9).all()


def test_without_capacity_everybody_starts_on_arrival() -> None:
    """Tests that an instance without KV limit is solved: nobody waits."""
    base = Instance.model_validate(
        {
            "server": {},
            "requests": [
                {"id": "a", "prompt_tokens": 5, "output_tokens": 3},
                {"id": "b", "arrival": 2, "prompt_tokens": 5, "output_tokens": 4},
            ],
        }
    )
    assert optimum("kv-hindsight", "highs", base) == 7


def in_real_time(instance: Instance) -> Instance:
    """The same under a clock on which an iteration lasts a millisecond, whatever is in it."""
    clock = LinearClock(kind="linear", mixed=True, base_ms=1.0)
    requests = [r.model_copy(update={"arrival": r.arrival / 1000}) for r in instance.requests]
    return instance.replace(server=instance.server.model_copy(update={"clock": clock}), requests=requests)


@pytest.mark.parametrize("seeds", [range(6), pytest.param(range(6, 200), marks=pytest.mark.slow)])
@pytest.mark.parametrize("solver", SOLVERS)
def test_volume_is_below_the_optimum(solver: str, seeds: range, draw: Callable[..., Instance]) -> None:
    """Tests certified bound by work <= kv-hindsight-volume <= brute force, and the closed form where all are there."""
    formulation, equal = load_formulation("kv-hindsight-volume"), 0
    for seed in seeds:
        instance = draw(6000 + seed, 1 + seed % 5, most_memory=8, spread=seed % 4)
        outcome = backend(solver).solve(
            formulation.instantiate(instance, known_of(formulation, instance)), Limits(time_limit=60), SOLVERS[solver]
        )
        assert outcome.stop == "finished"
        assert outcome.bound is not None
        best = brute_force(instance)[0]
        work = work_bounds(in_real_time(instance), Work(memory_share=SHARE), TOTAL_LATENCY_MS)["work"]
        assert work.numerator / work.denominator <= outcome.bound + 1e-6
        assert outcome.bound <= best + 1e-6
        equal += outcome.bound == best
        if all(r.arrival == 0 for r in instance.requests):
            assert instance.server.kv_capacity_tokens is not None
            volumes = sorted(r.prompt_tokens * r.output_tokens + r.output_tokens * (r.output_tokens + 1) // 2
                             for r in instance.requests)  # fmt: skip
            sums = np.cumsum(volumes)
            assert outcome.bound >= sum(-(-int(v) // instance.server.kv_capacity_tokens) for v in sums)
            assert lp_bound("kv-hindsight-volume", instance) >= sums.sum() / instance.server.kv_capacity_tokens - 1e-6
    assert 0 < equal < len(seeds)
