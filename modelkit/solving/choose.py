"""What solves an instance: the formulation asked for or the first that suits, and whether the search is tried first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from modelkit.errors import Fault, FormulationFailedError, InputError, NoFormulationError, UsageError, did_you_mean
from modelkit.formulation.formulation import Formulation
from modelkit.formulation.hosting import formulation_of, found_formulations
from modelkit.formulation.loading import FoundFormulation
from modelkit.formulation.parameters import places_in_extra
from modelkit.instance import TRACE_ATTRIBUTES, Instance
from modelkit.problems.kv.diagram import refusal as search_refusal
from modelkit.problems.problem import KV, problem_modelled
from modelkit.solving.outcome import SEARCH

#: Requests times longest output up to which a binary for each request and start is faster than memory as a flow.
SMALL = 1_000
#: From how many requests on the search is tried before a solver [request].
MANY = 9


def choose(
    instance: Instance, formulation: str | Formulation | None = None, parameters: Mapping[str, Any] | None = None
) -> tuple[Formulation, Instance]:
    """The formulation asked for, or the first that suits, and the instance as it sees it, with its parameters.

    Without a name, formulations are taken that know every key of the instance's ``extra`` that any of them knows: those
    without parameters when there is none, else those whose parameters it names. A key that is nearly the name of a
    parameter is refused: whoever wrote it meant that.

    Raises
    ------
    NoFormulationError
        None takes the instance, which states no parameter of one.
    UsageError, InputError, FormulationError
        As `solve`.
    """
    if formulation is not None:
        chosen = formulation_of(formulation)
        parametrised = chosen.with_parameters(instance, parameters)
        if (why := chosen.refusal(parametrised)) is not None:
            raise UsageError(f"formulation {chosen.name!r} does not take this instance: it {why}")
        return chosen, parametrised
    found: Iterable[FoundFormulation] = found_formulations()
    if asked := instance.parameters.keys() | (parameters or {}).keys():
        found = list(found)  # a parameter may be that of any; otherwise files of users are loaded only when needed
    known = {p.name for entry in (found if asked else ()) if entry.formulation
             for p in entry.formulation.parameters}  # fmt: skip
    for key in sorted(set(parameters or ()) - known):
        words = did_you_mean(key, known) or f"; they take {', '.join(sorted(known))}"
        raise UsageError(f"no formulation has a parameter {key!r}{words}")
    understood = _understood(instance, known)
    asked = understood | (parameters or {}).keys()
    kept = {key: value for key, value in instance.extra.items() if key in understood or key in TRACE_ATTRIBUTES}
    named = instance.replace(extra=kept | dict(parameters or {}))
    reasons = []
    for entry in found:
        if entry.formulation is None:
            reasons.append(f"{entry.name}: {entry.error}")
            continue
        try:
            if not _is_candidate(entry.formulation, named, asked):
                continue
            parametrised = entry.formulation.with_parameters(named)
            why = entry.formulation.refusal(parametrised)
        except FormulationFailedError as error:  # it hides no other
            why = str(error)
        if why is None:
            return entry.formulation, parametrised
        reasons.append(f"{entry.name}: {why}")
    if not asked:
        raise NoFormulationError("no formulation takes this instance\n  " + "\n  ".join(reasons))
    reasons.insert(0, f"none has all the parameters {', '.join(sorted(asked))}; choose one with -f")
    raise UsageError("no formulation takes this instance\n  " + "\n  ".join(reasons))


def _is_candidate(formulation: Formulation, instance: Instance, asked: Collection[str]) -> bool:
    """Whether ``solve`` takes it by itself where it accepts the instance: of each problem the fastest exact one."""
    if formulation.claim != "exact" or not formulation.chosen_for(asked):
        return False
    if problem_modelled(formulation.problem) is not KV or formulation.parameters:
        return True
    small = len(instance.requests) * int(instance.arrays.output.max()) <= SMALL
    fastest = "kv-hindsight" if small else "kv-hindsight-flow"
    return formulation.name == fastest


def _understood(instance: Instance, known: set[str]) -> set[str]:
    """The keys of ``extra``, of the instance and its requests, that a formulation knows; others are notes.

    Raises
    ------
    InputError
        One of them is nearly a parameter.
    """
    unknown = sorted(instance.parameters.keys() - known)
    places = places_in_extra(instance)
    near = [Fault(places[key], f"no formulation has such a parameter{words}") for key in unknown
            if (words := did_you_mean(key, known))]  # fmt: skip
    if near:
        raise InputError(instance.name or "the instance", near)
    return instance.parameters.keys() & known


def search_suits(instance: Instance, formulation: Formulation) -> bool:
    """Whether the search is tried before a solver when neither was asked for."""
    return _is_exact_kv(formulation) and len(instance.requests) >= MANY and search_refusal(instance) is None


def _is_exact_kv(formulation: Formulation) -> bool:
    return problem_modelled(formulation.problem) is KV and formulation.claim == "exact"


def check_search(instance: Instance, formulation: Formulation, options: dict[str, Any] | None) -> None:
    """Refuse the search where it does not solve what was asked.

    Raises
    ------
    UsageError
        It has no options, solves one problem, and that for instances of some size.
    """
    if options:
        raise UsageError(f"solver {SEARCH!r} has no options; found {', '.join(options)}")
    if not _is_exact_kv(formulation):
        raise UsageError(f"solver {SEARCH!r} solves the problem of {KV.model}, not formulation {formulation.name!r}")
    if (why := search_refusal(instance)) is not None:
        raise UsageError(f"solver {SEARCH!r} does not take this instance: it {why}")
