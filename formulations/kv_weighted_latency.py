r"""kv-hindsight-flow with a weight for the latency of each request.

Sets, parameters, variables and constraints are those of kv-hindsight-flow, but

Parameters
----------
weight[i]
    w_i >= 0, what a round of latency of request i costs.

Objective
---------
weighted_latency
    min  sum_{i,k} w_i (k + o_i - a_i) start[i,k]

Claim
-----
Exact. With weights that are not negative an earlier end is never worse, so the starts of the other variants suffice.

Reference
---------
Jaillet, Jiang, Mellou, Molinaro, Podimata, Zhou, arXiv 2502.07115, with the weighted objective of Smith, Various
optimizers for single-stage production, Naval Research Logistics Quarterly 3 (1956).
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, Parameter, Verdict, linear


def build(m: Any) -> None:
    """Replace the objective."""
    m.del_component(m.total_latency)
    m.weight = pyo.Param(m.REQUESTS, within=pyo.NonNegativeReals, doc="cost of a round of latency [1/round]")
    m.weighted_latency = pyo.Objective(rule=weighted_latency, doc="weighted sum of the latencies [1]")


def weighted_latency(m: Any) -> Any:
    """Sum of weight (completion - arrival)."""
    latency = [m.weight[i] * (k + m.output[i] - m.arrival[i]) for i, k in m.STARTS]
    return linear(latency, list(m.start.values()))


def value(instance: Instance, verdict: Verdict) -> float:
    """The weighted latency of a judged schedule."""
    weight: dict[str, float] = instance.extra["weight"]
    requests = instance.requests
    return sum(
        weight[requests[residency.request].id] * ((residency.end or 0) - requests[residency.request].arrival)
        for residency in verdict.residencies
        if residency.completed
    )


FORMULATION = Formulation(
    name="kv-weighted-latency",
    summary="kv-hindsight-flow with a weight for the latency of each request",
    claim="exact",
    objective="weighted_latency",
    reference="Jaillet et al., arXiv 2502.07115, with the weights of Smith (1956)",
    extends="kv-hindsight-flow",
    parameters=(
        Parameter(
            name="weight",
            doc="cost of a round of the request's latency [1/round]",
            kind=float,
            least=0,
            most=1e6,
            default=1,
            per_request=True,
            examples=(1, 5, 2.5),
        ),
    ),
    build=build,
    data=lambda instance: {"weight": instance.extra["weight"]},
    admissible=lambda instance, verdict: [],
    value=value,
)
