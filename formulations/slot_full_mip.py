r"""The slot problem in full: which request is prefilled on which slot in which stage, and how long the stages decode.

Sets
----
REQUESTS
    Requests i, longest output first.
SLOTS
    Slots j = 1 .. J, at most n.
STAGES
    Stages k = 1 .. K: first a prefill over those admitted in k, then decode rounds.
PLACES
    Pairs (i, j): the p-th request in order takes one of the slots 1 .. p.
LEVELS
    Levels l of a prefill; empty under the linear cost model.

Parameters
----------
slots, stages
    J and K, how many there are of each.
prompt[i], output[i]
    s_i, o_i.
prefill_base
    Duration of a prefill without tokens under the linear cost model.
level_tokens[l], level_ms[l]
    Tokens that a level holds, at most all prompts, and how long it lasts.
round_ms
    tau.
constant
    What every schedule pays: prompts under the linear cost model, active requests and held tokens by the round.
least_rounds, least_stages
    Lower bounds z on the rounds and ceil(n / J) on the stages.

Variables
---------
prefilled[i, j, k]
    1 if request i is prefilled on slot j in stage k.
decoded[i, j, k]
    g, tokens of request i decoded on slot j in stage k.
rounds[k]
    D, decode rounds of stage k.
used[k]
    1 if stage k admits a request.
level[k, l]
    1 if the prefill of stage k takes level l.

Objective
---------
makespan
    min  constant + sum_k (prefill_base used[k] + sum_l level_ms[l] level[k,l] + tau rounds[k])

Constraints
-----------
prefilled_once[i]
    sum_{j,k} prefilled[i,j,k] = 1
decoded_where_prefilled[i, j]
    sum_k decoded[i,j,k] = o_i sum_k prefilled[i,j,k]
decoded_after_prefill[i, j, k]
    decoded[i,j,k] <= o_i sum_{q<=k} prefilled[i,j,q]
one_prefill_a_stage[j, k]
    sum_i prefilled[i,j,k] <= 1
slot_decodes_within_rounds[j, k]
    sum_i decoded[i,j,k] <= rounds[k]
slot_free_before_prefill[j, k]
    sum_i sum_{q<k} (o_i prefilled[i,j,q] - decoded[i,j,q]) <= o_max (1 - sum_i prefilled[i,j,k])
stage_used[i, k]
    sum_j prefilled[i,j,k] <= used[k]
stages_in_order[k]
    used[k] >= used[k+1]
slots_in_order[i, j]
    sum_k prefilled[i,j,k] <= sum_{h before i} sum_k prefilled[h,j-1,k]
level_chosen[k], level_holds[k]
    sum_l level[k,l] = used[k],  sum_{i,j} s_i prefilled[i,j,k] <= sum_l level_tokens[l] level[k,l]
enough_rounds, enough_stages
    sum_k rounds[k] >= z,  sum_k used[k] >= ceil(n / J)

Claim
-----
Exact. K is n or what a judged schedule and the lower bound leave (modelkit.Known.stage_limits). Slots are
interchangeable: they are numbered by the first request in order that uses them. A decoded request may hold fewer tokens
than a stage has rounds; run as scheduled it is done no later.

Reference
---------
Pang, Li, She, Wang, Hybrid Offline-online Scheduling Method for Large Language Model Inference Optimization, arXiv
2502.15763, the full mixed-integer program, in our reading. Different from the paper: the two orders, the two lower
bounds and the proven K.
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import (
    Admission,
    Formulation,
    Instance,
    Known,
    LinearClock,
    Schedule,
    Stage,
    TooLargeError,
    chosen,
    packing_bound,
    schedule_from_stages,
    slot_bound,
    stages_refusal,
)

#: Non-zeros, of which n J K^2 are counted, above which no model is built: solvers get nowhere with more.
MOST_NONZEROS = 300_000


def needs(instance: Instance) -> str | None:
    """Why the instance is outside this formulation, or None."""
    if instance.arrays.arrival.any():
        return "needs all requests known at 0"
    return stages_refusal(instance)


def build(m: Any) -> None:
    """Fill the abstract model."""
    m.REQUESTS = pyo.Set(ordered=True, doc="requests, longest output first")
    m.SLOTS = pyo.RangeSet(m_size("slots", m, "number of slots that can be of use"), doc="slots")
    m.STAGES = pyo.RangeSet(m_size("stages", m, "number of stages"), doc="stages")
    m.PLACES = pyo.Set(dimen=2, doc="request and slot that it may take")
    m.LEVELS = pyo.Set(doc="levels of a prefill")

    m.prompt = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="prompt length [token]")
    m.output = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="output length [token]")
    m.prefill_base = pyo.Param(within=pyo.NonNegativeReals, doc="duration of a prefill without tokens [ms]")
    m.level_tokens = pyo.Param(m.LEVELS, within=pyo.PositiveIntegers, doc="what a level holds [token]")
    m.level_ms = pyo.Param(m.LEVELS, within=pyo.NonNegativeReals, doc="duration of a level [ms]")
    m.round_ms = pyo.Param(within=pyo.NonNegativeReals, doc="duration of a decode round [ms]")
    m.constant = pyo.Param(within=pyo.NonNegativeReals, doc="what every schedule pays [ms]")
    m.least_rounds = pyo.Param(within=pyo.PositiveIntegers, doc="lower bound on the rounds [round]")
    m.least_stages = pyo.Param(within=pyo.PositiveIntegers, doc="lower bound on the stages [stage]")

    m.prefilled = pyo.Var(m.PLACES, m.STAGES, domain=pyo.Binary, doc="1 if prefilled on the slot in the stage")
    m.decoded = pyo.Var(m.PLACES, m.STAGES, domain=pyo.NonNegativeReals, doc="tokens decoded")
    m.rounds = pyo.Var(m.STAGES, domain=pyo.NonNegativeIntegers, doc="decode rounds of the stage")
    m.used = pyo.Var(m.STAGES, domain=pyo.Binary, doc="1 if the stage admits a request")
    m.level = pyo.Var(m.STAGES, m.LEVELS, domain=pyo.Binary, doc="1 if the prefill takes the level")

    m.makespan = pyo.Objective(rule=makespan, doc="end of the last round [ms]")
    m.prefilled_once = pyo.Constraint(m.REQUESTS, rule=prefilled_once, doc="every request is prefilled once")
    m.decoded_where_prefilled = pyo.Constraint(
        m.PLACES, rule=decoded_where_prefilled, doc="a request is decoded in full where it was prefilled"
    )
    m.decoded_after_prefill = pyo.Constraint(
        m.PLACES, m.STAGES, rule=decoded_after_prefill, doc="a request is not decoded before its prefill"
    )
    m.one_prefill_a_stage = pyo.Constraint(
        m.SLOTS, m.STAGES, rule=one_prefill_a_stage, doc="a slot prefills one request in a stage"
    )
    m.slot_decodes_within_rounds = pyo.Constraint(
        m.SLOTS, m.STAGES, rule=slot_decodes_within_rounds, doc="a slot decodes one token in a round"
    )
    m.slot_free_before_prefill = pyo.Constraint(
        m.SLOTS, m.STAGES, rule=slot_free_before_prefill, doc="a slot is free before its next prefill"
    )
    m.stage_used = pyo.Constraint(m.REQUESTS, m.STAGES, rule=stage_used, doc="only used stages admit")
    m.stages_in_order = pyo.Constraint(m.STAGES, rule=stages_in_order, doc="unused stages come last")
    m.slots_in_order = pyo.Constraint(m.PLACES, rule=slots_in_order, doc="slots are numbered by first use")
    m.level_chosen = pyo.Constraint(m.STAGES, rule=level_chosen, doc="a used stage takes one level")
    m.level_holds = pyo.Constraint(m.STAGES, rule=level_holds, doc="the level holds the prompts of the stage")
    m.enough_rounds = pyo.Constraint(rule=enough_rounds, doc="some slot decodes at least z rounds")
    m.enough_stages = pyo.Constraint(rule=enough_stages, doc="a stage admits at most J requests")


def m_size(name: str, m: Any, doc: str) -> Any:
    """A parameter that counts the members of a set."""
    setattr(m, name, pyo.Param(within=pyo.PositiveIntegers, doc=f"{doc} [1]"))
    return getattr(m, name)


def makespan(m: Any) -> Any:
    """Constant, prefills and decode rounds."""
    return (
        m.constant
        + m.prefill_base * pyo.quicksum(m.used[k] for k in m.STAGES)
        + pyo.quicksum(m.level_ms[v] * m.level[k, v] for k in m.STAGES for v in m.LEVELS)
        + m.round_ms * pyo.quicksum(m.rounds[k] for k in m.STAGES)
    )


def slots_of(m: Any, i: str) -> list[int]:
    """Slots that a request may take."""
    return [j for j in m.SLOTS if (i, j) in m.PLACES]


def takers_of(m: Any, j: int) -> list[str]:
    """Requests that may take a slot."""
    return [i for i in m.REQUESTS if (i, j) in m.PLACES]


def prefilled_once(m: Any, i: str) -> Any:
    """Every request is prefilled once."""
    return pyo.quicksum(m.prefilled[i, j, k] for j in slots_of(m, i) for k in m.STAGES) == 1


def decoded_where_prefilled(m: Any, i: str, j: int) -> Any:
    """All tokens on the slot of the prefill."""
    return pyo.quicksum(m.decoded[i, j, k] for k in m.STAGES) == m.output[i] * pyo.quicksum(
        m.prefilled[i, j, k] for k in m.STAGES
    )


def decoded_after_prefill(m: Any, i: str, j: int, k: int) -> Any:
    """No token before the prefill."""
    return m.decoded[i, j, k] <= m.output[i] * pyo.quicksum(m.prefilled[i, j, q] for q in range(1, k + 1))


def one_prefill_a_stage(m: Any, j: int, k: int) -> Any:
    """At most one request a slot and stage."""
    return pyo.quicksum(m.prefilled[i, j, k] for i in takers_of(m, j)) <= 1


def slot_decodes_within_rounds(m: Any, j: int, k: int) -> Any:
    """At most one token a round."""
    return pyo.quicksum(m.decoded[i, j, k] for i in takers_of(m, j)) <= m.rounds[k]


def slot_free_before_prefill(m: Any, j: int, k: int) -> Any:
    """Nothing is left to decode on a slot that prefills."""
    if k == 1:
        return pyo.Constraint.Skip
    takers, longest = takers_of(m, j), m.output[m.REQUESTS.first()]
    left = pyo.quicksum(m.output[i] * m.prefilled[i, j, q] - m.decoded[i, j, q] for i in takers for q in range(1, k))
    return left <= longest * (1 - pyo.quicksum(m.prefilled[i, j, k] for i in takers))


def stage_used(m: Any, i: str, k: int) -> Any:
    """Whoever is admitted pays for the stage."""
    return pyo.quicksum(m.prefilled[i, j, k] for j in slots_of(m, i)) <= m.used[k]


def stages_in_order(m: Any, k: int) -> Any:
    """No used stage after an unused one."""
    return m.used[k] >= m.used[k + 1] if k + 1 in m.STAGES else pyo.Constraint.Skip


def slots_in_order(m: Any, i: str, j: int) -> Any:
    """Slot j only when an earlier request takes slot j - 1."""
    if j == 1:
        return pyo.Constraint.Skip
    before = [h for h in takers_of(m, j - 1) if m.REQUESTS.ord(h) < m.REQUESTS.ord(i)]
    return pyo.quicksum(m.prefilled[i, j, k] for k in m.STAGES) <= pyo.quicksum(
        m.prefilled[h, j - 1, k] for h in before for k in m.STAGES
    )


def level_chosen(m: Any, k: int) -> Any:
    """One level for a used stage."""
    if not len(m.LEVELS):
        return pyo.Constraint.Skip
    return pyo.quicksum(m.level[k, v] for v in m.LEVELS) == m.used[k]


def level_holds(m: Any, k: int) -> Any:
    """Prompts within the level."""
    if not len(m.LEVELS):
        return pyo.Constraint.Skip
    tokens = pyo.quicksum(m.prompt[i] * m.prefilled[i, j, k] for i, j in m.PLACES)
    return tokens <= pyo.quicksum(m.level_tokens[v] * m.level[k, v] for v in m.LEVELS)


def enough_rounds(m: Any) -> Any:
    """At least z rounds."""
    return pyo.quicksum(m.rounds[k] for k in m.STAGES) >= m.least_rounds


def enough_stages(m: Any) -> Any:
    """At least ceil(n / J) stages."""
    return pyo.quicksum(m.used[k] for k in m.STAGES) >= m.least_stages


def data(instance: Instance, known: Known) -> dict[str, Any]:
    """Values of all sets and parameters."""
    assert isinstance(instance.server.clock, LinearClock)
    clock = instance.server.clock.folded()
    requests = sorted(instance.requests, key=lambda r: -r.output_tokens)
    slots = min(instance.server.slots or len(requests), len(requests))
    smallest = -(-len(requests) // slots)
    if (size := len(requests) * slots * smallest**2) <= MOST_NONZEROS:
        least_stages, stages = known.stage_limits
        size = len(requests) * slots * stages**2
    if size > MOST_NONZEROS:
        raise TooLargeError(
            f"the instance is too large for slot-full-mip: {len(requests):,} requests on {slots:,} slots make"
            f" {size:,} non-zeros or more; at most {MOST_NONZEROS:,}"
        )
    rounds, _ = packing_bound(instance.arrays.output, slots)
    levels = dict(enumerate(clock.prefill_levels or (), start=1))
    linear = clock.prefill_levels is None
    constant, prompts = constant_ms(instance), int(instance.arrays.prompt.sum())
    return {
        "REQUESTS": [r.id for r in requests],
        "slots": slots,
        "stages": stages,
        "PLACES": [(r.id, j) for p, r in enumerate(requests, start=1) for j in range(1, min(p, slots) + 1)],
        "LEVELS": list(levels),
        "prompt": {r.id: r.prompt_tokens for r in requests},
        "output": {r.id: r.output_tokens for r in requests},
        "prefill_base": clock.prefill_base_ms if linear else 0.0,
        "level_tokens": {level: min(tokens, prompts) for level, (tokens, _) in levels.items()},
        "level_ms": {level: ms for level, (_, ms) in levels.items()},
        "round_ms": clock.decode_base_ms,
        "constant": constant,
        "least_rounds": rounds,
        "least_stages": least_stages,
    }


def constant_ms(instance: Instance) -> float:
    """What every schedule pays: the bound without rounds, prefill base and levels [ms]."""
    clock = instance.server.clock.model_copy(
        update={"base_ms": 0.0, "decode_base_ms": 0.0, "prefill_base_ms": 0.0, "prefill_levels": None}
    )
    bare = instance.model_copy(update={"server": instance.server.model_copy(update={"clock": clock})})
    return float(slot_bound(bare, 0))


def extract(m: Any, instance: Instance) -> Schedule:
    """The schedule that the values of ``prefilled`` and ``rounds`` say."""
    admitted: dict[int, list[Admission]] = {k: [] for k in m.STAGES}
    for (i, j, k), var in m.prefilled.items():
        if chosen(var):
            admitted[k].append(Admission(i, j - 1))
    stages: list[Stage] = []
    for k in m.STAGES:
        rounds = round(m.rounds[k].value or 0)
        if admitted[k] or not stages:
            stages.append(Stage(tuple(admitted[k]), rounds))
        else:
            stages[-1] = Stage(stages[-1].admit, stages[-1].rounds + rounds)
    return schedule_from_stages(instance, stages)


def start(m: Any, instance: Instance, schedule: Schedule) -> None:
    """Set the variables to what a schedule says, with the slots renumbered by first use."""
    segments = [segment for segment in schedule.segments if segment.admit]
    taken = {i: slot for segment in segments for i, slot in segment.admit}
    number: dict[int | None, int] = {}
    for i in m.REQUESTS:
        number.setdefault(taken[i], len(number) + 1)
    for variables in (m.prefilled, m.decoded, m.rounds, m.used, m.level):
        variables.set_values(dict.fromkeys(variables, 0))
    left: dict[str, int] = {}
    for k, segment in enumerate(segments, start=1):
        m.used[k].set_value(1)
        m.rounds[k].set_value(segment.rounds)
        for i, _ in segment.admit:
            m.prefilled[i, number[taken[i]], k].set_value(1)
            left[i] = m.output[i]
        for i in left:
            m.decoded[i, number[taken[i]], k].set_value(min(left[i], segment.rounds))
            left[i] -= min(left[i], segment.rounds)
        if len(m.LEVELS):
            tokens = sum(m.prompt[i] for i, _ in segment.admit)
            holding = [v for v in m.LEVELS if m.level_tokens[v] >= tokens]
            m.level[k, min(holding, key=lambda v: m.level_ms[v])].set_value(1)


FORMULATION = Formulation(
    name="slot-full-mip",
    summary="least makespan on slots: prefill stages, decode rounds and slots in one program",
    claim="exact",
    objective="makespan",
    problem="slots",
    reference="Pang, Li, She, Wang, arXiv 2502.15763",
    needs=needs,
    build=build,
    data=data,
    extract=extract,
    start=start,
)
