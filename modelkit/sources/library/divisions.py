"""Divisions of policies: what they are told of output lengths.

===========  ===================================================================================================
clairvoyant  the truth
predicted    the instance's own predictions; where it has none, the truth times a factor from U[0.8, 1.2], seed 0
blind        one limit for all: the power of two from the longest output on, as engines have a ``max_tokens``
===========  ===================================================================================================
"""

from __future__ import annotations

import numpy as np

from modelkit.instance import Instance
from modelkit.sources.library.entries import Division


def told(instance: Instance) -> dict[Division, str | None]:
    """The prediction model of each division (`modelkit.policies.predictions`); None is the instance's own."""
    limit = 1 << (int(instance.arrays.output.max()) - 1).bit_length()
    own = None if _predicts(instance) else "noise:0.2"
    return {"clairvoyant": "exact", "predicted": own, "blind": f"class:{limit}"}


def division_of(instance: Instance, predictions: str | None) -> Division | None:
    """The division of a policy that was told so; None where it is of none."""
    models = told(instance)
    if predictions is None and models["predicted"] is not None:
        return "clairvoyant"
    return next((division for division, model in models.items() if model == predictions), None)


def _predicts(instance: Instance) -> bool:
    """Whether the instance has predictions of its own."""
    arrays = instance.arrays
    exact = np.array_equal(arrays.predicted_lower, arrays.output) and np.array_equal(
        arrays.predicted_upper, arrays.output
    )
    return not exact
