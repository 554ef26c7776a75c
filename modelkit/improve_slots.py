"""Clairvoyant improvement on slots: a good schedule of the slot problem in hindsight.

The best of all policies' schedules and of plans by local search over admissions and stage lengths
(``modelkit.alignment``), with several numbers of stages and seeds.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from modelkit.alignment import align, squeeze, stage_count
from modelkit.instance import Instance
from modelkit.packing import pack
from modelkit.policies.hybrid import FollowPlan
from modelkit.schedule import Schedule
from modelkit.simulator import clairvoyant_schedule, fitting_policies
from modelkit.stages import StageClock, StageSimulation

#: Trials of the search for each request in shortening the best plan; 1,319 requests take some ten seconds.
EFFORT = 8_000
#: Numbers of stages tried, as shares of the usual one.
_SHARES = (0.8, 0.9, 1.0)
#: Trials for each request of one attempt to shorten the best plan.
_ATTEMPT = 100


@lru_cache(maxsize=8)
def improved_slot_schedule(instance: Instance, *, seed: int = 0, effort: int = EFFORT) -> Schedule:
    """The best schedule found, no worse than any policy's in hindsight.

    Parameters
    ----------
    instance
        One that the slot problem takes.
    seed
        Of the search.
    effort
        Trials for each request in shortening the best plan.
    """
    candidates = [clairvoyant_schedule(instance, policy) for policy in fitting_policies(instance)]
    candidates += _planned(instance, seed, effort)
    return min(candidates, key=lambda schedule: makespan_ms(instance, schedule))


def makespan_ms(instance: Instance, schedule: Schedule) -> float:
    """When the last round of a valid schedule ends [ms]."""
    clock = StageClock(instance)
    for segment in schedule.segments:
        clock.now = max(clock.now, segment.at * 1000)
        clock.prefill([instance.index[request] for request, _ in segment.admit])
        clock.decode(segment.rounds)
    return clock.now


def _planned(instance: Instance, seed: int, effort: int) -> list[Schedule]:
    output, slots = instance.arrays.output, instance.server.slots or 1
    law = StageClock(instance).law
    if len(output) <= slots or not law.decode_base_ms or instance.arrays.arrival.any():
        return []
    price = law.prefill_ms(0) / law.decode_base_ms
    least = pack(output, slots, np.random.default_rng(seed)).makespan
    usual = stage_count(output, slots, price)
    plans = []
    for run, share in enumerate(_SHARES):
        stages = max(-(-len(output) // slots), round(share * usual))
        plans.append(align(output, slots, least, price, np.random.default_rng([seed, run]), stages=stages))
    rng = np.random.default_rng(seed)
    best = min(plans, key=lambda p: p.overload + slots * (p.boundaries[-1] + price * len(p.boundaries)))
    plans.append(squeeze(output, slots, least, best, rng, attempts=effort // _ATTEMPT, trials=_ATTEMPT * len(output)))
    numbers = list(range(len(output)))
    told = instance.arrays.output, instance.arrays.output
    return [StageSimulation(instance, FollowPlan(plan, numbers), rng, told).run() for plan in plans]
