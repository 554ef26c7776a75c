"""Signals that ask a process to end, at moments when they would break something or lose what is already there."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

#: Ctrl-C, the request of a scheduler or service manager to end, and a terminal that closes.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Python code that runs while a compiled function takes its arguments or hands over its results. Numba goes on there
#: with an exception set: KeyboardInterrupt ends in SystemError or in a crash. And code that gives memory of LLVM back:
#: cut short, it fails when Python calls it once more.
FRAGILE = frozenset({"ctypes", "numba.core.serialize", "llvmlite.binding.ffi", "weakref"})

Handler = Callable[[int, FrameType | None], None]


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, as Python's own handler of SIGINT; after the call of numba where it would not stand it.

    A timer would not do: where one compiled function follows another, Python runs nothing but fragile code.
    """
    caller = within = frame
    while within is not None:
        if within.f_globals.get("__name__") in FRAGILE or _swallows(within):
            caller = within.f_back
        within = within.f_back
    if caller is frame or caller is None:
        raise KeyboardInterrupt

    def next_line(traced: FrameType, event: str, argument: object) -> None:
        raise KeyboardInterrupt  # which ends the tracing, too

    caller.f_trace = next_line
    sys.settrace(lambda *_: None)  # else no frame is traced


def _swallows(frame: FrameType) -> bool:
    """Whether Python prints what is raised here and goes on: ``__del__``, and how an import gives up its lock."""
    name = frame.f_code.co_name
    return name == "__del__" or (name == "cb" and frame.f_globals.get("__name__") == "importlib._bootstrap")


class Ending:
    """Handler by which all signals of `ENDING` keep what Ctrl-C keeps; it knows which one came first."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.note(number)
        interrupt(number, frame)

    def note(self, number: int) -> None:
        """Keep the number of the first one."""
        self.number = self.number or number

    @property
    def exit_code(self) -> int | None:
        """128 and the number of the signal, None when none came."""
        return None if self.number is None else 128 + self.number


def taken(handler: Handler) -> tuple[signal.Signals, ...]:
    """Let ``handler`` handle the signals of `ENDING` and return them; not those that whoever began this ignores."""
    minded = tuple(n for n in ENDING if signal.getsignal(n) in (signal.SIG_DFL, signal.default_int_handler))
    for number in minded:
        signal.signal(number, handler)
    return minded


def ignore_all() -> None:
    """Leave it to the parent process when this one ends: signals often go to a whole group."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Signals of `ENDING` wait within the block; for a process started there, until it calls `ignore_all`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C within the block, or the function that this decorates, ends compiled functions cleanly.

    Outside the main thread, and where another handler is installed, nothing changes.
    """
    with _handled_by(lambda usual: interrupt if usual is signal.default_int_handler else usual):
        yield


class Held:
    """Whether a signal came within the block."""

    pressed = False


@contextmanager
def interrupts_held() -> Iterator[Held]:
    """Ctrl-C, and what is handled like it, waits within the block, which should be short; the second one does not.

    The caller says what a held one means, by ``pressed``. Outside the main thread, and where another handler is
    installed, nothing is held.
    """
    held = Held()

    def holding(usual: Handler) -> Handler:
        def hold(number: int, frame: FrameType | None) -> None:
            if held.pressed:
                usual(number, frame)
            held.pressed = True
            if isinstance(usual, Ending):
                usual.note(number)

        return hold

    with _handled_by(holding):
        yield held


@contextmanager
def _handled_by(instead: Callable[[Handler], Handler]) -> Iterator[None]:
    """Handle signals otherwise within the block: those that Python's own handler or one of this module has."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in ENDING}
    usual: dict[signal.Signals, Handler] = {
        number: handler
        for number, handler in found.items()
        if callable(handler) and (handler in (signal.default_int_handler, interrupt) or isinstance(handler, Ending))
    }
    try:
        for number, handler in usual.items():
            signal.signal(number, instead(handler))
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
