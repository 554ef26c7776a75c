r"""The linear relaxation of kv-hindsight-flow: a lower bound by a solver, to hold beside the one by prices.

Sets, parameters, variables, objective and constraints are those of kv-hindsight-flow, but

Variables
---------
start[i, k] >= 0
    Share of request i that starts at k; started_once keeps it at most 1.

Claim
-----
Lower bound. Its optimum over all starts is the largest value of the Lagrangian relaxation of the KV capacity
(modelkit.certificate), and minus the reduced costs of ``held`` are prices that attain it. Over the starts that
modelkit.start_windows keeps it can be higher, and is still a lower bound: an optimal schedule uses no other.

The schedule extracted is a list schedule in the order of the mean starts.

Reference
---------
Jaillet, Jiang, Mellou, Molinaro, Podimata, Zhou, arXiv 2502.07115, relaxed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo

from modelkit import Formulation, Instance, Schedule, list_schedule, schedule_of


def build(m: Any) -> None:
    """Relax what kv-hindsight-flow built."""
    m.relaxed = pyo.BuildAction(rule=relax)


def relax(m: Any) -> None:
    """Let starts be shares."""
    for share in m.start.values():
        share.domain = pyo.NonNegativeReals


def extract(m: Any, instance: Instance) -> Schedule:
    """List schedule in the order of the mean starts."""
    mean = np.zeros(len(instance.requests))
    for (i, k), share in m.start.items():
        mean[instance.index[i]] += k * (share.value or 0.0)
    return schedule_of(instance, list_schedule(instance, mean))


FORMULATION = Formulation(
    name="kv-hindsight-lp",
    summary="the linear relaxation of kv-hindsight-flow; its schedule is a list schedule by mean starts",
    claim="lower-bound",
    problem="kv-hindsight",
    reference="Jaillet et al., arXiv 2502.07115, relaxed",
    build=build,
    extract=extract,
    extends="kv-hindsight-flow",
)
