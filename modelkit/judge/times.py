"""The times of every request, from the judge's replay."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload

from modelkit.errors import UsageError
from modelkit.instance import Instance, whole
from modelkit.judge.rules import Residency, Verdict


class RequestTime(NamedTuple):
    """When a request arrived, started, had its first token and finished, and finish - arrival; None where it never did.

    Where it was evicted, ``start`` and ``first_token`` are of the residency that ended last. ``replica`` served it;
    ``paused`` is how long it was paused in that residency.
    """

    id: str
    arrival: float
    start: float | None
    first_token: float | None
    finish: float | None
    latency: float | None
    replica: int | None = 1
    paused: float | None = None


@dataclass(frozen=True, repr=False)
class RequestTimes(Sequence[RequestTime]):
    """One `RequestTime` a request, in the order of the instance.

    Parameters
    ----------
    unit
        ``rounds`` under the unit clock, else ``ms``; of all times.
    replicas
        Of the server; columns say which one served a request where there are several.
    pauses
        Whether the server pauses requests; there a column says for how long.
    """

    unit: str
    rows: tuple[RequestTime, ...]
    replicas: int = 1
    pauses: bool = False

    @overload
    def __getitem__(self, position: int) -> RequestTime: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[RequestTime]: ...
    def __getitem__(self, position: int | slice) -> RequestTime | Sequence[RequestTime]:
        return self.rows[position]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[RequestTime]:
        return iter(self.rows)

    def __repr__(self) -> str:
        return f"RequestTimes({len(self.rows):,} request{'' if len(self.rows) == 1 else 's'}, in {self.unit})"

    def columns(self) -> dict[str, list[Any]]:
        """The same as lists by column; the names of times end in their unit, such as ``latency_ms``."""
        names = {name: f"{name}_{self.unit}" for name in RequestTime._fields[1:] if name != "replica"}
        if not self.pauses:
            del names["paused"]
        names = {"id": "id", **names, **({"replica": "replica"} if self.replicas > 1 else {})}
        return {shown: [getattr(row, name) for row in self.rows] for name, shown in names.items()}

    def to_frame(self) -> Any:
        """The columns as a pandas frame.

        Raises
        ------
        UsageError
            pandas is not installed.
        """
        try:
            import pandas  # type: ignore[import-untyped,import-not-found,unused-ignore]
        except ImportError:
            raise UsageError("a frame needs pandas: pip install pandas; columns() and to_csv() need nothing") from None
        return pandas.DataFrame(self.columns())

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """The columns as CSV, written to ``path`` where one is named.

        Raises
        ------
        UsageError
            The file cannot be written.
        """
        columns = self.columns()
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        if path is not None:
            try:
                Path(path).write_text(text.getvalue(), encoding="utf-8", newline="")
            except (OSError, ValueError) as error:
                raise UsageError(f"cannot write {os.fspath(path)!r}: {getattr(error, 'strerror', error)}") from None
        return text.getvalue()


def request_times(instance: Instance, verdict: Verdict) -> RequestTimes:
    """Times of every request of a replayed schedule."""
    last: dict[int, Residency] = {}
    for found in verdict.residencies:
        if found.request not in last or not last[found.request].completed:
            last[found.request] = found
    per_time = 1 if instance.is_unit else 1000
    rows = []
    for i, request in enumerate(instance.requests):
        arrival, residency = request.arrival * per_time, last.get(i)
        finish = residency.end if residency is not None and residency.completed else None
        begin, first = (None, None) if residency is None else (residency.begin, residency.first_token)
        times = (arrival, begin, first, finish, None if finish is None else finish - arrival)
        row = RequestTime(request.id, *(whole(time) for time in times))
        if residency is not None:
            row = row._replace(replica=residency.replica, paused=whole(residency.paused))
        rows.append(row if residency is not None else row._replace(replica=None))
    return RequestTimes(instance.unit, tuple(rows), instance.server.replicas, instance.server.pause is not None)
