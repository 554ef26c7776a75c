"""Continuous batching in which the policy may pause requests, too; ``modelkit.judge.pauses`` says what that is."""

from __future__ import annotations

import heapq
from types import MappingProxyType
from typing import Any

import numpy as np

from modelkit.errors import PolicyError
from modelkit.instance import Instance
from modelkit.policies import Paused, Policy, Running, View
from modelkit.schedule import Admission
from modelkit.simulation.clocks import LinearTime
from modelkit.simulation.continuous import ContinuousSimulation


class PausingSimulation(ContinuousSimulation):
    """One run of a policy on a server that keeps the tokens of paused requests.

    Whenever something has happened the policy pauses, evicts if the next round would overflow, resumes, then admits.
    """

    def __init__(self, instance: Instance, *arguments: Any) -> None:
        assert instance.server.pause is not None
        self.keep = instance.server.pause.keep
        super().__init__(instance, *arguments)

    def begin(self, policy: Policy, rng: np.random.Generator) -> None:
        """Nothing has happened yet."""
        super().begin(policy, rng)
        self.paused: dict[int, Paused] = {}  # in the order of their pauses
        self.view_paused = MappingProxyType(self.paused)
        self.unread_of: dict[int, int] = {}  # prompt tokens that paused requests have left to read
        self.parked = 0  # tokens of paused requests in the cache
        self.out = self.back = 0  # tokens to copy

    @property
    def present(self) -> int:
        return super().present + len(self.paused)

    @property
    def occupied(self) -> int:
        """Tokens in use, those of paused requests in the cache among them."""
        return super().occupied + self.parked

    @property
    def places(self) -> int:
        return len(self.running) + (len(self.paused) if self.keep == "held" else 0)

    def view(self) -> View:
        """What the policy may see."""
        return super().view()._replace(paused=self.view_paused, keeps=self.keep)

    def decide(self) -> dict[str, tuple[Any, ...]]:
        """What the policy does now; who is paused and evicted at once is evicted."""
        paused = self.pause()
        evicted = self.make_room()
        kept = tuple(i for i in paused if i in self.paused)
        self.out = sum(self.cached(i) for i in kept) if self.keep == "swapped" else 0
        resumed = self.resume(kept)
        admitted = self.admit()
        return {
            "evict": tuple(evicted),
            "pause": tuple(self.ids[i] for i in kept),
            "resume": tuple(resumed),
            "admit": tuple(admitted),
        }

    def pause(self) -> list[int]:
        """Pause whom the policy names."""
        chosen: list[int] = []
        for i in list(self.policy.pause(self.view())):
            if i not in self.running:
                raise PolicyError(f"the policy pauses request {self.name(i)}, which does not run")
            made = self.now - self.start(i)
            self.offset -= self.seen[i].prompt - int(self.running.pop(i).start)
            self.paused[i] = Paused(self.seen[i], made)
            if i in self.unread:
                self.unread_of[i] = self.unread.pop(i)
            if self.keep == "held":
                self.parked += self.seen[i].prompt + made
            elif self.slots:
                heapq.heappush(self.free, self.slot.pop(i))
            self.policy.paused(self.seen[i], self.now)
            chosen.append(i)
        return chosen

    def resume(self, just_paused: tuple[int, ...]) -> list[Admission]:
        """Let go on whom the policy names."""
        resumed: list[Admission] = []
        if not self.paused:
            return resumed
        for i in list(self.policy.resume(self.view())):
            if i not in self.paused or i in just_paused:
                raise PolicyError(f"the policy resumes request {self.name(i)}, which is not paused")
            if self.keep == "swapped" and self.max_batch is not None and self.places >= self.max_batch:
                raise PolicyError(f"the policy resumes request {self.name(i)}, but no slot is free")
            if self.keep == "swapped":
                self.back += self.cached(i)
                if self.slots:
                    self.slot[i] = heapq.heappop(self.free)
            self.wake(i)
            if i in self.unread_of:
                self.unread[i] = self.unread_of.pop(i)
            else:
                self.expect(i)
            self.policy.resumed(self.seen[i], self.start(i))
            resumed.append(Admission(self.ids[i], self.slot.get(i) if self.keep == "swapped" else None))
        if resumed and self.overflows():
            raise PolicyError(f"in round {self.now + 1} the policy resumes more tokens than the KV cache holds")
        return resumed

    def evict(self, i: int) -> None:
        """Let a request wait again, paused or not."""
        if i in self.paused:
            self.wake(i)
            self.unread_of.pop(i, None)
        super().evict(i)

    def wake(self, i: int) -> None:
        """A paused request is no more."""
        prompt, made = self.seen[i].prompt, self.paused.pop(i).made
        if self.keep == "held":
            self.parked -= prompt + made
        self.running[i] = Running(self.seen[i], self.now - made)
        self.offset += prompt - (self.now - made)

    def cached(self, i: int) -> int:
        """Tokens of a paused request that were processed."""
        unread = 0 if self.time.exclusive else self.unread_of.get(i, 0)
        return self.seen[i].prompt - unread + self.paused[i].made

    def copy(self) -> None:
        """Let the time go by in which tokens of paused requests are copied."""
        out, back, self.back = self.out, self.back, 0
        if isinstance(self.time, LinearTime):
            clock = self.time.linear_clock
            self.time.copy(clock.swap_out_per_token_ms * out + clock.swap_in_per_token_ms * back)
