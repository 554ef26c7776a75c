"""Rules about what a formulation says of itself: they build, but do not solve."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import Any

from modelkit.authoring.check.candidate import HEADINGS, Subject
from modelkit.authoring.check.probe import Probe, probe
from modelkit.authoring.check.rules import Complaint, rule
from modelkit.errors import FormulationError, ModelkitError
from modelkit.formulation.misuse import key_faults
from modelkit.solving.known import known_of
from modelkit.text import count

#: Names that units are given, and the one that they have here.
_UNITS = {
    "tokens": "token", "rounds": "round", "requests": "request", "slots": "slot", "sec": "s", "secs": "s",
    "second": "s", "seconds": "s", "msec": "ms", "millisecond": "ms", "milliseconds": "ms", "-": "1", "none": "1",
}  # fmt: skip
UNIT = re.compile(r"\[[^\[\]]+\]$")


@rule("loads", "the file defines a formulation of that name")
def loads(subject: Subject) -> str | list[Complaint]:
    """Tried in an interpreter of its own first."""
    if not subject.path.is_file():
        return [
            Complaint(f"there is no file {subject.path}", "give the path of a .py file, or the name of a formulation")
        ]
    found = first_probe(subject)
    if found.error:
        return [Complaint(found.error, "fix the file; the line number is that of the file itself")]
    if found.effects:
        return "in an interpreter of its own"  # it stays there: the next rule says why
    formulation = subject.formulation
    try:
        _ = subject.abstract
    except FormulationError as error:
        return [Complaint.of(error, "build() makes the model; fix that line")]
    words = f"{formulation.name}, claims {formulation.claim}"
    bases = [parent if isinstance(parent, str) else parent.name for parent in formulation.parents]
    return words + (f", extends {' and '.join(bases)}" if bases else "")


@rule("import", "importing the file has no side effect", "loads")
def harmless_import(subject: Subject) -> str | list[Complaint]:
    """Writing, starting programs, printing, changing the environment, globals or random states."""
    return [
        Complaint(effect, "move it into a function; the file is imported whenever formulations are listed")
        for effect in first_probe(subject).effects
    ] or "nothing written, printed, started or changed"


def first_probe(subject: Subject) -> Probe:
    """One look from another interpreter, for several rules."""
    if "_probe" not in subject.__dict__:
        subject.__dict__["_probe"] = probe(subject.name, subject.given, hash_seed=1)
    made: Probe = subject.__dict__["_probe"]
    return made


@rule("docstring", "the docstring's headings name every component", "import")
def docstring(subject: Subject) -> str | list[Complaint]:
    """A variant states what it adds."""
    needed = ["Claim", "Reference"]
    needed += [] if subject.base else list(dict.fromkeys(HEADINGS.values()))
    complaints = [
        Complaint(f"no heading {heading!r}", f"write {heading} underlined with dashes, and below it what there is")
        for heading in needed
        if not subject.sections.get(heading)
    ]
    missing = {c.what for c in complaints}
    for component in subject.own_components:
        heading = HEADINGS[component.ctype.__name__]
        section = subject.sections.get(heading, "")
        if (
            not re.search(rf"\b{re.escape(component.local_name)}\b", section)
            and f"no heading {heading!r}" not in missing
        ):
            complaints.append(
                Complaint(
                    f"{heading} does not name {component.local_name!r}",
                    f"add {component.local_name} and what it means under {heading}",
                )
            )
    return complaints or f"{len(subject.own_components)} components named under their headings"


@rule("documented", "every component has doc", "import")
def documented(subject: Subject) -> str | list[Complaint]:
    """Of the file's own components; and the formulation has a summary and a reference."""
    complaints = [
        Complaint(f"{c.ctype.__name__} {c.local_name!r} has no doc", f'write doc="..." where {c.local_name} is made')
        for c in subject.own_components
        if not (c.doc or "").strip()
    ]
    for name in ("summary", "reference"):
        if not getattr(subject.formulation, name).strip():
            complaints.append(Complaint(f"the {name} is empty", f"write {name}=... in FORMULATION"))
    return complaints or f"{len(subject.own_components)} components have doc"


