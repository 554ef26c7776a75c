"""A log judged: does the model explain it, how far was it from the best, and what nobody undercuts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from log_files import lines
from log_histories import history, vllm_bench

import modelkit as mk
from modelkit.cli.judging import _table
from modelkit.errors import InputError
from modelkit.instance import LinearClock
from modelkit.sources.calibrate import COEFFICIENTS
from modelkit.text import THIN

CLOCK = LinearClock(
    kind="linear", mixed=True, prefill_base_ms=5.0, prefill_per_token_ms=0.02, decode_base_ms=12.0,
    decode_per_request_ms=0.1, decode_per_kv_token_ms=3e-4,
)  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """What `vllm-like` did on a known server, as the result of a benchmark."""
    instance, verdict = history(7, CLOCK, n=60, max_batch=8)
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(vllm_bench(instance, verdict)))
    return path


def test_a_known_server_is_explained(bench: Path) -> None:
    """Tests that the simulation on the fitted law is the log, and that bound <= best <= simulated."""
    found = mk.judge_log(bench, max_batch=8, time_limit=3)
    assert abs(found.off) < 1e-3
    assert "the model explains the log" in found.verdict
    assert not found.contradicted
    assert found.least_ms <= found.best_ms <= (found.simulated.metrics["mean_latency_ms"] or 0)
    assert found.least_ms <= found.observed_ms
    assert mk.verify_certificate(found.bound.certificate, found.instance).holds
    assert f"took {found.observed_ms / 1000:.4g} s on average (observed, as logged)" in found.sentence
    assert "vllm-like:gate=auto" in found.policies


def test_without_limits_the_log_shows_them(bench: Path) -> None:
    """Tests that the most requests at once are those of the log, said as such, and the bound has no limit."""
    found = mk.judge_log(bench, time_limit=2)
    assert found.limits["max_batch"] == 8
    assert found.instance.server.slots is None
    assert abs(found.off) < 1e-3
    notes = " ".join(found.notes)
    assert "policies take 8, the most that it shows" in notes
    assert "how many tokens the KV cache holds" in notes


def _faster(path: Path) -> Path:
    """A server that decodes twice as fast as that of the log, beside ``path``."""
    fast = path.with_name("fast.json")
    fast.write_text(json.dumps({"clock": CLOCK.model_dump(exclude_none=True) | {"decode_base_ms": 4.0}}))
    return fast


def test_a_server_that_is_faster_than_its_law_is_no_success(bench: Path) -> None:
    """Tests that a log below the bound is called a contradiction, and a model that explains nothing is called that."""
    slow = bench.with_name("slow.json")
    slow.write_text(json.dumps({"clock": CLOCK.model_dump(exclude_none=True) | {"decode_base_ms": 500.0}}))
    found = mk.judge_log(bench, server=str(slow), time_limit=2)
    assert found.contradicted
    assert "(observed, as logged), less than" in found.sentence
    assert "observed, as logged, less than" in found.markdown
    assert "proven least" not in found.markdown
    unlike = mk.judge_log(bench, max_batch=8, server=str(_faster(slow)), time_limit=1)
    assert "(observed, as logged), which the server that was named does not explain; on that" in unlike.sentence
    assert "%, which the model does not explain)" in unlike.markdown
    assert unlike.best_by in {*unlike.policies, unlike.bound.result.producer.name}
    assert found.document()["bound"]["contradicted"]
    assert "the cost model or the limits are not those of the server" in found.sentence
    assert "does not explain the log" in found.verdict
    assert found.document()["law"]["decode_base_ms"] == 500


def test_the_command(bench: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests the sentence first, the JSON of the contract, the line of Markdown, and the files."""
    monkeypatch.chdir(bench.parent)
    words = ("judge", str(bench), "--max-batch", "8", "--time-limit", "2")
    said = cli(*words, "-o", "out")
    assert said.out.startswith("This server took ")
    for part in ("observed, as logged", "vllm-like, simulated", "best found (", "no schedule below", "not told"):
        assert part in said.out
    files = {path.name.partition(".")[2]: path for path in Path("out").iterdir()}
    assert set(files) == {"json", "observed.json", "certificate.json", "best.result.json"}
    assert cli("verify", str(files["certificate.json"]), "--instance", str(files["json"])).code == 0
    assert cli("verify", str(files["best.result.json"]), "--instance", str(files["json"])).code == 0
    found = json.loads(cli(*words, "--json", "--report", "page.html").out)
    page = Path("page.html").read_text().replace(THIN, " ")
    assert f"took {found['observed']['mean_latency_ms'] / 1000:.4g} s on average (observed, as logged)" in page
    assert "vllm-like" in page
    assert set(found) >= {
        "log", "law", "kv_capacity", "observed", "simulated", "bound", "best", "policies"
    }  # fmt: skip
    for name in found["policies"]:
        assert name in page  # each is in the table beside the figure
    for part in ("Requests in the system", "observed, as logged: ", "vllm-like, simulated: ", "best found ("):
        assert part in page
    assert page.count("observed, as logged") > 6  # headline, both figures and their legends, table of metrics
    assert max(map(len, said.out.splitlines())) <= 80
    assert found["log"] == {"format": "vllm-bench", "requests": 60, "left_out": {}}
    assert set(found["law"]) == {*COEFFICIENTS, "error", "untold"}
    assert set(found["law"]["error"]) == {"decode", "prefill"}
    assert found["kv_capacity"]["tokens"] is None
    assert found["simulated"]["policy"] == "vllm-like"
    assert found["bound"]["mean_latency_ms"] <= found["best"]["mean_latency_ms"]
    assert found["observed"]["mean_latency_ms"] == pytest.approx(found["simulated"]["mean_latency_ms"], rel=1e-3)
    line = cli(*words, "--markdown").out
    assert line.count("\n") == 1
    assert "proven least" in line
    assert cli(*words, "--quiet").out == ""
    assert "exclude each other" in cli(*words, "--json", "--markdown", code=2).err


