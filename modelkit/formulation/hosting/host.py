"""The parent's end of a process in which formulation files of users run, with limits."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from typing import IO, Any

from modelkit.errors import FormulationError, FormulationFailedError, FormulationLateError, ModelkitError
from modelkit.formulation.hosting.marks import Marks
from modelkit.formulation.loading import FOLDERS_VARIABLE, IMPORT
from modelkit.runtime.deadline import current
from modelkit.runtime.interrupts import signals_blocked

#: Seconds that a function of a formulation may take, building apart.
TIMEOUT = 30.0
#: Seconds that one may take when less is left of the solve that asks it.
LEAST_TIMEOUT = 5.0
#: Seconds that building may take where nothing else is said.
BUILD_TIMEOUT = 300.0
#: Seconds that the interpreter and Pyomo may take to start.
START_TIMEOUT = 120.0
#: Characters that files may print before the rest is left out.
PRINTED = 4000
#: Functions that are limited by the whole request, not each by itself.
_BUILDING = ("build", "data")
_TICK = 0.1
_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop());"
    "from modelkit.formulation.hosting.guest import main; main()"
)


def folders() -> str:
    """The folders of formulation files, whole, so that they are found wherever a file may go."""
    return os.pathsep.join(os.path.abspath(f) for f in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if f)


class Host:
    """A running process for formulation files.

    Parameters
    ----------
    hash_seed
        Of its interpreter; None leaves it to chance.
    """

    def __init__(self, hash_seed: int | None = None) -> None:
        self.owner = os.getpid()
        self.channel, theirs = Pipe()
        self.dump: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  kept as long as the process
        with tempfile.TemporaryFile() as page:
            self.marks = Marks(page.fileno())
            given = (theirs.fileno(), page.fileno(), self.dump.fileno())
            fixed = {} if hash_seed is None else {"PYTHONHASHSEED": str(hash_seed), "PYTHONDONTWRITEBYTECODE": "1"}
            paths = json.dumps([str(Path(__file__).resolve().parents[2]), *sys.path])
            with signals_blocked():
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _START, *map(str, given), str(self.owner), paths],
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=given,
                    env={**os.environ, FOLDERS_VARIABLE: folders(), **fixed},
                )  # fmt: skip
        theirs.close()
        assert self.process.stdout is not None
        threading.Thread(target=_relay, args=(self.process.stdout,), daemon=True).start()
        self.end = weakref.finalize(self, _end, self.process, self.channel, self.dump, self.owner)
        self.wait("the process for formulation files", timeout=START_TIMEOUT)

    @property
    def usable(self) -> bool:
        """Whether it lives, and is this process's own and not that of the process which forked it."""
        return self.end.alive and self.owner == os.getpid()

    def request(
        self,
        message: tuple[Any, ...],
        owner: str,
        path: Path,
        *,
        timeout: float | None = None,
        within: float | None = None,
        listen: Callable[[Any], None] | None = None,
    ) -> Any:
        """The answer to a message.

        Parameters
        ----------
        owner, path
            Whom it is about, as messages say it, and the file.
        timeout
            Seconds that each function of the formulation may take; building apart. None: `TIMEOUT`, and not much
            longer than the solve that is going on.
        within
            Seconds that the whole may take; None for as long as it needs, but for its functions.
        listen
            Called with the progress that comes before the answer.

        Raises
        ------
        FormulationFailedError
            A function took too long or ended the process, which is gone then.
        ModelkitError
            What the request raised there.
        """
        with contextlib.suppress(OSError):  # it died; waiting tells
            self.channel.send(message)
        return self.wait(owner, path, timeout=timeout, within=within, listen=listen)

    def wait(
        self,
        owner: str,
        path: Path | None = None,
        *,
        timeout: float | None = None,
        within: float | None = None,
        listen: Callable[[Any], None] | None = None,
    ) -> Any:
        """The answer to the last message; see `request`."""
        began = time.monotonic()
        try:
            while True:
                if self.channel.poll(_TICK):
                    kind, value = self._received(owner)
                    if kind == "answer":
                        return value
                    if kind == "error":
                        raise value
                    if listen is not None:
                        listen(value)
                    continue
                if self.process.poll() is not None and not self.channel.poll():
                    raise EOFError
                self._check_time(owner, path, began, timeout, within)
        except (EOFError, OSError):
            raise self._died(owner, path) from None
        except ModelkitError:
            raise
        except BaseException:  # Ctrl-C, or an answer that cannot be read: the next one would be to this question
            self.end()
            raise

    def _received(self, owner: str) -> tuple[str, Any]:
        try:
            message: tuple[str, Any] = self.channel.recv()
        except (EOFError, OSError):
            raise
        except Exception as error:
            self.end()
            words = f"{owner} answers with an object of a class that only its file knows; allowed: modelkit's own"
            raise FormulationFailedError(f"{words} ({type(error).__name__}: {error})") from error
        return message

    def _check_time(
        self, owner: str, path: Path | None, began: float, timeout: float | None, within: float | None
    ) -> None:
        now = time.monotonic()
        function, since = self.marks.read()
        limit = timeout
        if limit is None:  # what was left of the solve when the function began
            left = current().at - time.perf_counter() + now - (since or now)
            limit = min(TIMEOUT, max(LEAST_TIMEOUT, left))
        if function in _BUILDING and timeout is None:
            limit = BUILD_TIMEOUT if within is None else float("inf")
        late = within is not None and now - began > within
        if within is not None and late:
            limit = within
        elif path is None:
            if now - began <= limit:
                return
        elif not since or now - since <= limit:
            return
        line = self._line(path, ask=True)
        self.end()
        words = f"did not end within {limit:.3g} s" + (f"; it was in line {line}" if line else "")
        failure = _failure(owner, function if since else "", words)
        raise FormulationLateError(str(failure)) if late else failure

    def _died(self, owner: str, path: Path | None) -> ModelkitError:
        """What is said of a process that is gone."""
        function, since = self.marks.read()
        line = self._line(path, ask=False)
        self.end()
        code = self.process.returncode
        how = f"crashed with signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit code {code}"
        where = f" in line {line}" if line else ""
        return _failure(owner, function if since else "", f"ended its interpreter, which {how}{where}")

    def _line(self, path: Path | None, *, ask: bool) -> str | None:
        """Line of the file in which it is or died, as far as the interpreter could still say."""
        if ask:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGUSR1)
            time.sleep(0.2)
        self.dump.seek(0)
        text = self.dump.read().decode(errors="replace")
        lines = re.findall(rf'File "{re.escape(str(path))}", line (\d+)', text)
        return lines[0] if lines else None


