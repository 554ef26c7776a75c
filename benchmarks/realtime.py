"""Real time: the best schedule, every certified bound and the gap between them, with policies beside.

    python benchmarks/realtime.py [--azure azure_llm_2023_conv.csv] [--only PREFIX ...] [--small]
                                  [--output benchmarks/results/realtime.json]

Sixteen instances: chats of 1,000 and 10,000 requests, 1 to 50 a second, on 2 x A100, and the Azure conversation trace,
200, 500 and all of its requests, on 2 x A100 and 8 x H100. `bound` has 60 s up to 1,000 requests and 120 s above.
Values are mean latencies [ms].

Beside them stand those of an earlier prototype, whose chats may be other draws of the same family: there only the gaps
compare.

``--small`` measures eight instances of 5 to 8 requests instead, which ``serving-latency`` solves: every certified bound
beside the linear relaxation of that program, by itself and with what a search over states knows, as shares of the
optimum.

Each row is measured in a process of its own and kept as it comes, with what went wrong where something did; one that
was measured on the same sources is not measured again, so an interrupted run can be resumed. Rows of the trace are
left out where its file is not there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from record import keep, kept, stamp

import modelkit as mk
from modelkit.backends import Limits, backend
from modelkit.backends.standard_form import compile_model
from modelkit.formulation.loading import load_formulation
from modelkit.instance import Instance, LinearClock, Request, Server
from modelkit.judge import judge
from modelkit.problems.problem import TOTAL_LATENCY_MS
from modelkit.simulation.simulate import fitting_policies, policy_schedule
from modelkit.solving.certified import Task
from modelkit.solving.known import known_of
from modelkit.solving.serving import ServingSearch
from modelkit.sources.families import generate
from modelkit.sources.traces import import_trace

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "realtime.json"
#: What the figures depend on; a row holds for one state of it.
SOURCES = (
    "benchmarks/realtime.py", "modelkit/certificate.py", "modelkit/clock.py", "modelkit/instance.py", "modelkit/judge",
    "modelkit/policies", "modelkit/problems", "modelkit/simulation", "modelkit/solving/certified.py",
    "modelkit/solving/serving.py", "modelkit/sources", "modelkit/verify",
)  # fmt: skip
CHAT_SEED = 1
A100, H100 = "llama2-70b-2xa100", "llama2-70b-8xh100"
#: Policies beside larger instances; up to MANY requests all that fit.
POLICIES, MANY = ("mc-sf", "svf", "vllm-like"), 1000
#: A row that takes so many times its limit does not end.
PATIENCE = 8


@dataclass(frozen=True)
class Row:
    """An instance: requests, a second's arrivals (None: the trace) and server; best schedule and bound of old [ms]."""

    requests: int
    rate: int | None
    server: str
    schedule: int
    bound: int

    @property
    def name(self) -> str:
        """Such as ``chat-1000-rate-10`` and ``azure-all-8xh100``."""
        if self.rate is not None:
            return f"chat-{self.requests}-rate-{self.rate}"
        size = self.requests if self.requests < WHOLE else "all"
        return f"azure-{size}-{self.server.rpartition('-')[2]}"

    @property
    def limit(self) -> float:
        """Time limit [s]."""
        return 60.0 if self.requests <= MANY else 120.0

    def instance(self, azure: Path | None) -> Instance:
        """The instance itself."""
        if self.rate is not None:
            rate = float(self.rate)
            return generate("chat", requests=self.requests, rate=rate, server=self.server, seed=CHAT_SEED)
        assert azure is not None
        most = {"requests": self.requests} if self.requests < WHOLE else {}
        return import_trace("azure", azure, server=self.server, **most)


#: Requests of the trace.
WHOLE = 19_366
ROWS = (
    Row(1000, 1, A100, 4_689, 4_543),
    Row(1000, 2, A100, 4_892, 4_656),
    Row(1000, 5, A100, 5_512, 4_963),
    Row(1000, 10, A100, 6_584, 5_449),
    Row(1000, 50, A100, 13_872, 8_960),
    Row(10_000, 1, A100, 4_793, 4_647),
    Row(10_000, 2, A100, 5_010, 4_771),
    Row(10_000, 5, A100, 5_748, 5_103),
    Row(10_000, 10, A100, 6_926, 5_575),
    Row(10_000, 50, A100, 56_539, 42_674),
    Row(200, None, A100, 62_148, 53_927),
    Row(500, None, A100, 186_258, 167_749),
    Row(WHOLE, None, A100, 6_549_722, 5_897_215),
    Row(200, None, H100, 15_306, 10_303),
    Row(500, None, H100, 25_425, 14_660),
    Row(WHOLE, None, H100, 63_676, 20_811),
)


