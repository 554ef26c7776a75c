"""Results of benchmark clients: vLLM, SGLang, AIPerf, GuideLLM, inference-perf, BLIS."""

from __future__ import annotations

import math
import os
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelkit.errors import Fault, InputError, shown
from modelkit.io.files import read_head
from modelkit.io.json_stream import JsonStream
from modelkit.io.tables import Row, read_csv, read_json_lines
from modelkit.sources.logs import log_format
from modelkit.sources.logs.record import Engine, Fields, LogRecord, Reading, after, between, is_time, seconds

Path_ = str | os.PathLike[str]


@log_format(
    "vllm-bench",
    summary="JSON of vllm bench serve --save-result --save-detailed: input_lens, output_lens, start_times, ttfts,"
    " itls [s]",
    reference="vllm-project/vllm, vllm/benchmarks/serve.py (Apache-2.0)",
)
def vllm_bench(path: Path_, reading: Reading) -> Iterator[LogRecord]:
    """One list a field, one entry a request; times between tokens are exact to a streamed piece of the answer."""
    yield from _lists_of(
        path, reading, "several results in one file, whose times do not meet (--append-result); keep one"
    )


@log_format(
    "sglang-bench",
    summary="JSON lines of sglang.bench_serving --output-details: input_lens, output_lens, ttfts, itls [s];"
    " arrivals only where all come at once",
    reference="sgl-project/sglang, python/sglang/benchmark/serving.py (Apache-2.0)",
)
def sglang_bench(path: Path_, reading: Reading) -> Iterator[LogRecord]:
    """One run a line; a file of several is refused, for their times do not meet."""
    yield from _lists_of(
        path, reading, "a second run, whose times do not meet those of the first: keep the line of one"
    )


#: Lists of a result that are read; the others are passed over.
_LISTS = ("input_lens", "output_lens", "start_times", "ttfts", "itls", "errors", "cached_tokens", "latencies")
#: Values of a result that are read.
_VALUES = ("model_id", "request_rate", "max_concurrency", "duration", "mean_ttft_ms")
#: How much longer than the benchmark its requests may seem to last, as a share of it.
_LONGER = 1.5
#: How much later than a client's own end of a request its last token may be [s].
_CLIENT_S = 1e-3


def _lists_of(path: Path_, reading: Reading, several: str) -> Iterator[LogRecord]:
    """Requests of a result with one list a field, of which only these lists are kept."""
    stream = JsonStream(path)
    data: dict[str, Any] = {}
    kept = {*_LISTS, *_own_lists(reading)}
    for key in stream.members():
        if key in kept and stream.peek() == "[":
            data[key] = [_compact(key, stream.value()) for _ in stream.elements()]
        elif key in kept or key in _VALUES:
            data[key] = stream.value()
        else:
            stream.pass_over()
    if "input_lens" not in data:
        words = (
            "has no key 'input_lens'; allowed: the result of one benchmark, with its lists; --save-detailed writes them"
        )
        raise InputError(reading.where, [Fault("line 1", words)])
    if stream.peek() == "{":
        raise stream.refused(several)
    if stream.peek():
        raise stream.refused("more stands behind the result; allowed: one JSON object")
    yield from _columns(data, "$", reading)


def _own_lists(reading: Reading) -> list[str]:
    """Further lists that the user asked for."""
    wanted = {} if reading.attributes is None else reading.attributes.columns
    return [name for names in wanted.values() for name in names]


def _compact(key: str, value: Any) -> Any:
    """What is kept of an entry: of an error that there is one, of times their numbers."""
    if key == "errors":
        return bool(value)
    if key == "itls" and isinstance(value, list) and all(is_time(gap) and gap >= 0 for gap in value):
        return array("d", value)
    return value


