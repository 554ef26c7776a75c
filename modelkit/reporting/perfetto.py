"""A schedule as Chrome trace events, for ui.perfetto.dev and chrome://tracing.

A request is a slice on the track of its slot, or where slots are not numbered of the first lane that is free; inside it
lie its prompt, up to its first token, and its decoding. Counters show the tokens in the KV cache, the requests in
progress and those that wait. All are of the judge's replay.
"""

from __future__ import annotations

import heapq
import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any

from modelkit.arguments import checked_arguments
from modelkit.errors import UsageError
from modelkit.instance import Instance
from modelkit.judge import judge
from modelkit.judge.rules import Residency, Verdict
from modelkit.result import Result
from modelkit.schedule import Schedule

#: Moments at which the tokens held are written, about; they grow in between.
SAMPLES = 20_000
#: Processes of the trace: a group of tracks each.
_REQUESTS, _SERVER = 1, 2
#: Nanoseconds in a millisecond.
_NS = 1_000_000

Event = dict[str, Any]


@checked_arguments
def perfetto_trace(schedule: Schedule | Result, instance: Instance, *, round_ms: float | None = None) -> str:
    """The trace events of a schedule as JSON.

    Parameters
    ----------
    round_ms
        Under the unit clock, how long a round is drawn [ms]; 1 by default.

    Raises
    ------
    UsageError
        The result has no schedule, or is about another instance; or ``round_ms`` is none of a round, or there are none.
    """
    if isinstance(schedule, Result):
        if schedule.schedule is None:
            raise UsageError("this result has no schedule to export")
        if schedule.instance.sha256 != instance.sha256:
            raise UsageError("the result is about another instance than the one given: their hashes differ")
        schedule = schedule.schedule
    if round_ms is not None and not (instance.is_unit and 0 < round_ms <= 1e9):
        allowed = "more than 0, up to 10^9" if instance.is_unit else "none, for the instance counts seconds"
        raise UsageError(f"--round-ms: found {round_ms:g}; allowed: {allowed}")
    round_ms = 1.0 if round_ms is None else round_ms
    verdict = judge(instance, schedule)
    per = round_ms * _NS if instance.is_unit else float(_NS)
    events = [*_requests(instance, verdict, per), *_counters(instance, verdict, per)]
    facts = {
        "instance": instance.name,
        "sha256": instance.sha256,
        "valid": not verdict.violations,
        "clock": f"unit: a round is drawn as {round_ms:g} ms" if instance.is_unit else "linear, in real time",
    }
    document = {"traceEvents": events, "displayTimeUnit": "ms", "otherData": facts}
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def _requests(instance: Instance, verdict: Verdict, per: float) -> Iterator[Event]:
    """The tracks of lanes, and a slice for each residency."""
    residencies = sorted((s for s in verdict.residencies if s.end is not None), key=lambda s: (s.begin, s.request))
    lanes = _lanes(residencies)
    numbered = any(s.slot is not None for s in residencies)
    title = f"requests of {instance.name}" if instance.name else "requests"
    yield from _track(_REQUESTS, None, title)
    for lane in sorted(set(lanes)):
        yield from _track(_REQUESTS, lane + 1, f"{'slot' if numbered else 'lane'} {lane}")
    for residency, lane in zip(residencies, lanes, strict=True):
        assert residency.end is not None
        request = instance.requests[residency.request]
        arrival = request.arrival * (1 if instance.is_unit else 1000)
        unit = "rounds" if instance.is_unit else "ms"
        facts: Event = {
            "prompt_tokens": request.prompt_tokens,
            "output_tokens": request.output_tokens,
            f"waited_{unit}": round(residency.begin - arrival, 6),
        }
        if residency.completed:
            facts[f"latency_{unit}"] = round(residency.end - arrival, 6)
        begin, end = _ns(residency.begin, per), _ns(residency.end, per)
        name = request.id if residency.completed else f"{request.id} (evicted)"
        yield _slice(name, "request", lane + 1, begin, end, facts)
        first = end if residency.first_token is None else _ns(residency.first_token, per)
        if begin < first:
            yield _slice("prompt", "prompt", lane + 1, begin, first)
        if first < end:
            yield _slice("decode", "decode", lane + 1, first, end)


