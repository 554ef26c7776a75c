"""Backends whose solver runs in a process of its own.

The parent hears of every incumbent as it is found, so a solver that overruns its limit, ignores Ctrl-C or crashes
loses nothing.
"""

from __future__ import annotations

import importlib.util
import pickle
from typing import Any, Literal

import numpy as np

from modelkit.backends.base import Limits, Listener, Outcome
from modelkit.backends.crew import Crew
from modelkit.backends.separator import Separator
from modelkit.backends.standard_form import StandardForm, compile_model, load_solution
from modelkit.backends.watch import Watch
from modelkit.backends.worker import Job, PackedSeparator
from modelkit.errors import SolverError


class ProcessBackend:
    """A solver of this package behind the process wall.

    Parameters
    ----------
    name
        The module of this package that drives the solver.
    package
        The Python package that brings it.
    separates
        Whether it asks for rows in the tree.
    """

    def __init__(self, name: str, package: str, *, separates: bool = False) -> None:
        self.name = name
        self.separates = separates
        self.package = package
        self.crew = Crew()

    def availability(self) -> tuple[bool, str]:
        """Whether the package is installed, with its version."""
        if importlib.util.find_spec(self.package) is None:
            return False, f"the Python package {self.package} is not installed"
        from importlib.metadata import version

        return True, f"{self.package} {version(self.package)}"

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
        """See `Backend.solve`."""
        form, columns = compile_model(model, use_start=use_start)
        separation = pack(separator, columns) if separator is not None and self.separates else None
        outcome, x = self._run(form, limits, options, "solve", listen, separation)
        if x is not None:
            load_solution(model, columns, x)
        return outcome

    def solve_form(
        self, form: StandardForm, limits: Limits, options: dict[str, Any], *, listen: Listener | None = None
    ) -> tuple[Outcome, Any]:
        """Solve arrays; returns the outcome and the best solution of shape [n], or None."""
        return self._run(form, limits, options, "solve", listen)

    def conflict(self, form: StandardForm, limits: Limits) -> Outcome:
        """An irreducible infeasible subsystem of an infeasible model; ``conflict`` is None when it finds none."""
        return self._run(form, limits, {}, "conflict")[0]

    def _run(
        self,
        form: StandardForm,
        limits: Limits,
        options: dict[str, Any],
        task: Literal["solve", "conflict"],
        listen: Listener | None = None,
        separation: PackedSeparator | None = None,
    ) -> tuple[Outcome, Any]:
        available, reason = self.availability()
        if not available:
            raise SolverError(
                f"solver {self.name!r} is not available: {reason}; pip install {self.package}, or take another"
                " (modelkit list solvers)"
            )
        job = Job(self.name, form, limits, options, task, separation)
        with self.crew.lent() as process:
            watch = Watch(process, job, listen)
            outcome = watch.run()
            outcome.log = process.printed()
        return outcome, watch.incumbents.x


def pack(separator: Separator | PackedSeparator, columns: list[Any]) -> PackedSeparator:
    """A separator as it travels to the solver's process; ``columns`` are the model's variables.

    Raises
    ------
    SolverError
        It names a variable that is in no row, or cannot be pickled.
    """
    if isinstance(separator, PackedSeparator):
        return separator
    position = {id(var): c for c, var in enumerate(columns)}
    try:
        find = pickle.dumps(separator.find, protocol=pickle.HIGHEST_PROTOCOL)
        return PackedSeparator(np.array([position[id(var)] for var in separator.variables], dtype=np.int64), find)
    except KeyError:
        raise SolverError("a separator names a variable that is in no row of the model") from None
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise SolverError(f"a separator cannot go to the solver's process: {error}") from error
