"""``python -m modelkit`` and the console script."""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Run the command line. Until it is loaded, signals simply end the process: there is nothing to keep."""
    _open_standard_numbers()
    minded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if minded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from modelkit.cli import main as run
    from modelkit.cli.streams import forgiving_streams
    from modelkit.interrupts import Ending, taken

    ending = Ending()
    signals = taken(ending)
    try:
        with forgiving_streams():
            run(ending)
    finally:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)  # all is written; what is left is tidying up


def _open_standard_numbers() -> None:
    """Give the numbers of closed standard streams to nothing, before a file that is opened takes one of them."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


if __name__ == "__main__":
    main()