def _lanes(residencies: Iterable[Residency]) -> list[int]:
    """The slot of each residency, given by their beginnings, or the first lane that is free."""
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    found, most = [], 0
    for residency in residencies:
        if residency.slot is not None:
            found.append(residency.slot)
            continue
        while busy and busy[0][0] <= residency.begin:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else most
        most = max(most, lane + 1)
        heapq.heappush(busy, (residency.end or 0.0, lane))
        found.append(lane)
    return found


def _counters(instance: Instance, verdict: Verdict, per: float) -> Iterator[Event]:
    """Counters over time: tokens held, requests in progress, requests waiting."""
    yield from _track(_SERVER, None, "server")
    yield from _steps("KV tokens", _held(verdict), per)
    changes = [(s.begin, 1) for s in verdict.residencies] + [
        (s.end, -1) for s in verdict.residencies if s.end is not None
    ]
    yield from _steps("requests in progress", _summed(changes), per)
    each = 1 if instance.is_unit else 1000
    waiting = [(r.arrival * each, 1) for r in instance.requests] + [(s.begin, -1) for s in verdict.residencies]
    waiting += [(s.end, 1) for s in verdict.residencies if s.end is not None and not s.completed]
    yield from _steps("requests waiting", _summed(waiting), per)


def _held(verdict: Verdict) -> Iterator[tuple[float, int]]:
    """(moment, tokens held): the more moments, the longer an interval; none are held when nobody is there."""
    rounds = sum(s.rounds for s in verdict.intervals)
    begins = sorted(s.begin for s in verdict.residencies)
    ends = sorted(s.end for s in verdict.residencies if s.end is not None)
    for interval in verdict.intervals:
        points = max(1, min(interval.rounds, math.ceil(SAMPLES * interval.rounds / max(1, rounds))))
        grown = interval.last_tokens - interval.first_tokens
        for i in range(points):
            moment = interval.begin + (interval.end - interval.begin) * i / points
            yield moment, round(interval.first_tokens + grown * i / max(1, points - 1))
        if bisect_right(begins, interval.end) == bisect_right(ends, interval.end):
            yield interval.end, 0


def _summed(changes: Iterable[tuple[float, int]]) -> Iterator[tuple[float, int]]:
    """(moment, number) after the changes of each moment."""
    total, last = 0, None
    for moment, change in sorted(changes):
        if last is not None and moment > last:
            yield last, total
        total, last = total + change, moment
    if last is not None:
        yield last, total


def _steps(name: str, values: Iterable[tuple[float, int]], per: float) -> Iterator[Event]:
    before = None
    for moment, value in values:
        if value != before:
            yield {"name": name, "ph": "C", "pid": _SERVER, "ts": _ns(moment, per) / 1000, "args": {name: value}}
        before = value


def _ns(moment: float, per: float) -> int:
    """Whole nanoseconds, so that what lies inside a slice lies inside it to the last digit."""
    return round(moment * per)


def _slice(name: str, kind: str, track: int, begin: int, end: int, facts: Event | None = None) -> Event:
    made: Event = {
        "name": name, "cat": kind, "ph": "X", "pid": _REQUESTS, "tid": track, "ts": begin / 1000,
        "dur": (end - begin) / 1000,
    }  # fmt: skip
    return made | ({"args": facts} if facts else {})


def _track(process: int, track: int | None, title: str) -> Iterator[Event]:
    """The name of a group of tracks or of one, and its place."""
    kind = "process" if track is None else "thread"
    place = process if track is None else track
    for what, value in ((f"{kind}_name", {"name": title}), (f"{kind}_sort_index", {"sort_index": place})):
        yield {"name": what, "ph": "M", "pid": process, "tid": track or 0, "args": value}
