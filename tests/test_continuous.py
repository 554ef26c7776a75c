"""Continuous batching under the linear clock: against a naive simulation, bit by bit against the judge, by hand."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import modelkit as mk
from modelkit.errors import ModelkitError, UsageError
from modelkit.instance import Instance, LinearClock, Request, Server, UnitClock
from modelkit.judge import judge
from modelkit.policies import chosen_policy, policies
from modelkit.schedule import Admission, Schedule, Segment
from modelkit.simulation.continuous import ContinuousSimulation
from modelkit.simulation.limits import BatchLimits
from modelkit.simulation.simulate import policy_schedule, simulate

#: Every policy of continuous batching, and some with options.
NAMES = sorted(name for name, entry in policies().items() if entry.clock == "unit" and not entry.pauses)
CHOICES = [
    *NAMES,
    "mc-sf:alpha=0.1",
    "alpha-beta-clearing:alpha=0.1,beta=0.5",
    "vllm-like:block=1,watermark=0",
    "nested-wait:alpha=0,first=2",
    "svf:gate=3,wait=0.0637",
    "alpha-protection:gate=4",
    "a-min:gate=auto",
    "vllm-like:gate=auto,wait=0.01",
]


# --- a second, naive simulation ----------------------------------------------------------------


class Naive:
    """Every iteration, every request and every check written out; a policy is a function of the state."""

    def __init__(self, instance: Instance, limits: BatchLimits) -> None:
        self.law = instance.server.clock
        self.capacity = instance.server.kv_capacity_tokens
        caps = [c for c in (instance.server.slots, limits.max_batch) if c is not None]
        self.slots = min(caps, default=10**9)
        self.limits = limits
        self.requests = instance.requests
        n = range(len(self.requests))
        self.predicted = [min(r.prediction[1], self.capacity - r.prompt_tokens) for r in self.requests]
        self.lower = [min(r.prediction[0], self.capacity - r.prompt_tokens) for r in self.requests]
        self.unseen = set(n)
        self.waiting: set[int] = set()
        self.tokens: dict[int, int] = {}  # produced by those in progress, in the order of admission
        self.unread: dict[int, int] = {}  # prompt tokens of those not yet read
        self.now = 0.0
        self.rounds = 0
        self.decisions: list[tuple[list[int], list[int], int]] = []  # admitted, evicted, rounds run before
        self.ends: dict[int, float] = {}
        self.made = self.lost = 0  # output tokens

    def held(self, i: int) -> int:
        return self.requests[i].prompt_tokens + self.tokens[i]

    def room(self) -> float:
        """Prompt tokens that the next iteration still takes."""
        if self.limits.max_batch_tokens is None:
            return math.inf
        blocked = self.law.mixed
        return self.limits.max_batch_tokens - blocked * (
            len(self.tokens) - len(self.unread) + sum(self.unread.values())
        )

    def admissible(self, i: int, room: float) -> bool:
        least = 1 if self.limits.chunked_prefill else self.requests[i].prompt_tokens
        return len(self.tokens) < self.slots and room >= least

    def run(self, admit: Callable[[Naive], list[int]], evict: Callable[[Naive], list[int]]) -> None:
        arrival = [r.arrival * 1000 for r in self.requests]
        while self.unseen or self.waiting or self.tokens:
            come = {i for i in self.unseen if arrival[i] <= self.now}
            self.unseen -= come
            self.waiting |= come
            evicted = []
            if sum(self.held(i) + 1 for i in self.tokens) > self.capacity:
                evicted = evict(self)
                for i in evicted:
                    self.lower[i] = max(self.lower[i], self.tokens[i] + 1)
                    self.predicted[i] = max(self.predicted[i], self.tokens[i] + 1)
                    self.lost += self.tokens.pop(i)
                    self.unread.pop(i, None)
                self.waiting |= set(evicted)
            admitted = admit(self) if self.waiting else []
            self.waiting -= set(admitted)
            if admitted or evicted:
                self.decisions.append((admitted, evicted, self.rounds))
            if admitted and not self.law.mixed:
                self.now += self.law.prefill_ms(sum(self.requests[i].prompt_tokens for i in admitted))
                continue
            if not self.tokens:
                self.now = max(self.now, min(arrival[i] for i in self.unseen))
                continue
            self.iterate()

    def start(self, i: int) -> None:
        self.tokens[i] = 0
        self.unread[i] = self.requests[i].prompt_tokens

    def iterate(self) -> None:
        decoding = [i for i in self.tokens if i not in self.unread]
        room = self.limits.max_batch_tokens - len(decoding) if self.limits.chunked_prefill else 10**9
        read = 0
        for i in list(self.unread):
            part = min(self.unread[i], max(0, room - read))
            read += part
            self.unread[i] -= part
            if not self.unread[i]:
                del self.unread[i]
        for i in self.tokens:
            if i not in self.unread:
                self.tokens[i] += 1
                self.made += 1
        if self.law.mixed:
            self.now += self.law.prefill_ms(read) if read else 0.0
        else:
            decoding = list(self.tokens)
        if decoding:
            kv = sum(self.held(i) for i in decoding)
            self.now += (
                self.law.decode_base_ms
                + self.law.decode_per_request_ms * len(decoding)
                + self.law.decode_per_kv_token_ms * kv
            )
        self.rounds += 1
        for i in [i for i in self.tokens if self.tokens[i] == self.requests[i].output_tokens]:
            del self.tokens[i]
            self.ends[i] = self.now
        for i in self.tokens:  # it runs on, so it is longer than predicted
            self.predicted[i] = max(self.predicted[i], self.tokens[i] + 1)
            self.lower[i] = max(self.lower[i], self.tokens[i] + 1)


def evict_latest(state: Naive) -> list[int]:
    out: list[int] = []
    while sum(state.held(i) + 1 for i in state.tokens if i not in out) > state.capacity:
        out.append([i for i in state.tokens if i not in out][-1])
    return out


def look_ahead(order: Callable[[Naive, int], Any], lengths: str = "predicted", alpha: float = 0.0) -> Any:
    """Scan by an order; admit while the cache would hold everybody at every predicted end."""

    def admit(state: Naive) -> list[int]:
        length = getattr(state, lengths)
        admitted = []
        room = state.room()

        def overfills(newcomer: int) -> bool:
            limit = state.capacity
            if alpha and len(state.tokens) > 1:
                limit = int((1 - alpha) * state.capacity)
            left = {i: length[i] - done for i, done in state.tokens.items()}
            return any(
                sum(state.held(i) + later for i in state.tokens if left[i] >= later) > limit
                for later in {*left.values(), 1}
                if later <= left[newcomer]
            )

        for i in sorted(state.waiting, key=lambda i: (order(state, i), state.requests[i].arrival, i)):
            able = state.admissible(i, room)
            state.start(i)
            if not able or overfills(i):
                del state.tokens[i], state.unread[i]
                break
            room -= state.requests[i].prompt_tokens
            admitted.append(i)
        return admitted

    return admit


def volume(state: Naive, i: int) -> int:
    """Tokens held, summed over the predicted rounds."""
    return sum(state.requests[i].prompt_tokens + j for j in range(1, state.predicted[i] + 1))


def up_to(share: float) -> Callable[[Naive], list[int]]:
    """Arrival order, while the tokens of the next round stay within a share of the cache (constant)."""

    def admit(state: Naive) -> list[int]:
        admitted: list[int] = []
        room = state.room()
        for i in sorted(state.waiting, key=lambda i: (state.requests[i].arrival, i)):
            after = sum(state.held(j) + 1 for j in state.tokens) + state.requests[i].prompt_tokens + 1
            if (state.tokens and after > share * state.capacity) or not state.admissible(i, room):
                break
            room -= state.requests[i].prompt_tokens
            state.start(i)
            admitted.append(i)
        return admitted

    return admit


def vllm(state: Naive) -> list[int]:
    """Arrival order into free blocks of one token; nobody in a round with an eviction."""
    if getattr(state, "evicted_in", None) == state.rounds:
        return []
    return up_to(1.0)(state)


def evict_latest_vllm(state: Naive) -> list[int]:
    state.evicted_in = state.rounds
    return evict_latest(state)


def evict_shortest(state: Naive) -> list[int]:
    """Smallest lower ends first, the later request of two."""
    out: list[int] = []
    for i in sorted(state.tokens, key=lambda i: (max(state.lower[i], state.tokens[i] + 1), -i)):
        if sum(state.held(j) + 1 for j in state.tokens if j not in out) <= state.capacity:
            break
        out.append(i)
    return out


def gate_policy(
    admit: Callable[[Naive], list[int]], size: float, wait: float = math.inf
) -> Callable[[Naive], list[int]]:
    """A rule that is asked while ``size`` wait, the first has waited ``wait`` seconds, or nobody is in progress."""

    def admit_behind(state: Naive) -> list[int]:
        now, since = state.now / 1000, state.__dict__.setdefault("since", {})
        seen = state.__dict__.setdefault("seen", set())
        for i in state.waiting - since.keys():
            since[i] = now if i in seen else state.requests[i].arrival
            seen.add(i)
        if state.tokens and len(since) < size and now < min(since.values()) + wait:
            return []
        admitted = admit(state)
        for i in admitted:
            del since[i]
        return admitted

    return admit_behind


RULES: dict[str, tuple[Any, Any]] = {
    "mc-sf": (look_ahead(lambda s, i: s.predicted[i]), evict_latest),
    "mc-sf:alpha=0.25": (look_ahead(lambda s, i: s.predicted[i], alpha=0.25), evict_latest),
    "mc-benchmark": (look_ahead(lambda s, i: s.requests[i].arrival), evict_latest),
    "svf": (look_ahead(volume), evict_latest),
    "a-max": (look_ahead(lambda s, i: s.predicted[i]), evict_latest),
    "a-min": (look_ahead(lambda s, i: s.lower[i], "lower"), evict_shortest),
    "vllm-like:block=1,watermark=0": (vllm, evict_latest_vllm),
    "mc-sf:gate=3": (gate_policy(look_ahead(lambda s, i: s.predicted[i]), 3), evict_latest),
    "svf:gate=4,wait=0.0637": (gate_policy(look_ahead(volume), 4, 0.0637), evict_latest),
    "a-min:wait=0.0637": (gate_policy(look_ahead(lambda s, i: s.lower[i], "lower"), math.inf, 0.0637), evict_shortest),
    "vllm-like:block=1,watermark=0,gate=3": (gate_policy(vllm, 3), evict_latest_vllm),
}


def random_case(rng: random.Random, *, chunks: bool = False) -> tuple[Instance, BatchLimits]:
    """A few requests under a law of quarter milliseconds, so that times add up without rounding; wrong predictions."""
    capacity = rng.randint(16, 60)
    mixed = chunks or rng.random() < 0.6

    def quarter(most: int) -> float:
        return rng.randint(0, 4 * most) / 4

    law = LinearClock(
        kind="linear", mixed=mixed, prefill_base_ms=quarter(20), prefill_per_token_ms=quarter(3),
        decode_base_ms=1 + quarter(20), decode_per_request_ms=quarter(2), decode_per_kv_token_ms=quarter(1),
    )  # fmt: skip
    last = rng.choice([0, 5, 40])
    requests = []
    for i in range(rng.randint(3, 20)):
        s = rng.randint(1, 9)
        o = rng.randint(1, min(rng.choice([3, 8, capacity]), capacity - s))
        lower, upper = sorted(max(1, o + rng.randint(-6, 6)) for _ in range(2))
        requests.append(
            Request(
                id=f"q{i}", arrival=rng.randint(0, last) / 64, prompt_tokens=s, output_tokens=o,
                predicted_output_tokens=rng.choice([None, lower, upper, (lower, upper)]),
            )
        )  # fmt: skip
    limits = BatchLimits(
        max_batch=rng.choice([None, None, 2, 5]),
        max_batch_tokens=rng.randint(1, 9) if chunks else rng.choice([None, None, 9, 14]),
        chunked_prefill=chunks,
    )
    slots = rng.choice([None, None, 4]) if mixed else None
    return Instance(
        server=Server(kv_capacity_tokens=capacity, slots=slots, clock=law), requests=tuple(requests)
    ), limits


@pytest.mark.parametrize("chunks", [False, True])
@pytest.mark.parametrize("policy", RULES)
def test_naive_simulation_agrees(policy: str, chunks: bool) -> None:
    """On random cases each policy decides as in a naive simulation, at the same times; tokens are conserved."""
    rng = random.Random(f"{policy} {chunks}")
    evictions = waited = 0
    cases = 80 if chunks else 200
    for _ in range(cases):
        instance, limits = random_case(rng, chunks=chunks)
        other = Naive(instance, limits)
        other.run(*RULES[policy])
        schedule = policy_schedule(instance, policy, limits=limits)
        assert [
            ([instance.index[a.request] for a in s.admit], [instance.index[i] for i in s.evict])
            for s in schedule.segments
        ] == [(admitted, evicted) for admitted, evicted, _ in other.decisions], instance
        verdict = judge(instance, schedule)
        assert verdict.valid, verdict.violations
        ends = {residency.request: residency.end for residency in verdict.residencies if residency.completed}
        assert ends == {i: pytest.approx(end, rel=1e-12) for i, end in other.ends.items()}
        assert sum(s.rounds for s in schedule.segments) == other.rounds
        assert other.made == sum(r.output_tokens for r in instance.requests) + other.lost
        evictions += len([i for s in schedule.segments for i in s.evict])
        waited += len(schedule.segments) > 1
    assert evictions > (2 if "alpha" in policy else 20)
    assert waited > 0.7 * cases


# --- the judge, to the last bit ----------------------------------------------------------------


class Recording(ContinuousSimulation):
    """A simulation that notes when each request ends by its own clock."""

    def run(self) -> Schedule:
        self.times: dict[int, float] = {}
        return super().run()

    def leave(self, i: int) -> None:
        self.times[i] = self.time.now
        super().leave(i)


def rough_case(rng: random.Random) -> tuple[Instance, BatchLimits]:
    """A case whose times never add up without rounding."""
    instance, limits = random_case(rng, chunks=rng.random() < 0.3)
    law = instance.server.clock
    clock: Any = UnitClock()
    if limits.chunked_prefill or rng.random() < 0.9:
        levels = rng.random() < 0.2
        clock = LinearClock(
            kind="linear", mixed=law.mixed,
            prefill_base_ms=0.0 if levels else rng.uniform(0, 9), prefill_per_token_ms=0.0 if levels else rng.random(),
            prefill_levels=((9, 3.1), (10**6, 7.7)) if levels else None,
            decode_base_ms=rng.uniform(0, 50), decode_per_request_ms=rng.random(), decode_per_kv_token_ms=rng.random(),
        )  # fmt: skip
    requests = tuple(
        r.model_copy(update={"arrival": float(int(r.arrival * 64)) if clock == UnitClock() else rng.uniform(0, 2)})
        for r in instance.requests
    )
    server = instance.server.model_copy(update={"clock": clock})
    return instance.replace(server=server, requests=requests), limits


@pytest.mark.parametrize("policy", CHOICES)
def test_judge_agrees_to_the_last_bit(policy: str) -> None:
    """Every completion of every run comes at the very time at which the judge has it; every schedule is valid."""
    rng = random.Random(policy)
    for seed in range(60):
        instance, limits = rough_case(rng)
        entry, options = chosen_policy(policy)
        predicted = instance.arrays.predicted_lower, instance.arrays.predicted_upper
        run = Recording(instance, entry.build(options), np.random.default_rng(seed), predicted, limits)
        verdict = judge(instance, run.run())
        assert verdict.valid, (instance, verdict.violations)
        assert run.times == {
            residency.request: residency.end for residency in verdict.residencies if residency.completed
        }


@pytest.mark.parametrize("policy", CHOICES)
def test_tokens_are_conserved(policy: str) -> None:
    """Tokens produced in rounds are the outputs plus what evictions lost; recomputed tokens are counted apart."""
    rng = random.Random(policy)
    recomputed = 0.0
    for _ in range(40):
        instance, limits = random_case(rng)
        result = simulate(instance, policy, max_batch=limits.max_batch)
        verdict = judge(instance, result.schedule)
        produced = sum(interval.active * interval.rounds for interval in verdict.intervals)
        lost = result.metrics["recomputed_tokens"]
        prompts = sum(
            instance.requests[residency.request].prompt_tokens
            for residency in verdict.residencies
            if not residency.completed and (residency.first_token is not None or not instance.server.clock.mixed)
        )
        assert produced == sum(r.output_tokens for r in instance.requests) + lost - prompts
        per_second = result.metrics["throughput_tokens_per_second"]
        total = sum(r.output_tokens for r in instance.requests)
        assert per_second * result.metrics["makespan_ms"] == pytest.approx(1000 * total)
        recomputed += lost
    # segments of 64 tokens are too long for so small a cache, and eb's batch of one is safe in it
    assert recomputed > 0 or policy in ("nested-wait", "eb")


# --- by hand -----------------------------------------------------------------------------------

LAW: dict[str, float] = {
    "prefill_base_ms": 10, "prefill_per_token_ms": 1, "decode_base_ms": 20, "decode_per_request_ms": 2,
    "decode_per_kv_token_ms": 0.5,
}  # fmt: skip


def case(*rows: tuple[float, int, int], mixed: bool = True, capacity: int = 100) -> Instance:
    """Requests a, b, c, ... from (arrival [s], prompt, output)."""
    return Instance(
        server=Server(kv_capacity_tokens=capacity, clock=LinearClock(kind="linear", mixed=mixed, **LAW)),
        requests=tuple(
            Request(id="abcdefgh"[i], arrival=a, prompt_tokens=s, output_tokens=o) for i, (a, s, o) in enumerate(rows)
        ),
    )


def ends(instance: Instance, policy: str = "mc-benchmark", **settings: Any) -> dict[str, float]:
    """When each request is done [ms]."""
    schedule = simulate(instance, policy, **settings).schedule
    return {
        instance.requests[residency.request].id: residency.end
        for residency in judge(instance, schedule).residencies
        if residency.completed
    }


def test_mixed_by_hand() -> None:
    """Request b comes during a's first iteration and is read beside a's second token."""
    # a: 10 + 4 = 14 ms; then a decodes with 6 tokens while b (3) is read: 13 + 20 + 2 + 3 = 38; then a 7, b 5: 30
    assert ends(case((0, 4, 3), (0.010, 3, 2))) == {"a": 14 + 38 + 30, "b": 14 + 38 + 30}


def test_exclusive_by_hand() -> None:
    """Request b comes during a's prefill: its own follows at once, and both decode beside each other."""
    # prefills 14 + 13; rounds with (5, 4), (6, 5) and (7) tokens
    times = ends(case((0, 4, 3), (0.010, 3, 2), mixed=False))
    assert times == {"b": 27 + 28.5 + 29.5, "a": 27 + 28.5 + 29.5 + 25.5}


