"""What serving costs in real time, in whole numbers: the ground that every certificate of it is recomputed on.

Linear clock. Seen from the residency in which a request completes, whatever happened to it before, it is *prefilled*
in one iteration or, in chunks, in several, and then *decodes* in a number of iterations that follow each other as they
come:

======================  =====================  ====================  ===========================================
clock                   iterations of decoding  k, the tokens held     an iteration lasts at least
======================  =====================  ====================  ===========================================
mixed                   o - 1                  s + 2, ..., s + o     base + [p0 + p1 tokens] + [b0 + sum b1 + b2 k]
not mixed               o                      s + 1, ..., s + o     p0 + p1 tokens, or b0 + sum (b1 + b2 k)
======================  =====================  ====================  ===========================================

with a part in brackets only where some request is prefilled, or some request decodes. Not mixed, an iteration has one
of the two parts, so the base that it pays once is in both p0 and b0, and ``base`` is 0.

In an iteration the s + 1 tokens of each request that is prefilled to its end there and the k of each that decodes
sum to at most the capacity, M, and these requests are at most the slots, J. (Not mixed, a prefill holds s of each; but
those of its requests that complete without being evicted hold s + 1 together in the decode round that follows, unless
requests may be paused in between: there it is s.) Where the server states no limit, what all requests hold at their
peaks, and their number, are limits that no schedule breaks.

With levels a prefill over t tokens lasts at least t times the least price of a token among all levels: p0 = 0. The
prefill of one request lasts at least what the cheapest level says that holds its prompt or, where prompts may be read
in chunks (mixed), what the cheapest level of all says.

Where requests share prefixes, s is the part of the prompt that a request never shares
(`modelkit.judge.prefixes.unshared`): it holds and reads so much at least, and no iteration lasts longer for it.

Rounded so that every bound only falls: the parts of the law down to units of 2^-30 ms, arrivals to ticks of 2^-10 ms
after 1e-3 ms are taken off, for so much earlier the judge lets a request start. The law's decimal numbers are taken as
written, arrivals as the judge's doubles. Shares nothing with the code that finds bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from modelkit.certificate import TICKS_PER_MS
from modelkit.clock import LinearClock
from modelkit.errors import Fault, InputError
from modelkit.instance import Instance
from modelkit.judge.prefixes import unshared

#: Costs are whole numbers of this part of a millisecond; a tick is this many of them.
COSTS_PER_MS = 2**30
COSTS_PER_TICK = COSTS_PER_MS // TICKS_PER_MS
#: What the judge lets a request start before its arrival [ms].
EARLY_MS = Fraction(1, 1000)


@dataclass(frozen=True)
class ServingCosts:
    """An instance in real time; see the module. Lists have one entry for each request, in the order of the instance.

    Parameters
    ----------
    mixed
        Whether prompts are processed beside decoding.
    base, prefill_base, prefill_per_token, decode_base, decode_per_request, decode_per_kv_token
        base, p0, p1, b0, b1, b2 [2^-30 ms].
    levels
        Token capacity, and what a prefill of that level lasts alone, base included [2^-30 ms].
    capacity, slots
        M [token] and J [request]: the server's, or what the requests themselves never exceed.
    arrival
        The earliest start, rounded down, 0 or later [tick].
    prompt, output
        s and o [token].
    arrivals_ms
        Sum of the arrivals as the judge subtracts them, exactly [ms].
    pauses, swaps
        Whether requests may be paused, and whether requests in progress may then hold nothing, swapped out. What that
        costs (``swap_out_per_token_ms``, ``swap_in_per_token_ms``) is 0 at the least: nobody need be paused.
    replicas
        R servers alike. Everything above is of one of them.
    """

    mixed: bool
    base: int
    prefill_base: int
    prefill_per_token: int
    decode_base: int
    decode_per_request: int
    decode_per_kv_token: int
    levels: list[tuple[int, int]]
    capacity: int
    slots: int
    arrival: list[int]
    prompt: list[int]
    output: list[int]
    arrivals_ms: Fraction
    pauses: bool = False
    swaps: bool = False
    replicas: int = 1

    @classmethod
    def of(cls, instance: Instance) -> ServingCosts:
        """The costs of an instance.

        Raises
        ------
        InputError
            Its clock is not the linear one.
        """
        clock, server = instance.server.clock, instance.server
        if not isinstance(clock, LinearClock):
            raise InputError("certificate", [Fault("$", "bounds of serving in real time are for the linear clock")])
        requests = unshared(instance, once=False).requests
        base = _exact(clock.base_ms)
        in_both = 0 if clock.mixed else base
        prefill_base, per_token = _prefill_law(clock)
        arrivals = [(float(r.arrival) * 1000.0).as_integer_ratio() for r in requests]
        finest = max(part for _, part in arrivals)  # all are powers of two
        peaks = sorted((r.prompt_tokens + r.output_tokens for r in requests), reverse=True)
        slots = min(len(requests), server.slots or len(requests))
        all_at_once = sum(peaks[:slots])
        return cls(
            mixed=clock.mixed,
            base=_costs(base - in_both),
            prefill_base=_costs(prefill_base + in_both),
            prefill_per_token=_costs(per_token),
            decode_base=_costs(_exact(clock.decode_base_ms) + in_both),
            decode_per_request=_costs(_exact(clock.decode_per_request_ms)),
            decode_per_kv_token=_costs(_exact(clock.decode_per_kv_token_ms)),
            levels=[(tokens, _costs(base + _exact(ms))) for tokens, ms in clock.prefill_levels or ()],
            capacity=min(all_at_once, server.kv_capacity_tokens or all_at_once),
            slots=slots,
            arrival=[max(0, _tick_before(ms, part)) for ms, part in arrivals],
            prompt=[r.prompt_tokens for r in requests],
            output=[r.output_tokens for r in requests],
            arrivals_ms=Fraction(sum(ms * (finest // part) for ms, part in arrivals), finest),
            pauses=server.pause is not None,
            swaps=server.pause is not None and server.pause.keep == "swapped",
            replicas=server.replicas,
        )

    @cached_property
    def decodes(self) -> list[int]:
        """Iterations in which each request decodes."""
        return [o - self.mixed for o in self.output]

    @cached_property
    def prefilled(self) -> list[int]:
        """Tokens that the requests which one iteration prefills hold together at once, at least."""
        return [s + (self.mixed or not self.pauses) for s in self.prompt]

    @cached_property
    def volume(self) -> list[int]:
        """V: tokens that each request holds, summed over the iterations in which it decodes."""
        skipped = 1 if self.mixed else 0  # the first round, with s + 1, is the prefill's
        return [s * (o - skipped) + o * (o + 1) // 2 - skipped for s, o in zip(self.prompt, self.output, strict=True)]

    @cached_property
    def prefill(self) -> list[int]:
        """What the prefill of each request lasts at least by the law: base + p0 + p1 s [2^-30 ms]."""
        fixed = self.base + self.prefill_base
        return [fixed + self.prefill_per_token * s for s in self.prompt]

    @cached_property
    def prefill_alone(self) -> list[int]:
        """The same, or what the levels say of each request alone, where that is more [2^-30 ms]."""
        return [max(p, self._by_levels(s)) for p, s in zip(self.prefill, self.prompt, strict=True)]

    def _by_levels(self, tokens: int) -> int:
        return min((ms for capacity, ms in self.levels if self.mixed or capacity >= tokens), default=0)

    @cached_property
    def decoding(self) -> list[int]:
        """What its decode iterations last at least: d (base + b0 + b1) + b2 V for d iterations [2^-30 ms]."""
        each = self.base + self.decode_base + self.decode_per_request
        return [d * each + self.decode_per_kv_token * v for d, v in zip(self.decodes, self.volume, strict=True)]

    @cached_property
    def residence(self) -> list[int]:
        """R: what lies at least between a request's arrival and its completion [2^-30 ms]."""
        return [p + d for p, d in zip(self.prefill_alone, self.decoding, strict=True)]

    @cached_property
    def own_work(self) -> list[int]:
        """What only the request itself causes: p1 s + d b1 + b2 V for d iterations of decoding [2^-30 ms]."""
        return [
            self.prefill_per_token * s + self.decode_per_request * d + self.decode_per_kv_token * v
            for s, d, v in zip(self.prompt, self.decodes, self.volume, strict=True)
        ]


def _prefill_law(clock: LinearClock) -> tuple[Fraction, Fraction]:
    """p0 and p1 [ms]."""
    if clock.prefill_levels is None:
        return _exact(clock.prefill_base_ms), _exact(clock.prefill_per_token_ms)
    return Fraction(0), min(_exact(ms) / capacity for capacity, ms in clock.prefill_levels)


def _tick_before(ms: int, part: int) -> int:
    """The last tick that is no later than ``ms / part`` [ms], less what the judge lets a request start early."""
    early, of = EARLY_MS.numerator, EARLY_MS.denominator
    return (ms * of - early * part) * TICKS_PER_MS // (part * of)


def _exact(value: float) -> Fraction:
    """The decimal number that was written."""
    return Fraction(str(value))


def _costs(ms: Fraction) -> int:
    return int(ms * COSTS_PER_MS // 1)
