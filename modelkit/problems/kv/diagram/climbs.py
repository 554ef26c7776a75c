"""Climbs: proofs that no schedule is within a limit, or a schedule that is, by diagrams that know more and more.

Of the partitions only what is on paths up to a limit is kept. It is made finer again and again, each time with the best
multipliers, and what is above the limit is pruned: first the floor is lowered until all that is held is known; then
more requests are remembered, of those that paths most often start twice or not at all. When nothing is left, no
schedule is within the limit. When all requests are remembered, paths are schedules, and the cheapest is optimal.

Where a step would take too much of the time left, or of the memory, the limit is lowered, so that every climb ends and
gives a bound.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from modelkit.problems.kv.diagram import schedules
from modelkit.problems.kv.diagram.builder import TooWideError, first_diagram, refine
from modelkit.problems.kv.diagram.columns import Ascent, Column, Relaxation
from modelkit.problems.kv.diagram.diagram import MOST_REQUESTS, SCALE, Diagram, Floats, Ints, Reversed, WithinLimit
from modelkit.problems.kv.diagram.partitions import PartitionBound

#: Arcs that are made finer, at most, and arcs that always may be.
MOST_KEPT, LEAST_KEPT = 8_000_000, 5_000
#: Arcs up to which requests are remembered 2, 3 and 5 at a time, and then all.
SEVERAL = ((300_000, 2), (100_000, 3), (30_000, 5), (5_000, MOST_REQUESTS))
#: A step may take the time left by this, and one for this many requests to remember, or fewer arcs are kept.
AHEAD, FOR_EACH = 3, 4
#: Widths of beams within a diagram, the first and at most, how much wider the next is, and share of the time for one.
BEAM, MOST_BEAM, WIDER, BEAM_SHARE = 500, 30_000, 2, 0.015
#: Share of the way to the limit that may be missing to the best multipliers of a diagram.
SLACK = 0.01
#: Steps of subgradients where no columns are known.
STEPS = 20
#: Looks at the paths of a diagram that an ascent is expected to take: as a share of those of the partitions, and where
#: an earlier climb has left its columns.
LOOKS_SHARE, LOOKS_KNOWN = 0.6, 40
#: Seconds that a look at an arc takes, before it is known.
LOOK = 7e-9


class Known(schedules.Known, Protocol):
    """What is known of the optimum, which climbs add to."""

    def prove(self, bound: int) -> None:
        """Raise the bound, which comes in units of 1 / SCALE."""

    def ascend(
        self,
        relaxation: Relaxation,
        multipliers: Ints,
        problem: Reversed,
        until: float,
        *,
        target: int,
        steps: int,
        columns: Sequence[Column],
        slack: float,
    ) -> Ascent:
        """The best multipliers, or some that show the relaxation to be above the target [round]."""


class Climbs:
    """Climbs from partitions; each has the columns of those before.

    Parameters
    ----------
    root
        The partitions.
    found
        Their best multipliers.
    """

    def __init__(self, known: Known, root: PartitionBound, found: Ascent) -> None:
        self.known, self.root, self.multipliers = known, root, root.free(found.multipliers)
        self.columns = {root.floor: found.columns}  # of each floor
        self.looks = max(LOOKS_KNOWN, int(LOOKS_SHARE * found.steps))

    def climb(self, states: int, ends: float) -> Climb:
        """Climb to a limit that leaves at most about so many states of the partitions.

        Parameters
        ----------
        ends
            On the clock of ``time.perf_counter``. As it comes closer fewer arcs are kept.
        """
        made = Climb(self, self.root.find_limit(self.multipliers, self.known.bound, self.known.value - 1, states), ends)
        made.run()
        return made


class _Pace(NamedTuple):
    """How long a step took: seconds to make a diagram, and of each look at its paths; its arcs, and those before."""

    making: float
    looking: float
    arcs: int
    older: int

    def arcs_within(self, seconds: float, looks: int) -> int:
        """Arcs to keep for a next step that takes so long, if it goes as this one did."""
        growth = max(1.0, self.arcs / self.older) if self.older else 1.0
        return int(seconds / (self.making + looks * self.looking) * self.arcs / growth)


class Climb:
    """One climb.

    Attributes
    ----------
    limit
        No schedule above it is sought [round]; lowered on the way.
    remembered
        Requests of which it is known whether they have started.
    note
        What kept it from its end.
    crowded
        Whether its first diagram had more than there was room or time for: more of the partitions are of no use.
    """

    def __init__(self, climbs: Climbs, limit: int, ends: float) -> None:
        self.climbs, self.known, self.root = climbs, climbs.known, climbs.root
        self.multipliers, self.limit, self.ends = climbs.multipliers, limit, ends
        self.exact = self.root.problem
        self.floor = self._below(self.root.floor)
        self.remembered: list[int] = []
        self.note = ""
        self.crowded = False
        self.width, self.takes = BEAM, 0.0  # of the next beam, and seconds that it may take

    def __str__(self) -> str:
        return f"limit {self.limit}, {len(self.remembered)} of {len(self.multipliers)} requests remembered{self.note}"

    @property
    def problem(self) -> Reversed:
        """With what is known of the memory so far."""
        return self.exact.forget_below(self.floor)

    def run(self) -> None:
        """Climb until nothing is left, or paths are schedules."""
        known, older = self.known, 0
        columns, known_columns = self.climbs.columns.get(self.floor, []), self.climbs.columns
        began = time.perf_counter()
        diagram = self._make(None)
        if diagram is not None and math.isfinite(self.ends):
            seconds = max(0.0, self.ends - time.perf_counter()) / AHEAD
            most = max(LEAST_KEPT, int(seconds / (self._looks(columns) * LOOK)))
            if diagram.arcs > most:
                self.crowded, diagram = True, self._keep_arcs(diagram, most)
        while diagram is not None and not known.proven:
            if diagram.exact:
                self._offer(diagram)
                known.prove((self.limit + 1) * SCALE)
                return
            made = time.perf_counter()
            found, left = self._ascend(diagram, columns)
            if not left.nodes:
                known.prove((self.limit + 1) * SCALE)
                return
            pace = _Pace(made - began, (time.perf_counter() - made) / found.steps, diagram.arcs, older)
            self.multipliers = found.multipliers
            self._beam(left)
            if known.proven:
                return
            if not self.remembered:
                known_columns[self.floor] = found.columns
            if (lower := self._below(self.floor)) < self.floor:
                self.floor, columns = lower, known_columns.get(lower, [])
                left = self._keep_arcs(left, self._most_arcs(pace, self._looks(columns), AHEAD))
            else:
                ahead = AHEAD + (len(found.misses) - len(self.remembered)) / FOR_EACH
                left = self._keep_arcs(left, self._most_arcs(pace, self.climbs.looks, ahead))
                self._remember(left.arcs, found.misses)
                columns = [column for column in found.columns if (column.times[self.remembered] == 1).all()]
            began, older = time.perf_counter(), left.arcs
            diagram = self._make(left)

    def _looks(self, columns: list[Column]) -> int:
        """How many looks an ascent from these columns is expected to take."""
        return LOOKS_KNOWN if columns else self.climbs.looks

    def _below(self, floor: int) -> int:
        """The next floor."""
        return max(int(self.exact.prompt.min()), min(floor - 1, floor * 4 // 5))

    def _make(self, older: Diagram | None) -> Diagram | None:
        """The diagram that knows more, with a lower limit if need be; None where there is no time, or nothing left."""
        ends = self.ends
        while time.perf_counter() < ends:
            if older is not None and not older.nodes:
                self.known.prove((self.limit + 1) * SCALE)
                return None
            try:
                if older is None:
                    return first_diagram(self.problem, self.root, self.multipliers, self.limit * SCALE, ends)
                return refine(
                    older, self.problem, self.multipliers, self.limit * SCALE, ends, remembered=self.remembered
                )
            except TooWideError:
                if self.limit <= self.known.bound:
                    break
                if older is None:
                    self.crowded = True
                    self.limit = (self.limit + self.known.bound) // 2
                else:
                    older = self._keep_arcs(older, older.arcs // 2)
        self.note = ": too wide, or out of time"
        return None

    def _ascend(self, diagram: Diagram, columns: list[Column]) -> tuple[Ascent, Diagram]:
        """The best multipliers for a diagram, and what they leave of it; it is pruned on the way."""
        within = WithinLimit(diagram, self.problem, self.limit)
        found = self.known.ascend(
            within, self.multipliers, self.problem, self.ends,
            target=self.limit, steps=1 if columns else STEPS, columns=columns, slack=SLACK,
        )  # fmt: skip
        return found, within.diagram.prune(self.problem, found.multipliers, self.limit)

    def _most_arcs(self, pace: _Pace, looks: int, ahead: float) -> int:
        """How many arcs may be kept for the next step, of so many looks, where so many steps alike are ahead."""
        if math.isinf(self.ends):
            return MOST_KEPT
        seconds = max(0.0, self.ends - time.perf_counter()) / ahead
        return min(MOST_KEPT, max(LEAST_KEPT, pace.arcs_within(seconds, looks)))

    def _keep_arcs(self, diagram: Diagram, most: int) -> Diagram:
        """Lower the limit until at most so many arcs are left."""
        most_limit = min(self.limit, self.known.value - 1)
        self.limit, left = diagram.find_limit(self.problem, self.multipliers, self.known.bound, most_limit, most)
        return left

    def _remember(self, arcs: int, misses: Floats) -> None:
        """Remember more requests: of those most often missed or repeated, those that take the most memory."""
        misses = misses.copy()
        misses[self.remembered] = -1
        order = np.lexsort((-self.exact.load.sum(axis=1), -misses))[: len(misses) - len(self.remembered)].tolist()
        self.remembered += order[: max((many for most, many in SEVERAL if arcs <= most), default=1)]

    def _beam(self, diagram: Diagram) -> None:
        """Look for a schedule among the best paths of a diagram, with as wide a beam as there is time for."""
        began = time.perf_counter()
        seconds = BEAM_SHARE * (self.ends - began)
        if self.takes > seconds:
            self.width, self.takes = max(BEAM, self.width // WIDER), self.takes / WIDER
            return
        with contextlib.suppress(TooWideError):
            beam = refine(
                diagram, self.exact, self.multipliers, self.limit * SCALE, self.ends,
                remembered=range(len(self.multipliers)), beam=self.width,
            )  # fmt: skip
            self._offer(beam)
        self.takes = time.perf_counter() - began
        if math.isfinite(seconds) and WIDER * self.takes < seconds and self.width < MOST_BEAM:
            self.width, self.takes = WIDER * self.width, WIDER * self.takes

    def _offer(self, diagram: Diagram) -> None:
        """Offer the cheapest path of a diagram whose paths are schedules, if it has a path."""
        path = diagram.evaluate(self.exact, self.multipliers)
        if path is not None and (path.times == 1).all():
            self.known.offer(self.exact.starts(path.layers))
