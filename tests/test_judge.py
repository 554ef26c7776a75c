"""The judge: by mutation, against a naive replay, on absurd schedules, at size, and by hand."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest

from modelkit.errors import InputError
from modelkit.instance import Instance, LinearClock, Pause, Request, Server, UnitClock
from modelkit.judge import RULES, Verdict, judge, metric_names
from modelkit.schedule import MAX_ROUNDS, Admission, Schedule, Segment, schedule_from_starts

# --- fixtures, one derived from the other ------------------------------------------------------

BLOCKING = LinearClock(
    kind="linear",
    prefill_base_ms=10,
    prefill_per_token_ms=2,
    decode_base_ms=5,
    decode_per_request_ms=1,
    decode_per_kv_token_ms=0.5,
)
MIXED = BLOCKING.model_copy(update={"mixed": True})
LEVELS = BLOCKING.model_copy(
    update={"prefill_base_ms": 0.0, "prefill_per_token_ms": 0.0, "prefill_levels": ((6, 20.0), (4, 7.0))}
)
MIXED_LEVELS = LEVELS.model_copy(update={"mixed": True})
CLOCKS = {"unit": UnitClock(), "blocking": BLOCKING, "mixed": MIXED, "levels": LEVELS, "mixed levels": MIXED_LEVELS}
LINEAR = tuple(CLOCKS)[1:]

#: Two requests that hold at most 5 tokens each, and at most 9 together.
PAIR = Instance(
    server=Server(kv_capacity_tokens=8, slots=2),
    requests=(
        Request(id="a", arrival=0, prompt_tokens=2, output_tokens=3),
        Request(id="b", arrival=1, prompt_tokens=3, output_tokens=2),
    ),
)


def with_server(instance: Instance, **changes: Any) -> Instance:
    """The instance on a changed server."""
    return instance.replace(server=instance.server.model_copy(update=changes))


def with_request(instance: Instance, name: str, **changes: Any) -> Instance:
    """The instance with one request changed."""
    requests = (r.model_copy(update=changes) if r.id == name else r for r in instance.requests)
    return instance.replace(requests=tuple(requests))


def under(clock: str) -> Instance:
    """``PAIR`` under a clock; b arrives in round 1 or after 0.1 s."""
    if clock == "unit":
        return PAIR
    return with_request(with_server(PAIR, clock=CLOCKS[clock]), "b", arrival=0.1)


def plan(*segments: tuple[Any, ...]) -> Schedule:
    """Schedule from tuples (at, admit, rounds[, evict]); an admission is an id or (id, slot)."""
    return Schedule(
        tuple(Segment(at, admissions(admit), tuple(*evict), rounds) for at, admit, rounds, *evict in segments)
    )


def admissions(admit: list[Any]) -> tuple[Admission, ...]:
    """Admissions from ids and pairs (id, slot)."""
    return tuple(Admission(a) if isinstance(a, str) else Admission(*a) for a in admit)


def one_by_one(clock: str, *, numbered: bool = True) -> Schedule:
    """First a, then b; half a second is long enough for a under every clock."""
    a, b = (("a", 0), ("b", 1)) if numbered else ("a", "b")
    return plan((0, [a], 3), (3 if clock == "unit" else 0.5, [b], 2))


def evicting(clock: str) -> Schedule:
    """One round of a is lost to b, which takes over its slot; a starts again."""
    times = (0, 1, 3) if clock == "unit" else (0, 0.5, 1)
    return plan((times[0], [("a", 0)], 1), (times[1], [("b", 0)], 2, ["a"]), (times[2], [("a", 0)], 3))


def on_replica(schedule: Schedule, replica: int, *admit: Any) -> Schedule:
    """The schedule, followed by a segment on this replica."""
    return Schedule((*schedule.segments, Segment(1, admissions([*admit]), replica=replica)))


def overlapping(clock: str, a: Any = ("a", 0), b: Any = ("b", 1)) -> Schedule:
    """Schedule in which b begins a round before a is done: together they hold 5 + 4 = 9 tokens in that round."""
    return plan((0, [a], 2), (2 if clock == "unit" else 0.5, [b], 2))


def unnumbered(schedule: Schedule) -> Schedule:
    """The schedule without numbers of slots."""
    return Schedule(tuple(replace(s, admit=tuple(Admission(a.request) for a in s.admit)) for s in schedule.segments))


def mutated(schedule: Schedule, position: int, **changes: Any) -> Schedule:
    """The schedule with one segment changed."""
    segments = list(schedule.segments)
    if "admit" in changes:
        changes["admit"] = admissions(changes["admit"])
    segments[position] = replace(segments[position], **changes)
    return Schedule(tuple(segments))


def broken_rules(instance: Instance, schedule: Schedule) -> list[tuple[str, float]]:
    """Rules broken and by how much."""
    return [(violation.rule, violation.size) for violation in judge(instance, schedule).violations]


# --- mutations ---------------------------------------------------------------------------------

Case = tuple[Instance, Schedule]


@pytest.mark.parametrize("clock", CLOCKS)
def test_unmutated(clock: str) -> None:
    """The schedules that the mutations start from break no rule."""
    instance = under(clock)
    assert broken_rules(instance, one_by_one(clock)) == []
    assert broken_rules(instance, one_by_one(clock, numbered=False)) == []
    assert broken_rules(instance, evicting(clock)) == []
    assert broken_rules(with_server(instance, kv_capacity_tokens=9), overlapping(clock)) == []
    for keep in ("held", "swapped"):  # a holds 3 while b holds up to 5, or nothing
        tight = with_pauses(clock, keep, kv_capacity_tokens=8 if keep == "held" else 5)
        assert broken_rules(tight, pausing(clock)) == []
    moved = mutated(mutated(pausing(clock), 1, admit=[("b", 0)]), 2, resume=(Admission("a", 1),))
    assert broken_rules(with_pauses(clock, "swapped", slots=2), moved) == []
    assert broken_rules(with_pauses(clock, "swapped", slots=1), mutated(pausing(clock), 1, admit=["b"])) == []
    assert broken_rules(with_pauses(clock), paused_and_evicted(clock)) == []
    left = pausing(clock).segments  # b takes the slot that a left, while a runs in the other
    moved = Schedule(
        (
            left[0],
            replace(left[1], admit=(), rounds=0),
            replace(left[2], admit=admissions([("b", 0)]), resume=admissions([("a", 1)])),
        )
    )
    assert broken_rules(with_pauses(clock, "swapped", kv_capacity_tokens=12), moved) == []


def pausing(clock: str) -> Schedule:
    """One round of a, which then is paused while b runs in its slot or the other, and goes on."""
    times = (0, 1, 3) if clock == "unit" else (0, 0.5, 1)
    return Schedule(
        (
            Segment(times[0], (Admission("a", 0),), rounds=1),
            Segment(times[1], (Admission("b", 1),), pause=("a",), rounds=2),
            Segment(times[2], resume=(Admission("a"),), rounds=2),
        )
    )


def paused_and_evicted(clock: str) -> Schedule:
    """The request a is evicted while it is paused, and starts again."""
    segments = (*pausing(clock).segments[:2], Segment(3 if clock == "unit" else 1, (Admission("a", 0),), ("a",), 3))
    return Schedule(segments)


def with_pauses(clock: str, keep: str = "held", **changes: Any) -> Instance:
    """``PAIR`` on a server that keeps the tokens of paused requests."""
    return with_server(under(clock), pause=Pause(keep=keep), **changes)


def change_pausing(position: int, keep: str = "held", **changes: Any) -> Callable[[str], Case]:
    """A fault in one segment of `pausing`."""
    return lambda clock: (with_pauses(clock, keep), mutated(pausing(clock), position, **changes))


def change(position: int, **changes: Any) -> Callable[[str], Case]:
    """A fault in one segment of `one_by_one`."""
    return lambda clock: (under(clock), mutated(one_by_one(clock), position, **changes))


def change_evicting(position: int, **changes: Any) -> Callable[[str], Case]:
    """A fault in one segment of `evicting`."""
    return lambda clock: (under(clock), mutated(evicting(clock), position, **changes))


#: Rule, clocks, size of the violation, and the valid case with one fault.
MUTATIONS: list[tuple[str, tuple[str, ...], float, Callable[[str], Case]]] = [
    ("unknown_request", tuple(CLOCKS), 1, change(0, admit=[("a", 0), "c"])),
    ("unknown_request", tuple(CLOCKS), 1, change(1, evict=("c",))),
    ("missing", tuple(CLOCKS), 3, change(0, admit=[])),
    ("missing", tuple(CLOCKS), 2, change(1, admit=[])),
    ("admitted_twice", tuple(CLOCKS), 1, change(0, admit=[("a", 0), ("a", 1)])),
    ("admitted_twice", tuple(CLOCKS), 1, change(1, admit=[("a", 0), ("b", 1)])),
    ("before_arrival", ("unit",), 2, lambda c: (with_request(under(c), "b", arrival=5), one_by_one(c))),
    ("before_arrival", LINEAR, 1500, lambda c: (with_request(under(c), "b", arrival=2.0), one_by_one(c))),
    ("unfinished", tuple(CLOCKS), 1, change(1, rounds=1)),
    ("unfinished", tuple(CLOCKS), 2, change(1, rounds=0)),
    ("unfinished", tuple(CLOCKS), 3, change_evicting(2, admit=[])),
    ("not_running", tuple(CLOCKS), 1, change(0, evict=("b",))),
    ("not_running", tuple(CLOCKS), 1, change(1, evict=("a",))),
    ("not_running", tuple(CLOCKS), 1, change_evicting(1, evict=("a", "a"))),
    ("pause_not_allowed", tuple(CLOCKS), 1, lambda c: (under(c), pausing(c))),
    ("pause_not_running", tuple(CLOCKS), 1, change_pausing(0, pause=("b",))),
    ("pause_not_running", tuple(CLOCKS), 1, change_pausing(1, pause=("a", "a"))),
    ("pause_not_running", tuple(CLOCKS), 1, change_pausing(2, "swapped", pause=("b",))),
    ("resume_not_paused", tuple(CLOCKS), 1, change_pausing(1, resume=(Admission("b"),))),
    ("resume_not_paused", tuple(CLOCKS), 1, change_pausing(2, resume=(Admission("a"), Admission("a")))),
    (
        "resume_not_paused",
        tuple(CLOCKS),
        1,
        lambda c: (with_pauses(c), mutated(paused_and_evicted(c), 2, resume=(Admission("a"),))),
    ),
    ("unknown_request", tuple(CLOCKS), 1, change_pausing(1, pause=("a", "c"))),
    ("unknown_request", tuple(CLOCKS), 1, change_pausing(2, resume=(Admission("a"), Admission("c")))),
    ("unfinished", tuple(CLOCKS), 2, change_pausing(2, resume=())),
    ("admitted_twice", tuple(CLOCKS), 1, change_pausing(1, admit=[("b", 1), ("a", 0)])),
    ("admitted_twice", tuple(CLOCKS), 1, change_pausing(1, "swapped", admit=[("b", 1), ("a", 0)])),
    # a comes back while b holds 4: 3 + 4 at once, then 4 + 5 in b's last round
    (
        "kv_capacity",
        tuple(CLOCKS),
        1,
        lambda c: (
            with_pauses(c, "swapped"),
            Schedule(
                (
                    *(replace(s, rounds=1) for s in pausing(c).segments[:2]),
                    Segment(2 if c == "unit" else 0.9, resume=(Admission("a"),), rounds=2),
                )
            ),
        ),
    ),
    ("kv_capacity", tuple(CLOCKS), 1, lambda c: (with_pauses(c, kv_capacity_tokens=7), pausing(c))),
    ("slot_overlap", tuple(CLOCKS), 2, change_pausing(1, admit=[("b", 0)])),
    (
        "slot_overlap",
        tuple(CLOCKS),
        1,
        lambda c: (
            with_pauses(c, "swapped", kv_capacity_tokens=9),
            Schedule(
                (
                    *(replace(s, rounds=1) for s in pausing(c).segments[:2]),
                    Segment(2 if c == "unit" else 0.9, resume=(Admission("a", 1),), rounds=2),
                )
            ),
        ),
    ),
    ("too_many_in_progress", tuple(CLOCKS), 1, lambda c: (with_pauses(c, slots=1), unnumbered(pausing(c)))),
    ("chunk_of_nothing", tuple(CLOCKS), 1, change(1, chunks=(("a", 1),))),
    ("chunk_of_nothing", ("blocking", "levels"), 1, change(0, chunks=(("a", 1),))),
    ("unknown_request", ("unit", "mixed", "mixed levels"), 1, change(0, chunks=(("a", 2), ("c", 1)))),
    ("unfinished", ("unit", "mixed"), 1, change(1, chunks=(("b", 2),))),
    ("unknown_slot", tuple(CLOCKS), 1, change_pausing(2, "swapped", resume=(Admission("a", 2),))),
    ("unknown_slot", tuple(CLOCKS), 1, change(0, admit=[("a", 2)])),
    ("unknown_slot", tuple(CLOCKS), 10, change(0, admit=[("a", 11)])),
    ("unknown_slot", tuple(CLOCKS), 3, change(0, admit=[("a", -3)])),
    (
        "slot_overlap",
        tuple(CLOCKS),
        1,
        lambda c: (with_server(under(c), kv_capacity_tokens=9), overlapping(c, b=("b", 0))),
    ),
    ("slot_overlap", tuple(CLOCKS), 1, change_evicting(1, rounds=1)),
    (
        "too_many_in_progress",
        tuple(CLOCKS),
        1,
        lambda c: (with_server(under(c), kv_capacity_tokens=9, slots=1), overlapping(c, "a", "b")),
    ),
    ("kv_capacity", tuple(CLOCKS), 1, lambda c: (under(c), overlapping(c))),
    (
        "kv_capacity",
        tuple(CLOCKS),
        2,
        lambda c: (with_server(under(c), kv_capacity_tokens=7), overlapping(c, "a", "b")),
    ),
    (
        "prefill_level",
        ("levels", "mixed levels"),
        1,
        lambda c: (
            with_server(under(c), clock=CLOCKS[c].model_copy(update={"prefill_levels": ((2, 7.0), (1, 3.0))})),
            one_by_one(c),
        ),
    ),
    ("time_order", ("unit",), 2, change(1, at=1)),
    # a ends after 38 ms (blocking), 30.5 (mixed), 31 (levels) or 23.5 (mixed levels); b comes after 10 ms
    (
        "time_order",
        ("blocking",),
        28,
        early := lambda c: (with_request(under(c), "b", arrival=0), change(1, at=0.01)(c)[1]),
    ),
    ("time_order", ("mixed",), 20.5, early),
    ("time_order", ("levels",), 21, early),
    ("time_order", ("mixed levels",), 13.5, early),
    (
        "chunked_prefill",
        ("unit", "blocking", "levels"),
        1,
        lambda c: (under(c), replace(one_by_one(c), tokens_per_iteration=4)),
    ),
    ("whole_rounds", ("unit",), 0.25, change(1, at=3.25)),
    ("unknown_replica", tuple(CLOCKS), 2, lambda c: (under(c), on_replica(one_by_one(c), 3))),
    ("unknown_replica", tuple(CLOCKS), 1, lambda c: (with_server(under(c), replicas=2), on_replica(one_by_one(c), 0))),
    (
        "two_replicas",
        tuple(CLOCKS),
        1,
        lambda c: (with_server(under(c), replicas=2), on_replica(one_by_one(c), 2, ("b", 1))),
    ),
]


@pytest.mark.parametrize(
    ("clock", "rule", "size", "case"),
    [
        pytest.param(clock, rule, size, case, id=f"{rule} {clock} {position}")
        for position, (rule, clocks, size, case) in enumerate(MUTATIONS)
        for clock in clocks
    ],
)
def test_mutation(clock: str, rule: str, size: float, case: Callable[[str], Case]) -> None:
    """One fault in a valid schedule breaks exactly that rule by exactly that much."""
    assert broken_rules(*case(clock)) == [(rule, pytest.approx(size))]


def test_every_rule_has_a_mutation() -> None:
    """No rule of the judge goes without a mutation."""
    assert {rule for rule, *_ in MUTATIONS} == set(RULES)


# --- the naive replay --------------------------------------------------------------------------


def naive(instance: Instance, schedule: Schedule) -> tuple[dict[str, float | None], list[int], list[int]]:
    """All metrics, KV excesses and surplus requests by round-by-round bookkeeping.

    An excess is the most by which one unbroken sequence of moments is above the limit.
    """
    law = instance.server.clock if isinstance(instance.server.clock, LinearClock) else None
    scale = 1000 if law else 1
    known = {r.id: r for r in instance.requests}
    pause = instance.server.pause
    swaps = pause is not None and pause.keep == "swapped"
    running: dict[str, dict[str, Any]] = {}
    asleep: dict[str, dict[str, Any]] = {}
    pauses = paused = swapped = 0
    done: dict[str, dict[str, Any]] = {}
    now = token_time = slot_time = decode_time = 0.0
    peak = rounds = idle = evictions = recomputed = 0
    held_at: list[int] = []  # in each round, prefill and gap
    running_at: list[int] = []  # the same, and after the admissions of each segment

    def held() -> int:
        there = [*running.items(), *(() if swaps else asleep.items())]
        return sum(known[i].prompt_tokens + residency["age"] for i, residency in there)

    def crowd() -> int:
        return len(running) + (0 if swaps else len(asleep))

    def cached(i: str, residency: dict[str, Any]) -> int:
        return known[i].prompt_tokens + residency["age"] if residency["processed"] else 0

    def wake(i: str) -> dict[str, Any]:
        nonlocal paused
        residency = asleep.pop(i)
        paused += now - residency["since"]
        residency["away"] = residency.get("away", 0) + (now - residency["since"] if swaps else 0)
        return residency

    def prefill(names: list[str]) -> float:
        tokens = sum(known[i].prompt_tokens for i in names)
        if law.prefill_levels is None:
            return law.prefill_base_ms + law.prefill_per_token_ms * tokens if names else 0.0
        fitting = [ms for capacity, ms in law.prefill_levels if capacity >= tokens]
        return (min(fitting) if fitting else max(law.prefill_levels)[1]) if names else 0.0

    def decode(names: list[str]) -> float:
        kv = sum(known[i].prompt_tokens + running[i]["age"] for i in names)
        return law.decode_base_ms + law.decode_per_request_ms * len(names) + law.decode_per_kv_token_ms * kv

    def spend(duration: float) -> None:
        nonlocal now, token_time
        held_at.append(held())
        running_at.append(crowd())
        token_time += held() * duration
        now += duration

    for segment in schedule.segments:
        at = segment.at * scale if law else math.ceil(segment.at)
        if at > now:
            idle += 0 if law else int(at - now)
            spend(at - now)
        for i in segment.evict:
            if i in running or i in asleep:
                residency = running.pop(i) if i in running else wake(i)
                evictions += 1
                slot_time += now - residency["begin"] - residency.get("away", 0)
                recomputed += cached(i, residency)
        copied = [0, 0]
        for i in segment.pause:
            if i in running:
                asleep[i] = {**running.pop(i), "since": now}
                pauses += 1
                copied[0] += cached(i, asleep[i])
                swapped += cached(i, asleep[i]) if swaps else 0
        for i, _ in segment.resume:
            if i in asleep:
                copied[1] += cached(i, asleep[i])
                running[i] = wake(i)
        admitted = []
        for i, _ in segment.admit:
            if i in known and i not in running and i not in done and i not in asleep:
                running[i] = {"age": 0, "begin": now, "processed": False}
                admitted.append(i)
        running_at.append(crowd())
        if law and swaps and any(copied):
            spend(copied[0] * law.swap_out_per_token_ms + copied[1] * law.swap_in_per_token_ms)
        if law and not law.mixed and admitted:
            spend(prefill(admitted))
            for i in admitted:
                running[i]["processed"] = True
        for _ in range(segment.rounds):
            rounds += 1
            if not running:
                idle += 1
                spend(1 if not law else 0 if law.mixed else law.decode_base_ms)
                continue
            old = [i for i in running if running[i]["processed"]]
            new = [i for i in running if not running[i]["processed"]]
            for residency in running.values():
                residency["age"] += 1
            peak = max(peak, held())
            began = now
            spend(1 if not law else prefill(new) + (decode(old) if old else 0))
            decode_time += len(running) * (now - began)
            for i, residency in list(running.items()):
                residency["processed"] = True
                residency.setdefault("first", now)
                if residency["age"] == known[i].output_tokens:
                    done[i] = {**running.pop(i), "end": now}
                    slot_time += now - residency["begin"] - residency.get("away", 0)
    for i in list(asleep):
        wake(i)

    unit, second = ("ms", "second") if law else ("rounds", "round")
    metrics: dict[str, float | None] = dict.fromkeys(metric_names(law is None, pauses=pause is not None))
    metrics |= {"peak_kv_tokens": peak, "rounds": rounds, "idle_rounds": idle}
    metrics |= {"evictions": evictions, "recomputed_tokens": recomputed}
    if pause is not None:
        metrics |= {"pauses": pauses, f"paused_{unit}": paused, "swapped_tokens": swapped}
    if len(done) == len(known):
        n = len(known)
        latencies = sorted(residency["end"] - known[i].arrival * scale for i, residency in done.items())
        first = sorted(residency["first"] - known[i].arrival * scale for i, residency in done.items())
        pace = [
            (residency["end"] - residency["first"]) / (known[i].output_tokens - 1)
            for i, residency in done.items()
            if known[i].output_tokens > 1
        ]
        makespan = max(residency["end"] for residency in done.values())
        metrics |= {
            f"total_latency_{unit}": sum(latencies),
            f"mean_latency_{unit}": sum(latencies) / n,
            f"mean_first_token_{unit}": sum(first) / n,
            f"p99_first_token_{unit}": first[math.ceil(0.99 * n) - 1],
            f"makespan_{unit}": makespan,
            f"throughput_tokens_per_{second}": sum(r.output_tokens for r in known.values()) * scale / makespan,
        }
        metrics |= {f"p{p}_latency_{unit}": latencies[math.ceil(p / 100 * n) - 1] for p in (50, 95, 99)}
        if law is not None:
            metrics |= {"total_ttft_ms": sum(first), "mean_ttft_ms": sum(first) / n}
            metrics |= {f"p{p}_ttft_ms": first[math.ceil(p / 100 * n) - 1] for p in (50, 90, 99)}
            metrics["p90_latency_ms"] = latencies[math.ceil(0.9 * n) - 1]
        if pace:
            metrics[f"mean_per_output_token_{unit}"] = sum(pace) / len(pace)
        if pace and law is not None:
            pace.sort()
            metrics["mean_tpot_ms"] = sum(pace) / len(pace)
            metrics |= {f"p{p}_tpot_ms": pace[math.ceil(p / 100 * len(pace)) - 1] for p in (50, 90, 99)}
        if instance.server.slots:
            metrics["slot_utilisation"] = slot_time / (instance.server.slots * makespan)
            metrics["slot_decode_utilisation"] = decode_time / (instance.server.slots * makespan)
        if instance.server.kv_capacity_tokens:
            metrics["kv_utilisation"] = token_time / (instance.server.kv_capacity_tokens * makespan)
    return (
        metrics,
        excesses(held_at, instance.server.kv_capacity_tokens),
        excesses(running_at, instance.server.slots),
    )


def excesses(values: list[int], limit: int | None) -> list[int]:
    """For each unbroken run of values above the limit, its most above it."""
    if limit is None:
        return []
    return [max(run) - limit for above, run in groupby(values, lambda v: v > limit) if above]


def random_law(rng: random.Random) -> UnitClock | LinearClock:
    """Any clock; the odd figures keep two sums of durations from coinciding by chance."""
    if rng.random() < 0.3:
        return UnitClock()
    levels = rng.random() < 0.3
    return LinearClock(
        kind="linear",
        mixed=rng.random() < 0.5,
        prefill_base_ms=0.0 if levels else rng.uniform(0, 9),
        prefill_per_token_ms=0.0 if levels else rng.uniform(0, 2),
        prefill_levels=((20, 7.7), (5, 3.1), (9, 3.3)) if levels else None,
        decode_base_ms=rng.uniform(1, 5),
        decode_per_request_ms=rng.choice([0.0, rng.uniform(0, 2)]),
        decode_per_kv_token_ms=rng.choice([0.0, rng.uniform(0, 2)]),
        swap_out_per_token_ms=rng.choice([0.0, rng.uniform(0, 0.3)]),
        swap_in_per_token_ms=rng.choice([0.0, rng.uniform(0, 0.3)]),
    )


def random_case(rng: random.Random) -> Case:
    """A random instance and a schedule that serves it, overlapping, preempting and pausing at will.

    Half of them are valid.
    """
    law = random_law(rng)
    unit = isinstance(law, UnitClock)
    tidy = rng.random() < 0.5
    output = {f"r{i}": rng.randint(1, 9) for i in range(rng.randint(1, 8))}
    first: dict[str, float] = {}
    waiting, left = set(output), dict.fromkeys(output, 0)
    asleep: dict[str, int] = {}
    keeps = rng.choice([None, Pause(keep="held"), Pause(keep="swapped")])
    segments: list[Segment] = []
    at = ready = 0.0  # when this segment begins, and when the one before has ended
    while waiting or asleep or any(left.values()):
        if rng.random() < 0.4:
            at = ready + (rng.randint(0, 9) if unit else rng.uniform(0, 1))
        elif tidy:
            at = ready
        running = sorted(i for i in left if left[i])
        evict = [i for i in running if rng.random() < 0.1 / (1 + len(segments) / 20)]
        admit = [i for i in sorted(waiting) if rng.random() < 0.5]
        rounds = rng.choice([0, 1, 2, 5, 12])
        pause = [i for i in running if keeps and i not in evict and rng.random() < 0.2 / (1 + len(segments) / 20)]
        resume = [i for i in sorted(asleep) if rng.random() < 0.4]
        segments.append(
            Segment(at, admissions(admit), tuple(evict), rounds, pause=tuple(pause), resume=admissions(resume))
        )
        left |= {i: asleep.pop(i) for i in resume}
        asleep |= {i: left[i] for i in pause}
        left |= dict.fromkeys(pause, 0)
        ready = max(at, ready) + (rounds if unit else 3.0)
        waiting = waiting - set(admit) | set(evict)
        left |= {i: output[i] for i in admit} | dict.fromkeys(evict, 0)
        left = {i: max(0, rest - rounds) for i, rest in left.items()}
        first = dict.fromkeys(admit, at) | first
    requests = [
        Request(
            id=i,
            arrival=rng.randint(0, int(first[i])) if unit else rng.uniform(0, first[i]),
            prompt_tokens=rng.randint(1, 6),
            output_tokens=o,
        )
        for i, o in output.items()
    ]
    server = Server(
        kv_capacity_tokens=120 if tidy else rng.choice([None, rng.randint(3, 60)]),
        slots=8 if tidy else rng.choice([None, rng.randint(1, 5)]),
        clock=law,
        pause=keeps,
    )
    return Instance(server=server, requests=tuple(requests)), Schedule(tuple(segments))


def absurd_case(rng: random.Random) -> Case:
    """The instance of a `random_case` with a schedule in which anything may stand anywhere."""
    instance, _ = random_case(rng)
    names = [r.id for r in instance.requests]
    latest = 300 if instance.is_unit else 0.3

    def some(share: float) -> list[str]:
        return [i for i in [*names, "?"] for _ in range(2) if rng.random() < share]

    segments = [
        Segment(
            rng.choice([0, rng.uniform(0, latest), rng.randint(0, 3)]),
            tuple(Admission(i, rng.choice([None, rng.randint(-1, 9)])) for i in some(0.2)),
            tuple(some(0.15)),
            rng.choice([0, 0, 1, 2, 5, 20]),
            pause=tuple(some(0.15)),
            resume=admissions(some(0.15)),
        )
        for _ in range(rng.randint(0, 12))
    ]
    if rng.random() < 0.8:  # let everybody get done after all
        segments.append(Segment(0, admissions(names), rounds=9, resume=admissions(names)))
    return instance, Schedule(tuple(segments))


@pytest.mark.parametrize("draw", [random_case, absurd_case])
def test_naive_replay_agrees(draw: Callable[[random.Random], Case]) -> None:
    """On random schedules under all clocks every metric and every excess is that of a naive replay."""
    rng = random.Random(20250701)
    complete = valid = 0
    for _ in range(200):
        instance, schedule = draw(rng)
        verdict = judge(instance, schedule)
        metrics, kv, crowd = naive(instance, schedule)
        assert list(verdict.metrics) == list(metrics)
        for name, value in metrics.items():
            expected = value if value is None else pytest.approx(value, rel=1e-9, abs=1e-9)
            assert verdict.metrics[name] == expected, (name, instance, schedule)
        assert sizes(verdict, "kv_capacity") == kv, (instance, schedule)
        assert sizes(verdict, "too_many_in_progress") == crowd, (instance, schedule)
        complete += metrics["total_latency_rounds" if instance.is_unit else "total_latency_ms"] is not None
        valid += verdict.valid
    assert complete > 130
    if draw is random_case:
        assert valid > 80


def sizes(verdict: Verdict, rule: str) -> list[float]:
    """Sizes of the violations of a rule."""
    return [violation.size for violation in verdict.violations if violation.rule == rule]


# --- violations --------------------------------------------------------------------------------


def test_excess_is_one_violation_while_it_lasts() -> None:
    """Tokens above M are one violation with its beginning and worst; after an idle time they are another."""
    instance = with_server(PAIR, kv_capacity_tokens=3)  # a holds 3, 4, 5 tokens, then b 4, 5

    def found(*segments: tuple[Any, ...]) -> list[tuple[str, float, float | None]]:
        return [(v.rule, v.size, v.at) for v in judge(instance, plan(*segments)).violations]

    assert found((0, ["a"], 3), (3, ["b"], 2)) == [("kv_capacity", 2, 1)]
    for rounds in (3, 20):  # the rest of the time is a gap or idle rounds
        assert found((0, ["a"], rounds), (20, ["b"], 2)) == [("kv_capacity", 2, 1), ("kv_capacity", 2, 20)]


def test_surplus_is_one_violation_while_it_lasts() -> None:
    """More requests than slots are one violation with its beginning; after an idle time another."""
    four = PAIR.requests + tuple(r.model_copy(update={"id": r.id * 2}) for r in PAIR.requests)
    instance = Instance(server=Server(slots=1), requests=four)
    for rounds in (3, 19):  # the rest of the time is a gap or idle rounds
        schedule = plan((1, ["a", "aa"], rounds), (20, ["b", "bb"], 2))
        assert [(v.rule, v.size, v.at) for v in judge(instance, schedule).violations] == [
            ("too_many_in_progress", 1, 1),
            ("too_many_in_progress", 1, 20),
        ]


def test_excess_begins_with_its_round() -> None:
    """Under a law that charges for tokens the rounds differ in length, and the excess begins with a round."""
    instance = with_server(under("blocking"), kv_capacity_tokens=4)
    verdict = judge(instance, mutated(one_by_one("blocking"), 1, admit=[]))
    # prefill 10 + 2 * 2 ms, then rounds of 6 + 3/2 and 6 + 4/2 ms before the one with 5 tokens
    excess = next(v for v in verdict.violations if v.rule == "kv_capacity")
    assert excess.at == pytest.approx((14 + 7.5 + 8) / 1000)
    assert excess.document() == {
        "rule": "kv_capacity",
        "size": 1,
        "unit": "tokens",
        "at": excess.at,
        "request": None,
        "message": "from 0.0295 s for 1 round: up to 5 tokens held, the KV cache holds 4",
    }


def test_prefill_above_capacity() -> None:
    """A prefill that does not fit is an excess even when everybody is evicted before the next round."""
    instance = with_server(under("blocking"), kv_capacity_tokens=5, slots=None)
    requests = tuple(r.model_copy(update={"arrival": 0, "prompt_tokens": 3}) for r in instance.requests)
    instance = instance.replace(requests=requests)
    schedule = plan((0, ["a", "b"], 0), (1, [], 0, ["a", "b"]))
    assert ("kv_capacity", 1) in broken_rules(instance, schedule)


def test_rounding_of_times_is_forgiven() -> None:
    """Under the linear clock a microsecond is no fault, neither against the arrival nor the segment before."""
    instance = with_request(under("blocking"), "b", arrival=0.038)  # a ends after 38 ms
    for early, rules in ((1e-7, []), (1e-4, ["time_order", "before_arrival"])):
        schedule = plan((0, ["a"], 3), (0.038 - early, ["b"], 2))
        assert [rule for rule, _ in broken_rules(instance, schedule)] == rules[:1]
        late = with_request(instance, "b", arrival=0.038 + early)
        assert [rule for rule, _ in broken_rules(late, plan((0, ["a"], 3), (0.038, ["b"], 2)))] == rules[1:]


def test_short_iterations_are_not_lost_in_late_times() -> None:
    """A double late in time is coarse; iterations one by one last what they last together, whatever is rounded away."""
    rounds, arrival, each = 3000, 1e9 - 1, 10.00005
    clock = LinearClock(kind="linear", mixed=True, prefill_base_ms=each, decode_base_ms=each)
    requests = (Request(id="a", arrival=arrival, prompt_tokens=1, output_tokens=rounds),)
    instance = Instance(server=Server(clock=clock), requests=requests)
    alone = [Segment(arrival, rounds=1) for _ in range(rounds - 1)]
    begun, naive = Segment(arrival, (Admission("a"),), rounds=1), arrival * 1000
    for i in range(1, rounds):
        naive += each  # as a simulator adds up: what it loses is no fault of its schedule
        alone[i - 1] = Segment(naive / 1000, rounds=1)
    assert naive < arrival * 1000 + rounds * each - 0.01
    verdict = judge(instance, Schedule((begun, *alone)))
    assert verdict.violations == ()
    assert verdict.metrics["total_latency_ms"] == pytest.approx(rounds * each, abs=1e-3)


def test_times_are_shown_in_full() -> None:
    """Messages give late rounds with all their digits."""
    (violation,) = judge(PAIR, plan((0, ["a"], 3), (12345678, ["b", "a"], 2))).violations
    assert violation.message == "at round 12345678: request 'a' is admitted again while it is done"


def test_replay_for_charts() -> None:
    """Residencies and intervals tell the replay: who held which slot when, and how many tokens were held."""
    verdict = judge(PAIR, evicting("unit"))
    assert [tuple(residency[:6]) for residency in verdict.residencies] == [
        (0, 0, 0, 1, 1, False),
        (1, 0, 1, 2, 3, True),
        (0, 0, 3, 4, 6, True),
    ]
    assert [tuple(interval[:6]) for interval in verdict.intervals] == [
        (0, 1, 1, 1, 3, 3),
        (1, 2, 1, 1, 4, 4),
        (2, 3, 1, 1, 5, 5),
        (3, 4, 1, 1, 3, 3),
        (4, 6, 2, 1, 4, 5),
    ]
    # nobody begins or ends after round 2, although b, evicted, would have ended there
    verdict = judge(with_request(PAIR, "b", arrival=0), plan((0, ["a", "b"], 1), (1, [], 2, ["b"])))
    assert [tuple(interval[:6]) for interval in verdict.intervals] == [(0, 1, 1, 2, 7, 7), (1, 3, 2, 1, 4, 5)]


def test_formulation_files_may_use_the_former_names() -> None:
    """Tests that a verdict answers to the names that its intervals and residencies had."""
    verdict = judge(PAIR, evicting("unit"))
    assert (verdict.stretches, verdict.stays) == (verdict.intervals, verdict.residencies)


# --- absurd schedules --------------------------------------------------------------------------

FAR = MAX_ROUNDS
ABSURD = {
    "nothing": plan(),
    "no work": plan(*[(0, [], 0)] * 1000),
    "endless idling": plan((FAR, [], FAR), (0, ["a", "b"], FAR), (FAR, [], FAR)),
    "endless idling, often": plan(*[(FAR, [], FAR)] * 1000),
    "backwards": plan(*[(at, ["a"], 1, ["a"]) for at in range(3000, 0, -1)]),
    "admitted again and again": plan(*[(0, ["a", "b", "a"], 1) for _ in range(3000)]),
    "evicted again and again": plan(*[(0, ["a", ("b", 10**9)], 1, ["a", "b", "b"]) for _ in range(3000)]),
    "everybody at once, unfed": plan((0, ["a", "b"], 0), (FAR, [], 0, ["a"])),
    "strangers": plan((0, ["", "c", "\ud800", "a" * 10_000], 5, ["", "c"])),
    "strange slots": plan((0, [("a", -(10**15)), ("b", 10**15)], 5)),
    "within rounds": plan(*[(at / 7, ["a"], 0, ["a"]) for at in range(3000)]),
}


@pytest.mark.parametrize("name", ABSURD)
@pytest.mark.parametrize("clock", CLOCKS)
def test_absurd_schedules_are_judged(clock: str, name: str) -> None:
    """Whatever a schedule says, it is replayed, found invalid where it is, and given every metric's key."""
    verdict = judge(under(clock), ABSURD[name])
    assert not verdict.valid
    assert all(violation.size > 0 and violation.rule in RULES for violation in verdict.violations)
    assert list(verdict.metrics) == metric_names(clock == "unit")
    assert all(value is None or math.isfinite(value) for value in verdict.metrics.values())


