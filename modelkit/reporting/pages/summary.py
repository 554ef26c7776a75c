"""What stands on the page that summarises many instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

from modelkit.reporting.charts import ranges
from modelkit.reporting.evidence import Case, Entry, by_instance, sentence_of
from modelkit.reporting.goals import Goal
from modelkit.reporting.pages.tables import Cell, Column, Table, TableRow, commands, option_facts, sort_key
from modelkit.text import count, number, percent, seconds

#: Rows of the failures that are listed.
MOST_FAILURES = 200


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
            a for c, e in self.valid if (a := c.above_certified(e)) is not None
        ]  # fmt: skip

    @property
    def above_best(self) -> list[float]:
        """How far above the best schedule known."""
        return [a for c, e in self.valid if (a := c.above_best(e)) is not None]

    @property
    def bounded_below(self) -> bool:
        """Whether ``above_best`` is above 0 somewhere, and is known on the instances of ``above_bound``."""
        return any(self.above_best) and len(self.above_best) == len(self.above_bound)

    @property
    def wins(self) -> int:
        """Instances on which no run is better."""
        return sum(c.best is not None and e.value == c.best.value for c, e in self.valid)

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
    """A page that summarises many instances: a part for each goal."""
    by_goal: dict[Goal, list[Case]] = {}
    for case in found:
        by_goal.setdefault(case.goal.kind, []).append(case)
    several = len(by_goal) > 1
    parts = [
        _part(goal, of_it, links, f"-{k}" if several else "", several)
        for k, (goal, of_it) in enumerate(by_goal.items(), start=1)
    ]
    instances, runs = len(by_instance(found)), sum(not e.guest for c in found for e in c.entries)
    failures = [(c, e) for c in found for e in c.failures]
    headline = f"{len(parts)} problems, which are not compared with each other" if several else parts[0]["headline"]
    return {
        "title": f"{instances} instances: {headline}",
        "kicker": f"{count(instances, 'instance')} · {count(runs, 'run')}",
        "headline": headline,
        "problems": parts,
        "failures": _failures_table(failures, several) if failures else None,
        "failed": failed_words([e for _, e in failures]),
        "provenance": _many_provenance(found),
    }


def _part(goal: Goal, found: Sequence[Case], links: dict[str, str], mark: str, several: bool) -> dict[str, Any]:
    """What the page says of one goal; ``mark`` tells its anchors from those of the others."""
    kinds = methods(found)
    bounded = sum(c.bound is not None and c.bound.certified for c in found)
    failures = [(c, e) for c in found for e in c.failures]
    figures = [
        ranges.ratios({m.label: [1 + a for a in m.above_bound] for m in kinds}, to_bound=True),
        ranges.ratios({m.label: [1 + a for a in m.above_best] for m in kinds}, to_bound=False),
        ranges.wins([(m.label, m.wins) for m in kinds], len(found)),
    ]
    return {
        "mark": mark,
        "own": bool(goal.variant),
        "title": sentence_of(goal.title) if several or goal.variant else "",
        "headline": _many_headline(found, kinds),
        "findings": _many_findings(found, kinds, failures),
        "key_figures": [
            ("Instances", f"{len(by_instance(found)):,}"),
            ("Runs", f"{sum(len(c.entries) for c in found):,}"),
            ("With a certified bound", f"{bounded:,}"),
            ("Solved: best meets certified bound", f"{sum(c.solved_by == 'certificate' for c in found):,}"),
            ("Solved by a solver’s word", f"{sum(c.solved_by == 'solver' for c in found):,}"),
            *[("Infeasible", f"{n:,}") for n in [sum(c.infeasible for c in found)] if n],
            *[("Runs without valid schedule", f"{n:,}") for n in [len(failures)] if n],
        ],
        "methods": _methods_table(kinds, len(found)),
        "figures": [replace(f, key=f.key + mark) for f in figures if f is not None],
        "instances": _instances_table(found, links),
    }


def _many_headline(found: Sequence[Case], kinds: Sequence[Method]) -> str:
    widest = max((len(m.valid) for m in kinds if m.is_policy), default=0)  # a mean over fewer instances says less
    kinds = [m for m in kinds if not m.is_policy or len(m.valid) == widest]
    ranked = [m for m in kinds if m.is_policy and m.above_bound] or [m for m in kinds if m.above_bound]
    if ranked:
        best = min(ranked, key=lambda m: fmean(m.above_bound))
        a = best.above_bound
        limits = _limits(fmean(best.above_best) if best.bounded_below else 0.0, fmean(a))
        return f"{best.label} is on average {limits} above the optimum over {count(len(a), 'instance')}"
    ranked = [m for m in kinds if m.is_policy and m.above_best] or [m for m in kinds if m.above_best]
    if ranked:
        best = min(ranked, key=lambda m: fmean(m.above_best))
        a = best.above_best
        if all(c.solved_by for c, _ in best.valid):
            mean, over = percent(fmean(a)), count(len(a), "instance")
            return f"{best.label} is on average {mean} above the optimum, by solvers' bounds, over {over}"
        return (
            f"{best.label} is on average {percent(fmean(a))} above the best schedule known over"
            f" {count(len(a), 'instance')}; no certified bound limits how far that is from the optimum"
        )
    return f"No run gave a valid schedule on any of {count(len(found), 'instance')}"


def _limits(least: float, most: float) -> str:
    """A distance from the optimum by its proven lower and upper limit."""
    return (f"between {percent(least, 'down')} and" if least else "at most") + f" {percent(most, 'up')}"


def _many_findings(found: Sequence[Case], kinds: Sequence[Method], failures: Sequence[tuple[Case, Entry]]) -> list[str]:
    out = []
    certified = [c for c in found if c.bound and c.bound.certified]
    if solved := sum(c.solved_by == "certificate" for c in found):
        out.append(
            f"On {solved} of {count(len(found), 'instance')} the best schedule meets its certified bound: it is"
            " optimal."
        )
    if claimed := sum(c.solved_by == "solver" for c in found):
        out.append(
            f"On {claimed} of {count(len(found), 'instance')} the best schedule meets the bound that a solver claims,"
            " which cannot be rechecked."
        )
    gaps = [g for c in certified if (g := c.certified_gap) is not None]
    if gaps:
        out.append(
            f"The gap between best schedule and certified bound is {percent(fmean(gaps), 'up')} on average and"
            f" {percent(max(gaps), 'up')} at most."
        )
    for m in sorted((m for m in kinds if m.above_bound), key=lambda m: fmean(m.above_bound)):
        a, b = m.above_bound, m.above_best
        mean = _limits(fmean(b) if m.bounded_below else 0.0, fmean(a))
        worst = _limits(max(b) if m.bounded_below else 0.0, max(a))
        several = f" on average, {worst} in the worst case" if len(a) > 1 else f" on {count(1, 'instance')}"
        out.append(f"{m.label}: {mean} above the optimum{several}.")
    infeasible = sum(c.infeasible for c in found)
    if infeasible:
        have = "has" if infeasible == 1 else "have"
        out.append(f"{count(infeasible, 'instance')} of {len(found)} {have} no schedule at all.")
    out += failed_words([e for _, e in failures if e.state != "infeasible"])
    unchecked = sum(c.instance is None for c in found)
    if unchecked:
        out.append(f"For {count(unchecked, 'instance')} the instance is not beside the results: nothing was replayed.")
    return out


def failed_words(failures: Sequence[Entry]) -> list[str]:
    """How many runs gave no valid schedule, and how many schedules only break a variant's rules."""
    own, against = sum(not e.guest for e in failures), sum(e.guest for e in failures)
    out = [f"{count(own, 'run')} gave no valid schedule; they are listed below."] if own else []
    if against:
        verb = "breaks" if against == 1 else "break"
        out.append(f"{count(against, 'schedule')} of policies {verb} the rules of a variant; they are listed below.")
    return out


