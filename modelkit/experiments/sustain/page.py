"""The page of a search for sustainable load: the answer, the limits, and the curves that led to them."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from modelkit.experiments.sustain.found import AXES, Point, PolicyLimit, Sustained
from modelkit.io import write_text
from modelkit.reporting.charts.curves import series
from modelkit.reporting.charts.svg import Axis, Figure, Panel, Plot, Row, Swatch
from modelkit.reporting.pages.tables import Cell, Column, Table, TableRow, sort_key
from modelkit.reporting.render import rendered
from modelkit.requests import ServiceLevels
from modelkit.text import count, number, percent, quantity

#: Values that differ by more than this factor stand on a logarithmic axis.
WIDE = 5.0
#: Times that are drawn against the axis, with the field of their limit and what they are called.
TIMES = (("p99_ttft_ms", "ttft_ms", "TTFT that 99 % keep"), ("p99_tpot_ms", "tpot_ms", "TPOT that 99 % keep"))


def sustain_page(found: Sustained, path: str | os.PathLike[str], command: str = "") -> Path | None:
    """Write the page; see `modelkit.io.write_text`."""
    return write_text(path, rendered("sustain.html.j2", _content(found, command)))


def _content(found: Sustained, command: str) -> dict[str, Any]:
    facts = [
        ("levels", found.levels_words),
        ("requests", f"{found.requests:,} for each of {count(len(found.seeds), 'seed')}"),
    ]
    facts.append(("arrivals", "Poisson" if found.arrivals == "poisson" else "as given, faster or slower"))
    if found.rate is not None:
        facts.append(("rate", f"{number(found.rate, 3)} requests/s"))
    headline = found.headline
    return {
        "title": headline,
        "kicker": f"{found.name} · what it sustains",
        "headline": headline,
        "findings": [found.sentence, *(f"{words}." for words in found.remarks)],
        "key_figures": facts,
        "limits": _limits_table(found),
        "figures": [f for f in (_shares(found), *(_times(found, *row) for row in TIMES)) if f is not None],
        "provenance": [("command", command)] if command else [("made by", "modelkit.sustain")],
    }


def _limits_table(found: Sustained) -> Table:
    """A row for each policy, and what nobody can exceed."""
    name, unit = AXES[found.over]
    best = None if found.best is None else found.best.value
    columns = (
        Column("Policy", False), Column(f"{name} [{unit}]"), Column("95 % interval"), Column("fails at"),
        Column("within levels"), Column("TTFT p99"), Column("TPOT p99"), Column("goodput"), Column("of the long run"),
    )  # fmt: skip
    rows = [TableRow(tuple(_cells(found, limit)), "best" if limit.value == best else "") for limit in found.limits]
    for words, value in (
        ("nobody, in the long run", found.in_the_long_run),
        ("nobody, these requests", found.certified),
    ):
        if value is not None:
            cells = [Cell(words), Cell(_amount(found, value), sort_key(value))]
            rows.append(TableRow((*cells, *[Cell("–")] * (len(columns) - 2))))
    return Table(f"The {'largest' if found.larger_is_harder else 'least'} {name} that suffices", columns, tuple(rows))


def _cells(found: Sustained, limit: PolicyLimit) -> list[Cell]:
    at = limit.at_limit
    interval = "–"
    if limit.low is not None and limit.high is not None:
        interval = f"{_amount(found, limit.low)} to {_amount(found, limit.high)}"
    cells = [
        Cell(limit.policy),
        Cell(_amount(found, limit.value), sort_key(limit.value)),
        Cell(interval),
        Cell(_amount(found, limit.fails), sort_key(limit.fails)),
        Cell("–" if at is None else percent(at.share, "down"), sort_key(None if at is None else at.share)),
    ]
    for metric in ("p99_ttft_ms", "p99_tpot_ms", "goodput_requests_per_second"):
        mean = None if at is None else at.mean(metric)
        cells.append(Cell(quantity(metric, mean), sort_key(mean)))
    ratio = None
    if limit.value and found.in_the_long_run:
        parts = (limit.value, found.in_the_long_run)
        ratio = parts[0] / parts[1] if found.larger_is_harder else parts[1] / parts[0]
    return [*cells, Cell("–" if ratio is None else percent(ratio), sort_key(ratio))]


def _amount(found: Sustained, value: float | None) -> str:
    return "–" if value is None else number(value, 3) if found.over == "rate" else f"{value:,.0f}"


def _across(found: Sustained) -> Axis:
    """The axis that was searched."""
    name, unit = AXES[found.over]
    values = [p.value for limit in found.limits for p in limit.points]
    values += [found.in_the_long_run] if found.in_the_long_run else []
    low, high = min(values), max(values)
    if high / low > WIDE:
        return Axis(low / 1.1, high * 1.1, f"{name} [{unit}]", log=True)
    room = (high - low) * 0.04 or high * 0.04
    return Axis(max(0.0, low - room), high + room, f"{name} [{unit}]")


def _shares(found: Sustained) -> Figure:
    """Share of the requests within their levels against the axis."""
    drawn = {limit.policy: [(p, p.share) for p in limit.points] for limit in found.limits}
    least = min(share for line in drawn.values() for _, share in line)
    y = Axis(0.0 if least < 0.5 else math.floor(least * 10) / 10, 1.0, "share within levels", share=True)
    lead = f"Share of the requests of all seeds that keep their levels; {found.percentile:g} % must. Dots were tried."
    return _figure(found, "shares", "Within service levels", lead, y, drawn, found.percentile / 100, "must keep them")


def _times(found: Sustained, metric: str, field: str, words: str) -> Figure | None:
    """A time that 99 % of the requests keep, mean over seeds, against the axis."""
    drawn = {
        limit.policy: [(p, value / 1000.0) for p in limit.points if (value := p.mean(metric)) is not None]
        for limit in found.limits
    }
    values = [value for line in drawn.values() for _, value in line]
    limits = _general(found.slo, field)
    if not values or limits is None:
        return None
    low, high = min([*values, limits]), max([*values, limits])
    log = low > 0 and high / low > WIDE
    y = Axis(low / 1.2, high * 1.2, "s", log=True) if log else Axis(0.0, high * 1.08, "s")
    lead = f"{words}, mean over seeds, and the limit."
    return _figure(found, metric, words, lead, y, drawn, limits, "limit")


def _general(slo: ServiceLevels, field: str) -> float | None:
    ms = getattr(slo, field)
    return None if ms is None else float(ms) / 1000.0


def _figure(
    found: Sustained,
    key: str,
    title: str,
    lead: str,
    y: Axis,
    drawn: dict[str, list[tuple[Point, float]]],
    level: float,
    words: str,
) -> Figure:
    """Lines of policies over the axis, a level, and what nobody can exceed."""
    alt = f"{title}. " + "; ".join(
        f"{policy}: " + ", ".join(f"{_amount(found, p.value)}: {y.label(value)}" for p, value in line)
        for policy, line in drawn.items()
    )
    plot = Plot(_across(found), y, 240, alt).axes()
    legend, rows = [], []
    for k, (policy, line) in enumerate(drawn.items()):
        plot.line([p.value for p, _ in line], [value for _, value in line], series(k))
        for point, value in line:
            told = f"{policy} at {_amount(found, point.value)} {AXES[found.over][1]}: {y.label(value)}"
            plot.dot(point.value, plot.down(value), f"mark {series(k)}", told)
            rows.append((policy, point.value, value))
        legend.append(Swatch("line", series(k), policy))
    if found.in_the_long_run:
        plot.upright(found.in_the_long_run, "limit")
        legend.append(Swatch("line", "limit", "nobody beyond, in the long run"))
    plot.level(level, "quantile", words)
    shown: tuple[Row, ...] = tuple(rows)
    return Figure(
        key, title, lead, (Panel("", plot.svg(), rows=shown),), tuple(legend),
        columns=("policy", f"{found.over}", "share" if y.share else "seconds"),
    )  # fmt: skip
