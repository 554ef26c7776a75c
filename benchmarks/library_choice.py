"""Chooses the instances of the library, and writes them: for spread, from candidates drawn for each family and size.

    python benchmarks/library_choice.py [--traces FOLDER]

Each row of `POOLS` is a family of the library at one size: candidates are drawn with options from ranges, those where
nothing is scarce are left out, and of the rest the farthest from all that are chosen already is chosen, again and
again. The distance is that of load, pressure, variation of output lengths and burstiness (`modelkit.sources.library`),
on scales of logarithms. What an entry knows already is kept; the instances of `FIXED` and of public traces are in any
case. Traces are read from FOLDER; an entry keeps their hash and where they can be had, never their rows.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import modelkit as mk
from modelkit.io import save_instance
from modelkit.judge.load import load
from modelkit.judge.prefixes import unshared
from modelkit.problems.problem import problem_of
from modelkit.sources.library.entries import (
    Entry,
    Features,
    Recipe,
    TraceFile,
    library_entries,
    library_folder,
    write_entries,
)
from modelkit.sources.library.instances import make

CANDIDATES = 16
#: What an entry keeps when the choice is made again.
KNOWN = ("status", "lower_bound", "upper_bound", "lb_data", "ub_data", "policies")
#: Stored files are at most this long [byte]; longer ones are made by their recipe.
LONGEST = 60_000


class Pool(NamedTuple):
    """Candidates of one size: a generator with fixed options, and ranges or choices of others."""

    family: str
    take: int
    generator: str
    fixed: dict[str, Any]
    drawn: dict[str, Any] | None = None
    server: str | None = None


#: Arrival model, requests and seed of hard instances of the KV-cache problem that have been worked on for long.
HARD = (
    ("all-at-once", 12, 2), ("all-at-once", 16, 0), ("all-at-once", 16, 1), ("all-at-once", 16, 2),
    ("all-at-once", 20, 0), ("all-at-once", 20, 1), ("all-at-once", 20, 2), ("all-at-once", 30, 0),
    ("all-at-once", 50, 0), ("poisson", 12, 0), ("poisson", 20, 0), ("poisson", 30, 0), ("poisson", 50, 0),
)  # fmt: skip
FIXED = (
    *(
        Pool("small-memory", 1, "kv-synthetic", {"requests": n, "arrivals": arrivals, "seed": seed})
        for arrivals, n, seed in HARD
    ),
    Pool("slots", 1, "gsm8k", {"requests": 1319, "slots": 200, "seed": 0}),
)

_A100, _H100 = "llama2-70b-2xa100", "llama2-70b-8xh100"
_BURSTS = [1.0, 2.0, 4.0]
#: Load of the server, from which the rate of arrivals follows.
LOADS = (0.6, 2.5)
POOLS = (
    Pool("small-memory", 1, "chat", {"requests": 40}, {"load": LOADS, "kv_capacity": (300, 900)}),
    Pool("small-memory", 1, "chat", {"requests": 80}, {"load": LOADS, "kv_capacity": (400, 1200)}),
    Pool(
        "trace-scale", 2, "chat", {"requests": 400}, {"load": LOADS, "kv_capacity": (1500, 6000), "burstiness": _BURSTS}
    ),
    Pool(
        "trace-scale",
        2,
        "chat",
        {"requests": 1500},
        {"load": LOADS, "kv_capacity": (4000, 16492), "burstiness": _BURSTS},
    ),
    Pool("trace-scale", 2, "service-hour", {"requests": 1000}, {"load": LOADS, "kv_capacity": (20000, 80000)}),
    Pool("trace-scale", 2, "service-hour", {"requests": 5000}, {"load": LOADS, "kv_capacity": (40000, 100000)}),
    Pool("slots", 1, "slot-synthetic", {"requests": 8, "slots": 3, "levels": False}),
    Pool("slots", 1, "slot-synthetic", {"requests": 8, "slots": 3, "levels": True}),
    Pool("slots", 1, "gsm8k", {"requests": 40}, {"slots": [6, 8, 10], "output_law": ["gamma", "lognormal"]}),
    Pool(
        "slots",
        2,
        "gsm8k",
        {"requests": 200},
        {"slots": [16, 32, 64], "output_law": ["gamma", "lognormal"], "prediction_error": [0.0, 0.2]},
    ),
    Pool(
        "slots",
        1,
        "gsm8k",
        {"requests": 1319},
        {"slots": [100, 300], "output_law": ["gamma", "lognormal"], "prediction_error": [0.0, 0.2]},
    ),
    Pool(
        "real-time",
        2,
        "chat",
        {"requests": 60, "server": _A100},
        {"load": LOADS, "kv_capacity": (600, 2500), "burstiness": _BURSTS},
    ),
    Pool(
        "real-time",
        2,
        "chat",
        {"requests": 300, "server": _A100},
        {"load": LOADS, "kv_capacity": (3000, 16492), "burstiness": _BURSTS},
    ),
    Pool("real-time", 1, "service-hour", {"requests": 300, "server": _A100}, {"load": LOADS}),
    Pool(
        "real-time",
        2,
        "service-hour",
        {"requests": 400, "server": _H100},
        {"load": LOADS, "kv_capacity": (10000, 60000)},
    ),
    Pool(
        "real-time",
        2,
        "chat",
        {"requests": 1000, "server": _H100},
        {"load": LOADS, "kv_capacity": (6000, 30000), "burstiness": _BURSTS},
    ),
    Pool(
        "real-time",
        2,
        "chat",
        {"requests": 300, "server": _A100},
        {"load": LOADS, "kv_capacity": (4000, 16000), "burstiness": _BURSTS},
        "llama3.1-8b",
    ),
    Pool(
        "real-time",
        1,
        "service-hour",
        {"requests": 300, "server": _A100},
        {"load": LOADS, "kv_capacity": (20000, 80000)},
        "qwen3-30b-a3b",
    ),
    Pool("replicas", 1, "kv-synthetic", {"requests": 16, "replicas": 2}, {"arrivals": ["all-at-once", "poisson"]}),
    Pool("replicas", 1, "kv-synthetic", {"requests": 40, "replicas": 2}, {"arrivals": ["all-at-once", "poisson"]}),
    Pool(
        "replicas",
        2,
        "chat",
        {"requests": 400},
        {"load": LOADS, "kv_capacity": (1000, 3000), "burstiness": _BURSTS, "replicas": [2, 4]},
    ),
    Pool(
        "replicas",
        1,
        "chat",
        {"requests": 200, "server": _A100, "replicas": 2},
        {"load": LOADS, "kv_capacity": (2000, 8000), "burstiness": _BURSTS},
    ),
    Pool(
        "replicas",
        1,
        "service-hour",
        {"requests": 400, "server": _H100, "replicas": 4},
        {"load": LOADS, "kv_capacity": (10000, 60000)},
    ),
    Pool(
        "prefixes",
        2,
        "shared-prefix",
        {"requests": 60},
        {"groups": [4, 8], "load": LOADS, "kv_capacity": (1500, 3000), "keep": [False, True]},
    ),
    Pool(
        "prefixes",
        2,
        "shared-prefix",
        {"requests": 256},
        {"groups": [8, 16, 32], "load": LOADS, "kv_capacity": (4000, 12000), "keep": [False, True]},
    ),
    Pool(
        "prefixes",
        1,
        "shared-prefix",
        {"requests": 120, "server": _A100},
        {"groups": [4, 8], "load": LOADS, "kv_capacity": (3000, 9000), "keep": [False, True]},
    ),
    Pool(
        "prefixes",
        1,
        "shared-prefix",
        {"requests": 256, "server": _H100},
        {"groups": [8, 16], "load": LOADS, "kv_capacity": (6000, 16492), "keep": [False, True]},
    ),
    Pool("pauses", 1, "kv-synthetic", {"requests": 20, "arrivals": "poisson", "pause": "held"}),
    Pool("pauses", 1, "kv-synthetic", {"requests": 20, "arrivals": "poisson", "pause": "swapped"}),
    Pool(
        "pauses",
        1,
        "chat",
        {"requests": 150, "pause": "held"},
        {"load": LOADS, "kv_capacity": (800, 3000), "burstiness": _BURSTS},
    ),
    Pool(
        "pauses",
        1,
        "chat",
        {"requests": 150, "pause": "swapped"},
        {"load": LOADS, "kv_capacity": (800, 3000), "burstiness": _BURSTS},
    ),
    Pool(
        "pauses",
        1,
        "chat",
        {"requests": 150, "server": _A100, "pause": "swapped"},
        {"load": LOADS, "kv_capacity": (2000, 8000), "burstiness": _BURSTS},
    ),
)

#: Cost models fitted to logs of vLLM 0.19.0 on one RTX PRO 6000 (casys-kaist/LLMServingSim, MIT), by `modelkit judge`.
FITTED: dict[str, dict[str, Any]] = {
    name: {
        "clock": {
            "kind": "linear",
            "mixed": True,
            **dict(
                zip(
                    (
                        "prefill_base_ms",
                        "prefill_per_token_ms",
                        "decode_base_ms",
                        "decode_per_request_ms",
                        "decode_per_kv_token_ms",
                    ),
                    costs,
                    strict=True,
                )
            ),
        }
    }
    for name, costs in {
        "llama3.1-8b": (23.897, 0.010189, 15.416, 0.066944, 3.5155e-05),
        "qwen3-30b-a3b": (21.82, 0.010519, 25.217, 0.048962, 2.569e-05),
    }.items()
}

_AZURE = "https://raw.githubusercontent.com/Azure/AzurePublicDataset/b469a113cedca53ddc3bdea71a143dc4b7d8700c/data/"
_MOONCAKE = "https://raw.githubusercontent.com/kvcache-ai/Mooncake/3b5a594133958449a1feaf1c9e0fc1b553e34a28/FAST25-release/traces/"


class Trace(NamedTuple):
    """A public trace: where it lies in the folder of traces, where it can be had, and what is taken of it."""

    name: str
    family: str
    local: str
    url: str
    licence: str
    format: str
    options: dict[str, Any]


TRACES = (
    Trace(
        "azure-2023-conv-n2000-m60000",
        "trace-scale",
        "azure_llm_2023_conv.csv",
        _AZURE + "AzureLLMInferenceTrace_conv.csv",
        "CC-BY-4.0",
        "azure",
        {"requests": 2000, "kv_capacity": 60_000},
    ),
    Trace(
        "azure-2023-code-n2000-m30000",
        "trace-scale",
        "azure_llm_2023_code.csv",
        _AZURE + "AzureLLMInferenceTrace_code.csv",
        "CC-BY-4.0",
        "azure",
        {"requests": 2000, "kv_capacity": 30_000},
    ),
    Trace(
        "azure-2023-conv-n400-8xh100",
        "real-time",
        "azure_llm_2023_conv.csv",
        _AZURE + "AzureLLMInferenceTrace_conv.csv",
        "CC-BY-4.0",
        "azure",
        {"requests": 400, "server": _H100, "kv_capacity": 100_000, "rate": 12.0},
    ),
    Trace(
        "mooncake-conversation-n200-8xh100",
        "real-time",
        "mooncake_conversation_trace.jsonl",
        _MOONCAKE + "conversation_trace.jsonl",
        "Apache-2.0",
        "mooncake",
        {"requests": 200, "server": _H100, "kv_capacity": 400_000},
    ),
)


def features(instance: mk.Instance) -> Features:
    """What an instance is chosen by."""
    arrays, server = unshared(instance, once=True).arrays, instance.server
    arrival = arrays.arrival.astype(float)
    gaps = np.diff(np.sort(arrival))
    held, output = arrays.prompt + arrays.output, arrays.output
    lasts = output.astype(float)
    if isinstance(server.clock, mk.LinearClock):
        clock = server.clock
        decode = clock.decode_base_ms + clock.base_ms + clock.decode_per_request_ms
        prefill = 0 if clock.prefill_levels else clock.prefill_base_ms + clock.prefill_per_token_ms * arrays.prompt
        lasts = (prefill + decode * output) / 1000
    end = arrival + lasts
    there = [(arrival <= at) & (at <= end) for at in end]
    if server.slots is not None:
        pressure = max(float(now.sum()) for now in there) / server.slots
    else:
        grown = [
            held[now] - output[now] + output[now] * (at - arrival[now]) / lasts[now]
            for at, now in zip(end, there, strict=True)
        ]
        pressure = max(float(tokens.sum()) for tokens in grown) / (server.kv_capacity_tokens or math.inf)
    spread = gaps.mean() > 0 if len(gaps) else False
    share = load(instance)
    return Features(
        load=None if share is None else round(share, 4),
        pressure=round(pressure / server.replicas, 4),
        output_variation=round(float(output.std() / output.mean()), 4),
        burstiness=round(float(gaps.std() / gaps.mean()), 4) if spread else None,
    )


def _place(found: Features) -> np.ndarray:
    """An instance as a point."""
    return np.log([found.load or 4.0, found.pressure, found.output_variation + 0.05, (found.burstiness or 0.0) + 0.5])


def _rounded(value: float) -> float:
    """To two digits."""
    return round(value, 1 - math.floor(math.log10(value)))


def _fitted(pool: Pool, options: dict[str, Any]) -> dict[str, Any] | None:
    """The fitted server of a pool, with the memory that was drawn."""
    return None if pool.server is None else {**FITTED[pool.server], "kv_capacity_tokens": options["kv_capacity"]}


def _recipe(pool: Pool, rng: np.random.Generator) -> Recipe:
    options = dict(pool.fixed)
    for name, values in (pool.drawn or {}).items():
        if isinstance(values, list):
            options[name] = values[int(rng.integers(len(values)))]
        else:
            low, high = values
            drawn = math.exp(rng.uniform(math.log(low), math.log(high)))
            options[name] = _rounded(drawn) if name == "load" else int(_rounded(drawn))
    options.setdefault("seed", int(rng.integers(1000)))
    if (wanted := options.pop("load", None)) is not None:
        alone = load(
            make(Recipe(family=pool.generator, options={**options, "rate": 1.0}, server=_fitted(pool, options)))
        )
        options["rate"] = _rounded(wanted / (alone or 1.0))
    if pool.server is None:
        return Recipe(family=pool.generator, options=options)
    words = ", ".join(f"{key} {value}" for key, value in options.items() if key not in ("server", "kv_capacity"))
    fitted = f"cost model of {pool.server} fitted to a log of vLLM on one RTX PRO 6000"
    return Recipe(
        family=pool.generator,
        options=options,
        server=_fitted(pool, options),
        description=f"{pool.generator} ({words}); {fitted}",
    )


def _named(recipe: Recipe, server: str | None) -> str | None:
    """What an instance on a fitted server is called; None where its family says it."""
    return None if server is None else make(recipe).name.replace(recipe.options["server"], server)


def _entry(name: str, family: str, instance: mk.Instance, recipe: Recipe) -> Entry:
    """An entry of which nothing is known yet, or what is known of the same instance."""
    old = library_entries().get(name) if (library_folder() / "library.json").exists() else None
    known = {} if old is None or old.sha256 != instance.sha256 else {key: getattr(old, key) for key in KNOWN}
    return Entry(
        instance=name, description=instance.description, sha256=instance.sha256, size=len(instance.requests),
        family=family, objective=problem_of(instance).objective, features=features(instance), recipe=recipe,
        **known,
    )  # fmt: skip


def chosen(pool: Pool, others: list[np.ndarray], seed: int) -> list[tuple[mk.Instance, Recipe]]:
    """So many of a pool's candidates, each the farthest from those before it."""
    rng = np.random.default_rng(seed)
    candidates = []
    for _ in range(CANDIDATES):
        recipe = _recipe(pool, rng)
        instance = make(recipe, _named(recipe, pool.server))
        found = features(instance)
        if found.pressure >= 0.7:
            candidates.append((_place(found), instance, recipe))
    taken = []
    for _ in range(pool.take):
        if not candidates:
            raise SystemExit(f"{pool}: too few candidates where anything is scarce")
        distances = [min((float(np.linalg.norm(c[0] - o)) for o in others), default=1.0) for c in candidates]
        point, instance, recipe = candidates.pop(int(np.argmax(distances)))
        others.append(point)
        taken.append((instance, recipe))
    return taken


