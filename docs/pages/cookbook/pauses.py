r"""kv-preemptive in which no request is paused for long.

Sets, parameters, variables, objective and constraints are those of kv-preemptive, and

Parameters
----------
output[i]
    o_i.
longest_pause
    Rounds that a request may be paused in all.

Constraints
-----------
not_paused_for_long[i]
    sum_{t in WINDOW[i,o_i]} t makes[i,o_i,t] - sum_{t in WINDOW[i,1]} t makes[i,1,t] <= o_i - 1 + longest_pause

Claim
-----
Exact. Run one by one nobody is paused, and no request needs more rounds for being paused less.

Reference
---------
kv-preemptive, with a limit on pauses.
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, Parameter, Verdict


def build(m: Any) -> None:
    """Add the limit."""
    m.output = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="output length [token]")
    m.longest_pause = pyo.Param(within=pyo.NonNegativeIntegers, doc="rounds of a request's pauses [round]")
    m.not_paused_for_long = pyo.Constraint(m.REQUESTS, rule=not_paused_for_long, doc="pauses are short")


def not_paused_for_long(m: Any, i: str) -> Any:
    """From the first token to the last there are few more rounds than tokens."""
    o = m.output[i]
    last = pyo.quicksum(t * m.makes[i, o, t] for t in m.WINDOW[i, o])
    first = pyo.quicksum(t * m.makes[i, 1, t] for t in m.WINDOW[i, 1])
    return last - first <= o - 1 + m.longest_pause if o > 1 else pyo.Constraint.Skip


def data(instance: Instance) -> dict[str, Any]:
    """Outputs and the limit."""
    return {
        "output": {r.id: r.output_tokens for r in instance.requests},
        "longest_pause": instance.extra["longest_pause"],
    }


def admissible(instance: Instance, verdict: Verdict) -> list[str]:
    """Requests that are paused for longer."""
    limit = instance.extra["longest_pause"]
    return [
        f"request {instance.requests[residency.request].id!r} is paused for {residency.paused:g} rounds; allowed:"
        f" {limit}"
        for residency in verdict.residencies
        if residency.paused > limit
    ]


FORMULATION = Formulation(
    name="pauses",
    summary="kv-preemptive in which no request is paused for long",
    claim="exact",
    reference="kv-preemptive, with a limit on pauses",
    extends="kv-preemptive",
    parameters=(
        Parameter(name="longest_pause", doc="rounds of a request's pauses [round]", least=0, examples=(0, 1, 2)),
    ),
    build=build,
    data=data,
    admissible=admissible,
)
