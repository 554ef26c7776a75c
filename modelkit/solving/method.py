"""What `solve` and `bound` do in a way of their own for each problem; here, for instances of none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.certificate import Certificate
from modelkit.errors import UsageError
from modelkit.instance import Instance
from modelkit.problems.kv.idle import Busy
from modelkit.problems.kv.start_windows import Starts
from modelkit.result import Result, StopReason
from modelkit.simulation.simulate import clairvoyant_schedule, fitting_policies
from modelkit.solving.certified import CertifiedBound, Task

if TYPE_CHECKING:
    from modelkit.solving.outcome import Candidate, SolveState

NO_SOLVER = "no solver ran: this is the schedule of a local search, with a certified bound"


class Method:
    """The ways of one problem; those of this class know policies and nothing else.

    Schedules to start from are asked of the problem that the instance poses, everything else of the one that the
    formulation is a model of.

    Attributes
    ----------
    certifies_at_once
        Whether a certificate takes no time, so that a schedule to start from is held against it before a model is made.
    """

    certifies_at_once = False

    def bound(self, task: Task) -> CertifiedBound:
        """A lower bound, recomputed exactly, and a schedule close to it.

        Raises
        ------
        UsageError
            None is known.
        """
        raise UsageError("no certified bound is known for this instance")

    def timeline(self, instance: Instance) -> Busy:
        """The instance without the time in which no optimal schedule runs anything."""
        return Busy.whole(instance)

    def check_size(self, run: SolveState) -> None:
        """Refuse what is too large before anything is looked for.

        Raises
        ------
        TooLargeError
            It is.
        """

    def starts_kept(self, run: SolveState) -> Starts | None:
        """How many starts its model keeps; None where it has none."""
        return None

    def find_certificate(self, run: SolveState) -> Certificate | None:
        """A bound that needs no solver."""
        return None

    def first_schedules(self, run: SolveState) -> list[Candidate]:
        """Schedules of which the best is the one to start from.

        Raises
        ------
        KeyboardInterrupt
            The best so far is the run's start.
        """
        names = fitting_policies(run.instance)
        return [run.judge_schedule(name, clairvoyant_schedule(run.instance, name)) for name in names]

    def refine_start(self, run: SolveState) -> None:
        """Improve the schedule to start from, where that pays."""

    def without_solver(self, run: SolveState, reason: str, stop: StopReason) -> Result:
        """What is known where no model can be built, for ``reason``."""
        late = stop == "time_limit"
        return run.conclude(None, stop if late else "failed", f"{reason}; no solver ran" if late else reason)
