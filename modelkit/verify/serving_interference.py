"""The bound that requests' waiting for each other gives, in integer arithmetic; ``serving_costs`` has the symbols.

Every request has a share theta_i. Let N(t) be the sum of 1 - theta_i over the requests that have arrived and are not
done. Nobody is done but at the end of an iteration, so whoever is present at its beginning waits through all of it, and
each millisecond of it is base, p0 or b0, or some request's own work. N is nowhere below N_fast, over the requests with
a_i <= t < a_i + R_i; without i itself these are N_i. Of the residencies in which requests complete, let y_i be the end
of i's last prefill iteration, e_i what its decoding lasts at least, c_i = y_i + e_i + z_i, and x_i = y_i - r_i with
r_i = base + p0 + p1 s_i, so that x_i >= a_i.

*As delay*, the latency of i is (x_i - a_i) + r_i + e_i + z_i; theta_i of it is counted so.

*As interference*, the rest of all latencies, int N dt, is the sum over iterations of what their parts last times the
average of N, which is at least

- for base and b0: the sum over the requests that the iteration serves, so 1 - theta_i of each of i's iterations;
- for i's own work: 1 - theta_i, and N_i. Prompts: the iterations in which i's prompt is read begin at or after a_i and,
  counted backwards from y_i - base - p0, no later than its work p1 s_i that is left; with m the least N_i since a_i,
  they cost at least the integral of m over [x_i, x_i + p1 s_i]. Decoding: see below;
- for p0: it is shared by those whose prompts are begun in the iteration, at x' <= x_i: N(x') is at least N_fast(x'),
  and at least the sum of their 1 - theta_i.

Together, the total latency F has

    F >= sum_i [ R_i - (1 - theta_i) p0 ] + sum_i min_{x >= a_i} [ max(v_i, theta_i (x - a_i))
           + int_x^{x + p1 s_i} m dt  +  q_i int_{x + r_i}^{x + r_i + e_i} min(N_i, cap_i) dt ]

for all v >= 0 for which at every x the rests ``(v_i - theta_i (x - a_i))^+`` of the requests with a_i <= x either sum
to at most p0 N_fast(x), or are at most (1 - theta_i) p0 each. It is enough to look where N_fast changes: in between
they fall.

*Decoding.* An iteration in which i decodes holding k tokens lasts at least D = base + b0 + w, w = b1 + b2 k of it i's
own, and w / D grows with k. When i decodes without pause from y_i on, its work has at time t some density q(t) that
only grows, from q_i at the least, to q at its end. However its iterations are stretched, at each time it is no
further, so the density is at most q(t), and q after y_i + e_i. So of any 0 <= f <= cap, as much as the integral of
(cap - f) q(t) over [y_i, y_i + e_i] and cap q z_i are missing at most from cap times all work, and what remains is at
least int f q(t) dt - cap q z_i. With cap_i = theta_i / q the last term is paid by the delay theta_i z_i.

*Pauses.* In an iteration between two of its own i does nothing, as if the earlier one were stretched: what is said of
e_i, z_i and q(t) stands.

The function to be minimised is, but for the larger of v_i and theta_i (x - a_i), continuous, and linear between the
times at which x, x + p1 s_i, x + r_i or x + r_i + e_i meet an arrival or an end a_j + R_j; those and the kink are
looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from heapq import heappop, heappush

import numpy as np

from modelkit.certificate import SHARE, TICKS_PER_MS, Interference
from modelkit.errors import Fault, InputError
from modelkit.instance import Instance
from modelkit.verify.serving_costs import COSTS_PER_TICK, ServingCosts
from modelkit.verify.serving_work import fitting

#: Densities are whole numbers of this part of 1.
DENSITY = 2**30
#: Times that are looked at; a quarter of a minute, or the same where numbers are beyond 64 bits.
MOST_TIMES, MOST_UNBOUNDED = 10**9, 10**7


def interference_bound(instance: Instance, weights: Interference) -> Fraction:
    """The bound on the total latency [ms].

    Raises
    ------
    InputError
        The clock is not linear, prefills are charged more than they cost, or there is too much to look at.
    """
    costs = ServingCosts.of(instance)
    if costs.replicas > 1:
        words = "is of one server: requests on other replicas wait for nobody's iterations"
        raise InputError("certificate", [Fault("$.interference", words)])
    n = len(costs.prompt)
    for name, found in (("delay_shares", weights.delay_shares), ("prefills", weights.prefills)):
        if len(found) != n:
            raise InputError("certificate", [Fault(f"$.interference.{name}", f"{len(found)} numbers for {n} requests")])
    order = sorted(range(n), key=costs.arrival.__getitem__)
    shares, charged = ([row[i] for i in order] for row in (weights.delay_shares, weights.prefills))
    residences = Residences.of(costs, order, shares)
    _check_prefills(residences, shares, charged, costs.prefill_base // COSTS_PER_TICK)
    waiting = _least_waiting(costs, order, residences, shares, charged)
    whole = SHARE * (sum(residences.prefill) + sum(residences.decoding)) + waiting
    whole -= sum(SHARE - share for share in shares) * -(-costs.prefill_base // COSTS_PER_TICK)
    return Fraction(whole, SHARE * TICKS_PER_MS) + Fraction(sum(costs.arrival), TICKS_PER_MS) - costs.arrivals_ms


@dataclass(frozen=True)
class Residences:
    """Requests by arrival, and who is present at least when; times are rounded down [tick].

    Parameters
    ----------
    arrival, prefill, decoding, end
        a, r, e, and a + R.
    times
        When N_fast changes, ascending.
    present
        N_fast from each of them on [2^-10].
    """

    arrival: list[int]
    prefill: list[int]
    decoding: list[int]
    end: list[int]
    times: list[int]
    present: list[int]

    @classmethod
    def of(cls, costs: ServingCosts, order: list[int], shares: list[int]) -> Residences:
        """Of the requests in an order by arrival, with their shares of delay in that order [2^-10]."""
        arrival = [costs.arrival[i] for i in order]
        end = [costs.arrival[i] + costs.residence[i] // COSTS_PER_TICK for i in order]
        changes: dict[int, int] = {}
        for a, b, share in zip(arrival, end, shares, strict=True):
            changes[a] = changes.get(a, 0) + SHARE - share
            changes[b] = changes.get(b, 0) - SHARE + share
        times = sorted(changes)
        present = np.cumsum([changes[t] for t in times]).tolist()
        prefill, decoding = ([row[i] // COSTS_PER_TICK for i in order] for row in (costs.prefill, costs.decoding))
        return cls(arrival, prefill, decoding, end, times, present)


def _check_prefills(residences: Residences, shares: list[int], charged: list[int], prefill_base: int) -> None:
    """Raise where prefills are charged more than the fixed cost of one [tick] for those who wait."""
    owing: list[tuple[int, int]] = []  # those whose charge is not yet used up: until when, and who
    whole = slope = following = 0
    for time, present in zip(residences.times, residences.present, strict=True):
        while following < len(charged) and residences.arrival[following] == time:
            share, charge = shares[following], charged[following]
            until = time - (-SHARE * charge // share) if share else 2**200
            heappush(owing, (until, following))
            whole, slope = whole + SHARE * charge + share * time, slope + share
            following += 1
        while owing and owing[0][0] <= time:
            i = heappop(owing)[1]
            whole, slope = whole - SHARE * charged[i] - shares[i] * residences.arrival[i], slope - shares[i]
        if whole - slope * time > prefill_base * present:
            rests = ((i, SHARE * charged[i] - shares[i] * (time - residences.arrival[i])) for _, i in owing)
            if any(rest > (SHARE - shares[i]) * prefill_base for i, rest in rests):
                words = f"charge more at {time / TICKS_PER_MS:.10g} ms than a prefill costs those who wait"
                raise InputError("certificate", [Fault("$.interference.prefills", words)])


def _least_waiting(
    costs: ServingCosts, order: list[int], residences: Residences, shares: list[int], charged: list[int]
) -> int:
    """Sum over requests of the least of their terms [tick / 2^10], rounded down."""
    from modelkit.verify import interference_kernel  # late: compiled code takes a while to load

    n = len(order)
    own = [costs.prefill_per_token * costs.prompt[i] // COSTS_PER_TICK for i in order]
    density, cap = zip(*(_density(costs, i, share, n) for i, share in zip(order, shares, strict=True)), strict=True)
    longest = max(residences.end) + max(residences.prefill) + max(residences.decoding) + max(charged)
    largest = 4 * SHARE * (longest + n * max(p + d for p, d in zip(own, residences.decoding, strict=True)))
    rows = (
        residences.arrival,
        own,
        residences.prefill,
        residences.decoding,
        residences.end,
        shares,
        charged,
        list(density),
        list(cap),
    )
    most = MOST_TIMES if largest < 2**61 else MOST_UNBOUNDED
    least = fitting(interference_kernel.least_terms, largest, *rows, residences.times, residences.present, most)
    if least < 0:
        raise InputError("certificate", [Fault("$.interference", "has too many times to look at")])
    return int(least)


def _density(costs: ServingCosts, i: int, share: int, n: int) -> tuple[int, int]:
    """q_i [2^-30] and cap_i [2^-10], both rounded down; a cap of all requests is none."""
    if not costs.decodes[i]:
        return 0, 0
    fixed = costs.base + costs.decode_base
    first, last = (
        costs.decode_per_request + costs.decode_per_kv_token * (costs.prompt[i] + j)
        for j in (1 + costs.mixed, costs.output[i])
    )
    return (DENSITY * first // (fixed + first), min(SHARE * n, share * (fixed + last) // last)) if first else (0, 0)
