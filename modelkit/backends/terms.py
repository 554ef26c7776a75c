"""Sums of coefficients times variables that stay two lists: what the long rows of a model are made of.

Pyomo's `LinearExpression` makes an object of each term, which takes longer to make and to read than the rest of the
row. `linear` gives one that makes them when somebody asks for them; modelkit's compiler reads the lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyomo.core.expr.numeric_expr import LinearExpression, MonomialTermExpression, NumericExpression

#: Where Pyomo's expressions keep their terms.
_ARGUMENTS: Any = NumericExpression._args_


def linear(coefficients: Sequence[float], variables: Sequence[Any]) -> LinearSum:
    """sum_j ``coefficients[j]`` ``variables[j]`` as a Pyomo expression, for rows and objectives of many terms.

    The two are kept, not copied. A variable may occur several times, and a coefficient be a parameter.

    Raises
    ------
    ValueError
        There are not as many coefficients as variables.
    """
    if len(coefficients) != len(variables):
        raise ValueError(f"{len(coefficients)} coefficients of {len(variables)} variables")
    made = LinearSum([])
    made.lists, made._nargs = (coefficients, variables), len(coefficients)
    return made


class LinearSum(LinearExpression):  # type: ignore[misc]
    """What `linear` returns.

    Parameters
    ----------
    lists
        Coefficients and variables, until somebody asks for Pyomo's terms, which may be changed.
    """

    __slots__ = ("lists",)
    __class__ = property(lambda self: LinearExpression)  # so that Pyomo, which asks for it, takes it for what it is

    def __reduce_ex__(self, protocol: Any) -> Any:
        return linear, ([], []), self.__getstate__()

    @property
    def _args_(self) -> list[Any]:
        if self.lists is not None:
            self._args_ = [MonomialTermExpression(term) for term in zip(*self.lists, strict=True)]
        return _ARGUMENTS.__get__(self)  # type: ignore[no-any-return]

    @_args_.setter
    def _args_(self, made: list[Any]) -> None:
        _ARGUMENTS.__set__(self, made)
        self.lists: tuple[Sequence[float], Sequence[Any]] | None = None
