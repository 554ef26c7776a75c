"""Prefixes that requests share: in instances, before the judge, under policies, solved and bounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from naive_prefixes import Server, optima, values

import modelkit as mk
from modelkit.cli.output import summary
from modelkit.errors import InputError, UsageError
from modelkit.formulation.loading import load_formulation
from modelkit.instance import SCHEMA, Request, SharedPrefixes
from modelkit.judge import Verdict, judge
from modelkit.judge.prefixes import unshared
from modelkit.problems.problem import SERVING, UNIT_PREFIXES, problem_of
from modelkit.runtime.deadline import Deadline
from modelkit.schedule import Admission, Schedule, Segment
from modelkit.simulation.simulate import fitting_policies
from modelkit.solving.orders import search_orders
from modelkit.sources.traces.prefixes import prefix_groups

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt_tokens": 5, "output_tokens": 3, "prefix": {"group": "g", "tokens": 5}},
    {"id": "b", "prompt_tokens": 5, "output_tokens": 2, "prefix": {"group": "g", "tokens": 2}},
    {"id": "c", "prompt_tokens": 5, "output_tokens": 2},
    {"id": "d", "prompt_tokens": 1, "output_tokens": 2, "prefix": {"group": "h", "tokens": 1}},
]
COLUMNS: dict[str, list[Any]] = {key: [row.get(key) for row in ROWS] for key in ROWS[0]}


def read(requests: Any, **server: Any) -> mk.Instance:
    """The instance of these requests, from its JSON."""
    return mk.load({"schema": SCHEMA, "server": {"kv_capacity_tokens": 20, **server}, "requests": requests})


def test_prefixes_are_read_and_written() -> None:
    """Tests that rows and columns say the same, that it is written, and that it counts where there is a cache."""
    kept = read(ROWS, prefix_cache={"keep": True})
    assert kept == read(COLUMNS, prefix_cache={"keep": True}) == mk.load(json.loads(json.dumps(kept.document())))
    assert kept != read(ROWS, prefix_cache={})
    assert kept.shared_prefixes == SharedPrefixes((0, 0, -1, -1), (4, 2, 0, 0), True)  # the last token is never shared
    assert read(ROWS).shared_prefixes is None
    assert read(ROWS[2:], prefix_cache={}).shared_prefixes is None
    lengths = ([5, 5, 5, 1], [3, 2, 2, 2])
    assert mk.Instance.from_arrays(*lengths, server=kept.server, id="abcd", prefix=COLUMNS["prefix"]) == kept


def test_an_instance_without_prefixes_keeps_its_hash() -> None:
    """Tests that nothing is written of what an instance does not use."""
    plain = read(ROWS[2:3])
    assert "prefix" not in plain.document()["requests"]
    assert "prefix_cache" not in plain.document()["server"]
    assert plain.sha256 == "0bb4b90b8d6d99ae553cbd4562cb2c16427b16d64f5e1f0be0737b7983d774f5"


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ({"group": "g", "tokens": 6}, r"prefix.*tokens.*: found 6; allowed: at most the prompt_tokens, 5"),
        ({"grup": "g", "tokens": 4}, r"prefix.*grup.*: unknown key; did you mean 'group'"),
        ({"group": "", "tokens": 0}, r"prefix.*tokens.*: found 0"),
        (3, r"prefix.*: found 3"),
    ],
)
def test_wrong_prefixes_are_named(prefix: Any, words: str) -> None:
    """Tests that faults are said with their place, in rows and in columns."""
    with pytest.raises(InputError, match=words):
        read([ROWS[1], {**ROWS[0], "prefix": prefix}])
    with pytest.raises(InputError, match=words.replace("prefix", r"\$.requests.prefix\[0\]", 1)):
        read({key: values[:1] for key, values in {**COLUMNS, "prefix": [prefix]}.items()})
    with pytest.raises(InputError, match="did you mean 'keep'"):
        read(ROWS, prefix_cache={"kep": True})


def test_what_is_found_in_any_case() -> None:
    """Tests that cached prompt tokens are written, cost no prefill, take memory, and are at most the prompt."""
    row = {"id": "a", "prompt_tokens": 6, "output_tokens": 1, "cached_prompt_tokens": 4}
    server = {"kv_capacity_tokens": 7, "prefix_cache": {}, "clock": {"kind": "linear", "prefill_per_token_ms": 1.0}}
    instance = mk.Instance(server=server, requests=[row])
    assert instance.document()["requests"]["cached_prompt_tokens"] == [4]
    metrics = mk.simulate(instance, "svf").metrics
    found = [metrics[name] for name in ("total_latency_ms", "cached_prompt_tokens", "peak_kv_tokens")]
    assert found == [2, 4, 7]
    assert instance.replace(server={**server, "prefix_cache": None}).shared_prefixes is None
    rounds = instance.replace(server={"kv_capacity_tokens": 7, "prefix_cache": {}})
    assert mk.solve(rounds).objective.value == 1
    with pytest.raises(InputError, match="cached_prompt_tokens: found 7; allowed: at most the prompt_tokens, 6"):
        mk.Instance(server=server, requests=[{**row, "cached_prompt_tokens": 7}])
    with pytest.raises(InputError, match="cached_prompt_tokens: found 7; allowed: at most the prompt_tokens, 6"):
        mk.load({"schema": "modelkit/instance/1", "server": server, "requests": [{**row, "cached_prompt_tokens": 7}]})


def test_a_request_made_in_python_is_checked() -> None:
    """Tests that an instance made without a file refuses the same."""
    long = Request(id="a", prompt_tokens=5, output_tokens=3, prefix={"group": "g", "tokens": 6})
    with pytest.raises(InputError, match="at most the prompt_tokens, 5"):
        mk.Instance(server={}, requests=[long])


LAWS: dict[str, dict[str, Any]] = {
    "unit": {"kind": "unit"},
    **{
        name: {
            "kind": "linear",
            "mixed": name == "mixed",
            "base_ms": 1.0,
            "prefill_base_ms": 4.0,
            "prefill_per_token_ms": 1.5,
            "decode_base_ms": 5.0,
            "decode_per_request_ms": 0.5,
            "decode_per_kv_token_ms": 0.125,
        }
        for name in ("mixed", "exclusive")
    },
}


def drawn(seed: int, requests: int, clock: str, *, output: int = 8, room: int = 18, slots: int | None = None) -> Any:
    """Random requests of up to two groups; every other one keeps tokens."""
    rng = np.random.default_rng([7, seed])
    rows = []
    for i in range(requests):
        prompt = int(rng.integers(2, 12))
        row = {"id": f"r{i}", "arrival": int(rng.integers(0, 3 * requests)) * (1 if clock == "unit" else 0.01)}
        row |= {"prompt_tokens": prompt, "output_tokens": int(rng.integers(1, output + 1))}
        if rng.random() < 0.8:
            row["prefix"] = {"group": "gh"[int(rng.random() < 0.3)], "tokens": int(rng.integers(1, prompt + 1))}
        rows.append(row)
    rows[0]["prefix"] = {"group": "g", "tokens": 1}
    capacity = max(r["prompt_tokens"] + r["output_tokens"] for r in rows) + int(rng.integers(0, room))
    server = {"kv_capacity_tokens": capacity, "clock": LAWS[clock], "prefix_cache": {"keep": seed % 2 == 1}}
    return read(rows, **server, **({} if slots is None else {"slots": slots}))


def finding(instance: mk.Instance, seed: int) -> mk.Instance:
    """The same in which some requests find a part of their prompts in any case."""
    rng = np.random.default_rng([9, seed])
    found = [int(rng.integers(1, r.prompt_tokens + 1)) if rng.random() < 0.5 else None for r in instance.requests]
    rows = zip(instance.requests, found, strict=True)
    return instance.replace(requests=tuple(r.model_copy(update={"cached_prompt_tokens": f}) for r, f in rows))


def random_schedule(instance: mk.Instance, rng: np.random.Generator, *, evict: bool, chunk: int | None) -> Schedule:
    """Admissions and evictions at random moments, without regard for the memory."""
    server, unit, segments = Server(instance, chunk), 1 if instance.is_unit else 1000, []
    while len(server.done) < len(instance.requests):
        out = [name for name in server.made if evict and rng.random() < 0.15]
        waiting = [r for r in instance.requests if r.id not in server.done and (r.id not in server.made or r.id in out)]
        here = [r.id for r in waiting if r.arrival * unit <= server.now and rng.random() < 0.4]
        rng.shuffle(here)
        if out or here or server.made:
            segment = Segment(server.now / unit, tuple(map(Admission, here)), tuple(out), int(rng.integers(0, 4)))
            segments.append(segment)
            server.run(Schedule((segment,)))
        elif late := [r.arrival * unit for r in waiting if r.arrival * unit > server.now]:
            server.wait(min(late))
    return Schedule(tuple(segments), chunk)


@pytest.mark.parametrize("clock", LAWS)
def test_the_judge_agrees_with_a_server_token_by_token(clock: str) -> None:
    """Tests times, memory and what was found on random schedules, with evictions, split prompts and kept tokens."""
    unit = "rounds" if clock == "unit" else "ms"
    for seed in range(40):
        rng, instance = np.random.default_rng([8, seed]), drawn(seed, 8, clock)
        instance = finding(instance, seed) if seed % 5 > 2 else instance
        chunk = int(rng.integers(3, 9)) if clock == "mixed" and seed % 3 else None
        schedule = random_schedule(instance, rng, evict=seed % 4 > 1, chunk=chunk)
        server, verdict = Server(instance, chunk).run(schedule), judge(instance, schedule)
        known, metrics = values(server), verdict.metrics
        assert metrics[f"total_latency_{unit}"] == pytest.approx(known["latency"], abs=1e-6)
        assert metrics[f"mean_first_token_{unit}"] == pytest.approx(known["ttft"] / 8, abs=1e-6)
        assert (metrics["peak_kv_tokens"], metrics["peak_saved_tokens"]) == (server.peak, server.saved)
        assert {v.rule for v in verdict.violations} <= {"kv_capacity"}
        assert max((v.size for v in verdict.violations), default=0) == server.worst
        if not metrics["evictions"]:
            found = sum(r.prompt_tokens - server.read[r.id] for r in instance.requests)
            assert metrics["cached_prompt_tokens"] == found
            assert metrics["prefix_hit_share"] == found / sum(r.prompt_tokens for r in instance.requests)


def verdict_of(instance: mk.Instance, *segments: tuple[float, list[str], int]) -> Verdict:
    """What the judge says of segments: when, who is admitted, and rounds."""
    return judge(instance, Schedule(tuple(Segment(at, tuple(map(Admission, ids)), (), r) for at, ids, r in segments)))


#: Two requests that fit together because they share, and only just.
PAIR = [
    {"id": "a", "prompt_tokens": 6, "output_tokens": 2, "prefix": {"group": "g", "tokens": 5}},
    {"id": "b", "prompt_tokens": 6, "output_tokens": 2, "prefix": {"group": "g", "tokens": 4}},
]


@pytest.mark.parametrize(
    ("change", "server", "excess"),
    [
        ({}, {}, None),
        ({}, {"kv_capacity_tokens": 11}, 1),
        ({}, {"prefix_cache": None}, 4),
        ({"prefix": {"group": "h", "tokens": 4}}, {}, 4),
        ({"prefix": {"group": "g", "tokens": 3}}, {}, 1),
        ({"prefix": {"group": "g", "tokens": 6}}, {}, None),  # shares what both have
        ({"prefix": None}, {}, 4),
    ],
)
def test_memory_counts_what_is_shared_once(change: dict[str, Any], server: dict[str, Any], excess: int | None) -> None:
    """Tests that a schedule is valid through sharing alone, and by how much it is not when something is not shared."""
    instance = read([PAIR[0], {**PAIR[1], **change}], **{"kv_capacity_tokens": 12, "prefix_cache": {}, **server})
    verdict = verdict_of(instance, (0, ["a", "b"], 2))
    assert [(v.rule, v.size) for v in verdict.violations] == ([] if excess is None else [("kv_capacity", excess)])


@pytest.mark.parametrize(
    ("keep", "later", "found"),
    [(False, [], 0), (True, [], 4), (True, ["big"], 1), (True, ["other"], 0)],
)
def test_kept_tokens_stay_until_memory_is_needed(keep: bool, later: list[str], found: int) -> None:
    """Tests that tokens stay with keep alone, and that those go that have no room, from the end of the prefix on."""
    rows = [*PAIR, {"id": "big", "prompt_tokens": 9, "output_tokens": 2}, {**PAIR[0], "id": "other"}]
    rows[3] = {"id": "other", "prompt_tokens": 10, "output_tokens": 2, "prefix": {"group": "h", "tokens": 9}}
    server = {"kv_capacity_tokens": 12, "clock": LAWS["mixed"], "prefix_cache": {"keep": keep}}
    instance = read(rows, **server)
    segments = [(0.0, ["a"], 2), *((1.0, [name], 2) for name in later), (2.0, ["b"], 2)]
    verdict = verdict_of(instance, *segments)
    assert {v.rule for v in verdict.violations} <= {"missing"}
    assert verdict.metrics["cached_prompt_tokens"] == found
    reading = verdict.residencies[-1].first_token - verdict.residencies[-1].begin
    assert reading == pytest.approx(1 + 4 + 1.5 * (6 - found))


def test_who_uses_a_prefix_last_loses_it_last() -> None:
    """Tests that of two groups the one goes first that was longest without use."""
    rows = [
        {"id": i, "prompt_tokens": 5, "output_tokens": 1, "prefix": {"group": g, "tokens": 4}}
        for i, g in (("a", "g"), ("b", "h"), ("c", "g"), ("d", "g"), ("e", "h"))
    ]
    rows.append({"id": "big", "prompt_tokens": 8, "output_tokens": 1})
    instance = read(rows, kv_capacity_tokens=13, clock=LAWS["mixed"], prefix_cache={"keep": True})
    order = [["a"], ["b"], ["c"], ["big"], ["d"], ["e"]]
    verdict = verdict_of(instance, *((float(at), ids, 1) for at, ids in enumerate(order)))
    assert verdict.valid
    assert verdict.metrics["cached_prompt_tokens"] == 4 + 4  # of c and d; e reads its prefix anew


@pytest.mark.parametrize("clock", LAWS)
def test_policies_keep_the_memory_and_the_clock(clock: str) -> None:
    """Tests that every policy's schedule is valid, and that those that look ahead never evict with true lengths."""
    for seed in range(2):
        instance = drawn(seed, 9, clock, slots=4 if seed == 1 else None)
        for name in fitting_policies(instance):
            for options in ({}, {"max_batch_tokens": 6, "chunked_prefill": True})[: 1 + (clock == "mixed")]:
                run = mk.simulate(instance, name, seed=seed, **options)
                assert not run.violations, (seed, name, options)
                if name in ("mc-sf", "svf", "mc-benchmark", "lpm", "k-lpm", "sorted-f"):
                    assert options or not run.metrics["evictions"]


