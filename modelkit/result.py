"""A result: one run on one instance, as it is written to a file.

``None`` means not known. Every number about the schedule is the judge's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    PlainSerializer,
    PrivateAttr,
)

from modelkit.certificate import Certificate
from modelkit.errors import Fault, InputError, UsageError, shown
from modelkit.instance import Instance, whole
from modelkit.instance import InstanceStamp as InstanceStamp
from modelkit.judge import RequestTimes, Verdict, judge, request_times
from modelkit.requests import ServiceLevels
from modelkit.schedule import MAX_ROUNDS, Admission, Schedule, Segment
from modelkit.text import html_facts, metric_noun, percent, quantity

SCHEMA = "modelkit/result/1"
#: Metrics that a notebook shows, in ms or rounds.
_IN_NOTEBOOKS = (
    "mean_latency_{t}", "p99_latency_{t}", "mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "p99_tpot_ms", "within_slo",
    "makespan_{t}", "kv_utilisation", "slot_utilisation",
)  # fmt: skip

Status = Literal["optimal", "feasible", "infeasible", "no_schedule"]
StopReason = Literal["finished", "time_limit", "interrupted", "failed"]

#: Numbers with a fraction (times in ms, means, shares) are one number when they differ by so much, relatively.
TOLERANCE = 1e-9


def _number(value: object) -> object:
    if isinstance(value, bool | str):
        raise ValueError("a number is needed")
    return value


Number = Annotated[float, BeforeValidator(_number)]


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("a unit of printable characters is needed")
    return text


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _admission(value: object) -> object:
    return (value, None) if isinstance(value, str) else value


_Slot = Annotated[int, Field(strict=True, ge=-MAX_ROUNDS, le=MAX_ROUNDS)]
_AdmissionRecords = tuple[Annotated[tuple[str, _Slot | None], BeforeValidator(_admission)], ...]


class _SegmentRecord(_Record):
    at: Annotated[float, Field(strict=True, ge=0, le=MAX_ROUNDS, allow_inf_nan=False)]
    admit: _AdmissionRecords = ()
    evict: tuple[str, ...] = ()
    rounds: Annotated[int, Field(strict=True, ge=0, le=MAX_ROUNDS)] = 0
    replica: Annotated[int, Field(strict=True, ge=-MAX_ROUNDS, le=MAX_ROUNDS)] = 1
    pause: tuple[str, ...] = ()
    resume: _AdmissionRecords = ()
    chunks: tuple[tuple[str, Annotated[int, Field(strict=True, ge=1, le=MAX_ROUNDS)]], ...] | None = None

    def segment(self) -> Segment:
        """The segment that was written."""
        admit, resume = (tuple(Admission(*a) for a in entries) for entries in (self.admit, self.resume))
        return Segment(self.at, admit, self.evict, self.rounds, self.replica, self.pause, resume, self.chunks)


class _ScheduleRecord(_Record):
    segments: Annotated[tuple[_SegmentRecord, ...], FailFast()]  # written by a program: one fault says enough
    tokens_per_iteration: Annotated[int, Field(strict=True, ge=1, le=MAX_ROUNDS)] | None = None


def _schedule(value: object) -> object:
    if not isinstance(value, dict):
        return value
    record = _ScheduleRecord.model_validate(value)
    return Schedule(tuple(s.segment() for s in record.segments), record.tokens_per_iteration)


#: Options of a policy's run that are the engine's, and all that are not the policy's own.
OF_THE_ENGINE = ("predictions", "max_batch", "max_batch_tokens", "chunked_prefill")
_OF_THE_SIMULATION = (*OF_THE_ENGINE, "slots_over_time")


class Producer(_Record):
    """What made the schedule.

    ``problem`` is the problem whose every schedule a formulation's bound holds for; None for a variant of its own.
    ``parameters`` are those of a formulation; ``modelkit`` is the version, ``command`` the command line, where there
    was one.
    """

    kind: Literal["formulation", "policy", "improvement"]
    name: str
    solver: str | None = None
    solver_version: str | None = None
    options: dict[str, Any] = {}
    seed: int | None = None
    problem: str | None = None
    modelkit: str | None = None
    command: str | None = None
    parameters: dict[str, Any] = {}

    @property
    def policy(self) -> str:
        """The name with a policy's own options, as ``simulate`` takes it: ``mc-sf:gate=8,wait=2``."""
        own = [f"{key}={value}" for key, value in self.options.items() if key not in _OF_THE_SIMULATION]
        return self.name + (":" + ",".join(own) if own else "")


