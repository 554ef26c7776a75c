"""What stands on the page of one instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from modelkit.instance import Instance, LinearClock
from modelkit.judge import METRICS
from modelkit.problems.problem import TOTAL_LATENCY_MS
from modelkit.reporting.charts import curves, occupancy, present, ranges, timeline
from modelkit.reporting.charts.svg import Figure
from modelkit.reporting.critical_path import critical_path
from modelkit.reporting.entries import alike
from modelkit.reporting.evidence import Case, Entry, sentence_of
from modelkit.reporting.observation import AS_LOGGED
from modelkit.reporting.pages.tables import Cell, Column, Table, TableRow, commands, option_facts, sort_key
from modelkit.text import bare, count, join_words, percent, seconds, unit_words

#: A table of more metrics than this, for fewer runs, has a row for each metric.
MOST_TURNED = 6
#: Schedules that are drawn.
MOST_SCENES = 6


def instance_page(found: Sequence[Case]) -> dict[str, Any]:
    """A page on one instance: a part for each goal."""
    first = found[0]
    several = len(found) > 1
    headline = f"{len(found)} problems, which are not compared with each other" if several else _headline(first)
    kicker = f"{_cut(first.name, 120)} · {count(first.stamp.requests, 'request')}"
    if not several and first.goal.variant:
        kicker += f" · {first.goal.title}"
    return {
        "title": f"{_cut(first.name, 60)}: {headline}",
        "kicker": kicker,
        "headline": headline,
        "problems": [_part(case, f"-{k}" if several else "", several) for k, case in enumerate(found, start=1)],
        "instance_facts": _instance_facts(found),
        "provenance": _provenance(found),
    }


def _headline(case: Case) -> str:
    """What the page leads with: a log's sentence, else the finding."""
    return case.headline if case.observation is None else case.observation.headline.rstrip(".")


def _findings(case: Case) -> list[str]:
    """What else is known; under a log's sentence the finding and what is to be said of the log."""
    if case.observation is None:
        return case.findings
    return [*case.observation.remarks, f"{case.headline}.", *case.findings]


def _part(case: Case, mark: str, several: bool) -> dict[str, Any]:
    """What the page says of one goal; ``mark`` tells its anchors from those of the others."""
    figures, left_out = _figures(case, several)
    metrics = _metrics(case)
    return {
        "mark": mark,
        "title": sentence_of(case.goal.title) if several else "",
        "headline": case.headline,
        "findings": _findings(case),
        "key_figures": _key_figures(case),
        "runs": runs_of(case),
        "troubles": _troubles(case),
        "figures": [replace(f, key=f.key + mark) for f in figures],
        "left_out": left_out,
        "metrics": metrics,
        "meanings": _meanings(metrics),
    }


def _key_figures(case: Case) -> list[tuple[str, str]]:
    facts = [("Requests", f"{case.stamp.requests:,}")]
    if case.instance is not None:
        server = case.instance.server
        if server.kv_capacity_tokens is not None:
            facts.append(("KV capacity", count(server.kv_capacity_tokens, "token")))
        if server.slots is not None:
            facts.append(("Slots", f"{server.slots:,}"))
        if server.replicas > 1:
            facts.append(("Replicas", f"{server.replicas:,}"))
    if case.best is not None:
        facts.append((f"Best {case.goal.noun}", case.goal.quantity(case.best.value)))
    if case.bound is not None:
        kind = "certified" if case.bound.certified else "of a solver"
        facts.append((f"Lower bound, {kind}", case.goal.quantity(case.bound.value)))
    if case.claimed is not None and case.claimed is case.reference:
        facts.append(("Lower bound, of a solver", case.goal.quantity(case.claimed.value)))
    if case.best is not None and (gap := case.gap(case.best)) is not None:
        by = " by the solver’s bound" if case.claimed is not None and case.claimed is case.reference else ""
        facts.append((f"Gap that remains{by}", percent(gap, "up")))
    return facts


