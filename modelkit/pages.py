"""What stands on a page of a report, as data for the templates: sentences, tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from modelkit.cases import Case, Entry
from modelkit.charts import curves, occupancy, ranges, timeline
from modelkit.charts.svg import Figure
from modelkit.critical_path import critical_path
from modelkit.instance import Instance, LinearClock
from modelkit.judge import METRICS
from modelkit.words import bare, count, listed, metric_noun, number, percent, quantity, seconds, unit_words

#: Schedules that are drawn.
MOST_SCENES = 6
#: Rows of the failures that are listed.
MOST_FAILURES = 200


@dataclass(frozen=True)
class Cell:
    """Words of a cell, what it is sorted by, and where it leads."""

    words: str
    key: str | float | None = None
    href: str = ""
    code: bool = False


@dataclass(frozen=True)
class Column:
    """A heading, whether numbers stand under it, and what it means."""

    words: str
    numeric: bool = True
    title: str = ""


@dataclass(frozen=True)
class Row:
    """Cells; ``state`` is ``best``, ``bad`` or nothing."""

    cells: tuple[Cell, ...]
    state: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its caption."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    sortable: bool = True


def figure_table(table: tuple[tuple[str, ...], tuple[tuple[str, ...], ...]], title: str) -> Table:
    """The table of a figure."""
    header, rows = table
    columns = tuple(Column(words, k > 0) for k, words in enumerate(header))
    return Table(f"{title}, in numbers", columns, tuple(Row(tuple(Cell(c) for c in row)) for row in rows), False)


# --- one instance --------------------------------------------------------------------------------


def instance_page(case: Case) -> dict[str, Any]:
    """A page on one instance."""
    figures, left_out = _figures(case)
    return {
        "title": f"{_cut(case.name, 60)}: {case.headline}",
        "kicker": f"{_cut(case.name, 120)} · {count(case.stamp.requests, 'request')}",
        "headline": case.headline,
        "findings": case.findings,
        "key_figures": _key_figures(case),
        "runs": _runs(case),
        "troubles": _troubles(case),
        "figures": figures,
        "left_out": left_out,
        "metrics": (metrics := _metrics(case)),
        "meanings": _meanings(metrics),
        "instance_facts": _instance_facts(case),
        "provenance": _provenance(case),
    }


def _key_figures(case: Case) -> list[tuple[str, str]]:
    facts = [("Requests", f"{case.stamp.requests:,}")]
    if case.instance is not None:
        server = case.instance.server
        if server.kv_capacity_tokens is not None:
            facts.append(("KV capacity", f"{server.kv_capacity_tokens:,} tokens"))
        if server.slots is not None:
            facts.append(("Slots", f"{server.slots:,}"))
    noun = metric_noun(case.objective)
    if case.best is not None:
        facts.append((f"Best {noun}", quantity(case.objective, case.best.value)))
    if case.bound is not None:
        kind = "certified" if case.bound.certified else "of a solver"
        facts.append((f"Lower bound, {kind}", quantity(case.objective, case.bound.value)))
    if case.best is not None and (gap := case.gap(case.best)) is not None:
        facts.append(("Gap that remains", percent(gap, "up")))
    return facts


def _runs(case: Case) -> Table:
    noun = metric_noun(case.objective)
    unit = unit_words(case.objective)
    rows = []
    for e in sorted(case.entries, key=lambda e: (e.value is None, e.value or 0.0)):
        own = e.result.objective
        comparable = own.name == case.objective
        by = {"certificate": "certified", "solver": "solver’s"}.get(own.bound_by or "", "")
        bound = f"{bare(case.objective, own.bound)} {by}" if own.bound is not None and comparable else "–"
        above, gap = case.above_bound(e), case.gap(e)
        spent = e.result.seconds.total
        cells = (
            Cell(e.label, e.label),
            Cell(bare(case.objective, e.value), _key(e.value)),
            Cell("–" if above is None else f"≤ {percent(above, 'up')}" if above else "0", _key(above)),
            Cell("–" if gap is None else percent(gap, "up"), _key(gap)),
            Cell(bound, _key(own.bound if comparable else None)),
            Cell("–" if spent is None else seconds(spent), _key(spent)),
            Cell(e.words, e.words),
        )
        rows.append(Row(cells, "bad" if e.value is None else "best" if e is case.best else ""))
    lower = "no bound is known"
    if case.bound is not None:
        lower = f"the bound is {quantity(case.objective, case.bound.value)}, {case.bound.words}"
    columns = (
        Column("Run", False), Column(noun.capitalize() + unit), Column("Above the optimum"),
        Column("Gap to the bound"), Column("Its own bound"), Column("Time"), Column("Status", False),
    )  # fmt: skip
    bounded = case.bound is not None or any(e.result.objective.bound is not None for e in case.entries)
    kept = [k for k in range(len(columns)) if bounded or k not in (2, 3, 4)]
    return Table(
        f"Runs on this instance, compared by {noun}; {lower}.",
        tuple(columns[k] for k in kept),
        tuple(Row(tuple(row.cells[k] for k in kept), row.state) for row in rows),
    )


def _key(value: float | None) -> str:
    return "" if value is None else f"{value:.12g}"


def _troubles(case: Case) -> list[dict[str, Any]]:
    """Runs with something to say: failures and faults in full, notes of the others. The same words stand once."""
    told: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for e in case.entries:
        more = tuple(dict.fromkeys([*(str(v.get("message", "")) for v in e.result.violations), *e.faults]))
        words = ""
        if e.faults and e.result.status in ("optimal", "feasible"):
            words = "refused: the file does not hold against the replay."
        elif more:
            words = "the schedule breaks rules."
        elif e.result.message and e.state != "infeasible" and (e.value is None or e.result.stop != "finished"):
            words = e.result.message
        if words:
            told.setdefault((words, more), []).append(e.label)
    out = []
    for (words, more), labels in told.items():
        rest = [f"… and {count(len(more) - 8, 'more fault')}"] if len(more) > 8 else []
        out.append({"label": listed(labels, 12), "words": words, "more": [*more[:8], *rest]})
    return out


def _figures(case: Case) -> tuple[list[Figure], list[str]]:
    """The figures, and words on what could not be drawn."""
    left_out = []
    replayed = [e for e in case.entries if e.verdict is not None and e.verdict.stays]
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
    path = critical_path(best.instance, best.verdict) if best is not None else None
    drawn = [
        ranges.distances(case),
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


def _scenes(instance: Instance, replayed: Sequence[Entry]) -> list[timeline.Scene]:
    """The schedules to draw; runs with the same one share it."""
    groups: dict[object, list[Entry]] = {}
    for e in replayed:
        assert e.verdict is not None
        groups.setdefault((e.verdict.stays, e.value is None), []).append(e)
    out = []
    for entries in groups.values():
        verdict, valid = entries[0].verdict, entries[0].value is not None
        assert verdict is not None
        labels = listed([e.label for e in entries])
        out.append(timeline.Scene(labels if valid else f"{labels} (invalid)", instance, verdict, valid))
    return out


#: Metrics of the table, with their headings; ``{t}`` and ``{s}`` as in ``modelkit.judge.METRICS``.
_SHOWN = {
    "mean_latency_{t}": "Mean latency",
    "p50_latency_{t}": "P50 latency",
    "p95_latency_{t}": "P95 latency",
    "p99_latency_{t}": "P99 latency",
    "mean_first_token_{t}": "Mean time to first token",
    "mean_per_output_token_{t}": "Mean time per output token",
    "makespan_{t}": "Makespan",
    "throughput_tokens_per_{s}": "Throughput",
    "kv_utilisation": "KV cache used",
    "slot_utilisation": "Slots held",
    "slot_decode_utilisation": "Slots decoding",
    "evictions": "Evictions",
}


def _metrics(case: Case) -> Table | None:
    """What the judge says of every valid schedule: a row a schedule."""
    if not case.valid:
        return None
    in_ms = any(name.endswith("_ms") for name in case.valid[0].result.metrics)
    unit, second = ("ms", "second") if in_ms else ("rounds", "round")
    columns, names = [], []
    for pattern, words in _SHOWN.items():
        name = pattern.format(t=unit, s=second)
        if any(e.result.metrics.get(name) is not None for e in case.valid):
            columns.append(Column(words + unit_words(name), title=METRICS[pattern]))
            names.append(name)
    rows = []
    for e in sorted(case.valid, key=lambda e: e.value or 0.0):
        values = [(name, e.result.metrics.get(name)) for name in names]
        rows.append(Row((Cell(e.label, e.label), *(Cell(bare(name, v), _key(v)) for name, v in values))))
    return Table("What the judge says of each valid schedule.", (Column("Run", False), *columns), tuple(rows))


def _meanings(table: Table | None) -> list[tuple[str, str]]:
    """What the columns of the metrics mean."""
    return [] if table is None else [(c.words.partition(" [")[0], c.title) for c in table.columns if c.title]


def _instance_facts(case: Case) -> list[tuple[str, str]]:
    facts = [("Instance", case.stamp.name or "without a name"), ("SHA-256", case.stamp.sha256)]
    facts += [("Command line", c) for c in _commands([case])]
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
        prefill = f"prefill {clock.prefill_base_ms:g} ms + {clock.prefill_per_token_ms:g} ms a token"
    decode = [f"{clock.decode_base_ms:g} ms"]
    if clock.decode_per_request_ms:
        decode.append(f"{clock.decode_per_request_ms:g} ms a request")
    if clock.decode_per_kv_token_ms:
        decode.append(f"{clock.decode_per_kv_token_ms:g} ms a token held")
    kind = "continuous batching" if clock.mixed else "a prefill blocks decoding"
    return f"linear, {kind}: {prefill}; decode round {' + '.join(decode)}"


def _provenance(case: Case) -> Table:
    standing = {"checked": "replayed, holds", "stated": "not checked: no instance", "refused": "refused"}
    rows = []
    for e in case.entries:
        p = e.result.producer
        versions = [f"modelkit {p.modelkit}"] if p.modelkit else []
        versions += [f"{p.solver} {p.solver_version}"] if p.solver and p.solver_version else []
        options = ", ".join(f"{key} = {_option(value)}" for key, value in p.options.items())
        rows.append(
            Row(
                (
                    Cell(e.label), Cell(", ".join(versions) or "–"), Cell("–" if p.seed is None else str(p.seed)),
                    Cell(options or "–"), Cell(standing[e.standing]), Cell(e.file or "–", code=bool(e.file)),
                )
            )
        )  # fmt: skip
    columns = tuple(Column(words, False) for words in ("Run", "Versions", "Seed", "Options", "Checked here", "File"))
    return Table("How each result was made.", columns, tuple(rows), sortable=False)


def _option(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return {None: "none", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else str(value)


# --- many instances ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """One kind of run over many instances."""

    label: str
    entries: tuple[tuple[Case, Entry], ...]

    @property
    def valid(self) -> list[tuple[Case, Entry]]:
        """Its valid runs."""
        return [(c, e) for c, e in self.entries if e.value is not None]

    @property
    def above_bound(self) -> list[float]:
        """How far above the optimum at most, where a certified bound is known."""
        return [
            a for c, e in self.valid if c.bound and c.bound.certified and (a := c.above_bound(e)) is not None
        ]  # fmt: skip

    @property
    def above_best(self) -> list[float]:
        """How far above the best schedule known."""
        return [a for c, e in self.valid if (a := c.above_best(e)) is not None]

    @property
    def wins(self) -> int:
        """Instances on which no run is better."""
        return sum(not c.above_best(e) for c, e in self.valid)

    @property
    def is_policy(self) -> bool:
        """Whether it is an online policy."""
        return any(e.result.producer.kind == "policy" for _, e in self.entries)


def methods(found: Sequence[Case]) -> list[Method]:
    """The kinds of runs, those nearest to the best schedules first."""
    by_label: dict[str, list[tuple[Case, Entry]]] = {}
    for case in found:
        for e in case.entries:
            by_label.setdefault(e.label, []).append((case, e))
    kinds = [Method(label, tuple(entries)) for label, entries in by_label.items()]
    return sorted(kinds, key=lambda m: fmean(m.above_best) if m.above_best else float("inf"))


def many_page(found: Sequence[Case], links: dict[str, str]) -> dict[str, Any]:
    """A page that summarises many instances."""
    kinds = methods(found)
    bounded = sum(c.bound is not None and c.bound.certified for c in found)
    failures = [(c, e) for c in found for e in c.failures]
    runs = sum(len(c.entries) for c in found)
    headline = _many_headline(found, kinds)
    figures = [
        ranges.ratios({m.label: [1 + a for a in m.above_bound] for m in kinds}, to_bound=True),
        ranges.ratios({m.label: [1 + a for a in m.above_best] for m in kinds}, to_bound=False),
        ranges.wins([(m.label, m.wins) for m in kinds], len(found)),
    ]
    return {
        "title": f"{len(found)} instances: {headline}",
        "kicker": f"{count(len(found), 'instance')} · {count(runs, 'run')}",
        "headline": headline,
        "findings": _many_findings(found, kinds, failures),
        "key_figures": [
            ("Instances", f"{len(found):,}"),
            ("Runs", f"{runs:,}"),
            ("With a certified bound", f"{bounded:,}"),
            ("Solved: best meets bound", f"{sum(c.solved for c in found):,}"),
            ("Infeasible", f"{sum(c.infeasible for c in found):,}"),
            ("Runs without valid schedule", f"{len(failures):,}"),
        ],
        "methods": _methods_table(kinds, len(found)),
        "figures": [f for f in figures if f is not None],
        "failures": _failures_table(failures) if failures else None,
        "instances": _instances_table(found, links),
        "provenance": _many_provenance(found),
    }


def _many_headline(found: Sequence[Case], kinds: Sequence[Method]) -> str:
    ranked = [m for m in kinds if m.is_policy and m.above_bound] or [m for m in kinds if m.above_bound]
    if ranked:
        best = min(ranked, key=lambda m: fmean(m.above_bound))
        a = best.above_bound
        return (
            f"{best.label} is at most {percent(fmean(a), 'up')} above the optimum in the mean of"
            f" {count(len(a), 'instance')}"
            + (f"; {percent(fmean(best.above_best), 'down')} is proven" if max(best.above_best) else "")
        )
    ranked = [m for m in kinds if m.is_policy and m.above_best] or [m for m in kinds if m.above_best]
    if ranked:
        best = min(ranked, key=lambda m: fmean(m.above_best))
        a = best.above_best
        return (
            f"{best.label} is {percent(fmean(a))} above the best schedule known in the mean of"
            f" {count(len(a), 'instance')}; no certified bound says how far that is from the optimum"
        )
    return f"No run gave a valid schedule on any of {count(len(found), 'instance')}"


def _many_findings(found: Sequence[Case], kinds: Sequence[Method], failures: Sequence[tuple[Case, Entry]]) -> list[str]:
    out = []
    solved, certified = sum(c.solved for c in found), [c for c in found if c.bound and c.bound.certified]
    if solved:
        out.append(f"On {solved} of {count(len(found), 'instance')} the best schedule meets its bound: it is optimal.")
    gaps = [g for c in certified if c.best is not None and (g := c.gap(c.best)) is not None]
    if gaps:
        out.append(
            f"The gap between best schedule and certified bound is {percent(fmean(gaps), 'up')} in the mean and"
            f" {percent(max(gaps), 'up')} at most."
        )
    for m in sorted((m for m in kinds if m.above_bound), key=lambda m: fmean(m.above_bound)):
        a, b = m.above_bound, m.above_best
        proven = f"; {percent(fmean(b), 'down')} and {percent(max(b), 'down')} are proven" if max(b) else ""
        out.append(
            f"{m.label}: at most {percent(fmean(a), 'up')} above the optimum in the mean and {percent(max(a), 'up')} at"
            f" worst{proven}."
        )
    infeasible = sum(c.infeasible for c in found)
    if infeasible:
        have = "has" if infeasible == 1 else "have"
        out.append(f"{count(infeasible, 'instance')} of {len(found)} {have} no schedule at all.")
    rest = [e for _, e in failures if e.state != "infeasible"]
    if rest:
        out.append(f"{count(len(rest), 'run')} gave no valid schedule; they are listed below.")
    unchecked = sum(c.instance is None for c in found)
    if unchecked:
        out.append(f"For {count(unchecked, 'instance')} the instance is not beside the results: nothing was replayed.")
    return out


def _methods_table(kinds: Sequence[Method], instances: int) -> Table:
    rows = []
    for m in kinds:
        a, b = m.above_bound, m.above_best
        spent = [t for _, e in m.valid if (t := e.result.seconds.total) is not None]
        failed = len(m.entries) - len(m.valid)
        cells = (
            Cell(m.label, m.label),
            Cell(f"{len(m.valid)} of {len(m.entries)}", _key(len(m.valid))),
            Cell(f"≤ {percent(fmean(a), 'up')}" if a else "–", _key(fmean(a) if a else None)),
            Cell(f"≤ {percent(median(a), 'up')}" if a else "–", _key(median(a) if a else None)),
            Cell(f"≤ {percent(max(a), 'up')}" if a else "–", _key(max(a) if a else None)),
            Cell(percent(fmean(b)) if b else "–", _key(fmean(b) if b else None)),
            Cell(f"{m.wins}", _key(m.wins)),
            Cell(seconds(fmean(spent)) if spent else "–", _key(fmean(spent) if spent else None)),
            Cell(f"{failed} failed" if failed else "all valid", _key(failed)),
        )
        rows.append(Row(cells, "bad" if failed else ""))
    columns = (
        Column("Run", False), Column("Valid"), Column("Above optimum, mean"), Column("median"), Column("worst"),
        Column("Above best, mean"), Column("Wins"), Column("Mean time"), Column("Failures", False),
    )  # fmt: skip
    caption = f"Each kind of run over {count(instances, 'instance')}; the optimum is bounded by certificates."
    return Table(caption, columns, tuple(rows))


def _failures_table(failures: Sequence[tuple[Case, Entry]]) -> Table:
    rows = tuple(
        Row((Cell(c.name, c.name), Cell(e.label, e.label), Cell(e.words, e.words)), "bad")
        for c, e in failures[:MOST_FAILURES]
    )
    more = "" if len(failures) <= MOST_FAILURES else f" The first {MOST_FAILURES} of {len(failures):,}."
    columns = (Column("Instance", False), Column("Run", False), Column("What happened", False))
    return Table(f"Runs without a valid schedule.{more}", columns, rows)


def _instances_table(found: Sequence[Case], links: dict[str, str]) -> Table:
    rows = []
    for c in found:
        gap = c.gap(c.best) if c.best is not None else None
        bound = c.bound
        by = "" if bound is None or bound.certified else " (solver’s)"
        state = "infeasible" if c.infeasible else "no schedule" if c.best is None else "solved" if c.solved else "open"
        cells = (
            Cell(c.name, c.name, links.get(c.stamp.sha256, "")),
            Cell(f"{c.stamp.requests:,}", _key(c.stamp.requests)),
            Cell(
                "–" if c.best is None else quantity(c.objective, c.best.value), _key(c.best.value if c.best else None)
            ),
            Cell(
                "–" if bound is None else quantity(c.objective, bound.value) + by, _key(bound.value if bound else None)
            ),
            Cell("–" if gap is None else percent(gap, "up"), _key(gap)),
            Cell("–" if c.best is None else c.best.label, c.best.label if c.best else ""),
            Cell(state, state),
        )
        rows.append(Row(cells, "bad" if c.best is None else ""))
    columns = (
        Column("Instance", False), Column("Requests"), Column("Best value"), Column("Best bound"), Column("Gap"),
        Column("Best run", False), Column("State", False),
    )  # fmt: skip
    return Table("The best schedule and the best bound on each instance.", columns, tuple(rows))


def _many_provenance(found: Sequence[Case]) -> list[tuple[str, str]]:
    producers = [e.result.producer for c in found for e in c.entries]
    versions = sorted({f"modelkit {p.modelkit}" for p in producers if p.modelkit})
    versions += sorted({f"{p.solver} {p.solver_version}" for p in producers if p.solver and p.solver_version})
    seeds = sorted({p.seed for p in producers if p.seed is not None})
    options = sorted({f"{key} = {_option(v)}" for p in producers for key, v in p.options.items()})
    facts = [
        ("Versions", ", ".join(versions) or "not known"),
        ("Seeds", ", ".join(map(str, seeds)) or "none"),
        ("Options", ", ".join(options) or "none"),
        ("Files", number(sum(1 for c in found for e in c.entries if e.file))),
    ]
    return facts + [("Command line", command) for command in _commands(found)]


def _commands(found: Sequence[Case], most: int = 12) -> list[str]:
    """The command lines that made the results."""
    commands = sorted({c for case in found for e in case.entries if (c := e.result.producer.command)})
    more = len(commands) - most
    return commands if more <= 0 else [*commands[:most], f"… and {count(more, 'more command')}"]
