"""The steps of a solve: warm start, search, model, solver, judgement."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from modelkit.backends import Outcome
from modelkit.errors import FormulationFailedError, FormulationLateError, not_enough_memory
from modelkit.problems.kv.diagram import Search, SearchProgress
from modelkit.problems.kv.local_search import TooLargeError, TooLateError, schedule_of, starts_of
from modelkit.result import Progress, Result, SolveStage, StopReason, status_of
from modelkit.runtime.deadline import within
from modelkit.runtime.interrupts import interrupts_held
from modelkit.simulation.simulate import clairvoyant_schedule
from modelkit.solving.outcome import SEARCH, Candidate, SolveState

#: A solver that has less time left is not begun [s].
TOO_LATE = 1.0
#: Time to hand a model over, as a share of the time that building it took.
HANDOVER = 0.4


@dataclass
class Pipeline(SolveState):
    """The steps of one solve, from the warm start to the result."""

    def go(self) -> Result:
        """All steps; what a function of the formulation breaks loses nothing that was found before."""
        with within(self.deadline):
            try:
                return self.steps()
            except FormulationFailedError as error:
                late = isinstance(error, FormulationLateError)
                return self.conclude(None, "time_limit" if late else "failed", str(error))

    def steps(self) -> Result:
        """From the warm start to the judgement."""
        try:
            self.method.check_size(self)
            before = time.perf_counter()
            self.start = self.find_start()
            self.searched = True
            self.passed("warm start", before, self.start.source if self.start else "none")
            self.posed_method.refine_start(self)
            self.started_from = self.start.source if self.start else None
            if self.start_is_optimal():
                return self.conclude(None, "finished", "")
            if self.searches and self.search_ends_it():
                return self.conclude(None, self.search_stop(), "")
            model = self.build()
            self.outcome = self.run_solver(model)
        except KeyboardInterrupt:
            self.keep_search()
            self.start = self.start or best_start([self.least])
            return self.conclude(None, "interrupted", "interrupted before the solver began" if not self.search else "")
        except TooLargeError as error:
            return self.method.without_solver(
                self, str(error), "time_limit" if isinstance(error, TooLateError) else "finished"
            )
        except MemoryError:
            known = self.conclude(None, "failed", not_enough_memory())
            if known.schedule is None:
                raise
            return known
        try:
            with interrupts_held() as held:
                result = self.extract_schedule(model)
        except KeyboardInterrupt:  # the second one, while the formulation does not answer
            return self.conclude(None, "interrupted", "interrupted while the solution was read")
        return result.model_copy(update={"stop": "interrupted"}) if held.pressed else result

    def find_start(self) -> Candidate | None:
        """The best valid schedule of the policies asked for, told the true lengths."""
        if self.warm_start == "none":
            return None
        self.tell("warm start")
        if self.warm_start != "best":
            tried = [self.judge_schedule(self.warm_start, clairvoyant_schedule(self.instance, self.warm_start))]
        else:
            tried = self.posed_method.first_schedules(self)
        return best_start(tried)

    def start_is_optimal(self) -> bool:
        """Whether the schedule to start from meets the certified bound, so that there is nothing to solve."""
        if self.start is None or not self.method.certifies_at_once:
            return False
        bound = self.find_certificate()
        return bound is not None and status_of(self.start.verdict, self.start.value, float(bound.value)) == "optimal"

    def search_ends_it(self) -> bool:
        """Search with decision diagrams; whether that is all there is to do."""
        if self.start is None:
            # not asked for, and the limits of the search need one
            starts = self.known.hindsight.starts
        else:
            starts = starts_of(self.inner, self.timeline.within(self.start.schedule))
        self.search = Search(
            self.inner,
            starts,
            self.deadline.at,
            self.limits.gap,
            listen=self.hear,
            windows=lambda: self.known.windows,
        )
        self.tell(f"solving with {SEARCH}")
        before = time.perf_counter()
        self.search.run()
        self.seconds["solve"] = time.perf_counter() - before
        self.keep_search()
        done = self.search.proven or self.solver == SEARCH
        return done or self.deadline.left < TOO_LATE

    def search_stop(self) -> StopReason:
        assert self.search is not None
        return "finished" if self.search.proven else "time_limit" if self.search.late else "failed"

    def hear(self, progress: SearchProgress) -> None:
        """Keep and pass on a stage of the search."""
        elapsed = time.perf_counter() - self.began
        self.stages.append(
            SolveStage(
                name=progress.name,
                seconds=progress.seconds,
                value=progress.value,
                bound=progress.bound,
                note=progress.note,
            )
        )
        self.listen(Progress(progress.name, elapsed, float(progress.value), float(progress.bound)))

    def keep_search(self) -> None:
        """Take over the schedule of the search when it is the better one."""
        if self.search is None:
            return
        found = self.judge_schedule(SEARCH, self.outer(schedule_of(self.inner, self.search.starts)))
        if self.start is None or (found.value is not None and found.value < (self.start.value or 0)):
            self.start = found

    def build(self) -> Any:
        self.tell("building the model")
        before = time.perf_counter()
        self.starts = self.method.starts_kept(self)
        left = self.deadline.left if self.deadline.finite else math.inf
        if left <= 0:
            raise TooLateError("the time limit was over before the model was built")
        model = self.formulation.instantiate(self.inner_parametrised, self.known, within=left)
        if self.start is not None and self.formulation.start is not None:
            start = self.timeline.within(self.start.schedule)
            if not self.formulation.set_start(model, self.inner_parametrised, start):
                self.start_accepted = False  # it uses a start that no optimal schedule uses
        self.seconds["build"] = time.perf_counter() - before
        note = f"{self.starts.kept:,} of {self.starts.in_all:,} starts" if self.starts else self.formulation.name
        self.passed("building the model", before, note)
        return model

    def run_solver(self, model: Any) -> Outcome:
        self.tell(f"solving with {self.engine.name}")
        before = time.perf_counter()
        use_start = self.start is not None and self.formulation.start is not None and self.start_accepted is None
        limits = self.limits
        if self.deadline.finite:
            left = self.deadline.left - HANDOVER * self.seconds["build"]
            if left <= 0:
                raise TooLateError("the time limit was over when the model was built")
            limits = replace(limits, time_limit=left)
        outcome = self.engine.solve(
            model,
            limits,
            self.options,
            use_start=use_start,
            listen=lambda progress: self.tell(f"solving with {self.engine.name}", progress),
            separator=self.formulation.separator_for(model, self.inner_parametrised),
        )
        if use_start:
            self.start_accepted = outcome.start_accepted
        self.seconds["solve"] = self.seconds.get("solve", 0.0) + time.perf_counter() - before
        self.outcome = outcome
        note = self.engine.name
        if self.formulation.separator:
            note += ", no cuts in the tree" if outcome.cuts is None else f", {outcome.cuts:,} cuts found in the tree"
        self.passed("solver", before, note)
        return outcome

    def extract_schedule(self, model: Any) -> Result:
        """What the solver found, judged."""
        assert self.outcome is not None
        found = None
        message = self.outcome.message
        if self.outcome.found == "solution" and self.formulation.extract is not None:
            found = self.judge_schedule(
                self.engine.name, self.outer(self.formulation.schedule_from(model, self.inner_parametrised))
            )
            if not found.verdict.valid or found.broken:
                return self.refuse(found)
        return self.conclude(found, self.outcome.stop, message)


def best_start(tried: Sequence[Candidate | None]) -> Candidate | None:
    """The best valid one that evicts nobody, as no model does."""
    fit = (c for c in tried if c is not None and c.value is not None and not c.verdict.metrics["evictions"])
    return min(fit, key=lambda c: c.value or 0.0, default=None)
