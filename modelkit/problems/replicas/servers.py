"""Single servers in the place of several replicas: all of them as one, and one of them with its requests alone."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import attrgetter

from modelkit.instance import Instance
from modelkit.judge.prefixes import unshared
from modelkit.judge.rules import Residency
from modelkit.schedule import Schedule, Segment


def pooled(instance: Instance) -> Instance:
    """One server with the memory and the slots of all replicas.

    Under the unit clock, where rounds begin together everywhere, every schedule on the replicas is one of it.
    """
    server, replicas = instance.server, instance.server.replicas
    limits = {
        name: None if (limit := getattr(server, name)) is None else replicas * limit
        for name in ("kv_capacity_tokens", "slots")
    }
    return instance.replace(server=server.model_copy(update={**limits, "replicas": 1}))


def one_server(instance: Instance) -> Instance:
    """The relaxation of the unit clock that is a KV-cache problem: `pooled`, without slots and shared prefixes."""
    least = unshared(instance, once=True)
    return pooled(least.replace(server=least.server.model_copy(update={"slots": None})))


def alone(instance: Instance, requests: Sequence[int]) -> Instance:
    """The instance of one replica with some of the requests, by position."""
    server = instance.server.model_copy(update={"replicas": 1})
    return instance.replace(server=server, requests=tuple(instance.requests[i] for i in requests))


def side_by_side(schedules: Iterable[Schedule]) -> Schedule:
    """One schedule of those of single servers, each on its replica, in the order of time."""
    every = list(schedules)
    placed = [[replace(segment, replica=r) for segment in s.segments] for r, s in enumerate(every, start=1)]
    limits = [schedule.tokens_per_iteration for schedule in every if schedule.segments]
    segments: Iterable[Segment] = heapq.merge(*placed, key=attrgetter("at"))
    return Schedule(tuple(segments), limits[0] if limits else None)


def served(residencies: Iterable[Residency], replicas: int) -> list[list[int]]:
    """The requests of each replica, in ascending order."""
    home = {residency.request: residency.replica for residency in residencies}
    return [sorted(i for i, replica in home.items() if replica == r) for r in range(1, replicas + 1)]
