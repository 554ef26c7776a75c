"""A server with a prefix cache, token by token and round by round; what the judge is held against.

Written from the reference's words alone. A token of a prefix is its group and place, a token of one request its id and
place; the cache is a set of those that were read, and requests in progress hold those that they need.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import modelkit as mk
from modelkit.instance import LinearClock

Token = tuple[str, object, int]


@dataclass
class Server:
    """The state of a server; times in rounds or ms."""

    instance: mk.Instance
    chunk: int | None = None
    now: float = 0.0
    cache: set[Token] = field(default_factory=set)  # read, and not dropped
    made: dict[str, int] = field(default_factory=dict)  # of those in progress: tokens, in order of admission
    done: dict[str, float] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, tuple[float, int]] = field(default_factory=dict)  # use of each group, and its place
    peak: int = 0
    saved: int = 0
    worst: int = 0  # tokens above the capacity
    read: dict[str, int] = field(default_factory=dict)  # tokens that each request read itself

    def __post_init__(self) -> None:
        clock = self.instance.server.clock
        self.clock = clock if isinstance(clock, LinearClock) else None
        self.exclusive = self.clock is not None and not self.clock.mixed
        cache = self.instance.server.prefix_cache
        self.keep = cache is not None and cache.keep
        self.capacity = self.instance.server.kv_capacity_tokens or math.inf
        self.requests = {r.id: r for r in self.instance.requests}
        order = [r.prefix.group for r in self.instance.requests if self.shared(r.id)]
        self.places = {group: order.index(group) for group in order}

    def clone(self) -> Server:
        """Another server in the same state."""
        other = copy.copy(self)
        for name in ("cache", "made", "done", "first", "last", "read"):
            setattr(other, name, copy.copy(getattr(self, name)))
        return other

    def prompt(self, name: str) -> list[Token]:
        """The tokens of a prompt, in order."""
        r, shared = self.requests[name], self.shared(name)
        group = r.prefix.group if r.prefix else ""
        return [("shared", group, k) if k < shared else ("own", name, k) for k in range(r.prompt_tokens)]

    def shared(self, name: str) -> int:
        """Tokens of its prompt that a request may share; never the last."""
        r = self.requests[name]
        return 0 if r.prefix is None else min(r.prefix.tokens, r.prompt_tokens - 1)

    def held(self) -> set[Token]:
        """Prompt tokens that requests in progress hold, each once."""
        return {token for name in self.made for token in self.prompt(name)}

    def tokens(self) -> int:
        """All tokens held now."""
        return len(self.held()) + sum(self.made.values())

    def used(self, name: str) -> None:
        """Somebody of a group came or went who shares."""
        if self.shared(name):
            prefix = self.requests[name].prefix
            self.last[prefix.group] = (self.now, self.places[prefix.group])

    def admit(self, name: str) -> None:
        """Let a request start."""
        self.made[name] = 0
        self.read[name] = 0
        self.used(name)

    def leave(self, name: str) -> None:
        """A request ends or is evicted."""
        self.cache |= self.given(name)
        del self.made[name]
        self.used(name)
        held = self.held()
        self.cache = {token for token in self.cache if token in held or (self.keep and token[0] == "shared")}

    def make_room(self) -> None:
        """Drop kept tokens that have no room, the end of the group first that was longest without use."""
        held = self.held()
        kept = [token for token in self.cache if token not in held]
        kept.sort(key=lambda token: (self.last[token[1]], -token[2]))
        excess = self.tokens() + len(kept) - self.capacity
        self.cache -= set(kept[: int(max(0, min(excess, len(kept))))])

    def watch(self) -> None:
        """Look at the memory."""
        self.worst = max(self.worst, int(max(0, self.tokens() - self.capacity)))
        self.make_room()

    def unread(self, name: str) -> list[Token]:
        """Tokens of a prompt that are still to be read."""
        return [token for token in self.prompt(name) if token not in self.cache | self.given(name)]

    def given(self, name: str) -> set[Token]:
        """Tokens of a prompt that it finds in any case; never the last."""
        return set(self.prompt(name)[:-1][: self.requests[name].cached_prompt_tokens or 0])

    def prefill(self, names: list[str]) -> None:
        """An exclusive prefill."""
        tokens = 0
        for name in names:
            tokens += len(left := self.unread(name))
            self.read[name] += len(left)
            self.cache |= set(left) | self.given(name)
        self.watch()
        self.now += self.clock.prefill_ms(tokens)

    def round(self) -> None:
        """One round or iteration."""
        fresh = [name for name in self.made if name not in self.first or (self.made[name] == 0)]
        decoding = [name for name in self.made if name not in fresh]
        room = math.inf if self.chunk is None else max(0, self.chunk - len(decoding))
        tokens, ready = 0, []
        for name in fresh:
            left = self.unread(name)
            taken = left[: int(min(len(left), room - tokens))]
            self.read[name] += len(taken)
            self.cache |= set(taken) | (self.given(name) if len(taken) == len(left) or taken else set())
            tokens += len(taken)
            if len(taken) == len(left):
                ready.append(name)
        context = sum(self.requests[name].prompt_tokens + self.made[name] + 1 for name in decoding)
        for name in decoding + ready:
            self.made[name] += 1
        if self.clock is None:
            self.now += 1
        elif self.exclusive:
            context = sum(self.requests[name].prompt_tokens + self.made[name] for name in self.made)
            self.now += self.clock.decode_ms(1, len(self.made), context)
        else:
            self.now += self.clock.iterations_ms(1, tokens, len(decoding), context)
        self.peak = max(self.peak, self.tokens())
        self.saved = max(self.saved, sum(self.requests[n].prompt_tokens for n in self.made) - len(self.held()))
        self.watch()
        for name in ready:
            self.first[name] = self.now
        for name in [n for n in self.made if self.made[n] == self.requests[n].output_tokens]:
            self.done[name] = self.now
            self.leave(name)

    def wait(self, until: float) -> None:
        """Let time go by."""
        self.now = max(self.now, until)

    def run(self, schedule: mk.Schedule) -> Server:
        """Follow a schedule."""
        for segment in schedule.segments:
            self.wait(segment.at * (1 if self.clock is None else 1000))
            for name in segment.evict:
                self.first.pop(name, None)
                self.leave(name)
            for admission in segment.admit:
                self.admit(admission.request)
            if self.exclusive and segment.admit:
                self.prefill([a.request for a in segment.admit])
            for _ in range(segment.rounds):
                if self.made:
                    self.round()
                elif self.clock is None:
                    self.now += 1
                elif self.exclusive:
                    self.now += self.clock.decode_ms(1, 0, 0)
        return self


def values(server: Server) -> dict[str, Any]:
    """What the judge calls these."""
    unit = 1 if server.clock is None else 1000
    return {
        "latency": sum(end - server.requests[name].arrival * unit for name, end in server.done.items()),
        "ttft": sum(server.first[name] - server.requests[name].arrival * unit for name in server.done),
        "makespan": max(server.done.values(), default=0.0),
    }


def optima(instance: mk.Instance) -> dict[str, float]:
    """The least of each of `values` over all schedules without evictions, by trying them.

    Before each round any set of requests that wait and fit may start; or time may go by until the next arrival.
    """
    least: dict[str, float] = {}
    unit = 1 if instance.is_unit else 1000
    slots = instance.server.slots or len(instance.requests)

    def go_on(server: Server) -> None:
        waiting = [r.id for r in instance.requests if r.id not in server.made and r.id not in server.done]
        if not waiting and not server.made:
            for name, value in values(server).items():
                least[name] = min(value, least.get(name, value))
            return
        late = [a for name in waiting if (a := server.requests[name].arrival * unit) > server.now]
        if late:
            later = server.clone()
            later.wait(min(late))
            go_on(later)
        here = [name for name in waiting if server.requests[name].arrival * unit <= server.now]
        for chosen in (c for size in range(len(here) + 1) for c in combinations(here, size)):
            if not chosen and not server.made:
                continue
            ahead = server.clone()
            for name in chosen:
                ahead.admit(name)
            if len(ahead.made) > slots:
                continue
            if chosen and ahead.exclusive:
                ahead.prefill(list(chosen))
                if late and not ahead.worst:  # others may arrive meanwhile
                    go_on(ahead.clone())
            ahead.round()
            if not ahead.worst:
                go_on(ahead)

    go_on(Server(instance))
    return least
