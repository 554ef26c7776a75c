"""The slot problem by exhaustive search, independent of the product's code, and random instances to hold against it.

Dijkstra over (who waits, rounds that each active request still decodes). Times are exact fractions of the decimal
numbers in the instance; the least makespan is that of a schedule, which the judge is asked about.
"""

from __future__ import annotations

import heapq
from fractions import Fraction
from itertools import combinations

import numpy as np

import modelkit as mk
from modelkit.instance import LinearClock, Request, Server

State = tuple[tuple[int, ...], tuple[tuple[int, int], ...]]


def exact(value: float) -> Fraction:
    """The decimal number that was written."""
    return Fraction(str(value))


def least_makespan(instance: mk.Instance) -> tuple[float, mk.Schedule] | None:
    """Least makespan [ms] and a schedule that has it; None when there is no schedule."""
    clock, slots = instance.server.clock, instance.server.slots
    assert isinstance(clock, LinearClock)
    assert slots is not None
    prompt = [r.prompt_tokens for r in instance.requests]
    output = [r.output_tokens for r in instance.requests]
    levels = [(capacity, exact(ms)) for capacity, ms in clock.prefill_levels or ()]
    base, token = exact(clock.prefill_base_ms), exact(clock.prefill_per_token_ms)
    tau, each, held = (
        exact(clock.decode_base_ms), exact(clock.decode_per_request_ms), exact(clock.decode_per_kv_token_ms)
    )  # fmt: skip

    def moves(state: State) -> list[tuple[Fraction, State, tuple[int, ...]]]:
        waiting, active = state
        found = []
        for size in range(1, min(slots - len(active), len(waiting)) + 1):
            for batch in combinations(waiting, size):
                tokens = sum(prompt[i] for i in batch)
                costs = [ms for capacity, ms in levels if capacity >= tokens] if levels else [base + token * tokens]
                if costs:
                    rest = tuple(i for i in waiting if i not in batch)
                    now = tuple(sorted((*active, *((i, output[i]) for i in batch))))
                    found.append((min(costs), (rest, now), batch))
        if active:
            kv = sum(prompt[i] + output[i] - left + 1 for i, left in active)
            after = tuple((i, left - 1) for i, left in active if left > 1)
            found.append((tau + each * len(active) + held * kv, (waiting, after), ()))
        return found

    first: State = (tuple(range(len(prompt))), ())
    known, came, heap, count = {first: Fraction(0)}, {}, [(Fraction(0), 0, first)], 0
    while heap:
        cost, _, state = heapq.heappop(heap)
        if cost > known[state]:
            continue
        if state == ((), ()):
            return float(cost), _schedule(instance, came)
        for duration, after, batch in moves(state):
            if after not in known or cost + duration < known[after]:
                known[after], came[after], count = cost + duration, (state, batch, cost), count + 1
                heapq.heappush(heap, (cost + duration, count, after))
    return None


def _schedule(instance: mk.Instance, came: dict[State, tuple[State, tuple[int, ...], Fraction]]) -> mk.Schedule:
    """The way to the end, as segments; who is admitted takes any free slot."""
    way, state = [], ((), ())
    while state in came:
        state, batch, begun = came[state]
        way.append((batch, float(begun / 1000)))
    segments: list[mk.Segment] = []
    for batch, at in reversed(way):
        if batch:
            segments.append(mk.Segment(at, tuple(mk.Admission(instance.requests[i].id) for i in batch), rounds=0))
        else:
            last = segments[-1]
            segments[-1] = mk.Segment(last.at, last.admit, rounds=last.rounds + 1)
    return mk.Schedule(tuple(segments))


def odd_instance(seed: int) -> mk.Instance:
    """One to six requests on one to four slots, or more slots than requests, with an odd law of prefills.

    Levels that are not in order, cost less for more, leave gaps, are one or too small, cost nothing or are none at
    all; a KV capacity that is just no limit; equal requests; outputs of one token; rounds that cost nothing.
    """
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 7))
    slots = int(rng.integers(1, 5)) if rng.random() < 0.9 else n + int(rng.integers(1, 4))
    longest = 1 if rng.random() < 0.1 else int(rng.integers(2, 7 if n > 4 else 9))
    prompt, output = rng.integers(1, 12, n), rng.integers(1, longest + 1, n)
    if rng.random() < 0.15:
        prompt[:], output[:] = prompt[0], output[0]
    law = {
        "decode_base_ms": float(rng.choice([0.0, 5.0, 10.0, 30.0, 74.4], p=[0.05, 0.2, 0.3, 0.25, 0.2])),
        "decode_per_request_ms": float(rng.choice([0.0, 0.0, 0.0, 0.25, 3.0])),
        "decode_per_kv_token_ms": float(rng.choice([0.0, 0.0, 0.0, 0.01, 0.3])),
    }
    if rng.random() < 0.3:
        law |= {
            "prefill_base_ms": float(rng.choice([0.0, 1.0, 7.0, 40.4, 200.0])),
            "prefill_per_token_ms": float(rng.choice([0.0, 0.118, 2.0])),
        }
    else:
        largest = int(prompt.max())
        if rng.random() < 0.05:
            largest -= 1
        capacity = [max(1, largest + int(rng.integers(0, 1 + int(prompt.sum()))))]
        capacity += rng.integers(1, int(prompt.sum()) + 12, int(rng.choice([0, 0, 1, 2, 3]))).tolist()
        if largest < prompt.max():
            capacity = [min(c, max(1, largest)) for c in capacity]
        times = rng.choice([0.0, 1.0, 5.0, 10.0, 33.3, 40.0, 100.0], len(capacity))
        if rng.random() < 0.5:
            capacity, times = sorted(capacity), np.sort(times)
        law["prefill_levels"] = tuple((int(c), float(ms)) for c, ms in zip(capacity, times, strict=True))
    memory = int(np.sort(prompt + output)[-slots:].sum()) if rng.random() < 0.15 else None
    return mk.Instance(
        name=f"odd-{seed}",
        server=Server(slots=slots, kv_capacity_tokens=memory, clock=LinearClock(kind="linear", **law)),
        requests=tuple(
            Request(id=f"q{i}", prompt_tokens=int(s), output_tokens=int(o))
            for i, (s, o) in enumerate(zip(prompt, output, strict=True))
        ),
    )


