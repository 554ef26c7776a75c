"""Chunks of prompts that a schedule says, under both clocks, and a formulation of them as an author writes it."""

from __future__ import annotations

from pathlib import Path

import pytest

import modelkit as mk
from modelkit.authoring.check.brute_force import best_schedule, can_enumerate
from modelkit.errors import InputError
from modelkit.judge import judge

MIXED = {
    "kind": "linear", "mixed": True, "prefill_base_ms": 3.0, "prefill_per_token_ms": 1.0, "decode_base_ms": 7.0,
    "decode_per_kv_token_ms": 0.1,
}  # fmt: skip


def two(clock: dict[str, object]) -> mk.Instance:
    """A request that decodes while the long prompt of another is read."""
    requests = {"id": ["a", "b"], "prompt_tokens": [2, 7], "output_tokens": [4, 2]}
    return mk.Instance(server={"kv_capacity_tokens": 20, "clock": clock}, requests=requests)


SPLIT = mk.Schedule((mk.Segment(0, ["a", "b"], rounds=5, chunks={"a": 2, "b": 3}), mk.Segment(5, rounds=0)))


def test_chunks_by_hand() -> None:
    """Three rounds read 3, 3 and 1 tokens of b beside a: its first token comes in the third, its last in the fourth."""
    unit = judge(two({"kind": "unit"}), SPLIT)
    assert unit.violations == ()
    assert [(i.rounds, i.decoding, i.prompt_tokens) for i in unit.intervals] == [
        (1, 0, 5),
        (1, 1, 3),
        (1, 1, 1),
        (1, 2, 0),
    ]
    a, b = unit.residencies
    assert (a.first_token, a.end, b.first_token, b.end) == (1, 4, 3, 4)
    assert unit.metrics["peak_kv_tokens"] == 6 + 9
    real = judge(two(MIXED), SPLIT)
    # prompts 5; 3 and a over 4; 1 and a over 5; a over 6 and b over 9
    lasting = [8.0, 6.0 + 7.4, 4.0 + 7.5, 7.0 + 1.5]
    assert real.violations == ()
    assert [i.end - i.begin for i in real.intervals] == pytest.approx(lasting)
    assert real.residencies[1].first_token == pytest.approx(sum(lasting[:3]))


def test_chunks_agree_with_a_limit_on_iterations() -> None:
    """Said chunk by chunk, what a limit on iterations makes of prompts comes to the same times."""
    instance = two(MIXED)
    limited = judge(instance, mk.Schedule((mk.Segment(0, ["a", "b"], rounds=6),), tokens_per_iteration=4))
    said = judge(
        instance,
        mk.Schedule(
            (
                mk.Segment(0, ["a", "b"], rounds=1, chunks=[("a", 2), ("b", 2)]),
                mk.Segment(0.007, rounds=5, chunks=[("b", 3)]),
            )
        ),
    )
    assert limited.violations == said.violations == ()
    for one, other in zip(said.residencies, limited.residencies, strict=True):
        assert one[3:5] == pytest.approx(other[3:5])
    assert said.metrics["total_ttft_ms"] == pytest.approx(limited.metrics["total_ttft_ms"])


def test_prompts_that_no_chunk_names_wait() -> None:
    """A round that processes nothing of a prompt is lost for its request, which holds its memory meanwhile."""
    verdict = judge(
        two({"kind": "unit"}),
        mk.Schedule((mk.Segment(0, ["a", "b"], rounds=2, chunks={"a": 2}), mk.Segment(2, rounds=3))),
    )
    assert verdict.violations == ()
    assert [r.first_token for r in verdict.residencies] == [1, 3]
    assert verdict.intervals[0].first_tokens == 3 + 7


def test_chunks_are_written_and_read(tmp_path: Path) -> None:
    """A result keeps the chunks of its schedule; what is none is refused where the segment is made."""
    instance = two({"kind": "unit"})
    result = mk.simulate(instance, "svf").model_copy(update={"schedule": SPLIT})
    mk.save_result(result, tmp_path / "r.json")
    assert mk.load_result(tmp_path / "r.json").schedule == SPLIT
    for chunks in ([("a", 0)], ["a"], {"a": 1.5}):
        with pytest.raises(InputError, match=r"chunks: found .*; allowed: \[a request's id, prompt tokens from 1\]"):
            mk.Segment(0, chunks=chunks)


