"""Parameters of variants: declared, given, checked; and which formulation is taken by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import modelkit as mk
from modelkit.errors import InputError, UsageError
from modelkit.formulation.parameters import Parameter, parse_parameters, settle
from modelkit.solving import choose

NUMBER = Parameter(name="cap", doc="a cap [request]", least=1, most=9)
EACH = Parameter(name="weight", doc="a weight [1]", kind=float, least=0, default=1, per_request=True)


def with_extra(instance: mk.Instance, **extra: Any) -> mk.Instance:
    """The same with parameters in it."""
    return instance.replace(extra=extra)


def test_where_values_come_from(two: mk.Instance) -> None:
    """Tests that the command line counts before the instance, and the instance before the default."""
    parametrised = with_extra(two, cap=2, weight={"long": 3})
    assert settle((NUMBER, EACH), parametrised, {"cap": 4}, "x") == {"cap": 4, "weight": {"short": 1.0, "long": 3.0}}
    assert settle((NUMBER, EACH), parametrised, {}, "x")["cap"] == 2
    assert settle((EACH,), two, {"weight": 2}, "x") == {"weight": {"short": 2.0, "long": 2.0}}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cap": 0}, "--param cap: found 0; allowed: a whole number from 1 to 9"),
        ({"cap": 2.5}, "found 2.5"),
        ({"cap": True}, "found True"),
        ({"cap": "two"}, "found 'two'"),
        ({"cap": float("nan")}, "found nan"),
        ({"cap": [1]}, r"found \[1\]"),
        ({"cap": 2, "weight": {"shrot": 1}}, "no such request; did you mean 'short'"),
        ({"cap": 2, "weight": {"short": -1}}, "--param weight.short: found -1"),
        ({"cap": 2, "weight": "heavy"}, "found 'heavy'"),
    ],
)
def test_values_are_checked(given: dict[str, Any], words: str, two: mk.Instance) -> None:
    """Tests type and range of each value, with the place."""
    with pytest.raises(InputError, match=words):
        settle((NUMBER, EACH), two, given, "x")


def test_names_are_checked(two: mk.Instance) -> None:
    """Tests unknown, missing and nearly right names, given and in the instance."""
    with pytest.raises(UsageError, match="has no parameter 'cpa'; did you mean 'cap'"):
        settle((NUMBER,), two, {"cpa": 1}, "x")
    with pytest.raises(UsageError, match="has no parameter 'cap'; it takes none"):
        settle((), two, {"cap": 1}, "x")
    with pytest.raises(UsageError, match="needs the parameter 'cap', a cap"):
        settle((NUMBER,), two, {}, "x")
    with pytest.raises(InputError, match=r"\$\.extra\.cpa: .* did you mean 'cap'"):
        settle((NUMBER,), with_extra(two, cpa=1), {}, "x")


QUOTA = Parameter(name="quota", doc="most at once [request]", least=1, by="class")
LEVELS = Parameter(name="levels", doc="prices of levels [$]", kind=float, by="list")
RATES = Parameter(name="rates", doc="rates [1]", kind=float, by="key", optional=True)
PAIRS = Parameter(name="apart", doc="rounds between [round]", by=("request", "request"), optional=True)
HASHES = Parameter(name="prefix_hashes", doc="blocks [1]", by=("request", "list"), most=2**63)
URGENCY = Parameter(name="priority", doc="how urgent [1]", kind=float, per_request=True, default=0)
TIER = Parameter(name="tier", doc="who pays [1]", kind=str, choices=("gold", "free"), default="free")


def of_classes(instance: mk.Instance, *classes: str, **rest: Any) -> mk.Instance:
    """The same with classes of its requests and other data of theirs by name."""
    rows = [
        request.model_copy(update={"request_class": name, **{key: values[i] for key, values in rest.items()}})
        for i, (request, name) in enumerate(zip(instance.requests, classes, strict=True))
    ]
    return instance.replace(requests=tuple(rows))


def test_values_have_shapes(two: mk.Instance) -> None:
    """Tests lists, maps, and values for groups, pairs and requests, from all places where they may stand."""
    instance = of_classes(two, "chat", "code", priority=[3, None], extra=[None, {"apart": {"short": 2}}]).replace(
        extra={"quota": {"code": 1, "chat": 2, "mail": 9}, "prefix_hashes": [[1, 10**15], []], "levels": [1, 2.5]}
    )
    assert settle((QUOTA, LEVELS, RATES, PAIRS, HASHES, URGENCY, TIER), instance, {"rates": {"a": 1}}, "x") == {
        "quota": {"chat": 2, "code": 1},
        "levels": [1.0, 2.5],
        "rates": {"a": 1.0},
        "apart": {"long": {"short": 2}},
        "prefix_hashes": {"short": [1, 10**15], "long": []},
        "priority": {"short": 3.0, "long": 0.0},
        "tier": "free",
    }
    assert settle((QUOTA,), instance, {"quota": 3}, "x") == {"quota": {"chat": 3, "code": 3}}
    assert settle((NUMBER,), two, {"cap": "2 request"}, "x") == {"cap": 2}
    assert settle((NUMBER,), two, {"cap": {"value": 2, "unit": "request"}}, "x") == {"cap": 2}
    team = replace(QUOTA, by="team")
    of_teams = of_classes(two, "a", "b", extra=[{"team": "red"}, {"team": "blue"}])
    assert settle((team,), of_teams, {"quota": {"red": 1, "blue": 2}}, "x") == {"quota": {"red": 1, "blue": 2}}


@pytest.mark.parametrize(
    ("parameter", "extra", "requests", "fault"),
    [
        (QUOTA, {"quota": {"cod": 1, "chat": 1}}, None, "$.extra.quota.cod: the instance has no such class; did"),
        (QUOTA, {"quota": {"chat": 1}}, None, "$.extra.quota: says nothing about 1 classes, the first 'code'"),
        (QUOTA, {"quota": {"chat": 0, "code": 1}}, None, "$.extra.quota.chat: found 0; allowed: an object from each"),
        (replace(QUOTA, by="team"), {"quota": 1}, None, "$.extra.quota: is by team, but no request"),
        (LEVELS, {"levels": 3}, None, "$.extra.levels: found 3; allowed: a list with a number in each place"),
        (LEVELS, {"levels": [1, "x"]}, None, "$.extra.levels[1]: found 'x'"),
        (RATES, {"rates": [1]}, None, "$.extra.rates: found [1]; allowed: an object from names to a number"),
        (PAIRS, {"apart": {"short": {"lng": 1}}}, None, "$.extra.apart.short.lng: the instance has no such request"),
        (PAIRS, {"apart": {"short": {"long": 0.5}}}, None, "$.extra.apart.short.long: found 0.5; allowed: a whole"),
        (HASHES, {"prefix_hashes": [[1]]}, None, "$.extra.prefix_hashes: has 1 value; allowed: one for each of 2"),
        (TIER, {"tier": "golden"}, None, "$.extra.tier: found 'golden'; allowed: 'gold' or 'free'"),
        (NUMBER, {"cap": "2 token"}, None, "$.extra.cap: found '2 token'; allowed: the unit 'request'"),
        (NUMBER, {"cap": {"value": 2, "unit": "s"}}, None, "$.extra.cap.unit: found 's'; allowed: 'request'"),
        (EACH, {}, [None, {"weight": -1}], "$.requests[1].extra.weight: found -1"),
        (EACH, {}, [None, {"wieght": 1}], "$.requests[1].extra.wieght: formulation 'x' has no such parameter; did you"),
        (NUMBER, {"cap": 1}, [{"cap": 2}, None], "$.requests[0].extra.cap: cap is no value of each request"),
    ],
)  # fmt: skip
def test_shapes_are_checked(
    parameter: Parameter, extra: dict[str, Any], requests: list[Any] | None, fault: str, two: mk.Instance
) -> None:
    """Tests that what has not the shape, type, range or unit is refused with its JSON path."""
    instance = of_classes(two, "chat", "code", extra=requests or [None, None]).replace(extra=extra)
    with pytest.raises(InputError) as refused:
        settle((parameter,), instance, {}, "x")
    assert fault in str(refused.value)


def test_texts_are_json() -> None:
    """Tests values as they are typed."""
    assert parse_parameters(["batch-cap=3", 'w={"a": 1.5}', "s=x", "n=NaN"]) == {
        "batch_cap": 3, "w": {"a": 1.5}, "s": "x", "n": "NaN",
    }  # fmt: skip
    with pytest.raises(UsageError, match="NAME=VALUE"):
        parse_parameters(["cap"])


def test_a_variant_is_taken_only_when_it_is_meant(two: mk.Instance) -> None:
    """Tests that the base formulations are taken by themselves, and variants when the instance names a parameter."""
    assert choose(two)[0].name == "kv-hindsight"
    assert choose(with_extra(two, batch_cap=1))[0].name == "kv-batch-cap"
    assert choose(with_extra(two, deadline={"long": 9}))[0].name == "kv-deadlines"
    assert choose(two, None, {"weight": 2})[0].name == "kv-weighted-latency"
    assert choose(with_extra(two, batch_cap=1), "kv-hindsight")[0].name == "kv-hindsight"
    assert choose(with_extra(two, batch_cap=1, provenance="a cluster"))[0].name == "kv-batch-cap"
    with pytest.raises(InputError, match=r"extra.batch_cpa: no formulation has such a parameter; did you mean"):
        choose(with_extra(two, batch_cpa=1))
    with pytest.raises(UsageError, match="none has all the parameters batch_cap, weight"):
        choose(with_extra(two, batch_cap=1, weight=1))


@pytest.mark.parametrize("solver", ["highs", "scip"])
@pytest.mark.parametrize(
    ("name", "parameters", "value", "metric"),
    [
        ("kv-batch-cap", {"batch_cap": 1}, 8, "total_latency_rounds"),
        ("kv-deadlines", {"deadline": {"long": 4}}, 10, "total_latency_rounds"),
        ("kv-weighted-latency", {"weight": {"long": 5}}, 26, "weighted_latency"),
        ("kv-makespan", {}, 6, "makespan_rounds"),
    ],
)
def test_variants_by_hand(
    name: str, parameters: dict[str, Any], value: float, metric: str, solver: str, two: mk.Instance
) -> None:
    """Tests each variant on two requests, where the optimum is plain to see."""
    result = mk.solve(two, name, solver, parameters=parameters)
    assert (result.status, result.objective.name, result.objective.value) == ("optimal", metric, value)
    given = result.producer.parameters
    assert given.keys() == parameters.keys()


def test_infeasible_deadlines(two: mk.Instance) -> None:
    """Tests that no schedule is claimed where none is."""
    result = mk.solve(two, "kv-deadlines", parameters={"deadline": 3})
    assert (result.status, result.schedule) == ("infeasible", None)


def test_a_schedule_that_breaks_the_variants_rules_is_refused(two: mk.Instance) -> None:
    """Tests that what a variant says in plain Python is held against what its model gives."""
    from modelkit.formulation.loading import load_formulation

    right = load_formulation("kv-batch-cap")
    wrong = replace(right, admissible=lambda instance, verdict: ["a rule of its own"])
    result = mk.solve(two, wrong, parameters={"batch_cap": 2})
    assert (result.status, result.stop) == ("no_schedule", "failed")
    assert "a rule of its own" in result.message


def test_results_of_variants_are_verified(two: mk.Instance, tmp_path: Path, cli: Any) -> None:
    """Tests that verify recomputes a variant's own objective and rules, and sees when they are altered."""
    mk.save_instance(two, tmp_path / "two.json")
    result = mk.solve(two, "kv-weighted-latency", parameters={"weight": {"long": 5}})
    path = tmp_path / "a.result.json"
    mk.save_result(result, path)
    assert "weighted_latency = 26 [1]" in cli("verify", str(path)).out
    mk.save_result(result.model_copy(update={"objective": result.objective.model_copy(update={"value": 25})}), path)
    assert "the file says 25, the replay 26" in cli("verify", str(path), code=5).out
    both = mk.Schedule((mk.Segment(0, (mk.Admission("short"), mk.Admission("long")), rounds=4),))
    roomy = two.replace(server=mk.Server(kv_capacity_tokens=60))
    mk.save_instance(roomy, tmp_path / "two.json")
    alone = mk.solve(roomy, "kv-batch-cap", parameters={"batch_cap": 2})
    assert alone.schedule == both
    capped = alone.producer.model_copy(update={"parameters": {"batch_cap": 1}})
    mk.save_result(alone.model_copy(update={"producer": capped}), path)
    assert "2 requests are in progress, the cap is 1" in cli("verify", str(path), code=5).out


