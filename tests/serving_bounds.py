"""Every bound of serving in real time on one instance, with the proofs that are found and with random ones.

What verification accepts is a bound, whoever wrote the proof; so random proofs are held against the optimum too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from random_prices import random_prices
from realtime_brute_force import METRICS, OBJECTIVES, Question, judged_value, optimum_on_replicas

import modelkit as mk
from modelkit.backends import Limits, backend
from modelkit.backends.standard_form import compile_model
from modelkit.certificate import SHARE, Interference, Prices, ServingPrices, Work
from modelkit.errors import InputError
from modelkit.formulation.loading import load_formulation
from modelkit.instance import LinearClock, Server
from modelkit.judge import judge
from modelkit.problems.problem import SERVING
from modelkit.problems.serving.bounds import serving_bounds
from modelkit.problems.serving.interference import interference_weights
from modelkit.problems.serving.price_ascent import Plan
from modelkit.problems.serving.prices import price_bound, written_prices
from modelkit.simulation.simulate import clairvoyant_schedule, fitting_policies
from modelkit.solving.known import known_of
from modelkit.sources.families import generate
from modelkit.sources.servers import find_server
from modelkit.verify.exact_bounds import recomputed_bound
from modelkit.verify.serving_costs import ServingCosts
from modelkit.verify.serving_interference import interference_bound
from modelkit.verify.serving_prices import serving_prices_bound
from modelkit.verify.serving_work import rounds_instance, work_bounds

#: A short ascent.
SHORT = (Plan(4, 30, 0.5), Plan(2, 20, 1.0))
assert set(METRICS.values()) == set(SERVING.objectives)


class Claim(NamedTuple):
    """A bound [ms] on one metric by its name, and its proof."""

    name: str
    metric: str
    value: Fraction
    proof: Any


def claims(instance: mk.Instance, seed: int) -> Iterator[Claim]:
    """All bounds of an instance with the linear clock: those that are found, and those of random proofs, by a seed."""
    for metric in METRICS.values():
        for bound in serving_bounds(instance, metric):
            proven = bound.certificate.bound
            assert recomputed_bound(bound.certificate, instance) >= Fraction(proven.numerator, proven.denominator)
            yield Claim(bound.name, metric, Fraction(proven.numerator, proven.denominator), bound.certificate)
    rng = np.random.default_rng([3, seed])
    for work in works(instance, rng):
        for metric in METRICS.values():
            for name, value in work_bounds(instance, work, metric).items():
                yield Claim(name, metric, value, work)
    for weights in interferences(instance, rng):
        yield Claim("interference", METRICS["latency"], interference_bound(instance, weights), weights)
    for _ in range(3):
        prices = random_prices(instance, rng)
        yield Claim("prices", METRICS["latency"], serving_prices_bound(instance, prices), prices)
    for own, name in ((True, "prices"), (False, "prices on memory and slots")):
        prices = found_prices(instance, rng, own)
        yield Claim(name, METRICS["latency"], serving_prices_bound(instance, prices), prices)


def found_prices(instance: mk.Instance, rng: np.random.Generator, own: bool) -> ServingPrices:
    """Prices on time that a short ascent finds from any completions, with own ones or without."""
    costs = ServingCosts.of(instance)
    earliest = (np.array(costs.arrival) + np.array(costs.residence) / 2**20) / 2**10
    completions = earliest + rng.exponential(sum(costs.own_work) / 2**30 + 1, len(earliest))
    return written_prices(instance, price_bound(instance, completions, own=own, levels=SHORT))


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


def interferences(instance: mk.Instance, rng: np.random.Generator) -> Iterator[Interference]:
    """Shares of delay, the same or another for each request, and charges for prefills as far as they are accepted."""
    costs, n = ServingCosts.of(instance), len(instance.requests)
    if costs.replicas > 1:
        return
    for shares in (rng.integers(0, SHARE + 1, n), np.full(n, rng.integers(0, 300)), rng.choice([0, 1, 100, SHARE], n)):
        weights = interference_weights(costs, shares.tolist())
        assert weights is not None
        yield weights
        others = [int(v * rng.choice([0, 0.5, 1, 1, 1.1, 2])) for v in weights.prefills]
        drawn = weights.model_copy(update={"prefills": others})
        with contextlib.suppress(InputError):  # charged too much
            interference_bound(instance, drawn)
            yield drawn


def relaxations(instance: mk.Instance) -> Iterator[Claim]:
    """The optimum of each formulation without whole numbers, less a solver's tolerance.

    Of what each says by itself, and of what it says of the windows that a search over states leaves.
    """
    for name, metric in zip(("serving-latency", "serving-makespan", "serving-ttft"), METRICS.values(), strict=True):
        formulation = load_formulation(name)
        if formulation.refusal(instance) is not None:
            continue
        knows = {"relaxation": mk.Known(instance), "relaxation of windows": known_of(formulation, instance)}
        for kind, known in knows.items():
            form, _ = compile_model(formulation.instantiate(instance, known))
            form.integer[:] = False
            outcome, _ = backend("highs").solve_form(form, Limits(), {})  # type: ignore[attr-defined]
            yield Claim(kind, metric, Fraction(outcome.bound - 1e-6 * max(1.0, abs(outcome.bound))), name)


@dataclass(frozen=True)
class Compared:
    """How many bounds were compared, those that are too high, and how close the best of each kind and metric comes."""

    bounds: int
    excesses: list[str]
    shares: dict[str, float]


def against_optima(parametrised: Question, seed: int, *, relaxed: bool = False) -> Compared:
    """The bounds of a tiny instance, beside what no schedule is below.

    ``relaxed``: and where prompts are processed whole, the optima of the relaxed formulations.
    """
    instance, chunk, evictions = parametrised
    least = {}
    for name, metric in METRICS.items():
        best = optimum_on_replicas(instance, name, evictions=evictions, chunk=chunk)
        assert best is not None
        least[metric] = best
    others = relaxations(instance) if relaxed and chunk is None else ()
    return _compared([*claims(instance, seed), *others], least)


def excesses(parametrised: Question, seed: int) -> list[str]:
    """The bounds of a tiny instance that are above its optimum."""
    return against_optima(parametrised, seed).excesses


def against_policies(instance: mk.Instance, seed: int) -> Compared:
    """The bounds of an instance beside the best that any policy comes to, told the true lengths."""
    least: dict[str, float] = {}
    for policy in fitting_policies(instance):
        verdict = judge(instance, clairvoyant_schedule(instance, policy))
        assert verdict.valid, (policy, verdict.violations)
        for name in OBJECTIVES:
            value = judged_value(verdict, name)
            least[METRICS[name]] = min(value, least.get(METRICS[name], value))
    return _compared(list(claims(instance, seed)), least)


def _compared(found: list[Claim], least: dict[str, float]) -> Compared:
    """The judge adds up doubles: a millionth of a millionth above the value is none."""
    wrong, shares = [], {}
    for name, metric, value, proof in found:
        best = least[metric]
        if value > Fraction(best) + Fraction(max(1.0, best)) / 10**12:
            wrong.append(f"{metric}: {float(value)} by {name} is above {best}; the proof is {proof!r:.2000}")
        if best > 0:
            key = f"{name} {metric}"
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
