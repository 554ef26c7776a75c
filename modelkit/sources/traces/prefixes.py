"""Groups of shared prefixes from the hashes of prompts' blocks.

The prompts are paths of a tree of blocks. A request shares as much of its prompt as some other request has too. Groups
are chains of that tree: from each block on the one goes on that most requests have (heavy paths; Sleator, Tarjan 1983),
and a request is of the chain in which its shared part ends. So what a group says is shared is shared; what is left out
is what requests of different chains have in common at their beginnings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from modelkit.errors import Fault, InputError
from modelkit.instance import Prefix
from modelkit.text import count


def prefix_groups(chains: Sequence[Sequence[int]], prompts: Sequence[int], block: int) -> list[Prefix | None]:
    """The prefix of each request; None where no other request shares any of it.

    Parameters
    ----------
    chains
        Hashes of each prompt's blocks, in order; equal ones at the same place are equal blocks.
    prompts
        Lengths [token].
    block
        Tokens in a block.

    Notes
    -----
    O(blocks).
    """
    children: dict[tuple[int, int], int] = {}
    parent, depth, visits = [0], [0], [len(chains)]  # of each node; 0 is the root
    paths = []
    for chain in chains:
        node, path = 0, []
        for digest in chain:
            child = children.setdefault((node, digest), len(parent))
            if child == len(parent):
                parent.append(node)
                depth.append(depth[node] + 1)
                visits.append(0)
            visits[child] += 1
            path.append(child)
            node = child
        paths.append(path)
    heavy: dict[int, int] = {}  # the child that most requests have, the first of several
    for node in range(1, len(parent)):
        most = heavy.get(parent[node])
        if most is None or visits[node] > visits[most]:
            heavy[parent[node]] = node
    head = list(range(len(parent)))  # the first block of each node's chain
    for node in range(1, len(parent)):
        if parent[node] and heavy[parent[node]] == node:
            head[node] = head[parent[node]]
    ends = [next((node for node in reversed(path) if visits[node] > 1), 0) for path in paths]
    names = {first: f"g{i}" for i, first in enumerate(dict.fromkeys(head[end] for end in ends if end), start=1)}
    return [
        Prefix(group=names[head[end]], tokens=min(depth[end] * block, prompt)) if end else None
        for end, prompt in zip(ends, prompts, strict=True)
    ]


class Sharing(NamedTuple):
    """The prefix of each request, and what is to be said: in a description, and to the user."""

    prefixes: list[Prefix | None]
    words: list[str]
    notes: list[str]


def sharing_of(prompts: Sequence[tuple[int, list[int]]], block: int | None, how: str, where: str) -> Sharing:
    """What requests share, by the lengths and blocks of their prompts.

    Parameters
    ----------
    how
        ``none`` where nothing is shared; else there has to be something.

    Raises
    ------
    InputError
        No prompt has blocks.
    """
    nothing: list[Prefix | None] = [None] * len(prompts)
    if not any(blocks for _, blocks in prompts):
        if how == "none":
            return Sharing(nothing, [], [])
        raise InputError(where, [Fault("--prefixes", "no row has hash_ids, which say what requests share")])
    whole = sum(prompt for prompt, _ in prompts)
    repeated = _repeated(prompts, block or 1) / whole
    words, notes = [f"{repeated:.0%} of the prompt tokens in repeated blocks"], []
    kept = f"{repeated:.0%} of the prompt tokens are in blocks that an earlier request has too"
    if how == "none":
        notes = [f"shared prefixes are not modelled: {kept}; --prefixes has them shared"] if repeated else []
        return Sharing(nothing, words, notes)
    prefixes = prefix_groups([blocks for _, blocks in prompts], [prompt for prompt, _ in prompts], block or 1)
    groups = len({prefix.group for prefix in prefixes if prefix is not None})
    said = f"{_shared(prefixes) / whole:.0%} in a prefix that an earlier one of its group has, of"
    words.append(f"{said} {count(groups, 'group')}")
    return Sharing(prefixes, words, [f"{kept}; {words[-1]}"])


def _repeated(prompts: Sequence[tuple[int, list[int]]], block: int) -> int:
    """Prompt tokens that are in blocks which an earlier request has too."""
    seen: set[int] = set()
    repeated = 0
    for prompt, blocks in prompts:
        repeated += sum(max(0, min(block, prompt - place * block)) for place, b in enumerate(blocks) if b in seen)
        seen.update(blocks)
    return repeated


def _shared(prefixes: Sequence[Prefix | None]) -> int:
    """Prompt tokens that an earlier request of the same group has in its prefix too."""
    longest: dict[str, int] = {}
    found = 0
    for prefix in prefixes:
        if prefix is not None:
            found += min(prefix.tokens, longest.get(prefix.group, 0))
            longest[prefix.group] = max(prefix.tokens, longest.get(prefix.group, 0))
    return found
