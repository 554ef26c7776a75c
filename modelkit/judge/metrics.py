"""The metrics of a replayed schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import numpy as np

from modelkit.instance import Instance, whole
from modelkit.judge.rules import Residency, Verdict
from modelkit.judge.slo import SLO_METRICS

#: Metrics and what they mean. ``{t}`` is the time unit: ``rounds`` under the unit clock, else ``ms``; names that end in
#: ``_ms`` as they stand are metrics of real time alone.
METRICS: dict[str, str] = {
    "total_latency_{t}": "sum over requests of completion - arrival",
    "mean_latency_{t}": "mean of completion - arrival",
    "p50_latency_{t}": "latency that half of the requests do not exceed",
    "p95_latency_{t}": "latency that 95 % of the requests do not exceed",
    "p99_latency_{t}": "latency that 99 % of the requests do not exceed",
    "mean_first_token_{t}": "mean time from arrival to the end of the round of the first token",
    "p99_first_token_{t}": "time to first token that 99 % of the requests do not exceed",
    "mean_per_output_token_{t}": "mean of (completion - first token) / (o - 1) over requests with o > 1",
    "p90_latency_ms": "latency that 90 % of the requests do not exceed",
    "total_ttft_ms": "sum over requests of the time to first token, from arrival to the end of its iteration",
    "mean_ttft_ms": "mean time to first token; another name of mean_first_token_ms",
    "p50_ttft_ms": "time to first token that half of the requests do not exceed",
    "p90_ttft_ms": "time to first token that 90 % of the requests do not exceed",
    "p99_ttft_ms": "time to first token that 99 % do not exceed; another name of p99_first_token_ms",
    "mean_tpot_ms": "mean time per output token; another name of mean_per_output_token_ms",
    "p50_tpot_ms": "time per output token that half of the requests with o > 1 do not exceed",
    "p90_tpot_ms": "time per output token that 90 % of the requests with o > 1 do not exceed",
    "p99_tpot_ms": "time per output token that 99 % of the requests with o > 1 do not exceed",
    "makespan_{t}": "completion of the last request, from time 0",
    "throughput_tokens_per_{s}": "output tokens / makespan",
    "slot_utilisation": "time in which slots hold an unfinished request / (J * makespan), the mean of all replicas",
    "slot_decode_utilisation": "time in which slots decode / (J * makespan); prefills are not in it",
    "kv_utilisation": "held tokens integrated over time / (M * makespan), the mean of all replicas",
    "peak_kv_tokens": "most tokens held in any round, by one replica",
    "rounds": "decode rounds run, by all replicas",
    "idle_rounds": "rounds in which no request was active; under the unit clock gaps count too",
    "evictions": "requests that lost their tokens",
    "recomputed_tokens": "tokens that evicted requests had in the cache; a prompt not yet processed is none",
    "pauses": "times that a request was paused",
    "paused_{t}": "sum over requests of the time in which they were paused",
    "swapped_tokens": "tokens that pauses copied out of the cache; what is resumed is copied back",
    "cached_prompt_tokens": "prompt tokens that requests found in the prefix cache when they were admitted",
    "prefix_hit_share": "the same as a share of the prompt tokens of all that were admitted",
    "peak_saved_tokens": "most tokens saved in any round by holding once what several requests share",
    **SLO_METRICS,
}
#: Metrics of servers on which requests may be paused.
OF_PAUSES = ("pauses", "paused_{t}", "swapped_tokens")
#: Metrics of servers on which requests share prefixes.
OF_PREFIXES = ("cached_prompt_tokens", "prefix_hit_share", "peak_saved_tokens")


def metric_names(is_unit: bool, *, slo: bool = False, pauses: bool = False, prefixes: bool = False) -> list[str]:
    """The metrics of results under the unit clock, or in real time, in their order.

    With those of service levels, of pauses and of shared prefixes.
    """
    unit, second = ("rounds", "round") if is_unit else ("ms", "second")
    left_out = {
        *(() if slo else SLO_METRICS),
        *(() if pauses else OF_PAUSES),
        *(() if prefixes else OF_PREFIXES),
    }
    names = [name for name in METRICS if name not in left_out and not (is_unit and name.endswith("_ms"))]
    return [name.format(t=unit, s=second) for name in names]


@dataclass(slots=True)
class Totals:
    """What a replay adds up on its way; times in rounds or ms."""

    token_time: float = 0.0  # held tokens integrated over time
    slot_time: float = 0.0  # of rounds, summed over the active
    peak: int = 0
    rounds: int = 0
    idle_rounds: float = 0
    evictions: int = 0
    recomputed: int = 0
    pauses: int = 0
    paused: float = 0.0  # time, summed over the requests
    swapped: int = 0  # tokens copied out
    prompts: int = 0  # tokens of all prompts admitted
    found: int = 0  # of these in the prefix cache
    saved: int = 0

    @classmethod
    def of(cls, replicas: Iterable[Totals]) -> Totals:
        """Those of several replicas: all is added up but peaks, which are those of one."""
        every = list(replicas)
        sums = {field.name: sum(getattr(totals, field.name) for totals in every) for field in fields(cls)}
        peaks = {name: max(getattr(totals, name) for totals in every) for name in ("peak", "saved")}
        return cls(**{**sums, **peaks})


def metrics(instance: Instance, residencies: tuple[Residency, ...], totals: Totals) -> dict[str, float | None]:
    """Every metric of ``METRICS``; None where unknown, as all latencies are unless every request completes.

    Those of service levels are not among them (`slo_metrics`).
    """
    unit, second, per_second = ("rounds", "round", 1.0) if instance.is_unit else ("ms", "second", 1000.0)
    arrival = [a * per_second for a in instance.arrays.arrival.tolist()]
    output = instance.arrays.output.tolist()
    latency: list[float] = []
    first_token: list[float] = []
    per_token: list[float] = []
    makespan = 0.0
    for residency in residencies:
        if residency.completed and residency.end is not None and residency.first_token is not None:
            latency.append(residency.end - arrival[residency.request])
            first_token.append(residency.first_token - arrival[residency.request])
            makespan = max(makespan, residency.end)
            if output[residency.request] > 1:
                per_token.append((residency.end - residency.first_token) / (output[residency.request] - 1))
    complete = len(latency) == len(instance.requests)
    server = instance.server
    swaps = server.pause is not None and server.pause.keep == "swapped"
    slot_time = sum(s.end - s.begin - (s.paused if swaps else 0) for s in residencies if s.end is not None)

    def known(value: Callable[[], float]) -> float | None:
        return whole(float(value())) if complete else None

    def share(amount: float, limit: int | None) -> float | None:
        return amount / (server.replicas * limit * makespan) if complete and limit and makespan else None

    def quantile(values: list[float], q: float) -> float | None:
        return known(lambda: percentile(values, q)) if values else None

    every: dict[str, float | None] = {
        f"total_latency_{unit}": known(lambda: math.fsum(latency)),
        f"mean_latency_{unit}": known(lambda: math.fsum(latency) / len(latency)),
        f"p50_latency_{unit}": known(lambda: percentile(latency, 50)),
        f"p95_latency_{unit}": known(lambda: percentile(latency, 95)),
        f"p99_latency_{unit}": known(lambda: percentile(latency, 99)),
        f"mean_first_token_{unit}": known(lambda: math.fsum(first_token) / len(first_token)),
        f"p99_first_token_{unit}": known(lambda: percentile(first_token, 99)),
        f"mean_per_output_token_{unit}": known(lambda: math.fsum(per_token) / len(per_token)) if per_token else None,
        "p90_latency_ms": quantile(latency, 90),
        "total_ttft_ms": known(lambda: math.fsum(first_token)),
        f"makespan_{unit}": known(lambda: makespan),
        f"throughput_tokens_per_{second}": known(lambda: sum(output) * per_second / makespan) if makespan else None,
        "slot_utilisation": share(slot_time, server.slots),
        "slot_decode_utilisation": share(totals.slot_time, server.slots),
        "kv_utilisation": share(totals.token_time, server.kv_capacity_tokens),
        "peak_kv_tokens": totals.peak,
        "rounds": totals.rounds,
        "idle_rounds": whole(float(totals.idle_rounds)),
        "evictions": totals.evictions,
        "recomputed_tokens": totals.recomputed,
        "pauses": totals.pauses,
        f"paused_{unit}": whole(float(totals.paused)),
        "swapped_tokens": totals.swapped,
        "cached_prompt_tokens": totals.found,
        "prefix_hit_share": totals.found / totals.prompts if totals.prompts else None,
        "peak_saved_tokens": totals.saved,
    }
    every["mean_ttft_ms"] = every[f"mean_first_token_{unit}"]
    every["mean_tpot_ms"] = every[f"mean_per_output_token_{unit}"]
    for q in (50, 90, 99):
        every |= {f"p{q}_ttft_ms": quantile(first_token, q), f"p{q}_tpot_ms": quantile(per_token, q)}
    names = metric_names(
        instance.is_unit, pauses=server.pause is not None, prefixes=instance.shared_prefixes is not None
    )
    return {name: every[name] for name in names}


def latencies(instance: Instance, verdict: Verdict) -> list[float]:
    """Completion - arrival of every request that completes, increasing [round or ms]."""
    per_time = 1.0 if instance.is_unit else 1000.0
    return sorted(
        residency.end - instance.requests[residency.request].arrival * per_time
        for residency in verdict.residencies
        if residency.completed and residency.end is not None
    )


def percentile(values: list[float], q: float) -> float:
    """The smallest value that ``q`` percent of the values do not exceed."""
    place = max(0, math.ceil(len(values) * (q / 100) - 1))
    return float(np.partition(values, place)[place])
