"""How far from optimal a server was: its log against a simulation, policies, the best schedule found and a bound.

The requests of a log become an instance whose clock is a cost model fitted to the log's own stamps. Under it
`vllm-like` says whether the model explains the log, `modelkit.solving.bound` what no schedule undercuts and the best
schedule that it finds, and the policies what else a server could have done. The observed numbers are the log's, not
judged; all others are the judge's.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from modelkit.arguments import checked_arguments
from modelkit.errors import Fault, InputError, PolicyError, UsageError
from modelkit.instance import Instance
from modelkit.judge.slo import Slo, service_levels
from modelkit.reporting.evidence import sentence_of
from modelkit.reporting.observation import Observation
from modelkit.result import Progress, Result
from modelkit.runtime.resources import VERSION
from modelkit.simulation.simulate import fitting_policies, simulate
from modelkit.solving.bound import bound
from modelkit.solving.certified import CertifiedBound
from modelkit.solving.goodput import most_in_time
from modelkit.sources.calibrate import COEFFICIENTS
from modelkit.sources.logs import Log
from modelkit.sources.logs.importing import law_of, taken_log
from modelkit.sources.logs.law import Law
from modelkit.sources.logs.observed import (
    AS_LOGGED,
    Observed,
    held_at_once,
    instance_of,
    most_at_once,
    observed_of,
    server_of,
)
from modelkit.text import THIN, count, number

#: The policy of the engine whose logs these are, nearly.
ENGINE = "vllm-like"
#: Default limit [s].
TIME_LIMIT = 30.0
#: Share of the limit in which policies are started.
POLICIES_SHARE = 0.3
#: Relative error of the simulated mean latency up to which the model explains a log, and up to which roughly.
EXPLAINS, ROUGHLY = 0.04, 0.15


@dataclass(frozen=True)
class Judgement:
    """What a log comes to.

    Parameters
    ----------
    law
        Fitted to the log; None where a server was named.
    simulated
        Of `ENGINE` under the log's limits.
    bound
        Certified, with the best schedule that its search found.
    policies
        By name; the engine's own among them.
    limits
        Of the simulations: requests at once and tokens of an iteration, where the log or the user says.
    capacity_from
        What says how many tokens the KV cache holds; None where nothing does.
    """

    log: Log
    law: Law | None
    instance: Instance
    observed: Observed
    simulated: Result
    bound: CertifiedBound
    policies: dict[str, Result]
    limits: dict[str, Any]
    notes: tuple[str, ...]
    capacity_from: str | None = None

    @property
    def best(self) -> Result:
        """The best schedule found, whoever found it."""
        found = [self.bound.result, *self.policies.values()]
        return min((r for r in found if r.objective.value is not None), key=lambda r: r.objective.value or 0.0)

    @property
    def best_by(self) -> str:
        """Who found the best schedule: a policy of `policies`, or what the search of the bound began or ended with."""
        names = (name for name, result in self.policies.items() if result is self.best)
        return next(names, self.best.producer.name)

    @property
    def observed_ms(self) -> float:
        """The mean latency that the log shows."""
        return self.observed.metrics["mean_latency_ms"] or 0.0

    @property
    def best_ms(self) -> float:
        """The mean latency of the best schedule found."""
        return self.best.metrics["mean_latency_ms"] or 0.0

    @property
    def least_ms(self) -> float:
        """The mean latency that no schedule undercuts."""
        return self.bound.value / len(self.instance.requests)

    @property
    def off(self) -> float:
        """(simulated - observed) / observed, of the mean latency."""
        return (self.simulated.metrics["mean_latency_ms"] or 0.0) / self.observed_ms - 1 if self.observed_ms else 0.0

    @property
    def contradicted(self) -> bool:
        """Whether the log undercuts the bound, so that the cost model or the limits are not those of the server."""
        return self.least_ms > self.observed_ms * (1 + 1e-9)

    @property
    def sentence(self) -> str:
        """The answer in a sentence."""
        if self.contradicted:
            return (
                f"The log shows a mean latency of {_s(self.observed_ms)} ({AS_LOGGED}), less than the"
                f" {_s(self.least_ms)} that no schedule undercuts under this cost model: the cost model or"
                " the limits are not those of the server."
            )
        model = "the cost model fitted to the log" if self.law is not None else "the server that was named"
        took = f"This server took {_s(self.observed_ms)} on average ({AS_LOGGED})"
        rest = f"the best schedule found takes {_s(self.best_ms)}, and no schedule takes less than {_s(self.least_ms)}"
        if abs(self.off) > ROUGHLY:
            return f"{took}, which {model} does not explain; on that, {rest}."
        return f"{took}; {rest}, on {model}."

    @property
    def verdict(self) -> str:
        """Whether the model explains the log, in words."""
        how = (
            "explains the log"
            if abs(self.off) <= EXPLAINS
            else "explains the log roughly"
            if abs(self.off) <= ROUGHLY
            else "does not explain the log, so the other numbers describe the model, not the server"
        )
        return f"the model {how}: {ENGINE} takes {_s(self.simulated.metrics['mean_latency_ms'])}, {self.off:+.1%}"

    @property
    def observation(self) -> Observation:
        """The observed run, and what a page says of it."""
        remarks = (self.verdict, *self.notes)
        sentence = re.sub(r"(\d) s\b", rf"\1{THIN}s", self.sentence)  # not broken before its unit
        head, *rows = ((name, *cells) for name, cells in self.rows)
        return Observation(
            self.observed, sentence, tuple(f"{sentence_of(words)}." for words in remarks), (head, tuple(rows))
        )

    @cached_property
    def most_in_time(self) -> float | None:
        """The share of the requests that no schedule exceeds within the service levels; None without levels."""
        return None if self.instance.server.slo is None else most_in_time(self.instance)

    @property
    def rows(self) -> list[tuple[str, list[str]]]:
        """A table: the observed, simulated, policies, best and bound [s]; policies with equal figures share a row."""

        def row(name: str, metrics: Mapping[str, float | None]) -> tuple[str, list[str]]:
            return name, [_cell(key, metrics.get(key)) for key in columns]

        columns = TABLE if self.instance.server.slo is None else {**TABLE, "within_slo": "in SLO"}
        others: dict[tuple[str, ...], list[str]] = {}
        for name, result in sorted(self.policies.items(), key=lambda pair: pair[1].metrics["mean_latency_ms"] or 0.0):
            if name != ENGINE:
                others.setdefault(tuple(row(name, result.metrics)[1]), []).append(name)
        rows = [("[s], TPOT [ms]", list(columns.values()))]
        rows += [row(AS_LOGGED, self.observed.metrics), row(f"{ENGINE}, simulated", self.simulated.metrics)]
        rows += [(", ".join(names), list(cells)) for cells, names in others.items()]
        best = self.best_by
        if best in self.policies and self.best is not self.policies[best] and "max_batch_tokens" in self.limits:
            best += ", any number of tokens an iteration"
        rows.append(row(f"best found ({best})", self.best.metrics))
        rows.append(row("no schedule below", {"mean_latency_ms": self.least_ms}))
        if self.most_in_time is not None:
            rows.append(row("no schedule above", {"within_slo": self.most_in_time}))
        return rows

    @property
    def markdown(self) -> str:
        """The answer in a line, to paste."""
        name = self.instance.name.replace("|", "-").replace("`", "")
        served = count(len(self.instance.requests), "request")
        head = f"`{name}`, {served}: mean latency **{_s(self.observed_ms)}** {AS_LOGGED},"
        if self.contradicted:
            return (
                f"{head} less than the **{_s(self.least_ms)}** that no schedule undercuts under this cost model, which"
                f" or whose limits are not those of the server (modelkit {VERSION})"
            )
        doubt = ", which the model does not explain" if abs(self.off) > ROUGHLY else ""
        return (
            f"{head} {_s(self.simulated.metrics['mean_latency_ms'])} simulated ({self.off:+.1%}{doubt}),"
            f" **{_s(self.best_ms)}** best schedule found, **{_s(self.least_ms)}** proven least (modelkit {VERSION})"
        )

    def document(self, certificate: str | None = None) -> dict[str, Any]:
        """All of it as JSON-ready data; ``certificate`` is the file of the bound's, where it was written."""
        held = held_at_once(self.log)
        known = self.instance.server.kv_capacity_tokens
        source = self.capacity_from or "not known, so no limit; at least what was held"
        return {
            "log": {"format": self.log.format, "requests": len(self.log.records), "left_out": self.log.left_out},
            "law": self._law_document(),
            "kv_capacity": {
                "tokens": known,
                "from": source,
                "at_least": held,
            },
            "observed": dict(self.observed.metrics),
            "simulated": {"policy": ENGINE, **self.simulated.metrics},
            "bound": {
                "mean_latency_ms": self.least_ms,
                "kind": self.bound.certificate.kind,
                "certificate": certificate,
                "contradicted": self.contradicted,
            },
            "best": {**self.best.metrics, "producer": self.best_by},
            **({} if (most := self.most_in_time) is None else {"goodput": {"within_slo_at_most": most}}),
            "policies": {name: dict(result.metrics) for name, result in self.policies.items()},
            "verdict": self.verdict,
            "notes": list(self.notes),
        }

    def _law_document(self) -> dict[str, Any]:
        law = {name: getattr(self.instance.server.clock, name, 0.0) for name in COEFFICIENTS}
        errors = self.law.errors if self.law is not None else {}
        shares = {phase: errors[phase].mape if phase in errors else None for phase in ("decode", "prefill")}
        return {**law, "error": shares, "untold": list(self.law.untold) if self.law is not None else []}


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return ""
    if key == "within_slo":
        return f"{value:.1%}"
    if "tpot" in key:
        return f"{value:.1f}"
    return f"{value / 1000:.2f}" if value < 1e6 else f"{value / 1000:,.0f}"


