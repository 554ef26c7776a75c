"""The axes of a grid: lists among parameters and options, and the names that runs get of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelkit.experiments.study.plan import Study


def combinations(parameters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the values of parameters that are lists."""
    values = [value if isinstance(value, list) else [value] for value in parameters.values()]
    for combination in itertools.product(*values):
        yield dict(zip(parameters, combination, strict=True))


def how_many(parameters: Mapping[str, Any]) -> int:
    """The number of these combinations."""
    return math.prod(len(value) for value in parameters.values() if isinstance(value, list))


def policy_name(name: str, options: Mapping[str, Any]) -> str:
    """A policy with further options, as it is asked for: ``mc-sf:gate=8``."""
    if not options:
        return name
    words = ",".join(f"{key}={value}" for key, value in options.items())
    has_some = ":" in name.rpartition(".py:")[2]  # a colon behind the file's begins options
    return f"{name}{',' if has_some else ':'}{words}"


def axes_of(study: Study) -> dict[str, list[Any]]:
    """Names of all axes with their values, in the order of the file: groups, those of instances, then those of runs."""
    found: dict[str, list[Any]] = {"group": list(dict.fromkeys(entry.label for entry in study.instances))}
    for mapping in _mappings(study):
        for name, value in mapping.items():
            values = found.setdefault(name, [])
            values += [v for v in (value if isinstance(value, list) else [value]) if v not in values]
    return found


def swept_of(study: Study) -> dict[str, list[Any]]:
    """Those of several values, not counting what differs between entries alone: the group says that."""
    lists = {name for mapping in _mappings(study) for name, v in mapping.items() if isinstance(v, list) and len(v) > 1}
    every = axes_of(study)
    return {name: values for name, values in every.items() if name in lists or (name == "group" and len(values) > 1)}


def _mappings(study: Study) -> list[Mapping[str, Any]]:
    """What has axes."""
    options = [entry.options for entry in study.policies]
    parameters = [entry.parameters for entry in (*study.policies, *study.formulations)]
    return [*(entry.parameters for entry in study.instances), *options, *parameters]
