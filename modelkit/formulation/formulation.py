"""What a formulation is, and how it becomes a concrete Pyomo model.

A formulation is one file with one object ``FORMULATION``. A variant names the formulation it
extends and adds to it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from modelkit.backends.separator import Separator
from modelkit.errors import FormulationError, FormulationFailedError, ModelkitError, shown
from modelkit.formulation.asking import asking
from modelkit.formulation.misuse import key_faults, refuse_maximising, refuse_metric, refuse_names, replacing_refused
from modelkit.formulation.parameters import Parameter, settle, unit_at_end
from modelkit.instance import Instance
from modelkit.judge import Verdict
from modelkit.problems.problem import PAUSING
from modelkit.runtime.threads import PYOMO
from modelkit.schedule import Schedule

#: ``exact``: the optimum. ``lower-bound``: never above it. ``heuristic``: never below it.
Claim = Literal["exact", "lower-bound", "heuristic"]


@dataclass(frozen=True, kw_only=True)
class Formulation:
    """One optimisation model.

    Parameters
    ----------
    name
        The file's stem with dashes.
    summary
        One line.
    claim
        What its optimum says about the problem's.
    reference
        Paper and equation.
    objective
        The metric it minimises, without its unit: ``total_latency``, ``makespan`` or, with ``value``, a name of its
        own, whose unit ends the doc of the model's objective: ``cost of the energy [$]``.
    problem
        What it is a model of: formulations of one problem and claim have one optimum. The problems
        ``kv-hindsight`` (minimum total latency, unit clock, no preemption) and ``slots`` (minimum makespan in stages)
        have certified bounds.
    needs
        Returns why an instance is outside the formulation, or None.
    build
        Fills a ``pyomo.environ.AbstractModel``; adds to the extended one's in a variant.
    data
        Values of the model's sets and parameters, by name; scalar, list or dictionary by index. In a variant, those
        that it adds or changes. ``data(instance)``, or ``data(instance, known)``: it is then handed a
        `modelkit.Known`, what is known of the instance for its problem, such as the starts that an
        optimal schedule may use. In what a variant inherits, that is the variant's problem.
    extract
        Schedule from a solved model.
    start
        Sets the variables of a model to what a schedule says; raises KeyError when the model has
        no such variable. None: no MIP start.
    extends
        Name of the formulation that this one adds to, its file, or the object; several variants of one formulation
        are combined, in this order.
    parameters
        What it takes beyond the instance. All functions here see an instance whose ``extra`` holds the value of
        each, and nothing else.
    admissible
        What a valid schedule breaks of the formulation's own rules, one sentence each, from the judge's replay. None:
        the judge's rules are all there are. A variant that adds constraints says them here in plain Python; without,
        its claim cannot be compared with brute force.
    value
        The objective, computed from the judge's replay. None: the judge's metric named by ``objective``.
    obstacles
        Why an instance has no schedule, in the domain's words, one sentence each; for ``modelkit diagnose``.
    separator
        What finds rows for a built model while a solver searches, where the solver can be given some in the tree. They
        hold for every solution of the constraints, so that variants keep them.
    pauses
        Whether it is a model of servers on which requests may be paused (``server.pause``); others refuse those.
    in_full
        Whether what it inherits is filled in; modelkit sets it.
    """

    name: str
    summary: str
    claim: Claim
    reference: str
    objective: str | None = None
    problem: str | None = None
    needs: Callable[[Instance], str | None] | None = None
    build: Callable[[Any], None] | None = None
    data: Callable[..., dict[str, Any]] | None = None
    extract: Callable[[Any, Instance], Schedule] | None = None
    start: Callable[[Any, Instance, Schedule], None] | None = None
    extends: str | Formulation | tuple[str | Formulation, ...] | list[str | Formulation] | None = None
    parameters: tuple[Parameter, ...] = ()
    admissible: Callable[[Instance, Verdict], list[str]] | None = None
    value: Callable[[Instance, Verdict], float] | None = None
    obstacles: Callable[[Instance], list[str]] | None = None
    separator: Callable[[Any, Instance], Separator | None] | None = None
    pauses: bool = False
    in_full: bool = False

    def with_parameters(self, instance: Instance, given: Mapping[str, Any] | None = None) -> Instance:
        """The instance as this formulation's functions see it: ``extra`` holds the value of each parameter.

        Raises
        ------
        UsageError, InputError
            See `modelkit.formulation.parameters.settle`.
        """
        values = settle(self.parameters, instance, given or {}, self.name)
        return instance if values == instance.extra else instance.replace(extra=values)

    def ask(self, function: str, *arguments: Any) -> Any:
        """What the function of that name returns, in the type that it should have.

        Raises
        ------
        FormulationFailedError
            It raises an error, ends the interpreter, or returns something else.
        """
        with asking(self.words, function):
            call = getattr(self, function)
            answer = (_knowing(call) if function == "data" else call)(*arguments)
            fits, allowed = _RETURNS[function]
            if not fits(answer):
                raise FormulationFailedError(f"{self.words}: {function}() returns {shown(answer)}; allowed: {allowed}")
            return _MADE[function](answer) if function in _MADE else answer

    def __repr__(self) -> str:
        bases = [parent if isinstance(parent, str) else parent.name for parent in self.parents]
        words = [repr(self.name), self.claim, *([f"extends {', '.join(bases)}"] if bases else [])]
        words += [f"parameters {', '.join(p.name for p in self.parameters)}"] if self.parameters else []
        return f"Formulation({', '.join(words)})"

    @property
    def parents(self) -> tuple[str | Formulation, ...]:
        """What it extends, one by one."""
        if self.extends is None:
            return ()
        return tuple(self.extends) if isinstance(self.extends, tuple | list) else (self.extends,)

    @property
    def words(self) -> str:
        """What messages call it."""
        return f"formulation {self.name!r}"

    def apply(self, function: Callable[..., Any], *arguments: Any, within: float | None = None) -> Any:
        """``function(formulation, *arguments)`` where the formulation's functions can be called: here.

        ``within`` is how many seconds that may take, where it can be stopped.
        """
        return function(self, *arguments)

    def breaks(self, instance: Instance, verdict: Verdict) -> list[str]:
        """What a judged schedule breaks of the formulation's own rules; the instance has its parameters."""
        return list(self.ask("admissible", instance, verdict)) if self.admissible and verdict.valid else []

    def metric(self, instance: Instance) -> str:
        """The judge's metric that is the objective, or the name of one of its own, which has a ``unit`` apart."""
        return f"{self.objective}_{instance.unit}" if self.value is None else str(self.objective)

    @property
    def unit(self) -> str | None:
        """The unit of an objective of its own, as the doc of the model's objective ends in it; None where it has none.

        Of a metric of the judge's, None: that has the unit in its name.
        """
        return None if self.value is None or self.build is None else unit_at_end(self.objective_doc)

    @property
    def objective_doc(self) -> str:
        """The doc of the model's objective; empty where there is none, or the model cannot be made."""
        from pyomo.environ import Objective

        try:
            objectives = list(self.abstract().component_objects(Objective, active=True))
        except ModelkitError:
            return ""
        return str(objectives[-1].doc or "").strip() if objectives else ""

    def evaluate(self, instance: Instance, verdict: Verdict) -> float | None:
        """Objective of a judged schedule, None unless it is valid and admissible; the instance has its parameters."""
        if not verdict.valid or self.breaks(instance, verdict):
            return None
        if self.value is not None:
            return float(self.ask("value", instance, verdict))
        return verdict.metrics.get(self.metric(instance))

    def chosen_for(self, asked: Collection[str]) -> bool:
        """Whether ``solve`` should take it by itself: it has all of the parameters and, if a variant, any of them."""
        known = {p.name for p in self.parameters}
        return known.issuperset(asked) and bool(known) == bool(asked) and (not self.parents or bool(known))

    def refusal(self, instance: Instance) -> str | None:
        """Why the instance is outside this formulation, or None."""
        if instance.server.pause is not None and not self.pauses:
            return PAUSING
        why: str | None = self.ask("needs", instance) if self.needs else None
        return why

    def values(self, instance: Instance, known: Any) -> dict[str, Any]:
        """The data of the model of an instance with parameters; ``known`` as in `instantiate`."""
        if self.data is None:
            raise FormulationError(f"{self.words} has no data")
        values: dict[str, Any] = self.ask("data", instance, known)
        return values

    def hindrances(self, instance: Instance) -> list[str]:
        """Why an instance with parameters has no schedule, in the domain's words."""
        return list(self.ask("obstacles", instance)) if self.obstacles else []

    def schedule_from(self, model: Any, instance: Instance) -> Schedule:
        """The schedule that a solved model of an instance with parameters says; there is an ``extract``."""
        schedule: Schedule = self.ask("extract", model, instance)
        return schedule

    def set_start(self, model: Any, instance: Instance, schedule: Schedule) -> bool:
        """Start a model from a schedule; False where it has no such variable. There is a ``start``."""
        assert self.start is not None
        with asking(self.words, "start"):
            try:
                self.start(model, instance, schedule)
            except KeyError:
                return False
        return True

    def separator_for(self, model: Any, instance: Instance) -> Separator | None:
        """What finds rows for a built model of an instance with parameters, or None."""
        if self.separator is None:
            return None
        with asking(self.words, "separator"):
            return self.separator(model, instance)

    def extend(self, base: Formulation) -> Formulation:
        """This variant with what it inherits from ``base`` filled in."""

        def both_needs(instance: Instance) -> str | None:
            why: str | None = base.refusal(instance)
            return why or (self.ask("needs", instance) if self.needs else None)

        def both_build(m: Any) -> None:
            for part in (base.build, self.build):
                if part:
                    part(m)

        def both_data(instance: Instance, known: Any) -> dict[str, Any]:
            parts = [_knowing(part)(instance, known) for part in (base.data, self.data) if part]
            return {key: value for part in parts for key, value in part.items()}

        def both_admissible(instance: Instance, verdict: Verdict) -> list[str]:
            parts = [part(instance, verdict) for part in (base.admissible, self.admissible) if part]
            return [words for part in parts for words in part]

        def both_obstacles(instance: Instance) -> list[str]:
            parts = [part(instance) for part in (base.obstacles, self.obstacles) if part]
            return [words for part in parts for words in part]

        own = {p.name for p in self.parameters}
        keeps_rules = self.problem is not None or self.build is None  # what adds rules has to say them in plain Python
        return replace(
            self,
            parameters=(*(p for p in base.parameters if p.name not in own), *self.parameters),
            admissible=both_admissible if self.admissible else base.admissible if keeps_rules else None,
            value=self.value or (base.value if self.objective in (None, base.objective) else None),
            obstacles=both_obstacles,
            pauses=base.pauses,
            objective=self.objective or base.objective,
            needs=both_needs,
            build=both_build,
            data=both_data,
            extract=self.extract or base.extract,
            start=self.start or base.start,
            separator=self.separator or base.separator,
            in_full=True,
        )

    def instantiate(self, instance: Instance, known: Any, *, within: float | None = None) -> Any:
        """The concrete Pyomo model of ``instance``.

        Parameters
        ----------
        known
            What is known of it for this formulation (`modelkit.solving.known.known_of`).
        within
            Seconds that it may take, where it can be stopped.

        Raises
        ------
        FormulationError
            The data name no component of the model, leave one without value, or Pyomo refuses them.
        """
        if self.value is None and self.extract is not None:
            refuse_metric(self.objective, instance, self.words)
        data = self.values(instance, known)
        model = self.create_model(self.abstract(), data, instance.name)
        refuse_maximising(model, self.words)
        return model

    def abstract(self, kind: type[Any] | None = None) -> Any:
        """The abstract model, of class ``kind`` where that is not ``pyomo.environ.AbstractModel`` itself."""
        if self.build is None:
            raise FormulationError(f"formulation {self.name!r} has no build")
        import pyomo.environ as pyo  # late: takes 0.4 s

        model = (kind or pyo.AbstractModel)(name=self.name)
        with asking(self.words, "build"), replacing_refused(self.words):
            self.build(model)
        refuse_names(model, self.words)
        return model

    def create_model(self, abstract: Any, data: Mapping[str, Any], title: str) -> Any:
        """The concrete model of ``data``; ``title`` names the instance in messages."""
        from pyomo.common.gc_manager import PauseGC

        faults = key_faults(abstract, data)
        if faults:
            raise FormulationError(f"formulation {self.name!r}: {faults[0]}")
        values = {key: _flat(value) if isinstance(value, dict) else {None: value} for key, value in data.items()}
        try:
            # nothing that is built here is garbage; looking for it costs a tenth of the time
            with PYOMO, asking(self.words, "build", passing=_REFUSED), PauseGC():
                model = abstract.create_instance({None: values}, report_timing=False)
        except _REFUSED as error:
            raise FormulationError(
                f"formulation {self.name!r} cannot be built for instance {title!r}: {type(error).__name__}: {error}"
            ) from error
        return model


