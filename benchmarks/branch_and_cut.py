"""Where cuts are found: root cuts with a MIP solver, cuts in the tree, and the diagram, at equal time.

    python benchmarks/branch_and_cut.py [--sizes 12 16] [--seeds 3] [--seconds 60] [--methods root-highs ...]

Random instances of kv-synthetic, arrival model 1. The seconds hold everything: prices and start windows, the root's
cuts, building, solving. All methods know the schedule of the same local search. It resumes: what the results hold for
the same seconds is not run again. ``--table`` only prints the table.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from record import best_known, keep, kept, stamp

from modelkit.backends import Limits, backend
from modelkit.formulation.loading import load_formulation
from modelkit.instance import Instance
from modelkit.judge import judge
from modelkit.problems.kv.diagram import Search
from modelkit.solving.known import Known, known_of
from modelkit.sources.families import generate

RESULTS = Path(__file__).parent / "results" / "branch_and_cut.json"
METHODS = ("root-highs", "root-scip", "tree-scip", "diagram")


def through_formulation(instance: Instance, method: str, deadline: float) -> dict[str, Any]:
    """``kv-hindsight-cliques`` on a solver."""
    began = time.perf_counter()
    formulation = load_formulation("kv-hindsight-cliques")
    known = known_of(formulation, instance)
    model = formulation.instantiate(instance, known)
    assert formulation.start is not None
    formulation.start(model, instance, known.hindsight.schedule)
    built = time.perf_counter()
    limits = Limits(max(1.0, deadline - built))
    separator = formulation.separator_for(model, instance) if method == "tree-scip" else None
    solver = backend(method.rpartition("-")[2])
    outcome = solver.solve(model, limits, {}, use_start=True, separator=separator)
    value = known.hindsight.latency
    if outcome.found == "solution":
        assert formulation.extract is not None
        verdict = judge(instance, formulation.extract(model, instance))
        assert verdict.valid
        value = min(value, round(verdict.metrics["total_latency_rounds"] or value))
    sizes = {"starts": len(model.STARTS), "cliques": len(model.CLIQUES), "cuts_in_tree": outcome.cuts}
    return {"value": value, "bound": outcome.bound, **sizes, "root_seconds": round(built - began, 2)}


def run(n: int, seed: int, method: str, seconds: float) -> dict[str, Any]:
    """One method on one instance."""
    instance = generate("kv-synthetic", seed=seed, requests=n)
    began = time.perf_counter()
    deadline = began + seconds
    if method == "diagram":
        known = Known(instance)
        search = Search(instance, known.hindsight.starts, deadline, windows=lambda: known.windows)
        search.run()
        found: dict[str, Any] = {"value": search.value, "bound": search.bound}
    else:
        found = through_formulation(instance, method, deadline)
    elapsed = round(time.perf_counter() - began, 2)
    return {
        "n": n,
        "seed": seed,
        "method": method,
        "limit": seconds,
        "seconds": elapsed,
        **found,
        "load": os.getloadavg()[0],
    }


def table(rows: list[dict[str, Any]]) -> None:
    """Print what was measured; gaps are to the best schedule that any method knows, of runs that tell a bound."""
    best = best_known(rows)
    cells = defaultdict(list)
    for row in rows:
        cells[row["n"], row["limit"], METHODS.index(row["method"])].append(row)
    print(
        f"{'n':>3} {'limit':>6} {'method':<12} {'runs':>4} {'proven':>6} {'mean gap':>8} {'mean s':>7} {'not best':>8}"
    )
    for (n, limit, method), runs in sorted(cells.items()):
        gaps = [1 - r["bound"] / best[n, r["seed"]] for r in runs if r["bound"] is not None]
        gap = sum(gaps) / len(gaps) if gaps else math.nan
        proven, seconds = sum(r["bound"] == r["value"] for r in runs), sum(r["seconds"] for r in runs) / len(runs)
        worse = sum(r["value"] > best[n, r["seed"]] for r in runs)
        name = f"{n:>3} {limit:>6g} {METHODS[method]:<12}"
        print(f"{name} {len(runs):>4} {proven:>6} {gap:>8.2%} {seconds:>7.1f} {worse:>8}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[12, 16])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    document = kept(arguments.results)
    done = {(r["n"], r["seed"], r["method"], r["limit"]) for r in document["rows"]}
    wanted = [
        (n, seed, method, arguments.seconds)
        for n in arguments.sizes
        for seed in range(arguments.seeds)
        for method in arguments.methods
    ]
    if not arguments.table:
        for method in arguments.methods:
            run(5, 0, method, 10.0)  # compiles, and starts the solver process
        for key in wanted:
            if key in done:
                continue
            document["rows"].append(run(*key))
            document |= stamp()
            print(document["rows"][-1], flush=True)
            keep(document, arguments.results)
    table(document["rows"])


if __name__ == "__main__":
    main()
