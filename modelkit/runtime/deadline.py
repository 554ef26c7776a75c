"""When a solve has to be over: made once where a time limit is given, and handed down to every stage.

What formulations ask for (start windows, a known schedule) is found when they ask. So the deadline of the solve that
is going on stands in a context variable: `within` sets it, `current` reads it. It never changes what is found while
there is time: it only cuts searches short.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the clock of ``time.perf_counter``; infinite where there is no limit."""

    at: float = math.inf

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """This many seconds from now; None for never."""
        return cls() if seconds is None else cls(time.perf_counter() + seconds)

    @property
    def finite(self) -> bool:
        """Whether there is a limit at all."""
        return math.isfinite(self.at)

    @property
    def left(self) -> float:
        """Seconds until it is over, at least 0."""
        return max(0.0, self.at - time.perf_counter())

    @property
    def over(self) -> bool:
        """Whether it has passed."""
        return time.perf_counter() >= self.at

    def share(self, part: float) -> Deadline:
        """When that part of the time that is left is over."""
        return Deadline(time.perf_counter() + part * self.left) if self.finite else self


_NEVER = Deadline()
_CURRENT: ContextVar[Deadline] = ContextVar("deadline", default=_NEVER)


def current() -> Deadline:
    """The deadline of the solve that is going on, or one that never comes."""
    return _CURRENT.get()


@contextmanager
def within(deadline: Deadline) -> Iterator[None]:
    """Let it be the current deadline within the block; an earlier one that is set already stays."""
    token = _CURRENT.set(min(deadline, _CURRENT.get(), key=lambda d: d.at))
    try:
        yield
    finally:
        _CURRENT.reset(token)
