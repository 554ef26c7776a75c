r"""The hindsight program in flow form: the same optimum and LP bound with about 5 non-zeros a variable.

Sets
----
REQUESTS
    Requests i.
STARTS_OF[i]
    Rounds k at which request i may start: k >= a_i, less those that no optimal schedule uses.
STARTS
    Pairs (i, k) with k in STARTS_OF[i].
ROUNDS
    Consecutive rounds t in which something may be active.
BEGINNING[t]
    Requests that may start at t - 1, so that t is their first round.

Parameters
----------
arrival[i]
    a_i.
prompt[i]
    s_i.
output[i]
    o_i.
kv_capacity
    M.

Variables
---------
start[i, k]
    1 if request i starts at k; it is active in rounds k + 1 .. k + o_i and completes at k + o_i.
running[t]
    N[t], requests active in round t.
held[t]
    U[t] <= M, tokens held in round t.

Objective
---------
total_latency
    min  sum_{i,k} (k + o_i - a_i) start[i,k]

Constraints
-----------
started_once[i]
    sum_k start[i,k] = 1
running_follows[t]
    N[t] = N[t-1] + sum_i start[i, t-1] - sum_i start[i, t-1-o_i]
held_follows[t]
    U[t] = U[t-1] + N[t] + sum_i s_i start[i, t-1] - sum_i (s_i + o_i) start[i, t-1-o_i]

Claim
-----
Exact. Non-zeros: 6 for each start, 5 for each round.

Reference
---------
Equivalent to the integer program of Jaillet, Jiang, Mellou, Molinaro, Podimata, Zhou, arXiv 2502.07115: the
difference of two consecutive capacity rows has few terms, because a request started at k holds one
token more in each of its rounds and frees all of it after the last. Eliminating N and U gives the rows
of kv-hindsight, hence the same LP bound.
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, Known, Schedule, chosen, kv_refusal, linear, schedule_from_starts


def build(m: Any) -> None:
    """Fill the abstract model."""
    m.REQUESTS = pyo.Set(doc="requests")
    m.STARTS_OF = pyo.Set(m.REQUESTS, doc="rounds at which the request may start")
    m.STARTS = pyo.Set(dimen=2, initialize=starts, doc="request and start")
    m.ROUNDS = pyo.Set(doc="consecutive rounds in which something may be active")
    m.BEGINNING = pyo.Set(m.ROUNDS, doc="requests whose first round this may be")

    m.arrival = pyo.Param(m.REQUESTS, within=pyo.NonNegativeIntegers, doc="arrival [round]")
    m.prompt = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="prompt length [token]")
    m.output = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="output length [token]")
    m.kv_capacity = pyo.Param(within=pyo.PositiveIntegers, doc="KV-cache budget [token]")

    m.start = pyo.Var(m.STARTS, domain=pyo.Binary, doc="1 if the request starts at that round")
    m.running = pyo.Var(m.ROUNDS, domain=pyo.NonNegativeReals, doc="requests active in the round")
    m.held = pyo.Var(m.ROUNDS, bounds=(0, m.kv_capacity), doc="tokens held in the round")

    m.grouped = pyo.BuildAction(rule=group_starts)
    m.total_latency = pyo.Objective(rule=total_latency, doc="total end-to-end latency [round]")
    m.started_once = pyo.Constraint(m.REQUESTS, rule=started_once, doc="every request starts once")
    m.running_follows = pyo.Constraint(
        m.ROUNDS, rule=running_follows, doc="starts add to the active requests, ends take away"
    )
    m.held_follows = pyo.Constraint(
        m.ROUNDS, rule=held_follows, doc="active requests hold one token more, ended ones free theirs"
    )


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


def group_starts(m: Any) -> None:
    """Starts and the tokens that they change, by the round that is their first and by the one after their last."""
    prompt, output = ({i: parameter[i] for i in m.REQUESTS} for parameter in (m.prompt, m.output))
    freed = {i: -prompt[i] - output[i] for i in m.REQUESTS}
    rounds = range(m.ROUNDS.first(), m.ROUNDS.last() + 2)
    m.beginning, m.ending = ({t: ([], []) for t in rounds} for _ in range(2))
    for t, requests in m.BEGINNING.items():
        for i in requests:
            started = m.start[i, t - 1]
            for (variables, tokens), change in ((m.beginning[t], prompt[i]), (m.ending[t + output[i]], freed[i])):
                variables.append(started)
                tokens.append(change)


def running_follows(m: Any, t: int) -> Any:
    """N[t] - N[t-1] = started - ended."""
    (begun, _), (ended, _) = m.beginning[t], m.ending[t]
    before = [m.running[t - 1]] if t != m.ROUNDS.first() else []
    ones = [1] * len(begun) + [-1] * len(ended) + [1] * len(before)
    return linear([*ones, -1], [*begun, *ended, *before, m.running[t]]) == 0


def held_follows(m: Any, t: int) -> Any:
    """U[t] - U[t-1] - N[t] = prompts of the started - all tokens of the ended."""
    (begun, prompts), (ended, freed) = m.beginning[t], m.ending[t]
    before = [m.held[t - 1]] if t != m.ROUNDS.first() else []
    tokens = [*prompts, *freed, *[1] * len(before), 1, -1]
    return linear(tokens, [*begun, *ended, *before, m.running[t], m.held[t]]) == 0


def data(instance: Instance, known: Known) -> dict[str, Any]:
    """Values of all sets and parameters, with the starts that an optimal schedule may use."""
    requests = instance.requests
    known.check_size(nonzeros(instance, known.starts))
    starts_of = {r.id: w.tolist() for r, w in zip(requests, known.starts, strict=True)}
    first = min(k[0] for k in starts_of.values())
    last = max(starts_of[r.id][-1] + r.output_tokens for r in requests)
    beginning: dict[int, list[str]] = {t: [] for t in range(first + 1, last + 1)}
    for i, possible in starts_of.items():
        for k in possible:
            beginning[k + 1].append(i)
    return {
        "REQUESTS": list(starts_of),
        "STARTS_OF": starts_of,
        "ROUNDS": range(first + 1, last + 1),
        "BEGINNING": beginning,
        "arrival": {r.id: int(r.arrival) for r in requests},
        "prompt": {r.id: r.prompt_tokens for r in requests},
        "output": {r.id: r.output_tokens for r in requests},
        "kv_capacity": instance.server.kv_capacity_tokens or int(instance.arrays.peak.sum()),
    }


def nonzeros(instance: Instance, starts_of: list[Any]) -> int:
    """6 for each start, 5 for each round."""
    ends = (int(k[-1]) + r.output_tokens for r, k in zip(instance.requests, starts_of, strict=True))
    return 6 * sum(map(len, starts_of)) + 5 * (max(ends) - min(int(k[0]) for k in starts_of))


def extract(m: Any, instance: Instance) -> Schedule:
    """The schedule that the values of ``start`` say."""
    return schedule_from_starts(instance, dict(key for key, var in m.start.items() if chosen(var)))


def start(m: Any, instance: Instance, schedule: Schedule) -> None:
    """Set the variables to what a schedule says."""
    m.start.set_values(dict.fromkeys(m.start, 0))
    active = dict.fromkeys(m.ROUNDS, 0)
    held = dict.fromkeys(m.ROUNDS, 0)
    for segment in schedule.segments:
        k = int(segment.at)
        for i, _ in segment.admit:
            m.start[i, k].set_value(1)
            for t in range(k + 1, k + m.output[i] + 1):
                active[t] += 1
                held[t] += m.prompt[i] + t - k
    m.running.set_values(active)
    m.held.set_values(held)


FORMULATION = Formulation(
    name="kv-hindsight-flow",
    summary="the optimum of kv-hindsight, with memory as a flow over rounds: sparse, for larger instances",
    claim="exact",
    objective="total_latency",
    problem="kv-hindsight",
    reference="Jaillet et al., arXiv 2502.07115, reformulated",
    needs=kv_refusal,
    build=build,
    data=data,
    extract=extract,
    start=start,
)
