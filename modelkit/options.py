"""Options of generators and importers, read from their signatures."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """An option of a generator or importer: its help, type, default, and choices where it has some."""

    name: str
    help: str
    kind: type
    default: Any
    choices: tuple[str, ...] | None = None


def options_of(function: Callable[..., Any], helps: Mapping[str, str]) -> tuple[Option, ...]:
    """Options from a function's keyword parameters; ``helps`` says what each is for, choices after ``|``."""
    options = []
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        text, *choices = helps[name].split("|")
        kinds = [k for k in getattr(parameter.annotation, "__args__", (parameter.annotation,)) if k is not type(None)]
        options.append(Option(name, text.strip(), kinds[0], parameter.default, tuple(choices) or None))
    return tuple(options)
