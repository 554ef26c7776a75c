"""The page of a study: its runs along its axes, over seeds, and the papers' figures beside ours."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelkit.experiments.study.axes import axes_of, swept_of
from modelkit.experiments.study.grid import Cell, cells
from modelkit.experiments.study.paper_figures import Verdict, verdicts
from modelkit.experiments.study.plan import Study
from modelkit.experiments.study.running import folder_of, status
from modelkit.experiments.study.store import Store, measure
from modelkit.io import load, load_result, write_text
from modelkit.io.lookup import Instances
from modelkit.problems.problem import MAKESPAN_MS, OUTSIDE_SLO, WITHIN_SLO
from modelkit.reporting.entries import Entry, ReadFile
from modelkit.reporting.evidence import Case
from modelkit.reporting.gathering import cases
from modelkit.reporting.goals import Formulations
from modelkit.reporting.pages import runs_table, study_page
from modelkit.reporting.pages.tables import Cell as TableCell
from modelkit.reporting.pages.tables import Column, Table, TableRow
from modelkit.reporting.render import rendered
from modelkit.reporting.sweep import Sweep, Trial, merged
from modelkit.text import count, number, unit_of
from modelkit.verify.certificates import certificate_faults

#: Metrics that are drawn beside the objective unless the study says which.
_USUAL = ("p99_ttft_ms", "mean_tpot_ms", "within_slo")


def report_study(
    study: Study,
    folder: str | os.PathLike[str] | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    runs: bool = False,
) -> Path | None:
    """Write the page of a study; ``path`` defaults to ``NAME.html``.

    Every schedule is replayed and every certificate recomputed for it.

    Parameters
    ----------
    runs
        Also a row for each run.

    Raises
    ------
    UsageError
        No run is finished yet, or the file cannot be written.
    """
    done = status(study, folder).done
    judged = verdicts(study.claims, measure(done))
    finished = {entry.key for entry in done}
    with Store(folder_of(study, folder)) as store:
        known = [cell for cell in cells(study) if cell.key in finished]
        own = sorted({cell.name for cell in known if cell.content is not None and cell.kind == "formulation"})
        specs = {cell.instance.key: cell.instance for cell in known}
        instances = (load(store.file_of(spec)) for spec in specs.values() if store.file_of(spec).is_file())
        claims = [ReadFile(load_result(store.path(cell.key)), cell.key) for cell in known]
        found = cases(claims, Instances([], instances), Formulations(f for f in own if Path(f).is_file()))
    entries = {e.file: (case, e) for case in found for e in case.entries if not e.guest}
    sweep = sweep_of(study, known, entries)
    rows = [_row(cell, *entries[cell.key]) for cell in known if cell.key in entries] if runs else []
    found = [case for case in found if case.objective != OUTSIDE_SLO] or found
    content = study_page(sweep, found, runs=runs_table(rows, sweep.metrics) if runs else None)
    content["papers"] = papers_table(judged) if judged else None
    content["papers_title"] = "What was measured"
    if any(verdict.claim.paper is not None for verdict in judged):
        content["papers_title"] = "What the papers say"
        content["findings"].append(_papers_words(judged))
    title = f"{study.name}: {study.description}" if study.description else study.name
    return write_text(path if path is not None else f"{study.name}.html", rendered("study.html.j2", content, title))


def _row(cell: Cell, case: Case, entry: Entry) -> tuple[str, str, str, dict[str, float | None], str]:
    values = dict(entry.result.metrics) if entry.value is not None else {}
    return cell.instance.words, cell.method(), str(cell.seed), values, entry.words


def sweep_of(study: Study, known: Sequence[Cell], entries: Mapping[str, tuple[Case, Entry]]) -> Sweep:
    """The runs along the axes that the study names, or else the first two of several values, numbers first."""
    axis, panels = shown_axes(study)
    every = axes_of(study)
    fixed = every.keys() - swept_of(study).keys()
    hidden = {name for name in (axis, panels, *study.page.repeats, *fixed) if name is not None}
    draws: dict[str, set[int]] = {}
    bounds: dict[str, dict[str, float]] = {}
    for cell in known:
        draws.setdefault(cell.instance.group, set()).add(cell.instance.seed)
        if cell.key in entries:
            bounds.setdefault(cell.instance.key, {}).update(_bounds(*entries[cell.key]))
    trials = []
    for cell in known:
        if cell.key not in entries:
            continue
        (case, entry), at = entries[cell.key], cell.axes
        problem = case.goal.kind if case.goal.variant else None
        seed = cell.instance.seed if len(draws[cell.instance.group]) > 1 else cell.seed
        repeat = (seed, *(str(at.get(name)) for name in study.page.repeats))
        metrics = entry.result.metrics if entry.value is not None else {}
        places = [[at[name]] if name in at else every[name] for name in (panels, axis) if name is not None]
        for place in itertools.product(*places):
            values = dict(zip([name for name in (panels, axis) if name is not None], place, strict=True))
            point = (values.get(panels or ""), values.get(axis or ""))
            name = _method(cell, hidden)
            of, drawn = bounds[cell.instance.key], cell.kind != "bound"
            trials.append(Trial(name, point, repeat, metrics, of, drawn=drawn, problem=problem))
    kept, equals = merged(trials)
    return Sweep(tuple(kept), axis, panels, _metrics(study, trials), len(known), tuple(equals))


def _method(cell: Cell, hidden: Collection[str]) -> str:
    """What a line is called: what runs, and the axes of its instance that the page does not show elsewhere."""
    beside = {"group": cell.instance.group, **cell.instance.parameters}
    return ", ".join([cell.method(hidden), *(f"{k} {v}" for k, v in beside.items() if k not in hidden)])


def shown_axes(study: Study) -> tuple[str | None, str | None]:
    """The axis and the panels: as the study says, else what is swept of instances, numbers first, then options.

    What only some of the groups have is none of itself: at its values the others would stand without having them.
    """
    there = [name for name in swept_of(study) if name == "group" or all(name in of for of in _axes_by_group(study))]
    swept = {name: swept_of(study)[name] for name in there if name not in study.page.repeats}
    of_instances = ["group", *(name for entry in study.instances for name in entry.parameters)]
    numbers = [k for k, values in swept.items() if all(isinstance(v, int | float) for v in values)]
    axis = study.page.axis or next(iter([*numbers, *(k for k in swept if k != "group")]), None)
    left = [name for name in swept if name in of_instances and name not in (axis, study.page.panels)]
    return axis, study.page.panels or next(iter(left), None)


def _axes_by_group(study: Study) -> list[set[str]]:
    """What instances and runs may be swept by, for each entry of instances."""
    runs = [
        (entry, {**entry.parameters, **getattr(entry, "options", {})})
        for entry in (*study.policies, *study.formulations)
    ]
    return [
        {
            *entry.parameters,
            *(name for of, names in runs if entry.label in (of.groups or [entry.label]) for name in names),
        }
        for entry in study.instances
    ]


def _bounds(case: Case, entry: Entry) -> dict[str, float]:
    """Certified bounds on metrics of a case's instance; a total is also a mean, who is outside limits not inside."""
    n, certificate = case.stamp.requests, entry.result.certificate
    if certificate is not None and certificate.metric == OUTSIDE_SLO and case.instance is not None:
        holds = not certificate_faults(certificate, case.instance)
        return {WITHIN_SLO: n - certificate.value, "within_slo": 1 - certificate.value / n} if holds else {}
    if case.goal.variant or case.bound is None or not case.bound.certified:
        return {}
    name, value = case.objective, case.bound.value
    return {name: value, name.replace("total_", "mean_"): value / n} if name.startswith("total_") else {name: value}


