"""The critical path: against brute force on small schedules, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pytest

import modelkit as mk
from modelkit.instance import Instance
from modelkit.judge import judge
from modelkit.reporting.critical_path import critical_path
from modelkit.sources.families import generate


@pytest.mark.parametrize("seed", range(30))
def test_no_chain_covers_more(draw: Callable[..., Instance], seed: int) -> None:
    """Tests that no other chain of requests, none begun before another ended, is in progress for longer."""
    instance = draw(seed, 7)
    schedule = mk.simulate(instance, "mc-benchmark").schedule
    assert schedule is not None
    verdict = judge(instance, schedule)
    path = critical_path(instance, verdict)
    assert path is not None
    runs = [link for link in path.links if link.kind == "run"]
    makespan = verdict.metrics["makespan_rounds"]
    assert (path.links[0].begin, path.end) == (0, makespan)
    assert all(a.end == b.begin for a, b in zip(path.links, path.links[1:], strict=False))
    residencies = {(s.begin, s.end or 0.0, instance.requests[s.request].id) for s in verdict.residencies}
    assert all(any((r.begin, r.end) == s[:2] for s in residencies) for r in runs)

    @lru_cache
    def longest(until: float) -> float:
        return max((end - begin + longest(begin) for begin, end, _ in residencies if end <= until), default=0.0)

    assert sum(r.end - r.begin for r in runs) == longest(makespan or 0.0)


def test_in_stages_it_stays_on_one_slot() -> None:
    """Tests that the chain is that of the slot which ends last, and that its parts add up to the makespan."""
    instance = generate("gsm8k", requests=40, slots=5, seed=3)
    schedule = mk.simulate(instance, "sorted").schedule
    assert schedule is not None
    verdict = judge(instance, schedule)
    path = critical_path(instance, verdict)
    assert path is not None
    by_name = {instance.requests[s.request].id: s for s in verdict.residencies}
    assert len({by_name[link.name].slot for link in path.links if link.kind == "run"}) == 1
    assert sum(link.end - link.begin for link in path.links) == pytest.approx(verdict.metrics["makespan_ms"])
    assert "are decoding and" in path.words


def test_a_single_request_cannot_end_sooner(two: Instance) -> None:
    """Tests the words where one request is the whole path."""
    alone = two.replace(requests=two.requests[1:])
    schedule = mk.simulate(alone, "mc-sf").schedule
    assert schedule is not None
    path = critical_path(alone, judge(alone, schedule))
    assert path is not None
    assert path.words.endswith("No schedule can end sooner while this request takes as long.")
