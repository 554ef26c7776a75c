"""Where a study keeps what it has: one JSON a run, and an index of them in SQLite.

::

    NAME.study/
        study.sqlite            the index: what people and reports ask for
        runs/ab/abcd....json.gz one result a run, named by the run's key, written whole or not at all
        instances/....json.gz   the instances that the study drew

The files are the truth. A run is finished when its file is there; an entry that is missing, because the study was
killed between the two, is made from the file when the store is opened.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from modelkit.errors import ModelkitError, UsageError
from modelkit.experiments.study.grid import Cell, InstanceSpec
from modelkit.experiments.study.origins import draw
from modelkit.experiments.study.paper_figures import Measured
from modelkit.instance import InstanceStamp
from modelkit.io import load_result, save_instance, write_bytes, write_text
from modelkit.result import Result
from modelkit.runtime.resources import VERSION


@dataclass(frozen=True)
class StoredRun:
    """A finished run in the index; values are None where the run has none."""

    key: str
    study_group: str
    instance: str
    instance_key: str
    requests: int
    kind: str
    name: str
    label: str
    solver: str | None
    seed: int
    parameters: str
    status: str
    stop: str
    objective: str | None
    value: float | None
    bound: float | None
    bound_by: str | None
    gap: float | None
    seconds: float | None
    message: str
    metrics: str
    modelkit: str

    @classmethod
    def of(cls, cell: Cell, result: Result) -> StoredRun:
        """The entry of a cell's result."""
        objective = result.objective
        return cls(
            key=cell.key,
            study_group=cell.instance.group,
            instance=result.instance.name,
            instance_key=cell.instance.key,
            requests=result.instance.requests,
            kind=cell.kind,
            name=cell.called,
            label=cell.label,
            solver=cell.solver,
            seed=cell.seed,
            parameters=json.dumps(dict(cell.parameters), sort_keys=True),
            status=result.status,
            stop=result.stop,
            objective=objective.name,
            value=objective.value,
            bound=objective.bound,
            bound_by=objective.bound_by,
            gap=objective.gap,
            seconds=result.seconds.total,
            message=result.message,
            metrics=json.dumps(result.metrics, sort_keys=True),
            modelkit=VERSION,
        )


_COLUMNS = tuple(field.name for field in fields(StoredRun))


