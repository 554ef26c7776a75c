"""Policies that look ahead: nobody starts who would overfill the KV cache later on.

With predicted outputs õ, a request admitted at k holds s + (τ - k) tokens in round τ and ends in
round e = k + õ. Held memory grows between completions, so a set of requests never overfills the
cache iff at each predicted end τ of one of them

    sum over those with e >= τ of (s + τ - k)  <=  M.                                  (1)

Requests that have outgrown their predictions count as if they ended in the next round.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Any

import numpy as np

from modelkit.policies import Policy, Room, Seen, View, policy, share
from modelkit.runtime.kernel import kernel


class Profile:
    """Predicted ends of the requests in progress, and check (1) for one more.

    A check and a change cost O(a), for a requests in progress; compiled, a microsecond or two.
    """

    def __init__(self) -> None:
        self._order: list[tuple[int, int]] = []  # (predicted end, index), sorted
        self._columns = np.zeros((2, 64), dtype=np.int64)  # their ends, and s - k of each
        self._end: dict[int, int] = {}  # of each in the order
        self._offset: dict[int, int] = {}  # s - k of each in progress
        self._total = 0  # sum of the offsets

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
        return self._order[0] if self._order else None

    def fits(self, prompt: int, output: int, now: int, capacity: int) -> bool:
        """Whether (1) holds with one more request admitted at ``now``, given that it holds without."""
        if self._total + len(self._offset) * (now + 1) + prompt + 1 > capacity:
            return False
        return bool(_least_start(self._columns, len(self._order), prompt, output, now, capacity) == now)

    def rounds_until_fit(self, prompt: int, output: int, now: int, capacity: int) -> int | None:
        """Rounds from ``now`` until it fits first, if nothing happens; None: not before the next predicted end."""
        until = self._order[0][0] if self._order else now
        start = now + 1
        while start < until:
            if self._total + len(self._offset) * (start + 1) + prompt + 1 > capacity:
                return None
            later = int(_least_start(self._columns, len(self._order), prompt, output, start, capacity))
            if later == start:
                return start - now
            start = later
        return None

    def _enter(self, index: int, end: int) -> None:
        count = len(self._order)
        if count == self._columns.shape[1]:
            self._columns = np.concatenate([self._columns, np.zeros_like(self._columns)], axis=1)
        place = bisect_left(self._order, (end, index))
        self._order.insert(place, (end, index))
        self._end[index] = end
        columns = self._columns
        columns[:, place + 1 : count + 1] = columns[:, place:count]
        columns[0, place] = end
        columns[1, place] = self._offset[index]

    def _take_out(self, index: int) -> None:
        end = self._end.pop(index, None)
        if end is not None:
            place = bisect_left(self._order, (end, index))
            del self._order[place]
            self._columns[:, place : len(self._order)] = self._columns[:, place + 1 : len(self._order) + 1]


@kernel
def _least_start(columns: Any, count: int, prompt: int, output: int, now: int, capacity: int) -> int:
    """``now`` when (1) holds with one more request admitted then; otherwise a later round before which it cannot.

    ``columns`` are the predicted ends, in order, and s - k of the ``count`` requests in progress.
    """
    own = now + output
    least = now
    held = 0  # of those not yet passed, less the rounds that have gone by: the sum of s - k
    own_checked = False
    for place in range(count - 1, -2, -1):
        if not own_checked and (place < 0 or columns[0, place] < own):
            after = count - 1 - place
            if held + after * own + prompt + output > capacity:
                if after == 0:
                    return 1 << 62
                least = max(least, columns[0, place + 1] - output + 1)  # its end must come after the next
            own_checked = True
        if place < 0:
            break
        end = columns[0, place]
        held += columns[1, place]
        if end < own:  # at ends before its own the newcomer holds prompt + end - now
            least = max(least, held + (count - place) * end + prompt + end - capacity)
    return least


def shared_with(request: Seen, view: View) -> int:
    """Tokens of prefixes in use when ``request`` runs too, each counted once."""
    return view.prefixes.in_use + (view.taken(request) - request.own)


class LookAhead(Policy):
    """Scan the waiting requests in an order; admit while (1) holds, stop at the first that does not fit.

    Predicted intervals count with their upper end.

    Parameters
    ----------
    alpha
        Protection: share of M that is kept free of new requests, in case predictions fail. An empty server admits
        any request.
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
        self._profile.add(request.number, request.own, int(now), int(now) + self.length(request))

    def ended(self, request: Seen, now: float) -> None:
        self._profile.remove(request.number)

    def outgrew(self, request: Seen, now: float) -> None:
        self._profile.outgrow(request.number)

    def postponed(self, request: Seen, start: int) -> None:
        self._profile.move(request.number, request.own, start, start + self.length(request))

    def fits(self, request: Seen, view: View) -> bool:
        """Whether (1) holds with ``request`` too."""
        return view.capacity is None or self._profile.fits(
            request.own, self.length(request), view.round, self.limit(view, request)
        )

    def limit(self, view: View, request: Seen) -> int:
        """Tokens that requests may hold alone when ``request`` runs too; what they share is then taken to stay."""
        assert view.capacity is not None
        whole = int((1 - self._alpha) * view.capacity) if self._alpha and view.running else view.capacity
        return whole - shared_with(request, view)

    def admit(self, view: View) -> Iterator[int]:
        return self.scan(view, Room(view))

    def scan(self, view: View, room: Room) -> Iterator[int]:
        """Those who may start, in order."""
        while self._waiting:
            request = self._waiting[0][-1]
            if not self.fits(request, view) or not room.takes(request):
                return
            heappop(self._waiting)
            yield request.number

    def patience(self, view: View) -> int | None:
        if not self._waiting or view.capacity is None:
            return None
        return self.rounds_until(self._waiting[0][-1], view)

    def rounds_until(self, request: Seen, view: View) -> int | None:
        """Rounds until ``request`` fits first if nothing happens; None: not before something does."""
        if not Room(view).takes(request):
            return None
        return self._profile.rounds_until_fit(request.own, self.length(request), view.round, self.limit(view, request))


_ALPHA = "share of M kept free of new requests, in case predictions fail"


@policy(
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


@policy(
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


@policy(
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