def runs_of(case: Case) -> Table:
    """A row for each run: its value, its distances, and what became of it."""
    goal = case.goal
    rows = []
    for e in sorted(case.entries, key=lambda e: (e.value is None, e.value or 0.0)):
        own = e.result.objective
        comparable = own.name == goal.objective
        by = {"certificate": "certified", "solver": "solver’s"}.get(own.bound_by or "", "")
        bound = f"{goal.bare(own.bound)} {by}" if own.bound is not None and comparable else "–"
        above, gap = case.above_bound(e), case.gap(e)
        spent = e.result.seconds.total
        cells = (
            Cell(e.label, e.label),
            Cell(goal.bare(e.value), sort_key(e.value)),
            Cell("–" if above is None else f"≤ {percent(above, 'up')}" if above else "0", sort_key(above)),
            Cell("–" if gap is None else percent(gap, "up"), sort_key(gap)),
            Cell(bound, sort_key(own.bound if comparable else None)),
            Cell("–" if spent is None else seconds(spent), sort_key(spent)),
            Cell(e.words, e.words),
        )
        rows.append(
            TableRow(cells, "bad" if e.value is None else "best" if case.best and e.value == case.best.value else "")
        )
    columns = (
        Column("Run", False), Column(sentence_of(goal.noun) + goal.unit_words), Column("Above the optimum"),
        Column("Gap to the bound"), Column("Its own bound"), Column("Time"), Column("Status", False),
    )  # fmt: skip
    bounded = case.bound is not None or any(e.result.objective.bound is not None for e in case.entries)
    kept = [k for k in range(len(columns)) if bounded or k not in (2, 3, 4)]
    return Table(
        f"Runs on this instance, compared by {goal.title}; {case.reference_words}.",
        tuple(columns[k] for k in kept),
        tuple(TableRow(tuple(row.cells[k] for k in kept), row.state) for row in rows),
    )


def _troubles(case: Case) -> list[dict[str, Any]]:
    """Runs with something to say: failures and faults in full, notes of the others. The same words stand once."""
    told: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for e in case.entries:
        more = tuple(dict.fromkeys([*(str(v.get("message", "")) for v in e.result.violations), *e.faults]))
        words = ""
        if e.guest and e.faults:
            words = f"a schedule that does not keep the rules of {case.goal.variant}."
        elif e.faults and e.result.status in ("optimal", "feasible"):
            words = "refused: the replay contradicts the file."
        elif more:
            words = "the schedule breaks rules."
        elif e.result.message and e.state != "infeasible" and (e.value is None or e.result.stop != "finished"):
            words = e.result.message
        if words:
            told.setdefault((words, more), []).append(e.label)
    out = []
    for (words, more), labels in told.items():
        rest = [f"… and {count(len(more) - 8, 'more fault')}"] if len(more) > 8 else []
        out.append({"label": join_words(labels, 12), "words": words, "more": [*more[:8], *rest]})
    return out


def figures_of(case: Case) -> list[Figure]:
    """All figures of the case's page."""
    return _figures(case, False)[0]


def _figures(case: Case, several: bool) -> tuple[list[Figure], list[str]]:
    """The figures, and words on what could not be drawn; guests are drawn where they are at home."""
    left_out = []
    replayed = [
        e for e in case.entries if e.verdict is not None and e.verdict.residencies and not (e.guest and several)
    ]
    replayed.sort(key=lambda e: (e.value is None, e.value or 0.0))
    if case.instance is None and any(e.result.schedule is not None for e in case.entries):
        left_out.append(
            "The instance is not beside the results, so nothing was replayed here: the figures over time and the"
            " latency distribution are left out, and all numbers are those of the files."
        )
    scenes = _scenes(case.instance, replayed) if case.instance is not None else []
    if len(scenes) > MOST_SCENES:
        left_out.append(f"The figures over time show the best {MOST_SCENES} of {len(scenes)} different schedules.")
        scenes = scenes[:MOST_SCENES]
    best = next((s for s in scenes if s.valid), None)
    path = critical_path(best.instance, best.verdict) if best is not None and _path_tells(case, best) else None
    drawn = [
        ranges.values(case),
        ranges.distances(case),
        present.present(scenes, case.observation) if case.objective == TOTAL_LATENCY_MS else None,
        timeline.timeline(scenes),
        occupancy.occupancy(scenes),
        ranges.utilisation(case),
        curves.latency(scenes),
        curves.progress(case),
        curves.gap(case),
        curves.prices(case),
        ranges.chain(path, best) if path is not None and best is not None else None,
    ]
    return [f for f in drawn if f is not None], left_out


