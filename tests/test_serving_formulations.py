"""The programs of serving in real time against an exhaustive search, on both solvers, and how `solve` uses them."""

from __future__ import annotations

import numpy as np
import pytest
from realtime_brute_force import METRICS, judged_value, optimum, question
from serving_bounds import relaxations

import modelkit as mk
from modelkit.backends import Limits, backend
from modelkit.formulation.loading import load_formulation
from modelkit.instance import LinearClock, Request, Server
from modelkit.judge import judge
from modelkit.problems.serving.bounds import serving_bounds
from modelkit.problems.serving.states import MOST_STEPS, loose_windows, start_windows
from modelkit.runtime.deadline import Deadline, within
from modelkit.runtime.resources import bundled
from modelkit.simulation.simulate import clairvoyant_schedule, fitting_policies
from modelkit.solving.known import known_of

#: SCIP spends seconds on cuts at the root of tiny models; the optimum is the same without.
SOLVERS = {"highs": {}, "scip": {"separating/maxroundsroot": 5}}
OBJECTIVE_OF = {"serving-latency": "latency", "serving-makespan": "makespan", "serving-ttft": "ttft"}


def proven(name: str, solver: str, instance: mk.Instance) -> float:
    """The judge's value of the schedule that a formulation proves optimal."""
    formulation = load_formulation(name)
    model = formulation.instantiate(instance, known_of(formulation, instance))
    outcome = backend(solver).solve(model, Limits(time_limit=120, threads=1, gap=0.0), SOLVERS[solver])
    assert (outcome.stop, outcome.found) == ("finished", "solution")
    verdict = judge(instance, formulation.schedule_from(model, instance))
    assert verdict.violations == ()
    value = judged_value(verdict, OBJECTIVE_OF[name])
    assert outcome.bound == pytest.approx(value, rel=1e-6, abs=1e-6)
    return value


@pytest.mark.parametrize("seeds", [range(3), pytest.param(range(3, 200), marks=pytest.mark.slow)])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", OBJECTIVE_OF)
def test_equals_exhaustive_search(name: str, solver: str, seeds: range) -> None:
    """Tests the proven optimum on random instances with and without memory, slots and each part of the law.

    The latency on 200; the variants, which differ in their objective alone, on 60.
    """
    for seed in seeds if name == "serving-latency" else seeds[:60]:
        instance, _, _ = question(seed, most=2 if seed < 6 else 2 + seed % 3, longest=4, plain=True)
        best = optimum(instance, OBJECTIVE_OF[name])
        assert proven(name, solver, instance) == pytest.approx(best.value, rel=1e-6, abs=1e-6), seed


