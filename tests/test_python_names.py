"""The public names in Python: numpy's values, refusals of our own, short representations, times of requests."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelkit as mk
from modelkit.judge import judge

SERVER = mk.Server(kv_capacity_tokens=np.int64(30))


@pytest.fixture
def columns() -> mk.Instance:
    """Two requests from arrays."""
    requests = {
        "arrival": np.array([0.0, 1.0]),
        "prompt_tokens": np.array([3, 4]),
        "output_tokens": np.array([5, 2], dtype=np.int32),
    }
    return mk.Instance(name="columns", server=SERVER, requests=requests)


def test_columns_and_numpy_values(columns: mk.Instance, tmp_path: Path) -> None:
    """Tests that arrays and numpy's numbers make the same instance as plain rows, and can be written."""
    rows = (
        mk.Request(id="r1", arrival=np.float32(0), prompt_tokens=np.int64(3), output_tokens=np.uint8(5)),
        mk.Request(id="r2", arrival=1.0, prompt_tokens=4, output_tokens=2),
    )
    assert columns == mk.Instance(name="columns", server=mk.Server(kv_capacity_tokens=30), requests=rows)
    assert columns == columns.replace(requests=[{"prompt_tokens": 3, "output_tokens": 5}, rows[1]])
    clock = mk.LinearClock(kind="linear", decode_base_ms=np.float64(3))
    assert mk.Server(clock=clock) == mk.Server(clock={"kind": "linear", "decode_base_ms": np.float64(3)})
    mk.save_instance(columns.replace(extra={"cap": np.int64(3)}), tmp_path / "a.json")
    assert mk.load(tmp_path / "a.json").extra == {"cap": 3}


def test_numpy_options_can_be_written(columns: mk.Instance, tmp_path: Path) -> None:
    """Tests that what numpy made of a seed or a limit does not stop a result from being written."""
    result = mk.simulate(columns, "mc-sf", seed=np.int64(3), max_batch=np.int64(2))
    mk.save_result(result, tmp_path / "r.json")
    assert mk.load_result(tmp_path / "r.json") == result
    assert mk.generate("chat", requests=np.int64(5), seed=np.int32(2)) == mk.generate("chat", requests=5, seed=2)


