"""Results files of the benchmarks: when and on what they were measured, and rows that are kept as they come."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelkit.io.writing import write_text


def stamp() -> dict[str, str]:
    """The date, and the machine with its load before the run: what else runs makes wall-clock times longer."""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{machine}, load {os.getloadavg()[0]:.1f} before",
    }


def kept(path: Path) -> dict[str, Any]:
    """What a results file holds, to go on with; no rows when it is not there."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"rows": []}
    return found


def best_known(rows: list[dict[str, Any]]) -> dict[tuple[int, int], float]:
    """The least value of any row of each instance, by its requests and seed; infinite where there is none."""
    best: dict[tuple[int, int], float] = defaultdict(lambda: math.inf)
    for row in rows:
        if row["value"] is not None:
            key = row["n"], row["seed"]
            best[key] = min(best[key], row["value"])
    return best


def keep(document: dict[str, Any], path: Path) -> None:
    """Write a results file; whoever stops the benchmark meanwhile leaves the old one."""
    write_text(path, json.dumps(document, indent=1) + "\n")


def hold_many(instances: int, check: Callable[[int], tuple[list[str], list[str]]], path: Path) -> None:
    """Check the instances of so many seeds (their kinds, and what is wrong), and write what was found."""
    found, kinds, wrong = {**stamp()}, Counter[str](), {}
    began = time.process_time()
    for seed in range(instances):
        names, faults = check(seed)
        kinds.update(names)
        if faults:
            wrong[seed] = faults
            print(seed, *faults, sep="\n  ", flush=True)
    found |= {"instances": instances, "kinds": dict(kinds), "wrong": wrong}
    found["process_cpu_s"] = round(time.process_time() - began)
    keep(found, path)
    print(f"{instances:,} instances, {len(wrong)} wrong; {dict(kinds)}")
