"""JSON in and out: instances, results and certificates, with every fault of a file reported at once."""

from __future__ import annotations

from modelkit.io.instances import MOST_REQUESTS, checked, instance_schema, load, parse_instance, save_instance
from modelkit.io.json_reading import MOST_NESTING, read_json
from modelkit.io.results import (
    load_certificate,
    load_claim,
    load_result,
    parse_certificate,
    parse_result,
    save_certificate,
    save_result,
)
from modelkit.io.validation import faults_of, trim
from modelkit.io.writing import check_writable, write_bytes, write_text

__all__ = [
    "MOST_NESTING",
    "MOST_REQUESTS",
    "check_writable",
    "checked",
    "faults_of",
    "instance_schema",
    "load",
    "load_certificate",
    "load_claim",
    "load_result",
    "parse_certificate",
    "parse_instance",
    "parse_result",
    "read_json",
    "save_certificate",
    "save_instance",
    "save_result",
    "trim",
    "write_bytes",
    "write_text",
]
