"""What a server sustains: the search, its page and its files, and the closed form that nobody exceeds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import modelkit as mk
from modelkit.cli import sustaining as sustaining_command
from modelkit.errors import UsageError
from modelkit.experiments.run import Run, perform
from modelkit.experiments.sustain import Sustained, sustain_page, sustaining
from modelkit.experiments.sustain.found import Point, limit_interval
from modelkit.experiments.sustain.journal import Journal, Probe
from modelkit.experiments.sustain.search import Search
from modelkit.experiments.sustain.traffic import traffic
from modelkit.experiments.workers import Finished
from modelkit.instance import Instance
from modelkit.judge.slo import service_levels
from modelkit.requests import ServiceLevels

CLOCK = {
    "kind": "linear",
    "mixed": True,
    "prefill_per_token_ms": 0.5,
    "decode_base_ms": 10.0,
    "decode_per_request_ms": 5.0,
}
#: Requests of about 100 ms a piece where they must have a token every 20 ms.
CHATS = Instance(
    name="chats",
    server={"clock": CLOCK, "kv_capacity_tokens": 200},
    requests=[
        {"id": f"q{i}", "arrival": 0.3 * i, "prompt_tokens": 5 + i % 7, "output_tokens": 6 + i % 10} for i in range(40)
    ],
)
LEVELS = "ttft=150ms,tpot=25ms"


def found(folder: Path, policies: tuple[str, ...] = ("mc-sf",), **settings: Any) -> Sustained:
    wanted = {"slo": LEVELS, "seeds": 3, "percentile": 95.0, "folder": folder, "tolerance": 0.03}
    return mk.sustain(CHATS, policies, **{**wanted, **settings})


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Runs are done in this process, and listed."""
    done: list[Run] = []

    def run_all(tasks: list[tuple[Run, Path]], **settings: Any) -> Iterator[Finished]:
        for run, path in tasks:
            done.append(run)
            yield Finished(run, path, perform(run))

    monkeypatch.setattr(sustaining, "run_all", run_all)
    return done


# --- the search ------------------------------------------------------------------------------------


@pytest.mark.parametrize("side_by_side", [1, 3])
@pytest.mark.parametrize("limit", [0.013, 0.9, 7.3, 4000.0])
def test_a_rate_is_found(limit: float, side_by_side: int) -> None:
    """Tests that the largest value that holds is found within the tolerance, wherever it lies."""
    search = Search(1.0, larger_is_harder=True, tolerance=0.01)
    while values := search.next(side_by_side):
        for value in values:
            search.tell(value, value <= limit)
    assert search.good is not None
    assert search.bad is not None
    assert search.good <= limit < search.bad <= search.good * 1.011
    assert not search.uneven


@pytest.mark.parametrize("limit", [1, 2, 37, 500, 1000])
def test_a_number_of_slots_is_found(limit: int) -> None:
    """Tests that the least whole number that holds is found exactly, the ends included."""
    search = Search(64, larger_is_harder=False, tolerance=1e-4, whole=True, easiest=1000, hardest=1)
    while values := search.next(3):
        for value in values:
            assert value == int(value)
            search.tell(value, value >= limit)
    assert search.good == limit
    assert search.bad == (limit - 1 if limit > 1 else None)


def test_nothing_holds() -> None:
    """Tests that a search ends where nothing holds, or everything does."""
    for holds in (False, True):
        search = Search(1.0, larger_is_harder=True)
        while values := search.next():
            search.tell(values[0], holds)
        assert (search.good is not None, search.bad is not None) == (holds, not holds)


def test_what_fails_first_counts() -> None:
    """Tests that a value that holds beyond one that does not is no limit, and is told."""
    search = Search(1.0, larger_is_harder=True)
    for value, holds in ((1.0, True), (2.0, False), (3.0, True)):
        search.tell(value, holds)
    assert (search.good, search.bad, search.uneven) == (1.0, 2.0, True)


def point(value: float, within: tuple[int, ...]) -> Point:
    return Point(value, tuple(Probe("", "", value, k, 100, w, {}) for k, w in enumerate(within)))


