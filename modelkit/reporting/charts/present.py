"""Requests in the system over time, against the least number that any schedule has at that moment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelkit.certificate import TICKS_PER_MS
from modelkit.problems.problem import SERVING, SERVING_REPLICAS, problem_of
from modelkit.reporting.charts.curves import series
from modelkit.reporting.charts.svg import (
    COLUMNS,
    Axis,
    Figure,
    Floats,
    Panel,
    Plot,
    Row,
    Swatch,
    mean_in_columns,
    time_axis,
)
from modelkit.reporting.charts.timeline import Scene
from modelkit.reporting.observation import AS_LOGGED, Observation
from modelkit.text import quantity
from modelkit.verify.serving_work import earliest_completions

#: Up to this number of requests every arrival and every completion is a step.
MOST_STEPS = 150


def present(scenes: Sequence[Scene], observation: Observation | None = None) -> Figure | None:
    """The figure of several valid schedules of one instance in real time, and of what a log shows."""
    scenes = [s for s in scenes if s.valid]
    if not scenes or problem_of(scenes[0].instance) not in (SERVING, SERVING_REPLICAS):
        return None
    instance = scenes[0].instance
    arrivals = np.sort(instance.arrays.arrival.astype(float)) * 1000.0
    least = np.array(earliest_completions(instance), dtype=float) / TICKS_PER_MS
    ends = [np.sort([s.end or 0.0 for s in scene.verdict.residencies if s.completed]) for scene in scenes]
    labels = [s.label for s in scenes]
    if observation is not None:
        ends.insert(0, np.sort(observation.run.finish_s) * 1000.0)
        labels.insert(0, AS_LOGGED)
    last = max(float(e[-1]) for e in (least, *ends))
    curves = [_curve(arrivals, e, last) for e in (least, *ends)]
    axis, per = time_axis(False, last)
    most = max(float(ys.max()) for _, ys in curves)
    names = ["proven least at each moment", *labels]
    means = [quantity("mean_ms", max(0.0, float(np.mean(e - arrivals)))) for e in (least, *ends)]
    alt = "Requests in the system over time. " + "; ".join(
        f"{name}: at most {ys.max():,.0f}, mean latency {mean}"
        for name, (_, ys), mean in zip(names, curves, means, strict=True)
    )
    plot = Plot(axis, Axis(0, most * 1.04, "requests"), 240, alt).axes()
    xs, ys = curves[0]
    plot.area(xs / per, np.zeros(len(xs)), ys, "held", names[0])
    for k, (xs, ys) in enumerate(curves[1:]):
        plot.line(xs / per, ys, series(k), labels[k])
    legend = [Swatch("fill", "held", names[0]), *(Swatch("line", series(k), label) for k, label in enumerate(labels))]
    averaged = "" if len(arrivals) <= MOST_STEPS else " Each point is the mean of a column of time."
    lead = (
        "Requests that have arrived and are not complete. No schedule has fewer at any moment than the shaded area"
        " shows: those that arrived less time ago than they take when they are alone or, if there are more of"
        " these, those that are left when nothing but the work that each request causes is done, shortest first. The"
        f" area under a curve, divided by the number of requests, is the mean latency.{averaged}"
    )
    if observation is not None:
        lead += " What a log shows may fall below the area where the law of its iteration times is not exact."
    table = (("Schedule", "mean latency"), tuple(zip(names, means, strict=True)))
    columns, rows = _numbers(names, curves, per, axis.words)
    panel = Panel("", plot.svg(), rows=rows)
    return Figure("present", "Requests in the system", lead, (panel,), tuple(legend), table, columns)


def _curve(arrivals: Floats, ends: Floats, last: float) -> tuple[Floats, Floats]:
    """(time, number present): each step, or means over columns of time where there are many."""
    if len(arrivals) > MOST_STEPS:
        edges = np.linspace(0.0, last, COLUMNS + 1)
        return (edges[:-1] + edges[1:]) / 2, mean_in_columns(arrivals, ends, edges)
    times = np.unique(np.concatenate(([0.0], arrivals, ends, [last])))
    counts = np.searchsorted(arrivals, times, "right") - np.searchsorted(ends, times, "right")
    return np.repeat(times, 2)[1:], np.repeat(counts.astype(float), 2)[:-1]


def _numbers(
    names: list[str], curves: list[tuple[Floats, Floats]], per: float, words: str
) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    """The data of the curves: a column each where they have the same times, else a row a point."""
    if all(len(xs) == COLUMNS for xs, _ in curves):
        return (words, *names), tuple(
            zip((curves[0][0] / per).tolist(), *(ys.tolist() for _, ys in curves), strict=True)
        )
    rows: list[Row] = []
    for name, (xs, ys) in zip(names, curves, strict=True):
        rows += zip([name] * len(xs), (xs / per).tolist(), ys.tolist(), strict=True)
    return ("schedule", words, "requests"), tuple(rows)
