"""The library of hard KV instances: makes it, and improves its table of best known values and bounds.

    python benchmarks/hard.py [--seconds 60] [--solver diagram|highs|scip|cp-sat] [--only NAME ...]

Each instance without a proof is solved again; what is better is written to ``instances/hard/table.json`` at once, with
the schedule, which the judge accepted. A bound is only ever raised and a value only ever lowered. Proofs by search have
no certificate, so that each row also has the best bound that has one, and the certificate.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from record import keep

import modelkit as mk
from modelkit.io import save_instance
from modelkit.problems.kv.local_search import latency, starts_of
from modelkit.sources.families import generate

FOLDER = Path(__file__).parents[1] / "instances" / "hard"
TABLE = FOLDER / "table.json"
#: Arrival model, requests and seed.
LIBRARY = (
    ("all-at-once", 12, 2), ("all-at-once", 16, 0), ("all-at-once", 16, 1), ("all-at-once", 16, 2),
    ("all-at-once", 20, 0), ("all-at-once", 20, 1), ("all-at-once", 20, 2), ("all-at-once", 30, 0),
    ("all-at-once", 50, 0), ("poisson", 12, 0), ("poisson", 20, 0), ("poisson", 30, 0), ("poisson", 50, 0),
)  # fmt: skip


def made() -> dict[str, mk.Instance]:
    """The instances by name; written when they are not there."""
    FOLDER.mkdir(exist_ok=True)
    found = {}
    for arrivals, n, seed in LIBRARY:
        instance = generate("kv-synthetic", seed=seed, requests=n, arrivals=arrivals)
        path = FOLDER / f"{instance.name}.json"
        if not path.exists():
            save_instance(instance, str(path))
        found[instance.name] = mk.load(str(path))
    return found


def improved(row: dict[str, Any], result: mk.Result, instance: mk.Instance, by: str) -> dict[str, Any]:
    """The row with what is better."""
    row = dict(row)
    value, bound = result.objective.value, result.objective.bound
    if value is not None and (row.get("value") is None or value < row["value"]):
        assert result.schedule is not None
        starts = starts_of(instance, result.schedule)
        assert latency(instance, starts) == value
        row.update(value=int(value), value_by=by, starts=starts.tolist())
    if bound is not None and (row.get("bound") is None or bound > row["bound"]):
        row.update(bound=int(bound), bound_by=by)
    return row


def certified(row: dict[str, Any], instance: mk.Instance, seconds: float) -> dict[str, Any]:
    """The row with the best certificate."""
    found = mk.bound(instance, time_limit=seconds).certificate
    if row.get("certified") is not None and found.value <= row["certified"]:
        return row
    return {**row, "certified": found.value, "certificate": found.document()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--solver", default="diagram")
    parser.add_argument("--only", nargs="+")
    arguments = parser.parse_args()
    table: dict[str, Any] = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    for name, instance in made().items():
        row = table.get(name, {"objective": "total_latency_rounds", "value": None, "bound": None})
        if arguments.only and name not in arguments.only:
            continue
        if row["value"] is None or row["value"] != row["bound"]:
            result = mk.solve(instance, "kv-hindsight-flow", solver=arguments.solver, time_limit=arguments.seconds)
            by = f"{arguments.solver}, {arguments.seconds:g} s, modelkit {mk.__version__}"
            row = {**improved(row, result, instance, by), "sha256": result.instance.sha256}
        if row["value"] != row["bound"] or "certificate" not in row:
            row = certified(row, instance, arguments.seconds / 2)
        table[name] = row
        keep(table, TABLE)
        print(f"{name:<38} {row['value']:>6} {row['bound']:>6} {float(row['certified']):>8g}", flush=True)


if __name__ == "__main__":
    main()