def _metrics(study: Study, trials: Sequence[Trial]) -> tuple[str, ...]:
    """What the study names; else the objective, as a mean where it is a total, and what is usual in real time.

    Of instances under both clocks an objective in rounds and one in ms.
    """
    if study.page.metrics:
        return tuple(study.page.metrics)
    there = {name for trial in trials for name, value in trial.metrics.items() if value is not None}
    bounded = [name for trial in trials for name in trial.bounds if name in there]
    objectives = [name for name in bounded if name.startswith(("mean_", "makespan"))]
    wanted = ["mean_latency_ms", "mean_latency_rounds", MAKESPAN_MS]
    first = list({unit_of(name): name for name in reversed(objectives)}.values())[::-1]
    first = first or [name for name in wanted if name in there][:1]
    usual = () if first == [MAKESPAN_MS] else _USUAL
    return tuple(dict.fromkeys([*first, *(name for name in usual if name in there)]))


def _papers_words(judged: Sequence[Verdict]) -> str:
    """How many figures of papers hold."""
    figures = [verdict for verdict in judged if verdict.claim.paper is not None]
    words = {True: "reproduced", False: "not reproduced", None: "undecided"}
    kinds = Counter("better than the paper" if v.better else words[v.reproduced] for v in figures)
    counts = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    return f"Of {count(len(figures), 'figure')} of papers: {counts}."


def papers_table(judged: list[Verdict]) -> Table:
    """Each claim with the paper's figure, ours, and whether they agree."""
    columns = (
        Column("Claim", False), Column("Source", False), Column("Paper"), Column("Ours"), Column("Cases"),
        Column("Verdict", False),
    )  # fmt: skip
    rows = []
    for verdict in judged:
        claim = verdict.claim
        paper, ours = _with_unit(claim.paper, claim.unit), _with_unit(verdict.ours, claim.unit)
        if verdict.low is not None and verdict.high is not None:
            ours += f" ({number(verdict.low)} to {number(verdict.high)})"
        words = (claim.says, claim.source, paper, ours, f"{verdict.cases:,}", verdict.words)
        state = "bad" if verdict.reproduced is False else ""
        rows.append(TableRow(tuple(TableCell(word) for word in words), state))
    caption = (
        "Figures of the papers, and the same measured here with its 95 % interval: only one that covers the paper's"
        " figure reproduces it."
    )
    return Table(caption, columns, tuple(rows), sortable=False)


def _with_unit(value: Any, unit: str) -> str:
    return "–" if value is None else number(value) + (f" {unit}" if unit else "")
