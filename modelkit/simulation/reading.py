"""How prompts are processed in continuous batching: whole in their request's first round, or in chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod

from modelkit.policies import Policy, Running, Seen
from modelkit.simulation.clocks import LinearTime, UnitTime
from modelkit.simulation.limits import BatchLimits


class PromptReading(ABC):
    """The part of a simulation that processes prompts; ``ContinuousSimulation`` says what its fields are."""

    time: LinearTime | UnitTime
    limits: BatchLimits
    policy: Policy
    seen: list[Seen]
    running: dict[int, Running]
    unread: dict[int, int]
    offset: int

    @property
    @abstractmethod
    def held(self) -> int:
        """Tokens held after the rounds run so far by those who run."""

    @abstractmethod
    def start(self, i: int) -> int:
        """Rounds run before the one that gives the first token."""

    @abstractmethod
    def expect(self, i: int) -> None:
        """Its prompt is processed in the round ahead: from now on its end is known."""

    @abstractmethod
    def settle(self) -> None:
        """What is in progress has changed."""

    def chunk_room(self) -> int:
        """Prompt tokens that a chunk takes beside the decoding."""
        return max(0, (self.limits.max_batch_tokens or 0) - len(self.running) + len(self.unread))

    def alike(self) -> int:
        """Rounds ahead in which no prompt is read to its end: the first of them fills every chunk."""
        if not self.limits.chunked_prefill:
            return 0
        room = self.chunk_room()
        return (next(iter(self.unread.values())) - 1) // room if room else 1 << 62

    def read_on(self, rounds: int) -> None:
        """Rounds in which the first prompt fills every chunk, and no prompt is read to its end."""
        first = next(iter(self.unread))
        self.unread[first] -= rounds * self.chunk_room()
        for i in self.unread:
            self.postpone(i, rounds)

    def postpone(self, i: int, rounds: int) -> None:
        """Its first token comes this many rounds later."""
        self.running[i] = self.running[i]._replace(start=self.start(i) + rounds)
        self.offset -= rounds
        self.policy.postponed(self.seen[i], self.start(i))

    def read_prompts(self) -> None:
        """One round that processes prompts: all, or as many tokens as a chunk leaves beside the decoding."""
        assert isinstance(self.time, LinearTime)
        decoding = len(self.running) - len(self.unread)
        kv_tokens = self.held + decoding - sum(self.seen[i].prompt for i in self.unread)
        chunk = self.limits.max_batch_tokens if self.limits.chunked_prefill else None
        tokens = 0
        for i, left in list(self.unread.items()):
            part = left if chunk is None else min(left, max(0, chunk - decoding - tokens))
            tokens += part
            if part == left:
                del self.unread[i]
                self.expect(i)
            else:
                self.unread[i] = left - part
                self.postpone(i, 1)
        if self.time.exclusive:
            self.settle()
            self.time.run(1)
        else:
            self.time.iterate(tokens, decoding, kv_tokens)
