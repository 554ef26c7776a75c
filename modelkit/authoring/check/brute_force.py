"""The best schedule of a tiny instance, by trying all of them; shares nothing with any formulation or bound.

Every schedule is built, the cheap ones first where the objective allows it, and the judge and the formulation's own
rules say which counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, product
from typing import NamedTuple

import numpy as np

from modelkit.formulation.formulation import Formulation
from modelkit.instance import Instance, LinearClock, UnitClock
from modelkit.judge import judge
from modelkit.judge.prefixes import unshared
from modelkit.problems.replicas.servers import side_by_side
from modelkit.problems.serving.iterations import schedule_from_iterations
from modelkit.problems.slots.stages import Stage, schedule_from_stages
from modelkit.schedule import Admission, Schedule, Segment, schedule_from_rounds, schedule_from_starts

#: Ways to read prompts in chunks beyond which an instance is not searched.
MOST_CHUNKINGS = 3000
#: Start and replica, from 0, of each request.
Placements = tuple[tuple[int, int], ...]


class Best(NamedTuple):
    """The least value and a schedule that has it."""

    value: float
    schedule: Schedule


def can_enumerate(instance: Instance, *, chunked: bool = False) -> bool:
    """Whether all schedules of such an instance can be tried: all but stages with arrivals.

    Without evictions, which gain nothing where lengths are known; in real time on one server. Where prompts are read in
    chunks, under the unit clock, on one server without pauses and shared prefixes, if there are few ways to do that.
    """
    clock, one = instance.server.clock, instance.server.replicas == 1
    if chunked:
        plain = one and instance.is_unit and instance.server.pause is None and instance.shared_prefixes is None
        return plain and sum(1 for _ in islice(_list_chunkings(instance), MOST_CHUNKINGS + 1)) <= MOST_CHUNKINGS
    if isinstance(clock, UnitClock):
        return True
    return one and (clock.mixed or not instance.arrays.arrival.any())


def best_schedule(formulation: Formulation, instance: Instance, *, chunked: bool = False, last: int = 0) -> Best | None:
    """The best admissible schedule of an instance with parameters; None when there is none.

    Parameters
    ----------
    chunked
        Try all ways to read prompts in chunks.
    last
        Under the unit clock schedules up to this round are tried, or up to the one by which all requests could have
        run one by one, if that is later: rules of a formulation's own may make requests wait for longer.
    """
    if chunked:
        return _best_of(formulation, instance, _list_chunkings(instance))
    if isinstance(instance.server.clock, LinearClock):
        mixed = instance.server.clock.mixed
        return _best_of(formulation, instance, _list_iterations(instance) if mixed else _list_stagings(instance))
    if instance.server.pause is not None:
        return _best_of(formulation, instance, _list_pausing(instance))
    alike = formulation.admissible is None and formulation.value is None  # its own rules may tell replicas apart
    placements = list(_fitting_placements(instance, last, alike=alike))
    outputs = instance.arrays.output.tolist()
    if formulation.value is None:  # the first that counts is the best
        keys = {
            "total_latency": lambda placed: sum(k for k, _ in placed),
            "makespan": lambda placed: max(k + o for (k, _), o in zip(placed, outputs, strict=True)),
        }
        key = keys.get(formulation.objective or "")
        if key is not None:
            for placed in sorted(placements, key=key):
                best = _best_of(formulation, instance, [_schedule(instance, placed)])
                if best is not None:
                    return best
            return None
    return _best_of(formulation, instance, (_schedule(instance, placed) for placed in placements))


def _best_of(
    formulation: Formulation, instance: Instance, schedules: Iterator[Schedule] | list[Schedule]
) -> Best | None:
    best: Best | None = None
    for schedule in schedules:
        value = formulation.evaluate(instance, judge(instance, schedule))
        if value is not None and (best is None or value < best.value):
            best = Best(value, schedule)
    return best


def _schedule(instance: Instance, placed: Placements) -> Schedule:
    starts: list[dict[str, int]] = [{} for _ in range(instance.server.replicas)]
    for request, (k, replica) in zip(instance.requests, placed, strict=True):
        starts[replica][request.id] = k
    return side_by_side(schedule_from_starts(instance, some) for some in starts)


def _fitting_placements(instance: Instance, last: int, *, alike: bool) -> Iterator[Placements]:
    """Starts and replicas of all requests that fit memory and slots.

    Starts are those up to when all others could have run one by one, or to end by ``last``.

    Where replicas are ``alike``, each is first used after the one before it.
    """
    arrays, server = instance.arrays, instance.server
    arrival, output = arrays.arrival.tolist(), arrays.output.tolist()
    horizon = max(max(arrival) + sum(output), last)
    memory, count = np.zeros((2, server.replicas, horizon + 1), dtype=int)
    most = server.kv_capacity_tokens or int(arrays.peak.sum())
    slots = server.slots or len(output)
    prompt = unshared(instance, once=False).arrays.prompt  # the judge counts what is shared
    profiles = [prompt[i] + np.arange(1, o + 1) for i, o in enumerate(output)]

    def place(chosen: Placements) -> Iterator[Placements]:
        i = len(chosen)
        if i == len(output):
            yield chosen
            return
        used = 1 + max((replica for _, replica in chosen), default=-1)
        choices = range(min(server.replicas, used + 1) if alike else server.replicas)
        for replica, k in product(choices, range(arrival[i], horizon - output[i] + 1)):
            rounds = replica, slice(k, k + output[i])
            if (memory[rounds] + profiles[i] > most).any() or (count[rounds] >= slots).any():
                continue
            memory[rounds] += profiles[i]
            count[rounds] += 1
            yield from place((*chosen, (k, replica)))
            memory[rounds] -= profiles[i]
            count[rounds] -= 1

    return place(())


def _list_stagings(instance: Instance) -> Iterator[Schedule]:
    """All ways to admit the requests in stages: which request in which stage, and how many rounds each decodes."""
    slots = instance.server.slots or len(instance.requests)
    output = instance.arrays.output.tolist()
    n, longest = len(output), max(output)
    for stage_of in product(range(n), repeat=n):
        stages = max(stage_of) + 1
        if set(stage_of) != set(range(stages)):
            continue
        for rounds in product(range(longest + 1), repeat=stages - 1):
            left = dict.fromkeys(range(slots), 0)
            staged: list[Stage] = []
            for k in range(stages):
                batch = [i for i in range(n) if stage_of[i] == k]
                free = [j for j, tokens in left.items() if not tokens]
                if len(batch) > len(free):
                    break
                taken = list(zip(batch, free, strict=False))
                left.update({j: output[i] for i, j in taken})
                decode = max(left.values()) if k == stages - 1 else rounds[k]
                left = {j: max(0, tokens - decode) for j, tokens in left.items()}
                staged.append(Stage(tuple(Admission(instance.requests[i].id, j) for i, j in taken), decode))
            else:
                yield schedule_from_stages(instance, staged)


def _list_pausing(instance: Instance) -> Iterator[Schedule]:
    """All ways to say who makes a token in which round, none of them empty while somebody waits.

    So an objective must not get worse when somebody is done earlier.
    """
    arrays, server = instance.arrays, instance.server
    arrival, prompt, output = arrays.arrival.tolist(), arrays.prompt.tolist(), arrays.output.tolist()
    names = [r.id for r in instance.requests]
    most = server.kv_capacity_tokens or int(arrays.peak.sum())
    slots, held = server.slots or len(names), server.pause is not None and server.pause.keep == "held"

    def run(t: int, rounds: tuple[tuple[int, ...], ...]) -> Iterator[Schedule]:
        here = [i for i, made in enumerate(rounds) if len(made) < output[i] and arrival[i] < t]
        if not here:
            later = [a for i, a in enumerate(arrival) if len(rounds[i]) < output[i]]
            if later:
                yield from run(min(later) + 1, rounds)
            else:
                yield schedule_from_rounds(dict(zip(names, rounds, strict=True)))
            return
        for chosen in product((True, False), repeat=len(here)):
            makes = [i for i, yes in zip(here, chosen, strict=True) if yes]
            stays = [i for i in here if held and i not in makes and rounds[i]]
            tokens = sum(prompt[i] + len(rounds[i]) for i in makes + stays) + len(makes)
            if makes and tokens <= most and len(makes + stays) <= slots:
                yield from run(t + 1, tuple((*made, t) if i in makes else made for i, made in enumerate(rounds)))

    return run(1, ((),) * len(names))


def _list_chunkings(instance: Instance) -> Iterator[Schedule]:
    """All ways to say how much of each prompt each round reads, none of them empty while somebody waits.

    So an objective must not get worse when somebody is done earlier. A request is admitted with its first chunk.
    """
    arrays, server = instance.arrays, instance.server
    arrival, prompt, output = arrays.arrival.tolist(), arrays.prompt.tolist(), arrays.output.tolist()
    names, n = [r.id for r in instance.requests], len(output)
    most, slots = server.kv_capacity_tokens or int(arrays.peak.sum()), server.slots or n

    def run(t: int, read: tuple[int, ...], made: tuple[int, ...], so_far: tuple[Segment, ...]) -> Iterator[Schedule]:
        left = [i for i in range(n) if made[i] < output[i]]
        here = [i for i in left if arrival[i] < t]
        if not left:
            yield Schedule(so_far)
            return
        if not here:
            yield from run(min(arrival[i] for i in left) + 1, read, made, so_far)
            return
        for chunks in product(*(range(prompt[i] - read[i] + 1) for i in here)):
            part = dict(zip(here, chunks, strict=True))
            now = tuple(read[i] + part.get(i, 0) for i in range(n))
            after = tuple(made[i] + (i in here and now[i] == prompt[i]) for i in range(n))
            inside = [i for i in here if now[i]]
            moves = any(chunks) or after != made
            if moves and len(inside) <= slots and sum(prompt[i] + after[i] for i in inside) <= most:
                new = tuple(Admission(names[i]) for i in inside if not read[i])
                says = tuple((names[i], c) for i, c in part.items() if c)
                yield from run(t + 1, now, after, (*so_far, Segment(t - 1, new, rounds=1, chunks=says)))

    return run(1, (0,) * n, (0,) * n, ())


def _list_iterations(instance: Instance) -> Iterator[Schedule]:
    """All ways to say which iteration processes each prompt, without empty iterations, begun as early as possible."""
    output = instance.arrays.output.tolist()
    names = [r.id for r in instance.requests]
    for starts in product(*(range(1, sum(output) - o + 2) for o in output)):
        inside = {k + j for k, o in zip(starts, output, strict=True) for j in range(o)}
        if len(inside) == max(inside):
            yield schedule_from_iterations(instance, dict(zip(names, starts, strict=True)))
