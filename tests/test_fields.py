"""Every field of a result: what verify does with it, and that a forged one is named."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelkit as mk
from modelkit.certificate import Partitions, ServingPrices
from modelkit.instance import Instance
from modelkit.io import parse_result
from modelkit.problems.serving.bounds import serving_bounds
from modelkit.verify.exact_bounds import certify, certify_partitions
from modelkit.verify.fields import FIELDS, field_paths, unverified

Document = dict[str, Any]

TWO = Instance(
    name="two",
    source="family by-hand of two",
    server={"kv_capacity_tokens": 6},
    requests=[
        {"id": "short", "prompt_tokens": 2, "output_tokens": 2},
        {"id": "long", "prompt_tokens": 2, "output_tokens": 4},
        {"id": "late", "arrival": 3, "prompt_tokens": 1, "output_tokens": 1},
    ],
)
SLOTS = Instance(
    name="five",
    server={"slots": 2, "clock": {"kind": "linear", "decode_base_ms": 10.0, "prefill_base_ms": 1.0}},
    requests=[{"id": f"q{i}", "prompt_tokens": 2, "output_tokens": 3} for i in range(5)],
)
LAW = {"prefill_base_ms": 3.0, "prefill_per_token_ms": 0.5, "decode_base_ms": 2.0, "decode_per_request_ms": 1.0}
SERVED = Instance(
    name="served",
    server={"kv_capacity_tokens": 12, "clock": {"kind": "linear", "mixed": True, **LAW}},
    requests=[
        {"id": f"q{i}", "arrival": 0.001 * i, "prompt_tokens": 2 + i % 3, "output_tokens": 4 + i % 2} for i in range(6)
    ],
)
IN_CLASSES = SERVED.replace(
    requests=[r.model_copy(update={"request_class": "b"}) if i % 2 else r for i, r in enumerate(SERVED.requests)]
)
TOGETHER = SERVED.replace(requests=[r.model_copy(update={"arrival": 0}) for r in SERVED.requests])
TIGHT = TWO.replace(server={"kv_capacity_tokens": 5})


@cache
def text(kind: str) -> tuple[str, Instance]:
    """A true result of each kind, as a file holds it, and its instance."""
    if kind == "solved":
        return json.dumps(mk.solve(TWO).document()), TWO
    if kind == "capped":
        return json.dumps(mk.solve(TWO, "kv-batch-cap", parameters={"batch_cap": 1}).document()), TWO
    if kind == "relaxed":
        return json.dumps(mk.solve(TWO, "kv-hindsight", relax=True).document()), TWO
    if kind == "weighted":
        return json.dumps(mk.solve(TWO, "kv-weighted-latency").document()), TWO
    if kind == "packed":
        return json.dumps(mk.bound(SLOTS).result.document()), SLOTS
    if kind == "levelled":
        limits = {"ttft_ms": 70, "tpot_ms": 9, "latency_ms": 100}
        slo = {**limits, "class": {"b": limits}}
        return json.dumps(mk.simulate(IN_CLASSES, "mc-sf", slo=slo).document()), IN_CLASSES
    if kind == "in time":
        slo = {"ttft_ms": 20, "tpot_ms": 9, "latency_ms": 30}
        slo |= {"class": {"b": {"ttft_ms": 21, "tpot_ms": 10, "latency_ms": 31}}}
        found = mk.bound(IN_CLASSES, objective="goodput", slo=slo, time_limit=None)
        return json.dumps(found.result.document()), IN_CLASSES
    if kind in ("worked", "counted", "interfering", "first tokens"):
        return served(kind)
    document = mk.simulate(TWO, "mc-sf").document()
    if kind == "partitioned":
        certificate = certify_partitions(TWO, Partitions(denominator=2, floors=[3, 3, 3], multipliers=[9, 9, 9]))
        document["objective"].update(bound=certificate.value, bound_by="certificate")
        value = document["objective"]["value"]
        document["objective"]["gap"] = (value - certificate.value) / value
        document["certificate"] = certificate.model_dump()
    if kind == "priced":
        certificate = certify(TWO, np.array([0, 0, 0, 0, 0.5]))
        document["objective"].update(bound=certificate.value, bound_by="certificate")
        value = document["objective"]["value"]
        document["objective"]["gap"] = (value - certificate.value) / value
        document["certificate"] = certificate.model_dump()
    if kind == "infeasible":
        document = mk.solve(TWO, "kv-deadlines", parameters={"deadline": 3}).document()
    return json.dumps(document), TWO


def served(kind: str) -> tuple[str, Instance]:
    """A true result in real time with a bound of a kind."""
    instance = TOGETHER if kind == "counted" else SERVED
    name = {"worked": "cells", "counted": "rounds", "interfering": "interference", "first tokens": "work"}[kind]
    objective = "total_ttft_ms" if kind == "first tokens" else "total_latency_ms"
    certificate = next(bound for bound in serving_bounds(instance, objective) if bound.name == name).certificate
    document = mk.simulate(instance, "mc-sf").document()
    value = document["metrics"][objective]
    gap = (value - certificate.value) / value
    document["objective"].update(name=objective, value=value, bound=certificate.value, bound_by="certificate", gap=gap)
    document["certificate"] = certificate.model_dump()
    return json.dumps(document), instance


def put(*path: Any, value: Any) -> Callable[[Document], None]:
    """Sets one value deep in a document."""

    def change(document: Document) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


def both(*changes: Callable[[Document], None]) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        for one in changes:
            one(document)

    return change


def proof(*path: Any, value: Any) -> Callable[[Document], None]:
    return put("certificate", *path, value=value)


def add_one(*path: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] += 1

    return change


#: A proof of another kind, which proves nothing beside prices on rounds.
STRANGE: Document = {
    **{name: [] for name in ServingPrices.model_fields},
    **dict.fromkeys(("start", "bucket", "denominator"), 1),
}

GHOST = {"rule": "kv_capacity", "size": 5, "unit": "tokens", "at": 3, "request": None, "message": "forged"}

#: A forged value of each field that is checked: in which result, what is altered, what is said.
FORGED: dict[str, tuple[str, Callable[[Document], None], str]] = {
    "instance.name": ("simulated", put("instance", "name", value="three"), "the instance's name is 'three'"),
    "instance.sha256": ("simulated", put("instance", "sha256", value="0" * 64), "about another instance"),
    "instance.requests": ("simulated", put("instance", "requests", value=4), "4 requests, the instance has 3"),
    "instance.family": ("simulated", put("instance", "family", value="chat"), "of family 'chat', it is of 'by-hand'"),
    "producer.problem": (
        "solved",
        put("producer", "problem", value="slots"),
        "producer.problem: the file says 'slots'",
    ),
    "producer.parameters": (
        "capped",
        put("producer", "parameters", "batch_cap", value=0),
        "producer.parameters: batch_",
    ),
    "status": ("solved", put("status", value="feasible"), "the status is 'feasible', but value and bound are both"),
    "stop": ("infeasible", put("stop", value="time_limit"), "the stop is 'time_limit'"),
    "load": ("simulated", put("load", value=0.5), "the file says a load of 0.5"),
    "objective.name": ("simulated", put("objective", "name", value="applause"), "objective 'applause' is not a metric"),
    "objective.unit": ("weighted", put("objective", "unit", value="$"), "objective.unit: the file says '$', it is '1'"),
    "objective.value": ("priced", put("objective", "value", value=10.5), "objective: the file says 10.5, the replay"),
    "objective.bound": ("priced", put("objective", "bound", value=9), "the bound is 9, its certificate says 8"),
    "objective.bound_by": ("priced", put("objective", "bound_by", value="solver"), "but bound_by says solver"),
    **{
        f"slo.{name}_ms": ("levelled", put("slo", f"{name}_ms", value=1), "metric within_slo: the file says")
        for name in ("ttft", "tpot", "latency")
    },
    **{
        f"slo.classes.{name}_ms": (
            "levelled",
            put("slo", "class", "b", f"{name}_ms", value=1),
            "metric within_slo[b]: the file says",
        )
        for name in ("ttft", "tpot", "latency")
    },
    "metrics": ("simulated", put("metrics", "rounds", value=5), "metric rounds: the file says 5, the replay"),
    "violations": ("simulated", put("violations", value=[GHOST]), "violations: the file lists 1, the replay finds 0"),
    "schedule": ("simulated", put("schedule", "segments", -1, "admit", value=[]), "missing: "),
    "certificate.instance.name": (
        "priced",
        proof("instance", "name", value="x"),
        "certificate says the instance's name",
    ),
    "certificate.instance.sha256": (
        "priced",
        proof("instance", "sha256", value="0" * 64),
        "certificate is about another",
    ),
    "certificate.instance.requests": ("priced", proof("instance", "requests", value=2), "certificate says 2 requests"),
    "certificate.instance.family": (
        "priced",
        proof("instance", "family", value=None),
        "certificate says the instance is",
    ),
    "certificate.kind": (
        "priced",
        proof("kind", value="slot-closed-form"),
        "prices, which prove nothing in one of kind",
    ),
    "certificate.objective": (
        "priced",
        proof("objective", value="makespan_rounds"),
        "says it bounds 'makespan_rounds'",
    ),
    "certificate.bound.numerator": ("priced", add_one("certificate", "bound", "numerator"), "the certificate says"),
    "certificate.bound.denominator": ("priced", add_one("certificate", "bound", "denominator"), "the certificate says"),
    "certificate.prices.denominator": ("priced", proof("prices", "denominator", value=2**20), "its prices follows"),
    "certificate.prices.rounds": ("priced", proof("prices", "rounds", value=[7]), "its prices follows"),
    "certificate.prices.numerators": ("priced", proof("prices", "numerators", value=[1]), "its prices follows"),
    "certificate.partitions.denominator": ("partitioned", proof("partitions", "denominator", value=1), "follows"),
    "certificate.partitions.floors": (
        "partitioned",
        proof("partitions", "floors", 0, value=2),
        "its multipliers follows",
    ),
    "certificate.partitions.multipliers": (
        "partitioned",
        add_one("certificate", "partitions", "multipliers", 0),
        "follows",
    ),
    "certificate.weights.rounds": ("packed", add_one("certificate", "weights", "rounds"), "do not prove that a slot"),
    "certificate.weights.values": ("packed", proof("weights", "values", value=[0, 0, 0, 0, 1]), "do not prove"),
    "certificate.work.memory_share": ("worked", proof("work", "memory_share", value=0), "its work follows"),
    "certificate.work.cell": ("worked", proof("work", "cell", value=2**40), "its work follows"),
    "certificate.work.holding": ("first tokens", proof("work", "holding", value=[]), "its work follows"),
    "certificate.work.rounds.denominator": (
        "counted",
        proof("work", "rounds", "denominator", value=16),
        "work follows",
    ),
    "certificate.work.rounds.rounds": (
        "counted",
        proof("work", "rounds", "rounds", value=[*range(11, 19)]),
        "work follows",
    ),
    "certificate.work.rounds.numerators": (
        "counted",
        proof("work", "rounds", "numerators", value=[0] * 8),
        "its work follows",
    ),
    "certificate.interference.delay_shares": (
        "interfering",
        proof("interference", "delay_shares", value=[0] * 6),
        "charge more at",
    ),
    "certificate.interference.prefills": (
        "interfering",
        proof("interference", "prefills", value=[10**6] * 6),
        "charge more at 0 ms than a prefill costs",
    ),
    **{
        path: ("priced", proof("serving_prices", value=STRANGE), "which prove nothing in one of kind kv-prices")
        for path in FIELDS
        if path.startswith("certificate.serving_prices.")
    },
    **{
        f"certificate.goodput.slo.{name}_ms": (
            "in time",
            proof("goodput", "slo", f"{name}_ms", value=25),
            "the certificate is about other service levels",
        )
        for name in ("ttft", "tpot", "latency")
    },
    **{
        f"certificate.goodput.slo.classes.{name}_ms": (
            "in time",
            both(
                proof("goodput", "slo", "class", "b", f"{name}_ms", value=1),
                put("slo", "class", "b", f"{name}_ms", value=1),
            ),
            "its prices on intervals follows",
        )
        for name in ("ttft", "tpot", "latency")
    },
    "certificate.goodput.denominator": (
        "in time",
        proof("goodput", "denominator", value=2**61),
        "its prices on intervals follows",
    ),
    "certificate.goodput.charge": ("in time", proof("goodput", "charge", 0, value="pace-memory"), "follows"),
    "certificate.goodput.begin": ("in time", add_one("certificate", "goodput", "begin", 0), "follows"),
    "certificate.goodput.end": ("in time", add_one("certificate", "goodput", "end", 0), "follows"),
    "certificate.goodput.prices": ("in time", add_one("certificate", "goodput", "prices", 0), "follows"),
    "relaxation.value": ("relaxed", put("relaxation", "value", value=3), "the optimum of the relaxation 3"),
    "progress": ("solved", put("progress", value=[[1, 9, 1], [2, 10, 2]]), "the values of the progress get worse"),
    "seconds.build": ("solved", put("seconds", "build", value=-1), "seconds.build is -1"),
    "seconds.solve": ("solved", put("seconds", "solve", value=-1), "seconds.solve is -1"),
    "seconds.judge": ("solved", put("seconds", "judge", value=-1), "seconds.judge is -1"),
    "seconds.total": ("solved", put("seconds", "total", value=-1), "seconds.total is -1"),
    "stages.seconds": ("solved", put("stages", 0, "seconds", value=-1), "took -1 seconds"),
    "stages.value": ("solved", put("stages", 0, "value", value=3), "stage 'warm start' has a value 3 below the bound"),
    "stages.bound": ("solved", put("stages", -1, "bound", value=30), "stage 'solver' has a bound 30 above the final"),
}


def forged(kind: str, change: Callable[[Document], None]) -> tuple[Document, Instance]:
    source, instance = text(kind)
    document = json.loads(source)
    change(document)
    return document, instance


def test_the_table_has_every_field() -> None:
    """Tests that a new field of a result must be given a row, and a row must have its field."""
    assert sorted(FIELDS) == sorted(field_paths())


def test_every_checked_field_has_a_forgery() -> None:
    assert sorted(FORGED) == sorted(path for path, check in FIELDS.items() if check.how != "unchecked")


@pytest.mark.parametrize(
    "kind",
    [
        "simulated",
        "priced",
        "packed",
        "worked",
        "counted",
        "interfering",
        "levelled",
        "in time",
        "solved",
        "capped",
        "infeasible",
    ],
)
def test_true_results_hold(kind: str) -> None:
    """Tests that what is forged below holds before."""
    document, instance = forged(kind, lambda document: None)
    verification = mk.verify_result(parse_result(document, kind), instance)
    assert verification.holds, verification.faults


@pytest.mark.parametrize("path", FORGED)
def test_forged_fields_are_named(path: str) -> None:
    """Tests that each altered field is found, and in which words."""
    kind, change, words = FORGED[path]
    document, instance = forged(kind, change)
    verification = mk.verify_result(parse_result(document, path), instance)
    assert any(words in fault for fault in verification.faults), verification.faults


def test_forged_files_end_with_exit_code_5(tmp_path: Path, cli: Any) -> None:
    mk.save_instance(TWO, tmp_path / "two.json")
    for i, path in enumerate(("objective.value", "certificate.bound.numerator")):
        kind, change, words = FORGED[path]
        file = tmp_path / f"{i}.result.json"
        file.write_text(json.dumps(forged(kind, change)[0]))
        said = cli("verify", str(file), "-i", str(tmp_path / "two.json"), code=5).out
        assert words in said
        assert said.splitlines()[-1] == f"{file}: refused"


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("simulated", put("status", value="infeasible"), "the status is 'infeasible', but there is a schedule"),
        ("simulated", put("status", value="no_schedule"), "the status is 'no_schedule', but the schedule is valid"),
        ("simulated", put("status", value="optimal"), "bound nothing do not agree"),
        ("simulated", put("schedule", value=None), "the status is 'feasible', but there is no schedule"),
        (
            "simulated",
            both(put("schedule", value=None), put("status", value="no_schedule")),
            "states an objective value, but there is no schedule",
        ),
        ("simulated", put("violations", value=[GHOST]), "the file lists violations"),
        ("simulated", put("objective", "value", value=None), "there is no objective value"),
        ("solved", put("objective", "bound_by", value=None), "bound_by does not name its source"),
        ("solved", put("objective", "bound", value=None), "bound_by says 'solver', but there is no bound"),
        ("solved", put("objective", "bound", value=50), "the bound 50 is above the value"),
        ("priced", put("objective", "gap", value=0.01), "the file states the gap 0.01; (value - bound) / value is"),
        ("priced", put("certificate", value=None), "the bound claims a certificate, but there is none"),
        (
            "packed",
            put("objective", "name", value="rounds"),
            "the certificate bounds makespan_ms, the objective is rounds",
        ),
        (
            "priced",
            both(put("objective", "name", value="makespan_rounds"), put("objective", "value", value=6)),
            "the certificate bounds total_latency_rounds, the objective is makespan_rounds",
        ),
        ("infeasible", put("progress", value=[[1, 9, None]]), "progress or stages tell of a schedule"),
        ("infeasible", put("objective", "bound", value=9), "'infeasible', but there is an objective bound"),
        ("solved", put("progress", value=[[1, None, 5], [2, None, 4]]), "the bounds of the progress get worse"),
        ("solved", put("progress", value=[[2, None, None], [1, None, None]]), "the progress go backwards"),
        ("solved", put("progress", value=[[1, 2, None]]), "the progress has a value 2 below the bound"),
        ("solved", put("progress", value=[[1, None, 20]]), "the progress has a bound 20 above the final one"),
        ("simulated", put("metrics", "applause", value=5), "metric applause: the file says 5, the replay nothing"),
    ],
)
def test_contradictions_are_named(kind: str, change: Callable[[Document], None], words: str) -> None:
    """Tests each rule that holds between the fields of a result."""
    document, instance = forged(kind, change)
    verification = mk.verify_result(parse_result(document, kind), instance)
    assert any(words in fault for fault in verification.faults), verification.faults


@pytest.mark.parametrize("value", [True, "10"])
@pytest.mark.parametrize("path", [("objective", "value"), ("metrics", "rounds"), ("load",), ("instance", "requests")])
def test_numbers_are_numbers(path: tuple[str, ...], value: Any) -> None:
    """Tests that texts and truth values are no numbers of a result: bad input."""
    document, _ = forged("simulated", put(*path, value=value))
    with pytest.raises(mk.ModelkitError) as caught:
        parse_result(document, "file")
    assert caught.value.exit_code == 2


def test_a_gap_is_a_number() -> None:
    document, _ = forged("priced", put("objective", "gap", value="none"))
    with pytest.raises(mk.ModelkitError, match=r"\$.objective.gap: found 'none'; allowed: a number or null"):
        parse_result(document, "file")


def large(output: int) -> Instance:
    """One request whose latency has ten digits."""
    requests = [{"id": "r", "prompt_tokens": 1, "output_tokens": 10**8}] * 11
    named = [{**r, "id": f"r{i}"} for i, r in enumerate(requests)]
    return Instance(
        name="large", server={}, requests=[*named, {"id": "x", "prompt_tokens": 1, "output_tokens": output}]
    )


@pytest.mark.parametrize("alter", ["value", "bound"])
def test_whole_numbers_are_compared_exactly(alter: str) -> None:
    """Tests that 1,100,000,001 is not 1,100,000,000, neither as a value nor as a bound that it is to meet."""
    instance = large(1)
    document = mk.simulate(instance, "mc-sf").document()
    assert document["objective"]["value"] == 1_100_000_001
    document["status"] = "optimal"
    document["objective"].update(bound=1_100_000_001, bound_by="solver", gap=0)
    assert mk.verify_result(parse_result(copy.deepcopy(document), "a"), instance).holds
    document["objective"][alter] = 1_100_000_000
    document["objective"]["gap"] = None
    faults = mk.verify_result(parse_result(document, "a"), instance).faults
    assert any("1100000000" in fault and "1100000001" in fault for fault in faults)
    document["status"] = "feasible"
    assert alter == "bound" or not mk.verify_result(parse_result(document, "a"), instance).holds


def test_counts_have_no_fraction() -> None:
    """Tests that a count that is off by less than the tolerance of measured numbers is still wrong."""
    instance = large(1)
    result = mk.simulate(instance, "mc-sf")
    for name in ("total_latency_rounds", "makespan_rounds", "rounds"):
        altered = {**result.metrics, name: (result.metrics[name] or 0) + 0.0001}
        faults = mk.verify_result(result.model_copy(update={"metrics": altered}), instance).faults
        assert any(f"metric {name}: " in fault for fault in faults)


def test_times_have_a_tolerance() -> None:
    """Tests that milliseconds may differ by a rounding and by no more."""
    result = mk.simulate(SLOTS, "sorted")
    value = result.metrics["makespan_ms"]
    assert value is not None
    for factor, holds in ((1 + 1e-12, True), (1 + 1e-8, False)):
        altered = result.model_copy(update={"metrics": {**result.metrics, "makespan_ms": value * factor}})
        assert mk.verify_result(altered, SLOTS).holds == holds


def test_optimal_means_equal() -> None:
    """Tests that a solve does not call optimal what is one round above a bound of ten digits."""
    from modelkit.judge import judge
    from modelkit.result import status_of

    instance = large(1)
    schedule = mk.simulate(instance, "mc-sf").schedule
    assert schedule is not None
    verdict = judge(instance, schedule)
    assert status_of(verdict, 1_100_000_001, 1_100_000_000) == "feasible"
    assert status_of(verdict, 1_100_000_001, 1_100_000_001) == "optimal"


def infeasible(instance: Instance, **fields: Any) -> mk.Result:
    """A result that says that an instance has no schedule."""
    stamp = {"name": instance.name, "sha256": instance.sha256, "requests": len(instance.requests), "family": "by-hand"}
    producer = {"kind": "formulation", "name": "kv-hindsight-flow", "solver": "highs", "problem": "kv-hindsight"}
    document = {"schema": "modelkit/result/1", "instance": stamp, "producer": producer, "status": "infeasible"}
    return parse_result({**document, "stop": "finished", **fields}, "file")


def test_infeasibility_is_proven_where_a_request_is_too_large() -> None:
    verification = mk.verify_result(infeasible(TIGHT), TIGHT)
    assert verification.holds, verification.faults
    assert "infeasibility" in verification.checked
    assert "no schedule exists: request 'long' needs 2 + 4 = 6 tokens in its last round" in verification.confirmed[-1]


def test_forged_infeasibility_is_refuted_by_a_schedule() -> None:
    """Tests that 'infeasible' is wrong where the requests can run one after another."""
    verification = mk.verify_result(infeasible(TWO), TWO)
    assert verification.faults == (
        "the status is 'infeasible', but a schedule exists: each request alone, one after another",
    )


@pytest.mark.parametrize("clock", ["slots", "mixed", "levels"])
def test_one_after_another_is_a_schedule_under_every_clock(clock: str) -> None:
    from modelkit.judge import judge
    from modelkit.verify.feasibility import one_at_a_time

    law = {"kind": "linear", "decode_base_ms": 7.3, "decode_per_kv_token_ms": 0.1, "mixed": clock == "mixed"}
    law |= {"prefill_levels": [[1, 3.5], [2, 4.1]]} if clock == "levels" else {"prefill_per_token_ms": 1.7}
    instance = TWO.replace(server={"slots": 1, "kv_capacity_tokens": 6, "clock": law})
    schedule = one_at_a_time(instance)
    assert schedule is not None
    assert judge(instance, schedule).violations == ()


def test_unproven_words_are_named() -> None:
    """Tests that what a solver or a run only says stands in the last line as not checked."""
    document, instance = forged("infeasible", lambda document: None)
    document["producer"]["name"] = "of-somebody"
    verification = mk.verify_result(parse_result(document, "file"), instance)
    assert verification.holds
    assert "infeasibility" in verification.unchecked
    nothing = infeasible(TWO, status="no_schedule", stop="time_limit")
    verification = mk.verify_result(nothing, TWO)
    assert verification.summary.startswith("verified: instance; not checked: ")
    assert "status" in verification.unchecked
    document, instance = forged("solved", lambda document: None)
    verification = mk.verify_result(parse_result(document, "file"), instance)
    assert {"bound", "optimality"} <= set(verification.unchecked)
    assert len(verification.unconfirmed) == len(verification.unchecked)
    document, instance = forged("packed", lambda document: None)
    verification = mk.verify_result(parse_result(document, "file"), instance)
    assert {"certificate bound", "optimality"} <= set(verification.checked)


def test_every_unchecked_field_is_named_when_stated() -> None:
    """Tests that the last line leaves out no field that the file states and nobody checks."""
    document, _ = forged("solved", put("log", value="words"))
    document["message"] = "words"
    document["producer"].update(solver_version="1", seed=3, modelkit="0", command="modelkit", options={"a": 1})
    document["model"].update(starts_kept=3, starts_in_all=4)
    document["relaxation"] = {"value": 9, "duals": {"row": {"": 1}}, "reduced_costs": {"x": {"1": 1}}}
    document["certificate"] = json.loads(text("priced")[0])["certificate"] | {"seconds": 1.0}
    said = "\n".join(words for _, words in unverified(parse_result(document, "file")))
    for path, check in FIELDS.items():
        if check.how in ("unchecked", "consistent"):
            section, _, name = path.partition(".")
            line = next(line for line in said.splitlines() if line.startswith(section))
            assert name in line


def test_the_documentation_has_the_table() -> None:
    """Tests that the page says of every field what the code does with it."""
    page = (Path(__file__).parents[1] / "docs" / "pages" / "how-to" / "verify.md").read_text()
    for path, check in FIELDS.items():
        assert f"| `{path}` | {check.how} | {check.words} |" in page
