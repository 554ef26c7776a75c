"""Dialects of Mooncake's traces: units, blocks, turns that wait, what only some writers have; nothing is silent."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import modelkit as mk
from modelkit.errors import InputError
from modelkit.sources.logs import recognised

SERVER = "llama2-70b-2xa100"
Read = Callable[..., tuple[mk.Instance, str]]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Imports rows in the recognised format or another, and gives the instance and what is said of it."""

    def importing(rows: list[dict[str, Any]] | str, name: str | None = None, **options: Any) -> tuple[mk.Instance, str]:
        path = tmp_path / "trace.jsonl"
        path.write_text(rows if isinstance(rows, str) else lines(rows))
        notes: list[str] = []
        instance = mk.import_trace(name or recognised(path), path, tell=notes.append, **options)
        return instance, "\n".join(notes)

    return importing


def alone(prompt: int, output: int) -> float:
    """Seconds that a request takes on an idle server, as the simulator has it."""
    request = {"prompt_tokens": [prompt], "output_tokens": [output]}
    instance = mk.Instance(server=mk.find_server(SERVER), requests=request)
    return (mk.simulate(instance, "vllm-like").metrics["mean_latency_ms"] or 0) / 1000


def arrivals(instance: mk.Instance) -> list[float]:
    return [r.arrival for r in instance.requests]


def test_bailian_and_mooncake_are_told_apart(read: Read) -> None:
    """Tests that chat ids mean seconds and blocks of 16, and that no file is read in the other's units unsaid."""
    rows = [
        {"chat_id": i, "parent_chat_id": -1, "timestamp": 1.5 * i, "input_length": 40, "output_length": 9,
         "type": "image" if i == 2 else "text", "turn": 1, "hash_ids": [i, 7, 8]}
        for i in range(4)
    ]  # fmt: skip
    instance, said = read(rows, server=SERVER)
    assert (instance.source, arrivals(instance)) == ("trace bailian trace", [0, 1.5, 3, 4.5])
    assert instance.extra["prefix_block_tokens"] == 16
    assert "times are read in s, so 0.667 requests come a second, blocks have 16 tokens" in said
    assert "1 request with an image" in said
    assert "conversations are not modelled" in said
    with pytest.raises(InputError, match="parent_chat_id: is a key of the Qwen-Bailian traces"):
        read(rows, "mooncake")
    plain = [{"timestamp": 30_000 * i, "input_length": 40, "output_length": 9, "hash_ids": [i]} for i in range(2)]
    _, said = read(plain)
    assert "times are read in ms, so 0.0333 requests come a second, blocks have 512 tokens; --time-unit states" in said
    with pytest.raises(InputError, match=r"line 1, hash_ids: 1 block of 16 tokens does not make a prompt of 40"):
        read(plain, "bailian")
    assert "times are read" not in read(plain, time_unit="ms")[1]


def test_turns_wait_for_the_answers_before_them(read: Read) -> None:
    """Tests that a later turn comes a delay after the answer before it, served alone, on either clock."""
    rows = [
        {"session_id": "a", "timestamp": 0, "input_length": 300, "output_length": 40, "hash_ids": [1]},
        {"session_id": "a", "delay": 2000, "input_length": 600, "output_length": 40, "hash_ids": [1, 2]},
        {"session_id": "b", "timestamp": 1500, "input_length": 200, "output_length": 10},
        {"session_id": "a", "delay_ms": 500, "input_length": 700, "output_length": 0, "priority": 3},
        {"session_id": "a", "delay_ms": 100, "input_length": 900, "output_length": 5},
    ]
    second = alone(300, 40) + 2
    third = second + alone(600, 40) + 0.5 + alone(700, 1) + 0.1
    instance, said = read(rows, server=SERVER)
    assert arrivals(instance) == pytest.approx([0, 1.5, second, third], abs=1e-5)
    assert "3 turns come after the answers that they wait for, at the earliest: those served alone" in said
    assert "without output left out, the first in line 4" in said
    assert len(read(rows, server=SERVER, skip=1)[0].requests) == 3
    assert arrivals(read(rows, round_ms=10.0)[0]) == [0, 150, 240, 341]
    late = read(rows, server=SERVER, from_="1", until="1000")[0]
    assert [r.prompt_tokens for r in late.requests] == [200, 600, 900]
    with pytest.raises(InputError, match="line 1, delay: the answer that it waits for is not in the file"):
        read(rows[1:])


