"""What result and certificate files say together about one instance.

Where the instance is at hand nothing in the files is believed: schedules are replayed and certificates
recomputed, and what does not hold is shown as refused. Where it is not, the files are quoted and said to be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from modelkit.certificate import Certificate
from modelkit.instance import Instance, InstanceStamp
from modelkit.judge import Verdict, judge
from modelkit.lookup import Instances
from modelkit.result import Result, agree
from modelkit.verify import certificate_faults, verify_result
from modelkit.words import count, listed, metric_noun, percent, quantity

#: How far the word of a file was checked: all of it, not at all, or with faults found.
Standing = Literal["checked", "stated", "refused"]


@dataclass(frozen=True)
class Claim:
    """What one file says, and the file's name."""

    content: Result | Certificate
    file: str = ""


@dataclass(frozen=True)
class Entry:
    """One run on the case's instance.

    Parameters
    ----------
    label
        What it is called, unlike all others of its case.
    value
        The judge's value of the case's objective; None unless the schedule is valid.
    standing, faults
        Whether the file was checked, and what was found wrong.
    verdict
        The replay, where the instance is at hand and there is a schedule.
    """

    label: str
    result: Result
    file: str
    value: float | None
    standing: Standing
    faults: tuple[str, ...]
    verdict: Verdict | None

    @property
    def state(self) -> str:
        """``optimal``, ``valid``, ``invalid``, ``infeasible`` or ``none``."""
        if self.faults or self.result.violations:
            return "invalid"
        if self.value is None:
            return "infeasible" if self.result.status == "infeasible" else "none"
        return "optimal" if self.result.status == "optimal" else "valid"

    @property
    def words(self) -> str:
        """The state in words, with what happened where that is not plain."""
        stops = {"time_limit": "time limit", "interrupted": "interrupted", "failed": "failed"}
        stop = stops.get(self.result.stop)
        if self.state == "invalid":
            broken = [str(v.get("message", "a rule is broken")) for v in self.result.violations] or list(self.faults)
            more = f", and {count(len(broken) - 1, 'more fault')}" if len(broken) > 1 else ""
            return f"invalid: {broken[0]}{more}"
        if self.state == "infeasible":
            return "infeasible: no schedule exists"
        if self.state == "none":
            reason = self.result.message.partition("\n")[0]
            return f"no schedule ({stop or 'finished'})" + (f": {reason}" if reason else "")
        if self.state == "optimal":
            return "optimal"
        return "valid" + (f", {stop}" if stop and stop != "failed" else ", but the run failed" if stop else "")


@dataclass(frozen=True)
class LowerBound:
    """A lower bound on the objective of every schedule, and whose word it is.

    ``certified``: from a certificate; ``checked``: recomputed here.
    """

    value: float
    certified: bool
    checked: bool
    source: str
    certificate: Certificate | None = None

    @property
    def words(self) -> str:
        """Who says so."""
        if not self.certified:
            return f"claimed by {self.source}, which cannot be rechecked"
        return "certified, recomputed exactly" if self.checked else "by its certificate, which was not recomputed here"


