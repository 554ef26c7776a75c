"""The conformance suite: bundled formulations keep its rules, wrong ones are caught by the rule meant for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelkit.conformance import ORDER, RULES, check
from modelkit.conformance.brute_force import best_schedule
from modelkit.conformance.rules import Complaint
from modelkit.conformance.subject import Subject
from modelkit.conformance.tiny import tiny_instances
from modelkit.errors import UsageError
from modelkit.judge import judge
from modelkit.plugins import bundled, found_formulations, load_formulation

WRONG = Path(__file__).parent / "wrong_formulations"
#: The rule that each wrong formulation is meant for.
MEANT = {
    "wrong_coefficient": "claim",
    "missing_constraint": "judged",
    "off_by_one_horizon": "claim",
    "misspelt_key": "data",
    "wrong_claim": "claim",
    "no_doc": "documented",
    "side_effect": "import",
    "slow_filtering": "growth",
    "nondeterministic_order": "stable",
    "wrong_extract": "judged",
    "unit_missing": "units",
    "syntax_error": "loads",
}
BUNDLED = [entry.name for entry in found_formulations()]


def test_every_wrong_formulation_has_a_rule() -> None:
    """Tests that the table above names every file, and only rules that there are."""
    assert {path.stem for path in WRONG.glob("*.py")} == set(MEANT)
    assert set(MEANT.values()) <= set(RULES)
    assert tuple(sorted(ORDER)) == tuple(sorted(RULES))


def complaints(rule: str, name: str, instances: int) -> list[Complaint]:
    """What one rule says by itself, in this process as far as it can."""
    said = RULES[rule].check(Subject(name, {}, instances))
    return [] if isinstance(said, str) else said


@pytest.mark.parametrize(
    "stem", [pytest.param(s, marks=pytest.mark.slow) if i % 2 else s for i, s in enumerate(sorted(MEANT))]
)
def test_wrong_formulations_are_caught(stem: str) -> None:
    """Tests that the rule meant for it complains, with advice."""
    found = complaints(MEANT[stem], str(WRONG / f"{stem}.py"), 4)
    assert found
    assert all(complaint.what and complaint.advice for complaint in found)


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["no_doc", "slow_filtering", "wrong_claim", "wrong_coefficient"])
def test_wrong_formulations_fail_by_one_rule(stem: str) -> None:
    """Tests with all rules that no other fails."""
    found = check(str(WRONG / f"{stem}.py"), instances=4)
    assert [f.rule for f in found if f.status == "failed"] == [MEANT[stem]]


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_formulations_say_what_they_are(name: str) -> None:
    """Tests the rules that need no solver and no other interpreter."""
    for rule in ("docstring", "documented", "units", "data", "builds", "used"):
        assert complaints(rule, name, 4) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kv-hindsight-flow", "kv-hindsight-lp", "makespan-bin-packing", "slot-full-mip"])
def test_bundled_formulations_keep_every_rule(name: str) -> None:
    """Tests all rules on six tiny instances; all bundled formulations are held to most of them above."""
    for finding in check(name, instances=6):
        assert finding.status == "ok", [complaint.what for complaint in finding.complaints]


@pytest.mark.parametrize("name", ["kv-batch-cap", "kv-deadlines", "kv-makespan", "kv-weighted-latency"])
def test_variants_are_brute_force(name: str) -> None:
    """Tests each variant against brute force with its examples as parameters."""
    assert complaints("judged", name, 8) == []
    assert complaints("claim", name, 8) == []


def test_brute_force_is_not_the_base_problem() -> None:
    """Tests that the variants' rules bite: their optima differ from the base's on some tiny instances."""
    base = load_formulation("kv-hindsight")
    for name in ("kv-batch-cap", "kv-deadlines"):
        variant = load_formulation(name)
        values = []
        for instance in tiny_instances(variant, 20, {}):
            best, plain = best_schedule(variant, instance), best_schedule(base, instance)
            assert plain is not None
            values.append((None if best is None else best.value, plain.value))
            if best is not None:
                assert judge(instance, best.schedule).valid
                assert best.value >= plain.value
        assert any(a != b for a, b in values), name


def test_a_variant_without_plain_rules_cannot_be_checked(tmp_path: Path) -> None:
    """Tests that a claim which nothing can be held against is not accepted."""
    path = tmp_path / "kv_bare.py"
    text = (bundled("formulations") / "kv_batch_cap.py").read_text()
    text = text.replace("kv-batch-cap", "kv-bare").replace("    admissible=admissible,\n", "")
    path.write_text(text)
    (complaint,) = complaints("claim", str(path), 2)
    assert "admissible" in complaint.advice


#: What a file may do on import that it should not, and what is said of it.
EFFECTS = {
    "open('left_behind.txt', 'w').close()": "it writes left_behind.txt",
    "import os; os.makedirs('left_too')": "it makes the folder",
    "import subprocess; subprocess.run(['true'])": "it runs",
    "import random; random.seed(1)": "it changes the random state of `random`",
    "import numpy; numpy.random.seed(1)": "it changes the random state of NumPy",
    "import sys; sys.path.append('.')": "it changes the search path",
    "import modelkit.judge; modelkit.judge.judge = None": "it changes modelkit itself",
    "raise SystemExit(3)": "SystemExit: 3",
}


@pytest.mark.parametrize(
    "codes", [[c for c in EFFECTS if "Exit" not in c], ["raise SystemExit(3)"]], ids=["all", "end"]
)
def test_side_effects(codes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests what an import must not do; it is found out in another interpreter."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "harmful.py"
    text = (WRONG / "unit_missing.py").read_text().replace("unit-missing", "harmful")
    path.write_text("\n".join([text, *codes, ""]))
    found = check(str(path), rules=("import",))
    said = " ".join(c.what for f in found for c in f.complaints)
    for code in codes:
        assert EFFECTS[code] in said
    assert [f.rule for f in found if f.status == "failed"] == ["loads" if len(codes) == 1 else "import"]


def test_unknown_names() -> None:
    """Tests that there must be something to check."""
    with pytest.raises(UsageError, match="did you mean 'kv-hindsight'"):
        check("kv-hindsigth")
    with pytest.raises(UsageError, match=r"cannot read formulation nowhere\.py"):
        check("nowhere.py")


@pytest.mark.parametrize(("stem", "before", "after"), [
    ("wrong_claim", 'claim="lower-bound"', 'claim="heuristic"'),
    ("missing_constraint", 'claim="exact"', 'claim="lower-bound"'),
])  # fmt: skip
def test_the_right_claim_holds(stem: str, before: str, after: str, tmp_path: Path) -> None:
    """Tests that what is wrong as it stands is right under its own name: a heuristic, a relaxation."""
    path = tmp_path / f"{stem}.py"
    text = (WRONG / f"{stem}.py").read_text().replace(before, after).replace("    extract=extract,\n", "")
    if after == 'claim="heuristic"':
        text = (WRONG / f"{stem}.py").read_text().replace(before, after)
    path.write_text(text)
    assert complaints("claim", str(path), 10) == []
