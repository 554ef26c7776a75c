"""Cuts while a solver searches."""

from __future__ import annotations

from collections.abc import Sequence

from modelkit.problems.kv.cuts.rows import Candidates, Cut, Family, Floats, find_first


class Separation:
    """Rows that a point violates, to be called again and again; goes to a solver's process.

    Parameters
    ----------
    candidates
        The starts, in the order of the points' entries.
    families
        In the order in which they are asked: the first that finds something ends the call.
    violation, most
        See `Family`.
    """

    def __init__(self, candidates: Candidates, families: Sequence[Family], violation: float, most: int) -> None:
        self.candidates, self.families, self.violation, self.most = candidates, families, violation, most
        self.turn = 0

    def __call__(self, x: Floats) -> list[Cut]:
        """Rows that ``x`` of shape [starts] violates."""
        self.turn = (self.turn + len(x) // 3 + 1) % len(x)
        return find_first(self.families, self.candidates, x, self.violation, self.most, self.turn)
