"""The study file: what is run on what, read from TOML; and the runs it asks for.

::

    name = "sizes"
    description = "How far policies are from the bound as n grows"
    limits = { time_limit = 20, kill_after = 120, memory_mb = 4000 }

    [[instances]]                    # a family, or file = "path.json"
    group = "chats"                  # what claims and tables call them; default: the family or file
    family = "chat"
    seeds = "0..9"                   # or a list
    parameters = { requests = [100, 1000], rate = 50.0 }

    [[policies]]                     # likewise [[formulations]], with solvers, and [[bounds]]
    names = ["mc-sf", "svf"]
    groups = ["chats"]               # default: all

A list among the parameters is an axis of the grid. ``[[claims]]`` are in ``modelkit.studies.claims``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from modelkit.errors import Fault, InputError, UsageError, did_you_mean, shown, unknown_name
from modelkit.files import read_text
from modelkit.io import faults_of, read_json
from modelkit.registry import Maker
from modelkit.runs import Kind, parameters_of
from modelkit.studies.claims import Claim

#: Most runs of a study.
MOST_RUNS = 1_000_000
#: Largest study file [byte].
MOST_BYTES = 2**18
#: Parts of a dotted key; reading one takes time quadratic in them.
MOST_PARTS = 500
_BETWEEN_MARKS = re.compile(r"[^=,{}\[\]\n]+")
_CODE = "code is run only from there, and by name from the folders of MODELKIT_FORMULATIONS"
_SHIPPED = Path(__file__).with_name("shipped")


def _seeds(value: object) -> object:
    """``"0..9"`` as the list of its seeds."""
    if not isinstance(value, str):
        return value
    first, dots, last = value.partition("..")
    if not (dots and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise ValueError('a list of seeds or a range such as "0..9"')
    if int(last) - int(first) >= MOST_RUNS:
        raise ValueError(f"at most {MOST_RUNS:,} seeds")
    return list(range(int(first), int(last) + 1))


Seeds = Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(_seeds), Field(min_length=1)]
Names = Annotated[list[str], Field(min_length=1)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Entry):
    """Limits of every run; see `modelkit.runs.Run` [s, MiB]."""

    time_limit: float | None = Field(default=None, ge=0)
    gap: float | None = Field(default=None, ge=0, le=1)
    threads: int | None = Field(default=None, ge=1)
    kill_after: float | None = Field(default=None, gt=0)
    memory_mb: int | None = Field(default=None, ge=1)


class Instances(_Entry):
    """Instances of a family, or one from a file."""

    group: str = ""
    family: str | None = None
    file: str | None = None
    seeds: Seeds = [0]
    parameters: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_origin(self) -> Instances:
        if (self.family is None) == (self.file is None):
            raise ValueError("either family or file")
        if self.file is not None and (self.parameters or self.seeds != [0]):
            raise ValueError("an instance from a file has neither seeds nor parameters")
        return self

    @property
    def label(self) -> str:
        """The group's name."""
        return self.group or self.family or Path(self.file or "").name.removesuffix(".gz").removesuffix(".json")


class _Runs(_Entry):
    groups: list[str] | None = None
    seeds: Seeds = [0]
    parameters: dict[str, Any] = {}
    limits: Limits = Limits()


class Formulations(_Runs):
    """Formulations by name or file, each on each solver."""

    names: Names
    solvers: Names = ["highs"]


class Policies(_Runs):
    """Policies by name."""

    names: Names


class Bounds(_Runs):
    """Certified bounds."""


class Study(_Entry):
    """A study: its grid, and what the papers claim about it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    description: str = ""
    limits: Limits = Limits()
    instances: Annotated[list[Instances], Field(min_length=1)]
    formulations: list[Formulations] = []
    policies: list[Policies] = []
    bounds: list[Bounds] = []
    claims: list[Claim] = []


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
        name = self.content or self.name
        parts = [self.instance.group, self.instance.key, self.kind, name, self.solver, self.seed, self.parameters]
        return _digest([*parts, limits])

    @property
    def label(self) -> str:
        """What runs, for people."""
        parts = [Path(self.name).stem if self.content else self.name]
        parts += [f"on {self.solver}"] if self.solver else []
        parts += [f"{key}={value}" for key, value in self.parameters.items()]
        return " ".join(parts) + (f", seed {self.seed}" if self.seed else "")


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


# --- reading -----------------------------------------------------------------------------------


def shipped_studies() -> dict[str, Path]:
    """The studies that come along, by name."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.toml"))}


def load_study(source: str | os.PathLike[str]) -> Study:
    """Read a study file, or a shipped study by its name.

    Raises
    ------
    InputError
        With all faults of the file.
    UsageError
        No such file or shipped study.
    """
    path = Path(source)
    if not os.path.exists(path) and path.suffix != ".toml" and path.name == os.fspath(source):
        if path.name not in shipped_studies():
            known = unknown_name("study", path.name, shipped_studies())
            raise UsageError(f"{known}\n  a study of your own is a file whose name ends in .toml")
        path = shipped_studies()[path.name]
    text = read_text(path, MOST_BYTES)
    if any(part.count(".") > MOST_PARTS for part in _BETWEEN_MARKS.findall(text)):
        raise InputError(str(path), [Fault("$", f"nested too deeply: a key of more than {MOST_PARTS} parts")])
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        words = "nested too deeply" if isinstance(error, RecursionError) else f"not TOML: {error}"
        raise InputError(str(path), [Fault("$", words)]) from None
    try:
        study = Study.model_validate(document)
    except ValidationError as error:
        raise InputError(str(path), faults_of(error, _known_keys())) from None
    study = _resolved(study, path.parent)
    if faults := list(_faults(study, path.parent)):
        raise InputError(str(path), faults)
    return study