def _path_tells(case: Case, scene: timeline.Scene) -> bool:
    """Whether a chain to the last completion says something: where all are there at once, or the makespan counts."""
    return "makespan" in case.objective or not any(request.arrival for request in scene.instance.requests)


def _scenes(instance: Instance, replayed: Sequence[Entry]) -> list[timeline.Scene]:
    """The schedules to draw; runs with the same one share it."""
    groups: dict[object, list[Entry]] = {}
    for e in replayed:
        groups.setdefault((e.schedule, e.value is None), []).append(e)
    out = []
    for entries in groups.values():
        verdict, valid = entries[0].verdict, entries[0].value is not None
        assert verdict is not None
        labels = join_words([e.label for e in entries])
        out.append(timeline.Scene(labels if valid else f"{labels} (invalid)", instance, verdict, valid))
    return out


#: Metrics of the table, with their headings; ``{t}`` and ``{s}`` as in ``modelkit.judge.METRICS``.
_SHOWN = {
    "mean_latency_{t}": "Mean latency",
    "p50_latency_{t}": "P50 latency",
    "p90_latency_ms": "P90 latency",
    "p95_latency_{t}": "P95 latency",
    "p99_latency_{t}": "P99 latency",
    "mean_first_token_{t}": "Mean time to first token",
    "p50_ttft_ms": "P50 TTFT",
    "p90_ttft_ms": "P90 TTFT",
    "p99_ttft_ms": "P99 TTFT",
    "mean_per_output_token_{t}": "Mean time per output token",
    "p50_tpot_ms": "P50 TPOT",
    "p90_tpot_ms": "P90 TPOT",
    "p99_tpot_ms": "P99 TPOT",
    "within_slo": "Within service levels",
    "goodput_requests_per_second": "Goodput",
    "goodput_tokens_per_second": "Goodput in tokens",
    "makespan_{t}": "Makespan",
    "throughput_tokens_per_{s}": "Throughput",
    "kv_utilisation": "KV cache used",
    "slot_utilisation": "Slots held",
    "slot_decode_utilisation": "Slots decoding",
    "prefix_hit_share": "Prompt tokens from the cache",
    "evictions": "Evictions",
    "pauses": "Pauses",
    "paused_{t}": "Time paused",
    "swapped_tokens": "Tokens swapped out",
}


def _metrics(case: Case) -> Table | None:
    """What the judge says of every valid schedule: a row a schedule."""
    if not case.valid:
        return None
    in_ms = any(name.endswith("_ms") for name in case.valid[0].result.metrics)
    unit, second = ("ms", "second") if in_ms else ("rounds", "round")
    columns, names = [], []
    by_class = sorted({name for e in case.valid for name in e.result.metrics if name.partition("[")[0] in _SHOWN})
    for pattern, words in _SHOWN.items():
        name = pattern.format(t=unit, s=second)
        if any(e.result.metrics.get(name) is not None for e in case.valid):
            columns.append(Column(words + unit_words(name), title=METRICS[pattern].partition(";")[0]))
            names.append(name)
        for name in (name for name in by_class if name.startswith(f"{pattern}[")):
            group = name.partition("[")[2].removesuffix("]")
            columns.append(Column(f"{words}, {group}{unit_words(name)}", title=f"{METRICS[pattern]}, of class {group}"))
            names.append(name)
    told = [(name, e.result.metrics) for name, e in alike(sorted(case.valid, key=lambda e: e.value or 0.0))]
    if case.observation is not None:
        told.insert(0, (AS_LOGGED, case.observation.run.metrics))
    rows = []
    for label, metrics in told:
        values = [(name, metrics.get(name)) for name in names]
        cells = (Cell("–" if v is None else bare(name, v), sort_key(v)) for name, v in values)
        rows.append(TableRow((Cell(label, label), *cells)))
    title = "The judge's metrics for each valid schedule"
    title += "." if case.observation is None else f", and what was {AS_LOGGED}, by the same definitions."
    table = Table(title, (Column("Run", False), *columns), tuple(rows))
    return _turned(table) if len(rows) < MOST_TURNED < len(columns) else table


