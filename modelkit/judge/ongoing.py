"""A residency in the making."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Ongoing:
    """A residency while it is replayed.

    ``ends_at`` is the round counter at which it will be done, ``unread`` the prompt tokens not yet processed, ``found``
    those that were in the prefix cache; both ends move on while a prompt is read in chunks. ``made`` is how many tokens
    it had when it was paused last.
    """

    request: int
    slot: int | None
    begin: float
    starts_at: int
    ends_at: int
    unread: int
    found: int
    position: int
    first_token: float | None = None
    end: float | None = None
    completed: bool = False
    paused_at: float | None = None
    made: int = 0
    pauses: list[tuple[float, float]] = field(default_factory=list)
