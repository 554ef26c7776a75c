"""Verification with the rules of formulations, however they are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import modelkit as mk
from modelkit.errors import UsageError
from modelkit.instance import Instance

#: Two requests that fit together, and a formulation that keeps them apart; the rule has no parameter.
PAIR = Instance(
    name="pair",
    server={"kv_capacity_tokens": 100},
    requests=[{"id": "a", "prompt_tokens": 2, "output_tokens": 5}, {"id": "b", "prompt_tokens": 2, "output_tokens": 5}],
)
APART = '''"""Never two at a time."""

import pyomo.environ as pyo

from modelkit import Formulation


def build(m):
    m.alone = pyo.Constraint(m.ROUNDS, rule=lambda m, t: m.running[t] <= 1, doc="one at a time")


def admissible(instance, verdict):
    {body}


FORMULATION = Formulation(
    name="apart", summary="kv-hindsight-flow, one request at a time", claim="exact", reference="an example",
    extends="kv-hindsight-flow", build=build, data=lambda instance: {{}}, admissible=admissible,
)
'''
RULE = 'return [f"{s.active} requests run at {s.begin:g}" for s in verdict.intervals if s.active > 1]'


def apart(folder: Path, body: str = RULE) -> Path:
    path = folder / "apart.py"
    path.write_text(APART.format(body=body))
    return path


def result_of(name: str, **producer: Any) -> mk.Result:
    """The schedule in which both run at once, said to be of a formulation."""
    plain = mk.simulate(PAIR, "mc-sf")
    made = {"kind": "formulation", "name": name, "solver": "highs", "options": {}, **producer}
    return plain.model_copy(update={"producer": plain.producer.model_copy(update=made)})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the instance and a result of the formulation ``apart``, which breaks its rule."""
    mk.save_instance(PAIR, tmp_path / "pair.json")
    mk.save_result(result_of("apart"), tmp_path / "r.json")
    return tmp_path


