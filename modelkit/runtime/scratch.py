"""Folders for files of a moment, which go away even where their process is killed.

The name carries the process's number and when it began: the next process that needs a folder removes those of
processes that are no more.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_NAME = re.compile(r"modelkit-(\d+)-(\d+)-\w+")


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder, removed at the end of the block."""
    sweep()
    pid = os.getpid()
    with tempfile.TemporaryDirectory(prefix=f"modelkit-{pid}-{began(pid) or 0}-") as folder:
        yield Path(folder)


def sweep() -> None:
    """Remove the folders that processes of this user left behind when they were killed."""
    for pid, when, path in _folders(tempfile.gettempdir()):
        if when and began(pid) != when:
            with contextlib.suppress(OSError):
                if path.lstat().st_uid == os.getuid():
                    shutil.rmtree(path, ignore_errors=True)


def _folders(place: str) -> list[tuple[int, int, Path]]:
    """(process, when it began, folder) of each in a folder."""
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        return [
            (int(found[1]), int(found[2]), Path(entry.path))
            for entry in entries
            if (found := _NAME.fullmatch(entry.name)) and entry.is_dir(follow_symlinks=False)
        ]
    return []


def began(pid: int) -> int | None:
    """When a process began, in ticks since the machine did; None when there is none, or the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
