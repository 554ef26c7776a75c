"""Long certificates of prices on time, in coarser prices: so that the library stays small.

Prices that requests pay are rounded down and those of the server's time up, so that what iterations cost covers them
still. The bound falls by as little as is asked for; it is recomputed from what is kept.
"""

from __future__ import annotations

import gzip
import json

from modelkit.certificate import Bound, Certificate, ServingPrices
from modelkit.instance import Instance
from modelkit.verify.exact_bounds import recomputed_bound

#: Certificates up to this length are kept as they are [byte], compressed.
SHORT = 60_000
#: Share of a bound that may be lost.
LOSS = 0.0025


def compact(certificate: Certificate, instance: Instance) -> Certificate:
    """The certificate with the coarsest prices that lose at most `LOSS` of its bound, where it is long."""
    prices = certificate.serving_prices
    if prices is None or len(gzip.compress(json.dumps(certificate.document()).encode())) <= SHORT:
        return certificate
    for power in range(prices.denominator.bit_length() - 1):
        if prices.denominator % (1 << power) == 0:
            coarser = _priced(certificate, _coarser(prices, 1 << power), instance)
            if coarser.value >= (1 - LOSS) * certificate.value:
                return coarser
    return certificate


def _priced(certificate: Certificate, prices: ServingPrices, instance: Instance) -> Certificate:
    """The certificate with other prices, and the bound that they give."""
    other = certificate.model_copy(update={"serving_prices": prices})
    found = recomputed_bound(other, instance)
    return other.model_copy(update={"bound": Bound(numerator=found.numerator, denominator=found.denominator)})


def _coarser(prices: ServingPrices, denominator: int) -> ServingPrices:
    """The prices as multiples of 1 / denominator, none of them too high to be covered."""
    unit = prices.denominator // denominator

    def down(values: list[int]) -> list[int]:
        return [value // unit for value in values]

    paid = {name: down(getattr(prices, name)) for name in ("memory", "slots", "prompt_memory", "prompt_slots")}
    own = {name: [down(values) for values in getattr(prices, name)] for name in ("decoding", "prompts")}
    server = [-(-price // unit) for price in prices.server]
    return prices.model_copy(update={"denominator": denominator, "server": server, **paid, **own})
