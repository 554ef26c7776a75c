"""Whether a model can be built: refused before it is begun, where it is too large for the memory or the time."""

from __future__ import annotations

from modelkit.problems.kv.local_search import TooLargeError, TooLateError
from modelkit.runtime.deadline import current

#: Non-zeros that a model may have; at some 400 bytes each more would not fit a workstation's memory.
MOST_NONZEROS = 20_000_000
#: Seconds that a non-zero takes to be built and handed over, as measured on kv-hindsight and kv-hindsight-flow.
SECONDS_PER_NONZERO = 3e-6
#: Share of the time that is left which building and handing over may take.
BUILD_SHARE = 0.5


def check_nonzeros(count: int, formulation: str) -> None:
    """Raise at once where a model with about this many non-zeros cannot be built.

    Raises
    ------
    TooLargeError
        It would not fit the memory.
    TooLateError
        It could not be built and handed over within half of the time that is left.
    """
    if count > MOST_NONZEROS:
        raise TooLargeError(
            f"the instance is too large for formulation {formulation!r}: its model would have about {count:,}"
            f" non-zeros; at most {MOST_NONZEROS:,}"
        )
    seconds, left = SECONDS_PER_NONZERO * count, current().left
    if seconds > BUILD_SHARE * left:
        raise TooLateError(
            f"building the model of formulation {formulation!r} with about {count:,} non-zeros takes about"
            f" {seconds:.1f} s, and {left:.1f} s are left of the time limit"
        )
