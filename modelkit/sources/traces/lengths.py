"""Tables of lengths: requests without arrivals, or with them, served on slots or on a server."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modelkit.errors import MOST_FAULTS, Fault, InputError, shown
from modelkit.instance import LinearClock, Server
from modelkit.io import MOST_REQUESTS
from modelkit.io.tables import Row, Table, read_csv
from modelkit.sources.families import GSM8K_CLOCK, output_lengths, timed_instance
from modelkit.sources.servers import find_server
from modelkit.sources.traces import Imported, stem_of, trace_format
from modelkit.sources.traces.times import TICKS_PER_SECOND, TIME_UNITS, ticks_of_number, unit_doubt
from modelkit.text import count

#: What tables call prompt lengths, output lengths and arrivals, in small letters with ``_`` for blanks.
_PROMPTS = (
    "prompt_tokens", "input_tokens", "prompt_length", "input_length", "prompt_len", "input_len", "prompt_size",
    "input_toks", "num_prefill_tokens", "request_num_prefill_tokens", "contexttokens", "request_tokens",
)  # fmt: skip
_OUTPUTS = (
    "output_tokens", "completion_tokens", "generation_tokens", "output_length", "output_len", "token_size",
    "output_toks", "num_decode_tokens", "request_num_decode_tokens", "generatedtokens", "response_tokens",
)  # fmt: skip
_ARRIVALS = ("arrival", "arrival_time", "arrived_at", "arrival_timestamp", "timestamp", "time")
#: Columns whose unit their public writers state.
_STATED = {"arrived_at": "s"}


@trace_format(
    "lengths",
    summary="CSV with columns of prompt and output lengths, with usual names or named by options; all arrive at 0"
    " on slots or, with --server, as the table or --rate says",
    reference="any table of lengths, such as the token lengths of the GSM8K test questions",
    prompt_column="column of the prompt lengths [token]; default: the one with a usual name",
    output_column="column of the output lengths [token]; default: the one with a usual name, or drawn",
    output_law="distribution of the outputs in place of a column; default: gamma|gamma|lognormal",
    arrival_column="with a server, column of the arrivals; default: the one with a usual name",
    time_unit="unit of the arrivals; default: that of the column's name, such as arrival_ms|s|ms|us|ns",
    seed="seed of the draw",
    slots="slots of the server, J, when --server names none",
    server="preset or JSON file of a server, in place of slots and times",
    kv_capacity="with a server, M [token]; default: the server's",
    rate="with a server, requests per second (Poisson); default: the arrivals of the table, or all at once",
    requests="take at most this many requests; default: all",
    base_ms="part of every iteration, prefill or decode round [ms]",
    prefill_base_ms="duration of a prefill without tokens [ms]",
    prefill_per_token_ms="duration of a prompt token [ms]",
    decode_base_ms="duration of a decode round [ms]",
)
def lengths(
    path: str | os.PathLike[str],
    *,
    prompt_column: str | None = None,
    output_column: str | None = None,
    output_law: str | None = None,
    arrival_column: str | None = None,
    time_unit: str | None = None,
    seed: int = 0,
    slots: int = 200,
    server: str | None = None,
    kv_capacity: int | None = None,
    rate: float | None = None,
    requests: int | None = None,
    base_ms: float = GSM8K_CLOCK.base_ms,
    prefill_base_ms: float = GSM8K_CLOCK.prefill_base_ms,
    prefill_per_token_ms: float = GSM8K_CLOCK.prefill_per_token_ms,
    decode_base_ms: float = GSM8K_CLOCK.decode_base_ms,
) -> Imported:
    """Requests in the order of the file; the distributions of the outputs are those of the family gsm8k."""
    times = {
        "base_ms": base_ms,
        "prefill_base_ms": prefill_base_ms,
        "prefill_per_token_ms": prefill_per_token_ms,
        "decode_base_ms": decode_base_ms,
    }
    least = {"slots": (slots, 1), "requests": (requests, 1), "seed": (seed, 0), "kv_capacity": (kv_capacity, 1)}
    served: dict[str, object] = {
        "kv_capacity": kv_capacity,
        "rate": rate,
        "arrival_column": arrival_column,
        "time_unit": time_unit,
    }
    _check(least | {"rate": (rate, 1e-6)}, times, served if server is None else {})
    if output_column is not None and output_law is not None:
        raise InputError("import lengths", [Fault("--output-law", "conflicts with --output-column; give one of them")])
    if rate is not None and arrival_column is not None:
        raise InputError("import lengths", [Fault("--rate", "conflicts with --arrival-column; give one of them")])
    host = Server(slots=slots, clock=LinearClock(kind="linear", **times))
    if server is not None:
        host = find_server(server)
        if kv_capacity is not None:
            host = host.model_copy(update={"kv_capacity_tokens": kv_capacity})
    table = read_csv(path, [c for c in (prompt_column, output_column, arrival_column) if c is not None])
    chosen = _columns(table, prompt_column, output_column, output_law, arrival_column)
    takes_arrivals = server is not None and rate is None and chosen.arrival is not None
    unit = _unit(table.where, chosen.arrival or "", time_unit) if takes_arrivals else None
    found = _read(table, chosen, unit, requests)
    if unit is not None and time_unit is None and (doubt := unit_doubt(found.ticks, unit, None)) is not None:
        raise InputError(table.where, [Fault(str(chosen.arrival), f"{doubt}; give the unit: --time-unit s or ms")])
    notes = []
    if found.no_output:
        lines = found.no_output
        notes.append(f"{count(len(lines), 'row')} without output left out, the first in line {lines[0]}")
    if chosen.arrival is not None and not takes_arrivals:
        why = "--rate draws them" if rate is not None else "only with --server do requests arrive over time"
        notes.append(f"the arrivals in the column {chosen.arrival!r} are not used: {why}")
    gaps = [c for c in table.columns if "inter_arrival" in c.lower()]
    if gaps and not takes_arrivals and chosen.arrival is None:
        notes.append(f"the gaps between arrivals in the column {gaps[0]!r} are not used")
    prompt = np.array(found.prompt, dtype=np.int64)
    stem = stem_of(path, "lengths")
    law = output_law or "gamma"
    if chosen.output is None:
        output = output_lengths(law, len(prompt), np.random.default_rng(seed))
        words = f"outputs {law}, seed {seed}"
        if output_law is None:
            notes.append(
                f"outputs are drawn ({words.removeprefix('outputs ')}): no column has a usual name of output lengths;"
                " --output-column names one"
            )
    else:
        output, words = np.array(found.output, dtype=np.int64), f"outputs {chosen.output}"
    arrival, order = _arrivals(found.ticks if takes_arrivals else None, rate, seed, len(prompt))
    place = f"j{slots}" if server is None else "server"
    name = f"{stem}-n{len(prompt)}-{place}" + (f"-{law}-s{seed}" if chosen.output is None else "")
    name += f"-rate{rate:g}-s{seed}" if rate is not None else ""
    instance = timed_instance(
        name + (f"-m{kv_capacity}" if kv_capacity is not None else ""),
        f"trace lengths {stem}",
        f"{stem}: {count(len(prompt), 'request')}, prompts {chosen.prompt}, {words}"
        + (f", on {server}" if server is not None else "")
        + (f", {rate:g} requests/s" if rate is not None else "")
        + (f", arrivals {chosen.arrival} [{unit}]" if takes_arrivals else "")
        + (f", {len(found.no_output)} without output left out" if found.no_output else ""),
        host,
        prompt=prompt[order],
        output=output[order],
        arrival=arrival,
    )
    return Imported(instance, tuple(notes))


def _check(least: dict[str, tuple[Any, float]], times: dict[str, float], served: dict[str, object]) -> None:
    """Raise unless every option is in its range, and has the server that it needs."""
    faults = [
        Fault(f"--{name.replace('_', '-')}", f"found {value}; allowed: {bound} or more")
        for name, (value, bound) in least.items()
        if value is not None and not value >= bound
    ]
    faults += [
        Fault(f"--{name.replace('_', '-')}", f"found {value}; allowed: 0 to 10^9")
        for name, value in times.items()
        if not 0 <= value <= 1e9
    ]
    faults += [
        Fault(
            f"--{name.replace('_', '-')}", "needs --server; without it, give --slots and the prefill and decode times"
        )
        for name, value in served.items()
        if value is not None
    ]
    if faults:
        raise InputError("import lengths", faults)


class _Columns(NamedTuple):
    """Which columns hold what; None where there is none."""

    prompt: str
    output: str | None
    arrival: str | None


def _columns(table: Table, prompt: str | None, output: str | None, law: str | None, arrival: str | None) -> _Columns:
    """The columns that were named, or else those with usual names."""
    return _Columns(
        prompt or _usual(table, _PROMPTS, "prompt") or _unknown(table),
        output if output is not None or law is not None else _usual(table, _OUTPUTS, "output", but=prompt),
        arrival or _usual(table, _ARRIVALS, "arrival"),
    )


def _usual(table: Table, names: Sequence[str], what: str, but: str | None = None) -> str | None:
    """The column with one of these names, whatever unit follows it."""
    found = [c for c in table.columns if c != but and _plain_name(c)[0] in names]
    table.require(dict.fromkeys(found))
    if len(found) > 1:
        listed = ", ".join(repr(c) for c in found)
        words = f"several columns may hold the {what}s: {listed}; use --{what}-column"
        raise InputError(table.where, [Fault("line 1", words)])
    return found[0] if found else None


def usual_columns(columns: Iterable[str]) -> bool:
    """Whether one of these columns has a usual name of prompt lengths."""
    return any(_plain_name(column)[0] in _PROMPTS for column in columns)


def _plain_name(column: str) -> tuple[str, str | None]:
    """A column's name in small letters without its unit of time, and that unit."""
    name = column.lower().replace(" ", "_").strip("_")
    stem, _, last = name.rpartition("_")
    return (stem, last) if stem and last in TIME_UNITS else (name, None)


