"""The linear relaxation of a formulation's model: its optimum, duals and reduced costs, and what they prove."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from modelkit.backends import Limits, Outcome, backend
from modelkit.backends.process import ProcessBackend
from modelkit.backends.standard_form import Column, NamedRow, StandardForm, compile_named, describe
from modelkit.certificate import Certificate
from modelkit.errors import InfeasibleError, ModelkitError, UsageError, shown
from modelkit.formulation.formulation import Formulation
from modelkit.instance import Instance, InstanceStamp
from modelkit.problems.problem import KV, problem_of
from modelkit.result import ModelSize, Objective, Producer, Progress, Relaxation, Result, Seconds
from modelkit.runtime.resources import VERSION
from modelkit.solving.choose import choose
from modelkit.solving.known import Known, known_of
from modelkit.verify.exact_bounds import certify

#: The solver of relaxations.
SOLVER = "highs"
#: Duals and reduced costs that a result holds; of more only those of rows are kept.
MOST_ENTRIES = 200_000
#: What is nearer to 0 is 0, and what an LP's optimum may be off by, relatively.
TOLERANCE = 1e-9
#: By so much, relatively, a certificate may stay behind the optimum that it is from and still stand for it.
ROUNDING = 1e-6


def relax(
    instance: Instance,
    formulation: str | Formulation | None,
    solver: str | None,
    limits: Limits,
    options: dict[str, Any],
    parameters: Mapping[str, Any] | None,
    listen: Callable[[Progress], None],
) -> Result:
    """The optimum of the linear relaxation as a bound; the arguments are those of `modelkit.solve`."""
    if solver not in (None, SOLVER):
        raise UsageError(f"relaxations are solved by {SOLVER!r}; found solver {shown(solver)}")
    began = time.perf_counter()
    chosen, parametrised = choose(instance, formulation, parameters)
    producer = Producer(
        kind="formulation", name=chosen.name, solver=SOLVER,
        options={"relax": True, "time_limit": limits.time_limit, **options}, seed=limits.seed, problem=chosen.problem,
        modelkit=VERSION, parameters={p.name: parametrised.extra[p.name] for p in chosen.parameters},
    )  # fmt: skip
    objective = Objective(name=chosen.metric(instance), unit=chosen.unit)
    result = Result(instance=InstanceStamp.of(instance), producer=producer, status="no_schedule", stop="finished",
                    objective=objective)  # fmt: skip
    try:
        instance.check_fits()
    except InfeasibleError as error:
        return result.model_copy(update={"status": "infeasible", "message": str(error)})
    listen(Progress("building the model", time.perf_counter() - began))
    within = math.inf if limits.time_limit is None else limits.time_limit
    form, columns, rows = chosen.apply(named_arrays, parametrised, known_of(chosen, parametrised), within=within)
    built = time.perf_counter()
    listen(Progress("solving the relaxation", built - began))
    engine = backend(SOLVER)
    assert isinstance(engine, ProcessBackend)
    left = None if limits.time_limit is None else max(0.0, limits.time_limit - (built - began))
    relaxed = replace(form, integer=np.zeros_like(form.integer), start=None)
    outcome, _ = engine.solve_form(relaxed, replace(limits, time_limit=left), options)
    seconds = Seconds(build=built - began, solve=time.perf_counter() - built)
    result = result.model_copy(update=_said(outcome, producer, form, seconds, began))
    if outcome.duals is None or outcome.bound is None:
        return result
    found, message = _relaxation(outcome, columns, rows)
    result = result.model_copy(update={"relaxation": found, "message": message})
    if chosen.claim == "heuristic":
        return result
    bound, by = form.tighten(outcome.bound), "solver"
    certificate = _certificate(instance, chosen, form, columns, rows, outcome)
    if certificate is not None and bound is not None and certificate.value >= bound * (1 - ROUNDING):
        bound, by = certificate.value, "certificate"
    else:
        certificate = None
    objective = objective.model_copy(update={"bound": bound, "bound_by": by})
    return result.model_copy(update={"objective": objective, "certificate": certificate})


def named_arrays(
    formulation: Formulation, parametrised: Instance, known: Known
) -> tuple[StandardForm, list[Column], list[NamedRow]]:
    """The arrays of a model, and the names of what is in them."""
    model = formulation.instantiate(
        parametrised, known
    )  # kept: its rows and columns know their names only while it lives
    form, columns, rows = compile_named(model)
    return form, *describe(columns, rows)


def _said(outcome: Outcome, producer: Producer, form: StandardForm, seconds: Seconds, began: float) -> dict[str, Any]:
    """What a result says of how the solver ended."""
    size = form.size
    unbounded = outcome.found == "unbounded"
    words = "the relaxation is unbounded: nothing keeps the objective from falling" if unbounded else ""
    return {
        "producer": producer.model_copy(update={"solver_version": outcome.version}),
        "status": "infeasible" if outcome.found == "infeasible" else "no_schedule",
        "stop": "failed" if unbounded else outcome.stop,
        "message": words or outcome.message,
        "model": ModelSize(variables=size.variables, integers=size.integers, constraints=size.constraints,
                           nonzeros=size.nonzeros),
        "seconds": seconds.model_copy(update={"total": time.perf_counter() - began}),
        "log": outcome.log,
    }  # fmt: skip


def _relaxation(outcome: Outcome, columns: list[Column], rows: list[NamedRow]) -> tuple[Relaxation, str]:
    """Optimum, duals and reduced costs by component and index, without those that are 0."""
    assert outcome.duals is not None
    assert outcome.bound is not None
    duals = _by_component(((row.name, row.family) for row in rows), outcome.duals[0])
    costs = _by_component(((c.name, c.name.partition("[")[0]) for c in columns), outcome.duals[1])
    many = sum(map(len, duals.values())) + sum(map(len, costs.values()))
    message = f"{many:,} duals and reduced costs; those of variables are left out" if many > MOST_ENTRIES else ""
    found = Relaxation(value=outcome.bound, duals=duals, reduced_costs={} if message else costs)
    return found, message


def _by_component(names: Iterable[tuple[str, str]], values: npt.NDArray[np.float64]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for (name, family), value in zip(names, values.tolist(), strict=True):
        if abs(value) > TOLERANCE:
            index = name[len(family) + 1 : -1] if name.startswith(f"{family}[") else ""
            entries = found.setdefault(family, {})
            entries[index] = entries.get(index, 0.0) + value  # both sides of one constraint
    return found


def _certificate(
    instance: Instance,
    formulation: Formulation,
    form: StandardForm,
    columns: list[Column],
    rows: list[NamedRow],
    outcome: Outcome,
) -> Certificate | None:
    """The best bound that prices on memory prove, where some rows or bounds by round are the KV capacity.

    Any prices prove a bound on the total latency of all schedules, so also of those that further rules leave. That it
    is as good as the relaxation is another matter, which the bound itself shows.
    """
    capacity = instance.server.kv_capacity_tokens
    total = formulation.value is None and formulation.objective == "total_latency"
    if capacity is None or not total or problem_of(instance) is not KV:
        return None
    assert outcome.duals is not None
    limits: dict[str, dict[int, float]] = {}
    sides = ((rows, form.row_upper, outcome.duals[0]), (columns, form.upper, outcome.duals[1]))
    for names, upper, duals in sides:
        for j in np.flatnonzero(upper == capacity).tolist():
            family, _, index = names[j].name.partition("[")
            if index.rstrip("]").isdecimal():
                limits.setdefault(family, {})[int(index.rstrip("]"))] = max(0.0, -float(duals[j]))
    found: list[Certificate] = []
    for prices in limits.values():
        column = np.zeros(max(prices) + 1)
        column[list(prices)] = list(prices.values())
        try:
            found.append(certify(instance, column))
        except ModelkitError:  # rounds that it prices are beyond what is recomputed
            continue
    return max(found, key=lambda certificate: certificate.value, default=None)
