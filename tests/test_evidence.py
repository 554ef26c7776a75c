"""What files say together: whose word counts, and sentences that are true."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import modelkit as mk
from modelkit.instance import Instance, InstanceStamp, Server
from modelkit.io.lookup import Instances
from modelkit.judge import judge
from modelkit.reporting.evidence import Case, ReadFile
from modelkit.reporting.gathering import cases
from modelkit.reporting.goals import Formulations
from modelkit.result import Objective, Producer, Result
from modelkit.runtime.resources import bundled
from modelkit.schedule import schedule_from_starts
from modelkit.text import percent
from modelkit.verify.exact_bounds import certify

#: The optimum of the two requests, and a schedule that is two rounds longer.
BEST, WORSE = {"short": 0, "long": 2}, {"long": 0, "short": 4}


def made(
    instance: Instance,
    starts: dict[str, int],
    name: str,
    *,
    kind: str = "policy",
    bound: float | None = None,
    problem: str | None = None,
) -> Result:
    """A result as a run would give it; with a solver's bound where one is given."""
    schedule = schedule_from_starts(instance, starts)
    verdict = judge(instance, schedule)
    value = verdict.metrics["total_latency_rounds"]
    return Result(
        instance=InstanceStamp.of(instance),
        producer=Producer(kind=kind, name=name, solver="highs" if bound else None, problem=problem),
        status="optimal" if bound == value else "feasible",
        stop="finished",
        objective=Objective(
            name="total_latency_rounds", value=value, bound=bound, bound_by="solver" if bound else None
        ),
        metrics=verdict.metrics,
        schedule=schedule,
    )


def case(*contents: Result | mk.Certificate, known: Instance | None = None) -> Case:
    """The one case of these claims."""
    (found,) = cases(
        [ReadFile(c, f"{k}.json") for k, c in enumerate(contents)], Instances(known=[known] if known else [])
    )
    return found


def test_sentences(two: Instance) -> None:
    """Tests the words on a policy with no bound, a solver's, a certified one, and both."""
    policy, best = made(two, WORSE, "mc-sf"), made(two, BEST, "exact", kind="formulation", problem="kv-hindsight")
    assert (policy.objective.value, best.objective.value) == (10, 8)
    nothing = case(policy, best, known=two)
    assert nothing.headline == "mc-sf is at least 25.0\u202f% above the optimum; no upper limit is known"

    claim = made(two, BEST, "exact", kind="formulation", bound=8, problem="kv-hindsight")
    solver = case(policy, claim, known=two)
    assert solver.solved
    assert solver.headline == "mc-sf is 25.0\u202f% above the optimum (by HiGHS's bound)"
    assert solver.bound is not None
    assert not solver.bound.certified

    certificate = certify(two, np.zeros(3))  # every request needs at least its output: 6
    certified = case(policy, best, certificate, known=two)
    assert certified.headline == "mc-sf is between 25.0\u202f% and 66.7\u202f% above the optimum"
    assert certified.bound is not None
    assert (certified.bound.value, certified.bound.checked) == (6, True)

    loose = made(two, BEST, "exact", kind="formulation", bound=7, problem="kv-hindsight")
    between = case(policy, loose, known=two).headline
    assert between == "mc-sf is between 25.0\u202f% and 42.9\u202f% above the optimum (upper limit: HiGHS's bound)"

    both = case(policy, claim, certificate, known=two)
    assert both.bound is not None
    assert both.bound.certified
    assert both.claimed is not None
    assert not both.solved
    assert "that is not certified" in " ".join(both.findings)
    assert "by HiGHS's bound; certified: at most 66.7\u202f%)" in " ".join(both.findings)


def test_a_bound_of_a_variant_bounds_nothing_else(two: Instance) -> None:
    """Tests that only bounds on every schedule count, and that one which a valid schedule refutes is left out."""
    policy = made(two, BEST, "mc-sf")
    variant = made(two, WORSE, "batch-cap", kind="formulation", bound=10)
    plain, own = cases([ReadFile(policy), ReadFile(variant)], Instances(known=[two]))
    assert (plain.bound, plain.best and plain.best.label) == (None, "mc-sf")
    assert own.bound is not None
    assert [e.label for e in own.entries] == ["batch-cap on HiGHS"]
    assert own.headline.endswith("rules of batch-cap not checked: file not found")
    refuted = case(policy, made(two, WORSE, "wrong", kind="formulation", bound=10, problem="kv-hindsight"), known=two)
    assert refuted.bound is None
    assert "which a valid schedule refutes" in refuted.findings[-1]