@dataclass(frozen=True)
class Case:
    """All runs on one instance, with the best bound on each side.

    Parameters
    ----------
    objective
        The metric by which schedules are compared.
    bound
        The best certified lower bound; the best of a solver's where none is certified.
    claimed
        A solver's bound above the certified one.
    contradictions
        Bounds that a valid schedule refutes, in words.
    """

    stamp: InstanceStamp
    instance: Instance | None
    objective: str
    entries: tuple[Entry, ...]
    bound: LowerBound | None
    claimed: LowerBound | None
    contradictions: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the instance; the beginning of its hash where it has none."""
        return self.stamp.name or self.stamp.sha256[:12]

    @property
    def valid(self) -> list[Entry]:
        """Runs with a valid schedule, in the order given."""
        return [e for e in self.entries if e.value is not None]

    @property
    def failures(self) -> list[Entry]:
        """Runs without one."""
        return [e for e in self.entries if e.value is None]

    @property
    def best(self) -> Entry | None:
        """The best valid schedule; the first of equals."""
        return min(self.valid, key=lambda e: e.value or 0.0, default=None)

    @property
    def solved(self) -> bool:
        """Whether the best schedule meets the bound."""
        return self.bound is not None and self.best is not None and _meets(self.best.value, self.bound.value)

    @property
    def infeasible(self) -> bool:
        """Whether a run found that no schedule exists, and none has one."""
        return not self.valid and any(e.state == "infeasible" for e in self.entries)

    def above_bound(self, entry: Entry) -> float | None:
        """How far above the optimum it can be at most, by the bound; relative."""
        if entry.value is None or self.bound is None or self.bound.value <= 0:
            return None
        return max(0.0, entry.value / self.bound.value - 1)

    def above_best(self, entry: Entry) -> float | None:
        """How far above the optimum it is at least, because a schedule so much better is known; relative."""
        if entry.value is None or self.best is None or not self.best.value:
            return None
        return max(0.0, entry.value / self.best.value - 1)

    def gap(self, entry: Entry) -> float | None:
        """(value - best bound) / value."""
        if entry.value is None or self.bound is None or not entry.value:
            return None
        return max(0.0, (entry.value - self.bound.value) / entry.value)

    def sentence(self, entry: Entry, certified_too: bool = True) -> str:
        """How far from the optimum a valid schedule is, in words that are true.

        Parameters
        ----------
        certified_too
            Whether to say what is certified where a solver claims more.
        """
        best, least = self.best, self.above_best(entry) or 0.0
        reference = self.claimed if self._claim_matters(entry) else self.bound
        proven = f"; {percent(least, 'down')} is proven" if least else ""
        if entry.value is None or best is None:
            return f"{entry.label} has no valid schedule"
        if reference is None or reference.value <= 0:
            if not least:
                return f"{entry.label} is the best of these schedules; no lower bound is known"
            return f"{entry.label} is at least {percent(least, 'down')} above the optimum; no bound says at most"
        whose = "" if reference.certified else f" by the bound of {reference.source}"
        most = max(0.0, entry.value / reference.value - 1)
        if _meets(best.value, reference.value):
            words = f"{entry.label} is " + (f"{percent(most)} above the optimum" if least else "optimal") + whose
        else:
            words = f"{entry.label} is at most {percent(most, 'up')} above the optimum{whose}{proven}"
        certified = self.above_bound(entry) if reference is self.claimed and certified_too else None
        return words + (f" (certified: at most {percent(certified, 'up')})" if certified else "")

    def _claim_matters(self, entry: Entry) -> bool:
        """Whether a solver's claim says something of the entry that is not certified anyway."""
        if self.claimed is None or self.best is None or entry.value is None:
            return False
        certified, claimed = self.above_bound(entry), max(0.0, entry.value / self.claimed.value - 1)
        closes = _meets(self.best.value, self.claimed.value)
        return certified is None or closes or percent(claimed, "up") != percent(certified, "up")

    @property
    def headline(self) -> str:
        """The finding in one sentence: about the best policy where there is one, else about the best schedule."""
        if self.best is None:
            if self.infeasible:
                return "No schedule exists for this instance"
            return "No run gave a valid schedule"
        policies = [e for e in self.valid if e.result.producer.kind == "policy"]
        return self.sentence(min(policies, key=lambda e: e.value or 0.0, default=self.best), certified_too=False)

    @property
    def findings(self) -> list[str]:
        """What else is known, as sentences."""
        out = []
        noun = metric_noun(self.objective)
        if self.best is not None:
            value = quantity(self.objective, self.best.value)
            if self.solved and self.bound is not None:
                out.append(f"The least {noun} is {value}, reached by {self.best.label} ({self.bound.words}).")
            elif self.bound is not None:
                least = quantity(self.objective, self.bound.value)
                out.append(
                    f"The best schedule known has a {noun} of {value} ({self.best.label}); none is below {least}"
                    f" ({self.bound.words}), so it is at most"
                    f" {percent(self.above_bound(self.best) or 0.0, 'up')} above the optimum."
                )
            else:
                out.append(f"The best schedule known has a {noun} of {value} ({self.best.label}); no bound is known.")
        elif self.bound is not None:
            out.append(f"No {noun} is below {quantity(self.objective, self.bound.value)} ({self.bound.words}).")
        if self.infeasible:
            out += [m for e in self.entries if e.state == "infeasible" and (m := e.result.message)][:1]
        if self.claimed is not None and self.best is not None and not self.solved:
            claim = quantity(self.objective, self.claimed.value)
            more = ", which would make the best schedule optimal" if _meets(self.best.value, self.claimed.value) else ""
            out.append(f"{self.claimed.source} claims a bound of {claim}{more}; that is not certified.")
        shown = self.headline
        policies = [e for e in self.valid if e.result.producer.kind == "policy"]
        ranked = sorted(policies or self.valid, key=lambda e: e.value or 0.0)
        known = self.bound is not None
        told = [e for e in ranked[:4] if known or self.above_best(e)]
        out += [f"{s}." for e in told if (s := self.sentence(e)) != shown]
        failures = [e for e in self.failures if e.state != "infeasible"]
        if failures:
            have = "has" if len(failures) == 1 else "have"
            labels = listed([e.label for e in failures])
            out.append(f"{count(len(failures), 'run')} of {len(self.entries)} {have} no valid schedule: {labels}.")
        return [*out, *self.contradictions]


