"""A line on standard error, when that is a terminal, that says what is being done and how long it has taken."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from modelkit.cli.output import PRECISE, remark
from modelkit.cli.streams import on_terminal
from modelkit.text import number

if TYPE_CHECKING:
    from rich.text import Text

    from modelkit.result import Progress
    from modelkit.runtime.kernel import Compiling

#: Seconds of compiling that are worth a remark.
MARKED = 2.0

#: A sign that the program lives.
TURNING = "|/-\\"


class Line:
    """What the line says; a thread draws it four times a second, whatever else is going on."""

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self.facts: list[str] = []
        self.began = time.monotonic()
        self._console: Any = None

    def says(self, phase: str, *facts: str) -> None:
        """Say this from now on."""
        self.phase, self.facts = phase, list(facts)

    def hear(self, progress: Progress) -> None:
        """Say the phase, incumbent, bound and gap of a computation."""
        facts = []
        if progress.incumbent is not None:
            facts.append(f"incumbent {number(progress.incumbent, PRECISE)}")
        if progress.bound is not None:
            facts.append(f"bound {number(progress.bound, PRECISE)}")
        if progress.gap is not None:
            facts.append(f"gap {progress.gap:.2%}")
        self.says(progress.phase, *facts)

    def above(self, words: str) -> None:
        """Leave words above the line; nothing where there is no line."""
        if self._console is not None:
            self._console.print(words, highlight=False, markup=False)

    def drawn(self) -> Text:
        """The line as it is now, cut at the width of the terminal."""
        from rich.text import Text

        elapsed = time.monotonic() - self.began
        compiles = (compiling := _compiling()) is not None and compiling.running
        facts = ["compiling, once on this machine", *self.facts] if compiles else self.facts
        words = " · ".join([f"{TURNING[int(4 * elapsed) % 4]} {self.phase} {elapsed:.0f} s", *facts])
        return Text(words, no_wrap=True, overflow="ellipsis")

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw it within the block; what is printed meanwhile appears above it."""
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True)
        both = sys.stdout is not None and sys.stdout.isatty()
        with Live(
            console=self._console, get_renderable=self.drawn, refresh_per_second=4, transient=True, redirect_stdout=both
        ):
            yield
        self._console = None


@contextmanager
def progress(quiet: bool, phase: str = "loading") -> Iterator[Line]:
    """The line, shown when standard error is a terminal and --quiet was not given."""
    line = Line(phase)
    if quiet or not on_terminal():
        yield line
        return
    with line.shown():
        yield line
    compiling = _compiling()
    if compiling is not None and compiling.seconds > MARKED:
        remark("note", f"compiling took {compiling.seconds:.0f} s, once on this machine; later runs load what it made")


def _compiling() -> Compiling | None:
    """What is known of compiled functions; None before there are any, for importing Numba takes a while."""
    module = sys.modules.get("modelkit.runtime.kernel")  # without the name while another thread imports it
    return cast("Compiling | None", getattr(module, "compiling", None))
