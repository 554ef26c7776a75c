"""Bracketing and bisection for the hardest value of an axis at which something still holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

#: Factor between values until the limit lies between two of them; and how often it is applied.
FACTOR, MOST_STEPS = 2.0, 30


@dataclass
class Search:
    """A search along an axis on which larger values are harder, such as a rate, or easier, such as memory.

    Parameters
    ----------
    start
        The value to begin with.
    larger_is_harder
        Which way it becomes harder.
    tolerance
        The search ends when the values on both sides of the limit differ by this share.
    whole
        Whether values are whole numbers.
    easiest, hardest
        Values beyond which none is tried.

    Attributes
    ----------
    good
        The hardest value at which it was seen to hold; None before.
    bad
        The easiest value at which it was seen, not to.
    """

    start: float
    larger_is_harder: bool
    tolerance: float = 0.01
    whole: bool = False
    easiest: float | None = None
    hardest: float | None = None
    bad: float | None = None
    seen: dict[float, bool] = field(default_factory=dict)

    @property
    def good(self) -> float | None:
        """The hardest value at which it was seen to hold, and at no easier one not to; None where there is none."""
        found = [value for value, holds in self.seen.items() if holds]
        if self.bad is not None:
            found = [value for value in found if self._hardness(value) < self._hardness(self.bad)]
        return max(found, key=self._hardness, default=None)

    @property
    def uneven(self) -> bool:
        """Whether it was seen to hold at a harder value than one at which it does not."""
        bad = self.bad
        return bad is not None and any(
            holds and self._hardness(v) > self._hardness(bad) for v, holds in self.seen.items()
        )

    def next(self, most: int = 1) -> list[float]:
        """The values to try next, side by side, at most so many; none at the end."""
        if self.good is not None and self.bad is not None:
            found = self._between(self.good, self.bad, most)
        elif len(self.seen) >= MOST_STEPS:
            return []
        else:
            found = [self._within(value) for value in self._outwards(most)]
        return [value for value in dict.fromkeys(found) if value not in self.seen]

    def _between(self, good: float, bad: float, most: int) -> list[float]:
        """Values that divide the ratio of both sides evenly."""
        gap = abs(bad - good)
        if gap <= self.tolerance * max(good, bad) or (self.whole and gap <= 1):
            return []
        parts = (part / (most + 1) for part in range(1, most + 1))
        values = [math.exp((1 - part) * math.log(good) + part * math.log(bad)) for part in parts]
        if not self.whole:
            return values
        low, high = sorted((good, bad))
        return [min(max(round(value), low + 1), high - 1) for value in values]

    def _outwards(self, most: int) -> list[float]:
        """Values around the start; then harder ones until it does not hold, or easier ones until it does."""
        if not self.seen:
            return [self._moved(self.start, power - most // 2) for power in range(most)]
        if self.good is not None:
            return [self._moved(self.good, power) for power in range(1, most + 1)]
        easiest = min(self.seen, key=self._hardness)
        return [self._moved(easiest, -power) for power in range(1, most + 1)]

    def tell(self, value: float, holds: bool) -> None:
        """What was seen at a value."""
        self.seen[value] = holds
        if not holds and (self.bad is None or self._hardness(value) < self._hardness(self.bad)):
            self.bad = value

    def _hardness(self, value: float) -> float:
        return value if self.larger_is_harder else -value

    def _moved(self, value: float, powers: int) -> float:
        """The value made harder by so many powers of the factor."""
        moved = value * FACTOR ** (powers if self.larger_is_harder else -powers)
        return math.ceil(moved) if self.whole else moved

    def _within(self, value: float) -> float:
        """The value, or the end of what may be tried."""
        for end, beyond in ((self.hardest, 1), (self.easiest, -1)):
            if end is not None and beyond * (self._hardness(value) - self._hardness(end)) > 0:
                value = end
        return value
