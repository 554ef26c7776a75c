"""The Lagrangian relaxation of the KV capacity, compiled: its bound, and a smooth bound below it.

For prices lambda_t >= 0 on rounds, starting i at k costs

    c_i(k) = k + o_i - a_i + sum_{j=1}^{o_i} lambda_{k+j} (s_i + j)
           = k + o_i - a_i + (s_i - k)(P[k+o_i] - P[k]) + Q[k+o_i] - Q[k]

with P and Q the cumulative sums of lambda_t and t lambda_t, and L(lambda) = sum_i min_k c_i(k) - M sum_t lambda_t
is a lower bound. With the minimum made smooth at temperature tau,

    L_tau(lambda) = sum_i -tau log sum_k exp(-c_i(k) / tau) - M sum_t lambda_t  <=  L(lambda),

whose gradient in round t is the excess over M of the tokens held when i starts at k with probability
proportional to exp(-c_i(k) / tau).

Since prices are not negative, ``c_i(k) >= k + o_i - a_i``: starts later than any known cost of i need not be
looked at. That keeps every request inside its busy period. Of those, whole blocks are passed over, large ones and the
small ones in them: with m_t the least of the next B prices, a start d < B rounds after k pays at least
``sum_j m_{k+j} (s_i + j)``.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modelkit.instance import Instance
from modelkit.runtime.kernel import kernel
from modelkit.runtime.threads import blocks, share_work

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Shares of the requests that are summed apart; fixed, so that sums do not depend on the machine.
SHARES = 4
#: From this number of starts on, threads share the work.
MUCH = 2_000_000
#: Starts that are passed over together at first, a power of two.
LARGE = 1024
#: Starts that are passed over together among those that are left, a power of two.
BLOCK = 64
#: Costs closer than this may be in either order, as they are computed [round].
CLOSE = 1e-6
#: The same as a share of the sums in them.
ROUNDING = 1e-12
#: Starts that cost more than the least by this many temperatures have no weight.
COLD = 14.0


class Sums(NamedTuple):
    """P and Q of some prices."""

    p: Any
    q: Any


class Lowered(NamedTuple):
    """Sums of the prices, and of the least of the next BLOCK and of the next LARGE of them."""

    exact: Sums
    block: Sums
    large: Sums


class Changes(NamedTuple):
    """By how much the tokens held grow and jump in each round, by share; shape [shares, rounds]."""

    slope: Any
    jump: Any


class Requests(NamedTuple):
    """Some of the requests, and the starts that are looked at; arrays of shape [n].

    Parameters
    ----------
    first, last
        Starts.
    limit
        Highest cost of interest.
    """

    arrival: Any
    prompt: Any
    output: Any
    first: Any
    last: Any
    limit: Any


class Relaxation:
    """The relaxation of one instance with prices on rounds 1 .. ``rounds``.

    Parameters
    ----------
    instance
        Unit clock, KV capacity, no slots.
    rounds
        Last round with a price; no start later than it is ever cheapest.
    """

    def __init__(self, instance: Instance, rounds: int) -> None:
        arrays = instance.arrays
        assert instance.server.kv_capacity_tokens is not None
        self.capacity: float = instance.server.kv_capacity_tokens
        self.arrival, self.prompt, self.output = arrays.arrival, arrays.prompt, arrays.output
        self.rounds = rounds
        self.size = max(rounds, int(self.arrival.max())) + int(self.output.max()) + 3
        self._slope = np.zeros((SHARES, self.size))
        self._jump = np.zeros((SHARES, self.size))

    def sums(self, prices: Floats) -> Sums:
        """P and Q of prices on rounds 1 .. ``rounds``."""
        p, q = np.empty(self.size), np.empty(self.size)
        _cumulate(prices, p, q)
        return Sums(p, q)

    def searched(self, part: slice, first: Ints, last: Ints, limit: Floats) -> Requests:
        """The requests of a part, with the starts that are looked at."""
        rows = (self.arrival, self.prompt, self.output, first, last, limit)
        return Requests(*(row[part] for row in rows))

    def least_ahead(self, prices: Floats) -> tuple[Floats, Floats]:
        """The least of the next BLOCK prices, and of the next LARGE, from each round on."""
        least, reach = np.append(prices, np.zeros(LARGE)), 1
        while reach < LARGE:
            if reach == BLOCK:
                some = least.copy()
            least[:-reach] = np.minimum(least[:-reach], least[reach:])
            reach *= 2
        return some[: self.rounds], least[: self.rounds]

    def costs(self, starts: Ints, p: Floats, q: Floats) -> Floats:
        """Cost of one start of each request; shape [n]."""
        ends = starts + self.output
        return np.asarray(
            (self.prompt - starts) * (p[ends] - p[starts]) + (q[ends] - q[starts]) + (ends - self.arrival)
        )

    def latest(self, prices: Floats, hint: Ints, slack: float = 0.0) -> Ints:
        """Last start of each request that may cost at most the ``hint``'s cost plus ``slack``; shape [n]."""
        known = self.costs(hint, *self.sums(prices)) + slack + CLOSE
        last = np.floor(np.minimum(known, 2.0**60)).astype(np.int64) + self.arrival - self.output
        return np.asarray(np.maximum(self.arrival, np.minimum(np.maximum(self.rounds, self.arrival), last)))

    def bound(self, prices: Floats, hint: Ints) -> tuple[float, Ints]:
        """L and the cheapest start of each request, over all starts. O(n T) at worst."""
        p, q = self.sums(prices)
        sums = Lowered(Sums(p, q), *(self.sums(least) for least in self.least_ahead(prices)))
        close = CLOSE + ROUNDING * self.size * float(p[-1])
        known = self.costs(hint, p, q) + close
        cheapest = np.empty(len(self.output), dtype=np.int64)
        least = np.empty(len(self.output))
        latest = self.latest(prices, hint)
        work = int((latest - self.arrival).sum())
        share_work(
            blocks(len(least)) if work > MUCH else [(slice(None),)],
            lambda part: _find_cheapest(
                sums, self.searched(part, self.arrival, latest, known), close, cheapest[part], least[part]
            ),
        )
        return float(least.sum()) - self.capacity * float(prices.sum()), cheapest

    def near(self, prices: Floats, hint: Ints, slack: float) -> tuple[Ints, Ints]:
        """First and last start of each request that costs at most the ``hint``'s cost plus ``slack``; shape [n]."""
        sums = Lowered(self.sums(prices), *(self.sums(least) for least in self.least_ahead(prices)))
        known = self.costs(hint, *sums.exact) + slack + CLOSE
        first, last = self.arrival.copy(), self.latest(prices, hint, slack)
        share_work(
            blocks(len(first)),
            lambda part: _narrow(sums, self.searched(part, first, last, known)),
        )
        return first, last

    def sample(self, chosen: Ints) -> Relaxation:
        """The relaxation of some of the requests with their share of the capacity."""
        few = copy(self)
        few.arrival, few.prompt, few.output = self.arrival[chosen], self.prompt[chosen], self.output[chosen]
        few.capacity = self.capacity * len(chosen) / len(self.output)
        return few

    def smooth(self, prices: Floats, temperature: float, first: Ints, last: Ints, stride: Ints) -> Smooth:
        """L_tau and what comes with it, over every ``stride``-th start from ``first`` to ``last``."""
        n = len(self.output)
        sums = self.sums(prices)
        values, mean = np.empty(n), np.empty(n)
        # handing little work to threads takes longer than doing it
        shares = SHARES if int(((last - first) // stride).sum()) > MUCH else 1
        slope, jump = self._slope[:shares], self._jump[:shares]
        share_work(
            [(slice(share, None, shares), slice(share, share + 1)) for share in range(shares)],
            lambda part, share: _smooth(
                sums, self.searched(part, first, last, values), stride[part], temperature,
                Changes(slope[share], jump[share]), mean[part],
            ),
        )  # fmt: skip
        excess = np.empty(self.rounds)
        _held(slope, jump, excess)
        excess -= self.capacity
        return Smooth(float(values.sum()) - self.capacity * float(prices.sum()), excess, mean)


@dataclass(frozen=True)
class Smooth:
    """The smooth bound at some prices.

    Parameters
    ----------
    value, excess
        L_tau and its gradient, shape [rounds].
    mean
        Mean start of each request, shape [n].
    """

    value: float
    excess: Floats
    mean: Floats


@kernel
def _cumulate(prices: Any, p: Any, q: Any) -> None:
    """P and Q of prices on rounds 1, 2, ..., also behind the last of them."""
    p[0] = q[0] = 0.0
    for t in range(1, len(p)):
        price = prices[t - 1] if t <= len(prices) else 0.0
        p[t] = p[t - 1] + price
        q[t] = q[t - 1] + price * t


@kernel
def _held(slope: Any, jump: Any, held: Any) -> None:
    """Tokens held in rounds 1, 2, ... from how much their number and its growth change in each."""
    tokens, growth = 0.0, 0.0
    for t in range(len(held) + 1):
        for share in range(len(slope)):
            growth += slope[share, t]
            tokens += jump[share, t]
        tokens += growth
        if t:
            held[t - 1] = tokens


@kernel
def _find_cheapest(sums: Lowered, requests: Requests, close: float, cheapest: Any, least: Any) -> None:
    """The cheapest start of each request, and its cost."""
    p, q = sums.exact.p, sums.exact.q
    block_p, block_q, large_p, large_q = sums.block.p, sums.block.q, sums.large.p, sums.large.q
    for i in range(len(requests.output)):
        s, o, last = requests.prompt[i], requests.output[i], requests.last[i]
        wait = o - requests.arrival[i]
        low, where, most = np.inf, requests.first[i], requests.limit[i]
        for a in range(requests.first[i], last + 1, LARGE):
            if (s - a) * (large_p[a + o] - large_p[a]) + (large_q[a + o] - large_q[a]) + (a + wait) > most:
                continue
            for b in range(a, min(a + LARGE, last + 1), BLOCK):
                if (s - b) * (block_p[b + o] - block_p[b]) + (block_q[b + o] - block_q[b]) + (b + wait) > most:
                    continue
                for k in range(b, min(b + BLOCK, last + 1)):
                    cost = (s - k) * (p[k + o] - p[k]) + (q[k + o] - q[k]) + (k + wait)
                    if cost < low:
                        low, where = cost, k
                most = min(most, low + close)
        cheapest[i], least[i] = where, low


@kernel
def _narrow(sums: Lowered, requests: Requests) -> None:
    """Narrow the first and last starts of each request to those that cost at most its limit."""
    p, q, large_p, large_q = sums.exact.p, sums.exact.q, sums.large.p, sums.large.q
    for i in range(len(requests.output)):
        s, o, most = requests.prompt[i], requests.output[i], requests.limit[i]
        wait = o - requests.arrival[i]
        begin, end = requests.first[i], requests.last[i]
        for way in (1, -1):  # from the first start on, then back from the last
            found = False
            for a in range(begin, end + 1, LARGE) if way > 0 else range(end, begin - 1, -LARGE):
                c = a if way > 0 else max(begin, a - LARGE + 1)
                if (s - c) * (large_p[c + o] - large_p[c]) + (large_q[c + o] - large_q[c]) + (c + wait) > most:
                    continue
                for k in range(c, min(c + LARGE, end + 1)) if way > 0 else range(a, c - 1, -1):
                    if (s - k) * (p[k + o] - p[k]) + (q[k + o] - q[k]) + (k + wait) <= most:
                        found = True
                        break
                if found:
                    break
            if found and way > 0:
                requests.first[i] = k
            elif found:
                requests.last[i] = k


@kernel
def _smooth(sums: Sums, requests: Requests, stride: Any, temperature: float, changes: Changes, mean: Any) -> None:
    """The smooth minimum of each request, which takes the place of its limit, its mean start, and what it holds."""
    p, q, slope, jump = sums.p, sums.q, changes.slope, changes.jump
    first, last, values = requests.first, requests.last, requests.limit
    n = len(requests.output)
    for share in range(len(slope)):
        slope[share] = 0.0
        jump[share] = 0.0
        longest = 0
        for i in range(share, n, len(slope)):
            longest = max(longest, (last[i] - first[i]) // stride[i] + 1)
        weights = np.empty(longest)
        for i in range(share, n, len(slope)):
            s, o, begin, step = requests.prompt[i], requests.output[i], first[i], stride[i]
            wait = o - requests.arrival[i]
            count = (last[i] - begin) // step + 1
            low = np.inf
            for c in range(count):
                k = begin + c * step
                cost = (s - k) * (p[k + o] - p[k]) + (q[k + o] - q[k]) + (k + wait)
                weights[c] = cost
                low = min(low, cost)
            warm = low + COLD * temperature
            total, moment = 0.0, 0.0
            left, right = -1, 0
            for c in range(count):
                cost = weights[c]
                weights[c] = 0.0
                if cost <= warm:
                    if left < 0:
                        left = c
                    right = c
                    weights[c] = np.exp((low - cost) / temperature)
                    total += weights[c]
                    moment += weights[c] * c
            mean[i] = begin + step * moment / total
            values[i] = low - temperature * np.log(total)
            for c in range(left, right + 1):
                if weights[c] > 0.0:
                    k, w = begin + c * step, weights[c] / total
                    slope[share, k + 1] += w
                    slope[share, k + o + 1] -= w
                    jump[share, k + 1] += w * s
                    jump[share, k + o + 1] -= w * (s + o)
