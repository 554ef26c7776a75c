"""Hostile inputs for ``benchmarks/fuzz.py``: mutations of good ones, command lines, and what Hypothesis draws."""

from __future__ import annotations

import contextlib
import copy
import gzip
import json
import random
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import iteration_files  # noqa: E402
import log_files  # noqa: E402

#: How the files of each reader end.
ENDINGS = {
    "instance": ".json", "result": ".json", "certificate": ".json", "claim": ".json", "study": ".toml", "azure": ".csv",
    "lengths": ".csv", "formulation": ".py", "report": ".result.json", "server": ".json", "calibration": ".csv",
    "predictions": ".txt", "recognised": ".json", "vllm-run": ".jsonl", "vllm-bench": ".json", "sglang-bench": ".jsonl",
    "sglang-metrics": ".jsonl", "otel": ".jsonl", "dynamo": ".jsonl", "aiperf": ".jsonl", "guidellm": ".json",
    "inference-perf": ".json", "blis": ".csv", "mooncake": ".jsonl", "bailian": ".jsonl", "burstgpt": ".csv",
    "fpm": ".jsonl", "tensorrt": ".json", "vllm": ".txt", "tensorrt_lines": ".txt",
}  # fmt: skip

INSTANCE: dict[str, Any] = {
    "schema": "modelkit/instance/1",
    "name": "small",
    "server": {"kv_capacity_tokens": 20, "clock": {"kind": "unit"}},
    "requests": [
        {"id": "a", "prompt_tokens": 3, "output_tokens": 4},
        {"id": "b", "arrival": 2, "prompt_tokens": 1, "output_tokens": 2, "predicted_output_tokens": [1, 3]},
    ],
    "extra": {"weights": [1, 2.5]},
}
_SLOTS: dict[str, Any] = {
    "schema": "modelkit/instance/1",
    "server": {"slots": 2, "clock": {"kind": "linear", "decode_base_ms": 74.4, "prefill_levels": [[100, 40.0]]}},
    "requests": {"id": ["a", "b", "c"], "prompt_tokens": [3, 4, 5], "output_tokens": [1, 2, 3], "arrival": [0, 0.5, 1]},
}
_STUDY = """name = "sizes"
description = "a study"
limits = { time_limit = 20, kill_after = 120, memory_mb = 4000 }
[[instances]]
group = "chats"
family = "chat"
seeds = "0..3"
parameters = { requests = [10, 20], rate = 50.0 }
[[policies]]
names = ["mc-sf", "svf"]
groups = ["chats"]
[[formulations]]
names = ["kv-hindsight"]
solvers = ["highs"]
limits = { time_limit = 2.5 }
[[bounds]]
[[claims]]
says = "a claim"
paper = 1.005
of = "mc-sf"
against = "best"
"""
_AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n"
)
_HASHED = (
    b'{"timestamp": 0, "input_length": 40, "output_length": 7, "hash_ids": [1, 2, 3], "session_id": "a"}\n'
    b'{"timestamp": 900, "input_length": 20, "output_length": 5, "hash_ids": [1, 4]}\n'
    b'{"session_id": "a", "delay": 500, "input_length": 60, "output_length": 3, "hash_ids": [1, 2, 3, 5]}\n'
)
_BURSTGPT = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,1,2.5,ChatGPT,472,18,490,Conversation log\n45,,3.5,ChatGPT,1087,230,1317,API log\n"
)
_LENGTHS = "prompt_tokens,output_tokens\n10,20\n30,5\n"
_CALIBRATION = (
    "phase,batch_size,prompt_tokens,kv_tokens_per_request,iteration_ms\n"
    "prefill,1,64,0,29.5\nprefill,1,1024,0,269.5\ndecode,1,0,32,40.53\ndecode,8,0,512,48.1\ndecode,64,0,4000,328\n"
)
_CLOCK = {
    "kind": "linear",
    "mixed": True,
    "base_ms": 2.5,
    "prefill_base_ms": 13.7,
    "prefill_per_token_ms": 0.36,
    "decode_base_ms": 53.4,
}
#: A server's log: twelve requests of which one failed.
_RUN = [
    log_files.Served(f"q{i}", i * 0.5, 100 + i, 20 + 3 * i, i * 0.5 + 0.1, i * 0.5 + 0.5 + 0.06 * i, i == 3)
    for i in range(13)
]
_MODELS = ("exact", "noise:0.2", "interval:0.3", "class:100", "class:64,128,256")
_WORDS = [
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, 5e-324, 10**18, -(10**18), 10**400, 2**63, 2**64, "", "a",
    "\x00", "\ud800",
    "é" * 50, "x" * 5000, "../../etc/passwd", "/dev/zero", "\x1b[2J", "{{7*7}}", "<script>", [], {}, [[]], {"": None},
    [1] * 300, "NaN", "9" * 5000, "1e400", "modelkit/instance/1", "unit", "linear", 1e15, 99999999, 100000001,
]  # fmt: skip


