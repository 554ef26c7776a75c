"""Lower bounds on a goal's optimum that results and certificates give, each with its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelkit.certificate import Certificate
from modelkit.instance import Instance
from modelkit.reporting.entries import Entry, ReadFile, solver_name
from modelkit.reporting.goals import Formulations, Goal, common
from modelkit.result import Result, agree
from modelkit.verify.certificates import certificate_faults


@dataclass(frozen=True)
class LowerBound:
    """A lower bound on the objective of every schedule, and its source.

    ``certified``: from a certificate; ``checked``: recomputed here.
    """

    value: float
    certified: bool
    checked: bool
    source: str
    certificate: Certificate | None = None

    @property
    def words(self) -> str:
        """Whether it is certified and recomputed, or which solver claims it."""
        if not self.certified:
            return f"claimed by {self.source}, which cannot be rechecked"
        return "certified, recomputed exactly" if self.checked else "by its certificate, which was not recomputed here"


def lower_bounds(
    claims: Sequence[ReadFile],
    entries: Sequence[Entry],
    goal: Goal,
    instance: Instance | None,
    formulations: Formulations,
) -> list[LowerBound]:
    """Lower bounds on the goal's optimum that its own claims give."""
    out = []
    labels = iter(entries)
    for claim in claims:
        content = claim.content
        source = next(labels).label if isinstance(content, Result) else claim.file or "the certificate"
        certificate = content if isinstance(content, Certificate) else content.certificate
        if certificate is not None and not goal.variant and certificate.metric == goal.objective:
            checked = instance is not None and not certificate_faults(certificate, instance)
            if checked or instance is None:
                out.append(LowerBound(certificate.value, True, checked, source, certificate))
        if isinstance(content, Result) and content.objective.bound is not None:
            said = content.objective
            holds = bool(goal.variant) or common(content, formulations)
            if holds and said.bound_by == "solver" and said.bound is not None:
                who = solver_name(content.producer.solver or content.producer.name)
                out.append(LowerBound(said.bound, False, False, who))
    return out


def above(value: float | None, bound: LowerBound | None) -> float | None:
    """How far a value is above a bound, relative; None where a ratio says nothing."""
    if value is None or bound is None:
        return None
    if meets(value, bound.value):
        return 0.0
    return max(0.0, value / bound.value - 1) if bound.value > 0 else None


def meets(value: float | None, bound: float | None) -> bool:
    """Whether a value is as low as a bound, to the accuracy of doubles."""
    return value is not None and bound is not None and agree(value, bound)
