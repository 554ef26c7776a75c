"""Random claims, right and wrong, to hold the checker of one file against `verify` with."""

from __future__ import annotations

import copy
import importlib.util
import json
import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from random_prices import random_prices

import modelkit as mk
from modelkit.certificate import (
    CHARGES,
    KINDS,
    SHARE,
    Certificate,
    Goodput,
    Interference,
    Partitions,
    Prices,
    Weights,
    Work,
)
from modelkit.errors import InputError
from modelkit.instance import InstanceStamp
from modelkit.io import parse_certificate, parse_result
from modelkit.judge import judge
from modelkit.judge.replicas import SystemReplay
from modelkit.result import Objective, Producer, Result, status_of
from modelkit.schedule import Schedule, Segment
from modelkit.verify.exact_bounds import NOTHING, recomputed_bound, with_bound
from modelkit.verify.slot_bound import closed_form_rounds

_SPEC = importlib.util.spec_from_file_location("check", Path(__file__).resolve().parents[1] / "checker" / "check.py")
assert _SPEC is not None
assert _SPEC.loader is not None
check: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(check)

#: What both say of a claim, as exit codes: 0 it holds, 5 it is wrong, 2 it is malformed or not decided.
HOLDS, WRONG, MALFORMED = 0, 5, 2


class Claim(NamedTuple):
    """A result or a certificate as JSON, the instance that it is held against, and what was done to it."""

    instance: mk.Instance
    document: dict[str, Any]
    how: str


class Answers(NamedTuple):
    """Exit codes of `verify` and of the checker, and what they say."""

    verify: int
    checker: int
    words: str
    line: str

    @property
    def agree(self) -> bool:
        """Whether both accept, or neither does."""
        return (self.verify == HOLDS) == (self.checker == HOLDS)


def answers(claim: Claim) -> Answers:
    """Ask both."""
    line, code = check.verdict([_json(claim.instance.document()), copy.deepcopy(claim.document)])
    try:
        if claim.document["schema"] == "modelkit/result/1":
            found = mk.verify_result(parse_result(copy.deepcopy(claim.document), "claim"), claim.instance)
        else:
            found = mk.verify_certificate(parse_certificate(claim.document, "claim"), claim.instance)
    except InputError as error:
        return Answers(MALFORMED, code, str(error), line)
    return Answers(HOLDS if found.holds else WRONG, code, "; ".join(found.faults), line)


def within_rounding(claim: Claim) -> bool:
    """Whether a bound is below the exact value of its proof, and above the one that `verify` rounds down to."""
    if claim.document["schema"] == "modelkit/result/1":
        return False
    try:
        certificate = parse_certificate(claim.document, "claim")
        gives = recomputed_bound(certificate, claim.instance)
    except InputError:
        return False
    said = Fraction(certificate.bound.numerator, certificate.bound.denominator)
    return KINDS[certificate.kind].at_most and 0 < said - gives < max(1, abs(gives)) / 1000


def claims(seed: int) -> Iterator[Claim]:
    """Claims about one random instance: right ones, and each with something altered."""
    rng = random.Random(seed)
    instance = random_instance(rng)
    right = result_of(instance, random_schedule(instance, rng))
    yield Claim(instance, _json(right.document()), "schedule")
    for _ in range(2):
        yield altered_result(instance, right, rng)
    drawn = list(random_certificates(instance, rng))
    for certificate in rng.sample(drawn, min(2, len(drawn))):
        document = {"schema": "modelkit/certificate/1", **_json(certificate.document())}
        yield Claim(instance, document, certificate.kind)
        yield Claim(instance, *_altered_certificate(document, rng))


def _json(document: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(document))  # type: ignore[no-any-return]


# --- instances ------------------------------------------------------------------------------------


