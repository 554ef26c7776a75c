"""The simulator: runs an online policy on an instance and has the judge say what came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from modelkit.arguments import checked_arguments
from modelkit.errors import PolicyError as PolicyError
from modelkit.errors import UsageError
from modelkit.instance import Instance, LinearClock, UnitClock
from modelkit.io import load
from modelkit.judge import judge
from modelkit.judge.load import load as load_of
from modelkit.judge.load import load_words
from modelkit.judge.slo import Slo, service_levels
from modelkit.policies import Policy, PolicyEntry, Predictions, chosen_policy, policies
from modelkit.policies.predictions import predicted_lengths
from modelkit.problems.problem import objective_of, replica_stages_refusal
from modelkit.problems.replicas.servers import alone, side_by_side
from modelkit.result import InstanceStamp, Objective, Producer, Result, Seconds, status_of
from modelkit.runtime.interrupts import interruptible
from modelkit.runtime.resources import VERSION
from modelkit.schedule import Schedule
from modelkit.simulation.continuous import ContinuousSimulation
from modelkit.simulation.limits import BatchLimits
from modelkit.simulation.pausing import PausingSimulation
from modelkit.simulation.replicas import beside, run_beside
from modelkit.simulation.slots import StageSimulation

_NO_LIMITS = "limits on batches are for continuous batching; here the slots are the limit"


@checked_arguments
@interruptible()
def simulate(
    instance: Instance,
    policy: str = "mc-sf",
    *,
    seed: int = 0,
    predictions: str | None = None,
    max_batch: int | None = None,
    max_batch_tokens: int | None = None,
    chunked_prefill: bool = False,
    slots_over_time: Sequence[tuple[float, int]] | None = None,
    slo: Slo = None,
) -> Result:
    """Run an online policy on an instance and judge what it did.

    Parameters
    ----------
    policy
        ``NAME``, or ``NAME:option=value,option=value``.
    seed
        Of the randomness of the policy, and of that of the predictions.
    predictions
        Model of what the policy sees of output lengths (`modelkit.policies.predictions`), such as ``noise:0.2``. None:
        the instance's own predictions.
    max_batch, max_batch_tokens, chunked_prefill
        Of the engine in continuous batching; see `modelkit.simulation.limits.BatchLimits`.
    slots_over_time
        Where stages run: (second, number of slots) in time order; from then on this many of the server's
        slots are open. None: all of them.
    slo
        Service levels that the metrics are about, such as ``"ttft=450ms,tpot=40ms"`` (`modelkit.judge.slo`). None:
        the instance's own.

    Raises
    ------
    UsageError
        No such policy, option or prediction model, or one that is not for the instance's clock.
    InfeasibleError
        Some request can never run.
    PolicyError
        The policy admitted what does not fit or evicted what does not run.
    """
    instance = load(instance)
    levels = service_levels(slo, instance)
    limits = BatchLimits(max_batch, max_batch_tokens, chunked_prefill)
    begun = time.perf_counter()
    entry, options = chosen_policy(policy)
    predicted = _predictions(instance, predictions, seed)
    schedule = _run(instance, entry, options, seed, predicted, limits=limits, slots_over_time=slots_over_time)
    share = load_of(instance, max_batch=max_batch, max_batch_tokens=max_batch_tokens, slots_over_time=slots_over_time)
    simulated = time.perf_counter()
    verdict = judge(instance, schedule, levels)
    judged = time.perf_counter()
    name = objective_of(instance)
    settings = {"predictions": predictions, "max_batch": max_batch, "max_batch_tokens": max_batch_tokens}
    options |= {key: value for key, value in settings.items() if value is not None}
    options |= {"chunked_prefill": True} if chunked_prefill else {}
    options |= {"slots_over_time": [list(change) for change in slots_over_time]} if slots_over_time else {}
    return Result(
        instance=InstanceStamp.of(instance),
        producer=Producer(kind="policy", name=entry.name, options=options, seed=seed, modelkit=VERSION),
        status=status_of(verdict, verdict.metrics[name], None),
        stop="finished",
        load=share,
        message=load_words(share) or "",
        objective=Objective(name=name, value=verdict.metrics[name]),
        slo=levels,
        metrics=verdict.metrics,
        violations=[v.document() for v in verdict.violations],
        schedule=schedule,
        seconds=Seconds(solve=simulated - begun, judge=judged - simulated, total=judged - begun),
    )


def policy_schedule(
    instance: Instance,
    policy: str,
    *,
    seed: int = 0,
    predictions: str | None = None,
    limits: BatchLimits | None = None,
    slots_over_time: Sequence[tuple[float, int]] | None = None,
) -> Schedule:
    """The schedule that a policy makes; see `simulate`."""
    entry, options = chosen_policy(policy)
    predicted = _predictions(instance, predictions, seed)
    return _run(instance, entry, options, seed, predicted, limits=limits, slots_over_time=slots_over_time)


def clairvoyant_schedule(instance: Instance, policy: str) -> Schedule:
    """The schedule of a policy that is told the true output lengths: hindsight, not a fair run."""
    return policy_schedule(instance, policy, predictions="exact")


def fitting_policies(instance: Instance) -> list[str]:
    """Names of the policies for the instance's clock."""
    clock, pauses = _clock(instance), instance.server.pause is not None
    return [name for name, entry in policies().items() if entry.clock == clock and (pauses or not entry.pauses)]