def _columns(data: Mapping[str, Any], place: str, reading: Reading) -> Iterator[LogRecord]:
    """Requests of a result with one list a field."""
    lists = {name: data.get(name) for name in _LISTS}
    lists |= {name: data[name] for name in _own_lists(reading) if isinstance(data.get(name), list)}
    n = len(lists["input_lens"]) if isinstance(lists["input_lens"], list) else 0
    for name, found in lists.items():
        if found is None and name not in ("input_lens", "output_lens"):
            lists[name] = [None] * n
        elif not isinstance(found, list) or len(found) != n:
            size = f"a list of {len(found)}" if isinstance(found, list) else shown(found)
            words = f"found {size}; allowed: a list of {n}, one for each of input_lens; --save-detailed writes them"
            reading.faults.append(Fault(f"{place}.{name}", words))
    if reading.faults:
        return
    model = data.get("model_id")
    at_once = str(data.get("request_rate")) == "inf" and data.get("max_concurrency") is None
    if data.get("start_times") is None and not at_once:
        words = "is missing, so the arrival times are unknown; allowed without it: request_rate inf, all at once"
        raise InputError(reading.where, [Fault(f"{place}.start_times", words)])
    told = _Totals(data, place, reading)
    for i in range(n):
        row = {name: found[i] for name, found in lists.items() if found is not None}
        fields = Fields(f"{place}[{i}]", row, reading)
        start = 0.0 if data.get("start_times") is None else fields.moment("start_times", needed=True)
        failed = bool(row["errors"])
        output = fields.tokens("output_lens")
        gaps = _gaps(fields)
        wait = fields.duration("ttfts")
        first = None if failed else after(start, wait)
        last = None if gaps is None else after(first, math.fsum(gaps))
        if not failed:
            reading.durations("latencies and ttfts", fields.duration("latencies"), between(start, last), fields.place)
            told.add(start, wait, last)
        yield LogRecord(
            id=f"r{i + 1}",
            arrival=start,
            prompt=fields.tokens("input_lens"),
            output=output,
            first_token=first,
            last_token=last,
            cached=fields.tokens("cached_tokens", needed=False),
            model=model if isinstance(model, str) else None,
            failed=failed,
            gaps=gaps if gaps is not None and len(gaps) == output - 1 else None,
            said=fields.said,
            place=fields.place,
        )
    told.compare()


class _Totals:
    """What a result says of all its requests, to be held against what its lists say of each."""

    def __init__(self, data: Mapping[str, Any], place: str, reading: Reading) -> None:
        self._of = Fields(place, data, reading)
        self._reading = reading
        self._waits: list[float] = []
        self._begin, self._end = math.inf, -math.inf

    def add(self, start: float | None, wait: float | None, last: float | None) -> None:
        """Add a request that was served, and whose times are known."""
        if start is not None and wait is not None and last is not None:
            self._waits.append(wait)
            self._begin, self._end = min(self._begin, start), max(self._end, last)

    def compare(self) -> None:
        """Note the mean of the first tokens and the duration of the run, as told and as added up."""
        if not self._waits:
            return
        mean = math.fsum(self._waits) / len(self._waits)
        told = seconds(self._of.number("mean_ttft_ms"), 1000.0)
        self._reading.durations("mean_ttft_ms and the mean of ttfts", told, mean, self._of.place)
        whole, lasting = self._of.duration("duration"), self._end - self._begin
        if whole is not None and lasting > whole:
            self._reading.durations("duration and the requests' times", whole, lasting, self._of.place, _LONGER)


def _gaps(fields: Fields) -> Sequence[float] | None:
    """Times between the pieces of an answer [s]."""
    found = fields.get("itls")
    if found is None:
        return None
    if not isinstance(found, array):
        fields.fault(("itls",), "a list of times, 0 or more")
        return None
    return found if fields.per_second is None else array("d", (gap / fields.per_second for gap in found))


@log_format(
    "aiperf",
    summary="JSON lines of AIPerf's profile_export.jsonl: metadata with request_start_ns, metrics with"
    " input_sequence_length, output_sequence_length, time_to_first_token, request_latency",
    reference="ai-dynamo/aiperf, docs/tutorials/working-with-profile-exports.md (Apache-2.0)",
)
def aiperf(path: Path_, reading: Reading) -> Iterator[LogRecord]:
    """A request arrives when its credit is issued: what waits in the client waits too."""
    scale = {"ns": 1e9, "us": 1e6, "ms": 1e3, "s": 1.0, "sec": 1.0}
    for row in read_json_lines(path, ("metadata", "metrics")):
        fields = Fields(row.place, row.cells, reading)

        def lasting(name: str, fields: Fields = fields) -> float | None:
            unit = fields.get("metrics", name, "unit") or "ms"
            if not isinstance(unit, str) or unit not in scale:
                fields.fault(("metrics", name, "unit"), ", ".join(scale))
                return None
            return seconds(fields.number("metrics", name, "value"), scale[unit])

        start = fields.moment("metadata", "request_start_ns", per_second=1e9, needed=True)
        credit = fields.moment("metadata", "credit_issued_ns", per_second=1e9)
        lasted, end = lasting("request_latency"), fields.moment("metadata", "request_end_ns", per_second=1e9)
        reading.durations("request_latency and request_end_ns", lasted, between(start, end), row.place)
        failed = bool(row.cells.get("error")) or fields.get("metadata", "was_cancelled") is True
        yield LogRecord(
            id=fields.text("metadata", "x_request_id") or f"r{row.line}",
            arrival=start if credit is None else credit,
            prompt=fields.tokens("metrics", "input_sequence_length", "value", needed=not failed),
            output=fields.tokens("metrics", "output_sequence_length", "value", needed=False),
            first_token=after(start, lasting("time_to_first_token")),
            last_token=after(start, lasted),
            scheduled=None,
            session=fields.text("metadata", "conversation_id") if fields.number("metadata", "turn_index") else None,
            failed=failed,
            warm_up=fields.get("metadata", "benchmark_phase") not in (None, "profiling"),
            said=fields.said,
            place=fields.place,
        )


