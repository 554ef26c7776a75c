"""Stages: the linear clock when a prefill blocks decoding, and the simulation of policies on slots.

Stage k is one prefill iteration over the requests admitted in k, then D_k decode rounds. A slot holds one
request from its prefill to its last token; each round gives every active request one token, so only the
number of rounds since its admission says how far a request is:

    it is active in rounds  r + 1 .. r + o_i  when r rounds were run before its admission.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from modelkit.instance import Instance, LinearClock
from modelkit.schedule import Admission, Schedule, Segment

#: Times closer than this are the same moment [ms].
SAME_MOMENT_MS = 1e-6


class Stage(NamedTuple):
    """One prefill over ``admit``, then ``rounds`` decode rounds."""

    admit: tuple[Admission, ...]
    rounds: int


class StageClock:
    """Time under stages: what is active, how long everything lasts, which requests are done.

    Parameters
    ----------
    instance
        Linear clock with ``mixed = false``.
    """

    def __init__(self, instance: Instance) -> None:
        assert isinstance(instance.server.clock, LinearClock)
        self.linear_clock = instance.server.clock.folded()
        self.prompt = instance.arrays.prompt.tolist()
        self.output = instance.arrays.output.tolist()
        self.now = 0.0  # [ms]
        self.round = 0
        self.active = 0
        self.ends: list[tuple[int, int]] = []  # heap of (last round, index)
        self._offset = 0  # sum over the active of prompt - rounds run before the admission

    def prefill(self, requests: Sequence[int]) -> None:
        """One prefill iteration over these requests; nothing when there are none."""
        if not requests:
            return
        self.now += self.linear_clock.prefill_ms(sum(self.prompt[i] for i in requests))
        for i in requests:
            heapq.heappush(self.ends, (self.round + self.output[i], i))
            self._offset += self.prompt[i] - self.round
        self.active += len(requests)

    def span_ms(self, rounds: int) -> float:
        """Duration of a number of rounds [ms], if no request completes before the last of them."""
        held = self._offset + self.active * self.round
        tokens = rounds * held + self.active * rounds * (rounds + 1) // 2
        return self.linear_clock.decode_ms(rounds, self.active * rounds, tokens)

    def rounds_until(self, time: float, most: int) -> int:
        """Least number of rounds, from 1 to ``most``, after which ``time`` [ms] has come."""
        low, high = 1, most
        while low < high:
            middle = (low + high) // 2
            if self.now + self.span_ms(middle) >= time - SAME_MOMENT_MS:
                high = middle
            else:
                low = middle + 1
        return high

    def decode(self, rounds: int) -> list[int]:
        """Run decode rounds; returns the requests that are done, in order."""
        done = []
        while rounds:
            span = min(rounds, self.ends[0][0] - self.round) if self.ends else rounds
            self.now += self.span_ms(span)
            self.round += span
            rounds -= span
            while self.ends and self.ends[0][0] <= self.round:
                end, i = heapq.heappop(self.ends)
                self._offset -= self.prompt[i] - (end - self.output[i])
                self.active -= 1
                done.append(i)
        return done


def schedule_from_stages(instance: Instance, stages: Iterable[Stage]) -> Schedule:
    """Schedule of stages that follow each other without a gap; ``at`` comes from the durations.

    Trailing rounds in which no request is active are left out, so that D of the last stage is what it needs.
    """
    clock = StageClock(instance)
    segments: list[Segment] = []
    for admit, rounds in stages:
        at = clock.now
        clock.prefill([instance.index[request] for request, _ in admit])
        useful = min(rounds, max((end for end, _ in clock.ends), default=clock.round) - clock.round)
        clock.decode(useful)
        segments.append(Segment(at / 1000, admit, rounds=useful))
    return Schedule(tuple(segments))


def schedule_from_queues(instance: Instance, queues: Sequence[Sequence[int]]) -> Schedule:
    """Schedule in which slot j serves the requests of ``queues[j]`` in this order.

    A stage is inserted when the slots that wait for one have idled as long, together, as the prefill would
    hold up the others. Slots whose next prompts the largest prefill level does not hold wait for another.
    """
    clock = StageClock(instance)
    tau = clock.linear_clock.decode_base_ms
    left = [list(reversed(queue)) for queue in queues]
    slot = {i: j for j, queue in enumerate(queues) for i in queue}
    idle = {j for j, queue in enumerate(left) if queue}
    stages: list[Stage] = []
    lost = 0.0  # slot-time since the last stage [ms]
    while any(left):
        batch = _held_by_a_level(clock, {left[j][-1]: j for j in sorted(idle)})
        price = clock.active * clock.linear_clock.prefill_ms(sum(clock.prompt[i] for i in batch))
        if idle and (lost >= price or not clock.active):
            for j in batch.values():
                left[j].pop()
            clock.prefill(list(batch))
            stages.append(Stage(tuple(Admission(instance.requests[i].id, j) for i, j in batch.items()), 0))
            idle, lost = idle.difference(batch.values()), 0.0
        else:
            rounds = clock.ends[0][0] - clock.round
            if idle and tau:
                rounds = max(1, math.ceil(min(rounds, (price - lost) / (len(idle) * tau))))
            lost += len(idle) * tau * rounds
            idle |= {slot[i] for i in clock.decode(rounds) if left[slot[i]]}
            stages[-1] = Stage(stages[-1].admit, stages[-1].rounds + rounds)
    stages[-1] = Stage(stages[-1].admit, sum(clock.output))
    return schedule_from_stages(instance, stages)


def _held_by_a_level(clock: StageClock, batch: dict[int, int]) -> dict[int, int]:
    """The requests of ``batch``, in order, whose prompts one prefill takes; the others are passed over."""
    if (room := clock.linear_clock.largest_prefill) is None:
        return batch
    held = {}
    for i, j in batch.items():
        if clock.prompt[i] <= room:
            held[i] = j
            room -= clock.prompt[i]
    return held
