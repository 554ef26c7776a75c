"""Logs of servers and results of benchmarks: who asked when, how much, and when the tokens came.

A reader turns one format into neutral records (`modelkit.sources.logs.record`). From these an instance is made, and
where the log has stamps an observed run (`modelkit.sources.logs.observed`) and a law of iteration times
(`modelkit.sources.logs.law`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from modelkit.errors import MOST_FAULTS, Fault, InputError, shown
from modelkit.io import MOST_REQUESTS
from modelkit.io.files import where_of
from modelkit.registry import Registry
from modelkit.sources.logs.recognise import recognised as recognised
from modelkit.sources.logs.record import Engine as Engine
from modelkit.sources.logs.record import LogRecord as LogRecord
from modelkit.sources.logs.record import Reading

Read = Callable[[str | os.PathLike[str], Reading], Iterator[LogRecord]]


@dataclass(frozen=True)
class LogFormat:
    """A format of logs: how a file of it becomes records."""

    name: str
    summary: str
    reference: str
    read: Read


REGISTRY: Registry[LogFormat] = Registry(
    "log format", modules=[f"{__name__}.{module}" for module in ("servers", "benchmarks")]
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
        return [f"{n:,} {why}" for why, n in self.left_out.items()]


@dataclass(frozen=True)
class Window:
    """Which requests of a log are taken: those of a model, a stretch of time [s after the first], a number."""

    model: str | None = None
    since: float | None = None
    until: float | None = None
    skip: int = 0
    first: int | None = None


def read_log(path: str | os.PathLike[str], format: str | None = None, window: Window | None = None) -> Log:
    """The requests of a log.

    Parameters
    ----------
    format
        One of ``modelkit list formats`` that is a log; None: recognised by the keys of the file.

    Raises
    ------
    UsageError
        No such format, or the file cannot be opened.
    InputError
        With the faults of the file and their places; or it has no request that was served.
    """
    name = format or recognised(path)
    reading = Reading(where_of(path))
    window = window or Window()
    left_out: Counter[str] = Counter()
    records: list[LogRecord] = []
    for record in REGISTRY[name].read(path, reading):
        if len(reading.faults) >= MOST_FAULTS:
            break
        why = _why_left_out(record, window)
        if why is not None:
            left_out[why] += 1
            continue
        if len(records) == MOST_REQUESTS:
            raise InputError(
                reading.where,
                [Fault(record.place, f"more than {MOST_REQUESTS:,} requests, the most of an instance; take a part")],
            )
        records.append(record)
    if reading.faults:
        raise InputError(reading.where, reading.faults)
    models = sorted({record.model or "" for record in records} - {""})
    if len(models) > 1:
        words = f"requests to several models, {', '.join(models[:8])}; choose one with --model"
        raise InputError(reading.where, [Fault("model", words)])
    records = _windowed(records, window, left_out)
    if not records:
        why = ", ".join(f"{n:,} {why}" for why, n in left_out.items())
        raise InputError(reading.where, [Fault("file", f"has no request that was served{f': {why}' if why else ''}")])
    if (cached := sum(record.cached for record in records)) > 0:
        reading.ignored["prompt tokens that were in the prefix cache, which the instance computes anew"] = cached
    if (sessions := sum(record.session is not None for record in records)) > 0:
        reading.ignored["requests of sessions, each taken as one of its own"] = sessions
    return Log(reading.where, name, tuple(records), reading.engine, {**left_out, **reading.ignored})


def _why_left_out(record: LogRecord, window: Window) -> str | None:
    if window.model is not None and record.model != window.model:
        return "requests to other models, left out"
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
            return "requests whose stamps are out of order, left out"
    return None


def _windowed(records: list[LogRecord], window: Window, left_out: Counter[str]) -> list[LogRecord]:
    """Those of the window, in the order of their arrivals, which count from the first."""
    if any(record.arrival is None for record in records):
        records = [replace_arrival(record, 0.0) for record in records]
    records.sort(key=lambda record: record.arrival or 0.0)
    origin = records[0].arrival or 0.0 if records else 0.0
    kept = []
    for record in records[window.skip :]:
        moment = (record.arrival or 0.0) - origin
        if (window.since is None or moment >= window.since) and (window.until is None or moment < window.until):
            kept.append(record)
    kept = kept[: window.first]
    if len(kept) < len(records):
        left_out["requests outside of what is taken"] += len(records) - len(kept)
    return kept


def replace_arrival(record: LogRecord, arrival: float) -> LogRecord:
    """A record without stamps that arrives then."""
    return record._replace(arrival=arrival, first_token=None, last_token=None, scheduled=None)


def with_engine(log: Log, **known: Any) -> Log:
    """The log with facts of the engine that the user knows; None leaves what the log says."""
    facts = {name: value for name, value in known.items() if value is not None}
    for name, value in facts.items():
        if value < 1:
            option = {"max_num_seqs": "max-batch", "max_num_batched_tokens": "max-batch-tokens"}.get(
                name, "kv-capacity"
            )
            raise InputError("judge", [Fault(f"--{option}", f"found {shown(value)}; allowed: 1 or more")])
    return replace(log, engine=replace(log.engine, **facts))


def log_formats() -> dict[str, LogFormat]:
    """All log formats by name."""
    return REGISTRY.entries()
