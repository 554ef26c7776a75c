"""Policies that look ahead: nobody starts who would overfill the KV cache later on.

With predicted outputs õ, a request admitted at k holds s + (τ - k) tokens in round τ and ends in
round e = k + õ. Held memory grows between completions, so a set of requests never overfills the
cache iff at each predicted end τ of one of them

    sum over those with e >= τ of (s + τ - k)  <=  M.                                  (1)

Requests that have outgrown their predictions count as if they ended in the next round.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import accumulate

from modelkit.policies import Policy, Room, Seen, View, register, share


class Profile:
    """Predicted ends of the requests in progress, and check (1) for one more.

    A check costs O(log a) and a change O(a), for a requests in progress.
    """

    def __init__(self) -> None:
        self._ends: list[tuple[int, int]] = []  # (predicted end, index), sorted
        self._end: dict[int, int] = {}  # of each in ``_ends``
        self._offset: dict[int, int] = {}  # s - k of each
        self._total = 0  # sum of the offsets
        self._tables: tuple[list[int], list[int]] | None = None
        self._capacity = 0  # of the tables

    def add(self, index: int, prompt: int, start: int, end: int) -> None:
        """A request started at ``start`` that is predicted to end in round ``end``."""
        self._offset[index] = prompt - start
        self._total += prompt - start
        self._enter(index, end)

    def remove(self, index: int) -> None:
        """A request that has ended."""
        self._take_out(index)
        self._total -= self._offset.pop(index)

    def move(self, index: int, prompt: int, start: int, end: int) -> None:
        """Another start and predicted end for a request in progress."""
        self.remove(index)
        self.add(index, prompt, start, end)

    def postpone(self, index: int, end: int) -> None:
        """Predict ``end`` for a request in progress instead."""
        self._take_out(index)
        self._enter(index, end)

    def outgrow(self, index: int) -> None:
        """From now on a request in progress counts as if it ended in the next round."""
        self._take_out(index)

    def first_end(self) -> tuple[int, int] | None:
        """The next predicted end and whose it is; None without any."""
        return self._ends[0] if self._ends else None

    def fits(self, prompt: int, output: int, now: int, capacity: int) -> bool:
        """Whether (1) holds with one more request admitted at ``now``, given that it holds without."""
        if self._total + len(self._offset) * (now + 1) + prompt + 1 > capacity:
            return False
        slack, alone = self._table(capacity)
        place = bisect_left(self._ends, (now + output, -1))
        # at the ends before its own the newcomer adds prompt + end - now; at its own, prompt + output
        return slack[place] >= prompt - now and alone[place] + self._count(place) * (now + output) <= (
            capacity - prompt - output
        )

    def rounds_until_fit(self, prompt: int, output: int, now: int, capacity: int) -> int | None:
        """Rounds from ``now`` until it fits first, if nothing happens; None: not before the next predicted end."""
        until = self._ends[0][0] if self._ends else now
        slack, alone = self._table(capacity)
        t = now + 1
        while t < until:
            if self._total + len(self._offset) * (t + 1) + prompt + 1 > capacity:
                return None
            place = bisect_left(self._ends, (t + output, -1))
            if slack[place] < prompt - t:  # falls with the place: no earlier moment will do
                t = max(t + 1, prompt - slack[place])
            elif alone[place] + self._count(place) * (t + output) > capacity - prompt - output:
                if place == len(self._ends):
                    return None
                t = max(t + 1, self._ends[place][0] - output + 1)  # its end must come after the next
            else:
                return t - now
        return None

    def _enter(self, index: int, end: int) -> None:
        insort(self._ends, (end, index))
        self._end[index] = end
        self._tables = None

    def _take_out(self, index: int) -> None:
        end = self._end.pop(index, None)
        if end is not None:
            del self._ends[bisect_left(self._ends, (end, index))]
            self._tables = None

    def _count(self, place: int) -> int:
        return len(self._ends) - place

    def _table(self, capacity: int) -> tuple[list[int], list[int]]:
        """``slack[p]``: least of M - held(τ) - τ over the first p ends; ``alone[p]``: sum of s - k from p on."""
        if self._tables is None or self._capacity != capacity:
            offset, count = self._offset, len(self._ends)
            alone = [0, *accumulate([offset[index] for _, index in reversed(self._ends)])]
            alone.reverse()
            room = [
                capacity - a - (count - p + 1) * end
                for p, (a, (end, _)) in enumerate(zip(alone, self._ends, strict=False))
            ]
            self._tables = [1 << 62, *accumulate(room, min)], alone
            self._capacity = capacity
        return self._tables


class LookAhead(Policy):
    """Scan the waiting requests in an order; admit while (1) holds, stop at the first that does not fit.

    Predicted intervals count with their upper end.

    Parameters
    ----------
    alpha
        Protection: share of M that is kept free of newcomers, for predictions that fail. An empty server takes
        anybody.
    """

    def __init__(self, *, alpha: float = 0.0) -> None:
        self._alpha = share("alpha", alpha)
        self._waiting: list[tuple[float, float, int, Seen]] = []
        self._profile = Profile()

    def key(self, request: Seen) -> float:
        """Smaller is scanned earlier; ties go by arrival, then by position."""
        raise NotImplementedError

    def length(self, request: Seen) -> int:
        """Output to reckon with."""
        return request.predicted_upper

    def arrived(self, request: Seen) -> None:
        heappush(self._waiting, (self.key(request), request.arrival, request.number, request))

    def started(self, request: Seen, now: float) -> None:
        self._profile.add(request.number, request.prompt, int(now), int(now) + self.length(request))

    def ended(self, request: Seen, now: float) -> None:
        self._profile.remove(request.number)

    def outgrew(self, request: Seen, now: float) -> None:
        self._profile.outgrow(request.number)

    def postponed(self, request: Seen, start: int) -> None:
        self._profile.move(request.number, request.prompt, start, start + self.length(request))

    def fits(self, request: Seen, view: View) -> bool:
        """Whether (1) holds with ``request`` too."""
        return view.capacity is None or self._profile.fits(
            request.prompt, self.length(request), view.round, self.limit(view)
        )

    def limit(self, view: View) -> int:
        """Tokens that the cache may hold."""
        assert view.capacity is not None
        return int((1 - self._alpha) * view.capacity) if self._alpha and view.running else view.capacity

    def admit(self, view: View) -> Iterator[int]:
        room = Room(view)
        while self._waiting:
            request = self._waiting[0][-1]
            if not self.fits(request, view) or not room.takes(request):
                return
            heappop(self._waiting)
            yield request.number

    def patience(self, view: View) -> int | None:
        if not self._waiting or view.capacity is None:
            return None
        request = self._waiting[0][-1]
        if not Room(view).takes(request):
            return None
        return self._profile.rounds_until_fit(request.prompt, self.length(request), view.round, self.limit(view))


_ALPHA = "share of M kept free of newcomers, for predictions that fail"


@register(
    "mc-sf",
    summary="shortest predicted output first, while no predicted completion overfills the KV cache",
    reference="Jaillet et al., arXiv 2502.07115, Algorithm MC-SF",
    alpha=_ALPHA,
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
    alpha=_ALPHA,
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
    alpha=_ALPHA,
)
class SmallestVolumeFirst(LookAhead):
    """Smallest Volume First."""

    def key(self, request: Seen) -> float:
        """Volume: the tokens held, summed over the rounds."""
        output = request.predicted_upper
        return request.prompt * output + output * (output + 1) // 2
