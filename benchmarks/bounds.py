"""Bounds, schedules and policies at trace scale: the gap against time, and how time grows.

    python benchmarks/bounds.py [--trace azure_llm_2023_conv.csv] [--large] [--seeds 10] [--only PREFIX]
        [--output benchmarks/results/bounds.json]

Rows are added to the output file one by one. Every bound is verified from its certificate alone, every schedule judged.

A gap by prices splits exactly: what the starts cost more than the cheapest ones at these prices, and the price of the
memory that is left unused. `processor_seconds` say how much of the two cores a run had where others share them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from record import stamp

import modelkit as mk
from modelkit.instance import Instance
from modelkit.problems.kv import prices
from modelkit.problems.kv.local_search import starts_of
from modelkit.result import Progress
from modelkit.solving.bound import bound
from modelkit.solving.candidates import first_starts
from modelkit.solving.certified import CertifiedBound
from modelkit.sources.families import generate
from modelkit.sources.traces import import_trace

POLICIES = ("mc-sf", "svf", "mc-benchmark", "sorted-f", "alpha-protection", "alpha-beta-clearing")


def measured(name: str, instance: Instance, seconds: float) -> dict[str, Any]:
    """Bound, best schedule and gap over time, and each policy's distance from the bound."""
    curve: list[tuple[float, float]] = []

    def listen(news: Progress) -> None:
        if news.gap is not None and (not curve or news.seconds - curve[-1][0] > seconds / 12):
            curve.append((round(news.seconds, 1), round(news.gap, 5)))

    load, spent = os.getloadavg()[0], time.process_time()
    found = bound(instance, time_limit=seconds, listen=listen)
    spent = time.process_time() - spent
    began = time.perf_counter()
    verification = mk.verify_certificate(found.certificate, instance)
    verified = time.perf_counter() - began
    row: dict[str, Any] = {
        "name": name,
        "requests": len(instance.requests),
        "time_limit": seconds,
        "seconds": round(found.result.seconds.total or 0.0, 1),
        "bound": found.value,
        "verified": verification.holds,
        "verify_seconds": round(verified, 2),
        "prices_seconds": round(found.certificate.seconds or 0.0, 1),
        "schedule": found.result.objective.value,
        "gap": found.gap,
        "gap_of_unused_memory": unused_memory(instance, found) / (found.result.objective.value or 1.0),
        "processor_seconds": round(spent, 1),
        "gap_by_seconds": curve,
        "load_before": round(load, 1),
        "policies": {},
    }
    for policy in POLICIES if len(instance.requests) <= 20_000 else ():
        began = time.perf_counter()
        online = mk.simulate(instance, policy)
        row["policies"][policy] = {
            "value": online.objective.value,
            "over_bound": round((online.objective.value or 0.0) / found.value, 4),
            "seconds": round(time.perf_counter() - began, 2),
        }
    return row


def unused_memory(instance: Instance, found: CertifiedBound) -> float:
    """Price of the tokens that the schedule leaves free [round]; the rest of value - bound is what its starts cost."""
    prices, capacity = found.certificate.prices, instance.server.kv_capacity_tokens
    if prices is None or capacity is None or found.result.schedule is None:
        return 0.0
    starts, arrays = starts_of(instance, found.result.schedule), instance.arrays
    held = np.zeros(1 + max(int((starts + arrays.output).max()), max(prices.rounds, default=0)), dtype=np.int64)
    for k, s, o in zip(starts.tolist(), arrays.prompt.tolist(), arrays.output.tolist(), strict=True):
        held[k + 1 : k + o + 1] += np.arange(s + 1, s + o + 1)
    return float((np.array(prices.numerators) / prices.denominator) @ (capacity - held[prices.rounds]))


def growth() -> list[dict[str, Any]]:
    """Time for the prices with n at equal load, every stage with the same number of iterations."""
    prices.MOST_ITERATIONS = prices.ITERATIONS
    rows = []
    for n in (1_250, 2_500, 5_000, 10_000, 20_000):
        instance = generate("chat", requests=n, rate=50.0)
        starts = first_starts(instance)
        rounds = int((starts + instance.arrays.output).max())
        began = time.perf_counter()
        prices.ascend(instance, starts)
        spent = time.perf_counter() - began
        rows.append({"requests": n, "rounds": rounds, "seconds": round(spent, 2), "per_n_T": spent / (n * rounds)})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", help="the Azure conversation trace of 2023 (CSV)")
    parser.add_argument("--large", action="store_true", help="100,000 requests too: ten minutes")
    parser.add_argument("--seeds", type=int, default=1, help="draws of the 10,000 chats at 50 a round; default 1")
    parser.add_argument("--only", default="", help="runs whose name begins so")
    parser.add_argument("--output", default="benchmarks/results/bounds.json")
    chosen = parser.parse_args()
    output = Path(chosen.output)
    kept = json.loads(output.read_text()) if output.exists() else {"runs": [], "growth": []}
    kept |= stamp()

    def keep(row: dict[str, Any]) -> None:
        kept["runs"] = [r for r in kept["runs"] if r["name"] != row["name"]] + [row]
        output.write_text(json.dumps(kept, indent=1) + "\n")
        print(f"{row['name']}: bound {row['bound']:,} schedule {row['schedule']:,.0f} gap {row['gap']:.2%}"
              f" in {row['seconds']} s; {row['policies']}", flush=True)  # fmt: skip

    bound(generate("kv-synthetic", seed=1), time_limit=1)  # compiles
    runs: list[tuple[str, Any, float]] = []
    if chosen.trace:
        runs = [
            ("azure-200", lambda: import_trace("azure", chosen.trace, kv_capacity=40_000, requests=200), 58),
            ("azure-all", lambda: import_trace("azure", chosen.trace, kv_capacity=100_000), 120),
        ]
    for n, seconds in ((10_000, 58), (3_000, 30), (1_000, 15)):
        for rate in (50, 5, 0):
            runs.append(
                (f"chat-{n}-rate{rate}", lambda n=n, r=rate: generate("chat", requests=n, rate=float(r)), seconds)
            )
    for seed in range(1, chosen.seeds):
        name = f"chat-10000-rate50-seed{seed}"
        runs.append((name, lambda seed=seed: generate("chat", requests=10_000, rate=50.0, seed=seed), 58))
    if chosen.large:
        runs.append(("large-100000", lambda: generate("chat", requests=100_000, rate=50.0), 600))
    for name, make, seconds in runs:
        if name.startswith(chosen.only):
            keep(measured(name, make(), seconds))
    if "growth".startswith(chosen.only):
        kept["growth"] = growth()
        output.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