def _turned(table: Table) -> Table:
    """Few runs with many metrics: a column for each run, a row for each metric with its meaning at the end."""
    heads = (Column("", False), *(Column(row.cells[0].words) for row in table.rows), Column("What it means", False))
    rows = [
        TableRow((Cell(column.words), *(row.cells[k] for row in table.rows), Cell(column.title)))
        for k, column in enumerate(table.columns)
        if k
    ]
    return Table(table.caption, heads, tuple(rows), sortable=False)


def _meanings(table: Table | None) -> list[tuple[str, str]]:
    """What the columns of the metrics mean."""
    return [] if table is None else [(c.words.partition(" [")[0], c.title) for c in table.columns if c.title]


def _instance_facts(found: Sequence[Case]) -> list[tuple[str, str]]:
    case = found[0]
    facts = [("Instance", case.stamp.name or "without a name"), ("SHA-256", case.stamp.sha256)]
    facts += [("Command line", c) for c in commands(found)]
    if case.instance is None:
        return [
            *facts,
            ("Requests", f"{case.stamp.requests:,}"),
            ("Checked", "no: the instance is not beside the files"),
        ]
    instance = case.instance
    if instance.description:
        facts.append(("Description", _cut(instance.description, 400)))
    if instance.source:
        facts.append(("Source", _cut(instance.source, 400)))
    facts.append(("Clock", _clock(instance)))
    if (pause := instance.server.pause) is not None:
        facts.append(("Pauses", f"tokens of paused requests are {pause.keep}"))
    return facts


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _clock(instance: Instance) -> str:
    clock = instance.server.clock
    if not isinstance(clock, LinearClock):
        return "unit: every round lasts 1"
    if clock.prefill_levels is not None:
        prefill = f"prefill in {count(len(clock.prefill_levels), 'level')}"
    else:
        prefill = f"prefill {clock.prefill_base_ms:g} ms + {clock.prefill_per_token_ms:g} ms per token"
    decode = [f"{clock.decode_base_ms:g} ms"]
    if clock.decode_per_request_ms:
        decode.append(f"{clock.decode_per_request_ms:g} ms per request")
    if clock.decode_per_kv_token_ms:
        decode.append(f"{clock.decode_per_kv_token_ms:g} ms per token held")
    copies = {"out": clock.swap_out_per_token_ms, "in": clock.swap_in_per_token_ms}
    swaps = "".join(f"; a token swapped {way} {ms:g} ms" for way, ms in copies.items() if ms)
    kind = "continuous batching" if clock.mixed else "a prefill blocks decoding"
    if clock.base_ms:
        kind += f", {clock.base_ms:g} ms for every iteration"
    return f"linear, {kind}: {prefill}; decode round {' + '.join(decode)}{swaps}"


def _standing(entry: Entry) -> str:
    """How far the file was checked."""
    if entry.standing == "stated":
        return entry.unchecked if entry.verdict is not None else "not checked: no instance"
    return {"checked": "replayed, holds", "refused": "refused"}[entry.standing]


def _provenance(found: Sequence[Case]) -> Table:
    rows = []
    for e in (e for case in found for e in case.entries if not e.guest):
        p = e.result.producer
        versions = [f"modelkit {p.modelkit}"] if p.modelkit else []
        versions += [f"{p.solver} {p.solver_version}"] if p.solver and p.solver_version else []
        options = ", ".join(option_facts(p))
        rows.append(
            TableRow(
                (
                    Cell(e.label), Cell(", ".join(versions) or "–"), Cell("–" if p.seed is None else str(p.seed)),
                    Cell(options or "–"), Cell(_standing(e)), Cell(e.file or "–", code=bool(e.file)),
                )
            )
        )  # fmt: skip
    columns = tuple(Column(words, False) for words in ("Run", "Versions", "Seed", "Options", "Checked here", "File"))
    return Table("How each result was made.", columns, tuple(rows), sortable=False)
