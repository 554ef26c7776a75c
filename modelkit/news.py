"""News of a long computation, for whoever listens."""

from __future__ import annotations

from dataclasses import dataclass

from modelkit.result import relative_gap


@dataclass(frozen=True, slots=True)
class News:
    """What is being done: the phase, seconds since the beginning, incumbent's value and bound."""

    phase: str
    seconds: float
    incumbent: float | None = None
    bound: float | None = None

    @property
    def gap(self) -> float | None:
        """(incumbent - bound) / incumbent; None when either is not known."""
        return relative_gap(self.incumbent, self.bound)
