r"""The KV-cache problem with shared prefixes: what requests of a group share is held once.

Sets
----
REQUESTS
    Requests i.
STARTS_OF[i]
    Rounds k at which request i may start: k >= a_i, less those that no optimal schedule uses.
STARTS
    Pairs (i, k) with k in STARTS_OF[i].
ROUNDS
    Rounds t = k + 1 in which something may be active.
GROUPS
    Groups g of requests with a prefix.
SHARING
    Pairs (g, i) of a group and a request of it that has a prefix to share.

Parameters
----------
arrival[i]
    a_i.
own[i]
    s_i - p_i, the part of the prompt that is never shared.
prefix[i]
    p_i, at most s_i - 1; 0 where request i shares nothing.
output[i]
    o_i.
kv_capacity
    M.
slots
    J; the number of requests where the server states none.

Variables
---------
start[i, k]
    1 if request i starts at k; it is active in rounds k + 1 .. k + o_i and completes at k + o_i.
shared[g, t]
    Tokens of the prefix of group g that are held in round t.

Objective
---------
total_latency
    min  sum_{i,k} (k + o_i - a_i) start[i,k]

Constraints
-----------
started_once[i]
    sum_k start[i,k] = 1
prefix_is_held[g, i, t]
    p_i sum_{k = max(a_i, t - o_i)}^{t - 1} start[i,k] <= shared[g,t]
kv_capacity_holds[t]
    sum_i sum_{k = max(a_i, t - o_i)}^{t - 1} (s_i - p_i + t - k) start[i,k] + sum_g shared[g,t] <= M
slots_suffice[t]
    sum_i sum_{k = max(a_i, t - o_i)}^{t - 1} start[i,k] <= J

Claim
-----
Exact: prefixes of a group are nested, so its requests in progress hold the longest of theirs together, which is the
least value of ``shared``. Whether the cache keeps tokens that nobody uses changes nothing here: they give way to any
request, and reading a prompt again takes no time under the unit clock. The horizon holds as without prefixes: a round
in which nobody is active can be cut out, and if a schedule is known, no request of a better one waits for longer than
all requests in it together.

Reference
---------
Jaillet, Jiang, Mellou, Molinaro, Podimata, Zhou, arXiv 2502.07115, the integer program of the hindsight-optimal
schedule, with the sharing of prefixes of Zheng et al., SGLang, NeurIPS 2024, and of vLLM's automatic prefix caching.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, Known, Schedule, chosen, linear, schedule_from_starts, unit_prefixes_refusal


def build(m: Any) -> None:
    """Fill the abstract model."""
    m.REQUESTS = pyo.Set(doc="requests")
    m.STARTS_OF = pyo.Set(m.REQUESTS, doc="rounds at which the request may start")
    m.STARTS = pyo.Set(dimen=2, initialize=starts, doc="request and start")
    m.ROUNDS = pyo.Set(doc="rounds in which something may be active")
    m.GROUPS = pyo.Set(doc="groups of requests with a prefix")
    m.SHARING = pyo.Set(dimen=2, doc="group and a request of it with a prefix to share")

    m.arrival = pyo.Param(m.REQUESTS, within=pyo.NonNegativeIntegers, doc="arrival [round]")
    m.own = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="part of the prompt that is never shared [token]")
    m.prefix = pyo.Param(m.REQUESTS, within=pyo.NonNegativeIntegers, doc="part of the prompt that is shared [token]")
    m.output = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="output length [token]")
    m.kv_capacity = pyo.Param(within=pyo.PositiveIntegers, doc="KV-cache budget [token]")
    m.slots = pyo.Param(within=pyo.PositiveIntegers, doc="requests in progress at once [request]")

    m.start = pyo.Var(m.STARTS, domain=pyo.Binary, doc="1 if the request starts at that round")
    m.shared = pyo.Var(m.GROUPS, m.ROUNDS, domain=pyo.NonNegativeReals, doc="tokens of the prefix held in the round")

    m.total_latency = pyo.Objective(rule=total_latency, doc="total end-to-end latency [round]")
    m.started_once = pyo.Constraint(m.REQUESTS, rule=started_once, doc="every request starts once")
    m.prefix_is_held = pyo.Constraint(m.SHARING, m.ROUNDS, rule=prefix_is_held, doc="who runs has its prefix held")
    m.kv_capacity_holds = pyo.Constraint(m.ROUNDS, rule=kv_capacity_holds, doc="the held tokens fit the KV cache")
    m.slots_suffice = pyo.Constraint(m.ROUNDS, rule=slots_suffice, doc="few enough requests are in progress")


def starts(m: Any) -> list[tuple[str, int]]:
    """All pairs of a request and one of its starts."""
    return [(i, k) for i in m.REQUESTS for k in m.STARTS_OF[i]]


def total_latency(m: Any) -> Any:
    """Sum of completion - arrival."""
    wait = {i: m.output[i] - m.arrival[i] for i in m.REQUESTS}
    return linear([k + wait[i] for i, k in m.STARTS], list(m.start.values()))


def started_once(m: Any, i: str) -> Any:
    """Every request starts once."""
    choices = [m.start[i, k] for k in m.STARTS_OF[i]]
    return linear([1] * len(choices), choices) == 1


def active_starts(m: Any, i: str, t: int) -> list[int]:
    """Starts of request i with which it is active in round t."""
    possible: list[int] = m.STARTS_OF[i].ordered_data()
    return possible[bisect_left(possible, t - m.output[i]) : bisect_left(possible, t)]


def prefix_is_held(m: Any, g: str, i: str, t: int) -> Any:
    """The prefix of request i is held while it is active."""
    active = [m.start[i, k] for k in active_starts(m, i, t)]
    if not active:
        return pyo.Constraint.Skip
    return linear([m.prefix[i]] * len(active) + [-1], [*active, m.shared[g, t]]) <= 0


def kv_capacity_holds(m: Any, t: int) -> Any:
    """Tokens held in round t, those of each request alone and those of each group."""
    active = [(i, k) for i in m.REQUESTS for k in active_starts(m, i, t)]
    return (
        linear(
            [m.own[i] + t - k for i, k in active] + [1] * len(m.GROUPS),
            [m.start[i, k] for i, k in active] + [m.shared[g, t] for g in m.GROUPS],
        )
        <= m.kv_capacity
    )


def slots_suffice(m: Any, t: int) -> Any:
    """Requests in progress in round t."""
    active = [m.start[i, k] for i in m.REQUESTS for k in active_starts(m, i, t)]
    if not active:
        return pyo.Constraint.Skip
    return linear([1] * len(active), active) <= m.slots


def data(instance: Instance, known: Known) -> dict[str, Any]:
    """Values of all sets and parameters, with the starts that an optimal schedule may use."""
    requests, shared = instance.requests, instance.shared_prefixes
    assert shared is not None
    known.check_size(sum(len(k) * (3 * r.output_tokens + 1) for r, k in zip(requests, known.starts, strict=True)))
    starts_of = {r.id: k.tolist() for r, k in zip(requests, known.starts, strict=True)}
    first = min(k[0] for k in starts_of.values())
    last = max(starts_of[r.id][-1] + r.output_tokens for r in requests)
    sharing = [(r.prefix.group, r.id) for r, p in zip(requests, shared.tokens, strict=True) if r.prefix and p]
    return {
        "REQUESTS": list(starts_of),
        "STARTS_OF": starts_of,
        "ROUNDS": range(first + 1, last + 1),
        "GROUPS": list(dict.fromkeys(group for group, _ in sharing)),
        "SHARING": sharing,
        "arrival": {r.id: int(r.arrival) for r in requests},
        "own": {r.id: r.prompt_tokens - p for r, p in zip(requests, shared.tokens, strict=True)},
        "prefix": {r.id: p for r, p in zip(requests, shared.tokens, strict=True)},
        "output": {r.id: r.output_tokens for r in requests},
        "kv_capacity": instance.server.kv_capacity_tokens or int(instance.arrays.peak.sum()),
        "slots": instance.server.slots or len(requests),
    }


def extract(m: Any, instance: Instance) -> Schedule:
    """The schedule that the values of ``start`` say."""
    return schedule_from_starts(instance, dict(key for key, var in m.start.items() if chosen(var)))


def start(m: Any, instance: Instance, schedule: Schedule) -> None:
    """Set the variables to what a schedule says."""
    m.start.set_values(dict.fromkeys(m.start, 0))
    group = {i: g for g, i in m.SHARING}
    held: dict[tuple[str, int], int] = dict.fromkeys(m.shared, 0)
    for segment in schedule.segments:
        k = int(segment.at)
        for i, _ in segment.admit:
            m.start[i, k].set_value(1)
            for t in range(k + 1, k + m.output[i] + 1) if i in group else ():
                held[group[i], t] = max(held[group[i], t], m.prefix[i])
    m.shared.set_values(held)


FORMULATION = Formulation(
    name="kv-prefix",
    summary="hindsight-optimal total latency under a KV-cache budget where requests share prefixes",
    claim="exact",
    objective="total_latency",
    problem="kv-prefix",
    reference="Jaillet et al., arXiv 2502.07115; Zheng et al., NeurIPS 2024 (SGLang)",
    needs=unit_prefixes_refusal,
    build=build,
    data=data,
    extract=extract,
    start=start,
)
