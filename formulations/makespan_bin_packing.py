r"""Minimizing Makespan Bin Packing: the requests into queues of the slots so that the longest queue is shortest.

Sets
----
LENGTHS
    Output lengths c that occur; requests of one length are interchangeable.
SLOTS
    Slots j = 1 .. J, at most n.
QUEUES
    Pairs (c, j).

Parameters
----------
slots
    J, at most n.
number[c]
    Requests of length c.
least_rounds
    A proven lower bound on the longest queue (modelkit.problems.slots.packing).
most_rounds
    The longest queue of a known packing.
round_ms
    tau.
constant
    The lower bound on the makespan, less the rounds.

Variables
---------
assigned[c, j]
    Requests of length c in the queue of slot j.
longest
    z, the tokens of the longest queue.

Objective
---------
makespan
    min  tau longest + constant

Constraints
-----------
all_assigned[c]
    sum_j assigned[c,j] = number[c]
queue_no_longer[j]
    sum_c c assigned[c,j] <= longest
queues_in_order[j]
    sum_c c assigned[c,j] >= sum_c c assigned[c,j+1]

Claim
-----
Lower bound on the makespan of the slot problem: some slot decodes at least z rounds. Its queues are the offline part
of a schedule; they are served longest first, and a stage is inserted by the Lagrangian comparison. One integer
variable for each length and slot instead of one binary for each request and slot; the slots are ordered.

Reference
---------
Pang, Li, She, Wang, arXiv 2502.15763, Minimizing Makespan Bin Packing. Different from the paper: classes of equal
length, the order of the slots, the start and the bound from modelkit.problems.slots.packing, and the constant.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo

from modelkit import (
    Formulation,
    Instance,
    LinearClock,
    Schedule,
    TooLargeError,
    linear,
    pack,
    packing_bound,
    schedule_from_queues,
    slot_bound,
    stages_refusal,
)

#: Pairs of length and slot above which no model is built.
MOST_QUEUES = 1_000_000


def needs(instance: Instance) -> str | None:
    """Why the instance is outside this formulation, or None."""
    if instance.arrays.arrival.any():
        return "needs all requests known at 0"
    return stages_refusal(instance)


def build(m: Any) -> None:
    """Fill the abstract model."""
    m.LENGTHS = pyo.Set(ordered=True, doc="output lengths, longest first")
    m.slots = pyo.Param(within=pyo.PositiveIntegers, doc="number of slots that can be of use [slot]")
    m.SLOTS = pyo.RangeSet(m.slots, doc="slots")
    m.QUEUES = pyo.Set(
        dimen=2, initialize=lambda m: [(c, j) for c in m.LENGTHS for j in m.SLOTS], doc="length and slot"
    )

    m.number = pyo.Param(m.LENGTHS, within=pyo.PositiveIntegers, doc="requests of the length [request]")
    m.least_rounds = pyo.Param(within=pyo.PositiveIntegers, doc="lower bound on the longest queue [token]")
    m.most_rounds = pyo.Param(within=pyo.PositiveIntegers, doc="longest queue of a known packing [token]")
    m.round_ms = pyo.Param(within=pyo.NonNegativeReals, doc="duration of a decode round [ms]")
    m.constant = pyo.Param(within=pyo.NonNegativeReals, doc="lower bound on the makespan less the rounds [ms]")

    m.assigned = pyo.Var(m.QUEUES, domain=pyo.NonNegativeIntegers, bounds=most_assigned, doc="requests in the queue")
    m.longest = pyo.Var(
        domain=pyo.PositiveIntegers, bounds=lambda m: (m.least_rounds, m.most_rounds), doc="tokens of the longest queue"
    )

    m.makespan = pyo.Objective(rule=makespan, doc="lower bound on the end of the last round [ms]")
    m.all_assigned = pyo.Constraint(m.LENGTHS, rule=all_assigned, doc="every request is in a queue")
    m.queue_no_longer = pyo.Constraint(m.SLOTS, rule=queue_no_longer, doc="no queue is longer than the longest")
    m.queues_in_order = pyo.Constraint(m.SLOTS, rule=queues_in_order, doc="queues are ordered by their tokens")


def queues(m: Any) -> list[tuple[int, int]]:
    """All pairs of a length and a slot."""
    return [(c, j) for c in m.LENGTHS for j in m.SLOTS]


def most_assigned(m: Any, c: int, j: int) -> tuple[int, Any]:
    """At most all of the length."""
    return 0, m.number[c]


def makespan(m: Any) -> Any:
    """Rounds of the longest queue and what comes on top."""
    return m.round_ms * m.longest + m.constant


def all_assigned(m: Any, c: int) -> Any:
    """Every request is in a queue."""
    queues = [m.assigned[c, j] for j in m.SLOTS]
    return linear([1] * len(queues), queues) == m.number[c]


def queue_no_longer(m: Any, j: int) -> Any:
    """Tokens of a queue."""
    queue = [m.assigned[c, j] for c in m.LENGTHS]
    return linear([*m.LENGTHS, -1], [*queue, m.longest]) <= 0


def queues_in_order(m: Any, j: int) -> Any:
    """The slots are interchangeable."""
    if j == m.SLOTS.last():
        return pyo.Constraint.Skip
    both = [m.assigned[c, q] for q in (j, j + 1) for c in m.LENGTHS]
    return linear([*m.LENGTHS, *(-c for c in m.LENGTHS)], both) >= 0


def data(instance: Instance) -> dict[str, Any]:
    """Values of all sets and parameters."""
    output = instance.arrays.output
    slots = min(instance.server.slots or len(output), len(output))
    lengths, number = np.unique(output, return_counts=True)
    if len(lengths) * slots > MOST_QUEUES:
        raise TooLargeError(
            f"the instance is too large for makespan-bin-packing: {len(lengths):,} lengths and {slots:,} slots"
            f" make {len(lengths) * slots:,} variables; at most {MOST_QUEUES:,}"
        )
    rounds, _ = packing_bound(output, slots)
    assert isinstance(instance.server.clock, LinearClock)
    return {
        "LENGTHS": lengths[::-1].tolist(),
        "slots": slots,
        "number": dict(zip(lengths.tolist(), number.tolist(), strict=True)),
        "least_rounds": rounds,
        "most_rounds": pack(output, slots, np.random.default_rng(0)).makespan,
        "round_ms": instance.server.clock.folded().decode_base_ms,
        "constant": float(slot_bound(instance, 0)),
    }


def extract(m: Any, instance: Instance) -> Schedule:
    """The queues, longest first, with stages by the Lagrangian comparison."""
    unused: dict[int, list[int]] = {c: [] for c in m.LENGTHS}
    for i, o in enumerate(instance.arrays.output.tolist()):
        unused[o].append(i)
    queues = [[unused[c].pop() for c in m.LENGTHS for _ in range(round(m.assigned[c, j].value or 0))] for j in m.SLOTS]
    return schedule_from_queues(instance, queues)


def start(m: Any, instance: Instance, schedule: Schedule) -> None:
    """Set the variables to the packing of modelkit.pack, which no policy's queues are shorter than."""
    packing = pack(instance.arrays.output, len(m.SLOTS), np.random.default_rng(0))
    output = instance.arrays.output.tolist()
    queues = [[output[i] for i in queue] for queue in packing.queues()]
    queues += [[] for _ in range(len(m.SLOTS) - len(queues))]
    m.assigned.set_values(dict.fromkeys(m.assigned, 0))
    for j, queue in enumerate(sorted(queues, key=sum, reverse=True), start=1):
        for c in queue:
            m.assigned[c, j].set_value(m.assigned[c, j].value + 1)
    m.longest.set_value(packing.makespan)


FORMULATION = Formulation(
    name="makespan-bin-packing",
    summary="least longest queue over the slots; with the prefill terms a lower bound on the makespan",
    claim="lower-bound",
    objective="makespan",
    problem="slot-packing",
    reference="Pang, Li, She, Wang, arXiv 2502.15763",
    needs=needs,
    build=build,
    data=data,
    extract=extract,
    start=start,
)
