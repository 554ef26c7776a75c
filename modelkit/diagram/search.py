"""The search for a proven optimum: cliques, multipliers, a relaxed diagram, an exact one within it.

1. *Cliques.* The linear program with conflict cliques gives prices and a first bound.
2. *Multipliers.* "Each request starts once" is relaxed with a multiplier for each request; the memory is kept exactly,
   as the states of a decision diagram. On a narrow part of it (a beam) subgradients find multipliers.
3. *Diagram.* At these multipliers the whole relaxed diagram of all schedules up to a limit is made. Its cheapest path
   is a lower bound, usually within 1 % where that of the cliques is 5 to 10 % away, and most of it can be pruned.
4. *Refinement.* Within what is left, who has started is remembered too: a path is a schedule then. When none is left,
   no schedule is within the limit.

The limit begins below the schedule known or, if that is far, where the multipliers say the optimum is. When that was
too low, the bound is limit + 1 and it is raised; when a diagram is too wide it is lowered, which proves limit + 1 too.
A good schedule at the beginning spares most of the work, hence large neighbourhood search comes first.

Related: Ibaraki and Nakamura, successive sublimation dynamic programming (Management Science 40, 1994), Tanaka,
Fujikuma and Araki (Journal of Scheduling 12, 2009) for one machine; Bergman, Cire, van Hoeve and Hooker,
Decision Diagrams for Optimization (2016) for relaxed diagrams.

Every bound is exact: prices and multipliers are whole multiples of 1 / SCALE, sums of them are 64-bit integers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from modelkit.bounds import start_windows
from modelkit.cuts import Floats, Ints
from modelkit.diagram import kernels
from modelkit.diagram.cliques import SCALE, CliqueProgram
from modelkit.diagram.graph import MOST_REQUESTS, Diagram, Reversed, TooWideError, first_diagram, refined
from modelkit.improve import latency, listed, searched
from modelkit.instance import Instance
from modelkit.neighbourhoods import windows_searched

#: The stages of large neighbourhood search, and the share of the time for the first.
NEIGHBOURHOODS, NEIGHBOURHOODS_SHARE = "exact neighbourhoods", 0.06
#: Longest output that a profile holds [round], most starts that the linear program takes.
MOST_OUTPUT, MOST_STARTS = 128, 60_000
#: Share of the time for the cliques, and with more than LARGE requests.
CLIQUES_SHARE, LARGE, LARGE_SHARE = 0.25, 24, 0.7
#: Gap above which no diagram of so many requests gets anywhere in minutes.
WIDE_GAP = 0.1
#: Widths of the beams for multipliers, tried in turn while there is time, and of the beam for schedules.
BEAMS, SCHEDULES_BEAM = (3000, 10_000, 30_000), 1000
#: Limits that may turn out too high to look through before better multipliers are sought.
FAILURES = 2
#: Share of the schedule known from which on what multipliers make one expect is close to it.
CLOSE = 0.985
#: Iterations of subgradients, and of those between two prunings.
ITERATIONS, PRUNING = 150, 10
#: Seconds of local search from a path.
LOCAL = 0.5


def refusal(instance: Instance) -> str | None:
    """Why the search does not take the instance, or None."""
    if not instance.is_unit or instance.server.slots is not None or instance.server.kv_capacity_tokens is None:
        return "needs the unit clock, a KV capacity and no slots"
    if len(instance.requests) > MOST_REQUESTS:
        return f"takes at most {MOST_REQUESTS} requests; found {len(instance.requests)}"
    longest = int(instance.arrays.output.max())
    if longest > MOST_OUTPUT:
        return f"takes outputs of at most {MOST_OUTPUT} tokens; found {longest}"
    if instance.server.kv_capacity_tokens >= 1 << 16:
        return f"takes a KV capacity below 65,536 tokens; found {instance.server.kv_capacity_tokens:,}"
    return None


@dataclass(frozen=True)
class Progress:
    """Where the search stands after a stage.

    Parameters
    ----------
    name
        Of the stage.
    seconds
        That it took.
    value, bound
        Total latency of the best schedule, and the best bound on it [round].
    note
        What it did.
    """

    name: str
    seconds: float
    value: int
    bound: int
    note: str


@dataclass
class Search:
    """One search; whenever it is interrupted, ``starts`` and ``bound`` hold what is known.

    Parameters
    ----------
    instance
        One that ``refusal`` does not refuse.
    starts
        Of a known schedule, shape [n].
    deadline
        On the clock of ``time.perf_counter``; infinite for none.
    gap
        Gap (value - bound) / value at which to stop.
    listen
        Called after each stage.
    """

    instance: Instance
    starts: Ints
    deadline: float = math.inf
    gap: float = 0.0
    listen: Callable[[Progress], None] = lambda progress: None
    bound: int = 0
    stages: list[Progress] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bound = max(self.bound, int(self.instance.arrays.output.sum()))
        self._began = time.perf_counter()

    @property
    def value(self) -> int:
        """Total latency of the best schedule known [round]."""
        return latency(self.instance, self.starts)

    @property
    def proven(self) -> bool:
        """Whether the gap asked for is reached."""
        return self.value - self.bound <= self.gap * self.value

    @property
    def late(self) -> bool:
        return time.perf_counter() >= self.deadline

    def run(self) -> None:
        """Search until the optimum is proven or the time is over."""
        if self.proven:
            return
        if math.isfinite(self.deadline):
            self._neighbourhoods(NEIGHBOURHOODS_SHARE)
        windows = start_windows(self.instance)
        many = sum(map(len, windows))
        self._done("start windows", f"{many:,} starts")
        if many > MOST_STARTS:
            self._done("cliques", "not tried: too many starts")
            return
        left = self.deadline - time.perf_counter()
        large = len(self.starts) > LARGE
        share = LARGE_SHARE if large else CLIQUES_SHARE
        clique_deadline = time.perf_counter() + share * left if math.isfinite(left) else self.deadline
        known = CliqueProgram(self.instance, windows).solved(clique_deadline, self.value)
        self._prove(known.bound)
        self._done("cliques", f"{known.cuts} conflict cliques with a price")
        if self.proven:
            return
        if large and math.isfinite(left) and self.value - self.bound > WIDE_GAP * self.value:
            self._neighbourhoods(1.0)
            return
        problem = Reversed.of(self.instance, known)
        if problem.most_multiplier < SCALE * self.value:
            self._done("multipliers", "not tried: sums of costs might not fit 64 bits")
            return
        multipliers = np.clip(known.multipliers, -problem.most_multiplier, problem.most_multiplier)
        for beam in BEAMS:
            try:
                multipliers, guess = self._multipliers(problem, multipliers, beam)
            except TooWideError:
                self._done("multipliers", f"beam of {beam:,}: too wide, or out of time")
                break
            self._limits(problem, multipliers, guess)
            if self.proven or self.late:
                return
        if math.isfinite(left):
            self._neighbourhoods(0.5)

    def _limits(self, problem: Reversed, multipliers: Ints, guess: int) -> None:
        """Prove limit after limit: up to the schedule known, or to what the multipliers make one expect.

        What a diagram leaves serves for all lower limits too. Its refinement is first tried half way from the bound:
        that costs little beside the whole way, and what it proves is kept if the whole way is too far.
        """
        known, most, too_high, failures = None, 0, self.value, 0
        limit = self.value - 1 if guess > CLOSE * self.value else max(self.bound, guess)
        half_way = True
        while not self.proven and not self.late and failures < FAILURES:
            try:
                if known is None or limit > most:
                    known, multipliers = self._diagram(problem, multipliers, limit)
                    most = limit
                if half_way and known.nodes and self.bound < limit:
                    limit = (self.bound + limit) // 2
                half_way = False
                self._refine(known, problem, multipliers, limit)
            except TooWideError:
                self._done("refinement", f"limit {limit}: too wide, or out of time")
                too_high = min(too_high, limit)
                failures += 1
            if self.bound >= min(too_high, self.value):
                return
            # a limit that was too high to look through leaves lower ones to try; else what the diagram holds
            limit = self.value - 1 if self.bound > most else min(most, self.value - 1)
            if too_high < self.value:
                limit = (self.bound + too_high) // 2

    def _multipliers(self, problem: Reversed, multipliers: Ints, width: int) -> tuple[Ints, int]:
        """Multipliers from a beam, and what they say the optimum is."""
        limit = (self.value - 1) * SCALE
        beam = first_diagram(problem, multipliers, limit, self.deadline, beam=width)
        multipliers, value, left = self._ascended(beam, problem, multipliers, limit)
        self._schedules(left, problem, multipliers, limit)
        guess = self.value - 1 if value is None else math.ceil(value / SCALE)
        self._done("multipliers", f"beam of {width:,} says {guess}")
        return multipliers, guess

    def _diagram(self, problem: Reversed, multipliers: Ints, limit: int) -> tuple[Diagram, Ints]:
        """What is left of the relaxed diagram of all schedules up to a limit, and the multipliers that left it."""
        scaled = limit * SCALE
        diagram = first_diagram(problem, multipliers, scaled, self.deadline)
        note = f"limit {limit}: {diagram.nodes:,} nodes, at most {diagram.widest:,} a layer"
        multipliers, value, left = self._ascended(diagram, problem, multipliers, scaled)
        self._prove(min(scaled + 1, value if value is not None else scaled + 1))
        self._done("diagram", f"{note}; {left.nodes:,} left")
        self._schedules(left, problem, multipliers, scaled)
        return left, multipliers

    def _refine(self, diagram: Diagram, problem: Reversed, multipliers: Ints, limit: int) -> None:
        """Look through all schedules of a diagram up to a limit; the best is kept."""
        scaled = min(limit, self.value - 1) * SCALE
        if diagram.nodes:
            set_cost = diagram.set_cost(problem, multipliers)
            diagram = diagram.pruned(set_cost, diagram.costs_to_go(set_cost), scaled - int(multipliers.sum()))
        if diagram.nodes:
            self._keep(refined(diagram, problem, multipliers, scaled, self.deadline), problem, multipliers)
        self.bound = max(self.bound, min(limit + 1, self.value))
        self._done("refinement", f"none better within {limit}")

    def _schedules(self, diagram: Diagram, problem: Reversed, multipliers: Ints, limit: int) -> None:
        """Look for schedules with a narrow refinement."""
        if diagram.nodes:
            limit = min(limit, (self.value - 1) * SCALE)
            found = refined(diagram, problem, multipliers, limit, self.deadline, beam=SCHEDULES_BEAM)
            self._keep(found, problem, multipliers)

    def _keep(self, diagram: Diagram, problem: Reversed, multipliers: Ints) -> None:
        """Keep the cheapest path of a diagram that knows who has started, if it has a path."""
        set_cost = diagram.set_cost(problem, multipliers)
        to_go = diagram.costs_to_go(set_cost)
        if to_go[0] < kernels.NEVER:
            _, layers = diagram.cheapest_path(set_cost, to_go, len(multipliers))
            self._offer(problem.starts(layers))

    def _offer(self, starts: Ints) -> None:
        if latency(self.instance, starts) < self.value:
            self.starts = starts

    def _ascended(
        self, diagram: Diagram, problem: Reversed, multipliers: Ints, limit: int
    ) -> tuple[Ints, int | None, Diagram]:
        """Subgradients with Polyak's step; the best multipliers, their value (None: no path), what is left.

        Paths above the limit are pruned on the way, each by multipliers at which it is above.
        """
        best, best_multipliers, value = -kernels.NEVER, multipliers, None
        share, stale = 1.0, 0
        before: Floats = np.zeros(len(multipliers))
        for iteration in range(ITERATIONS):
            set_cost = diagram.set_cost(problem, multipliers)
            to_go = diagram.costs_to_go(set_cost)
            if to_go[0] >= kernels.NEVER:
                return multipliers, None, diagram.pruned(set_cost, to_go, -1)
            total = int(multipliers.sum())
            value = total + int(to_go[0])
            stale = 0 if value > best + SCALE // 50 else stale + 1
            if value > best:
                best, best_multipliers = value, multipliers
            if iteration % PRUNING == PRUNING - 1 or value > limit:
                diagram = diagram.pruned(set_cost, to_go, limit - total)
                if diagram.nodes == 0:
                    return multipliers, None, diagram
                to_go = diagram.costs_to_go(set_cost)
            if share < 0.02 or time.perf_counter() > self.deadline:
                break
            if stale >= 6:
                share, stale, multipliers = share / 2, 0, best_multipliers
                continue
            times, layers = diagram.cheapest_path(set_cost, to_go, len(multipliers))
            if iteration % 25 == 0:
                self._improve(problem.starts(layers), times)
            if (times == 1).all():
                break
            direction = 1.0 - times.astype(np.float64) + 0.3 * before
            length = float(direction @ direction)
            if length < 0.1:
                direction = 1.0 - times.astype(np.float64)
                length = float(direction @ direction)
            before = direction
            step = share * max(limit + SCALE - value, SCALE // 4) / length
            moved = multipliers + np.rint(step * direction).astype(np.int64)
            multipliers = np.clip(moved, -problem.most_multiplier, problem.most_multiplier)
        set_cost = diagram.set_cost(problem, best_multipliers)
        to_go = diagram.costs_to_go(set_cost)
        return best_multipliers, best, diagram.pruned(set_cost, to_go, limit - int(best_multipliers.sum()))

    def _neighbourhoods(self, share: float) -> None:
        """Large neighbourhood search for a share of the time that is left."""
        left = share * (self.deadline - time.perf_counter())
        if left > 0:
            found = windows_searched(self.instance, self.starts, effort=None, time_limit=left, target=self.bound)
            self._offer(found)
            self._done(NEIGHBOURHOODS, "windows of requests started again at their best")

    def _improve(self, starts: Ints, times: Ints) -> None:
        """List the requests as a path starts them, and search locally from there."""
        key = np.where(times > 0, starts, starts.max() + self.instance.arrays.output)
        left = min(LOCAL, self.deadline - time.perf_counter())
        if left > 0:
            self._offer(
                searched(self.instance, listed(self.instance, key), effort=2e7, time_limit=left, target=self.bound)
            )

    def _prove(self, bound: int) -> None:
        """Raise the bound, which comes in units of 1 / SCALE."""
        self.bound = max(self.bound, min(-(-bound // SCALE), self.value))

    def _done(self, name: str, note: str) -> None:
        now = time.perf_counter()
        self.stages.append(Progress(name, now - self._began, self.value, self.bound, note))
        self._began = now
        self.listen(self.stages[-1])
