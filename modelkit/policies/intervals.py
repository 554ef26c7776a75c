"""Interval predictions: plan with one end of [lower, upper].

Chen, Ye, Zhou, arXiv 2508.14544. Planning with the upper end never overfills the cache and admits too few;
planning with the lower end and raising it as tokens come out is within a logarithm of the best in hindsight.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.policies import Leaving, Seen, View, policy
from modelkit.policies.lookahead import LookAhead


class OwnLengths(LookAhead):
    """Look-ahead with lengths that are raised as tokens come out, in place of the predicted upper ends."""

    def outgrew(self, request: Seen, now: float) -> None:
        """Passed over: the lengths here end at other moments."""

    def longer(self, number: int, now: int) -> int | None:
        """The next end to reckon with for a request that runs past its own; None: from round to round."""
        return None

    def admit(self, view: View) -> Iterator[int]:
        self.raise_lengths(view.round)
        return super().admit(view)

    def raise_lengths(self, now: int) -> None:
        """Give every request that runs past its length a longer one."""
        while (first := self._profile.first_end()) is not None and first[0] <= now:
            end = self.longer(first[1], now)
            if end is None:
                self._profile.outgrow(first[1])
            else:
                self._profile.postpone(first[1], end)

    def patience(self, view: View) -> int | None:
        first, rounds = self._profile.first_end(), super().patience(view)
        if rounds is not None or first is None:
            return rounds
        return first[0] - view.round


@policy(
    "a-max",
    summary="shortest upper prediction first, with the look-ahead of mc-sf on upper ends",
    reference="Chen, Ye, Zhou, arXiv 2508.14544, A_max",
    alpha="share of M kept free of new requests, in case predictions fail",
)
class AMax(OwnLengths):
    """Plan with the upper end."""

    def key(self, request: Seen) -> float:
        """Upper end."""
        return request.predicted_upper


@policy(
    "a-min",
    summary="shortest lower prediction first, with the look-ahead of mc-sf on lower ends, raised as tokens come out",
    reference="Chen, Ye, Zhou, arXiv 2508.14544, A_min",
    alpha="share of M kept free of new requests, in case predictions fail",
)
class AMin(OwnLengths):
    """Plan with the lower end; on overflow evict those of the smallest lower ends, which have run the least.

    The lower end of an evicted request is one more than the tokens it had produced.
    """

    def key(self, request: Seen) -> float:
        """Lower end."""
        return request.predicted_lower

    def length(self, request: Seen) -> int:
        return request.predicted_lower

    def evict(self, view: View) -> Iterator[int]:
        excess, leaving = view.held + len(view.running) - (view.capacity or 0), Leaving(view)

        def lower(number: int) -> tuple[int, int]:
            request, start = view.running[number]
            return max(request.predicted_lower, view.round - int(start) + 1), -number

        for number in sorted(view.running, key=lower):
            if excess <= 0:
                return
            yield number
            excess -= leaving.frees(number)
