"""Traces of serving: when requests arrived and how long they were.

A format says how to read a row; what becomes of the rows is the same for all (`modelkit.sources.traces.taking`).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator

from modelkit.errors import Fault, InputError, did_you_mean
from modelkit.io.files import where_of
from modelkit.io.tables import Row, read_csv, read_json_lines
from modelkit.sources.traces import Imported, trace_format
from modelkit.sources.traces.attributes import Attributes
from modelkit.sources.traces.taking import ROUND_MS, Reader, Reading, Taking, TraceEntry, taken
from modelkit.sources.traces.times import is_number, ticks_of_stamp
from modelkit.text import count


def serving_format(
    name: str,
    *,
    rows: Callable[[str | os.PathLike[str]], Iterator[Row]],
    unit: str | None,
    block: int | None = None,
    models: str | None = None,
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
    models
        The column that names a row's model; None where the format has none.
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
            model: str | None = None,
            attribute: str | None = None,
            prefixes: str = "none",
        ) -> Imported:
            taking = Taking(
                server, round_ms, kv_capacity, requests, skip, from_, until, rate, drop_oversized, seed, block, model,
                prefixes,
            )  # fmt: skip
            reading = Reading(time_unit or unit, block or usual_block, told=time_unit is not None)
            reading.attributes = Attributes.read(attribute)
            chosen = rows(path) if model is None else _of_model(rows(path), str(models), model, reading)
            return taken(name, path, chosen, read, reading, taking)

        usual_block = block
        without = (
            {"block", "prefixes"} if block is None else set()
        )  # not offered where there is nothing to count or to choose
        without |= {"model"} if models is None else set()
        signature = inspect.signature(make, eval_str=True)
        kept = [p for p in signature.parameters.values() if p.name not in without]
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
            prefixes="what requests share by their hash_ids: nothing, tokens while a request uses them, or tokens that"
            " stay in the prefix cache until memory is needed|none|share|keep",
            model="take only rows of this model; the other options count these",
            attribute="columns that requests keep: class, session, priority or a name of your own, each NAME or"
            " NAME=COLUMN, with commas between",
        )(make)
        return read

    return decorate


def _of_model(rows: Iterator[Row], column: str, model: str, reading: Reading) -> Iterator[Row]:
    """Rows of a model; the others are counted."""
    for row in rows:
        if row.cell(column) == model:
            yield row
        else:
            reading.ignored["rows of other models, left out"] += 1


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
    images = (row.cell("NumImages") or "0").strip("0.") != ""
    said = ("requests with images, whose tokens are those of ContextTokens alone",) if images else ()
    return TraceEntry(tick, prompt, row.tokens("GeneratedTokens", reading.faults, least=0), said=said)


_BURSTGPT = ("Timestamp", "Request tokens", "Response tokens")


@serving_format(
    "burstgpt",
    rows=lambda path: read_csv(path, _BURSTGPT, trace=True).rows(),
    unit="s",
    models="Model",
    summary="CSV with Timestamp [s], Request tokens, Response tokens; rows without response or request are failures,"
    " left out and named in extra.failed_lines",
    reference="HPMLL/BurstGPT; Wang et al., BurstGPT, arXiv 2401.17644 (CC-BY-4.0)",
)
def burstgpt(row: Row, reading: Reading) -> TraceEntry:
    """A response of no tokens is a failed request."""
    if row.cell("Session ID"):
        reading.conversations = True
    said = ("rows with a measured duration (Elapsed time), which is not used",) if row.cell("Elapsed time") else ()
    tick = reading.time(row, "Timestamp")
    prompt = row.tokens("Request tokens", reading.faults, least=0)
    output = row.tokens("Response tokens", reading.faults, least=0)
    return TraceEntry(tick, prompt, output, failed=not (prompt and output), said=said)


_MOONCAKE = ("timestamp", "input_length", "output_length")


@serving_format(
    "mooncake",
    rows=lambda path: read_json_lines(path, ("output_length",)),
    unit="ms",
    block=512,
    summary="JSON lines with timestamp [ms], input_length, output_length; hash_ids are kept in extra.prefix_hashes;"
    " later turns of a session may have a delay in place of a timestamp",
    reference="kvcache-ai/Mooncake; Qin et al., Mooncake, FAST 2025 (Apache-2.0); ai-dynamo/dynamo and"
    " ai-dynamo/aiperf, mooncake and agentic_mooncake (Apache-2.0)",
)
def mooncake(row: Row, reading: Reading) -> TraceEntry:
    """Equal hashes are equal blocks of 512 prompt tokens, at the same place of the prompt."""
    if "parent_chat_id" in row.cells and not reading.told and not reading.faults:
        words = "is a key of the Qwen-Bailian traces, which count seconds: import bailian, or give --time-unit"
        reading.faults.append(Fault(f"{row.place}, parent_chat_id", words))
    entry = _turn(row, reading)
    blocks, session = entry.blocks, row.cells.get("session_id")
    if blocks and session is not None and reading.prompts.setdefault(str(session), blocks[0]) != blocks[0]:
        words = "turns that do not begin with the blocks of the turn before; turns of only what is new are of"
        return entry._replace(said=(f"{words} the format mooncake-delta",))
    return entry


@serving_format(
    "mooncake-delta",
    rows=lambda path: read_json_lines(path, ("output_length", "session_id")),
    unit="ms",
    block=512,
    summary="JSON lines as of mooncake with session_id, where each turn has only the tokens that are new in its prompt",
    reference="ai-dynamo/dynamo, docs/dynosim/trace-formats.md (Apache-2.0)",
)
def mooncake_delta(row: Row, reading: Reading) -> TraceEntry:
    """A turn's prompt is that of the turn before and what is new, whose hashes are not those of the whole."""
    session = str(row.cells.get("session_id"))
    entry = _turn(row, reading, reading.prompts.get(session, 0))
    reading.prompts[session] = entry.prompt
    said = ("turns whose hashes are of what is new alone, and are not kept",) if entry.blocks else ()
    return entry._replace(blocks=None, said=said)