class Objective(_Record):
    """The metric that was minimised: the judge's value and the best bound on its optimum.

    ``unit`` is that of an objective of a formulation's own, which the metric's name does not end in. ``bound_by`` is
    the source of the bound: ``solver`` (not rechecked) or ``certificate``.
    """

    name: str | None = None
    unit: Annotated[str, Field(min_length=1, max_length=40), AfterValidator(_printable)] | None = None
    value: Number | None = None
    bound: Number | None = None
    bound_by: Literal["solver", "certificate"] | None = None
    _gap_said: str | None = PrivateAttr(default=None)  # what a file says of the gap, where that is not the gap

    @property
    def gap(self) -> float | None:
        """(value - bound) / |value|; None when either is not known."""
        return relative_gap(self.value, self.bound)


def relative_gap(value: float | None, bound: float | None) -> float | None:
    """(value - bound) / |value|; None when either is not known."""
    if value is None or bound is None:
        return None
    if value == bound:
        return 0.0
    return (value - bound) / abs(value) if value else None


class Start(_Record):
    """The MIP start: the policy it came from and whether the solver took it."""

    policy: str | None = Field(default=None, alias="from")
    accepted: bool | None = None

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class ModelSize(_Record):
    """Size of the model handed to the solver, and how many starts its start windows keep of all."""

    variables: int
    integers: int
    constraints: int
    nonzeros: int
    starts_kept: int | None = None
    starts_in_all: int | None = None


class Seconds(_Record):
    """Wall-clock time by phase [s]."""

    build: Number | None = None
    solve: Number | None = None
    judge: Number | None = None
    total: Number | None = None


class SolveStage(_Record):
    """One stage of a solve: how long it took [s], and value and bound after it."""

    name: str
    seconds: Number
    value: Number | None = None
    bound: Number | None = None
    note: str = ""


class Relaxation(_Record):
    """The linear relaxation of a model, as its solver says.

    Parameters
    ----------
    value
        Its optimum [unit of the objective].
    duals
        By constraint and index, by how much the optimum changes with the right side; those that are 0 are left out.
    reduced_costs
        By variable and index, by how much it changes with the variable; those that are 0 are left out.
    """

    value: Number
    duals: dict[str, dict[str, Number]] = {}
    reduced_costs: dict[str, dict[str, Number]] = {}

    def __repr__(self) -> str:
        of = ", ".join([*self.duals, *self.reduced_costs])
        return f"Relaxation(optimum {whole(self.value)!r}, duals and reduced costs of {of or 'none'})"


