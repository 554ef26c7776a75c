r"""Starts that fit the memory in every scenario of output lengths, with the least mean latency.

Sets, parameters, variables and constraints are those of kv-hindsight, but

Sets
----
SCENARIOS
    Scenarios w, besides the outputs that the instance states.
STARTS_OF[i], ROUNDS
    Starts up to the last arrival plus the longest outputs of all others; rounds up to the last end.
HOLDING[w, t]
    Pairs (i, k) of a request and a start with which it is active in round t of scenario w: k < t <= k + o_iw.

Parameters
----------
mean_output[i]
    The mean of o_iw over the scenarios w, where o_iw is the output length of request i in scenario w.

Objective
---------
mean_total_latency
    min  sum_{i,k} (k + mean_output[i] - a_i) start[i,k]

Constraints
-----------
fits_in_scenario[w, t]
    sum_{(i,k) in HOLDING[w,t]} (s_i + t - k) start[i,k] <= M

Claim
-----
Exact, of starts that are set before lengths are known. A round after the last arrival in which nobody is active in any
scenario can be cut out, so no start is later than the longest outputs of all others.

Reference
---------
Soyster, Operations Research 21 (1973), for constraints that hold in all cases; kv-hindsight (arXiv 2502.07115).
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, Parameter, Verdict


def needs(instance: Instance) -> str | None:
    """Why the instance is outside this formulation, or None."""
    lists = instance.extra["scenarios"]
    if len({len(outputs) for outputs in lists.values()}) != 1 or not all(lists.values()):
        return "needs as many scenarios for one request as for another, and one at least"
    capacity = instance.server.kv_capacity_tokens
    for r in instance.requests:
        if capacity is not None and r.prompt_tokens + max(lists[r.id]) > capacity:
            return f"needs memory for the longest output of {r.id!r}"
    return None


def build(m: Any) -> None:
    """Add the scenarios."""
    m.del_component(m.total_latency)
    m.SCENARIOS = pyo.Set(doc="scenarios of output lengths")
    m.HOLDING = pyo.Set(m.SCENARIOS, m.ROUNDS, dimen=2, doc="request and start of those active in the round")
    m.mean_output = pyo.Param(m.REQUESTS, within=pyo.NonNegativeReals, doc="mean output of the scenarios [token]")
    m.mean_total_latency = pyo.Objective(rule=mean_total_latency, doc="total latency, mean of the scenarios [round]")
    m.fits_in_scenario = pyo.Constraint(m.SCENARIOS, m.ROUNDS, rule=fits_in_scenario, doc="it fits in each scenario")


def mean_total_latency(m: Any) -> Any:
    """Sum of mean completion - arrival."""
    return pyo.quicksum((k + m.mean_output[i] - m.arrival[i]) * m.start[i, k] for i, k in m.STARTS)


def fits_in_scenario(m: Any, w: int, t: int) -> Any:
    """Tokens held in round t if outputs are those of scenario w."""
    if not len(m.HOLDING[w, t]):
        return pyo.Constraint.Skip
    return pyo.quicksum((m.prompt[i] + t - k) * m.start[i, k] for i, k in m.HOLDING[w, t]) <= m.kv_capacity


def data(instance: Instance) -> dict[str, Any]:
    """Scenarios, and starts and rounds that suffice for the longest outputs."""
    requests, lists = instance.requests, instance.extra["scenarios"]
    longest = {r.id: max(r.output_tokens, *lists[r.id]) for r in requests}
    first, last = int(min(r.arrival for r in requests)), int(max(r.arrival for r in requests)) + sum(longest.values())
    starts_of = {r.id: range(int(r.arrival), last - longest[r.id] + 1) for r in requests}
    scenarios, rounds = range(1, len(lists[requests[0].id]) + 1), range(first + 1, last + 1)
    holding: dict[tuple[int, int], list[tuple[str, int]]] = {(w, t): [] for w in scenarios for t in rounds}
    for i, starts in starts_of.items():
        for w in scenarios:
            for k in starts:
                for t in range(k + 1, k + lists[i][w - 1] + 1):
                    holding[w, t].append((i, k))
    return {
        "SCENARIOS": scenarios,
        "STARTS_OF": starts_of,
        "HOLDING": holding,
        "ROUNDS": rounds,
        "mean_output": {i: sum(outputs) / len(outputs) for i, outputs in lists.items()},
    }


def begins(instance: Instance, verdict: Verdict) -> dict[str, int]:
    """Start of each request."""
    return {instance.requests[residency.request].id: int(residency.begin) for residency in verdict.residencies}


def admissible(instance: Instance, verdict: Verdict) -> list[str]:
    """Scenarios in which the same starts hold too much."""
    lists, capacity, start = instance.extra["scenarios"], instance.server.kv_capacity_tokens, begins(instance, verdict)
    words = []
    for w, outputs in enumerate(zip(*(lists[r.id] for r in instance.requests), strict=True), start=1):
        held: dict[int, int] = {}
        for r, output in zip(instance.requests, outputs, strict=True):
            for j in range(1, output + 1):
                held[start[r.id] + j] = held.get(start[r.id] + j, 0) + r.prompt_tokens + j
        most = max(held.values())
        if capacity is not None and most > capacity:
            words.append(f"in scenario {w} the starts hold {most} tokens; allowed: {capacity}")
    return words


def value(instance: Instance, verdict: Verdict) -> float:
    """Mean latency of the same starts over the scenarios."""
    lists, start = instance.extra["scenarios"], begins(instance, verdict)
    return sum(start[r.id] + sum(lists[r.id]) / len(lists[r.id]) - r.arrival for r in instance.requests)


FORMULATION = Formulation(
    name="robust",
    summary="starts that fit the memory in every scenario of output lengths, with the least mean latency",
    claim="exact",
    objective="mean_total_latency",
    reference="Soyster (1973); Jaillet et al., arXiv 2502.07115",
    extends="kv-hindsight",
    parameters=(
        Parameter(
            name="scenarios", doc="output of the request in each scenario [token]", least=1, by=("request", "list"),
            examples=((1, 3), (2, 2), (4, 1)),
        ),
    ),
    needs=needs,
    build=build,
    data=data,
    admissible=admissible,
    value=value,
)  # fmt: skip