def test_chunked_prefill_by_hand() -> None:
    """Iterations of 4 tokens: a's prompt of 6 takes two, then one token for a leaves three for b's prompt."""
    instance = case((0, 6, 3), (0, 3, 1))
    result = simulate(instance, "mc-benchmark", max_batch_tokens=4, chunked_prefill=True)
    # 4 of a: 14; 2 of a and 2 of b: 14, a's first token; 1 of b beside a's second (8 tokens): 11 + 20 + 2 + 4; a: 9
    assert ends(instance, max_batch_tokens=4, chunked_prefill=True) == {"b": 28 + 37, "a": 28 + 37 + 26.5}
    assert result.schedule is not None
    assert result.schedule.document()["tokens_per_iteration"] == 4
    assert result.producer.options == {"max_batch_tokens": 4, "chunked_prefill": True}
    assert mk.verify_result(result, instance).holds


def test_long_prompts_in_small_chunks_take_no_time() -> None:
    """A hundred million iterations that are alike are one event, for the simulator and for the judge."""
    instance = case((0, 10**8, 3), (0, 5, 4), capacity=2 * 10**8)
    began = time.perf_counter()
    result = simulate(instance, "mc-benchmark", max_batch_tokens=1, chunked_prefill=True)
    assert time.perf_counter() - began < 5
    assert result.metrics["rounds"] == 10**8 + 2 + 5 + 3
    # 11 ms for each token of a's prompt, then a decodes with so many tokens in the cache, then b alone
    least = 11 * 10**8 + 2 * (22 + 0.5 * 10**8) + 11 * 5
    assert least < result.metrics["makespan_ms"] < least + 100


