"""Clairvoyant improvement on slots: a good schedule of the slot problem in hindsight.

The best of the candidates given and of plans by local search over admissions and stage lengths
(``modelkit.problems.slots.stage_plan``), with several numbers of stages and seeds. Each is judged before it counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from modelkit.errors import InterruptedWith
from modelkit.instance import Instance
from modelkit.judge import judge
from modelkit.problems.slots.packing import pack, packing_bound
from modelkit.problems.slots.stage_plan import TRIALS_PER_REQUEST, StagePlan, align, squeeze, stage_count
from modelkit.problems.slots.stages import StageClock
from modelkit.schedule import Admission, Schedule, Segment
from modelkit.verify.slot_bound import slot_bound

#: Trials of the search for each request in shortening the best plan; 1,319 requests take some ten seconds.
EFFORT = 8_000
#: Numbers of stages tried, as shares of the usual one.
_SHARES = (0.8, 0.9, 1.0)
#: Trials for each request in one attempt to shorten the best plan.
_ATTEMPT = 100
#: Attempts in a step.
_ATTEMPTS = 10
#: What a trial of the search takes, generously [s].
TRIAL_SECONDS = 1e-6
#: A value so close to the lower bound, relatively, is as good as it.
_SAME = 1e-9


class Candidate(NamedTuple):
    """A schedule to consider: about how long it takes to make [s], and what makes it."""

    seconds: float
    make: Callable[[], Schedule]


class SlotSearch:
    """The best judged schedule so far, and the steps that are left.

    Parameters
    ----------
    instance
        One that the slot problem takes, in which every request fits.
    candidates
        Considered first, in this order.
    follow
        Makes a schedule from a plan and a seed.
    seed
        Of the search.
    effort
        Trials for each request in shortening the best plan.

    Attributes
    ----------
    best
        The best schedule found; a search that comes to its end leaves none of the candidates better.

    Raises
    ------
    InfeasibleError
        Some request can never run.
    """

    def __init__(
        self,
        instance: Instance,
        candidates: Sequence[Candidate],
        follow: Callable[[StagePlan, int], Schedule],
        *,
        seed: int = 0,
        effort: int = EFFORT,
    ) -> None:
        instance.check_fits()
        rounds, _ = packing_bound(instance.arrays.output, instance.server.slots or 1)
        self.instance = instance
        self.follow = follow
        self.bound = float(slot_bound(instance, rounds))
        self.best = _one_by_one(instance)
        self.value = math.inf
        self._consider(self.best)
        self.steps = self._steps(candidates, seed, effort)
        self.cost: float | None = next(self.steps)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return self.cost is None or self.value * (1 - _SAME) <= self.bound

    def run(self, deadline: float = math.inf, gap: float = 0.0) -> Schedule:
        """Take steps until one would last beyond the deadline, or the gap is reached; returns the best schedule.

        A later call goes on where this one stopped; after an interruption there is nothing left to do.

        Parameters
        ----------
        deadline
            Of `time.perf_counter`.
        gap
            Gap (value - bound) / value to the lower bound.

        Raises
        ------
        InterruptedWith
            Ctrl-C, with the best schedule so far.
        """
        try:
            while self.cost is not None and self.value * (1 - gap - _SAME) > self.bound:
                if time.perf_counter() + self.cost > deadline:
                    break
                self.cost = next(self.steps, None)
        except KeyboardInterrupt:
            raise InterruptedWith(self.best) from None
        return self.best

    def _steps(self, candidates: Sequence[Candidate], seed: int, effort: int) -> Iterator[float]:
        """Yields what the next step takes [s], before each."""
        for candidate in candidates:
            yield candidate.seconds
            self._consider(candidate.make())
        yield from self._plans(seed, effort)

    def _plans(self, seed: int, effort: int) -> Iterator[float]:
        instance, output, slots = self.instance, self.instance.arrays.output, self.instance.server.slots or 1
        clock = StageClock(instance).linear_clock
        if len(output) <= slots or not clock.decode_base_ms or instance.arrays.arrival.any():
            return
        yield TRIALS_PER_REQUEST * len(output) * TRIAL_SECONDS
        price = clock.prefill_ms(0) / clock.decode_base_ms
        least = pack(output, slots, np.random.default_rng(seed)).makespan
        usual = stage_count(output, slots, price)
        plans = []
        for run, share in enumerate(_SHARES):
            yield 2 * TRIALS_PER_REQUEST * len(output) * TRIAL_SECONDS
            stages = max(-(-len(output) // slots), round(share * usual))
            rng = np.random.default_rng([seed, run])
            plans.append(align(output, slots, least, price, rng, stages=stages))
            self._consider(self.follow(plans[-1], seed))
        best = min(plans, key=lambda p: p.overload + slots * (p.boundaries[-1] + price * len(p.boundaries)))
        rng = np.random.default_rng(seed)
        trials, attempts = _ATTEMPT * len(output), effort // _ATTEMPT
        for done in range(0, attempts, _ATTEMPTS):
            if best.overload or best.boundaries[-1] <= least:
                break
            yield _ATTEMPTS * trials * TRIAL_SECONDS
            few = min(_ATTEMPTS, attempts - done)
            shorter = squeeze(output, slots, least, best, rng, attempts=few, trials=trials)
            if shorter is not best:
                best = shorter
                self._consider(self.follow(best, seed))

    def _consider(self, schedule: Schedule) -> None:
        """Keep a schedule that the judge finds valid and better."""
        verdict = judge(self.instance, schedule)
        value = verdict.metrics["makespan_ms"]
        if verdict.valid and value is not None and value < self.value:
            self.best, self.value = schedule, value


def _one_by_one(instance: Instance) -> Schedule:
    """A stage for each request, in order of arrival; valid wherever every request fits."""
    clock = StageClock(instance)
    segments = []
    for i in np.argsort(instance.arrays.arrival, kind="stable").tolist():
        request = instance.requests[i]
        clock.now = max(clock.now, request.arrival * 1000)
        segments.append(Segment(clock.now / 1000, (Admission(request.id, 0),), rounds=request.output_tokens))
        clock.prefill([i])
        clock.decode(request.output_tokens)
    return Schedule(tuple(segments))
