"""The bound that prices on time give, in whole numbers; ``modelkit.problems.serving.prices`` proves it.

With the costs of ``serving_costs``, d decode iterations of a request and k = H + j - 1/2 tokens held in the j-th,
e the least duration of all of them, e/d of one, w = p1 s, f = base + p0 (not mixed: + p1 s), and the share
theta = base / (base + b0):

    X = b1 pi + slots/J + rho              Y = b2 pi + memory/M
    F = (s + 1)/M (prompt_memory + theta memory) + 1/J (prompt_slots + theta slots) + rho2 + theta rho

    K(C) = C + (d/e) int_{st}^{C} [ X + (H + (t - st) d/e) Y ] dt + int_{st-w}^{st} pi dt + (1/f) int_{st-f}^{st} F dt

with st = C - e, and in place of X, Y, pi and F the least that they have been since the arrival. The total latency is at
least the sum of the least K(C), C >= a + R, less the integral of pi and the arrivals. What iterations cost covers the
prices: in every bucket memory + slots + the rho of all requests <= (base + b0) pi, and the same with p0 of prompts.

R replicas have as many sequences of iterations, each covered by the same prices, so the integral of pi counts R times:
those that decode on one of them pay no more than all requests would.

Times are rounded down to ticks, and rates to 2^-20, or to less fine units where prices are very high: an interval that
is shorter, at most so much earlier, and prices that are lower charge less, so the bound only falls. The shortest
durations of iterations may be scaled down together.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from modelkit.certificate import TICKS_PER_MS, ServingPrices
from modelkit.errors import Fault, InputError
from modelkit.instance import Instance
from modelkit.verify.serving_costs import COSTS_PER_MS, COSTS_PER_TICK, ServingCosts

Ints = npt.NDArray[np.int64]

#: Requests times buckets up to which costs are recomputed; half a minute.
MOST = 10**9
#: Time that has prices [tick], a third of a year; who arrives later pays none.
LONGEST = 2**43
#: Most that rates of a token more are finer than others, as a power of two.
FINEST = 36
#: Rates are in units of 2^-20 at the finest.
FINEST_UNITS = 20
#: Largest shift to the right.
LARGEST_SHIFT = 62


def serving_prices_bound(instance: Instance, prices: ServingPrices) -> Fraction:
    """The bound on the total latency [ms] that the prices give.

    Raises
    ------
    InputError
        The clock is not linear, the prices do not fit the instance or are more than iterations cost, or there are so
        many that they cannot be recomputed.
    """
    from modelkit.verify import serving_price_kernel as kernel  # late: compiled code takes a while to load

    costs = ServingCosts.of(instance)
    faults = _faults(costs, prices) or _uncovered(costs, prices)
    if faults:
        raise InputError("certificate", [Fault("$.serving_prices", words) for words in faults])
    units = _units(costs, prices)
    rows = [_row(costs, prices, units, i) for i in range(len(costs.prompt))]
    least = [row.times[kernel.RESIDENCE] << units for row in rows]  # so much without prices
    priced = [i for i, row in enumerate(rows) if row.times[kernel.RESIDENCE] < LONGEST >> 2]
    if priced:
        found = np.zeros(len(priced), dtype=np.int64)
        begin = np.cumsum([0, *map(len, prices.decoding)])
        kernel.least_costs(
            kernel.Requests(
                np.array([rows[i].times for i in priced], dtype=np.int64),
                np.array([rows[i].factors for i in priced], dtype=np.int64),
            ),
            units,
            prices.bucket,
            kernel.Prices(
                _ints(prices.server),
                _ints(prices.memory),
                _ints(prices.slots),
                _ints(prices.prompt_memory),
                _ints(prices.prompt_slots),
            ),
            kernel.Own(
                _ints(prices.first)[priced],
                begin[:-1][priced],
                begin[1:][priced],
                _ints(chain.from_iterable(prices.decoding)),
                _ints(chain.from_iterable(prices.prompts)),
            ),
            found,
        )
        for i, cost in zip(priced, found.tolist(), strict=True):
            least[i] = cost
    total = sum(costs.arrival) + Fraction(sum(least), 1 << units)
    paid = Fraction(costs.replicas * prices.bucket * sum(prices.server), prices.denominator)
    return (total - paid) / TICKS_PER_MS - costs.arrivals_ms


def _faults(costs: ServingCosts, prices: ServingPrices) -> list[str]:
    """What does not fit the instance."""
    n, buckets = len(costs.prompt), len(prices.server)
    faults = [
        f"{name}: found {len(getattr(prices, name))} buckets; server has {buckets}"
        for name in ("memory", "slots", "prompt_memory", "prompt_slots")
        if len(getattr(prices, name)) != buckets
    ]
    faults += [
        f"{name}: found {len(getattr(prices, name))} requests; the instance has {n}"
        for name in ("first", "decoding", "prompts")
        if len(getattr(prices, name)) != n
    ]
    if faults:
        return faults
    for i, (first, own, prompts) in enumerate(zip(prices.first, prices.decoding, prices.prompts, strict=True)):
        if len(own) != len(prompts) or first + len(own) > buckets:
            return [f"the own prices of request {i} (from 0) reach beyond the buckets or differ in number"]
    if (buckets + 1) * prices.bucket > LONGEST:
        return [f"reach beyond {LONGEST} ticks; prices are recomputed for so long a time"]
    if min(costs.arrival) < prices.start:
        return [f"start: found {prices.start}; allowed: at most the first arrival, {min(costs.arrival)}"]
    if n * buckets > MOST:
        return [f"{n} requests in {buckets} buckets; prices are recomputed for a product of {MOST}"]
    return []


def _uncovered(costs: ServingCosts, prices: ServingPrices) -> list[str]:
    """Buckets in which the prices are more than iterations cost."""
    words = "of bucket {} sum to more than what an iteration costs anyhow, times the price of the server's time"
    faults = []
    for name, common, own, fixed in (
        ("memory, slots and decoding", (prices.memory, prices.slots), prices.decoding, costs.base + costs.decode_base),
        ("prompt_memory, prompt_slots and prompts", (prices.prompt_memory, prices.prompt_slots), prices.prompts,
         costs.prefill_base),
    ):  # fmt: skip
        charged = [sum(column) for column in zip(*common, strict=True)]
        for first, some in zip(prices.first, own, strict=True):
            for b, price in enumerate(some, first):
                charged[b] += price
        above = [b for b, c in enumerate(charged) if c * COSTS_PER_MS > fixed * prices.server[b]]
        faults += [f"{name} {words.format(above[0])}"] if above else []
    return faults


class _Row(NamedTuple):
    """What the kernel is told of a request: times [tick], and factors as whole numbers with shifts to the right."""

    times: list[int]
    factors: list[tuple[int, int]]


def _units(costs: ServingCosts, prices: ServingPrices) -> int:
    """How fine rates are, as a power of two: less where much time is priced highly."""
    longest = max(costs.decoding) // COSTS_PER_TICK + prices.bucket
    charged = max(prices.server, default=0) * longest // prices.denominator
    return min(FINEST_UNITS, max(0, 55 - charged.bit_length()))


def _row(costs: ServingCosts, prices: ServingPrices, units: int, i: int) -> _Row:
    """What the kernel is told; 2^30 of a price in ms are 2^20 of the finest units in a tick."""
    s, d, unit, capacity, slots = costs.prompt[i], costs.decodes[i], prices.denominator, costs.capacity, costs.slots
    per_request, per_token, ms = costs.decode_per_request, costs.decode_per_kv_token, COSTS_PER_MS
    own_prefill = costs.prefill_per_token * s
    e, reading = costs.decoding[i] // COSTS_PER_TICK, own_prefill // COSTS_PER_TICK
    f = (costs.base + costs.prefill_base + (0 if costs.mixed else own_prefill)) // COSTS_PER_TICK
    times = [costs.arrival[i] - prices.start, costs.residence[i] // COSTS_PER_TICK, e, reading, f]
    decoding = [(0, 1)] * 7
    reach = e + prices.bucket
    finer, limit = 0, 0
    if e and d:  # what lasts less than a tick is not charged
        dearest = per_token * max(prices.server, default=0) * capacity + ms * max(prices.memory, default=0)
        growth = (d * d * dearest * reach << units) // (capacity * e * e * unit << FINEST_UNITS) + 1
        each = (d * d * max(per_token * capacity, ms) << units) // (capacity * e * e * unit << FINEST_UNITS)
        finer = min(FINEST, max(0, 60 - growth.bit_length()), max(0, 20 - each.bit_length()))
        limit = min(2**60 // reach, (2**57 << finer) // reach**2)
        twice = 2 * (s + costs.mixed) + 1
        decoding = [
            (per_request * d, e * unit), (ms * d, slots * e * unit), (ms * d, e * unit),
            (per_token * twice * d, 2 * e * unit), (ms * twice * d, 2 * capacity * e * unit),
            (per_token * d * d << finer, e * e * unit), (ms * d * d << finer, capacity * e * e * unit),
        ]  # fmt: skip
    prefill = [(0, 1)] * 6
    if f:
        fixed, held = max(1, costs.base + costs.decode_base), costs.prefilled[i]
        prefill = [
            (ms * held * costs.base, capacity * f * unit * fixed), (ms * held, capacity * f * unit),
            (ms * costs.base, slots * f * unit * fixed), (ms, slots * f * unit),
            (ms * costs.base, f * unit * fixed), (ms, f * unit),
        ]  # fmt: skip
    ratios = (*decoding, (COSTS_PER_TICK, unit), *prefill)
    return _Row([*times, finer, limit], [_factor(above << units, below << FINEST_UNITS) for above, below in ratios])


def _factor(numerator: int, denominator: int) -> tuple[int, int]:
    """A whole number below 2^21 and a shift to the right, together no more than the ratio."""
    shift = 20 - (numerator.bit_length() - denominator.bit_length())
    shift = min(LARGEST_SHIFT, max(0, shift))
    return min(2**21 - 1, (numerator << shift) // denominator), shift


def _ints(values: Iterable[int]) -> Ints:
    return np.array(list(values), dtype=np.int64)
