"""Peak cliques: of starts that hold much in one round and will hold much at their end, a schedule has at most q.

For a round t, a threshold p and q >= 1 let S hold the starts (i, k) that are active in t with ``s_i + o_i >= p`` and
``q (s_i + t - k) > M - p``. Then ``sum_S x <= q``.

Proof. Take q + 1 members of S in one schedule: they are of different requests, for each starts once, and all are
active in t. In the round of the first of their ends, which is t or later, all are still active: the one that ends
holds its peak, at least p, and each of the q others at least what it held in t, more than (M - p) / q. Together that
is more than M.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from modelkit.cuts.rows import Candidates, Cut, Floats, ones
from modelkit.kernel import kernel

#: Largest q that is tried.
MOST_TOGETHER = 5


def peak_cliques(of: Candidates, x: Floats, violation: float, most: int, turn: int = 0) -> list[Cut]:
    """The most violated row of each round, over all thresholds and q: exact, O(rounds a^2 q) with a starts active."""
    peak = of.prompt[of.request] + of.output[of.request]
    end = of.start + of.output[of.request]
    support = np.flatnonzero(x > 1e-7)
    excess, threshold, together = _tried(
        x[support], of.start[support], end[support], of.prompt[of.request[support]], peak[support], of.capacity,
        int(end.max()), MOST_TOGETHER,
    )  # fmt: skip
    cuts = []
    for t in np.argsort(-excess)[:most].tolist():
        if excess[t] <= violation:
            break
        p, q = threshold[t], int(together[t])
        held = of.prompt[of.request] + t - of.start
        inside = (of.start < t) & (t <= end) & (peak >= p) & (q * held > of.capacity - p)
        cuts.append(ones(np.flatnonzero(inside), q))
    return cuts


@kernel
def _tried(x: Any, start: Any, end: Any, prompt: Any, peak: Any, capacity: int, rounds: int, most_together: int) -> Any:
    """The largest excess of each round with its threshold and q."""
    excess = np.zeros(rounds + 1)
    threshold = np.zeros(rounds + 1, np.int64)
    together = np.zeros(rounds + 1, np.int64)
    for t in range(1, rounds + 1):
        active = np.flatnonzero((start < t) & (t <= end))
        for b in active:
            p = peak[b]
            for q in range(1, most_together + 1):
                total = -float(q)
                for c in active:
                    if peak[c] >= p and q * (prompt[c] + t - start[c]) > capacity - p:
                        total += x[c]
                if total > excess[t]:
                    excess[t], threshold[t], together[t] = total, p, q
    return excess, threshold, together
