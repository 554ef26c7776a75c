"""Rules about what a formulation does: they build, solve and compare."""

from __future__ import annotations

import math
import os
import sys
import time
from types import FrameType
from typing import Any

from modelkit.authoring.check.candidate import Subject
from modelkit.authoring.check.claims import against, describe, forbidden, same, words
from modelkit.authoring.check.documentation import first_probe
from modelkit.authoring.check.probe import probe
from modelkit.authoring.check.rules import Complaint, rule
from modelkit.authoring.check.tiny_instances import examples, growing
from modelkit.backends.standard_form import compile_model
from modelkit.errors import ModelkitError, ModelRefusedError
from modelkit.formulation.formulation import Formulation
from modelkit.formulation.hosting import found_formulations
from modelkit.formulation.loading import load_formulation
from modelkit.solving.known import known_of

#: Instances that every solver solves.
EVERY_SOLVER = 4
#: Exponent of work over size above which building is called slow; 1 is in proportion.
STEEPEST = 1.25
#: What is amiss where a schedule breaks a rule of the judge.
_CAUSES = {
    "kv_capacity": "either the rows of the memory are missing or too weak, or a request is taken to end too early",
    "before_arrival": "the sets of data() have starts before the arrival",
}
#: What to do about a model that is not linear.
_LINEAR = (
    "write a product of variables as a variable of its own with linear rows; what is minimised and all rows are linear"
)
#: Requests in the three models whose building is compared.
SIZES = (6, 12, 24)


@rule("builds", "it builds on tiny instances", "data")
def builds(subject: Subject) -> str | list[Complaint]:
    """All of them."""
    complaints = []
    for instance in subject.instances:
        try:
            model = subject.formulation.instantiate(instance, known_of(subject.formulation, instance))
            compile_model(model)
        except ModelkitError as error:
            advice = (
                _LINEAR if "not linear" in str(error) else "the rules must hold for every instance that needs() takes"
            )
            complaints.append(Complaint.of(error, advice, f"{describe(instance)}: "))
            break
    return complaints or f"built on {len(subject.instances)} tiny instances"


@rule("stable", "names, index sets and rows are the same in every run", "builds")
def stable(subject: Subject) -> str | list[Complaint]:
    """Built in two interpreters whose hashes differ."""
    first = first_probe(subject)
    second = probe(subject.name, subject.given, hash_seed=2)
    for found in (first, second):
        if found.error or found.build_error:
            return [
                Complaint(
                    found.error or found.build_error,
                    "it builds here but not in a fresh interpreter; look for state that the file depends on",
                )
            ]
    for one, other in zip(first.built, second.built, strict=False):
        if one != other:
            advice = (
                "not deterministic: iterate over lists or sorted(...), never over set(...), and draw from a"
                " seeded generator"
            )
            if sorted(first.built) == sorted(second.built):
                return [Complaint(f"the order differs between runs: here {cut(one)}, there {cut(other)}", advice)]
            return [Complaint(f"the model differs between runs: here {cut(one)}, there {cut(other)}", advice)]
    if len(first.built) != len(second.built):
        return [Complaint("the number of rows differs between runs", "the model is not deterministic")]
    return f"{len(first.built)} variables and rows, the same in two interpreters"


@rule("solves", "every available solver solves it, to one value", "builds")
def solves(subject: Subject) -> str | list[Complaint]:
    """A few tiny instances on all of them."""
    complaints: list[Complaint] = []
    refusals: dict[str, str] = {}
    for n, instance in enumerate(subject.instances[: min(EVERY_SOLVER, len(subject.solved))]):
        values: dict[str, float | None] = {}
        for name in subject.solvers:
            try:
                solved = (
                    subject.solved[n]
                    if name == subject.solvers[0]
                    else subject.solve(subject.formulation, instance, name)
                )
            except ModelRefusedError as error:
                refusals[name] = str(error)
                continue
            except ModelkitError as error:
                complaints.append(
                    Complaint(str(error), "read its message; `modelkit export` writes the model that it was given")
                )
                return complaints
            values[name] = solved.model_value
        first = next(iter(values.values()))
        if any(not same(value, first) for value in values.values()):
            said = ", ".join(f"{name} {words(value)}" for name, value in values.items())
            complaints.append(
                Complaint(
                    f"{describe(instance)}: the solvers disagree: {said}",
                    "coefficients of very different size, or big-M constraints, are the usual cause",
                )
            )
    takers = ", ".join(name for name in subject.solvers if name not in refusals)
    return complaints or f"one value on {takers}" + "".join(f" ({words})" for words in refusals.values())


