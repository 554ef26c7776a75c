"""Times off by a factor of 1,000 are refused, or said, or read in the unit that is stated; true ones are not."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from log_files import EPOCH, Served, write
from log_histories import served

import modelkit as mk
from modelkit.errors import InputError
from modelkit.sources.logs import Log, log_formats, read_log

SERVER = "llama2-70b-2xa100"


def table(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """A CSV file with its rows changed."""
    rows = [change(row) for row in csv.DictReader(path.read_text().splitlines())]
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(out.getvalue())
    return path


def said(log: Log) -> str:
    return "\n".join(log.notes)


def test_first_tokens_alone_in_milliseconds(tmp_path: Path) -> None:
    """Tests that any of three totals of a result contradicts its ttfts in ms, and that without any it is said."""
    path = write(tmp_path, "vllm-bench", served())
    whole = json.loads(path.read_text())
    wrong = {**whole, "ttfts": [wait * 1000 for wait in whole["ttfts"]]}
    totals = {"latencies", "mean_ttft_ms", "duration"}
    for kept, words in (
        ("latencies", r"latencies and ttfts differ in 5. of 60 requests; \$\[0\]: .* s and .* s"),
        ("mean_ttft_ms", "mean_ttft_ms and the mean of ttfts differ"),
        ("duration", "duration and the requests' times differ"),
    ):
        path.write_text(json.dumps({k: v for k, v in wrong.items() if k not in totals - {kept}}))
        with pytest.raises(InputError, match=words):
            read_log(path)
    bare = {k: v for k, v in wrong.items() if k not in totals}
    path.write_text(json.dumps(bare))
    assert "a cold start, or times to first tokens in another unit" in said(read_log(path))
    bare["start_times"] = [1000.0 * i for i in range(60)]  # each comes to an idle server, so this is no cold start
    path.write_text(json.dumps(bare))
    with pytest.raises(InputError, match="of 60 requests have their first tokens on an idle server later than"):
        read_log(path)
    assert len(read_log(path, time_unit="s").records) == 60
    path.write_text(json.dumps(whole))
    assert not read_log(path).left_out


def test_a_result_all_in_milliseconds_is_read_when_said(tmp_path: Path) -> None:
    """Tests that the unit which the user states is that of every time of a file."""
    for name in ("vllm-bench", "sglang-metrics", "inference-perf"):
        path = write(tmp_path, name, served())
        expected = mk.import_log(path, server=SERVER)
        keys = r"start_times|ttfts|latencies|itls|_ts|_time|e2e_latency|start_time|end_time|output_token_times|duration"
        number = re.compile(r"\d+(?:\.\d*)?(?:e-?\d+)?")

        def scaled(match: re.Match[str], number: re.Pattern[str] = number) -> str:
            return match[1] + number.sub(lambda n: repr(float(n[0]) * 1000), match[2])

        path.write_text(re.sub(rf'("\w*(?:{keys})": )(\[[^a-z"]*\]|[\d.e-]+)', scaled, path.read_text()))
        with pytest.raises(InputError):
            read_log(path)
        found = mk.import_log(path, server=SERVER, time_unit="ms")
        assert found.observed is not None
        assert expected.observed is not None
        assert found.observed.finish_s == pytest.approx(expected.observed.finish_s, abs=2e-6), name
    with pytest.raises(InputError, match="--time-unit: found 'min'; allowed: s, ms, us, ns"):
        mk.import_log(path, time_unit="min")


def test_seconds_beside_microseconds(tmp_path: Path) -> None:
    """Tests a BLIS table whose arrivals, or whose tokens, are seconds, with a fraction and whole."""
    path = write(tmp_path, "blis", served())
    text = path.read_text()

    def changed(*columns: str, whole: bool) -> Path:
        def change(row: dict[str, Any]) -> dict[str, Any]:
            moved = {c: int(row[c]) // 10**6 if whole else int(row[c]) / 1e6 for c in columns}
            return row | moved

        path.write_text(text)
        return table(path, change)

    with pytest.raises(InputError, match=r"line 2, arrival_time_us: found .*; allowed: whole us; .*--time-unit"):
        read_log(changed("arrival_time_us", whole=False))
    log = read_log(changed("arrival_time_us", whole=True))
    assert "all at once, or arrivals in another unit" in said(log)
    with pytest.raises(InputError, match="times out of order"):
        read_log(changed("first_chunk_time_us", "last_chunk_time_us", whole=True))


def test_arrivals_since_boot(tmp_path: Path) -> None:
    """Tests milliseconds since boot, of any number of days, against seconds since boot and since 1970."""
    path = write(tmp_path, "dynamo", served())
    expected, text = read_log(path).records, path.read_text()

    def received(change: Callable[[float], float]) -> Path:
        path.write_text(re.sub(r'("request_received_ms": )([\d.]+)', lambda m: f"{m[1]}{change(float(m[2]))!r}", text))
        return path

    for days in (0, 5, 20, 400):
        log = read_log(received(lambda ms, days=days: ms - EPOCH * 1000 + days * 864e5))  # type: ignore[misc]
        assert [r.arrival for r in log.records] == pytest.approx([r.arrival for r in expected], abs=1e-5)
        assert not set(log.left_out) - {"events that are no end of a request"}
    for change in (lambda ms: ms / 1000, lambda ms: ms / 1000 - EPOCH + 5e5):
        with pytest.raises(InputError, match=r"since 1970|received_ms and event_time_unix_ms are moments on clocks"):
            read_log(received(change))


@pytest.mark.parametrize(
    ("name", "head", "row"),
    [
        ("burstgpt", "Timestamp,Request tokens,Response tokens\n", "{},5,5\n"),
        ("vidur", "arrived_at,num_prefill_tokens,num_decode_tokens\n", "{},5,5\n"),
    ],
)
def test_thousands_of_seconds_are_no_seconds(tmp_path: Path, name: str, head: str, row: str) -> None:
    """Tests that traces a thousand times too dense are refused, and that many requests in a whole second are not."""
    path = tmp_path / "t.csv"
    path.write_text(head + "".join(row.format(i * 0.0037) for i in range(12)))
    with pytest.raises(InputError, match=rf"{name} counts s, but in s they come one every 3.7 ms.*--time-unit s"):
        mk.import_trace(name, path)
    assert mk.import_trace(name, path, time_unit="s", server=SERVER).requests[-1].arrival == pytest.approx(0.0407)
    path.write_text(head + "".join(row.format(i // 300) for i in range(600)))
    assert len(mk.import_trace(name, path).requests) == 600


def test_nanoseconds_that_are_seconds(tmp_path: Path) -> None:
    """Tests stamps and durations of nanosecond formats that count seconds."""
    path = write(tmp_path, "aiperf", served())
    text = path.read_text()
    for whole in (True, False):

        def seconds(match: re.Match[str], whole: bool = whole) -> str:
            moment = int(match[2]) / 1e9 - EPOCH + 5e5
            return f"{match[1]}{int(moment) if whole else moment}"

        path.write_text(re.sub(r'("\w+_ns": )(\d+)', seconds, text))
        with pytest.raises(InputError, match=r"request_latency and request_end_ns differ|allowed: whole ns"):
            read_log(path)
    path = write(tmp_path, "servingsim-run", served())
    expected = read_log(path).records
    table(path, lambda row: {k: int(v) / 1e9 if k in COUNTED else v for k, v in row.items()} | {"ITL": ""})
    with pytest.raises(InputError, match=r"line 2, arrival: found .*; allowed: whole ns"):
        read_log(path)
    found = read_log(path, time_unit="s").records
    assert [r.last_token for r in found] == pytest.approx([r.last_token for r in expected])


COUNTED = {"arrival", "end_time", "latency", "queuing_delay", "TTFT", "TPOT"}


def test_the_other_clock_of_a_run(tmp_path: Path) -> None:
    """Tests that a run's monotonic stamps are held against the unix time that it has beside them."""
    path = write(tmp_path, "vllm-run", served())
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["arrival_time"] = EPOCH + (row["arrival_time"] - EPOCH) * 1000
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="queued_ts and arrival_time are moments on clocks of two units"):
        read_log(path)


