"""The problems that an instance may pose, one object each: what is minimised, and which instances are of it.

================ =============================================== ============================================
name             instances                                       objective
================ =============================================== ============================================
kv               unit clock, no slots                            total latency [round]
unit-slots       unit clock, slots                               total latency [round]
slots            linear clock, exclusive prefills, slots, and a  makespan, total latency or total time to
                 memory that cannot fill                         first token [ms]
serving          linear clock otherwise                          total latency, makespan or total time to
                                                                 first token [ms]
unit-replicas    unit clock, several replicas                    total latency [round]
serving-replicas linear clock, several replicas                  total latency, makespan or total time to
                                                                 first token [ms]
preemptive       unit clock, requests may be paused              total latency [round]
unit-prefixes    unit clock, requests share prefixes             total latency [round]
serving-prefixes linear clock, requests share prefixes           total latency, makespan or total time to
                                                                 first token [ms]
================ =============================================== ============================================

Every instance poses one of them. Whoever needs to know which asks `problem_of`, and keeps what depends on it in a table
by problem.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modelkit.clock import LinearClock
from modelkit.errors import UsageError, did_you_mean
from modelkit.instance import Instance
from modelkit.text import metric_noun, unit_of

#: Metrics of the judge that are minimised; what depends on one compares with these.
TOTAL_LATENCY_ROUNDS, TOTAL_LATENCY_MS = "total_latency_rounds", "total_latency_ms"
MAKESPAN_MS, TOTAL_TTFT_MS = "makespan_ms", "total_ttft_ms"
#: Requests that keep their service levels, of which a bound says how many there can be, and those that do not.
WITHIN_SLO, OUTSIDE_SLO = "requests_within_slo", "requests_outside_slo"
#: What the objective that few are outside may be called.
GOODPUT = ("goodput", WITHIN_SLO, OUTSIDE_SLO)
#: Why problems of one server are not those of an instance with more.
SEVERAL = "does not support several replicas"
#: Why problems without pauses are not those of an instance with them.
PAUSING = "does not support pauses (server.pause)"
#: Why problems without shared prefixes are not those of an instance with them, and the other way round.
SHARING = "does not support shared prefixes (server.prefix_cache)"
NOT_SHARING = "needs requests with a prefix and a server with a prefix_cache"


@dataclass(frozen=True)
class Problem:
    """What is to be minimised on instances of one kind.

    Parameters
    ----------
    name
        One word.
    title
        What it is called in a sentence, with its article.
    instances
        Which instances pose it, in a few words.
    objectives
        Metrics that it may bound, as the judge names them; the first is the one that is meant where none is named.
    refusal
        Why an instance does not pose it, in words that follow "it", or None.
    model
        What formulations of it state as their ``problem``, and results with them.
    relaxations
        What formulations state that are models of a relaxation of it.
    """

    name: str
    title: str
    instances: str
    objectives: tuple[str, ...]
    refusal: Callable[[Instance], str | None]
    model: str
    relaxations: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Problem({self.name!r})"

    def __reduce__(self) -> tuple[Callable[[str], Problem], tuple[str]]:
        """One object a problem in every process."""
        return _problem_named, (self.name,)

    @property
    def objective(self) -> str:
        """The metric that is minimised where none is named."""
        return self.objectives[0]

    @property
    def noun(self) -> str:
        """What the objective is called in a sentence."""
        return metric_noun(self.objective)

    @property
    def unit(self) -> str:
        """The unit of the objective: ``rounds`` or ``ms``."""
        return unit_of(self.objective)

    def metric(self, objective: str | None = None) -> str:
        """The metric that is meant by its name, by a short word such as ``latency`` or ``ttft``, or by nothing.

        Raises
        ------
        UsageError
            No objective of this problem is called that.
        """
        if objective is None:
            return self.objective
        known = {short_name(metric): metric for metric in self.objectives}
        known |= {metric: metric for metric in self.objectives}
        if objective not in known:
            allowed = ", ".join(known)
            raise UsageError(
                f"{self.title} has no objective {objective!r}{did_you_mean(objective, known)}\n  known: {allowed}"
            )
        return known[objective]


def short_name(metric: str) -> str:
    """A metric's name without total and without its unit: ``latency`` of ``total_latency_ms``."""
    return metric.removeprefix("total_").removesuffix(f"_{unit_of(metric)}")


