"""Calibration: laws are found again, tables are refused with their lines, presets are what the fits say."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkit.errors import InputError, UsageError
from modelkit.sources.calibrate import COEFFICIENTS, calibrate
from modelkit.sources.servers import find_server, presets

HEADER = "phase,batch_size,prompt_tokens,kv_tokens_per_request,iteration_ms\n"
LAW = (13.5, 0.25, 40.0, 0.5, 0.001)
BASE = 9.0
APART = "no iterations with prompts and decoding together: base_ms cannot be told from the other fixed parts, and is 0"


def timings(noise: float = 0.0, *, mixed: bool = False, kinds: str = "") -> str:
    """A table made by a law, with noise; ``kinds`` names phases that all pay a base too."""
    rng = np.random.default_rng(0)
    rows = [("prefill", 1, n, 0, LAW[0] + LAW[1] * n) for n in (64, 256, 1024, 2048)]
    rows += [("decode", b, 0, kv, LAW[2] + LAW[3] * b + LAW[4] * b * kv) for b in (1, 8, 64) for kv in (32, 512, 4000)]
    if mixed:
        rows = [
            ("mixed", b, n, kv, LAW[0] + LAW[1] * n + LAW[2] + LAW[3] * b + LAW[4] * b * kv)
            for b in (1, 8, 64) for kv in (32, 4000) for n in (64, 2048)
        ]  # fmt: skip
    if kinds:
        parts = {
            "prefill": [(1, n, 0, LAW[0] + LAW[1] * n) for n in (64, 256, 1024, 2048)],
            "decode": [(b, 0, kv, LAW[2] + LAW[3] * b + LAW[4] * b * kv) for b in (1, 8, 64) for kv in (32, 4000)],
        }
        parts["mixed"] = [
            (b, n, kv, prefill + decode)
            for _, n, _, prefill in parts["prefill"]
            for b, _, kv, decode in parts["decode"]
        ]
        rows = [(kind, b, n, kv, BASE + ms) for kind in kinds.split() for b, n, kv, ms in parts[kind]]
    return HEADER + "".join(f"{p},{b},{n},{kv},{ms * (1 + noise * rng.uniform(-1, 1))}\n" for p, b, n, kv, ms in rows)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """An exact table of timings."""
    path = tmp_path / "timings.csv"
    path.write_text(timings())
    return path


def coefficients(path: Path, **options: object) -> list[float]:
    """Of the fitted law, without the base of every iteration."""
    clock = calibrate(path, **options).clock  # type: ignore[arg-type]
    return [getattr(clock, name) for name in COEFFICIENTS[1:]]


def test_a_law_is_found_again(table: Path) -> None:
    """Tests that an exact table gives the law it was made with, no errors, and its own range."""
    found = calibrate(table)
    assert coefficients(table) == pytest.approx(LAW)
    assert (found.errors["prefill"].points, found.errors["decode"].points) == (4, 9)
    assert max(e.worst for e in found.errors.values()) < 1e-9
    assert found.ranges == {
        "prompt tokens": (64, 2048), "requests decoding": (1, 64), "KV tokens": (32, 64 * 4000),
    }  # fmt: skip
    assert found.notes == (APART,)
    assert found.untold == ("base_ms",)
    assert (found.clock.base_ms, found.base_error_ms) == (0, None)
    assert found.document()["mixed"] is True


def test_the_base_of_every_iteration_is_found(tmp_path: Path) -> None:
    """Tests that iterations of all three kinds tell the base from the other fixed parts, however the rows lie."""
    path = tmp_path / "all.csv"
    path.write_text(timings(kinds="prefill decode mixed"))
    found = calibrate(path)
    assert found.clock.base_ms == pytest.approx(BASE)
    assert coefficients(path) == pytest.approx(LAW)
    assert (found.untold, found.notes) == ((), ())
    assert found.base_error_ms == pytest.approx(0, abs=1e-6)
    path.write_text(timings(0.02, kinds="prefill decode mixed"))
    noisy = calibrate(path)
    assert noisy.base_error_ms is not None
    assert abs(noisy.clock.base_ms - BASE) < noisy.base_error_ms < 40
    path.write_text(timings(0.5, kinds="prefill decode mixed"))
    assert "the scatter leaves base_ms open" in calibrate(path).notes[-1]


@pytest.mark.parametrize(
    ("kinds", "lacking"),
    [
        ("prefill decode", "prompts and decoding together"), ("prefill mixed", "decoding alone"),
        ("decode mixed", "prompts alone"), ("mixed", "prompts alone or decoding alone"),
        ("decode", "prompts alone or prompts and decoding together"),
    ],
)  # fmt: skip
def test_what_cannot_tell_the_base_is_said(tmp_path: Path, kinds: str, lacking: str) -> None:
    """Tests that the base is 0 and named where kinds of iterations are missing; the iterations there were still fit."""
    path = tmp_path / "some.csv"
    path.write_text(timings(kinds=kinds))
    found = calibrate(path)
    assert found.clock.base_ms == 0
    assert "base_ms" in found.untold
    assert (
        found.notes[0] == f"no iterations with {lacking}: base_ms cannot be told from the other fixed parts, and is 0"
    )
    assert max(errors.worst for errors in found.errors.values()) < 1e-6
    if kinds == "mixed":
        assert {"prefill_base_ms", "decode_base_ms"} < set(found.untold)


def test_mixed_iterations_and_gzip(tmp_path: Path) -> None:
    """Tests that iterations with both parts determine the per-token laws; the two bases only together."""
    path = tmp_path / "mixed.csv.gz"
    path.write_bytes(gzip.compress(timings(mixed=True).encode()))
    found = coefficients(path)
    assert found[0] + found[2] == pytest.approx(LAW[0] + LAW[2])
    assert (found[1], found[3], found[4]) == pytest.approx((LAW[1], LAW[3], LAW[4]))


def test_noise_and_residuals(tmp_path: Path) -> None:
    """Tests that 5 % of noise leaves a law near, with errors of that size."""
    path = tmp_path / "noisy.csv"
    path.write_text(timings(0.05))
    assert coefficients(path)[1] == pytest.approx(LAW[1], rel=0.1)
    errors = calibrate(path).errors
    assert 0.001 < errors["decode"].mape < 0.05
    assert errors["decode"].mape <= errors["decode"].worst < 0.3
    assert errors["prefill"].rmse_ms > 0


def test_no_coefficient_is_negative(tmp_path: Path) -> None:
    """Tests that a table which falls with the batch gives a zero, not a negative coefficient."""
    path = tmp_path / "falling.csv"
    path.write_text(
        HEADER + "".join(f"decode,{b},0,{kv},{90 - b + kv / 100}\n" for b in (1, 8, 32) for kv in (10, 500))
    )
    found = coefficients(path)
    assert min(found) == found[3] == 0


def test_what_a_table_does_not_say_is_said(tmp_path: Path) -> None:
    """Tests the notes on phases that are missing and on columns that move together."""
    path = tmp_path / "decode.csv"
    path.write_text(HEADER + "".join(f"decode,{b},0,100,{50 + b}\n" for b in (1, 2, 4, 8)))
    notes = " ".join(calibrate(path).notes)
    assert "no points with prefill: that part of the model is zero" in notes
    assert "move together" in notes


def test_faults_with_their_lines(tmp_path: Path) -> None:
    """Tests that all wrong cells are named by line and column, and that too little is too little."""
    path = tmp_path / "bad.csv"
    path.write_text(HEADER + "warmup,1,1,1,1\nprefill,1,0,0,5\ndecode,x,0,-1,nan\ndecode,1\n")
    with pytest.raises(InputError) as caught:
        calibrate(path)
    assert [fault.path for fault in caught.value.faults] == [
        "line 2, phase", "line 3, prompt_tokens", "line 4, batch_size", "line 4, kv_tokens_per_request",
        "line 4, iteration_ms", "line 5, kv_tokens_per_request", "line 5, iteration_ms",
    ]  # fmt: skip
    path.write_text(HEADER + "decode,1,0,1,5\n")
    with pytest.raises(InputError, match="1 measured point left"):
        calibrate(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="has no column 'phase'"):
        calibrate(path)


def test_rows_are_chosen(tmp_path: Path) -> None:
    """Tests that a table of several servers wants a choice, which is checked."""
    path = tmp_path / "two.csv"
    lines = timings().splitlines()
    rows = [f"{line},{hardware}" for hardware in ("a100", "h100") for line in lines[1:]]
    path.write_text("\n".join([lines[0] + ",hardware", *rows]) + "\n")
    with pytest.raises(InputError, match="several servers, a100, h100; choose with --where hardware="):
        calibrate(path)
    assert coefficients(path, where={"hardware": "h100"}) == pytest.approx(LAW)
    with pytest.raises(InputError, match=r"no row has 'b200'; there are a100, h100"):
        calibrate(path, where={"hardware": "b200"})
    with pytest.raises(InputError, match="did you mean 'hardware'"):
        calibrate(path, where={"hardwear": "a100"})


def test_presets_are_what_the_fits_say(shared_data: Path) -> None:
    """Tests that each preset's law is the fit of its source, and the errors those of the data card."""
    for preset in presets().values():
        if preset.rows:
            batch = 32 if "2x" in preset.name else 64
            found = calibrate(
                shared_data / "splitwise_perf_model.csv", where=preset.rows, max_prompt_tokens=2048, max_batch=batch
            )
        else:
            found = calibrate(shared_data / "vidur_llama2_70b_a100_tp2_iterations.csv")
        for name in COEFFICIENTS:
            stated, fitted = getattr(preset.server.clock, name), getattr(found.clock, name)
            assert stated == pytest.approx(fitted, rel=1e-3), (preset.name, name)
    errors = calibrate(shared_data / "vidur_llama2_70b_a100_tp2_iterations.csv").errors
    assert [round(100 * errors[p].mape, 1) for p in ("prefill", "decode")] == [4.5, 2.2]


