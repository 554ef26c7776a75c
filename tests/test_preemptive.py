"""Optima and bounds where requests may be paused, against a search over all states."""

from __future__ import annotations

import random
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
from realtime_pauses import optimum_with_pauses

import modelkit as mk
from modelkit.authoring.check.tiny_instances import pausing_instance
from modelkit.certificate import Prices
from modelkit.errors import InputError, UsageError
from modelkit.judge import judge
from modelkit.problems.problem import PREEMPTIVE
from modelkit.problems.serving.bounds import serving_bounds
from modelkit.schedule import rounds_of, schedule_from_rounds
from modelkit.simulation.simulate import clairvoyant_schedule, fitting_policies
from modelkit.solving.preemptive import never_rising, volume_certificate, without_pauses
from modelkit.sources.families import generate
from modelkit.verify.kv_bound import exact_bound
from modelkit.verify.volume_bound import volume_bound


def tiny(seed: int, keep: str) -> mk.Instance:
    """Four requests or fewer; the more differ, the more is gained by pauses."""
    rng = random.Random(seed)
    n, memory = rng.randint(2, 4), rng.randint(8, 12)
    prompt = [rng.randint(1, 4) for _ in range(n)]
    return mk.Instance(
        server={"kv_capacity_tokens": memory, "slots": 2 if seed % 4 == 3 else None, "pause": {"keep": keep}},
        requests={
            "prompt_tokens": prompt,
            "output_tokens": [rng.randint(1, min(6, memory - s)) for s in prompt],
            "arrival": [rng.randint(0, 5) for _ in range(n)],
        },
    )


def optimum(instance: mk.Instance) -> int:
    """The least total latency, by the states (round, tokens made by each)."""
    arrays, server = instance.arrays, instance.server
    arrival, prompt, output = arrays.arrival.tolist(), arrays.prompt.tolist(), arrays.output.tolist()
    held, slots = server.pause.keep == "held", server.slots or len(output)
    capacity = server.kv_capacity_tokens

    @cache
    def least(t: int, made: tuple[int, ...]) -> int:
        if all(m == o for m, o in zip(made, output, strict=True)):
            return 0
        here = [i for i, a in enumerate(arrival) if a <= t and made[i] < output[i]]
        if not here:
            return least(t + 1, made)
        best = 10**9
        for chosen in product((0, 1), repeat=len(here)):
            makes = {i for i, yes in zip(here, chosen, strict=True) if yes}
            stays = {i for i in here if held and made[i] and i not in makes}
            tokens = sum(prompt[i] + made[i] + (i in makes) for i in makes | stays)
            if makes and tokens <= capacity and len(makes | stays) <= slots:
                after = tuple(m + (i in makes) for i, m in enumerate(made))
                best = min(best, len(here) + least(t + 1, after))
        return best

    return least(0, (0,) * len(output))


KEEPS = ("held", "swapped")


def test_bounds_hold_with_pauses() -> None:
    """No bound is above the optimum, with prices that never rise too; policies and what runs without are not below."""
    gained = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        for keep in KEEPS:
            instance = tiny(seed, keep)
            best = optimum(instance)
            assert int(instance.arrays.output.sum()) <= volume_bound(instance) <= best
            for _ in range(4):
                falling = np.sort(rng.integers(0, 40, rng.integers(1, 15)))[::-1].tolist()
                falling = falling[: int(instance.arrays.arrival.max() + instance.arrays.output.sum())]
                prices = Prices(denominator=64, rounds=list(range(1, len(falling) + 1)), numerators=falling)
                assert exact_bound(instance, prices) <= best
            for name in ("srpt", "srpt:by=volume", "svf"):
                verdict = judge(instance, clairvoyant_schedule(instance, name))
                assert verdict.valid
                assert verdict.metrics["total_latency_rounds"] >= best
            gained += best < (
                judge(instance, clairvoyant_schedule(instance, "svf")).metrics["total_latency_rounds"] or 0
            )
    assert gained > 5