@pytest.mark.parametrize("name", ["mc-sf", "svf", "mc-benchmark", "lpm", "vllm-like:watermark=0", "length-groups"])
def test_policies_admit_by_what_is_not_shared(name: str) -> None:
    """Tests that requests start together that only sharing lets fit."""
    instance = read(PAIR, kv_capacity_tokens=12, prefix_cache={})
    name = name.replace("vllm-like:", "vllm-like:block=1,")
    assert mk.simulate(instance, name).metrics["total_latency_rounds"] == 4
    apart = instance.replace(server=instance.server.model_copy(update={"prefix_cache": None}))
    assert mk.simulate(apart, name).metrics["total_latency_rounds"] == 6


def test_the_longest_match_starts_first_and_the_oldest_in_its_turn() -> None:
    """Tests the order of lpm and k-lpm against arrival order, where one request runs at a time."""
    prefixes = [("a", "g", 8), ("b", "h", 8), ("c", "h", 2), ("d", "g", 4), ("e", "g", 9)]
    rows = [
        {"id": i, "prompt_tokens": 10, "output_tokens": 1, "prefix": {"group": g, "tokens": p}} for i, g, p in prefixes
    ]
    server = {"kv_capacity_tokens": 100, "slots": 1, "clock": {**LAWS["mixed"]}, "prefix_cache": {"keep": True}}
    instance = read(rows, **server)

    def order(policy: str) -> str:
        schedule = mk.simulate(instance, policy).schedule
        return "".join(a.request for segment in schedule.segments for a in segment.admit)

    assert order("mc-benchmark") == order("k-lpm:k=1") == "abcde"
    assert order("lpm") == order("k-lpm:k=9") == "aedbc"
    assert order("k-lpm:k=3") == "aedbc"
    assert order("k-lpm:k=2") == "aebdc"
    with pytest.raises(UsageError, match="option k: found 0"):
        mk.simulate(instance, "k-lpm:k=0")


