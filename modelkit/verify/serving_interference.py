"""The bound that requests' waiting for each other gives, in integer arithmetic; ``serving_costs`` has the symbols.

Let N(t) be the number of requests that have arrived and are not done; the total latency is F = int N dt. Nobody is done
but at the end of an iteration, so whoever is present at its beginning waits through all of it, and each millisecond of
it is base, p0 or b0, or some request's own work. N is nowhere below N_fast, the requests with a_i <= t < a_i + R_i; without
i itself that is N_i. Of the stays in which requests complete, let y_i be the end of i's last prefill iteration, e_i what
its decoding lasts at least, c_i = y_i + e_i + z_i, and x_i = y_i - r_i with r_i = base + p0 + p1 s_i, so x_i >= a_i.

*As delay*: F = sum (x_i - a_i) + r_i + e_i + z_i.

*As interference*, F is the sum over iterations of what their parts last times the average of N, which is at least

- for base and b0: how many of these requests the iteration serves, so b0 and base for each of a request's iterations;
- for i's own work: 1 and N_i. Prompts: the iterations in which i's prompt is read begin at or after a_i, and, counted
  backwards from y_i - base - p0, no later than its work p1 s_i that is left; with m the least N_i since a_i, they cost at
  least the integral of m over [x_i, x_i + p1 s_i]. Decoding: see below;
- for p0, in the iteration in which i's prompt is begun, at x' <= x_i: N(x') >= max(1, N_fast(x')).

With theta of the former and 1 - theta of the latter,

    F >= sum_i R_i - (1 - theta) n p0 + sum_i min_{x >= a_i} [ max(v_i, theta (x - a_i))
           + (1 - theta) ( int_x^{x + p1 s_i} m dt  +  q_i int_{x + r_i}^{x + r_i + e_i} min(N_i, cap_i) dt ) ]

for all v >= 0 with ``sum_{a_i <= x} (v_i - theta (x - a_i))^+ <= (1 - theta) p0 max(1, N_fast(x))`` at every x: those whose
prompts are begun together share that p0. It is enough to look where N_fast changes: in between the left side falls.

*Decoding.* An iteration in which i decodes holding k tokens lasts at least D = base + b0 + w, w = b1 + b2 k of it i's own, and
w / D grows with k. When i decodes without pause from y_i on, its work has at time t some density q(t) that only grows,
from q_i at the least, to q at its end. However its iterations are stretched, at each time it is no further, so the density is
at most q(t), and q after y_i + e_i. So of any 0 <= f <= cap, as much as the integral of (cap - f) q(t) over [y_i, y_i + e_i]
and cap q z_i are missing at most from cap times all work, and what remains is at least int f q(t) dt - cap q z_i. With
cap_i = theta / ((1 - theta) q) the last term is paid by the delay theta z_i.

The function to be minimised is, but for the larger of v_i and theta (x - a_i), continuous, and linear between the times
at which x, x + p1 s_i, x + r_i or x + r_i + e_i meet an arrival or an end a_j + R_j; those and the kink are looked at.
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

#: Densities are whole numbers of this part of 1, and so are numbers of requests of the part 2^-10.
DENSITY = 2**30
PART = 2**10
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
    n = len(costs.prompt)
    theta, rest = weights.delay_share, SHARE - weights.delay_share
    if len(weights.prefills) != n:
        words = f"{len(weights.prefills)} numbers for {n} requests"
        raise InputError("certificate", [Fault("$.interference.prefills", words)])
    if theta == 0:
        words = "found 0; without delay nothing is charged that waiting long does not avoid"
        raise InputError("certificate", [Fault("$.interference.delay_share", words)])
    order = sorted(range(n), key=costs.arrival.__getitem__)
    stays = Stays.of(costs, order)
    charged = [weights.prefills[i] for i in order]
    prefill_base = costs.prefill_base // COSTS_PER_TICK
    _check_prefills(stays, charged, theta, rest * prefill_base)
    waiting = _least_waiting(costs, order, stays, charged, theta)
    whole = SHARE * (sum(stays.prefill) + sum(stays.decoding)) + waiting
    whole -= rest * n * -(-costs.prefill_base // COSTS_PER_TICK)
    return Fraction(whole, SHARE * TICKS_PER_MS) + Fraction(sum(costs.arrival), TICKS_PER_MS) - costs.arrivals_ms


@dataclass(frozen=True)
class Stays:
    """Requests by arrival, and when how many are present at least; all rounded down [tick].

    Parameters
    ----------
    arrival, prefill, decoding, end
        a, r, e, and a + R.
    times
        When N_fast changes, ascending.
    present
        N_fast from each of them on.
    """

    arrival: list[int]
    prefill: list[int]
    decoding: list[int]
    end: list[int]
    times: list[int]
    present: list[int]

    @classmethod
    def of(cls, costs: ServingCosts, order: list[int]) -> Stays:
        """Of the requests in an order by arrival."""
        arrival = [costs.arrival[i] for i in order]
        end = [costs.arrival[i] + costs.residence[i] // COSTS_PER_TICK for i in order]
        changes: dict[int, int] = {}
        for a, b in zip(arrival, end, strict=True):
            changes[a] = changes.get(a, 0) + 1
            changes[b] = changes.get(b, 0) - 1
        times = sorted(changes)
        present = np.cumsum([changes[t] for t in times]).tolist()
        prefill, decoding = ([row[i] // COSTS_PER_TICK for i in order] for row in (costs.prefill, costs.decoding))
        return cls(arrival, prefill, decoding, end, times, present)


def _check_prefills(stays: Stays, charged: list[int], theta: int, budget: int) -> None:
    """Raise where prefills are charged more than ``budget`` for each request present [tick / 2^10]."""
    owing: list[int] = []  # v + theta a of those whose charge is not yet used up
    total, following = 0, 0
    for time, present in zip(stays.times, stays.present, strict=True):
        while following < len(charged) and stays.arrival[following] == time:
            key = SHARE * charged[following] + theta * time
            heappush(owing, key)
            total += key
            following += 1
        while owing and owing[0] <= theta * time:
            total -= heappop(owing)
        if total - theta * time * len(owing) > budget * max(1, present):
            words = f"charge more at {time / TICKS_PER_MS:.10g} ms than a prefill costs those who wait"
            raise InputError("certificate", [Fault("$.interference.prefills", words)])


def _least_waiting(costs: ServingCosts, order: list[int], stays: Stays, charged: list[int], theta: int) -> int:
    """Sum over requests of the least of their terms [tick / 2^10], rounded down."""
    from modelkit.verify import interference_kernel  # late: compiled code takes a while to load

    n = len(order)
    own = [costs.prefill_per_token * costs.prompt[i] // COSTS_PER_TICK for i in order]
    density, cap = zip(*(_density(costs, i, theta, n) for i in order), strict=True)
    longest = max(stays.end) + max(stays.prefill) + max(stays.decoding) + max(charged)
    largest = 2 * SHARE * PART * (longest + n * max(p + d for p, d in zip(own, stays.decoding, strict=True)))
    rows = (stays.arrival, own, stays.prefill, stays.decoding, stays.end, charged, list(density), list(cap))
    most = MOST_TIMES if largest < 2**61 else MOST_UNBOUNDED
    least = fitting(interference_kernel.least_terms, 2 * largest, *rows, stays.times, stays.present, theta, most)
    if least < 0:
        raise InputError("certificate", [Fault("$.interference", "has too many times to look at")])
    return int(least)


def _density(costs: ServingCosts, i: int, theta: int, n: int) -> tuple[int, int]:
    """q_i [2^-30] and cap_i [request / 2^10], both rounded down; a cap of all requests is none."""
    if not costs.decodes[i]:
        return 0, 0
    fixed = costs.base + costs.decode_base
    first, last = (
        costs.decode_per_request + costs.decode_per_kv_token * (costs.prompt[i] + j)
        for j in (1 + costs.mixed, costs.output[i])
    )
    if first == 0 or theta == SHARE:
        return 0, 0
    return DENSITY * first // (fixed + first), min(PART * n, PART * theta * (fixed + last) // ((SHARE - theta) * last))
