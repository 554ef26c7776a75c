"""Prices, relaxation and certified bounds: bound <= LP = duals' certificate <= optimum <= every schedule."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import modelkit as mk
from modelkit.backends import engine
from modelkit.backends.standard_form import compile_model
from modelkit.errors import InfeasibleError, InterruptedWith, UsageError
from modelkit.formulation.loading import load_formulation
from modelkit.instance import Instance, Request, Server
from modelkit.problems.kv.prices import Ascent, ascend, fluid_prices
from modelkit.problems.kv.relaxation import Relaxation
from modelkit.runtime.deadline import Deadline
from modelkit.simulation.simulate import fitting_policies
from modelkit.solving.bound import bound
from modelkit.solving.candidates import first_starts
from modelkit.solving.known import Known, known_of
from modelkit.sources.families import generate
from modelkit.verify.exact_bounds import certify


def instance_of(rows: list[tuple[int, int, int]], capacity: int | None) -> Instance:
    """Instance from rows of arrival, prompt, output."""
    return Instance(
        name="small",
        server=Server(kv_capacity_tokens=capacity),
        requests=tuple(
            Request(id=f"r{i}", arrival=a, prompt_tokens=s, output_tokens=o) for i, (a, s, o) in enumerate(rows)
        ),
    )


def optimum(instance: Instance) -> int:
    """Minimum total latency by trying all starts up to a horizon that any serial schedule keeps."""
    rows = [(int(r.arrival), r.prompt_tokens, r.output_tokens) for r in instance.requests]
    horizon = max(a for a, _, _ in rows) + sum(o for _, _, o in rows)
    capacity = instance.server.kv_capacity_tokens
    best = None
    for starts in product(*(range(a, horizon - o + 1) for a, _, o in rows)):
        held = np.zeros(horizon + 1)
        for k, (_, s, o) in zip(starts, rows, strict=True):
            held[k + 1 : k + o + 1] += s + np.arange(1, o + 1)
        value = sum(k + o - a for k, (a, _, o) in zip(starts, rows, strict=True))
        if held.max() <= capacity and (best is None or value < best):
            best = value
    return best


@pytest.mark.parametrize("seed", range(6))
def test_bound_is_below_the_optimum_and_the_schedule_above(seed: int) -> None:
    """Tests that brute force lies between the certificate and the local search."""
    rng = np.random.default_rng(seed)
    capacity = int(rng.integers(6, 10))
    rows = []
    for _ in range(4):
        s = int(rng.integers(1, 4))
        rows.append((int(rng.integers(0, 3)), s, int(rng.integers(1, min(3, capacity - s) + 1))))
    instance = instance_of(rows, capacity)
    found = bound(instance, time_limit=None)
    best = optimum(instance)
    assert found.value <= best <= found.result.objective.value
    assert best == found.result.objective.value


def linear_prices(instance: mk.Instance) -> tuple[np.ndarray, float]:
    """Prices from the duals of ``kv-hindsight-lp``, index = round, and its optimum."""
    linear = load_formulation("kv-hindsight-lp")
    model = linear.instantiate(instance, known_of(linear, instance))
    form, columns = compile_model(model)
    solver = engine.new_highs(form)
    engine.run(solver)
    solution = solver.getSolution()
    assert engine.is_optimal(solver)
    place = {id(column): c for c, column in enumerate(columns)}
    prices = np.zeros(max(model.ROUNDS) + 1)
    for t in model.ROUNDS:
        if id(model.held[t]) in place:
            prices[t] = max(0.0, -solution.col_dual[place[id(model.held[t])]])
    return prices, form.objective(np.array(solution.col_value))


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("kv-synthetic", {"requests": 15, "seed": 1}),
        ("kv-synthetic", {"arrivals": "poisson", "requests": 20, "seed": 3}),
        ("chat", {"requests": 40, "rate": 0.0, "kv_capacity": 2000}),
    ],
)
def test_prices_and_linear_program_agree(family: str, options: dict) -> None:
    """Tests that the prices come within 0.1 % of the LP, whose duals certify its optimum."""
    instance = generate(family, **options)
    prices, linear = linear_prices(instance)
    from_duals = certify(instance, prices).bound
    assert from_duals.numerator / from_duals.denominator == pytest.approx(linear, rel=1e-6)
    own = certify(instance, Known(instance).hindsight.prices).bound
    assert linear * 0.999 <= own.numerator / own.denominator <= linear * (1 + 1e-6)
    assert linear <= Known(instance).hindsight.latency


def test_smooth_gradient_is_right() -> None:
    """Tests that the excess is the derivative of the smooth bound, by differences."""
    instance = generate("kv-synthetic", requests=8, seed=2)
    starts = first_starts(instance)
    rounds = int((starts + instance.arrays.output).max())
    relaxation = Relaxation(instance, rounds)
    prices = fluid_prices(instance, starts, rounds) + 0.01
    last = np.full(8, rounds)
    stride = np.ones(8, dtype=np.int64)
    at = relaxation.smooth(prices, 2.0, instance.arrays.arrival, last, stride)
    for t in (0, 5, rounds // 2):
        step = np.zeros(rounds)
        step[t] = 1e-5
        above = relaxation.smooth(prices + step, 2.0, instance.arrays.arrival, last, stride)
        below = relaxation.smooth(prices - step, 2.0, instance.arrays.arrival, last, stride)
        assert (above.value - below.value) / 2e-5 == pytest.approx(at.excess[t], rel=1e-3, abs=1e-2)
    assert at.value <= relaxation.bound(prices, starts)[0]


def test_bound_over_pruned_starts_is_the_bound_over_all() -> None:
    """Tests that starts are passed over only where they cannot be cheapest."""
    instance = generate("kv-synthetic", requests=12, seed=5)
    starts = first_starts(instance)
    ascent = ascend(instance, starts)
    exact = certify(instance, ascent.prices).bound
    assert exact.numerator / exact.denominator == pytest.approx(ascent.bound, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_blocks_passed_over_hold_no_cheapest_start(seed: int) -> None:
    """Tests hilly prices over thousands of rounds against all starts, one by one, and the starts that are near."""
    rng = np.random.default_rng(seed)
    instance = generate("kv-synthetic", requests=20, seed=seed)
    relaxation = Relaxation(instance, 6000)
    time = np.arange(6000)
    hills = (1 + np.sin(time / rng.integers(50, 900))) * np.maximum(0, 1 - time / rng.integers(3000, 9000))
    prices = hills + 0.05 * rng.random(6000)
    p, q = relaxation.sums(prices)
    costs = np.array([relaxation.costs(np.full(20, k), p, q) for k in range(6001)])
    bound, cheapest = relaxation.bound(prices, instance.arrays.arrival)
    assert cheapest.tolist() == costs.argmin(axis=0).tolist()
    assert bound == pytest.approx(costs.min(axis=0).sum() - relaxation.capacity * prices.sum(), rel=1e-9)
    first, last = relaxation.near(prices, cheapest, 30.0)
    for i in range(20):
        near = np.flatnonzero(costs[:, i] <= costs[cheapest[i], i] + 30.0)
        assert first[i] == near[0]
        assert last[i] == near[-1]


def test_some_requests_stand_for_all_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests what an ascent on a long queue is after when it has looked at few starts."""
    instance = generate("chat", requests=6000, rate=0.0, kv_capacity=2000, seed=1)
    starts = first_starts(instance)
    rounds = int((starts + instance.arrays.output).max()) + 1
    fluid = Relaxation(instance, rounds).bound(fluid_prices(instance, starts, rounds), starts)[0]
    looked_at = 0
    smoothed = Relaxation.smooth

    def counted(self: Relaxation, prices: np.ndarray, temperature: float, first, last, stride) -> object:
        nonlocal looked_at
        looked_at += int(((last - first) // stride + 1).sum())
        if looked_at > 200_000_000:
            raise KeyboardInterrupt
        return smoothed(self, prices, temperature, first, last, stride)

    monkeypatch.setattr(Relaxation, "smooth", counted)
    with pytest.raises(InterruptedWith) as stop:
        ascend(instance, starts)
    assert stop.value.best.bound > 1.01 * fluid


def test_without_time_the_fluid_prices_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that no bound is computed where the deadline is over, and that what is said in its place is one."""
    instance = generate("chat", requests=100, rate=0.0, kv_capacity=2000)
    starts = first_starts(instance)
    monkeypatch.setattr(Relaxation, "bound", lambda *_: pytest.fail("there is no time"))
    found = ascend(instance, starts, deadline=Deadline(0.0))
    assert found.bound == instance.arrays.output.sum()
    assert found.prices.any()


def test_prices_worse_than_none_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that a certificate never says less than the outputs take."""
    instance = generate("chat", requests=100, rate=0.0, kv_capacity=2000)
    absurd = Ascent(np.full(100, 1000.0), 0.0, np.zeros((1, 100)))
    monkeypatch.setattr("modelkit.solving.kv.ascend", lambda *_, **__: absurd)
    assert bound(instance, time_limit=1).value == instance.arrays.output.sum()


def test_everybody_at_once_is_optimal() -> None:
    """Tests that the bound is sum of outputs where nobody waits, and that it is said to be optimal."""
    found = bound(instance_of([(0, 2, 3), (1, 1, 4)], 100), time_limit=1)
    assert found.value == found.result.objective.value == 7
    assert found.result.status == "optimal"
    assert bound(instance_of([(0, 2, 3)], None)).value == 3


def test_the_same_seed_gives_the_same_bytes() -> None:
    """Tests that a run without a time limit is repeatable."""
    instance = generate("kv-synthetic", requests=12, seed=4)
    first, second = (bound(instance, time_limit=None, seed=1) for _ in range(2))
    assert first.result.schedule == second.result.schedule
    assert first.certificate.prices == second.certificate.prices


def test_time_limit_and_news() -> None:
    """Tests that the limit is kept roughly and that bound, schedule and gap are told."""
    instance = generate("chat", requests=1000, rate=50.0)
    told = []
    found = bound(instance, time_limit=4, listen=told.append)
    assert found.result.seconds.total < 8
    assert found.gap < 0.2  # it takes 0.01 on a machine that is not busy
    assert {"prices", "local search"} <= {news.phase for news in told}
    assert told[-1].incumbent is not None
    assert told[-1].bound is not None


def test_refusals() -> None:
    """Tests that unknown objectives and requests that never fit are refused in words."""
    with pytest.raises(UsageError, match="has no objective 'ttft'"):
        bound(instance_of([(0, 2, 3)], 10), objective="ttft")
    with pytest.raises(InfeasibleError):
        bound(instance_of([(0, 20, 3)], 10))


@pytest.mark.slow
def test_solve_returns_certified_schedule_of_too_large_instances() -> None:
    """Tests that solve falls back on local search and certificate, and says so."""
    instance = generate("chat", requests=4000, rate=50.0, kv_capacity=16_492)
    result = mk.solve(instance, time_limit=5)
    assert "too large" in result.message
    assert "local search" in result.message
    assert result.objective.bound_by == "certificate"
    assert result.objective.gap < 0.06
    assert mk.verify_result(result, instance).holds


@pytest.mark.slow
def test_chat_trace_within_three_percent() -> None:
    """Tests the gap on 10,000 chats; an idle machine takes less than a minute, a busy one may take longer."""
    found = bound(generate("chat", requests=10_000, rate=50.0), gap=0.03, time_limit=150)
    assert found.gap <= 0.03


@pytest.mark.parametrize("arrivals", ["all-at-once", "poisson"])
def test_no_policy_is_below_the_bound(arrivals: str) -> None:
    """Tests every policy, those that evict too: its schedule is valid and its latency not below the certificate."""
    instance = generate("kv-synthetic", seed=6, arrivals=arrivals)
    least = certify(instance, Known(instance).hindsight.prices).value
    for policy in fitting_policies(instance):
        result = mk.simulate(instance, policy, seed=1)
        assert result.status in ("feasible", "optimal"), policy
        assert result.objective.value >= least, policy