def harder(n: int, seed: int) -> mk.Instance:
    """Some requests that delay each other: prompts take about as long as decoding, and arrivals are close."""
    rng = np.random.default_rng(1000 * n + seed)
    prompt, output = rng.integers(4, 17, n), rng.integers(4, 10, n)
    law = {"prefill_base_ms": 4, "prefill_per_token_ms": 0.5, "decode_base_ms": 3}
    memory = int(max((prompt + output).max(), (prompt + output).sum() // 2)) if seed % 2 else None
    return mk.Instance(
        name=f"harder-{n}-{seed}",
        server=Server(kv_capacity_tokens=memory, clock=LinearClock(kind="linear", mixed=True, **law)),
        requests=tuple(
            Request(id=f"q{i}", arrival=round(float(a), 3) / 1000, prompt_tokens=int(s), output_tokens=int(o))
            for i, (a, s, o) in enumerate(zip(np.sort(rng.random(n)) * 50 * n / 6, prompt, output, strict=True))
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "n"), [("highs", 8), ("scip", 7)])
def test_more_requests_are_solved(solver: str, n: int) -> None:
    """Tests requests that delay each other: proven optimal by the program, and equal to exhaustive search."""
    instance = harder(n, 1)
    result = mk.solve(instance, "serving-latency", solver, threads=1)
    assert result.status == "optimal"
    assert n > 7 or result.objective.value == pytest.approx(optimum(instance).value)


def shipped() -> mk.Instance:
    """The instance of four requests."""
    return mk.load(bundled("instances") / "real-time-4.json")


def test_solve_takes_it_by_itself() -> None:
    """Tests the shipped instance: its optimum is proven, below every policy, and the schedule is verified."""
    instance = shipped()
    result = mk.solve(instance, threads=1)
    assert (result.producer.name, result.status) == ("serving-latency", "optimal")
    assert result.objective.name == "total_latency_ms"
    assert result.objective.value == pytest.approx(optimum(instance).value)
    assert mk.verify_result(result, instance).holds
    policies = [judge(instance, clairvoyant_schedule(instance, policy)) for policy in fitting_policies(instance)]
    assert result.objective.value < 0.98 * min(judged_value(verdict, "latency") for verdict in policies)


@pytest.mark.parametrize("name", OBJECTIVE_OF)
def test_any_schedule_without_evictions_is_a_solution(name: str) -> None:
    """Tests that a policy's schedule, set as a start, is extracted again, as early as it can be."""
    formulation = load_formulation(name)
    for seed in (*range(20), 44, 77):
        instance, _, _ = question(seed, most=5, plain=True)
        model = formulation.instantiate(instance, mk.Known(instance))
        for policy in ("mc-sf", "vllm-like"):
            schedule = clairvoyant_schedule(instance, policy)
            before = judge(instance, schedule)
            if before.metrics["evictions"]:
                continue
            assert formulation.set_start(model, instance, schedule)
            after = judge(instance, formulation.schedule_from(model, instance))
            assert after.valid
            value = judged_value(after, OBJECTIVE_OF[name])
            assert value <= judged_value(before, OBJECTIVE_OF[name]) * (1 + 1e-12)


@pytest.mark.parametrize("name", OBJECTIVE_OF)
def test_a_policys_schedule_starts_the_solver(name: str) -> None:
    """Tests that both solvers take a start of which only the binaries are told, and the best of all schedules."""
    instance, _, _ = question(3, most=3, longest=3, plain=True)
    best = optimum(instance, OBJECTIVE_OF[name]).value
    assert mk.solve(instance, name, threads=1).objective.value == pytest.approx(best)
    for solver in SOLVERS:
        result = mk.solve(instance, name, solver, warm_start="mc-sf", threads=1)
        assert result.status == "optimal"
        assert result.start.accepted or name == "serving-latency"  # no best schedule starts as this policy's
        assert result.objective.name == METRICS[OBJECTIVE_OF[name]]


def test_what_is_outside_is_said() -> None:
    """Tests levels, exclusive prefills and too many requests."""
    formulation = load_formulation("serving-latency")
    instance = shipped()
    assert formulation.refusal(instance) is None
    levels = LinearClock(kind="linear", mixed=True, prefill_levels=((90, 1.0),))
    for server, words in (
        (Server(clock=levels), "levels"),
        (Server(clock=LinearClock(kind="linear")), "mixed = true"),
        (Server(), "linear clock"),
    ):
        requests = [r.model_copy(update={"arrival": 0}) for r in instance.requests]
        assert words in formulation.refusal(instance.replace(server=server, requests=requests))
    many = [r.model_copy(update={"id": f"{r.id}-{n}"}) for n in range(8) for r in instance.requests]
    with pytest.raises(mk.TooLargeError, match="too large for serving-latency"):
        formulation.instantiate(instance.replace(requests=many), mk.Known(instance))


def test_the_relaxation_is_a_bound_too() -> None:
    """Tests that LP bound <= optimum, and how far both it and the best certified bound are below."""
    shares: dict[str, list[float]] = {"relaxation": [], "relaxation of windows": [], "certified": []}
    for seed in range(700, 715):
        instance, _, _ = question(seed, most=4, plain=True)
        best = {metric: optimum(instance, name).value for name, metric in METRICS.items()}
        for kind, metric, value, formulation in relaxations(instance):
            assert value <= best[metric], (seed, kind, formulation)
            if formulation == "serving-latency":
                shares[kind].append(float(value) / best[metric])
        shares["certified"].append(serving_bounds(instance)[0].value / best[METRICS["latency"]])
    means = {name: sum(values) / len(values) for name, values in shares.items()}
    assert 0.5 < means["relaxation"] < means["certified"] < 1
    assert means["certified"] < means["relaxation of windows"] < 1


@pytest.mark.parametrize("seeds", [range(40), pytest.param(range(40, 1000), marks=pytest.mark.slow)])
def test_search_over_states_finds_the_optimum(seeds: range) -> None:
    """Tests its value against exhaustive search, that its schedule has it, and that its windows hold that schedule."""
    for seed in seeds:
        instance, _, _ = question(seed, most=4, plain=True)
        windows, best = start_windows(instance), optimum(instance).value
        assert windows.value == pytest.approx(best, rel=1e-9, abs=1e-9), seed
        starts = dict(zip((r.id for r in instance.requests), windows.starts, strict=True))
        verdict = judge(instance, mk.schedule_from_iterations(instance, starts))
        assert judged_value(verdict, "latency") == pytest.approx(best, rel=1e-9, abs=1e-9), seed
        for i, request in enumerate(instance.requests):
            k, stay = windows.starts[i], next(r for r in verdict.residencies if r.request == i)
            assert windows.least[i][k] <= best * (1 + 1e-9) + 1e-9
            assert windows.first_ends[i][k] + windows.decoding[i] <= stay.end + 1e-6
            assert windows.soonest[k + request.output_tokens - 2] <= stay.end + 1e-6
            assert windows.latest[k + request.output_tokens - 2] >= stay.end - 1e-6
            assert k in loose_windows(instance).first_ends[i]


def test_search_over_states_ends() -> None:
    """Tests that it gives up with too many steps or too little time, and that the program does without."""
    instance, _, _ = question(8, most=4, plain=True)
    assert start_windows(instance, most=3) is None
    assert MOST_STEPS > 3
    late = Deadline(0.0)
    assert start_windows(harder(8, 0), late) is None
    formulation = load_formulation("serving-latency")
    with within(late):
        model = formulation.instantiate(harder(8, 0), known_of(formulation, harder(8, 0)))
    assert model.iterations.value == sum(r.output_tokens for r in harder(8, 0).requests)
