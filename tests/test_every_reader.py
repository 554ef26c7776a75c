"""Every reader of logs, traces and iterations: tiny files, bare ones, failures, and faults with their places.

A shape is a tiny file as its writer's source has it, and where in it a length and a time stand. What holds of one
reader is asked of all: a reader that has no shape here fails the first test.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from iteration_files import STEPS
from iteration_files import WRITERS as ITERATIONS
from log_files import WRITERS, Served, sglang_bench

import modelkit as mk
from modelkit.cli.making import all_formats
from modelkit.errors import InputError
from modelkit.io import files
from modelkit.sources.calibrate import calibrate
from modelkit.sources.logs import log_formats, read_log

RUN = [Served(f"q{i}", float(i), 100 + i, 20 + i, i + 0.5, i + 1.5) for i in range(4)]
#: The request, counted from 0, that is broken.
AT = 2
SERVER = "llama2-70b-2xa100"
Keys = tuple[str | int, ...]


class Shape(NamedTuple):
    """A tiny file, and where in it stand a length and a time of request `AT`; ``place`` is what messages call it.

    ``row`` leads to the request in the document, or in its line; ``optional`` are keys that may be missing.
    """

    text: str
    prompt: Keys
    time: Keys
    place: str
    optional: tuple[str, ...] = ()
    kind: str = "lines"


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _trace(**more: Callable[[int], Any]) -> str:
    return _lines(
        [
            {
                "timestamp": 900 * i,
                "input_length": 100 + i,
                "output_length": 20 + i,
                **{k: f(i) for k, f in more.items()},
            }
            for i in range(4)
        ]
    )


def _table(head: str, row: Callable[[int], str]) -> str:
    return f"{head}\n" + "".join(row(i) + "\n" for i in range(4))


ATTRIBUTES: Keys = ("resourceSpans", 0, "scopeSpans", 0, "spans", 0, "attributes")
SPAN = r"line 3, resourceSpans\[0\]\.scopeSpans\[0\]\.spans\[0\]"
TOTALS = ("generated_texts", "latencies", "mean_ttft_ms", "duration", "model_id")
LOGS = {
    "vllm-run": Shape(WRITERS["vllm-run"][0](RUN), ("input_toks",), ("queued_ts",), "line 3",
                      ("arrival_time", "scheduled_ts", "first_token_ts", "last_token_ts")),
    "vllm-bench": Shape(WRITERS["vllm-bench"][0](RUN), ("input_lens", AT), ("start_times", AT), r"\$\[2\]",
                        ("ttfts", "itls", "errors", *TOTALS), "document"),
    "sglang-bench": Shape(sglang_bench([r._replace(arrival=0.0) for r in RUN]), ("input_lens", AT), ("ttfts", AT),
                          r"\$\[2\]", ("ttfts", "itls", "errors", *TOTALS), "document"),
    "sglang-metrics": Shape(WRITERS["sglang-metrics"][0](RUN), ("prompt_tokens",), ("request_received_ts",), "line 3",
                            ("request_parameters", "id", "request_finished_ts", "prefill_finished_time", "queue_time",
                             "e2e_latency", "api_server_dispatch_finish_ts")),
    "otel": Shape(WRITERS["otel"][0](RUN), (*ATTRIBUTES, 1, "value", "intValue"),
                  (*ATTRIBUTES[:-1], "startTimeUnixNano"), SPAN, ("spanId", "endTimeUnixNano", "status", "name")),
    "aiperf": Shape(WRITERS["aiperf"][0](RUN), ("metrics", "input_sequence_length", "value"),
                    ("metadata", "request_start_ns"), "line 3",
                    ("x_request_id", "credit_issued_ns", "request_end_ns", "benchmark_phase", "was_cancelled", "error",
                     "time_to_first_token", "request_latency", "turn_index", "session_num")),
    "guidellm": Shape(WRITERS["guidellm"][0](RUN), ("benchmarks", 0, "requests", "successful", AT, "prompt_tokens"),
                      ("benchmarks", 0, "requests", "successful", AT, "request_start_time"),
                      r"\$\.benchmarks\[0\]\.requests\.successful\[2\]",
                      ("request_id", "info", "request_end_time", "request_latency", "time_to_first_token_ms", "errored",
                       "incomplete"), "document"),
    "inference-perf": Shape(WRITERS["inference-perf"][0](RUN), (AT, "info", "input_tokens"), (AT, "start_time"),
                            r"\$\[2\]", ("end_time", "request", "response", "output_token_times", "error"), "document"),
    "dynamo": Shape(WRITERS["dynamo"][0](RUN), ("event", "request", "input_tokens"),
                    ("event", "request", "request_received_ms"), "line 3",
                    ("request_id", "model", "cached_tokens", "ttft_ms", "total_time_ms", "event_time_unix_ms",
                     "timestamp")),
    "blis": Shape(WRITERS["blis"][0](RUN), ("input_tokens",), ("arrival_time_us",), "line 4",
                  ("client_id", "slo_class", "session_id", "model", "send_time_us", "first_chunk_time_us",
                   "last_chunk_time_us", "status"), "table"),
    "servingsim-run": Shape(WRITERS["servingsim-run"][0](RUN), ("input",), ("arrival",), "line 4",
                            ("instance id", "model", "end_time", "latency", "queuing_delay", "TTFT", "TPOT", "ITL"),
                            "table"),
}  # fmt: skip
TRACES = {
    "mooncake": Shape(_trace(hash_ids=lambda i: [i]), ("input_length",), ("timestamp",), "line 3", ("hash_ids",)),
    "mooncake-delta": Shape(_trace(session_id=str, hash_ids=lambda i: [i]), ("input_length",), ("timestamp",), "line 3",
                            ("hash_ids",)),
    "bailian": Shape(
        _trace(chat_id=int, parent_chat_id=lambda i: -1, type=lambda i: "text", turn=lambda i: 1,
               timestamp=lambda i: 1.5 * i, hash_ids=lambda i: [*range(7 * i, 7 * i + 7)]),
        ("input_length",), ("timestamp",), "line 3", ("chat_id", "parent_chat_id", "type", "turn", "hash_ids"),
    ),
    "servingsim": Shape(
        _lines([{"input_toks": 100 + i, "output_toks": 20 + i, "arrival_time_ns": 9 * 10**8 * i, "input_tok_ids": [1]}
                for i in range(4)]), ("input_toks",), ("arrival_time_ns",), "line 3", ("input_tok_ids",),
    ),
    "azure": Shape(_table("TIMESTAMP,ContextTokens,GeneratedTokens",
                          lambda i: f"2023-11-16 18:17:0{i}.97,{100 + i},{20 + i}"),
                   ("ContextTokens",), ("TIMESTAMP",), "line 4", (), "table"),
    "burstgpt": Shape(
        _table("Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type",
               lambda i: f"{5 * i},s,1.5,ChatGPT,{100 + i},{20 + i},{120 + 2 * i},API log"),
        ("Request tokens",), ("Timestamp",), "line 4",
        ("Session ID", "Elapsed time", "Model", "Total tokens", "Log Type"), "table",
    ),
    "vidur": Shape(_table("arrived_at,num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio",
                          lambda i: f"{0.5 * i},{100 + i},{20 + i},{120 + 2 * i},5.0"),
                   ("num_prefill_tokens",), ("arrived_at",), "line 4", ("num_total_tokens", "pd_ratio"), "table"),
    "lengths": Shape(_table("arrival_s,prompt_tokens,output_tokens", lambda i: f"{0.5 * i},{100 + i},{20 + i}"),
                     ("prompt_tokens",), ("arrival_s",), "line 4", ("arrival_s",), "table"),
}  # fmt: skip
SHAPES = {**LOGS, **TRACES}


def loaded(shape: Shape) -> Any:
    """The document, or the list of its lines or rows."""
    if shape.kind == "table":
        return list(csv.DictReader(shape.text.splitlines()))
    return json.loads(shape.text) if shape.kind == "document" else [json.loads(s) for s in shape.text.splitlines()]


def dumped(shape: Shape, data: Any) -> str:
    """The text of it again."""
    if shape.kind == "table":
        out = io.StringIO()
        writer = csv.DictWriter(out, data[0])
        writer.writeheader()
        writer.writerows(data)
        return out.getvalue()
    return json.dumps(data) if shape.kind == "document" else _lines(data)


def changed(shape: Shape, keys: Keys, value: Any) -> str:
    """The file with another value there; None: without it."""
    data = loaded(shape)
    holder = data if shape.kind == "document" else data[AT]
    for key in keys[:-1]:
        holder = holder[key]
    if value is not None:
        holder[keys[-1]] = value
    elif shape.kind == "table":
        holder[keys[-1]] = ""
    elif isinstance(holder, dict):
        del holder[keys[-1]]
    else:
        holder[keys[-1]] = None
    return dumped(shape, data)


def bare(value: Any, optional: tuple[str, ...]) -> Any:
    """Data without the keys that may be missing."""
    if isinstance(value, dict):
        return {key: bare(item, optional) for key, item in value.items() if key not in optional}
    return [bare(item, optional) for item in value] if isinstance(value, list) else value


def read(name: str, path: Path) -> list[tuple[int, int]]:
    """Lengths of the requests of a file."""
    if name in LOGS:
        return [(r.prompt, r.output) for r in read_log(path, name).records]
    options: dict[str, Any] = {"server": SERVER} if name == "lengths" else {}
    return [(r.prompt_tokens, r.output_tokens) for r in mk.import_trace(name, path, **options).requests]


TINY = [(100 + i, 20 + i) for i in range(4)]


def test_every_format_has_a_shape() -> None:
    """Tests that nothing that is imported is left out of these tests."""
    assert set(SHAPES) == set(all_formats())
    assert set(LOGS) == set(log_formats())


@pytest.mark.parametrize("name", SHAPES)
def test_tiny_files(name: str, tmp_path: Path) -> None:
    """Tests a file as its writer has it, without what is optional, packed, with a byte order mark, and other ends."""
    shape, path = SHAPES[name], tmp_path / "f"
    text = shape.text.encode()
    lean = dumped(shape, bare(loaded(shape), shape.optional)).encode()
    for data in (
        text, lean, gzip.compress(text), codecs.BOM_UTF8 + text, text.replace(b"\n", b"\r\n"), text.rstrip(b"\n"),
    ):  # fmt: skip
        path.write_bytes(data)
        assert read(name, path) == TINY, data[:80]


@pytest.mark.parametrize("name", SHAPES)
def test_faults_have_their_places(name: str, tmp_path: Path) -> None:
    """Tests seven ways to break a request: the message has its line or path, its key, and what was found."""
    shape, path = SHAPES[name], tmp_path / "f"
    lean = shape._replace(text=dumped(shape, bare(loaded(shape), shape.optional)))
    nested = "gen_ai.usage.prompt_tokens" if name == "otel" else [k for k in shape.prompt if isinstance(k, str)][-1]
    when = [k for k in shape.time if isinstance(k, str)][-1]
    ways = [
        (changed(shape, shape.prompt, "many"), nested, "found 'many'"),
        (changed(shape, shape.prompt, "-3" if shape.kind == "table" else -3), nested, "found '?-3"),
        (changed(shape, shape.prompt, 1.5), nested, "found '?1.5"),
        (changed(shape, shape.prompt, 10**30), nested, "found '?1000000000000000000000000000000"),
        (changed(lean, shape.prompt, None), nested, "is missing|found ''|found None|has no key"),
        (changed(shape, shape.time, "soon"), when, "found 'soon'"),
    ]
    if shape.kind != "table":
        ways.append((changed(shape, shape.time, [1]), when, r"found \[1\]"))
    for text, key, words in ways:
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            read(name, path)
        said = [str(fault) for fault in caught.value.faults if key in str(fault)]
        assert said, (text, str(caught.value))
        assert any(_matches(f"^{shape.place}.*({words})", fault) for fault in said), (words, said)
        assert caught.value.exit_code == 2


def _matches(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.DOTALL) is not None


@pytest.mark.parametrize("name", SHAPES)
def test_broken_files_have_a_place(name: str, tmp_path: Path) -> None:
    """Tests files cut in the middle, of no text, of nothing, of other text and of a key twice: words with a line."""
    shape, path = SHAPES[name], tmp_path / "f"
    text = shape.text
    middle = text.rindex("\n", 0, len(text) - 1) + 5 if text.count("\n") > 1 else len(text) // 2
    broken = [
        text[:middle],
        "",
        "{",
        "[1, 2",
        "\x00\x01",
        text.replace('"', "'"),
        "NaN\n" * 3,
        text[:middle] + "\udcff",
    ]
    for k, data in enumerate(broken):
        path.write_bytes(data.encode("utf-8", "surrogateescape"))
        if k == 5 and shape.kind == "table":
            continue
        with pytest.raises(InputError) as caught:
            read(name, path)
        assert all(f.path.startswith(("line ", "$", "file")) for f in caught.value.faults), (data, str(caught.value))
        if k == 0:
            assert str(caught.value.faults[0]).startswith(("line ", "$[", "$.")), str(caught.value)


@pytest.mark.parametrize("name", SHAPES)
def test_failures_are_counted(name: str, tmp_path: Path) -> None:
    """Tests that a request without output is left out, and that this is said with its number."""
    shape, path = SHAPES[name], tmp_path / "f"
    if name in LOGS:
        run = [r._replace(failed=i == AT) for i, r in enumerate(RUN)]
        at_once = [r._replace(arrival=0.0) for r in run]
        path.write_text(sglang_bench(at_once) if name == "sglang-bench" else WRITERS[name][0](run))
        notes = read_log(path, name).notes
    else:
        of = {"azure": "GeneratedTokens", "burstgpt": "Response tokens", "vidur": "num_decode_tokens",
              "lengths": "output_tokens", "servingsim": "output_toks"}.get(name, "output_length")  # fmt: skip
        path.write_text(changed(shape, (of,), "0" if shape.kind == "table" else 0))
        notes = []
        options: dict[str, Any] = {"server": SERVER} if name == "lengths" else {}
        mk.import_trace(name, path, tell=notes.append, **options)
    kept = read(name, path)
    assert kept == [pair for i, pair in enumerate(TINY) if i != AT]
    assert any(_matches(r"^1 (failed request|request without output|row (failed|without output))", n) for n in notes), (
        notes
    )


def test_what_is_no_file(tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests a folder, a link to nowhere, and a pipe that nobody writes to."""
    monkeypatch.setattr(files, "PIPE_TIMEOUT", 0.05)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("mooncake", "otel", "blis", "guidellm", "vidur"):
        for place in (tmp_path, tmp_path / "link", tmp_path / "pipe"):
            assert cli("import", str(place), "--format", name, code=2).err.startswith("error: cannot read")


