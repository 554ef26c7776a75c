"""``base_ms``, a part of every iteration paid once: the judge, the simulation, slots, load, hashes, what is written."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest

import modelkit as mk
from modelkit.instance import Instance, LinearClock, Request, Server
from modelkit.judge import judge
from modelkit.judge.load import load
from modelkit.reporting.pages.instance import _clock
from modelkit.schedule import Admission, Schedule, Segment
from modelkit.simulation.simulate import fitting_policies
from modelkit.solving.candidates import slot_search
from modelkit.solving.known import known_of, stage_limits
from modelkit.sources.families import generate
from modelkit.verify.slot_bound import closed_form_rounds, slot_bound

MIXED = LinearClock(
    kind="linear", mixed=True, base_ms=5.0, prefill_base_ms=10.0, prefill_per_token_ms=1.0, decode_base_ms=20.0,
    decode_per_request_ms=2.0, decode_per_kv_token_ms=0.1,
)  # fmt: skip
TWO = (Request(id="a", prompt_tokens=3, output_tokens=2), Request(id="b", prompt_tokens=2, output_tokens=2))


def two(clock: LinearClock) -> Instance:
    """Two requests on a server with two slots."""
    return Instance(name="two", server=Server(slots=2, clock=clock), requests=TWO)


def one_after_another(rounds: int, at: float, then: int = 2) -> Schedule:
    """The one, and after so many rounds, ``at`` so many ms, the other."""
    return Schedule((Segment(0, (Admission("a"),), rounds=rounds), Segment(at / 1000, (Admission("b"),), rounds=then)))


def slot_instances(levels: bool) -> tuple[Instance, Instance]:
    """An instance with a base of every iteration, and the same with both other bases as much higher."""
    drawn = generate("slot-synthetic", seed=3, requests=6, slots=2, levels=levels)
    law = {"decode_base_ms": 8.0, "decode_per_request_ms": 0.5, "decode_per_kv_token_ms": 0.25}
    both = []
    for base, extra in ((16.0, 0.0), (0.0, 16.0)):
        prefill: dict[str, Any] = {"prefill_base_ms": 32.0 + extra, "prefill_per_token_ms": 0.5}
        if levels:
            prefill = {"prefill_levels": tuple((c, 8.0 * k + extra) for k, c in enumerate((20, 30, 400), start=1))}
        clock = LinearClock(kind="linear", base_ms=base, **prefill, **(law | {"decode_base_ms": 8.0 + extra}))
        both.append(drawn.replace(server=Server(slots=2, clock=clock)))
    return both[0], both[1]


def test_the_judge_by_hand_where_prefills_share_iterations() -> None:
    """Tests three iterations: a prompt alone, a prompt beside a decoding request, decoding alone; the base in each."""
    verdict = judge(two(MIXED), one_after_another(1, 18))
    assert verdict.valid
    first, second, third = 5 + 13, 5 + 12 + (20 + 2 + 0.1 * 5), 5 + (20 + 2 + 0.1 * 4)
    assert [s.end - s.begin for s in verdict.intervals] == pytest.approx([first, second, third])
    assert verdict.metrics["makespan_ms"] == pytest.approx(first + second + third)
    assert verdict.metrics["total_latency_ms"] == pytest.approx(2 * (first + second) + third)
    assert verdict.metrics["mean_first_token_ms"] == pytest.approx(first + second / 2)


def test_the_judge_by_hand_where_a_prefill_blocks() -> None:
    """Tests that prefills and decode rounds pay the base each, rounds in which nobody is left too."""
    instance = two(MIXED.model_copy(update={"mixed": False}))
    # prefill a, a alone, prefill b, both, b alone
    parts = [18, 5 + 20 + 2 + 0.4, 17, 5 + 20 + 4 + 0.1 * (5 + 3), 5 + 20 + 2 + 0.4]
    at = parts[0] + parts[1]
    verdict = judge(instance, one_after_another(1, at))
    assert verdict.valid
    assert verdict.metrics["makespan_ms"] == pytest.approx(sum(parts))
    first = 18 + 2 * 27 + 0.1 * (4 + 5)
    alone = 17 + 2 * 27 + 0.1 * (3 + 4)
    idle = judge(instance, one_after_another(4, first + 2 * 25))
    assert idle.valid
    assert idle.metrics["idle_rounds"] == 2
    assert idle.metrics["makespan_ms"] == pytest.approx(first + 2 * 25 + alone)


def test_a_part_over_nobody_lasts_no_time() -> None:
    """Tests that an iteration with nobody in it is none, with its base or without."""
    assert MIXED.iterations_ms(3, 0, 0, 0) == 0
    assert MIXED.iterations_ms(3, 4, 0, 0) == 3 * (5 + 14)
    assert MIXED.iterations_ms(3, 4, 2, 30) == pytest.approx(3 * (5 + 14 + 20 + 4) + 3)
    assert MIXED.iterations_ms(3, 0, 2, 30) == MIXED.decode_ms(3, 6, 30) == pytest.approx(3 * (5 + 20 + 4) + 3)


@pytest.mark.parametrize("chunked", [False, True])
def test_the_simulation_keeps_the_judge_s_time(chunked: bool) -> None:
    """Tests that segments of a simulation begin when the judge says that the ones before end."""
    drawn = generate("chat", requests=40, rate=200, server="llama2-70b-2xa100", seed=2)
    clock = drawn.server.clock.model_copy(update={"base_ms": 30.0, "decode_base_ms": 20.0})
    instance = drawn.replace(server=Server(kv_capacity_tokens=1500, clock=clock))
    limits: dict[str, Any] = {"max_batch_tokens": 64, "chunked_prefill": True} if chunked else {}
    result = mk.simulate(instance, "vllm-like", **limits)
    verdict = judge(instance, result.schedule)
    assert verdict.valid
    ends = {s.end for s in verdict.intervals} | {s.begin for s in verdict.intervals}
    begun = [s.at * 1000 for s in result.schedule.segments if s.rounds]
    assert all(min(abs(at - end) for end in ends) < 1e-6 for at in begun)
    without = drawn.replace(server=Server(kv_capacity_tokens=1500, clock=clock.model_copy(update={"base_ms": 0.0})))
    assert mk.simulate(without, "vllm-like", **limits).metrics["makespan_ms"] < result.metrics["makespan_ms"]


@pytest.mark.parametrize("levels", [False, True])
def test_slots_see_the_folded_clock(levels: bool) -> None:
    """Tests that policies, the search, limits and bounds say the same of a base and of both bases as much higher."""
    shared, folded = slot_instances(levels)
    assert shared.server.clock.folded() == folded.server.clock
    assert shared.sha256 != folded.sha256
    for policy in fitting_policies(folded):
        ours, theirs = (mk.simulate(i, policy) for i in (shared, folded))
        assert ours.schedule == theirs.schedule, policy
        assert ours.metrics == theirs.metrics, policy
    assert slot_search(shared, effort=200).run() == slot_search(folded, effort=200).run()
    assert stage_limits(shared) == stage_limits(folded)
    rounds = closed_form_rounds(shared)
    assert slot_bound(shared, rounds) == slot_bound(folded, rounds)
    bounds = [mk.bound(i, time_limit=5) for i in (shared, folded)]
    assert bounds[0].value == bounds[1].value
    assert mk.verify_certificate(bounds[0].certificate, shared).holds


@pytest.mark.parametrize("levels", [False, True])
@pytest.mark.parametrize("formulation", ["slot-full-mip", "slot-lower-bound", "makespan-bin-packing"])
def test_formulations_of_slots_see_the_folded_clock(formulation: str, levels: bool) -> None:
    """Tests that all that a formulation is given is the same but the instance."""
    from modelkit.formulation.loading import load_formulation

    shared, folded = slot_instances(levels)
    shared, folded = (i.replace(requests=i.requests[:4]) for i in (shared, folded))
    found = load_formulation(formulation)
    assert found.values(shared, known_of(found, shared)) == found.values(folded, known_of(found, folded))
    results = [mk.solve(i, formulation=formulation, time_limit=30) for i in (shared, folded)]
    assert results[0].objective == results[1].objective
    assert results[0].status == results[1].status


def test_exact_bounds_add_decimal_numbers() -> None:
    """Tests that 0.1 and 0.2 ms are 3/10 ms in a certificate, which the sum of the doubles is not."""
    clock = LinearClock(kind="linear", base_ms=0.1, decode_base_ms=0.2, prefill_base_ms=0.7)
    assert slot_bound(two(clock), 2) == 2 * Fraction(3, 10) + Fraction(8, 10)
    assert slot_bound(two(clock.model_copy(update={"prefill_base_ms": 0.0, "prefill_levels": ((4, 0.2),)})), 0) == max(
        Fraction(3, 10), 5 * Fraction(3, 40)
    )


def test_only_exclusive_clocks_fold() -> None:
    """Tests that a clock whose iterations have both parts cannot put its base into both."""
    with pytest.raises(ValueError, match="mixed = false"):
        MIXED.folded()
    plain = LinearClock(kind="linear", decode_base_ms=3.0)
    assert plain.folded() is plain
    huge = LinearClock(kind="linear", base_ms=1e9, decode_base_ms=1e9)
    assert huge.folded().decode_base_ms == 2e9


def test_load_counts_every_iteration() -> None:
    """Tests the share that the base needs: of memory, slots and tokens of a batch, in every iteration of a request."""
    law = LinearClock(kind="linear", mixed=True, base_ms=40.0)
    requests = tuple(Request(id=f"r{i}", arrival=float(i), prompt_tokens=10, output_tokens=3) for i in range(5))
    instance = Instance(server=Server(kv_capacity_tokens=50, clock=law), requests=requests)
    assert load(instance) == pytest.approx(40 * (11 + 12 + 13) / 50 / 1000)
    assert load(instance.replace(server=Server(slots=2, clock=law))) == pytest.approx(40 * 3 / 2 / 1000)
    assert load(instance, max_batch_tokens=10) == pytest.approx(40 * 12 / 10 / 1000)
    alone = Server(slots=2, clock=law.model_copy(update={"mixed": False}))
    assert load(instance.replace(server=alone), max_batch=2) == pytest.approx(40 * (3 / 2 + 1 / 2) / 1000)


def test_old_files_keep_their_hashes() -> None:
    """Tests the hashes that instances without the field had before it was there, and have with 0."""
    plain = LinearClock(kind="linear", prefill_base_ms=40.4, prefill_per_token_ms=0.118, decode_base_ms=74.4)
    exclusive = Instance(
        name="two", server=Server(slots=2, clock=plain), requests={"prompt_tokens": [3, 2], "output_tokens": [2, 2]}
    )
    assert exclusive.sha256 == "db66a97b52d2c6b997b053eed1f40d90d8dcfb9aed028d9dae70fb2cddc24556"
    levels = LinearClock(kind="linear", mixed=True, decode_base_ms=74, prefill_levels=((5, 10.0), (9, 12.5)))
    mixed = exclusive.replace(server=Server(kv_capacity_tokens=9, clock=levels))
    assert mixed.sha256 == "1f5bcd1affcea85d35411fe201f907337c38866baadd0d2671f3c5ac381d4827"
    document = exclusive.document()
    assert "base_ms" not in document["server"]["clock"]
    document["server"]["clock"]["base_ms"] = 0
    assert mk.load(document).sha256 == exclusive.sha256
    document["server"]["clock"]["base_ms"] = 1.5
    changed = mk.load(document)
    assert changed.sha256 != exclusive.sha256
    assert mk.load(changed.document()).server.clock == plain.model_copy(update={"base_ms": 1.5})


def test_pages_and_options_say_the_base(tmp_path: Any) -> None:
    """Tests the words of a report, and the option of lengths."""
    assert "continuous batching, 5 ms for every iteration: prefill 10 ms" in _clock(two(MIXED))
    assert "for every iteration" not in _clock(two(MIXED.model_copy(update={"base_ms": 0.0})))
    path = tmp_path / "lengths.csv"
    path.write_text("prompt_tokens,output_tokens\n10,20\n30,5\n")
    from modelkit.sources.traces import import_trace

    made = import_trace("lengths", path, base_ms=2.5)
    assert made.server.clock.base_ms == 2.5
    assert math.isclose(made.server.clock.prefill_base_ms, 40.4)