@pytest.mark.parametrize("changes", [{"at": -1}, {"at": math.nan}, {"at": 1e16}, {"rounds": -1}, {"rounds": 2.5}])
def test_segment_refuses(changes: dict[str, Any]) -> None:
    """Times and counts that no replay could count with are refused where the segment is made."""
    with pytest.raises(InputError, match=f"{next(iter(changes))}: found .*; allowed: "):
        replace(Segment(0), **changes)


# --- size --------------------------------------------------------------------------------------


def many(count: int, **server: Any) -> Instance:
    """``count`` requests r0, r1, ... with outputs of a million tokens and more."""
    return Instance(
        server=Server(**server),
        requests=tuple(Request(id=f"r{i}", prompt_tokens=1, output_tokens=10**6 + i) for i in range(count)),
    )


def test_replay_jumps_over_rounds() -> None:
    """20,000 requests of a million tokens and 10^12 idle rounds are replayed by their events."""
    n = 20_000
    names = [f"r{i}" for i in range(n)]
    instance = many(n, kv_capacity_tokens=10**12, slots=n)
    together = judge(instance, plan((0, names, 10**12)))
    assert together.valid
    assert together.metrics["total_latency_rounds"] == n * 10**6 + n * (n - 1) // 2
    assert together.metrics["idle_rounds"] == 10**12 - 10**6 - (n - 1)
    assert together.metrics["peak_kv_tokens"] == n * (10**6 + 1)

    pause = 5 * 10**8  # each begins long after the one before: about 10^13 rounds in all
    apart = judge(instance, plan(*[(i * pause, [name], pause) for i, name in enumerate(names)]))
    assert apart.valid
    assert apart.metrics["makespan_rounds"] == (n - 1) * pause + 10**6 + n - 1
    assert apart.metrics["peak_kv_tokens"] == 10**6 + n


