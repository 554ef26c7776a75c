"""What others read: instances as traces of Mooncake, schedules as Chrome trace events."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from log_files import write
from log_histories import served as history_served

import modelkit as mk
from modelkit.errors import InputError, UsageError
from modelkit.judge import judge
from modelkit.schedule import Schedule

Cli = Callable[..., Any]


def served() -> mk.Instance:
    """Forty chats in real time on a server whose memory lets few in, so that some are evicted."""
    instance = mk.generate("chat", requests=40, rate=20.0, server="llama2-70b-2xa100", seed=3)
    return instance.replace(server=instance.server.model_copy(update={"kv_capacity_tokens": 1100}))


@pytest.mark.parametrize("server", [None, "llama2-70b-2xa100"])
def test_a_trace_comes_back(server: str | None, tmp_path: Path) -> None:
    """Tests that an exported instance imported again has the same requests, in whole ms or in rounds."""
    named: dict[str, Any] = {"server": server} if server else {}
    rate: dict[str, Any] = {"rate": 5.0} if server else {}
    made = mk.generate("chat", requests=50, seed=1, **named, **rate)
    path = tmp_path / "t.jsonl"
    path.write_text(mk.mooncake_trace(made).text)
    again = mk.import_trace("mooncake", path, time_unit="ms", **named)
    before = sorted(made.requests, key=lambda r: r.arrival)
    assert [(r.prompt_tokens, r.output_tokens) for r in again.requests] == [
        (r.prompt_tokens, r.output_tokens) for r in before
    ]
    start = before[0].arrival
    expected = [r.arrival - start for r in before]
    close = pytest.approx(expected, abs=1.001e-3) if server else expected
    assert [r.arrival for r in again.requests] == close
    twice = mk.mooncake_trace(again)
    assert twice.text.count("\n") == 50
    path.write_text(twice.text)
    fixed = mk.import_trace("mooncake", path, time_unit="ms", **named)
    assert (fixed.requests, fixed.extra) == (again.requests, again.extra)


def test_prompts_share_what_they_shared(tmp_path: Path) -> None:
    """Tests that hashes of blocks are kept with their size, and that without any no two prompts share one."""
    path = tmp_path / "t.jsonl"
    rows = [
        {"timestamp": 1000 * i, "input_length": 40, "output_length": 3, "hash_ids": [0, 1, 5 + i]} for i in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    instance = mk.import_trace("mooncake", path, block=16)
    written = mk.mooncake_trace(instance)
    assert [json.loads(line)["hash_ids"] for line in written.text.splitlines()] == [row["hash_ids"] for row in rows]
    assert any("--block 16" in note for note in written.notes)
    for wrong in ({}, {"prefix_block_tokens": 16, "prefix_hashes": [[1]]}, {"prefix_block_tokens": "16"}):
        bare = mk.mooncake_trace(instance.replace(extra=wrong)).text
        assert [json.loads(line)["hash_ids"] for line in bare.splitlines()] == [[0], [1], [2], [3]]


def test_rounds_keep_apart() -> None:
    """Tests rounds that are no whole ms, and those that a trace cannot hold."""
    instance = mk.generate("chat", requests=30, seed=2)
    stamps = [json.loads(line)["timestamp"] for line in mk.mooncake_trace(instance, round_ms=1.5).text.splitlines()]
    assert stamps == [int(r.arrival * 1.5) for r in sorted(instance.requests, key=lambda r: r.arrival)]
    with pytest.raises(InputError, match="allowed: 1 to"):
        mk.mooncake_trace(instance, round_ms=0.5)
    with pytest.raises(InputError, match="counts seconds"):
        mk.mooncake_trace(served(), round_ms=55)


#: What the trace event format asks of the arguments of its metadata.
METADATA = {"process_name": "name", "thread_name": "name", "process_sort_index": "sort_index",
            "thread_sort_index": "sort_index"}  # fmt: skip


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def _is_whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _events(text: str) -> dict[str, list[dict[str, Any]]]:
    """The events by their phase, once they keep the rules of the format and of those who read it."""
    document = json.loads(text, parse_constant=_refuse)
    assert set(document) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert document["displayTimeUnit"] == "ms"
    found = defaultdict(list)
    for event in document["traceEvents"]:
        assert {"name", "ph", "pid"} <= set(event), event
        assert isinstance(event["name"], str), event
        assert type(event["pid"]) is int, event
        if event["ph"] == "M":
            assert set(event["args"]) == {METADATA[event["name"]]}
            assert set(found) <= {"M"}  # names come first
        else:
            assert _is_whole(event["ts"]), event
        if event["ph"] == "X":
            assert _is_whole(event["dur"]), event
            assert isinstance(event["cat"], str), event
        if event["ph"] == "C":
            assert event["args"], event
            assert all(map(_is_whole, event["args"].values())), event
        found[event["ph"]].append(event)
    assert set(found) == {"M", "X", "C"}
    moments = [event["ts"] for event in document["traceEvents"] if event["ph"] != "M"]
    assert moments == sorted(moments)
    tracks = {(e["pid"], e["tid"]) for e in found["M"] if e["name"] == "thread_name"}
    processes = {e["pid"] for e in found["M"] if e["name"] == "process_name"}
    assert {(e["pid"], e["tid"]) for e in found["X"]} <= tracks
    assert {e["pid"] for kind in found.values() for e in kind} == processes
    numbers = [tid for _, tid in tracks] + sorted(processes)
    assert len(set(numbers)) == len(numbers)  # Perfetto names a track by its number alone
    _check_nesting(found["X"])
    counters = defaultdict(list)
    for event in found["C"]:
        counters[event["pid"], event["name"]].append(event["ts"])
    assert all(a < b for values in counters.values() for a, b in itertools.pairwise(values))
    return found


def _check_nesting(slices: list[dict[str, Any]]) -> None:
    """Slices of a track lie apart or one inside the other, as Perfetto asks."""
    tracks = defaultdict(list)
    for event in slices:
        tracks[event["pid"], event["tid"]].append((event["ts"], -event["dur"]))
    for found in tracks.values():
        assert found == sorted(found)  # the longer one before what lies inside it
        inside: list[int] = []
        for begin, minus in found:
            while inside and inside[-1] <= begin:
                inside.pop()
            assert not inside or begin - minus <= inside[-1]
            inside.append(begin - minus)


def test_prefixes_of_groups_are_hashes_in_common(tmp_path: Path) -> None:
    """Tests that an import of the trace makes groups of the same requests again, by whole blocks, as is said."""
    said = [("g", 1300), ("h", 600), ("g", 700), ("g", 1300), ("h", 500), None]
    rows = [
        {"id": f"q{i}", "arrival": i, "prompt_tokens": 2000, "output_tokens": 2}
        | ({} if prefix is None else {"prefix": {"group": prefix[0], "tokens": prefix[1]}})
        for i, prefix in enumerate(said)
    ]
    clock = {"kind": "linear", "mixed": True, "decode_base_ms": 1.0}
    server = {"kv_capacity_tokens": 99_999, "clock": clock, "prefix_cache": {"keep": True}}
    text, notes = mk.mooncake_trace(mk.Instance(server=server, requests=rows))
    hashes = [json.loads(row)["hash_ids"] for row in text.splitlines()]
    assert hashes[0] == [0, 1, 2, 3]
    assert (hashes[2][:1], hashes[3][:2]) == (hashes[0][:1], hashes[0][:2])
    assert len({h for row in hashes for h in row}) == 6 * 4 - 3
    assert any("whole blocks of 512 tokens, 70% of" in note for note in notes)
    (tmp_path / "t.jsonl").write_text(text)
    again = mk.import_trace(
        "mooncake", tmp_path / "t.jsonl", prefixes="keep", time_unit="ms", server="llama2-70b-8xh100"
    )
    shared = again.shared_prefixes
    assert shared is not None
    assert shared.tokens == (1024, 0, 512, 1024, 0, 0)


@pytest.mark.parametrize("policy", ["vllm-like", "mc-sf"])
def test_a_schedule_as_trace_events(policy: str) -> None:
    """Tests that slices nest, begin and end as the judge says, and that counters have the judge's peaks."""
    instance = served()
    result = mk.simulate(instance, policy)
    assert result.schedule is not None
    verdict = judge(instance, result.schedule)
    found = _events(mk.perfetto_trace(result, instance))
    requests = [e for e in found["X"] if e["cat"] == "request"]
    assert len(requests) == len(verdict.residencies)
    assert sum("(evicted)" in e["name"] for e in requests) == verdict.metrics["evictions"]
    assert policy == "mc-sf" or verdict.metrics["evictions"]
    ends = max(e["ts"] + e["dur"] for e in requests)
    assert ends == pytest.approx((verdict.metrics["makespan_ms"] or 0) * 1000, abs=1)
    done = [e["args"]["latency_ms"] for e in requests if "latency_ms" in e["args"]]
    assert sum(done) == pytest.approx(verdict.metrics["total_latency_ms"], rel=1e-6)
    counters = defaultdict(list)
    for event in found["C"]:
        counters[event["name"]].append((event["ts"], event["args"][event["name"]]))
    assert set(counters) == {"KV tokens", "requests in progress", "requests waiting"}
    for values in counters.values():
        moments = [moment for moment, _ in values]
        assert moments == sorted(moments)
        assert values[-1][1] == 0
    assert max(v for _, v in counters["KV tokens"]) == verdict.metrics["peak_kv_tokens"]
    assert max(v for _, v in counters["requests in progress"]) == max(s.active for s in verdict.intervals)


