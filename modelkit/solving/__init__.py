"""Solve: a formulation is built, started from a policy's schedule, solved, extracted and judged.

Whatever happens on the way, the best schedule and bound so far are in the result, and its message says
what happened.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from modelkit.arguments import checked_arguments
from modelkit.backends import Limits, backend
from modelkit.errors import InfeasibleError, NoFormulationError, UsageError, unknown_name
from modelkit.formulation.formulation import Formulation
from modelkit.instance import Instance
from modelkit.io import load
from modelkit.judge.slo import Slo, service_levels
from modelkit.policies import policies
from modelkit.problems.problem import GOODPUT, OUTSIDE_SLO, problem_of
from modelkit.result import Progress, Result
from modelkit.runtime.interrupts import interruptible
from modelkit.solving.certified import Task
from modelkit.solving.choose import check_search, choose, search_suits
from modelkit.solving.goodput import goodput
from modelkit.solving.method import NO_SOLVER
from modelkit.solving.methods import method_of
from modelkit.solving.outcome import SEARCH
from modelkit.solving.pipeline import Pipeline
from modelkit.solving.relaxation import relax as solve_relaxed

__all__ = ["TIME_LIMIT", "Progress", "choose", "solve"]

#: Default limit [s].
TIME_LIMIT = 60.0


@checked_arguments
@interruptible()
def solve(
    instance: Instance,
    formulation: str | Formulation | None = None,
    solver: str | None = None,
    *,
    time_limit: float | None = TIME_LIMIT,
    gap: float = 0.0,
    threads: int | None = None,
    seed: int = 0,
    warm_start: str = "best",
    options: dict[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    slo: Slo = None,
    objective: str | None = None,
    relax: bool = False,
    listen: Callable[[Progress], None] | None = None,
) -> Result:
    """Solve an instance with a formulation and judge the schedule.

    Parameters
    ----------
    formulation
        Name, ``.py`` file or object; None takes the first that suits the instance. An instance without
        parameters that none takes is solved by search, with a certified bound.
    solver
        ``highs``, ``scip``, ``cp-sat`` or any solver that Pyomo knows, or ``diagram``, a search of our own for the
        KV-cache problem with little memory. None: ``highs``, after ``diagram`` where that suits and no formulation
        is asked for.
    time_limit
        Seconds until the result is there: warm start, search, model, solver and judgement; None for no limit. A model
        that cannot be built within it is not begun: the result is the best schedule known, with a certified bound.
    gap
        Relative gap (value - bound) / value at which the solver may stop.
    threads
        For the solver; None leaves it to the solver.
    seed
        Of the solver's randomness.
    warm_start
        Policy whose hindsight schedule the solver starts from, ``none``, or ``best``: a local search from
        the best of them.
    options
        The solver's own options by its own names.
    parameters
        Of the formulation, by name; what is not given comes from the instance's ``extra``, then from the default.
    slo
        Service levels that the metrics are about, such as ``"ttft=450ms,tpot=40ms"``. None: the instance's own.
    objective
        ``goodput``: a schedule in which many requests keep their service levels, by search and with a certified bound;
        no formulation has it. None: that of the formulation.
    relax
        Solve the linear relaxation alone: the result has no schedule, its bound, and in ``relaxation`` the optimum, the
        duals of constraints and the reduced costs of variables. By HiGHS.
    listen
        Called with the phases, incumbents and bounds.

    Returns
    -------
    Result
        ``optimal`` only when the judge's value equals the bound. Infeasible instances, limits,
        interruption and failures are results too.

    Raises
    ------
    UsageError
        Unknown formulation, parameter, solver, policy, objective or option, an argument of another kind than these, or
        an instance outside the formulation.
    InputError
        A parameter's value is not allowed.
    FormulationError
        The formulation is broken.
    SolverError
        The solver is missing or refuses the model.
    """
    began = time.perf_counter()
    instance = load(instance)
    levels = service_levels(slo, instance)
    if warm_start not in (starts := ("best", "none", *policies())):
        raise unknown_name("warm start", warm_start, starts)
    if objective is not None:
        asked = {"formulation": formulation, "solver": solver, "parameters": parameters, "options": options,
                 "relax": relax or None, "threads": threads}  # fmt: skip
        _check_objective(objective, [name for name, value in asked.items() if value])
        told = listen or (lambda progress: None)
        return _most_in_time(Task(instance, OUTSIDE_SLO, time_limit, gap, seed, told, began, levels))
    if relax:
        limits, told = Limits(time_limit, gap, threads, seed), listen or (lambda progress: None)
        return solve_relaxed(instance, formulation, solver, limits, dict(options or {}), parameters, told)
    engine = backend("highs" if solver in (None, SEARCH) else str(solver))
    try:
        chosen, parametrised = choose(instance, formulation, parameters)
    except NoFormulationError as refused:
        task = Task(
            instance, problem_of(instance).objective, time_limit, gap, seed, listen or (lambda progress: None), began
        )
        return _without_formulation(task, str(refused)).under(levels, instance)
    if solver == SEARCH:
        check_search(instance, chosen, options)
    nothing_asked = (solver, formulation, options or None) == (None, None, None) and warm_start != "none"
    run = Pipeline(
        instance,
        parametrised,
        chosen,
        engine,
        Limits(time_limit, gap, threads, seed),
        dict(options or {}),
        warm_start,
        listen or (lambda progress: None),
        searches=solver == SEARCH or (nothing_asked and search_suits(instance, chosen)),
        solver=solver,
        began=began,
    )
    try:
        instance.check_fits()
    except InfeasibleError as error:
        return run.result("infeasible", "finished", message=str(error))
    return run.go().under(levels, instance)


def _without_formulation(task: Task, reason: str) -> Result:
    """What a search and a certified bound say of an instance that no formulation takes."""
    try:
        task.instance.check_fits()
    except InfeasibleError as error:
        return task.infeasible(str(error))
    known = method_of(problem_of(task.instance)).bound(task).result
    return known.model_copy(update={"message": known.message or f"{reason.splitlines()[0]}; {NO_SOLVER}"})


def _check_objective(objective: str, asked: list[str]) -> None:
    """Refuse objectives that formulations have, and what a search has no use for."""
    if objective not in GOODPUT:
        raise UsageError(
            f"solve takes the objective 'goodput', found {objective!r}; others are those of formulations, as of"
            " serving-makespan"
        )
    if asked:
        raise UsageError(f"goodput is searched for without a formulation: {', '.join(asked)} cannot be given beside it")


def _most_in_time(task: Task) -> Result:
    """What the search for requests in time has found."""
    try:
        task.instance.check_fits()
    except InfeasibleError as error:
        return task.infeasible(str(error))
    return goodput(task).result
