"""What solves an instance: the formulation asked for or the first that suits, and whether the search is tried first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelkit.diagram import refusal as search_refusal
from modelkit.errors import FormulationFailedError, UsageError, did_you_mean
from modelkit.formulation import Formulation
from modelkit.hosting import found_formulations, load_formulation
from modelkit.instance import Instance
from modelkit.solving.account import SEARCH

#: From how many requests on the search is tried before a solver [request].
MANY = 9


def choose(
    instance: Instance, formulation: str | Formulation | None = None, parameters: Mapping[str, Any] | None = None
) -> tuple[Formulation, Instance]:
    """The formulation asked for, or the first that suits, and the instance as it sees it, with its parameters.

    Without a name, formulations are taken that know every key of the instance's ``extra``: those without parameters
    when there is none, else those whose parameters it names.

    Raises
    ------
    UsageError, InputError, FormulationError
        As `solve`.
    """
    if formulation is not None:
        chosen = load_formulation(formulation) if isinstance(formulation, str) else formulation
        posed = chosen.posed(instance, parameters)
        if (why := chosen.refusal(posed)) is not None:
            raise UsageError(f"formulation {chosen.name!r} does not take this instance: it {why}")
        return chosen, posed
    named = instance.replace(extra={**instance.extra, **parameters}) if parameters else instance
    reasons = []
    known: set[str] = set()
    for entry in found_formulations():
        if entry.formulation is None:
            reasons.append(f"{entry.name}: {entry.error}")
            continue
        known.update(p.name for p in entry.formulation.parameters)
        try:
            if entry.formulation.claim != "exact" or not entry.formulation.chosen_for(named):
                continue
            posed = entry.formulation.posed(named)
            why = entry.formulation.refusal(posed)
        except FormulationFailedError as error:  # it hides no other
            why = str(error)
        if why is None:
            return entry.formulation, posed
        reasons.append(f"{entry.name}: {why}")
    asked = named.parameters
    for key in sorted(set(asked) - known):
        reasons.insert(0, f"no formulation has a parameter {key!r}{did_you_mean(key, known)}")
    if asked and not set(asked) - known:
        reasons.insert(0, f"none has all the parameters {', '.join(asked)}; say which one with -f")
    raise UsageError("no formulation takes this instance\n  " + "\n  ".join(reasons))


def search_suits(instance: Instance, formulation: Formulation) -> bool:
    """Whether the search is tried before a solver when nobody asked for either."""
    exact = (formulation.problem, formulation.claim) == ("kv-hindsight", "exact")
    return exact and len(instance.requests) >= MANY and search_refusal(instance) is None


def check_search(instance: Instance, formulation: Formulation, options: dict[str, Any] | None) -> None:
    """Refuse the search where it does not solve what was asked.

    Raises
    ------
    UsageError
        It has no options, solves one problem, and that for instances of some size.
    """
    if options:
        raise UsageError(f"solver {SEARCH!r} has no options; found {', '.join(options)}")
    if (formulation.problem, formulation.claim) != ("kv-hindsight", "exact"):
        raise UsageError(f"solver {SEARCH!r} solves the problem of kv-hindsight, not formulation {formulation.name!r}")
    if (why := search_refusal(instance)) is not None:
        raise UsageError(f"solver {SEARCH!r} does not take this instance: it {why}")
