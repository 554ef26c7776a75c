"""The judge: one replay of a schedule against its instance.

It returns every violated rule with its size and every metric. It is the only place where a
metric is computed, it takes any schedule from anywhere, and it knows no solver.
"""

from __future__ import annotations

from dataclasses import replace

from modelkit.instance import Instance
from modelkit.judge.metrics import METRICS, latencies, metric_names, percentile
from modelkit.judge.replay import TIME_TOLERANCE_MS
from modelkit.judge.replicas import SystemReplay
from modelkit.judge.rules import RULES, Interval, Residency, Verdict, Violation
from modelkit.judge.slo import slo_metrics
from modelkit.judge.times import RequestTime, RequestTimes, request_times
from modelkit.requests import ServiceLevels
from modelkit.schedule import Schedule

__all__ = [
    "METRICS",
    "RULES",
    "TIME_TOLERANCE_MS",
    "Interval",
    "RequestTime",
    "RequestTimes",
    "Residency",
    "Verdict",
    "Violation",
    "judge",
    "latencies",
    "metric_names",
    "percentile",
    "request_times",
]


def judge(instance: Instance, schedule: Schedule, slo: ServiceLevels | None = None) -> Verdict:
    """Replay ``schedule`` against ``instance``.

    Never raises for what a schedule says; an absurd schedule has many violations. ``slo`` are service levels in place
    of the instance's own.
    """
    verdict = SystemReplay(instance, schedule).verdict()
    return replace(verdict, metrics=verdict.metrics | slo_metrics(instance, verdict.residencies, slo))
