"""What is wrong with a study that has the right form: names, options and parameters that do not exist."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkit.errors import Fault, ModelkitError, UsageError, did_you_mean, shown
from modelkit.experiments.run import Kind, parameters_of, solve_arguments
from modelkit.experiments.study.axes import axes_of, combinations, policy_name
from modelkit.experiments.study.origins import importers, options_of_entry
from modelkit.judge import metric_names
from modelkit.judge.slo import SLO_METRICS
from modelkit.registry import Option

if TYPE_CHECKING:
    from modelkit.experiments.study.plan import Formulations, Instances, Policies, Study

#: Combinations of a policy's options that are tried.
_MOST_TRIED = 1000
_CODE = "code is run only from there, and by name from the folders of MODELKIT_FORMULATIONS"


def file_of_policy(name: str) -> str | None:
    """The file in which a policy is named to be, or None."""
    from modelkit.policies.files import split_file

    try:
        return split_file(name)[0]
    except UsageError:
        return None  # said where its options are read


def faults_of_study(study: Study, folder: Path) -> Iterator[Fault]:
    """What is wrong with a study that has the right form: names and parameters that do not exist."""
    for i, entry in enumerate(study.instances):
        yield from _wrong_instances(f"$.instances[{i}]", entry)
    groups = {entry.label for entry in study.instances}
    sections: dict[str, tuple[Kind, Sequence[Any]]] = {
        "formulations": ("formulation", study.formulations),
        "policies": ("policy", study.policies),
        "bounds": ("bound", study.bounds),
    }
    for section, (kind, entries) in sections.items():
        for i, entry in enumerate(entries):
            where = f"$.{section}[{i}]"
            for group in entry.groups or ():
                if group not in groups:
                    yield _unknown(f"{where}.groups", "group", group, groups)
            if kind == "formulation":
                yield from _wrong_formulations(where, entry, folder)
                continue
            if kind == "policy":
                yield from _wrong_policies(where, entry, folder)
            for key in entry.parameters:
                if key not in (allowed := parameters_of(kind)):
                    yield _unknown(f"{where}.parameters.{key}", "parameter", key, allowed)
    if not (study.formulations or study.policies or study.bounds):
        yield Fault("$", "nothing to run: no formulations, policies or bounds")
    for i, claim in enumerate(study.claims):
        if claim.group is not None and claim.group not in groups:
            yield _unknown(f"$.claims[{i}].group", "group", claim.group, groups)
    yield from _wrong_page(study)


def _wrong_instances(where: str, entry: Instances) -> Iterator[Fault]:
    from modelkit.sources.families import families

    if entry.family is not None and entry.family not in (known := families()):
        yield _unknown(f"{where}.family", "family", entry.family, known)
        return
    key, path = ("file", entry.file) if entry.trace is None else ("trace", entry.trace)
    if entry.family is None and not os.path.isfile(path or ""):
        yield Fault(f"{where}.{key}", f"no such file: {path}")
        return
    if entry.format is not None and entry.format not in importers():
        yield _unknown(f"{where}.format", "format", entry.format, importers())
        return
    try:
        options = options_of_entry(entry)
    except ModelkitError as error:
        yield Fault(f"{where}.trace", " ".join(str(error).split()))
        return
    yield from _wrong_options(f"{where}.parameters", options, entry.parameters)


def _wrong_policies(where: str, entry: Policies, folder: Path) -> Iterator[Fault]:
    from modelkit.policies import chosen_policy

    for j, name in enumerate(entry.names):
        if (file := file_of_policy(name)) and not _may_run(file, folder):
            words = "lies outside the folder of the study" if os.path.isfile(file) else "is not there"
            yield Fault(f"{where}.names[{j}]", f"{file} {words}; {_CODE}")
            continue
        for options in itertools.islice(combinations(entry.options), _MOST_TRIED):
            place = f"{where}.names[{j}]" + (f" with {policy_name('', options)[1:]}" if options else "")
            try:
                chosen_policy(policy_name(name, options))
            except UsageError as error:
                yield Fault(place, " ".join(str(error).split()))
                break


def _wrong_formulations(where: str, entry: Formulations, folder: Path) -> Iterator[Fault]:
    from modelkit.backends import backends
    from modelkit.formulation.loading import formulation_files

    known = set(formulation_files())
    for j, name in enumerate(entry.names):
        if name.endswith(".py") and not os.path.isfile(name):
            yield Fault(f"{where}.names[{j}]", f"no such file: {name}")
        elif name.endswith(".py") and not _may_run(name, folder):
            yield Fault(f"{where}.names[{j}]", f"{name} lies outside the folder of the study; {_CODE}")
        elif not name.endswith(".py") and name not in known:
            yield _unknown(f"{where}.names[{j}]", "formulation", name, known)
    for j, solver in enumerate(entry.solvers):
        if solver not in backends():
            yield _unknown(f"{where}.solvers[{j}]", "solver", solver, backends())
    yield from _wrong_parameters(f"{where}.parameters", entry, known, folder)


def _wrong_page(study: Study) -> Iterator[Fault]:
    """Axes and metrics that the page cannot have."""
    axes = axes_of(study)
    named = {"axis": study.page.axis, "panels": study.page.panels}
    named |= {f"repeats[{j}]": name for j, name in enumerate(study.page.repeats)}
    for key, name in named.items():
        if name is not None and name not in axes:
            yield _unknown(f"$.page.{key}", "axis", name, axes)
    metrics = {*metric_names(True, pauses=True), *metric_names(False, slo=True, pauses=True)}
    for j, name in enumerate(study.page.metrics):
        of_class = name.endswith("]") and name.partition("[")[0] in SLO_METRICS
        if name not in metrics and not of_class:
            yield _unknown(f"$.page.metrics[{j}]", "metric", name, metrics)


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


def _wrong_options(where: str, options: Mapping[str, Option], parameters: Mapping[str, Any]) -> Iterator[Fault]:
    options = {name: option for name, option in options.items() if name != "seed"}
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
