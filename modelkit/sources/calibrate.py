"""Calibration: measured iteration times become a clock.

The cost model of iterations is linear in six coefficients, none of them negative:

    ms = base + prefill_base [prompts] + prefill_per_token n + decode_base [decoding] + decode_per_request B
         + decode_per_kv_token KV

with n the prompt tokens in the iteration, B the requests that decode and KV the tokens they hold. They are fitted by
least squares with non-negative coefficients (Lawson and Hanson's algorithm, `scipy.optimize.nnls`).

The base of every iteration can be told from both other fixed parts only where there are iterations of all three kinds:
prompts alone, decoding alone, both. Else it is left at 0 and the others take its share, which changes no iteration of
the kinds that were measured. Whether a coefficient can be told is a matter of the columns of the problem, scaled: it
cannot where the others together come within `SAME` of its column, as a share of its length. How well it is told is its
standard error, the scatter about the model over what of its column the others do not explain.

Logs of iterations are read as their engines write them (`modelkit.sources.iterations`), and two kinds of table, by
their columns: iteration times (``iteration_ms`` with ``prompt_tokens``, ``batch_size``,
``kv_tokens_per_request`` or ``kv_tokens``, and ``phase`` prefill, decode or mixed), and the performance tables of
Splitwise (``prompt_size``, ``batch_size``, ``token_size``, ``prompt_time``, ``token_time``), where a decode round holds
batch_size (prompt_size + token_size / 2) tokens on average. Equal points are fitted by their median.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from modelkit.errors import Fault, InputError, did_you_mean, shown
from modelkit.instance import LinearClock, whole
from modelkit.io.tables import Row, read_csv
from modelkit.sources.iterations import read_iterations
from modelkit.text import count

#: The coefficients, in the order of the columns of the least-squares problem.
COEFFICIENTS = (
    "base_ms", "prefill_base_ms", "prefill_per_token_ms", "decode_base_ms", "decode_per_request_ms",
    "decode_per_kv_token_ms",
)  # fmt: skip
_ITERATIONS = ("phase", "batch_size", "prompt_tokens", "iteration_ms")
_SPLITWISE = ("prompt_size", "batch_size", "token_size", "prompt_time", "token_time")
#: A column that others come so near to, as a share of its length, is not told from them.
SAME = 1e-3
#: Median duration of iterations that only decode [ms]; outside, the times are in another unit than they should be.
_PLAUSIBLE = (0.1, 10_000.0)
#: Largest mean relative error of a cost model that is used.
_WORST_MEAN = 0.5
#: A coefficient below is the rounding of the solver's [ms].
_DUST = 1e-9
#: Columns that tell one server from another; a table with several values needs a choice.
_SERVERS = ("model", "hardware", "tensor_parallel")

#: Phases in words.
_KINDS = {"prefill": "prompts alone", "decode": "decoding alone", "mixed": "prompts and decoding together"}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Errors:
    """How far a cost model is from what was measured.

    Parameters
    ----------
    points
        Measured points, repeats taken together.
    mape
        Mean of |error| / measured.
    worst
        Largest |error| / measured.
    rmse_ms
        Root of the mean squared error.
    """

    points: int
    mape: float
    worst: float
    rmse_ms: float


@dataclass(frozen=True)
class Calibration:
    """A fitted cost model, how good it is, and where it may be used.

    Parameters
    ----------
    clock
        The cost model, with mixed = true.
    errors
        By phase: prefill, decode, mixed; those that were measured.
    ranges
        Least and largest prompt tokens of an iteration, requests that decode, and tokens they hold.
    notes
        What the table did not say, and what was done about it.
    untold
        Coefficients that the table cannot tell from others, or says nothing of; ``base_ms`` is 0 then.
    base_error_ms
        Twice the standard error of ``base_ms``; None where that is untold.
    """

    clock: LinearClock
    errors: Mapping[str, Errors]
    ranges: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...]
    untold: tuple[str, ...] = ()
    base_error_ms: float | None = None

    def document(self) -> dict[str, Any]:
        """The clock as in an instance's ``server.clock``."""
        return {key: whole(value) for key, value in self.clock.model_dump(exclude_none=True).items()}


