"""What speaks against the unit of a log's times: a log that is off by a factor of 1,000 is refused, or it is said."""

from __future__ import annotations

import numpy as np

from modelkit.errors import Fault, InputError
from modelkit.sources.logs.record import LogRecord, Reading
from modelkit.text import count

#: Seconds that a token takes, in the median of a log; outside, its times are in another unit than its format has.
PACE = (1e-4, 5.0)
#: A first token on an idle server comes at most so many seconds later than by decoding the prompts.
SLACK_S = 1.0
#: Requests to an idle server whose first tokens come too late, from which on no cold start explains them.
LATE = 3
#: Share of the time until the last first token in which all requests arrive, so that they seem to come at once.
AT_ONCE = 1e-3


def check_times(format: str, records: list[LogRecord], reading: Reading) -> None:
    """Refuse times that contradict each other, or that no server takes; note what is odd, for it is said.

    Raises
    ------
    InputError
        The times are not in one unit, or not in that of the format.
    """
    clocks = [names for names, twice in reading.twice.items() if twice.alike()]
    doubts = [
        fault
        for path, seen in reading.seen.items()
        if (fault := seen.doubt) is not None and not any(names.startswith(f"{path[-1]} and") for names in clocks)
    ]
    if doubts:
        raise InputError(reading.where, doubts)
    decoded = [r for r in records if r.stamped and r.output > 1]
    paces = [((r.last_token or 0.0) - (r.first_token or 0.0)) / (r.output - 1) for r in decoded]
    waits = [(r.first_token or 0.0) - r.arrival for r in decoded if r.arrival is not None]
    for words, took in (("a token", paces), ("a first token", waits)):
        median = float(np.median(took)) if took else 0.0
        if 0 < median < PACE[0] or (words == "a token" and median > PACE[1]):
            found = f"{words} takes {median:.3g} s in the median of the requests, which no server does"
            advice = f"the times are not in the unit of {format} (`modelkit list formats`); --time-unit gives another"
            raise InputError(reading.where, [Fault("file", f"{found}; {advice}")])
    for names, twice in reading.twice.items():
        if (differ := twice.disagree) is not None:
            advice = "one of them is in another unit than its name or its format says"
            raise InputError(reading.where, [Fault("file", f"{names} {differ}; {advice}")])
    if len(waits) == len(decoded) and decoded:
        _check_idle(decoded, float(np.median(paces)), reading)
    _note_bursts(records, reading)


def _check_idle(records: list[LogRecord], pace: float, reading: Reading) -> None:
    """Where nobody else is served, a first token comes no later than by computing the prompts token by token."""
    ordered = sorted(records, key=lambda r: r.arrival or 0.0)
    late, idle, example, busy = 0, 0, "", -np.inf
    for i, record in enumerate(ordered):
        arrival, first = record.arrival or 0.0, record.first_token or 0.0
        if arrival >= busy:
            idle += 1
            tokens = _prompts_until(ordered, i, first)
            if first - arrival > SLACK_S + pace * tokens:
                late += 1
                example = example or f"{first - arrival:.3g} s for {count(tokens, 'prompt token')}"
        busy = max(busy, record.last_token or 0.0)
    words = f"first tokens on an idle server later than by decoding the prompt ({example}, {pace:.3g} s a token)"
    if late >= LATE and 2 * late > idle:
        found = f"{late:,} of {count(idle, 'request')} have their {words}"
        advice = "the times to first tokens are in another unit; if the server starts anew, say --time-unit"
        raise InputError(reading.where, [Fault("file", f"{found}; {advice}")])
    if late:
        reading.ignored[f"{words}: a cold start, or times to first tokens in another unit"] += late


def _prompts_until(ordered: list[LogRecord], i: int, moment: float) -> int:
    """Prompt tokens of a request, and of those behind it whose first tokens come no later than ``moment``."""
    tokens = 0
    for record in ordered[i:]:
        if (record.arrival or 0.0) > moment:
            break
        tokens += record.prompt if (record.first_token or 0.0) <= moment else 0
    return tokens


def _note_bursts(records: list[LogRecord], reading: Reading) -> None:
    """Say when requests seem to arrive at once that were served over a long time."""
    arrivals = [r.arrival for r in records if r.arrival is not None]
    firsts = [r.first_token for r in records if r.first_token is not None]
    if not arrivals or not firsts:
        return
    span, until = max(arrivals) - min(arrivals), max(firsts) - min(arrivals)
    if 0 < span < AT_ONCE * until:
        words = f"requests arrive within {span * 1000:.3g} ms and have their first tokens within {until:.3g} s"
        reading.ignored[f"{words}: all at once, or arrivals in another unit"] = len(records)
