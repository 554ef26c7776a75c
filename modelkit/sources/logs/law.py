"""The law of iteration times, fitted to the stamps of a log.

A request that decodes is in every iteration between its first token and its last, each of which gives it one token. So
the time between these two stamps is the sum of the law over those iterations, and each request with two tokens or more
is one equation in the law's coefficients:

    last - first = base I + prefill_base P + prefill_per_token N + decode_base I + decode_per_request B
                   + decode_per_kv_token KV

with I its tokens but the first; P the iterations in between with prompts, N their prompt tokens; B the tokens that all
requests decode in between, and KV what each of them held then, a prompt and its tokens up to that one. Who decoded when
is in the log: by the times between tokens where it has them, else a request's tokens are taken to come evenly. A
request that came when nobody else was there and whose prompt fits one iteration gives one more: its first token came
after one iteration with that prompt alone. These tell the base of every iteration, as nothing else in a log does.

The equations are weighted with their left side, so that errors are relative, and solved by least squares with
non-negative coefficients, then weighted anew so that the sum of the errors is least, not that of their squares: what an
eviction or a hiccup disturbs bends the law of the others no more. Which coefficients the log cannot tell is found as
`modelkit.sources.calibrate` does, and by their standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from modelkit.errors import Fault, InputError
from modelkit.instance import LinearClock
from modelkit.sources.calibrate import COEFFICIENTS, SAME, Errors, apart_from_others, errors_of, rounded
from modelkit.sources.logs import Log, LogRecord
from modelkit.sources.logs.prompts import Prompts, split_prompts, whole_prompts

#: Fewest requests with stamps and two tokens or more that carry a law.
FEWEST = 10
#: Largest mean relative error of a law that is used.
WORST_MEAN = 0.25
#: Fewest requests served alone that tell the base of every iteration.
ALONE = 3
#: Stamps of one end of an iteration differ by less [ms], and by less than this share of the shortest time a token.
SAME_END_MS, SAME_END_SHARE = 0.5, 0.25
#: Most tokens whose times are laid out; of longer logs the first requests are used.
MOST_TOKENS = 20_000_000
#: A coefficient is open where twice its standard error is more than this share of it, and of the mean duration.
OPEN_SHARE, OPEN_EFFECT = 0.5, 0.01

#: How often equations are weighted anew, and the relative error below which all count alike.
REWEIGHTED, SMALL = 30, 1e-6

Floats = npt.NDArray[np.float64]
_CONTENT = {"prefill_base_ms": "iterations with prompts", "prefill_per_token_ms": "prompt tokens"}


@dataclass(frozen=True)
class Law:
    """A law fitted to a log, how good it is, and what the log could not tell.

    Parameters
    ----------
    clock
        The law, with mixed = true.
    errors
        Of the decode times of requests, and of the prefills of requests served alone, where there were enough.
    ranges
        Least and largest mean batch and mean held tokens of a request's iterations, and prompt tokens of a request.
    untold
        Coefficients that the log cannot tell from others, or says nothing of.
    give_or_take
        Twice the standard error of each coefficient that has one [ms].
    """

    clock: LinearClock
    errors: Mapping[str, Errors]
    ranges: Mapping[str, tuple[float, float]]
    untold: tuple[str, ...]
    give_or_take: Mapping[str, float]
    notes: tuple[str, ...]


class _Stamps(NamedTuple):
    """Requests with stamps: tokens, and moments in ms, shape [n] each; times of all tokens, shape [n] of arrays.

    ``exact``: these times are the log's, not laid out evenly.
    """

    prompt: Floats
    processed: Floats
    output: Floats
    arrival: Floats
    first: Floats
    last: Floats
    times: list[Floats]
    exact: bool


def fit_law(log: Log) -> Law:
    """The law that the stamps of a log tell.

    Raises
    ------
    InputError
        The log carries none; the message says what it lacks.
    """
    stamps = _stamps(log)
    tolerance = _tolerance(stamps)
    decode_terms, decode_ms = _decoding(stamps, tolerance, _chunk(log))
    alone_terms, alone_ms = _alone(stamps, tolerance, _chunk(log))
    terms = np.vstack([decode_terms, alone_terms])
    measured = np.concatenate([decode_ms, alone_ms])
    weighted = terms / measured[:, None]
    notes = []
    if apart_from_others(weighted, 0) < SAME:
        weighted[:, 0] = terms[:, 0] = 0
        why = "no requests served alone" if not len(alone_ms) else "too few different iterations"
        notes.append(f"{why}: base_ms cannot be told from the other fixed parts, and is 0; decode_base_ms has it")
    coefficients = _solved(weighted)
    fitted = terms @ coefficients
    errors = {"decode": errors_of(decode_ms, fitted[: len(decode_ms)])}
    if len(alone_ms):
        errors["prefill"] = errors_of(alone_ms, fitted[len(decode_ms) :])
    if errors["decode"].mape > WORST_MEAN:
        off = f"{errors['decode'].mape:.0%}"
        words = f"no linear law explains the times between first and last tokens: the best is {off} off"
        raise InputError(log.where, [Fault("file", f"{words} on average; a law is used up to {WORST_MEAN:.0%}")])
    open_by = _give_or_take(weighted, fitted / measured - 1)
    effect = terms.mean(axis=0) / measured.mean()
    untold = []
    for j, name in enumerate(COEFFICIENTS):
        if apart_from_others(weighted, j) < SAME or (
            open_by[j] > OPEN_SHARE * coefficients[j] and open_by[j] * effect[j] > OPEN_EFFECT
        ):
            untold.append(name)
    rounds = decode_terms[:, 3]
    return Law(
        clock=LinearClock(
            kind="linear", mixed=True, **{n: rounded(c) for n, c in zip(COEFFICIENTS, coefficients, strict=True)}
        ),
        errors=errors,
        ranges={
            "prompt tokens": (float(stamps.prompt.min()), float(stamps.prompt.max())),
            "requests decoding": _range(decode_terms[:, 4] / rounds),
            "KV tokens": _range(decode_terms[:, 5] / rounds),
        },
        untold=tuple(untold),
        give_or_take={
            name: rounded(by)
            for name, by in zip(COEFFICIENTS, open_by, strict=True)
            if math.isfinite(by) and name not in untold
        },
        notes=tuple(notes),
    )


def _range(values: Floats) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _chunk(log: Log) -> float:
    """Tokens that one iteration of the engines takes; infinite where the log does not say."""
    most = log.engine.max_num_batched_tokens
    return math.inf if most is None else float(most * log.engine.engines)


def _stamps(log: Log) -> _Stamps:
    """The requests of a log that have stamps, in ms from the first arrival on."""
    found = _first_tokens([r for r in log.records if r.stamped])
    usable = sum(r.output > 1 and (r.last_token or 0) > (r.first_token or 0) for r in found)
    if usable < FEWEST:
        lacks = "no request has times of its first and last token" if not found else f"{usable} requests have"
        words = f"{lacks}{'' if not found else ' two tokens or more and the times of the first and the last'}"
        raise InputError(log.where, [Fault("file", f"carries no law of iteration times: {words}; {FEWEST} are needed")])
    start = min(r.arrival or 0.0 for r in found)

    def moments(values: list[float | None]) -> Floats:
        return (np.array(values, dtype=float) - start) * 1000

    first, last = moments([r.first_token for r in found]), moments([r.last_token for r in found])
    return _Stamps(
        np.array([r.prompt for r in found], dtype=float),
        np.array([max(0, r.prompt - r.cached) for r in found], dtype=float),
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


def _tolerance(stamps: _Stamps) -> float:
    """By how much stamps of one moment may differ [ms]."""
    several = stamps.output > 1
    shortest = ((stamps.last - stamps.first)[several] / (stamps.output[several] - 1)).min()
    return min(SAME_END_MS, SAME_END_SHARE * float(shortest))


def _decoding(stamps: _Stamps, tolerance: float, chunk: float) -> tuple[Floats, Floats]:
    """One equation for each request with two tokens or more: terms [m, 6], durations [m] in ms."""
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
    return np.stack(terms, axis=1), (stamps.last - stamps.first)[chosen]


def _prompts(stamps: _Stamps, tolerance: float, chunk: float) -> Prompts:
    """Iterations with prompts; those that split prompts only where all times of tokens are known."""
    if stamps.exact and math.isfinite(chunk):
        return split_prompts(stamps.times, stamps.arrival, stamps.processed, tolerance, chunk)
    return whole_prompts(stamps.first, stamps.processed, tolerance, chunk)


def _alone(stamps: _Stamps, tolerance: float, chunk: float) -> tuple[Floats, Floats]:
    """Equations of prompts processed when nobody else was there; none where there are fewer than `ALONE`."""
    order = np.argsort(stamps.arrival, kind="stable")
    arrival, first, last = stamps.arrival[order], stamps.first[order], stamps.last[order]
    before = np.concatenate([[-math.inf], np.maximum.accumulate(last)[:-1]])
    after = np.concatenate([arrival[1:], [math.inf]])
    tokens = stamps.processed[order]
    alone = (before < arrival - tolerance) & (after > first) & (tokens <= chunk) & (tokens > 0) & (first > arrival)
    if alone.sum() < ALONE:
        return np.zeros((0, len(COEFFICIENTS))), np.zeros(0)
    one, none = np.ones(int(alone.sum())), np.zeros(int(alone.sum()))
    return np.stack([one, one, tokens[alone], none, none, none], axis=1), (first - arrival)[alone]


def _solved(weighted: Floats) -> Floats:
    """Coefficients, none negative, with the least squares of relative errors, which are then weighted anew.

    The weights are the reciprocals of the errors, so that the sum of the errors falls, not of their squares, and some
    equations that something else disturbed, such as requests that were evicted, do not bend the law of all others.
    """
    from scipy.optimize import nnls

    scale = np.where(weighted.any(axis=0), np.abs(weighted).max(axis=0), 1.0)
    columns, ones = weighted / scale, np.ones(len(weighted))
    solution, _ = nnls(columns, ones)
    for _ in range(REWEIGHTED):
        root = 1 / np.sqrt(np.maximum(np.abs(columns @ solution - 1), SMALL))
        solution, _ = nnls(columns * root[:, None], root)
    return np.asarray(solution / scale)


def _give_or_take(weighted: Floats, off: Floats) -> Floats:
    """Twice the standard error of each coefficient [ms], shape [6]; infinite where there is none."""
    used = weighted.any(axis=0)
    scatter = math.sqrt(float((off**2).sum()) / max(1, len(off) - int(used.sum())))
    found = np.full(len(COEFFICIENTS), math.inf)
    for j in np.flatnonzero(used):
        length = float(np.linalg.norm(weighted[:, j])) * apart_from_others(weighted, int(j))
        found[j] = 2 * scatter / length if length > 0 else math.inf
    return found
