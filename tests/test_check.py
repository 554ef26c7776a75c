"""The conformance suite: bundled formulations keep its rules, wrong ones are caught by the rule meant for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import modelkit as mk
from modelkit.authoring.check import ORDER, RULES, check
from modelkit.authoring.check.brute_force import best_schedule
from modelkit.authoring.check.candidate import Subject
from modelkit.authoring.check.rules import Complaint
from modelkit.authoring.check.tiny_instances import pausing_instance, tiny_instances
from modelkit.errors import UsageError
from modelkit.formulation.loading import found_formulations, load_formulation
from modelkit.judge import judge
from modelkit.runtime.resources import bundled

Edited = Callable[..., Path]
#: The rule that each wrong formulation is meant for, and what is replaced in the template by what to make it.
WRONG: dict[str, tuple[str, list[tuple[str, str]]]] = {
    # a request counts one token too many in each round
    "wrong_coefficient": ("claim", [
        ("(m.prompt[i] + t - k) * m.start[i, k]", "(m.prompt[i] + t - k + 1) * m.start[i, k]"),
    ]),
    # nothing limits the memory
    "missing_constraint": ("judged", [
        ("    m.kv_capacity_holds = pyo.Constraint(m.ROUNDS, rule=kv_capacity_holds,"
         ' doc="the held tokens fit the KV cache")\n', ""),
    ]),
    # the last start of everybody is left out
    "off_by_one_horizon": ("claim", [
        ("last - r.output_tokens + 1)", "max(int(r.arrival) + 1, last - r.output_tokens))"),
    ]),
    # data() names a parameter that the model does not have
    "misspelt_key": ("data", [('"kv_capacity": ', '"kv_capactiy": ')]),
    # one request at a time is a heuristic, not a lower bound
    "wrong_claim": ("claim", [
        ("kv_capacity_holds[t]\n",
         "one_at_a_time[t]\n    sum_{(i,k) in ACTIVE[t]} start[i,k] <= 1\nkv_capacity_holds[t]\n"),
        ("    m.kv_capacity_holds = ",
         '    m.one_at_a_time = pyo.Constraint(m.ROUNDS, rule=one_at_a_time, doc="one request runs at a time")\n'
         "    m.kv_capacity_holds = "),
        ("def kv_capacity_holds(m: Any, t: int) -> Any:\n",
         'def one_at_a_time(m: Any, t: int) -> Any:\n    """At most one is active."""\n'
         "    return pyo.quicksum(m.start[i, k] for i, k in m.ACTIVE[t]) <= 1\n\n\n"
         "def kv_capacity_holds(m: Any, t: int) -> Any:\n"),
        ('claim="exact"', 'claim="lower-bound"'),
    ]),
    # a variable without doc
    "no_doc": ("documented", [(', doc="1 if the request starts at that round"', "")]),
    # importing it writes to the environment and prints
    "side_effect": ("import", [
        ("FORMULATION = ",
         'import os\n\nos.environ["MODELKIT_WAS_HERE"] = "yes"\nprint("loading")\n\nFORMULATION = '),
    ]),
    # a rule looks at all starts in each round
    "slow_filtering": ("growth", [
        ("(m.prompt[i] + t - k) * m.start[i, k] for i, k in m.ACTIVE[t])",
         "(m.prompt[i] + t - k) * m.start[i, k] for i, k in m.STARTS if (i, k) in m.ACTIVE[t])"),
    ]),
    # the order of the requests is left to chance
    "nondeterministic_order": ("stable", [
        ('"REQUESTS": list(starts_of)', '"REQUESTS": list({r.id for r in requests})'),
    ]),
    # extract() starts everybody one round late
    "wrong_extract": ("judged", [
        ("dict(key for key, var in m.start.items() if chosen(var))",
         "{i: k + 1 for (i, k), var in m.start.items() if chosen(var)}"),
    ]),
    # a parameter without unit
    "unit_missing": ("units", [('doc="KV-cache budget [token]"', 'doc="KV-cache budget"')]),
    # a bracket is never closed
    "syntax_error": ("loads", [("m.STARTS_OF[i]) == 1", "m.STARTS_OF[i] == 1")]),
}  # fmt: skip
BUNDLED = [entry.name for entry in found_formulations()]


def test_every_wrong_formulation_has_a_rule() -> None:
    """Tests that the table above names only rules that there are."""
    assert {rule for rule, _ in WRONG.values()} <= set(RULES)
    assert tuple(sorted(ORDER)) == tuple(sorted(RULES))


def complaints(rule: str, name: str, instances: int) -> list[Complaint]:
    """What one rule says by itself, in this process as far as it can."""
    said = RULES[rule].check(Subject(name, {}, instances))
    return [] if isinstance(said, str) else said


@pytest.mark.parametrize(
    "stem", [pytest.param(s, marks=pytest.mark.slow) if i % 2 else s for i, s in enumerate(sorted(WRONG))]
)
def test_wrong_formulations_are_caught(stem: str, edited: Edited) -> None:
    """Tests that the rule meant for it complains, with advice."""
    rule, edits = WRONG[stem]
    found = complaints(rule, str(edited(stem, *edits)), 4)
    assert found
    assert all(complaint.what and complaint.advice for complaint in found)


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["no_doc", "slow_filtering", "wrong_claim", "wrong_coefficient"])
def test_wrong_formulations_fail_by_one_rule(stem: str, edited: Edited) -> None:
    """Tests with all rules that no other fails."""
    rule, edits = WRONG[stem]
    found = check(str(edited(stem, *edits)), instances=4)
    assert [f.rule for f in found if f.status == "failed"] == [rule]


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


def test_brute_force_waits_as_long_as_the_model() -> None:
    """Tests that a rule which makes requests wait beyond all outputs one by one has schedules."""
    late = mk.Formulation(
        name="late", summary="-", claim="exact", reference="-", objective="total_latency",
        admissible=lambda instance, verdict: ["early" for r in verdict.residencies if r.begin < 5],
    )  # fmt: skip
    instance = mk.Instance(server={"kv_capacity_tokens": 5}, requests={"prompt_tokens": [1], "output_tokens": [2]})
    assert best_schedule(late, instance) is None
    best = best_schedule(late, instance, last=8)
    assert best is not None
    assert best.value == 7


def test_variants_of_a_model_of_pauses_take_its_instances() -> None:
    """Tests that what extends kv-preemptive, with needs of its own or without, is one of servers that pause."""
    instance = pausing_instance(1, 2)
    for needs in (None, lambda instance: None):
        own = mk.Formulation(
            name="own", summary="-", claim="exact", reference="-", extends="kv-preemptive", needs=needs,
            admissible=lambda instance, verdict: [],
        )  # fmt: skip
        assert mk.solve(instance, own).status == "optimal"


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
def test_side_effects(codes: list[str], edited: Edited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests what an import must not do; it is found out in another interpreter."""
    monkeypatch.chdir(tmp_path)
    path = edited("harmful")
    path.write_text("\n".join([path.read_text(), *codes, ""]))
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


@pytest.mark.parametrize(("stem", "claim"), [("wrong_claim", "heuristic"), ("missing_constraint", "lower-bound")])
def test_the_right_claim_holds(stem: str, claim: str, edited: Edited) -> None:
    """Tests that what is wrong as it stands is right under its own name: a heuristic, a relaxation."""
    edits = [edit for edit in WRONG[stem][1] if "claim=" not in edit[0]]
    edits.append(('claim="exact"', f'claim="{claim}"'))
    if claim == "lower-bound":
        edits.append(("    extract=extract,\n", ""))
    assert complaints("claim", str(edited(stem, *edits)), 10) == []
