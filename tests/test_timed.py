"""Policies of the literature that time prefills, by hand; `test_continuous` holds them to the judge on random cases."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from modelkit.clock import LinearClock, UnitClock
from modelkit.errors import UsageError
from modelkit.instance import Instance, Request, Server
from modelkit.judge import judge
from modelkit.policies import Running, Seen, View
from modelkit.policies.sglang import SglangLike
from modelkit.policies.slots import idle_share
from modelkit.policies.timed import ExclusiveBatchingByMemory, GateAndRoute
from modelkit.simulation.limits import BatchLimits
from modelkit.simulation.simulate import policy_schedule

LAW = LinearClock(
    kind="linear", mixed=True, prefill_base_ms=10, prefill_per_token_ms=1, decode_base_ms=20, decode_per_request_ms=2
)


def case(*rows: tuple[float, int, int], capacity: int | None = None, slots: int | None = None, law: Any = LAW) -> Any:
    """Requests from (arrival, prompt, output)."""
    return Instance(
        server=Server(kv_capacity_tokens=capacity, slots=slots, clock=law),
        requests=tuple(
            Request(id=f"r{i}", arrival=a, prompt_tokens=s, output_tokens=o) for i, (a, s, o) in enumerate(rows)
        ),
    )


def rounds(
    instance: Instance, policy: str, limits: BatchLimits | None = None
) -> list[tuple[int, list[str], list[str]]]:
    """(rounds run before, admitted, evicted) of each segment."""
    schedule = policy_schedule(instance, policy, limits=limits)
    assert judge(instance, schedule).valid
    before, out = 0, []
    for segment in schedule.segments:
        out.append((before, [a.request for a in segment.admit], list(segment.evict)))
        before += segment.rounds
    return out


# --- exclusive batching ------------------------------------------------------------------------


def test_a_share_must_end_first() -> None:
    """The batch of four is full; the next two come once two have ended, not one by one."""
    # theta: p0 alpha_p / alpha_d = 1/5 * 10/20 = 0.1, so floor(0.39 * 4) = 1; with a prefill of 60 it is 0.6: floor 2
    rows = [(0, 1, 2), (0, 1, 4), (0, 1, 8), (0, 1, 8), (0, 1, 4), (0, 1, 4)]
    cheap = case(*rows, slots=4, law=LAW)
    dear = case(*rows, slots=4, law=LAW.model_copy(update={"prefill_base_ms": 60.0}))
    assert rounds(cheap, "eb") == [(0, ["r0", "r1", "r2", "r3"], []), (2, ["r4"], []), (4, ["r5"], [])]
    assert rounds(dear, "eb") == [(0, ["r0", "r1", "r2", "r3"], []), (4, ["r4", "r5"], [])]
    assert rounds(dear, "mc-benchmark")[1] == (2, ["r4"], [])


def test_the_batch_that_the_cache_holds() -> None:
    """N and k by the paper's formulas; without a limit of memory or slots newcomers are admitted at once."""
    made = ExclusiveBatchingByMemory(risk=0.1)
    for i in range(4):
        made.arrived(Seen(i, 0, 50, 20, 20))
    size, places = made.batch(View(0, 600, 0, {}, None, np.random.default_rng(0), linear_clock=LAW))
    theta = idle_share(10 / 20 / 20)
    held = 50 + (1 - theta) / theta * 20 * math.log(1 / (1 - theta))
    assert size == math.floor((600 - math.log(10) * 400 / 50) / held) == 8
    assert places == math.floor(theta * 8) == 1
    assert made.batch(View(0, 600, 0, {}, 3, np.random.default_rng(0), linear_clock=LAW))[0] == 3
    light = case((0, 1, 9), (0.05, 1, 9), (0.1, 1, 9))
    assert policy_schedule(light, "eb") == policy_schedule(light, "mc-benchmark")
    with pytest.raises(UsageError, match="risk: found 0"):
        policy_schedule(light, "eb:risk=0")


# --- tiles -------------------------------------------------------------------------------------


def test_one_tile_in_an_iteration() -> None:
    """The oldest prompts that fill a tile, or one longer prompt."""
    instance = case((0, 4, 9), (0, 3, 9), (0, 3, 9), (0, 20, 9), (0, 1, 9))
    whole = [(0, ["r0", "r1", "r2"], []), (1, ["r3"], []), (2, ["r4"], [])]
    assert rounds(instance, "rad:tile=10") == whole
    assert [admitted for _, admitted, _ in rounds(instance, "rad:tile=1")] == [["r0"], ["r1"], ["r2"], ["r3"], ["r4"]]


def test_split_prompts_one_after_the_other() -> None:
    """Where the engine splits prompts, the next begins when the one before has been read."""
    instance = case((0, 9, 5), (0, 3, 5))
    limits = BatchLimits(max_batch_tokens=4, chunked_prefill=True)
    assert rounds(instance, "rad", limits) == [(0, ["r0"], []), (3, ["r1"], [])]
    assert rounds(instance, "mc-benchmark", limits)[0][0] == 0


