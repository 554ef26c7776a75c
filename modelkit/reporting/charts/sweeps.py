"""A metric against a swept axis: a line for each kind of run, its band over seeds, and what is certified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from modelkit.reporting.charts.curves import series
from modelkit.reporting.charts.svg import Axis, Figure, Panel, Plot, Row, Swatch
from modelkit.reporting.statistics import FEWEST, Estimate
from modelkit.reporting.sweep import Point, Sweep, more_is_better
from modelkit.text import THIN, metric_noun, quantity, unit_of

#: Values that differ by more than this factor get a logarithmic axis.
WIDE = 30.0
#: Height of a row where nothing is swept [px].
ROW = 34


def sweep_figure(sweep: Sweep, metric: str) -> Figure | None:
    """The figure of a metric; None where no run has it."""
    found = {
        (method, point): mean
        for method in sweep.methods
        for point in sweep.points
        if (mean := sweep.mean(method, point, metric)) is not None
    }
    if not found:
        return None
    draw = _rows if sweep.axis is None else _curves
    panels = draw(sweep, metric, found)
    bounded = any(sweep.bound(point, metric) is not None for point in sweep.points)
    noun = metric_noun(metric)
    lead = f"{noun[:1].upper()}{noun[1:]}" + (f" against {_name(sweep.axis)}" if sweep.axis else "")
    lead += f"; {'more' if more_is_better(metric) else 'less'} is better. Each is the mean over seeds"
    most = max(mean.n for mean in found.values())
    few = "one has" if most == 1 else f"fewer than {FEWEST} have"
    lead += " with its 95\u202f% interval." if most >= FEWEST else f"; {few} no interval."
    kind = "fill" if sweep.axis is None else "line"
    legend = []
    if sweep.axis is not None:
        legend = [Swatch(kind, series(k), m) for k, m in enumerate(sweep.methods) if any(f[0] == m for f in found)]
    if bounded:
        legend.append(Swatch("line", "floor", bound_words(metric)))
    columns = ("run", sweep.axis or "at", metric, "low", "high", "seeds")
    title = noun[:1].upper() + noun[1:]
    if sum(metric_noun(name) == noun for name in sweep.metrics) > 1:
        title += f", in {unit_of(metric)}"
    return Figure(
        f"sweep-{metric}", title, lead, tuple(panels), tuple(legend), columns=columns, beside=len(panels) > 1
    )  # fmt: skip


def bound_words(metric: str) -> str:
    """What a certified bound says."""
    return f"certified: none can be {'above' if more_is_better(metric) else 'below'}"


def _name(axis: str | None) -> str:
    return (axis or "").replace("_", " ").replace("kv ", "KV ")


def _title(sweep: Sweep) -> str:
    """The swept axis with its unit."""
    per = "round" if any(metric.endswith("_rounds") for metric in sweep.metrics) else "s"
    return f"{_name(sweep.axis)} [requests/{per}]" if sweep.axis == "rate" else _name(sweep.axis)


def _panel_label(sweep: Sweep, value: Any) -> str:
    if value is None:
        return ""
    return str(value) if sweep.panels == "group" else f"{_name(sweep.panels)} {_words(value)}"


def _words(value: Any) -> str:
    return f"{value:,g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _scale(metric: str, values: Sequence[float]) -> tuple[float, str, bool]:
    """What values are divided by, their unit, and whether they are shares."""
    unit = unit_of(metric)
    if unit == "ms" and max(values) >= 2000:
        return 1000.0, "s", False
    if unit in ("second", "round"):
        return 1.0, quantity(metric, 1.0).partition(THIN)[2], False
    return 1.0, "" if unit == "share" else unit, unit == "share"


def _vertical(sweep: Sweep, metric: str, found: dict[tuple[str, Point], Estimate]) -> tuple[Axis, float]:
    """The axis of the metric, the same in all panels."""
    ends = [v for mean in found.values() for v in (mean.value, mean.low, mean.high) if v is not None]
    ends += [bound for point in sweep.points if (bound := sweep.bound(point, metric)) is not None]
    per, unit, share = _scale(metric, ends)
    low, high = min(ends) / per, max(ends) / per
    words = metric_noun(metric) + (f" [{unit}]" if unit else "")
    if low > 0 and high / low > WIDE:
        return Axis(low / 1.15, high * 1.15, words, log=True), per
    return Axis(0, high * 1.06 or 1.0, words, share=share), per


def _horizontal(sweep: Sweep) -> tuple[Axis, dict[Any, float]]:
    """The swept axis, and where each of its values lies."""
    values = list(dict.fromkeys(at for _, at in sweep.points))
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        low, high = min(values), max(values)
        log = low > 0 and high / low > WIDE / 3
        room = 1 if log else (high - low) * 0.02
        marks = tuple((float(v), _words(v)) for v in sorted(values)) if len(values) <= 8 else ()
        ends = (low / 1.04, high * 1.04) if log else (low - room, high + room)
        return Axis(*ends, _title(sweep), log=log, marks=marks), {v: float(v) for v in values}
    marks = tuple((float(k), _words(v)) for k, v in enumerate(values))
    return Axis(-0.3, len(values) - 0.7, _title(sweep), marks=marks), {v: float(k) for k, v in enumerate(values)}


def _curves(sweep: Sweep, metric: str, found: dict[tuple[str, Point], Estimate]) -> list[Panel]:
    y, per = _vertical(sweep, metric, found)
    x, place = _horizontal(sweep)
    panels = []
    for value in sweep.panel_values:
        points = [point for point in sweep.points if point[0] == value]
        if not any(point == at for _, at in found for point in points):
            continue
        label = _panel_label(sweep, value)
        plot = Plot(x, y, 230, _alt(sweep, metric, found, points, label)).axes(x_ticks=8, y_ticks=5)
        rows: list[Row] = []
        bounds = [(place[p[1]], b / per) for p in points if (b := sweep.bound(p, metric)) is not None]
        for k, method in enumerate(sweep.methods):
            line = [(point[1], found[method, point]) for point in points if (method, point) in found]
            _band(plot, [(place[at], mean) for at, mean in line], per, series(k))
            xs, ys = [place[at] for at, _ in line], [mean.value / per for _, mean in line]
            plot.line(xs, ys, series(k))
            for at, mean in line:
                words = f"{method}, {_name(sweep.axis)} {_words(at)}: {_estimate(metric, mean)}"
                plot.dot(place[at], plot.down(mean.value / per), f"mark {series(k)}", words, radius=4)
                rows.append((method, at, mean.value, mean.low, mean.high, mean.n))
        if bounds:
            plot.line([at for at, _ in bounds], [b for _, b in bounds], "floor")
            for point in points:
                if (bound := sweep.bound(point, metric)) is not None:
                    rows.append(("certified bound", point[1], bound, None, None, None))
                    words = f"{bound_words(metric)} {quantity(metric, bound)}, {_name(sweep.axis)} {_words(point[1])}"
                    plot.dot(place[point[1]], plot.down(bound / per), "tick-mark", words, radius=3)
        panels.append(Panel(label, plot.svg(), rows=tuple(rows)))
    return panels


def _band(plot: Plot, line: list[tuple[float, Estimate]], per: float, css: str) -> None:
    known = [(at, mean.low, mean.high) for at, mean in line if mean.low is not None and mean.high is not None]
    if len(known) > 1:
        xs = np.array([at for at, _, _ in known])
        low, high = (np.array([ends[k] / per for ends in known], dtype=float) for k in (1, 2))
        plot.area(xs, low, high, f"band {css}")


def _rows(sweep: Sweep, metric: str, found: dict[tuple[str, Point], Estimate]) -> list[Panel]:
    """Where nothing is swept: a bar for each kind of run, with its interval."""
    axis, per = _vertical(sweep, metric, found)
    if axis.log:
        axis = Axis(0, max(m.high or m.value for m in found.values()) / per * 1.06, axis.words, axis.share)
    panels = []
    for value in sweep.panel_values:
        point = (value, None)
        means = [(m, found[m, point]) for m in sweep.methods if (m, point) in found]
        if not means:
            continue
        means.sort(key=lambda row: row[1].value, reverse=more_is_better(metric))
        label = _panel_label(sweep, value)
        plot = Plot(axis, Axis(0, 1), ROW * len(means), _alt(sweep, metric, found, [point], label)).axes(y_ticks=0)
        rows: list[Row] = []
        for k, (method, mean) in enumerate(means):
            top = k * ROW
            words = f"{method}: {_estimate(metric, mean)}"
            plot.rect(0 if not axis.log else axis.low, mean.value / per, top + 17, top + 27, "decode", words)
            if mean.low is not None and mean.high is not None:
                plot.dashes(mean.low / per, mean.high / per, top + 22, "whisker", words)
            plot.text(0, top + 7, words, "row", 70)
            rows.append((method, None, mean.value, mean.low, mean.high, mean.n))
        if (bound := sweep.bound(point, metric)) is not None:
            for k in range(len(means)):
                plot.upright(bound / per, "floor", k * ROW + 14, k * ROW + 30)
            rows.append(("certified bound", None, bound, None, None, None))
        panels.append(Panel(label, plot.svg(), bare=True, rows=tuple(rows)))
    return panels


def _estimate(metric: str, mean: Estimate) -> str:
    return estimate_words(metric, mean) + (f", {mean.n} seeds" if mean.n > 1 else "")


def estimate_words(metric: str, mean: Estimate | None) -> str:
    """A mean with its interval: ``12.3 s (11.9 to 12.8)``."""
    if mean is None:
        return "–"
    words = quantity(metric, mean.value)
    if mean.low is None or mean.high is None:
        return words
    ends = [quantity(metric, end).partition(THIN) for end in (mean.low, mean.high)]
    if all(unit == words.partition(THIN)[2] for _, _, unit in ends):
        ends = [(number, "", "") for number, _, _ in ends]
    low, high = ("".join(end) for end in ends)
    return f"{words} ({low} to {high})"


def _alt(
    sweep: Sweep, metric: str, found: dict[tuple[str, Point], Estimate], points: Sequence[Point], label: str
) -> str:
    told = []
    for method in sweep.methods:
        line = [(p[1], found[method, p]) for p in points if (method, p) in found]
        if line:
            ends = [line[0], line[-1]] if len(line) > 1 else line
            words = ", ".join(
                (f"{_words(at)}: " if at is not None else "") + quantity(metric, mean.value) for at, mean in ends
            )
            told.append(f"{method} {words}")
    return ". ".join(filter(None, [label, f"{metric_noun(metric)}; " + "; ".join(told)]))
