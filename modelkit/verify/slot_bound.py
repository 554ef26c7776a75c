"""The lower bound of the slot problem in exact arithmetic: what a certificate of it is recomputed with.

With stages (linear clock, ``mixed = false``), tau the fixed part of a decode round (``base_ms`` and its own base, which
no prefill shares), n requests on J slots and
z rounds that some slot must decode at least,

    makespan >= tau z + decode_per_request sum o_i + decode_per_kv_token sum (s_i o_i + o_i (o_i + 1) / 2)
                + prefill_base ceil(n / J) + prefill_per_token sum s_i

because each round serves a slot one token at most, each active request pays its rounds and its held tokens whoever
else is active, and a prefill admits at most J requests. With levels the prefill part is the larger of
ceil(n / J) times the cheapest level and sum s_i times the least price of a token: a prefill over t tokens takes a level
that holds them, at no less than the least level and no less than t times the least ms / capacity, in whatever order
the levels cost. What a level cannot hold takes more prefills, never fewer. Evictions only add: the last residencies of
the requests alone are a schedule that is no longer.

Times in the instance are decimal numbers: 74.4 is 372/5, not the double next to it. Shares nothing with the code
that finds bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from modelkit.errors import Fault, InputError
from modelkit.instance import Instance, LinearClock

#: Requests times rounds up to which weights are recomputed; a few seconds.
MOST_WORK = 2 * 10**9


def slot_bound(instance: Instance, rounds: int) -> Fraction:
    """The bound [ms] when some slot decodes at least ``rounds`` rounds.

    Raises
    ------
    InputError
        The instance is not one of the slot problem.
    """
    clock, slots = _slots(instance)
    prompt, output = _lengths(instance)
    stages, tokens = -(-len(output) // slots), sum(prompt)
    base = _exact(clock.base_ms)
    if clock.prefill_levels is None:
        prefill = (base + _exact(clock.prefill_base_ms)) * stages + _exact(clock.prefill_per_token_ms) * tokens
    else:
        levels = [(capacity, base + _exact(ms)) for capacity, ms in clock.prefill_levels]
        prefill = max(stages * min(ms for _, ms in levels), tokens * min(ms / capacity for capacity, ms in levels))
    held = sum(s * o + o * (o + 1) // 2 for s, o in zip(prompt, output, strict=True))
    return (
        (base + _exact(clock.decode_base_ms)) * rounds
        + _exact(clock.decode_per_request_ms) * sum(output)
        + _exact(clock.decode_per_kv_token_ms) * held
        + prefill
    )


def closed_form_rounds(instance: Instance) -> int:
    """Z = max( ceil(sum o / J), max o, o_(J) + o_(J+1) when n > J )."""
    _, slots = _slots(instance)
    output = sorted(_lengths(instance)[1], reverse=True)
    pair = output[slots - 1] + output[slots] if len(output) > slots else 0
    return max(-(-sum(output) // slots), output[0], pair)


def weighed_rounds(instance: Instance, weights: Sequence[int], rounds: int) -> int:
    """``rounds``, once the weights prove that some slot decodes at least that many.

    Let W be the most that requests of at most ``rounds - 1`` tokens together weigh, a knapsack solved here exactly. If
    all requests together weigh more than J W, they do not fit into J slots of ``rounds - 1``.

    Notes
    -----
    O(n rounds).

    Raises
    ------
    InputError
        The weights do not prove it, or are too many or too large to tell.
    """
    _, slots = _slots(instance)
    output = _lengths(instance)[1]
    faults = []
    if len(weights) != len(output):
        faults.append(Fault("$.weights", f"{len(weights)} weights for {len(output)} requests"))
    if rounds < 1 or len(output) * rounds > MOST_WORK or sum(weights) >= 2**62 // max(1, slots):
        faults.append(Fault("$.weights", "are too many or too large to be recomputed"))
    if faults:
        raise InputError("certificate", faults)
    heaviest = np.zeros(rounds, dtype=np.int64)  # by tokens used
    for o, weight in zip(output, weights, strict=True):
        if weight and o < rounds:
            np.maximum(heaviest[o:], heaviest[:-o] + weight, out=heaviest[o:])
    if sum(weights) <= slots * int(heaviest[-1]):
        message = f"do not prove that a slot decodes {rounds} rounds: {sum(weights)} <= {slots} * {int(heaviest[-1])}"
        raise InputError("certificate", [Fault("$.weights", message)])
    return rounds


def _slots(instance: Instance) -> tuple[LinearClock, int]:
    clock, slots = instance.server.clock, instance.server.slots
    if not isinstance(clock, LinearClock) or clock.mixed or slots is None:
        message = "bounds of slots are for the linear clock with mixed = false and a number of slots"
        raise InputError("certificate", [Fault("$", message)])
    if instance.server.replicas > 1:
        message = "bounds of slots in stages are for one server: which requests share a replica's slots is not known"
        raise InputError("certificate", [Fault("$", message)])
    return clock, slots


def _lengths(instance: Instance) -> tuple[list[int], list[int]]:
    return [r.prompt_tokens for r in instance.requests], [r.output_tokens for r in instance.requests]


def _exact(value: float) -> Fraction:
    """The decimal number that was written."""
    return Fraction(str(value))
