"""What Pyomo lets a file do and a model does not survive: said in plain words before it is solved."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from modelkit.errors import FormulationError, did_you_mean
from modelkit.instance import Instance
from modelkit.judge import metric_names

#: Names under which solvers look for a Suffix of a model.
_SUFFIXES = ("dual", "rc", "slack", "lrc", "urc", "iis")


@contextmanager
def replacing_refused(owner: str) -> Iterator[None]:
    """Refuse that a component takes the place of another one of its name within the block.

    Pyomo only logs that: a constraint that a variant inherits would be gone.

    Raises
    ------
    FormulationError
        One did.
    """
    replaced: list[str] = []

    def hear(record: logging.LogRecord) -> bool:
        if found := re.search(r"Implicitly replacing .*?attribute (\S+)", record.getMessage()):
            replaced.append(found[1])
        return False

    logger = logging.getLogger("pyomo.core")
    before = logger.level
    logger.setLevel(logging.WARNING)
    logger.addFilter(hear)
    try:
        yield
    finally:
        logger.removeFilter(hear)
        logger.setLevel(before)
    if replaced:
        raise FormulationError(
            f"{owner}: build() defines {replaced[0]!r} although the model has one, which would be lost; give it a name"
            f" of its own, or remove the other first, m.del_component(m.{replaced[0]})"
        )


def refuse_names(model: Any, owner: str) -> None:
    """Refuse names that solvers take for a Suffix.

    Raises
    ------
    FormulationError
        A component has one.
    """
    for name in _SUFFIXES:
        component = model.component(name)
        if component is not None and component.ctype.__name__ != "Suffix":
            words = f"{owner}: the {component.ctype.__name__} {name!r} has a name under which solvers look for a Suffix"
            raise FormulationError(f"{words}; give it another one")


def refuse_maximising(model: Any, owner: str) -> None:
    """Refuse an objective that is maximised: of all values, bounds and gaps the least is the best.

    Raises
    ------
    FormulationError
        There is one.
    """
    import pyomo.environ as pyo

    for objective in model.component_data_objects(pyo.Objective, active=True):
        if objective.sense == pyo.maximize:
            raise FormulationError(
                f"{owner}: the objective {objective.name!r} is maximised, and modelkit minimises: of values, bounds and"
                " gaps the least is the best; minimise what is missed of the most there can be, such as the requests"
                " that are late, or else minimise its negative, and let value() return the same"
            )


def refuse_metric(objective: str | None, instance: Instance, owner: str) -> None:
    """Refuse an objective that is no metric of the judge, where the file does not compute it: it would have no value.

    Raises
    ------
    FormulationError
        It is none.
    """
    server, unit = instance.server, f"_{instance.unit}"
    known = metric_names(instance.is_unit, pauses=server.pause is not None, prefixes=server.prefix_cache is not None)
    if f"{objective}{unit}" in known:
        return
    names = sorted(name.removesuffix(unit) for name in known if name.endswith(unit))
    stated = f"the judge has no metric {f'{objective}{unit}'!r}" if objective else "it states no objective"
    raise FormulationError(
        f"{owner}: {stated}{did_you_mean(objective or '', names)}; give value(instance, verdict), which computes it"
        f" from the judge's replay, or let `objective` be one of {', '.join(names)}"
    )


def key_faults(abstract: Any, data: Mapping[str, Any]) -> list[str]:
    """What is wrong with the keys of ``data``: Pyomo accepts a misspelt one silently and a missing one obscurely."""
    import pyomo.environ as pyo

    named = {c.local_name: c for c in abstract.component_objects((pyo.Set, pyo.Param))}
    faults = [
        f"data() gives {key!r}, but the model has no such set or parameter{did_you_mean(key, named)}"
        for key in data
        if key not in named
    ]
    faults += [
        f"data() gives no {key!r}, which the model needs{did_you_mean(key, set(data) - set(named))}"
        for key, component in named.items()
        if key not in data and not _has_own_value(component)
    ]
    return faults


def _has_own_value(component: Any) -> bool:
    """Whether a set or parameter is given its value in ``build``."""
    if component.ctype.__name__ == "Param":
        return bool(component._rule is not None or component._default_val is not component.NoValue)
    init = getattr(component, "_init_values", None)
    return bool(init is None or init._init is not None)
