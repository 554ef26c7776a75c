"""Clairvoyant improvement: a good schedule of the KV-cache problem in hindsight, from any order.

List scheduling by an order, then a large neighbourhood search: a few requests that start near each
other are taken out of the schedule and put back one by one, each at the first start at which it fits, in
another order and sometimes after a delay. Only their own rounds of the memory profile change, so a
step costs the tokens of a few requests, whatever the length of the trace. Orders alone are not complete:
a request that starts earlier holds more memory in any given later round, so its earliest start is not
always best; the delays make every schedule reachable.

On 10,000 chats the gap that is left lies in the late rounds, where a few hundred long outputs run and 2 to 4 % of the
memory stays free. None of these closed it faster than more steps of this search do, at equal time on the processor:
steps drawn by the price of the memory that is free; temperatures in proportion to memory volumes; 3 or 10 requests
taken out in place of 5; one request delayed while those after it move up; a penalty on squares of the free memory;
list schedules within the starts of small reduced cost.

Unit clock, no slots.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modelkit.errors import InterruptedWith, SolverError
from modelkit.instance import Instance
from modelkit.problems.kv.memory_profile import Memory, change, empty_memory, first_fit, link, place, unlink
from modelkit.problems.kv.moves import draw_keys, put_off
from modelkit.runtime.deadline import Deadline, current
from modelkit.runtime.kernel import kernel
from modelkit.schedule import Schedule, schedule_from_starts

Ints = npt.NDArray[np.int64]

#: Requests up to which there is time for every list schedule.
MANY = 2_000
#: Share of the time that is left which a further candidate may take.
CANDIDATES_SHARE = 0.2
#: The same for further list schedules on larger instances.
LISTS_SHARE = 0.1
#: Request-rounds that an improvement without a time limit may touch; a second or two.
EFFORT = 5e8
#: Longest horizon of a memory profile [round].
MOST_ROUNDS = 20_000_000
#: Steps between two looks at the clock.
CHUNK = 1_000
#: Most steps for each request, unless time is the limit.
EACH = 1_000
#: Requests taken out at once, at most.
OUT = 5
#: First temperature of the search as a share of the mean waiting, on up to WARM requests; less in proportion
#: on more, where there is no time to cool. It falls to 0 with the square of what is left.
HEAT = 0.3
#: Requests up to which the first temperature is HEAT.
WARM = 300


class TooLargeError(SolverError):
    """The instance is larger than can be held in memory."""


class TooLateError(TooLargeError):
    """The instance is too large for the time that is left."""


def latency(instance: Instance, starts: Ints) -> int:
    """Total latency of the schedule with these starts, shape [n]."""
    return int((starts + instance.arrays.output - instance.arrays.arrival).sum())


def fits(instance: Instance, starts: Ints) -> bool:
    """Whether no request starts before it arrives and these starts, shape [n], keep to the memory in every round."""
    arrays, capacity = instance.arrays, instance.server.kv_capacity_tokens
    if (starts < arrays.arrival).any():
        return False
    if capacity is None:
        return True
    held = np.zeros(int((starts + arrays.output).max()) + 1, dtype=np.int64)
    for k, s, o in zip(starts.tolist(), arrays.prompt.tolist(), arrays.output.tolist(), strict=True):
        held[k + 1 : k + o + 1] += np.arange(s + 1, s + o + 1)
    return bool(held.max() <= capacity)


def starts_of(instance: Instance, schedule: Schedule) -> Ints:
    """Start of each request [round], shape [n]; of a schedule in which each starts once."""
    starts = np.empty(len(instance.requests), dtype=np.int64)
    for segment in schedule.segments:
        for admission in segment.admit:
            starts[instance.index[admission.request]] = segment.at
    return starts


def schedule_of(instance: Instance, starts: Ints) -> Schedule:
    """Schedule with these starts, shape [n]."""
    return schedule_from_starts(instance, {r.id: k for r, k in zip(instance.requests, starts.tolist(), strict=True)})


def volumes(instance: Instance) -> Ints:
    """Memory volume of each request: tokens held, summed over its rounds; shape [n]."""
    arrays = instance.arrays
    return np.asarray(arrays.prompt * arrays.output + arrays.output * (arrays.output + 1) // 2)


def list_schedule(instance: Instance, key: npt.NDArray[Any]) -> Ints:
    """Starts by list scheduling: smaller ``key`` first, ties by position.

    Raises
    ------
    InfeasibleError
        Some request can never run.
    TooLargeError
        Arrivals and outputs reach beyond MOST_ROUNDS.
    """
    instance.check_fits()
    arrays = instance.arrays
    capacity = instance.server.kv_capacity_tokens
    if capacity is None:
        return arrays.arrival.copy()
    memory = _empty_memory(instance, capacity)
    starts = np.empty(len(arrays.output), dtype=np.int64)
    place(np.argsort(key, kind="stable"), arrays.arrival, arrays.prompt, arrays.output, memory, starts)
    return starts


def _empty_memory(instance: Instance, capacity: int) -> Memory:
    """An empty profile in which any list schedule ends: no request starts after all others have ended."""
    arrays = instance.arrays
    rounds = int(arrays.arrival.max()) + int(arrays.output.sum()) + 2
    if rounds > MOST_ROUNDS:
        raise TooLargeError(f"arrivals and outputs reach over {rounds:,} rounds; at most {MOST_ROUNDS:,}")
    return empty_memory(rounds, capacity)


def first_schedule(instance: Instance, candidates: Iterable[Schedule] = ()) -> Ints:
    """Starts of the best list schedule by volume, output or arrival, or of the best candidate.

    Within a deadline those that take long may be left out, never the first list schedule.

    Parameters
    ----------
    candidates
        Valid schedules in which each request starts once; each may be made when it is asked for.

    Raises
    ------
    InfeasibleError, TooLargeError
        As `list_schedule`.
    """
    arrays = instance.arrays
    begun = time.perf_counter()
    best = list_schedule(instance, volumes(instance))
    spent = time.perf_counter() - begun
    for key in (arrays.output, arrays.arrival):
        if not current().over and (len(best) <= MANY or spent <= LISTS_SHARE * current().left):
            best = min(best, list_schedule(instance, key), key=lambda starts: int(starts.sum()))
    slowest = 0.0
    left = iter(candidates)
    while slowest <= CANDIDATES_SHARE * current().left:
        begun = time.perf_counter()
        if (candidate := next(left, None)) is None:
            break
        best = min(best, starts_of(instance, candidate), key=lambda starts: int(starts.sum()))
        slowest = max(slowest, time.perf_counter() - begun)
    return best


def improve_starts(
    instance: Instance,
    starts: Ints,
    *,
    seed: int = 0,
    effort: float | None = EFFORT,
    time_limit: float | None = None,
    target: float | None = None,
    listen: Callable[[int], None] | None = None,
    deadline: Deadline | None = None,
) -> Ints:
    """Local search from the schedule with these starts, shape [n].

    Parameters
    ----------
    seed
        Of the search; without a time limit the same seed gives the same schedule on every machine.
    effort
        Bound on the work of the search in request-rounds, None for none.
    time_limit, deadline
        Seconds within which the search cools down, None for none; a deadline only cuts it short.
    target
        Total latency at which to stop, such as a lower bound.
    listen
        Called with the total latency of the best schedule, now and then.

    Raises
    ------
    InterruptedWith
        Ctrl-C; it carries the best starts so far.
    """
    arrays = instance.arrays
    capacity = instance.server.kv_capacity_tokens
    n = len(starts)
    waiting = float((starts - arrays.arrival).mean())
    if capacity is None or waiting == 0 or (effort is None and time_limit is None and target is None):
        return starts
    steps = None if effort is None else int(min(150_000, EACH * n, effort / (OUT * float(arrays.output.mean()))))
    steps = None if steps is None else max(CHUNK, steps)
    least_sum = int(arrays.arrival.sum())
    if target is not None:
        least_sum = max(least_sum, int(np.ceil(target)) - int((arrays.output - arrays.arrival).sum()))
    # nothing is placed later than where it was, so the schedule never gets longer than this
    memory = empty_memory(int(starts.max()) + 4 * int(arrays.output.max()) + 2, capacity)
    last = int(starts.max()) + 2 * int(arrays.output.max())
    head = np.full(last + 1, -1, dtype=np.int64)
    following, previous = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    current, best = starts.copy(), starts.copy()
    for i in range(n):
        change(memory, current[i], arrays.prompt[i], arrays.output[i], 1)
        link(i, current[i], head, following, previous)
    rng = np.random.default_rng(seed)
    weight = np.log(volumes(instance).astype(np.float64))
    requests = _Requests(arrays.arrival, arrays.prompt, arrays.output, weight)
    by_start = _ByStart(head, following, previous)
    heat = HEAT * waiting * min(1.0, WARM / n)
    began = time.perf_counter()
    done = 0
    try:
        while best.sum() > least_sum:
            elapsed = time.perf_counter() - began
            shares = [done / steps] if steps else []
            if time_limit is not None:
                shares.append(elapsed / time_limit if time_limit > 0 else 1.0)
            share = max(shares, default=0.5)
            if share >= 1 or (deadline is not None and deadline.over):
                break
            walk = _Walk(CHUNK, heat * (1 - share) ** 2, 0.1 * waiting, OUT)
            _search(_Starts(current, best), requests, memory, by_start, walk, rng)
            done += CHUNK
            if listen:
                listen(latency(instance, best))
    except KeyboardInterrupt:
        raise InterruptedWith(best) from None
    return best


class _Requests(NamedTuple):
    """Arrays of shape [n]; ``weight`` are the logarithms of the volumes."""

    arrival: Any
    prompt: Any
    output: Any
    weight: Any


class _Starts(NamedTuple):
    """Those that the search is at, and the best so far, shape [n]."""

    current: Any
    best: Any


class _Walk(NamedTuple):
    """Steps to take, the temperature [round], how far starts are blurred [round], and requests moved at most."""

    steps: int
    temperature: float
    blur: float
    size: int


class _ByStart(NamedTuple):
    """Linked lists of the requests that start in each round."""

    head: Any
    following: Any
    previous: Any


@kernel
def _search(schedules: _Starts, requests: _Requests, memory: Memory, by_start: _ByStart, walk: _Walk, rng: Any) -> None:
    """Take steps from the current starts, which are changed, as are the profile and the lists; the best are kept."""
    starts, best = schedules
    arrival, prompt, output, weight = requests
    steps, temperature, blur, size = walk
    head, following, previous = by_start
    n = len(starts)
    end = len(head) - 1
    cost, best_cost = starts.sum(), best.sum()
    out = np.empty(size + 1, dtype=np.int64)
    old = np.empty(size + 1, dtype=np.int64)
    earliest = np.empty(size + 1, dtype=np.int64)
    key = np.empty(size + 1, dtype=np.float64)
    for _ in range(steps):
        # one that waits, or the next to start after a random round: the late ones are few but wait long
        i = int(rng.integers(0, n))
        for _ in range(3):
            if starts[i] > arrival[i]:
                break
            i = int(rng.integers(0, n))
        if rng.random() < 0.2:
            t = int(rng.integers(0, starts[i] + 1))
            for k in range(t, min(end, t + 1_000)):
                if head[k] >= 0:
                    i = head[k]
                    break
        waiting = starts[i] - arrival[i]
        centre = starts[i]
        if rng.random() < 0.5:
            reach = waiting if rng.random() < 0.3 else min(waiting, output[i])
            centre -= int(reach * rng.random())
        # it and some of those that start around the centre are taken out
        wanted = 1 + int(size * rng.random() ** 2)
        out[0] = i
        count = 1
        low, high = centre, centre + 1
        for _ in range(400):
            if count >= wanted:
                break
            if (rng.random() < 0.5 and low >= 0) or high > end:
                k = low
                low -= 1
            else:
                k = high
                high += 1
            if k < 0 or k > end:
                continue
            j = head[k]
            while j >= 0 and count < wanted:
                if j != i and rng.random() < 0.7:
                    out[count] = j
                    count += 1
                j = following[j]
        before = 0
        first = starts[i]
        for q in range(count):
            j = out[q]
            old[q] = starts[j]
            before += old[q]
            first = min(first, old[q])
            change(memory, old[q], prompt[j], output[j], -1)
            unlink(j, old[q], head, following, previous)
        # and put back in another order
        draw_keys(out, old, count, weight, blur, key, rng)
        everywhere = rng.random() < 0.1
        allowed = before + int(-temperature * np.log(1.0 - rng.random()))
        to_come = 0
        for q in range(count):
            earliest[q] = arrival[out[q]]
            if not everywhere:  # room that ends before the first one taken out was there before
                earliest[q] = max(earliest[q], first - output[out[q]])
            to_come += earliest[q]
        after = 0
        placed = 0
        order = np.argsort(key[:count])
        for q in order:
            j = out[q]
            k = earliest[q]
            to_come -= k
            k = put_off(k, old[q], output[j], rng)
            limit = min(allowed - after - to_come + 1, end)
            k = first_fit(memory, k, prompt[j], output[j], limit)
            if k >= limit:
                break
            after += k
            starts[j] = k
            change(memory, k, prompt[j], output[j], 1)
            link(j, k, head, following, previous)
            placed += 1
        if placed == count:
            cost += after - before
            if cost < best_cost and n <= 2_000:  # on large instances a copy costs more than a step
                best_cost = cost
                best[:] = starts
            continue
        for q in order[:placed]:
            j = out[q]
            change(memory, starts[j], prompt[j], output[j], -1)
            unlink(j, starts[j], head, following, previous)
        for q in range(count):
            j = out[q]
            starts[j] = old[q]
            change(memory, old[q], prompt[j], output[j], 1)
            link(j, old[q], head, following, previous)
    if cost < best_cost:
        best[:] = starts
