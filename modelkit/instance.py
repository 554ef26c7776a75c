"""An instance: the requests to serve and the server that serves them.

The classes are frozen and check themselves; ``modelkit.io`` reads and writes them as JSON.
Symbols in the field descriptions are those of the formulations' mathematics.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

from modelkit.arguments import Data, column_of, columns_of, rows_of, with_ids
from modelkit.clock import LATER_PARTS
from modelkit.clock import LinearClock as LinearClock
from modelkit.clock import UnitClock as UnitClock
from modelkit.errors import InfeasibleError, InputError
from modelkit.requests import ATTRIBUTES, REQUEST_KEYS, ServiceLevels
from modelkit.requests import MAX_TIME as MAX_TIME
from modelkit.requests import Prefix as Prefix
from modelkit.requests import Request as Request
from modelkit.requests import RequestArrays as RequestArrays
from modelkit.requests import SharedPrefixes as SharedPrefixes
from modelkit.requests import cross_faults as cross_faults
from modelkit.requests import prefix_faults as prefix_faults
from modelkit.requests import slo_faults as slo_faults
from modelkit.text import count, html_facts

SCHEMA = "modelkit/instance/1"

#: Replicas of a server.
MAX_REPLICAS = 1000
#: Longest name of an instance [character].
MAX_NAME = 500

#: Keys of ``extra`` that importers write: they describe requests and ask nothing of a formulation.
TRACE_ATTRIBUTES = ("failed_lines", "no_output_lines", "oversized_lines", "prefix_block_tokens", "prefix_hashes")


class PrefixCache(Data):
    """Tokens of prefixes are held once for all requests of a group in progress, and read once."""

    keep: Annotated[bool, Field(strict=True)] = Field(
        default=False,
        description="Whether tokens stay when no request in progress uses them, until memory is needed: then those go"
        " first whose group was longest without a request that came or went.",
    )


class Pause(Data):
    """That requests may be paused, and where their tokens are kept meanwhile."""

    keep: Literal["held", "swapped"] = Field(
        description="held: in the KV cache, and the request in its slot. swapped: elsewhere; memory and slot are free,"
        " and the clock says what copying costs."
    )


class Server(Data):
    """What serves the requests: memory, slots and the clock."""

    kv_capacity_tokens: Annotated[int, Field(strict=True, ge=1, le=10**12)] | None = Field(
        default=None, description="M: KV-cache budget [token]; absent means no limit."
    )
    slots: Annotated[int, Field(strict=True, ge=1, le=10**6)] | None = Field(
        default=None, description="J: requests that can be in progress at once; absent means no limit."
    )
    clock: Annotated[UnitClock | LinearClock, Field(discriminator="kind")] = Field(default=UnitClock())
    replicas: Annotated[int, Field(strict=True, ge=1, le=MAX_REPLICAS)] = Field(
        default=1, description="R: servers alike, each with memory, slots and a clock of its own."
    )
    slo: ServiceLevels | None = Field(
        default=None, description="Service levels: limits that requests are to keep, for all or by class; absent: none."
    )
    prefix_cache: PrefixCache | None = Field(
        default=None, description="Requests of a group share the tokens of their prefix; absent means that none does."
    )
    pause: Pause | None = Field(
        default=None, description="Whether requests may be paused and resumed; absent means never."
    )

    @model_validator(mode="after")
    def _together(self) -> Server:
        if self.pause is not None and self.prefix_cache is not None:
            words = "pause beside a prefix_cache is not supported; leave one out"
            raise PydanticCustomError("together", "{words}", {"words": words})
        if self.prefix_cache is not None and (other := self._without_cache()) is not None:
            words = f"a prefix_cache beside {other} is not supported; leave one out"
            raise PydanticCustomError("together", "{words}", {"words": words})
        return self

    def _without_cache(self) -> str | None:
        """What is on no server with a prefix cache."""
        exclusive = isinstance(self.clock, LinearClock) and not self.clock.mixed
        if exclusive and isinstance(self.clock, LinearClock) and self.clock.prefill_levels:
            return "prefill_levels with mixed = false"
        return None


class Instance(Data):
    """Requests and the server that serves them.

    Raises
    ------
    InputError
        Two requests share an id, an interval is upside down, an arrival is not a whole round
        under the unit clock, or a clock states both prefill cost models.
    """

    name: str = Field(default="", max_length=MAX_NAME)
    description: str = ""
    source: str = Field(default="", description="Where the data came from; for generated ones the family.")
    server: Server
    requests: tuple[Request, ...] = Field(min_length=1)
    extra: dict[str, Any] = Field(default={}, description="Parameters of formulation variants; attributes of traces.")

    @model_validator(mode="after")
    def _consistent(self) -> Instance:
        faults = cross_faults(
            [r.id for r in self.requests],
            [r.arrival for r in self.requests],
            [r.predicted_output_tokens for r in self.requests],
            self.server.clock,
        )
        faults += slo_faults(self.server.slo, self.server.clock)
        faults += prefix_faults(
            [r.prompt_tokens for r in self.requests],
            [r.prefix for r in self.requests],
            [r.cached_prompt_tokens for r in self.requests],
        )
        if faults:
            raise InputError(f"instance {self.name!r}" if self.name else "instance", faults)
        return self

    @classmethod
    def prepared(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields of a call, with requests in rows.

        They may be columns by name, ``{"prompt_tokens": array, "output_tokens": array}``; their ids are r1, r2, ...
        unless a column ``id`` says others.
        """
        columns = fields.get("requests")
        if isinstance(columns, dict):
            return {**fields, "requests": rows_of(columns)}
        return fields if not isinstance(columns, list) else {**fields, "requests": with_ids(columns)}

    @classmethod
    def from_arrays(
        cls, prompt_tokens: Any, output_tokens: Any, arrival: Any = 0, *, server: Any, **more: Any
    ) -> Instance:
        """The instance of these columns; ``more`` are other columns of requests, or fields such as ``name``."""
        columns = {"arrival": arrival} if np.ndim(arrival) else {}
        own = {*REQUEST_KEYS, *ATTRIBUTES} - {"extra"}
        columns |= {name: more.pop(name) for name in own & set(more)}
        columns |= {"prompt_tokens": prompt_tokens, "output_tokens": output_tokens}
        return cls(server=server, requests={name: column_of(values) for name, values in columns.items()}, **more)

    @classmethod
    def from_frame(cls, frame: Any, *, server: Any, **fields: Any) -> Instance:
        """The instance of those columns of a pandas frame that are called as keys of requests are."""
        columns = columns_of(frame, REQUEST_KEYS, ("prompt_tokens", "output_tokens"))
        for key in columns.keys() & ATTRIBUTES.values():  # not a number is what frames have for None
            columns[key] = [None if value != value else value for value in columns[key]]
        return cls(server=server, requests=columns, **fields)

    def __repr__(self) -> str:
        server = self.server
        replicas = server.replicas if server.replicas > 1 else None
        limits = [
            f"{name} {value:,}"
            for name, value in (("M", server.kv_capacity_tokens), ("slots", server.slots), ("replicas", replicas))
            if value is not None
        ]
        n = len(self.requests)
        words = [repr(self.name), f"{n:,} request{'' if n == 1 else 's'}", *limits, f"{server.clock.kind} clock"]
        return f"Instance({', '.join(words)})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """For notebooks: the server and the range of each length."""
        arrays, when = self.arrays, "round" if self.is_unit else "s"
        known = (
            ("prompt tokens", arrays.prompt),
            ("output tokens", arrays.output),
            (f"arrivals [{when}]", arrays.arrival),
        )
        ranges = [(name, f"{v.min():,g} to {v.max():,g}, mean {v.mean():,.1f}") for name, v in known if len(v)]
        ranges += [("", self.description)] if self.description else []
        return html_facts(repr(self)[9:-1].replace("'", ""), ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Instance) and (self is other or self.sha256 == other.sha256)

    def __hash__(self) -> int:
        return hash(self.sha256)

    def replace(self, **changes: Any) -> Instance:
        """A copy with other field values, checked again and without what was computed from the old ones."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return Instance(**{**fields, **changes})

    def model_copy(self, *, update: Any = None, deep: bool = False) -> Instance:
        """See `replace`; pydantic's own copies computed properties too."""
        return self.replace(**(update or {}))

    @property
    def is_unit(self) -> bool:
        """Whether the unit clock runs."""
        return isinstance(self.server.clock, UnitClock)

    @property
    def unit(self) -> str:
        """The unit of durations, ``rounds`` or ``ms``, in which metrics of time end too."""
        return "rounds" if self.is_unit else "ms"

    @property
    def parameters(self) -> dict[str, Any]:
        """What ``extra`` says to formulation variants: all of it but the attributes that traces keep there.

        What requests say in their own is an object by request id.
        """
        said: dict[str, Any] = {}
        for request in self.requests:
            for key, value in (request.extra or {}).items():
                said.setdefault(key, {})[request.id] = value
        return {**said, **{key: value for key, value in self.extra.items() if key not in TRACE_ATTRIBUTES}}

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each request id in ``requests``."""
        return {request.id: i for i, request in enumerate(self.requests)}

    @cached_property
    def arrays(self) -> RequestArrays:
        """The requests as columns."""

        def column(values: Iterable[float], dtype: type = np.int64) -> npt.NDArray[Any]:
            array: npt.NDArray[Any] = np.fromiter(values, dtype=dtype, count=len(self.requests))
            array.flags.writeable = False
            return array

        predictions = [r.prediction for r in self.requests]
        return RequestArrays(
            arrival=column((r.arrival for r in self.requests), np.int64 if self.is_unit else np.float64),
            prompt=column(r.prompt_tokens for r in self.requests),
            output=column(r.output_tokens for r in self.requests),
            predicted_lower=column(lower for lower, _ in predictions),
            predicted_upper=column(upper for _, upper in predictions),
        )

    @cached_property
    def shared_prefixes(self) -> SharedPrefixes | None:
        """What requests share through the server's prefix cache; None where that is nothing."""
        cache = self.server.prefix_cache
        return None if cache is None else SharedPrefixes.of(self.requests, cache.keep)

    def document(self) -> dict[str, Any]:
        """The instance as JSON-ready data in its canonical form: columns, defaults written out."""
        clock = self.server.clock.model_dump(exclude_none=True)
        for part in LATER_PARTS:
            if not clock.get(part):
                clock.pop(part, None)  # an instance without it is the same document as before it existed
        server: dict[str, Any] = {"clock": clock}
        for limit in ("kv_capacity_tokens", "slots"):
            if (value := getattr(self.server, limit)) is not None:
                server[limit] = value
        if self.server.replicas > 1:
            server["replicas"] = self.server.replicas
        if self.server.slo is not None:
            server["slo"] = self.server.slo.document()
        if self.server.prefix_cache is not None:
            server["prefix_cache"] = self.server.prefix_cache.model_dump()
        if self.server.pause is not None:
            server["pause"] = self.server.pause.model_dump()
        requests: dict[str, Any] = {
            "id": [r.id for r in self.requests],
            "arrival": [whole(r.arrival) for r in self.requests],
            "prompt_tokens": [r.prompt_tokens for r in self.requests],
            "output_tokens": [r.output_tokens for r in self.requests],
        }
        if any(r.predicted_output_tokens is not None for r in self.requests):
            requests["predicted_output_tokens"] = [_collapse(r.prediction) for r in self.requests]
        for name, key in {**ATTRIBUTES, "extra": "extra", "cached_prompt_tokens": "cached_prompt_tokens"}.items():
            column = [whole(getattr(r, name)) for r in self.requests]
            if column.count(None) < len(column):
                requests[key] = column
        if any(r.prefix is not None for r in self.requests):
            requests["prefix"] = [None if r.prefix is None else r.prefix.model_dump() for r in self.requests]
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "name": self.name,
            "description": self.description,
            "source": self.source,
            "server": server,
            "requests": requests,
        }
        if self.extra:
            document["extra"] = self.extra
        return document

    @cached_property
    def sha256(self) -> str:
        """Hash of the canonical JSON, so that formatting, rows or columns and defaults do not matter."""
        document = self.document()
        document["requests"].setdefault("predicted_output_tokens", document["requests"]["output_tokens"])
        document["server"]["clock"] = {key: whole(value) for key, value in document["server"]["clock"].items()}
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def check_fits(self) -> None:
        """Raise unless every request fits the server alone: its peak the memory, its prompt a prefill.

        The KV-cache problem is feasible exactly when s_i + o_i <= M for all i, the slot problem when the largest
        prefill level holds each prompt. With ``mixed`` a prompt may be processed in parts, which levels hold.

        Raises
        ------
        InfeasibleError
            Some request can never run; the message names the requests at fault.
        """
        capacity, clock = self.server.kv_capacity_tokens, self.server.clock
        if capacity is not None:
            _check_all_fit(
                f"the server holds {count(capacity, 'token')}",
                [
                    f"request {r.id!r} needs {r.prompt_tokens} + {r.output_tokens} ="
                    f" {r.prompt_tokens + r.output_tokens} tokens"
                    for r in self.requests
                    if r.prompt_tokens + r.output_tokens > capacity
                ],
            )
        if isinstance(clock, LinearClock) and not clock.mixed and (largest := clock.largest_prefill) is not None:
            _check_all_fit(
                f"the largest prefill level holds {count(largest, 'token')}",
                [
                    f"the prompt of request {r.id!r} has {count(r.prompt_tokens, 'token')}"
                    for r in self.requests
                    if r.prompt_tokens > largest
                ],
            )


