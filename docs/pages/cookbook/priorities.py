r"""kv-hindsight-flow where a round of latency costs more in some classes of requests than in others.

Sets, parameters, variables and constraints are those of kv-hindsight-flow, but

Parameters
----------
cost[i]
    w_i >= 0, what a round of latency of request i costs: that of its class.

Objective
---------
weighted_latency
    min  sum_{i,k} w_i (k + o_i - a_i) start[i,k]

Claim
-----
Exact. No cost is negative, so an earlier end is never worse, and the starts of the base suffice.

Reference
---------
Smith, Various optimizers for single-stage production, Naval Research Logistics Quarterly 3 (1956), for the weights.
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, Parameter, Verdict


def build(m: Any) -> None:
    """Replace the objective."""
    m.del_component(m.total_latency)
    m.cost = pyo.Param(m.REQUESTS, within=pyo.NonNegativeReals, doc="cost of a round of latency [$/round]")
    m.weighted_latency = pyo.Objective(rule=weighted_latency, doc="cost of the latencies [$]")


def weighted_latency(m: Any) -> Any:
    """Sum of cost (completion - arrival)."""
    return pyo.quicksum(m.cost[i] * (k + m.output[i] - m.arrival[i]) * m.start[i, k] for i, k in m.STARTS)


def data(instance: Instance) -> dict[str, Any]:
    """The cost of each request's class."""
    cost = instance.extra["class_cost"]
    return {"cost": {r.id: cost[r.request_class] for r in instance.requests}}


def value(instance: Instance, verdict: Verdict) -> float:
    """The same of a judged schedule."""
    cost, total = instance.extra["class_cost"], 0.0
    for residency in verdict.residencies:
        if residency.completed and residency.end is not None:
            request = instance.requests[residency.request]
            total += cost[request.request_class] * (residency.end - request.arrival)
    return total


FORMULATION = Formulation(
    name="priorities",
    summary="kv-hindsight-flow where latency costs more in some classes of requests",
    claim="exact",
    objective="weighted_latency",
    reference="Smith (1956)",
    extends="kv-hindsight-flow",
    parameters=(
        Parameter(
            name="class_cost",
            doc="cost of a round of latency of a request of the class [$/round]",
            kind=float,
            least=0,
            by="class",
            default=1,
            examples=(1, 4),
        ),
    ),
    build=build,
    data=data,
    admissible=lambda instance, verdict: [],
    value=value,
)
