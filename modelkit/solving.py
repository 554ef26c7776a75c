"""Solve: a formulation is built, started from a policy's schedule, solved, extracted and judged.

Whatever happens on the way, the best schedule and bound so far are in the result, and its message says
what happened.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from modelkit.backends import Backend, Limits, Outcome, Progress, backend
from modelkit.bounds import Starts, TooLargeError, bound, check_size, hindsight, slot_certificate, starts_kept
from modelkit.certificate import Certificate, certify
from modelkit.errors import InfeasibleError, InterruptedWith, UsageError, unknown_name
from modelkit.formulation import Formulation
from modelkit.improve_slots import improved_slot_schedule
from modelkit.instance import Instance
from modelkit.interrupts import interrupts_held
from modelkit.io import load
from modelkit.judge import Verdict, judge
from modelkit.news import News as News
from modelkit.plugins import found_formulations, load_formulation
from modelkit.policies import policies
from modelkit.result import (
    InstanceStamp,
    ModelSize,
    Objective,
    Producer,
    Result,
    Seconds,
    Start,
    StopReason,
    status_of,
)
from modelkit.schedule import Schedule
from modelkit.simulator import clairvoyant_schedule, fitting_policies
from modelkit.stages import stages_refusal

#: Default limit of the solver [s].
TIME_LIMIT = 60.0
_NO_SOLVER = "no solver ran: this is the schedule of a local search, with a certified bound"


def solve(
    instance: Instance,
    formulation: str | Formulation | None = None,
    solver: str = "highs",
    *,
    time_limit: float | None = TIME_LIMIT,
    gap: float = 0.0,
    threads: int | None = None,
    seed: int = 0,
    warm_start: str = "best",
    options: dict[str, Any] | None = None,
    listen: Callable[[News], None] | None = None,
) -> Result:
    """Solve an instance with a formulation and judge the schedule.

    Parameters
    ----------
    formulation
        Name, ``.py`` file or object; None takes the first that suits the instance.
    solver
        ``highs``, ``scip`` or any solver that Pyomo knows.
    time_limit
        Seconds for the solver, None for no limit.
    gap
        Relative gap (value - bound) / value at which the solver may stop.
    threads
        For the solver; None leaves it to the solver.
    seed
        Of the solver's randomness.
    warm_start
        Policy whose hindsight schedule the solver starts from, ``none``, or ``best``: a local search from
        the best of them.
    options
        The solver's own options by its own names.
    listen
        Called with news of the phases, incumbents and bounds.

    Returns
    -------
    Result
        ``optimal`` only when the judge's value equals the bound. Infeasible instances, limits,
        interruption and failures are results too.

    Raises
    ------
    UsageError
        Unknown formulation, solver, policy or option, or an instance outside the formulation.
    FormulationError
        The formulation is broken.
    SolverError
        The solver is missing or refuses the model.
    """
    instance = load(instance)
    _check_policy(warm_start)
    engine = backend(solver)
    chosen = _choose(instance, formulation)
    limits = Limits(time_limit, gap, threads, seed)
    run = _Run(instance, chosen, engine, limits, dict(options or {}), warm_start, listen or (lambda news: None))
    try:
        instance.check_fits()
    except InfeasibleError as error:
        return run.result("infeasible", "finished", message=str(error))
    return run.go()


def _choose(instance: Instance, formulation: str | Formulation | None) -> Formulation:
    if formulation is None:
        reasons = []
        for entry in found_formulations():
            if entry.formulation is None:
                reasons.append(f"{entry.name}: {entry.error}")
            elif entry.formulation.claim != "exact":
                continue
            elif (why := entry.formulation.refusal(instance)) is not None:
                reasons.append(f"{entry.name}: {why}")
            elif entry.formulation.suits(instance):
                return entry.formulation
        raise UsageError("no formulation takes this instance\n  " + "\n  ".join(reasons))
    chosen = load_formulation(formulation) if isinstance(formulation, str) else formulation
    if (why := chosen.refusal(instance)) is not None:
        raise UsageError(f"formulation {chosen.name!r} does not take this instance: it {why}")
    return chosen


def _check_policy(name: str) -> None:
    if name not in ("best", "none", *policies()):
        raise unknown_name("warm start", name, ("best", "none", *policies()))


@dataclass
class _Candidate:
    """A judged schedule and where it came from; ``value`` is None unless it is valid."""

    source: str
    schedule: Schedule
    verdict: Verdict
    value: float | None


@dataclass
class _Run:
    """One solve from the building on."""

    instance: Instance
    formulation: Formulation
    engine: Backend
    limits: Limits
    options: dict[str, Any]
    warm_start: str
    listen: Callable[[News], None]
    began: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)
    start: _Candidate | None = None
    searched: bool = False  # for a start, to the end
    started_from: str | None = None
    start_accepted: bool | None = None
    outcome: Outcome | None = None
    certificate: Certificate | None = None
    starts: Starts | None = None

    @property
    def metric(self) -> str:
        """The metric that is minimised, with its unit."""
        return f"{self.formulation.objective}_{'rounds' if self.instance.is_unit else 'ms'}"

    def go(self) -> Result:
        try:
            if self.formulation.problem == "kv-hindsight":
                check_size(self.instance)
            self.start = self.find_start()
            self.searched = True
            self.started_from = self.start.source if self.start else None
            if self.start_is_optimal():
                return self.conclude(None, "finished", "")
            model = self.build()
            self.outcome = self.run_solver(model)
        except KeyboardInterrupt:
            return self.conclude(None, "interrupted", "interrupted before the solver began")
        except TooLargeError as error:
            return self.without_solver(str(error))
        except MemoryError:
            known = self.conclude(None, "failed", "there is not enough memory for the model")
            if known.schedule is None:
                raise
            return known
        with interrupts_held() as held:
            result = self.extracted(model)
        return result.model_copy(update={"stop": "interrupted"}) if held.pressed else result

    def extracted(self, model: Any) -> Result:
        """What the solver found, judged."""
        assert self.outcome is not None
        found = None
        message = self.outcome.message
        if self.outcome.found == "solution" and self.formulation.extract is not None:
            found = self.judged(self.engine.name, self.formulation.extract(model, self.instance))
            if not found.verdict.valid:
                return self.refused(found)
        return self.conclude(found, self.outcome.stop, message)

    def without_solver(self, reason: str) -> Result:
        """The schedule of a local search with a certified bound, for an instance that no formulation holds."""
        if self.formulation.problem == "slots" and self.start is not None:
            return self.conclude(None, "finished", f"{reason}; {_NO_SOLVER}")
        if self.formulation.problem != "kv-hindsight":
            return self.conclude(None, "failed", reason)
        left = self.limits.time_limit
        if left is not None:
            left = max(0.0, left - (time.perf_counter() - self.began))
        known = bound(self.instance, time_limit=left, gap=self.limits.gap, seed=self.limits.seed, listen=self.listen)
        assert known.result.schedule is not None
        self.certificate = known.certificate
        self.start = self.judged("local-search", known.result.schedule)
        return self.conclude(None, known.result.stop, f"{reason}; {_NO_SOLVER}")

    def tell(self, phase: str, progress: Progress | None = None) -> None:
        elapsed = time.perf_counter() - self.began
        known = self.start.value if self.start else None
        if progress is None:
            self.listen(News(phase, elapsed, known))
            return
        values = [v for v in (progress.incumbent, known) if v is not None]
        self.listen(News(phase, elapsed, min(values, default=None), progress.bound))

    def judged(self, source: str, schedule: Schedule) -> _Candidate:
        before = time.perf_counter()
        verdict = judge(self.instance, schedule)
        self.seconds["judge"] = self.seconds.get("judge", 0.0) + time.perf_counter() - before
        return _Candidate(source, schedule, verdict, verdict.metrics.get(self.metric) if verdict.valid else None)

    def find_start(self) -> _Candidate | None:
        """The best valid schedule of the policies asked for, told the true lengths."""
        if self.warm_start == "none":
            return None
        self.tell("warm start")
        if self.warm_start != "best":
            tried = [self.judged(self.warm_start, clairvoyant_schedule(self.instance, self.warm_start))]
        elif self.instance.is_unit and self.instance.server.slots is None:
            try:
                tried = [self.judged("local-search", hindsight(self.instance).schedule)]
            except InterruptedWith as stop:
                self.start = self.judged("local-search", stop.best.schedule)
                if self.formulation.claim == "exact" and self.instance.server.kv_capacity_tokens is not None:
                    self.certificate = certify(self.instance, stop.best.prices)
                raise
        elif stages_refusal(self.instance) is None and self.formulation.claim == "exact":
            tried = [self.judged("local-search", improved_slot_schedule(self.instance))]
        else:
            names = fitting_policies(self.instance)
            tried = [self.judged(name, clairvoyant_schedule(self.instance, name)) for name in names]
        return min(
            (c for c in tried if c.value is not None and not c.verdict.metrics["evictions"]),
            key=lambda c: c.value or 0.0,
            default=None,
        )

    def start_is_optimal(self) -> bool:
        """Whether the schedule to start from meets the certified bound, so that there is nothing to solve."""
        if self.start is None or self.formulation.problem != "slots":
            return False
        bound = self.certified()
        return bound is not None and status_of(self.start.verdict, self.start.value, float(bound.value)) == "optimal"

    def build(self) -> Any:
        self.tell("building the model")
        before = time.perf_counter()
        model = self.formulation.instantiate(self.instance)
        if self.start is not None and self.formulation.start is not None:
            try:
                self.formulation.start(model, self.instance, self.start.schedule)
            except KeyError:  # it uses a start that no optimal schedule uses
                self.start_accepted = False
        if self.formulation.problem == "kv-hindsight":
            self.starts = starts_kept(self.instance)
        self.seconds["build"] = time.perf_counter() - before
        return model

    def run_solver(self, model: Any) -> Outcome:
        self.tell(f"solving with {self.engine.name}")
        before = time.perf_counter()
        use_start = self.start is not None and self.formulation.start is not None and self.start_accepted is None
        outcome = self.engine.solve(
            model,
            self.limits,
            self.options,
            use_start=use_start,
            listen=lambda progress: self.tell(f"solving with {self.engine.name}", progress),
        )
        if use_start:
            self.start_accepted = outcome.start_accepted
        self.seconds["solve"] = time.perf_counter() - before
        return outcome

    def certified(self) -> Certificate | None:
        """A bound that needs no solver: of slots, or where prices were computed for the start windows."""
        if self.formulation.problem == "slots":
            return slot_certificate(self.instance)
        if self.formulation.problem != "kv-hindsight" or self.formulation.claim != "exact":
            return None
        if self.certificate is None and self.searched and self.instance.server.kv_capacity_tokens is not None:
            return certify(self.instance, hindsight(self.instance).prices)
        return self.certificate

    def conclude(self, found: _Candidate | None, stop: StopReason, message: str) -> Result:
        """The better of what the solver found and what it started from, with the bound."""
        if self.formulation.problem is None and not self.start_accepted:
            self.start = None  # whether it keeps to the formulation's own constraints is not known
        best = found
        if self.start is not None and (found is None or (found.value or 0) > (self.start.value or 0)):
            best = self.start
        bound = self.outcome.bound if self.outcome and self.formulation.claim != "heuristic" else None
        certificate = self.certified()
        if certificate is not None and (bound is None or certificate.value >= bound):
            bound, self.certificate = float(certificate.value), certificate
        if self.outcome is not None and self.outcome.found == "infeasible":
            if best is None:
                exact = self.formulation.claim == "exact"
                return self.result("infeasible" if exact else "no_schedule", stop, message=message)
            stop, message = (
                "failed",
                (
                    f"{self.engine.name} calls the model infeasible, but the schedule of {best.source} is valid:"
                    " the formulation cuts off valid schedules"
                ),
            )
        if best is None:
            said = message or "the solver stopped before it found a schedule"
            return self.result("no_schedule", stop, bound=bound, message=said)
        value = best.value
        if value is not None and bound is not None and bound > value:
            if bound - value > 1e-6 * max(1.0, abs(value)):
                stop, message = (
                    "failed",
                    (
                        f"the bound {bound:g} of {self.engine.name} is above the value {value:g} of a valid"
                        " schedule: the formulation or the solver is wrong"
                    ),
                )
                bound = None
            else:
                bound = value
        if best is self.start and not message and (bound is None or bound != value):
            message = f"the solver found nothing better than the schedule of {best.source} that it started from"
        return self.result(status_of(best.verdict, value, bound), stop, best, bound, message)

    def refused(self, found: _Candidate) -> Result:
        """The judge refuses what the formulation extracted: shown as it is, claimed to be nothing."""
        first = found.verdict.violations[0].message
        message = (
            f"the judge refuses the schedule that formulation {self.formulation.name!r} extracted"
            f" ({len(found.verdict.violations)} violations; {first})"
        )
        return self.result("no_schedule", "failed", found, None, message)

    def result(
        self,
        status: Any,
        stop: StopReason,
        best: _Candidate | None = None,
        bound: float | None = None,
        message: str = "",
    ) -> Result:
        outcome = self.outcome
        size = outcome.size if outcome else None
        alone = outcome is None and best is not None  # the schedule is the search's, no solver ran
        return Result(
            instance=InstanceStamp.of(self.instance),
            producer=Producer(
                kind="improvement" if alone else "formulation",
                name=best.source if alone and best else self.formulation.name,
                solver=None if alone else self.engine.name,
                solver_version=outcome.version if outcome else None,
                options={
                    "time_limit": self.limits.time_limit,
                    "gap": self.limits.gap,
                    "threads": self.limits.threads,
                    **self.options,
                },
                seed=self.limits.seed,
            ),
            status=status,
            stop=stop,
            message=message,
            objective=Objective(
                name=self.metric,
                value=best.value if best else None,
                bound=bound,
                bound_by=None if bound is None else "certificate" if self.certificate else "solver",
            ),
            metrics=best.verdict.metrics if best else {},
            violations=[v.document() for v in best.verdict.violations] if best else [],
            schedule=best.schedule if best else None,
            certificate=self.certificate if bound is not None else None,
            progress=[(p.seconds, p.incumbent, p.bound) for p in outcome.progress] if outcome else [],
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
            log=outcome.log if outcome else "",
        )
