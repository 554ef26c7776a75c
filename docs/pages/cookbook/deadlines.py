r"""kv-hindsight-flow with the total tardiness as its objective: deadlines may be missed, and each late round counts.

Sets, parameters, variables and constraints are those of kv-hindsight-flow, but

Parameters
----------
tardiness[i, k]
    max(0, k + o_i - d_i), or 0 where request i has no deadline d_i.

Objective
---------
total_tardiness
    min  sum_{i,k} tardiness[i,k] start[i,k]

Claim
-----
Exact. An earlier end is never later than its deadline by more, so the starts of the base suffice.

Reference
---------
The problem sum T_j of Graham, Lawler, Lenstra, Rinnooy Kan, Annals of Discrete Mathematics 5 (1979).
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, Known, Parameter, Verdict


def build(m: Any) -> None:
    """Replace the objective."""
    m.del_component(m.total_latency)
    m.tardiness = pyo.Param(m.STARTS, within=pyo.NonNegativeIntegers, doc="rounds past the deadline [round]")
    m.total_tardiness = pyo.Objective(rule=total_tardiness, doc="total tardiness [round]")


def total_tardiness(m: Any) -> Any:
    """Rounds past deadlines."""
    return pyo.quicksum(m.tardiness[i, k] * m.start[i, k] for i, k in m.STARTS)


def data(instance: Instance, known: Known) -> dict[str, Any]:
    """How late each start ends."""
    due = instance.extra["due"]
    return {
        "tardiness": {
            (r.id, k): max(0, k + r.output_tokens - due[r.id]) if r.id in due else 0
            for r, starts in zip(instance.requests, known.starts, strict=True)
            for k in starts.tolist()
        }
    }


def value(instance: Instance, verdict: Verdict) -> float:
    """The same of a judged schedule."""
    due, total = instance.extra["due"], 0.0
    for residency in verdict.residencies:
        name = instance.requests[residency.request].id
        if residency.completed and residency.end is not None and name in due:
            total += max(0, residency.end - due[name])
    return total


FORMULATION = Formulation(
    name="deadlines",
    summary="kv-hindsight-flow with the total tardiness as its objective",
    claim="exact",
    objective="total_tardiness",
    reference="sum T_j of Graham et al. (1979)",
    extends="kv-hindsight-flow",
    parameters=(
        Parameter(
            name="due",
            doc="round by whose end the request should be complete [round]",
            least=0,
            by="request",
            optional=True,
            examples=(2, 4, 6),
        ),
    ),
    build=build,
    data=data,
    admissible=lambda instance, verdict: [],
    value=value,
)
