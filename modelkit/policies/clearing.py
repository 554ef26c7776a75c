"""Policies without look-ahead that keep a share of the KV cache free and clear it when it overflows all the same.

Our reading of the baselines of Jaillet et al., arXiv 2502.07115: requests are admitted in the order of arrival
while the held tokens, counting the new prompts and the next round, stay within (1 - alpha) M; an empty server
always admits one. Evicted requests lose their tokens and queue again at their place by arrival.

Different from the paper, where these policies may admit and clear the same crowd for ever: after each clearing
without a completion since the one before, the share that is filled is halved, until one request runs alone.
The paper's settings: alpha 0.3 and 0.25 alone; alpha 0.2 and 0.1 with beta 0.2 and 0.1 each.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

from modelkit.errors import UsageError
from modelkit.policies import Leaving, Policy, Room, Seen, View, policy, share

_ALPHA = "share of M that is kept free of new requests"


class _Clearing(Policy):
    """Arrival order up to the protected share."""

    def __init__(self, *, alpha: float = 0.2) -> None:
        self._waiting: list[tuple[float, int, Seen]] = []
        self._most = self._share = 1.0 - share("alpha", alpha)
        self._cleared: set[int] = set()  # who is being evicted

    def arrived(self, request: Seen) -> None:
        heappush(self._waiting, (request.arrival, request.number, request))

    def ended(self, request: Seen, now: float) -> None:
        if request.number in self._cleared:
            self._cleared.remove(request.number)
        else:
            self._share = self._most

    def admit(self, view: View) -> Iterator[int]:
        room, running = Room(view), len(view.running)
        held = view.held + running
        while self._waiting:
            _, number, request = self._waiting[0]
            held += view.taken(request) + 1
            if view.capacity is not None and running and held > self._share * view.capacity:
                return
            if not room.takes(request):
                return
            heappop(self._waiting)
            yield number
            running += 1

    def patience(self, view: View) -> int | None:
        return None  # until somebody ends, less and less fits

    def evict(self, view: View) -> Iterator[int]:
        self._share /= 2
        self._cleared = set(cleared := self.clear(view))
        yield from cleared

    def clear(self, view: View) -> list[int]:
        """Whom to evict."""
        raise NotImplementedError


@policy(
    "alpha-protection",
    summary="arrival order into (1 - alpha) of the KV cache, no look-ahead; on overflow everything is evicted",
    reference="Jaillet et al., arXiv 2502.07115, alpha-protection greedy",
    alpha=_ALPHA,
)
class AlphaProtection(_Clearing):
    """Clear everything."""

    def clear(self, view: View) -> list[int]:
        """All requests."""
        return list(view.running)


@policy(
    "alpha-beta-clearing",
    summary="as alpha-protection, but on overflow each request is evicted with probability beta until the rest fits",
    reference="Jaillet et al., arXiv 2502.07115, alpha-protection beta-clearing",
    alpha=_ALPHA,
    beta="probability of eviction in one pass over the requests in progress, above 0",
)
class AlphaBetaClearing(_Clearing):
    """Clear at random."""

    def __init__(self, *, alpha: float = 0.2, beta: float = 0.2) -> None:
        super().__init__(alpha=alpha)
        if not 0 < beta <= 1:
            raise UsageError(f"option beta: found {beta}; allowed: above 0, up to 1")
        self._beta = beta

    def clear(self, view: View) -> list[int]:
        """Passes over those in progress, each evicted with probability beta, until the next round fits."""
        left = list(view.running)
        excess, leaving = view.held + len(left) - (view.capacity or 0), Leaving(view)
        out: list[int] = []
        while excess > 0:
            kept = []
            for number, unlucky in zip(left, view.rng.random(len(left)) < self._beta, strict=True):
                if unlucky:
                    excess -= leaving.frees(number)
                    out.append(number)
                else:
                    kept.append(number)
            left = kept
        return out