def _knowing(data: Callable[..., Any]) -> Callable[[Instance, Any], Any]:
    """``data(instance, known)``, also of a function that takes the instance alone."""
    try:
        takes = list(inspect.signature(data).parameters.values())
    except (TypeError, ValueError):
        takes = []
    given = [p for p in takes if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    if len(given) > 1 or any(p.kind is p.VAR_POSITIONAL or p.name == "known" for p in takes):
        return data
    return lambda instance, known: data(instance)


#: What Pyomo raises where a rule fails or a value is outside its set.
_REFUSED = (ValueError, KeyError, RuntimeError, TypeError)


def _are_sentences(answer: object) -> bool:
    return isinstance(answer, list | tuple) and all(isinstance(words, str) for words in answer)


#: What the functions return: whether an answer is that, and in words.
_RETURNS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "needs": (lambda answer: answer is None or isinstance(answer, str), "None, or why the instance is outside it"),
    "data": (lambda answer: isinstance(answer, dict), "a dictionary from names to values"),
    "extract": (lambda answer: isinstance(answer, Schedule), "a Schedule"),
    "admissible": (_are_sentences, "a list of sentences, empty where the schedule breaks nothing"),
    "value": (lambda answer: math.isfinite(float(answer)), "a number"),
    "obstacles": (_are_sentences, "a list of sentences"),
}
#: What is made of answers that other types stand for too, such as NumPy's.
_MADE: dict[str, Callable[[Any], Any]] = {"value": float}


def _flat(values: dict[Any, Any]) -> dict[Any, Any]:
    """Values by index; an object of objects, such as parameters of pairs are, by pairs of their keys."""
    if not isinstance(next(iter(values.values()), None), dict):
        return values
    return {
        (key, *(inner if isinstance(inner, tuple) else (inner,))): value
        for key, entries in values.items()
        for inner, value in _flat(entries).items()
    }


def chosen(variable: Any) -> bool:
    """Whether a binary variable is 1 in the solution: the one rule by which binaries are rounded.

    Raises
    ------
    FormulationError
        Its value is further than 1e-4 from both 0 and 1.
    """
    value = variable.value
    if value is None:
        return False
    if abs(value - round(value)) > 1e-4:
        raise FormulationError(
            f"binary {variable.name} has the value {value}, not 0 or 1 to 1e-4; its domain is to be pyo.Binary"
        )
    return bool(round(value) == 1)
