"""A look at a formulation file from an interpreter of its own: what importing it does, and what it builds.

The parent calls `probe`; the child runs `main`. The hash seed is given, so that two looks differ exactly where a file
leaves the order to chance.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

#: Seconds that one look may take.
PATIENCE = 120.0
#: Tiny instances that are built in each look.
BUILT = 4
#: Last line of the child's output begins with this.
_MARK = "modelkit-probe:"
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
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    try:
        made = subprocess.run(
            [sys.executable, "-c", "from modelkit.conformance.isolated import main; main()", name],
            input=json.dumps(dict(given)),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": str(hash_seed), "PYTHONDONTWRITEBYTECODE": "1"},
        )
    except subprocess.TimeoutExpired:
        return Probe(error=f"loading and building it did not end within {PATIENCE:g} s")
    for line in reversed(made.stdout.splitlines()):
        if line.startswith(_MARK):
            return Probe(**json.loads(line.removeprefix(_MARK)))
    return Probe(error=f"the interpreter ended while it loaded the file, with exit code {made.returncode}")


def main() -> None:
    """The child."""
    name = sys.argv[1]
    given = json.load(sys.stdin)
    found = Probe()
    out = sys.stdout
    try:
        _look(name, given, found)
    finally:
        out.write(f"\n{_MARK}{json.dumps(asdict(found))}\n")
        out.flush()


def _look(name: str, given: dict[str, Any], found: Probe) -> None:
    # what formulations import anyway, so that none is blamed for it
    for module in ("pyomo.environ", "numpy", "scipy", "modelkit.bounds", "modelkit.stages", "modelkit.packing"):
        importlib.import_module(module)
    from modelkit.conformance.tiny import tiny_instances
    from modelkit.errors import ModelkitError
    from modelkit.plugins import file_of, load_formulation, place

    path = file_of(name)
    try:
        with _Watch(path, found.effects):
            formulation = load_formulation(name)
    except ModelkitError as error:
        found.error = str(error)
        return
    except BaseException as error:
        found.error = f"the file ends the interpreter: {type(error).__name__}: {error}"
        return
    try:
        for instance in tiny_instances(formulation, BUILT, given):
            found.built += _rows(formulation.instantiate(instance))
    except Exception as error:
        found.build_error = f"{place(error, path)}"


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
