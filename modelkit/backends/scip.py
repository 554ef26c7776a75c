"""SCIP, as it runs in the solver process."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from pyscipopt import SCIP_EVENTTYPE, SCIP_RESULT, SCIP_STAGE, Model, Sepa
from pyscipopt.scip import Expr, ExprCons, Term

from modelkit.backends.base import Conflict, Limits, finite, read_option
from modelkit.backends.standard_form import StandardForm
from modelkit.backends.worker import Job, PackedSeparator, Report, StopFlag, interrupted_by
from modelkit.errors import UsageError, did_you_mean


def version() -> str:
    """Version of the solver."""
    model = Model()
    return f"{model.getMajorVersion()}.{model.getMinorVersion()}.{model.getTechVersion()}"


def solve(job: Job, report: Report, stop: StopFlag) -> dict[str, Any]:
    """Solve, reporting progress; returns the fields of an ``Outcome`` and the solution."""
    model = Model()
    model.hideOutput()
    model.setLogfile(job.log_path)
    _set_options(model, job.limits, job.options, job.form)
    variables = _fill(model, job.form)

    def values(solution: Any) -> np.ndarray[Any, Any]:
        return np.array([model.getSolVal(solution, var) for var in variables])

    told = False

    def on_event(_: Any, event: Any) -> None:
        nonlocal told
        bound = finite(model.getDualbound())
        # a start is the best solution from the beginning, and no event tells it
        if event.getType() == SCIP_EVENTTYPE.BESTSOLFOUND or (not told and model.getNSols() > 0):
            best, told = model.getBestSol(), True
            report.solution(values(best), model.getSolObjVal(best), bound)
        else:
            report.bound(bound)

    model.attachEventHandlerCallback(on_event, [SCIP_EVENTTYPE.BESTSOLFOUND, SCIP_EVENTTYPE.DUALBOUNDIMPROVED])
    if job.form.start is not None:
        _pass_start(model, variables, job.form.start)
    cuts = _Cuts.include(model, variables, job.separation) if job.separation is not None else None
    if not stop.is_set():
        with interrupted_by(stop, model.interruptSolve):
            model.optimizeNogil()

    if cuts is not None and cuts.error is not None:
        raise cuts.error
    status = model.getStatus()
    outcome: dict[str, Any] = {"found": "nothing", "stop": "finished", "message": ""}
    outcome["cuts"] = cuts.many if cuts is not None else None
    if model.getNSols() > 0:
        best = model.getBestSol()
        outcome.update(found="solution", x=values(best), objective=model.getSolObjVal(best))
    if status == "infeasible":
        outcome["found"] = "infeasible"
    elif status in ("unbounded", "inforunbd"):
        outcome.update(found="unbounded", message="the model is unbounded or infeasible")
    elif status == "timelimit":
        outcome["stop"] = "time_limit"
    elif status == "userinterrupt" or (status == "unknown" and stop.is_set()):
        outcome["stop"] = "interrupted"
    elif status not in ("optimal", "gaplimit", "nodelimit", "totalnodelimit", "stallnodelimit", "sollimit",
                        "bestsollimit", "primallimit", "duallimit"):  # fmt: skip
        outcome.update(stop="failed", message=f"SCIP ended with the status {status!r}")
    if outcome["found"] in ("solution", "nothing") and model.getStage() >= SCIP_STAGE.TRANSFORMED:  # else SCIP aborts
        outcome["bound"] = finite(model.getDualbound())
    return outcome


class _Cuts(Sepa):  # type: ignore[misc]
    """Asks a formulation's separator at every node; what it finds holds everywhere, not only below the node."""

    def __init__(self, variables: list[Any], find: Any) -> None:
        self.variables, self.find = variables, find
        self.many = 0
        self.error: Exception | None = None

    @classmethod
    def include(cls, model: Model, variables: list[Any], separation: PackedSeparator) -> _Cuts:
        """One that a model has."""
        cuts = cls([variables[c] for c in separation.columns.tolist()], pickle.loads(separation.find))
        model.includeSepa(cuts, "formulation", "rows of the formulation", priority=1000, freq=1)
        return cuts

    def sepaexeclp(self) -> dict[str, Any]:
        """Add what the LP solution violates."""
        try:
            return {"result": self.added()}
        except Exception as error:  # SCIP would print it and go on
            self.error = error
            self.model.interruptSolve()
            return {"result": SCIP_RESULT.DIDNOTRUN}

    def added(self) -> Any:
        model = self.model
        result = SCIP_RESULT.DIDNOTFIND
        for positions, coefficients, right in self.find(np.array([var.getLPSol() for var in self.variables])):
            row = model.createEmptyRowSepa(self, f"c{self.many}", lhs=None, rhs=float(right), local=False)
            model.cacheRowExtensions(row)
            for position, coefficient in zip(positions.tolist(), coefficients.tolist(), strict=True):
                model.addVarToRow(row, self.variables[position], coefficient)
            model.flushRowExtensions(row)
            infeasible = model.addCut(row)
            model.releaseRow(row)
            self.many += 1
            if infeasible:
                return SCIP_RESULT.CUTOFF
            result = SCIP_RESULT.SEPARATED
        return result


