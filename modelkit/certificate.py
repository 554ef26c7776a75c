"""A certificate: what anyone can recompute a lower bound from, exactly.

``kv-prices``: for any prices lambda_t >= 0 on rounds, relaxing the capacity of the KV-cache problem (unit clock) gives

    L = sum_i min_{k >= a_i} [ k + o_i - a_i + sum_{j=1}^{o_i} lambda_{k+j} (s_i + j) ]  -  M sum_t lambda_t

which no schedule's total latency is below. With lambda_t = n_t / d for integers n_t and d, d L is an integer.
`modelkit.verify.exact_bounds` recomputes it in integer arithmetic.

``kv-partitions`` (``modelkit.verify.kv_partitions``) takes a multiplier for each request and keeps the memory, as a
multiset of the tokens that requests hold: where few requests fill the memory, it is far higher.

A schedule with evictions is no exception: the last residency of each request is a schedule without. Nor is one on
slots: it is a schedule of the instance without them. There ``slot-rounds`` (``modelkit.verify.slot_rounds``) counts
what J slots can do. Where requests may be paused, the prices must never rise (``modelkit.verify.kv_bound``);
``kv-volume`` (``modelkit.verify.volume_bound``) counts what memory and slots can do there.

``slot-closed-form`` and ``packing`` bound the makespan of the slot problem (``modelkit.verify.slot_bound``); the first
needs nothing but the instance, the second carries weights that prove how many rounds some slot must decode.

``serving-work``, ``serving-interference`` and ``serving-prices`` bound what is served in real time (linear clock):
total latency, makespan or total time to first token, whichever ``objective`` says. Whole numbers only: times are in
ticks of 2^-10 ms, and ``modelkit.verify.serving_costs`` rounds what the instance says so that every bound only falls.
Such a certificate holds when its bound is at most what its proof gives.

``goodput`` bounds from above how many requests keep their service levels, by prices on intervals of time
(``modelkit.verify.serving_goodput``). What it bounds from below is the number of those that do not.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, field_validator, model_validator

from modelkit.instance import InstanceStamp
from modelkit.problems.problem import KV, OUTSIDE_SLO, PREEMPTIVE, SERVING, SLOTS, UNIT_SLOTS, WITHIN_SLO, Problem
from modelkit.requests import ServiceLevels

SCHEMA = "modelkit/certificate/1"

#: Ticks in a millisecond; times of the kinds of real time are whole numbers of ticks.
TICKS_PER_MS = 2**10
#: Shares of the kinds of real time are whole numbers of this part of 1.
SHARE = 2**10

CertificateKind = Literal[
    "kv-prices",
    "kv-partitions",
    "kv-volume",
    "slot-closed-form",
    "packing",
    "slot-rounds",
    "serving-work",
    "serving-interference",
    "serving-prices",
    "goodput",
]
#: How the cost of iterations is charged to the requests within their service levels.
CHARGES = ("memory", "slots", "pace-memory", "pace-slots")


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
    at_most
        Whether the certificate holds with any bound up to what its proof gives.
    complement
        Where the objective is a number of requests that is bounded from above: the metric that counts the others, which
        is bounded from below.
    """

    problem: Problem
    proof: str
    field: str | None
    objectives: tuple[str, ...]
    whole: bool = False
    at_most: bool = False
    complement: str | None = None


KINDS: dict[CertificateKind, Kind] = {
    "kv-prices": Kind(KV, "prices", "prices", KV.objectives, whole=True),
    "kv-partitions": Kind(KV, "multipliers", "partitions", KV.objectives, whole=True),
    "kv-volume": Kind(PREEMPTIVE, "memory of all rounds", None, PREEMPTIVE.objectives, whole=True),
    "slot-closed-form": Kind(SLOTS, "closed form", None, SLOTS.objectives[:1]),
    "packing": Kind(SLOTS, "weights", "weights", SLOTS.objectives[:1]),
    "slot-rounds": Kind(UNIT_SLOTS, "rounds on slots", None, UNIT_SLOTS.objectives, whole=True),
    "serving-work": Kind(SERVING, "work", "work", SERVING.objectives, at_most=True),
    "serving-interference": Kind(SERVING, "interference", "interference", SERVING.objectives[:1], at_most=True),
    "serving-prices": Kind(SERVING, "prices on time", "serving_prices", SERVING.objectives[:1], at_most=True),
    "goodput": Kind(SERVING, "prices on intervals", "goodput", (WITHIN_SLO,), whole=True, complement=OUTSIDE_SLO),
}
#: The fields that hold proofs.
PROOFS = tuple(dict.fromkeys(kind.field for kind in KINDS.values() if kind.field))
_Whole = Annotated[int, Field(strict=True)]
_Ticks = Annotated[int, Field(strict=True, ge=0, le=2**62)]
_Price = Annotated[int, Field(strict=True, ge=0, lt=2**41)]
_Share = Annotated[int, Field(strict=True, ge=0, le=SHARE)]


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


class Partitions(_Record):
    """A multiplier ``multipliers[i] / denominator`` [round] and a floor [token] for each request, in their order.

    Parameters
    ----------
    floors
        Tokens at which each request is forgotten, at least its prompt, shape [n].
    multipliers
        Of "starts once", shape [n].
    """

    denominator: Annotated[int, Field(strict=True, ge=1, le=2**40)]
    floors: list[Annotated[int, Field(strict=True, ge=1, le=10**9)]]
    multipliers: list[Annotated[int, Field(strict=True, ge=-(2**60), le=2**60)]]


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


