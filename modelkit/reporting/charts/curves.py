"""Curves: latencies, incumbent and bound, the gap, the prices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelkit.certificate import Prices
from modelkit.judge import latencies, percentile
from modelkit.reporting.charts.svg import COLUMNS, Axis, Figure, Floats, Panel, Plot, Row, Swatch, time_axis
from modelkit.reporting.charts.timeline import Scene
from modelkit.reporting.evidence import Case, Entry
from modelkit.reporting.goals import Goal
from modelkit.result import relative_gap
from modelkit.text import number, percent, quantity

#: Values farther off than this, relative to the last, leave the plot at its edge.
FAR = 0.5
#: Classes of the series: a colour, a dash and a shape of their own each.
SERIES = 8


def series(k: int) -> str:
    """Class of the k-th series."""
    return f"s{k % SERIES}"


def latency(scenes: Sequence[Scene]) -> Figure | None:
    """Share of the requests that a latency suffices for, one curve a schedule, with P50, P90 and P99."""
    drawn = [(s, values) for s in scenes if (values := latencies(s.instance, s.verdict)) and s.valid]
    if not drawn:
        return None
    instance = drawn[0][0].instance
    unit = instance.unit
    longest = max(values[-1] for _, values in drawn)
    axis, per = time_axis(instance.is_unit, longest, "latency")
    alt = "Latency distribution. " + "; ".join(
        f"{s.label}: half of the requests within {quantity(f'p50_{unit}', percentile(values, 50))}, 99 % within"
        f" {quantity(f'p99_{unit}', percentile(values, 99))}"
        for s, values in drawn
    )
    plot = Plot(axis, Axis(0, 1, "share of requests", share=True), 240, alt).axes()
    for q in (0.5, 0.9, 0.99):
        plot.level(q, "quantile", f"P{q * 100:g}")
    legend, rows = [], []
    quantiles: list[Row] = []
    for k, (scene, values) in enumerate(drawn):
        ordered = np.array(values)
        ranks = np.unique(np.linspace(1, len(ordered), min(len(ordered), 250)).astype(int))
        shares, times = (ranks / len(ordered)).tolist(), (ordered[ranks - 1] / per).tolist()
        plot.steps([0.0, *times], [0.0, *shares], series(k), axis.high, scene.label)
        quantiles += zip([scene.label] * len(ranks), times, shares, strict=True)
        legend.append(Swatch("line", series(k), scene.label))
        cells = [quantity(f"p_{unit}", percentile(values, q)) for q in (50, 90, 99)]
        mean = scene.verdict.metrics.get(f"mean_latency_{unit}")
        rows.append((scene.label, quantity(f"mean_{unit}", mean), *cells, quantity(f"max_{unit}", values[-1])))
    return Figure(
        "latency", "Latency", "Share of the requests whose latency, from arrival to the last token, is at most this.",
        (Panel("", plot.svg(), rows=tuple(quantiles)),), tuple(legend),
        (("Schedule", "mean", "P50", "P90", "P99", "longest"), tuple(rows)),
        ("schedule", axis.words, "share of requests"),
    )  # fmt: skip


def progress(case: Case) -> Figure | None:
    """Incumbent and bound of each solver run over its seconds."""
    runs = [e for e in case.entries if len(e.result.progress) > 1]
    panels = [panel for e in runs[:8] if (panel := _progress(e, case.goal)) is not None]
    if not panels:
        return None
    legend = (Swatch("line", "incumbent", "incumbent"), Swatch("line", "bound", "the solver's bound"))
    lead = "The solver's incumbent and claimed bound while it ran. Values far off in the first moments are cut off."
    columns = ("run", "seconds", "incumbent", "bound")
    return Figure("progress", "Incumbent and bound over time", lead, tuple(panels), legend, columns=columns)


def _progress(entry: Entry, goal: Goal) -> Panel | None:
    points = entry.result.progress
    incumbents = [(t, v) for t, v, _ in points if v is not None]
    bounds = [(t, b) for t, _, b in points if b is not None]
    known = [v for _, v in incumbents + bounds]
    if not known:
        return None
    end = max(points[-1][0], entry.result.seconds.solve or 0.0)
    low, high = _near(known, incumbents[-1][1] if incumbents else bounds[-1][1])
    room = (high - low) * 0.08 or max(1.0, abs(high) * 0.01)
    finals = [f"incumbent {goal.quantity(incumbents[-1][1])}"] if incumbents else []
    finals += [f"bound {goal.quantity(bounds[-1][1])}"] if bounds else []
    alt = f"{entry.label} after {number(end, 3)} s: {', '.join(finals)}"
    per = (1000.0 if goal.is_metric and goal.objective.endswith("_ms") else 1.0) * goal.per
    words = goal.noun + (f" [{'s' if per > 1 else 'rounds'}]" if goal.is_metric else "")
    plot = Plot(Axis(0, end or 1.0, "seconds"), Axis((low - room) / per, (high + room) / per, words), 150, alt).axes()
    plot.steps([t for t, _ in bounds], [v / per for _, v in bounds], "bound", end, "bound")
    plot.steps([t for t, _ in incumbents], [v / per for _, v in incumbents], "incumbent", end, "incumbent")
    return Panel(entry.label, plot.svg(), ", ".join(finals), rows=tuple((entry.label, *point) for point in points))


def _near(values: list[float], last: float) -> tuple[float, float]:
    """Least and greatest of the values that are near the last: what is known in the first moments is far off."""
    near = [v for v in values if abs(v - last) <= FAR * abs(last)]
    return min(near), max(near)


def gap(case: Case) -> Figure | None:
    """The gap of the solver runs over time in one plot, when there are several."""
    curves = []
    for entry in case.entries:
        points = [(t, g) for t, v, b in entry.result.progress if (g := relative_gap(v, b)) is not None]
        if points:
            curves.append((entry, points))
    if len(curves) < 2:
        return None
    end = max(max(p[-1][0], e.result.seconds.solve or 0.0) for e, p in curves)
    shares = [g for _, points in curves for _, g in points]
    highest = max((g for g in shares if g <= FAR), default=min(1.0, max(shares)))
    alt = "Gap over time. " + "; ".join(f"{e.label}: {percent(max(0.0, p[-1][1]))} at the end" for e, p in curves)
    plot = Plot(Axis(0, end or 1.0, "seconds"), Axis(0, highest * 1.05 or 1.0, "gap", share=True), 200, alt).axes()
    legend = []
    rows: list[Row] = []
    for k, (entry, points) in enumerate(curves):
        gaps = [min(1.0, max(0.0, g)) for _, g in points]
        plot.steps([t for t, _ in points], gaps, series(k), end, entry.label)
        rows += [(entry.label, t, g) for t, g in points]
        legend.append(Swatch("line", series(k), entry.label))
    lead = "(incumbent − bound) / incumbent, both the solver's own, while each run lasted."
    panel = Panel("", plot.svg(), rows=tuple(rows))
    return Figure("gap", "Gap over time", lead, (panel,), tuple(legend), columns=("run", "seconds", "gap"))


def prices(case: Case) -> Figure | None:
    """The prices on memory that prove the bound."""
    certificate = case.bound.certificate if case.bound else None
    if certificate is None or certificate.prices is None or not certificate.prices.rounds:
        return None
    stated = certificate.prices
    last = stated.rounds[-1]
    values, per = _dense(stated)
    cuts = np.linspace(0, len(values), min(len(values), COLUMNS) + 1).astype(int)
    note = "One bar per round." if len(values) <= COLUMNS and per == 1 else "Each bar is the mean of several rounds."
    means = np.add.reduceat(values, cuts[:-1]) / np.diff(cuts)
    xs: Floats = cuts * float(per)
    ys: Floats = np.append(means, 0.0).astype(np.float64)
    highest = float(ys.max())
    alt = (
        f"Prices of {len(stated.rounds):,} rounds up to round {last:,}; the highest is {number(float(values.max()), 3)}"
    )
    plot = Plot(Axis(0, float(xs[-1]), "round"), Axis(0, highest * 1.08, "latency rounds per token"), 150, alt).axes()
    steps_x = np.repeat(xs, 2)[1:-1]
    steps_y = np.repeat(ys[:-1], 2)
    plot.area(steps_x, np.zeros(len(steps_x)), steps_y, "held")
    plot.line(steps_x, steps_y, "held-edge", "price")
    lead = (
        "The cost of one token of memory in a round, in rounds of total latency. Any prices give a bound; these give"
        f" {quantity(case.objective, certificate.value)}. Where the price is zero, memory is not scarce."
        f" {note}"
    )
    panel = Panel("", plot.svg(), rows=tuple(zip(xs.tolist(), ys.tolist(), strict=True)))
    return Figure("prices", "Prices of memory", lead, (panel,), columns=("from round", "latency rounds per token"))


def _dense(stated: Prices) -> tuple[Floats, int]:
    """Price of each round up to the last that has one, or its mean over a number of rounds where they are millions."""
    last = stated.rounds[-1]
    per = max(1, -(-last // 1_000_000))
    values = np.zeros(last // per + 1)
    priced = np.array(stated.numerators, dtype=float) / stated.denominator / per
    np.add.at(values, np.array(stated.rounds) // per, priced)
    return values, per
