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
from modelkit.judge.slo import keeps
from modelkit.requests import ServiceLevels


class RequestTime(NamedTuple):
    """When a request arrived, started, had its first token and finished, and finish - arrival; None where it never did.

    Where it was evicted, ``start`` and ``first_token`` are of the residency that ended last. ``replica`` served it;
    ``paused`` is how long it was paused in that residency. ``ttft`` and ``tpot`` are the time to first token, and per
    token after it, where there is one; ``within_slo`` is whether it kept its service levels, where there are any.
    """

    id: str
    arrival: float
    start: float | None
    first_token: float | None
    finish: float | None
    latency: float | None
    replica: int | None = 1
    paused: float | None = None
    ttft: float | None = None
    tpot: float | None = None
    within_slo: bool | None = None


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
    levels
        Whether there are service levels; there a column says who kept them. Only in real time, as TTFT and TPOT are.
    """

    unit: str
    rows: tuple[RequestTime, ...]
    replicas: int = 1
    pauses: bool = False
    levels: bool = False

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
        timed = ("ttft", "tpot") if self.unit == "ms" else ()
        times = (*RequestTime._fields[1:6], *timed, *(("paused",) if self.pauses else ()))
        names = {"id": "id", **{name: f"{name}_{self.unit}" for name in times}}
        shown = {"within_slo": self.levels, "replica": self.replicas > 1}
        names |= {name: name for name, is_shown in shown.items() if is_shown}
        return {called: [getattr(row, name) for row in self.rows] for name, called in names.items()}

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


def request_times(instance: Instance, verdict: Verdict, slo: ServiceLevels | None = None) -> RequestTimes:
    """Times of every request of a replayed schedule; ``slo`` are levels in place of the instance's own."""
    last: dict[int, Residency] = {}
    for found in verdict.residencies:
        if found.request not in last or not last[found.request].completed:
            last[found.request] = found
    levels = None if instance.is_unit else slo or instance.server.slo
    rows = tuple(_times(instance, i, last.get(i), levels) for i in range(len(instance.requests)))
    server = instance.server
    return RequestTimes(instance.unit, rows, server.replicas, server.pause is not None, levels is not None)


def _times(instance: Instance, i: int, residency: Residency | None, levels: ServiceLevels | None) -> RequestTime:
    """Those of one request, of the residency that ended last."""
    request = instance.requests[i]
    arrival = request.arrival * (1 if instance.is_unit else 1000)
    if residency is None:
        return RequestTime(request.id, whole(arrival), None, None, None, None, None)
    first, finish = residency.first_token, residency.end if residency.completed else None
    ttft, latency = (None if end is None else end - arrival for end in (first, finish))
    after = request.output_tokens - 1
    tpot = (finish - first) / after if finish is not None and first is not None and after else None
    kept = None if levels is None or latency is None or ttft is None else keeps(
        levels.limits_of(request), ttft, latency, request.output_tokens
    )  # fmt: skip
    begin, first, finish, latency, ttft, tpot = map(whole, (residency.begin, first, finish, latency, ttft, tpot))
    paused = whole(residency.paused)
    return RequestTime(
        request.id, whole(arrival), begin, first, finish, latency, residency.replica, paused, ttft, tpot, kept
    )
