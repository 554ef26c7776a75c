"""What a family of cuts takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from modelkit.instance import Instance

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Candidates(NamedTuple):
    """The starts that a program has a variable for, and what they hold.

    Parameters
    ----------
    request, start
        Of each column: index of the request and the round before its first one [round].
    prompt, output
        Of each request [token].
    capacity
        KV-cache budget M [token].
    """

    request: Ints
    start: Ints
    prompt: Ints
    output: Ints
    capacity: int

    @classmethod
    def of(cls, instance: Instance, windows: list[Ints]) -> Candidates:
        """Those of an instance with a KV capacity: ``windows`` holds the starts of each request."""
        assert instance.server.kv_capacity_tokens is not None
        return cls(
            np.concatenate([np.full(len(w), i, dtype=np.int64) for i, w in enumerate(windows)]),
            np.concatenate(windows).astype(np.int64),
            np.ascontiguousarray(instance.arrays.prompt, dtype=np.int64),
            np.ascontiguousarray(instance.arrays.output, dtype=np.int64),
            instance.server.kv_capacity_tokens,
        )


class Cut(NamedTuple):
    """The row ``sum_c coefficients[c] x[members[c]] <= right``, in whole numbers, true of every schedule."""

    members: Ints
    coefficients: Ints
    right: int


#: Cuts that a point x of shape [columns] violates by more than the first number, at most as many as the second. The
#: last number turns the order in which columns are looked at for lifting, so that repeated calls find different rows.
Family = Callable[[Candidates, Floats, float, int, int], list[Cut]]


def find_first(
    families: Sequence[Family], candidates: Candidates, x: Floats, violation: float, most: int, turn: int
) -> list[Cut]:
    """What the first of the families that finds anything finds."""
    found_by = (family(candidates, x, violation, most, turn) for family in families)
    return next((cuts for cuts in found_by if cuts), [])


def ones(members: Ints, right: int = 1) -> Cut:
    """A row whose coefficients are all 1."""
    return Cut(members, np.ones(len(members), dtype=np.int64), right)
