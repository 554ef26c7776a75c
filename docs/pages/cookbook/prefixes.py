r"""kv-prefix with a budget for the tokens of shared prefixes, as where a cache for them is set apart.

Sets, parameters, variables, objective and constraints are those of kv-prefix, and

Parameters
----------
prefix_budget
    Tokens of shared prefixes that are held at once, at most.

Constraints
-----------
prefixes_within_budget[t]
    sum_g shared[g,t] <= prefix_budget

Claim
-----
Exact, where the budget holds the longest prefix: one group after the other keeps it.

Reference
---------
kv-prefix (Zheng et al., SGLang, NeurIPS 2024), with a budget.
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, Parameter, Verdict


def needs(instance: Instance) -> str | None:
    """Why the instance is outside this formulation, or None."""
    shared = instance.shared_prefixes
    longest = max(shared.tokens) if shared else 0
    return None if longest <= instance.extra["prefix_budget"] else f"needs a budget of {longest}, the longest prefix"


def build(m: Any) -> None:
    """Add the budget."""
    m.prefix_budget = pyo.Param(within=pyo.PositiveIntegers, doc="tokens of prefixes held at once [token]")
    m.prefixes_within_budget = pyo.Constraint(m.ROUNDS, rule=prefixes_within_budget, doc="few prefix tokens are held")


def prefixes_within_budget(m: Any, t: int) -> Any:
    """Tokens of all groups in round t."""
    if not len(m.GROUPS):
        return pyo.Constraint.Skip
    return pyo.quicksum(m.shared[g, t] for g in m.GROUPS) <= m.prefix_budget


def admissible(instance: Instance, verdict: Verdict) -> list[str]:
    """Rounds in which those in progress share more than the budget: the longest prefix of each group counts."""
    shared, budget = instance.shared_prefixes, instance.extra["prefix_budget"]
    assert shared is not None
    words = []
    for interval in verdict.intervals:
        held: dict[str, int] = {}
        for residency in verdict.residencies:
            there = residency.begin <= interval.begin and (residency.end is None or residency.end > interval.begin)
            prefix, tokens = instance.requests[residency.request].prefix, shared.tokens[residency.request]
            if there and prefix is not None:
                held[prefix.group] = max(held.get(prefix.group, 0), tokens)
        if sum(held.values()) > budget:
            words.append(f"from {interval.begin:g} on prefixes hold {sum(held.values())} tokens; allowed: {budget}")
    return words


FORMULATION = Formulation(
    name="prefixes",
    summary="kv-prefix with a budget for the tokens of shared prefixes",
    claim="exact",
    reference="Zheng et al., SGLang, NeurIPS 2024, with a budget",
    extends="kv-prefix",
    parameters=(
        Parameter(name="prefix_budget", doc="tokens of prefixes held at once [token]", least=1, examples=(3, 4)),
    ),
    needs=needs,
    build=build,
    data=lambda instance: {"prefix_budget": instance.extra["prefix_budget"]},
    admissible=admissible,
)
