"""How much of a server a load needs, before anything is run.

A server is stable under a load when it finishes work as fast as work arrives. No schedule finishes a request with
less than

    linear clock   prefill_per_token s + decode_per_request d + decode_per_kv_token v + decode_base max(v / M, d / J)
    unit clock     max(V / M, o / J) rounds

with M the KV capacity, J the limit on requests in progress, d the rounds in which it decodes (o, or o - 1 when its
prompt shares an iteration), V = s o + o (o + 1) / 2 the tokens that it holds summed over its rounds, and v those of
the decoding ones: an iteration holds at most M tokens, so the fixed part of an iteration is shared by as many as fit.

Limits of a run narrow that. At most B requests at a time are a smaller J. When an iteration processes at most N
tokens, one for each request that decodes and the prompts, a request takes the share d / N of the decode iterations and
s / N of those with prompts at least:

    linear clock   ... + decode_base max(v / M, d / J, d / N) + prefill_base max(s / N, 1 / B)
    unit clock     max(V / M, o / J, (s + o - 1) / N) rounds

``base_ms`` is paid in every iteration, and there are as many as the unit clock needs rounds: it comes on top, times
max(V / M, o / J, (s + o - 1) / N), and in both other bases where prefills are iterations of their own.

Of what requests share through a prefix cache a request counts once (`modelkit.judge.prefixes.unshared`).

R replicas do R times as much. Splitting prompts changes nothing of that. Slots that are open at times only count with
their mean over the arrivals.
The load is the rate of arrivals times the mean of that. Above 1 every policy falls behind for as long as the load
lasts. Below 1 a work-conserving policy may still fall behind, for it fills neither memory nor iterations to the brim
(Li, Dai, Peng, arXiv 2504.07347, on work conservation and throughput).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelkit.instance import Instance, LinearClock
from modelkit.judge.prefixes import unshared


def load(
    instance: Instance,
    *,
    max_batch: int | None = None,
    max_batch_tokens: int | None = None,
    slots_over_time: Sequence[tuple[float, int]] | None = None,
) -> float | None:
    """Least share of the server, under the limits of a run, that the arrivals need; None when all come at once.

    A lower bound: 1.12 says that this load needs at least 112 % of the server.

    Parameters
    ----------
    max_batch, max_batch_tokens, slots_over_time
        As in ``modelkit.simulate``.
    """
    instance = unshared(instance, once=True)
    arrays, server = instance.arrays, instance.server
    first, last = float(arrays.arrival.min()), float(arrays.arrival.max())
    if last <= first:
        return None
    prompt, output = arrays.prompt.astype(float), arrays.output.astype(float)
    volume = prompt * output + output * (output + 1) / 2
    clock, base = server.clock, 0.0
    slots = _mean_slots(server.slots, slots_over_time, first, last)
    batch = min((limit for limit in (slots, max_batch) if limit is not None), default=None)

    def least(tokens: float, requests: float, in_batches: float) -> float:
        """Least iterations, from the tokens and requests that they hold and the tokens that they process, in all."""
        shares = ((tokens, server.kv_capacity_tokens), (requests, batch), (in_batches, max_batch_tokens))
        return max((amount / limit for amount, limit in shares if limit), default=0.0)

    iterations = least(volume.sum(), output.sum(), (prompt + output - 1).sum())
    if isinstance(clock, LinearClock) and clock.mixed:
        base = clock.base_ms * iterations
        volume, output = volume - prompt - 1, output - 1
    elif isinstance(clock, LinearClock):
        clock = clock.folded()
    rounds = least(volume.sum(), output.sum(), output.sum())
    prefills = 0.0
    if max_batch is not None:
        prefills = len(prompt) / max_batch
    if max_batch_tokens is not None:
        prefills = max(prefills, prompt.sum() / max_batch_tokens)
    if isinstance(clock, LinearClock):
        needed = (
            base
            + _prefill_per_token(clock) * prompt.sum()
            + _prefill_base(clock) * prefills
            + clock.decode_base_ms * rounds
            + clock.decode_per_request_ms * output.sum()
            + clock.decode_per_kv_token_ms * volume.sum()
        ) / 1000
    else:
        needed = iterations
    n = len(prompt)
    return float(needed / n * (n - 1) / (last - first) / server.replicas)


def load_words(share: float | None) -> str | None:
    """What to say of a load that no policy can keep up with; None when there is nothing to say."""
    if share is None or share <= 1:
        return None
    return f"offered load >= {share:.0%} of capacity: no policy can keep up for long"


def _mean_slots(
    slots: int | None, changes: Sequence[tuple[float, int]] | None, first: float, last: float
) -> float | None:
    """Slots that are open between the first arrival and the last, on average; None without a limit."""
    if slots is None or not changes:
        return slots
    times = [first, *(min(max(at, first), last) for at, _ in changes), last]
    open_slots = [slots, *(min(slots, count) for _, count in changes)]
    return sum(count * (end - begin) for count, begin, end in zip(open_slots, times, times[1:], strict=False)) / (
        last - first
    )


def _prefill_base(clock: LinearClock) -> float:
    """Fixed part of an iteration with prompts [ms]; a step function has none that is certain."""
    return 0.0 if clock.prefill_levels is not None else clock.prefill_base_ms


def _prefill_per_token(clock: LinearClock) -> float:
    """Least duration of a prompt token [ms]."""
    if clock.prefill_levels is None:
        return clock.prefill_per_token_ms
    return float(np.min([ms / tokens for tokens, ms in clock.prefill_levels]))
