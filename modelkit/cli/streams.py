"""Standard streams that are closed, full, or lead to a program that reads no more."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import IO, Any


class Forgiving:
    """A standard stream on which some errors are no faults: what has no reader any more is left out.

    Parameters
    ----------
    forgiven
        The errors.
    """

    def __init__(self, stream: IO[str], forgiven: type[OSError]) -> None:
        self._stream = stream
        self._forgiven = forgiven

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write what can be written."""
        try:
            return self._stream.write(text)
        except self._forgiven:
            drop(self._stream)
            return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        try:
            self._stream.flush()
        except self._forgiven:
            drop(self._stream)


@contextlib.contextmanager
def forgiving_streams() -> Iterator[None]:
    """Let words hinder no work: their reader, such as ``head``, or the terminal may go away before it is done.

    On standard output only a closed pipe is forgiven: a full disk is a fault.
    """
    usual = sys.stdout, sys.stderr
    if sys.stdout is not None:
        sys.stdout = Forgiving(sys.stdout, BrokenPipeError)
    if sys.stderr is not None:
        sys.stderr = Forgiving(sys.stderr, OSError)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = usual


def drop(stream: IO[str] | None) -> None:
    """Let a standard stream that takes nothing more lead nowhere; Python would try once again at its end."""
    if stream is not None:
        with contextlib.suppress(OSError):  # something without a number stands in for it
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def on_terminal() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()
