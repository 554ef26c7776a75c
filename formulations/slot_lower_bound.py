r"""The lower bound of the slot problem: work shared evenly by the slots, and prefill stages that cover all requests.

Sets
----
LEVELS
    Kinds of prefill: one under the linear cost model, else its levels.

Parameters
----------
work
    sum_i o_i.
longest
    max_i o_i.
pair
    o_(J) + o_(J+1), which share a slot when n > J; else 0.
requests, slots, prompts
    n, J, sum_i s_i.
level_tokens[l], level_ms[l]
    Tokens that a prefill holds, and its duration; under the linear cost model all tokens and the base.
round_ms
    tau.
constant
    What every schedule pays.

Variables
---------
rounds
    z, rounds that some slot decodes.
stages[l]
    Prefills of level l.

Objective
---------
makespan
    min  constant + tau rounds + sum_l level_ms[l] stages[l]

Constraints
-----------
work_fits
    J rounds >= work
longest_fits, pair_fits
    rounds >= longest,  rounds >= pair
requests_covered
    J sum_l stages[l] >= n
prompts_covered
    sum_l level_tokens[l] stages[l] >= prompts

Claim
-----
Lower bound: makespan-bin-packing with the queues summed up, in which only the average remains of them, and the prefill
stages as a covering problem. Under the linear cost model it is the closed form of
`modelkit.verify.slot_bound`; with levels it is no smaller.

Reference
---------
Pang, Li, She, Wang, arXiv 2502.15763, the lower bound, in our reading.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo

from modelkit import Formulation, Instance, LinearClock, slot_bound, stages_refusal


def build(m: Any) -> None:
    """Fill the abstract model."""
    m.LEVELS = pyo.Set(doc="kinds of prefill")
    for name, doc in (
        ("work", "tokens of all outputs [token]"),
        ("longest", "longest output [token]"),
        ("requests", "number of requests [request]"),
        ("slots", "number of slots [slot]"),
        ("prompts", "tokens of all prompts [token]"),
    ):
        setattr(m, name, pyo.Param(within=pyo.PositiveIntegers, doc=doc))
    m.pair = pyo.Param(within=pyo.NonNegativeIntegers, doc="J-th and (J+1)-th longest output together [token]")
    m.level_tokens = pyo.Param(m.LEVELS, within=pyo.PositiveIntegers, doc="what a prefill holds [token]")
    m.level_ms = pyo.Param(m.LEVELS, within=pyo.NonNegativeReals, doc="duration of a prefill [ms]")
    m.round_ms = pyo.Param(within=pyo.NonNegativeReals, doc="duration of a decode round [ms]")
    m.constant = pyo.Param(within=pyo.NonNegativeReals, doc="what every schedule pays [ms]")

    m.rounds = pyo.Var(domain=pyo.PositiveIntegers, doc="rounds that some slot decodes")
    m.stages = pyo.Var(m.LEVELS, domain=pyo.NonNegativeIntegers, doc="prefills of the level")

    m.makespan = pyo.Objective(rule=makespan, doc="lower bound on the end of the last round [ms]")
    m.work_fits = pyo.Constraint(rule=work_fits, doc="the slots decode all tokens")
    m.longest_fits = pyo.Constraint(rule=longest_fits, doc="the longest output is decoded on one slot")
    m.pair_fits = pyo.Constraint(rule=pair_fits, doc="two of the J + 1 longest share a slot")
    m.requests_covered = pyo.Constraint(rule=requests_covered, doc="a stage admits at most J requests")
    m.prompts_covered = pyo.Constraint(rule=prompts_covered, doc="the prefills hold all prompts")


def makespan(m: Any) -> Any:
    """Constant, rounds and prefills."""
    return m.constant + m.round_ms * m.rounds + pyo.quicksum(m.level_ms[level] * m.stages[level] for level in m.LEVELS)


def work_fits(m: Any) -> Any:
    """A round gives each slot one token at most."""
    return m.slots * m.rounds >= m.work


def longest_fits(m: Any) -> Any:
    """No migration."""
    return m.rounds >= m.longest


def pair_fits(m: Any) -> Any:
    """Pigeons and holes."""
    return m.rounds >= m.pair


def requests_covered(m: Any) -> Any:
    """One request a slot and stage."""
    return m.slots * pyo.quicksum(m.stages[level] for level in m.LEVELS) >= m.requests


def prompts_covered(m: Any) -> Any:
    """Levels hold their prompts."""
    return pyo.quicksum(m.level_tokens[level] * m.stages[level] for level in m.LEVELS) >= m.prompts


def data(instance: Instance) -> dict[str, Any]:
    """Values of all sets and parameters."""
    assert isinstance(instance.server.clock, LinearClock)
    clock, arrays = instance.server.clock.folded(), instance.arrays
    n, slots, prompts = len(arrays.output), instance.server.slots or len(arrays.output), int(arrays.prompt.sum())
    ordered = np.sort(arrays.output)[::-1].tolist()
    bare = clock.model_copy(update={"decode_base_ms": 0.0, "prefill_base_ms": 0.0, "prefill_levels": None})
    without = instance.model_copy(update={"server": instance.server.model_copy(update={"clock": bare})})
    levels = dict(enumerate(clock.prefill_levels or ((prompts, clock.prefill_base_ms),), start=1))
    return {
        "LEVELS": list(levels),
        "work": int(arrays.output.sum()),
        "longest": ordered[0],
        "pair": ordered[slots - 1] + ordered[slots] if n > slots else 0,
        "requests": n,
        "slots": slots,
        "prompts": prompts,
        "level_tokens": {level: tokens for level, (tokens, _) in levels.items()},
        "level_ms": {level: ms for level, (_, ms) in levels.items()},
        "round_ms": clock.decode_base_ms,
        "constant": float(slot_bound(without, 0)),
    }


FORMULATION = Formulation(
    name="slot-lower-bound",
    summary="the closed-form lower bound on the makespan as an optimization model",
    claim="lower-bound",
    objective="makespan",
    problem="slot-bound",
    reference="Pang, Li, She, Wang, arXiv 2502.15763",
    needs=stages_refusal,
    build=build,
    data=data,
)