def _rounds_refusal(instance: Instance) -> str | None:
    """Why an instance is not of one server under the unit clock, or None."""
    if not instance.is_unit:
        return "needs the unit clock"
    return SEVERAL if instance.server.replicas > 1 else None


def _plain_refusal(instance: Instance) -> str | None:
    """Why an instance is not of servers without pauses and shared prefixes, or None."""
    if instance.server.pause is not None:
        return PAUSING
    return SHARING if instance.shared_prefixes is not None else None


def kv_refusal(instance: Instance) -> str | None:
    """Why an instance is outside the KV-cache problem, or None."""
    if why := _rounds_refusal(instance) or _plain_refusal(instance):
        return why
    return None if instance.server.slots is None else "does not support slots"


def unit_slots_refusal(instance: Instance) -> str | None:
    """Why an instance is outside the problem of slots in rounds, or None."""
    if why := _rounds_refusal(instance) or _plain_refusal(instance):
        return why
    return "needs a number of slots" if instance.server.slots is None else None


def stages_refusal(instance: Instance) -> str | None:
    """Why an instance is outside the slot problem, or None."""
    return SEVERAL if instance.server.replicas > 1 else replica_stages_refusal(instance)


def replica_stages_refusal(instance: Instance) -> str | None:
    """Why a replica of the server does not run in stages on slots, or None.

    A KV capacity that J requests of the largest size cannot fill is no limit.
    """
    server = instance.server
    if not isinstance(server.clock, LinearClock) or server.clock.mixed:
        return "needs the linear clock with mixed = false"
    if why := _plain_refusal(instance):
        return why
    if server.slots is None:
        return "needs a number of slots"
    peak = np.sort(instance.arrays.peak)[-server.slots :]
    if server.kv_capacity_tokens is not None and int(peak.sum()) > server.kv_capacity_tokens:
        return "does not support a KV capacity"
    return None


def serving_refusal(instance: Instance) -> str | None:
    """Why an instance is outside the serving problem, or None."""
    if not isinstance(instance.server.clock, LinearClock):
        return "needs the linear clock"
    if instance.server.replicas > 1:
        return SEVERAL
    if instance.shared_prefixes is not None:
        return SHARING
    return None if stages_refusal(instance) else f"poses {SLOTS.title}"


def unit_replicas_refusal(instance: Instance) -> str | None:
    """Why an instance is outside the problem of replicas in rounds, or None."""
    if not instance.is_unit:
        return "needs the unit clock"
    return None if instance.server.replicas > 1 else "needs several replicas"


def serving_replicas_refusal(instance: Instance) -> str | None:
    """Why an instance is outside the serving problem of several replicas, or None."""
    if not isinstance(instance.server.clock, LinearClock):
        return "needs the linear clock"
    return None if instance.server.replicas > 1 else "needs several replicas"


def preemptive_refusal(instance: Instance) -> str | None:
    """Why an instance is outside the KV-cache problem with pauses, or None."""
    if why := _rounds_refusal(instance):
        return why
    return "needs pauses (server.pause)" if instance.server.pause is None else None


def unit_prefixes_refusal(instance: Instance) -> str | None:
    """Why an instance is outside the KV-cache problem with shared prefixes, or None."""
    if why := _rounds_refusal(instance):
        return why
    return NOT_SHARING if instance.shared_prefixes is None else None


def serving_prefixes_refusal(instance: Instance) -> str | None:
    """Why an instance is outside the serving problem with shared prefixes, or None."""
    if instance.is_unit:
        return "needs the linear clock"
    if instance.server.replicas > 1:
        return SEVERAL
    return NOT_SHARING if instance.shared_prefixes is None else None


