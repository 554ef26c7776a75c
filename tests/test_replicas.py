"""Several replicas of a server: the instance, the schedule and the judge."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import modelkit as mk
from modelkit.errors import InputError, UsageError
from modelkit.instance import Instance, Prefix, Server
from modelkit.judge import judge, request_times
from modelkit.judge.load import load
from modelkit.policies import policies
from modelkit.problems.replicas.servers import alone
from modelkit.reporting.charts import timeline
from modelkit.schedule import Schedule, Segment
from modelkit.simulation.simulate import fitting_policies, policy_schedule

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


# --- policies ------------------------------------------------------------------------------------

CLOCKS: dict[str, dict[str, Any]] = {
    "unit": {"kv_capacity_tokens": 40},
    "mixed": {"kv_capacity_tokens": 40, "clock": {**MIXED, "prefill_per_token_ms": 0.3, "decode_per_kv_token_ms": 0.1}},
    "exclusive": {"kv_capacity_tokens": 40, "slots": 4, "clock": {**MIXED, "mixed": False}},
    "stages": {"slots": 2, "clock": {**MIXED, "mixed": False}},
}


def drawn(clock: str, replicas: int, seed: int = 0, n: int = 14) -> Instance:
    """Requests that arrive in bursts, with predictions that are often wrong."""
    rng = random.Random(seed)
    rows = [
        {
            "id": f"r{i}", "arrival": rng.randrange(6) * (2 if clock == "unit" else 0.02),
            "prompt_tokens": rng.randint(1, 9), "output_tokens": rng.randint(1, 12),
            "predicted_output_tokens": rng.randint(1, 12),
        }
        for i in range(n)
    ]  # fmt: skip
    return Instance(server={"replicas": replicas, **CLOCKS[clock]}, requests=rows)


@pytest.mark.parametrize("clock", CLOCKS)
def test_every_policy_runs_on_replicas(clock: str) -> None:
    """Tests that each policy makes a valid schedule on three replicas with each rule, and that all replicas serve."""
    instance = drawn(clock, 3)
    for name in fitting_policies(instance):
        option = next(o for o in policies()[name].options if o.name == "dispatch")
        for rule in option.choices or ():
            verdict = judge(instance, policy_schedule(instance, f"{name}:dispatch={rule}"))
            assert [v.message for v in verdict.violations] == [], (name, rule)
            assert {i.replica for i in verdict.residencies} == {1, 2, 3}, (name, rule)
        assert policy_schedule(instance, name) == policy_schedule(instance, f"{name}:dispatch={option.default}")


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_replica_alone_does_what_a_server_does(clock: str) -> None:
    """Tests that what each replica does is what the policy does on a server with its requests alone."""
    instance = drawn(clock, 2, seed=3)
    for name in ("fcfs", "hybrid") if clock == "stages" else ("vllm-like", "mc-sf", "svf:gate=3"):
        schedule = policy_schedule(instance, f"{name}{',' if ':' in name else ':'}dispatch=round-robin")
        for replica in (1, 2):
            mine = {a.request for s in schedule.segments if s.replica == replica for a in s.admit}
            requests = [i for i, r in enumerate(instance.requests) if r.id in mine]
            server = alone(instance, requests)
            times = request_times(server, judge(server, policy_schedule(server, name)))
            here = {row.id: row for row in request_times(instance, judge(instance, schedule))}
            for row in times:
                assert (here[row.id].start, here[row.id].finish) == pytest.approx((row.start, row.finish)), name


def sent_to(instance: Instance, rule: str) -> list[int]:
    """Replica of each request."""
    verdict = judge(instance, policy_schedule(instance, f"vllm-like:dispatch={rule}"))
    assert verdict.valid
    return [row.replica or 0 for row in request_times(instance, verdict)]


def test_rules_send_requests_where_they_say() -> None:
    """Tests each rule where it differs from the others."""

    def rows(*requests: tuple[float, int, int]) -> Instance:
        columns = dict(zip(("arrival", "prompt_tokens", "output_tokens"), zip(*requests, strict=True), strict=True))
        return Instance.from_arrays(**columns, server={"kv_capacity_tokens": 100, "replicas": 2})

    # the long first request is still there when the third comes, the short second is not
    done = rows((0, 1, 50), (0, 1, 2), (5, 1, 1), (6, 1, 1))
    assert sent_to(done, "round-robin") == [1, 2, 1, 2]
    assert sent_to(done, "join-shortest-queue") == [1, 2, 2, 2]
    # each replica has a request when the third comes; the one on replica 1 holds more for longer
    sold = rows((0, 1, 50), (0, 30, 6), (2, 4, 4))
    assert sent_to(sold, "join-shortest-queue") == [1, 2, 1]
    assert sent_to(sold, "bid-price") == [1, 2, 2]
    # at once: the third finds one request on each, of 1 and of 30 prompt tokens, and the fourth (4 + 1) x 2 and 31 x 1
    unread = rows((0, 1, 50), (0, 30, 6), (0, 4, 4), (0, 2, 1))
    assert sent_to(unread, "lmetric") == [1, 2, 1, 1]


def test_a_rule_knows_no_completion_that_is_to_come() -> None:
    """Tests that a request which ends with the iteration in progress counts as there."""
    clock = {"kind": "linear", "mixed": True, "decode_base_ms": 1000.0, "prefill_base_ms": 1000.0}
    instance = Instance.from_arrays(
        [1, 1, 1], [2, 9, 1], [0.0, 0.0, 1.5], server={"replicas": 2, "kv_capacity_tokens": 99, "clock": clock}
    )
    # the first ends at 2.0 s; at 1.5 s both replicas have one, and the tie goes to the first
    assert sent_to(instance, "join-shortest-queue") == [1, 2, 1]
    tie = Instance.from_arrays(
        [1, 1, 1], [9, 2, 1], [0.0, 0.0, 1.5], server={"replicas": 2, "kv_capacity_tokens": 99, "clock": clock}
    )
    assert sent_to(tie, "join-shortest-queue") == [1, 2, 1]


def test_dispatch_is_refused_where_it_cannot_be() -> None:
    """Tests that stages, whose replicas run on their own, take no rule that looks at others, and near misses."""
    with pytest.raises(UsageError, match="allowed: round-robin"):
        mk.simulate(drawn("stages", 2), "fcfs:dispatch=lmetric")
    with pytest.raises(UsageError, match="allowed: join-shortest-queue, round-robin or lmetric|allowed: join"):
        mk.simulate(drawn("unit", 2), "mc-sf:dispatch=shortest")
    assert mk.simulate(drawn("unit", 1), "mc-sf:dispatch=lmetric").metrics == mk.simulate(drawn("unit", 1)).metrics


def test_replicas_share_the_load() -> None:
    """Tests that the load of R replicas is an R-th of that of one."""
    assert load(drawn("mixed", 4)) == pytest.approx((load(drawn("mixed", 1)) or 0) / 4)


def test_replicas_are_set_where_instances_are_made(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Tests --replicas of generate and import, its faults, and what commands say."""
    made = cli("generate", "chat", "--requests", "8", "--replicas", "3", "-o", str(tmp_path / "a.json"))
    assert "replicas 3" in made.out
    assert mk.load(tmp_path / "a.json").server.replicas == 3
    assert mk.generate("chat", requests=8, replicas=3) == mk.load(tmp_path / "a.json")
    assert mk.generate("chat", requests=8, replicas=1) == mk.generate("chat", requests=8)
    with pytest.raises(InputError, match="replicas"):
        mk.generate("chat", requests=8, replicas=0)
    (tmp_path / "t.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.01,5,4\n")
    cli("import", "azure", str(tmp_path / "t.csv"), "--replicas", "2", "-o", str(tmp_path / "b.json"))
    assert mk.load(tmp_path / "b.json").server.replicas == 2


