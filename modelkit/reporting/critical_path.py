"""What determines the makespan: the chain of requests that leads to the last completion.

The events of a replayed schedule form a directed acyclic graph: an arc from the beginning to the end of each
residency, and arcs along time between moments at which nothing else holds. The path from time 0 to the last completion
that is in progress for the longest time (a longest path, by networkx) is a chain in which each request begins when
another ends and gives back its memory or slot, or after it. What the chain leaves uncovered is time in which its next
request had not arrived, or waited for a prefill stage or for the policy's decision.

In stages a chain stays on the slot of the request that ends last.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from modelkit.instance import Instance, LinearClock
from modelkit.judge import TIME_TOLERANCE_MS, Residency, Verdict
from modelkit.text import count, percent, quantity


@dataclass(frozen=True)
class Link:
    """A part of the path: a request in progress (``run``), or a time in which none of the path was (``wait``)."""

    kind: Literal["run", "wait"]
    name: str
    begin: float
    end: float
    words: str


@dataclass(frozen=True)
class CriticalPath:
    """The chain from time 0 to the last completion, and what it says. Times in rounds or ms."""

    links: tuple[Link, ...]
    words: str

    @property
    def end(self) -> float:
        """The makespan."""
        return self.links[-1].end


def critical_path(instance: Instance, verdict: Verdict) -> CriticalPath | None:
    """The critical path of a valid schedule; None when it has no residency that completes.

    O(n log n) for n residencies.
    """
    import networkx as nx

    done = [s for s in verdict.residencies if s.completed and s.end is not None and s.end > s.begin]
    if not done:
        return None
    last = max(done, key=lambda s: (s.end or 0.0, -s.request))
    verdict = verdict.on(last.replica)
    done = [s for s in done if s.replica == last.replica]
    clock = instance.server.clock
    staged = isinstance(clock, LinearClock) and not clock.mixed and last.slot is not None
    if staged:
        done = [s for s in done if s.slot == last.slot]
    moments = _moments(sorted({0.0, *(s.begin for s in done), *(s.end or 0.0 for s in done)}), instance.is_unit)
    graph: Any = nx.DiGraph()
    times = sorted(set(moments.values()))
    graph.add_weighted_edges_from((a, b, 0.0) for a, b in pairwise(times))
    by_arc: dict[tuple[float, float], Residency] = {}
    for residency in done:
        arc = moments[residency.begin], moments[residency.end or 0.0]
        if arc[0] < arc[1] and arc not in by_arc:
            by_arc[arc] = residency
            graph.add_edge(*arc, weight=arc[1] - arc[0])
    graph.remove_nodes_from([t for t in times if t > moments[last.end or 0.0]])
    path = nx.dag_longest_path(graph, weight="weight")
    if path[0] != times[0]:
        path = [times[0], *path]
    if path[-1] != moments[last.end or 0.0]:
        path.append(moments[last.end or 0.0])
    links = _links(path, by_arc, instance)
    return CriticalPath(tuple(links), _words(links, instance, verdict, last, staged)) if links else None


def _moments(times: list[float], is_unit: bool) -> dict[float, float]:
    """Times as moments: under the linear clock those closer than the judge's tolerance are the same."""
    out: dict[float, float] = {}
    moment = times[0]
    for time in times:
        if time - moment > (0.0 if is_unit else TIME_TOLERANCE_MS):
            moment = time
        out[time] = moment
    return out


def _links(path: list[float], by_arc: dict[tuple[float, float], Residency], instance: Instance) -> list[Link]:
    links: list[Link] = []
    unit = f"time_{instance.unit}"
    for begin, end in pairwise(path):
        residency = by_arc.get((begin, end))
        if residency is not None:
            name = instance.requests[residency.request].id
            links.append(Link("run", name, begin, end, f"{name}: {quantity(unit, end - begin)}"))
        elif links and links[-1].kind == "wait":
            before = links.pop()
            words = f"idle on this path: {quantity(unit, end - before.begin)}"
            links.append(Link("wait", "", before.begin, end, words))
        else:
            links.append(Link("wait", "", begin, end, f"idle on this path: {quantity(unit, end - begin)}"))
    return links


def _words(links: list[Link], instance: Instance, verdict: Verdict, last: Residency, staged: bool) -> str:
    unit = f"time_{instance.unit}"
    makespan = links[-1].end
    runs = [link for link in links if link.kind == "run"]
    covered = sum(link.end - link.begin for link in runs)
    idle = makespan - covered
    longest = max(runs, key=lambda link: link.end - link.begin)
    where = f" on slot {last.slot}" if staged else ""
    words = (
        f"The makespan of {quantity(unit, makespan)} ends with request {instance.requests[last.request].id}. A chain of"
        f" {count(len(runs), 'request')}{where}, each begun when the one before it freed its"
        f" {'slot' if staged else 'memory'} or later, is in progress for {percent(covered / makespan)} of it."
    )
    if staged:
        held = sum(
            max(0.0, min(link.end, end) - max(link.begin, begin))
            for link in runs
            for begin, end in _decoding(verdict, link)
        )
        words += (
            f" Of that {quantity(unit, held)} are decoding and {quantity(unit, covered - held)} prefill stages, its own"
            " and those that interrupt it."
        )
    if idle > 0:
        words += f" For {quantity(unit, idle)} none of them is: the next has not arrived or waits to be admitted."
    words += f" The longest link is {longest.name} with {quantity(unit, longest.end - longest.begin)}."
    if len(runs) == 1 and not idle:
        return words + " No schedule can end sooner while this request takes as long."
    return words


def _decoding(verdict: Verdict, link: Link) -> list[tuple[float, float]]:
    """The decode rounds that meet a link, as intervals."""
    begins = [s.begin for s in verdict.intervals]
    first = max(0, bisect_right(begins, link.begin) - 1)
    out = []
    for interval in verdict.intervals[first:]:
        if interval.begin >= link.end:
            break
        out.append((interval.begin, interval.end))
    return out