def test_rules_without_parameters_are_applied(files: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests a formulation given as a file, found in a folder, and not found at all."""
    path = apart(files)
    verify = ("verify", str(files / "r.json"))
    assert "WRONG: apart: 2 requests run at 0" in cli(*verify, "-f", str(path), code=5).out
    said = cli(*verify).out
    assert "rules of apart not checked: file not found" in said
    assert "rules of apart" in said.splitlines()[-1].partition("not checked: ")[2]
    monkeypatch.setenv("MODELKIT_FORMULATIONS", str(files))
    assert "WRONG: apart: 2 requests run at 0" in cli(*verify, code=5).out


def test_rules_that_are_kept_are_confirmed(files: Path) -> None:
    apart_result = mk.solve(PAIR, str(apart(files)))
    verification = mk.verify_result(apart_result, PAIR, str(files / "apart.py"))
    assert verification.holds, verification.faults
    assert "rules of apart" in verification.checked


def test_no_file_that_a_result_names_is_run(files: Path) -> None:
    """Tests that a path in a result is no reason to run what lies there."""
    path = files / "trap.py"
    path.write_text(f"open({str(files / 'sprung')!r}, 'w')\n")
    verification = mk.verify_result(result_of(str(path)), PAIR)
    assert f"rules of {path} not checked: file not found" in verification.unconfirmed
    assert not (files / "sprung").exists()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise SystemExit(0)", "admissible() called sys.exit(0) in line 13"),
        ("return verdict.nonsense", "admissible() raised AttributeError: 'Verdict'"),
        ("return None", "admissible() raised TypeError: "),
        ("return [3]", "admissible() returns [3]; allowed: a list of sentences"),
    ],
)
def test_rules_that_cannot_be_asked_are_named(
    body: str, words: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests that a formulation which fails says nothing, and that this is said."""
    apart(files, body)
    monkeypatch.setenv("MODELKIT_FORMULATIONS", str(files))
    verification = mk.verify_result(result_of("apart"), PAIR)
    assert verification.holds
    assert any(said.startswith("rules of apart not checked: ") and words in said for said in verification.unconfirmed)
    assert "rules of apart" in verification.unchecked


def test_a_broken_file_is_said_to_be_broken(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (files / "apart.py").write_text("x = (")
    monkeypatch.setenv("MODELKIT_FORMULATIONS", str(files))
    verification = mk.verify_result(result_of("apart"), PAIR)
    assert any("rules of apart not checked: the file cannot be loaded" in said for said in verification.unconfirmed)


def test_recorded_parameters_count(files: Path, cli: Any) -> None:
    """Tests that --param supplies what a result does not record, and overrides nothing that it does."""
    verify = ("verify", str(files / "r.json"))
    mk.save_result(result_of("kv-batch-cap", parameters={"batch_cap": 1}), files / "r.json")
    for more in ((), ("-P", "batch_cap=1")):
        assert "2 requests are in progress, the cap is 1" in cli(*verify, *more, code=5).out
    said = cli(*verify, "-P", "batch_cap=2", code=2).err
    assert "the file records batch_cap = 1, not 2" in said, "what it records counts, and nothing is ignored"
    mk.save_result(result_of("kv-batch-cap"), files / "r.json")
    assert "rules of kv-batch-cap not checked: " in cli(*verify).out
    assert "2 requests are in progress, the cap is 1" in cli(*verify, "-P", "batch_cap=1", code=5).out
    assert "it breaks no rule of formulation 'kv-batch-cap' (batch_cap = 2)" in cli(*verify, "-P", "batch_cap=2").out
    assert "batch_cap" in cli(*verify, "-P", "batch_cup=2", code=2).err


def test_recorded_parameters_must_be_the_formulations(files: Path) -> None:
    for parameters in ({"batch_cap": 0}, {"batch_cup": 1}):
        verification = mk.verify_result(result_of("kv-batch-cap", parameters=parameters), PAIR)
        assert any(fault.startswith("producer.parameters: ") for fault in verification.faults)


def test_rules_may_be_asked_of_any_schedule(files: Path) -> None:
    """Tests that a policy's schedule is held against a formulation that is given."""
    online = mk.simulate(PAIR, "mc-sf")
    verification = mk.verify_result(online, PAIR, "kv-batch-cap", {"batch_cap": 1})
    assert any("the cap is 1" in fault for fault in verification.faults)
    assert mk.verify_result(online, PAIR, "kv-batch-cap", {"batch_cap": 2}).holds
    with pytest.raises(UsageError, match="name it with --formulation"):
        mk.verify_result(online, PAIR, None, {"batch_cap": 2})


def test_the_objective_is_the_formulations() -> None:
    """Tests that a result of a formulation states that formulation's objective."""
    result = result_of("kv-hindsight-flow", problem="kv-hindsight")
    assert mk.verify_result(result, PAIR).holds
    makespan = result.objective.model_copy(update={"name": "makespan_rounds", "value": 5.0})
    faults = mk.verify_result(result.model_copy(update={"objective": makespan}), PAIR).faults
    assert faults == ("objective.name: the file says 'makespan_rounds', it is 'total_latency_rounds'",)


def test_infeasibility_of_variants() -> None:
    """Tests that a variant's own reasons confirm it, and that its own rules are asked before it is refuted."""
    late = mk.solve(PAIR, "kv-deadlines", parameters={"deadline": 3})
    assert late.status == "infeasible"
    verification = mk.verify_result(late, PAIR)
    assert verification.holds
    assert "infeasibility" in verification.checked
    easy = late.producer.model_copy(update={"parameters": {"deadline": {"a": 50, "b": 50}}})
    faults = mk.verify_result(late.model_copy(update={"producer": easy}), PAIR).faults
    assert any("a schedule exists" in fault for fault in faults)


def test_certificates_have_no_formulation(files: Path, cli: Any) -> None:
    bound = mk.bound(PAIR, time_limit=0.1)
    (files / "c.json").write_text(json.dumps(bound.certificate.document()))
    said = cli("verify", str(files / "c.json"), "-i", str(files / "pair.json")).out
    assert said.splitlines()[-1].endswith("verified: instance, certificate bound; not checked: seconds")
    for more in (("-f", "kv-batch-cap"), ("-P", "batch_cap=1")):
        assert "this file is a certificate" in cli("verify", str(files / "c.json"), *more, code=2).err
