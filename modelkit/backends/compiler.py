"""A linear Pyomo model as rows of numbers: what `modelkit.backends.terms.linear` gave is read from its lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyomo.environ as pyo
from pyomo.common.errors import InfeasibleConstraintException, InvalidConstraintError
from pyomo.core.expr.numvalue import native_numeric_types
from pyomo.network import Port
from pyomo.repn.linear import LinearRepnVisitor
from pyomo.repn.util import FileDeterminism, FileDeterminism_to_SortComponents, categorize_valid_components
from scipy.sparse import csr_array

from modelkit.backends.terms import LinearSum
from modelkit.errors import SolverError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]

#: Components as they were declared, their members in the order of their sets.
_SORTER = FileDeterminism_to_SortComponents(FileDeterminism.ORDERED)
#: What a model may be made of, beside its objective.
_PARTS = {
    pyo.Block, pyo.Constraint, pyo.Var, pyo.Param, pyo.Expression, pyo.ExternalFunction, pyo.Set, pyo.RangeSet, Port,
}  # fmt: skip


class RowEntry(NamedTuple):
    """The constraint of a row, and its side: -1 the lower, 1 the upper one, 0 an equation."""

    constraint: Any
    bound_type: int


class LinearModel(NamedTuple):
    """Minimise cost x + offset where the rows of the matrix, shape [m, n], keep to their right-hand sides."""

    cost: Floats
    offset: float
    matrix: csr_array
    rhs: Floats
    rows: list[RowEntry]
    columns: list[Any]


class _Terms(NamedTuple):
    columns: Ints
    values: Floats
    constant: float


class _Reader:
    """Reads expressions, and numbers the variables as it meets them, with all others of their component."""

    def __init__(self) -> None:
        self.var_map: dict[int, Any] = {}  # so that it is Pyomo's recorder of variables too
        self.order: dict[int, int] = {}
        self.visitor = LinearRepnVisitor({}, var_recorder=self)

    def add(self, variable: Any) -> None:
        """Number a variable and the others of its component; those that are fixed are numbers themselves."""
        free = {id(v): v for v in variable.parent_component().values(_SORTER) if not v.fixed}
        self.order.update(zip(free, range(len(self.order), len(self.order) + len(free)), strict=True))
        self.var_map.update(free)

    def read(self, expression: Any, what: Any) -> _Terms:
        """The terms of an expression; there may be several of one variable."""
        lists = expression.lists if type(expression) is LinearSum else None
        if lists is not None and native_numeric_types.issuperset(map(type, lists[0])):
            for _ in range(2):
                try:
                    return _Terms(self._numbers(map(id, lists[1]), len(lists[1])), np.array(lists[0], np.float64), 0.0)
                except KeyError:
                    for variable in lists[1]:
                        if id(variable) not in self.order and not variable.fixed:
                            self.add(variable)
        found = self.visitor.walk_expression(expression)
        if found.nonlinear is not None:
            raise InvalidConstraintError(f"{what.name} has terms that are not linear")
        values = np.fromiter(found.linear.values(), np.float64, len(found.linear))
        return _Terms(self._numbers(found.linear, len(values)), values, found.constant)

    def _numbers(self, keys: Any, count: int) -> Ints:
        return np.fromiter(map(self.order.__getitem__, keys), np.int32, count)


def compile_linear(model: Any) -> LinearModel:
    """The rows of a model, those of one side apart from those of the other, without variables that nothing asks for.

    Raises
    ------
    InfeasibleConstraintException
        A constraint without variables cannot hold.
    SolverError
        The model has not one objective.
    ValueError
        It is not linear, or has parts that are not known.
    """
    _, unknown = categorize_valid_components(
        model, active=True, sort=_SORTER, valid=_PARTS, targets={pyo.Suffix, pyo.Objective}
    )
    if unknown:
        raise ValueError(f"it has components of the kinds {', '.join(kind.__name__ for kind in unknown)}")
    objectives = list(model.component_data_objects(pyo.Objective, active=True, sort=_SORTER))
    if len(objectives) != 1:
        raise SolverError(f"the model has {len(objectives)} active objectives; allowed: one")
    reader = _Reader()
    goal = reader.read(objectives[0].expr, objectives[0])
    entries: list[RowEntry] = []
    rows: list[_Terms] = []
    rhs: list[float] = []
    for constraint in model.component_data_objects(pyo.Constraint, active=True, sort=_SORTER):
        lower, body, upper = constraint.to_bounded_expression()
        lower, upper = pyo.value(lower), pyo.value(upper)
        terms = reader.read(body, constraint)
        if not len(terms.columns):
            if (lower is None or lower <= terms.constant) and (upper is None or terms.constant <= upper):
                continue
            raise InfeasibleConstraintException(f"constraint {constraint.name} has no variables and cannot hold")
        for side, limit in _sides(lower, upper):
            entries.append(RowEntry(constraint, side))
            rows.append(terms)
            rhs.append(limit - terms.constant)
    columns = list(reader.var_map.values())
    matrix, costs = _stacked(rows, len(columns)), _stacked([goal], len(columns))
    asked = np.zeros(len(columns), np.bool_)
    asked[matrix.indices] = asked[costs.indices] = True
    used = np.flatnonzero(asked)
    return LinearModel(
        cost=objectives[0].sense * costs[:, used].toarray()[0],
        offset=objectives[0].sense * float(goal.constant),
        matrix=matrix if len(used) == len(columns) else matrix[:, used],
        rhs=np.array(rhs, np.float64),
        rows=entries,
        columns=[columns[j] for j in used.tolist()],
    )


def _stacked(rows: list[_Terms], columns: int) -> csr_array:
    """The rows as a matrix, in which each variable has one term."""
    begin = np.cumsum([0, *(len(row.columns) for row in rows)], dtype=np.int32)
    values = np.concatenate([np.zeros(0), *(row.values for row in rows)])
    numbers = np.concatenate([np.zeros(0, np.int32), *(row.columns for row in rows)])
    matrix = csr_array((values, numbers, begin), shape=(len(rows), columns))
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def _sides(lower: float | None, upper: float | None) -> Iterator[tuple[int, float]]:
    if upper is not None and lower == upper:
        yield 0, upper
        return
    if upper is not None:
        yield 1, upper
    if lower is not None:
        yield -1, lower
