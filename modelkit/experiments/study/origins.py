"""Where the instances of a study come from: a family, a file, or an imported trace or log, and changes of these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelkit.instance import Instance
from modelkit.io import load
from modelkit.registry import Generator, Option
from modelkit.sources.changes import CHANGES, changed

if TYPE_CHECKING:
    from modelkit.experiments.study.grid import InstanceSpec
    from modelkit.experiments.study.plan import Instances


def importers() -> dict[str, Generator]:
    """Formats of traces and logs by name."""
    from modelkit.sources.logs.importing import log_importers
    from modelkit.sources.traces import trace_formats

    return {**trace_formats(), **log_importers()}


def format_of(entry: Instances) -> str | None:
    """The format of an entry's trace, recognised unless it is given; None where it has none.

    Raises
    ------
    UsageError
        The file cannot be opened.
    InputError
        It is of no format that is known.
    """
    from modelkit.sources.logs import recognised

    return None if entry.trace is None else entry.format or recognised(entry.trace)


def options_of_entry(entry: Instances) -> dict[str, Option]:
    """What the parameters of an entry may be: options of its family or format, and what can be changed in any."""
    own: Generator | None = None
    if entry.family is not None:
        from modelkit.sources.families import families

        own = families()[entry.family]
    elif (name := format_of(entry)) is not None:
        own = importers()[name]
    options = {} if own is None else {option.name.strip("_"): option for option in own.options}
    return {**CHANGES, **options}


def draw(spec: InstanceSpec) -> Instance:
    """The instance of a specification."""
    if spec.family is not None:
        from modelkit.sources.families import families, generate

        own, changes = _split(spec.parameters, families()[spec.family])
        return changed(generate(spec.family, seed=spec.seed, **own), **changes)
    if spec.format is not None:
        return _imported(spec)
    return changed(load(spec.file or ""), **spec.parameters)


def _imported(spec: InstanceSpec) -> Instance:
    """From a trace or a log."""
    from modelkit.sources.logs import log_formats
    from modelkit.sources.logs.importing import import_log
    from modelkit.sources.traces import import_trace

    path, name = spec.file or "", spec.format or ""
    importer = importers()[name]
    own, changes = _split(spec.parameters, importer)
    if any(option.name == "seed" for option in importer.options):
        own["seed"] = spec.seed
    is_log = name in log_formats()
    made = import_log(path, name, **own).instance if is_log else import_trace(name, path, **own)
    return changed(made, **changes)


def _split(parameters: Mapping[str, Any], origin: Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the origin, and changes of what it makes."""
    names = {option.name.strip("_"): option.name for option in origin.options}
    own = {names[key]: value for key, value in parameters.items() if key in names}
    return own, {key: value for key, value in parameters.items() if key not in names}
