"""Axes and marks as SVG text.

A plot is as wide as its place on the page: positions across are percentages, heights are pixels, and text keeps its
size on a phone. Curves lie in a nested SVG that is stretched, with strokes that are not. Colours, patterns and fonts
come from classes of the page's style sheet.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

from modelkit.text import THIN, number

Floats = npt.NDArray[np.float64]

#: Left, right (on the x axis), top, bottom [px].
Box = tuple[float, float, float, float]

#: Columns into which a long time is divided where single requests cannot be seen.
COLUMNS = 400

#: Width of the stretched layer, in its own units.
WIDTH = 1000

_UNPRINTABLE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def plain(text: object) -> str:
    """Text without control characters but line feeds, lone surrogates and changes of direction."""
    return _UNPRINTABLE.sub("\ufffd", str(text))


def safe(text: object, width: int | None = None) -> str:
    """Text on one line that is safe inside an element or attribute, cut to ``width`` characters."""
    clean = plain(text).replace("\n", " ")
    if width is not None and len(clean) > width:
        clean = clean[: width - 1] + "…"
    return escape(clean, quote=True)


@dataclass(frozen=True)
class Swatch:
    """An entry of a legend: the mark's kind (``line``, ``fill`` or ``dot``), its class, and what it means."""

    kind: str
    css: str
    words: str


#: A row of the data behind a plot: what is drawn, where it stands from left to right, and further numbers or words.
Row = tuple[str | float | None, ...]


@dataclass(frozen=True)
class Panel:
    """One plot of a figure, under its label, and the data behind it; ``bare`` when its left margin is empty."""

    label: str
    svg: str
    note: str = ""
    bare: bool = False
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Figure:
    """Plots that answer one question.

    Parameters
    ----------
    key
        Name for links and tests.
    title, lead
        The question, and a sentence on what is seen.
    table
        Numbers of the figure: header and rows.
    columns
        Headings of the data behind its panels.
    beside
        Whether panels stand beside each other where there is room.
    """

    key: str
    title: str
    lead: str
    panels: tuple[Panel, ...]
    legend: tuple[Swatch, ...] = ()
    table: tuple[tuple[str, ...], tuple[tuple[str, ...], ...]] | None = None
    columns: tuple[str, ...] = ()
    beside: bool = False

    @property
    def csv(self) -> str:
        """The data behind the figure; empty where there is none."""
        if not self.columns or not any(panel.rows for panel in self.panels):
            return ""
        several = len(self.panels) > 1
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*(["panel"] if several else []), *map(plain, self.columns)])
        for panel in self.panels:
            for row in panel.rows:
                cells = [f"{v:.5g}" if isinstance(v, float) else v if v is None else plain(v) for v in row]
                writer.writerow([*([plain(panel.label)] if several else []), *cells])
        return text.getvalue()


@dataclass(frozen=True)
class Axis:
    """What an axis measures, and from where to where.

    Parameters
    ----------
    share
        Whether its values are shares, shown in percent.
    log
        Whether equal ratios are equally long; both ends are above 0.
    marks
        Ticks with their words, in place of round values.
    """

    low: float
    high: float
    words: str = ""
    share: bool = False
    log: bool = False
    marks: tuple[tuple[float, str], ...] = ()

    @property
    def span(self) -> float:
        """Its length; 1 where it has none."""
        return (self.high - self.low) or 1.0

    def place(self, value: float) -> float:
        """Where a value lies, from 0 at the low end to 1 at the high one."""
        if not self.log:
            return (value - self.low) / self.span
        if value <= 0:
            return 0.0
        return math.log(value / self.low) / (math.log(self.high / self.low) or 1.0)

    def ticks(self, most: int) -> list[float]:
        """At most about ``most`` round values within the axis."""
        if self.marks:
            return [value for value, _ in self.marks]
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1, 2, 5), (1, 3), (1,)):
                found = [m * 10.0**d for d in decades for m in steps if self.low <= m * 10.0**d <= self.high]
                if len(found) <= most + 1:
                    break
            return found
        raw = self.span / max(1, most)
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= raw * (1 - 1e-9))
        if step == 2.5 * size and size <= 1 and self.span >= 3 and not self.share:
            step = 5 * size  # whole numbers where there are any
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]

    def label(self, value: float) -> str:
        """A tick's text."""
        if value in (known := dict(self.marks)):
            return known[value]
        if self.share:
            return f"{value * 100:.6g}{THIN}%" if value else "0"
        if abs(value) >= 1e7:
            return f"{value / 1e6:,.6g}M"
        return f"{value:,.6g}" if abs(value) < 1e6 else number(value)


