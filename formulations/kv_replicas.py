r"""The hindsight-optimal program of R servers alike: every request starts once, on one of them.

Sets
----
REQUESTS
    Requests i, the largest volume first.
REPLICAS_OF[i]
    Replicas r that may serve request i: 1 .. R, the first request on 1, the second on 1 or 2, and so on.
STARTS_OF[i]
    Rounds k at which request i may start: k >= a_i, less those that no optimal schedule uses.
STARTS
    Triples (i, r, k) with r in REPLICAS_OF[i] and k in STARTS_OF[i].
PLACES
    Pairs (i, r) with r > 1 in REPLICAS_OF[i].
ROUNDS
    Pairs (r, t) of a replica and a round t = k + 1 in which something may be active there.

Parameters
----------
arrival[i]
    a_i.
prompt[i]
    s_i.
output[i]
    o_i.
kv_capacity
    M, of each replica.
slots
    J, of each replica; the number of requests where there is no limit.

Variables
---------
start[i, r, k]
    1 if request i starts at k on replica r; it is active there in rounds k + 1 .. k + o_i and completes at k + o_i.

Objective
---------
total_latency
    min  sum_{i,r,k} (k + o_i - a_i) start[i,r,k]

Constraints
-----------
started_once[i]
    sum_{r,k} start[i,r,k] = 1
kv_capacity_holds[r, t]
    sum_i sum_{k = max(a_i, t - o_i)}^{t - 1} (s_i + t - k) start[i,r,k] <= M
slots_hold[r, t]
    sum_i sum_{k = max(a_i, t - o_i)}^{t - 1} start[i,r,k] <= J,  where J is less than the number of requests
used_in_turn[i, r]
    sum_k start[i,r,k] <= sum_{j before i} sum_k start[j,r-1,k]

Claim
-----
Exact. Replicas are alike, so of all ways to number them one is kept: replica r is first used by a request that comes
after one on r - 1 (REPLICAS_OF and used_in_turn). Non-zeros: about R sum_i o_i |STARTS_OF[i]|, and twice that with
slots.

Reference
---------
kv-hindsight (Jaillet et al., arXiv 2502.07115) with an index for the replica. The order of first use is that of bins in
bin packing (Kaibel, Pfetsch, Packing and partitioning orbitopes, Math. Program. 114, 2008).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import pyomo.environ as pyo

from modelkit import Admission, Formulation, Instance, Known, Schedule, Segment, chosen, linear


def build(m: Any) -> None:
    """Fill the abstract model."""
    m.REQUESTS = pyo.Set(doc="requests, the largest volume first")
    m.REPLICAS_OF = pyo.Set(m.REQUESTS, doc="replicas that may serve the request")
    m.STARTS_OF = pyo.Set(m.REQUESTS, doc="rounds at which the request may start")
    m.STARTS = pyo.Set(dimen=3, initialize=starts, doc="request, replica and start")
    m.PLACES = pyo.Set(dimen=2, initialize=places, doc="request and replica, but for the first replica")
    m.ROUNDS = pyo.Set(dimen=2, doc="replica and round in which something may be active")

    m.arrival = pyo.Param(m.REQUESTS, within=pyo.NonNegativeIntegers, doc="arrival [round]")
    m.prompt = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="prompt length [token]")
    m.output = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="output length [token]")
    m.kv_capacity = pyo.Param(within=pyo.PositiveIntegers, doc="KV-cache budget of each replica [token]")
    m.slots = pyo.Param(within=pyo.PositiveIntegers, doc="requests that a replica has in progress at once [request]")

    m.start = pyo.Var(m.STARTS, domain=pyo.Binary, doc="1 if the request starts on that replica at that round")

    m.total_latency = pyo.Objective(rule=total_latency, doc="total end-to-end latency [round]")
    m.started_once = pyo.Constraint(m.REQUESTS, rule=started_once, doc="every request starts once, on one replica")
    m.kv_capacity_holds = pyo.Constraint(m.ROUNDS, rule=kv_capacity_holds, doc="the held tokens fit each KV cache")
    m.slots_hold = pyo.Constraint(m.ROUNDS, rule=slots_hold, doc="no replica has more in progress than slots")
    m.used_in_turn = pyo.Constraint(m.PLACES, rule=used_in_turn, doc="a replica is used after the one before it")


def starts(m: Any) -> list[tuple[str, int, int]]:
    """All triples of a request, one of its replicas and one of its starts."""
    return [(i, r, k) for i in m.REQUESTS for r in m.REPLICAS_OF[i] for k in m.STARTS_OF[i]]


def places(m: Any) -> list[tuple[str, int]]:
    """All pairs of a request and one of its replicas but the first."""
    return [(i, r) for i in m.REQUESTS for r in m.REPLICAS_OF[i] if r > 1]


def total_latency(m: Any) -> Any:
    """Sum of completion - arrival."""
    wait = {i: m.output[i] - m.arrival[i] for i in m.REQUESTS}
    return linear([k + wait[i] for i, _, k in m.STARTS], list(m.start.values()))


def started_once(m: Any, i: str) -> Any:
    """Every request starts once."""
    choices = [m.start[i, r, k] for r in m.REPLICAS_OF[i] for k in m.STARTS_OF[i]]
    return linear([1] * len(choices), choices) == 1


def active(m: Any, r: int, t: int) -> list[tuple[int, Any]]:
    """Tokens held in round t on replica r by each that may have started there in the o_i rounds before it."""
    found: list[tuple[int, Any]] = []
    for i in m.REQUESTS:
        if r in m.REPLICAS_OF[i]:
            possible, s = m.STARTS_OF[i].ordered_data(), m.prompt[i]
            some = possible[bisect_left(possible, t - m.output[i]) : bisect_left(possible, t)]
            found += [(s + t - k, m.start[i, r, k]) for k in some]
    return found


def kv_capacity_holds(m: Any, r: int, t: int) -> Any:
    """Tokens held in round t on replica r."""
    terms = active(m, r, t)
    if not terms:
        return pyo.Constraint.Skip
    return linear([c for c, _ in terms], [v for _, v in terms]) <= m.kv_capacity


def slots_hold(m: Any, r: int, t: int) -> Any:
    """Requests in progress in round t on replica r."""
    terms = active(m, r, t) if m.slots.value < len(m.REQUESTS) else []
    if not terms:
        return pyo.Constraint.Skip
    return linear([1] * len(terms), [v for _, v in terms]) <= m.slots


def used_in_turn(m: Any, i: str, r: int) -> Any:
    """A request on replica r needs one before it on the replica before."""
    here = [m.start[i, r, k] for k in m.STARTS_OF[i]]
    before = m.REQUESTS.ordered_data()[: m.REQUESTS.ord(i) - 1]
    there = [m.start[j, r - 1, k] for j in before if r - 1 in m.REPLICAS_OF[j] for k in m.STARTS_OF[j]]
    return linear([1] * len(here) + [-1] * len(there), here + there) <= 0


def ordered(instance: Instance) -> list[str]:
    """Ids of the requests, the largest volume first."""
    volume = {r.id: r.prompt_tokens * r.output_tokens + r.output_tokens**2 / 2 for r in instance.requests}
    return sorted(volume, key=lambda i: -volume[i])


def data(instance: Instance, known: Known) -> dict[str, Any]:
    """Values of all sets and parameters, with the starts that an optimal schedule may use."""
    requests, replicas = instance.requests, instance.server.replicas
    slots = instance.server.slots or len(requests)
    outputs = [len(k) * (r.output_tokens + 1) for r, k in zip(requests, known.starts, strict=True)]
    known.check_size(replicas * sum(outputs) * (1 if slots >= len(requests) else 2))
    starts_of = {r.id: k.tolist() for r, k in zip(requests, known.starts, strict=True)}
    first = min(k[0] for k in starts_of.values())
    last = max(starts_of[r.id][-1] + r.output_tokens for r in requests)
    order = ordered(instance)
    return {
        "REQUESTS": order,
        "REPLICAS_OF": {i: list(range(1, min(replicas, place) + 1)) for place, i in enumerate(order, start=1)},
        "STARTS_OF": starts_of,
        "ROUNDS": [(r, t) for r in range(1, min(replicas, len(order)) + 1) for t in range(first + 1, last + 1)],
        "arrival": {r.id: int(r.arrival) for r in requests},
        "prompt": {r.id: r.prompt_tokens for r in requests},
        "output": {r.id: r.output_tokens for r in requests},
        "kv_capacity": instance.server.kv_capacity_tokens or int(instance.arrays.peak.sum()),
        "slots": slots,
    }


def extract(m: Any, instance: Instance) -> Schedule:
    """The schedule that the values of ``start`` say."""
    output = {r.id: r.output_tokens for r in instance.requests}
    found = sorted((k, r, i) for (i, r, k), variable in m.start.items() if chosen(variable))
    segments = []
    for position, (k, r, i) in enumerate(found):
        later = [at for at, replica, _ in found[position + 1 :] if replica == r]
        until = max(at + output[name] for at, replica, name in found[: position + 1] if replica == r)
        segments.append(Segment(k, (Admission(i),), rounds=max(0, min([until, *later[:1]]) - k), replica=r))
    return Schedule(tuple(segments))


def start(m: Any, instance: Instance, schedule: Schedule) -> None:
    """Set the variables to what a schedule says, its replicas numbered in the order of their first use."""
    place = {a.request: (s.replica, int(s.at)) for s in schedule.segments for a in s.admit}
    number: dict[int, int] = {}
    m.start.set_values(dict.fromkeys(m.start, 0))
    for i in ordered(instance):
        replica, k = place[i]
        m.start[i, number.setdefault(replica, len(number) + 1), k].set_value(1)


def needs(instance: Instance) -> str | None:
    """Why the instance is outside this formulation, or None."""
    if not instance.is_unit:
        return "needs the unit clock"
    if instance.shared_prefixes is not None:
        return "does not support shared prefixes"
    return None if instance.server.replicas > 1 else "needs several replicas"


FORMULATION = Formulation(
    name="kv-replicas",
    summary="hindsight-optimal total latency on several replicas, one binary for each request, replica and start",
    claim="exact",
    objective="total_latency",
    problem="kv-replicas",
    reference="Jaillet et al., arXiv 2502.07115, with an index for the replica",
    needs=needs,
    build=build,
    data=data,
    extract=extract,
    start=start,
)
