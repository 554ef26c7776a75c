"""Pages about the library of instances: one for each, their table, and the policies compared on them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

import modelkit as mk
from modelkit.judge import judge
from modelkit.reporting.charts.occupancy import occupancy
from modelkit.reporting.charts.svg import Axis, Figure, Panel, Plot, Swatch
from modelkit.reporting.charts.timeline import Scene, timeline
from modelkit.reporting.goals import MEANS
from modelkit.reporting.inline import inline_figures
from modelkit.sources.library import DIVISIONS, Entry, find_entry, library, library_entries
from modelkit.text import count, metric_noun, percent, quantity

#: Values of every policy, by `benchmarks/library_policies.py`.
MEASURED = Path(__file__).parents[1] / "benchmarks" / "results" / "library_policies.json"
FAMILIES = {
    "small-memory": "Unit clock, few requests in a small memory: hard to prove",
    "trace-scale": "Unit clock, hundreds to thousands of requests",
    "slots": "Slots in stages, a prefill blocks decoding",
    "real-time": "Continuous batching on measured servers",
    "replicas": "Several servers alike",
    "prefixes": "Prompts that begin alike",
    "pauses": "Requests may be paused",
}
TOLD = {
    "clairvoyant": "the exact output lengths",
    "predicted": "predictions that may be wrong",
    "blind": "nothing of output lengths but one limit for all",
}
#: Policies that are far off are drawn at the edge.
FARTHEST = 1.6


def library_pages() -> dict[str, str]:
    """Text of each page by its path."""
    entries = list(library_entries().values())
    return {
        "library/index.md": _index(entries),
        "compared.md": _compared(entries),
        **{f"library/{entry.instance}.md": instance_page(entry) for entry in entries},
    }


def _index(entries: Sequence[Entry]) -> str:
    closed = sum(entry.status == "closed" for entry in entries)
    parts = [
        f"# Library of instances\n\n{len(entries)} named instances, {closed} of them closed: their best schedule meets"
        " a bound that is proven. The others are open. Every bound has a certificate and every value a schedule; both"
        " are recomputed by `modelkit verify`, and by a checker of one file that shares no line with modelkit. A better"
        " one is [welcome](../how-to/library.md):\n\n"
        "```console\n$ modelkit library get NAME -o mine.json\n$ modelkit solve mine.json"
        " --time-limit 600 -o better.json\n$ modelkit library submit better.json\n```\n\n"
        "The gap is (best value - bound) / best value."
        ' In Python, `mk.library("NAME")` is the instance.\n'
    ]
    for family, words in FAMILIES.items():
        own = [entry for entry in entries if entry.family == family]
        parts.append(f"## {family}\n\n{words}.\n\n{_entries_table(own)}\n")
    return "\n".join(parts)


def _entries_table(entries: Iterable[Entry]) -> str:
    rows = ["| instance | requests | objective | bound | best | gap |", "|---|---:|---|---:|---:|---:|"]
    for e in entries:
        gap = "closed" if e.status == "closed" else "–" if e.gap is None else percent(e.gap, "up")
        noun = metric_noun(_shown(e)[0])
        rows.append(
            f"| [{e.instance}]({e.instance}.md) | {e.size:,} | {noun} | {_value(e, e.lower_bound)} |"
            f" {_value(e, e.upper_bound)} | {gap} |"
        )
    return "\n".join(rows)


def _shown(entry: Entry) -> tuple[str, int]:
    """The metric that is shown, and what the objective is divided by: a total of times says little."""
    mean = MEANS.get(entry.objective)
    return (mean, entry.size) if mean is not None else (entry.objective, 1)


def _plain(words: str) -> str:
    """Words of whoever submitted, as text: nothing of them is Markdown or HTML."""
    return "".join(c if c.isalnum() or c in " .,:;-()" else f"&#{ord(c)};" for c in words)


def _value(entry: Entry, value: float | None) -> str:
    metric, each = _shown(entry)
    return "none" if value is None else quantity(metric, value / each)


def instance_page(entry: Entry) -> str:
    """What is known of an instance: picture, bounds, policies, history."""
    gap = "" if entry.gap is None else f" The gap is {percent(entry.gap, 'up')}." if entry.gap else ""
    state = "Closed: the best schedule is optimal." if entry.status == "closed" else f"Open.{gap}"
    features = entry.features
    told = [("requests", f"{entry.size:,}"), ("objective", metric_noun(_shown(entry)[0]))]
    told += [(name, f"{value:.3g}") for name, value in _features(features) if value is not None]
    told.append(("SHA-256", f"`{entry.sha256}`"))
    lines = [
        f"# {entry.instance}\n\n{entry.description[:1].upper()}{entry.description[1:]}."
        f" Family [{entry.family}](index.md#{entry.family}). **{state}**\n",
        f"```console\n$ modelkit library get {entry.instance}\n```\n",
        f'<div markdown="0">\n{inline_figures(_figures(entry), style=False)}\n</div>\n',
        "## Best policies\n\nBy what policies are told:\n\n"
        "| division | told | policy | value | above the best |\n|---|---|---|---:|---:|",
    ]
    for division in DIVISIONS:
        if (best := entry.policies.get(division)) is not None:
            above = "–" if entry.upper_bound is None else percent(best.value / entry.upper_bound - 1)
            lines.append(f"| {division} | {TOLD[division]} | `{best.policy}` | {_value(entry, best.value)} | {above} |")
    lines.append("\n## History\n\n| | value | by | on | method | seconds | file |\n|---|---:|---|---|---|---:|---|")
    for what, history in (("best value", entry.ub_data), ("bound", entry.lb_data)):
        for found in reversed(history):
            path = getattr(found, "certificate", None) or getattr(found, "schedule", None)
            spent = "–" if found.seconds is None else f"{found.seconds:,.1f}"
            file = f"`{path.split('/')[0]}/`" if path else ""
            lines.append(
                f"| {what} | {_value(entry, found.value)} | {_plain(found.who)} | {found.date} | {_plain(found.method)}"
                f" | {spent} | {file} |"
            )
    lines.append("\n## The instance\n\n| | |\n|---|---|")
    lines += [f"| {name} | {value} |" for name, value in told]
    return "\n".join(lines) + "\n"


def _features(features: object) -> list[tuple[str, float | None]]:
    names = {
        "load": "load: least share of the server that the arrivals need",
        "pressure": "demand at its height over what the server has",
        "output_variation": "variation of output lengths",
        "burstiness": "variation of the gaps between arrivals",
    }
    return [(words, getattr(features, name)) for name, words in names.items()]


def _figures(entry: Entry) -> list[Figure]:
    """Where bound, best schedule and policies lie, and the best schedule over time."""
    drawn = [_ladder(entry)]
    best = entry.best()
    if best is not None and best.schedule is not None and entry.recipe.trace is None:
        instance = library(entry.instance)
        scene = Scene("best schedule", instance, judge(instance, best.schedule))
        scenes = [scene] if instance.server.replicas == 1 else scene.by_replica()[:2]
        drawn.append(occupancy(scenes))
        if entry.size <= 60:
            drawn.append(timeline([scene]))
    return [figure for figure in drawn if figure is not None]


def _ladder(entry: Entry) -> Figure | None:
    """The bound, the best value and the best policy of each division on one scale."""
    metric, each = _shown(entry)
    best = entry.upper_bound
    if best is None:
        return None
    values = [("best schedule known", best, "sure")]
    values += [
        (f"{division}: {policy.policy}", policy.value, "decode")
        for division in DIVISIONS
        if (policy := entry.policies.get(division)) is not None
    ]
    far = max(value for _, value, _ in values)
    end = min(far, FARTHEST * best)
    per = 1000.0 * each if metric.endswith("_ms") else float(each)
    unit = "s" if metric.endswith("_ms") else "rounds"
    axis = Axis(0, end * 1.04 / per, f"{metric_noun(metric)} [{unit}]")
    told = "; ".join(f"{name} {_value(entry, value)}" for name, value, _ in values)
    plot = Plot(axis, Axis(0, 1), 34 * len(values), f"{entry.instance}: {told}").axes(y_ticks=0)
    for k, (name, value, css) in enumerate(values):
        top, words = 34 * k, f"{name}: {_value(entry, value)}"
        plot.rect(0, value / per, top + 17, top + 27, css, words)
        plot.text(0, top + 7, words, "row", 60)
        if value / per > axis.high:
            plot.text(axis.high, top + 7, "farther →", "row end")
    legend = [Swatch("fill", "decode", metric_noun(metric))]
    if entry.lower_bound is not None:
        plot.upright(entry.lower_bound / per, "limit")
        legend.append(Swatch("line", "limit", f"certified: none can be below {_value(entry, entry.lower_bound)}"))
    lead = "The best schedule known and the best policy of each division. No schedule's bar can end left of the line."
    rows = tuple((name, value / each) for name, value, _ in values)
    return Figure("ladder", "What is known", lead, (Panel("", plot.svg(), bare=True, rows=rows),), tuple(legend),
                  columns=("what", metric))  # fmt: skip


def _compared(entries: Sequence[Entry]) -> str:
    by_hash = {entry.sha256: entry for entry in entries}
    rows = json.loads(MEASURED.read_text(encoding="utf-8"))["rows"] if MEASURED.exists() else []
    parts = [
        "# Policies compared\n\nHow far above the certified bound each policy is on the [library](library/index.md), in"
        " the median over the instances of a family: *at most* so far above the optimum, which lies between bound and"
        " best schedule. The row *best known* says how much of that can be the bound's. A number in brackets counts the"
        " instances where some were left out: those with more than a thousand requests, without a bound, or of a kind"
        " that the policy is not for.\n"
    ]
    for division in DIVISIONS:
        above: dict[str, dict[str, list[float]]] = {}
        best: dict[str, list[float]] = {}
        for row in rows:
            entry = by_hash.get(row["sha256"])
            if entry is None or not entry.lower_bound or entry.upper_bound is None or division not in row["values"]:
                continue
            best.setdefault(entry.family, []).append(entry.upper_bound / entry.lower_bound - 1)
            for policy, value in row["values"][division].items():
                above.setdefault(policy, {}).setdefault(entry.family, []).append(value / entry.lower_bound - 1)
        parts.append(f"## {division[:1].upper()}{division[1:]}\n\nPolicies are told {TOLD[division]}.\n")
        for families in (tuple(f for f in FAMILIES if f != "slots"), ("slots",)):
            parts.append(_compared_table(families, above, best))
    return "\n".join(parts) + "\n"


def _compared_table(
    asked: Sequence[str], above: dict[str, dict[str, list[float]]], best: dict[str, list[float]]
) -> str:
    families = [family for family in asked if family in best]
    above = {policy: own for policy, of in above.items() if (own := {f: of[f] for f in families if f in of})}
    if not above:
        return ""
    heads = " | ".join(f"{family} ({len(best[family])})" for family in families)
    lines = [f"| policy | {heads} |", "|---|" + "---:|" * len(families)]
    lines.append("| *best known* | " + " | ".join(f"*{percent(median(best[f]), 'up')}*" for f in families) + " |")
    least = {f: min((median(of[f]) for of in above.values() if len(of.get(f, ())) == len(best[f])), default=None)
             for f in families}  # fmt: skip
    for policy, of in sorted(above.items(), key=lambda item: (-len(item[1]), median(map(median, item[1].values())))):
        cells = []
        for family in families:
            shares = of.get(family, [])
            words = percent(median(shares), "up") if shares else "–"
            if shares and len(shares) == len(best[family]) and median(shares) == least[family]:
                words = f"**{words}**"
            cells.append(words + (f" ({len(shares)})" if shares and len(shares) < len(best[family]) else ""))
        lines.append(f"| `{policy}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def front_picture() -> str:
    """The picture of the front page: where schedulers lie between what is proven and what is served."""
    entry = find_entry(FRONT)
    instance = library(entry.instance)
    runs = [mk.simulate(instance, name) for name in ("vllm-like", "svf", "mc-sf:gate=auto")]
    best = entry.best()
    if best is not None:
        producer = best.producer.model_copy(update={"kind": "improvement", "name": "best schedule known"})
        runs.append(best.model_copy(update={"producer": producer}))
    found = [*runs, *([certificate] if (certificate := entry.certificate()) is not None else [])]
    keys = ("distances", "present") if entry.lower_bound is not None else ("present",)
    drawn = mk.draw(found, *keys, instances=[instance])
    return (
        f'<div markdown="0">\n{inline_figures(drawn.figures, style=False)}\n</div>\n\n'
        f"{count(entry.size, 'request')} of an [instance](library/{entry.instance}.md) of the library:"
        f" {entry.description}. The dark part of a bar is proven, the hatched part is what the bound does not exclude;"
        " no schedule has fewer requests in the system than the shaded area."
    )


#: The instance of the front page.
FRONT = "chat-n300-rate17-m7300-llama2-70b-2xa100-s202"
