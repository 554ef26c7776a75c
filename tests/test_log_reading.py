"""Readers of logs: as a stream, in windows, as lists or lines, with what only some writers have."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from log_files import EPOCH, Served, sglang_bench, write
from log_histories import served

import modelkit as mk
from modelkit.errors import InputError, UsageError
from modelkit.io import files
from modelkit.sources import logs
from modelkit.sources.logs import Window, log_formats, read_log, recognised
from modelkit.sources.logs.observed import held_at_once
from modelkit.sources.logs.record import Reading


def many(n: int) -> list[Served]:
    """Requests in the order of their ends, as servers write them: every fourth is a long one that came before."""
    run = [
        Served(f"q{i}", 0.1 * i, 10 + i % 7, 20 + i % 5, 0.1 * i + 0.05, 0.1 * i + (0.5 if i % 4 else 9.0))
        for i in range(n)
    ]
    return sorted(run, key=lambda r: r.last)


@pytest.mark.parametrize("name", ["inference-perf", "guidellm", "dynamo"])
def test_long_files_are_read_as_a_stream(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that the first records come before a tenth of the file is read, of one JSON list too."""
    path = write(tmp_path, name, many(2000))
    pieces = files._pieces
    read = [0]

    def counted(source: Any) -> Any:
        for piece in pieces(source):
            read[0] += len(piece)
            yield piece

    monkeypatch.setattr(files, "_PIECE", 4096)
    monkeypatch.setattr(files, "_pieces", counted)
    records = log_formats()[name].read(path, Reading("x"))
    for _ in range(20):
        next(records)
    assert 0 < read[0] < path.stat().st_size / 10
    assert sum(1 for _ in records) == 1980


def test_windows_are_of_arrivals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that a window keeps only what it takes, also of more requests than an instance has; and from a pipe."""
    run = many(400)
    path = write(tmp_path, "inference-perf", run)
    monkeypatch.setattr(logs, "MOST_REQUESTS", 50)
    with pytest.raises(InputError, match=r"more than 50 requests.*--first"):
        read_log(path)
    inside = sorted((r for r in run if 10 <= r.arrival < 14), key=lambda r: r.arrival)
    taken = read_log(path, window=Window(since=10.0, until=14.0))
    assert [r.prompt for r in taken.records] == [r.prompt for r in inside]
    assert taken.left_out["requests outside of what is taken"] == 360
    meanwhile = sum(r.arrival <= inside[-1].arrival and r.last >= inside[0].arrival for r in run) - len(inside)
    assert [n for why, n in taken.left_out.items() if "on the server meanwhile" in why] == [meanwhile]
    few = read_log(path, window=Window(since=10.0, until=14.0, skip=103, first=5))
    assert [r.arrival for r in few.records] == pytest.approx([r.arrival - inside[3].arrival for r in inside[3:8]])
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    path.write_text(json.dumps(json.loads(path.read_text())[:40]))
    with subprocess.Popen(["cp", str(path), str(pipe)]):
        assert len(read_log(pipe, "inference-perf", Window(first=7)).records) == 7


@pytest.mark.parametrize("name", ["vllm-run", "sglang-metrics", "dynamo", "otel", "aiperf"])
def test_lines_as_one_list(tmp_path: Path, name: str) -> None:
    """Tests that what is one object a line is also read as a list of them, and as objects over several lines."""
    path = write(tmp_path, name, served(n=20))
    expected = read_log(path, name).records
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for text in (json.dumps(rows), "\n\n" + json.dumps(rows, indent=1), "".join(json.dumps(r, indent=2) for r in rows)):
        path.write_text(text)
        assert recognised(path) == name
        assert [r.prompt for r in read_log(path, name).records] == [r.prompt for r in expected]
    path.write_text(json.dumps([*rows, 7]))
    with pytest.raises(InputError, match=rf"\$\[{len(rows)}\]: found 7; allowed: a JSON object"):
        read_log(path, name)
    for broken, words in (
        (json.dumps(rows)[:-1], "line 1: found the end of the file; allowed: a comma or the end of the list"),
        (json.dumps(rows) + "x", "more stands behind the list"),
        ("[\n" + "\n".join(json.dumps(r) for r in rows) + "]", "line 3: found '{.*'; allowed: a comma"),
    ):
        path.write_text(broken)
        with pytest.raises(InputError, match=words):
            read_log(path, name)


def test_traces_are_no_logs(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Tests that judge says of a trace that it is one, and where it belongs."""
    path = tmp_path / "t.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.97,480,10\n")
    said = " ".join(cli("judge", str(path), code=2).err.split())
    assert "a trace (azure): it says when requests came and how long they were, not when their tokens came" in said
    assert "`modelkit import FILE`" in said
    with pytest.raises(InputError, match=r"a trace \(lengths\)"):
        mk.judge_log(path, format="lengths")


