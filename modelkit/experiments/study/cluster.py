"""The runs of a study on a Dask cluster whose workers come and go.

Instances travel with the runs, results come back as bytes. Dask gives the run of a lost worker to another one; a run
that it gives up all the same is handed in again, `TRIES` times in all. What is then still open is no result: the next
``study run`` does it.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from modelkit.errors import SolverError, UsageError
from modelkit.experiments.run import Run
from modelkit.experiments.workers import Finished, Task, run_all
from modelkit.io import parse_result, save_result
from modelkit.runtime.scratch import scratch_folder
from modelkit.text import count, counted

#: Times that a run is handed to the cluster before it is given up.
TRIES = 4
#: Seconds to wait for a worker when the cluster has none.
WORKER_TIMEOUT = 120.0
#: Seconds between two looks at what is finished.
_TICK = 0.05


def run_on_cluster(
    tasks: Sequence[Task], address: str, *, worker_timeout: float = WORKER_TIMEOUT
) -> Generator[Finished, None, None]:
    """Do the runs on the cluster; each is yielded when it is finished.

    Raises
    ------
    UsageError
        Dask is not installed, or the cluster cannot be reached.
    SolverError
        At the end, when runs were given up or no worker was left.
    """
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise UsageError('a cluster needs Dask, which is not installed: pip install "modelkit[cluster]"') from None
    where: dict[str, Any] = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
    try:
        client = Client(**where, timeout="10s")
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot reach the cluster at {address}: {error}") from None
    reasons: Counter[str] = Counter()

    def submit(run: Run, _: Path) -> Any:
        content = Path(run.instance).read_bytes()
        document = run.model_dump(mode="json")
        return client.submit(perform_remotely, document, content, Path(run.instance).name, pure=False, retries=3)

    with client:
        waiting = {submit(*task): (task, 1) for task in tasks}
        completed = as_completed(list(waiting))
        while waiting:
            _wait(client, completed, worker_timeout, len(waiting))
            future = next(completed)
            (run, path), tries = waiting.pop(future)
            document, reason = _answer(future)
            if document is not None:
                result = parse_result(json.loads(document), str(path))
                save_result(result, path)
                yield Finished(run, path, result)
            elif tries < TRIES:
                again = submit(run, path)
                waiting[again] = (run, path), tries + 1
                completed.add(again)
            else:
                reasons[reason] += 1
    if reasons:
        given_up = sum(reasons.values())
        raise SolverError(
            f"the cluster gave up {given_up} of {count(len(tasks), 'run')} after {TRIES} tries each"
            f" ({'; '.join(f'{n} times {reason}' for reason, n in reasons.most_common(3))}); what was finished is kept:"
            " run the study again to do the rest"
        )


def _answer(future: Any) -> tuple[str | None, str]:
    """What a future holds, or why it holds nothing.

    A future that was finished a moment ago is not any more when the only worker that holds its result dies.
    """
    try:
        if future.status == "finished":
            return str(future.result(timeout=30)), ""
        error = future.exception(timeout=1) if future.status == "error" else None
    except Exception as raised:  # of the cluster: lost, cancelled, timed out
        error = raised
    if error is None:
        return None, f"the future is {future.status}: its worker was lost"
    first_line = (str(error).strip().splitlines() or [""])[0]
    return None, f"{type(error).__name__}: {first_line}"[:200]


def _wait(client: Any, completed: Any, worker_timeout: float, left: int) -> None:
    """Return when a run is over.

    Raises
    ------
    SolverError
        There was no worker for ``worker_timeout`` seconds, or the scheduler is gone.
    """
    last_seen = asked = time.monotonic()
    while not completed.has_ready():
        time.sleep(_TICK)
        now = time.monotonic()
        if now - asked < 1.0:
            continue
        asked = now
        try:
            workers = client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, ValueError) as error:
            raise SolverError(f"the scheduler of the cluster has ended ({error}); {_resume(left)}") from None
        if workers:
            last_seen = now
        elif now - last_seen > worker_timeout:
            raise SolverError(f"the cluster had no worker for {worker_timeout:g} s; {_resume(left)}")


def _resume(left: int) -> str:
    return f"what was finished is kept: run the study again to do the {counted(left, 'runs that are left')}"


def perform_remotely(document: dict[str, Any], content: bytes, name: str) -> str:
    """On a worker of the cluster: do the run in a process of its own; its result as JSON."""
    with scratch_folder() as folder:
        instance, written = folder / name, folder / "out.result.json"
        instance.write_bytes(content)
        run = Run.model_validate({**document, "instance": str(instance)})
        for _ in run_all([(run, written)], jobs=1):
            pass
        return written.read_text()
