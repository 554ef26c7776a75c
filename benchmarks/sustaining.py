"""The rate that `modelkit sustain` finds, against a sweep in steps of one percent with the same requests.

``python benchmarks/sustaining.py`` writes ``benchmarks/results/sustaining.json`` and prints a table.

Chats on two servers, four policies, three draws of 1,000 requests, 99 % within their levels. The sweep goes from a
third of the rate found to a third above it, coarsely up to 80 %, and takes every rate by itself: its answer is the last
one before the first that fails. Both sides are simulated by the product and counted by its judge; what differs is the
search. The distance is that of the two answers; `search` and `sweep` are the runs that each took.
"""

from __future__ import annotations

import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from record import keep, stamp

import modelkit as mk
from modelkit.experiments.sustain.traffic import Traffic, traffic
from modelkit.judge.slo import service_levels

SERVERS = {"llama2-70b-2xa100": "ttft=2s,tpot=150ms", "llama2-70b-8xh100": "ttft=2s,tpot=80ms"}
POLICIES = ("mc-sf", "vllm-like", "svf", "mc-sf:gate=auto")
SEEDS, REQUESTS, PERCENTILE = 3, 1000, 99
#: Rates of the sweep, as shares of what the search found.
RATES = (*np.arange(0.35, 0.8, 0.05).round(2), *np.arange(0.8, 1.331, 0.01).round(2))


def holds(drawn: Traffic, rate: float, policy: str, levels: Any) -> bool:
    """Whether enough requests of all draws keep their levels at a rate."""
    within = 0
    for seed in drawn.draws:
        result = mk.simulate(drawn.at("rate", rate, seed), policy, seed=seed, slo=levels)
        within += int(result.metrics["requests_within_slo"] or 0)
    return within >= Fraction(PERCENTILE, 100) * drawn.requests


def measured(server: str, slo: str, policy: str, folder: Path) -> dict[str, Any]:
    """The row of a policy on a server."""
    began = time.process_time()
    found = mk.sustain(
        "chat", (policy,), slo=slo, server=server, seeds=SEEDS, requests=REQUESTS, percentile=PERCENTILE,
        bound=False, folder=folder, jobs=1,
    )  # fmt: skip
    limit = found.limits[0]
    assert limit.value is not None
    drawn, levels = (
        traffic("chat", tuple(range(SEEDS)), requests=REQUESTS, options={"server": server}),
        service_levels(slo),
    )
    swept, failed, again = None, False, []
    for rate in (float(share) * limit.value for share in RATES):
        is_in_time = holds(drawn, rate, policy, levels)
        if failed and is_in_time:
            again.append(rate)
        elif is_in_time:
            swept = rate
        failed = failed or not is_in_time
        if failed and rate > 1.1 * limit.value:
            break
    assert swept is not None
    return {
        "server": server, "slo": slo, "policy": policy, "search": limit.value, "fails_at": limit.fails,
        "low": limit.low, "high": limit.high, "sweep": swept, "distance": abs(limit.value / swept - 1),
        "in_the_long_run": found.in_the_long_run, "points": len(limit.points),
        "holds_again_at": again, "seconds": time.process_time() - began,
    }  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    document: dict[str, Any] = {**stamp(), "seeds": SEEDS, "requests": REQUESTS, "percentile": PERCENTILE, "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        for server, slo in SERVERS.items():
            for policy in POLICIES:
                row = measured(server, slo, policy, Path(folder) / f"{server}-{policy.replace(':', '-')}")
                document["rows"].append(row)
                print(
                    f"{server:20} {policy:16} search {row['search']:6.3f}/s  sweep {row['sweep']:6.3f}/s "
                    f" distance {row['distance']:.2%}  {row['seconds']:.0f} s"
                )
    keep(document, Path(__file__).resolve().parent / "results" / "sustaining.json")


if __name__ == "__main__":
    main()
