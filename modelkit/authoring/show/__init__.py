"""A formulation as readable mathematics, generated from the model itself.

The formulation builds small instances with numbers that remember their origin (`traced`), the rows of each family are
put back into one formula (`lifting`), and the formulas are written as text, LaTeX or HTML (`writing`). Letters of
indices are those of the docstring; everything else is the model's.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from modelkit.authoring.show.lifting import Side, lift
from modelkit.authoring.show.rows import ModelRow, NotLinearError, World, over_of, read
from modelkit.authoring.show.samples import others, samples
from modelkit.authoring.show.traced import TracedFloat, TracedInt, polynomial, traced_data
from modelkit.authoring.show.verifying import holds, says_nothing
from modelkit.errors import ModelkitError
from modelkit.formulation.formulation import Formulation
from modelkit.formulation.loading import chain_of, load_formulation
from modelkit.solving.known import known_of

__all__ = ["Family", "Mathematics", "Named", "mathematics"]

#: Letters of indices that no docstring names, by set.
_LETTERS = {"REQUESTS": "i", "ROUNDS": "t", "SLOTS": "j", "STAGES": "k", "LEVELS": "l"}


@dataclass(frozen=True)
class Named:
    """A set, parameter or variable: its name, the letters of its indices, its index sets, what it is and its doc.

    ``lower`` and ``upper`` are bounds of a variable that its domain does not say; ``note`` says what has no formula.
    """

    name: str
    letters: tuple[str, ...]
    over: tuple[tuple[str, int], ...]
    what: str
    doc: str
    lower: Side | None = None
    upper: Side | None = None
    note: str = ""


@dataclass(frozen=True)
class Family:
    """An objective or a family of constraints: one formula that gives every row, or an example where there is none.

    ``over`` are its index sets with their dimensions; ``partial`` says, where some members have no row, which have.
    """

    name: str
    letters: tuple[str, ...]
    over: tuple[tuple[str, int], ...]
    doc: str
    relation: str
    left: Side | None
    right: Side | None
    example: str
    partial: str


@dataclass(frozen=True)
class Mathematics:
    """Everything that `modelkit show` says of a formulation."""

    formulation: Formulation
    claim: str
    reference: str
    sets: tuple[Named, ...]
    parameters: tuple[Named, ...]
    variables: tuple[Named, ...]
    objective: Family
    constraints: tuple[Family, ...]
    letters: dict[str, tuple[str, ...]]


def mathematics(name: str, given: Mapping[str, Any] | None = None) -> Mathematics:
    """Read the mathematics of a formulation from its model.

    Parameters
    ----------
    name
        Name or ``.py`` file.
    given
        Parameters; those that are not given take their examples.

    Raises
    ------
    UsageError, FormulationError
        There is none of that name, or it does not build.
    """
    import pyomo.environ as pyo
    from pyomo.common.numeric_types import RegisterIntegerType, RegisterNumericType

    for kind in (TracedInt, TracedFloat):
        RegisterNumericType(kind)
    RegisterIntegerType(TracedInt)
    formulation = load_formulation(name)
    documents = [ast.get_docstring(ast.parse(path.read_bytes())) or "" for path in chain_of(name)]
    letters: dict[str, tuple[str, ...]] = {}
    for document in documents:
        letters.update(_letters(document))
    worlds = [_world(formulation, instance) for instance in samples(formulation, given or {})]
    more = _others(formulation, given or {})
    first = worlds[0].model
    objective = next(first.component_objects(pyo.Objective, active=True))
    return Mathematics(
        formulation=formulation,
        claim=_section(documents[-1], "Claim"),
        reference=_section(documents[-1], "Reference"),
        sets=tuple(_name_component(c, worlds, more, letters) for c in first.component_objects((pyo.Set, pyo.RangeSet))),
        parameters=tuple(_name_component(c, worlds, more, letters) for c in first.component_objects(pyo.Param)),
        variables=tuple(_name_component(c, worlds, more, letters) for c in first.component_objects(pyo.Var)),
        objective=_family(objective, worlds, more, letters),
        constraints=tuple(
            _family(c, worlds, more, letters) for c in first.component_objects(pyo.Constraint, active=True)
        ),
        letters=letters,
    )


def _world(formulation: Formulation, instance: Any) -> World:
    import pyomo.environ as pyo

    abstract = formulation.abstract()
    parameters = {c.local_name for c in abstract.component_objects(pyo.Param)}
    data = traced_data(formulation.values(instance, known_of(formulation, instance)), parameters)
    with _ones_kept():
        return World(formulation.create_model(abstract, data, "a sample"))


@contextmanager
def _ones_kept() -> Iterator[None]:
    """Pyomo writes 1 x as x, and the 1 forgets which parameter it is; not here."""
    from pyomo.core.expr.numeric_expr import enable_expression_optimizations

    enable_expression_optimizations(one=False)
    try:
        yield
    finally:
        enable_expression_optimizations(one=True)


def _others(formulation: Formulation, given: Mapping[str, Any]) -> list[World]:
    """Models that formulas are verified on and not read from; those that cannot be built are left out."""
    worlds = []
    for instance in others(formulation, given):
        with suppress(ModelkitError):
            worlds.append(_world(formulation, instance))
    return worlds


def _letters(document: str) -> dict[str, tuple[str, ...]]:
    """Letters of the indices that a docstring writes, such as (i, k) for ``start[i, k]``."""
    found: dict[str, tuple[str, ...]] = {}
    for line in document.splitlines():
        if line[:1].isalpha():
            for name, inside in re.findall(r"(\w+)\[([\w, ]+)\]", line):
                found.setdefault(name, tuple(part.strip() for part in inside.split(",")))
    return found


def _section(document: str, heading: str) -> str:
    match = re.search(rf"^{heading}\n-{{3,}}\n(.*?)(?=^\w[\w ]*\n-{{3,}}\n|\Z)", document, re.MULTILINE | re.DOTALL)
    return " ".join(match.group(1).split()) if match else ""


def _name_component(
    component: Any, worlds: list[World], more: list[World], letters: Mapping[str, tuple[str, ...]]
) -> Named:
    component = max((getattr(world.model, component.local_name) for world in worlds), key=len)
    kind = component.ctype.__name__
    name, over = component.local_name, over_of(component)
    lower = upper = None
    note = ""
    if kind == "Var":
        domains = {data.domain.name for world in worlds for data in getattr(world.model, name).values()}
        what = _domain(domains.pop()) if len(domains) == 1 else "domains differ by member" if domains else ""
        ends = {end: _bound(name, end, worlds, more) for end in ("lb", "ub")}
        lower, upper = (ends[end][0] for end in ("lb", "ub"))
        note = ", ".join(words for _, words in ends.values() if words)
    elif kind == "Param":
        what = _domain(component.domain.name)
    else:
        one = next(iter(component.values()), None) if component.is_indexed() else component
        dimension = getattr(one, "dimen", 1)
        several = isinstance(dimension, int) and dimension > 1
        what = "pairs" if dimension == 2 else f"tuples of {dimension}" if several else ""
    return Named(name, _index_letters(component, letters, over), over, what, component.doc or "", lower, upper, note)


def _bound(name: str, end: str, worlds: list[World], more: list[World]) -> tuple[Side | None, str]:
    """A bound that every member of a variable has, where it is more than its domain says; else what there is to say."""
    rows, values = [], []
    plain = 0
    for world in [*worlds, *more]:
        for key, data in getattr(world.model, name).items():
            value = getattr(data, end)
            if value is None or (not getattr(value, "polynomial", None) and value == _least_or_most(data, end)):
                plain += 1
                continue
            at = key if isinstance(key, tuple) else () if key is None else (key,)
            rows.append(ModelRow(world, at, {}, polynomial(value)))
            values.append(float(value))
    if not rows:
        return None, ""
    read_from = [row for row in rows if id(row.world) in {id(world) for world in worlds}]
    side = None if plain or not read_from else lift(read_from)
    if side is not None and holds(side, zip(rows, values, strict=True)):
        return side, ""
    return None, f"{'lower' if end == 'lb' else 'upper'} bounds differ by member and are not shown"


def _least_or_most(data: Any, end: str) -> float | None:
    bounds = data.domain.bounds()
    least: float | None = bounds[0 if end == "lb" else 1]
    return least


def _domain(name: str) -> str:
    known = {
        "Binary": "binary", "NonNegativeIntegers": "whole, ≥ 0", "PositiveIntegers": "whole, ≥ 1",
        "NonNegativeReals": "real, ≥ 0", "Reals": "real", "Integers": "whole", "PositiveReals": "real, > 0",
        "Any": "",
    }  # fmt: skip
    return known.get(name, name)


def _index_letters(component: Any, letters: Mapping[str, tuple[str, ...]], over: tuple[tuple[str, int], ...]
                   ) -> tuple[str, ...]:  # fmt: skip
    rank = sum(dimension for _, dimension in over)
    stated = letters.get(component.local_name, ())
    if len(stated) == rank:
        return stated
    made: list[str] = []
    for name, dimension in over:
        wanted = [_LETTERS.get(name, name[0].lower())] if dimension == 1 else list("abcdefgh"[:dimension])
        made += [letter if letter not in made else letter + "′" for letter in wanted]
    return tuple(made)


def _family(component: Any, worlds: list[World], more: list[World], letters: Mapping[str, tuple[str, ...]]) -> Family:
    """Lift a family from its rows in the worlds, and keep what gives every row there and in more worlds."""
    name, over = component.local_name, over_of(component)
    lefts: list[tuple[ModelRow, Any]] = []
    rights: list[tuple[ModelRow, Any]] = []
    absent: list[ModelRow] = []
    relations: set[str] = set()
    example = ""
    readable = True
    for world in [*worlds, *more]:
        here = getattr(world.model, name)
        rows = {key: row for key, row in here.items() if row.active}
        absent += [ModelRow(world, _at(key), {}, {}) for key in here.index_set() if key not in rows] if over else []
        for key, row in rows.items():
            text = f"{row.name}: {row.expr}"
            example = text if not example or len(text) < len(example) else example
            try:
                relation, left, right = _sides(row)
                relations.add(relation)
                lefts.append((ModelRow(world, _at(key), *read(left)), left))
                rights.append((ModelRow(world, _at(key), *read(right)), right))
            except NotLinearError:
                readable = False
    one = readable and len(relations) == 1
    left, right = (_verify_formula(rows, worlds) if one else None for rows in (lefts, rights))
    partial = ""
    if absent:
        silent = left is not None and right is not None and all(says_nothing((left, right), row) for row in absent)
        partial = "where there are terms" if silent else "where the model has a row"
    return Family(
        name=name,
        letters=_index_letters(component, letters, over),
        over=over,
        doc=component.doc or "",
        relation=relations.pop() if one else "",
        left=left if right is not None else None,
        right=right if left is not None else None,
        example=example,
        partial=partial,
    )


def _at(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else () if key is None else (key,)


def _verify_formula(rows: list[tuple[ModelRow, Any]], worlds: list[World]) -> Side | None:
    """The formula of the rows in some worlds, if it gives all rows; None otherwise."""
    known = {id(world) for world in worlds}
    side = lift([row for row, _ in rows if id(row.world) in known])
    return side if side is not None and holds(side, rows) else None


def _sides(row: Any) -> tuple[str, Any, Any]:
    """Relation and both sides as they were written; an objective has the left one only."""
    if row.ctype.__name__ == "Objective":
        return "max" if row.sense == -1 else "min", row.expr, 0
    expression = row.expr
    if len(expression.args) != 2:
        raise NotLinearError("a double inequality")
    relation = "=" if "Equality" in expression.__class__.__name__ else "≤"
    return relation, expression.args[0], expression.args[1]
