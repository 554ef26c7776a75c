r"""serving-latency with the makespan as its objective.

All but the objective is that of serving-latency, without completion[i] and the bounds on it, and

Variables
---------
last
    When the last iteration ends.

Objective
---------
makespan
    min  last

Constraints
-----------
ended_by_last[k]
    end[k] <= last
last_after_prompt[i]
    last >= sum_{k in STARTS_OF[i]} first_end[i,k] starts[i,k] + decoding[i]

Claim
-----
Exact. The best schedule of serving-latency's proof is one of this objective too: none of the steps there ends an
iteration later. Empty iterations last no time and come last, so nothing ends later than the last request.

Reference
---------
Jaillet, Jiang, Mellou, Molinaro, Podimata, Zhou, arXiv 2502.07115, as serving-latency; the makespan is the objective of
Pang, Li, She, Wang, arXiv 2502.15763, here with prompts processed beside decoding.
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation


def build(m: Any) -> None:
    """Replace the objective and what it needs."""
    m.del_component(m.total_latency)
    m.del_component(m.completed_with_last_token)
    m.del_component(m.completed_after_prompt)
    m.del_component(m.costs_what_it_must)
    m.del_component(m.completion)
    m.last = pyo.Var(domain=pyo.NonNegativeReals, doc="when the last iteration ends")
    m.makespan = pyo.Objective(rule=makespan, doc="makespan [ms]")
    m.ended_by_last = pyo.Constraint(m.ITERATIONS, rule=ended_by_last, doc="no iteration ends after the last")
    m.last_after_prompt = pyo.Constraint(m.REQUESTS, rule=last_after_prompt, doc="its own iterations take time")


def makespan(m: Any) -> Any:
    """The last end."""
    return m.last


def ended_by_last(m: Any, k: int) -> Any:
    """End of iteration k."""
    return m.end[k] <= m.last


def last_after_prompt(m: Any, i: str) -> Any:
    """The iterations of i, from the soonest end of the first."""
    return m.last >= pyo.quicksum(m.first_end[i, k] * m.starts[i, k] for k in m.STARTS_OF[i]) + m.decoding[i]


FORMULATION = Formulation(
    name="serving-makespan",
    summary="serving-latency with the makespan as its objective",
    claim="exact",
    objective="makespan",
    reference="Jaillet et al., arXiv 2502.07115; objective of Pang et al., arXiv 2502.15763",
    extends="serving-latency",
    build=build,
    data=lambda instance: {},
    admissible=lambda instance, verdict: [],
)