def _unknown(table: Table) -> str:
    if table.is_json:
        table.require(["prompt lengths", "output lengths"])
    found = shown(", ".join(table.columns[:12]) or "none", 200)
    words = f"no column has a usual name of prompt lengths; its columns: {found}; --prompt-column names one"
    raise InputError(table.where, [Fault("line 1", words)])


def _unit(where: str, column: str, told: str | None) -> str:
    name, unit = _plain_name(column)
    unit = told or unit or _STATED.get(name)
    if unit is None:
        words = "does not give the unit of its times; use --time-unit s or ms, or --rate to draw arrivals"
        raise InputError(where, [Fault(f"line 1, {column}", words)])
    return unit


class _Found(NamedTuple):
    """Columns as read; lines of the rows left out."""

    prompt: list[int]
    output: list[int]
    ticks: list[int]
    no_output: list[int]


def _read(table: Table, columns: _Columns, unit: str | None, requests: int | None) -> _Found:
    found = _Found([], [], [], [])
    faults: list[Fault] = []
    rows: Iterable[Row] = islice(table.rows(), requests)
    for row in rows:
        prompt = row.tokens(columns.prompt, faults)
        output = 1 if columns.output is None else row.tokens(columns.output, faults, least=0)
        tick = 0 if unit is None else _tick(row, str(columns.arrival), unit, faults)
        if len(faults) >= MOST_FAULTS:
            break
        if not output:
            found.no_output.append(row.line)
            continue
        if len(found.prompt) == MOST_REQUESTS:
            words = f"more than {MOST_REQUESTS:,} requests, the most of an instance; --requests takes fewer"
            faults.append(Fault(f"line {row.line}", words))
            break
        found.prompt.append(prompt)
        found.output.append(output)
        found.ticks.append(tick)
    if not faults and not found.prompt:
        faults = [Fault("file", "has no request" + (" with an output" if found.no_output else ""))]
    if faults:
        raise InputError(table.where, faults)
    return found


def _tick(row: Row, column: str, unit: str, faults: list[Fault]) -> int:
    try:
        return ticks_of_number(row.cell(column), unit)[0]
    except ValueError:
        faults.append(row.fault(column, f"a time in {unit}, 0 or more"))
        return 0


def _arrivals(
    ticks: list[int] | None, rate: float | None, seed: int, n: int
) -> tuple[npt.NDArray[np.float64] | None, npt.NDArray[np.int64]]:
    """Arrivals in seconds from the first on, where there are any, and the order of the requests."""
    order = np.arange(n)
    if rate is not None:
        gaps = np.random.default_rng([seed, 1]).exponential(1 / rate, n - 1)
        return np.concatenate([[0.0], np.cumsum(gaps)]), order
    if ticks is None:
        return None, order
    column = np.array(ticks, dtype=np.int64)
    order = np.argsort(column, kind="stable")
    return (column[order] - column.min()) / TICKS_PER_SECOND, order
