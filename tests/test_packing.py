"""Packing: heuristics, bounds and the certificate of weights."""

from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
import pytest

from modelkit.certificate import Weights
from modelkit.errors import InputError
from modelkit.instance import Instance
from modelkit.problems.slots.packing import pack, packing_bound, simple_bound
from modelkit.sources.families import GSM8K_CLOCK, generate, slot_instance
from modelkit.sources.families.drawing import Ints
from modelkit.verify.certificates import certificate_faults
from modelkit.verify.exact_bounds import certify_slots, recomputed_bound
from modelkit.verify.slot_bound import slot_bound


def optimum(output: list[int], slots: int) -> int:
    """Least largest load, by all packings up to the order of the slots."""
    loads = {(0,) * slots}
    for o in sorted(output, reverse=True):
        loads = {tuple(sorted((*c[:j], c[j] + o, *c[j + 1 :]))) for c in loads for j in range(slots)}
    return min(max(c) for c in loads)


def _instance(slots: int, output: Ints) -> Instance:
    ones = np.ones(len(output), dtype=np.int64)
    return slot_instance("", "", "", slots=slots, clock=GSM8K_CLOCK, prompt=ones, output=output)


@pytest.mark.parametrize("seed", range(60))
def test_between_bound_and_optimum(seed: int) -> None:
    """Tests bound <= optimum <= packing on small instances, and that the packing is what it says."""
    rng = np.random.default_rng(seed)
    n, slots = int(rng.integers(1, 11)), int(rng.integers(1, 5))
    output = rng.integers(1, 30, n)
    packing = pack(output, slots, rng)
    best = optimum(output.tolist(), slots)
    assert simple_bound(output, slots) <= packing.bound <= best <= packing.makespan
    assert np.bincount(packing.slot, weights=output).max() == packing.makespan
    assert packing.slot.max() < slots
    assert sorted(i for queue in packing.queues() for i in queue) == list(range(n))


def test_full_size_is_proven_optimal() -> None:
    """Tests 1,319 requests on 200 slots over 20 seeds: proven, and far below 30 s each."""
    began = time.perf_counter()
    for seed in range(20):
        packing = pack(generate("gsm8k", seed=seed).arrays.output, 200, np.random.default_rng(seed))
        assert packing.proven
    assert time.perf_counter() - began < 60


def test_weights_prove_more_than_the_closed_form() -> None:
    """Tests a bound that needs weights, its certificate, and what is wrong with forged ones."""
    output = np.array([6, 6, 6, 6, 6, 3, 3])  # five of 6 on 2 slots: one slot holds three
    assert simple_bound(output, 2) == 18
    output = np.array([7, 7, 7, 7, 7, 1])
    rounds, weights = packing_bound(output, 2)
    assert (simple_bound(output, 2), rounds, optimum(output.tolist(), 2)) == (18, 21, 21)
    instance = _instance(2, output)
    certificate = certify_slots(instance, Weights(rounds=rounds, values=weights.tolist()))
    assert certificate.kind == "packing"
    assert (
        recomputed_bound(certificate, instance)
        == slot_bound(instance, 21)
        == Fraction("74.4") * 21 + 3 * Fraction("40.4") + Fraction("0.708")
    )
    assert certificate_faults(certificate, instance) == []
    forged = certificate.model_copy(update={"weights": Weights(rounds=22, values=weights.tolist())})
    assert "do not prove" in certificate_faults(forged, instance)[0]
    with pytest.raises(InputError, match="5 weights for 6"):
        certify_slots(instance, Weights(rounds=21, values=[1] * 5))
    higher = certificate.model_copy(update={"bound": certificate.bound.model_copy(update={"numerator": 10**9})})
    assert "its weights follows" in certificate_faults(higher, instance)[0]


@pytest.mark.parametrize("seed", range(40))
def test_weights_are_always_accepted(seed: int) -> None:
    """Tests that what packing_bound finds, the exact recomputation confirms."""
    rng = np.random.default_rng(seed)
    slots = int(rng.integers(2, 6))
    output = rng.integers(5, 16, int(rng.integers(slots + 1, 4 * slots)))
    rounds, weights = packing_bound(output, slots)
    instance = _instance(slots, output)
    values = None if weights is None else Weights(rounds=rounds, values=weights.tolist())
    assert recomputed_bound(certify_slots(instance, values), instance) == slot_bound(instance, rounds)
