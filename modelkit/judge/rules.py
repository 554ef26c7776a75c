"""What the judge says of a schedule: rules broken, metrics, and the replay itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from modelkit.instance import whole

#: Every rule of the judge: what a violation says and in what its size is counted.
RULES: dict[str, tuple[str, str]] = {
    "unknown_request": ("a segment names a request that the instance does not have", "requests"),
    "missing": ("a request is never admitted", "tokens"),
    "admitted_twice": ("a request is admitted while it is in progress or after it is done", "admissions"),
    "before_arrival": ("a request is admitted before it arrives", "time"),
    "unfinished": ("the schedule ends before a request has produced all its tokens", "tokens"),
    "not_running": ("a request is evicted that is not in progress", "evictions"),
    "pause_not_allowed": ("a request is paused although the server keeps no tokens of paused requests", "pauses"),
    "pause_not_running": ("a request is paused that does not run", "pauses"),
    "resume_not_paused": ("a request is resumed that is not paused", "resumptions"),
    "unknown_slot": ("a request is admitted into a slot that the server does not have", "slots"),
    "slot_overlap": ("a request is admitted into a slot that still holds another", "tokens"),
    "too_many_in_progress": ("more requests are in progress than the server has slots", "requests"),
    "kv_capacity": ("the requests in progress hold more tokens than the KV cache", "tokens"),
    "prefill_level": ("a prefill has more prompt tokens than any level holds", "tokens"),
    "time_order": ("a segment begins before the one ahead of it has ended", "time"),
    "chunk_of_nothing": ("a segment processes a chunk of a prompt that is not there to be split", "chunks"),
    "chunked_prefill": ("prompts are split although the clock does not mix prefill and decoding", "schedules"),
    "unknown_replica": ("a segment is on a replica that the server does not have", "replicas"),
    "two_replicas": ("a request is admitted on a second replica", "admissions"),
    "whole_rounds": ("under the unit clock a segment begins within a round", "time"),
}


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule: which (see ``RULES``), by how much, when, and by which request."""

    rule: str
    size: float
    at: float | None
    request: str | None
    message: str

    def document(self) -> dict[str, Any]:
        """The violation as JSON-ready data."""
        return {
            "rule": self.rule,
            "size": whole(self.size),
            "unit": RULES[self.rule][1],
            "at": None if self.at is None else whole(self.at),
            "request": self.request,
            "message": self.message,
        }


class Interval(NamedTuple):
    """Rounds between two events, in which the same requests run.

    Parameters
    ----------
    begin, end
        Times, in rounds or ms.
    rounds
        How many there are; 0 where time passes without any, as in exclusive prefills.
    active
        Requests that run.
    first_tokens, last_tokens
        Tokens held in the first and in the last of them, what requests share counted once.
    replica
        On which replica, from 1.
    decoding
        Requests that process one token each in every round.
    prompt_tokens
        Tokens of prompts that every round processes, but for exclusive prefills.
    """

    begin: float
    end: float
    rounds: int
    active: int
    first_tokens: int
    last_tokens: int
    replica: int = 1
    decoding: int = 0
    prompt_tokens: int = 0


class Residency(NamedTuple):
    """One admission of a request: from its admission to its completion or eviction; times in rounds or ms.

    Under the linear clock the arrival of a request is in seconds: 1000 times that is in ms.

    Parameters
    ----------
    request
        Its position: the request is ``instance.requests[residency.request]``.
    slot
        The slot that it takes, where slots are numbered.
    begin
        When it is admitted.
    first_token
        When its first token is there; None when it never came.
    end
        When it is complete or evicted; None when it never was.
    completed
        Whether it produced all its tokens.
    replica
        On which replica, from 1.
    pauses
        The times, from and until, in which it was paused.
    """

    request: int
    slot: int | None
    begin: float
    first_token: float | None
    end: float | None
    completed: bool
    replica: int = 1
    pauses: tuple[tuple[float, float], ...] = ()

    @property
    def paused(self) -> float:
        """How long it was paused in all."""
        return math.fsum(until - since for since, until in self.pauses)


@dataclass(frozen=True)
class Verdict:
    """What the judge says of a schedule.

    Parameters
    ----------
    violations
        Empty exactly when the schedule is valid.
    metrics
        See ``METRICS``; None where unknown, as all latencies are unless every request completes.
    intervals, residencies
        The replay itself, for charts, in the order of their beginnings. Times in rounds or ms.
    """

    violations: tuple[Violation, ...]
    metrics: dict[str, float | None]
    intervals: tuple[Interval, ...]
    residencies: tuple[Residency, ...]

    def __repr__(self) -> str:
        if self.violations:
            n = len(self.violations)
            return f"Verdict({n:,} violation{'' if n == 1 else 's'}, the first {self.violations[0].rule})"
        told = [f"{name} {whole(value)!r}" for name, value in self.metrics.items() if value is not None]
        return f"Verdict(valid, {', '.join(told[:1])})"

    @property
    def stretches(self) -> tuple[Interval, ...]:
        """Former name of ``intervals``, for formulation files that ask for it."""
        return self.intervals

    @property
    def stays(self) -> tuple[Residency, ...]:
        """Former name of ``residencies``, for formulation files that ask for it."""
        return self.residencies

    def on(self, replica: int) -> Verdict:
        """The replay of one replica, under the violations and metrics of all."""
        return replace(
            self,
            intervals=tuple(interval for interval in self.intervals if interval.replica == replica),
            residencies=tuple(residency for residency in self.residencies if residency.replica == replica),
        )

    @property
    def valid(self) -> bool:
        """Whether no rule is broken."""
        return not self.violations
