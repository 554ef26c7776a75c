"""Which iterations may process each prompt in a best schedule of few requests, by a search over states.

Continuous batching under the linear clock, whole prompts, nobody evicted (no best schedule needs that: residencies that
are cut short only make iterations longer and memory scarcer).

*States.* A state says how many tokens each request has; it is reached by a number of iterations, at a moment and at a
cost, the sum of the completions so far. A step admits any set of the requests that wait and fits the memory and the
slots. Its iteration begins at once or, if later, when the last of the admitted arrives: begun then, it and all that
follow end no later. Of requests with equal prompts and outputs, none is admitted before one that arrived no later:
exchanged, they are as good.

*Dropped states.* One that is reached no sooner and at no smaller cost than before: whatever goes on from it goes on
from the other, by pausing.

*Least value.* A running request completes no sooner than its remaining iterations last when it is alone in them. For
those that wait, let each iteration process its prompts first, one after the other, and then do everything else: the
tokens of prompts are jobs of a single machine, released at arrivals, and i completes no sooner than its job, a
prefill's fixed parts and its further iterations alone. Shortest remaining job first has the least sum of completions.

States are taken by their least value, so that the first complete one is an optimum. Every step of its schedule was
found with a least value of at most the optimum; so all steps with a greater one can be left out.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from modelkit.instance import Instance, LinearClock
from modelkit.runtime.deadline import Deadline

#: Steps that are kept, at most (300 bytes each), and requests that there may be.
MOST_STEPS, MOST_REQUESTS = 500_000, 10
#: Share by which a least value may be above the optimum, for floating point.
ROUNDING = 1e-9
WAITING = -1


@dataclass(frozen=True)
class Windows:
    """What holds of some best schedule; iterations are counted from 1, times are in ms from 0.

    Attributes
    ----------
    first_ends
        For each request (by its place) and iteration that may process its prompt: the soonest end of that iteration.
    least
        For the same: the total latency of that schedule at least, if that iteration processes the prompt [ms].
    decoding
        For each request, how long its iterations after the first last when it is alone in them [ms].
    soonest, latest
        When each iteration ends, at the soonest and at the latest; one after the last ends with the last. Shape [K].
    value, starts, states
        Its total latency [ms], for each request the iteration that processes its prompt, and how many states were
        looked at; None, empty and 0 where no search ended.
    """

    first_ends: list[dict[int, float]]
    least: list[dict[int, float]]
    decoding: list[float]
    soonest: list[float]
    latest: list[float]
    value: float | None = None
    starts: tuple[int, ...] = ()
    states: int = 0


class Step(NamedTuple):
    """An iteration: which it is, when it ends, whom it admits, the state after it, and the cost [ms]."""

    iteration: int
    end: float
    admitted: tuple[int, ...]
    state: tuple[int, ...]
    cost: float


def states_refusal(instance: Instance) -> str | None:
    """Why no search over states finds an optimum of an instance in real time, or None."""
    clock = instance.server.clock
    if not isinstance(clock, LinearClock) or not clock.mixed or clock.prefill_levels is not None:
        return "needs the linear clock with mixed = true and without levels"
    if instance.server.pause is not None:
        return "may pause requests"
    return f"has more than {MOST_REQUESTS} requests" if len(instance.requests) > MOST_REQUESTS else None


def start_windows(instance: Instance, deadline: Deadline | None = None, most: int = MOST_STEPS) -> Windows | None:
    """The windows of a best schedule of minimum total latency; None where the search does not end.

    Parameters
    ----------
    instance
        Every request fits alone; see `states_refusal`.
    most
        Steps that are kept, at most.
    """
    if states_refusal(instance) is not None:
        return None
    return _StateSearch(instance).run(deadline or Deadline(), most)


def loose_windows(instance: Instance) -> Windows:
    """Windows that hold of some best schedule whatever is minimised, if an earlier end is never worse.

    No iteration of it is empty, so that sum_i o_i suffice. Before the k-th there are k - 1 that each last no less than
    the shortest of any request alone, from the first arrival on. The server only waits for arrivals, and what it does
    after the last of them takes no longer than if all were alone, one after the other.
    """
    clock, requests = instance.server.clock, instance.requests
    assert isinstance(clock, LinearClock)
    arrival = [1000 * r.arrival for r in requests]
    prefill = [clock.prefill_ms(r.prompt_tokens) for r in requests]
    decoding = [decoding_ms(clock, r.prompt_tokens, r.output_tokens) for r in requests]
    shortest = min([*prefill, *(clock.decode_ms(1, 1, r.prompt_tokens + 2) for r in requests if r.output_tokens > 1)])
    total = sum(r.output_tokens for r in requests)
    ends = [
        {k: max(a, min(arrival) + (k - 1) * shortest) + ms for k in range(1, total - r.output_tokens + 2)}
        for r, a, ms in zip(requests, arrival, prefill, strict=True)
    ]
    return Windows(
        first_ends=ends,
        least=[dict.fromkeys(of, 0.0) for of in ends],
        decoding=decoding,
        soonest=[0.0] * total,
        latest=[max(arrival) + sum(prefill) + sum(decoding)] * total,
    )


def decoding_ms(clock: LinearClock, prompt: int, output: int) -> float:
    """Duration of the iterations after the prompt's of a request that is alone in them [ms]."""
    return clock.decode_ms(output - 1, output - 1, (output - 1) * prompt + output * (output + 1) // 2 - 1)


class _StateSearch:
    def __init__(self, instance: Instance) -> None:
        clock, server, requests = instance.server.clock, instance.server, instance.requests
        assert isinstance(clock, LinearClock)
        self.clock, self.n = clock, len(requests)
        self.prompt = [r.prompt_tokens for r in requests]
        self.output = [r.output_tokens for r in requests]
        self.arrival = [1000 * r.arrival for r in requests]
        self.memory = server.kv_capacity_tokens or sum(self.prompt) + sum(self.output)
        self.slots = server.slots or self.n
        self.reading = [clock.prefill_per_token_ms * s for s in self.prompt]
        self.fixed = clock.base_ms + clock.prefill_base_ms
        self.rest = [self._rest(i) for i in range(self.n)]
        self.twin = [self._twin(i) for i in range(self.n)]

    def _rest(self, i: int) -> list[float]:
        """How long the remaining iterations of i last when it is alone, by the tokens it has [ms]; index from 1."""
        rest = [0.0]
        for held in range(self.output[i], 1, -1):
            rest.append(rest[-1] + self.clock.decode_ms(1, 1, self.prompt[i] + held))
        return [0.0, *reversed(rest)]

    def _twin(self, i: int) -> int | None:
        """The equal request that is admitted no later than i: the last before it in order of arrival."""
        kind, order = (self.prompt[i], self.output[i]), (self.arrival[i], i)
        before = [(self.arrival[j], j) for j in range(self.n) if (self.prompt[j], self.output[j]) == kind]
        return max((pair for pair in before if pair < order), default=(0.0, None))[1]

    # --- one step ------------------------------------------------------------------------------

    def steps(self, iteration: int, now: float, cost: float, state: tuple[int, ...]) -> Iterator[Step]:
        """Every iteration that may come next."""
        running = [i for i in range(self.n) if WAITING < state[i] < self.output[i]]
        waiting = [i for i in range(self.n) if state[i] == WAITING]
        held = sum(self.prompt[i] + state[i] + 1 for i in running)
        decoding = self.clock.decode_ms(1, len(running), held) if running else 0.0
        for size in range(0 if running else 1, min(len(waiting), self.slots - len(running)) + 1):
            for batch in combinations(waiting, size):
                tokens = sum(self.prompt[i] for i in batch)
                if held + tokens + size > self.memory or not self.in_order(batch, state):
                    continue
                begin = max([now, *(self.arrival[i] for i in batch)])
                yield self.step(iteration + 1, begin + self.lasts(decoding, tokens), running, batch, state, cost)

    def lasts(self, decoding: float, tokens: int) -> float:
        """Duration of an iteration from its part that decodes, the base included, and its prompts [ms]."""
        if not tokens:
            return decoding
        return self.clock.prefill_ms(tokens) + (decoding - self.clock.base_ms if decoding else 0.0)

    def in_order(self, batch: tuple[int, ...], state: tuple[int, ...]) -> bool:
        """Whether no twin that came before waits."""
        twins = [j for i in batch if (j := self.twin[i]) is not None]
        return all(state[j] != WAITING or j in batch for j in twins)

    def step(self, iteration: int, end: float, running: list[int], batch: tuple[int, ...], state: tuple[int, ...],
             cost: float) -> Step:  # fmt: skip
        """The step to the state in which all of them have a token more."""
        after = list(state)
        for i in running:
            after[i] += 1
        for i in batch:
            after[i] = 1
        done = sum(after[i] == self.output[i] for i in (*running, *batch))
        return Step(iteration, end, batch, tuple(after), cost + done * end)

    def least(self, now: float, cost: float, state: tuple[int, ...]) -> float:
        """No schedule through the state has a smaller sum of completions [ms]."""
        waiting = []
        for i, tokens in enumerate(state):
            if tokens == WAITING:
                waiting.append((max(now, self.arrival[i]), self.reading[i]))
                cost += self.fixed + self.rest[i][1]
            elif tokens < self.output[i]:
                cost += now + self.rest[i][tokens]
        return cost + shortest_first(waiting)

    # --- the search ----------------------------------------------------------------------------

    def run(self, deadline: Deadline, most: int) -> Windows | None:
        first = (WAITING,) * self.n
        begun = Step(0, 0.0, (), first, 0.0)
        heap = [(self.least(0.0, 0.0, first), 0, 0, begun)]
        found: list[tuple[float, Step, int]] = [(heap[0][0], begun, -1)]  # least value, step, the step before
        front: dict[tuple[int, ...], list[tuple[float, float]]] = defaultdict(list, {first: [(0.0, 0.0)]})
        looked = 0
        while heap:
            value, _, place, (iteration, now, _, state, cost) = heapq.heappop(heap)
            if (now, cost) not in front[state]:
                continue
            looked += 1
            if all(tokens == output for tokens, output in zip(state, self.output, strict=True)):
                return self.windows(found, place, value, looked)
            if len(found) > most or (looked % 100 == 0 and deadline.over):
                return None
            for step in self.steps(iteration, now, cost, state):
                known = front[step.state]
                if any(t <= step.end and c <= step.cost for t, c in known):
                    continue
                known[:] = [(t, c) for t, c in known if t < step.end or c < step.cost]
                known.append((step.end, step.cost))
                bound = max(value, self.least(step.end, step.cost, step.state))
                heapq.heappush(heap, (bound, -sum(step.state), len(found), step))
                found.append((bound, step, place))
        return None

    def windows(self, found: list[tuple[float, Step, int]], last: int, value: float, looked: int) -> Windows:
        """What the steps say whose least value is at most the optimum's."""
        arrivals = sum(self.arrival)
        ends: list[dict[int, float]] = [{} for _ in range(self.n)]
        least: list[dict[int, float]] = [{} for _ in range(self.n)]
        soonest: dict[int, float] = {}
        latest: dict[int, float] = {}
        over = float("inf")  # the soonest end of all
        for bound, step, _ in sorted(found[1:], key=lambda entry: entry[1].iteration):
            if bound > value + ROUNDING * (abs(value) + arrivals):
                continue
            k = step.iteration
            soonest[k] = min(soonest.get(k, over), step.end)
            latest[k] = max(latest.get(k, 0.0), step.end)
            for i in step.admitted:
                ends[i][k] = min(ends[i].get(k, step.end), step.end)
                least[i][k] = min(least[i].get(k, bound - arrivals), bound - arrivals)
            if all(map(int.__eq__, step.state, self.output)):
                over = min(over, step.end)
        starts = [0] * self.n
        while last > 0:
            _, step, last = found[last]
            for i in step.admitted:
                starts[i] = step.iteration
        number, high = max(latest), 0.0
        for i, of in enumerate(ends):  # the others' last iterations were not among those of a best schedule
            for k in [k for k in of if k + self.output[i] - 1 > number]:
                del of[k], least[i][k]
        return Windows(
            first_ends=ends,
            least=least,
            decoding=[rest[1] for rest in self.rest],
            soonest=[min(soonest[k], over) for k in range(1, number + 1)],
            latest=[high := max(high, latest[k]) for k in range(1, number + 1)],
            value=value - arrivals,
            starts=tuple(starts),
            states=looked,
        )


def shortest_first(jobs: list[tuple[float, float]]) -> float:
    """Least sum of completions of jobs on one machine that may change jobs at any time, from release and work."""
    waiting, total, now = sorted(jobs), 0.0, 0.0
    here: list[float] = []
    place = 0
    while place < len(waiting) or here:
        if not here:
            now = max(now, waiting[place][0])
        while place < len(waiting) and waiting[place][0] <= now:
            heapq.heappush(here, waiting[place][1])
            place += 1
        left = heapq.heappop(here)
        until = waiting[place][0] if place < len(waiting) else float("inf")
        if now + left <= until:
            now += left
            total += now
        else:
            heapq.heappush(here, left - (until - now))
            now = until
    return total
