"""The study file: what is run on what, read from TOML.

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

Parameters of an entry are options of its family, arguments of ``solve`` (``warm_start``, ``options``), ``simulate``
(``predictions``, ``max_batch``) or ``bound``, and of formulations their own, as ``--param`` takes them::

    [[formulations]]
    names = ["kv-batch-cap"]
    parameters = { batch_cap = [1, 2], warm_start = "none" }

A list among the parameters is an axis of the grid. ``[[claims]]`` are in ``modelkit.experiments.study.paper_figures``.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from modelkit.errors import Fault, InputError, ModelkitError, UsageError, did_you_mean, shown, unknown_name
from modelkit.experiments.run import Kind, parameters_of, solve_arguments
from modelkit.experiments.study.paper_figures import PaperFigure
from modelkit.io import faults_of
from modelkit.io.files import read_text
from modelkit.registry import Generator

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


class RunLimits(_Entry):
    """Limits of every run; see `modelkit.experiments.run.Run` [s, MiB]."""

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


class Runs(_Entry):
    """What is run, on which groups."""

    groups: list[str] | None = None
    seeds: Seeds = [0]
    parameters: dict[str, Any] = {}
    limits: RunLimits = RunLimits()


class Formulations(Runs):
    """Formulations by name or file, each on each solver."""

    names: Names
    solvers: Names = ["highs"]


class Policies(Runs):
    """Policies by name."""

    names: Names


class Bounds(Runs):
    """Certified bounds."""


class Study(_Entry):
    """A study: its grid, and what the papers claim about it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    description: str = ""
    limits: RunLimits = RunLimits()
    instances: Annotated[list[Instances], Field(min_length=1)]
    formulations: list[Formulations] = []
    policies: list[Policies] = []
    bounds: list[Bounds] = []
    claims: list[PaperFigure] = []


def shipped_studies() -> dict[str, Path]:
    """The shipped studies, by name."""
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
    study = _resolve_paths(study, path.parent)
    if faults := list(_faults(study, path.parent)):
        raise InputError(str(path), faults)
    return study


def _known_keys() -> dict[tuple[str, ...], tuple[str, ...]]:
    lists: dict[str, type[BaseModel]] = {
        "instances": Instances, "formulations": Formulations, "policies": Policies, "bounds": Bounds,
        "claims": PaperFigure,
    }  # fmt: skip
    keys: dict[tuple[str, ...], tuple[str, ...]] = {
        (): tuple(Study.model_fields),
        ("limits",): tuple(RunLimits.model_fields),
    }
    for name, model in lists.items():
        keys[(name,)] = tuple(model.model_fields)
        keys[(name, "limits")] = tuple(RunLimits.model_fields)
    return keys


def _resolve_paths(study: Study, folder: Path) -> Study:
    """Files named relative to the study file."""

    def beside(name: str) -> str:
        return name if Path(name).is_absolute() else str(folder / name)

    instances = [e.model_copy(update={"file": beside(e.file)}) if e.file else e for e in study.instances]
    formulations = [
        e.model_copy(update={"names": [beside(n) if n.endswith(".py") else n for n in e.names]})
        for e in study.formulations
    ]
    policies = [
        e.model_copy(update={"names": [f"{beside(f)}:{n.removeprefix(f'{f}:')}" if (f := _file_of_policy(n)) else n
                                       for n in e.names]})
        for e in study.policies
    ]  # fmt: skip
    return study.model_copy(update={"instances": instances, "formulations": formulations, "policies": policies})


def _file_of_policy(name: str) -> str | None:
    """The file in which a policy is named to be, or None."""
    from modelkit.policies.files import split_file

    try:
        return split_file(name)[0]
    except UsageError:
        return None  # said where its options are read


