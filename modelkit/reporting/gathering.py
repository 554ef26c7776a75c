"""From files to cases: what belongs to which goal, and which bounds and schedules serve other goals as well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from modelkit.certificate import Certificate
from modelkit.instance import Instance, InstanceStamp
from modelkit.io.lookup import Instances
from modelkit.problems.problem import KV, objective_of
from modelkit.reporting.entries import Entry, ReadFile, distinguish, entry, guest, label, policies_for
from modelkit.reporting.evidence import Case
from modelkit.reporting.goals import Formulations, Goal, Rules, certified_goal, goal_of, rules_of, silent_goal
from modelkit.reporting.lower_bounds import LowerBound, lower_bounds, meets
from modelkit.result import Result


def cases(
    claims: Iterable[ReadFile],
    instances: Instances,
    formulations: Formulations | None = None,
    asked: Mapping[str, str] | None = None,
) -> list[Case]:
    """The claims by instance and by goal, in the order in which the instances first appear.

    Of one instance goals with the judge's rules alone come first, then variants by name.

    Parameters
    ----------
    asked
        Metrics by the hash of the instance, by which policies are compared there whatever they state: no other metric
        has a case, unless a formulation minimises it.
    """
    groups: dict[str, list[ReadFile]] = {}
    for claim in claims:
        groups.setdefault(claim.content.instance.sha256, []).append(claim)
    known = formulations or Formulations()
    return [
        case
        for sha256, group in groups.items()
        for case in _cases(sorted(group, key=_rank), instances, known, (asked or {}).get(sha256))
    ]


def _cases(
    claims: Sequence[ReadFile], instances: Instances, formulations: Formulations, asked: str | None
) -> list[Case]:
    """The cases of one instance: policies that keep a variant's rules stand beside its results as well."""
    stamp = claims[0].content.instance
    instance = instances.find(stamp)
    groups = _by_goal(claims, instance, formulations)
    if asked is not None:
        first = next((g for g in groups if g.objective == asked and not g.variant), None)
        groups = {first or Goal(asked, requests=stamp.requests): [], **groups}
    made: dict[Goal, tuple[list[Entry], list[LowerBound]]] = {}
    for goal, mine in groups.items():
        rules = rules_of(goal, instance, formulations)
        results = [claim for claim in mine if isinstance(claim.content, Result)]
        entries = distinguish([entry(claim, goal, rules, instance) for claim in results])
        bounds = lower_bounds(mine, entries, goal, instance, formulations)
        if goal.variant:
            entries, bounds = _join(goal, rules, entries, bounds, made)
        made[goal] = (entries, bounds)
    plain = [e for goal, (entries, _) in made.items() if not goal.variant for e in entries]
    hosts = {e.label for e in plain if e.result.producer.kind == "policy" and e.value is not None}
    return [
        _case(
            stamp,
            instance,
            goal,
            [*entries, *policies_for(goal, entries, plain)],
            bounds,
            len(hosts - {e.label for e in entries}) if goal.variant else 0,
        )
        for goal, (entries, bounds) in made.items()
        if goal.variant or asked in (None, goal.objective) or any(_is_solved(e) for e in entries)
    ]


def _is_solved(entry: Entry) -> bool:
    return entry.result.producer.kind == "formulation"


def _by_goal(
    claims: Sequence[ReadFile], instance: Instance | None, formulations: Formulations
) -> dict[Goal, list[ReadFile]]:
    """The claims of each goal; runs that state none are with what their formulation's other runs are about."""
    groups: dict[Goal, list[ReadFile]] = {}
    told: list[tuple[str, Goal]] = []
    silent = []
    for claim in claims:
        if isinstance(claim.content, Certificate):
            groups.setdefault(certified_goal(claim.content), []).append(claim)
        elif (goal := goal_of(claim.content, formulations)) is not None:
            groups.setdefault(goal, []).append(claim)
            told.append((claim.content.producer.name, goal))
        else:
            silent.append(claim)
    plain = next((p for p in groups if not p.variant), None)
    usual = plain or Goal(
        KV.objective if instance is None else objective_of(instance), requests=claims[0].content.instance.requests
    )
    for claim in silent:
        assert isinstance(claim.content, Result)
        goal = silent_goal(claim.content, told, instance, formulations) or usual
        groups.setdefault(goal, []).append(claim)
    return {p: sorted(groups[p], key=_rank) for p in sorted(groups, key=lambda p: (p.variant, p.parameters, p.unit))}


def _join(
    goal: Goal,
    rules: Rules,
    entries: list[Entry],
    bounds: list[LowerBound],
    made: dict[Goal, tuple[list[Entry], list[LowerBound]]],
) -> tuple[list[Entry], list[LowerBound]]:
    """A variant's entries with the policies' schedules, and its bounds with those on every schedule's value."""
    plain = [(p, found) for p, found in made.items() if not p.variant]
    policies = [
        e for _, (hosts, _) in plain for e in hosts if e.result.producer.kind == "policy" and e.value is not None
    ]
    guests = [g for e in policies if (g := guest(e, goal, rules)) is not None]
    inherited = [b for p, (_, lowers) in plain if rules.inherits and p.objective == goal.objective for b in lowers]
    return [*entries, *guests], [*bounds, *inherited]


def _case(
    stamp: InstanceStamp,
    instance: Instance | None,
    goal: Goal,
    entries: Sequence[Entry],
    lowers: Sequence[LowerBound],
    left_out: int,
) -> Case:
    bounds, contradictions = [], []
    best = min((e for e in entries if e.value is not None), key=lambda e: e.value or 0.0, default=None)
    for lower in lowers:
        if best is not None and lower.value > (best.value or 0.0) and not meets(best.value, lower.value):
            contradictions.append(
                f"{lower.source} claims a bound of {goal.quantity(lower.value)}, which a valid schedule refutes;"
                " it is left out."
            )
        else:
            bounds.append(lower)
    certified = max((b for b in bounds if b.certified), key=lambda b: (b.checked, b.value), default=None)
    solver = max((b for b in bounds if not b.certified), key=lambda b: b.value, default=None)
    claimed = solver if certified and solver and solver.value > certified.value else None
    held = tuple(_held_against(e, best) for e in entries)
    return Case(stamp, instance, goal, held, certified or solver, claimed, tuple(contradictions), left_out)


def _held_against(entry: Entry, best: Entry | None) -> Entry:
    """The entry, refuted where it calls itself optimal or the instance infeasible and a schedule says otherwise."""
    if best is None or best.value is None:
        return entry
    worse = entry.state == "optimal" and not meets(entry.value, best.value)
    return replace(entry, refuted_by=best.label) if worse or entry.state == "infeasible" else entry


def _rank(claim: ReadFile) -> tuple[str, str, int, str]:
    """Order of a case's claims, whatever the order in which they came: by kind, label, seed and file."""
    if isinstance(claim.content, Certificate):
        return ("certificate", "", 0, claim.file)
    producer = claim.content.producer
    kind = {"improvement": "search"}.get(producer.kind, producer.kind)
    return (kind, label(claim.content), producer.seed or 0, claim.file)
