"""The bound on total latency that prices on rounds give, in integer arithmetic; unit clock."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from modelkit.certificate import Prices
from modelkit.errors import Fault, InputError
from modelkit.instance import Instance
from modelkit.judge.prefixes import unshared
from modelkit.runtime.threads import blocks, share_work

#: Rounds for which prices are recomputed; 32 bytes of memory each. Two weeks in rounds of 55 ms have as many.
MOST_ROUNDS = 22_000_000
#: From this number of starts on, threads share the work.
MUCH = 2_000_000
#: Requests times rounds up to which prices beyond 64 bits are recomputed; some ten seconds.
MOST_UNBOUNDED = 10**8


def exact_bound(instance: Instance, prices: Prices) -> Fraction:
    """L at these prices, exactly.

    O(n T) for T rounds up to the last price: with P and Q the cumulative sums of n_t and t n_t,
    ``sum_j n_{k+j} (s + j) = (s - k)(P[k+o] - P[k]) + Q[k+o] - Q[k]``. Without a capacity only the
    empty prices bound anything. Slots are passed over: without them there are more schedules, never fewer.
    R replicas count as one server with R times the memory: rounds begin together everywhere, so what they hold in a
    round sums to R M at most, and every schedule of theirs is one of that server.

    Of what requests share the first to arrive of a group pays for all and the others for nothing
    (`modelkit.judge.prefixes.unshared`).

    Where requests may be paused, the bound holds for prices that never rise from round 1 on. The j-th of the o rounds
    in which a request that completes at c makes its tokens is round c - o + j or an earlier one, which costs no less;
    so it pays no less than without pauses, started at c - o. (What paused requests hold is paid beside that.) At prices
    that rise it may pay less: it can pass over the dear rounds.

    Raises
    ------
    InputError
        The clock of the instance is not the unit clock, rounds and numerators do not match, or prices rise where
        requests may be paused.
    """
    instance = unshared(instance, once=True)
    server, arrays = instance.server, instance.arrays
    capacity = None if server.kv_capacity_tokens is None else server.replicas * server.kv_capacity_tokens
    last = prices.rounds[-1] if prices.rounds else 0
    faults = []
    if not instance.is_unit:
        faults.append(Fault("$", "kv-prices bound instances with the unit clock"))
    elif capacity is None and prices.rounds:
        faults.append(Fault("$.prices", "the instance has no KV capacity, so there is nothing to price"))
    elif last > int(arrays.arrival.max()) + int(arrays.output.sum()):
        faults.append(Fault("$.prices.rounds", f"found {last}; no schedule without idle time is that long"))
    if len(prices.rounds) != len(prices.numerators):
        faults.append(Fault("$.prices", f"{len(prices.rounds)} rounds, but {len(prices.numerators)} numerators"))
    if instance.server.pause is not None and _rise(prices):
        faults.append(Fault("$.prices", "rise, and so bound nothing where requests may be paused"))
    if any(b <= a for a, b in zip(prices.rounds, prices.rounds[1:], strict=False)):
        faults.append(Fault("$.prices.rounds", "are not increasing"))
    if faults:
        raise InputError("certificate", faults)
    denominator, total = prices.denominator, sum(prices.numerators)
    costs = _least_costs(instance, prices)
    return Fraction(costs - (capacity or 0) * total, denominator)


def _rise(prices: Prices) -> bool:
    """Whether some round has a higher price than one before it."""
    gapless = prices.rounds == list(range(1, len(prices.rounds) + 1))
    return not gapless or any(b > a for a, b in zip(prices.numerators, prices.numerators[1:], strict=False))


def _least_costs(instance: Instance, prices: Prices) -> int:
    """Sum over requests of the least cost of a start, times the denominator."""
    arrays = instance.arrays
    denominator, output = prices.denominator, arrays.output
    if not prices.rounds:
        return denominator * int(output.sum())
    arrival, rounds = _without_free_rounds(arrays.arrival, int(output.max()), np.array(prices.rounds))
    last = int(rounds[-1])
    latest = last + int(output.max()) + 1
    if latest > MOST_ROUNDS:
        raise InputError("certificate", [Fault("$", f"{latest:,} rounds; prices are recomputed for {MOST_ROUNDS:,}")])
    # no cost is above: what the dearest rounds of one request charge, and the latency
    longest, peak = int(output.max()), int(arrays.peak.max())
    dearest = min(sum(prices.numerators), longest * max(prices.numerators))
    if dearest * peak + denominator * latest < 2**63:
        from modelkit.verify.kv_costs import cumulative, least_costs  # late: compiled code takes a while to load

        priced = np.zeros(latest + 1, dtype=np.int64)
        priced[rounds] = prices.numerators
        sums = cumulative(priced)
        least = np.empty(len(output), dtype=np.int64)
        share_work(
            blocks(len(output)) if len(output) * last > MUCH else [(slice(None),)],
            lambda part: least_costs(
                sums, arrival[part], arrays.prompt[part], output[part], last, denominator, least[part]
            ),
        )
        return sum(least.tolist())
    # Python's unbounded integers: slower, and needed only for absurd prices
    if len(output) * latest > MOST_UNBOUNDED:
        raise InputError("certificate", [Fault("$.prices", "are too high to be recomputed for this many rounds")])
    unbounded = np.zeros(latest + 1, dtype=object)
    unbounded[rounds] = prices.numerators
    p = np.cumsum(unbounded)
    q = np.cumsum(unbounded * np.arange(latest + 1).astype(object))
    costs = 0
    for a, s, o in zip(arrival.tolist(), arrays.prompt.tolist(), output.tolist(), strict=True):
        k = np.arange(a, max(a, last) + 1).astype(object)
        begin, end = slice(a, a + len(k)), slice(a + o, a + o + len(k))
        cost = (s - k) * (p[end] - p[begin]) + (q[end] - q[begin]) + denominator * (k + (o - a))
        costs += int(cost.min())
    return costs


def _without_free_rounds(
    arrival: np.ndarray[Any, Any], longest: int, rounds: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Arrivals and rounds with a price, when long stretches of rounds without are cut down; no least cost changes.

    Of a stretch of more than 2 l free rounds, l the longest output, the first l and the last l are kept. A request
    that arrives between them or after the last price runs free of charge at once, before the cut and after it; one that
    arrives before finds its first free start within the first l, and a later start costs more; one that arrives later
    still sees the same rounds.
    """
    ends = np.concatenate([[0], rounds])
    cut = np.maximum(0, np.diff(ends) - 1 - 2 * longest)
    removed = np.cumsum(cut)
    begin, end = ends[:-1] + longest, ends[:-1] + longest + cut  # rounds begin + 1 .. end are taken out
    early = np.minimum(arrival, ends[-1])
    stretch = np.maximum(0, np.searchsorted(begin, early, side="right") - 1)
    after = np.where(begin[stretch] <= early, np.minimum(early, end[stretch]) - begin[stretch], 0)
    before = removed[stretch] - cut[stretch]
    inside = np.where(cut[stretch] > 0, np.minimum(after, cut[stretch]), 0)
    return early - before - inside, rounds - removed
