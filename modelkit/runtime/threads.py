"""Locks that a forked process finds free, what Pyomo needs of them, and work in threads that a fork does not miss."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType


class Lock:
    """A lock of threads, which one that holds it may take again.

    Where a process forks while another of its threads holds a plain lock, the child never releases it.

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


class _Silence:
    """Who keeps Pyomo from logging at the moment, and the level before the first of them."""

    lock = Lock()
    depth = 0
    before = logging.NOTSET


@contextmanager
def pyomo_silent() -> Iterator[None]:
    """Keep Pyomo from logging what the outcome or the error says; also from several threads at once."""
    logger = logging.getLogger("pyomo")
    with _Silence.lock:
        if not _Silence.depth:
            _Silence.before = logger.level
            logger.setLevel(logging.CRITICAL)
        _Silence.depth += 1
    try:
        yield
    finally:
        with _Silence.lock:
            _Silence.depth -= 1
            if not _Silence.depth:
                logger.setLevel(_Silence.before)


def share_work(parts: Sequence[tuple[slice, ...]], work: Callable[..., object]) -> None:
    """Do the parts of some work in threads: as many at a time as there are processors, or ``NUMBA_NUM_THREADS`` says.

    The work is compiled and gives the interpreter free. (Numba's own threads end a process that was forked after they
    had begun, and may not be used by two threads at once.)
    """
    if len(parts) == 1:
        work(*parts[0])
        return
    from numba import config  # late: it takes a while to load

    with ThreadPoolExecutor(max_workers=int(vars(config)["NUMBA_NUM_THREADS"])) as pool:
        for _ in pool.map(lambda part: work(*part), parts):
            pass


def blocks(count: int, parts: int = 16) -> list[tuple[slice]]:
    """Consecutive numbers below ``count``, in parts of about the same size."""
    bounds = [count * part // parts for part in range(parts + 1)]
    return [(slice(begin, end),) for begin, end in itertools.pairwise(bounds) if end > begin]
