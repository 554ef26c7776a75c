"""What every solver backend takes and gives, in one vocabulary.

Two questions, never one: why the solver *stopped*, and what is *found*.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from modelkit.backends.separator import Separator
from modelkit.errors import UsageError

Stop = Literal["finished", "time_limit", "interrupted", "failed"]
Found = Literal["solution", "infeasible", "unbounded", "nothing"]

#: Larger values mean infinity to one solver or another.
INFINITE = 1e19


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how far to solve.

    Parameters
    ----------
    time_limit
        Wall-clock seconds of the solver; None for none.
    gap
        Relative gap (value - bound) / value at which to stop.
    threads
        None leaves it to the solver.
    seed
        Of the solver's randomness.
    """

    time_limit: float | None = None
    gap: float = 0.0
    threads: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class SolverProgress:
    """Where a solver stands: seconds since it began, incumbent's value, bound; None where unknown."""

    seconds: float
    incumbent: float | None
    bound: float | None


@dataclass(frozen=True, slots=True)
class Size:
    """Size of a model."""

    variables: int
    integers: int
    constraints: int
    nonzeros: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """An infeasible subsystem by positions: rows, and columns whose lower or upper bound is in it.

    ``irreducible`` says that it is none any more without any one of its rows.
    """

    rows: tuple[int, ...]
    lower: tuple[int, ...]
    upper: tuple[int, ...]
    irreducible: bool


@dataclass(slots=True)
class Outcome:
    """How a solve ended.

    With ``found == "solution"`` the model's variables hold the best solution. ``bound`` is the solver's
    own, valid whatever else happened; None when it has none. ``message`` says what happened when that
    is not plain. ``cuts`` counts the rows that a separator found, None where none was asked. ``duals`` of a solved
    linear program are those of its rows, shape [rows], and the reduced costs of its columns, shape [n].
    """

    stop: Stop
    found: Found
    bound: float | None = None
    start_accepted: bool | None = None
    message: str = ""
    version: str | None = None
    log: str = ""
    progress: list[SolverProgress] = field(default_factory=list)
    size: Size | None = None
    conflict: Conflict | None = None
    cuts: int | None = None
    duals: tuple[Any, Any] | None = None


Listener = Callable[[SolverProgress], None]


class Backend(Protocol):
    """A solver family."""

    name: str
    separates: bool

    def availability(self) -> tuple[bool, str]:
        """Whether it can solve here, with its version, or why not."""

    def solve(
        self,
        model: Any,
        limits: Limits,
        options: dict[str, Any],
        *,
        use_start: bool = False,
        listen: Listener | None = None,
        separator: Separator | None = None,
    ) -> Outcome:
        """Solve a Pyomo model and load its best solution into it.

        Parameters
        ----------
        options
            The solver's own, by its own names.
        use_start
            Whether the values of the model's variables are a MIP start.
        listen
            Called with each new incumbent or bound.
        separator
            Asked for rows in the tree where the backend ``separates``; ignored by others.

        Raises
        ------
        UsageError
            An option that the solver does not have.
        SolverError
            The solver is missing or refuses the model.
        """


def finite(value: float | None) -> float | None:
    """The value, or None when a solver means that it is unknown."""
    return value if value is not None and math.isfinite(value) and abs(value) < INFINITE else None


def read_option(solver: str, name: str, value: Any, current: Any) -> Any:
    """An option's text in the type of the value that the solver has for it now.

    Raises
    ------
    UsageError
        The text does not say such a value.
    """
    if not isinstance(value, str) or isinstance(current, str):
        return value
    try:
        if isinstance(current, bool):
            return {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}[value.lower()]
        return type(current)(value)
    except (KeyError, ValueError):
        kind = {bool: "true or false", int: "a whole number", float: "a number"}.get(type(current), "something else")
        raise UsageError(f"{solver} option {name!r} takes {kind}, found {value!r}") from None
