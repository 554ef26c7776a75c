"""The model that modelkit builds, as a file for other solvers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from modelkit.arguments import checked_arguments
from modelkit.errors import FormulationError
from modelkit.formulation.formulation import Formulation
from modelkit.formulation.loading import load_formulation as load_here
from modelkit.instance import Instance
from modelkit.io import load
from modelkit.runtime.scratch import scratch_folder
from modelkit.solving import choose
from modelkit.solving.known import Known, known_of
from modelkit.solving.resolving import build_changeable

#: Longest name that the formats' readers take.
LONGEST = 200

Format = Literal["lp", "mps"]


@checked_arguments
def build(
    instance: Instance,
    formulation: str | Formulation | None = None,
    *,
    parameters: Mapping[str, Any] | None = None,
    changing: Sequence[str] | None = None,
) -> Any:
    """The concrete Pyomo model of an instance, to look at or to solve with Pyomo itself.

    A formulation's file runs in this process, with no limit on its functions.

    Parameters
    ----------
    formulation, parameters
        As in `modelkit.solve`.
    changing
        Parameters of the model that are to be mutable, such as ``kv_capacity``: `modelkit.resolve` then solves it again
        with other values. It keeps all starts, where other models leave out those that no optimal schedule uses.

    Returns
    -------
    pyomo.environ.ConcreteModel

    Raises
    ------
    UsageError, InputError, FormulationError
        As `modelkit.solve`.
    InfeasibleError
        No model is built, because no schedule exists.
    TooLargeError
        The model would not fit the memory.
    """
    instance = load(instance)
    wanted = load_here(formulation) if isinstance(formulation, str) else formulation
    chosen, parametrised = choose(instance, wanted, parameters)
    instance.check_fits()
    if wanted is None:
        chosen = load_here(chosen.name)
    if changing is not None:
        return build_changeable(chosen, instance, parameters or {}, tuple(changing))
    return chosen.instantiate(parametrised, known_of(chosen, parametrised))


def export_model(
    instance: Instance,
    formulation: str | Formulation | None = None,
    kind: Format = "lp",
    *,
    parameters: Mapping[str, Any] | None = None,
) -> tuple[str, Formulation]:
    """The model of an instance in the LP or MPS format, and the formulation that made it.

    Names are those of the model, ``start(r1_0)`` for ``start[r1,0]``, in the characters that both formats allow.

    Raises
    ------
    UsageError, InputError, FormulationError
        As `modelkit.solving.solve`.
    InfeasibleError
        No model is built, because no schedule exists.
    TooLargeError
        The model would not fit the memory.
    """
    instance = load(instance)
    chosen, parametrised = choose(instance, formulation, parameters)
    text: str = chosen.apply(_written, parametrised, known_of(chosen, parametrised), kind)
    return text, chosen


def _written(formulation: Formulation, parametrised: Instance, known: Known, kind: Format) -> str:
    """The model of an instance with parameters in a format."""
    from pyomo.common.errors import PyomoException

    model = formulation.instantiate(parametrised, known)
    with scratch_folder() as folder:
        path = folder / f"model.{kind}"
        try:
            model.write(str(path), io_options={"labeler": readable_names()})
        except (PyomoException, ValueError, RuntimeError) as error:
            raise FormulationError(f"formulation {formulation.name!r} cannot be written as {kind}: {error}") from error
        return path.read_text(encoding="utf-8")


def readable_names() -> Callable[[Any], str]:
    """A labeler for Pyomo's writers: each component's name in plain characters, no two alike."""
    taken: dict[str, Any] = {}

    def label(component: Any) -> str:
        plain = unicodedata.normalize("NFKD", component.name).encode("ascii", "ignore").decode()
        name = re.sub(r"[^A-Za-z0-9_.()]", "_", plain.replace("[", "(").replace("]", ")"))[:LONGEST]
        if re.match(r"[0-9.]|[eE][0-9.]", name):  # a number to the readers
            name = f"_{name}"
        unique, n = name, 1
        while taken.setdefault(unique, component) is not component:
            n += 1
            unique = f"{name}_{n}"
        return unique

    return label
