"""Data of one's own for an instance that was drawn or read: its ``extra``, and what its requests are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from modelkit.errors import Fault, InputError, UsageError, shown
from modelkit.instance import Instance
from modelkit.io import checked
from modelkit.io.json_reading import read_json
from modelkit.requests import ATTRIBUTES


def with_extra(instance: Instance, extra: Mapping[str, Any]) -> Instance:
    """The instance with these in its ``extra``; those of the same name are replaced."""
    return instance.replace(extra={**instance.extra, **extra}) if extra else instance


def with_replicas(instance: Instance, replicas: int) -> Instance:
    """The instance on this many servers alike; its name says so where they are several.

    Raises
    ------
    InputError
        It is no number of replicas.
    """
    if replicas == 1:
        return instance
    server = {**instance.server.model_dump(), "replicas": replicas}
    name = f"{instance.name}-r{replicas}" if instance.name else ""
    return checked("--replicas", lambda: instance.replace(name=name, server=server))


def with_pause(instance: Instance, keep: str | None) -> Instance:
    """The instance on a server that keeps the tokens of paused requests so; the same where that is None.

    Raises
    ------
    InputError
        It is neither ``held`` nor ``swapped``, or the server has what pauses are not supported beside.
    """
    if keep is None:
        return instance
    server = {**instance.server.model_dump(), "pause": {"keep": keep}}
    name = f"{instance.name}-{keep}" if instance.name else ""
    return checked("--pause", lambda: instance.replace(name=name, server=server))


def parse_extra(texts: Iterable[str]) -> dict[str, Any]:
    """Values from ``KEY=VALUE`` texts, each value as JSON or else text, or from ``KEY=@FILE`` with a JSON file.

    Raises
    ------
    UsageError
        A text is not of that form, or the file cannot be opened.
    InputError
        The file is not JSON.
    """
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--extra takes KEY=VALUE or KEY=@FILE, KEY as in Python; found {shown(text)}")
        values[key] = read_json(value[1:]) if value.startswith("@") else _value(value)
    return values


def with_drawn(instance: Instance, attributes: Mapping[str, Mapping[Any, float]], seed: int = 0) -> Instance:
    """The instance with attributes of its requests drawn: for each name, values and their weights.

    ``class``, ``session`` and ``priority`` are fields of a request; any other name stands in its ``extra``.

    Raises
    ------
    InputError
        Weights are negative or all 0, or a value is none that the field takes.
    """
    n = len(instance.requests)
    columns: dict[str, list[Any]] = {}
    for place, (name, weights) in enumerate(attributes.items()):
        values, shares = list(weights), np.array(list(weights.values()), dtype=float)
        if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0):
            words = f"found the weights {shown(list(weights.values()))}; allowed: 0 or more, one of them above"
            raise InputError("generate", [Fault(f"--attribute {name}", words)])
        drawn = np.random.default_rng([seed, 2, place]).choice(len(values), n, p=shares / shares.sum())
        columns[name] = [values[i] for i in drawn]
    fields = {key: name for name, key in ATTRIBUTES.items()}
    rows = []
    for i, request in enumerate(instance.requests):
        said = {name: column[i] for name, column in columns.items()}
        own = {**(request.extra or {}), **{name: value for name, value in said.items() if name not in fields}}
        kept = {key: value for key, value in request.model_dump(by_alias=True).items() if value is not None}
        rows.append({**kept, **{name: said[name] for name in said if name in fields}, "extra": own or None})
    return checked("generate --attribute", lambda: instance.replace(requests=rows)) if columns else instance


def parse_attributes(texts: Iterable[str]) -> dict[str, dict[Any, float]]:
    """Values and weights from ``NAME=VALUE:WEIGHT,VALUE,...`` texts; the weight is 1 where there is none.

    Raises
    ------
    UsageError
        A text is not of that form.
    """
    found: dict[str, dict[Any, float]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        try:
            if not equals or not name.isidentifier():
                raise ValueError
            weights: dict[Any, float] = {}
            for part in values.split(","):
                value, colon, weight = part.strip().rpartition(":")
                known = value if colon else weight
                if not known:
                    raise ValueError
                weights[known if name in ("class", "session") else _value(known)] = float(weight) if colon else 1.0
        except (ValueError, TypeError):
            words = "--attribute takes NAME=VALUE,... or NAME=VALUE:WEIGHT,..., such as class=chat:3,code"
            raise UsageError(f"{words}; found {shown(text)}") from None
        found[name] = weights
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return text
