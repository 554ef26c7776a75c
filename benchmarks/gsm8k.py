"""The table of the slot problem on the family gsm8k, beside the figures of arXiv 2502.15763.

``python benchmarks/gsm8k.py [--seeds N] [--errors]`` writes ``benchmarks/results/gsm8k.json`` and prints the table.
Utilisation is the share of slot time in decode rounds, as the paper's figures imply.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from record import stamp

from modelkit.judge import judge
from modelkit.problems.slots.packing import pack
from modelkit.simulation.simulate import simulate
from modelkit.solving.candidates import slot_search
from modelkit.sources.families import generate
from modelkit.verify.exact_bounds import certify_slots

POLICIES = ("fcfs", "sorted", "lagrangian", "exclusive-batching", "hybrid")
PAPER = {
    "baseline": {"seconds": 201.00, "utilisation": 0.802},
    "hybrid": {"seconds": 190.58, "utilisation": 0.891},
    "lower bound": {"seconds": 180.0},
    "share of the gap closed": 0.524,
    "utilisation gained": 0.080,
}


def measure(seeds: int, error: float, improved: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for seed in range(seeds):
        instance = generate("gsm8k", seed=seed, prediction_error=error)
        row: dict[str, object] = {"seed": seed, "bound": float(certify_slots(instance).value) / 1000}
        for name in POLICIES:
            began = time.perf_counter()
            result = simulate(instance, name)
            assert not result.violations, result.violations[0]
            row[name] = {
                "seconds": result.metrics["makespan_ms"] / 1000,
                "utilisation": result.metrics["slot_decode_utilisation"],
                "stages": len(result.schedule.segments),
                "run": time.perf_counter() - began,
            }
        if seed < improved:
            metrics = judge(instance, slot_search(instance).run()).metrics
            row["local search"] = {
                "seconds": metrics["makespan_ms"] / 1000,
                "utilisation": metrics["slot_decode_utilisation"],
            }
        rows.append(row)
    return rows


def summary(rows: list[dict[str, object]]) -> dict[str, object]:
    out: dict[str, object] = {"seeds": len(rows), "bound": mean(r["bound"] for r in rows)}
    for name in (*POLICIES, "local search"):
        having = [r for r in rows if name in r]
        if not having:
            continue
        seconds = [r[name]["seconds"] for r in having]
        out[name] = {
            "seeds": len(having),
            "seconds": mean(seconds),
            "deviation": stdev(seconds) if len(seconds) > 1 else 0.0,
            "utilisation": mean(r[name]["utilisation"] for r in having),
            "above the bound": mean(s / r["bound"] - 1 for s, r in zip(seconds, having, strict=True)),
            "worst above the bound": max(s / r["bound"] - 1 for s, r in zip(seconds, having, strict=True)),
            "share of the gap closed": mean(
                (r["sorted"]["seconds"] - s) / (r["sorted"]["seconds"] - r["bound"])
                for s, r in zip(seconds, having, strict=True)
            ),
            "utilisation gained": mean(r[name]["utilisation"] - r["sorted"]["utilisation"] for r in having),
        }
        if "run" in having[0][name]:
            out[name]["run"] = mean(r[name]["run"] for r in having)
            out[name]["stages"] = mean(r[name]["stages"] for r in having)
    return out


def packing(seeds: int) -> dict[str, object]:
    proven, spent = 0, []
    for seed in range(seeds):
        output = generate("gsm8k", seed=seed).arrays.output
        began = time.perf_counter()
        proven += pack(output, 200, np.random.default_rng(0)).proven
        spent.append(time.perf_counter() - began)
    return {"seeds": seeds, "proven": proven, "seconds in all": sum(spent), "seconds at most": max(spent)}


def show(title: str, table: dict[str, object]) -> None:
    print(f"\n{title}: {table['seeds']} seeds, lower bound {table['bound']:.2f} s in the mean")
    print(f"{'':20}{'seconds':>9}{'used':>8}{'gained':>8}{'above bound':>13}{'worst':>8}{'gap closed':>12}{'run':>8}")
    for name, row in table.items():
        if isinstance(row, dict):
            run = f"{row['run']:>7.2f}s" if "run" in row else ""
            print(
                f"{name:20}{row['seconds']:>9.2f}{row['utilisation']:>8.1%}{row['utilisation gained']:>+8.1%}"
                f"{row['above the bound']:>13.2%}{row['worst above the bound']:>8.2%}"
                f"{row['share of the gap closed']:>12.1%}{run}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--improved", type=int, default=3, help="seeds on which the local search runs too")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "gsm8k.json")
    options = parser.parse_args()
    began_on = stamp()
    simulate(generate("gsm8k", requests=20, slots=3), "hybrid")  # compile the search
    rows = measure(options.seeds, 0.0, options.improved)
    tables = {"exact predictions": summary(rows)}
    for error in (0.05, 0.2, 0.5):
        tables[f"predictions off by up to {error:.0%}"] = summary(measure(min(10, options.seeds), error, 0))
    for title, table in tables.items():
        show(title, table)
    packed = packing(20)
    print(f"\npacking: {packed['proven']} of {packed['seeds']} proven optimal in {packed['seconds in all']:.2f} s")
    print(
        "paper: baseline 201.00 s at 80.2 %, hybrid 190.58 s at 89.1 %, bound about 180 s, 52.4 % closed, +8.0 points"
    )
    document = {**began_on, "paper": PAPER, "tables": tables, "packing": packed, "runs": rows}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
