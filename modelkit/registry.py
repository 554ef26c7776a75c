"""Registries of functions that make instances: the families and the trace formats."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from modelkit.errors import unknown_name

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """An option of a maker: its help, type, default, and choices where it has some."""

    name: str
    help: str
    kind: type
    default: Any
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Maker:
    """A function that makes an instance from options, under its name."""

    name: str
    summary: str
    reference: str
    options: tuple[Option, ...]
    make: Callable[..., Any]


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
            if name in self._makers:
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