def test_agents_wait_for_all_that_they_name(read: Read) -> None:
    """Tests requests that wait for several others and for a tool, and for one that is not there."""
    rows = [
        {"request_id": "p", "session_id": "s", "timestamp": 100, "input_length": 100, "output_length": 20},
        {"request_id": "q", "session_id": "t", "timestamp": 9000, "input_length": 50, "output_length": 9},
        {"request_id": "r", "session_id": "s", "wait_for": ["p", "q"], "delay": 10, "tool_wait_ms": 300,
         "input_length": 200, "output_length": 5, "branches": [], "prefix_reset": False},
    ]  # fmt: skip
    instance, _ = read(rows, server=SERVER)
    assert arrivals(instance)[2] == pytest.approx(8.9 + alone(50, 9) + 0.31, abs=1e-5)
    with pytest.raises(InputError, match="line 1, wait_for: waits for 'p', which is not in the file before it"):
        read(rows[2:])


def test_prompts_that_grow(read: Read) -> None:
    """Tests turns that hold only what is new, and that the other dialect says when turns look like that."""
    rows = [
        {"session_id": "a", "timestamp": 0, "input_length": 300, "output_length": 4, "hash_ids": [1]},
        {"session_id": "a", "delay": 9, "input_length": 20, "output_length": 4, "hash_ids": [2]},
        {"session_id": "a", "delay": 9, "input_length": 30, "output_length": 4},
    ]
    instance, said = read(rows, "mooncake-delta")
    assert [r.prompt_tokens for r in instance.requests] == [300, 320, 350]
    assert "prefix_hashes" not in instance.extra
    assert "2 turns whose hashes are of what is new alone, and are not kept" in said
    assert "1 turn that does not begin with the blocks of the turn before" in read(rows)[1]


def test_what_only_some_writers_have(read: Read) -> None:
    """Tests creation times, prompts of whole blocks, sessions without any time, and one JSON list."""
    created = [{"created_time": 5 + 900 * i, "output_length": 3, "hash_ids": [i, 99]} for i in range(3)]
    instance, _ = read(created, server=SERVER)
    assert (arrivals(instance), instance.requests[0].prompt_tokens) == ([0, 0.9, 1.8], 1024)
    timeless = [{"session_id": s, "input_length": 9, "output_length": 3} for s in "abba"]
    assert arrivals(read(timeless)[0]) == [0, 0, 0, 0]
    assert arrivals(read(timeless, rate=2.0, server=SERVER)[0])[-1] > 0
    assert read(json.dumps(created, indent=1), server=SERVER)[0].requests == instance.requests
    with pytest.raises(InputError, match=r"\$\[1\], hash_ids: found 7; allowed: a list of whole numbers"):
        read(json.dumps([created[0], {**created[1], "hash_ids": 7}]))


def test_broken_rows_are_refused_with_their_place(read: Read) -> None:
    """Tests each key that is missing or wrong, in the dialects that have it."""
    good = {"timestamp": 5, "input_length": 40, "output_length": 3}
    for wrong, words in (
        ({"output_length": None}, "line 2, output_length: found None"),
        ({"input_length": -1}, "line 2, input_length: found -1"),
        ({"timestamp": "soon"}, "line 2, timestamp: found 'soon'; allowed: a time in ms, 0 or more"),
        ({"timestamp": None}, "line 2, timestamp: found None"),
        ({"timestamp": None, "session_id": "a"}, "line 2, timestamp: found None"),
        ({"hash_ids": [1, "x"]}, "line 2, hash_ids"),
        ({"hash_ids": [1, 2]}, "line 2, hash_ids: 2 blocks of 512 tokens do not make a prompt of 40"),
        ({"timestamp": None, "session_id": "b", "delay": "soon"}, "line 2, delay: found 'soon'; allowed: a time in ms"),
        ({"timestamp": None, "wait_for": {"a": 1}}, "line 2, wait_for: waits for"),
    ):
        with pytest.raises(InputError, match=words):
            read([good, {**good, **wrong}], "mooncake")
    for lacking, words in (
        (
            {"timestamp": 5, "output_length": 3, "text_input": "hi"},
            "no key 'input_length'; a text has to be counted by",
        ),
        ({"timestamp": 5, "input_length": 3}, "has no key 'output_length'"),
        ({"timestmp": 5, "input_length": 3, "output_length": 3}, "no key 'timestamp'; did you mean 'timestmp'"),
        ({"session_id": "z", "input_length": 3, "output_length": 3}, "has no timestamp, though others have"),
    ):
        with pytest.raises(InputError, match=f"line 2.*{words}"):
            read([good, lacking], "mooncake")


