"""JSON in and out: every fault at once with its place, hostile files, atomic writing."""

from __future__ import annotations

import gzip
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from modelkit.errors import InputError, UsageError
from modelkit.instance import Instance
from modelkit.io import instance_schema, load, load_result, parse_result, save_instance, save_result, write_text
from modelkit.runtime.resources import bundled
from modelkit.simulation.simulate import simulate

ROWS: dict[str, Any] = {
    "schema": "modelkit/instance/1",
    "name": "rows",
    "server": {"kv_capacity_tokens": 20},
    "requests": [
        {"prompt_tokens": 3, "output_tokens": 4},
        {"arrival": 2, "prompt_tokens": 1, "output_tokens": 2, "predicted_output_tokens": [1, 3]},
    ],
}
COLUMNS: dict[str, Any] = {
    **ROWS,
    "requests": {
        "arrival": [0, 2],
        "prompt_tokens": [3, 1],
        "output_tokens": [4, 2],
        "predicted_output_tokens": [4, [1, 3]],
    },
}


def changed(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy with other top-level values."""
    return {**json.loads(json.dumps(document)), **changes}


def faults_of(document: Any) -> dict[str, str]:
    """Message of each fault by its path."""
    with pytest.raises(InputError) as caught:
        load(document)
    return {fault.path: fault.message for fault in caught.value.faults}


def test_rows_and_columns_are_the_same_data() -> None:
    """Tests that both forms give one instance and one hash, with ids counted from r1."""
    assert load(ROWS) == load(COLUMNS)
    assert load(ROWS).sha256 == load(COLUMNS).sha256
    assert [r.id for r in load(ROWS).requests] == ["r1", "r2"]


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_files_round_trip(name: str, tmp_path: Path) -> None:
    """Tests that a written instance is read again, plain or gzipped, and that bytes are stable."""
    save_instance(load(ROWS), tmp_path / name)
    first = (tmp_path / name).read_bytes()
    assert load(tmp_path / name) == load(ROWS)
    save_instance(load(tmp_path / name), tmp_path / name)
    assert (tmp_path / name).read_bytes() == first


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that - reads standard input, gzipped or not."""
    for raw in (json.dumps(ROWS).encode(), gzip.compress(json.dumps(ROWS).encode())):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
        assert load("-") == load(ROWS)


def test_all_faults_at_once_in_rows() -> None:
    """Tests that one reading reports every fault with path, what was found and what is allowed."""
    bad = changed(
        ROWS,
        nam="x",
        server={"kv_capacity": 5, "slots": 0},
        requests=[
            {"id": "a", "prompt_tokens": 2.5, "output_tokens": "3"},
            {"id": "a", "arrival": 1.5, "prompt_token": 1, "output_tokens": 10**18},
            {"id": "b", "arrival": -1, "prompt_tokens": 1, "output_tokens": 1, "predicted_output_tokens": [4, 2]},
            7,
        ],
    )
    faults = faults_of(bad)
    assert set(faults) == {
        "$.nam",
        "$.server.kv_capacity",
        "$.server.slots",
        "$.requests[0].prompt_tokens",
        "$.requests[0].output_tokens",
        "$.requests[1].arrival",
        "$.requests[1].prompt_tokens",
        "$.requests[1].prompt_token",
        "$.requests[1].output_tokens",
        "$.requests[2].arrival",
        "$.requests[2].predicted_output_tokens",
        "$.requests[3]",
        "$.requests[1].id",
    }
    assert faults["$.nam"] == "unknown key; did you mean 'name'?"
    assert faults["$.server.kv_capacity"] == "unknown key; did you mean 'kv_capacity_tokens'?"
    assert faults["$.requests[0].prompt_tokens"] == "found 2.5; allowed: a valid integer"
    assert faults["$.requests[1].id"] == "'a' is the id of request 0 too; ids must be unique"


def test_all_faults_at_once_in_columns() -> None:
    """Tests that faults in a file of columns carry the paths of that file."""
    bad = changed(COLUMNS, requests={**COLUMNS["requests"], "prompt_tokens": [0, True], "arrival": [0.5, 2], "x": [1]})
    assert set(faults_of(bad)) == {
        "$.requests.x",
        "$.requests.prompt_tokens[0]",
        "$.requests.prompt_tokens[1]",
        "$.requests.arrival[0]",
    }
    uneven = changed(COLUMNS, requests={"prompt_tokens": [1, 2], "output_tokens": [1]})
    assert faults_of(uneven) == {"$.requests.output_tokens": "has 1 values where another column has 2"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ('{"schema": ', "not JSON"),
        ("[1, 2]", "a JSON object"),
        ('{"schema": "modelkit/instance/2"}', "modelkit/instance/1"),
        ('{"a": NaN}', "found NaN"),
        ('{"a": -Infinity}', "found -Infinity"),
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "thousands of digits"),
        (b"\xff\xfe{}", "not UTF-8"),
        (gzip.compress(b"{}", mtime=0)[:-6], "damaged or cut off"),
        (b"\x1f\x8bnonsense", "damaged or cut off"),
        (json.dumps({**ROWS, "requests": []}), "$.requests"),
        (json.dumps({**ROWS, "requests": {}}), "$.requests"),
        (json.dumps({**ROWS, "server": {"clock": {"kind": "sundial"}}}), "'unit', 'linear'"),
        (json.dumps({**ROWS, "requests": [{"id": "", "prompt_tokens": 1, "output_tokens": 1}]}), "$.requests[0].id"),
    ],
)
def test_hostile_files(text: str | bytes, words: str, tmp_path: Path) -> None:
    """Tests that a broken file gives one clear message that names the file."""
    path = tmp_path / "bad.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)


