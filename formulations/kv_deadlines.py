r"""kv-hindsight-flow in which requests have deadlines.

Sets, parameters, variables, objective and constraints are those of kv-hindsight-flow, and

Sets
----
DUE
    Requests that have a deadline.
LATE_STARTS[i]
    Starts k of request i with k + o_i > d_i.

Parameters
----------
deadline[i]
    d_i, the round by whose end request i is complete.

Constraints
-----------
deadline_kept[i]
    sum_{k in LATE_STARTS[i]} start[i,k] = 0

Claim
-----
Exact; infeasible when no schedule keeps all deadlines. Starting later never helps to keep a deadline, so the starts of
the other variants suffice.

Reference
---------
Jaillet, Jiang, Mellou, Molinaro, Podimata, Zhou, arXiv 2502.07115; with d_i added, as in the classical notation
1 | r_j, d_j | sum C_j of Graham, Lawler, Lenstra, Rinnooy Kan, Annals of Discrete Mathematics 5 (1979).
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, Parameter, Verdict, linear


def build(m: Any) -> None:
    """Add the deadlines to the abstract model."""
    m.DUE = pyo.Set(within=m.REQUESTS, doc="requests that have a deadline")
    m.deadline = pyo.Param(m.DUE, within=pyo.NonNegativeIntegers, doc="latest completion [round]")
    m.LATE_STARTS = pyo.Set(m.DUE, initialize=late_starts, doc="starts that miss the deadline")
    m.deadline_kept = pyo.Constraint(m.DUE, rule=deadline_kept, doc="no request starts too late for its deadline")


def late_starts(m: Any, i: str) -> list[int]:
    """Starts whose completion is after the deadline."""
    latest = m.deadline[i] - m.output[i]
    return [k for k in m.STARTS_OF[i] if k > latest]


def deadline_kept(m: Any, i: str) -> Any:
    """No late start."""
    late = [m.start[i, k] for k in m.LATE_STARTS[i]]
    if not late:
        return pyo.Constraint.Skip
    return linear([1] * len(late), late) == 0


def data(instance: Instance) -> dict[str, Any]:
    """The requests with a deadline, and which."""
    deadline = instance.extra["deadline"]
    return {"DUE": list(deadline), "deadline": deadline}


def admissible(instance: Instance, verdict: Verdict) -> list[str]:
    """Requests that are late."""
    deadline = instance.extra["deadline"]
    ends = {
        instance.requests[residency.request].id: residency.end or 0
        for residency in verdict.residencies
        if residency.completed
    }
    return [f"request {i!r} is complete after round {ends[i]:g}, due {d}" for i, d in deadline.items() if ends[i] > d]


def obstacles(instance: Instance) -> list[str]:
    """Deadlines that no request could keep alone, and sets of requests with more volume than the server has."""
    deadline = instance.extra["deadline"]
    words = [
        f"request {r.id!r} arrives at {r.arrival:g} and needs {r.output_tokens} rounds: it is complete after round"
        f" {r.arrival + r.output_tokens:g} at best, but due by round {deadline[r.id]}"
        for r in instance.requests
        if r.id in deadline and r.arrival + r.output_tokens > deadline[r.id]
    ]
    capacity = instance.server.kv_capacity_tokens
    if words or capacity is None:
        return words
    for due in sorted(set(deadline.values())):
        together = [r for r in instance.requests if deadline.get(r.id, due + 1) <= due]
        first = int(min(r.arrival for r in together))
        volume = sum(r.prompt_tokens * r.output_tokens + r.output_tokens * (r.output_tokens + 1) // 2 for r in together)
        if volume > capacity * (due - first):
            return [
                f"the {len(together)} requests due by round {due} hold {volume} token-rounds together; from round"
                f" {first + 1} to {due} the server has {capacity} x {due - first} = {capacity * (due - first)}"
            ]
    return []


FORMULATION = Formulation(
    name="kv-deadlines",
    summary="kv-hindsight-flow in which requests have deadlines",
    claim="exact",
    reference="Jaillet et al., arXiv 2502.07115, with deadlines",
    extends="kv-hindsight-flow",
    parameters=(
        Parameter(
            name="deadline",
            doc="round by whose end the request is complete [round]",
            least=0,
            per_request=True,
            optional=True,
            examples=(4, 6, 9),
        ),
    ),
    build=build,
    data=data,
    admissible=admissible,
    obstacles=obstacles,
)
