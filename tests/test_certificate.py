"""Certificates: exact, and refused when anything about them is wrong."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import modelkit as mk
from modelkit.certificate import Certificate, Prices
from modelkit.cli import cli
from modelkit.errors import InputError
from modelkit.instance import Instance, LinearClock, Server
from modelkit.io import parse_certificate
from modelkit.sources.families import generate
from modelkit.verify.exact_bounds import certify
from modelkit.verify.kv_bound import exact_bound


@pytest.fixture(scope="module")
def instance() -> Instance:
    return generate("chat", requests=40, seed=3, rate=0.0, kv_capacity=1500)


@pytest.fixture(scope="module")
def certificate(instance: Instance) -> Certificate:
    """The certificate of a bound on the instance."""
    return mk.bound(instance, time_limit=0.5).certificate


def plain_bound(instance: Instance, prices: Prices) -> Fraction:
    """L from its definition, term by term."""
    price = dict(zip(prices.rounds, prices.numerators, strict=True))
    total = Fraction(-instance.server.kv_capacity_tokens * sum(prices.numerators), prices.denominator)
    last = max(prices.rounds, default=0)
    for r in instance.requests:
        a, s, o = int(r.arrival), r.prompt_tokens, r.output_tokens
        total += min(
            k + o - a + Fraction(sum(price.get(k + j, 0) * (s + j) for j in range(1, o + 1)), prices.denominator)
            for k in range(a, max(a, last) + 1)
        )
    return total


@pytest.mark.parametrize("scale", [2**3, 2**30, 2**60])
def test_exact_bound_is_the_definition(instance: Instance, scale: int) -> None:
    """Tests the recomputation against plain fractions, in 64 bits and beyond."""
    rng = np.random.default_rng(0)
    rounds = np.unique(rng.integers(1, 60, 40)).tolist()
    numerators = [int(x) for x in rng.integers(0, scale // 4 + 2, len(rounds))]
    prices = Prices(denominator=scale, rounds=rounds, numerators=numerators)
    assert exact_bound(instance, prices) == plain_bound(instance, prices)


def test_exact_bound_of_a_long_queue_is_the_definition() -> None:
    """Tests prices in hills over thousands of rounds, of which whole blocks are passed over."""
    rng = np.random.default_rng(5)
    instance = generate("kv-synthetic", requests=12, seed=3)
    late = instance.replace(
        requests=tuple(r.model_copy(update={"arrival": int(k)}) for r, k in zip(
            instance.requests, rng.integers(0, 3000, 12), strict=True
        ))
    )  # fmt: skip
    rounds = np.arange(1, 3000)
    hills = 2000 * (1 + np.sin(rounds / 300)) * (1 - rounds / 3000) + rng.integers(0, 300, len(rounds))
    prices = Prices(denominator=64, rounds=rounds.tolist(), numerators=hills.astype(np.int64).tolist())
    assert exact_bound(late, prices) == plain_bound(late, prices)


def test_no_prices_bound_by_the_outputs(instance: Instance) -> None:
    """Tests that free memory leaves the sum of outputs."""
    certificate = certify(instance, np.zeros(0))
    assert certificate.value == sum(r.output_tokens for r in instance.requests)


def test_round_trip_and_verification(instance: Instance, tmp_path: Path) -> None:
    """Tests that a written certificate is read back and verified by the commands."""
    mk.save_instance(instance, tmp_path / "i.json")
    runner = CliRunner()
    path = str(tmp_path / "c.json")
    schedule = str(tmp_path / "r.json")
    options = ["--time-limit", "1", "-o", path, "--schedule", schedule]
    done = runner.invoke(cli, ["bound", str(tmp_path / "i.json"), *options], obj={})
    assert done.exit_code == 0, done.output
    document = json.loads(Path(path).read_text())
    assert document["schema"] == "modelkit/certificate/1"
    assert document["kind"] == "kv-prices"
    assert document["instance"]["sha256"] == instance.sha256
    assert document["prices"]["denominator"] & (document["prices"]["denominator"] - 1) == 0
    for file in (path, schedule):
        verified = runner.invoke(cli, ["verify", file], obj={}, standalone_mode=False)
        assert verified.return_value == 0, verified.output


def edited(document: dict, fault: str) -> dict:
    """The certificate with one fault."""
    prices = document["prices"]
    if fault == "negative price":
        prices["numerators"][0] = -1
    elif fault == "higher bound":
        document["bound"]["numerator"] += 1
    elif fault == "another price":
        prices["numerators"][3] += 1
    elif fault == "lost price":
        prices["numerators"].pop()
    elif fault == "lost round and price":
        prices["numerators"].pop(0)
        prices["rounds"].pop(0)
    elif fault == "no power of two":
        prices["denominator"] -= 1
    elif fault == "unordered rounds":
        prices["rounds"].reverse()
    elif fault == "round 0":
        prices["rounds"][0] = 0
    elif fault == "fraction":
        prices["numerators"][0] = 0.5
    elif fault == "far round":
        prices["rounds"][-1] = 10**11
    elif fault == "unknown key":
        document["trust"] = "me"
    elif fault == "missing prices":
        del document["prices"]
    elif fault == "wrong instance":
        document["instance"]["sha256"] = "0" * 64
    elif fault == "wrong count":
        document["instance"]["requests"] += 1
    elif fault == "wrong name":
        document["instance"]["name"] += "?"
    elif fault == "wrong family":
        document["instance"]["family"] = "kv-synthetic"
    elif fault == "another objective":
        document["objective"] = "makespan_rounds"
    elif fault == "another kind":
        document["kind"] = "slot-closed-form"
    elif fault == "weights beside prices":
        document["weights"] = {"rounds": 1, "values": [1] * 10}
    elif fault == "no denominator":
        document["bound"]["denominator"] = 0
    elif fault == "negative denominator":
        document["bound"] = {key: -value for key, value in document["bound"].items()}
    elif fault == "bound of thousands of digits":
        document["bound"] = {"numerator": 10**4000 + 1, "denominator": 10**3998}
    elif fault == "huge price":
        prices["numerators"][0] = 10**4000
    elif fault == "true price":
        prices["numerators"][0] = True
    elif fault == "round twice":
        prices["rounds"][1] = prices["rounds"][0]
    elif fault == "many rounds":
        prices["rounds"].append(prices["rounds"][-1] + 1)
    return document


@pytest.mark.parametrize(
    "fault",
    [
        "negative price", "higher bound", "another price", "lost price", "lost round and price", "no power of two",
        "unordered rounds", "round 0", "fraction", "far round", "unknown key", "missing prices", "wrong instance",
        "wrong count", "wrong name", "wrong family", "another objective", "another kind", "weights beside prices",
        "no denominator", "negative denominator", "bound of thousands of digits", "huge price", "true price",
        "round twice", "many rounds",
    ],
)  # fmt: skip
def test_faults_are_refused(instance: Instance, certificate: Certificate, tmp_path: Path, fault: str) -> None:
    """Tests that one changed number is enough."""
    document = edited(json.loads(json.dumps(certificate.document())), fault)
    path = tmp_path / "c.json"
    path.write_text(json.dumps(document))
    try:
        read = mk.load_certificate(path)
    except InputError:
        return
    assert not mk.verify_certificate(read, instance).holds


def test_the_objective_may_be_left_to_the_kind(instance: Instance, certificate: Certificate) -> None:
    """Tests that a certificate that does not name its objective is one of its kind's."""
    document = json.loads(json.dumps(certificate.document()))
    assert document.pop("objective") == "total_latency_rounds"
    assert mk.verify_certificate(parse_certificate(document, "c"), instance).holds


