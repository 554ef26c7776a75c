"""Turns of sessions, which come after the answers that they wait for: when, at the earliest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

from modelkit.errors import Fault, did_you_mean, shown
from modelkit.instance import LinearClock, Server
from modelkit.io.tables import Row
from modelkit.sources.traces.times import TICKS_PER_SECOND, ticks_of_number

if TYPE_CHECKING:
    from modelkit.sources.traces.taking import Reading

_TIMES = ("timestamp", "created_time", "arrival_time_ns")
#: What a turn waits after the answers before it, and the unit; None for that of the file.
_DELAYS = (("delay", None), ("delay_ms", "ms"), ("tool_wait_ms", "ms"), ("tool_duration_ns", "ns"))

Alone = Callable[[int, int], int]


def alone_on(host: Server, round_ms: float) -> Alone:
    """How long a request of a prompt and an output lasts when a server has no other [100 ns]."""
    clock = host.clock

    def lasting(prompt: int, output: int) -> int:
        if not isinstance(clock, LinearClock):
            return int(output * Fraction(round_ms) * TICKS_PER_SECOND / 1000)
        held = (output - 1) * prompt + output * (output + 1) // 2 - 1
        ms = clock.prefill_ms(prompt) + (clock.decode_ms(output - 1, output - 1, held) if output > 1 else 0.0)
        return int(ms * TICKS_PER_SECOND / 1000)

    return lasting


class Turns:
    """The ends of requests that others may wait for, each at the earliest: served alone."""

    def __init__(self, alone: Alone) -> None:
        self._alone = alone
        self._ends: dict[tuple[str, str], int | None] = {}
        self._timed: bool | None = None
        self.followed = 0

    def tick(self, row: Row, reading: Reading) -> int | None:
        """When a request comes: its own time, or a delay after what it waits for; None where none is known."""
        column = next((name for name in _TIMES if row.cells.get(name) is not None), None)
        if column is not None:
            return self._own(row, reading.time(row, column), reading)
        before = list(self._before(row, reading))
        delay = sum(_duration(row, name, unit, reading) for name, unit in _DELAYS)
        if reading.faults:
            return None
        if before:
            known = [end for end in before if end is not None]
            self.followed += 1
            return max(known) + delay if len(known) == len(before) else None
        if delay:
            reading.faults.append(
                Fault(
                    f"{row.place}, delay",
                    "the answer that it waits for is not in the file before it, so it has no arrival",
                )
            )
        elif "timestamp" in row.cells:
            reading.faults.append(row.fault("timestamp", f"a time in {reading.unit}, 0 or more"))
        elif "session_id" not in row.cells:
            words = f"has no key 'timestamp'{did_you_mean('timestamp', row.cells)}"
            reading.faults.append(Fault(row.place, words))
        return self._own(row, None, reading)

    def _own(self, row: Row, tick: int | None, reading: Reading) -> int | None:
        """A time of a request's own; all have one or none."""
        timed = tick is not None
        if self._timed not in (None, timed) and not reading.faults:
            words = (
                "has no timestamp, though others have" if self._timed else "has a timestamp, though others have none"
            )
            reading.faults.append(
                Fault(row.place, f"{words}; allowed: all or none, but for turns that wait for others")
            )
        self._timed = timed
        return tick

    def _before(self, row: Row, reading: Reading) -> Iterator[int | None]:
        """Ends of what a request waits for: those that it names, else the turn before of its session."""
        names = row.cells.get("wait_for")
        if names:
            for name in names if isinstance(names, list) else [names]:
                key = ("request", str(name))
                if key not in self._ends:
                    words = f"waits for {shown(name)}, which is not in the file before it"
                    reading.faults.append(Fault(f"{row.place}, wait_for", words))
                else:
                    yield self._ends[key]
            return
        key = ("session", str(row.cells.get("session_id")))
        if key in self._ends:
            yield self._ends[key]

    def came(self, row: Row, tick: int | None, prompt: int, output: int) -> None:
        """Keep the end of a request that others may wait for."""
        for kind, name in (("session", "session_id"), ("request", "request_id")):
            if row.cells.get(name) is not None:
                end = None if tick is None else tick + self._alone(prompt, max(1, output))
                self._ends[kind, str(row.cells[name])] = end


def _duration(row: Row, column: str, unit: str | None, reading: Reading) -> int:
    value = row.cells.get(column)
    if value is None:
        return 0
    unit = unit or reading.unit or "ms"
    try:
        return ticks_of_number(value, unit)[0]
    except ValueError:
        reading.faults.append(row.fault(column, f"a time in {unit}, 0 or more"))
        return 0
