"""A schedule, or the run of a log, as Chrome trace events, for ui.perfetto.dev and chrome://tracing.

A request is a slice on the track of its slot, or where slots are not numbered of the first lane that is free; inside it
lie its prompt, up to its first token, and its decoding, with its pauses. Counters show the tokens in the KV cache, the
requests in progress and those that wait; each replica has tracks and counters of its own. All are of the judge's
replay. A log does not say when a request was admitted: there a request is a slice from its arrival on.

Of the format Perfetto takes: whole microseconds, for it cuts off the rest, so that slices which touch would overlap;
slices of a track that lie apart or one inside the other; and numbers of tracks that no other process has.
"""

from __future__ import annotations

import heapq
import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from modelkit.arguments import checked_arguments
from modelkit.errors import UsageError
from modelkit.instance import Instance
from modelkit.judge import judge
from modelkit.judge.rules import Residency, Verdict
from modelkit.result import Result
from modelkit.schedule import Schedule
from modelkit.sources.logs.observed import AS_LOGGED, Observed

#: Moments at which the tokens held are written, about; they grow in between.
SAMPLES = 20_000
#: Microseconds in a millisecond.
_US = 1000.0
#: Shortest round that is drawn [ms].
_SHORTEST_MS = 0.001

Event = dict[str, Any]
Lane = tuple[float, float, int | None]


@checked_arguments
def perfetto_trace(
    schedule: Schedule | Result | Observed, instance: Instance | None = None, *, round_ms: float | None = None
) -> str:
    """The trace events of a schedule, or of the run that a log shows, as JSON.

    Parameters
    ----------
    instance
        Of a schedule or a result; an observed run has its own.
    round_ms
        Under the unit clock, how long a round is drawn [ms], 0.001 or more; 1 by default.

    Raises
    ------
    UsageError
        The result has no schedule, is about another instance, or has none beside it; or ``round_ms`` is none of a
        round, or there are none.
    """
    if isinstance(schedule, Result):
        if schedule.schedule is None:
            raise UsageError("this result has no schedule to export")
        if instance is not None and schedule.instance.sha256 != instance.sha256:
            raise UsageError("the result is about another instance than the one given: their hashes differ")
    instance = schedule.instance if isinstance(schedule, Observed) else instance
    if instance is None:
        raise UsageError("the instance of the schedule is missing: perfetto_trace(schedule, instance)")
    if round_ms is not None and not (instance.is_unit and _SHORTEST_MS <= round_ms <= 1e9):
        allowed = f"{_SHORTEST_MS:g} to 10^9" if instance.is_unit else "none, for the instance counts seconds"
        raise UsageError(f"--round-ms: found {round_ms:g}; allowed: {allowed}")
    facts: Event = {"instance": instance.name, "sha256": instance.sha256}
    if isinstance(schedule, Observed):
        events, facts = _observed(schedule), facts | {"run": AS_LOGGED, "clock": "real time"}
    else:
        plan = schedule.schedule if isinstance(schedule, Result) else schedule
        assert plan is not None
        verdict, drawn = judge(instance, plan), 1.0 if round_ms is None else round_ms
        facts["valid"] = not verdict.violations
        facts["clock"] = f"unit: a round is drawn as {drawn:g} ms" if instance.is_unit else "linear, in real time"
        events = _judged(instance, verdict, drawn * _US if instance.is_unit else _US)
    document = {"traceEvents": _in_order(events), "displayTimeUnit": "ms", "otherData": facts}
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def _in_order(events: Iterable[Event]) -> list[Event]:
    """Names first, then all by their times, the longer slice before those inside it."""
    return sorted(events, key=lambda event: (event["ph"] != "M", event.get("ts", 0), -event.get("dur", 0)))


def _judged(instance: Instance, verdict: Verdict, per: float) -> Iterator[Event]:
    """What the judge's replay has: two groups of tracks for each replica, and the requests that wait."""
    replicas = sorted({1, *(s.replica for s in verdict.residencies)})
    track = 2 * len(replicas) + 2
    for number, replica in enumerate(replicas):
        of_it = sorted(
            (s for s in verdict.residencies if s.replica == replica and s.end is not None),
            key=lambda s: (s.begin, s.request),
        )
        named = f", replica {replica}" if len(replicas) > 1 else ""
        lanes = _lanes([(s.begin, s.end or 0.0, s.slot) for s in of_it])
        group = _Group(
            2 * number + 1, track, f"{_requests_of(instance)}{named}", any(s.slot is not None for s in of_it)
        )
        yield from group.named(lanes)
        for residency, lane in zip(of_it, lanes, strict=True):
            yield from _residency(instance, residency, group, lane, per)
        track += 1 + max(lanes, default=0)
        yield from _track(2 * number + 2, None, f"server{named}")
        yield from _counters(verdict, replica, 2 * number + 2, per)
    process = 2
    if len(replicas) > 1:
        process = 2 * len(replicas) + 1
        yield from _track(process, None, "all replicas")
    each = 1 if instance.is_unit else 1000
    waiting = [(r.arrival * each, 1) for r in instance.requests] + [(s.begin, -1) for s in verdict.residencies]
    waiting += [(s.end, 1) for s in verdict.residencies if s.end is not None and not s.completed]
    yield from _steps("requests waiting", process, _summed(waiting), per)


