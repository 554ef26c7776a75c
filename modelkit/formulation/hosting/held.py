"""A formulation whose functions run in another process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelkit.backends.process import pack
from modelkit.backends.standard_form import CompiledModel, compile_model, load_solution
from modelkit.backends.worker import PackedSeparator
from modelkit.errors import FormulationError, FormulationFailedError, FormulationLateError, ModelkitError
from modelkit.formulation.formulation import Formulation
from modelkit.formulation.hosting.host import LEAST_TIMEOUT, Host, current_host, folders
from modelkit.instance import Instance
from modelkit.schedule import Schedule

#: Fields that hold functions which are asked by `Formulation.ask`.
_ASKED = ("needs", "data", "extract", "admissible", "value", "obstacles")


@dataclass
class Tie:
    """Where a formulation lives: its file, and its number in the process that holds it, which changes when that dies.

    ``failures`` are functions that ended their process: they are not asked twice. ``objective_doc`` is asked when it is
    wanted, for that runs the file's ``build``; it is empty once that has failed.
    """

    path: Path
    name: str = ""
    host: Host | None = None
    number: int = 0
    failures: dict[tuple[Any, ...], ModelkitError] = field(default_factory=dict)
    objective_doc: str | None = None

    @property
    def owner(self) -> str:
        """What messages call the formulation."""
        return f"formulation {self.path}"

    def load(self) -> dict[str, Any]:
        """Load the file; returns the formulation's facts."""
        self.host = current_host()
        self.number, facts = self._request(("load", str(self.path.resolve()), folders()))
        self.name = str(facts["name"])
        made: dict[str, Any] = facts
        return made

    def _request(self, message: tuple[Any, ...], **limits: Any) -> Any:
        assert self.host is not None
        whole = self.path.resolve()
        try:
            return self.host.request(message, self.owner, whole, **limits)
        except ModelkitError as error:
            if len(error.args) == 1 and isinstance(words := error.args[0], str):
                words = words.replace(f"formulation {self.name!r}:", f"{self.owner}:")
                error.args = (words.replace(f"formulation {whole}", self.owner),)
            raise

    def apply(self, function: Callable[..., Any], *arguments: Any, **limits: Any) -> Any:
        """See `Formulation.apply`; ``limits`` are those of `Host.request`."""
        key = (function, *(a for a in arguments[:1] if isinstance(a, str)))
        if key in self.failures:
            raise self.failures[key]
        if self.host is None or self.host is not current_host():
            self.load()
        assert self.host is not None
        try:
            return self._request(("apply", self.number, function, arguments, limits.get("within")), **limits)
        except ModelkitError as error:
            if not self.host.usable and not isinstance(error, FormulationLateError):
                self.failures[key] = error
            raise


@dataclass(frozen=True, kw_only=True, repr=False)
class HeldFormulation(Formulation):
    """A formulation whose functions run in another process, with limits; see `modelkit.formulation.hosting.host`.

    Its models are `CompiledModel`: the Pyomo model stays over there.
    """

    tie: Tie

    def apply(self, function: Callable[..., Any], *arguments: Any, within: float | None = None) -> Any:
        """See `Formulation.apply`; ``function`` is of a module, and the process over there can import it."""
        return self.tie.apply(function, *arguments, within=within)

    def instantiate(self, instance: Instance, known: Any, *, within: float | None = None) -> CompiledModel:
        """See `Formulation.instantiate`; what is known so far goes along, and the rest is found over there."""
        try:
            model: CompiledModel = self.apply(_built, instance, known, within=within)
        except FormulationError:  # its build has failed; that there is no time or memory for a model says nothing of it
            self.tie.objective_doc = ""
            raise
        return model

    def set_start(self, model: CompiledModel, instance: Instance, schedule: Schedule) -> bool:
        """See `Formulation.set_start`."""
        model.form.start = self.apply(_started, model.key, instance, schedule)
        return model.form.start is not None

    def schedule_from(self, model: CompiledModel, instance: Instance) -> Schedule:
        """See `Formulation.schedule_from`."""
        schedule: Schedule = self.apply(_extracted, model.key, instance, model.x)
        return schedule

    def separator_for(self, model: CompiledModel, instance: Instance) -> Any:
        """See `Formulation.separator_for`; packed for the solver's process."""
        return self.apply(_separated, model.key, instance) if self.separator else None

    @property
    def objective_doc(self) -> str:
        """See `Formulation.objective_doc`."""
        if self.tie.objective_doc is None:
            try:
                self.tie.objective_doc = str(self.apply(_objective_doc, within=LEAST_TIMEOUT))
            except ModelkitError:
                self.tie.objective_doc = ""
        return self.tie.objective_doc

    def abstract(self, kind: type[Any] | None = None) -> Any:
        """There is none here."""
        raise FormulationError(f"{self.words} lives in another process, and so does its abstract model")


def held(path: Path) -> HeldFormulation:
    """The formulation in a file, held by the process for formulation files of this thread.

    Raises
    ------
    UsageError, FormulationError
        As `modelkit.formulation.loading.load_formulation`; importing takes too long, or ends the process.
    """
    tie = Tie(path)
    facts: dict[str, Any] = tie.load()

    def elsewhere(function: str) -> Callable[..., Any]:
        if function in _ASKED:
            return lambda *arguments: tie.apply(Formulation.ask, function, *arguments)

        def refuse(*arguments: Any) -> Any:
            raise FormulationError(f"{function}() of {path} runs in another process")

        return refuse

    fields: dict[str, Any] = {k: elsewhere(k) if v is True else v for k, v in facts.items()}
    return HeldFormulation(**fields, tie=tie, in_full=True)


# --- in the process that holds it ----------------------------------------------------------------------


@dataclass
class _Built:
    model: Any
    columns: list[Any]


_models: dict[int, _Built] = {}
_keys = count()


def _model(key: int) -> _Built:
    if key not in _models:
        raise FormulationFailedError("the process that held the model has ended, and the model is lost")
    return _models[key]


def _objective_doc(formulation: Formulation) -> str:
    return formulation.objective_doc


def _built(formulation: Formulation, instance: Instance, known: Any) -> CompiledModel:
    model = formulation.instantiate(instance, known)
    form, columns = compile_model(model)
    _models.clear()  # one is solved at a time; a large one is a burden
    key = next(_keys)
    _models[key] = _Built(model, columns)
    return CompiledModel(form, key)


def _started(
    formulation: Formulation, key: int, instance: Instance, schedule: Schedule
) -> npt.NDArray[np.float64] | None:
    built = _model(key)
    if not formulation.set_start(built.model, instance, schedule):
        return None
    return np.array([np.nan if var.value is None else var.value for var in built.columns], dtype=np.float64)


def _extracted(formulation: Formulation, key: int, instance: Instance, x: npt.NDArray[np.float64]) -> Schedule:
    built = _model(key)
    load_solution(built.model, built.columns, x)
    return formulation.schedule_from(built.model, instance)


def _separated(formulation: Formulation, key: int, instance: Instance) -> PackedSeparator | None:
    built = _model(key)
    separator = formulation.separator_for(built.model, instance)
    return None if separator is None else pack(separator, built.columns)
