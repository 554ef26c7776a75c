"""The neutral record of a log, whatever wrote it, and how its fields are read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from sys import intern
from typing import Any, NamedTuple

from modelkit.clock import MAX_TOKENS
from modelkit.errors import Fault, shown

#: Largest time that is read, in the unit of the file: nanoseconds since 1970 are below.
_LATEST = 1e19
#: Units of moments by how many make a second.
_UNITS = {1.0: "s", 1e3: "ms", 1e6: "us", 1e9: "ns"}
#: Seconds since 1970 of the years from 2001 to 2096, which no other clock and unit is near to.
_SINCE_1970 = (1e9, 4e9)


class LogRecord(NamedTuple):
    """One request as a log has it; times in seconds on one clock of the log's own, None where it does not say.

    ``gaps`` are the times between tokens, one fewer than tokens, and ``place`` is where in the file it stands.
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
    place: str = ""

    @property
    def stamped(self) -> bool:
        """Whether the log says when its first and its last token came."""
        return self.first_token is not None and self.last_token is not None

    @property
    def computed(self) -> int:
        """Prompt tokens that were not in the prefix cache; the last of a prompt never is."""
        return max(1, self.prompt - self.cached)


@dataclass(frozen=True)
class Engine:
    """What a log says of the engine; None where it says nothing.

    ``max_num_seqs`` and ``max_num_batched_tokens`` are those of one engine, of which there are ``engines``.
    """

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_size: int | None = None
    kv_tokens: int | None = None
    engines: int = 1
    model: str | None = None
    version: str | None = None

    def document(self) -> dict[str, Any]:
        """The same as JSON-ready data."""
        return dict(vars(self))


@dataclass
class Reading:
    """What is found while a log is read: faults, the engine, and what is said of the rest."""

    where: str
    faults: list[Fault] = field(default_factory=list)
    engine: Engine = field(default_factory=Engine)
    ignored: Counter[str] = field(default_factory=Counter)


class Fields:
    """A JSON object or a row of a table whose fields are read by their keys, with a fault where one is wrong."""

    def __init__(self, place: str, data: Mapping[str, Any], reading: Reading) -> None:
        self.place = place
        self._data = data
        self._reading = reading

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
        if fault not in self._reading.faults[-len(self._data) :]:
            self._reading.faults.append(fault)

    def fault(self, path: tuple[str, ...], allowed: str) -> None:
        """Note a wrong field."""
        found = self.get(*path)
        words = "is missing" if found is None else f"found {shown(found)}"
        self._reading.faults.append(Fault(f"{self.place}, {'.'.join(path)}", f"{words}; allowed: {allowed}"))

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
        if value is None:
            return None
        for scale, unit in _UNITS.items():
            if scale != per_second and _SINCE_1970[0] <= value / scale < _SINCE_1970[1]:
                self.fault(path, f"a time in {_UNITS[per_second]}; this seems to be one in {unit} since 1970")
                return None
        return value / per_second

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


def is_time(value: object) -> bool:
    """Whether a value is a number of a size that times have."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LATEST


def after(start: float | None, duration: float | None, per_second: float = 1.0) -> float | None:
    """The moment ``duration / per_second`` seconds after ``start``; None where either is not known."""
    return None if start is None or duration is None else start + duration / per_second


def seconds(value: float | None, per_second: float) -> float | None:
    """A time in other units in seconds."""
    return None if value is None else value / per_second
