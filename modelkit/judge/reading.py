"""How prompts are processed in a replay: whole, in chunks that fill iterations, or in the chunks that a segment says.

A prompt that takes several rounds delays its request's first token to the round that processes the last of it; its
memory is reserved from the admission on. Under the unit clock a round lasts 1 whatever chunks are processed in it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelkit.judge.ongoing import Ongoing
    from modelkit.judge.replay import Replay


class Reading:
    """The prompts of a replay.

    Attributes
    ----------
    chunk
        Tokens that an iteration processes at most, decoding and prompts; None: no limit.
    said
        Prompt tokens that each round of the segment processes of a request, by position; None: it does not say.
    """

    def __init__(self, replay: Replay, tokens_per_iteration: int | None) -> None:
        self.replay = replay
        self.chunk = tokens_per_iteration if replay.linear is not None and replay.linear.mixed else None
        self.said: dict[int, int] | None = None

    def begin(self, chunks: Collection[tuple[str, int]] | None) -> None:
        """A segment begins that processes these chunks in each of its rounds, and nothing else; None: all prompts."""
        replay, self.said = self.replay, None
        said = {}
        for name, tokens in chunks or ():
            i = replay.find(name)
            if i is not None and (replay.exclusive or i not in replay.fresh):
                why = "this clock does not split prompts" if replay.exclusive else "none of it is left to process"
                replay.violate("chunk_of_nothing", 1, name, f"a chunk of the prompt of request {name!r}, but {why}")
            elif i is not None:
                said[i] = tokens
        if said or (chunks is not None and not chunks and not replay.exclusive):
            self.said = said

    def rounds_alike(self, most: int) -> int:
        """Rounds, at most ``most``, in which prompts are processed alike, and none to its end; 1 where one is."""
        replay = self.replay
        if self.said is not None:
            parts = [(r.unread, self.said.get(i, 0)) for i, r in replay.fresh.items()]
            return max(1, min([most, *((unread - 1) // part for unread, part in parts if part)]))
        if self.chunk is None:
            return 1
        room = self.chunk - (replay.active - len(replay.fresh))  # the first prompt fills every chunk
        unread = next(iter(replay.fresh.values())).unread
        return max(1, min(most, (unread - 1) // room if room > 0 else most))

    def read(self, span: int) -> tuple[list[Ongoing], int]:
        """Process prompts in the rounds ahead: whose first token comes in them, and the prompt tokens of a round.

        All of them, as many tokens as a chunk leaves beside the decoding, or what the segment says; for the rest these
        rounds are lost.
        """
        replay = self.replay
        room = math.inf if self.chunk is None else max(0, self.chunk - (replay.active - len(replay.fresh)))
        read, tokens = [], 0
        for i, residency in replay.fresh.items():
            most = room - tokens if self.said is None else self.said.get(i, 0)
            part = int(min(residency.unread, most))
            tokens += part
            residency.unread -= part * span
            if residency.unread:
                residency.starts_at += span
                residency.ends_at += span
                replay.base -= span
            else:
                read.append(residency)
                heapq.heappush(replay.ending, (residency.ends_at, residency.position))
        return read, tokens
