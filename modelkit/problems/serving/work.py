"""What the bounds by work may be recomputed with: how fixed costs are split, cells of time, prices on rounds.

The bounds and their proofs are ``modelkit.verify.serving_work``'s.
"""

from __future__ import annotations

from modelkit.certificate import SHARE, Work
from modelkit.instance import Instance
from modelkit.problems.problem import TOTAL_TTFT_MS
from modelkit.verify.serving_costs import COSTS_PER_TICK, ServingCosts
from modelkit.verify.serving_work import work_bounds

#: Shares of memory that are tried where both memory and slots are limited [2^-10].
SHARES = (SHARE, 3 * SHARE // 4, SHARE // 2, SHARE // 4, 0)
#: Requests times cells that are counted; some two seconds where the server is overloaded.
CELLS_WORK = 8 * 10**6
MOST_CELLS = 1000
#: Weights of what is held, times the best power of four.
FACTORS = (0.1, 0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0)


def splits(instance: Instance) -> list[Work]:
    """How the fixed cost of an iteration may be split between the limits that the server states."""
    server = instance.server
    if server.slots is None or server.slots >= len(instance.requests):
        return [Work(memory_share=SHARE)]
    if server.kv_capacity_tokens is None:
        return [Work(memory_share=0)]
    return [Work(memory_share=share) for share in SHARES]


def with_cells(costs: ServingCosts, work: Work) -> Work:
    """The same work counted in cells, as many as are soon counted, between the first arrival and the last end."""
    n = len(costs.prompt)
    first = min(costs.arrival)
    ends = [a + r // COSTS_PER_TICK for a, r in zip(costs.arrival, costs.residence, strict=True)]
    span = max(max(ends), max(costs.arrival) + sum(costs.own_work) // COSTS_PER_TICK) - first
    cells = max(10, min(MOST_CELLS, CELLS_WORK // n))
    return work.model_copy(update={"cell": max(1, span // cells)})


def with_holding(instance: Instance, work: Work) -> Work:
    """The same work with weights of what is held: that which bounds first tokens best, and others about it."""

    def weighed(*weights: int) -> Work:
        return work.model_copy(update={"holding": list(weights)})

    costs = ServingCosts.of(instance)
    longest = sum(costs.residence) // COSTS_PER_TICK
    powers = [longest >> k for k in range(0, 16, 2) if longest >> k]
    if not powers:
        return work
    best = max(powers, key=lambda weight: work_bounds(instance, weighed(weight), TOTAL_TTFT_MS)["work"])
    return weighed(*sorted({int(best * factor) for factor in FACTORS} - {0}))
