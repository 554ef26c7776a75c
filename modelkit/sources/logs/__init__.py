"""Logs of servers and results of benchmarks: who asked when, how much, and when the tokens came.

A reader turns one format into neutral records (`modelkit.sources.logs.record`). From these an instance is made, and
where the log has stamps an observed run (`modelkit.sources.logs.observed`) and a law of iteration times
(`modelkit.sources.logs.law`).
"""

from __future__ import annotations

import math
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from modelkit.errors import MOST_FAULTS, Fault, InputError, shown
from modelkit.io import MOST_REQUESTS
from modelkit.io.files import where_of
from modelkit.registry import Registry
from modelkit.sources.logs.doubts import check_times
from modelkit.sources.logs.recognise import recognised as recognised
from modelkit.sources.logs.record import PER_SECOND, Reading
from modelkit.sources.logs.record import Engine as Engine
from modelkit.sources.logs.record import LogRecord as LogRecord
from modelkit.sources.traces import trace_formats
from modelkit.sources.traces.attributes import Attributes
from modelkit.text import count, counted

Read = Callable[[str | os.PathLike[str], Reading], Iterator[LogRecord]]


#: Seconds, such as those since 1970, from which on a double no longer tells tenths of a microsecond.
_COARSE = 2.0**28


@dataclass(frozen=True)
class LogFormat:
    """A format of logs: how a file of it becomes records."""

    name: str
    summary: str
    reference: str
    read: Read


REGISTRY: Registry[LogFormat] = Registry(
    "log format", modules=[f"{__name__}.{module}" for module in ("servers", "benchmarks", "servingsim")]
)


def log_format(name: str, *, summary: str, reference: str) -> Callable[[Read], Read]:
    """Decorator that registers the reader of a format."""

    def decorate(read: Read) -> Read:
        REGISTRY.add(name, LogFormat(name, summary, reference, read), read)
        return read

    return decorate


@dataclass(frozen=True)
class Log:
    """The requests of a log that were served, in the order of their arrivals.

    Parameters
    ----------
    left_out
        Requests that are not among them, by the reason; and by their names what is ignored of those that are.
    """

    where: str
    format: str
    records: tuple[LogRecord, ...]
    engine: Engine
    left_out: dict[str, int]

    @property
    def notes(self) -> list[str]:
        """What is to be said of the import."""
        return [counted(n, why) for why, n in self.left_out.items()]


@dataclass(frozen=True)
class Window:
    """Which requests of a log are taken: those of a model, an interval of time [s after the first], a number."""

    model: str | None = None
    since: float | None = None
    until: float | None = None
    skip: int = 0
    first: int | None = None

    @property
    def is_part(self) -> bool:
        """Whether requests of the model are left out for their arrivals or their number."""
        return self.since is not None or self.until is not None or self.skip > 0 or self.first is not None


_OUTSIDE = "requests outside of what is taken"
_BESIDE = "requests of these that were on the server meanwhile, which neither the cost model nor the instance has"
_UNORDERED = "requests whose stamps are out of order, left out"