def test_mass_evictions_are_quick() -> None:
    """20,000 requests admitted together and evicted together, twice, take no quadratic time."""
    n = 20_000
    names = [f"r{i}" for i in range(n)]
    begun = time.process_time()
    verdict = judge(many(n), plan((0, names, 0), (1, names, 1, names[::-1]), (2, [], 0, names)))
    assert time.process_time() - begun < 5
    assert verdict.metrics["evictions"] == 2 * n
    assert verdict.metrics["recomputed_tokens"] == 2 * n  # the first time no prompt was processed yet


# --- by hand -----------------------------------------------------------------------------------

#: a runs alone for an iteration, then a and b together for two; they hold 3, 8, 10 tokens.
HAND_COMPUTED: dict[str, tuple[float, float, dict[str, float]]] = {
    "unit": (
        1,  # arrival of b
        1,  # start of b
        {
            "total_latency_rounds": 3 + 2,
            "mean_latency_rounds": 2.5,
            "p50_latency_rounds": 2,
            "p95_latency_rounds": 3,
            "p99_latency_rounds": 3,
            "mean_first_token_rounds": (1 + 1) / 2,
            "p99_first_token_rounds": 1,
            "mean_per_output_token_rounds": 1,
            "makespan_rounds": 3,
            "throughput_tokens_per_round": 5 / 3,
            "slot_utilisation": (3 + 2) / (2 * 3),
            "slot_decode_utilisation": (3 + 2) / (2 * 3),
            "kv_utilisation": (3 + 8 + 10) / (10 * 3),
        },
    ),
    # a: prefill 10 + 2*2 = 14, round 5 + 1 + 3/2 = 7.5: until 21.5; b: prefill 10 + 2*3 = 16: until 37.5;
    # both: rounds 5 + 2 + 8/2 = 11 and 5 + 2 + 10/2 = 12: until 48.5 and 60.5
    "blocking": (
        0.01,
        0.0215,
        {
            "total_latency_ms": 60.5 + 50.5,
            "mean_latency_ms": 55.5,
            "p50_latency_ms": 50.5,
            "p95_latency_ms": 60.5,
            "p99_latency_ms": 60.5,
            "mean_first_token_ms": (21.5 + 38.5) / 2,
            "p99_first_token_ms": 38.5,
            "mean_per_output_token_ms": ((60.5 - 21.5) / 2 + 12) / 2,
            "makespan_ms": 60.5,
            "throughput_tokens_per_second": 5 / 0.0605,
            "slot_utilisation": (60.5 + 39) / (2 * 60.5),
            "slot_decode_utilisation": (7.5 + 2 * 11 + 2 * 12) / (2 * 60.5),
            "kv_utilisation": (14 * 2 + 7.5 * 3 + 16 * 6 + 11 * 8 + 12 * 10) / (10 * 60.5),
        },
    ),
    # a's first iteration is its prefill: 14; b's prefill beside a's second token: 16 + 5 + 1 + 4/2 = 24:
    # until 38; both: 12, until 50
    "mixed": (
        0.01,
        0.014,
        {
            "total_latency_ms": 50 + 40,
            "mean_latency_ms": 45,
            "p50_latency_ms": 40,
            "p95_latency_ms": 50,
            "p99_latency_ms": 50,
            "mean_first_token_ms": (14 + 28) / 2,
            "p99_first_token_ms": 28,
            "mean_per_output_token_ms": ((50 - 14) / 2 + 12) / 2,
            "makespan_ms": 50,
            "throughput_tokens_per_second": 5 / 0.05,
            "slot_utilisation": (50 + 36) / (2 * 50),
            "slot_decode_utilisation": (14 + 2 * 24 + 2 * 12) / (2 * 50),
            "kv_utilisation": (14 * 3 + 24 * 8 + 12 * 10) / (10 * 50),
        },
    ),
    # as blocking, but each prefill lasts 7, the cheapest level that holds it: 14.5; 21.5, 32.5, 44.5
    "levels": (
        0.01,
        0.0145,
        {
            "total_latency_ms": 44.5 + 34.5,
            "mean_latency_ms": 39.5,
            "p50_latency_ms": 34.5,
            "p95_latency_ms": 44.5,
            "p99_latency_ms": 44.5,
            "mean_first_token_ms": (14.5 + 22.5) / 2,
            "p99_first_token_ms": 22.5,
            "mean_per_output_token_ms": ((44.5 - 14.5) / 2 + 12) / 2,
            "makespan_ms": 44.5,
            "throughput_tokens_per_second": 5 / 0.0445,
            "slot_utilisation": (44.5 + 30) / (2 * 44.5),
            "slot_decode_utilisation": (7.5 + 2 * 11 + 2 * 12) / (2 * 44.5),
            "kv_utilisation": (7 * 2 + 7.5 * 3 + 7 * 6 + 11 * 8 + 12 * 10) / (10 * 44.5),
        },
    ),
}


