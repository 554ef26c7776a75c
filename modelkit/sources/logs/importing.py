"""Logs as instances, with the run that they show beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from modelkit.arguments import checked_arguments
from modelkit.errors import Fault, InputError, shown
from modelkit.instance import Instance
from modelkit.io import checked
from modelkit.io.files import where_of
from modelkit.registry import Generator, options_of
from modelkit.sources.logs import Log, Window, log_formats, read_log, with_engine
from modelkit.sources.logs.law import Law, fit_law
from modelkit.sources.logs.observed import Observed, instance_of, observed_of, server_of
from modelkit.sources.logs.record import PER_SECOND


class ImportedLog(NamedTuple):
    """What a log becomes.

    ``observed`` is None where the log has no stamps, ``law`` where a server was named and none was fitted.
    """

    instance: Instance
    observed: Observed | None
    law: Law | None
    notes: tuple[str, ...]


@checked_arguments
def import_log(
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    server: str | None = None,
    model: str | None = None,
    requests: int | None = None,
    skip: int = 0,
    from_: float | None = None,
    until: float | None = None,
    kv_capacity: int | None = None,
    max_batch: int | None = None,
    max_batch_tokens: int | None = None,
    time_unit: str | None = None,
    attribute: str | None = None,
) -> ImportedLog:
    """Instance of a server's log or of a benchmark's result, and the run that it shows.

    Parameters
    ----------
    format
        One of the log formats of ``modelkit list formats``; None: recognised by the keys of the file.
    server
        Preset or JSON file of a server; None: its law of iteration times is fitted to the log's own stamps.
    model, requests, skip, from_, until
        Only requests to this model, at most a number, without the first ones, from and until so many seconds after the
        first.
    kv_capacity, max_batch, max_batch_tokens
        Of the engine, where the log does not say; of one engine where there are several.
    time_unit
        Of all times of the file, ``s``, ``ms``, ``us`` or ``ns``; they are then not doubted. None: as its format has
        them.
    attribute
        Further fields that requests keep: ``class``, ``session``, ``priority`` or a name of your own, each ``NAME`` or
        ``NAME=FIELD``, with commas between; what stands in an object within is ``OBJECT.KEY``.

    Raises
    ------
    UsageError
        No such format, or the file cannot be opened.
    InputError
        With all faults of the file, each with its place; or it carries no law and no server is named.
    """
    log = taken_log(
        "import", path, format, model=model, requests=requests, skip=skip, from_=from_, until=until,
        kv_capacity=kv_capacity, max_batch=max_batch, max_batch_tokens=max_batch_tokens, time_unit=time_unit,
        attribute=attribute,
    )  # fmt: skip
    law = None if server is not None else law_of(log)
    instance = checked(f"{where_of(path)} as {log.format}", lambda: instance_of(log, server_of(server, law)))
    notes = [*log.notes, *(law.notes if law is not None else ())]
    return ImportedLog(instance, observed_of(log, instance), law, tuple(notes))


def taken_log(
    what: str,
    path: str | os.PathLike[str],
    format: str | None,
    *,
    model: str | None,
    requests: int | None,
    skip: int,
    from_: float | None,
    until: float | None,
    kv_capacity: int | None,
    max_batch: int | None,
    max_batch_tokens: int | None,
    time_unit: str | None,
    attribute: str | None = None,
) -> Log:
    """The part of a log that is asked for by ``what``, with what the user knows of the engine; see `import_log`."""
    window = Window(model, from_, until, skip, requests)
    _check(what, window, time_unit)
    log = read_log(path, format, window, time_unit, attribute)
    return with_engine(
        log, what, kv_tokens=kv_capacity, max_num_seqs=max_batch, max_num_batched_tokens=max_batch_tokens
    )


def _check(what: str, window: Window, time_unit: str | None) -> None:
    faults = [
        Fault(f"--{option}", f"found {shown(value)}; allowed: {least} or more")
        for option, value, least in (
            ("requests", window.first, 1), ("skip", window.skip, 0), ("from", window.since, 0),
            ("until", window.until, 0),
        )
        if value is not None and not value >= least
    ]  # fmt: skip
    if time_unit is not None and time_unit not in PER_SECOND:
        faults.append(Fault("--time-unit", f"found {shown(time_unit)}; allowed: {', '.join(PER_SECOND)}"))
    if faults:
        raise InputError(what, faults)


def law_of(log: Log) -> Law:
    """The law of the stamps, or why there is none and what to do."""
    try:
        return fit_law(log)
    except InputError as error:
        fault = error.faults[0]
        advice = "name a server, --server PRESET or FILE, or fit one with `modelkit calibrate`"
        raise InputError(error.where, [Fault(fault.path, f"{fault.message}; {advice}")]) from None


_HELPS = {
    "server": "preset or JSON file of a server; default: the law of iteration times that the log's stamps tell",
    "model": "only requests to this model",
    "requests": "take at most this many requests; default: all",
    "skip": "skip this many requests at the beginning",
    "from_": "leave out requests before this many seconds after the first",
    "until": "leave out requests from this many seconds after the first on",
    "kv_capacity": "KV capacity M [token]; default: the log's, or no limit",
    "max_batch": "requests that an engine takes at once; default: the log's",
    "max_batch_tokens": "tokens that an iteration of an engine takes; default: the log's",
    "time_unit": "unit of all times in the file, which are then not doubted; default: that of its format|s|ms|us|ns",
    "attribute": "fields that requests keep: class, session, priority or a name of your own, each NAME or NAME=FIELD,"
    " such as team=metadata.team, with commas between",
}


def log_importers() -> dict[str, Generator]:
    """All log formats by name, each as what makes instances."""
    options = options_of(import_log, _HELPS)

    def importer(name: str, summary: str, reference: str) -> Generator:
        make: Callable[..., ImportedLog] = lambda path, **chosen: import_log(path, name, **chosen)  # noqa: E731
        return Generator(name, summary, reference, options, make)

    return {entry.name: importer(entry.name, entry.summary, entry.reference) for entry in log_formats().values()}
