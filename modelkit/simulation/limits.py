"""Limits of an engine on its batches."""

from __future__ import annotations

from dataclasses import dataclass, replace

from modelkit.clock import LinearClock
from modelkit.errors import UsageError
from modelkit.instance import Instance


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What the engine limits beside the server's own slots and memory.

    Parameters
    ----------
    max_batch
        Requests in progress at once.
    max_batch_tokens
        Tokens processed in an iteration: one for each request that decodes, and the prompts.
    chunked_prefill
        Split prompts, so that they fill iterations up to ``max_batch_tokens``; otherwise a prompt waits for an
        iteration that holds it whole.
    """

    max_batch: int | None = None
    max_batch_tokens: int | None = None
    chunked_prefill: bool = False

    def within_levels(self, instance: Instance) -> BatchLimits:
        """The same; where no prefill level holds some prompt whole, chunks that the largest level holds, if may be."""
        clock = instance.server.clock
        largest = clock.largest_prefill if isinstance(clock, LinearClock) and clock.mixed else None
        if largest is None or not (self.chunked_prefill or instance.arrays.prompt.max() > largest):
            return self
        tokens = min(largest, self.max_batch_tokens or largest)
        return replace(self, max_batch_tokens=tokens, chunked_prefill=True)

    def check(self, instance: Instance) -> None:
        """Raise unless an instance can be served under these limits.

        Raises
        ------
        UsageError
            A limit is below 1, a prompt is longer than any iteration, or the clock does not split prompts.
        """
        for name in ("max_batch", "max_batch_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')}: found {value}; allowed: 1 or more")
        clock = instance.server.clock
        if self.chunked_prefill and self.max_batch_tokens is None:
            raise UsageError("--chunked-prefill fills iterations up to --max-batch-tokens; give that number")
        if self.chunked_prefill and not (isinstance(clock, LinearClock) and clock.mixed):
            raise UsageError("chunked prefill needs the linear clock with mixed = true")
        if self.max_batch_tokens is not None and not self.chunked_prefill:
            longest = max(instance.requests, key=lambda r: r.prompt_tokens)
            if longest.prompt_tokens > self.max_batch_tokens:
                raise UsageError(
                    f"request {longest.id!r} has {longest.prompt_tokens} prompt tokens, but an iteration takes"
                    f" {self.max_batch_tokens}\n  raise --max-batch-tokens, or split prompts with --chunked-prefill"
                )
