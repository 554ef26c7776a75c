"""Instances: invariants, columns, canonical hash, and what is said of impossible requests."""

from __future__ import annotations

import csv
from collections.abc import Callable

import numpy as np
import pytest
from pydantic import ValidationError

import modelkit as mk
from modelkit.errors import InfeasibleError, InputError, UsageError
from modelkit.instance import Instance, LinearClock, Request, Server


def test_columns_are_the_rows(two: Instance) -> None:
    """Tests that the array views hold the requests in order and cannot be written to."""
    arrays = two.arrays
    assert arrays.prompt.tolist() == [2, 2]
    assert arrays.output.tolist() == [2, 4]
    assert arrays.peak.tolist() == [4, 6]
    with pytest.raises(ValueError, match="read-only"):
        arrays.prompt[0] = 1


def test_prediction_defaults_to_the_output() -> None:
    """Tests the three ways to state a prediction."""
    base = {"id": "a", "prompt_tokens": 1, "output_tokens": 7}
    assert Request(**base).prediction == (7, 7)
    assert Request(**base, predicted_output_tokens=9).prediction == (9, 9)
    assert Request(**base, predicted_output_tokens=(3, 9)).prediction == (3, 9)


def test_frozen(two: Instance) -> None:
    """Tests that nothing about an instance can be changed."""
    with pytest.raises(ValidationError):
        two.requests[0].output_tokens = 5
    with pytest.raises(ValidationError):
        two.server.slots = 5


def test_hash_depends_on_content_only(two: Instance) -> None:
    """Tests that defaults written out do not change the hash and that every field does."""
    requests = tuple(r.model_copy(update={"predicted_output_tokens": r.output_tokens}) for r in two.requests)
    assert two.replace(requests=requests).sha256 == two.sha256
    changes = {
        "name": "other",
        "description": "other",
        "source": "other",
        "server": Server(kv_capacity_tokens=7),
        "requests": two.requests[::-1],
        "extra": {"batch_cap": 3},
    }
    hashes = {two.sha256, *(two.replace(**{key: value}).sha256 for key, value in changes.items())}
    assert len(hashes) == 1 + len(changes)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"requests": (("a", 0), ("a", 0))}, "$.requests[1].id"),
        ({"requests": (("a", 0), ("b", 1.5))}, "$.requests[1].arrival"),
    ],
)
def test_requests_must_fit_together(change: dict[str, tuple[tuple[str, float], ...]], path: str) -> None:
    """Tests faults that show only when requests are seen together or beside the clock."""
    requests = tuple(
        Request(id=name, arrival=arrival, prompt_tokens=1, output_tokens=1) for name, arrival in change["requests"]
    )
    with pytest.raises(InputError) as caught:
        Instance(server=Server(), requests=requests)
    assert [fault.path for fault in caught.value.faults] == [path]


def test_prefill_laws() -> None:
    """Tests the linear law, the cheapest level that holds the tokens, and that two laws are refused."""
    linear = LinearClock(kind="linear", prefill_base_ms=10, prefill_per_token_ms=0.5)
    assert linear.prefill_ms(20) == 20
    levels = LinearClock(kind="linear", prefill_levels=((10, 5), (100, 4), (1000, 50)))
    assert [levels.prefill_ms(n) for n in (1, 100, 101, 5000)] == [4, 4, 50, 50]
    both = LinearClock(kind="linear", prefill_base_ms=1, prefill_levels=((10, 5),))
    with pytest.raises(InputError, match="one prefill law"):
        Instance(server=Server(clock=both), requests=(Request(id="a", prompt_tokens=1, output_tokens=1),))


def test_says_who_can_never_fit(two: Instance) -> None:
    """Tests that the requests at fault are named with their need."""
    two.check_fits()
    small = Instance(server=Server(kv_capacity_tokens=5), requests=two.requests)
    with pytest.raises(InfeasibleError, match=r"holds 5 tokens, but\n  request 'long' needs 2 \+ 4 = 6 tokens$"):
        small.check_fits()


