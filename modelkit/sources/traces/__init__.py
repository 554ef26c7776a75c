"""Importers of public traces: a file in a public format becomes an instance."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from modelkit.arguments import checked_arguments
from modelkit.instance import Instance, Request
from modelkit.io import checked
from modelkit.io.files import where_of
from modelkit.registry import Generator, Generators
from modelkit.sources.attaching import with_extra, with_pause, with_replicas

REGISTRY = Generators("trace format", modules=[f"{__name__}.{module}" for module in ("lengths", "serving")])
trace_format = REGISTRY.register

#: Endings that say what a file is, not what it is about.
_ENDINGS = (".gz", ".csv", ".tsv", ".txt", ".jsonl", ".json", ".log")


class Imported(NamedTuple):
    """An instance from a trace, and what is to be said of it: rows left out, what is not modelled."""

    instance: Instance
    notes: tuple[str, ...] = ()


def trace_formats() -> dict[str, Generator]:
    """All trace formats by name."""
    return REGISTRY.entries()


@checked_arguments
def import_trace(
    format: str,
    path: str | os.PathLike[str],
    *,
    tell: Callable[[str], None] | None = None,
    extra: dict[str, Any] | None = None,
    replicas: int = 1,
    pause: str | None = None,
    **options: object,
) -> Instance:
    """Instance from a trace file.

    Parameters
    ----------
    format
        Name of the format; ``modelkit list formats`` shows all.
    tell
        Called with each note on the import: rows left out, what the file says and the instance does not. The
        instance's description has their numbers too.
    extra
        Data of one's own that the instance carries, by name.
    replicas
        Servers alike that serve the requests.
    pause
        Where the server keeps the tokens of paused requests, ``held`` or ``swapped``; None: it pauses nobody.
    options
        Those of the format, as ``modelkit import FORMAT --help`` lists them; ``from_`` for ``--from``.

    Raises
    ------
    UsageError
        No such format or option, or the file cannot be opened.
    InputError
        With all faults of the file, each with its line.
    """
    generator = REGISTRY[format]
    options = generator.checked(options, f"import {format}")
    notes: list[str] = []

    def make() -> Instance:
        made = generator.make(path, **options)
        if isinstance(made, Instance):
            return made
        notes.extend(made.notes)
        return Imported(*made).instance

    instance = checked(f"{where_of(path)} as {format}", make)
    for note in notes if tell is not None else ():
        tell(note)  # type: ignore[misc]
    return with_extra(with_pause(with_replicas(instance, replicas), pause), extra or {})


def stem_of(path: str | os.PathLike[str], name: str) -> str:
    """What a file is about: its name without the endings of its kind; ``name`` for standard input."""
    if where_of(path) == "standard input":
        return name
    stem = Path(path).name.encode("utf-8", "replace").decode()
    while stem.lower().endswith(_ENDINGS) and not stem.startswith("."):
        stem = stem.rpartition(".")[0]
    return stem or name


def oversized_requests(instance: Instance) -> list[Request]:
    """Requests that can never fit: s_i + o_i > M."""
    capacity = instance.server.kv_capacity_tokens
    return [r for r in instance.requests if capacity is not None and r.prompt_tokens + r.output_tokens > capacity]