def random_instance(rng: random.Random, kind: str | None = None) -> mk.Instance:
    """A small instance with any of the features of servers; ``kind``: unit, mixed or exclusive."""
    kind = kind or rng.choice(["unit", "mixed", "mixed", "exclusive"])
    n = rng.randint(1, 7)
    late = rng.random() < 0.7
    requests: list[dict[str, Any]] = []
    for i in range(n):
        s, o = rng.randint(1, 9), rng.randint(1, 7)
        row: dict[str, Any] = {"id": f"r{i}", "prompt_tokens": s, "output_tokens": o}
        if late:
            row["arrival"] = rng.randint(0, 9) if kind == "unit" else round(rng.uniform(0, 0.05), rng.randint(1, 5))
        if rng.random() < 0.3:
            row["class"] = rng.choice(["chat", "batch"])
        if rng.random() < 0.1:
            row["predicted_output_tokens"] = rng.choice([o, [1, o + 3], [o, o], o + 1])
        if rng.random() < 0.1:
            row |= {"session": "s", "priority": rng.choice([1, 2.5])}
        requests.append(row)
    server: dict[str, Any] = {"clock": {"kind": "unit"}}
    if kind != "unit":
        server["clock"] = random_law(rng, kind == "mixed")
        if rng.random() < 0.4:
            slo: dict[str, Any] = {"ttft_ms": rng.uniform(1, 40), "tpot_ms": rng.randint(1, 12)}
            slo |= {"latency_ms": 90} if rng.random() < 0.5 else {}
            server["slo"] = slo | ({"class": {"chat": {"latency_ms": 60.5}}} if rng.random() < 0.5 else {})
    peak = max(r["prompt_tokens"] + r["output_tokens"] for r in requests)
    if rng.random() < 0.8:
        server["kv_capacity_tokens"] = rng.randint(peak, 3 * peak)
    if rng.random() < (0.9 if kind == "exclusive" else 0.4):
        server["slots"] = rng.randint(1, 4)
    if rng.random() < 0.25:
        server["replicas"] = rng.randint(2, 3)
    feature = rng.random()
    if feature < 0.25:
        server["pause"] = {"keep": rng.choice(["held", "swapped"])}
    elif feature < 0.55 and "prefill_levels" not in server["clock"]:
        server["prefix_cache"] = {"keep": rng.random() < 0.5}
        for row in requests:
            if rng.random() < 0.7:
                if rng.random() < 0.3:
                    row["cached_prompt_tokens"] = rng.randint(1, row["prompt_tokens"])
                row["prefix"] = {"group": rng.choice("ab"), "tokens": rng.randint(1, row["prompt_tokens"])}
    return mk.load({"schema": "modelkit/instance/1", "name": "random", "server": server, "requests": requests})


def random_law(rng: random.Random, mixed: bool) -> dict[str, Any]:
    """A linear clock with a law of few digits."""

    def part(most: float) -> float:
        return rng.choice([0, rng.randint(0, 5), round(rng.uniform(0, most), rng.randint(1, 6))])

    law: dict[str, Any] = {"kind": "linear", "mixed": mixed, "base_ms": part(3), "decode_base_ms": part(6)}
    law |= {"decode_per_request_ms": part(1), "decode_per_kv_token_ms": part(0.1)}
    if rng.random() < 0.2:
        law["prefill_levels"] = [[rng.randint(3, 12), part(4)], [63, part(9)]]
    else:
        law |= {"prefill_base_ms": part(5), "prefill_per_token_ms": part(0.5)}
    return law | {"swap_out_per_token_ms": part(0.2), "swap_in_per_token_ms": part(0.2)}


# --- schedules ------------------------------------------------------------------------------------


def random_schedule(instance: mk.Instance, rng: random.Random) -> Schedule:
    """Random decisions that know the state of the replay; most are allowed, and most requests are done in the end."""
    clock = instance.server.clock
    chunk = rng.randint(2, 9) if getattr(clock, "mixed", False) and rng.random() < 0.3 else None
    system = SystemReplay(instance, Schedule((), chunk))
    daring = rng.random() < 0.2
    segments = []
    for step in range(30):
        replica = rng.randint(1, instance.server.replicas)
        if replica not in system.replays:
            system.run_segment(Segment(0, replica=replica))
            segments.append(Segment(0, replica=replica))
        segment = _next(instance, system, replica, rng, daring, chunk is None and step < 20)
        segments.append(segment)
        system.run_segment(segment)
        if all(_over(system, r.id) for r in instance.requests):
            break
    return Schedule(tuple(segments), chunk)


def _over(system: SystemReplay, name: str) -> bool:
    i = system.instance.index[name]
    return any(i in replay.current and replay.current[i].completed for replay in system.replays.values())