@pytest.mark.parametrize("solver", ["highs", pytest.param("scip", marks=pytest.mark.slow)])
def test_formulation_is_exact(solver: str) -> None:
    """The program finds the optimum of a search over states, on both ways to keep tokens and on slots."""
    for seed in (1, 3):
        for keep in KEEPS:
            instance = tiny(seed, keep)
            result = mk.solve(instance, "kv-preemptive", solver, warm_start="none")
            assert (result.status, result.objective.value) == ("optimal", optimum(instance)), (seed, keep)


def test_solve_chooses_it() -> None:
    """Without being told, solve takes the formulation, starts it, and is never above what runs without pauses."""
    for seed, keep in ((1, "held"), (2, "swapped")):
        instance = tiny(seed, keep)
        result = mk.solve(instance)
        assert result.status == "optimal"
        assert result.objective.value == optimum(instance)
        assert result.objective.value <= mk.solve(without_pauses(instance)).objective.value
        assert mk.verify_result(result, instance).holds
    with pytest.raises(UsageError, match="does not support pauses"):
        mk.solve(tiny(1, "held"), "kv-hindsight")
    with pytest.raises(UsageError, match="needs pauses"):
        mk.solve(without_pauses(tiny(1, "held")), "kv-preemptive")


def test_large_instances_are_searched() -> None:
    """What is too large for the program has the best of policies and of schedules without pauses, and a bound."""
    drawn = mk.generate("kv-synthetic", requests=40, seed=3)
    instance = drawn.replace(server=drawn.server.model_copy(update={"pause": mk.Pause(keep="swapped")}))
    result = mk.solve(instance, time_limit=1.5)
    least = min(mk.simulate(instance, name).objective.value or 0 for name in fitting_policies(instance))
    assert result.objective.value <= least
    assert result.objective.bound <= result.objective.value
    assert "no solver ran: this is the schedule of" in result.message
    assert mk.verify_result(result, instance).holds


def test_prices_that_rise_prove_nothing() -> None:
    """With pauses a request passes over dear rounds: such prices are refused, and would prove too much."""
    instance = mk.Instance(
        server={"kv_capacity_tokens": 7, "pause": {"keep": "swapped"}},
        requests={"prompt_tokens": [2, 2, 1], "output_tokens": [5, 3, 1], "arrival": [0, 1, 3]},
    )
    rising = Prices(denominator=2, rounds=[4], numerators=[1])
    assert (exact_bound(without_pauses(instance), rising), optimum(instance)) == (12, 11)
    with pytest.raises(InputError, match=r"rise, and so bound nothing where requests may be paused"):
        exact_bound(instance, rising)
    for prices in never_rising(rising):
        assert exact_bound(instance, prices) <= optimum(instance)
    forged = volume_certificate(instance)
    assert mk.verify_certificate(forged, instance).holds
    above = forged.model_copy(
        update={"bound": forged.bound.model_copy(update={"numerator": forged.bound.numerator + 1})}
    )
    assert not mk.verify_certificate(above, instance).holds


def test_rounds_say_all_of_a_schedule() -> None:
    """The rounds of a schedule with pauses give a schedule that the judge finds the same."""
    for seed in range(10):
        instance = pausing_instance(seed, 3)
        schedule = clairvoyant_schedule(instance, "srpt")
        again = schedule_from_rounds(rounds_of(instance, schedule))
        assert judge(instance, again).valid
        assert rounds_of(instance, again) == rounds_of(instance, schedule)
        said, before = judge(instance, again).metrics, judge(instance, schedule).metrics
        assert {name: said[name] for name in ("total_latency_rounds", "paused_rounds")} == {
            name: before[name] for name in ("total_latency_rounds", "paused_rounds")
        }


# --- in real time ------------------------------------------------------------------------------


