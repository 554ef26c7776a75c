"""Tests that idle time is cut out without losing an optimal schedule, and that limits hold."""

from __future__ import annotations

import itertools
import time
from fractions import Fraction

import numpy as np
import pytest

import modelkit as mk
from modelkit.authoring.diagnose import diagnose
from modelkit.authoring.export import export_model
from modelkit.certificate import Prices
from modelkit.formulation.loading import load_formulation
from modelkit.instance import Instance, Request, Server
from modelkit.problems.kv.idle import busy
from modelkit.problems.kv.local_search import TooLargeError, TooLateError, fits, latency, starts_of
from modelkit.runtime.deadline import Deadline, current, within
from modelkit.solving.bound import bound
from modelkit.solving.known import known_of
from modelkit.sources.families import generate
from modelkit.verify.exact_bounds import recomputed_bound
from modelkit.verify.kv_bound import exact_bound


def sparse_instance(seed: int, n: int = 4) -> Instance:
    """Few requests with gaps of any length between them."""
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.choice([0, 1, 3, 8, 20], size=n))
    requests = (
        Request(
            id=f"q{i}", arrival=int(a), prompt_tokens=int(rng.integers(1, 4)), output_tokens=int(rng.integers(1, 5))
        )
        for i, a in enumerate(arrival)
    )
    return Instance(name=f"sparse-{seed}", server=Server(kv_capacity_tokens=8), requests=tuple(requests))


def optimal_starts(instance: Instance) -> tuple[int, list[list[int]]]:
    """The optimum and all optimal schedules, by trying everything; nobody starts later than after all others."""
    arrays = instance.arrays
    last = int(arrays.arrival.max() + arrays.output.sum())
    reach = int(arrays.output.sum())
    best: list[list[int]] = []
    least = last * len(arrays.output) * 2
    for starts in itertools.product(*(range(a, min(last, a + reach) + 1) for a in arrays.arrival.tolist())):
        value = latency(instance, np.array(starts))
        if value <= least and fits(instance, np.array(starts)):
            best = [*best, list(starts)] if value == least else [list(starts)]
            least = value
    return least, best


@pytest.mark.parametrize("seed", range(12))
def test_no_optimal_schedule_is_lost(seed: int) -> None:
    """Tests against brute force: optimal schedules correspond, start by start."""
    instance = sparse_instance(seed, 3)
    cut = busy(instance)
    value, all_of_them = optimal_starts(instance)
    value_cut, without = optimal_starts(cut.instance)
    assert value == value_cut
    assert all_of_them == sorted(cut.starts(np.array(starts)).tolist() for starts in without)


def test_a_part_that_runs_into_the_next_is_closed_up() -> None:
    """Tests that any valid schedule without idle time becomes a valid one that costs no more."""
    rng = np.random.default_rng(1)
    closed = 0
    for seed in range(60):
        cut = busy(sparse_instance(seed))
        arrays = cut.instance.arrays
        starts = arrays.arrival + rng.integers(0, 25, size=len(arrays.output))
        if not fits(cut.instance, starts):
            continue
        back = cut.starts(starts)
        assert fits(cut.original, back)
        assert latency(cut.original, back) <= latency(cut.instance, starts)
        closed += latency(cut.original, back) < latency(cut.instance, starts)
    assert closed


def test_nothing_is_cut_where_nothing_is_idle(two: Instance) -> None:
    """Tests that instances without idle time stay the same object."""
    assert busy(two).instance is two


def moved(instance: Instance, rounds: int) -> Instance:
    return instance.replace(
        requests=tuple(r.model_copy(update={"arrival": int(r.arrival) + rounds}) for r in instance.requests)
    )


