"""The solver process: a solver runs here, apart from the caller, so that it can be stopped or die alone.

Pickled messages come in on standard input and go out on the pipe that was standard output. Whatever
the solver prints goes to standard error, which the parent keeps in a file.

====================================  =========================================================
in                                    a ``Job``; or ``"stop"``
out                                   ``("progress", seconds, incumbent, bound)``
                                      ``("solution", seconds, objective, bound, x)``
                                      ``("outcome", dict)`` or ``("error", exception)``: the job is done
====================================  =========================================================
"""

from __future__ import annotations

import importlib
import os
import pickle
import queue
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np

from modelkit.backends.base import Limits
from modelkit.backends.standard_form import StandardForm
from modelkit.errors import ModelkitError, SolverError
from modelkit.interrupts import ignore_all

StopFlag = threading.Event


@dataclass(slots=True)
class PackedSeparator:
    """A separator as it travels: the columns of its variables, and what finds rows, pickled by itself.

    A function that cannot be loaded is an error of the job then, and not of the channel.
    """

    columns: np.ndarray[Any, Any]
    find: bytes


@dataclass(slots=True)
class Job:
    """One model, and what to do with it: ``solve``, or ``conflict`` for an irreducible infeasible subsystem."""

    solver: str
    form: StandardForm
    limits: Limits
    options: dict[str, Any]
    log_path: str
    task: Literal["solve", "conflict"] = "solve"
    separation: PackedSeparator | None = None


class Report:
    """Tells the parent about the progress and the end of one job; after the end, nothing.

    A solver may call back once more when its memory is freed, during the next job.
    """

    def __init__(self, channel: BinaryIO) -> None:
        self._channel = channel
        self._began = time.monotonic()
        self._last: tuple[float | None, float | None] = (None, None)
        self._ended = False

    def _send(self, message: tuple[Any, ...]) -> None:
        if not self._ended:
            pickle.dump(message, self._channel, protocol=pickle.HIGHEST_PROTOCOL)
            self._channel.flush()

    def bound(self, bound: float | None) -> None:
        """Tell a new bound, beside the incumbent told last: no value is told before its solution."""
        if bound != self._last[1]:
            self._last = self._last[0], bound
            self._send(("progress", time.monotonic() - self._began, *self._last))

    def solution(self, x: np.ndarray[Any, Any], objective: float, bound: float | None) -> None:
        """Tell a new incumbent."""
        self._last = objective, bound
        self._send(("solution", time.monotonic() - self._began, objective, bound, x))

    def end(self, *message: Any) -> None:
        """Tell how the job ended."""
        self._send(message)
        self._ended = True


def main() -> None:
    """Serve jobs until standard input ends."""
    ignore_all()
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
    stop = StopFlag()

    def listen() -> None:
        while True:
            try:
                message = pickle.load(sys.stdin.buffer)
            except EOFError:
                os._exit(0)  # the parent is gone
            if message == "stop":
                stop.set()
            else:
                stop.clear()
                jobs.put(message)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        job = jobs.get()
        report = Report(channel)
        try:
            solver = importlib.import_module(f"modelkit.backends.{job.solver.replace('-', '_')}")
            made = solver.conflict(job) if job.task == "conflict" else solver.solve(job, report, stop)
            outcome = {**made, "version": solver.version()}
            report.end("outcome", outcome)
        except ModelkitError as error:
            report.end("error", error)
        except Exception as error:
            report.end("error", SolverError(f"{job.solver} failed: {type(error).__name__}: {error}"))


if __name__ == "__main__":
    main()
