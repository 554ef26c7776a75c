"""Things by name: one registry for formulations, policies, families, trace formats, servers, solvers and rules."""

from __future__ import annotations

import contextlib
import inspect
import numbers
import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar

from modelkit.errors import Fault, InputError, UsageError, did_you_mean, shown, unknown_name

E = TypeVar("E")
_F = TypeVar("_F", bound=Callable[..., Any])

_KINDS = {bool: "True or False", str: "text", int: "a whole number", float: "a number"}
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Option:
    """An option of a generator: its help, type, default, and choices where it has some."""

    name: str
    help: str
    kind: type
    default: Any
    choices: tuple[str, ...] | None = None

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return f"--{self.name.strip('_').replace('_', '-')}"

    def read(self, text: str) -> Any:
        """The value that a text says; ``choices`` of a number are words in its place.

        Raises
        ------
        ValueError
            It says none; the message is what is allowed.
        """
        if text in (self.choices or ()):
            return text
        words = self.kind is str and bool(self.choices)
        with contextlib.suppress(ValueError, KeyError):
            if not words:
                return _TRUTHS[text.lower()] if self.kind is bool else self.kind(text)
        allowed = [*([] if words else [_KINDS[self.kind]]), *(self.choices or ())]
        raise ValueError(" or ".join(allowed))

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
class Generator:
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


class Registry(Generic[E]):
    """Things of one kind by name, in the order of their names.

    Parameters
    ----------
    kind
        What one is called in messages.
    entries
        Those that are known from the beginning; they keep their order, and come first.
    modules
        Imported before anything is looked up: what they define registers itself.
    find
        Gives further ones, looked for anew each time, such as files.
    """

    def __init__(
        self,
        kind: str,
        entries: Mapping[str, E] | None = None,
        *,
        modules: Sequence[str] = (),
        find: Callable[[], Mapping[str, E]] | None = None,
    ) -> None:
        self.kind = kind
        self._first = dict(entries or {})
        self._modules, self._find = modules, find
        self._added: dict[str, E] = {}
        self._generators: dict[str, Callable[..., Any]] = {}

    def add(self, name: str, entry: E, made_by: Callable[..., Any]) -> None:
        """Register ``entry``; one that the same place defines again, as in a notebook, takes the place of the other.

        Raises
        ------
        ValueError
            The name is taken.
        """
        if name in self._first or (name in self._generators and not same_place(made_by, self._generators[name])):
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._added[name], self._generators[name] = entry, made_by

    def remove(self, name: str) -> None:
        """Forget what was registered under ``name``, if anything was."""
        self._added.pop(name, None)
        self._generators.pop(name, None)

    def entries(self) -> dict[str, E]:
        """All by name."""
        for module in self._modules:
            import_module(module)
        found = self._find() if self._find is not None else {}
        return {**self._first, **dict(sorted({**found, **self._added}.items()))}

    def __getitem__(self, name: str) -> E:
        """The one called ``name``.

        Raises
        ------
        UsageError
            There is none; the message has the nearest name and all that there are.
        """
        known = self.entries()
        if name not in known:
            raise unknown_name(self.kind, name, known)
        return known[name]

    def __contains__(self, name: object) -> bool:
        return name in self.entries()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries())

    def __len__(self) -> int:
        return len(self.entries())


class Generators(Registry[Generator]):
    """Functions that make an instance, by name."""

    def register(self, name: str, *, summary: str, reference: str, **helps: str) -> Callable[[_F], _F]:
        """Decorator that registers a function under ``name``.

        ``helps`` says what each of its keyword parameters is for, with choices after ``|``.
        """

        def decorate(make: _F) -> _F:
            self.add(name, Generator(name, summary, reference, options_of(make, helps), make), make)
            return make

        return decorate


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