def test_evicted_while_its_prompt_is_read() -> None:
    """Four of six prompt tokens are in the cache when a is evicted; read again, they are recomputed tokens."""
    instance = case((0, 6, 1), capacity=7)
    schedule = Schedule((Segment(0, (Admission("a"),), (), 1), Segment(1, (Admission("a"),), ("a",), 2)), 4)
    verdict = judge(instance, schedule)
    assert verdict.valid
    assert verdict.metrics["recomputed_tokens"] == 4
    assert [residency.completed for residency in verdict.residencies] == [False, True]
    assert verdict.metrics["total_latency_ms"] == 1000 + 14 + 12
    short = judge(instance, Schedule((Segment(0, (Admission("a"),), (), 1),), 4))
    assert [(v.rule, v.size) for v in short.violations] == [("unfinished", 1)]
    tight = judge(instance.replace(server=instance.server.model_copy(update={"kv_capacity_tokens": 5})), schedule)
    assert [(v.rule, v.size) for v in tight.violations] == [("kv_capacity", 2)]


def test_limits_on_batches() -> None:
    """Requests in progress and prompt tokens of an iteration are limited; without limits all start at once."""
    instance = case((0, 5, 2), (0, 5, 2), (0, 5, 2))
    starts = [len(s.admit) for s in policy_schedule(instance, "mc-sf").segments]
    assert starts == [3]
    few = policy_schedule(instance, "mc-sf", limits=BatchLimits(max_batch=2))
    assert [(len(s.admit), s.rounds) for s in few.segments] == [(2, 2), (1, 2)]
    small = policy_schedule(instance, "mc-sf", limits=BatchLimits(max_batch_tokens=6))
    assert [(len(s.admit), s.rounds) for s in small.segments] == [(1, 1), (1, 1), (1, 2)]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_batch": 0}, "max_batch: found 0"),
        ({"max_batch_tokens": 4}, "request 'a' has 5 prompt tokens, but an iteration takes 4"),
        ({"chunked_prefill": True}, "give that number"),
    ],
)
def test_limits_that_cannot_be(limits: dict[str, Any], words: str) -> None:
    """Limits under which a request could never start are refused before the run."""
    with pytest.raises(ModelkitError, match=words):
        simulate(case((0, 5, 2)), **limits)