def test_many_faults_are_counted() -> None:
    """Tests that a file wrong throughout does not flood the screen."""
    bad = changed(COLUMNS, requests={"prompt_tokens": [0] * 500, "output_tokens": [1] * 500})
    with pytest.raises(InputError, match=r"500 faults\n(.*\n){20}  ... and 480 more"):
        load(bad)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    """Tests the messages for files that cannot be read or written."""
    with pytest.raises(UsageError, match="cannot read .*nothing.json: No such file"):
        load(tmp_path / "nothing.json")
    with pytest.raises(UsageError, match="cannot read .*: Is a directory"):
        load(tmp_path)
    with pytest.raises(UsageError, match="cannot write .*: No such file or directory"):
        write_text(tmp_path / "no" / "folder", "x")


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that readers see the old file or the new one, and that no rubbish is left."""
    target = tmp_path / "file"
    write_text(target, "old")

    def full(self: Path, other: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UsageError, match="No space left on device"):
        write_text(target, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert target.read_text() == "old"


def test_schema_is_published_and_right() -> None:
    """Tests that the published JSON Schema is the generated one, and accepts and refuses as the reader does."""
    published = json.loads((bundled("instances") / "instance.schema.json").read_text())
    assert published == instance_schema()
    validator = jsonschema.Draft202012Validator(published)
    validator.check_schema(published)
    for good in (ROWS, COLUMNS):
        assert validator.is_valid(good)
    for bad in (
        changed(ROWS, nam=1),
        changed(ROWS, requests=[]),
        changed(ROWS, requests=[{"prompt_tokens": 0, "output_tokens": 1}]),
        changed(COLUMNS, requests={"prompt_tokens": [1]}),
    ):
        assert not validator.is_valid(bad)


def test_results_round_trip(two: Instance, tmp_path: Path) -> None:
    """Tests that a result is read as it was written, with the contract's keys and a recomputed gap."""
    result = simulate(two, "mc-sf")
    save_result(result, tmp_path / "r.json")
    assert load_result(tmp_path / "r.json") == result
    document = json.loads((tmp_path / "r.json").read_text())
    assert {"schema", "instance", "producer", "status", "stop", "objective", "metrics", "violations", "schedule",
            "progress", "start", "model", "seconds", "log"} <= set(document)  # fmt: skip
    assert document["objective"] == {
        "name": "total_latency_rounds", "value": 8, "bound": None, "bound_by": None, "gap": None, "unit": None
    }  # fmt: skip
    assert document["start"] == {"from": None, "accepted": None}


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"status": "splendid"}, "$.status"),
        ({"schedule": {"segments": [{"at": -1}]}}, "$.schedule"),
        ({"schedule": {"segments": [{"at": 0, "rounds": 10**30}]}}, "$.schedule"),
        ({"schedule": {"segments": [{"at": 0, "admit": [["a", "b"]]}]}}, "$.schedule"),
        ({"metrics": {"makespan_rounds": "fast"}}, "$.metrics.makespan_rounds"),
        ({"surprise": 1}, "$.surprise"),
    ],
)
def test_broken_results_are_refused(change: dict[str, Any], path: str, two: Instance) -> None:
    """Tests that a result file of the wrong shape is refused with its place."""
    document = simulate(two, "mc-sf").document()
    with pytest.raises(InputError) as caught:
        parse_result({**document, **change}, "result")
    assert all(fault.path.startswith(path) for fault in caught.value.faults)


def test_twenty_thousand_requests_load_in_a_second(tmp_path: Path) -> None:
    """Tests that a large file is no burden: the claim is one second, here with room for slow machines."""
    n = 20_000
    columns = {"arrival": list(range(n)), "prompt_tokens": [100] * n, "output_tokens": [50] * n}
    path = tmp_path / "large.json"
    path.write_text(json.dumps(changed(COLUMNS, requests=columns)))
    began = time.process_time()
    assert len(load(path).arrays.prompt) == n
    assert time.process_time() - began < 3
