"""Compiled parts of the ascent of prices on time; ``prices`` says what they compute.

Prices of request i in bucket b, before the running minimum:

    X = b1 pi + slots/J + rho_i          an iteration of decoding        Y = b2 pi + memory/M      a token held in it
    P = pi                               a millisecond of the prompt
    F = ((s+1)/M) (prompt_memory + theta memory) + (prompt_slots + theta slots)/J + rho2_i + theta rho_i   the prefill
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from modelkit.problems.serving.share_kernels import Own
from modelkit.runtime.kernel import kernel

#: Rows of prices on buckets, and of their gradient.
SERVER, MEMORY, SLOTS, PROMPT_MEMORY, PROMPT_SLOTS = range(5)
#: Columns of what is known of each request.
ARRIVAL, RESIDENCE, DECODING, EACH, PROMPT, PREFILL, TOKENS, HELD = range(8)
#: Entries of the law.
PER_REQUEST, PER_TOKEN, THETA, PER_CAPACITY, PER_SLOT = range(5)
#: Candidates that cost more than the least by this many temperatures weigh nothing.
WIDTH = 30.0


class Prices(NamedTuple):
    """Common ones, shape [rows, buckets], and own ones; or the gradient by them."""

    common: Any
    decoding: Any
    prompts: Any


class Terms(NamedTuple):
    """What is known of each request, of the server, and the length of a bucket [ms]."""

    facts: Any
    law: Any
    height: float


class Look(NamedTuple):
    """Buckets from the arrival on in which completions are looked at, shape [n], and the temperature."""

    limit: Any
    temperature: float


class Span(NamedTuple):
    """A number of buckets from ``low`` on."""

    low: int
    buckets: int


class Sums(NamedTuple):
    """Running minima of prices, and their integrals up to each bucket's beginning."""

    run: Any
    upto: Any


class Found(NamedTuple):
    """Completions, and what they cost."""

    xs: Any
    ks: Any


class Adjoint(NamedTuple):
    """Where running minima come from, and the gradient by their integrals: up to a bucket, and within it."""

    where: Any
    jump: Any
    part: Any


@kernel
def _running(price: Any, least: Any, where: Any, upto: Any, height: float) -> None:
    """Running minimum, the bucket that it comes from, and its integral up to each bucket's beginning."""
    low, at, total = np.inf, 0, 0.0
    for b in range(len(price)):
        if price[b] < low:
            low, at = price[b], b
        least[b], where[b], upto[b] = low, at, total
        total += low * height


@kernel
def _upto(least: Any, upto: Any, b: int, off: float) -> float:
    return upto[b] + least[b] * off  # type: ignore[no-any-return]


@kernel
def _moment(least: Any, upto: Any, b: int, off: float, height: float) -> float:
    return upto[b] + least[b] * off * (b * height + off / 2)  # type: ignore[no-any-return]


@kernel
def _credit(jump: Any, part: Any, x: float, weight: float, height: float) -> None:
    """Adjoint of `_upto`."""
    b = min(max(0, math.floor(x / height)), len(jump) - 1)
    jump[b] += weight
    part[b] += weight * (x - b * height)


@kernel
def _credit_moment(jump: Any, part: Any, x: float, weight: float, height: float) -> None:
    """Adjoint of `_moment`."""
    b = min(max(0, math.floor(x / height)), len(jump) - 1)
    u = b * height
    jump[b] += weight
    part[b] += weight * (x * x - u * u) / 2


@kernel
def _price(i: int, terms: Terms, where: Own, given: Prices, span: Span, price: Any) -> None:
    """X, Y, P and F of request i in each bucket of a span."""
    facts, law, _ = terms
    first, begin = where
    prices, decoding, prompts = given
    low, count = span
    per_token, per_prompt = 1.0 / law[PER_CAPACITY], facts[i, TOKENS] / law[PER_CAPACITY]
    for k in range(count):
        b = low + k
        if b >= prices.shape[1]:
            price[:, k] = 0.0
            continue
        pi, memory, slots = prices[SERVER, b], prices[MEMORY, b], prices[SLOTS, b] / law[PER_SLOT]
        own = own_prompt = 0.0
        j = begin[i] + b - first[i]
        if begin[i] <= j < begin[i + 1]:
            own, own_prompt = decoding[j], prompts[j]
        price[0, k] = law[PER_REQUEST] * pi + slots + own
        price[1, k] = law[PER_TOKEN] * pi + memory * per_token
        price[2, k] = pi
        price[3, k] = (
            per_prompt * (prices[PROMPT_MEMORY, b] + law[THETA] * memory)
            + prices[PROMPT_SLOTS, b] / law[PER_SLOT] + law[THETA] * slots + own_prompt + law[THETA] * own
        )  # fmt: skip