def test_slots_are_tracks_and_rounds_have_a_length(two: mk.Instance) -> None:
    """Tests numbered slots, the unit clock, and a counter that is 0 while nobody is there."""
    questions = mk.generate("gsm8k", requests=30, slots=4, seed=1)
    found = _events(mk.perfetto_trace(mk.simulate(questions, "sorted"), questions))
    with pytest.raises(UsageError, match="--round-ms: found 5; allowed: none, for the instance counts seconds"):
        mk.perfetto_trace(mk.simulate(questions, "sorted"), questions, round_ms=5.0)
    names = [e["args"]["name"] for e in found["M"] if e["name"] == "thread_name"]
    assert names == [f"slot {k}" for k in range(4)]
    late = two.replace(requests=(two.requests[0], two.requests[1].model_copy(update={"arrival": 9})))
    found = _events(mk.perfetto_trace(mk.simulate(late, "mc-sf"), late, round_ms=10))
    assert [(e["ts"], e["dur"]) for e in found["X"] if e["cat"] == "request"] == [(0, 20_000), (90_000, 40_000)]
    kv = [(e["ts"], e["args"]["KV tokens"]) for e in found["C"] if e["name"] == "KV tokens"]
    assert kv[:4] == [(0, 3), (10_000, 4), (20_000, 0), (90_000, 3)]
    with pytest.raises(UsageError, match="another instance"):
        mk.perfetto_trace(mk.simulate(late, "mc-sf"), two)


