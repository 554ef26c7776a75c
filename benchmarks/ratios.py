"""MC-SF against the best schedule and against bounds: the trials of Jaillet et al., arXiv 2502.07115.

    python benchmarks/ratios.py [--trials 200] [--seconds 60] [--table]

Instances of kv-synthetic as in the paper (n ~ U{40..60}; or Poisson arrivals over T ~ U{40..60}), by seed. It
resumes: a trial in the results file is not run again. The paper reports MC-SF / optimum
= 1.005 on average (worst 1.074, 114 of 200 equal) for model 1 and 1.047 (worst 1.227) for model 2.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from record import keep, kept, stamp

import modelkit as mk
from modelkit.sources.families import generate

RESULTS = Path(__file__).parent / "results" / "ratios.json"
PAPER = {"all-at-once": (1.005, 1.074), "poisson": (1.047, 1.227)}


def trial(arrivals: str, seed: int, seconds: float) -> dict[str, Any]:
    """One instance: MC-SF, the best schedule, the certified bound and the best bound."""
    instance = generate("kv-synthetic", seed=seed, arrivals=arrivals)
    online = mk.simulate(instance, "mc-sf")
    result = mk.solve(instance, time_limit=seconds)
    certified = mk.bound(instance, time_limit=min(10.0, seconds))
    return {
        "arrivals": arrivals, "seed": seed, "n": len(instance.requests), "seconds": seconds,
        "mc_sf": online.objective.value,
        "best": min(v for v in (result.objective.value, certified.result.objective.value) if v is not None),
        "certified": certified.value,
        "bound": max(b for b in (result.objective.bound, certified.value) if b is not None),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> None:
    """Mean and worst ratio of each arrival model, beside the paper's."""
    print(f"{'model':<12} {'trials':>6} {'proven':>6} {'/ best':>15} {'/ bound':>15} {'/ certified':>15} {'paper':>13}")
    for arrivals, paper in PAPER.items():
        runs = [r for r in rows if r["arrivals"] == arrivals]
        if not runs:
            continue
        cells = []
        for key in ("best", "bound", "certified"):
            ratios = [r["mc_sf"] / r[key] for r in runs]
            cells.append(f"{sum(ratios) / len(ratios):.3f} ({max(ratios):.3f})")
        proven = sum(r["bound"] >= r["best"] for r in runs)
        print(
            f"{arrivals:<12} {len(runs):>6} {proven:>6} {cells[0]:>15} {cells[1]:>15} {cells[2]:>15}"
            f" {paper[0]} ({paper[1]})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    began_on = stamp()
    document = kept(arguments.results)
    done = {(r["arrivals"], r["seed"]) for r in document["rows"]}
    for seed in range(0 if arguments.table else arguments.trials):
        for arrivals in PAPER:
            if (arrivals, seed) not in done:
                row = trial(arrivals, seed, arguments.seconds)
                document["rows"].append(row)
                document |= began_on
                print(row, flush=True)
                keep(document, arguments.results)
    table(document["rows"])


if __name__ == "__main__":
    main()
