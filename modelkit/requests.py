"""The requests of an instance: what each says of itself, their columns, and faults that show when they are together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from modelkit.arguments import Data
from modelkit.clock import LinearClock, Tokens, UnitClock
from modelkit.errors import MOST_FAULTS, Fault, shown

#: Latest arrival, in rounds or seconds.
MAX_TIME = 1_000_000_000


class Request(Data):
    """One request: when it is known, how long its prompt is and how many tokens it will produce."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    arrival: Annotated[float, Field(strict=True, ge=0, le=MAX_TIME, allow_inf_nan=False)] = Field(
        default=0, description="a_i: known from this moment; round under the unit clock, second otherwise."
    )
    prompt_tokens: Tokens = Field(description="s_i: length of the prompt [token].")
    output_tokens: Tokens = Field(description="o_i: tokens the request will produce [token].")
    predicted_output_tokens: Tokens | tuple[Tokens, Tokens] | None = Field(
        default=None,
        description="What a policy may see of o_i: a number or an interval [lower, upper]; default o_i.",
    )

    @property
    def prediction(self) -> tuple[int, int]:
        """Predicted output length as an interval (lower, upper) [token]."""
        predicted = self.predicted_output_tokens
        if isinstance(predicted, tuple):
            return predicted
        return (predicted or self.output_tokens,) * 2


@dataclass(frozen=True)
class RequestArrays:
    """The requests as read-only columns of shape [n], for fast code.

    ``arrival`` is int64 rounds under the unit clock and float64 seconds otherwise; the others
    are int64 tokens.
    """

    arrival: npt.NDArray[Any]
    prompt: npt.NDArray[np.int64]
    output: npt.NDArray[np.int64]
    predicted_lower: npt.NDArray[np.int64]
    predicted_upper: npt.NDArray[np.int64]

    @property
    def peak(self) -> npt.NDArray[np.int64]:
        """Tokens held in the last round, s_i + o_i."""
        return self.prompt + self.output


def cross_faults(
    ids: Sequence[object], arrivals: Sequence[object], predictions: Sequence[object], clock: object
) -> list[Fault]:
    """Faults that show only when requests are seen together or beside the clock.

    Takes raw values too, and passes over what is not of the right type (that is another fault).
    """
    return list(itertools.islice(_cross_faults(ids, arrivals, predictions, clock), MOST_FAULTS))


def _cross_faults(
    ids: Sequence[object], arrivals: Sequence[object], predictions: Sequence[object], clock: object
) -> Iterator[Fault]:
    first: dict[object, int] = {}
    for i, name in enumerate(ids):
        if isinstance(name, str) and first.setdefault(name, i) != i:
            yield Fault(
                f"$.requests[{i}].id",
                f"{shown(name)} is the id of request {first[name]} too; ids must be unique",
            )
    if isinstance(clock, UnitClock):
        for i, a in enumerate(arrivals):
            if isinstance(a, float) and not a.is_integer():
                yield Fault(f"$.requests[{i}].arrival", f"found {a!r}; under the unit clock arrivals are whole rounds")
    for i, p in enumerate(predictions):
        if isinstance(p, list | tuple) and len(p) == 2 and all(isinstance(end, int) for end in p) and p[0] > p[1]:
            yield Fault(
                f"$.requests[{i}].predicted_output_tokens",
                f"found {shown(list(p))}; an interval is [lower, upper] with lower <= upper",
            )
    if (
        isinstance(clock, LinearClock)
        and clock.prefill_levels
        and (clock.prefill_base_ms or clock.prefill_per_token_ms)
    ):
        yield Fault(
            "$.server.clock.prefill_levels",
            "conflicts with prefill_base_ms or prefill_per_token_ms; state one prefill cost model",
        )