LAW: dict[str, Any] = {"kind": "linear", "prefill_base_ms": 10.0, "decode_base_ms": 10.0, "decode_per_kv_token_ms": 0.1}


def test_prefills_of_who_is_paused_before_decoding() -> None:
    """Exclusive prefills may fill the memory with prompts whose first tokens do not fit: half are paused meanwhile."""
    law = {**LAW, "prefill_base_ms": 1000.0, "decode_base_ms": 1.0}
    instance = mk.Instance(
        server={"kv_capacity_tokens": 10, "clock": law, "pause": {"keep": "swapped"}},
        requests={"prompt_tokens": [1] * 10, "output_tokens": [1] * 10},
    )
    ids = [r.id for r in instance.requests]
    schedule = mk.Schedule(
        (
            mk.Segment(0, ids),
            mk.Segment(1.0, pause=tuple(ids[5:]), rounds=1),
            mk.Segment(1.0021, resume=ids[5:], rounds=1),
        )
    )
    metrics = judge(instance, schedule).metrics
    assert judge(instance, schedule).valid
    for objective in ("makespan_ms", "total_latency_ms", "total_ttft_ms"):
        assert max(b.value for b in serving_bounds(instance, objective)) <= metrics[objective]
    found = mk.bound(instance, time_limit=0.2)
    assert found.value <= metrics["total_latency_ms"]


def test_first_tokens_of_who_is_swapped_out() -> None:
    """Requests that have had their first token need hold nothing where they are swapped out."""
    instance = mk.Instance(
        server={"kv_capacity_tokens": 25, "clock": {**LAW, "mixed": True}, "pause": {"keep": "swapped"}},
        requests={"prompt_tokens": [5] * 6, "output_tokens": [20] * 6},
    )
    ids = [r.id for r in instance.requests]
    first = [mk.Segment(k * 0.01, [i], rounds=1, pause=(ids[k - 1],) if k else ()) for k, i in enumerate(ids)]
    rest = [
        mk.Segment(k, resume=[i], rounds=19, pause=(ids[-1],) if k == 1 else ()) for k, i in enumerate(ids, start=1)
    ]
    verdict = judge(instance, mk.Schedule((*first, *rest)))
    assert verdict.valid, verdict.violations
    assert verdict.metrics["total_ttft_ms"] == pytest.approx(210)
    assert max(b.value for b in serving_bounds(instance, "total_ttft_ms")) <= 210
    held = instance.replace(server=instance.server.model_copy(update={"pause": mk.Pause(keep="held")}))
    assert max(b.value for b in serving_bounds(held, "total_ttft_ms")) > 210  # there they hold all of it


@pytest.mark.parametrize("mixed", [False, True])
def test_bounds_in_real_time_hold_with_pauses(mixed: bool) -> None:
    """No policy that pauses is below any bound on any objective."""
    for seed in range(2, 4):
        drawn = tiny(seed, KEEPS[seed % 2])
        law = {**LAW, "mixed": mixed, "prefill_per_token_ms": 1.0, "swap_in_per_token_ms": 0.2 * (seed % 3)}
        rows = tuple(r.model_copy(update={"arrival": r.arrival * 0.013}) for r in drawn.requests)
        instance = drawn.replace(server=drawn.server.model_copy(update={"clock": mk.LinearClock(**law)}), requests=rows)
        runs = [judge(instance, clairvoyant_schedule(instance, name)) for name in ("srpt", "srpt:by=volume", "svf")]
        assert all(run.valid for run in runs)
        for objective in ("total_latency_ms", "makespan_ms", "total_ttft_ms"):
            least = min(run.metrics[objective] for run in runs)
            assert max(b.value for b in serving_bounds(instance, objective)) <= least + 1e-6
        assert mk.bound(instance, time_limit=0.1).value <= min(r.metrics["total_latency_ms"] for r in runs) + 1e-6