def read_log(
    path: str | os.PathLike[str],
    format: str | None = None,
    window: Window | None = None,
    time_unit: str | None = None,
    attribute: str | None = None,
) -> Log:
    """The requests of a log.

    Parameters
    ----------
    format
        One of ``modelkit list formats`` that is a log; None: recognised by the keys of the file.
    time_unit
        Of all times of the file, ``s``, ``ms``, ``us`` or ``ns``, which are then not doubted; None: those of the
        format.
    attribute
        Further fields that requests keep, as ``class=tier,team``; see `Attributes`.

    Raises
    ------
    UsageError
        No such format, or the file cannot be opened.
    InputError
        With the faults of the file and their places; or it has no request that was served.
    """
    name = format or recognised(path)
    if name not in log_formats() and name in trace_formats():
        words = f"a trace ({name}): it says when requests came and how long they were, not when their tokens came"
        advice = "`modelkit import FILE` makes an instance of it, for simulate, bound and solve"
        raise InputError(where_of(path), [Fault("file", f"{words}; {advice}")])
    window = window or Window()
    per_second = None if time_unit is None else PER_SECOND[time_unit]
    reading = Reading(where_of(path), per_second, Attributes.read(attribute))
    left_out: Counter[str] = Counter()
    taken, within = None, (math.inf, -math.inf)
    if window.is_part and os.path.isfile(path):  # read twice, so that only what is taken is kept
        served = _served(name, path, Reading(where_of(path), per_second), window, Counter())
        arrivals = array("d", (math.nan if r.arrival is None else r.arrival for r in served))
        taken = _taken(arrivals, window)
        within = _ends(arrivals, taken)
    records: list[LogRecord] = []
    models = set()
    for i, record in enumerate(_served(name, path, reading, window, left_out)):
        models.add(record.model or "")
        if taken is not None and not (i < len(taken) and taken[i]):
            left_out[_OUTSIDE] += 1
            left_out[_BESIDE] += _is_beside(record, within)
            continue
        if len(records) == MOST_REQUESTS:
            words = f"more than {MOST_REQUESTS:,} requests, the most of an instance; take a part"
            raise InputError(reading.where, [Fault(record.place, f"{words}: --first, --skip, or --from and --until")])
        records.append(record._replace(place=""))  # a million of them would take as much as their numbers
    if reading.faults:
        raise InputError(reading.where, reading.faults)
    if reading.attributes is not None and reading.attributes.there:
        reading.attributes.check(reading.where)
    if len(models := models - {""}) > 1:
        words = f"requests to several models, {', '.join(sorted(models)[:8])}; choose one with --model"
        raise InputError(reading.where, [Fault("model", words)])
    if taken is None and window.is_part:
        arrivals = array("d", (math.nan if r.arrival is None else r.arrival for r in records))
        mask = _taken(arrivals, window)
        within = _ends(arrivals, mask)
        outside = [record for record, kept in zip(records, mask, strict=True) if not kept]
        left_out[_OUTSIDE] += len(outside)
        left_out[_BESIDE] += sum(_is_beside(record, within) for record in outside)
        records = [record for record, kept in zip(records, mask, strict=True) if kept]
    if left_out[_UNORDERED] > len(records) + left_out[_OUTSIDE]:
        every = count(left_out[_UNORDERED] + len(records) + left_out[_OUTSIDE], "request")
        words = f"{left_out[_UNORDERED]:,} of {every} with times out of order"
        advice = "allowed: arrival, first and last token in this order, on one clock and in the unit of the format"
        raise InputError(reading.where, [Fault("file", f"{words}; {advice}")])
    if not records:
        why = ", ".join(counted(n, why) for why, n in left_out.items() if n)
        why += f"; models in the log: {', '.join(sorted(reading.models)[:8])}" if reading.models else ""
        raise InputError(reading.where, [Fault("file", f"has no request that was served{f': {why}' if why else ''}")])
    if per_second is None:
        check_times(name, records, reading)
    records = _once(_ordered(records), reading)
    if (cached := sum(record.cached for record in records)) > 0:
        reading.ignored["prompt tokens that were in the prefix cache, left out of the prompts"] = cached
    if (sessions := sum(record.session is not None for record in records)) > 0:
        reading.ignored["requests of sessions, each taken as one of its own"] = sessions
    if (same := len(records) - len({record.id for record in records})) > 0:
        reading.ignored["requests with the id of another one, so all are numbered anew"] = same
    if 0 < (unknown := sum(not record.stamped for record in records)) < len(records):
        reading.ignored["requests without times of their first and last token: no run is observed"] = unknown
    left_out = Counter({why: n for why, n in left_out.items() if n})
    return Log(reading.where, name, tuple(records), reading.engine, {**left_out, **reading.ignored})


def _served(
    name: str, path: str | os.PathLike[str], reading: Reading, window: Window, left_out: Counter[str]
) -> Iterator[LogRecord]:
    """Records of requests that were served, as they stand in the file; the others are counted."""
    for record in REGISTRY[name].read(path, reading):
        if len(reading.faults) >= MOST_FAULTS:
            return
        if window.model is not None and record.model is not None:
            reading.models.add(record.model)
        why = _why_left_out(record, window)
        if why is None:
            if record.cached > record.prompt:
                cached = count(record.cached, "cached token")
                words = f"{cached} of a prompt of {record.prompt:,}; allowed: at most all of it"
                reading.faults.append(Fault(record.place, words))
            yield record
        else:
            left_out[why] += 1


