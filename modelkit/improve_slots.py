"""Clairvoyant improvement on slots: a good schedule of the slot problem in hindsight.

The best of all policies' schedules and of plans by local search over admissions and stage lengths
(``modelkit.alignment``), with several numbers of stages and seeds.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from modelkit.alignment import align, stage_count
from modelkit.instance import Instance
from modelkit.packing import pack
from modelkit.policies.hybrid import FollowPlan
from modelkit.schedule import Schedule
from modelkit.simulator import clairvoyant_schedule, fitting_policies
from modelkit.stages import StageClock, StageSimulation

#: Trials of the search for each request, in all; 1,319 requests take about ten seconds.
EFFORT = 12_000
#: Numbers of stages tried, as shares of the usual one.
_SHARES = (0.75, 0.9, 1.0, 0.8)


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
        Trials for each request, shared by the plans.
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
    schedules = []
    for run, share in enumerate(_SHARES):
        rng = np.random.default_rng([seed, run])
        stages = max(-(-len(output) // slots), round(share * usual))
        plan = align(output, slots, least, price, rng, stages=stages, trials=effort * len(output) // len(_SHARES))
        policy = FollowPlan(plan, list(range(len(output))))
        schedules.append(StageSimulation(instance, policy, rng, clairvoyant=True).run())
    return schedules