def conflict(job: Job) -> dict[str, Any]:
    """An irreducible infeasible subsystem, integrality included; SCIP keeps all bounds in it."""
    model = Model()
    model.hideOutput()
    model.setLogfile(job.log_path)
    if job.limits.time_limit is not None:
        model.setParam("limits/time", float(job.limits.time_limit))
        model.setParam("iis/time", float(job.limits.time_limit))
    _fill(model, job.form)
    outcome: dict[str, Any] = {"found": "nothing", "stop": "finished", "message": ""}
    iis = model.generateIIS()
    if iis.isSubscipInfeasible():
        rows = sorted(int(row.name.removeprefix("r")) for row in iis.getSubscip().getConss())
        outcome.update(found="infeasible", conflict=Conflict(tuple(rows), (), (), bool(iis.isSubscipIrreducible())))
    return outcome


def _fill(model: Model, form: StandardForm) -> list[Any]:
    """Variables and rows. Rows go over as dictionaries of terms: 0.6 s for a million non-zeros."""
    variables = []
    kinds = np.where(form.integer, np.where((form.lower == 0) & (form.upper == 1), "B", "I"), "C")
    for kind, lower, upper, cost in zip(
        kinds.tolist(), form.lower.tolist(), form.upper.tolist(), form.cost.tolist(), strict=True
    ):
        low = None if lower == -np.inf else lower
        up = None if upper == np.inf else upper
        variables.append(model.addVar(vtype=kind, lb=low, ub=up, obj=cost))
    model.addObjoffset(form.offset)
    terms = [Term(var) for var in variables]
    indices, values = form.indices.tolist(), form.values.tolist()
    for i, (begin, end, lower, upper) in enumerate(
        zip(form.indptr[:-1].tolist(), form.indptr[1:].tolist(), form.row_lower.tolist(), form.row_upper.tolist(),
            strict=True)
    ):  # fmt: skip
        row = Expr({terms[j]: value for j, value in zip(indices[begin:end], values[begin:end], strict=True)})
        low = None if lower == -np.inf else lower
        up = None if upper == np.inf else upper
        model.addCons(ExprCons(row, lhs=low, rhs=up), name=f"r{i}")
    return variables


def _pass_start(model: Model, variables: list[Any], start: np.ndarray[Any, Any]) -> None:
    known = ~np.isnan(start)
    solution = model.createSol() if known.all() else model.createPartialSol()
    for var, value, given in zip(variables, start.tolist(), known.tolist(), strict=True):
        if given:
            model.setSolVal(solution, var, value)
    if known.all() and not model.checkSol(solution, original=True):
        return  # SCIP would drop it, too, and say so on every node
    model.addSol(solution)


def _set_options(model: Model, limits: Limits, options: dict[str, Any], form: StandardForm) -> None:
    settings: dict[str, Any] = {"limits/gap": limits.gap, "randomization/randomseedshift": limits.seed % 2**31}
    if form.objective_is_integral():
        settings["limits/absgap"] = 0.999
    if form.tolerance is not None:
        settings["numerics/feastol"] = form.tolerance
    if limits.time_limit is not None:
        settings["limits/time"] = float(limits.time_limit)
    if limits.threads is not None:
        settings["lp/threads"] = min(limits.threads, 64)
    known = model.getParams()
    for name, value in options.items():
        if name not in known:
            raise UsageError(f"SCIP has no option {name!r}{did_you_mean(name, known)}")
        settings[name] = read_option("SCIP", name, value, known[name])
    for name, value in settings.items():
        try:
            model.setParam(name, value)
        except Exception as error:
            raise UsageError(f"SCIP rejects {name}={value!r}: {error}") from None
