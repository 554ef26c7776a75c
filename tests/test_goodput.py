"""The bound on goodput against exhaustive search and against every policy, and what its certificate says."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goodput_brute_force import levelled, most_in_time
from goodput_whole_ms import asked
from goodput_whole_ms import most_in_time as most_at_whole_times
from realtime_brute_force import question

import modelkit as mk
from modelkit.errors import InputError, UsageError
from modelkit.instance import Instance
from modelkit.judge import judge
from modelkit.judge.slo import keeps, service_levels
from modelkit.problems.serving.goodput import goodput_certificate, goodput_prices
from modelkit.problems.serving.in_time import in_time_schedule
from modelkit.requests import Prefix, ServiceLevels
from modelkit.simulation.simulate import fitting_policies, simulate
from modelkit.text import quantity
from modelkit.verify.serving_goodput import CHARGES, InTime, goodput_bound, in_time


def held(seeds: range) -> None:
    """Hold the bound against the most requests in time of tiny instances."""
    tight = 0
    for seed in seeds:
        posed = question(seed, most=3 if seed % 4 else 4)
        levels = levelled(posed, seed)
        most = most_in_time(posed, levels)
        prices = goodput_prices(posed.instance, levels)
        bound = math.floor(goodput_bound(posed.instance, prices.proof))
        assert bound >= most, seed
        tight += bound == most
    assert tight >= 0.6 * len(seeds)


def test_tiny_instances() -> None:
    """Tests the bound against an exhaustive search: never below, and equal to it more often than not."""
    held(range(8))


def held_at_whole_times(seeds: range) -> None:
    """Hold the bound against tiny instances with replicas, pauses, prefixes and limits of a request's own."""
    tight = 0
    for seed in seeds:
        instance, levels, chunk = asked(seed)
        most = most_at_whole_times(instance, levels, chunk)
        bound = math.floor(goodput_bound(instance, goodput_prices(instance, levels).proof))
        assert bound >= most, seed
        tight += bound == most
    assert tight >= 0.7 * len(seeds)


def test_whole_times() -> None:
    """Tests the bound against an exhaustive search with gaps of any length."""
    held_at_whole_times(range(10))


@pytest.mark.slow
def test_many_whole_times() -> None:
    """Tests the same of more."""
    held_at_whole_times(range(10, 70))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 300, 100))
def test_many_tiny_instances(first: int) -> None:
    """Tests the same of 300 instances."""
    held(range(first, first + 100))


def drawn(seed: int, most: int = 60) -> Instance:
    """Some requests under an odd law, with some or none of the limits."""
    rng = np.random.default_rng(seed)
    n, mixed = int(rng.integers(12, most)), bool(rng.random() < 0.75)
    prompt, output = rng.integers(1, 60, n), rng.integers(1, 40, n)
    clock = {
        "kind": "linear",
        "mixed": mixed,
        "base_ms": float(rng.choice([0, 2])),
        "prefill_base_ms": float(rng.choice([0, 5, 13.7])),
        "prefill_per_token_ms": float(rng.choice([0, 0.1, 0.5])),
        "decode_base_ms": float(rng.choice([1, 10, 50])),
        "decode_per_request_ms": float(rng.choice([0, 0.2, 2, 5])),
        "decode_per_kv_token_ms": float(rng.choice([0, 0.001, 0.05])),
    }
    server: dict[str, Any] = {"clock": clock}
    if rng.random() < 0.6 or not mixed:
        server["kv_capacity_tokens"] = int((prompt + output).max() * rng.choice([1.2, 3, 8]))
    if rng.random() < 0.4:
        server["slots"] = int(rng.choice([2, 6, 20]))
    arrival = np.sort(rng.random(n)) * float(rng.choice([0, 0.3, 2, 10]))
    feature = rng.choice(["replicas", "pause", "prefix_cache", "none"])
    if feature != "none":
        server[feature] = {"replicas": 3, "pause": {"keep": "held"}, "prefix_cache": {"keep": True}}[feature]
    instance = Instance.from_arrays(prompt, output, arrival, server=server)
    changes = [{"request_class": "x"} if rng.random() < 0.4 else {} for _ in range(n)]
    if feature == "prefix_cache":
        for r, change in zip(instance.requests, changes, strict=True):
            change["prefix"] = Prefix(
                group=f"g{int(rng.integers(3))}", tokens=int(rng.integers(1, r.prompt_tokens + 1))
            )
    return instance.replace(
        requests=tuple(r.model_copy(update=c) for r, c in zip(instance.requests, changes, strict=True))
    )