def cases(claims: Iterable[Claim], instances: Instances) -> list[Case]:
    """The claims by instance, in the order in which the instances first appear."""
    by_instance: dict[str, list[Claim]] = {}
    for claim in claims:
        by_instance.setdefault(claim.content.instance.sha256, []).append(claim)
    return [_case(group, instances) for group in by_instance.values()]


def _case(claims: Sequence[Claim], instances: Instances) -> Case:
    stamp = claims[0].content.instance
    instance = instances.find(stamp)
    claims = sorted(claims, key=_rank)
    results = [claim for claim in claims if isinstance(claim.content, Result)]
    objective = _objective(claims, instance)
    entries = [_entry(claim, objective, instance) for claim in results]
    entries = _distinguished(entries)
    bounds, contradictions = [], []
    best = min((e.value for e in entries if e.value is not None), default=None)
    for lower in _bounds(claims, entries, objective, instance):
        if best is not None and lower.value > best and not _meets(best, lower.value):
            contradictions.append(
                f"{lower.source} claims a bound of {quantity(objective, lower.value)}, which a valid schedule refutes;"
                " it is left out."
            )
        else:
            bounds.append(lower)
    certified = max((b for b in bounds if b.certified), key=lambda b: (b.checked, b.value), default=None)
    solver = max((b for b in bounds if not b.certified), key=lambda b: b.value, default=None)
    claimed = solver if certified and solver and solver.value > certified.value else None
    return Case(stamp, instance, objective, tuple(entries), certified or solver, claimed, tuple(contradictions))


def _rank(claim: Claim) -> tuple[str, str, int, str]:
    """Order of a case's claims, whatever the order in which they came: by kind, label, seed and file."""
    if isinstance(claim.content, Certificate):
        return ("certificate", "", 0, claim.file)
    producer = claim.content.producer
    kind = {"improvement": "search"}.get(producer.kind, producer.kind)
    return (kind, label(claim.content), producer.seed or 0, claim.file)


