"""Backends whose solver runs in a process of its own.

The process is kept for the next solve. The parent hears of every incumbent as it is found, so a
solver that overruns its limit, ignores Ctrl-C or crashes loses nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from modelkit.backends.base import Limits, Listener, Outcome, Progress
from modelkit.backends.standard_form import StandardForm, compile_model, load_solution
from modelkit.backends.worker import Job, PackedSeparator
from modelkit.errors import ModelkitError, SolverError
from modelkit.separator import Separator

#: Seconds that a solver has to stop by itself after its limit, or after it was asked to.
GRACE = 5.0


class ProcessBackend:
    """A solver of this package behind the process wall.

    Parameters
    ----------
    name
        The module of this package that drives the solver.
    package
        The Python package that brings it.
    separates
        Whether it asks for rows in the tree.
    """

    def __init__(self, name: str, package: str, *, separates: bool = False) -> None:
        self.name = name
        self.separates = separates
        self.package = package
        self._worker: _Worker | None = None

    def availability(self) -> tuple[bool, str]:
        """Whether the package is installed, with its version."""
        if importlib.util.find_spec(self.package) is None:
            return False, f"the Python package {self.package} is not installed"
        from importlib.metadata import version

        return True, f"{self.package} {version(self.package)}"

    def solve(
        self,
        model: Any,
        limits: Limits,
        options: dict[str, Any],
        *,
        use_start: bool = False,
        listen: Listener | None = None,
        separator: Separator | None = None,
    ) -> Outcome:
        """See `Backend.solve`."""
        form, columns = compile_model(model, use_start=use_start)
        separation = packed(separator, columns) if separator is not None and self.separates else None
        outcome, x = self._run(form, limits, options, "solve", listen, separation)
        if x is not None:
            load_solution(model, columns, x)
        return outcome

    def solve_form(
        self, form: StandardForm, limits: Limits, options: dict[str, Any], *, listen: Listener | None = None
    ) -> tuple[Outcome, Any]:
        """Solve arrays; returns the outcome and the best solution of shape [n], or None."""
        return self._run(form, limits, options, "solve", listen)

    def conflict(self, form: StandardForm, limits: Limits) -> Outcome:
        """An irreducible infeasible subsystem of an infeasible model; ``conflict`` is None when it finds none."""
        return self._run(form, limits, {}, "conflict")[0]

    def _run(
        self,
        form: StandardForm,
        limits: Limits,
        options: dict[str, Any],
        task: Literal["solve", "conflict"],
        listen: Listener | None = None,
        separation: PackedSeparator | None = None,
    ) -> tuple[Outcome, Any]:
        available, reason = self.availability()
        if not available:
            raise SolverError(
                f"solver {self.name!r} is not available: {reason}; pip install {self.package}, or take another"
                " (modelkit list solvers)"
            )
        with tempfile.TemporaryDirectory(prefix="modelkit-") as folder:
            log_path = os.path.join(folder, "solver.log")
            Path(log_path).touch()
            job = Job(self.name, form, limits, options, log_path, task, separation)
            watch = _Watch(self._ready_worker(), job, listen)
            try:
                outcome = watch.run()
            except KeyboardInterrupt:
                watch.worker.kill()
                raise
            outcome.log = Path(log_path).read_text(encoding="utf-8", errors="replace")
        outcome.size = form.size
        outcome.bound = form.tightened(outcome.bound)
        return outcome, watch.x

    def _ready_worker(self) -> _Worker:
        if self._worker is not None and not self._worker.alive:
            self._worker.kill()
            self._worker = None
        if self._worker is None:
            self._worker = _Worker()
        return self._worker


def packed(separator: Separator | PackedSeparator, columns: list[Any]) -> PackedSeparator:
    """A separator as it travels to the solver's process; ``columns`` are the model's variables.

    Raises
    ------
    SolverError
        It names a variable that is in no row, or cannot be pickled.
    """
    if isinstance(separator, PackedSeparator):
        return separator
    position = {id(var): c for c, var in enumerate(columns)}
    try:
        find = pickle.dumps(separator.find, protocol=pickle.HIGHEST_PROTOCOL)
        return PackedSeparator(np.array([position[id(var)] for var in separator.variables], dtype=np.int64), find)
    except KeyError:
        raise SolverError("a separator names a variable that is in no row of the model") from None
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise SolverError(f"a separator cannot go to the solver's process: {error}") from error


class _Worker:
    """A running solver process."""

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  kept as long as the process
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from modelkit.backends.worker import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.messages: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        atexit.register(self.kill)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(EOFError, pickle.UnpicklingError, OSError, ValueError):
            while True:
                self.messages.put(pickle.load(self.process.stdout))
        self.messages.put(("died",))

    def send(self, message: object) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died; the reader tells
            pickle.dump(message, self.process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self.process.stdin.flush()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        atexit.unregister(self.kill)
        self.process.kill()
        self.process.wait()
        self.reader.join()
        for pipe in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()

    def last_words(self) -> str:
        """How it ended and the end of what it printed."""
        code = self.process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        self.errors.seek(0)
        printed = self.errors.read().decode(errors="replace").strip().splitlines()
        told = printed and code != -signal.SIGKILL  # of that it knew nothing: its last line is of its log
        return f"the solver process {how}" + (f": {printed[-1]}" if told else "")


class _Watch:
    """Follows one job to its end."""

    def __init__(self, worker: _Worker, job: Job, listen: Listener | None) -> None:
        self.worker = worker
        self.job = job
        self.listen = listen
        self.x: Any = None
        self.news: list[Progress] = []
        self.deadline: float | None = None
        self.stopping = ""  # why it was asked to stop

    def run(self) -> Outcome:
        self.worker.send(self.job)
        if self.job.limits.time_limit is not None:
            self.deadline = time.monotonic() + self.job.limits.time_limit + GRACE
        while True:
            try:
                outcome = self.take(self.worker.messages.get(timeout=0.2))
                if outcome is not None:
                    return outcome
            except queue.Empty:
                pass
            except KeyboardInterrupt:
                if self.stopping == "interrupted":  # a second Ctrl-C: no more patience
                    return self.cut_off()
                self.ask_to_stop("interrupted")
            if self.deadline is not None and time.monotonic() > self.deadline:
                if self.stopping:
                    return self.cut_off()
                self.ask_to_stop("time_limit")

    def take(self, message: tuple[Any, ...]) -> Outcome | None:
        """Handle one message; an outcome when it is the last."""
        kind, *rest = message
        if kind in ("progress", "solution"):
            seconds, incumbent, bound = rest[:3]
            if kind == "solution":
                self.x = rest[3]
            self.news.append(Progress(seconds, incumbent, self.job.form.tightened(bound)))
            if self.listen is not None:
                self.listen(self.news[-1])
            return None
        if kind == "outcome":
            return self.finished(rest[0])
        if kind == "error":
            raise rest[0] if isinstance(rest[0], ModelkitError) else SolverError(str(rest[0]))
        words = self.worker.last_words()
        self.worker.kill()
        return self.salvaged("failed", words)

    def finished(self, fields: dict[str, Any]) -> Outcome:
        x = fields.pop("x", None)
        fields.pop("objective", None)
        if x is not None:
            self.x = x
        if fields["stop"] == "interrupted" and self.stopping:
            fields["stop"] = self.stopping
        if fields["found"] == "nothing" and self.x is not None:
            fields["found"] = "solution"
        return Outcome(progress=self.news, **fields)

    def ask_to_stop(self, why: str) -> None:
        self.stopping = why
        self.worker.send("stop")
        self.deadline = time.monotonic() + GRACE

    def cut_off(self) -> Outcome:
        self.worker.kill()
        words = "the solver did not stop when asked to and was ended"
        return self.salvaged("interrupted" if self.stopping == "interrupted" else "time_limit", words)

    def salvaged(self, stop: Any, message: str) -> Outcome:
        """What is known of a solver that is gone: its last incumbent and its best bound."""
        bounds = [p.bound for p in self.news if p.bound is not None]
        return Outcome(
            stop=stop,
            found="nothing" if self.x is None else "solution",
            bound=max(bounds, default=None),
            message=message,
            progress=self.news,
        )
