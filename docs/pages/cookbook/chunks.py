r"""How much of each prompt each round reads, where a round processes few tokens.

Sets
----
REQUESTS
    Requests i.
ROUNDS
    Rounds t = 1 .. T.

Parameters
----------
last
    T: the last arrival, plus the rounds that all requests take one after the other.
arrival[i], prompt[i], output[i]
    a_i, s_i, o_i.
kv_capacity
    M, or what all requests together need.
tokens_per_round
    C, prompt tokens read and tokens made in one round, at most.

Variables
---------
read[i, t]
    Prompt tokens of request i that are read by the end of round t.
there[i, t]
    1 if some are, or 0.
ready[i, t]
    1 if all are: round t is that of its first token, or a later one.

Objective
---------
total_latency
    min  sum_i (o_i - a_i + sum_t (1 - ready[i,t]))

Constraints
-----------
not_before_arrival[i, t]
    there[i,t] = 0 for t <= a_i
reads_on[i, t], stays[i, t], goes_on[i, t]
    read[i,t] >= read[i,t-1], there[i,t] >= there[i,t-1], ready[i,t] >= ready[i,t-1]
reads_while_there[i, t], there_while_reading[i, t]
    read[i,t] <= s_i there[i,t], there[i,t] <= read[i,t]
ready_after_reading[i, t], ready_at_once[i, t]
    s_i ready[i,t] <= read[i,t], read[i,t] <= s_i - 1 + ready[i,t]
all_made[i]
    ready[i,T-o_i+1] = 1
few_tokens[t]
    sum_i (read[i,t] - read[i,t-1] + ready[i,t-1] - ready[i,t-o_i]) <= C
kv_capacity_holds[t]
    sum_i (s_i (there[i,t] - ready[i,t-o_i]) + sum_{k = t-o_i+1}^{t} ready[i,k] - o_i ready[i,t-o_i]) <= M

Claim
-----
Exact. A round t with ready[i,t] = 1 and ready[i,t-o_i] = 0 makes a token of i, the first in the round that reads the
last of its prompt. A round after the last arrival in which nothing happens can be cut out.

Reference
---------
Agrawal et al., Sarathi-Serve, OSDI 2024, for chunks of prompts beside decoding.
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import Admission, Formulation, Instance, Parameter, Schedule, Segment, Verdict, chosen, kv_refusal


def build(m: Any) -> None:
    """Fill the abstract model."""
    m.REQUESTS = pyo.Set(doc="requests")
    m.last = pyo.Param(within=pyo.PositiveIntegers, doc="last round [round]")
    m.ROUNDS = pyo.RangeSet(m.last, doc="rounds")
    m.arrival = pyo.Param(m.REQUESTS, within=pyo.NonNegativeIntegers, doc="arrival [round]")
    m.prompt = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="prompt length [token]")
    m.output = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="output length [token]")
    m.kv_capacity = pyo.Param(within=pyo.PositiveIntegers, doc="KV-cache budget [token]")
    m.tokens_per_round = pyo.Param(within=pyo.PositiveIntegers, doc="tokens processed in one round [token]")

    m.read = pyo.Var(m.REQUESTS, m.ROUNDS, domain=pyo.NonNegativeIntegers, doc="prompt tokens read so far")
    m.there = pyo.Var(m.REQUESTS, m.ROUNDS, domain=pyo.Binary, doc="1 if some of the prompt is read")
    m.ready = pyo.Var(m.REQUESTS, m.ROUNDS, domain=pyo.Binary, doc="1 if all of the prompt is read")

    m.total_latency = pyo.Objective(rule=total_latency, doc="total end-to-end latency [round]")
    every = m.REQUESTS, m.ROUNDS
    m.not_before_arrival = pyo.Constraint(*every, rule=not_before_arrival, doc="nobody is early")
    m.reads_on = pyo.Constraint(*every, rule=lambda m, i, t: goes_up(m.read, i, t), doc="what is read stays read")
    m.stays = pyo.Constraint(*every, rule=lambda m, i, t: goes_up(m.there, i, t), doc="who is there stays")
    m.goes_on = pyo.Constraint(*every, rule=lambda m, i, t: goes_up(m.ready, i, t), doc="who is ready goes on")
    m.reads_while_there = pyo.Constraint(*every, rule=reads_while_there, doc="who reads is there")
    m.there_while_reading = pyo.Constraint(*every, rule=there_while_reading, doc="who is there has read some")
    m.ready_after_reading = pyo.Constraint(*every, rule=ready_after_reading, doc="who is ready has read all")
    m.ready_at_once = pyo.Constraint(*every, rule=ready_at_once, doc="who has read all is ready")
    m.all_made = pyo.Constraint(m.REQUESTS, rule=all_made, doc="all tokens are made in the end")
    m.few_tokens = pyo.Constraint(m.ROUNDS, rule=few_tokens, doc="a round processes few tokens")
    m.kv_capacity_holds = pyo.Constraint(m.ROUNDS, rule=kv_capacity_holds, doc="the held tokens fit the KV cache")


def at(variable: Any, i: str, t: int) -> Any:
    """The variable in round t, 0 before the first."""
    return variable[i, t] if t > 0 else 0


def total_latency(m: Any) -> Any:
    """Rounds before the first token is made, and those of the others."""
    unready = pyo.quicksum(1 - m.ready[i, t] for i in m.REQUESTS for t in m.ROUNDS)
    return unready + pyo.quicksum(m.output[i] - m.arrival[i] for i in m.REQUESTS)


def not_before_arrival(m: Any, i: str, t: int) -> Any:
    """Rounds up to the arrival read nothing."""
    return m.there[i, t] == 0 if t <= m.arrival[i] else pyo.Constraint.Skip


def goes_up(variable: Any, i: str, t: int) -> Any:
    """No less than in the round before."""
    return variable[i, t] >= variable[i, t - 1] if t > 1 else pyo.Constraint.Skip


def reads_while_there(m: Any, i: str, t: int) -> Any:
    """At most the prompt, and nothing before."""
    return m.read[i, t] <= m.prompt[i] * m.there[i, t]


def there_while_reading(m: Any, i: str, t: int) -> Any:
    """It comes with its first chunk."""
    return m.there[i, t] <= m.read[i, t]


def ready_after_reading(m: Any, i: str, t: int) -> Any:
    """The first token comes with the last chunk at the soonest."""
    return m.prompt[i] * m.ready[i, t] <= m.read[i, t]


def ready_at_once(m: Any, i: str, t: int) -> Any:
    """And no later."""
    return m.read[i, t] <= m.prompt[i] - 1 + m.ready[i, t]


def all_made(m: Any, i: str) -> Any:
    """The first token is made early enough for the others."""
    return m.ready[i, m.last - m.output[i] + 1] == 1


def few_tokens(m: Any, t: int) -> Any:
    """Chunks of round t, and a token of each that has made one and not all."""
    chunks = pyo.quicksum(m.read[i, t] - at(m.read, i, t - 1) for i in m.REQUESTS)
    decoding = pyo.quicksum(at(m.ready, i, t - 1) - at(m.ready, i, t - m.output[i]) for i in m.REQUESTS)
    return chunks + decoding <= m.tokens_per_round


def kv_capacity_holds(m: Any, t: int) -> Any:
    """Prompts of those there, and the tokens that they made."""
    held: Any = 0
    for i in m.REQUESTS:
        o = m.output[i]
        done = at(m.ready, i, t - o)
        made = pyo.quicksum(at(m.ready, i, k) for k in range(t - o + 1, t + 1))
        held += m.prompt[i] * (m.there[i, t] - done) + made - o * done
    return held <= m.kv_capacity


def data(instance: Instance) -> dict[str, Any]:
    """Values of all sets and parameters."""
    requests, limit = instance.requests, instance.extra["tokens_per_round"]
    alone = sum(-(-r.prompt_tokens // limit) + r.output_tokens for r in requests)
    return {
        "REQUESTS": [r.id for r in requests],
        "last": int(max(r.arrival for r in requests)) + alone,
        "arrival": {r.id: int(r.arrival) for r in requests},
        "prompt": {r.id: r.prompt_tokens for r in requests},
        "output": {r.id: r.output_tokens for r in requests},
        "kv_capacity": instance.server.kv_capacity_tokens or int(instance.arrays.peak.sum()),
        "tokens_per_round": limit,
    }


def extract(m: Any, instance: Instance) -> Schedule:
    """A segment for each round: who comes, and the chunks that are read."""
    segments = []
    for t in m.ROUNDS:
        chunks = {i: round(m.read[i, t].value - (m.read[i, t - 1].value if t > 1 else 0)) for i in m.REQUESTS}
        new = [i for i in m.REQUESTS if chosen(m.there[i, t]) and not (t > 1 and chosen(m.there[i, t - 1]))]
        says = tuple((i, tokens) for i, tokens in chunks.items() if tokens)
        segments.append(Segment(t - 1, tuple(Admission(i) for i in new), rounds=1, chunks=says))
    return Schedule(tuple(segments))


def admissible(instance: Instance, verdict: Verdict) -> list[str]:
    """Rounds that process more."""
    limit = instance.extra["tokens_per_round"]
    return [
        f"from {interval.begin:g} on a round processes {interval.decoding + interval.prompt_tokens} tokens; allowed:"
        f" {limit}"
        for interval in verdict.intervals
        if interval.decoding + interval.prompt_tokens > limit
    ]


FORMULATION = Formulation(
    name="chunks",
    summary="how much of each prompt each round reads, where a round processes few tokens",
    claim="exact",
    objective="total_latency",
    reference="Agrawal et al., Sarathi-Serve, OSDI 2024",
    needs=kv_refusal,
    parameters=(
        Parameter(name="tokens_per_round", doc="tokens processed in one round [token]", least=1, examples=(2, 3)),
    ),
    build=build,
    data=data,
    extract=extract,
    admissible=admissible,
)
