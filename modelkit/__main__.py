"""``python -m modelkit`` and the console script."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading


def main() -> None:
    """Run the command line. Until it is loaded, Ctrl-C simply ends the process: there is nothing to keep."""
    if os.name != "posix":
        from modelkit import NOT_POSIX

        print(f"error: {NOT_POSIX}", file=sys.stderr)
        sys.exit(2)
    minded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if minded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from modelkit.cli import main as run
    from modelkit.interrupts import interrupt

    if minded:
        signal.signal(signal.SIGINT, interrupt)
    try:
        run()
    except SystemExit as end:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is written; what is left is tidying up
        _leave_threads(end.code)
        raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave_threads(code: object) -> None:
    """End the process if threads are left that Python would wait for: nobody waits for their work."""
    left = [t for t in threading.enumerate() if t is not threading.current_thread() and not t.daemon]
    if not left:
        return
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    main()
