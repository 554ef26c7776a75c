"""HiGHS, as it runs in the solver process."""

from __future__ import annotations

import re
from typing import Any

import highspy
import numpy as np

from modelkit.backends.base import Conflict, Limits, finite, typed_option
from modelkit.backends.standard_form import StandardForm
from modelkit.backends.worker import Job, Report, StopFlag
from modelkit.errors import UsageError, did_you_mean

_CALLBACK = highspy.cb.HighsCallbackType
_STATUS = highspy.HighsModelStatus


def version() -> str:
    """Version of the solver."""
    return str(highspy.Highs().version())


def solve(job: Job, report: Report, stop: StopFlag) -> dict[str, Any]:
    """Solve, reporting news; returns the fields of an ``Outcome`` and the solution."""
    highspy.Highs.resetGlobalScheduler(True)  # else an earlier solve with other threads breaks this one
    solver = highspy.Highs()
    solver.setOptionValue("log_to_console", False)
    solver.setOptionValue("log_file", job.log_path)
    _set_options(solver, job.limits, job.options, job.form)
    solver.passModel(lp_model(job.form))
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
    solver.run()

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
    if integers:
        outcome["bound"] = finite(info.mip_dual_bound)
    elif status in (_STATUS.kOptimal, _STATUS.kModelEmpty):
        outcome["bound"] = finite(info.objective_function_value)
    if has_solution:
        outcome["x"] = np.array(solver.getSolution().col_value)
        outcome["objective"] = info.objective_function_value
    if job.form.start is not None:
        outcome["start_accepted"] = _start_accepted(job.log_path)
    return outcome


def conflict(job: Job) -> dict[str, Any]:
    """An irreducible infeasible subsystem of the linear relaxation; none when only integrality is in the way."""
    highspy.Highs.resetGlobalScheduler(True)
    solver = highspy.Highs()
    solver.setOptionValue("log_to_console", False)
    solver.setOptionValue("log_file", job.log_path)
    if job.limits.time_limit is not None:
        solver.setOptionValue("time_limit", float(job.limits.time_limit))
    strategy = highspy.IisStrategy
    solver.setOptionValue(
        "iis_strategy", int(strategy.kIisStrategyFromLp.value) | int(strategy.kIisStrategyIrreducible.value)
    )
    lp = lp_model(job.form)
    lp.integrality_ = []
    solver.passModel(lp)
    status, iis = solver.getIis()
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


def lp_model(form: StandardForm) -> highspy.HighsLp:
    """The model as HiGHS takes it."""
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(form.cost), len(form.row_lower)
    lp.col_cost_, lp.offset_ = form.cost, form.offset
    lp.col_lower_, lp.col_upper_ = form.lower, form.upper
    lp.row_lower_, lp.row_upper_ = form.row_lower, form.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.num_col_, lp.a_matrix_.num_row_ = lp.num_col_, lp.num_row_
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = form.indptr, form.indices, form.values
    if form.integer.any():
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[i] for i in form.integer.tolist()]
    return lp


def _pass_start(solver: highspy.Highs, start: np.ndarray[Any, Any]) -> None:
    known = np.flatnonzero(~np.isnan(start))
    solver.setSolution(len(known), known.astype(np.int32), start[known])


def _start_accepted(log_path: str) -> bool:
    """HiGHS says only in its log what it thinks of a start: three counts of infeasibilities."""
    with open(log_path, encoding="utf-8", errors="replace") as log:
        counts = re.findall(r"^(?:Col|Integer|Row) +infeasibilities +(\d+)", log.read(100_000), re.MULTILINE)
    return len(counts) >= 3 and not any(int(count) for count in counts[:3])


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
        settings[name] = typed_option("HiGHS", name, value, getattr(solver.getOptions(), name))
    for name, value in settings.items():
        if solver.setOptionValue(name, value) != highspy.HighsStatus.kOk:
            raise UsageError(f"HiGHS refuses {name}={value!r}; its documentation says what is allowed")
