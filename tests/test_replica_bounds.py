"""Bounds, formulation and search of several replicas, against exhaustive search."""

from __future__ import annotations

import random
from itertools import permutations, product

import numpy as np
import pytest
from kv_brute_force import brute_force
from realtime_brute_force import Question, question
from serving_bounds import excesses

import modelkit as mk
from modelkit.authoring.check.brute_force import best_schedule
from modelkit.authoring.check.tiny_instances import sharing_instance
from modelkit.certificate import Prices
from modelkit.errors import InputError
from modelkit.formulation.formulation import Formulation
from modelkit.instance import Instance
from modelkit.judge import judge
from modelkit.problems.replicas.servers import alone
from modelkit.problems.serving.bounds import serving_bounds
from modelkit.simulation.simulate import clairvoyant_schedule, fitting_policies
from modelkit.verify.exact_bounds import certify_slots, recomputed_bound
from modelkit.verify.kv_bound import exact_bound
from modelkit.verify.slot_rounds import slot_rounds_bound
from modelkit.verify.volume_bound import volume_bound


def tiny(seed: int, replicas: int = 2, n: int = 4) -> Instance:
    """Short requests under the unit clock that hardly fit together."""
    rng = random.Random(seed)
    capacity = rng.randint(5, 9)
    rows = []
    for i in range(n):
        prompt = rng.randint(1, 3)
        output = rng.randint(1, min(4, capacity - prompt))
        rows.append({"id": f"q{i}", "arrival": rng.randint(0, 2), "prompt_tokens": prompt, "output_tokens": output})
    return Instance(server={"kv_capacity_tokens": capacity, "replicas": replicas}, requests=rows)


def optimum(instance: Instance) -> int:
    """Least total latency [round] over all ways to share the requests out."""
    n = len(instance.requests)
    parts: dict[tuple[int, ...], int] = {(): 0}
    best = []
    for homes in product(range(instance.server.replicas), repeat=n):
        shared = [tuple(i for i in range(n) if homes[i] == r) for r in range(instance.server.replicas)]
        for some in shared:
            if some not in parts:
                parts[some] = brute_force(alone(instance, some))[0]
        best.append(sum(parts[some] for some in shared))
    return min(best)


def on_replicas(asked: Question, replicas: int) -> Question:
    """The question on this many replicas."""
    server = asked.instance.server.model_copy(update={"replicas": replicas})
    return asked._replace(instance=asked.instance.replace(server=server))


@pytest.mark.parametrize("seeds", [range(3), pytest.param(range(3, 45), marks=pytest.mark.slow)])
def test_no_bound_in_real_time_is_above_the_optimum(seeds: range) -> None:
    """Tests all kinds of bounds, with found and with random proofs, on every metric, on two and three replicas."""
    asked = [on_replicas(question(seed), 2 + seed % 2) for seed in seeds]
    assert [(seed, *wrong) for seed, q in zip(seeds, asked, strict=True) if (wrong := excesses(q, seed))] == []


def test_no_bound_in_rounds_is_above_the_optimum() -> None:
    """Tests random prices on memory and the rounds on slots on two replicas."""
    rng = np.random.default_rng(0)
    for seed in range(15):
        instance, best = tiny(seed), optimum(tiny(seed))
        for _ in range(20):
            last = int(rng.integers(1, 3 + instance.arrays.output.sum())) - 2
            numerators = np.sort(rng.integers(0, 300, max(0, last)))[::-1].tolist()
            prices = Prices(denominator=2**8, rounds=list(range(1, max(0, last) + 1)), numerators=numerators)
            assert exact_bound(instance, prices) <= best
        free = instance.replace(server=instance.server.model_copy(update={"kv_capacity_tokens": None, "slots": 1}))
        one_by_one = min(
            sum(ends(free, [i for i in range(4) if homes[i] == r]) for r in range(2))
            for homes in product(range(2), repeat=4)
        )
        assert slot_rounds_bound(free) <= one_by_one


