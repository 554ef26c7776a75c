"""The replay of all replicas of a server: each runs its own segments, and what they come to is put together.

A request belongs to the replica that admits it first: that one holds its tokens, and a request that is evicted starts
anew there.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import replace
from operator import attrgetter

from modelkit.instance import Instance
from modelkit.judge.metrics import Totals, metrics
from modelkit.judge.replay import Replay
from modelkit.judge.rules import Verdict, Violation
from modelkit.schedule import Schedule, Segment


class SystemReplay:
    """A schedule replayed on every replica."""

    def __init__(self, instance: Instance, schedule: Schedule) -> None:
        self.instance = instance
        self.chunk = schedule.tokens_per_iteration
        self.first = Replay(instance, self.chunk)
        self.replays = {1: self.first}  # of replicas that have segments, and of the first
        self.home: dict[str, int] = {}  # replica of each request
        for segment in schedule.segments:
            self.run_segment(segment)
        for replica, expected in self.expected().items():
            self.replays[replica].close(expected)

    def run_segment(self, segment: Segment) -> None:
        """Run a segment on its replica, but for admissions of requests that belong to another."""
        replica, replicas = segment.replica, self.instance.server.replicas
        if not 1 <= replica <= replicas:
            beyond = 1 - replica if replica < 1 else replica - replicas
            allowed = f"1 to {replicas}" if replicas > 1 else "1"
            self.first.violate("unknown_replica", beyond, None, f"a segment on replica {replica}; allowed: {allowed}")
            return
        replay = self.replays.get(replica)
        if replay is None:
            replay = self.replays[replica] = Replay(self.instance, self.chunk, replica, self.first)
        elsewhere = {a.request for a in segment.admit if self.home.setdefault(a.request, replica) != replica}
        replay.run_segment(
            replace(segment, admit=tuple(a for a in segment.admit if a.request not in elsewhere))
            if elsewhere
            else segment
        )
        for request in sorted(elsewhere):
            words = f"request {request!r} is admitted, but belongs to replica {self.home[request]}"
            replay.violate("two_replicas", 1, request, words)

    def expected(self) -> dict[int, Iterable[int]]:
        """The requests that each replica should have served, by position; the first has those of none."""
        if len(self.replays) == 1:
            return {1: range(len(self.instance.requests))}
        expected: dict[int, list[int]] = {replica: [] for replica in self.replays}
        for i, request in enumerate(self.instance.requests):
            expected[self.home.get(request.id, 1)].append(i)
        return dict(expected)

    def verdict(self) -> Verdict:
        """What all replays came to."""
        replays = self.replays.values()
        begin = attrgetter("begin")
        residencies = tuple(heapq.merge(*(replay.replayed() for replay in replays), key=begin))
        return Verdict(
            violations=tuple(self.placed(replay.replica, v) for replay in replays for v in replay.violations),
            metrics=metrics(self.instance, residencies, Totals.of(replay.totals for replay in replays)),
            intervals=tuple(heapq.merge(*(replay.intervals for replay in replays), key=begin)),
            residencies=residencies,
        )

    def placed(self, replica: int, violation: Violation) -> Violation:
        """A violation with its replica, where there are several and it is about one."""
        if self.instance.server.replicas == 1 or violation.rule in ("missing", "unknown_replica", "chunked_prefill"):
            return violation
        return replace(violation, message=f"replica {replica}, {violation.message}")
