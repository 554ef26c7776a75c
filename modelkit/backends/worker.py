"""The solver process: a solver runs here, apart from the caller, so that it can be stopped or die alone.

Pickled messages, each after its length, come in on standard input and go out on the pipe that was standard output.
Whatever the solver prints goes to standard error, which the parent keeps in a file. Every message carries the number
of its question.

====================================  =========================================================
in                                    a ``Job``; or ``("stop", number)``
out                                   ``(number, "begun")``
                                      ``(number, "bound", seconds, bound)``
                                      ``(number, "solution", seconds, objective, bound, x)``
                                      ``(number, "outcome", dict)`` or ``(number, "error", exception)``:
                                      the job is done
====================================  =========================================================
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import pickle
import queue
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from modelkit.backends.base import Limits
from modelkit.backends.standard_form import StandardForm
from modelkit.errors import ModelkitError, SolverError
from modelkit.runtime.interrupts import ignore_all

StopFlag = threading.Event

#: Share of its limit that a solver has at least, however long its process took to start.
LEAST_SHARE = 0.5
#: The length of a message, before it.
HEADER = "!Q"


@dataclass(slots=True)
class PackedSeparator:
    """A separator as it travels: the columns of its variables, and what finds rows, pickled by itself.

    A function that cannot be loaded is an error of the job then, and not of the channel.
    """

    columns: np.ndarray[Any, Any]
    find: bytes


@dataclass(slots=True)
class Job:
    """One model, and what to do with it: ``solve``, or ``conflict`` for an irreducible infeasible subsystem.

    ``number``, ``asked`` (when, by ``time.monotonic``, which all processes share) and ``log_path`` are filled in by its
    sender and receiver.
    """

    solver: str
    form: StandardForm
    limits: Limits
    options: dict[str, Any]
    task: Literal["solve", "conflict"] = "solve"
    separation: PackedSeparator | None = None
    number: int = 0
    asked: float | None = None
    log_path: str = os.devnull

    def limit_left(self) -> float | None:
        """Seconds that are left of the limit, which counts from the question; at least `LEAST_SHARE` of it."""
        limit = self.limits.time_limit
        if limit is None or self.asked is None:
            return limit
        return max(LEAST_SHARE * limit, limit - (time.monotonic() - self.asked))


class Report:
    """Tells the parent about the progress and the end of one job; after the end, nothing.

    A solver may call back once more when its memory is freed, during the next job.

    Parameters
    ----------
    channel
        Descriptor of the pipe.
    number
        Of the question.
    """

    def __init__(self, channel: int, number: int) -> None:
        self._channel = channel
        self._number = number
        self._began = time.monotonic()
        self._bound: float | None = None
        self._ended = False

    def _send(self, *message: Any) -> None:
        if not self._ended:
            content = pickle.dumps((self._number, *message), protocol=pickle.HIGHEST_PROTOCOL)
            left = memoryview(struct.pack(HEADER, len(content)) + content)
            while left:
                left = left[os.write(self._channel, left) :]

    def begin(self) -> None:
        """Tell that the solver is loaded and begins."""
        self._send("begun")

    def bound(self, bound: float | None) -> None:
        """Tell a new bound."""
        if bound != self._bound:
            self._bound = bound
            self._send("bound", time.monotonic() - self._began, bound)

    def solution(self, x: np.ndarray[Any, Any], objective: float, bound: float | None) -> None:
        """Tell a new incumbent, and what the solver says it costs."""
        self._send("solution", time.monotonic() - self._began, objective, bound, x)

    def end(self, kind: Literal["outcome", "error"], content: Any) -> None:
        """Tell how the job ended."""
        self._send(kind, content)
        self._ended = True


def frames(descriptor: int) -> Iterator[Any]:
    """Messages from a pipe until it ends; one that is cut short is none."""
    buffer = bytearray()
    length = struct.calcsize(HEADER)
    while True:
        while len(buffer) >= length and len(buffer) >= length + (size := struct.unpack_from(HEADER, buffer)[0]):
            message = pickle.loads(memoryview(buffer)[length : length + size].tobytes())
            del buffer[: length + size]
            yield message
        content = os.read(descriptor, 1 << 20)
        if not content:
            return
        buffer += content


@contextlib.contextmanager
def interrupted_by(stop: StopFlag, interrupt: Callable[[], Any]) -> Iterator[None]:
    """Call ``interrupt`` from another thread when the flag is set within the block.

    Again and again: a solver forgets it when it is only about to begin.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            if stop.is_set():
                interrupt()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def main(life: int, log: int) -> None:
    """Serve jobs until standard input ends.

    Parameters
    ----------
    life
        Descriptor of a pipe that ends with the parent.
    log
        Descriptor of the file for solvers' logs.
    """
    ignore_all()
    _end_with(life)
    channel = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    log_path = path if os.path.exists(path := f"/dev/fd/{log}") else os.devnull
    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
    stop = StopFlag()

    def listen() -> None:
        asked = 0
        with contextlib.suppress(Exception):
            for message in frames(sys.stdin.fileno()):
                if isinstance(message, Job):
                    asked = message.number
                    stop.clear()
                    jobs.put(message)
                elif message == ("stop", asked):
                    stop.set()
        os._exit(0)  # the parent is gone

    threading.Thread(target=listen, daemon=True).start()
    while True:
        job = jobs.get()
        job.log_path = log_path
        report = Report(channel, job.number)
        try:
            solver = importlib.import_module(f"modelkit.backends.{job.solver.replace('-', '_')}")
            job.limits = replace(job.limits, time_limit=job.limit_left())
            report.begin()
            made = solver.conflict(job) if job.task == "conflict" else solver.solve(job, report, stop)
            outcome = {**made, "version": solver.version()}
            report.end("outcome", outcome)
        except ModelkitError as error:
            report.end("error", error)
        except Exception as error:
            report.end("error", SolverError(f"{job.solver} failed: {type(error).__name__}: {error}"))


def _end_with(life: int) -> None:
    """Have the system end this process when the pipe does: a solver may hold the interpreter, so no thread can."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGIO})
    with contextlib.suppress(OSError, AttributeError):  # not every system has this
        fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
