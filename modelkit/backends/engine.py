"""HiGHS, made and run in one way wherever modelkit uses it.

HiGHS keeps one scheduler for each thread of a process, made by the first solve there for its number of threads; a
later solve with another number fails. So every run has a thread of its own: no other scheduler is in its way, and
it leaves none behind.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import highspy
import numpy as np

from modelkit.backends.standard_form import StandardForm
from modelkit.errors import SolverError
from modelkit.runtime.interrupts import interrupts_held
from modelkit.runtime.threads import Lock

T = TypeVar("T")

#: From this version on, the first solver made in a process prints a banner, before an option can forbid it.
_TALKATIVE = (1, 16)
_BANNER = re.compile(rb"(Running HiGHS|Copyright \(c\)|Includes third-party)[^\n]*\n")
_making = Lock()


def new_highs(form: StandardForm, *, log_path: str | None = None, **options: Any) -> highspy.Highs:
    """HiGHS with a model; silent but for the log in a file.

    Parameters
    ----------
    options
        By HiGHS's own names.

    Raises
    ------
    SolverError
        It refuses an option or the model.
    """
    with _making, _banner_held():
        solver = highspy.Highs()
    logging = {"output_flag": False} if log_path is None else {"log_to_console": False, "log_file": log_path}
    for name, value in {**logging, **options}.items():
        if solver.setOptionValue(name, value) == highspy.HighsStatus.kError:
            raise SolverError(f"HiGHS rejects {name}={value!r}")
    if pass_model(solver, form) == highspy.HighsStatus.kError:
        raise SolverError("HiGHS rejects the model: a coefficient or bound is not one that it takes")
    return solver


def version() -> str:
    """Version of HiGHS."""
    with _making, _banner_held():
        return str(highspy.Highs().version())


def run(solver: highspy.Highs) -> None:
    """Run HiGHS in a thread of its own. Ctrl-C stops it and is raised then.

    Raises
    ------
    SolverError
        It could not do its work; that a limit stopped it is no such thing.
    """
    stop = threading.Event()
    events = highspy.cb.HighsCallbackType

    def on_event(kind: Any, message: str, out: Any, into: Any, _: Any) -> None:
        into.user_interrupt = stop.is_set()

    solver.setCallback(on_event, None)
    for kind in (events.kCallbackSimplexInterrupt, events.kCallbackIpmInterrupt):
        solver.startCallback(kind)
    if apart(solver.run, stop) == highspy.HighsStatus.kError:
        status = solver.modelStatusToString(solver.getModelStatus())
        raise SolverError(f"HiGHS could not solve a linear program (its status: {status})")


def is_optimal(solver: highspy.Highs) -> bool:
    """Whether the last run reached an optimum."""
    return bool(solver.getModelStatus() == highspy.HighsModelStatus.kOptimal)


def apart(call: Callable[[], T], stop: threading.Event | None = None) -> T:
    """Call in a new thread and wait for it; Ctrl-C meanwhile sets ``stop`` and is raised when the call is over."""
    made: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            made.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    stop = stop or threading.Event()
    with interrupts_held() as held:
        try:
            thread.start()
            while thread.is_alive():
                thread.join(0.2)
                if held.pressed:
                    stop.set()
        except BaseException:
            stop.set()
            raise
    if held.pressed:
        raise KeyboardInterrupt
    if errors:
        raise errors[0]
    return made[0]


def pass_model(solver: highspy.Highs, form: StandardForm) -> highspy.HighsStatus:
    """Hand the model over, as the arrays that it is."""
    status: highspy.HighsStatus = solver.passModel(
        len(form.cost), len(form.row_lower), len(form.values), int(highspy.MatrixFormat.kRowwise),
        int(highspy.ObjSense.kMinimize), form.offset, form.cost, form.lower, form.upper, form.row_lower, form.row_upper,
        form.indptr, form.indices, form.values, form.integer.astype(np.int32) * int(highspy.HighsVarType.kInteger),
    )  # fmt: skip
    return status


@contextlib.contextmanager
def _banner_held() -> Iterator[None]:
    """Keep the banner from standard output; whatever else comes meanwhile is passed on."""
    if _told or not _talks() or not _is_open(1):
        yield
        return
    _told.append(True)
    saved = os.dup(1)
    try:
        with tempfile.TemporaryFile() as held:
            os.dup2(held.fileno(), 1)
            try:
                yield
            finally:
                os.dup2(saved, 1)
            held.seek(0)
            os.write(1, _BANNER.sub(b"", held.read()))
    finally:
        os.close(saved)


#: Whether the banner is over, in this process.
_told: list[bool] = []


def _talks() -> bool:
    parts = re.findall(r"\d+", importlib.metadata.version("highspy"))[:2]
    return tuple(map(int, parts)) >= _TALKATIVE


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
