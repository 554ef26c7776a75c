"""Start windows: which starts an optimal schedule of the KV-cache problem can use at all.

Unit clock, no preemption, minimise the total latency. Three proofs, none of which cuts off any
optimal schedule. Let UB be the total latency of a known schedule.

1. *Nobody idles.* From the last arrival on, a round in which nobody is active could be cut out,
   which makes the rest earlier. So in an optimal schedule the rounds between the last arrival and
   the start of i are all used by others: ``k <= max_j a_j + sum_{j != i} o_j``.
2. *The others need their outputs.* ``UB >= sum_j o_j + (k - a_i)``.
3. *Reduced costs.* For any prices lambda >= 0 on rounds, relaxing the capacity gives
   ``L = sum_i min_k r_i(k) - M sum_t lambda_t <= OPT`` with
   ``r_i(k) = k + o_i - a_i + sum_{j=1}^{o_i} lambda_{k+j} (s_i + j)``. A schedule that starts i at k
   costs at least ``L + r_i(k) - min r_i``; if that exceeds UB, no optimal schedule does.

The third holds for every prices, so how they were found needs no trust.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from modelkit.instance import Instance
from modelkit.simulate import clairvoyant_starts

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Below so many starts, proofs 1 and 2 are enough.
FEW_STARTS = 2_000
#: Share of the values by which floating point could be wrong, generously.
ROUNDING = 1e-9
#: Policies whose schedules are tried for UB.
SCOUTS = ("svf", "mc-sf", "mc-benchmark")


def start_windows(instance: Instance, *, ascent_steps: int = 200) -> list[Ints]:
    """Starts that an optimal schedule may use, for each request in ascending order.

    Parameters
    ----------
    instance
        Unit clock, no slots; every request fits alone.
    ascent_steps
        Price updates for proof 3, which is used when the first two leave more than ``FEW_STARTS``
        starts; 0 leaves it out.

    Notes
    -----
    One price update costs O(sum of window lengths).

    Raises
    ------
    InfeasibleError
        Some request can never run.
    """
    instance.check_fits()
    requests = instance.arrays
    best = min(_total_latency(instance, clairvoyant_starts(instance, policy)) for policy in SCOUTS)
    total = int(requests.output.sum())
    latest = np.minimum(
        int(requests.arrival.max()) + total - requests.output, requests.arrival + best - total
    )
    windows = [np.arange(a, k + 1) for a, k in zip(requests.arrival, latest, strict=True)]
    if instance.server.kv_capacity_tokens and ascent_steps and sum(map(len, windows)) > FEW_STARTS:
        return _priced_windows(instance, windows, best, ascent_steps)
    return windows


def _total_latency(instance: Instance, starts: Ints) -> int:
    return int((starts + instance.arrays.output - instance.arrays.arrival).sum())


def _priced_windows(instance: Instance, windows: list[Ints], best: int, steps: int) -> list[Ints]:
    """Proof 3: the starts whose reduced cost does not exceed UB - L."""
    relaxation = PriceRelaxation(instance, windows)
    prices = relaxation.ascend(best, steps)
    bound, costs, _ = relaxation.evaluate(prices)
    allowed = best - bound + ROUNDING * (best + float(instance.server.kv_capacity_tokens or 0) * prices.sum())
    return [w[cost - cost.min() <= allowed] for w, cost in zip(windows, costs, strict=True)]


class PriceRelaxation:
    """The Lagrangian relaxation of the KV capacity, over given windows.

    Source: Jaillet et al., arXiv 2502.07115, capacity constraints of the hindsight program, relaxed.
    """

    def __init__(self, instance: Instance, windows: Sequence[Ints]) -> None:
        arrays = instance.arrays
        self.windows = windows
        self.prompt = arrays.prompt.tolist()
        self.output = arrays.output.tolist()
        self.arrival = arrays.arrival.tolist()
        self.capacity = float(instance.server.kv_capacity_tokens or 0)
        self.rounds = max(int(w[-1]) + o for w, o in zip(windows, self.output, strict=True))

    def evaluate(self, prices: Floats) -> tuple[float, list[Floats], Floats]:
        """Bound L at ``prices`` (index = round, entry 0 unused), costs r_i(k), and M-excess by round.

        With P and Q the cumulative sums of lambda_t and t lambda_t,
        ``sum_j lambda_{k+j} (s + j) = (s - k)(P[k+o] - P[k]) + Q[k+o] - Q[k]``.
        """
        p = np.cumsum(prices)
        q = np.cumsum(prices * np.arange(len(prices)))
        growth = np.zeros(len(prices) + 1)  # second differences of the held tokens
        level = np.zeros(len(prices) + 1)
        bound = -self.capacity * float(p[-1])
        costs = []
        for k, s, o, a in zip(self.windows, self.prompt, self.output, self.arrival, strict=True):
            cost: Any = (s - k) * (p[k + o] - p[k]) + (q[k + o] - q[k]) + (k + (o - a))
            least = int(cost.argmin())
            bound += float(cost[least])
            begin = int(k[least])
            growth[begin + 1] += 1
            growth[begin + o + 1] -= 1
            level[begin + 1] += s
            level[begin + o + 1] -= s + o
            costs.append(cost)
        active = np.cumsum(growth)
        excess = np.cumsum(level + active)[: len(prices)] - self.capacity
        excess[0] = 0.0
        return bound, costs, excess

    def ascend(self, target: float, steps: int) -> Floats:
        """Prices with a good bound: deflected subgradients with Polyak's step towards ``target``."""
        prices = np.zeros(self.rounds + 1)
        best, best_bound = prices, -np.inf
        direction = np.zeros_like(prices)
        relaxation, stalled = 1.0, 0
        for _ in range(steps):
            bound, _, excess = self.evaluate(prices)
            if bound > best_bound:
                best, best_bound, stalled = prices, bound, 0
            else:
                stalled += 1
            if stalled == 15:
                relaxation, stalled = 0.7 * relaxation, 0
                prices, direction = best, np.zeros_like(prices)
                continue
            direction = 0.7 * direction + excess
            length = float(direction @ direction)
            if length == 0 or bound >= target:
                break
            prices = np.maximum(0.0, prices + relaxation * (target - bound) / length * direction)
            prices[0] = 0.0
        return best
