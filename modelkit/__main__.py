"""``python -m modelkit`` and the console script."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterable

#: Objects between two looks for garbage: what a command makes mostly lives to its end, and looking took a fifth of it.
LOOK_AFTER = 100_000


def main() -> None:
    """Run the command line. Until it is loaded, signals simply end the process: there is nothing to keep."""
    if os.name != "posix":
        from modelkit import NOT_POSIX

        print(f"error: {NOT_POSIX}", file=sys.stderr)
        sys.exit(2)
    gc.set_threshold(LOOK_AFTER)
    _open_standard_numbers()
    minded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if minded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from modelkit.cli import main as run
    from modelkit.cli.streams import forgiving_streams
    from modelkit.runtime.interrupts import Ending, taken

    ending = Ending()
    signals = taken(ending)
    try:
        with forgiving_streams():
            run(ending)
    except SystemExit as end:
        _ignore(signals)
        _leave_at_once(end.code, signalled=ending.number is not None)
        raise
    finally:
        _ignore(signals)


def _ignore(signals: Iterable[int]) -> None:
    """Let signals pass: all is written, what is left is tidying up."""
    for number in signals:
        signal.signal(number, signal.SIG_IGN)


def _leave_at_once(code: object, *, signalled: bool) -> None:
    """End the process where Python would not do so with this exit code.

    It waits for threads that are left, although their work is not needed. And after KeyboardInterrupt in a string
    that ``exec`` runs, such as the methods of a dataclass, ``python -m`` ends by SIGINT, although it was handled.
    """
    left = [t for t in threading.enumerate() if t is not threading.current_thread() and not t.daemon]
    if not left and not signalled:
        return
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _open_standard_numbers() -> None:
    """Give the numbers of closed standard streams to nothing, before a file that is opened takes one of them."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


if __name__ == "__main__":
    main()