def test_iterations_have_their_places(tmp_path: Path) -> None:
    """Tests the same of the logs of iterations, which `calibrate` reads."""
    path = tmp_path / "f"
    for name, old, new, place, words in (
        ("fpm", '"wall_time": ', '"wall_time": "x", "y": ', "line 1, wall_time", "found 'x'"),
        ("fpm", '"wall_time": ', '"wall_time": -1, "y": ', "line 1, wall_time", "found -1"),
        ("fpm", '"sum_prefill_tokens": ', '"sum_prefill_tokens": [], "y": ', "line 1, .*sum_prefill_tok", "found"),
        ("fpm", '"num_prefill_requests": 1', '"num_prefill_requests": "1"', "line 1, .*num_prefill_req", "found '1'"),
        ("fpm", '"version": 1', '"version": 7', "line 1, version", "found 7; allowed: 1"),
        ("tensorrt", '"iterLatencyMS": ', '"iterLatencyMS": "x", "y": ', r"\$\[0\], iterLatencyMS", "found 'x'"),
        ("tensorrt", '"numCtxTokens": ', '"numCtxTokens": -4, "y": ', r"\$\[0\], .*numCtxTokens", "found -4"),
        ("tensorrt", '"numGenRequests": ', '"numGenRequests": null, "y": ', r"\$\[0\], .*numGenReq", "missing|None"),
        ("vllm", "generation tokens, iteration", "generation tokens, walk", "line 3", "an iteration in other words"),
        ("vllm", "usage: 0.0%", "usage: 140.0%", "line 3", "found a KV cache usage of 140.0%"),
        ("tensorrt_lines", "states = {", "states = [", "line 1", "names an iteration in other words"),
    ):  # fmt: skip
        text = ITERATIONS[name](STEPS)
        assert old in text, (name, old)
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(InputError) as caught:
            calibrate(path)
        assert any(_matches(f"^{place}.*({words})", str(f)) for f in caught.value.faults), (place, str(caught.value))
