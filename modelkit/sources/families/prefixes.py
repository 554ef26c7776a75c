"""A family of requests that share prefixes: questions behind system prompts."""

from __future__ import annotations

import numpy as np

from modelkit.instance import Instance, Prefix, PrefixCache, Request, Server
from modelkit.sources.families.drawing import Ints, family, poisson_times, require
from modelkit.sources.families.kv import stem_of_server
from modelkit.sources.servers import find_server
from modelkit.text import count

#: Tokens that the server holds where neither it nor the user says so.
KV_CAPACITY = 16_492


@family(
    "shared-prefix",
    summary="questions behind the system prompt of their group, in random order, on a server with a prefix cache",
    reference="the benchmark generated-shared-prefix of SGLang (Zheng et al., NeurIPS 2024); lengths vary by a half",
    seed="seed of the draw",
    requests="number of requests",
    groups="groups, of which each request is equally likely to be",
    system_prompt="mean tokens of a group's system prompt",
    question="mean tokens of a question behind it",
    answer="mean tokens of an answer",
    rate="mean arrivals per round, or with a server per second (Poisson); 0: all at once",
    kv_capacity="KV capacity M [token]; default: the server's, or 16492",
    server="preset or JSON file of a server; default: the unit clock",
    keep="the cache keeps tokens that nobody uses until memory is needed",
)
def shared_prefix(
    *,
    seed: int = 0,
    requests: int = 256,
    groups: int = 16,
    system_prompt: int = 512,
    question: int = 64,
    answer: int = 64,
    rate: float = 0.0,
    kv_capacity: int | None = None,
    server: str | None = None,
    keep: bool = False,
) -> Instance:
    """Requests of groups; each length is uniform from half its mean to one and a half."""
    require(locals(), seed=0, requests=1, groups=1, system_prompt=1, question=1, answer=1, rate=0, kv_capacity=3)
    rng = np.random.default_rng(seed)
    host = find_server(server) if server is not None else Server()
    capacity = kv_capacity or host.kv_capacity_tokens or KV_CAPACITY
    seconds = poisson_times(rng, requests, rate)
    arrival = np.floor(seconds).astype(np.int64) if server is None else seconds
    group = rng.integers(0, groups, requests)
    prefix = np.minimum(_around(rng, groups, system_prompt)[group], max(1, capacity // 2))
    own = np.minimum(_around(rng, requests, question), np.maximum(1, capacity - prefix - 1))
    output = np.minimum(_around(rng, requests, answer), np.maximum(1, capacity - prefix - own))
    on = f"-{stem_of_server(server)}" if server is not None else ""
    rows = zip(arrival.tolist(), group.tolist(), prefix.tolist(), own.tolist(), output.tolist(), strict=True)
    return Instance(
        name=f"shared-prefix-n{requests}-g{groups}-p{system_prompt}-m{capacity}{on}-s{seed}",
        source="family shared-prefix",
        description=f"shared-prefix, {count(requests, 'request')} of {count(groups, 'group')}, seed {seed}",
        server=host.model_copy(update={"kv_capacity_tokens": capacity, "prefix_cache": PrefixCache(keep=keep)}),
        requests=tuple(
            Request(
                id=f"r{i}",
                arrival=at,
                prompt_tokens=shared + alone,
                output_tokens=tokens,
                prefix=Prefix(group=f"g{number + 1}", tokens=shared),
            )
            for i, (at, number, shared, alone, tokens) in enumerate(rows, start=1)
        ),
    )


def _around(rng: np.random.Generator, n: int, mean: int) -> Ints:
    """Whole lengths, uniform from half the mean to one and a half; shape [n]."""
    return rng.integers(max(1, (mean + 1) // 2), mean + mean // 2 + 1, n)