def test_the_interval_is_that_of_resampled_seeds() -> None:
    """Tests that equal seeds leave no doubt, that unlike ones do, and that few say nothing."""
    sure = [point(1.0, (100, 100, 100)), point(2.0, (80, 80, 80))]
    low, high = limit_interval(sure, 0.9, True)
    assert low == high == pytest.approx(math.sqrt(2))
    low, high = limit_interval([point(1.0, (100, 100, 100)), point(2.0, (95, 80, 65))], 0.9, True)
    assert low is not None
    assert high is not None
    assert low < math.sqrt(2) < high
    rising = [point(1.0, (80, 80, 80)), point(2.0, (100, 100, 100))]
    low, high = limit_interval(rising, 0.95, False)
    assert low == high == pytest.approx(2**0.75)
    assert limit_interval([point(1.0, (100, 100)), point(2.0, (80, 80))], 0.9, True) == (None, None)


def test_no_policy_sustains_more_than_any_can() -> None:
    """Tests the headline of a short trace, which drains, and of one below what can go on for ever."""

    def headline(value: float, *names: str) -> str:
        best = [SimpleNamespace(policy=name, value=value) for name in names or ("svf",)]
        return Sustained(
            "chat", "rate", ServiceLevels(ttft_ms=9), 99.0, (0,), 300, "poisson", None, tuple(best), None,
            20.0, (), Path(),
        ).headline  # fmt: skip

    assert headline(21.0) == (
        "svf sustains 21 requests/s; only so few requests allow that: in the long run nobody does with more than 20"
        " requests/s"
    )
    assert "% of the most that any policy can in the long run" in headline(15.0)
    assert headline(15.0, "svf", "wait").startswith("svf and wait sustain 15 requests/s, ")


# --- traffic ---------------------------------------------------------------------------------------


def test_rates_differ_by_the_rate_alone() -> None:
    """Tests that at twice the rate the same requests arrive in half of the time."""
    drawn = traffic(CHATS, (0, 1))
    slow, fast = drawn.at("rate", 5.0, 1), drawn.at("rate", 10.0, 1)
    assert [r.prompt_tokens for r in slow.requests] == [r.prompt_tokens for r in fast.requests]
    assert fast.arrays.arrival == pytest.approx(slow.arrays.arrival / 2)
    assert slow.arrays.arrival[-1] == pytest.approx(len(slow.requests) / 5.0, rel=0.4)
    assert sorted(r.id for r in slow.requests) == sorted(r.id for r in CHATS.requests)
    assert drawn.at("rate", 5.0, 0).arrays.prompt.tolist() != slow.arrays.prompt.tolist()


def test_own_arrivals() -> None:
    """Tests that arrivals of one's own are kept, faster or slower, and refused where they have no rate."""
    own = traffic(CHATS, (0,), arrivals="own")
    assert own.rate == pytest.approx(40 / (0.3 * 39))
    assert own.at("rate", own.rate or 0, 0).arrays.arrival == pytest.approx(CHATS.arrays.arrival)
    together = CHATS.replace(requests=[r.model_copy(update={"arrival": 0}) for r in CHATS.requests])
    with pytest.raises(UsageError, match="which has no rate"):
        traffic(together, (0,), arrivals="own")
    with pytest.raises(UsageError, match="--server NAME gives a family"):
        traffic("chat", (0,), requests=5)


# --- all of it -------------------------------------------------------------------------------------