def _s(ms: float | None) -> str:
    return "unknown" if ms is None else f"{number(ms / 1000)} s"


@checked_arguments
def judge_log(
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    server: str | None = None,
    model: str | None = None,
    requests: int | None = None,
    skip: int = 0,
    from_: float | None = None,
    until: float | None = None,
    kv_capacity: int | None = None,
    max_batch: int | None = None,
    max_batch_tokens: int | None = None,
    time_unit: str | None = None,
    slo: Slo = None,
    time_limit: float = TIME_LIMIT,
    seed: int = 0,
    listen: Callable[[Progress], None] | None = None,
) -> Judgement:
    """How far from optimal a server was, from its log alone.

    Parameters
    ----------
    format, server, model, requests, skip, from_, until, kv_capacity, max_batch, max_batch_tokens, time_unit
        As of `modelkit.sources.logs.importing.import_log`.
    slo
        Service levels, such as ``"ttft=450ms,tpot=40ms"``; the instance has them.
    time_limit
        Seconds for policies, the bound and the search.
    seed
        Of policies and of the search.
    listen
        Called with the phases, schedules and bounds.

    Raises
    ------
    UsageError
        No such format, or the file cannot be opened.
    InputError
        With all faults of the file; or it has no stamps, or carries no law and no server is named.
    InfeasibleError
        Some request can never run on the server.
    """
    listen = listen or (lambda progress: None)
    began = time.perf_counter()
    log = taken_log(
        "judge", path, format, model=model, requests=requests, skip=skip, from_=from_, until=until,
        kv_capacity=kv_capacity, max_batch=max_batch, max_batch_tokens=max_batch_tokens, time_unit=time_unit,
    )  # fmt: skip
    law = None if server is not None else law_of(log)
    host = server_of(server, law)
    instance = instance_of(log, host.model_copy(update={"slo": service_levels(slo) or host.slo}))
    observed = observed_of(log, instance)
    if observed is None:
        some = sum(not record.stamped for record in log.records)
        words = (
            f"{some:,} of {count(len(log.records), 'request')} {'has' if some == 1 else 'have'} no times of the first"
            " and the last token; nothing to judge"
        )
        raise InputError(log.where, [Fault("file", words)])
    limits, notes = _limits(log, instance)
    now = time.perf_counter()
    until = now + POLICIES_SHARE * max(1.0, time_limit - (now - began))
    policies = _policies(instance, limits, seed, until, listen)
    left = max(1.0, time_limit - (time.perf_counter() - began))
    found = bound(instance, objective="latency", time_limit=left, seed=seed, listen=listen)
    said = (*log.notes, *(law.notes if law is not None else ()), *notes)
    source = None
    if instance.server.kv_capacity_tokens is not None:
        source = "--kv-capacity" if kv_capacity is not None else "log" if log.engine.kv_tokens else "--server"
    return Judgement(log, law, instance, observed, policies[ENGINE], found, policies, limits, said, source)