CHUNKED = '''
"""Starts in rounds that process few tokens: a prompt is read in chunks.

Sets
----
REQUESTS, ROUNDS
    Requests i and rounds t.
PAIRS
    Pairs (i, t) with t > a_i.

Parameters
----------
prompt[i], output[i], arrival[i]
    s_i, o_i, a_i.
capacity
    M.
tokens_per_round
    Tokens that a round processes at most, C.

Variables
---------
read[i, t], makes[i, t]
    Prompt tokens of i that round t reads; 1 if it makes a token of i.
there[i, t], ready[i, t], done[i, t]
    1 if some of i is read by round t; if all of it is; if all its tokens are made.

Objective
---------
total_latency
    min sum_{i,t} (1 - done[i,t]) + 1 for each request

Constraints
-----------
Left to the reader.

Claim
-----
Exact.

Reference
---------
Agrawal et al., Sarathi-Serve, OSDI 2024.
"""
import pyomo.environ as pyo
from modelkit import Admission, Formulation, Parameter, Schedule, Segment, chosen


def build(m):
    m.REQUESTS = pyo.Set(doc="requests")
    m.last = pyo.Param(within=pyo.PositiveIntegers, doc="last round [round]")
    m.ROUNDS = pyo.RangeSet(m.last, doc="rounds")
    m.prompt = pyo.Param(m.REQUESTS, doc="prompt [token]")
    m.output = pyo.Param(m.REQUESTS, doc="output [token]")
    m.arrival = pyo.Param(m.REQUESTS, doc="arrival [round]")
    m.capacity = pyo.Param(doc="M [token]")
    m.tokens_per_round = pyo.Param(doc="C [token]")
    m.read = pyo.Var(m.REQUESTS, m.ROUNDS, domain=pyo.NonNegativeIntegers, doc="prompt tokens read")
    for name in ("there", "ready", "done"):
        setattr(m, name, pyo.Var(m.REQUESTS, m.ROUNDS, domain=pyo.Binary, doc=name))

    def by(var, i, t):
        return var[i, t] if t > 0 else 0

    def sums(m, i, t):
        return sum(m.read[i, k] for k in range(1, t + 1))

    m.total_latency = pyo.Objective(rule=lambda m: sum(
        m.last - sum(m.done[i, t] for t in m.ROUNDS) + 1 - m.arrival[i] for i in m.REQUESTS), doc="latency [round]")
    every = (m.REQUESTS, m.ROUNDS)
    m.early = pyo.Constraint(*every, rule=lambda m, i, t: m.there[i, t] <= int(t > m.arrival[i]), doc="not early")
    m.reads = pyo.Constraint(*every, rule=lambda m, i, t: sums(m, i, t) <= m.prompt[i] * m.there[i, t], doc="there")
    m.all_read = pyo.Constraint(*every, rule=lambda m, i, t: sums(m, i, t) >= m.prompt[i] * m.ready[i, t], doc="read")
    m.in_time = pyo.Constraint(*every, rule=lambda m, i, t: m.ready[i, t] >= by(m.ready, i, t - 1), doc="stays")
    m.makes = pyo.Constraint(*every, rule=lambda m, i, t:
        m.done[i, t] == (m.ready[i, t - m.output[i] + 1] if t >= m.output[i] else 0), doc="o rounds after")
    m.ends = pyo.Constraint(m.REQUESTS, rule=lambda m, i: m.done[i, m.last] == 1, doc="all done")
    # decoding in t: ready before t and not done before t; the round that reads the last of a prompt makes a token, too
    m.few = pyo.Constraint(m.ROUNDS, rule=lambda m, t: sum(
        m.read[i, t] + by(m.ready, i, t - 1) - by(m.done, i, t - 1) for i in m.REQUESTS) <= m.tokens_per_round, doc="C")
    m.fits = pyo.Constraint(m.ROUNDS, rule=lambda m, t: sum(
        m.prompt[i] * m.there[i, t] + sum(m.ready[i, k] for k in range(max(1, t - m.output[i] + 1), t + 1))
        - (m.prompt[i] + m.output[i]) * by(m.done, i, t - 1) for i in m.REQUESTS) <= m.capacity, doc="M")


def data(instance):
    rows = instance.requests
    limit = instance.extra["tokens_per_round"]
    last = int(max(r.arrival for r in rows)) + sum(-(-r.prompt_tokens // limit) + r.output_tokens for r in rows)
    return {"REQUESTS": [r.id for r in rows], "last": last, "prompt": {r.id: r.prompt_tokens for r in rows},
            "output": {r.id: r.output_tokens for r in rows}, "arrival": {r.id: int(r.arrival) for r in rows},
            "capacity": instance.server.kv_capacity_tokens or 10**6, "tokens_per_round": limit}


def extract(m, instance):
    segments, begun = [], set()
    for t in m.ROUNDS:
        parts = {i: round(m.read[i, t].value) for i in m.REQUESTS if m.read[i, t].value > 0.5}
        new = [i for i in parts if i not in begun]
        begun.update(new)
        segments.append(Segment(t - 1, tuple(Admission(i) for i in new), rounds=1, chunks=parts))
    return Schedule(tuple(segments))


def admissible(instance, verdict):
    limit = instance.extra["tokens_per_round"]
    return [f"round {i.begin:g} processes {i.decoding + i.prompt_tokens} tokens, the limit is {limit}"
            for i in verdict.intervals if i.decoding + i.prompt_tokens > limit]


FORMULATION = Formulation(
    name="chunked", summary="chunks", claim="exact", objective="total_latency", reference="Sarathi-Serve",
    needs=lambda instance: None if instance.is_unit else "needs the unit clock", build=build, data=data,
    extract=extract, admissible=admissible,
    parameters=(Parameter(name="tokens_per_round", doc="tokens of a round [token]", least=1, examples=(4,)),),
)
'''


