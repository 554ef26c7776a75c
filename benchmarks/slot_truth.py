"""Random instances of the slot problem against an exhaustive search: every status, value and bound.

``python benchmarks/slot_truth.py [--instances N]`` writes ``benchmarks/results/slot_truth.json``. What is compared, and
with what, is in ``tests/slot_brute_force.py``: solve by default, each formulation with its solvers, bound and all
policies.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

from record import hold_many

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from slot_brute_force import disagreements, least_makespan, odd_instance

RESULTS = Path(__file__).resolve().parent / "results" / "slot_truth.json"


def faults_of(seed: int) -> list[str]:
    """What is wrong on the instance of a seed; a crash is wrong too."""
    try:
        return disagreements(odd_instance(seed))
    except Exception:
        return [traceback.format_exc()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=1000)
    chosen = parser.parse_args()
    hold_many(chosen.instances, checked, RESULTS)


def checked(seed: int) -> tuple[list[str], list[str]]:
    """Of which kinds the instance of a seed is, and what is wrong on it."""
    instance = odd_instance(seed)
    kinds = ["with levels" if instance.server.clock.prefill_levels else "without levels"]
    kinds += ["with a KV capacity"] * (instance.server.kv_capacity_tokens is not None)
    kinds += ["infeasible"] * (least_makespan(instance) is None)
    return kinds, faults_of(seed)


if __name__ == "__main__":
    main()
