"""Every bound of serving in real time on one instance, with the proofs that are found and with random ones.

What verification accepts is a bound, whoever wrote the proof; so random proofs are held against the optimum too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from random_prices import random_prices
from realtime_brute_force import OBJECTIVES, Question, judged_value, optimum

import modelkit as mk
from modelkit.certificate import SHARE, Prices, ServingPrices, Work
from modelkit.instance import LinearClock, Server
from modelkit.judge import judge
from modelkit.problems.problem import SERVING
from modelkit.problems.serving.price_ascent import Plan
from modelkit.problems.serving.prices import price_bound, written_prices
from modelkit.simulation.simulate import clairvoyant_schedule, fitting_policies
from modelkit.sources.families import generate
from modelkit.sources.servers import find_server
from modelkit.verify.serving_costs import ServingCosts
from modelkit.verify.serving_prices import serving_prices_bound
from modelkit.verify.serving_work import rounds_instance, work_bound

#: The metrics by the names that the exhaustive search has for them.
METRICS = {"latency": "total_latency_ms", "makespan": "makespan_ms", "ttft": "total_ttft_ms"}
#: A short ascent.
SHORT = (Plan(4, 30, 0.5), Plan(2, 20, 1.0))
assert set(METRICS.values()) == set(SERVING.objectives)


class Claim(NamedTuple):
    """A bound [ms] on one metric, its kind, and in words what it comes from."""

    kind: str
    metric: str
    value: Fraction
    proof: str


def claims(instance: mk.Instance, seed: int) -> Iterator[Claim]:
    """All bounds of an instance with the linear clock, those with random proofs by a seed."""
    rng = np.random.default_rng([3, seed])
    for work in works(instance, rng):
        for metric in METRICS.values():
            yield Claim("work", metric, work_bound(instance, work, metric), str(work))
    for prices in (*(random_prices(instance, rng) for _ in range(3)), *found_prices(instance, rng)):
        yield Claim("prices", METRICS["latency"], serving_prices_bound(instance, prices), str(prices))


def found_prices(instance: mk.Instance, rng: np.random.Generator) -> Iterator[ServingPrices]:
    """Prices on time that a short ascent finds from any completions, with own ones and without."""
    costs = ServingCosts.of(instance)
    earliest = (np.array(costs.arrival) + np.array(costs.residence) / 2**20) / 2**10
    completions = earliest + rng.exponential(sum(costs.own_work) / 2**30 + 1, len(earliest))
    for own in (True, False):
        found = price_bound(instance, completions, own=own, levels=SHORT)
        yield written_prices(instance, found)


def works(instance: mk.Instance, rng: np.random.Generator) -> Iterator[Work]:
    """Ways to count work: every split, cells of any length, and prices on rounds where all arrive together."""
    coarse = len(instance.requests) ** 2  # few cells where there are many requests
    for share in (0, SHARE, int(rng.integers(SHARE + 1))):
        cell = coarse * int(rng.choice([rng.integers(50, 500), rng.integers(500, 50_000)]))
        holding = rng.integers(1, 100_000, 2).tolist()
        yield Work(memory_share=share, cell=cell, holding=holding)
    counted = rounds_instance(instance)
    if len(set(instance.arrays.arrival.tolist())) > 1 or counted is None:
        return
    yield Work(memory_share=int(rng.integers(SHARE + 1)), rounds=Prices(denominator=1, rounds=[], numerators=[]))
    if counted.server.kv_capacity_tokens is not None:
        last = int(rng.integers(1, 1 + counted.arrays.output.sum()))
        prices = np.sort(rng.integers(0, 300, last))[::-1].tolist()
        rounds = Prices(denominator=2**10, rounds=list(range(1, last + 1)), numerators=prices)
        yield Work(memory_share=int(rng.integers(SHARE + 1)), rounds=rounds)


@dataclass(frozen=True)
class Compared:
    """How many bounds were compared, those that are too high, and how close the best of each kind and metric comes."""

    bounds: int
    excesses: list[str]
    shares: dict[str, float]


def against_optima(posed: Question, seed: int) -> Compared:
    """The bounds of a tiny instance, beside what no schedule is below."""
    instance, chunk, evictions = posed
    least = {}
    for name, metric in METRICS.items():
        best = optimum(instance, name, evictions=evictions, chunk=chunk)
        assert best is not None
        least[metric] = best.value
    return _compared(list(claims(instance, seed)), least)


def excesses(posed: Question, seed: int) -> list[str]:
    """The bounds of a tiny instance that are above its optimum."""
    return against_optima(posed, seed).excesses


def against_policies(instance: mk.Instance, seed: int) -> Compared:
    """The bounds of an instance beside the best that any policy comes to, told the true lengths."""
    least: dict[str, float] = {}
    for policy in fitting_policies(instance):
        verdict = judge(instance, clairvoyant_schedule(instance, policy))
        assert verdict.valid, (policy, verdict.violations)
        for name in OBJECTIVES:
            value = judged_value(instance, verdict, name)
            least[METRICS[name]] = min(value, least.get(METRICS[name], value))
    return _compared(list(claims(instance, seed)), least)


def _compared(found: list[Claim], least: dict[str, float]) -> Compared:
    """The judge adds up doubles: a millionth of a millionth above the value is none."""
    wrong, shares = [], {}
    for kind, metric, value, proof in found:
        best = least[metric]
        if value > Fraction(best) + Fraction(max(1.0, best)) / 10**12:
            wrong.append(f"{metric}: {float(value)} by {kind} is above {best}; the proof is {proof[:2000]}")
        if best > 0:
            key = f"{kind} {metric}"
            shares[key] = max(shares.get(key, 0.0), float(value) / best)
    return Compared(len(found), wrong, shares)


def larger_instance(seed: int) -> mk.Instance:
    """10 to 500 requests of a family on a server that exists or with a law of its own, in light to heavy load."""
    rng = np.random.default_rng([4, seed])
    n = int(np.exp(rng.uniform(np.log(10), np.log(500))))
    rate = float(np.exp(rng.uniform(np.log(0.5), np.log(60))))
    server = find_server(str(rng.choice(["llama2-70b-2xa100", "llama2-70b-8xh100", "llama2-70b-4xa100"])))
    drawn = generate("chat", seed=seed, requests=n)
    arrival = np.cumsum(rng.exponential(1 / rate, n)) if rng.random() < 0.85 else np.zeros(n)
    rows = zip(drawn.requests, np.round(arrival, 6).tolist(), strict=True)
    peak = max(r.prompt_tokens + r.output_tokens for r in drawn.requests)
    clock = server.clock
    if rng.random() < 0.4:
        parts = ("base_ms", "prefill_base_ms", "prefill_per_token_ms", "decode_base_ms")
        some = {part: float(rng.choice([0.0, 0.2, 5.0, 30.0])) for part in parts}
        clock = LinearClock(kind="linear", mixed=True, decode_per_kv_token_ms=1e-4, **some)
    exclusive = rng.random() < 0.2
    memory = None if exclusive else int(rng.choice([server.kv_capacity_tokens or 20_000, 2 * peak, 6 * peak]))
    slots = int(rng.integers(1, 40)) if exclusive or rng.random() < 0.3 else None
    return mk.Instance(
        name=f"larger-{seed}",
        server=Server(kv_capacity_tokens=memory, slots=slots, clock=clock.model_copy(update={"mixed": not exclusive})),
        requests=tuple(r.model_copy(update={"arrival": a}) for r, a in rows),
    )
