r"""kv-hindsight-flow in which no request may take longer than a cap.

Sets, parameters, variables, objective and constraints are those of kv-hindsight-flow, and

Sets
----
LATE_STARTS[i]
    Starts k of request i with k + o_i - a_i > latency_cap.

Parameters
----------
latency_cap
    Rounds from arrival to completion, at most.

Constraints
-----------
no_late_start[i]
    sum_{k in LATE_STARTS[i]} start[i,k] = 0

Claim
-----
Exact; infeasible where no schedule keeps the cap. An earlier end never breaks it, so the starts of the base suffice.

Reference
---------
Jaillet et al., arXiv 2502.07115, with a cap on latency.
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, Parameter, Verdict


def build(m: Any) -> None:
    """Add the cap."""
    m.latency_cap = pyo.Param(within=pyo.PositiveIntegers, doc="rounds from arrival to completion [round]")
    m.LATE_STARTS = pyo.Set(m.REQUESTS, initialize=late_starts, doc="starts that end too late")
    m.no_late_start = pyo.Constraint(m.REQUESTS, rule=no_late_start, doc="no request takes longer than the cap")


def late_starts(m: Any, i: str) -> list[int]:
    """Starts that end too late."""
    return [k for k in m.STARTS_OF[i] if k + m.output[i] - m.arrival[i] > m.latency_cap]


def no_late_start(m: Any, i: str) -> Any:
    """None of them is used."""
    if not len(m.LATE_STARTS[i]):
        return pyo.Constraint.Skip
    return pyo.quicksum(m.start[i, k] for k in m.LATE_STARTS[i]) == 0


def admissible(instance: Instance, verdict: Verdict) -> list[str]:
    """Requests above the cap."""
    cap, words = instance.extra["latency_cap"], []
    for residency in verdict.residencies:
        request = instance.requests[residency.request]
        if residency.end is not None and residency.end - request.arrival > cap:
            words.append(f"request {request.id!r} takes {residency.end - request.arrival:g} rounds; allowed: {cap}")
    return words


FORMULATION = Formulation(
    name="latency-cap",
    summary="kv-hindsight-flow in which no request takes longer than a cap",
    claim="exact",
    reference="Jaillet et al., arXiv 2502.07115, with a cap on latency",
    extends="kv-hindsight-flow",
    parameters=(
        Parameter(name="latency_cap", doc="rounds from arrival to completion [round]", least=1, examples=(6, 9)),
    ),
    build=build,
    data=lambda instance: {"latency_cap": instance.extra["latency_cap"]},
    admissible=admissible,
)
