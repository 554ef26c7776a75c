"""What public functions and classes take: numpy's values as Python's own, and a clear word about other values."""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from modelkit.errors import MOST_FAULTS, ArgumentError, Fault, UsageError, did_you_mean, shown

_F = TypeVar("_F", bound=Callable[..., Any])

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass as _Checked
else:

    class _Checked(type(BaseModel)):
        """Makes calls of a class take numpy's values, and say faults as all of modelkit does.

        A call only: what is read from files goes past it.
        """

        def __call__(cls, *args, **fields):
            if args:
                raise UsageError(f"{cls.__name__} takes its fields by name: {', '.join(cls.model_fields)}")
            try:
                return super().__call__(**cls.prepared({key: plain(value) for key, value in fields.items()}))
            except ValidationError as error:
                faults = [
                    Fault("".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in e["loc"]).lstrip("."), _words(e))
                    for e in error.errors(include_url=False)[:MOST_FAULTS]
                ]
                raise ArgumentError(cls.__name__, faults) from None


class Data(BaseModel, metaclass=_Checked):
    """Frozen data that checks itself; its fields are given by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def prepared(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields of a call before they are checked."""
        return fields

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Fields that are as they are by default say nothing."""
        for name, field in type(self).model_fields.items():
            if (value := getattr(self, name)) != field.default:
                yield name, value


def _words(error: Any) -> str:
    """A fault as pydantic states it, in our words."""
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "extra_forbidden":
        return "unknown field"
    return f"found {shown(error['input'])}; {error['msg'].replace('Input should be ', 'allowed: ')}"


def plain(value: Any) -> Any:
    """Numpy's numbers and arrays, and what holds them, as Python's own values; anything else unchanged."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(map(plain, value)) if any(type(v) not in _PLAIN for v in value) else value
    if type(value) is dict:
        return {plain(key): plain(entry) for key, entry in value.items()}
    return value


def column_of(values: Any) -> list[Any]:
    """A list, an array or a column of a frame as a list."""
    return plain(values.tolist() if hasattr(values, "tolist") else list(values))  # type: ignore[no-any-return]


def columns_of(frame: Any, names: Iterable[str], needed: Iterable[str]) -> dict[str, list[Any]]:
    """The columns of a frame that are called so.

    Raises
    ------
    UsageError
        One that is needed is not among them, or it is no frame.
    """
    if not hasattr(frame, "columns"):
        raise UsageError(f"a frame with columns is needed, such as pandas has; found {shown(frame)}")
    there = [str(name) for name in frame.columns]
    for name in needed:
        if name not in there:
            words = did_you_mean(name, there) or f"; it has {', '.join(there) or 'none'}"
            raise UsageError(f"the frame has no column {name!r}{words}")
    return {name: column_of(frame[name]) for name in names if name in there}


_PLAIN = (str, int, float, bool, type(None))


_NAMES: dict[type, str] = {
    int: "a whole number", float: "a number", str: "text", bool: "True or False", dict: "a dictionary",
    Mapping: "a dictionary", type(None): "None",
}  # fmt: skip


#: What arguments of a name may be, beyond their types; None says that they are not given.
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "time_limit": (lambda value: value >= 0, "a number of seconds from 0, or None for no limit"),
    "gap": (lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "threads": (lambda value: 1 <= value <= 1024, "a whole number from 1 to 1024, or None to leave it to the solver"),
    "seed": (lambda value: 0 <= value < 2**63, "a whole number from 0 to 2^63 - 1"),
    "max_batch": (lambda value: value >= 1, "a whole number from 1, or None"),
    "max_batch_tokens": (lambda value: value >= 1, "a whole number from 1, or None"),
    "options": (lambda value: all(isinstance(name, str) for name in value), "a dictionary with names as its keys"),
    "parameters": (lambda value: all(isinstance(name, str) for name in value), "a dictionary with names as its keys"),
}


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
            elif name in _RANGES and value is not None and not _RANGES[name][0](value):
                faults.append(Fault(name, f"found {shown(value)}; allowed: {_RANGES[name][1]}"))
        if faults:
            raise ArgumentError(function.__name__, faults)
        if bound.arguments.get("time_limit") == math.inf:
            bound.arguments["time_limit"] = None
        return function(*bound.args, **bound.kwargs)

    return call  # type: ignore[return-value]


@functools.cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except NameError:  # a name that only type checkers import
        return inspect.signature(function)


def _kinds(parameter: inspect.Parameter) -> tuple[type, ...]:
    """The types that a parameter takes; none where they are not known, or are data that is checked where it is read."""
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        return ()
    found = parameter.annotation
    united = typing.get_origin(found) in (types.UnionType, typing.Union)
    kinds = tuple(
        kind if isinstance(kind, type) and typing.get_origin(kind) is None else typing.get_origin(kind)
        for kind in (typing.get_args(found) if united else (found,))
    )
    return kinds if all(isinstance(kind, type) and not issubclass(kind, Data) for kind in kinds) else ()


def _fits(value: object, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, str) and Sequence in kinds and str not in kinds:
        return False
    return isinstance(value, kinds) or (float in kinds and isinstance(value, int))


def rows_of(columns: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Rows from columns of one length."""
    wrong = [
        Fault(f"requests.{key}", f"found {shown(values)}; allowed: a list or array, one value per request")
        for key, values in columns.items()
        if not isinstance(values, list | tuple)
    ]
    lengths = {} if wrong else {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        wrong = [Fault("requests", f"columns of other lengths: {shown(lengths, 200)}")]
    if wrong:
        raise ArgumentError("Instance", wrong)
    keys = list(columns)
    return with_ids([dict(zip(keys, row, strict=True)) for row in zip(*columns.values(), strict=True)])


def with_ids(rows: list[Any]) -> tuple[Any, ...]:
    """Rows of data get their ids by position where they have none."""
    return tuple({"id": f"r{i}", **row} if isinstance(row, dict) else row for i, row in enumerate(rows, start=1))