def _limits(log: Log, instance: Instance) -> tuple[dict[str, Any], list[str]]:
    """Limits of the simulated engine, and what was assumed of them."""
    limits: dict[str, Any] = {}
    notes = []
    if instance.server.slots is None:
        limits["max_batch"] = most_at_once(log)
        notes.append(
            f"the log does not say how many requests the engine takes at once: policies take {limits['max_batch']}, the"
            " most that it shows; the bound and the search have no limit (--max-batch gives one)"
        )
    elif (running := most_at_once(log)) > instance.server.slots:
        notes.append(
            f"{running:,} requests were between first and last token at once, more than the {instance.server.slots}"
            " that the engine takes: some were evicted, or the limit is not that of the server"
        )
    if (most := log.engine.max_num_batched_tokens) is not None:
        limits |= {"max_batch_tokens": most * log.engine.engines, "chunked_prefill": True}
        notes.append(
            f"at most {count(limits['max_batch_tokens'], 'token')} an iteration in the policies; the search and the"
            " bound have no such limit"
        )
    else:
        notes.append("the log does not say how many tokens an iteration takes: no limit (--max-batch-tokens gives one)")
    if instance.server.kv_capacity_tokens is None:
        held, share = held_at_once(log), log.engine.kv_share
        least = f", {share:.0%} of it at most: it holds about {held / share:,.0f} or more" if share else ""
        notes.append(
            f"the log does not say how many tokens the KV cache holds: no limit; requests in progress needed"
            f" {held:,} or more at once{least} (--kv-capacity gives it)"
        )
    if (cached := sum(min(record.cached, record.prompt) for record in log.records)) > 0:
        share = cached / sum(record.prompt for record in log.records)
        notes.append(
            f"{share:.0%} of the prompt tokens were in the prefix cache: policies and bound are those of a server that"
            " has the same ones there; the memory that they take is not counted"
        )
    if log.engine.engines > 1:
        notes.append(f"{log.engine.engines} engines are treated as one with their combined limits")
    return limits, notes


def _policies(
    instance: Instance, limits: dict[str, Any], seed: int, until: float, listen: Callable[[Progress], None]
) -> dict[str, Result]:
    """Policies under the engine's limits: the engine's own, and others while there is time."""
    began = time.perf_counter()
    found: dict[str, Result] = {}
    for name in dict.fromkeys([ENGINE, f"{ENGINE}:gate=auto", *fitting_policies(instance)]):
        if name != ENGINE and time.perf_counter() > until:
            break
        listen(Progress(f"policy {name}", time.perf_counter() - began))
        try:
            result = simulate(instance, name, seed=seed, **limits)
        except (UsageError, PolicyError):
            if name == ENGINE:
                raise
            continue
        if result.objective.value is not None:
            found[name] = result
    if ENGINE not in found:
        raise InputError("judge", [Fault("limits", f"{ENGINE} leaves requests unfinished under them")])
    return found


#: Metrics of time in the table of a judgement, with their titles.
TABLE = {
    "mean_latency_ms": "mean", "p50_latency_ms": "p50", "p90_latency_ms": "p90", "p99_latency_ms": "p99",
    "mean_ttft_ms": "TTFT", "p99_ttft_ms": "TTFT p99", "mean_tpot_ms": "TPOT",
}  # fmt: skip
