"""A Pyomo model as sparse arrays: minimise c x + offset, row_lower <= A x <= row_upper, and bounds on x."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modelkit.backends.base import Size
from modelkit.errors import SolverError
from modelkit.runtime.threads import PYOMO

if TYPE_CHECKING:
    from modelkit.backends.compiler import LinearModel

Floats = npt.NDArray[np.float64]

#: By how much a solution may break a row or bound, as a share of its largest term where that is above 1. Solvers allow
#: themselves 1e-6 of a model that they have scaled.
FEASIBILITY = 1e-5
#: How far an integer variable may be from a whole number.
WHOLENESS = 1e-4
#: Feasibility tolerance of most solvers.
USUAL_TOLERANCE = 1e-6
#: The least tolerance that they take.
LEAST_TOLERANCE = 1e-10
#: By how much a row of whole numbers may be off.
TOLERATED = 0.1


@dataclass(slots=True)
class StandardForm:
    """The arrays; the matrix by rows (CSR) of shape [m, n]. Unbounded sides are infinite.

    ``start`` is a MIP start of shape [n], NaN where it says nothing.
    """

    cost: Floats
    offset: float
    indptr: npt.NDArray[np.int32]
    indices: npt.NDArray[np.int32]
    values: Floats
    row_lower: Floats
    row_upper: Floats
    lower: Floats
    upper: Floats
    integer: npt.NDArray[np.bool_]
    start: Floats | None = None

    @property
    def size(self) -> Size:
        """How large it is."""
        return Size(len(self.cost), int(self.integer.sum()), len(self.row_lower), len(self.values))

    def objective_is_integral(self) -> bool:
        """Whether every solution has an integral objective: whole costs on integer variables only."""
        priced = self.cost != 0
        return bool(
            self.offset.is_integer()
            and self.integer[priced].all()
            and (self.cost[priced] == np.rint(self.cost[priced])).all()
        )

    def objective(self, x: Floats) -> float:
        """What a point of shape [n] costs."""
        return float(self.cost @ x) + self.offset

    def fault(self, x: Floats) -> str | None:
        """What a point of shape [n] breaks by more than `FEASIBILITY`, in words; None for a solution."""
        if x.shape != self.cost.shape or not np.isfinite(x).all():
            return "it is not a point of the model"
        return self.value_faults(x) or self._row_fault(x)

    def value_faults(self, x: Floats) -> str | None:
        """What the known values of a point break by themselves: bounds and wholeness; NaN is not known."""
        known = ~np.isnan(x)
        value, lower, upper = x[known], self.lower[known], self.upper[known]
        outside = np.maximum(lower - value, value - upper) / _scale(np.minimum(np.abs(lower), np.abs(upper)))
        if (worst := _worst(outside)) > FEASIBILITY:
            return f"it breaks a bound of a variable by {worst:.2g}"
        whole = value[self.integer[known]]
        if (worst := _worst(np.abs(whole - np.rint(whole)))) > WHOLENESS:
            return f"an integer variable is {worst:.2g} away from a whole number"
        return None

    def _row_fault(self, x: Floats) -> str | None:
        row = np.repeat(np.arange(len(self.row_lower)), np.diff(self.indptr))
        terms = self.values * x[self.indices]
        activity = np.bincount(row, terms, len(self.row_lower))
        largest = np.zeros(len(self.row_lower))
        np.maximum.at(largest, row, np.abs(terms))
        outside = np.maximum(self.row_lower - activity, activity - self.row_upper) / np.maximum(1.0, largest)
        worst = _worst(outside)
        return f"it breaks a row by {worst:.2g}" if worst > FEASIBILITY else None

    def agrees(self, x: Floats, start: Floats) -> bool:
        """Whether a solution has the known values of a start: those of integer variables, or all where it has none."""
        known = ~np.isnan(start)
        if (known & self.integer).any():
            known &= self.integer
        return bool((np.abs(x[known] - start[known]) <= WHOLENESS * _scale(start[known])).all())

    @property
    def tolerance(self) -> float | None:
        """Feasibility tolerance at which a row of whole numbers cannot be off by one; None where the usual 1e-6 does.

        A binary that is off by the tolerance counts its coefficient times as much; solvers go down to 1e-10.
        """
        finest = TOLERATED / float(abs(self.values).max(initial=1.0))
        return None if finest >= USUAL_TOLERANCE else max(LEAST_TOLERANCE, finest)

    def tighten(self, bound: float | None) -> float | None:
        """The bound, rounded up when the objective is integral (less a solver's tolerance)."""
        if bound is None or not self.objective_is_integral():
            return bound
        return float(math.ceil(bound - max(1e-6, 1e-9 * abs(bound))))


def _scale(values: Floats) -> Floats:
    """Size of values, 1 where they are smaller or infinite."""
    return np.maximum(1.0, np.where(np.isfinite(values), np.abs(values), 1.0))


def _worst(values: Floats) -> float:
    return float(values.max(initial=0.0))


@dataclass(slots=True)
class CompiledModel:
    """A model of which only the arrays are here: the Pyomo model lives in another process.

    ``x`` is its solution of shape [n], once there is one; ``key`` says which one it is over there.
    """

    form: StandardForm
    key: int
    x: Floats | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """What messages say of a variable."""

    name: str
    lower: float | None
    upper: float | None
    binary: bool


@dataclass(frozen=True, slots=True)
class NamedRow:
    """What messages say of a constraint: its name, that of its family, and the family's doc."""

    name: str
    family: str
    doc: str


def load_solution(model: Any, columns: list[Any], x: Floats) -> None:
    """Give a model's variables their values in a solution of shape [n]."""
    if isinstance(model, CompiledModel):
        model.x = x
    for var, value in zip(columns, x.tolist(), strict=False):
        var.set_value(value, skip_validation=True)


def compile_model(model: Any, *, use_start: bool = False) -> tuple[StandardForm, list[Any]]:
    """Standard form of a Pyomo model and its variables in the order of the columns; none of a `CompiledModel`.

    Raises
    ------
    SolverError
        The model is not linear, has no objective, or a constraint without variables that cannot hold.

    Notes
    -----
    O(non-zeros); about 0.2 s for a million in rows of `modelkit.linear`, 0.6 s in other expressions.
    """
    if isinstance(model, CompiledModel):
        return replace(model.form, start=model.form.start if use_start else None), []
    from pyomo.common.gc_manager import PauseGC

    with PYOMO, PauseGC():  # little that is made here is garbage; looking for it costs up to a third of the time
        return _compile(model, use_start)[:2]


def compile_named(model: Any) -> tuple[StandardForm, list[Any], list[Any]]:
    """Standard form of a Pyomo model, its variables, and the constraint of each row.

    Raises
    ------
    SolverError
        See `compile_model`.
    """
    form, columns, entries = _compile(model, False)
    return form, columns, [entry.constraint for entry in entries]


def compile_entries(model: Any) -> tuple[StandardForm, list[Any], list[Any]]:
    """Standard form of a Pyomo model, its variables, and what each row is: ``constraint`` and ``bound_type``.

    That is -1 of a lower, 1 of an upper side, and 0 of an equation.

    Raises
    ------
    SolverError
        See `compile_model`.
    """
    with PYOMO:
        return _compile(model, False)


def describe(columns: list[Any], rows: list[Any]) -> tuple[list[Column], list[NamedRow]]:
    """What messages say of variables and constraints, without Pyomo's own objects."""
    families = [row.parent_component() for row in rows]
    return (
        [Column(var.name, var.lb, var.ub, var.is_binary()) for var in columns],
        [NamedRow(row.name, f.local_name, f.doc or "") for row, f in zip(rows, families, strict=True)],
    )


def pyomo_model(form: StandardForm) -> Any:
    """A Pyomo model of the arrays, with variables ``x`` and constraints ``row``, and its start where it has one."""
    import pyomo.environ as pyo
    from pyomo.common.gc_manager import PauseGC
    from pyomo.core.expr import LinearExpression

    model = pyo.ConcreteModel()
    columns = range(len(form.cost))
    starts = None if form.start is None else [None if math.isnan(v) else v for v in form.start.tolist()]
    lower, upper = form.lower.tolist(), form.upper.tolist()
    row_lower, row_upper = form.row_lower.tolist(), form.row_upper.tolist()
    with PauseGC():
        model.x = pyo.Var(
            columns,
            domain=lambda m, j: pyo.Integers if form.integer[j] else pyo.Reals,
            bounds=lambda m, j: (_end(lower[j]), _end(upper[j])),
            initialize=starts and (lambda m, j: starts[j]),
        )
        x = [model.x[j] for j in columns]

        def side(m: Any, r: int) -> Any:
            entries = slice(form.indptr[r], form.indptr[r + 1])
            of = [x[j] for j in form.indices[entries].tolist()]
            terms = LinearExpression(constant=0, linear_coefs=form.values[entries].tolist(), linear_vars=of)
            return _end(row_lower[r]), terms, _end(row_upper[r])

        model.row = pyo.Constraint(range(len(form.row_lower)), rule=side)
        priced = [j for j in columns if form.cost[j]]
        costs = [float(form.cost[j]) for j in priced]
        priced_x = [x[j] for j in priced]
        model.objective = pyo.Objective(
            expr=LinearExpression(constant=form.offset, linear_coefs=costs, linear_vars=priced_x)
        )
    return model


def _end(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _refuse_numbers(found: LinearModel) -> None:
    """Refuse what is no finite number: solvers crash on it, or take it for something else.

    Raises
    ------
    SolverError
        With the place of the first.
    """
    cost, matrix, advice = found.cost, found.matrix, "allowed: finite numbers; look at what data() gives"
    for j in np.flatnonzero(~np.isfinite(cost)):
        raise SolverError(f"the objective has the coefficient {cost[j]:g} of {found.columns[j].name}; {advice}")
    for at in np.flatnonzero(~np.isfinite(matrix.data)):
        row = found.rows[int(np.searchsorted(matrix.indptr, at, side="right")) - 1].constraint
        name = found.columns[matrix.indices[at]].name
        raise SolverError(f"{row.name} has the coefficient {matrix.data[at]:g} of {name}; {advice}")
    for r in np.flatnonzero(np.isnan(found.rhs)):
        raise SolverError(f"{found.rows[r].constraint.name} has a side that is no number; {advice}")


def _compile(model: Any, use_start: bool) -> tuple[StandardForm, list[Any], list[Any]]:
    from pyomo.common.errors import InfeasibleConstraintException

    from modelkit.backends.compiler import compile_linear

    try:
        compiled = compile_linear(model)
    except InfeasibleConstraintException as error:
        raise SolverError(f"the model has a constraint that cannot hold: {error}") from error
    except (ValueError, TypeError) as error:
        raise SolverError(f"the model is not linear, or incomplete: {error}") from error
    columns, matrix = compiled.columns, compiled.matrix
    side = np.fromiter((row.bound_type for row in compiled.rows), dtype=np.int8, count=len(compiled.rows))
    bounds = [var.bounds for var in columns]
    _refuse_numbers(compiled)
    return (
        StandardForm(
            cost=compiled.cost,
            offset=compiled.offset,
            indptr=matrix.indptr.astype(np.int32, copy=False),
            indices=matrix.indices.astype(np.int32, copy=False),
            values=matrix.data,
            row_lower=np.where(side <= 0, compiled.rhs, -np.inf),
            row_upper=np.where(side >= 0, compiled.rhs, np.inf),
            lower=np.array([-np.inf if low is None else low for low, _ in bounds], dtype=np.float64),
            upper=np.array([np.inf if up is None else up for _, up in bounds], dtype=np.float64),
            integer=np.fromiter((var.is_integer() for var in columns), dtype=np.bool_, count=len(columns)),
            start=(
                np.array([np.nan if var.value is None else var.value for var in columns], dtype=np.float64)
                if use_start
                else None
            ),
        ),
        columns,
        compiled.rows,
    )