@pytest.mark.parametrize("solver", ["highs", "scip"])
def test_kv_prefix_is_exact(solver: str) -> None:
    """Tests the optimum against all schedules of a server token by token, on both solvers."""
    for seed in range(4):
        instance = drawn(seed, 3, "unit", output=3, room=4, slots=2 if seed == 3 else None)
        result = mk.solve(instance, "kv-prefix", solver, warm_start="none")
        assert result.status == "optimal"
        assert result.objective.value == optima(instance)["latency"]
        assert mk.verify_result(result, instance).holds


def test_kv_prefix_is_chosen_and_never_worse_than_a_policy() -> None:
    """Tests that solve takes the formulation by itself, and a search where the model would be too large."""
    small = drawn(1, 6, "unit")
    assert problem_of(small) is UNIT_PREFIXES
    result = mk.solve(small, time_limit=20)
    assert (result.status, result.producer.name) == ("optimal", "kv-prefix")
    large = drawn(2, 30, "unit", output=4000, room=4000)
    found = mk.solve(large, time_limit=2)
    assert found.status == "feasible"
    assert mk.verify_result(found, large).holds
    best = min(mk.simulate(large, name).metrics["total_latency_rounds"] for name in ("svf", "mc-sf", "lpm"))
    assert found.objective.value <= best


