"""Run a plan under the linear clock, iteration by iteration, compiled.

A plan gives each request a *release*, a time at or after its arrival, and a *rank*. At the beginning of an iteration
those released and not admitted are admitted in the order of their ranks while they fit:

* memory: at every later iteration the tokens held are at most M, looked ahead with true output lengths (nobody is ever
  evicted); tokens grow between completions, so the iterations in which somebody completes are checked;
* at most ``batch`` requests in progress.

The scan ends at the misfit number ``misfits``. A *gate* may hold all back: it is open when nobody is in progress, or
when those who wait have waited, together, ``threshold`` times as long as admitting them delays those in progress by the
fixed part of a prefill: ``sum of waits >= threshold * active * prefill_base``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from modelkit.runtime.kernel import kernel


class Costs(NamedTuple):
    """The parts of an iteration's duration [ms]; exclusive: prefills are stages of their own.

    ``level_tokens`` and ``level_ms``, of the same length, are the prefill levels by ascending tokens; empty without.
    """

    base: float
    prefill_base: float
    prefill_per_token: float
    decode_base: float
    decode_per_request: float
    decode_per_kv_token: float
    exclusive: bool
    level_tokens: Any
    level_ms: Any


class Rule(NamedTuple):
    """Limits of an iteration and of its scan.

    Tokens held (< 0: no limit), prompt tokens processed, requests in progress; misfits; the gate's threshold in each
    interval of ``interval`` ms from ``origin`` on, the last of which goes on; and the time [ms] from which on there is
    a gate.
    """

    capacity: int
    prompts: int
    batch: int
    misfits: int
    threshold: Any
    origin: float
    interval: float
    gated_from: float


class Requests(NamedTuple):
    """Columns [n]: arrival [ms], prompt and output [token]."""

    arrival: Any
    prompt: Any
    output: Any


class State(NamedTuple):
    """Who is in progress: rings over iterations of how many complete there and of the sum of their offsets.

    A request first active in iteration f holds ``offset + r`` tokens in iteration r, where offset = prompt + 1 - f.
    ``now`` is [time, sum of the times of first tokens] in ms, ``sums`` [active, sum of offsets, iteration, sum of
    peaks].
    """

    ending: Any
    ending_offsets: Any
    now: Any
    sums: Any


class Scratch(NamedTuple):
    """Space for those waiting [m] and for the misfits of a scan."""

    heap: Any
    refused: Any


class Setting(NamedTuple):
    """What is served, what it costs, and by which rule."""

    requests: Requests
    costs: Costs
    rule: Rule


class Releases(NamedTuple):
    """A plan: positions of those to admit by release, shape [m], and release [ms] and rank of all, shape [n]."""

    order: Any
    release: Any
    rank: Any


class Admitted(NamedTuple):
    """Iteration and time [ms] of each admission, shape [n]."""

    first: Any
    start: Any


class Workspace(NamedTuple):
    """What a run changes."""

    state: State
    scratch: Scratch
    admitted: Admitted


class Horizon(NamedTuple):
    """The time [ms] at which a run ends, and what counts beyond it: see `run_plan`."""

    end: float
    pace: float
    price: float


class InProgress(NamedTuple):
    """Requests in progress, the sum of their offsets, and the iteration."""

    active: int
    offsets: int
    iteration: int


def empty_state(longest: int) -> State:
    """Nobody in progress, for outputs of at most ``longest`` tokens."""
    ring = longest + 2
    return State(np.zeros(ring, np.int64), np.zeros(ring, np.int64), np.zeros(2), np.zeros(4, np.int64))


@kernel
def copy_state(source: State, target: State) -> None:
    """Make the target the same as the source."""
    target.ending[:] = source.ending
    target.ending_offsets[:] = source.ending_offsets
    target.now[:] = source.now
    target.sums[:] = source.sums


@kernel
def run_plan(setting: Setting, plan: Releases, space: Workspace, until: Horizon) -> float:
    """Run from the state of ``space`` until all have completed or the horizon [ms] is reached.

    Changes that state and fills ``admitted``. Returns the sum of completions [ms], of those in progress at the
    beginning too; whoever is not done at the horizon counts as if its iterations went on at ``pace`` [ms] from there,
    and ``price`` for each ms of the work that only it still causes, which all others will wait through.
    O(iterations + admissions * (log m + longest output)).
    """
    costs, rule = setting.costs, setting.rule
    arrival, prompt, output = setting.requests
    order, release, rank = plan
    state, (first, start) = space.state, space.admitted
    heap, refused = space.scratch
    horizon, pace, price = until
    m = len(order)
    ring = len(state.ending)
    now, first_tokens = state.now
    active, offsets, iteration, peaks = state.sums
    total, known, waiting, waits, rescan = 0.0, 0, 0, 0.0, 0
    while (active > 0 or known < m or waiting > 0) and now < horizon:
        while known < m and release[order[known]] <= now:
            i = order[known]
            waiting = push(heap, waiting, rank[i] * len(arrival) + i)
            waits += arrival[i]
            known += 1
            rescan = iteration
        if active == 0 and waiting == 0:
            now = release[order[known]]
            continue
        fresh, prompts = 0, 0
        if waiting > 0 and active < rule.batch and iteration >= rescan and (
            active == 0
            or now < rule.gated_from
            or waiting * now - waits >= threshold_at(rule, now) * active * costs.prefill_base
        ):  # fmt: skip
            misfits, wait = 0, ring
            while waiting > 0 and active + fresh < rule.batch and misfits < rule.misfits:
                entry = heap[0]
                i = entry % len(arrival)
                waiting = pop(heap, waiting)
                more = 0
                if prompts + prompt[i] > rule.prompts:
                    more = 1
                elif 0 <= rule.capacity < peaks + prompt[i] + output[i]:
                    there = InProgress(active + fresh, offsets, iteration)
                    more = misfit(state, there, prompt[i], output[i], rule.capacity)
                if more > 0:
                    refused[misfits] = entry
                    misfits += 1
                    wait = min(wait, more)
                    continue
                place = (iteration + output[i] - 1) % ring
                offset = prompt[i] + 1 - iteration
                state.ending[place] += 1
                state.ending_offsets[place] += offset
                offsets += offset
                peaks += prompt[i] + output[i]
                fresh += 1
                prompts += prompt[i]
                first[i] = iteration
                start[i] = now
                waits -= arrival[i]
            rescan = iteration + wait if misfits == rule.misfits or waiting == 0 else iteration
            for w in range(misfits):
                waiting = push(heap, waiting, refused[w])
        took = costs.base
        if fresh > 0:
            took += prefill_part(costs, prompts)
            if costs.exclusive:
                took += costs.base
        active += fresh
        decoding = active if costs.exclusive else active - fresh
        held = offsets + active * iteration - (0 if costs.exclusive else prompts + fresh)
        if decoding > 0:
            took += costs.decode_base + costs.decode_per_request * decoding + costs.decode_per_kv_token * held
        now += took
        first_tokens += fresh * now
        place = iteration % ring
        if state.ending[place] > 0:
            total += state.ending[place] * now
            active -= state.ending[place]
            offsets -= state.ending_offsets[place]
            peaks -= state.ending_offsets[place] + state.ending[place] * iteration
            state.ending[place] = 0
            state.ending_offsets[place] = 0
        iteration += 1
        if active > 0 and (waiting == 0 or active >= rule.batch or iteration < rescan):
            pause = min(horizon, release[order[known]]) if known < m else horizon
            last = iteration + ring if waiting == 0 or active >= rule.batch else rescan
            held = offsets + active * iteration
            place = iteration % ring
            while now < pause and state.ending[place] == 0 and iteration < last:
                now += costs.base + (
                    costs.decode_base + costs.decode_per_request * active + costs.decode_per_kv_token * held
                )
                held += active
                iteration += 1
                place = place + 1 if place + 1 < ring else 0
    state.now[0], state.now[1] = now, first_tokens
    state.sums[:] = (active, offsets, iteration, peaks)
    if active > 0:
        for r in range(iteration, iteration + ring):
            rounds, ending = r - iteration + 1, state.ending[r % ring]
            held = state.ending_offsets[r % ring] + ending * 0.5 * (iteration + r)
            work = rounds * (costs.decode_per_request * ending + costs.decode_per_kv_token * held)
            total += ending * (now + rounds * pace) + price * work
    for k in range(known - waiting, m):
        i = heap[k - known + waiting] % len(arrival) if k < known else order[k]
        work = costs.prefill_per_token * prompt[i] + output[i] * (
            costs.decode_per_request + costs.decode_per_kv_token * (prompt[i] + 0.5 * output[i])
        )
        total += max(now, release[i]) + (output[i] + 1) * pace + price * work
    return total


@kernel
def threshold_at(rule: Rule, now: float) -> float:
    """The gate's threshold at a moment."""
    return float(rule.threshold[min(len(rule.threshold) - 1, int((now - rule.origin) / rule.interval))])


