"""Run a list schedule that serves chosen requests within their service levels, iteration by iteration, compiled.

Those *wanted* are admitted by rank while they fit, as in `plan_kernel`, and while nobody in progress loses its levels
by it, as far as the present pace tells; who can no longer have its first token in time is wanted no more. The others
are served when no wanted one is in progress, waits or is to come.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from modelkit.problems.serving.plan_kernel import (
    Costs,
    InProgress,
    Releases,
    Setting,
    Workspace,
    misfit,
    pop,
    prefill_part,
    push,
)
from modelkit.runtime.kernel import kernel

#: Misfits after which a scan of those waiting ends.
MISFITS = 4


class Due(NamedTuple):
    """Of each request, shape [n] [ms], infinite without a limit.

    When its first token and its last are due, and how long may lie between the two.
    """

    first: Any
    last: Any
    between: Any


class Manner(NamedTuple):
    """How those in progress are looked after.

    ``care`` times the present pace is what the tokens to come are thought to take; ``patience`` is the share of the
    time until its first token is due that the first of those waiting waits for others to be prefilled with it.
    """

    care: float
    patience: float


@kernel
def serve_in_time(
    setting: Setting, due: Due, wanted: Any, plan: Releases, manner: Manner, space: Workspace, served: Any
) -> int:
    """The requests within their levels when the wanted ones come first; fills ``admitted``, and who they are.

    From the empty state of ``space``. Nobody is admitted before its release. O(tokens + admissions * (active + longest
    output)).
    """
    requests, costs, rule = setting
    arrival, prompt, output = requests
    order, release, rank = plan
    state, scratch, (first, start) = space
    n = len(arrival)
    ring = len(state.ending)
    heap, refused = scratch.heap, np.empty(MISFITS, np.int64)
    hoped, made = wanted.copy(), np.zeros(n, np.int64)  # who may still keep its levels; tokens so far
    rest, late = np.empty(n, np.int64), 0  # who has come, and is not hoped for
    active, end = np.empty(n, np.int64), np.full(n, np.inf)  # who is in progress; when each must end
    running, offsets, peaks, iteration, now = 0, 0, 0, 0, 0.0
    known, waiting, hopes, within, done = 0, 0, 0, 0, 0  # hopes: of those in progress
    to_come = int(wanted.sum())
    while done < n:
        while known < n and release[order[known]] <= now:
            i = order[known]
            if wanted[i]:
                waiting = push(heap, waiting, rank[i] * n + i)
                to_come -= 1
            else:
                rest[late] = i
                late += 1
            known += 1
        patient = False
        free = to_come == 0 and waiting == 0 and hopes == 0
        if running == 0 and waiting == 0 and not (free and late > 0):
            now = release[order[known]]
            continue
        if waiting > 0:
            i = heap[0] % n
            ready = arrival[i] + manner.patience * (due.first[i] - least_first(costs, prompt[i]) - arrival[i])
            patient = manner.patience > 0.0 and now < ready < np.inf
            if patient and running == 0:
                now = min(ready, release[order[known]]) if known < n else ready
                continue
        fresh, prompts, misfits, soonest = 0, 0, 0, np.inf
        while (
            not patient and running + fresh < rule.batch and misfits < MISFITS and (waiting > 0 or (free and late > 0))
        ):
            if free:
                i = rest[late - 1]
            else:
                i = heap[0] % n
                waiting = pop(heap, waiting)
                if now + least_first(costs, prompt[i]) > due.first[i]:
                    hoped[i] = False
                    rest[late] = i
                    late += 1
                    continue
            fits = prompts + prompt[i] <= rule.prompts
            if fits and 0 <= rule.capacity < peaks + prompt[i] + output[i]:
                there = InProgress(running + fresh, offsets, iteration)
                fits = misfit(state, there, prompt[i], output[i], rule.capacity) == 0
            sooner = min(soonest, due.first[i])
            if fits and not free:
                held = offsets + (running + fresh) * iteration + prompt[i] + 1
                batch = Batch(now, running, fresh + 1, prompts + prompt[i], held)
                fits = keeps_all(costs, due, batch, sooner, manner.care, active, end, output, made, i)
            if not fits and free:
                break
            if not fits:
                refused[misfits] = i
                misfits += 1
                continue
            late -= free
            soonest = sooner
            place, offset = (iteration + output[i] - 1) % ring, prompt[i] + 1 - iteration
            state.ending[place] += 1
            state.ending_offsets[place] += offset
            offsets += offset
            peaks += prompt[i] + output[i]
            active[running + fresh] = i
            fresh += 1
            prompts += prompt[i]
            first[i] = iteration
            start[i] = now
            hopes += hoped[i]
        alone = running + fresh == 0
        if alone and misfits > 0:  # it cannot be in time though nobody else is there
            hoped[refused[0]] = False
            rest[late] = refused[0]
            late += 1
        for w in range(int(alone), misfits):
            waiting = push(heap, waiting, rank[refused[w]] * n + refused[w])
        if alone:
            continue
        running += fresh
        decoding = running if costs.exclusive else running - fresh
        held = offsets + running * iteration - (0 if costs.exclusive else prompts + fresh)
        now += duration(costs, fresh, prompts, decoding, held)
        kept = 0
        for k in range(running):
            i = active[k]
            made[i] += 1
            if made[i] == 1:
                end[i] = min(due.last[i], now + due.between[i]) if now <= due.first[i] else -1.0
            if hoped[i] and now > end[i]:
                hoped[i] = False
                hopes -= 1
            if made[i] < output[i]:
                active[kept] = i
                kept += 1
                continue
            done += 1
            served[i] = now <= end[i]
            within += served[i]
            hopes -= hoped[i]
            offsets -= prompt[i] + 1 - first[i]
            peaks -= prompt[i] + output[i]
        running = kept
        state.ending[iteration % ring] = 0
        state.ending_offsets[iteration % ring] = 0
        iteration += 1
    return within


class Batch(NamedTuple):
    """An iteration that may come next: the time [ms], requests in progress and new, prompt tokens, tokens held."""

    now: float
    running: int
    fresh: int
    prompts: int
    held: int


@kernel
def duration(costs: Costs, fresh: int, prompts: int, decoding: int, held: int) -> float:
    """How long an iteration lasts [ms]."""
    took = costs.base
    if fresh > 0:
        took += prefill_part(costs, prompts) + (costs.base if costs.exclusive else 0.0)
    if decoding > 0:
        took += costs.decode_base + costs.decode_per_request * decoding + costs.decode_per_kv_token * held
    return took


@kernel
def least_first(costs: Costs, prompt: int) -> float:
    """The least time from a start to a first token [ms]."""
    return costs.base + prefill_part(costs, prompt) + (costs.base + costs.decode_base if costs.exclusive else 0.0)


@kernel
def keeps_all(
    costs: Costs, due: Due, batch: Batch, soonest: float, care: float,
    active: Any, end: Any, output: Any, made: Any, newest: int,
) -> bool:  # fmt: skip
    """Whether first tokens come by the soonest that is due, and the others in time if the pace stays as it is."""
    decoding = batch.running + (batch.fresh if costs.exclusive else 0)
    then = batch.now + duration(costs, batch.fresh, batch.prompts, decoding, batch.held)
    if then > soonest:
        return False
    count = batch.running + batch.fresh
    pace = care * duration(costs, 0, 0, count, batch.held + count)
    if (output[newest] - 1) * pace > min(due.between[newest], due.last[newest] - then):
        return False
    for k in range(batch.running):
        i = active[k]
        if end[i] >= batch.now and then + (output[i] - made[i] - 1) * pace > end[i]:
            return False
    return True
