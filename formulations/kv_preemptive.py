r"""The KV-cache problem with pauses: in which round each token is made.

Sets
----
REQUESTS
    Requests i.
TOKENS
    Pairs (i, j): the j-th token of request i, j = 1 .. o_i.
STEPS
    Triples (i, j, t): rounds t in which token j of request i may be made: a_i + j <= t <= l_i - o_i + j, where l_i is
    the last round in which request i may make tokens.
WINDOW[i, j]
    Those rounds of token j of request i.
ENDS
    Triples of STEPS with j = o_i.
BEFORE_LAST
    Triples of STEPS with j < o_i.
ROUNDS
    Rounds t in which some token may be made.
AT[t]
    Pairs (i, j) with (i, j, t) in STEPS.
PAUSES, BETWEEN[t]
    Where paused requests hold their tokens: triples (i, j, t) of BEFORE_LAST that are not the first of (i, j), and the
    pairs (i, j) of those for t. Else none.

Parameters
----------
arrival[i]
    a_i.
size[i, j]
    s_i + j.
kv_capacity, slots
    M and J, or what all requests together need.

Variables
---------
makes[i, j, t]
    1 if token j of request i is made in round t.
made[i, j, t]
    1 if it is made by the end of round t.
paused[i, j, t]
    1 if request i is paused in round t and holds j tokens beside its prompt.

Objective
---------
total_latency
    min  sum_{(i,j,t) in ENDS} (t - a_i) makes[i,j,t]

Constraints
-----------
made_once[i, j]
    sum_{t in WINDOW[i,j]} makes[i,j,t] = 1
made_follows[i, j, t]
    made[i,j,t] = made[i,j,t-1] + makes[i,j,t]
in_order[i, j, t]
    made[i,j+1,t+1] <= made[i,j,t] for (i,j,t) in BEFORE_LAST
paused_follows[i, j, t]
    paused[i,j,t] = made[i,j,t-1] - made[i,j+1,t] for (i,j,t) in PAUSES
kv_capacity_holds[t]
    sum_{(i,j) in AT[t]} (s_i + j) makes[i,j,t] + sum_{(i,j) in BETWEEN[t]} (s_i + j) paused[i,j,t] <= M
slots_suffice[t]
    sum_{(i,j) in AT[t]} makes[i,j,t] + sum_{(i,j) in BETWEEN[t]} paused[i,j,t] <= J

Claim
-----
Exact. A request holds s_i + j in the round that makes token j. It is paused in round t with j tokens where token j is
made before t and token j + 1 is not made by t; nowhere else are its tokens held. Copies of tokens take no time
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

from modelkit import (
    Formulation,
    Instance,
    Known,
    Schedule,
    TooLargeError,
    chosen,
    linear,
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
    m.STEPS = pyo.Set(dimen=3, doc="request, token of it, and a round in which it may be made")
    m.WINDOW = pyo.Set(m.TOKENS, doc="rounds in which the token may be made")
    m.ENDS = pyo.Set(dimen=3, within=m.STEPS, doc="the same of last tokens")
    m.BEFORE_LAST = pyo.Set(dimen=3, within=m.STEPS, doc="the same of tokens before the last")
    m.PAUSES = pyo.Set(dimen=3, within=m.STEPS, doc="request, token of it that is held, and a round of a pause")
    m.ROUNDS = pyo.Set(doc="rounds in which some token may be made")
    m.AT = pyo.Set(m.ROUNDS, dimen=2, doc="tokens that may be made in the round")
    m.BETWEEN = pyo.Set(m.ROUNDS, dimen=2, doc="tokens that may be held in the round by a paused request")

    m.arrival = pyo.Param(m.REQUESTS, within=pyo.NonNegativeIntegers, doc="arrival [round]")
    m.size = pyo.Param(m.TOKENS, within=pyo.PositiveIntegers, doc="tokens held once it is made [token]")
    m.kv_capacity = pyo.Param(within=pyo.PositiveIntegers, doc="KV-cache budget [token]")
    m.slots = pyo.Param(within=pyo.PositiveIntegers, doc="requests in progress at once [request]")

    m.makes = pyo.Var(m.STEPS, domain=pyo.Binary, doc="1 if the token is made in that round")
    m.made = pyo.Var(m.STEPS, bounds=(0, 1), doc="1 if the token is made by the end of that round")
    m.paused = pyo.Var(m.PAUSES, domain=pyo.NonNegativeReals, doc="1 if the request is paused then and holds so many")

    m.total_latency = pyo.Objective(rule=total_latency, doc="total end-to-end latency [round]")
    m.made_once = pyo.Constraint(m.TOKENS, rule=made_once, doc="every token is made once")
    m.made_follows = pyo.Constraint(m.STEPS, rule=made_follows, doc="these are the tokens made so far")
    m.in_order = pyo.Constraint(m.BEFORE_LAST, rule=in_order, doc="tokens are made one after the other")
    m.paused_follows = pyo.Constraint(
        m.PAUSES, rule=paused_follows, doc="between two of its tokens a request is paused"
    )
    m.kv_capacity_holds = pyo.Constraint(m.ROUNDS, rule=kv_capacity_holds, doc="the held tokens fit the KV cache")
    m.slots_suffice = pyo.Constraint(m.ROUNDS, rule=slots_suffice, doc="few enough requests are in progress")


def total_latency(m: Any) -> Any:
    """Sum of completion - arrival."""
    return linear([t - m.arrival[i] for i, _, t in m.ENDS], [m.makes[step] for step in m.ENDS])


def made_once(m: Any, i: str, j: int) -> Any:
    """One round makes the token."""
    return pyo.quicksum(m.makes[i, j, t] for t in m.WINDOW[i, j]) == 1


def made_follows(m: Any, i: str, j: int, t: int) -> Any:
    """It is made by round t if it was before, or is in round t."""
    before = m.made[i, j, t - 1] if t > m.WINDOW[i, j].first() else 0
    return m.made[i, j, t] == before + m.makes[i, j, t]


def in_order(m: Any, i: str, j: int, t: int) -> Any:
    """The next token is made a round later at the soonest."""
    return m.made[i, j + 1, t + 1] <= m.made[i, j, t]


def paused_follows(m: Any, i: str, j: int, t: int) -> Any:
    """Token j is made and the next is not."""
    return m.paused[i, j, t] == m.made[i, j, t - 1] - m.made[i, j + 1, t]


def kv_capacity_holds(m: Any, t: int) -> Any:
    """Tokens held in round t by those who make one, and by the paused that hold theirs."""
    makes = pyo.quicksum(m.size[i, j] * m.makes[i, j, t] for i, j in m.AT[t])
    return makes + pyo.quicksum(m.size[i, j] * m.paused[i, j, t] for i, j in m.BETWEEN[t]) <= m.kv_capacity


def slots_suffice(m: Any, t: int) -> Any:
    """Requests that make a token in round t, and the paused that keep their slots."""
    makes = pyo.quicksum(m.makes[i, j, t] for i, j in m.AT[t])
    return makes + pyo.quicksum(m.paused[i, j, t] for i, j in m.BETWEEN[t]) <= m.slots


def data(instance: Instance, known: Known) -> dict[str, Any]:
    """Values of all sets and parameters."""
    requests, server = instance.requests, instance.server
    window: dict[tuple[str, int], range] = {}
    for r, latest in zip(requests, known.last_rounds, strict=True):
        spare = latest - int(r.arrival) - r.output_tokens
        for j in range(1, r.output_tokens + 1):
            window[r.id, j] = range(int(r.arrival) + j, int(r.arrival) + j + spare + 1)
    steps = [(i, j, t) for (i, j), rounds in window.items() for t in rounds]
    if len(steps) > MOST_STEPS:
        raise TooLargeError(
            f"the instance is too large for kv-preemptive: its tokens may be made in {len(steps):,} rounds, counted for"
            f" each; at most {MOST_STEPS:,}"
        )
    output = {r.id: r.output_tokens for r in requests}
    before_last = [(i, j, t) for i, j, t in steps if j < output[i]]
    held = server.pause is not None and server.pause.keep == "held"
    pauses = [(i, j, t) for i, j, t in before_last if t > window[i, j][0]] if held else []
    at: dict[int, list[tuple[str, int]]] = {}
    between: dict[int, list[tuple[str, int]]] = {}
    for found, within in ((steps, at), (pauses, between)):
        for i, j, t in found:
            within.setdefault(t, []).append((i, j))
    return {
        "REQUESTS": list(output),
        "TOKENS": list(window),
        "WINDOW": window,
        "STEPS": steps,
        "ENDS": [(i, j, t) for i, j, t in steps if j == output[i]],
        "BEFORE_LAST": before_last,
        "PAUSES": pauses,
        "ROUNDS": sorted(at),
        "AT": at,
        "BETWEEN": {t: between.get(t, []) for t in at},
        "arrival": {r.id: int(r.arrival) for r in requests},
        "size": {(r.id, j): r.prompt_tokens + j for r in requests for j in range(1, r.output_tokens + 1)},
        "kv_capacity": server.kv_capacity_tokens or int(instance.arrays.peak.sum()),
        "slots": server.slots or len(requests),
    }


def extract(m: Any, instance: Instance) -> Schedule:
    """The schedule that the values of ``makes`` say."""
    rounds: dict[str, list[int]] = {i: [] for i in m.REQUESTS}
    for i, j, t in m.STEPS:
        if chosen(m.makes[i, j, t]):
            rounds[i].append(t)
    return schedule_from_rounds(rounds)


def start(m: Any, instance: Instance, schedule: Schedule) -> None:
    """Set the variables to what a schedule says; KeyError where it makes a token too late."""
    m.makes.set_values(dict.fromkeys(m.makes, 0))
    for i, rounds in rounds_of(instance, schedule).items():
        for j, t in enumerate(rounds, start=1):
            m.makes[i, j, t].set_value(1)


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
