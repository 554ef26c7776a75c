"""What files say together: whose word counts, and sentences that are true."""

from __future__ import annotations

import numpy as np
import pytest

import modelkit as mk
from modelkit.cases import Case, Claim, cases
from modelkit.certificate import certify
from modelkit.instance import Instance, InstanceStamp, Server
from modelkit.judge import judge
from modelkit.lookup import Instances
from modelkit.result import Objective, Producer, Result
from modelkit.schedule import schedule_from_starts
from modelkit.words import percent

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
    (found,) = cases([Claim(c, f"{k}.json") for k, c in enumerate(contents)], Instances(known=[known] if known else []))
    return found


def test_sentences(two: Instance) -> None:
    """Tests the words on a policy with no bound, a solver's, a certified one, and both."""
    policy, best = made(two, WORSE, "mc-sf"), made(two, BEST, "exact", kind="formulation")
    assert (policy.objective.value, best.objective.value) == (10, 8)
    nothing = case(policy, best, known=two)
    assert nothing.headline == "mc-sf is at least 25.0\u202f% above the optimum; no bound says at most"

    claim = made(two, BEST, "exact", kind="formulation", bound=8, problem="kv-hindsight")
    solver = case(policy, claim, known=two)
    assert solver.solved
    assert solver.headline == "mc-sf is 25.0\u202f% above the optimum by the bound of HiGHS"
    assert solver.bound is not None
    assert not solver.bound.certified

    certificate = certify(two, np.zeros(3))  # every request needs at least its output: 6
    certified = case(policy, best, certificate, known=two)
    assert certified.headline == "mc-sf is at most 66.7\u202f% above the optimum; 25.0\u202f% is proven"
    assert certified.bound is not None
    assert (certified.bound.value, certified.bound.checked) == (6, True)

    both = case(policy, claim, certificate, known=two)
    assert both.bound is not None
    assert both.bound.certified
    assert both.claimed is not None
    assert not both.solved
    assert "that is not certified" in " ".join(both.findings)
    assert "(certified: at most 66.7\u202f%)" in " ".join(both.findings)


def test_a_bound_of_a_variant_bounds_nothing_else(two: Instance) -> None:
    """Tests that only bounds on every schedule count, and that one which a valid schedule refutes is left out."""
    policy = made(two, BEST, "mc-sf")
    variant = made(two, WORSE, "batch-cap", kind="formulation", bound=10)
    assert case(policy, variant, known=two).bound is None
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
    assert [e.label for e in case(*seeded).entries] == ["mc-sf, seed 0", "mc-sf, seed 1"]
    assert [e.label for e in case(*runs).entries] == ["mc-sf, 0", "mc-sf, 1"]
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