@dataclass(frozen=True)
class _Point:
    """One measured iteration; ``setting`` is the same for repeats."""

    prompt_tokens: float
    decoding: float
    kv_tokens: float
    ms: float
    setting: tuple[object, ...]

    @property
    def phase(self) -> str:
        return "decode" if not self.prompt_tokens else "mixed" if self.decoding else "prefill"

    @property
    def terms(self) -> tuple[float, ...]:
        """What the coefficients are multiplied with."""
        return (
            1.0,
            float(self.prompt_tokens > 0),
            self.prompt_tokens,
            float(self.decoding > 0),
            self.decoding,
            self.kv_tokens,
        )


def calibrate(
    path: str | os.PathLike[str],
    *,
    where: Mapping[str, str] | None = None,
    max_prompt_tokens: int | None = None,
    max_batch: int | None = None,
    kv_capacity: int | None = None,
) -> Calibration:
    """Fit the cost model to a table of timings, or to a log of iterations.

    Parameters
    ----------
    path
        CSV file or log, gzipped or not; ``-`` for a CSV table on standard input.
    where
        Use only rows with these values in these columns.
    max_prompt_tokens, max_batch
        Use only iterations with at most this many prompt tokens, or this many decoding requests.
    kv_capacity
        KV capacity [token] of the engine, where a log has only the share that is in use.

    Raises
    ------
    InputError
        With all faults of the file, each with its line; or too few points are left.
    UsageError
        The file cannot be opened.
    """
    if kv_capacity is not None and kv_capacity < 1:
        raise InputError("calibrate", [Fault("--kv-capacity", f"found {shown(kv_capacity)}; allowed: 1 or more")])
    points, notes, file = _points(path, where or {}, kv_capacity)
    points = [
        p
        for p in _medians(points)
        if (max_prompt_tokens is None or p.prompt_tokens <= max_prompt_tokens)
        and (max_batch is None or p.decoding <= max_batch)
    ]
    return _fit(file, points, notes)


def _points(
    path: str | os.PathLike[str], wanted: Mapping[str, str], kv_capacity: int | None
) -> tuple[list[_Point], list[str], str]:
    """Measured iterations, what is said of them, and what to call the file."""
    if (log := read_iterations(path, kv_capacity)) is not None:
        rows = _choose_rows(log.where, log.columns, log.rows, wanted)
        return _iterations(log.where, log.columns, rows), log.notes, log.where
    table = read_csv(path)
    if table.is_json:
        words = "JSON without scheduled_requests or iterLatencyMS; allowed: a log of iterations, or a CSV table"
        raise InputError(table.where, [Fault("line 1", words)])
    splitwise = set(_SPLITWISE) <= set(table.columns)
    if not splitwise:
        table.require((*_ITERATIONS, *(() if "kv_tokens" in table.columns else ("kv_tokens_per_request",))))
    rows = _choose_rows(table.where, table.columns, table.rows(), wanted)
    if splitwise:
        return *_splitwise(table.where, rows), table.where
    return _iterations(table.where, table.columns, rows), [], table.where