def _next(
    instance: mk.Instance, system: SystemReplay, replica: int, rng: random.Random, daring: bool, chunks: bool
) -> Segment:
    replay, per_time = system.replays[replica], system.first.per_time
    now = replay.now / per_time
    if rng.random() < 0.2:
        now += rng.randint(1, 3) / (1 if instance.is_unit else 200)
    running = [o for o in replay.current.values() if o.end is None and o.paused_at is None]
    paused = [o for o in replay.current.values() if o.end is None and o.paused_at is not None]

    def some(those: list[Any], share: float) -> list[str]:
        return [instance.requests[o.request].id for o in those if rng.random() < share]

    evict = some(running + paused, 0.05)
    pause = [r for r in some(running, 0.3) if r not in evict] if instance.server.pause or daring else []
    resume = [r for r in some(paused, 0.5) if r not in evict]
    held = sum(instance.requests[o.request].prompt_tokens + instance.requests[o.request].output_tokens for o in running)
    busy = len(running) + len(paused)
    taken = {o.slot for o in running + paused}
    admit: list[Any] = []
    limit, numbered = instance.server.kv_capacity_tokens, instance.server.slots is not None and rng.random() < 0.5
    slots = instance.server.slots or 99
    order = list(instance.requests)
    rng.shuffle(order)
    for r in order:
        size = r.prompt_tokens + r.output_tokens
        fits = limit is None or held + size <= limit
        known = system.home.get(r.id, replica) == replica and r.id not in evict
        current = replay.current.get(instance.index[r.id])
        free = known and (current is None or (current.end is not None and not current.completed))
        if free and r.arrival <= now and (daring or (fits and busy < slots)) and rng.random() < 0.7:
            slot = next(k for k in range(999) if k not in taken)
            taken.add(slot)
            admit.append((r.id, slot) if numbered else r.id)
            held, busy = held + size, busy + 1
    said = None
    fresh = [instance.requests[o.request].id for o in running if o.first_token is None] + [
        a if isinstance(a, str) else a[0] for a in admit
    ]
    if chunks and fresh and rng.random() < 0.2 and (instance.is_unit or getattr(instance.server.clock, "mixed", False)):
        said = tuple((name, rng.randint(1, 6)) for name in fresh if name not in pause + evict and rng.random() < 0.8)
    if not (admit or running or resume):
        now += 1 if instance.is_unit else 0.01
    return Segment(now, admit=tuple(admit), evict=tuple(evict), pause=tuple(pause), resume=tuple(resume),
                   rounds=rng.choice([0, 1, 2, 3, 9]), replica=replica, chunks=said)  # fmt: skip


def result_of(instance: mk.Instance, schedule: Schedule) -> Result:
    """A result that says of a schedule what the judge does."""
    verdict = judge(instance, schedule)
    name = "total_latency_rounds" if instance.is_unit else "total_latency_ms"
    value = verdict.metrics[name] if verdict.valid else None
    return Result(
        instance=InstanceStamp.of(instance),
        producer=Producer(kind="policy", name="random"),
        status=status_of(verdict, value, None),
        stop="finished",
        objective=Objective(name=name, value=value),
        metrics=verdict.metrics,
        violations=[violation.document() for violation in verdict.violations],
        schedule=schedule,
    )


# --- certificates ---------------------------------------------------------------------------------


def random_certificates(instance: mk.Instance, rng: random.Random) -> Iterator[Certificate]:
    """A certificate of each kind that the instance can have, from random proofs, with the bound that they give."""
    for kind, objective, proof in _proofs(instance, rng):
        draft = Certificate(
            instance=InstanceStamp.of(instance), kind=kind, objective=objective, bound=NOTHING, **proof
        )  # fmt: skip
        try:
            yield with_bound(draft, instance)
        except InputError:
            continue


