"""Optima of tiny instances in real time by exhaustive search, and random instances to hold other answers against.

Written from the definitions of the model alone; of the product it reads the instance's fields and names a schedule's
parts. Times are whole numbers: ticks of the common denominator of all decimal numbers in the instance.

A state is how far every request is; it is reached at a moment and at a cost. At an iteration's start any set of the
requests that wait and fit may be admitted, at once or after a pause until one of them arrives. Other pauses never help:
an iteration begun earlier, at the end of the one before or when the last of its admitted arrives, ends earlier, and
whoever may go on later may also go on from there, by pausing. For the same reason a state is dropped when it is
reached at no later moment and no larger cost otherwise. States are taken by their least possible value: the cost so
far, and for each request the time that its remaining iterations last when it is alone.

With evictions a residency is admitted either to complete or to be evicted, at any later boundary; only a residency
that completes counts, so its first token is paid when it comes.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import combinations, permutations, product
from typing import Any, NamedTuple

import numpy as np

import modelkit as mk
from modelkit.instance import LinearClock, Request, Server

#: The metrics of the judge by the names of the objectives here.
METRICS = {"latency": "total_latency_ms", "makespan": "makespan_ms", "ttft": "total_ttft_ms"}
OBJECTIVES = tuple(METRICS)
WAITING, READING = -1, 0  # of a request's tokens, when it is not admitted and when it has none yet


class State(NamedTuple):
    """How far every request is; it does not say when.

    ``tokens``: tokens produced, WAITING before the admission, one more than its output after the end. ``queue``: those
    whose prompt is not processed to its end, in order of admission, with the prompt tokens left. ``doomed``: those in
    progress that are to be evicted.
    """

    tokens: tuple[int, ...]
    queue: tuple[tuple[int, int], ...] = ()
    doomed: frozenset[int] = frozenset()


class Step(NamedTuple):
    """What is done at a moment [tick]: evict, or admit and run so many rounds."""

    at: int
    evict: tuple[int, ...] = ()
    admit: tuple[int, ...] = ()
    rounds: int = 0


class Move(NamedTuple):
    """A step, the state after it, when that is reached [tick], and who has a first or last token that counts in it."""

    step: Step
    after: State
    then: int
    first: tuple[int, ...] = ()
    last: tuple[int, ...] = ()


@dataclass(frozen=True)
class Optimum:
    """The least value [ms], a schedule that has it, and the states that were looked at."""

    value: float
    schedule: mk.Schedule
    states: int


def optimum(
    instance: mk.Instance, objective: str = "latency", *, evictions: bool = False, chunk: int | None = None
) -> Optimum | None:
    """Least total latency, makespan or total time to first token [ms]; None when no schedule exists.

    Parameters
    ----------
    chunk
        Tokens that an iteration processes at most, as in ``Schedule.tokens_per_iteration``.
    """
    return _Search(instance, objective, evictions, chunk).run()


def optimum_on_replicas(instance: mk.Instance, objective: str = "latency", **how: Any) -> float | None:
    """The least value [ms] over all ways to share the requests out to the replicas; None when no schedule exists."""
    n, together = len(instance.requests), max if objective == "makespan" else sum
    server = instance.server.model_copy(update={"replicas": 1})

    @cache
    def alone(some: tuple[int, ...]) -> float | None:
        part = instance.replace(server=server, requests=tuple(instance.requests[i] for i in some))
        best = optimum(part, objective, **how)
        return None if best is None else best.value

    found = []
    for homes in product(range(instance.server.replicas), repeat=n):
        parts = {tuple(i for i in range(n) if homes[i] == r) for r in homes}
        values = [alone(part) for part in parts]
        if None not in values:
            found.append(together(value for value in values if value is not None))
    return min(found, default=None)


class _Search:
    def __init__(self, instance: mk.Instance, objective: str, evictions: bool, chunk: int | None) -> None:
        clock = instance.server.clock
        assert isinstance(clock, LinearClock)
        assert clock.mixed or chunk is None
        assert objective in OBJECTIVES
        self.instance, self.objective, self.evictions, self.chunk = instance, objective, evictions, chunk
        self.mixed = clock.mixed
        self.prompt = [r.prompt_tokens for r in instance.requests]
        self.output = [r.output_tokens for r in instance.requests]
        self.n = len(self.prompt)
        self.memory = instance.server.kv_capacity_tokens or math.inf
        self.slots = instance.server.slots or math.inf
        self._to_ticks(clock)
        self.alone = [self._alone(i) for i in range(self.n)]

    def _to_ticks(self, clock: LinearClock) -> None:
        arrival = [1000 * _exact(r.arrival) for r in self.instance.requests]
        law = [
            _exact(part)
            for part in (
                clock.base_ms, clock.prefill_base_ms, clock.prefill_per_token_ms,
                clock.decode_base_ms, clock.decode_per_request_ms, clock.decode_per_kv_token_ms,
            )
        ]  # fmt: skip
        levels = [(capacity, _exact(ms)) for capacity, ms in clock.prefill_levels or ()]
        self.per_ms = math.lcm(*(x.denominator for x in (*arrival, *law, *(ms for _, ms in levels))))
        self.arrival = [int(a * self.per_ms) for a in arrival]
        self.base, self.p0, self.p1, self.b0, self.b1, self.b2 = (int(x * self.per_ms) for x in law)
        self.levels = [(capacity, int(ms * self.per_ms)) for capacity, ms in levels]

    # --- the law -------------------------------------------------------------------------------

    def prefill(self, tokens: int) -> int | None:
        """The prefill part over so many tokens; None when no level holds them."""
        if not tokens:
            return 0
        if self.levels:
            return min((ticks for capacity, ticks in self.levels if capacity >= tokens), default=None)
        return self.p0 + self.p1 * tokens

    def decode(self, held: list[int]) -> int:
        """The decode part over requests that hold so many tokens each."""
        return self.b0 + self.b1 * len(held) + self.b2 * sum(held) if held else 0

    def _alone(self, i: int) -> list[int]:
        """Least time until i has all its tokens, by how many it has; the last entry: when it waits."""
        rest = [0]
        for token in range(self.output[i], 0, -1):
            part = self.decode([self.prompt[i] + token]) if token > 1 or not self.mixed else 0
            rest.append(rest[-1] + part + (self.base if token > 1 or not self.mixed else 0))
        return [*reversed(rest), rest[-1] + self.reading(i)]

    def reading(self, i: int) -> int:
        """Least time in which the prompt of i is processed, the iteration's base included."""
        if self.chunk is not None:
            whole = min((ticks for _, ticks in self.levels), default=self.p0 + self.p1 * self.prompt[i])
        else:
            whole = self.prefill(self.prompt[i]) or 0
        return self.base + whole

    # --- what can be done ----------------------------------------------------------------------

    def moves(self, now: int, state: State) -> Iterator[Move]:
        for i in state.doomed:
            yield Move(Step(now, evict=(i,)), self.evicted(state, i), now)
        running = sum(WAITING < k < o for k, o in zip(state.tokens, self.output, strict=True))
        waiting = [i for i in range(self.n) if state.tokens[i] == WAITING]
        for begin in sorted({now, *(self.arrival[i] for i in waiting if self.arrival[i] > now)}):
            here = [i for i in waiting if self.arrival[i] <= begin]
            for size in range(int(min(len(here), self.slots - running)) + 1):
                for batch in permutations(here, size) if self.chunk else combinations(here, size):
                    if begin == now or any(self.arrival[i] == begin for i in batch):
                        yield from self.begun(begin, state, batch)

    def begun(self, begin: int, state: State, batch: tuple[int, ...]) -> Iterator[Move]:
        """The iterations, at most one for each choice of who is to complete, that begin with these admissions."""
        for doomed in product((False, True), repeat=len(batch)) if self.evictions else [(False,) * len(batch)]:
            admitted = self.admitted(state, batch, doomed)
            move = (self.iterated if self.mixed else self.staged)(begin, admitted, batch)
            if move is not None:
                yield move

    def evicted(self, state: State, i: int) -> State:
        tokens = (*state.tokens[:i], WAITING, *state.tokens[i + 1 :])
        return State(tokens, tuple(entry for entry in state.queue if entry[0] != i), state.doomed - {i})

    def admitted(self, state: State, batch: tuple[int, ...], doomed: tuple[bool, ...]) -> State:
        tokens = tuple(READING if i in batch else k for i, k in enumerate(state.tokens))
        queue = (*state.queue, *((i, self.prompt[i]) for i in batch)) if self.mixed else ()
        return State(tokens, queue, state.doomed | {i for i, out in zip(batch, doomed, strict=True) if out})

    def iterated(self, begin: int, state: State, batch: tuple[int, ...]) -> Move | None:
        """One iteration of continuous batching: prompts as far as the chunk goes, and a token of everybody else."""
        reading = {i for i, _ in state.queue}
        decoding = [i for i in range(self.n) if READING < state.tokens[i] < self.output[i]]
        if not reading and not decoding:
            return None
        room = math.inf if self.chunk is None else max(0, self.chunk - len(decoding))
        read, queue, processed = [], [], 0
        for i, left in state.queue:
            part = int(min(left, room - processed))
            processed += part
            if part == left:
                read.append(i)
            else:
                queue.append((i, left - part))
        grown = [k + (i in read or i in decoding) for i, k in enumerate(state.tokens)]
        prefill = self.prefill(processed)
        if prefill is None or self.held(grown) > self.memory:
            return None
        end = begin + self.base + prefill + self.decode([self.prompt[i] + grown[i] for i in decoding])
        return self.ended(Step(begin, (), batch, 1), state, grown, tuple(queue), end, [*read, *decoding])

    def staged(self, begin: int, state: State, batch: tuple[int, ...]) -> Move | None:
        """A prefill over the admitted, which blocks all decoding; or a decode round when nobody is admitted."""
        decoding = [i for i in range(self.n) if READING <= state.tokens[i] < self.output[i]]
        if batch:
            prefill = self.prefill(sum(self.prompt[i] for i in batch))
            if prefill is None or self.held(state.tokens) > self.memory:
                return None
            return Move(Step(begin, (), batch, 0), state, begin + self.base + prefill)
        grown = [k + (i in decoding) for i, k in enumerate(state.tokens)]
        if not decoding or self.held(grown) > self.memory:
            return None
        end = begin + self.base + self.decode([self.prompt[i] + grown[i] for i in decoding])
        return self.ended(Step(begin, (), (), 1), state, grown, (), end, decoding)

    def held(self, tokens: list[int] | tuple[int, ...]) -> int:
        """Tokens held when everybody has so many; who ends in this very iteration holds them too."""
        return sum(self.prompt[i] + k for i, k in enumerate(tokens) if WAITING < k <= self.output[i])

    def ended(
        self, step: Step, before: State, grown: list[int], queue: tuple[tuple[int, int], ...], end: int, more: list[int]
    ) -> Move | None:
        """The move of an iteration in which ``more`` have a token more; None when one to be evicted completes."""
        last = tuple(i for i in more if grown[i] == self.output[i])
        if any(i in before.doomed for i in last):
            return None
        first = tuple(i for i in more if grown[i] == 1 and i not in before.doomed)
        tokens = tuple(self.output[i] + 1 if i in last else k for i, k in enumerate(grown))
        return Move(step, State(tokens, queue, before.doomed), end, first, last)

    # --- the search ----------------------------------------------------------------------------

    def least(self, now: int, cost: int, state: State) -> int:
        """No schedule through this state has a lower value [tick]; arrivals are not yet taken off."""
        ends = []
        for i, k in enumerate(state.tokens):
            if k > self.output[i]:
                continue
            waits = k == WAITING or i in state.doomed
            begin = max(now, self.arrival[i]) if waits else now
            if self.objective == "ttft":
                if waits or k == READING:
                    ends.append(begin + (self.to_first(i) if waits else 0))
            else:
                ends.append(begin + (self.alone[i][-1] if waits else self.alone[i][k]))
        return max([now, *ends]) if self.objective == "makespan" else cost + sum(ends)

    def to_first(self, i: int) -> int:
        return self.reading(i) + (0 if self.mixed else self.base + self.decode([self.prompt[i] + 1]))

    def run(self) -> Optimum | None:
        first = State((WAITING,) * self.n)
        heap: list[tuple[int, int, int, int, int, State]] = [(self.least(0, 0, first), 0, 0, 0, 0, first)]
        ways: list[tuple[int, Step]] = [(-1, Step(0))]  # of each state in the heap: the one before it, and the step
        front: dict[State, list[tuple[int, int]]] = {first: [(0, 0)]}
        looked = 0
        while heap:
            _, _, way, now, cost, state = heapq.heappop(heap)
            if (now, cost) not in front[state]:
                continue  # an equal state came earlier or for less
            looked += 1
            if all(k > o for k, o in zip(state.tokens, self.output, strict=True)):
                value = now if self.objective == "makespan" else cost - sum(self.arrival)
                return Optimum(value / self.per_ms, self.schedule(ways, way), looked)
            for step, after, then, begun, done in self.moves(now, state):
                paid = cost + then * len({"latency": done, "ttft": begun, "makespan": ()}[self.objective])
                known = front.setdefault(after, [])
                if any(t <= then and c <= paid for t, c in known):
                    continue
                known[:] = [(t, c) for t, c in known if t < then or c < paid]
                known.append((then, paid))
                ways.append((way, step))
                bound = self.least(then, paid, after)
                heapq.heappush(heap, (bound, -sum(after.tokens), len(ways) - 1, then, paid, after))
        return None

    def schedule(self, ways: list[tuple[int, Step]], way: int) -> mk.Schedule:
        segments = []
        while way > 0:
            way, step = ways[way]
            admit, evict = ([self.instance.requests[i].id for i in part] for part in (step.admit, step.evict))
            at = float(Fraction(step.at, 1000 * self.per_ms))
            segments.append(mk.Segment(at, tuple(map(mk.Admission, admit)), tuple(evict), step.rounds))
        return mk.Schedule(tuple(reversed(segments)), tokens_per_iteration=self.chunk)


