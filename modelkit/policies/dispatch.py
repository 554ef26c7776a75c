"""Dispatch: which of several replicas an arrival goes to, decided at its arrival and for good.

A rule stands before any policy, as a gate does: each replica runs the policy alone, on the requests that the rule sends
to it. A rule sees of each replica who waits and who is in progress, with predicted lengths; ties go to the lowest
number.

``dispatch=round-robin``
    One replica after the other.
``dispatch=join-shortest-queue``
    The replica with the fewest requests, waiting or in progress.
``dispatch=lmetric``
    The replica with the least product of the prompt tokens that it would have to process, the arrival's with those
    that wait there, less what its prefix cache holds of them, and of its requests (LMetric, arXiv 2603.15202).
``dispatch=bid-price``
    The replica whose memory is cheapest. Only the idea is that of arXiv 2607.03948, to route by bid prices of memory;
    its text was not at hand, and everything else is ours, so it is no reproduction of that paper:

    - the price of a token of memory on a replica is the time for which that memory is sold, the token-rounds that its
      requests are still predicted to hold, divided by its capacity;
    - an arrival is charged that price for each token-round that it is predicted to hold;
    - nobody is turned away, for the schedules of modelkit serve all requests;
    - of equal bids the lowest number wins.

    An arrival holds as much on each replica, and replicas are alike: the least bid is where the fewest token-rounds are
    sold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from modelkit.policies.base import Paused, Running, Seen
from modelkit.registry import Option


@dataclass(frozen=True)
class Backlog:
    """What a rule sees of a replica.

    Parameters
    ----------
    seen
        All requests by number.
    waiting
        Numbers of those that were sent to the replica and wait.
    running
        Those in progress, by number.
    paused
        Those that are paused, by number.
    leaving
        Those that are done at the end of the iteration in progress, which no rule knows.
    unread
        Prompt tokens not yet processed of those in progress, by number.
    round
        Rounds run.
    cached
        Tokens of the prompt of a request, by its number, that it would find in the prefix cache there.
    """

    seen: Sequence[Seen]
    waiting: Collection[int]
    running: Mapping[int, Running]
    paused: Mapping[int, Paused]
    leaving: Collection[Running]
    unread: Mapping[int, int]
    round: int
    cached: Callable[[int], int]

    @property
    def requests(self) -> int:
        """Requests that wait or are in progress."""
        return len(self.waiting) + len(self.running) + len(self.paused) + len(self.leaving)

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens that are still to be processed."""
        return sum(self.new(self.seen[i]) for i in self.waiting) + sum(self.unread.values())

    def new(self, request: Seen) -> int:
        """Tokens of a request's prompt that are not in the cache there."""
        return request.prompt - self.cached(request.number)

    @property
    def token_rounds(self) -> float:
        """Tokens that all are still predicted to hold, summed over the rounds in which they do."""
        ahead = sum(_token_rounds(self.seen[i], 0) for i in self.waiting)
        ahead += sum(_token_rounds(p.request, p.made) for p in self.paused.values())
        return ahead + sum(_token_rounds(r.request, max(0, self.round - r.start)) for r in self.running.values())


def _token_rounds(request: Seen, produced: float) -> float:
    """Tokens held in the rounds from the one after ``produced`` to the last, as predicted."""
    s, o = request.prompt, request.predicted_upper
    left = max(0, o - produced)
    return left * s + left * (o + produced + 1) / 2


class Dispatch(ABC):
    """A rule; keeps what it needs from one arrival to the next."""

    @abstractmethod
    def choose(self, request: Seen, replicas: Sequence[Backlog]) -> int:
        """Position of the replica that ``request``, which arrives now, goes to."""


class RoundRobin(Dispatch):
    """One after the other."""

    def __init__(self) -> None:
        self._arrived = 0

    def choose(self, request: Seen, replicas: Sequence[Backlog]) -> int:
        self._arrived += 1
        return (self._arrived - 1) % len(replicas)


class _Least(Dispatch):
    """The replica with the least score."""

    def choose(self, request: Seen, replicas: Sequence[Backlog]) -> int:
        scores = [self.score(request, replica) for replica in replicas]
        return scores.index(min(scores))

    @abstractmethod
    def score(self, request: Seen, replica: Backlog) -> float:
        """What it would cost to send ``request`` there."""


class JoinShortestQueue(_Least):
    """Where the fewest requests are."""

    def score(self, request: Seen, replica: Backlog) -> float:
        return replica.requests


class LMetric(_Least):
    """New prompt tokens times the number of requests."""

    def score(self, request: Seen, replica: Backlog) -> float:
        return (replica.prompt_tokens + replica.new(request)) * replica.requests


class BidPrice(_Least):
    """What the memory that the request will take is worth there: our prices, as the module says."""

    def score(self, request: Seen, replica: Backlog) -> float:
        return replica.token_rounds  # times what is the same everywhere


RULES: dict[str, type[Dispatch]] = {
    "join-shortest-queue": JoinShortestQueue,
    "round-robin": RoundRobin,
    "lmetric": LMetric,
    "bid-price": BidPrice,
}
_HELP = "which replica an arrival goes to, where the server has several"
#: What policies of continuous batching take beside their own options, and those of stages, which run alone on the
#: requests of each replica: there a rule cannot see what the others do.
DISPATCH = Option("dispatch", _HELP, str, "join-shortest-queue", tuple(RULES))
STAGED_DISPATCH = Option("dispatch", _HELP, str, "round-robin", ("round-robin",))
