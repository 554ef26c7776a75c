"""Solver processes: how they are started, asked, lent and ended.

A process answers one question at a time. It is kept for the next only when its answer was taken whole: after an error
in a caller's callback, a second Ctrl-C, or a watchdog's timeout it is ended. It ends by itself when this one is gone.
Processes belong to the process that started them: a fork begins with none.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelkit.backends.worker import HEADER, Job, frames
from modelkit.errors import SolverError
from modelkit.runtime.interrupts import signals_blocked
from modelkit.runtime.threads import Lock

#: Processes kept for the next solves, at most.
MOST_IDLE = 4
#: The number of the question, what kind of message it is, and what it says.
Message = tuple[Any, ...]


class Crew:
    """The solver processes of one backend; any thread may borrow one."""

    def __init__(self) -> None:
        self._lock = Lock(delays_forks=True)  # a fork would keep both ends of the pipes of a process being started
        self.idle: list[SolverProcess] = []
        self.all: set[SolverProcess] = set()
        os.register_at_fork(after_in_child=self._begin_anew)
        atexit.register(self.close)

    @contextlib.contextmanager
    def lent(self) -> Iterator[SolverProcess]:
        """A process for one question; kept afterwards when it is free again, else ended."""
        process = self._take()
        try:
            yield process
        finally:
            self._given_back(process)

    def _take(self) -> SolverProcess:
        with self._lock:
            while self.idle:
                process = self.idle.pop()
                if process.alive:
                    return process
                self._end(process)
            process = SolverProcess()
            self.all.add(process)
            return process

    def _given_back(self, process: SolverProcess) -> None:
        if process.owner != os.getpid():
            return  # a fork within the solve: the process is another one's
        with self._lock:
            if process.free and process.alive and len(self.idle) < MOST_IDLE:
                self.idle.append(process)
                return
        self._end(process)

    def _end(self, process: SolverProcess) -> None:
        self.all.discard(process)
        process.kill()

    def close(self) -> None:
        """End all processes."""
        for process in list(self.all):
            self._end(process)
        self.idle.clear()

    def _begin_anew(self) -> None:
        for process in self.all:
            process.disown()
        self.idle, self.all = [], set()


class SolverProcess:
    """A running solver process, as its owner sees it.

    Attributes
    ----------
    free
        Whether its last answer was taken whole.
    number
        Of its last question.
    """

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.number = 0
        self.free = True
        self.errors, self.log = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  kept with it
        their_questions, self._questions = _pipe()
        self._answers, their_answers = _pipe()
        their_life, self._life = _pipe()  # nothing is written: it ends with its owner
        log = _above_standard(os.dup(self.log.fileno()))
        theirs = (their_questions, their_answers, their_life, log)
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        try:
            with signals_blocked():
                self.process = subprocess.Popen(
                    [sys.executable, "-c", f"from modelkit.backends.worker import main; main({their_life}, {log})"],
                    stdin=their_questions,
                    stdout=their_answers,
                    stderr=self.errors,
                    pass_fds=(their_life, log),
                    env={**os.environ, "PYTHONPATH": path},
                )
        except OSError as error:
            _close(self._questions, self._answers, self._life)
            raise SolverError(f"a solver process cannot be started: {error.strerror or error}") from error
        finally:
            _close(*theirs)
        self.messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.reader = threading.Thread(target=self._read, args=(self._answers,), daemon=True)
        self.reader.start()

    def _read(self, descriptor: int) -> None:
        with contextlib.suppress(Exception):  # what cannot be read is as good as silence
            for message in frames(descriptor):
                self.messages.put(message)
        self.messages.put((self.number, "died"))

    def ask(self, job: Job) -> None:
        """Send a question. It has a number that its answer repeats."""
        self.number += 1
        self.free = False
        job.number, job.asked = self.number, time.monotonic()
        os.ftruncate(self.log.fileno(), 0)
        self._send(job)

    def stop(self) -> None:
        """Ask for the best answer so far."""
        self._send(("stop", self.number))

    def _send(self, message: object) -> None:
        content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        left = memoryview(struct.pack(HEADER, len(content)) + content)
        with contextlib.suppress(BrokenPipeError):  # it died; the reader tells
            while left:
                left = left[os.write(self._questions, left) :]

    def next(self, timeout: float) -> Message | None:
        """The next message about the question last asked, without its number, or None after the time limit.

        Raises
        ------
        SolverError
            This process is a fork of the one that asked.
        """
        if self.owner != os.getpid():
            raise SolverError("the process was forked during a solve; only its parent receives the answer")
        try:
            number, *message = self.messages.get(timeout=timeout)
        except queue.Empty:
            return None
        return tuple(message) if number == self.number else None

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()
        self.reader.join()
        _close(self._questions, self._answers, self._life)
        self.errors.close()
        self.log.close()

    def disown(self) -> None:
        """In a fork: close what was inherited, and touch nothing else."""
        _close(self._questions, self._answers, self._life)
        self.process.returncode = 0

    def printed(self) -> str:
        """The log of the last question."""
        return _content(self.log.fileno())

    def last_words(self) -> str:
        """How it ended and the end of what it printed."""
        code = self.process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        printed = _content(self.errors.fileno()).strip().splitlines()
        told = printed and code != -signal.SIGKILL  # of that it knew nothing: its last line is of its log
        return f"the solver process {how}" + (f": {printed[-1]}" if told else "")


def _content(descriptor: int) -> str:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")


def _pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    return _above_standard(reading), _above_standard(writing)


def _above_standard(descriptor: int) -> int:
    """The same file by a number that no standard stream has: a caller may have closed those."""
    if descriptor > 2:
        return descriptor
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return int(moved)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
