"""Prices on time: a lower bound on total latency under the linear clock, its proof, and what finds good prices.

**Prices** are constant in buckets of time and 0 behind the last: pi(t) on the server's time; lam(t), mu(t) and
rho_i(t), in ms, on a token held, on a slot and on being request i in an iteration of decoding; lam'(t), mu'(t) and
rho'_i(t) the same in the iteration that processes the last of i's prompt. With M tokens of capacity and J slots, all
are >= 0, and what iterations cost anyhow covers them at every moment:

    M lam + J mu + sum_i rho_i <= (base + b0) pi,          M lam' + J mu' + sum_i rho'_i <= p0 pi

**Charges.** Let D be those that decode in an iteration and S those whose last prompt token it processes, seen from the
stays in which requests complete, and overlined prices their means over it. It lasts at least

    base + [p0 if S] + p1 (prompt tokens) + [b0 if D] + sum_D (b1 + b2 k)

and k of D and s + 1 of S sum to at most M, and D and S have at most J members. (Evictions only make iterations longer.)
Let theta = base / (base + b0). Times the mean price of the server,

    base pi >= theta [ lam (sum_D k + sum_S (s + 1)) + mu (|D| + |S|) + sum_{D and S} rho ]      base is paid by all
    b0 pi >= (1 - theta) [ lam sum_D k + mu |D| + sum_D rho ]                                     where D is not empty
    p0 pi >= lam' sum_S (s + 1) + mu' |S| + sum_S rho'                                            where S is not empty

so the integral of pi is at least the sum over iterations of what they are charged: of D each X + k Y, of S each F, and
for every prompt token p1 pi, with

    X = b1 pi + mu + rho      Y = b2 pi + lam      F = (s + 1)(lam' + theta lam) + mu' + theta mu + rho' + theta rho

Add the completions c_i on both sides: total latency + sum a_i >= sum_i (c_i + charges of i) - integral of pi.

**One request,** c_i = C. It decodes in d iterations with k = H + j in the j-th, H = s + 1 where prompts are processed
beside decoding (d = o - 1) and s where they are not (d = o). Iteration j lasts at least e_j = base + b0 + b1 + b2 k and
ends at or before C minus all later e_l. Put in place of X, Y, pi and F the least that they have been since i's
arrival, which is nonincreasing and no more. Then

* the mean of a price over iteration j is at least that over the e_j ms that end C - sum_{l > j} e_l;
* these intervals fill [st, C] with st = C - e, e = sum e_j. As e_j grows with j, at every moment of it at least as many
  iterations have passed as if all lasted e/d, and sum of k at least H c + c(c + 1)/2 <= that of c whole ones (convex
  in c, so below its chords) after c = (t - st) d/e; so for nonincreasing prices the charges are at least those of one
  iteration per e/d ms, with H + 1/2 + c tokens (summation by parts);
* the last prompt iteration ends by st and lasts f = base + p0 or more (without chunks, as where prompts are not
  processed beside decoding, f = base + p0 + p1 s), so the mean of F is at least that over [st - f, st];
* the tokens of the prompt are processed by st and take p1 ms of an iteration each, so pi is charged for at least
  [st - p1 s, st].

Together, with these running minima:

    K_i(C) = C + (d/e) int_{st}^{C} [ X + (H + 1/2 + (t - st) d/e) Y ] dt
               + int_{st - p1 s}^{st} pi dt + (1/f) int_{st - f}^{st} F dt

    total latency + sum_i a_i  >=  sum_i min_{C >= a_i + R_i} K_i(C) - integral of pi,      R_i the residence

K_i(C) - C does not increase, and between moments at which C, st, st - p1 s or st - f crosses a border of buckets K_i is
a convex quadratic. Nothing is assumed of pauses or batches. R replicas have as many sequences of iterations, each
covered by the same prices, so the integral of pi counts R times. With levels, p0 = 0 and p1 is the least ms per token.
Where no iteration has both parts, base is part of p0 and of b0, and 0 itself.

**What it takes.** Prices without the requests' own ones (rho = rho' = 0) share what iterations cost among tokens and
slots only, which says something where these are short. Own prices share it among who is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from modelkit.certificate import TICKS_PER_MS, Bound, Certificate, ServingPrices
from modelkit.errors import InterruptedWith
from modelkit.instance import Instance, InstanceStamp
from modelkit.problems.problem import TOTAL_LATENCY_MS
from modelkit.problems.serving import price_kernels as kernels
from modelkit.problems.serving.price_ascent import Floats, Level, Plan, Priced, Terms
from modelkit.runtime.deadline import Deadline
from modelkit.verify.serving_costs import COSTS_PER_MS, ServingCosts
from modelkit.verify.serving_prices import LONGEST, serving_prices_bound

#: Buckets of the last level in the time that the reference takes, and in its mean latency.
BUCKETS, IN_LATENCY = 1280, 48
#: Buckets, own prices, and requests times buckets, at most.
MOST_BUCKETS, MOST_OWN, MOST_LOOKED_AT = 200_000, 800_000, 30_000_000
#: What the ascent consists of.
LEVELS = (
    Plan(8, 400, 0.15, 0.03, 0.005),
    Plan(4, 300, 0.25, 0.01, 0.002, 0.5),
    Plan(2, 300, 0.4, 0.005, 0.001, 0.3),
    Plan(1, 300, 1.0, 0.003, 0.0007, 0.2),
)
#: Prices are whole numbers of this part of 1, or of a larger one where they are very high.
PRECISION = 20
HIGHEST = 2**41


@dataclass(frozen=True)
class Prices:
    """Prices and the bound that they give in floating point [ms], total latency; whether they had too little time.

    That is less than half of the iterations of some level.
    """

    priced: Priced
    value: float
    cut: bool = False


def price_bound(
    instance: Instance,
    completions: Floats,
    *,
    own: bool = True,
    deadline: Deadline | None = None,
    listen: Callable[[float], None] | None = None,
    levels: Sequence[Plan] = LEVELS,
) -> Prices:
    """Prices with a good bound.

    Parameters
    ----------
    completions
        When each request completes in a good schedule, in the order of the instance, shape [n] [ms]: where the prices
        start and how far they reach. Any numbers do; what the prices prove does not lean on them.
    own
        Whether requests have prices of their own. Without, there is as much to write as there are buckets.
    deadline
        After it the ascent stops. None: a fixed amount of work, which gives the same prices each time.
    listen
        Called with each better bound.
    levels
        What the ascent consists of.

    Raises
    ------
    InterruptedWith
        Ctrl-C; it carries the best prices so far.
    """
    deadline = deadline or Deadline()
    terms = _terms(instance)
    arrival = terms.facts[:, kernels.ARRIVAL]
    completions = np.maximum(completions - terms.start, arrival + terms.facts[:, kernels.RESIDENCE])
    mean = max(float((completions - arrival).mean()), 1e-6)
    finest = _finest(terms, completions, mean, own)
    best = _free(terms)
    if completions.max() * TICKS_PER_MS > LONGEST / 2:
        return best

    def better(value: float) -> None:
        if listen and value > best.value:
            listen(value)

    def seen(level: Level | None) -> Prices:
        if level is None or level.best is None or level.best[0] <= best.value:
            return best
        return Prices(level.best[1], level.best[0])

    level: Level | None = None
    try:
        for plan in levels:
            finer = Level(terms, completions, finest * plan.longer, own=own)
            if level is None:
                finer.begin_at(*_servers(terms, completions, finer))
            else:
                finer.begin_from(level)
            level = finer
            cut = level.climb(plan, mean, deadline.share(plan.share), better)
            best = replace(seen(level), cut=best.cut or cut)
            if deadline.over and plan is not levels[-1]:
                best = replace(best, cut=True)
                break
    except KeyboardInterrupt:
        raise InterruptedWith(replace(seen(level), cut=True)) from None
    return best


def _terms(instance: Instance) -> Terms:
    """What an ascent needs to know of an instance."""
    return Terms.of(ServingCosts.of(instance), instance.server.kv_capacity_tokens, instance.server.slots)


def _free(terms: Terms) -> Prices:
    """No prices, and what they prove: residence."""
    n, nothing = len(terms.facts), np.empty(0)
    none = Priced(1.0, np.zeros((5, 1)), np.zeros(n, np.int64), np.zeros(n + 1, np.int64), nothing, nothing)
    return Prices(none, float(terms.facts[:, kernels.RESIDENCE].sum()))


def _finest(terms: Terms, completions: Floats, mean: float, own: bool) -> float:
    """Length of the buckets of the last level [ms], whole ticks."""
    span = float(completions.max())
    height = min(span / BUCKETS, mean / IN_LATENCY)
    height = max(height, span / MOST_BUCKETS, span * len(completions) / MOST_LOOKED_AT)
    if own:
        height = max(height, 1.5 * mean * len(completions) / MOST_OWN)
    return max(1, round(height * TICKS_PER_MS)) / TICKS_PER_MS


def _servers(terms: Terms, completions: Floats, level: Level) -> tuple[Floats, Floats]:
    """Two beginnings for pi: in each bucket of the reference, who is there, and who has not completed yet.

    The second is what an hour less of the server costs where it is never idle.
    """
    edges = np.arange(level.buckets + 1) * level.height

    def passed(times: Floats) -> Floats:
        ordered = np.sort(times)
        before = np.searchsorted(ordered, edges)
        return np.asarray(np.diff(before * edges - np.concatenate([[0.0], np.cumsum(ordered)])[before]))

    done = passed(completions) / level.height
    present = np.maximum(0.0, passed(terms.facts[:, kernels.ARRIVAL]) / level.height - done)
    return present / terms.replicas, (len(completions) - done) / terms.replicas


def certificate_of(instance: Instance, prices: Prices, *, seconds: float | None = None) -> Certificate:
    """The certificate of these prices, rounded to whole numbers; its bound is what those prove.

    Very high prices are rounded so much that none at all may prove more: then the certificate is of none.
    """
    written = [written_prices(instance, some) for some in (prices, _free(_terms(instance)))]
    bound, best = max(((serving_prices_bound(instance, some), some) for some in written), key=lambda found: found[0])
    return Certificate(
        instance=InstanceStamp.of(instance),
        kind="serving-prices",
        objective=TOTAL_LATENCY_MS,
        bound=Bound(numerator=bound.numerator, denominator=bound.denominator),
        serving_prices=best,
        seconds=seconds,
    )


def written_prices(instance: Instance, prices: Prices) -> ServingPrices:
    """Prices as whole numbers, which what iterations cost covers exactly."""
    priced, costs = prices.priced, ServingCosts.of(instance)
    highest = max(
        float(priced.common.max()), float(priced.decoding.max(initial=0)), float(priced.prompts.max(initial=0))
    )
    unit = 1 << PRECISION
    while unit > 1 and highest * unit >= HIGHEST / 2:
        unit //= 2
    server = np.floor(priced.common[0] * unit)
    begin = priced.begin
    owner = np.repeat(np.arange(len(priced.first)), np.diff(begin))
    bucket = np.arange(len(owner)) - begin[owner] + priced.first[owner]
    rows = []
    for fixed, limits, own in (
        (costs.base + costs.decode_base, priced.common[1:3], priced.decoding),
        (costs.prefill_base, priced.common[3:5], priced.prompts),
    ):
        some = np.zeros(len(server))
        np.add.at(some, bucket, own)
        charged = some + limits.sum(axis=0)
        # a little less than is allowed: doubles above are not exact
        allowed = server * (fixed / COSTS_PER_MS) / unit * (1 - 1e-9)
        scale = unit * np.minimum(1.0, allowed / np.maximum(charged, 1e-300))
        whole = np.floor(own * scale[bucket]).astype(np.int64).tolist()
        rows.append((np.floor(limits * scale).astype(np.int64).tolist(), [whole[a:b] for a, b in pairwise(begin)]))
    (limits, decoding), (prompt_limits, prompts) = rows
    return ServingPrices(
        start=min(costs.arrival), bucket=round(priced.height * TICKS_PER_MS), denominator=unit,
        server=server.astype(np.int64).tolist(), memory=limits[0], slots=limits[1], prompt_memory=prompt_limits[0],
        prompt_slots=prompt_limits[1], first=priced.first.tolist(), decoding=decoding, prompts=prompts,
    )  # fmt: skip