def limits_refusal(instance: Instance, limits: BatchLimits) -> str | None:
    """Why policies cannot run under these limits on an instance; None when they can."""
    if _clock(instance) == "stages":
        return None if limits == BatchLimits() else _NO_LIMITS
    try:
        limits.check(instance)
    except UsageError as error:
        return str(error)
    return None


def _predictions(instance: Instance, model: str | None, seed: int) -> Predictions:
    if model is None:
        return instance.arrays.predicted_lower, instance.arrays.predicted_upper
    # a stream of its own, so that the policy's randomness is the same whatever the model
    return predicted_lengths(instance.arrays.output, model, np.random.default_rng([seed, 1]))


def _run(
    instance: Instance,
    entry: PolicyEntry,
    options: dict[str, Any],
    seed: int,
    predicted: Predictions,
    *,
    limits: BatchLimits | None,
    slots_over_time: Sequence[tuple[float, int]] | None,
) -> Schedule:
    if entry.clock != (clock := _clock(instance)):
        names = {"unit": "the unit clock and for continuous batching", "stages": "slots in stages (mixed = false)"}
        fitting = ", ".join(fitting_policies(instance)) or "none yet"
        raise UsageError(
            f"policy {entry.name!r} is for {names[entry.clock]}; this instance has {_clock_words(instance)}\n"
            f"  policies for it: {fitting}"
        )
    instance.check_fits()
    if entry.clairvoyant:
        predicted = instance.arrays.output, instance.arrays.output
    policy = entry.build(options)
    if (why := _pause_refusal(instance, policy)) is not None:
        raise UsageError(f"policy {entry.name!r} {why}")
    if clock == "stages":
        if limits is not None and limits != BatchLimits():
            raise UsageError(_NO_LIMITS)
        return _run_stages(instance, entry, options, seed, predicted, slots_over_time)
    if slots_over_time is not None:
        raise UsageError("the number of slots changes over time only in stages on slots (mixed = false)")
    kind = ContinuousSimulation if instance.server.pause is None else PausingSimulation
    first = kind(instance, policy, np.random.default_rng(seed), predicted, limits)
    if instance.server.replicas == 1:
        return first.run()
    more = range(1, instance.server.replicas)
    others = [beside(first, entry.build(options), np.random.default_rng([seed, 2, replica])) for replica in more]
    return run_beside([first, *others], entry.dispatch(options))


def _pause_refusal(instance: Instance, policy: Policy) -> str | None:
    """Why a policy cannot pause requests on the instance's server as it does, in words that follow "it", or None."""
    keep = None if instance.server.pause is None else instance.server.pause.keep
    if policy.pauses is None or keep == policy.pauses or (policy.pauses == "anywhere" and keep is not None):
        return None
    needed = "held or swapped" if policy.pauses == "anywhere" else policy.pauses
    found = "no server.pause" if keep is None else f'server.pause {{"keep": "{keep}"}}'
    return f"pauses requests whose tokens are {needed}; this instance has {found}"


def _run_stages(
    instance: Instance,
    entry: PolicyEntry,
    options: dict[str, Any],
    seed: int,
    predicted: Predictions,
    slots_over_time: Sequence[tuple[float, int]] | None,
) -> Schedule:
    """Stages on slots; each of several replicas is a server with the requests that are sent to it."""
    replicas, arrival = instance.server.replicas, instance.arrays.arrival
    order = sorted(range(len(arrival)), key=lambda i: (arrival[i], i))

    def run(requests: list[int]) -> Schedule:
        server = alone(instance, requests) if replicas > 1 else instance
        told = predicted[0][requests], predicted[1][requests]
        return StageSimulation(server, entry.build(options), np.random.default_rng(seed), told, slots_over_time).run()

    sent = [sorted(order[replica::replicas]) for replica in range(replicas)]  # round-robin
    return side_by_side(run(requests) if requests else Schedule() for requests in sent)


def _clock(instance: Instance) -> str:
    """The kind of policies for an instance: where slots alone limit exclusive prefills, stages."""
    return "stages" if replica_stages_refusal(instance) is None else "unit"


def _clock_words(instance: Instance) -> str:
    clock = instance.server.clock
    if isinstance(clock, UnitClock):
        return "the unit clock"
    if _clock(instance) == "stages":
        return "slots in stages (mixed = false)"
    return f"the linear clock with mixed = {str(isinstance(clock, LinearClock) and clock.mixed).lower()}"
