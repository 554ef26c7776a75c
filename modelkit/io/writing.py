"""Writing files, so that a reader sees the old file or the whole new one; and whether that will be possible."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

from modelkit.errors import UnwritableError, UsageError, shown
from modelkit.text import shown_path

#: What is written to find out whether a folder takes anything [byte]: a block.
PROBE = 4096


def write_text(path: str | os.PathLike[str], text: str) -> Path | None:
    """Write text so that a reader sees the old file or the whole new one.

    Parameters
    ----------
    path
        Where to; ``-`` is standard output; a name ending in ``.gz`` is compressed (same text,
        same bytes).

    Returns
    -------
    Path or None
        The file written, None for standard output.

    Raises
    ------
    UnwritableError
        The file cannot be written (no such folder, no permission, disk full).
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"found {shown(path)} where a file's path is wanted")
    data = text.encode("utf-8", "backslashreplace")  # half a character: in JSON that is its escape
    if os.fspath(path) == "-":
        try:
            _to_standard_output(data)
        except OSError as error:
            raise UnwritableError(f"cannot write standard output: {error.strerror or error}") from None
        return None
    return write_bytes(path, gzip.compress(data, mtime=0) if Path(path).suffix == ".gz" else data)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write a file whole or not at all.

    Raises
    ------
    UnwritableError
        As `write_text`.
    """
    target = Path(path)
    with _translate_error(path):
        if _is_special(target):  # a pipe or device is written to, not replaced
            target.write_bytes(data)
            return target
        with _beside(target, data) as temporary:
            temporary.replace(target)
    return target


def check_writable(path: str | os.PathLike[str]) -> None:
    """Find out whether a file can be written, as far as that can be known before it is: by writing one beside it.

    Raises
    ------
    UnwritableError
        It cannot.
    """
    if os.fspath(path) == "-":
        if sys.stdout is None:
            raise UnwritableError("cannot write standard output: it is closed")
        return
    target = Path(path)
    with _translate_error(path):
        if target.is_dir() or os.fspath(path).endswith(("/", os.sep)):
            raise UnwritableError(f"cannot write {shown_path(path)}: it is a folder; name a file in it")
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if not _is_special(target):
            with _beside(target, bytes(PROBE)):
                pass


def _is_special(target: Path) -> bool:
    return target.exists() and not target.is_file() and not target.is_dir()


@contextlib.contextmanager
def _beside(target: Path, data: bytes) -> Iterator[Path]:
    """A file with these data in the folder of the target; gone at the end of the block, unless renamed."""
    temporary = target.with_name(f".{target.name[:50]}.{secrets.token_hex(6)}")
    if len(os.fsencode(target.name)) > os.pathconf(target.parent, "PC_NAME_MAX"):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    try:
        with temporary.open("xb") as file:
            file.write(data)
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _translate_error(path: str | os.PathLike[str]) -> Iterator[None]:
    """What the system says about a file, as our error."""
    try:
        yield
    except OSError as error:
        raise UnwritableError(f"cannot write {shown_path(path)}: {error.strerror or error}") from None
    except ValueError as error:  # a null byte in the name
        raise UnwritableError(f"cannot write {shown(os.fspath(path), 200)}: {error}") from None


def _to_standard_output(data: bytes) -> None:
    if sys.stdout is None:
        raise OSError(0, "it is closed")
    sys.stdout.flush()
    if hasattr(sys.stdout, "buffer"):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:  # what stands in for it in notebooks takes text only
        sys.stdout.write(data.decode())
