"""A certificate: what anyone can recompute a lower bound from, exactly.

``kv-prices``: for any prices lambda_t >= 0 on rounds, relaxing the capacity of the KV-cache problem (unit clock, no
slots) gives

    L = sum_i min_{k >= a_i} [ k + o_i - a_i + sum_{j=1}^{o_i} lambda_{k+j} (s_i + j) ]  -  M sum_t lambda_t

which no schedule's total latency is below. With lambda_t = n_t / d for integers n_t and d, d L is an integer.
This module recomputes it in integer arithmetic and shares nothing with the code that finds prices.

``slot-closed-form`` and ``packing`` bound the makespan of the slot problem (``modelkit.slot_bound``); the first needs
nothing but the instance, the second carries weights that prove how many rounds some slot must decode.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from modelkit.errors import Fault, InputError
from modelkit.instance import Instance
from modelkit.slot_bound import closed_form_rounds, slot_bound, weighed_rounds

SCHEMA = "modelkit/certificate/1"

#: Prices are written in units of 2^-PRECISION.
PRECISION = 30

_Whole = Annotated[int, Field(strict=True)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Prices(_Record):
    """Prices ``numerators / denominator`` on ``rounds``; all other rounds are free."""

    denominator: Annotated[int, Field(strict=True, ge=1)]
    rounds: list[Annotated[int, Field(strict=True, ge=1, le=10**12)]]
    numerators: list[Annotated[int, Field(strict=True, ge=0)]]


class Bound(_Record):
    """The bound as an exact fraction."""

    numerator: _Whole
    denominator: Annotated[int, Field(strict=True, ge=1)]


class Weights(_Record):
    """A weight for each request, in the order of the instance, which prove that some slot decodes ``rounds``."""

    rounds: Annotated[int, Field(strict=True, ge=1, le=10**12)]
    values: list[Annotated[int, Field(strict=True, ge=0, le=10**15)]]


class Certificate(_Record):
    """A lower bound on the total latency or the makespan of one instance, with its proof."""

    instance_sha256: str
    kind: Literal["kv-prices", "slot-closed-form", "packing"] = "kv-prices"
    bound: Bound
    prices: Prices | None = None
    weights: Weights | None = None

    @property
    def value(self) -> int | Fraction:
        """The bound; of a total latency rounded up, because those are whole numbers of rounds."""
        exact = Fraction(self.bound.numerator, self.bound.denominator)
        return math.ceil(exact) if self.kind == "kv-prices" else exact

    @property
    def proof(self) -> str:
        """What the bound is recomputed from, in a word."""
        return {"kv-prices": "prices", "slot-closed-form": "closed form", "packing": "weights"}[self.kind]

    def recomputed(self, instance: Instance) -> Fraction:
        """The bound that the proof gives.

        Raises
        ------
        InputError
            It proves nothing, or is about another kind of instance.
        """
        if self.kind == "slot-closed-form":
            return slot_bound(instance, closed_form_rounds(instance))
        if self.kind == "packing" and self.weights is not None:
            return slot_bound(instance, weighed_rounds(instance, self.weights.values, self.weights.rounds))
        if self.kind == "kv-prices" and self.prices is not None:
            return exact_bound(instance, self.prices)
        raise InputError("certificate", [Fault("$", f"a certificate of kind {self.kind} lacks its {self.proof}")])


def certify_slots(instance: Instance, weights: Weights | None = None) -> Certificate:
    """Certificate of the slot problem: by weights, or else the closed form."""
    kind: Literal["packing", "slot-closed-form"] = "slot-closed-form" if weights is None else "packing"
    draft = Certificate(
        instance_sha256=instance.sha256, kind=kind, bound=Bound(numerator=0, denominator=1), weights=weights
    )
    bound = draft.recomputed(instance)
    return draft.model_copy(update={"bound": Bound(numerator=bound.numerator, denominator=bound.denominator)})


def certify(instance: Instance, prices: np.ndarray[Any, Any]) -> Certificate:
    """Certificate from floating-point prices; ``prices[t]`` is the price of round t [latency round / token].

    The prices are rounded to multiples of 2^-30 first, and the bound is that of the rounded prices.
    """
    numerators = np.rint(np.maximum(prices, 0) * 2**PRECISION).astype(np.int64)
    numerators[0] = 0
    rounds = np.flatnonzero(numerators)
    written = Prices(denominator=2**PRECISION, rounds=rounds.tolist(), numerators=numerators[rounds].tolist())
    bound = exact_bound(instance, written)
    return Certificate(
        instance_sha256=instance.sha256,
        bound=Bound(numerator=bound.numerator, denominator=bound.denominator),
        prices=written,
    )


def exact_bound(instance: Instance, prices: Prices) -> Fraction:
    """L at these prices, exactly.

    O(n T) for T rounds up to the last price: with P and Q the cumulative sums of n_t and t n_t,
    ``sum_j n_{k+j} (s + j) = (s - k)(P[k+o] - P[k]) + Q[k+o] - Q[k]``; beyond T nothing is
    charged, so no later start is cheaper.

    Raises
    ------
    InputError
        The instance is not one of the KV-cache problem, or rounds and numerators do not match.
    """
    capacity = instance.server.kv_capacity_tokens
    faults = []
    if not instance.is_unit or instance.server.slots is not None or capacity is None:
        faults.append(Fault("$", "kv-prices bound instances with the unit clock, a KV capacity and no slots"))
    if len(prices.rounds) != len(prices.numerators):
        faults.append(Fault("$.prices", f"{len(prices.rounds)} rounds, but {len(prices.numerators)} numerators"))
    if any(b <= a for a, b in zip(prices.rounds, prices.rounds[1:], strict=False)):
        faults.append(Fault("$.prices.rounds", "are not increasing"))
    if faults:
        raise InputError("certificate", faults)
    assert capacity is not None
    arrays = instance.arrays
    last = prices.rounds[-1] if prices.rounds else 0
    denominator, total = prices.denominator, sum(prices.numerators)
    latest = max(last, int(arrays.arrival.max())) + int(arrays.output.max()) + 1
    size = max((int(arrays.prompt.max()) + latest) * total + 2 * latest * total, denominator * 2 * latest)
    # object arrays hold Python's unbounded integers: slower, and needed only for absurd prices
    dtype: Any = np.int64 if size < 2**62 else object
    priced = np.zeros(latest + 1, dtype=dtype)
    priced[prices.rounds] = prices.numerators
    p = np.cumsum(priced)
    q = np.cumsum(priced * np.arange(latest + 1).astype(dtype))
    bound = -capacity * total
    for a, s, o in zip(arrays.arrival.tolist(), arrays.prompt.tolist(), arrays.output.tolist(), strict=True):
        k = np.arange(a, max(a, last) + 1).astype(dtype)
        begin, end = slice(a, a + len(k)), slice(a + o, a + o + len(k))
        cost = (s - k) * (p[end] - p[begin]) + (q[end] - q[begin]) + denominator * (k + (o - a))
        bound += int(cost.min())
    return Fraction(bound, denominator)
