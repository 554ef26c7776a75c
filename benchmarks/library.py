"""Improves the library: runs policies of every division, bounds and searches, and submits what is better.

    python benchmarks/library.py [--seconds 40] [--only NAME|FAMILY ...] [--step policies|bound|solve|hard ...]
                                 [--traces FOLDER] [--who NAME] [--folder FOLDER]
                                 [--steps FILE]

Every step of an entry is written as it is found, by the way that submissions of others take
(`modelkit.experiments.submitting`); steps that were done before are left out unless they are asked for by name.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from library_choice import TRACES
from record import keep, kept

import modelkit as mk
from modelkit.errors import ModelkitError
from modelkit.experiments.submitting import NotBetterError, submission, write_submission
from modelkit.instance import InstanceStamp
from modelkit.io import parse_certificate
from modelkit.judge import judge
from modelkit.policies import policies
from modelkit.problems.kv.local_search import schedule_of
from modelkit.result import Objective, Producer
from modelkit.simulation.simulate import fitting_policies
from modelkit.sources.library import Entry, library, library_entries, library_folder
from modelkit.sources.library.divisions import told

DONE = Path(__file__).parent / "results" / "library.json"
STEPS = ("policies", "bound", "solve", "hard")
#: What `hard.py` found.
HARD = library_folder().parent / "hard" / "table.json"
#: Policies with options that are worth a run beside the defaults.
VARIANTS = ("mc-sf:alpha=0.1", "svf:gate=auto", "srpt:by=volume", "vllm-like:preempt=swap", "wait:alpha=0.1")
#: Problems of these families are solved by formulations, too, up to this size.
SOLVED = {
    "small-memory": 80,
    "slots": 40,
    "replicas": 40,
    "prefixes": 0,
    "pauses": 20,
    "real-time": 0,
    "trace-scale": 0,
}


def best_policies(instance: mk.Instance) -> Iterator[mk.Result]:
    """The best policy of each division."""
    names = [name for name in fitting_policies(instance) if not policies()[name].clairvoyant]
    for model in told(instance).values():
        best = None
        for label in [*names, *VARIANTS]:
            try:
                result = mk.simulate(instance, label, predictions=model)
            except ModelkitError:
                continue
            value = result.objective.value
            if result.status == "feasible" and value is not None and (best is None or value < best.objective.value):
                best = result
        if best is not None:
            yield best


def from_hard(instance: mk.Instance) -> Iterator[mk.Result | mk.Certificate]:
    """The schedule and the certificate in the table of hard instances, where it has them."""
    row = json.loads(HARD.read_text()).get(instance.name, {}) if HARD.exists() else {}
    if row.get("certificate"):
        yield parse_certificate(row["certificate"], str(HARD))
    if row.get("starts"):
        schedule = schedule_of(instance, np.array(row["starts"]))
        value, bound = judge(instance, schedule).metrics["total_latency_rounds"], float(row["bound"])
        yield mk.Result(
            instance=InstanceStamp.of(instance),
            producer=Producer(kind="formulation", name="kv-hindsight-flow", solver="diagram"),
            status="optimal" if value == bound else "feasible",
            stop="finished" if value == bound else "time_limit",
            objective=Objective(name="total_latency_rounds", value=value, bound=bound, bound_by="solver"),
            schedule=schedule,
        )


def claims(step: str, entry: Entry, instance: mk.Instance, seconds: float) -> Iterator[mk.Result | mk.Certificate]:
    """What a step finds."""
    if step == "policies":
        yield from best_policies(instance)
    elif step == "bound":
        found = mk.bound(instance, time_limit=seconds)
        yield found.certificate
        yield found.result
    elif step == "hard":
        yield from from_hard(instance)
    elif entry.size <= SOLVED[entry.family] and entry.status == "open":
        yield mk.solve(instance, time_limit=seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--step", nargs="+", choices=STEPS, default=[])
    parser.add_argument("--traces", type=Path)
    parser.add_argument("--who", default="modelkit")
    parser.add_argument("--folder", type=Path, default=library_folder(), help="folder of library.json")
    parser.add_argument("--steps", type=Path, default=DONE, help="file of the steps that are done")
    arguments = parser.parse_args()
    local = {trace.name: trace.local for trace in TRACES}
    done = kept(arguments.steps)
    ready = {(row["instance"], row["step"]) for row in done["rows"]}
    for step in arguments.step or STEPS:
        for name, entry in library_entries(arguments.folder).items():
            if arguments.only and not {name, entry.family} & set(arguments.only):
                continue
            if (name, step) in ready and not arguments.step:
                continue
            if entry.recipe.trace is not None and arguments.traces is None:
                continue
            trace = None if entry.recipe.trace is None else str(arguments.traces / local[name])
            instance, began = library(name, trace=trace, folder=arguments.folder), time.perf_counter()
            changes = []
            for claim in claims(step, entry, instance, arguments.seconds):
                try:
                    found = submission(claim, who=arguments.who, trace=trace, folder=arguments.folder)
                except NotBetterError:
                    continue
                write_submission(found, arguments.folder)
                changes += found.changes
            spent = time.perf_counter() - began
            done = kept(arguments.steps)  # another may work on other families
            done["rows"] = [row for row in done["rows"] if (row["instance"], row["step"]) != (name, step)]
            done["rows"].append({"instance": name, "step": step, "seconds": round(spent, 1), "changes": changes})
            keep(done, arguments.steps)
            print(f"{name} {step} {spent:.1f} s: {'; '.join(changes) or 'nothing better'}", flush=True)


if __name__ == "__main__":
    main()
