"""The library: its entries, how instances are had, what is taken of what is submitted."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import modelkit as mk
from modelkit.errors import InputError, UsageError
from modelkit.experiments.submitting import NotBetterError, NotVerifiedError, submission, write_submission
from modelkit.sources.library import Entry, library, library_entries, library_folder
from modelkit.sources.library.compact import compact
from modelkit.sources.library.divisions import division_of, told
from modelkit.sources.library.instances import make

SMALL = "kv-synthetic-all-at-once-n12-m47-s2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Changes to the library: of one instance nothing is known."""
    document = json.loads((library_folder() / "library.json").read_text())
    (entry,) = (entry for entry in document["entries"] if entry["instance"] == SMALL)
    entry |= {"lb_data": [], "ub_data": [], "policies": {}, "lower_bound": None, "upper_bound": None, "status": "open"}
    (tmp_path / "library.json").write_text(json.dumps({**document, "entries": [entry]}))
    return tmp_path


def test_entries_are_consistent() -> None:
    """Tests that the library has about 60 instances in seven families, that every file is there, and none besides."""
    entries = library_entries()
    assert 50 <= len(entries) <= 80
    assert len({entry.family for entry in entries.values()}) == 7
    assert len({entry.sha256 for entry in entries.values()}) == len(entries)
    files = {"library.json"}
    for entry in entries.values():
        assert entry.file is not None or entry.recipe.trace is not None
        assert all(bound.certificate is None for bound in entry.lb_data[:-1])
        assert all(value.schedule is None for value in entry.ub_data[:-1])
        files |= {path for path in (entry.file, entry.schedule_path, entry.certificate_path) if path is not None}
    there = {str(path.relative_to(library_folder())) for path in library_folder().rglob("*") if path.is_file()}
    assert files == there


def test_instances_are_those_of_their_recipes(tmp_path: Path) -> None:
    """Tests that one instance of each family is drawn again byte for byte as it is stored."""
    entries = reversed(library_entries().values())
    by_family = {entry.family: entry for entry in entries if entry.file is not None}  # the smallest of each
    for entry in by_family.values():
        assert entry.file is not None
        stored = library_folder() / entry.file
        drawn = make(entry.recipe, entry.instance)
        assert drawn.sha256 == entry.sha256
        mk.save_instance(drawn, path := tmp_path / entry.file)
        assert path.read_bytes() == stored.read_bytes()


