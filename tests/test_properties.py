"""Properties of all instances, schedules and results: round trips, hashes, relabelling, replaying."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelkit.clock import MAX_TOKENS
from modelkit.instance import MAX_TIME, Instance, LinearClock, Request, Server, UnitClock
from modelkit.io import load, load_result, parse_instance, save_instance, save_result
from modelkit.judge import judge
from modelkit.policies import policies
from modelkit.result import InstanceStamp, ModelSize, Objective, Producer, Result, Seconds, Start, status_of
from modelkit.schedule import MAX_ROUNDS, Admission, Schedule, Segment
from modelkit.simulation.simulate import clairvoyant_schedule, policy_schedule
from modelkit.verify.exact_bounds import certify

#: Few examples, the same in every run.
some = settings(deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

# --- strategies --------------------------------------------------------------------------------

tokens = st.integers(1, 20) | st.integers(1, MAX_TOKENS)
milliseconds = st.floats(0, 100) | st.integers(0, 100).map(float)
predictions = st.none() | tokens | st.tuples(tokens, tokens).map(lambda ends: tuple(sorted(ends)))


@st.composite
def clocks(draw: st.DrawFn) -> UnitClock | LinearClock:
    """Any clock."""
    if draw(st.booleans()):
        return UnitClock()
    law: dict[str, Any] = {
        key: draw(milliseconds)
        for key in ("base_ms", "decode_base_ms", "decode_per_request_ms", "decode_per_kv_token_ms")
    }
    if draw(st.booleans()):
        law["prefill_levels"] = draw(st.lists(st.tuples(tokens, milliseconds), min_size=1, max_size=3).map(tuple))
    else:
        law |= {key: draw(milliseconds) for key in ("prefill_base_ms", "prefill_per_token_ms")}
    return LinearClock(kind="linear", mixed=draw(st.booleans()), **law)


@st.composite
def instances(draw: st.DrawFn) -> Instance:
    """Any instance of up to 6 requests, however odd its names and numbers."""
    clock = draw(clocks())
    whole = isinstance(clock, UnitClock)
    arrivals = st.integers(0, 20) if whole else st.integers(0, 20) | st.floats(0, MAX_TIME)
    ids = draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6, unique=True))
    return Instance(
        name=draw(st.text(max_size=10)),
        description=draw(st.text(max_size=10)),
        source=draw(st.text(max_size=10)),
        server=Server(
            kv_capacity_tokens=draw(st.none() | st.integers(1, 10**12)),
            slots=draw(st.none() | st.integers(1, 10**6)),
            clock=clock,
        ),
        requests=tuple(
            Request(
                id=i,
                arrival=draw(arrivals),
                prompt_tokens=draw(tokens),
                output_tokens=draw(tokens),
                predicted_output_tokens=draw(predictions),
            )
            for i in ids
        ),
        extra=draw(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=2)),
    )


@st.composite
def schedules(draw: st.DrawFn, instance: Instance) -> Schedule:
    """Any schedule for an instance, good or bad."""
    names = st.sampled_from([r.id for r in instance.requests]) | st.text(max_size=3)
    times = st.integers(0, 20) | st.floats(0, MAX_ROUNDS)
    slots = st.none() | st.integers(-1, 3)
    return Schedule(
        tuple(
            Segment(
                draw(times),
                tuple(Admission(i, draw(slots)) for i in draw(st.lists(names, max_size=4))),
                tuple(draw(st.lists(names, max_size=2))),
                draw(st.integers(0, 20) | st.integers(0, MAX_ROUNDS)),
            )
            for _ in range(draw(st.integers(0, 5)))
        )
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[Instance, Schedule]:
    """An instance and a schedule for it."""
    instance = draw(instances())
    return instance, draw(schedules(instance))


@st.composite
def small_instances(draw: st.DrawFn) -> Instance:
    """KV-cache problems of up to 8 requests that a policy can serve, with predictions right or wrong."""
    capacity = draw(st.integers(6, 30))
    requests = []
    for i in range(draw(st.integers(1, 8))):
        s = draw(st.integers(1, 5))
        o = draw(st.integers(1, capacity - s))
        prediction = draw(st.none() | st.integers(1, 30))
        arrival = draw(st.integers(0, 10))
        requests.append(
            Request(id=f"q{i}", arrival=arrival, prompt_tokens=s, output_tokens=o, predicted_output_tokens=prediction)
        )
    return Instance(server=Server(kv_capacity_tokens=capacity), requests=tuple(requests))


# --- instances as JSON -------------------------------------------------------------------------


def as_rows(document: dict[str, Any]) -> dict[str, Any]:
    """The same document with requests as rows."""
    columns = document["requests"]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {**document, "requests": rows}


def without_defaults(document: dict[str, Any]) -> dict[str, Any]:
    """The same document as rows, and nothing said that is so by default."""
    lean = {key: value for key, value in as_rows(document).items() if value != ""}
    for i, row in enumerate(lean["requests"], start=1):
        for key, default in (("id", f"r{i}"), ("arrival", 0), ("predicted_output_tokens", row["output_tokens"])):
            if row.get(key) == default:
                del row[key]
    clock = {key: value for key, value in lean["server"]["clock"].items() if value not in (0, False)}
    server = {**lean["server"], "clock": clock}
    if clock == {"kind": "unit"}:
        del server["clock"]
    return {**lean, "server": server}


def as_floats(value: Any, key: str = "") -> Any:
    """The same document with times as 3.0 instead of 3, and all objects in reverse order."""
    if isinstance(value, dict):
        return {k: v if k == "extra" else as_floats(v, k) for k, v in reversed(value.items())}
    if isinstance(value, list) and key != "prefill_levels":
        return [as_floats(item, key) for item in value]
    return float(value) if isinstance(value, int) and (key == "arrival" or key.endswith("_ms")) else value


@some
@given(instances())
def test_instance_round_trip(tmp_path_factory: pytest.TempPathFactory, instance: Instance) -> None:
    """An instance read back from a file is the same, plain or compressed."""
    folder = tmp_path_factory.mktemp("instances")
    for name in ("plain.json", "small.json.gz"):
        save_instance(instance, folder / name)
        found = load(folder / name)
        assert found.document() == instance.document()
        assert found.sha256 == instance.sha256
        assert [r.prediction for r in found.requests] == [r.prediction for r in instance.requests]
        assert found.server == instance.server
    assert gzip.decompress((folder / name).read_bytes()) == (folder / "plain.json").read_bytes()


@some
@given(instances())
def test_sha256_is_of_the_content(instance: Instance) -> None:
    """Rows or columns, order of keys, whitespace, 3 or 3.0, and what is so by default do not change the hash."""
    document = json.loads(json.dumps(instance.document()))
    for variant in (document, as_rows(document), without_defaults(document), as_floats(document)):
        text = json.dumps(variant, indent=3, ensure_ascii=True)
        assert parse_instance(json.loads(text), "variant").sha256 == instance.sha256


@some
@given(instances(), st.data())
def test_sha256_is_of_all_content(instance: Instance, data: st.DataObject) -> None:
    """A change of any field of the server or of a request changes the hash."""
    capacity = instance.server.kv_capacity_tokens
    other_server = instance.server.model_copy(update={"kv_capacity_tokens": 1 + (capacity or 0) % 10**12})
    position = data.draw(st.integers(0, len(instance.requests) - 1))
    request = instance.requests[position]
    field = data.draw(st.sampled_from(["id", "arrival", "prompt_tokens", "output_tokens", "predicted_output_tokens"]))
    value = {"id": request.id + "'", "predicted_output_tokens": request.prediction[1] + 1}.get(field)
    changed = request.model_copy(update={field: getattr(request, field) + 1 if value is None else value})
    requests = tuple(changed if r is request else r for r in instance.requests)
    hashes = {instance.sha256, instance.replace(requests=requests).sha256, instance.replace(extra={"a": 1.5}).sha256}
    if capacity != 1:
        hashes.add(instance.replace(server=other_server).sha256)
    assert len(hashes) == 3 + (capacity != 1)


# --- replays -----------------------------------------------------------------------------------


@some
@given(cases())
def test_replay_is_a_function(case: tuple[Instance, Schedule]) -> None:
    """Replaying a schedule again, of the same or of an equal instance, gives the same verdict."""
    instance, schedule = case
    again = parse_instance(json.loads(json.dumps(instance.document())), "again")
    assert judge(instance, schedule) == judge(instance, schedule) == judge(again, schedule)


@some
@given(cases(), st.randoms(use_true_random=False))
def test_relabelling_changes_no_metric(case: tuple[Instance, Schedule], rng: random.Random) -> None:
    """Requests in another order and under other names break the same rules and have the same metrics."""
    instance, schedule = case
    names = {r.id: f"new {r.id}" for r in instance.requests}
    requests = [r.model_copy(update={"id": names[r.id]}) for r in instance.requests]
    rng.shuffle(requests)
    relabelled = Schedule(
        tuple(
            Segment(
                s.at,
                tuple(Admission(names.get(i, i), slot) for i, slot in s.admit),
                tuple(names.get(i, i) for i in s.evict),
                s.rounds,
            )
            for s in schedule.segments
        )
    )
    before = judge(instance, schedule)
    after = judge(instance.replace(requests=tuple(requests)), relabelled)
    assert after.metrics == before.metrics
    assert sorted((v.rule, v.size, v.at, v.request or "") for v in after.violations) == sorted(
        (v.rule, v.size, v.at, names.get(v.request or "", v.request or "")) for v in before.violations
    )


@some
@given(
    small_instances(),
    st.sampled_from(sorted(name for name, entry in policies().items() if entry.clock == "unit" and not entry.pauses)),
    st.randoms(use_true_random=False),
)
def test_cutting_segments_changes_no_metric(instance: Instance, policy: str, rng: random.Random) -> None:
    """A segment says the same as two in a row that share its rounds."""
    schedule = policy_schedule(instance, policy)
    pieces = []
    for s in schedule.segments:
        cut = rng.randint(0, s.rounds)
        pieces += [Segment(s.at, s.admit, s.evict, cut), Segment(s.at + cut, rounds=s.rounds - cut)]
    whole, cut_up = judge(instance, schedule), judge(instance, Schedule(tuple(pieces)))
    assert whole.valid
    assert cut_up.valid
    assert cut_up.metrics == whole.metrics


# --- results as JSON ---------------------------------------------------------------------------


@some
@given(cases(), st.lists(st.tuples(st.floats(0, 1e6), st.none() | st.floats(0, 1e9), st.none() | st.floats(0, 1e9))))
def test_result_round_trip(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[Instance, Schedule], progress: list[Any]
) -> None:
    """A result read back from a file is the same, with a schedule however absurd."""
    instance, schedule = case
    verdict = judge(instance, schedule)
    name, value = next(iter(verdict.metrics.items()))
    result = Result(
        instance=InstanceStamp.of(instance),
        producer=Producer(kind="formulation", name=instance.name, solver="highs", options={"gap": 0.0}, seed=1),
        status=status_of(verdict, value, None),
        stop="time_limit",
        message=instance.description,
        objective=Objective(name=name, value=value, bound=0.5, bound_by="solver"),
        metrics=verdict.metrics,
        violations=[violation.document() for violation in verdict.violations],
        schedule=schedule,
        progress=progress,
        start=Start(policy="mc-sf", accepted=True),
        model=ModelSize(variables=1, integers=1, constraints=2, nonzeros=3),
        seconds=Seconds(build=0.1, total=0.3),
    )
    read_back(result, tmp_path_factory.mktemp("results"))


@some
@given(small_instances(), st.lists(st.floats(0, 10), min_size=1, max_size=20))
def test_certified_result_round_trip(
    tmp_path_factory: pytest.TempPathFactory, instance: Instance, prices: list[float]
) -> None:
    """A certificate read back from a file is the same, and its bound is below the schedule's latency."""
    schedule = clairvoyant_schedule(instance, "mc-sf")
    verdict = judge(instance, schedule)
    horizon = int(instance.arrays.arrival.max() + instance.arrays.output.sum())
    certificate = certify(instance, np.array([0.0, *prices][: horizon + 1]))
    value = verdict.metrics["total_latency_rounds"]
    result = Result(
        instance=InstanceStamp.of(instance),
        producer=Producer(kind="policy", name="mc-sf"),
        status=status_of(verdict, value, float(certificate.value)),
        stop="finished",
        objective=Objective(
            name="total_latency_rounds", value=value, bound=float(certificate.value), bound_by="certificate"
        ),
        metrics=verdict.metrics,
        schedule=schedule,
        certificate=certificate,
    )
    assert result.objective.gap is not None
    assert result.objective.gap >= 0
    assert read_back(result, tmp_path_factory.mktemp("results")).certificate == certificate


def read_back(result: Result, folder: Path) -> Result:
    """The result from a plain and a compressed file, the same as before."""
    for name in ("plain.result.json", "small.result.json.gz"):
        save_result(result, folder / name)
        found = load_result(folder / name)
        assert found == result
        assert found.document() == result.document()
    return found
