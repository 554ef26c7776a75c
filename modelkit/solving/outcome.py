"""What a solve was asked and has found so far, and the result that follows from it at any moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from modelkit.backends import Backend, Limits, Outcome, SolverProgress
from modelkit.certificate import Certificate
from modelkit.formulation.formulation import Formulation
from modelkit.instance import Instance
from modelkit.judge import Verdict, judge
from modelkit.problems.kv.diagram import NEIGHBOURHOODS, Search
from modelkit.problems.kv.relaxation import Floats
from modelkit.problems.kv.start_windows import Starts
from modelkit.problems.problem import problem_modelled, problem_of
from modelkit.result import (
    InstanceStamp,
    ModelSize,
    Objective,
    Producer,
    Progress,
    Result,
    Seconds,
    SolveStage,
    Start,
    StopReason,
    status_of,
)
from modelkit.runtime.deadline import Deadline
from modelkit.runtime.resources import VERSION
from modelkit.schedule import Schedule
from modelkit.solving.known import known_of
from modelkit.solving.methods import method_of
from modelkit.text import count
from modelkit.verify.exact_bounds import certify

#: The solver that is a search over schedules and not over a model.
SEARCH = "diagram"
#: Share by which a bound may be above a value, for floating point.
ROUNDING = 1e-6
#: Stages around the search and the solver.
OUTER_STAGES = ("warm start", NEIGHBOURHOODS, "building the model", "solver")


@dataclass
class Candidate:
    """A judged schedule and where it came from; ``value`` is None unless it is valid and breaks nothing."""

    source: str
    schedule: Schedule
    verdict: Verdict
    value: float | None
    broken: list[str]


@dataclass
class SolveState:
    """What one solve was asked, what it has found so far, and the result that follows."""

    instance: Instance
    parametrised: Instance  # as the formulation sees it, with its parameters
    formulation: Formulation
    engine: Backend
    limits: Limits
    options: dict[str, Any]
    warm_start: str
    listen: Callable[[Progress], None]
    began: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)
    start: Candidate | None = None
    searched: bool = False  # for a start, to the end
    started_from: str | None = None
    start_accepted: bool | None = None
    outcome: Outcome | None = None
    certificate: Certificate | None = None
    starts: Starts | None = None
    optimum: float | None = None  # proven by a search over states that ended
    searches: bool = False
    solver: str | None = None
    search: Search | None = None
    stages: list[SolveStage] = field(default_factory=list)
    least: Candidate | None = None  # the best valid schedule that was ever judged

    def __post_init__(self) -> None:
        """Set the deadline, and leave out the time in which no optimal schedule runs anything."""
        limit = self.limits.time_limit
        self.deadline = Deadline() if limit is None else Deadline(self.began + limit)
        self.method = method_of(problem_modelled(self.formulation.problem))
        self.posed_method = method_of(problem_of(self.instance))
        self.timeline = self.method.timeline(self.instance)
        self.inner, self.inner_parametrised = self.timeline.instance, self.parametrised
        if self.inner is not self.instance:
            self.inner_parametrised = self.parametrised.replace(requests=self.inner.requests)
        self.known = known_of(self.formulation, self.inner)

    @property
    def solver_name(self) -> str:
        """The solver that had the last word."""
        return self.engine.name if self.outcome is not None or not self.searches else SEARCH

    def tell(self, phase: str, progress: SolverProgress | None = None) -> None:
        """Tell of a phase, with the best that is known."""
        elapsed = time.perf_counter() - self.began
        known = self.start.value if self.start else None
        if progress is None:
            self.listen(Progress(phase, elapsed, known))
            return
        values = [v for v in (progress.incumbent, known) if v is not None]
        self.listen(Progress(phase, elapsed, min(values, default=None), self.held(progress.bound)))

    def held(self, bound: float | None) -> float | None:
        """A bound, or None where a schedule that the judge has seen refutes it."""
        return None if self.refutes(bound) else bound

    def refutes(self, bound: float | None) -> bool:
        """Whether a schedule that the judge has seen is better than a bound says."""
        value = self.least.value if self.least else None
        return bound is not None and value is not None and bound - value > ROUNDING * max(1.0, abs(value))

    def judge_schedule(self, source: str, schedule: Schedule, verdict: Verdict | None = None) -> Candidate:
        """A schedule with the judge's verdict, where that is not known yet, and the formulation's."""
        before = time.perf_counter()
        verdict = verdict or judge(self.instance, schedule)
        self.seconds["judge"] = self.seconds.get("judge", 0.0) + time.perf_counter() - before
        found = Candidate(
            source,
            schedule,
            verdict,
            self.formulation.evaluate(self.parametrised, verdict),
            self.formulation.breaks(self.parametrised, verdict),
        )
        known = self.least.value if self.least else None
        if self.rules_known and found.value is not None and (known is None or found.value < known):
            self.least = found
        return found

    @property
    def rules_known(self) -> bool:
        """Whether it can be said of a schedule that it keeps to the formulation's own constraints."""
        return self.formulation.problem is not None or self.formulation.admissible is not None

    def passed(self, name: str, since: float, note: str) -> None:
        """Keep a stage that is over."""
        value = self.start.value if self.start else None
        bound = float(self.search.bound) if self.search else None
        if self.outcome is not None:
            values = [v for p in self.outcome.progress if (v := p.incumbent) is not None]
            value = min([v for v in (value, *values) if v is not None], default=None)
            bound = max([b for b in (bound, self.outcome.bound) if b is not None], default=None)
        seconds = time.perf_counter() - since
        self.stages.append(SolveStage(name=name, seconds=seconds, value=value, bound=bound, note=note))

    def find_certificate(self) -> Certificate | None:
        """A bound that needs no solver: of slots, or where prices were computed for the start windows."""
        return self.method.find_certificate(self)

    def outer(self, schedule: Schedule) -> Schedule:
        """A schedule of the instance without idle time, in all rounds."""
        return self.timeline.schedule(schedule)

    def proven(self, prices: Floats) -> Certificate:
        """Certificate from prices of rounds without idle time."""
        return certify(self.instance, prices, rounds=self.timeline.rounds(len(prices)))

    def conclude(self, found: Candidate | None, stop: StopReason, message: str) -> Result:
        """The better of what the solver found and what it started from, with the bound."""
        if not self.rules_known and not self.start_accepted:
            self.start = None  # whether it keeps to the formulation's own constraints is not known
        best = found
        if self.start is not None and (found is None or (found.value or 0) > (self.start.value or 0)):
            best = self.start
        bound, claimant = self.best_bound()
        if self.search is not None and self.search.trouble:
            message = "; ".join(filter(None, [message, f"a stage of the search ended early: {self.search.trouble}"]))
        if self.outcome is not None and self.outcome.found == "infeasible":
            if best is None:
                exact = self.formulation.claim == "exact"
                return self.result("infeasible" if exact else "no_schedule", stop, message=message)
            stop = "failed"
            message = (
                f"{self.engine.name} reports the model infeasible, but the schedule of {best.source} is valid:"
                " the formulation cuts off valid schedules"
            )
        if best is None:
            said = message or "the solver stopped before it found a schedule"
            return self.result("no_schedule", stop, bound=self.held(bound), message=said)
        value = best.value
        known = self.least or best
        if bound is not None and known.value is not None and bound - known.value > ROUNDING * max(1, abs(known.value)):
            stop = "failed"
            message = (
                f"the bound {bound:g} of {claimant} is above the value {known.value:g} of a valid schedule, that of"
                f" {known.source}: the formulation or the solver is wrong"
            )
            bound = None
        elif value is not None and bound is not None and (bound > value or self.ended_at(value, bound, claimant)):
            bound = value
        if best is self.start and not message and self.outcome is not None and (bound is None or bound != value):
            message = f"the solver found nothing better than the schedule of {best.source} that it started from"
        return self.result(status_of(best.verdict, value, bound), stop, best, bound, message)

    def ended_at(self, value: float, bound: float, claimant: str) -> bool:
        """Whether a solver ended with that bound as the optimum, and a schedule is as good but for its tolerances."""
        ended = self.outcome is not None and self.outcome.stop == "finished" and not self.limits.gap
        close = value - bound <= 2 * ROUNDING * min(1.0, abs(value))
        return ended and close and claimant == self.engine.name

    def best_bound(self) -> tuple[float | None, str]:
        """The largest bound, and its source."""
        claims: list[tuple[float, str]] = []
        if self.outcome is not None and self.outcome.bound is not None and self.formulation.claim != "heuristic":
            claims.append((self.outcome.bound, self.engine.name))
        if self.search is not None:
            claims.append((float(self.search.bound), SEARCH))
        if self.optimum is not None:
            claims.append((self.optimum, "a search over states"))
        certificate = self.find_certificate()
        if certificate is not None and all(certificate.value >= bound for bound, _ in claims):
            self.certificate = certificate
            return float(certificate.value), "the certificate"
        return max(claims, key=lambda claim: claim[0], default=(None, ""))

    def refuse(self, found: Candidate) -> Result:
        """The judge refuses what the formulation extracted: shown where nothing valid is known, claimed to be nothing.

        Then neither the solver's bound counts, for its model is not the problem; what is certified does.
        """
        kept = self.start if self.start is not None and self.start.value is not None else None
        if kept is not None and self.rules_known:
            why = (found.broken or [v.message for v in found.verdict.violations])[0]
            certificate = self.find_certificate()
            bound = None if certificate is None else float(certificate.value)
            self.certificate = certificate
            if self.search is not None and (bound is None or self.search.bound > bound):
                bound, self.certificate = float(self.search.bound), None
            message = (
                f"the schedule of {found.source} is refused ({why}); that of {kept.source} is kept, with only the bound"
                " proven without the solver"
            )
            return self.result(status_of(kept.verdict, kept.value, bound), "failed", kept, bound, message)
        if found.broken:
            message = (
                f"the schedule that formulation {self.formulation.name!r} extracted breaks the formulation's own"
                f" rules ({found.broken[0]})"
            )
            return self.result("no_schedule", "failed", None, None, message)
        first = found.verdict.violations[0].message
        message = (
            f"the judge rejects the schedule that formulation {self.formulation.name!r} extracted"
            f" ({count(len(found.verdict.violations), 'violation')}; {first})"
        )
        return self.result("no_schedule", "failed", found, None, message)

    def progress(self) -> list[tuple[float, float | None, float | None]]:
        """Seconds since the solving began, best incumbent and best bound so far: of the search, then of the solver."""
        told: list[tuple[float, float | None, float | None]] = []
        elapsed = 0.0
        for stage in self.stages:
            if stage.name not in OUTER_STAGES:
                elapsed += stage.seconds
                told.append((elapsed, stage.value, stage.bound))
        if self.outcome:
            told += [(elapsed + p.seconds, p.incumbent, p.bound) for p in self.outcome.progress]
        return _best_so_far([(seconds, value, self.held(bound)) for seconds, value, bound in told])

    @staticmethod
    def credible(value: float | None, bound: float | None, best: Candidate | None) -> tuple[float | None, float | None]:
        """An incumbent and a bound on the way, as far as the best judged schedule bears them out."""
        known = best.value if best else None
        if known is None:  # no schedule was judged to be valid
            return None, bound
        return value if value is None or value >= known else known, bound if bound is None or bound <= known else None

    def _tell_stage(self, stage: SolveStage, best: Candidate | None) -> SolveStage:
        value, bound = self.credible(stage.value, self.held(stage.bound), best)
        return stage.model_copy(update={"value": value, "bound": bound})

    def result(
        self,
        status: Any,
        stop: StopReason,
        best: Candidate | None = None,
        bound: float | None = None,
        message: str = "",
    ) -> Result:
        """The result as it is written."""
        outcome = self.outcome
        size = outcome.size if outcome else None
        searched = outcome is None and best is not None and not self.searches  # a local search's schedule, no solver
        alone = searched and self.formulation.problem is not None  # else it says whose rules it keeps
        return Result(
            instance=InstanceStamp.of(self.instance),
            producer=Producer(
                kind="improvement" if alone else "formulation",
                name=best.source if alone and best else self.formulation.name,
                solver=None if searched else self.solver_name,
                solver_version=outcome.version if outcome else None,
                options={
                    "time_limit": self.limits.time_limit,
                    "gap": self.limits.gap,
                    "threads": self.limits.threads,
                    **self.options,
                },
                seed=self.limits.seed,
                problem=self.formulation.problem,
                modelkit=VERSION,
                parameters={p.name: self.parametrised.extra[p.name] for p in self.formulation.parameters},
            ),
            status=status,
            stop=stop,
            message=message,
            objective=Objective(
                name=self.formulation.metric(self.instance),
                unit=self.formulation.unit,
                value=best.value if best else None,
                bound=bound,
                bound_by=None if bound is None else "certificate" if self.certificate else "solver",
            ),
            metrics=best.verdict.metrics if best else {},
            violations=[v.document() for v in best.verdict.violations] if best else [],
            schedule=best.schedule if best else None,
            certificate=self.certificate if bound is not None else None,
            progress=[(t, *self.credible(v, b, best)) for t, v, b in self.progress()],
            start=Start(policy=self.started_from, accepted=self.start_accepted),
            model=(
                ModelSize(
                    variables=size.variables,
                    integers=size.integers,
                    constraints=size.constraints,
                    nonzeros=size.nonzeros,
                    starts_kept=self.starts.kept if self.starts else None,
                    starts_in_all=self.starts.in_all if self.starts else None,
                )
                if size
                else None
            ),
            seconds=Seconds(**self.seconds, total=time.perf_counter() - self.began),
            stages=[
                self._tell_stage(stage.model_copy(update={"bound": self.held(stage.bound)}), best)
                for stage in self.stages
            ],
            log=outcome.log if outcome else "",
        )


def _best_so_far(
    told: list[tuple[float, float | None, float | None]],
) -> list[tuple[float, float | None, float | None]]:
    """The progress in which nothing gets worse: a solver that follows a search begins without what that knew."""
    best: list[tuple[float, float | None, float | None]] = []
    last: tuple[float, float | None, float | None] = (0.0, None, None)
    for seconds, incumbent, bound in told:
        last = (
            max(seconds, last[0]),
            min((v for v in (incumbent, last[1]) if v is not None), default=None),
            max((b for b in (bound, last[2]) if b is not None), default=None),
        )
        best.append(last)
    return best
