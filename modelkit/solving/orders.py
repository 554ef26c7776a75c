"""A search over the order in which requests start, each order simulated: for servers that plans do not know.

The requests start in the order, as soon as a look-ahead with the true lengths lets the next one, in real time also
behind a gate. A request that is moved to another place in the order stays there if the schedule is no worse.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from modelkit.instance import Instance
from modelkit.judge.prefixes import unshared
from modelkit.policies import Policy, Seen
from modelkit.policies.gates import gate_policy
from modelkit.policies.lookahead import LookAhead
from modelkit.problems.kv.local_search import volumes
from modelkit.runtime.deadline import Deadline
from modelkit.schedule import Schedule
from modelkit.simulation.continuous import ContinuousSimulation

#: Moves without a limit of time, and requests up to which they are tried then.
MOVES, MOVED = 200, 500

Floats = npt.NDArray[np.float64]


class InOrder(LookAhead):
    """Requests of smaller rank start first, with the look-ahead of ``mc-sf``."""

    def __init__(self, rank: Floats) -> None:
        super().__init__()
        self._rank = rank

    def key(self, request: Seen) -> float:
        """Rank."""
        return float(self._rank[request.number])


def search_orders(
    instance: Instance, see: Callable[[Schedule], float | None], *, deadline: Deadline, seed: int = 0
) -> None:
    """Show ``see`` one schedule after the other; it says what each is worth, less being better, None for nothing.

    Parameters
    ----------
    deadline
        When to stop; without one after a fixed number of moves.
    """
    n, rng = len(instance.requests), np.random.default_rng(seed)
    told = instance.arrays.output, instance.arrays.output

    def worth(rank: Floats, gate: str | int) -> float:
        policy: Policy = gate_policy(InOrder(rank), gate=gate)
        found = see(ContinuousSimulation(instance, policy, np.random.default_rng(seed), told).run())
        return np.inf if found is None else found

    sizes = (volumes(instance), volumes(unshared(instance, once=False)), instance.arrays.output)
    gates: tuple[str | int, ...] = (0,) if instance.is_unit else (0, "auto")
    best, rank, gate = np.inf, np.arange(n, dtype=float), gates[0]
    for size in sizes:
        for kind in gates:
            if best == np.inf or not deadline.over:
                order = _ranks(size)
                if (value := worth(order, kind)) < best:
                    best, rank, gate = value, order, kind
    moves = MOVES if not deadline.finite else None
    if moves is not None and n > MOVED:
        return
    done = 0
    while not deadline.over and done != moves and n > 1:
        moved, place = rng.integers(0, n, 2)
        other = rank.copy()
        other[moved] = rank[place] + (0.5 if rank[place] > rank[moved] else -0.5)
        other = _ranks(other)
        if (value := worth(other, gate)) <= best:
            best, rank = value, other
        done += 1


def _ranks(keys: npt.NDArray[np.generic]) -> Floats:
    """The place of each request in the order of its keys, ties by position; shape [n]."""
    rank = np.empty(len(keys))
    rank[np.argsort(keys, kind="stable")] = np.arange(len(keys))
    return rank
