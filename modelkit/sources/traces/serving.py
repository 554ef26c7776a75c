"""Traces of serving: when requests arrived and how long they were.

A format says how to read a row; what becomes of the rows is the same for all (`modelkit.sources.traces.taking`).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from modelkit.errors import Fault
from modelkit.io.tables import Row, read_csv, read_json_lines
from modelkit.sources.traces import Imported, trace_format
from modelkit.sources.traces.taking import ROUND_MS, Reader, Reading, Taking, TraceEntry, taken
from modelkit.sources.traces.times import is_number, ticks_of_stamp


def serving_format(
    name: str,
    *,
    rows: Callable[[str | os.PathLike[str]], Iterator[Row]],
    unit: str | None,
    block: int | None = None,
    summary: str,
    reference: str,
) -> Callable[[Reader], Reader]:
    """Decorator that registers a trace format by the function that reads one of its rows.

    Parameters
    ----------
    unit
        Of times that are numbers; None where they are stamps.
    block
        Prompt tokens in a block of the prefix hashes; None where the format has none.
    """

    def decorate(read: Reader) -> Reader:
        def make(
            path: str | os.PathLike[str],
            *,
            server: str | None = None,
            round_ms: float | None = None,
            kv_capacity: int | None = None,
            requests: int | None = None,
            skip: int = 0,
            from_: str | None = None,
            until: str | None = None,
            rate: float | None = None,
            drop_oversized: bool = False,
            seed: int = 0,
            time_unit: str | None = None,
            block: int | None = None,
        ) -> Imported:
            taking = Taking(
                server, round_ms, kv_capacity, requests, skip, from_, until, rate, drop_oversized, seed, block
            )
            reading = Reading(time_unit or unit, block or usual_block, told=time_unit is not None)
            return taken(name, path, rows(path), read, reading, taking)

        usual_block = block
        if block is None:  # not offered where there is nothing to count
            signature = inspect.signature(make, eval_str=True)
            kept = [p for p in signature.parameters.values() if p.name != "block"]
            make.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        numbers = f"default: {unit}" if unit else "default: they are dates"
        trace_format(
            name,
            summary=summary,
            reference=reference,
            server="preset or JSON file of a server; default: the unit clock",
            round_ms=f"without a server, length of a round [ms]; an arrival is known from the next round boundary on;"
            f" default: {ROUND_MS:g}",
            kv_capacity="KV capacity M [token]; default: the server's, or no limit",
            requests="take at most this many rows; default: all",
            skip="skip this many rows at the beginning",
            from_="leave out requests before this: seconds after the first row, or a date and time as in the file",
            until="leave out requests from this moment on",
            rate="rescale arrivals to this many requests per second on average; if there are none, draw them (Poisson)",
            drop_oversized="leave out requests that can never fit",
            seed="seed of drawn arrivals",
            time_unit=f"unit of times that are numbers; {numbers}|s|ms|us|ns",
            block=f"prompt tokens in a block of hash_ids; default: {block}",
        )(make)
        return read

    return decorate


_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@serving_format(
    "azure",
    rows=lambda path: read_csv(path, _AZURE, trace=True).rows(),
    unit=None,
    summary="CSV with TIMESTAMP, ContextTokens, GeneratedTokens; the Azure LLM inference traces of 2023 and 2024",
    reference="Azure/AzurePublicDataset; Patel et al., Splitwise, ISCA 2024; Stojkovic et al., DynamoLLM, HPCA 2025"
    " (CC-BY-4.0)",
)
def azure(row: Row, reading: Reading) -> TraceEntry:
    """The stamps of 2023 have seven decimals; those of 2024 six, and an offset from UTC."""
    text = row.cell("TIMESTAMP") or ""
    tick = 0
    if is_number(text) and reading.unit is not None:
        tick = reading.time(row, "TIMESTAMP")
    elif is_number(text) and not reading.faults:
        reading.faults.append(row.fault("TIMESTAMP", "a date and time; for a number give the unit: --time-unit s"))
    elif not is_number(text):
        try:
            tick = ticks_of_stamp(text)
        except (ValueError, OverflowError):
            reading.faults.append(row.fault("TIMESTAMP", "a date and time, such as 2023-11-16 18:15:46.680590"))
    prompt = row.tokens("ContextTokens", reading.faults)
    return TraceEntry(tick, prompt, row.tokens("GeneratedTokens", reading.faults, least=0))


_BURSTGPT = ("Timestamp", "Request tokens", "Response tokens")


@serving_format(
    "burstgpt",
    rows=lambda path: read_csv(path, _BURSTGPT, trace=True).rows(),
    unit="s",
    summary="CSV with Timestamp [s], Request tokens, Response tokens; rows without response or request are failures,"
    " left out and named in extra.failed_lines",
    reference="HPMLL/BurstGPT; Wang et al., BurstGPT, arXiv 2401.17644 (CC-BY-4.0)",
)
def burstgpt(row: Row, reading: Reading) -> TraceEntry:
    """A response of no tokens is a failed request."""
    tick = reading.time(row, "Timestamp")
    prompt = row.tokens("Request tokens", reading.faults, least=0)
    output = row.tokens("Response tokens", reading.faults, least=0)
    return TraceEntry(tick, prompt, output, failed=not (prompt and output))


_MOONCAKE = ("timestamp", "input_length", "output_length")


def _hashed_rows(path: str | os.PathLike[str]) -> Iterator[Row]:
    return read_json_lines(path, _MOONCAKE, hint=_of_a_session)


def _of_a_session(found: Mapping[str, Any]) -> str:
    delayed = "timestamp" not in found and ("delay" in found or "delay_ms" in found)
    return "; a turn that comes a delay after the answer before it has no arrival of its own" if delayed else ""


@serving_format(
    "mooncake",
    rows=_hashed_rows,
    unit="ms",
    block=512,
    summary="JSON lines with timestamp [ms], input_length, output_length; hash_ids are kept in extra.prefix_hashes",
    reference="kvcache-ai/Mooncake; Qin et al., Mooncake, FAST 2025 (Apache-2.0)",
)
def mooncake(row: Row, reading: Reading) -> TraceEntry:
    """Equal hashes are equal blocks of 512 prompt tokens, at the same place of the prompt."""
    if "parent_chat_id" in row.cells and not reading.told and not reading.faults:
        words = "is a key of the Qwen-Bailian traces, which count seconds: import bailian, or give --time-unit"
        reading.faults.append(Fault(f"{row.place}, parent_chat_id", words))
    return bailian(row, reading)


@serving_format(
    "bailian",
    rows=_hashed_rows,
    unit="s",
    block=16,
    summary="JSON lines with timestamp [s], input_length, output_length; hash_ids, a block of 16 tokens each, are kept"
    " in extra.prefix_hashes",
    reference="alibaba-edu/qwen-bailian-usagetraces-anon; Wang et al., KVCache Cache in the Wild, ATC 2025",
)
def bailian(row: Row, reading: Reading) -> TraceEntry:
    """The keys of Mooncake, in seconds and blocks of 16."""
    tick = reading.time(row, "timestamp")
    found = row.cells.get("hash_ids")
    blocks = [] if found is None else found
    if not isinstance(blocks, list) or not all(isinstance(b, int) and not isinstance(b, bool) for b in blocks):
        reading.faults.append(row.fault("hash_ids", "a list of whole numbers"))
        blocks = []
    prompt = row.tokens("input_length", reading.faults)
    output = row.tokens("output_length", reading.faults, least=0)
    if blocks and not reading.faults:
        _check_blocks(row, prompt, len(blocks), reading)
    if {"session_id", "chat_id"} & row.cells.keys():
        reading.conversations = True
    return TraceEntry(tick, prompt, output, blocks=blocks)


def _check_blocks(row: Row, prompt: int, blocks: int, reading: Reading) -> None:
    """A fault unless this many blocks hold the prompt; a part of a block at its end may have a hash or none."""
    size = reading.block or 1
    if blocks in (prompt // size, -(-prompt // size)):
        return
    fits = [str(2**k) for k in range(17) if blocks == -(-prompt // 2**k)][:3]
    advice = f"; blocks of {' or '.join(fits)} would fit: --block" if fits else ""
    words = f"{blocks} blocks of {size} tokens do not make a prompt of {prompt:,}{advice}"
    reading.faults.append(Fault(f"{row.place}, hash_ids", words))


_VIDUR = ("num_prefill_tokens", "num_decode_tokens")


@serving_format(
    "vidur",
    rows=lambda path: read_csv(path, _VIDUR, trace=True).rows(),
    unit="s",
    summary="CSV with num_prefill_tokens, num_decode_tokens and perhaps arrived_at [s]; the processed traces of Vidur",
    reference="microsoft/vidur; Agrawal et al., Vidur, MLSys 2024 (MIT)",
)
def vidur(row: Row, reading: Reading) -> TraceEntry:
    """Lengths, and arrivals in seconds where there are any."""
    tick = reading.time(row, "arrived_at") if "arrived_at" in row.cells else None
    prompt = row.tokens("num_prefill_tokens", reading.faults)
    return TraceEntry(tick, prompt, row.tokens("num_decode_tokens", reading.faults, least=0))
