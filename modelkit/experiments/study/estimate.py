"""How long the runs that are left will take: from runs like them, from trials of policies, and from limits."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from modelkit.experiments.run import TIME_LIMIT
from modelkit.experiments.study.grid import Cell
from modelkit.experiments.study.running import run_of
from modelkit.experiments.study.store import Store, StoredRun
from modelkit.experiments.workers import cores, run_all
from modelkit.runtime.scratch import scratch_folder

#: Seconds that a trial may take, and most trials.
TRIAL, MOST_TRIALS = 5.0, 12

_Kind = tuple[str, str, str]


@dataclass(frozen=True)
class Estimate:
    """Seconds on this machine.

    Parameters
    ----------
    likely
        Of runs like some that are finished or were tried, with what comes before: processes and instances.
    at_most
        Of formulations and bounds unlike any that is finished: their limits.
    longer
        Runs whose trial did not end in `TRIAL` seconds; these are counted for each.
    unknown
        Runs of which nothing is known.
    jobs
        Runs at a time.
    """

    likely: float
    at_most: float
    longer: int
    unknown: int
    jobs: int


def estimate(
    planned: Sequence[Cell], done: Sequence[StoredRun], jobs: int | None = None, *, trials: bool = True
) -> Estimate:
    """What the cells need: what runs like them took, or a trial of each policy, or their limits.

    Parameters
    ----------
    trials
        Whether to run, for each policy of which nothing is finished, one cell, and forget its result.
    """
    known: dict[_Kind, list[float]] = {}
    for entry in done:
        if entry.seconds is not None:
            known.setdefault((entry.study_group, entry.kind, entry.name), []).append(entry.seconds)
    seconds: dict[_Kind, float] = {kind: statistics.fmean(values) for kind, values in known.items()}
    new = {_kind(cell): cell for cell in planned if cell.kind == "policy" and _kind(cell) not in seconds}
    tried = _try(dict(itertools.islice(new.items(), MOST_TRIALS))) if trials else _NOTHING
    seconds |= tried.seconds
    likely, at_most = 0.0, 0.0
    instances = len({cell.instance.key for cell in planned})
    longer = unknown = 0
    for cell in planned:
        spent = seconds.get(_kind(cell))
        if spent is not None:
            likely += spent
            longer += _kind(cell) in new and spent >= TRIAL
        elif cell.kind != "policy":
            at_most += cell.limits.get("time_limit", TIME_LIMIT)
        else:
            unknown += 1
    at_a_time = jobs or cores()
    begin = tried.start + tried.instance * instances
    return Estimate(begin + likely / at_a_time, at_most / at_a_time, longer, unknown, at_a_time)


def _kind(cell: Cell) -> _Kind:
    return (cell.instance.group, cell.kind, cell.called)


class _Trial(NamedTuple):
    """What trials took [s]: until the first run begins, to make an instance, and a run of each kind, all told."""

    start: float
    instance: float
    seconds: dict[_Kind, float]


_NOTHING = _Trial(0.0, 0.0, {})


def _try(new: dict[_Kind, Cell]) -> _Trial:
    """Run one cell of each kind; the first is done twice, since it loads what all need."""
    if not new:
        return _NOTHING
    with scratch_folder() as folder, Store(folder, writing=True) as store:
        order = [next(iter(new)), *new]
        began = time.perf_counter()
        runs = [run_of(new[kind], store).model_copy(update={"kill_after": TRIAL}) for kind in order]
        making = (time.perf_counter() - began) / len({new[kind].instance.key for kind in order})
        tasks = [(run, Path(folder) / f"{k}.json") for k, run in enumerate(runs)]
        spent = []
        began = time.perf_counter()
        for _ in run_all(tasks, jobs=1):
            now = time.perf_counter()
            spent.append(now - began)
            began = now
    return _Trial(max(0.0, spent[0] - spent[1]), making, dict(zip(order[1:], spent[1:], strict=True)))