@kernel
def _candidates(fact: Any, height: float, count: int, sums: Sums, within: float, into: Found) -> int:
    """Completions from the first bucket's beginning on at which K may be least, and K above the arrival there.

    Between two moments at which one of its intervals has an end on a bucket's border K is a convex quadratic, whose
    least point is one of them. Those beyond the least K so far and ``within`` are left out.
    """
    run, upto = sums
    xs, ks = into
    decode, each, held = fact[DECODING], fact[EACH], fact[HELD]
    prefill = fact[PREFILL]
    begins = fact[ARRIVAL] - math.floor(fact[ARRIVAL] / height) * height
    x = begins + fact[RESIDENCE]
    at, off = np.empty(4, np.int64), np.empty(4)  # of C, st, st - p1 s and st - the prefill's fixed part
    for p in range(4):
        y = x - (0.0 if p == 0 else decode + (fact[PROMPT] if p == 2 else prefill if p == 3 else 0.0))
        at[p] = max(0, math.floor(y / height))
        off[p] = y - at[p] * height
    best, found = np.inf, 0
    while x - begins < best + within and at[0] < count - 1:
        k, slope, curve = x - begins, 1.0, 0.0
        if each > 0:
            st = x - decode
            tokens = _upto(run[1], upto[1], at[0], off[0]) - _upto(run[1], upto[1], at[1], off[1])
            moment = _moment(run[1], upto[4], at[0], off[0], height) - _moment(run[1], upto[4], at[1], off[1], height)
            later, sooner = run[1, at[0]], run[1, at[1]]
            k += (
                _upto(run[0], upto[0], at[0], off[0]) - _upto(run[0], upto[0], at[1], off[1])
                + held * tokens + (moment - st * tokens) / each
            ) / each  # fmt: skip
            curve = (sooner - later) / (each * each)
            slope += (
                run[0, at[0]] - run[0, at[1]] + held * (later - sooner) + (decode * later - tokens) / each
            ) / each  # fmt: skip
        k += _upto(run[2], upto[2], at[1], off[1]) - _upto(run[2], upto[2], at[2], off[2])
        slope += run[2, at[1]] - run[2, at[2]]
        if prefill > 0:
            k += (_upto(run[3], upto[3], at[1], off[1]) - _upto(run[3], upto[3], at[3], off[3])) / prefill
            slope += (run[3, at[1]] - run[3, at[3]]) / prefill
        ahead = height
        for p in range(4):
            ahead = min(ahead, height - off[p])
        step = 0.0
        if slope < 0:
            step = ahead if curve <= 0 else min(ahead, -slope / curve)
        if slope < 0 or found == 0:
            xs[found], ks[found] = x + step, k + (slope + curve * step / 2) * step
            best = min(best, ks[found])
            found += 1
        x += ahead
        for p in range(4):
            off[p] += ahead
            if off[p] >= height * (1 - 1e-12):
                at[p] += 1
                off[p] = 0.0
    return found