def test_servers_by_name_and_by_file(tmp_path: Path, table: Path) -> None:
    """Tests presets, files with a clock or a server, and what is wrong with others."""
    assert find_server("llama2-70b-2xa100").kv_capacity_tokens == 16_492
    with pytest.raises(UsageError, match="did you mean 'llama2-70b-2xa100'"):
        find_server("llama2-70b-2xa10")
    clock = tmp_path / "c.json"
    clock.write_text('{"kind": "linear", "mixed": true, "decode_base_ms": 5}')
    assert find_server(str(clock)).clock.decode_base_ms == 5  # type: ignore[union-attr]
    clock.write_text('{"clock": {"kind": "linear"}, "kv_capacity_tokens": 9}')
    assert find_server(str(clock)).kv_capacity_tokens == 9
    for text, words in (
        ('{"kv_capacity": 9}', "did you mean 'kv_capacity_tokens'"),
        ('{"kind": "linear", "decode_base_ms": -1}', "decode_base_ms"),
        ("[]", "a JSON object"),
    ):
        clock.write_text(text)
        with pytest.raises(InputError, match=words):
            find_server(str(clock))


def test_the_command_says_the_base(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Tests the line of a base that was told, the note of one that was not, and the field in the file."""
    path, clock = tmp_path / "t.csv", tmp_path / "c.json"
    path.write_text(timings(kinds="prefill decode mixed"))
    words = " ".join(cli("calibrate", str(path), "-o", str(clock)).out.split())
    assert "every iteration 9 ms, give or take" in words
    assert find_server(str(clock)).clock.base_ms == 9  # type: ignore[union-attr]
    path.write_text(timings())
    words = " ".join(cli("calibrate", str(path), "-o", str(clock)).out.split())
    assert "every iteration" not in words
    assert APART in words


def _passes(n: int = 30) -> list[dict[str, Any]]:
    """Forward passes of a known server, prompts in every third."""
    rows = []
    for i in range(n):
        prompts, batch = int(i % 3 == 0), 1 + i % 7
        ms = 10 + prompts * (5 + 0.05 * 100 * (1 + i % 4)) + 0.1 * batch
        counts = {"num_prefill_requests": prompts, "sum_prefill_tokens": 100 * (1 + i % 4) * prompts,
                  "num_decode_requests": batch, "sum_decode_kv_tokens": 0}  # fmt: skip
        rows.append({"version": 1, "wall_time": ms / 1000, "scheduled_requests": counts})
    return rows


def test_what_no_cost_model_explains_is_refused(tmp_path: Path) -> None:
    """Tests times in another unit, times without a law, a count that is missing."""
    path = tmp_path / "passes.jsonl"

    def refused(rows: list[dict[str, Any]], words: str) -> None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(InputError, match=words):
            calibrate(path)

    for factor in (1000, 1e-3):
        refused([row | {"wall_time": row["wall_time"] * factor} for row in _passes()], "the times are in another unit")
    noise = [row | {"wall_time": 10.0 ** (i % 5 - 4)} for i, row in enumerate(_passes())]
    refused(noise, "no linear model explains these times: the best is .*% off on average; a model is used up to 50%")
    rows = _passes()
    del rows[3]["scheduled_requests"]["sum_prefill_tokens"]
    refused(rows, "line 4, scheduled_requests, sum_prefill_tokens: is missing")
    refused([{"a": 1}], "JSON without scheduled_requests or iterLatencyMS; allowed: a log of iterations, or a CSV")
    refused([], "line 1: is empty; allowed: a CSV table with phase, ")
    statistics = {"iterLatencyMS": 12, "inflightBatchingStats": {"numContextRequests": 1, "numGenRequests": 2}}
    refused([statistics], "line 1, inflightBatchingStats, numCtxTokens: is missing")


def test_lines_of_vllm_in_other_words(tmp_path: Path) -> None:
    """Tests that seconds in place of milliseconds, and more of the KV cache than there is, are named by their line."""
    path = tmp_path / "server.log"
    line = (
        "Iteration(1): 0 context requests, 0 context tokens, 2 generation requests, 2 generation tokens,"
        " iteration elapsed time: {}, GPU KV cache usage: {}%\n"
    )
    for time, usage, words in (
        ("0.011 s", "4.0", "line 1: found .*: names an iteration in other words"),
        ("11.0 ms", "400.0", "line 1: found a KV cache usage of 400.0%; allowed: up to 100%"),
    ):
        path.write_text(line.format(time, usage))
        with pytest.raises(InputError, match=words):
            calibrate(path)