def _stored(instance: mk.Instance, folder: Path) -> str | None:
    """Write an instance where it is short enough; its path within the folder."""
    for ending in (".json", ".json.gz"):
        path = folder / f"{instance.name}{ending}"
        save_instance(instance, str(path))
        if path.stat().st_size <= (LONGEST if ending == ".json.gz" else 4000):
            return path.name
        path.unlink()
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="folder of the public traces")
    arguments = parser.parse_args()
    folder = library_folder()
    folder.mkdir(exist_ok=True)
    points: dict[str, list[Any]] = {}
    entries: dict[str, Entry] = {}
    for seed, pool in enumerate((*FIXED, *POOLS)):
        if pool in FIXED:
            recipe = Recipe(family=pool.generator, options=pool.fixed)
            made = [(make(recipe), recipe)]
            points.setdefault(pool.family, []).append(_place(features(made[0][0])))
        else:
            made = chosen(pool, points.setdefault(pool.family, []), seed)
        for instance, recipe in made:
            entry = _entry(instance.name, pool.family, instance, recipe)
            entries[entry.instance] = entry.model_copy(update={"file": _stored(instance, folder)})
    for trace in TRACES if arguments.traces else ():
        path = arguments.traces / trace.local
        source = TraceFile(
            url=trace.url,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            licence=trace.licence,
            format=trace.format,
        )
        words = f"the first {trace.options['requests']:,} requests of {Path(trace.url).name} that fit"
        options = {**trace.options, "drop_oversized": True}
        recipe = Recipe(trace=source, options=options, description=words)
        instance = make(recipe, trace.name, path)
        entries[trace.name] = _entry(trace.name, trace.family, instance, recipe)
    order = {pool.family: place for place, pool in reversed(list(enumerate((*FIXED, *POOLS))))}
    write_entries(dict(sorted(entries.items(), key=lambda item: (order[item[1].family], item[1].size))), folder)
    for name, entry in library_entries().items():
        print(
            f"{entry.family:<13} {name:<62} {entry.size:>5} {entry.features.load} {entry.features.pressure}"
            f" {entry.features.output_variation} {entry.features.burstiness} {entry.file}"
        )


if __name__ == "__main__":
    main()
