"""What a result is a solution of: an objective and rules, those of the judge alone or those of a variant as well.

Values, bounds and optima of one goal say nothing of another, so results are told apart by their goal first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from modelkit.certificate import Certificate
from modelkit.errors import ModelkitError
from modelkit.formulation.formulation import Formulation
from modelkit.formulation.hosting import formulation_of, load_formulation
from modelkit.formulation.loading import formulation_files
from modelkit.instance import Instance
from modelkit.judge import Verdict, metric_names
from modelkit.problems.problem import MODELS, OUTSIDE_SLO
from modelkit.requests import ServiceLevels
from modelkit.result import Result
from modelkit.text import bare, brief, measured, metric_noun, plural, quantity, unit_words
from modelkit.verify.formulation_rules import rules_of_formulation
from modelkit.verify.result import OwnRules

#: Totals in real time, and the means that are shown in their place.
MEANS = {"total_latency_ms": "mean_latency_ms", "total_ttft_ms": "mean_ttft_ms"}
#: What a search's result is called that belongs to a variant without saying to which.
UNNAMED = "a variant without a name"

_JUDGED = {name for is_unit in (True, False) for name in metric_names(is_unit, slo=True, pauses=True, prefixes=True)}


@dataclass(frozen=True)
class Goal:
    """An objective, and rules beyond the judge's.

    Parameters
    ----------
    objective
        The metric that is minimised.
    variant
        The formulation that adds rules or an objective of its own; empty for the judge's rules alone.
    parameters
        The variant's, as JSON.
    unit
        Of an objective of the variant's own; empty where it has none, or where the metric's name ends in it.
    requests
        Of the instance, by which totals are divided that are shown as means.
    """

    objective: str
    variant: str = ""
    parameters: str = ""
    unit: str = ""
    requests: int = field(compare=False, kw_only=True)

    @property
    def shown(self) -> str:
        """The metric that is shown: of a total in real time, which says nothing over many requests, the mean."""
        return MEANS.get(self.objective, self.objective) if self.is_metric else self.objective

    @property
    def per(self) -> int:
        """What values are divided by where they are shown."""
        return 1 if self.shown == self.objective else self.requests

    @property
    def is_metric(self) -> bool:
        """Whether the objective is a metric of the judge's."""
        return self.objective in _JUDGED

    @property
    def noun(self) -> str:
        """What the objective is called in a sentence."""
        return metric_noun(self.shown)

    @property
    def given(self) -> dict[str, Any]:
        """The variant's parameters by name."""
        values: dict[str, Any] = json.loads(self.parameters or "{}")
        return values

    @property
    def title(self) -> str:
        """The objective and the rules: ``weighted latency of kv-weighted-latency (weight = 2)``."""
        if not self.variant:
            return self.noun
        given = ", ".join(f"{name} = {brief(value)}" for name, value in self.given.items())
        return f"{self.noun} of {self.variant}" + (f" ({given})" if given else "")

    @property
    def kind(self) -> Goal:
        """The same on any instance: without the numbers of parameters by request or group, which are its own."""
        given = {
            name: "of each instance" if isinstance(value, Mapping) else value for name, value in self.given.items()
        }
        return replace(self, parameters=json.dumps(given, sort_keys=True) if given else "")

    def quantity(self, value: float | None) -> str:
        """A value of the objective with its unit: that of the judge's metric, or the variant's own."""
        if self.is_metric:
            return quantity(self.shown, None if value is None else value / self.per)
        return measured(value, self.unit)

    def bare(self, value: float | None) -> str:
        """The same for a column whose heading names the unit."""
        if self.is_metric:
            return bare(self.shown, None if value is None else value / self.per)
        return measured(value, self.unit if self.unit == "ms" else "")

    @property
    def unit_words(self) -> str:
        """The unit for such a heading."""
        if self.is_metric:
            return unit_words(self.objective)
        return "" if self.unit in ("", "1", "ms") else f" [{plural(self.unit)}]"