def test_balance_of_prompts_and_outputs() -> None:
    """The share of time for prompts is that at which as many are read as outputs end."""
    gate = GateAndRoute(tile=100)
    for i in range(4):
        gate.arrived(Seen(i, 0, 50, 20, 20))
    view = View(0, 600, 0, {}, None, np.random.default_rng(0), linear_clock=LAW)  # B = 600 / (50 + 10) = 10
    assert view.law is view.linear_clock, "the former name, for policy files"
    mixed, solo = 10 + 100 + 20 + 2 * 9, 20 + 2 * 10
    x = gate.prompt_share(view)
    assert x * 100 / (50 * mixed) == pytest.approx((9 * x / mixed + 10 * (1 - x) / solo) / 20)


def test_the_gate_of_one_server() -> None:
    """After an iteration with prompts the server decodes until their share of the time is low enough again."""
    rows = [(0, 10, 30), *((0, 10, 30) for _ in range(5))]
    found = rounds(case(*rows, capacity=400), "gate-and-route:tile=10")
    starts = [before for before, admitted, _ in found]
    assert [admitted for _, admitted, _ in found] == [[f"r{i}"] for i in range(6)]
    assert all(after - before > 1 for before, after in pairwise(starts))


# --- what engines do ---------------------------------------------------------------------------


def test_share_of_outputs_to_come() -> None:
    """It falls to 0.7 * 0.14 within 600 rounds, begins anew on an empty server, and is estimated after a retraction."""
    made = SglangLike()
    assert [made.share(r) for r in (0, 300, 600, 900)] == pytest.approx([0.7, 0.399, 0.098, 0.098])
    seen = [Seen(0, 0, 5, 30, 30), Seen(1, 0, 9, 30, 30), Seen(2, 0, 9, 30, 30)]
    running = {0: Running(seen[0], 4), 1: Running(seen[1], 4), 2: Running(seen[2], 0)}
    view = View(10, 40, 39, running, None, np.random.default_rng(0), round=10)
    assert list(made.evict(view)) == [1]  # as young as 0, with the longer prompt
    assert made.share(10) == pytest.approx((6 + 10 + 2 * 20) / (60 + 1))


def test_sglang_by_hand() -> None:
    """A newcomer counts in full, those in progress with a share; who did not fit waits for an end."""
    # M = 40: r0 takes 2 + 20; for r1 (2 + 20) in round 1 there are 40 - 3 - 0.7 * 19 = 23.7: admitted;
    # for r2 in round 2 there are 40 - 4 - 3 - 0.7 * 37 < 22; after 18 rounds the younger makes room, and waits last
    instance = case((0, 2, 20), (1, 2, 20), (2, 2, 20), capacity=40, law=UnitClock())
    first = [(0, ["r0"], []), (1, ["r1"], []), (18, [], ["r1"]), (20, ["r2"], []), (40, ["r1"], [])]
    assert rounds(instance, "sglang-like") == first
    # a smaller share is kept free: 40 - 7 - 0.07 * 37 = 30.4
    early = rounds(instance, "sglang-like:conservativeness=0.1")
    assert early[2] == (2, ["r2"], [])
    assert any(evicted for _, _, evicted in early)
    with pytest.raises(UsageError, match="conservativeness: found 0"):
        rounds(instance, "sglang-like:conservativeness=0")


def test_who_makes_room() -> None:
    """The latest admitted by default; or who holds the fewest tokens, and so has the least to compute again."""
    # r0 holds 1 + t and r1 9 + t after t rounds: more than 20 in the round after the fifth
    instance = case((0, 1, 10), (0, 9, 10), capacity=20, law=UnitClock())
    policy = "vllm-like:block=1,watermark=0"
    assert rounds(instance, policy)[1][2] == ["r1"]
    assert rounds(instance, policy + ",victim=cheapest")[1][2] == ["r0"]
    with pytest.raises(UsageError, match="allowed: youngest or cheapest"):
        rounds(instance, policy + ",victim=oldest")


@pytest.mark.parametrize(
    "policy", ["vllm-like:victim=cheapest,block=1,watermark=0", "sglang-like:conservativeness=0.05"]
)
def test_everybody_is_served_in_the_end(policy: str) -> None:
    """Whoever makes room: with a cache for two or three requests all are served."""
    rng = random.Random(policy)
    evictions = 0
    for _ in range(60):
        rows = [(rng.randint(0, 20), rng.randint(1, 20), rng.randint(1, 20)) for _ in range(15)]
        found = rounds(case(*rows, capacity=45, law=UnitClock()), policy)
        evictions += sum(len(evicted) for _, _, evicted in found)
    assert evictions > 40
