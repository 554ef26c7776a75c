"""The requests of an instance: what each says of itself, their columns, and faults that show when they are together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from modelkit.arguments import Data
from modelkit.clock import LinearClock, Tokens, UnitClock
from modelkit.errors import MOST_FAULTS, Fault, shown

#: Latest arrival, in rounds or seconds.
MAX_TIME = 1_000_000_000

Name = Annotated[str, Field(min_length=1, max_length=200)]


class Prefix(Data):
    """The beginning of a prompt that requests of a group have in common.

    Within a group the prefixes are nested: of two requests the shorter prefix is the beginning of the longer one.
    """

    group: Name = Field(description="Requests of one group share.")
    tokens: Tokens = Field(description="p_i: tokens of the prompt that are of the group's prefix [token].")


_Limit = Annotated[float, Field(strict=True, gt=0, le=1e12, allow_inf_nan=False)]


class ServiceLimits(Data):
    """What a request has to keep to count as served well; a limit that is absent is none."""

    ttft_ms: _Limit | None = Field(default=None, description="Most time from arrival to first token [ms].")
    tpot_ms: _Limit | None = Field(
        default=None,
        description="Most time per output token after the first, (completion - first token) / (o - 1) [ms].",
    )
    latency_ms: _Limit | None = Field(default=None, description="Most time from arrival to completion [ms].")

    def __bool__(self) -> bool:
        return any(limit is not None for limit in (self.ttft_ms, self.tpot_ms, self.latency_ms))

    def document(self) -> dict[str, Any]:
        """The limits that there are, as JSON-ready data."""
        limits = {name: getattr(self, name) for name in ServiceLimits.model_fields}
        return {name: int(ms) if ms.is_integer() else ms for name, ms in limits.items() if ms is not None}


class ServiceLevels(ServiceLimits):
    """Limits for all requests; those of a class stand in their place for its requests.

    ``class``, a keyword of Python, is ``classes`` there.
    """

    model_config = ConfigDict(populate_by_name=True)

    classes: dict[Name, ServiceLimits] = Field(
        default={}, alias="class", description="Limits by class of requests, in place of those for all."
    )

    def __bool__(self) -> bool:
        return super().__bool__() or any(self.classes.values())

    def limits_of(self, request: Request) -> ServiceLimits:
        """The limits of one request."""
        return self.classes.get(request.request_class or "", self)

    def document(self) -> dict[str, Any]:
        """The levels as JSON-ready data."""
        classes = {name: limits.document() for name, limits in self.classes.items()}
        return super().document() | ({"class": classes} if classes else {})


class Request(Data):
    """One request: when it is known, how long its prompt is and how many tokens it will produce.

    ``class``, a keyword of Python, is ``request_class`` there.
    """

    model_config = ConfigDict(populate_by_name=True)

    id: Name
    arrival: Annotated[float, Field(strict=True, ge=0, le=MAX_TIME, allow_inf_nan=False)] = Field(
        default=0, description="a_i: known from this moment; round under the unit clock, second otherwise."
    )
    prompt_tokens: Tokens = Field(description="s_i: length of the prompt [token].")
    output_tokens: Tokens = Field(description="o_i: tokens the request will produce [token].")
    predicted_output_tokens: Tokens | tuple[Tokens, Tokens] | None = Field(
        default=None,
        description="What a policy may see of o_i: a number or an interval [lower, upper]; default o_i.",
    )
    request_class: Name | None = Field(
        default=None, alias="class", description="Which kind of request it is; service levels may be stated by class."
    )
    session: Name | None = Field(default=None, description="The conversation that it is a turn of.")
    priority: Annotated[float, Field(strict=True, ge=-1e12, le=1e12, allow_inf_nan=False)] | None = Field(
        default=None, description="How urgent it is; what the number means is for those to say who use it."
    )
    extra: dict[str, Any] | None = Field(
        default=None, description="Parameters of formulation variants for this request, by name."
    )
    prefix: Prefix | None = Field(
        default=None,
        description="The beginning of the prompt that others of its group have too; read where the server has a"
        " prefix cache.",
    )
    cached_prompt_tokens: Tokens | None = Field(
        default=None,
        description="Tokens at the beginning of the prompt that it finds in the server's prefix cache whenever it"
        " starts, as where a log says so: they cost no prefill [token].",
    )

    @property
    def prediction(self) -> tuple[int, int]:
        """Predicted output length as an interval (lower, upper) [token]."""
        predicted = self.predicted_output_tokens
        if isinstance(predicted, tuple):
            return predicted
        return (predicted or self.output_tokens,) * 2


#: Keys of a request, in the order of the file.
REQUEST_KEYS = tuple(field.alias or name for name, field in Request.model_fields.items())
#: Those of them that say what a request is about, by the attribute that holds them.
ATTRIBUTES = {"request_class": "class", "session": "session", "priority": "priority"}


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

    def __repr__(self) -> str:
        n = len(self.prompt)
        return f"RequestArrays({n:,} request{'' if n == 1 else 's'})"

    @property
    def peak(self) -> npt.NDArray[np.int64]:
        """Tokens held in the last round, s_i + o_i."""
        return self.prompt + self.output


@dataclass(frozen=True)
class SharedPrefixes:
    """What requests share through a prefix cache, one entry for each request.

    Parameters
    ----------
    group
        Number of its group, -1 for none.
    tokens
        Tokens that it may share, 0 for none: those of its prefix, less one where that is the whole prompt, for the
        last token of a prompt is always computed.
    keep
        Whether tokens stay in the cache when nobody uses them.
    found
        Tokens of its prompt that it finds in the cache in any case, never the last; empty where nobody finds any.
    """

    group: tuple[int, ...]
    tokens: tuple[int, ...]
    keep: bool
    found: tuple[int, ...] = ()

    @classmethod
    def of(cls, requests: Sequence[Request], keep: bool) -> SharedPrefixes | None:
        """What requests may share; None where that is nothing."""
        numbers: dict[str, int] = {}
        group, tokens = [], []
        for r in requests:
            shared = 0 if r.prefix is None else min(r.prefix.tokens, r.prompt_tokens - 1)
            group.append(numbers.setdefault(r.prefix.group, len(numbers)) if r.prefix is not None and shared else -1)
            tokens.append(shared)
        found = tuple(min(r.cached_prompt_tokens or 0, r.prompt_tokens - 1) for r in requests)
        return cls(tuple(group), tuple(tokens), keep, found if any(found) else ()) if numbers or any(found) else None


def cross_faults(
    ids: Sequence[object], arrivals: Sequence[object], predictions: Sequence[object], clock: object
) -> list[Fault]:
    """Faults that show only when requests are seen together or beside the clock.

    Takes raw values too, and passes over what is not of the right type (that is another fault).
    """
    return list(itertools.islice(_cross_faults(ids, arrivals, predictions, clock), MOST_FAULTS))


def slo_faults(slo: object, clock: object) -> list[Fault]:
    """Service levels that state nothing, or stand beside a clock without ms; takes raw values too."""
    faults = []
    if slo is not None and isinstance(clock, UnitClock):
        faults.append(Fault("$.server.slo", "its limits are in ms; allowed: under the linear clock only"))
    if isinstance(slo, ServiceLevels) and not slo:
        allowed = ", ".join(ServiceLimits.model_fields)
        faults.append(Fault("$.server.slo", f"states no limit; allowed: {allowed}, or class"))
    return faults


def prefix_faults(prompts: Sequence[object], prefixes: Sequence[object], cached: Sequence[object]) -> list[Fault]:
    """Prefixes and cached parts of prompts that are longer than these; takes raw values too."""
    found = [p.tokens if isinstance(p, Prefix) else p.get("tokens") if isinstance(p, dict) else None for p in prefixes]
    return [
        Fault(f"$.requests[{i}].{key}", f"found {shown(tokens)}; allowed: at most the prompt_tokens, {s}")
        for key, column in (("prefix.tokens", found), ("cached_prompt_tokens", cached))
        for i, (s, tokens) in enumerate(zip(prompts, column, strict=True))
        if isinstance(tokens, int) and isinstance(s, int) and tokens > s
    ][:MOST_FAULTS]


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
