"""The neutral record of a log, whatever wrote it, and how its fields are read."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from sys import intern
from typing import Any, NamedTuple

import numpy as np

from modelkit.clock import MAX_TOKENS
from modelkit.errors import Fault, shown
from modelkit.sources.traces.attributes import Attributes
from modelkit.text import count

#: Largest time that is read, in the unit of the file: nanoseconds since 1970 are below.
_LATEST = 1e19
#: Units of moments by how many make a second.
_UNITS = {1.0: "s", 1e3: "ms", 1e6: "us", 1e9: "ns"}
PER_SECOND = {unit: per_second for per_second, unit in _UNITS.items()}
#: Times that are in two places are in other units where one is more than so many times the other, and over so long [s].
APART, LEAST_S = 10.0, 0.05
#: Clocks run alike up to this share of what they measure; how many moments on both are kept.
ALIKE, MOST_MOMENTS = 0.05, 100_000
#: Factors between units.
FACTORS = (1e-9, 1e-6, 1e-3, 1e3, 1e6, 1e9)
#: Longest time between moments since 1970 of one log [s].
LONGEST_S = 1e7
#: Seconds since 1970 of the years from 2014 to 2049.
_SINCE_1970 = (1.4e9, 2.5e9)


class LogRecord(NamedTuple):
    """One request as a log has it; times in seconds on one clock of the log's own, None where it does not say.

    ``gaps`` are the times between tokens, one fewer than tokens, ``said`` is what the user asked for of other fields,
    and ``place`` is where in the file it stands.
    """

    id: str
    arrival: float | None
    prompt: int
    output: int
    first_token: float | None = None
    last_token: float | None = None
    scheduled: float | None = None
    cached: int = 0
    session: str | None = None
    parent: str | None = None
    delay: float | None = None
    request_class: str | None = None
    model: str | None = None
    failed: bool = False
    warm_up: bool = False
    gaps: Sequence[float] | None = None
    said: Mapping[str, Any] | None = None
    place: str = ""

    @property
    def stamped(self) -> bool:
        """Whether the log says when its first and its last token came."""
        return self.first_token is not None and self.last_token is not None

    @property
    def computed(self) -> int:
        """Prompt tokens that were not in the prefix cache; the last of a prompt never is."""
        return max(1, self.prompt - self.cached)


@dataclass
class Twice:
    """What a log says twice, in fields of different names: how often it differs, and how far its moments span.

    Parameters
    ----------
    count, apart
        Requests that have the time twice, and those where one is `APART` times the other; ``example`` is the first.
    one, other
        Moments of the first requests on either clock [s].
    """

    count: int = 0
    apart: int = 0
    example: str = ""
    one: array[float] = field(default_factory=lambda: array("d"))
    other: array[float] = field(default_factory=lambda: array("d"))

    def durations(self, one: float, other: float, place: str, most: float) -> None:
        """A time [s] in two places."""
        self.count += 1
        if max(one, other) > LEAST_S and not min(one, other) * most >= max(one, other):
            self.apart += 1
            self.example = self.example or f"{place}: {one:.3g} s and {other:.3g} s"

    def moments(self, one: float, other: float) -> None:
        """A moment [s] on two clocks."""
        if len(self.one) < MOST_MOMENTS:
            self.one.append(one)
            self.other.append(other)

    def alike(self, factor: float = 1.0) -> bool:
        """Whether both clocks run alike when one counts ``factor`` times as fast."""
        one, other = np.array(self.one), np.array(self.other)
        if len(one) < 3:
            return False
        off, length = np.ptp(other - factor * one), np.ptp(other)
        return bool(length > 0 and off <= ALIKE * length)

    @property
    def disagree(self) -> str | None:
        """How the two differ, in words; None where they agree or nothing is known."""
        if 2 * self.apart > self.count:
            return f"differ in {self.apart:,} of {count(self.count, 'request')}; {self.example}"
        if not self.alike() and any(map(self.alike, FACTORS)):
            one, other = (np.ptp(np.array(moments)) for moments in (self.one, self.other))
            return f"are moments on clocks of two units: over the log they span {one:.3g} s and {other:.3g} s"
        return None


@dataclass
class Seen:
    """The moments of a field, all in one unit: the least and the largest, and the first that is no whole number.

    ``place`` is that of the first one, and ``per_second`` how many of the format's units make a second.
    """

    place: str
    per_second: float
    least: float = math.inf
    most: float = -math.inf
    fraction: float | None = None

    def add(self, value: float) -> None:
        """Take in a moment as it stands in the file."""
        self.least, self.most = min(self.least, value), max(self.most, value)
        if self.fraction is None and self.per_second > 1e3 and not value.is_integer():
            self.fraction = value

    @property
    def doubt(self) -> Fault | None:
        """What speaks against the unit; None where nothing does."""
        unit, advice = _UNITS[self.per_second], "--time-unit states the unit"
        for scale, other in _UNITS.items():
            least, most = self.least / scale, self.most / scale
            since = _SINCE_1970[0] <= least <= most < _SINCE_1970[1] and most - least <= LONGEST_S
            if scale != self.per_second and since:
                words = f"allowed: a time in {unit}; this seems to be one in {other} since 1970 ({advice})"
                return Fault(self.place, f"found {self.least!r} to {self.most!r}; {words}")
        if self.fraction is not None:
            words = f"allowed: whole {unit}; with a fraction it may be in seconds ({advice})"
            return Fault(self.place, f"found {self.fraction!r} there or in a later request; {words}")
        return None


@dataclass(frozen=True)
class Engine:
    """What a log says of the engine; None where it says nothing.

    ``max_num_seqs``, ``max_num_batched_tokens`` and ``kv_tokens`` are those of one engine, of which there are
    ``engines``; ``kv_share`` is the largest share of the KV cache that was in use.
    """

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_size: int | None = None
    kv_tokens: int | None = None
    kv_share: float | None = None
    engines: int = 1
    model: str | None = None
    version: str | None = None

    def document(self) -> dict[str, Any]:
        """The same as JSON-ready data."""
        return dict(vars(self))


@dataclass
class Reading:
    """What is found while a log is read: faults, the engine, what it says twice, which moments, and the rest.

    ``per_second`` is how many of the file's times make a second, where the user says so; None: as its format has it.
    ``attributes`` are further fields that requests keep.
    """

    where: str
    per_second: float | None = None
    attributes: Attributes | None = None
    faults: list[Fault] = field(default_factory=list)
    engine: Engine = field(default_factory=Engine)
    models: set[str] = field(default_factory=set)
    twice: dict[str, Twice] = field(default_factory=dict)
    seen: dict[tuple[str, ...], Seen] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)

    def durations(self, names: str, one: float | None, other: float | None, place: str, most: float = APART) -> None:
        """Note a time [s] that a request has in two places."""
        if one is not None and other is not None:
            self.twice.setdefault(names, Twice()).durations(one, other, place, most)

    def moments(self, names: str, one: float | None, other: float | None) -> None:
        """Note a moment [s] that a request has on two clocks."""
        if one is not None and other is not None:
            self.twice.setdefault(names, Twice()).moments(one, other)


class Fields:
    """A JSON object or a row of a table whose fields are read by their keys, with a fault where one is wrong."""

    def __init__(self, place: str, data: Mapping[str, Any], reading: Reading) -> None:
        self.place = place
        self.reading = reading
        self._data = data

    @property
    def per_second(self) -> float | None:
        """How many of the file's times make a second, where the user says so."""
        return self.reading.per_second

    @property
    def said(self) -> Mapping[str, Any] | None:
        """What the user asked for beside times and lengths, as fields of a request; None where that is nothing."""
        wanted = self.reading.attributes
        return None if wanted is None else wanted.of(self._data, self.place, self.reading.faults)

    def get(self, *path: str) -> Any:
        """What stands there; None when nothing does, with a fault where what should hold it is no object."""
        found: Any = self._data
        for depth, key in enumerate(path):
            if not isinstance(found, Mapping):
                return None if found is None else self._no_object(path[:depth], found)
            found = found.get(key)
        return found

    def _no_object(self, path: tuple[str, ...], found: object) -> None:
        fault = Fault(f"{self.place}, {'.'.join(path)}", f"found {shown(found)}; allowed: a JSON object")
        if fault not in self.reading.faults[-len(self._data) :]:
            self.reading.faults.append(fault)

    def fault(self, path: tuple[str, ...], allowed: str) -> None:
        """Note a wrong field."""
        found = self.get(*path)
        words = "is missing" if found is None else f"found {shown(found)}"
        self.reading.faults.append(Fault(f"{self.place}, {'.'.join(path)}", f"{words}; allowed: {allowed}"))

    def number(self, *path: str, needed: bool = False) -> float | None:
        """A finite number; None where there is none."""
        value = self.get(*path)
        if (value is None or value == "") and not needed:
            return None
        try:
            number = math.nan if value is None or isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not abs(number) <= _LATEST:
            self.fault(path, "a finite number")
            return None
        return number

    def moment(self, *path: str, per_second: float = 1.0, needed: bool = False) -> float | None:
        """A moment [s] that stands there in a unit of which ``per_second`` make a second; None where there is none."""
        value = self.number(*path, needed=needed)
        told = self.reading.per_second
        if value is None or told is not None:
            return seconds(value, told or per_second)
        seen = self.reading.seen.get(path)
        if seen is None:
            seen = self.reading.seen[path] = Seen(f"{self.place}, {'.'.join(path)}", per_second)
        seen.add(value)
        return value / per_second

    def duration(self, *path: str, per_second: float = 1.0) -> float | None:
        """A time that something took [s]; None where there is none."""
        return seconds(self.number(*path), self.reading.per_second or per_second)

    def tokens(self, *path: str, needed: bool = True) -> int:
        """A number of tokens, 0 or more, such as 374 or 374.0; 0 where there is none."""
        value = self.get(*path)
        if (value is None or value == "") and not needed:
            return 0
        try:
            number = math.nan if value is None or isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not (0 <= number <= MAX_TOKENS and number.is_integer()):
            self.fault(path, f"a whole number from 0 to {MAX_TOKENS}")
            return 0
        return int(number)

    def text(self, *path: str) -> str | None:
        """A text, or a number as one; None where there is none."""
        value = self.get(*path)
        if value is None or value == "":
            return None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            self.fault(path, "a text")
            return None
        return intern(str(value)[:200])

    def text_of(self, column: str) -> str | None:
        """A text of any length, such as a list in a cell; None where there is none."""
        value = self.get(column)
        return value if isinstance(value, str) and value.strip() else None


def is_time(value: object) -> bool:
    """Whether a value is a number of a size that times have."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LATEST


def after(start: float | None, duration: float | None) -> float | None:
    """The moment ``duration`` seconds after ``start``; None where either is not known."""
    return None if start is None or duration is None else start + duration


def between(start: float | None, end: float | None) -> float | None:
    """Seconds from ``start`` to ``end``; None where either is not known."""
    return None if start is None or end is None else end - start


def seconds(value: float | None, per_second: float) -> float | None:
    """A time in other units in seconds."""
    return None if value is None else value / per_second