@log_format(
    "guidellm",
    summary="JSON of guidellm run: benchmarks[0].requests.successful with prompt_tokens, output_tokens,"
    " request_start_time, request_end_time, time_to_first_token_ms",
    reference="vllm-project/guidellm, src/guidellm/schemas, schema version 2 (Apache-2.0)",
)
def guidellm(path: Path_, reading: Reading) -> Iterator[LogRecord]:
    """One benchmark a file; a request arrives when it was meant to start, where that is said."""
    stream = JsonStream(path)
    found = False
    for key in stream.members():
        if key != "benchmarks":
            stream.pass_over()
            continue
        for i in stream.elements():
            if i:
                words = "a second benchmark; allowed: one a file, for the times of several do not meet"
                raise InputError(reading.where, [Fault("$.benchmarks[1]", words)])
            found = True
            yield from _guidellm_benchmark(stream, reading)
    if not found:
        raise InputError(reading.where, [Fault("$.benchmarks", "holds no benchmark; allowed: a list of one")])


def _guidellm_benchmark(stream: JsonStream, reading: Reading) -> Iterator[LogRecord]:
    """Requests of the benchmark that comes next."""
    for key in stream.members():
        if key != "requests":
            stream.pass_over()
            continue
        for kind in stream.members():
            if kind not in ("successful", "errored", "incomplete") or stream.peek() == "n":
                stream.pass_over()
                continue
            for i in stream.elements():
                place = f"$.benchmarks[0].requests.{kind}[{i}]"
                request = stream.value()
                if not isinstance(request, dict):
                    reading.faults.append(Fault(place, f"found {shown(request)}; allowed: a JSON object"))
                    continue
                failed = kind != "successful"
                yield _guidellm_request(Fields(place, request, reading), f"{kind[0]}{i + 1}", failed=failed)


def _guidellm_request(fields: Fields, name: str, *, failed: bool) -> LogRecord:
    start = fields.moment("request_start_time", needed=not failed)
    meant = fields.moment("info", "timings", "targeted_start")
    first = fields.moment("info", "timings", "first_token_iteration")
    last = fields.moment("info", "timings", "last_token_iteration")
    end, wait = fields.moment("request_end_time"), fields.duration("time_to_first_token_ms", per_second=1e3)
    reading = fields.reading
    reading.durations("time_to_first_token_ms and first_token_iteration", wait, between(start, first), fields.place)
    lasting = fields.duration("request_latency")
    reading.durations("request_latency and request_end_time", lasting, between(start, end), fields.place)
    return LogRecord(
        id=fields.text("request_id") or name,
        arrival=start if meant is None else meant,
        prompt=fields.tokens("prompt_tokens", needed=not failed),
        output=fields.tokens("output_tokens", needed=False),
        first_token=after(start, wait) if first is None else first,
        last_token=end if last is None else last,
        cached=fields.tokens("cached_tokens", needed=False),
        session=fields.text("info", "conversation_id") if fields.number("info", "turn_index") else None,
        failed=failed,
        said=fields.said,
        place=fields.place,
    )