def _known_keys() -> dict[tuple[str, ...], tuple[str, ...]]:
    lists: dict[str, type[BaseModel]] = {
        "instances": Instances, "formulations": Formulations, "policies": Policies, "bounds": Bounds, "claims": Claim,
    }  # fmt: skip
    keys: dict[tuple[str, ...], tuple[str, ...]] = {
        (): tuple(Study.model_fields),
        ("limits",): tuple(Limits.model_fields),
    }
    for name, model in lists.items():
        keys[(name,)] = tuple(model.model_fields)
        keys[(name, "limits")] = tuple(Limits.model_fields)
    return keys


def _resolved(study: Study, folder: Path) -> Study:
    """Files named relative to the study file."""

    def beside(name: str) -> str:
        return name if Path(name).is_absolute() else str(folder / name)

    instances = [e.model_copy(update={"file": beside(e.file)}) if e.file else e for e in study.instances]
    formulations = [
        e.model_copy(update={"names": [beside(n) if n.endswith(".py") else n for n in e.names]})
        for e in study.formulations
    ]
    return study.model_copy(update={"instances": instances, "formulations": formulations})


def _faults(study: Study, folder: Path) -> Iterator[Fault]:
    """What is wrong with a study that has the right form: names and parameters that do not exist."""
    from modelkit.backends import backends
    from modelkit.families import families
    from modelkit.plugins import found_formulations
    from modelkit.policies import chosen_policy

    makers = families()
    for i, entry in enumerate(study.instances):
        where = f"$.instances[{i}]"
        if entry.family is not None and entry.family not in makers:
            yield _unknown(f"{where}.family", "family", entry.family, makers)
        elif entry.family is not None:
            yield from _wrong_options(f"{where}.parameters", makers[entry.family], entry.parameters)
        elif not os.path.isfile(entry.file or ""):
            yield Fault(f"{where}.file", f"no such file: {entry.file}")
    groups = {entry.label for entry in study.instances}
    formulations = {found.name for found in found_formulations()}
    known: dict[str, tuple[str, Kind, list[Any], Iterable[str]]] = {
        "formulations": ("formulation", "formulation", list(study.formulations), formulations),
        "policies": ("policy", "policy", list(study.policies), ()),
        "bounds": ("bound", "bound", list(study.bounds), ()),
    }
    for section, (noun, kind, entries, names) in known.items():
        for i, entry in enumerate(entries):
            where = f"$.{section}[{i}]"
            for group in entry.groups or ():
                if group not in groups:
                    yield _unknown(f"{where}.groups", "group", group, groups)
            for j, name in enumerate(getattr(entry, "names", ())):
                if noun == "policy":
                    try:
                        chosen_policy(name)
                    except UsageError as error:
                        yield Fault(f"{where}.names[{j}]", " ".join(str(error).split()))
                elif noun == "formulation" and name.endswith(".py"):
                    if not os.path.isfile(name):
                        yield Fault(f"{where}.names[{j}]", f"no such file: {name}")
                    elif not Path(name).resolve().is_relative_to(folder.resolve()):
                        yield Fault(f"{where}.names[{j}]", f"{name} lies outside the folder of the study; {_CODE}")
                elif name not in set(names):
                    yield _unknown(f"{where}.names[{j}]", noun, name, names)
            for j, solver in enumerate(getattr(entry, "solvers", ())):
                if solver not in backends():
                    yield _unknown(f"{where}.solvers[{j}]", "solver", solver, backends())
            for key in entry.parameters:
                if key not in (allowed := parameters_of(kind)):
                    yield _unknown(f"{where}.parameters.{key}", "parameter", key, allowed)
    if not (study.formulations or study.policies or study.bounds):
        yield Fault("$", "nothing to run: no formulations, policies or bounds")
    for i, claim in enumerate(study.claims):
        if claim.group is not None and claim.group not in groups:
            yield _unknown(f"$.claims[{i}].group", "group", claim.group, groups)


def _unknown(path: str, noun: str, name: str, known: Iterable[str]) -> Fault:
    return Fault(path, f"unknown {noun} {shown(name)}{did_you_mean(name, known)}; known: {', '.join(sorted(known))}")


def _wrong_options(where: str, maker: Maker, parameters: Mapping[str, Any]) -> Iterator[Fault]:
    options = {option.name: option for option in maker.options if option.name != "seed"}
    for key, values in parameters.items():
        if key not in options:
            yield _unknown(f"{where}.{key}", "parameter", key, options)
            continue
        option = options[key]
        for value in values if isinstance(values, list) else [values]:
            kinds = (int, float) if option.kind is float else option.kind
            if not isinstance(value, kinds) or isinstance(value, bool) is not (option.kind is bool):
                yield Fault(f"{where}.{key}", f"found {shown(value)}; allowed: {option.kind.__name__}")
            elif option.choices and value not in option.choices:
                yield Fault(f"{where}.{key}", f"found {shown(value)}; allowed: {', '.join(option.choices)}")


# --- the grid ----------------------------------------------------------------------------------


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


def _combinations(entry: Instances | _Runs) -> int:
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
                    file = kind == "formulation" and name.endswith(".py")
                    content = _file_hash(name) if file else None
                    yield Cell(spec, kind, name, solver, seed, parameters, limits, content)


def _given(limits: Limits) -> dict[str, Any]:
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
