"""What stands on the page of a study: rows over seeds, pairs compared seed by seed, curves along the axes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from statistics import fmean
from typing import Any

from modelkit.reporting.charts.sweeps import estimate_words, sweep_figure
from modelkit.reporting.evidence import Case, sentence_of
from modelkit.reporting.pages.summary import many_page
from modelkit.reporting.pages.tables import Cell, Column, Table, TableRow, sort_key
from modelkit.reporting.statistics import FEWEST, Contest
from modelkit.reporting.sweep import Point, Sweep, is_share, more_is_better
from modelkit.text import count, join_words, metric_noun, percent, quantity

#: Points that a sentence names one by one.
MOST_PLACES = 4


def study_page(sweep: Sweep, found: Sequence[Case], *, runs: Table | None = None) -> dict[str, Any]:
    """The content of the page.

    Parameters
    ----------
    found
        All cases, for what is known of optima, failures and provenance.
    runs
        A table with a row for each run, where it was asked for.
    """
    overall = many_page(found, {})
    metric = sweep.metrics[0] if sweep.metrics else ""
    ranked = sweep.shortfall(metric)
    headline = _headline(sweep, metric, ranked) + _only_there(sweep, metric) if ranked else overall["headline"]
    figures = [f for name in sweep.metrics if (f := sweep_figure(sweep, name)) is not None]
    parts = [p for p in overall["problems"] if any(c.bound is not None for c in found)]
    content = {
        "title": headline,
        "kicker": count(sweep.runs, "run"),
        "headline": headline,
        "findings": _findings(sweep, metric, ranked, overall) + _other_problems(sweep, overall["problems"]),
        "key_figures": _key_figures(sweep, found),
        "figures": figures,
        "ranking": _ranking(sweep, metric, ranked) if len(ranked) > 1 else None,
        "pairs": [t for name in sweep.metrics if (t := _pairs(sweep, name)) is not None],
        "points": _points(sweep) if figures else None,
        "optima": [
            {
                "title": part["title"],
                "methods": part["methods"],
                "figures": [replace(f, key=f"optimum-{f.key}") for f in part["figures"]],
            }
            for part in parts
        ],
        "failures": overall["failures"],
        "runs": runs,
        "provenance": overall["provenance"],
    }
    return content | {"problems": [content]}


def _noun(metric: str) -> str:
    return metric_noun(metric)


def _winner(ranked: dict[str, float]) -> tuple[str, list[str]]:
    """The best, and those that are as good."""
    best = next(iter(ranked))
    return best, [method for method, lost in ranked.items() if lost - ranked[best] <= 1e-9]


def _headline(sweep: Sweep, metric: str, ranked: dict[str, float]) -> str:
    best, equals = _winner(ranked)
    noun, superlative = _noun(metric), "highest" if more_is_better(metric) else "lowest"
    if len(ranked) == 1:
        if len(sweep.methods) == 1 and sweep.equals:
            return f"{join_words(sweep.equals[0])} give the same results in every run"
        above = sweep.above_bound(best, metric)
        if above:
            beyond = "below" if more_is_better(metric) else "above"
            return f"With {best} the {noun} is at most {percent(max(above.values()), 'up')} {beyond} what is possible"
        means = [(p, mean) for p in sweep.points if (mean := sweep.mean(best, p, metric)) is not None]
        (first, low), (last, high) = means[0], means[-1]
        if first == last:
            return f"With {best} the {noun} is {estimate_words(metric, low)}"
        ends = f"{quantity(metric, low.value)} at {_place(sweep, first)}, {quantity(metric, high.value)}"
        return f"With {best} the {noun} is {ends} at {_place(sweep, last)}"
    if len(equals) == len(ranked):
        return f"{join_words(list(ranked))} give the same {noun}"
    if len(equals) > 1:
        return f"{join_words(equals)} share the {superlative} {noun}"
    second = next(method for method in ranked if method != best)
    versus = sweep.contest(best, second, metric)
    if (
        versus is not None
        and versus.by.n > 1
        and (versus.by.value <= 0 or (versus.by.low is not None and not versus.clear))
    ):
        return f"{best} and {second} cannot be told apart by {noun}" + (", the best two" if len(ranked) > 2 else "")
    words = "more than" if more_is_better(metric) else "less than"
    by = "" if versus is None else f", {_difference(metric, versus.by.value)} {words} {second}, the next"
    return f"{best} has the {superlative} {noun}{by}"


def _only_there(sweep: Sweep, metric: str) -> str:
    """At which points the ranking is, where others ran elsewhere: ``, at pause``."""
    methods, shared = sweep.compared(metric)
    elsewhere = [m for m in sweep.rivals if m not in methods and any(sweep.mean(m, p, metric) for p in sweep.points)]
    if len(methods) < 2 or not elsewhere:
        return ""
    return f", at {join_words(list(dict.fromkeys(_place(sweep, point) for point in shared)), MOST_PLACES)}"


def _difference(metric: str, value: float) -> str:
    """``4.1 %``, ``3.2 points``; absolute where values may be 0."""
    return f"{_points_of(value)}\u202fpoints" if is_share(metric) else percent(value)


def _by(metric: str, versus: Contest) -> str:
    """``4.1 % (95 %: 2.9 to 5.3)``."""
    words = _difference(metric, versus.by.value)
    if versus.by.low is None or versus.by.high is None:
        return words
    return f"{words} (95\u202f%: {_points_of(versus.by.low)} to {_points_of(versus.by.high)})"


def _points_of(share: float) -> str:
    return percent(share).rpartition("\u202f")[0].replace("-", "−")


def _where(sweep: Sweep, shared: Sequence[Point]) -> str:
    """``4 values of rate``, ``12 points``, ``9 of 12 points, those that all have``."""
    if len(shared) < len(sweep.points):
        return f"{len(shared)} of {count(len(sweep.points), 'point')}, those that all have"
    if sweep.axis and len(sweep.panel_values) == 1:
        return f"{len({at for _, at in shared})} values of {sweep.axis.replace('_', ' ')}"
    return count(len(shared), "point")


def _place(sweep: Sweep, point: Point) -> str:
    parts = []
    if sweep.panels is not None and point[0] is not None:
        parts.append(f"{point[0]}" if sweep.panels == "group" else f"{sweep.panels} {_word(point[0])}")
    if sweep.axis is not None:
        parts.append(f"{sweep.axis} {_word(point[1])}")
    return ", ".join(parts).replace("_", " ").replace("kv ", "KV ") or "all runs"


def _word(value: Any) -> str:
    return f"{value:,g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _findings(sweep: Sweep, metric: str, ranked: dict[str, float], overall: dict[str, Any]) -> list[str]:
    out = []
    best, equals = _winner(ranked) if ranked else ("", [])
    if len(ranked) > 1 and len(equals) == 1 and (words := _better_first(sweep, best, list(ranked)[1], metric)):
        shared = sweep.compared(metric)[1]
        where = f", in the mean over {_where(sweep, shared)}" if len(sweep.points) > 1 else ""
        out.append(f"{words}{where}.")
    if len(ranked) > 1 and len(sweep.points) > 1:
        out += _winners(sweep, metric)
    if ranked:
        above = sweep.above_bound(best, metric)
        if above:
            worst = max(above, key=lambda point: above[point])
            beyond, other = ("below", "above") if more_is_better(metric) else ("above", "below")
            most = f"{percent(fmean(above.values()), 'up')} {beyond} it"
            if len(above) > 1:
                most += f" in the mean, {percent(above[worst], 'up')} at {_place(sweep, worst)}"
            out.append(
                f"No scheduler can have a {_noun(metric)} {other} the certified bound; {best} is at most {most}."
            )
    out += [f"The same results in every run: {join_words(same, 9)}." for same in sweep.equals]
    out += overall["failed"]
    return out


def _other_problems(sweep: Sweep, parts: Sequence[dict[str, Any]]) -> list[str]:
    """Which runs are not ranked with the others, and what is found of each problem by itself."""
    apart = [method for method in sweep.methods if method not in sweep.rivals]
    if not apart:
        return []
    what = "solve problems of their own and are" if len(apart) > 1 else "solves a problem of its own and is"
    words = f"{join_words(apart, 6)} {what} not ranked with the others."
    return [words, *(f"{part['title']}: {part['headline']}." for part in parts if part["own"])]


def _winners(sweep: Sweep, metric: str) -> list[str]:
    """Which is best where, unless it is the same everywhere."""
    by_winner: dict[str, list[str]] = {}
    wins: Counter[str] = Counter()
    for point in sweep.points:
        here = sweep.shortfall(metric, [point])
        if here:
            _, equals = _winner(here)
            wins.update(equals)
            by_winner.setdefault(join_words(equals), []).append(_place(sweep, point))
    noun = f"{'Highest' if more_is_better(metric) else 'Lowest'} {_noun(metric)}"
    if len(by_winner) > 1 and len(sweep.points) > MOST_PLACES:
        counts = ", ".join(f"{method} at {n}" for method, n in wins.most_common(5))
        ties = "; ties count for each" if wins.total() > len(sweep.points) else ""
        return [f"{noun}, of {len(sweep.points)} points: {counts}{ties}."]
    if len(by_winner) == 1:
        return [f"{noun} at every point: {next(iter(by_winner))}."] if by_winner else []
    return [f"{noun}: " + "; ".join(f"{who} at {join_words(places, 6)}" for who, places in by_winner.items()) + "."]


def _key_figures(sweep: Sweep, found: Sequence[Case]) -> list[tuple[str, str]]:
    runs = sweep.runs
    seeds = {trial.seed for trial in sweep.trials}
    facts = [("Runs", f"{runs:,}"), ("Instances", f"{len({case.stamp.sha256 for case in found}):,}")]
    facts += [("Seeds", f"{len(seeds):,}")] if len(seeds) > 1 else []
    for name, values in ((sweep.axis, {at for _, at in sweep.points}), (sweep.panels, set(sweep.panel_values))):
        if name is not None:
            facts.append((sentence_of(name.replace("_", " ").replace("kv ", "KV ")), f"{len(values):,} values"))
    bounded = sum(c.bound is not None and c.bound.certified for c in found)
    return facts + ([("With a certified bound", f"{bounded:,} instances")] if bounded else [])


def _ranking(sweep: Sweep, metric: str, ranked: dict[str, float]) -> Table:
    rows = []
    best, equals = _winner(ranked)
    for method in sweep.rivals:
        lost = ranked.get(method)
        wins = sum(method in _winner(here)[1] for p in sweep.points if (here := sweep.shortfall(metric, [p])))
        versus = sweep.contest(best, method, metric) if method != best else None
        above = sweep.above_bound(method, metric)
        mean, worst = (fmean(above.values()), max(above.values())) if above else (None, None)
        cells = (
            Cell(method, method),
            Cell("–" if lost is None else percent(lost), sort_key(lost)),
            Cell(f"{wins} of {len(sweep.points)}", sort_key(wins)),
            Cell(
                "–" if versus is None else _margin(metric, versus),
                sort_key(None if versus is None else versus.by.value),
            ),
            Cell("–" if mean is None else f"≤ {percent(mean, 'up')}", sort_key(mean)),
            Cell("–" if worst is None else f"≤ {percent(worst, 'up')}", sort_key(worst)),
        )
        rows.append((lost if lost is not None else float("inf"), TableRow(cells, "best" if method in equals else "")))
    rows.sort(key=lambda row: row[0])
    beyond = "Below" if more_is_better(metric) else "Above"
    off = f"{beyond} the best, mean"
    columns = (
        Column("Run", False), Column(off), Column("Best at"), Column("The best is better", False),
        Column(f"{beyond} the bound, mean"), Column("worst"),
    )  # fmt: skip
    bounded = any(sweep.bound(point, metric) is not None for point in sweep.points)
    kept = [k for k in range(len(columns)) if k < 4 or bounded]
    kept = [k for k in kept if k != 2 or len(sweep.points) > 1]
    caption = f"By {_noun(metric)}, over seeds and in the mean over {_where(sweep, sweep.compared(metric)[1])}."
    return Table(
        caption,
        tuple(columns[k] for k in kept),
        tuple(TableRow(tuple(row.cells[k] for k in kept), row.state) for _, row in rows),
    )


def _verdict(metric: str, one: str, other: str, versus: Contest) -> str:
    """``A is better than B in 9 of 10 seeds, by 4.1 % (95 %: 2.9 to 5.3)``."""
    if versus.same:
        return f"{one} and {other} are equal" + (f" in all {versus.by.n} seeds" if versus.by.n > 1 else "")
    return f"{one} is better than {other} {_margin(metric, versus)}"


def _better_first(sweep: Sweep, one: str, other: str, metric: str) -> str:
    """What is to be said of a pair, the better one first; nothing where they have no point in common."""
    versus = sweep.contest(one, other, metric)
    if versus is not None and versus.by.value < 0:
        one, other, versus = other, one, sweep.contest(other, one, metric)
    return "" if versus is None else _verdict(metric, one, other, versus)


def _margin(metric: str, versus: Contest) -> str:
    """``in 9 of 10 seeds, by 4.1 % (95 %: 2.9 to 5.3)``, and how sure that is."""
    if versus.same:
        return "equal"
    by = f"by {_by(metric, versus)}"
    if versus.by.n == 1:
        return f"{by} (one seed, no interval)"
    equal = f"; equal in {versus.equal}" if versus.equal else ""
    doubt = "" if versus.clear else f" (fewer than {FEWEST} seeds, no interval)"
    doubt = ": no clear difference" if doubt and versus.by.low is not None else doubt
    return f"in {versus.better} of {versus.by.n} seeds, {by}{equal}{doubt}"


def _pairs(sweep: Sweep, metric: str) -> Table | None:
    """Every pair, the better one first."""
    rows = []
    ranked = list(sweep.shortfall(metric))
    rest = [method for method in sweep.rivals if method not in ranked]
    others = [pair for rivals in list(sweep.problems.values())[1:] for pair in combinations(rivals, 2)]
    for one, other in [*combinations([*ranked, *rest], 2), *others]:
        if words := _better_first(sweep, one, other, metric):
            rows.append(TableRow((Cell(words),)))
    if not rows:
        return None
    caption = f"Compared by {_noun(metric)}, seed by seed, in the mean over the points that both have."
    return Table(caption, (Column(f"By {_noun(metric)}", False),), tuple(rows), sortable=False)


def _points(sweep: Sweep) -> Table:
    """Every kind of run at every point: a row over seeds."""
    rows = []
    for point in sweep.points:
        for method in sweep.methods:
            means = [sweep.mean(method, point, metric) for metric in sweep.metrics]
            if not any(means):
                continue
            place = _place(sweep, point)
            numbers = [
                Cell(estimate_words(metric, mean), sort_key(None if mean is None else mean.value))
                for metric, mean in zip(sweep.metrics, means, strict=True)
            ]
            seeds = max(mean.n for mean in means if mean is not None)
            rows.append(TableRow((Cell(place, place), Cell(method, method), *numbers, Cell(f"{seeds}", seeds))))
    headings = [sentence_of(_noun(metric)) for metric in sweep.metrics]
    columns = (Column("At", False), Column("Run", False), *(Column(h) for h in headings), Column("Seeds"))
    return Table("Means over seeds, with 95 % bootstrap intervals.", columns, tuple(rows))


def runs_table(rows: Sequence[tuple[str, str, str, dict[str, float | None], str]], metrics: Sequence[str]) -> Table:
    """A row for each run: instance, what ran, its seed, metrics, state."""
    made = []
    for instance, method, seed, values, state in rows:
        numbers = [(quantity(m, values.get(m)), sort_key(values.get(m))) for m in metrics]
        cells = (Cell(instance, instance), Cell(method, method), Cell(seed, seed), *(Cell(*n) for n in numbers))
        made.append(TableRow((*cells, Cell(state, state)), "" if values else "bad"))
    headings = [Column(sentence_of(_noun(metric))) for metric in metrics]
    columns = (Column("Instance", False), Column("Run", False), Column("Seed"), *headings, Column("Status", False))
    return Table("Every run.", columns, tuple(made))