class Store:
    """The folder of a study. A context manager; one process at a time may hold it for writing.

    Parameters
    ----------
    folder
        Made when it is not there and ``writing``.
    writing
        Take the lock.

    Raises
    ------
    UsageError
        The folder cannot be used, is not there, or another process writes to it.
    """

    def __init__(self, folder: str | os.PathLike[str], *, writing: bool = False) -> None:
        self.folder = Path(folder)
        self._lock: Any = None
        if not writing and not (self.folder / "study.sqlite").is_file():
            raise UsageError(f"no results yet: {self.folder} holds no study; `modelkit study run` makes one")
        try:
            if writing:
                for name in ("runs", "instances"):
                    (self.folder / name).mkdir(parents=True, exist_ok=True)
                self._lock = (self.folder / "lock").open("w")
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._database = sqlite3.connect(self.folder / "study.sqlite", isolation_level=None)
            if writing:
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = NORMAL")
                columns = ", ".join(_COLUMNS[1:])
                self._database.execute(f"CREATE TABLE IF NOT EXISTS runs (key PRIMARY KEY, {columns}) WITHOUT ROWID")
                self._database.execute("CREATE TABLE IF NOT EXISTS instances (key PRIMARY KEY, stamp) WITHOUT ROWID")
            self._database.execute("SELECT key FROM runs LIMIT 1")
        except BlockingIOError:
            self._lock.close()
            raise UsageError(
                f"another process runs the study in {self.folder}; wait for it, or take another --folder"
            ) from None
        except OSError as error:
            raise UsageError(f"cannot use {self.folder}: {error.strerror or error}") from None
        except sqlite3.Error as error:
            raise UsageError(f"cannot use {self.folder / 'study.sqlite'}: {error}") from None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()
        if self._lock is not None:
            self._lock.close()

    def _ask(self, statement: str, *values: Any) -> list[Any]:
        """Rows of a statement; a damaged index or a full disk is said in words."""
        try:
            return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise UsageError(f"cannot use {self.folder / 'study.sqlite'}: {error}") from None

    def path(self, key: str) -> Path:
        """The file of a run's result."""
        return self.folder / "runs" / key[:2] / f"{key}.result.json.gz"

    # --- runs ---

    def keys(self) -> set[str]:
        """Keys of the finished runs."""
        return {key for (key,) in self._ask("SELECT key FROM runs")}

    def entries(self, keys: Iterable[str] | None = None) -> list[StoredRun]:
        """The index, by key; of these ``keys`` only."""
        rows = [StoredRun(*row) for row in self._ask(f"SELECT {', '.join(_COLUMNS)} FROM runs ORDER BY key")]
        if keys is None:
            return rows
        wanted = set(keys)
        return [row for row in rows if row.key in wanted]

    def add(self, cell: Cell, result: Result) -> None:
        """Enter a finished run whose file is there."""
        entry = StoredRun.of(cell, result)
        marks = ", ".join("?" * len(_COLUMNS))
        values = [getattr(entry, column) for column in _COLUMNS]
        self._ask(f"INSERT OR REPLACE INTO runs VALUES ({marks})", *values)

    def recover(self, cells: Sequence[Cell]) -> int:
        """Enter the runs whose files are there but which are not in the index; returns how many."""
        for left_over in (self.folder / "runs").glob("??/.*"):  # of a process that was killed while it wrote
            left_over.unlink(missing_ok=True)
        known = self.keys()
        there = {path.name.partition(".")[0]: path for path in (self.folder / "runs").glob("??/*.result.json.gz")}
        found = 0
        for cell in cells:
            if cell.key in known or cell.key not in there:
                continue
            try:
                result = load_result(there[cell.key])
            except ModelkitError:  # not written by us; the run is done again
                continue
            if result.stop != "interrupted":
                self.add(cell, result)
                found += 1
        return found

    def remove(self, keys: Iterable[str]) -> None:
        """Forget runs and delete their files."""
        for key in keys:
            self._ask("DELETE FROM runs WHERE key = ?", key)
            self.path(key).unlink(missing_ok=True)

    # --- instances ---

    def file_of(self, spec: InstanceSpec) -> Path:
        """The file of an instance."""
        return Path(spec.file or "") if spec.as_is else self.folder / "instances" / f"{spec.key}.json.gz"

    def instance(self, spec: InstanceSpec) -> tuple[Path, InstanceStamp]:
        """File and stamp of an instance; it is drawn and written when it is not there."""
        path = self.file_of(spec)
        row = next(iter(self._ask("SELECT stamp FROM instances WHERE key = ?", spec.key)), None)
        if row and path.exists():
            return path, InstanceStamp.model_validate_json(row[0])
        instance = draw(spec)
        if not spec.as_is:
            save_instance(instance, path)
        stamp = InstanceStamp.of(instance)
        self._ask("INSERT OR REPLACE INTO instances VALUES (?, ?)", spec.key, stamp.model_dump_json())
        return path, stamp

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is written within is written at once."""
        self._ask("BEGIN")
        try:
            yield
        finally:
            self._ask("COMMIT")


def measure(entries: Iterable[StoredRun]) -> list[Measured]:
    """What claims are about."""
    return [
        Measured(
            group=entry.study_group,
            instance=f"{entry.study_group} {entry.instance_key}",
            requests=entry.requests,
            name=entry.name,
            label=entry.label,
            value=entry.value,
            certified=entry.bound if entry.bound_by == "certificate" else None,
            metrics=json.loads(entry.metrics),
        )
        for entry in entries
    ]


def export(entries: Sequence[StoredRun], path: str | os.PathLike[str], planned: Iterable[Cell] = ()) -> Path | None:
    """Write the runs as a tidy table: CSV, or Parquet when the name ends in ``.parquet`` (needs pyarrow).

    Parameters
    ----------
    planned
        The study's cells: each of their axes and each metric becomes a column of its own.

    Raises
    ------
    UsageError
        The file cannot be written, or pyarrow is not installed.
    """
    rows, columns = tidy(entries, planned)
    if Path(path).suffix == ".parquet":
        return write_bytes(path, _parquet(rows, columns))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return write_text(path, text.getvalue())


def tidy(entries: Sequence[StoredRun], planned: Iterable[Cell] = ()) -> tuple[list[dict[str, Any]], list[str]]:
    """A row a run, in the order of the plan, and the columns: axes, what the index has, metrics.

    An axis with the name of another column is called ``axis_NAME``, unless both have the same values.
    """
    cells = {cell.key: cell for cell in planned}
    order = {key: k for k, key in enumerate(cells)}
    index = [column for column in _COLUMNS if column not in ("metrics", "study_group")]
    rows: list[dict[str, Any]] = []
    axes: dict[str, None] = {}
    metrics: dict[str, None] = {}
    for entry in sorted(entries, key=lambda entry: order.get(entry.key, len(order))):
        row = {column: getattr(entry, column) for column in index}
        measured = json.loads(entry.metrics)
        cell = cells.get(entry.key)
        at: dict[str, Any] = {"group": entry.study_group}
        at |= {} if cell is None else {**cell.axes, "instance_seed": cell.instance.seed, "policy": cell.policy}
        known = {**row, **measured}
        at = {f"axis_{k}" if k in known and known[k] != v else k: v for k, v in at.items()}
        rows.append({**at, **known})
        axes |= dict.fromkeys(k for k in at if k not in known)
        metrics |= dict.fromkeys(measured)
    return rows, [*axes, *index, *metrics]


def _parquet(rows: list[dict[str, Any]], columns: list[str]) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError(
            "Parquet needs pyarrow, which is not installed: pip install pyarrow, or export to a .csv"
        ) from None

    def array(column: str) -> Any:
        values = [row.get(column) for row in rows]
        if column in ("requests", "seed", "instance_seed"):
            return pyarrow.array(values, pyarrow.int64())
        known = [value for value in values if value is not None]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
            return pyarrow.array(values, pyarrow.float64())
        return pyarrow.array([value if value is None else str(value) for value in values], pyarrow.string())

    arrays = {column: array(column) for column in columns}
    content = io.BytesIO()
    parquet.write_table(pyarrow.table(arrays), content)
    return content.getvalue()