@log_format(
    "inference-perf",
    summary="JSON list of inference-perf's per_request_lifecycle_metrics.json: start_time, end_time, info with"
    " input_tokens, response_metrics and output_token_times [s]",
    reference="kubernetes-sigs/inference-perf, inference_perf/apis/base.py (Apache-2.0)",
)
def inference_perf(path: Path_, reading: Reading) -> Iterator[LogRecord]:
    """Lengths are the server's own where it said them."""
    for row in read_json_lines(path, ()):
        request = row.cells
        fields = Fields(row.place, request, reading)
        answer, usage = ("info", "response_metrics"), ("info", "response_metrics", "server_usage")
        failed = bool(request.get("error"))
        times = fields.get(*answer, "output_token_times") or fields.get("info", "output_token_times")
        if times is not None and not (isinstance(times, list) and all(is_time(t) for t in times)):
            fields.fault((*answer, "output_token_times"), "a list of times")
            times = None
        end = fields.moment("end_time")
        times = [t / (reading.per_second or 1.0) for t in times] if times else None
        if times and end is not None and times[-1] > end + _CLIENT_S:
            fields.fault(("end_time",), f"not before the last of the token times, {times[-1]}")
        served = fields.get(*usage, "prompt_tokens") is not None
        yield LogRecord(
            id=f"r{row.line}",
            arrival=fields.moment("start_time", needed=True),
            prompt=fields.tokens(*usage, "prompt_tokens")
            if served
            else fields.tokens("info", "input_tokens", needed=not failed),
            output=fields.tokens(*usage, "completion_tokens", needed=False)
            if served
            else fields.tokens(*answer, "output_tokens", needed=False),
            first_token=times[0] if times else None,
            last_token=times[-1] if times else None,
            cached=fields.tokens(*usage, "prompt_tokens_details", "cached_tokens", needed=False),
            model=fields.text("info", "lora_adapter"),
            failed=failed,
            said=fields.said,
            place=fields.place,
        )


@log_format(
    "blis",
    summary="CSV of BLIS traces, TraceV2: request_id, input_tokens, output_tokens, arrival_time_us,"
    " first_chunk_time_us, last_chunk_time_us",
    reference="inference-sim/inference-sim, sim/workload/tracev2.go (Apache-2.0)",
)
def blis(path: Path_, reading: Reading) -> Iterator[LogRecord]:
    """Lengths are the server's where it said them; a time of 0 is one that never came; a YAML head may lie beside."""
    columns = ("request_id", "input_tokens", "output_tokens", "arrival_time_us")
    rows: Iterator[Row] = read_csv(path, columns, trace=True).rows()
    warm_up = _blis_head(path, reading)
    for i, row in enumerate(rows):
        fields = Fields(row.place, row.cells, reading)
        if None in row.cells.values():
            reading.faults.append(Fault(row.place, "has fewer cells than there are columns"))
        status = fields.text("status")
        counted = fields.tokens("server_input_tokens", needed=False)
        if any(fields.number(f"{kind}_tokens") for kind in ("image", "audio", "video")):
            reading.ignored["requests with images, audio or video, whose tokens are those of the prompt"] += 1
        arrival = fields.moment("arrival_time_us", per_second=1e6, needed=True)
        first, last = (fields.moment(f"{kind}_chunk_time_us", per_second=1e6) or None for kind in ("first", "last"))
        yield LogRecord(
            id=fields.text("request_id") or f"r{row.line}",
            arrival=arrival,
            prompt=counted or fields.tokens("input_tokens"),
            output=fields.tokens("output_tokens"),
            first_token=first,
            last_token=last,
            session=fields.text("session_id"),
            request_class=fields.text("slo_class"),
            model=fields.text("model"),
            failed=status not in (None, "ok", "success", "completed"),
            warm_up=i < warm_up,
            said=fields.said,
            place=fields.place,
        )


_BLIS_HEAD = re.compile(r"^\s*(max_num_seqs|block_size|warm_up_requests):\s*(\d{1,9})\s*$", re.MULTILINE)


def _blis_head(path: Path_, reading: Reading) -> int:
    """Requests of the warm-up, and what the engine is, from the YAML file of the same name beside the table."""
    name = os.fspath(path).removesuffix(".gz").removesuffix(".csv")
    head = next((f for f in (f"{name}.yaml", f"{name}.yml") if os.path.isfile(f)), None)
    if head is None or os.fspath(path) == "-":
        return 0
    found = {key: int(value) for key, value in _BLIS_HEAD.findall(read_head(head, 2**16))}
    reading.engine = Engine(max_num_seqs=found.get("max_num_seqs") or None, block_size=found.get("block_size") or None)
    return found.get("warm_up_requests", 0)
