"""The most requests in time of tiny instances whose every number is whole, by trying every whole millisecond.

For what `goodput_brute_force` leaves out: replicas, pauses, shared prefixes, limits of a request's own, and gaps of any
length, which `goodput_brute_force` has only until somebody arrives. The server is that of `naive_prefixes`, written
from the reference's words alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from itertools import chain, combinations, product
from typing import Any

import numpy as np
from naive_prefixes import Server, Token

import modelkit as mk
from modelkit.instance import Instance
from modelkit.requests import ServiceLevels


@dataclass
class PausingServer(Server):
    """One that also pauses requests; copying takes no time."""

    aside: dict[str, int] = field(default_factory=dict)  # tokens of the paused

    def clone(self) -> PausingServer:
        """Another server in the same state."""
        other = super().clone()
        assert isinstance(other, PausingServer)
        other.aside = dict(self.aside)
        return other

    @property
    def holds(self) -> bool:
        """Whether paused requests keep their memory and slots."""
        pause = self.instance.server.pause
        return pause is not None and pause.keep == "held"

    def held(self) -> set[Token]:
        """Prompt tokens of those in progress; the paused have not to read theirs again."""
        return super().held() | {token for name in self.aside for token in self.prompt(name)}

    def tokens(self) -> int:
        """All tokens held now; who pauses shares no prefix."""
        if not self.aside:
            return super().tokens()
        counted = {**self.made, **(self.aside if self.holds else {})}
        return sum(self.requests[name].prompt_tokens + k for name, k in counted.items())

    def pause(self, name: str) -> None:
        """Stop a request that has tokens."""
        self.aside[name] = self.made.pop(name)

    def resume(self, name: str) -> None:
        """Go on with one."""
        self.made[name] = self.aside.pop(name)


def subsets(names: list[str]) -> list[tuple[str, ...]]:
    return list(chain.from_iterable(combinations(names, size) for size in range(len(names) + 1)))


def most_in_time(instance: Instance, levels: ServiceLevels, chunk: int | None = None) -> int:
    """The most requests within their levels, of any schedule without evictions, on any replica."""
    server = instance.server.model_copy(update={"replicas": 1})
    n = len(instance.requests)

    @cache
    def alone(some: tuple[int, ...]) -> int:
        if not some:
            return 0
        part = instance.replace(server=server, requests=tuple(instance.requests[i] for i in some))
        return _most_on_one(part, levels, chunk)

    return max(
        sum(alone(tuple(i for i in range(n) if homes[i] == r)) for r in range(instance.server.replicas))
        for homes in product(range(instance.server.replicas), repeat=n)
        if homes[0] == 0
    )


def _most_on_one(instance: Instance, levels: ServiceLevels, chunk: int | None) -> int:
    requests = {r.id: r for r in instance.requests}
    arrival = {name: round(r.arrival * 1000) for name, r in requests.items()}
    limits = {name: levels.limits_of(r) for name, r in requests.items()}
    slots, last = instance.server.slots or len(requests), max(arrival.values())
    pauses = instance.server.pause is not None
    known: dict[Any, int] = {}

    def in_time(name: str, first: float, end: float) -> bool:
        own, o = limits[name], requests[name].output_tokens
        return not (
            (own.ttft_ms is not None and first - arrival[name] > own.ttft_ms)
            or (own.latency_ms is not None and end - arrival[name] > own.latency_ms)
            or (own.tpot_ms is not None and end - first > own.tpot_ms * (o - 1))
        )

    def most(server: PausingServer) -> int:
        """Of those that are not done, the most that can be in time."""
        going = {name: server.first.get(name) for name in (*server.made, *server.aside)}
        key = (
            server.now, tuple(server.made.items()), tuple(sorted(server.aside.items())), frozenset(server.cache),
            tuple(going.items()), frozenset(server.done), tuple(sorted(server.last.items())),
        )  # fmt: skip
        if key not in known:
            known[key] = max(map(after, moved(server)), default=0)
        return known[key]

    def after(pair: tuple[PausingServer, frozenset[str]]) -> int:
        server, before = pair
        ended = set(server.done) - before
        return sum(in_time(name, server.first[name], server.done[name]) for name in ended) + most(server)

    def moved(server: PausingServer) -> list[tuple[PausingServer, frozenset[str]]]:
        before, found = frozenset(server.done), []
        waiting = [
            name for name in requests
            if name not in server.made and name not in server.aside and name not in before
            and arrival[name] <= server.now
        ]  # fmt: skip
        if server.now < last:
            later = server.clone()
            later.wait(server.now + 1)
            found.append((later, before))
        stopping = subsets([name for name, k in server.made.items() if k]) if pauses else [()]
        for stopped, resumed, admitted in product(stopping, subsets(list(server.aside)), subsets(waiting)):
            ahead = server.clone()
            for name in stopped:
                ahead.pause(name)
            for name in resumed:
                ahead.resume(name)
            for name in admitted:
                ahead.admit(name)
            if not ahead.made or len(ahead.made) + len(ahead.aside) * ahead.holds > slots:
                continue
            if ahead.exclusive and admitted:
                ahead.prefill(list(admitted))
            else:
                ahead.round()
            if not ahead.worst:
                found.append((ahead, before))
        return found

    return most(PausingServer(instance, chunk))


def asked(seed: int) -> tuple[Instance, ServiceLevels, int | None]:
    """Two or three requests with levels of their own, on a server with replicas, pauses, a prefix cache, or none."""
    rng = np.random.default_rng([seed, 11])
    kind = ("replicas", "held", "swapped", "prefixes", "plain")[seed % 5]
    n, mixed = (3 if rng.random() < 0.6 else 2), bool(rng.random() < 0.7)
    prompt, output = rng.integers(1, 6, n), rng.integers(1, 4, n)
    clock = {
        "kind": "linear", "mixed": mixed, "base_ms": int(rng.integers(0, 2)),
        "prefill_base_ms": int(rng.integers(0, 4)), "prefill_per_token_ms": int(rng.integers(0, 2)),
        "decode_base_ms": int(rng.integers(1, 4)), "decode_per_request_ms": int(rng.integers(0, 3)),
        "decode_per_kv_token_ms": int(rng.random() < 0.3),
    }  # fmt: skip
    server: dict[str, Any] = {"clock": clock, "prefix_cache": {"keep": bool(rng.random() < 0.5)}}
    if rng.random() < 0.6:
        peak = prompt + output
        server["kv_capacity_tokens"] = int(rng.integers(peak.max(), peak.sum() + 1))
    if rng.random() < 0.4:
        server["slots"] = int(rng.integers(1, n + 1))
    if kind in ("held", "swapped"):
        server["pause"] = {"keep": kind}
        del server["prefix_cache"]
    if kind == "replicas":
        server["replicas"] = 2
    requests = [
        {"id": f"q{i}", "arrival": int(at) / 1000, "prompt_tokens": int(s), "output_tokens": int(o), "class": f"c{i}"}
        for i, (at, s, o) in enumerate(zip(np.sort(rng.integers(0, 9, n)), prompt, output, strict=True))
    ]  # fmt: skip
    if kind == "prefixes":
        for r in requests:
            r["prefix"] = {"group": "g", "tokens": int(rng.integers(1, r["prompt_tokens"] + 1))}
    drawn = {"ttft_ms": (3, 20), "tpot_ms": (2, 9), "latency_ms": (8, 40)}
    limits = {}
    for r in requests:
        own = {name: int(rng.integers(*ends)) for name, ends in drawn.items() if rng.random() < 0.6}
        limits[r["class"]] = own or {"ttft_ms": int(rng.integers(3, 15))}
    chunk = int(rng.integers(1, 5)) if mixed and kind == "plain" and rng.random() < 0.5 else None
    return mk.Instance(name=f"whole-{seed}", server=server, requests=requests), ServiceLevels(classes=limits), chunk
