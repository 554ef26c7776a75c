"""Certified lower bounds in real time that take no ascent: by residence, by work, and by interference.

Their proofs are those of ``modelkit.verify.serving_work`` and ``modelkit.verify.serving_interference``; what is found
here is what they are recomputed with. Each holds for every schedule that the judge accepts: with evictions, pauses,
batches of any size, and prompts in chunks.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from modelkit.certificate import SHARE, Certificate, Interference, Prices, Work
from modelkit.errors import InputError
from modelkit.instance import Instance, InstanceStamp
from modelkit.problems.kv.local_search import TooLargeError, first_schedule
from modelkit.problems.kv.prices import ascend
from modelkit.problems.problem import MAKESPAN_MS, TOTAL_LATENCY_MS, TOTAL_TTFT_MS
from modelkit.problems.replicas.servers import pooled
from modelkit.problems.serving.delay_shares import ascended_shares
from modelkit.problems.serving.interference import interference_weights
from modelkit.problems.serving.work import splits, with_cells, with_holding
from modelkit.runtime.deadline import Deadline
from modelkit.verify.exact_bounds import NOTHING, certify, claiming, recomputed_bound
from modelkit.verify.serving_costs import ServingCosts
from modelkit.verify.serving_work import rounds_instance, work_bounds

#: The bounds, and what each counts.
TITLES = {
    "residence": "what each request takes when it is alone",
    "work": "the work that requests cause, shortest first",
    "cells": "the work that requests cause, and who is present while it is done",
    "rounds": "prices on the rounds of decoding, and the work beside them",
    "interference": "the time that requests take from each other",
    "prices": "what requests pay when time, memory and a place in each iteration have prices",
}
#: Shares of delay that are tried first, and how close to the best the next ones lie [2^-10].
SHARES = (50, 200, 400)
CLOSEST = 20
#: Requests from which fewer shares are tried; and the one that is where the work alone says much more than residence.
MANY = 5000
OVERLOADED = (400,)
#: Factor from which one bound says much more than another.
MUCH_MORE = 1.5
#: Share of the time that is left for each search; and requests times rounds up to which prices on rounds are sought
#: without a limit on time.
SHARE_OF_TIME, MOST_STARTS = 0.25, 2_000_000


@dataclass(frozen=True)
class ServingBound:
    """A lower bound by its name in `TITLES`, certified, and how long it and those found with it took [s]."""

    name: str
    certificate: Certificate
    seconds: float = 0.0

    @property
    def value(self) -> float:
        """The bound [ms]."""
        return self.certificate.value

    @property
    def title(self) -> str:
        """What it counts, in words."""
        return TITLES[self.name]


def serving_bounds(
    instance: Instance, objective: str = TOTAL_LATENCY_MS, deadline: Deadline | None = None
) -> list[ServingBound]:
    """Every bound that there is on ``objective``, the best first; at least the one by residence.

    Parameters
    ----------
    objective
        ``total_latency_ms``, ``makespan_ms`` or ``total_ttft_ms``.
    deadline
        Some of the time that is left goes to prices on rounds, where all requests arrive together, and to shares of
        delay. All else takes about a second at 20,000 requests.

    Raises
    ------
    InputError
        The clock of the instance is not linear.
    """
    began = time.perf_counter()
    found = _timed(_by_work(instance, objective, deadline), began)
    if "interference" not in left_out(instance, objective):
        values, began = {bound.name: bound.value for bound in found}, time.perf_counter()
        overloaded = values["work"] > MUCH_MORE * values["residence"]
        found += _timed(_by_interference(instance, overloaded, share_of(deadline)), began)
    return sorted(found, key=lambda bound: -bound.value)


def _timed(bounds: list[ServingBound], began: float) -> list[ServingBound]:
    seconds = time.perf_counter() - began
    return [replace(bound, seconds=seconds) for bound in bounds]


def share_of(deadline: Deadline | None) -> Deadline:
    """When a search that may take long ends."""
    return (deadline or Deadline()).share(SHARE_OF_TIME)


def left_out(instance: Instance, objective: str = TOTAL_LATENCY_MS) -> dict[str, str]:
    """Why bounds are not among `serving_bounds`, in words that follow "it", by their names."""
    reasons: dict[str, str] = {}
    if instance.server.replicas > 1:
        reasons["interference"] = "is of one server: requests on other replicas wait for nobody's iterations"
    if objective != TOTAL_LATENCY_MS:
        reasons |= {"interference": "bounds the total latency alone", "rounds": "bounds the total latency alone"}
    elif len(set(ServingCosts.of(instance).arrival)) > 1:
        reasons["rounds"] = "needs requests that arrive together"
    if objective == MAKESPAN_MS:
        reasons["cells"] = "counts who is present, which says nothing of the end"
    return reasons


def _by_work(instance: Instance, objective: str, deadline: Deadline | None) -> list[ServingBound]:
    best: dict[str, tuple[Fraction, Work]] = {}

    def see(work: Work) -> None:
        for name, value in work_bounds(instance, work, objective).items():
            if name not in best or value > best[name][0]:
                best[name] = (value, work)

    for work in splits(instance):
        see(work)
    if objective == TOTAL_TTFT_MS:
        see(with_holding(instance, best["work"][1]))
    excluded = left_out(instance, objective)
    if "cells" not in excluded:
        with contextlib.suppress(InputError):  # arrivals so far apart that there are too many cells
            see(with_cells(ServingCosts.of(instance), best["work"][1]))
    if "rounds" not in excluded:
        for rounds in _prices_on_rounds(instance, share_of(deadline)):
            see(best["work"][1].model_copy(update={"rounds": rounds}))
    return [
        ServingBound(name, claiming(_draft(instance, objective, work), value)) for name, (value, work) in best.items()
    ]


def _prices_on_rounds(instance: Instance, deadline: Deadline) -> list[Prices]:
    """None at all, and those that an ascent finds."""
    found = [Prices(denominator=1, rounds=[], numerators=[])]
    counted = rounds_instance(instance)
    if counted is None or counted.server.kv_capacity_tokens is None:
        return found
    with contextlib.suppress(InputError, TooLargeError):  # too many rounds to be priced
        server = pooled(counted)
        starts = first_schedule(server)
        soon = len(starts) * int(starts.max()) <= MOST_STARTS
        if starts.any() and (soon or deadline.finite):
            priced = certify(counted, ascend(server, starts, deadline=deadline).prices).prices
            found += [priced] if priced is not None else []
    return found


def _by_interference(instance: Instance, overloaded: bool, deadline: Deadline) -> list[ServingBound]:
    """One share of delay for all, some and ever closer ones to the best, and from there one for each request.

    Where the server is overloaded other bounds say more, and one share is enough.
    """
    costs, n = ServingCosts.of(instance), len(instance.requests)
    best: tuple[Fraction, ServingBound] | None = None
    tried: dict[int, Fraction] = {}

    def see(shares: list[int]) -> Fraction | None:
        nonlocal best
        weights = interference_weights(costs, shares)
        if weights is None:
            return None
        draft = _draft(instance, TOTAL_LATENCY_MS, weights)
        try:
            value = recomputed_bound(draft, instance)
        except InputError:  # too many times to look at
            return None
        if best is None or value > best[0]:
            best = value, ServingBound("interference", claiming(draft, value))
        return value

    def see_one(share: int) -> None:
        if share not in tried and 0 < share < SHARE and (value := see([share] * n)) is not None:
            tried[share] = value

    for share in OVERLOADED if overloaded else SHARES:
        see_one(share)
    width = 0 if overloaded else 100
    while tried and not deadline.over and width >= (CLOSEST if n < MANY else 2 * CLOSEST):
        centre = max(tried, key=tried.__getitem__)
        see_one(centre - width)
        see_one(centre + width)
        if max(tried, key=tried.__getitem__) == centre:
            width //= 2
    if tried and not overloaded:
        see(ascended_shares(costs, max(tried, key=tried.__getitem__), deadline))
    return [] if best is None else [best[1]]


def _draft(instance: Instance, objective: str, proof: Work | Interference) -> Certificate:
    """A certificate that claims nothing yet."""
    claimed: dict[str, Any] = (
        {"kind": "serving-work", "work": proof}
        if isinstance(proof, Work)
        else {"kind": "serving-interference", "interference": proof}
    )
    return Certificate(instance=InstanceStamp.of(instance), objective=objective, bound=NOTHING, **claimed)
