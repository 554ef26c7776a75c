"""Continuous batching in real time: a whole trace by every policy, and the latency figures of arXiv 2502.07115.

``python benchmarks/serving.py [--trace CSV] [--seeds N]`` writes ``benchmarks/results/serving.json`` and prints tables.

1. The Azure conversation trace, all requests, where there is one: seconds of simulation, of the judge, and of the
   whole process, for every policy; on two A100 (far overloaded) and on eight H100 (which keep up).
2. Short chats on two A100 with Llama-2-70B, M = 16,492, by both of its laws: mean latency of the first
   1,000 ... 10,000 requests at 50/s and at 10/s, and its slope, a straight line through the ten points.
3. The same 10,000 requests with predictions off by up to 20, 50 and 80 %.

The paper's slopes are those of its figures, in its units of time by requests; ratios between policies do not depend
on the units.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

import numpy as np
from record import stamp

import modelkit as mk
from modelkit.judge import judge
from modelkit.judge.load import load
from modelkit.simulation.simulate import fitting_policies, policy_schedule
from modelkit.sources.families import generate
from modelkit.sources.traces import import_trace

SERVER = "llama2-70b-2xa100"
POLICIES = (
    "mc-sf", "svf", "mc-benchmark",
    "alpha-protection:alpha=0.3", "alpha-protection:alpha=0.25",
    "alpha-beta-clearing:alpha=0.2,beta=0.2", "alpha-beta-clearing:alpha=0.2,beta=0.1",
    "alpha-beta-clearing:alpha=0.1,beta=0.2", "alpha-beta-clearing:alpha=0.1,beta=0.1",
)  # fmt: skip
ALSO = ("vllm-like", "sorted-f", "wait", "nested-wait", "length-groups")
PAPER = {
    "50": {"mc-sf": "1/6", "best baseline": "1/2", "ratio": 3.0},
    "10": {"mc-sf": "1/800", "best baseline": "1/100", "ratio": 8.0},
}
SIZES = range(1000, 10_001, 1000)


def azure(path: Path) -> list[dict[str, object]]:
    """Every policy on the whole trace, in this process and as a process of its own."""
    rows: list[dict[str, object]] = []
    for server in (SERVER, "llama2-70b-8xh100"):
        instance = import_trace("azure", path, server=server)
        for policy in fitting_policies(instance):
            began, busy = time.perf_counter(), time.process_time()
            schedule = policy_schedule(instance, policy)
            simulated, busy = time.perf_counter(), time.process_time() - busy
            verdict = judge(instance, schedule)
            judged = time.perf_counter()
            assert verdict.valid, verdict.violations[0]
            metrics = verdict.metrics
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "azure.json"
                mk.save_instance(instance, file)
                spawned, before = time.perf_counter(), os.times()
                subprocess.run(
                    [
                        sys.executable,
                        "-m",
                        "modelkit",
                        "simulate",
                        str(file),
                        "-p",
                        policy,
                        "-q",
                        "-o",
                        f"{folder}/r.json",
                    ],
                    check=True,
                )
                process, after = time.perf_counter() - spawned, os.times()
                process_busy = sum(after[2:4]) - sum(before[2:4])
            rows.append(
                {
                    "server": server,
                    "load": load(instance),
                    "policy": policy,
                    "requests": len(instance.requests),
                    "iterations": metrics["rounds"],
                    "simulation_s": simulated - began,
                    "simulation_cpu_s": busy,
                    "judge_s": judged - simulated,
                    "process_s": process,
                    "process_cpu_s": process_busy,
                    "microseconds_an_iteration": (simulated - began) / metrics["rounds"] * 1e6,
                    "mean_latency_s": metrics["mean_latency_ms"] / 1000,
                    "mean_first_token_s": metrics["mean_first_token_ms"] / 1000,
                    "makespan_s": metrics["makespan_ms"] / 1000,
                    "evictions": metrics["evictions"],
                }
            )
            print(
                f"{server:20} {policy:20} {simulated - began:5.2f} s (CPU {busy:.2f}),"
                f" process {process:5.2f} s (CPU {process_busy:.2f}),"
                f" {metrics['rounds']:9,.0f} iterations, mean latency {metrics['mean_latency_ms'] / 1000:9.2f} s",
                flush=True,
            )
    return rows


def first(instance: mk.Instance, n: int) -> mk.Instance:
    """The first n requests."""
    return instance.replace(requests=instance.requests[:n])


def latency(instance: mk.Instance, policy: str, **settings: object) -> float:
    """Mean latency [s], by the judge."""
    verdict = judge(instance, policy_schedule(instance, policy, **settings))
    assert verdict.valid
    return verdict.metrics["mean_latency_ms"] / 1000


def slopes(server: str, seeds: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for rate in (50, 10):
        whole = [generate("chat", requests=10_000, rate=rate, server=server, seed=seed) for seed in range(seeds)]
        shares = mean(load(instance) for instance in whole)
        for policy in (*POLICIES, *ALSO):
            points = [mean(latency(first(instance, n), policy) for instance in whole) for n in SIZES]
            slope, _ = np.polyfit(list(SIZES), points, 1)
            rows.append(
                {"rate": rate, "load": shares, "policy": policy, "mean_latency_s": points, "slope": float(slope)}
            )
            print(
                f"{rate}/s {policy:40} slope 1/{1 / slope:8.0f}, {points[0]:7.2f} ... {points[-1]:7.2f} s", flush=True
            )
    return rows


def ratios(rows: list[dict[str, object]]) -> dict[str, object]:
    """Slope of the best baseline over that of MC-SF, beside the paper's."""
    found = {}
    for rate, paper in PAPER.items():
        slope = {r["policy"]: r["slope"] for r in rows if str(r["rate"]) == rate}
        best = min((p for p in slope if "alpha-" in p), key=slope.get)
        found[rate] = {
            "paper": paper,
            "mc-sf": slope["mc-sf"],
            "svf": slope["svf"],
            "mc-benchmark": slope["mc-benchmark"],
            "best alpha baseline": {"policy": best, "slope": slope[best]},
            "ratio to mc-sf": slope[best] / slope["mc-sf"],
            "ratio of mc-benchmark to mc-sf": slope["mc-benchmark"] / slope["mc-sf"],
        }
        print(f"{rate}/s: best baseline {best} / mc-sf = {slope[best] / slope['mc-sf']:.2f}; paper {paper['ratio']}")
    return found