def seeds(name: str) -> list[bytes]:
    """Good inputs of a reader."""
    if name not in _SEEDS:
        _SEEDS[name] = _made(name)
    return _SEEDS[name]


_SEEDS: dict[str, list[bytes]] = {}


def _made(name: str) -> list[bytes]:
    import modelkit as mk

    def dumped(document: Any) -> bytes:
        return json.dumps(document).encode()

    if name in log_files.WRITERS:
        return [log_files.WRITERS[name][0](_RUN).encode()]
    if name in iteration_files.WRITERS:
        return [iteration_files.WRITERS[name](iteration_files.STEPS).encode()]
    if name in ("mooncake", "bailian"):  # Qwen-Bailian's rows all have a time
        return [_HASHED if name == "mooncake" else b"\n".join(_HASHED.splitlines()[:2])]
    if name == "burstgpt":
        return [_BURSTGPT.encode()]
    if name in ("sglang-bench", "recognised"):
        return [log_files.sglang_bench(_RUN).encode()]
    if name == "study":
        return [_STUDY.encode()]
    if name == "azure":
        return [_AZURE.encode()]
    if name == "lengths":
        return [_LENGTHS.encode()]
    if name == "calibration":
        return [_CALIBRATION.encode()]
    if name == "server":
        return [
            dumped(_CLOCK),
            dumped({"kv_capacity_tokens": 20, "slots": 3, "clock": _CLOCK}),
            dumped(_SLOTS["server"]),
        ]
    if name == "predictions":
        return [model.encode() for model in _MODELS]
    if name == "formulation":
        return [(ROOT / "formulations" / "kv_hindsight_lp.py").read_bytes()]
    if name == "instance":
        return [dumped(INSTANCE), dumped(_SLOTS)]
    small = mk.load(INSTANCE)
    bound = mk.bound(small, time_limit=1)
    if name == "certificate":
        return [dumped(bound.certificate.document())]
    results = [mk.simulate(small, "mc-sf"), bound.result, mk.simulate(mk.load(_SLOTS), "sorted")]
    documents = [result.document() for result in results]
    return [dumped(d) for d in documents] + ([seeds("certificate")[0]] if name in ("claim", "report") else [])


# --- mutations -----------------------------------------------------------------------------------------


def mutated(name: str, rng: random.Random) -> bytes:
    """A good input with a few faults: in its tree where it is JSON, in its bytes, in how it is written."""
    data = rng.choice(seeds(name))
    if ENDINGS[name].endswith(".json") and rng.random() < 0.8:
        document = json.loads(data)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            document = _tree(document, rng)
        data = _written(document, rng)
    elif ENDINGS[name] == ".jsonl" and rng.random() < 0.8:
        lines = data.splitlines()
        for _ in range(rng.choice((1, 1, 2, 5))):
            i = rng.randrange(len(lines))
            with contextlib.suppress(ValueError, RecursionError):  # a fault in a fault
                lines[i] = _written(_tree(json.loads(lines[i]), rng), rng)
        data = b"\n".join(lines)
    elif ENDINGS[name] in (".toml", ".csv", ".txt") and rng.random() < 0.7:
        data = _lines(data, rng)
    if rng.random() < 0.35:
        data = _bytes(data, rng)
    if rng.random() < 0.1:
        data = rng.choice(
            (b"\xef\xbb\xbf" + data, data.replace(b"\n", b"\r\n"), _recoded(data, rng), data + b"\x00" * 9)
        )
    if rng.random() < 0.08:
        data = gzip.compress(data)
        data = _bytes(data, rng) if rng.random() < 0.5 else data
    return data


def _word(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(_WORDS))


def _recoded(data: bytes, rng: random.Random) -> bytes:
    return data.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-32-be", "latin-1", "utf-7")), "replace")