def test_nothing_in_a_file_is_believed(two: Instance) -> None:
    """Tests a forged value, a forged schedule and a forged certificate; without the instance they are only quoted."""
    honest = made(two, WORSE, "mc-sf")
    boast = honest.model_copy(
        update={"objective": honest.objective.model_copy(update={"value": 8.0}),
                "metrics": {**honest.metrics, "total_latency_rounds": 8.0}}
    )  # fmt: skip
    (entry,) = case(boast, known=two).entries
    assert (entry.standing, entry.value, entry.state) == ("refused", None, "invalid")
    assert "the replay 10" in " ".join(entry.faults)
    (quoted,) = case(boast).entries
    assert (quoted.standing, quoted.value) == ("stated", 8.0)

    broken = honest.model_copy(update={"schedule": schedule_from_starts(two, {"short": 0, "long": 0})})
    (entry,) = case(broken, known=two).entries
    assert entry.words.startswith("invalid: kv_capacity")

    certificate = certify(two, np.zeros(3))
    forged = certificate.model_copy(update={"bound": certificate.bound.model_copy(update={"numerator": 9})})
    assert case(honest, forged, known=two).bound is None
    unchecked = case(honest, forged).bound
    assert unchecked is not None
    assert unchecked.words == "by its certificate, which was not recomputed here"


def test_labels_and_failures(two: Instance) -> None:
    """Tests that equal labels are told apart, and that runs without a schedule are counted in words."""
    runs = [made(two, BEST, "mc-sf"), made(two, BEST, "mc-sf")]
    seeded = [r.model_copy(update={"producer": r.producer.model_copy(update={"seed": k})}) for k, r in enumerate(runs)]
    assert [e.label for e in case(*seeded).entries] == ["mc-sf (seed 0)", "mc-sf (seed 1)"]
    assert [e.label for e in case(*runs).entries] == ["mc-sf (0)", "mc-sf (1)"]
    failed = Result(
        instance=InstanceStamp.of(two), producer=Producer(kind="policy", name="x"), status="no_schedule", stop="failed",
        message="killed by signal 9\nand more",
    )  # fmt: skip
    both = case(seeded[0], failed, known=two)
    assert both.failures[0].words == "no schedule (failed): killed by signal 9"
    assert both.findings[-1] == "1 run of 2 has no valid schedule: x."
    alone = case(failed, known=two)
    assert (alone.headline, alone.best) == ("No run gave a valid schedule", None)
    tight = two.replace(server=Server(kv_capacity_tokens=5))
    ends = {"status": "infeasible", "stop": "finished"}
    infeasible = failed.model_copy(update={**ends, "instance": InstanceStamp.of(tight)})
    assert case(infeasible, known=tight).headline == "No schedule exists for this instance"
    forged = failed.model_copy(update=ends)
    assert case(forged, known=two).headline == "No run gave a valid schedule"


@pytest.mark.parametrize(
    ("share", "up", "down"),
    [(0.0481, "4.9", "4.8"), (0.0012341, "0.13", "0.12"), (1.871, "188", "187"), (0.5, "50.0", "50.0"), (0, "0", "0")],
)
def test_percentages_round_to_the_safe_side(share: float, up: str, down: str) -> None:
    """Tests that "at most" rounds up and "at least" down."""
    assert percent(share, "up") == f"{up}\u202f%"
    assert percent(share, "down") == f"{down}\u202f%"


HEAVY = {"weight": {"long": 5}}


def test_an_objective_of_its_own_is_a_problem_of_its_own(two: Instance) -> None:
    """Tests that a weighted optimum is optimal, is not ranked by total latency, and that policies are held to it."""
    weighted = mk.solve(two, "kv-weighted-latency", parameters=HEAVY)
    policy = mk.simulate(two, "mc-sf")
    plain, own = cases([ReadFile(policy), ReadFile(mk.bound(two, time_limit=0.1).certificate), ReadFile(weighted)],
                       Instances(known=[two]))  # fmt: skip
    assert (plain.objective, [e.label for e in plain.entries]) == ("total_latency_rounds", ["mc-sf"])
    assert own.goal.title == 'weighted latency of kv-weighted-latency (weight = {"long": 5, "short": 1})'
    solved, guest = own.entries
    assert (solved.state, solved.value, own.gap(solved), own.above_bound(solved)) == ("optimal", 26, 0, 0)
    assert (guest.label, guest.guest, guest.value) == ("mc-sf", True, 32)
    assert own.bound is not None
    assert not own.bound.certified, "a certificate of total latency says nothing of it"
    assert own.goal.quantity(26) == "26", "a pure number"
    (alone,) = cases([ReadFile(weighted)], Instances(known=[two]))
    assert alone.headline == "kv-weighted-latency on HiGHS is optimal (by HiGHS's bound)"


def test_policies_are_held_to_a_variants_rules(two: Instance) -> None:
    """Tests that a policy's schedule beside a variant is judged by its rules, and that the plain bound holds there."""
    roomy = two.replace(server=mk.Server(kv_capacity_tokens=60))
    capped = mk.solve(roomy, "kv-batch-cap", parameters={"batch_cap": 1})
    claims = [
        ReadFile(mk.simulate(roomy, "mc-sf")),
        ReadFile(mk.bound(roomy, time_limit=0.1).certificate),
        ReadFile(capped),
    ]
    plain, own = cases(claims, Instances(known=[roomy]))
    assert plain.solved
    assert plain.best is not None
    assert (plain.best.label, plain.best.value) == ("mc-sf", 6)
    solved, guest = own.entries
    assert (solved.value, solved.state, own.gap(solved)) == (8, "optimal", 0)
    assert guest.value is None
    assert guest.words.startswith("against the rules: from round 0 on 2 requests are in progress, the cap is 1")
    assert own.bound is not None
    assert (own.bound.value, own.bound.certified) == (6, True)
    assert own.claimed is own.reference
    assert own.reference_words.startswith("the bound is 8\u202frounds, claimed by HiGHS")


