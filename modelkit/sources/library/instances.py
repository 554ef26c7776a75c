"""Instances of the library: read from its folder, drawn again from their family, or made from a trace that was fetched.

Whatever the way, an instance is handed out only with the hash that its entry states.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from modelkit.arguments import checked_arguments
from modelkit.errors import Fault, InputError, UsageError
from modelkit.instance import Instance
from modelkit.io import load
from modelkit.io.files import MOST_TRACE_BYTES, read_bytes
from modelkit.sources.families import generate
from modelkit.sources.library.entries import Recipe, TraceFile, file_of, find_entry
from modelkit.sources.traces import import_trace


@checked_arguments
def library(
    name: str, *, trace: str | os.PathLike[str] | None = None, folder: str | os.PathLike[str] | None = None
) -> Instance:
    """The instance of the library called ``name``.

    Parameters
    ----------
    trace
        The public file that it is drawn from, where it is; its entry says where it can be had.
    folder
        Where ``library.json`` lies; None: the library that comes with modelkit.

    Raises
    ------
    UsageError
        No such instance, or it needs a trace that was not given.
    InputError
        The trace is another file, or another instance came out.
    """
    entry = find_entry(name, folder)
    instance = load(file_of(entry.file, folder)) if entry.file is not None else make(entry.recipe, name, trace)
    if instance.sha256 != entry.sha256:
        words = (
            f"its hash is {instance.sha256[:16]}..., that of the entry {entry.sha256[:16]}...; it was drawn by other"
        )
        raise InputError(f"library instance {name!r}", [Fault("$", f"{words} versions of modelkit or NumPy")])
    return instance


def make(recipe: Recipe, name: str | None = None, trace: str | os.PathLike[str] | None = None) -> Instance:
    """The instance of a recipe.

    Parameters
    ----------
    name
        Of the instance; None: what its family calls it.
    trace
        The public file, for a recipe that takes one.

    Raises
    ------
    UsageError
        It needs a trace that was not given.
    InputError
        The trace is another file.
    """
    if recipe.trace is None:
        instance = generate(recipe.family or "", **recipe.options)
    else:
        path = _checked_trace(recipe.trace, name, trace)
        instance = import_trace(recipe.trace.format, path, **recipe.options)
    said = {"name": name, "server": recipe.server, "description": recipe.description}
    if recipe.trace is not None:  # the importer names the file as it lies here
        said["source"] = f"trace {recipe.trace.url}"
    changes = {field: value for field, value in said.items() if value not in (None, getattr(instance, field))}
    return instance.replace(**changes) if changes else instance


def _checked_trace(source: TraceFile, name: str | None, trace: str | os.PathLike[str] | None) -> str:
    """The path of a public file that is the one that is meant."""
    if trace is None:
        raise UsageError(
            f"{name} is made from a public trace ({source.licence}) that does not come with modelkit\n"
            f"  fetch it:    curl -LO {source.url}\n"
            f"  and name it: modelkit library get {name} --trace {Path(source.url).name}"
        )
    found = hashlib.sha256(read_bytes(trace, MOST_TRACE_BYTES)).hexdigest()
    if found != source.sha256:
        words = f"found a file with sha256 {found[:16]}...; needed: {source.sha256[:16]}..., from {source.url}"
        raise InputError(os.fspath(trace), [Fault("$", words)])
    return os.fspath(trace)