def _failure(owner: str, function: str, words: str) -> ModelkitError:
    if function == IMPORT:
        return FormulationError(f"{owner} cannot be loaded: its import {words}")
    return FormulationFailedError(f"{owner}: {function}() {words}" if function else f"{owner} {words}")


def _end(process: subprocess.Popen[bytes], channel: Any, dump: IO[bytes], owner: int) -> None:
    """End the process; the copy that a fork made ends nothing."""
    if owner != os.getpid():
        return
    process.kill()
    process.wait()
    channel.close()
    dump.close()


def _relay(pipe: IO[bytes]) -> None:
    """Pass on to standard error what files print, up to some length; read the rest, so that no writer blocks."""
    left = PRINTED
    with pipe, contextlib.suppress(OSError, ValueError):
        while data := os.read(pipe.fileno(), 65536):
            text = data.decode(errors="replace")
            if left > 0 and sys.stderr is not None:
                sys.stderr.write(text[:left])
                if len(text) > left:
                    sys.stderr.write("\n(what the formulation file prints beyond this is left out)\n")
                sys.stderr.flush()
            left -= len(text)


_own = threading.local()


def current_host() -> Host:
    """The process for formulation files of this thread; a new one where there is none or it is gone."""
    host: Host | None = getattr(_own, "host", None)
    if host is None or not host.usable:
        host = _own.host = Host()
    return host
