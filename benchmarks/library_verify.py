"""Verifies every entry of the library twice: by `modelkit verify`, and by the checker that shares no line with it.

python benchmarks/library_verify.py [--traces FOLDER]

What was verified before is left out while its schedule, its certificate and its bounds are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import runpy
import tempfile
import time
from pathlib import Path
from typing import Any

from library_choice import TRACES
from record import keep, kept, stamp

import modelkit as mk
from modelkit.sources.library import Entry, library, library_entries, library_folder

RESULTS = Path(__file__).parent / "results" / "library_verify.json"
CHECKER = Path(__file__).parents[1] / "checker" / "check.py"


def mark_of(entry: Entry) -> str:
    """What tells an entry from another state of it: its bounds and the hash of its files."""
    known = hashlib.sha256(f"{entry.sha256} {entry.lower_bound} {entry.upper_bound}".encode())
    for file in (entry.schedule_path, entry.certificate_path):
        known.update((library_folder() / str(file)).read_bytes())
    return known.hexdigest()[:16]


def verified(entry: Entry, instance: mk.Instance, check: Any, folder: Path) -> dict[str, Any]:
    """Whether both hold the schedule and the certificate of an entry right, and the processor's time [s]."""
    mk.save_instance(instance, path := folder / "instance.json")
    best, proof = entry.best(), entry.certificate()
    assert best is not None
    assert proof is not None
    began = time.process_time()
    holds = mk.verify_result(best, instance).holds and mk.verify_certificate(proof, instance).holds
    states = best.objective.value == entry.upper_bound and proof.value == entry.lower_bound
    between = time.process_time()
    lines = [
        check([str(path), str(library_folder() / str(file))]) for file in (entry.schedule_path, entry.certificate_path)
    ]
    seconds = {"verify": round(between - began, 2), "checker": round(time.process_time() - between, 2)}
    return {
        "instance": entry.instance, "state": mark_of(entry),
        "verify": holds and states, "checker": not any(code for _, code in lines),
        "seconds": seconds, "said": [line for line, _ in lines],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path)
    arguments = parser.parse_args()
    check, local = runpy.run_path(str(CHECKER))["main"], {trace.name: trace.local for trace in TRACES}
    before = {row["instance"]: row for row in kept(RESULTS)["rows"]}
    document: dict[str, Any] = {**stamp(), "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        for name, entry in library_entries().items():
            if entry.recipe.trace is not None and arguments.traces is None:
                continue
            row = before.get(name, {})
            if row.get("state") == mark_of(entry):
                document["rows"].append(row)
                continue
            trace = None if entry.recipe.trace is None else arguments.traces / local[name]
            row = verified(entry, library(name, trace=trace), check, Path(folder))
            document["rows"].append(row)
            print(name, row["verify"], row["checker"], row["seconds"], flush=True)
            keep(document, RESULTS)
    keep(document, RESULTS)


if __name__ == "__main__":
    main()
