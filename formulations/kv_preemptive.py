r"""The KV-cache problem with pauses: in which round each token is made.

Sets
----
REQUESTS
    Requests i.
TOKENS
    Pairs (i, j): the j-th token of request i, j = 1 .. o_i.
LAST_TOKENS
    Pairs (i, o_i).
BEFORE_LAST
    Triples (i, j, t) of STEPS with j < o_i.
STEPS
    Triples (i, j, t) with first[i,j] <= t < last[i,j].
ROUNDS
    Rounds t in which some token may be made.
AT[t], BETWEEN[t]
    Pairs (i, j) with first[i,j] <= t <= last[i,j]; those of them with j < o_i and t > first[i,j], where paused requests
    hold their tokens, else none.

Parameters
----------
first[i, j], last[i, j]
    a_i + j and l_i - o_i + j: the rounds in which the token may be made, where l_i is the last one of request i.
size[i, j]
    s_i + j.
output[i]
    o_i, of all requests.
kv_capacity, slots
    M and J, or what all requests together need.

Variables
---------
made[i, j, t]
    1 if token j of request i is made by the end of round t; 0 for t < first[i,j], 1 for t >= last[i,j].

Objective
---------
total_latency
    min  sum_i o_i + sum_{(i,j) in LAST_TOKENS} sum_{t = first[i,j]}^{last[i,j] - 1} (1 - made[i,j,t])

Constraints
-----------
stays_made[i, j, t]
    made[i,j,t-1] <= made[i,j,t]
in_order[i, j, t]
    made[i,j+1,t+1] <= made[i,j,t] for (i,j,t) in BEFORE_LAST
kv_capacity_holds[t]
    sum_{(i,j) in AT[t]} (s_i + j) (made[i,j,t] - made[i,j,t-1])
        + sum_{(i,j) in BETWEEN[t]} (s_i + j) (made[i,j,t-1] - made[i,j+1,t]) <= M
slots_suffice[t]
    sum_{(i,j) in AT[t]} (made[i,j,t] - made[i,j,t-1]) + sum_{(i,j) in BETWEEN[t]} (made[i,j,t-1] - made[i,j+1,t]) <= J

Claim
-----
Exact. A request makes token j in round t where made[i,j,t] - made[i,j,t-1] is 1, and holds s_i + j then. It is paused
in round t with j tokens where token j is made before t and token j + 1 is not made by t. Copies of tokens take no time
under the unit clock. Nobody is evicted in some best schedule: without the rounds before an eviction no request is done
later and none holds more. Some best schedule makes a token in every round after the last arrival: an empty one can be
cut out.

Reference
---------
Jaillet, Jiang, Mellou, Molinaro, Podimata, Zhou, arXiv 2502.07115, whose hindsight-optimal program has no pauses; the
step variables are those of Pritsker, Watters, Wolfe, Multiproject scheduling with limited resources, Management Science
16 (1969), for unit parts of preempted jobs.
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo
from pyomo.core.expr.numeric_expr import LinearExpression

from modelkit import (
    Formulation,
    Instance,
    Known,
    Schedule,
    TooLargeError,
    chosen,
    preemptive_refusal,
    rounds_of,
    schedule_from_rounds,
)

#: Binaries that a model may have; solvers get nowhere with more.
MOST_STEPS = 20_000


def build(m: Any) -> None:
    """Fill the abstract model."""
    m.REQUESTS = pyo.Set(doc="requests")
    m.TOKENS = pyo.Set(dimen=2, doc="request and token of it")
    m.LAST_TOKENS = pyo.Set(dimen=2, doc="request and its last token")
    m.BEFORE_LAST = pyo.Set(dimen=3, doc="request, token of it before the last, and a round by which it may be made")
    m.STEPS = pyo.Set(dimen=3, doc="request, token of it, and a round by which it may or may not be made")
    m.ROUNDS = pyo.Set(doc="rounds in which some token may be made")
    m.AT = pyo.Set(m.ROUNDS, dimen=2, doc="tokens that may be made in the round")
    m.BETWEEN = pyo.Set(m.ROUNDS, dimen=2, doc="tokens after which a request may be paused in the round and hold them")

    m.first = pyo.Param(m.TOKENS, within=pyo.PositiveIntegers, doc="first round that may make the token [round]")
    m.last = pyo.Param(m.TOKENS, within=pyo.PositiveIntegers, doc="last round that may make the token [round]")
    m.size = pyo.Param(m.TOKENS, within=pyo.PositiveIntegers, doc="tokens held once it is made [token]")
    m.output = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="output length [token]")
    m.kv_capacity = pyo.Param(within=pyo.PositiveIntegers, doc="KV-cache budget [token]")
    m.slots = pyo.Param(within=pyo.PositiveIntegers, doc="requests in progress at once [request]")

    m.made = pyo.Var(m.STEPS, domain=pyo.Binary, doc="1 if the token is made by the end of that round")

    m.total_latency = pyo.Objective(rule=total_latency, doc="total end-to-end latency [round]")
    m.stays_made = pyo.Constraint(m.STEPS, rule=stays_made, doc="a token that is made stays made")
    m.in_order = pyo.Constraint(m.BEFORE_LAST, rule=in_order, doc="tokens are made one after the other")
    m.kv_capacity_holds = pyo.Constraint(m.ROUNDS, rule=kv_capacity_holds, doc="the held tokens fit the KV cache")
    m.slots_suffice = pyo.Constraint(m.ROUNDS, rule=slots_suffice, doc="few enough requests are in progress")


def by(m: Any, i: str, j: int, t: int) -> Any:
    """made[i,j,t]: 0 before the token can be made, 1 once it must be."""
    if t < m.first[i, j]:
        return 0
    return 1 if t >= m.last[i, j] else m.made[i, j, t]


def total_latency(m: Any) -> Any:
    """Sum of completion - arrival: its output, and a round more for each in which the last token is not made yet."""
    late = [m.made[i, j, t] for i, j in m.LAST_TOKENS for t in range(m.first[i, j], m.last[i, j])]
    outputs = sum(m.output[i] for i in m.REQUESTS)
    return LinearExpression(constant=outputs + len(late), linear_coefs=[-1] * len(late), linear_vars=late)


def stays_made(m: Any, i: str, j: int, t: int) -> Any:
    """What is made by round t - 1 is made by round t."""
    if t == m.first[i, j]:
        return pyo.Constraint.Skip
    return m.made[i, j, t - 1] <= m.made[i, j, t]


def in_order(m: Any, i: str, j: int, t: int) -> Any:
    """The next token is made a round later at the soonest."""
    return m.made[i, j + 1, t + 1] <= m.made[i, j, t]


def kv_capacity_holds(m: Any, t: int) -> Any:
    """Tokens held in round t by those who make one, and by the paused that hold theirs."""
    making = pyo.quicksum(m.size[i, j] * (by(m, i, j, t) - by(m, i, j, t - 1)) for i, j in m.AT[t])
    paused = pyo.quicksum(m.size[i, j] * (by(m, i, j, t - 1) - by(m, i, j + 1, t)) for i, j in m.BETWEEN[t])
    return row(making + paused, pyo.value(m.kv_capacity))


def slots_suffice(m: Any, t: int) -> Any:
    """Requests that make a token in round t, and the paused that keep their slots."""
    making = pyo.quicksum(by(m, i, j, t) - by(m, i, j, t - 1) for i, j in m.AT[t])
    paused = pyo.quicksum(by(m, i, j, t - 1) - by(m, i, j + 1, t) for i, j in m.BETWEEN[t])
    return row(making + paused, pyo.value(m.slots))


def row(held: Any, limit: int) -> Any:
    """A row, also where no variable is in it."""
    if isinstance(held, int):
        return pyo.Constraint.Feasible if held <= limit else pyo.Constraint.Infeasible
    return held <= limit


def data(instance: Instance, known: Known) -> dict[str, Any]:
    """Values of all sets and parameters."""
    requests, server = instance.requests, instance.server
    first, last, size = {}, {}, {}
    for r, latest in zip(requests, known.last_rounds, strict=True):
        end = max(latest, int(r.arrival) + r.output_tokens + 1)  # a model without variables is none
        for j in range(1, r.output_tokens + 1):
            first[r.id, j], last[r.id, j] = int(r.arrival) + j, end - r.output_tokens + j
            size[r.id, j] = r.prompt_tokens + j
    steps = sum(last[token] - first[token] for token in first)
    if steps > MOST_STEPS:
        raise TooLargeError(
            f"the instance is too large for kv-preemptive: its tokens may be made in {steps:,} more rounds than they"
            f" need; at most {MOST_STEPS:,}"
        )
    at: dict[int, list[tuple[str, int]]] = {}
    for token in first:
        for t in range(first[token], last[token] + 1):
            at.setdefault(t, []).append(token)
    held = server.pause is not None and server.pause.keep == "held"
    output = {r.id: r.output_tokens for r in requests}
    return {
        "REQUESTS": list(output),
        "TOKENS": list(first),
        "LAST_TOKENS": list(output.items()),
        "BEFORE_LAST": [(i, j, t) for i, j in first if j < output[i] for t in range(first[i, j], last[i, j])],
        "STEPS": [(*token, t) for token in first for t in range(first[token], last[token])],
        "ROUNDS": sorted(at),
        "AT": at,
        "BETWEEN": {t: [(i, j) for i, j in at[t] if held and j < output[i] and t > first[i, j]] for t in at},
        "first": first,
        "last": last,
        "size": size,
        "output": output,
        "kv_capacity": server.kv_capacity_tokens or int(instance.arrays.peak.sum()),
        "slots": server.slots or len(requests),
    }


def extract(m: Any, instance: Instance) -> Schedule:
    """The schedule in which each token is made in the first round by which ``made`` says so."""
    rounds: dict[str, list[int]] = {i: [] for i in m.REQUESTS}
    for i, j in m.TOKENS:
        late = [t for t in range(m.first[i, j], m.last[i, j]) if not chosen(m.made[i, j, t])]
        rounds[i].append(m.first[i, j] + len(late))
    return schedule_from_rounds(rounds)


def start(m: Any, instance: Instance, schedule: Schedule) -> None:
    """Set the variables to what a schedule says; KeyError where it makes a token too late."""
    for i, rounds in rounds_of(instance, schedule).items():
        for j, made in enumerate(rounds, start=1):
            if made > m.last[i, j]:
                raise KeyError(i)
            for t in range(m.first[i, j], m.last[i, j]):
                m.made[i, j, t].set_value(int(t >= made))


FORMULATION = Formulation(
    name="kv-preemptive",
    summary="minimum total latency where requests may be paused: the round that makes each token",
    claim="exact",
    objective="total_latency",
    problem="kv-preemptive",
    reference="Jaillet et al., arXiv 2502.07115, with pauses",
    needs=preemptive_refusal,
    pauses=True,
    build=build,
    data=data,
    extract=extract,
    start=start,
)