def exceeded(requests: list[InTime], charge: int, replicas: int) -> int:
    """By how much the most is charged beyond what an interval has room for, over all intervals [tick]."""
    worst = 0
    for begin in {one.start for one in requests}:
        inside = [one for one in requests if one.start >= begin]
        parts = [(one.prompt_due, one.prompt[charge]) for one in inside]
        parts += [(one.due, one.work[charge] - one.prompt[charge]) for one in inside]
        total = 0
        for end, part in sorted((end, part) for end, part in parts if end is not None):
            total += part
            worst = max(worst, total - replicas * (end - begin))
    return worst


def limits_of(result: mk.Result, share: int, *kinds: str) -> dict[str, float]:
    """Limits that this share of the requests of a run keep, each."""
    times = {f"{kind}_ms": result.metrics[f"p{share}_{kind}_ms"] or 1.0 for kind in kinds}
    return {name: max(1e-3, ms) for name, ms in times.items()}


def above_policies(seeds: range) -> None:
    """Hold the bound above what policies reach, two of each instance, and the theorem to what they serve in time."""
    below, charges = 0, set()
    for seed in seeds:
        instance = drawn(seed)
        fitting = fitting_policies(instance)
        results = [simulate(instance, fitting[(2 * seed + k) % len(fitting)]) for k in range(2)]
        share = (50, 90, 99)[seed % 3]
        kinds = ("ttft", "tpot", "latency") if seed % 2 else ("ttft", "tpot")
        levels = ServiceLevels(
            **limits_of(results[seed % len(results)], share, *kinds),
            classes={"x": limits_of(results[0], share, "latency", "tpot")},
        )
        prices, windows = goodput_prices(instance, levels), in_time(instance, levels)
        for result in results:
            rows = enumerate(zip(result.requests(), instance.requests, strict=True))
            good = {
                i for i, (row, r) in rows
                if keeps(levels.limits_of(r), row.first_token - row.arrival, row.latency, r.output_tokens)
            }  # fmt: skip
            served = [one for one in windows if one.request in good]
            assert result.schedule is not None
            assert len(served) == len(good) == judge(instance, result.schedule, levels).metrics["requests_within_slo"]
            assert not any(exceeded(served, k, instance.server.replicas) for k in range(len(CHARGES))), seed
            assert math.floor(prices.most) >= len(good), (seed, result.producer.name)
        below += math.floor(prices.most) < len(instance.requests)
        charges |= set(prices.proof.charge)
    assert below > len(seeds) / 4
    assert len(charges) > (len(seeds) > 50)


def test_policies() -> None:
    """Tests the theorem and the bound on what policies serve in time."""
    above_policies(range(6))


@pytest.mark.slow
def test_many_policies() -> None:
    """Tests the same of a hundred instances, with replicas, pauses or prefixes, and of every policy."""
    above_policies(range(100, 200))


#: Ten requests at once, of which only some can have their tokens within the time that one takes alone.
TEN = Instance(
    name="ten",
    server={"clock": {"kind": "linear", "mixed": True, "decode_base_ms": 10.0, "decode_per_request_ms": 5.0}},
    requests=[{"id": f"q{i}", "prompt_tokens": 1, "output_tokens": 11} for i in range(10)],
)


def test_the_pace_limits_the_batch() -> None:
    """Tests that a time per output token of 20 ms leaves room for two at a time: 100 ms a request on average."""
    levels = service_levels("tpot=20ms,latency=1s")
    work = {one.work[CHARGES.index("pace-memory")] for one in in_time(TEN, levels)}
    assert len(work) == 1
    assert next(iter(work)) / 1024 == pytest.approx(100, rel=1e-3)
    found = mk.bound(TEN, objective="goodput", slo="tpot=20ms,latency=600ms")
    assert len(TEN.requests) - found.value <= 6.01
    assert found.result.objective.value is not None
    assert found.value <= found.result.objective.value


