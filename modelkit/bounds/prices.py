"""Prices on KV memory: the Lagrangian relaxation of the capacity, and a simple ascent on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from modelkit.instance import Instance

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class PriceRelaxation:
    """The relaxation of ``modelkit.certificate`` in floating point, over given start windows.

    Parameters
    ----------
    windows
        For each request the starts to consider, ascending.
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
        """Bound at ``prices`` (index = round, entry 0 unused), costs of all starts, and a subgradient.

        The cost of starting i at k is ``k + o - a + sum_j lambda_{k+j} (s + j)``; the subgradient is the
        excess over M of the tokens held when everybody takes the cheapest start. O(sum of windows).
        """
        p = np.cumsum(prices)
        q = np.cumsum(prices * np.arange(len(prices)))
        slope = np.zeros(len(prices) + 1)
        jump = np.zeros(len(prices) + 1)
        bound = -self.capacity * float(p[-1])
        costs = []
        for k, s, o, a in zip(self.windows, self.prompt, self.output, self.arrival, strict=True):
            cost: Any = (s - k) * (p[k + o] - p[k]) + (q[k + o] - q[k]) + (k + (o - a))
            least = int(cost.argmin())
            bound += float(cost[least])
            begin = int(k[least])
            slope[begin + 1] += 1
            slope[begin + o + 1] -= 1
            jump[begin + 1] += s
            jump[begin + o + 1] -= s + o
            costs.append(cost)
        excess = np.cumsum(jump + np.cumsum(slope))[: len(prices)] - self.capacity
        excess[0] = 0.0
        return bound, costs, excess

    def ascend(self, target: float, steps: int) -> Floats:
        """Prices with a good bound: deflected subgradients with Polyak's step towards ``target``.

        Parameters
        ----------
        target
            Value of a known schedule.
        """
        prices = np.zeros(self.rounds + 1)
        best, best_bound = prices, -np.inf
        direction = np.zeros_like(prices)
        scale, stalled = 1.0, 0
        for _ in range(steps):
            bound, _, excess = self.evaluate(prices)
            if bound > best_bound:
                best, best_bound, stalled = prices, bound, 0
            else:
                stalled += 1
            if stalled == 15:
                scale, stalled = 0.7 * scale, 0
                prices, direction = best, np.zeros_like(prices)
                continue
            direction = 0.7 * direction + excess
            length = float(direction @ direction)
            if length == 0 or bound >= target:
                break
            prices = np.maximum(0.0, prices + scale * (target - bound) / length * direction)
            prices[0] = 0.0
        return best
