"""Requests within their service levels: the best policy, the search that knows all lengths, and the certified most.

``python benchmarks/goodput.py [--trace CSV]`` writes ``benchmarks/results/goodput.json`` and prints a table.

Chats on two A100 and on eight H100 at loads that are too high, and the first 500 requests of the Azure conversation
trace, where there is one. Every schedule is judged, every certificate recomputed. Policies see what they see online;
the search has `SECONDS` for policies, prices and schedules.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from record import keep, stamp

import modelkit as mk
from modelkit.sources.traces import import_trace

SECONDS = 15.0
POLICIES = ("vllm-like", "mc-sf", "svf", "mc-sf:gate=auto", "svf:gate=auto")
CHATS = (
    ("llama2-70b-2xa100", 300, 20.0, "latency=10s"),
    ("llama2-70b-2xa100", 400, 30.0, "ttft=1s,tpot=90ms"),
    ("llama2-70b-2xa100", 1000, 15.0, "ttft=2s,tpot=150ms"),
    ("llama2-70b-8xh100", 200, 60.0, "mlperf:llama2-70b-interactive"),
    ("llama2-70b-8xh100", 1000, 60.0, "mlperf:llama2-70b-interactive"),
)


def instances(trace: Path) -> Iterator[tuple[str, mk.Instance, str]]:
    """Each with its name and its levels."""
    for server, requests, rate, slo in CHATS:
        name = f"chat, {requests:,} at {rate:g}/s, {server}"
        yield name, mk.generate("chat", seed=1, requests=requests, rate=rate, server=server), slo
    if trace.is_file():
        whole = import_trace("azure", trace, server="llama2-70b-8xh100")
        yield "Azure, 500, llama2-70b-8xh100", whole.replace(requests=whole.requests[:500]), CHATS[-1][3]


def measured(name: str, instance: mk.Instance, slo: str) -> dict[str, Any]:
    """The row of an instance."""
    n = len(instance.requests)
    policies = {p: mk.simulate(instance, p, slo=slo).metrics["requests_within_slo"] for p in POLICIES}
    found = mk.bound(instance, objective="goodput", slo=slo, time_limit=SECONDS)
    assert not mk.verify_certificate(found.certificate, instance).faults
    assert found.result.objective.value is not None
    return {
        "instance": name, "slo": slo, "requests": n, "policies": policies,
        "searched": n - found.result.objective.value, "by": found.result.producer.name, "most": n - found.value,
    }  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trace", type=Path, default=Path("azure_llm_2023_conv.csv"))
    asked = parser.parse_args()
    document: dict[str, Any] = {**stamp(), "seconds": SECONDS, "rows": []}
    for name, instance, slo in instances(asked.trace):
        row = measured(name, instance, slo)
        document["rows"].append(row)
        best = max(row["policies"].values())
        print(f"{name:45} {slo:30} policies {best:5.0f}  search {row['searched']:5.0f}  at most {row['most']:5.0f}")
    keep(document, Path(__file__).resolve().parent / "results" / "goodput.json")


if __name__ == "__main__":
    main()