def measured(row: Row, azure: Path | None, limit: float | None = None) -> dict[str, Any]:
    """Bound and schedule of `bound`, every bound that it came across, and the policies."""
    instance = row.instance(azure)
    n = len(instance.requests)
    warm_up()
    load, busy, began = os.getloadavg()[0], time.process_time(), time.perf_counter()
    limit = limit or row.limit
    search = ServingSearch(Task(instance, TOTAL_LATENCY_MS, limit, 0.0, 0, lambda progress: None, began))
    known = search.run()
    wall, busy = time.perf_counter() - began, time.process_time() - busy
    began = time.process_time()
    verified = mk.verify_certificate(known.certificate, instance).holds
    verifying = time.process_time() - began
    value = known.result.objective.value
    assert value is not None
    return {
        "requests": n,
        "sha256": instance.sha256,
        "time_limit": limit,
        "load_before": round(load, 1),
        "schedule": round(value / n, 1),
        "schedule_by": known.result.producer.name,
        "bound": round(known.value / n, 1),
        "bound_kind": max(search.bounds, key=lambda name: search.bounds[name][0]),
        "gap": round(value / known.value - 1, 4),
        "wall_s": round(wall, 1),
        "cpu_s": round(busy, 1),
        "bounds": {
            name: {"value": round(least / n, 1), "seconds": round(seconds, 2)}
            for name, (least, seconds) in sorted(search.bounds.items())
        },
        "verified": verified,
        "verify_cpu_s": round(verifying, 1),
        "certificate_bytes": len(json.dumps(known.certificate.document())),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "policies": {
            name: policy_value(instance, name) for name in (fitting_policies(instance) if n <= MANY else POLICIES)
        },
        "prototype": {"schedule": row.schedule, "bound": row.bound, "gap": round(row.schedule / row.bound - 1, 4)},
    }


