r"""kv-replicas in which all requests of a session are served by one replica.

Sets, parameters, variables, objective and constraints are those of kv-replicas, and

Sets
----
TOGETHER
    Triples (i, j, r): j is the next request of the session of i, and r a replica that may serve one of them.

Constraints
-----------
stays_on_its_replica[i, j, r]
    sum_k start[i,r,k] = sum_k start[j,r,k]

Claim
-----
Exact. To number the replicas anew parts no session, so the numberings that the base leaves out are not needed.

Reference
---------
kv-replicas, with the sticky sessions of load balancers.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, Parameter, Verdict


def build(m: Any) -> None:
    """Keep sessions together."""
    m.TOGETHER = pyo.Set(dimen=3, doc="request, the next of its session, and a replica of one of them")
    m.stays_on_its_replica = pyo.Constraint(m.TOGETHER, rule=stays_on_its_replica, doc="a session has one replica")


def stays_on_its_replica(m: Any, i: str, j: str, r: int) -> Any:
    """Both are on replica r, or none."""
    here, there = (
        pyo.quicksum(m.start[q, r, k] for k in m.STARTS_OF[q]) if r in m.REPLICAS_OF[q] else 0 for q in (i, j)
    )
    return here == there


def sessions(instance: Instance) -> dict[str, list[str]]:
    """Requests of each session, in the order of the instance."""
    found: dict[str, list[str]] = {}
    for request, session in instance.extra["session"].items():
        found.setdefault(session, []).append(request)
    return found


def data(instance: Instance) -> dict[str, Any]:
    """Each request with the next of its session."""
    replicas = range(1, min(instance.server.replicas, len(instance.requests)) + 1)
    return {"TOGETHER": [(i, j, r) for of in sessions(instance).values() for i, j in pairwise(of) for r in replicas]}


def admissible(instance: Instance, verdict: Verdict) -> list[str]:
    """Sessions on several replicas."""
    replica = {instance.requests[residency.request].id: residency.replica for residency in verdict.residencies}
    return [
        f"session {session!r} is on replicas {sorted({replica[i] for i in of})}"
        for session, of in sessions(instance).items()
        if len({replica[i] for i in of}) > 1
    ]


FORMULATION = Formulation(
    name="replicas",
    summary="kv-replicas in which all requests of a session are served by one replica",
    claim="exact",
    reference="kv-replicas, with sticky sessions",
    extends="kv-replicas",
    parameters=(
        Parameter(
            name="session", doc="session of the request [name]", kind=str, by="request", optional=True,
            examples=("s", "t"),
        ),
    ),
    build=build,
    data=data,
    admissible=admissible,
)  # fmt: skip
