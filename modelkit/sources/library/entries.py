"""What the library says of its instances: ``library.json``, one entry each.

::

    {"schema": "modelkit/library/1",
     "entries": [
       {"instance": "...", "sha256": "...", "size": 20, "family": "small-memory", "objective": "total_latency_rounds",
        "status": "open" | "closed", "lower_bound": x | null, "upper_bound": y | null,
        "lb_data": [{"value", "date", "who", "method", "seconds", "machine", "certificate": PATH}, ...],
        "ub_data": [{"value", "date", "who", "method", "seconds", "machine", "schedule": PATH}, ...],
        "policies": {"clairvoyant" | "predicted" | "blind": {"policy", "predictions", "value", "date", "who"}},
        "features": {...}, "recipe": {...}, "file": PATH | null}, ...]}

A lower bound stands here only with a certificate that anyone can recompute. Histories run from the oldest to the
newest; the newest names its file, the files of those before it are gone. Paths are within the library's folder.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from modelkit.arguments import Data
from modelkit.certificate import Certificate
from modelkit.errors import Fault, InputError, UsageError, did_you_mean
from modelkit.instance import whole
from modelkit.io import faults_of, load_certificate, load_result, read_json, trim, write_text
from modelkit.result import Result, agree, relative_gap
from modelkit.runtime.resources import bundled

SCHEMA = "modelkit/library/1"

Folder = str | os.PathLike[str]

#: What policies are told of output lengths: the truth, predictions that may be wrong, one limit for all.
Division = Literal["clairvoyant", "predicted", "blind"]
DIVISIONS: tuple[Division, ...] = ("clairvoyant", "predicted", "blind")


class Found(Data):
    """A value or a bound that somebody found.

    Parameters
    ----------
    value
        Of the entry's objective.
    date
        Year, month and day.
    who, method, machine
        In words.
    seconds
        How long it took.
    """

    value: float
    date: str = Field(pattern=r"^\d{4}-\d\d-\d\d$")
    who: str = Field(max_length=200)
    method: str = Field(max_length=200)
    seconds: float | None = None
    machine: str | None = Field(default=None, max_length=200)


class FoundBound(Found):
    """A lower bound, with the path of its certificate."""

    certificate: str | None = None


class FoundValue(Found):
    """A value, with the path of the result that has its schedule."""

    schedule: str | None = None


class BestPolicy(Data):
    """The best policy of a division: with which options, what it was told of output lengths, and its value."""

    policy: str
    predictions: str | None = None
    value: float
    date: str
    who: str


class TraceFile(Data):
    """A public file that users fetch themselves: where from, its hash, and under which licence."""

    url: str
    sha256: str
    licence: str
    format: str


class Recipe(Data):
    """What makes an instance: a family or a trace, with options.

    Parameters
    ----------
    family, trace
        Either.
    options
        As `modelkit generate` or `modelkit import` takes them.
    server
        In place of the one that comes out, as instance files state it.
    description
        In place of the one that comes out.
    """

    family: str | None = None
    trace: TraceFile | None = None
    options: dict[str, Any] = Field(default={})
    server: dict[str, Any] | None = None
    description: str | None = None


class Features(Data):
    """What an instance was chosen by.

    Parameters
    ----------
    load
        Least share of the server that the arrivals need; None where all come at once.
    pressure
        Demand at its height over what the server has, were every request to start on arrival and run alone: of memory,
        or of slots where those are the limit.
    output_variation, burstiness
        Coefficient of variation of output lengths, and of the gaps between arrivals; the latter None where all come at
        once.
    """

    load: float | None
    pressure: float
    output_variation: float
    burstiness: float | None


class Entry(Data):
    """An instance of the library: what it is, what is known of it, and who found that."""

    instance: str
    description: str = ""
    sha256: str
    size: int
    family: str
    objective: str
    status: Literal["open", "closed"] = "open"
    lower_bound: float | None = None
    upper_bound: float | None = None
    lb_data: tuple[FoundBound, ...] = ()
    ub_data: tuple[FoundValue, ...] = ()
    policies: dict[Division, BestPolicy] = Field(default={})
    features: Features
    recipe: Recipe
    file: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Entry:
        faults = []
        for bound, history, better in (("lower_bound", self.lb_data, 1), ("upper_bound", self.ub_data, -1)):
            values = [found.value for found in history]
            if values != sorted(values, key=lambda value: better * value):
                faults.append(f"{bound}: its history gets worse")
            if getattr(self, bound) != (values[-1] if values else None):
                faults.append(f"{bound}: is not the last of its history")
        if self.status != status_of(self.lower_bound, self.upper_bound):
            faults.append(f"status: {self.status}, against the bounds")
        if faults:
            raise InputError(f"library entry {self.instance!r}", [Fault("$", words) for words in faults])
        return self

    @property
    def gap(self) -> float | None:
        """(upper - lower) / upper; None where either is not known."""
        return relative_gap(self.upper_bound, self.lower_bound)

    @property
    def schedule_path(self) -> str | None:
        """Path of the best schedule, within the library's folder."""
        return self.ub_data[-1].schedule if self.ub_data else None

    @property
    def certificate_path(self) -> str | None:
        """Path of the best bound's certificate, within the library's folder."""
        return self.lb_data[-1].certificate if self.lb_data else None

    def best(self, folder: Folder | None = None) -> Result | None:
        """The best schedule known, as a result; None where there is none."""
        path = self.schedule_path
        return None if path is None else load_result(file_of(path, folder))

    def certificate(self, folder: Folder | None = None) -> Certificate | None:
        """The certificate of the best lower bound; None where there is none."""
        path = self.certificate_path
        return None if path is None else load_certificate(file_of(path, folder))

    def with_found(self, *, lower: FoundBound | None = None, upper: FoundValue | None = None) -> Entry:
        """The entry with a better bound or value; what was best before keeps its place in the history, not its file."""
        fields = self._fields()
        if lower is not None:
            past = [bound.model_copy(update={"certificate": None}) for bound in self.lb_data]
            fields |= {"lb_data": (*past, lower), "lower_bound": lower.value}
        if upper is not None:
            gone = [value.model_copy(update={"schedule": None}) for value in self.ub_data]
            fields |= {"ub_data": (*gone, upper), "upper_bound": upper.value}
        fields["status"] = status_of(fields["lower_bound"], fields["upper_bound"])
        return Entry(**fields)

    def with_policy(self, division: Division, best: BestPolicy) -> Entry:
        """The entry with another best policy of a division."""
        known = {**self.policies, division: best}
        return Entry(**{**self._fields(), "policies": {name: known[name] for name in DIVISIONS if name in known}})

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields}