def errors(seeds: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for rate in (50, 10):
        for error in (0.0, 0.2, 0.5, 0.8):
            for policy in (
                "mc-sf:alpha=0.1",
                "mc-sf",
                "svf:alpha=0.1",
                "a-min",
                "mc-benchmark:alpha=0.1",
                *POLICIES[3:5],
            ):
                values, evicted = [], []
                for seed in range(seeds):
                    instance = generate("chat", requests=10_000, rate=rate, server=SERVER, seed=seed)
                    schedule = policy_schedule(instance, policy, predictions=f"noise:{error}", seed=seed)
                    metrics = judge(instance, schedule).metrics
                    values.append(metrics["mean_latency_ms"] / 1000)
                    evicted.append(metrics["evictions"])
                rows.append(
                    {
                        "rate": rate,
                        "error": error,
                        "policy": policy,
                        "mean_latency_s": mean(values),
                        "evictions": mean(evicted),
                    }
                )
                print(
                    f"{rate}/s error {error} {policy:30} {mean(values):8.2f} s, {mean(evicted):,.0f} evictions",
                    flush=True,
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    here = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("MODELKIT_TRACES", here.parent / "shared" / "data"))
    parser.add_argument("--trace", type=Path, default=folder / "azure_llm_2023_conv.csv")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    policy_schedule(generate("chat", requests=50, rate=10, server=SERVER), "mc-sf")  # compiles what is compiled
    found: dict[str, object] = {**stamp(), "server": SERVER, "kv_capacity_tokens": 16_492, "seeds": options.seeds}
    if options.trace.is_file():
        found["azure"] = azure(options.trace)
    else:
        print(f"no trace at {options.trace}: the first table is left out")
    for server in (SERVER, f"{SERVER}-measured"):
        rows = slopes(server, options.seeds)
        found[f"slopes on {server}"] = {"ratios": ratios(rows), "rows": rows}
    found["prediction_errors"] = errors(options.seeds)
    target = here / "benchmarks" / "results" / "serving.json"
    target.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
