"""Tokens held in the KV cache over time, against its capacity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelkit.reporting.charts.svg import COLUMNS, Axis, Figure, Floats, Panel, Plot, Swatch, time_axis
from modelkit.reporting.charts.timeline import Scene
from modelkit.text import count, percent, quantity


def occupancy(scenes: Sequence[Scene]) -> Figure | None:
    """The figure of several schedules of one instance, on the same axes."""
    scenes = [s for s in scenes if s.verdict.intervals]
    if not scenes:
        return None
    capacity = scenes[0].instance.server.kv_capacity_tokens
    end = max(s.end for s in scenes)
    peak = max(float(s.verdict.metrics["peak_kv_tokens"] or 0) for s in scenes)
    top = max(peak, capacity or 0)
    legend = [Swatch("fill", "held", "tokens held")]
    if any(len(s.verdict.intervals) > COLUMNS for s in scenes):
        legend = [
            Swatch("fill", "held", "tokens held, mean of each column"),
            Swatch("line", "peak", "most in the column"),
        ]
    if capacity is not None:
        legend.append(Swatch("line", "limit", "capacity M"))
    if capacity is not None and peak > capacity:
        legend.append(Swatch("fill", "excess", "above the capacity"))
    lead = "Tokens held in every round" + ("." if capacity is None else f", against M = {count(capacity, 'token')}.")
    servers = [server for s in scenes for server in s.by_replica()]
    panels = tuple(_panel(s, end, top, capacity, s is servers[-1]) for s in servers)
    columns = (time_axis(scenes[0].instance.is_unit, end)[0].words, "tokens held", "most tokens")
    return Figure(
        "occupancy", "KV cache over time", lead, panels, tuple(legend), columns=columns, beside=len(panels) > 2
    )


def _panel(scene: Scene, end: float, top: float, capacity: int | None, titled: bool) -> Panel:
    metrics = scene.verdict.metrics
    used, peak = metrics.get("kv_utilisation"), float(metrics["peak_kv_tokens"] or 0)
    if scene.instance.server.replicas > 1:  # the judge's metrics are of all replicas
        used, peak = None, float(max((interval.last_tokens for interval in scene.verdict.intervals), default=0))
    alt = f"{scene.label}: at most {count(int(peak), 'token')} held" + ("" if capacity is None else f" of {capacity:,}")
    note = f"peak {quantity('peak_tokens', peak)}" + ("" if used is None else f", {percent(used)} used on average")
    axis, per = time_axis(scene.instance.is_unit, end)
    plot = Plot(axis, Axis(0, top * 1.12, "tokens"), 120, f"{alt}; {note}").axes(y_ticks=3, x_title=titled)
    times, tokens = _curve(scene, end)
    if len(scene.verdict.intervals) <= COLUMNS:
        zero = np.zeros(len(times))
        plot.area(times / per, zero, tokens, "held")
        plot.line(times / per, tokens, "held-edge", "tokens held")
        held = highest = tokens
    else:
        edges = np.linspace(0.0, end, COLUMNS + 1)
        mean, highest = _columns(times, tokens, edges)
        times = (edges[:-1] + edges[1:]) / 2
        plot.area(times / per, np.zeros(COLUMNS), mean, "held", "mean")
        plot.line(times / per, highest, "peak", "most")
        held = mean
    if capacity is not None:
        if peak > capacity:
            over = np.maximum(highest, capacity)
            plot.area(times / per, np.full(len(times), float(capacity)), over, "excess")
        plot.level(capacity, "limit", f"M = {capacity:,}")
    return Panel(
        scene.label,
        plot.svg(),
        note,
        rows=tuple(zip((times / per).tolist(), held.tolist(), highest.tolist(), strict=True)),
    )


def _curve(scene: Scene, end: float) -> tuple[Floats, Floats]:
    """(time, tokens) at the corners of the curve. Between rounds those in progress keep what they held."""
    begins = np.sort(np.array([s.begin for s in scene.verdict.residencies]))
    ends = np.sort(np.array([scene.stop(s) for s in scene.verdict.residencies]))
    times: list[float] = [0.0]
    tokens: list[float] = [0.0]
    for interval in scene.verdict.intervals:
        if interval.begin > times[-1]:
            middle = (times[-1] + interval.begin) / 2
            someone = np.searchsorted(begins, middle, "right") > np.searchsorted(ends, middle, "right")
            held = min(tokens[-1], float(interval.first_tokens)) if someone else 0.0
            times += [times[-1], interval.begin]
            tokens += [held, held]
        times += [interval.begin, interval.end]
        tokens += [float(interval.first_tokens), float(interval.last_tokens)]
    times += [times[-1], max(end, times[-1])]
    tokens += [0.0, 0.0]
    return np.array(times), np.array(tokens)


def _columns(times: Floats, tokens: Floats, edges: Floats) -> tuple[Floats, Floats]:
    """Mean and maximum of the curve in each column."""
    widths = np.diff(times)
    areas = np.concatenate(([0.0], np.cumsum(widths * (tokens[:-1] + tokens[1:]) / 2)))
    position = np.clip(np.searchsorted(times, edges, "right") - 1, 0, len(times) - 2)
    into = np.clip(edges - times[position], 0, widths[position])
    slope = np.divide(
        tokens[position + 1] - tokens[position], widths[position], out=np.zeros(len(edges)), where=widths[position] > 0
    )
    integral = areas[position] + into * (tokens[position] + slope * into / 2)
    at_edges = tokens[position] + slope * into
    highest = np.maximum(at_edges[:-1], at_edges[1:])
    column = np.clip(np.searchsorted(edges, times, "right") - 1, 0, len(edges) - 2)
    np.maximum.at(highest, column, tokens)
    return np.diff(integral) / np.diff(edges), highest