REFUSED: dict[str, Callable[[mk.Instance], Any]] = {
    "negative": lambda i: mk.Request(id="a", prompt_tokens=-1, output_tokens="x"),
    "by position": lambda i: mk.Request("a", 1, 2),  # type: ignore[misc]
    "missing": lambda i: mk.Request(id="a"),  # type: ignore[call-arg]
    "an array": lambda i: mk.Request(id="a", prompt_tokens=np.array([1, 2]), output_tokens=1),
    "not a number": lambda i: mk.LinearClock(kind="linear", decode_base_ms=float("nan")),
    "a clock's name": lambda i: mk.Server(clock="unit"),
    "no requests": lambda i: mk.Instance(server=SERVER, requests=()),
    "uneven columns": lambda i: mk.Instance(server=SERVER, requests={"prompt_tokens": [1], "output_tokens": [1, 2]}),
    "a number for columns": lambda i: mk.Instance(server=SERVER, requests={"prompt_tokens": 5}),
    "unknown field": lambda i: i.replace(nonsense=3),
    "segment": lambda i: mk.Segment("x"),  # type: ignore[arg-type]
    "admit": lambda i: mk.Segment(0, admit=5),  # type: ignore[arg-type]
    "evict": lambda i: mk.Segment(0, evict=[5]),  # type: ignore[arg-type]
    "segments": lambda i: mk.Schedule(["a"]),  # type: ignore[arg-type]
    "load": lambda i: mk.load(5),  # type: ignore[arg-type]
    "load_result": lambda i: mk.load_result(None),  # type: ignore[arg-type]
    "save_instance": lambda i: mk.save_instance(5, "x.json"),  # type: ignore[arg-type]
    "path": lambda i: mk.save_instance(i, 5),  # type: ignore[arg-type]
    "policy": lambda i: mk.simulate(i, 5),  # type: ignore[arg-type]
    "seed": lambda i: mk.simulate(i, seed="x"),  # type: ignore[arg-type]
    "negative seed": lambda i: mk.simulate(i, seed=-1),
    "argument": lambda i: mk.simulate(i, nonsense=1),  # type: ignore[call-arg]
    "max_batch": lambda i: mk.simulate(i, max_batch=1.5),  # type: ignore[arg-type]
    "slots": lambda i: mk.simulate(i, slots_over_time=5),  # type: ignore[arg-type]
    "solve": lambda i: mk.solve(5),  # type: ignore[arg-type]
    "formulation": lambda i: mk.solve(i, 5),  # type: ignore[arg-type]
    "time_limit": lambda i: mk.solve(i, time_limit="x"),  # type: ignore[arg-type]
    "bound": lambda i: mk.bound(i, gap="x"),  # type: ignore[arg-type]
    "verify": lambda i: mk.verify_result(5, i),  # type: ignore[arg-type]
    "compare": lambda i: mk.compare(5),  # type: ignore[arg-type]
    "generate": lambda i: mk.generate("chat", requests="5"),
    "option": lambda i: mk.generate("chat", rquests=5),
    "import": lambda i: mk.import_trace("azure", 5),  # type: ignore[arg-type]
    "server": lambda i: mk.find_server(5),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_our_own(case: str, columns: mk.Instance) -> None:
    """Tests that a refused value is a ModelkitError, whatever it is."""
    with pytest.raises(mk.ModelkitError):
        REFUSED[case](columns)


def test_refused_fields_are_value_errors_too() -> None:
    """Tests that programs which catch ValueError go on to do so, and that all faults are named."""
    with pytest.raises(ValueError, match="prompt_tokens: found -1") as caught:
        mk.Request(id="a", prompt_tokens=-1, output_tokens="x")
    assert isinstance(caught.value, mk.ModelkitError)
    assert "output_tokens: found 'x'" in str(caught.value)


def test_segments_from_plain_lists(two: mk.Instance) -> None:
    """Tests that a schedule may be written down with lists, ids and numpy's numbers."""
    plain = mk.Schedule([mk.Segment(0, admit=["short"], rounds=np.int64(2)), mk.Segment(np.int64(2), "long", rounds=4)])
    full = (
        mk.Segment(0, (mk.Admission("short"),), rounds=2),
        mk.Segment(2, (mk.Admission("long"),), rounds=4),
    )
    assert plain == mk.Schedule(full)


def test_representations_are_one_line(columns: mk.Instance) -> None:
    """Tests what notebooks show."""
    result = mk.simulate(columns, "mc-sf")
    assert repr(columns) == str(columns) == "Instance('columns', 2 requests, M 30, unit clock)"
    assert repr(result) == str(result) == "Result(mc-sf for 'columns', feasible, total_latency_rounds 7)"
    assert repr(result.schedule) == "Schedule(2 segments, 2 admitted)"
    assert repr(result.requests()) == "RequestTimes(2 requests, in rounds)"


def test_what_is_public_is_short() -> None:
    """Tests that what a notebook shows of large things is a line."""
    many = mk.Instance.from_arrays([2] * 99, [3] * 99, server={"kv_capacity_tokens": 12}, name="many")
    result = mk.simulate(many, "svf")
    schedule = result.schedule
    assert schedule is not None
    bound = mk.bound(mk.Instance.from_arrays([2], [3], server={"kv_capacity_tokens": 12}, name="one"))
    shown = [many, many.requests[0], many.arrays, result, schedule, judge(many, schedule), bound, bound.certificate]
    formulation = mk.Formulation(name="a", summary="b", claim="exact", reference="c", extends=("d", "e"))
    shown += [formulation, mk.Parameter(name="p", doc="q [1]", by="class"), mk.Known(many)]
    assert [repr(thing) for thing in shown if len(repr(thing)) > 180 or "object at" in repr(thing)] == []
    assert repr(many.requests[0]) == "Request(id='r1', prompt_tokens=2, output_tokens=3)"
    assert repr(formulation) == "Formulation('a', exact, extends d, e)"
    assert repr(judge(many, schedule)).startswith("Verdict(valid, total_latency_rounds ")


def test_times_of_requests(columns: mk.Instance, tmp_path: Path) -> None:
    """Tests rows, columns and CSV, from the run itself and from a file, against the judge's metrics."""
    result = mk.simulate(columns, "mc-sf")
    times = result.requests()
    assert [tuple(row)[:6] for row in times] == [("r1", 0, 0, 1, 5, 5), ("r2", 1, 1, 2, 3, 2)]
    assert sum(row.latency or 0 for row in times) == result.metrics["total_latency_rounds"]
    assert times.columns()["latency_rounds"] == [5, 2]
    assert times.to_csv(tmp_path / "t.csv").splitlines()[1] == "r1,0,0,1,5,5"
    assert (tmp_path / "t.csv").read_text() == times.to_csv()
    mk.save_result(result, tmp_path / "r.json")
    again = mk.load_result(tmp_path / "r.json")
    assert again.requests(columns) == times
    with pytest.raises(mk.ModelkitError, match="call requests"):
        again.requests()
    with pytest.raises(mk.ModelkitError, match="sha256"):
        again.requests(columns.replace(name="other"))


def test_times_in_milliseconds() -> None:
    """Tests that real time is in ms throughout, and that an evicted request's times are of its last residency."""
    instance = mk.generate("chat", requests=30, server="llama2-70b-2xa100", rate=5.0, seed=1)
    result = mk.simulate(instance, "vllm-like")
    times = result.requests()
    assert times.unit == "ms"
    assert sum(row.latency or 0 for row in times) == pytest.approx(result.metrics["total_latency_ms"])
    first = [(row.first_token or 0) - row.arrival for row in times]
    assert sum(first) / len(first) == pytest.approx(result.metrics["mean_first_token_ms"])
    assert times[3].arrival == pytest.approx(instance.requests[3].arrival * 1000)


def test_results_travel_without_their_instance(columns: mk.Instance) -> None:
    """Tests that copies are equal and that pickles do not carry the instance."""
    result = mk.simulate(columns, "mc-sf")
    assert copy.deepcopy(result) == result
    sent = pickle.loads(pickle.dumps(result))
    assert sent == result
    assert sent.instance.instance is None


def test_presets_by_name() -> None:
    """Tests that servers are found by name, and all of them listed."""
    assert mk.find_server("llama2-70b-2xa100") == mk.presets()["llama2-70b-2xa100"].server


LAW = mk.LinearClock(kind="linear", mixed=True, prefill_base_ms=10.0, prefill_per_token_ms=1.0, decode_base_ms=20.0)


@pytest.mark.parametrize("clock", [mk.UnitClock(), LAW], ids=["unit", "linear"])
def test_load_counts_the_limits_of_the_run(clock: Any) -> None:
    """Tests that narrower limits need more of the server, by the formula, and that results and verify say the same."""
    n, per_second = 200, 1000 if clock.kind == "linear" else 1
    instance = mk.Instance(
        server=mk.Server(kv_capacity_tokens=10_000, clock=clock),
        requests={"arrival": np.arange(n) * (1.0), "prompt_tokens": [20] * n, "output_tokens": [9] * n},
    )
    free = mk.simulate(instance, "svf")
    few = mk.simulate(instance, "svf", max_batch=2)
    small = mk.simulate(instance, "svf", max_batch_tokens=25)
    assert free.load is not None
    assert few.load is not None
    assert small.load is not None
    assert few.load > free.load
    assert small.load > free.load
    share = (n - 1) / n / (n - 1)
    wanted = n * 9 / 2 if per_second == 1 else (n * 20 + 10 * n / 2 + 20 * n * 8 / 2) / 1000
    assert few.load == pytest.approx(wanted * share)
    wanted = n * 28 / 25 if per_second == 1 else (n * 20 + 10 * n * 20 / 25 + 20 * n * 8 / 25) / 1000
    assert small.load == pytest.approx(max(wanted * share, free.load), rel=0.02)
    for result in (free, few, small):
        assert mk.verify_result(result, instance).holds
        last = max(row.finish or 0 for row in result.requests())
        assert last / per_second >= result.load * (n - 1) - 1e-6  # nobody serves faster than the load says


def test_load_is_said_before_a_run_with_its_limits(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that simulate warns of a load that only its limits make too much."""
    monkeypatch.chdir(tmp_path)
    n = 50
    mk.save_instance(
        mk.Instance(
            server=mk.Server(kv_capacity_tokens=1000),
            requests={"arrival": list(range(n)), "prompt_tokens": [2] * n, "output_tokens": [4] * n},
        ),
        "a.json",
    )
    assert "load:" in cli("simulate", "a.json", "-p", "svf").err
    assert "offered load >= 400% of capacity" in cli("simulate", "a.json", "-p", "svf", "--max-batch", "1").err
