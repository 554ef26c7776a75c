"""The multipliers with which partitions of the held tokens bound the total latency best."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from modelkit.instance import Instance
from modelkit.problems.kv.diagram.columns import ascend
from modelkit.problems.kv.diagram.diagram import SCALE, Ints, Path, Reversed
from modelkit.problems.kv.diagram.partitions import PartitionBound
from modelkit.problems.kv.start_windows import possible_starts

#: Most starts that are looked at.
MOST_STARTS = 2_000_000


class Multipliers(NamedTuple):
    """Floors and multipliers, in units of 1 / ``denominator``, of each request, shape [n]."""

    denominator: int
    floors: Ints
    values: Ints


def best_multipliers(
    instance: Instance, value: int, until: float, listen: Callable[[float], None] = lambda bound: None
) -> Multipliers | None:
    """Find them by column generation; None where what is held has too many partitions.

    Parameters
    ----------
    instance
        Unit clock, a KV capacity.
    value
        Total latency of a known schedule.
    until
        When to stop, on the clock of ``time.perf_counter``.
    listen
        Told the best bound [round] so far; it may rest on starts that a better schedule than that known would need.

    Raises
    ------
    SolverError
        HiGHS could not solve a linear program.
    """
    windows = possible_starts(instance, value)
    if sum(map(len, windows)) > MOST_STARTS:
        return None
    problem = Reversed.of(instance, windows)
    if problem.most_multiplier < SCALE * value or (bound := PartitionBound.of(problem)) is None:
        return None
    best = 0.0

    def hear(path: Path) -> None:
        nonlocal best
        if path.value > best * SCALE:
            best = path.value / SCALE
            listen(best)

    found = ascend(
        bound,
        bound.equal(value),
        target=value * SCALE - 1,
        most=problem.most_tried,
        over=lambda: time.perf_counter() > until,
        listen=hear,
    )
    return Multipliers(SCALE, np.maximum(problem.prompt, bound.floor), bound.free(found.multipliers))
