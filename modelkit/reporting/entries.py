"""One run on one instance, judged for one goal: what it is called, its value, and its state in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from modelkit.certificate import Certificate
from modelkit.instance import Instance
from modelkit.judge import Residency, Verdict, judge
from modelkit.policies import policies
from modelkit.reporting.goals import Goal, Rules, take_as_stated
from modelkit.result import Objective, Result
from modelkit.text import count, join_words
from modelkit.verify.result import OwnRules, verify_result

#: How far the word of a file was checked: all of it, not at all, or with faults found.
Standing = Literal["checked", "stated", "refused"]


@dataclass(frozen=True)
class ReadFile:
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
        The value of the case's objective, from the judge's replay; None unless the schedule is valid and keeps the
        rules of the case's goal.
    standing, faults
        Whether the file was checked, and what was found wrong.
    verdict
        The replay, where the instance is at hand and there is a schedule.
    unchecked
        What of the goal was not checked, and why; empty where all was.
    guest
        Whether it is a schedule made for another goal, judged by the rules of this one.
    refuted_by
        Label of a run whose schedule refutes that this one is optimal, or that there is no schedule.
    """

    label: str
    result: Result
    file: str
    value: float | None
    standing: Standing
    faults: tuple[str, ...]
    verdict: Verdict | None
    unchecked: str = ""
    guest: bool = False
    refuted_by: str = ""

    @property
    def state(self) -> str:
        """``optimal``, ``valid``, ``invalid``, ``infeasible`` or ``none``."""
        if self.faults or self.result.violations:
            return "invalid"
        if self.value is None:
            return "infeasible" if self.result.status == "infeasible" and not self.refuted_by else "none"
        return "optimal" if self.result.status == "optimal" and not self.refuted_by else "valid"

    @property
    def schedule(self) -> frozenset[Residency] | None:
        """What the replay says of when each request runs, whatever the order of equals; None where none is."""
        return None if self.verdict is None else frozenset(self.verdict.residencies)

    @property
    def words(self) -> str:
        """The state in words, with what happened where that is not plain."""
        words = self._state_words()
        return f"{words}; {self.unchecked}" if self.unchecked and self.value is not None else words

    def _state_words(self) -> str:
        stops = {"time_limit": "time limit", "interrupted": "interrupted", "failed": "failed"}
        stop = stops.get(self.result.stop)
        if self.state == "invalid":
            broken = [str(v.get("message", "a rule is broken")) for v in self.result.violations] or list(self.faults)
            more = f", and {count(len(broken) - 1, 'more fault')}" if len(broken) > 1 else ""
            return f"{'against the rules' if self.guest else 'invalid'}: {broken[0]}{more}"
        if self.state == "infeasible":
            return "infeasible: no schedule exists"
        if self.state == "none":
            if self.result.status == "infeasible":
                return f"no schedule: claims that none exists, which {self.refuted_by} refutes"
            if self.result.relaxation is not None:
                return "linear relaxation, without a schedule"
            reason = self.result.message.partition("\n")[0]
            return f"no schedule ({stop or 'finished'})" + (f": {reason}" if reason else "")
        if self.state == "optimal":
            return "optimal"
        if self.result.status == "optimal":
            return f"valid; claims to be optimal, which {self.refuted_by} refutes"
        return "valid" + (f", {stop}" if stop and stop != "failed" else ", but the run failed" if stop else "")


def entry(claim: ReadFile, goal: Goal, rules: Rules, instance: Instance | None) -> Entry:
    """The run of a claim, checked against the instance and the goal's rules where they are at hand."""
    result = claim.content
    assert isinstance(result, Result)
    faults: tuple[str, ...] = ()
    verdict = None
    unchecked = rules.unchecked if result.schedule is not None else ""
    if instance is not None:
        as_stated = None
        if goal.variant:
            as_stated = OwnRules(
                goal.variant,
                value=take_as_stated(result.objective.value),
                objective=goal.objective,
                unit=goal.unit or None,
                problem=result.producer.problem,
            )
        try:
            faults = verify_result(result, instance, rules.own or as_stated).faults
        except Exception as error:  # code of the formulation's
            unchecked = f"rules of {goal.variant} not checked: {type(error).__name__}: {error}"
            faults = verify_result(result, instance, as_stated).faults
        if result.schedule is not None:
            verdict = judge(instance, result.schedule, result.slo)
    standing: Standing = "stated" if instance is None or unchecked else "checked"
    sound = result.status in ("optimal", "feasible") and not faults and not result.violations
    value = result.objective.value if goal.variant else result.metrics.get(goal.objective)
    return Entry(
        label(result), result, claim.file, value if sound else None, "refused" if faults else standing, faults, verdict,
        unchecked,
    )  # fmt: skip


