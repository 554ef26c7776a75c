"""Micro-batches of requests with similar predicted lengths.

Zheng et al., Response Length Perception and Sequence Scheduling, arXiv 2305.13144: requests whose answers are about
equally long are served together, so that nobody waits in a batch for a much longer one. A batch runs to its end
before the next begins; its size varies with the memory it needs, small answers in larger batches.

Our reading: the waiting requests are ranked by predicted output; the batch that begins is made of the longest-waiting
request and its neighbours in rank, nearest in length first, as long as their peaks fit together into M.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from heapq import heappop, heappush

from modelkit.errors import UsageError
from modelkit.policies import Policy, Room, Seen, View, policy


@policy(
    "length-groups",
    summary="batches of the longest-waiting request and those of most similar predicted output, one after the other",
    reference="Zheng et al., arXiv 2305.13144, sequence scheduling with variable batch size; our reading",
    work_conserving=False,
    size="most requests in a batch",
)
class LengthGroups(Policy):
    """One batch at a time; who is evicted from it waits for a later one."""

    def __init__(self, *, size: int = 256) -> None:
        if size < 1:
            raise UsageError(f"option size: found {size}; allowed: 1 or more")
        self._size = size
        self._seen: dict[int, Seen] = {}
        self._ranked: list[tuple[int, int]] = []  # (predicted output, number)
        self._oldest: list[tuple[float, int]] = []  # heap of (arrival, number); stale entries are passed over

    def arrived(self, request: Seen) -> None:
        self._seen[request.number] = request
        insort(self._ranked, (request.predicted_upper, request.number))
        heappush(self._oldest, (request.arrival, request.number))

    def admit(self, view: View) -> Iterator[int]:
        if view.running:
            return
        room, held = Room(view), 0
        for count, request in enumerate(self._by_similarity()):
            held += view.taken(request) + request.predicted_upper
            if count >= self._size or (view.capacity is not None and held > view.capacity and count):
                return
            if not room.takes(request):
                return
            del self._seen[request.number]
            del self._ranked[bisect_left(self._ranked, (request.predicted_upper, request.number))]
            yield request.number

    def patience(self, view: View) -> int | None:
        return None

    def _by_similarity(self) -> list[Seen]:
        """The longest-waiting request, then its neighbours in rank, nearest in predicted output first."""
        while self._oldest and self._oldest[0][1] not in self._seen:
            heappop(self._oldest)
        if not self._oldest:
            return []
        first = self._seen[self._oldest[0][1]]
        place = bisect_left(self._ranked, (first.predicted_upper, first.number))
        low, high = place - 1, place + 1
        near = [first]
        while len(near) <= self._size and (low >= 0 or high < len(self._ranked)):
            below = first.predicted_upper - self._ranked[low][0] if low >= 0 else None
            above = self._ranked[high][0] - first.predicted_upper if high < len(self._ranked) else None
            if above is None or (below is not None and below <= above):
                near.append(self._seen[self._ranked[low][1]])
                low -= 1
            else:
                near.append(self._seen[self._ranked[high][1]])
                high += 1
        return near
