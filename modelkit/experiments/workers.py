"""Runs in parallel, each in a process of its own.

A worker is a process that has modelkit loaded and forks once for each run: a run costs milliseconds more than
its own work, has its own limits of time and memory, and dies alone. A policy that the program itself registered is
unknown to workers and runs here, as does a formulation that is given as an object. Results go through files, so that
what was finished is there whatever happens afterwards.

====================================  =======================================================================
to a worker, a JSON line              ``{"run": {...}, "path": "..."}``, or ``{"stop": seconds of timeout}``
from a worker, a JSON line            ``{"stop": null}``: the result lies at the path;
                                      ``{"stop": "failed" | "time_limit", "words": "...", "seconds": s}``
====================================  =======================================================================
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelkit.errors import ModelkitError
from modelkit.experiments.run import Run, failure, perform
from modelkit.formulation.formulation import Formulation
from modelkit.instance import Instance, Request, Server
from modelkit.io import load_result, save_result
from modelkit.policies import policies
from modelkit.result import Result
from modelkit.runtime.interrupts import ignore_all, interrupt

#: Seconds that an interrupted run has to write the best it has.
GRACE = 15.0

Task = tuple[Run, Path]


@dataclass(frozen=True)
class Finished:
    """A run that is over: its result, and the file that holds it."""

    run: Run
    path: Path
    result: Result


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_all(
    tasks: Iterable[Task],
    *,
    jobs: int | None = None,
    started: Callable[[Run], None] | None = None,
    objects: Mapping[str, Formulation] | None = None,
) -> Generator[Finished, None, None]:
    """Perform runs in parallel; each is yielded when its result is written.

    Parameters
    ----------
    tasks
        Runs and the files for their results.
    jobs
        Runs at a time; None: one for each processor.
    started
        Called with each run that begins, from another thread.
    objects
        Formulations by name that workers cannot find; their runs are done here.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C, when the runs in progress have written the best they had.
    """
    crew = _Crew(list(tasks), jobs or cores(), started or (lambda run: None), objects or {})
    interrupted = False
    try:
        while crew.outstanding:
            try:
                finished = crew.next()
            except KeyboardInterrupt:
                crew.stop(timeout=0.0 if interrupted else GRACE)
                interrupted = True
                continue
            if finished is not None:
                yield finished
    finally:
        crew.close()
    if interrupted:
        raise KeyboardInterrupt


class _Crew:
    """Threads that hand tasks to workers."""

    def __init__(
        self, tasks: list[Task], jobs: int, started: Callable[[Run], None], objects: Mapping[str, Formulation]
    ) -> None:
        self.tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        for task in tasks:
            self.tasks.put(task)
        self.done: queue.SimpleQueue[Finished | None] = queue.SimpleQueue()
        self.started = started
        self.stopping = threading.Event()
        self.outstanding = min(jobs, len(tasks))  # threads at work
        share = str(max(1, cores() // max(1, self.outstanding)))
        self.workers = [_Worker(share, objects) for _ in range(self.outstanding)]
        self.threads = [threading.Thread(target=self._serve, args=(w,), daemon=True) for w in self.workers]
        for thread in self.threads:
            thread.start()

    def next(self) -> Finished | None:
        finished = self.done.get()
        if finished is None:
            self.outstanding -= 1
        return finished

    def _serve(self, worker: _Worker) -> None:
        while not self.stopping.is_set():
            try:
                run, path = self.tasks.get_nowait()
            except queue.Empty:
                break
            self.started(run)
            self.done.put(worker.do(run, path))
        self.done.put(None)

    def stop(self, timeout: float) -> None:
        """Begin nothing more; ask the runs in progress for what they have."""
        self.stopping.set()
        for worker in self.workers:
            worker.stop(timeout)

    def close(self) -> None:
        self.stopping.set()
        for worker in self.workers:
            worker.end()
        for thread in self.threads:
            thread.join()


class _Worker:
    """The parent's end of a worker."""

    def __init__(self, threads: str, objects: Mapping[str, Formulation] = {}) -> None:
        self.objects = objects
        root = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        share = {f"{library}_NUM_THREADS": threads for library in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
        self.environment = {**share, **os.environ, "PYTHONPATH": path}
        self.process: subprocess.Popen[str] | None = None
        self.timeout: float | None = None  # once asked to stop
        self.lock = threading.Lock()

    def ready(self) -> subprocess.Popen[str]:
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from modelkit.experiments.workers import serve; serve()"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True, env=self.environment, start_new_session=True,
            )  # fmt: skip
        return self.process

    def do(self, run: Run, path: Path) -> Finished:
        if run.kind == "policy" and known_here_only(run.name):
            return done_here(run, path)
        if run.kind == "formulation" and run.name in self.objects:
            return done_here(run, path, self.objects[run.name])
        began = time.monotonic()
        try:
            answer = self.answer(run, path)
            if answer["stop"] is None:
                return Finished(run, path, load_result(path))
        except (OSError, ValueError):  # the worker is gone
            words = "the worker process of this run was killed"
            answer = {"stop": "failed", "words": words, "seconds": time.monotonic() - began}
        except ModelkitError as error:  # the file just written cannot be read
            answer = {"stop": "failed", "words": str(error), "seconds": time.monotonic() - began}
        result = failure(run, answer["words"], stop=answer["stop"], seconds=answer["seconds"])
        with contextlib.suppress(ModelkitError):  # a disk that is full: it is told all the same
            save_result(result, path)
        return Finished(run, path, result)

    def answer(self, run: Run, path: Path) -> dict[str, Any]:
        process = self.ready()
        with self.lock:
            self.send({"run": run.model_dump(mode="json"), "path": str(path)})
            if self.timeout is not None:  # asked to stop between two runs
                self.send({"stop": self.timeout})
        assert process.stdout is not None
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        return answer

    def send(self, message: dict[str, Any]) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def stop(self, timeout: float) -> None:
        with self.lock, contextlib.suppress(OSError, ValueError):
            self.timeout = timeout
            if self.process is not None:
                self.send({"stop": timeout})

    def end(self) -> None:
        """End the worker and whatever it runs: it does so when its standard input closes."""
        if self.process is None:
            return
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()
        self.process.wait()


