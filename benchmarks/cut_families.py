"""What each family of cuts adds at the root to conflict cliques: certified bounds and seconds.

    python benchmarks/cut_families.py [--sizes 12 16 20] [--seeds 3] [--base 20] [--more 10]

Random instances of kv-synthetic, arrival model 1. The linear program gets conflict cliques for ``--base`` seconds, or
until none is found. From there it goes on for ``--more`` seconds with conflict cliques alone, and with them and one
family more. It resumes; ``--table`` only prints the table.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from modelkit.problems.kv.diagram.linear_program import SCALE, CliqueProgram
from record import keep, kept, stamp

from modelkit.problems.kv.cuts import conflict_cliques, triples
from modelkit.solving.known import Known
from modelkit.sources.families import generate

RESULTS = Path(__file__).parent / "results" / "cut_families.json"
FAMILIES = (conflict_cliques, triples)


def run(n: int, seed: int, base: float, more: float) -> dict[str, Any]:
    """All families on one instance; a family's seconds are those of the processor in finding cuts."""
    instance = generate("kv-synthetic", seed=seed, requests=n)
    known = Known(instance)
    windows = known.windows
    row: dict[str, Any] = {"n": n, "seed": seed, "base": base, "more": more, "value": known.hindsight.latency}
    row["lp"] = CliqueProgram(instance, windows, ()).cut_and_solve(float("inf"), float("inf")).bound / SCALE
    program = CliqueProgram(instance, windows)
    began = time.perf_counter()
    row["cliques"] = program.cut_and_solve(began + base, float("inf")).bound / SCALE
    row["cliques_seconds"] = time.perf_counter() - began
    row["families"] = {}
    for family in FAMILIES:
        finding: Counter[str] = Counter(seconds=0, calls=0, found=0)

        def timed(*arguments: Any, family: Any = family, finding: Counter[str] = finding) -> Any:
            before = time.process_time()
            found = family(*arguments)
            finding["seconds"] += time.process_time() - before
            finding["calls"] += 1
            finding["found"] += len(found)
            return found

        continued = copy.copy(program)
        continued.cuts = list(program.cuts)
        continued.families = (timed,) if family is conflict_cliques else (conflict_cliques, timed)
        before = time.perf_counter()
        bound = continued.cut_and_solve(before + more, float("inf")).bound / SCALE
        row["families"][family.__name__] = {"bound": bound, "wall": time.perf_counter() - before, **finding}
    row["load"] = os.getloadavg()[0]
    return row


def table(rows: list[dict[str, Any]]) -> None:
    """Print means over seeds: gaps to the best schedule, seconds of a call."""
    print(f"{'n':>3} {'plain':>7} {'cliques':>7}" + "".join(f"{family.__name__:>24}" for family in FAMILIES))
    for n in sorted({row["n"] for row in rows}):
        these = [row for row in rows if row["n"] == n]

        def mean(values: list[float]) -> float:
            return sum(values) / len(values)

        line = f"{n:>3} {mean([1 - r['lp'] / r['value'] for r in these]):>7.2%}"
        line += f" {mean([1 - r['cliques'] / r['value'] for r in these]):>7.2%}"
        for family in FAMILIES:
            found = [r["families"][family.__name__] for r in these]
            gap = mean([1 - f["bound"] / r["value"] for f, r in zip(found, these, strict=True)])
            call = sum(f["seconds"] for f in found) / max(1, sum(f["calls"] for f in found))
            line += f"{gap:>11.2%} ({call * 1000:>4.0f} ms/call)"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[12, 16, 20])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base", type=float, default=20.0)
    parser.add_argument("--more", type=float, default=10.0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    document = kept(arguments.results)
    done = {(r["n"], r["seed"], r["base"], r["more"]) for r in document["rows"]}
    if not arguments.table:
        run(8, 0, 1.0, 1.0)  # compiles
        for n in arguments.sizes:
            for seed in range(arguments.seeds):
                if (n, seed, arguments.base, arguments.more) in done:
                    continue
                document["rows"].append(run(n, seed, arguments.base, arguments.more))
                document |= stamp()
                print(document["rows"][-1], flush=True)
                keep(document, arguments.results)
    table(document["rows"])


if __name__ == "__main__":
    main()
