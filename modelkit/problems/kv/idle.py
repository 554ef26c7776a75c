"""Idle time cut out: the rounds of the KV-cache problem in which no optimal schedule runs anything.

Unit clock, no slots, minimise the total latency. Walk through the requests by arrival. Let E be a run of consecutive
ones, A their last arrival, O the sum and l the largest of their outputs, and B the next arrival. If ``B > A + O + l``,
then the rounds between are cut down: every request from B on arrives ``B - (A + O + l)`` rounds earlier, and E is a
*part* of its own. The first arrival becomes round 0 the same way.

*No optimal schedule is lost, and no value changes.* Take any schedule S, and the schedules S_E and S_L of its parts by
themselves: each is valid, since taking requests away frees memory, and its latency is its share of that of S. If S_E
ends after A + O, some round between A and its end is idle in S_E, for its requests are active in O rounds at most; all
that starts after that round can start one earlier: it has arrived, and holds what it held beside the same others. So
there is a schedule of E that ends by A + O and costs less, and with S_L, which begins at B or later, it makes a valid
schedule that costs less than S: S is not optimal. Hence in every optimal schedule E ends by A + O, the parts never
meet, and each is optimal by itself. The same holds after the cut, so optimal schedules correspond, start by start,
with equal latencies, as latency is counted from the arrival; a bound on one optimum bounds the other. A schedule of
what is left in which E runs into the next part is brought back by that very argument: `Busy.starts` closes the idle
rounds of E, which costs no more.

The l further rounds are kept so that a start behind all of E is as free of charge before the cut as after it: prices
prove the same bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelkit.instance import Instance
from modelkit.schedule import Schedule, Segment, schedule_from_starts

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Busy:
    """An instance without its idle time, and the way back.

    Parameters
    ----------
    original, instance
        With all rounds, and with those that matter; the same object where nothing is cut.
    part, offset
        Part of each request, from 0, and by how many rounds it arrives earlier; shape [n].
    """

    original: Instance
    instance: Instance
    part: Ints
    offset: Ints

    @classmethod
    def whole(cls, instance: Instance) -> Busy:
        """Nothing cut out."""
        return cls(instance, instance, *np.zeros((2, len(instance.requests)), dtype=np.int64))

    def starts(self, starts: Ints) -> Ints:
        """Starts in all rounds, shape [n], of a valid schedule without idle time; their sum is less by the shifts."""
        moved = starts + self.offset
        for part in range(int(self.part.max())):
            members = np.flatnonzero(self.part == part)
            following = int(self.original.arrays.arrival[self.part == part + 1].min())
            if int((moved + self.original.arrays.output)[members].max()) > following:
                self._close(moved, members)
        return moved

    def _close(self, starts: Ints, members: Ints) -> None:
        """Let the part start earlier by the rounds after its last arrival in which none of it is active."""
        arrays = self.original.arrays
        until, shift = int(arrays.arrival[members].max()), 0
        for i in members[np.argsort(starts[members], kind="stable")]:
            shift = max(shift, int(starts[i]) - until)
            starts[i] -= shift
            until = max(until, int(starts[i] + arrays.output[i]))

    def schedule(self, schedule: Schedule) -> Schedule:
        """A schedule of the instance without idle time, in all rounds."""
        if self.instance is self.original:
            return schedule
        admitted = [(a.request, s.at) for s in schedule.segments for a in s.admit]
        once = sorted(r for r, _ in admitted) == sorted(self.original.index)
        if not once or any(s.evict or s.at != int(s.at) for s in schedule.segments):
            return Schedule(
                tuple(Segment(s.at + self._offset(s.at), s.admit, s.evict, s.rounds) for s in schedule.segments)
            )
        at = dict(admitted)
        starts = self.starts(np.array([int(at[r.id]) for r in self.original.requests], dtype=np.int64))
        return schedule_from_starts(
            self.original, {r.id: k for r, k in zip(self.original.requests, starts.tolist(), strict=True)}
        )

    def within(self, schedule: Schedule) -> Schedule:
        """A schedule in all rounds, in which each request starts once, without the idle time."""
        if self.instance is self.original:
            return schedule
        moved = {
            a.request: int(s.at) - int(self.offset[self.original.index[a.request]])
            for s in schedule.segments for a in s.admit
        }  # fmt: skip
        return schedule_from_starts(self.instance, moved)

    def rounds(self, many: int) -> Ints:
        """Which of all rounds the first ``many`` rounds without idle time are, from round 0; shape [many]."""
        first, offset = self._parts()
        time = np.arange(many)
        return np.asarray(time + offset[np.maximum(0, np.searchsorted(first, time - 1, side="right") - 1)])

    def _offset(self, at: float) -> int:
        first, offset = self._parts()
        return int(offset[max(0, int(np.searchsorted(first, at, side="right")) - 1)])

    def _parts(self) -> tuple[Ints, Ints]:
        """First arrival without idle time, and offset, of each part."""
        _, one = np.unique(self.part, return_index=True)
        offset = self.offset[one]
        first = np.full(len(one), np.iinfo(np.int64).max)
        np.minimum.at(first, self.part, self.original.arrays.arrival - self.offset)
        return first, offset


def busy(instance: Instance) -> Busy:
    """An instance of the KV-cache problem without its idle time."""
    arrays = instance.arrays
    part, offset = np.zeros(len(arrays.output), np.int64), np.zeros(len(arrays.output), np.int64)
    last = total = longest = number = cut = 0
    arrival, output = arrays.arrival.tolist(), arrays.output.tolist()
    for place, i in enumerate(np.argsort(arrays.arrival, kind="stable").tolist()):
        if (idle := arrival[i] - (last + total + longest)) > 0:
            cut, total, longest = cut + idle, 0, 0
            number += place > 0
        last, total, longest = arrival[i], total + output[i], max(longest, output[i])
        part[i], offset[i] = number, cut
    if not cut:
        return Busy.whole(instance)
    requests = [
        r.model_copy(update={"arrival": int(r.arrival) - k})
        for r, k in zip(instance.requests, offset.tolist(), strict=True)
    ]
    return Busy(instance, instance.replace(requests=tuple(requests)), part, offset)
