"""Random instances of the KV-cache problem against an exhaustive search: every proven optimum, bound and certificate.

``python benchmarks/kv_truth.py [--instances N]`` writes ``benchmarks/results/kv_truth.json``. Half of the instances
have all requests at once, half arrivals over time, with 2 to 7 requests. The search must prove the least total latency,
with a schedule that the judge accepts; the certificate by partitions, recomputed by the verifier, must not be above it.
"""

from __future__ import annotations

import argparse
import math
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from record import hold_many

from modelkit.certificate import Partitions
from modelkit.instance import Instance
from modelkit.judge import judge
from modelkit.problems.kv.diagram import Search
from modelkit.problems.kv.diagram.root import best_multipliers
from modelkit.problems.kv.local_search import first_schedule, schedule_of
from modelkit.runtime.kernel import kernel
from modelkit.sources.families import generate
from modelkit.verify.kv_partitions import partitions_bound

RESULTS = Path(__file__).resolve().parent / "results" / "kv_truth.json"
MODELS = ("all-at-once", "poisson")


def instance_of(seed: int) -> Instance:
    """The instance of a seed."""
    n = 2 + seed // 2 % 6
    capacity = 8 + seed % (10 if n < 6 else 6)
    return generate("kv-synthetic", seed=seed, requests=n, arrivals=MODELS[seed % 2], kv_capacity=capacity)


def least_latency(instance: Instance) -> int:
    """By trying every start of every request until all could have run one by one."""
    arrays, capacity = instance.arrays, instance.server.kv_capacity_tokens
    horizon = int(arrays.arrival.max() + arrays.output.sum())
    order = np.argsort(arrays.output, kind="stable")
    return int(_try_all(arrays.arrival[order], arrays.prompt[order], arrays.output[order], capacity, horizon))


@kernel
def _try_all(arrival: Any, prompt: Any, output: Any, capacity: int, horizon: int) -> int:
    n = len(output)
    held = np.zeros(2 * horizon + 2, np.int64)
    start = np.full(n, -1, np.int64)
    rest = np.zeros(n + 1, np.int64)
    for i in range(n - 1, -1, -1):
        rest[i] = rest[i + 1] + output[i]
    best = np.int64(1) << 40
    i, cost = 0, 0
    while i >= 0:
        if start[i] >= 0:  # take it out, to try the next start
            for t in range(1, output[i] + 1):
                held[start[i] + t] -= prompt[i] + t
            cost -= start[i] + output[i] - arrival[i]
            start[i] += 1
        else:
            start[i] = arrival[i]
        placed = False
        while start[i] <= horizon and cost + start[i] - arrival[i] + rest[i] < best:
            placed = True
            for t in range(1, output[i] + 1):
                if held[start[i] + t] + prompt[i] + t > capacity:
                    placed = False
                    break
            if placed:
                break
            start[i] += 1
        if not placed:
            start[i] = -1
            i -= 1
            continue
        for t in range(1, output[i] + 1):
            held[start[i] + t] += prompt[i] + t
        cost += start[i] + output[i] - arrival[i]
        if i + 1 < n:
            i += 1
        else:
            best = cost
    return best


def faults_of(instance: Instance) -> list[str]:
    """What is wrong; a crash is wrong too."""
    try:
        optimum, first = least_latency(instance), first_schedule(instance)
        search = Search(instance, first)
        search.run()
        faults = []
        if not search.value == search.bound == optimum:
            faults.append(f"optimum {optimum}, value {search.value}, bound {search.bound}")
        verdict = judge(instance, schedule_of(instance, search.starts))
        if not verdict.valid or verdict.metrics["total_latency_rounds"] != optimum:
            faults.append("the judge does not find the optimum")
        found = best_multipliers(instance, search.value, math.inf)
        if found is None:
            return [*faults, "no partitions"]
        proof = Partitions(
            denominator=found.denominator, floors=found.floors.tolist(), multipliers=found.values.tolist()
        )
        if (bound := partitions_bound(instance, proof)) > optimum:
            faults.append(f"optimum {optimum}, certificate {float(bound)}")
        return faults
    except Exception:
        return [traceback.format_exc()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    hold_many(chosen.instances, checked, chosen.results)


def checked(seed: int) -> tuple[list[str], list[str]]:
    """Of which kinds the instance of a seed is, and what is wrong on it."""
    instance = instance_of(seed)
    return [MODELS[seed % 2], f"{len(instance.requests)} requests"], faults_of(instance)


if __name__ == "__main__":
    main()
