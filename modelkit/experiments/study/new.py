"""A study to start from: a commented file that runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

from modelkit.errors import UsageError, shown
from modelkit.io import check_writable, write_text

TEMPLATE = Path(__file__).with_name("template.toml")
#: What names a study, its file and its folder.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def new_study(name: str, folder: Path = Path()) -> Path:
    """Write ``NAME.toml``; returns the file.

    Raises
    ------
    UsageError
        The name cannot be one, or the file is there already.
    """
    name = name.removesuffix(".toml")
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{shown(name)} cannot name a study; allowed: letters, digits, dashes, dots and underscores, such as rates"
        )
    path = folder / f"{name}.toml"
    if path.exists():
        raise UsageError(f"{path} is there already; choose another name")
    check_writable(path)
    write_text(path, TEMPLATE.read_text(encoding="utf-8").replace("NAME", name))
    return path