def test_pages_show_each_replica(tmp_path: Path) -> None:
    """Tests that a report draws the cache of each replica, and its slots where they are rows."""
    for clock, panels in (("unit", 2), ("stages", 2)):
        instance = drawn(clock, 2, n=9)
        result = mk.simulate(instance, fitting_policies(instance)[0])
        mk.report([result], tmp_path / "page.html", instances=[instance])
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert all(f"replica {r}" in page for r in range(1, panels + 1)), clock
        assert "Replicas" in page
        scenes = timeline.Scene("x", instance, judge(instance, result.schedule)).by_replica()
        assert sum(len(scene.requests) for scene in scenes) == 9
        assert sum(len(scene.waits()) for scene in scenes) == len(
            timeline.Scene("x", instance, judge(instance, result.schedule)).waits()
        )


@pytest.mark.slow
def test_a_comparison_takes_replicas(tmp_path: Path) -> None:
    """Tests that rules of dispatch are compared beside the bound, and that no run is above it."""
    instance = drawn("unit", 2, n=10)
    rules = ["mc-sf", "mc-sf:dispatch=round-robin"]
    found = mk.compare(instance, tmp_path, policies=rules, formulations=[], time_limit=1.0, jobs=1)
    values = [r.objective.value for r in found.results if r.objective.value is not None]
    bounds = [r.objective.bound for r in found.results if r.objective.bound is not None]
    assert len(values) >= 3
    assert bounds
    assert max(bounds) <= min(values)


@pytest.mark.parametrize("kind", ["pause", "prefixes"])
def test_replicas_beside_pauses_and_prefixes(kind: str) -> None:
    """Tests that replicas pause requests and have prefix caches, each its own, and that bounds hold."""
    for clock in ("unit", "mixed"):
        plain = drawn(clock, 2, n=8)
        if kind == "pause":
            instance = plain.replace(server=Server(**{**dict(plain.server), "pause": {"keep": "held"}}))
        else:
            shared = [r.model_copy(update={"prefix": Prefix(group="gh"[i % 2], tokens=1)})
                      for i, r in enumerate(plain.requests)]  # fmt: skip
            server = Server(**{**dict(plain.server), "prefix_cache": {"keep": True}})
            instance = plain.replace(server=server, requests=tuple(shared))
        found = mk.bound(instance, time_limit=0.3)
        assert mk.verify_certificate(found.certificate, instance).holds
        metric = found.certificate.metric
        for name in fitting_policies(instance)[:4]:
            verdict = judge(instance, policy_schedule(instance, name, predictions="exact"))
            assert verdict.valid, name
            assert (verdict.metrics[metric] or 0) >= found.value


def test_lmetric_counts_what_a_cache_lacks() -> None:
    """Tests that a request goes where its prefix is, though as many requests are there."""
    rows = [
        {"id": "a", "prompt_tokens": 9, "output_tokens": 9, "prefix": {"group": "g", "tokens": 9}},
        {"id": "b", "prompt_tokens": 9, "output_tokens": 9, "prefix": {"group": "h", "tokens": 9}},
        {"id": "c", "arrival": 3, "prompt_tokens": 9, "output_tokens": 2, "prefix": {"group": "h", "tokens": 9}},
    ]
    instance = Instance(
        server={"replicas": 2, "kv_capacity_tokens": 99, "prefix_cache": {"keep": False}}, requests=rows
    )
    assert sent_to(instance, "join-shortest-queue") == [1, 2, 1]
    assert sent_to(instance, "lmetric") == [1, 2, 2]
