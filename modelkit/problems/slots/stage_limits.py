"""How many stages an optimal schedule of the slot problem can have.

1. n stages suffice: a stage that admits no request can be joined to the one before.
2. Let UB be the makespan of a schedule that the judge finds valid, c the duration of the cheapest prefill, and B the
   bound of ``modelkit.verify.slot_bound`` without its prefill base. A schedule of K stages takes at least B + c K, so
   no better one has more than (UB - B) / c. (With levels the whole prefill part is left out of B. Whatever the levels
   hold and cost, each prefill lasts at least c: neither claim needs that more tokens cost more.)
"""

from __future__ import annotations

import math

import numpy as np

from modelkit.instance import Instance, LinearClock
from modelkit.judge import judge
from modelkit.problems.slots.packing import packing_bound
from modelkit.schedule import Schedule
from modelkit.verify.slot_bound import slot_bound

#: Share of the makespan by which floating point could be wrong, generously.
ROUNDING = 1e-9


def any_stages(instance: Instance) -> tuple[int, int]:
    """Least number of stages of any schedule, and one that suffices whenever an earlier end is never worse."""
    requests = len(instance.requests)
    return -(-requests // (instance.server.slots or requests)), requests


def stage_limits(instance: Instance, known: Schedule) -> tuple[int, int]:
    """Least and largest number of stages that an optimal schedule can need.

    Parameters
    ----------
    instance
        One that the slot problem takes, all requests known at 0.
    known
        A schedule of it; one that the judge refuses limits nothing.
    """
    assert isinstance(instance.server.clock, LinearClock)
    clock = instance.server.clock.folded()
    least, requests = any_stages(instance)
    cheapest = clock.prefill_ms(0)
    verdict = judge(instance, known)
    best = verdict.metrics["makespan_ms"]
    if not cheapest or not verdict.valid or best is None:
        return least, requests
    rounds, _ = packing_bound(np.asarray(instance.arrays.output), instance.server.slots or requests)
    if clock.prefill_levels is None:
        others = float(slot_bound(instance, rounds)) - cheapest * least
    else:
        free = clock.model_copy(update={"prefill_levels": None})
        server = instance.server.model_copy(update={"clock": free})
        others = float(slot_bound(instance.model_copy(update={"server": server}), rounds))
    most = min(float(requests), (best - others + ROUNDING * best) / cheapest)
    return least, max(least, math.floor(most))
