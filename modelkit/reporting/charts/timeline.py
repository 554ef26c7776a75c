"""Which requests wait, prefill, decode or are evicted, over time: a Gantt chart, or areas where requests are many."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from modelkit.instance import Instance, LinearClock
from modelkit.judge import Residency, Verdict
from modelkit.reporting.charts.svg import (
    COLUMNS,
    Axis,
    Box,
    Figure,
    Floats,
    Panel,
    Plot,
    Row,
    Swatch,
    mean_in_columns,
    time_axis,
)
from modelkit.text import count, quantity

#: Up to this number of requests, each has a row.
MOST_ROWS = 150
#: Most slots that have a row each.
MOST_SLOTS = 250
#: Most residencies that are drawn one by one.
MOST_STAYS = 4000
#: Most residencies of a panel that can be pointed at, and whose times a page carries.
MOST_TOLD = 400
#: What the data of a figure of residencies, and of one of areas, has; times in rounds or ms.
_STAYS = ("request", "slot", "arrival", "admitted", "prefilled", "end")
_STATES = ("from", "decode", "prefill", "evicted", "waiting")

WAITING = Swatch("fill", "waiting", "waiting")
WAITING_LINE = Swatch("line", "wait", "waiting")
PREFILL = Swatch("fill", "prefill", "prefill")
DECODE = Swatch("fill", "decode", "decode")
EVICTED = Swatch("fill", "evicted", "evicted: work that is lost")
PAUSED = Swatch("fill", "waiting", "paused: it keeps its tokens")
STAGE = Swatch("fill", "stage", "held, but interrupted by a prefill stage")
IDLE = Swatch("fill", "idle", "idle")


@dataclass(frozen=True)
class Scene:
    """A replayed schedule to draw: its label, whether it keeps all rules, and whose requests are drawn; None: all."""

    label: str
    instance: Instance
    verdict: Verdict
    valid: bool = True
    served: frozenset[int] | None = None

    @property
    def end(self) -> float:
        """When the last thing happens [round or ms]."""
        ends = [s.end or s.begin for s in self.verdict.residencies]
        return max([*ends, *(s.end for s in self.verdict.intervals[-1:])], default=0.0)

    def by_replica(self) -> list[Scene]:
        """A scene for each replica, or the same where there is one."""
        replicas = self.instance.server.replicas
        if replicas == 1:
            return [self]
        homes = {residency.request: residency.replica for residency in self.verdict.residencies}
        scenes = []
        for r in sorted(set(homes.values())):
            # who is never admitted waits on the first
            served = frozenset(i for i in self.requests if homes.get(i, min(homes.values())) == r)
            label = f"{self.label}, replica {r}"
            scenes.append(replace(self, label=label, verdict=self.verdict.on(r), served=served))
        return scenes

    @property
    def requests(self) -> list[int]:
        """The requests that are drawn, by position."""
        return self.drawn(range(len(self.instance.requests)))

    def drawn(self, requests: Iterable[int]) -> list[int]:
        """Those of the requests that are drawn, in their order."""
        return [i for i in requests if self.served is None or i in self.served]

    @property
    def in_stages(self) -> bool:
        """Whether prefills block decoding."""
        clock = self.instance.server.clock
        return isinstance(clock, LinearClock) and not clock.mixed

    def arrival(self, request: int) -> float:
        """When a request arrives [round or ms]."""
        return self.instance.requests[request].arrival * (1.0 if self.instance.is_unit else 1000.0)

    def span(self, begin: float, end: float) -> str:
        """From when to when, in words."""
        if self.instance.is_unit:
            return f"rounds {begin:,g} to {end:,g}"
        first, last, long = (quantity("time_ms", time) for time in (begin, end, end - begin))
        return f"{first} to {last}, {long} long"

    def stop(self, residency: Residency) -> float:
        """When a residency ends; the end of the schedule where it never does."""
        return self.end if residency.end is None else residency.end

    def prefilled(self) -> list[float]:
        """When the prefill of each residency is over.

        In stages that is when the next decode round begins; otherwise the prompt is processed in the first round.
        """
        rounds: dict[int, list[float]] = {}
        for interval in self.verdict.intervals:
            rounds.setdefault(interval.replica, []).append(interval.begin)
        out = []
        for residency in self.verdict.residencies:
            until = self.stop(residency) if residency.first_token is None else residency.first_token
            if self.in_stages:
                begins = rounds.get(residency.replica, [])
                k = bisect_right(begins, residency.begin)
                until = min(until, begins[k]) if k < len(begins) else until
            out.append(min(until, self.stop(residency)))
        return out

    def waits(self) -> list[tuple[int, float, float]]:
        """(request, from, to) of every wait: from arrival or eviction to the next admission."""
        since = {i: self.arrival(i) for i in self.requests}
        out = []
        for residency in self.verdict.residencies:
            if (start := since.pop(residency.request, None)) is not None and start < residency.begin:
                out.append((residency.request, start, residency.begin))
            if not residency.completed and residency.end is not None:
                since[residency.request] = residency.end
        out += [(i, start, self.end) for i, start in since.items() if start < self.end]
        return out


def timeline(scenes: Sequence[Scene]) -> Figure | None:
    """The figure of several schedules of one instance, on one axis of time."""
    scenes = [s for s in scenes if s.verdict.residencies]
    if not scenes:
        return None
    end = max(s.end for s in scenes)
    first = scenes[0]
    slots = first.instance.server.slots
    staged = first.in_stages and slots is not None and all(s.slot is not None for s in first.verdict.residencies)
    columns: tuple[str, ...]
    evictions = any(not s.completed and s.end is not None for scene in scenes for s in scene.verdict.residencies)
    servers = [server for s in scenes for server in s.by_replica()]
    if staged and slots is not None and slots <= MOST_SLOTS and len(first.instance.requests) <= MOST_STAYS:
        panels = [_slots(s, end, slots, s is servers[-1]) for s in servers]
        title, what = "Slots over time", "Each row is a slot; time goes from left to right."
        legend, columns = [DECODE, PREFILL, STAGE, IDLE], _STAYS
    elif len(first.instance.requests) <= MOST_ROWS and not staged:
        begun = {s.request: s.begin for s in reversed(first.verdict.residencies)}
        order = sorted(range(len(first.instance.requests)), key=lambda i: (first.arrival(i), begun.get(i, end), i))
        panels = [_requests(s, end, s.drawn(order), s is servers[-1]) for s in servers]
        title, what = "Requests over time", "Each row is a request, in the order of arrival and of the best schedule."
        legend, columns = [WAITING_LINE, PREFILL, DECODE], _STAYS
    else:
        panels = [_areas(s, end, s is scenes[-1]) for s in scenes]
        title, what = (
            "Requests over time",
            "Number of requests that wait, prefill and decode, averaged over each column; each on its own scale.",
        )
        legend, columns = [DECODE, PREFILL, WAITING], _STATES
    if evictions:
        legend.append(EVICTED)
    if any(s.pauses for scene in scenes for s in scene.verdict.residencies) and WAITING not in legend:
        legend.append(PAUSED)
    return Figure("timeline", title, what, tuple(panels), tuple(legend), columns=columns, beside=len(panels) > 2)


def _note(scene: Scene) -> str:
    """Makespan, evictions and pauses, as the judge says; of one replica, its own."""
    name, stays = f"makespan_{scene.instance.unit}", scene.verdict.residencies
    makespan, evictions, pauses = (scene.verdict.metrics.get(metric) for metric in (name, "evictions", "pauses"))
    if scene.served is not None and makespan is not None:
        makespan, evictions = scene.end, sum(not s.completed and s.end is not None for s in stays)
        pauses = sum(len(s.pauses) for s in stays)
    parts = [f"makespan {quantity(name, makespan)}"] if makespan is not None else []
    parts += [count(int(number), what) for number, what in ((evictions, "eviction"), (pauses, "pause")) if number]
    return ", ".join(parts)


def _alt(scene: Scene) -> str:
    residencies = scene.verdict.residencies
    waits = scene.waits()
    evicted = sum(not s.completed and s.end is not None for s in residencies)
    unit = "round" if scene.instance.is_unit else "ms"
    return (
        f"{scene.label}: {count(len(scene.requests), 'request')} until"
        f" {quantity(f'end_{unit}s' if unit == 'round' else 'end_ms', scene.end)}; {len(waits)} waits"
        + (f"; {count(evicted, 'eviction')}" if evicted else "")
    )


def _requests(scene: Scene, end: float, order: list[int], titled: bool) -> Panel:
    """A row for each request."""
    requests = scene.instance.requests
    row = {request: k for k, request in enumerate(order)}
    size = min(22, max(4, 520 // len(order)))
    axis, per = time_axis(scene.instance.is_unit, end)
    plot = Plot(axis, Axis(0, 1), size * len(order), _alt(scene)).axes(y_ticks=0, x_title=titled)
    inset = 1 if size < 8 else 2

    def place(request: int) -> tuple[float, float]:
        return row[request] * size + inset, (row[request] + 1) * size - inset

    for request, start, stop in scene.waits():
        top, bottom = place(request)
        words = f"{requests[request].id}: waits, {scene.span(start, stop)}"
        plot.dashes(start / per, stop / per, (top + bottom) / 2, "wait", words)
    for residency, prefilled in zip(scene.verdict.residencies, scene.prefilled(), strict=True):
        top, bottom = place(residency.request)
        name, stop = requests[residency.request].id, scene.stop(residency)
        lost = not residency.completed and residency.end is not None
        words = f"{name}: prefill, {scene.span(residency.begin, prefilled)}"
        plot.rect(residency.begin / per, prefilled / per, top, bottom, "prefill", words)
        words = f"{name}: {'evicted, its tokens are lost' if lost else 'decode'}, {scene.span(prefilled, stop)}"
        plot.rect(prefilled / per, stop / per, top, bottom, "evicted" if lost else "decode", words)
        for since, until in residency.pauses:
            words = f"{name}: paused, {scene.span(since, until)}"
            plot.rect(since / per, until / per, top, bottom, "waiting", words)
        if lost:
            plot.upright(stop / per, "eviction", top - 1, bottom + 1)
    if size >= 10:
        for request in order:
            top, bottom = place(request)
            plot.text(None, (top + bottom) / 2, requests[request].id, "tick end", 8)
    return Panel(scene.label, plot.svg(), _note(scene), rows=_stays(scene))


def _stays(scene: Scene) -> tuple[Row, ...]:
    """The residencies as data, where they are few."""
    stays = scene.verdict.residencies
    if len(stays) > MOST_TOLD:
        return ()
    requests = scene.instance.requests
    return tuple(
        (requests[s.request].id, s.slot, scene.arrival(s.request), s.begin, prefilled, s.end)
        for s, prefilled in zip(stays, scene.prefilled(), strict=True)
    )


def _slots(scene: Scene, end: float, slots: int, titled: bool) -> Panel:
    """A row for each slot."""
    size = min(26.0, max(1.6, 420 / slots))
    inset = 0.0 if size < 3 else 1.0 if size < 8 else 2.0
    axis, per = time_axis(scene.instance.is_unit, end)
    plot = Plot(axis, Axis(0, slots), round(size * slots), _alt(scene)).axes(y_ticks=0, x_title=titled)
    plot.rect(0, scene.end / per, 0, plot.height, "idle")
    decode: list[Box] = []
    lost: list[Box] = []
    prefill: list[Box] = []
    for residency, prefilled in zip(scene.verdict.residencies, scene.prefilled(), strict=True):
        slot = min(max(residency.slot or 0, 0), slots - 1)
        top, bottom = slot * size + inset, (slot + 1) * size - inset
        box = (prefilled / per, scene.stop(residency) / per, top, bottom)
        (decode if residency.completed or residency.end is None else lost).append(box)
        prefill.append((residency.begin / per, prefilled / per, top, bottom))
    plot.boxes(decode, "decode cell" if size >= 3 else "decode")
    plot.boxes(lost, "evicted")
    for begin, stop in sorted(
        {(s.begin, p) for s, p in zip(scene.verdict.residencies, scene.prefilled(), strict=True)}
    ):
        plot.rect(begin / per, stop / per, 0, plot.height, "stage")
    plot.boxes(prefill, "prefill")
    plot.boxes(
        [
            (since / per, until / per, slot * size + inset, (slot + 1) * size - inset)
            for residency in scene.verdict.residencies
            for slot in (min(max(residency.slot or 0, 0), slots - 1),)
            for since, until in residency.pauses
        ],
        "waiting",
    )
    if len(prefill) <= MOST_TOLD:
        for residency in scene.verdict.residencies:
            slot = min(max(residency.slot or 0, 0), slots - 1)
            begin, stop = residency.begin, scene.stop(residency)
            words = f"{scene.instance.requests[residency.request].id}, slot {slot}: {scene.span(begin, stop)}"
            plot.rect(begin / per, stop / per, slot * size, (slot + 1) * size, "touch", words)
    for slot in range(slots) if size >= 10 else range(0, slots, 50):
        plot.text(None, (slot + 0.5) * size, f"slot {slot}", "tick end")
    return Panel(scene.label, plot.svg(), _note(scene), rows=_stays(scene))


def _areas(scene: Scene, end: float, titled: bool) -> Panel:
    """Means over columns of time, stacked: decode, prefill, evicted, waiting; the paused wait."""
    axis, per = time_axis(scene.instance.is_unit, end)
    edges = np.linspace(0.0, end, COLUMNS + 1)
    residencies, prefilled = scene.verdict.residencies, scene.prefilled()
    lost = [not s.completed and s.end is not None for s in residencies]

    def mean(intervals: list[tuple[float, float]]) -> Floats:
        pairs = np.array(intervals, dtype=float).reshape(-1, 2)
        return mean_in_columns(pairs[:, 0], pairs[:, 1], edges)

    kept = mean([(p, scene.stop(s)) for s, p, gone in zip(residencies, prefilled, lost, strict=True) if not gone])
    prefill = mean([(s.begin, p) for s, p in zip(residencies, prefilled, strict=True)])
    evicted = mean([(p, scene.stop(s)) for s, p, gone in zip(residencies, prefilled, lost, strict=True) if gone])
    paused = mean([pause for s, gone in zip(residencies, lost, strict=True) if not gone for pause in s.pauses])
    kept, waiting = kept - paused, mean([(a, b) for _, a, b in scene.waits()]) + paused
    most = float((kept + prefill + evicted + waiting).max(initial=1.0))
    plot = Plot(axis, Axis(0, most * 1.04, "requests"), 150, _alt(scene)).axes(x_title=titled)
    middles = (edges[:-1] + edges[1:]) / 2 / per
    base = np.zeros(COLUMNS)
    layers = {"decode": kept, "prefill": prefill, "evicted": evicted, "waiting": waiting}
    for css, layer in layers.items():
        if layer.any():
            plot.area(middles, base, base + layer, css, css)
        base = base + layer
    rows = zip((edges[:-1] / per).tolist(), *(layer.tolist() for layer in layers.values()), strict=True)
    return Panel(scene.label, plot.svg(), _note(scene), rows=tuple(rows))
