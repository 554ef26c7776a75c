"""What a certified bound is, and what is asked of whatever finds one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from modelkit.certificate import Certificate
from modelkit.errors import ModelkitError
from modelkit.instance import Instance, InstanceStamp
from modelkit.judge import Verdict, judge
from modelkit.requests import ServiceLevels
from modelkit.result import Objective, Producer, Progress, Result, Seconds, status_of
from modelkit.runtime.deadline import Deadline
from modelkit.runtime.resources import VERSION
from modelkit.schedule import Schedule

#: Share of the value by which floating point may put it below an exact bound.
ROUNDING = 1e-9


@dataclass(frozen=True)
class CertifiedBound:
    """A lower bound with its certificate, and the best schedule found on the way, judged.

    The result carries the certificate too; ``verdict`` is the judge's on its schedule.

    Parameters
    ----------
    counts
        What the bound counts, in words; empty where its kind says all.
    others
        The other bounds that were proven on the way, by name, the best first [unit of the objective].
    open_words
        Why value and bound differ, as far as that is known: a sentence, or nothing.

    Raises
    ------
    ModelkitError
        The schedule is valid and better than the bound, so that one of the two is wrong.
    """

    certificate: Certificate
    result: Result
    verdict: Verdict
    counts: str = ""
    others: tuple[tuple[str, float], ...] = ()
    open_words: str = ""

    def __post_init__(self) -> None:
        value, bound = self.result.objective.value, self.certificate.value
        if value is not None and bound - value > ROUNDING * abs(value):
            raise ModelkitError(
                f"the bound {bound:.10g} is above the value {value:.10g} of a valid schedule: one of the two is wrong,"
                " and neither is reported; this is a fault of modelkit, please report it with the instance"
            )

    def __repr__(self) -> str:
        return f"CertifiedBound({self.certificate!r}, {self.result!r})"

    @property
    def value(self) -> float:
        """The bound, in the unit of the objective."""
        return self.certificate.value

    @property
    def gap(self) -> float | None:
        """(best schedule - bound) / best schedule."""
        return self.result.objective.gap

    def interrupted(self) -> CertifiedBound:
        """The same, found by a search that was interrupted."""
        result = self.result.model_copy(update={"stop": "interrupted", "message": "interrupted; the best so far"})
        return replace(self, result=result)


@dataclass(frozen=True)
class Task:
    """What is asked of whatever finds a bound, which calls `judge_schedule` with what it has found.

    Parameters
    ----------
    instance
        In which every request fits.
    metric
        The objective, one of the problem's.
    time_limit
        Seconds; None: a fixed amount of work.
    gap
        Gap (value - bound) / value at which the search stops.
    seed
        Of the search.
    listen
        Called with the phases, schedules and bounds.
    slo
        Service levels in place of the instance's own.
    prices_only
        Whether a bound on total latency under the unit clock is to be by prices on memory, for another proof.
    """

    instance: Instance
    metric: str
    time_limit: float | None
    gap: float
    seed: int
    listen: Callable[[Progress], None]
    began: float = field(default_factory=time.perf_counter)
    slo: ServiceLevels | None = None
    prices_only: bool = False

    def of_another(self, instance: Instance, time_limit: float | None) -> Task:
        """The same for another instance, from now on; nobody hears of its values, which are not those of this one."""
        return replace(
            self, instance=instance, time_limit=time_limit, began=time.perf_counter(), listen=lambda progress: None
        )

    @property
    def deadline(self) -> Deadline:
        """When the result is to be there."""
        return Deadline() if self.time_limit is None else Deadline(self.began + self.time_limit)

    @property
    def elapsed(self) -> float:
        """Seconds since it was asked."""
        return time.perf_counter() - self.began

    def tell(self, phase: str, value: float | None = None, bound: float | None = None) -> None:
        """Tell of a phase, with the best schedule's value and the bound as far as they are known."""
        self.listen(Progress(phase, self.elapsed, value, bound))

    def infeasible(self, why: str) -> Result:
        """The result where some request can never run."""
        return Result(
            instance=InstanceStamp.of(self.instance),
            producer=Producer(kind="improvement", name="local-search", seed=self.seed, modelkit=VERSION),
            status="infeasible",
            stop="finished",
            message=why,
            objective=Objective(name=self.metric),
            seconds=Seconds(total=self.elapsed),
        )

    def judge_schedule(
        self,
        certificate: Certificate,
        schedule: Schedule,
        *,
        verdict: Verdict | None = None,
        name: str = "local-search",
    ) -> CertifiedBound:
        """The bound with its schedule, replayed; one that the judge refuses is shown and has no value.

        ``verdict`` is the judge's on this schedule, where it is known; ``name`` says what made the schedule.
        """
        solved = time.perf_counter()
        verdict = verdict or judge(self.instance, schedule, self.slo)
        value = verdict.metrics[self.metric] if verdict.valid else None
        least = certificate.value
        if value is not None and value < least <= value + ROUNDING * abs(value):
            least = value  # the same number, added up in doubles
        message = "" if verdict.valid else f"the judge rejects the schedule: {verdict.violations[0].message}"
        options = {"time_limit": self.time_limit, "gap": self.gap}
        result = Result(
            instance=InstanceStamp.of(self.instance),
            producer=Producer(kind="improvement", name=name, options=options, seed=self.seed, modelkit=VERSION),
            status=status_of(verdict, value, least),
            stop="finished" if verdict.valid else "failed",
            message=message,
            objective=Objective(name=self.metric, value=value, bound=least, bound_by="certificate"),
            slo=self.slo,
            metrics=verdict.metrics,
            violations=[v.document() for v in verdict.violations],
            schedule=schedule,
            certificate=certificate,
            seconds=Seconds(
                solve=solved - self.began, judge=time.perf_counter() - solved, total=time.perf_counter() - self.began
            ),
        )
        return CertifiedBound(certificate, result, verdict)
