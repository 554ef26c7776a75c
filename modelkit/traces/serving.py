"""Traces of serving: when requests arrived and how long they were.

A format says how to read a row; what becomes of the rows is the same for all. Without a server, arrivals are rounds
of ``round_ms`` under the unit clock; with one they are seconds under its clock. Both count from the first request
taken.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modelkit.errors import MOST_FAULTS, Fault, InputError
from modelkit.files import where_of
from modelkit.instance import MAX_TIME, Instance, Request, Server
from modelkit.servers import find_server
from modelkit.tables import Row, read_csv, read_json_lines
from modelkit.traces import trace_format

#: Times are counted in units of 100 ns, the finest that any of the formats writes.
TICKS_PER_SECOND = 10_000_000
#: Length of a round without a server [ms].
ROUND_MS = 55.0


class Entry(NamedTuple):
    """A row of a trace: its time [100 ns] where it has one, lengths [token], the blocks of its prompt."""

    tick: int | None
    prompt: int
    output: int
    failed: bool = False
    blocks: list[int] | None = None


_Reader = Callable[[Row, list[Fault]], Entry]


def serving_format(
    name: str, *, rows: Callable[[str | os.PathLike[str]], Iterator[Row]], summary: str, reference: str
) -> Callable[[_Reader], _Reader]:
    """Decorator that registers a trace format by the function that reads one of its rows."""

    def decorate(read: _Reader) -> _Reader:
        @trace_format(
            name,
            summary=summary,
            reference=reference,
            server="preset or JSON file of a server; default: the unit clock",
            round_ms=f"without a server, length of a round [ms]; an arrival is known from the next round boundary on;"
            f" default: {ROUND_MS:g}",
            kv_capacity="KV capacity M [token]; default: the server's, or no limit",
            requests="take at most so many rows; default: all",
            skip="leave out so many rows at the beginning",
            rate="rescale arrivals to so many requests per second on average; if there are none, draw them (Poisson)",
            drop_oversized="leave out requests that can never fit",
            seed="seed of drawn arrivals",
        )
        def make(
            path: str | os.PathLike[str],
            *,
            server: str | None = None,
            round_ms: float | None = None,
            kv_capacity: int | None = None,
            requests: int | None = None,
            skip: int = 0,
            rate: float | None = None,
            drop_oversized: bool = False,
            seed: int = 0,
        ) -> Instance:
            faults = [
                Fault(f"--{option}", f"found {value}; allowed: {allowed}")
                for option, value, allowed, good in (
                    ("round-ms", round_ms, "more than 0, up to 10^9", round_ms is None or 0 < round_ms <= 1e9),
                    ("round-ms", round_ms, "none beside --server, which counts seconds", not (server and round_ms)),
                    ("kv-capacity", kv_capacity, "1 to 10^12", kv_capacity is None or 1 <= kv_capacity <= 10**12),
                    ("requests", requests, "1 or more", requests is None or requests >= 1),
                    ("skip", skip, "0 or more", skip >= 0),
                    ("rate", rate, "from 10^-6 to 10^6", rate is None or 1e-6 <= rate <= 1e6),
                    ("seed", seed, "0 or more", seed >= 0),
                )
                if not good
            ]
            if faults:
                raise InputError(f"import {name}", faults)
            host = find_server(server) if server is not None else Server()
            if kv_capacity is not None:
                host = host.model_copy(update={"kv_capacity_tokens": kv_capacity})
            stop = None if requests is None else skip + requests
            return _instance(
                name, path, islice(rows(path), skip, stop), read, host,
                round_ms=None if server else round_ms or ROUND_MS, skip=skip, rate=rate,
                drop_oversized=drop_oversized, seed=seed, server=server,
            )  # fmt: skip

        return read

    return decorate


def _instance(
    name: str,
    path: str | os.PathLike[str],
    rows: Iterator[Row],
    read: _Reader,
    host: Server,
    *,
    round_ms: float | None,
    skip: int,
    rate: float | None,
    drop_oversized: bool,
    seed: int,
    server: str | None,
) -> Instance:
    where = where_of(path)
    faults: list[Fault] = []
    entries: list[Entry] = []
    failed: list[int] = []  # lines
    for row in rows:
        entry = read(row, faults)
        if len(faults) >= MOST_FAULTS:
            break
        if entry.failed:
            failed.append(row.line)
        else:
            entries.append(entry)
    if not faults and not entries:
        after = f" after the first {skip}" if skip else ""
        faults = [Fault("file", f"has no request{after}" + (" that did not fail" if failed else ""))]
    if faults:
        raise InputError(where, faults)
    ticks = _arrivals(where, entries, rate, seed)
    capacity = host.kv_capacity_tokens
    kept = [
        (tick, entry)
        for tick, entry in sorted(zip(ticks, entries, strict=True), key=lambda pair: pair[0])
        if not (drop_oversized and capacity is not None and entry.prompt + entry.output > capacity)
    ]
    if not kept:
        raise InputError(where, [Fault("file", f"no request fits {capacity} tokens")])
    if round_ms is None:
        arrivals: list[float] = [float(tick / TICKS_PER_SECOND) for tick, _ in kept]
        clock_words = f"on {server}"
    else:
        per_round = Fraction(round_ms) * TICKS_PER_SECOND / 1000
        arrivals = [int(-(-tick // per_round)) for tick, _ in kept]
        clock_words = f"rounds of {round_ms:g} ms"
    if arrivals[-1] > MAX_TIME:
        raise InputError(where, [Fault("file", f"the last request arrives {arrivals[-1]:g} after the first")])
    stem = name if where == "standard input" else Path(path).name.partition(".")[0]
    words = [f"{stem}: {len(kept)} requests after the first {skip}", clock_words]
    words += [f"rescaled to {rate:g} requests/s"] if rate is not None else []
    words += [f"{len(entries) - len(kept)} oversized left out"] if drop_oversized else []
    words += [f"{len(failed)} failed left out"] if failed else []
    extra: dict[str, Any] = {"failed_lines": failed} if failed else {}
    if kept[0][1].blocks is not None:
        extra |= {"prefix_block_tokens": PREFIX_BLOCK, "prefix_hashes": [entry.blocks for _, entry in kept]}
    return Instance(
        name=f"{stem}-n{len(kept)}" + (f"-skip{skip}" if skip else "") + (f"-rate{rate:g}" if rate else ""),
        description=", ".join(words),
        source=f"trace {name} {stem}",
        server=host,
        requests=tuple(
            Request(id=f"r{i}", arrival=arrival, prompt_tokens=entry.prompt, output_tokens=entry.output)
            for i, (arrival, (_, entry)) in enumerate(zip(arrivals, kept, strict=True), start=1)
        ),
        extra=extra,
    )


def _arrivals(where: str, entries: list[Entry], rate: float | None, seed: int) -> list[int | Fraction]:
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
    stretch = Fraction((len(given) - 1) * TICKS_PER_SECOND) / ((last - first) * Fraction(rate))
    return [(tick - first) * stretch for tick in given]


# --- the formats -------------------------------------------------------------------------------

_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@serving_format(
    "azure",
    rows=lambda path: read_csv(path, _AZURE).rows(),
    summary="CSV with TIMESTAMP, ContextTokens, GeneratedTokens; the Azure LLM inference traces of 2023 and 2024",
    reference="Azure/AzurePublicDataset; Patel et al., Splitwise, ISCA 2024; Stojkovic et al., DynamoLLM, HPCA 2025"
    " (CC-BY-4.0)",
)
def azure(row: Row, faults: list[Fault]) -> Entry:
    """The stamps of 2023 have seven decimals; those of 2024 six, and an offset from UTC."""
    tick = 0
    try:
        tick = _stamp(row.cell("TIMESTAMP") or "")
    except (ValueError, OverflowError):
        faults.append(row.fault("TIMESTAMP", "a date and time"))
    return Entry(tick, row.tokens("ContextTokens", faults), row.tokens("GeneratedTokens", faults))


_BURSTGPT = ("Timestamp", "Request tokens", "Response tokens")


@serving_format(
    "burstgpt",
    rows=lambda path: read_csv(path, _BURSTGPT).rows(),
    summary="CSV with Timestamp [s], Request tokens, Response tokens; rows without response or request are failures,"
    " left out and named in extra.failed_lines",
    reference="HPMLL/BurstGPT; Wang et al., BurstGPT, arXiv 2401.17644 (CC-BY-4.0)",
)
def burstgpt(row: Row, faults: list[Fault]) -> Entry:
    """A response of no tokens is a failed request."""
    tick = _seconds(row, "Timestamp", faults)
    prompt = row.tokens("Request tokens", faults, least=0)
    output = row.tokens("Response tokens", faults, least=0)
    return Entry(tick, prompt, output, failed=not (prompt and output))


#: Prompt tokens in a block of the prefix hashes.
PREFIX_BLOCK = 512
_MOONCAKE = ("timestamp", "input_length", "output_length")


@serving_format(
    "mooncake",
    rows=lambda path: read_json_lines(path, _MOONCAKE),
    summary="JSON lines with timestamp [ms], input_length, output_length; hash_ids are kept in extra.prefix_hashes",
    reference="kvcache-ai/Mooncake; Qin et al., Mooncake, FAST 2025 (Apache-2.0)",
)
def mooncake(row: Row, faults: list[Fault]) -> Entry:
    """Equal hashes are equal blocks of 512 prompt tokens, at the same place of the prompt."""
    tick = int(row.number("timestamp", faults) * TICKS_PER_SECOND) // 1000
    blocks = row.cells.get("hash_ids", [])
    if not isinstance(blocks, list) or not all(isinstance(b, int) and not isinstance(b, bool) for b in blocks):
        faults.append(row.fault("hash_ids", "a list of whole numbers"))
    return Entry(tick, row.tokens("input_length", faults), row.tokens("output_length", faults), blocks=blocks)


_VIDUR = ("num_prefill_tokens", "num_decode_tokens")


@serving_format(
    "vidur",
    rows=lambda path: read_csv(path, _VIDUR).rows(),
    summary="CSV with num_prefill_tokens, num_decode_tokens and perhaps arrived_at [s]; the processed traces of Vidur",
    reference="microsoft/vidur; Agrawal et al., Vidur, MLSys 2024 (MIT)",
)
def vidur(row: Row, faults: list[Fault]) -> Entry:
    """Lengths, and arrivals in seconds where there are any."""
    tick = _seconds(row, "arrived_at", faults) if "arrived_at" in row.cells else None
    return Entry(tick, row.tokens("num_prefill_tokens", faults), row.tokens("num_decode_tokens", faults))


def _stamp(text: str) -> int:
    """A timestamp in ticks; exact for the seven decimals that Azure writes. An offset from UTC is taken off."""
    whole, _, rest = text.partition(".")
    decimals = rest[: next((i for i, c in enumerate(rest) if not (c.isascii() and c.isdigit())), len(rest))]
    offset = rest[len(decimals) :]
    moment = datetime.fromisoformat(whole + offset)
    away = moment.utcoffset() or timedelta(0)
    since = moment.replace(tzinfo=None) - away - datetime(2000, 1, 1)
    return (since.days * 86_400 + since.seconds) * TICKS_PER_SECOND + int(decimals[:7].ljust(7, "0"))


def _seconds(row: Row, column: str, faults: list[Fault]) -> int:
    """A cell of seconds in ticks."""
    try:
        seconds = Decimal(row.cell(column) or "")
        if not (math.isfinite(seconds) and 0 <= seconds <= MAX_TIME):
            raise InvalidOperation
    except InvalidOperation:
        faults.append(row.fault(column, "seconds, 0 to 10^9"))
        return 0
    return int(seconds * TICKS_PER_SECOND)
