"""What public functions take: numpy's values as Python's own, and a clear word about values of other types."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from modelkit.errors import ArgumentError, Fault, UsageError, shown
from modelkit.instance import Instance, plain

_F = TypeVar("_F", bound=Callable[..., Any])

_NAMES: dict[type, str] = {
    int: "a whole number", float: "a number", str: "text", bool: "True or False", dict: "a dictionary",
    Mapping: "a dictionary", type(None): "None",
}  # fmt: skip


def checked_arguments(function: _F) -> _F:
    """Decorator: arguments become plain values, and those of another type than a simple annotation are refused.

    Raises
    ------
    ArgumentError
        With all arguments of wrong types.
    UsageError
        There is no such argument, or one is missing.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        signature = _signature(function)
        try:
            bound = signature.bind(*map(plain, arguments), **{name: plain(value) for name, value in named.items()})
        except TypeError as error:
            known = ", ".join(signature.parameters)
            raise UsageError(f"{function.__name__}: {error}\n  known: {known}") from None
        faults = []
        for name, value in bound.arguments.items():
            kinds = _kinds(signature.parameters[name])
            if kinds and not _fits(value, kinds):
                allowed = " or ".join(_NAMES.get(kind, f"a {kind.__name__}") for kind in kinds)
                faults.append(Fault(name, f"found {shown(value)}; allowed: {allowed}"))
            elif name == "seed" and isinstance(value, int) and value < 0:
                faults.append(Fault(name, f"found {shown(value)}; allowed: 0 or more"))
        if faults:
            raise ArgumentError(function.__name__, faults)
        return function(*bound.args, **bound.kwargs)

    return call  # type: ignore[return-value]


@functools.cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except NameError:  # a name that only type checkers import
        return inspect.signature(function)


def _kinds(parameter: inspect.Parameter) -> tuple[type, ...]:
    """The types that a parameter takes; none where they are not known. What is an instance, ``load`` says."""
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        return ()
    found = parameter.annotation
    united = typing.get_origin(found) in (types.UnionType, typing.Union)
    kinds = tuple(
        kind if isinstance(kind, type) and typing.get_origin(kind) is None else typing.get_origin(kind)
        for kind in (typing.get_args(found) if united else (found,))
    )
    return kinds if all(isinstance(kind, type) for kind in kinds) and Instance not in kinds else ()


def _fits(value: object, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, str) and Sequence in kinds and str not in kinds:
        return False
    return isinstance(value, kinds) or (float in kinds and isinstance(value, int))
