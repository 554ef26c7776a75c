r"""kv-hindsight-flow with a cap on the requests in progress.

Sets, parameters, variables, objective and constraints are those of kv-hindsight-flow, and

Parameters
----------
batch_cap
    Requests in progress at once.

Constraints
-----------
batch_within_cap[t]
    running[t] <= batch_cap

Claim
-----
Exact. Starts up to the last arrival plus the outputs of all others suffice: a server that is idle while a request
waits could have started it earlier, one request at a time.

Reference
---------
Jaillet, Jiang, Mellou, Molinaro, Podimata, Zhou, arXiv 2502.07115; the cap is the batch-size limit that serving systems
put beside the memory limit, as in Yu, Jeong, Kim, Kim, Chun, Orca, OSDI 2022.
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, Parameter, Verdict


def build(m: Any) -> None:
    """Add the cap to the abstract model."""
    m.batch_cap = pyo.Param(within=pyo.PositiveIntegers, doc="requests in progress at once [request]")
    m.batch_within_cap = pyo.Constraint(m.ROUNDS, rule=batch_within_cap, doc="few requests run at once")


def batch_within_cap(m: Any, t: int) -> Any:
    """At most ``batch_cap`` in round t."""
    return m.running[t] <= m.batch_cap


def admissible(instance: Instance, verdict: Verdict) -> list[str]:
    """Rounds with more requests than the cap."""
    cap = instance.extra["batch_cap"]
    return [
        f"from round {s.begin:g} on {s.active} requests are in progress, the cap is {cap}"
        for s in verdict.intervals
        if s.active > cap
    ]


FORMULATION = Formulation(
    name="kv-batch-cap",
    summary="kv-hindsight-flow with a cap on the requests in progress",
    claim="exact",
    reference="Jaillet et al., arXiv 2502.07115; batch cap as in Orca, OSDI 2022",
    extends="kv-hindsight-flow",
    parameters=(Parameter(name="batch_cap", doc="requests in progress at once [request]", least=1, examples=(1, 2)),),
    build=build,
    data=lambda instance: {"batch_cap": instance.extra["batch_cap"]},
    admissible=admissible,
)