def _methods_table(kinds: Sequence[Method], instances: int) -> Table:
    rows = []
    for m in kinds:
        a, b = m.above_bound, m.above_best
        spent = [t for _, e in m.valid if (t := e.result.seconds.total) is not None]
        failed = len(m.entries) - len(m.valid)
        word = "against the rules" if all(e.guest for _, e in m.entries) else "failed"
        cells = (
            Cell(m.label, m.label),
            Cell(f"{len(m.valid)} of {len(m.entries)}", sort_key(len(m.valid))),
            Cell(f"≤ {percent(fmean(a), 'up')}" if a else "–", sort_key(fmean(a) if a else None)),
            Cell(f"≤ {percent(median(a), 'up')}" if a else "–", sort_key(median(a) if a else None)),
            Cell(f"≤ {percent(max(a), 'up')}" if a else "–", sort_key(max(a) if a else None)),
            Cell(percent(fmean(b)) if b else "–", sort_key(fmean(b) if b else None)),
            Cell(f"{m.wins}", sort_key(m.wins)),
            Cell(seconds(fmean(spent)) if spent else "–", sort_key(fmean(spent) if spent else None)),
            Cell(f"{failed} {word}" if failed else "all valid", sort_key(failed)),
        )
        rows.append(TableRow(cells, "bad" if failed else ""))
    columns = (
        Column("Run", False), Column("Valid"), Column("Above optimum, mean"), Column("median"), Column("worst"),
        Column("Above best, mean"), Column("Wins"), Column("Mean time"), Column("Failures", False),
    )  # fmt: skip
    bounded = any(m.above_bound for m in kinds)
    how = "the optimum is bounded by certificates" if bounded else "no certificate bounds the optimum"
    caption = f"Each kind of run over {count(instances, 'instance')}; {how}."
    return Table(caption, columns, tuple(rows))