def test_what_comes_twice_is_counted_once(tmp_path: Path) -> None:
    """Tests spans that were exported twice, in any format whose requests have ids, and that it is said."""
    run = served(n=20)
    named = [name for name in log_formats() if name not in ("vllm-bench", "sglang-bench", "inference-perf", "guidellm")]
    for name in named:
        path = write(tmp_path, name, [*run, *run[3:8]])
        log = read_log(path)
        assert [r.id for r in log.records] == [r.id for r in run], name
        assert log.left_out["requests that are in the log again, counted once"] == 5


def test_no_false_alarms(tmp_path: Path) -> None:
    """Tests a burst, a cold start, a slow client and lone short prompts, none of which is refused."""
    path = write(tmp_path, "vllm-bench", [r._replace(arrival=0.001 * i) for i, r in enumerate(served())])
    assert len(read_log(path).records) == 60
    cold = [r._replace(first=r.first + 40, last=r.last + 40) for r in served()]
    assert len(read_log(write(tmp_path, "vllm-run", cold)).records) == 60
    lone = [Served(f"q{i}", 10.0 * i, 3, 5, 10 * i + 0.9, 10 * i + 1.0) for i in range(12)]
    log = read_log(write(tmp_path, "dynamo", lone))
    assert not any("another unit" in note for note in log.notes)
    late = [r._replace(arrival=r.arrival + 1.6e3, first=r.first + 1.6e3, last=r.last + 1.6e3) for r in served()]
    assert len(read_log(write(tmp_path, "blis", late)).records) == 60  # 1.6e9 us are no seconds since 1970
    path = write(tmp_path, "vllm-run", served())  # all asked at once, and the frontend took seconds to queue them
    rows = [
        json.loads(line) | {"arrival_time": EPOCH + 1e-3 * i} for i, line in enumerate(path.read_text().splitlines())
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(read_log(path).records) == 60


@pytest.mark.parametrize("run", ["Llama-3.1-8B", "Qwen3-30B-A3B-Instruct-2507"])
def test_real_runs_raise_no_alarm(shared_data: Path, run: str) -> None:
    """Tests that nothing is said of the times of real runs."""
    assert read_log(shared_data / "vllm_runs" / run / "requests.jsonl").left_out == {}
