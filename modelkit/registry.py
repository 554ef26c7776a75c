"""Registries of functions that make instances: the families and the trace formats."""

from __future__ import annotations

import inspect
import numbers
import operator
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from modelkit.errors import Fault, InputError, UsageError, did_you_mean, shown, unknown_name

_F = TypeVar("_F", bound=Callable[..., Any])

_KINDS = {bool: "True or False", str: "text", int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class Option:
    """An option of a maker: its help, type, default, and choices where it has some."""

    name: str
    help: str
    kind: type
    default: Any
    choices: tuple[str, ...] | None = None

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return f"--{self.name.strip('_').replace('_', '-')}"

    def plain(self, value: Any, faults: list[Fault]) -> Any:
        """A value as Python's own type, such as one of numpy's; a fault when it is of another type."""
        if value is None and self.default is None:
            return None
        try:
            if self.kind is bool:
                if type(value).__name__ not in ("bool", "bool_"):
                    raise TypeError
                return bool(value)
            if self.kind is str:
                if not isinstance(value, str | os.PathLike | numbers.Real) or isinstance(value, bool):
                    raise TypeError
                text = str(value)
                if self.choices and text not in self.choices:
                    allowed = ", ".join(self.choices)
                    faults.append(Fault(self.flag, f"found {shown(value)}; allowed: {allowed}"))
                return text
            if isinstance(value, str | bytes | bool):
                raise TypeError
            return operator.index(value) if self.kind is int else float(value)
        except (TypeError, ValueError, OverflowError):
            faults.append(Fault(self.flag, f"found {shown(value)}; allowed: {_KINDS.get(self.kind, 'another type')}"))
            return value


@dataclass(frozen=True)
class Maker:
    """A function that makes an instance from options, under its name."""

    name: str
    summary: str
    reference: str
    options: tuple[Option, ...]
    make: Callable[..., Any]

    def checked(self, options: Mapping[str, Any], what: str) -> dict[str, Any]:
        """The options with plain values of their types.

        Raises
        ------
        UsageError
            There is no such option.
        InputError
            Values of other types, all at once.
        """
        known = {option.name: option for option in self.options}
        for name in options:
            if name not in known:
                raise UsageError(
                    f"{what} has no option {name!r}{did_you_mean(name, known)}\n  known: {', '.join(known)}"
                )
        faults: list[Fault] = []
        plain = {name: known[name].plain(value, faults) for name, value in options.items()}
        if faults:
            raise InputError(what, faults)
        return plain


class Registry:
    """Makers by name.

    Parameters
    ----------
    kind
        What they are called in messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._makers: dict[str, Maker] = {}

    def register(self, name: str, *, summary: str, reference: str, **helps: str) -> Callable[[_F], _F]:
        """Decorator that registers a function under ``name``.

        ``helps`` says what each of its keyword parameters is for, with choices after ``|``.
        """

        def decorate(make: _F) -> _F:
            if name in self._makers and not same_place(make, self._makers[name].make):
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._makers[name] = Maker(name, summary, reference, options_of(make, helps), make)
            return make

        return decorate

    def makers(self) -> dict[str, Maker]:
        """All makers by name."""
        return dict(sorted(self._makers.items()))

    def __getitem__(self, name: str) -> Maker:
        if name not in self._makers:
            raise unknown_name(self.kind, name, self._makers)
        return self._makers[name]


def same_place(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Whether two functions or classes are one, perhaps defined twice, as when the cell of a notebook runs again."""
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def options_of(function: Callable[..., Any], helps: Mapping[str, str]) -> tuple[Option, ...]:
    """Options from the keyword parameters of a function."""
    options = []
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        text, *choices = helps[name].split("|")
        kinds = [k for k in getattr(parameter.annotation, "__args__", (parameter.annotation,)) if k is not type(None)]
        options.append(Option(name, text.strip(), kinds[0], parameter.default, tuple(choices) or None))
    return tuple(options)