def test_logs_without_a_run_or_a_law_are_bad_input(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Tests exit code 2 with what the log lacks: stamps at all, or of some requests."""
    rows = [{"request_id": f"q{i}", "input_toks": 9, "output_toks": 5 + i, "queued_ts": i} for i in range(30)]
    path = tmp_path / "r.jsonl"
    path.write_text(lines(rows))
    assert "no request has times of its first and last token" in cli("judge", str(path), code=2).err
    for i, row in enumerate(rows[:-1]):
        row |= {"first_token_ts": i + 0.1, "last_token_ts": i + 0.1 + 0.02 * (4 + i)}
    path.write_text(lines(rows))
    with pytest.raises(InputError, match="1 of 30 requests has no times"):
        mk.judge_log(path)


#: What limits a server: nothing, requests at once, tokens of an iteration, memory that makes it evict.
KINDS: tuple[dict[str, Any], ...] = (
    {}, {"max_batch": 12}, {"max_batch_tokens": 400, "chunked_prefill": True}, {"capacity": 6000},
    {"capacity": 9000}, {"max_batch": 12, "max_batch_tokens": 400, "chunked_prefill": True},
    {"capacity": 6000, "max_batch_tokens": 400, "chunked_prefill": True}, {"capacity": 6000, "max_batch": 30},
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_logs_of_known_servers(tmp_path: Path, kind: int) -> None:
    """Tests five logs of a kind: what is told of the law is within 2 %, and no bound is above the log's mean."""
    limits = KINDS[kind]
    for seed in range(5):
        rng = np.random.default_rng([kind, seed])
        law = {
            "base_ms": float(rng.choice([0.0, 6.0])), "prefill_base_ms": float(rng.uniform(1, 20)),
            "prefill_per_token_ms": float(rng.uniform(0.01, 0.1)), "decode_base_ms": float(rng.uniform(5, 30)),
            "decode_per_request_ms": float(rng.uniform(0.02, 0.5)),
            "decode_per_kv_token_ms": float(rng.choice([0.0, rng.uniform(1e-5, 5e-4)])),
        }  # fmt: skip
        rate = (0.5, 3.0, 6.0)[seed % 3]
        instance, verdict = history(seed, LinearClock(kind="linear", mixed=True, **law), n=100, rate=rate, **limits)
        path = tmp_path / f"b{seed}.json"
        path.write_text(json.dumps(vllm_bench(instance, verdict)))
        found = mk.judge_log(
            path, time_limit=1, kv_capacity=limits.get("capacity"), max_batch=limits.get("max_batch"),
            max_batch_tokens=limits.get("max_batch_tokens"),
        )  # fmt: skip
        assert found.law is not None
        assert found.least_ms <= found.observed_ms
        fitted, untold = found.law.clock, set(found.law.untold)
        if "base_ms" in untold:  # decode_base_ms has it
            law["decode_base_ms"] += law.pop("base_ms")
        for name in law.keys() - untold:
            assert getattr(fitted, name) == pytest.approx(law[name], rel=0.02, abs=1e-7), (kind, seed, name)
        assert len(untold) < 3, (kind, seed, untold)


def test_cached_prompt_tokens_are_counted_and_left_out(tmp_path: Path) -> None:
    """Tests that a server which takes most of each prompt from its cache is explained by what it computes."""
    instance, verdict = history(4, CLOCK, n=60, max_batch=8)
    data = vllm_bench(instance, verdict)
    computed = data["input_lens"]
    data["input_lens"] = [n + 3000 for n in computed]
    path = tmp_path / "b.json"
    path.write_text(json.dumps(data | {"cached_tokens": [3000] * 60}))
    found = mk.judge_log(path, max_batch=8, time_limit=1)
    assert found.law is not None
    assert found.law.clock.prefill_per_token_ms == pytest.approx(0.02, rel=1e-3)
    assert found.log.left_out == {"prompt tokens that were in the prefix cache, left out of the prompts": 180_000}
    assert [r.prompt_tokens for r in found.instance.requests] == computed
    assert abs(found.off) < 0.01
    assert found.least_ms <= found.observed_ms
    assert any("of the prompt tokens were in the prefix cache" in note for note in found.notes)
    path.write_text(json.dumps(data))
    plain = mk.import_log(path, max_batch=8)
    assert plain.law is not None
    assert plain.law.clock.prefill_base_ms < 1  # 5 ms less what 300 tokens take


def test_policies_with_equal_figures_share_a_row(bench: Path) -> None:
    """Tests that each policy is in one row of the table, those with equal figures in the same, in 79 columns."""
    found = mk.judge_log(bench, max_batch=8, time_limit=3)
    found.policies["a-policy-with-a-long-name"] = found.simulated
    found.policies["another"] = found.simulated
    lines = _table(found)
    assert max(map(len, lines)) <= 79
    named = " ".join(lines[3:-2]).replace(",", " ").split()
    assert all(named.count(name) == 1 for name in found.policies if name != "vllm-like")
    cells = [tuple(line.split()[-7:]) for line in lines[3:-2] if line.count(".") >= 7]
    assert len(set(cells)) == len(cells)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["Llama-3.1-8B", "Qwen3-30B-A3B-Instruct-2507"])
def test_real_runs(shared_data: Path, run: str) -> None:
    """Tests that real runs are explained to 4 %, with a law off by 1 % at most, and bounded from below."""
    found = mk.judge_log(shared_data / "vllm_runs" / run / "requests.jsonl", time_limit=10)
    assert found.law is not None
    assert found.law.errors["decode"].mape <= 0.01
    assert abs(found.off) <= 0.04
    assert found.least_ms <= found.observed_ms
    assert found.best_ms < found.observed_ms
