r"""kv-hindsight-flow with the total time to first token as its objective.

Sets, parameters, variables and constraints are those of kv-hindsight-flow.

Objective
---------
total_first_token
    min  sum_{i,k} (k + 1 - a_i) start[i,k]

Claim
-----
Exact. An earlier start is never worse, so the starts of the base suffice.

Reference
---------
Agrawal et al., Sarathi-Serve, OSDI 2024, for the service level.
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, Verdict


def build(m: Any) -> None:
    """Replace the objective."""
    m.del_component(m.total_latency)
    m.total_first_token = pyo.Objective(rule=total_first_token, doc="total time to first token [round]")


def total_first_token(m: Any) -> Any:
    """Sum of first token - arrival: the first token comes in the round after the start."""
    return pyo.quicksum((k + 1 - m.arrival[i]) * m.start[i, k] for i, k in m.STARTS)


def value(instance: Instance, verdict: Verdict) -> float:
    """The same of a judged schedule."""
    return sum(
        residency.first_token - instance.requests[residency.request].arrival
        for residency in verdict.residencies
        if residency.completed and residency.first_token is not None
    )


FORMULATION = Formulation(
    name="first-token",
    summary="kv-hindsight-flow with the total time to first token as its objective",
    claim="exact",
    objective="total_first_token",
    reference="time to first token as in Sarathi-Serve, OSDI 2024",
    extends="kv-hindsight-flow",
    build=build,
    data=lambda instance: {},
    admissible=lambda instance, verdict: [],
    value=value,
)
