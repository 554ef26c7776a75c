"""Functions compiled by Numba, kept on disk between processes where there is a place for them.

Numba keeps compiled functions beside their source or in the user's cache folder, and refuses to keep any where neither
can be written: in a container, for a service account. There they go to a folder of this user among the temporary files,
and where that cannot be had either, they are compiled anew in each process.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


class Compiling:
    """What is being compiled because no cache has it, and the seconds that this has taken so far.

    A context in which something is compiled; within it may be others, of functions that this one calls.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth, self._began = 0, 0.0

    @property
    def running(self) -> bool:
        """Whether something is being compiled."""
        return self._depth > 0

    def __enter__(self) -> None:
        if not self._depth:
            self._began = time.monotonic()
        self._depth += 1

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if not self._depth:
            self.seconds += time.monotonic() - self._began


compiling = Compiling()


def kernel(function: F) -> F:
    """Compile a function at its first call, to run without the interpreter and its lock."""
    try:
        return _cached(function)
    except RuntimeError:  # Numba found no place
        pass
    folder = _own_temporary_folder()
    if folder is not None:
        with _cache_folder(folder), contextlib.suppress(RuntimeError):
            return _cached(function)
    compiled: Any = numba.njit(nogil=True)(function)
    return cast("F", compiled)


def _cached(function: F) -> F:
    dispatcher: Any = numba.njit(cache=True, nogil=True)(function)
    compile_one, save = dispatcher._compiler.compile, dispatcher._cache.save_overload

    def compile_timed(signature: Any, returned: Any) -> Any:
        with compiling:
            return compile_one(signature, returned)

    def save_if_possible(signature: Any, compiled: Any) -> None:
        with contextlib.suppress(OSError):  # a full disk: it is compiled again next time
            save(signature, compiled)

    dispatcher._compiler.compile = compile_timed
    dispatcher._cache.save_overload = save_if_possible
    return cast("F", dispatcher)


def _own_temporary_folder() -> str | None:
    """A folder among the temporary files that only this user can write to: what lies in it is run."""
    try:
        folder = os.path.join(tempfile.gettempdir(), f"numba-of-user-{os.getuid()}")
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        found = os.lstat(folder)
    except OSError:
        return None
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return folder if private and found.st_uid == os.getuid() else None


@contextlib.contextmanager
def _cache_folder(folder: str) -> Iterator[None]:
    """Let Numba keep what is decorated within the block in a folder."""
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = folder
    try:
        yield
    finally:
        config.CACHE_DIR = before
