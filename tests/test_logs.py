"""Logs become instances, observed runs and laws, whatever wrote them; what is left out is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from log_files import WRITERS, Served, lines, sglang_bench, write
from log_histories import LAW, clock, history, served, vllm_bench

import modelkit as mk
from modelkit.errors import InputError, UsageError
from modelkit.sources.calibrate import COEFFICIENTS
from modelkit.sources.logs import log_formats, read_log, recognised, with_engine
from modelkit.sources.logs.law import fit_law
from modelkit.sources.logs.observed import SCHEMA


def test_one_run_in_every_format_is_one_instance(tmp_path: Path) -> None:
    """Tests that formats are told by their keys, and the same instance, run and law come from each."""
    run = served()
    assert set(log_formats()) == {*WRITERS, "sglang-bench"}
    expected = None
    for name in WRITERS:
        path = write(tmp_path, name, run)
        assert recognised(path) == name
        found = mk.import_log(path)
        assert found.observed is not None
        assert found.law is not None
        requests = [(r.prompt_tokens, r.output_tokens) for r in found.instance.requests]
        arrivals = [r.arrival for r in found.instance.requests]
        moments = [*found.observed.first_token_s, *found.observed.finish_s]
        law = [getattr(found.law.clock, c) for c in COEFFICIENTS]
        if expected is None:
            expected = requests, arrivals, moments, law
        assert requests == expected[0], name
        assert arrivals == expected[1], name
        assert moments == expected[2], name
        assert law == pytest.approx(expected[3], rel=1e-6), name


def test_the_observed_run_has_the_metrics_of_the_judge(tmp_path: Path) -> None:
    """Tests that a simulated run read back as a log has the judge's metrics, and no others; and the document."""
    instance, verdict = history(3, clock(), n=80)
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(vllm_bench(instance, verdict)))
    found = mk.import_log(path)
    assert found.observed is not None
    start = min(r.arrival for r in instance.requests)
    shifted = {"makespan_ms": start * 1000}
    for name, value in found.observed.metrics.items():
        if not name.startswith("throughput"):
            assert value == pytest.approx(verdict.metrics[name] - shifted.get(name, 0), rel=1e-5), name
    assert "peak_kv_tokens" not in found.observed.metrics
    document = found.observed.document()
    assert document["schema"] == SCHEMA
    assert document["instance"]["sha256"] == found.instance.sha256
    assert [len(column) for column in document["requests"].values()] == [80, 80, 80]


@pytest.mark.parametrize("name", WRITERS)
def test_failures_are_counted(tmp_path: Path, name: str) -> None:
    """Tests that failed requests are left out of every format, counted and said."""
    run = [r._replace(failed=i % 5 == 0) for i, r in enumerate(served())]
    found = mk.import_log(write(tmp_path, name, run))
    assert len(found.instance.requests) == 48
    words = ("12 failed requests, left out", "12 requests without output, left out")
    assert any(note in words for note in found.notes), found.notes


@pytest.mark.parametrize("name", WRITERS)
def test_without_stamps_a_server_is_asked_for(tmp_path: Path, name: str) -> None:
    """Tests that a log without its optional fields has no law, says what to do, and is an instance on a server."""
    optional = {
        "first_token_ts", "last_token_ts", "scheduled_ts", "ttfts", "itls", "errors", "generated_texts", "arrival_time",
        "request_finished_ts", "prefill_finished_time", "queue_time", "gen_ai.latency.time_to_first_token",
        "gen_ai.latency.e2e", "time_to_first_token", "request_latency", "time_to_first_token_ms", "timings", "ttft_ms",
        "output_token_times", "total_time_ms", "cached_tokens", "error", "status", "credit_issued_ns",
    }  # fmt: skip

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: bare(item) for key, item in value.items() if key not in optional}
        if isinstance(value, list):
            return [bare(item) for item in value if not (isinstance(item, dict) and item.get("key") in optional)]
        return value

    path = write(tmp_path, name, served())
    text = path.read_text()
    if path.suffix == ".csv":
        kept = 8 if name == "blis" else 6
        path.write_text("\n".join(",".join(line.split(",")[:kept]) for line in text.splitlines()) + "\n")
    elif path.suffix in (".jsonl", ".log"):
        path.write_text(lines([bare(json.loads(line)) for line in text.splitlines()]))
    else:
        path.write_text(json.dumps(bare(json.loads(text))))
    with pytest.raises(InputError, match="carries no law of iteration times.*--server"):
        mk.import_log(path, name)
    found = mk.import_log(path, name, server="llama2-70b-2xa100")
    assert len(found.instance.requests) == 60
    assert (found.observed, found.law) == (None, None)


