"""Run what a study still needs, here or on a cluster, so that it may be killed at any moment."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modelkit.errors import UsageError
from modelkit.experiments.run import Run, solve_arguments
from modelkit.experiments.study.cluster import run_on_cluster
from modelkit.experiments.study.grid import Cell, cells
from modelkit.experiments.study.plan import Study
from modelkit.experiments.study.store import Store, StoredRun
from modelkit.experiments.workers import run_all
from modelkit.result import Result


@dataclass(frozen=True)
class Status:
    """How far a study is.

    Parameters
    ----------
    planned
        Every run that the study file asks for now.
    done
        The finished ones among them.
    stale
        Finished runs that the study file does not ask for any more.
    """

    planned: list[Cell]
    done: list[StoredRun]
    stale: list[StoredRun]

    @property
    def left(self) -> list[Cell]:
        """Runs still to do."""
        finished = {entry.key for entry in self.done}
        return [cell for cell in self.planned if cell.key not in finished]

    @property
    def failed(self) -> list[StoredRun]:
        """Finished runs without a schedule that did not prove that there is none."""
        return [entry for entry in self.done if entry.status == "no_schedule"]


@dataclass(frozen=True)
class Step:
    """One more run is finished."""

    label: str
    result: Result
    done: int
    failed: int
    total: int


def folder_of(study: Study, folder: str | os.PathLike[str] | None) -> Path:
    """Where the study keeps its results."""
    return Path(folder) if folder is not None else Path(f"{study.name}.study")


def status(study: Study, folder: str | os.PathLike[str] | None = None) -> Status:
    """How far the study is; nothing is written.

    Raises
    ------
    UsageError
        There are no results yet.
    """
    with Store(folder_of(study, folder)) as store:
        return _status(cells(study), store)


def _status(planned: list[Cell], store: Store) -> Status:
    keys = {cell.key for cell in planned}
    entries = store.entries()
    return Status(planned, [e for e in entries if e.key in keys], [e for e in entries if e.key not in keys])


def run_study(
    study: Study,
    folder: str | os.PathLike[str] | None = None,
    *,
    jobs: int | None = None,
    cluster: str | None = None,
    again: bool = False,
    listen: Callable[[Step], None] | None = None,
) -> Status:
    """Do the runs that are not finished yet.

    Parameters
    ----------
    folder
        Where results are kept; None: ``NAME.study``.
    jobs
        Runs at a time on this machine; None: one for each processor.
    cluster
        Address or scheduler file of a Dask cluster that does the runs instead.
    again
        Do failed runs again too.
    listen
        Called after each run.

    Raises
    ------
    UsageError
        The folder cannot be used, or the cluster not be reached.
    SolverError
        The cluster gave runs up, or had no worker for two minutes; what is finished is kept.
    KeyboardInterrupt
        After Ctrl-C; what is finished is kept, runs in progress are done again next time.
    """
    with Store(folder_of(study, folder), writing=True) as store:
        planned = cells(study)
        store.recover(planned)
        now = _status(planned, store)
        if again:
            store.remove(entry.key for entry in now.failed)
            now = _status(planned, store)
        done, failed = len(now.done), len(now.failed)
        by_path = {store.path(cell.key): cell for cell in now.left}
        with store.together():
            tasks = [(run_of(cell, store), path) for path, cell in by_path.items()]
        for path in by_path:
            path.parent.mkdir(exist_ok=True)
        runner = run_all(tasks, jobs=jobs) if cluster is None else run_on_cluster(tasks, cluster)
        with contextlib.closing(runner) as finished_runs:
            for finished in finished_runs:
                result = finished.result
                if result.stop == "interrupted":  # not finished: it is done again
                    finished.path.unlink(missing_ok=True)
                    continue
                cell = by_path[finished.path]
                if not finished.path.exists():
                    raise UsageError(f"cannot write {finished.path}; what was finished before is kept")
                store.add(cell, result)
                done += 1
                failed += result.status == "no_schedule"
                if listen:
                    listen(Step(cell.label, result, done, failed, len(planned)))
        return _status(planned, store)


def run_of(cell: Cell, store: Store) -> Run:
    """The run of a cell; its instance is drawn where it is not there."""
    path, stamp = store.instance(cell.instance)
    parameters = dict(cell.parameters)
    if cell.kind == "formulation" and (own := parameters.keys() - solve_arguments()):
        given = {name: parameters.pop(name) for name in sorted(own)}
        parameters["parameters"] = given
    return Run(
        instance=str(path), stamp=stamp, kind=cell.kind, name=cell.name, solver=cell.solver,
        parameters=parameters, seed=cell.seed, **cell.limits,
    )  # fmt: skip
