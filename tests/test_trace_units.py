"""Imports read what the file says: units, blocks, rows left out, windows, limits, names; what is written is read."""

from __future__ import annotations

import bz2
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import modelkit as mk
from modelkit.errors import InputError, UsageError
from modelkit.io import instances as reading_instances
from modelkit.sources.traces import import_trace, taking

SERVER = "llama2-70b-2xa100"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def json_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def seconds_apart(gap: float, n: int = 12, **more: Any) -> str:
    """Requests that come ``gap`` of whatever unit apart."""
    rows = [{"timestamp": round(i * gap, 6), "input_length": 100 + i, "output_length": 40, **more} for i in range(n)]
    return json_lines(rows)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., tuple[mk.Instance, list[str]]]:
    """Imports a text and gives what is said of it."""

    def importing(name: str, text: str, **options: Any) -> tuple[mk.Instance, list[str]]:
        path = tmp_path / "trace.csv"
        path.write_text(text)
        notes: list[str] = []
        return mk.import_trace(name, path, tell=notes.append, **options), notes

    return importing


def arrivals(instance: mk.Instance) -> list[float]:
    return [r.arrival for r in instance.requests]


@pytest.mark.parametrize("gap", [0.8, 1, 4])
def test_seconds_are_not_read_as_milliseconds(read: Any, gap: float) -> None:
    """Tests that a file in seconds is refused as Mooncake's, with the way to say it, and read when said."""
    with pytest.raises(InputError, match="mooncake counts ms, but .* --time-unit s"):
        read("mooncake", seconds_apart(gap))
    instance, _ = read("mooncake", seconds_apart(gap), time_unit="s", server=SERVER)
    assert arrivals(instance) == pytest.approx([i * gap for i in range(12)])
    assert arrivals(read("mooncake", seconds_apart(gap), time_unit="ms", server=SERVER)[0])[1] == gap / 1000


def test_milliseconds_with_decimals_are_milliseconds(read: Any) -> None:
    """Tests that decimals alone are no doubt where the times can be nothing else."""
    assert arrivals(read("mooncake", seconds_apart(500.5), server=SERVER)[0])[2] == 1.001


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "vidur",
            "arrived_at,num_prefill_tokens,num_decode_tokens\n" + "".join(f"{i * 1300},5,5\n" for i in range(12)),
        ),
        ("burstgpt", "Timestamp,Request tokens,Response tokens\n" + "".join(f"{i * 900},5,5\n" for i in range(12))),
        ("bailian", seconds_apart(700)),
    ],
)
def test_milliseconds_are_not_read_as_seconds(read: Any, name: str, text: str) -> None:
    """Tests the same the other way round, for every format in seconds."""
    with pytest.raises(InputError, match=f"{name} counts s, but .* --time-unit ms"):
        read(name, text)
    assert arrivals(read(name, text, time_unit="ms", server=SERVER)[0])[-1] < 15


def test_numbers_for_dates_need_a_unit(read: Any) -> None:
    """Tests that stamps which are numbers are refused until their unit is said; 14 digits look like a date."""
    text = AZURE + "170010154122,5,5\n170010154222,5,5\n"
    with pytest.raises(InputError, match="for a number give the unit") as caught:
        read("azure", text)
    assert [fault.path for fault in caught.value.faults] == ["line 2, TIMESTAMP"]
    assert arrivals(read("azure", text, time_unit="ms", server=SERVER)[0]) == [0, 0.1]


def test_blocks_and_lengths_agree(read: Any) -> None:
    """Tests that hashes which do not make the prompt are refused, with the block that would."""
    rows = [{"timestamp": 900 * i, "input_length": 160, "output_length": 5, "hash_ids": [*range(10)]} for i in range(3)]
    with pytest.raises(InputError, match=r"line 1, hash_ids: 10 blocks of 512 tokens .* 160; blocks of 16 would fit"):
        read("mooncake", json_lines(rows))
    instance, notes = read("mooncake", json_lines(rows), block=16)
    assert instance.extra["prefix_block_tokens"] == 16
    assert any("not modelled: 67% of the prompt tokens" in note for note in notes)
    bailian = json_lines([{**row, "parent_chat_id": -1} for row in rows])
    with pytest.raises(InputError, match="parent_chat_id: is a key of the Qwen-Bailian traces"):
        read("mooncake", bailian, block=16)