KV = Problem(
    name="kv",
    title="the KV-cache problem",
    instances="the unit clock without slots",
    objectives=(TOTAL_LATENCY_ROUNDS,),
    refusal=kv_refusal,
    model="kv-hindsight",
)
UNIT_SLOTS = Problem(
    name="unit-slots",
    title="the problem of slots in rounds",
    instances="the unit clock with slots",
    objectives=(TOTAL_LATENCY_ROUNDS,),
    refusal=unit_slots_refusal,
    model="unit-slots",
)
SLOTS = Problem(
    name="slots",
    title="the slot problem",
    instances="slots in stages",
    objectives=(MAKESPAN_MS, TOTAL_LATENCY_MS, TOTAL_TTFT_MS),
    refusal=stages_refusal,
    model="slots",
    relaxations=("slot-bound", "slot-packing"),
)
SERVING = Problem(
    name="serving",
    title="the serving problem",
    instances="the linear clock",
    objectives=(TOTAL_LATENCY_MS, MAKESPAN_MS, TOTAL_TTFT_MS),
    refusal=serving_refusal,
    model="serving",
)
UNIT_REPLICAS = Problem(
    name="unit-replicas",
    title="the problem of replicas in rounds",
    instances="the unit clock with several replicas",
    objectives=(TOTAL_LATENCY_ROUNDS,),
    refusal=unit_replicas_refusal,
    model="kv-replicas",
)
SERVING_REPLICAS = Problem(
    name="serving-replicas",
    title="the serving problem of several replicas",
    instances="the linear clock with several replicas",
    objectives=(TOTAL_LATENCY_MS, MAKESPAN_MS, TOTAL_TTFT_MS),
    refusal=serving_replicas_refusal,
    model="serving-replicas",
)
PREEMPTIVE = Problem(
    name="preemptive",
    title="the KV-cache problem with pauses",
    instances="the unit clock with pauses",
    objectives=(TOTAL_LATENCY_ROUNDS,),
    refusal=preemptive_refusal,
    model="kv-preemptive",
)
UNIT_PREFIXES = Problem(
    name="unit-prefixes",
    title="the KV-cache problem with shared prefixes",
    instances="the unit clock with shared prefixes",
    objectives=(TOTAL_LATENCY_ROUNDS,),
    refusal=unit_prefixes_refusal,
    model="kv-prefix",
)
SERVING_PREFIXES = Problem(
    name="serving-prefixes",
    title="the serving problem with shared prefixes",
    instances="the linear clock with shared prefixes",
    objectives=(TOTAL_LATENCY_MS, MAKESPAN_MS, TOTAL_TTFT_MS),
    refusal=serving_prefixes_refusal,
    model="serving-prefixes",
)
PROBLEMS = (
    KV,
    UNIT_SLOTS,
    SLOTS,
    SERVING,
    UNIT_REPLICAS,
    SERVING_REPLICAS,
    PREEMPTIVE,
    UNIT_PREFIXES,
    SERVING_PREFIXES,
)

#: What formulations state as their ``problem`` whose schedules keep the judge's rules and no others: their bounds hold
#: for every schedule.
MODELS = frozenset(label for problem in PROBLEMS for label in (problem.model, *problem.relaxations))


def _problem_named(name: str) -> Problem:
    return next(problem for problem in PROBLEMS if problem.name == name)


def problem_of(instance: Instance) -> Problem:
    """The problem that an instance poses; each poses one."""
    return next(problem for problem in PROBLEMS if problem.refusal(instance) is None)


def problem_modelled(label: str | None) -> Problem | None:
    """The problem that a formulation with this ``problem`` is a model of; None for relaxations and other problems."""
    return next((problem for problem in PROBLEMS if problem.model == label), None)


def objective_of(instance: Instance) -> str:
    """The metric that an instance's schedules are compared by: its problem's."""
    return problem_of(instance).objective