def test_a_trace_is_fetched_by_the_user(tmp_path: Path) -> None:
    """Tests that an instance of a public trace says where that can be had, and takes no other file."""
    with pytest.raises(UsageError, match="curl -LO https://raw"):
        mk.library("azure-2023-conv-n2000-m60000")
    (tmp_path / "other.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    with pytest.raises(InputError, match="needed: 2f1e5b"):
        mk.library("azure-2023-conv-n2000-m60000", trace=tmp_path / "other.csv")


def test_traces_give_their_instances(shared_data: Path) -> None:
    """Tests that a public trace gives the instance with the hash that its entry states."""
    path = shared_data / "azure_llm_2023_code.csv"
    assert len(mk.library("azure-2023-code-n2000-m30000", trace=path).requests) == 2000


def test_unknown_names_are_answered_with_the_nearest() -> None:
    """Tests that a misspelt name is told."""
    with pytest.raises(UsageError, match=f"did you mean '{SMALL}'"):
        mk.library(SMALL + "0")


def test_an_instance_is_found_by_the_result(tmp_path: Path) -> None:
    """Tests that a result of a library instance finds it, wherever the result lies."""
    from modelkit.io.lookup import Instances

    result = mk.simulate(mk.library(SMALL), "svf")
    found = Instances([tmp_path]).find(result.instance)
    assert found is not None
    assert found.sha256 == result.instance.sha256


def test_a_better_schedule_is_taken(folder: Path) -> None:
    """Tests that a schedule is taken when it is better, with its history, and refused when it is not."""
    instance = library(SMALL)
    worse, better = mk.simulate(instance, "mc-benchmark"), mk.simulate(instance, "svf")
    first = submission(worse, who="Ada", machine="one core", folder=folder)
    written = write_submission(first, folder)
    assert [path.name for path in written] == ["library.json", f"{SMALL}.result.json.gz"]
    again = submission(better, who="Grace", folder=folder)
    write_submission(again, folder)
    entry = library_entries(folder)[SMALL]
    assert [value.who for value in entry.ub_data] == ["Ada", "Grace"]
    assert entry.ub_data[0].schedule is None
    assert entry.ub_data[0].machine == "one core"
    kept = entry.best(folder)
    assert kept is not None
    assert mk.verify_result(kept, instance).holds
    assert (kept.objective.value, kept.producer.command) == (better.objective.value, None)
    assert entry.policies["clairvoyant"].policy == "svf"
    for result in (worse, better):
        with pytest.raises(NotBetterError, match="the best known is 427 rounds"):
            submission(result, folder=folder)


def test_what_is_wrong_is_refused(folder: Path) -> None:
    """Tests that a forged value, a forged schedule and a forged bound are refused with the reason."""
    instance = library(SMALL)
    result, bound = mk.simulate(instance, "svf"), mk.bound(instance, time_limit=0)
    forged = result.objective.model_copy(update={"value": 300.0})
    with pytest.raises(NotVerifiedError, match="the file says 300"):
        submission(result.model_copy(update={"objective": forged}), folder=folder)
    certificate = bound.certificate
    higher = certificate.bound.model_copy(update={"numerator": certificate.bound.numerator + 10**6})
    with pytest.raises(NotVerifiedError, match="the certificate says"):
        submission(certificate.model_copy(update={"bound": higher}), folder=folder)
    with pytest.raises(UsageError, match="the library has no instance 'two-requests'"):
        submission(mk.simulate(mk.load(library_folder().parent / "two-requests.json"), "svf"), folder=folder)


def test_a_bound_is_taken_and_closes(folder: Path) -> None:
    """Tests that a certificate raises the lower bound, and that bound and value at one close the instance."""
    instance = library(SMALL)
    write_submission(submission(mk.bound(instance, time_limit=0).certificate, folder=folder), folder)
    entry = library_entries(folder)[SMALL]
    assert entry.lower_bound is not None
    assert entry.status == "open"
    proof = entry.certificate(folder)
    assert proof is not None
    assert mk.verify_certificate(proof, instance).holds
    with pytest.raises(InputError, match="status: open, against the bounds"):
        Entry(**{**entry.model_dump(), "upper_bound": entry.lower_bound, "ub_data": [
            {"value": entry.lower_bound, "date": "2026-01-01", "who": "x", "method": "y"}
        ]})  # fmt: skip


def test_a_bound_in_a_result_has_its_seconds(folder: Path) -> None:
    """Tests that the history has the seconds of the run where the certificate does not state its own."""
    result = mk.bound(library(SMALL), time_limit=0).result
    assert result.certificate is not None
    bare = result.certificate.model_copy(update={"seconds": None})
    found = submission(result.model_copy(update={"certificate": bare}), who="Ada\n\x1b Lovelace", folder=folder)
    assert found.after.lb_data[-1].seconds == round(result.seconds.total, 1)
    assert found.after.lb_data[-1].who == "Ada Lovelace"


def test_a_closed_instance_is_called_closed(folder: Path) -> None:
    """Tests that who submits to a closed instance is told that nothing can be better."""
    instance = library(SMALL)
    write_submission(submission(mk.simulate(instance, "svf"), folder=folder), folder)
    path = folder / "library.json"
    found = json.loads(path.read_text())
    (entry,) = found["entries"]
    proof = {**entry["ub_data"][0], "method": "a proof", "certificate": None}
    del proof["schedule"]
    entry |= {"status": "closed", "lower_bound": entry["upper_bound"], "lb_data": [proof]}
    path.write_text(json.dumps(found))
    with pytest.raises(NotBetterError, match="which is closed: its best schedule is proven optimal"):
        submission(mk.simulate(instance, "svf"), folder=folder)


def test_policies_are_run_again(folder: Path) -> None:
    """Tests that a schedule counts as a policy's only if the policy makes it, told what its division is told."""
    instance = library(SMALL)
    best = mk.simulate(instance, "svf")
    claimed = best.model_copy(update={"producer": best.producer.model_copy(update={"name": "mc-benchmark"})})
    found = submission(claimed, folder=folder)
    assert found.refusals == ["the policy mc-benchmark makes another schedule when it is run again"]
    assert found.after.policies == {}
    blind = submission(mk.simulate(instance, "svf", predictions=told(instance)["blind"]), folder=folder)
    assert list(blind.after.policies) == ["blind"]
    assert division_of(instance, "noise:0.2") == "predicted"
    assert division_of(instance, "noise:0.1") is None


def test_three_commands_of_a_stranger(
    cli: Callable[..., Any], folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests that get, simulate and submit take a better schedule, once, and no forged one."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    cli("library", "get", SMALL)
    assert Path(f"{SMALL}.json").read_bytes() == (library_folder() / f"{SMALL}.json").read_bytes()
    cli("simulate", f"{SMALL}.json", "--policy", "svf", "-q", "-o", "mine.result.json")
    said = cli("library", "submit", "mine.result.json", "--who", "Ada", "--folder", str(folder))
    assert "total latency: none -> 427 rounds" in said.out
    said = cli("library", "submit", "mine.result.json", "--folder", str(folder), code=2)
    assert "nothing of kv-synthetic" in said.err
    forged = json.loads(Path("mine.result.json").read_text())
    forged["schedule"]["segments"][0]["at"] += 1
    Path("forged.result.json").write_text(json.dumps(forged))
    assert "not taken, for the file is wrong" in cli("library", "submit", "forged.result.json", code=5).err


def test_commands_that_look(cli: Callable[..., Any]) -> None:
    """Tests that list, show and status say what the entries say, and name near misses."""
    entry = library_entries()[SMALL]
    assert SMALL in cli("library", "list", "--family", "small-memory").out
    assert "did you mean 'small-memory'" in cli("library", "list", "--family", "smal-memory", code=2).err
    said = cli("library", "show", SMALL).out
    assert f"{entry.upper_bound:g}" in said
    assert all(division in said for division in entry.policies)
    assert f"{len(library_entries())} instances" in cli("library", "status").out
    said = cli("library", "show", "azure-2023-code-n2000-m30000").out
    assert "CC-BY-4.0" in said


def public_files() -> dict[str, Path]:
    """Public traces that are on this machine, by their hash."""
    folder = Path(os.environ.get("MODELKIT_TRACES", Path(__file__).parents[2] / "shared" / "data"))
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in folder.glob("*.*") if path.is_file()}


@pytest.mark.slow
def test_every_entry_is_verified_twice(tmp_path: Path) -> None:
    """Tests that `verify` and the checker, which shares no line with it, confirm every schedule and certificate.

    Long certificates are left to ``benchmarks/library_verify.py``, where the checker takes half a minute for one.
    """
    checker = runpy.run_path(str(Path(__file__).parents[1] / "checker" / "check.py"))["main"]
    traces = public_files()
    for entry in library_entries().values():
        if entry.recipe.trace is not None and entry.recipe.trace.sha256 not in traces:
            continue
        trace = entry.recipe.trace and traces[entry.recipe.trace.sha256]
        instance = library(entry.instance, trace=trace)
        mk.save_instance(instance, path := tmp_path / "instance.json.gz")
        best, proof = entry.best(), entry.certificate()
        assert best is not None
        assert (best.objective.name, best.objective.value) == (entry.objective, entry.upper_bound)
        assert mk.verify_result(best, instance).holds, entry.instance
        assert proof is not None
        assert (proof.metric, proof.value) == (entry.objective, entry.lower_bound)
        assert mk.verify_certificate(proof, instance).holds, entry.instance
        short = (library_folder() / str(entry.certificate_path)).stat().st_size <= 15_000
        for file in (entry.schedule_path, entry.certificate_path) if short else ():
            line, code = checker([str(path), str(library_folder() / str(file))])
            assert code == 0, (entry.instance, file, line)


@pytest.mark.slow
def test_policies_do_as_well_again() -> None:
    """Tests that the best policies of small instances have the same values when they are run again."""
    for entry in library_entries().values():
        for best in entry.policies.values() if entry.size <= 60 else ():
            made = mk.simulate(library(entry.instance), best.policy, predictions=best.predictions)
            assert made.metrics[entry.objective] == pytest.approx(best.value, rel=1e-9), (entry.instance, best.policy)


def test_long_certificates_are_kept_in_coarser_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that coarser prices are verified, shorter, and lose no more of the bound than is allowed."""
    entry = library_entries()["chat-n60-rate11-cv4-m1800-llama2-70b-2xa100-s121"]
    instance, proof = library(entry.instance), entry.certificate()
    assert proof is not None
    assert compact(proof, instance) is proof  # short enough
    monkeypatch.setattr("modelkit.sources.library.compact.SHORT", 0)
    monkeypatch.setattr("modelkit.sources.library.compact.LOSS", 0.02)
    shorter = compact(proof, instance)
    assert shorter.serving_prices is not None
    assert proof.serving_prices is not None
    assert shorter.serving_prices.denominator < proof.serving_prices.denominator
    assert 0.98 * proof.value <= shorter.value < proof.value
    assert mk.verify_certificate(shorter, instance).holds