def test_what_is_sustained(tmp_path: Path, here: list[Run]) -> None:
    """Tests limits, what nobody exceeds, files and page; that nothing is tried twice; and a second policy."""
    first = found(tmp_path / "a")
    limit = first.limits[0]
    assert limit.value is not None
    assert limit.fails is not None
    assert limit.value < limit.fails <= limit.value * 1.04
    assert limit.at_limit is not None
    assert limit.at_limit.share >= 0.95
    assert first.in_the_long_run == pytest.approx(mk.sustainable_rate(CHATS, LEVELS, 0.95))
    assert first.certified is not None
    assert limit.value < first.certified
    runs = len(here)
    again = found(tmp_path / "a", ("mc-sf", "svf"), bound=False)
    assert again.limits[0] == limit
    assert {run.name for run in here[runs:]} == {"svf"}
    assert again.certified is None

    written = first.save()
    document = json.loads(written[0].read_text())
    assert document["policies"]["mc-sf"]["value"] == limit.value
    assert document["sentence"].startswith("mc-sf sustains ")
    for file in sorted((tmp_path / "a" / "certified").glob("*.certificate.json")):
        instance = mk.load(str(file).replace(".certificate.json", ".json"))
        assert not mk.verify_certificate(mk.load_certificate(file), instance).faults
    assert len(first.certificates) == 3
    sustain_page(first, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "mc-sf sustains" in page
    assert "nobody, in the long run" in page
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["certified", "probes.jsonl", "sustain.json"]


def test_the_proof_holds_for_higher_rates(tmp_path: Path, here: list[Run]) -> None:
    """Tests that what is certified at a rate is so at higher ones."""
    first = found(tmp_path / "a")
    assert first.certified is not None
    drawn = traffic(CHATS, (0, 1, 2))
    levels = service_levels(LEVELS)
    for factor in (1.0, 1.3, 2.0, 10.0):
        most = sum(
            math.floor(sustaining.goodput_prices(drawn.at("rate", first.certified * factor, seed), levels).most)
            for seed in range(3)
        )
        assert most < 0.95 * drawn.requests


@pytest.mark.parametrize("over", ["slots", "kv_capacity"])
def test_least_memory_and_slots(tmp_path: Path, here: list[Run], over: str) -> None:
    """Tests that what is found suffices and what fails does not, at the given rate, and that nobody needs less."""
    result = found(tmp_path / "a", over=over, rate=1.5)
    limit = result.limits[0]
    assert limit.value is not None
    assert limit.fails is None or limit.fails < limit.value
    assert result.in_the_long_run is None or result.in_the_long_run < limit.value
    assert result.certified is None or result.certified < limit.value
    assert " needs " in result.sentence


def test_an_interrupted_search_goes_on(tmp_path: Path, here: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that what was tried before Ctrl-C is kept, said to be unfinished, and not tried again."""
    whole = sustaining.run_all

    def stopped(tasks: list[tuple[Run, Path]], **settings: Any) -> Iterator[Finished]:
        for k, done in enumerate(whole(tasks, **settings)):
            if len(here) > 12 and k == 1:
                raise KeyboardInterrupt
            yield done

    monkeypatch.setattr(sustaining, "run_all", stopped)
    first = found(tmp_path / "a", bound=False)
    assert first.interrupted
    assert sustaining_command._code(first) == 130
    assert "interrupted: limits lie between" in first.remarks[0]
    kept = len(Journal(tmp_path / "a").known)
    before = len(here)
    monkeypatch.setattr(sustaining, "run_all", whole)
    again = found(tmp_path / "a", bound=False)
    assert not again.interrupted
    assert len(Journal(tmp_path / "a").known) == kept + len(here) - before
    assert again.limits == found(tmp_path / "b", bound=False).limits


def test_levels_that_nobody_can_keep(tmp_path: Path, here: list[Run]) -> None:
    """Tests what is said where most requests cannot keep their levels even alone."""
    result = found(tmp_path / "a", slo="ttft=1us", seeds=1, requests=5)
    assert result.best is None
    assert result.in_the_long_run == 0
    assert sustaining_command._code(result) == 3
    assert result.sentence.startswith("No policy that was tried keeps TTFT 0.001 ms")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"slo": None}, "service levels are needed"),
        ({"over": "memory"}, "allowed: rate, kv_capacity, slots"),
        ({"arrivals": "all"}, "allowed: poisson, own"),
        ({"percentile": 0.0}, "above 0, at most 100"),
        ({"seeds": 0}, "allowed: 1 to 1000"),
        ({"tolerance": 0.0}, "0.0001 or more"),
        ({"policies": ("mc-sx",)}, "did you mean 'mc-sf'"),
        ({"options": {}, "predictions": "nois:1"}, "nois"),
    ],
)
def test_wrong_wishes(tmp_path: Path, here: list[Run], change: dict[str, Any], words: str) -> None:
    """Tests that what cannot be looked for is refused in words."""
    with pytest.raises(UsageError, match=words):
        found(tmp_path / "a", **change)


def test_a_line_that_was_not_finished(tmp_path: Path) -> None:
    """Tests that a journal which ends in the middle of a line is read, and goes on."""
    journal = Journal(tmp_path)
    journal.add(Probe("k", "p", 1.0, 0, 5, 4, {}))
    with journal.path.open("a") as file:
        file.write('{"key": "l", "poli')
    again = Journal(tmp_path)
    again.add(Probe("m", "p", 1.0, 0, 5, 4, {}))
    assert set(Journal(tmp_path).known) == {"k", "m"}


# --- the closed form -------------------------------------------------------------------------------


def test_the_closed_form() -> None:
    """Tests equal requests whose pace leaves room for two at a time, and the lightest of unlike ones."""
    clock = {"kind": "linear", "mixed": True, "decode_base_ms": 10.0, "decode_per_request_ms": 5.0}
    ten = Instance.from_arrays([1] * 10, [11] * 10, server={"clock": clock})
    assert mk.sustainable_rate(ten, "tpot=20ms,latency=1s", 1.0) == pytest.approx(10.0, rel=1e-3)
    mixed = Instance.from_arrays([1] * 10, [11] * 5 + [101] * 5, server={"clock": clock})
    assert mk.sustainable_rate(mixed, "ttft=1s,tpot=20ms", 0.5) == pytest.approx(20.0, rel=1e-3)
    assert mk.sustainable_rate(mixed, "ttft=1s,tpot=20ms", 1.0) == pytest.approx(10 / 5.5, rel=1e-3)
    one_long = Instance.from_arrays([1] * 10, [11] * 9 + [101], server={"clock": clock})
    assert mk.sustainable_rate(one_long, "ttft=1s,tpot=20ms", 0.95) == pytest.approx(10 / (0.9 + 0.5), rel=1e-3)
    two = ten.replace(server=ten.server.model_copy(update={"replicas": 2}))
    assert mk.sustainable_rate(two, "tpot=20ms,latency=1s", 1.0) == pytest.approx(20.0, rel=1e-3)
    assert mk.sustainable_rate(ten, "latency=10ms", 0.5) == 0.0
    assert mk.sustainable_rate(ten, "tpot=20ms", 0.5) is None
    with pytest.raises(UsageError, match="needs service levels"):
        mk.sustainable_rate(ten)


def test_a_family_of_nearly_that_name_is_suggested() -> None:
    """Tests that a name that is neither a file nor a family says which family is meant."""
    with pytest.raises(UsageError, match="no file and no family is called 'chta'; did you mean 'chat'"):
        mk.sustain("chta", ["svf"], slo={"ttft_ms": 1000})


# --- longer ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_fine_sweep_finds_the_same(tmp_path: Path, here: list[Run]) -> None:
    """Tests that the rate is within 3 % of that of a sweep in steps of one percent."""
    many = CHATS.replace(
        requests=[r.model_copy(update={"id": f"{r.id}-{k}"}) for k in range(8) for r in CHATS.requests]
    )
    wanted = {"slo": LEVELS, "seeds": 3, "percentile": 95.0, "tolerance": 0.01, "bound": False}
    for policy in ("mc-sf", "vllm-like"):
        limit = mk.sustain(many, (policy,), folder=tmp_path / policy, **wanted).limits[0]
        assert limit.value is not None
        drawn, levels = traffic(many, (0, 1, 2)), service_levels(LEVELS)
        rate = limit.value * 0.8
        while True:
            runs = [mk.simulate(drawn.at("rate", rate, seed), policy, seed=seed, slo=levels) for seed in range(3)]
            if sum(r.metrics["requests_within_slo"] or 0 for r in runs) < Fraction(95, 100) * drawn.requests:
                break
            rate *= 1.01
        assert rate / 1.01 == pytest.approx(limit.value, rel=0.03), policy


@pytest.mark.slow
def test_the_command(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Tests the command with the workers: what it prints, writes and returns."""
    mk.save_instance(CHATS, instance := str(tmp_path / "chats.json"))
    options = ["--percentile", "95", "--seeds", "2", "--tolerance", "0.1", "-o", str(tmp_path / "out")]
    arguments = ["sustain", instance, "-p", "mc-sf", "--slo", LEVELS, *options]
    said = cli(*arguments, "--report", str(tmp_path / "page.html"))
    assert said.out.startswith("mc-sf sustains ")
    assert "in the long run, by a proof" in said.out
    assert (tmp_path / "page.html").exists()
    document = json.loads(cli(*arguments, "--json").out)
    assert document == json.loads((tmp_path / "out" / "sustain.json").read_text())
    cli("sustain", instance, "-p", "mc-sf", code=2)
