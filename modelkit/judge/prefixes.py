"""The prefix cache: which tokens it holds, who uses them, and what goes when memory is needed.

The shared part of two requests of a group is the shorter of their prefixes. So what the requests of a group in progress
hold together of it are the tokens of the longest prefix among them, *in use*; everything else each holds alone.

*Read.* Whoever is admitted finds in the cache what is there of its prefix; those tokens cost no prefill, the rest of
its prompt does. From then on its whole prefix counts as being there: of several admitted at once the first reads what
they share, for prompts are read in the order of admission. Leaves a request before it has read its prefix, others that
count on what is missing read that, the first admitted first.

*Kept.* Where the cache keeps tokens, they stay when nobody uses them any more, and take memory from no request: as soon
as those in use and all others would be more than the capacity, kept tokens go, from the end of a prefix on, first of
the group that was longest without a request that came or went (of several the first in the instance).
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable

from modelkit.instance import Instance
from modelkit.requests import SharedPrefixes


def unshared(instance: Instance, *, once: bool) -> Instance:
    """The same requests with the least of their prompts, where they share prefixes: what bounds are proven of.

    Each request is left the part of its prompt that it never shares: so much it holds alone in any schedule, and has
    read for it. ``once``: the first to arrive of a group (of several the one with the longest prefix, then the first)
    keeps all of its prompt.

    *Memory*: while that one is in progress, the tokens of its prefix are held and counted for nobody else. So whatever
    is held in a round is at least what the requests of a round hold here.

    *Time*: an iteration lasts at least what the tokens that are read in it for each request alone, and the contexts of
    those that decode, cost here. The prefix of the first to arrive has been read before its first token and after its
    arrival, by itself or by others of the group, who arrived no earlier: reading it the first time is work between its
    arrival and its first token that is counted for nobody else, though not always in its own prefill. So a bound may
    count it that asks no more than that.

    What requests find in the cache in any case nobody has to read: it is left out in real time, and of the prefix that
    the first of a group keeps as much as any of the group finds.
    """
    prefixes = instance.shared_prefixes
    if prefixes is None:
        return instance
    first: dict[int, int] = {}
    if once:
        order = sorted(range(len(prefixes.group)), key=lambda i: (instance.requests[i].arrival, -prefixes.tokens[i], i))
        for i in order:
            first.setdefault(prefixes.group[i], i)
    kept = set(first.values())
    found = [0] * len(prefixes.group) if instance.is_unit or not prefixes.found else list(prefixes.found)
    most: dict[int, int] = {}  # by group
    for group, tokens in zip(prefixes.group, found, strict=True):
        most[group] = max(tokens, most.get(group, 0))
    for i in kept:
        found[i] = max(found[i], min(most[prefixes.group[i]], prefixes.tokens[i]))
    left_out = [found[i] if i in kept else max(found[i], shared) for i, shared in enumerate(prefixes.tokens)]
    requests = tuple(
        r.model_copy(update={"prefix": None, "cached_prompt_tokens": None, "prompt_tokens": r.prompt_tokens - less})
        for r, less in zip(instance.requests, left_out, strict=True)
    )
    server = instance.server.model_copy(update={"prefix_cache": None})
    return instance.replace(server=server, requests=requests)


class PrefixLedger:
    """The cache while requests come and go; without shared prefixes it is empty for good.

    Attributes
    ----------
    saved
        Tokens by which what requests in progress hold together is less than what each holds [token].
    """

    def __init__(self, prefixes: SharedPrefixes | None, capacity: int | None) -> None:
        self._tokens = prefixes.tokens if prefixes is not None else ()
        self._group = prefixes.group if prefixes is not None else ()
        self._found = prefixes.found if prefixes is not None else ()  # in any case
        self._keep = prefixes is not None and prefixes.keep
        self._capacity = capacity
        self._users: dict[int, list[int]] = {}  # prefixes of those in progress, by group, ascending
        self._there: dict[int, int] = {}  # tokens in the cache by group
        self._kept = 0  # of these, in all groups, in use by nobody
        self._last: dict[int, float] = {}  # when somebody of the group came or went
        self._oldest: list[tuple[float, int]] = []  # heap of the same; stale entries are passed over
        self._all = self._once = 0  # prefixes of those in progress: each, and once a group

    @property
    def saved(self) -> int:
        """See the class."""
        return self._all - self._once

    @property
    def in_use(self) -> int:
        """Tokens of prefixes that requests in progress use, each counted once."""
        return self._once

    def cached(self, request: int) -> int:
        """Tokens of a request's prompt that it would find in the cache."""
        if not self._shares(request):
            return self._finds(request)
        return max(self._finds(request), min(self._tokens[request], self._there.get(self._group[request], 0)))

    def used(self, request: int) -> int:
        """Tokens of a request's prompt that requests in progress use already."""
        return min(self._tokens[request], self._longest(self._group[request])) if self._shares(request) else 0

    def enter(self, request: int, now: float) -> int:
        """A request is admitted: the tokens that it finds."""
        found = self.cached(request)
        if not self._shares(request):
            return found
        group, tokens = self._group[request], self._tokens[request]
        before = self._longest(group)
        insort(self._users.setdefault(group, []), tokens)
        self._all += tokens
        self._settle(group, before, max(tokens, self._there.get(group, 0)), now)
        return found

    def leave(self, request: int, now: float, read: int, reading: Iterable[int] = ()) -> dict[int, int]:
        """A request is done or evicted: how many tokens more others have to read.

        Parameters
        ----------
        read
            Tokens of its prompt that are in the cache or read by now.
        reading
            Others that have not read their prompts to the end, in order of admission.
        """
        if not self._shares(request):
            return {}
        group, tokens = self._group[request], self._tokens[request]
        before, there = self._longest(group), self._there[group]
        users = self._users[group]
        del users[bisect_left(users, tokens)]
        self._all -= tokens
        more: dict[int, int] = {}
        for other in reading:
            if self._shares(other) and self._group[other] == group and (end := min(tokens, self._tokens[other])) > read:
                if (missing := end - max(read, self._finds(other))) > 0:
                    more[other] = missing
                read = end
        if read < tokens:
            there = read
        self._settle(group, before, max(there, self._longest(group)) if self._keep else self._longest(group), now)
        return more

    def group(self, request: int) -> int:
        """Number of a request's group; -1 for none."""
        return self._group[request] if self._shares(request) else -1

    def users(self, request: int) -> list[int]:
        """Prefixes of the requests in progress of a request's group, ascending [token]."""
        return list(self._users.get(self._group[request], ())) if self._shares(request) else []

    def make_room(self, held: int) -> None:
        """Drop kept tokens as far as they have no room beside ``held`` tokens, of which the shared are counted once."""
        if not self._kept or self._capacity is None:
            return
        excess = self._kept + held - self._capacity
        while excess > 0 and self._kept:
            moment, group = self._oldest[0]
            kept = self._there[group] - self._longest(group)
            dropped = min(kept, excess) if self._last[group] == moment else 0
            if dropped == kept or not dropped:
                heapq.heappop(self._oldest)
            self._there[group] -= dropped
            self._kept -= dropped
            excess -= dropped

    def _settle(self, group: int, used: int, there: int, now: float) -> None:
        """Count anew what a group has, after somebody came or went; ``used`` were in use before."""
        longest = self._longest(group)
        self._once += longest - used
        self._kept += (there - longest) - (self._there.get(group, 0) - used)
        self._there[group] = there
        if self._keep:
            self._last[group] = now
            heapq.heappush(self._oldest, (now, group))

    def _finds(self, request: int) -> int:
        """Tokens of its prompt that are there in any case."""
        return self._found[request] if self._found else 0

    def _shares(self, request: int) -> bool:
        return bool(self._tokens) and self._tokens[request] > 0

    def _longest(self, group: int) -> int:
        users = self._users.get(group)
        return users[-1] if users else 0
