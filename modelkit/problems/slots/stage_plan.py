"""Alignment: stages placed so that slots finish together, by simulated annealing.

A plan has boundaries 0 = b_0 < b_1 < ... < b_K = T, counted in rounds, and a starting stage k_i for each
request: it is admitted at b_{k_i}, decodes o_i rounds and keeps its slot until the next boundary, the first
b_m >= b_{k_i} + o_i. In period p (between b_p and b_{p+1}) it occupies a slot iff k_i <= p < m. The requests
are intervals of periods, so slots can be assigned iff no period has more than J of them.

The makespan is, up to constants, tau (T + price K), where price is what a stage costs in rounds: little more
than half a round in the measured cost models. A boundary for every completion wastes stages; few boundaries waste
rounds, unless requests are started such that they end just before boundaries. Uneven boundaries have
K (K + 1) / 2 differences b_m - b_k to choose from.

The search minimises ``J T + weight * overload`` with a growing weight, where the overload is the sum over periods
of length * max(0, occupied - J). A plan without overload is a schedule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modelkit.runtime.kernel import kernel

Ints = npt.NDArray[np.int64]

#: Trials of the search for each request, when nothing else is said.
TRIALS_PER_REQUEST = 500
#: Trials between two moves of a boundary; such a move costs O(n).
_BOUNDARY_EVERY = 300
#: Places looked at for a request in a trial; the one that wastes least is tried.
_SAMPLES = 8
#: Requests that are taken out of overloaded periods at the end, at most.
_SETTLED = 100
#: Rounds up to which the way to the next boundary is kept in a table.
_TABLE = 100_000
#: Share by which T grows when overload is left.
_GROWTH = 0.003
#: How often it may grow.
_GROWTHS = 4


@dataclass(frozen=True, slots=True)
class StagePlan:
    """Boundaries [round], shape [K + 1], the starting stage of each request, shape [n], and the overload left."""

    boundaries: Ints
    start: Ints
    overload: int


def stage_count(output: Ints, slots: int, price: float) -> int:
    """A good number of stages.

    Parameters
    ----------
    price
        What a stage costs the server [round].

    Notes
    -----
    With K even boundaries a slot waits T / (2 K) rounds after each of its n / J requests, so the best K would be
    sqrt(n T / (2 J price)); with chosen ends about two fifths of it (measured on the family gsm8k).
    """
    n = len(output)
    rounds = max(1.0, float(output.sum()) / slots)
    best = 0.42 * math.sqrt(n * rounds / (2 * slots * max(price, 1e-3)))
    return max(-(-n // slots), min(n, round(best)))


def align(
    output: Ints,
    slots: int,
    least: int,
    price: float,
    rng: np.random.Generator,
    *,
    stages: int | None = None,
    trials: int | None = None,
) -> StagePlan:
    """A plan with a small T and little overload.

    Parameters
    ----------
    output
        o_i [round], shape [n].
    least
        Lower bound on T, at least max o_i.
    price
        What a stage costs the server [round].
    stages
        K; None takes `stage_count`.
    trials
        Of the search, about half a microsecond each; None takes ``TRIALS_PER_REQUEST``.
    """
    stages = stage_count(output, slots, price) if stages is None else stages
    horizon = max(least + round(min(0.8 * stages * price, float(output.sum()))), stages)
    gaps = np.cumsum(rng.dirichlet(np.full(stages, 3.0))) * (horizon - stages)
    boundaries = np.concatenate([[0], np.rint(gaps).astype(np.int64) + np.arange(1, stages + 1)])
    boundaries[-1] = horizon
    start = np.zeros(len(output), dtype=np.int64)
    occupied = np.zeros(stages, dtype=np.int64)
    filling = _Filling(output, boundaries, slots, start, occupied)
    _place(np.argsort(-output, kind="stable"), filling)
    trials = TRIALS_PER_REQUEST * len(output) if trials is None else trials
    scale = float(output.mean())
    overload = _anneal(filling, _Cooling(trials, (4.0, 100.0), (0.025 * scale, 0.004 * scale)), rng)
    for _ in range(_GROWTHS):
        if not overload:
            break
        boundaries[-1] += max(1, round(_GROWTH * horizon))
        cooling = _Cooling(trials // 4, (50.0, 200.0), (0.01 * scale, 0.002 * scale))
        overload = _anneal(filling, cooling, rng)
    overload = _settle(np.argsort(output, kind="stable"), filling)
    return StagePlan(boundaries, start, int(overload))


def squeeze(
    output: Ints, slots: int, least: int, plan: StagePlan, rng: np.random.Generator, *, attempts: int, trials: int
) -> StagePlan:
    """A plan with a smaller T: a period is shortened and the overload that this makes is annealed away.

    Parameters
    ----------
    least
        Lower bound on T, at which to stop.
    plan
        Without overload.
    attempts
        Periods shortened, each by one to three rounds; what does not succeed is undone.
    trials
        Of each attempt.
    """
    scale = float(output.mean())
    for _ in range(attempts):
        if plan.overload or plan.boundaries[-1] <= least:
            break
        boundaries, start = plan.boundaries.copy(), plan.start.copy()
        p = int(rng.integers(1, len(boundaries)))
        shift = min(int(rng.integers(1, 4)), int(boundaries[p] - boundaries[p - 1]) - 1)
        boundaries[p:] -= shift
        if not shift or (boundaries[start] + output > boundaries[-1]).any():
            continue
        occupied = np.zeros(len(boundaries) - 1, dtype=np.int64)
        filling = _Filling(output, boundaries, slots, start, occupied)
        overload = _anneal(filling, _Cooling(trials, (5.0, 5.0), (0.004 * scale, 0.002 * scale)), rng)
        if not overload and boundaries[-1] < plan.boundaries[-1]:
            plan = StagePlan(boundaries, start, 0)
    return plan


class _Filling(NamedTuple):
    """A plan that is changed in place: outputs, boundaries, slots, starts, and requests in each period."""

    output: Any
    boundaries: Any
    slots: int
    start: Any
    occupied: Any


class _Cooling(NamedTuple):
    """Trials, and at the beginning and at the end: weight of the overload against J T, temperature in overload."""

    trials: int
    weights: tuple[float, float]
    heat: tuple[float, float]


@kernel
def _place(order: Any, filling: _Filling) -> None:
    """In this order, each request where it overloads least, and then wastes least."""
    output, boundaries, slots, start, occupied = filling
    last = len(boundaries) - 1
    for i in order:
        best, best_over, best_waste = 0, -1, 0
        for k in range(last):
            end = boundaries[k] + output[i]
            if end > boundaries[last]:
                break
            over = 0
            p = k
            while boundaries[p] < end:
                if occupied[p] >= slots:
                    over += boundaries[p + 1] - boundaries[p]
                p += 1
            waste = boundaries[p] - end
            if best_over < 0 or over < best_over or (over == best_over and waste < best_waste):
                best, best_over, best_waste = k, over, waste
        start[i] = best
        _occupy(i, best, filling)


@kernel
def _occupy(i: int, k: int, filling: _Filling) -> int:
    """Request i starts at boundary k; returns the overload that it adds."""
    output, boundaries, slots, _, occupied = filling
    end = boundaries[k] + output[i]
    added = 0
    p = k
    while boundaries[p] < end:
        if occupied[p] >= slots:
            added += boundaries[p + 1] - boundaries[p]
        occupied[p] += 1
        p += 1
    return added


@kernel
def _vacate(i: int, k: int, filling: _Filling) -> int:
    """Request i no longer starts at boundary k; returns the overload that it takes away."""
    output, boundaries, slots, _, occupied = filling
    end = boundaries[k] + output[i]
    gone = 0
    p = k
    while boundaries[p] < end:
        occupied[p] -= 1
        if occupied[p] >= slots:
            gone += boundaries[p + 1] - boundaries[p]
        p += 1
    return gone


@kernel
def _overload(filling: _Filling) -> int:
    """Fill ``occupied`` anew; returns the overload, or -1 when a request ends after T."""
    output, boundaries, slots, start, occupied = filling
    occupied[:] = 0
    last = len(boundaries) - 1
    for i in range(len(output)):
        p = start[i]
        end = boundaries[p] + output[i]
        if end > boundaries[last]:
            return -1
        while boundaries[p] < end:
            occupied[p] += 1
            p += 1
    over = 0
    for p in range(last):
        if occupied[p] > slots:
            over += (occupied[p] - slots) * (boundaries[p + 1] - boundaries[p])
    return over


@kernel
def _tabulate(boundaries: Any, table: Any) -> None:
    """Rounds from each round to the next boundary; what does not fit into the table is searched for."""
    r = 0
    for boundary in boundaries:
        while r <= boundary and r < len(table):
            table[r] = boundary - r
            r += 1


@kernel
def _waste(end: int, boundaries: Any, table: Any) -> int:
    """Rounds that a slot waits after a request that ends here."""
    if end < len(table):
        return int(table[end])
    return int(boundaries[np.searchsorted(boundaries, end)] - end)


@kernel
def _anneal(filling: _Filling, cooling: _Cooling, rng: Any) -> int:
    """Improve boundaries and starts in place; returns the overload.

    A trial starts a request at another boundary, mostly in exchange with one that starts there, or shifts a
    boundary, alone or with all after it.
    """
    output, boundaries, slots, start, _ = filling
    trials, weights, heat = cooling
    n = len(output)
    last = len(boundaries) - 1
    over = _overload(filling)
    best, best_start, best_boundaries = weights[1] * over + slots * boundaries[last], start.copy(), boundaries.copy()
    table = np.zeros(min(_TABLE, 2 * boundaries[last]), dtype=np.int64)
    _tabulate(boundaries, table)
    for trial in range(trials):
        share = trial / trials
        weight = weights[0] * (weights[1] / weights[0]) ** share
        temperature = heat[0] * (heat[1] / heat[0]) ** share
        if trial % _BOUNDARY_EVERY == 0:
            p = int(rng.integers(1, last + 1))
            reach = max(1, int((boundaries[p] - boundaries[p - 1]) * 0.5 * rng.random() ** 3))
            shift = int(rng.integers(-reach, reach + 1))
            q = last if rng.random() < 0.5 else p
            if boundaries[p] + shift <= boundaries[p - 1] or (q < last and boundaries[p] + shift >= boundaries[p + 1]):
                continue
            boundaries[p : q + 1] += shift
            new = _overload(filling)
            change = weight * (new - over) + slots * (shift if q == last else 0)
            if new >= 0 and (change <= 0 or rng.random() < np.exp(-change / temperature)):
                over = new
                _tabulate(boundaries, table)
            else:
                boundaries[p : q + 1] -= shift
                _overload(filling)
        else:
            i = int(rng.integers(0, n))
            k = start[i]
            exchange = rng.random() < 0.7
            target, j, least = -1, -1, 0
            for _ in range(_SAMPLES):
                other = int(rng.integers(0, n)) if exchange else -1
                to = start[other] if exchange else int(rng.integers(0, last))
                if to == k or boundaries[to] + output[i] > boundaries[last]:
                    continue
                if exchange and boundaries[k] + output[other] > boundaries[last]:
                    continue
                waste = _waste(boundaries[to] + output[i], boundaries, table)
                if exchange:
                    waste += _waste(boundaries[k] + output[other], boundaries, table)
                if target < 0 or waste < least:
                    target, j, least = to, other, waste
            if target < 0:
                continue
            change = -_vacate(i, k, filling)
            if j >= 0:
                change -= _vacate(j, target, filling)
            change += _occupy(i, target, filling)
            if j >= 0:
                change += _occupy(j, k, filling)
            if change <= 0 or rng.random() < np.exp(-change / temperature):
                over += change
                start[i] = target
                if j >= 0:
                    start[j] = k
            else:
                _vacate(i, target, filling)
                _occupy(i, k, filling)
                if j >= 0:
                    _vacate(j, k, filling)
                    _occupy(j, target, filling)
        if weights[1] * over + slots * boundaries[last] < best:
            best = weights[1] * over + slots * boundaries[last]
            best_start[:] = start
            best_boundaries[:] = boundaries
    start[:] = best_start
    boundaries[:] = best_boundaries
    return _overload(filling)


@kernel
def _settle(order: Any, filling: _Filling) -> int:
    """Take the shortest requests out of overloaded periods, to where they fit; T grows when they fit nowhere."""
    output, boundaries, slots, start, occupied = filling
    last = len(boundaries) - 1
    over = _overload(filling)
    for _ in range(_SETTLED):
        if over == 0:
            break
        moved, to, growth = -1, -1, 0
        for i in order:
            k = start[i]
            if _vacate(i, k, filling) > 0:
                for other in range(last - 1, -1, -1):
                    end = boundaries[other] + output[i]
                    p = other
                    while p < last and boundaries[p] < end and occupied[p] < slots:
                        p += 1
                    beyond = max(0, end - boundaries[last])
                    if (p == last or boundaries[p] >= end) and (moved < 0 or beyond < growth):
                        moved, to, growth = i, other, beyond
            _occupy(i, k, filling)
            if moved >= 0 and growth == 0:
                break
        if moved < 0:
            break
        boundaries[last] += growth
        start[moved] = to
        over = _overload(filling)
    return over
