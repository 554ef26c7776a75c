"""Logs of iterations as engines write them: the law behind them is found again, and what they do not tell is said."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from iteration_files import CAPACITY, LAW, STEPS, WRITERS, Step, fpm, tensorrt, tensorrt_lines, vllm

from modelkit.errors import InputError
from modelkit.sources.calibrate import COEFFICIENTS, calibrate
from modelkit.sources.logs import recognised


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    """A file with a text."""

    def write(text: str) -> Path:
        path = tmp_path / "server.log"
        path.write_text(text)
        return path

    return write


def law(path: Path, **options: Any) -> list[float]:
    clock = calibrate(path, **options).clock
    return [getattr(clock, name) for name in COEFFICIENTS]


def test_the_law_is_found_again_in_each_kind(file: Callable[[str], Path], tmp_path: Path) -> None:
    """Tests the six coefficients from each log that has KV tokens, gzipped and nested too, and what is left out."""
    for name, left_out in (
        ("fpm", "1 iteration without work or without time, left out"),
        ("tensorrt", "1 iteration without inflightBatchingStats, left out"), ("vllm", "1 dummy iteration, left out"),
    ):  # fmt: skip
        path = file(WRITERS[name](STEPS))
        found = calibrate(path)
        assert law(path) == pytest.approx(LAW, rel=1e-3), name
        assert (found.untold, found.errors["mixed"].points) == ((), 4)
        assert left_out in found.notes
        with pytest.raises(InputError, match="iteration times, not requests; `modelkit calibrate`"):
            recognised(path)
    nested = tmp_path / "benchmark.json.gz"
    rows = [json.loads(line) for line in fpm(STEPS).splitlines()]
    nested.write_bytes(gzip.compress(json.dumps({"config": {}, "results": [{"fpms": rows}]}, indent=1).encode()))
    assert law(nested) == pytest.approx(LAW, rel=1e-3)


def test_what_a_log_does_not_tell_is_said(file: Callable[[str], Path]) -> None:
    """Tests unknown KV tokens, those of all blocks, a cache of unknown size, prefix reads and speculative decoding."""
    silent = "the log does not say how many KV tokens are held"
    path = file(tensorrt_lines(STEPS))
    found = calibrate(path)
    assert found.untold == ("decode_per_kv_token_ms",)
    assert found.notes[0].startswith(silent)
    assert not any("move together" in note for note in found.notes)
    path = file(vllm(STEPS).replace("GPU KV cache size", "size"))
    assert "its size is not: give it, --kv-capacity" in calibrate(path).notes[0]
    assert law(path, kv_capacity=CAPACITY) == pytest.approx(LAW, rel=1e-3)
    with pytest.raises(InputError, match="--kv-capacity: found 0"):
        calibrate(path, kv_capacity=0)
    old = "\n".join(line.partition(", GPU KV cache usage")[0] for line in vllm(STEPS).splitlines())
    assert calibrate(file(old)).notes[0].startswith(silent)
    path = file(tensorrt(STEPS).replace("numGenKvTokens", "other"))
    assert "KV tokens are those of all blocks in use, the prompts' own among them" in calibrate(path).notes
    path = file(fpm(STEPS).replace('"sum_prefill_kv_tokens": 0', '"sum_prefill_kv_tokens": 64'))
    assert any("prompts read the prefix cache" in note for note in calibrate(path).notes)
    path = file(vllm(STEPS).replace("20 generation tokens", "33 generation tokens"))
    assert any("3 iterations that made more or fewer tokens" in note for note in calibrate(path).notes)
    path = file(fpm(STEPS).replace('"sum_decode_kv_tokens": 20000', '"x": 1'))
    assert "3 iterations whose KV tokens are not said, left out" in calibrate(path).notes


def test_optional_fields_and_choices(file: Callable[[str], Path]) -> None:
    """Tests the least that a forward pass has, and the iterations of one worker or engine."""
    bare = []
    for s in STEPS:
        scheduled = {"num_prefill_requests": 1, "sum_prefill_tokens": s.tokens} if s.tokens else {}
        scheduled |= {"num_decode_requests": s.decoding, "sum_decode_kv_tokens": s.kv} if s.decoding else {}
        bare.append({"wall_time": s.ms / 1000, "scheduled_requests": scheduled})
    assert law(file("".join(json.dumps(row) + "\n" for row in bare))) == pytest.approx(LAW, rel=1e-3)
    twice = [Step(s.prompts, s.tokens, s.decoding, 2 * s.kv) for s in STEPS]
    path = file(fpm(twice).replace('"w"', '"v"') + fpm(STEPS))
    assert law(path, where={"worker_id": "w"}) == pytest.approx(LAW, rel=1e-3)
    with pytest.raises(InputError, match="no row has 'u'; there are v, w"):
        calibrate(path, where={"worker_id": "u"})
    path = file(vllm(STEPS).replace("EngineCore_DP0", "Engine 001:"))
    assert law(path, where={"engine": "1"}) == pytest.approx(LAW, rel=1e-3)


#: A kind of log, what is broken in it, how, and what is said.
BROKEN = [
    ("fpm", '"sum_prefill_tokens": 400', '"sum_prefill_tokens": -4', "line 2, scheduled_requests, sum_prefill_tokens"),
    ("fpm", '"num_decode_requests": 5', '"num_decode_requests": "5"', "line 7.*num_decode_requests"),
    ("fpm", '"version": 1', '"version": 2', "line 1, version: found 2; allowed: 1"),
    ("fpm", '"wall_time": ', '"wall": ', "line 1, wall_time: is missing"),
    ("fpm", '"num_prefill_requests": 1,', "", "line 1, scheduled_requests: has tokens of no request"),
    ("fpm", '"wall_time": 0.009', '"wall_time": NaN, "x": 1', "wall_time: found"),
    ("fpm", "}}\n", "}\n", "line 1: not JSON"),
    ("tensorrt", '"numGenRequests": 5', '"numGenRequests": [5]', r"\$\[6\], inflightBatchingStats, numGenRequests"),
    ("tensorrt", '"numCtxTokens": 400', '"numCtxTokens": true', r"\$\[1\], inflightBatchingStats, numCtxTokens"),
    ("tensorrt", '"inflightBatchingStats": {', '"inflightBatchingStats": 3, "x": {', "Stats: found 3"),
    ("tensorrt", '"iterLatencyMS": 9', '"iterLatencyMS": "9', r"not JSON|iterLatencyMS"),
    ("tensorrt", "]", "", "found the end of the file"),
    ("vllm", "400 context tokens", "-400 context tokens", r"line 4: found .* in other words"),
    ("vllm", "elapsed time: 9.0 ms", "elapsed time: nan ms", "line 3"),
    ("vllm", "generation requests", "decoding requests", "line 3"),
    ("vllm", "Iteration(1)", "Iteration(x)", "line 4"),
    ("vllm", "iteration elapsed", "elapsed", "line 3"),
    ("tensorrt_lines", "'num_ctx_tokens'", "'tokens'", "line 1: found .* in other words"),
    ("tensorrt_lines", "host_step_time", "step_time", "line 1"),
    ("tensorrt_lines", "states = {", "states = [", "line 1"),
]  # fmt: skip


def test_broken_logs_are_refused_with_their_place(file: Callable[[str], Path]) -> None:
    """Tests wrong types and numbers, missing keys, other wordings and broken JSON."""
    for name, before, after, words in BROKEN:
        text = WRITERS[name](STEPS)
        assert before in text
        with pytest.raises(InputError, match=words) as caught:
            calibrate(file(text.replace(before, after, 1)))
        assert caught.value.exit_code == 2


def test_logs_without_iterations(file: Callable[[str], Path], cli: Callable[..., Any]) -> None:
    """Tests the words on logs of other lines, of idle engines only, and empty lists."""
    assert "has no column 'phase'" in cli("calibrate", str(file("INFO starting\nINFO ready\n")), code=2).err
    path = file(fpm(STEPS[:1]).splitlines()[1] + "\n")
    assert "has no iteration to fit: 1 iteration without work" in " ".join(
        cli("calibrate", str(path), code=2).err.split()
    )


def test_the_command(file: Callable[[str], Path], cli: Callable[..., Any], tmp_path: Path) -> None:
    """Tests that the command says what was not told, and writes the clock."""
    said = cli("calibrate", str(file(tensorrt_lines(STEPS))), "-o", str(tmp_path / "c.json")).out
    assert "not told" in said
    assert json.loads((tmp_path / "c.json").read_text())["decode_per_request_ms"] > 0
    path = file(vllm(STEPS).replace("GPU KV cache size", "size"))
    cli("calibrate", str(path), "--kv-capacity", str(CAPACITY), "-o", str(tmp_path / "c.json"))
    assert json.loads((tmp_path / "c.json").read_text())["decode_per_kv_token_ms"] == pytest.approx(LAW[5], rel=1e-3)
