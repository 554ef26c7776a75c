"""The law of iteration times, fitted to the stamps of a log.

Where the log tells each iteration, it is an equation in the law's coefficients, else each request is one
(`modelkit.sources.logs.equations`). Iterations are better: a request that is evicted has run in many of them unseen,
and disturbs nearly every equation by request, but few by iteration.

The equations are weighted with their left side, so that errors are relative, and solved by least squares with
non-negative coefficients, then weighted anew so that the sum of the errors is least, not that of their squares: what an
eviction or a hiccup disturbs bends the law of the others no more. Which coefficients the log cannot tell is found as
`modelkit.sources.calibrate` does, and by their standard errors: those of the scatter of most equations or, where that
is more, of the fits that leave out a part of the log each. What disturbs a log does so in some parts more than in
others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from modelkit.errors import Fault, InputError
from modelkit.instance import LinearClock
from modelkit.sources.calibrate import COEFFICIENTS, SAME, Errors, apart_from_others, errors_of, rounded
from modelkit.sources.logs import Log
from modelkit.sources.logs.equations import (
    Equations,
    Floats,
    alone,
    by_iteration,
    by_request,
    chunk_of,
    stamps_of,
    tolerance_of,
)

#: Largest mean relative error of a law that is used.
WORST_MEAN = 0.25
#: A coefficient is told up to twice its standard error in this share of it, or in this share of the mean duration.
TOLD_SHARE, TOLD_EFFECT = 0.02, 1e-4
#: Median relative error of iterations with prompts, and how often that of others, above which prompts were elsewhere.
DISTURBED, MORE_THAN_OTHERS = 0.01, 3.0
#: Standard deviations in the median size of errors that are normal.
NORMAL = 1.4826
#: Parts of a log that are left out in turn.
PARTS = 10

#: How often equations are weighted anew, with a good solution to begin with, and the relative error below which all
#: count alike.
REWEIGHTED, AGAIN, SMALL = 30, 8, 1e-6


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
        Coefficients that the log does not tell to 2 %: it cannot tell them from others, or says nothing of them.
    give_or_take
        Twice the standard error of each coefficient that has one [ms].
    """

    clock: LinearClock
    errors: Mapping[str, Errors]
    ranges: Mapping[str, tuple[float, float]]
    untold: tuple[str, ...]
    give_or_take: Mapping[str, float]
    notes: tuple[str, ...]


def fit_law(log: Log) -> Law:
    """Fit a law to the stamps of a log.

    Raises
    ------
    InputError
        The log carries none; the message says what it lacks.
    """
    stamps, chunk = stamps_of(log), chunk_of(log)
    tolerance = tolerance_of(stamps)
    requests, lone = by_request(stamps, tolerance, chunk), alone(stamps, tolerance, chunk)
    iterations = by_iteration(stamps, tolerance, chunk)
    notes, unclear = [], False
    fit = _Fit(requests if iterations is None else iterations, lone)
    if iterations is not None and _prompts_are_elsewhere(iterations, fit.coefficients):
        unclear, fit = True, _Fit(requests, lone)
        notes.append(
            "prompts were not processed in the iterations of their first tokens alone, so the times of prompts are"
            " rough: give the tokens of an iteration, --max-batch-tokens"
        )
    if fit.based:
        why = "no requests served alone" if not len(lone.measured) else "too few different iterations"
        notes.append(f"{why}: base_ms cannot be told from the other fixed parts, and is 0; decode_base_ms has it")
    coefficients = fit.coefficients
    errors = {"decode": errors_of(requests.measured, requests.terms @ coefficients)}
    if len(lone.measured):
        errors["prefill"] = errors_of(lone.measured, lone.terms @ coefficients)
    if errors["decode"].mape > WORST_MEAN:
        off = f"{errors['decode'].mape:.0%}"
        words = f"no linear law explains the times between first and last tokens: the best is {off} off"
        raise InputError(log.where, [Fault("file", f"{words} on average; a law is used up to {WORST_MEAN:.0%}")])
    open_by = fit.give_or_take()
    untold = [
        name
        for j, name in enumerate(COEFFICIENTS)
        if apart_from_others(fit.weighted, j) < SAME
        or (open_by[j] > TOLD_SHARE * coefficients[j] and open_by[j] * fit.effect[j] > TOLD_EFFECT)
        or (unclear and name.startswith("prefill"))
    ]
    rounds = requests.terms[:, 3]
    return Law(
        clock=LinearClock(
            kind="linear", mixed=True, **{n: rounded(c) for n, c in zip(COEFFICIENTS, coefficients, strict=True)}
        ),
        errors=errors,
        ranges={
            "prompt tokens": (float(stamps.prompt.min()), float(stamps.prompt.max())),
            "requests decoding": _range(requests.terms[:, 4] / rounds),
            "KV tokens": _range(requests.terms[:, 5] / rounds),
        },
        untold=tuple(untold),
        give_or_take={name: rounded(by) for name, by in zip(COEFFICIENTS, open_by, strict=True) if math.isfinite(by)},
        notes=tuple(notes),
    )


