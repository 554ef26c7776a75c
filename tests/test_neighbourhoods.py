"""Exact neighbourhoods, against brute force and the judge; the search with them, against known optima."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from kv_brute_force import brute_force

import modelkit as mk
from modelkit.instance import Instance
from modelkit.judge import judge
from modelkit.problems.kv.local_search import latency, schedule_of
from modelkit.problems.kv.memory_profile import change, empty_memory, first_fit
from modelkit.problems.kv.neighbourhoods import improve_windows, runs_few_at_once
from modelkit.problems.kv.window_kernel import Window, resolve, room
from modelkit.solving.candidates import first_starts
from modelkit.solving.known import Known
from modelkit.sources.families import generate


def best_by_enumeration(a: np.ndarray, s: np.ndarray, o: np.ndarray, capacity: int, held: np.ndarray, end: int) -> int:
    """Least sum of starts of requests in the memory left, all starts before ``end`` tried."""
    best = 10**9

    def rest(i: int, cost: int, held: np.ndarray) -> None:
        nonlocal best
        if i == len(a):
            best = min(best, cost)
            return
        for k in range(a[i], end):
            if cost + k >= best:
                break
            grown = held[k + 1 : k + o[i] + 1] + s[i] + np.arange(1, o[i] + 1)
            if (grown <= capacity).all():
                after = held.copy()
                after[k + 1 : k + o[i] + 1] = grown
                rest(i + 1, cost + k, after)

    rest(0, 0, held)
    return best


def test_windows_are_solved_exactly() -> None:
    """Tests up to 4 freed requests among up to 3 fixed ones, some of them alike: the sum, the fit, the profile."""
    rng = np.random.default_rng(0)
    delayed = 0
    for trial in range(50):
        capacity, n = int(rng.integers(5, 14)), int(rng.integers(2, 7))
        m = int(rng.integers(1, min(n, 4) + 1))
        s = rng.integers(1, 4, n)
        if trial % 3 == 0:
            s[:] = s[0]
        o = np.minimum([int(rng.integers(1, capacity - x + 1)) for x in s], 6)
        if trial % 3 == 0:
            o[n // 2 :] = o[-1]
        a = rng.integers(0, 4, n)
        memory = empty_memory(200, capacity)
        held = memory.held
        for i in range(m, n):
            k = first_fit(memory, int(a[i] + rng.integers(0, 4)), s[i], o[i], 90)
            change(memory, k, s[i], o[i], 1)
        before, end, best = held.copy(), int(o.sum()) + 12, np.zeros(m, dtype=np.int64)
        found, _, exact = resolve(
            Window(np.arange(m), a[:m], s, o, end), memory, 10**6, 10**6,
            room(int(o.max()), m), best,
        )  # fmt: skip
        assert exact
        assert (held == before).all()
        assert found == best.sum() == best_by_enumeration(a[:m], s, o, capacity, before, end), trial
        order = np.argsort(best, kind="stable")
        for i in order:
            assert best[i] >= a[i]
            delayed += first_fit(memory, a[i], s[i], o[i], end) < best[i]
            change(memory, best[i], s[i], o[i], 1)
        assert held.max() <= capacity
    assert delayed  # starts later than the first fit were needed


def test_limits_and_targets_of_a_window() -> None:
    """Tests that nothing as good as what is known is found, and that a limit of nodes is said to have been reached."""
    s, o = np.array([2, 1, 3]), np.array([5, 6, 4])
    memory = empty_memory(100, 8)
    best = np.zeros(3, dtype=np.int64)
    arguments = Window(np.arange(3), np.zeros(3, dtype=np.int64), s, o, 40), memory
    found, visited, exact = resolve(*arguments, 1000, 10**6, room(6, 3), best)
    assert exact
    again = np.full(3, -1, dtype=np.int64)
    assert resolve(*arguments, found, 10**6, room(6, 3), again)[::2] == (found, True)
    assert (again == -1).all()
    assert resolve(*arguments, 1000, visited - 1, room(6, 3), again)[2] is False
    assert not memory.held.any()


def test_small_instances_are_solved(draw: Callable[..., Instance]) -> None:
    """Tests the search on instances that one window holds: the value of brute force."""
    for seed in range(60):
        instance = draw(300 + seed, 2 + seed % 3, most_memory=8 + seed % 5, spread=seed % 4)
        starts = improve_windows(instance, first_starts(instance))
        assert latency(instance, starts) == brute_force(instance)[0], seed


@pytest.mark.parametrize("arrivals", ["all-at-once", "poisson"])
def test_better_than_the_local_search(arrivals: str) -> None:
    """Tests validity by the judge, the gain, and that the same seed gives the same starts."""
    instance = generate("kv-synthetic", seed=0, requests=30, arrivals=arrivals)
    before = Known(instance).local_search.starts
    heard: list[int] = []
    first, second = (improve_windows(instance, before, seed=2, effort=1e4, listen=heard.append) for _ in range(2))
    assert (first == second).all()
    verdict = judge(instance, schedule_of(instance, first))
    assert verdict.valid
    assert verdict.metrics["total_latency_rounds"] == latency(instance, first) <= latency(instance, before)
    assert (arrivals == "all-at-once") or heard[-1] < latency(instance, before)
    assert (improve_windows(instance, before, effort=None, time_limit=0) == before).all()


def test_proven_optima_are_found() -> None:
    """Tests instances whose optima, proven by diagrams, the local search misses."""
    for seed, optimum in ((1, 934), (2, 1044)):
        instance = generate("kv-synthetic", seed=seed, requests=16)
        assert Known(instance).local_search.latency > optimum
        starts = improve_windows(instance, Known(instance).local_search.starts, effort=1e5, target=optimum)
        assert latency(instance, starts) == optimum


@pytest.mark.slow
def test_where_it_is_used() -> None:
    """Tests that much memory keeps it away, and that a result says what it did."""
    assert not runs_few_at_once(generate("chat", requests=20))
    assert runs_few_at_once(generate("kv-synthetic", requests=20))
    instance = generate("kv-synthetic", seed=1, requests=9, kv_capacity=16)
    result = mk.solve(instance)
    assert result.stages[1].name == "exact neighbourhoods"
    assert result.stages[1].value == Known(instance).hindsight.latency <= (result.stages[0].value or 0)
