"""Prices on time: against a direct evaluation, optima and policies; certificates written, read, altered."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from random_prices import random_prices
from realtime_brute_force import optimum, question
from seeds import each
from serving_bounds import SHORT, larger_instance

import modelkit as mk
from modelkit.certificate import ServingPrices
from modelkit.errors import InputError, InterruptedWith
from modelkit.io import parse_certificate
from modelkit.judge import judge
from modelkit.problems.serving.price_ascent import Plan
from modelkit.problems.serving.prices import certificate_of, price_bound, written_prices
from modelkit.runtime.deadline import Deadline
from modelkit.simulation.simulate import clairvoyant_schedule, fitting_policies
from modelkit.verify.certificates import certificate_faults
from modelkit.verify.serving_costs import ServingCosts
from modelkit.verify.serving_prices import serving_prices_bound

TICKS, COSTS = 2**10, 2**30


class Costs:
    """What request i costs by its completion, straight from the definition, in exact fractions of ms."""

    def __init__(self, instance: mk.Instance, prices: ServingPrices, i: int) -> None:
        self.costs, self.prices, self.i = ServingCosts.of(instance), prices, i
        c = self.costs
        s, d = c.prompt[i], c.decodes[i]

        def ms(cost: int) -> Fraction:
            return Fraction(cost, COSTS)

        self.arrival, self.residence, self.decode = Fraction(c.arrival[i], TICKS), ms(c.residence[i]), ms(c.decoding[i])
        self.each = self.decode / max(d, 1)
        self.prompt = ms(c.prefill_per_token * s)
        self.fixed = ms(c.base + c.prefill_base) + (0 if c.mixed else self.prompt)
        fixed = c.base + c.decode_base
        theta = Fraction(c.base, fixed) if fixed else Fraction(0)
        own = [0] * prices.first[i] + list(prices.decoding[i]) + [0] * len(prices.server)
        own_prompt = [0] * prices.first[i] + list(prices.prompts[i]) + [0] * len(prices.server)
        self.rows: list[list[Fraction]] = [[], [], [], []]
        unit = prices.denominator
        for b, pi in enumerate(prices.server):
            per_token, per_slot = Fraction(prices.memory[b], c.capacity), Fraction(prices.slots[b], c.slots)
            token, slot = Fraction(prices.prompt_memory[b], c.capacity), Fraction(prices.prompt_slots[b], c.slots)
            now = (
                ms(c.decode_per_request) * pi + per_slot + own[b],
                ms(c.decode_per_kv_token) * pi + per_token,
                Fraction(pi),
                (s + 1) * (token + theta * per_token) + slot + theta * per_slot + own_prompt[b] + theta * own[b],
            )
            for row, price in zip(self.rows, now, strict=True):
                row.append(price / unit)
        self.held = s + c.mixed + Fraction(1, 2)
        self.start, self.length = Fraction(prices.start, TICKS), Fraction(prices.bucket, TICKS)

    def pieces(self, row: int, begin: Fraction, end: Fraction) -> list[tuple[Fraction, Fraction, Fraction]]:
        """(from, to, running minimum since the arrival) of the parts of an interval that are not free."""
        first, found, least = int((self.arrival - self.start) // self.length), [], None
        for b in range(first, len(self.prices.server)):
            price = self.rows[row][b]
            least = price if least is None else min(least, price)
            left, right = self.start + b * self.length, self.start + (b + 1) * self.length
            if max(left, begin) < min(right, end):
                found.append((max(left, begin), min(right, end), least))
        return found

    def at(self, completion: Fraction) -> Fraction:
        st, cost = completion - self.decode, completion - self.arrival
        if self.decode:
            cost += sum((y - x) * q for x, y, q in self.pieces(0, st, completion)) / self.each
            for x, y, q in self.pieces(1, st, completion):
                cost += (y - x) * q * (self.held + ((x + y) / 2 - st) / self.each) / self.each
        cost += sum((y - x) * q for x, y, q in self.pieces(2, st - self.prompt, st))
        if self.fixed:
            cost += sum((y - x) * q for x, y, q in self.pieces(3, st - self.fixed, st)) / self.fixed
        return cost


def least_costs(instance: mk.Instance, prices: ServingPrices, i: int) -> Fraction:
    """The least over many completions, which is no less than the least of all."""
    costs = Costs(instance, prices, i)
    soonest = costs.arrival + costs.residence
    borders = [costs.start + b * costs.length for b in range(len(prices.server) + 1)]
    ends = {soonest}
    for border in borders:
        for shift in (0, costs.decode, costs.decode + costs.prompt, costs.decode + costs.fixed):
            ends.add(max(soonest, border + shift))
    ordered = sorted(ends)
    ordered += [(x + y) / 2 for x, y in pairwise(ordered)]
    return min(costs.at(end) for end in ordered)


@pytest.mark.parametrize("seed", range(16))
def test_the_bound_is_what_the_definition_says(seed: int) -> None:
    """Tests it against sums over completions: between half a per cent less and no more."""
    instance = question(seed).instance
    prices = random_prices(instance, np.random.default_rng(seed), buckets=12)
    bound = serving_prices_bound(instance, prices)
    costs = ServingCosts.of(instance)
    paid = Fraction(prices.bucket * sum(prices.server), prices.denominator * TICKS)
    rest = Fraction(sum(costs.arrival), TICKS) - paid - costs.arrivals_ms
    least = [least_costs(instance, prices, i) for i in range(len(costs.prompt))]
    assert bound <= rest + sum(least)
    assert bound >= rest + sum(least) - Fraction(len(least), 200) - sum(least) / 200


def reference(instance: mk.Instance) -> np.ndarray[Any, Any]:
    """Completions in the best schedule of a policy [ms]."""
    verdicts = [judge(instance, clairvoyant_schedule(instance, policy)) for policy in fitting_policies(instance)]
    best = min(verdicts, key=lambda verdict: verdict.metrics["total_latency_ms"])
    ends = np.zeros(len(instance.requests))
    for residency in best.residencies:
        if residency.completed:
            ends[residency.request] = residency.end
    return ends


@pytest.mark.parametrize("seed", range(8))
def test_no_optimum_is_below(seed: int) -> None:
    """Tests prices of an ascent and random ones; with evictions, chunks, both clocks, levels, any limits."""
    instance, chunk, evictions = question(1000 + seed)
    best = optimum(instance, "latency", evictions=evictions, chunk=chunk)
    assert best is not None
    rng = np.random.default_rng(seed)
    ends = instance.arrays.arrival * 1000.0 + rng.exponential(
        best.value / len(instance.requests) + 1, len(instance.requests)
    )
    proofs = [written_prices(instance, price_bound(instance, ends, own=own, levels=SHORT)) for own in (True, False)]
    proofs += [random_prices(instance, rng) for _ in range(5)]
    for prices in proofs:
        assert serving_prices_bound(instance, prices) <= Fraction(best.value) * (1 + Fraction(1, 10**12))


@pytest.mark.slow
def test_no_optimum_is_below_on_many() -> None:
    """Tests the same on many more."""
    each(range(1000, 1300), test_no_optimum_is_below)


def below_every_policy(seed: int) -> None:
    instance = larger_instance(seed)
    ends = reference(instance)
    value = ends.sum() - (instance.arrays.arrival * 1000.0).sum()
    residence = sum(ServingCosts.of(instance).residence) / COSTS
    for own in (True, False):
        prices = price_bound(instance, ends, own=own, levels=SHORT)
        certificate = certificate_of(instance, prices)
        assert residence * (1 - 1e-6) - 0.01 * len(ends) <= certificate.value <= value * (1 + 1e-12)
        assert certificate.value >= prices.value * 0.998
        assert certificate_faults(certificate, instance) == []


@pytest.mark.parametrize("seed", [2, 3])
def test_no_policy_is_below(seed: int) -> None:
    """Tests up to 500 requests in light to heavy load; little of the floating-point value is lost."""
    below_every_policy(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(4, 24), range(24, 44), range(44, 64)])
def test_no_policy_is_below_on_many(seeds: range) -> None:
    """Tests the same on many more."""
    each(seeds, below_every_policy)


# --- certificates ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def priced() -> tuple[mk.Instance, dict[str, Any]]:
    """An instance in which much waits, and the certificate of good prices."""
    instance = mk.load(
        {
            "schema": "modelkit/instance/1",
            "server": {
                "kv_capacity_tokens": 60,
                "slots": 4,
                "clock": {
                    "kind": "linear", "mixed": True, "base_ms": 2, "prefill_base_ms": 1, "prefill_per_token_ms": 0.5,
                    "decode_base_ms": 6, "decode_per_request_ms": 0.5, "decode_per_kv_token_ms": 0.02,
                },
            },
            "requests": [
                {"id": f"q{i}", "arrival": i / 100, "prompt_tokens": 3 + 5 * i % 11, "output_tokens": 4 + 7 * i % 13}
                for i in range(12)
            ],
        }
    )  # fmt: skip
    return instance, certificate_of(instance, price_bound(instance, reference(instance), levels=SHORT)).document()


def test_a_certificate_is_read_and_accepted(priced: tuple[mk.Instance, dict[str, Any]]) -> None:
    """Tests a certificate through JSON; a lower claim holds as well, a higher one does not."""
    instance, document = priced
    certificate = parse_certificate(json.loads(json.dumps(document)), "file")
    assert certificate_faults(certificate, instance) == []
    assert certificate.value > 1.1 * sum(ServingCosts.of(instance).residence) / COSTS
    bound = certificate.bound
    for change, fine in ((-1, True), (1, False)):
        claim = bound.model_copy(update={"numerator": bound.numerator + change})
        faults = certificate_faults(certificate.model_copy(update={"bound": claim}), instance)
        assert (faults == []) == fine


def test_altered_prices_prove_what_they_prove(priced: tuple[mk.Instance, dict[str, Any]]) -> None:
    """Tests random changes of one number: refused, or accepted with a bound of its own that no policy is below."""
    instance, document = priced
    ends = reference(instance)
    value = Fraction(float(ends.sum() - (instance.arrays.arrival * 1000.0).sum()))
    rng = np.random.default_rng(0)
    refused = raised = 0
    for _ in range(150):
        proof = json.loads(json.dumps(document["serving_prices"]))
        name = str(rng.choice(list(proof)))
        part = proof[name]
        if isinstance(part, int):
            proof[name] = max(0, int(part * rng.choice([0, 0.5, 0.999, 1.001, 2])) + int(rng.integers(-1, 2)))
        else:
            place = int(rng.integers(len(part)))
            if isinstance(part[place], list):
                part, place = part[place], int(rng.integers(max(1, len(part[place]))))
            if place < len(part):
                part[place] = max(
                    0, int(part[place] * rng.choice([0, 0.5, 0.999, 1.001, 2, 100])) + int(rng.integers(-1, 2))
                )
        if proof == document["serving_prices"]:
            continue
        try:
            certificate = parse_certificate({**document, "serving_prices": proof}, "file")
            bound = serving_prices_bound(instance, certificate.serving_prices)
        except InputError:
            refused += 1
            continue
        claimed = Fraction(document["bound"]["numerator"], document["bound"]["denominator"])
        assert bound <= value
        assert (certificate_faults(certificate, instance) == []) == (claimed <= bound)
        raised += claimed > bound
    assert refused > 15
    assert raised > 20


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"memory": []}, "memory: found 0 buckets"),
        ({"first": [0]}, "first: found 1 requests; the instance has 12"),
        ({"first": [10**6] * 12}, "reach beyond the buckets"),
        ({"start": 1}, "at most the first arrival"),
        ({"bucket": 2**50}, "reach beyond"),
    ],
)
def test_prices_that_do_not_fit_are_named(
    priced: tuple[mk.Instance, dict[str, Any]], change: dict[str, Any], words: str
) -> None:
    """Tests shapes and limits."""
    instance, document = priced
    certificate = parse_certificate({**document, "serving_prices": {**document["serving_prices"], **change}}, "file")
    assert words in " ".join(certificate_faults(certificate, instance))


def test_prices_above_what_iterations_cost_are_refused(priced: tuple[mk.Instance, dict[str, Any]]) -> None:
    """Tests each kind of price by itself."""
    instance, document = priced
    for name in ("memory", "slots", "prompt_memory", "prompt_slots"):
        proof = json.loads(json.dumps(document["serving_prices"]))
        proof[name][0] += proof["server"][0] * 10
        faults = certificate_faults(parse_certificate({**document, "serving_prices": proof}, "file"), instance)
        assert "of bucket 0 sum to more than what an iteration costs" in faults[0]


@pytest.mark.parametrize("change", [{"decode_base_ms": 0, "base_ms": 1e9}, {"base_ms": 1e-6, "decode_base_ms": 0}, {}])
def test_odd_numbers_are_recomputed(priced: tuple[mk.Instance, dict[str, Any]], change: dict[str, float]) -> None:
    """Tests laws of enormous and tiny durations, arrivals far away, and the highest prices that a file may state."""
    instance, _ = priced
    clock = instance.server.clock.model_copy(update=change)
    far = [r.model_copy(update={"arrival": 1e9 - 1000 + i}) for i, r in enumerate(instance.requests)]
    odd = mk.Instance(server=instance.server.model_copy(update={"clock": clock}), requests=far)
    ends = odd.arrays.arrival * 1000.0 + 5000
    residence = sum(ServingCosts.of(odd).residence) / COSTS
    prices = written_prices(odd, price_bound(odd, ends, levels=SHORT))
    assert residence * 0.999 - 1 <= serving_prices_bound(odd, prices) <= 1e3 * residence + 1e6
    high = prices.model_copy(update={"server": [2**41 - 1] * len(prices.server), "denominator": 1})
    assert serving_prices_bound(odd, high) <= 1e3 * residence + 1e6


# --- the ascent ------------------------------------------------------------------------------------


def test_a_deadline_and_ctrl_c_keep_the_best(priced: tuple[mk.Instance, dict[str, Any]]) -> None:
    """Tests what is left of an ascent that is cut short; and that the same work gives the same prices."""
    instance, _ = priced
    ends = reference(instance)
    told: list[float] = []
    whole = price_bound(instance, ends, levels=SHORT, listen=told.append)
    assert told == sorted(told)
    assert told[-1] == whole.value
    assert not whole.cut
    again = price_bound(instance, ends, levels=SHORT)
    assert (again.value, again.priced.common.tolist()) == (whole.value, whole.priced.common.tolist())
    assert price_bound(instance, ends, deadline=Deadline.after(0)).cut

    def stop(value: float) -> None:
        if len(told) < 3:
            told.append(value)
        else:
            raise KeyboardInterrupt

    told.clear()
    with pytest.raises(InterruptedWith) as stopped:
        price_bound(instance, ends, listen=stop)
    assert stopped.value.best.value >= told[-1]
    assert certificate_of(instance, stopped.value.best).value >= told[-1] * 0.998


def test_own_prices_share_what_memory_does_not() -> None:
    """Tests requests that decode together on a server with room for all: memory says nothing, own prices do."""
    clock = {"kind": "linear", "mixed": True, "prefill_per_token_ms": 1.0, "decode_base_ms": 10.0}
    instance = mk.load(
        {
            "schema": "modelkit/instance/1",
            "server": {"kv_capacity_tokens": 10**6, "clock": clock},
            "requests": [
                {"id": f"q{i}", "arrival": i / 20, "prompt_tokens": 40, "output_tokens": 12} for i in range(40)
            ],
        }
    )
    ends = reference(instance)
    plans = (Plan(2, 100, 0.5), Plan(1, 60, 1.0))
    with_own, without = (
        certificate_of(instance, price_bound(instance, ends, own=own, levels=plans)).value for own in (True, False)
    )
    residence = sum(ServingCosts.of(instance).residence) / COSTS
    assert without < 1.02 * residence
    assert with_own > 1.2 * residence


def test_threads_find_what_one_finds(
    priced: tuple[mk.Instance, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests an ascent in parts, as of large instances: the bound is the same but for the order of sums."""
    instance, document = priced
    monkeypatch.setattr("modelkit.problems.serving.price_ascent.MUCH", 0)
    parts = price_bound(instance, reference(instance), levels=SHORT)
    again = price_bound(instance, reference(instance), levels=SHORT)
    assert parts.value == again.value
    assert parts.value == pytest.approx(document["bound"]["numerator"] / document["bound"]["denominator"], rel=0.01)
