"""A page of memory that two processes share: which function of a formulation runs, and since when."""

from __future__ import annotations

import mmap
import os
import struct
import time

#: Bytes of the page.
SIZE = 4096
_NAME = slice(8, 72)


class Marks:
    """The page behind an open file; the child writes, the parent reads.

    It stays readable when the child is gone, whatever ended it.
    """

    def __init__(self, descriptor: int) -> None:
        os.ftruncate(descriptor, SIZE)
        self.page = mmap.mmap(descriptor, SIZE)
        self.outer: list[tuple[str, float]] = []

    def enter(self, function: str) -> None:
        """A function begins."""
        self.outer.append(self.read())
        self._write(function, time.monotonic())

    def leave(self) -> None:
        """It is over; the one that asked for it, if any, goes on."""
        function, since = self.outer.pop()
        self._write(function, since)

    def read(self) -> tuple[str, float]:
        """The function and when it began by the monotonic clock; 0 when none runs."""
        name = self.page[_NAME].rstrip(b"\0").decode(errors="replace")
        (since,) = struct.unpack_from("d", self.page)
        return name, since

    def _write(self, function: str, since: float) -> None:
        struct.pack_into("d", self.page, 0, 0.0)
        self.page[_NAME] = function.encode()[:64].ljust(64, b"\0")
        struct.pack_into("d", self.page, 0, since)