class _Fit:
    """Coefficients fitted to equations, to those of requests served alone as well.

    ``based``: the base cannot be told from the others, and is 0.
    """

    def __init__(self, main: Equations, lone: Equations) -> None:
        terms = np.vstack([main.terms, lone.terms])
        measured = np.concatenate([main.measured, lone.measured])
        self.weighted = terms / measured[:, None]
        self.based = apart_from_others(self.weighted, 0) < SAME
        if self.based:
            self.weighted[:, 0] = terms[:, 0] = 0
        self.coefficients: Floats = _solve_nonnegative(self.weighted)
        self.effect = terms.mean(axis=0) / measured.mean()
        places = [np.arange(len(main.measured)) * PARTS // len(main.measured), np.arange(len(lone.measured)) % PARTS]
        self._part = np.concatenate(places)

    def give_or_take(self) -> Floats:
        """Twice the standard error of each coefficient [ms], shape [6]; infinite where there is none."""
        scattered = _give_or_take(self.weighted, self.weighted @ self.coefficients - 1)
        parts = [_solve_nonnegative(self.weighted[self._part != part], self.coefficients) for part in range(PARTS)]
        spread = (PARTS - 1) * np.var(parts, axis=0)
        return np.asarray(np.maximum(scattered, 2 * np.sqrt(spread)))


def _prompts_are_elsewhere(iterations: Equations, coefficients: Floats) -> bool:
    """Whether the iterations that are thought to have prompts took other times than they would with them."""
    having = iterations.terms[:, 1] > 0.0
    off = np.abs(iterations.terms @ coefficients / iterations.measured - 1)
    if having.all() or not having.any():
        return False
    usual = MORE_THAN_OTHERS * float(np.median(off[~having]))
    return float(np.median(off[having])) > max(DISTURBED, usual)


def _range(values: Floats) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _solve_nonnegative(weighted: Floats, begin: Floats | None = None) -> Floats:
    """Coefficients, none negative, with the least squares of relative errors, which are then weighted anew.

    The weights are the reciprocals of the errors, so that the sum of the errors falls, not of their squares, and some
    equations that something else disturbed, such as requests that were evicted, do not bend the law of all others.
    """
    from scipy.optimize import nnls

    scale = np.where(weighted.any(axis=0), np.abs(weighted).max(axis=0), 1.0)
    columns = weighted / scale
    solution: Floats | None = None if begin is None else begin * scale
    for _ in range(REWEIGHTED + 1 if begin is None else AGAIN):
        off = np.ones(len(columns)) if solution is None else np.abs(columns @ solution - 1)
        root = 1 / np.sqrt(np.maximum(off, SMALL))
        triangle = np.asarray(np.linalg.qr(np.column_stack([columns * root[:, None], root]), mode="r"))
        solution = np.asarray(nnls(triangle[:, :-1], triangle[:, -1])[0])
    assert solution is not None
    return solution / scale


def _give_or_take(weighted: Floats, off: Floats) -> Floats:
    """Twice the standard error of each coefficient by the scatter of most equations [ms]; infinite without any."""
    scatter = NORMAL * float(np.median(np.abs(off)))
    found = np.full(len(COEFFICIENTS), math.inf)
    for j in np.flatnonzero(weighted.any(axis=0)):
        length = float(np.linalg.norm(weighted[:, j])) * apart_from_others(weighted, int(j))
        found[j] = 2 * scatter / length if length > 0 else math.inf
    return found