def _why_left_out(record: LogRecord, window: Window) -> str | None:
    if window.model is not None and record.model != window.model:
        return f"requests {'whose model is not said' if record.model is None else 'to other models'}, left out"
    if record.failed:
        return "failed requests, left out"
    if record.warm_up:
        return "requests of the warm-up, left out"
    if not record.output:
        return "requests without output, left out"
    if not record.prompt:
        return "requests without a prompt, left out"
    if record.arrival is not None and record.stamped:
        assert record.first_token is not None
        assert record.last_token is not None
        if not record.arrival <= record.first_token <= record.last_token:
            return _UNORDERED
    return None


def _ends(arrivals: Sequence[float], taken: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """The first and the last arrival of those that are taken; nothing lies between where none are or have any."""
    moments = np.array(arrivals, dtype=float)[taken]
    known = len(moments) > 0 and not np.isnan(moments).any()
    return (float(moments.min()), float(moments.max())) if known else (math.inf, -math.inf)


def _is_beside(record: LogRecord, within: tuple[float, float]) -> bool:
    """Whether a request that is not taken was on the server while those that are taken came."""
    if record.arrival is None or record.last_token is None:
        return False
    return record.arrival <= within[1] and record.last_token >= within[0]


def _taken(arrivals: Sequence[float], window: Window) -> npt.NDArray[np.bool_]:
    """Which requests are those of the window, shape [n]; NaN for an arrival that is not known."""
    moments = np.array(arrivals, dtype=float)
    taken = np.zeros(len(moments), dtype=bool)
    if not len(moments):
        return taken
    if np.isnan(moments).any():
        moments[:] = 0.0
    moments -= moments.min()
    order = np.argsort(moments, kind="stable")[window.skip :]
    since = -math.inf if window.since is None else window.since
    until = math.inf if window.until is None else window.until
    inside = order[(moments[order] >= since) & (moments[order] < until)]
    taken[inside[: window.first]] = True
    return taken


def _once(records: list[LogRecord], reading: Reading) -> list[LogRecord]:
    """Those that are no other one again; records that are equal in their ids, times and lengths are counted once."""
    if len({record.id for record in records}) == len(records):
        return records
    once = list({record._replace(gaps=None, said=None): record for record in records}.values())
    if (again := len(records) - len(once)) > 0:
        reading.ignored["requests that are in the log again, counted once"] = again
    return once


def _ordered(records: list[LogRecord]) -> list[LogRecord]:
    """In the order of their arrivals, which count from the first, and are 0 where not all are known."""
    if any(record.arrival is None for record in records):
        return [replace_arrival(record, 0.0) for record in records]
    records.sort(key=lambda record: record.arrival or 0.0)
    origin = records[0].arrival or 0.0
    for i, record in enumerate(records):  # in place, for there may be a million
        records[i] = _counted_from(origin, record)
    return records


def _counted_from(origin: float, record: LogRecord) -> LogRecord:
    """The record with its times counted from ``origin``, in whole microseconds where a double tells no more."""
    coarse = abs(origin) > _COARSE

    def counted(moment: float | None) -> float | None:
        if moment is None:
            return None
        return (_microseconds(moment) - _microseconds(origin)) / 1e6 if coarse else moment - origin

    return record._replace(
        arrival=counted(record.arrival), first_token=counted(record.first_token),
        last_token=counted(record.last_token), scheduled=counted(record.scheduled),
    )  # fmt: skip


def _microseconds(moment: float) -> int:
    return round(round(moment, 6) * 1e6)


def replace_arrival(record: LogRecord, arrival: float) -> LogRecord:
    """A record without stamps that arrives then."""
    return record._replace(arrival=arrival, first_token=None, last_token=None, scheduled=None)


def with_engine(log: Log, what: str = "import", **known: Any) -> Log:
    """The log with facts of the engine that the user knows; None leaves what the log says. ``what`` asks for it."""
    facts = {name: value for name, value in known.items() if value is not None}
    for name, value in facts.items():
        if value < 1:
            option = {"max_num_seqs": "max-batch", "max_num_batched_tokens": "max-batch-tokens"}.get(
                name, "kv-capacity"
            )
            raise InputError(what, [Fault(f"--{option}", f"found {shown(value)}; allowed: 1 or more")])
    return replace(log, engine=replace(log.engine, **facts))


def log_formats() -> dict[str, LogFormat]:
    """All log formats by name."""
    return REGISTRY.entries()
