"""Schedules of policies that are told the true lengths: where the searches of a problem begin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np

from modelkit.instance import Instance
from modelkit.judge import judge
from modelkit.policies.hybrid import FollowPlan
from modelkit.problems.kv.local_search import MANY, Ints, first_schedule
from modelkit.problems.replicas.search import placed_in
from modelkit.problems.slots.search import EFFORT, TRIAL_SECONDS, Candidate, SlotSearch
from modelkit.problems.slots.stage_plan import TRIALS_PER_REQUEST, StagePlan
from modelkit.runtime.deadline import current
from modelkit.schedule import Schedule
from modelkit.simulation.simulate import clairvoyant_schedule, fitting_policies
from modelkit.simulation.slots import StageSimulation

#: Policies whose schedules are candidates for the KV-cache problem; on instances of more than MANY requests the first
#: alone, where there are so many seconds left for each request.
SCOUTS, SCOUTING = ("svf", "mc-sf", "mc-benchmark"), 1e-3
#: What a policy takes in stages, for each request [s].
REQUEST_SECONDS = 2e-4


def first_starts(instance: Instance) -> Ints:
    """Starts of the best list schedule or of a policy told the true lengths, shape [n].

    Raises
    ------
    InfeasibleError, TooLargeError
        As `modelkit.problems.kv.local_search.first_schedule`.
    """
    return first_schedule(instance, _scout(instance))


def least_latency(instance: Instance, policies: Iterable[str] = ()) -> int | None:
    """Least total latency of the policies told the true lengths; None where each of them evicts somebody.

    Parameters
    ----------
    policies
        Others that are asked too.

    Raises
    ------
    InfeasibleError
        Some request can never run.
    """
    schedules = chain(_scout(instance), (clairvoyant_schedule(instance, policy) for policy in policies))
    verdicts = [judge(instance, schedule) for schedule in schedules]
    values = [v.metrics["total_latency_rounds"] for v in verdicts if v.valid and not v.metrics["evictions"]]
    return min((int(value) for value in values if value is not None), default=None)


def _scout(instance: Instance) -> Iterator[Schedule]:
    """Each is simulated when it is asked for."""
    n = len(instance.requests)
    few = SCOUTS[:1] if current().left >= SCOUTING * n else ()
    for policy in SCOUTS if n <= MANY else few:
        yield clairvoyant_schedule(instance, policy)


def first_on_replicas(instance: Instance) -> Schedule:
    """The best schedule of a policy told the true lengths, on replicas under the unit clock."""
    found = [clairvoyant_schedule(instance, policy) for policy in SCOUTS]
    return min(found, key=lambda schedule: int(placed_in(instance, schedule).starts.sum()))


def slot_search(instance: Instance, *, seed: int = 0, effort: int = EFFORT) -> SlotSearch:
    """A search that begins with the schedules of all policies; see `modelkit.problems.slots.search.SlotSearch`."""
    plan = TRIALS_PER_REQUEST * TRIAL_SECONDS

    def candidate(policy: str) -> Candidate:
        seconds = len(instance.requests) * (REQUEST_SECONDS + plan * (policy == "hybrid"))
        return Candidate(seconds, lambda: clairvoyant_schedule(instance, policy))

    def follow(plan: StagePlan, seed: int) -> Schedule:
        told = instance.arrays.output, instance.arrays.output
        policy = FollowPlan(plan, list(range(len(instance.requests))))
        return StageSimulation(instance, policy, np.random.default_rng(seed), told).run()

    ordered = sorted(fitting_policies(instance), key="hybrid".__eq__)  # it plans, which takes longest
    return SlotSearch(instance, [candidate(policy) for policy in ordered], follow, seed=seed, effort=effort)
