"""Means over seeds with bootstrap intervals, and kinds of runs compared seed by seed. The same data, the same bytes.

Percentiles of resampled means are too narrow where seeds are few; they are taken further out, by Student's quantile of
that number (Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 69, 2015, 4.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

#: Share of the intervals that cover what is estimated.
LEVEL = 0.95
#: Fewest values that have an interval.
FEWEST = 5
_RESAMPLES = 4000


@dataclass(frozen=True)
class Estimate:
    """A number made of ``n`` values, with its interval where there are `FEWEST` or more."""

    value: float
    low: float | None
    high: float | None
    n: int

    def covers(self, value: float) -> bool:
        """Whether the interval is known and holds ``value``."""
        return self.low is not None and self.high is not None and self.low <= value <= self.high


def estimate(values: Sequence[Any], statistic: Callable[[Any], float | None] | None = None) -> Estimate | None:
    """The statistic of the values, by default their mean, with its interval; None where there are none.

    Parameters
    ----------
    values
        Numbers, or whatever ``statistic`` takes a list of; it may be None for a sample that says nothing.
    """
    if not values:
        return None
    rng = np.random.default_rng(len(values))
    picks = rng.integers(len(values), size=(_RESAMPLES if len(values) >= FEWEST else 0, len(values)))
    if statistic is None:
        numbers = np.array(values, dtype=float)
        value, means = float(numbers.mean()), numbers[picks].mean(axis=1) if len(picks) else np.array([])
    else:
        found = statistic(values)
        if found is None:
            return None
        samples = (statistic([values[i] for i in pick]) for pick in picks.tolist())
        value, means = found, np.array([s for s in samples if s is not None])
    if len(means) < _RESAMPLES / 2:
        return Estimate(value, None, None, len(values))
    tail = _tail(len(values))
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), len(values))


def _tail(n: int) -> float:
    """Share of resampled means beyond each end of the interval of n values."""
    z, v = NormalDist().inv_cdf((1 + LEVEL) / 2), n - 1
    student = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    student += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    return NormalDist().cdf(-math.sqrt(n / v) * student)


@dataclass(frozen=True)
class Contest:
    """Two kinds of runs compared seed by seed.

    Parameters
    ----------
    by
        How much better the first is, in the mean over seeds: relative to the second, or in points of shares.
    better, equal
        Seeds in which it is better, and in which both are equal.
    """

    by: Estimate
    better: int
    equal: int

    @property
    def same(self) -> bool:
        """Whether both are equal in all seeds."""
        return self.equal == self.by.n

    @property
    def clear(self) -> bool:
        """Whether the interval leaves no doubt who is better."""
        return self.by.low is not None and self.by.high is not None and (self.by.low > 0 or self.by.high < 0)


def contest(advantages: Sequence[float], shown: Callable[[float], float]) -> Contest | None:
    """The contest of a kind of runs whose advantage in each seed is given; None where there are none.

    Parameters
    ----------
    shown
        An increasing function from means of advantages to what ``by`` tells.
    """
    found = estimate(advantages)
    if found is None:
        return None
    ends = [None if end is None else shown(end) for end in (found.low, found.high)]
    by = Estimate(shown(found.value), ends[0], ends[1], found.n)
    return Contest(by, sum(a > _EQUAL for a in advantages), sum(abs(a) <= _EQUAL for a in advantages))


#: Advantages up to this are those of rounding.
_EQUAL = 1e-9
