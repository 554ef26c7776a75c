"""The runs that a study asks for: instances times formulations, policies and bounds, with their parameters."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelkit.errors import UsageError
from modelkit.experiments.run import Kind
from modelkit.experiments.study.axes import combinations, how_many, policy_name
from modelkit.experiments.study.origins import format_of
from modelkit.experiments.study.plan import MOST_RUNS, Instances, RunLimits, Study
from modelkit.io import read_json
from modelkit.policies.files import split_file


@dataclass(frozen=True)
class InstanceSpec:
    """An instance that a study needs: drawn from a family, imported from a trace, or read from a file."""

    group: str
    family: str | None
    file: str | None
    seed: int
    parameters: Mapping[str, Any]
    content: str | None = None  # hash of the files
    format: str | None = None  # of a trace

    @property
    def key(self) -> str:
        """Hash of what decides the instance."""
        parts = [self.family, self.content, self.seed, self.parameters]
        return _digest([*parts, self.format] if self.format else parts)

    @property
    def as_is(self) -> bool:
        """Whether it is the file itself."""
        return self.family is None and self.format is None and not self.parameters

    @property
    def words(self) -> str:
        """For people."""
        words = [self.family or self.file or "", *(f"{k} {v}" for k, v in self.parameters.items())]
        return ", ".join(words + ([f"seed {self.seed}"] if self.family or self.seed else []))


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
    options: Mapping[str, Any] = field(default_factory=dict)  # of a policy, beside those in ``name``

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
    def policy(self) -> str | None:
        """The policy without its options; None where none runs."""
        return self.called.partition(":")[0] if self.kind == "policy" else None

    @property
    def label(self) -> str:
        """What runs, for people."""
        return self.method() + (f", seed {self.seed}" if self.seed else "")

    def method(self, without: Collection[str] = ()) -> str:
        """What runs but for its seed, without these options and parameters."""
        name, _, said = self.called.partition(":")
        options = dict(part.split("=", 1) for part in said.split(",") if "=" in part) if self.kind == "policy" else {}
        kept = {key: value for key, value in options.items() if key not in without}
        parts = [policy_name(name, kept) if self.kind == "policy" else self.called]
        parts += [f"on {self.solver}"] if self.solver else []
        parts += [f"{key}={value}" for key, value in self.parameters.items() if key not in without]
        return " ".join(parts)

    @property
    def axes(self) -> dict[str, Any]:
        """Where it stands in the grid: a value for each axis but the seeds; options in a name are no axes."""
        return {"group": self.instance.group, **self.parameters, **self.options, **self.instance.parameters}


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
    drawn = sum(len(entry.seeds) * how_many(entry.parameters) for entry in study.instances)
    each = sum(
        len(entry.seeds)
        * how_many(entry.parameters)
        * how_many(getattr(entry, "options", {}))
        * len(getattr(entry, "names", "1"))
        * len(getattr(entry, "solvers", "1"))
        for entry in (*study.formulations, *study.policies, *study.bounds)
    )
    if drawn * max(1, each) > MOST_RUNS:
        raise UsageError(f"the study asks for up to {drawn * each:,} runs; at most {MOST_RUNS:,}")
    specs = [spec for entry in study.instances for spec in _specs(entry)]
    found: dict[str, Cell] = {}
    for cell in _grid(study, specs):
        found.setdefault(cell.key, cell)
    return list(found.values())


def _specs(entry: Instances) -> Iterator[InstanceSpec]:
    """The instances of an entry; files are known by their content."""
    path = entry.file or entry.trace
    if entry.file is not None:
        read_json(entry.file)
    content = _file_hash(path) if path is not None else None
    format = format_of(entry)
    for parameters in combinations(entry.parameters):
        server = parameters.get("server")
        known = content
        if isinstance(server, str) and os.path.isfile(server):
            known = _digest([content, _file_hash(server)])
        for seed in entry.seeds:
            yield InstanceSpec(entry.label, entry.family, path, seed, parameters, known, format)


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
                options = list(combinations(getattr(entry, "options", {})))
                axes = itertools.product(names, options, solvers, combinations(entry.parameters), entry.seeds)
                for plain, chosen, solver, parameters, seed in axes:
                    name = policy_name(plain, chosen)
                    path = name if kind == "formulation" and name.endswith(".py") else None
                    path = split_file(name)[0] if kind == "policy" else path
                    content = _file_hash(path) if path else None
                    yield Cell(spec, kind, name, solver, seed, parameters, limits, content, chosen)


def _given(limits: RunLimits) -> dict[str, Any]:
    return limits.model_dump(exclude_none=True)


def _file_hash(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:  # gone since it was looked at
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
