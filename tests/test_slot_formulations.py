"""The slot formulations against brute force, and solving at a size that no formulation takes."""

from __future__ import annotations

import pickle
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import modelkit as mk
from modelkit.errors import UsageError
from modelkit.formulation.loading import load_formulation
from modelkit.judge import judge
from modelkit.simulation.simulate import fitting_policies
from modelkit.solving.candidates import slot_search
from modelkit.solving.known import Known
from modelkit.sources.families import generate
from modelkit.verify.exact_bounds import certify_slots


def brute_force(instance: mk.Instance) -> float:
    """Least makespan over all admissions and all lengths of stages."""
    clock, slots = instance.server.clock, instance.server.slots
    prompt, output = instance.arrays.prompt.tolist(), instance.arrays.output.tolist()

    def prefill(batch: tuple[int, ...]) -> float:
        tokens = sum(prompt[i] for i in batch)
        if clock.prefill_levels is None:
            return clock.prefill_base_ms + clock.prefill_per_token_ms * tokens
        return min(ms for capacity, ms in clock.prefill_levels if capacity >= tokens)

    @cache
    def cost(waiting: tuple[int, ...], active: tuple[int, ...]) -> float:
        if not waiting:
            return clock.decode_base_ms * max(active, default=0)
        best = float("inf")
        for size in range(1, min(slots - len(active), len(waiting)) + 1):
            for batch in combinations(waiting, size):
                now = sorted([*active, *(output[i] for i in batch)])
                rest = tuple(i for i in waiting if i not in batch)
                for rounds in range(now[-1] + 1):
                    after = tuple(left - rounds for left in now if left > rounds)
                    if len(after) < slots or not rest:
                        best = min(best, prefill(batch) + clock.decode_base_ms * rounds + cost(rest, after))
                        if not rest:
                            break
        return best

    return cost(tuple(range(len(output))), ())


def small(seed: int) -> mk.Instance:
    """Up to 4 requests on 2 slots; every other instance has levels."""
    return generate("slot-synthetic", seed=seed, requests=1 + seed % 4, slots=2, levels=seed % 8 >= 4)


@pytest.mark.parametrize("seed", [*range(24), *(pytest.param(s, marks=pytest.mark.slow) for s in range(24, 100))])
def test_full_mip_is_brute_force(seed: int) -> None:
    """Tests one optimum on both solvers, with and without a start, and bound <= optimum <= every policy."""
    instance = small(seed)
    best = brute_force(instance)
    for solver, start in (("highs", "none"), ("scip", "best")):
        result = mk.solve(instance, "slot-full-mip", solver, warm_start=start, threads=1)
        assert result.status == "optimal", result.message
        assert result.objective.value == pytest.approx(best)
        assert mk.verify_result(result, instance).holds
    assert float(certify_slots(instance).value) <= best + 1e-9
    for policy in fitting_policies(instance):
        assert mk.simulate(instance, policy).objective.value >= best - 1e-9
    for name in ("slot-lower-bound", "makespan-bin-packing"):
        bound = mk.solve(instance, name, "highs" if seed % 2 else "scip", warm_start="none", threads=1).objective.bound
        assert bound <= best + 1e-6


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("solver", ["highs", "scip"])
def test_lower_bound_is_the_closed_form(seed: int, solver: str) -> None:
    """Tests the formulation of the bound under the linear law and, with levels, that it is no smaller."""
    for levels in (False, True):
        instance = generate("slot-synthetic", seed=seed, requests=9, slots=3, levels=levels)
        bound = mk.solve(instance, "slot-lower-bound", solver, warm_start="none").objective.bound
        closed = float(certify_slots(instance).value)
        assert bound >= closed - 1e-6
        if not levels:
            assert bound == pytest.approx(closed)


@pytest.mark.parametrize("solver", ["highs", "scip"])
def test_bin_packing_extracts_queues(solver: str) -> None:
    """Tests the packing program where the bounds do not meet, and the schedule of its queues."""
    instance = generate("slot-synthetic", seed=5, requests=11, slots=4)
    result = mk.solve(instance, "makespan-bin-packing", solver, warm_start="none")
    assert result.violations == []
    assert result.objective.bound <= result.objective.value
    assert result.objective.bound >= float(certify_slots(instance).value) - 1e-6


@pytest.mark.slow
def test_start_is_taken() -> None:
    """Tests that the schedule of a policy is a feasible start of the full program."""
    instance = generate("slot-synthetic", seed=1, requests=6, slots=2)
    for solver in ("highs", "scip"):
        result = mk.solve(instance, "slot-full-mip", solver, warm_start="hybrid", time_limit=20)
        assert result.start.accepted in (True, None)
        assert result.status in ("optimal", "feasible")


