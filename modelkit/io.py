"""JSON in and out: instances and results, with every fault of a file reported at once."""

from __future__ import annotations

import contextlib
import gc
import gzip
import io
import json
import math
import os
import re
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import TypeAdapter, ValidationError

from modelkit import certificate as certificate_module
from modelkit import instance as instance_module
from modelkit import result as result_module
from modelkit.certificate import Certificate
from modelkit.errors import MOST_FAULTS, Fault, InputError, UsageError, did_you_mean, shown
from modelkit.files import read_text, where_of
from modelkit.instance import Instance, LinearClock, Request, Server, UnitClock, cross_faults, whole
from modelkit.result import Result

#: Requests of an instance.
MOST_REQUESTS = 1_000_000

#: What costs memory when JSON is read: marks, how many of them are read, and what they stand for.
_MOST = (
    ("{", 600_000, "objects"),
    ("[", 2_000_000, "lists"),
    (":", 3_000_000, "keys"),
    (",", 10_000_000, "values"),
)

#: Keys of a request, in the order of the file.
REQUEST_KEYS = tuple(Request.model_fields)

#: Lists and objects in each other; whatever reads or writes them later recurses.
MOST_NESTING = 100


# --- instances ---------------------------------------------------------------------------------


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
    with _without_collecting():
        return parse_instance(read_json(source), where_of(source))


def parse_instance(document: object, where: str) -> Instance:
    """Instance from parsed JSON; ``where`` names its origin in messages."""
    document = _checked_schema(document, instance_module.SCHEMA, where)
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
        instance = Instance.model_validate(document)
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


def _longest(requests: object) -> int:
    """Requests in rows, or in the longest column."""
    columns = requests.values() if isinstance(requests, dict) else [requests]
    return max((len(column) for column in columns if isinstance(column, list)), default=0)


def _rows(columns: dict[str, Any], faults: list[Fault]) -> list[dict[str, Any]]:
    """Rows from columns; columns that are no list, unknown or of another length become faults."""
    usable = {}
    for key, values in columns.items():
        if key not in REQUEST_KEYS:
            faults.append(Fault(f"$.requests.{key}", f"unknown key{did_you_mean(key, REQUEST_KEYS)}"))
        elif not isinstance(values, list):
            faults.append(Fault(f"$.requests.{key}", f"found {shown(values)}; allowed: a list, one value a request"))
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
    key, bracket, deeper = tail.partition("[")
    return f"$.requests.{key}[{position}]{bracket}{deeper}"


def _raw_cross_faults(document: dict[str, Any]) -> list[Fault]:
    """Cross-field faults of a document that has other faults too."""
    requests = document.get("requests")
    rows = [row if isinstance(row, dict) else {} for row in requests] if isinstance(requests, list) else []
    clock: object = None
    with contextlib.suppress(ValidationError):
        server = document.get("server")
        raw = server.get("clock", {"kind": "unit"}) if isinstance(server, dict) else None
        clock = TypeAdapter(UnitClock | LinearClock).validate_python(raw)
    return cross_faults(
        [row.get("id") for row in rows],
        [row.get("arrival") for row in rows],
        [row.get("predicted_output_tokens") for row in rows],
        clock,
    )


