"""Families of the KV-cache problem: tiny and synthetic, chats, an hour of a service."""

from __future__ import annotations

from pathlib import PurePath

import numpy as np

from modelkit.instance import Instance
from modelkit.sources.families.drawing import (
    Ints,
    family,
    gamma_times,
    lognormal,
    poisson_times,
    require,
    timed_instance,
    unit_instance,
    whole_lengths,
)
from modelkit.sources.servers import find_server


def stem_of_server(server: str | None) -> str:
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
    kv_capacity="KV capacity M [token]; default: U{30..50}",
)
def kv_synthetic(
    *, seed: int = 0, arrivals: str = "all-at-once", requests: int | None = None, kv_capacity: int | None = None
) -> Instance:
    """Synthetic instances of the KV-cache problem."""
    require(locals(), seed=0, requests=1, kv_capacity=2)
    rng = np.random.default_rng(seed)
    capacity = int(rng.integers(30, 51)) if kv_capacity is None else kv_capacity
    if arrivals == "poisson":
        rate, last = rng.uniform(0.5, 1.5), int(rng.integers(40, 61))
        if requests is None:
            arrival = np.repeat(np.arange(last), rng.poisson(rate, last))
            arrival = arrival if len(arrival) else np.zeros(1, dtype=np.int64)
        else:
            arrival = np.floor(poisson_times(rng, requests, rate)).astype(np.int64)
    else:
        arrival = np.zeros(int(rng.integers(40, 61)) if requests is None else requests, dtype=np.int64)
    prompt = rng.integers(1, min(5, capacity - 1) + 1, len(arrival))
    output = rng.integers(1, capacity - prompt + 1)
    return unit_instance(
        f"kv-synthetic-{arrivals}-n{len(arrival)}-m{capacity}-s{seed}",
        "family kv-synthetic",
        f"kv-synthetic, arrivals {arrivals}, seed {seed}",
        capacity=capacity,
        arrival=arrival,
        prompt=prompt,
        output=output,
    )


@family(
    "chat",
    summary="short chats: lognormal lengths (prompt mean 40.62, median 11; output mean 85.32, median 45)",
    reference="lengths and memory of the LMSYS-Chat-1M experiments of Jaillet et al., arXiv 2502.07115",
    seed="seed of the draw",
    requests="number of requests",
    rate="mean arrivals per round, or with a server per second (Poisson); 0: all at once",
    kv_capacity="KV capacity M [token]; default: the server's, or 16492",
    server="preset or JSON file of a server; default: the unit clock",
    burstiness="coefficient of variation of the gaps between arrivals (gamma distribution); 1: Poisson",
)
def chat(
    *,
    seed: int = 0,
    requests: int = 1000,
    rate: float = 50.0,
    kv_capacity: int | None = None,
    server: str | None = None,
    burstiness: float = 1.0,
) -> Instance:
    """Chats on two A100 with Llama-2-70B; lengths are cut so that each request fits."""
    require(locals(), seed=0, requests=1, rate=0, kv_capacity=2, burstiness=0.05)
    rng = np.random.default_rng(seed)
    host = find_server(server) if server is not None else None
    kv_capacity = kv_capacity or (host and host.kv_capacity_tokens) or 16_492
    seconds = gamma_times(rng, requests, rate, burstiness)
    bursts = "" if burstiness == 1 else f"-cv{burstiness:g}"
    arrival = np.floor(seconds).astype(np.int64)
    prompt, output = _fitted(
        lognormal(rng, requests, mean=40.62, median=11),
        lognormal(rng, requests, mean=85.32, median=45),
        kv_capacity,
    )
    if host is not None:
        return timed_instance(
            f"chat-n{requests}-rate{rate:g}{bursts}-m{kv_capacity}-{stem_of_server(server)}-s{seed}",
            "family chat",
            f"chat, {rate:g} arrivals per second on {server}, seed {seed}",
            host.model_copy(update={"kv_capacity_tokens": kv_capacity}),
            prompt=prompt,
            output=output,
            arrival=seconds,
        )
    return unit_instance(
        f"chat-n{requests}-rate{rate:g}{bursts}-m{kv_capacity}-s{seed}",
        "family chat",
        f"chat, {rate:g} arrivals per round, seed {seed}",
        capacity=kv_capacity,
        arrival=arrival,
        prompt=prompt,
        output=output,
    )


@family(
    "service-hour",
    summary="an hour of a conversation service: Poisson arrivals with drifting rate, mixed long prompts, bimodal output"
    " lengths",
    reference="distributions chosen to resemble the published summary of the Azure 2023 conversation trace"
    " (Patel et al., ISCA 2024): prompt mean 1155, median 1020; output mean 211, median 129; 5.5 requests/s",
    seed="seed of the draw",
    requests="number of requests",
    rate="mean arrivals per second",
    round_ms="without a server, length of a round [ms]",
    kv_capacity="KV capacity M [token]; default: the server's, or 100000",
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
    require(locals(), seed=0, requests=1, rate=1e-6, round_ms=1e-3, kv_capacity=2)
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
    prompts, outputs = _fitted(whole_lengths(prompt), whole_lengths(output), kv_capacity)
    if host is not None:
        return timed_instance(
            f"service-hour-n{requests}-m{kv_capacity}-{stem_of_server(server)}-s{seed}",
            "family service-hour",
            f"service-hour, {rate:g} requests/s on {server}, seed {seed}",
            host.model_copy(update={"kv_capacity_tokens": kv_capacity}),
            prompt=prompts,
            output=outputs,
            arrival=seconds - seconds[0],
        )
    return unit_instance(
        f"service-hour-n{requests}-m{kv_capacity}-s{seed}",
        "family service-hour",
        f"service-hour, {rate:g} requests/s in rounds of {round_ms:g} ms, seed {seed}",
        capacity=kv_capacity,
        arrival=arrival,
        prompt=prompts,
        output=outputs,
    )