def _tree(document: Any, rng: random.Random) -> Any:
    """One change somewhere in the tree."""
    places: list[tuple[Any, Any]] = []
    level = [document]
    while level:
        value = level.pop()
        if isinstance(value, dict):
            places += [(value, key) for key in value]
            level += value.values()
        elif isinstance(value, list):
            places += [(value, i) for i in range(min(len(value), 50))]
            level += value[:50]
    if not places or rng.random() < 0.02:
        return _word(rng)
    holder, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind <= 3:
        holder[key] = _word(rng)
    elif kind == 4:
        del holder[key]
    elif kind == 5 and isinstance(holder, dict):
        holder[rng.choice(("x" * 60, "", key + "s", key.upper(), "\x1b", "a\nb", "schema", "\ud800"))] = holder.pop(key)
    elif kind == 6:
        for _ in range(rng.choice((1, 3, 90, 2000))):
            holder[key] = rng.choice(([holder[key]], {"a": holder[key]}))
    elif isinstance(holder, list):
        holder += [holder[key]] * rng.choice((1, 2, 500))
    elif isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        with contextlib.suppress(OverflowError):
            holder[key] = holder[key] * rng.choice((-1, 0.1, 1e9, 10**30)) + rng.choice((0, 1, 0.5))
    return document


def _written(document: Any, rng: random.Random) -> bytes:
    try:
        text = json.dumps(document, ensure_ascii=rng.random() < 0.7, indent=rng.choice((None, None, 1)))
    except (RecursionError, ValueError):
        return b"[" * 5000 + b"]" * rng.choice((0, 5000))
    if rng.random() < 0.05:  # a key twice
        text = text.replace('"name"', '"name": "twice", "name"', 1)
    return text.encode("utf-8", "surrogatepass")


def _lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.decode().splitlines(keepends=True)
    for _ in range(rng.choice((1, 1, 2, 4))):
        i = rng.randrange(len(lines))
        word = str(_word(rng)) if rng.random() < 0.5 else json.dumps(_word(rng))
        kind = rng.randrange(6)
        if kind == 0:
            lines[i] = lines[i] * rng.choice((2, 300))
        elif kind == 1 and len(lines) > 1:
            del lines[i]
        elif kind == 2:
            head, mark, _ = lines[i].partition(rng.choice(("=", ",")))
            lines[i] = f"{head}{mark}{word}\n"
        elif kind == 3:
            lines[i] = lines[i].replace(rng.choice(("0", "1", '"', ",", "[", "]", "a")), word, 1)
        elif kind == 4:
            lines.insert(i, f"{rng.choice(('', 'x = ', 'a.' * 500 + 'a = ', '[', '[[', ',' * 99))}{word}\n")
        else:
            rng.shuffle(lines)
    return "".join(lines).encode("utf-8", "surrogatepass")


def _bytes(data: bytes, rng: random.Random) -> bytes:
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        i = rng.randrange(len(raw) + 1)
        kind = rng.randrange(6)
        if kind == 0 and i < len(raw):
            raw[i] ^= 1 << rng.randrange(8)
        elif kind == 1:
            raw[i:i] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 4, 40))))
        elif kind == 2:
            del raw[i : i + rng.choice((1, 10, 1000))]
        elif kind == 3:
            raw[i:i] = rng.choice(
                (b"[", b"{", b'"', b"\x00", b"\\u", b"9" * 50, b"[" * 3000, b"\xed\xa0\x80", b"1e999", b"NaN")
            )
        elif kind == 4:
            raw = raw[:i]
        else:
            j = rng.randrange(len(raw) + 1)
            raw[i:i] = raw[j : j + 30]
    return bytes(raw)


# --- command lines -------------------------------------------------------------------------------------