def test_no_bound_is_above_what_replicas_with_a_prefix_cache_reach() -> None:
    """Tests the bounds under the unit clock where each replica has a prefix cache, against all schedules."""
    any_model = Formulation(name="x", summary="", claim="exact", reference="", objective="total_latency")
    rng = np.random.default_rng(1)
    for seed in range(12):
        drawn = sharing_instance(seed, 3)
        instance = drawn.replace(server=drawn.server.model_copy(update={"replicas": 2}))
        best = best_schedule(any_model, instance)
        assert best is not None
        assert volume_bound(instance) <= best.value
        for _ in range(10 if instance.server.kv_capacity_tokens else 0):
            last = int(rng.integers(1, 1 + instance.arrays.output.sum()))
            numerators = np.sort(rng.integers(0, 300, last))[::-1].tolist()
            prices = Prices(denominator=2**8, rounds=list(range(1, last + 1)), numerators=numerators)
            assert exact_bound(instance, prices) <= best.value


def ends(instance: Instance, some: list[int]) -> int:
    """Least total latency of these requests on one slot."""
    best = None
    for order in permutations(some):
        now = total = 0
        for i in order:
            request = instance.requests[i]
            now = max(now, int(request.arrival)) + request.output_tokens
            total += now - int(request.arrival)
        best = total if best is None else min(best, total)
    return best or 0


def test_a_bound_of_one_server_is_none_of_replicas() -> None:
    """Tests that what bounds one server is refused for two, where it does not hold, and is lower where it does."""
    rows = {"prompt_tokens": [4, 5, 6, 7] * 3, "output_tokens": [3, 5, 4, 2] * 3}
    clock = {"kind": "linear", "mixed": True, "prefill_base_ms": 4.0, "decode_base_ms": 10.0}
    one = Instance.from_arrays(**rows, server={"clock": clock, "kv_capacity_tokens": 14})
    two = on_replicas(Question(one, None, False), 2).instance
    least = {name: serving_bounds(i)[0].certificate for name, i in (("one", one), ("two", two))}
    assert least["two"].kind != "serving-interference"
    assert least["two"].value < least["one"].value
    assert mk.verify_certificate(least["two"], two).holds
    moved = least["one"].model_copy(update={"instance": least["two"].instance})
    assert not mk.verify_certificate(moved, two).holds
    staged = mk.generate("slot-synthetic", requests=6, slots=2, seed=1)
    doubled = staged.replace(server=staged.server.model_copy(update={"replicas": 2}))
    with pytest.raises(InputError, match="one server"):
        recomputed_bound(certify_slots(staged), doubled)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["highs", pytest.param("scip", marks=pytest.mark.slow)])
def test_the_formulation_is_exact(solver: str) -> None:
    """Tests that its optimum is that of exhaustive search, whatever it starts from, on two and three replicas."""
    for seed in range(2, 5):
        instance = tiny(seed, 2 + seed % 2)
        result = mk.solve(instance, "kv-replicas", solver, warm_start="none" if seed % 3 else "best")
        assert (result.status, result.objective.value) == ("optimal", optimum(instance)), seed
        assert mk.verify_result(result, instance).holds


@pytest.mark.slow
def test_solve_on_replicas() -> None:
    """Tests that the formulation is taken where it fits, and that what is found is never worse than any policy."""
    small, large = tiny(0, n=6), tiny(0, replicas=4, n=60)
    assert mk.solve(small, time_limit=20).producer.name in ("kv-replicas", "local-search")
    for instance in (small, large):
        result = mk.solve(instance, time_limit=1.5)
        assert mk.verify_result(result, instance).holds
        assert (result.objective.bound or 0) > 0
        for name in fitting_policies(instance):
            assert (result.objective.value or 0) <= judge(instance, clairvoyant_schedule(instance, name)).metrics[
                "total_latency_rounds"
            ]
