"""A share of delay for each request, by which the bound by interference is higher than with one share for all.

With all x_i fixed the bound is linear in the shares, and it is the least of those over all x: concave. So it is
ascended along supergradients. A larger share of j makes j's own delay dearer, and takes j from those whom the others
keep waiting while j is present. What others do in an interval of time is noted where their least terms are found, and
read off for all requests at once. In floating point: what is found is recomputed exactly.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from modelkit.certificate import SHARE, TICKS_PER_MS
from modelkit.runtime.deadline import Deadline
from modelkit.runtime.kernel import kernel
from modelkit.verify.serving_costs import COSTS_PER_MS, ServingCosts

#: Steps, at most and at least, and requests times steps in between; how far the first step goes at most.
STEPS, FEWEST_STEPS, WORK, FIRST_STEP = 40, 6, 120_000, 0.05
#: No share is below or above.
LOWEST, HIGHEST = 0.003, 0.999


class Jobs(NamedTuple):
    """Columns of requests by arrival, shape [n] [ms]; densities are shares of the time of decoding."""

    arrival: Any
    own: Any
    prefill: Any
    decoding: Any
    end: Any
    density: Any
    dearest: Any


class Presence(NamedTuple):
    """How much is present from each of the times on."""

    times: Any
    present: Any


class Weights(NamedTuple):
    """The share of delay of each request, and what is charged for its prefill, shape [n]."""

    shares: Any
    charged: Any


class Slopes(NamedTuple):
    """What larger shares add: see `_least_terms`."""

    slope: Any
    noted: Any
    by_own: Any


def ascended_shares(costs: ServingCosts, share: int, deadline: Deadline) -> list[int]:
    """Shares in the order of the instance, from one for all on [2^-10]; the best that are met before the deadline."""
    order = np.argsort(np.array(costs.arrival), kind="stable")

    def column(values: list[int], unit: int = COSTS_PER_MS) -> np.ndarray[Any, Any]:
        return np.array([values[i] / unit for i in order])

    arrival, prefill, decoding = column(costs.arrival, TICKS_PER_MS), column(costs.prefill), column(costs.decoding)
    end = arrival + column(costs.residence)
    prompt, output = column(costs.prompt, 1), column(costs.output, 1)
    fixed = (costs.base + costs.decode_base) / COSTS_PER_MS
    per_request, per_token = costs.decode_per_request / COSTS_PER_MS, costs.decode_per_kv_token / COSTS_PER_MS
    first, last = (per_request + per_token * held for held in (prompt + 1 + costs.mixed, prompt + output))
    with np.errstate(divide="ignore", invalid="ignore"):
        density, dearest = (np.where(decoding > 0, np.nan_to_num(w / (fixed + w)), 0.0) for w in (first, last))
    own, prefill_base = costs.prefill_per_token / COSTS_PER_MS * prompt, costs.prefill_base / COSTS_PER_MS
    times = np.unique(np.concatenate([arrival, end]))
    begins, ends = np.searchsorted(times, arrival), np.searchsorted(times, end)
    jobs = Jobs(arrival, own, prefill, decoding, end, density, dearest)
    shares = np.full(len(order), share / SHARE)
    best, best_shares = -np.inf, shares
    mean, square = np.zeros(len(order)), np.zeros(len(order))
    steps = max(FEWEST_STEPS, min(STEPS, WORK // len(order)))
    for step in range(steps):
        if deadline.over:
            break
        changes = np.zeros(len(times))
        np.add.at(changes, begins, 1 - shares)
        np.add.at(changes, ends, shares - 1)
        slope, noted, by_own = np.full(len(order), prefill_base), np.zeros(len(times) + 1), np.zeros(len(order))
        presence, weights = Presence(times, np.cumsum(changes)), Weights(shares, prefill_base * (1 - shares))
        value = _least_terms(jobs, presence, weights, Slopes(slope, noted, by_own))
        value -= prefill_base * (1 - shares).sum()
        if value > best:
            best, best_shares = value, shares
        before = np.concatenate([[0.0], np.cumsum(noted)])
        slope -= before[ends] - before[begins] - by_own
        mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope**2
        scaled = mean / (1 - 0.9 ** (step + 1)) / (np.sqrt(square / (1 - 0.99 ** (step + 1))) + 1e-9)
        shares = np.clip(shares + FIRST_STEP * (1 - step / steps) * scaled, LOWEST, HIGHEST)
    found = np.zeros(len(order), dtype=np.int64)
    found[order] = np.maximum(1, np.rint(SHARE * best_shares))
    return [int(number) for number in found]


@kernel
def _least_terms(jobs: Jobs, presence: Presence, weights: Weights, slopes: Slopes) -> float:
    """Sum over requests of their least terms; adds to ``slope`` what a larger share of each adds to its own term.

    ``noted``: what a unit more of presence adds in each interval between ``times``; ``by_own``: of that, what the
    request itself does in its own presence, which does not count.
    """
    arrival, own, prefill, decoding, end, density, dearest = jobs
    times, present = presence
    shares, charged = weights
    slope, noted, by_own = slopes
    total, begin, last = 0.0, 0, len(times) - 1
    for i in range(len(arrival)):
        while begin < last and times[begin + 1] <= arrival[i]:
            begin += 1
        cap = shares[i] / dearest[i] if dearest[i] > 0 else np.inf
        x, least = _best_start(i, jobs, presence, weights, cap, begin)
        total += least
        weight, gone = 1 - shares[i], end[i]
        if shares[i] * (x - arrival[i]) > charged[i]:
            slope[i] += x - arrival[i]
        # the prompt's time, where the fewest were present since the arrival
        k = fewest_at = begin
        fewest, reached = np.inf, arrival[i]
        while True:
            others = present[k] - (weight if times[k] < gone else 0.0)
            if others < fewest:
                fewest, fewest_at = others, k
            until = times[k + 1] if k < last else np.inf
            length = min(until, x + own[i]) - max(reached, x)
            if length > 0:
                noted[fewest_at] += length
                if times[fewest_at] < gone:
                    by_own[i] += length
            if until >= x + own[i]:
                break
            k += 1
            reached = times[k]
        # the decoding's time, where fewer are present than the cap
        reached, done = x + prefill[i], x + prefill[i] + decoding[i]
        k = begin
        while k < last and times[k + 1] <= reached:
            k += 1
        while reached < done:
            until = min(done, times[k + 1] if k < last else np.inf)
            work = density[i] * (until - reached)
            if present[k] - (weight if times[k] < gone else 0.0) < cap:
                noted[k] += work
                if times[k] < gone:
                    by_own[i] += work
            else:
                slope[i] += work / dearest[i]
            reached = until
            k += 1
    return total


@kernel
def _best_start(
    i: int, jobs: Jobs, presence: Presence, weights: Weights, cap: float, begin: int
) -> tuple[float, float]:
    """The x at which a request's term is least, and the term: see ``modelkit.verify.serving_interference``."""
    times, present = presence
    arrival, own, prefill, decoding = jobs.arrival[i], jobs.own[i], jobs.prefill[i], jobs.decoding[i]
    gone, density, share, charged = jobs.end[i], jobs.density[i], weights.shares[i], weights.charged[i]
    last, weight = len(times) - 1, 1 - share
    offsets = (0.0, own, prefill, prefill + decoding)
    at = np.full(4, begin)
    height = np.zeros(4)  # what lies at the four ends of the two integrals
    integral = np.zeros(2)
    for e in range(4):
        reached = arrival + offsets[e]
        start = arrival if e < 2 else arrival + prefill
        if e == 3:
            at[3] = at[2]
        k = at[e]
        others = present[k] - (weight if times[k] < gone else 0.0)
        height[e] = others if e < 2 else min(cap, others)
        passed = start
        while k < last and times[k + 1] <= reached:
            if e == 1 or e == 3:
                integral[e // 2] += height[e] * (times[k + 1] - passed)
                passed = times[k + 1]
            k += 1
            others = present[k] - (weight if times[k] < gone else 0.0)
            height[e] = min(height[e], others) if e < 2 else min(cap, others)
        if e == 1 or e == 3:
            integral[e // 2] += height[e] * (reached - passed)
        at[e] = k
    x, best, least = arrival, arrival, np.inf
    while True:
        delay = share * (x - arrival)
        term = max(charged, delay) + integral[0] + density * integral[1]
        if term < least:
            best, least = x, term
        if delay >= least:
            break
        step = np.inf
        for e in range(4):
            if at[e] < last:
                step = min(step, max(0.0, times[at[e] + 1] - offsets[e] - x))
        if step == np.inf:
            break
        kink = arrival + charged / share - x
        if 1e-9 < kink < step:
            step = kink
        integral[0] += step * (height[1] - height[0])
        integral[1] += step * (height[3] - height[2])
        x += step
        for e in range(4):
            if at[e] < last and times[at[e] + 1] <= x + offsets[e] + 1e-9:
                at[e] += 1
                others = present[at[e]] - (weight if times[at[e]] < gone else 0.0)
                height[e] = min(height[e], others) if e < 2 else min(cap, others)
    return best, least
