"""Finding and loading formulation files, and what the package carries.

Files are found in the bundled folder and in the folders named by ``MODELKIT_FORMULATIONS``; the file
``kv_hindsight.py`` holds the formulation ``kv-hindsight``. Nothing is picked up from the current
directory by itself, and no file is imported before it is asked for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from modelkit.errors import FormulationError, InputError, ModelkitError, UsageError
from modelkit.formulation.asking import LOADED, asking
from modelkit.formulation.formulation import Formulation
from modelkit.formulation.parameters import Parameter
from modelkit.io.files import read_bytes
from modelkit.judge import metric_names
from modelkit.registry import Registry
from modelkit.runtime.resources import bundled
from modelkit.runtime.threads import Lock

#: Environment variable with folders of formulation files, separated like PATH.
FOLDERS_VARIABLE = "MODELKIT_FORMULATIONS"
#: What the import of a file is called where the functions of a formulation are named.
IMPORT = "import"

#: Fields that a formulation had, and what does their work now.
_FORMER_FIELDS = {
    "variant_data": "data(instance, known) asks known, which says what holds for the problem",
    "nonzeros": "data(instance, known) calls known.check_size(nonzeros) before it prepares anything",
    "variant_nonzeros": "data(instance, known) calls known.check_size(nonzeros) before it prepares anything",
    "suits": "solve takes the fastest formulation of each problem by itself, and others by -f",
}


def formulation_files() -> dict[str, Path]:
    """File of each formulation by name. Of two with one name the bundled one, then the first found, counts."""
    folders = [bundled("formulations")]
    folders += [Path(f) for f in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if f]
    files: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.py")):
            if not path.name.startswith(("_", "test_")) and path.name != "conftest.py":
                files.setdefault(path.stem.replace("_", "-"), path)
    return files


REGISTRY: Registry[Path] = Registry("formulation", find=formulation_files)


def load_formulation(name: str) -> Formulation:
    """The formulation called ``name``, or in the file ``name`` when that ends in ``.py``.

    What a variant inherits is filled in.

    Raises
    ------
    UsageError
        There is none of that name.
    FormulationError
        The file is missing or broken; the message says in which line.
    """
    return _joined(_lineage(name))


def in_full(formulation: Formulation) -> Formulation:
    """The formulation with what it inherits filled in, where that is not so yet.

    Raises
    ------
    UsageError, FormulationError
        As `load_formulation`, of what it extends.
    """
    return formulation if formulation.in_full else _joined(_lineage(formulation))


def base_of(given: str | Formulation) -> Formulation | None:
    """What the formulation extends, in full; None for one that stands alone."""
    before = _lineage(given)[:-1]
    return _joined(before) if before else None


def chain_of(name: str) -> list[Path]:
    """Files of what the formulation extends, first the one that stands alone, and last its own."""
    return [ancestor.path for ancestor in _lineage(name) if ancestor.path is not None]


def is_bundled(name: str) -> bool:
    """Whether the formulation comes with modelkit: such files are trusted to return from their functions."""
    return file_of(name).resolve().is_relative_to(bundled("formulations").resolve())


#: What the judge computes itself, under each clock.
_METRICS = frozenset(
    name for is_unit in (True, False) for name in metric_names(is_unit, slo=True, pauses=True, prefixes=True)
)


class _Ancestor(NamedTuple):
    """A formulation as its file states it, without what it inherits; the path is None of an object."""

    formulation: Formulation
    path: Path | None


def _lineage(given: str | Formulation, chain: tuple[str, ...] = (), beside: Path | None = None) -> list[_Ancestor]:
    """What a formulation extends, each once and after what it extends itself, and last the formulation."""
    name = given if isinstance(given, str) else given.name
    if name in chain:
        raise FormulationError(f"formulations extend each other in a circle: {' -> '.join((*chain, name))}")
    path = None if isinstance(given, Formulation) else _file_beside(given, beside)
    own = given if isinstance(given, Formulation) else _load_file(path or Path(given))
    if own.in_full:
        return [_Ancestor(own, path)]
    found: dict[str, _Ancestor] = {}
    for parent in own.parents:
        try:
            for ancestor in _lineage(parent, (*chain, name), path):
                found.setdefault(ancestor.formulation.name, ancestor)
        except UsageError as error:
            raise UsageError(f"formulation {own.name!r} extends what there is not: {error}") from None
    if len(own.parents) > 1:
        _check_together(own, list(found.values()))
    return [*found.values(), _Ancestor(own, path)]


def _joined(lineage: Sequence[_Ancestor]) -> Formulation:
    """The last of a lineage with all that stands before it filled in."""
    joined = lineage[0].formulation
    for ancestor in lineage[1:]:
        joined = ancestor.formulation.extend(joined)
    if joined.value is not None and joined.objective in _METRICS:
        words = f"formulation {joined.name!r} has a value() for {joined.objective!r}, which is a metric of the judge"
        raise FormulationError(f"{words}; give the objective a name of its own, or leave value() out")
    return joined


def _check_together(own: Formulation, ancestors: list[_Ancestor]) -> None:
    """Refuse to join formulations that build on different ones, or of which two change the same thing."""
    found = [ancestor.formulation for ancestor in ancestors]
    roots = [f.name for f in found if not f.parents or f.in_full]
    if len(roots) > 1:
        raise FormulationError(
            f"formulation {own.name!r} extends what builds on {' and on '.join(map(repr, roots))}; allowed: variants of"
            " one formulation"
        )
    changing = [f.name for f in found if f.parents and f.objective is not None]
    if len(changing) > 1:
        words = f"{' and '.join(map(repr, changing))} each have an objective of their own; allowed: one of them"
        raise FormulationError(f"formulation {own.name!r} cannot extend both: {words}")
    taken: dict[str, tuple[str, Parameter]] = {}
    for f in found:
        for parameter in f.parameters:
            other, before = taken.setdefault(parameter.name, (f.name, parameter))
            if before != parameter:
                words = f"{other!r} and {f.name!r} have different parameters of the name {parameter.name!r}"
                raise FormulationError(f"formulation {own.name!r} cannot extend both: {words}")


def _file_beside(name: str, file: Path | None) -> Path:
    """The file of a formulation; one that another file names may lie beside that."""
    if name.endswith(".py") and file is not None and (near := file.parent / name).is_file():
        return near
    return file_of(name)


#: Held while a file runs.
_loading = Lock()


def _load_file(path: Path) -> Formulation:
    try:
        source = read_bytes(path)
    except (InputError, UsageError) as error:
        raise FormulationError(str(error).replace("cannot read ", "cannot read formulation ", 1)) from None
    whole = path.resolve()  # before it runs and perhaps changes the folder
    module_name = LOADED + hashlib.sha256(source + os.fsencode(whole)).hexdigest()[:16]
    with _loading:  # else another thread sees a module half run
        module: Any = sys.modules.get(module_name)
        if module is None:
            spec = importlib.util.spec_from_file_location(module_name, whole)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module  # before it runs: dataclasses look themselves up there
            _import_pyomo()
            try:
                with asking(f"formulation {path}", IMPORT):
                    spec.loader.exec_module(module)
            except (ModelkitError, MemoryError) as failed:
                del sys.modules[module_name]
                cause = failed.__cause__ or failed
                raise FormulationError(f"formulation {path} cannot be loaded: {place(cause, whole)}") from cause
    found = getattr(module, "FORMULATION", None)
    if not isinstance(found, Formulation):
        raise FormulationError(f"formulation {path} defines no object FORMULATION = Formulation(...)")
    expected = path.stem.replace("_", "-")
    if found.name != expected:
        raise FormulationError(f"formulation {path} is named {found.name!r}; its file says {expected!r}")
    return found


def _import_pyomo() -> None:
    """Import Pyomo without ``scipy.stats``, which takes a second.

    Pyomo imports that only when it is used, unless ``scipy`` is in ``sys.modules``, where Numba puts it without a use.
    """
    if "pyomo" in sys.modules or "scipy" not in sys.modules:
        return
    scipy = sys.modules.pop("scipy")
    try:
        import pyomo.environ  # noqa: F401
    finally:
        sys.modules["scipy"] = scipy


def file_of(name: str) -> Path:
    """File of the formulation called ``name``, or ``name`` itself when that ends in ``.py``.

    Raises
    ------
    UsageError
        There is none of that name.
    """
    if name.endswith(".py"):
        return Path(name)
    return REGISTRY[name]


def place(error: BaseException, path: Path) -> str:
    """What went wrong, and in which line of the file."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    lines = [
        f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == path.resolve()
    ]
    where = f"line {lines[-1]}: " if lines else ""
    words = f"{where}{type(error).__name__}: {error}"
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "modelkit":
        words += "; import public names from modelkit itself: from modelkit import Formulation, Instance, Parameter"
    left_out = re.search(r"Formulation.*unexpected keyword argument '(\w+)'", str(error))
    if left_out and left_out[1] in _FORMER_FIELDS:
        words += f"; leave {left_out[1]} out: {_FORMER_FIELDS[left_out[1]]}"
    return words


@dataclass(frozen=True, slots=True)
class FoundFormulation:
    """A formulation file: what it holds, or why it cannot be loaded."""

    name: str
    path: Path
    formulation: Formulation | None
    error: str | None


def found_formulations() -> list[FoundFormulation]:
    """Every formulation file; a broken one is listed with its error and hides no other."""
    entries = []
    for name, path in formulation_files().items():
        try:
            entries.append(FoundFormulation(name, path, load_formulation(name), None))
        except (FormulationError, UsageError) as error:
            entries.append(FoundFormulation(name, path, None, str(error)))
    return entries