@pytest.mark.parametrize("clock", HAND_COMPUTED)
def test_by_hand(clock: str) -> None:
    """Every metric of a schedule of two requests is what one computes by hand."""
    arrival, start, expected = HAND_COMPUTED[clock]
    instance = with_request(with_server(under(clock), kv_capacity_tokens=10), "b", arrival=arrival)
    verdict = judge(instance, plan((0, [("a", 0)], 1), (start, [("b", 1)], 2)))
    counts = {"peak_kv_tokens": 10, "rounds": 3, "idle_rounds": 0, "evictions": 0, "recomputed_tokens": 0}
    assert verdict.valid
    if clock != "unit":
        late = expected["p99_first_token_ms"]
        first = [2 * expected["mean_first_token_ms"] - late, late]
        pace = [12, 2 * expected["mean_per_output_token_ms"] - 12]
        expected = expected | {
            "p90_latency_ms": expected["p95_latency_ms"], "total_ttft_ms": sum(first), "mean_ttft_ms": sum(first) / 2,
            "p50_ttft_ms": first[0], "p90_ttft_ms": first[1], "p99_ttft_ms": first[1],
            "mean_tpot_ms": sum(pace) / 2, "p50_tpot_ms": min(pace), "p90_tpot_ms": max(pace),
            "p99_tpot_ms": max(pace),
        }  # fmt: skip
    assert verdict.metrics == pytest.approx(expected | counts)