def instance_schema() -> dict[str, Any]:
    """JSON Schema of an instance file (draft 2020-12): rows or columns."""
    schema = Instance.model_json_schema()
    row = schema["$defs"]["Request"]
    row["required"] = [key for key in row["required"] if key != "id"]
    columns = {
        "title": "Request columns",
        "description": "The same data as columns of equal length, one entry a request.",
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
    schema["properties"] = {"schema": {"const": instance_module.SCHEMA}, **schema["properties"]}
    schema["required"] = ["schema", *schema["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def save_instance(instance: Instance, path: str | os.PathLike[str]) -> None:
    """Write an instance as JSON; gzipped when the name ends in ``.gz``, to standard output for ``-``."""
    write_text(path, json.dumps(instance.document(), indent=None, ensure_ascii=False) + "\n")


# --- results -----------------------------------------------------------------------------------


def load_result(source: str | os.PathLike[str]) -> Result:
    """Read a result file.

    Raises
    ------
    InputError
        With all faults of the file.
    UsageError
        The file cannot be opened.
    """
    document = read_json(source)
    return parse_result(document, where_of(source))


def parse_result(document: object, where: str) -> Result:
    """Result from parsed JSON; the gap it states is recomputed, not read."""
    document = _checked_schema(document, result_module.SCHEMA, where)
    if isinstance(document.get("objective"), dict):
        document["objective"] = {k: v for k, v in document["objective"].items() if k != "gap"}
    try:
        return Result.model_validate(document)
    except ValidationError as error:
        raise InputError(where, faults_of(error)) from None


def save_result(result: Result, path: str | os.PathLike[str]) -> Path | None:
    """Write a result as JSON; see `write_text`."""
    return write_text(path, json.dumps(_plain(result.document()), ensure_ascii=False, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return whole(value)


# --- certificates ------------------------------------------------------------------------------


def load_certificate(source: str | os.PathLike[str]) -> Certificate:
    """Read a certificate file.

    Raises
    ------
    InputError
        With all faults of the file.
    UsageError
        The file cannot be opened.
    """
    return parse_certificate(read_json(source), where_of(source))


def parse_certificate(document: object, where: str) -> Certificate:
    """Certificate from parsed JSON; what it proves is another question (``modelkit.verify``)."""
    document = _checked_schema(document, certificate_module.SCHEMA, where)
    try:
        return Certificate.model_validate(document)
    except ValidationError as error:
        raise InputError(where, faults_of(error)) from None


def save_certificate(certificate: Certificate, path: str | os.PathLike[str]) -> Path | None:
    """Write a certificate as JSON; see `write_text`."""
    return write_text(path, json.dumps(certificate.document(), ensure_ascii=False, allow_nan=False) + "\n")


def load_claim(source: str | os.PathLike[str]) -> Result | Certificate:
    """Read a result or certificate file, whichever its schema says."""
    document = read_json(source)
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema == certificate_module.SCHEMA:
        return parse_certificate(document, where_of(source))
    if schema == instance_module.SCHEMA:
        allowed = f"{result_module.SCHEMA!r} or {certificate_module.SCHEMA!r}"
        raise InputError(where_of(source), [Fault("$.schema", f"found {schema!r}; allowed: {allowed}")])
    return parse_result(document, where_of(source))


# --- text and JSON -----------------------------------------------------------------------------


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
            refuse(f"the key {shown(twice)} stands twice in one object")
        return found

    def constant(word: str) -> NoReturn:
        refuse(f"found {word}; JSON numbers are finite")

    def number(word: str) -> float:
        value = float(word)
        if math.isinf(value):
            refuse(f"found {shown(word)}; allowed: numbers up to 1.8e308")
        return value

    for mark, most, noun in _MOST:
        if text.count(mark) > most:
            refuse(f"holds more than {most:,} {noun}, the most that is read; requests in columns need the fewest")
    try:
        with _without_collecting():
            document = json.loads(text, object_pairs_hook=pairs, parse_constant=constant, parse_float=number)
    except json.JSONDecodeError as error:
        refuse(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}")
    except RecursionError:
        refuse("nested too deeply")
    except ValueError:  # an integer of more digits than Python converts
        refuse("holds a number of thousands of digits")
    if _is_deeper(document, MOST_NESTING):
        refuse(f"nested too deeply; allowed: {MOST_NESTING} levels")
    return document


def _is_deeper(document: object, most: int) -> bool:
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
def _without_collecting() -> Iterator[None]:
    """Nothing that is read is garbage; looking for it takes half of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def write_text(path: str | os.PathLike[str], text: str) -> Path | None:
    """Write text so that a reader sees the old file or the whole new one.

    Parameters
    ----------
    path
        Where to; ``-`` is standard output; a name ending in ``.gz`` is compressed (same text,
        same bytes).

    Returns
    -------
    Path or None
        The file written, None for standard output.

    Raises
    ------
    UsageError
        The file cannot be written (no such folder, no permission, disk full).
    """
    data = text.encode("utf-8", "backslashreplace")  # half a character: in JSON that is its escape
    if os.fspath(path) == "-":
        try:
            _to_standard_output(data)
        except OSError as error:
            raise UsageError(f"cannot write standard output: {error.strerror or error}") from None
        return None
    target = Path(path)
    if target.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    temporary = None
    try:
        if target.exists() and not target.is_file():  # a pipe or device is written to, not replaced
            target.write_bytes(data)
            return target
        temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}")
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(target)
        temporary = None
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror or error}") from None
    except ValueError as error:  # a null byte in the name
        raise UsageError(f"cannot write {os.fspath(path)!r}: {error}") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError, ValueError):
                temporary.unlink(missing_ok=True)
    return target


def _to_standard_output(data: bytes) -> None:
    if sys.stdout is None:
        raise OSError(0, "it is closed")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
    else:  # what stands in for it in tests and notebooks takes text only
        sys.stdout.write(data.decode())
    sys.stdout.flush()


def _checked_schema(document: object, schema: str, where: str) -> dict[str, Any]:
    """The document without its schema key, once that names ``schema``."""
    if not isinstance(document, dict):
        raise InputError(where, [Fault("$", f"found {shown(document)}; allowed: a JSON object")])
    found = document.get("schema")
    if found != schema:
        words = f"found {shown(found)}" if "schema" in document else "is missing"
        raise InputError(where, [Fault("$.schema", f"{words}; allowed: {schema!r}")])
    return {key: value for key, value in document.items() if key != "schema"}


# --- pydantic's errors in our words ---------------------------------------------------------------

_KNOWN_KEYS = {
    (): tuple(Instance.model_fields),
    ("server",): tuple(Server.model_fields),
    ("server", "clock"): tuple(LinearClock.model_fields),
    ("requests",): REQUEST_KEYS,
}
_PLAIN_KEY = re.compile(r"[\w-]{1,100}")
_PREDICTION = "allowed: a whole number of tokens from 1 to 100000000, or [lower, upper] of two such"


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
            message = _PREDICTION
            value = detail["input"]
            if isinstance(detail["loc"][-1], int) and len(detail["loc"]) > 4:
                message = f"{_PREDICTION}; in the interval found {shown(value)}"
            else:
                message = f"found {shown(value)}; {_PREDICTION}"
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
        known = keys.get(tuple(p for p in location[:-1] if isinstance(p, str)), ())
        return f"unknown key{did_you_mean(str(location[-1]), known)}"
    text = detail["msg"]
    for before, after in (
        ("Input should be ", "allowed: "),
        ("Input tag ", "allowed: tag "),
        ("Tuple should have ", "allowed: "),
    ):
        text = text.replace(before, after)
    return f"found {shown(detail['input'])}; {text}"


def _json_path(location: list[Any]) -> str:
    return "$" + "".join(_step(part) for part in location)


def _step(part: Any) -> str:
    if isinstance(part, int) or not _PLAIN_KEY.fullmatch(part):
        return f"[{shown(part)}]"
    return f".{part}"
