"""A formulation to start from: files that work as written, with the names put in.

The templates are the files of the folder of formulations that begin with an underscore.
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from modelkit.errors import UsageError, unknown_name
from modelkit.formulation.formulation import Formulation
from modelkit.formulation.hosting import load_formulation
from modelkit.formulation.loading import formulation_files
from modelkit.io import check_writable, write_text
from modelkit.problems.problem import KV, problem_modelled
from modelkit.runtime.resources import bundled

#: A name in kebab-case.
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def new_formulation(name: str, folder: Path, *, extends: str | None = None) -> tuple[Path, ...]:
    """Write a formulation and its test; returns the files.

    Parameters
    ----------
    name
        In kebab-case; the file is named after it.
    folder
        Folder to write to.
    extends
        Formulation of which the new one is a variant.

    Raises
    ------
    UsageError
        The name cannot be one, is taken, or the files are there already; or there is no formulation to extend.
    """
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise UsageError(f"{name!r} cannot name a formulation; allowed: lower case with dashes, such as small-batches")
    taken = formulation_files()
    if name in taken:
        raise UsageError(f"there is a formulation {name!r} already, in {taken[name]}; choose another name")
    if extends is not None and extends not in taken:
        raise unknown_name("formulation", extends, taken)
    stem = name.replace("-", "_")
    base = None if extends is None else load_formulation(extends)
    kind = _kind(base)
    texts = {f"{stem}.py": _text(_TEMPLATES[kind]), f"test_{stem}.py": _text("_test_new_formulation.py")}
    words = {"new-formulation": name, "new_formulation": stem}
    if base is not None:
        words |= {"base-formulation": str(extends), '"base-claim",  # type: ignore[arg-type]': f'"{base.claim}",'}
    if kind == "kv variant":
        words["FILE, solver)"] = 'FILE, solver, parameters={"longest_wait": 0})'
    elif kind == "variant":  # of what, and with which optimum, only its author knows
        words[texts[f"test_{stem}.py"].partition("\n\n@pytest")[2]] = ""
        words |= {"\n\n@pytest": "", "import pytest\n\nimport modelkit as mk\n": ""}
        words[", and solves an instance whose optimum is known by hand"] = ""
    for file in texts:
        if (folder / file).exists():
            raise UsageError(f"{folder / file} is there already; nothing was written")
    for file in texts:
        check_writable(folder / file)
    for file, text in texts.items():
        for before, after in words.items():
            text = text.replace(before, after)
        write_text(folder / file, text)
    return tuple(folder / file for file in texts)


#: File to start from.
_TEMPLATES = {"alone": "_new_formulation.py", "kv variant": "_new_kv_variant.py", "variant": "_new_variant.py"}


def _kind(base: Formulation | None) -> str:
    if base is None:
        return "alone"
    return "kv variant" if problem_modelled(base.problem) is KV and base.claim == "exact" else "variant"


def _text(template: str) -> str:
    return (bundled("formulations") / template).read_text(encoding="utf-8")
