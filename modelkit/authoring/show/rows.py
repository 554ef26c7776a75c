"""Rows of small models as plain data: their terms, and the sets and parameters around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from modelkit.authoring.show.traced import Polynomial, add, multiply, polynomial


@dataclass
class World:
    """One small model, and its variables, sets and parameters as plain data."""

    model: Any
    keys: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    domains: dict[str, dict[tuple[int, ...], str]] = field(default_factory=dict)
    sets: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, dict[tuple[Any, ...], float]] = field(default_factory=dict)
    orders: dict[str, dict[Any, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import pyomo.environ as pyo

        for variable in self.model.component_objects(pyo.Var):
            self.keys[variable.local_name] = [_tuple(k) for k in variable]
            self.domains[variable.local_name] = {tuple(positions): name for name, positions in place(over_of(variable))}
        for each in self.model.component_objects((pyo.Set, pyo.RangeSet)):
            if each.is_indexed():
                self.sets[each.local_name] = {_tuple(k): {_tuple(v) for v in each[k]} for k in each}
            else:
                self.sets[each.local_name] = {_tuple(v) for v in each}
                self.orders[each.local_name] = {v: n for n, v in enumerate(each)}
        for parameter in self.model.component_objects(pyo.Param):
            values = {_tuple(k): pyo.value(parameter[k], exception=False) for k in parameter}
            if all(isinstance(v, int | float) for v in values.values()):
                self.parameters[parameter.local_name] = values


class ModelRow(NamedTuple):
    """One member: the world it is in, its index, and one side of it."""

    world: World
    at: tuple[Any, ...]
    terms: dict[tuple[str, tuple[Any, ...]], Polynomial]
    constant: Polynomial


class NotLinearError(Exception):
    """An expression that this module cannot read."""


def over_of(component: Any) -> tuple[tuple[str, int], ...]:
    """Index sets of a component with their dimensions."""
    if not component.is_indexed():
        return ()
    sets = component.index_set().subsets(expand_all_set_operators=True)
    return tuple((s.local_name, s.dimen if isinstance(s.dimen, int) else 1) for s in sets)


def place(over: tuple[tuple[str, int], ...]) -> Iterator[tuple[str, range]]:
    """Each index set with the positions that it gives."""
    done = 0
    for name, dimension in over:
        yield name, range(done, done + dimension)
        done += dimension


def _tuple(key: Any) -> tuple[Any, ...]:
    if key is None:
        return ()
    return key if isinstance(key, tuple) else (key,)


def read(expression: Any) -> tuple[dict[tuple[str, tuple[Any, ...]], Polynomial], Polynomial]:
    """Terms by variable and index, and the constant of a linear expression."""
    terms: dict[tuple[str, tuple[Any, ...]], Polynomial] = {}
    constant: Polynomial = {}

    def walk(node: Any, factor: Polynomial) -> None:
        nonlocal constant
        if isinstance(node, int | float):
            constant = add(constant, multiply(factor, polynomial(node)))
        elif node.is_variable_type():
            key = (node.parent_component().local_name, _tuple(node.index()))
            terms[key] = add(terms.get(key, {}), factor)
        elif not node.is_potentially_variable() and not node.is_expression_type():
            constant = add(constant, multiply(factor, polynomial(node.value)))
        else:
            kind = node.__class__.__name__
            if "Sum" in kind or kind == "LinearExpression":
                for argument in node.args:
                    walk(argument, factor)
            elif "Negation" in kind:
                walk(node.args[0], {k: -v for k, v in factor.items()})
            elif "Monomial" in kind or "Product" in kind:
                first, second = node.args
                number = first if isinstance(first, int | float) else second
                if not isinstance(number, int | float):
                    raise NotLinearError(kind)
                walk(second if number is first else first, multiply(factor, polynomial(number)))
            else:
                raise NotLinearError(kind)

    walk(expression, {(): 1.0})
    return {k: p for k, p in terms.items() if p}, constant
