"""Proofs: the default of ``modelkit solve`` against raw ``kv-hindsight`` on each solver, at equal time.

    python benchmarks/proofs.py [--sizes 12 16 20 30 50] [--methods diagram highs ...] [--again diagram]

Random instances of kv-synthetic, arrival model 1: 20 seeds of 60 s each, with 50 requests 5 of 600 s. It resumes: what
the results hold for the same seconds is not run again, unless ``--again`` names the method, whose results of these
sizes go first. ``--table`` only prints the table. A rival gets the formulation ``kv-hindsight`` (with modelkit's start
windows, so it is not worse off than the paper's program) and no start; its bound is the solver's own.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from record import best_known, keep, kept, stamp

import modelkit as mk
from modelkit.sources.families import generate

RESULTS = Path(__file__).parent / "results" / "proofs.json"
METHODS = ("diagram", "highs", "scip", "cp-sat")
#: Seeds and seconds by size.
PLAN = {12: (20, 60.0), 16: (20, 60.0), 20: (20, 60.0), 30: (20, 60.0), 50: (5, 600.0)}


def run(n: int, seed: int, method: str, seconds: float) -> dict[str, Any]:
    """One method on one instance."""
    instance = generate("kv-synthetic", seed=seed, requests=n)
    began = time.perf_counter()
    if method == "diagram":
        result = mk.solve(instance, time_limit=seconds)
        bound = result.objective.bound
    else:
        result = mk.solve(instance, "kv-hindsight", solver=method, time_limit=seconds, warm_start="none")
        bound = max((b for _, _, b in result.progress if b is not None), default=None)
        if result.status == "optimal" and result.stop == "finished":
            bound = result.objective.bound
    value = result.objective.value
    return {
        "n": n, "seed": seed, "method": method, "limit": seconds, "seconds": round(time.perf_counter() - began, 2),
        "value": value, "bound": bound,
        "proven": value is not None and bound is not None and bound >= value,
        "stages": [stage.model_dump() for stage in result.stages] if method == "diagram" else [],
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> None:
    """Print what was measured, over the instances that a method ran on."""
    best = best_known(rows)
    cells = defaultdict(list)
    for row in rows:
        cells[row["n"], row["limit"], row["method"]].append(row)
    print(
        f"{'n':>3} {'limit':>6} {'method':<8} {'runs':>4} {'proven':>6} {'mean gap':>8} {'mean s':>7} {'not best':>8}"
    )
    for (n, limit, method), runs in sorted(cells.items(), key=lambda c: (c[0][0], c[0][1], METHODS.index(c[0][2]))):
        # against the best schedule known, so that a gap is the bound's fault and not the schedule's
        gaps = [1 - (r["bound"] or 0) / best[r["n"], r["seed"]] for r in runs]
        worse = sum(r["value"] is None or r["value"] > best[r["n"], r["seed"]] for r in runs)
        proven, seconds = sum(r["proven"] for r in runs), sum(r["seconds"] for r in runs) / len(runs)
        gap = sum(gaps) / len(gaps)
        print(f"{n:>3} {limit:>6g} {method:<8} {len(runs):>4} {proven:>6} {gap:>8.2%} {seconds:>7.1f} {worse:>8}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(PLAN))
    parser.add_argument("--seeds", type=int, help="of each size, instead of those planned")
    parser.add_argument("--seconds", type=float, help="of each run, instead of those planned")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--again", nargs="+", default=[], choices=METHODS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    began_on = stamp()
    document = kept(arguments.results)
    if not arguments.table:
        document["rows"] = [
            row for row in document["rows"] if row["method"] not in arguments.again or row["n"] not in arguments.sizes
        ]
    done = {(r["n"], r["seed"], r["method"], r["limit"]) for r in document["rows"]}
    if not arguments.table:
        mk.solve(generate("kv-synthetic", seed=0, requests=9, kv_capacity=12))  # compiles
        for n in arguments.sizes:
            seeds, seconds = PLAN.get(n, PLAN[30])
            seeds, seconds = arguments.seeds or seeds, arguments.seconds or seconds
            for seed in range(seeds):
                for method in arguments.methods:
                    if (n, seed, method, seconds) in done:
                        continue
                    row = run(n, seed, method, seconds)
                    document["rows"].append(row)
                    document |= began_on
                    print({key: row[key] for key in row if key != "stages"}, flush=True)
                    keep(document, arguments.results)
    table(document["rows"])


if __name__ == "__main__":
    main()
