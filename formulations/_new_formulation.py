r"""One line that says what is minimised, and subject to what.

Sets
----
REQUESTS
    Requests i.
STARTS_OF[i]
    Rounds k at which request i may start: from a_i to the horizon.
STARTS
    Pairs (i, k) with k in STARTS_OF[i].
ROUNDS
    Rounds t in which something may be active.
ACTIVE[t]
    Pairs (i, k) in STARTS that are active in round t.

Parameters
----------
arrival[i]
    a_i.
prompt[i]
    s_i.
output[i]
    o_i.
kv_capacity
    M.

Variables
---------
start[i, k]
    1 if request i starts at k; it is active in rounds k + 1 .. k + o_i and completes at k + o_i.

Objective
---------
total_latency
    min  sum_{i,k} (k + o_i - a_i) start[i,k]

Constraints
-----------
started_once[i]
    sum_k start[i,k] = 1
kv_capacity_holds[t]
    sum_{(i,k) in ACTIVE[t]} (s_i + t - k) start[i,k] <= M

Claim
-----
Exact: why no schedule that it leaves out is better. Here: at the horizon all others could have run one by one.

Reference
---------
Authors, title, where; and what is different from the paper.
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, Schedule, chosen, kv_refusal, schedule_from_starts


def needs(instance: Instance) -> str | None:
    """Why the instance is outside this formulation, or None."""
    return kv_refusal(instance)


def build(m: Any) -> None:
    """Fill the abstract model: sets in capitals, constraints named as true sentences, a unit for each parameter."""
    m.REQUESTS = pyo.Set(doc="requests")
    m.STARTS_OF = pyo.Set(m.REQUESTS, doc="rounds at which the request may start")
    m.STARTS = pyo.Set(
        dimen=2, initialize=lambda m: [(i, k) for i in m.REQUESTS for k in m.STARTS_OF[i]], doc="request and start"
    )
    m.ROUNDS = pyo.Set(doc="rounds in which something may be active")
    m.ACTIVE = pyo.Set(m.ROUNDS, dimen=2, doc="request and start of those active in the round")

    m.arrival = pyo.Param(m.REQUESTS, within=pyo.NonNegativeIntegers, doc="arrival [round]")
    m.prompt = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="prompt length [token]")
    m.output = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="output length [token]")
    m.kv_capacity = pyo.Param(within=pyo.PositiveIntegers, doc="KV-cache budget [token]")

    m.start = pyo.Var(m.STARTS, domain=pyo.Binary, doc="1 if the request starts at that round")

    m.total_latency = pyo.Objective(rule=total_latency, doc="total end-to-end latency [round]")
    m.started_once = pyo.Constraint(m.REQUESTS, rule=started_once, doc="every request starts once")
    m.kv_capacity_holds = pyo.Constraint(m.ROUNDS, rule=kv_capacity_holds, doc="the held tokens fit the KV cache")


def total_latency(m: Any) -> Any:
    """Sum of completion - arrival."""
    return pyo.quicksum((k + m.output[i] - m.arrival[i]) * m.start[i, k] for i, k in m.STARTS)


def started_once(m: Any, i: str) -> Any:
    """Every request starts once."""
    return pyo.quicksum(m.start[i, k] for k in m.STARTS_OF[i]) == 1


def kv_capacity_holds(m: Any, t: int) -> Any:
    """Tokens held in round t by those active in it."""
    return pyo.quicksum((m.prompt[i] + t - k) * m.start[i, k] for i, k in m.ACTIVE[t]) <= m.kv_capacity


def data(instance: Instance) -> dict[str, Any]:
    """Values of the sets and parameters, by name. Whatever needs a search is prepared here, not filtered in a rule."""
    requests = instance.requests
    last = int(max(r.arrival for r in requests)) + sum(r.output_tokens for r in requests)
    starts_of = {r.id: range(int(r.arrival), last - r.output_tokens + 1) for r in requests}
    rounds = range(int(min(r.arrival for r in requests)) + 1, last + 1)
    active: dict[int, list[tuple[str, int]]] = {t: [] for t in rounds}
    for r in requests:
        for k in starts_of[r.id]:
            for t in range(k + 1, k + r.output_tokens + 1):
                active[t].append((r.id, k))
    return {
        "REQUESTS": list(starts_of),
        "STARTS_OF": starts_of,
        "ROUNDS": [t for t in rounds if active[t]],
        "ACTIVE": {t: pairs for t, pairs in active.items() if pairs},
        "arrival": {r.id: int(r.arrival) for r in requests},
        "prompt": {r.id: r.prompt_tokens for r in requests},
        "output": {r.id: r.output_tokens for r in requests},
        "kv_capacity": instance.server.kv_capacity_tokens or int(instance.arrays.peak.sum()),
    }


def extract(m: Any, instance: Instance) -> Schedule:
    """The schedule that the solved model says; the judge replays it."""
    return schedule_from_starts(instance, dict(key for key, var in m.start.items() if chosen(var)))


FORMULATION = Formulation(
    name="new-formulation",
    summary="total latency under a KV-cache budget",
    claim="exact",
    objective="total_latency",
    problem="kv-hindsight",
    reference="an example to start from",
    needs=needs,
    build=build,
    data=data,
    extract=extract,
)
