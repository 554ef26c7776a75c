"""Pauses in a replay.

A paused request makes no tokens and loses none. Where the server keeps tokens ``held``, they stay in the KV cache and
the request in its slot. Where it keeps them ``swapped``, they are copied elsewhere: the request gives back its memory
and its slot at the moment of the pause, and takes both again at the moment at which it is resumed. A request whose
prompt is not yet processed holds, gives back and takes again the memory of all of it.

The copies of one segment come after its decisions and hold up all requests, as an exclusive prefill does: tokens out
times ``swap_out_per_token_ms`` plus tokens in times ``swap_in_per_token_ms``, of tokens that were processed. Under the
unit clock they take no time. The decoding of others does not read what paused requests hold.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelkit.judge.ongoing import Ongoing
    from modelkit.judge.replay import Replay


class Pauses:
    """Who is paused in a replay, and what that takes.

    Attributes
    ----------
    held, slots
        Tokens in the KV cache and slots that paused requests take.
    """

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.allowed = replay.instance.server.pause
        self.swapped = self.allowed is not None and self.allowed.keep == "swapped"
        self.held = self.slots = 0
        self.copied_out = self.copied_in = 0  # in the segment that begins

    def pause(self, name: str) -> None:
        """Pause a request that runs."""
        replay = self.replay
        i = replay.find(name)
        if i is None:
            return
        residency = replay.current.get(i)
        if residency is None or residency.end is not None or residency.paused_at is not None:
            why = "not in progress" if residency is None or residency.end is not None else "paused already"
            replay.violate("pause_not_running", 1, name, f"request {name!r} is paused but {why}")
            return
        if self.allowed is None:
            replay.violate("pause_not_allowed", 1, name, f"request {name!r} is paused; the server has no 'pause'")
        tokens = replay.cached(residency)
        residency.made, residency.paused_at = replay.round - residency.starts_at, replay.now
        replay.stop(residency)
        replay.totals.pauses += 1
        if self.swapped:
            self.copied_out += tokens
            replay.totals.swapped += tokens
        else:
            self.held += self.memory(residency)
            self.slots += 1

    def resume(self, name: str, slot: int | None) -> None:
        """Let a paused request run again; one that was swapped out may take another slot."""
        replay = self.replay
        i = replay.find(name)
        if i is None:
            return
        residency = replay.current.get(i)
        if residency is None or residency.end is not None or residency.paused_at is None:
            replay.violate("resume_not_paused", 1, name, f"request {name!r} is resumed but not paused")
            return
        if self.swapped:
            self.copied_in += replay.cached(residency)
        slot = residency.slot if slot is None else slot
        if slot is not None and (self.swapped or slot != residency.slot):
            replay.take_slot(residency, slot, name)
        self.end(residency)
        residency.slot = slot
        residency.starts_at = replay.round - residency.made
        residency.ends_at = residency.starts_at + replay.output[i]
        replay.active += 1
        replay.base += replay.prompt[i] - residency.starts_at
        if residency.first_token is None:
            replay.fresh[i] = residency
        else:
            heapq.heappush(replay.ending, (residency.ends_at, residency.position))

    def end(self, residency: Ongoing) -> None:
        """The pause of a request is over, whatever comes of it."""
        assert residency.paused_at is not None
        if not self.swapped:
            self.held -= self.memory(residency)
            self.slots -= 1
        residency.pauses.append((residency.paused_at, self.replay.now))
        self.replay.totals.paused += self.replay.now - residency.paused_at
        residency.paused_at = None

    def memory(self, residency: Ongoing) -> int:
        """Tokens that a paused request takes of the KV cache when it is not swapped out."""
        return int(self.replay.prompt[residency.request]) + residency.made

    def holds(self, residency: Ongoing, slot: int) -> bool:
        """Whether a request is in this slot: in progress, not in another by now and not swapped out."""
        there = residency.end is None and residency.slot == slot
        return there and not (self.swapped and residency.paused_at is not None)

    def copying_ms(self) -> float:
        """How long the copies of the segment last that begins."""
        out, back, self.copied_out, self.copied_in = self.copied_out, self.copied_in, 0, 0
        clock = self.replay.linear
        return 0.0 if clock is None else clock.swap_out_per_token_ms * out + clock.swap_in_per_token_ms * back

    def close(self) -> None:
        """Pauses last to the end of the schedule at most."""
        for residency in self.replay.current.values():
            if residency.end is None and residency.paused_at is not None:
                residency.pauses.append((residency.paused_at, self.replay.now))
                self.replay.totals.paused += self.replay.now - residency.paused_at
