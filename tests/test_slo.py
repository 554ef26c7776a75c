"""Service levels: how they are said, which requests keep them, and what every command makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from log_histories import history, vllm_bench

import modelkit as mk
from modelkit.errors import InputError, UsageError
from modelkit.experiments.study import load_study
from modelkit.instance import Instance, LinearClock
from modelkit.judge import judge
from modelkit.judge.slo import MLPERF, service_levels, slo_words
from modelkit.text import metric_noun

#: One after another: tokens come 10 ms apart, the first after 10 ms of its own.
CLOCK = {"kind": "linear", "mixed": True, "prefill_base_ms": 10.0, "decode_base_ms": 10.0}
THREE = Instance(
    name="three",
    server={"clock": CLOCK, "slots": 1},
    requests=[
        {"id": "a", "prompt_tokens": 1, "output_tokens": 3, "class": "chat"},
        {"id": "b", "prompt_tokens": 1, "output_tokens": 1, "class": "batch"},
        {"id": "c", "arrival": 0.02, "prompt_tokens": 1, "output_tokens": 4},
    ],
)
#: First tokens at 10, 40 and 50 ms, completions at 30, 40 and 80 ms, arrivals at 0, 0 and 20 ms.
IN_TURN = mk.Schedule(
    tuple(
        mk.Segment(at, (mk.Admission(name, None),), rounds=rounds)
        for at, name, rounds in ((0.0, "a", 3), (0.03, "b", 1), (0.04, "c", 4))
    )
)


def kept(slo: Any) -> dict[str, float | None]:
    verdict = judge(THREE, IN_TURN, service_levels(slo))
    assert verdict.valid
    return verdict.metrics


@pytest.mark.parametrize(
    ("slo", "within"),
    [
        ("ttft=10ms", 1),
        ("ttft=9.99ms", 0),
        ("ttft=30ms", 2),
        ("ttft=40ms", 3),
        ("tpot=9.99ms", 1),
        ("tpot=10ms", 3),
        ("latency=0.04s", 2),
        ("latency=60ms,ttft=30ms", 2),
        (["ttft=10ms", "batch:ttft=1s"], 2),
        (["latency=1s", "batch:ttft=1ms"], 2),
        ("chat:ttft=1us", 2),
        ({"ttft_ms": 30, "class": {"batch": {"latency_ms": 40}}}, 3),
    ],
)
def test_limits_are_kept_or_not(slo: Any, within: int) -> None:
    """Tests which requests keep their limits, of all kinds and by class, with equality allowed."""
    metrics = kept(slo)
    assert metrics["requests_within_slo"] == within
    assert metrics["within_slo"] == pytest.approx(within / 3)
    assert metrics["goodput_requests_per_second"] == pytest.approx(within / 0.08)


def test_goodput_counts_tokens_and_classes() -> None:
    """Tests tokens a second of those that keep their limits, and the same by class."""
    metrics = kept("ttft=30ms")
    assert metrics["goodput_tokens_per_second"] == pytest.approx((3 + 4) / 0.08)
    assert metrics["within_slo[chat]"] == 1
    assert metrics["within_slo[batch]"] == 0
    assert metrics["goodput_tokens_per_second[chat]"] == pytest.approx(3 / 0.08)


def test_unknown_where_a_request_does_not_complete() -> None:
    """Tests that nothing is counted of a schedule that leaves requests unfinished."""
    metrics = judge(THREE, mk.Schedule(IN_TURN.segments[:1]), service_levels("ttft=1s")).metrics
    assert metrics["within_slo"] is None
    assert metrics["goodput_tokens_per_second[chat]"] is None


def test_no_levels_no_metrics() -> None:
    """Tests that a result without service levels says nothing of them, as before they existed."""
    assert not [name for name in judge(THREE, IN_TURN).metrics if "_slo" in name or "goodput" in name]
    assert "slo" not in mk.simulate(THREE, "mc-sf").document()


@pytest.mark.parametrize(
    ("slo", "words"),
    [
        ("ttft=450", "a time with its unit"),
        ("ttft=0ms", "a time with its unit"),
        ("ttf=450ms", "did you mean 'ttft'"),
        ("mlperf:llama2-7b", "did you mean 'llama2-70b'"),
        ("ttft=1ms,ttft=2ms", "given twice"),
        ("", "no service level"),
        ({}, "without a limit"),
        ({"class": {"a": {}}}, "without a limit"),
        (5, "found 5"),
        (["ttft=1ms", 5], "allowed: text such as"),
    ],
)
def test_wrong_levels_are_named(slo: Any, words: str) -> None:
    """Tests that what is not understood is said, with what is allowed."""
    with pytest.raises(UsageError, match=words):
        service_levels(slo)


def test_presets() -> None:
    """Tests MLPerf's limits, beside others and by class."""
    levels = service_levels(["mlperf:llama2-70b-interactive,latency=20s", "batch:mlperf:deepseek-r1"])
    assert levels is not None
    assert levels.document() == {
        "ttft_ms": 450,
        "tpot_ms": 40,
        "latency_ms": 20_000,
        "class": {"batch": {"ttft_ms": 2000, "tpot_ms": 80}},
    }
    assert slo_words(levels) == "TTFT 450 ms, TPOT 40 ms, latency 20,000 ms; batch: TTFT 2,000 ms, TPOT 80 ms"
    assert all(service_levels(f"mlperf:{name}") for name in MLPERF)


