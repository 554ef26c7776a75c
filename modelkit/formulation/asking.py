"""Asking a formulation's functions: whatever one does but return becomes an error that names it and the line."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType

from modelkit.errors import FormulationFailedError, ModelkitError
from modelkit.runtime.threads import pyomo_silent

#: Names of the modules that formulation files become begin with this.
LOADED = "modelkit_formulation_"
#: Functions that have a model in their hands.
_WITH_PYOMO = frozenset({"import", "build", "extract", "start", "separator"})
#: Top packages of which an error is never shown as being there: they only pass it on.
_PASSING = frozenset({"modelkit", "pyomo", "contextlib", "importlib", "runpy"})


class Listener:
    """Hears which function runs: in the process of a user's files, so that another one can tell where it died."""

    enter: Callable[[str], None] = staticmethod(lambda function: None)
    leave: Callable[[], None] = staticmethod(lambda: None)


@contextmanager
def asking(owner: str, function: str, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Within the block a function of the formulation ``owner`` runs.

    Raises
    ------
    FormulationFailedError
        It raised an error, or ended the interpreter by ``sys.exit``. KeyboardInterrupt counts as one where Ctrl-C is
        ignored, so that only the function can have raised it. Errors of modelkit, and those ``passing``, pass as
        they are.
    """
    Listener.enter(function)
    try:
        with pyomo_silent() if function in _WITH_PYOMO else nullcontext():  # what goes wrong is said once, by us
            yield
    except (ModelkitError, MemoryError):
        raise
    except KeyboardInterrupt as error:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            raise
        raise FormulationFailedError(f"{owner}: {function}() {what_happened(error)}") from error
    except BaseException as error:
        if isinstance(error, passing):
            raise
        raise FormulationFailedError(f"{owner}: {function}() {what_happened(error)}") from error
    finally:
        Listener.leave()


def what_happened(error: BaseException) -> str:
    """``called sys.exit(0) in line 3``, or ``raised KeyError: 'x' in line 3``."""
    if isinstance(error, SystemExit):
        words = f"called sys.exit({'' if error.code is None else repr(error.code)})"
    else:
        text = " ".join(str(error).split())
        text, early, _ = text.partition(" before it has been constructed")
        words = f"raised {type(error).__name__}" + (f": {text}" if text else "")
        if early:
            dropped = ", and m.del_component(m.NAME) leaves out what is inherited" if _deactivates(error) else ""
            words += f"{early} (in build() the model has no data yet: a rule, or a pyo.BuildAction, has them{dropped})"
        if isinstance(error, TypeError) and text.endswith("missing 1 required positional argument: 'known'"):
            words += " (write data(instance, known), and hand known on)"
    line = _line(error)
    return words if line is None else f"{words} in line {line}"


def _deactivates(error: BaseException) -> bool:
    """Whether the file meant to leave out a component with an index, which without data Pyomo cannot."""
    return any(frame.f_code.co_name == "deactivate" for frame, _ in traceback.walk_tb(error.__traceback__))


def _line(error: BaseException) -> int | None:
    """Line of the formulation's file in which it happened; of any code but ours where it is of no file."""
    frames = list(traceback.walk_tb(error.__traceback__))
    for is_meant in (_is_loaded, _is_foreign):
        lines = [line for frame, line in frames if is_meant(frame)]
        if lines:
            return lines[-1]
    return None


def _is_loaded(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith(LOADED)


def _is_foreign(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] not in _PASSING