class Plot:
    """Marks in the order in which they are added, later ones on top.

    Parameters
    ----------
    x, y
        Axes; ``y.high`` lies on top.
    height
        Of the plot's area [px].
    alt
        What it shows, for screen readers.
    """

    def __init__(self, x: Axis, y: Axis, height: int, alt: str) -> None:
        self.x, self.y, self.height, self.alt = x, y, height, alt
        self.below: list[str] = []
        self.parts: list[tuple[bool, str]] = []  # (stretched?, text)
        self.footer = 0

    # --- positions -----------------------------------------------------------------------------

    def across(self, value: float) -> float:
        """Position of ``value`` in percent of the width."""
        return min(100.0, max(0.0, 100 * self.x.place(value)))

    def down(self, value: float) -> float:
        """Position of ``value`` in px from the top."""
        return min(float(self.height), max(0.0, self.height * (1 - self.y.place(value))))

    # --- marks ---------------------------------------------------------------------------------

    def axes(self, *, x_ticks: int = 6, y_ticks: int = 4, x_title: bool = True) -> Plot:
        """Grid, ticks and titles of both axes."""
        if y_ticks:
            for value in self.y.ticks(y_ticks):
                at = short(self.down(value))
                self.below.append(f'<line class="grid" x1="0" x2="100%" y1="{at}" y2="{at}"/>')
                self.below.append(
                    f'<text class="tick end" x="-8" y="{at}" dy="0.32em">{safe(self.y.label(value))}</text>'
                )
        if self.y.words:
            self.below.append(f'<text class="axis" x="-56" y="-9">{safe(self.y.words)}</text>')
        base = self.height
        self.below.append(f'<line class="base" x1="0" x2="100%" y1="{base}" y2="{base}"/>')
        if x_ticks:
            for k, value in enumerate(self.x.ticks(x_ticks)):
                at = short(self.across(value))
                odd = " odd" if k % 2 else ""
                self.below.append(f'<line class="base{odd}" x1="{at}%" x2="{at}%" y1="{base}" y2="{base + 4}"/>')
                edge = " end" if self.across(value) > 96 else " middle" if self.across(value) > 3 else ""
                self.below.append(
                    f'<text class="tick{edge}{odd}" x="{at}%" y="{base + 16}">{safe(self.x.label(value))}</text>'
                )
            self.footer = 18
        if self.x.words and x_title:
            self.below.append(f'<text class="axis end" x="100%" y="{base + 32}">{safe(self.x.words)}</text>')
            self.footer = 34
        return self

    def rect(self, left: float, right: float, top: float, bottom: float, css: str, title: str = "") -> None:
        """A rectangle from ``left`` to ``right`` on the x axis and ``top`` to ``bottom`` in px."""
        a, b = self.across(left), self.across(right)
        inside = f"<title>{safe(title)}</title>" if title else ""
        shape = (
            f'<rect class="{css}" x="{short(a, 3)}%" y="{short(top)}" width="{short(b - a, 3)}%"'
            f' height="{short(bottom - top)}"'
        )
        self.parts.append((False, f"{shape}>{inside}</rect>" if inside else f"{shape}/>"))

    def boxes(self, boxes: Iterable[Box], css: str) -> None:
        """Many rectangles of one class as one path: small."""
        scale = WIDTH / 100
        path = []
        for left, right, top, bottom in boxes:
            a, b = self.across(left) * scale, self.across(right) * scale
            path.append(f"M{short(a)} {short(top)}h{short(b - a)}v{short(bottom - top)}h{short(a - b)}z")
        if path:
            self.parts.append((True, f'<path class="{css}" d="{"".join(path)}"/>'))

    def line(self, xs: Sequence[float] | Floats, ys: Sequence[float] | Floats, css: str, name: str = "") -> None:
        """A polyline; one with a name tells its values where the pointer is."""
        if len(xs):
            self.parts.append((True, f'<path class="line {css}"{_named(name)} d="M{self._points(xs, ys)}"/>'))

    def steps(
        self, xs: Sequence[float], ys: Sequence[float], css: str, end: float | None = None, name: str = ""
    ) -> None:
        """A line that keeps each value until the next."""
        px: list[float] = []
        py: list[float] = []
        for k, (a, b) in enumerate(zip(xs, ys, strict=True)):
            if k:
                px.append(a)
                py.append(ys[k - 1])
            px.append(a)
            py.append(b)
        if px and end is not None and end > px[-1]:
            px.append(end)
            py.append(py[-1])
        self.line(px, py, css, name)

    def area(self, xs: Floats, low: Floats, high: Floats, css: str, name: str = "") -> None:
        """The area between two curves; one with a name tells its height where the pointer is."""
        if len(xs):
            forth, back = self._points(xs, high), self._points(xs[::-1], low[::-1])
            self.parts.append((True, f'<path class="{css}"{_named(name)} d="M{forth}L{back}z"/>'))

    def _points(self, xs: Sequence[float] | Floats, ys: Sequence[float] | Floats) -> str:
        scale = WIDTH / 100
        return "L".join(f"{short(self.across(a) * scale)} {short(self.down(b))}" for a, b in zip(xs, ys, strict=True))

    def dot(self, x: float, y: float, css: str, title: str = "", radius: float = 3.5) -> None:
        """A dot at a value of the x axis and ``y`` px."""
        inside = f"<title>{safe(title)}</title>" if title else ""
        place = f'cx="{short(self.across(x), 3)}%" cy="{short(y)}"'
        self.parts.append((False, f'<circle class="{css}" {place} r="{radius:g}">{inside}</circle>'))

    def level(self, value: float, css: str, words: str = "") -> None:
        """A horizontal line at ``value`` with its name above its right end."""
        at = short(self.down(value))
        self.parts.append((False, f'<line class="{css}" x1="0" x2="100%" y1="{at}" y2="{at}"/>'))
        if words:
            self.parts.append((False, f'<text class="note end" x="100%" y="{at}" dy="-5">{safe(words)}</text>'))

    def upright(self, value: float, css: str, top: float = 0.0, bottom: float | None = None) -> None:
        """A vertical line at ``value`` of the x axis."""
        at, end = short(self.across(value), 3), short(self.height if bottom is None else bottom)
        self.parts.append((False, f'<line class="{css}" x1="{at}%" x2="{at}%" y1="{short(top)}" y2="{end}"/>'))

    def dashes(self, left: float, right: float, y: float, css: str, title: str) -> None:
        """A horizontal line from ``left`` to ``right`` on the x axis, at ``y`` px."""
        ends = f'x1="{short(self.across(left), 3)}%" x2="{short(self.across(right), 3)}%"'
        at = short(y)
        self.parts.append(
            (False, f'<line class="{css}" {ends} y1="{at}" y2="{at}"><title>{safe(title)}</title></line>')
        )

    def text(self, x: float | None, y: float, words: str, css: str, width: int | None = None) -> None:
        """Text at a value of the x axis (None: in the left margin) and ``y`` px."""
        place = '"-8"' if x is None else f'"{short(self.across(x), 3)}%"'
        self.parts.append(
            (False, f'<text class="{css}" x={place} y="{short(y)}" dy="0.32em">{safe(words, width)}</text>')
        )

    # --- the whole -----------------------------------------------------------------------------

    def svg(self) -> str:
        """The plot as an SVG element."""
        out = [*self.below]
        curves: list[str] = []

        def flush() -> None:
            if curves:
                out.append(
                    f'<svg width="100%" height="{self.height}" viewBox="0 0 {WIDTH} {self.height}"'
                    f' preserveAspectRatio="none">{"".join(curves)}</svg>'
                )
                curves.clear()

        for stretched, part in self.parts:
            if stretched:
                curves.append(part)
            else:
                flush()
                out.append(part)
        flush()
        body = "".join(out)
        scales = _scale("x", self.x) + _scale("y", self.y) if " data-name=" in body else ""
        return (
            f'<svg class="plot" role="img" aria-label="{safe(self.alt)}" width="100%"'
            f' height="{self.height + self.footer}"{scales}>{body}</svg>'
        )


