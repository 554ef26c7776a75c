"""What a search for sustainable load came to: a limit for each policy, and what nobody can exceed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelkit.certificate import Certificate
from modelkit.experiments.sustain.journal import Probe
from modelkit.experiments.sustain.traffic import Over
from modelkit.io import save_certificate, save_instance, write_text
from modelkit.judge.slo import slo_words
from modelkit.requests import ServiceLevels
from modelkit.text import count, join_words, number, percent

#: Share of the intervals that cover what is estimated, and resamples of the seeds.
LEVEL, RESAMPLES = 0.95, 2000
#: Fewest seeds that have an interval.
FEWEST = 3
#: Mean latencies within which requests arrive too soon after each other for a steady state.
SHORT = 10.0
#: What is looked for, its unit, and in words.
AXES: dict[Over, tuple[str, str]] = {
    "rate": ("rate", "requests/s"),
    "kv_capacity": ("KV capacity", "tokens"),
    "slots": ("number of slots", "slots"),
}


def plain_stem(name: str) -> str:
    """A name as the stem of a file's."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:120] or "instance"


@dataclass(frozen=True)
class Point:
    """What a policy did at one value of the axis, over all seeds."""

    value: float
    probes: tuple[Probe, ...]

    @property
    def share(self) -> float:
        """Share of the requests of all seeds that keep their levels."""
        return sum(p.within for p in self.probes) / sum(p.requests for p in self.probes)

    def mean(self, metric: str) -> float | None:
        """Mean of a metric over seeds; None where one of them has none."""
        values = [p.metrics.get(metric) for p in self.probes]
        return None if None in values else float(np.mean([v for v in values if v is not None]))


@dataclass(frozen=True)
class PolicyLimit:
    """The hardest value at which a policy keeps the levels.

    Parameters
    ----------
    value
        The largest rate, or the least memory or slots, that was seen to suffice; None where none was.
    fails
        The nearest value that was seen not to; None where the end of what may be tried suffices.
    low, high
        95 % interval, by resampling the seeds; None where they are too few.
    points
        What was tried, by ascending value.
    uneven
        Whether some harder value was seen to suffice than one that does not.
    """

    policy: str
    value: float | None
    fails: float | None
    low: float | None
    high: float | None
    points: tuple[Point, ...]
    uneven: bool = False

    @property
    def at_limit(self) -> Point | None:
        """What was seen at the limit."""
        return next((p for p in self.points if p.value == self.value), None)


def limit_interval(
    points: Sequence[Point], share: float, larger_is_harder: bool
) -> tuple[float, float] | tuple[None, None]:
    """Interval of the value at which the share of requests within their levels falls below ``share``.

    Seeds are resampled; between values that were tried the share is taken to fall evenly over their logarithms.
    """
    seeds = len(points[0].probes) if points else 0
    if seeds < FEWEST or len(points) < 2:
        return None, None
    rng = np.random.default_rng(seeds)
    within = np.array([[p.within for p in point.probes] for point in points], dtype=float)
    total = np.array([[p.requests for p in point.probes] for point in points], dtype=float)
    logs = np.log([point.value for point in points])
    if not larger_is_harder:
        within, total, logs = within[::-1], total[::-1], logs[::-1]
    found = []
    for pick in rng.integers(seeds, size=(RESAMPLES, seeds)):
        shares = np.minimum.accumulate(within[:, pick].sum(axis=1) / total[:, pick].sum(axis=1))
        found.append(_crossing(logs, shares, share))
    tail = (1 - LEVEL) / 2
    low, high = np.exp(np.quantile(found, [tail, 1 - tail]))
    return float(low), float(high)


def _crossing(logs: Any, shares: Any, share: float) -> float:
    """Where falling shares cross ``share``; the first or last value where they do not."""
    below = np.flatnonzero(shares < share)
    if not len(below):
        return float(logs[-1])
    k = int(below[0])
    if k == 0:
        return float(logs[0])
    drop = shares[k - 1] - shares[k]
    part = (shares[k - 1] - share) / drop if drop > 0 else 0.0
    return float(logs[k - 1] + part * (logs[k] - logs[k - 1]))