def _proofs(instance: mk.Instance, rng: random.Random) -> Iterator[tuple[Any, str | None, dict[str, Any]]]:
    arrays, n = instance.arrays, len(instance.requests)
    outputs = arrays.output.tolist()
    if instance.is_unit:
        yield "kv-prices", rng.choice([None, "total_latency_rounds"]), {"prices": _prices(instance, rng)}
        yield "kv-volume", None, {}
        yield "slot-rounds", None, {}
        floor = rng.randint(1, 9)
        floors = [max(s, floor) for s in arrays.prompt.tolist()]
        pays = [rng.randint(0, 16 * 20) for _ in range(n)]
        yield "kv-partitions", None, {"partitions": Partitions(denominator=16, floors=floors, multipliers=pays)}
        return
    yield "slot-closed-form", None, {}
    if instance.server.slots and not instance.server.clock.mixed and instance.server.replicas == 1:  # type: ignore[union-attr]
        rounds = closed_form_rounds(instance) + rng.randint(-1, 1)
        if rounds >= 1:
            weights = Weights(rounds=rounds, values=[o if rng.random() < 0.9 else rng.randint(0, 9) for o in outputs])
            yield "packing", None, {"weights": weights}
    for objective in ("total_latency_ms", "makespan_ms", "total_ttft_ms"):
        work = Work(
            memory_share=rng.choice([0, SHARE, rng.randint(0, SHARE)]),
            cell=rng.choice([None, rng.randint(200, 40_000)]),
            rounds=_prices(instance, rng) if rng.random() < 0.3 else None,
            holding=[rng.randint(0, 10**5) for _ in range(rng.randint(0, 2))],
        )
        yield "serving-work", objective, {"work": work}
    shares = [rng.choice([0, SHARE, rng.randint(0, SHARE)]) for _ in range(n)]
    charges = [rng.choice([0, rng.randint(0, 3000)]) for _ in range(n)]
    yield "serving-interference", None, {"interference": Interference(delay_shares=shares, prefills=charges)}
    prices = random_prices(instance, np.random.default_rng(rng.randrange(2**32)), rng.choice([2, 12]))
    yield "serving-prices", None, {"serving_prices": prices}
    slo = None if instance.server.slo and rng.random() < 0.5 else {"ttft_ms": rng.uniform(1, 60), "tpot_ms": 7.5}
    several = [(rng.choice(CHARGES), rng.randint(0, 20_000), rng.randint(0, 60_000)) for _ in range(rng.randint(0, 5))]
    columns = {"charge": [c for c, _, _ in several], "begin": [b for _, b, _ in several]}
    columns |= {"end": [b + length for _, b, length in several], "prices": [rng.randint(0, 999) for _ in several]}
    yield "goodput", None, {"goodput": Goodput(slo=slo, denominator=rng.randint(10**5, 10**7), **columns)}


def _prices(instance: mk.Instance, rng: random.Random) -> Prices:
    rounds = sorted(rng.sample(range(1, 40), rng.randint(0, 12)))
    numerators = [rng.randint(0, 60) for _ in rounds]
    if rng.random() < 0.5:
        rounds, numerators = list(range(1, len(rounds) + 1)), sorted(numerators, reverse=True)
    return Prices(denominator=2 ** rng.randint(4, 11), rounds=rounds, numerators=numerators)


# --- what is altered ------------------------------------------------------------------------------


def altered_result(instance: mk.Instance, right: Result, rng: random.Random) -> Claim:
    """A result with something altered: its schedule, judged or as it was, its figures, or the memory of the server."""
    document = _json(right.document())
    how = rng.choice(["schedule", "schedule", "figures", "memory"])
    if how == "memory":
        peak = right.metrics["peak_kv_tokens"] or 2
        server = instance.server.model_copy(update={"kv_capacity_tokens": max(1, int(peak) - rng.randint(0, 1))})
        tight = instance.replace(server=server)
        assert right.schedule is not None
        return Claim(tight, _claimed(result_of(tight, right.schedule), document), "memory")
    if how == "figures":
        return Claim(instance, document, _alter_figures(document, rng))
    words = _alter_schedule(document["schedule"], rng)
    document["metrics"] = {name: value for name, value in document["metrics"].items() if name in CHECKED}
    try:
        schedule = parse_result(copy.deepcopy(document), "altered").schedule
    except InputError:
        return Claim(instance, document, words)
    if rng.random() < 0.7 and schedule is not None:
        document = _claimed(result_of(instance, schedule), document)
    return Claim(instance, document, words)


def _claimed(judged: Result, right: dict[str, Any]) -> dict[str, Any]:
    """What the judge says of a schedule or, where it is not valid, that it is, with the value of the right one."""
    document = _json(judged.document())
    if judged.status == "no_schedule" and right["status"] != "no_schedule":
        document |= {"violations": [], "status": "feasible"}
        document["objective"]["value"] = right["objective"]["value"]
    return document


def _alter_figures(document: dict[str, Any], rng: random.Random) -> str:
    said = [name for name, value in document["metrics"].items() if value and name in CHECKED]
    how = rng.choice(["value", "metric", "hash", "count", "status", "bound", "name", "gap"])
    if how == "value" and document["objective"]["value"] is not None:
        document["objective"]["value"] += rng.choice([1, -1, 0.001])
    elif how == "metric" and said:
        document["metrics"][rng.choice(said)] *= rng.choice([2, 1.000001])
    elif how == "hash":
        document["instance"]["sha256"] = "0" * 64
    elif how == "count":
        document["instance"]["requests"] += 1
    elif how == "status":
        document["status"] = rng.choice(["optimal", "no_schedule", "feasible", "infeasible"])
    elif how == "bound":
        document["objective"] |= {"bound": rng.choice([10**6, 0.5]), "bound_by": rng.choice(["solver", "certificate"])}
    elif how == "name":
        document["objective"]["name"] = rng.choice(["nonsense", "total_latency_ms"])
    elif how == "gap":
        document["objective"]["gap"] = 0.5
    return how


