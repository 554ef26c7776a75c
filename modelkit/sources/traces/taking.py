"""What becomes of the rows of a serving trace, whatever its format: chosen, timed, and made an instance.

Without a server, arrivals are rounds of ``round_ms`` under the unit clock; with one they are seconds under its clock.
Both count from the first request taken.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from modelkit.errors import MOST_FAULTS, Fault, InputError, shown
from modelkit.instance import MAX_TIME, Instance, PrefixCache, Server
from modelkit.io import MOST_REQUESTS
from modelkit.io.files import where_of
from modelkit.io.tables import Row
from modelkit.sources.requests import many_requests
from modelkit.sources.servers import find_server
from modelkit.sources.traces import Imported, stem_of
from modelkit.sources.traces.attributes import Attributes
from modelkit.sources.traces.prefixes import sharing_of
from modelkit.sources.traces.sessions import Turns, alone_on
from modelkit.sources.traces.times import (
    TICKS_PER_SECOND,
    TIME_UNITS,
    is_number,
    ticks_of_number,
    ticks_of_stamp,
    unit_doubt,
)
from modelkit.text import count, counted

#: Length of a round without a server [ms].
ROUND_MS = 55.0
#: Why rows are left out; ``extra`` holds their lines as ``WHY_lines``.
_LEFT_OUT = {"failed": "failed", "no_output": "without output", "oversized": "oversized"}


class TraceEntry(NamedTuple):
    """A row of a trace: its time [100 ns] where it has one, lengths [token], the blocks of its prompt.

    ``said`` is what it has and an instance has not, in words that follow a number; ``said_of`` are further fields
    of its request.
    """

    tick: int | None
    prompt: int
    output: int
    failed: bool = False
    blocks: list[int] | None = None
    line: int = 0
    said: tuple[str, ...] = ()
    said_of: Mapping[str, Any] = MappingProxyType({})


@dataclass
class Reading:
    """How the rows of a file are read, and what was found on the way.

    Parameters
    ----------
    unit, block
        Unit of times that are numbers, None where they may be none; tokens in a block of the prefix hashes.
    told
        Whether the user named the unit.
    turns, prompts
        When turns of sessions come; of a session, its prompt so far [token] or the first block of it.
    ignored
        What is not modelled or left out without its lines, by its name.
    attributes
        What requests keep of further columns.
    """

    unit: str | None
    block: int | None = None
    told: bool = False
    faults: list[Fault] = field(default_factory=list)
    fraction: tuple[str, str, object] | None = None
    conversations: bool = False
    noun: str = "line"
    turns: Turns | None = None
    prompts: dict[str, int] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)
    attributes: Attributes | None = None

    def time(self, row: Row, column: str) -> int:
        """A time that is a number in ticks; 0 when it is none, with a fault."""
        assert self.unit is not None
        value = row.cell(column)
        try:
            ticks, has_fraction = ticks_of_number(value, self.unit)
        except ValueError:
            self.faults.append(row.fault(column, f"a time in {self.unit}, 0 or more"))
            return 0
        if has_fraction and self.fraction is None:
            self.fraction = row.place, column, value
        return ticks


Reader = Callable[[Row, Reading], TraceEntry]


@dataclass(frozen=True)
class Taking:
    """Which rows are taken, and on which server and clock; the options of a format."""

    server: str | None
    round_ms: float | None
    kv_capacity: int | None
    requests: int | None
    skip: int
    since: str | None
    until: str | None
    rate: float | None
    drop_oversized: bool
    seed: int
    block: int | None
    model: str | None = None
    prefixes: str = "none"

    def check(self, what: str) -> None:
        """Raise unless every option is in its range."""
        faults = [
            Fault(f"--{option}", f"found {shown(value)}; allowed: {allowed}")
            for option, value, allowed, good in (
                ("round-ms", self.round_ms, "more than 0, up to 10^9", _within(self.round_ms, 0, 1e9, above=True)),
                ("round-ms", self.round_ms, "none with --server, which counts seconds",
                 not (self.server and self.round_ms)),
                ("kv-capacity", self.kv_capacity, "1 to 10^12", _within(self.kv_capacity, 1, 10**12)),
                ("requests", self.requests, "1 or more", self.requests is None or self.requests >= 1),
                ("skip", self.skip, "0 or more", self.skip >= 0),
                ("rate", self.rate, "from 10^-6 to 10^6", _within(self.rate, 1e-6, 1e6)),
                ("seed", self.seed, "0 or more", self.seed >= 0),
                ("block", self.block, "1 to 10^6", _within(self.block, 1, 10**6)),
            )
            if not good
        ]  # fmt: skip
        if faults:
            raise InputError(what, faults)


def _within(value: float | None, least: float, most: float, *, above: bool = False) -> bool:
    return value is None or (least <= value <= most and not (above and value == least))


def taken(
    name: str, path: str | os.PathLike[str], rows: Iterator[Row], read: Reader, reading: Reading, taking: Taking
) -> Imported:
    """The instance of a file's rows, and what is to be said of it.

    Raises
    ------
    InputError
        With all faults of the rows, or what speaks against the unit that was not stated.
    """
    where = where_of(path)
    taking.check(f"import {name}")
    host = find_server(taking.server) if taking.server is not None else Server()
    if taking.kv_capacity is not None:
        host = host.model_copy(update={"kv_capacity_tokens": taking.kv_capacity})
    reading.turns = Turns(alone_on(host, taking.round_ms or ROUND_MS))
    left_out: dict[str, list[int]] = {why: [] for why in _LEFT_OUT}
    entries = _entries(where, _chosen(where, rows, read, reading, taking), reading, taking, left_out)
    if reading.attributes is not None:
        reading.attributes.check(where)
    _check_unit(where, name, entries, reading)
    ticks = _arrivals(where, entries, taking.rate, taking.seed)
    capacity = host.kv_capacity_tokens
    kept = []
    for tick, entry in sorted(zip(ticks, entries, strict=True), key=lambda pair: pair[0]):
        if taking.drop_oversized and capacity is not None and entry.prompt + entry.output > capacity:
            left_out["oversized"].append(entry.line)
        else:
            kept.append((tick, entry))
    if not kept:
        raise InputError(where, [Fault("file", f"no request fits {count(capacity or 0, 'token')}")])
    arrivals, clock_words = _convert_times([tick for tick, _ in kept], taking)
    if arrivals[-1] > MAX_TIME:
        raise InputError(where, [Fault("file", f"the last request arrives {arrivals[-1]:g} after the first")])
    stem = stem_of(path, name)
    words = [f"{stem}: {count(len(kept), 'request')} after the first {taking.skip}", clock_words]
    words += [f"{key} {value}" for key, value in (("from", taking.since), ("until", taking.until)) if value is not None]
    words += [f"rescaled to {taking.rate:g} requests/s"] if taking.rate is not None else []
    words += [
        f"{len(lines)} {_LEFT_OUT[why]} left out"
        for why, lines in left_out.items()
        if lines or (why == "oversized" and taking.drop_oversized)
    ]
    extra: dict[str, Any] = {f"{why}_lines": sorted(lines) for why, lines in left_out.items() if lines}
    notes = [
        f"{count(len(lines), 'row')} {_LEFT_OUT[why]} left out, the first in"
        f" {reading.noun} {min(lines)}; extra.{why}_lines names them all"
        for why, lines in left_out.items()
        if lines
    ]
    if any(entry.blocks for _, entry in kept):
        extra |= {"prefix_block_tokens": reading.block, "prefix_hashes": [entry.blocks or [] for _, entry in kept]}
    sharing = sharing_of(
        [(entry.prompt, entry.blocks or []) for _, entry in kept], reading.block, taking.prefixes, where
    )
    words += sharing.words
    notes += sharing.notes
    if taking.prefixes != "none":
        host = host.model_copy(update={"prefix_cache": PrefixCache(keep=taking.prefixes == "keep")})
    if reading.conversations:
        notes.append("conversations are not modelled: every turn is a request of its own")
    if (followed := reading.turns.followed) > 0:
        come = "comes after the answers that it waits" if followed == 1 else "come after the answers that they wait"
        turns = f"{count(followed, 'turn')} {come} for, at the earliest: those served alone"
        words.append(turns)
        notes.append(f"{turns} on this server")
    notes += [counted(n, why) for why, n in reading.ignored.items()]
    if (unit := _unit_words(entries, reading)) is not None:
        words.append(unit)
        if not reading.told:
            notes.append(f"{unit}; --time-unit states another unit")
    if taking.block is not None and "prefix_hashes" not in extra:
        notes.append("--block is not used: no row has hash_ids")
    instance = Instance(
        name=_name(stem, len(kept), taking, drawn=all(entry.tick is None for entry in entries)),
        description=", ".join(words),
        source=f"trace {name} {stem}",
        server=host,
        requests=many_requests(
            {
                "id": f"r{i}",
                "arrival": at,
                "prompt_tokens": e.prompt,
                "output_tokens": e.output,
                "prefix": prefix,
                **e.said_of,
            }
            for i, (at, (_, e), prefix) in enumerate(zip(arrivals, kept, sharing.prefixes, strict=True), start=1)
        ),
        extra=extra,
    )
    return Imported(instance, tuple(notes))


def _chosen(where: str, rows: Iterator[Row], read: Reader, reading: Reading, taking: Taking) -> Iterator[TraceEntry]:
    """Entries of the rows after ``skip`` within the window, ``requests`` of them at most; the rest is forgotten."""
    window = taking.since is not None or taking.until is not None
    stop = None if window or taking.requests is None else taking.skip + taking.requests
    origin = first = last = None
    found = 0
    for position, row in enumerate(islice(rows, stop)):
        follows = any(key in row.cells for key in ("session_id", "request_id"))  # a turn may wait for a skipped one
        if position < taking.skip and not follows and (origin is not None or not window):
            continue
        entry = read(row, reading)._replace(line=row.line)
        if reading.attributes is not None:
            entry = entry._replace(said_of=reading.attributes.of(row.cells, row.place, reading.faults))
        reading.noun = "element" if row.in_list else "line"
        if window:
            if entry.tick is None and not reading.faults:
                raise InputError(where, [Fault("--from, --until", "this file has no arrivals")])
            if origin is None and entry.tick is not None:
                origin = entry.tick
                first = _edge("--from", taking.since, origin, reading)
                last = _edge("--until", taking.until, origin, reading)
            tick = entry.tick or 0
            outside = (first is not None and tick < first) or (last is not None and tick >= last)
            if outside and not reading.faults:
                continue
        if position < taking.skip:
            continue
        yield entry
        found += 1
        if window and found == taking.requests:
            return


def _edge(option: str, text: str | None, origin: int, reading: Reading) -> int | None:
    """An end of the window in ticks: seconds after the first row, or a stamp where the file has stamps."""
    if text is None:
        return None
    try:
        if is_number(text):
            return origin + ticks_of_number(text, "s")[0]
        if reading.unit is None:
            return ticks_of_stamp(text)
    except (ValueError, OverflowError):
        pass
    stamps = ", or a date and time as in the file" if reading.unit is None else ""
    fault = Fault(option, f"found {shown(text)}; allowed: seconds after the first row, 0 or more{stamps}")
    raise InputError("import", [fault])


def _entries(
    where: str, chosen: Iterable[TraceEntry], reading: Reading, taking: Taking, left_out: dict[str, list[int]]
) -> list[TraceEntry]:
    """The entries that can be served."""
    entries: list[TraceEntry] = []
    for entry in chosen:
        if len(reading.faults) >= MOST_FAULTS:
            break
        if entry.failed:
            left_out["failed"].append(entry.line)
        elif not entry.output:
            left_out["no_output"].append(entry.line)
        elif reading.faults:
            entries.clear()  # what is read from here on is only looked at
        elif len(entries) == MOST_REQUESTS:
            words = f"more than {MOST_REQUESTS:,} requests, the most of an instance; take a part: --requests, --skip"
            raise InputError(where, [Fault(f"{reading.noun} {entry.line}", f"{words}, or --from and --until")])
        else:
            entries.append(entry)
            reading.ignored.update(entry.said)
    if reading.faults:
        raise InputError(where, reading.faults)
    if not entries:
        after = f" after the first {taking.skip}" if taking.skip else ""
        within = " within --from and --until" if taking.since is not None or taking.until is not None else ""
        why = "".join(f"; {counted(n, words)}" for words, n in reading.ignored.items() if words.endswith("left out"))
        why = " that did not fail" if left_out["failed"] else " with an output" if left_out["no_output"] else why
        raise InputError(where, [Fault("file", f"has no request{after}{within}{why}")])
    return entries


def _check_unit(where: str, name: str, entries: list[TraceEntry], reading: Reading) -> None:
    """Refuse times that are hardly in the format's unit, unless the user named it."""
    if reading.unit is None or reading.told:
        return
    ticks = [entry.tick for entry in entries if entry.tick is not None]
    doubt = unit_doubt(ticks, reading.unit, reading.fraction[2] if reading.fraction else None)
    if doubt is not None:
        place, column, _ = reading.fraction or (f"{reading.noun} {entries[0].line}", "times", None)
        units = "s or --time-unit ms" if reading.unit in ("s", "ms") else " or ".join(TIME_UNITS)
        words = f"{name} counts {reading.unit}, but {doubt}; give the unit: --time-unit {units}"
        raise InputError(where, [Fault(f"{place}, {column}", words)])


