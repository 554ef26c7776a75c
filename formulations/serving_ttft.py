r"""serving-latency with the total time to first token as its objective.

All but the objective is that of serving-latency, without completion[i] and the bounds on it, and

Parameters
----------
reading[i]
    How long an iteration lasts that processes the prompt of i alone.
soonest[i]
    min_j a_j + reading[i].
after_first[i]
    No iteration of a best schedule ends later than that after the first token of i.

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
    first_token[i] >= end[k] - after_first[i] started[i,k-1]
first_token_after_rounds[i]
    first_token[i] >= soonest[i] + shortest (K - sum_k started[i,k])
first_token_after_arrival[i]
    first_token[i] >= a_i + reading[i]

Claim
-----
Exact. The best schedule of serving-latency's proof is one of this objective too: none of the steps there ends an
iteration later. The bounds on first_token[i] hold for it as those on completion[i] do there; the iterations after the
one in which i starts last no longer, in all, than those of the others and those in which i decodes, each alone.

Reference
---------
Jaillet, Jiang, Mellou, Molinaro, Podimata, Zhou, arXiv 2502.07115, as serving-latency; the time to first token is the
service level of Agrawal et al., Sarathi-Serve, OSDI 2024.
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, LinearClock


def build(m: Any) -> None:
    """Replace the objective and what it needs."""
    m.del_component(m.total_latency)
    m.del_component(m.completed_with_last_token)
    m.del_component(m.completed_after_rounds)
    m.del_component(m.completed_after_arrival)
    m.del_component(m.completion)
    m.reading = pyo.Param(m.REQUESTS, within=pyo.NonNegativeReals, doc="duration of its prompt alone [ms]")
    m.soonest = pyo.Param(m.REQUESTS, within=pyo.NonNegativeReals, doc="first arrival of all, and its prompt [ms]")
    m.after_first = pyo.Param(m.REQUESTS, within=pyo.NonNegativeReals, doc="longest time from its first token on [ms]")
    m.first_token = pyo.Var(m.REQUESTS, domain=pyo.NonNegativeReals, doc="when the request has its first token")
    m.total_ttft = pyo.Objective(rule=total_ttft, doc="total time to first token [ms]")
    m.first_token_after_prompt = pyo.Constraint(
        m.STARTS, rule=first_token_after_prompt, doc="the first token comes with the prompt's iteration"
    )
    m.first_token_after_rounds = pyo.Constraint(
        m.REQUESTS, rule=first_token_after_rounds, doc="iterations before the start take time"
    )
    m.first_token_after_arrival = pyo.Constraint(
        m.REQUESTS, rule=first_token_after_arrival, doc="its own prompt takes time"
    )


def total_ttft(m: Any) -> Any:
    """Sum of first token - arrival."""
    return pyo.quicksum(m.first_token[i] for i in m.REQUESTS) - m.arrivals


def first_token_after_prompt(m: Any, i: str, k: int) -> Any:
    """Whoever starts in iteration k or later has no token before it ends."""
    before = m.started[i, k - 1] if k > 1 else 0
    return m.first_token[i] >= m.end[k] - m.after_first[i] * before


def first_token_after_rounds(m: Any, i: str) -> Any:
    """The iterations before the start, and the prompt."""
    waited = m.iterations - pyo.quicksum(m.started[i, k] for k in m.ITERATIONS)
    return m.first_token[i] >= m.soonest[i] + m.shortest * waited


def first_token_after_arrival(m: Any, i: str) -> Any:
    """The prompt."""
    return m.first_token[i] >= m.arrival[i] + m.reading[i]


def data(instance: Instance) -> dict[str, Any]:
    """Values of the parameters that are added."""
    clock, requests = instance.server.clock, instance.requests
    assert isinstance(clock, LinearClock)
    reading = {r.id: clock.prefill_ms(r.prompt_tokens) for r in requests}
    decoding = [
        clock.decode_ms(o - 1, o - 1, (o - 1) * s + o * (o + 1) // 2 - 1)
        for s, o in ((r.prompt_tokens, r.output_tokens) for r in requests)
    ]
    every = sum(reading.values()) + sum(decoding)
    first, last = (1000 * pick(r.arrival for r in requests) for pick in (min, max))
    return {
        "reading": reading,
        "soonest": {i: first + ms for i, ms in reading.items()},
        "after_first": {
            r.id: every - reading[r.id] + max(0.0, last - 1000 * r.arrival - reading[r.id]) for r in requests
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
