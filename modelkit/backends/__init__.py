"""Solvers. One line in the registry for each that modelkit drives itself; all others through Pyomo."""

from __future__ import annotations

from modelkit.backends.base import Backend, Limits, Outcome, Progress
from modelkit.backends.process import ProcessBackend
from modelkit.backends.pyomo_solver import PyomoBackend
from modelkit.errors import unknown_name

__all__ = ["Backend", "Limits", "Outcome", "Progress", "backend", "backends"]

_OWN: dict[str, Backend] = {
    "highs": ProcessBackend("highs", "highspy"),
    "scip": ProcessBackend("scip", "pyscipopt", separates=True),
    "cp-sat": ProcessBackend("cp-sat", "ortools"),
}

#: Solvers that Pyomo drives and that people ask for.
_THROUGH_PYOMO = ("appsi_highs", "cbc", "cplex", "glpk", "gurobi", "mosek", "xpress")


def backends() -> dict[str, Backend]:
    """Backends by name: modelkit's own first."""
    return {**_OWN, **{name: PyomoBackend(name) for name in _THROUGH_PYOMO}}


def backend(name: str) -> Backend:
    """The backend called ``name``; any name that Pyomo's SolverFactory knows will do.

    Raises
    ------
    UsageError
        Neither modelkit nor Pyomo knows it.
    """
    known = backends()
    if name in known:
        return known[name]
    import pyomo.environ as pyo

    if name in pyo.SolverFactory:
        return PyomoBackend(name)
    raise unknown_name("solver", name, known)
