"""Compiled kernel of the decision diagram: which states of a layer dominate others."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelkit.runtime.kernel import kernel


@kernel
def dominate(profile: Any, started: Any, coarse: Any, order: Any, most: int, into: Any) -> None:
    """``into[e]``: a state that costs no more than e and holds no more in any round; e when none is found.

    ``order`` sorts the states by the requests started, then by coarse node, then by cost; each is compared with at most
    ``most`` of those that stay, of the same coarse node and with the same requests started.
    """
    width = profile.shape[1]
    kept = np.empty(len(order), np.int64)
    last = np.empty(len(order), np.int64)
    volume = np.empty(len(order), np.int64)
    many = 0
    before = np.int64(-1)
    for e in order:
        if before >= 0 and (started[e] != started[before] or coarse[e] != coarse[before]):
            many = 0
        before = e
        into[e] = e
        end = width
        while end > 0 and profile[e, end - 1] == 0:
            end -= 1
        total = 0
        for t in range(end):
            total += profile[e, t]
        for c in range(min(many, most)):
            if last[c] > end or volume[c] > total:
                continue
            d = kept[c]
            less = True
            for t in range(last[c]):
                if profile[d, t] > profile[e, t]:
                    less = False
                    break
            if less:
                into[e] = d
                # what was of use is tried sooner
                h = c // 2
                kept[c], kept[h] = kept[h], kept[c]
                last[c], last[h] = last[h], last[c]
                volume[c], volume[h] = volume[h], volume[c]
                break
        if into[e] == e:
            kept[many], last[many], volume[many] = e, end, total
            many += 1
