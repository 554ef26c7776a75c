r"""The hindsight program over classes of requests that are alike: no symmetry, fewer variables.

Sets
----
CLASSES
    Requests with equal (a, s, o) are one class; it is called after its first request.
STARTS_OF[c]
    Rounds k at which a request of class c may start.
STARTS
    Pairs (c, k) with k in STARTS_OF[c].
ROUNDS
    Rounds t in which something may be active.
ACTIVE[t]
    Pairs (c, k) active in round t: k < t <= k + o_c.

Parameters
----------
arrival[c], prompt[c], output[c]
    a, s and o of the class.
size[c]
    Requests in the class.
kv_capacity
    M.

Variables
---------
starts[c, k]
    Requests of class c that start at k, 0 .. size[c].

Objective
---------
total_latency
    min  sum_{c,k} (k + o_c - a_c) starts[c,k]

Constraints
-----------
all_start[c]
    sum_k starts[c,k] = size[c]
kv_capacity_holds[t]
    sum_{(c,k) in ACTIVE[t]} (s_c + t - k) starts[c,k] <= M

Claim
-----
Exact: exchanging the starts of two requests of a class changes neither the memory nor the total latency, so only how
many start when matters. The sum of kv-hindsight's variables over a class is a solution here with the same
value, and a solution here is one there for any assignment of its starts to the requests. The LP bound is the same.

Reference
---------
Jaillet, Jiang, Mellou, Molinaro, Podimata, Zhou, arXiv 2502.07115, integer program, aggregated.
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, Known, Schedule, kv_refusal, linear, schedule_from_starts


def build(m: Any) -> None:
    """Fill the abstract model."""
    m.CLASSES = pyo.Set(doc="classes of requests that are alike")
    m.STARTS_OF = pyo.Set(m.CLASSES, doc="rounds at which a request of the class may start")
    m.STARTS = pyo.Set(dimen=2, initialize=lambda m: [(c, k) for c in m.CLASSES for k in m.STARTS_OF[c]], doc="starts")
    m.ROUNDS = pyo.Set(doc="rounds in which something may be active")
    m.ACTIVE = pyo.Set(m.ROUNDS, dimen=2, doc="class and start active in the round")

    m.arrival = pyo.Param(m.CLASSES, within=pyo.NonNegativeIntegers, doc="arrival [round]")
    m.prompt = pyo.Param(m.CLASSES, within=pyo.PositiveIntegers, doc="prompt length [token]")
    m.output = pyo.Param(m.CLASSES, within=pyo.PositiveIntegers, doc="output length [token]")
    m.size = pyo.Param(m.CLASSES, within=pyo.PositiveIntegers, doc="requests in the class [request]")
    m.kv_capacity = pyo.Param(within=pyo.PositiveIntegers, doc="KV-cache budget [token]")

    m.starts = pyo.Var(
        m.STARTS, domain=pyo.NonNegativeIntegers, bounds=lambda m, c, k: (0, m.size[c]), doc="requests that start then"
    )

    m.total_latency = pyo.Objective(rule=total_latency, doc="total end-to-end latency [round]")
    m.all_start = pyo.Constraint(m.CLASSES, rule=all_start, doc="every request of the class starts")
    m.kv_capacity_holds = pyo.Constraint(m.ROUNDS, rule=kv_capacity_holds, doc="the tokens held fit")


def total_latency(m: Any) -> Any:
    """Sum of completion - arrival."""
    return linear([k + m.output[c] - m.arrival[c] for c, k in m.STARTS], list(m.starts.values()))


def all_start(m: Any, c: str) -> Any:
    """As many starts as requests."""
    choices = [m.starts[c, k] for k in m.STARTS_OF[c]]
    return linear([1] * len(choices), choices) == m.size[c]


def kv_capacity_holds(m: Any, t: int) -> Any:
    """Tokens held in round t are at most M."""
    active = list(m.ACTIVE[t])
    if not active:
        return pyo.Constraint.Skip
    held = [m.prompt[c] + t - k for c, k in active]
    return linear(held, [m.starts[key] for key in active]) <= m.kv_capacity


def classes(instance: Instance) -> dict[str, list[int]]:
    """Positions of the requests of each class, by the name of its first."""
    alike: dict[tuple[int, int, int], list[int]] = {}
    for i, r in enumerate(instance.requests):
        alike.setdefault((int(r.arrival), r.prompt_tokens, r.output_tokens), []).append(i)
    return {instance.requests[members[0]].id: members for members in alike.values()}


def data(instance: Instance, known: Known) -> dict[str, Any]:
    """Values of all sets and parameters; a class may start when any of its requests may."""
    known.check_size(nonzeros(instance, known.starts))
    groups = classes(instance)
    first = {c: instance.requests[members[0]] for c, members in groups.items()}
    starts_of = {c: sorted({int(k) for i in members for k in known.starts[i]}) for c, members in groups.items()}
    last = max(starts_of[c][-1] + first[c].output_tokens for c in groups)
    active: dict[int, list[tuple[str, int]]] = {t: [] for t in range(1, last + 1)}
    for c, r in first.items():
        for k in starts_of[c]:
            for t in range(k + 1, k + r.output_tokens + 1):
                active[t].append((c, k))
    return {
        "CLASSES": list(groups),
        "STARTS_OF": starts_of,
        "ROUNDS": list(active),
        "ACTIVE": active,
        "arrival": {c: int(r.arrival) for c, r in first.items()},
        "prompt": {c: r.prompt_tokens for c, r in first.items()},
        "output": {c: r.output_tokens for c, r in first.items()},
        "size": {c: len(members) for c, members in groups.items()},
        "kv_capacity": instance.server.kv_capacity_tokens or int(instance.arrays.peak.sum()),
    }


def nonzeros(instance: Instance, starts_of: list[Any]) -> int:
    """One for each start of a class and round of its output, and one for each start; told of the requests."""
    return sum(len(k) * (r.output_tokens + 1) for r, k in zip(instance.requests, starts_of, strict=True))


def extract(m: Any, instance: Instance) -> Schedule:
    """The schedule that the values say; within a class, earlier requests start earlier."""
    chosen: dict[str, int] = {}
    for c, members in classes(instance).items():
        times = [k for k in m.STARTS_OF[c] for _ in range(round(m.starts[c, k].value or 0))]
        for i, k in zip(members, times, strict=True):
            chosen[instance.requests[i].id] = k
    return schedule_from_starts(instance, chosen)


def start(m: Any, instance: Instance, schedule: Schedule) -> None:
    """Set the variables to what a schedule says."""
    class_of = {instance.requests[i].id: c for c, members in classes(instance).items() for i in members}
    counts = dict.fromkeys(m.starts, 0)
    for segment in schedule.segments:
        for i, _ in segment.admit:
            counts[class_of[i], int(segment.at)] += 1
    m.starts.set_values(counts)


FORMULATION = Formulation(
    name="kv-hindsight-classes",
    summary="kv-hindsight over classes of identical requests, free of their symmetry",
    claim="exact",
    objective="total_latency",
    problem="kv-hindsight",
    reference="Jaillet et al., arXiv 2502.07115, aggregated",
    needs=kv_refusal,
    build=build,
    data=data,
    extract=extract,
    start=start,
)
