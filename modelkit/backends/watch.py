"""Follows a question to a solver process to its end, and believes no number in the answer that it can compute."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from modelkit.backends.base import Limits, Listener, Outcome, SolverProgress
from modelkit.backends.crew import Message, SolverProcess
from modelkit.backends.standard_form import Floats, StandardForm
from modelkit.backends.worker import Job
from modelkit.errors import ModelkitError, SolverError
from modelkit.runtime.interrupts import Held, interrupts_held

#: Seconds that a solver has to stop by itself after its limit, or after it was asked to, at most.
GRACE = 5.0
#: With a limit, it has this many seconds and GRACE_SHARE of the limit.
LEAST_GRACE = 0.3
#: After it was asked to stop it has LEAST_GRACE and STOPPING_SHARE. All that, and starting Python, is within
#: limit / 10 + 2 s; where other programs keep the processors busy, solvers look at the clock late.
GRACE_SHARE, STOPPING_SHARE = 0.02, 0.05
#: Share by which a number may differ from the recomputed one.
ROUNDING = 1e-6


def overrun(limits: Limits, share: float = GRACE_SHARE) -> float:
    """Seconds that a solver has to stop by itself after its limit; with `STOPPING_SHARE`, after it was asked to."""
    if limits.time_limit is None:
        return GRACE
    return min(GRACE, LEAST_GRACE + share * limits.time_limit)


class Incumbents:
    """The best solution of a model, of those that keep to its rows and bounds.

    Attributes
    ----------
    x, value
        The best one and what it costs; None when there is none.
    remarks
        What was wrong with what the solver told, in words.
    """

    def __init__(self, solver: str, form: StandardForm) -> None:
        self.solver, self.form = solver, form
        self.x: Floats | None = None
        self.value: float | None = None
        self.first: Floats | None = None
        self.remarks: list[str] = []

    def add(self, x: Floats, claimed: float | None) -> bool:
        """Take a solution if it is one; returns whether it is the best so far."""
        if (fault := self.form.fault(x)) is not None:
            self.remark(f"a solution of {self.solver} was rejected: {fault}")
            return False
        value = self.form.objective(x)
        if claimed is not None and _differ(claimed, value):
            self.remark(
                f"{self.solver} reported {claimed:g} for a solution that costs {value:g}; the recomputed value is used"
            )
        if self.first is None:
            self.first = x
        if self.value is not None and value >= self.value:
            return False
        self.x, self.value = x, value
        return True

    def remark(self, words: str) -> None:
        """Keep what is to be said, once."""
        if words not in self.remarks:
            self.remarks.append(words)

    def refutes(self, bound: float | None) -> bool:
        """Whether a solution costs less than a bound says."""
        return bound is not None and self.value is not None and bound > self.value and _differ(bound, self.value)

    def check(self, outcome: Outcome) -> None:
        """Withdraw the bounds that a solution refutes, and say what was wrong."""
        if self.refutes(outcome.bound):
            self.remark(
                f"the bound {outcome.bound:g} of {self.solver} was withdrawn: it knows a solution that costs"
                f" {self.value:g}"
            )
            outcome.bound, outcome.stop = None, "failed"
        outcome.progress = [
            replace(progress, bound=None) if self.refutes(progress.bound) else progress for progress in outcome.progress
        ]
        outcome.message = "; ".join(filter(None, [outcome.message, *self.remarks]))

    def start_accepted(self) -> bool | None:
        """Whether the solver began from the start that it was given; None when it was given none.

        Its first solution has the start's values, or, where these are a whole solution, costs no more.
        """
        start = self.form.start
        if start is None:
            return None
        if self.first is None or self.form.value_faults(start):
            return False
        if self.form.agrees(self.first, start):
            return True
        if self.form.fault(start) is not None:
            return False
        return self.form.objective(self.first) <= self.form.objective(start) + ROUNDING


def _differ(a: float, b: float) -> bool:
    return abs(a - b) > ROUNDING * max(1.0, abs(b))


class Watch:
    """Follows one job to its end."""

    def __init__(self, process: SolverProcess, job: Job, listen: Listener | None) -> None:
        self.process = process
        self.job = job
        self.listen = listen
        self.incumbents = Incumbents(job.solver, job.form)
        self.progress: list[SolverProgress] = []
        self.bound: float | None = None
        self.deadline: float | None = None
        self.overrun = overrun(job.limits)
        self.stopping = ""  # why it was asked to stop
        self.held = Held()

    def run(self) -> Outcome:
        """Ask and wait for the answer. The first Ctrl-C asks for the best so far, the second ends the process."""
        with interrupts_held() as self.held:
            self.process.ask(self.job)
            while True:
                try:
                    message = self.process.next(0.2)
                    outcome = None if message is None else self.take(message)
                    if outcome is not None:
                        return self.complete(outcome)
                    if self.held.pressed and not self.stopping:
                        raise KeyboardInterrupt
                except KeyboardInterrupt:
                    if self.stopping == "interrupted":  # a second Ctrl-C: no more waiting
                        return self.complete(self.cut_off())
                    self.ask_to_stop("interrupted")
                if self.deadline is not None and time.monotonic() > self.deadline:
                    if self.stopping:
                        return self.complete(self.cut_off())
                    self.ask_to_stop("time_limit")

    def take(self, message: Message) -> Outcome | None:
        """Handle one message; an outcome when it is the last."""
        kind, *rest = message
        if kind == "begun":
            if (left := self.job.limit_left()) is not None and not self.stopping:
                self.deadline = time.monotonic() + left + self.overrun
        elif kind == "bound":
            seconds, bound = rest
            self.hear(seconds, bound)
        elif kind == "solution":
            seconds, claimed, bound, x = rest
            self.incumbents.add(x, claimed)
            self.hear(seconds, bound)
        elif kind == "outcome":
            self.process.free = True
            return self.finished(rest[0])
        elif kind == "error":
            self.process.free = True
            raise rest[0] if isinstance(rest[0], ModelkitError) else SolverError(str(rest[0]))
        else:
            stop = self.stopping or ("interrupted" if self.held.pressed else "failed")
            return self.salvage(stop, self.process.last_words())
        return None

    def hear(self, seconds: float, bound: float | None) -> None:
        """Keep the progress and pass it on, as far as it holds."""
        bound = self.job.form.tighten(bound)
        self.bound = None if self.incumbents.refutes(bound) else bound
        self.progress.append(SolverProgress(seconds, self.incumbents.value, self.bound))
        if self.listen is not None:
            self.listen(self.progress[-1])

    def finished(self, fields: dict[str, Any]) -> Outcome:
        """The outcome in the solver's own words, with the best solution told."""
        x, claimed = fields.pop("x", None), fields.pop("objective", None)
        if x is not None:
            self.incumbents.add(x, claimed)
        if fields["stop"] in ("interrupted", "failed") and self.stopping:  # solvers stop with many a status
            fields["stop"] = self.stopping
        if fields["found"] == "infeasible" and self.incumbents.x is not None:
            self.incumbents.remark(f"{self.job.solver} reports the model infeasible but returned a solution")
            fields.update(found="solution", stop="failed", bound=None)
        if fields["found"] in ("nothing", "solution"):
            fields["found"] = "nothing" if self.incumbents.x is None else "solution"
        return Outcome(**fields)

    def ask_to_stop(self, why: str) -> None:
        self.stopping = why
        self.process.stop()
        grace = GRACE if why == "interrupted" else overrun(self.job.limits, STOPPING_SHARE)
        self.deadline = time.monotonic() + grace

    def cut_off(self) -> Outcome:
        self.process.process.kill()  # its lender tidies it up
        words = "the solver did not stop when asked to and was terminated"
        return self.salvage("interrupted" if self.stopping == "interrupted" else "time_limit", words)

    def salvage(self, stop: Any, message: str) -> Outcome:
        """What is known of a solver that is gone: its last incumbent and its best bound."""
        bounds = [p.bound for p in self.progress if p.bound is not None]
        found: Any = "nothing" if self.incumbents.x is None else "solution"
        return Outcome(stop=stop, found=found, bound=max(bounds, default=None), message=message)

    def complete(self, outcome: Outcome) -> Outcome:
        """The outcome with what is computed here; a bound that a solution refutes is withdrawn."""
        outcome.size = self.job.form.size
        outcome.bound = self.job.form.tighten(outcome.bound)
        outcome.progress = self.progress
        if self.job.task == "solve":
            outcome.start_accepted = self.incumbents.start_accepted()
        self.incumbents.check(outcome)
        return outcome
