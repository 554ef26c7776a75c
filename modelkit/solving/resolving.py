"""Solving a model again after its instance or its parameters have changed, without building it anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from modelkit.arguments import checked_arguments
from modelkit.backends import Limits, backend
from modelkit.backends.changing import ChangingForm
from modelkit.backends.standard_form import CompiledModel, StandardForm, load_solution
from modelkit.errors import InfeasibleError, UsageError, did_you_mean, shown
from modelkit.formulation.formulation import Formulation
from modelkit.instance import Instance
from modelkit.result import Progress, Result
from modelkit.runtime.interrupts import interruptible
from modelkit.solving.known import Known
from modelkit.solving.methods import PLAIN
from modelkit.solving.pipeline import Pipeline

#: What of a server may change.
SERVER = ("kv_capacity_tokens", "slots")


@dataclass
class Changeable:
    """What a model was built from, and the data that it has now.

    Parameters
    ----------
    instance
        Without the formulation's parameters.
    given
        Values of parameters that were given beside the instance.
    changing
        The model's parameters that may change.
    """

    formulation: Formulation
    instance: Instance
    given: dict[str, Any]
    changing: tuple[str, ...]
    data: dict[str, Any]
    form: ChangingForm | None = None


def build_changeable(
    formulation: Formulation, instance: Instance, given: Mapping[str, Any], changing: tuple[str, ...]
) -> Any:
    """The Pyomo model with these parameters mutable; it keeps every start that any values of them may need.

    Raises
    ------
    UsageError
        The model has no such parameter.
    """
    import pyomo.environ as pyo

    parametrised = formulation.with_parameters(instance, given)
    data = formulation.values(parametrised, Known(parametrised, None, formulation.name))
    abstract = formulation.abstract()
    there = {c.local_name: c for c in abstract.component_objects(pyo.Param)}
    for name in changing:
        if name not in there:
            words = did_you_mean(name, there) or f"; it has {', '.join(there)}"
            raise UsageError(f"the model of {formulation.name!r} has no parameter {name!r}{words}")
        there[name]._mutable = True
    model = formulation.create_model(abstract, data, instance.name)
    model._changeable = Changeable(formulation, instance, dict(given), changing, data)
    return model


@checked_arguments
@interruptible()
def resolve(
    model: object,
    changes: Mapping[str, Any] | None = None,
    solver: str = "highs",
    *,
    time_limit: float | None = 60.0,
    gap: float = 0.0,
    threads: int | None = None,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    listen: Callable[[Progress], None] | None = None,
) -> Result:
    """Solve a model again with other values, without building it anew.

    Parameters
    ----------
    model
        From ``mk.build(instance, formulation, changing=[...])``; its parameters named there may change.
    changes
        ``kv_capacity_tokens`` and ``slots`` of the server, and parameters of the formulation, by name. What is not
        named is as it was when the model was built.
    solver, time_limit, gap, threads, seed, options, listen
        As `modelkit.solve`.

    Returns
    -------
    Result
        About the changed instance, judged as any other; the model's variables hold the solution.

    Raises
    ------
    UsageError
        The model was not built so, there is no such value, or it changes what was not named as changing.
    InputError
        A value is not allowed.
    """
    began = time.perf_counter()
    kept = getattr(model, "_changeable", None)
    if not isinstance(kept, Changeable):
        words = "resolve takes a model of mk.build(instance, formulation, changing=[...])"
        raise UsageError(f"{words}; found {shown(model)}")
    instance, given = _changed(kept, dict(changes or {}))
    parametrised = kept.formulation.with_parameters(instance, given)
    if (why := kept.formulation.refusal(parametrised)) is not None:
        raise UsageError(f"formulation {kept.formulation.name!r} does not take this instance: it {why}")
    run = _Again(
        instance,
        parametrised,
        replace(kept.formulation, separator=None),
        backend(solver),
        Limits(time_limit, gap, threads, seed),
        dict(options or {}),
        "none",
        listen or (lambda progress: None),
        solver=solver,
        began=began,
        model=model,
    )
    try:
        instance.check_fits()
        _set_data(model, kept, kept.formulation.values(parametrised, run.known))
    except InfeasibleError as error:
        return run.result("infeasible", "finished", message=str(error))
    return run.go()


def changed_arrays(model: Any, changes: Mapping[str, Any]) -> StandardForm:
    """The arrays of a changeable model with the changes, as `resolve` hands them to a solver."""
    kept: Changeable = model._changeable
    instance, given = _changed(kept, dict(changes))
    parametrised = kept.formulation.with_parameters(instance, given)
    known = Known(parametrised, None, kept.formulation.name)
    _set_data(model, kept, kept.formulation.values(parametrised, known))
    return _arrays(model, kept)


def _arrays(model: Any, kept: Changeable) -> StandardForm:
    if kept.form is None:
        kept.form = ChangingForm(model)
    return kept.form.updated()


def _changed(kept: Changeable, changes: dict[str, Any]) -> tuple[Instance, dict[str, Any]]:
    """The instance and the parameters with the changes."""
    own = {p.name for p in kept.formulation.parameters}
    for name in changes:
        if name not in own and name not in SERVER:
            known = (*SERVER, *own)
            words = did_you_mean(name, known) or f"; allowed: {', '.join(known)}"
            raise UsageError(f"there is no {name!r} to change{words}")
    server = {name: changes.pop(name) for name in SERVER if name in changes}
    fields = {name: getattr(kept.instance.server, name) for name in type(kept.instance.server).model_fields}
    instance = kept.instance.replace(server={**fields, **server}) if server else kept.instance
    return instance, {**kept.given, **changes}


def _set_data(model: Any, kept: Changeable, data: dict[str, Any]) -> None:
    """Give the model's parameters their values; nothing is set where something else differs."""
    changed = [name for name, value in data.items() if value != kept.data.get(name)]
    for name in changed:
        before, after = kept.data.get(name), data[name]
        same_keys = not isinstance(after, dict) or (isinstance(before, dict) and before.keys() == after.keys())
        if name not in kept.changing or not same_keys:
            advice = (
                "build the model anew"
                if name in kept.changing or not _is_parameter(model, name)
                else (f"build it with changing={[*kept.changing, name]!r}")
            )
            raise UsageError(f"these changes alter {name!r} of the model, which may not change; {advice}")
    for name in changed:
        component = model.component(name)
        if isinstance(data[name], dict):
            component.store_values(data[name])
        else:
            component.set_value(data[name])
    kept.data = data


def _is_parameter(model: Any, name: str) -> bool:
    return bool(model.component(name).ctype.__name__ == "Param")


@dataclass(kw_only=True)
class _Again(Pipeline):
    """The steps of a solve whose model is there."""

    model: Any

    def __post_init__(self) -> None:
        """All rounds and all starts: what an optimal schedule of one instance uses says nothing of another."""
        super().__post_init__()
        self.method = PLAIN
        self.timeline = self.method.timeline(self.instance)
        self.inner, self.inner_parametrised = self.instance, self.parametrised
        self.known = Known(self.parametrised, None, self.formulation.name)

    def build(self) -> Any:
        """The arrays of the model with what has changed."""
        self.tell("changing the model")
        before = time.perf_counter()
        kept: Changeable = self.model._changeable
        made = CompiledModel(_arrays(self.model, kept), 0)
        self.seconds["build"] = time.perf_counter() - before
        self.passed("changing the model", before, self.formulation.name)
        return made

    def extract_schedule(self, model: Any) -> Result:
        """What the solver found, in the model and judged."""
        kept: Changeable = self.model._changeable
        assert kept.form is not None
        if model.x is not None:
            load_solution(self.model, kept.form.columns, model.x)
        return super().extract_schedule(self.model)
