"""What traces and logs say of requests beside times and lengths: class, session, priority, data of one's own."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelkit.errors import Fault, InputError, did_you_mean, shown
from modelkit.requests import ATTRIBUTES

#: What traces call them.
_USUAL = {
    "class": ("slo_class", "tenant_class", "type", "Model", "model"),
    "session": ("session_id", "Session ID", "conversation_id", "chat_id"),
    "priority": ("priority",),
}
#: Objects within objects whose keys are looked at.
_DEEPEST = 8


@dataclass
class Attributes:
    """The columns that requests keep, by the name that they have there.

    Parameters
    ----------
    columns
        For each name, those that may hold it; the first that a row has.
    """

    columns: dict[str, tuple[str, ...]]
    seen: set[str] = field(default_factory=set)
    there: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, text: str | None) -> Attributes | None:
        """Those of ``class,session=chat_id,team=Tenant``: a name alone is a column of that name or of a usual one."""
        if text is None:
            return None
        columns: dict[str, tuple[str, ...]] = {}
        for part in text.split(","):
            name, equals, column = (word.strip() for word in part.partition("="))
            if not name.isidentifier() or (equals and not column):
                words = f"found {shown(part)}; allowed: NAME or NAME=COLUMN, several with commas between"
                raise InputError("import", [Fault("--attribute", words)])
            columns[name] = (column,) if equals else (name, *_USUAL.get(name, ()))
        return cls(columns)

    def of(self, data: Mapping[str, Any], place: str, faults: list[Fault]) -> dict[str, Any]:
        """What a row or an object says, which stands at ``place``: fields of a request.

        What stands in an object within is called ``OBJECT.KEY``.
        """
        cells = dict(_flat(data))
        said: dict[str, Any] = {}
        own: dict[str, Any] = {}
        self.there.update(cells if len(self.there) < 1000 else ())
        for name, columns in self.columns.items():
            column = next((column for column in columns if column in cells), None)
            if column is None:
                continue
            self.seen.add(name)
            value = cells[column]
            if value in (None, ""):
                continue
            if name == "priority":
                said[name] = _number(value, f"{place}, {column}", faults)
            elif name in ATTRIBUTES.values():
                said[name] = str(value)[:200]
            else:
                own[name] = _value(value)
        return said | ({"extra": own} if own else {})

    def check(self, where: str) -> None:
        """Refuse names of which no row has a column.

        Raises
        ------
        InputError
            With the columns that there are.
        """
        faults = [
            Fault("--attribute", f"no request has a column {columns[0]!r}{did_you_mean(columns[0], self.there)};"
                  f" there are {shown(', '.join(sorted(self.there)), 200)}")
            for name, columns in self.columns.items()
            if name not in self.seen
        ]  # fmt: skip
        if faults:
            raise InputError(where, faults)


def _flat(data: Mapping[str, Any], before: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Keys and values, those of objects within with the way there before them."""
    for key, value in data.items():
        if isinstance(value, Mapping) and depth < _DEEPEST:
            yield from _flat(value, f"{before}{key}.", depth + 1)
        else:
            yield f"{before}{key}", value.strip() if isinstance(value, str) else value


def _number(value: Any, place: str, faults: list[Fault]) -> float | None:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= 1e12:
        faults.append(Fault(place, f"found {shown(value)}; allowed: a number"))
        return None
    return number


def _value(value: Any) -> Any:
    """A cell as JSON has it: a number, or text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_constant=str)
    except (ValueError, RecursionError):
        return value
