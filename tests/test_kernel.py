"""Compiled functions: kept on disk where that is possible, and working where it is not."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import modelkit.runtime.kernel as module
from modelkit.runtime.kernel import kernel

SOURCE = """
from modelkit.runtime.kernel import kernel

@kernel
def doubled(x):
    return 2 * x

@kernel
def broken(x):
    return doubled(x) + nothing
"""


def without_a_place(folder: Path, code: str, **environment: str) -> str:
    """What code prints where neither the source's folder nor a home can take compiled functions."""
    if not (folder / "doubling.py").exists():  # written anew, it would be another source to older versions of Numba
        (folder / "doubling.py").write_text(SOURCE)
    (folder / "__pycache__").touch()  # no folder can be made of it, not even by root
    path = os.pathsep.join([str(folder), str(Path(__file__).resolve().parents[1])])
    settings = {"HOME": os.devnull, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=settings, cwd="/", capture_output=True, text=True, check=True
    )
    return run.stdout.strip()


def test_read_only_and_no_home(tmp_path: Path) -> None:
    """Tests that a function is kept among the temporary files where neither its folder nor a home can be written."""
    place = tmp_path / "temporary"
    place.mkdir()
    code = "import doubling; assert doubling.doubled(4) == 8; print(sum(doubling.doubled.stats.cache_hits.values()))"
    assert [without_a_place(tmp_path, code, TMPDIR=str(place)) for _ in range(2)] == ["0", "1"]
    (folder,) = place.glob("numba-of-user-*")
    assert folder.stat().st_mode & 0o077 == 0


def test_compiling_is_timed_and_loading_is_not(tmp_path: Path) -> None:
    """Tests the seconds that a user is told of: those of compiling, in the run that compiles."""
    (tmp_path / "temporary").mkdir()
    code = """
    import doubling
    from modelkit.runtime.kernel import compiling
    doubling.doubled(4)
    print(compiling.seconds > 0, compiling.running)
    """
    place = {"TMPDIR": str(tmp_path / "temporary")}
    assert [without_a_place(tmp_path, code, **place) for _ in range(2)] == ["True False", "False False"]


def test_a_compilation_that_fails_is_over(tmp_path: Path) -> None:
    """Tests that nothing is said to be compiled after a failure."""
    code = """
    import doubling, numba
    from modelkit.runtime.kernel import compiling
    try:
        doubling.broken(4)
    except numba.TypingError:
        print(compiling.running, compiling.seconds > 0)
    """
    (tmp_path / "temporary").mkdir()
    assert without_a_place(tmp_path, code, TMPDIR=str(tmp_path / "temporary")) == "False True"


def test_nowhere_to_write(tmp_path: Path) -> None:
    """Tests that a function works, compiled anew, where nothing at all can be written."""
    code = """
    import modelkit.runtime.kernel
    modelkit.runtime.kernel._own_temporary_folder = lambda: None
    import doubling
    print(doubling.doubled(4))
    """
    assert without_a_place(tmp_path, code) == "8"


def test_a_folder_of_somebody_else_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that nothing is loaded from a folder that others can write to, or from a link."""
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = tmp_path / f"numba-of-user-{os.getuid()}"
    assert module._own_temporary_folder() == str(folder)
    folder.chmod(0o777)
    assert module._own_temporary_folder() is None
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    assert module._own_temporary_folder() is None


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that a function works when it cannot be kept after all."""

    @kernel
    def tripled(x: Any) -> Any:
        return 3 * x

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tripled._cache._cache_file, "save", full)
    assert tripled(3) == 9