def guest(host: Entry, goal: Goal, rules: Rules) -> Entry | None:
    """A valid schedule of another goal, judged by the rules of this one; None where these cannot be checked."""
    own = rules.own
    if not goal.variant:
        value = host.result.metrics.get(goal.objective)
        return None if host.value is None or value is None else _as_guest(host, goal, value, ())
    if own is None or own.breaks is None or own.value is None or rules.unchecked or host.verdict is None:
        return None
    try:
        broken, value = own.breaks(host.verdict), own.value(host.verdict)
    except Exception:  # code of the formulation's: what it says of its own results is told there
        return None
    faults = () if value is not None else tuple(broken) or (f"{goal.variant} gives it no value",)
    return _as_guest(host, goal, value, faults)


def policies_for(goal: Goal, own: Sequence[Entry], plain: Sequence[Entry]) -> list[Entry]:
    """Schedules of policies that state another objective of the judge's, valued by this one.

    Parameters
    ----------
    own
        The goal's entries.
    plain
        Those of all goals with the judge's rules alone.
    """
    if goal.variant:
        return []
    others = [e for e in plain if e not in own and e.result.producer.kind == "policy"]
    return [g for e in others if (g := guest(e, goal, Rules())) is not None]


def _as_guest(host: Entry, goal: Goal, value: float | None, faults: tuple[str, ...]) -> Entry:
    result = host.result.model_copy(
        update={
            "objective": Objective(name=goal.objective, unit=goal.unit or None, value=value),
            "status": "feasible",
            "message": "",
        }
    )
    return replace(host, result=result, value=value, faults=faults, guest=True)


def label(result: Result) -> str:
    """What a run is called: ``kv-hindsight-flow on HiGHS``, ``mc-sf``, ``mc-sf:gate=8,wait=2``."""
    producer = result.producer
    if producer.kind == "policy":
        return producer.policy
    if producer.kind == "improvement":
        searched = producer.name in ("local-search", "bound") or producer.name in policies()  # where it began
        return "local search" if searched else producer.name
    name = producer.name.replace("\\", "/").rpartition("/")[2] if producer.name.endswith(".py") else producer.name
    return f"{name} on {solver_name(producer.solver)}" if producer.solver else name


def solver_name(name: str) -> str:
    """As its vendor writes it."""
    return {"highs": "HiGHS", "scip": "SCIP", "appsi_highs": "HiGHS (appsi)", "gurobi": "Gurobi"}.get(name, name)


def alike(entries: Sequence[Entry]) -> list[tuple[str, Entry]]:
    """The first of those with the same schedule and value, under the names of all of them."""
    groups: dict[object, list[Entry]] = {}
    for e in entries:
        groups.setdefault((id(e) if e.schedule is None else e.schedule, e.value), []).append(e)
    return [(join_words([e.label for e in same]), same[0]) for same in groups.values()]


def distinguish(entries: Sequence[Entry]) -> list[Entry]:
    """Labels made unlike each other: by seed, else by file, else by number."""

    def told_apart(ways: list[str]) -> bool:
        return len(set(ways)) == len(ways)

    out = list(entries)
    for shared in [name for name, n in Counter(e.label for e in entries).items() if n > 1]:
        places = [i for i, e in enumerate(entries) if e.label == shared]
        seeds = [f"seed {entries[i].result.producer.seed}" for i in places]
        files = _own_parts([entries[i].file.removesuffix(".json").removesuffix(".result") for i in places])
        marks = (
            seeds if told_apart(seeds) else files if told_apart(files) else [f"no. {k + 1}" for k in range(len(places))]
        )
        for i, mark in zip(places, marks, strict=True):
            out[i] = replace(entries[i], label=f"{shared} ({mark})")
    return out


def _own_parts(files: list[str]) -> list[str]:
    """Names of files without the parts at their beginning that all of them share."""
    parts = [name.split(".") for name in files]
    least = min(len(p) for p in parts)
    shared = next((k for k in range(least) if len({p[k] for p in parts}) > 1), least)
    return [".".join(p[min(shared, len(p) - 1) :]) for p in parts]
