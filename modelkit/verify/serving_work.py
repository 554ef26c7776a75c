"""The bounds that the work of requests gives, in integer arithmetic; ``serving_costs`` says what they are made of.

**Work.** In every iteration the tokens x M of those that decode and z M of those that are prefilled to their end have
x + z <= 1, and so have the shares of the slots. Hence, for any split of the two, ``base + p0 + b0`` (each only where it
is paid) covers ``base (x + z) + p0 z + b0 x``: every request is charged

    W_i = own work + (base + b0) (m V_i / M + (1 - m) d_i / J) + (base + p0) (m (s_i + 1) / M + (1 - m) / J)

and no iteration is shorter than what is charged in it. Spread over its iterations, that is a preemptive schedule of
jobs W_i with releases a_i on one machine. Shortest remaining work first has the least sum of completions of all those,
and at every moment the fewest unfinished jobs: so the k-th completion is no earlier than its k-th, nor than the k-th
of all a_i + R_i.

**Counted in cells** of length h: of [k h, (k + 1) h) every request is present that arrived before and cannot be done
before its end, as a_i + R_i > (k + 1) h; and of the others that arrived before, as many as one machine cannot finish
by then. Requests present in part of the cell in which they arrive add min(R_i, what is left of that cell).

How many jobs one machine finishes by a time T at most is found backwards, from the last release on (Moore, Hodgson):
whenever the jobs taken need more than T - a_i, the longest of them is left out.

**First tokens**: the prefill is work w_i <= W_i of its own, by the same charges. Who has its first token at T is either
done, after all its work W_i, or in progress, after w_i and holding a part u_i = m (s_i + 1) / M + (1 - m) / J of memory
and slots; the u_i of the latter sum to 1 at most. So for any weight g of what is held, of those that arrive from any
moment on the sizes min(W_i, w_i + g u_i) sum to no more than what is left until T + g: one machine can finish jobs of
these sizes by T + g, and the k-th first token is no earlier than the k-th completion, shortest first, minus g. Where
paused requests are swapped out, those in progress need not hold anything: there g is 0.

Pauses change nothing else. A paused request is in no iteration, so what iterations are charged for it, one by one, is
the same, and its jobs are preempted; no residence gets shorter. (Not mixed, a prefill is charged s / M and not
(s + 1) / M.)

Shared prefixes: the first to arrive of a group keeps all of its prompt, for what others read of it in its place they
read after its arrival and before its first token, and while it is present
(`modelkit.judge.prefixes.unshared`). Of all others only the part that they never share counts.

**Arriving together**, with prices that prove that the completions sum to L rounds in which somebody decodes: each
such round costs base + b0. All else is work, w_i = own work + p0 (m (s_i + 1) / M + (1 - m) / J), of which what is done
up to the completions sums to no less than shortest first. The latency is at least (base + b0) L plus that. Rounds
without decoding are not counted, so those that decode are a schedule of a KV-cache problem with d_i tokens to produce
after prompts of s_i + 1 tokens (mixed; s_i otherwise).

**R replicas.** What is charged in an iteration is charged on the replica that runs it, with the memory and the slots of
that one, so R machines do the work, each request on one at a time: no more than one machine does of jobs of W_i / R.
Residence is that of a request alone, on one replica. Of first tokens, the parts held by those in progress sum to 1 on
each replica, R in all, so the sizes sum to no more than R times what is left until T + g: again jobs of an R-th.
Arriving together, the k-th rounds of decoding of all replicas, put side by side, are a schedule of the KV-cache problem
with R replicas (``kv_bound``), and the work beside them is no less than on R machines, shortest first: of the sizes
from the largest down the k-th counts 1 + floor((k - 1) / R) times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from modelkit.certificate import SHARE, TICKS_PER_MS, Prices, Work
from modelkit.errors import Fault, InputError
from modelkit.instance import Instance, Request, Server
from modelkit.judge.prefixes import unshared
from modelkit.problems.problem import MAKESPAN_MS, TOTAL_LATENCY_MS, TOTAL_TTFT_MS
from modelkit.verify.kv_bound import exact_bound
from modelkit.verify.serving_costs import COSTS_PER_MS, COSTS_PER_TICK, ServingCosts

#: Requests times cells up to which cells are recounted; half a minute.
MOST_CELLS = 2 * 10**8
#: The same where numbers are beyond 64 bits.
MOST_UNBOUNDED = 2 * 10**6


def work_bound(instance: Instance, work: Work, metric: str) -> Fraction:
    """The bound on ``metric`` [ms]: the best of `work_bounds`.

    Raises
    ------
    InputError
        The clock is not linear, or what the certificate says does not fit the instance or is too fine to be recounted.
    """
    return max(work_bounds(instance, work, metric).values())


def work_bounds(instance: Instance, work: Work, metric: str) -> dict[str, Fraction]:
    """What is proven of ``metric`` [ms]: ``residence``, ``work`` and, where asked for, ``cells`` and ``rounds``.

    Raises
    ------
    InputError
        See `work_bound`.
    """
    instance = unshared(instance, once=True)
    costs = ServingCosts.of(instance)
    if metric == MAKESPAN_MS:
        return _makespan(costs, work.memory_share)
    if metric == TOTAL_TTFT_MS:
        jobs, ends = _first_token_jobs(costs, work), _first_token_ends(costs, work)
    else:
        jobs = _jobs(costs, work)
        ends = shortest_first(jobs.arrival, jobs.work)
    least = {"residence": sum(jobs.residence), "work": sum(_in_order(jobs, ends)) - sum(jobs.arrival)}
    if work.cell is not None:
        least["cells"] = counted_in_cells(jobs, work.cell)
    early = Fraction(sum(jobs.arrival), TICKS_PER_MS) - costs.arrivals_ms
    bounds = {name: Fraction(ticks, TICKS_PER_MS) + early for name, ticks in least.items()}
    if work.rounds is not None and metric == TOTAL_LATENCY_MS:
        bounds["rounds"] = _together(instance, costs, work.memory_share, work.rounds) + early
    return bounds


def earliest_completions(instance: Instance) -> list[int]:
    """When the first, the second and each further completion comes at the earliest, in any schedule [tick].

    Hence at any moment the requests in the system are at least those that have arrived, less those of these that are
    past.

    Raises
    ------
    InputError
        The clock is not linear.
    """
    costs = ServingCosts.of(unshared(instance, once=True))
    latest = [0] * len(costs.prompt)
    for share in (SHARE, SHARE // 2, 0):
        jobs = _jobs(costs, Work(memory_share=share))
        ends = _in_order(jobs, shortest_first(jobs.arrival, jobs.work))
        latest = [max(end, least) for end, least in zip(ends, latest, strict=True)]
    return latest


def _in_order(jobs: _Jobs, ends: list[int]) -> list[int]:
    """The k-th end is no earlier than the k-th of all arrivals plus residence [tick]."""
    residencies = sorted(a + r for a, r in zip(jobs.arrival, jobs.residence, strict=True))
    return [max(end, residency) for end, residency in zip(ends, residencies, strict=True)]


@dataclass(frozen=True)
class _Jobs:
    """Jobs by arrival: earliest start, residence and work, rounded down [tick]."""

    arrival: list[int]
    residence: list[int]
    work: list[int]

    @classmethod
    def of(cls, costs: ServingCosts, residence: Sequence[int], work: Sequence[Fraction | int]) -> _Jobs:
        """From costs [2^-30 ms]; each replica does an equal part of the work."""
        rows = sorted(
            (a, r // COSTS_PER_TICK, int(w // (COSTS_PER_TICK * costs.replicas)))
            for a, r, w in zip(costs.arrival, residence, work, strict=True)
        )
        return cls([a for a, _, _ in rows], [r for _, r, _ in rows], [w for _, _, w in rows])


def _jobs(costs: ServingCosts, work: Work) -> _Jobs:
    return _Jobs.of(costs, costs.residence, _effective_work(costs, work.memory_share))


def _first_token_jobs(costs: ServingCosts, work: Work) -> _Jobs:
    """What lies before the first tokens: the prefill and, not mixed, one round of decoding."""
    residence = list(costs.prefill_alone)
    if not costs.mixed:
        each = costs.decode_base + costs.decode_per_request
        residence = [
            r + each + costs.decode_per_kv_token * (s + 1) for r, s in zip(residence, costs.prompt, strict=True)
        ]
    return _Jobs.of(costs, residence, _first_token_work(costs, work.memory_share))


def _first_token_work(costs: ServingCosts, memory_share: int) -> list[int]:
    """The part of W that lies before the first tokens [2^-30 ms], rounded down."""
    own, fixed = [costs.prefill_per_token * s for s in costs.prompt], costs.base + costs.prefill_base
    if not costs.mixed:
        fixed += costs.decode_base
        own = [
            w + costs.decode_per_request + costs.decode_per_kv_token * (s + 1)
            for w, s in zip(own, costs.prompt, strict=True)
        ]
    charged = _charged(costs, memory_share, costs.prefilled, [1] * len(costs.prompt), fixed)
    return [w + c for w, c in zip(own, charged, strict=True)]


def _first_token_ends(costs: ServingCosts, work: Work) -> list[int]:
    """When the first, the second and each further first token comes at the earliest, by any weight of what is held."""
    share = work.memory_share
    held = [share * costs.slots * (s + 1) + (SHARE - share) * costs.capacity for s in costs.prompt]
    prefill, whole = _first_token_work(costs, share), SHARE * costs.slots * costs.capacity
    latest = [0] * len(held)
    for weight in (0, *(() if costs.swaps else work.holding)):
        started = [w + weight * COSTS_PER_TICK * u // whole for w, u in zip(prefill, held, strict=True)]
        sizes = [min(w, x) for w, x in zip(_effective_work(costs, share), started, strict=True)]
        jobs = _Jobs.of(costs, costs.residence, sizes)
        ends = shortest_first(jobs.arrival, jobs.work)
        latest = [max(end - weight, least) for end, least in zip(ends, latest, strict=True)]
    return latest


def _effective_work(costs: ServingCosts, memory_share: int) -> list[int]:
    """W [2^-30 ms], rounded down."""
    ones = [1] * len(costs.prompt)
    decoding = _charged(costs, memory_share, costs.volume, costs.decodes, costs.base + costs.decode_base)
    prefill = _charged(costs, memory_share, costs.prefilled, ones, costs.base + costs.prefill_base)
    return [w + d + p for w, d, p in zip(costs.own_work, decoding, prefill, strict=True)]


def _charged(
    costs: ServingCosts, memory_share: int, tokens: Sequence[int], iterations: Sequence[int], fixed: int
) -> list[int]:
    """The part of a fixed cost that each request is charged, of memory and slots [2^-30 ms], rounded down."""
    by_memory, by_slots = memory_share * costs.slots, (SHARE - memory_share) * costs.capacity
    whole = SHARE * costs.slots * costs.capacity
    return [fixed * (by_memory * t + by_slots * d) // whole for t, d in zip(tokens, iterations, strict=True)]


def _makespan(costs: ServingCosts, memory_share: int) -> dict[str, Fraction]:
    """The latest arrival plus residence, and the work that arrives from some moment on."""
    jobs = _Jobs.of(costs, costs.residence, _effective_work(costs, memory_share))
    latest = max(a + r for a, r in zip(jobs.arrival, jobs.residence, strict=True))
    ahead = busiest = 0
    for a, w in zip(reversed(jobs.arrival), reversed(jobs.work), strict=True):
        ahead += w
        busiest = max(busiest, a + ahead)
    return {"residence": Fraction(latest, TICKS_PER_MS), "work": Fraction(busiest, TICKS_PER_MS)}


def _together(instance: Instance, costs: ServingCosts, memory_share: int, prices: Prices) -> Fraction:
    """Sum of completions, from the common arrival on, by rounds and own work [ms]."""
    if len(set(costs.arrival)) > 1:
        raise InputError("certificate", [Fault("$.work.rounds", "count where all requests arrive together; here not")])
    prefill = _charged(costs, memory_share, costs.prefilled, [1] * len(costs.prompt), costs.prefill_base)
    own = sorted((w + p for w, p in zip(costs.own_work, prefill, strict=True)), reverse=True)
    shortest = sum(work * (1 + k // costs.replicas) for k, work in enumerate(own))
    counted = rounds_instance(instance)
    rounds = Fraction(0) if counted is None else exact_bound(counted, prices)
    return ((costs.base + costs.decode_base) * rounds + shortest) / COSTS_PER_MS


def rounds_instance(instance: Instance) -> Instance | None:
    """The KV-cache problem of the rounds in which requests decode, all known at 0; None where nobody decodes."""
    costs = ServingCosts.of(instance)
    requests = [
        Request(id=f"r{i}", prompt_tokens=s + costs.mixed, output_tokens=d)
        for i, (s, d) in enumerate(zip(costs.prompt, costs.decodes, strict=True))
        if d
    ]
    if not requests:
        return None
    given = instance.server
    server = Server(kv_capacity_tokens=given.kv_capacity_tokens, replicas=given.replicas, pause=given.pause)
    return Instance(server=server, requests=requests)


def shortest_first(arrival: list[int], work: list[int]) -> list[int]:
    """When jobs, given by arrival, end on one machine at the earliest, the first, the second, and so on [tick]."""
    from modelkit.verify import serving_kernels  # late: compiled code takes a while to load

    return [int(end) for end in fitting(serving_kernels.shortest_first, arrival[-1] + sum(work), arrival, work)]


def counted_in_cells(jobs: _Jobs, cell: int) -> int:
    """Sum over cells of their length times those present in all of it, and the parts of cells before [tick]."""
    from modelkit.verify import serving_kernels  # late: compiled code takes a while to load

    n = len(jobs.work)
    latest = jobs.arrival[-1] + sum(jobs.work) + max(jobs.residence)
    partly = sum(min(r, -a % cell) for a, r in zip(jobs.arrival, jobs.residence, strict=True))
    first, last = jobs.arrival[0] // cell, latest // cell
    most = MOST_CELLS if latest < 2**62 else MOST_UNBOUNDED
    if (last - first + 1) * n > most:
        raise InputError("certificate", [Fault("$.work.cell", "is so short that the cells cannot be recounted")])
    rows = (jobs.arrival, jobs.residence, jobs.work, _busy_beginnings(jobs))
    largest = 2 * cell * (last + 2)
    whole = fitting(serving_kernels.present_in_cells, largest, *rows, first, last, cell)
    return cell * int(whole) + partly


def _busy_beginnings(jobs: _Jobs) -> list[int]:
    """For each job the first one since the machine, with all of them to do, was idle: what came before is done."""
    out, until, first = [], -1, 0
    for i, (a, w) in enumerate(zip(jobs.arrival, jobs.work, strict=True)):
        if a >= until:
            first, until = i, a
        until += w
        out.append(first)
    return out


def fitting(compiled: Any, largest: int, *arguments: Any) -> Any:
    """What a function returns: compiled, where no number in it is beyond 64 bits, else in Python's integers."""
    if largest < 2**62:
        return compiled(*(np.array(a, dtype=np.int64) if isinstance(a, list) else a for a in arguments))
    return compiled.py_func(*arguments)