def test_the_search_over_orders_is_never_worse_than_a_policy() -> None:
    """Tests in real time that no policy is better, that the search finds more, and the same without a time limit."""
    instance = drawn(4, 12, "mixed")
    best = min(mk.simulate(instance, name).metrics["total_latency_ms"] for name in fitting_policies(instance))
    found = mk.solve(instance, time_limit=2)
    assert found.objective.value <= best
    assert mk.verify_result(found, instance).holds
    values: list[float] = []
    search_orders(instance, lambda s: values.append(value_of(instance, s)) or values[-1], deadline=Deadline(), seed=1)
    assert len(values) == 6 + 200
    assert min(values) < min(values[:6])


def value_of(instance: mk.Instance, schedule: Schedule) -> float:
    """The total latency of a schedule, which is valid."""
    verdict = judge(instance, schedule)
    assert verdict.valid
    return float(verdict.metrics["total_latency_ms"])


@pytest.mark.parametrize("clock", [*LAWS, pytest.param("slow", marks=pytest.mark.slow)])
def test_no_bound_is_above_the_optimum(clock: str) -> None:
    """Tests every kind of certificate against all schedules of a server token by token."""
    for seed in range(7) if clock == "slow" else range(2):
        for law in LAWS if clock == "slow" else (clock,):
            instance = drawn(seed, 3, law, output=3, room=4)
            instance = finding(instance, seed) if seed % 2 else instance
            least = optima(instance)
            for objective in ("latency",) if law == "unit" else ("latency", "makespan", "ttft"):
                bound = mk.bound(instance, objective=objective, time_limit=0.15)
                assert bound.value <= least[objective] * (1 + 1e-12), (seed, law, objective, bound.certificate.kind)
                assert all(value <= least[objective] * (1 + 1e-12) for _, value in bound.others)
                assert bound.result.objective.value >= least[objective] * (1 - 1e-12)
                assert mk.verify_certificate(bound.certificate, instance).holds
                assert mk.verify_result(bound.result, instance).holds