@rule("judged", "the judge accepts the extracted schedule, at the model's own value", "solves")
def judged(subject: Subject) -> str | list[Complaint]:
    """The value only of what claims to be exact, and only where the model's optimum is that of brute force."""
    formulation = subject.formulation
    if formulation.extract is None:
        if formulation.claim == "lower-bound":
            return "a bound without schedule"
        return [Complaint("there is no extract()", "write extract(model, instance), which returns a Schedule")]
    if complaint := _wrong_start(subject):
        return [complaint]
    count = 0
    for solved, best in subject.pairs:
        if solved.verdict is None:
            continue
        count += 1
        if not solved.verdict.valid:
            violation = solved.verdict.violations[0]
            return [
                Complaint(
                    f"{describe(solved.instance)}: the schedule breaks {violation.rule}: {violation.message}",
                    _CAUSES.get(violation.rule, "either a constraint is missing or too weak")
                    + ", or extract() misreads the variables",
                )
            ]
        if solved.broken:
            return [
                Complaint(
                    f"{describe(solved.instance)}: {solved.broken[0]}",
                    "admissible() and the constraints disagree; one of them is wrong",
                )
            ]
        model_is_right = best is None or same(solved.model_value, best.value)
        if formulation.claim == "exact" and model_is_right and not same(solved.value, solved.model_value):
            return [
                Complaint(
                    f"{describe(solved.instance)}: the model's objective is {words(solved.model_value)}, the"
                    f" schedule's {formulation.metric(solved.instance)} is {words(solved.value)}",
                    "the coefficients of the objective, from data(), and value() disagree, or extract() misreads the"
                    " variables"
                    if formulation.value
                    else "extract() misreads the variables, or `objective` names another metric than the model"
                    " minimises",
                )
            ]
    if changed := subject.changed:
        return [Complaint(f"a function changes what it is given: {changed}", "work on a copy of it")]
    return f"{count} schedule{'' if count == 1 else 's'} accepted"


def _wrong_start(subject: Subject) -> Complaint | None:
    """That the file's own start() sets variables to what its own model forbids."""
    formulation, base = subject.formulation, subject.base
    if formulation.start is None or (base is not None and formulation.start is base.start):
        return None
    for solved in subject.solved[:EVERY_SOLVER]:
        if solved.schedule is not None and (words := forbidden(formulation, solved.instance, solved.schedule)):
            return Complaint(
                f"{describe(solved.instance)}: of the model's own schedule{words}",
                "start() sets every variable that it sets to what the schedule says; solvers refuse other starts",
            )
    return None