def _fit(where: str, points: Sequence[_Point], notes: list[str]) -> Calibration:
    if len(points) < 2:
        words = f"{count(len(points), 'measured point')} left; a fit needs 2 or more"
        raise InputError(where, [Fault("file", words)])
    _check_unit(where, points)
    from scipy.optimize import nnls

    terms = np.array([point.terms for point in points])
    measured = np.array([point.ms for point in points])
    apart = apart_from_others(terms, 0)
    if apart < SAME:
        notes.append(_why_no_base({point.phase for point in points}))
        terms[:, 0] = 0
    scale = np.where(terms.any(axis=0), np.abs(terms).max(axis=0), 1.0)
    scaled, _ = nnls(terms / scale, measured)
    coefficients = scaled / scale
    fitted = terms @ coefficients
    if (off := errors_of(measured, fitted).mape) > _WORST_MEAN:
        words = f"no linear model explains these times: the best is {off:.0%} off on average"
        raise InputError(where, [Fault("file", f"{words}; a model is used up to {_WORST_MEAN:.0%}")])
    untold = [name for j, name in enumerate(COEFFICIENTS) if apart_from_others(terms, j) < SAME]
    base_error = None
    if "base_ms" not in untold:
        base_error = _base_error(measured - fitted, int(terms.any(axis=0).sum()), apart)
        fixed = coefficients[0] + min(coefficients[1], coefficients[3])
        if base_error > fixed / 2:
            notes.append(f"the scatter leaves base_ms open: give or take {base_error:.2g} ms of {fixed:.2g}")
    phases = [point.phase for point in points]
    for phase, least in (("prefill", 2), ("decode", 3)):
        found = len({p.terms for p in points if p.phase in (phase, "mixed")})
        if found < least:
            part = "zero" if not found else "not determined"
            notes.append(
                f"{count(found, 'point') if found else 'no points'} with {phase}: that part of the model is {part}"
            )
    if (
        "decode" in phases
        and terms[:, 5].any()
        and np.linalg.matrix_rank((terms / scale)[[p != "prefill" for p in phases]][:, 3:]) < 3
    ):
        notes.append("requests and KV tokens move together in these rows: only their sum is determined")
    return Calibration(
        clock=LinearClock(
            kind="linear", mixed=True, **{n: rounded(c) for n, c in zip(COEFFICIENTS, coefficients, strict=True)}
        ),
        errors={
            phase: errors_of(measured[mask], fitted[mask])
            for phase in ("prefill", "decode", "mixed")
            if (mask := np.array([p == phase for p in phases])).any()
        },
        ranges={
            name: (min(values), max(values))
            for name, values in (
                ("prompt tokens", [p.prompt_tokens for p in points if p.prompt_tokens]),
                ("requests decoding", [p.decoding for p in points if p.decoding]),
                ("KV tokens", [p.kv_tokens for p in points if p.decoding]),
            )
            if values
        },
        notes=tuple(notes),
        untold=tuple(untold),
        base_error_ms=base_error,
    )


def _check_unit(where: str, points: Sequence[_Point]) -> None:
    """Refuse times that no iteration takes: then they are not in the unit that they should be in."""
    median = float(np.median([p.ms for p in points if p.phase == "decode"] or [p.ms for p in points]))
    if not _PLAUSIBLE[0] <= median <= _PLAUSIBLE[1]:
        words = f"an iteration takes {median:.3g} ms in the median, which none does: the times are in another unit"
        raise InputError(where, [Fault("file", words)])


def apart_from_others(terms: Floats, j: int) -> float:
    """Share of the length of column ``j`` that no combination of the others explains; 0 for a column of zeros."""
    scaled = terms / np.where(terms.any(axis=0), np.linalg.norm(terms, axis=0), 1.0)
    others = np.delete(scaled, j, axis=1)
    combined = others @ np.linalg.lstsq(others, scaled[:, j], rcond=None)[0]
    return float(np.linalg.norm(scaled[:, j] - combined))


def _base_error(off: Floats, fitted: int, apart: float) -> float:
    """Twice the standard error of the base [ms]."""
    scatter = math.sqrt(float((off**2).sum()) / max(1, len(off) - fitted))
    return 2 * scatter / (apart * math.sqrt(len(off)))


def _why_no_base(phases: set[str]) -> str:
    """Why these kinds of iterations do not tell the base, and what that means."""
    lacking = [_KINDS[phase] for phase in _KINDS if phase not in phases]
    why = f"no iterations with {' or '.join(lacking)}" if lacking else "too few different iterations"
    return f"{why}: base_ms cannot be told from the other fixed parts, and is 0"


def errors_of(measured: Floats, fitted: Floats) -> Errors:
    """How far fitted times are from measured ones, shape [m] each."""
    off = np.abs(fitted - measured)
    return Errors(
        len(measured), float((off / measured).mean()), float((off / measured).max()), float(np.sqrt((off**2).mean()))
    )


