"""Locks that a forked process finds free."""

from __future__ import annotations

import os
import threading
from types import TracebackType


class Lock:
    """A lock of threads, which one that holds it may take again.

    Where a process forks while another of its threads holds a plain lock, nobody in the child ever gives it back.

    Parameters
    ----------
    delays_forks
        Whether a fork waits until the lock is free: for blocks that are short and must not be cut in two.
    """

    def __init__(self, *, delays_forks: bool = False) -> None:
        self._renew()
        if delays_forks:
            os.register_at_fork(before=self._take, after_in_parent=self._give)
        os.register_at_fork(after_in_child=self._renew)

    def _take(self) -> None:
        self._lock.acquire()

    def _give(self) -> None:
        self._lock.release()

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._take()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give()


#: Held while Pyomo works: it keeps settings of the whole process while it builds, compiles and captures output.
PYOMO = Lock()
