r"""The hindsight-optimal KV-cache program: every request starts once, memory never overflows.

Sets
----
REQUESTS
    Requests i.
STARTS_OF[i]
    Rounds k at which request i may start: k >= a_i, less those that no optimal schedule uses.
STARTS
    Pairs (i, k) with k in STARTS_OF[i].
ROUNDS
    Rounds t = k + 1 in which something may be active.

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
    sum_i sum_{k = max(a_i, t - o_i)}^{t - 1} (s_i + t - k) start[i,k] <= M

Claim
-----
Exact. Non-zeros: one for each start and round of its output, about sum_i o_i |STARTS_OF[i]|.

Reference
---------
Jaillet, Jiang, Mellou, Molinaro, Podimata, Zhou, Online Scheduling for LLM Inference with KV Cache
Constraints, arXiv 2502.07115, the integer program of the hindsight-optimal schedule. Different from the
paper: the horizon is proven (modelkit.start_windows), not assumed.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, Known, Schedule, chosen, kv_refusal, linear, schedule_from_starts


def build(m: Any) -> None:
    """Fill the abstract model."""
    m.REQUESTS = pyo.Set(doc="requests")
    m.STARTS_OF = pyo.Set(m.REQUESTS, doc="rounds at which the request may start")
    m.STARTS = pyo.Set(dimen=2, initialize=starts, doc="request and start")
    m.ROUNDS = pyo.Set(doc="rounds in which something may be active")

    m.arrival = pyo.Param(m.REQUESTS, within=pyo.NonNegativeIntegers, doc="arrival [round]")
    m.prompt = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="prompt length [token]")
    m.output = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="output length [token]")
    m.kv_capacity = pyo.Param(within=pyo.PositiveIntegers, doc="KV-cache budget [token]")

    m.start = pyo.Var(m.STARTS, domain=pyo.Binary, doc="1 if the request starts at that round")

    m.grouped = pyo.BuildAction(rule=group_starts)
    m.total_latency = pyo.Objective(rule=total_latency, doc="total end-to-end latency [round]")
    m.started_once = pyo.Constraint(m.REQUESTS, rule=started_once, doc="every request starts once")
    m.kv_capacity_holds = pyo.Constraint(m.ROUNDS, rule=kv_capacity_holds, doc="the held tokens fit the KV cache")


def starts(m: Any) -> list[tuple[str, int]]:
    """All pairs of a request and one of its starts."""
    return [(i, k) for i in m.REQUESTS for k in m.STARTS_OF[i]]


def total_latency(m: Any) -> Any:
    """Sum of completion - arrival."""
    wait = {i: m.output[i] - m.arrival[i] for i in m.REQUESTS}
    return linear([k + wait[i] for i, k in m.STARTS], list(m.start.values()))


def started_once(m: Any, i: str) -> Any:
    """Every request starts once."""
    choices = [m.start[i, k] for k in m.STARTS_OF[i]]
    return linear([1] * len(choices), choices) == 1


def group_starts(m: Any) -> None:
    """Rounds and variables of the starts of each request, as lists."""
    m.starts_by_request = {i: (list(m.STARTS_OF[i]), [m.start[i, k] for k in m.STARTS_OF[i]]) for i in m.REQUESTS}


def kv_capacity_holds(m: Any, t: int) -> Any:
    """Tokens held in round t by those started in the o_i rounds before it."""
    coefficients: list[int] = []
    variables: list[Any] = []
    for i, (rounds, started) in m.starts_by_request.items():
        active = slice(bisect_left(rounds, t - m.output[i]), bisect_left(rounds, t))
        held = m.prompt[i] + t
        coefficients += [held - k for k in rounds[active]]
        variables += started[active]
    if not variables:
        return pyo.Constraint.Skip
    return linear(coefficients, variables) <= m.kv_capacity


def data(instance: Instance, known: Known) -> dict[str, Any]:
    """Values of all sets and parameters, with the starts that an optimal schedule may use."""
    requests = instance.requests
    known.check_size(nonzeros(instance, known.starts))
    starts_of = {r.id: k.tolist() for r, k in zip(requests, known.starts, strict=True)}
    first = min(k[0] for k in starts_of.values())
    last = max(starts_of[r.id][-1] + r.output_tokens for r in requests)
    return {
        "REQUESTS": list(starts_of),
        "STARTS_OF": starts_of,
        "ROUNDS": range(first + 1, last + 1),
        "arrival": {r.id: int(r.arrival) for r in requests},
        "prompt": {r.id: r.prompt_tokens for r in requests},
        "output": {r.id: r.output_tokens for r in requests},
        "kv_capacity": instance.server.kv_capacity_tokens or int(instance.arrays.peak.sum()),
    }


def nonzeros(instance: Instance, starts_of: list[Any]) -> int:
    """One for each start and round of its output, and one for each start."""
    return sum(len(k) * (r.output_tokens + 1) for r, k in zip(instance.requests, starts_of, strict=True))


def extract(m: Any, instance: Instance) -> Schedule:
    """The schedule that the values of ``start`` say."""
    return schedule_from_starts(instance, dict(key for key, var in m.start.items() if chosen(var)))


def start(m: Any, instance: Instance, schedule: Schedule) -> None:
    """Set the variables to what a schedule says."""
    m.start.set_values(dict.fromkeys(m.start, 0))
    for segment in schedule.segments:
        for admission in segment.admit:
            m.start[admission.request, int(segment.at)].set_value(1)


FORMULATION = Formulation(
    name="kv-hindsight",
    summary="hindsight-optimal total latency under a KV-cache budget, one binary for each request and start",
    claim="exact",
    objective="total_latency",
    problem="kv-hindsight",
    reference="Jaillet et al., arXiv 2502.07115",
    needs=kv_refusal,
    build=build,
    data=data,
    extract=extract,
    start=start,
)
