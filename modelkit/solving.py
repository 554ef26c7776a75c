"""Solve: a formulation is built, started from a policy's schedule, solved, extracted and judged.

Whatever happens on the way, the best schedule and bound so far are in the result, and its message says
what happened.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from modelkit.backends import Backend, Limits, Outcome, Progress, backend
from modelkit.bounds import (
    Starts,
    TooLargeError,
    bound,
    check_size,
    hindsight,
    local_search,
    slot_certificate,
    starts_kept,
)
from modelkit.certificate import Certificate, certify
from modelkit.diagram import NEIGHBOURHOODS, Search
from modelkit.diagram import Progress as SearchProgress
from modelkit.diagram import refusal as search_refusal
from modelkit.errors import InfeasibleError, InterruptedWith, UsageError, did_you_mean, unknown_name
from modelkit.formulation import Formulation
from modelkit.improve import schedule_of, starts_of
from modelkit.improve_slots import improved_slot_schedule
from modelkit.instance import Instance
from modelkit.interrupts import interrupts_held
from modelkit.io import load
from modelkit.judge import Verdict, judge
from modelkit.neighbourhoods import few_run_at_once
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
    Stage,
    Start,
    StopReason,
    status_of,
)
from modelkit.schedule import Schedule
from modelkit.simulator import clairvoyant_schedule, fitting_policies
from modelkit.stages import stages_refusal
from modelkit.version import VERSION

#: Default limit of the solver [s].
TIME_LIMIT = 60.0
_NO_SOLVER = "no solver ran: this is the schedule of a local search, with a certified bound"
#: The solver that is a search over schedules and not over a model, and from how many requests on it is tried first.
SEARCH, MANY = "diagram", 9
#: Stages around the search and the solver.
OUTER_STAGES = ("warm start", NEIGHBOURHOODS, "building the model", "solver")
#: A solver that has less time left is not begun [s].
TOO_LATE = 1.0


def solve(
    instance: Instance,
    formulation: str | Formulation | None = None,
    solver: str | None = None,
    *,
    time_limit: float | None = TIME_LIMIT,
    gap: float = 0.0,
    threads: int | None = None,
    seed: int = 0,
    warm_start: str = "best",
    options: dict[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    listen: Callable[[News], None] | None = None,
) -> Result:
    """Solve an instance with a formulation and judge the schedule.

    Parameters
    ----------
    formulation
        Name, ``.py`` file or object; None takes the first that suits the instance.
    solver
        ``highs``, ``scip``, ``cp-sat`` or any solver that Pyomo knows, or ``diagram``, a search of our own for the
        KV-cache problem with little memory. None: ``highs``, after ``diagram`` where that suits and no formulation
        is asked for.
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
    parameters
        Of the formulation, by name; what is not given comes from the instance's ``extra``, then from the default.
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
        Unknown formulation, parameter, solver, policy or option, or an instance outside the formulation.
    InputError
        A parameter's value is not allowed.
    FormulationError
        The formulation is broken.
    SolverError
        The solver is missing or refuses the model.
    """
    instance = load(instance)
    _check_policy(warm_start)
    engine = backend("highs" if solver in (None, SEARCH) else str(solver))
    chosen, posed = choose(instance, formulation, parameters)
    limits = Limits(time_limit, gap, threads, seed)
    run = _Run(instance, posed, chosen, engine, limits, dict(options or {}), warm_start, listen or (lambda news: None))
    if solver == SEARCH:
        _check_search(instance, chosen, options)
        run.searches, run.solver = True, SEARCH
    elif (
        (solver, formulation) == (None, None)
        and warm_start != "none"
        and not options
        and _search_suits(instance, chosen)
    ):
        run.searches = True
    try:
        instance.check_fits()
    except InfeasibleError as error:
        return run.result("infeasible", "finished", message=str(error))
    return run.go()


def choose(
    instance: Instance, formulation: str | Formulation | None = None, parameters: Mapping[str, Any] | None = None
) -> tuple[Formulation, Instance]:
    """The formulation asked for, or the first that suits, and the instance as it sees it, with its parameters.

    Without a name, formulations are taken that know every key of the instance's ``extra``: those without parameters
    when there is none, else those whose parameters it names.

    Raises
    ------
    UsageError, InputError, FormulationError
        As `solve`.
    """
    if formulation is not None:
        chosen = load_formulation(formulation) if isinstance(formulation, str) else formulation
        posed = chosen.posed(instance, parameters)
        if (why := chosen.refusal(posed)) is not None:
            raise UsageError(f"formulation {chosen.name!r} does not take this instance: it {why}")
        return chosen, posed
    named = instance.replace(extra={**instance.extra, **parameters}) if parameters else instance
    reasons = []
    known: set[str] = set()
    for entry in found_formulations():
        if entry.formulation is None:
            reasons.append(f"{entry.name}: {entry.error}")
            continue
        known.update(p.name for p in entry.formulation.parameters)
        if entry.formulation.claim != "exact" or not entry.formulation.chosen_for(named):
            continue
        posed = entry.formulation.posed(named)
        if (why := entry.formulation.refusal(posed)) is not None:
            reasons.append(f"{entry.name}: {why}")
        else:
            return entry.formulation, posed
    asked = named.parameters
    for key in sorted(set(asked) - known):
        reasons.insert(0, f"no formulation has a parameter {key!r}{did_you_mean(key, known)}")
    if asked and not set(asked) - known:
        reasons.insert(0, f"none has all the parameters {', '.join(asked)}; say which one with -f")
    raise UsageError("no formulation takes this instance\n  " + "\n  ".join(reasons))


def _search_suits(instance: Instance, formulation: Formulation) -> bool:
    exact = (formulation.problem, formulation.claim) == ("kv-hindsight", "exact")
    return exact and len(instance.requests) >= MANY and search_refusal(instance) is None


def _check_search(instance: Instance, formulation: Formulation, options: dict[str, Any] | None) -> None:
    if options:
        raise UsageError(f"solver {SEARCH!r} has no options; found {', '.join(options)}")
    if (formulation.problem, formulation.claim) != ("kv-hindsight", "exact"):
        raise UsageError(f"solver {SEARCH!r} solves the problem of kv-hindsight, not formulation {formulation.name!r}")
    if (why := search_refusal(instance)) is not None:
        raise UsageError(f"solver {SEARCH!r} does not take this instance: it {why}")


def _check_policy(name: str) -> None:
    if name not in ("best", "none", *policies()):
        raise unknown_name("warm start", name, ("best", "none", *policies()))


@dataclass
class _Candidate:
    """A judged schedule and where it came from; ``value`` is None unless it is valid and breaks nothing."""

    source: str
    schedule: Schedule
    verdict: Verdict
    value: float | None
    broken: list[str]


@dataclass
class _Run:
    """One solve from the building on."""

    instance: Instance
    posed: Instance  # as the formulation sees it, with its parameters
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
    searches: bool = False
    solver: str | None = None
    search: Search | None = None
    stages: list[Stage] = field(default_factory=list)

    @property
    def metric(self) -> str:
        """The metric that is minimised, with its unit."""
        return self.formulation.metric(self.instance)

    @property
    def solver_name(self) -> str:
        """The solver that had the last word."""
        return self.engine.name if self.outcome is not None or not self.searches else SEARCH

    def go(self) -> Result:
        try:
            if self.formulation.problem == "kv-hindsight":
                check_size(self.instance)
            before = time.perf_counter()
            self.start = self.find_start()
            self.searched = True
            self.passed("warm start", before, self.start.source if self.start else "none")
            self.refine_start()
            self.started_from = self.start.source if self.start else None
            if self.start_is_optimal():
                return self.conclude(None, "finished", "")
            if self.searches and self.search_ends_it():
                return self.conclude(None, self.search_stop(), "")
            model = self.build()
            self.outcome = self.run_solver(model)
        except KeyboardInterrupt:
            self.keep_search()
            return self.conclude(None, "interrupted", "interrupted before the solver began" if not self.search else "")
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
            found = self.judged(self.engine.name, self.formulation.extract(model, self.posed))
            if not found.verdict.valid or found.broken:
                return self.refused(found)
        return self.conclude(found, self.outcome.stop, message)

    def passed(self, name: str, since: float, note: str) -> None:
        """Keep a stage that is over."""
        value = self.start.value if self.start else None
        bound = float(self.search.bound) if self.search else None
        if self.outcome is not None:
            values = [v for p in self.outcome.progress if (v := p.incumbent) is not None]
            value = min([v for v in (value, *values) if v is not None], default=None)
            bound = max([b for b in (bound, self.outcome.bound) if b is not None], default=None)
        seconds = time.perf_counter() - since
        self.stages.append(Stage(name=name, seconds=seconds, value=value, bound=bound, note=note))

    def search_ends_it(self) -> bool:
        """Search with decision diagrams; whether that is all there is to do."""
        if self.start is None:
            # not asked for, and the limits of the search need one
            starts = hindsight(self.instance).starts
        else:
            starts = starts_of(self.instance, self.start.schedule)
        deadline = float("inf") if self.limits.time_limit is None else self.began + self.limits.time_limit
        self.search = Search(self.instance, starts, deadline, self.limits.gap, listen=self.hear)
        self.tell(f"solving with {SEARCH}")
        before = time.perf_counter()
        self.search.run()
        self.seconds["solve"] = time.perf_counter() - before
        self.keep_search()
        done = self.search.proven or self.solver == SEARCH
        return done or deadline - time.perf_counter() < TOO_LATE

    def search_stop(self) -> StopReason:
        assert self.search is not None
        return "finished" if self.search.proven else "time_limit" if self.search.late else "failed"

    def hear(self, progress: SearchProgress) -> None:
        """Keep and pass on a stage of the search."""
        elapsed = time.perf_counter() - self.began
        self.stages.append(
            Stage(
                name=progress.name,
                seconds=progress.seconds,
                value=progress.value,
                bound=progress.bound,
                note=progress.note,
            )
        )
        self.listen(News(progress.name, elapsed, float(progress.value), float(progress.bound)))

    def keep_search(self) -> None:
        """Take over the schedule of the search when it is the better one."""
        if self.search is None:
            return
        found = self.judged(SEARCH, schedule_of(self.instance, self.search.starts))
        if self.start is None or (found.value is not None and found.value < (self.start.value or 0)):
            self.start = found

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
        return _Candidate(
            source,
            schedule,
            verdict,
            self.formulation.valued(self.posed, verdict),
            self.formulation.breaks(self.posed, verdict),
        )

    def find_start(self) -> _Candidate | None:
        """The best valid schedule of the policies asked for, told the true lengths."""
        if self.warm_start == "none":
            return None
        self.tell("warm start")
        if self.warm_start != "best":
            tried = [self.judged(self.warm_start, clairvoyant_schedule(self.instance, self.warm_start))]
        elif self.instance.is_unit and self.instance.server.slots is None:
            try:
                tried = [self.judged("local-search", local_search(self.instance).schedule)]
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

    def refine_start(self) -> None:
        """Large neighbourhood search from the schedule of the local search, where few requests run at once."""
        if self.start is None or self.start.source != "local-search" or not self.instance.is_unit:
            return
        if self.instance.server.slots is not None or not few_run_at_once(self.instance):
            return
        before = time.perf_counter()
        self.tell(NEIGHBOURHOODS)
        try:
            self.start = self.judged("local-search", hindsight(self.instance).schedule)
        except InterruptedWith as stop:
            self.start = self.judged("local-search", stop.best.schedule)
            raise
        self.passed(NEIGHBOURHOODS, before, "windows of requests started again at their best")

    def start_is_optimal(self) -> bool:
        """Whether the schedule to start from meets the certified bound, so that there is nothing to solve."""
        if self.start is None or self.formulation.problem != "slots":
            return False
        bound = self.certified()
        return bound is not None and status_of(self.start.verdict, self.start.value, float(bound.value)) == "optimal"

    def build(self) -> Any:
        self.tell("building the model")
        before = time.perf_counter()
        model = self.formulation.instantiate(self.posed)
        if self.start is not None and self.formulation.start is not None:
            try:
                self.formulation.start(model, self.posed, self.start.schedule)
            except KeyError:  # it uses a start that no optimal schedule uses
                self.start_accepted = False
        if self.formulation.problem == "kv-hindsight":
            self.starts = starts_kept(self.instance)
        self.seconds["build"] = time.perf_counter() - before
        note = f"{self.starts.kept:,} of {self.starts.in_all:,} starts" if self.starts else self.formulation.name
        self.passed("building the model", before, note)
        return model

    def run_solver(self, model: Any) -> Outcome:
        self.tell(f"solving with {self.engine.name}")
        before = time.perf_counter()
        use_start = self.start is not None and self.formulation.start is not None and self.start_accepted is None
        limits = self.limits
        if self.search is not None and limits.time_limit is not None:
            limits = replace(limits, time_limit=max(0.0, limits.time_limit - (before - self.began)))
        outcome = self.engine.solve(
            model,
            limits,
            self.options,
            use_start=use_start,
            listen=lambda progress: self.tell(f"solving with {self.engine.name}", progress),
        )
        if use_start:
            self.start_accepted = outcome.start_accepted
        self.seconds["solve"] = self.seconds.get("solve", 0.0) + time.perf_counter() - before
        self.outcome = outcome
        self.passed("solver", before, self.engine.name)
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
        unknown = self.formulation.problem is None and self.formulation.admissible is None
        if unknown and not self.start_accepted:
            self.start = None  # whether it keeps to the formulation's own constraints is not known
        best = found
        if self.start is not None and (found is None or (found.value or 0) > (self.start.value or 0)):
            best = self.start
        bound = self.outcome.bound if self.outcome and self.formulation.claim != "heuristic" else None
        if self.search is not None and (bound is None or self.search.bound > bound):
            bound = float(self.search.bound)
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
        if best is self.start and not message and self.outcome is not None and (bound is None or bound != value):
            message = f"the solver found nothing better than the schedule of {best.source} that it started from"
        return self.result(status_of(best.verdict, value, bound), stop, best, bound, message)

    def refused(self, found: _Candidate) -> Result:
        """The judge refuses what the formulation extracted: shown as it is, claimed to be nothing."""
        if found.broken:
            message = (
                f"the schedule that formulation {self.formulation.name!r} extracted breaks the formulation's own"
                f" rules ({found.broken[0]})"
            )
            return self.result("no_schedule", "failed", None, None, message)
        first = found.verdict.violations[0].message
        message = (
            f"the judge refuses the schedule that formulation {self.formulation.name!r} extracted"
            f" ({len(found.verdict.violations)} violations; {first})"
        )
        return self.result("no_schedule", "failed", found, None, message)

    def progress(self) -> list[tuple[float, float | None, float | None]]:
        """Seconds since the solving began, incumbent and bound: of the search, then of the solver."""
        told: list[tuple[float, float | None, float | None]] = []
        elapsed = 0.0
        for stage in self.stages:
            if stage.name not in OUTER_STAGES:
                elapsed += stage.seconds
                told.append((elapsed, stage.value, stage.bound))
        if self.outcome:
            told += [(elapsed + p.seconds, p.incumbent, p.bound) for p in self.outcome.progress]
        return told

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
        alone = (
            outcome is None and best is not None and not self.searches
        )  # the schedule is the search's, no solver ran
        return Result(
            instance=InstanceStamp.of(self.instance),
            producer=Producer(
                kind="improvement" if alone else "formulation",
                name=best.source if alone and best else self.formulation.name,
                solver=None if alone else self.solver_name,
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
                parameters={p.name: self.posed.extra[p.name] for p in self.formulation.parameters},
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
            progress=self.progress(),
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
            stages=self.stages,
            log=outcome.log if outcome else "",
        )