def test_requests_that_are_late_alone() -> None:
    """Tests that no request counts that cannot keep its levels when it is alone."""
    assert len(in_time(TEN, service_levels("latency=150ms"))) == 10
    assert in_time(TEN, service_levels("latency=149ms")) == []
    assert in_time(TEN, service_levels("tpot=14.9ms")) == []
    assert mk.bound(TEN, objective="goodput", slo="latency=149ms").value == 10


def test_replicas_double_the_room() -> None:
    """Tests that two replicas have room for twice as much."""
    two = TEN.replace(server=TEN.server.model_copy(update={"replicas": 2}))
    levels = service_levels("tpot=20ms,latency=400ms")
    one_most, two_most = (goodput_prices(instance, levels).most for instance in (TEN, two))
    assert two_most == pytest.approx(2 * one_most, rel=1e-6)


def test_certificates_name_their_levels(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Tests the command, the file, and that it is verified at the levels that it names."""
    instance, certificate = str(tmp_path / "ten.json"), str(tmp_path / "ten.certificate.json")
    mk.save_instance(TEN, instance)
    levels = ["--slo", "tpot=20ms,latency=600ms"]
    said = cli("bound", instance, "--objective", "goodput", *levels, "-o", certificate, "--time-limit", "5")
    assert "at most 6 of 10 requests" in said.out
    found = mk.load_certificate(certificate)
    assert (found.kind, found.objective, found.metric) == ("goodput", "requests_within_slo", "requests_outside_slo")
    assert found.goodput is not None
    assert found.goodput.slo == service_levels("tpot=20ms,latency=600ms")
    assert "at most 6 of 10 requests keep" in cli("verify", certificate, "--instance", instance).out
    assert "needs service levels" in cli("bound", instance, "--objective", "goodput", code=2).err


def test_levels_of_the_instance() -> None:
    """Tests that a certificate without levels is about those of the instance, and none without them."""
    levelled_ten = TEN.replace(server=TEN.server.model_copy(update={"slo": service_levels("latency=300ms")}))
    found = mk.bound(levelled_ten, objective="goodput")
    assert found.certificate.goodput is not None
    assert found.certificate.goodput.slo is None
    assert not mk.verify_certificate(found.certificate, levelled_ten).faults
    proof = goodput_prices(levelled_ten).proof
    with pytest.raises(InputError, match="the instance has no service levels"):
        goodput_bound(TEN, proof)
    with pytest.raises(UsageError, match="goodput needs service levels"):
        mk.bound(TEN, objective="goodput")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"begin": [5], "end": [4], "charge": ["memory"], "prices": [1]}, "before its begin"),
        ({"begin": [5, 6, 7]}, "other lengths"),
        (
            {name: [0] * 6_000_000 for name in ("begin", "end", "prices")} | {"charge": ["memory"] * 6_000_000},
            "too many",
        ),
    ],
)
def test_proofs_that_are_none(change: dict[str, Any], words: str) -> None:
    """Tests that a proof which makes no sense is refused in words."""
    proof = goodput_prices(TEN, service_levels("latency=300ms")).proof
    with pytest.raises(InputError, match=words):
        goodput_bound(TEN, proof.model_copy(update=change))


def test_the_certificate_is_the_proof() -> None:
    """Tests that what is written is what the prices give, exactly."""
    prices = goodput_prices(TEN, service_levels("latency=300ms"))
    certificate = goodput_certificate(TEN, prices)
    assert float(certificate.bound.numerator / certificate.bound.denominator) == pytest.approx(prices.most)
    assert certificate.value == 10 - math.floor(prices.most)


def test_pages_tell_levels_apart(tmp_path: Path) -> None:
    """Tests that a page has both sides of goodput, and that runs at other levels are another problem."""
    tight, loose = (mk.bound(TEN, objective="goodput", slo=slo) for slo in ("tpot=20ms,latency=600ms", "latency=1s"))
    mk.report([tight.result], tmp_path / "one.html", instances=[TEN])
    page = (tmp_path / "one.html").read_text()
    assert "number of requests outside service levels" in page
    assert "is 4, reached by local search" in page
    assert "without a name" not in page
    mk.report([tight.result, loose.result], tmp_path / "two.html", instances=[TEN])
    assert "2 problems, which are not compared with each other" in (tmp_path / "two.html").read_text()


def test_totals_are_shown_as_means(tmp_path: Path) -> None:
    """Tests that a page says the mean latency of ten requests, not the sum."""
    result = mk.simulate(TEN, "mc-sf")
    mk.report([result], tmp_path / "page.html", instances=[TEN])
    page = (tmp_path / "page.html").read_text()
    assert f"mean latency of {quantity('mean_latency_ms', result.metrics['mean_latency_ms'])}" in page
    assert "total latency" not in page
    assert "P99 TTFT" in page


def searched(seeds: range) -> None:
    """Hold the search for schedules against the most requests in time of tiny instances."""
    equal = asked_in_all = 0
    for seed in seeds:
        posed = question(seed, most=3)
        if posed.chunk is not None:  # the search processes prompts whole
            continue
        levels = levelled(posed, seed)
        schedule = in_time_schedule(posed.instance, levels, seed=seed)
        verdict = judge(posed.instance, schedule, levels)
        assert verdict.valid, seed
        most = most_in_time(posed, levels)
        assert verdict.metrics["requests_within_slo"] <= most, seed
        equal += verdict.metrics["requests_within_slo"] == most
        asked_in_all += 1
    assert equal >= 0.95 * asked_in_all


def test_searched_schedules() -> None:
    """Tests that the search finds the most requests in time of tiny instances, or nearly always."""
    searched(range(24))


@pytest.mark.slow
def test_many_searched_schedules() -> None:
    """Tests the same of more."""
    searched(range(24, 150))


@pytest.mark.parametrize("replicas", [1, 2])
def test_solve_for_goodput(replicas: int) -> None:
    """Tests that a search serves more in time than policies do, judged, beside the bound; on two replicas as well."""
    rng = np.random.default_rng(5)
    clock = {"kind": "linear", "mixed": True, "prefill_base_ms": 15.0, "decode_base_ms": 10.0,
             "decode_per_request_ms": 1.0}  # fmt: skip
    instance = Instance.from_arrays(
        rng.integers(1, 9, 40), rng.integers(5, 30, 40), np.sort(rng.random(40)), server={"clock": clock}
    ).replace(name="forty")
    instance = instance.replace(server=instance.server.model_copy(update={"replicas": replicas}))
    slo = "ttft=60ms,tpot=18ms"
    result = mk.solve(instance, objective="goodput", slo=slo, time_limit=None)
    best = min(
        mk.simulate(instance, name, slo=slo).metrics["requests_outside_slo"] or 0
        for name in ("vllm-like", "mc-sf:gate=auto")
    )
    assert result.objective.name == "requests_outside_slo"
    assert result.objective.value == result.metrics["requests_outside_slo"] < best
    assert result.objective.bound is not None
    assert result.objective.bound <= result.objective.value
    assert result.producer.name == "local-search"
    assert not mk.verify_result(result, instance).faults
    with pytest.raises(UsageError, match="solver cannot be given beside it"):
        mk.solve(instance, objective="goodput", slo=slo, solver="highs")
    with pytest.raises(UsageError, match="found 'makespan'"):
        mk.solve(instance, objective="makespan")


@pytest.mark.slow
def test_compare_by_goodput(tmp_path: Path) -> None:
    """Tests that policies are compared by the requests outside their levels."""
    found = mk.compare(
        TEN, tmp_path, formulations=[], policies=["mc-sf"], objective="goodput", slo="tpot=20ms,latency=600ms"
    )
    assert [case.objective for case in found.cases] == ["requests_outside_slo"]
    values = {entry.result.producer.name: entry.value for entry in found.cases[0].entries}
    assert values["mc-sf"] == 10
    assert min(values.values()) == 4