@serving_format(
    "bailian",
    rows=lambda path: read_json_lines(path, _MOONCAKE),
    unit="s",
    block=16,
    summary="JSON lines with timestamp [s], input_length, output_length; hash_ids, a block of 16 tokens each, are kept"
    " in extra.prefix_hashes",
    reference="alibaba-edu/qwen-bailian-usagetraces-anon; Wang et al., KVCache Cache in the Wild, ATC 2025",
)
def bailian(row: Row, reading: Reading) -> TraceEntry:
    """The keys of Mooncake, in seconds and blocks of 16."""
    entry = _turn(row, reading)
    if row.cells.get("type") in ("image", "file"):
        return entry._replace(said=("requests with an image or a file, whose tokens are those of input_length alone",))
    return entry


def _blocks(row: Row, reading: Reading) -> list[int]:
    """Hashes of a prompt's blocks."""
    found = row.cells.get("hash_ids")
    blocks = [] if found is None else found
    if not isinstance(blocks, list) or not all(isinstance(b, int) and not isinstance(b, bool) for b in blocks):
        reading.faults.append(row.fault("hash_ids", "a list of whole numbers"))
        return []
    return blocks


def _turn(row: Row, reading: Reading, before: int = 0) -> TraceEntry:
    """A row with hashes, whose prompt begins with ``before`` tokens that it does not count."""
    assert reading.turns is not None
    tick = reading.turns.tick(row, reading)
    blocks = _blocks(row, reading)
    if "input_length" not in row.cells and blocks:
        prompt = len(blocks) * (reading.block or 1)
    elif "input_length" not in row.cells:
        text = "; a text has to be counted by its tokenizer first" if "text_input" in row.cells else None
        words = f"has no key 'input_length'{text or did_you_mean('input_length', row.cells)}"
        reading.faults.append(Fault(row.place, words))
        prompt = 1
    else:
        prompt = row.tokens("input_length", reading.faults)
    output = row.tokens("output_length", reading.faults, least=0)
    if blocks and not reading.faults:
        _check_blocks(row, prompt, len(blocks), reading)
    if {"session_id", "chat_id"} & row.cells.keys():
        reading.conversations = True
    if not reading.faults:
        reading.turns.came(row, tick, before + prompt, output)
    return TraceEntry(tick, before + prompt, output, blocks=blocks)


def _check_blocks(row: Row, prompt: int, blocks: int, reading: Reading) -> None:
    """A fault unless this many blocks hold the prompt; a part of a block at its end may have a hash or none."""
    size = reading.block or 1
    if blocks in (prompt // size, -(-prompt // size)):
        return
    fits = [str(2**k) for k in range(17) if blocks == -(-prompt // 2**k)][:3]
    advice = f"; blocks of {' or '.join(fits)} would fit: --block" if fits else ""
    make = "does not make" if blocks == 1 else "do not make"
    words = f"{count(blocks, 'block')} of {count(size, 'token')} {make} a prompt of {prompt:,}{advice}"
    reading.faults.append(Fault(f"{row.place}, hash_ids", words))


@serving_format(
    "servingsim",
    rows=lambda path: _sub_requests(where_of(path), read_json_lines(path, ("arrival_time_ns",))),
    unit="ns",
    summary="JSON lines with arrival_time_ns, input_toks, output_toks, or with sub_requests of a session, each a"
    " tool_duration_ns after the answer before it; the workloads of LLMServingSim",
    reference="casys-kaist/LLMServingSim; Cho et al., LLMServingSim, IISWC 2024 (MIT)",
)
def servingsim(row: Row, reading: Reading) -> TraceEntry:
    """A request of its own or of a session."""
    assert reading.turns is not None
    tick = reading.turns.tick(row, reading)
    prompt = row.tokens("input_toks", reading.faults)
    output = row.tokens("output_toks", reading.faults, least=0)
    if "session_id" in row.cells:
        reading.conversations = True
        if not reading.faults:
            reading.turns.came(row, tick, prompt, output)
    return TraceEntry(tick, prompt, output)


def _sub_requests(where: str, rows: Iterator[Row]) -> Iterator[Row]:
    """Each request as a row; of a session the first arrives, the others wait for the tool of the one before."""
    for row in rows:
        parts = row.cells.get("sub_requests")
        if parts is None:
            yield row
            continue
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise InputError(where, [row.fault("sub_requests", "a list of JSON objects")])
        session = {"session_id": row.cells.get("session_id", row.place)}
        wait: dict[str, object] = {"arrival_time_ns": row.cells["arrival_time_ns"]}
        for part in parts:
            yield Row(row.line, {**part, "tool_duration_ns": None, **session, **wait}, row.in_list)
            wait = {"tool_duration_ns": part.get("tool_duration_ns")}


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
