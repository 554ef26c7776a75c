"""``python -m modelkit`` and the console script."""

from __future__ import annotations

import os
import signal
import sys


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
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is written; what is left is tidying up


if __name__ == "__main__":
    main()
