"""Any other solver that Pyomo knows, through Pyomo's own interface."""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from modelkit.backends.base import Limits, Listener, Outcome, SolverProgress, finite
from modelkit.backends.separator import Separator
from modelkit.backends.standard_form import CompiledModel, compile_model, pyomo_model
from modelkit.backends.watch import Incumbents
from modelkit.errors import SolverError
from modelkit.runtime.scratch import scratch_folder
from modelkit.runtime.threads import PYOMO, pyomo_silent


class PyomoBackend:
    """A solver by the name that ``pyomo.environ.SolverFactory`` has for it."""

    separates = False

    def __init__(self, name: str) -> None:
        self.name = name

    def availability(self) -> tuple[bool, str]:
        """Whether it solves a model of two variables; asking Pyomo is not enough."""
        import pyomo.environ as pyo

        model = pyo.ConcreteModel()
        model.x = pyo.Var([0, 1], domain=pyo.Binary)
        model.cost = pyo.Objective(expr=2 * model.x[0] + 3 * model.x[1])
        model.one = pyo.Constraint(expr=model.x[0] + model.x[1] >= 1)
        try:
            outcome = self.solve(model, Limits(time_limit=10), {})
        except SolverError as error:
            why = str(error).partition("\n")[0]
            return False, why.partition(": ")[2] or why
        if outcome.found != "solution" or round(model.x[0].value or 0) != 1:
            return False, outcome.message or "does not solve a model of two variables"
        return True, "through Pyomo"

    def solve(
        self,
        model: Any,
        limits: Limits,
        options: dict[str, Any],
        *,
        use_start: bool = False,
        listen: Listener | None = None,
        separator: Separator | None = None,
    ) -> Outcome:
        """See `Backend.solve`. Progress is heard only at the end."""
        if isinstance(model, CompiledModel):
            return self._solve_arrays(model, limits, options, use_start, listen)
        with PYOMO:
            return self._solve(model, limits, options, use_start, listen)

    def _solve(
        self, model: Any, limits: Limits, options: dict[str, Any], use_start: bool, listen: Listener | None
    ) -> Outcome:
        import pyomo.environ as pyo
        from pyomo.common.errors import ApplicationError

        form, columns = compile_model(model)
        solver = self._solver()
        began = time.monotonic()
        with scratch_folder() as folder:
            log_path = str(folder / "solver.log")
            extra = self._arguments(solver, limits, use_start, log_path)
            try:
                with pyomo_silent():
                    results = solver.solve(model, load_solutions=False, options=options, **extra)
            except KeyboardInterrupt:
                return Outcome("interrupted", "nothing", message=f"{self.name} was interrupted", size=form.size)
            except (ApplicationError, ValueError, RuntimeError, AttributeError, TypeError, KeyError) as error:
                raise SolverError(f"solver {self.name!r} failed: {_first_line(error)}") from error
            log = Path(log_path).read_text(errors="replace") if os.path.exists(log_path) else ""
        with pyomo_silent():
            loaded = self._load(solver, model, results)
        conditions = pyo.TerminationCondition
        condition = results.solver.termination_condition
        outcome = Outcome("finished", "solution" if loaded else "nothing", log=log, size=form.size)
        if condition in (conditions.infeasible, conditions.infeasibleOrUnbounded):
            outcome.found = "infeasible" if condition == conditions.infeasible else "unbounded"
        elif condition == conditions.unbounded:
            outcome.found = "unbounded"
        elif condition == conditions.maxTimeLimit:
            outcome.stop = "time_limit"
        elif condition not in (conditions.optimal, conditions.feasible, conditions.globallyOptimal):
            outcome.stop = "failed"
            outcome.message = f"{self.name} ended with the condition {str(condition)!r}"
        bound = getattr(results.problem, "lower_bound", None)
        outcome.bound = form.tighten(finite(None if bound is None else float(bound)))
        if outcome.found not in ("solution", "nothing"):
            outcome.bound = None
        outcome.version = _version(solver)
        incumbents = Incumbents(self.name, form)
        if outcome.found == "solution":
            incumbents.add(np.array([math.nan if var.value is None else var.value for var in columns]), None)
            outcome.found = "nothing" if incumbents.x is None else "solution"
        outcome.progress = [SolverProgress(time.monotonic() - began, incumbents.value, outcome.bound)]
        incumbents.check(outcome)
        if listen is not None:
            listen(outcome.progress[-1])
        return outcome

    def _solve_arrays(
        self, model: CompiledModel, limits: Limits, options: dict[str, Any], use_start: bool, listen: Listener | None
    ) -> Outcome:
        """Solve a model whose variables are elsewhere by a model of its arrays."""
        twin = pyomo_model(compile_model(model, use_start=use_start)[0])
        outcome = self.solve(twin, limits, options, use_start=use_start, listen=listen)
        outcome.size = model.form.size
        if outcome.found == "solution":
            values = [var.value for var in twin.x.values()]
            model.x = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        return outcome

    def _solver(self) -> Any:
        import pyomo.environ as pyo

        try:
            with pyomo_silent():
                solver = pyo.SolverFactory(self.name)
                available = bool(solver.available(exception_flag=False))
        except Exception as error:  # Pyomo lets each solver raise what it likes here
            raise SolverError(f"solver {self.name!r} is not available: {_first_line(error)}") from error
        if not available:
            raise SolverError(
                f"solver {self.name!r} is not available: Pyomo finds no such solver on this machine"
                "\n  modelkit list solvers shows what there is"
            )
        return solver

    def _arguments(self, solver: Any, limits: Limits, use_start: bool, log_path: str) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        if limits.time_limit is not None:
            arguments["timelimit"] = math.ceil(limits.time_limit)  # some take whole seconds only
        if use_start and getattr(solver, "warm_start_capable", lambda: False)():
            arguments["warmstart"] = True
        if not self.name.startswith("appsi_"):
            arguments["logfile"] = log_path
        return arguments

    def _load(self, solver: Any, model: Any, results: Any) -> bool:
        """Load the best solution, if there is one."""
        if hasattr(solver, "load_vars"):  # the newer interfaces keep it in the solver
            with contextlib.suppress(Exception):
                solver.load_vars()
                return True
            return False
        if len(results.solution) == 0:
            return False
        model.solutions.load_from(results)
        return True


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _version(solver: Any) -> str | None:
    with contextlib.suppress(Exception):
        return ".".join(str(part) for part in solver.version() if part is not None)
    return None
