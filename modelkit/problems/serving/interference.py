"""Weights for the bound by interference: what prefills are charged, and the share of delay.

The bound and its proof are ``modelkit.verify.serving_interference``'s. It allows each request a charge v_i for the
fixed cost of its prefill, p0 for all the presence that is not counted as delay, and each charge falls by the share of
delay of its request a millisecond. Charges are given out greedily by arrival.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from modelkit.certificate import SHARE, Interference
from modelkit.runtime.kernel import kernel
from modelkit.verify.serving_costs import COSTS_PER_TICK, ServingCosts
from modelkit.verify.serving_interference import Residences


def interference_weights(costs: ServingCosts, shares: list[int]) -> Interference | None:
    """Weights for shares of delay, in the order of the instance [2^-10]; None where numbers are beyond 64 bits."""
    order = sorted(range(len(costs.prompt)), key=costs.arrival.__getitem__)
    by_arrival = [shares[i] for i in order]
    residences = Residences.of(costs, order, by_arrival)
    prefill_base = costs.prefill_base // COSTS_PER_TICK
    if SHARE * (prefill_base * len(order) + residences.times[-1]) >= 2**60:
        return None
    columns = (residences.arrival, by_arrival, residences.times, residences.present)
    arrival, slopes, times, present = (np.array(row, dtype=np.int64) for row in columns)
    charged = _charges(arrival, slopes, times, prefill_base * present)
    prefills = np.zeros(len(order), dtype=np.int64)
    prefills[order] = charged
    return Interference(delay_shares=shares, prefills=prefills.tolist())


@kernel
def _charges(arrival: Any, shares: Any, times: Any, left: Any) -> Any:
    """For each request the most that the requests before it leave [tick]; ``left`` is used up [tick / 2^10]."""
    charged = np.zeros(len(arrival), dtype=np.int64)
    begin = 0
    for i in range(len(arrival)):
        a, theta = arrival[i], shares[i]
        while begin + 1 < len(times) and times[begin + 1] <= a:
            begin += 1
        most = left[begin]
        k = begin + 1
        while k < len(times) and theta * (times[k] - a) < most:
            most = min(most, left[k] + theta * (times[k] - a))
            k += 1
        charged[i] = max(0, most) // 1024
        k = begin
        while k < len(times) and theta * (times[k] - a) < 1024 * charged[i]:
            left[k] -= 1024 * charged[i] - theta * (times[k] - a)
            k += 1
    return charged
