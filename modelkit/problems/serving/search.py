"""Hindsight schedules in real time: list scheduling with gates, then simulated annealing.

1. *Grid*: orders (volume, effective work, output, arrival) by misfits by the gate's threshold by limits of the batch;
   milliseconds for 1,000 requests each.
2. Up to `WINDOW` requests: *annealing* over when each request is let in (`modelkit.problems.serving.annealing`), from
   the best of the grid; *crossing*: plans that begin as one of what this ends with and go on as another; then
   annealing in windows of time.
3. More: *tuning* of the gate's threshold, which may differ between intervals of time, valued by whole runs; then
   annealing in windows of time, one after the other, whose moves are valued at a horizon beyond the window, where what
   is unfinished counts as going on at the mean pace. A window is kept if the whole plan gains.

The judge replays what is published; nothing here is believed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, permutations
from typing import NamedTuple

import numpy as np

from modelkit.errors import InterruptedWith, UsageError
from modelkit.instance import Instance
from modelkit.judge.rules import Residency
from modelkit.problems.problem import MAKESPAN_MS, TOTAL_LATENCY_MS
from modelkit.problems.serving.annealing import Walk, anneal, seed_generator
from modelkit.problems.serving.plan_kernel import Horizon, Releases, copy_state, run_plan, shortest_iteration
from modelkit.problems.serving.plans import MISFITS, TO_THE_END, Floats, Ints, Plan, Server, search_refusal
from modelkit.runtime.deadline import Deadline
from modelkit.schedule import Schedule

#: Gates tried: threshold, 0 for none. Limits of the batch, as a share of the most in progress.
THRESHOLDS = (0.0, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0)
BATCHES = (1.0, 0.75, 0.5)
#: Requests that are annealed together; of a window, those that are moved.
WINDOW, MOVED = 1000, 200
#: First temperature, as a share of the mean latency; the last is this share of the first.
HEAT, COOLED = 0.015, 0.003
#: Moves for each request without a time limit; moves between two looks at the clock, by requests.
EFFORT, BREATH = 250, 4_000_000
#: Share of the time for tuning the gate where requests are many, and intervals of time with a threshold each.
TUNED, INTERVALS = 0.6, 30
#: Where requests are few: how many kinds of list schedules are annealed as a whole, and the share of the time for that.
#: Then windows of the best one are: requests of the smallest window (the largest has four times as many), moves in each
#: window, and windows where there is no time limit.
STARTS, TOGETHER, FEWEST, REPAIR, REPAIRS = 4, 0.5, 15, 5_000, 20
#: Share of the rest of the time for crossing what annealing ended with, and moments tried for each pair.
CROSSING, CUTS = 0.2, 200
#: How far beyond a window its moves are valued, in mean latencies.
BEYOND = 1.0
#: What a ms of work left at the horizon costs, in requests in progress there.
PRICE = 2.0


def search_schedule(
    instance: Instance,
    *,
    deadline: Deadline | None = None,
    seed: int = 0,
    begin: Sequence[Residency] | None = None,
    metric: str = TOTAL_LATENCY_MS,
    anneal: bool = True,
    listen: Callable[[float], None] | None = None,
) -> Schedule:
    """A schedule of small total latency, makespan or total TTFT, knowing everything in advance.

    Parameters
    ----------
    deadline
        When to stop; None: a fixed amount of work.
    begin
        Stays of a valid schedule, from which annealing begins if no list schedule is better.
    anneal
        Whether annealing follows the list schedules, where the metric is the total latency.
    listen
        Called with the value [ms] of each better plan, as the search computes it.

    Raises
    ------
    InterruptedWith
        Ctrl-C; carries the best schedule.
    UsageError
        See `search_refusal`.
    """
    if (why := search_refusal(instance)) is not None:
        raise UsageError(f"the search over schedules processes prompts whole; this instance {why}")
    server = Server(instance, metric)
    arrivals = 0.0 if metric == MAKESPAN_MS else float(server.requests.arrival.sum())
    deadline = deadline or Deadline()
    best: Plan | None = None
    try:
        for plan in improve_plans(server, deadline, seed, begin or (), anneal and metric == TOTAL_LATENCY_MS):
            if best is None or plan.total < best.total:
                best = plan
                if listen:
                    listen(plan.total - arrivals)
    except KeyboardInterrupt:
        if best is None:
            raise
        raise InterruptedWith(server.schedule(best)) from None
    assert best is not None
    return server.schedule(best)


def improve_plans(
    server: Server, deadline: Deadline, seed: int, begin: Sequence[Residency], annealing: bool
) -> Iterator[Plan]:
    """Plans as they are found, the best of them somewhere; the first at once."""
    best: Plan | None = None
    listed: dict[tuple[int, bytes], Plan] = {}
    for plan in grid_plans(server, deadline):
        kind = plan.rule.batch, plan.rank.tobytes()
        listed[kind] = min(plan, listed.get(kind, plan), key=lambda some: some.total)
        if best is None or plan.total < best.total:
            best = plan
            yield best
    assert best is not None
    latency = best.total - server.requests.arrival.sum()
    if not annealing or latency <= 0:  # nothing to gain
        return
    seed_generator(seed)
    if len(best.rank) <= WINDOW:
        starts = [started(server, plan) for plan in sorted(listed.values(), key=lambda some: some.total)[:STARTS]]
        starts += [server.plan_of(begin)] if begin else []
        until, whole = deadline.share(TOGETHER), starts[0]
        ended = []
        for number, start in enumerate(starts):
            of_start = start
            for plan in chain((start,), anneal_all(server, start, until.share(1 / (len(starts) - number)))):
                of_start = plan
                if plan.total <= whole.total:
                    whole = plan
                    yield whole
            ended.append(of_start)
        for plan in crossed(server, ended, deadline.share(CROSSING)):
            whole = plan
            yield whole
        yield from repair(server, whole, deadline, seed)
    else:
        for tuned_plan in tune_gate(server, best, deadline.share(TUNED), seed):
            best = tuned_plan
            yield best
        yield from anneal_windows(server, best, deadline)


def grid_plans(server: Server, deadline: Deadline) -> Iterator[Plan]:
    """List schedules with gates: every order, number of misfits, threshold and limit of the batch that can differ."""
    release = server.requests.arrival
    most = 0
    for share in BATCHES:
        batch = server.rule.batch if share == 1 else max(1, int(share * most))
        bound = server.tight or batch < len(release)
        for rank in server.orders() if bound else [np.arange(len(release))]:
            for misfits in MISFITS if bound else MISFITS[:1]:
                for threshold in THRESHOLDS:
                    rule = server.rule._replace(batch=batch, misfits=misfits, threshold=np.array([threshold]))
                    plan = server.plan(release, rank, rule)
                    most = max(most, most_in_progress(server.first, server.requests.output)) if share == 1 else most
                    yield plan
                    if deadline.over:
                        return


def most_in_progress(first: Ints, output: Ints) -> int:
    """Most requests in progress in one iteration."""
    changes = np.zeros(int((first + output).max()) + 1, np.int64)
    np.add.at(changes, first, 1)
    np.add.at(changes, first + output, -1)
    return int(changes.cumsum().max())


def started(server: Server, plan: Plan) -> Plan:
    """The same schedule without a gate: each request is released a little before it started.

    Half of the shortest iteration before: whatever ends a little later then still ends in time.
    """
    server.run(plan)
    release = np.maximum(server.start - shortest_iteration(server.costs) / 2, server.requests.arrival)
    return server.plan(release, plan.rank, plan.rule._replace(gated_from=math.inf))


def anneal_all(server: Server, plan: Plan, deadline: Deadline) -> Iterator[Plan]:
    """Anneal all requests together until the deadline."""
    n = len(plan.rank)
    hot = HEAT * (plan.total - server.requests.arrival.sum()) / n
    copy_state(server.empty, server.begin)
    part = Part(np.argsort(plan.release, kind="stable"), n, TO_THE_END)
    yield from anneal_part(server, plan, part, deadline, hot=hot, breath=max(1, BREATH // (n * 20)))


def crossed(server: Server, plans: Sequence[Plan], deadline: Deadline) -> Iterator[Plan]:
    """Plans that begin as one and go on as another, again and again, as long as the best of all gains."""
    best, gaining = min(plan.total for plan in plans), True
    while gaining:
        gaining, found = False, list(plans)
        for one, other in permutations(plans, 2):
            if deadline.over:
                return
            moments = np.unique(np.concatenate([one.release, other.release]))
            for moment in moments[:: -(-len(moments) // CUTS)]:
                release = np.where(one.release < moment, one.release, np.maximum(other.release, moment))
                plan = server.plan(release, one.rank, one.rule)
                if plan.total < min(one.total, other.total):
                    found.append(plan)
                if plan.total < best:
                    best, gaining = plan.total, True
                    yield plan
        plans = sorted(found, key=lambda plan: plan.total)[: len(plans)]


def repair(server: Server, plan: Plan, deadline: Deadline, seed: int) -> Iterator[Plan]:
    """Anneal windows anywhere, again and again, and keep what gains.

    A window is run to from the beginning; behind it, moves are valued by what is left to do.
    """
    rng = np.random.default_rng(seed)
    requests, n, tries = server.requests, len(plan.rank), 0
    latency = (plan.total - requests.arrival.sum()) / n
    while not deadline.over and (deadline.finite or tries < REPAIRS):
        tries += 1
        server.run(plan)
        order = np.argsort(plan.release, kind="stable")
        begun = float(np.sort(server.start)[max(0, int(rng.integers(-FEWEST, n)))])
        copy_state(server.empty, server.begin)
        server.first[:] = -1
        releases = Releases(order, plan.release, plan.rank)
        run_plan(server.setting(plan.rule), releases, server.space(server.begin), Horizon(begun, 0.0, 0.0))
        rest = order[server.first[order] < 0]
        free = min(len(rest), int(rng.integers(FEWEST, 4 * FEWEST)))
        horizon = float(plan.release[rest[free - 1]]) + BEYOND * latency
        found = anneal_window(server, plan, rest, deadline, free=free, horizon=horizon, hot=HEAT * latency, most=REPAIR)
        if found.total < plan.total:
            plan = found
            yield plan


class Part(NamedTuple):
    """What is annealed: requests by release, of which the first ``free`` are moved, and how their moves are valued.

    From ``server.begin`` until the horizon.
    """

    order: Ints
    free: int
    horizon: Horizon


def anneal_part(
    server: Server, plan: Plan, part: Part, deadline: Deadline, *, hot: float, breath: int, most: int | None = None
) -> Iterator[Plan]:
    """Anneal a part of a plan from the temperature ``hot`` [ms] down; plans with the best value of the part so far.

    ``plan.total`` is the part's value. A look at the clock every ``breath`` moves.
    """
    releases = Releases(part.order.copy(), plan.release.copy(), plan.rank.copy())
    kept = Releases(releases.order, plan.release.copy(), plan.rank.copy())
    setting, space = server.setting(plan.rule), server.space(server.state)
    current = best = plan.total
    whole, done, enough = deadline.left, 0, most or EFFORT * part.free
    timed = deadline.finite and most is None
    while not deadline.over and done < enough:
        share = 1 - deadline.left / whole if timed else done / enough
        heat = hot * (1 - share) + hot * COOLED
        walk = Walk(server.begin, part.free, breath, heat, current, best)
        current, found = anneal(setting, releases, space, part.horizon, walk, kept)
        done += 0 if timed else breath
        if found < best:
            best = found
            yield Plan(kept.release.copy(), kept.rank.copy(), plan.rule, best)


def tune_gate(server: Server, plan: Plan, deadline: Deadline, seed: int) -> Iterator[Plan]:
    """Change the gate's threshold in single intervals of time, and keep what gains.

    What letting somebody in costs grows with the load to come, so the best threshold changes with time.
    """
    rng = np.random.default_rng(seed)
    arrival = server.requests.arrival
    interval = max(1.0, float(arrival[-1] - arrival[0])) / INTERVALS
    rule = plan.rule._replace(threshold=np.full(INTERVALS, plan.rule.threshold[0]), interval=interval)
    tries = 0
    while not deadline.over and (deadline.finite or tries < 4 * INTERVALS):
        tries += 1
        threshold = rule.threshold.copy()
        begin = int(rng.integers(INTERVALS))
        end = begin + 1 + int(rng.integers(INTERVALS)) // 4
        threshold[begin:end] = np.maximum(0.1, threshold[begin:end]) * float(np.exp(rng.normal(0.0, 0.5)))
        found = server.plan(plan.release, plan.rank, rule._replace(threshold=threshold))
        if found.total < plan.total:
            plan, rule = found, found.rule
            yield plan


def anneal_windows(server: Server, plan: Plan, deadline: Deadline) -> Iterator[Plan]:
    """Anneal windows of `MOVED` requests one after the other in time; what comes after a window is left to the gate.

    A window is kept if the whole plan gains by it.
    """
    requests = server.requests
    latency = (plan.total - requests.arrival.sum()) / len(plan.rank)
    copy_state(server.empty, server.begin)
    rest = np.arange(len(plan.rank))
    whole, windows, window = deadline.left, -(-len(rest) * 2 // MOVED), 0
    while len(rest) and not deadline.over:
        server.run(plan)
        rest = rest[np.argsort(server.start[rest], kind="stable")]
        free = past_ties(server.start[rest], min(MOVED, len(rest)))
        gated_from = float(server.start[rest[free]]) if free < len(rest) else math.inf
        release = plan.release.copy()
        release[rest] = np.maximum(requests.arrival[rest], np.minimum(server.start[rest], gated_from))
        rest = rest[np.argsort(release[rest], kind="stable")]
        rule = plan.rule._replace(gated_from=gated_from)
        plan = Plan(release, plan.rank, rule, plan.total)
        until = Deadline(deadline.at - whole * max(0.0, 1 - (window + 1) / windows)) if deadline.finite else deadline
        horizon = gated_from + BEYOND * latency
        found = anneal_window(server, plan, rest, until, free=free, horizon=horizon, hot=HEAT * latency)
        if found.total < plan.total:
            plan = found
            yield plan
        settled = rest[np.argsort(plan.release[rest], kind="stable")]
        soonest = np.maximum(plan.release[settled], server.begin.now[0])
        half = past_ties(soonest, free // 2 if free < len(rest) else free)
        reached = float(soonest[half]) if half < len(rest) else math.inf
        server.first[rest] = -1
        releases = Releases(settled[:half], plan.release, plan.rank)
        run_plan(server.setting(rule), releases, server.space(server.begin), Horizon(reached, 0.0, 0.0))
        rest = rest[server.first[rest] < 0]
        window += 1


def past_ties(times: Floats, place: int) -> int:
    """A place in ascending times, moved on to the first later one where all up to it are the same."""
    if place < len(times) and times[place] == times[0]:
        return int(np.searchsorted(times, times[0], side="right"))
    return place


def anneal_window(
    server: Server,
    plan: Plan,
    rest: Ints,
    deadline: Deadline,
    *,
    free: int,
    horizon: float,
    hot: float,
    most: int | None = None,
) -> Plan:
    """Anneal the first ``free`` of the rest until the horizon, from the state ``server.begin``."""
    begin, state = server.begin, server.state
    order = rest[: max(free, int(np.searchsorted(plan.release[rest], horizon, side="right")))].copy()
    horizon = horizon if len(order) < len(rest) else math.inf

    def run(pace: float, price: float) -> float:
        copy_state(begin, state)
        releases = Releases(order, plan.release, plan.rank)
        return float(run_plan(server.setting(plan.rule), releases, server.space(state), Horizon(horizon, pace, price)))

    run(0.0, 0.0)
    pace = float((state.now[0] - begin.now[0]) / max(1, state.sums[2] - begin.sums[2]))
    price = PRICE * float(state.sums[0]) if math.isfinite(horizon) else 0.0
    part = Part(order, free, Horizon(horizon, pace, price))
    begun = replace(plan, total=run(pace, price))
    breath = max(1, BREATH // (len(order) * 40))
    moved = anneal_part(server, begun, part, deadline, hot=hot, breath=breath, most=most)
    *_, found = [begun, *moved]
    return server.plan(found.release, found.rank, found.rule)
