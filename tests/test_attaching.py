"""Data of one's own that instances carry from where they are made: options of generate and import."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import modelkit as mk
from modelkit.errors import InputError

Cli = Callable[..., Any]


def test_generated_instances_carry_data(tmp_path: Path, cli: Cli) -> None:
    """Tests ``--extra`` with values and files, and attributes drawn by their weights, the same for one seed."""
    (tmp_path / "quota.json").write_text('{"chat": 2}')
    out = tmp_path / "a.json"
    words = ["--extra", f"quota=@{tmp_path / 'quota.json'}", "--extra", "cap=3", "--extra", "why=a test"]
    words += ["--attribute", "class=chat:9,code:1", "--attribute", "priority=1,2", "--attribute", "team=red"]
    cli("generate", "kv-synthetic", "--requests", "200", "--seed", "1", *words, "-o", str(out))
    made = mk.load(out)
    assert made.extra == {"quota": {"chat": 2}, "cap": 3, "why": "a test"}
    classes = Counter(r.request_class for r in made.requests)
    assert classes.keys() == {"chat", "code"}
    assert 5 <= classes["code"] <= 40
    assert {r.priority for r in made.requests} == {1, 2}
    assert {json.dumps(r.extra) for r in made.requests} == {'{"team": "red"}'}
    drawn = {"class": {"chat": 9, "code": 1}, "priority": {1: 1, 2: 1}, "team": {"red": 1}}
    again = mk.generate("kv-synthetic", requests=200, seed=1, attributes=drawn, extra=made.extra)
    assert again == made
    bare = mk.generate("kv-synthetic", requests=200, seed=1)
    assert [r.prompt_tokens for r in bare.requests] == [r.prompt_tokens for r in made.requests]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--extra", "cap"], "--extra takes KEY=VALUE or KEY=@FILE"),
        (["--extra", "cap=@nowhere.json"], "nowhere.json"),
        (["--attribute", "class=chat:many"], "--attribute takes NAME=VALUE"),
        (["--attribute", "class=chat:-1"], "--attribute class: found the weights [-1.0]"),
        (["--attribute", "priority=high"], "priority"),
    ],
)
def test_wrong_data_are_refused(words: list[str], said: str, cli: Cli) -> None:
    """Tests that what cannot be read is bad input, with what is allowed."""
    refused = cli("generate", "kv-synthetic", *words, "-o", "-", code=2)
    assert said in " ".join(refused.err.split())


def test_imports_keep_columns(tmp_path: Path, cli: Cli) -> None:
    """Tests that columns of a trace become attributes of its requests, and that those that are missing are named."""
    trace = tmp_path / "trace.jsonl"
    rows = [
        {"timestamp": 0, "input_length": 5, "output_length": 2, "session_id": "a", "slo": "fast", "team": "7"},
        {"timestamp": 1000, "input_length": 3, "output_length": 2, "session_id": "b", "priority": 2, "team": ""},
    ]
    trace.write_text("\n".join(map(json.dumps, rows)))
    wanted = "class=slo,session,priority,team"
    made = mk.import_trace("mooncake", trace, attribute=wanted, extra={"cap": 1})
    assert [(r.request_class, r.session, r.priority, r.extra) for r in made.requests] == [
        ("fast", "a", None, {"team": 7}), (None, "b", 2, None),
    ]  # fmt: skip
    assert made.extra == {"cap": 1}
    with pytest.raises(InputError, match="no request has a column 'slow'; did you mean 'slo'"):
        mk.import_trace("mooncake", trace, attribute="class=slow")
    out = tmp_path / "a.json"
    cli("import", str(trace), "--attribute", "session", "--extra", "cap=2", "-o", str(out))
    assert (mk.load(out).requests[0].session, mk.load(out).extra) == ("a", {"cap": 2})
    trace.write_text(json.dumps({**rows[0], "priority": "high"}))
    with pytest.raises(InputError, match="priority: found 'high'; allowed: a number"):
        mk.import_trace("mooncake", trace, attribute="priority")


def test_imports_keep_fields_of_logs(tmp_path: Path, cli: Cli) -> None:
    """Tests that requests of a log keep what is asked for: columns, fields of objects within, lists of a benchmark."""
    run = tmp_path / "run.jsonl"
    stamps = {"input_toks": 4, "output_toks": 3}
    rows = [
        {"request_id": f"q{i}", "queued_ts": i, "first_token_ts": i + 0.1, "last_token_ts": i + 0.3, **stamps}
        | {"about": {"team": f"t{i}"}, "tier": "gold" if i else "", "priority": i}
        for i in range(3)
    ]
    run.write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "run.json"
    wanted = "class=tier,priority,team=about.team"
    cli("import", str(run), "--server", "llama2-70b-2xa100", "--attribute", wanted, "-o", str(out))
    assert [(r.request_class, r.priority, r.extra) for r in mk.load(out).requests] == [
        (None, 0, {"team": "t0"}), ("gold", 1, {"team": "t1"}), ("gold", 2, {"team": "t2"}),
    ]  # fmt: skip
    refused = cli("import", str(run), "--server", "llama2-70b-2xa100", "--attribute", "class=teer", code=2)
    assert "no request has a column 'teer'; did you mean 'tier'" in " ".join(refused.err.split())
    bench = tmp_path / "bench.json"
    lists = {"input_lens": [4, 5], "output_lens": [2, 2], "start_times": [1.0, 2.0], "ttfts": [0.1, 0.1]}
    bench.write_text(json.dumps({**lists, "itls": [[0.1], [0.1]], "errors": ["", ""], "tenant": ["a", "b"]}))
    made = mk.import_log(bench, "vllm-bench", server="llama2-70b-2xa100", attribute="class=tenant").instance
    assert [r.request_class for r in made.requests] == ["a", "b"]
