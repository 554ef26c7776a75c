"""A look at a formulation file from an interpreter of its own: what importing it does, and what it builds.

The hash seed is given, so that two looks differ exactly where a file leaves the order to chance.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelkit.authoring.check.tiny_instances import tiny_instances
from modelkit.errors import FormulationFailedError, ModelkitError
from modelkit.formulation.hosting import host as hosting
from modelkit.formulation.hosting.guest import tell
from modelkit.formulation.loading import file_of, load_formulation, place
from modelkit.solving.known import known_of

#: Tiny instances that are built in each look.
BUILT = 4
#: Audit events that say that something outside the interpreter changes, and what they say it in.
_ACTIONS = {
    "os.mkdir": "makes the folder", "os.remove": "removes", "os.rename": "renames", "os.rmdir": "removes",
    "os.putenv": "sets the environment variable", "os.unsetenv": "unsets the environment variable",
    "os.chdir": "changes the folder to", "os.system": "runs", "os.exec": "runs", "os.fork": "forks",
    "os.posix_spawn": "runs", "subprocess.Popen": "runs", "socket.connect": "connects to",
    "socket.getaddrinfo": "looks up", "urllib.Request": "fetches", "shutil.copyfile": "copies",
    "shutil.rmtree": "removes",
}  # fmt: skip


@dataclass
class Probe:
    """What was seen: the error that stopped it, side effects of the import, and what was built, row by row."""

    error: str = ""
    effects: list[str] = field(default_factory=list)
    built: list[str] = field(default_factory=list)
    build_error: str = ""


def probe(name: str, given: Mapping[str, Any], *, hash_seed: int) -> Probe:
    """Load a formulation and build it on tiny instances, elsewhere."""
    path = file_of(name).resolve()
    seen = [Probe()]  # last, how far it came
    host = hosting.Host(hash_seed)
    try:
        call = ("call", _look, (str(path), dict(given)))
        host.request(call, f"formulation {path}", path, timeout=hosting.TIMEOUT, listen=seen.append)
    except FormulationFailedError as error:
        seen[-1].build_error = str(error)
    except ModelkitError as error:
        seen[-1].error = str(error)
    finally:
        host.end()
    return seen[-1]


def _look(name: str, given: dict[str, Any]) -> None:
    """The child's part: tells what it sees, each time with more."""
    path = file_of(name)
    found = Probe()
    try:
        with _Watch(path, found.effects):
            formulation = load_formulation(name)
    except ModelkitError as error:
        found.error = str(error)
    tell(found)
    if found.error:
        return
    try:
        for instance in tiny_instances(formulation, BUILT, given):
            found.built += _rows(formulation.instantiate(instance, known_of(formulation, instance)))
    except Exception as error:
        found.build_error = str(error) if isinstance(error, ModelkitError) else place(error, path)
    tell(found)


def _rows(model: Any) -> list[str]:
    """Every variable and row in order, each as one line: names, coefficients, sides."""
    from modelkit.backends.standard_form import compile_named

    form, columns, rows = compile_named(model)
    lines = [f"{c.name} in [{a:g}, {b:g}] cost {k:g}" for c, a, b, k in zip(columns, form.lower, form.upper, form.cost,
                                                                           strict=True)]  # fmt: skip
    for r, row in enumerate(rows):
        entries = slice(form.indptr[r], form.indptr[r + 1])
        terms = zip(form.indices[entries].tolist(), form.values[entries].tolist(), strict=True)
        text = " ".join(f"{v:g} {columns[j].name}" for j, v in terms)
        lines.append(f"{row}: {form.row_lower[r]:g} <= {text} <= {form.row_upper[r]:g}")
    return lines


class _Watch:
    """Notes what the code of one file does to the world while it is imported."""

    def __init__(self, path: Path, effects: list[str]) -> None:
        self.file = os.path.abspath(path)
        self.effects = effects
        self.on = False

    def __enter__(self) -> None:
        self.before = self.state()
        self.streams = sys.stdout, sys.stderr
        self.printed = io.StringIO()
        sys.stdout = sys.stderr = self.printed
        sys.addaudithook(self.hear)
        self.on = True

    def __exit__(self, *_: object) -> None:
        self.on = False
        sys.stdout, sys.stderr = self.streams
        if text := self.printed.getvalue().strip():
            self.effects.append(f"it prints {text.splitlines()[0][:60]!r}")
        after = self.state()
        self.effects += [f"it changes {what}" for what, value in self.before.items() if after[what] != value]

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or (event != "open" and event not in _ACTIONS):
            return
        if event == "open":
            target, mode, flags = arguments
            if not any(c in (mode or "") for c in "wax+") and not (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
            does = "writes"
        else:
            target, does = (arguments[0] if arguments else ""), _ACTIONS[event]
        self.on = False  # looking at frames is heard too
        if line := self.line():
            target = target.decode(errors="replace") if isinstance(target, bytes) else target
            self.effects.append(f"line {line}: it {does} {str(target)[:60]}")
        self.on = True

    def line(self) -> int:
        """Line of the file that does it; 0 when an import inside it does."""
        frame = sys._getframe(2)
        while frame is not None:
            if frame.f_code.co_filename == self.file:
                return frame.f_lineno
            if "importlib._bootstrap" in frame.f_code.co_filename:
                return 0
            frame = frame.f_back  # type: ignore[assignment]
        return 0

    def state(self) -> dict[str, Any]:
        """What an import has no business with."""
        import numpy as np

        modules = {name: m for name, m in sys.modules.items() if name.partition(".")[0] == "modelkit"}
        return {
            "the search path of modules": list(sys.path),
            "the random state of `random`": hashlib.sha256(repr(random.getstate()).encode()).hexdigest(),
            "the random state of NumPy": repr(np.random.get_state(legacy=False)["state"]),  # noqa: NPY002  that of others
            "the number of running threads": threading.active_count(),
            "modelkit itself": {
                (module, key): id(value)
                for module, m in modules.items()
                if module in _KNOWN
                for key, value in vars(m).items()
                if callable(value)
            },
        }


#: Modules of modelkit that a file might want to change.
_KNOWN = frozenset(
    f"modelkit.{name}"
    for name in ("judge", "judge.replay", "judge.metrics", "formulation", "instance", "schedule", "bounds")
)