def test_a_bound_without_sharing_is_no_bound() -> None:
    """Tests that certificates of the same requests without a cache are refused, and so are their numbers."""
    rows = [
        {"id": f"r{i}", "prompt_tokens": 8, "output_tokens": 2, "prefix": {"group": "g", "tokens": 7}} for i in "ab"
    ]
    shared = read(rows, kv_capacity_tokens=13, prefix_cache={})
    alone = read(rows, kv_capacity_tokens=13)
    assert mk.simulate(shared, "svf").metrics["total_latency_rounds"] == 4
    high = mk.bound(alone, time_limit=1).certificate
    assert high.value > 4
    assert not mk.verify_certificate(high, shared).holds
    forged = high.model_copy(update={"instance": mk.bound(shared, time_limit=1).certificate.instance})
    assert not mk.verify_certificate(forged, shared).holds


def test_the_least_of_prompts() -> None:
    """Tests what bounds are proven of: the first to arrive of a group keeps its prompt, the others what is theirs."""
    rows = [{**row, "arrival": 1 - i} for i, row in enumerate(PAIR)]
    instance = read([*rows, {"id": "c", "prompt_tokens": 3, "output_tokens": 1}], prefix_cache={})
    assert unshared(instance, once=True).arrays.prompt.tolist() == [1, 6, 3]
    assert unshared(instance, once=False).arrays.prompt.tolist() == [1, 2, 3]
    assert unshared(instance, once=True).server.prefix_cache is None
    assert unshared(read(rows), once=True) == read(rows)


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ({"pause": {"keep": "held"}}, "pause beside a prefix_cache is not supported"),
        (
            {"clock": {"kind": "linear", "prefill_levels": [[9, 1.0]]}},
            "a prefix_cache beside prefill_levels with mixed = false is not supported",
        ),
    ],
)
def test_what_is_not_supported_beside_a_prefix_cache(server: dict[str, Any], words: str) -> None:
    """Tests that combinations are refused where the instance is made."""
    with pytest.raises(InputError, match=words):
        read(PAIR, prefix_cache={}, **server)


