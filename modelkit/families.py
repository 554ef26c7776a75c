"""Named families of instances, each one function of a seed and a few options.

The same options and seed give the same instance.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from modelkit.errors import Fault, InputError, shown
from modelkit.instance import Instance, LinearClock, Request, Server
from modelkit.io import checked
from modelkit.predictions import with_predictions
from modelkit.registry import Maker, Registry
from modelkit.servers import find_server

Ints = npt.NDArray[np.int64]


_REGISTRY = Registry("family")
family = _REGISTRY.register


def families() -> dict[str, Maker]:
    """All families by name."""
    return _REGISTRY.makers()


def generate(name: str, *, predictions: str | None = None, **options: Any) -> Instance:
    """An instance of a family.

    Parameters
    ----------
    predictions
        Model of what policies see of output lengths (`modelkit.predictions`), such as ``noise:0.2``; drawn from
        the seed of the family. None: what the family says, mostly the truth.

    Raises
    ------
    UsageError
        No such family or prediction model.
    InputError
        An option is out of its range.
    """
    maker = _REGISTRY[name]
    instance = checked(f"generate {name}", lambda: maker.make(**options))
    if predictions is None:
        return instance
    return with_predictions(instance, predictions, np.random.default_rng([options.get("seed", 0), 1]))


#: Largest value of an option; of any other a billion.
_MOST = {"requests": 1e6, "slots": 1e6, "kv_capacity": 1e12, "seed": float("inf")}


def _require(options: Mapping[str, Any], **least: float) -> None:
    """Refuse options below their least value or beyond all reason, all at once."""
    faults = []
    for name, bound in least.items():
        value, most = options[name], _MOST.get(name, 1e9)
        if value is not None and not bound <= value <= most:
            allowed = f"{bound:g} or more" if not value >= bound else f"at most {most:,.0f}"
            faults.append(Fault(f"--{name.replace('_', '-')}", f"found {shown(value)}; allowed: {allowed}"))
    if faults:
        raise InputError("generate", faults)


def _instance(
    name: str, source: str, description: str, capacity: int, arrival: Ints, prompt: Ints, output: Ints
) -> Instance:
    rows = zip(arrival.tolist(), prompt.tolist(), output.tolist(), strict=True)
    return Instance(
        name=name,
        description=description,
        source=source,
        server=Server(kv_capacity_tokens=capacity),
        requests=tuple(
            Request(id=f"r{i}", arrival=a, prompt_tokens=s, output_tokens=o)
            for i, (a, s, o) in enumerate(rows, start=1)
        ),
    )


def _lognormal(rng: np.random.Generator, n: int, *, mean: float, median: float) -> Ints:
    """Whole lengths, at least 1, from the lognormal law with this mean and median; shape [n]."""
    sigma = np.sqrt(2 * np.log(mean / median))
    return _whole(rng.lognormal(np.log(median), sigma, n))


def _whole(lengths: npt.NDArray[np.float64]) -> Ints:
    """Lengths as whole tokens, at least 1."""
    return np.maximum(1, np.rint(lengths)).astype(np.int64)


def _poisson_times(rng: np.random.Generator, n: int, rate: float) -> npt.NDArray[np.float64]:
    """Times of the first n events of a Poisson process; all 0 when the rate is 0."""
    return np.cumsum(rng.exponential(1 / rate, n)) if rate else np.zeros(n)


def _stem(server: str | None) -> str:
    """A server's name, or that of its file, as part of the name of an instance."""
    return PurePath(server or "").name.partition(".")[0]


