"""The bound that requests' waiting for each other gives, in integer arithmetic."""

from __future__ import annotations

from fractions import Fraction

from modelkit.certificate import Interference
from modelkit.errors import Fault, InputError
from modelkit.instance import Instance


def interference_bound(instance: Instance, weights: Interference) -> Fraction:
    """The bound on the total latency [ms]; none yet: every certificate of it is refused.

    Raises
    ------
    InputError
        Always.
    """
    raise InputError("certificate", [Fault("$.interference", "cannot be recomputed by this version of modelkit")])