def test_formulations_of_other_problems_refuse_shared_prefixes() -> None:
    """Tests that nothing claims an optimum that does not know the cache."""
    for clock, names in (
        ("unit", ["kv-hindsight", "kv-hindsight-flow"]),
        ("mixed", ["serving-latency", "serving-ttft"]),
    ):
        instance = drawn(0, 3, clock)
        for name in names:
            assert "does not support shared prefixes" in str(load_formulation(name).refusal(instance))
    assert SERVING.refusal(drawn(0, 3, "exclusive")) is not None


def test_groups_are_chains_of_the_tree_of_blocks() -> None:
    """Tests that hashes give nested prefixes: conversations, one system prompt, and requests that share nothing."""
    chains = [[1, 2], [1, 2, 3], [1, 2, 3, 4], [1, 8], [1, 9], [7], [5, 6, 10], [5, 6]]
    prompts = [18, 30, 36, 20, 20, 9, 25, 20]
    found = prefix_groups(chains, prompts, 10)
    assert [None if p is None else (p.group, p.tokens) for p in found] == [
        ("g1", 18), ("g1", 30), ("g1", 30), ("g1", 10), ("g1", 10), None, ("g2", 20), ("g2", 20),
    ]  # fmt: skip
    rng = np.random.default_rng(1)
    for _ in range(20):  # what a group says is shared is shared
        chains = [[10 * d + int(rng.integers(0, 2)) for d in range(int(rng.integers(0, 6)))] for _ in range(12)]
        found = prefix_groups(chains, [4 * len(chain) + 3 for chain in chains], 4)
        for i, p in enumerate(found):
            for j, q in enumerate(found):
                if p is not None and q is not None and p.group == q.group:
                    blocks = min(p.tokens, q.tokens) // 4
                    assert chains[i][:blocks] == chains[j][:blocks]


