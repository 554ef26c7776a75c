"""Several replicas of a server: the instance, the schedule and the judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import modelkit as mk
from modelkit.errors import InputError
from modelkit.instance import Instance
from modelkit.judge import judge, request_times
from modelkit.schedule import Schedule, Segment

#: Two requests that fit a replica one at a time: they hold 5 tokens each at the end.
ROWS = [{"id": "a", "prompt_tokens": 2, "output_tokens": 3}, {"id": "b", "prompt_tokens": 3, "output_tokens": 2}]
MIXED = {"kind": "linear", "mixed": True, "prefill_base_ms": 4.0, "decode_base_ms": 10.0}


def served_by(replicas: int, **server: Any) -> Instance:
    """The two requests on this many replicas of 8 tokens each."""
    return Instance(server={"kv_capacity_tokens": 8, "replicas": replicas, **server}, requests=ROWS)


def plan(*segments: tuple[float, list[str], int, int]) -> Schedule:
    """Schedule from (at, requests, rounds, replica)."""
    return Schedule(tuple(Segment(at, admit, rounds=rounds, replica=r) for at, admit, rounds, r in segments))


BESIDE = plan((0, ["a"], 3, 1), (0, ["b"], 2, 2))


def broken(instance: Instance, schedule: Schedule) -> list[tuple[str, float]]:
    """Rules broken and by how much."""
    return [(v.rule, v.size) for v in judge(instance, schedule).violations]


def test_one_replica_changes_no_file() -> None:
    """Tests that an instance with one replica is the same document as one that says nothing of replicas."""
    assert served_by(1).sha256 == Instance(server={"kv_capacity_tokens": 8}, requests=ROWS).sha256
    assert "replicas" not in served_by(1).document()["server"]
    assert all("replica" not in segment for segment in plan((0, ["a"], 3, 1)).document()["segments"])
    assert served_by(2).sha256 != served_by(1).sha256
    assert mk.load(served_by(2).document()).server.replicas == 2
    assert "replicas 2" in repr(served_by(2))


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2", 10**6])
def test_a_wrong_number_of_replicas_is_a_fault(value: Any) -> None:
    """Tests that the reader names what is no number of replicas, and near misses of the key."""
    document = served_by(2).document()
    document["server"]["replicas"] = value
    with pytest.raises(InputError, match=r"server\.replicas"):
        mk.load(document)
    document["server"] = {"replica": 2}
    with pytest.raises(InputError, match="did you mean 'replicas'"):
        mk.load(document)


def test_replicas_run_beside_one_another() -> None:
    """Tests that each replica has memory and time of its own, and that metrics are of all together."""
    verdict = judge(served_by(2), BESIDE)
    assert verdict.valid
    assert {i.replica: (i.begin, i.end) for i in verdict.residencies} == {1: (0, 3), 2: (0, 2)}
    expected = {
        "total_latency_rounds": 5, "makespan_rounds": 3, "rounds": 5, "peak_kv_tokens": 5, "idle_rounds": 0,
        "throughput_tokens_per_round": 5 / 3,
    }  # fmt: skip
    assert {name: verdict.metrics[name] for name in expected} == pytest.approx(expected)
    assert verdict.metrics["kv_utilisation"] == pytest.approx((3 + 4 + 5 + 4 + 5) / (2 * 8 * 3))
    assert {i.replica for i in (*verdict.on(2).residencies, *verdict.on(2).intervals)} == {2}


def test_judging_replicas_is_judging_servers() -> None:
    """Tests that what a replica does counts as if it were a server with its requests alone, in real time too."""
    two = served_by(2, clock=MIXED, slots=1)
    late = plan((0, ["a"], 3, 2), (0.5, ["b"], 2, 2))
    metrics, alone = judge(two, late).metrics, judge(served_by(1, clock=MIXED, slots=1), plan((0, ["a"], 3, 1),
        (0.5, ["b"], 2, 1))).metrics  # fmt: skip
    shares = {name for name in metrics if name.endswith("utilisation")}
    assert {n: v for n, v in metrics.items() if n not in shares} == {n: v for n, v in alone.items() if n not in shares}
    assert all(metrics[name] == pytest.approx((alone[name] or 0) / 2) for name in shares)


def test_the_memory_of_a_replica_is_its_own() -> None:
    """Tests that tokens of one replica are no room on another, and that the message says which."""
    crowded = plan((0, ["a", "b"], 3, 2))
    verdict = judge(served_by(3), crowded)
    assert [(v.rule, v.size) for v in verdict.violations] == [("kv_capacity", 1)]
    assert verdict.violations[0].message.startswith("replica 2, from round 1")
    assert broken(served_by(3, kv_capacity_tokens=9), crowded) == []


def test_segments_are_in_order_on_each_replica() -> None:
    """Tests that segments of two replicas may be told in any order, those of one only in that of time."""
    instance = Instance(server={"replicas": 2}, requests=[*ROWS, {"id": "c", "prompt_tokens": 1, "output_tokens": 1}])
    assert broken(instance, plan((9, ["c"], 1, 1), (0, ["a", "b"], 3, 2))) == []
    assert broken(instance, plan((9, ["c"], 1, 2), (8, ["a", "b"], 3, 2))) == [("time_order", 2)]


def test_a_request_belongs_to_one_replica() -> None:
    """Tests that a request is admitted on one replica, on none it is missing, and that it comes back where it was."""
    assert broken(served_by(2), plan((0, ["a"], 3, 1), (0, ["a", "b"], 3, 2))) == [("two_replicas", 1)]
    assert broken(served_by(2), plan((0, ["a"], 3, 1))) == [("missing", 2)]
    evicted = (*BESIDE.segments[1:], Segment(0, ["a"], rounds=1), Segment(1, evict=["a"]))
    assert broken(served_by(2), Schedule((*evicted, Segment(1, ["a"], rounds=3)))) == []
    assert broken(served_by(2), Schedule((*evicted, Segment(2, ["a"], rounds=3, replica=2)))) == [
        ("unfinished", 3), ("two_replicas", 1),
    ]  # fmt: skip


def test_results_and_frames_say_the_replica(tmp_path: Path) -> None:
    """Tests that a written schedule keeps its replicas, and that the times of requests name them."""
    assert [s.get("replica") for s in BESIDE.document()["segments"]] == [None, 2]  # type: ignore[attr-defined]
    times = request_times(served_by(2), judge(served_by(2), BESIDE))
    assert times.columns()["replica"] == [1, 2]
    assert times.to_csv().splitlines()[0].endswith(",replica")
    alone = judge(served_by(1), plan((0, ["a"], 3, 1), (3, ["b"], 2, 1)))
    assert "replica" not in request_times(served_by(1), alone).columns()
    with pytest.raises(InputError, match="replica: found 1.5"):
        Segment(0, replica=1.5)  # type: ignore[arg-type]
    assert json.dumps(BESIDE.document())
