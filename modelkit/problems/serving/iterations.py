"""Schedules under the linear clock with ``mixed = true`` from the order in which prompts are processed."""

from __future__ import annotations

from collections.abc import Mapping

from modelkit.clock import LinearClock
from modelkit.instance import Instance
from modelkit.schedule import Admission, Schedule, Segment


def schedule_from_iterations(instance: Instance, starts: Mapping[str, int]) -> Schedule:
    """Schedule in which iteration ``starts[i]`` processes the whole prompt of request i, and nobody is evicted.

    Each iteration begins as early as possible: when the one before ends and those that start in it have arrived.

    Parameters
    ----------
    starts
        Iteration k = 1, 2, ... of each request; those with nobody in them last no time.
    """
    clock, requests = instance.server.clock, [(r, starts[r.id]) for r in instance.requests]
    assert isinstance(clock, LinearClock)
    segments: list[Segment] = []
    now = 0.0
    for k in range(1, max(start + r.output_tokens for r, start in requests)):
        fresh = [r for r, start in requests if start == k]
        held = [r.prompt_tokens + k - start + 1 for r, start in requests if start < k < start + r.output_tokens]
        if fresh:
            now = max([now, *(1000.0 * r.arrival for r in fresh)])
            segments.append(Segment(now / 1000, tuple(Admission(r.id) for r in fresh), rounds=1))
        elif held:
            segments[-1] = Segment(segments[-1].at, segments[-1].admit, rounds=segments[-1].rounds + 1)
        now += clock.iterations_ms(1, sum(r.prompt_tokens for r in fresh), len(held), sum(held))
    return Schedule(tuple(segments))
