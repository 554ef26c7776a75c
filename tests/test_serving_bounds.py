"""Bounds in real time that take no ascent: by hand, by other algorithms, altered, and on odd instances."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from realtime_brute_force import optimum, question

import modelkit as mk
from modelkit.certificate import SHARE, Bound, Work
from modelkit.clock import LinearClock
from modelkit.errors import InputError
from modelkit.instance import Instance, Server
from modelkit.io import parse_certificate
from modelkit.judge import judge
from modelkit.problems.serving.bounds import left_out, serving_bounds
from modelkit.problems.serving.delay_shares import ascended_shares
from modelkit.problems.serving.interference import interference_weights
from modelkit.runtime.deadline import Deadline
from modelkit.verify.exact_bounds import recomputed_bound
from modelkit.verify.serving_costs import ServingCosts
from modelkit.verify.serving_interference import interference_bound
from modelkit.verify.serving_work import shortest_first, work_bound, work_bounds

METRICS = ("total_latency_ms", "makespan_ms", "total_ttft_ms")
Rows = list[tuple[float, int, int]]


def served(rows: Rows, *, memory: int | None = None, slots: int | None = None, **law: Any) -> Instance:
    """Requests (arrival in seconds, prompt, output) under a law."""
    requests = [
        {"id": f"q{i}", "arrival": a, "prompt_tokens": s, "output_tokens": o} for i, (a, s, o) in enumerate(rows)
    ]
    clock = LinearClock(kind="linear", **{"mixed": True, **law})
    return Instance(server=Server(kv_capacity_tokens=memory, slots=slots, clock=clock), requests=requests)


# --- by hand ---------------------------------------------------------------------------------------


def test_one_request_is_bounded_by_its_latency() -> None:
    """Tests both clocks: a base, a prefill of 4 tokens and 2 or 3 decode rounds of one request."""
    law = {
        "base_ms": 2.0, "prefill_base_ms": 1.0, "prefill_per_token_ms": 0.5, "decode_base_ms": 4.0,
        "decode_per_request_ms": 1.0, "decode_per_kv_token_ms": 0.25,
    }  # fmt: skip
    mixed = (2 + 1 + 4 * 0.5) + 2 * (2 + 4 + 1) + 0.25 * (6 + 7)
    exclusive = (2 + 1 + 4 * 0.5) + 3 * (2 + 4 + 1) + 0.25 * (5 + 6 + 7)
    for clock, value in ((True, mixed), (False, exclusive)):
        instance = served([(0, 4, 3)], mixed=clock, **law)
        for metric in METRICS[:2]:
            assert serving_bounds(instance, metric)[0].value == value
        assert mk.simulate(instance, "mc-sf").metrics["total_latency_ms"] == pytest.approx(value)


def test_work_is_what_memory_allows() -> None:
    """Tests requests of which the memory holds one at a time: one after another, at the fixed cost."""
    instance = served([(0, 1, 2)] * 4, memory=3, prefill_base_ms=2.0, decode_base_ms=3.0)
    # of 3 tokens a prefill holds 2 and a decode round 3: 2 * 2 / 3 + 3
    found = work_bounds(instance, Work(memory_share=SHARE), "total_latency_ms")
    assert float(found["work"]) == pytest.approx(5 + (4 / 3 + 3) * (2 + 3 + 4), abs=0.02)  # alone it takes 5
    assert optimum(instance).value == 5 * (1 + 2 + 3 + 4)


def test_slots_bound_where_there_is_no_memory() -> None:
    instance = served([(0, 5, 3)] * 4, slots=1, decode_base_ms=3.0)
    bound = serving_bounds(instance)[0]
    assert bound.value == pytest.approx(optimum(instance).value, rel=1e-3)
    assert bound.certificate.work is not None
    assert bound.certificate.work.memory_share == 0


def test_first_tokens_wait_for_what_others_hold() -> None:
    """Tests one slot, where the k-th first token comes after all work of k - 1 others, and what is found unaided."""
    instance = served([(0, 5, 3)] * 4, slots=1, prefill_base_ms=2.0, decode_base_ms=3.0)
    best = optimum(instance, "ttft").value
    assert best == 2 + (8 + 2) + (16 + 2) + (24 + 2)
    exact = Work(memory_share=0, holding=[6 * 1024])  # beside its prefill, a request holds the slot for 6 ms
    assert float(work_bounds(instance, exact, "total_ttft_ms")["work"]) == best
    assert 0.8 * best < serving_bounds(instance, "total_ttft_ms")[0].value <= best


def test_the_early_start_that_the_judge_allows_is_taken_off() -> None:
    """Tests that a bound is met by a schedule that begins 1e-3 ms before the arrival."""
    instance = served([(0.001, 4, 1)], prefill_base_ms=1.0)
    early = mk.Schedule((mk.Segment(at=0.000999, admit=(mk.Admission("q0"),), rounds=1),))
    verdict = judge(instance, early)
    assert verdict.valid
    assert serving_bounds(instance)[0].value <= verdict.metrics["total_latency_ms"] < 1.0


def test_prompts_of_others_are_waited_for() -> None:
    """Tests the bound by interference by hand: two long answers side by side, one of which has a prompt of 10 ms."""
    rows = [(0.0, 1, 11), (0.02, 10, 11)]
    instance = served(rows, prefill_per_token_ms=1.0, decode_base_ms=10.0)
    residence = (1 + 100) + (10 + 100)
    found = {bound.name: bound.value for bound in serving_bounds(instance)}
    assert found["residence"] == pytest.approx(residence, abs=0.01)
    # the second's prompt is waited for by the first, or waits itself; with a share theta of delay it costs
    # min over x of max(theta x, (1 - theta) 10 for x up to the first's end)
    assert residence + 8 < found["interference"] <= residence + 10


# --- by other algorithms ---------------------------------------------------------------------------


def plain_shortest_first(jobs: list[tuple[int, int]]) -> list[int]:
    """When jobs (release, work) end, one unit of time after another, the shortest remaining first."""
    left, ends, now = [work for _, work in jobs], [], 0
    while len(ends) < len(jobs):
        here = [(left[i], i) for i, (release, _) in enumerate(jobs) if release <= now and left[i] > 0]
        now += 1
        if here:
            i = min(here)[1]
            left[i] -= 1
            ends += [now] if not left[i] else []
    return ends


@pytest.mark.parametrize("seed", range(8))
def test_shortest_first_and_cells_are_counted_as_defined(seed: int) -> None:
    """Tests both against a simulation of single ticks, which counts who is unfinished in other words."""
    rng = np.random.default_rng(seed)
    n, cell = int(rng.integers(1, 8)), int(rng.integers(1, 9))
    rows = sorted(zip(*(rng.integers(low, high, n).tolist() for low, high in ((0, 30), (1, 25), (1, 12))), strict=True))
    arrival, residence, work = ([row[k] for row in rows] for k in range(3))
    ends = plain_shortest_first([(a, w) for a, _, w in rows])
    assert shortest_first(arrival, work) == ends
    from modelkit.verify import serving_work

    jobs = serving_work._Jobs(arrival, residence, work)
    expected = sum(min(r, -a % cell) for a, r in zip(arrival, residence, strict=True))
    for begin in range(0, 30 + sum(work) + max(residence) + cell, cell):
        end = begin + cell
        here = [row for row in rows if row[0] <= begin]
        staying = [row for row in here if row[0] + row[1] > end]
        others = [(a, w) for a, r, w in here if a + r <= end]
        unfinished = sum(e > end for e in plain_shortest_first(others))
        expected += cell * (len(staying) + unfinished)
    assert serving_work.counted_in_cells(jobs, cell) == expected


@pytest.mark.parametrize("seed", range(6))
def test_least_terms_are_the_least_of_all_times(seed: int) -> None:
    """Tests the leaps from event to event against every tick, with the integrals added up tick by tick."""
    from modelkit.verify.interference_kernel import least_terms

    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 5))
    arrival = sorted(rng.integers(0, 20, n).tolist())
    own, rest, decoding = (rng.integers(0, high, n).tolist() for high in (6, 4, 15))
    prefill = [p + r for p, r in zip(own, rest, strict=True)]
    end = [a + p + d for a, p, d in zip(arrival, prefill, decoding, strict=True)]
    shares, charged = rng.integers(1, 1025, n).tolist(), rng.integers(0, 4, n).tolist()
    density = [int(q) for q in rng.integers(0, 2**30, n)]
    cap = rng.integers(0, 2000, n).tolist()
    weight = [1024 - s for s in shares]
    times = sorted({*arrival, *end})
    here = [sum(w for a, b, w in zip(arrival, end, weight, strict=True) if a <= t < b) for t in times]
    expected = 0
    for i in range(n):

        def others(t: int, i: int = i) -> int:
            return sum(weight[j] for j in range(n) if j != i and arrival[j] <= t < end[j])

        values = []
        for x in range(arrival[i], max(end) + 1):
            prompt = sum(min(others(t) for t in range(arrival[i], u + 1)) for u in range(x, x + own[i]))
            decode = sum(min(cap[i], others(x + prefill[i] + u)) for u in range(decoding[i]))
            delay = max(1024 * charged[i], shares[i] * (x - arrival[i]))
            values.append(delay + prompt + (decode * density[i] >> 30))
        expected += min(values)
    columns = (arrival, own, prefill, decoding, end, shares, charged, density, cap, times, here)
    compiled = least_terms(*(np.array(column, dtype=np.int64) for column in columns), 10**6)
    assert compiled == least_terms.py_func(*columns, 10**6)
    # what lies between two ticks may be less than both, by what a tick of delay costs
    assert expected - sum(shares) <= compiled <= expected


@pytest.mark.parametrize("seed", range(3))
def test_unbounded_integers_give_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that the bounds are equal where 64 bits are not trusted."""
    instance = question(seed).instance
    certificates = [bound.certificate for bound in serving_bounds(instance)]
    compiled = [recomputed_bound(certificate, instance) for certificate in certificates]
    from modelkit.verify import serving_interference, serving_work

    def unbounded(function: Any, _: int, *arguments: Any) -> Any:
        return function.py_func(*arguments)

    for module in (serving_work, serving_interference):
        monkeypatch.setattr(module, "fitting", unbounded)
    assert [recomputed_bound(certificate, instance) for certificate in certificates] == compiled


