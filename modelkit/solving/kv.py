"""The KV-cache problem: prices on memory that prove a bound, and the schedule that they and a local search lead to."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelkit.certificate import Certificate
from modelkit.errors import InterruptedWith
from modelkit.problems.kv.best_known import best_listed
from modelkit.problems.kv.idle import busy
from modelkit.problems.kv.local_search import latency, schedule_of, searched
from modelkit.problems.kv.neighbourhoods import few_run_at_once, windows_searched
from modelkit.problems.kv.prices import Ascent, ascend
from modelkit.problems.kv.relaxation import Floats
from modelkit.runtime.deadline import Deadline, within
from modelkit.runtime.interrupts import interrupts_held
from modelkit.solving.candidates import first_starts
from modelkit.solving.certified import CertifiedBound, Task
from modelkit.verify.exact_bounds import certify

#: Share of the time for the prices; the search over schedules has the rest.
PRICES_SHARE = 0.5
#: Share of that for a local search where exact neighbourhoods follow it.
LOCAL_SHARE = 0.2
#: Seconds for each request that certifying takes, which follows the prices, and replaying, which comes last.
CERTIFYING, REPLAYING = 3e-5, 3e-5


def bound(task: Task) -> CertifiedBound:
    """Bound on the total latency by prices on memory, and a schedule close to it."""
    value: float | None = None
    least: float | None = None

    def priced(found: float) -> None:
        nonlocal least
        least = float(np.floor(found))
        task.tell("prices", value, least)

    def shortened(found: int) -> None:
        nonlocal value
        value = float(found)
        task.tell("local search", value, least)

    def certified(prices: Floats) -> Certificate:
        rounds = timeline.rounds(len(prices))
        found = certify(original, prices, rounds=rounds, seconds=task.elapsed)
        if found.value < int(original.arrays.output.sum()):  # the bound without prices
            found = certify(original, np.zeros(0), seconds=task.elapsed)
        return found

    task.tell("list scheduling")
    original, timeline = task.instance, busy(task.instance)
    instance = timeline.instance
    with within(task.deadline):
        starts = first_starts(instance)
    search = Deadline(task.deadline.at - REPLAYING * len(starts))
    value = float(latency(instance, starts))
    prices = np.zeros(0)
    certificate: Certificate | None = None
    interrupted = False
    try:
        if (starts > instance.arrays.arrival).any():
            until = Deadline(search.share(PRICES_SHARE).at - CERTIFYING * len(starts))
            ascent = ascend(instance, starts, deadline=until, listen=priced)
            prices = ascent.prices
        certificate = certified(prices)
        least = float(certificate.value)
        if len(prices):
            starts = best_listed(instance, starts, ascent.mean_starts, search)
            left = None if task.time_limit is None else search.left
            limits: dict[str, Any] = {"time_limit": left, "effort": None} if left is not None else {}
            target = certificate.value / max(1e-9, 1 - task.gap)
            few = few_run_at_once(instance)
            if few and left is not None:
                limits["time_limit"] = LOCAL_SHARE * left
            starts = searched(instance, starts, seed=task.seed, target=target, listen=shortened, **limits)
            if few:
                if left is not None:
                    limits["time_limit"] = search.left
                starts = windows_searched(instance, starts, seed=task.seed, target=target, listen=shortened, **limits)
    except KeyboardInterrupt as stop:
        interrupted = True
        found = stop.best if isinstance(stop, InterruptedWith) else None
        if isinstance(found, Ascent):
            prices = found.prices
        elif found is not None:
            starts = found
    with interrupts_held() as held:
        if certificate is None:
            certificate = certified(prices)
        known = task.judged(certificate, schedule_of(original, timeline.starts(starts)))
    return known.interrupted() if interrupted or held.pressed else known
