r"""A lower bound on total latency by memory volume: what is complete was held, and no round holds more than M.

Sets
----
REQUESTS
    Requests i.
POSITIONS
    Completions j = 1 .. n, in their order.
NO_SOONER[i]
    Other requests h with a_h >= a_i.

Parameters
----------
arrival[i], arrivals
    a_i, and sum_i a_i.
output[i]
    o_i.
volume[i]
    v_i = s_i o_i + o_i (o_i + 1) / 2, the tokens that i holds, summed over its rounds.
kv_capacity
    M.

Variables
---------
done[i, j]
    1 if i is among the first j to complete.
end[j]
    Round of the j-th completion.

Objective
---------
total_latency
    min  sum_j end[j] - arrivals

Constraints
-----------
done_by_turns[j]
    sum_i done[i,j] = j
done_stays[i, j]
    done[i,j-1] <= done[i,j]
ends_in_order[j]
    end[j-1] <= end[j]
own_rounds[i, j]
    end[j] >= (a_i + o_i) done[i,j]
volume_fits[i, j]
    M end[j] >= (M a_i + v_i) done[i,j] + sum_{h in NO_SOONER[i]} v_h done[h,j]

Claim
-----
Lower bound. Number the requests of a schedule by completion, and let end[j] be the round of the j-th. If i is among the
first j, it has run for o_i rounds after a_i. All h of them with a_h >= a_i were held, with volume v_h, in the rounds
a_i + 1 .. end[j], of which none holds more than M; and if i is not among them, their volume fits the rounds 1 .. end[j]
all the same. So every schedule is a solution, of its own total latency.

Where all arrive at 0 the optimum is at least sum_j ceil(sum_{i<=j} v_(i) / M), with v_(1) <= v_(2) <= ...: the volume
of any j requests is no less than that of the j smallest. The linear relaxation says the same. With arrivals the optimum
is at least that of shortest remaining volume first on a server of M tokens a round, which completes, at any moment, as
many requests as these constraints allow.

The schedule extracted is a list schedule in the order of completion.

Reference
---------
Kong, Qi, Ye, Zhou, arXiv 2606.22327, Proposition 3.1. Different from the paper: arrivals, the rounds of each request,
and whole rounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo

from modelkit import Formulation, Instance, Known, Schedule, kv_refusal, list_schedule, schedule_of


def build(m: Any) -> None:
    """Fill the abstract model."""
    m.REQUESTS = pyo.Set(doc="requests")
    m.POSITIONS = pyo.Set(doc="completions, in their order")
    m.NO_SOONER = pyo.Set(m.REQUESTS, doc="other requests that arrive no sooner")

    m.arrival = pyo.Param(m.REQUESTS, within=pyo.NonNegativeIntegers, doc="arrival [round]")
    m.arrivals = pyo.Param(within=pyo.NonNegativeIntegers, doc="sum of the arrivals [round]")
    m.output = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="output length [token]")
    m.volume = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="tokens held, over its rounds [token]")
    m.kv_capacity = pyo.Param(within=pyo.PositiveIntegers, doc="KV-cache budget [token]")

    m.done = pyo.Var(m.REQUESTS, m.POSITIONS, domain=pyo.Binary, doc="1 if it is among the first to complete")
    m.end = pyo.Var(m.POSITIONS, domain=pyo.NonNegativeIntegers, doc="round of the completion")

    m.total_latency = pyo.Objective(rule=total_latency, doc="lower bound on total end-to-end latency [round]")
    m.done_by_turns = pyo.Constraint(m.POSITIONS, rule=done_by_turns, doc="one completes after the other")
    m.done_stays = pyo.Constraint(m.REQUESTS, m.POSITIONS, rule=done_stays, doc="who is done remains so")
    m.ends_in_order = pyo.Constraint(m.POSITIONS, rule=ends_in_order, doc="completions are in their order")
    m.own_rounds = pyo.Constraint(m.REQUESTS, m.POSITIONS, rule=own_rounds, doc="its own rounds take time")
    m.volume_fits = pyo.Constraint(m.REQUESTS, m.POSITIONS, rule=volume_fits, doc="what is done was held")


def total_latency(m: Any) -> Any:
    """Sum of completion - arrival."""
    return pyo.quicksum(m.end[j] for j in m.POSITIONS) - m.arrivals


def done_by_turns(m: Any, j: int) -> Any:
    """The first j."""
    return pyo.quicksum(m.done[i, j] for i in m.REQUESTS) == j


def done_stays(m: Any, i: str, j: int) -> Any:
    """The first j - 1 are of the first j."""
    return m.done[i, j - 1] <= m.done[i, j] if j > 1 else pyo.Constraint.Skip


def ends_in_order(m: Any, j: int) -> Any:
    """No completion is before the one before it."""
    return m.end[j - 1] <= m.end[j] if j > 1 else pyo.Constraint.Skip


def own_rounds(m: Any, i: str, j: int) -> Any:
    """Nobody completes sooner than alone."""
    return m.end[j] >= (m.arrival[i] + m.output[i]) * m.done[i, j]


def volume_fits(m: Any, i: str, j: int) -> Any:
    """Of those that arrive no sooner than i."""
    held = pyo.quicksum(m.volume[h] * m.done[h, j] for h in m.NO_SOONER[i])
    return m.kv_capacity * m.end[j] >= (m.kv_capacity * m.arrival[i] + m.volume[i]) * m.done[i, j] + held


def data(instance: Instance, known: Known) -> dict[str, Any]:
    """Values of all sets and parameters."""
    requests, size = instance.requests, len(instance.requests)
    known.check_size(size**3)
    arrival = {r.id: int(r.arrival) for r in requests}
    return {
        "REQUESTS": list(arrival),
        "POSITIONS": range(1, size + 1),
        "NO_SOONER": {i: [h for h in arrival if arrival[h] >= a and h != i] for i, a in arrival.items()},
        "arrival": arrival,
        "arrivals": sum(arrival.values()),
        "output": {r.id: r.output_tokens for r in requests},
        "volume": {r.id: r.prompt_tokens * r.output_tokens + r.output_tokens * (r.output_tokens + 1) // 2
                   for r in requests},
        "kv_capacity": instance.server.kv_capacity_tokens or int(instance.arrays.peak.sum()),
    }  # fmt: skip


def extract(m: Any, instance: Instance) -> Schedule:
    """List schedule in the order of completion."""
    later = np.zeros(len(instance.requests))
    for (i, _), done in m.done.items():
        later[instance.index[i]] -= done.value or 0.0
    return schedule_of(instance, list_schedule(instance, later))


FORMULATION = Formulation(
    name="kv-hindsight-volume",
    summary="a lower bound on total latency by memory volume; its schedule is a list schedule by completion",
    claim="lower-bound",
    objective="total_latency",
    problem="kv-hindsight",
    reference="Kong, Qi, Ye, Zhou, arXiv 2606.22327, Proposition 3.1",
    needs=kv_refusal,
    build=build,
    data=data,
    extract=extract,
)
