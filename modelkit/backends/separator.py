"""How a formulation gives a solver rows while it searches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Separator:
    """Finds rows that hold for every solution of a model, where a fractional point violates them.

    Parameters
    ----------
    variables
        Of the Pyomo model, all of them in its objective or a constraint.
    find
        Takes a point, its values in the order of ``variables``, and gives rows: positions in ``variables``,
        coefficients, and the right side that they do not exceed. It goes to the solver's process: it must be of a
        module that can be imported there.
    """

    variables: list[Any]
    find: Callable[[Any], Sequence[tuple[Any, Any, float]]]
