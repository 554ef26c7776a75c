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
    options = { gate = [4, 8] }      # of the policies
    groups = ["chats"]               # default: all

Parameters of instances are options of the family, or of the format of ``trace = "conv.csv"``, and changes of what these
or ``file = "a.json"`` give (`modelkit.sources.changes`). Parameters of runs are arguments of ``solve`` (``warm_start``,
``options``), ``simulate`` (``predictions``, ``max_batch``) or ``bound``, and of formulations their own, as ``--param``
takes them::

    [[formulations]]
    names = ["kv-batch-cap"]
    parameters = { batch_cap = [1, 2], warm_start = "none" }

A list among parameters or options is an axis of the grid. ``[page]`` says what the page draws; ``[[claims]]`` are in
``modelkit.experiments.study.paper_figures``.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from modelkit.errors import Fault, InputError, UsageError, unknown_name
from modelkit.experiments.study.checks import faults_of_study, file_of_policy
from modelkit.experiments.study.paper_figures import PaperFigure
from modelkit.io import faults_of
from modelkit.io.files import read_text

#: Most runs of a study.
MOST_RUNS = 1_000_000
#: Largest study file [byte].
MOST_BYTES = 2**18
#: Parts of a dotted key; reading one takes time quadratic in them.
MOST_PARTS = 500
_BETWEEN_MARKS = re.compile(r"[^=,{}\[\]\n]+")
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

    time_limit: float | None = Field(None, ge=0, description="of solvers and bounds [s]; default 60")
    gap: float | None = Field(None, ge=0, le=1, description="solvers and bounds stop at this relative gap")
    threads: int | None = Field(None, ge=1, description="threads of a solver")
    kill_after: float | None = Field(None, gt=0, description="a run is ended after so long, whatever it does [s]")
    memory_mb: int | None = Field(None, ge=1, description="address space of each process of a run [MiB]")


class Instances(_Entry):
    """Instances of a family, of a trace or log, or from a file."""

    group: str = Field("", description="what the page calls them; default: the family, or the name of the file")
    family: str | None = Field(None, description="a family of `modelkit list families`")
    trace: str | None = Field(None, description="a trace or a server's log, as `modelkit import` takes it")
    format: str | None = Field(None, description="format of the trace; default: recognised by its keys")
    file: str | None = Field(None, description="an instance file (JSON)")
    seeds: Seeds = Field([0], description='seeds of the draw: a list, or a range such as `"0..9"`')
    parameters: dict[str, Any] = Field(
        {}, description="options of the family or the format, and changes of what it gives; a list is an axis"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Instances:
        if sum(origin is not None for origin in (self.family, self.trace, self.file)) != 1:
            raise ValueError("either family or file or trace")
        if self.file is not None and self.seeds != [0]:
            raise ValueError("an instance from a file has no seeds; give seeds to what runs on it")
        if self.format is not None and self.trace is None:
            raise ValueError("format is that of a trace")
        return self

    @property
    def label(self) -> str:
        """The group's name."""
        name = Path(self.file or self.trace or "").name.removesuffix(".gz")
        return self.group or self.family or name.removesuffix(".json").removesuffix(".csv")


class Runs(_Entry):
    """What is run, on which groups."""

    groups: list[str] | None = Field(None, description="groups of instances to run on; default: all")
    seeds: Seeds = Field([0], description="seeds of the runs themselves, as for instances")
    parameters: dict[str, Any] = Field({}, description="further arguments; a list is an axis")
    limits: RunLimits = Field(RunLimits(), description="limits of these runs, as the study's own")


class Formulations(Runs):
    """Formulations by name or file, each on each solver."""

    names: Names = Field(description="formulations by name, or files beside the study")
    solvers: Names = Field(["highs"], description="solvers, each with each formulation")


class Policies(Runs):
    """Policies by name."""

    names: Names = Field(description="policies: `NAME`, `NAME:option=value,...` or `FILE.py:NAME`")
    options: dict[str, Any] = Field({}, description="options of all these policies; a list is an axis")


class Bounds(Runs):
    """Certified bounds."""


class Page(_Entry):
    """What the page of the study draws."""

    axis: str | None = Field(None, description="the axis from left to right; default: the first with several numbers")
    panels: str | None = Field(None, description="an axis with a panel for each value; default: the next one")
    repeats: list[str] = Field([], description="axes over which is averaged, as over seeds")
    metrics: list[str] = Field(
        [], description="metrics, a figure for each, the first in the headline; default: the objective, TTFT and TPOT"
    )


class Study(_Entry):
    """A study: its grid, and what the papers claim about it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="names the folder and the page")
    description: str = Field("", description="a sentence for the page")
    limits: RunLimits = Field(RunLimits(), description="limits of every run")
    page: Page = Field(Page(), description="what the page draws")
    instances: Annotated[list[Instances], Field(min_length=1)] = Field(description="what is run on")
    formulations: list[Formulations] = Field([], description="formulations to solve")
    policies: list[Policies] = Field([], description="policies to simulate")
    bounds: list[Bounds] = Field([], description="certified bounds to compute; an empty table is one")
    claims: list[PaperFigure] = Field([], description="figures of papers to set ours against")


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
    if faults := list(faults_of_study(study, path.parent)):
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
        ("page",): tuple(Page.model_fields),
    }
    for name, model in lists.items():
        keys[(name,)] = tuple(model.model_fields)
        keys[(name, "limits")] = tuple(RunLimits.model_fields)
    return keys


def _resolve_paths(study: Study, folder: Path) -> Study:
    """Files named relative to the study file."""

    def beside(name: str) -> str:
        return name if Path(name).is_absolute() else str(folder / name)

    def beside_server(name: Any) -> Any:
        return beside(name) if isinstance(name, str) and name.endswith((".json", ".json.gz")) else name

    instances = [
        e.model_copy(
            update={
                "file": e.file and beside(e.file),
                "trace": e.trace and beside(e.trace),
                "parameters": {k: _each(beside_server, v) if k == "server" else v for k, v in e.parameters.items()},
            }
        )
        for e in study.instances
    ]
    formulations = [
        e.model_copy(update={"names": [beside(n) if n.endswith(".py") else n for n in e.names]})
        for e in study.formulations
    ]
    policies = [
        e.model_copy(update={"names": [f"{beside(f)}:{n.removeprefix(f'{f}:')}" if (f := file_of_policy(n)) else n
                                       for n in e.names]})
        for e in study.policies
    ]  # fmt: skip
    return study.model_copy(update={"instances": instances, "formulations": formulations, "policies": policies})


def _each(function: Callable[[Any], Any], value: Any) -> Any:
    """The function of a value, or of each of a list."""
    return [function(entry) for entry in value] if isinstance(value, list) else function(value)
