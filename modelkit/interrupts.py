"""Ctrl-C at a moment when it would lose what is already there."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
            raise KeyboardInterrupt
        held.pressed = True

    usual = signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not usual:
        yield held
        return
    signal.signal(signal.SIGINT, hold)
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, usual)