def test_eviction_by_hand() -> None:
    """An eviction costs the tokens held, and latency counts from arrival to the last completion."""
    metrics = judge(PAIR, evicting("unit")).metrics
    assert metrics["evictions"] == 1
    assert metrics["recomputed_tokens"] == 2 + 1
    assert metrics["total_latency_rounds"] == (6 - 0) + (3 - 1)
    assert metrics["mean_first_token_rounds"] == ((4 - 0) + (2 - 1)) / 2
    assert metrics["slot_utilisation"] == (1 + 2 + 3) / (2 * 6)
    assert metrics["kv_utilisation"] == (3 + 4 + 5 + 3 + 4 + 5) / (8 * 6)


def test_metrics_of_an_incomplete_schedule() -> None:
    """Unless every request completes there are no latencies, but what was run is counted."""
    metrics = judge(PAIR, plan((0, ["a"], 10))).metrics
    known = {"peak_kv_tokens": 5, "rounds": 10, "idle_rounds": 7, "evictions": 0, "recomputed_tokens": 0}
    assert {name: value for name, value in metrics.items() if value is not None} == known


def test_limitless_server_has_no_utilisation() -> None:
    """Without a limit nothing is ever above it, and there is no share of it."""
    verdict = judge(with_server(PAIR, kv_capacity_tokens=None, slots=None), overlapping("unit"))
    assert verdict.valid
    assert verdict.metrics["slot_utilisation"] is None
    assert verdict.metrics["kv_utilisation"] is None


def test_schedule_from_starts() -> None:
    """Starts become segments that run until all are done; ids unknown to the instance are left to the judge."""
    schedule = schedule_from_starts(PAIR, {"b": 7, "c": 7, "a": 0})
    assert schedule == plan((0, ["a"], 3), (7, ["b", "c"], 2))
    assert broken_rules(PAIR, schedule) == [("unknown_request", 1)]
