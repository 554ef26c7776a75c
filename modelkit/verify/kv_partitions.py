"""The bound on total latency that multipliers of requests give over partitions of the held tokens; unit clock.

Look at the rounds backwards. A request that ends with round c holds s + o tokens in it, one less in each round
before, and is *forgotten* once it would hold its floor f >= s or less. What is held of requests not forgotten is a
multiset of parts of at most M tokens in all; each is a state. Going backwards, parts lose a token a round, and at any
round requests may add their parts where there is room. With multipliers m_i, whole numbers of 1 / d, a request that
ends with round c costs d (c - a_i) - m_i. A schedule is a way through the states that adds each request once: in any
round the parts are some of what is truly held. So

    L = sum_i m_i + the least cost of any way, in which each request may be added any number of times

is at most d times the total latency of every schedule. The state holds less when a request is not added, so what costs
nothing or more is never added, and rounds after max_i (a_i + m_i / d) need not be looked at. A request that is
forgotten at once, with s + o <= f, counts with its least latency d o instead.

R replicas count as one server with R times the memory: rounds begin together everywhere, so what they hold in a round
is at most R M in all. Of what requests share through a prefix cache the first of a group holds all, which is no more
than what is truly held (`modelkit.judge.prefixes.unshared`).

States do not depend on the requests' number; a bound takes rounds x states x kinds of parts.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from modelkit.certificate import Partitions
from modelkit.errors import Fault, InputError
from modelkit.instance import Instance
from modelkit.judge.prefixes import unshared
from modelkit.runtime.kernel import kernel

#: States that are looked at, at most, and states of all rounds.
MOST_STATES, MOST_ALL_STATES = 60_000, 2_000_000_000

#: Tokens and floor of a part.
Part = tuple[int, int]


def partitions_bound(instance: Instance, proof: Partitions) -> Fraction:
    """L / d, exactly.

    Raises
    ------
    InputError
        The instance is not one of the KV-cache problem, or the proof is not one for it.
    """
    instance = unshared(instance, once=True)
    arrays, server = instance.arrays, instance.server
    capacity, d = server.kv_capacity_tokens, proof.denominator
    prompt, output = arrays.prompt.tolist(), arrays.output.tolist()
    faults = []
    if not instance.is_unit or capacity is None:
        faults.append(Fault("$", "kv-partitions bound instances with the unit clock and a KV capacity"))
    elif server.pause is not None:
        faults.append(Fault("$", "kv-partitions bound schedules without pauses"))
    for name in ("floors", "multipliers"):
        if len(getattr(proof, name)) != len(output):
            words = f"{len(getattr(proof, name))} numbers, but {len(output)} requests"
            faults.append(Fault(f"$.partitions.{name}", words))
    if not faults and (low := [i for i, f in enumerate(proof.floors) if f < prompt[i]]):
        faults.append(Fault(f"$.partitions.floors[{low[0]}]", "a floor is no lower than its request's prompt"))
    if faults:
        raise InputError("certificate", faults)
    assert capacity is not None
    capacity *= server.replicas
    parts: dict[Part, list[int]] = {}
    total = 0
    for i, (s, o, f) in enumerate(zip(prompt, output, proof.floors, strict=True)):
        if s + o > f:
            parts.setdefault((s + o, f), []).append(i)
            total += proof.multipliers[i]
        else:
            total += d * o
    kinds = sorted(parts)
    age, add = _states(capacity, kinds)
    arrival = arrays.arrival.tolist()
    # rounds in which a placement of each request costs less than nothing; cost d (c - a) - m
    spans = {i: (arrival[i] + output[i], arrival[i] + proof.multipliers[i] // d) for of in parts.values() for i in of}
    rounds = _rounds_in_use([span for span in spans.values() if span[0] <= span[1]], max(output))
    largest = max(map(abs, proof.multipliers), default=0)
    if len(rounds) * len(age) > MOST_ALL_STATES or 2 * largest * len(rounds) * capacity >= 2**62:
        raise InputError("certificate", [Fault("$.partitions.multipliers", "are too high to be recomputed")])
    cost = np.zeros((len(rounds), len(kinds)), dtype=np.int64)
    for k, kind in enumerate(kinds):
        for i in parts[kind]:
            first, last = np.searchsorted(rounds, spans[i][0]), np.searchsorted(rounds, spans[i][1], side="right")
            each = d * (rounds[first:last] - arrival[i]) - proof.multipliers[i]
            cost[first:last, k] = np.minimum(cost[first:last, k], each)
    return Fraction(total + int(_least_cost(age, add, cost)), d)


def _rounds_in_use(spans: list[tuple[int, int]], longest: int) -> Any:
    """The rounds of these spans and, below each, as many as it takes until nothing is held; ascending.

    Between them nothing is held and nothing placed, so they are left out.
    """
    merged: list[list[int]] = []
    for first, last in sorted((first - longest, last) for first, last in spans):
        if merged and first <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    if sum(last - first + 1 for first, last in merged) > MOST_ALL_STATES // 10:
        raise InputError("certificate", [Fault("$.partitions.multipliers", "are too high to be recomputed")])
    return np.concatenate([np.arange(first, last + 1) for first, last in merged] or [np.zeros(0, dtype=np.int64)])


def _states(capacity: int, kinds: list[Part]) -> tuple[Any, Any]:
    """State after a round backwards, shape [states], and after each kind is added, -1 where it does not fit.

    A state is found before all that hold more of the same round: ascending in tokens.
    """
    empty: tuple[Part, ...] = ()
    known, todo = {empty}, [empty]
    while todo:
        state = todo.pop()
        room = capacity - sum(h for h, _ in state)
        for other in (_aged(state), *(_with(state, kind) for kind in kinds if kind[0] <= room)):
            if other not in known:
                known.add(other)
                todo.append(other)
                if len(known) > MOST_STATES:
                    words = f"leave more than {MOST_STATES:,} states; higher ones leave fewer"
                    raise InputError("certificate", [Fault("$.partitions.floors", words)])
    states = sorted(known, key=lambda state: (sum(h for h, _ in state), state))
    number = {state: x for x, state in enumerate(states)}
    age = np.array([number[_aged(state)] for state in states])
    add = np.array([[number.get(_with(state, kind), -1) for kind in kinds] for state in states], dtype=np.int64)
    return age, add.reshape(len(states), len(kinds))


def _aged(state: tuple[Part, ...]) -> tuple[Part, ...]:
    return tuple((h - 1, f) for h, f in state if h - 1 > f)


def _with(state: tuple[Part, ...], kind: Part) -> tuple[Part, ...]:
    return tuple(sorted((*state, kind)))


@kernel
def _least_cost(age: Any, add: Any, cost: Any) -> Any:
    """Cost of the cheapest way from the empty state of the last round back to before the first.

    ``least[x]``: that of the cheapest way back from round c, where it is in state x.
    """
    states, kinds = add.shape
    earlier = np.zeros(states, np.int64)
    least = np.zeros(states, np.int64)
    for c in range(len(cost)):
        for x in range(states - 1, -1, -1):
            best = earlier[age[x]]
            for k in range(kinds):
                y = add[x, k]
                if y >= 0 and cost[c, k] < 0:
                    best = min(best, cost[c, k] + least[y])
            least[x] = best
        earlier[:] = least
    return least[0]
