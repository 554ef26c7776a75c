"""HiGHS, as it runs in the solver process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import highspy
import numpy as np

from modelkit.backends.base import Conflict, Limits, finite, read_option
from modelkit.backends.engine import apart, new_highs, version
from modelkit.backends.standard_form import StandardForm
from modelkit.backends.worker import Job, Report, StopFlag
from modelkit.errors import UsageError, did_you_mean

__all__ = ["conflict", "solve", "version"]

_CALLBACK = highspy.cb.HighsCallbackType
_STATUS = highspy.HighsModelStatus


def solve(job: Job, report: Report, stop: StopFlag) -> dict[str, Any]:
    """Solve, reporting progress; returns the fields of an ``Outcome`` and the solution."""
    solver = new_highs(job.form, log_path=job.log_path)
    _set_options(solver, job.limits, job.options, job.form)
    integers = bool(job.form.integer.any())
    if job.form.start is not None:
        _pass_start(solver, job.form.start)

    def on_event(kind: Any, message: str, out: Any, into: Any, _: Any) -> None:
        if kind == _CALLBACK.kCallbackMipImprovingSolution:
            report.solution(np.array(out.mip_solution), out.objective_function_value, finite(out.mip_dual_bound))
        elif kind == _CALLBACK.kCallbackMipLogging:
            report.bound(finite(out.mip_dual_bound))
        else:
            into.user_interrupt = stop.is_set()

    solver.setCallback(on_event, None)
    wanted = (
        [_CALLBACK.kCallbackMipImprovingSolution, _CALLBACK.kCallbackMipLogging, _CALLBACK.kCallbackMipInterrupt]
        if integers
        else [_CALLBACK.kCallbackSimplexInterrupt, _CALLBACK.kCallbackIpmInterrupt]
    )
    for kind in wanted:
        solver.startCallback(kind)
    ran = apart(solver.run)

    status = solver.getModelStatus()
    info = solver.getInfo()
    has_solution = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    outcome: dict[str, Any] = {"found": "solution" if has_solution else "nothing", "stop": "finished", "message": ""}
    if status == _STATUS.kInfeasible:
        outcome["found"] = "infeasible"
    elif status in (_STATUS.kUnbounded, _STATUS.kUnboundedOrInfeasible):
        outcome["found"] = "unbounded"
        outcome["message"] = "the model is unbounded or infeasible"
    elif status == _STATUS.kInterrupt:
        outcome["stop"] = "interrupted"
    elif status == _STATUS.kTimeLimit:
        outcome["stop"] = "time_limit"
    elif status not in (_STATUS.kOptimal, _STATUS.kSolutionLimit, _STATUS.kObjectiveBound, _STATUS.kModelEmpty):
        outcome["stop"] = "failed"
        outcome["message"] = f"HiGHS ended with the status {solver.modelStatusToString(status)!r}"
    if ran == highspy.HighsStatus.kError and outcome["stop"] == "finished":
        outcome.update(stop="failed", found="nothing", message="HiGHS ended with an error")
        return outcome
    if integers:
        outcome["bound"] = finite(info.mip_dual_bound)
    elif status in (_STATUS.kOptimal, _STATUS.kModelEmpty):
        outcome["bound"] = finite(job.form.objective(np.array(solver.getSolution().col_value)))
        outcome["duals"] = np.array(solver.getSolution().row_dual), np.array(solver.getSolution().col_dual)
    if has_solution:
        outcome["x"] = np.array(solver.getSolution().col_value)
        outcome["objective"] = info.objective_function_value
    return outcome


def conflict(job: Job) -> dict[str, Any]:
    """An irreducible infeasible subsystem of the linear relaxation; none when only integrality is in the way."""
    strategy = highspy.IisStrategy
    limit = {} if job.limits.time_limit is None else {"time_limit": float(job.limits.time_limit)}
    relaxed = replace(job.form, integer=np.zeros_like(job.form.integer))
    solver = new_highs(
        relaxed,
        log_path=job.log_path,
        iis_strategy=int(strategy.kIisStrategyFromLp.value) | int(strategy.kIisStrategyIrreducible.value),
        **limit,
    )
    status, iis = apart(solver.getIis)
    outcome: dict[str, Any] = {"found": "nothing", "stop": "finished", "message": ""}
    if status == highspy.HighsStatus.kOk and iis.valid_ and len(iis.row_index_):
        bound = highspy.IisBoundStatus
        sides = {
            side: tuple(
                int(j)
                for j, kind in zip(iis.col_index_, iis.col_bound_, strict=True)
                if int(kind) in (int(only), int(bound.kIisBoundStatusBoxed))
            )
            for side, only in (("lower", bound.kIisBoundStatusLower), ("upper", bound.kIisBoundStatusUpper))
        }
        outcome["found"] = "infeasible"
        outcome["conflict"] = Conflict(tuple(int(i) for i in iis.row_index_), **sides, irreducible=True)
    return outcome


def _pass_start(solver: highspy.Highs, start: np.ndarray[Any, Any]) -> None:
    known = np.flatnonzero(~np.isnan(start))
    solver.setSolution(len(known), known.astype(np.int32), start[known])


def _set_options(solver: highspy.Highs, limits: Limits, options: dict[str, Any], form: StandardForm) -> None:
    settings: dict[str, Any] = {"mip_rel_gap": limits.gap, "random_seed": limits.seed % 2**31}
    if form.objective_is_integral():
        settings["mip_abs_gap"] = 0.999
    if form.tolerance is not None:
        settings |= dict.fromkeys(("mip_feasibility_tolerance", "primal_feasibility_tolerance"), form.tolerance)
    if limits.time_limit is not None:
        settings["time_limit"] = float(limits.time_limit)
    if limits.threads is not None:
        settings["threads"] = limits.threads
    known = [name for name in dir(solver.getOptions()) if not name.startswith("_")]
    for name, value in options.items():
        if name not in known:
            raise UsageError(f"HiGHS has no option {name!r}{did_you_mean(name, known)}")
        settings[name] = read_option("HiGHS", name, value, getattr(solver.getOptions(), name))
    for name, value in settings.items():
        if solver.setOptionValue(name, value) != highspy.HighsStatus.kOk:
            raise UsageError(f"HiGHS rejects {name}={value!r}; its documentation says what is allowed")
