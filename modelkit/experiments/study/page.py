"""The report of a study: its finished runs, and the papers' figures beside ours."""

from __future__ import annotations

import os
from pathlib import Path

from modelkit.experiments.study.grid import cells
from modelkit.experiments.study.paper_figures import Verdict, verdicts
from modelkit.experiments.study.plan import Study
from modelkit.experiments.study.running import folder_of, status
from modelkit.experiments.study.store import Store, measure
from modelkit.io import load
from modelkit.reporting.pages.tables import Cell, Column, Table, TableRow
from modelkit.reporting.render import report
from modelkit.text import number


def report_study(
    study: Study, folder: str | os.PathLike[str] | None = None, path: str | os.PathLike[str] | None = None
) -> Path | None:
    """Write the page of a study; ``path`` defaults to ``NAME.html``.

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
        own = sorted({cell.name for cell in known if cell.content is not None and Path(cell.name).is_file()})
        specs = {cell.instance.key: cell.instance for cell in known}
        instances = (load(store.file_of(spec)) for spec in specs.values() if store.file_of(spec).is_file())
        return report(
            [store.path(cell.key) for cell in known],
            path if path is not None else f"{study.name}.html",
            instances=instances,
            formulations=own,
            title=f"{study.name}: {study.description}" if study.description else study.name,
            papers=papers_table(judged) if judged else None,
        )


def papers_table(judged: list[Verdict]) -> Table:
    """Each claim with the paper's figure, ours, and whether they agree."""
    columns = (
        Column("Claim", False), Column("Source", False), Column("Paper"), Column("Ours"), Column("Cases"),
        Column("Verdict", False),
    )  # fmt: skip
    rows = []
    for verdict in judged:
        claim = verdict.claim
        unit = f" {claim.unit}" if claim.unit else ""
        paper, ours = ("–" if v is None else number(v) + unit for v in (claim.paper, verdict.ours))
        words = (claim.says, claim.source, paper, ours, f"{verdict.cases:,}", verdict.words)
        state = "bad" if verdict.reproduced is False else ""
        rows.append(TableRow(tuple(Cell(word) for word in words), state))
    return Table("Figures of the papers, and the same measured here", columns, tuple(rows), sortable=False)