def test_mutated_rows_are_read_or_refused(read: Read) -> None:
    """Tests that whatever stands in a field, the answer is an instance or a fault with a place."""
    rng = random.Random(1)
    good = [
        {"session_id": "a", "request_id": "p", "timestamp": 0, "input_length": 30, "output_length": 4, "hash_ids": [1]},
        {"session_id": "a", "delay": 20, "wait_for": ["p"], "input_length": 60, "output_length": 4, "hash_ids": [1]},
    ]  # fmt: skip
    values = [None, True, -1, 1.5, 1e300, "x", "", [], [[]], {}, 10**400, float("nan"), "9" * 5000, [None], 2**63]
    for _ in range(60):
        rows = json.loads(json.dumps(good))
        for _ in range(rng.randint(1, 3)):
            row = rng.choice(rows)
            row[rng.choice(list(row))] = rng.choice(values)
        for name in ("mooncake", "mooncake-delta", "bailian"):
            with contextlib.suppress(InputError):
                read(rows, name, time_unit="ms", block=512)


def test_models_of_burstgpt(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Tests that one model of a trace is taken by its name, counted in skips, and named in the instance."""
    path = tmp_path / "b.csv"
    models = ["ChatGPT", "GPT-4"]
    path.write_text(
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        + "".join(f"{5 * i},{i % 3 or ''},2.5,{models[i % 2]},{100 + i},9,0,API log\n" for i in range(10))
    )
    said = cli("import", str(path), "--model", "GPT-4", "--skip", "1", "--first", "3", "-o", str(tmp_path / "a.json"))
    instance = mk.load(tmp_path / "a.json")
    assert [r.prompt_tokens for r in instance.requests] == [103, 105, 107]
    assert "GPT-4" in instance.name
    words = " ".join(said.err.split())
    assert "4 rows of other models, left out" in words
    assert "(Elapsed time), which is not used" in words
    assert "conversations are not modelled" in words
    with pytest.raises(InputError, match="has no request; 10 rows of other models, left out"):
        mk.import_trace("burstgpt", path, model="GPT-5")
    with pytest.raises(mk.ModelkitError, match="no option 'model'"):
        mk.import_trace("azure", path, model="GPT-4")


def test_images_are_counted(read: Read) -> None:
    """Tests the requests with images of a trace that counts them."""
    text = "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n" + "".join(
        f"2024-05-10 00:00:0{i},{n},7,3\n" for i, n in enumerate((0, 2, "0.0", 1))
    )
    assert "2 requests with images, whose tokens are those of ContextTokens alone" in read(text)[1]


def test_workloads_of_llmservingsim(read: Read) -> None:
    """Tests requests of their own, sessions with tools between their requests, and five faults."""
    own = {"input_toks": 9, "output_toks": 3, "arrival_time_ns": 2_500_000_000, "input_tok_ids": [1] * 9}
    parts = [
        {"input_toks": 100, "output_toks": 20, "tool_duration_ns": 400_000_000},
        {"input_toks": 150, "output_toks": 5},
    ]
    session = {"session_id": "a", "arrival_time_ns": 500_000_000, "sub_requests": parts}
    instance, said = read([own, session], server=SERVER)
    assert instance.source == "trace servingsim trace"
    assert arrivals(instance) == pytest.approx(sorted([0, alone(100, 20) + 0.4, 2]), abs=1e-5)
    assert "1 turn comes after the answers that it waits for" in said
    for wrong, words in (
        ({"input_toks": 0}, "line 1, input_toks: found 0"),
        ({"output_toks": "x"}, "line 1, output_toks: found 'x'"),
        ({"arrival_time_ns": -1}, "line 1, arrival_time_ns: found -1; allowed: a time in ns"),
        ({"sub_requests": [3]}, "line 1, sub_requests: found"),
        ({"sub_requests": [{"input_toks": 5}]}, "line 1, output_toks: found None"),
    ):
        with pytest.raises(InputError, match=words):
            read([{**own, **wrong}], "servingsim")
    lacking = {key: value for key, value in own.items() if key != "arrival_time_ns"}
    with pytest.raises(InputError, match="line 1: has no key 'arrival_time_ns'"):
        read([lacking], "servingsim")


def test_a_fault_is_told_before_the_number_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that a file of which nothing is taken because of a fault is not called too large."""
    monkeypatch.setattr("modelkit.sources.traces.taking.MOST_REQUESTS", 3)
    rows = [{"timestamp": 100 * k, "input_length": 650, "output_length": 5, "hash_ids": [1, 2, 3]} for k in range(9)]
    path = tmp_path / "t.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError, match=r"3 blocks of 64 tokens do not make a prompt of 650"):
        mk.import_trace("mooncake", path, time_unit="ms", block=64, from_="0.2", until="0.3")
