"""Optima of tiny servers in real time on which requests may be paused, by exhaustive search.

Written from the reference's words alone. Times are whole milliseconds. At every boundary any requests may be paused,
resumed and admitted, with an iteration after that or none (copies may be made while the server would be idle), or time
goes by until the next arrival. A state is dropped when it is reached at no later moment and no larger cost otherwise:
whoever may go on later may also go on from there, by waiting.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from itertools import chain, combinations, count, product
from typing import Any, NamedTuple

import modelkit as mk

WAITING, RUNNING, PAUSED, DONE = range(4)


class Whole(NamedTuple):
    """A state: what each request does, and its tokens, -1 before its prompt is processed."""

    what: tuple[int, ...]
    made: tuple[int, ...]


def some_of(items: list[int]) -> list[tuple[int, ...]]:
    """All subsets."""
    return list(chain.from_iterable(combinations(items, size) for size in range(len(items) + 1)))


class PausingServer:
    """The moves of a server that pauses requests."""

    def __init__(self, instance: mk.Instance) -> None:
        self.instance, self.clock = instance, instance.server.clock
        self.swapped = instance.server.pause.keep == "swapped"
        self.capacity = instance.server.kv_capacity_tokens
        self.slots = instance.server.slots or len(instance.requests)
        self.prompt = [r.prompt_tokens for r in instance.requests]
        self.output = [r.output_tokens for r in instance.requests]
        self.arrival = [round(1000 * r.arrival) for r in instance.requests]
        self.names = [r.id for r in instance.requests]

    def fits(self, state: Whole) -> bool:
        """Whether those that run, and those that are paused and hold their tokens, fit."""
        there = [i for i, what in enumerate(state.what) if what == RUNNING or (what == PAUSED and not self.swapped)]
        held = sum(self.prompt[i] + max(0, state.made[i]) for i in there)
        return len(there) <= self.slots and held <= self.capacity

    def moves(self, now: int, state: Whole) -> Iterator[tuple[mk.Segment, Whole, int, list[int], list[int]]]:
        """What may be done: segment, state after it, when that is, and who has a first or a last token in it."""
        of = {what: [i for i, w in enumerate(state.what) if w == what] for what in range(4)}
        here = [i for i in of[WAITING] if self.arrival[i] <= now]
        for out, back, new in product(some_of(of[RUNNING]), some_of(of[PAUSED]), some_of(here)):
            what = list(state.what)
            for some, becomes in ((out, PAUSED), (back, RUNNING), (new, RUNNING)):
                for i in some:
                    what[i] = becomes
            decided = Whole(tuple(what), state.made)
            if not self.fits(decided):
                continue
            then = now
            if self.swapped:
                then += int(self.clock.swap_out_per_token_ms) * self.processed(state, out)
                then += int(self.clock.swap_in_per_token_ms) * self.processed(state, back)
            names = [tuple(self.names[i] for i in some) for some in (new, out, back)]
            yield from self.run(now, then, decided, new, names)

    def run(self, now: int, then: int, state: Whole, new: tuple[int, ...], names: list[Any]) -> Iterator[Any]:
        """What follows the decisions: nothing, a prefill, or an iteration."""
        admitted, out, back = names
        running = [i for i, what in enumerate(state.what) if what == RUNNING]

        def segment(rounds: int) -> mk.Segment:
            return mk.Segment(now / 1000, admitted, rounds=rounds, pause=out, resume=back)

        law = self.clock
        if not law.mixed and new:
            made = tuple(0 if i in new else k for i, k in enumerate(state.made))
            yield segment(0), Whole(state.what, made), then + int(law.prefill_ms(self.tokens(new))), [], []
            return
        if (out or back) and not new:
            yield segment(0), state, then, [], []
        fresh = [i for i in running if state.made[i] < 0]
        decoding = [i for i in running if i not in fresh]
        if not running or (new and not law.mixed):
            return
        made = tuple(max(0, k) + 1 if i in running else k for i, k in enumerate(state.made))
        grown = Whole(state.what, made)
        if not self.fits(grown):
            return
        context = sum(self.prompt[i] + made[i] for i in decoding)
        if law.mixed:
            lasts = law.iterations_ms(1, self.tokens(fresh), len(decoding), context)
        else:
            lasts = law.decode_ms(1, len(decoding), context)
        assert float(lasts).is_integer()
        last = [i for i in running if made[i] == self.output[i]]
        what = tuple(DONE if i in last else w for i, w in enumerate(state.what))
        yield segment(1), Whole(what, made), then + int(lasts), [i for i in running if made[i] == 1], last

    def processed(self, state: Whole, some: tuple[int, ...]) -> int:
        """Tokens of theirs that were processed."""
        return sum(self.prompt[i] + state.made[i] for i in some if state.made[i] >= 0)

    def tokens(self, some: Any) -> int:
        """Tokens of their prompts."""
        return sum(self.prompt[i] for i in some)


def optimum_with_pauses(instance: mk.Instance, objective: str) -> tuple[float, mk.Schedule]:
    """Least ``latency``, ``makespan`` or ``ttft`` [ms], and a schedule that has it."""
    server, ticket = PausingServer(instance), count()
    n = len(instance.requests)
    first = Whole((WAITING,) * n, (-1,) * n)
    queue: list[Any] = [(0, 0, next(ticket), first, ())]
    reached: dict[Whole, list[tuple[int, int]]] = {}
    best: tuple[float, Any] = (math.inf, ())
    while queue:
        cost, now, _, state, path = heapq.heappop(queue)
        if cost >= best[0] or any(c <= cost and t <= now for c, t in reached.get(state, ())):
            continue
        reached.setdefault(state, []).append((cost, now))
        if all(what == DONE for what in state.what):
            best = (cost, path)
            continue
        late = {server.arrival[i] for i in range(n) if state.what[i] == WAITING and server.arrival[i] > now}
        for segment, after, then, begun, ended in chain.from_iterable(server.moves(at, state) for at in (now, *late)):
            counted = {"latency": ended, "ttft": begun}.get(objective, [])
            more = sum(then - server.arrival[i] for i in counted)
            total = (then if ended else cost) if objective == "makespan" else cost + more
            heapq.heappush(queue, (total, then, next(ticket), after, (*path, segment)))
    return best[0], mk.Schedule(best[1])