def _failures_table(failures: Sequence[tuple[Case, Entry]], several: bool) -> Table:
    rows = []
    for c, e in failures[:MOST_FAILURES]:
        words = [c.name, e.label, *([c.goal.title] if several else []), e.words]
        rows.append(TableRow(tuple(Cell(word, word) for word in words), "bad"))
    more = "" if len(failures) <= MOST_FAILURES else f" The first {MOST_FAILURES} of {len(failures):,}."
    headings = ["Instance", "Run", *(["Problem"] if several else []), "What happened"]
    columns = tuple(Column(words, False) for words in headings)
    kinds = {e.guest: "schedules against the rules of a variant" if e.guest else "runs without a valid schedule"
             for _, e in failures}  # fmt: skip
    caption = sentence_of(", and ".join(kinds[guest] for guest in sorted(kinds)))
    return Table(f"{caption}.{more}", columns, tuple(rows))


def _instances_table(found: Sequence[Case], links: dict[str, str]) -> Table:
    rows = []
    for c in found:
        gap = c.gap(c.best) if c.best is not None else None
        bound = c.reference
        by = "" if bound is None or bound.certified else " (solver’s)"
        closed = bool(c.solved_by)
        state = "infeasible" if c.infeasible else "no schedule" if c.best is None else "solved" if closed else "open"
        value = c.best.value if c.best is not None else None
        least = bound.value if bound is not None else None
        cells = (
            Cell(c.name, c.name, links.get(c.stamp.sha256, "")),
            Cell(f"{c.stamp.requests:,}", sort_key(c.stamp.requests)),
            Cell(c.goal.quantity(value), sort_key(value)),
            Cell(c.goal.quantity(least) + by, sort_key(least)),
            Cell("–" if gap is None else percent(gap, "up"), sort_key(gap)),
            Cell("–" if c.best is None else c.best.label, c.best.label if c.best else ""),
            Cell(state + by if state == "solved" else state, state),
        )
        rows.append(TableRow(cells, "bad" if c.best is None else ""))
    columns = (
        Column("Instance", False), Column("Requests"), Column("Best value"), Column("Bound"), Column("Gap"),
        Column("Best run", False), Column("State", False),
    )  # fmt: skip
    caption = (
        "The best schedule and the bound on each instance: certified if any is, unless a solver’s meets the schedule."
    )
    return Table(caption, columns, tuple(rows))


def _many_provenance(found: Sequence[Case]) -> list[tuple[str, str]]:
    producers = [e.result.producer for c in found for e in c.entries if not e.guest]
    versions = sorted({f"modelkit {p.modelkit}" for p in producers if p.modelkit})
    versions += sorted({f"{p.solver} {p.solver_version}" for p in producers if p.solver and p.solver_version})
    seeds = sorted({p.seed for p in producers if p.seed is not None})
    options = sorted({fact for p in producers for fact in option_facts(p)})
    facts = [
        ("Versions", ", ".join(versions) or "not known"),
        ("Seeds", ", ".join(map(str, seeds)) or "none"),
        ("Options", ", ".join(options) or "none"),
        ("Files", number(sum(1 for c in found for e in c.entries if e.file and not e.guest))),
    ]
    return facts + [("Command line", command) for command in commands(found)]
