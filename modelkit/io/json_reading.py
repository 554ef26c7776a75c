"""JSON from files that may be anything: bounded, finite, each key once."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn

from modelkit.errors import Fault, InputError, shown
from modelkit.io.files import MOST_BYTES, read_text, where_of

#: What costs memory when JSON is read: marks, how many of them are read, and what they stand for.
_MOST = (
    ("{", 300_000, "objects"),
    ("[", 2_000_000, "lists"),
    (":", 2_000_000, "keys"),
    (",", 10_000_000, "values"),
)

#: Lists and objects in each other; whatever reads or writes them later recurses.
MOST_NESTING = 100


def read_json(source: str | os.PathLike[str]) -> object:
    """Parsed JSON of a file (gzip known by its first bytes) or of standard input for ``-``.

    Raises
    ------
    InputError
        Not UTF-8, not JSON, NaN or infinity, a key twice in one object, too deeply nested.
    UsageError
        The file cannot be opened.
    """
    text = read_text(source)
    where = where_of(source)

    def refuse(message: str) -> NoReturn:
        raise InputError(where, [Fault("$", message)])

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            twice = next(key for key, times in Counter(key for key, _ in items).items() if times > 1)
            refuse(f"the key {shown(twice)} occurs twice in one object")
        return found

    def constant(word: str) -> NoReturn:
        refuse(f"found {word}; JSON numbers are finite")

    def number(word: str) -> float:
        value = float(word)
        if math.isinf(value):
            refuse(f"found {shown(word)}; allowed: numbers up to 1.8e308")
        return value

    if (words := beyond_limits(text)) is not None:
        refuse(f"{words}; requests in columns need the fewest")
    try:
        with without_collecting():
            document = json.loads(text, object_pairs_hook=pairs, parse_constant=constant, parse_float=number)
    except json.JSONDecodeError as error:
        refuse(_not_json(text) or f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}")
    except RecursionError:
        refuse("nested too deeply")
    except ValueError:  # an integer of more digits than Python converts
        refuse("holds a number of thousands of digits")
    if is_deeper(document, MOST_NESTING):
        refuse(f"nested too deeply; allowed: {MOST_NESTING} levels")
    return document


def _not_json(text: str) -> str | None:
    """What a text is instead, where it looks like a trace."""
    head, _, rest = text.lstrip().partition("\n")
    advice = "`modelkit import FORMAT FILE` makes an instance of a trace; `modelkit list formats` shows the formats"
    if head[:1] not in ("{", "[") and rest.strip() and any(mark in head for mark in ",;\t"):
        return f"looks like a CSV table, not JSON; {advice}"
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(json.loads(head), dict) and rest.strip():
            return f"has one JSON object per line, not one document; {advice}"
    return None


def beyond_limits(text: str) -> str | None:
    """Why a JSON text is more than is read; None when it is not."""
    if len(text) > MOST_BYTES // 4 and len(text.encode("utf-8", "backslashreplace")) > MOST_BYTES:
        return f"holds more than {MOST_BYTES // 1024:,} KiB, the most that is read"
    for mark, most, noun in _MOST:
        if text.count(mark) > most:
            return f"holds more than {most:,} {noun}, the most that is read"
    return None


def is_deeper(document: object, most: int) -> bool:
    """Whether lists and objects stand in each other more than ``most`` deep; O(size), without recursion."""
    level = [document]
    for _ in range(most):
        inner = (
            value.values() if isinstance(value, dict) else value for value in level if isinstance(value, dict | list)
        )
        level = [child for children in inner for child in children if isinstance(child, dict | list)]
        if not level:
            return False
    return True


@contextlib.contextmanager
def without_collecting() -> Iterator[None]:
    """Nothing that is read is garbage; looking for it takes half of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


#: The documents of this package by their schemas, and what takes them.
_DOCUMENTS = {
    "modelkit/instance/1": "an instance, of which `modelkit solve` and `modelkit simulate` make results",
    "modelkit/result/1": "a result, which `modelkit report` and `modelkit verify` take",
    "modelkit/certificate/1": "the certificate of a bound, which `modelkit verify` takes",
    "modelkit/observed/1": "the run of a log, which `modelkit export --format perfetto` takes",
}


def what_it_is(schema: object) -> str:
    """``; this is ...`` of the schema of a document of this package; nothing of others."""
    return f"; this is {_DOCUMENTS[schema]}" if isinstance(schema, str) and schema in _DOCUMENTS else ""


def checked_schema(document: object, schema: str, where: str) -> dict[str, Any]:
    """The document without its schema key, once that names ``schema``."""
    if not isinstance(document, dict):
        raise InputError(where, [Fault("$", f"found {shown(document)}; allowed: a JSON object")])
    found = document.get("schema")
    if found != schema:
        words = f"found {shown(found)}" if "schema" in document else "is missing"
        raise InputError(where, [Fault("$.schema", f"{words}; allowed: {schema!r}{what_it_is(found)}")])
    return {key: value for key, value in document.items() if key != "schema"}
