"""Results and certificates in and out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modelkit import certificate as certificate_module
from modelkit import instance as instance_module
from modelkit import result as result_module
from modelkit.certificate import Certificate
from modelkit.errors import Fault, InputError, shown
from modelkit.instance import whole
from modelkit.io.files import where_of
from modelkit.io.json_reading import checked_schema, read_json, what_it_is
from modelkit.io.validation import faults_of, trim
from modelkit.io.writing import write_text
from modelkit.result import Result, agree


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
    """Result from parsed JSON; the gap it states is recomputed, and one that differs is kept for ``verify`` to name."""
    document = checked_schema(document, result_module.SCHEMA, where)
    gap = None
    if isinstance(document.get("objective"), dict):
        gap = document["objective"].get("gap")
        document["objective"] = {k: v for k, v in document["objective"].items() if k != "gap"}
    try:
        result = Result.model_validate(trim(document, Result))
    except ValidationError as error:
        raise InputError(where, faults_of(error)) from None
    if gap is not None:
        _keep_gap(result, gap, where)
    return result


def _keep_gap(result: Result, gap: object, where: str) -> None:
    if isinstance(gap, bool) or not isinstance(gap, int | float):
        raise InputError(where, [Fault("$.objective.gap", f"found {shown(gap)}; allowed: a number or null")])
    if not agree(gap, result.objective.gap):
        result.objective._gap_said = shown(gap)


def save_result(result: Result, path: str | os.PathLike[str]) -> Path | None:
    """Write a result as JSON; see `write_text`."""
    return write_text(path, json.dumps(_plain(result.document()), ensure_ascii=False, allow_nan=False) + "\n")


#: What JSON holds as it is.
_AS_IS = frozenset({int, str, bool, type(None)})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: item if type(item) in _AS_IS else _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if _AS_IS.issuperset(map(type, value)):  # long lists of prices and starts, soon
            return value
        return [_plain(item) for item in value]
    return whole(value)


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
    """Certificate from parsed JSON; what it proves is another question (``modelkit.verify.certificates``)."""
    document = checked_schema(document, certificate_module.SCHEMA, where)
    try:
        return Certificate.model_validate(trim(document, Certificate))
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
        raise InputError(
            where_of(source), [Fault("$.schema", f"found {schema!r}; allowed: {allowed}{what_it_is(schema)}")]
        )
    return parse_result(document, where_of(source))
