"""The least cost of each request at prices on time, in whole numbers, compiled; ``serving_prices`` says what it is.

Costs are in units of 2^-units tick, and so are rates, the price of a tick of an interval; the rates of a token more are
finer by a shift of their own. Rates are rounded down and cut down to what keeps every number below 2^62. They remain
nonincreasing, and charge less. A cost is followed from one border of a bucket to the next, and never rounded up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from modelkit.runtime.kernel import kernel

#: What a rate charges at most over its interval, as a power of two.
MOST = 57
#: Columns of what is known of each request: times [tick], the shift and the limit of the rates of a token more.
ARRIVAL, RESIDENCE, DECODING, PROMPT, PREFILL, FINER, LIMIT = range(7)
#: Rows of rates: of an iteration of decoding, of a token more in it, of the prompt, of the prefill.
ITERATION, TOKEN, READING, FIXED = range(4)


class Requests(NamedTuple):
    """``times[i]`` in the columns above; ``factors[i, j]`` holds a whole number and a shift to the right."""

    times: Any
    factors: Any


class Prices(NamedTuple):
    """Common prices, by bucket."""

    server: Any
    memory: Any
    slots: Any
    prompt_memory: Any
    prompt_slots: Any


class Own(NamedTuple):
    """Own prices of each request, from its bucket ``first`` on: those from ``begin`` to ``end`` of the last two."""

    first: Any
    begin: Any
    end: Any
    decoding: Any
    prompts: Any


@kernel
def _priced(price: int, factor: Any, most: int) -> int:
    return min(most, (price * factor[0]) >> factor[1])  # type: ignore[no-any-return]


@kernel
def least_costs(requests: Requests, units: int, length: int, prices: Prices, own: Own, least: Any) -> None:
    """``least[i]``: the least cost of request i above its arrival, or less by a rounding.

    All arrays are int64.
    """
    times = requests.times
    rates = np.zeros((4, len(prices.server) + 1), np.int64)
    at, off = np.zeros(4, np.int64), np.zeros(4, np.int64)
    for i in range(len(times)):
        arrival, residence, decode, prompt, prefill, finer, _ = times[i]
        low = arrival // length
        count = max(0, len(prices.server) - low) + 1  # the last one is free, and so is all time behind it
        _running_minima(i, requests, length, prices, own, rates[:, :count])
        passed, shift = residence, arrival - low * length  # since the arrival, and up to it
        for p in range(4):  # where C, st, st - p1 s and st - f lie
            y = shift + passed - (0 if p == 0 else decode + (prompt if p == 2 else prefill if p == 3 else 0))
            at[p] = min(y // length, count - 1)
            off[p] = y - at[p] * length
        start = shift + passed - decode
        cost, tokens = _first_cost(rates[:, :count], length, start, times[i])
        cost += passed << units
        best = cost
        while passed << units < best:
            ahead = length
            for p in range(4):
                if at[p] < count - 1:
                    ahead = min(ahead, length - off[p])
            c, s, r, f = at
            curve = rates[TOKEN, s] - rates[TOKEN, c]
            slope = (1 << units) + rates[ITERATION, c] - rates[ITERATION, s] + rates[READING, s] - rates[READING, r]
            slope += rates[FIXED, s] - rates[FIXED, f] + ((decode * rates[TOKEN, c] - tokens) >> finer)
            best = min(best, cost + _least_change(slope, curve, finer, ahead))
            cost += slope * ahead + ((((curve * ahead) >> finer) * ahead) >> 1)
            tokens -= curve * ahead
            passed += ahead
            for p in range(4):
                off[p] += ahead
                if off[p] >= length and at[p] < count - 1:
                    at[p] += 1
                    off[p] -= length
        least[i] = best


@kernel
def _least_change(slope: int, curve: int, finer: int, ahead: int) -> int:
    """No more than any ``slope h + curve h^2 / 2``, h from 0 to ``ahead``; ``curve`` is finer."""
    if slope >= 0:
        return 0
    if slope + ((curve * ahead) >> finer) < 0:  # it falls all the way
        return slope * ahead + ((((curve * ahead) >> finer) * ahead) >> 1)
    falling, coarser = -slope, finer
    while coarser > 0 and falling < 1 << 61:
        falling, coarser = falling << 1, coarser - 1
    flatter = curve >> coarser
    step = ahead if flatter == 0 else min(ahead, falling // flatter + 1)  # the lowest point is no farther
    return (slope * step) // 2


@kernel
def _first_cost(rates: Any, length: int, start: int, time: Any) -> tuple[int, int]:
    """What decoding from ``start`` on and all before it is charged, and the sum of the rates of a token more."""
    count, decode, finer = rates.shape[1], time[DECODING], time[FINER]
    cost = tokens = 0
    for k in range(min(start // length, count - 1), min((start + decode) // length, count - 1) + 1):
        begin, end = max(start, k * length), min(start + decode, (k + 1) * length)
        if begin < end:
            some = rates[TOKEN, k] * (end - begin)
            tokens += some
            cost += rates[ITERATION, k] * (end - begin)
            cost += ((some >> finer) * (begin + end - 2 * start)) >> 1
    for row, before in ((READING, time[PROMPT]), (FIXED, time[PREFILL])):
        for k in range(min((start - before) // length, count - 1), min(start // length, count - 1) + 1):
            begin, end = max(start - before, k * length), min(start, (k + 1) * length)
            if begin < end:
                cost += rates[row, k] * (end - begin)
    return cost, tokens


@kernel
def _running_minima(i: int, requests: Requests, length: int, prices: Prices, owned: Own, rates: Any) -> None:
    """Rates of request i in each bucket from its arrival's on; the last one is free."""
    time, factor = requests.times[i], requests.factors[i]
    server, memory, slots, prompt_memory, prompt_slots = prices
    first, begin, end, decoding, prompts = owned
    low, count = time[ARRIVAL] // length, rates.shape[1]
    iteration, token = (1 << MOST) // (time[DECODING] + length), (1 << MOST) // (time[DECODING] + length)
    more, reading = time[LIMIT], (1 << MOST) // (time[PROMPT] + length)
    fixed = (1 << MOST) // (time[PREFILL] + length)
    for k in range(count - 1):
        b = low + k
        pi, m, j = server[b], memory[b], slots[b]
        own = own_prompt = 0
        place = begin[i] + b - first[i]
        if begin[i] <= place < end[i]:
            own, own_prompt = decoding[place], prompts[place]
        own_part = _priced(own, factor[2], iteration)
        iteration = min(iteration, _priced(pi, factor[0], iteration) + _priced(j, factor[1], iteration) + own_part)
        token = min(token, _priced(pi, factor[3], token) + _priced(m, factor[4], token))
        more = min(more, _priced(pi, factor[5], more) + _priced(m, factor[6], more))
        reading = _priced(pi, factor[7], reading)
        some = _priced(own, factor[12], fixed) + _priced(own_prompt, factor[13], fixed)
        some += _priced(m, factor[8], fixed) + _priced(prompt_memory[b], factor[9], fixed)
        fixed = min(fixed, some + _priced(j, factor[10], fixed) + _priced(prompt_slots[b], factor[11], fixed))
        rates[ITERATION, k], rates[TOKEN, k] = iteration + token, more
        rates[READING, k], rates[FIXED, k] = reading, fixed
    rates[:, count - 1] = 0
