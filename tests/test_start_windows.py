"""Start windows: what they keep is enough."""

from __future__ import annotations

import pytest

import modelkit as mk
from modelkit.problems.kv.local_search import TooLargeError
from modelkit.solving.known import Known, start_windows
from modelkit.sources.families import generate


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("arrivals", ["all-at-once", "poisson"])
def test_prices_only_take_starts_away(seed: int, arrivals: str) -> None:
    """Tests that every window is part of the simple one and keeps the best start known."""
    instance = generate("kv-synthetic", seed=seed, arrivals=arrivals, requests=12)
    simple, priced = start_windows(instance, use_prices=False), start_windows(instance)
    known = Known(instance)
    for wide, narrow, start in zip(simple, priced, known.hindsight.starts, strict=True):
        assert set(narrow) <= set(wide)
        assert start in narrow
    kept = known.starts_kept
    assert kept.kept == sum(map(len, priced)) <= kept.in_all == sum(map(len, simple))


@pytest.mark.parametrize("seed", range(2))
def test_optimum_survives(seed: int) -> None:
    """Tests that a solver finds as good a schedule within the windows as in all starts."""
    instance = generate("kv-synthetic", seed=seed, requests=5)
    result = mk.solve(instance, "kv-hindsight", time_limit=30)
    assert result.status == "optimal"
    assert result.model.starts_kept <= result.model.starts_in_all
    windows = start_windows(instance)
    for segment in result.schedule.segments:
        for admission in segment.admit:
            assert segment.at in windows[instance.index[admission.request]]


def test_prices_take_most_starts_away_where_the_gap_is_small() -> None:
    """Tests the yield on an instance with a small gap."""
    kept = Known(generate("chat", requests=60, rate=0.0, kv_capacity=2000)).starts_kept
    assert kept.kept < 0.4 * kept.in_all


def test_too_large_is_said() -> None:
    """Tests that a trace is refused before memory is full."""
    with pytest.raises(TooLargeError, match="too large for a formulation"):
        start_windows(generate("chat", requests=3000, rate=0.0))
