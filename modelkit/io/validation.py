"""Pydantic's errors in our words, each with its place."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from modelkit.errors import MOST_FAULTS, Fault, did_you_mean, shown

_PLAIN_KEY = re.compile(r"[\w-]{1,100}")
_PREDICTION = "allowed: a whole number of tokens from 1 to 100000000, or [lower, upper] of two such"


def trim(document: Any, model: Any) -> Any:
    """The document with only the first of the keys that ``model`` does not know, in it and in its parts.

    Each costs pydantic a kilobyte, and more than ``MOST_FAULTS`` of them are not shown anyway.
    """
    models = [m for m in _parts(model) if isinstance(m, type) and issubclass(m, BaseModel)]
    if isinstance(document, list) and models and any(isinstance(entry, dict) for entry in document):
        return [trim(entry, model) if isinstance(entry, dict) and len(entry) > 9 else entry for entry in document]
    if not isinstance(document, dict) or not models:
        return document
    fields = {field.alias or key: field.annotation for m in models for key, field in m.model_fields.items()}
    kept = set(itertools.islice((key for key in document if key not in fields), MOST_FAULTS))
    return {
        key: trim(value, fields[key]) if key in fields else value
        for key, value in document.items()
        if key in fields or key in kept
    }


def _parts(annotation: Any) -> Iterator[Any]:
    """The types that an annotation is made of, but for those of free mappings."""
    yield annotation
    if get_origin(annotation) is not dict:
        for part in get_args(annotation):
            yield from _parts(part)


def faults_of(error: ValidationError, known: Mapping[tuple[str, ...], Sequence[str]] | None = None) -> list[Fault]:
    """Pydantic's errors as faults; ``known`` are the keys that stand at a path, for near misses."""
    faults: dict[str, Fault] = {}
    for detail in error.errors(include_url=False):
        if detail["type"] == "too_short" and detail["input"]:  # pydantic counts the entries without fault
            continue
        location = [
            part
            for before, part in zip((None, *detail["loc"]), detail["loc"], strict=False)
            if not (before == "clock" and part in ("unit", "linear"))
        ]
        if "predicted_output_tokens" in location:  # a union: one fault, not one for each branch
            location = location[: location.index("predicted_output_tokens") + 1]
            within = isinstance(detail["loc"][-1], int) and len(detail["loc"]) > 4
            found = f"found {shown(detail['input'])}"
            message = f"{_PREDICTION}; in the interval {found}" if within else f"{found}; {_PREDICTION}"
            fault = Fault(_json_path(location), message)
        else:
            fault = Fault(_json_path(location), _message(detail, location, known or {}))
        faults.setdefault(fault.path, fault)
        if len(faults) == MOST_FAULTS:
            break
    return list(faults.values())


def _message(detail: Any, location: list[Any], keys: Mapping[tuple[str, ...], Sequence[str]]) -> str:
    kind = detail["type"]
    if kind == "missing":
        return "is missing"
    if kind == "too_short":
        return "is empty; allowed: one entry or more"
    if kind == "extra_forbidden":
        path = tuple(p for p in location[:-1] if isinstance(p, str))
        known = keys.get(path) or keys.get((*path[:-1], "*"), ())
        return unknown_key(location[-1], known)
    text = detail["msg"]
    for before, after in (
        ("Input should be ", "allowed: "),
        ("Input tag ", "allowed: tag "),
        ("Tuple should have ", "allowed: "),
    ):
        text = text.replace(before, after)
    return f"found {shown(detail['input'])}; {text}"


def unknown_key(key: object, known: Sequence[str]) -> str:
    """What to say of a key that is none of those known: the one that is nearly it, or where data of one's own go."""
    room = "; data of your own belong in extra" if "extra" in known else ""
    allowed = f"; allowed: {', '.join(known)}" if known else ""
    return f"unknown key{did_you_mean(str(key), known) or room or allowed}"


def _json_path(location: list[Any]) -> str:
    return "$" + "".join(_step(part) for part in location)


def _step(part: Any) -> str:
    if isinstance(part, int) or not _PLAIN_KEY.fullmatch(part):
        return f"[{shown(part)}]"
    return f".{part}"