def test_attributes_of_traces_ask_for_no_variant(two: mk.Instance) -> None:
    """Tests that what importers keep in ``extra`` does not stand in the way of any formulation."""
    kept = two.replace(extra={"prefix_hashes": [[1], [1, 2]], "prefix_block_tokens": 512, "failed_lines": [3]})
    assert choose(kept)[0].name == choose(two)[0].name
    assert choose(kept.replace(extra={**kept.extra, "batch_cap": 1}))[0].name == "kv-batch-cap"


#: One request at a time, by the starts that all programs over starts have.
ALONE = """
import pyomo.environ as pyo
from modelkit import Formulation


def build(m):
    def alone(m, t):
        active = [m.start[i, k] for i, k in m.start if k < t <= k + m.output[i]]
        return sum(active) <= 1 if active else pyo.Constraint.Skip

    m.alone = pyo.Constraint(m.ROUNDS, rule=alone)


def admissible(instance, verdict):
    return [f"{s.active} requests run at {s.begin:g}" for s in verdict.intervals if s.active > 1]


FORMULATION = Formulation(
    name="alone", summary="x", claim="exact", reference="x", extends="BASE", build=build, data=lambda i: {},
    admissible=admissible,
)
"""
STRONGER = """
from modelkit import Formulation
FORMULATION = Formulation(
    name="stronger", summary="x", claim="exact", reference="x", problem="kv-hindsight", extends="kv-hindsight-flow",
)
"""


@pytest.mark.slow
@pytest.mark.parametrize("base", ["kv-hindsight-cliques", "kv-hindsight", "kv-hindsight-flow", "stronger"])
def test_variants_have_all_starts(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that no start is left out of a variant because the optimum of what it extends does not need it."""
    monkeypatch.setenv("MODELKIT_FORMULATIONS", str(tmp_path))
    (tmp_path / "stronger.py").write_text(STRONGER)
    (tmp_path / "alone.py").write_text(ALONE.replace("BASE", base))
    requests = [{"id": name, "prompt_tokens": 2, "output_tokens": o} for name, o in zip("abc", (5, 5, 4), strict=True)]
    instance = mk.Instance(server={"kv_capacity_tokens": 100}, requests=requests)
    result = mk.solve(instance, "alone")
    assert (result.status, result.objective.value) == ("optimal", 4 + 9 + 14)
    binding = instance.replace(server={"kv_capacity_tokens": 12})  # rows of starts that do not fit together
    assert mk.solve(binding, "alone").objective.value == 27