def _exact(value: float) -> Fraction:
    """The decimal number that was written."""
    return Fraction(str(value))


def judged_value(verdict: Any, objective: str) -> float:
    """The value of a judged schedule [ms], in the words of this search."""
    return float(verdict.metrics[METRICS[objective]])


# --- random instances ------------------------------------------------------------------------------


class Question(NamedTuple):
    """An instance and how it may be served."""

    instance: mk.Instance
    chunk: int | None
    evictions: bool


def question(seed: int, most: int = 4, longest: int = 5, *, plain: bool = False) -> Question:
    """Two to ``most`` requests of at most ``longest`` output tokens under an odd law, with some or none of the limits.

    ``plain``: whole prompts in mixed iterations without levels, nobody evicted.
    """
    rng = np.random.default_rng(seed)

    def some(*values: float) -> float:
        return float(rng.choice(values))

    n = int(rng.integers(2, most + 1))
    prompt, output = rng.integers(1, 10, n), rng.integers(1, longest + 1, n)
    if rng.random() < 0.1:
        prompt[:], output[:] = prompt[0], output[0]
    law = {
        "base_ms": some(0, 0, 0.5, 3, 10),
        "prefill_base_ms": some(0, 0.25, 4, 13.7),
        "prefill_per_token_ms": some(0, 0.1, 0.5, 2),
        "decode_base_ms": some(0, 1, 3, 10.4),
        "decode_per_request_ms": some(0, 0, 0.25, 2),
        "decode_per_kv_token_ms": some(0, 0, 0.01, 0.5),
    }
    mixed, levels = plain or rng.random() < 0.7, not plain and rng.random() < 0.25
    if levels:
        capacities = [int(prompt.max() + rng.integers(0, 12)), *rng.integers(1, 30, int(rng.integers(0, 3))).tolist()]
        law["prefill_levels"] = tuple((c, some(0, 1, 4, 9.5, 20)) for c in capacities)
        law["prefill_base_ms"] = law["prefill_per_token_ms"] = 0.0
    peak = np.sort(prompt + output)
    limit = int(rng.integers(peak[-1], peak.sum() + 1)) if rng.random() < 0.6 else None
    slots = int(rng.integers(1, n + 1)) if rng.random() < 0.35 else None
    chunk = int(rng.integers(1, 14)) if mixed and not plain and rng.random() < 0.3 else None
    horizon = some(0, 5, 30, 100)
    instance = mk.Instance(
        name=f"tiny-{seed}",
        server=Server(kv_capacity_tokens=limit, slots=slots, clock=LinearClock(kind="linear", mixed=mixed, **law)),
        requests=tuple(
            Request(id=f"q{i}", arrival=round(float(a), 3) / 1000, prompt_tokens=int(s), output_tokens=int(o))
            for i, (a, s, o) in enumerate(zip(np.sort(rng.random(n)) * horizon, prompt, output, strict=True))
        ),
    )
    return Question(instance, chunk, not plain and rng.random() < 0.25)