def known_here_only(policy: str) -> bool:
    """Whether a policy was registered by the program that runs, so that workers do not know it."""
    entry = policies().get(policy.partition(":")[0])
    return entry is not None and not entry.bundled


def done_here(run: Run, path: Path, formulation: Formulation | None = None) -> Finished:
    """A run in this process, which has neither limits nor an end of its own."""
    result = perform(run, formulation)
    try:
        save_result(result, path)
    except ModelkitError as error:
        result = failure(run, str(error))
    return Finished(run, path, result)


# --- the worker's own side ---------------------------------------------------------------------


def serve() -> None:
    """Do runs until standard input closes."""
    ignore_all()
    import modelkit.solving  # noqa: F401  loaded once, here, for all runs
    from modelkit.simulation.simulate import simulate

    one = Request(id="one", prompt_tokens=1, output_tokens=1)
    simulate(Instance(server=Server(kv_capacity_tokens=2), requests=(one,)), "mc-sf")  # so are policies and kernels

    lines = _Lines()
    while (message := lines.next(None)) is not None:
        if "run" not in message:
            continue  # a stop that came when the run was over
        run = Run.model_validate(message["run"])
        if run.kind == "formulation":
            import pyomo.environ  # noqa: F401  likewise
        print(json.dumps(_run_apart(run, message["path"], lines)), flush=True)


class _Lines:
    """JSON lines on standard input, with a way to wait for a child's end meanwhile."""

    def __init__(self) -> None:
        self.rest = b""
        self.open = True

    def next(self, child: int | None, timeout: float | None = None) -> Any:
        """The next message; None at the end, on time-out, or when the pipe ``child`` closes."""
        while b"\n" not in self.rest:
            watched = [0] if child is None else [0, child]
            ready, _, _ = select.select(watched, [], [], timeout)
            if 0 not in ready:
                return None
            data = os.read(0, 65536)
            if not data:
                self.open = False
                return None
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\n")
        return json.loads(line)


def _run_apart(run: Run, path: str, lines: _Lines) -> dict[str, Any]:
    """Fork for the run and watch it."""
    began = time.monotonic()
    reading, writing = os.pipe()  # closes when the child ends
    with tempfile.TemporaryFile() as printed:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # a stop that comes at once waits for the child
        signal.signal(signal.SIGINT, interrupt)
        child = os.fork()
        if child == 0:
            os.close(reading)
            _be_the_run(run, path, printed.fileno())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        os.close(writing)
        stop = _watch(child, reading, run, lines, began)
        os.close(reading)
        for kill in (os.killpg, os.kill):  # its solvers too; before it has its group, the child alone
            with contextlib.suppress(ProcessLookupError):
                kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not lines.open:
            sys.exit(1)  # no one is left to be told
        if status == 0:
            return {"stop": None}
        printed.seek(0)
        last = printed.read().decode(errors="replace").strip().splitlines()[-1:]
    code = os.waitstatus_to_exitcode(status)
    how = f"was killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit code {code}"
    words = {
        "time_limit": f"ended after {run.kill_after or 0:g} s, its limit of wall-clock time",
        "interrupted": "interrupted, and ended before it had a result",
    }.get(stop, f"the process of this run {how}" + "".join(f": {line}" for line in last))
    return {"stop": stop, "words": words, "seconds": time.monotonic() - began}


def _watch(child: int, pipe: int, run: Run, lines: _Lines, began: float) -> str:
    """Wait for the end of the child, its limit or a stop; returns why it ended if not by itself."""
    deadline = None if run.kill_after is None else began + run.kill_after
    why = "failed"
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        message = lines.next(pipe, left)
        if message is not None and "stop" in message:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGINT)
            why, deadline = "interrupted", time.monotonic() + message["stop"]
            continue
        late = deadline is not None and time.monotonic() >= deadline
        return "time_limit" if late and why == "failed" else why


def _be_the_run(run: Run, path: str, printed: int) -> None:
    """The forked child: do the run, write its result, and never return."""
    code = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        for old, new in ((nothing, 0), (printed, 1), (printed, 2)):
            os.dup2(old, new)
        if run.memory_mb is not None:
            import resource

            limit = run.memory_mb * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        save_result(perform(run), path)
        code = 0
    except BaseException as error:  # nothing may escape into the worker's own code
        with contextlib.suppress(BaseException):
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)
