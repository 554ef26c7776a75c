"""Schedules in which many requests keep their service levels, knowing all lengths: list schedules, then local search.

1. *Grid*: who is wanted (all that can be in time, or what the prices of the certified bound choose) by order (first
   token due, completion due, work, arrival) by care for those in progress by patience by limits of the batch.
2. *Local search*: from the best of the grid one or two requests are wanted or wanted no more, wait for another to
   arrive, or change ranks; what does not serve fewer in time is kept.

A request that is not wanted is served after all that are. The judge replays what is published.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from modelkit.errors import InterruptedWith
from modelkit.instance import Instance
from modelkit.problems.serving.in_time_kernel import Due, Manner, serve_in_time
from modelkit.problems.serving.plan_kernel import Releases, Rule, copy_state
from modelkit.problems.serving.plans import Floats, Ints, Server, ranks
from modelkit.requests import ServiceLevels
from modelkit.runtime.deadline import Deadline
from modelkit.schedule import Schedule

#: What is tried: care, patience, and limits of the batch as shares of the most that were in progress.
CARE, PATIENCE, BATCHES = (0.0, 0.7, 1.0, 1.2), (0.0, 0.5, 0.8), (1.0, 0.75, 0.5)
#: Moves of the local search where there is no time limit: for each request, and output tokens that are served in all.
EFFORT, TOKENS = 50, 200_000_000
#: How often it goes on from a plan with one less in time.
ONE_LESS = 0.05
#: Shares of moves: up to those that change who is wanted, that let somebody wait, and that change two ranks; others
#: change the manner. How far requests and ranks move.
WANTED, WAITING, OTHERWISE, FARTHEST = 0.4, 0.6, 0.8, 20


@dataclass(frozen=True, eq=False)
class InTimePlan:
    """Who is wanted, from when on [ms] and in which order; how they are served; how many are in time, and who.

    Columns have the shape [n].
    """

    wanted: npt.NDArray[np.bool_]
    release: Floats
    rank: Ints
    manner: Manner
    rule: Rule
    within: int
    served: npt.NDArray[np.bool_]


class InTimeServer(Server):
    """An instance with service levels as the kernels see it."""

    def __init__(self, instance: Instance, levels: ServiceLevels) -> None:
        super().__init__(instance)
        limits = [levels.limits_of(instance.requests[i]) for i in self.by_arrival.tolist()]
        first, last, token = (
            np.array([math.inf if ms is None else ms for ms in column], dtype=np.float64)
            for column in zip(*((each.ttft_ms, each.latency_ms, each.tpot_ms) for each in limits), strict=True)
        )
        after = self.requests.output - 1
        between = np.where(after > 0, token * np.maximum(after, 1), math.inf)
        last = self.requests.arrival + last
        self.due = Due(np.minimum(self.requests.arrival + first, last), last, between)

    def serve(self, plan: InTimePlan) -> InTimePlan:
        """The plan with the number that is in time; fills ``first`` and ``start``."""
        copy_state(self.empty, self.state)
        releases = Releases(np.argsort(plan.release, kind="stable"), plan.release, plan.rank)
        served = np.zeros(len(plan.rank), dtype=bool)
        within = serve_in_time(
            self.setting(plan.rule), self.due, plan.wanted, releases, plan.manner, self.space(self.state), served
        )
        return replace(plan, within=int(within), served=served)

    def dues(self) -> Iterator[Ints]:
        """Ranks by when the first token is due, by the latest completion, by work and by arrival."""
        work, arrival, *_ = self.orders()
        last = np.minimum(self.due.last, self.due.first + self.due.between)
        for key in (self.due.first, last):
            if np.isfinite(key).any():
                yield ranks(np.lexsort((work, key)))
        yield work
        yield arrival


def in_time_schedule(
    instance: Instance,
    levels: ServiceLevels,
    *,
    choices: Sequence[npt.NDArray[np.bool_]] = (),
    deadline: Deadline | None = None,
    seed: int = 0,
    enough: int | None = None,
    listen: Callable[[int], None] = lambda within: None,
) -> Schedule:
    """A schedule in which many requests keep their levels.

    Parameters
    ----------
    choices
        Sets of requests that are wanted, as masks in the order of the instance, shape [n]; beside all of them.
    deadline
        When to stop; None: a fixed amount of work.
    enough
        The number in time at which nothing more is to be gained; None: all.
    listen
        Called with the number in time of each better plan.

    Raises
    ------
    InterruptedWith
        Ctrl-C; carries the best schedule.
    """
    server, best = InTimeServer(instance, levels), None
    most = len(instance.requests) if enough is None else enough
    deadline = deadline or Deadline()
    try:
        for plan in in_time_plans(server, [choice[server.by_arrival] for choice in choices], deadline, seed):
            if best is None or plan.within > best.within:
                best = plan
                listen(plan.within)
            if best.within >= most:
                break
    except KeyboardInterrupt:
        if best is None:
            raise
        raise InterruptedWith(_schedule(server, best)) from None
    assert best is not None
    return _schedule(server, best)


def in_time_plans(
    server: InTimeServer, choices: Sequence[npt.NDArray[np.bool_]], deadline: Deadline, seed: int
) -> Iterator[InTimePlan]:
    """Plans as they are found, the best of them somewhere; the first at once."""
    best: InTimePlan | None = None
    for plan in grid(server, choices, deadline):
        if best is None or plan.within > best.within:
            best = plan
        yield plan
        if deadline.over:
            return
    assert best is not None
    yield from improved(server, best, deadline, np.random.default_rng(seed))


def grid(server: InTimeServer, choices: Sequence[npt.NDArray[np.bool_]], deadline: Deadline) -> Iterator[InTimePlan]:
    """List schedules, of which the plain ones come first."""
    n, most = len(server.by_arrival), 0
    every = np.ones(n, dtype=bool)
    orders = list({rank.tobytes(): rank for rank in server.dues()}.values())
    for share in BATCHES:
        batch = server.rule.batch if share == 1 else max(1, int(share * most))
        rule = server.rule._replace(batch=batch)
        for care in CARE:
            for patience in PATIENCE:
                for rank in orders:
                    for wanted in (every, *choices):
                        plan = InTimePlan(wanted, server.requests.arrival, rank, Manner(care, patience), rule, 0, every)
                        yield server.serve(plan)
                        most = max(most, _most_in_progress(server)) if share == 1 else most


def improved(
    server: InTimeServer, plan: InTimePlan, deadline: Deadline, rng: np.random.Generator
) -> Iterator[InTimePlan]:
    """Plans that serve more in time; now and then it goes on from one that serves one less."""
    n, tries, best = len(plan.rank), 0, plan.within
    in_progress = _most_in_progress(server)
    most = min(EFFORT * n, TOKENS // int(server.requests.output.sum()))
    while not deadline.over and (deadline.finite or tries < most):
        tries += 1
        found = server.serve(changed(plan, server, in_progress, rng))
        if found.within >= plan.within - (rng.random() < ONE_LESS):
            plan = found
        if plan.within > best:
            best = plan.within
            yield plan


def changed(plan: InTimePlan, server: InTimeServer, most: int, rng: np.random.Generator) -> InTimePlan:
    """The plan in another manner, or with other requests wanted, one that waits for another, or two ranks changed."""
    n, kind = len(plan.rank), rng.random()
    if kind > OTHERWISE:
        care, patience, batch = plan.manner.care, plan.manner.patience, plan.rule.batch
        care *= math.exp(rng.normal(0.0, 0.1))
        patience = min(0.99, max(0.0, patience + rng.normal(0.0, 0.1)))
        batch = max(1, round(min(batch, most) * math.exp(rng.normal(0.0, 0.1))))
        return replace(
            plan, manner=Manner(care, patience), rule=plan.rule._replace(batch=min(batch, server.rule.batch))
        )
    if n == 1 or kind < WANTED:
        return replace(plan, wanted=other_wanted(plan, server.requests.output, rng))
    one = int(rng.integers(n))
    if kind < WAITING:
        release, arrival = plan.release.copy(), server.requests.arrival
        other = min(n - 1, one + int(rng.integers(FARTHEST)))
        release[one] = max(arrival[one], arrival[other])
        return replace(plan, release=release)
    rank = plan.rank.copy()
    place = min(n - 1, max(0, int(rank[one]) + int(rng.integers(-FARTHEST, FARTHEST + 1))))
    other = int(np.flatnonzero(rank == place)[0])
    rank[one], rank[other] = rank[other], rank[one]
    return replace(plan, rank=rank)


def other_wanted(plan: InTimePlan, output: Ints, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Who is wanted after one of few moves.

    A request that was wanted and was late is wanted no more; one that is not, a short one rather than a long one, is
    wanted, and perhaps one that was in time is not, a long one rather than a short one.
    """
    wanted, kind = plan.wanted.copy(), rng.random()
    late = np.flatnonzero(plan.wanted & ~plan.served)
    others, good = np.flatnonzero(~plan.wanted), np.flatnonzero(plan.wanted & plan.served)
    if len(late) and kind < 0.4:
        wanted[rng.choice(late, size=1 + int(rng.integers(min(3, len(late)))))] = False
    elif len(others):
        wanted[min(rng.choice(others, size=2), key=lambda i: output[i])] = True
        if len(good) and kind > 0.7:
            wanted[max(rng.choice(good, size=2), key=lambda i: output[i])] = False
    elif len(good):
        wanted[rng.choice(good)] = False
    return wanted


def _most_in_progress(server: InTimeServer) -> int:
    from modelkit.problems.serving.search import most_in_progress

    return most_in_progress(server.first, server.requests.output)


def _schedule(server: InTimeServer, plan: InTimePlan) -> Schedule:
    server.serve(plan)
    return server.written()
