"""Importers of serving traces: columns, arrivals in seconds, failures, prefix hashes, rates, servers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from modelkit.errors import InputError
from modelkit.instance import Instance, LinearClock
from modelkit.io import load, save_instance
from modelkit.sources.traces import import_trace, trace_formats

SERVER = "llama2-70b-2xa100"
AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 23:59:59.750000+00:00,10,2\n2024-05-11 00:00:00+00:00,20,3\n"
)
BURST = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n"
    "45,ChatGPT,1087,0,1087,Conversation log\n"
    "118.5,GPT-4,417,276,693,API log\n"
)
VIDUR = (
    "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n3772,54,3826,69.85\n2015,156,2171,12.9\n9,1,10,9\n"
)


def mooncake(*rows: dict[str, Any]) -> str:
    """Lines of JSON."""
    return "".join(json.dumps(row) + "\n" for row in rows)


MOONCAKE = mooncake(
    {"timestamp": 3000, "input_length": 700, "output_length": 5, "hash_ids": [0, 1]},
    {"timestamp": 0, "input_length": 600, "output_length": 9, "hash_ids": [0, 2]},
)
BAILIAN = mooncake(
    {"chat_id": 0, "parent_chat_id": -1, "timestamp": 0.0, "input_length": 32, "output_length": 5, "hash_ids": [0, 1]},
    {"chat_id": 1, "parent_chat_id": 0, "timestamp": 4, "input_length": 40, "output_length": 9, "hash_ids": [0, 1, 2]},
    {"chat_id": 2, "parent_chat_id": -1, "timestamp": 7.4, "input_length": 16, "output_length": 7, "hash_ids": [3]},
)
TEXTS = {"azure": AZURE, "burstgpt": BURST, "mooncake": MOONCAKE, "bailian": BAILIAN, "vidur": VIDUR}


@pytest.fixture(params=["plain", "gzip"])
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Imports a text as a trace of a format, gzipped or not."""

    def importing(name: str, text: str, **options: object) -> Instance:
        path = tmp_path / ("trace.csv.gz" if request.param == "gzip" else "trace.csv")
        path.write_bytes(gzip.compress(text.encode()) if request.param == "gzip" else text.encode())
        return import_trace(name, path, **options)

    return importing


def rows(instance: Instance) -> list[tuple[float, int, int]]:
    """Arrivals and lengths."""
    return [(r.arrival, r.prompt_tokens, r.output_tokens) for r in instance.requests]


def test_azure_of_2024(read: Any) -> None:
    """Tests stamps with an offset from UTC, across midnight, in seconds and in rounds."""
    assert rows(read("azure", AZURE, server=SERVER)) == [(0, 10, 2), (0.25, 20, 3)]
    assert rows(read("azure", AZURE, round_ms=100)) == [(0, 10, 2), (3, 20, 3)]
    shifted = AZURE.replace("2024-05-11 00:00:00+00:00", "2024-05-11 02:00:00.5+02:00")
    assert rows(read("azure", shifted, server=SERVER))[1][0] == 0.75


def test_burstgpt_flags_failures(read: Any) -> None:
    """Tests that a row without response is left out and named by its line."""
    instance = read("burstgpt", BURST, server=SERVER)
    assert rows(instance) == [(0, 472, 18), (113.5, 417, 276)]
    assert instance.extra == {"failed_lines": [3]}
    assert "1 failed left out" in instance.description
    with pytest.raises(InputError, match="no request after the first 1 that did not fail"):
        read("burstgpt", BURST, skip=1, requests=1)


def test_mooncake_keeps_prefix_hashes(read: Any, tmp_path: Path) -> None:
    """Tests that hashes follow their requests through sorting, dropping and a file."""
    instance = read("mooncake", MOONCAKE, server=SERVER)
    assert rows(instance) == [(0, 600, 9), (3, 700, 5)]
    assert instance.extra == {"prefix_block_tokens": 512, "prefix_hashes": [[0, 2], [0, 1]]}
    few = read("mooncake", MOONCAKE, kv_capacity=650, drop_oversized=True)
    assert few.extra["prefix_hashes"] == [[0, 2]]
    save_instance(instance, tmp_path / "m.json")
    assert load(tmp_path / "m.json") == instance


def test_vidur_lengths_and_drawn_arrivals(read: Any) -> None:
    """Tests lengths without arrivals: all at once, or drawn at a rate; and the traces that have arrivals."""
    assert [r.arrival for r in read("vidur", VIDUR).requests] == [0, 0, 0]
    many = VIDUR.splitlines()[0] + "\n" + "5,5,10,1\n" * 400
    drawn = read("vidur", many, rate=10, seed=1, server=SERVER)
    assert drawn.requests[0].arrival == 0
    assert drawn.requests[-1].arrival == pytest.approx(40, rel=0.15)
    assert drawn == read("vidur", many, rate=10, seed=1, server=SERVER)
    assert drawn != read("vidur", many, rate=10, seed=2, server=SERVER)
    timed = "arrived_at,num_prefill_tokens,num_decode_tokens\n1.5,7,8\n2.25,9,10\n"
    assert rows(read("vidur", timed, server=SERVER)) == [(0, 7, 8), (0.75, 9, 10)]


