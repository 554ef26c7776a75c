"""What if: the same requests at another rate, on another server, with other memory, fewer slots or more replicas."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from modelkit.errors import Fault, InputError, shown
from modelkit.instance import MAX_NAME, Instance, Server, UnitClock
from modelkit.io import checked
from modelkit.judge.slo import service_levels
from modelkit.registry import Option, options_of
from modelkit.sources.servers import find_server

_MOST_RATE = 1e6
#: Fields of a server whose names here are others.
_FIELDS = {"kv_capacity": "kv_capacity_tokens"}


def changed(
    instance: Instance,
    *,
    rate: float | None = None,
    kv_capacity: int | None = None,
    slots: int | None = None,
    replicas: int | None = None,
    slo: str | None = None,
    server: str | None = None,
) -> Instance:
    """The instance with what is given in place of its own; its name says so.

    Parameters
    ----------
    rate
        Mean arrivals per round or second, over the time from the first to the last: all are rescaled.
    kv_capacity, slots, replicas
        Of the server [token, 1, 1].
    slo
        Service levels, such as ``"ttft=450ms,tpot=40ms"`` (`modelkit.judge.slo`).
    server
        Preset or JSON file: its clock, and its memory and slots where it states them.

    Raises
    ------
    InputError
        The instance cannot be changed so, or a value is out of range.
    UsageError
        No such preset, or the file cannot be opened.
    """
    limits = {"kv_capacity": kv_capacity, "slots": slots, "replicas": replicas, "slo": slo}
    given: dict[str, Any] = {"server": server, "rate": rate, **limits}
    asked = {name: value for name, value in given.items() if value is not None}
    if not asked:
        return instance
    stated = {} if server is None else _of_server(instance, server)
    levels = service_levels(slo, instance)
    stated |= {_FIELDS.get(name, name): value for name, value in limits.items() if value is not None}
    stated |= {} if levels is None else {"slo": levels}
    own = {field: getattr(instance.server, field) for field in Server.model_fields}
    marks = [f"{option.removesuffix('_capacity')}{_mark(value)}" for option, value in asked.items()]
    name = "-".join([instance.name or "instance", *marks])[:MAX_NAME]
    requests = instance.requests if rate is None else _rescaled(instance, rate)
    return checked(name, lambda: instance.replace(name=name, server=Server(**{**own, **stated}), requests=requests))


def _of_server(instance: Instance, server: str) -> dict[str, Any]:
    """Clock, memory and slots as another server states them."""
    other = find_server(server)
    if instance.is_unit != isinstance(other.clock, UnitClock):
        here, there = ("rounds", "seconds") if instance.is_unit else ("seconds", "rounds")
        words = f"found {shown(server)}, whose time is in {there}; the requests arrive in {here}"
        raise InputError(instance.name or "instance", [Fault("server", words)])
    stated = {field: getattr(other, field) for field in ("clock", "kv_capacity_tokens", "slots")}
    return {field: value for field, value in stated.items() if value is not None}


def _mark(value: Any) -> str:
    return Path(value).name.partition(".json")[0] if isinstance(value, str) else f"{value:g}"


def _rescaled(instance: Instance, rate: float) -> tuple[Any, ...]:
    """The requests, so many of them per round or second in the mean."""
    where = instance.name or "instance"
    if not 0 < rate <= _MOST_RATE:
        raise InputError(where, [Fault("rate", f"found {rate:g}; allowed: more than 0, at most {_MOST_RATE:,.0f}")])
    times = [request.arrival for request in instance.requests]
    first, last = min(times), max(times)
    if first == last:
        raise InputError(where, [Fault("rate", "all requests arrive at once; there is no rate to change")])
    factor = (len(times) - 1) / ((last - first) * rate)
    moved = [(time - first) * factor for time in times]
    if instance.is_unit:
        moved = [float(math.floor(time)) for time in moved]
    pairs = zip(instance.requests, moved, strict=True)
    return tuple(request.model_copy(update={"arrival": time}) for request, time in pairs)


#: What can be changed, with help and type.
CHANGES: dict[str, Option] = {
    option.name: option
    for option in options_of(
        changed,
        {
            "rate": "mean arrivals per round or second; all arrivals are rescaled",
            "kv_capacity": "KV capacity M [token]",
            "slots": "requests in progress at once",
            "replicas": "servers alike",
            "slo": "service levels, such as ttft=450ms,tpot=40ms",
            "server": "preset or JSON file of a server",
        },
    )
}
