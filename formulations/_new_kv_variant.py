r"""base-formulation in which no request waits too long: one line that says what the variant changes.

Sets, parameters, variables, objective and constraints are those of base-formulation, and

Sets
----
LATE_STARTS[i]
    Starts k of request i with k > a_i + longest_wait.

Parameters
----------
longest_wait
    Rounds between arrival and start, at most.

Constraints
-----------
nobody_waits_longer[i]
    sum_{k in LATE_STARTS[i]} start[i,k] = 0

Claim
-----
Exact; infeasible when some request must wait longer.

Reference
---------
Authors, title, where; and what is different from the paper.
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, Parameter, Verdict


def build(m: Any) -> None:
    """Add to the abstract model that base-formulation built; `modelkit show base-formulation` says what is there."""
    m.longest_wait = pyo.Param(within=pyo.NonNegativeIntegers, doc="rounds between arrival and start [round]")
    m.LATE_STARTS = pyo.Set(m.REQUESTS, initialize=late_starts, doc="starts after too long a wait")
    m.nobody_waits_longer = pyo.Constraint(m.REQUESTS, rule=nobody_waits_longer, doc="no request waits too long")


def late_starts(m: Any, i: str) -> list[int]:
    """Starts after too long a wait."""
    return [k for k in m.STARTS_OF[i] if k > m.arrival[i] + m.longest_wait]


def nobody_waits_longer(m: Any, i: str) -> Any:
    """No late start."""
    if not len(m.LATE_STARTS[i]):
        return pyo.Constraint.Skip
    return pyo.quicksum(m.start[i, k] for k in m.LATE_STARTS[i]) == 0


def admissible(instance: Instance, verdict: Verdict) -> list[str]:
    """What a schedule breaks of the variant's rules, in plain Python from the judge's replay."""
    limit = instance.extra["longest_wait"]
    waits = [(instance.requests[residency.request], residency.begin) for residency in verdict.residencies]
    return [
        f"request {r.id!r} starts at {begin:g}, {begin - r.arrival:g} rounds after its arrival; allowed: {limit}"
        for r, begin in waits
        if begin - r.arrival > limit
    ]


FORMULATION = Formulation(
    name="new-formulation",
    summary="base-formulation in which no request waits too long",
    claim="exact",
    reference="an example to start from",
    extends="base-formulation",
    parameters=(
        Parameter(name="longest_wait", doc="rounds between arrival and start [round]", least=0, examples=(1, 3)),
    ),
    build=build,
    data=lambda instance: {"longest_wait": instance.extra["longest_wait"]},
    admissible=admissible,
)
