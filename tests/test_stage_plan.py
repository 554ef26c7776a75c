"""Plans of stages in which slots finish together."""

from __future__ import annotations

import numpy as np
import pytest

from modelkit.problems.slots.packing import packing_bound
from modelkit.problems.slots.stage_plan import StagePlan, align, squeeze, stage_count
from modelkit.sources.families import generate


def overload(plan: StagePlan, output: np.ndarray, slots: int) -> int:
    """Slot-rounds above J, round by round; -1 when a request ends after T."""
    horizon = int(plan.boundaries[-1])
    occupied = np.zeros(horizon, dtype=np.int64)
    for o, k in zip(output.tolist(), plan.start.tolist(), strict=True):
        begin = int(plan.boundaries[k])
        if begin + o > horizon:
            return -1
        end = int(plan.boundaries[plan.boundaries >= begin + o][0])
        occupied[begin:end] += 1
    return int(np.maximum(0, occupied - slots).sum())


@pytest.mark.parametrize("seed", range(12))
def test_overload_is_what_it_says(seed: int) -> None:
    """Tests plans of random sizes: boundaries increase, nobody ends late, the overload is right."""
    rng = np.random.default_rng(seed)
    n, slots = int(rng.integers(5, 200)), int(rng.integers(1, 20))
    output = rng.integers(1, 300, n)
    least, _ = packing_bound(output, slots)
    plan = align(output, slots, least, float(rng.uniform(0, 3)), rng, trials=int(rng.integers(0, 20_000)))
    assert plan.boundaries[0] == 0
    assert (np.diff(plan.boundaries) > 0).all()
    assert plan.boundaries[-1] >= least
    assert overload(plan, output, slots) == plan.overload >= 0


def test_squeeze_shortens_and_keeps_the_plan_sound() -> None:
    """Tests that a squeezed plan has a smaller T and still no overload."""
    output = generate("gsm8k", seed=1, requests=400, slots=60).arrays.output
    rng = np.random.default_rng(0)
    least, _ = packing_bound(output, 60)
    plan = align(output, 60, least, 0.54, rng, trials=100_000)
    shorter = squeeze(output, 60, least, plan, rng, attempts=10, trials=20_000)
    assert shorter.boundaries[-1] <= plan.boundaries[-1]
    assert plan.overload > 0 or overload(shorter, output, 60) == 0
    assert (np.diff(shorter.boundaries) > 0).all()


def test_stage_count_is_between_its_limits() -> None:
    """Tests ceil(n / J) <= K <= n whatever a stage costs."""
    output = np.full(50, 30)
    counts = [stage_count(output, 4, price) for price in (0.0, 0.01, 0.5, 10.0, 1e9)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] <= 50
    assert counts[-1] == 13
