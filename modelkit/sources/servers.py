"""Servers by name: cost models fitted to published profiles, and the memory that is left for the KV cache.

Each is what `modelkit calibrate` makes of a public table, rounded to what it prints; a test repeats the fits where the
tables are at hand. A cost model holds within the range it was fitted in, which each summary states.

Fixed parts: both tables time prefills without decoding and decode rounds without prompts. That gives what an iteration
of either kind lasts beyond its tokens, and says nothing of iterations with both; the presets add the two there, with
``base_ms`` 0. Two runs of vLLM on one card (``benchmarks/vllm_costs.py``) say of such iterations that the fixed part is
paid once (a prompt adds 0 to 0.02 of a decode round's), and that decoding takes about twice as long beside a prompt as
without, beyond its fixed part. The model has no term for that. So the sum is too long with few requests in progress, by
up to the smaller of both bases, and near with full batches; paid once, iterations come out right with few and too short
with many: over the runs neither is clearly nearer. To pay once, set ``base_ms`` to the smaller of both bases and
subtract it from both: prefills alone and decode rounds alone last as before.

Memory: 16,492 tokens for Llama-2-70B on two A100 is the figure of Jaillet et al., arXiv 2502.07115. For the others our
estimate: 90 % of the memory of the cards, less the weights in 16 bits, by the bytes that a cached token takes
(2 · layers · key/value heads · head width · 2 bytes: 0.328 MB for Llama-2-70B, 4.01 MB for BLOOM-176B). By it two A100
would hold 18,000 tokens.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from modelkit.errors import Fault, InputError, UsageError, shown
from modelkit.instance import LinearClock, Server
from modelkit.io import faults_of, read_json, trim
from modelkit.registry import Registry

_VIDUR = "operator profiles of microsoft/vidur (MIT), 80 layers composed"
_SPLITWISE = "measured end to end, Mutinifni/splitwise-sim data/perf_model.csv (MIT); Patel et al., ISCA 2024"
#: Columns of the measured table that choose a preset's rows, and limits of the fit.
_LLAMA = "Llama-2-70B, 16 bits"
_BLOOM = "BLOOM-176B, 16 bits"


@dataclass(frozen=True)
class Preset:
    """A server by name.

    Parameters
    ----------
    valid
        Where the cost model was fitted.
    rows
        What ``modelkit calibrate --where`` takes of the source's table, and its limits.
    fixed_parts
        Which measurements the fixed parts of prefill and decode come from.
    """

    name: str
    summary: str
    source: str
    valid: str
    server: Server
    rows: dict[str, Any]
    fixed_parts: str = "prefills and decode rounds timed apart, added where an iteration has both"


def _preset(
    name: str,
    words: str,
    kv_capacity: int,
    costs: tuple[float, float, float, float, float],
    *,
    rows: dict[str, Any],
    source: str = _SPLITWISE,
    valid: str = "prompts of 128 to 2,048 tokens an iteration, 1 to 64 requests that hold about 576 tokens each",
) -> Preset:
    keys = (
        "prefill_base_ms",
        "prefill_per_token_ms",
        "decode_base_ms",
        "decode_per_request_ms",
        "decode_per_kv_token_ms",
    )
    clock = LinearClock(kind="linear", mixed=True, **dict(zip(keys, costs, strict=True)))
    return Preset(name, words, source, valid, Server(kv_capacity_tokens=kv_capacity, clock=clock), rows)


def _rows(model: str, hardware: str, cards: int) -> dict[str, Any]:
    return {"model": model, "hardware": hardware, "tensor_parallel": str(cards)}


_PRESETS = (
    _preset(
        "llama2-70b-2xa100", f"{_LLAMA}, on two A100-80GB", 16_492, (13.69, 0.364, 53.4, 0.1549, 1.001e-4),
        rows={}, source=_VIDUR,
        valid="one prompt of 64 to 4,096 tokens, 1 to 128 requests that hold 32 to 4,032 tokens each",
    ),
    _preset(
        "llama2-70b-2xa100-measured", f"{_LLAMA}, on two A100-80GB", 16_492, (23.55, 0.3626, 55.39, 0.4938, 1.238e-4),
        rows=_rows("llama2-70b", "a100-80gb", 2),
        valid="prompts of 128 to 2,048 tokens an iteration, 1 to 32 requests that hold about 576 tokens each",
    ),
    _preset(
        "llama2-70b-4xa100", f"{_LLAMA}, on four A100-80GB", 457_000, (19.16, 0.226, 42.97, 0.1593, 4.691e-4),
        rows=_rows("llama2-70b", "a100-80gb", 4),
    ),
    _preset(
        "llama2-70b-8xa100", f"{_LLAMA}, on eight A100-80GB", 1_336_000, (40.4, 0.118, 43.6, 0.1689, 4.183e-4),
        rows=_rows("llama2-70b", "a100-80gb", 8),
    ),
    _preset(
        "llama2-70b-2xh100", f"{_LLAMA}, on two H100-80GB", 18_000, (19.07, 0.1384, 36.84, 0.4167, 6.473e-5),
        rows=_rows("llama2-70b", "h100-80gb", 2),
        valid="prompts of 128 to 2,048 tokens an iteration, 1 to 32 requests that hold about 576 tokens each",
    ),
    _preset(
        "llama2-70b-4xh100", f"{_LLAMA}, on four H100-80GB", 457_000, (27.25, 0.08155, 28.69, 0.2765, 1.162e-4),
        rows=_rows("llama2-70b", "h100-80gb", 4),
    ),
    _preset(
        "llama2-70b-8xh100", f"{_LLAMA}, on eight H100-80GB", 1_336_000, (39.0, 0.04467, 29.47, 0.1811, 2.344e-4),
        rows=_rows("llama2-70b", "h100-80gb", 8),
    ),
    _preset(
        "bloom-176b-8xa100", f"{_BLOOM}, on eight A100-80GB", 55_000, (45.41, 0.2386, 47.25, 0.4467, 4.86e-4),
        rows=_rows("bloom-176b", "a100-80gb", 8),
    ),
    _preset(
        "bloom-176b-8xh100", f"{_BLOOM}, on eight H100-80GB", 55_000, (25.8, 0.1066, 35.23, 0.2801, 2.433e-4),
        rows=_rows("bloom-176b", "h100-80gb", 8),
    ),
)  # fmt: skip


REGISTRY = Registry("server", {preset.name: preset for preset in _PRESETS})


def presets() -> dict[str, Preset]:
    """All presets by name."""
    return REGISTRY.entries()


def find_server(text: str | os.PathLike[str]) -> Server:
    """The server that a preset's name says, or a JSON file with a clock or a server.

    Raises
    ------
    UsageError
        There is no such preset, or the file cannot be opened.
    InputError
        With all faults of the file.
    """
    if not isinstance(text, str | os.PathLike):
        raise UsageError(f"a server is a preset's name or a JSON file; found {shown(text)}")
    text = os.fspath(text)
    if text in REGISTRY or not (text.endswith((".json", ".json.gz")) or os.path.isfile(text)):
        return REGISTRY[text].server
    document = read_json(text)
    if isinstance(document, dict) and "kind" in document:
        document = {"clock": document}
    if not isinstance(document, dict):
        raise InputError(text, [Fault("$", "allowed: a JSON object, a clock or a server")])
    known = {(): tuple(Server.model_fields), ("clock",): tuple(LinearClock.model_fields)}
    try:
        return Server.model_validate(trim(document, Server))
    except ValidationError as error:
        raise InputError(text, faults_of(error, known)) from None