@dataclass(frozen=True)
class Sustained:
    """Limits of policies, and what nobody can exceed.

    Parameters
    ----------
    over
        What was looked for.
    slo, percentile
        Levels, and for which percentage of the requests they must be kept.
    certified
        No policy keeps the levels for that share of these requests at this rate or above it, or with this memory or
        these slots or fewer; None where that is not proven of any value.
    in_the_long_run
        No policy keeps the levels for that share of requests of these lengths at a higher rate, or with this memory or
        these slots or fewer, when requests come for ever; None where that excludes no value.
    certificates
        The proof for the draw of each seed.
    rate
        Of arrivals, where it was not looked for [1/s].
    """

    name: str
    over: Over
    slo: ServiceLevels
    percentile: float
    seeds: tuple[int, ...]
    requests: int
    arrivals: str
    rate: float | None
    limits: tuple[PolicyLimit, ...]
    certified: float | None
    in_the_long_run: float | None
    certificates: tuple[Certificate, ...]
    folder: Path
    interrupted: bool = False

    @property
    def best(self) -> PolicyLimit | None:
        """The policy that sustains most."""
        known = [limit for limit in self.limits if limit.value is not None]
        sign = 1 if self.larger_is_harder else -1
        return max(known, key=lambda limit: sign * (limit.value or 0.0), default=None)

    @property
    def larger_is_harder(self) -> bool:
        """Whether larger values of the axis ask more of the server."""
        return self.over == "rate"

    @property
    def levels_words(self) -> str:
        """The levels in words, with the percentage of the requests that must keep them."""
        return f"{slo_words(self.slo)} for {self.percentile:g} % of the requests"

    def amount(self, value: float | None) -> str:
        """A value of the axis with its unit."""
        if value is None:
            return "none"
        return f"{number(value, 3 if self.over == 'rate' else 4)} {AXES[self.over][1]}"

    @property
    def sentence(self) -> str:
        """The answer in a sentence."""
        best, levels = self.best, self.levels_words
        if best is None:
            head = f"No policy that was tried keeps {levels}, at any {AXES[self.over][0]}"
        elif self.over == "rate":
            head = f"{self._best_words} within {levels}"
        else:
            head = f"{self._best_words} to keep {levels} at {number(self.rate or 0, 3)}/s"
        return f"{head}{self.limit_words}."

    @property
    def _best_words(self) -> str:
        """Who is best, with ties said as ties, and at what."""
        value = None if self.best is None else self.best.value
        who = [limit.policy for limit in self.limits if limit.value == value]
        verb = ("sustain" if self.over == "rate" else "need") + ("s" if len(who) == 1 else "")
        return f"{join_words(who)} {verb} {self.amount(value)}"

    @property
    def headline(self) -> str:
        """The answer in few words, without the levels."""
        best, known = self.best, self.in_the_long_run
        if best is None or best.value is None:
            return self.sentence.partition(";")[0].removesuffix(".")
        head = self._best_words
        if not known:
            return head
        if self.is_beyond:  # a few requests drain afterwards: no share of what can go on for ever
            return f"{head}; {self._long_run_words}"
        if self.over != "rate":
            return f"{head}; nobody does with {self.amount(known)}"
        return f"{head}, {percent(best.value / known)} of the most that any policy can in the long run"

    @property
    def limit_words(self) -> str:
        """What nobody can do, as the end of a sentence."""
        known = []
        if self.in_the_long_run is not None:
            known.append(self._long_run_words)
        if self.certified is not None:
            amount = self.amount(self.certified)
            known.append(
                f"of these requests nobody can with {amount} {'or more' if self.over == 'rate' else 'or fewer'}"
            )
        return "".join(f"; {words}" for words in known)

    @property
    def is_beyond(self) -> bool:
        """Whether the best policy does, with these requests, what nobody can in the long run."""
        best, known = self.best, self.in_the_long_run
        if best is None or best.value is None or known is None:
            return False
        return best.value > known if self.larger_is_harder else best.value <= known

    @property
    def _long_run_words(self) -> str:
        """What nobody can do in the long run; and that few requests allow more, where they do."""
        amount = self.amount(self.in_the_long_run)
        than = f"more than {amount}" if self.larger_is_harder else f"only {amount}"
        only = "only so few requests allow that: " if self.is_beyond else ""
        return f"{only}in the long run nobody does with {than}"

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader should know of the answer, a sentence each."""
        told = [
            "interrupted: limits lie between what suffices and what fails; run it again to go on"
        ] * self.interrupted
        short = [limit.policy for limit in self.limits if self.is_short(limit)]
        if short:
            told.append(
                f"{join_words(short)}: at the limit all requests arrive within {SHORT:g} times the mean latency, so"
                " that the server drains rather than sustains; more requests give a truer limit"
            )
        uneven = [limit.policy for limit in self.limits if limit.uneven]
        if uneven:
            again = "above the limit a higher rate" if self.larger_is_harder else "below the limit a smaller value"
            told.append(f"{join_words(uneven)}: {again} suffices again, by the chance of the draws")
        return tuple(told)

    def is_short(self, limit: PolicyLimit) -> bool:
        """Whether requests arrive within too short a time at the limit of a policy."""
        at, rate = limit.at_limit, limit.value if self.over == "rate" else self.rate
        latency = None if at is None else at.mean("mean_latency_ms")
        return latency is not None and bool(rate) and self.requests / (rate or 1.0) < SHORT * latency / 1000.0

    def save(self) -> list[Path]:
        """Write the answer, and the certificates of every draw with its instance, to the folder."""
        written = [self.folder / "sustain.json"]
        write_text(written[0], json.dumps(self.document(), ensure_ascii=False, allow_nan=False, indent=1) + "\n")
        for certificate in self.certificates:
            stem = self.folder / "certified" / plain_stem(certificate.instance.name)
            stem.parent.mkdir(exist_ok=True)
            assert certificate.instance.instance is not None
            save_instance(certificate.instance.instance, f"{stem}.json")
            save_certificate(certificate, f"{stem}.certificate.json")
        return [*written, self.folder / "certified"] if self.certificates else written

    def document(self) -> dict[str, Any]:
        """All of it as JSON-ready data."""
        return {
            "source": self.name,
            "over": self.over,
            "unit": AXES[self.over][1],
            "slo": self.slo.document(),
            "percentile": self.percentile,
            "seeds": list(self.seeds),
            "requests": self.requests,
            "arrivals": self.arrivals,
            "rate": self.rate,
            "policies": {limit.policy: self._limit_document(limit) for limit in self.limits},
            "certified": self.certified,
            "in_the_long_run": self.in_the_long_run,
            "interrupted": self.interrupted,
            "sentence": self.sentence,
        }

    def _limit_document(self, limit: PolicyLimit) -> dict[str, Any]:
        at = limit.at_limit
        return {
            "value": limit.value,
            "fails_at": limit.fails,
            "low": limit.low,
            "high": limit.high,
            "metrics": {} if at is None else {name: at.mean(name) for name in at.probes[0].metrics},
            "points": [
                {"value": p.value, "within_slo": p.share, "seeds": [q.within / q.requests for q in p.probes]}
                for p in limit.points
            ],
        }

    def __repr__(self) -> str:
        return f"Sustained({self.sentence!r}, {count(len(self.seeds), 'seed')})"