@rule("claim", "the claim holds against brute force and siblings", "judged")
def claim(subject: Subject) -> str | list[Complaint]:
    """``exact``: equal. ``lower-bound``: never above. ``heuristic``: never below."""
    formulation = subject.formulation
    known = formulation.problem is not None or formulation.admissible is not None
    if not known:
        return [
            Complaint(
                "only the model says which schedules are admissible, so brute force cannot check its claim",
                "give admissible(instance, verdict) in plain Python; it returns [] where only the objective differs",
            )
        ]
    compared = 0
    for solved, best in subject.pairs:
        if not subject.enumerates(solved.instance):
            continue
        compared += 1
        complaint = against(formulation, solved, best)
        if complaint:
            return [complaint]
    siblings = _siblings(formulation) if formulation.claim == "exact" else []
    for sibling in siblings:
        for solved in subject.solved:
            if sibling.refusal(solved.instance) is None:
                other = subject.solve(sibling, solved.instance, subject.solvers[0])
                if not same(other.value, solved.value):
                    return [
                        Complaint(
                            f"{describe(solved.instance)}: {formulation.name} finds {words(solved.value)},"
                            f" {sibling.name} {words(other.value)}",
                            "formulations of one problem have one optimum; if it is another problem, name it",
                        )
                    ]
    if not compared:
        return [
            Complaint(
                "it takes no instance that brute force can enumerate (those with mixed = false have no arrivals)",
                "widen needs(), or make no claim that cannot be checked",
            )
        ]
    also = f" and {len(siblings)} siblings" if siblings else ""
    relation = {"exact": "equal to", "lower-bound": "never above", "heuristic": "never below"}[formulation.claim]
    return f"{formulation.claim}: {relation} brute force{also} on {compared} instances"


def _siblings(formulation: Formulation) -> list[Formulation]:
    """Other exact formulations of the same problem and objective; files that do not load are none."""
    if formulation.problem is None:
        return []
    return [
        load_formulation(e.name)
        for e in found_formulations()
        if e.formulation is not None
        and e.name != formulation.name
        and (e.formulation.problem, e.formulation.claim, e.formulation.objective)
        == (formulation.problem, "exact", formulation.objective)
    ]


@rule("growth", "the work of building grows in proportion to the model", "builds")
def growth(subject: Subject) -> str | list[Complaint]:
    """Steps of the interpreter in the file itself, which unlike seconds are the same everywhere."""
    formulation = subject.formulation
    assert formulation.data is not None
    points: list[tuple[int, int, int, float]] = []
    nonzeros: list[str] = []
    for requests in SIZES:
        larger = growing(subject.instances[-1], requests)
        try:
            parametrised = formulation.with_parameters(larger, {**examples(formulation, larger, 1), **subject.given})
            if formulation.refusal(parametrised) is not None:
                break
            known = known_of(formulation, parametrised)
            with _Steps(str(subject.path)) as steps:
                model = formulation.instantiate(parametrised, known)
            began = time.perf_counter()
            formulation.instantiate(parametrised, known)
            seconds = time.perf_counter() - began
            size = compile_model(model)[0].size
        except ModelkitError:
            break  # too large for it; what it takes is measured
        nonzeros.append(f"{size.nonzeros:,}")
        points.append((requests, steps.count, size.nonzeros + size.variables + size.constraints, seconds))
    if len(points) < 2:
        return "too few sizes to compare"
    (_, few, small, _), (requests, many, large, seconds) = points[0], points[-1]
    counts = ", ".join(str(n) for n, *_ in points)
    said = f"{counts} requests: {', '.join(nonzeros)} non-zeros in {seconds:.2f} s"
    if many < 20_000 or large <= small:
        return said
    steepness = math.log(many / max(few, 1)) / math.log(large / small)
    if steepness <= STEEPEST:
        return said
    return [
        Complaint(
            f"from {points[0][0]} to {requests} requests the model grows {large / small:.1f} times, the work of"
            f" building it {many / max(few, 1):.1f} times ({said})",
            "do not filter inside rules (`for k in ... if ...`): index by sets that data() prepares, such as"
            " BEGINNING[t] of kv-hindsight-flow, or group variables once, as its group_starts() does",
        )
    ]


class _Steps:
    """Counts the bytecodes that run in one file."""

    def __init__(self, path: str) -> None:
        self.file = os.path.abspath(path)
        self.count = 0

    def __enter__(self) -> _Steps:
        self.before = sys.gettrace()
        sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for it only when tracing begins
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.before)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != self.file:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.count += event == "opcode"
        return self._step


def cut(text: str) -> str:
    """A line that fits."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