def test_rows_without_output_are_counted(read: Any, cli: Any, tmp_path: Path) -> None:
    """Tests that they are left out, counted and said; and that 374.0 is 374."""
    text = AZURE + "2024-05-10 00:00:00,374.0,44.0\n2024-05-10 00:00:01,5,0\n2024-05-10 00:00:02,7,3\n"
    instance, notes = read("azure", text)
    assert [r.prompt_tokens for r in instance.requests] == [374, 7]
    assert "1 without output left out" in instance.description
    assert instance.extra == {"no_output_lines": [3]}
    assert not instance.parameters
    assert notes == ["1 row without output left out, the first in line 3; extra.no_output_lines names them all"]
    said = cli("import", "azure", str(tmp_path / "trace.csv"), "-o", str(tmp_path / "a.json"))
    assert "note: 1 row without output left out" in said.err
    quiet = cli("import", "azure", str(tmp_path / "trace.csv"), "-q", "-o", str(tmp_path / "a.json"))
    assert not quiet.err
    with pytest.raises(InputError, match="ContextTokens: found '374.5'"):
        read("azure", text.replace("374.0", "374.5"))
    fitting, notes = read("azure", text, kv_capacity=100, drop_oversized=True)
    assert not fitting.parameters
    assert "1 row oversized left out, the first in line 2; extra.oversized_lines names them all" in notes


def test_usual_columns_of_lengths(read: Any) -> None:
    """Tests that both columns of lengths are used under their usual names, with either delimiter."""
    for head in ("prompt_size;token_size", "ContextTokens\tGeneratedTokens", "input_len,output_len"):
        mark = next(c for c in ";\t," if c in head)
        instance, notes = read("lengths", f"{head}\n7{mark}9\n5.0{mark}0\n")
        assert [(r.prompt_tokens, r.output_tokens) for r in instance.requests] == [(7, 9)]
        assert notes == ["1 row without output left out, the first in line 3"]
    _, notes = read("lengths", "prompt_tokens,answer\n7,9\n")
    assert "outputs are drawn (gamma, seed 0)" in notes[0]
    with pytest.raises(InputError, match="several columns may hold the prompts: 'prompt_tokens', 'input_len'"):
        read("lengths", "prompt_tokens,input_len,output_len\n7,7,9\n")
    with pytest.raises(InputError, match="--prompt-column names one"):
        read("lengths", "a,b\n7,9\n")


def test_arrivals_of_lengths(read: Any) -> None:
    """Tests that arrivals are used with their unit, or that it is said why not."""
    text = "{},prompt_tokens,output_tokens\n1500,7,9\n1000,5,6\n"
    instance, _ = read("lengths", text.format("arrival_ms"), server=SERVER)
    assert [(r.arrival, r.prompt_tokens) for r in instance.requests] == [(0, 5), (0.5, 7)]
    with pytest.raises(InputError, match="line 1, timestamp: does not give the unit"):
        read("lengths", text.format("timestamp"), server=SERVER)
    assert arrivals(read("lengths", text.format("timestamp"), server=SERVER, time_unit="s")[0]) == [0, 500]
    _, notes = read("lengths", text.format("arrival_s"))
    assert notes == [
        "the arrivals in the column 'arrival_s' are not used: only with --server do requests arrive over time"
    ]


