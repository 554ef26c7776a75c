r"""The least total latency in real time: which iteration processes each prompt, and when iterations begin.

Sets
----
REQUESTS, ITERATIONS
    Requests i, and iterations k = 1 .. K, the empty ones last.
STARTS_OF[i], STARTS
    Iterations that may process the prompt of i, with o_i - 1 after each; all pairs (i, k) of these.
OUTSIDE, LAST_STARTS
    All other pairs, and of each request the last of STARTS.

Parameters
----------
iterations
    K, that some best schedule needs no more than.
arrival[i], arrivals, prompt[i], output[i]
    a_i, sum_i a_i, s_i, o_i.
decoding[i]
    How long the iterations of i after the first last when it is alone in them.
soonest[k], latest[k]
    When iteration k ends; an empty one, when the last that is not does.
first_end[i, k]
    When iteration k ends at the soonest, if it processes the prompt of i.
least[i, k]
    What the best schedule costs at least, if that iteration does.
others[i, k]
    latest[k+o_i-1], less the soonest completion of i.
kv_capacity, batch_cap
    M and J, or what all requests together need.
base, prefill_base, prefill_per_token, decode_base, decode_per_request, decode_per_kv_token
    The law of the clock.

Variables
---------
started[i, k]
    1 if the prompt of i is processed in iteration k or before; 0 for k < 1. So i starts in k where started[i,k] -
    started[i,k-1] is 1, is in k where started[i,k] - started[i,k-o_i] is 1, and decodes in k where started[i,k-1] -
    started[i,k-o_i] is 1.
starts[i, k]
    1 if iteration k processes the prompt of i.
starting[k], prompts[k]
    Requests that start in iteration k, and tokens of their prompts.
running[k], held[k]
    Requests in it, and tokens that they hold at its end.
used[k], reads[k], decodes[k]
    1 if somebody is in iteration k; if a prompt is processed in it; if somebody decodes in it.
begin[k], end[k]
    When iteration k begins and ends; soonest[k] <= end[k] <= latest[k].
completion[i]
    When i completes: the end of iteration k + o_i - 1, where it starts in k.

Objective
---------
total_latency
    min  sum_i completion[i] - arrivals

Constraints
-----------
started_in_the_end[i, k]
    started[i,k] = 1 for (i,k) in LAST_STARTS
started_inside[i, k]
    started[i,k-1] = started[i,k] for (i,k) in OUTSIDE
starts_follow[i, k]
    starts[i,k] = started[i,k] - started[i,k-1]
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
    completion[i] >= end[k+o_i-1] - others[i,k] started[i,k-1]
completed_after_prompt[i]
    completion[i] >= sum_{k in STARTS_OF[i]} first_end[i,k] starts[i,k] + decoding[i]
costs_what_it_must[i]
    sum_j completion[j] - arrivals >= sum_{k in STARTS_OF[i]} least[i,k] starts[i,k]

Claim
-----
Exact. Some best schedule is among the solutions:

Nobody is evicted in it: without the residencies that are cut short no iteration lasts longer and none holds more. No
iteration is empty. Each begins when the one before ends or, if later, when the last of those arrives that start in it:
begun then, it and all that follow end no later. What K, STARTS, soonest, latest, first_end and least say of it is
proven in `modelkit.problems.serving.states`: by a search over states that drops what cannot be best, or by sums where
that does not end. Unless i starts before k, it is there in k + o_i - 1; else others[i,k] takes all away.

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

from modelkit import (
    Formulation,
    Instance,
    Known,
    LinearClock,
    Schedule,
    TooLargeError,
    chosen,
    schedule_from_iterations,
    serving_refusal,
)

#: Requests times iterations that a model may have; solvers get nowhere with more.
MOST_STARTS = 2_000
LAW = ("base", "prefill_base", "prefill_per_token", "decode_base", "decode_per_request", "decode_per_kv_token")


def needs(instance: Instance) -> str | None:
    """Why the instance is outside this formulation, or None."""
    clock = instance.server.clock
    if not isinstance(clock, LinearClock) or not clock.mixed:
        return "needs the linear clock with mixed = true"
    return serving_refusal(instance) if clock.prefill_levels is None else "does not support levels of prefills"


def build(m: Any) -> None:
    """Fill the abstract model."""
    m.REQUESTS = pyo.Set(doc="requests")
    m.iterations = pyo.Param(within=pyo.PositiveIntegers, doc="number of iterations [1]")
    m.ITERATIONS = pyo.RangeSet(m.iterations, doc="iterations, the empty ones last")
    m.output = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="output length [token]")
    m.STARTS_OF = pyo.Set(m.REQUESTS, doc="iterations that may process its prompt")
    m.STARTS = pyo.Set(dimen=2, doc="request and an iteration that may process its prompt")
    m.OUTSIDE = pyo.Set(dimen=2, doc="request and an iteration that may not")
    m.LAST_STARTS = pyo.Set(dimen=2, doc="request and the last iteration that may")

    m.arrival = pyo.Param(m.REQUESTS, within=pyo.NonNegativeReals, doc="arrival [ms]")
    m.arrivals = pyo.Param(within=pyo.NonNegativeReals, doc="sum of the arrivals [ms]")
    m.prompt = pyo.Param(m.REQUESTS, within=pyo.PositiveIntegers, doc="prompt length [token]")
    m.decoding = pyo.Param(m.REQUESTS, within=pyo.NonNegativeReals, doc="duration of its decoding alone [ms]")
    m.soonest = pyo.Param(m.ITERATIONS, within=pyo.NonNegativeReals, doc="soonest end of the iteration [ms]")
    m.latest = pyo.Param(m.ITERATIONS, within=pyo.NonNegativeReals, doc="latest end of the iteration [ms]")
    m.first_end = pyo.Param(m.STARTS, within=pyo.NonNegativeReals, doc="soonest end with its prompt [ms]")
    m.least = pyo.Param(m.STARTS, within=pyo.Reals, doc="least total latency with its prompt there [ms]")
    m.others = pyo.Param(m.STARTS, within=pyo.NonNegativeReals, doc="longest time from its completion on [ms]")
    m.kv_capacity = pyo.Param(within=pyo.PositiveIntegers, doc="KV-cache budget [token]")
    m.batch_cap = pyo.Param(within=pyo.PositiveIntegers, doc="requests in progress at once [request]")
    for name in LAW:
        setattr(m, name, pyo.Param(within=pyo.NonNegativeReals, doc=f"law of the clock, {name} [ms]"))

    m.started = pyo.Var(m.REQUESTS, m.ITERATIONS, domain=pyo.Binary, doc="1 if its prompt is processed by then")
    m.starts = pyo.Var(m.STARTS, domain=pyo.NonNegativeReals, doc="1 if the iteration processes the prompt")
    m.starting = pyo.Var(m.ITERATIONS, domain=pyo.NonNegativeReals, doc="requests whose prompt is processed")
    m.prompts = pyo.Var(m.ITERATIONS, domain=pyo.NonNegativeReals, doc="prompt tokens processed")
    m.running = pyo.Var(m.ITERATIONS, domain=pyo.NonNegativeReals, doc="requests in the iteration")
    m.held = pyo.Var(m.ITERATIONS, domain=pyo.NonNegativeReals, doc="tokens held at its end")
    m.used = pyo.Var(m.ITERATIONS, bounds=(0, 1), doc="1 if a request is in the iteration")
    m.reads = pyo.Var(m.ITERATIONS, bounds=(0, 1), doc="1 if a prompt is processed in the iteration")
    m.decodes = pyo.Var(m.ITERATIONS, bounds=(0, 1), doc="1 if a request decodes in the iteration")
    m.begin = pyo.Var(m.ITERATIONS, domain=pyo.NonNegativeReals, doc="when the iteration begins")
    m.end = pyo.Var(m.ITERATIONS, bounds=lambda m, k: (m.soonest[k], m.latest[k]), doc="when the iteration ends")
    m.completion = pyo.Var(m.REQUESTS, domain=pyo.NonNegativeReals, doc="when the request completes")

    m.total_latency = pyo.Objective(rule=total_latency, doc="total end-to-end latency [ms]")
    m.started_in_the_end = pyo.Constraint(m.LAST_STARTS, rule=started_in_the_end, doc="every prompt is processed")
    m.started_inside = pyo.Constraint(m.OUTSIDE, rule=started_inside, doc="none is processed outside its window")
    m.starts_follow = pyo.Constraint(m.STARTS, rule=starts_follow, doc="these are the starts")
    m.starting_follows = pyo.Constraint(m.ITERATIONS, rule=starting_follows, doc="these are who starts")
    m.prompts_follow = pyo.Constraint(m.ITERATIONS, rule=prompts_follow, doc="these are the tokens of their prompts")
    m.running_follows = pyo.Constraint(m.ITERATIONS, rule=running_follows, doc="who started and is not done is there")
    m.held_follows = pyo.Constraint(m.ITERATIONS, rule=held_follows, doc="tokens of those who are there")
    m.used_by_its_requests = pyo.Constraint(m.REQUESTS, m.ITERATIONS, rule=used_by_its_requests, doc="it is in use")
    m.reads_what_starts = pyo.Constraint(m.REQUESTS, m.ITERATIONS, rule=reads_what_starts, doc="a prompt is read")
    m.decodes_what_started = pyo.Constraint(m.REQUESTS, m.ITERATIONS, rule=decodes_what_started, doc="it decodes")
    m.empty_ones_last = pyo.Constraint(m.REQUESTS, m.ITERATIONS, rule=empty_ones_last, doc="empty iterations come last")
    m.kv_capacity_holds = pyo.Constraint(m.ITERATIONS, rule=kv_capacity_holds, doc="the held tokens fit the KV cache")
    m.batch_within_cap = pyo.Constraint(m.ITERATIONS, rule=batch_within_cap, doc="few requests are in progress")
    m.iteration_lasts = pyo.Constraint(m.ITERATIONS, rule=iteration_lasts, doc="an iteration lasts what the law says")
    m.begun_after_the_one_before = pyo.Constraint(m.ITERATIONS, rule=begun_after_the_one_before, doc="one by one")
    m.begun_after_arrivals = pyo.Constraint(m.REQUESTS, m.ITERATIONS, rule=begun_after_arrivals, doc="none is early")
    m.completed_with_last_token = pyo.Constraint(m.STARTS, rule=completed_with_last_token, doc="it ends with its last")
    m.completed_after_prompt = pyo.Constraint(m.REQUESTS, rule=completed_after_prompt, doc="its iterations take time")
    m.costs_what_it_must = pyo.Constraint(m.REQUESTS, rule=costs_what_it_must, doc="each start has its least cost")


def before(m: Any, i: str, k: int) -> Any:
    """started[i,k], 0 for k < 1."""
    return m.started[i, k] if k > 0 else 0


def step(m: Any, i: str, k: int) -> Any:
    """1 if iteration k processes the prompt of i."""
    return m.started[i, k] - before(m, i, k - 1)


def total_latency(m: Any) -> Any:
    """Sum of completion - arrival."""
    return pyo.quicksum(m.completion[i] for i in m.REQUESTS) - m.arrivals


def started_in_the_end(m: Any, i: str, k: int) -> Any:
    """Every prompt is processed."""
    return m.started[i, k] == 1


def started_inside(m: Any, i: str, k: int) -> Any:
    """A prompt is processed where it may be."""
    return step(m, i, k) == 0


def starts_follow(m: Any, i: str, k: int) -> Any:
    """The prompt is processed by then, and was not before."""
    return m.starts[i, k] == step(m, i, k)


def starting_follows(m: Any, k: int) -> Any:
    """Requests whose prompt is processed in iteration k."""
    return m.starting[k] == pyo.quicksum(step(m, i, k) for i in m.REQUESTS)


def prompts_follow(m: Any, k: int) -> Any:
    """Tokens of the prompts that are processed."""
    return m.prompts[k] == pyo.quicksum(m.prompt[i] * step(m, i, k) for i in m.REQUESTS)


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
    return step(m, i, k) <= m.reads[k]


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
    return m.completion[i] >= m.end[k + m.output[i] - 1] - m.others[i, k] * before(m, i, k - 1)


def completed_after_prompt(m: Any, i: str) -> Any:
    """Its own iterations, from the soonest end of the first."""
    return m.completion[i] >= pyo.quicksum(m.first_end[i, k] * m.starts[i, k] for k in m.STARTS_OF[i]) + m.decoding[i]


def costs_what_it_must(m: Any, i: str) -> Any:
    """What the best schedule costs, by where it starts i."""
    return total_latency(m) >= pyo.quicksum(m.least[i, k] * m.starts[i, k] for k in m.STARTS_OF[i])


def data(instance: Instance, known: Known) -> dict[str, Any]:
    """Values of all sets and parameters."""
    size, tokens = len(instance.requests), int(instance.arrays.output.sum())
    if size * tokens > MOST_STARTS:
        words = (
            f"{size:,} requests times {tokens:,} output tokens are {size * tokens:,} starts; at most {MOST_STARTS:,}"
        )
        raise TooLargeError(f"the instance is too large for serving-latency: {words}")
    server, requests = instance.server, instance.requests
    windows, arrival = known.iteration_windows, {r.id: 1000 * r.arrival for r in requests}
    decoding = dict(zip(arrival, windows.decoding, strict=True))
    first_end, least = ({(i, k): ms for i, at in zip(arrival, of, strict=True) for k, ms in at.items()}
                        for of in (windows.first_ends, windows.least))  # fmt: skip
    starts_of = {i: sorted(of) for i, of in zip(arrival, windows.first_ends, strict=True)}
    output = {r.id: r.output_tokens for r in requests}
    completes = {i: min(of.values()) + decoding[i] for i, of in zip(arrival, windows.first_ends, strict=True)}
    others = {(i, k): max(0.0, windows.latest[k + output[i] - 2] - completes[i]) for i, k in first_end}
    return {
        "REQUESTS": list(arrival),
        "iterations": len(windows.latest),
        "STARTS_OF": starts_of,
        "STARTS": list(first_end),
        "OUTSIDE": [(i, k) for i in arrival for k, _ in enumerate(windows.latest, start=1) if (i, k) not in first_end],
        "LAST_STARTS": [(i, of[-1]) for i, of in starts_of.items()],
        "arrival": arrival,
        "arrivals": sum(arrival.values()),
        "prompt": {r.id: r.prompt_tokens for r in requests},
        "output": output,
        "decoding": decoding,
        "soonest": dict(enumerate(windows.soonest, start=1)),
        "latest": dict(enumerate(windows.latest, start=1)),
        "first_end": first_end,
        "least": least,
        "others": others,
        "kv_capacity": server.kv_capacity_tokens or int(instance.arrays.peak.sum()),
        "batch_cap": min(server.slots or len(requests), len(requests)),
        **{name: getattr(server.clock, f"{name}_ms") for name in LAW},
    }


def extract(m: Any, instance: Instance) -> Schedule:
    """The schedule that the values of ``started`` say, each iteration begun as early as possible."""
    waited = {i: sum(not chosen(m.started[i, k]) for k in m.ITERATIONS) for i in m.REQUESTS}
    return schedule_from_iterations(instance, {i: k + 1 for i, k in waited.items()})


def start(m: Any, instance: Instance, schedule: Schedule) -> None:
    """Set the binaries to what a schedule without evictions says; times follow. KeyError outside of STARTS."""
    run = last = 0  # iterations run, and the last that has somebody in it
    for segment in schedule.segments:
        for i, _ in segment.admit:
            last = max(last, run + m.output[i])
            _ = m.first_end[i, run + 1]
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