def test_a_key_twice_is_refused(certificate: Certificate, tmp_path: Path) -> None:
    """Tests that a second bound in one file is not read in place of the first."""
    text = json.dumps(certificate.document())
    path = tmp_path / "c.json"
    path.write_text(text[:-1] + ', "bound": {"numerator": 1, "denominator": 1}}')
    with pytest.raises(InputError, match="'bound' occurs twice"):
        mk.load_certificate(path)


def test_absurd_prices_are_refused_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that prices beyond 64 bits are not computed for hours: on many rounds they prove nothing."""
    monkeypatch.setattr("modelkit.verify.kv_bound.MOST_UNBOUNDED", 10_000)
    many = generate("kv-synthetic", requests=60, seed=3)
    prices = Prices(denominator=1, rounds=list(range(1, 400)), numerators=[2**62] * 399)
    with pytest.raises(InputError, match="too high to be recomputed"):
        exact_bound(many, prices)


def test_truncated_file_is_refused(instance: Instance, tmp_path: Path) -> None:
    """Tests that a cut-off file is bad input."""
    path = tmp_path / "c.json"
    mk.save_certificate(mk.bound(instance, time_limit=0.5).certificate, path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="not JSON"):
        mk.load_certificate(path)


def test_instances_outside_the_problem_are_refused(instance: Instance) -> None:
    """Tests that another clock or a missing capacity leave nothing to price; slots are passed over."""
    prices = Prices(denominator=2, rounds=[1], numerators=[1])
    timed = Server(kv_capacity_tokens=60, clock=LinearClock(kind="linear", decode_base_ms=1.0))
    on_slots = instance.replace(server=instance.server.model_copy(update={"slots": 3}))
    assert exact_bound(on_slots, prices) == exact_bound(instance, prices)
    for server in (timed, Server()):
        with pytest.raises(InputError):
            exact_bound(instance.model_copy(update={"server": server}), prices)


def test_verification_needs_no_prices_code() -> None:
    """Tests that recomputing a bound imports nothing that finds prices."""
    import subprocess
    import sys

    code = (
        "import sys, modelkit.verify.result, modelkit.verify.kv_costs;"
        "finders = ('modelkit.solving', 'modelkit.problems.kv', 'modelkit.problems.slots', 'pyomo');"
        "assert not [m for m in sys.modules if m.startswith(finders)]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