def _objective(claims: Sequence[Claim], instance: Instance | None) -> str:
    """The metric that certificates bound, or else the one that most runs minimise."""
    for claim in claims:
        certificate = claim.content if isinstance(claim.content, Certificate) else claim.content.certificate
        if certificate is not None:
            return "total_latency_rounds" if certificate.kind == "kv-prices" else "makespan_ms"
    names = Counter(c.content.objective.name for c in claims if isinstance(c.content, Result))
    known = [name for name, _ in names.most_common() if name]
    if known:
        return known[0]
    return "makespan_ms" if instance is not None and not instance.is_unit else "total_latency_rounds"


def _entry(claim: Claim, objective: str, instance: Instance | None) -> Entry:
    result = claim.content
    assert isinstance(result, Result)
    faults: tuple[str, ...] = ()
    verdict = None
    if instance is not None:
        faults = verify_result(result, instance).faults
        if result.schedule is not None:
            verdict = judge(instance, result.schedule)
    standing: Standing = "stated" if instance is None else "refused" if faults else "checked"
    sound = result.status in ("optimal", "feasible") and not faults and not result.violations
    value = result.metrics.get(objective) if sound else None
    return Entry(label(result), result, claim.file, value, standing, faults, verdict)


def label(result: Result) -> str:
    """What a run is called: ``kv-hindsight-flow on HiGHS``, ``mc-sf``."""
    producer = result.producer
    if producer.kind == "improvement":
        return {"local-search": "local search", "bound": "local search"}.get(producer.name, producer.name)
    name = producer.name.replace("\\", "/").rpartition("/")[2] if producer.name.endswith(".py") else producer.name
    return f"{name} on {solver_name(producer.solver)}" if producer.solver else name


def solver_name(name: str) -> str:
    """As its makers write it."""
    return {"highs": "HiGHS", "scip": "SCIP", "appsi_highs": "HiGHS (appsi)", "gurobi": "Gurobi"}.get(name, name)


def _distinguished(entries: list[Entry]) -> list[Entry]:
    """Labels made unlike each other: by seed, else by file, else by number."""

    def told_apart(ways: list[str]) -> bool:
        return len(set(ways)) == len(ways)

    out = list(entries)
    for shared in [name for name, n in Counter(e.label for e in entries).items() if n > 1]:
        places = [i for i, e in enumerate(entries) if e.label == shared]
        seeds = [f"seed {entries[i].result.producer.seed}" for i in places]
        files = [entries[i].file.removesuffix(".json").removesuffix(".result") for i in places]
        marks = (
            seeds if told_apart(seeds) else files if told_apart(files) else [f"no. {k + 1}" for k in range(len(places))]
        )
        for i, mark in zip(places, marks, strict=True):
            out[i] = replace(entries[i], label=f"{shared}, {mark}")
    return out


def _bounds(
    claims: Sequence[Claim], entries: Sequence[Entry], objective: str, instance: Instance | None
) -> list[LowerBound]:
    """Lower bounds on every schedule of the instance; a variant's own bound says nothing of others."""
    metric = {"kv-prices": "total_latency_rounds"}
    out = []
    labels = iter(entries)
    for claim in claims:
        content = claim.content
        source = next(labels).label if isinstance(content, Result) else claim.file or "the certificate"
        certificate = content if isinstance(content, Certificate) else content.certificate
        if certificate is not None and metric.get(certificate.kind, "makespan_ms") == objective:
            checked = instance is not None and not certificate_faults(certificate, instance)
            if checked or instance is None:
                out.append(LowerBound(certificate.value, True, checked, source, certificate))
        if isinstance(content, Result) and content.objective.bound is not None:
            stated = content.objective
            of_all = content.producer.problem is not None and stated.name == objective
            if of_all and stated.bound_by == "solver" and stated.bound is not None:
                who = solver_name(content.producer.solver or content.producer.name)
                out.append(LowerBound(stated.bound, False, False, who))
    return out


def _meets(value: float | None, bound: float) -> bool:
    return agree(value, bound)
