"""How many requests can keep their service levels at most, recomputed in whole numbers.

With the first token at most T after the arrival, the completion at most P (o - 1) after that, and at most L after the
arrival, a request's prompt lies in [a, d1] and all its iterations in [a, d],

    d1 = min(a + T, d - E),  D = min(P (o - 1), L - r),  d = min(a + T + D, a + L),

where r and E are the least times to the first token, and from there to the last. One that has not even these times can
keep its levels in no schedule. Of those that keep them in some schedule, every charge of `CHARGES` is covered by the
length of iterations, and an interval is no shorter than what is charged in it, on each of R replicas. So for any prices
y >= 0 on charges and intervals they are at most

    sum_c y_c R (v_c - u_c) + sum_i max(0, 1 - sum_c y_c h_i(c)),

with h the whole charge of a request whose [a, d] lies in the interval, or that of its prompt, where [a, d1] does.
``docs/pages/notes/goodput.md`` proves all of it. By *pace* the fixed cost of an iteration is charged as

    B A^2 / (D - (o - 1) B),  A the sum of the square roots of what each token costs alone, beside B,

because requests that need their tokens in time P on average make room for few in an iteration.

Costs are rounded down to 2^-30 ms and charges to ticks of 2^-10 ms; starts are rounded down, deadlines and D up by a
tick beside what the judge allows. Shares nothing with the code that finds prices.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import isqrt
from typing import NamedTuple

from modelkit.certificate import CHARGES, TICKS_PER_MS, Goodput
from modelkit.errors import Fault, InputError
from modelkit.instance import Instance
from modelkit.requests import Request, ServiceLevels, ServiceLimits
from modelkit.verify.serving_costs import COSTS_PER_MS, COSTS_PER_TICK, EARLY_MS, ServingCosts

#: What the judge lets a time be above its limit [ms], and what rounding may add.
LATE_MS = Fraction(1, 1000)
#: Requests times intervals up to which a proof is recounted; half a minute.
MOST_CHARGES = 5 * 10**7
#: Parts of a run of tokens whose square roots are added by chords; binary digits of a root beyond the point.
CHORDS, ROOT_DIGITS = 16, 20


class InTime(NamedTuple):
    """A request that can keep its levels: its window and what it is charged, whole numbers [tick].

    ``prompt_due`` and ``due`` are None where the levels set no such end. ``prompt`` and ``work`` have one entry for
    each of `CHARGES`.
    """

    request: int
    start: int
    prompt_due: int | None
    due: int | None
    prompt: tuple[int, ...]
    work: tuple[int, ...]


class _Limits(NamedTuple):
    """Limits in whole numbers, rounded up, with what the judge allows and a tick for its doubles; None without a limit.

    ``first`` and ``last`` are TTFT and latency [tick]; ``token`` is TPOT and ``between`` the latency [2^-30 ms].
    """

    first: int | None
    last: int | None
    token: int | None
    between: int | None

    @classmethod
    def of(cls, limits: ServiceLimits) -> _Limits:
        ttft, tpot, latency = (
            None if ms is None else Fraction(str(ms)) for ms in (limits.ttft_ms, limits.tpot_ms, limits.latency_ms)
        )
        return cls(
            None if ttft is None else _up((ttft + LATE_MS) * TICKS_PER_MS) + 1,
            None if latency is None else _up((latency + LATE_MS) * TICKS_PER_MS) + 1,
            None if tpot is None else _up(tpot * COSTS_PER_MS),
            None if latency is None else _up((latency + LATE_MS + EARLY_MS) * COSTS_PER_MS) + COSTS_PER_TICK,
        )


def _up(value: Fraction) -> int:
    return -(-value // 1)


#: What is added to the time that TPOT allows between first and last token [2^-30 ms].
_LATE = _up(LATE_MS * COSTS_PER_MS) + COSTS_PER_TICK


def goodput_bound(instance: Instance, proof: Goodput) -> Fraction:
    """The number of requests within their levels that no schedule exceeds.

    Raises
    ------
    InputError
        The clock is not linear, there are no levels, or the proof does not fit them or is too long to be recounted.
    """
    levels = proof.slo or instance.server.slo
    if levels is None:
        raise InputError("certificate", [Fault("$.goodput.slo", "is missing, and the instance has no service levels")])
    columns = proof.charge, proof.begin, proof.end, proof.prices
    if len({len(column) for column in columns}) != 1:
        raise InputError("certificate", [Fault("$.goodput", "charge, begin, end and prices have other lengths")])
    if len(proof.charge) * len(instance.requests) > MOST_CHARGES:
        raise InputError("certificate", [Fault("$.goodput", "has too many intervals to be recounted")])
    room, charged = 0, in_time(instance, levels)
    left = [proof.denominator] * len(charged)
    for k, (charge, begin, end, price) in enumerate(zip(*columns, strict=True)):
        if end < begin:
            raise InputError("certificate", [Fault(f"$.goodput.end[{k}]", f"found {end}, before its begin, {begin}")])
        room += price * instance.server.replicas * (end - begin)
        at = CHARGES.index(charge)
        for i, one in enumerate(charged):
            if one.start >= begin:
                if one.due is not None and one.due <= end:
                    left[i] -= price * one.work[at]
                elif one.prompt_due is not None and one.prompt_due <= end:
                    left[i] -= price * one.prompt[at]
    return Fraction(room + sum(rest for rest in left if rest > 0), proof.denominator)


def rate_bound(instance: Instance, levels: ServiceLevels, share: Fraction = Fraction(1)) -> Fraction | None:
    """The rate [requests/s] above which no policy keeps the levels of a share of requests in the long run.

    The requests come in a stationary stream, such as a Poisson stream, with lengths and limits as those of the
    instance, whose arrivals do not matter: rate times the mean charge, of the lightest share of them, is at most the
    replicas. Of the request at the end of that share only a part is counted. 0 where fewer can keep their levels even
    alone; None where the levels set no end to anything.

    Raises
    ------
    InputError
        The clock is not linear.
    """
    n, charged = len(instance.requests), in_time(instance, levels)
    if len(charged) < share * n:
        return Fraction(0)
    whole = int(share * n)
    most: list[Fraction] = []
    for k in range(len(CHARGES)):
        sizes = sorted(
            one.work[k] if one.due is not None else one.prompt[k] * (one.prompt_due is not None) for one in charged
        )
        part = (share * n - whole) * sizes[whole] if whole < len(sizes) else Fraction(0)
        if ticks := sum(sizes[:whole]) + part:
            most.append(Fraction(instance.server.replicas * n * 1000 * TICKS_PER_MS) / ticks)
    return min(most, default=None)


def in_time(instance: Instance, levels: ServiceLevels) -> list[InTime]:
    """The requests that can keep their levels when they are alone.

    Raises
    ------
    InputError
        The clock is not linear.
    """
    costs = ServingCosts.of(instance)
    limits = {name: _Limits.of(levels.limits_of(r)) for r in instance.requests if (name := r.request_class) is not None}
    general = _Limits.of(levels)
    found = (_in_time(costs, i, r, limits.get(r.request_class or "", general)) for i, r in enumerate(instance.requests))
    return [one for one in found if one is not None]


def _in_time(costs: ServingCosts, i: int, request: Request, limits: _Limits) -> InTime | None:
    after = costs.output[i] - 1  # tokens after the first
    first = _between_tokens(costs, i, 1, 0) if not costs.mixed else 0
    to_first, to_last = costs.prefill_alone[i] + first, _between_tokens(costs, i, after, 1)
    start, latest_start = costs.arrival[i], _tick_after(float(request.arrival) * 1000.0)
    spans = [] if limits.token is None else [limits.token * after + _LATE]
    spans += [] if limits.between is None else [limits.between - to_first]
    between = min(spans, default=None)
    prompt_due = None if limits.first is None else latest_start + limits.first
    ends = [] if limits.last is None else [latest_start + limits.last]
    if prompt_due is not None and between is not None:
        ends.append(prompt_due + between // COSTS_PER_TICK + 1)
    due = min(ends, default=None)
    if due is not None:
        latest = due - to_last // COSTS_PER_TICK
        prompt_due = latest if prompt_due is None else min(prompt_due, latest)
    if (prompt_due is not None and start + to_first // COSTS_PER_TICK > prompt_due) or (
        between is not None and to_last > between
    ):
        return None
    prompt, work = _charges(costs, i, 0 if between is None else _pace(costs, i, after, between))
    ticks = (tuple(part // COSTS_PER_TICK for part in parts) for parts in (prompt, work))
    return InTime(i, start, prompt_due, due, *ticks)


def _tick_after(ms: float) -> int:
    """The first tick that is no earlier."""
    whole, part = ms.as_integer_ratio()
    return -(-whole * TICKS_PER_MS // part)


def _between_tokens(costs: ServingCosts, i: int, count: int, tokens: int) -> int:
    """The least time of ``count`` decode iterations of a request that has so many tokens before [2^-30 ms]."""
    each = costs.base + costs.decode_base + costs.decode_per_request
    held = count * (costs.prompt[i] + tokens) + count * (count + 1) // 2
    return count * each + costs.decode_per_kv_token * held


def _pace(costs: ServingCosts, i: int, after: int, between: int) -> int:
    """B A^2 / (D - (o - 1) B), rounded down [2^-30 ms]; none where tokens cost nothing beside B."""
    base = costs.base + costs.decode_base
    first = costs.decode_per_request + costs.decode_per_kv_token * (costs.prompt[i] + 2)
    roots = _sum_of_roots(first, costs.decode_per_kv_token, after)
    return (base * roots**2 >> (2 * ROOT_DIGITS)) // (between - after * base) if roots else 0


def _sum_of_roots(first: int, step: int, count: int) -> int:
    """Square roots of ``count`` numbers that grow by ``step``, summed, times 2^ROOT_DIGITS, or a little less.

    The root is concave, so the numbers between two of them have roots above the chord.
    """

    def root(k: int) -> int:
        return isqrt((first + step * k) << (2 * ROOT_DIGITS))

    if step == 0 or count == 0:
        return count * root(0)
    parts = min(CHORDS, count)
    ends = [count * part // parts for part in range(parts + 1)]
    return sum((b - a) * (root(a) + root(b - 1)) // 2 for a, b in pairwise(ends))


def _charges(costs: ServingCosts, i: int, pace: int) -> tuple[list[int], list[int]]:
    """What is charged for the prompt, and in all, by each of `CHARGES`, rounded down [2^-30 ms]."""
    base, prefill, late = costs.base + costs.decode_base, costs.base + costs.prefill_base, costs.prefill_base
    held, capacity, slots = costs.prefilled[i], costs.capacity, costs.slots
    prompt = [prefill * held // capacity, prefill // slots, late * held // capacity, late // slots]
    decoding = [base * costs.volume[i] // capacity, base * costs.decodes[i] // slots, pace, pace]
    reading, own = costs.prefill_per_token * costs.prompt[i], costs.own_work[i]
    return [reading + part for part in prompt], [own + p + d for p, d in zip(prompt, decoding, strict=True)]