class Result(_Record):
    """One run on one instance.

    ``load`` is the least share of the server that the arrivals need (`modelkit.judge.load`). ``slo`` are the service
    levels that the metrics are about, where they were asked for beside the instance; None: those of the instance.
    """

    instance: InstanceStamp
    producer: Producer
    status: Status
    stop: StopReason
    message: str = ""
    load: Number | None = None
    objective: Objective = Objective()
    slo: ServiceLevels | None = None
    metrics: dict[str, Number | None] = {}
    violations: list[dict[str, Any]] = []
    schedule: Annotated[Schedule | None, BeforeValidator(_schedule), PlainSerializer(lambda s: s and s.document())] = (
        None
    )
    certificate: Certificate | None = None
    relaxation: Relaxation | None = None
    progress: list[tuple[Number, Number | None, Number | None]] = []
    start: Start = Start()
    model: ModelSize | None = None
    seconds: Seconds = Seconds()
    stages: list[SolveStage] = []
    log: str = ""

    def __repr__(self) -> str:
        solver = f" on {self.producer.solver}" if self.producer.solver else ""
        words = [f"{self.producer.name}{solver} for {self.instance.name!r}", self.status]
        if self.objective.value is not None:
            unit = "" if self.objective.unit in (None, "1") else f" [{self.objective.unit}]"
            words.append(f"{self.objective.name} {whole(self.objective.value)!r}{unit}")
        if self.objective.bound is not None:
            words.append(f"bound {whole(self.objective.bound)!r}")
        return f"Result({', '.join(words)})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """For notebooks: status, value, bound and the metrics most asked for."""
        o = self.objective
        name, each = o.name or "", 1
        if name.startswith("total_") and name.endswith("_ms"):  # a total of times says little
            name, each = name.replace("total_", "mean_"), self.instance.requests
        facts: list[tuple[str, str]] = [("status", self.status)]
        if o.value is not None:
            facts.append((metric_noun(name), quantity(name, o.value / each)))
        if o.bound is not None:
            certified = "certified" if o.bound_by == "certificate" else "of the solver"
            facts.append(("lower bound", f"{quantity(name, o.bound / each)}, {certified}"))
        facts += [("gap", percent(o.gap, "up"))] if o.gap is not None else []
        facts += [
            (metric_noun(metric), quantity(metric, self.metrics[metric]))
            for metric in dict.fromkeys(
                pattern.format(t=unit) for pattern in _IN_NOTEBOOKS for unit in ("ms", "rounds")
            )
            if self.metrics.get(metric) is not None and metric != name
        ]
        solver = f" on {self.producer.solver}" if self.producer.solver else ""
        return html_facts(f"{self.producer.name}{solver}, {self.instance.name}", facts)

    def requests(self, instance: Instance | None = None) -> RequestTimes:
        """When each request arrived, started, had its first token and finished: the judge's replay.

        Parameters
        ----------
        instance
            The instance that the result is about; needed where the result was read from a file.

        Raises
        ------
        UsageError
            The instance is needed, or there is no schedule.
        InputError
            The instance is another one.
        """
        instance = instance if instance is not None else self.instance.instance
        if instance is None:
            raise UsageError("the result was read from a file: call requests(instance) with the instance it is about")
        if not isinstance(instance, Instance):
            raise UsageError(f"requests takes an instance, such as mk.load(PATH); found {shown(instance)}")
        if instance.sha256 != self.instance.sha256:
            words = f"the result is about {self.instance.name!r}, sha256 {self.instance.sha256[:16]}..."
            raise InputError("instance", [Fault("sha256", f"found {instance.sha256[:16]}...; {words}")])
        if self.schedule is None:
            raise UsageError("the result has no schedule, so no request has times")
        return request_times(instance, judge(instance, self.schedule), self.slo)

    def under(self, slo: ServiceLevels | None, instance: Instance) -> Result:
        """The result with the metrics of other service levels than the instance's; itself for None."""
        if slo is None:
            return self
        metrics = {} if self.schedule is None else judge(instance, self.schedule, slo).metrics
        return self.model_copy(update={"slo": slo, "metrics": metrics})

    def to_frame(self, instance: Instance | None = None) -> Any:
        """The times of every request as a pandas frame; see `requests`."""
        return self.requests(instance).to_frame()

    def document(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        document = {"schema": SCHEMA, **self.model_dump(by_alias=True, mode="python")}
        document["objective"] = {**document["objective"], "gap": self.objective.gap}
        if self.relaxation is None:
            del document["relaxation"]
        if self.slo is None:
            del document["slo"]
        else:
            document["slo"] = self.slo.document()
        return document


def agree(a: float | None, b: float | None) -> bool:
    """Whether two numbers are one: whole ones when they are equal, others to `TOLERANCE`; None is only None."""
    if a is None or b is None or (float(a).is_integer() and float(b).is_integer()):
        return a == b
    return math.isclose(a, b, rel_tol=TOLERANCE)


def status_of(verdict: Verdict, value: float | None, bound: float | None) -> Status:
    """``optimal`` only when the schedule is valid and its value equals the bound."""
    if not verdict.valid or value is None:
        return "no_schedule"
    proven = bound is not None and (bound >= value or agree(value, bound))
    return "optimal" if proven else "feasible"


def with_command(result: Result, command: str | None) -> Result:
    """The result with the command line that made it."""
    return result.model_copy(update={"producer": result.producer.model_copy(update={"command": command})})


@dataclass(frozen=True, slots=True)
class Progress:
    """What is being done: the phase, seconds since the beginning, incumbent's value and bound."""

    phase: str
    seconds: float
    incumbent: float | None = None
    bound: float | None = None

    @property
    def gap(self) -> float | None:
        """(incumbent - bound) / |incumbent|; None when either is not known."""
        return relative_gap(self.incumbent, self.bound)
