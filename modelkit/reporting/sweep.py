"""The runs of a study along its axes: what each kind of run gives at each point, in the mean over seeds."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any

from modelkit.reporting.statistics import Contest, Estimate, contest, estimate
from modelkit.text import unit_of

#: Words in the names of metrics of which more is better.
_MORE_IS_BETTER = ("throughput", "goodput", "within_slo", "utilisation", "hit_share")

#: A value of the panels' axis, and one of the axis from left to right; None where there is no such axis.
Point = tuple[Any, Any]


def is_share(metric: str) -> bool:
    """Whether a metric is a share, whose differences are told in points."""
    return unit_of(metric) == "share"


def more_is_better(metric: str) -> bool:
    """Whether the larger of two values of a metric is the better one."""
    return any(word in metric for word in _MORE_IS_BETTER)


@dataclass(frozen=True)
class Trial:
    """One run of a study.

    Parameters
    ----------
    method
        What ran, as a line of the figures is called.
    point, seed
        Where it stands, and which repetition it is.
    metrics
        The judge's; empty without a valid schedule.
    bounds
        Certified bounds on metrics, of its instance: lower ones unless more is better.
    drawn
        Whether it is one of the lines; a bound is none.
    problem
        What it is a solution of, where that has rules or an objective of its own. Only runs of one problem are ranked.
    """

    method: str
    point: Point
    seed: Hashable
    metrics: Mapping[str, float | None]
    bounds: Mapping[str, float]
    drawn: bool = True
    problem: Hashable = None


@dataclass(frozen=True)
class Sweep:
    """All runs of a study.

    Parameters
    ----------
    trials
        At least one for each run; one that does not depend on an axis stands at each of its values.
    axis, panels
        Names of the axes; None where nothing is swept.
    metrics
        What is drawn, the first in the headline.
    runs
        How many there are.
    equals
        Kinds of runs that give the same results in every run and are drawn as one.
    """

    trials: tuple[Trial, ...]
    axis: str | None
    panels: str | None
    metrics: tuple[str, ...]
    runs: int = 0
    equals: tuple[list[str], ...] = ()

    @cached_property
    def methods(self) -> list[str]:
        """Kinds of runs, in the order of the study."""
        return list(dict.fromkeys(t.method for t in self.trials if t.drawn))

    @cached_property
    def problems(self) -> dict[frozenset[Hashable], list[str]]:
        """Kinds of runs by the problems that they solve; first those under the judge's rules alone."""
        solved: dict[str, set[Hashable]] = {}
        for trial in self.trials:
            if trial.drawn:
                solved.setdefault(trial.method, set()).add(trial.problem)
        groups: dict[frozenset[Hashable], list[str]] = {}
        for method in sorted(self.methods, key=lambda m: solved[m] != {None}):
            groups.setdefault(frozenset(solved[method]), []).append(method)
        return groups

    @cached_property
    def rivals(self) -> list[str]:
        """Kinds of runs that are ranked: those of one problem, in the order of the study."""
        return next(iter(self.problems.values()), [])

    @cached_property
    def points(self) -> list[Point]:
        """Points, in the order of the study, numbers increasing along the axis."""
        found = list(dict.fromkeys(t.point for t in self.trials))
        rank = {value: k for k, value in enumerate(dict.fromkeys(panel for panel, _ in found))}
        if all(_is_number(at) for _, at in found):
            found.sort(key=lambda point: (rank[point[0]], point[1]))
        else:
            found.sort(key=lambda point: rank[point[0]])
        return found

    @cached_property
    def panel_values(self) -> list[Any]:
        """Values of the panels' axis."""
        return list(dict.fromkeys(panel for panel, _ in self.points))

    @cached_property
    def _runs(self) -> dict[tuple[str, Point], dict[Hashable, list[Trial]]]:
        runs: dict[tuple[str, Point], dict[Hashable, list[Trial]]] = {}
        for trial in self.trials:
            if trial.drawn:
                runs.setdefault((trial.method, trial.point), {}).setdefault(trial.seed, []).append(trial)
        return runs

    def values(self, method: str, point: Point, metric: str) -> dict[Hashable, float]:
        """By seed; seeds in which a run failed or says nothing of the metric are left out."""
        out = {}
        for seed, trials in self._runs.get((method, point), {}).items():
            known = [v for t in trials if (v := t.metrics.get(metric)) is not None]
            if len(known) == len(trials):
                out[seed] = fmean(known)
        return out

    def mean(self, method: str, point: Point, metric: str) -> Estimate | None:
        """Over seeds."""
        key = (method, point, metric)
        if key not in self._means:
            self._means[key] = estimate(list(self.values(*key).values()))
        return self._means[key]

    @cached_property
    def _means(self) -> dict[tuple[str, Point, str], Estimate | None]:
        return {}

    def bound(self, point: Point, metric: str, method: str | None = None) -> float | None:
        """Mean over seeds of the certified bounds, lower ones unless more is better; None unless each has one.

        Of several instances at a point, that a method's name tells apart, the weakest holds for all of them; of one
        ``method`` those of its own.
        """
        weakest = max if more_is_better(metric) else min
        by_seed: dict[Hashable, list[float | None]] = {}
        for trial in self.trials:
            if trial.point == point and method in (None, trial.method):
                by_seed.setdefault(trial.seed, []).append(trial.bounds.get(metric))
        known = [[bound for bound in bounds if bound is not None] for bounds in by_seed.values()]
        if not known or any(len(some) < len(all_) for some, all_ in zip(known, by_seed.values(), strict=True)):
            return None
        return fmean(weakest(bounds) for bounds in known)

    def above_bound(self, method: str, metric: str) -> dict[Point, float]:
        """Relative distance of the means from the mean bound, where there is one; below it where more is better."""
        out = {}
        for point in self.points:
            found, bound = self.mean(method, point, metric), self.bound(point, metric, method)
            if found is not None and bound:
                ratio = found.value / bound
                out[point] = max(0.0, 1 - ratio if more_is_better(metric) else ratio - 1)
        return out

    def contest(self, one: str, other: str, metric: str, points: Sequence[Point] | None = None) -> Contest | None:
        """How much better ``one`` is than ``other``, seed by seed, in the mean over the points that both have.

        Ratios are averaged as logarithms, so that which of the two comes first makes no difference; shares, and what
        may be 0, are subtracted.
        """
        by_seed: dict[Hashable, list[tuple[float, float]]] = {}
        for point in self.points if points is None else points:
            mine, theirs = self.values(one, point, metric), self.values(other, point, metric)
            for seed in mine.keys() & theirs.keys():
                by_seed.setdefault(seed, []).append((mine[seed], theirs[seed]))
        sign = 1.0 if more_is_better(metric) else -1.0
        pairs = [pairs for _, pairs in sorted(by_seed.items(), key=lambda entry: str(entry[0]))]
        if is_share(metric) or any(value <= 0 for found in pairs for pair in found for value in pair):
            return contest([sign * fmean(a - b for a, b in found) for found in pairs], lambda mean: mean)
        ratios = [sign * fmean(math.log(a / b) for a, b in found) for found in pairs]
        return contest(ratios, lambda mean: sign * math.expm1(sign * mean))

    def shortfall(self, metric: str, points: Sequence[Point] | None = None) -> dict[str, float]:
        """How far each kind of run is from the best of them, relative, in the mean over points; the best first.

        The mean is that of logarithms, as in contests, but for shares and what may be 0. Ranked are those of
        `compared`, over its points.
        """
        methods, shared = self.compared(metric, self.points if points is None else points)
        lost: dict[str, list[float]] = {method: [] for method in methods}
        for point in shared:
            means = {m: found.value for m in methods if (found := self.mean(m, point, metric)) is not None}
            best = max(means.values()) if more_is_better(metric) else min(means.values())
            for method, value in means.items():
                ratio = not is_share(metric) and min(best, value) > 0
                lost[method].append(abs(math.log(value / best)) if ratio else abs(value - best))
        ranked = {method: fmean(shares) for method, shares in lost.items() if shares}
        return {method: _relative(metric, mean) for method, mean in sorted(ranked.items(), key=lambda m: m[1])}

    def compared(self, metric: str, points: Sequence[Point] | None = None) -> tuple[list[str], list[Point]]:
        """As many rivals as any point has, and the points at which all of them have the metric."""
        there = {
            point: frozenset(m for m in self.rivals if self.mean(m, point, metric) is not None)
            for point in (self.points if points is None else points)
        }
        groups = list(dict.fromkeys(there.values()))
        most = max(
            groups, key=lambda group: (len(group), sum(group <= at for at in there.values())), default=frozenset()
        )
        shared = [point for point, at in there.items() if most and most <= at]
        return [method for method in self.methods if method in most], shared


