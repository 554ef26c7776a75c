"""Ctrl-C at moments when it would break something or lose what is already there."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

#: Python code that runs while a compiled function takes its arguments or hands over its results. Numba goes on there
#: with an exception set: KeyboardInterrupt ends in SystemError or in a crash.
FRAGILE = frozenset({"ctypes", "numba.core.serialize"})


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, as Python's own handler of SIGINT; after the call of numba where it would not stand it.

    A timer would not do: where one compiled function follows another, Python runs nothing but fragile code.
    """
    caller = within = frame
    while within is not None:
        if within.f_globals.get("__name__") in FRAGILE:
            caller = within.f_back
        within = within.f_back
    if caller is frame or caller is None:
        raise KeyboardInterrupt

    def next_line(traced: FrameType, event: str, argument: object) -> None:
        raise KeyboardInterrupt  # which ends the tracing, too

    caller.f_trace = next_line
    sys.settrace(lambda *_: None)  # else no frame is traced


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C within the block, or the function that this decorates, ends compiled functions cleanly.

    Outside the main thread, and where somebody else handles the signal, nothing changes.
    """
    with _handled_by(interrupt):
        yield


class Held:
    """Whether Ctrl-C was pressed within the block."""

    pressed = False


@contextmanager
def interrupts_held() -> Iterator[Held]:
    """Ctrl-C waits within the block, which should be short; the second one does not.

    The caller says what a held one means, by ``pressed``. Outside the main thread, and where somebody else handles the
    signal, nothing is held.
    """
    held = Held()

    def hold(number: int, frame: FrameType | None) -> None:
        if held.pressed:
            interrupt(number, frame)
        held.pressed = True

    with _handled_by(hold):
        yield held


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let it handle SIGINT within the block, where Python's own handler or `interrupt` does in the main thread."""
    usual = signal.getsignal(signal.SIGINT)
    replaceable = usual in (signal.default_int_handler, interrupt)
    if not replaceable or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
