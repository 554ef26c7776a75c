"""Quantities that have a limit, watched during a replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from modelkit.judge.rules import RULES, Violation

if TYPE_CHECKING:
    from modelkit.judge.replay import Replay


class Excess:
    """Watches a quantity against its limit; one violation for each unbroken time above it."""

    def __init__(self, replay: Replay, rule: str, limit: int | None, limit_words: str) -> None:
        self.replay = replay
        self.rule = rule
        self.limit = limit
        self.words = limit_words
        self.worst = self.rounds = 0
        self.since: float | None = None

    def see(self, value: int, rounds: int, later: float = 0.0) -> None:
        """``value`` holds for ``rounds`` rounds, from ``later`` after now on."""
        if self.limit is None:
            return
        if value <= self.limit:
            self.close()
            return
        if self.since is None:
            self.since = self.replay.now + later
        self.worst = max(self.worst, value)
        self.rounds += rounds

    def see_span(self, first: int, last: int, step: int, rounds: int, lasting: Callable[[int], float]) -> None:
        """The value grows by ``step`` a round from ``first`` to ``last``; ``lasting``: duration of the first rounds."""
        if self.limit is None:
            return
        above = min(rounds, max(0, -((self.limit - last) // max(1, step))))
        below = rounds - above
        if below:
            self.see(first, 0)
        if above:
            self.see(last, above, lasting(below) if below else 0.0)

    def close(self) -> None:
        if self.since is not None and self.limit is not None:
            unit = RULES[self.rule][1]
            lasting = "1 round" if self.rounds == 1 else f"{self.rounds} rounds"
            verb = "in progress" if unit == "requests" else "held"
            self.replay.violations.append(
                Violation(
                    self.rule,
                    self.worst - self.limit,
                    self.since / self.replay.per_time,
                    None,
                    f"from {self.replay.clock(self.since)} for {lasting}: up to {self.worst} {unit}"
                    f" {verb}, {self.words} {self.limit}",
                )
            )
        self.since, self.worst, self.rounds = None, 0, 0