def test_levels_in_an_instance(tmp_path: Path) -> None:
    """Tests that an instance keeps its levels and classes in a file, and that its hash knows them."""
    path = tmp_path / "three.json"
    levelled = THREE.replace(server=THREE.server.model_copy(update={"slo": service_levels("chat:ttft=10ms")}))
    mk.save_instance(levelled, path)
    again = mk.load(path)
    assert again == levelled
    assert again.server.slo == levelled.server.slo
    assert [r.request_class for r in again.requests] == ["chat", "batch", None]
    plain = THREE.replace(requests=[r.model_copy(update={"request_class": None}) for r in THREE.requests])
    assert len({plain.sha256, THREE.sha256, levelled.sha256}) == 3
    assert "class" not in plain.document()["requests"]
    assert judge(again, IN_TURN).metrics["within_slo"] == 1


def test_classes_as_columns() -> None:
    """Tests that classes may be given as a column, by either name."""
    for name in ("class", "request_class"):
        instance = Instance.from_arrays([1, 1], [2, 3], server={"clock": CLOCK}, **{name: ["x", None]})
        assert [r.request_class for r in instance.requests] == ["x", None]


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ({"slo": {"ttft_ms": 5}}, r"\$.server.slo: its limits are in ms"),
        ({"clock": CLOCK, "slo": {}}, r"\$.server.slo: states no limit"),
        ({"clock": CLOCK, "slo": {"ttft": 5}}, r"\$.server.slo.ttft: unknown key; did you mean 'ttft_ms'"),
        ({"clock": CLOCK, "slo": {"class": {"a": {"tpt_ms": 5}}}}, r"class.a.tpt_ms: unknown key; did you mean 'tpot"),
        ({"clock": CLOCK, "slo": {"tpot_ms": 0}}, r"\$.server.slo.tpot_ms: found 0"),
    ],
)
def test_faults_in_a_file(server: dict[str, Any], words: str) -> None:
    """Tests that faults of service levels in a file are named with their place."""
    document = {**THREE.document(), "server": server}
    document["requests"] = {**document["requests"], "arrival": [0, 0, 0]}
    with pytest.raises(InputError, match=words):
        mk.load(document)


def test_not_under_the_unit_clock() -> None:
    """Tests that levels in ms are refused where time is in rounds."""
    instance = Instance(server={}, requests=[{"prompt_tokens": 1, "output_tokens": 1}])
    for run in (mk.simulate, mk.solve, mk.bound):
        with pytest.raises(UsageError, match="the unit clock"):
            run(instance, slo="ttft=1ms")
    with pytest.raises(InputError, match="in ms"):
        Instance(server={"slo": {"ttft_ms": 3}}, requests=[{"prompt_tokens": 1, "output_tokens": 1}])