def status_of(lower: float | None, upper: float | None) -> Literal["open", "closed"]:
    """``closed`` where bound and value are one."""
    if lower is None or upper is None:
        return "open"
    return "closed" if lower >= upper or agree(lower, upper) else "open"


def library_folder() -> Path:
    """The folder of the library that comes with modelkit."""
    return bundled("instances") / "library"


def file_of(path: str, folder: Folder | None = None) -> Path:
    """A file of the library, which a folder of changes to it may have or not."""
    own = Path(folder or library_folder()) / path
    return own if own.exists() else library_folder() / path


@lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> dict[str, Entry]:
    """The entries of a file as it was when it last changed."""
    document = read_json(path)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise InputError(str(path), [Fault("$.schema", f"allowed: {SCHEMA!r}")])
    found: dict[str, Entry] = {}
    for place, record in enumerate(document.get("entries", [])):
        try:
            entry = Entry.model_validate(trim(record, Entry))
        except ValidationError as error:
            raise InputError(f"{path}, entry {place + 1}", faults_of(error)) from None
        found[entry.instance] = entry
    return found


def library_entries(folder: Folder | None = None) -> dict[str, Entry]:
    """The entries of the library by name, in its order.

    Parameters
    ----------
    folder
        Where ``library.json`` lies; None: the library that comes with modelkit.
    """
    path = Path(folder or library_folder()) / "library.json"
    return dict(_read(path, path.stat().st_mtime_ns))


def find_entry(name: str, folder: Folder | None = None) -> Entry:
    """The entry called ``name``.

    Raises
    ------
    UsageError
        There is none; the message has the nearest name.
    """
    entries = library_entries(folder)
    if name not in entries:
        words = f"no instance {name!r} in the library{did_you_mean(name, entries)}"
        raise UsageError(f"{words}\n  `modelkit library list` shows the {len(entries)} that it has")
    return entries[name]


def write_entries(entries: dict[str, Entry], folder: Path) -> Path:
    """Write ``library.json``: an entry's fields on lines of their own, so that a change can be read as a difference."""
    parts = []
    for entry in entries.values():
        fields = [f"   {json.dumps(key)}: {_compact(value)}" for key, value in _document(entry).items()]
        parts.append("  {\n" + ",\n".join(fields) + "\n  }")
    text = f'{{\n "schema": {json.dumps(SCHEMA)},\n "entries": [\n' + ",\n".join(parts) + "\n ]\n}\n"
    path = folder / "library.json"
    write_text(path, text)
    return path


def _document(entry: Entry) -> dict[str, Any]:
    document = entry.model_dump()
    document["recipe"] = {key: value for key, value in document["recipe"].items() if value is not None}
    return document


def _compact(value: Any) -> str:
    """JSON on one line; a history has a line for each of its records."""
    if isinstance(value, list | tuple) and value:
        return "[\n" + ",\n".join(f"    {_compact(record)}" for record in value) + "\n   ]"
    return json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else whole(value)