def test_chunks_need_a_mixed_clock() -> None:
    """Where a prefill holds up everybody there is nothing to fill up."""
    with pytest.raises(UsageError, match="mixed = true"):
        simulate(case((0, 5, 2), mixed=False), max_batch_tokens=4, chunked_prefill=True)


def test_time_goes_by_in_events() -> None:
    """While nobody can start, long outputs take no round-by-round work."""
    instance = case((0, 1, 10**8), (1, 5, 10**8), capacity=10**8 + 5)
    assert len(policy_schedule(instance, "mc-sf").segments) == 2
    assert len(policy_schedule(instance, "vllm-like").segments) >= 2


def test_scheduled_rounds_are_those_of_the_unit_clock() -> None:
    """Iterations that last a second each make the unit clock: the same decisions in the same rounds."""
    rng = random.Random(3)
    second = LinearClock(kind="linear", mixed=True, prefill_base_ms=0, decode_base_ms=1000)
    for _ in range(60):
        instance, _ = random_case(rng)
        requests = tuple(r.model_copy(update={"arrival": 0.0}) for r in instance.requests)
        unit = instance.replace(requests=requests, server=Server(kv_capacity_tokens=60, clock=UnitClock()))
        linear = unit.replace(server=Server(kv_capacity_tokens=60, clock=second))
        for policy in ("mc-sf", "svf", "sorted-f", "alpha-protection", "a-min", "vllm-like"):
            one, two = (policy_schedule(case, policy).segments for case in (unit, linear))
            assert [(s.admit, s.evict, s.rounds) for s in one] == [(s.admit, s.evict, s.rounds) for s in two]
