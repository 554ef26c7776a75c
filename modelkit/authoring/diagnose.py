"""Why an instance has no schedule: in the domain's words first, then by the constraints that contradict each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from modelkit.arguments import checked_arguments
from modelkit.backends import Limits, backend
from modelkit.backends.base import Conflict
from modelkit.backends.process import ProcessBackend
from modelkit.backends.standard_form import Column, NamedRow, StandardForm
from modelkit.errors import InfeasibleError, ModelkitError, SolverError, UsageError, unknown_name
from modelkit.formulation.formulation import Formulation
from modelkit.instance import Instance
from modelkit.io import load
from modelkit.solving import TIME_LIMIT, choose
from modelkit.solving.known import known_of
from modelkit.solving.relaxation import named_arrays
from modelkit.verify.feasibility import obstacles

#: Solvers that find irreducible infeasible subsystems here.
SOLVERS = ("highs", "scip")


@dataclass(frozen=True, slots=True)
class NamedConflict:
    """Constraints that contradict each other: family, its doc, members; and bounds of variables.

    ``irreducible`` says that all but any one of them can hold together.
    """

    solver: str
    irreducible: bool
    families: tuple[tuple[str, str, tuple[str, ...]], ...]
    bounds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is known of an instance.

    Parameters
    ----------
    verdict
        ``feasible``, ``infeasible`` or ``unknown``.
    formulation
        Whose model was looked at; None when no model could be built or none takes the instance.
    obstacles
        Why there is no schedule, in the domain's words; each is a proof.
    conflict
        Constraints that contradict each other.
    message
        What else there is to say.
    """

    verdict: Literal["feasible", "infeasible", "unknown"]
    formulation: str | None
    obstacles: tuple[str, ...] = ()
    conflict: NamedConflict | None = None
    message: str = ""


@checked_arguments
def diagnose(
    instance: Instance,
    formulation: str | Formulation | None = None,
    solver: str = "highs",
    *,
    time_limit: float | None = TIME_LIMIT,
    parameters: Mapping[str, Any] | None = None,
) -> Diagnosis:
    """Say why an instance is infeasible.

    Parameters
    ----------
    formulation, parameters
        As in `modelkit.solving.solve`.
    solver
        ``highs`` or ``scip``. HiGHS finds conflicts of the linear relaxation; those of integrality only are left to
        SCIP, if it is there.
    time_limit
        Seconds for finding out whether there is a schedule, and again for the conflict.

    Raises
    ------
    UsageError, InputError, FormulationError, SolverError
        As `modelkit.solving.solve`.
    """
    if solver not in SOLVERS:
        raise unknown_name("solver for diagnosing", solver, SOLVERS)
    instance = load(instance)
    general = obstacles(instance)
    try:
        chosen, parametrised = choose(instance, formulation, parameters)
    except UsageError:
        if not general:
            raise
        return Diagnosis("infeasible", None, tuple(general), message="no formulation takes the instance as it is")
    own = [] if general else chosen.hindrances(parametrised)
    known = tuple(general + own)
    try:
        within = math.inf if time_limit is None else time_limit
        form, columns, rows = chosen.apply(named_arrays, parametrised, known_of(chosen, parametrised), within=within)
    except (InfeasibleError, SolverError) as error:
        if known:
            return Diagnosis("infeasible", None, known, message="no model is built of such an instance")
        verdict: Literal["infeasible", "unknown"] = "infeasible" if isinstance(error, InfeasibleError) else "unknown"
        return Diagnosis(verdict, chosen.name, message=str(error))
    limits = Limits(time_limit)
    if not known:
        engine = backend(solver)
        assert isinstance(engine, ProcessBackend)
        outcome, _ = engine.solve_form(_without_objective(form), limits, {})
        if outcome.found == "solution":
            return Diagnosis("feasible", chosen.name)
        if outcome.found != "infeasible":
            words = outcome.message or "whether there is a schedule is not known after the time limit"
            return Diagnosis("unknown", chosen.name, message=words)
    found, by = _conflict(form, solver, limits)
    if found is None:
        words = "no set of contradicting constraints was found within the time limit"
        return Diagnosis("infeasible", chosen.name, known, message=words)
    return Diagnosis("infeasible", chosen.name, known, _name_conflict(found, by, columns, rows))


def _without_objective(form: StandardForm) -> StandardForm:
    """Any schedule will do; the first is soon found."""
    return replace(form, cost=form.cost * 0.0, start=None)


def _conflict(form: StandardForm, solver: str, limits: Limits) -> tuple[Conflict | None, str]:
    for name in dict.fromkeys((solver, "scip")):
        engine = backend(name)
        assert isinstance(engine, ProcessBackend)
        try:
            found = engine.conflict(form, limits).conflict
        except ModelkitError:
            if name == solver:
                raise
            return None, name  # SCIP is not there
        if found is not None:
            return found, name
    return None, solver


def _name_conflict(found: Conflict, solver: str, columns: list[Column], rows: list[NamedRow]) -> NamedConflict:
    members: dict[str, list[str]] = {}
    docs: dict[str, str] = {}
    for i in found.rows:
        members.setdefault(rows[i].family, []).append(rows[i].name)
        docs[rows[i].family] = rows[i].doc
    bounds = [f"{columns[j].name} >= {columns[j].lower:g}" for j in found.lower if columns[j].lower]
    bounds += [f"{columns[j].name} <= {columns[j].upper:g}" for j in found.upper if not columns[j].binary]
    families = tuple((name, docs[name], tuple(dict.fromkeys(names))) for name, names in members.items())
    return NamedConflict(solver, found.irreducible, families, tuple(bounds))