def rounded(value: float) -> float:
    """Five significant digits: more than the measurements have; 0 for what is below a picosecond."""
    return float(f"{value:.5g}") if abs(value) >= _DUST else 0.0


def _medians(points: Iterable[_Point]) -> list[_Point]:
    """Repeats of a point as one, with the median of their times."""
    repeats: dict[tuple[object, ...], list[_Point]] = {}
    for point in points:
        repeats.setdefault(point.setting, []).append(point)
    return [replace(group[0], ms=float(np.median([point.ms for point in group]))) for group in repeats.values()]


def _choose_rows(where: str, columns: Sequence[str], rows: Iterable[Row], wanted: Mapping[str, str]) -> list[Row]:
    """The rows with these values; refuses a table of several servers without a choice."""
    unknown = [
        Fault("line 1", f"has no column {name!r}{did_you_mean(name, columns)}")
        for name in wanted
        if name not in columns
    ]
    if unknown:
        raise InputError(where, unknown)
    found = list(rows)
    kept = [row for row in found if all((row.cell(name) or "") == value for name, value in wanted.items())]
    if not kept:
        faults = [
            Fault(f"column {name}", f"no row has {shown(value)}; there are {_some(row.cell(name) for row in found)}")
            for name, value in wanted.items()
            if all(row.cell(name) != value for row in found)
        ]
        raise InputError(where, faults or [Fault("file", "no row is left")])
    mixed = [(name, _some(row.cell(name) for row in kept)) for name in _SERVERS if name in columns]
    faults = [
        Fault(f"column {name}", f"several servers, {values}; choose with --where {name}=...")
        for name, values in mixed
        if "," in values
    ]
    if faults:
        raise InputError(where, faults)
    return kept


def _some(values: Iterable[str | None]) -> str:
    distinct = sorted({value or "" for value in values})
    return ", ".join(distinct[:8]) + (", ..." if len(distinct) > 8 else "")


def _iterations(where: str, columns: Sequence[str], rows: Sequence[Row]) -> list[_Point]:
    faults: list[Fault] = []
    points = []
    per_request = "kv_tokens_per_request" in columns
    for row in rows:
        phase = row.cell("phase")
        if phase not in ("prefill", "decode", "mixed"):
            faults.append(row.fault("phase", "prefill, decode or mixed"))
            continue
        batch = row.number("batch_size", faults, least=1)
        prompt = row.number("prompt_tokens", faults, least=1) if phase != "decode" else 0.0
        kv = 0.0
        if phase != "prefill":
            kv = row.number("kv_tokens_per_request" if per_request else "kv_tokens", faults, least=0)
            kv *= batch if per_request else 1.0
        decoding = 0.0 if phase == "prefill" else batch
        if phase == "prefill":
            prompt *= batch
        ms = row.number("iteration_ms", faults, above=0)
        points.append(_Point(prompt, decoding, kv, ms, (phase, batch, prompt, kv)))
    if faults:
        raise InputError(where, faults)
    return points


def _splitwise(where: str, rows: Sequence[Row]) -> tuple[list[_Point], list[str]]:
    faults: list[Fault] = []
    notes = []
    sizes = Counter(row.cell("token_size") for row in rows)
    if len(sizes) > 1:
        ((common, _),) = sizes.most_common(1)
        rows = [row for row in rows if row.cell("token_size") == common]
        notes.append(f"{len(sizes)} values of token_size: only rows with {common}; --where token_size=... chooses")
    points = []
    for row in rows:
        prompt, batch, tokens = (
            row.number(name, faults, least=1) for name in ("prompt_size", "batch_size", "token_size")
        )
        setting = (prompt, batch, tokens)
        prefill, decode = (row.number(name, faults, above=0) for name in ("prompt_time", "token_time"))
        points.append(_Point(prompt * batch, 0.0, 0.0, prefill, ("prefill", *setting)))
        points.append(_Point(0.0, batch, batch * (prompt + tokens / 2), decode, ("decode", *setting)))
    if faults:
        raise InputError(where, faults)
    return points, notes
