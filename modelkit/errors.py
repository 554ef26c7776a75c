"""Every error that modelkit raises on purpose, and how it speaks.

::

    ModelkitError            exit code 1
    ├── InputError           2   a file or value is wrong; carries all faults at once
    │   └── ArgumentError    2   a value that a program handed over; a ValueError too
    ├── UsageError           2   a name, option or combination that does not exist
    │   └── UnwritableError      a file that cannot be written
    ├── FormulationError     2   a formulation file that is broken or does not fit
    │   └── FormulationFailedError  4   one of its functions crashed, hung, ended Python or raised an error
    │       └── FormulationLateError     the model was not built within the time limit
    ├── InfeasibleError      3   proven: no schedule exists
    ├── SolverError          4   a solver is missing or failed
    │   └── ModelRefusedError    a solver does not take models of this kind
    └── PolicyError          1   a policy decided what the server cannot do
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

#: The most faults that are printed; the rest are counted.
SHOWN_FAULTS = 20
#: A reader may stop looking when it has found this number.
MOST_FAULTS = 1000


class ModelkitError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class UsageError(ModelkitError):
    """A name, option or combination of options that does not exist."""

    exit_code = 2


class UnwritableError(UsageError):
    """A file that cannot be written."""


class FormulationError(ModelkitError):
    """A formulation file that cannot be loaded or does not fit its own model."""

    exit_code = 2


class FormulationFailedError(FormulationError):
    """A function of a formulation did not return: it crashed, hung, ended the interpreter or raised an error."""

    exit_code = 4


class FormulationLateError(FormulationFailedError):
    """A model was not built within the time that there was."""


class InfeasibleError(ModelkitError):
    """It is proven that no schedule exists; the message says why."""

    exit_code = 3


class SolverError(ModelkitError):
    """A solver is missing, failed, or refused what it was given."""

    exit_code = 4


class ModelRefusedError(SolverError):
    """A solver does not take models of this kind; another one may."""


class PolicyError(ModelkitError):
    """A policy decided what the server cannot do."""


class InterruptedWith(KeyboardInterrupt):
    """Ctrl-C in a search, with the best it had: whoever can use that takes it, for all others it is Ctrl-C."""

    def __init__(self, best: Any) -> None:
        super().__init__()
        self.best = best


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with an input: where it is, what was found, what is allowed.

    ``path`` is a JSON path such as ``$.requests[3].prompt_tokens``.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class NoFormulationError(UsageError):
    """No formulation takes an instance, which states no parameter of one either."""


class InputError(ModelkitError):
    """A file or value that is not what it should be, with every fault found.

    Parameters
    ----------
    where
        The file, or a word for what was read.
    faults
        All faults, in the order of the file; at least the first `MOST_FAULTS`.
    """

    exit_code = 2

    def __init__(self, where: str, faults: Sequence[Fault]) -> None:
        self.where = where
        self.faults = tuple(faults)
        noun = "fault" if len(self.faults) == 1 else "faults"
        more = " or more" if len(self.faults) >= MOST_FAULTS else ""
        lines = [f"{where}: {len(self.faults)} {noun}{more}"]
        lines += [f"  {fault}" for fault in self.faults[:SHOWN_FAULTS]]
        if len(self.faults) > SHOWN_FAULTS:
            lines.append(f"  ... and {len(self.faults) - SHOWN_FAULTS} more")
        super().__init__("\n".join(lines))


class ArgumentError(InputError, ValueError):
    """An `InputError` for values that a Python program handed over; a `ValueError` too."""


class _Short(reprlib.Repr):
    """``repr`` of the beginning of a value, so that a large one costs no more than a small one."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxlist = self.maxtuple = self.maxdict = 30
        self.maxstring = self.maxother = self.maxlong = 1000


_SHORT = _Short()


def shown(value: object, width: int = 60) -> str:
    """``repr`` of a found value, on one line and not longer than ``width`` characters."""
    try:
        text = _SHORT.repr(value) if isinstance(value, str | list | tuple | dict) else repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; a bottomless list
        text = f"a {type(value).__name__}"
    return text if len(text) <= width else text[: width - 3] + "..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6) if len(name) <= 100 else []
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Error for a name that is not in a registry, with the nearest match and the whole list."""
    names = sorted(known)
    return UsageError(f"unknown {kind} {name!r}{did_you_mean(name, names)}\n  known: {', '.join(names) or 'none'}")


def not_enough_memory() -> str:
    """What to say of a MemoryError: the limit of this process, where it has one, and what to do."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return "not enough memory; take a smaller instance or a machine with more"
    return f"not enough memory: the limit is {limit // 2**20:,} MiB; raise it, or take a smaller instance"
