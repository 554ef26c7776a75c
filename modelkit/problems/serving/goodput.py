"""Prices that bound how many requests keep their service levels: a linear program over intervals, by cutting planes.

``modelkit.verify.serving_goodput`` states what an interval has room for and recomputes the bound from prices. Here the
program

    max sum x_i,   sum_i h_i(c) x_i <= R (v_c - u_c) for each charge and interval c,   0 <= x_i <= 1

is solved for a few intervals; for the x found a sweep over starts, latest first, finds for each start the end by which
most is charged beyond what fits, and those exceeded most are added. The duals are the prices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modelkit.certificate import CHARGES, Bound, Certificate, Goodput
from modelkit.errors import SolverError
from modelkit.instance import Instance, InstanceStamp
from modelkit.problems.problem import WITHIN_SLO
from modelkit.requests import ServiceLevels
from modelkit.runtime.deadline import Deadline
from modelkit.runtime.kernel import kernel
from modelkit.verify.serving_goodput import InTime, goodput_bound, in_time

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: An interval is added when it is exceeded by more than this share of its length.
EXCEEDED = 1e-6
#: Intervals added for each charge in a round; rounds; and starts of intervals that are looked at.
MOST_ADDED, MOST_ROUNDS, MOST_STARTS = 12, 200, 2000
#: Prices are written in units of 2^-PRECISION.
PRECISION = 60


class Interval(NamedTuple):
    """A charge and an interval [tick]."""

    charge: int
    begin: int
    end: int


@dataclass(frozen=True)
class GoodputPrices:
    """A proof, the bound that it gives as far as doubles tell, and what the program chooses.

    Parameters
    ----------
    chosen
        Share of each request that the program takes, in the order of the instance, shape [n].
    """

    proof: Goodput
    most: float
    chosen: Floats


def goodput_certificate(instance: Instance, prices: GoodputPrices, seconds: float | None = None) -> Certificate:
    """The certificate of a proof, recomputed exactly."""
    bound = goodput_bound(instance, prices.proof)
    return Certificate(
        instance=InstanceStamp.of(instance),
        kind="goodput",
        objective=WITHIN_SLO,
        bound=Bound(numerator=bound.numerator, denominator=bound.denominator),
        goodput=prices.proof,
        seconds=seconds,
    )


def goodput_prices(
    instance: Instance,
    slo: ServiceLevels | None = None,
    deadline: Deadline | None = None,
    listen: Callable[[float], None] = lambda most: None,
) -> GoodputPrices:
    """Prices on intervals that bound the requests within their levels, the best that there is time for.

    Parameters
    ----------
    slo
        Levels in place of the instance's own.
    listen
        Called with each lower bound on the requests outside their levels.

    Raises
    ------
    InputError
        The clock is not linear.
    """
    levels = slo or instance.server.slo
    assert levels is not None
    program = _Program(in_time(instance, levels), _useful_charges(instance), instance.server.replicas)
    n, best = len(instance.requests), program.proof(slo)
    most, chosen = float(len(program.requests)), program.chosen
    listen(n - most)
    for _ in range(MOST_ROUNDS):
        added = program.cut()
        if not added or (deadline is not None and deadline.over) or not program.solve(deadline):
            break
        value = program.value()
        if value < most:
            best, most, chosen = program.proof(slo), value, program.chosen
            listen(n - most)
    shares = np.zeros(n)
    shares[[one.request for one in program.requests]] = chosen
    return GoodputPrices(best, most, shares)


def _useful_charges(instance: Instance) -> list[int]:
    """The charges by limits that the server states; those by pace need one of them for the prompts alone."""
    server = instance.server
    has_slots = server.slots is not None and server.slots < len(instance.requests)
    named = {"slots", "pace-slots"} if has_slots else set()
    named |= {"memory", "pace-memory"} if server.kv_capacity_tokens is not None or not has_slots else set()
    return [k for k, name in enumerate(CHARGES) if name in named]


class _Program:
    """The linear program with the intervals that were found, and its solution."""

    def __init__(self, requests: list[InTime], charges: list[int], replicas: int) -> None:
        self.requests, self.charges, self.replicas = requests, charges, replicas
        self.chosen = np.ones(len(requests))
        self.intervals: list[Interval] = []
        self.prices: Floats = np.zeros(0)
        self.items = _Items.of(requests)
        self.start = np.array([one.start for one in requests], dtype=np.int64)
        never = np.iinfo(np.int64).max
        self.prompt_due, self.due = (
            np.array([never if at is None else at for at in dues], dtype=np.int64)
            for dues in ([r.prompt_due for r in requests], [r.due for r in requests])
        )
        self.prompt = np.array([one.prompt for one in requests], dtype=np.float64).reshape(-1, len(CHARGES))
        self.work = np.array([one.work for one in requests], dtype=np.float64).reshape(-1, len(CHARGES))
        self.solver: Any = None

    def charged(self, cut: Interval) -> Floats:
        """What an interval is charged for each request, shape [requests]."""
        inside = self.start >= cut.begin
        whole, prompt = inside & (self.due <= cut.end), inside & (self.prompt_due <= cut.end)
        return np.where(whole, self.work[:, cut.charge], np.where(prompt, self.prompt[:, cut.charge], 0.0))

    def cut(self) -> list[Interval]:
        """Add intervals that the solution exceeds."""
        known = set(self.intervals)
        found = [cut for charge in self.charges for cut in self.exceeded(charge) if cut not in known]
        if found:
            self.intervals += found
            self._add_rows(found)
        return found

    def exceeded(self, charge: int) -> Iterator[Interval]:
        """The intervals exceeded most, one for each of several groups of starts."""
        items = self.items
        if not len(items.request):
            return
        weight = self.chosen[items.request] * np.where(
            items.whole, self.work[items.request, charge] - self.prompt[items.request, charge],
            self.prompt[items.request, charge],
        )  # fmt: skip
        ends, excess = most_exceeded(
            items.starts, items.first, items.place, weight, items.ends, float(self.replicas), items.looked_at
        )
        length = np.maximum(1, items.ends[ends] - items.starts) * self.replicas
        candidates = np.flatnonzero(items.looked_at & (excess > EXCEEDED * length))
        for group in np.array_split(candidates, MOST_ADDED):
            if len(group):
                k = group[np.argmax(excess[group])]
                yield Interval(charge, int(items.starts[k]), int(items.ends[ends[k]]))

    def solve(self, deadline: Deadline | None) -> bool:
        """Solve the program; whether there is a solution."""
        from modelkit.backends.engine import is_optimal, run

        if deadline is not None and deadline.finite:
            self.solver.setOptionValue("time_limit", self.solver.getRunTime() + max(0.05, deadline.left))
        try:
            run(self.solver)
        except SolverError:
            return False
        if not is_optimal(self.solver):
            return False
        solution = self.solver.getSolution()
        self.chosen = np.clip(np.array(solution.col_value), 0.0, 1.0)
        lengths = np.array([max(1, cut.end - cut.begin) for cut in self.intervals])
        self.prices = np.maximum(0.0, -np.array(solution.row_dual)) / lengths
        return True

    def value(self) -> float:
        """What the prices prove, in doubles."""
        priced = [(cut, price) for cut, price in zip(self.intervals, self.prices, strict=False) if price > 0]
        paid = np.zeros(len(self.requests))
        for cut, price in priced:
            paid += price * self.charged(cut)
        room = sum(price * self.replicas * (cut.end - cut.begin) for cut, price in priced)
        return float(room + np.maximum(0.0, 1.0 - paid).sum())

    def _add_rows(self, cuts: list[Interval]) -> None:
        from modelkit.backends.engine import new_highs
        from modelkit.backends.standard_form import StandardForm

        n = len(self.requests)
        if self.solver is None:
            none = np.zeros(0)
            self.solver = new_highs(
                StandardForm(
                    -np.ones(n), 0.0, np.zeros(1, dtype=np.int32), np.zeros(0, dtype=np.int32), none, none, none,
                    np.zeros(n), np.ones(n), np.zeros(n, dtype=bool),
                ),
                threads=1,
            )  # fmt: skip
        rows = [self.charged(cut) / max(1, cut.end - cut.begin) for cut in cuts]
        members = [np.flatnonzero(row) for row in rows]
        begin = np.cumsum([0, *map(len, members)])
        self.solver.addRows(
            len(cuts), np.full(len(cuts), -np.inf), np.full(len(cuts), float(self.replicas)), int(begin[-1]),
            begin[:-1].astype(np.int32), np.concatenate(members).astype(np.int32),
            np.concatenate([row[m] for row, m in zip(rows, members, strict=True)]),
        )  # fmt: skip

    def proof(self, slo: ServiceLevels | None) -> Goodput:
        """The priced intervals."""
        numerators = [round(price * 2.0**PRECISION) for price in self.prices.tolist()]
        priced = [(cut, price) for cut, price in zip(self.intervals, numerators, strict=False) if price > 0]
        return Goodput(
            slo=slo,
            denominator=2**PRECISION,
            charge=[CHARGES[cut.charge] for cut, _ in priced],
            begin=[cut.begin for cut, _ in priced],
            end=[cut.end for cut, _ in priced],
            prices=[price for _, price in priced],
        )


@dataclass(frozen=True)
class _Items:
    """Parts of requests with windows: prompts, and what is left of the whole, by start, latest first.

    Parameters
    ----------
    starts
        Different starts, latest first, shape [m] [tick].
    first
        Where the items of each start begin, shape [m + 1].
    request, whole, place
        Of each item: its request, whether it is the rest of a whole, and the place of its end in ``ends``.
    ends
        Different ends, ascending [tick].
    looked_at
        Starts that intervals are looked for from: all, or many enough, shape [m].
    """

    starts: Ints
    first: Ints
    request: Ints
    whole: npt.NDArray[np.bool_]
    place: Ints
    ends: Ints
    looked_at: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, requests: list[InTime]) -> _Items:
        rows = [(one.start, one.prompt_due, k, False) for k, one in enumerate(requests) if one.prompt_due is not None]
        rows += [(one.start, one.due, k, True) for k, one in enumerate(requests) if one.due is not None]
        rows.sort(key=lambda row: -row[0])
        begin = np.array([row[0] for row in rows], dtype=np.int64)
        end = np.array([row[1] for row in rows], dtype=np.int64)
        ends, place = np.unique(end, return_inverse=True)
        starts, first = np.unique(-begin, return_index=True)
        looked_at = np.zeros(len(starts), dtype=bool)
        looked_at[np.unique(np.linspace(0, max(0, len(starts) - 1), MOST_STARTS).astype(np.int64))[: len(starts)]] = (
            True
        )
        return cls(
            -starts,
            np.append(first, len(rows)).astype(np.int64),
            np.array([row[2] for row in rows], dtype=np.int64),
            np.array([row[3] for row in rows], dtype=bool),
            place.astype(np.int64),
            ends,
            looked_at,
        )


@kernel
def most_exceeded(
    starts: Any, first: Any, place: Any, weight: Any, ends: Any, replicas: float, looked_at: Any
) -> tuple[Any, Any]:
    """For each start, the place of the end by which most is charged beyond what fits, and by how much [tick].

    Parameters
    ----------
    starts, first, place, ends, looked_at
        As in `_Items`.
    weight
        What each item is charged [tick].
    """
    charged = np.zeros(len(ends))
    best = np.zeros(len(starts), dtype=np.int64)
    excess = np.zeros(len(starts))
    for k in range(len(starts)):
        for item in range(first[k], first[k + 1]):
            charged[place[item]] += weight[item]
        if not looked_at[k]:
            continue
        total = 0.0
        for e in range(len(ends)):
            if charged[e] != 0.0:
                total += charged[e]
                over = total - replicas * (ends[e] - starts[k])
                if over > excess[k]:
                    best[k], excess[k] = e, over
    return best, excess
