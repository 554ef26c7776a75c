"""Policies of one's own in files: ``FILE.py:NAME`` wherever a policy is named."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

from modelkit.errors import ModelkitError, UsageError
from modelkit.io.files import read_bytes

#: Names of the modules that policy files become begin with this.
LOADED = "modelkit_policy_"
_NAMED = re.compile(r"(?P<file>.+?\.py):(?P<rest>.+)", re.DOTALL)
#: Content of each file that was run, by the name of its module.
_contents: dict[str, bytes] = {}


def split_file(text: str) -> tuple[str | None, str]:
    """The file of ``FILE.py:NAME:options``, None where it names none, and the rest.

    Raises
    ------
    UsageError
        A file without the name of a policy.
    """
    if text.endswith(".py"):
        raise UsageError(f"policy {text!r} is a file; name one of its policies: {text}:NAME")
    found = _NAMED.fullmatch(text)
    return (found["file"], found["rest"]) if found else (None, text)


def load_policy_file(path: str | os.PathLike[str]) -> None:
    """Run a file, whose policies register themselves; what has not changed since is not run again.

    Raises
    ------
    UsageError
        It cannot be read, fails, or registers a name that is taken; the message says in which line.
    """
    whole = Path(path).resolve()
    try:
        content = read_bytes(path)
    except ModelkitError as error:
        raise UsageError(f"policy file {path}: {error}") from None
    name = LOADED + hashlib.sha256(os.fsencode(whole)).hexdigest()[:16]  # by its place: a changed file replaces its own
    if _contents.get(name) == content:
        return
    module = ModuleType(name)
    spec = importlib.util.spec_from_file_location(name, whole)
    assert spec is not None
    module.__spec__, module.__file__ = spec, str(whole)
    sys.modules[name] = module  # before it runs: dataclasses look themselves up there
    try:
        exec(compile(content, str(whole), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(whole)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f" in line {line}" if line else ""
        raise UsageError(f"policy file {path} cannot be run: {type(error).__name__}{where}: {error}") from None
    _contents[name] = content