def _fitted(prompt: Ints, output: Ints, capacity: int) -> tuple[Ints, Ints]:
    """Lengths cut so that every request fits alone: the prompt to half of M, then the output to the rest."""
    prompt = np.minimum(prompt, max(1, capacity // 2))
    return prompt, np.minimum(output, capacity - prompt)


@family(
    "kv-synthetic",
    summary="tiny memory, uniform lengths: M ~ U{30..50}, s ~ U{1..5}, o ~ U{1..M-s}",
    reference="Jaillet et al., arXiv 2502.07115, synthetic experiments, arrival models 1 and 2",
    seed="seed of the draw",
    arrivals="model 1: all at once; model 2: Poisson, rate ~ U[0.5, 1.5] over T ~ U{40..60}|all-at-once|poisson",
    requests="number of requests; default: U{40..60}, or what arrives within T",
    kv_capacity="M [token]; default: U{30..50}",
)
def kv_synthetic(
    *, seed: int = 0, arrivals: str = "all-at-once", requests: int | None = None, kv_capacity: int | None = None
) -> Instance:
    """Synthetic instances of the KV-cache problem."""
    _require(locals(), seed=0, requests=1, kv_capacity=2)
    rng = np.random.default_rng(seed)
    capacity = int(rng.integers(30, 51)) if kv_capacity is None else kv_capacity
    if arrivals == "poisson":
        rate, last = rng.uniform(0.5, 1.5), int(rng.integers(40, 61))
        if requests is None:
            arrival = np.repeat(np.arange(last), rng.poisson(rate, last))
            arrival = arrival if len(arrival) else np.zeros(1, dtype=np.int64)
        else:
            arrival = np.floor(_poisson_times(rng, requests, rate)).astype(np.int64)
    else:
        arrival = np.zeros(int(rng.integers(40, 61)) if requests is None else requests, dtype=np.int64)
    prompt = rng.integers(1, min(5, capacity - 1) + 1, len(arrival))
    output = rng.integers(1, capacity - prompt + 1)
    return _instance(
        f"kv-synthetic-{arrivals}-n{len(arrival)}-m{capacity}-s{seed}",
        "family kv-synthetic",
        f"kv-synthetic, arrivals {arrivals}, seed {seed}",
        capacity,
        arrival,
        prompt,
        output,
    )


@family(
    "chat",
    summary="short chats: lognormal lengths (prompt mean 40.62, median 11; output mean 85.32, median 45)",
    reference="lengths and memory of the LMSYS-Chat-1M experiments of Jaillet et al., arXiv 2502.07115",
    seed="seed of the draw",
    requests="number of requests",
    rate="mean arrivals per round, or with a server per second (Poisson); 0: all at once",
    kv_capacity="M [token]; default: the server's, or 16492",
    server="preset or JSON file of a server; default: the unit clock",
)
def chat(
    *,
    seed: int = 0,
    requests: int = 1000,
    rate: float = 50.0,
    kv_capacity: int | None = None,
    server: str | None = None,
) -> Instance:
    """Chats on two A100 with Llama-2-70B; lengths are cut so that each request fits."""
    _require(locals(), seed=0, requests=1, rate=0, kv_capacity=2)
    rng = np.random.default_rng(seed)
    host = find_server(server) if server is not None else None
    kv_capacity = kv_capacity or (host and host.kv_capacity_tokens) or 16_492
    seconds = _poisson_times(rng, requests, rate)
    arrival = np.floor(seconds).astype(np.int64)
    prompt, output = _fitted(
        _lognormal(rng, requests, mean=40.62, median=11),
        _lognormal(rng, requests, mean=85.32, median=45),
        kv_capacity,
    )
    if host is not None:
        return timed_instance(
            f"chat-n{requests}-rate{rate:g}-m{kv_capacity}-{_stem(server)}-s{seed}",
            "family chat",
            f"chat, {rate:g} arrivals per second on {server}, seed {seed}",
            host.model_copy(update={"kv_capacity_tokens": kv_capacity}),
            prompt,
            output,
            arrival=seconds,
        )
    return _instance(
        f"chat-n{requests}-rate{rate:g}-m{kv_capacity}-s{seed}",
        "family chat",
        f"chat, {rate:g} arrivals per round, seed {seed}",
        kv_capacity,
        arrival,
        prompt,
        output,
    )


@family(
    "service-hour",
    summary="an hour of a conversation service: restless Poisson arrivals, mixed long prompts, two kinds of answer",
    reference="laws chosen to resemble the published summary of the Azure 2023 conversation trace"
    " (Patel et al., ISCA 2024): prompt mean 1155, median 1020; output mean 211, median 129; 5.5 requests/s",
    seed="seed of the draw",
    requests="number of requests",
    rate="mean arrivals per second",
    round_ms="without a server, length of a round [ms]",
    kv_capacity="M [token]; default: the server's, or 100000",
    server="preset or JSON file of a server; default: the unit clock",
)
def service_hour(
    *,
    seed: int = 0,
    requests: int = 19_366,
    rate: float = 5.53,
    round_ms: float = 55.0,
    kv_capacity: int | None = None,
    server: str | None = None,
) -> Instance:
    """Arrivals of a Poisson process whose rate drifts from minute to minute; lengths from mixtures."""
    _require(locals(), seed=0, requests=1, rate=1e-6, round_ms=1e-3, kv_capacity=2)
    rng = np.random.default_rng(seed)
    host = find_server(server) if server is not None else None
    kv_capacity = kv_capacity or (host and host.kv_capacity_tokens) or 100_000
    # the rate of each minute: a mean-reverting walk with about 20 % spread
    minutes = int(requests / rate / 60 * 2) + 10
    walk = np.zeros(minutes)
    for minute in range(1, minutes):
        walk[minute] = 0.7 * walk[minute - 1] + rng.normal(0, 0.14)
    intensity = np.cumsum(np.exp(walk - walk.var() / 2)) * rate * 60
    events = np.cumsum(rng.exponential(1.0, requests))
    seconds = np.interp(events, np.concatenate([[0.0], intensity]), np.arange(minutes + 1) * 60.0)
    arrival = np.ceil((seconds - seconds[0]) * 1000 / round_ms).astype(np.int64)

    # prompts: short ones, a hump about 1,000, long ones, and a peak about 4,000
    kind = rng.random(requests)
    prompt = np.select(
        [kind < 0.42, kind < 0.85, kind < 0.92],
        [
            rng.lognormal(np.log(340), 0.6, requests),
            rng.lognormal(np.log(1080), 0.1, requests),
            rng.lognormal(np.log(2700), 0.3, requests),
        ],
        rng.normal(4050, 60, requests),
    )
    # answers: a brief and a full kind, the full one rarer after long prompts
    full = rng.random(requests) < np.where(prompt > 2000, 0.2, 0.41)
    output = np.where(full, rng.normal(398, 55, requests), rng.lognormal(np.log(88), 0.5, requests))
    prompts, outputs = _fitted(_whole(prompt), _whole(output), kv_capacity)
    if host is not None:
        return timed_instance(
            f"service-hour-n{requests}-m{kv_capacity}-{_stem(server)}-s{seed}",
            "family service-hour",
            f"service-hour, {rate:g} requests/s on {server}, seed {seed}",
            host.model_copy(update={"kv_capacity_tokens": kv_capacity}),
            prompts,
            outputs,
            arrival=seconds - seconds[0],
        )
    return _instance(
        f"service-hour-n{requests}-m{kv_capacity}-s{seed}",
        "family service-hour",
        f"service-hour, {rate:g} requests/s in rounds of {round_ms:g} ms, seed {seed}",
        kv_capacity,
        arrival,
        prompts,
        outputs,
    )


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
    return _whole(drawn)


def slot_instance(
    name: str,
    source: str,
    description: str,
    slots: int,
    clock: LinearClock,
    prompt: Ints,
    output: Ints,
    predicted: Ints | None = None,
) -> Instance:
    """Instance of the slot problem: all requests known at 0."""
    server = Server(slots=slots, clock=clock)
    return timed_instance(name, source, description, server, prompt, output, predicted)


def timed_instance(
    name: str,
    source: str,
    description: str,
    server: Server,
    prompt: Ints,
    output: Ints,
    predicted: Ints | None = None,
    arrival: npt.NDArray[np.float64] | None = None,
) -> Instance:
    """Instance under the linear clock: all requests known at 0, or arriving at these seconds."""
    guesses = [None] * len(output) if predicted is None else predicted.tolist()
    seconds = [0.0] * len(output) if arrival is None else arrival.tolist()
    return Instance(
        name=name,
        description=description,
        source=source,
        server=server,
        requests=tuple(
            Request(id=f"r{i}", arrival=a, prompt_tokens=s, output_tokens=o, predicted_output_tokens=p)
            for i, (a, s, o, p) in enumerate(
                zip(seconds, prompt.tolist(), output.tolist(), guesses, strict=True), start=1
            )
        ),
    )


@family(
    "gsm8k",
    summary="1,319 questions on 200 slots: the reproduction target of the slot problem",
    reference="laws with the published means and standard deviations (Pang, Li, She, Wang, arXiv 2502.15763): prompt"
    " 68.43 and 25.04, output 344.83 and 187.99 tokens; prefill 40.4 ms + 0.118 ms a token, decode round 74.4 ms",
    seed="seed of the draw",
    requests="number of requests",
    slots="J",
    output_law="law of the outputs|gamma|lognormal",
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
    """Lengths from a gamma law (prompts) and a gamma or lognormal law (outputs), rounded, at least 1."""
    _require(locals(), seed=0, requests=1, slots=1, prediction_error=0)
    rng = np.random.default_rng(seed)
    prompt = _whole(rng.gamma((68.43 / 25.04) ** 2, 25.04**2 / 68.43, requests))
    output = output_lengths(output_law, requests, rng)
    predicted = None
    if prediction_error:
        predicted = _whole(output * rng.uniform(1 - prediction_error, 1 + prediction_error, requests))
    error = f"-error{prediction_error:g}" if prediction_error else ""
    law = "" if output_law == "gamma" else f"-{output_law}"
    return slot_instance(
        f"gsm8k-n{requests}-j{slots}{law}{error}-s{seed}",
        "family gsm8k",
        f"gsm8k, outputs {output_law}, prediction error {prediction_error:g}, seed {seed}",
        slots,
        GSM8K_CLOCK,
        prompt,
        output,
        predicted,
    )


@family(
    "slot-synthetic",
    summary="tiny slot instances: s ~ U{1..20}, o ~ U{1..12}, whole iteration times",
    reference="for tests against brute force",
    seed="seed of the draw",
    requests="number of requests",
    slots="J",
    levels="prefill in three levels instead of a linear law",
)
def slot_synthetic(*, seed: int = 0, requests: int = 4, slots: int = 2, levels: bool = False) -> Instance:
    """Random slot instances in which stages, decode rounds and levels all matter."""
    _require(locals(), seed=0, requests=1, slots=1)
    rng = np.random.default_rng(seed)
    prompt = rng.integers(1, 21, requests)
    output = rng.integers(1, 13, requests)
    base, per_token, tau = int(rng.integers(0, 40)), int(rng.integers(0, 3)), int(rng.integers(5, 30))
    low, middle = sorted(rng.integers(1, 100, 2).tolist())
    law: dict[str, Any] = {"prefill_base_ms": float(base), "prefill_per_token_ms": float(per_token)}
    if levels:
        law = {"prefill_levels": ((20, float(low)), (30, float(middle)), (20 * requests, float(middle + low)))}
    return slot_instance(
        f"slot-synthetic-n{requests}-j{slots}{'-levels' if levels else ''}-s{seed}",
        "family slot-synthetic",
        f"slot-synthetic, seed {seed}",
        slots,
        LinearClock(kind="linear", decode_base_ms=float(tau), **law),
        prompt,
        output,
    )
