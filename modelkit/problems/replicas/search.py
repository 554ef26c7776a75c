"""Hindsight schedules on several replicas under the unit clock: who is served where, and from when on.

As on one server (``modelkit.problems.kv.local_search``): list scheduling by an order, each request at the earliest
start that some replica has room for; then a few requests that start near each other are taken out, wherever they are,
and put back in another order, each where it can start first. Any sequence of such steps keeps to the memory of every
replica.

Unit clock, no slots.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modelkit.instance import Instance
from modelkit.problems.kv.best_known import FEW_STARTS, PRICES_SHARE, SEARCH_SHARE, Hindsight
from modelkit.problems.kv.local_search import (
    MOST_ROUNDS,
    TooLargeError,
    latency,
    schedule_of,
    volumes,
)
from modelkit.problems.kv.memory_profile import Memory, change, empty_memory, first_fit
from modelkit.problems.kv.moves import draw_keys, put_off
from modelkit.problems.kv.prices import ascend
from modelkit.problems.replicas.servers import alone, one_server, side_by_side
from modelkit.runtime.deadline import Deadline, current
from modelkit.runtime.kernel import kernel
from modelkit.schedule import Schedule

Ints = npt.NDArray[np.int64]

#: Steps for each request without a time limit, and at most; between two looks at the clock.
EACH, MOST_STEPS, CHUNK = 1_000, 150_000, 2_000
#: First temperature as a share of the mean waiting, on up to WARM requests; less in proportion on more.
HEAT, WARM = 0.3, 300
#: Requests taken out at once, at most, and how far they lie from each other in the order of starts.
OUT, NEAR = 5, 12
#: Tokens in all replicas' profiles, that is, rounds times replicas.
MOST_PLACES = 5 * MOST_ROUNDS


class Placed(NamedTuple):
    """Start and replica (from 0) of each request, shape [n]."""

    starts: Ints
    replicas: Ints


def list_on_replicas(instance: Instance, key: npt.NDArray[Any]) -> Placed:
    """List scheduling: smaller ``key`` first, ties by position, each where it can start first.

    Raises
    ------
    InfeasibleError
        Some request can never run.
    TooLargeError
        Arrivals and outputs reach too far.
    """
    instance.check_fits()
    arrays, replicas = instance.arrays, instance.server.replicas
    if instance.server.kv_capacity_tokens is None:
        return Placed(arrays.arrival.copy(), np.arange(len(arrays.output)) % replicas)
    memory = _memories(instance, int(arrays.arrival.max()) + int(arrays.output.sum()) + 2)
    starts, places = np.empty((2, len(arrays.output)), dtype=np.int64)
    _place(np.argsort(key, kind="stable"), arrays.arrival, arrays.prompt, arrays.output, memory, starts, places)
    return Placed(starts, places)


def best_list(instance: Instance, *keys: npt.NDArray[Any]) -> Placed:
    """The best list schedule by volume, output, arrival and other keys."""
    arrays = instance.arrays
    every = (volumes(instance), arrays.output, arrays.arrival, *keys)
    return min((list_on_replicas(instance, key) for key in every), key=lambda placed: int(placed.starts.sum()))


def improve(
    instance: Instance,
    placed: Placed,
    *,
    seed: int = 0,
    deadline: Deadline | None = None,
    patient: bool = False,
    target: float = 0.0,
) -> Placed:
    """Local search from a schedule.

    Parameters
    ----------
    seed
        Of the search; without a deadline the same seed gives the same schedule.
    deadline
        When it is cut short; None: never.
    patient
        Whether it goes on until the deadline, by which it has cooled down, instead of a fixed amount of work.
    target
        Total latency at which to stop, such as a lower bound.
    """
    deadline, arrays = deadline or Deadline(), instance.arrays
    n, waiting = len(arrays.output), float((placed.starts - arrays.arrival).mean())
    if instance.server.kv_capacity_tokens is None or waiting == 0:
        return placed
    least = max(int(arrays.arrival.sum()), int(np.ceil(target)) - int((arrays.output - arrays.arrival).sum()))
    memory = _memories(instance, int(placed.starts.max()) + 2 * int(arrays.output.max()) + 2)
    current, best = (Placed(placed.starts.copy(), placed.replicas.copy()) for _ in range(2))
    for i in range(n):
        own = Memory(memory.held[current.replicas[i]], memory.least[current.replicas[i]], memory.capacity)
        change(own, current.starts[i], arrays.prompt[i], arrays.output[i], 1)
    rng, weight = np.random.default_rng(seed), np.log(volumes(instance).astype(np.float64))
    requests = _Requests(arrays.arrival, arrays.prompt, arrays.output, weight)
    steps, done, allowed = min(MOST_STEPS, max(CHUNK, EACH * n)), 0, deadline.left
    heat = HEAT * waiting * min(1.0, WARM / n)
    while best.starts.sum() > least:
        share = 1 - deadline.left / max(allowed, 1e-9) if patient and deadline.finite else done / steps
        if share >= 1 or deadline.over:
            break
        order = np.argsort(current.starts, kind="stable")
        walk = _Walk(CHUNK, heat * (1 - share) ** 2, 0.1 * waiting, OUT, NEAR)
        _search(current, best, requests, memory, order, walk, rng)
        done += CHUNK
    return best


def hindsight_on_replicas(instance: Instance, schedule: Schedule) -> Hindsight:
    """The better of a schedule and of what a local search finds, and prices on the memory of all replicas together.

    Parameters
    ----------
    schedule
        A valid one in which each request starts once.
    """
    placed, prices = placed_in(instance, schedule), np.zeros(0)
    if instance.server.slots is None:
        placed = min(placed, best_list(instance), key=lambda placed: int(placed.starts.sum()))
        placed = improve(instance, placed, deadline=current().share(SEARCH_SHARE))
    server = one_server(instance)
    waiting = int((placed.starts - instance.arrays.arrival).sum())
    if server.server.kv_capacity_tokens is not None and len(placed.starts) * waiting > FEW_STARTS:
        prices = ascend(server, placed.starts, deadline=current().share(PRICES_SHARE)).prices
    return Hindsight(placed_schedule(instance, placed), placed.starts, latency(instance, placed.starts), prices)


def placed_schedule(instance: Instance, placed: Placed) -> Schedule:
    """The schedule with these starts."""

    def of(replica: int) -> Schedule:
        here = np.flatnonzero(placed.replicas == replica)
        return schedule_of(alone(instance, here.tolist()), placed.starts[here]) if len(here) else Schedule()

    return side_by_side(of(replica) for replica in range(instance.server.replicas))


def placed_in(instance: Instance, schedule: Schedule) -> Placed:
    """Starts and replicas of a schedule in which each request starts once."""
    starts, replicas = np.zeros((2, len(instance.requests)), dtype=np.int64)
    for segment in schedule.segments:
        for admission in segment.admit:
            i = instance.index[admission.request]
            starts[i], replicas[i] = segment.at, segment.replica - 1
    return Placed(starts, replicas)


def _memories(instance: Instance, rounds: int) -> Memory:
    """An empty profile for each replica: arrays of shape [R, ...]."""
    capacity, replicas = instance.server.kv_capacity_tokens, instance.server.replicas
    assert capacity is not None
    if rounds > MOST_ROUNDS or rounds * replicas > MOST_PLACES:
        raise TooLargeError(f"arrivals and outputs reach over {rounds:,} rounds on {replicas} replicas; too many")
    one = empty_memory(rounds, capacity)
    return Memory(np.tile(one.held, (replicas, 1)), np.tile(one.least, (replicas, 1)), capacity)


class _Requests(NamedTuple):
    """Arrays of shape [n]; ``weight`` are the logarithms of the volumes."""

    arrival: Any
    prompt: Any
    output: Any
    weight: Any


class _Walk(NamedTuple):
    """Steps, the temperature [round], how far starts are blurred [round], requests moved at most, and from where."""

    steps: int
    temperature: float
    blur: float
    size: int
    near: int


@kernel
def _first_of_all(memory: Memory, k: int, s: int, o: int, limit: int, first: int) -> tuple[int, int]:
    """The earliest start on any replica, ties from ``first`` on, and that replica."""
    replicas, best, where = len(memory.held), limit, first
    for r in range(replicas):
        q = (first + r) % replicas
        found = first_fit(Memory(memory.held[q], memory.least[q], memory.capacity), k, s, o, best)
        if found < best:
            best, where = found, q
    return best, where


@kernel
def _change(memory: Memory, q: int, k: int, s: int, o: int, sign: int) -> None:
    change(Memory(memory.held[q], memory.least[q], memory.capacity), k, s, o, sign)


@kernel
def _place(order: Any, arrival: Any, prompt: Any, output: Any, memory: Memory, starts: Any, places: Any) -> None:
    """Each request in this order at the earliest start on any replica."""
    for i in order:
        k, q = _first_of_all(memory, arrival[i], prompt[i], output[i], 1 << 60, 0)
        starts[i], places[i] = k, q
        _change(memory, q, k, prompt[i], output[i], 1)


@kernel
def _search(current: Any, best: Any, requests: Any, memory: Memory, order: Any, walk: Any, rng: Any) -> None:
    """Take steps from the current schedule, which is changed with the profiles; the best is kept."""
    starts, places = current
    arrival, prompt, output, weight = requests
    steps, temperature, blur, size, near = walk
    n, replicas = len(starts), len(memory.held)
    end = memory.held.shape[1] - output.max() - 1
    out, old, home = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
    key = np.empty(size)
    cost, best_cost = starts.sum(), best.starts.sum()
    for _ in range(steps):
        # one that waits, and some that lie near it in the order of starts
        p = int(rng.integers(0, n))
        for _ in range(3):
            if starts[order[p]] > arrival[order[p]]:
                break
            p = int(rng.integers(0, n))
        out[0], count = order[p], 1
        for _ in range(int(size * rng.random() ** 2)):
            j = order[min(n - 1, max(0, p + int(rng.integers(-near, near + 1))))]
            if j not in out[:count]:
                out[count] = j
                count += 1
        before = 0
        for q in range(count):
            j = out[q]
            old[q], home[q] = starts[j], places[j]
            before += old[q]
            _change(memory, home[q], old[q], prompt[j], output[j], -1)
        draw_keys(out, old, count, weight, blur, key, rng)
        allowed, after, placed = before + int(-temperature * np.log(1.0 - rng.random())), 0, 0
        turn = np.argsort(key[:count])
        for q in turn:
            j = out[q]
            k = put_off(arrival[j], old[q], output[j], rng)
            limit = min(allowed - after + 1, end)
            k, place = _first_of_all(memory, k, prompt[j], output[j], limit, int(rng.integers(0, replicas)))
            if k >= limit:
                break
            starts[j], places[j] = k, place
            after += k
            placed += 1
            _change(memory, place, k, prompt[j], output[j], 1)
        if placed == count:
            cost += after - before
            if cost < best_cost:
                best_cost = cost
                best.starts[:] = starts
                best.replicas[:] = places
            continue
        for q in turn[:placed]:
            j = out[q]
            _change(memory, places[j], starts[j], prompt[j], output[j], -1)
        for q in range(count):
            j = out[q]
            starts[j], places[j] = old[q], home[q]
            _change(memory, home[q], old[q], prompt[j], output[j], 1)