_COMMANDS: dict[str, list[str]] = {
    "solve": ["a.json", "--time-limit", "0.2", "-f", "kv-hindsight", "-s", "highs", "--gap", "--threads", "--seed",
              "--warm-start", "mc-sf", "--option", "mip_rel_gap=1", "-q", "-o", "r.json", "none", "cplex", "a.json.gz"],
    "simulate": ["a.json", "-p", "mc-sf", "svf", "sorted", "--seed", "--slots-at", "0=1", "-q", "-o",
                 "out", "slots.json", "--predictions", *_MODELS],
    "bound": ["a.json", "--time-limit", "0.2", "--gap", "0.1", "--schedule", "s.json", "--seed", "-q", "-o",
              "slots.json"],
    "verify": ["good.result.json", "--instance", "a.json", "-q", "slots.json"],
    "generate": ["chat", "kv-synthetic", "gsm8k", "service-hour", "--requests", "5", "--rate", "--seed",
                 "--kv-capacity", "-o", "g.json", "--arrivals", "poisson", "--slots", "--round-ms", "--server",
                 "clock.json", "llama2-70b-8xh100", "--predictions", *_MODELS],
    "import": ["azure", "lengths", "t.csv", "--requests", "1", "--skip", "--round-ms", "--kv-capacity", "--slots", "-o",
               "i.json", "--prompt-column", "ContextTokens", "--output-column", "GeneratedTokens", "--drop-oversized",
               "--seed", "--server", "clock.json"],
    "report": ["good.result.json", "a.certificate.json", ".", "-i", "a.json", "slots.json", "--title", "-o", "r.html",
               "-q", "a.json"],
    "calibrate": ["timings.csv", "-o", "mine.json", "--where", "phase=decode", "--max-batch", "8", "-q", "t.csv"],
    "show": ["mc-sf", "chat", "nonsense"],
    "list": ["formulations", "policies", "solvers", "families", "formats"],
    "versions": ["--debug"],
    "study": ["run", "status", "export", "report", "list", "study.toml", "--dry-run", "--folder", "f", "--jobs", "1",
              "kv-ratio-small"],
    "completion": ["bash", "zsh", "fish"],
}  # fmt: skip


def command_line(rng: random.Random) -> list[str]:
    """A command with arguments that may or may not make sense."""
    name = rng.choice(list(_COMMANDS))
    known = _COMMANDS[name]
    words = [name, known[0]] if rng.random() < 0.8 else [name]
    for _ in range(rng.choice((0, 1, 2, 3, 5))):
        pick = rng.random()
        if pick < 0.7:
            words.append(rng.choice(known))
        elif pick < 0.9:
            words.append(str(_word(rng)).replace("\x00", ""))
        else:
            words.append(
                rng.choice(("--help", "--nonsense", "-", "--", "-5", "1e999", "inf", "nan", "99999999999999999999"))
            )
    words = [w.encode("utf-8", "surrogateescape" if "\ud800" not in w else "replace").decode() for w in words]
    if words[:2] == ["study", "run"] and "--dry-run" not in words:
        words.append("--dry-run")
    if name == "generate" and "--requests" not in words:
        words += ["--requests", "5"]
    if name in ("solve", "bound"):
        words += ["--time-limit", "0.2"]
    return [w for w in words if w != "-"] if name in ("solve", "simulate", "bound", "verify", "import") else words


def furnish() -> None:
    """The files that the command lines speak of, in the current folder."""
    Path("a.json").write_text(json.dumps(INSTANCE))
    Path("a.json.gz").write_bytes(gzip.compress(json.dumps(INSTANCE).encode()))
    Path("slots.json").write_text(json.dumps(_SLOTS))
    Path("t.csv").write_text(_AZURE)
    Path("study.toml").write_text(_STUDY)
    Path("clock.json").write_text(json.dumps(_CLOCK))
    Path("timings.csv").write_text(_CALIBRATION)
    Path("a.certificate.json").write_bytes(seeds("certificate")[0])
    Path("good.result.json").write_bytes(seeds("result")[0])


# --- Hypothesis ----------------------------------------------------------------------------------------


def drawn(name: str) -> Any:
    """A strategy of inputs: documents with the keys of the format and any values, or text near a good one."""
    from hypothesis import strategies as st

    keys = sorted({key for data in _SEEDS.get(name) or seeds(name) for key in _keys(data)}) or ["name", "instances"]
    scalars = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
        st.sampled_from([w for w in _WORDS if not isinstance(w, list | dict)]), st.sampled_from(keys),
    )  # fmt: skip
    values = st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=5)
            | st.dictionaries(st.sampled_from(keys) | st.text(max_size=5), inner, max_size=6)
        ),
        max_leaves=15,
    )
    if ENDINGS[name] == ".toml":
        return st.lists(st.tuples(st.sampled_from(keys), values), max_size=8).map(
            lambda rows: "\n".join(f"{key} = {json.dumps(value)}" for key, value in rows).encode(
                "utf-8", "surrogatepass"
            )
        )

    def merged(changes: dict[str, Any]) -> bytes:
        return json.dumps({**json.loads(seeds(name)[0]), **changes}).encode("utf-8", "surrogatepass")

    return st.dictionaries(st.sampled_from(keys), values, max_size=6).map(merged)


def _keys(data: bytes) -> set[str]:
    with contextlib.suppress(ValueError):
        document = json.loads(data)
        return set(document) if isinstance(document, dict) else set()
    return {line.split(b"=")[0].strip().decode() for line in data.splitlines() if b"=" in line}
