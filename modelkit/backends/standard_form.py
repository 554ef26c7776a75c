"""A Pyomo model as sparse arrays: minimise c x + offset, row_lower <= A x <= row_upper, and bounds on x."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelkit.backends.base import Size
from modelkit.errors import SolverError

Floats = npt.NDArray[np.float64]

#: Feasibility tolerance of most solvers, the least that they take, and by how much a row of whole numbers may be off.
USUAL_TOLERANCE, LEAST_TOLERANCE, TOLERATED = 1e-6, 1e-10, 0.1


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

    @property
    def tolerance(self) -> float | None:
        """Feasibility tolerance at which a row of whole numbers cannot be off by one; None where the usual 1e-6 does.

        A binary that is off by the tolerance counts its coefficient times as much; solvers go down to 1e-10.
        """
        finest = TOLERATED / float(abs(self.values).max(initial=1.0))
        return None if finest >= USUAL_TOLERANCE else max(LEAST_TOLERANCE, finest)

    def tightened(self, bound: float | None) -> float | None:
        """The bound, rounded up when the objective is integral (less a solver's tolerance)."""
        if bound is None or not self.objective_is_integral():
            return bound
        return float(math.ceil(bound - max(1e-6, 1e-9 * abs(bound))))


def compile_model(model: Any, *, use_start: bool = False) -> tuple[StandardForm, list[Any]]:
    """Standard form of a Pyomo model and its variables in the order of the columns.

    Raises
    ------
    SolverError
        The model is not linear, has no objective, or a constraint without variables that cannot hold.

    Notes
    -----
    O(non-zeros); about 0.6 s for a million.
    """
    from pyomo.common.gc_manager import PauseGC

    with PauseGC():  # little that is made here is garbage; looking for it costs up to a third of the time
        return _compiled(model, use_start)[:2]


def compile_named(model: Any) -> tuple[StandardForm, list[Any], list[Any]]:
    """Standard form of a Pyomo model, its variables, and the constraint of each row.

    Raises
    ------
    SolverError
        See `compile_model`.
    """
    form, columns, entries = _compiled(model, False)
    return form, columns, [entry.constraint for entry in entries]


def _compiled(model: Any, use_start: bool) -> tuple[StandardForm, list[Any], list[Any]]:
    from pyomo.common.errors import InfeasibleConstraintException, InvalidConstraintError
    from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler

    try:
        compiled = LinearStandardFormCompiler().write(model, mixed_form=True, set_sense=1)
    except InfeasibleConstraintException as error:
        raise SolverError(f"the model has a constraint that cannot hold: {error}") from error
    except (InvalidConstraintError, ValueError, TypeError) as error:
        raise SolverError(f"the model is not linear, or incomplete: {error}") from error
    if len(compiled.objectives) != 1:
        raise SolverError(f"the model has {len(compiled.objectives)} active objectives; allowed: one")
    matrix = compiled.A.tocsr()
    rhs = np.asarray(compiled.rhs, dtype=np.float64)
    side = np.fromiter((row.bound_type for row in compiled.rows), dtype=np.int8, count=len(compiled.rows))
    columns = compiled.columns
    cost = np.zeros(len(columns))
    compiled_cost = compiled.c.tocoo()
    cost[compiled_cost.col] = compiled_cost.data
    bounds = [var.bounds for var in columns]
    return (
        StandardForm(
            cost=cost,
            offset=float(compiled.c_offset[0]),
            indptr=matrix.indptr.astype(np.int32),
            indices=matrix.indices.astype(np.int32),
            values=matrix.data.astype(np.float64),
            row_lower=np.where(side <= 0, rhs, -np.inf),
            row_upper=np.where(side >= 0, rhs, np.inf),
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
