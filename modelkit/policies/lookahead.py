"""Policies that look ahead: nobody starts who would overfill the KV cache later on.

With predicted outputs õ, a request admitted at k holds s + (τ - k) tokens in round τ and ends in
round e = k + õ. Held memory grows between completions, so a set of requests never overfills the
cache iff at each predicted end τ of one of them

    sum over those with e >= τ of (s + τ - k)  <=  M.                                  (1)
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from heapq import heappop, heappush

from modelkit.policies import Policy, Seen, View, register


class Profile:
    """Predicted ends of the requests in progress, and check (1) for one more.

    A check costs O(log a) and a change O(a), for a requests in progress.
    """

    def __init__(self) -> None:
        self._ends: list[tuple[int, int]] = []  # (predicted end, index), sorted
        self._offset: dict[int, int] = {}  # s - k of each
        self._tables: tuple[list[int], list[int]] | None = None

    def add(self, index: int, prompt: int, start: int, end: int) -> None:
        """A request started at ``start`` that is predicted to end in round ``end``."""
        insort(self._ends, (end, index))
        self._offset[index] = prompt - start
        self._tables = None

    def remove(self, index: int) -> None:
        """A request that has ended."""
        self._ends = [entry for entry in self._ends if entry[1] != index]
        del self._offset[index]
        self._tables = None

    def postpone(self, index: int, end: int) -> None:
        """Predict ``end`` for a request in progress instead."""
        self._ends = [entry for entry in self._ends if entry[1] != index]
        insort(self._ends, (end, index))
        self._tables = None

    def fits(self, prompt: int, output: int, now: int, capacity: int) -> bool:
        """Whether (1) holds with one more request admitted at ``now``, given that it holds without."""
        slack, alone = self._table(capacity)
        place = bisect_left(self._ends, (now + output, -1))
        # at the ends before its own the newcomer adds prompt + end - now; at its own, prompt + output
        return slack[place] >= prompt - now and alone[place] + self._count(place) * (now + output) <= (
            capacity - prompt - output
        )

    def _count(self, place: int) -> int:
        return len(self._ends) - place

    def _table(self, capacity: int) -> tuple[list[int], list[int]]:
        """``slack[p]``: least of M - held(τ) - τ over the first p ends; ``alone[p]``: sum of s - k from p on."""
        if self._tables is None:
            alone = [0] * (len(self._ends) + 1)
            for p in range(len(self._ends) - 1, -1, -1):
                alone[p] = alone[p + 1] + self._offset[self._ends[p][1]]
            least = 1 << 62
            slack = [least]
            for p, (end, _) in enumerate(self._ends):
                least = min(least, capacity - alone[p] - self._count(p) * end - end)
                slack.append(least)
            self._tables = slack, alone
        return self._tables


class LookAhead(Policy):
    """Scan the waiting requests in an order; admit while (1) holds, stop at the first that does not fit.

    Predicted intervals count with their upper end.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[float, float, int, Seen]] = []
        self._profile = Profile()

    def key(self, request: Seen) -> float:
        """Smaller is scanned earlier; ties go by arrival, then by position."""
        raise NotImplementedError

    def arrived(self, request: Seen) -> None:
        heappush(self._waiting, (self.key(request), request.arrival, request.number, request))

    def started(self, request: Seen, now: float) -> None:
        self._profile.add(request.number, request.prompt, int(now), int(now) + request.predicted_upper)

    def ended(self, request: Seen, now: float) -> None:
        self._profile.remove(request.number)

    def outgrew(self, request: Seen, now: float) -> None:
        self._profile.postpone(request.number, int(now) + 1)

    def admit(self, view: View) -> Iterator[int]:
        free = view.free_slots
        while self._waiting and free != 0:
            request = self._waiting[0][-1]
            if view.capacity is not None and not self._profile.fits(
                request.prompt, request.predicted_upper, int(view.now), view.capacity
            ):
                return
            heappop(self._waiting)
            yield request.number
            free = None if free is None else free - 1


@register(
    "mc-sf",
    summary="shortest predicted output first, while no predicted completion overfills the KV cache",
    reference="Jaillet et al., arXiv 2502.07115, Algorithm MC-SF",
)
class McSf(LookAhead):
    """Memory-Constrained Shortest First."""

    def key(self, request: Seen) -> float:
        """Predicted output."""
        return request.predicted_upper


@register(
    "mc-benchmark",
    summary="arrival order, with the same look-ahead as mc-sf",
    reference="Jaillet et al., arXiv 2502.07115, Algorithm MC-Benchmark",
)
class McBenchmark(LookAhead):
    """Memory-Constrained Benchmark."""

    def key(self, request: Seen) -> float:
        """Arrival."""
        return request.arrival


@register(
    "svf",
    summary="smallest predicted volume s õ + õ (õ + 1) / 2 first, with the same look-ahead as mc-sf",
    reference="Kong, Qi, Ye, Zhou, arXiv 2606.22327",
)
class SmallestVolumeFirst(LookAhead):
    """Smallest Volume First."""

    def key(self, request: Seen) -> float:
        """Volume: the tokens held, summed over the rounds."""
        output = request.predicted_upper
        return request.prompt * output + output * (output + 1) // 2