def test_numbers_of_numpy() -> None:
    """Tests that constructors, families and parsed JSON take NumPy's numbers and arrays, in columns too."""
    columns = {"arrival": np.arange(3), "prompt_tokens": np.array([2, 2, 3]), "output_tokens": np.array([2, 3, 4])}
    whole = Instance(name="three", server=Server(kv_capacity_tokens=np.int64(9)), requests=columns)
    document = {"schema": "modelkit/instance/1", "name": "three", "server": {"kv_capacity_tokens": np.int32(9)}}
    assert mk.load({**document, "requests": columns}) == whole
    rows = [Request(id=f"r{i + 1}", arrival=np.float64(i), prompt_tokens=np.int64(s), output_tokens=np.uint8(o))
            for i, (s, o) in enumerate([(2, 2), (2, 3), (3, 4)])]  # fmt: skip
    assert whole.replace(requests=rows) == whole
    assert mk.generate("chat", requests=np.int64(5), seed=np.int32(1)) == mk.generate("chat", requests=5, seed=1)
    with pytest.raises(InputError, match="lists of one length"):
        Instance(server=Server(), requests={"prompt_tokens": [1, 2], "output_tokens": [1]})


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        (lambda: Request(id="a", prompt_tokens=0, output_tokens=1), r"\$.prompt_tokens: found 0"),
        (lambda: Request(id="a", prompt_tokens=np.float64(1.5), output_tokens=1), r"\$.prompt_tokens: found 1.5"),
        (lambda: Server(kv_capacity=9), "unknown key; did you mean 'kv_capacity_tokens'"),
        (lambda: LinearClock(kind="linear", decode_base_ms=-1.0), r"\$.decode_base_ms: found -1.0"),
        (lambda: mk.generate("chat", requests="x"), "option requests: found 'x'; allowed: a whole number"),
        (lambda: mk.generate("chat", request=3), "no option 'request'; did you mean 'requests'"),
        (lambda: mk.import_trace("azure", "x.csv", round=3), "no option 'round'"),
        (lambda: mk.load(3), "found 3 where the path of a file is expected"),
        (lambda: mk.load_result({}), "where the path of a file is expected"),
    ],
)
def test_refused_input_is_an_error_of_modelkit(refused: Callable[[], object], words: str) -> None:
    """Tests that what a caller gets wrong is a ModelkitError that says what and where."""
    with pytest.raises(mk.ModelkitError, match=words):
        refused()


def test_short_representations(two: Instance) -> None:
    """Tests that instances, schedules and results fit a line."""
    result = mk.simulate(two, "svf")
    for value in (two, result, result.schedule, mk.generate("chat", requests=1000)):
        assert len(repr(value)) < 120
        assert str(value) == repr(value)
    assert repr(result) == f"<Result svf on {two.name!r}: feasible, total_latency_rounds {result.objective.value:g}>"


def test_times_of_requests(two: Instance) -> None:
    """Tests the times of each request against the metrics, and the table of them."""
    result = mk.simulate(two, "svf")
    times = result.requests(two)
    assert [row.id for row in times] == [r.id for r in two.requests]
    assert sum(row.latency or 0 for row in times) == result.metrics["total_latency_rounds"]
    table = list(csv.DictReader(result.requests_csv(two).splitlines()))
    assert [float(row["latency_rounds"]) for row in table] == [row.latency for row in times]
    with pytest.raises(UsageError, match="is about"):
        result.requests(two.replace(name="another"))
    chat = mk.generate("chat", requests=30, server="llama2-70b-2xa100")
    run = mk.simulate(chat, "svf")
    first = [row.time_to_first_token or 0 for row in run.requests(chat)]
    assert sum(first) / 30 == pytest.approx(run.metrics["mean_first_token_ms"])
