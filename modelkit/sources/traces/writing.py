"""An instance as a trace in the Mooncake format, which the benchmark tools of real engines replay."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any, NamedTuple

from modelkit.arguments import checked_arguments
from modelkit.errors import Fault, InputError, shown
from modelkit.instance import Instance
from modelkit.sources.traces.taking import ROUND_MS
from modelkit.text import count

#: Prompt tokens in a block of the format.
BLOCK = 512


class Written(NamedTuple):
    """A trace as text, and what is to be said of it: what the format does not hold."""

    text: str
    notes: tuple[str, ...] = ()


@checked_arguments
def mooncake_trace(instance: Instance, *, round_ms: float | None = None) -> Written:
    """The requests of an instance as JSON lines: ``timestamp`` [ms], ``input_length``, ``output_length``, ``hash_ids``.

    ``import mooncake`` makes the same requests of it, with arrivals in whole milliseconds. Prompts have the hashes of
    the trace that the instance came from (``extra.prefix_hashes``); else whole blocks of a prefix have those of its
    group, and all others hashes that no other has.

    Parameters
    ----------
    round_ms
        Under the unit clock, length of a round [ms], 55 by default; `import --round-ms` takes the same.

    Raises
    ------
    InputError
        ``round_ms`` is less than 1, so that rounds would meet in a millisecond, or the instance is in seconds.
    """
    if round_ms is not None and not (instance.is_unit and 1 <= round_ms <= 1e9):
        allowed = "1 to 10^9" if instance.is_unit else "none, for the instance counts seconds"
        raise InputError("export mooncake", [Fault("--round-ms", f"found {shown(round_ms)}; allowed: {allowed}")])
    blocks, size = _blocks(instance)
    each = Fraction(round_ms or ROUND_MS) if instance.is_unit else Fraction(1000)
    rows = []
    for request, hashes in zip(instance.requests, blocks, strict=True):
        exact = Fraction(request.arrival) * each
        rows.append(
            {
                "timestamp": math.floor(exact) if instance.is_unit else round(exact),
                "input_length": request.prompt_tokens,
                "output_length": request.output_tokens,
                "hash_ids": hashes,
            }
        )
    order = sorted(range(len(rows)), key=lambda i: instance.requests[i].arrival)  # equal ones stay as they are
    text = "".join(json.dumps(rows[i]) + "\n" for i in order)
    return Written(text, tuple(_notes(instance, round_ms, size)))


def _blocks(instance: Instance) -> tuple[list[list[int]], int]:
    """Hashes of the blocks of each prompt, and the tokens of a block."""
    kept, size = instance.extra.get("prefix_hashes"), instance.extra.get("prefix_block_tokens")
    prompts = [r.prompt_tokens for r in instance.requests]
    if isinstance(size, int) and size >= 1 and isinstance(kept, list) and len(kept) == len(prompts):
        found = [_checked(hashes, prompt, size) for hashes, prompt in zip(kept, prompts, strict=True)]
        if all(hashes is not None for hashes in found):
            return [hashes or [] for hashes in found], size
    numbers: dict[tuple[str, int], int] = {}  # of blocks that requests of a group share
    made: list[list[int]] = []
    after = 0
    for r in instance.requests:
        hashes = []
        for place in range(-(-r.prompt_tokens // BLOCK)):
            shared = r.prefix is not None and (place + 1) * BLOCK <= r.prefix.tokens
            number = numbers.setdefault((r.prefix.group, place), after) if r.prefix is not None and shared else after
            hashes.append(number)
            after += number == after
        made.append(hashes)
    return made, BLOCK


def _checked(hashes: Any, prompt: int, size: int) -> list[int] | None:
    """Hashes that make such a prompt; None where they do not."""
    good = isinstance(hashes, list) and all(type(h) is int for h in hashes)
    return hashes if good and (not hashes or len(hashes) in (prompt // size, -(-prompt // size))) else None


def _notes(instance: Instance, round_ms: float | None, size: int) -> list[str]:
    """What the trace does not hold."""
    notes = ["a trace holds no server, no ids and no predictions; its times count whole ms"]
    if instance.is_unit:
        length = f"{round_ms or ROUND_MS:g}"
        notes.append(f"a round is written as {length} ms; import --round-ms {length} counts rounds again")
    if size != BLOCK:
        notes.append(f"hash_ids are of blocks of {count(size, 'token')}, not {BLOCK}; import --block {size} reads them")
    if prefixes := [r.prefix.tokens for r in instance.requests if r.prefix is not None]:
        kept = sum(tokens - tokens % BLOCK for tokens in prefixes) / sum(prefixes)
        if size == BLOCK and "prefix_hashes" not in instance.extra:
            notes.append(f"prompts share whole blocks of {BLOCK} tokens, {kept:.0%} of their prefixes")
    return notes
