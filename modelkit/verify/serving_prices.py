"""The bound that prices on time give, in integer arithmetic."""

from __future__ import annotations

from fractions import Fraction

from modelkit.certificate import ServingPrices
from modelkit.errors import Fault, InputError
from modelkit.instance import Instance


def serving_prices_bound(instance: Instance, prices: ServingPrices) -> Fraction:
    """The bound on the total latency [ms] that the prices give; none yet: every certificate of them is refused.

    Raises
    ------
    InputError
        Always.
    """
    raise InputError("certificate", [Fault("$.serving_prices", "cannot be recomputed by this version of modelkit")])
