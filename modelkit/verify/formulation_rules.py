"""Verification with the rules of the formulation that a result is of, wherever its file is found."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from modelkit.arguments import checked_arguments
from modelkit.errors import Fault, FormulationError, InputError, UsageError
from modelkit.formulation.formulation import Formulation
from modelkit.formulation.hosting import formulation_of, load_formulation
from modelkit.formulation.loading import formulation_files
from modelkit.instance import Instance
from modelkit.io import load
from modelkit.result import Result
from modelkit.text import brief
from modelkit.verify.findings import Verification
from modelkit.verify.result import OwnRules
from modelkit.verify.result import verify_result as verified


@checked_arguments
def verify_result(
    result: Result,
    instance: Instance,
    formulation: str | Formulation | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Verification:
    """Judge the schedule of ``result`` again and hold every field of it against the replay; nothing is believed.

    Parameters
    ----------
    formulation
        Formulation whose rules and objective apply: a name, a ``.py`` file, or the object. None: the one that a
        formulation's result names, if it is bundled or found through ``MODELKIT_FORMULATIONS``.
    parameters
        Of the formulation, where the result does not record them; one that it records otherwise is an error.

    Returns
    -------
    Verification
        ``holds``, and in sentences and in words what is wrong, what is confirmed and what was not checked.

    Raises
    ------
    UsageError, InputError, FormulationError
        The formulation that was given does not exist, is broken, or lacks a parameter.
    """
    instance = load(instance)
    return verified(result, instance, own_rules(result, instance, formulation, parameters))


def own_rules(
    result: Result,
    instance: Instance,
    formulation: str | Formulation | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> OwnRules | None:
    """What the formulation of a result says, or why it is not at hand; None for a result of no formulation."""
    producer, given = result.producer, dict(parameters or {})
    if formulation is not None:
        return _rules(formulation_of(formulation), result, instance, given)
    if producer.kind != "formulation":
        if given:
            raise UsageError("parameters are a formulation's; name it with --formulation")
        return None
    if producer.name not in formulation_files():
        return OwnRules(producer.name, unknown="file not found")
    try:
        found = load_formulation(producer.name)
    except (FormulationError, UsageError) as error:
        return OwnRules(producer.name, unknown=f"the file cannot be loaded: {error}")
    try:
        return _rules(found, result, instance, given)
    except (InputError, UsageError) as error:
        if given:
            raise
        return OwnRules(producer.name, unknown=" ".join(str(error).split()))


def _rules(formulation: Formulation, result: Result, instance: Instance, given: dict[str, Any]) -> OwnRules:
    recorded = result.producer.parameters
    if formulation.name != result.producer.name:
        known = {p.name for p in formulation.parameters}
        recorded = {name: value for name, value in recorded.items() if name in known}
    if unfit := _unfit(formulation, recorded, instance):
        return OwnRules(formulation.name, unknown="the recorded parameters are not its own", misfit=str(unfit[0]))
    parametrised = formulation.with_parameters(instance, {**given, **recorded})
    wanted = formulation.with_parameters(instance, {**recorded, **given})
    for name in given:
        if wanted.extra[name] != parametrised.extra[name]:
            raise UsageError(
                f"the file records {name} = {brief(recorded[name])}, not {brief(given[name])}; what it records counts:"
                f" leave --param {name} out"
            )
    return rules_of_formulation(formulation, parametrised)


def rules_of_formulation(formulation: Formulation, parametrised: Instance) -> OwnRules:
    """What a formulation adds to the judge, for an instance with parameters."""
    return OwnRules(
        formulation.name,
        parameters=", ".join(f"{p.name} = {brief(parametrised.extra[p.name])}" for p in formulation.parameters),
        breaks=partial(formulation.breaks, parametrised) if formulation.admissible else None,
        value=partial(formulation.evaluate, parametrised) if formulation.value else None,
        objective=formulation.metric(parametrised) if formulation.objective else None,
        unit=formulation.unit,
        problem=formulation.problem,
        obstacles=partial(formulation.hindrances, parametrised) if formulation.obstacles else None,
    )


def _unfit(formulation: Formulation, recorded: Mapping[str, Any], instance: Instance) -> list[Fault]:
    """What is wrong with the parameters that a result records."""
    known = {p.name: p for p in formulation.parameters}
    faults = [
        Fault(name, f"formulation {formulation.name!r} has no such parameter") for name in recorded if name not in known
    ]
    for name, value in recorded.items():
        if name in known:
            known[name].resolved(value, instance, name, faults)
    return faults
