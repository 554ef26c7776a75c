"""The command line of real time: servers, calibration, predictions, limits, warnings before a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import modelkit as mk
from modelkit.cli import main
from modelkit.cli.output import summary
from modelkit.problems.serving.prices import price_bound
from modelkit.solving import serving


class Made(NamedTuple):
    """What a command printed."""

    stdout: str
    stderr: str


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Made]:
    """Runs the command in an empty folder and checks its exit code."""
    monkeypatch.chdir(tmp_path)

    def running(*arguments: str, code: int = 0) -> Made:
        monkeypatch.setattr(sys, "argv", ["modelkit", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        made = Made(*capsys.readouterr())
        assert (exited.value.code or 0) == code, made.stderr
        assert "unexpected fault" not in made.stderr
        return made

    return running


def test_from_timings_to_a_verified_run(run: Callable[..., Made], tmp_path: Path) -> None:
    """Tests calibrate, generate with its clock, simulate with two policies, verify: as a user would."""
    (tmp_path / "t.csv").write_text(
        "phase,batch_size,prompt_tokens,kv_tokens,iteration_ms\n"
        + "".join(f"prefill,1,{n},0,{10 + n / 4}\n" for n in (100, 200, 400))
        + "".join(f"decode,{b},0,{kv},{50 + b + kv / 1000}\n" for b in (1, 4) for kv in (100, 900))
    )
    said = run("calibrate", "t.csv").stdout
    assert "10 ms + 0.25 ms per prompt token" in said
    assert "50 ms + 1 ms per request + 0.001 ms per KV token" in said
    assert "100 to 400 prompt tokens" in said
    clock = json.loads((tmp_path / "t.clock.json").read_text())
    assert clock["kind"] == "linear"
    made = run(
        "generate", "chat", "--requests", "60", "--rate", "2", "--server", "t.clock.json", "-o", "c.json",
    )  # fmt: skip
    assert "warning" not in made.stderr
    made = run(
        "simulate", "c.json", "-p", "mc-sf:alpha=0.1", "-p", "wait", "--predictions", "noise:0.5",
        "--max-batch", "8", "--max-batch-tokens", "256", "--chunked-prefill", "-o", "out",
    )  # fmt: skip
    assert "% of capacity" in made.stderr
    assert "wait holds requests back on purpose" in made.stderr
    file = tmp_path / "out" / "c.mc-sf.alpha=0.1.result.json"
    assert "verified" in run("verify", str(file), "--instance", "c.json").stdout
    document = json.loads(file.read_text())
    assert document["schedule"]["tokens_per_iteration"] == 256
    assert document["objective"]["name"] == "total_latency_ms"
    document["schedule"]["tokens_per_iteration"] = 512
    file.write_text(json.dumps(document))
    run("verify", str(file), "--instance", "c.json", code=5)


def test_overload_is_said_before_the_run(run: Callable[..., Made]) -> None:
    """Tests the warnings of generate and simulate, on standard error, and silence when asked for."""
    arguments = ("generate", "chat", "--requests", "200", "--server", "llama2-70b-2xa100", "-o", "c.json")
    words = "of capacity: no policy can keep up"
    assert words in " ".join(run(*arguments).stderr.split())
    made = run("simulate", "c.json", "-p", "svf", "-o", "-")
    assert words in " ".join(made.stderr.split())
    assert json.loads(made.stdout)["load"] > 1
    assert run("simulate", "c.json", "-p", "svf", "-q", "-o", "r.json").stderr == ""


def test_lists(run: Callable[..., Made]) -> None:
    """Tests that servers say their source, and policies their options."""
    said = run("list", "servers").stdout
    assert "llama2-70b-2xa100 " in said
    assert "microsoft/vidur" in " ".join(said.split())
    assert "alpha=0.2; beta=0.2" in " ".join(run("list", "policies").stdout.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("simulate", "c.json", "-p", "mc-sf:beta=1"), "policy 'mc-sf' has no option 'beta=1'"),
        (("simulate", "c.json", "-p", "mc-sf:alpha=much"), "allowed: a number"),
        (("simulate", "c.json", "-p", "mc-sf:alpha=1"), "option alpha: found 1.0; allowed: 0 or more, less than 1"),
        (("simulate", "c.json", "-p", "alpha-beta-clearing:beta=0"), "option beta"),
        (("simulate", "c.json", "-p", "vllm-like:block=0"), "option block"),
        (("simulate", "c.json", "-p", "mc-sf", "--predictions", "nose:1"), "did you mean 'noise'"),
        (("simulate", "c.json", "-p", "mc-sf", "--chunked-prefill"), "--max-batch-tokens"),
        (("simulate", "c.json", "-p", "mc-sf", "--max-batch-tokens", "1"), "raise --max-batch-tokens"),
        (("generate", "chat", "--server", "llama"), "unknown server 'llama'"),
        (("generate", "chat", "--predictions", "class:x"), "prediction model"),
        (("calibrate", "c.json"), "allowed: a log of iterations, or a CSV table"),
        (("calibrate", "nothing.csv"), "cannot read"),
        (("calibrate", "c.json", "--where", "x"), "--where takes COLUMN=VALUE"),
    ],
)
def test_what_is_refused(run: Callable[..., Made], arguments: tuple[str, ...], words: str) -> None:
    """Tests that every wrong word is answered with what is allowed, and exit code 2."""
    run("generate", "chat", "--requests", "5", "--server", "llama2-70b-2xa100", "-o", "c.json", "-q")
    assert words in " ".join(run(*arguments, code=2).stderr.split())


def test_bound_says_what_it_counts_and_what_is_open(run: Callable[..., Made], tmp_path: Path) -> None:
    """Tests that `bound` prints means, what the bound counts and the other bounds, in lines of a terminal."""
    run("generate", "chat", "--server", "llama2-70b-2xa100", "--rate", "5", "--requests", "30", "-o", "chat.json")
    for objective, mean in (("latency", "mean latency"), ("ttft", "mean TTFT"), ("makespan", None)):
        said = run("bound", "chat.json", "--objective", objective, "--time-limit", "1").stdout
        rows = {line[2:].partition("  ")[0]: line for line in said.splitlines() if line.startswith("  ")}
        assert {"lower bound", "best schedule", "this bound", "other bounds"} <= rows.keys(), said
        assert said.startswith("bound on chat-")
        assert max(len(line) for line in said.splitlines() if not line.startswith("  wrote")) <= 80
        if mean is not None:
            claimed = json.loads((tmp_path / "chat.certificate.json").read_text())["bound"]
            least = claimed["numerator"] / claimed["denominator"] / 30
            stated = float(rows[mean].rpartition("below ")[2].removesuffix(" ms").replace(",", ""))
            assert stated <= least < stated + 0.2, "the mean bound is rounded down, and not by much"


def test_what_is_said_of_a_gap_follows_the_load() -> None:
    """Tests that the gap is called the bound's only at loads at which that is known."""
    import modelkit as mk
    from modelkit.judge import judge
    from modelkit.problems.problem import MAKESPAN_MS, TOTAL_LATENCY_MS, TOTAL_TTFT_MS
    from modelkit.problems.serving.gap import open_words

    def words(
        rate: float, metric: str = TOTAL_LATENCY_MS, value: float = 2.0, capacity: int | None = None, **more: bool
    ) -> str:
        chat = mk.generate("chat", requests=200, rate=rate, server="llama2-70b-2xa100", seed=1)
        schedule = mk.simulate(chat, "vllm-like").schedule
        assert schedule is not None
        verdict = judge(chat, schedule)
        if capacity is not None:
            chat = chat.replace(server=chat.server.model_copy(update={"kv_capacity_tokens": capacity}))
        return open_words(chat, metric, value, 1.0, verdict, **more)

    assert "most of the gap is usually the bound's" in words(13)
    assert "at least 78%" in words(13)
    assert "had too little time" in words(13, hurried=True)
    assert "usually" not in words(13, hurried=True)
    assert words(2, hurried=True) == words(2)
    assert "only part of that" in words(2)
    assert "not known" in words(50)
    assert "memory fills up" in words(2, capacity=2500)
    assert "iteration" in words(13, TOTAL_TTFT_MS)
    assert not words(13, MAKESPAN_MS)
    assert not words(13, value=1.001)
    assert not words(13, TOTAL_TTFT_MS, value=0.0)