def test_windows(read: Any) -> None:
    """Tests windows in seconds after the first row and in stamps, with the other choices."""
    text = AZURE + "".join(f"2024-05-10 00:{i:02}:00,{i + 1},5\n" for i in range(10))
    assert [r.prompt_tokens for r in read("azure", text, from_="60", until=180)[0].requests] == [2, 3]
    stamps = {"from_": "2024-05-10 00:07:00", "until": "2024-05-10 00:09:00+00:00"}
    assert [r.prompt_tokens for r in read("azure", text, **stamps)[0].requests] == [8, 9]
    assert [r.prompt_tokens for r in read("azure", text, from_=60, skip=4, requests=2)[0].requests] == [5, 6]
    names = {read("azure", text, from_=f)[0].name for f in (60, 120)}
    assert len(names) == 2
    for bad in ("soon", "-5", "nan"):
        with pytest.raises(InputError, match="--from: found"):
            read("azure", text, from_=bad)
    with pytest.raises(InputError, match="has no request within --from and --until"):
        read("azure", text, from_=6000)
    with pytest.raises(InputError, match="this file has no arrivals"):
        read("vidur", "num_prefill_tokens,num_decode_tokens\n5,5\n", from_=1)


def test_other_choices_other_names(read: Any, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that no import writes over another under its default name."""
    text = AZURE + "2024-05-10 00:00:00,5,5\n2024-05-10 00:00:01,7,3\n"
    choices: list[dict[str, Any]] = [{}, {"kv_capacity": 50}, {"server": SERVER}, {"round_ms": 9}, {"skip": 1}]
    assert len({read("azure", text, **choice)[0].name for choice in choices}) == len(choices)
    monkeypatch.chdir(tmp_path)
    for folder, length in (("a", 5), ("b", 6)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.v1.csv").write_text(text.replace(",5,", f",{length},"))
        cli("import", "azure", f"{folder}/t.v1.csv")
        cli("import", "azure", f"{folder}/t.v1.csv")
    written = sorted(path.name for path in tmp_path.glob("t.v1-*.json"))
    assert len(written) == 2
    assert sorted(mk.load(name).requests[0].prompt_tokens for name in written) == [5, 6]


def test_no_more_than_load_reads(read: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests that import and save refuse what load would refuse, with the same limit."""
    for module in (taking, reading_instances):
        monkeypatch.setattr(module, "MOST_REQUESTS", 3)
    text = AZURE + "2024-05-10 00:00:00,5,5\n" * 4
    with pytest.raises(InputError, match="line 5: more than 3 requests, .* --requests"):
        read("azure", text)
    assert len(read("azure", text, requests=3)[0].requests) == 3
    four = mk.Instance(server=mk.Server(), requests={"prompt_tokens": [1] * 4, "output_tokens": [1] * 4})
    with pytest.raises(InputError, match="not written"):
        mk.save_instance(four, tmp_path / "four.json")
    assert not (tmp_path / "four.json").exists()


@pytest.mark.parametrize("extra", [{"x": float("nan")}, {"x": {1, 2}}, {"x": [[]] * 2_000_001}])
def test_what_is_not_json_is_not_written(extra: dict[str, Any], two: mk.Instance, tmp_path: Path) -> None:
    """Tests that an instance which load would refuse is refused before it is written."""
    with pytest.raises(InputError, match="not written"):
        mk.save_instance(two.replace(extra=extra), tmp_path / "a.json")
    assert not list(tmp_path.iterdir())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 3000), st.integers(0, 500)), min_size=1, max_size=20),
    gzipped=st.booleans(),
    options=st.sampled_from([{}, {"server": SERVER}, {"rate": 3.0}, {"kv_capacity": 700, "drop_oversized": True}]),
)
def test_what_import_writes_load_reads(
    rows: list[tuple[int, int, int]], gzipped: bool, options: dict[str, Any], tmp_path: Path
) -> None:
    """Tests that an import is refused, or written and read as the same instance."""
    path = tmp_path / "trace.jsonl"
    path.write_text(
        json_lines(
            [
                {"timestamp": t, "input_length": s, "output_length": o, "hash_ids": [*range(-(-s // 512))]}
                for t, s, o in rows
            ]
        )
    )
    try:
        instance = mk.import_trace("mooncake", path, time_unit="ms", **options)
    except InputError:
        return
    target = tmp_path / ("a.json.gz" if gzipped else "a.json")
    mk.save_instance(instance, target)
    assert mk.load(target) == instance
    assert len(instance.requests) <= sum(o > 0 for _, _, o in rows)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lzma.compress(b"a,b\n"), "xz data, not UTF-8 text; unpack it"),
        (bz2.compress(b"a,b\n"), "bzip2 data"),
        (b"\x28\xb5\x2f\xfd\x00\x00", "zstd data"),
        (b"PK\x03\x04rest", "a zip archive or a spreadsheet"),
        (b"PAR1rest", "a Parquet table"),
        ("a,b\n".encode("utf-16"), "UTF-16 text"),
        ('{"a": 1}\n'.encode("utf-16-le"), "UTF-16 text"),
        ("a,b\n1,2\n".encode("utf-16-be"), "UTF-16 text"),
    ],
)
def test_other_data_is_named(data: bytes, words: str, tmp_path: Path) -> None:
    """Tests that every reader says what a file is when it is no text."""
    path = tmp_path / "file"
    path.write_bytes(data)
    readers: list[Callable[[], Any]] = [
        lambda: mk.load(path),
        lambda: mk.load_result(path),
        lambda: mk.import_trace("azure", path),
        lambda: mk.import_trace("mooncake", path),
    ]
    for reader in readers:
        with pytest.raises(InputError, match=words):
            reader()


@pytest.mark.parametrize("text", [AZURE + "2024-05-10,5,5\n", seconds_apart(1000), "a;b\n1;2\n"])
def test_traces_are_no_instances(text: str, tmp_path: Path, cli: Any) -> None:
    """Tests that a trace given for an instance leads to import."""
    path = tmp_path / "trace.csv"
    path.write_text(text)
    assert "modelkit import FORMAT FILE" in cli("solve", str(path), code=2).err


def test_tables_and_json_are_told_apart(read: Any) -> None:
    """Tests that a format given the other kind of file says which kind it is."""
    with pytest.raises(InputError, match="line 1: it is JSON; allowed: a CSV table"):
        read("azure", seconds_apart(1))
    with pytest.raises(InputError, match="line 1: it is JSON; allowed: a CSV table"):
        read("lengths", seconds_apart(1))
    with pytest.raises(InputError, match="line 1: looks like a CSV table"):
        read("mooncake", AZURE)
    with pytest.raises(InputError, match="line 1, delay: the answer that it waits for is not in the file before it"):
        read("mooncake", '{"session_id": "a", "delay": 5, "input_length": 3, "output_length": 4}\n')


def test_options_of_python_are_checked(read: Any) -> None:
    """Tests unknown options and options of other types, together."""
    with pytest.raises(UsageError, match="no option 'request'; did you mean 'requests'"):
        read("azure", AZURE, request=1)
    with pytest.raises(InputError) as caught:
        read("azure", AZURE, requests="5", skip=1.5, drop_oversized=1, time_unit="min")
    assert [fault.path for fault in caught.value.faults] == ["--requests", "--skip", "--drop-oversized", "--time-unit"]


@pytest.mark.parametrize("factor", [10**3, 10**6])
def test_nanoseconds_that_are_coarser_are_doubted(tmp_path: Path, factor: int) -> None:
    """Tests that requests which come every microsecond are refused, with the unit that they may be in."""
    path = tmp_path / "w.jsonl"
    rows = [{"arrival_time_ns": i * 10**9 // factor, "input_toks": 100, "output_toks": 20} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    unit = {10**3: "us", 10**6: "ms"}[factor]
    with pytest.raises(InputError, match=rf"in {unit} one every 1 s; give the unit: --time-unit s or ms or us or ns"):
        import_trace("servingsim", path)
    assert import_trace("servingsim", path, time_unit=unit).requests[-1].arrival > 500