@kernel
def soft_minima(terms: Terms, own: Own, prices: Prices, look: Look, gradient: Prices, least: Any) -> None:
    """``least[i]``: the least K of request i above its arrival, and with a temperature the gradient of a smooth one.

    The smooth minimum is over the first ``limit[i]`` buckets from the arrival on, and its gradient is added; the exact
    one, without a temperature, over all, and these are where it begins to look.
    """
    facts, _, height = terms
    limit, temperature = look
    longest = 0
    for i in range(len(facts)):
        longest = max(longest, limit[i])
    price, run, upto = np.empty((4, longest)), np.empty((4, longest)), np.empty((5, longest))
    where, xs, ks = np.empty((4, longest), np.int64), np.empty(4 * longest + 8), np.empty(4 * longest + 8)
    jump, part = np.empty((5, longest)), np.empty((4, longest))
    for i in range(len(facts)):
        fact, count = facts[i], limit[i]
        low = math.floor(fact[ARRIVAL] / height)
        while True:
            _price(i, terms, own, prices, Span(low, count), price)
            for f in range(4):
                _running(price[f, :count], run[f], where[f], upto[f], height)
            summed = 0.0
            for b in range(count):
                upto[4, b] = summed
                summed += run[1, b] * (b + 0.5) * height * height
            found = _candidates(fact, height, count, Sums(run, upto), WIDTH * temperature, Found(xs, ks))
            best = np.inf
            for c in range(found):
                best = min(best, ks[c])
            if temperature > 0 or fact[ARRIVAL] + best < (low + count - 1) * height:
                break
            count *= 2
            if count > longest:
                longest = 2 * count
                price, run, upto = np.empty((4, longest)), np.empty((4, longest)), np.empty((5, longest))
                where, xs, ks = np.empty((4, longest), np.int64), np.empty(4 * longest + 8), np.empty(4 * longest + 8)
                jump, part = np.empty((5, longest)), np.empty((4, longest))
        least[i] = best
        if temperature <= 0:
            continue
        weights = 0.0
        for c in range(found):
            if ks[c] - best < WIDTH * temperature:
                weights += math.exp((best - ks[c]) / temperature)
        jump[:, :count] = 0.0
        part[:, :count] = 0.0
        for c in range(found):
            if ks[c] - best < WIDTH * temperature:
                w = math.exp((best - ks[c]) / temperature) / weights
                _weigh(fact, height, xs[c], w, jump[:, :count], part[:, :count])
        _collect(i, terms, own, Span(low, count), Adjoint(where, jump, part), gradient)


@kernel
def _weigh(fact: Any, height: float, x: float, w: float, jump: Any, part: Any) -> None:
    """Adjoint of K at completion x."""
    each, st, prefill = fact[EACH], x - fact[DECODING], fact[PREFILL]
    if each > 0:
        _credit(jump[0], part[0], x, w / each, height)
        _credit(jump[0], part[0], st, -w / each, height)
        v = w * (fact[HELD] - st / each) / each
        _credit(jump[1], part[1], x, v, height)
        _credit(jump[1], part[1], st, -v, height)
        v = w / (each * each)
        _credit_moment(jump[4], part[1], x, v, height)
        _credit_moment(jump[4], part[1], st, -v, height)
    _credit(jump[2], part[2], st, w, height)
    _credit(jump[2], part[2], st - fact[PROMPT], -w, height)
    if prefill > 0:
        _credit(jump[3], part[3], st, w / prefill, height)
        _credit(jump[3], part[3], st - prefill, -w / prefill, height)


@kernel
def _collect(i: int, terms: Terms, place: Own, span: Span, adjoint: Adjoint, into: Prices) -> None:
    """Add the gradient by the running minima to that by the prices that they come from."""
    facts, law, height = terms
    first, begin = place
    low, count = span
    where, jump, part = adjoint
    gradient, own_gradient, own_prompt_gradient = into
    per_token, per_prompt = 1.0 / law[PER_CAPACITY], facts[i, TOKENS] / law[PER_CAPACITY]
    behind = np.zeros(5)
    prices_end = gradient.shape[1]
    for k in range(count - 1, -1, -1):
        for f in range(4):
            g = height * behind[f] + part[f, k]
            if f == 1:
                g += behind[4] * height * height * (k + 0.5)
            b = low + where[f, k]
            if g == 0.0 or b >= prices_end:
                continue
            j = begin[i] + b - first[i]
            own = begin[i] <= j < begin[i + 1]
            if f == 0:
                gradient[SERVER, b] += law[PER_REQUEST] * g
                gradient[SLOTS, b] += g / law[PER_SLOT]
                if own:
                    own_gradient[j] += g
            elif f == 1:
                gradient[SERVER, b] += law[PER_TOKEN] * g
                gradient[MEMORY, b] += per_token * g
            elif f == 2:
                gradient[SERVER, b] += g
            else:
                gradient[PROMPT_MEMORY, b] += per_prompt * g
                gradient[MEMORY, b] += per_prompt * law[THETA] * g
                gradient[PROMPT_SLOTS, b] += g / law[PER_SLOT]
                gradient[SLOTS, b] += law[THETA] * g / law[PER_SLOT]
                if own:
                    own_prompt_gradient[j] += g
                    own_gradient[j] += law[THETA] * g
        for f in range(5):
            behind[f] += jump[f, k]
