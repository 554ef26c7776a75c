"""Formulations, solvers, policies and bounds on the same instances: a list of runs, done in parallel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modelkit.arguments import checked_arguments
from modelkit.errors import FormulationFailedError, UsageError, did_you_mean
from modelkit.experiments.run import TIME_LIMIT, Run, plan_run
from modelkit.experiments.workers import Finished, Task, cores, run_all
from modelkit.formulation.formulation import Formulation
from modelkit.instance import Instance
from modelkit.io import load, save_instance
from modelkit.io.lookup import Instances
from modelkit.judge.slo import Slo, service_levels
from modelkit.policies.files import split_file
from modelkit.problems.problem import GOODPUT, OUTSIDE_SLO, problem_of
from modelkit.reporting.comparison import Comparison
from modelkit.reporting.evidence import ReadFile
from modelkit.reporting.gathering import cases
from modelkit.reporting.goals import Formulations
from modelkit.result import Result
from modelkit.simulation.limits import BatchLimits
from modelkit.text import file_name, values_in_a_name

#: Instances of more requests are written compressed.
LARGE = 2000


class Known:
    """The formulations that are compared, by name: those given as objects are found nowhere else.

    Raises
    ------
    UsageError, FormulationError
        One of them is not there, or cannot be loaded.
    """

    def __init__(self, given: Iterable[str | Formulation]) -> None:
        from modelkit.formulation.hosting import formulation_of

        listed = list(given)
        self.names = [f if isinstance(f, str) else f.name for f in listed]
        self.objects = {f.name: formulation_of(f) for f in listed if not isinstance(f, str)}
        for name in self.names:
            self.find(name)

    def find(self, name: str) -> Formulation:
        """The formulation of that name or file."""
        from modelkit.formulation.hosting import load_formulation

        return self.objects[name] if name in self.objects else load_formulation(name)

    def parameters(self, name: str) -> set[str]:
        """Names of a formulation's parameters."""
        return {parameter.name for parameter in self.find(name).parameters}

    def taken(self, parameters: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Those of the parameters that a formulation has."""
        own = self.parameters(name) if parameters else set()
        return {key: value for key, value in parameters.items() if key in own}

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Each is a parameter of one of the formulations at least."""
        own = {parameter for name in self.names for parameter in self.parameters(name)}
        for name in parameters:
            if name not in own:
                words = did_you_mean(name, own) or f"; they take {', '.join(sorted(own)) or 'none'}"
                raise UsageError(f"none of the formulations compared has a parameter {name!r}{words}")


class _Wanted(NamedTuple):
    """What to run on each instance; the arguments of `compare` by the same names.

    ``simulated`` are those that only policies take, ``limits`` those of every run.
    """

    known: Known
    formulations: Sequence[str] | None
    solvers: Sequence[str]
    policies: Sequence[str] | None
    bound: bool
    objective: str | None
    parameters: dict[str, Any]
    simulated: dict[str, Any]
    slo: dict[str, Any] | None
    seeds: Sequence[int]
    limits: dict[str, Any]


@dataclass(frozen=True)
class RunPlan:
    """The runs of a comparison with the files for their results; the instances by stem."""

    instances: dict[str, Instance]
    tasks: tuple[Task, ...]
    left_out: tuple[str, ...]


@checked_arguments
def compare(
    instances: str | os.PathLike[str] | Instance | Iterable[str | os.PathLike[str] | Instance],
    folder: str | os.PathLike[str] = "compare",
    *,
    formulations: Sequence[str | Formulation] | None = None,
    solvers: Sequence[str] = ("highs",),
    policies: Sequence[str] | None = None,
    bound: bool = True,
    objective: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    time_limit: float | None = TIME_LIMIT,
    gap: float = 0.0,
    threads: int | None = None,
    seeds: Sequence[int] = (0,),
    predictions: str | None = None,
    max_batch: int | None = None,
    max_batch_tokens: int | None = None,
    chunked_prefill: bool = False,
    slo: Slo = None,
    jobs: int | None = None,
    command: str | None = None,
    started: Callable[[Run], None] | None = None,
    finished: Callable[[Finished, int], None] | None = None,
) -> Comparison:
    """Run every formulation on every solver, every policy, and the bound, on every instance.

    Parameters
    ----------
    instances
        Files or instances.
    folder
        For the instances and the results; made when it is not there.
    formulations
        Names, files or objects, which are solved in this process; None: the first that suits each instance.
    solvers
        Of the formulations.
    policies
        ``NAME``, or ``NAME:option=value,option=value``. None: all that fit each instance.
    bound
        Whether to compute the certified bound where there is one.
    objective
        Objective of policies and bound, as in `modelkit.bound`; None: what each instance's problem
        minimises.
    parameters
        Of the formulations, by name; each takes those that it has.
    time_limit, gap, threads
        Of each solver and bound. Threads None: the processors shared among the jobs.
    seeds
        Each run is done with each seed.
    predictions, max_batch, max_batch_tokens, chunked_prefill
        Of the policies, as in `modelkit.simulate`; formulations and bounds know neither wrong predictions nor limits of
        an engine.
    slo
        Service levels that the metrics of every schedule are about, as in `modelkit.simulate`.
    jobs
        Runs at a time; None: one for each processor.
    command
        The command line, for the record.
    started, finished
        Called with each run that begins, and with each that is over and the number of runs.

    Raises
    ------
    UsageError
        An unknown name or option, nothing to run, or a folder that cannot be written.
    InputError
        An instance file is wrong, or a parameter's value.
    """
    simulated = {"predictions": predictions, "max_batch": max_batch, "max_batch_tokens": max_batch_tokens,
                 "chunked_prefill": chunked_prefill}  # fmt: skip
    loaded = _load_all(instances)
    known = Known(formulations or ())
    wanted = {instance.sha256: _metric(instance, objective) for _, instance in loaded} if objective else {}
    runs = _Wanted(
        known=known,
        formulations=None if formulations is None else known.names,
        solvers=solvers,
        policies=policies,
        bound=bound,
        objective=objective,
        parameters=dict(parameters or {}),
        simulated={name: value for name, value in simulated.items() if value},
        slo=_service_levels(slo, loaded),
        seeds=seeds,
        limits={"time_limit": time_limit, "gap": gap, "command": command,
                "threads": threads or max(1, cores() // (jobs or cores()))},
    )  # fmt: skip
    plan = _plan(loaded, Path(folder), runs)
    by_path: dict[Path, Result] = {}
    interrupted = False
    try:
        for done in run_all(plan.tasks, jobs=jobs, started=started, objects=known.objects):
            by_path[done.path] = done.result
            if finished is not None:
                finished(done, len(plan.tasks))
    except KeyboardInterrupt:
        if not by_path:
            raise
        interrupted = True
    claims = [ReadFile(by_path[path], path.name) for _, path in plan.tasks if path in by_path]
    results = tuple(claim.content for claim in claims if isinstance(claim.content, Result))
    found = cases(claims, Instances(known=plan.instances.values()), Formulations(formulations or ()), wanted)
    stems = {instance.sha256: stem for stem, instance in plan.instances.items()}
    named = tuple(stems[case.stamp.sha256] for case in found)
    return Comparison(Path(folder), results, tuple(found), named, plan.left_out, interrupted)


def _service_levels(slo: Slo, loaded: Sequence[tuple[str, Instance]]) -> dict[str, Any] | None:
    """Service levels as a run keeps them, checked against every instance; None for none."""
    levels = [service_levels(slo, instance) for _, instance in loaded]
    return levels[0].document() if levels and levels[0] is not None else None


def _metric(instance: Instance, objective: str) -> str:
    """The metric of an instance's problem that is called so, or that of goodput."""
    return OUTSIDE_SLO if objective in GOODPUT else problem_of(instance).metric(objective)


def _load_all(
    instances: str | os.PathLike[str] | Instance | Iterable[str | os.PathLike[str] | Instance],
) -> list[tuple[str, Instance]]:
    """(stem, instance), the stems unlike each other; the same instance twice counts once."""
    one = isinstance(instances, str | bytes | os.PathLike | Instance) or not isinstance(instances, Iterable)
    given: list[Any] = [instances] if one else list(instances)  # type: ignore[arg-type]
    out: dict[str, tuple[str, Instance]] = {}
    stems: set[str] = set()
    for item in given:
        instance = load(item)
        if instance.sha256 in out:
            continue
        stem = wanted = instance_stem("" if isinstance(item, Instance) else os.fspath(item), instance.name)
        number = 2
        while stem in stems:
            stem, number = f"{wanted}-{number}", number + 1
        stems.add(stem)
        out[instance.sha256] = stem, instance
    if not out:
        raise UsageError("there is nothing to compare: no instance is given")
    return list(out.values())


def instance_stem(path: str, name: str) -> str:
    """The beginning of the names of files about an instance from ``path``, or called ``name`` where there is none."""
    if path in ("", "-"):
        return safe_name(name) or "instance"
    return Path(path).name.removesuffix(".gz").removesuffix(".json")


def safe_name(text: str) -> str:
    """Text as a part of a file name: letters, digits and ``-_.`` only, and not too long."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text)[:80].strip(".-")


def _plan(loaded: Sequence[tuple[str, Instance]], folder: Path, wanted: _Wanted) -> RunPlan:
    _check_names(wanted)
    known, objective = wanted.known, wanted.objective
    if wanted.formulations is not None:
        known.check_parameters(wanted.parameters)
    matrices = [_matrix(instance, wanted) for _, instance in loaded]
    if not any(cells for cells, _ in matrices):
        reasons = "\n  ".join(reason for _, reasons in matrices for reason in reasons)
        raise UsageError(f"there is nothing to run\n  {reasons}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror or error}") from None
    tasks: list[Task] = []
    left_out = []
    for (stem, instance), (cells, refusals) in zip(loaded, matrices, strict=True):
        file = folder / (f"{stem}.json.gz" if len(instance.requests) > LARGE else f"{stem}.json")
        save_instance(instance, file)
        left_out += [f"{stem}: {reason}" for reason in refusals]
        for kind, name, solver in cells:
            for seed in dict.fromkeys(wanted.seeds):
                given = dict(wanted.simulated) if kind == "policy" else {"objective": objective} if objective else {}
                taken = known.taken(wanted.parameters, name) if kind == "formulation" else {}
                if kind == "formulation":
                    given = {"parameters": taken} if taken else {}
                given |= {"slo": wanted.slo} if wanted.slo else {}
                run = plan_run(instance, file, kind, name, solver=solver, seed=seed, parameters=given, **wanted.limits)
                mark = f"seed{seed}" if len(set(wanted.seeds)) > 1 else ""
                called = Path(name).stem.replace("_", "-") if name.endswith(".py") else split_file(name)[1]
                parts = [stem, safe_name(called), values_in_a_name(taken), solver, mark]
                tasks.append((run, folder / file_name(*parts, ending="result.json")))
    return RunPlan(dict(loaded), tuple(tasks), tuple(left_out))


def _check_names(wanted: _Wanted) -> None:
    """Names that do not exist are refused before anything runs; a broken file is a failure of its runs."""
    from modelkit.backends import backend
    from modelkit.policies import chosen_policy
    from modelkit.policies.predictions import predicted_lengths

    for name in wanted.solvers if wanted.formulations is None or wanted.formulations else ():
        backend(name)
    for name in wanted.policies or ():
        chosen_policy(name)
    if "predictions" in wanted.simulated:
        predicted_lengths(np.ones(1, dtype=np.int64), wanted.simulated["predictions"], np.random.default_rng(0))


def _matrix(instance: Instance, wanted: _Wanted) -> tuple[list[tuple[Any, str, str | None]], list[str]]:
    """(kind, name, solver) of each run on an instance, and why others are left out."""
    from modelkit.policies import chosen_policy
    from modelkit.simulation.simulate import fitting_policies, limits_refusal
    from modelkit.solving import choose

    cells: list[tuple[Any, str, str | None]] = []
    reasons = []
    names, policies = list(wanted.formulations or ()), wanted.policies
    if wanted.formulations is None:
        try:
            names = [choose(instance, None, wanted.parameters)[0].name]
        except UsageError as error:
            reasons.append(str(error) if wanted.parameters else "no formulation takes it")
    for name in dict.fromkeys(names):
        formulation = wanted.known.find(name)
        try:
            taken = wanted.known.taken(wanted.parameters, name)
            why = formulation.refusal(formulation.with_parameters(instance, taken))
        except (UsageError, FormulationFailedError) as error:  # it needs a parameter that is given nowhere, or fails
            reasons.append(str(error).replace("\n ", ";"))
            continue
        if why is None:
            cells += [("formulation", name, solver) for solver in dict.fromkeys(wanted.solvers)]
        else:
            reasons.append(f"formulation {name} does not take it: it {why}")
    fitting = fitting_policies(instance)
    limits = BatchLimits(**{name: value for name, value in wanted.simulated.items() if name != "predictions"})
    if (why := limits_refusal(instance, limits)) is not None:
        fitting, policies = [], []
        reasons.append(f"policies do not run: {why}")
    for name in dict.fromkeys(fitting if policies is None else policies):
        if chosen_policy(name)[0].name in fitting:
            cells.append(("policy", name, None))
        else:
            reasons.append(f"policy {name} is not for its clock")
    if wanted.bound:
        cells.append(("bound", "bound", None))
    return cells, reasons
