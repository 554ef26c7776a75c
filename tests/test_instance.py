"""Instances: invariants, columns, canonical hash, and what is said of impossible requests."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from modelkit.errors import InfeasibleError, InputError
from modelkit.instance import Instance, LinearClock, Request, Server
from modelkit.io import load


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
    with pytest.raises(InputError, match="one prefill cost model"):
        Instance(server=Server(clock=both), requests=(Request(id="a", prompt_tokens=1, output_tokens=1),))


def test_says_who_can_never_fit(two: Instance) -> None:
    """Tests that the requests at fault are named with their need."""
    two.check_fits()
    small = Instance(server=Server(kv_capacity_tokens=5), requests=two.requests)
    with pytest.raises(InfeasibleError, match=r"holds 5 tokens, but\n  request 'long' needs 2 \+ 4 = 6 tokens$"):
        small.check_fits()


def test_requests_carry_attributes_and_data_of_ones_own(two: Instance) -> None:
    """Tests class, session, priority and ``extra`` in rows, columns and frames; without them nothing changes."""
    rows: list[dict[str, Any]] = [
        {"prompt_tokens": 1, "output_tokens": 2, "class": "chat", "priority": 2.0, "extra": {"due": 5}},
        {"prompt_tokens": 1, "output_tokens": 1, "session": "s"},
    ]
    document = {"schema": "modelkit/instance/1", "server": {}, "requests": rows}
    instance = load(document)
    assert [(r.request_class, r.session, r.priority, r.extra) for r in instance.requests] == [
        ("chat", None, 2, {"due": 5}), (None, "s", None, None),
    ]  # fmt: skip
    columns = instance.document()["requests"]
    assert (columns["class"], columns["priority"]) == (["chat", None], [2, None])
    assert load(instance.document()) == instance
    assert not {"class", "session", "priority", "extra"} & two.document()["requests"].keys()
    made = Instance.from_arrays([1, 1], [2, 1], request_class=["chat", "code"], priority=[1, 2], server={})
    assert [r.request_class for r in made.requests] == ["chat", "code"]
    rows[0] |= {"class": 3, "priotity": 1, "colour": "red"}
    with pytest.raises(InputError) as wrong:
        load(document)
    assert {fault.path: fault.message for fault in wrong.value.faults} == {
        "$.requests[0].class": "found 3; allowed: a valid string",
        "$.requests[0].priotity": "unknown key; did you mean 'priority'?",
        "$.requests[0].colour": "unknown key; data of your own belong in extra",
    }


def test_pauses_are_said_of_the_server() -> None:
    """A server says where paused requests' tokens are kept; one that does not is the same document as ever."""
    plain = {"prompt_tokens": [2, 3], "output_tokens": [3, 2]}
    law = {"kind": "linear", "decode_base_ms": 5.0}
    without = Instance(server={"clock": law}, requests=plain)
    assert "pause" not in without.document()["server"]
    assert not any(key.startswith("swap") for key in without.document()["server"]["clock"])
    swapped = Instance(
        server={"clock": {**law, "swap_in_per_token_ms": 0.5}, "pause": {"keep": "swapped"}}, requests=plain
    )
    assert swapped.document()["server"]["pause"] == {"keep": "swapped"}
    assert load(swapped.document()) == swapped
    assert (
        len({without.sha256, swapped.sha256, without.replace(server={"clock": law, "pause": {"keep": "held"}}).sha256})
        == 3
    )
    together = {"pause": {"keep": "held"}, "prefix_cache": {}}
    with pytest.raises(InputError, match=r"server: found .*; pause beside a prefix_cache is not supported; leave one"):
        Instance(server=together, requests=plain)