class Work(_Record):
    """How the work that each request causes is counted; the rest is one machine's schedule (``serving_work``).

    Parameters
    ----------
    memory_share
        Share of the fixed cost of an iteration that is charged to memory, the rest to slots [2^-10].
    cell
        Length of the cells of time in which requests are counted [tick]; None: no cells.
    rounds
        Prices on the decode rounds, where all requests arrive together; None: no rounds are counted.
    holding
        Weights of what is held, memory and slots, where first tokens are bounded; each gives a bound [tick].
    """

    memory_share: _Share
    cell: Annotated[int, Field(strict=True, ge=1, le=2**62)] | None = None
    rounds: Prices | None = None
    holding: Annotated[list[_Ticks], Field(max_length=100)] = []


class Interference(_Record):
    """How waiting and the waiting of others are weighed against each other (``serving_interference``).

    Parameters
    ----------
    delay_shares
        For each request, in the order of the instance, the share of its latency that counts as delay, shape [n]
        [2^-10]; the rest counts as time that others take.
    prefills
        For each request, in the order of the instance, its charge for its prefill's fixed cost, shape [n] [tick].
    """

    delay_shares: list[_Share]
    prefills: list[_Ticks]


class ServingPrices(_Record):
    """Prices on time, constant in buckets [t + b L, t + (b + 1) L), b = 0, 1, ...: whole numbers of 1 / denominator.

    Behind the last bucket all is free; no request arrives before the first. ``serving_prices`` says who pays what.

    Parameters
    ----------
    start, bucket
        Beginning t of the first bucket and length L of each [tick].
    denominator
        Of all prices.
    server
        pi, on the server's time, for each bucket.
    memory, prompt_memory
        On the whole capacity, when held by those that decode and by those that are prefilled, for each bucket [ms].
    slots, prompt_slots
        The same on all slots together.
    first
        For each request, in the order of the instance, the first bucket of its own prices, shape [n].
    decoding, prompts
        rho and rho2, on being one of those that decode and one of those that are prefilled: for each request, from
        its first bucket on; 0 beyond [ms].
    """

    start: _Ticks
    bucket: Annotated[int, Field(strict=True, ge=1, le=2**62)]
    denominator: Annotated[int, Field(strict=True, ge=1, le=2**60)]
    server: list[_Price]
    memory: list[_Price]
    slots: list[_Price]
    prompt_memory: list[_Price]
    prompt_slots: list[_Price]
    first: list[_Ticks]
    decoding: list[list[_Price]]
    prompts: list[list[_Price]]


class Goodput(_Record):
    """Prices on intervals, on what is charged there to requests within their service levels (``serving_goodput``).

    Parameters
    ----------
    slo
        The service levels; None: those of the instance.
    denominator
        Of all prices.
    charge
        How the cost of iterations is charged in each interval, one of `CHARGES`.
    begin, end
        Of each interval [tick].
    prices
        Of each interval, whole numbers of 1 / denominator [1/tick].
    """

    slo: Annotated[ServiceLevels | None, PlainSerializer(lambda slo: slo and slo.document())] = None
    denominator: Annotated[int, Field(strict=True, ge=1, le=2**80)]
    charge: list[Literal["memory", "slots", "pace-memory", "pace-slots"]]
    begin: list[_Ticks]
    end: list[_Ticks]
    prices: list[Annotated[int, Field(strict=True, ge=0, le=2**80)]]


class Certificate(_Record):
    """A lower bound on a total latency, a makespan or another metric of one instance, with its proof.

    One of kind ``goodput`` names the requests within their service levels as its ``objective``, and ``bound`` is the
    most of them; as a lower bound (`metric`, `value`) it is about the requests that are not.

    ``objective`` is the metric that it says it bounds; None where it leaves that to its kind (`metric`), as those that
    were written before the field existed.
    ``seconds`` is the time it took to find the proof, None when not known.
    """

    instance: InstanceStamp
    kind: CertificateKind = "kv-prices"
    objective: str | None = None
    bound: Bound
    prices: Prices | None = None
    partitions: Partitions | None = None
    weights: Weights | None = None
    work: Work | None = None
    interference: Interference | None = None
    serving_prices: ServingPrices | None = None
    goodput: Goodput | None = None
    seconds: float | None = None

    def __repr__(self) -> str:
        return f"Certificate({self.kind} for {self.instance.name!r}, {self.metric} bounded by {self.value:.10g})"

    __str__ = __repr__

    @property
    def value(self) -> float:
        """The bound as a double, never above the exact one; a total latency is rounded up to whole rounds."""
        exact = Fraction(self.bound.numerator, self.bound.denominator)
        if KINDS[self.kind].complement is not None:
            return float(max(0, self.instance.requests - math.floor(exact)))
        if KINDS[self.kind].whole:
            return float(math.ceil(exact))
        near = float(exact)
        return near if Fraction(near) <= exact else math.nextafter(near, -math.inf)

    @property
    def metric(self) -> str:
        """The metric that it bounds: the one that it names where its kind can bound that, else the kind's first."""
        kind = KINDS[self.kind]
        named = self.objective if self.objective in kind.objectives else kind.objectives[0]
        return kind.complement or named

    @property
    def proof(self) -> str:
        """What the bound is recomputed from, in a word."""
        return KINDS[self.kind].proof

    def document(self) -> dict[str, Any]:
        """The certificate as JSON-ready data."""
        other = {proof for proof in PROOFS if proof != KINDS[self.kind].field}
        return {"schema": SCHEMA, **self.model_dump(mode="python", exclude=other)}