def _unit_words(entries: list[TraceEntry], reading: Reading) -> str | None:
    """The unit of times that are numbers, and how often requests come in it."""
    ticks = [entry.tick for entry in entries if entry.tick is not None]
    if reading.unit is None or not ticks:
        return None
    span = (max(ticks) - min(ticks)) / TICKS_PER_SECOND
    often = f"{(len(ticks) - 1) / span:.3g}" if span else ""
    rate = f", so {often} {'request comes' if often == '1' else 'requests come'} a second" if span else ""
    blocks = f", blocks have {count(reading.block or 0, 'token')}" if any(entry.blocks for entry in entries) else ""
    return f"times are read in {reading.unit}{rate}{blocks}"


def _convert_times(ticks: list[int | Fraction], taking: Taking) -> tuple[list[float], str]:
    """Arrivals on the instance's clock, and what to call it."""
    if taking.server is not None:
        return [float(tick / TICKS_PER_SECOND) for tick in ticks], f"on {taking.server}"
    round_ms = taking.round_ms or ROUND_MS
    per_round = Fraction(round_ms) * TICKS_PER_SECOND / 1000
    return [int(-(-tick // per_round)) for tick in ticks], f"rounds of {round_ms:g} ms"


def _arrivals(where: str, entries: list[TraceEntry], rate: float | None, seed: int) -> list[int | Fraction]:
    """Ticks from the first request on, rescaled or drawn to come at ``rate`` requests per second."""
    given = [entry.tick for entry in entries if entry.tick is not None]
    if not given:
        if rate is None:
            return [0] * len(entries)
        gaps = np.random.default_rng(seed).exponential(1 / rate, len(entries) - 1)
        return [0, *(int(tick) for tick in np.rint(np.cumsum(gaps) * TICKS_PER_SECOND))]
    first, last = min(given), max(given)
    if rate is None:
        return [tick - first for tick in given]
    if first == last:
        raise InputError(where, [Fault("--rate", "all requests arrive at once; there is no rate to change")])
    factor = Fraction((len(given) - 1) * TICKS_PER_SECOND) / ((last - first) * Fraction(rate))
    return [(tick - first) * factor for tick in given]


def _name(stem: str, n: int, taking: Taking, *, drawn: bool) -> str:
    """A name that says what was taken: other options, another name."""
    parts = [
        f"skip{taking.skip}" if taking.skip else "",
        f"from{taking.since}" if taking.since is not None else "",
        f"until{taking.until}" if taking.until is not None else "",
        f"rate{taking.rate:g}" if taking.rate else "",
        taking.model or "",
        taking.prefixes if taking.prefixes != "none" else "",
        f"s{taking.seed}" if drawn and taking.rate and taking.seed else "",
        Path(taking.server).name.partition(".json")[0] if taking.server else "",
        f"round{taking.round_ms:g}" if taking.round_ms else "",
        f"m{taking.kv_capacity}" if taking.kv_capacity else "",
        "fitting" if taking.drop_oversized else "",
    ]
    safe = ["".join(c if c.isalnum() or c in "-_." else "-" for c in part)[:60] for part in parts if part]
    return "-".join([f"{stem}-n{n}", *safe])
