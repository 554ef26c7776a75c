"""Rows of marks along one scale: distances from the optimum, utilisation, ratios over many instances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelkit.problems.problem import SERVING
from modelkit.reporting.charts.curves import series
from modelkit.reporting.charts.svg import Axis, Figure, Panel, Plot, Swatch, time_axis
from modelkit.reporting.charts.timeline import Scene
from modelkit.reporting.critical_path import CriticalPath
from modelkit.reporting.entries import alike
from modelkit.reporting.evidence import Case, Entry, sentence_of
from modelkit.reporting.observation import AS_LOGGED
from modelkit.text import count, metric_noun, percent, quantity

#: Height of a row [px].
ROW = 34
#: Most characters over a bar: a phone shows about as many.
LONGEST = 60
#: With fewer instances the table says all that dots and boxes could.
FEWEST_DOTS = 3
#: A schedule farther off than this many times the median is cut off.
CUT = 12.0


def distances(case: Case) -> Figure | None:
    """How far above the optimum each schedule can be: from what is proven to what cannot be excluded."""
    rows = [
        (name, case.above_best(e) or 0.0, above)
        for name, e in alike(case.valid)
        if (above := case.above_bound(e)) is not None
    ]
    if not rows or case.bound is None:
        return None
    rows.sort(key=lambda r: r[2])
    far = _shown_end([above for _, _, above in rows])
    axis = Axis(0, far * 1.12 or 0.01, "above the optimum", share=True)
    sure = "proven, since a better schedule is known"
    doubt = "not excluded by the bound"
    words = [f"{name} {percent(low, 'down')} to {percent(high, 'up')}" for name, low, high in rows]
    plot = Plot(axis, Axis(0, 1), ROW * len(rows), "Distance from the optimum: " + "; ".join(words)).axes(y_ticks=0)
    for k, (name, least, most) in enumerate(rows):
        top = k * ROW
        plot.rect(0, least, top + 17, top + 27, "sure", f"{name}: at least {percent(least, 'down')}, {sure}")
        plot.rect(least, most, top + 17, top + 27, "doubt", f"{name}: up to {percent(most, 'up')} {doubt}")
        if most <= axis.high:
            plot.upright(most, "tip", top + 14, top + 30)
        else:
            plot.text(axis.high, top + 7, "farther →", "row end")
        exact = least and percent(least) == percent(most)
        shown = (
            "optimal" if not most else percent(most) if exact else f"{percent(least, 'down')} to {percent(most, 'up')}"
        )
        plot.text(0, top + 7, _over_bar(name, shown), "row")
    lead = f"Distance of each schedule from the optimum. {sentence_of(case.reference_words)}."
    legend = (Swatch("fill", "sure", sure), Swatch("fill", "doubt", doubt))
    panel = Panel("", plot.svg(), bare=True, rows=tuple(rows))
    columns = ("schedule", "above the optimum at least", "at most")
    return Figure("distances", "How far from the optimum", lead, (panel,), legend, columns=columns)


def _over_bar(name: str, words: str) -> str:
    """What stands over a bar: its value whole, the name as far as there is room."""
    room = LONGEST - len(words) - 2
    return f"{name if len(name) <= room else name[: room - 1] + '…'}: {words}"


def _shown_end(ascending: Sequence[float]) -> float:
    """Up to where values are drawn: what is far off would press the others together."""
    far = ascending[-1]
    near = [value for value in ascending if value <= CUT * ascending[(len(ascending) - 1) // 2]]
    return 1.5 * near[-1] if near and far > 2 * near[-1] else far


def values(case: Case) -> Figure | None:
    """The objective in real time of each schedule, a total as the mean of all requests, with the bound as a line."""
    bound = case.bound
    if bound is None or case.goal.variant or case.objective not in SERVING.objectives or not case.valid:
        return None
    each = case.stamp.requests if case.objective.startswith("total_") else 1
    metric = case.objective.replace("total_", "mean_")
    noun, least = metric_noun(metric), max(0.0, bound.value / each)
    rows = [(_name(case, name, e), (e.value or 0.0) / each, "decode") for name, e in alike(case.valid)]
    legend = [Swatch("fill", "decode", noun)]
    if case.observation is not None and (seen := case.observation.run.metrics.get(metric)) is not None:
        rows.append((AS_LOGGED, seen, "waiting"))
        legend.append(Swatch("fill", "waiting", AS_LOGGED))
    rows.sort(key=lambda row: row[1])
    far = max(_shown_end([value for _, value, _ in rows]), least)
    axis, per = time_axis(False, far * 1.05, noun)
    alt = f"{sentence_of(noun)}: " + "; ".join(f"{name} {quantity(metric, value)}" for name, value, _ in rows)
    plot = Plot(axis, Axis(0, 1), ROW * len(rows), f"{alt}; bound {quantity(metric, least)}").axes(y_ticks=0)
    for k, (name, value, css) in enumerate(rows):
        top = k * ROW
        words = f"{name}: {quantity(metric, value)}"
        plot.rect(0, value / per, top + 17, top + 27, css, words)
        plot.text(0, top + 7, _over_bar(name, quantity(metric, value)), "row")
        if value / per > axis.high:
            plot.text(axis.high, top + 7, "farther →", "row end")
    plot.upright(least / per, "limit")
    kind = "certified lower bound" if bound.certified else f"lower bound of {bound.source}"
    legend.append(Swatch("line", "limit", f"{kind}: {quantity(metric, least)}"))
    lead = f"{sentence_of(noun)} of each schedule. No schedule's bar can end left of the line."
    numbers = (*((name, value) for name, value, _ in rows), (kind, least))
    panel = Panel("", plot.svg(), bare=True, rows=numbers)
    table = case.observation.table if case.observation is not None else None
    return Figure("values", sentence_of(noun), lead, (panel,), tuple(legend), table, ("schedule", metric))


def _name(case: Case, name: str, entry: Entry) -> str:
    """What a schedule is called: beside a log, simulated or the best that was found."""
    if case.observation is None:
        return name
    return f"best found ({name})" if entry is case.best else f"{name}, simulated"


#: Shares of a whole, and what they are of.
SHARES = {
    "kv_utilisation": "KV cache used",
    "slot_utilisation": "slots held",
    "slot_decode_utilisation": "slots decoding",
}


def utilisation(case: Case) -> Figure | None:
    """Shares of memory and slots that the valid schedules use, where these differ."""
    kinds = [k for k in SHARES if _differ([e.result.metrics.get(k) for e in case.valid])]
    if not kinds:
        return None
    panels = []
    ranked = alike(sorted(case.valid, key=lambda e: e.value or 0.0))
    for kind in kinds:
        rows = [(name, v) for name, e in ranked if (v := e.result.metrics.get(kind)) is not None]
        alt = f"{SHARES[kind]}: " + "; ".join(f"{name} {percent(v)}" for name, v in rows)
        plot = Plot(Axis(0, 1, "", share=True), Axis(0, 1), ROW * len(rows), alt).axes(y_ticks=0, x_ticks=4)
        for k, (name, value) in enumerate(rows):
            top = k * ROW
            plot.rect(0, 1, top + 17, top + 27, "idle")
            plot.rect(0, value, top + 17, top + 27, "decode", f"{name}: {percent(value)}")
            plot.text(0, top + 7, _over_bar(name, percent(value)), "row")
        panels.append(Panel(SHARES[kind], plot.svg(), bare=True, rows=tuple(rows)))
    lead = "Share of the capacity in use, integrated over the makespan."
    return Figure("utilisation", "Utilisation", lead, tuple(panels), columns=("schedule", "share"))


def _differ(shares: Sequence[float | None]) -> bool:
    """Whether bars of these would show a difference: more than two points."""
    known = [share for share in shares if share is not None]
    return bool(known) and max(known) - min(known) > 0.02


def ratios(ratios: dict[str, list[float]], to_bound: bool) -> Figure | None:
    """Each instance a dot: value over the best bound (or the best schedule), a row for each kind of run."""
    rows = [(name, sorted(values)) for name, values in ratios.items() if values]
    if max((len(values) for _, values in rows), default=0) < FEWEST_DOTS:
        return None
    far = max(values[-1] for _, values in rows)
    low = min(1.0, *(values[0] for _, values in rows))
    what = "value / certified bound" if to_bound else "value / best schedule"
    axis = Axis(low, max(far, low + 1e-3) + (far - low) * 0.04, what)
    alt = "Ratios. " + "; ".join(
        f"{name}: {count(len(v), 'instance')}, median {np.median(v):.3f}, worst {v[-1]:.3f}" for name, v in rows
    )
    size = 46
    plot = Plot(axis, Axis(0, 1), size * len(rows), alt).axes(y_ticks=0)
    for k, (name, values) in enumerate(rows):
        top = k * size
        plot.text(axis.low, top + 8, f"{name}: median {np.median(values):.3f}, worst {values[-1]:.3f}", "row", 70)
        quartiles = [float(np.quantile(values, q)) for q in (0.25, 0.75)]
        plot.rect(quartiles[0], quartiles[1], top + 19, top + 41, "box")
        for i, value in enumerate(_thin(values)):
            place = top + 23 + 14 * (i * 0.618034 % 1)
            plot.dot(value, place, f"mark {series(k)}", f"{name}: {value:.4f}", radius=2.5)
        plot.upright(float(np.median(values)), "median", top + 17, top + 43)
    lead = "Each dot is an instance; the box spans the middle half of them, the line is the median."
    return Figure(
        "ratios-to-bound" if to_bound else "ratios-to-best",
        "How far above the certified bound" if to_bound else "How far above the best",
        lead,
        (Panel("", plot.svg(), bare=True, rows=tuple((name, v) for name, values in rows for v in _thin(values))),),
        columns=("run", what),
    )


def _thin(values: list[float], most: int = 400) -> list[float]:
    """At most ``most`` of the sorted values, ends included."""
    if len(values) <= most:
        return values
    return [values[i] for i in np.linspace(0, len(values) - 1, most).round().astype(int)]


def wins(counts: Sequence[tuple[str, int]], instances: int) -> Figure | None:
    """On how many instances each kind of run has the best schedule."""
    rows = [(name, n) for name, n in counts if n]
    if not rows or instances < 2:
        return None
    alt = "Best schedules: " + "; ".join(f"{name} {n}" for name, n in rows)
    plot = Plot(Axis(0, instances, "instances"), Axis(0, 1), ROW * len(rows), alt).axes(y_ticks=0)
    for k, (name, n) in enumerate(rows):
        top = k * ROW
        plot.rect(0, instances, top + 17, top + 27, "idle")
        plot.rect(0, n, top + 17, top + 27, "decode", f"{name}: {count(n, 'instance')}")
        plot.text(0, top + 7, f"{name}: {count(n, 'instance')}", "row", 60)
    lead = "Number of instances on which no other run is better; ties count for each."
    panel = Panel("", plot.svg(), bare=True, rows=tuple(rows))
    return Figure("wins", "Winners", lead, (panel,), columns=("run", "instances"))


def chain(path: CriticalPath, scene: Scene) -> Figure:
    """The critical path of a schedule: each link where it lies in time."""
    axis, per = time_axis(scene.instance.is_unit, path.end)
    rows = path.links if len(path.links) <= 40 else ()
    size = 18 if len(rows) <= 16 else 11
    height = size * len(rows) if rows else 34
    plot = Plot(axis, Axis(0, 1), height, f"Critical path of {scene.label}: {path.words}").axes(y_ticks=0)
    for k, link in enumerate(path.links):
        top, bottom = (k * size + 2, (k + 1) * size - 2) if rows else (4, 30)
        css = {"run": "decode", "wait": "waiting"}[link.kind]
        plot.rect(link.begin / per, link.end / per, top, bottom, css if rows else f"{css} cell", link.words)
        if rows and size >= 16:
            right = plot.across(link.end / per) > 70
            place = link.begin / per if right else link.end / per
            plot.text(place, (top + bottom) / 2, f"\u2002{link.name}\u2002", "row end" if right else "row", 24)
    shown = f"{scene.label}: {count(len(path.links), 'link')}"
    legend = [Swatch("fill", "decode", "in progress")]
    if any(link.kind == "wait" for link in path.links):
        legend.append(Swatch("fill", "waiting", "idle on this path"))
    return Figure(
        "critical-path",
        "What determines the makespan",
        path.words,
        (Panel(shown, plot.svg(), bare=True, rows=tuple((k.kind, k.name, k.begin, k.end) for k in path.links)),),
        tuple(legend),
        columns=("link", "request", "from", "to"),
    )
