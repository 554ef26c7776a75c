"""Importers: exact arrivals, all faults with their lines, requests that can never fit."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

import modelkit as mk
from modelkit.errors import InputError, UsageError
from modelkit.sources.traces import import_trace, oversized_requests

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROWS = (
    "2023-11-16 18:15:46.6805900,374,44\n"
    "2023-11-16 18:15:46.7355900,396,109\n"
    "2023-11-16 18:15:46.7355901,879,55\n"
    "2023-11-16 18:16:46.6805900,91,16\n"
)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Four requests: at 0, exactly 55 ms, 100 ns later, and a minute after the first."""
    path = tmp_path / "azure.csv"
    path.write_text(HEADER + ROWS)
    return path


def test_arrivals_are_exact(trace: Path) -> None:
    """Tests that an arrival counts from the next round boundary on, to 100 ns."""
    instance = import_trace("azure", trace, round_ms=55.0, kv_capacity=1000)
    assert [(r.arrival, r.prompt_tokens, r.output_tokens) for r in instance.requests] == [
        (0, 374, 44), (1, 396, 109), (2, 879, 55), (1091, 91, 16),
    ]  # fmt: skip
    assert instance.server.kv_capacity_tokens == 1000
    assert instance.source == "trace azure azure"


def test_skip_and_count(trace: Path) -> None:
    """Tests that arrivals count from the first request taken."""
    instance = import_trace("azure", trace, requests=2, skip=1)
    assert [(r.id, r.arrival, r.prompt_tokens) for r in instance.requests] == [("r1", 0, 396), ("r2", 1, 879)]
    assert instance.server.kv_capacity_tokens is None


def test_gzip_and_byte_order_mark(tmp_path: Path) -> None:
    """Tests that a compressed file with a byte order mark is read."""
    path = tmp_path / "azure.csv.gz"
    path.write_bytes(gzip.compress(("\ufeff" + HEADER + ROWS).encode()))
    assert len(import_trace("azure", path).requests) == 4


def test_requests_that_never_fit(trace: Path) -> None:
    """Tests that they are kept and named unless asked to be left out."""
    assert [r.prompt_tokens for r in oversized_requests(import_trace("azure", trace, kv_capacity=900))] == [879]
    kept = import_trace("azure", trace, kv_capacity=900, drop_oversized=True)
    assert [r.prompt_tokens for r in kept.requests] == [374, 396, 91]
    assert "1 oversized left out" in kept.description
    with pytest.raises(InputError, match="no request fits 50 tokens"):
        import_trace("azure", trace, kv_capacity=50, drop_oversized=True)


def test_all_faults_with_their_lines(tmp_path: Path) -> None:
    """Tests that every wrong cell is named by line and column."""
    path = tmp_path / "bad.csv"
    path.write_text(HEADER + "yesterday,5,5\n2023-11-16 18:15:46,0,x\n2023-11-16 18:15:46,1\n")
    with pytest.raises(InputError) as caught:
        import_trace("azure", path)
    assert [fault.path for fault in caught.value.faults] == [
        "line 2, TIMESTAMP",
        "line 3, ContextTokens",
        "line 3, GeneratedTokens",
        "line 4, GeneratedTokens",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("TIMESTAMP,ContextToken,GeneratedTokens\n", "has no column 'ContextTokens'; did you mean 'ContextToken'"),
        (HEADER, "has no request"),
        ("", "line 1: is empty; allowed: a CSV table with TIMESTAMP"),
    ],
)
def test_files_of_another_kind(text: str, words: str, tmp_path: Path) -> None:
    """Tests headers that do not fit and empty files."""
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        import_trace("azure", path)


def test_options_and_names(trace: Path) -> None:
    """Tests options out of range, together, and formats that do not exist."""
    with pytest.raises(InputError) as caught:
        import_trace("azure", trace, round_ms=0, skip=-1, requests=0, kv_capacity=0)
    assert len(caught.value.faults) == 4
    with pytest.raises(InputError, match="no request after the first 9"):
        import_trace("azure", trace, skip=9)
    with pytest.raises(UsageError, match="unknown trace format 'azur'; did you mean 'azure'"):
        import_trace("azur", trace)
    with pytest.raises(UsageError, match="cannot read"):
        import_trace("azure", trace.parent / "nothing.csv")


def test_the_real_trace(shared_data: Path) -> None:
    """Tests the conversation trace: all its requests, and MC-SF's total latency on the first 200."""
    path = shared_data / "azure_llm_2023_conv.csv"
    assert len(import_trace("azure", path).requests) == 19_366
    first = import_trace("azure", path, requests=200, kv_capacity=40_000)
    assert mk.simulate(first, "mc-sf").objective.value == 69_324
