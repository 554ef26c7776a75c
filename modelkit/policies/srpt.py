"""Shortest remaining first, with pauses: whoever has least left runs, and makes the others wait with their tokens kept.

Shahout, Malach, Liu, Jiang, Yu, Mitzenmacher, Don't Stop Me Now: Embedding Based Scheduling for LLMs, arXiv 2410.01035
(TRAIL): shortest predicted remaining output first, where a request may be paused only until it has made a share C of
the output that was predicted for it at first, for later it holds much memory and is soon done. On one machine that
serves one job at a time shortest remaining first is optimal for known lengths (Schrage 1968).

Different from TRAIL: predictions do not get better as tokens come out, but for outgrown ones; those who run are chosen
by memory, not by a number of places; with ``by=volume`` the tokens that are still to be held count, summed over the
rounds that are left, since memory is what they share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from modelkit.errors import UsageError
from modelkit.policies import Policy, Room, Seen, View, policy


@policy(
    "srpt",
    summary="shortest predicted remaining output first, pausing who has more left",
    reference="Shahout et al., arXiv 2410.01035 (TRAIL), and Schrage (1968)",
    limit="share of its first predicted output up to which a request may be paused, from 0 to 1",
    by="what is left of a request: tokens to make, or tokens held in all rounds to come|length|volume",
)
class ShortestRemaining(Policy):
    """Who has least left runs.

    Where paused requests hold their tokens a pause frees no memory: who has least left runs if all of it will fit.
    """

    pauses = "anywhere"

    def __init__(self, *, limit: float = 1.0, by: str = "length") -> None:
        if not 0 <= limit <= 1:
            raise UsageError(f"option limit: found {limit}; allowed: from 0 to 1")
        self._limit, self._volume = limit, by == "volume"
        self._waiting: dict[int, Seen] = {}
        self._first: dict[int, int] = {}  # predicted output at first
        self._chosen: list[int] = []  # who is to run in the round ahead

    def arrived(self, request: Seen) -> None:
        self._waiting[request.number] = request
        self._first.setdefault(request.number, request.predicted_upper)

    def started(self, request: Seen, now: float) -> None:
        del self._waiting[request.number]

    def pause(self, view: View) -> Iterator[int]:
        self._chosen = self._choose(view)
        chosen = set(self._chosen)
        return (number for number in list(view.running) if number not in chosen)

    def evict(self, view: View) -> Iterator[int]:
        self._chosen = []
        yield from super().evict(view)

    def resume(self, view: View) -> Iterator[int]:
        self._choose_anew(view)
        return (number for number in self._chosen if number in view.paused)

    def admit(self, view: View) -> Iterator[int]:
        self._choose_anew(view)
        room = Room(view)  # after those who go on
        return (n for n in self._chosen if n in self._waiting and room.takes(self._waiting[n]))

    def patience(self, view: View) -> int | None:
        return 1 if view.prompt_room is not None or (view.keeps == "held" and view.paused) else None

    def _choose_anew(self, view: View) -> None:
        """After evictions, where nobody is left to run."""
        if not self._chosen and not view.running:
            self._chosen = self._choose(view)

    def _choose(self, view: View) -> list[int]:
        """Who runs next: in order of what is left, each that the round ahead still takes."""
        there = {number: _There(request, view.round - int(start)) for number, (request, start) in view.running.items()}
        there |= {number: _There(*entry) for number, entry in view.paused.items()}
        there |= {number: _There(request, 0, new=True) for number, request in self._waiting.items()}

        def rank(number: int) -> tuple[bool, int, int]:
            made = there[number].made
            late = number in view.running and self._limit < 1 and made >= self._limit * self._first[number]
            return not late, self._left(there[number].request, made), number

        order = {number: there[number] for number in sorted(there, key=rank)}
        return _swapped(view, order) if view.keeps == "swapped" else _held(view, order)

    def _left(self, request: Seen, made: int) -> int:
        """Tokens to make, or to hold in all rounds to come."""
        tokens = max(1, request.predicted_upper - max(0, made))
        return (request.prompt + max(0, made)) * tokens + tokens * (tokens + 1) // 2 if self._volume else tokens


class _There(NamedTuple):
    """A request that has arrived and is not done, the tokens that it has made, and whether it is to be admitted."""

    request: Seen
    made: int
    new: bool = False


class _Places:
    """Slots and prompt tokens of the round ahead."""

    def __init__(self, view: View, slots: int | None) -> None:
        self._slots, self._room, self._chunked = slots, view.prompt_room, view.chunked

    def takes(self, entry: _There, *, slot: bool) -> bool:
        """Whether a request finds its place; if so, that is gone."""
        room = self._room if entry.new else None
        if (slot and self._slots == 0) or (room is not None and room < (1 if self._chunked else entry.request.prompt)):
            return False
        if room is not None:
            self._room = room - entry.request.prompt
        if slot and self._slots is not None:
            self._slots -= 1
        return True


def _swapped(view: View, order: Mapping[int, _There]) -> list[int]:
    """The memory of every request can be free again, so whoever fits into the round ahead runs."""
    free = math.inf if view.capacity is None else view.capacity
    places = _Places(view, None if view.free_slots is None else view.free_slots + len(view.running))
    chosen = []
    for number, entry in order.items():
        takes = entry.request.prompt + max(0, entry.made) + 1
        if takes <= free and places.takes(entry, slot=True):
            free -= takes
            chosen.append(number)
    return chosen


def _held(view: View, order: Mapping[int, _There]) -> list[int]:
    """Memory comes back with completions alone: who finds room for all tokens to come beside those before it runs."""
    free = math.inf if view.capacity is None else view.capacity - view.held
    places = _Places(view, view.free_slots)
    chosen: list[int] = []
    for number, entry in order.items():
        takes = max(1, entry.request.predicted_upper - max(0, entry.made)) + (entry.request.prompt if entry.new else 0)
        first = not chosen and not entry.new  # somebody must go on, whatever is predicted
        if (takes <= free or first) and places.takes(entry, slot=entry.new):
            free -= takes
            chosen.append(number)
    return chosen