def test_a_search_has_its_seconds() -> None:
    """Tests that the time beside building, solving and judging is that of the search, and the whole is said."""
    result = mk.simulate(mk.generate("chat", requests=5, seed=1), "mc-sf")
    searched = result.seconds.model_copy(update={"build": None, "solve": None, "judge": 0.25, "total": 2.0})
    lines = summary(result.model_copy(update={"seconds": searched}))
    assert any(line.endswith("search 1.75 s, judge 0.25 s, in all 2.00 s") for line in lines), lines


def test_a_bound_that_is_not_certified_yet_is_called_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that while prices rise the bound never falls, and what goes beyond the certified one says so."""

    def rising(*given: Any, listen: Callable[[float], None], **options: Any) -> Any:
        for value in (1.0, 4e6, 3e6, 5e6):
            listen(value)
        return price_bound(*given, listen=listen, **options)

    monkeypatch.setattr(serving, "price_bound", rising)
    instance = mk.generate("chat", requests=40, rate=40.0, server="llama2-70b-2xa100", seed=2)
    told: list[mk.Progress] = []
    found = mk.bound(instance, time_limit=1, listen=told.append)
    priced = [news for news in told if news.phase.startswith("prices on time")]
    assert len(priced) >= 4
    bounds = [news.bound or 0.0 for news in priced]
    assert bounds == sorted(bounds)
    least = [news.bound for news in priced if "not yet certified" not in news.phase]
    assert all(value is None or value <= found.value + 1e-6 for value in least)