def disagreements(instance: mk.Instance, *, others: bool = True) -> list[str]:
    """Every status, value and bound that the search contradicts: of solve, bound, and all policies.

    ``others``: of all formulations and of both solvers, too.
    """
    best = least_makespan(instance)
    if best is None:
        return _claims_of_infeasibility(instance)
    optimum, schedule = best
    wrong = _not_this(instance, "the search itself", schedule, optimum)
    runs = [("solve", None, None, "best")]
    if others:
        runs += [("full", "slot-full-mip", "scip", "none")]
        runs += [
            (name, name, "highs", "none") for name in ("slot-full-mip", "slot-lower-bound", "makespan-bin-packing")
        ]
    for label, formulation, solver, start in runs:
        found = mk.solve(instance, formulation, solver, warm_start=start, time_limit=60, threads=1)
        exact_claim = formulation in (None, "slot-full-mip")
        if exact_claim and found.status != "optimal":
            wrong.append(f"{label}: {found.status}, {found.stop}, {found.message}")
        wrong += _wrong(label, instance, found, optimum, proven=exact_claim)
        wrong += [f"{label}: verify: {fault}" for fault in mk.verify_result(found, instance).faults]
    known = mk.bound(instance, time_limit=30)
    wrong += _wrong("bound", instance, known.result, optimum, proven=known.result.status == "optimal")
    wrong += [f"certificate: {fault}" for fault in mk.verify_certificate(known.certificate, instance).faults]
    for policy in ("exclusive-batching", "fcfs", "hybrid", "lagrangian", "sorted"):
        wrong += _wrong(policy, instance, mk.simulate(instance, policy), optimum, proven=False)
    return wrong


def _wrong(label: str, instance: mk.Instance, result: mk.Result, optimum: float, *, proven: bool) -> list[str]:
    value, bound, slack = result.objective.value, result.objective.bound, 1e-6 * max(1.0, optimum)
    wrong = []
    if bound is not None and bound > optimum + slack:
        wrong.append(f"{label}: bound {bound} above the optimum {optimum}")
    if result.schedule is not None and not mk.verify_result(result, instance).holds:
        wrong.append(f"{label}: the schedule or its numbers do not hold")
    if value is not None and value < optimum - slack:
        wrong.append(f"{label}: value {value} below the optimum {optimum}")
    if value is not None and bound is not None and value < bound:
        wrong.append(f"{label}: value {value} below its own bound {bound}")
    if proven and (value is None or abs(value - optimum) > slack):
        wrong.append(f"{label}: {result.status} with value {value}, the optimum is {optimum}")
    if result.objective.bound_by != "solver" and result.schedule is None:
        wrong.append(f"{label}: no schedule, {result.status}, {result.message}")
    return wrong


def _not_this(instance: mk.Instance, label: str, schedule: mk.Schedule, value: float) -> list[str]:
    from modelkit.judge import judge

    verdict = judge(instance, schedule)
    judged = verdict.metrics["makespan_ms"]
    same = judged is not None and abs(judged - value) <= 1e-6 * max(1.0, value)
    return [] if verdict.valid and same else [f"{label}: judged {judged}, {verdict.violations}; searched {value}"]


def _claims_of_infeasibility(instance: mk.Instance) -> list[str]:
    from modelkit.errors import InfeasibleError

    wrong = []
    status = mk.solve(instance, time_limit=60).status
    if status != "infeasible":
        wrong.append(f"solve: {status}, but no schedule exists")
    for label, run in (("bound", lambda: mk.bound(instance)), ("fcfs", lambda: mk.simulate(instance, "fcfs"))):
        try:
            run()
            wrong.append(f"{label}: an answer, but no schedule exists")
        except InfeasibleError:
            pass
    return wrong
