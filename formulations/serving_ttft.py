r"""serving-latency with the total time to first token as its objective.

All but the objective is that of serving-latency, without completion[i] and the bounds on it, and

Parameters
----------
after_first[i, k]
    latest[k], less the soonest first token of i.

Variables
---------
first_token[i]
    When i has its first token: the end of the iteration in which it starts.

Objective
---------
total_ttft
    min  sum_i first_token[i] - arrivals

Constraints
-----------
first_token_after_prompt[i, k]
    first_token[i] >= end[k] - after_first[i,k] started[i,k-1]
first_token_in_time[i]
    first_token[i] >= sum_{k in STARTS_OF[i]} first_end[i,k] starts[i,k]

Claim
-----
Exact. The best schedule of serving-latency's proof is one of this objective too: none of the steps there ends an
iteration later. The bounds on first_token[i] hold for it as those on completion[i] do there.

Reference
---------
Jaillet, Jiang, Mellou, Molinaro, Podimata, Zhou, arXiv 2502.07115, as serving-latency; the time to first token is the
service level of Agrawal et al., Sarathi-Serve, OSDI 2024.
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, Known


def build(m: Any) -> None:
    """Replace the objective and what it needs."""
    m.del_component(m.total_latency)
    m.del_component(m.completed_with_last_token)
    m.del_component(m.completed_after_prompt)
    m.del_component(m.costs_what_it_must)
    m.del_component(m.completion)
    m.after_first = pyo.Param(m.STARTS, within=pyo.NonNegativeReals, doc="longest time from its first token on [ms]")
    m.first_token = pyo.Var(m.REQUESTS, domain=pyo.NonNegativeReals, doc="when the request has its first token")
    m.total_ttft = pyo.Objective(rule=total_ttft, doc="total time to first token [ms]")
    m.first_token_after_prompt = pyo.Constraint(
        m.STARTS, rule=first_token_after_prompt, doc="the first token comes with the prompt's iteration"
    )
    m.first_token_in_time = pyo.Constraint(m.REQUESTS, rule=first_token_in_time, doc="its own prompt takes time")


def total_ttft(m: Any) -> Any:
    """Sum of first token - arrival."""
    return pyo.quicksum(m.first_token[i] for i in m.REQUESTS) - m.arrivals


def first_token_after_prompt(m: Any, i: str, k: int) -> Any:
    """Whoever starts in iteration k or later has no token before it ends."""
    before = m.started[i, k - 1] if k > 1 else 0
    return m.first_token[i] >= m.end[k] - m.after_first[i, k] * before


def first_token_in_time(m: Any, i: str) -> Any:
    """The soonest end of the iteration with the prompt."""
    return m.first_token[i] >= pyo.quicksum(m.first_end[i, k] * m.starts[i, k] for k in m.STARTS_OF[i])


def data(instance: Instance, known: Known) -> dict[str, Any]:
    """Values of the parameters that are added."""
    windows = known.iteration_windows
    return {
        "after_first": {
            (r.id, k): max(0.0, windows.latest[k - 1] - min(ends.values()))
            for r, ends in zip(instance.requests, windows.first_ends, strict=True)
            for k in ends
        },
    }


FORMULATION = Formulation(
    name="serving-ttft",
    summary="serving-latency with the total time to first token as its objective",
    claim="exact",
    objective="total_ttft",
    reference="Jaillet et al., arXiv 2502.07115; time to first token as in Sarathi-Serve, OSDI 2024",
    extends="serving-latency",
    build=build,
    data=data,
    admissible=lambda instance, verdict: [],
)
