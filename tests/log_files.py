"""One run in the shape of every log format, as the sources of their writers have it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

#: 2026-01-01 as unix seconds.
EPOCH = 1_767_225_600.0


class Served(NamedTuple):
    """A request as served; moments in seconds from the start of the log."""

    id: str
    arrival: float
    prompt: int
    output: int
    first: float
    last: float
    failed: bool = False


def nanoseconds(moment: float) -> int:
    """Of a moment of a log since 1970, as clocks of whole nanoseconds have it."""
    return round(EPOCH) * 10**9 + round(moment * 1e9)


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def vllm_run(run: list[Served]) -> str:
    return lines(
        [
            {"request_id": r.id, "input_toks": r.prompt, "output_toks": 0 if r.failed else r.output,
             "arrival_time": EPOCH + r.arrival, "queued_ts": 5000 + r.arrival, "scheduled_ts": 5000 + r.arrival,
             "first_token_ts": 5000 + r.first, "last_token_ts": 5000 + r.last}
            for r in run
        ]
    )  # fmt: skip


def _lists(run: list[Served]) -> dict[str, Any]:
    return {
        "input_lens": [r.prompt for r in run],
        "output_lens": [0 if r.failed else r.output for r in run],
        "ttfts": [0.0 if r.failed else r.first - r.arrival for r in run],
        "itls": [[] if r.failed else [r.last - r.first] for r in run],
        "errors": ["Traceback" if r.failed else "" for r in run],
        "generated_texts": ["x" for _ in run],
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def vllm_bench(run: list[Served]) -> str:
    top = {
        "date": "20260101-000000", "endpoint_type": "vllm", "backend": "vllm", "label": None, "model_id": "m",
        "tokenizer_id": "m", "num_prompts": len(run), "request_rate": "inf", "burstiness": 1.0, "max_concurrency": None,
        "duration": max(r.last for r in run) - min(r.arrival for r in run), "completed": len(run),
        "mean_ttft_ms": 1000 * _mean([r.first - r.arrival for r in run if not r.failed]),
    }  # fmt: skip
    latencies = [0.0 if r.failed else r.last - r.arrival for r in run]
    return json.dumps({**top, **_lists(run), "start_times": [1000 + r.arrival for r in run], "latencies": latencies})


def sglang_bench(run: list[Served]) -> str:
    at_once = [r._replace(arrival=0.0) for r in run]
    return (
        json.dumps({"tag": None, "backend": "sglang", "request_rate": "inf", "completed": 1, **_lists(at_once)}) + "\n"
    )


def sglang_metrics(run: list[Served]) -> str:
    return lines(
        [
            {"request_parameters": "{}", "id": r.id, "prompt_tokens": r.prompt,
             "completion_tokens": 0 if r.failed else r.output, "request_received_ts": EPOCH + r.arrival,
             "api_server_dispatch_finish_ts": EPOCH + r.arrival, "request_finished_ts": EPOCH + r.last,
             "prefill_finished_time": EPOCH + r.first, "queue_time": 0.0, "e2e_latency": r.last - r.arrival}
            for r in run
        ]
    )  # fmt: skip


def otel(run: list[Served]) -> str:
    def attribute(key: str, value: float | str) -> dict[str, Any]:
        kind = {int: "intValue", float: "doubleValue", str: "stringValue"}[type(value)]
        return {"key": key, "value": {kind: str(value) if kind == "intValue" else value}}

    rows = []
    for r in run:
        span = {
            "name": "llm_request", "spanId": r.id, "startTimeUnixNano": str(nanoseconds(r.arrival)),
            "endTimeUnixNano": str(nanoseconds(r.last)), "status": {"code": 2} if r.failed else {},
            "attributes": [
                attribute("gen_ai.request.id", r.id), attribute("gen_ai.usage.prompt_tokens", r.prompt),
                attribute("gen_ai.usage.completion_tokens", r.output),
                attribute("gen_ai.latency.time_to_first_token", float(r.first - r.arrival)),
                attribute("gen_ai.latency.e2e", float(r.last - r.arrival)),
            ],
        }  # fmt: skip
        rows.append({"resourceSpans": [{"scopeSpans": [{"spans": [span, {"name": "other", "attributes": []}]}]}]})
    return lines(rows)


def aiperf(run: list[Served]) -> str:
    rows = []
    for r in run:
        start = nanoseconds(r.arrival)
        metadata = {
            "session_num": 0, "x_request_id": r.id, "turn_index": 0, "credit_issued_ns": start,
            "request_start_ns": start, "request_end_ns": nanoseconds(r.last), "benchmark_phase": "profiling",
            "was_cancelled": False,
        }  # fmt: skip
        metrics = {
            "input_sequence_length": {"value": r.prompt, "unit": "tokens"},
            "output_sequence_length": {"value": r.output, "unit": "tokens"},
            "time_to_first_token": {"value": (r.first - r.arrival) * 1000, "unit": "ms"},
            "request_latency": {"value": (r.last - r.arrival) * 1000, "unit": "ms"},
        }
        rows.append(
            {"metadata": metadata, "metrics": {} if r.failed else metrics, "error": {"code": 1} if r.failed else None}
        )
    return lines(rows)


def guidellm(run: list[Served]) -> str:
    def request(r: Served) -> dict[str, Any]:
        timings = {
            "targeted_start": EPOCH + r.arrival, "request_start": EPOCH + r.arrival,
            "first_token_iteration": EPOCH + r.first, "last_token_iteration": EPOCH + r.last,
        }  # fmt: skip
        return {
            "request_id": r.id, "prompt_tokens": r.prompt, "output_tokens": r.output,
            "request_start_time": EPOCH + r.arrival, "request_end_time": EPOCH + r.last,
            "request_latency": r.last - r.arrival,
            "time_to_first_token_ms": (r.first - r.arrival) * 1000, "info": {"turn_index": 0, "timings": timings},
        }  # fmt: skip

    requests = {
        "successful": [request(r) for r in run if not r.failed],
        "errored": [request(r) for r in run if r.failed],
        "incomplete": [],
    }
    document = {
        "metadata": {"version": 2, "guidellm_version": "0.5"}, "config": {},
        "benchmarks": [{"config": {}, "requests": requests, "start_time": EPOCH, "end_time": EPOCH + 60}],
    }  # fmt: skip
    return json.dumps(document)


def inference_perf(run: list[Served]) -> str:
    return json.dumps(
        [
            {"start_time": 700 + r.arrival, "end_time": 700 + r.last, "request": "hi", "response": "ho",
             "info": {"input_tokens": r.prompt,
                      "response_metrics": {"output_tokens": r.output,
                                           "output_token_times": [700 + r.first, 700 + r.last]}},
             "error": {"error_type": "x"} if r.failed else None}
            for r in run
        ]
    )  # fmt: skip


def dynamo(run: list[Served]) -> str:
    rows: list[dict[str, Any]] = []
    for r in run:
        request = {
            "request_id": r.id, "model": "m", "input_tokens": r.prompt, "output_tokens": 0 if r.failed else r.output,
            "cached_tokens": 0, "request_received_ms": (EPOCH + r.arrival) * 1000,
            "ttft_ms": (r.first - r.arrival) * 1000,
            "total_time_ms": (r.last - r.arrival) * 1000,
        }  # fmt: skip
        ended = (EPOCH + r.last) * 1000
        event = {"event_type": "request_end", "event_time_unix_ms": ended, "request": request}
        rows.append(event if len(rows) % 2 else {"timestamp": 1, "event": event})
    return lines([*rows, {"event_type": "tool_end", "event_time_unix_ms": 1, "duration_ms": 3}])


def blis(run: list[Served]) -> str:
    head = (
        "request_id,client_id,slo_class,session_id,input_tokens,output_tokens,model,arrival_time_us,send_time_us,"
        "first_chunk_time_us,last_chunk_time_us,status\n"
    )

    def us(moment: float) -> int:
        return round(moment * 1e6)

    return head + "".join(
        f"{r.id},c,,,{r.prompt},{r.output},m,{us(r.arrival)},{us(r.arrival)},{us(r.first)},{us(r.last)},"
        f"{'error' if r.failed else 'ok'}\n"
        for r in run
    )


def servingsim_run(run: list[Served]) -> str:
    def ns(moment: float) -> int:
        return round(moment * 1e9)

    head = "instance id,request id,model,input,output,arrival,end_time,latency,queuing_delay,TTFT,TPOT,ITL\n"
    return head + "".join(
        f"0,{r.id},m,{r.prompt},{0 if r.failed else r.output},{ns(r.arrival)},{ns(r.last)},{ns(r.last) - ns(r.arrival)}"
        f',0,{ns(r.first) - ns(r.arrival)},1,"[{ns(r.last) - ns(r.first)}]"\n'
        for r in run
    )


#: Each format's writer, and the ending of its files.
WRITERS: dict[str, tuple[Callable[[list[Served]], str], str]] = {
    "vllm-run": (vllm_run, "jsonl"), "vllm-bench": (vllm_bench, "json"), "sglang-metrics": (sglang_metrics, "log"),
    "otel": (otel, "jsonl"), "aiperf": (aiperf, "jsonl"), "guidellm": (guidellm, "json"),
    "inference-perf": (inference_perf, "json"), "dynamo": (dynamo, "jsonl"), "blis": (blis, "csv"),
    "servingsim-run": (servingsim_run, "csv"),
}  # fmt: skip


def write(folder: Path, name: str, run: list[Served]) -> Path:
    """A run as a file of a format."""
    writer, ending = WRITERS[name]
    path = folder / f"run.{ending}"
    path.write_text(writer(run))
    return path
