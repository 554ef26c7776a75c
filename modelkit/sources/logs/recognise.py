"""Which format a file has, by the keys of its beginning."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from modelkit.errors import Fault, InputError, UsageError
from modelkit.io.files import read_head, where_of

#: How much of a file is looked at [byte].
_HEAD = 2**16
_KEY = re.compile(r'"((?:[^"\\]|\\.){1,80})"\s*:')


class Signature(NamedTuple):
    """Keys, or columns of a table, which a file of the format has; ``table`` for CSV."""

    format: str
    keys: tuple[str, ...]
    table: bool = False


#: The first whose keys are all there is it, so those with more come before those with fewer.
SIGNATURES = (
    Signature("vllm-run", ("request_id", "input_toks", "output_toks", "queued_ts")),
    Signature("vllm-bench", ("input_lens", "output_lens", "model_id", "num_prompts")),
    Signature("vllm-bench", ("input_lens", "output_lens", "start_times")),
    Signature("sglang-bench", ("input_lens", "output_lens", "ttfts")),
    Signature("aiperf", ("metadata", "metrics", "request_start_ns")),
    Signature("guidellm", ("benchmarks", "metadata", "guidellm_version")),
    Signature("guidellm", ("benchmarks", "request_start_time", "successful")),
    Signature("dynamo", ("event_type", "event_time_unix_ms")),
    Signature("otel", ("resourceSpans", "scopeSpans")),
    Signature("sglang-metrics", ("request_parameters", "request_received_ts")),
    Signature("inference-perf", ("start_time", "end_time", "info", "response_metrics")),
    Signature("inference-perf", ("start_time", "end_time", "info", "output_token_times")),
    Signature("bailian", ("chat_id", "parent_chat_id", "timestamp", "input_length", "output_length")),
    Signature("mooncake", ("input_length", "output_length")),
    Signature("mooncake", ("hash_ids", "output_length")),
    Signature("mooncake", ("timestamp", "input_length")),
    Signature("servingsim", ("arrival_time_ns", "input_toks", "output_toks")),
    Signature("blis", ("request_id", "arrival_time_us", "input_tokens", "output_tokens"), table=True),
    Signature("servingsim-run", ("request id", "input", "output", "arrival", "end_time", "TTFT"), table=True),
    Signature("azure", ("TIMESTAMP", "ContextTokens", "GeneratedTokens"), table=True),
    Signature("burstgpt", ("Timestamp", "Request tokens", "Response tokens"), table=True),
    Signature("vidur", ("num_prefill_tokens", "num_decode_tokens"), table=True),
)


#: Keys of files that have no requests, and that are read beside those that do.
_BESIDE = (
    (
        {"t", "running", "waiting"},
        "the load of a server over time, without requests; it is read beside the requests.jsonl of its run: give that",
    ),
    (
        {"engine_kwargs", "vllm_version"},
        "the settings of a run, without requests; they are read beside its requests.jsonl: give that",
    ),
)


def recognised(path: str | os.PathLike[str]) -> str:
    """Name of the format of a file.

    Raises
    ------
    UsageError
        Standard input, which is read once; or the file cannot be opened.
    InputError
        No format has its keys.
    """
    where = where_of(path)
    if os.fspath(path) == "-" or Path(os.fspath(path)).is_fifo():
        what = "standard input" if os.fspath(path) == "-" else "a pipe"
        raise UsageError(f"{what} is read once, so its format is not looked for; give it: --format NAME")
    head = read_head(path, _HEAD)
    if not head.strip():
        raise InputError(where, [Fault("file", "is empty")])
    is_json = head.lstrip()[:1] in ("{", "[")
    found = set(_KEY.findall(head)) if is_json else _columns(head)
    for signature in SIGNATURES:
        if signature.table != is_json and found.issuperset(signature.keys):
            return signature.format
    if (words := next((words for keys, words in _BESIDE if keys <= found), None)) is not None:
        raise InputError(where, [Fault("$" if is_json else "line 1", words)])
    if _has_iterations(head, found, is_json):
        words = "iteration times, not requests; `modelkit calibrate` fits a clock to them"
        raise InputError(where, [Fault("$" if is_json else "line 1", words)])
    if not is_json and _has_lengths(found):
        return "lengths"
    if "schema" in found and '"modelkit/' in head:
        raise InputError(
            where, [Fault("$.schema", "a document of modelkit already; only logs and traces are imported")]
        )
    if not is_json and re.search(r"^(metadata|benchmarks):", head, re.MULTILINE) and "guidellm" in head:
        words = "a result of GuideLLM as YAML; `guidellm run --output kind=json` writes the JSON that is read"
        raise InputError(where, [Fault("line 1", words)])
    words = ", ".join(sorted(found)[:12]) or "none"
    kind = "keys" if is_json else "columns"
    advice = "give the format, --format NAME; `modelkit list formats` shows all with their keys"
    raise InputError(where, [Fault("$" if is_json else "line 1", f"no format has its {kind}: {words}; {advice}")])


def _has_iterations(head: str, found: set[str], is_json: bool) -> bool:
    """Whether a file is a table or a log of iteration times."""
    if is_json:
        return "iterLatencyMS" in found or {"wall_time", "scheduled_requests"} <= found
    columns = {"prompt_time", "token_time"} <= found or {"phase", "iteration_ms"} <= found
    return columns or "iteration elapsed time: " in head or ("num_scheduled_requests: " in head)


def _columns(head: str) -> set[str]:
    """Columns of a table."""
    lines = [line for line in head.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in lines[:1]:
        mark = next((mark for mark in (",", ";", "\t") if mark in line), ",")
        return {cell.strip().strip('"') for cell in line.split(mark)}
    return set()


def _has_lengths(columns: set[str]) -> bool:
    """Whether a table has columns of lengths with usual names."""
    from modelkit.sources.traces.lengths import usual_columns

    return usual_columns(columns)
