"""The total latency under the unit clock where requests may be paused, from below: from the instance, in whole numbers.

In the round that makes its j-th token a request holds s + j, wherever it may have been paused before: V = s o +
o (o + 1) / 2 tokens over its o rounds, and more where paused requests hold theirs. A round holds M of all at most, and
serves J requests. So a schedule, with pauses or not, does jobs of V on a machine that does M in a round, and jobs of o
on one that does J. Shortest remaining work first has the k-th completion on such a machine as early as any preemptive
schedule of it, for every k (Schrage 1968); a request ends at the end of a round, and the k-th completion is no earlier
than the k-th of all a + o. R replicas, whose rounds begin together, hold R M and serve R J in a round. Of what requests
share through a prefix cache the first of a group pays for all (`modelkit.judge.prefixes.unshared`).
"""

from __future__ import annotations

import math
from fractions import Fraction

from modelkit.errors import Fault, InputError
from modelkit.instance import Instance
from modelkit.judge.prefixes import unshared
from modelkit.verify.serving_work import shortest_first


def volume_bound(instance: Instance) -> Fraction:
    """The least total latency [round].

    Raises
    ------
    InputError
        The clock of the instance is not the unit clock.
    """
    if not instance.is_unit:
        raise InputError("certificate", [Fault("$", "kv-volume bounds instances with the unit clock")])
    instance = unshared(instance, once=True)
    arrays, server = instance.arrays, instance.server
    arrival, output = arrays.arrival.tolist(), arrays.output.tolist()
    ends = sorted(a + o for a, o in zip(arrival, output, strict=True))
    volume = (arrays.prompt * arrays.output + arrays.output * (arrays.output + 1) // 2).tolist()
    for speed, work in ((server.kv_capacity_tokens, volume), (server.slots, output)):
        if speed is not None:
            least = _ends(arrival, work, server.replicas * speed)
            ends = [max(pair) for pair in zip(ends, least, strict=True)]
    return Fraction(sum(ends) - sum(arrival))


def _ends(arrival: list[int], work: list[int], speed: int) -> list[int]:
    """Rounds by whose ends the first, the second and each further job may be done at the earliest."""
    jobs = sorted((a * speed, w) for a, w in zip(arrival, work, strict=True))
    return [math.ceil(Fraction(end, speed)) for end in shortest_first([a for a, _ in jobs], [w for _, w in jobs])]
