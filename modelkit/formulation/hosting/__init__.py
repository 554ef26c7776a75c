"""Formulations for use: those that come with modelkit here, those of users in a process of their own.

A file of a user may loop, crash, end Python or begin threads; whatever it does costs its own process, and becomes an
error that names the file, the function and the line. This guards against accidents, not against malice.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.errors import FormulationError, UsageError
from modelkit.formulation.formulation import Formulation
from modelkit.formulation.hosting.held import HeldFormulation, held
from modelkit.formulation.loading import FoundFormulation, file_of, formulation_files, in_full, is_bundled
from modelkit.formulation.loading import load_formulation as load_here

__all__ = ["HeldFormulation", "formulation_of", "found_formulations", "load_formulation"]


def load_formulation(name: str) -> Formulation:
    """The formulation called ``name``, or in the file ``name`` when that ends in ``.py``.

    Raises
    ------
    UsageError
        There is none of that name.
    FormulationError
        The file is missing or broken, or its import does not end; the message says in which line.
    """
    return load_here(name) if is_bundled(name) else held(file_of(name))


def formulation_of(given: str | Formulation) -> Formulation:
    """The formulation of that name or file, or the object itself, each with what it inherits filled in.

    Raises
    ------
    UsageError, FormulationError
        As `load_formulation`, also of what an object extends.
    """
    return load_formulation(given) if isinstance(given, str) else in_full(given)


def found_formulations() -> Iterator[FoundFormulation]:
    """Every formulation file, each loaded when it is asked for; a broken one has its error and hides no other."""
    for name, path in formulation_files().items():
        try:
            yield FoundFormulation(name, path, load_formulation(name), None)
        except (FormulationError, UsageError) as error:
            yield FoundFormulation(name, path, None, str(error))