@pytest.mark.parametrize("origin", [100_000, 100_000_000])
def test_the_origin_of_time_changes_nothing(origin: int) -> None:
    """Tests that proof, bound and schedule are the same, moved."""
    here = Instance(
        name="here",
        server=Server(kv_capacity_tokens=14),
        requests=tuple(
            Request(id=f"q{i}", arrival=i % 3, prompt_tokens=1 + i % 4, output_tokens=3 + i % 5) for i in range(8)
        ),
    )
    there = moved(here, origin)
    one, other = mk.solve(here, time_limit=None), mk.solve(there, time_limit=None)
    assert one.status == other.status == "optimal"
    assert one.objective == other.objective
    assert one.schedule is not None
    assert other.schedule is not None
    assert (starts_of(here, one.schedule) + origin == starts_of(there, other.schedule)).all()
    priced, moved_prices = bound(here, time_limit=None).certificate, bound(there, time_limit=None).certificate
    assert priced.bound == moved_prices.bound
    assert Fraction(priced.bound.numerator, priced.bound.denominator) == recomputed_bound(moved_prices, there)


def test_exact_bounds_pass_over_free_rounds() -> None:
    """Tests the recomputation of prices far apart against every start tried."""
    rng = np.random.default_rng(0)
    for seed in range(60):
        instance = sparse_instance(seed)
        arrays = instance.arrays
        last = int(arrays.arrival.max() + arrays.output.sum())
        rounds = np.sort(rng.choice(np.arange(1, last + 1), size=min(last, 4), replace=False)).tolist()
        prices = Prices(denominator=4, rounds=rounds, numerators=rng.integers(1, 9, size=len(rounds)).tolist())
        charge = dict(zip(rounds, prices.numerators, strict=True))
        total = -8 * sum(prices.numerators)
        columns = zip(arrays.arrival.tolist(), arrays.prompt.tolist(), arrays.output.tolist(), strict=True)
        for a, s, o in columns:
            total += min(
                4 * (k + o - a) + sum(charge.get(k + j, 0) * (s + j) for j in range(1, o + 1))
                for k in range(a, max(a, last) + 1)
            )
        assert exact_bound(instance, prices) == Fraction(total, 4)


def test_a_deadline_stands_for_what_is_within() -> None:
    """Tests that the earlier of two nested deadlines holds, and none after the block."""
    soon, later = Deadline.after(1), Deadline.after(100)
    with within(soon), within(later):
        assert current() == soon
    assert not current().finite
    assert Deadline.after(None) == Deadline()


def huge() -> Instance:
    return Instance(
        name="huge", server=Server(), requests=(Request(id="r", prompt_tokens=10, output_tokens=100_000_000),)
    )


def test_a_model_that_cannot_be_built_is_refused_at_once() -> None:
    """Tests solve, export and diagnose on one output of 10^8 tokens."""
    began = time.process_time()
    with pytest.raises(TooLargeError, match=r"500,000,00\d non-zeros"):
        export_model(huge())
    assert diagnose(huge()).verdict == "unknown"
    result = mk.solve(huge(), time_limit=10)
    assert (result.status, result.objective.value) == ("optimal", 100_000_000)
    assert "non-zeros" in result.message
    assert time.process_time() - began < 20


def test_a_model_that_takes_too_long_is_not_begun() -> None:
    """Tests that the estimate is held against what is left."""
    chats = generate("chat", requests=40, rate=0.0, kv_capacity=1000)
    flow = load_formulation("kv-hindsight-flow")
    known = known_of(flow, chats)
    assert flow.values(chats, known)["STARTS_OF"]
    with within(Deadline.after(1e-4)), pytest.raises(TooLateError, match="left of the time limit"):
        flow.values(chats, known)


def test_a_limit_too_short_for_a_model_gives_the_best_known() -> None:
    """Tests that schedule and certified bound are there, and that no solver was begun."""
    result = mk.solve(generate("chat", requests=600, rate=0.0), time_limit=1.0)
    assert (result.status, result.stop) == ("feasible", "time_limit")
    assert result.objective.bound_by == "certificate"
    assert "no solver ran" in result.message
    assert result.model is None
