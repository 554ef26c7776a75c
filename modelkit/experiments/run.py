"""One run: a specification that can be written down, and the result that it becomes.

A comparison or a study is a list of runs. Each is performed in a process of its own (``modelkit.experiments.workers``),
so that one which fails, hangs, crashes or eats the memory is recorded as such and takes no other with it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import time
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from modelkit.errors import InfeasibleError, ModelkitError, UsageError, did_you_mean, not_enough_memory
from modelkit.formulation.formulation import Formulation
from modelkit.instance import Instance
from modelkit.io import load
from modelkit.policies.files import split_file
from modelkit.result import InstanceStamp, Producer, Result, Seconds, Status, StopReason, with_command
from modelkit.runtime.resources import VERSION

#: Default limit of solvers and bounds [s].
TIME_LIMIT = 60.0

Kind = Literal["formulation", "policy", "bound"]


class Run(BaseModel):
    """What to run, on which instance, within which limits. Frozen and JSON-able.

    Parameters
    ----------
    instance
        Path of the instance file.
    stamp
        What the file held when the run was planned; another content is a failure of the run.
    kind, name
        A formulation (name or ``.py`` file), a policy, or the certified ``bound`` with its local search.
    solver
        Of a formulation; None otherwise.
    parameters
        Further keyword arguments of ``modelkit.solve``, ``simulate`` or ``bound``.
    seed
        Of solver, policy or search.
    time_limit, gap, threads
        As in ``modelkit.solve``; policies have none of them [s, relative, 1].
    kill_after
        Wall-clock seconds after which the process is ended, whatever it does; None: never.
    memory_mb
        Address space of each process of the run [MiB]; None: no limit.
    command
        The command line that wanted it, for the record.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    instance: str
    stamp: InstanceStamp
    kind: Kind
    name: str = Field(min_length=1)
    solver: str | None = None
    parameters: dict[str, Any] = {}
    seed: int = Field(default=0, ge=0)
    time_limit: float | None = Field(default=TIME_LIMIT, ge=0)
    gap: float = Field(default=0.0, ge=0, le=1)
    threads: int | None = Field(default=None, ge=1)
    kill_after: float | None = Field(default=None, gt=0)
    memory_mb: int | None = Field(default=None, ge=1)
    command: str | None = None

    @property
    def key(self) -> str:
        """Hash of everything that decides the result: equal keys are the same run, wherever the file lies."""
        document = self.model_dump(mode="json", exclude={"instance", "command"})
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def label(self) -> str:
        """What people call it: ``kv-hindsight-flow on highs``, ``mc-sf``, ``bound``."""
        name = os.path.basename(self.name) if self.kind == "formulation" else self.name
        return name + (f" on {self.solver}" if self.solver else "") + (f", seed {self.seed}" if self.seed else "")


def plan_run(instance: Instance, path: str | os.PathLike[str], kind: Kind, name: str, **settings: Any) -> Run:
    """The run on an instance that lies at ``path``, with its parameters checked by name.

    Raises
    ------
    UsageError
        A parameter that the run's function does not take.
    """
    run = Run(instance=os.fspath(path), stamp=InstanceStamp.of(instance), kind=kind, name=name, **settings)
    allowed = parameters_of(kind)
    for key in run.parameters:
        if key not in allowed:
            known = ", ".join(sorted(allowed)) or "none"
            raise UsageError(f"a {kind} has no parameter {key!r}{did_you_mean(key, allowed)}\n  known: {known}")
    return run


def parameters_of(kind: Kind) -> set[str]:
    """Names of the further parameters that a run of this kind takes."""
    return {
        "formulation": lambda: {*solve_arguments(), "parameters"},
        "policy": _simulate_arguments,
        "bound": _bound_arguments,
    }[kind]()


def perform(run: Run, formulation: Formulation | None = None) -> Result:
    """Do the run in this process. Whatever goes wrong is in the result, in words.

    Parameters
    ----------
    formulation
        The object that the run names, where it is found nowhere else.
    """
    return with_command(_perform(run, formulation), run.command)


def _perform(run: Run, formulation: Formulation | None) -> Result:
    began = time.perf_counter()
    try:
        instance = load(run.instance)
        if instance.sha256 != run.stamp.sha256:
            return failure(run, f"the file {run.instance} holds another instance than when the run was planned")
        return _PERFORM[run.kind](run, instance) if formulation is None else _solve(run, instance, formulation)
    except InfeasibleError as error:
        return failure(run, str(error), status="infeasible", stop="finished", seconds=time.perf_counter() - began)
    except ModelkitError as error:
        return failure(run, str(error), seconds=time.perf_counter() - began)
    except KeyboardInterrupt:
        return failure(run, "interrupted", stop="interrupted", seconds=time.perf_counter() - began)
    except MemoryError:
        return failure(run, not_enough_memory(), seconds=time.perf_counter() - began)
    except Exception as error:  # a fault of ours or of a plugin must not take the other runs with it
        words = f"unexpected fault: {type(error).__name__}: {error}"
        return failure(run, words, seconds=time.perf_counter() - began)


def failure(
    run: Run,
    words: str,
    *,
    status: Status = "no_schedule",
    stop: StopReason = "failed",
    seconds: float | None = None,
) -> Result:
    """The result of a run that has none, saying why."""
    kind: Any = "improvement" if run.kind == "bound" else run.kind
    limits = {} if run.kind == "policy" else {"time_limit": run.time_limit, "gap": run.gap}
    return Result(
        instance=run.stamp,
        producer=Producer(
            kind=kind,
            name=split_file(run.name)[1] if run.kind == "policy" else run.name,
            solver=run.solver,
            options=limits,
            seed=run.seed,
            modelkit=VERSION,
            parameters=run.parameters.get("parameters") or {},
        ),
        status=status,
        stop=stop,
        message=words,
        seconds=Seconds(total=seconds),
    )


def _solve(run: Run, instance: Instance, formulation: Formulation | None = None) -> Result:
    from modelkit.solving import solve

    limits = {"time_limit": run.time_limit, "gap": run.gap, "threads": run.threads, "seed": run.seed}
    return solve(instance, formulation or run.name, run.solver or "highs", **limits, **run.parameters)  # type: ignore[arg-type]


def _simulate(run: Run, instance: Instance) -> Result:
    from modelkit.simulation.simulate import simulate

    return simulate(instance, run.name, seed=run.seed, **run.parameters)


def _bound(run: Run, instance: Instance) -> Result:
    from modelkit.solving.bound import bound

    return bound(instance, time_limit=run.time_limit, gap=run.gap, seed=run.seed, **run.parameters).result


_PERFORM: dict[Kind, Callable[[Run, Instance], Result]] = {"formulation": _solve, "policy": _simulate, "bound": _bound}


def _arguments(function: Callable[..., Any], *taken: str) -> set[str]:
    return set(inspect.signature(function).parameters) - {"instance", "listen", "seed", *taken}


def solve_arguments() -> set[str]:
    """Further arguments of ``solve``, beside the formulation's own parameters."""
    from modelkit.solving import solve

    return _arguments(solve, "formulation", "solver", "time_limit", "gap", "threads", "parameters")


def _simulate_arguments() -> set[str]:
    from modelkit.simulation.simulate import simulate

    return _arguments(simulate, "policy")


def _bound_arguments() -> set[str]:
    from modelkit.solving.bound import bound

    return _arguments(bound, "time_limit", "gap")
