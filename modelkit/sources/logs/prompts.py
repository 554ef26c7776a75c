"""In which iterations of a log prompts were processed.

A prompt ends where its first token comes. One that an iteration does not take whole beside the tokens of those that
decode is split, and fills iteration after iteration up to the engine's limit: vLLM's chunked prefill. Where the log has
the times of all tokens and the limit is known, the iterations are known, and who decoded in each; so each prompt begins
in the first iteration after its arrival from which, with what the prompts before it leave, it is done in that of its
first token and not before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Prompts(NamedTuple):
    """Ends of iterations with prompts [ms], increasing, their prompt tokens, and how many they are; shape [k] each."""

    moments: Floats
    tokens: Floats
    iterations: Floats


def iterations_of(every: Floats, tolerance: float) -> tuple[npt.NDArray[np.int64], Floats]:
    """The iteration of each token by its time, shape [tokens], and when each iteration ends [ms]."""
    order = np.argsort(every, kind="stable")
    new = np.concatenate([[True], np.diff(every[order]) > tolerance])
    iteration = np.empty(len(every), dtype=np.int64)
    iteration[order] = np.cumsum(new) - 1
    return iteration, every[order][new]


def whole_prompts(first: Floats, tokens: Floats, tolerance: float, chunk: float) -> Prompts:
    """Each prompt in the iteration of its first token; those whose first tokens come together share one.

    Where their tokens exceed ``chunk``, as many iterations are counted there as they need at least.
    """
    order = np.argsort(first, kind="stable")
    moments, tokens = first[order], tokens[order]
    new = np.concatenate([[True], np.diff(moments) > tolerance])
    group = np.cumsum(new) - 1
    needed = np.maximum(1, np.ceil(np.bincount(group, weights=tokens) / chunk))
    return Prompts(moments, tokens, np.where(new, needed[group], 0.0))


def split_prompts(
    times: list[Floats], arrival: Floats, tokens: Floats, tolerance: float, chunk: float
) -> Prompts:  # fmt: skip
    """Each prompt in the iterations that it fills; ``times`` are those of all tokens of each request [ms]."""
    is_first = np.concatenate([np.arange(len(t)) == 0 for t in times])
    iteration, ends = iterations_of(np.concatenate(times), tolerance)
    free = np.maximum(0.0, chunk - np.bincount(iteration, weights=~is_first, minlength=len(ends)))
    filled = np.zeros(len(ends))
    last = iteration[is_first]
    for j in np.lexsort((arrival, last)):
        begin, left, room = int(last[j]), float(tokens[j]), 0.0
        while begin > 1 and ends[begin - 2] >= arrival[j] - tolerance and room + free[begin - 1] < left:
            begin -= 1
            room += free[begin]
        for k in range(begin, int(last[j]) + 1):
            part = left if k == last[j] else min(left, free[k])
            free[k] = max(0.0, free[k] - part)
            filled[k] += part
            left -= part
    used = filled > 0
    return Prompts(ends[used], filled[used], np.ones(int(used.sum())))