def test_too_large_gives_schedule_and_certificate() -> None:
    """Tests that a large instance gets the best schedule known and a certified bound, and is told why."""
    instance = generate("gsm8k", seed=1, requests=300, slots=40)
    result = mk.solve(instance)
    assert (result.producer.kind, result.producer.name, result.producer.solver) == ("improvement", "local-search", None)
    assert result.status == "feasible"
    assert "too large" in result.message
    assert result.objective.bound_by == "certificate"
    assert result.objective.gap < 0.06
    assert mk.verify_result(result, instance).holds
    assert result.objective.value <= min(mk.simulate(instance, p).objective.value for p in fitting_policies(instance))


def test_one_stage_is_proven_by_the_bound() -> None:
    """Tests that no solver runs when the start meets the certified bound."""
    instance = generate("gsm8k", seed=1, requests=30, slots=40)
    result = mk.solve(instance)
    assert result.status == "optimal"
    assert result.model is None
    assert result.objective.bound_by == "certificate"


def test_improvement_beats_no_policy() -> None:
    """Tests the local search against the policies, on its own account of time."""
    instance = generate("gsm8k", seed=2, requests=90, slots=12)
    schedule = slot_search(instance, effort=500).run()
    ours = judge(instance, schedule).metrics["makespan_ms"]
    assert ours <= min(mk.simulate(instance, p).objective.value for p in fitting_policies(instance)) + 1e-6


ALONE = """
import pyomo.environ as pyo
from modelkit import Formulation


def build(m):
    def alone(m, k):
        return pyo.quicksum(m.prefilled[i, j, k] for i, j in m.PLACES) <= 1

    m.prefilled_alone = pyo.Constraint(m.STAGES, rule=alone)


def admissible(instance, verdict):
    begins = [residency.begin for residency in verdict.residencies]
    return [f"several requests begin at {begin:g}" for begin in set(begins) if begins.count(begin) > 1]


FORMULATION = Formulation(
    name="alone", summary="x", claim="exact", reference="x", extends="slot-full-mip", build=build,
    data=lambda instance: {}, admissible=admissible,
)
"""


def test_variants_have_all_stages(tmp_path: Path) -> None:
    """Tests that no stage is left out of a variant because the optimum of what it extends does not need it."""
    clock = mk.LinearClock(kind="linear", decode_base_ms=10.0, prefill_base_ms=5.0)
    requests = [{"id": name, "prompt_tokens": 4, "output_tokens": 4} for name in "abc"]
    instance = mk.Instance(server=mk.Server(slots=3, clock=clock), requests=requests)
    assert mk.stage_limits(instance) == (1, 1)
    path = tmp_path / "alone.py"
    path.write_text(ALONE)
    result = mk.solve(instance, str(path))
    assert (result.status, result.objective.value) == ("optimal", 3 * 5 + 4 * 10)


def test_limits_on_stages_travel() -> None:
    """Tests that what a search that is over has found is found no more in another process."""
    known = Known(small(3), "slots")
    assert "stage_limits" not in vars(pickle.loads(pickle.dumps(known)))
    known.slot_search.run()
    copy = pickle.loads(pickle.dumps(known))
    assert vars(copy)["stage_limits"] == known.stage_limits
    assert "slot_search" not in vars(copy)


@pytest.mark.parametrize("name", ["slot-full-mip", "makespan-bin-packing", "slot-lower-bound"])
def test_other_instances_are_refused(name: str) -> None:
    """Tests what each formulation needs."""
    with pytest.raises(UsageError, match="needs the linear clock"):
        mk.solve(generate("kv-synthetic", requests=3), name)
    base = generate("gsm8k", requests=3, slots=2)
    mixed = base.server.clock.model_copy(update={"mixed": True})
    with pytest.raises(UsageError, match="mixed = false"):
        mk.solve(mk.Instance(server=base.server.model_copy(update={"clock": mixed}), requests=base.requests), name)
    assert load_formulation(name).needs(base) is None


def test_late_arrivals_are_refused_by_the_programs() -> None:
    """Tests that programs which know no arrivals say so."""
    base = generate("gsm8k", requests=3, slots=2)
    late = tuple(r.model_copy(update={"arrival": 1.0}) for r in base.requests)
    instance = mk.Instance(server=base.server, requests=late)
    with pytest.raises(UsageError, match="known at 0"):
        mk.solve(instance, "slot-full-mip")
    assert np.isfinite(float(certify_slots(instance).value))
