"""When each request of a replayed schedule started, gave its first token and was done."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import NamedTuple

from modelkit.instance import Instance
from modelkit.judge.verdict import Verdict


class RequestTimes(NamedTuple):
    """One request, as it was served. Times from 0, in rounds under the unit clock and in ms otherwise.

    ``start`` is the admission that led to the completion, the last one where a request was evicted; ``first_token`` the
    end of the round of the first token since then. What never came is None.
    """

    id: str
    arrival: float
    start: float | None
    first_token: float | None
    finish: float | None
    admissions: int

    @property
    def latency(self) -> float | None:
        """``finish - arrival``."""
        return None if self.finish is None else self.finish - self.arrival

    @property
    def time_to_first_token(self) -> float | None:
        """``first_token - arrival``."""
        return None if self.first_token is None else self.first_token - self.arrival


def request_times(instance: Instance, verdict: Verdict) -> list[RequestTimes]:
    """The times of every request, in the order of the instance; O(n + admissions)."""
    per_time = 1 if instance.is_unit else 1000.0
    times = [RequestTimes(r.id, r.arrival * per_time, None, None, None, 0) for r in instance.requests]
    for stay in verdict.stays:
        before = times[stay.request]
        times[stay.request] = before._replace(
            start=stay.begin,
            first_token=stay.first_token,
            finish=stay.end if stay.completed else None,
            admissions=before.admissions + 1,
        )
    return times


def request_times_csv(instance: Instance, times: Iterable[RequestTimes]) -> str:
    """The times as a table, a line each; the heads of the columns name the unit."""
    unit = "rounds" if instance.is_unit else "ms"
    heads = ("arrival", "start", "first_token", "finish", "time_to_first_token", "latency")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", *(f"{head}_{unit}" for head in heads), "admissions"])
    for row in times:
        values = [getattr(row, head) for head in heads]
        table.writerow([row.id, *("" if value is None else f"{value:.15g}" for value in values), row.admissions])
    return text.getvalue()
