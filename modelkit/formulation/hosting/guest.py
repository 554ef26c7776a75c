"""The process in which formulation files of users are imported, built and asked.

Messages come in and go out as pickles:

====  ==============================================================================================================
in    ``("load", name, folders)``, ``("call", function, arguments)`` or
      ``("apply", formulation, function, arguments, seconds)``
out   ``("progress", object)`` any number of times; then ``("answer", object)`` or ``("error", exception)``
====  ==============================================================================================================

A formulation is said by the number that loading it gave. ``function`` is one of modelkit's; applied, it has the
formulation as its first argument, and a time limit in seconds, None for none.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import logging
import os
import pickle
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

from modelkit.errors import FormulationFailedError, ModelkitError, UsageError
from modelkit.formulation.asking import Listener, what_happened
from modelkit.formulation.formulation import Formulation
from modelkit.formulation.hosting.marks import Marks
from modelkit.formulation.loading import FOLDERS_VARIABLE, load_formulation
from modelkit.runtime.deadline import Deadline, within
from modelkit.runtime.interrupts import ignore_all

_PR_SET_PDEATHSIG = 1
#: What formulations import anyway, so that their own time is counted without.
USUAL = (
    "pyomo.environ",
    "numpy",
    "scipy",
    "modelkit.solving.known",
    "modelkit.problems.slots.stages",
    "modelkit.problems.slots.packing",
)

_formulations: list[Formulation] = []
_channel: list[Connection] = []


def tell(progress: Any) -> None:
    """Tell the parent something while a request is answered."""
    _channel[0].send(("progress", progress))


def main() -> None:
    """Answer requests until the parent is gone."""
    channel_at, marks_at, dump_at, parent = (int(text) for text in sys.argv[1:5])
    ignore_all()
    _die_with(parent)
    faulthandler.enable(file=dump_at, all_threads=False)
    faulthandler.register(signal.SIGUSR1, file=dump_at, all_threads=False)
    channel = Connection(channel_at)
    _channel.append(channel)
    for module in USUAL:
        importlib.import_module(module)
    logging.getLogger("pyomo").setLevel(logging.CRITICAL)  # the error says it
    marks = Marks(marks_at)
    Listener.enter, Listener.leave = staticmethod(marks.enter), staticmethod(marks.leave)
    channel.send(("answer", None))
    while True:
        try:
            message = channel.recv()
        except EOFError:
            os._exit(0)  # threads that a file began do not count
        _answer(channel, message)


def _answer(channel: Connection, message: tuple[Any, ...]) -> None:
    try:
        if message[0] == "load":
            os.environ[FOLDERS_VARIABLE] = message[2]
            _formulations.append(load_formulation(message[1]))
            answer = len(_formulations) - 1, _facts(_formulations[-1])
        elif message[0] == "apply":
            with within(Deadline.after(message[4])):
                answer = message[2](_formulations[message[1]], *message[3])
        else:
            answer = message[1](*message[2])
        channel.send(("answer", answer))
    except BaseException as error:
        channel.send(("error", _portable(error)))


def _portable(error: BaseException) -> ModelkitError | MemoryError:
    """An error that can be loaded where the file is not."""
    if isinstance(error, MemoryError):
        return MemoryError()
    if isinstance(error, ModelkitError) and type(error).__module__.startswith("modelkit."):
        with contextlib.suppress(Exception):
            error.__cause__ = error.__context__ = None
            return pickle.loads(pickle.dumps(error))  # type: ignore[no-any-return]
        return UsageError(str(error)) if error.exit_code == 2 else ModelkitError(str(error))
    return FormulationFailedError(f"asking the formulation {what_happened(error)}")


def _facts(formulation: Formulation) -> dict[str, Any]:
    """All of a formulation but its functions, of which it says whether they are there."""
    facts = {
        field: True if callable(value) else value
        for field in Formulation.__dataclass_fields__
        if field != "in_full" and (value := getattr(formulation, field)) is not None
    }
    bases = tuple(parent if isinstance(parent, str) else parent.name for parent in formulation.parents)
    return {**facts, **({"extends": bases} if bases else {})}  # an object stays here


def _die_with(parent: int) -> None:
    """Have the system end this process when its parent dies, where it can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
