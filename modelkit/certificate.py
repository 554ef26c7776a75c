"""A certificate: what anyone can recompute a lower bound from, exactly.

``kv-prices``: for any prices lambda_t >= 0 on rounds, relaxing the capacity of the KV-cache problem (unit clock, no
slots) gives

    L = sum_i min_{k >= a_i} [ k + o_i - a_i + sum_{j=1}^{o_i} lambda_{k+j} (s_i + j) ]  -  M sum_t lambda_t

which no schedule's total latency is below. With lambda_t = n_t / d for integers n_t and d, d L is an integer.
`modelkit.verify.exact_bounds` recomputes it in integer arithmetic.

A schedule with evictions is no exception: the last stay of each request is a schedule without.

``slot-closed-form`` and ``packing`` bound the makespan of the slot problem (``modelkit.verify.slot_bound``); the first
needs nothing but the instance, the second carries weights that prove how many rounds some slot must decode.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from modelkit.instance import InstanceStamp
from modelkit.problems.problem import KV, SLOTS, Problem

SCHEMA = "modelkit/certificate/1"

CertificateKind = Literal["kv-prices", "slot-closed-form", "packing"]


class Kind(NamedTuple):
    """What certificates of one kind bound, and by what.

    Parameters
    ----------
    problem
        Whose instances they are about.
    proof
        What the bound is recomputed from, in a word.
    field
        The field of the certificate that holds the proof; None where the instance is all that it takes.
    objectives
        The metrics that it can bound; the first is the one that is meant where the certificate names none.
    whole
        Whether the objective takes whole values alone, so that the bound may be rounded up.
    """

    problem: Problem
    proof: str
    field: str | None
    objectives: tuple[str, ...]
    whole: bool = False


KINDS: dict[CertificateKind, Kind] = {
    "kv-prices": Kind(KV, "prices", "prices", KV.objectives, whole=True),
    "slot-closed-form": Kind(SLOTS, "closed form", None, SLOTS.objectives),
    "packing": Kind(SLOTS, "weights", "weights", SLOTS.objectives),
}
#: The fields that hold proofs.
PROOFS = tuple(dict.fromkeys(kind.field for kind in KINDS.values() if kind.field))
_Whole = Annotated[int, Field(strict=True)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Prices(_Record):
    """Prices ``numerators / denominator`` on ``rounds``; all other rounds are free."""

    denominator: Annotated[int, Field(strict=True, ge=1, le=2**60)]
    rounds: list[Annotated[int, Field(strict=True, ge=1, le=10**12)]]
    numerators: list[Annotated[int, Field(strict=True, ge=0, le=2**62)]]

    @field_validator("denominator")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError("a power of two is needed")
        return value


class Bound(_Record):
    """The bound as an exact fraction."""

    numerator: _Whole
    denominator: Annotated[int, Field(strict=True, ge=1)]

    @model_validator(mode="after")
    def _is_a_number_of_this_world(self) -> Bound:
        if abs(self.numerator) > self.denominator * 10**30:
            raise ValueError("a fraction between -10^30 and 10^30 is needed")
        return self


class Weights(_Record):
    """A weight for each request, in the order of the instance, which prove that some slot decodes ``rounds``."""

    rounds: Annotated[int, Field(strict=True, ge=1, le=10**12)]
    values: list[Annotated[int, Field(strict=True, ge=0, le=10**15)]]


class Certificate(_Record):
    """A lower bound on the total latency or the makespan of one instance, with its proof.

    ``objective`` is the metric that it says it bounds; None where it leaves that to its kind (`metric`), as those that
    were written before the field existed.
    ``seconds`` is the time it took to find the proof, None when not known.
    """

    instance: InstanceStamp
    kind: CertificateKind = "kv-prices"
    objective: str | None = None
    bound: Bound
    prices: Prices | None = None
    weights: Weights | None = None
    seconds: float | None = None

    @property
    def value(self) -> float:
        """The bound as a double, never above the exact one; a total latency is rounded up to whole rounds."""
        exact = Fraction(self.bound.numerator, self.bound.denominator)
        if KINDS[self.kind].whole:
            return float(math.ceil(exact))
        near = float(exact)
        return near if Fraction(near) <= exact else math.nextafter(near, -math.inf)

    @property
    def metric(self) -> str:
        """The metric that it bounds: the one that it names where its kind can bound that, else the kind's first."""
        known = KINDS[self.kind].objectives
        return self.objective if self.objective in known else known[0]

    @property
    def proof(self) -> str:
        """What the bound is recomputed from, in a word."""
        return KINDS[self.kind].proof

    def document(self) -> dict[str, Any]:
        """The certificate as JSON-ready data."""
        other = {proof for proof in PROOFS if proof != KINDS[self.kind].field}
        return {"schema": SCHEMA, **self.model_dump(mode="python", exclude=other)}
