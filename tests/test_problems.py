"""Which problem an instance poses, and that nobody asks for it in any other way."""

from __future__ import annotations

import ast
import pickle
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

import modelkit as mk
from modelkit.certificate import KINDS, PROOFS, Certificate, CertificateKind
from modelkit.errors import UsageError
from modelkit.formulation.hosting import found_formulations
from modelkit.problems.problem import (
    KV,
    MODELS,
    PREEMPTIVE,
    PROBLEMS,
    SERVING,
    SLOTS,
    UNIT_SLOTS,
    objective_of,
    problem_modelled,
    problem_of,
)
from modelkit.runtime.resources import bundled
from modelkit.solving.bound import bound
from modelkit.solving.methods import METHODS
from modelkit.verify.exact_bounds import RECOMPUTED

ROOT = Path(__file__).resolve().parents[1]
CLAIMS = ("certificates", "schedules")  # of the library
SHIPPED = sorted(
    p
    for p in bundled("instances").rglob("*.json*")
    if not p.name.startswith(("optima", "instance.", "table", "library.")) and p.parent.name not in CLAIMS
)
UNIT: dict[str, Any] = {"kind": "unit"}
EXCLUSIVE: dict[str, Any] = {"kind": "linear", "decode_base_ms": 10.0, "prefill_per_token_ms": 1.0}
MIXED = {**EXCLUSIVE, "mixed": True}


def posed_by(clock: dict[str, Any], **server: Any) -> mk.Instance:
    """An instance of three requests that hold up to 9 tokens each, the last of which arrives late."""
    arrivals = {"a": 0, "b": 0, "c": 7}
    requests = [{"id": i, "arrival": at, "prompt_tokens": 4, "output_tokens": 5} for i, at in arrivals.items()]
    return mk.Instance(server={"clock": clock, **server}, requests=requests)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_instances_pose_one_problem(path: Path) -> None:
    """Tests that every shipped instance poses exactly one problem."""
    instance = mk.load(path)
    assert [problem for problem in PROBLEMS if problem.refusal(instance) is None] == [problem_of(instance)]


@pytest.mark.parametrize(
    ("clock", "server", "problem"),
    [
        (UNIT, {}, KV),
        (UNIT, {"kv_capacity_tokens": 20}, KV),
        (UNIT, {"slots": 2}, UNIT_SLOTS),
        (UNIT, {"slots": 2, "kv_capacity_tokens": 20}, UNIT_SLOTS),
        (UNIT, {"pause": {"keep": "held"}}, PREEMPTIVE),
        (UNIT, {"kv_capacity_tokens": 12, "pause": {"keep": "swapped"}}, PREEMPTIVE),
        (UNIT, {"kv_capacity_tokens": 12, "slots": 2, "pause": {"keep": "held"}}, PREEMPTIVE),
        (EXCLUSIVE, {"slots": 2, "pause": {"keep": "held"}}, SERVING),
        (MIXED, {"kv_capacity_tokens": 20, "pause": {"keep": "swapped"}}, SERVING),
        (EXCLUSIVE, {"slots": 2}, SLOTS),
        (EXCLUSIVE, {"slots": 2, "kv_capacity_tokens": 18}, SLOTS),  # two of 9 tokens fit
        (EXCLUSIVE, {"slots": 2, "kv_capacity_tokens": 17}, SERVING),
        (EXCLUSIVE, {}, SERVING),
        (EXCLUSIVE, {"kv_capacity_tokens": 20}, SERVING),
        (MIXED, {}, SERVING),
        (MIXED, {"kv_capacity_tokens": 20}, SERVING),
        (MIXED, {"slots": 2}, SERVING),
        (MIXED, {"slots": 2, "kv_capacity_tokens": 20}, SERVING),
    ],
)
def test_each_clock_poses_one_problem(clock: dict[str, Any], server: dict[str, Any], problem: mk.Problem) -> None:
    """Tests which problem each clock with and without slots and memory poses, and that each has a certified bound."""
    instance = posed_by(clock, **server)
    assert problem_of(instance) is problem
    assert all(other.refusal(instance) for other in PROBLEMS if other is not problem)
    assert objective_of(instance) == problem.objective
    assert problem.unit == ("rounds" if instance.is_unit else "ms")
    for objective in problem.objectives:
        found = bound(instance, objective=objective, time_limit=0.3)
        assert found.certificate.metric == objective
        assert found.result.objective.name == objective
        assert found.result.objective.value is not None
        assert mk.verify_result(found.result, instance).holds


def test_objectives_have_names() -> None:
    """Tests that an objective is called by its metric or in a word, and that others are refused with what is known."""
    assert [SERVING.metric(word) for word in (None, "latency", "makespan", "ttft", "total_ttft_ms")] == [
        "total_latency_ms", "total_latency_ms", "makespan_ms", "total_ttft_ms", "total_ttft_ms",
    ]  # fmt: skip
    assert bound(posed_by(EXCLUSIVE, slots=2), objective="makespan", time_limit=0.1).certificate.metric == "makespan_ms"
    with pytest.raises(UsageError, match=r"the slot problem has no objective 'makespam'; did you mean 'makespan'"):
        bound(posed_by(EXCLUSIVE, slots=2), objective="makespam")


