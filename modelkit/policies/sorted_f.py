"""Sorted-F: batches by a metric of size against length.

Wang, Ye, Zhou, arXiv 2508.06133: a batch X that fits the KV cache is good when F(X) = sum of its outputs / |X|^2 is
small; batches are formed one after the other, each the best of what waits. Finding the best is hard; the paper uses
a dynamic program on small instances and heuristics on large ones.

Our reading for large ones: the best prefix, over the orders of the waiting requests by predicted output, by
prompt + output and by volume, of those whose peaks together fit into M. The requests of a batch start in the order
of their outputs as soon as ``mc-sf``'s look-ahead lets them; the next batch is formed when all have started.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator

from modelkit.policies import Room, Seen, View, policy
from modelkit.policies.lookahead import LookAhead


def _peak(request: Seen) -> int:
    return request.prompt + request.predicted_upper


def _volume(request: Seen) -> int:
    return request.predicted_upper * (2 * request.prompt + request.predicted_upper + 1)


_ORDERS: tuple[Callable[[Seen], int], ...] = (lambda request: request.predicted_upper, _peak, _volume)


@policy(
    "sorted-f",
    summary="batches of least sum of predicted outputs / size^2, started with the look-ahead of mc-sf",
    reference="Wang, Ye, Zhou, arXiv 2508.06133, Sorted-F; our reading of its heuristic for large instances",
    alpha="share of M kept free of new requests, in case predictions fail",
)
class SortedF(LookAhead):
    """Batches by F."""

    def __init__(self, *, alpha: float = 0.0) -> None:
        super().__init__(alpha=alpha)
        self._pool: dict[int, Seen] = {}
        self._ranked: list[list[tuple[int, float, int]]] = [[] for _ in _ORDERS]

    def key(self, request: Seen) -> float:
        """Predicted output, within a batch."""
        return request.predicted_upper

    def arrived(self, request: Seen) -> None:
        self._pool[request.number] = request
        for order, ranked in zip(_ORDERS, self._ranked, strict=True):
            insort(ranked, (order(request), request.arrival, request.number))

    def admit(self, view: View) -> Iterator[int]:
        room = Room(view)
        while True:
            yield from self.scan(view, room)
            if self._waiting or not self._pool:
                return
            for request in self._next_batch(view.capacity):
                del self._pool[request.number]
                for order, ranked in zip(_ORDERS, self._ranked, strict=True):
                    del ranked[bisect_left(ranked, (order(request), request.arrival, request.number))]
                super().arrived(request)

    def _next_batch(self, capacity: int | None) -> list[Seen]:
        """The best prefix that fits, by F; its size in time."""
        if capacity is None:
            return list(self._pool.values())
        best: tuple[float, list[Seen]] | None = None
        for ranked in self._ranked:
            held = outputs = 0
            value, size = float("inf"), 1
            for count, (_, _, number) in enumerate(ranked, start=1):
                request = self._pool[number]
                held += _peak(request)
                if held > capacity and count > 1:
                    break
                outputs += request.predicted_upper
                if outputs / count**2 < value:
                    value, size = outputs / count**2, count
            if best is None or value < best[0]:
                best = value, [self._pool[number] for _, _, number in ranked[:size]]
        assert best is not None
        return best[1]
