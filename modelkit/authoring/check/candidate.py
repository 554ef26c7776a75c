"""What the rules look at: a formulation file, what it holds, and what comes of solving it; each computed once."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from modelkit.authoring.check.brute_force import Best, best_schedule, can_enumerate
from modelkit.authoring.check.tiny_instances import tiny_instances
from modelkit.backends import Limits, Outcome, backend, backends
from modelkit.errors import FormulationError
from modelkit.formulation.formulation import Formulation
from modelkit.formulation.loading import base_of, file_of, in_full, load_formulation
from modelkit.instance import Instance
from modelkit.judge import Verdict, judge
from modelkit.runtime.deadline import Deadline
from modelkit.schedule import Schedule
from modelkit.solving.known import known_of

_A = TypeVar("_A")
_B = TypeVar("_B")

#: Seconds for a solver on a tiny instance.
TIME_LIMIT = 20.0
#: SCIP spends seconds on cuts at the root of tiny models; the optimum is the same without.
OPTIONS: dict[str, dict[str, Any]] = {"scip": {"separating/maxroundsroot": 5}}

#: Docstring heading of each kind of component.
HEADINGS = {"Set": "Sets", "RangeSet": "Sets", "Param": "Parameters", "Var": "Variables", "Objective": "Objective",
            "Constraint": "Constraints"}  # fmt: skip


@dataclass(frozen=True)
class Solved:
    """A tiny instance, its outcome, the model's own objective, and the judged schedule; None where there is none.

    ``schedule`` is that of the model, which may read prompts in chunks.
    """

    instance: Instance
    outcome: Outcome
    model_value: float | None
    verdict: Verdict | None
    broken: list[str]
    value: float | None
    schedule: Schedule | None = None

    @property
    def chunked(self) -> bool:
        """Whether the schedule reads prompts in chunks."""
        return self.schedule is not None and any(segment.chunks for segment in self.schedule.segments)


@dataclass
class Subject:
    """A formulation under test.

    Parameters
    ----------
    asked
        Name, ``.py`` file, or the object itself, whose file nobody looks at.
    given
        Parameters; those that are not given take their examples.
    wanted
        Tiny instances to draw.
    deadline
        When no further instance is solved; the first is in any case.
    tell
        Called with how many instances are solved or searched, and of how many.
    """

    asked: str | Formulation
    given: Mapping[str, Any] = field(default_factory=dict)
    wanted: int = 50
    deadline: Deadline = field(default_factory=Deadline)
    tell: Callable[[int, int], None] = lambda done, of: None

    @property
    def name(self) -> str:
        """Name or file."""
        return self.asked if isinstance(self.asked, str) else self.asked.name

    @cached_property
    def path(self) -> Path:
        """The file; of an object, the one in which its model is built."""
        if isinstance(self.asked, str):
            return file_of(self.asked).resolve()
        code = getattr(self.asked.build, "__code__", None)
        return Path(code.co_filename if code else self.asked.name)

    @cached_property
    def docstring(self) -> str:
        """The docstring of the file."""
        return ast.get_docstring(ast.parse(self.path.read_bytes())) or ""

    @cached_property
    def sections(self) -> dict[str, str]:
        """Text below each heading of the docstring."""
        parts = re.split(r"^(\w[\w ]*)\n-{3,}[ ]*$", self.docstring, flags=re.MULTILINE)
        return {heading: text.strip() for heading, text in zip(parts[1::2], parts[2::2], strict=True)}

    @cached_property
    def formulation(self) -> Formulation:
        """In full, with what it inherits."""
        return load_formulation(self.asked) if isinstance(self.asked, str) else in_full(self.asked)

    @cached_property
    def base(self) -> Formulation | None:
        """What it extends, in full."""
        return base_of(self.asked)

    @cached_property
    def abstract(self) -> Any:
        return self.formulation.abstract()

    @cached_property
    def own_components(self) -> list[Any]:
        """Sets, parameters, variables, objectives and constraints that the file itself adds."""
        inherited = {c.local_name for c in self.base.abstract().component_objects()} if self.base else set()
        components = self.abstract.component_objects()
        return [c for c in components if c.ctype.__name__ in HEADINGS and c.local_name not in inherited]

    @cached_property
    def instances(self) -> list[Instance]:
        """Tiny instances that the formulation takes, with parameters."""
        return tiny_instances(self.formulation, self.wanted, self.given)

    @property
    def changed(self) -> str | None:
        """What a function of the file has changed of an instance that it was handed; None where all are as drawn."""
        drawn = tiny_instances(self.formulation, self.wanted, self.given)
        for given, fresh in zip(self.instances, drawn, strict=True):
            for key in {**fresh.extra, **given.extra}:
                if given.extra.get(key) != fresh.extra.get(key):
                    return f"instance.extra[{key!r}] was {fresh.extra.get(key)!r} and is {given.extra.get(key)!r}"
        return None

    @cached_property
    def solved(self) -> list[Solved]:
        """The tiny instances on the first solver, as many as there is time for."""
        return list(self._in_time(self.instances, lambda i: self.solve(self.formulation, i, self.solvers[0])))

    @cached_property
    def pairs(self) -> list[tuple[Solved, Best | None]]:
        """Those with what brute force finds where that is possible, as many as there is time for."""

        def search(solved: Solved) -> tuple[Solved, Best | None]:
            instance = solved.instance
            if not self.enumerates(instance):
                return solved, None
            ends = [s.end for s in solved.verdict.residencies if s.end is not None] if solved.verdict else []
            last = int(max(ends, default=0)) if instance.is_unit else 0
            return solved, best_schedule(self.formulation, instance, chunked=self.chunked, last=last)

        return list(self._in_time(self.solved, search))

    @cached_property
    def chunked(self) -> bool:
        """Whether its schedules say the chunks in which prompts are read."""
        return any(solved.chunked for solved in self.solved)

    def enumerates(self, instance: Instance) -> bool:
        """Whether brute force tries all of its schedules of such an instance."""
        return can_enumerate(instance, chunked=self.chunked)

    def _in_time(self, things: Sequence[_A], make: Callable[[_A], _B]) -> Iterator[_B]:
        for n, thing in enumerate(things):
            if n and self.deadline.over:
                return
            self.tell(n, len(things))
            yield make(thing)

    @cached_property
    def solvers(self) -> list[str]:
        """Solvers that work here, modelkit's own first."""
        return [name for name, engine in backends().items() if engine.availability()[0]]

    def solve(self, formulation: Formulation, instance: Instance, solver: str) -> Solved:
        """Build, solve, extract, judge; the instance has the parameters of ``formulation``."""
        import pyomo.environ as pyo

        model = formulation.instantiate(instance, known_of(formulation, instance))
        limits = Limits(time_limit=TIME_LIMIT, threads=1)
        separator = formulation.separator_for(model, instance)
        outcome = backend(solver).solve(model, limits, OPTIONS.get(solver, {}), separator=separator)
        if outcome.found == "unbounded":
            raise FormulationError(
                f"{solver} on {instance.name}: the model is unbounded; a variable of the objective has no bound, and no"
                " constraint keeps the objective from falling"
            )
        if outcome.stop != "finished" or outcome.found not in ("solution", "infeasible"):
            raise FormulationError(
                f"{solver} on {instance.name}: {outcome.stop}, found {outcome.found}"
                + (f" ({outcome.message})" if outcome.message else "")
            )
        if outcome.found == "infeasible":
            return Solved(instance, outcome, None, None, [], None)
        model_value = float(pyo.value(next(model.component_data_objects(pyo.Objective, active=True))))
        if formulation.extract is None:
            return Solved(instance, outcome, model_value, None, [], None)
        schedule = formulation.schedule_from(model, instance)
        verdict = judge(instance, schedule)
        return Solved(
            instance,
            outcome,
            model_value,
            verdict,
            formulation.breaks(instance, verdict),
            formulation.evaluate(instance, verdict),
            schedule=schedule,
        )
