"""What a paper says, what we measure, and whether it was reproduced.

A claim takes a number from each run (a metric, perhaps set against another run's on the same instance), makes one
number of them, and compares it with the paper's figure::

    [[claims]]
    says = "MC-SF is 1.005 times the optimum on average"
    paper = 1.005
    tolerance = 0.01                 # relative; up to here figures are near each other
    better = "lower"                 # a figure below the paper's is no failure to reproduce it; or "higher"
    of = "mc-sf"                     # a run's name, "best" (schedule) or "bound" (certified); metric = "..." of a run
    against = "best"                 # likewise, or left out
    how = "ratio"                    # ratio | difference | gap_closed; of the pair
    statistic = "mean"               # mean | median | max | min | count_equal | slope (over requests)

A figure counts as reproduced only by a 95 % bootstrap interval over the instances that covers the paper's.

``gap_closed`` is (against - of) / (against - bound): the share of the gap to the certified bound that ``of`` closes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from modelkit.reporting.statistics import Estimate, estimate

Statistic = Literal["mean", "median", "max", "min", "count_equal", "slope"]


class PaperFigure(BaseModel):
    """One figure of a paper, and how to measure it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    says: str = Field(description="the claim in words")
    paper: float | None = Field(None, description="the paper's figure")
    source: str = Field("", description="where it stands")
    unit: str = Field("", description="unit of both figures")
    tolerance: float = Field(0.05, ge=0, description="relative distance up to which figures are near each other")
    better: Literal["lower", "higher"] | None = Field(None, description="the side on which ours is no failure")
    group: str | None = Field(None, description="group of instances it is about; default: all")
    of: str = Field(description="a run by name or label, `best` (schedule) or `bound` (certified)")
    metric: str | None = Field(None, description="metric of the runs; default: the objective")
    against: str | None = Field(None, description="what it is set against on the same instance, as `of`")
    how: Literal["ratio", "difference", "gap_closed"] = Field(
        "ratio", description="what is made of the pair: `ratio`, `difference` or `gap_closed`"
    )
    statistic: Statistic = Field(
        "mean", description="`mean`, `median`, `max`, `min`, `count_equal`, or `slope` over the number of requests"
    )
    scale: float = Field(1.0, description="factor of our figure")

    @model_validator(mode="after")
    def _pairs(self) -> PaperFigure:
        if self.how == "gap_closed" and self.against in (None, "best", "bound"):
            raise ValueError("gap_closed needs another run's name as against")
        if self.statistic == "count_equal" and self.against is None:
            raise ValueError("count_equal needs against")
        return self


@dataclass(frozen=True)
class Measured:
    """What is known of a finished run: values are None where it has none.

    ``label`` tells runs of one name apart; ``instance`` is the key of the instance.
    """

    group: str
    instance: str
    requests: int
    name: str
    label: str
    value: float | None
    certified: float | None
    metrics: dict[str, float | None]


@dataclass(frozen=True)
class Verdict:
    """A claim with our figure, and its 95 % interval where it has one; ``cases`` is the number of instances.

    A maximum or a minimum has no interval: resampling cannot see beyond what was seen.
    """

    claim: PaperFigure
    ours: float | None
    cases: int
    low: float | None = None
    high: float | None = None

    @property
    def covered(self) -> bool | None:
        """Whether the interval holds the paper's figure, to its last digit; None where there is no interval."""
        paper = self.claim.paper
        if paper is None or self.low is None or self.high is None:
            return None
        rounding = 0.5 * 10.0 ** -len(repr(paper).partition(".")[2]) if "e" not in repr(paper) else 0.0
        return self.low - rounding <= paper <= self.high + rounding

    @property
    def reproduced(self) -> bool | None:
        """Whether the interval covers the paper's figure and ours is near, or better; None where nothing says so."""
        if self.better:
            return True
        return None if self.covered and not self.near else self.covered

    @property
    def near(self) -> bool:
        """Whether our figure is within the tolerance of the paper's."""
        paper, ours = self.claim.paper, self.ours
        return paper is not None and ours is not None and abs(ours - paper) <= self.claim.tolerance * abs(paper)

    @property
    def better(self) -> bool:
        """Whether all of our interval is beyond the tolerance on the side that is better."""
        paper, side = self.claim.paper, self.claim.better
        worst = self.low if side == "higher" else self.high
        if paper is None or side is None or worst is None:
            return False
        ahead = (worst - paper) * (1 if side == "higher" else -1)
        return ahead > self.claim.tolerance * abs(paper)

    @property
    def words(self) -> str:
        """``reproduced`` or ``not reproduced``, by how much, and why."""
        if self.ours is None:
            return "not measured"
        if self.claim.paper is None:
            return "measured"
        return f"{self._stem} ({self._distance})"

    @property
    def _stem(self) -> str:
        if self.better:
            return "better than the paper"
        if self.covered is None:
            few = "an extreme has no interval" if self.claim.statistic in ("max", "min") else "too few cases"
            return f"{'near' if self.near else 'not near'}, but undecided: {few}"
        if self.covered:
            return "reproduced" if self.near else "covered by a wide interval alone"
        return "near, but not reproduced: the interval does not cover it" if self.near else "not reproduced"

    @property
    def _distance(self) -> str:
        assert self.ours is not None
        if not self.claim.paper:
            return f"{self.ours:+.3g}"
        share = self.ours / self.claim.paper - 1
        return f"{abs(share):.1%} {'higher' if share >= 0 else 'lower'}"


