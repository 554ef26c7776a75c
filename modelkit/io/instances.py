"""Instances in and out, in rows or columns."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable
from typing import Any, NoReturn

from pydantic import TypeAdapter, ValidationError

from modelkit.errors import MOST_FAULTS, ArgumentError, Fault, InputError, UsageError, shown
from modelkit.instance import (
    SCHEMA,
    Instance,
    LinearClock,
    Pause,
    Prefix,
    PrefixCache,
    Server,
    UnitClock,
    cross_faults,
    prefix_faults,
)
from modelkit.io.files import where_of
from modelkit.io.json_reading import (
    MOST_NESTING,
    beyond_limits,
    checked_schema,
    is_deeper,
    read_json,
    without_collecting,
)
from modelkit.io.validation import faults_of, trim, unknown_key
from modelkit.io.writing import write_text
from modelkit.requests import REQUEST_KEYS, ServiceLimits, slo_faults

#: Requests of an instance.
MOST_REQUESTS = 1_000_000

_SLO_KEYS = (*ServiceLimits.model_fields, "class")
_KNOWN_KEYS = {
    (): tuple(Instance.model_fields),
    ("server",): tuple(Server.model_fields),
    ("server", "clock"): tuple(LinearClock.model_fields),
    ("server", "slo"): _SLO_KEYS,
    ("server", "slo", "class", "*"): _SLO_KEYS[:-1],
    ("server", "prefix_cache"): tuple(PrefixCache.model_fields),
    ("server", "pause"): tuple(Pause.model_fields),
    ("requests",): REQUEST_KEYS,
    ("requests", "prefix"): tuple(Prefix.model_fields),
}


def load(source: str | os.PathLike[str] | dict[str, Any] | Instance) -> Instance:
    """Read an instance.

    Parameters
    ----------
    source
        Path of a ``.json`` or ``.json.gz`` file, ``"-"`` for standard input, parsed JSON, or an
        instance, which is returned as it is.

    Raises
    ------
    InputError
        With all faults of the file, each with its JSON path.
    UsageError
        The file cannot be opened.
    """
    if isinstance(source, Instance):
        return source
    if isinstance(source, dict):
        return parse_instance(source, "instance")
    if not isinstance(source, str | os.PathLike):
        raise UsageError(f"load takes a path, parsed JSON or an instance; found {shown(source)}")
    with without_collecting():
        return parse_instance(read_json(source), where_of(source))


def parse_instance(document: object, where: str) -> Instance:
    """Instance from parsed JSON; ``where`` names its origin in messages."""
    document = checked_schema(document, SCHEMA, where)
    faults: list[Fault] = []
    if (found := _longest(document.get("requests"))) > MOST_REQUESTS:
        raise InputError(where, [Fault("$.requests", f"found {found:,} requests; allowed: at most {MOST_REQUESTS:,}")])
    columns = isinstance(document.get("requests"), dict)
    if columns:
        document["requests"] = _rows(document["requests"], faults)
    elif isinstance(document.get("requests"), list):
        document["requests"] = [
            {"id": f"r{i}", **row} if isinstance(row, dict) else row
            for i, row in enumerate(document["requests"], start=1)
        ]
    try:
        instance = Instance.model_validate(trim(document, Instance))
    except ValidationError as error:
        faults += faults_of(_first_errors(document, error), _KNOWN_KEYS)
        faults += _raw_cross_faults(document)
    except InputError as error:
        faults += error.faults
    if faults:
        if columns:
            faults = [Fault(_column_path(fault.path), fault.message) for fault in faults]
        raise InputError(where, faults)
    return instance


def _first_errors(document: dict[str, Any], error: ValidationError) -> ValidationError:
    """The errors, or where those are very many only those of the first requests: each costs a kilobyte."""
    requests = document.get("requests")
    size = MOST_FAULTS
    while error.error_count() > 10 * MOST_FAULTS and isinstance(requests, list) and size < len(requests):
        try:
            Instance.model_validate({**document, "requests": requests[:size]})
        except ValidationError as fewer:
            if fewer.error_count() >= MOST_FAULTS:
                return fewer
        except InputError:  # cross faults alone
            pass
        size *= 4
    return error


def checked(what: str, make: Callable[[], Instance]) -> Instance:
    """What ``make`` makes; options or data that give no instance are bad input.

    Raises
    ------
    InputError
        With the faults of what was made.
    """
    try:
        return make()
    except ValidationError as error:
        raise InputError(f"{what} gives no instance", faults_of(error, {})) from None
    except ArgumentError as error:
        raise InputError(f"{what} gives no instance", error.faults) from None


def _longest(requests: object) -> int:
    """Requests in rows, or in the longest column."""
    columns = requests.values() if isinstance(requests, dict) else [requests]
    return max((len(column) for column in columns if isinstance(column, list)), default=0)


def _rows(columns: dict[str, Any], faults: list[Fault]) -> list[dict[str, Any]]:
    """Rows from columns; columns that are no list, unknown or of another length become faults."""
    usable = {}
    for key, values in columns.items():
        if key not in REQUEST_KEYS:
            faults.append(Fault(f"$.requests.{key}", unknown_key(key, REQUEST_KEYS)))
        elif not isinstance(values, list):
            faults.append(Fault(f"$.requests.{key}", f"found {shown(values)}; allowed: a list, one value per request"))
        else:
            usable[key] = values
    length = max((len(values) for values in usable.values()), default=0)
    for key, values in usable.items():
        if len(values) != length:
            faults.append(Fault(f"$.requests.{key}", f"has {len(values)} values where another column has {length}"))
    usable.setdefault("id", [f"r{i}" for i in range(1, length + 1)])
    if faults:  # keep the rows that are whole, so that their faults show too
        length = min(len(values) for values in usable.values())
    keys = list(usable)
    return [dict(zip(keys, row, strict=False)) for row in zip(*usable.values(), strict=False)][:length]


def _column_path(path: str) -> str:
    """``$.requests[3].arrival`` as the path in a file of columns, ``$.requests.arrival[3]``."""
    head, bracket, rest = path.partition("$.requests[")
    position, closing, tail = rest.partition("].")
    if head or not bracket or not closing:
        return path
    key = re.match(r"[^.\[]*", tail)[0]  # type: ignore[index]
    return f"$.requests.{key}[{position}]{tail[len(key) :]}"


def _raw_cross_faults(document: dict[str, Any]) -> list[Fault]:
    """Cross-field faults of a document that has other faults too."""
    requests = document.get("requests")
    rows = [row if isinstance(row, dict) else {} for row in requests] if isinstance(requests, list) else []
    server = document.get("server")
    slo = server.get("slo") if isinstance(server, dict) else None
    clock: object = None
    with contextlib.suppress(ValidationError):
        raw = server.get("clock", {"kind": "unit"}) if isinstance(server, dict) else None
        clock = TypeAdapter(UnitClock | LinearClock).validate_python(raw)
    beside = [[row.get(key) for row in rows] for key in ("prompt_tokens", "prefix", "cached_prompt_tokens")]
    return (
        cross_faults(
            [row.get("id") for row in rows],
            [row.get("arrival") for row in rows],
            [row.get("predicted_output_tokens") for row in rows],
            clock,
        )
        + slo_faults(slo, clock)
        + prefix_faults(*beside)
    )


def instance_schema() -> dict[str, Any]:
    """JSON Schema of an instance file (draft 2020-12): rows or columns."""
    schema = Instance.model_json_schema()
    row = schema["$defs"]["Request"]
    row["required"] = [key for key in row["required"] if key != "id"]
    columns = {
        "title": "Request columns",
        "description": "The same data as columns of equal length, one entry per request.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            key: {"type": "array", "minItems": 1, "items": {k: v for k, v in item.items() if k != "default"}}
            for key, item in row["properties"].items()
        },
        "required": row["required"],
    }
    schema["$defs"]["RequestColumns"] = columns
    rows = schema["properties"]["requests"]
    schema["properties"]["requests"] = {"anyOf": [rows, {"$ref": "#/$defs/RequestColumns"}]}
    schema["properties"] = {"schema": {"const": SCHEMA}, **schema["properties"]}
    schema["required"] = ["schema", *schema["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def save_instance(instance: Instance, path: str | os.PathLike[str]) -> None:
    """Write an instance as JSON; gzipped when the name ends in ``.gz``, to standard output for ``-``.

    Raises
    ------
    InputError
        It is more than `load` reads, or ``extra`` holds what JSON does not.
    UsageError
        The file cannot be written.
    """
    if not isinstance(instance, Instance):
        raise UsageError(f"save_instance takes an instance; found {shown(instance)}")

    def refuse(place: str, words: str) -> NoReturn:
        raise InputError(f"instance {instance.name!r}, not written", [Fault(place, words)])

    if len(instance.requests) > MOST_REQUESTS:
        refuse("$.requests", f"found {len(instance.requests):,} requests; allowed: at most {MOST_REQUESTS:,}")
    document = instance.document()
    if is_deeper(document, MOST_NESTING):
        refuse("$.extra", f"nested too deeply; allowed: {MOST_NESTING} levels")
    try:
        text = json.dumps(document, indent=None, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        refuse("$.extra", f"is not JSON: {error}")
    if (words := beyond_limits(text)) is not None:
        refuse("$", f"{words}; take fewer requests")
    write_text(path, text)
