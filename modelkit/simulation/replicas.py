"""Several replicas beside one another: each runs the policy on the requests that a rule sends to it.

Replicas share nothing but arrivals. Every one is run up to the next arrival, whose replica is then chosen by what all
of them look like, and at the end to the last completion.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np

from modelkit.policies import Policy
from modelkit.policies.dispatch import Backlog, Dispatch
from modelkit.problems.replicas.servers import side_by_side
from modelkit.schedule import Schedule
from modelkit.simulation.continuous import ContinuousSimulation


def run_beside(replicas: Sequence[ContinuousSimulation], dispatch: Dispatch) -> Schedule:
    """The schedule of several simulations to which all arrivals of the first are sent, one by one."""
    first = replicas[0]
    arrivals, first.arrivals = first.arrivals[::-1], []
    for i in arrivals:
        moment = first.moments[i]
        for replica in replicas:
            replica.advance(moment)
        chosen = dispatch.choose(first.seen[i], [backlog(replica, moment) for replica in replicas])
        replicas[chosen].arrivals.insert(0, i)
    for replica in replicas:
        replica.advance(math.inf)
    return side_by_side(replica.schedule() for replica in replicas)


def beside(first: ContinuousSimulation, policy: Policy, rng: np.random.Generator) -> ContinuousSimulation:
    """Another replica of the server that ``first`` simulates, to which nothing has been sent yet."""
    other = copy.copy(first)
    other.begin(policy, rng)
    return other


def backlog(replica: ContinuousSimulation, moment: float) -> Backlog:
    """What is seen of a replica at ``moment``, when an iteration may be in progress."""
    return Backlog(
        seen=replica.seen,
        waiting=[*replica.arrivals, *replica.waiting],
        running=replica.view_running,
        paused=getattr(replica, "view_paused", {}),
        leaving=replica.leaving if replica.time.now > moment else [],
        unread=replica.unread,
        round=replica.time.round,
        cached=replica.prefixes.cached,
    )
