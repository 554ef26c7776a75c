"""What result and certificate files say together about one goal on one instance.

Where the instance is at hand nothing in the files is believed: schedules are replayed and certificates
recomputed, and what does not hold is shown as refused. Where it is not, the files are quoted and said to be.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from modelkit.instance import Instance, InstanceStamp
from modelkit.reporting.entries import Entry, ReadFile
from modelkit.reporting.goals import Goal
from modelkit.reporting.lower_bounds import LowerBound, above, meets
from modelkit.reporting.observation import Observation
from modelkit.result import relative_gap
from modelkit.text import count, join_words, percent

__all__ = ["Case", "Entry", "LowerBound", "ReadFile", "by_instance"]


@dataclass(frozen=True)
class Case:
    """All runs on one instance that are about one goal, with the best bound on each side.

    Parameters
    ----------
    goal
        The objective by which schedules are compared, and the rules that they keep.
    bound
        The best certified lower bound; the best of a solver's where none is certified.
    claimed
        A solver's bound above the certified one.
    contradictions
        Bounds that a valid schedule refutes, in words.
    left_out
        Policies' schedules that stand elsewhere and could not be held against the goal's rules.
    observation
        What a log shows of this server, where the instance is of one.
    """

    stamp: InstanceStamp
    instance: Instance | None
    goal: Goal
    entries: tuple[Entry, ...]
    bound: LowerBound | None
    claimed: LowerBound | None
    contradictions: tuple[str, ...]
    left_out: int = 0
    observation: Observation | None = None

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
    def objective(self) -> str:
        """The metric that is minimised."""
        return self.goal.objective

    @property
    def solved(self) -> bool:
        """Whether the best schedule meets the bound."""
        return self.bound is not None and self.best is not None and meets(self.best.value, self.bound.value)

    @property
    def solved_by(self) -> str:
        """What says that the best schedule is optimal: a ``certificate``, a ``solver`` that claims it, or nothing."""
        met = self.best is not None and self.reference is not None and meets(self.best.value, self.reference.value)
        if not met or self.reference is None:
            return ""
        return "certificate" if self.reference.certified else "solver"

    @property
    def reference(self) -> LowerBound | None:
        """The bound that distances are measured by: a solver's where that makes the best schedule optimal."""
        if self.claimed is not None and self.best is not None and meets(self.best.value, self.claimed.value):
            return self.claimed
        return self.bound

    @property
    def reference_words(self) -> str:
        """What that bound is and whose."""
        if self.reference is None:
            return "no bound is known"
        words = f"the bound is {self.goal.quantity(self.reference.value)}, {self.reference.words}"
        if self.reference is self.claimed and self.bound is not None:
            words += f" (certified: {self.goal.quantity(self.bound.value)})"
        return words

    @property
    def infeasible(self) -> bool:
        """Whether a run found that no schedule exists, and none has one."""
        return not self.valid and any(e.state == "infeasible" for e in self.entries)

    def above_bound(self, entry: Entry) -> float | None:
        """How far above the optimum it can be at most, by the bound of reference; relative."""
        if entry.state == "optimal":
            return 0.0
        return above(entry.value, self.reference)

    def above_certified(self, entry: Entry) -> float | None:
        """The same by a certified bound; None where none is."""
        return above(entry.value, self.bound) if self.bound is not None and self.bound.certified else None

    def above_best(self, entry: Entry) -> float | None:
        """How far above the optimum it is at least, because a schedule so much better is known; relative."""
        best = None if self.best is None else self.best.value
        if entry.value is None or best is None or (best <= 0 and entry.value > best):
            return None
        return max(0.0, entry.value / best - 1) if best > 0 else 0.0

    def gap(self, entry: Entry) -> float | None:
        """(value - bound of reference) / |value|; 0 where the value is proven optimal."""
        reference = self.reference
        if entry.state == "optimal":
            return 0.0
        if entry.value is None or reference is None:
            return None
        if meets(entry.value, reference.value):
            return 0.0
        gap = relative_gap(entry.value, reference.value)
        return None if gap is None else max(0.0, gap)

    @property
    def certified_gap(self) -> float | None:
        """(best value - certified bound) / |best value|."""
        if self.best is None or self.bound is None or not self.bound.certified:
            return None
        gap = relative_gap(self.best.value, self.bound.value)
        return None if gap is None else max(0.0, gap)

    def sentence(self, entry: Entry, certified_too: bool = True) -> str:
        """How far from the optimum a valid schedule is, in words that are true.

        Parameters
        ----------
        certified_too
            Whether to say what is certified where a solver claims more.
        """
        best = self.best
        reference = self.claimed if self._claim_matters(entry) else self.bound
        if entry.value is None or best is None or best.value is None:
            return f"{entry.label} has no valid schedule"
        relative = min(best.value, best.value if reference is None else reference.value) > 0

        def apart(base: float, way: Literal["up", "down", "near"]) -> str:
            assert entry.value is not None
            return percent(entry.value / base - 1, way) if relative else self.goal.quantity(entry.value - base)

        beaten = entry.value > best.value
        limit = "" if reference is None or reference.certified else f"{reference.source}'s bound"
        if reference is None:
            if not beaten:
                return f"{entry.label} is the best of these schedules; no lower bound is known"
            return f"{entry.label} is at least {apart(best.value, 'down')} above the optimum; no upper limit is known"
        if meets(best.value, reference.value):
            words = f"{entry.label} is " + (f"{apart(best.value, 'near')} above the optimum" if beaten else "optimal")
            notes = [f"by {limit}"] if limit else []
        else:
            least_and = f"between {apart(best.value, 'down')} and" if beaten else "at most"
            words = f"{entry.label} is {least_and} {apart(reference.value, 'up')} above the optimum"
            notes = [f"upper limit: {limit}"] if limit else []
        certified = above(entry.value, self.bound) if reference is self.claimed and certified_too else None
        if certified:
            notes.append(f"certified: at most {percent(certified, 'up')}")
        return words + (f" ({'; '.join(notes)})" if notes else "")

    def _claim_matters(self, entry: Entry) -> bool:
        """Whether a solver's claim says something of the entry that is not certified anyway."""
        if self.claimed is None or self.best is None or entry.value is None:
            return False
        certified, claimed = above(entry.value, self.bound), above(entry.value, self.claimed)
        closes = meets(self.best.value, self.claimed.value)
        if certified is None or claimed is None or closes:
            return True
        return percent(claimed, "up") != percent(certified, "up")

    @property
    def headline(self) -> str:
        """The finding in one sentence: about the best policy where there is one, else about the best schedule."""
        if self.best is None:
            if self.infeasible:
                variant = self.goal.variant
                return (
                    f"No schedule keeps the rules of {variant}" if variant else "No schedule exists for this instance"
                )
            return "No run gave a valid schedule"
        policies = [e for e in self.valid if e.result.producer.kind == "policy"]
        told = min(policies, key=lambda e: e.value or 0.0, default=self.best)
        said = self.sentence(told, certified_too=False)
        if others := [e.label for e in policies if e is not told and e.value == told.value]:
            same = (
                None not in (schedules := {e.schedule for e in policies if e.value == told.value})
                and len(schedules) == 1
            )
            gives = "gives" if len(others) == 1 else "give"
            said += f"; {join_words(others, 3)} {gives} the same {'schedule' if same else self.goal.noun}"
        return f"{said}; {told.unchecked}" if told.unchecked else said

    @property
    def equals(self) -> list[list[Entry]]:
        """Runs whose valid schedules are the same, where they are replayed: several each."""
        groups: dict[object, list[Entry]] = {}
        for entry in self.valid:
            if entry.schedule is not None:
                groups.setdefault(entry.schedule, []).append(entry)
        return [group for group in groups.values() if len(group) > 1]

    @property
    def findings(self) -> list[str]:
        """What else is known, as sentences."""
        out = []
        noun = self.goal.noun
        if self.best is not None:
            value = self.goal.quantity(self.best.value)
            if self.solved and self.bound is not None:
                out.append(f"The least {noun} is {value}, reached by {self.best.label} ({self.bound.words}).")
            elif self.bound is not None:
                least = self.goal.quantity(self.bound.value)
                most = above(self.best.value, self.bound)
                out.append(
                    f"The best schedule known has a {noun} of {value} ({self.best.label}); none is below {least}"
                    f" ({self.bound.words})"
                    + (f", so it is at most {percent(most, 'up')} above the optimum." if most is not None else ".")
                )
            else:
                out.append(f"The best schedule known has a {noun} of {value} ({self.best.label}); no bound is known.")
        elif self.bound is not None:
            out.append(f"No {noun} is below {self.goal.quantity(self.bound.value)} ({self.bound.words}).")
        if self.infeasible:
            out += [m for e in self.entries if e.state == "infeasible" and (m := e.result.message)][:1]
        if self.claimed is not None and self.best is not None and not self.solved:
            claim = self.goal.quantity(self.claimed.value)
            more = ", which would make the best schedule optimal" if meets(self.best.value, self.claimed.value) else ""
            out.append(f"{self.claimed.source} claims a bound of {claim}{more}; that is not certified.")
        shown = self.headline
        policies = [e for e in self.valid if e.result.producer.kind == "policy"]
        ranked = sorted(policies or self.valid, key=lambda e: e.value or 0.0)
        known = self.bound is not None
        told = [e for e in ranked[:4] if known or self.above_best(e)]
        first = {e.value: e for e in reversed(told)}  # what holds of one of equals is not said of the others
        sentences = [self.sentence(e) for e in told if first[e.value] is e]
        out += [f"{s}." for s in sentences if not (shown == s or shown.startswith(f"{s}; "))]
        for group in self.equals:
            names = [e.label for e in group]
            if not ("the same schedule" in shown and all(name in shown for name in names)):
                out.append(f"{count(len(names), 'run')} give the same schedule: {join_words(names, 12)}.")
        failures = [e for e in self.failures if e.state != "infeasible" and e.result.relaxation is None]
        if failures:
            have = "has" if len(failures) == 1 else "have"
            labels = join_words([e.label for e in failures])
            under = f" under the rules of {self.goal.variant}" if self.goal.variant else ""
            out.append(
                f"{count(len(failures), 'run')} of {len(self.entries)} {have} no valid schedule{under}: {labels}."
            )
        out += list(
            dict.fromkeys(
                f"{sentence_of(e.unchecked)}." for e in self.entries if e.unchecked and e.unchecked not in shown
            )
        )
        if self.goal.variant and self.left_out:
            out.append(
                f"{count(self.left_out, 'schedule')} of policies {'is' if self.left_out == 1 else 'are'} not among"
                f" these: without the rules of {self.goal.variant} their value here is unknown."
            )
        return [*out, *self.contradictions]


def sentence_of(words: str) -> str:
    """Words with a capital at their beginning."""
    return words[:1].upper() + words[1:]


def by_instance(found: Iterable[Case]) -> list[list[Case]]:
    """The cases of each instance."""
    groups: dict[str, list[Case]] = {}
    for case in found:
        groups.setdefault(case.stamp.sha256, []).append(case)
    return list(groups.values())