def whole_numbers(value: Any) -> Any:
    """Parameters with whole numbers as such: 5.0 is the 5 that stands in its file."""
    if isinstance(value, Mapping):
        return {name: whole_numbers(part) for name, part in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Formulations:
    """Formulations by name: those at hand, else those in the folders where modelkit finds them.

    A result names a formulation, never a file to load it from: what others wrote must not choose what runs here.

    Parameters
    ----------
    known
        Formulations, their names or their files.
    """

    def __init__(self, known: Iterable[str | Formulation] = ()) -> None:
        loaded = [formulation_of(f) for f in known]
        self._found: dict[str, Formulation | None] = {f.name: f for f in loaded}

    def find(self, name: str) -> Formulation | None:
        """The formulation of that name; None where there is none, or it cannot be loaded."""
        if name not in self._found:
            self._found[name] = None
            if not name.endswith(".py") and name in formulation_files():
                try:
                    self._found[name] = load_formulation(name)
                except ModelkitError:
                    self._found[name] = None
        return self._found[name]


def goal_of(result: Result, formulations: Formulations) -> Goal | None:
    """The goal that a result is about; None where it states no objective, as a run that failed."""
    producer, objective, requests = result.producer, result.objective.name, result.instance.requests
    if objective is None:
        return None
    plain = Goal(objective, parameters=_levels(objective, result.slo), requests=requests)
    if producer.kind == "policy" or common(result, formulations):
        return plain
    parameters = json.dumps(whole_numbers(producer.parameters), sort_keys=True) if producer.parameters else ""
    unit = result.objective.unit or ""
    if producer.kind == "improvement":
        own = parameters or objective not in _JUDGED
        return Goal(objective, UNNAMED, parameters, unit, requests=requests) if own else plain
    return Goal(objective, producer.name, parameters, unit, requests=requests)


def certified_goal(certificate: Certificate) -> Goal:
    """The goal that a certificate is about."""
    slo = None if certificate.goodput is None else certificate.goodput.slo
    return Goal(certificate.metric, parameters=_levels(certificate.metric, slo), requests=certificate.instance.requests)


def _levels(objective: str, slo: ServiceLevels | None) -> str:
    """Service levels beside the instance's, of which an objective says nothing at others."""
    return json.dumps(slo.document(), sort_keys=True) if slo is not None and objective == OUTSIDE_SLO else ""


def silent_goal(
    result: Result, told: Iterable[tuple[str, Goal]], instance: Instance | None, formulations: Formulations
) -> Goal | None:
    """The goal of a run that states no objective, as one that failed; None where that is the judge's rules alone.

    Parameters
    ----------
    told
        Names of producers with the goals that their results state.
    """
    producer = result.producer
    name = producer.name.replace("\\", "/").rpartition("/")[2].removesuffix(".py").replace("_", "-")
    asked = whole_numbers(producer.parameters)
    for other, goal in told:
        if other == name and asked == {key: value for key, value in goal.given.items() if key in asked}:
            return goal
    found = formulations.find(name) if producer.kind == "formulation" else None
    if found is None or found.problem in MODELS or found.objective is None or instance is None:
        return None
    parameters = json.dumps(asked, sort_keys=True) if asked else ""
    return Goal(found.metric(instance), name, parameters, found.unit or "", requests=result.instance.requests)


def common(result: Result, formulations: Formulations) -> bool:
    """Whether a formulation's result, and its bound with it, is about every schedule that keeps the judge's rules."""
    producer = result.producer
    if producer.problem is not None or producer.kind != "formulation":
        return producer.problem in MODELS
    found = formulations.find(producer.name)
    return found is not None and found.problem in MODELS


@dataclass(frozen=True)
class Rules:
    """How a goal values a schedule on one instance.

    Parameters
    ----------
    own
        What it adds to the judge; None where it adds nothing.
    unchecked
        Why its rules are not checked; empty where they are.
    inherits
        Whether a bound on the judge's metric of this name holds here too: the objective is that metric.
    """

    own: OwnRules | None = None
    unchecked: str = ""
    inherits: bool = False


def rules_of(goal: Goal, instance: Instance | None, formulations: Formulations) -> Rules:
    """The rules of a goal on an instance, from its formulation."""
    if not goal.variant:
        return Rules(inherits=True)
    name = goal.variant
    found = formulations.find(name)
    if instance is None:
        return Rules(unchecked=f"rules of {name} not checked: the instance is not available")
    if found is None:
        why = "its result does not say which" if name == UNNAMED else "file not found"
        return Rules(unchecked=f"rules of {name} not checked: {why}")
    try:
        parametrised = found.with_parameters(instance.replace(extra={}), goal.given)
    except ModelkitError as error:
        return Rules(unchecked=f"rules of {name} not checked: {' '.join(str(error).split())}")
    inherits = found.value is None and found.metric(instance) == goal.objective
    if found.metric(instance) == goal.objective and (found.unit or "") != goal.unit:
        return Rules(unchecked=f"rules of {name} not checked: its objective is in [{found.unit}] now")
    if found.metric(instance) != goal.objective:
        return Rules(unchecked=f"rules of {name} not checked: its objective is {found.metric(instance)} now")
    own = replace(
        rules_of_formulation(found, parametrised), value=partial(found.evaluate, parametrised)
    )  # the judge's metric, too
    unchecked = "" if found.admissible else f"rules of {name} not checked: it states none in plain Python"
    return Rules(own, unchecked, inherits)


def take_as_stated(value: float | None) -> Callable[[Verdict], float | None]:
    """An objective that only a formulation can compute that is not at hand: what the file says."""
    return lambda verdict: value if verdict.valid else None
