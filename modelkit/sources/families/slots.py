"""Families of the slot problem."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelkit.instance import Instance, LinearClock, Server
from modelkit.sources.families.drawing import Ints, family, require, timed_instance, whole_lengths

#: Iteration times fitted to published measurements of Llama-2-70B on eight A100 (prefill), and the decode round
#: with which the figures of arXiv 2502.15763 come out.
GSM8K_CLOCK = LinearClock(kind="linear", prefill_base_ms=40.4, prefill_per_token_ms=0.118, decode_base_ms=74.4)


def output_lengths(law: str, n: int, rng: np.random.Generator) -> Ints:
    """Output lengths of answers to GSM8K questions: mean 344.83, standard deviation 187.99, shape [n].

    Parameters
    ----------
    law
        ``gamma`` or ``lognormal``.
    """
    drawn = rng.gamma(3.3647, 102.486, n) if law == "gamma" else rng.lognormal(5.7129, 0.5101, n)
    return whole_lengths(drawn)


def slot_instance(
    name: str,
    source: str,
    description: str,
    *,
    slots: int,
    clock: LinearClock,
    prompt: Ints,
    output: Ints,
    predicted: Ints | None = None,
) -> Instance:
    """Instance of the slot problem: all requests known at 0."""
    server = Server(slots=slots, clock=clock)
    return timed_instance(name, source, description, server, prompt=prompt, output=output, predicted=predicted)


@family(
    "gsm8k",
    summary="1,319 questions on 200 slots: the reproduction target of the slot problem",
    reference="distributions with the published means and standard deviations (Pang, Li, She, Wang, arXiv"
    " 2502.15763): prompt 68.43 and 25.04, output 344.83 and 187.99 tokens; prefill 40.4 ms + 0.118 ms per token,"
    " decode round 74.4 ms",
    seed="seed of the draw",
    requests="number of requests",
    slots="slots of the server, J",
    output_law="distribution of the outputs|gamma|lognormal",
    prediction_error="predictions are off by a factor from U[1 - e, 1 + e]",
)
def gsm8k(
    *,
    seed: int = 0,
    requests: int = 1319,
    slots: int = 200,
    output_law: str = "gamma",
    prediction_error: float = 0.0,
) -> Instance:
    """Lengths from a gamma distribution (prompts) and a gamma or lognormal one (outputs), rounded, at least 1."""
    require(locals(), seed=0, requests=1, slots=1, prediction_error=0)
    rng = np.random.default_rng(seed)
    prompt = whole_lengths(rng.gamma((68.43 / 25.04) ** 2, 25.04**2 / 68.43, requests))
    output = output_lengths(output_law, requests, rng)
    predicted = None
    if prediction_error:
        predicted = whole_lengths(output * rng.uniform(1 - prediction_error, 1 + prediction_error, requests))
    error = f"-error{prediction_error:g}" if prediction_error else ""
    law = "" if output_law == "gamma" else f"-{output_law}"
    return slot_instance(
        f"gsm8k-n{requests}-j{slots}{law}{error}-s{seed}",
        "family gsm8k",
        f"gsm8k, outputs {output_law}, prediction error {prediction_error:g}, seed {seed}",
        slots=slots,
        clock=GSM8K_CLOCK,
        prompt=prompt,
        output=output,
        predicted=predicted,
    )


@family(
    "slot-synthetic",
    summary="tiny slot instances: s ~ U{1..20}, o ~ U{1..12}, whole iteration times",
    reference="for tests against brute force",
    seed="seed of the draw",
    requests="number of requests",
    slots="slots of the server, J",
    levels="prefill in three levels instead of a linear cost model",
)
def slot_synthetic(*, seed: int = 0, requests: int = 4, slots: int = 2, levels: bool = False) -> Instance:
    """Random slot instances in which stages, decode rounds and levels all matter."""
    require(locals(), seed=0, requests=1, slots=1)
    rng = np.random.default_rng(seed)
    prompt = rng.integers(1, 21, requests)
    output = rng.integers(1, 13, requests)
    base, per_token, tau = int(rng.integers(0, 40)), int(rng.integers(0, 3)), int(rng.integers(5, 30))
    low, middle = sorted(rng.integers(1, 100, 2).tolist())
    prefill: dict[str, Any] = {"prefill_base_ms": float(base), "prefill_per_token_ms": float(per_token)}
    if levels:
        prefill = {"prefill_levels": ((20, float(low)), (30, float(middle)), (20 * requests, float(middle + low)))}
    return slot_instance(
        f"slot-synthetic-n{requests}-j{slots}{'-levels' if levels else ''}-s{seed}",
        "family slot-synthetic",
        f"slot-synthetic, seed {seed}",
        slots=slots,
        clock=LinearClock(kind="linear", decode_base_ms=float(tau), **prefill),
        prompt=prompt,
        output=output,
    )
