"""Importers of public traces: a file of somebody else's format becomes an instance."""

from __future__ import annotations

import os
from importlib import import_module

from modelkit.files import where_of
from modelkit.instance import Instance, Request
from modelkit.io import checked
from modelkit.registry import Maker, Registry

_REGISTRY = Registry("trace format")
trace_format = _REGISTRY.register

#: Modules of this package that register formats.
_MODULES = ("lengths", "serving")


def trace_formats() -> dict[str, Maker]:
    """All trace formats by name."""
    for module in _MODULES:
        import_module(f"{__name__}.{module}")
    return _REGISTRY.makers()


def import_trace(name: str, path: str | os.PathLike[str], **options: object) -> Instance:
    """Instance from a trace file.

    Raises
    ------
    UsageError
        No such format, or the file cannot be opened.
    InputError
        With all faults of the file, each with its line.
    """
    trace_formats()
    maker = _REGISTRY[name]
    return checked(f"{where_of(path)} as {name}", lambda: maker.make(path, **options))


def oversized(instance: Instance) -> list[Request]:
    """Requests that can never fit: s_i + o_i > M."""
    capacity = instance.server.kv_capacity_tokens
    return [r for r in instance.requests if capacity is not None and r.prompt_tokens + r.output_tokens > capacity]