def test_shares_of_their_own_are_better_than_one_for_all() -> None:
    """Tests the ascent over shares of delay, and that what it finds in floating point is what is recomputed."""
    instance = mk.generate("chat", requests=150, seed=4, rate=8.0, server="llama2-70b-2xa100")
    costs = ServingCosts.of(instance)

    def value(shares: list[int]) -> Fraction:
        weights = interference_weights(costs, shares)
        assert weights is not None
        return interference_bound(instance, weights)

    ones = {share: value([share] * 150) for share in range(60, 400, 20)}
    best = max(ones, key=ones.__getitem__)
    residence = sum(costs.residence) / 2**30
    assert value(ascended_shares(costs, best, Deadline())) - residence > 1.02 * float(ones[best] - Fraction(residence))
    assert ascended_shares(costs, best, Deadline.after(0)) == [best] * 150


# --- altered ---------------------------------------------------------------------------------------


def altered(document: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A certificate with one whole number of its proof changed."""
    document = json.loads(json.dumps(document))
    record = document.get("work") or document["interference"]
    names = [name for name, value in record.items() if value not in (None, []) and name != "rounds"]
    name = str(rng.choice(names))
    change = int(rng.choice([-1, 1])) * int(2 ** rng.integers(0, 12))
    if isinstance(record[name], list):
        i = int(rng.integers(len(record[name])))
        record[name][i] = max(0, record[name][i] + change)
    else:
        record[name] = max(1, record[name] + change)
    if name in ("memory_share", "delay_shares"):
        record[name] = np.minimum(record[name], SHARE).tolist()
    return document


@pytest.mark.parametrize("seed", [3, 7, 11, 19])
def test_altered_numbers_are_refused_or_give_another_bound(seed: int) -> None:
    """Tests that a proof holds up to what it gives and no further, and that none gives more than the optimum."""
    instance, chunk, evictions = question(seed)
    rng = np.random.default_rng(seed)
    best = optimum(instance, evictions=evictions, chunk=chunk).value
    for bound in serving_bounds(instance):
        true = bound.certificate.document()
        for _ in range(12):
            document = altered(true, rng)
            certificate = parse_certificate(document, "altered")
            try:
                gives = recomputed_bound(certificate, instance)
            except InputError:
                assert not mk.verify_certificate(certificate, instance).holds
                continue
            assert gives <= Fraction(best) + Fraction(1, 10**9)
            claimed = Fraction(certificate.bound.numerator, certificate.bound.denominator)
            assert mk.verify_certificate(certificate, instance).holds == (claimed <= gives)


def test_a_bound_that_is_lowered_holds_and_one_that_is_raised_does_not(tmp_path: Path, cli: Any) -> None:
    instance = served([(0.01 * i, 5, 6) for i in range(5)], memory=20, prefill_base_ms=3.0, decode_base_ms=5.0)
    mk.save_instance(instance, tmp_path / "i.json")
    for bound in serving_bounds(instance):
        for by, code in ((0, 0), (-1, 0), (1, 5)):
            bounded = bound.certificate.bound
            moved = Bound(numerator=bounded.numerator + by * bounded.denominator, denominator=bounded.denominator)
            certificate = bound.certificate.model_copy(update={"bound": moved})
            best = recomputed_bound(certificate, instance)
            if by == 1 and best >= Fraction(moved.numerator, moved.denominator):
                continue  # a proof by work proves the best of several bounds
            mk.save_certificate(certificate, tmp_path / "c.json")
            said = cli("verify", str(tmp_path / "c.json"), "-i", str(tmp_path / "i.json"), code=code).out
            assert ("the certificate says" in said) == (code == 5)


def test_prefills_are_charged_no_more_than_they_cost() -> None:
    """Tests that one tick more of any charge that is used up is refused."""
    instance = served([(0.001 * i, 5, 6) for i in range(5)], prefill_base_ms=3.0, decode_base_ms=5.0)
    weights = interference_weights(ServingCosts.of(instance), [SHARE // 4] * 5)
    assert weights is not None
    interference_bound(instance, weights)
    last = weights.prefills[-1] + weights.prefills[0] + 3 * 1024
    with pytest.raises(InputError, match="charge more at"):
        interference_bound(instance, weights.model_copy(update={"prefills": [*weights.prefills[:-1], last]}))


def test_a_certificate_lacks_its_proof_or_is_about_another_clock() -> None:
    instance = served([(0, 1, 2)])
    certificate = serving_bounds(instance)[0].certificate
    for wrong in ({"work": None}, {"kind": "serving-interference"}, {"objective": "total_latency_rounds"}):
        assert not mk.verify_certificate(certificate.model_copy(update=wrong), instance).holds
    unit = instance.replace(server=Server(kv_capacity_tokens=10))
    with pytest.raises(InputError, match="are for the linear clock"):
        work_bound(unit, Work(memory_share=0), "total_latency_ms")


# --- odd instances ---------------------------------------------------------------------------------

FEW: Rows = [(0, 3, 4), (0.5, 2, 1), (1.25, 5, 6)]
_PARTS = ("base", "prefill_base", "prefill_per_token", "decode_base", "decode_per_request", "decode_per_kv_token")
HUGE = {f"{part}_ms": 1e9 for part in _PARTS}
ODD = {
    "nothing costs anything": served(FEW),
    "nothing, not mixed": served(FEW, mixed=False),
    "not mixed, arrivals, no slots": served(FEW, mixed=False, prefill_base_ms=2.0, decode_base_ms=1.0),
    "not mixed, arrivals, slots and memory": served(
        FEW, mixed=False, slots=2, memory=20, base_ms=1.0, decode_per_request_ms=1.0
    ),
    "levels": served(FEW, mixed=False, slots=2, prefill_levels=((4, 1.0), (100, 3.0)), decode_base_ms=1.0),
    "free levels": served(FEW, prefill_levels=((4, 0.0), (100, 3.0))),
    "one request with one token": served([(0, 1, 1)], decode_base_ms=1.0),
    "as dear as can be": served([(0, 10**8, 10**8), (1e9, 10**8, 10**8), (5, 1, 1)], **HUGE),
    "as far as can be": served([(0, 1, 1), (1e9, 1, 1), (1e9, 3, 2)], prefill_base_ms=1.0, decode_base_ms=1.0),
    "next to nothing": served(FEW, prefill_base_ms=1e-9, decode_base_ms=1e-300, base_ms=5e-324),
    "together, later": served([(7, 3, 4), (7, 2, 1), (7, 5, 6)], memory=12, prefill_base_ms=1.0, decode_base_ms=1.0),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("metric", METRICS)
def test_no_instance_is_without_a_bound(name: str, metric: str) -> None:
    """Tests that bounds are found, verified, below a schedule's value, and that those left out are explained."""
    instance = ODD[name]
    found = serving_bounds(instance, metric)
    assert "residence" in {bound.name for bound in found}
    assert all(mk.verify_certificate(bound.certificate, instance).holds for bound in found)
    assert [bound.value for bound in found] == sorted((bound.value for bound in found), reverse=True)
    explained = {bound.name for bound in found} | set(left_out(instance, metric))
    assert explained >= {"residence", "work", "cells", "rounds"}


@pytest.mark.parametrize("seed", range(3))
def test_bounds_are_below_what_policies_come_to(seed: int) -> None:
    """Tests chats on a server that exists, in light and in heavy load."""
    rate = [0.5, 2, 8, 30, 60, 200][seed]
    instance = mk.generate("chat", requests=60, seed=seed, rate=rate, server="llama2-70b-2xa100")
    result = mk.simulate(instance, "mc-sf")
    values = {**result.metrics, "total_ttft_ms": 60 * (result.metrics["mean_first_token_ms"] or 0.0)}
    for metric in METRICS:
        best = serving_bounds(instance, metric)[0]
        assert 0 < best.value <= (values[metric] or 0.0)
