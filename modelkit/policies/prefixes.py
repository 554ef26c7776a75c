"""Policies that prefer requests whose prefixes the cache holds.

Longest prefix match is the order of SGLang (Zheng et al., NeurIPS 2024); on a server that always has something else to
serve, a request without a match may wait for ever. `k-lpm` lets the oldest in from time to time. Where memory is the
limit, the look-ahead of `mc-sf` holds newcomers back, as in the other policies; its memory counts what is shared once.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.errors import UsageError
from modelkit.policies import Room, Seen, View, policy
from modelkit.policies.lookahead import LookAhead

_ALPHA = "share of M kept free of new requests, in case predictions fail"


@policy(
    "lpm",
    summary="the longest part of the prompt in the prefix cache first, with the same look-ahead as mc-sf",
    reference="Zheng et al., NeurIPS 2024 (SGLang), cache-aware scheduling; Dexter et al., arXiv 2502.04677, LPM",
    alpha=_ALPHA,
)
class LongestPrefixMatch(LookAhead):
    """Longest prefix match; of several the oldest. Looks at all that wait whenever one may start."""

    def __init__(self, *, alpha: float = 0.0) -> None:
        super().__init__(alpha=alpha)
        self._pool: dict[int, Seen] = {}

    def arrived(self, request: Seen) -> None:
        self._pool[request.number] = request

    def next(self, view: View) -> Seen:
        """Who starts before all others that wait."""
        return min(self._pool.values(), key=lambda r: (view.unread(r) - r.prompt, r.arrival, r.number))

    def admit(self, view: View) -> Iterator[int]:
        room = Room(view)
        while self._pool:
            request = self.next(view)
            if not self.fits(request, view) or not room.takes(request):
                return
            del self._pool[request.number]
            yield request.number

    def patience(self, view: View) -> int | None:
        return self.rounds_until(self.next(view), view) if self._pool and view.capacity is not None else None


@policy(
    "k-lpm",
    summary="the oldest request, then k - 1 times the longest prefix match, and so on; look-ahead as in mc-sf",
    reference="Dexter et al., arXiv 2502.04677, k-LPM",
    k="of so many that start one after the other the first is the oldest; 1: arrival order",
    alpha=_ALPHA,
)
class KLongestPrefixMatch(LongestPrefixMatch):
    """Fair now and then.

    Different from the paper: requests run together in a batch, so that a match is with what the cache holds and not
    with the one request served before.
    """

    def __init__(self, *, k: int = 4, alpha: float = 0.0) -> None:
        super().__init__(alpha=alpha)
        if k < 1:
            raise UsageError(f"option k: found {k}; allowed: 1 or more")
        self._k = k
        self._started = 0

    def started(self, request: Seen, now: float) -> None:
        super().started(request, now)
        self._started += 1

    def next(self, view: View) -> Seen:
        """The oldest, when it is its turn."""
        if self._started % self._k:
            return super().next(view)
        return min(self._pool.values(), key=lambda r: (r.arrival, r.number))