def test_an_author_says_chunks(tmp_path: Path) -> None:
    """A formulation whose schedule says chunks is solved, judged, held to its own limit, and verified."""
    file = tmp_path / "chunked.py"
    file.write_text(CHUNKED.strip() + "\n")
    instance = two({"kind": "unit"}).replace(extra={"tokens_per_round": 4})
    result = mk.solve(instance, str(file), time_limit=20)
    assert result.status == "optimal", result.message
    # a is read with half of b, and makes tokens beside the rest of it: a ends after round 4, b too
    assert result.objective.value == 8
    verdict = judge(instance, result.schedule)
    assert verdict.valid
    assert max(i.decoding + i.prompt_tokens for i in verdict.intervals) <= 4
    whole = mk.simulate(instance, "svf")
    assert whole.objective.value < result.objective.value  # it reads 9 tokens in one round
    assert mk.verify_result(result, instance, formulation=str(file)).holds


def test_a_round_may_read_nothing() -> None:
    """A segment that names no chunk reads nothing, and says so in its file; one without chunks reads prompts whole."""
    began = mk.Segment(0, ["a", "b"], rounds=1, chunks={"a": 2, "b": 3})
    rest = (mk.Segment(2, rounds=1, chunks={"b": 4}), mk.Segment(3, rounds=2))
    waits = mk.Schedule((began, mk.Segment(1, rounds=1, chunks=()), *rest))
    verdict = judge(two({"kind": "unit"}), waits)
    assert verdict.violations == ()
    assert [i.prompt_tokens for i in verdict.intervals] == [5, 0, 4, 0]
    assert verdict.residencies[1].first_token == 3
    assert waits.document()["segments"][1]["chunks"] == []  # type: ignore[index]
    whole = judge(two({"kind": "unit"}), mk.Schedule((began, mk.Segment(1, rounds=4))))
    assert [i.prompt_tokens for i in whole.intervals] == [5, 4, 0, 0]


def test_brute_force_tries_all_chunks() -> None:
    """Held to three tokens a round, the best way to read is found among all; with many requests nothing is searched."""
    instance = mk.Instance(
        server={"kv_capacity_tokens": 12},
        requests={"id": ["a", "b"], "prompt_tokens": [2, 3], "output_tokens": [3, 1]},
    )
    limited = mk.Formulation(
        name="limited", summary="-", claim="exact", reference="-", objective="total_latency",
        admissible=lambda instance, verdict: [
            "too many" for i in verdict.intervals if i.decoding + i.prompt_tokens > 3
        ],
    )  # fmt: skip
    assert can_enumerate(instance, chunked=True)
    best = best_schedule(limited, instance, chunked=True)
    # b first is 1 + 4; a with 1 token of b, whose other 2 stand beside a decoding: 3 + 2
    assert best is not None
    assert best.value == 5
    assert best_schedule(limited, instance) == best_schedule(limited, instance, last=9)
    assert not can_enumerate(instance.replace(requests=drawn_requests(8)), chunked=True)
    assert not can_enumerate(two(MIXED), chunked=True)


def drawn_requests(n: int) -> tuple[mk.Request, ...]:
    """So many requests alike."""
    return tuple(mk.Request(id=f"q{i}", prompt_tokens=3, output_tokens=3) for i in range(n))