def test_every_objective_is_a_metric() -> None:
    """Tests that the judge measures all that a problem may minimise."""
    for instance in (posed_by(UNIT), posed_by(EXCLUSIVE, slots=2), posed_by(MIXED)):
        problem = problem_of(instance)
        assert problem is not None
        name = "hybrid" if problem is SLOTS else "mc-sf"
        metrics = mk.simulate(instance, name).metrics
        assert all(metrics[objective] is not None for objective in problem.objectives)


def test_a_problem_is_one_object_in_every_process() -> None:
    """Tests that a problem that travels to another process is the one that is there."""
    assert [pickle.loads(pickle.dumps(problem)) for problem in PROBLEMS] == list(PROBLEMS)
    assert all(pickle.loads(pickle.dumps(problem)) is problem for problem in PROBLEMS)


def test_every_layer_has_an_entry() -> None:
    """Tests that bounds and certificates are of known problems, and formulations models of them or of none."""
    assert set(METHODS) <= set(PROBLEMS)
    assert set(KINDS) == set(get_args(CertificateKind)) == set(RECOMPUTED)
    assert {o for kind in KINDS.values() for o in kind.objectives} >= {problem.objective for problem in METHODS}
    assert all(set(kind.objectives) <= set(kind.problem.objectives) for kind in KINDS.values() if not kind.complement)
    assert all(field in Certificate.model_fields for field in PROOFS)
    stated = {entry.formulation.problem for entry in found_formulations() if entry.formulation}
    assert stated - {None} <= MODELS
    assert [problem_modelled(problem.model) for problem in PROBLEMS] == list(PROBLEMS)
    assert problem_modelled("slot-bound") is problem_modelled(None) is None


def test_verification_is_kept_from_the_finders_of_every_problem() -> None:
    """Tests that the contract on verification names all its modules, and the package of every problem."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (c for c in contracts if c["name"] == "Verification imports no finder")
    packages = {f"modelkit.problems.{p.parent.name}" for p in (ROOT / "modelkit" / "problems").glob("*/__init__.py")}
    modules = {f"modelkit.verify.{p.stem}" for p in (ROOT / "modelkit" / "verify").glob("*.py") if p.stem != "__init__"}
    assert packages <= set(contract["forbidden_modules"])
    assert modules - {"modelkit.verify.formulation_rules"} == set(contract["source_modules"])


#: What only ``modelkit/problems/`` and the tables by problem may know a problem, its models or its certificates by.
NAMES = {
    *(problem.name for problem in PROBLEMS), *MODELS, *KINDS, *(metric for p in PROBLEMS for metric in p.objectives),
}  # fmt: skip


def _is_problem(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in {problem.name.upper() for problem in PROBLEMS}


def comparisons(tree: ast.AST) -> Iterator[ast.expr]:
    """Both sides of every comparison, and the patterns of every match."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            yield from (node.left, *node.comparators)
        elif isinstance(node, ast.MatchValue):
            yield node.value


def asks_by_name(tree: ast.AST) -> list[int]:
    """Lines on which a problem is recognised by a name, or by its clock and slots together."""
    lines = []
    for side in comparisons(tree):
        texts = {n.value for n in ast.walk(side) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        attributes = {n.attr for n in ast.walk(side) if isinstance(n, ast.Attribute) and _is_problem(n.value)}
        if texts & NAMES or attributes & {"name", "model", "title"}:
            lines.append(side.lineno)
    for node in ast.walk(tree):
        if isinstance(node, ast.BoolOp):
            names = {n.attr for value in node.values for n in ast.walk(value) if isinstance(n, ast.Attribute)}
            lines += [node.lineno] if {"is_unit", "slots"} <= names or {"mixed", "slots"} <= names else []
    return lines


def test_comparisons_by_name_are_found() -> None:
    """Tests that the test below sees each kind of comparison that it forbids."""
    for code in (
        "f.problem == 'kv-hindsight'",
        "(f.problem, f.claim) != ('slots', 'exact')",
        "kind in ('packing', 'x')",
        "formulation.problem == KV.model",
        "i.is_unit and i.server.slots is None",
        "not clock.mixed or server.slots is None",
        "name == 'makespan_ms'",
    ):
        assert asks_by_name(ast.parse(code)), code
    assert not asks_by_name(ast.parse("problem is KV; table['slots']; x == 'highs'"))


def test_nobody_compares_names_of_problems() -> None:
    """Tests that no file outside ``problems/`` recognises a problem by a name, or by clock and slots."""
    files = [*(ROOT / "modelkit").rglob("*.py"), *(ROOT / "formulations").glob("*.py")]
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in files
        if "problems" not in path.relative_to(ROOT).parts
        for line in asks_by_name(ast.parse(path.read_text()))
    }
    assert not sorted(found)