def small_instance(n: int, seed: int) -> Instance:
    """Requests that delay each other: prompts take about as long as decoding; of odd seeds with half of the memory."""
    rng = np.random.default_rng(1000 * n + seed)
    prompt, output = rng.integers(4, 17, n), rng.integers(4, 10, n)
    arrival = np.sort(rng.random(n)) * 50 * n / 6
    memory = int(max((prompt + output).max(), (prompt + output).sum() // 2)) if seed % 2 else None
    clock = LinearClock(kind="linear", mixed=True, prefill_base_ms=4, prefill_per_token_ms=0.5, decode_base_ms=3)
    requests = [
        Request(id=f"q{i}", arrival=round(float(a), 3) / 1000, prompt_tokens=int(s), output_tokens=int(o))
        for i, (a, s, o) in enumerate(zip(arrival, prompt, output, strict=True))
    ]
    server = Server(kv_capacity_tokens=memory, clock=clock)
    return Instance(name=f"small-{n}-{seed}", server=server, requests=tuple(requests))


def measured_small(n: int, seed: int) -> dict[str, Any]:
    """The optimum, every certified bound, and the linear relaxation with and without the windows of starts."""
    instance, program = small_instance(n, seed), load_formulation("serving-latency")
    result = mk.solve(instance, "serving-latency", threads=1)
    best = result.objective.value
    assert best is not None
    bounds = {}
    search = ServingSearch(Task(instance, TOTAL_LATENCY_MS, 10.0, 0.0, 0, lambda progress: None, time.perf_counter()))
    search.run()
    bounds |= {name: least for name, (least, _) in search.bounds.items()}
    for name, known in (("LP", mk.Known(instance)), ("LP in windows", known_of(program, instance))):
        form, _ = compile_model(program.instantiate(instance, known))
        form.integer[:] = False
        outcome, _ = backend("highs").solve_form(form, Limits(), {})  # type: ignore[attr-defined]
        bounds[name] = outcome.bound
    return {
        "name": instance.name,
        "requests": n,
        "status": result.status,
        "seconds": round(result.seconds.total, 1),
        "optimum": round(best, 3),
        "shares": {name: round(least / best, 3) for name, least in bounds.items()},
    }


def warm_up() -> None:
    """Compile what is compiled when it is first used."""
    mk.bound(generate("chat", requests=20, rate=5.0, server=A100), time_limit=2)


def policy_value(instance: Instance, name: str) -> float | None:
    """Mean latency of a policy that is told what the instance says [ms]; None where its schedule is not valid."""
    verdict = judge(instance, policy_schedule(instance, name))
    value = verdict.metrics[TOTAL_LATENCY_MS]
    return round(value / len(instance.requests), 1) if verdict.valid and value is not None else None


def in_a_process(row: Row, azure: Path | None, limit: float | None) -> dict[str, Any]:
    """`measured` in a process of its own, or the ``error`` with which that ended."""
    command = [sys.executable, str(Path(__file__)), "--row", row.name]
    command += ["--azure", str(azure)] if azure else []
    command += ["--limit", str(limit)] if limit else []
    try:
        made = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PATIENCE * (limit or row.limit) + 120
        )
    except subprocess.TimeoutExpired as late:
        return {"error": f"not over after {late.timeout:.0f} s"}
    if made.returncode:
        return {"error": "\n".join(made.stderr.strip().splitlines()[-5:]) or f"exit code {made.returncode}"}
    found: dict[str, Any] = json.loads(made.stdout.splitlines()[-1])
    return found


def fingerprint() -> str:
    """Of the sources that the figures depend on."""
    digest = hashlib.sha256()
    files = [p for name in SOURCES for p in ([ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py"))]
    for path in sorted(files):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def told(row: dict[str, Any]) -> str:
    """A line of what was measured."""
    if "error" in row:
        return f"{row['name']}: {row['error']}"
    policies = ", ".join(f"{name} {row['policies'][name]:,.0f}" for name in POLICIES if row["policies"].get(name))
    before = row["prototype"]
    return (
        f"{row['name']}: {row['bound']:,.0f} ({row['bound_kind']}) to {row['schedule']:,.0f} ms, gap {row['gap']:.1%}"
        f" in {row['wall_s']:.0f} s ({row['cpu_s']:.0f} s CPU); before {before['bound']:,} to {before['schedule']:,},"
        f" {before['gap']:.1%}; {policies}{'' if row['verified'] else '; NOT VERIFIED'}"
    )


def main() -> None:
    """Measure what is not measured yet; exits with 1 when a row fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--azure", type=Path, metavar="CSV", help="the Azure conversation trace of 2023")
    parser.add_argument("--only", nargs="+", default=[""], metavar="PREFIX", help="rows whose name begins so")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="instead of 60 and 120 s, to try it")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--small", action="store_true", help="small instances that a program solves, instead")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.row:
        (one,) = (row for row in ROWS if row.name == chosen.row)
        print(json.dumps(measured(one, chosen.azure, chosen.limit)))
        return
    if chosen.small:
        small = [measured_small(n, seed) for n in (5, 6, 7, 8) for seed in (0, 1)]
        print(*small, sep="\n")
        keep({**kept(chosen.output), **stamp(), "small": small}, chosen.output)
        if chosen.output == RESULTS:
            subprocess.run([sys.executable, str(ROOT / "benchmarks" / "table.py")], check=True)
        return
    if chosen.azure is not None and not chosen.azure.is_file():
        print(f"{chosen.azure} is not there: rows of the trace are left out", file=sys.stderr)
        chosen.azure = None
    sources = fingerprint()
    document = {**kept(chosen.output), **stamp()}
    failed = False
    for row in ROWS:
        if not row.name.startswith(tuple(chosen.only)) or (row.rate is None and chosen.azure is None):
            continue
        known = [found for found in document["rows"] if found["name"] == row.name]
        same = [f for f in known if f["sources"] == sources and f.get("time_limit") == (chosen.limit or row.limit)]
        if not same:
            found = {"name": row.name, "sources": sources, **in_a_process(row, chosen.azure, chosen.limit)}
            rows = [other for other in document["rows"] if other["name"] != row.name] + [found]
            names = [other.name for other in ROWS]
            document["rows"] = sorted(rows, key=lambda other: names.index(other["name"]))
            keep(document, chosen.output)
            same = [found]
        failed |= "error" in same[0]
        print(told(same[0]), flush=True)
    if chosen.output == RESULTS:
        subprocess.run([sys.executable, str(ROOT / "benchmarks" / "table.py")], check=True)  # a test compares them
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
