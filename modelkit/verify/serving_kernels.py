"""Counting the jobs of one machine, compiled; the same code runs in Python's unbounded integers.

It serves ``modelkit.verify.serving_work``, which tells which arithmetic is enough, and shares nothing with what finds
bounds.
"""

from __future__ import annotations

from heapq import heappop, heappush, heapreplace
from typing import Any

from modelkit.runtime.kernel import kernel


@kernel
def shortest_first(arrival: Any, work: Any) -> Any:
    """When jobs, given by arrival, end, ascending, when the shortest remaining work goes first."""
    heap, ends = [work[0]], [work[0]]
    heap.pop()
    ends.pop()
    now, following = arrival[0], 0
    while following < len(work) or heap:
        if not heap:
            now = max(now, arrival[following])
        while following < len(work) and arrival[following] <= now:
            heappush(heap, work[following])
            following += 1
        left = heap[0]
        if following < len(work) and arrival[following] < now + left:
            heapreplace(heap, left - (arrival[following] - now))
            now = arrival[following]
        else:
            heappop(heap)
            now += left
            ends.append(now)
    return ends


@kernel
def present_in_cells(arrival: Any, residence: Any, work: Any, beginnings: Any, first: int, last: int, cell: int) -> int:
    """Sum over cells of the number of requests that are present during all of it, at least."""
    present, known, longest_residence = 0, 0, max(residence)
    for k in range(first, last + 1):
        begin, end = k * cell, (k + 1) * cell
        while known < len(work) and arrival[known] <= begin:
            known += 1
        if known == 0:
            continue
        longest, taken = [-work[0]], 0
        longest.pop()
        for i in range(known - 1, -1, -1):
            if arrival[i] + residence[i] > end:
                present += 1
            elif i >= beginnings[known - 1]:
                heappush(longest, -work[i])
                taken += work[i]
                if taken > end - arrival[i]:
                    taken += heappop(longest)
                    present += 1
            elif arrival[i] + longest_residence <= end:
                break
    return present
