"""Logs that servers write: SGLang's request metrics, OpenTelemetry spans, Dynamo's traces."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from modelkit.errors import Fault, shown
from modelkit.io.tables import read_json_lines
from modelkit.sources.logs import log_format
from modelkit.sources.logs.record import Fields, LogRecord, Reading, after, between

Path_ = str | os.PathLike[str]


@log_format(
    "sglang-metrics",
    summary="JSON lines of SGLang's request metrics: prompt_tokens, completion_tokens, request_received_ts,"
    " prefill_finished_time, request_finished_ts [s]",
    reference="sgl-project/sglang, --export-metrics-to-file (Apache-2.0)",
)
def sglang_metrics(path: Path_, reading: Reading) -> Iterator[LogRecord]:
    """The first token leaves when the prefill is finished."""
    for row in read_json_lines(path, ("prompt_tokens", "completion_tokens", "request_received_ts")):
        fields = Fields(row.place, row.cells, reading)
        finished = fields.moment("request_finished_ts")
        last = fields.moment("response_sent_to_client_ts") if finished is None else finished
        arrival = fields.moment("request_received_ts", needed=True)
        lasting = fields.duration("e2e_latency")
        reading.durations("e2e_latency and request_finished_ts", lasting, between(arrival, last), row.place)
        yield LogRecord(
            id=fields.text("id") or f"r{row.line}",
            arrival=arrival,
            prompt=fields.tokens("prompt_tokens"),
            output=fields.tokens("completion_tokens"),
            first_token=fields.moment("prefill_finished_time"),
            last_token=last,
            scheduled=fields.moment("forward_entry_time"),
            cached=fields.tokens("cached_tokens", needed=False),
            said=fields.said,
            place=fields.place,
        )


@log_format(
    "dynamo",
    summary="JSON lines of Dynamo's request traces: request_end events with input_tokens, output_tokens,"
    " request_received_ms, ttft_ms, total_time_ms",
    reference="ai-dynamo/dynamo, DYN_REQUEST_TRACE=1, dynamo.request.trace.v1 (Apache-2.0)",
)
def dynamo(path: Path_, reading: Reading) -> Iterator[LogRecord]:
    """A line is an event, or an object that wraps one; only ends of requests are requests."""
    for row in read_json_lines(path, ()):
        event = row.cells.get("event") if isinstance(row.cells.get("event"), Mapping) else row.cells
        assert isinstance(event, Mapping)
        if "event_type" not in event:
            words = "has no event_type, and no event that has one; allowed: an event, or an object that wraps one"
            reading.faults.append(Fault(row.place, words))
            continue
        if event["event_type"] != "request_end":
            reading.ignored["events that are no end of a request"] += 1
            continue
        fields = Fields(row.place, event, reading)
        arrival = fields.moment("request", "request_received_ms", per_second=1e3, needed=True)
        lasting = fields.duration("request", "total_time_ms", per_second=1e3)
        last = after(arrival, lasting)
        began = between(lasting, fields.moment("event_time_unix_ms", per_second=1e3))
        reading.moments("request_received_ms and event_time_unix_ms", arrival, began)
        yield LogRecord(
            id=fields.text("request", "request_id") or f"r{row.line}",
            arrival=arrival,
            prompt=fields.tokens("request", "input_tokens"),
            output=fields.tokens("request", "output_tokens", needed=False),
            first_token=after(arrival, fields.duration("request", "ttft_ms", per_second=1e3)),
            last_token=last,
            cached=fields.tokens("request", "cached_tokens", needed=False),
            session=fields.text("agent_context", "session_id") or fields.text("agent_context", "trajectory_id"),
            parent=fields.text("agent_context", "parent_session_id"),
            model=fields.text("request", "model"),
            said=fields.said,
            place=fields.place,
        )


@log_format(
    "otel",
    summary="OpenTelemetry spans llm_request as JSON: gen_ai.usage.prompt_tokens, gen_ai.usage.completion_tokens,"
    " gen_ai.latency.*",
    reference="vllm-project/vllm and sgl-project/sglang, --otlp-traces-endpoint (Apache-2.0)",
)
def otel(path: Path_, reading: Reading) -> Iterator[LogRecord]:
    """Each line holds spans of resources and scopes; a request is a span that says how many tokens it used."""
    for row in read_json_lines(path, ("resourceSpans",)):
        for place, span in _spans(row.cells, row.place, reading):
            attributes = _objects(span, "attributes", place, reading)
            values = {str(a.get("key")): _plain(a.get("value")) for _, a in attributes}
            if "gen_ai.usage.prompt_tokens" not in values:
                reading.ignored["spans that are no request"] += 1
                continue
            fields = Fields(place, {**span, **values}, reading)
            arrival = fields.moment("startTimeUnixNano", per_second=1e9, needed=True)
            lasting = fields.duration("gen_ai.latency.e2e")
            ended = between(arrival, fields.moment("endTimeUnixNano", per_second=1e9))
            reading.durations("gen_ai.latency.e2e and endTimeUnixNano", lasting, ended, place)
            yield LogRecord(
                id=fields.text("gen_ai.request.id") or fields.text("spanId") or place,
                arrival=arrival,
                prompt=fields.tokens("gen_ai.usage.prompt_tokens"),
                output=fields.tokens("gen_ai.usage.completion_tokens", needed=False),
                first_token=after(arrival, _to_first_token(fields)),
                last_token=after(arrival, lasting),
                scheduled=after(arrival, fields.duration("gen_ai.latency.time_in_queue")),
                model=fields.text("gen_ai.response.model"),
                failed=fields.get("status", "code") in (2, "STATUS_CODE_ERROR"),
                said=fields.said,
                place=place,
            )


def _to_first_token(fields: Fields) -> float | None:
    """From arrival to first token [s]: as logged, or else the time in the queue and in the prefill."""
    logged = fields.duration("gen_ai.latency.time_to_first_token")
    if logged is not None:
        return logged
    prefill = fields.duration("gen_ai.latency.time_in_model_prefill")
    if prefill is None:
        prefill = fields.duration("gen_ai.latency.time_in_model.prefill")
    return after(fields.duration("gen_ai.latency.time_in_queue"), prefill)


def _spans(cells: Mapping[str, Any], place: str, reading: Reading) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Spans of a line, each with its place."""
    for of_resource, resource in _objects(cells, "resourceSpans", f"{place}, ", reading):
        for of_scope, scope in _objects(resource, "scopeSpans", of_resource, reading):
            yield from _objects(scope, "spans", of_scope, reading)


def _objects(
    data: Mapping[str, Any], key: str, place: str, reading: Reading
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Objects of a list that stands there, each with its place; none where nothing does."""
    found = data.get(key)
    path = f"{place}{'' if place.endswith(' ') else '.'}{key}"
    if found is not None and not isinstance(found, list):
        reading.faults.append(Fault(path, f"found {shown(found)}; allowed: a list"))
    for i, item in enumerate(found if isinstance(found, list) else []):
        if isinstance(item, Mapping):
            yield f"{path}[{i}]", item
        else:
            reading.faults.append(Fault(f"{path}[{i}]", f"found {shown(item)}; allowed: a JSON object"))


def _plain(value: object) -> object:
    """What an attribute holds; whole numbers are texts in OTLP."""
    if isinstance(value, Mapping):
        return next((value[key] for key in ("intValue", "doubleValue", "stringValue") if key in value), None)
    return None
