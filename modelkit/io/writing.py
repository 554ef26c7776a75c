"""Writing text, so that a reader sees the old file or the whole new one."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import secrets
import sys
from pathlib import Path

from modelkit.errors import UsageError, shown


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
    UsageError
        The file cannot be written (no such folder, no permission, disk full).
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"found {shown(path)} where a file's path is wanted")
    data = text.encode("utf-8", "backslashreplace")  # half a character: in JSON that is its escape
    if os.fspath(path) == "-":
        try:
            _to_standard_output(data)
        except OSError as error:
            raise UsageError(f"cannot write standard output: {error.strerror or error}") from None
        return None
    target = Path(path)
    if target.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    temporary = None
    try:
        if target.exists() and not target.is_file():  # a pipe or device is written to, not replaced
            target.write_bytes(data)
            return target
        temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}")
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(target)
        temporary = None
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror or error}") from None
    except ValueError as error:  # a null byte in the name
        raise UsageError(f"cannot write {os.fspath(path)!r}: {error}") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError, ValueError):
                temporary.unlink(missing_ok=True)
    return target


def _to_standard_output(data: bytes) -> None:
    if sys.stdout is None:
        raise OSError(0, "it is closed")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
    else:  # what stands in for it in tests and notebooks takes text only
        sys.stdout.write(data.decode())
    sys.stdout.flush()