def test_two_runs_of_one_workload_have_two_names(
    tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests that another run of the same requests on a named server writes over neither file of the first."""
    monkeypatch.chdir(tmp_path)
    run = served()
    for shift in (0.0, 0.0, 0.25):
        later = [r._replace(first=r.first + shift, last=r.last + shift) for r in run]
        cli("import", str(write(tmp_path, "vllm-run", later)), "--server", "llama2-70b-2xa100")
    runs = sorted(tmp_path.glob("run-n60*.observed.json"))
    assert len(runs) == 2
    assert len({path.read_bytes() for path in runs}) == 2
    assert len({mk.load(str(path).replace(".observed", "")).sha256 for path in runs}) == 1


def test_a_few_requests_out_of_order_spoil_no_window(tmp_path: Path) -> None:
    """Tests that they are held against all requests of the file, not against those of a window."""
    run = many(400)
    path = write(tmp_path, "inference-perf", [*run, *(r._replace(arrival=r.last + 1) for r in run[:20])])
    assert len(read_log(path, window=Window(first=10)).records) == 10


def test_models_and_formats_that_are_not_there(tmp_path: Path) -> None:
    """Tests that the models of a log are named, that it may have none, and that lines are no result of a benchmark."""
    path = write(tmp_path, "dynamo", served(n=20))
    with pytest.raises(InputError, match="20 requests to other models, left out; models in the log: m"):
        read_log(path, window=Window(model="n"))
    path = write(tmp_path, "vllm-run", served(n=20))
    with pytest.raises(InputError, match="20 requests whose model is not said, left out$"):
        read_log(path, window=Window(model="n"))
    for name in ("vllm-bench", "sglang-bench"):
        with pytest.raises(InputError, match="line 1: has no key 'input_lens'"):
            read_log(path, name)


def test_what_lies_beside_a_run(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Tests the KV cache and the load of a run, broken ones, and both given in place of the run itself."""
    path = write(tmp_path, "vllm-run", served())
    load = tmp_path / "timeseries.csv"
    load.write_text("t,gen_throughput,running,waiting,preempted,kv_cache_pct\n1.0,9.0,3,0,2,12.5\n2.0,9.0,5,1,3,50.0\n")
    log = read_log(path)
    assert log.left_out == {"evictions, as timeseries.csv beside it says": 5}
    assert log.engine.kv_share == 0.5
    held = held_at_once(log)
    notes = " ".join(mk.judge_log(path, time_limit=1).notes)
    assert f"needed {held:,} or more at once, 50% of it at most: it holds about {2 * held:,} or more" in notes
    kwargs = {"max_num_seqs": 8, "data_parallel_size": 2}
    meta = {"engine_kwargs": kwargs, "vllm_version": "1", "kv_cache": {"block_size": 16, "num_kv_tokens": 40_000}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    server = mk.import_log(path).instance.server
    assert (server.slots, server.kv_capacity_tokens) == (16, 80_000)
    assert "is read beside the requests.jsonl of its run" in " ".join(cli("import", str(load), code=2).err.split())
    said = cli("judge", str(tmp_path / "meta.json"), code=2).err
    assert "settings of a run, without requests" in " ".join(said.split())
    load.write_text("t,running,waiting,kv_cache_pct\n1.0,3,0,120\n")
    with pytest.raises(InputError, match=r"timeseries.csv: 1 fault\s+line 2, kv_cache_pct: found '120'"):
        read_log(path)
    load.write_text("t,running\n1.0,3\n")
    assert "1 file beside it, timeseries.csv, without the columns of a run's, not read" in read_log(path).notes


def test_classes_and_sessions_are_kept(tmp_path: Path) -> None:
    """Tests that what a log says of its requests is in the instance, where service levels and formulations find it."""
    path = write(tmp_path, "blis", served(n=20))
    path.write_text(path.read_text().replace(",c,,,", ",c,gold,,", 3).replace(",c,,,", ",c,,s1,", 2))
    requests = mk.import_log(path).instance.requests
    assert [r.request_class for r in requests[:4]] == ["gold"] * 3 + [None]
    assert [r.session for r in requests[2:6]] == [None, "s1", "s1", None]


def test_the_results_of_a_simulator(tmp_path: Path) -> None:
    """Tests the times between tokens, two engines, and times that contradict each other."""
    run = served(n=20)
    path = write(tmp_path, "servingsim-run", run)
    gaps = '"[' + "7, " * (run[0].output - 2) + '7]"'
    text = path.read_text()
    path.write_text(re.sub(r'"\[\d+\]"', gaps, text, count=1))
    words = "requests whose times between tokens do not add up to those of the answer, not used"
    assert read_log(path).left_out[words] == 20
    path.write_text(text.replace("\n0,", "\n1,", 5))
    assert read_log(path).engine.engines == 2
    path.write_text(re.sub(r'"\[\d+\]"', '"[x]"', text, count=1))
    with pytest.raises(InputError, match=r"line 2, ITL: found '\[x\]'; allowed: a list of times"):
        read_log(path)
    path.write_text(re.sub(r",(\d+),0,(\d+),1,", r",\g<1>000,0,\2,1,", text))
    with pytest.raises(InputError, match="latency and end_time differ in 20 of 20 requests; line 2"):
        read_log(path)


def test_what_lies_beside_a_blis_table(tmp_path: Path) -> None:
    """Tests the engine and the warm-up of a YAML head, and what a prompt has beside text."""
    path = write(tmp_path, "blis", served())
    text = path.read_text().replace(",status\n", ",status,image_tokens\n").replace(",ok\n", ",ok,0\n")
    path.write_text(text.replace(",ok,0\n", ",ok,64\n", 1))
    (tmp_path / "run.yaml").write_text(
        "trace_version: 2\nmode: real\nwarm_up_requests: 5\nserver:\n  max_num_seqs: 32\n  block_size: 16\n"
    )
    log = read_log(path)
    assert (len(log.records), log.engine.max_num_seqs, log.engine.block_size) == (55, 32, 16)
    assert log.left_out["requests of the warm-up, left out"] == 5
    assert log.left_out["requests with images, audio or video, whose tokens are those of the prompt"] == 1


def test_other_keys_of_spans_and_events(tmp_path: Path) -> None:
    """Tests first tokens from queue and prefill under both names, errors as words, and sessions as trajectories."""
    expected = [record.first_token for record in read_log(write(tmp_path, "otel", served(n=20))).records]
    for key in ("gen_ai.latency.time_in_model_prefill", "gen_ai.latency.time_in_model.prefill"):
        path = write(tmp_path, "otel", served(n=20))
        queue = ', {"key": "gen_ai.latency.time_in_queue", "value": {"doubleValue": 0.0}}]'
        text = path.read_text().replace("gen_ai.latency.time_to_first_token", key).replace('}}], "', f'}}}}{queue}, "')
        path.write_text(text.replace("}}]}", "}}" + queue + "}"))
        assert [record.first_token for record in read_log(path).records] == expected
    path.write_text(text.replace('"status": {}', '"status": {"code": "STATUS_CODE_ERROR"}', 3))
    assert len(read_log(path).records) == 17
    path = write(tmp_path, "dynamo", served(n=20))
    path.write_text(path.read_text().replace('"request": {', '"agent_context": {"trajectory_id": "t"}, "request": {'))
    assert read_log(path).left_out["requests of sessions, each taken as one of its own"] == 20


def test_results_of_sglang(tmp_path: Path) -> None:
    """Tests failures, lists that are missing, and five faults of a result with one list a field."""
    run = [r._replace(arrival=0.0, failed=i % 5 == 0) for i, r in enumerate(served())]
    path = tmp_path / "s.jsonl"
    path.write_text(sglang_bench(run))
    assert read_log(path).left_out["failed requests, left out"] == 12
    whole = json.loads(sglang_bench(run))
    path.write_text(json.dumps({key: whole[key] for key in ("input_lens", "output_lens", "request_rate")}))
    log = read_log(path, "sglang-bench")
    assert log.left_out == {"requests without output, left out": 12}
    assert not any(record.stamped for record in log.records)
    for key, value, words in (
        ("input_lens", [-3] * 60, r"\$\[0\], input_lens: found -3"),
        ("output_lens", 5, "output_lens: found 5; allowed: a list"),
        ("ttfts", ["x"] * 60, r"\$\[1\], ttfts: found 'x'"),
        ("itls", [[0.1, -1]] * 60, r"\$\[0\], itls: found"),
        ("errors", [""], "errors: found a list of 1; allowed: a list of 60"),
        ("request_rate", 3.0, "the arrival times are unknown"),
    ):
        path.write_text(json.dumps({**whole, key: value}))
        with pytest.raises(InputError, match=words):
            read_log(path, "sglang-bench")


def test_long_results_are_read(tmp_path: Path) -> None:
    """Tests a run of more than a mebibyte in one line, whose texts are passed over."""
    run = served()
    whole = json.loads(sglang_bench([r._replace(arrival=0.0) for r in run]))
    whole["generated_texts"] = ["x" * 50_000] * 60
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps(whole))
    assert recognised(path) == "sglang-bench"
    assert len(read_log(path).records) == 60


def test_what_cannot_be_recognised(tmp_path: Path) -> None:
    """Tests the words on a pipe, which is read once, and on a result of GuideLLM as YAML."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="a pipe is read once.*--format NAME"):
        recognised(tmp_path / "pipe")
    path = tmp_path / "benchmarks.yaml"
    path.write_text("metadata:\n  version: 2\n  guidellm_version: 0.5\nbenchmarks:\n- config: {}\n")
    with pytest.raises(InputError, match="a result of GuideLLM as YAML; `guidellm run --output kind=json`"):
        recognised(path)


@pytest.mark.parametrize("name", ["vllm-run", "sglang-metrics", "guidellm", "dynamo", "aiperf", "otel"])
def test_moments_in_another_unit_are_refused(tmp_path: Path, name: str) -> None:
    """Tests that times since 1970 that a format has in another unit are refused with their place."""
    path = write(tmp_path, name, served(n=20))
    text = path.read_text()
    stem, factor = {"dynamo": ("request_received_ms", 1e-3), "aiperf": ("_ns", 1e-6), "otel": ("UnixNano", 1e-9)}.get(
        name, ("_ts|_time|_start|_iteration|_end", 1e3)
    )

    def scaled(match: re.Match[str]) -> str:
        moment = float(match[2]) + (EPOCH if name == "vllm-run" and float(match[2]) < EPOCH else 0.0)
        return f"{match[1]}{moment * factor!r}"

    path.write_text(re.sub(rf'("\w*(?:{stem})": "?)(\d[\d.]+)', scaled, text))
    place = r"\$.benchmarks\[0\]" if name == "guidellm" else "line 1, "
    with pytest.raises(InputError, match=rf"{place}.*allowed: a time in (s|ms|ns); this seems to be one in (s|ms) si"):
        read_log(path, name)


def test_times_of_no_server_are_refused(tmp_path: Path) -> None:
    """Tests durations a thousand times too long or too short, and times on two clocks."""
    path = write(tmp_path, "dynamo", served(n=20))
    text = path.read_text()
    for keys, factor, words in (
        ("ttft_ms|total_time_ms", 1e3, r"a token takes 1\d\.\d s in the median"),
        ("ttft_ms|total_time_ms", 1e-3, r"a token takes 1\.\d*e-05 s"),
        ("ttft_ms", 1e-3, "a first token takes"),
        ("total_time_ms", 1e-3, "20 of 20 requests with times out of order"),
    ):
        path.write_text(re.sub(rf'("(?:{keys})": )([\d.]+)', lambda m: f"{m[1]}{float(m[2]) * factor}", text))  # noqa: B023
        with pytest.raises(InputError, match=words):
            read_log(path)


def test_more_cached_tokens_than_the_prompt_has(tmp_path: Path) -> None:
    """Tests that they are refused with their place, and a list of them that is none or too short."""
    path = write(tmp_path, "vllm-bench", served(n=20))
    data = json.loads(path.read_text())
    for cached, words in (
        ([10**6] * 20, r"\$\[0\]: 1,000,000 cached tokens of a prompt"),
        ([0] * 3, r"\$.cached_tokens: found a list of 3; allowed: a list of 20"),
        ("x", r"\$.cached_tokens: found 'x'"),
    ):
        path.write_text(json.dumps(data | {"cached_tokens": cached}))
        with pytest.raises(InputError, match=words):
            read_log(path)


def test_spans_that_are_no_lists_are_refused(tmp_path: Path) -> None:
    """Tests that no request is lost where attributes or spans are not what they should be."""
    path = write(tmp_path, "otel", served(n=20))
    text = path.read_text()
    for key, place in (
        ("scopeSpans", r"resourceSpans\[0\].scopeSpans: found 3"),
        ("spans", r"scopeSpans\[0\].spans: found 3"),
        ("attributes", r"spans\[0\].attributes: found 3"),
    ):
        path.write_text(text.replace(f'"{key}": ', f'"{key}": 3, "x": ', 1))
        with pytest.raises(InputError, match=rf"line 1, .*{place}; allowed: a list"):
            read_log(path)


def test_rows_with_more_or_fewer_cells_than_columns(tmp_path: Path) -> None:
    """Tests that a row whose cells may stand under other columns is refused, and a quotation that does not end."""
    path = write(tmp_path, "blis", served(n=20))
    text = path.read_text()
    for old, new, words in (
        (",ok\n", "\n", "line 2: has fewer cells than there are columns"),
        (",ok\n", ",ok,3\n", "line 2: has more cells than the 12 columns of line 1: '3'"),
        (",ok\n", ',"ok\n', "line 21: no row of a table .*; is a quotation mark not closed"),
    ):
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(InputError, match=words):
            read_log(path)
    path.write_text(text.replace(",ok\n", ",ok,\n"))
    assert len(read_log(path).records) == 20


@pytest.mark.parametrize("name", ["vllm-run", "inference-perf"])
def test_a_key_that_occurs_twice_is_refused(tmp_path: Path, name: str) -> None:
    """Tests that of two values none is taken, in lines and in one list."""
    path = write(tmp_path, name, served(n=20))
    key = "request_id" if name == "vllm-run" else "end_time"
    path.write_text(path.read_text().replace(f'"{key}"', f'"{key}": 0, "{key}"', 1))
    with pytest.raises(InputError, match=f"line 1: the key '{key}' occurs twice in one object"):
        read_log(path)


def test_what_should_be_an_object_and_is_none(tmp_path: Path) -> None:
    """Tests that fields are not taken for missing where a number stands in place of the object that holds them."""
    path = write(tmp_path, "aiperf", served(n=20))
    path.write_text(re.sub(r'("time_to_first_token": )\{[^}]*\}', r"\g<1>50", path.read_text()))
    with pytest.raises(InputError) as caught:
        read_log(path)
    assert str(caught.value.faults[0]) == "line 1, metrics.time_to_first_token: found 50; allowed: a JSON object"
    assert len(caught.value.faults) == 20
    run = write(tmp_path, "vllm-run", served(n=20))
    (tmp_path / "meta.json").write_text('{"engine_kwargs": 3}')
    with pytest.raises(InputError, match="meta.json, engine_kwargs: found 3; allowed: a JSON object"):
        read_log(run)
    run.write_text("\n")
    with pytest.raises(InputError, match="file: is empty"):
        read_log(run)


def test_what_is_odd_of_requests_is_said(tmp_path: Path) -> None:
    """Tests that equal ids and requests without stamps are counted, and that an event that is none is refused."""
    run = served(n=20)
    path = write(tmp_path, "vllm-run", [*run[:18], *(r._replace(output=r.output + 1) for r in run[:2])])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    del rows[3]["first_token_ts"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert mk.import_log(path).notes[:2] == (
        "2 requests with the id of another one, so all are numbered anew",
        "1 request without times of its first and last token: no run is observed",
    )
    path = write(tmp_path, "dynamo", run)
    path.write_text(path.read_text().replace('"event": {', '"event": 3, "x": {', 1))
    with pytest.raises(InputError, match="line 1: has no event_type, and no event that has one"):
        read_log(path)
