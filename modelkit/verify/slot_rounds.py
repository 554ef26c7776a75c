"""The total latency under the unit clock on J slots, from below: recomputed from the instance alone, in whole numbers.

A request that arrives at a takes o rounds, one token in each, and a round serves J of them at most. Seen from the
residency in which it completes, that is a job of o / J rounds on one machine, preempted as often as one likes.
Shortest remaining work first has the k-th completion of all such schedules as early as can be, for every k; and the
k-th is no earlier than the k-th of all a + o. R replicas, whose rounds begin together, have R J slots. Times are
counted in parts of 1 / J of a round.
"""

from __future__ import annotations

from fractions import Fraction

from modelkit.errors import Fault, InputError
from modelkit.instance import Instance
from modelkit.verify.serving_work import shortest_first


def slot_rounds_bound(instance: Instance) -> Fraction:
    """The least total latency [round].

    Raises
    ------
    InputError
        The clock of the instance is not the unit clock, or there are no slots.
    """
    slots = instance.server.slots
    if not instance.is_unit or slots is None:
        raise InputError("certificate", [Fault("$", "slot-rounds bound instances with the unit clock and slots")])
    slots *= instance.server.replicas
    jobs = sorted((int(r.arrival) * slots, r.output_tokens) for r in instance.requests)
    ends = shortest_first([a for a, _ in jobs], [o for _, o in jobs])
    alone = sorted(a + slots * o for a, o in jobs)
    in_order = sum(max(end, least) for end, least in zip(ends, alone, strict=True))
    return Fraction(in_order - sum(a for a, _ in jobs), slots)