def verdicts(claims: Iterable[PaperFigure], runs: Sequence[Measured]) -> list[Verdict]:
    """Every claim with our figure; O(claims * runs)."""
    return [_verdict(claim, [run for run in runs if claim.group in (None, run.group)]) for claim in claims]


def _verdict(claim: PaperFigure, runs: Sequence[Measured]) -> Verdict:
    by_instance: dict[str, list[Measured]] = {}
    for run in runs:
        by_instance.setdefault(run.instance, []).append(run)
    points = [
        (peers[0].requests, value)
        for peers in by_instance.values()
        for mine in _numbers(claim.of, claim.metric, peers)
        if (value := _value(claim, mine, peers)) is not None
    ]
    statistic = _STATISTICS[claim.statistic]
    if not points or (value := statistic(points)) is None:
        return Verdict(claim, None, len(points))
    extreme = claim.statistic in ("max", "min")
    found = (None if extreme else estimate(points, statistic)) or Estimate(value, None, None, len(points))
    ours, low, high = (None if v is None else claim.scale * v for v in (found.value, found.low, found.high))
    return Verdict(claim, ours, len(points), low, high)


def _numbers(name: str, metric: str | None, peers: Sequence[Measured]) -> list[float]:
    """What a name stands for among the runs on one instance: numbers that are known, one a run."""
    if name == "best":
        return sorted(p.value for p in peers if p.value is not None)[:1]
    if name == "bound":
        return [p.certified for p in peers if p.certified is not None and p.certified == _certified(peers)][:1]
    named = [p for p in peers if name in (p.name, p.label)]
    return [v for p in named if (v := p.metrics.get(metric) if metric else p.value) is not None]


def _value(claim: PaperFigure, mine: float, peers: Sequence[Measured]) -> float | None:
    """The number that a run gives, beside the other runs on its instance."""
    if claim.against is None:
        return mine
    other = next(iter(_numbers(claim.against, claim.metric, peers)), None)
    if other is None:
        return None
    if claim.statistic == "count_equal":
        return float(math.isclose(mine, other, rel_tol=1e-9))
    if claim.how == "difference":
        return mine - other
    if claim.how == "ratio":
        return mine / other if other else None
    bound = _certified(peers)
    return (other - mine) / (other - bound) if bound is not None and other != bound else None


def _certified(peers: Sequence[Measured]) -> float | None:
    return max((p.certified for p in peers if p.certified is not None), default=None)


def _slope(points: list[tuple[int, float]]) -> float | None:
    """Least-squares slope of the value over the number of requests."""
    if len({n for n, _ in points}) < 2:
        return None
    return statistics.linear_regression([n for n, _ in points], [v for _, v in points]).slope


_STATISTICS: dict[Statistic, Callable[[list[tuple[int, float]]], float | None]] = {
    "mean": lambda points: statistics.fmean(v for _, v in points),
    "median": lambda points: statistics.median(v for _, v in points),
    "max": lambda points: max(v for _, v in points),
    "min": lambda points: min(v for _, v in points),
    "count_equal": lambda points: sum(v for _, v in points),
    "slope": _slope,
}
