"""The most requests of a tiny instance that keep their service levels, by exhaustive search; random levels for it.

Written from the definitions alone, on the moves of `realtime_brute_force`. A state is how far every request is, since
when those in progress have their first tokens, and who can no longer keep its levels; states are taken by the number of
these.
"""

from __future__ import annotations

import heapq
import math
from fractions import Fraction
from typing import Any

import numpy as np
from realtime_brute_force import WAITING, Question, State, _Search

import modelkit as mk
from modelkit.requests import ServiceLevels


def levelled(question: Question, seed: int) -> ServiceLevels:
    """Levels for the requests of a question, some of them in a class, which are tight in some schedules."""
    rng = np.random.default_rng([seed, 7])
    search = _Search(question.instance, "latency", False, question.chunk)
    firsts = [search.to_first(i) / search.per_ms for i in range(search.n)]
    alone = [times[-1] / search.per_ms for times in search.alone]
    outputs = [r.output_tokens for r in question.instance.requests]
    paces = [(whole - first) / (o - 1) for whole, first, o in zip(alone, firsts, outputs, strict=True) if o > 1]

    def limits() -> dict[str, float]:
        drawn = {
            "ttft_ms": float(np.max(firsts)) * rng.choice([0.9, 1.0, 1.3, 2.0, 4.0]),
            "tpot_ms": float(np.max(paces, initial=0.0)) * rng.choice([0.95, 1.0, 1.05, 1.2, 1.5, 2.5]),
            "latency_ms": float(np.max(alone)) * rng.choice([0.9, 1.0, 1.2, 1.6, 2.5]),
        }
        kept = {name: round(ms, 3) for name, ms in drawn.items() if rng.random() < 0.7 and round(ms, 3) > 0}
        return kept or {"latency_ms": round(max(1.0, drawn["latency_ms"]), 3)}

    return ServiceLevels(**limits(), classes={"x": limits()} if rng.random() < 0.3 else {})


def most_in_time(question: Question, levels: ServiceLevels) -> int:
    """The most requests within their levels, of any schedule."""
    return _MostInTime(question, levels).run()


class _MostInTime(_Search):
    def __init__(self, question: Question, levels: ServiceLevels) -> None:
        super().__init__(question.instance, "latency", question.evictions, question.chunk)
        self.limits = [levels.limits_of(r) for r in question.instance.requests]

    def ticks(self, ms: float | None) -> Fraction | float:
        return math.inf if ms is None else Fraction(str(ms)) * self.per_ms

    def misses_first(self, i: int, then: int) -> bool:
        limits = self.limits[i]
        return then - self.arrival[i] > min(self.ticks(limits.ttft_ms), self.ticks(limits.latency_ms))

    def misses(self, i: int, first: int, then: int) -> bool:
        limits, after = self.limits[i], self.output[i] - 1
        late = then - self.arrival[i] > self.ticks(limits.latency_ms)
        return late or (after > 0 and then - first > self.ticks(limits.tpot_ms) * after)

    def run(self) -> int:  # type: ignore[override]
        start = State((WAITING,) * self.n)
        none: tuple[int | None, ...] = (None,) * self.n
        heap: list[Any] = [(0, 0, 0, 0, start, none, frozenset())]
        seen: dict[Any, int] = {}
        count = 0
        while heap:
            lost, _, _, now, state, firsts, missed = heapq.heappop(heap)
            if all(k > o for k, o in zip(state.tokens, self.output, strict=True)):
                return self.n - lost
            for move in self.moves(now, state):
                then = move.then
                begun = dict.fromkeys(move.first, then)
                late = set(missed)
                after = list(firsts)
                for i, at in begun.items():
                    after[i] = at
                    if self.misses_first(i, at):
                        late.add(i)
                for i in move.last:
                    if i not in late and self.misses(i, after[i] if after[i] is not None else then, then):
                        late.add(i)
                    after[i] = None
                evicted = move.step.evict
                for i in (*evicted, *late):
                    after[i] = None
                key = (move.after, tuple(after), frozenset(late))
                if seen.get(key, math.inf) <= then:
                    continue
                seen[key] = then
                count += 1
                heapq.heappush(
                    heap, (len(late), -sum(move.after.tokens), count, then, move.after, tuple(after), frozenset(late))
                )
        raise AssertionError("every tiny instance has a schedule")


def judged_most(question: Question, schedule: mk.Schedule, levels: ServiceLevels) -> int:
    """Requests within their levels as the judge counts them."""
    from modelkit.judge import judge

    return int(judge(question.instance, schedule, levels).metrics["requests_within_slo"] or 0)