def test_a_forged_variant_is_refused(two: Instance) -> None:
    """Tests that a variant's value is recomputed, and that parameters in a file that it does not take are told."""
    weighted = mk.solve(two, "kv-weighted-latency", parameters=HEAVY)
    boast = weighted.model_copy(
        update={"objective": weighted.objective.model_copy(update={"value": 20.0, "bound": 20})}
    )
    (entry,) = case(boast, known=two).entries
    assert (entry.state, entry.value) == ("invalid", None)
    odd = weighted.producer.model_copy(update={"parameters": {"colour": 1}})
    (entry,) = case(weighted.model_copy(update={"producer": odd}), known=two).entries
    assert (entry.state, entry.standing) == ("optimal", "stated")
    assert "rules of kv-weighted-latency not checked" in entry.words


def test_a_formulation_that_is_not_at_hand_is_said_to_be(two: Instance, tmp_path: Path) -> None:
    """Tests a variant in a file: with the file it is judged, without it is not called invalid."""
    source = (bundled("formulations") / "kv_weighted_latency.py").read_text()
    file = tmp_path / "my_weights.py"
    file.write_text(source.replace('name="kv-weighted-latency"', 'name="my-weights"'))
    result = mk.solve(two, str(file), parameters=HEAVY)
    (entry,) = case(result, known=two).entries
    assert (entry.value, entry.words) == (26, "optimal; rules of my-weights not checked: file not found")
    (known,) = cases([ReadFile(result)], Instances(known=[two]), Formulations([str(file)]))
    assert (known.entries[0].words, known.entries[0].standing) == ("optimal", "checked")


def test_what_a_schedule_refutes_is_not_said(two: Instance) -> None:
    """Tests that a run is not called optimal, nor an instance infeasible, beside a schedule that says otherwise."""
    wrong = made(two, WORSE, "wrong", kind="formulation", bound=10, problem="kv-hindsight")
    both = case(made(two, BEST, "mc-sf"), wrong, known=two)
    (said,) = [e for e in both.entries if e.label.startswith("wrong")]
    assert (said.state, said.words) == ("valid", "valid; claims to be optimal, which mc-sf refutes")
    never = Result(
        instance=InstanceStamp.of(two), status="infeasible", stop="finished",
        producer=Producer(kind="formulation", name="x", problem="kv-hindsight"),
        objective=Objective(name="total_latency_rounds"),
    )  # fmt: skip
    both = case(made(two, BEST, "mc-sf"), never, known=two)
    assert both.failures[0].words == "no schedule: claims that none exists, which mc-sf refutes"
    late = mk.solve(two, "kv-deadlines", parameters={"deadline": 3})
    assert case(late, known=two).headline == "No schedule keeps the rules of kv-deadlines"


def test_a_proven_optimum_has_no_gap(two: Instance) -> None:
    """Tests that an optimum by a solver's bound has gap 0 where the certified bound is lower, and whose it is."""
    claim = made(two, BEST, "exact", kind="formulation", bound=8, problem="kv-hindsight")
    both = case(claim, made(two, WORSE, "mc-sf"), certify(two, np.zeros(3)), known=two)
    gaps = {e.label: both.gap(e) for e in both.entries}
    assert gaps == {"exact on HiGHS": 0, "mc-sf": pytest.approx(0.2)}
    assert "claimed by HiGHS" in both.reference_words
    assert "(certified: 6" in both.reference_words


def test_values_that_are_not_positive(two: Instance) -> None:
    """Tests that no ratio is made of values of 0 and below."""
    free = mk.solve(two, "kv-weighted-latency", parameters={"weight": 0})
    nothing = case(free, known=two)
    (entry,) = nothing.entries
    assert (entry.value, nothing.gap(entry), nothing.above_best(entry)) == (0, 0, 0)
    assert nothing.headline == "kv-weighted-latency on HiGHS is optimal (by HiGHS's bound)"


def test_a_search_is_called_so_wherever_it_ended(two: Instance) -> None:
    """Tests that a search whose best schedule is that of the policy it began with is not taken for that policy."""
    run = mk.simulate(two, "mc-sf")
    searches = [
        run.model_copy(update={"producer": run.producer.model_copy(update={"kind": "improvement", "name": name})})
        for name in ("local-search", "svf")
    ]
    files = [ReadFile(r, f"two.{part}.result.json") for r, part in zip(searches, ("bound", "b.highs"), strict=True)]
    (found,) = cases(files, Instances(known=[two]))
    assert sorted(e.label for e in found.entries) == ["local search (b.highs)", "local search (bound)"]
