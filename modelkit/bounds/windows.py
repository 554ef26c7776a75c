"""Start windows: which starts an optimal schedule of the KV-cache problem can use at all.

Unit clock, no preemption, minimise the total latency. Three proofs, none of which cuts off any
optimal schedule. Let UB be the total latency of a known schedule.

1. *Nobody idles.* From the last arrival on, a round in which nobody is active could be cut out,
   which makes the rest earlier. So in an optimal schedule the rounds between the last arrival and
   the start of i are all used by others: ``k <= max_j a_j + sum_{j != i} o_j``.
2. *The others need their outputs.* ``UB >= sum_j o_j + (k - a_i)``.
3. *Reduced costs.* At any prices, with L the bound of ``modelkit.certificate`` and r_i(k) the cost of
   starting i at k there, a schedule that starts i at k costs at least ``L + r_i(k) - min r_i``. If
   that exceeds UB, no optimal schedule does. This holds at every prices, so how they were found needs
   no trust.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from modelkit.bounds.prices import Floats, Ints, PriceRelaxation
from modelkit.errors import SolverError
from modelkit.improve import improved_schedule
from modelkit.instance import Instance

#: Up to so many starts, proofs 1 and 2 are enough.
FEW_STARTS = 2_000
#: Above so many starts no model is built; at 6 non-zeros each it would not fit a workstation's memory.
MOST_STARTS = 20_000_000
#: Updates of the prices.
STEPS = 300
#: Share of the values by which floating point could be wrong, generously.
ROUNDING = 1e-9


class TooLargeError(SolverError):
    """The instance has more possible starts than a formulation can hold in memory."""


def start_windows(instance: Instance, *, use_prices: bool = True) -> list[Ints]:
    """Starts that an optimal schedule may use, for each request in ascending order.

    Parameters
    ----------
    instance
        Unit clock, no slots.
    use_prices
        Whether to use proof 3 when the first two leave more than ``FEW_STARTS`` starts.

    Raises
    ------
    InfeasibleError
        Some request can never run.
    TooLargeError
        The first two proofs leave more than ``MOST_STARTS`` starts.
    """
    windows, best = _simple_windows(instance)
    prices = starting_prices(instance) if use_prices else None
    if prices is None:
        return windows
    bound, costs, _ = PriceRelaxation(instance, windows).evaluate(prices)
    capacity = instance.server.kv_capacity_tokens or 0
    allowed = best - bound + ROUNDING * (best + capacity * float(prices.sum()))
    return [w[cost - cost.min() <= allowed] for w, cost in zip(windows, costs, strict=True)]


def possible_starts(instance: Instance) -> list[Ints]:
    """Starts up to the horizon of the first proof, for each request in ascending order.

    For variants: it needs no known schedule and holds whenever an earlier end is never worse.

    Raises
    ------
    InfeasibleError, TooLargeError
        As `start_windows`.
    """
    instance.check_fits()
    return _windows(instance, _latest_busy_start(instance))


@lru_cache(maxsize=8)
def starting_prices(instance: Instance) -> Floats | None:
    """Prices on memory by round, shape [rounds + 1]; None where the simple proofs do without.

    Raises
    ------
    InfeasibleError, TooLargeError
        As `start_windows`.
    """
    windows, best = _simple_windows(instance)
    if instance.server.kv_capacity_tokens is None or sum(map(len, windows)) <= FEW_STARTS:
        return None
    return PriceRelaxation(instance, windows).ascend(best, STEPS)


def _simple_windows(instance: Instance) -> tuple[list[Ints], int]:
    """Windows by proofs 1 and 2, and UB."""
    requests = instance.arrays
    schedule = improved_schedule(instance)
    starts = sum(int(s.at) * len(s.admit) for s in schedule.segments)
    total = int(requests.output.sum())
    best = starts + total - int(requests.arrival.sum())
    latest = np.minimum(_latest_busy_start(instance), requests.arrival + best - total)
    return _windows(instance, latest), best


def _latest_busy_start(instance: Instance) -> Ints:
    """Proof 1: the last arrival plus the outputs of all others."""
    requests = instance.arrays
    return int(requests.arrival.max()) + int(requests.output.sum()) - requests.output


def _windows(instance: Instance, latest: Ints) -> list[Ints]:
    """All starts from each arrival to each latest start, if they are not too many."""
    arrival = instance.arrays.arrival
    count = int((latest - arrival + 1).sum())
    if count > MOST_STARTS:
        raise TooLargeError(
            f"the instance is too large for a formulation over starts: {count:,} possible starts of"
            f" {len(arrival):,} requests; at most {MOST_STARTS:,}"
        )
    return [np.arange(a, k + 1) for a, k in zip(arrival, latest, strict=True)]
