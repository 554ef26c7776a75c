r"""latency-cap with the price of the rounds in which the server works as its objective.

Sets, parameters, variables and constraints are those of latency-cap, but

Parameters
----------
price
    What a round with somebody in it costs.

Variables
---------
busy[t]
    1 if some request is active in round t.

Objective
---------
energy_cost
    min  price sum_t busy[t]

Constraints
-----------
busy_while_active[t]
    running[t] <= |REQUESTS| busy[t]

Claim
-----
Exact; infeasible where no schedule keeps the cap. A round in which no request is active, after the last arrival, can
be cut out, so the starts of the base suffice.

Reference
---------
An example: sleep states of servers, with a cap on latency.
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, Parameter, Verdict


def build(m: Any) -> None:
    """Replace the objective; the cap is there."""
    m.del_component(m.total_latency)
    m.price = pyo.Param(within=pyo.NonNegativeReals, doc="price of a busy round [$/round]")
    m.busy = pyo.Var(m.ROUNDS, domain=pyo.Binary, doc="1 if some request is active in the round")
    m.energy_cost = pyo.Objective(rule=energy_cost, doc="cost of the energy [$]")
    m.busy_while_active = pyo.Constraint(m.ROUNDS, rule=busy_while_active, doc="who is active keeps the server busy")


def energy_cost(m: Any) -> Any:
    """Price of all busy rounds."""
    return m.price * pyo.quicksum(m.busy[t] for t in m.ROUNDS)


def busy_while_active(m: Any, t: int) -> Any:
    """Nobody is active in a round that is not busy."""
    return m.running[t] <= len(m.REQUESTS) * m.busy[t]


def value(instance: Instance, verdict: Verdict) -> float:
    """The same of a judged schedule."""
    busy = sum(interval.rounds for interval in verdict.intervals if interval.active)
    return float(instance.extra["price"]) * busy


FORMULATION = Formulation(
    name="energy",
    summary="latency-cap with the price of the rounds in which the server works as its objective",
    claim="exact",
    objective="energy_cost",
    reference="an example",
    extends="latency_cap.py",
    parameters=(
        Parameter(
            name="price", doc="price of a busy round [$/round]", kind=float, least=0, default=0.25, examples=(0.25, 2)
        ),
    ),
    build=build,
    data=lambda instance: {"price": instance.extra["price"]},
    admissible=lambda instance, verdict: [],
    value=value,
)
