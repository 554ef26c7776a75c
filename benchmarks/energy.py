"""Energetic reasoning over windows of time, rounded.

*Energy.* What a start (i, k) holds in the rounds t .. t + L - 1, summed, is its energy e in that window, in token
rounds; those of a schedule sum to at most M L. As it stands this is the sum of L capacity rows and adds nothing to
them. It does once it is rounded, because a start cannot be taken in part.

*Rounding.* For an integer d <= M L with M L = Q d + r, 0 <= r < d, the row

    sum_c [(d - r) floor(e_c / d) + max(0, (e_c mod d) - r)] x_c  <=  (d - r) Q

holds for every schedule. Proof (mixed-integer rounding). Let A hold the starts of the schedule with e_c mod d <= r
and B the others; put N = sum_A floor(e_c / d) + sum_B (floor(e_c / d) + 1) and s = sum_B (d - (e_c mod d)) >= 0. From
sum_A floor(e_c / d) d + sum_B e_c <= M L follows N d - s <= Q d + r. If N <= Q, then (d - r)(N - Q) <= 0 <= s. If
N >= Q + 1, then s >= (N - Q) d - r >= (N - Q)(d - r). Either way (d - r) N - s <= (d - r) Q, and the left side of
the row is (d - r) N - s.

With L = 1 these are rows of one round: at most Q starts that each hold more than M / (Q + 1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from modelkit.cuts import Candidates, Cut, Floats

#: Lengths of windows that are tried [round], and largest Q.
LENGTHS = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32])
MOST_TOGETHER = 8


def energy(of: Candidates, x: Floats, violation: float, most: int, turn: int = 0) -> list[Cut]:
    """The most violated row of each window: O(rounds |LENGTHS| a (a + Q)) with a starts active in a window."""
    length = of.output[of.request]
    end = of.start + length
    support = np.flatnonzero(x > 1e-7)
    excess, divisors = _tried(
        x[support], of.start[support], end[support], of.prompt[of.request[support]], of.capacity, int(end.max()),
        LENGTHS, MOST_TOGETHER,
    )  # fmt: skip
    cuts = []
    for place in np.argsort(-excess, axis=None)[:most].tolist():
        if excess.flat[place] <= violation:
            break
        row, first = divmod(place, excess.shape[1])
        rounds, divisor = int(LENGTHS[row]), int(divisors.flat[place])
        energies = held_in(of.start, end, of.prompt[of.request], first, rounds)
        many, rest = divmod(of.capacity * rounds, divisor)
        coefficients = (divisor - rest) * (energies // divisor) + np.maximum(0, energies % divisor - rest)
        members = np.flatnonzero(coefficients)
        cuts.append(Cut(members, coefficients[members], (divisor - rest) * many))
    return cuts


@njit(cache=True)
def held_in(start: Any, end: Any, prompt: Any, first: int, rounds: int) -> Any:
    """Energy of starts in a window of rounds from ``first`` on [token round]."""
    early = np.maximum(first, start + 1)
    late = np.minimum(first + rounds - 1, end)
    many = np.maximum(0, late - early + 1)
    return many * (prompt - start) + many * (early + late) // 2


@njit(cache=True)
def _tried(
    x: Any, start: Any, end: Any, prompt: Any, capacity: int, rounds: int, lengths: Any, most_together: int
) -> Any:
    """Largest excess of each window, in units of a whole start, and its divisor; shape [lengths, rounds + 1]."""
    excess = np.zeros((len(lengths), rounds + 1))
    divisors = np.ones((len(lengths), rounds + 1), np.int64)
    for row in range(len(lengths)):
        length = lengths[row]
        for first in range(1, rounds + 1):
            energies = held_in(start, end, prompt, first, length)
            active = np.flatnonzero(energies)
            budget = capacity * length
            for choice in range(len(active) + most_together):
                # just more than the budget's (Q + 1)-th part, or what a start holds
                divisor = (
                    energies[active[choice - most_together]]
                    if choice >= most_together
                    else (budget // (choice + 2) + 1)
                )
                if divisor > budget:
                    continue
                many, rest = budget // divisor, budget % divisor
                total = -float(many)
                for c in active:
                    e = energies[c]
                    total += x[c] * (e // divisor + max(0, e % divisor - rest) / (divisor - rest))
                if total > excess[row, first]:
                    excess[row, first], divisors[row, first] = total, divisor
    return excess, divisors