def _relative(metric: str, distance: float) -> float:
    """A mean distance in logarithms as a share of the best; that of shares as it is."""
    if is_share(metric):
        return distance
    return -math.expm1(-distance) if more_is_better(metric) else math.expm1(distance)


def merged(trials: Sequence[Trial]) -> tuple[list[Trial], list[list[str]]]:
    """The trials with kinds of runs that give the same results in every run as one, and which these are."""
    results: dict[str, dict[Hashable, list[tuple[Hashable, Mapping[str, float | None]]]]] = {}
    for trial in trials:
        if trial.drawn:
            results.setdefault(trial.method, {}).setdefault((trial.point, trial.seed), []).append(
                (trial.problem, trial.metrics)
            )
    groups: list[list[str]] = []
    for method, found in results.items():
        peers = next((g for g in groups if results[g[0]] == found and _has_metrics(found.values())), None)
        if peers is None:
            groups.append([method])
        else:
            peers.append(method)
    names = {group[0]: _joined(group) for group in groups}
    left_out = {method for group in groups for method in group[1:]}
    kept = [replace(t, method=names.get(t.method, t.method)) for t in trials if t.method not in left_out]
    return kept, [group for group in groups if len(group) > 1]


def _has_metrics(runs: Iterable[list[tuple[Hashable, Mapping[str, float | None]]]]) -> bool:
    return any(metrics for results in runs for _, metrics in results)


def _joined(methods: list[str], most: int = 3) -> str:
    """``a = b = 2 more``."""
    shown = methods if len(methods) <= most else [*methods[: most - 1], f"{len(methods) - most + 1} more"]
    return " = ".join(shown)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