def test_a_trace_with_hashes_is_imported_with_its_prefixes(tmp_path: Path) -> None:
    """Tests the option of the import, what is said, and that files without hashes are refused."""
    path = tmp_path / "trace.jsonl"
    rows = [{"timestamp": 900 * i, "input_length": 600, "output_length": 5, "hash_ids": [1, 2 + i]} for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes: list[str] = []
    kept = mk.import_trace("mooncake", path, prefixes="keep", server="llama2-70b-8xh100", tell=notes.append)
    assert kept.shared_prefixes == SharedPrefixes((0, 0, 0), (512, 512, 512), True)
    assert any("57% in a prefix that an earlier one of its group has, of 1 group" in note for note in notes)
    assert mk.simulate(kept, "lpm").metrics["cached_prompt_tokens"] == 1024
    assert mk.import_trace("mooncake", path).shared_prefixes is None
    path.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "hash_ids"}) + "\n" for row in rows))
    with pytest.raises(InputError, match="--prefixes: no row has hash_ids"):
        mk.import_trace("mooncake", path, prefixes="share")


def test_the_family_shares_prefixes() -> None:
    """Tests groups, lengths and the cache of drawn instances, under both clocks."""
    drawn = mk.generate("shared-prefix", seed=1, requests=40, groups=3, system_prompt=20, question=4, answer=6)
    assert drawn == mk.generate("shared-prefix", seed=1, requests=40, groups=3, system_prompt=20, question=4, answer=6)
    assert drawn.shared_prefixes is not None
    assert not drawn.shared_prefixes.keep
    lengths = {(r.prefix.group, r.prefix.tokens) for r in drawn.requests if r.prefix}
    assert len(lengths) == 3
    assert all(10 <= tokens <= 30 for _, tokens in lengths)
    assert mk.simulate(drawn, "svf").metrics["prefix_hit_share"] > 0.5
    timed = mk.generate("shared-prefix", server="llama2-70b-2xa100", requests=20, rate=5.0, keep=True)
    assert timed.shared_prefixes is not None
    assert timed.shared_prefixes.keep
    tight = mk.generate("shared-prefix", requests=20, kv_capacity=3, system_prompt=9)
    tight.check_fits()


def test_what_is_shared_is_shown(tmp_path: Path) -> None:
    """Tests the line of the command and the column of the report."""
    result = mk.simulate(read(PAIR, kv_capacity_tokens=12, prefix_cache={}), "svf")
    assert "33.3% of prompts found, up to 4 tokens saved" in " ".join("\n".join(summary(result)).split())
    instance = read(PAIR, kv_capacity_tokens=12, prefix_cache={})
    page = tmp_path / "page.html"
    mk.report([result, mk.simulate(instance, "lpm")], page, instances=[instance])
    assert "Prompt tokens from the cache" in page.read_text()
