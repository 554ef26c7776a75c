"""A bound that knows the memory as a multiset: cheapest paths over partitions of the held tokens, backwards in time.

Layer r is what forwards is round ``rounds - r``. A request placed there ends with that round and holds its peak
p = s + o first, then p - 1, ..., s + 1. Each request has a *floor* f >= s: it is forgotten when it would hold f tokens
or less. A state is the multiset of parts (h, f) held, h > f, with at most M tokens in all. From one layer to the next
each part loses a token; within a layer a request may add its part where there is room.

*Soundness.* Take any schedule. Its requests, placed at their layers in any order within a layer, give a path: in each
layer the parts are some of the active requests, each with the tokens that it truly holds, so together they fit in M.
With a multiplier mu_i for each request and a placement that costs its latency less mu_i, the path costs the total
latency less the sum of the multipliers. Hence that sum and the cost of the cheapest path are at most the latency of any
schedule, whatever the multipliers. (A path may place a request twice or never: that is what is relaxed.)

*Cost.* What is held only shrinks between placements, so the capacity is looked at when a request is placed only, and
the states are the same in every layer. They are made once; a bound costs layers x states x types of parts. With
prompts of at most 5 tokens there are 256 states for M = 30, 3,274 for M = 47, 4,951 for M = 50, whatever the number of
requests; a higher floor leaves fewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modelkit.problems.kv.diagram.diagram import SCALE, Ints, Path, Reversed
from modelkit.problems.kv.diagram.kernels import FNV, NEVER
from modelkit.runtime.kernel import kernel

#: Most states of a layer.
MOST_STATES = 5000
#: Most states of all layers; 8 bytes each.
MOST_ALL_STATES = 50_000_000
#: Most kinds of parts, so that one is a byte.
MOST_PARTS = 254


@dataclass(frozen=True)
class Partitions:
    """The states, in ascending order of the tokens held; the first is empty.

    Parameters
    ----------
    age
        State a layer later, shape [states].
    place
        State after a type is placed, -1 where there is no room; types in ascending order of tokens, shape
        [states, types].
    kind
        Type of each request, shape [n]; -1 for one that is forgotten as it is placed.
    """

    age: npt.NDArray[np.int32]
    place: npt.NDArray[np.int32]
    kind: Ints

    @classmethod
    def of(cls, capacity: int, peaks: Ints, floors: Ints, most: int = MOST_STATES) -> Partitions | None:
        """All states of requests with these peaks and floors, shape [n]; None where they are more than ``most``."""
        classes = np.unique(floors[peaks > floors])
        # kinds of parts, numbered from 1 by floor and then by tokens: a layer takes one off, down to a floor's first
        tokens: list[int] = []
        first: dict[int, int] = {}
        for floor in classes.tolist():
            first[floor] = len(tokens)
            tokens += range(floor + 1, int(peaks[floors == floor].max()) + 1)
        if len(tokens) > MOST_PARTS:
            return None
        part = np.array([
            first[f] + p - f - 1 if p > f else -1 for p, f in zip(peaks.tolist(), floors.tolist(), strict=True)
        ])  # fmt: skip
        held, lowest = np.array(tokens, dtype=np.int64), np.zeros(len(tokens), dtype=np.bool_)
        lowest[list(first.values())] = True
        placed = np.unique(part[part >= 0])
        placed = placed[np.argsort(held[placed], kind="stable")]
        if not len(placed):
            return cls(np.zeros(1, np.int32), np.zeros((1, 0), np.int32), part)
        states = _States(
            np.zeros((most, capacity // int(held.min())), np.uint8),
            np.zeros(most, np.int64),
            np.zeros(most, np.int32),
            np.full((most, len(placed)), -1, np.int32),
            np.full(1 << (2 * most).bit_length(), -1, np.int64),
        )
        count = _explore(capacity, held, lowest, placed, states)
        if count < 0:
            return None
        order = np.argsort(states.tokens[:count], kind="stable")
        number = np.empty(count + 1, dtype=np.int32)
        number[order], number[count] = np.arange(count), -1
        kind = np.full(len(tokens) + 1, -1, dtype=np.int64)
        kind[placed] = np.arange(len(placed))
        return cls(number[states.age[order]], np.ascontiguousarray(number[states.place[order]]), kind[part])


class _States(NamedTuple):
    """States as they are found: their parts in descending order of number, tokens, arcs, and a table by hash."""

    parts: Any
    tokens: Any
    age: Any
    place: Any
    table: Any


@kernel
def _number(parts: Any, tokens: int, states: _States, count: int) -> Any:
    """Number of a state, which is added when it is new; -1 when there is no room."""
    x = np.uint64(0)
    for t in range(len(parts)):
        x = (x ^ np.uint64(parts[t])) * FNV
    x ^= x >> np.uint64(29)
    slot = np.int64(x & np.uint64(len(states.table) - 1))
    while states.table[slot] >= 0:
        e = states.table[slot]
        same = True
        for t in range(len(parts)):
            if states.parts[e, t] != parts[t]:
                same = False
                break
        if same:
            return np.int64(e)
        slot = (slot + 1) % len(states.table)
    if count >= len(states.tokens):
        return np.int64(-1)
    states.parts[count] = parts
    states.tokens[count] = tokens
    states.table[slot] = count
    return np.int64(count)


@kernel
def _explore(capacity: int, held: Any, lowest: Any, placed: Any, states: _States) -> Any:
    """Find every state that the empty one leads to; returns how many, or -1 when there is no room."""
    width = states.parts.shape[1]
    parts = np.zeros(width, np.uint8)
    count = _number(parts, 0, states, 0) + 1
    done = 0
    while done < count:
        parts[:] = 0
        many, tokens = 0, 0
        for t in range(width):
            number = np.int64(states.parts[done, t])
            if number and not lowest[number - 1]:
                parts[many] = number - 1
                tokens += held[number - 2]
                many += 1
        found = _number(parts, tokens, states, count)
        if found < 0:
            return -1
        count = max(count, found + 1)
        states.age[done] = found
        for k in range(len(placed)):
            tokens = states.tokens[done] + held[placed[k]]
            if tokens > capacity:
                break
            at = 0
            while states.parts[done, at] > placed[k] + 1:
                parts[at] = states.parts[done, at]
                at += 1
            parts[at] = placed[k] + 1
            parts[at + 1 :] = states.parts[done, at : width - 1]
            found = _number(parts, tokens, states, count)
            if found < 0:
                return -1
            count = max(count, found + 1)
            states.place[done, k] = found
        done += 1
    return count


@kernel
def costs_to_go(age: Any, place: Any, cost: Any, to_go: Any) -> None:
    """Cost of the cheapest path from each layer and state; ``cost`` [layers, types], ``to_go`` [layers + 1, states].

    Whatever can follow a state can follow one that holds less, so no cheapest path needs a placement that costs
    nothing or more.
    """
    layers, types = cost.shape
    used = np.empty(types, np.int64)
    to_go[layers] = 0
    for r in range(layers - 1, -1, -1):
        many = 0
        for k in range(types):
            if cost[r, k] < 0:
                used[many] = k
                many += 1
        for x in range(len(age) - 1, -1, -1):
            low = to_go[r + 1, age[x]]
            for u in range(many):
                y = place[x, used[u]]
                if y < 0:
                    break  # the types that follow need as much room or more
                low = min(low, cost[r, used[u]] + to_go[r, y])
            to_go[r, x] = low


@kernel
def _cheapest_path(age: Any, place: Any, cost: Any, who: Any, to_go: Any, times: Any, at: Any) -> None:
    """How often the cheapest path places each request, and at which layer last."""
    layers, types = cost.shape
    x = 0
    for r in range(layers):
        while to_go[r, x] != to_go[r + 1, age[x]]:
            for k in range(types):
                y = place[x, k]
                if y >= 0 and cost[r, k] < 0 and cost[r, k] + to_go[r, y] == to_go[r, x]:
                    times[who[r, k]] += 1
                    at[who[r, k]] = r
                    x = y
                    break
        x = age[x]


@kernel
def count_within(age: Any, place: Any, cost: Any, to_go: Any, limits: Any, counts: Any) -> None:
    """``counts[b]``: states on paths that cost at most ``limits[b]``, which ascend."""
    layers, types = cost.shape
    come = np.full(len(age), NEVER, np.int64)
    after = np.empty(len(age), np.int64)
    come[0] = 0
    for r in range(layers):
        after[:] = NEVER
        for x in range(len(age)):
            if come[x] >= NEVER or come[x] + to_go[r, x] > limits[-1]:
                continue
            b = len(limits) - 1
            while b >= 0 and come[x] + to_go[r, x] <= limits[b]:
                counts[b] += 1
                b -= 1
            after[age[x]] = min(after[age[x]], come[x])
            for k in range(types):
                y = place[x, k]
                if y < 0:
                    break
                if cost[r, k] < NEVER:
                    come[y] = min(come[y], come[x] + cost[r, k])
        come[:] = after


class PartitionBound:
    """Bounds of an instance by partitions, at any multipliers.

    Attributes
    ----------
    to_go
        Costs to go at the multipliers that were priced last, shape [rounds + 1, states].
    floor
        Tokens at which requests are forgotten, or their prompts where these are more.
    """

    def __init__(self, problem: Reversed, floor: int, partitions: Partitions) -> None:
        self.problem, self.floor, self.partitions = problem, floor, partitions
        layers = problem.rounds
        self.latency = np.where(
            problem.allowed[:, :layers], problem.fixed[:, None] + problem.slope * np.arange(layers), NEVER
        )
        self.members = [np.flatnonzero(partitions.kind == k) for k in range(partitions.place.shape[1])]
        self.forgotten = np.flatnonzero(partitions.kind < 0)
        self.to_go = np.empty((layers + 1, len(partitions.age)), dtype=np.int64)
        self.cost = np.empty((layers, len(self.members)), dtype=np.int64)
        self.who = np.empty_like(self.cost)
        self._multipliers: Ints | None = None

    @classmethod
    def of(cls, problem: Reversed, most: int = MOST_STATES) -> PartitionBound | None:
        """With the lowest floor that leaves at most ``most`` states, or None where none does."""
        peaks = problem.prompt + problem.output
        most = min(most, MOST_ALL_STATES // (problem.rounds + 1))
        low, high = int(problem.prompt.min()), int(peaks.max()) - 1
        found = None
        while low <= high:
            floor = (low + high) // 2
            made = Partitions.of(problem.capacity, peaks, np.maximum(problem.prompt, floor), most)
            if made is None:
                low = floor + 1
            else:
                found, high = (floor, made), floor - 1
        return None if found is None else cls(problem, *found)

    def free(self, multipliers: Ints) -> Ints:
        """These multipliers, and for each request that is forgotten at once its least latency, which is the best."""
        best = multipliers.copy()
        best[self.forgotten] = self.latency[self.forgotten].min(axis=1)
        return best

    def equal(self, value: int) -> Ints:
        """Multipliers alike, that add to a total latency [round], for a start."""
        n = len(self.problem.output)
        return self.free(np.full(n, value * SCALE // n))

    def price(self, multipliers: Ints) -> None:
        """Find the costs to go at these multipliers, unless they are those of the last time."""
        if self._multipliers is not None and np.array_equal(self._multipliers, multipliers):
            return
        for k, members in enumerate(self.members):
            priced = self._priced(multipliers, members)
            best = priced.argmin(axis=0)
            self.who[:, k] = members[best]
            self.cost[:, k] = priced[best, np.arange(len(best))]
        costs_to_go(self.partitions.age, self.partitions.place, self.cost, self.to_go)
        self._multipliers = multipliers.copy()

    def _priced(self, multipliers: Ints, requests: Ints) -> Ints:
        """What it costs to place each of these requests at each layer, shape [requests, rounds]."""
        latency = self.latency[requests]
        return np.where(latency < NEVER, latency - multipliers[requests, None], NEVER)

    def evaluate(self, multipliers: Ints) -> Path:
        """A cheapest path; each request that is forgotten at once is placed once, where it is cheapest."""
        self.price(multipliers)
        times, layers = np.zeros_like(multipliers), np.zeros_like(multipliers)
        _cheapest_path(self.partitions.age, self.partitions.place, self.cost, self.who, self.to_go, times, layers)
        alone = self._priced(multipliers, self.forgotten)
        times[self.forgotten], layers[self.forgotten] = 1, alone.argmin(axis=1)
        value = int(self.to_go[0, 0]) + int(multipliers.sum()) + int(alone.min(axis=1).sum())
        return Path(value, times, layers)

    def find_limit(self, multipliers: Ints, least: int, most: int, states: int) -> int:
        """The highest limit [round] from ``least`` to ``most`` that leaves about ``states`` states, or ``least``."""
        self.price(multipliers)
        limits = np.unique(np.linspace(least, most, 17).astype(np.int64))
        counts = np.zeros(len(limits), dtype=np.int64)
        parts = self.partitions
        costs = limits * -self.problem.slope - int(multipliers.sum())
        count_within(parts.age, parts.place, self.cost, self.to_go, costs, counts)
        return int(limits[max(0, int(np.searchsorted(counts, states, side="right")) - 1)])