def test_results_hold_the_levels(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Tests that a result is verified at the levels that it was asked for, and that forged ones are found out."""
    instance, result = str(tmp_path / "three.json"), tmp_path / "r.result.json"
    mk.save_instance(THREE, instance)
    levels = ["--slo", "ttft=15ms,tpot=40ms", "--slo", "batch:ttft=1s"]
    said = cli("simulate", instance, "-p", "mc-sf", *levels, "-o", str(result))
    assert "within SLO" in said.out
    cli("verify", str(result), "--instance", instance)
    document = json.loads(result.read_text())
    assert document["slo"] == {"ttft_ms": 15, "tpot_ms": 40, "class": {"batch": {"ttft_ms": 1000}}}
    document["slo"]["class"]["batch"]["ttft_ms"] = 1
    result.write_text(json.dumps(document))
    assert "within_slo" in cli("verify", str(result), "--instance", instance, code=5).out


@pytest.mark.slow
def test_every_run_takes_levels(tmp_path: Path) -> None:
    """Tests that solve, bound and compare state the metrics of the levels that they are given."""
    found = mk.compare(THREE, tmp_path, formulations=(), policies=("mc-sf",), slo="ttft=15ms", time_limit=1.0, jobs=1)
    assert [r.slo is not None and "within_slo" in r.metrics for r in found.results] == [True, True]
    assert mk.solve(THREE, slo="ttft=15ms", time_limit=5).metrics["within_slo"] is not None


@pytest.mark.slow
def test_a_log_is_judged_at_levels(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Tests that the observed run, policies and what nobody exceeds have a share within the levels of a log."""
    instance, verdict = history(7, LinearClock(**CLOCK), n=30, max_batch=8)
    log = tmp_path / "bench.json"
    log.write_text(json.dumps(vllm_bench(instance, verdict)))
    said = cli("judge", str(log), "--slo", "ttft=300ms,tpot=60ms", "--max-batch", "8", "--time-limit", "1", "--json")
    document = json.loads(said.out)
    shares = [document[name]["within_slo"] for name in ("observed", "simulated", "best")]
    assert all(0 <= share <= document["goodput"]["within_slo_at_most"] for share in shares)
    assert document["observed"]["within_slo"] == document["simulated"]["within_slo"]


def test_times_of_every_request(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Tests TTFT and TPOT of each request, and who keeps the levels, in Python and as a file of the command."""
    result = mk.simulate(THREE, "mc-sf", slo="ttft=40ms,tpot=9ms")
    columns = result.requests().columns()
    count = len(THREE.requests)
    assert sum(columns["ttft_ms"]) / count == pytest.approx(result.metrics["mean_ttft_ms"])
    tpot = [tpot for tpot in columns["tpot_ms"] if tpot is not None]
    assert sum(tpot) / len(tpot) == pytest.approx(result.metrics["mean_tpot_ms"])
    assert sum(columns["within_slo"]) == result.metrics["requests_within_slo"]
    assert "within_slo" not in mk.simulate(THREE, "mc-sf").requests().columns()
    mk.save_instance(THREE, tmp_path / "both.json")
    mk.save_result(result, tmp_path / "both.result.json")
    cli("export", str(tmp_path / "both.result.json"), "--format", "csv", "-o", str(tmp_path / "times.csv"))
    assert (tmp_path / "times.csv").read_text() == result.requests().to_csv()
    assert "is an instance" in cli("export", str(tmp_path / "both.json"), "--format", "csv", code=2).err


def test_pages_and_studies_have_classes(tmp_path: Path) -> None:
    """Tests that a report shows the levels of each class, and that a study draws them."""
    result = mk.simulate(THREE, "mc-sf", slo="ttft=40ms")
    mk.report([result], tmp_path / "page.html", instances=[THREE])
    assert "Within service levels, chat" in (tmp_path / "page.html").read_text()
    mk.save_instance(THREE, tmp_path / "three.json")
    text = (
        'name = "s"\n[page]\nmetrics = ["METRIC"]\n[[instances]]\nfile = "three.json"\nparameters = '
        '{ slo = "ttft=40ms" }\n[[policies]]\nnames = ["mc-sf"]\n'
    )
    (tmp_path / "s.toml").write_text(text.replace("METRIC", "within_slo[chat]"))
    assert load_study(tmp_path / "s.toml").page.metrics == ["within_slo[chat]"]
    (tmp_path / "s.toml").write_text(text.replace("METRIC", "makespan_ms[chat]"))
    with pytest.raises(InputError, match="unknown metric"):
        load_study(tmp_path / "s.toml")
    assert metric_noun("within_slo[chat]") == "share within service levels of chat"
