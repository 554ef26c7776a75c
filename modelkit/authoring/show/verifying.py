"""Written formulas against built rows: a formula is shown only when it gives the coefficients of every row.

Formulas are lifted from some models and held against those and against others, with other requests and other numbers,
so that what only happens to be so in the first is not shown as the model's mathematics. The rows are read with Pyomo's
own linear representation, which shares nothing with the reading that formulas are lifted from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from modelkit.authoring.show.lifting import Range, Side, Sym, SymLeaf, base_of, fits
from modelkit.authoring.show.rows import ModelRow, NotLinearError

#: Value by variable and index; the constant is under the empty name.
Coefficients = dict[tuple[str, tuple[Any, ...]], float]
CONSTANT: tuple[str, tuple[Any, ...]] = ("", ())


def read_built(expression: Any) -> Coefficients:
    """The coefficients of a linear expression as it was built.

    Raises
    ------
    NotLinearError
        It is not linear.
    """
    from pyomo.repn import generate_standard_repn

    if isinstance(expression, int | float):
        return {CONSTANT: float(expression)}
    found = generate_standard_repn(expression, compute_values=True, quadratic=False)
    if found.nonlinear_expr is not None:
        raise NotLinearError("not linear")
    made: Coefficients = {CONSTANT: float(found.constant)}
    for variable, coefficient in zip(found.linear_vars, found.linear_coefs, strict=True):
        index = variable.index()
        key = (variable.parent_component().local_name, index if isinstance(index, tuple) else (index,))
        key = (key[0], ()) if index is None else key
        made[key] = made.get(key, 0.0) + float(coefficient)
    return made


def evaluate_formula(side: Side, row: ModelRow) -> Coefficients:
    """The coefficients that a formula gives at the row's index, in its world; a variable that is not there is 0.

    Raises
    ------
    NotLinearError
        The formula has no meaning there.
    """
    made: Coefficients = {CONSTANT: _value(side.constant, row, ())}
    for term in side.terms:
        for key in row.world.keys.get(term.variable, ()):
            if fits(term.index, row, key) and _in_range(term.range, row, key):
                name = (term.variable, key)
                made[name] = made.get(name, 0.0) + _value(term.coefficient, row, key)
    return made


def agree(one: Coefficients, other: Coefficients) -> bool:
    """Whether both are the same; what is not named is 0."""
    return all(
        math.isclose(one.get(name, 0.0), other.get(name, 0.0), rel_tol=1e-9, abs_tol=1e-9) for name in {*one, *other}
    )


def holds(side: Side, rows: Iterable[tuple[ModelRow, Any]]) -> bool:
    """Whether a formula gives every row's expression."""
    try:
        return all(agree(evaluate_formula(side, row), read_built(expression)) for row, expression in rows)
    except (NotLinearError, KeyError, IndexError, TypeError, ValueError):
        return False


def says_nothing(sides: Iterable[Side], row: ModelRow) -> bool:
    """Whether formulas have no term at the row's index."""
    try:
        return not any(name != CONSTANT for side in sides for name in evaluate_formula(side, row))
    except (NotLinearError, KeyError, IndexError, TypeError, ValueError):
        return False


def _in_range(over: Range | None, row: ModelRow, key: tuple[Any, ...]) -> bool:
    if over is None:
        return True
    if over.kind == "picked":
        raise NotLinearError("no range was found")
    if over.kind == "set":
        members = row.world.sets[over.name]
        if over.key:
            members = members[tuple(_index(sym, row, key) for sym in over.key)]
        return tuple(key[q] for q in over.positions) in members
    if over.apart >= 0:
        return bool(key[over.limited] != row.at[over.apart])
    if over.before >= 0:
        order = row.world.orders[over.name]
        return order[key[over.limited]] < order[row.at[over.before]]
    if over.limited >= 0:
        here = key[over.limited]
        low = over.lower is None or here >= _index(over.lower, row, key)
        return bool(low and (over.upper is None or here <= _index(over.upper, row, key)))
    return True


def _index(sym: Sym, row: ModelRow, key: tuple[Any, ...]) -> Any:
    """The member of a set, or the number, that an index stands for."""
    of_variable = sym.base[:1] == "p" and sym.base[1:].isdigit()
    value = key[int(sym.base[1:])] if of_variable else base_of(sym.base, row)
    if sym.sign:
        at = (row.at if sym.at[0] == "c" else key)[int(sym.at[1:])]
        value += sym.sign * row.world.parameters[sym.parameter][at,]
    return value + sym.offset if sym.offset else value


def _value(how: dict[tuple[SymLeaf, ...], float], row: ModelRow, key: tuple[Any, ...]) -> float:
    total = 0.0
    for leaves, coefficient in how.items():
        for leaf in leaves:
            at = tuple(_index(sym, row, key) for sym in leaf.at)
            coefficient *= row.world.parameters[leaf.name][at] if leaf.name else at[0]
        total += coefficient
    return total
