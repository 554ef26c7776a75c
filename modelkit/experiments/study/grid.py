"""The runs that a study asks for: instances times formulations, policies and bounds, with their parameters."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelkit.errors import UsageError
from modelkit.experiments.run import Kind
from modelkit.experiments.study.plan import MOST_RUNS, Instances, RunLimits, Runs, Study
from modelkit.io import read_json
from modelkit.policies.files import split_file


@dataclass(frozen=True)
class InstanceSpec:
    """An instance that a study needs: drawn from a family, or read from a file."""

    group: str
    family: str | None
    file: str | None
    seed: int
    parameters: Mapping[str, Any]
    content: str | None = None  # hash of the file

    @property
    def key(self) -> str:
        """Hash of what decides the instance."""
        return _digest([self.family, self.content, self.seed, self.parameters])

    @property
    def words(self) -> str:
        """For people."""
        if self.family is None:
            return self.file or ""
        return ", ".join([self.family, *(f"{k} {v}" for k, v in self.parameters.items()), f"seed {self.seed}"])


@dataclass(frozen=True)
class Cell:
    """One run of the grid, before its instance is there."""

    instance: InstanceSpec
    kind: Kind
    name: str
    solver: str | None
    seed: int
    parameters: Mapping[str, Any]
    limits: Mapping[str, Any]
    content: str | None = None  # hash of a formulation file

    @property
    def key(self) -> str:
        """Hash of what decides the result; ``kill_after`` and ``memory_mb`` only decide whether there is one."""
        limits = {k: v for k, v in self.limits.items() if k not in ("kill_after", "memory_mb")}
        name = f"{self.content} {self.called}" if self.content and self.kind == "policy" else self.content or self.name
        parts = [self.instance.group, self.instance.key, self.kind, name, self.solver, self.seed, self.parameters]
        return _digest([*parts, limits])

    @property
    def called(self) -> str:
        """The name without the file that it is in, or the file's own."""
        return Path(self.name).stem if self.name.endswith(".py") and self.content else split_file(self.name)[1]

    @property
    def label(self) -> str:
        """What runs, for people."""
        parts = [self.called]
        parts += [f"on {self.solver}"] if self.solver else []
        parts += [f"{key}={value}" for key, value in self.parameters.items()]
        return " ".join(parts) + (f", seed {self.seed}" if self.seed else "")


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def cells(study: Study) -> list[Cell]:
    """Every run of the study, in the order of the file; O(runs).

    Raises
    ------
    UsageError
        There are too many.
    """
    drawn = sum(_combinations(entry) for entry in study.instances)
    each = sum(
        _combinations(entry) * len(getattr(entry, "names", "1")) * len(getattr(entry, "solvers", "1"))
        for entry in (*study.formulations, *study.policies, *study.bounds)
    )
    if drawn * max(1, each) > MOST_RUNS:
        raise UsageError(f"the study asks for up to {drawn * each:,} runs; at most {MOST_RUNS:,}")
    specs = [spec for entry in study.instances for spec in _specs(entry)]
    found: dict[str, Cell] = {}
    for cell in _grid(study, specs):
        found.setdefault(cell.key, cell)
    return list(found.values())


def _combinations(entry: Instances | Runs) -> int:
    """Seeds times values of the parameters."""
    axes = (len(value) for value in entry.parameters.values() if isinstance(value, list))
    return len(entry.seeds) * math.prod(axes)


def _specs(entry: Instances) -> Iterator[InstanceSpec]:
    if entry.file is not None:
        read_json(entry.file)
        content = _file_hash(entry.file)
        yield InstanceSpec(entry.label, None, entry.file, 0, {}, content)
        return
    for parameters in _axes(entry.parameters):
        for seed in entry.seeds:
            yield InstanceSpec(entry.label, entry.family, None, seed, parameters)


def _grid(study: Study, specs: list[InstanceSpec]) -> Iterator[Cell]:
    sections: tuple[tuple[Kind, list[Any]], ...] = (
        ("bound", list(study.bounds)), ("policy", list(study.policies)), ("formulation", list(study.formulations)),
    )  # fmt: skip
    for spec in specs:
        for kind, entries in sections:
            for entry in entries:
                if entry.groups is not None and spec.group not in entry.groups:
                    continue
                limits = {**_given(study.limits), **_given(entry.limits)}
                if kind == "policy":
                    limits = {key: limits[key] for key in ("kill_after", "memory_mb") if key in limits}
                if kind == "bound":
                    limits.pop("threads", None)
                names = getattr(entry, "names", ["bound"])
                solvers = getattr(entry, "solvers", [None])
                axes = itertools.product(names, solvers, _axes(entry.parameters), entry.seeds)
                for name, solver, parameters, seed in axes:
                    path = name if kind == "formulation" and name.endswith(".py") else None
                    path = split_file(name)[0] if kind == "policy" else path
                    content = _file_hash(path) if path else None
                    yield Cell(spec, kind, name, solver, seed, parameters, limits, content)


def _given(limits: RunLimits) -> dict[str, Any]:
    return limits.model_dump(exclude_none=True)


def _file_hash(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:  # gone since it was looked at
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None


def _axes(parameters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the values of parameters that are lists."""
    values = [value if isinstance(value, list) else [value] for value in parameters.values()]
    for combination in itertools.product(*values):
        yield dict(zip(parameters, combination, strict=True))
