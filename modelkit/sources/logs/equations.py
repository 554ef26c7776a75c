"""Stamps of a log, and the equations in the coefficients of a law of iteration times that they give.

By request: a request that decodes is in every iteration between its first token and its last, each of which gives it
one token. So the time between these two stamps is the sum of the law over those iterations:

    last - first = base I + prefill_base P + prefill_per_token N + decode_base I + decode_per_request B
                   + decode_per_kv_token KV

with I its tokens but the first; P the iterations in between with prompts, N their prompt tokens; B the tokens that all
requests decode in between, and KV what each of them held then, a prompt and its tokens up to that one. Who decoded when
is in the log: by the times between tokens where it has them, else a request's tokens are taken to come evenly.

By iteration: where all times of tokens are known, and each token of a request comes in the iteration after that of its
token before, each iteration is an equation, with I = 1.

A request that came when nobody else was there and whose prompt fits one iteration gives one more: its first token came
after one iteration with that prompt alone. These tell the base of every iteration, as nothing else in a log does.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from modelkit.errors import Fault, InputError
from modelkit.sources.calibrate import COEFFICIENTS
from modelkit.sources.logs import Log, LogRecord
from modelkit.sources.logs.prompts import Prompts, iterations_of, split_prompts, whole_prompts
from modelkit.text import count

#: Fewest requests with stamps and two tokens or more that carry a law.
FEWEST = 10
#: Fewest requests served alone that tell the base of every iteration.
ALONE = 3
#: Stamps of one end of an iteration differ by less [ms], and by less than this share of the shortest time a token.
SAME_END_MS, SAME_END_SHARE = 0.5, 0.25
#: Most tokens whose times are laid out; of longer logs the first requests are used.
MOST_TOKENS = 20_000_000
#: Share of the tokens that must come in the iteration after that of the token before, for equations by iteration.
NEXT_SHARE = 0.98
#: Most iterations that are equations; of more, some at equal distances.
MOST_ITERATIONS = 10_000

Floats = npt.NDArray[np.float64]


class Equations(NamedTuple):
    """Terms, shape [m, 6] in the order of `COEFFICIENTS`, and measured times [ms], shape [m]."""

    terms: Floats
    measured: Floats


class Stamps(NamedTuple):
    """Requests with stamps: tokens, and moments in ms, shape [n] each; times of all tokens, shape [n] of arrays.

    ``prompt`` counts the tokens that were not in the prefix cache.
    ``exact``: these times are the log's, not laid out evenly.
    """

    prompt: Floats
    output: Floats
    arrival: Floats
    first: Floats
    last: Floats
    times: list[Floats]
    exact: bool


def chunk_of(log: Log) -> float:
    """Tokens that one iteration of the engines takes; infinite where the log does not say."""
    most = log.engine.max_num_batched_tokens
    return math.inf if most is None else float(most * log.engine.engines)


def stamps_of(log: Log) -> Stamps:
    """The requests of a log that have stamps, in ms from the first arrival on."""
    found = _first_tokens([r for r in log.records if r.stamped])
    usable = sum(r.output > 1 and (r.last_token or 0) > (r.first_token or 0) for r in found)
    if usable < FEWEST:
        lacks = (
            "no request has times of its first and last token"
            if not found
            else f"{count(usable, 'request')} {'has' if usable == 1 else 'have'}"
        )
        words = f"{lacks}{'' if not found else ' two tokens or more and the times of the first and the last'}"
        raise InputError(log.where, [Fault("file", f"carries no law of iteration times: {words}; {FEWEST} are needed")])
    start = min(r.arrival or 0.0 for r in found)

    def moments(values: list[float | None]) -> Floats:
        return (np.array(values, dtype=float) - start) * 1000

    first, last = moments([r.first_token for r in found]), moments([r.last_token for r in found])
    return Stamps(
        np.array([r.computed for r in found], dtype=float),
        np.array([r.output for r in found], dtype=float),
        moments([r.arrival for r in found]),
        first,
        last,
        [_token_times(r, a, b) for r, a, b in zip(found, first, last, strict=True)],
        all(r.gaps is not None for r in found),
    )


def _first_tokens(records: list[LogRecord]) -> list[LogRecord]:
    """Of the first requests as many as have `MOST_TOKENS` tokens together."""
    kept, tokens = [], 0
    for record in records:
        if (tokens := tokens + record.output) > MOST_TOKENS:
            break
        kept.append(record)
    return kept


def _token_times(record: LogRecord, first: float, last: float) -> Floats:
    """When each token came [ms], shape [output]: as logged, or evenly."""
    if record.gaps is not None:
        return first + np.concatenate([[0.0], np.cumsum(record.gaps)]) * 1000
    return np.linspace(first, last, record.output)


def tolerance_of(stamps: Stamps) -> float:
    """By how much stamps of one moment may differ [ms]."""
    several = stamps.output > 1
    shortest = ((stamps.last - stamps.first)[several] / (stamps.output[several] - 1)).min()
    return min(SAME_END_MS, SAME_END_SHARE * float(shortest))


def by_request(stamps: Stamps, tolerance: float, chunk: float) -> Equations:
    """One equation for each request with two tokens or more."""
    decoded = np.concatenate([times[1:] for times in stamps.times])
    held = np.concatenate([p + np.arange(2, int(o) + 1) for p, o in zip(stamps.prompt, stamps.output, strict=True)])
    order = np.argsort(decoded, kind="stable")
    decoded, kv = decoded[order], np.concatenate([[0.0], np.cumsum(held[order])])
    prompts = _prompts(stamps, tolerance, chunk)
    first = prompts.moments
    tokens = np.concatenate([[0.0], np.cumsum(prompts.tokens)])
    passes = np.concatenate([[0.0], np.cumsum(prompts.iterations)])
    chosen = (stamps.output > 1) & (stamps.last > stamps.first)
    begin, end = stamps.first[chosen] + tolerance, stamps.last[chosen] + tolerance

    def between(moments: Floats, totals: Floats | None = None) -> Floats:
        a, b = np.searchsorted(moments, begin, "right"), np.searchsorted(moments, end, "right")
        return np.asarray(b - a if totals is None else totals[b] - totals[a], dtype=float)

    rounds = stamps.output[chosen] - 1
    terms = [rounds, between(first, passes), between(first, tokens), rounds, between(decoded), between(decoded, kv)]
    return Equations(np.stack(terms, axis=1), (stamps.last - stamps.first)[chosen])


def by_iteration(stamps: Stamps, tolerance: float, chunk: float) -> Equations | None:
    """One equation for each iteration in which some request decodes; None where the log does not tell iterations."""
    if not stamps.exact:
        return None
    every = np.concatenate(stamps.times)
    rank = np.concatenate([np.arange(len(times)) for times in stamps.times])
    held = np.repeat(stamps.prompt, [len(times) for times in stamps.times]) + rank + 1
    iteration, ends = iterations_of(every, tolerance)
    decoded = rank > 0
    gaps, steps = np.diff(every, prepend=every[0]), np.diff(iteration, prepend=0)
    follows = decoded & (steps == 1)
    if follows.sum() < NEXT_SHARE * decoded.sum():
        return None

    def summed(values: Floats) -> Floats:
        return np.bincount(iteration, weights=values, minlength=len(ends)).astype(np.float64)

    many = summed(follows.astype(float))
    prompts = _prompts(stamps, tolerance, chunk)
    place = np.searchsorted(ends, prompts.moments, "right") - 1
    passes = np.bincount(place, weights=prompts.iterations, minlength=len(ends))
    tokens = np.bincount(place, weights=prompts.tokens, minlength=len(ends))
    one = np.ones(len(ends))
    terms = np.stack([one, passes, tokens, one, summed(decoded.astype(float)), summed(held * decoded)], axis=1)
    measured = summed(gaps * follows) / np.maximum(many, 1)
    used = np.flatnonzero((many > 0) & (measured > 0))
    used = used[:: max(1, math.ceil(len(used) / MOST_ITERATIONS))]
    return Equations(terms[used], measured[used])


def _prompts(stamps: Stamps, tolerance: float, chunk: float) -> Prompts:
    """Iterations with prompts; those that split prompts only where all times of tokens are known."""
    if stamps.exact and math.isfinite(chunk):
        return split_prompts(stamps.times, stamps.arrival, stamps.prompt, tolerance, chunk)
    return whole_prompts(stamps.first, stamps.prompt, tolerance, chunk)


def alone(stamps: Stamps, tolerance: float, chunk: float) -> Equations:
    """Equations of prompts processed when nobody else was there; none where there are fewer than `ALONE`."""
    order = np.argsort(stamps.arrival, kind="stable")
    arrival, first, last = stamps.arrival[order], stamps.first[order], stamps.last[order]
    before = np.concatenate([[-math.inf], np.maximum.accumulate(last)[:-1]])
    after = np.concatenate([arrival[1:], [math.inf]])
    tokens = stamps.prompt[order]
    lone = (before < arrival - tolerance) & (after > first) & (tokens <= chunk) & (tokens > 0) & (first > arrival)
    if lone.sum() < ALONE:
        return Equations(np.zeros((0, len(COEFFICIENTS))), np.zeros(0))
    one, none = np.ones(int(lone.sum())), np.zeros(int(lone.sum()))
    return Equations(np.stack([one, one, tokens[lone], none, none, none], axis=1), (first - arrival)[lone])
