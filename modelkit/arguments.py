"""What callers in Python hand over, checked before anything starts; all faults are reported together."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

from modelkit.errors import UsageError, shown

#: Name of an argument: what was found and what is allowed, or None when it is right.
Check = Callable[[Any], str | None]

_MOST_SEED = 2**63 - 1
_MOST_THREADS = 1024


def seconds(value: Any) -> str | None:
    """Fault of a time limit."""
    if value is None or (_is_number(value) and value >= 0):
        return None
    return "a number of seconds from 0, or None for no limit"


def share(value: Any) -> str | None:
    """Fault of a relative gap."""
    return None if _is_number(value) and 0 <= value <= 1 else "a number from 0 to 1"


def threads(value: Any) -> str | None:
    """Fault of a number of threads."""
    if value is None or (_is_whole(value) and 1 <= value <= _MOST_THREADS):
        return None
    return f"a whole number from 1 to {_MOST_THREADS}, or None to leave it to the solver"


def seed(value: Any) -> str | None:
    """Fault of a seed."""
    return None if _is_whole(value) and 0 <= value <= _MOST_SEED else f"a whole number from 0 to {_MOST_SEED}"


def at_least_one(value: Any) -> str | None:
    """Fault of an optional number of things."""
    return None if value is None or (_is_whole(value) and value >= 1) else "a whole number from 1, or None"


def yes_or_no(value: Any) -> str | None:
    """Fault of a switch."""
    return None if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool") else "True or False"


def text(value: Any) -> str | None:
    """Fault of a name."""
    return None if isinstance(value, str) else "text"


def optional_text(value: Any) -> str | None:
    """Fault of a name that may be missing."""
    return None if value is None or isinstance(value, str) else "text, or None"


def named_values(value: Any) -> str | None:
    """Fault of options or parameters by name."""
    if value is None or (isinstance(value, Mapping) and all(isinstance(key, str) for key in value)):
        return None
    return "a dictionary with names as its keys, or None"


def listener(value: Any) -> str | None:
    """Fault of a callback."""
    return None if value is None or callable(value) else "a function, or None"


def check(function: str, checks: Mapping[str, tuple[Check, Any]]) -> None:
    """Check arguments of a function by name: (check, value).

    Raises
    ------
    UsageError
        Some are not allowed; all of them are named, with what was found.
    """
    faults = [
        f"{name} is {shown(value)}; allowed: {allowed}"
        for name, (allows, value) in checks.items()
        if (allowed := allows(value)) is not None
    ]
    if faults:
        raise UsageError(f"{function}: " + "\n  ".join(faults))


def plain_seconds(value: Any) -> float | None:
    """A checked time limit as a plain number; None for none, which infinity says too."""
    return None if value is None or math.isinf(value) else float(value)


def plain_whole(value: Any) -> int | None:
    """A checked whole number as a plain one."""
    return None if value is None else int(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and not math.isnan(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
