"""CP-SAT, as it runs in the solver process. It takes models with whole numbers only.

OR-Tools and HiGHS cannot be loaded into one process: this one is CP-SAT's own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import ortools
from ortools.sat.python import cp_model

from modelkit.backends.base import Limits, read_option
from modelkit.backends.standard_form import StandardForm
from modelkit.backends.worker import Job, Report, StopFlag, interrupted_by
from modelkit.errors import ModelRefusedError, UsageError, did_you_mean

#: Bounds of variables that have none of their own; sums of some thousand of them stay within 64 bits.
FAR = 1 << 40
#: Factors by which a row with fractions is tried to be made whole.
FACTORS = (1, 2, 4, 5, 10, 20, 50, 100, 1000, 10_000)


def version() -> str:
    """Version of the solver."""
    return str(ortools.__version__)


def solve(job: Job, report: Report, stop: StopFlag) -> dict[str, Any]:
    """Solve, reporting progress; returns the fields of an ``Outcome`` and the solution."""
    form = job.form
    whole, factor = _model(form)
    solver = cp_model.CpSolver()
    _set_options(solver, job.limits, job.options)
    variables = [whole.get_int_var_from_proto_index(c) for c in range(len(form.cost))]

    class Listener(cp_model.CpSolverSolutionCallback):  # type: ignore[misc]
        def on_solution_callback(self) -> None:
            x = np.array([self.value(v) for v in variables], dtype=np.float64)
            bound = self.best_objective_bound / factor + form.offset
            report.solution(x, self.objective_value / factor + form.offset, bound)

    listener = Listener()
    solver.best_bound_callback = lambda bound: report.bound(bound / factor + form.offset)
    with open(job.log_path, "w", encoding="utf-8") as log:
        solver.log_callback = lambda text: print(text, file=log)
        solver.parameters.log_search_progress = True
        solver.parameters.log_to_stdout = False
        try:
            with interrupted_by(stop, solver.stop_search):
                status = solver.solve(whole, listener)
        finally:
            solver.log_callback = None
    outcome: dict[str, Any] = {"found": "nothing", "stop": "finished", "message": ""}
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        outcome["x"] = np.array([solver.value(v) for v in variables], dtype=np.float64)
        outcome.update(found="solution", objective=solver.objective_value / factor + form.offset)
    if status == cp_model.INFEASIBLE:
        outcome["found"] = "infeasible"
    elif status == cp_model.MODEL_INVALID:
        outcome.update(stop="failed", message=f"CP-SAT rejects the model: {whole.validate()}")
    elif status != cp_model.OPTIMAL:
        within = outcome["found"] == "solution" and job.limits.gap > 0 and _gap(solver) <= job.limits.gap
        outcome["stop"] = "interrupted" if stop.is_set() else "finished" if within else "time_limit"
    if outcome["found"] in ("solution", "nothing") and status != cp_model.MODEL_INVALID:
        bound = solver.best_objective_bound / factor + form.offset
        outcome["bound"] = bound if status != cp_model.UNKNOWN or bound else None
        if "x" in outcome and _is_far(form, outcome["x"]):
            return {"found": "unbounded", "stop": "finished", "message": "the model is unbounded", "bound": None}
    return outcome


def _is_far(form: StandardForm, x: np.ndarray[Any, Any]) -> bool:
    """Whether a variable without bound of its own is at the one it was given."""
    return bool(((np.abs(x) >= FAR) & np.isinf(np.where(x > 0, form.upper, form.lower))).any())


def _gap(solver: cp_model.CpSolver) -> float:
    value = float(solver.objective_value)
    return abs(value - float(solver.best_objective_bound)) / max(1e-9, abs(value))


def _model(form: StandardForm) -> tuple[cp_model.CpModel, int]:
    """The model in whole numbers, and the factor of its objective."""
    # continuous variables that whole ones determine, such as memory held, are whole in some optimal solution only if
    # all rows are; where a row is fractional nothing is claimed
    if not form.integer.all() and not _is_determined(form):
        raise ModelRefusedError("CP-SAT takes whole numbers only; the model has continuous variables")
    model = cp_model.CpModel()
    for low, up in zip(form.lower.tolist(), form.upper.tolist(), strict=True):
        model.new_int_var(
            -FAR if low == -math.inf else math.ceil(low - 1e-9), FAR if up == math.inf else math.floor(up + 1e-9), ""
        )
    variables = [model.get_int_var_from_proto_index(c) for c in range(len(form.cost))]
    for r, (begin, end) in enumerate(zip(form.indptr[:-1].tolist(), form.indptr[1:].tolist(), strict=True)):
        values = form.values[begin:end]
        factor = _factor(values, f"row {r}")
        row = cp_model.LinearExpr.weighted_sum(
            [variables[c] for c in form.indices[begin:end].tolist()], np.rint(values * factor).astype(int).tolist()
        )
        low, up = form.row_lower[r] * factor, form.row_upper[r] * factor
        model.add_linear_constraint(
            row,
            -(1 << 62) if low == -math.inf else math.ceil(low - 1e-6),
            (1 << 62) if up == math.inf else math.floor(up + 1e-6),
        )
    factor = _factor(form.cost, "objective")
    model.minimize(cp_model.LinearExpr.weighted_sum(variables, np.rint(form.cost * factor).astype(int).tolist()))
    if form.start is not None and form.value_faults(form.start) is None:
        for var, value in zip(variables, form.start.tolist(), strict=True):
            if not math.isnan(value):
                model.add_hint(var, round(value))
    return model, factor


def _is_determined(form: StandardForm) -> bool:
    """Whether the continuous variables can be taken as whole: equations with whole numbers, one after another.

    True when every continuous variable is, in some equation, alone among those not known to be whole, with the
    factor 1 or -1, and all else there is whole; so it is for kv-hindsight-flow's running and held.
    """
    known = form.integer.copy()
    rows = [
        (form.indices[b:e], form.values[b:e])
        for b, e, low, up in zip(form.indptr[:-1], form.indptr[1:], form.row_lower, form.row_upper, strict=True)
        if low == up and float(low).is_integer() and (form.values[b:e] == np.rint(form.values[b:e])).all()
    ]
    progress = True
    while progress and not known.all():
        progress = False
        left = []
        for columns, values in rows:
            open_ = np.flatnonzero(~known[columns])
            if len(open_) == 1 and abs(values[open_[0]]) == 1:
                known[columns[open_[0]]] = progress = True
            elif len(open_):
                left.append((columns, values))
        rows = left
    return bool(known.all())


def _factor(values: np.ndarray[Any, Any], where: str) -> int:
    for factor in FACTORS:
        if np.allclose(values * factor, np.rint(values * factor), rtol=0, atol=1e-9 * factor):
            return factor
    raise ModelRefusedError(f"CP-SAT takes whole numbers only; the {where} has fractions")


def _set_options(solver: cp_model.CpSolver, limits: Limits, options: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"relative_gap_limit": limits.gap, "random_seed": limits.seed % 2**31}
    if limits.time_limit is not None:
        settings["max_time_in_seconds"] = float(limits.time_limit)
    if limits.threads is not None:
        settings["num_workers"] = limits.threads
    known = [name for name in dir(solver.parameters) if not name.startswith("_") and name.islower()]
    for name, value in options.items():
        if name not in known:
            raise UsageError(f"CP-SAT has no option {name!r}{did_you_mean(name, known)}")
        settings[name] = read_option("CP-SAT", name, value, getattr(solver.parameters, name))
    for name, value in settings.items():
        try:
            setattr(solver.parameters, name, value)
        except (TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"CP-SAT rejects {name}={value!r}: {error}") from None