#: Figures of a result that the checker computes again where a schedule is valid.
CHECKED = ("total_latency_rounds", "total_latency_ms", "makespan_rounds", "makespan_ms", "evictions", "peak_kv_tokens",
           "mean_latency_rounds", "p99_latency_ms", "mean_ttft_ms", "p50_tpot_ms", "rounds", "within_slo",
           "goodput_requests_per_second", "requests_within_slo", "requests_outside_slo[chat]")  # fmt: skip


def _alter_schedule(schedule: dict[str, Any], rng: random.Random) -> str:
    segments = schedule["segments"]
    at = rng.randrange(len(segments))
    segment = segments[at]
    names = [entry if isinstance(entry, str) else entry[0] for s in segments for entry in s["admit"]] or ["r0"]
    how = rng.choice(ALTERATIONS)
    if how == "start":
        segment["at"] = max(0, segment["at"] + rng.choice([1, -1, 0.01, -0.01]))
    elif how == "rounds":
        segment["rounds"] = max(0, segment["rounds"] + rng.choice([-1, 1, -9]))
    elif how == "segment":
        del segments[at]
    elif how == "twice":
        segments.insert(at, copy.deepcopy(segment))
    elif how == "swap":
        segment["admit"] = [*segment["admit"][1:], rng.choice([*names, "nobody"])]
    elif how == "slot":
        segment["admit"] = [[rng.choice(names), rng.randint(-1, 4)], *segment["admit"]]
    elif how == "replica":
        segment["replica"] = rng.randint(0, 3)
    elif how == "chunks":
        segment["chunks"] = [[rng.choice(names), rng.randint(1, 5)]]
    elif how == "split":
        schedule["tokens_per_iteration"] = rng.randint(1, 6)
    elif how == "key":
        segment["unknown"] = 1
    else:
        segment[how] = [*segment.get(how, []), rng.choice(names)]
    return how


ALTERATIONS = ("start", "rounds", "segment", "twice", "swap", "slot", "replica", "chunks", "split", "evict", "pause",
               "resume", "key")  # fmt: skip


def _altered_certificate(right: dict[str, Any], rng: random.Random) -> tuple[dict[str, Any], str]:
    """A certificate with its bound, its stamp or a number of its proof altered."""
    document = _json(right)
    bound, kind = document["bound"], document["kind"]
    how = rng.choice(["higher", "lower", "proof", "proof", "proof", "hash", "objective", "kind", "denominator", "none"])
    field = KINDS[kind].field
    if how == "higher":
        by = bound["denominator"] + abs(bound["numerator"]) // 50
        bound["numerator"] += by if KINDS[kind].at_most else 1
    elif how == "lower":
        bound["numerator"] -= rng.choice([1, bound["denominator"]])
    elif how == "denominator":
        bound["denominator"] *= rng.choice([2, 0, -1])
    elif how == "hash":
        document["instance"]["sha256"] = "f" * 64
    elif how == "objective":
        document["objective"] = rng.choice(["makespan_ms", "total_latency_ms", "total_latency_rounds", "nonsense"])
    elif how == "kind":
        document["kind"] = rng.choice(list(KINDS))
    elif how == "none" and field:
        document[field] = None
    elif field:
        _alter_number(document[field], rng)
    return document, f"{kind}, {how}"


def _alter_number(proof: Any, rng: random.Random) -> None:
    """Change one whole number of a proof, or the length of a list."""
    where = rng.choice(list(proof) if isinstance(proof, dict) else range(len(proof)))
    value = proof[where]
    if isinstance(value, dict | list) and value and rng.random() < 0.9:
        _alter_number(value, rng)
    elif isinstance(value, list):
        proof[where] = value[:-1] if value else [1]
    elif isinstance(value, int) and not isinstance(value, bool):
        proof[where] = rng.choice([value + 1, value - 1, 2 * value, 0, -value, value + 0.5, 3 * value + 7])
