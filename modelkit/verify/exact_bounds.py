"""The bound that a certificate's proof gives, in integer arithmetic; nothing here is shared with what finds proofs."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from modelkit.certificate import KINDS, Bound, Certificate, CertificateKind, Partitions, Prices, Weights
from modelkit.errors import Fault, InputError
from modelkit.instance import Instance, InstanceStamp
from modelkit.problems.problem import KV, SLOTS
from modelkit.verify.kv_bound import exact_bound
from modelkit.verify.serving_goodput import goodput_bound
from modelkit.verify.serving_interference import interference_bound
from modelkit.verify.serving_prices import serving_prices_bound
from modelkit.verify.serving_work import work_bound
from modelkit.verify.slot_bound import closed_form_rounds, slot_bound, weighed_rounds
from modelkit.verify.slot_rounds import slot_rounds_bound
from modelkit.verify.volume_bound import volume_bound

#: Of a draft, until it has its bound.
NOTHING = Bound(numerator=0, denominator=1)
#: Prices are written in units of 2^-PRECISION, or coarser when they are very high.
PRECISION = 30


def recomputed_bound(certificate: Certificate, instance: Instance) -> Fraction:
    """The bound that the proof of a certificate gives.

    Raises
    ------
    InputError
        It proves nothing, or is about another kind of instance.
    """
    field = KINDS[certificate.kind].field
    if field is not None and getattr(certificate, field) is None:
        words = f"a certificate of kind {certificate.kind} lacks its {certificate.proof}"
        raise InputError("certificate", [Fault("$", words)])
    return RECOMPUTED[certificate.kind](certificate, instance)


def _closed_form(certificate: Certificate, instance: Instance) -> Fraction:
    return slot_bound(instance, closed_form_rounds(instance))


def _weighed(certificate: Certificate, instance: Instance) -> Fraction:
    assert certificate.weights is not None
    return slot_bound(instance, weighed_rounds(instance, certificate.weights.values, certificate.weights.rounds))


def _priced(certificate: Certificate, instance: Instance) -> Fraction:
    assert certificate.prices is not None
    return exact_bound(instance, certificate.prices)


def _over_partitions(certificate: Certificate, instance: Instance) -> Fraction:
    from modelkit.verify.kv_partitions import partitions_bound  # late: compiled code takes a while to load

    assert certificate.partitions is not None
    return partitions_bound(instance, certificate.partitions)


def _rounds_on_slots(certificate: Certificate, instance: Instance) -> Fraction:
    return slot_rounds_bound(instance)


def _by_volume(certificate: Certificate, instance: Instance) -> Fraction:
    return volume_bound(instance)


def _worked(certificate: Certificate, instance: Instance) -> Fraction:
    assert certificate.work is not None
    return work_bound(instance, certificate.work, certificate.metric)


def _interfering(certificate: Certificate, instance: Instance) -> Fraction:
    assert certificate.interference is not None
    return interference_bound(instance, certificate.interference)


def _priced_on_time(certificate: Certificate, instance: Instance) -> Fraction:
    assert certificate.serving_prices is not None
    return serving_prices_bound(instance, certificate.serving_prices)


def _in_time(certificate: Certificate, instance: Instance) -> Fraction:
    assert certificate.goodput is not None
    return goodput_bound(instance, certificate.goodput)


#: How the proof of each kind is recomputed.
RECOMPUTED: dict[CertificateKind, Callable[[Certificate, Instance], Fraction]] = {
    "slot-closed-form": _closed_form,
    "packing": _weighed,
    "slot-rounds": _rounds_on_slots,
    "kv-prices": _priced,
    "kv-partitions": _over_partitions,
    "kv-volume": _by_volume,
    "serving-work": _worked,
    "serving-interference": _interfering,
    "serving-prices": _priced_on_time,
    "goodput": _in_time,
}


def with_bound(draft: Certificate, instance: Instance) -> Certificate:
    """A certificate with the bound that its proof gives, whatever it said.

    Raises
    ------
    InputError
        It proves nothing, or is about another kind of instance.
    """
    return claiming(draft, recomputed_bound(draft, instance))


def claiming(draft: Certificate, bound: Fraction) -> Certificate:
    """A certificate that claims this bound."""
    return draft.model_copy(update={"bound": Bound(numerator=bound.numerator, denominator=bound.denominator)})


def certify_slots(instance: Instance, weights: Weights | None = None) -> Certificate:
    """Certificate of the slot problem: by weights, or else the closed form."""
    kind: CertificateKind = "slot-closed-form" if weights is None else "packing"
    draft = Certificate(
        instance=InstanceStamp.of(instance),
        kind=kind,
        objective=SLOTS.objective,
        bound=NOTHING,
        weights=weights,
    )
    return with_bound(draft, instance)


def certify_partitions(instance: Instance, proof: Partitions, *, seconds: float | None = None) -> Certificate:
    """Certificate from multipliers and floors.

    Raises
    ------
    InputError
        They are no proof for this instance.
    """
    draft = Certificate(
        instance=InstanceStamp.of(instance),
        kind="kv-partitions",
        objective=KV.objective,
        bound=NOTHING,
        partitions=proof,
        seconds=seconds,
    )
    return with_bound(draft, instance)


def certify(
    instance: Instance,
    prices: np.ndarray[Any, Any],
    *,
    rounds: np.ndarray[Any, Any] | None = None,
    seconds: float | None = None,
) -> Certificate:
    """Certificate from floating-point prices; ``prices[t]`` is the price of round t [latency round / token].

    Where ``rounds`` are given, ascending, it is that of ``rounds[t]``, and all other rounds are free. The prices are
    rounded to multiples of 2^-30 first, and the bound is that of the rounded prices.

    Raises
    ------
    InputError
        The instance is not one of the KV-cache problem.
    """
    arrays = instance.arrays
    highest = float(prices.max(initial=0.0)) * float(arrays.peak.max() * arrays.output.max())
    highest += len(prices) + float(arrays.output.max())
    # so that the exact recomputation stays within 64 bits
    precision = max(0, min(PRECISION, 61 - math.ceil(math.log2(highest + 1))))
    numerators = np.rint(np.maximum(prices, 0) * 2**precision).astype(np.int64)
    numerators[:1] = 0
    priced = np.flatnonzero(numerators)
    times = priced if rounds is None else rounds[priced]
    written = Prices(denominator=2**precision, rounds=times.tolist(), numerators=numerators[priced].tolist())
    bound = exact_bound(instance, written)
    return Certificate(
        instance=InstanceStamp.of(instance),
        objective=KV.objective,
        bound=Bound(numerator=bound.numerator, denominator=bound.denominator),
        prices=written,
        seconds=seconds,
    )