@pytest.mark.parametrize("name", WRITERS)
def test_broken_files_are_refused_with_their_place(tmp_path: Path, name: str) -> None:
    """Tests that a wrong number, a wrong type, a missing length, broken JSON and an empty file are refused in words."""
    path = write(tmp_path, name, served(n=20))
    text = path.read_text()
    prompt = {"vllm-run": "input_toks", "otel": "gen_ai.usage.prompt_tokens", "vllm-bench": "input_lens",
              "aiperf": "input_sequence_length", "dynamo": "input_tokens", "blis": "input_tokens",
              "inference-perf": "input_tokens", "servingsim-run": "input"}.get(name, "prompt_tokens")  # fmt: skip
    size = str(served(n=20)[0].prompt)
    for wrong in ("-7", "1.5", '"x"', "1e300"):
        wrong_text = json.dumps(wrong) if name == "otel" else wrong  # whole numbers are texts there
        path.write_text(text.replace(f'"{size}"' if name == "otel" else size, wrong_text, 1))
        with pytest.raises(InputError) as caught:
            mk.import_log(path, name)
        fault = caught.value.faults[0]
        assert "found" in fault.message, str(fault)
        assert fault.path.startswith(("line ", "$")), str(fault)
        assert prompt in fault.path, str(fault)
    cut = text[: text.index(size) + 1] if path.suffix == ".csv" else text[: len(text) // 2].rstrip("\n")[:-3]
    for broken in (cut, "", "[]", "{}", "\x00"):
        path.write_text(broken)
        with pytest.raises(InputError):
            mk.import_log(path, name, server="llama2-70b-2xa100")


def test_windows_and_models(tmp_path: Path) -> None:
    """Tests that a part of a log is taken in seconds and requests, and one model of several."""
    path = write(tmp_path, "dynamo", served())
    whole = mk.import_log(path)
    last = whole.instance.requests[-1].arrival
    part = mk.import_log(path, from_=last / 2)
    assert 10 < len(part.instance.requests) < 50
    assert part.instance.requests[0].arrival == 0
    assert len(mk.import_log(path, skip=10, requests=20).instance.requests) == 20
    assert any("outside of what is taken" in note for note in part.notes)
    path.write_text(path.read_text().replace('"model": "m"', '"model": "n"', 25))
    with pytest.raises(InputError, match="several models, m, n; choose one with --model"):
        mk.import_log(path)
    assert len(mk.import_log(path, model="n").instance.requests) == 25
    for wrong in ({"skip": -1}, {"requests": 0}, {"from_": -1.0}, {"max_batch": 0}):
        with pytest.raises(InputError, match="allowed"):
            mk.import_log(path, model="n", **wrong)


def test_without_arrivals_only_all_at_once(tmp_path: Path) -> None:
    """Tests that results without start times are read where all requests came at once, and refused elsewhere."""
    path = tmp_path / "s.jsonl"
    run = [r._replace(first=r.first + 30, last=r.last + 30) for r in served()]
    path.write_text(sglang_bench(run))
    assert recognised(path) == "sglang-bench"
    assert {r.arrival for r in mk.import_log(path).instance.requests} == {0}
    path.write_text(sglang_bench(run).replace('"inf"', "4.0"))
    with pytest.raises(InputError, match="the arrival times are unknown"):
        mk.import_log(path)
    path.write_text(sglang_bench(run) * 2)
    with pytest.raises(InputError, match=r"line 2: a second run"):
        mk.import_log(path)


@pytest.mark.parametrize("between", ["", "\n"])
def test_several_results_in_a_file_are_refused(tmp_path: Path, between: str) -> None:
    """Tests the words on a file to which a benchmark appended a second result."""
    path = write(tmp_path, "vllm-bench", served(n=20))
    path.write_text(path.read_text() + between + path.read_text())
    with pytest.raises(InputError, match="several results in one file"):
        mk.import_log(path)


def test_what_is_no_log_is_said(tmp_path: Path) -> None:
    """Tests the words on instances, tables of iteration times, other keys, and standard input."""
    for text, words in (
        ('{"schema": "modelkit/instance/1", "requests": []}', "a document of modelkit already"),
        ("phase,batch_size,iteration_ms\n", "`modelkit calibrate`"),
        ('{"a": 1}', "no format has its keys: a"),
        ("a,b\n1,2\n", "no format has its columns: a, b"),
    ):
        path = tmp_path / "x"
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            recognised(path)
    with pytest.raises(UsageError, match="--format"):
        recognised("-")


@pytest.mark.parametrize("base", [0.0, 8.0])
@pytest.mark.parametrize("rate", [0.5, 4.0])
def test_a_known_law_is_found_again(tmp_path: Path, base: float, rate: float) -> None:
    """Tests that stamps tell the law that made them, and that the base is named where nobody was served alone."""
    truth = clock(base_ms=base)
    instance, verdict = history(5, truth, rate=rate)
    path = tmp_path / "b.json"
    path.write_text(json.dumps(vllm_bench(instance, verdict)))
    law = fit_law(read_log(path))
    assert law.errors["decode"].mape < 1e-6
    known = dict.fromkeys(COEFFICIENTS, 0.0) | LAW | {"base_ms": base}
    if rate > 1:
        assert law.untold == ("base_ms",)
        assert "decode_base_ms has it" in law.notes[0]
        known |= {"base_ms": 0.0, "decode_base_ms": LAW["decode_base_ms"] + base}
    else:
        assert law.untold == ()
    assert {c: getattr(law.clock, c) for c in COEFFICIENTS} == pytest.approx(known, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("limits", [{"max_batch_tokens": 512, "chunked_prefill": True}, {"capacity": 4500}])
def test_what_disturbs_some_requests_does_not_bend_the_law(tmp_path: Path, limits: dict[str, Any]) -> None:
    """Tests that split prompts are followed through their iterations, and that many evictions change no coefficient."""
    instance, verdict = history(2, clock(), n=120, rate=4.0, **limits)
    assert "capacity" not in limits or (verdict.metrics["evictions"] or 0) > 9
    path = tmp_path / "b.json"
    path.write_text(json.dumps(vllm_bench(instance, verdict)))
    law = fit_law(with_engine(read_log(path), max_num_batched_tokens=limits.get("max_batch_tokens")))
    assert law.untold == ("base_ms",)
    assert {c: getattr(law.clock, c) for c in LAW} == pytest.approx(LAW, rel=2e-3)
    if "capacity" in limits:  # without the times of tokens, nobody sees in which iterations the evicted ran
        path.write_text(json.dumps(vllm_bench(instance, verdict, pieces=True)))
        law = fit_law(read_log(path))
        assert set(law.untold) >= {c for c in LAW if abs(getattr(law.clock, c) / LAW[c] - 1) > 0.02}
        assert len(law.untold) > 2


def test_prompts_that_were_split_unknown_to_the_log_are_untold(tmp_path: Path) -> None:
    """Tests that times of prompts are called rough where nobody says how many tokens an iteration takes."""
    instance, verdict = history(5, clock(), n=80, max_batch_tokens=256, chunked_prefill=True)
    path = tmp_path / "b.json"
    path.write_text(json.dumps(vllm_bench(instance, verdict)))
    law = fit_law(read_log(path))
    assert {"prefill_base_ms", "prefill_per_token_ms"} <= set(law.untold)
    assert any("--max-batch-tokens" in note for note in law.notes)


def test_what_moves_together_is_untold(tmp_path: Path) -> None:
    """Tests that one request after another, all alike, tell neither the batch nor the tokens held from the base."""
    rows = [
        {"request_id": f"q{i}", "input_toks": 100, "output_toks": 50, "queued_ts": i * 10.0,
         "first_token_ts": i * 10 + 0.05, "last_token_ts": i * 10 + 0.05 + 49 * 0.02}
        for i in range(20)
    ]  # fmt: skip
    path = tmp_path / "r.jsonl"
    path.write_text(lines(rows))
    law = fit_law(read_log(path))
    assert {"decode_base_ms", "decode_per_request_ms", "decode_per_kv_token_ms"} <= set(law.untold)
    assert law.errors["decode"].mape < 1e-6


def test_stamps_that_no_law_explains_are_refused(tmp_path: Path) -> None:
    """Tests that times which have nothing to do with tokens carry no law."""
    rng = np.random.default_rng(0)
    rows = [
        {"request_id": f"q{i}", "input_toks": 100, "output_toks": 50, "queued_ts": i * 0.1,
         "first_token_ts": i * 0.1 + 0.05, "last_token_ts": i * 0.1 + 0.05 + float(10 ** rng.uniform(-2, 3))}
        for i in range(60)
    ]  # fmt: skip
    path = tmp_path / "r.jsonl"
    path.write_text(lines(rows))
    with pytest.raises(InputError, match="no linear law explains"):
        fit_law(read_log(path))


def test_the_command(tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests both forms of the command, the file beside the instance, and names that do not meet."""
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, "vllm-bench", served())
    said = cli("import", str(path))
    assert "observed, as logged: mean latency" in said.out
    assert mk.load("run-n60.json").sha256 == json.loads(Path("run-n60.observed.json").read_text())["instance"]["sha256"]
    cli("import", str(path), "--format", "vllm-bench", "-o", "b.json")
    cli("import", "--format=vllm-bench", str(path), "-o", "c.json")
    cli("import", "vllm-bench", str(path), "-o", "d.json")
    assert Path("b.json").read_bytes() == Path("c.json").read_bytes() == Path("d.json").read_bytes()
    write(tmp_path, "vllm-bench", served(seed=2))
    cli("import", str(path))
    assert len(list(tmp_path.glob("run-n60*.observed.json"))) == 2
    trace = tmp_path / "azure.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.97,480,10\n")
    assert "azure-n1" in cli("import", str(trace)).out
    assert "did you mean 'mooncake'" in cli("import", "mooncak", code=2).err
    assert "cannot read" in cli("import", "no/such.json", code=2).err


@pytest.mark.parametrize("run", ["Llama-3.1-8B", "Qwen3-30B-A3B-Instruct-2507"])
def test_the_law_of_real_runs(shared_data: Path, run: str) -> None:
    """Tests that a law of real stamps is off by less than 1 % on average, and that the run is read as measured."""
    found = mk.import_log(shared_data / "vllm_runs" / run / "requests.jsonl")
    assert found.law is not None
    assert found.observed is not None
    assert found.law.errors["decode"].mape < 0.01
    measured = {"Llama-3.1-8B": 28_200, "Qwen3-30B-A3B-Instruct-2507": 32_345}[run]
    assert found.observed.metrics["mean_latency_ms"] == pytest.approx(measured, rel=1e-3)
    assert found.instance.server.slots == {"Llama-3.1-8B": 128, "Qwen3-30B-A3B-Instruct-2507": 256}[run]


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("aiperf", '"unit": "ms"', '"unit": ["ms"]'),
        ("inference-perf", '"output_token_times": [', '"output_token_times": [1' + "0" * 400 + ", "),
        ("vllm-bench", '"itls": [[', '"itls": [[1' + "0" * 400 + ", "),
        ("vllm-run", '"output_toks": ', '"output_toks": 1e7, "x": '),
        ("vllm-bench", '"itls": [[', '"itls": [[0.0], ['),
    ],
)
def test_what_the_fuzzer_found(tmp_path: Path, name: str, before: str, after: str) -> None:
    """Tests units that are no text, numbers of hundreds of digits, absurd outputs and lists of other lengths."""
    path = write(tmp_path, name, served(n=20))
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(InputError):
        mk.import_log(path, name)


def test_a_request_whose_tokens_all_came_at_once_is_no_equation(tmp_path: Path) -> None:
    """Tests that a law is fitted to the others."""
    run = served()
    run[7] = run[7]._replace(last=run[7].first)
    assert mk.import_log(write(tmp_path, "vllm-bench", run)).law is not None


def _whole(moment: float | None) -> float:
    """In whole microseconds, which every format can write."""
    assert moment is not None
    return round(moment, 6)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["Llama-3.1-8B", "Qwen3-30B-A3B-Instruct-2507"])
def test_a_real_run_in_every_format_is_one_instance(shared_data: Path, run: str, tmp_path: Path) -> None:
    """Tests that a real run rewritten in whole microseconds has the same instance and the same law in each format."""
    log = read_log(shared_data / "vllm_runs" / run / "requests.jsonl")
    rewritten = [
        Served(r.id, _whole(r.arrival), r.prompt, r.output, _whole(r.first_token), _whole(r.last_token))
        for r in log.records
    ]
    found = []
    for name in WRITERS:
        made = mk.import_log(write(tmp_path, name, rewritten), max_batch=log.engine.max_num_seqs)
        assert made.law is not None
        law = [getattr(made.law.clock, c) for c in COEFFICIENTS]
        found.append(([r.model_copy(update={"id": ""}) for r in made.instance.requests], law))
        assert found[-1][0] == found[0][0], name
        assert law == pytest.approx(found[0][1], rel=1e-6), name
