r"""base-formulation and what the variant changes, in one line.

Sets, parameters, variables, objective and constraints are those of base-formulation.

Claim
-----
That of base-formulation: nothing is added yet. What you add gets its heading above: Sets, Parameters, Variables,
Objective, Constraints.

Reference
---------
Authors, title, where; and what is different from the paper.
"""

from __future__ import annotations

from typing import Any

from modelkit import Formulation, Instance, Verdict


def build(m: Any) -> None:
    """Add to the abstract model that base-formulation built; `modelkit show base-formulation` says what is there."""


def data(instance: Instance) -> dict[str, Any]:
    """Values of the sets and parameters that build() adds."""
    return {}


def admissible(instance: Instance, verdict: Verdict) -> list[str]:
    """What a schedule breaks of the variant's rules, in plain Python from the judge's replay."""
    return []


FORMULATION = Formulation(
    name="new-formulation",
    summary="base-formulation, to be changed",
    claim="base-claim",  # type: ignore[arg-type]
    reference="an example to start from",
    extends="base-formulation",
    build=build,
    data=data,
    admissible=admissible,
)
