"""A schedule: an ordered list of segments, and nothing else.

Which requests are active, the memory held, all durations and completions follow from replaying the segments
against the instance (``modelkit.judge``). A schedule may be wrong; only the judge says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from modelkit.arguments import plain
from modelkit.errors import Fault, InputError, shown
from modelkit.instance import Instance, whole

#: Bound on times and round counts, within which doubles count exactly.
MAX_ROUNDS = 10**15


class Admission(NamedTuple):
    """A request that starts, and the slot it takes where slots are numbered (from 0)."""

    request: str
    slot: int | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """At moment ``at``: evict, pause, resume, then admit, then run ``rounds`` decode rounds.

    Parameters
    ----------
    at
        Under the unit clock the start k: the admitted are active from round k + 1 on. Under the
        linear clock seconds. If the segment before has not ended yet, this one waits for it.
    admit
        Requests that start.
    evict
        Requests in progress that lose their tokens.
    rounds
        Decode rounds to run, D >= 0.
    replica
        Which of the servers alike does this, from 1; each has a sequence of segments of its own.
    pause
        Requests that stop making tokens and keep those they have.
    resume
        Paused requests that go on, each as in ``admit``: one that was swapped out may take another slot.
    chunks
        Pairs of a request and prompt tokens: each round processes so many of its prompt, and of prompts that are not
        named none; an empty tuple: of none. None: prompts are processed whole, or as ``Schedule.tokens_per_iteration``
        says.

    Raises
    ------
    InputError
        ``at`` or ``rounds`` is negative, not finite or beyond 10^15, or ``rounds`` or ``replica`` is not whole.
    """

    at: float
    admit: tuple[Admission, ...] = ()
    evict: tuple[str, ...] = ()
    rounds: int = 0
    replica: int = 1
    pause: tuple[str, ...] = ()
    resume: tuple[Admission, ...] = ()
    chunks: tuple[tuple[str, int], ...] | None = None

    def __post_init__(self) -> None:
        faults: list[Fault] = []
        if type(self.rounds) is not int or type(self.at) not in (int, float) or type(self.replica) is not int:
            for field in ("at", "rounds", "replica"):  # numpy's numbers, or none at all
                object.__setattr__(self, field, plain(getattr(self, field)))
        for field in ("admit", "resume"):
            found = getattr(self, field)
            if type(found) is not tuple or not all(type(a) is Admission for a in found):
                object.__setattr__(self, field, _admissions(found, field, faults))
        for field in ("evict", "pause"):
            if type(found := getattr(self, field)) is not tuple:
                object.__setattr__(self, field, tuple(_ids(found, field, faults)))
        if self.chunks is not None:
            object.__setattr__(self, "chunks", _chunks(self.chunks, faults))
        if isinstance(self.at, bool) or not isinstance(self.at, int | float) or not 0 <= self.at <= MAX_ROUNDS:
            faults.append(Fault("at", f"found {shown(self.at)}; allowed: 0 to 10^15"))
        if not isinstance(self.rounds, int) or not 0 <= self.rounds <= MAX_ROUNDS:
            faults.append(Fault("rounds", f"found {shown(self.rounds)}; allowed: a whole number from 0 to 10^15"))
        if isinstance(self.replica, bool) or not isinstance(self.replica, int) or abs(self.replica) > MAX_ROUNDS:
            faults.append(Fault("replica", f"found {shown(self.replica)}; allowed: a whole number, the first is 1"))
        if faults:
            raise InputError("segment", faults)


def _chunks(found: object, faults: list[Fault]) -> tuple[tuple[str, int], ...]:
    """Pairs of a request and tokens, from pairs or a dictionary."""
    pairs = (
        list(found.items()) if isinstance(found, dict) else list(found) if isinstance(found, list | tuple) else [found]
    )
    chunks = []
    for entry in pairs:
        name, tokens = entry if isinstance(entry, list | tuple) and len(entry) == 2 else (entry, None)
        tokens = plain(tokens)
        if isinstance(name, str) and type(tokens) is int and 1 <= tokens <= MAX_ROUNDS:
            chunks.append((name, tokens))
        else:
            faults.append(Fault("chunks", f"found {shown(entry)}; allowed: [a request's id, prompt tokens from 1]"))
    return tuple(chunks)


def _ids(found: object, field: str, faults: list[Fault]) -> list[str]:
    """Requests' ids from one or a list of them."""
    ids: list[Any] = list(found) if isinstance(found, list | tuple) else [found]
    faults += [
        Fault(field, f"found {shown(entry)}; allowed: a request's id") for entry in ids if not isinstance(entry, str)
    ]
    return ids


def _admissions(found: object, field: str, faults: list[Fault]) -> tuple[Admission, ...]:
    """Admissions from request ids, pairs of an id and a slot, or a list of such."""
    admissions = []
    for entry in (found,) if isinstance(found, str) else found if isinstance(found, list | tuple) else ():
        request, slot = entry if isinstance(entry, list | tuple) and len(entry) == 2 else (entry, None)
        if isinstance(request, str):
            admissions.append(Admission(request, plain(slot)))
        else:
            faults.append(Fault(field, f"found {shown(entry)}; allowed: a request's id, or [id, slot]"))
    if not isinstance(found, str | list | tuple):
        faults.append(Fault(field, f"found {shown(found)}; allowed: a list of requests' ids"))
    return tuple(admissions)


