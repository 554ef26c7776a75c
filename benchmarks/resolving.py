"""A model that is solved again after a change, against one that is built anew: CPU seconds until the solver has it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from record import keep, stamp

import modelkit as mk
from modelkit.backends.standard_form import compile_model
from modelkit.formulation.loading import load_formulation
from modelkit.runtime.resources import bundled
from modelkit.solving.known import Known
from modelkit.solving.resolving import changed_arrays

RESULTS = Path(__file__).parent / "results" / "resolving.json"
#: Formulation, and its parameter that changes, with the share of the capacity or the value.
CASES = [("kv-hindsight-flow", "kv_capacity"), ("kv-batch-cap", "batch_cap"), ("kv-weighted-latency", "weight")]


def main() -> None:
    """Measure both ways in one run, in turn, and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="changes for each formulation")
    times = parser.parse_args().times
    instance = mk.load(bundled("instances") / "chat-40.json")
    document: dict[str, Any] = {**stamp(), "instance": instance.name, "times": times, "rows": []}
    for name, changing in CASES:
        first = {} if changing == "kv_capacity" else {changing: 5}
        model = mk.build(instance, name, parameters=first, changing=[changing])
        changed_arrays(model, {})  # looks through the expressions, once
        again, anew = [], []
        for k in range(times):
            value = 9 + k
            changes = {"kv_capacity_tokens": 1100 + value} if changing == "kv_capacity" else {changing: value}
            again.append(seconds(partial(changed_arrays, model, changes)))
            anew.append(seconds(partial(rebuild, instance, name, changes)))
        row = {"formulation": name, "changing": changing, "again": median(again), "anew": median(anew)}
        row["ratio"] = row["anew"] / row["again"]
        document["rows"].append(row)
        print(f"{name}, {changing}: {row['again']:.3f} s again, {row['anew']:.3f} s anew, ratio {row['ratio']:.1f}")
    keep(document, RESULTS)


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def rebuild(instance: mk.Instance, name: str, changes: dict[str, Any]) -> None:
    """The arrays of the changed instance by building the model anew, with all starts too."""
    parameters = {key: value for key, value in changes.items() if key != "kv_capacity_tokens"}
    if "kv_capacity_tokens" in changes:
        instance = instance.replace(server={"kv_capacity_tokens": changes["kv_capacity_tokens"]})
    formulation = load_formulation(name)
    parametrised = formulation.with_parameters(instance, parameters)
    compile_model(formulation.instantiate(parametrised, Known(parametrised, None, name)))


if __name__ == "__main__":
    main()
