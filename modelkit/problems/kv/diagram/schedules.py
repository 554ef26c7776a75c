"""Schedules beside the bound: by ever wider beams within the partitions, and by large neighbourhood search.

A run of large neighbourhood search sticks where its first schedule led it. It ends when it has found nothing for most
of its time, and the next begins with another first schedule.
"""

from __future__ import annotations

import contextlib
import time
from typing import Protocol

import numpy as np

from modelkit.instance import Instance
from modelkit.problems.kv.diagram.builder import TooWideError, beam_search
from modelkit.problems.kv.diagram.diagram import SCALE, Ints
from modelkit.problems.kv.diagram.partitions import PartitionBound
from modelkit.problems.kv.local_search import list_schedule, volumes
from modelkit.problems.kv.neighbourhoods import improve_windows

#: Width of the first beam, and how much wider the next is.
BEAM, WIDER = 100, 3
#: Seconds of large neighbourhood search from the schedule of a beam.
REPAIR = 1.0
#: A run is over that has found nothing for this share of its time, and for so many seconds.
STALE_SHARE, STALE = 0.6, 0.4
#: How far another first schedule is from the best one, as a share of its length, and from that by volume.
BLUR = 0.25


class Known(Protocol):
    """The best schedule known, and the bound on it."""

    instance: Instance
    starts: Ints
    deadline: float

    @property
    def value(self) -> int: ...

    @property
    def bound(self) -> int: ...

    @property
    def proven(self) -> bool: ...

    def offer(self, starts: Ints) -> None:
        """Take starts if they are better."""


class _Patience:
    """The end of a run: at the latest after so many seconds, sooner when it finds nothing."""

    def __init__(self, seconds: float) -> None:
        self.began = self.improved = time.perf_counter()
        self.until = self.began + seconds

    def hear(self, value: int) -> None:
        """Note that something was found."""
        self.improved = time.perf_counter()

    @property
    def over(self) -> bool:
        now = time.perf_counter()
        return now >= self.until or now - self.improved > max(STALE, STALE_SHARE * (now - self.began))


class Schedules:
    """What looks for schedules, with the state that is kept from one time to the next."""

    def __init__(self, known: Known) -> None:
        self.known, self.instance = known, known.instance
        self.width, self._took, self._runs = BEAM, 0.0, 0
        self._key: Ints | None = None

    def suggest(self, key: Ints) -> None:
        """Let a run begin from the list schedule in this order."""
        self._key = key

    def run(self, starts: Ints, seconds: float) -> None:
        """One run of large neighbourhood search from these starts."""
        if seconds <= 0 or self.known.proven:
            return
        self._runs += 1
        patience, target = _Patience(seconds), self.known.bound
        self.known.offer(
            improve_windows(
                self.instance, starts, seed=self._runs, effort=None, target=target, listen=patience.hear,
                deadline=patience,
            )
        )  # fmt: skip

    def explore(self, seconds: float) -> None:
        """Runs from the best schedule known, from what was suggested last, and from others."""
        until, starts = time.perf_counter() + seconds, self.known.starts
        while not self.known.proven and (left := until - time.perf_counter()) > 0:
            self.run(starts, left)
            starts = self._another()

    def _another(self) -> Ints:
        """Another first schedule: the one suggested, the best one blurred, or by volume."""
        if self._key is not None:
            key, self._key = self._key, None
            return list_schedule(self.instance, key)
        rng = np.random.default_rng(self._runs)
        starts = self.known.starts
        if self._runs % 4 == 0:
            return list_schedule(self.instance, np.log(volumes(self.instance)) + rng.normal(0, BLUR, len(starts)))
        blur = BLUR * rng.random() * (starts.max() - starts.min())
        return list_schedule(self.instance, starts + rng.normal(0, 1 + blur, len(starts)))

    def beams(self, root: PartitionBound, multipliers: Ints, until: float) -> str:
        """Ever wider beams, and a run from the schedule of each; returns what was done."""
        known, found = self.known, ""
        while not known.proven and time.perf_counter() + WIDER * self._took < until:
            began = time.perf_counter()
            limit = (2 * known.value - known.bound) * SCALE
            with contextlib.suppress(TooWideError):
                beam = beam_search(root.problem, root, multipliers, limit, known.deadline, width=self.width)
                path = beam.evaluate(root.problem, multipliers)
                self._took = time.perf_counter() - began
                if path is not None:
                    starts = root.problem.starts(path.layers)
                    key = np.where(path.times > 0, starts, self.instance.arrays.output - known.value)
                    known.offer(starts)
                    self.run(list_schedule(self.instance, key), min(REPAIR, until - time.perf_counter()))
            self._took = max(self._took, REPAIR / WIDER)
            found = f"a beam of {self.width:,}; "
            self.width *= WIDER
        return found