def test_rate_rescales_arrivals(read: Any) -> None:
    """Tests that gaps keep their proportions and the mean gap is that of the rate."""
    text = "arrived_at,num_prefill_tokens,num_decode_tokens\n0,1,1\n1,1,1\n4,1,1\n"
    assert [r.arrival for r in read("vidur", text, rate=0.25, server=SERVER).requests] == [0, 2, 8]
    assert [r.arrival for r in read("vidur", text, rate=20, round_ms=50).requests] == [0, 1, 2]
    with pytest.raises(InputError, match="all requests arrive at once"):
        read("vidur", text.replace("\n1,", "\n0,").replace("\n4,", "\n0,"), rate=1)


def test_servers(read: Any) -> None:
    """Tests that a server gives clock and memory, and that the memory may be another."""
    server = read("azure", AZURE, server=SERVER).server
    assert isinstance(server.clock, LinearClock)
    assert server.clock.mixed
    assert server.kv_capacity_tokens == 16_492
    assert read("azure", AZURE, server=SERVER, kv_capacity=99).server.kv_capacity_tokens == 99
    assert read("azure", AZURE).is_unit


def test_lengths_on_a_server(tmp_path: Path) -> None:
    """Tests a table of lengths with a server and random arrivals, and what does not go together."""
    path = tmp_path / "l.csv"
    path.write_text("prompt_tokens,output\n" + "5,7\n" * 200)
    instance = import_trace("lengths", path, output_column="output", server=SERVER, rate=4.0)
    assert instance.server.slots is None
    assert instance.requests[-1].arrival == pytest.approx(50, rel=0.25)
    with pytest.raises(InputError, match="--rate: needs --server"):
        import_trace("lengths", path, output_column="output", rate=4.0)


@pytest.mark.parametrize(
    ("name", "text", "places"),
    [
        ("azure", AZURE + "soon,0,x\n", ["line 4, TIMESTAMP", "line 4, ContextTokens", "line 4, GeneratedTokens"]),
        ("burstgpt", BURST + "x,G,-1,2,1,\n", ["line 5, Timestamp", "line 5, Request tokens"]),
        ("burstgpt", BURST + "inf,G,1,1e3,1,\n", ["line 5, Timestamp", "line 5, Response tokens"]),
        ("burstgpt", BURST.replace("Response", "Reply"), ["line 1", "line 1"]),
        ("mooncake", MOONCAKE + "{", ["line 3"]),
        ("mooncake", MOONCAKE + "[1]\n", ["line 3"]),
        ("mooncake", MOONCAKE + '{"timestamp": 1, "input_len": 3, "output_length": 1}\n', ["line 3"]),
        (
            "mooncake",
            MOONCAKE + '{"timestamp": NaN, "input_length": 3.5, "output_length": true, "hash_ids": ["a"]}\n',
            ["line 3, timestamp", "line 3, hash_ids", "line 3, input_length", "line 3, output_length"],
        ),
        ("vidur", VIDUR + "5\n", ["line 5, num_decode_tokens"]),
        ("vidur", "", ["line 1"]),
        ("vidur", VIDUR.splitlines()[0] + "\n", ["file"]),
    ],
)
def test_faults_with_their_lines(read: Any, name: str, text: str, places: list[str]) -> None:
    """Tests that wrong columns and bad rows are all named, by line."""
    with pytest.raises(InputError) as caught:
        read(name, text)
    assert [fault.path for fault in caught.value.faults] == places


def test_options_out_of_range(read: Any) -> None:
    """Tests that all wrong options are named together."""
    with pytest.raises(InputError) as caught:
        read("azure", AZURE, server=SERVER, round_ms=5.0, rate=0.0, seed=-1, skip=-1)
    assert [fault.path for fault in caught.value.faults] == ["--round-ms", "--skip", "--rate", "--seed"]


def test_every_format_is_here() -> None:
    """Tests that no format goes without a test."""
    assert set(trace_formats()) == {*TEXTS, "lengths", "mooncake-delta", "servingsim"}


@pytest.mark.parametrize(
    ("name", "file", "count"),
    [
        ("azure", "azure_llm_2023_code.csv", 8_819),
        ("mooncake", "mooncake_synthetic_trace.jsonl", 3_993),
        ("vidur", "arxiv_summarization_llama2_lengths.csv", 28_257),
    ],
)
def test_the_real_traces(shared_data: Path, name: str, file: str, count: int) -> None:
    """Tests that every row of the public traces is taken."""
    assert len(import_trace(name, shared_data / file, server="llama2-70b-8xa100").requests) == count
