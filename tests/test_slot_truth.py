"""The slot problem's answers against an exhaustive search, and what a proof may lean on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from slot_brute_force import disagreements, least_makespan, odd_instance

import modelkit as mk
from modelkit.authoring.diagnose import obstacles
from modelkit.certificate import Certificate
from modelkit.errors import InfeasibleError, ModelkitError, PolicyError, UsageError
from modelkit.instance import Instance, LinearClock, Request, Server
from modelkit.judge import judge
from modelkit.policies import Policy, View
from modelkit.policies.hybrid import FollowPlan
from modelkit.policies.slots import idle_share
from modelkit.problems.slots import search as improve_slots
from modelkit.problems.slots import stage_limits as stages
from modelkit.problems.slots.packing import packing_bound
from modelkit.problems.slots.stage_plan import StagePlan, align
from modelkit.problems.slots.stages import schedule_from_queues
from modelkit.simulation import simulate as simulator
from modelkit.simulation.slots import StageSimulation
from modelkit.solving import candidates
from modelkit.solving.candidates import slot_search
from modelkit.solving.known import stage_limits
from modelkit.solving.slots import slot_certificate
from modelkit.sources.families import generate


def on_slots(slots: int, prompt: list[int], output: list[int], **law: object) -> Instance:
    """An instance of the slot problem."""
    clock = LinearClock(kind="linear", **{"decode_base_ms": 10.0, **law})
    lengths = enumerate(zip(prompt, output, strict=True))
    requests = tuple(Request(id=f"q{i}", prompt_tokens=s, output_tokens=o) for i, (s, o) in lengths)
    return Instance(name="slots", server=Server(slots=slots, clock=clock), requests=requests)


@pytest.mark.parametrize("seed", range(40))
def test_every_answer_is_that_of_the_search(seed: int) -> None:
    """Tests status, value and bound of solve, bound and all policies, and every fourth time of all formulations."""
    assert disagreements(odd_instance(seed), others=seed % 4 == 0) == []


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(k, k + 20) for k in range(40, 160, 20)])
def test_every_answer_of_many_more(seeds: range) -> None:
    """Tests the same on more instances; ``benchmarks/slot_truth.py`` takes a thousand."""
    assert [(seed, *wrong) for seed in seeds if (wrong := disagreements(odd_instance(seed)))] == []


def test_a_stage_too_small_for_all_slots_takes_another() -> None:
    """Tests an optimum that needs more stages than the slots alone: one level that holds one prompt of two."""
    instance = on_slots(2, [9, 9], [4, 4], prefill_levels=((12, 35.0),))
    assert least_makespan(instance)[0] == 110
    solved = mk.solve(instance)
    assert (solved.status, solved.objective.value, solved.objective.bound) == ("optimal", 110, 110)
    assert stage_limits(instance)[1] == 2
    queued = schedule_from_queues(instance, [[0], [1]])
    assert judge(instance, queued).valid


@pytest.mark.parametrize("policy", ["exclusive-batching", "fcfs", "hybrid", "lagrangian", "sorted"])
def test_policies_keep_to_the_largest_level(policy: str) -> None:
    """Tests many requests on many slots, where a level holds the prompts of a few."""
    base = generate("gsm8k", seed=1, requests=120, slots=20)
    clock = LinearClock(kind="linear", decode_base_ms=74.4, prefill_levels=((128, 48.0), (512, 80.0)))
    result = mk.simulate(base.replace(server=Server(slots=20, clock=clock)), policy)
    assert result.violations == []
    assert result.status == "feasible"
    assert max(len(segment.admit) for segment in result.schedule.segments) > 1


def test_a_prompt_beyond_the_largest_level_is_proven_infeasible(tmp_path: Path, cli: Callable[..., object]) -> None:
    """Tests that all commands say so, with the exit code of a proof, unless prompts may be split."""
    instance = on_slots(2, [9, 13], [4, 4], prefill_levels=((12, 35.0), (8, 50.0)))
    assert least_makespan(instance) is None
    result = mk.solve(instance)
    assert result.status == "infeasible"
    assert "largest prefill level holds 12 tokens" in result.message
    assert "'q1' has 13" in result.message
    mk.save_instance(instance, tmp_path / "a.json")
    for command in (["solve"], ["bound"], ["simulate", "-p", "hybrid"]):
        cli(command[0], str(tmp_path / "a.json"), *command[1:], "-o", str(tmp_path / "out.json"), code=3)
    assert len(obstacles(instance)) == 1
    mixed = instance.server.clock.model_copy(update={"mixed": True})
    split = instance.replace(server=Server(slots=2, clock=mixed))
    split.check_fits()
    assert obstacles(split) == []


def test_a_policy_that_overfills_a_prefill_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that the simulation trusts no policy with the levels."""

    class Greedy(Policy):
        def admit(self, view: View) -> list[int]:
            assert view.prompt_room == 12
            return [0, 1]

    instance = on_slots(2, [9, 9], [4, 4], prefill_levels=((12, 35.0),))
    told = instance.arrays.output, instance.arrays.output
    with pytest.raises(PolicyError, match="'q1', but the largest prefill level holds 12"):
        StageSimulation(instance, Greedy(), np.random.default_rng(0), told).run()