@kernel
def prefill_part(costs: Costs, prompts: int) -> float:
    """Prefill part of an iteration's duration [ms]: the cheapest level that holds the tokens, or the linear part."""
    if len(costs.level_tokens) == 0:
        return costs.prefill_base + costs.prefill_per_token * prompts
    least = np.inf
    for level in range(len(costs.level_tokens)):
        if costs.level_tokens[level] >= prompts:
            least = min(least, costs.level_ms[level])
    return least


@kernel
def shortest_iteration(costs: Costs) -> float:
    """No iteration is shorter [ms]."""
    return costs.base + min(prefill_part(costs, 0), costs.decode_base)


@kernel
def misfit(state: State, there: InProgress, prompt: int, output: int, capacity: int) -> int:
    """0 where one more request, admitted now, keeps within the capacity until it completes; else how long it cannot.

    That is a number of iterations before which it does not fit, whoever else is admitted. Where too many tokens would
    be held in a later iteration, there is one less for each iteration that it is admitted later. O(output).
    """
    ending, ending_offsets = state.ending, state.ending_offsets
    active, offsets, iteration = there
    ring = len(ending)
    last = iteration + output - 1
    offsets += prompt + 1 - iteration
    active += 1
    longest = 0
    place = iteration % ring
    for r in range(iteration, last + 1):
        if ending[place] > 0 or r == last:
            longest = max(longest, min(offsets + active * r - capacity, r - iteration + 1))
            active -= ending[place]
            offsets -= ending_offsets[place]
        place = place + 1 if place + 1 < ring else 0
    return longest


@kernel
def push(heap: Any, size: int, entry: int) -> int:
    """Add an entry to the binary heap; returns its new size."""
    place = size
    while place > 0 and heap[(place - 1) // 2] > entry:
        heap[place] = heap[(place - 1) // 2]
        place = (place - 1) // 2
    heap[place] = entry
    return size + 1


@kernel
def pop(heap: Any, size: int) -> int:
    """Take the least entry, ``heap[0]``, from the binary heap; returns its new size."""
    size -= 1
    entry = heap[size]
    place = 0
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if entry <= heap[child]:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = entry
    return size
