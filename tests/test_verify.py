"""Verification: an altered result is refused with what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import modelkit as mk
from modelkit.errors import InputError
from modelkit.instance import Instance, Server
from modelkit.io import parse_result
from modelkit.solving import solve
from modelkit.verify.exact_bounds import certify
from modelkit.verify.result import verify_result


@pytest.fixture
def document(two: Instance) -> dict[str, Any]:
    """A result with a bound, as a file holds it."""
    return json.loads(json.dumps(solve(two).document()))


def test_true_results_hold(document: dict[str, Any], two: Instance) -> None:
    """Tests that a true file is verified, and that a solver's bound is called unconfirmed."""
    verification = verify_result(parse_result(document, "file"), two)
    assert verification.holds
    assert (
        "the bound 8 is claimed by highs, not independently checked; only certificates can be recomputed"
        in verification.unconfirmed
    )
    assert "rules of kv-hindsight not checked: the formulation was not given" in verification.unconfirmed


def set_at(document: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    """Alter one value deep in a document."""
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("schedule", "segments", 0, "admit"), ["short", "long"], "kv_capacity: from round"),
        (("schedule", "segments", 1, "at"), 1, "a segment is to begin at round 1; the one before ends at round "),
        (("schedule", "segments", 1, "admit"), [], "missing: "),
        (("schedule", "segments", 1, "admit"), ["ghost"], "unknown_request: "),
        (("metrics", "makespan_rounds"), 5, "metric makespan_rounds: the file says 5, the replay 6"),
        (("metrics", "applause"), 5, "metric applause: the file says 5, the replay nothing"),
        (("objective", "value"), 7, "objective: the file says 7, the replay 8"),
        (("objective", "name"), "applause", "the objective 'applause' is not a metric"),
        (("objective", "bound"), 9, "the bound 9 is above the value 8"),
        (("objective", "bound"), 7, "the status is 'optimal', but value 8 and bound 7 do not agree"),
        (("objective", "bound_by"), "certificate", "the bound claims a certificate, but there is none"),
        (("instance", "sha256"), "0" * 64, "the result is about another instance"),
        (("instance", "requests"), 3, "the file says 3 requests, the instance has 2"),
        (("schedule",), None, "the status is 'optimal', but there is no schedule"),
    ],
)
def test_alterations_are_found(
    path: tuple[Any, ...], value: Any, words: str, document: dict[str, Any], two: Instance
) -> None:
    """Tests that each altered value is named."""
    set_at(document, path, value)
    verification = mk.verify_result(parse_result(document, "file"), two)
    assert not verification.holds
    assert any(words in fault for fault in verification.faults), verification.faults


def certified(two: Instance, change: Callable[[dict[str, Any]], None] = lambda certificate: None) -> Any:
    """A result whose bound comes from prices, with its certificate altered."""
    certificate = certify(two, np.array([0, 0, 0, 0, 0.5]))
    document = mk.simulate(two, "mc-sf").document()
    document["objective"].update(bound=certificate.value, bound_by="certificate")
    document["certificate"] = certificate.model_dump()
    change(document["certificate"])
    return parse_result(json.loads(json.dumps(document)), "file")


def test_certificates_are_recomputed(two: Instance) -> None:
    """Tests that a bound by prices is confirmed exactly."""
    verification = verify_result(certified(two), two)
    assert verification.holds, verification.faults
    assert "the bound 6, recomputed exactly from its prices" in verification.confirmed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["bound"].update(numerator=c["bound"]["numerator"] + 1), "from its prices follows"),
        (lambda c: c["prices"]["numerators"].append(1), "1 rounds, but 2 numerators"),
        (lambda c: c["prices"].update(rounds=[5, 4], numerators=[1, 1]), "are not increasing"),
        (lambda c: c["instance"].update(sha256="0" * 64), "the certificate is about another instance"),
    ],
)
def test_altered_certificates_are_refused(change: Callable[[Any], None], words: str, two: Instance) -> None:
    """Tests that a certificate that does not prove its bound is refused."""
    verification = verify_result(certified(two, change), two)
    assert any(words in fault for fault in verification.faults), verification.faults


def test_negative_prices_are_no_certificate(two: Instance) -> None:
    """Tests that negative prices, which prove nothing, are refused when the file is read."""
    with pytest.raises(InputError, match="numerators"):
        certified(two, lambda c: c["prices"].update(numerators=[-1]))


def test_invalid_schedules_may_be_told_as_such(two: Instance) -> None:
    """Tests that a file that says its schedule is invalid is right in that, and still refused."""
    cramped = two.replace(server=Server(kv_capacity_tokens=6, slots=1))
    verification = verify_result(mk.simulate(two, "mc-sf"), cramped)
    assert verification.faults[0].startswith("the result is about another instance")