def test_a_plan_skips_boundaries_at_which_nobody_starts() -> None:
    """Tests an empty server in front of two idle boundaries, and the end of the plan."""
    instance = on_slots(1, [5, 5], [3, 3], prefill_base_ms=7.0)
    plan = StagePlan(np.array([0, 3, 5, 9, 12]), np.array([0, 3]), 0)
    told = instance.arrays.output, instance.arrays.output
    schedule = StageSimulation(instance, FollowPlan(plan, [0, 1]), np.random.default_rng(0), told).run()
    verdict = judge(instance, schedule)
    assert verdict.valid
    assert verdict.metrics["makespan_ms"] == 74


@pytest.mark.parametrize("count", range(2, 7))
def test_equal_requests_on_few_slots(count: int) -> None:
    """Tests solve and bound where plans have idle boundaries."""
    law = {"prefill_base_ms": 7.0, "prefill_per_token_ms": 2.0, "decode_base_ms": 74.4, "decode_per_kv_token_ms": 0.01}
    instance = on_slots(1 + count // 5, [6] * count, [3] * count, **law)
    assert disagreements(instance, others=False) == []


def test_what_no_judge_finds_valid_cuts_off_no_stage() -> None:
    """Tests the number of stages when the schedule at hand is not one."""
    instance = on_slots(2, [9, 9, 9], [4, 4, 4], prefill_levels=((12, 35.0),))
    assert stages.stage_limits(instance, mk.Schedule(())) == (2, 3)


def test_the_search_drops_what_the_judge_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that a policy whose schedule is not valid counts for nothing."""
    monkeypatch.setattr(candidates, "clairvoyant_schedule", lambda instance, policy: mk.Schedule(()))
    instance = on_slots(4, [9, 9], [4, 4], prefill_base_ms=5.0)
    schedule = slot_search(instance).run()
    assert judge(instance, schedule).metrics["makespan_ms"] == 90  # one by one


def test_a_bound_ends_within_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that no step begins that would last beyond the limit, and that a search goes on where it stopped."""
    instance = generate("gsm8k", seed=1, requests=90, slots=12)
    asked: list[str] = []
    monkeypatch.setattr(
        candidates,
        "clairvoyant_schedule",
        lambda instance, policy: asked.append(policy) or simulator.clairvoyant_schedule(instance, policy),
    )
    known = mk.bound(instance, time_limit=0)
    assert asked == []
    assert known.result.status == "feasible"
    assert known.result.producer.options == {"time_limit": 0, "gap": 0.0}
    at_last = mk.bound(instance, time_limit=None).result
    assert asked[-1] == "hybrid"
    assert at_last.objective.value < known.result.objective.value
    search = slot_search(instance)
    asked.clear()
    assert search.run(deadline=0) == known.result.schedule
    assert search.run() == at_last.schedule
    assert len(asked) == len(set(asked)) > 1


def test_a_gap_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that ``gap`` is heard on slots."""
    instance = generate("gsm8k", seed=1, requests=90, slots=12)
    monkeypatch.setattr(improve_slots, "align", lambda *_: pytest.fail("the gap was reached before"))
    result = mk.bound(instance, gap=0.5).result
    assert result.objective.gap < 0.5


def test_a_large_instance_in_little_time() -> None:
    """Tests 1,319 questions with a limit that leaves no time for plans."""
    mk.bound(generate("gsm8k", seed=1, requests=30, slots=4))  # compile
    began = time.process_time()
    known = mk.bound(generate("gsm8k", seed=5), time_limit=1)
    assert time.process_time() - began < 6
    assert known.result.status == "feasible"


def test_ctrl_c_keeps_the_best_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that bound and solve have the policies' schedules when a plan is broken off, and search anew later."""
    instance = generate("gsm8k", seed=3, requests=40, slots=6)

    def pressed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(improve_slots, "align", pressed)
        known = mk.bound(instance)
        solved = mk.solve(instance)
    for result in (known.result, solved):
        assert result.stop == "interrupted"
        assert result.status == "feasible"
        assert result.objective.bound == known.value
    assert mk.bound(instance).result.stop == "finished"


@pytest.mark.parametrize("kind", ["slots", "memory"])
def test_a_bound_with_an_invalid_schedule_is_no_success(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cli: Callable[..., object]
) -> None:
    """Tests that a schedule that the judge refuses has no value, is said to be refused, and exits with 4."""
    refused = mk.Schedule((mk.Segment(0, rounds=5),))
    monkeypatch.setattr(improve_slots.SlotSearch, "run", lambda *_: refused)
    monkeypatch.setattr("modelkit.solving.kv.schedule_of", lambda *_: refused)
    instance = odd_instance(1) if kind == "slots" else generate("chat", requests=5)
    result = mk.bound(instance).result
    assert (result.status, result.stop, result.objective.value) == ("no_schedule", "failed", None)
    assert "the judge rejects the schedule" in result.message
    mk.save_instance(instance, tmp_path / "a.json")
    cli("bound", str(tmp_path / "a.json"), "-o", str(tmp_path / "c.json"), code=4)


@pytest.mark.parametrize("kind", ["slots", "memory"])
def test_a_bound_above_a_valid_schedule_is_not_reported(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that no certified bound is made whose own schedule is better."""
    instance = odd_instance(1) if kind == "slots" else generate("chat", requests=5)
    monkeypatch.setattr(Certificate, "value", property(lambda certificate: 1e9))
    with pytest.raises(ModelkitError, match="is above the value"):
        mk.bound(instance)


def test_lengths_of_any_size_have_a_bound() -> None:
    """Tests outputs whose weights would be too many to recompute: the closed form is left."""
    instance = on_slots(4, [1] * 9, [90_000_000 + i for i in range(9)])
    rounds, weights = packing_bound(instance.arrays.output, 4)
    assert weights is None
    assert slot_certificate(instance).kind == "slot-closed-form"
    assert mk.bound(instance, time_limit=0).value == 10 * rounds


def test_prices_of_any_size_are_planned_with() -> None:
    """Tests stages that cost more than all rounds, and a share of idle slots that is all but all."""
    output = np.arange(1, 9)
    plan = align(output, 2, 20, 1e300, np.random.default_rng(0), stages=5, trials=500)
    assert plan.boundaries[-1] <= 20 + 2 * output.sum()
    assert 0.9 < idle_share(1e30) < 1
    instance = on_slots(2, [3, 3, 3], [2, 3, 4], prefill_base_ms=1e9, decode_base_ms=1e-300)
    assert disagreements(instance) == []


def test_arrivals_are_awaited_by_the_search() -> None:
    """Tests that a bound has a valid schedule when requests come late, and the programs say what they lack."""
    instance = on_slots(2, [9, 9, 9], [4, 4, 4], prefill_levels=((12, 35.0),))
    late = instance.replace(
        requests=tuple(r.model_copy(update={"arrival": 3.0 * i}) for i, r in enumerate(instance.requests))
    )
    assert mk.bound(late, time_limit=0).result.status == "feasible"
    assert mk.bound(late).result.status == "feasible"
    with pytest.raises(UsageError, match="known at 0"):
        mk.solve(late, formulation="slot-full-mip")


def test_infeasible_instances_are_not_searched() -> None:
    """Tests the search for a schedule on its own."""
    with pytest.raises(InfeasibleError):
        slot_search(on_slots(1, [9], [4], prefill_levels=((8, 1.0),))).run()
