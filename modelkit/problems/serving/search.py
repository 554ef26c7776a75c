"""Hindsight schedules in real time: list scheduling with gates, then simulated annealing.

1. *Grid*: orders (volume, effective work, output, arrival) by misfits by the gate's patience by limits of the batch;
   milliseconds for 1,000 requests each.
2. Up to `WINDOW` requests: *annealing* over when each request is let in (`modelkit.problems.serving.annealing`), from
   the best of the grid.
3. More: *tuning* of the gate's patience, which may differ between stretches of time, valued by whole runs; then
   annealing in windows of time, one after the other, whose moves are valued at a horizon beyond the window, where what
   is unfinished counts as going on at the mean pace. A window is kept if the whole plan gains.

The judge replays what is published; nothing here is believed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelkit.clock import LinearClock
from modelkit.errors import InterruptedWith, UsageError
from modelkit.instance import Instance
from modelkit.judge.rules import Stay
from modelkit.problems.problem import MAKESPAN_MS, TOTAL_LATENCY_MS, TOTAL_TTFT_MS
from modelkit.problems.serving.annealing import anneal, seed_generator
from modelkit.problems.serving.plan_kernel import Costs, Requests, Rule, Scratch, copy_state, empty_state, run_plan
from modelkit.runtime.deadline import Deadline
from modelkit.schedule import Admission, Schedule, Segment

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Gates tried: patience, 0 for none. Misfits of a scan. Limits of the batch, as a share of the most in progress.
PATIENCE = (0.0, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0)
MISFITS = (1, 4)
BATCHES = (1.0, 0.75, 0.5)
#: Requests that are annealed together; of a window, those that are moved.
WINDOW, MOVED = 1000, 200
#: First temperature, as a share of the mean latency; the last is this share of the first.
HEAT, COOLED = 0.015, 0.003
#: Moves for each request without a time limit; moves between two looks at the clock, by requests.
EFFORT, BREATH = 1000, 4_000_000
#: Share of the time for tuning the gate where requests are many, and stretches of time with a patience each.
TUNED, STRETCHES = 0.6, 30
#: How far beyond a window its moves are valued, in mean latencies.
BEYOND = 1.0
#: What a ms of work left at the horizon costs, in requests in progress there.
PRICE = 2.0


@dataclass(frozen=True, eq=False)
class Plan:
    """Releases [ms] and ranks of all requests, what an iteration may hold, and the total of the completions [ms]."""

    release: Floats
    rank: Ints
    rule: Rule
    total: float


def search_refusal(instance: Instance) -> str | None:
    """Why no plan serves an instance, or None: plans process each prompt whole."""
    clock = instance.server.clock
    largest = clock.largest_prefill if isinstance(clock, LinearClock) else None
    if largest is None or int(instance.arrays.prompt.max()) <= largest:
        return None
    return f"has prompts of more than {largest} tokens, the most that a prefill level holds"


class Server:
    """An instance as the kernels see it: requests in the order of arrival, times in ms.

    ``metric`` says what `run` returns: the sum of the completions with ``total_latency_ms``, that of the first tokens
    with ``total_ttft_ms``, and the last completion with ``makespan_ms``.
    """

    def __init__(self, instance: Instance, metric: str = TOTAL_LATENCY_MS) -> None:
        self.metric = metric
        clock, arrays = instance.server.clock, instance.arrays
        assert isinstance(clock, LinearClock)
        self.instance = instance
        self.by_arrival = np.argsort(arrays.arrival, kind="stable")
        arrival, prompt, output = (
            column[self.by_arrival] for column in (arrays.arrival * 1000.0, arrays.prompt, arrays.output)
        )
        self.requests = Requests(arrival, prompt, output)
        levels = sorted(clock.prefill_levels or ())
        self.costs = Costs(
            clock.base_ms, clock.prefill_ms(0) - clock.base_ms, clock.prefill_per_token_ms, clock.decode_base_ms,
            clock.decode_per_request_ms, clock.decode_per_kv_token_ms, not clock.mixed,
            np.array([tokens for tokens, _ in levels], np.int64), np.array([ms for _, ms in levels], np.float64),
        )  # fmt: skip
        capacity, slots = instance.server.kv_capacity_tokens, instance.server.slots
        prompts = clock.largest_prefill or int(prompt.sum())
        most = -1 if capacity is None else capacity
        self.rule = Rule(most, prompts, slots or len(arrival), 1, np.zeros(1), arrival[0], math.inf, 0.0)
        #: Whether all requests together do not fit the memory.
        self.tight = 0 <= self.rule.capacity < int((prompt + output).sum())
        self.first, self.start = np.full(len(arrival), -1, np.int64), np.zeros(len(arrival))
        self.scratch = Scratch(np.zeros(len(arrival), np.int64), np.zeros(max(MISFITS), np.int64))
        self.begin, self.state = (empty_state(int(output.max())) for _ in range(2))

    def run(self, plan: Plan) -> float:
        """The value [ms] of a plan by the metric; fills ``first`` and ``start``."""
        copy_state(empty_state(int(self.requests.output.max())), self.state)
        order = np.argsort(plan.release, kind="stable")
        total = run_plan(
            self.requests, order, plan.release, plan.rank, self.costs, plan.rule, self.state, self.scratch, math.inf,
            0.0, 0.0, self.first, self.start,
        )  # fmt: skip
        ended, first_tokens = self.state.now
        return float({TOTAL_LATENCY_MS: total, TOTAL_TTFT_MS: first_tokens, MAKESPAN_MS: ended}[self.metric])

    def orders(self) -> Iterator[Ints]:
        """Ranks by effective work, arrival, volume and output."""
        arrival, prompt, output = self.requests
        costs, capacity = self.costs, self.rule.capacity
        volume = prompt * (output - 1) + output * (output + 1) // 2 - 1
        work = (
            costs.prefill_per_token * prompt
            + costs.decode_per_request * (output - 1)
            + (costs.decode_per_kv_token + (costs.decode_base / capacity if capacity > 0 else 0.0)) * volume
        )
        for key in (work, arrival, volume, output):
            rank = np.empty(len(arrival), np.int64)
            rank[np.lexsort((arrival, key))] = np.arange(len(arrival))
            yield rank

    def plan_of(self, stays: Sequence[Stay]) -> Plan:
        """The plan that releases each request when its last stay began."""
        begun = np.zeros(len(self.by_arrival))
        for stay in stays:
            begun[stay.request] = stay.begin
        release = np.maximum(begun[self.by_arrival] - 1e-3, self.requests.arrival)
        rank = np.empty(len(release), np.int64)
        rank[np.argsort(release, kind="stable")] = np.arange(len(release))
        rule = self.rule._replace(misfits=max(MISFITS), gated_from=math.inf)
        return Plan(release, rank, rule, self.run(Plan(release, rank, rule, 0.0)))

    def schedule(self, plan: Plan) -> Schedule:
        """The plan as a schedule of the instance."""
        self.run(plan)
        names = [self.instance.requests[i].id for i in self.by_arrival]
        begins: dict[int, list[int]] = {}
        for i in np.argsort(self.first, kind="stable").tolist():
            begins.setdefault(int(self.first[i]), []).append(i)
        rounds = sorted(begins)
        last = int((self.first + self.requests.output).max())
        segments = []
        for k, following in zip(rounds, [*rounds[1:], last], strict=True):
            admitted = begins[k]
            at = float(self.start[admitted[0]]) / 1000
            segments.append(Segment(at, tuple(Admission(names[i]) for i in admitted), (), following - k))
        return Schedule(tuple(segments))


def search_schedule(
    instance: Instance,
    *,
    deadline: Deadline | None = None,
    seed: int = 0,
    begin: Sequence[Stay] | None = None,
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
    server: Server, deadline: Deadline, seed: int, begin: Sequence[Stay], annealing: bool
) -> Iterator[Plan]:
    """Plans as they are found, the best of them somewhere; the first at once."""
    best: Plan | None = None
    for plan in grid_plans(server, deadline):
        if best is None or plan.total < best.total:
            best = plan
            yield best
    assert best is not None
    latency = best.total - server.requests.arrival.sum()
    if not annealing or latency <= 0:  # nothing to gain
        return
    seed_generator(seed)
    if len(best.rank) <= WINDOW:
        best = started(server, best)
        if begin:
            given = server.plan_of(begin)
            best = min(best, given, key=lambda plan: plan.total)
            yield best
        yield from annealed(server, best, deadline)
    else:
        for tuned_plan in tuned(server, best, deadline.share(TUNED), seed):
            best = tuned_plan
            yield best
        yield from annealed_windows(server, best, deadline)


def grid_plans(server: Server, deadline: Deadline) -> Iterator[Plan]:
    """List schedules with gates: every order, number of misfits, patience and limit of the batch that can differ."""
    release = server.requests.arrival
    most = 0
    for share in BATCHES:
        batch = server.rule.batch if share == 1 else max(1, int(share * most))
        bound = server.tight or batch < len(release)
        for rank in server.orders() if bound else [np.arange(len(release))]:
            for misfits in MISFITS if bound else MISFITS[:1]:
                for patience in PATIENCE:
                    rule = server.rule._replace(batch=batch, misfits=misfits, patience=np.array([patience]))
                    plan = Plan(release, rank, rule, 0.0)
                    plan = Plan(release, rank, rule, server.run(plan))
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
    """The same schedule without a gate: everybody is released when it started."""
    server.run(plan)
    again = Plan(
        np.maximum(server.start, server.requests.arrival), plan.rank, plan.rule._replace(gated_from=math.inf), 0.0
    )
    return Plan(again.release, again.rank, again.rule, server.run(again))


def annealed(server: Server, plan: Plan, deadline: Deadline) -> Iterator[Plan]:
    """Anneal all requests together until the deadline."""
    n = len(plan.rank)
    hot = HEAT * (plan.total - server.requests.arrival.sum()) / n
    order, release, rank = np.argsort(plan.release, kind="stable"), plan.release.copy(), plan.rank.copy()
    best_release, best_rank = release.copy(), rank.copy()
    server.begin = empty_state(int(server.requests.output.max()))
    current = best = plan.total
    whole, begun = deadline.left, EFFORT * n
    moves, done = max(1, BREATH // (n * 20)), 0
    while not deadline.over and done < begun:
        share = 1 - deadline.left / whole if deadline.finite else done / begun
        heat = hot * (1 - share) + hot * COOLED
        current, found = anneal(
            server.requests, order, release, rank, server.costs, plan.rule, server.begin, server.state,
            server.scratch, math.inf, 0.0, 0.0, server.first, server.start, n, moves, heat, heat, current, best,
            best_release, best_rank,
        )  # fmt: skip
        done += 0 if deadline.finite else moves
        if found < best:
            best = found
            yield Plan(best_release.copy(), best_rank.copy(), plan.rule, best)


def tuned(server: Server, plan: Plan, deadline: Deadline, seed: int) -> Iterator[Plan]:
    """Change the gate's patience in single stretches of time, and keep what gains.

    What letting somebody in costs grows with the load to come, so the best patience changes with time.
    """
    rng = np.random.default_rng(seed)
    arrival = server.requests.arrival
    stretch = max(1.0, float(arrival[-1] - arrival[0])) / STRETCHES
    rule = plan.rule._replace(patience=np.full(STRETCHES, plan.rule.patience[0]), stretch=stretch)
    tries = 0
    while not deadline.over and (deadline.finite or tries < 4 * STRETCHES):
        tries += 1
        patience = rule.patience.copy()
        begin = int(rng.integers(STRETCHES))
        end = begin + 1 + int(rng.integers(STRETCHES)) // 4
        patience[begin:end] = np.maximum(0.1, patience[begin:end]) * float(np.exp(rng.normal(0.0, 0.5)))
        changed = rule._replace(patience=patience)
        total = server.run(Plan(plan.release, plan.rank, changed, 0.0))
        if total < plan.total:
            rule = changed
            plan = Plan(plan.release, plan.rank, rule, total)
            yield plan


def annealed_windows(server: Server, plan: Plan, deadline: Deadline) -> Iterator[Plan]:
    """Anneal windows of `MOVED` requests one after the other in time; what comes after a window is left to the gate.

    A window is kept if the whole plan gains by it.
    """
    requests = server.requests
    latency = (plan.total - requests.arrival.sum()) / len(plan.rank)
    copy_state(empty_state(int(requests.output.max())), server.begin)
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
        found = anneal_window(server, plan, rest, free, gated_from + BEYOND * latency, HEAT * latency, until)
        if found.total < plan.total:
            plan = found
            yield plan
        settled = rest[np.argsort(plan.release[rest], kind="stable")]
        soonest = np.maximum(plan.release[settled], server.begin.now[0])
        half = past_ties(soonest, free // 2 if free < len(rest) else free)
        reached = float(soonest[half]) if half < len(rest) else math.inf
        server.first[rest] = -1
        run_plan(
            requests, settled[:half], plan.release, plan.rank, server.costs, rule, server.begin, server.scratch,
            reached, 0.0, 0.0, server.first, server.start,
        )  # fmt: skip
        rest = rest[server.first[rest] < 0]
        window += 1


def past_ties(times: Floats, place: int) -> int:
    """A place in ascending times, moved on to the first later one where all up to it are the same."""
    if place < len(times) and times[place] == times[0]:
        return int(np.searchsorted(times, times[0], side="right"))
    return place


def anneal_window(
    server: Server, plan: Plan, rest: Ints, free: int, horizon: float, hot: float, deadline: Deadline
) -> Plan:
    """Anneal the first ``free`` of the rest until the horizon, from the state ``server.begin``."""
    requests, costs, rule = server.requests, server.costs, plan.rule
    begin, state, scratch = server.begin, server.state, server.scratch
    order = rest[: max(free, int(np.searchsorted(plan.release[rest], horizon, side="right")))].copy()
    horizon = horizon if len(order) < len(rest) else math.inf
    release, rank = plan.release.copy(), plan.rank.copy()

    def run(pace: float, price: float) -> float:
        copy_state(begin, state)
        return float(run_plan(
            requests, order, release, rank, costs, rule, state, scratch, horizon, pace, price, server.first,
            server.start,
        ))  # fmt: skip

    run(0.0, 0.0)
    pace = float((state.now[0] - begin.now[0]) / max(1, state.sums[2] - begin.sums[2]))
    price = PRICE * float(state.sums[0]) if math.isfinite(horizon) else 0.0
    current = best = run(pace, price)
    best_release, best_rank = release.copy(), rank.copy()
    whole, done, enough = deadline.left, 0, EFFORT * free
    moves = max(1, BREATH // (len(order) * 40))
    while not deadline.over and done < enough:
        share = 1 - deadline.left / whole if deadline.finite else done / enough
        heat = hot * (1 - share) + hot * COOLED
        current, best = anneal(
            requests, order, release, rank, costs, rule, begin, state, scratch, horizon, pace, price, server.first,
            server.start, free, moves, heat, heat, current, best, best_release, best_rank,
        )  # fmt: skip
        done += 0 if deadline.finite else moves
    found = Plan(best_release, best_rank, rule, 0.0)
    return Plan(best_release, best_rank, rule, server.run(found))