def test_the_command(two: mk.Instance, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests both formats as files, what is said, and options that do not fit."""
    monkeypatch.chdir(tmp_path)
    mk.save_instance(two, "two.json")
    mk.save_result(mk.simulate(two, "mc-sf"), "two.mc-sf.result.json")
    said = cli("export", "two.json", "--format", "mooncake")
    assert "wrote two.jsonl" in said.out
    assert "a round is written as 55 ms" in said.err
    assert cli("import", "two.jsonl", "-o", "again.json").code == 0
    assert [r.output_tokens for r in mk.load("again.json").requests] == [2, 4]
    said = cli("export", "two.mc-sf.result.json", "--format", "perfetto")
    assert "wrote two.mc-sf.perfetto.json" in said.out
    assert _events(Path("two.mc-sf.perfetto.json").read_text())["X"]
    Path("elsewhere").mkdir()
    Path("two.mc-sf.result.json").rename("elsewhere/two.result.json")
    assert cli("verify", "elsewhere/two.result.json").code == 0  # the instance lies in the folder where this runs
    Path("elsewhere/two.result.json").rename("two.mc-sf.result.json")
    for words, why in (
        (("two.json", "--format", "mooncake", "-f", "kv-hindsight"), "--formulation is for --format lp and mps"),
        (("two.json", "--round-ms", "5"), "--round-ms is for --format mooncake and perfetto"),
        (("two.json", "--format", "perfetto"), "is an instance, which says when requests come, not when they run"),
        (("two.json", "--format", "perfetto"), "`modelkit simulate two.json --policy vllm-like`"),
        (("two.json", "--format", "mooncake", "--round-ms", "nan"), "allowed: 1 to"),
        (("two.mc-sf.result.json", "--format", "perfetto", "--round-ms", "nan"), "allowed: 0.001 to 10^9"),
    ):
        assert why in " ".join(cli("export", *words, code=2).err.split())


def test_what_no_server_did_is_drawn_by_the_rules(two: mk.Instance) -> None:
    """Tests rounds as short as any, an instance without a name, and requests that come and end at once."""
    _events(mk.perfetto_trace(mk.simulate(two, "mc-sf"), two, round_ms=0.001))
    bare = two.replace(name="")
    _events(mk.perfetto_trace(mk.simulate(bare, "mc-sf"), bare))
    for short in (0.0009, 0.0, -1.0):
        with pytest.raises(UsageError, match=r"allowed: 0.001 to 10\^9"):
            mk.perfetto_trace(mk.simulate(two, "mc-sf"), two, round_ms=short)
    result = mk.simulate(two, "mc-sf")
    assert result.schedule is not None
    with pytest.raises(UsageError, match="the instance of the schedule is missing"):
        mk.perfetto_trace(result.schedule)


def test_replicas_have_tracks_and_counters_of_their_own() -> None:
    """Tests a server of three replicas: no request is on two of them, and all that wait are counted together."""
    instance = served()
    instance = instance.replace(server=instance.server.model_copy(update={"replicas": 3}))
    segments = []
    for replica in (1, 2, 3):
        part = served().replace(requests=instance.requests[replica - 1 :: 3])
        plan = mk.simulate(part, "vllm-like").schedule
        assert plan is not None
        segments += [dataclasses.replace(segment, replica=replica) for segment in plan.segments]
    schedule = Schedule(segments=tuple(sorted(segments, key=lambda segment: segment.at)))
    assert not judge(instance, schedule).violations
    found = _events(mk.perfetto_trace(schedule, instance))
    titles = {e["args"]["name"] for e in found["M"] if e["name"] == "process_name"}
    assert {"server, replica 1", "server, replica 3", "all replicas"} <= titles
    assert sum(e["cat"] == "request" and "(evicted)" not in e["name"] for e in found["X"]) == 40
    homes = defaultdict(set)
    for event in found["X"]:
        if event["cat"] == "request":
            homes[event["name"].partition(" ")[0]].add(event["pid"])
    assert all(len(pids) == 1 for pids in homes.values())
    assert len({e["pid"] for e in found["X"]}) == 3


def test_the_run_of_a_log(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that an observed run is drawn as logged, beside its instance or with it, and broken ones are refused."""
    monkeypatch.chdir(tmp_path)
    run = history_served()
    cli("import", str(write(tmp_path, "vllm-run", run)))
    said = cli("export", "run-n60.observed.json", "--format", "perfetto")
    assert "the run, observed, as logged; open it at ui.perfetto.dev" in said.out
    found = _events(Path("run-n60.observed.perfetto.json").read_text())
    requests = {e["name"]: e for e in found["X"] if e["cat"] == "request"}
    assert len(requests) == 60
    for r in run:
        event = requests[r.id]
        assert event["dur"] == pytest.approx((r.last - r.arrival) * 1e6, abs=2)
        assert event["args"]["ttft_ms"] == pytest.approx((r.first - r.arrival) * 1e3, abs=2e-3)
    assert {e["name"] for e in found["C"]} == {"requests before their first token", "requests decoding"}
    titles = {e["args"]["name"] for e in found["M"] if e["name"] == "process_name"}
    assert all("observed, as logged" in title for title in titles)
    whole = json.loads(Path("run-n60.observed.json").read_text())
    columns = whole["requests"]
    for change, words in (
        ({"requests": {**columns, "id": ["x", *columns["id"][1:]]}}, "$.requests.id[0]: found 'x'; the instance has"),
        ({"requests": {**columns, "finish_s": [-1, *columns["finish_s"][1:]]}}, "first_token_s[0], finish_s[0]: found"),
        ({"requests": {**columns, "finish_s": [1]}}, "$.requests.finish_s: found a list of 1; allowed: a list of 60"),
        ({"requests": 3}, "$.requests.id: found None"),
        ({"instance": {"name": 3}}, "$.instance: found"),
        ({"instance": whole["instance"] | {"sha256": "0" * 64}}, "no instance with the hash 0000"),
    ):
        Path("bad.observed.json").write_text(json.dumps(whole | change))
        said = " ".join(cli("export", "bad.observed.json", "--format", "perfetto", code=2).err.split())
        assert words in said
    mk.save_instance(served(), "other.json")
    said = cli("export", "run-n60.observed.json", "--format", "perfetto", "-i", "other.json", code=2).err
    assert "is that of another instance" in said
