"""Solvers. One line in the registry for each that modelkit drives itself; all others through Pyomo."""

from __future__ import annotations

from modelkit.backends.base import Backend, Limits, Outcome, SolverProgress
from modelkit.backends.process import ProcessBackend
from modelkit.backends.pyomo_solver import PyomoBackend
from modelkit.registry import Registry

__all__ = ["Backend", "Limits", "Outcome", "SolverProgress", "backend", "backends"]

#: Solvers that Pyomo drives and that people ask for.
_THROUGH_PYOMO = ("appsi_highs", "cbc", "cplex", "glpk", "gurobi", "mosek", "xpress")

REGISTRY: Registry[Backend] = Registry(
    "solver",
    {
        "highs": ProcessBackend("highs", "highspy"),
        "scip": ProcessBackend("scip", "pyscipopt", separates=True),
        "cp-sat": ProcessBackend("cp-sat", "ortools"),
        **{name: PyomoBackend(name) for name in _THROUGH_PYOMO},
    },
)


def backends() -> dict[str, Backend]:
    """Backends by name: modelkit's own first."""
    return REGISTRY.entries()


def backend(name: str) -> Backend:
    """The backend called ``name``; any name that Pyomo's SolverFactory knows will do.

    Raises
    ------
    UsageError
        Neither modelkit nor Pyomo knows it.
    """
    if name not in REGISTRY:
        import pyomo.environ as pyo

        if name in pyo.SolverFactory:
            return PyomoBackend(name)
    return REGISTRY[name]
