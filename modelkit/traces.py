"""Importers of public traces: a file of somebody else's format becomes an instance."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from datetime import datetime
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from modelkit.errors import MOST_FAULTS, Fault, InputError, did_you_mean, shown
from modelkit.families import GSM8K_CLOCK, output_lengths, slot_instance
from modelkit.files import read_lines, where_of
from modelkit.instance import MAX_TOKENS, Instance, LinearClock, Request, Server
from modelkit.io import checked
from modelkit.registry import Maker, Registry

_REGISTRY = Registry("trace format")
trace_format = _REGISTRY.register


def trace_formats() -> dict[str, Maker]:
    """All trace formats by name."""
    return _REGISTRY.makers()


def import_trace(name: str, path: str | os.PathLike[str], **options: object) -> Instance:
    """Instance from a trace file.

    Raises
    ------
    UsageError
        No such format, or the file cannot be opened.
    InputError
        With all faults of the file, each with its line.
    """
    maker = _REGISTRY[name]
    return checked(f"{where_of(path)} as {name}", lambda: maker.make(path, **options))


def oversized(instance: Instance) -> list[Request]:
    """Requests that can never fit: s_i + o_i > M."""
    capacity = instance.server.kv_capacity_tokens
    return [r for r in instance.requests if capacity is not None and r.prompt_tokens + r.output_tokens > capacity]


@trace_format(
    "azure",
    summary="CSV with TIMESTAMP, ContextTokens, GeneratedTokens; the Azure LLM inference traces",
    reference="Azure/AzurePublicDataset; Patel et al., Splitwise, ISCA 2024 (CC-BY-4.0)",
    round_ms="length of a round [ms]; an arrival is known from the next round boundary on",
    kv_capacity="M [token]; default: no limit",
    requests="take at most so many requests; default: all",
    skip="leave out so many requests at the beginning",
    drop_oversized="leave out requests that can never fit",
)
def azure(
    path: str | os.PathLike[str],
    *,
    round_ms: float = 55.0,
    kv_capacity: int | None = None,
    requests: int | None = None,
    skip: int = 0,
    drop_oversized: bool = False,
) -> Instance:
    """Arrivals count from the first request taken, in rounds of ``round_ms``."""
    faults = [
        Fault(f"--{name}", f"found {shown(value)}; allowed: {allowed}")
        for name, value, allowed, good in (
            ("round-ms", round_ms, "0.001 to 10^9", 1e-3 <= round_ms <= 1e9),
            ("kv-capacity", kv_capacity, "1 to 10^12", kv_capacity is None or 1 <= kv_capacity <= 10**12),
            ("requests", requests, "1 to 10^6", requests is None or 1 <= requests <= 10**6),
            ("skip", skip, "0 to 10^9", 0 <= skip <= 10**9),
        )
        if not good
    ]
    if faults:
        raise InputError("import azure", faults)
    ticks: list[int] = []
    lengths: list[tuple[int, int]] = []
    where = where_of(path)
    stop = None if requests is None else skip + requests
    for line, row in islice(_csv_rows(path, ("TIMESTAMP", "ContextTokens", "GeneratedTokens")), skip, stop):
        try:
            ticks.append(_ticks(row["TIMESTAMP"]))
        except ValueError:
            faults.append(
                Fault(f"line {line}, TIMESTAMP", f"found {shown(row['TIMESTAMP'])}; allowed: a date and time")
            )
        tokens = []
        for column in ("ContextTokens", "GeneratedTokens"):
            text = row[column] or ""
            tokens.append(int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0)
            if not 1 <= tokens[-1] <= MAX_TOKENS:
                faults.append(
                    Fault(f"line {line}, {column}", f"found {shown(row[column])}; allowed: 1 to {MAX_TOKENS}")
                )
        lengths.append((tokens[0], tokens[1]))
        if len(faults) >= MOST_FAULTS:
            break
    if faults:
        raise InputError(where, faults)
    if not ticks:
        raise InputError(where, [Fault("file", f"has no request after the first {skip}" if skip else "has no request")])
    first = min(ticks)
    per_round = Fraction(round_ms) * 10_000  # a tick is 100 ns
    rows = sorted(
        ((-(-Fraction(t - first) // per_round), s, o) for t, (s, o) in zip(ticks, lengths, strict=True)),
        key=lambda r: r[0],
    )
    kept = [(a, s, o) for a, s, o in rows if not (drop_oversized and kv_capacity is not None and s + o > kv_capacity)]
    if not kept:
        raise InputError(where, [Fault("file", f"no request fits {kv_capacity} tokens")])
    stem = "azure" if where == "standard input" else Path(path).name.partition(".")[0]
    dropped = f", {len(rows) - len(kept)} oversized left out" if drop_oversized else ""
    return Instance(
        name=f"{stem}-n{len(kept)}" + (f"-skip{skip}" if skip else ""),
        description=f"{stem}: {len(kept)} requests after the first {skip}, rounds of {round_ms:g} ms{dropped}",
        source=f"trace azure {stem}",
        server=Server(kv_capacity_tokens=kv_capacity),
        requests=tuple(
            Request(id=f"r{i}", arrival=int(a), prompt_tokens=s, output_tokens=o)
            for i, (a, s, o) in enumerate(kept, start=1)
        ),
    )


@trace_format(
    "lengths",
    summary="CSV with columns of prompt and output lengths, named by options; all requests known at 0, served on slots",
    reference="any table of lengths, such as the token lengths of the GSM8K test questions",
    prompt_column="column of the prompt lengths [token]",
    output_column="column of the output lengths [token]; default: drawn from the law",
    output_law="law of the outputs when there is no column|gamma|lognormal",
    seed="seed of the draw",
    slots="J",
    requests="take at most so many requests; default: all",
    prefill_base_ms="duration of a prefill without tokens [ms]",
    prefill_per_token_ms="duration of a prompt token [ms]",
    decode_base_ms="duration of a decode round [ms]",
)
def lengths(
    path: str | os.PathLike[str],
    *,
    prompt_column: str = "prompt_tokens",
    output_column: str | None = None,
    output_law: str = "gamma",
    seed: int = 0,
    slots: int = 200,
    requests: int | None = None,
    prefill_base_ms: float = GSM8K_CLOCK.prefill_base_ms,
    prefill_per_token_ms: float = GSM8K_CLOCK.prefill_per_token_ms,
    decode_base_ms: float = GSM8K_CLOCK.decode_base_ms,
) -> Instance:
    """Requests in the order of the file; the laws of the outputs are those of the family gsm8k."""
    times = {
        "prefill_base_ms": prefill_base_ms,
        "prefill_per_token_ms": prefill_per_token_ms,
        "decode_base_ms": decode_base_ms,
    }
    faults = [
        Fault(f"--{name.replace('_', '-')}", f"found {shown(value)}; allowed: {least} to 10^{digits}")
        for name, value, least, digits in (("slots", slots, 1, 6), ("requests", requests, 1, 6), ("seed", seed, 0, 18))
        if value is not None and not least <= value <= 10**digits
    ]
    faults += [
        Fault(f"--{name.replace('_', '-')}", f"found {value}; allowed: 0 to 10^9")
        for name, value in times.items()
        if not 0 <= value <= 1e9
    ]
    if faults:
        raise InputError("import lengths", faults)
    where = where_of(path)
    columns = (prompt_column,) if output_column is None else (prompt_column, output_column)
    found: dict[str, list[int]] = {column: [] for column in columns}
    for line, row in islice(_csv_rows(path, columns), requests):
        for column in columns:
            text = (row[column] or "").strip()
            tokens = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0
            if not 1 <= tokens <= MAX_TOKENS:
                faults.append(
                    Fault(f"line {line}, {column}", f"found {shown(row[column])}; allowed: 1 to {MAX_TOKENS}")
                )
            found[column].append(tokens)
        if len(faults) >= MOST_FAULTS:
            break
    if faults:
        raise InputError(where, faults)
    prompt = np.array(found[prompt_column], dtype=np.int64)
    if not len(prompt):
        raise InputError(where, [Fault("file", "has no request")])
    if output_column is None:
        output = output_lengths(output_law, len(prompt), np.random.default_rng(seed))
        law = f"outputs {output_law}, seed {seed}"
    else:
        output, law = np.array(found[output_column], dtype=np.int64), f"outputs {output_column}"
    stem = "lengths" if where == "standard input" else Path(path).name.partition(".")[0]
    return slot_instance(
        f"{stem}-n{len(prompt)}-j{slots}" + (f"-{output_law}-s{seed}" if output_column is None else ""),
        f"trace lengths {stem}",
        f"{stem}: {len(prompt)} requests, prompts {prompt_column}, {law}",
        slots,
        LinearClock(kind="linear", **times),
        prompt,
        output,
    )


def _ticks(text: str | None) -> int:
    """A timestamp as a count of 100 ns; exact for the seven decimals that Azure writes."""
    whole, _, decimals = (text or "").strip().partition(".")
    if decimals and not (decimals.isascii() and decimals.isdigit()):
        raise ValueError(text)
    seconds = (datetime.fromisoformat(whole).replace(tzinfo=None) - datetime(2000, 1, 1)).total_seconds()
    return int(seconds) * 10_000_000 + int(decimals[:7].ljust(7, "0"))


def _csv_rows(path: str | os.PathLike[str], columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Line number and row of a CSV file that has these columns; gzip is known by its first bytes."""
    where = where_of(path)
    reader = csv.DictReader(read_lines(path))
    try:
        names = reader.fieldnames or []
        faults = [Fault("line 1", f"has no column {c!r}{did_you_mean(c, names)}") for c in columns if c not in names]
        faults += [Fault("line 1", f"the column {c!r} stands twice") for c in columns if names.count(c) > 1]
        if faults:
            raise InputError(where, faults)
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(where, [Fault(f"line {reader.line_num}", str(error))]) from None
