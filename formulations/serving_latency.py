r"""The least total latency in real time: which iteration processes each prompt, and when iterations begin.

Sets
----
REQUESTS
    Requests i.
ITERATIONS
    Iterations k = 1 .. K, the empty ones last.
STARTS
    Pairs (i, k) with k <= K - o_i + 1, so that o_i - 1 iterations follow.
LAST_STARTS
    Pairs (i, K - o_i + 1).

Parameters
----------
iterations
    K = sum_i o_i.
arrival[i], arrivals
    a_i, and sum_i a_i.
prompt[i], output[i]
    s_i, o_i.
alone[i], earliest[i]
    How long the iterations of i last when it is alone in them, and min_j a_j + alone[i].
others[i]
    No iteration of a best schedule ends later than that after the completion of i.
kv_capacity, batch_cap
    M and J, or what all requests together need.
base, prefill_base, prefill_per_token, decode_base, decode_per_request, decode_per_kv_token
    The law of the clock.
shortest
    What every iteration lasts at least.

Variables
---------
started[i, k]
    1 if the prompt of i is processed in iteration k or before; 0 for k < 1. So i starts in k where started[i,k] -
    started[i,k-1] is 1, is in k where started[i,k] - started[i,k-o_i] is 1, and decodes in k where started[i,k-1] -
    started[i,k-o_i] is 1.
starting[k], prompts[k]
    Requests that start in iteration k, and tokens of their prompts.
running[k], held[k]
    Requests in iteration k, and tokens that they hold at its end.
used[k], reads[k], decodes[k]
    1 if somebody is in iteration k; if a prompt is processed in it; if somebody decodes in it.
begin[k], end[k]
    When iteration k begins and ends.
completion[i]
    When i completes: the end of iteration k + o_i - 1, where it starts in k.

Objective
---------
total_latency
    min  sum_i completion[i] - arrivals

Constraints
-----------
started_in_the_end[i, k]
    started[i,k] = 1 for k = K - o_i + 1
started_stays[i, k]
    started[i,k-1] <= started[i,k]
starting_follows[k], prompts_follow[k]
    starting[k] = sum_i (started[i,k] - started[i,k-1]),  prompts[k] = sum_i s_i (started[i,k] - started[i,k-1])
running_follows[k]
    running[k] = sum_i (started[i,k] - started[i,k-o_i])
held_follows[k]
    held[k] = held[k-1] + running[k] + prompts[k] - sum_i (s_i + o_i) (started[i,k-o_i] - started[i,k-o_i-1])
used_by_its_requests[i, k]
    started[i,k] - started[i,k-o_i] <= used[k]
reads_what_starts[i, k]
    started[i,k] - started[i,k-1] <= reads[k]
decodes_what_started[i, k]
    started[i,k-1] - started[i,k-o_i] <= decodes[k]
empty_ones_last[i, k]
    started[i,k+1] - started[i,k+1-o_i] <= running[k]
kv_capacity_holds[k]
    held[k] <= M used[k]
batch_within_cap[k]
    running[k] <= J used[k]
iteration_lasts[k]
    end[k] = begin[k] + base used[k] + prefill_base reads[k] + prefill_per_token prompts[k] + decode_base decodes[k] +
    decode_per_request (running[k] - starting[k]) + decode_per_kv_token (held[k] - prompts[k] - starting[k])
begun_after_the_one_before[k]
    begin[k] >= end[k-1]
begun_after_arrivals[i, k]
    begin[k] >= a_i started[i,k]
completed_with_last_token[i, k]
    completion[i] >= end[k+o_i-1] - others[i] started[i,k-1]
completed_after_rounds[i]
    completion[i] >= earliest[i] + shortest (K - sum_k started[i,k])
completed_after_arrival[i]
    completion[i] >= a_i + alone[i]

Claim
-----
Exact. Some best schedule is among the solutions:

Nobody is evicted in it: without the residencies that are cut short no iteration lasts longer and none holds more. No
iteration is empty, so each gives some request a token, and sum_i o_i of them suffice. Each begins when the one before
ends or, if later, when the last of those arrives that start in it: begun then, it and all that follow end no later. So
the server only ever waits for arrivals. After the completion of i it does so until the last arrival at most, and the
iterations in which i is no longer last no longer, in all, than those of the others when each is alone in them and pays
every fixed part itself. That is others[i]; and the first of the bounds on completion[i] holds whether i starts in
iteration k or later, when it is still there in iteration k + o_i - 1, or before. The second holds as K minus
sum_k started[i,k] iterations come before the one in which i starts, none of them empty or begun before the first
arrival, and those of i last no less than when it is alone.

Conversely, used, reads and decodes are 1 wherever the starts make somebody use, read or decode, so that the iterations
of a solution last no less than the law says: the schedule of its starts, begun as early as possible, is done no later.

Reference
---------
Jaillet, Jiang, Mellou, Molinaro, Podimata, Zhou, Online Scheduling for LLM Inference with KV Cache Constraints, arXiv
2502.07115, whose hindsight-optimal program has rounds of one length. Different from the paper: an iteration lasts what
the law says of its tokens, so that starts are counted in iterations, and times are variables.
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from modelkit import Formulation, Instance, LinearClock, Schedule, TooLargeError, chosen, schedule_from_iterations

#: Requests times iterations that a model may have; solvers get nowhere with more.
MOST_STARTS = 2_000


def needs(instance: Instance) -> str | None:
    """Why the instance is outside this formulation, or None."""
    clock = instance.server.clock
    if not isinstance(clock, LinearClock) or not clock.mixed:
        return "needs the linear clock with mixed = true"
    if clock.prefill_levels is not None:
        return "does not support levels of prefills"
    return None


def build(m: Any) -> None:
    """Fill the abstract model."""
    m.REQUESTS = pyo.Set(doc="requests")
    m.iterations = pyo.Param(within=pyo.PositiveIntegers, doc="number of iterations [1]")
    m.ITERATIONS = pyo.RangeSet(m.iterations, doc="iterations, the empty ones last")
    m.output = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="output length [token]")
    m.STARTS = pyo.Set(dimen=2, doc="request and an iteration that leaves enough others to start in")
    m.LAST_STARTS = pyo.Set(dimen=2, doc="request and the last of them")

    m.arrival = pyo.Param(m.REQUESTS, within=pyo.NonNegativeReals, doc="arrival [ms]")
    m.arrivals = pyo.Param(within=pyo.NonNegativeReals, doc="sum of the arrivals [ms]")
    m.prompt = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="prompt length [token]")
    m.alone = pyo.Param(m.REQUESTS, within=pyo.NonNegativeReals, doc="duration of its iterations when alone [ms]")
    m.earliest = pyo.Param(m.REQUESTS, within=pyo.NonNegativeReals, doc="first arrival of all, and alone [ms]")
    m.others = pyo.Param(m.REQUESTS, within=pyo.NonNegativeReals, doc="longest time from its completion on [ms]")
    m.kv_capacity = pyo.Param(within=pyo.PositiveIntegers, doc="KV-cache budget [token]")
    m.batch_cap = pyo.Param(within=pyo.PositiveIntegers, doc="requests in progress at once [request]")
    m.base = pyo.Param(within=pyo.NonNegativeReals, doc="part of every iteration [ms]")
    m.prefill_base = pyo.Param(within=pyo.NonNegativeReals, doc="part of an iteration with a prompt [ms]")
    m.prefill_per_token = pyo.Param(within=pyo.NonNegativeReals, doc="part of a prompt's token [ms]")
    m.decode_base = pyo.Param(within=pyo.NonNegativeReals, doc="part of an iteration with decoding [ms]")
    m.decode_per_request = pyo.Param(within=pyo.NonNegativeReals, doc="part of a decoding request [ms]")
    m.decode_per_kv_token = pyo.Param(within=pyo.NonNegativeReals, doc="part of a token it holds [ms]")
    m.shortest = pyo.Param(within=pyo.NonNegativeReals, doc="duration of any iteration at least [ms]")

    m.started = pyo.Var(
        m.REQUESTS, m.ITERATIONS, domain=pyo.Binary, doc="1 if the iteration or one before processes the prompt"
    )
    m.starting = pyo.Var(m.ITERATIONS, domain=pyo.NonNegativeReals, doc="requests whose prompt is processed")
    m.prompts = pyo.Var(m.ITERATIONS, domain=pyo.NonNegativeReals, doc="prompt tokens processed")
    m.running = pyo.Var(m.ITERATIONS, domain=pyo.NonNegativeReals, doc="requests in the iteration")
    m.held = pyo.Var(m.ITERATIONS, domain=pyo.NonNegativeReals, doc="tokens held at its end")
    m.used = pyo.Var(m.ITERATIONS, bounds=(0, 1), doc="1 if somebody is in the iteration")
    m.reads = pyo.Var(m.ITERATIONS, bounds=(0, 1), doc="1 if a prompt is processed in the iteration")
    m.decodes = pyo.Var(m.ITERATIONS, bounds=(0, 1), doc="1 if somebody decodes in the iteration")
    m.begin = pyo.Var(m.ITERATIONS, domain=pyo.NonNegativeReals, doc="when the iteration begins")
    m.end = pyo.Var(m.ITERATIONS, domain=pyo.NonNegativeReals, doc="when the iteration ends")
    m.completion = pyo.Var(m.REQUESTS, domain=pyo.NonNegativeReals, doc="when the request completes")

    m.total_latency = pyo.Objective(rule=total_latency, doc="total end-to-end latency [ms]")
    m.started_in_the_end = pyo.Constraint(m.LAST_STARTS, rule=started_in_the_end, doc="every prompt is processed")
    m.started_stays = pyo.Constraint(m.REQUESTS, m.ITERATIONS, rule=started_stays, doc="what is processed remains so")
    m.starting_follows = pyo.Constraint(m.ITERATIONS, rule=starting_follows, doc="these are who starts")
    m.prompts_follow = pyo.Constraint(m.ITERATIONS, rule=prompts_follow, doc="these are the tokens of their prompts")
    m.running_follows = pyo.Constraint(m.ITERATIONS, rule=running_follows, doc="who started and is not done is there")
    m.held_follows = pyo.Constraint(
        m.ITERATIONS, rule=held_follows, doc="requests hold one token more, those that left theirs no longer"
    )
    m.used_by_its_requests = pyo.Constraint(
        m.REQUESTS, m.ITERATIONS, rule=used_by_its_requests, doc="an iteration with somebody in it is used"
    )
    m.reads_what_starts = pyo.Constraint(m.REQUESTS, m.ITERATIONS, rule=reads_what_starts, doc="a prompt is read")
    m.decodes_what_started = pyo.Constraint(
        m.REQUESTS, m.ITERATIONS, rule=decodes_what_started, doc="who started before decodes"
    )
    m.empty_ones_last = pyo.Constraint(m.REQUESTS, m.ITERATIONS, rule=empty_ones_last, doc="empty iterations come last")
    m.kv_capacity_holds = pyo.Constraint(m.ITERATIONS, rule=kv_capacity_holds, doc="the held tokens fit the KV cache")
    m.batch_within_cap = pyo.Constraint(m.ITERATIONS, rule=batch_within_cap, doc="few requests are in progress")
    m.iteration_lasts = pyo.Constraint(m.ITERATIONS, rule=iteration_lasts, doc="an iteration lasts what the law says")
    m.begun_after_the_one_before = pyo.Constraint(m.ITERATIONS, rule=begun_after_the_one_before, doc="one by one")
    m.begun_after_arrivals = pyo.Constraint(
        m.REQUESTS, m.ITERATIONS, rule=begun_after_arrivals, doc="no request starts before its arrival"
    )
    m.completed_with_last_token = pyo.Constraint(
        m.STARTS, rule=completed_with_last_token, doc="a request completes with its last iteration"
    )
    m.completed_after_rounds = pyo.Constraint(m.REQUESTS, rule=completed_after_rounds, doc="waiting takes time")
    m.completed_after_arrival = pyo.Constraint(
        m.REQUESTS, rule=completed_after_arrival, doc="its own iterations take time"
    )


def before(m: Any, i: str, k: int) -> Any:
    """started[i,k], 0 for k < 1."""
    return m.started[i, k] if k > 0 else 0


def total_latency(m: Any) -> Any:
    """Sum of completion - arrival."""
    return pyo.quicksum(m.completion[i] for i in m.REQUESTS) - m.arrivals


def started_in_the_end(m: Any, i: str, k: int) -> Any:
    """Every prompt is processed early enough."""
    return m.started[i, k] == 1


def started_stays(m: Any, i: str, k: int) -> Any:
    """What is processed remains so."""
    return m.started[i, k - 1] <= m.started[i, k] if k > 1 else pyo.Constraint.Skip


def starting_follows(m: Any, k: int) -> Any:
    """Requests whose prompt is processed in iteration k."""
    return m.starting[k] == pyo.quicksum(m.started[i, k] - before(m, i, k - 1) for i in m.REQUESTS)


def prompts_follow(m: Any, k: int) -> Any:
    """Tokens of these prompts."""
    return m.prompts[k] == pyo.quicksum(m.prompt[i] * (m.started[i, k] - before(m, i, k - 1)) for i in m.REQUESTS)


def running_follows(m: Any, k: int) -> Any:
    """All that started in one of the last o_i iterations."""
    return m.running[k] == pyo.quicksum(m.started[i, k] - before(m, i, k - m.output[i]) for i in m.REQUESTS)


def held_follows(m: Any, k: int) -> Any:
    """held[k] - held[k-1] - running[k] - prompts[k] = - all tokens of those who left after iteration k - 1."""
    left = pyo.quicksum(
        (m.prompt[i] + m.output[i]) * (before(m, i, k - m.output[i]) - before(m, i, k - m.output[i] - 1))
        for i in m.REQUESTS
    )
    return m.held[k] == (m.held[k - 1] if k > 1 else 0) + m.running[k] + m.prompts[k] - left


def used_by_its_requests(m: Any, i: str, k: int) -> Any:
    """Whoever is in it uses an iteration."""
    return m.started[i, k] - before(m, i, k - m.output[i]) <= m.used[k]


def reads_what_starts(m: Any, i: str, k: int) -> Any:
    """A prompt in iteration k."""
    return m.started[i, k] - before(m, i, k - 1) <= m.reads[k]


def decodes_what_started(m: Any, i: str, k: int) -> Any:
    """Whoever started before iteration k and is in it."""
    if k == 1 or m.output[i] == 1:
        return pyo.Constraint.Skip
    return m.started[i, k - 1] - before(m, i, k - m.output[i]) <= m.decodes[k]


def empty_ones_last(m: Any, i: str, k: int) -> Any:
    """Somebody is in iteration k if i is in the next."""
    if k == m.ITERATIONS.last():
        return pyo.Constraint.Skip
    return m.started[i, k + 1] - before(m, i, k + 1 - m.output[i]) <= m.running[k]


def kv_capacity_holds(m: Any, k: int) -> Any:
    """Tokens held at the end of iteration k."""
    return m.held[k] <= m.kv_capacity * m.used[k]


def batch_within_cap(m: Any, k: int) -> Any:
    """Requests in iteration k."""
    return m.running[k] <= m.batch_cap * m.used[k]


def iteration_lasts(m: Any, k: int) -> Any:
    """Fixed parts once, then what each prompt token, decoding request and token that it holds adds."""
    fixed = m.base * m.used[k] + m.prefill_base * m.reads[k] + m.decode_base * m.decodes[k]
    decoding = m.decode_per_request * (m.running[k] - m.starting[k])
    reading = m.decode_per_kv_token * (m.held[k] - m.prompts[k] - m.starting[k])
    return m.end[k] == m.begin[k] + fixed + m.prefill_per_token * m.prompts[k] + decoding + reading


def begun_after_the_one_before(m: Any, k: int) -> Any:
    """Iterations come one after the other."""
    return m.begin[k] >= m.end[k - 1] if k > 1 else pyo.Constraint.Skip


def begun_after_arrivals(m: Any, i: str, k: int) -> Any:
    """Iteration k is after the arrival of whoever starts in it or before."""
    return m.begin[k] >= m.arrival[i] * m.started[i, k]


def completed_with_last_token(m: Any, i: str, k: int) -> Any:
    """Whoever starts in iteration k or later is there until iteration k + o_i - 1 ends."""
    return m.completion[i] >= m.end[k + m.output[i] - 1] - m.others[i] * before(m, i, k - 1)


def completed_after_rounds(m: Any, i: str) -> Any:
    """The iterations before the start, and those of i."""
    waited = m.iterations - pyo.quicksum(m.started[i, k] for k in m.ITERATIONS)
    return m.completion[i] >= m.earliest[i] + m.shortest * waited


def completed_after_arrival(m: Any, i: str) -> Any:
    """Its own iterations."""
    return m.completion[i] >= m.arrival[i] + m.alone[i]


def data(instance: Instance) -> dict[str, Any]:
    """Values of all sets and parameters."""
    size, tokens = len(instance.requests), int(instance.arrays.output.sum())
    if size * tokens > MOST_STARTS:
        raise TooLargeError(
            f"the instance is too large for serving-latency: {size:,} requests times {tokens:,} output tokens are"
            f" {size * tokens:,} starts; at most {MOST_STARTS:,}"
        )
    clock, server, requests = instance.server.clock, instance.server, instance.requests
    assert isinstance(clock, LinearClock)
    arrival = {r.id: 1000 * r.arrival for r in requests}
    alone = {r.id: alone_ms(clock, r.prompt_tokens, r.output_tokens) for r in requests}
    every, latest = sum(alone.values()), max(arrival.values())
    iterations = sum(r.output_tokens for r in requests)
    last_start = {r.id: iterations - r.output_tokens + 1 for r in requests}
    shortest = [clock.prefill_ms(r.prompt_tokens) for r in requests]
    shortest += [clock.decode_ms(1, 1, r.prompt_tokens + 2) for r in requests if r.output_tokens > 1]
    return {
        "REQUESTS": list(arrival),
        "iterations": iterations,
        "STARTS": [(i, k) for i, last in last_start.items() for k in range(1, last + 1)],
        "LAST_STARTS": list(last_start.items()),
        "arrival": arrival,
        "arrivals": sum(arrival.values()),
        "prompt": {r.id: r.prompt_tokens for r in requests},
        "output": {r.id: r.output_tokens for r in requests},
        "alone": alone,
        "earliest": {i: min(arrival.values()) + ms for i, ms in alone.items()},
        "others": {i: every - ms + max(0.0, latest - arrival[i] - ms) for i, ms in alone.items()},
        "kv_capacity": server.kv_capacity_tokens or int(instance.arrays.peak.sum()),
        "batch_cap": min(server.slots or len(requests), len(requests)),
        "base": clock.base_ms,
        "prefill_base": clock.prefill_base_ms,
        "prefill_per_token": clock.prefill_per_token_ms,
        "decode_base": clock.decode_base_ms,
        "decode_per_request": clock.decode_per_request_ms,
        "decode_per_kv_token": clock.decode_per_kv_token_ms,
        "shortest": min(shortest),
    }


def alone_ms(clock: LinearClock, prompt: int, output: int) -> float:
    """Duration of the iterations of a request that is alone in them [ms]."""
    held = (output - 1) * prompt + output * (output + 1) // 2 - 1
    return clock.prefill_ms(prompt) + clock.decode_ms(output - 1, output - 1, held)


def extract(m: Any, instance: Instance) -> Schedule:
    """The schedule that the values of ``started`` say, each iteration begun as early as possible."""
    waited = {i: sum(not chosen(m.started[i, k]) for k in m.ITERATIONS) for i in m.REQUESTS}
    return schedule_from_iterations(instance, {i: k + 1 for i, k in waited.items()})


def start(m: Any, instance: Instance, schedule: Schedule) -> None:
    """Set the binaries to what a schedule without evictions says; times follow."""
    run = last = 0  # iterations run, and the last that has somebody in it
    for segment in schedule.segments:
        for i, _ in segment.admit:
            last = max(last, run + m.output[i])
            for k in m.ITERATIONS:
                m.started[i, k].set_value(int(k > run))
        run = min(run + segment.rounds, last)


FORMULATION = Formulation(
    name="serving-latency",
    summary="least total latency in real time: iterations last what their tokens cost",
    claim="exact",
    objective="total_latency",
    problem="serving",
    reference="Jaillet et al., arXiv 2502.07115, in iterations of the linear clock",
    needs=needs,
    build=build,
    data=data,
    extract=extract,
    start=start,
)
