"""Clocks: how long a round or an iteration lasts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from modelkit.arguments import Data

#: Largest number of tokens in one prompt or output; keeps every sum over a million requests exact.
MAX_TOKENS = 100_000_000

Tokens = Annotated[int, Field(strict=True, ge=1, le=MAX_TOKENS)]
Milliseconds = Annotated[float, Field(strict=True, ge=0, le=1e9, allow_inf_nan=False)]


def add_time(now: float, lost: float, duration: float) -> tuple[float, float]:
    """A later time, and what is lost when it is rounded to a double, given what was lost before (Kahan).

    Late in time a double is coarse, and many short iterations would lose much.
    """
    due = duration + lost
    end = now + due
    return end, due - (end - now)


#: Parts of the cost model which an instance leaves out of its canonical form where they are 0.
LATER_PARTS = ("base_ms", "swap_out_per_token_ms", "swap_in_per_token_ms")


class UnitClock(Data):
    """Every round lasts 1, and a prompt is processed in its request's first round; copies of tokens take no time."""

    kind: Literal["unit"] = "unit"


class LinearClock(Data):
    """The duration of an iteration is a function of its tokens.

    Its prefill part over a set S of new requests lasts
    ``prefill_base_ms + prefill_per_token_ms * sum(s_i, i in S)``, or what the cheapest of the
    ``prefill_levels`` that holds the tokens says; its decode part with B active requests
    holding KV tokens lasts ``decode_base_ms + decode_per_request_ms * B + decode_per_kv_token_ms * KV``.
    ``base_ms`` is added once to every iteration, whatever its parts.
    Copies of the tokens of paused requests are between iterations and last so much a token, out or in.
    """

    kind: Literal["linear"]
    mixed: Annotated[bool, Field(strict=True)] = Field(
        default=False,
        description="false: a prefill blocks decoding. true: prompts are processed in the same iteration"
        " as the decoding of the others, and the iteration lasts the sum of both parts.",
    )
    base_ms: Milliseconds = Field(default=0.0, description="Part of every iteration, paid once, whatever is in it.")
    prefill_base_ms: Milliseconds = 0.0
    prefill_per_token_ms: Milliseconds = 0.0
    decode_base_ms: Milliseconds = 0.0
    decode_per_request_ms: Milliseconds = 0.0
    decode_per_kv_token_ms: Milliseconds = 0.0
    swap_out_per_token_ms: Milliseconds = Field(
        default=0.0, description="Time to copy a token of a paused request out of the KV cache; nobody runs meanwhile."
    )
    swap_in_per_token_ms: Milliseconds = Field(default=0.0, description="The same back into it, when it is resumed.")
    prefill_levels: tuple[tuple[Tokens, Milliseconds], ...] | None = Field(
        default=None,
        min_length=1,
        description="Step cost model in place of the linear prefill part: (token capacity, milliseconds).",
    )

    @property
    def largest_prefill(self) -> int | None:
        """Prompt tokens that the largest level holds; None without levels, when a prefill takes any number."""
        return max(capacity for capacity, _ in self.prefill_levels) if self.prefill_levels else None

    def prefill_ms(self, tokens: int) -> float:
        """Duration of a prefill alone over ``tokens`` prompt tokens [ms]; the largest level when none holds them."""
        return self._prefill_part_ms(tokens, self.base_ms)

    def folded(self) -> LinearClock:
        """The same cost model with ``base_ms`` in its prefills and in its decode rounds, where no iteration has both.

        Raises
        ------
        ValueError
            With ``mixed`` an iteration may have both parts, and pays the base once.
        """
        if self.mixed:
            raise ValueError("only a clock with mixed = false has its base in both parts")
        if not self.base_ms:
            return self
        levels = self.prefill_levels and tuple((tokens, self.base_ms + ms) for tokens, ms in self.prefill_levels)
        return self.model_copy(
            update={
                "base_ms": 0.0,
                "prefill_base_ms": 0.0 if levels else self.base_ms + self.prefill_base_ms,
                "prefill_levels": levels,
                "decode_base_ms": self.base_ms + self.decode_base_ms,
            }
        )

    def decode_ms(self, rounds: int, request_rounds: int, token_rounds: int) -> float:
        """Duration of ``rounds`` decode rounds [ms].

        ``request_rounds`` and ``token_rounds`` are the active requests and the held tokens,
        each summed over these rounds.
        """
        return (
            (self.base_ms + self.decode_base_ms) * rounds
            + self.decode_per_request_ms * request_rounds
            + self.decode_per_kv_token_ms * token_rounds
        )

    def iterations_ms(self, rounds: int, prompt_tokens: int, decoding: int, kv_tokens: int) -> float:
        """Duration of ``rounds`` iterations of continuous batching [ms]: the base, prefill parts, decode parts.

        Each processes ``prompt_tokens``, while ``decoding`` requests produce a token each; ``kv_tokens`` are what
        these hold, summed over the rounds. A part over no request lasts no time.
        """
        if not decoding:
            return rounds * self.prefill_ms(prompt_tokens) if prompt_tokens else 0.0
        prefill = rounds * self._prefill_part_ms(prompt_tokens, 0.0) if prompt_tokens else 0.0
        return prefill + self.decode_ms(rounds, rounds * decoding, kv_tokens)

    def _prefill_part_ms(self, tokens: int, base: float) -> float:
        """Duration of a prefill of this many prompt tokens, on top of ``base``, added as in `folded`."""
        if self.prefill_levels is None:
            return (base + self.prefill_base_ms) + self.prefill_per_token_ms * tokens
        holding = [ms for capacity, ms in self.prefill_levels if capacity >= tokens]
        return base + (min(holding) if holding else max(self.prefill_levels)[1])