class InstanceStamp(Data):
    """Which instance a file is about."""

    name: str
    sha256: str
    requests: Annotated[int, Field(strict=True)]
    family: str | None = None
    _instance: Instance | None = PrivateAttr(default=None)

    @property
    def instance(self) -> Instance | None:
        """The instance itself, where the stamp was made in this process."""
        return self._instance

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InstanceStamp) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __getstate__(self) -> dict[Any, Any]:
        return {**super().__getstate__(), "__pydantic_private__": {"_instance": None}}

    @classmethod
    def of(cls, instance: Instance) -> InstanceStamp:
        """Stamp of ``instance``; the family is the first word of its source when generated."""
        kind, _, rest = instance.source.partition(" ")
        family = rest.split(" ")[0] if kind == "family" and rest else None
        stamp = cls(name=instance.name, sha256=instance.sha256, requests=len(instance.requests), family=family)
        stamp._instance = instance
        return stamp


def _check_all_fit(limit: str, at_fault: list[str]) -> None:
    if not at_fault:
        return
    lines = at_fault[:5]
    if len(at_fault) > 5:
        lines.append(f"... and {len(at_fault) - 5} more requests")
    raise InfeasibleError(f"no schedule exists: {limit}, but\n  " + "\n  ".join(lines))


def whole(value: Any) -> Any:
    """A float without a fraction as an integer; anything else unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _collapse(interval: tuple[int, int]) -> int | tuple[int, int]:
    return interval[0] if interval[0] == interval[1] else interval
