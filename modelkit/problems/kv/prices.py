"""Prices on KV memory with a good bound: a fluid start, then a smooth ascent.

*Fluid start.* In a busy period the best price falls by about 1 / v per round, where v is the memory volume
of the request admitted then: delaying that request by a round must pay. Integrate backwards from the
period's end, with the admissions of a list schedule.

*Smooth ascent.* L is concave, but its subgradients are spiky: many requests share one best start, and
jump together. So the minimum over starts is made smooth (``modelkit.problems.kv.relaxation``), the smooth bound
is ascended with L-BFGS, and the temperature is lowered in stages. Prices are linear between knots, starts
are looked at with a stride and only where they are not too expensive; both get finer as it gets colder. Where there
are far too many starts, some of the requests stand for all, with their share of the capacity; what they find counts
where others find it no worse. The bound that counts is that of the last prices over all requests and starts.

Why this one: benchmarks/ascents.py runs it beside the volume algorithm and a bundle method with HiGHS as its
master. On 10,000 chats it is after 8 s where the volume algorithm is after about 20 s; on 200 requests of the Azure
conversation trace it converges to the LP bound (65,108.5 of 65,110.5) where the volume algorithm stops at
65,048.8. On 3,000 chats and more the volume algorithm is as good when it is given twice the time. The bundle needs
coarse knots for its master to stay small, and stays 0.2 % and more below both. And the mean starts are a
fractional schedule, whose order makes the best list schedules.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modelkit.errors import InterruptedWith
from modelkit.instance import Instance
from modelkit.problems.kv.local_search import volumes
from modelkit.problems.kv.relaxation import Floats, Ints, Relaxation
from modelkit.runtime.deadline import Deadline

#: Starts up to which all are looked at.
FULL = 20_000_000
#: Temperatures of the stages as shares of the mean waiting; with each the knots' spacing (times the finest), stride,
#: and how many starts are looked at where some requests stand for all. One that repeats the stage before is left out.
STAGES = (
    (0.03, 8, 16, 500_000), (0.01, 4, 8, 2_000_000), (0.003, 2, 4, 8_000_000), (0.003, 2, 4, FULL), (0.001, 1, 1, FULL),
    (0.0002, 1, 1, FULL),
)  # fmt: skip
#: Where all requests wait long, knots and starts are no closer than this share of the temperature: costs that differ by
#: less than it are alike.
ALIKE = 0.25
#: Iterations of L-BFGS in a stage on large instances.
ITERATIONS = 100
#: Iterations of L-BFGS in a stage on small instances, at most.
MOST_ITERATIONS = 600
#: Iterations of an ascent in which some of the requests stand for all.
SAMPLE_ITERATIONS = 25
#: Pairs of a request and a round that all iterations of a stage may look at before there are fewer of them.
EFFORT = 2e8
#: Pairs of a request and a round up to which knots and starts are as fine as can be from the beginning.
SMALL = 1_000_000
#: How often the windows of a stage are made anew.
REFRESHES = 2
#: Pairs that L-BFGS remembers.
MEMORY = 10
#: Starts in the first stage from which on some requests stand for all.
FAR_TOO_MANY = 4_000_000
#: Least requests that stand for all.
FEWEST = 1_000
#: One request out of this many, at most, is asked whether an ascent of some others was good for all.
ROUGHLY = 16
#: Most knots of the prices, about.
KNOTS = 100_000
#: Starts that cost more than the least by this many temperatures are left out of a stage.
WIDTH = 40.0


@dataclass(frozen=True)
class Ascent:
    """Prices and what came with them.

    Parameters
    ----------
    prices
        Price of each round [latency round / token]; index = round, entry 0 unused.
    bound
        L at these prices, in floating point; where there was no time for it, the latency of all outputs.
    mean_starts
        Mean start of each request in each stage, shape [stages, n]: orders for list schedules.
    cut
        Whether the deadline cut it short.
    """

    prices: Floats
    bound: float
    mean_starts: Floats
    cut: bool = False


def fluid_prices(instance: Instance, starts: Ints, rounds: int) -> Floats:
    """Prices on rounds 1 .. ``rounds`` by the fluid argument, from the starts of a schedule."""
    arrays = instance.arrays
    waits = starts > arrays.arrival
    change = np.zeros(rounds + 2)
    inside = np.minimum(starts, rounds + 1)
    np.add.at(change, np.minimum(arrays.arrival, rounds + 1), 1)
    np.add.at(change, inside, -1)
    waiting = np.cumsum(change)
    volume = np.zeros(rounds + 2)
    np.maximum.at(volume, inside[waits], volumes(instance)[waits])
    prices = np.zeros(rounds + 1)
    price, current = 0.0, None
    for t in range(rounds, -1, -1):
        if waiting[t] <= 0:
            price = 0.0
        else:
            current = volume[t] or current
            price += 1 / current if current else 0.0
        prices[t] = price
    return prices[1:]


def ascend(
    instance: Instance,
    starts: Ints,
    *,
    deadline: Deadline | None = None,
    listen: Callable[[float], None] | None = None,
) -> Ascent:
    """Prices with a good bound.

    Parameters
    ----------
    starts
        Of a known schedule, shape [n]: where the fluid start and the scale come from.
    deadline
        After it the ascent stops. None: a fixed amount of work.
    listen
        Called with the bound after each stage.

    Raises
    ------
    InterruptedWith
        Ctrl-C; it carries the best prices so far.
    """
    deadline = deadline or Deadline()
    arrays = instance.arrays
    rounds = int((starts + arrays.output).max()) + int(arrays.output.max()) // 4 + 1
    relaxation = Relaxation(instance, rounds)
    waiting = float((starts - arrays.arrival).mean())
    prices = fluid_prices(instance, starts, rounds)
    free = float(arrays.output.sum())
    best, best_prices, hint = free, prices, starts.copy()
    means = [starts.astype(np.float64)]
    if deadline.over:
        return Ascent(np.concatenate([[0.0], prices]), free, np.stack(means), cut=True)
    sizes = volumes(instance)
    some = np.argsort(sizes, kind="stable")[:: max(1, min(ROUGHLY, len(sizes) // FEWEST))]
    rough = relaxation.sample(some)
    known, near = rough.bound(prices, hint[some])  # which loads what is compiled
    begun = time.perf_counter()
    rough.bound(prices, near)
    # so that there is time for the bound of all requests then, which threads share
    climbing = Deadline(deadline.at - 0.5 * (time.perf_counter() - begun) * len(starts) / len(some))
    if not deadline.finite or len(some) == len(starts):
        best, hint = relaxation.bound(prices, hint)
        means = [hint.astype(np.float64)]
        if free >= best:  # as at no prices: all requests start at once
            best, best_prices = free, np.zeros(rounds)
    if listen:
        listen(best)
    finest = max(1, rounds // KNOTS)
    iterations = int(min(MOST_ITERATIONS, max(ITERATIONS, EFFORT / (len(starts) * rounds))))
    small = len(starts) * rounds <= SMALL
    before, all_of_them, sampled = 0.0, False, None
    interrupted = False
    try:
        for share, spacing, stride, points in STAGES if waiting else ():
            if climbing.over:
                break
            if share == before and all_of_them:
                continue
            before = share
            if small:
                spacing, stride = 1, 1
            temperature = share * waiting
            apart = 1 if small else int(ALIKE * temperature)
            distance = max(spacing * finest, apart)
            for refresh in range(REFRESHES):
                if climbing.over:
                    break
                windows = _windows(relaxation, prices, starts, hint, temperature, stride=stride, apart=apart)
                sampled = windows.starts > FAR_TOO_MANY if sampled is None else sampled
                chosen = _choose_requests(sizes, windows.starts, points) if sampled else np.arange(len(sizes))
                all_of_them = len(chosen) == len(starts)
                climbed, mean = _stage(
                    relaxation.sample(chosen), prices, windows.sample(chosen), temperature, spacing=distance,
                    iterations=iterations // REFRESHES if all_of_them else SAMPLE_ITERATIONS, deadline=climbing,
                )  # fmt: skip
                roughly = rough.bound(climbed, hint[some])[0]
                if all_of_them or roughly >= known:
                    prices, known = climbed, roughly
                    hint[chosen] = np.rint(mean)
                if not all_of_them and refresh < REFRESHES - 1 and not climbing.over:
                    continue  # the bound takes longer than the ascent
                bound, hint = relaxation.bound(prices, hint)
                if bound > best:
                    best, best_prices = bound, prices
                means.append(mean if all_of_them else hint.astype(np.float64))
            if listen:
                listen(best)
    except KeyboardInterrupt:
        interrupted = True
    found = Ascent(np.concatenate([[0.0], best_prices]), best, np.stack(means), climbing.over)
    if interrupted:
        raise InterruptedWith(found)
    return found


@dataclass(frozen=True)
class _Windows:
    """The starts that a stage looks at: every ``stride``-th from ``first`` to ``last``, each of shape [n]."""

    first: Ints
    last: Ints
    stride: Ints

    @property
    def starts(self) -> int:
        """How many starts they hold."""
        return int(((self.last - self.first) // self.stride + 1).sum())

    def sample(self, chosen: Ints) -> _Windows:
        """Those of some of the requests."""
        return _Windows(self.first[chosen], self.last[chosen], self.stride[chosen])


def _choose_requests(size: Ints, starts: int, most: int) -> Ints:
    """Requests that have together about ``most`` of all the starts, small ones and large ones."""
    every = max(1, min(-(-starts // most), len(size) // FEWEST))
    return np.sort(np.argsort(size, kind="stable")[every // 2 :: every])


def _windows(
    relaxation: Relaxation, prices: Floats, known: Ints, hint: Ints, temperature: float, *, stride: int, apart: int
) -> _Windows:
    """Windows around the starts that are not too expensive at these prices.

    They hold the starts of a known schedule, without which the bound over the windows could grow for ever.
    """
    strides = np.maximum(max(1, apart), np.minimum(stride, relaxation.output // 8))
    end = np.maximum(relaxation.rounds, relaxation.arrival)
    latest = relaxation.latest(prices, hint, WIDTH * temperature)
    latest = np.maximum(known, np.minimum(end, latest + np.maximum(20, (latest - relaxation.arrival) // 2)))
    for until in (end, latest):
        windows = _Windows(relaxation.arrival, until, strides)
        if windows.starts <= FULL:
            return windows
    first, last = relaxation.near(prices, hint, WIDTH * temperature)
    pad = np.maximum(20, (last - first) // 2)
    first = np.maximum(relaxation.arrival, np.minimum(first, known) - pad)
    return _Windows(first, np.minimum(end, np.maximum(last, known) + pad), strides)


def _stage(
    relaxation: Relaxation,
    prices: Floats,
    windows: _Windows,
    temperature: float,
    *,
    spacing: int,
    iterations: int,
    deadline: Deadline,
) -> tuple[Floats, Floats]:
    """Ascent of the smooth bound at one temperature; the new prices and the mean starts there."""
    rounds = relaxation.rounds
    knots = (rounds - 1) // spacing + 2
    right_share = np.arange(spacing) / spacing
    mean = np.empty(0)

    def spread(x: Floats) -> Floats:
        between = x[:-1, None] * (1 - right_share) + x[1:, None] * right_share
        return np.asarray(between.ravel()[:rounds])

    def gather(excess: Floats) -> Floats:
        between = np.zeros((knots - 1, spacing))
        between.ravel()[:rounds] = excess
        at_knots = np.zeros(knots)
        at_knots[:-1] = (between * (1 - right_share)).sum(axis=1)
        at_knots[1:] += (between * right_share).sum(axis=1)
        return at_knots

    def objective(x: Floats) -> tuple[float, Floats]:
        nonlocal mean
        smooth = relaxation.smooth(spread(x), temperature, windows.first, windows.last, windows.stride)
        mean = smooth.mean
        return smooth.value, gather(smooth.excess)

    x = np.interp(np.arange(knots) * spacing, np.arange(rounds), prices)
    return spread(_climb(objective, x, iterations, deadline)), mean


def _climb(
    function: Callable[[Floats], tuple[float, Floats]], x: Floats, iterations: int, deadline: Deadline
) -> Floats:
    """Maximise a smooth concave function over x >= 0: projected L-BFGS with backtracking.

    Nocedal and Wright, Numerical Optimization, algorithm 7.4, on the components that are free to move. SciPy's
    L-BFGS-B took 50 times as long here: its small matrices are handed to threaded linear algebra.
    """
    value, gradient = function(x)
    pairs: deque[tuple[Floats, Floats, float]] = deque(maxlen=MEMORY)
    for _ in range(iterations):
        free = (x > 0) | (gradient > 0)
        rising = gradient * free
        norm = float(np.sqrt(rising @ rising))
        if norm == 0:
            break
        direction = _two_loops(rising, pairs) * free
        if not pairs or float(direction @ rising) <= 0:
            pairs.clear()
            direction = rising * (0.01 * max(float(np.sqrt(x @ x)), 1e-6) / norm)
        step = 1.0
        while step > 1e-6:
            if deadline.over:
                return x
            x_new = np.maximum(0.0, x + step * direction)
            value_new, gradient_new = function(x_new)
            if value_new >= value + 1e-4 * float(gradient @ (x_new - x)):
                break
            step /= 3
        else:
            if not pairs:
                break
            pairs.clear()
            continue
        moved, turned = x_new - x, gradient - gradient_new
        curvature = float(moved @ turned)
        if curvature > 1e-14 * float(turned @ turned):
            pairs.append((moved, turned, curvature))
        x, value, gradient = x_new, value_new, gradient_new
    return x


def _two_loops(gradient: Floats, pairs: deque[tuple[Floats, Floats, float]]) -> Floats:
    """The inverse Hessian that L-BFGS believes in, times ``gradient``."""
    direction = gradient.copy()
    weights = []
    for moved, turned, curvature in reversed(pairs):
        weight = float(moved @ direction) / curvature
        weights.append(weight)
        direction -= weight * turned
    if pairs:
        _, turned, curvature = pairs[-1]
        direction *= curvature / float(turned @ turned)
    for (moved, turned, curvature), weight in zip(pairs, reversed(weights), strict=True):
        direction += (weight - float(turned @ direction) / curvature) * moved
    return direction
