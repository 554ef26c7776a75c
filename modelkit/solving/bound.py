"""A certified lower bound and a schedule close to it, at trace scale and without a solver."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from modelkit.arguments import checked_arguments
from modelkit.instance import Instance
from modelkit.io import load
from modelkit.judge.slo import Slo, service_levels
from modelkit.problems.problem import GOODPUT, OUTSIDE_SLO, problem_of
from modelkit.result import Progress
from modelkit.runtime.interrupts import interruptible
from modelkit.solving.certified import CertifiedBound, Task
from modelkit.solving.goodput import goodput
from modelkit.solving.methods import METHODS

__all__ = ["TIME_LIMIT", "CertifiedBound", "bound"]

#: Default limit [s].
TIME_LIMIT = 60.0


@checked_arguments
@interruptible()
def bound(
    instance: Instance,
    *,
    objective: str | None = None,
    time_limit: float | None = TIME_LIMIT,
    gap: float = 0.0,
    seed: int = 0,
    slo: Slo = None,
    listen: Callable[[Progress], None] | None = None,
) -> CertifiedBound:
    """Lower bound on any schedule, recomputed exactly, and a schedule close to it.

    On the total latency in rounds under the unit clock; else on total latency, makespan or total time to first token,
    slots in stages beginning with the makespan. Ctrl-C ends the search: the
    bound and the schedule are then the best so far, and the result's ``stop`` is ``interrupted``.

    Parameters
    ----------
    objective
        Metric to bound, by its name or in a word such as ``latency``; None takes the one of the problem that the
        instance poses. ``goodput``: the requests that keep their service levels, of which the certificate says how many
        there are at most; the result and its bound are about those that do not.
    time_limit
        Seconds until the result is there: prices, search and judgement; only the first compilation of what is compiled
        when it is first used overruns it. None: a fixed amount of work, after which the same seed gives the same bytes.
    gap
        Gap (value - bound) / value at which the search stops.
    seed
        Of the search.
    slo
        Service levels that the metrics of the schedule are about, as in `modelkit.simulate`.
    listen
        Called with the phases, schedules and bounds.

    Raises
    ------
    UsageError
        The problem that the instance poses has no such objective, or an argument is not of its kind.
    InfeasibleError
        Some request can never run.
    TooLargeError
        Arrivals and outputs reach too far.
    """
    began = time.perf_counter()
    instance = load(instance)
    levels = service_levels(slo, instance)
    instance.check_fits()
    problem = problem_of(instance)
    listener = listen or (lambda progress: None)
    is_goodput = objective in GOODPUT
    metric = OUTSIDE_SLO if is_goodput else problem.metric(objective)
    task = Task(instance, metric, time_limit, gap, seed, listener, began, levels)
    if is_goodput:
        return goodput(task)
    found = METHODS[problem].bound(task)
    return replace(found, result=found.result.under(levels, instance))
