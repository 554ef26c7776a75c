"""Gates in real time: what letting prompts in together is worth, on sixteen instances.

``python benchmarks/gates.py [--trace CSV] [--picture]`` writes ``benchmarks/results/gates.json`` and prints a table;
with ``--picture`` also ``docs/pages/azure-hour.svg``, the Azure hour on eight H100 with and without the gate.

Chats of 1,000 and 10,000 requests at 1 to 50/s on two A100, and the first 200, the first 500 and all requests of the
Azure conversation trace, where there is one, on two A100 and on eight H100. Mean latency, by the judge, without a gate,
with ``gate=auto``, and with the best of 24 fixed gates, which is known in hindsight only. What a simulated iteration
costs is measured without and with ``gate=auto``, in turn.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from record import keep, stamp

import modelkit as mk
from modelkit.judge import judge
from modelkit.reporting.charts.svg import COLUMNS, Axis, Plot, mean_in_columns, time_axis
from modelkit.simulation.simulate import policy_schedule
from modelkit.sources.families import generate
from modelkit.sources.traces import import_trace

SERVERS = ("llama2-70b-2xa100", "llama2-70b-8xh100")
POLICIES = ("mc-sf", "svf", "vllm-like")
GATES = [f"gate={size},wait={wait}" for size in (2, 4, 8, 16, 32, 64) for wait in (0.5, 1, 2, 4)]


def instances(trace: Path) -> Iterator[tuple[str, mk.Instance]]:
    """Each with its name."""
    for requests in (1000, 10_000):
        for rate in (1, 2, 5, 10, 50):
            yield (
                f"chat, {requests:,} at {rate}/s, 2 x A100",
                generate("chat", requests=requests, rate=rate, server=SERVERS[0], seed=0),
            )
    if not trace.is_file():
        print(f"no trace at {trace}: the Azure instances are left out")
        return
    for server, name in zip(SERVERS, ("2 x A100", "8 x H100"), strict=True):
        whole = import_trace("azure", trace, server=server)
        for requests in (200, 500, len(whole.requests)):
            yield f"Azure, {requests:,}, {name}", whole.replace(requests=whole.requests[:requests])


def latency(instance: mk.Instance, policy: str) -> dict[str, float]:
    """Mean latency and what an iteration costs."""
    began = time.process_time()
    schedule = policy_schedule(instance, policy)
    spent = time.process_time() - began
    verdict = judge(instance, schedule)
    assert verdict.valid, verdict.violations[0]
    return {
        "mean_latency_ms": verdict.metrics["mean_latency_ms"],
        "evictions": verdict.metrics["evictions"],
        "microseconds_an_iteration": spent / verdict.metrics["rounds"] * 1e6,
    }


def measured(name: str, instance: mk.Instance) -> dict[str, Any]:
    """The row of an instance."""
    row: dict[str, Any] = {"instance": name, "requests": len(instance.requests), "policies": {}}
    for policy in POLICIES:
        plain, auto = latency(instance, policy), latency(instance, f"{policy}:gate=auto")
        row["policies"][policy] = {"ungated": plain, "auto": auto}
    fixed = {gate: latency(instance, f"{POLICIES[0]}:{gate}")["mean_latency_ms"] for gate in GATES}
    best = min(fixed, key=fixed.__getitem__)
    row["best_fixed"] = {"gate": best, "mean_latency_ms": fixed[best]}
    row["fixed"] = fixed
    return row


def words(row: dict[str, Any]) -> str:
    """A line of the table."""
    plain = row["policies"][POLICIES[0]]["ungated"]["mean_latency_ms"]
    changes = [
        f"{policy} {found['auto']['mean_latency_ms'] / found['ungated']['mean_latency_ms'] - 1:+7.2%}"
        for policy, found in row["policies"].items()
    ]
    best = row["best_fixed"]
    return (
        f"{row['instance']:32} {plain:14,.1f} ms; auto: {', '.join(changes)};"
        f" {best['gate']:16} {best['mean_latency_ms'] / plain - 1:+7.2%}"
    )


def picture(trace: Path, target: Path) -> None:
    """Requests in the system over the hour, a curve without the gate and one with it."""
    hour = import_trace("azure", trace, server=SERVERS[1])
    arrivals = hour.arrays.arrival * 1000
    ends = {}
    for policy in (POLICIES[0], f"{POLICIES[0]}:gate=auto"):
        verdict = judge(hour, policy_schedule(hour, policy))
        assert verdict.valid
        ends[policy] = np.array([residency.end for residency in verdict.residencies if residency.completed])
    edges = np.linspace(0, max(map(np.max, ends.values())), COLUMNS + 1)
    curves = {policy: mean_in_columns(arrivals, done, edges) for policy, done in ends.items()}
    axis, per = time_axis(False, edges[-1])
    top = Axis(0, 1.05 * max(map(np.max, curves.values())), "requests in the system")
    plot = Plot(axis, top, 260, f"Requests in the system over time: {', '.join(curves)}").axes()
    keys = []
    for k, (policy, curve) in enumerate(curves.items()):
        plot.line((edges[1:] + edges[:-1]) / 2 / per, curve, f"s{k}")
        mean = float(np.mean(ends[policy])) - float(np.mean(arrivals))
        keys.append(f'<text class="s{k}" x="{64 + 300 * k}" y="20">{policy}: mean latency {mean / 1000:.1f} s</text>')
    style = (
        ".plot,svg{overflow:visible}text{font:13px sans-serif;fill:#444}"
        ".end{text-anchor:end}.middle{text-anchor:middle}"
        ".grid{stroke:#ddd}.base{stroke:#999}.line{fill:none;stroke-width:1.5;vector-effect:non-scaling-stroke}"
        ".line.s0{stroke:#c2410c}.line.s1{stroke:#1d4ed8}text.s0{fill:#c2410c}text.s1{fill:#1d4ed8}"
    )
    target.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 360"><style>{style}</style>'
        f'<rect width="760" height="360" fill="#fff"/>{"".join(keys)}'
        f'<svg x="64" y="46" width="676" height="300">{plot.svg()}</svg></svg>\n',
        encoding="utf-8",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    here = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("MODELKIT_TRACES", here.parent / "shared" / "data"))
    parser.add_argument("--trace", type=Path, default=folder / "azure_llm_2023_conv.csv")
    parser.add_argument("--picture", action="store_true")
    options = parser.parse_args()
    policy_schedule(generate("chat", requests=50, rate=10, server=SERVERS[0]), POLICIES[0])  # compiles what is compiled
    if options.picture:
        picture(options.trace, here / "docs" / "pages" / "azure-hour.svg")
        return
    document: dict[str, Any] = {**stamp(), "policies": POLICIES, "rows": []}
    for name, instance in instances(options.trace):
        document["rows"].append(measured(name, instance))
        print(words(document["rows"][-1]), flush=True)
        keep(document, here / "benchmarks" / "results" / "gates.json")


if __name__ == "__main__":
    main()