@rule("units", "the doc of every parameter, and of an objective of its own, ends in the unit", "import")
def units(subject: Subject) -> str | list[Complaint]:
    """Of the model's parameters, of those that users give, and of an objective that is no metric of the judge's."""
    kinds = ("Param", "Objective") if subject.formulation.value else ("Param",)
    own = [c for c in subject.own_components if c.ctype.__name__ in kinds]
    named = [(c.local_name, c.doc or "") for c in own] + [(p.name, p.doc) for p in subject.formulation.parameters]
    complaints = [
        Complaint(
            f"the doc of {name!r} is {doc!r}, without a unit",
            "end it with [token], [round], [ms], [request], [$], or [1] for a pure number",
        )
        for name, doc in named
        if doc.strip() and not UNIT.search(doc.strip())
    ]
    complaints += [
        Complaint(f"the doc of {name!r} is {doc!r}: the unit {found[0]} has another name", f"end it with [{right}]")
        for name, doc in named
        if (found := UNIT.search(doc.strip())) and (right := _UNITS.get(found[0].strip("[]").lower()))
    ]
    units_of = {name: found[0] for name, doc in named[: len(own)] if (found := UNIT.search(doc.strip()))}
    complaints += [
        Complaint(
            f"{p.name!r} is in {units_of[p.name]} in the model and in {found[0]} where users give it",
            "one name is one value in one unit; give what data() converts another name",
        )
        for p in subject.formulation.parameters
        if p.name in units_of and (found := UNIT.search(p.doc.strip())) and found[0] != units_of[p.name]
    ]
    return complaints or f"{count(len(named), 'unit')} named"


@rule("data", "data() gives what the model needs and nothing else", "import")
def data(subject: Subject) -> str | list[Complaint]:
    """By key, with near misses named."""
    formulation = subject.formulation
    if not subject.instances:
        return [
            Complaint(
                f"the formulation takes none of the tiny instances: {_refusals(subject)}",
                "needs() returns None for an instance that the formulation takes, else why not",
            )
        ]
    if formulation.data is None:
        return [Complaint("there is no data()", "write data(instance): a dictionary from names to values")]
    found: dict[str, None] = {}
    for instance in subject.instances[:8]:
        values = formulation.values(instance, known_of(formulation, instance))
        found.update(dict.fromkeys(key_faults(subject.abstract, values)))
    if changed := subject.changed:
        return [Complaint(f"needs() or data() changes what it is given: {changed}", "work on a copy of it")]
    return [Complaint(fault, "names in data() are those of m.NAME in build()") for fault in found] or (
        f"{len(values)} keys, all that the model needs"
    )


def _refusals(subject: Subject) -> str:
    from modelkit.authoring.check.tiny_instances import examples, slot_instance, unit_instance

    formulation = subject.formulation
    said = []
    for instance in (unit_instance(1, 2), slot_instance(0, 2)):
        try:
            parametrised = formulation.with_parameters(
                instance, {**examples(formulation, instance, 0), **subject.given}
            )
            said.append(f"it {formulation.refusal(parametrised)}")
        except ModelkitError as error:
            said.append(str(error).partition("\n")[0])
    return "; ".join(dict.fromkeys(said))


@rule("used", "every set, parameter and variable is used", "builds")
def used(subject: Subject) -> str | list[Complaint]:
    """Sets and parameters are read by some rule or by extract(), variables are in a row or the objective."""
    import pyomo.environ as pyo
    from pyomo.core.expr.visitor import identify_variables

    read: set[str] = set()
    in_rows: set[str] = set()
    watched = _watch_model(read)
    for instance in subject.instances[:8]:
        formulation = subject.formulation
        values = formulation.values(instance, known_of(formulation, instance))
        model = formulation.create_model(formulation.abstract(watched), values, instance.name)
        for row in model.component_data_objects((pyo.Constraint, pyo.Objective), active=True):
            in_rows.update(v.parent_component().local_name for v in identify_variables(row.expr))
        if formulation.extract is not None:
            for variable in model.component_data_objects(pyo.Var):
                variable.set_value(0, skip_validation=True)
            model.__class__ = watched
            with contextlib.suppress(ModelkitError):  # the values are made up; only what it reads counts
                formulation.schedule_from(model, instance)
    complaints = []
    for c in subject.own_components:
        kind, name = c.ctype.__name__, c.local_name
        if kind == "Var" and name not in in_rows:
            complaints.append(
                Complaint(f"variable {name!r} is in no constraint and not in the objective", "use it or leave it out")
            )
        elif HEADINGS[kind] in ("Sets", "Parameters") and name not in read:
            what = "set" if HEADINGS[kind] == "Sets" else "parameter"
            complaints.append(
                Complaint(f"nothing reads the {what} {name!r}", "use it, or leave it out of build and data")
            )
    return complaints or "every set, parameter and variable is used"


def _watch_model(read: set[str]) -> type[Any]:
    """A kind of model that notes which components the code around Pyomo reads from it."""
    import pyomo
    import pyomo.environ as pyo

    inside = str(Path(pyomo.__file__).parent)

    class Watched(pyo.AbstractModel):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            if not name.startswith("_") and not sys._getframe(1).f_code.co_filename.startswith(inside):
                read.add(name)
            return super().__getattribute__(name)

    return Watched