def whole_law(seed: int, requests: int) -> mk.Instance:
    """A tiny instance with pauses whose law and arrivals are whole milliseconds, under each kind of iteration."""
    rng = np.random.default_rng([11, seed])
    most = {"base_ms": 3, "prefill_base_ms": 12, "prefill_per_token_ms": 3, "decode_base_ms": 9,
            "decode_per_request_ms": 3, "decode_per_kv_token_ms": 2, "swap_out_per_token_ms": 2,
            "swap_in_per_token_ms": 2}  # fmt: skip
    law = {name: float(rng.integers(name == "decode_base_ms", high)) for name, high in most.items()}
    rows = [
        {"id": f"q{i}", "arrival": int(rng.integers(40)) / 1000, "prompt_tokens": int(rng.integers(1, 6)),
         "output_tokens": int(rng.integers(1, 5))} for i in range(requests)
    ]  # fmt: skip
    capacity = max(r["prompt_tokens"] + r["output_tokens"] for r in rows) + int(rng.integers(5))
    server = {"kv_capacity_tokens": capacity, "pause": {"keep": KEEPS[seed // 2 % 2]}}
    server |= {"clock": {"kind": "linear", "mixed": bool(seed % 2), **law}, "slots": 2 if seed % 3 == 0 else None}
    return mk.Instance(server=server, requests=rows)


@pytest.mark.parametrize("seeds", [range(1, 3), pytest.param(range(4, 14), marks=pytest.mark.slow)])
def test_no_bound_in_real_time_is_above_the_optimum_with_pauses(seeds: range) -> None:
    """Tests judge, bounds and policies against all schedules, of tokens that are held and swapped."""
    metrics = {"latency": "total_latency_ms", "makespan": "makespan_ms", "ttft": "total_ttft_ms"}
    for seed in seeds:
        instance = whole_law(seed, 2 if seeds.start == 1 else 3)
        own = "swap" if instance.server.pause.keep == "swapped" else "pause"  # type: ignore[union-attr]
        runs = [clairvoyant_schedule(instance, name) for name in ("srpt", "srpt:by=volume", f"vllm-like:preempt={own}")]
        for objective, metric in metrics.items():
            least, schedule = optimum_with_pauses(instance, objective)
            verdict = judge(instance, schedule)
            assert verdict.valid
            assert verdict.metrics[metric] == pytest.approx(least, abs=1e-6)
            assert max(b.value for b in serving_bounds(instance, metric)) <= least + 1e-9, (seed, objective)
            assert all(judge(instance, run).metrics[metric] >= least - 1e-6 for run in runs)


def test_prices_count_where_few_requests_fill_the_memory() -> None:
    """Tests that the bound with pauses is still by prices where partitions, which need none, say more without."""
    drawn = generate("kv-synthetic", seed=3, requests=10, kv_capacity=30)
    columns = {"prompt_tokens": drawn.arrays.prompt.tolist(), "output_tokens": drawn.arrays.output.tolist()}
    server = {"kv_capacity_tokens": 30, "pause": {"keep": "held"}}
    instance = mk.Instance(server=server, requests=columns)
    found = mk.bound(instance, time_limit=None)
    assert found.certificate.kind == "kv-prices"
    assert found.value > volume_bound(instance)
    assert mk.bound(without_pauses(instance), time_limit=None).certificate.kind == "kv-partitions"


def test_the_problem_has_a_name() -> None:
    """Slots or not, the unit clock with pauses poses one problem, and formulations of others refuse it."""
    for keep in KEEPS:
        assert mk.problem_of(tiny(3, keep)) is PREEMPTIVE
    with pytest.raises(UsageError, match="does not take this instance: it does not support pauses"):
        mk.solve(
            mk.Instance(
                server={"clock": {**LAW, "mixed": True}, "pause": {"keep": "held"}},
                requests={"prompt_tokens": [1], "output_tokens": [2]},
            ),
            "serving-latency",
        )
