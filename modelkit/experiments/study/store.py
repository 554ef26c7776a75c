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
from modelkit.experiments.study.paper_figures import Measured
from modelkit.instance import Instance, InstanceStamp
from modelkit.io import load, load_result, save_instance, write_bytes, write_text
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
        return Path(spec.file) if spec.file else self.folder / "instances" / f"{spec.key}.json.gz"

    def instance(self, spec: InstanceSpec) -> tuple[Path, InstanceStamp]:
        """File and stamp of an instance; it is drawn and written when it is not there."""
        path = self.file_of(spec)
        row = next(iter(self._ask("SELECT stamp FROM instances WHERE key = ?", spec.key)), None)
        if row and path.exists():
            return path, InstanceStamp.model_validate_json(row[0])
        instance = draw(spec)
        if spec.file is None:
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


def draw(spec: InstanceSpec) -> Instance:
    """The instance of a specification."""
    from modelkit.sources.families import generate

    if spec.family is None:
        return load(spec.file or "")
    options = dict(spec.parameters)
    return generate(spec.family, seed=spec.seed, **options)


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


def export(entries: Sequence[StoredRun], path: str | os.PathLike[str]) -> Path | None:
    """Write the index as a table: CSV, or Parquet when the name ends in ``.parquet`` (needs pyarrow).

    Metrics become columns of their own.

    Raises
    ------
    UsageError
        The file cannot be written, or pyarrow is not installed.
    """
    rows: list[dict[str, Any]] = []
    for entry in entries:
        row = {column: getattr(entry, column) for column in _COLUMNS if column != "metrics"}
        rows.append({**row, **json.loads(entry.metrics)})
    columns = list(dict.fromkeys(key for row in rows for key in row)) or [c for c in _COLUMNS if c != "metrics"]
    if Path(path).suffix == ".parquet":
        return write_bytes(path, _parquet(rows, columns))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return write_text(path, text.getvalue())


def _parquet(rows: list[dict[str, Any]], columns: list[str]) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError(
            "Parquet needs pyarrow, which is not installed: pip install pyarrow, or export to a .csv"
        ) from None
    numbers = {"value", "bound", "gap", "seconds"} | set(columns) - set(_COLUMNS)
    arrays = {
        column: pyarrow.array(
            [row.get(column) for row in rows],
            pyarrow.float64() if column in numbers
            else pyarrow.int64() if column in ("requests", "seed") else pyarrow.string(),
        )
        for column in columns
    }  # fmt: skip
    content = io.BytesIO()
    parquet.write_table(pyarrow.table(arrays), content)
    return content.getvalue()
