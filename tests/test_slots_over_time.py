"""Slots where requests arrive over time, other objectives than the makespan, and slots under the unit clock."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from realtime_brute_force import judged_value, optimum, question
from seeds import each

import modelkit as mk
from modelkit.cli import main
from modelkit.instance import Instance, LinearClock, Request, Server
from modelkit.io.results import load_certificate, save_certificate
from modelkit.judge import judge
from modelkit.problems.problem import SLOTS, UNIT_SLOTS, problem_of
from modelkit.solving.unit_slots import in_rounds, rounds_certificate


def staged(seed: int) -> Instance:
    """A tiny instance of the slot problem, most of whose requests arrive over time."""
    instance = question(seed).instance
    clock = instance.server.clock.model_copy(update={"mixed": False})
    slots = instance.server.slots or 1 + seed % len(instance.requests)
    return instance.replace(server=Server(slots=slots, clock=clock))


def in_unit_time(seed: int) -> tuple[Instance, Instance]:
    """A tiny instance with slots under the unit clock, and the same with iterations of 1 ms."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 5))
    prompt, output, arrival = rng.integers(1, 6, n), rng.integers(1, 5, n), rng.integers(0, 8, n)
    peak = np.sort(prompt + output)
    capacity = int(rng.integers(peak[-1], peak.sum() + 1)) if rng.random() < 0.6 else None
    slots = int(rng.integers(1, n + 1))

    def made(scale: int, **server: object) -> Instance:
        requests = tuple(
            Request(id=f"q{i}", arrival=int(a) / scale, prompt_tokens=int(s), output_tokens=int(o))
            for i, (a, s, o) in enumerate(zip(arrival, prompt, output, strict=True))
        )
        return Instance(requests=requests, server=Server(kv_capacity_tokens=capacity, slots=slots, **server))

    return made(1), made(1000, clock=LinearClock(kind="linear", mixed=True, base_ms=1.0))


def two_far_apart() -> Instance:
    """Two requests on two slots, the second a second later."""
    clock = LinearClock(kind="linear", decode_base_ms=9.0)
    requests = [Request(id=f"q{i}", arrival=i, prompt_tokens=1, output_tokens=5) for i in range(2)]
    return Instance(server=Server(slots=2, clock=clock), requests=requests)


def test_the_end_is_after_the_last_arrival() -> None:
    """Tests a makespan that packing, which counts from 0 on, puts at 45 ms: the last arrives after 1,000 ms."""
    instance = two_far_apart()
    found = mk.bound(instance, time_limit=0.5)
    assert found.certificate.metric == "makespan_ms"
    assert found.result.objective.value == pytest.approx(1045)
    assert found.value == pytest.approx(1045, abs=0.01)
    assert mk.verify_certificate(found.certificate, instance).holds


def test_packing_goes_on_where_all_arrive_at_once() -> None:
    """Tests that with all requests known at 0 the bound on the makespan is that of packing, exact."""
    instance = two_far_apart()
    instance = instance.replace(requests=tuple(r.model_copy(update={"arrival": 0}) for r in instance.requests))
    found = mk.bound(instance, time_limit=0.5)
    assert (found.certificate.kind, found.value, found.result.status) == ("slot-closed-form", 45, "optimal")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("objective", ["makespan", "latency", "ttft"])
def test_bounds_of_slots_over_time_hold(seed: int, objective: str) -> None:
    """Tests bound <= optimum <= schedule for each objective, and that both files are verified."""
    instance = staged(seed)
    assert problem_of(instance) is SLOTS
    best = optimum(instance, objective)
    assert best is not None
    found = mk.bound(instance, objective=objective, time_limit=0.05)
    assert found.value <= best.value + 1e-9 * best.value
    assert found.result.objective.value >= best.value - 0.002 * len(instance.requests)  # started 1e-3 ms early
    assert judged_value(found.verdict, objective) == pytest.approx(found.result.objective.value)
    verified = mk.verify_result(found.result, instance)
    assert verified.holds, verified
    assert mk.verify_certificate(found.certificate, instance).holds


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["makespan", "latency", "ttft"])
def test_bounds_of_slots_over_time_hold_often(objective: str) -> None:
    """Tests the same on more instances."""
    each(range(6, 150), lambda seed: test_bounds_of_slots_over_time_hold(seed, objective))


@pytest.mark.parametrize("seed", range(6))
def test_bounds_in_rounds_hold(seed: int) -> None:
    """Tests bound <= optimum <= schedule under the unit clock with slots, and that both files are verified."""
    instance, timed = in_unit_time(seed)
    assert problem_of(instance) is UNIT_SLOTS
    best = optimum(timed)
    assert best is not None
    assert rounds_certificate(instance).value <= round(best.value)
    found = mk.bound(instance, time_limit=0.05)
    assert int(instance.arrays.output.sum()) <= found.value <= round(best.value) <= found.result.objective.value
    moved = judge(instance, in_rounds(best.schedule))
    assert moved.valid
    assert moved.metrics["total_latency_rounds"] == round(best.value)
    verified = mk.verify_result(found.result, instance)
    assert verified.holds, verified


@pytest.mark.slow
def test_bounds_in_rounds_hold_often() -> None:
    """Tests the same on more instances."""
    each(range(6, 400), test_bounds_in_rounds_hold)


def test_few_slots_are_counted() -> None:
    """Tests that without a memory limit the slots alone prove more than what each request takes when it is alone."""
    requests = tuple(Request(id=f"q{i}", prompt_tokens=1, output_tokens=4) for i in range(6))
    instance = Instance(server=Server(slots=2), requests=requests)
    found = mk.bound(instance, time_limit=0.2)
    assert found.certificate.kind == "slot-rounds"
    assert (found.value, found.result.objective.value) == (44, 48)  # the ends are no earlier than 4, 4, 6, 8, 10, 12


@pytest.mark.parametrize("objective", ["makespan", "latency", "ttft"])
def test_the_command_bounds_each_objective(
    objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tests `bound --objective` on slots over time, and `verify` of what it writes: accepted, and refused if raised."""
    file, written = tmp_path / "two.json", tmp_path / "two.certificate.json"
    mk.save_instance(two_far_apart(), file)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["modelkit", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        capsys.readouterr()
        return int(exited.value.code or 0)

    assert run("bound", str(file), "--objective", objective, "--time-limit", "0.3", "-o", str(written)) == 0
    assert run("verify", str(written), "--instance", str(file)) == 0
    certificate = load_certificate(written)
    bound = certificate.bound.model_copy(update={"numerator": certificate.bound.numerator * 2})
    save_certificate(certificate.model_copy(update={"bound": bound}), written)
    assert run("verify", str(written), "--instance", str(file)) == 5