def _named(name: str) -> str:
    return f' data-name="{safe(name, 60)}"' if name else ""


def _scale(axis: str, scale: Axis) -> str:
    """What a position along an axis means, for the script that reads curves where the pointer is."""
    kind = " log" if scale.log else " share" if scale.share else ""
    return f' data-{axis}="{scale.low:.8g} {scale.high:.8g}{kind}" data-{axis}-words="{safe(scale.words)}"'


def short(value: float, digits: int = 1) -> str:
    """A coordinate with no more digits than can be seen."""
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def time_axis(is_unit: bool, end: float, words: str = "") -> tuple[Axis, float]:
    """The axis of the replay's time up to ``end``, and how many of its units make one of the axis.

    Rounds under the unit clock; ms are shown as seconds, minutes or hours.
    """
    if is_unit:
        return Axis(0, max(1.0, end), f"{words} [rounds]" if words else "round"), 1.0
    for size, unit in ((3.6e6 * 3, "hours"), (6e4 * 10, "minutes"), (2000.0, "seconds")):
        if end >= size:
            per = {"hours": 3.6e6, "minutes": 6e4, "seconds": 1e3}[unit]
            return Axis(0, end / per, f"{words} [{unit}]" if words else unit), per
    return Axis(0, max(1e-9, end), f"{words} [ms]" if words else "ms"), 1.0


def mean_in_columns(begins: Floats, ends: Floats, edges: Floats) -> Floats:
    """How many intervals are open, in the mean over each column between ``edges``; shape [len(edges) - 1]."""

    def passed(times: Floats) -> Floats:
        """Integral over time of how many of ``times`` are past, at each edge."""
        ordered = np.sort(times)
        sums = np.concatenate(([0.0], np.cumsum(ordered)))
        k = np.searchsorted(ordered, edges, side="right")
        return np.asarray(edges * k - sums[k])

    return np.maximum(0.0, np.diff(passed(begins) - passed(ends)) / np.diff(edges))
