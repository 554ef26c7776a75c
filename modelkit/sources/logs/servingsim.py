"""Runs of LLMServingSim: of vLLM as it records them, and of its own simulator."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from modelkit.errors import Fault, InputError, shown
from modelkit.io import read_json
from modelkit.io.tables import read_csv, read_json_lines
from modelkit.sources.logs import log_format
from modelkit.sources.logs.record import Engine, Fields, LogRecord, Reading, after, between

Path_ = str | os.PathLike[str]
#: How far the times between tokens may be off the time from the first to the last, as a share of it.
_SUM_OFF = 1e-3


@log_format(
    "vllm-run",
    summary="JSON lines with request_id, input_toks, output_toks, queued_ts, scheduled_ts, first_token_ts,"
    " last_token_ts [s]; meta.json beside them has the engine's settings, timeseries.csv its load",
    reference="requests.jsonl of a run of vLLM as casys-kaist/LLMServingSim writes it (MIT)",
)
def vllm_run(path: Path_, reading: Reading) -> Iterator[LogRecord]:
    """Stamps of the engine itself, in monotonic seconds; a request arrives when it is queued."""
    folder = Path(os.fspath(path)).parent
    if os.fspath(path) != "-" and (folder / "meta.json").is_file():
        reading.engine = _engine(folder / "meta.json", reading)
    if os.fspath(path) != "-" and (folder / "timeseries.csv").is_file():
        _read_load(folder / "timeseries.csv", reading)
    for row in read_json_lines(path, ("request_id", "input_toks", "output_toks", "queued_ts")):
        fields = Fields(row.place, row.cells, reading)
        queued = fields.moment("queued_ts", needed=True)
        reading.moments("queued_ts and arrival_time", queued, fields.moment("arrival_time"))
        yield LogRecord(
            id=fields.text("request_id") or f"r{row.line}",
            arrival=queued,
            prompt=fields.tokens("input_toks"),
            output=fields.tokens("output_toks"),
            first_token=fields.moment("first_token_ts"),
            last_token=fields.moment("last_token_ts"),
            scheduled=fields.moment("scheduled_ts"),
            said=fields.said,
            place=fields.place,
        )


def _engine(meta: Path, reading: Reading) -> Engine:
    """What a run's settings say of the engine."""
    found = read_json(meta)
    if not isinstance(found, dict):
        raise InputError(str(meta), [Fault("$", f"found {shown(found)}; allowed: a JSON object")])
    before = len(reading.faults)
    fields = Fields("meta.json", found, reading)

    def setting(*path: str) -> int | None:
        return fields.tokens(*path, needed=False) or None

    engine = Engine(
        max_num_seqs=setting("engine_kwargs", "max_num_seqs"),
        max_num_batched_tokens=setting("engine_kwargs", "max_num_batched_tokens"),
        block_size=setting("engine_kwargs", "block_size") or setting("kv_cache", "block_size"),
        kv_tokens=setting("kv_cache", "num_kv_tokens"),
        engines=setting("engine_kwargs", "data_parallel_size") or 1,
        model=fields.text("model"),
        version=fields.text("vllm_version"),
    )
    if len(reading.faults) > before:
        raise InputError(str(meta), reading.faults[before:])
    return engine


def _read_load(path: Path, reading: Reading) -> None:
    """What the load of the engine over time says: evictions, and the largest share of the KV cache in use."""
    faults: list[Fault] = []
    share = evictions = 0.0
    table = read_csv(path)
    if not {"t", "running", "waiting"} <= set(table.columns):
        reading.ignored["file beside it, timeseries.csv, without the columns of a run's, not read"] = 1
        return
    for row in table.rows():
        row.number("t", faults)
        for column in {"kv_cache_pct", "preempted"} & row.cells.keys():
            found = row.number(column, faults, most=100 if column == "kv_cache_pct" else 1e12)
            if column == "preempted":
                evictions += found
            else:
                share = max(share, found / 100)
    if faults:
        raise InputError(str(path), faults)
    if share:  # some versions write 0 always
        reading.engine = replace(reading.engine, kv_share=share)
    if evictions:
        reading.ignored["evictions, as timeseries.csv beside it says"] = int(evictions)


_COLUMNS = ("request id", "input", "output", "arrival")


@log_format(
    "servingsim-run",
    summary="CSV with request id, input, output, arrival, end_time, latency, queuing_delay, TTFT, ITL [ns]: sim.csv of"
    " the simulator LLMServingSim",
    reference="casys-kaist/LLMServingSim; Cho et al., LLMServingSim, IISWC 2024 (MIT)",
)
def servingsim_run(path: Path_, reading: Reading) -> Iterator[LogRecord]:
    """A simulation's results, with all times between tokens where they add up; a log of a server like any other."""
    engines = set()
    for row in read_csv(path, _COLUMNS, trace=True).rows():
        fields = Fields(row.place, row.cells, reading)
        if None in row.cells.values():
            reading.faults.append(Fault(row.place, "has fewer cells than there are columns"))
        arrival = fields.moment("arrival", per_second=1e9, needed=True)
        end = fields.moment("end_time", per_second=1e9)
        first = after(arrival, fields.duration("TTFT", per_second=1e9))
        lasting = fields.duration("latency", per_second=1e9)
        reading.durations("latency and end_time", lasting, between(arrival, end), row.place)
        output = fields.tokens("output")
        engines.add(fields.text("instance id"))
        yield LogRecord(
            id=fields.text("request id") or f"r{row.line}",
            arrival=arrival,
            prompt=fields.tokens("input"),
            output=output,
            first_token=first,
            last_token=end,
            scheduled=after(arrival, fields.duration("queuing_delay", per_second=1e9)),
            model=fields.text("model"),
            gaps=_gaps(fields, reading, output, between(first, end)),
            said=fields.said,
            place=row.place,
        )
    reading.engine = replace(reading.engine, engines=max(1, len(engines)))


def _gaps(fields: Fields, reading: Reading, output: int, lasting: float | None) -> Sequence[float] | None:
    """The times between tokens [s]; None where there are none, or they are not those from the first to the last."""
    text = fields.text_of("ITL")
    if text is None:
        return None
    try:
        gaps = [
            float(part) / (reading.per_second or 1e9) for part in text.strip().strip("[]").split(",") if part.strip()
        ]
    except ValueError:
        fields.fault(("ITL",), "a list of times, such as [12000000, 11500000]")
        return None
    if lasting is None or len(gaps) != output - 1 or not abs(sum(gaps) - lasting) <= _SUM_OFF * lasting:
        reading.ignored["requests whose times between tokens do not add up to those of the answer, not used"] += 1
        return None
    return gaps
