"""Every policy on every instance of the library: values, for the table of the documentation that compares them.

    python benchmarks/library_policies.py [--largest 1000]

What is there already is kept; the values are set against the bounds that the library has when the documentation is
built. Policies run with their defaults; those that look at the future are left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from record import keep, kept

import modelkit as mk
from modelkit.errors import ModelkitError
from modelkit.policies import policies
from modelkit.simulation.simulate import fitting_policies
from modelkit.sources.library import library, library_entries
from modelkit.sources.library.divisions import told

OUT = Path(__file__).parent / "results" / "library_policies.json"


def values(instance: mk.Instance) -> dict[str, dict[str, float]]:
    """Of each division, the value of every policy that serves all requests."""
    names = [name for name in fitting_policies(instance) if not policies()[name].clairvoyant]
    found: dict[str, dict[str, float]] = {}
    for division, model in told(instance).items():
        for name in names:
            try:
                result = mk.simulate(instance, name, predictions=model)
            except ModelkitError:
                continue
            if result.status in ("optimal", "feasible") and result.objective.value is not None:
                found.setdefault(division, {})[name] = round(result.objective.value, 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=1000, help="instances up to this number of requests")
    largest = parser.parse_args().largest
    done = kept(OUT)
    ready = {row["sha256"] for row in done["rows"]}
    for name, entry in library_entries().items():
        if entry.sha256 in ready or entry.size > largest or entry.recipe.trace is not None:
            continue
        done["rows"].append({"instance": name, "sha256": entry.sha256, "values": values(library(name))})
        keep(done, OUT)
        print(name, flush=True)


if __name__ == "__main__":
    main()