def _faults(study: Study, folder: Path) -> Iterator[Fault]:
    """What is wrong with a study that has the right form: names and parameters that do not exist."""
    from modelkit.backends import backends
    from modelkit.formulation.loading import formulation_files
    from modelkit.policies import chosen_policy
    from modelkit.sources.families import families

    generators = families()
    for i, entry in enumerate(study.instances):
        where = f"$.instances[{i}]"
        if entry.family is not None and entry.family not in generators:
            yield _unknown(f"{where}.family", "family", entry.family, generators)
        elif entry.family is not None:
            yield from _wrong_options(f"{where}.parameters", generators[entry.family], entry.parameters)
        elif not os.path.isfile(entry.file or ""):
            yield Fault(f"{where}.file", f"no such file: {entry.file}")
    groups = {entry.label for entry in study.instances}
    formulations = set(formulation_files())
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
                if noun == "policy" and (file := _file_of_policy(name)) and not _may_run(file, folder):
                    words = "lies outside the folder of the study" if os.path.isfile(file) else "is not there"
                    yield Fault(f"{where}.names[{j}]", f"{file} {words}; {_CODE}")
                elif noun == "policy":
                    try:
                        chosen_policy(name)
                    except UsageError as error:
                        yield Fault(f"{where}.names[{j}]", " ".join(str(error).split()))
                elif noun == "formulation" and name.endswith(".py"):
                    if not os.path.isfile(name):
                        yield Fault(f"{where}.names[{j}]", f"no such file: {name}")
                    elif not _may_run(name, folder):
                        yield Fault(f"{where}.names[{j}]", f"{name} lies outside the folder of the study; {_CODE}")
                elif name not in set(names):
                    yield _unknown(f"{where}.names[{j}]", noun, name, names)
            for j, solver in enumerate(getattr(entry, "solvers", ())):
                if solver not in backends():
                    yield _unknown(f"{where}.solvers[{j}]", "solver", solver, backends())
            if kind == "formulation":
                yield from _wrong_parameters(f"{where}.parameters", entry, formulations, folder)
            else:
                for key in entry.parameters:
                    if key not in (allowed := parameters_of(kind)):
                        yield _unknown(f"{where}.parameters.{key}", "parameter", key, allowed)
    if not (study.formulations or study.policies or study.bounds):
        yield Fault("$", "nothing to run: no formulations, policies or bounds")
    for i, claim in enumerate(study.claims):
        if claim.group is not None and claim.group not in groups:
            yield _unknown(f"$.claims[{i}].group", "group", claim.group, groups)


def _wrong_parameters(where: str, entry: Formulations, known: Iterable[str], folder: Path) -> Iterator[Fault]:
    """Parameters of formulations: of each that is named, with values that it allows."""
    from modelkit.formulation.hosting import load_formulation

    own = {key: values for key, values in entry.parameters.items() if key not in solve_arguments()}
    for name in entry.names if own else ():
        if name not in set(known) and not (name.endswith(".py") and _may_run(name, folder)):
            continue  # a fault already
        try:
            taken = {parameter.name: parameter for parameter in load_formulation(name).parameters}
        except ModelkitError as error:
            yield Fault(where, f"formulation {name!r} cannot be loaded: {' '.join(str(error).split())}")
            continue
        for key, values in own.items():
            if key not in taken:
                near = did_you_mean(key, {*taken, *solve_arguments()})
                names = ", ".join(sorted({*taken, *solve_arguments()}))
                yield Fault(
                    f"{where}.{key}", f"formulation {name!r} has no parameter {shown(key)}{near}; known: {names}"
                )
                continue
            for value in values if isinstance(values, list) else [values]:
                found: list[Fault] = []
                taken[key].resolved(value, None, f"{where}.{key}", found)
                yield from found


def _may_run(file: str, folder: Path) -> bool:
    return os.path.isfile(file) and Path(file).resolve().is_relative_to(folder.resolve())


def _unknown(path: str, noun: str, name: str, known: Iterable[str]) -> Fault:
    return Fault(path, f"unknown {noun} {shown(name)}{did_you_mean(name, known)}; known: {', '.join(sorted(known))}")


def _wrong_options(where: str, generator: Generator, parameters: Mapping[str, Any]) -> Iterator[Fault]:
    options = {option.name: option for option in generator.options if option.name != "seed"}
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
