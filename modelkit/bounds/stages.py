"""How many stages an optimal schedule of the slot problem can have.

1. n stages suffice: a stage that admits nobody can be joined to the one before.
2. Let UB be the makespan of a known schedule, c the duration of the cheapest prefill, and B the bound of
   ``modelkit.slot_bound`` without its prefill base. A schedule of K stages takes at least B + c K, so no better one
   has more than (UB - B) / c. (With levels the whole prefill part is left out of B.)
"""

from __future__ import annotations

import math

import numpy as np

from modelkit.improve_slots import improved_slot_schedule, makespan_ms
from modelkit.instance import Instance, LinearClock
from modelkit.packing import packing_bound
from modelkit.slot_bound import slot_bound

#: Share of the makespan by which floating point could be wrong, generously.
ROUNDING = 1e-9


def stage_limits(instance: Instance) -> tuple[int, int]:
    """Least and largest number of stages that an optimal schedule can need.

    Parameters
    ----------
    instance
        One that the slot problem takes, all requests known at 0.
    """
    clock, requests = instance.server.clock, len(instance.requests)
    assert isinstance(clock, LinearClock)
    least = -(-requests // (instance.server.slots or requests))
    cheapest = clock.prefill_ms(0)
    if not cheapest:
        return least, requests
    best = makespan_ms(instance, improved_slot_schedule(instance))
    rounds, _ = packing_bound(np.asarray(instance.arrays.output), instance.server.slots or requests)
    if clock.prefill_levels is None:
        others = float(slot_bound(instance, rounds)) - cheapest * least
    else:
        free = clock.model_copy(update={"prefill_levels": None})
        server = instance.server.model_copy(update={"clock": free})
        others = float(slot_bound(instance.model_copy(update={"server": server}), rounds))
    return least, max(least, min(requests, math.floor((best - others + ROUNDING * best) / cheapest)))
