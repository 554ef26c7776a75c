"""Start windows: which starts an optimal schedule of the KV-cache problem can use at all.

Unit clock, no preemption, minimise the total latency. Three proofs, none of which cuts off any
optimal schedule. Let UB be the total latency of a known schedule.

1. *No idle rounds.* From the last arrival on, a round in which no request is active could be cut out,
   which makes the rest earlier. So in an optimal schedule the rounds between the last arrival and
   the start of i are all used by others: ``k <= max_j a_j + sum_{j != i} o_j``.
2. *The others need their outputs.* ``UB >= sum_j o_j + (k - a_i)``.
3. *Reduced costs.* At any prices, with L the bound of ``modelkit.certificate`` and c_i(k) the cost of
   starting i at k there, a schedule that starts i at k costs at least ``L + c_i(k) - min c_i``. If
   that exceeds UB, no optimal schedule does. This holds at every prices, so how they were found needs
   no trust.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelkit.instance import Instance
from modelkit.problems.kv.best_known import Hindsight
from modelkit.problems.kv.local_search import TooLargeError, TooLateError, latency
from modelkit.problems.kv.relaxation import Ints, Relaxation
from modelkit.runtime.deadline import current

#: Above this number of starts no model is built; at 6 non-zeros each it would not fit a workstation's memory.
MOST_STARTS = 2_000_000
#: Above this number of starts after the first two proofs, the third is not tried.
MOST_LOOKED_AT = 200_000_000
#: Seconds that looking at a start takes.
SECONDS_PER_START = 2e-8
#: Share of the time that is left which looking at all of them may take.
LOOK_SHARE = 0.3
#: Share of the values by which floating point could be wrong, generously.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Starts:
    """How many starts the proofs keep, of how many that the first two leave."""

    kept: int
    in_all: int


def start_windows(instance: Instance, known: Hindsight, *, use_prices: bool = True) -> list[Ints]:
    """Starts that an optimal schedule may use, for each request in ascending order.

    Parameters
    ----------
    instance
        Unit clock, no slots.
    known
        A schedule of it, and prices.
    use_prices
        Whether to use proof 3.

    Raises
    ------
    TooLargeError
        More than ``MOST_STARTS`` starts are left.
    TooLateError
        There are too many to look at for the time that is left.
    """
    arrays, best = instance.arrays, known.latency
    latest = _simple_latest(instance, best)
    count = int((latest - arrays.arrival + 1).sum())
    if count * SECONDS_PER_START > LOOK_SHARE * current().left:
        raise TooLateError(
            f"the start windows of {len(instance.requests):,} requests are to be found among {count:,} starts,"
            f" for which too little is left of the time limit ({current().left:.1f} s)"
        )
    prices = known.prices
    if not use_prices or instance.server.kv_capacity_tokens is None or not len(prices):
        _check_size(instance, count)
        return [np.arange(a, k + 1) for a, k in zip(arrays.arrival, latest, strict=True)]
    relaxation = Relaxation(instance, len(prices) - 1)
    bound, cheapest = relaxation.bound(prices[1:], known.starts)
    p, q = relaxation.sums(prices[1:])
    least = relaxation.costs(cheapest, p, q)
    allowed = best - bound + ROUNDING * (best + relaxation.capacity * float(prices.sum()))
    # beyond the last price nothing is charged, and c_i(k) = k + o_i - a_i
    latest = np.minimum(latest, np.floor(least + allowed).astype(np.int64) + arrays.arrival - arrays.output)
    latest = np.maximum(latest, cheapest)
    windows = []
    kept = 0
    for a, s, o, k_last, low in zip(
        arrays.arrival.tolist(), arrays.prompt.tolist(), arrays.output.tolist(), latest.tolist(), least, strict=True
    ):
        k = np.arange(a, k_last + 1)
        priced = k[: max(0, relaxation.size - o - a)]
        cost = np.asarray(k + (o - a), dtype=np.float64)
        cost[: len(priced)] += (s - priced) * (p[priced + o] - p[priced]) + (q[priced + o] - q[priced])
        windows.append(k[cost - low <= allowed])
        kept += len(windows[-1])
        _check_size(instance, kept)
    return windows


def possible_starts(instance: Instance, best: int | None = None) -> list[Ints]:
    """Starts up to the horizon of the first proof, for each request in ascending order.

    For variants: it needs no known schedule and holds whenever an earlier end is never worse.

    Parameters
    ----------
    best
        Total latency of a schedule, where that is minimised: then the second proof counts too.

    Raises
    ------
    InfeasibleError, TooLargeError
        As `start_windows`.
    """
    instance.check_fits()
    arrival = instance.arrays.arrival
    latest = _latest_busy_start(instance) if best is None else _simple_latest(instance, best)
    _check_size(instance, int((latest - arrival + 1).sum()))
    return [np.arange(a, k + 1) for a, k in zip(arrival, latest, strict=True)]


def count_starts(instance: Instance, known: Hindsight, windows: list[Ints]) -> Starts:
    """How many starts the windows keep, of how many that the value of the schedule known leaves."""
    latest = _simple_latest(instance, known.latency)
    return Starts(kept=sum(map(len, windows)), in_all=int((latest - instance.arrays.arrival + 1).sum()))


def check_size(instance: Instance, starts: Ints) -> None:
    """Raise at once when there are more starts than can be looked at, before any prices are sought.

    Parameters
    ----------
    starts
        Of a known schedule, shape [n].

    Raises
    ------
    InfeasibleError
        Some request can never run.
    TooLargeError
        The schedule and the first two proofs leave more than ``MOST_LOOKED_AT`` starts.
    """
    latest = _simple_latest(instance, latency(instance, starts))
    _check_size(instance, int((latest - instance.arrays.arrival + 1).sum()), MOST_LOOKED_AT)


def _simple_latest(instance: Instance, best: int) -> Ints:
    """Latest starts by proofs 1 and 2, shape [n]; ``best`` is UB."""
    requests = instance.arrays
    total = int(requests.output.sum())
    return np.asarray(np.minimum(_latest_busy_start(instance), requests.arrival + best - total))


def _latest_busy_start(instance: Instance) -> Ints:
    """Proof 1: the last arrival plus the outputs of all others."""
    requests = instance.arrays
    return np.asarray(int(requests.arrival.max()) + int(requests.output.sum()) - requests.output)


def _check_size(instance: Instance, count: int, most: int = MOST_STARTS) -> None:
    if count > most:
        raise TooLargeError(
            f"the instance is too large for a formulation over starts: at least {count:,} possible starts of"
            f" {len(instance.requests):,} requests; at most {most:,}"
        )