def _residency(instance: Instance, residency: Residency, group: _Group, lane: int, per: float) -> Iterator[Event]:
    """The slices of one admission."""
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
    begin, end = _us(residency.begin, per), _us(residency.end, per)
    name = request.id if residency.completed else f"{request.id} (evicted)"
    yield group.slice(name, "request", lane, begin, end, facts)
    first = end if residency.first_token is None else _us(residency.first_token, per)
    if begin < first:
        yield group.slice("prompt", "prompt", lane, begin, first)
    if first < end:
        yield group.slice("decode", "decode", lane, first, end)
    for since, until in residency.pauses:
        if first <= _us(since, per) < _us(until, per):
            yield group.slice("paused", "pause", lane, _us(since, per), _us(until, per))


def _counters(verdict: Verdict, replica: int, process: int, per: float) -> Iterator[Event]:
    """Counters of a replica over time: tokens held, and requests in progress."""
    residencies = [s for s in verdict.residencies if s.replica == replica]
    yield from _steps("KV tokens", process, _held(verdict, residencies, replica), per)
    changes = [(s.begin, 1) for s in residencies] + [(s.end, -1) for s in residencies if s.end is not None]
    yield from _steps("requests in progress", process, _summed(changes), per)


def _observed(run: Observed) -> Iterator[Event]:
    """The run of a log: each request from its arrival to its last token, and how many wait and decode."""
    requests = run.instance.requests
    moments = [
        (r.arrival * 1000, first * 1000, finish * 1000)
        for r, first, finish in zip(requests, run.first_token_s, run.finish_s, strict=True)
    ]
    order = sorted(range(len(requests)), key=lambda i: (moments[i][0], i))
    lanes = _lanes([(moments[i][0], moments[i][2], None) for i in order])
    group = _Group(1, 4, f"{_requests_of(run.instance)}, {AS_LOGGED}", numbered=False)
    yield from group.named(lanes)
    for i, lane in zip(order, lanes, strict=True):
        arrival, first, end = (_us(moment, _US) for moment in moments[i])
        facts: Event = {"prompt_tokens": requests[i].prompt_tokens, "output_tokens": requests[i].output_tokens}
        facts |= {"ttft_ms": (first - arrival) / _US, "latency_ms": (end - arrival) / _US}
        yield group.slice(requests[i].id, "request", lane, arrival, end, facts)
        if arrival < first:
            yield group.slice("until the first token", "prompt", lane, arrival, first)
        if first < end:
            yield group.slice("decode", "decode", lane, first, end)
    yield from _track(2, None, f"server, {AS_LOGGED}")
    before = [(a, 1) for a, _, _ in moments] + [(first, -1) for _, first, _ in moments]
    yield from _steps("requests before their first token", 2, _summed(before), _US)
    decoding = [(first, 1) for _, first, _ in moments] + [(end, -1) for _, _, end in moments]
    yield from _steps("requests decoding", 2, _summed(decoding), _US)


def _requests_of(instance: Instance) -> str:
    return f"requests of {instance.name}" if instance.name else "requests"


class _Group:
    """The tracks of a process: lanes, or slots that are ``numbered``, from the track ``first`` on."""

    def __init__(self, process: int, first: int, title: str, numbered: bool) -> None:
        self.process, self.first, self.title = process, first, title
        self.noun = "slot" if numbered else "lane"

    def named(self, lanes: Iterable[int]) -> Iterator[Event]:
        """The names of the process and of its tracks."""
        yield from _track(self.process, None, self.title)
        for lane in sorted(set(lanes)):
            yield from _track(self.process, self.first + lane, f"{self.noun} {lane}")

    def slice(self, name: str, kind: str, lane: int, begin: int, end: int, facts: Event | None = None) -> Event:
        """A slice of a lane [us]."""
        made: Event = {
            "name": name, "cat": kind, "ph": "X", "pid": self.process, "tid": self.first + lane, "ts": begin,
            "dur": end - begin,
        }  # fmt: skip
        return made | ({"args": facts} if facts else {})


def _lanes(residencies: Sequence[Lane]) -> list[int]:
    """The slot of each residency, given by their beginnings, or the first lane that is free."""
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    found, most = [], 0
    for begin, end, slot in residencies:
        if slot is not None:
            found.append(slot)
            continue
        while busy and busy[0][0] <= begin:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else most
        most = max(most, lane + 1)
        heapq.heappush(busy, (end, lane))
        found.append(lane)
    return found


def _held(verdict: Verdict, residencies: Sequence[Residency], replica: int) -> Iterator[tuple[float, int]]:
    """(moment, tokens held): the more moments, the longer an interval; none are held when nobody is there."""
    intervals = [s for s in verdict.intervals if s.replica == replica]
    rounds = sum(s.rounds for s in intervals)
    begins = sorted(s.begin for s in residencies)
    ends = sorted(s.end for s in residencies if s.end is not None)
    for interval in intervals:
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


def _steps(name: str, process: int, values: Iterable[tuple[float, int]], per: float) -> Iterator[Event]:
    """A counter where it changes; of values within a microsecond the last."""
    before = None
    kept: dict[int, int] = {}
    for moment, value in values:
        kept[_us(moment, per)] = value
    for moment, value in kept.items():
        if value != before:
            yield {"name": name, "ph": "C", "pid": process, "ts": moment, "args": {name: value}}
        before = value


def _us(moment: float, per: float) -> int:
    """Whole microseconds, so that what lies inside a slice lies inside it to the last digit."""
    return round(moment * per)


def _track(process: int, track: int | None, title: str) -> Iterator[Event]:
    """The name of a group of tracks or of one, and its place."""
    kind = "process" if track is None else "thread"
    place = process if track is None else track
    for what, value in ((f"{kind}_name", {"name": title}), (f"{kind}_sort_index", {"sort_index": place})):
        yield {"name": what, "ph": "M", "pid": process, "tid": place, "args": value}
