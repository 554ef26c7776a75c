"""Random histories of the Python interface, which ``tests/histories.py`` makes, against fresh processes.

``python benchmarks/histories.py 500`` writes ``benchmarks/results/histories.json``.
"""

from __future__ import annotations

import collections
import json
import sys
import time
from pathlib import Path

from record import stamp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import histories

RESULTS = Path(__file__).resolve().parent / "results" / "histories.json"


def main(count: int) -> None:
    made = stamp()
    histories.load_all()
    fresh = histories.fresh_answers()
    wrong: dict[int, list[str]] = {}
    done: collections.Counter[str] = collections.Counter()
    began = time.perf_counter()
    for seed in range(count):
        faults, steps = histories.performed(seed, fresh)
        done += steps
        if faults:
            wrong[seed] = faults
            print(seed, faults, flush=True)
        if seed % 10 == 9 or seed == count - 1:
            figures = {**made, "histories": seed + 1, "wrong": len(wrong), "steps": dict(sorted(done.items())),
                       "seconds": round(time.perf_counter() - began, 1)}  # fmt: skip
            RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
            print(figures, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 500)