@dataclass(frozen=True, slots=True, repr=False)
class Schedule:
    """Segments in time order, on each replica.

    Parameters
    ----------
    tokens_per_iteration
        Chunked prefill, under the linear clock with mixed = true: an iteration processes at most this many
        tokens, one for each request that decodes and, with what is left, prompt tokens in the order of
        admission. A prompt that needs several iterations delays its request's first token. None: every
        prompt is processed whole in its request's first round.
    """

    segments: tuple[Segment, ...] = ()
    tokens_per_iteration: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.segments, list):
            object.__setattr__(self, "segments", tuple(self.segments))
        if not isinstance(self.segments, tuple) or not all(isinstance(s, Segment) for s in self.segments):
            fault = Fault("segments", f"found {shown(self.segments)}; allowed: a list of segments")
            raise InputError("schedule", [fault])
        object.__setattr__(self, "tokens_per_iteration", plain(self.tokens_per_iteration))
        limit = self.tokens_per_iteration
        if limit is not None and not (isinstance(limit, int) and 1 <= limit <= MAX_ROUNDS):
            fault = Fault("tokens_per_iteration", f"found {shown(limit)}; allowed: a whole number from 1 to 10^15")
            raise InputError("schedule", [fault])

    def __repr__(self) -> str:
        n = len(self.segments)
        admitted = sum(len(segment.admit) for segment in self.segments)
        return f"Schedule({n:,} segment{'' if n == 1 else 's'}, {admitted:,} admitted)"

    def document(self) -> dict[str, object]:
        """The schedule as JSON-ready data."""
        chunked = {} if self.tokens_per_iteration is None else {"tokens_per_iteration": self.tokens_per_iteration}
        return {**chunked, "segments": [_document(segment) for segment in self.segments]}


def _document(segment: Segment) -> dict[str, object]:
    """A segment as JSON-ready data; without the keys of what it does not do, but those that always stand there."""
    document: dict[str, object] = {
        "at": whole(segment.at),
        "admit": [_written(a) for a in segment.admit],
        "evict": list(segment.evict),
        "rounds": segment.rounds,
    }
    if segment.replica != 1:
        document["replica"] = segment.replica
    if segment.pause:
        document["pause"] = list(segment.pause)
    if segment.resume:
        document["resume"] = [_written(a) for a in segment.resume]
    if segment.chunks is not None:
        document["chunks"] = [list(chunk) for chunk in segment.chunks]
    return document


def _written(admission: Admission) -> object:
    return admission.request if admission.slot is None else list(admission)


def schedule_from_starts(instance: Instance, starts: Mapping[str, int]) -> Schedule:
    """Schedule under the unit clock in which request i starts at ``starts[i]`` and runs to its end.

    Parameters
    ----------
    starts
        Start k of each request [round]; requests left out are not admitted. Ids that the
        instance does not know are kept for the judge to refuse.

    Notes
    -----
    O(n log n). Within one start, requests keep the order of the instance.
    """
    order = {**dict.fromkeys(starts, len(instance.requests)), **instance.index}
    admitted: dict[int, list[str]] = {}
    for request in sorted(starts, key=lambda r: (starts[r], order[r])):
        admitted.setdefault(starts[request], []).append(request)
    segments = []
    times = list(admitted)
    busy_until = 0
    for at, following in zip(times, [*times[1:], MAX_ROUNDS], strict=False):
        ids = admitted[at]
        outputs = (instance.requests[instance.index[r]].output_tokens for r in ids if r in instance.index)
        busy_until = max(busy_until, at + max(outputs, default=0))
        segments.append(Segment(at, tuple(Admission(r) for r in ids), rounds=max(0, min(busy_until, following) - at)))
    return Schedule(tuple(segments))


def schedule_from_rounds(rounds: Mapping[str, Iterable[int]]) -> Schedule:
    """Schedule under the unit clock in which each request makes its tokens in these rounds, paused in between.

    Parameters
    ----------
    rounds
        Rounds of each request, from 1 on, in any order; one that starts at k makes its first token in round k + 1.

    Notes
    -----
    O(n log n) for n rounds in all. Within one start, requests keep the order of ``rounds``.
    """
    does: dict[int, dict[str, list[Any]]] = {}
    busy: dict[int, int] = {}  # until when those run who go on at a moment
    for request, made in rounds.items():
        ordered = sorted(made)
        starts = [t for t, before in zip(ordered, [None, *ordered], strict=False) if before != t - 1]
        ends = [t for t, after in zip(ordered, [*ordered[1:], None], strict=True) if after != t + 1]
        for k, (first, last) in enumerate(zip(starts, ends, strict=True)):
            does.setdefault(first - 1, {}).setdefault("resume" if k else "admit", []).append(Admission(request))
            busy[first - 1] = max(busy.get(first - 1, 0), last)
            if last != ends[-1]:
                does.setdefault(last, {}).setdefault("pause", []).append(request)
    segments, until = [], 0
    times = sorted(does)
    for at, following in zip(times, [*times[1:], MAX_ROUNDS], strict=True):
        until = max(until, busy.get(at, 0))
        fields: dict[str, Any] = {name: tuple(who) for name, who in does[at].items()}
        segments.append(Segment(at, rounds=max(0, min(until, following) - at), **fields))
    return Schedule(tuple(segments))


def rounds_of(instance: Instance, schedule: Schedule) -> dict[str, list[int]]:
    """Rounds in which each request makes its tokens, in a valid schedule under the unit clock."""
    made: dict[str, list[int]] = {}
    running: set[str] = set()
    for segment in schedule.segments:
        running.difference_update(segment.evict, segment.pause)
        made |= {admission.request: [] for admission in segment.admit}
        running.update(admission.request for admission in (*segment.admit, *segment.resume))
        at = int(segment.at)
        for request in list(running):
            left = instance.requests[instance.index[request]].output_tokens - len(made[request])
            made[request] += range(at + 1, at + min(left, segment.rounds) + 1)
            if left <= segment.rounds:
                running.discard(request)
    return made
