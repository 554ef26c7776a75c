"""What a log becomes: an instance, and where it has stamps an observed run beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelkit.errors import Fault, InputError, shown
from modelkit.instance import MAX_TIME, Instance, InstanceStamp, Server, whole
from modelkit.io.json_reading import checked_schema
from modelkit.io.writing import write_text
from modelkit.judge.metrics import Totals, metrics
from modelkit.judge.rules import Residency
from modelkit.judge.slo import slo_metrics
from modelkit.sources.logs import Log
from modelkit.sources.logs.law import Law
from modelkit.sources.logs.record import LogRecord, is_time
from modelkit.sources.requests import many_requests
from modelkit.sources.servers import find_server
from modelkit.sources.traces import stem_of
from modelkit.text import count

SCHEMA = "modelkit/observed/1"
#: What is said wherever numbers of an observed run are shown.
AS_LOGGED = "observed, as logged"
#: Parts of the names of metrics that stamps tell; the others are about memory and rounds, which a log does not show.
_TOLD = ("latency", "ttft", "tpot", "first_token", "per_output_token", "makespan", "throughput")
#: Decimals of moments [s].
_MICROSECONDS = 6


@dataclass(frozen=True)
class Observed:
    """When the requests of an instance had their first token and finished, as a log says; not judged.

    Parameters
    ----------
    first_token_s, finish_s
        Moments on the clock of the instance [s], in its order.
    source, engine
        Where it comes from, and what the log says of the engine.
    """

    instance: Instance
    first_token_s: tuple[float, ...]
    finish_s: tuple[float, ...]
    source: Mapping[str, Any]
    engine: Mapping[str, Any]

    @property
    def metrics(self) -> dict[str, float | None]:
        """The metrics of time, as the judge computes them; those of memory and rounds are not known and not there."""
        residencies = tuple(
            Residency(i, None, r.arrival * 1000, first * 1000, finish * 1000, True)
            for i, (r, first, finish) in enumerate(
                zip(self.instance.requests, self.first_token_s, self.finish_s, strict=True)
            )
        )
        every = metrics(self.instance, residencies, Totals())
        told = {name: value for name, value in every.items() if any(part in name for part in _TOLD)}
        return told | slo_metrics(self.instance, residencies)

    def document(self) -> dict[str, Any]:
        """The run as JSON-ready data."""
        return {
            "schema": SCHEMA,
            "instance": {"name": self.instance.name, "sha256": self.instance.sha256},
            "source": dict(self.source),
            "engine": dict(self.engine),
            "requests": {
                "id": [r.id for r in self.instance.requests],
                "first_token_s": [whole(moment) for moment in self.first_token_s],
                "finish_s": [whole(moment) for moment in self.finish_s],
            },
        }


def save_observed(observed: Observed, path: str | os.PathLike[str]) -> Path | None:
    """Write an observed run as JSON; see `write_text`."""
    return write_text(path, json.dumps(observed.document(), ensure_ascii=False, allow_nan=False) + "\n")


def stamp_of(document: object, where: str) -> InstanceStamp | None:
    """Which instance an observed run is about; None for documents of other kinds.

    Raises
    ------
    InputError
        It is an observed run and does not say so.
    """
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        return None
    found = document.get("instance")
    values = [found.get(key) if isinstance(found, dict) else None for key in ("name", "sha256")]
    if not all(isinstance(value, str) for value in values):
        words = f"found {shown(found)}; allowed: an object with the name and the sha256 of the instance"
        raise InputError(where, [Fault("$.instance", words)])
    return InstanceStamp(name=values[0], sha256=values[1], requests=0)


def parse_observed(document: object, where: str, instance: Instance) -> Observed:
    """An observed run from parsed JSON.

    Raises
    ------
    InputError
        It is none, or one of another instance.
    """
    stamp = stamp_of(document, where)
    document = checked_schema(document, SCHEMA, where)
    if stamp is not None and stamp.sha256 != instance.sha256:
        raise InputError(where, [Fault("$.instance.sha256", "is that of another instance than the one given")])
    requests = document.get("requests")
    columns = requests if isinstance(requests, dict) else {}
    faults = []
    n = len(instance.requests)
    for key in ("id", "first_token_s", "finish_s"):
        values = columns.get(key)
        if not isinstance(values, list) or len(values) != n:
            size = f"a list of {len(values)}" if isinstance(values, list) else shown(values)
            faults.append(Fault(f"$.requests.{key}", f"found {size}; allowed: a list of {n}, one for each request"))
    for i, request in enumerate(instance.requests if not faults else ()):
        name, first, finish = (columns[key][i] for key in ("id", "first_token_s", "finish_s"))
        if name != request.id:
            faults.append(Fault(f"$.requests.id[{i}]", f"found {shown(name)}; the instance has {shown(request.id)}"))
        if not (is_time(first) and is_time(finish) and request.arrival <= first <= finish <= MAX_TIME):
            words = (
                f"found {shown(first)} and {shown(finish)}; allowed: {request.arrival} (its arrival) or later, in order"
            )
            faults.append(Fault(f"$.requests.first_token_s[{i}], finish_s[{i}]", words))
    if faults:
        raise InputError(where, faults)
    return Observed(
        instance, tuple(columns["first_token_s"]), tuple(columns["finish_s"]),
        document.get("source") or {}, document.get("engine") or {},
    )  # fmt: skip


def server_of(name: str | None, law: Law | None) -> Server:
    """The server called ``name``, a preset or a file; without a name one with the fitted clock and no limits."""
    if name is not None:
        return find_server(name)
    assert law is not None
    return Server(clock=law.clock)


def instance_of(log: Log, server: Server, name: str | None = None) -> Instance:
    """The requests of a log on a server, whose limits are the engine's where the log has them.

    Raises
    ------
    InputError
        The last request comes later than instances reach.
    """
    engine = log.engine
    limits: dict[str, Any] = {}
    if engine.kv_tokens is not None:
        limits["kv_capacity_tokens"] = engine.kv_tokens * engine.engines
    if engine.max_num_seqs is not None:
        limits["slots"] = engine.max_num_seqs * engine.engines
    start = log.records[0].arrival or 0.0
    arrivals = [round((record.arrival or 0.0) - start, _MICROSECONDS) for record in log.records]
    if arrivals[-1] > MAX_TIME:
        raise InputError(log.where, [Fault("file", f"the last request arrives {arrivals[-1]:g} s after the first")])
    ids = [record.id for record in log.records]
    if len(set(ids)) < len(ids):
        ids = [f"r{i}" for i in range(1, len(ids) + 1)]
    words = [f"{count(len(log.records), 'request')} of a {log.format} log", *log.notes]
    stem = stem_of(log.where, log.format) if log.where != "standard input" else log.format
    return Instance(
        name=name or f"{stem}-n{len(log.records)}",
        description="; ".join(words),
        source=f"log {log.format} {stem}",
        server=server.model_copy(update=limits),
        requests=many_requests(
            {"id": name, "arrival": float(at), "prompt_tokens": r.computed, "output_tokens": r.output, **_about(r)}
            for name, at, r in zip(ids, arrivals, log.records, strict=True)
        ),
    )


def _about(record: LogRecord) -> dict[str, Any]:
    """The class and the session of a request, where the log says them, and what the user asked for."""
    said = {"class": record.request_class, "session": record.session}
    return {key: value for key, value in said.items() if value} | dict(record.said or {})


def observed_of(log: Log, instance: Instance) -> Observed | None:
    """The observed run of the same requests; None where some of them have no stamps."""
    if not all(record.stamped for record in log.records):
        return None
    start = log.records[0].arrival or 0.0

    def moment(value: float | None) -> float:
        assert value is not None
        return round(value - start, _MICROSECONDS)

    return Observed(
        instance,
        tuple(moment(record.first_token) for record in log.records),
        tuple(moment(record.last_token) for record in log.records),
        {"format": log.format, "file": Path(log.where).name, "requests": len(log.records), "left_out": log.left_out},
        log.engine.document(),
    )


def held_at_once(log: Log) -> int:
    """Tokens that requests between first and last token need at once, cached prompt tokens aside; 0 without stamps."""
    events = []
    for record in log.records:
        if record.stamped:
            events.append((record.first_token or 0.0, record.computed + 1))
            events.append((record.last_token or 0.0, -record.computed - 1))
    held = most = 0
    for _, change in sorted(events):
        held += change
        most = max(most, held)
    return most


def most_at_once(log: Log) -> int:
    """Requests that were between first and last token at once; 0 without stamps."""
    events = []
    for record in log.records:
        if record.stamped:
            events += [(record.first_token or 0.0, 1), (record.last_token or 0.0, -1)]
    running = most = 0
    for _, change in sorted(events):
        running += change
        most = max(most, running)
    return most
