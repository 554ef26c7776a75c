"""Plans of when prompts are let in, run by compiled code (``plan_kernel``), and the schedules that they make."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelkit.clock import LinearClock
from modelkit.instance import Instance
from modelkit.judge.rules import Residency
from modelkit.problems.problem import MAKESPAN_MS, TOTAL_LATENCY_MS, TOTAL_TTFT_MS
from modelkit.problems.serving.plan_kernel import (
    Admitted,
    Costs,
    Horizon,
    Releases,
    Requests,
    Rule,
    Scratch,
    Setting,
    State,
    Workspace,
    copy_state,
    empty_state,
    run_plan,
)
from modelkit.schedule import Admission, Schedule, Segment

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Misfits after which a scan of those waiting ends.
MISFITS = (1, 4)
#: No horizon.
TO_THE_END = Horizon(math.inf, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Plan:
    """Releases [ms] and ranks of all requests, what an iteration may hold, and the total of the completions [ms]."""

    release: Floats
    rank: Ints
    rule: Rule
    total: float


def search_refusal(instance: Instance) -> str | None:
    """Why no plan serves an instance, or None: plans process each prompt whole, and know no prefix cache."""
    if instance.shared_prefixes is not None:
        return "shares prefixes, which plans do not know"
    clock = instance.server.clock
    largest = clock.largest_prefill if isinstance(clock, LinearClock) else None
    if largest is None or int(instance.arrays.prompt.max()) <= largest:
        return None
    return f"has prompts of more than {largest} tokens, the most that a prefill level holds"


def ranks(order: Ints) -> Ints:
    """The place of each request in an order of them, shape [n]."""
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


class Server:
    """An instance as the kernels see it: requests in the order of arrival, times in ms.

    ``metric`` says what `run` returns: the sum of the completions with ``total_latency_ms``, that of the first tokens
    with ``total_ttft_ms``, and the last completion with ``makespan_ms``.
    """

    def __init__(self, instance: Instance, metric: str = TOTAL_LATENCY_MS) -> None:
        self.metric = metric
        clock, arrays = instance.server.clock, instance.arrays
        assert isinstance(clock, LinearClock)
        self.instance = instance
        self.by_arrival = np.argsort(arrays.arrival, kind="stable")
        arrival, prompt, output = (
            column[self.by_arrival] for column in (arrays.arrival * 1000.0, arrays.prompt, arrays.output)
        )
        self.requests = Requests(arrival, prompt, output)
        levels = sorted(clock.prefill_levels or ())
        self.costs = Costs(
            clock.base_ms, clock.prefill_ms(0) - clock.base_ms, clock.prefill_per_token_ms, clock.decode_base_ms,
            clock.decode_per_request_ms, clock.decode_per_kv_token_ms, not clock.mixed,
            np.array([tokens for tokens, _ in levels], np.int64), np.array([ms for _, ms in levels], np.float64),
        )  # fmt: skip
        capacity, slots = instance.server.kv_capacity_tokens, instance.server.slots
        prompts = clock.largest_prefill or int(prompt.sum())
        most = -1 if capacity is None else capacity
        self.rule = Rule(most, prompts, slots or len(arrival), 1, np.zeros(1), arrival[0], math.inf, 0.0)
        #: Whether all requests together do not fit the memory.
        self.tight = 0 <= self.rule.capacity < int((prompt + output).sum())
        self.admitted = Admitted(np.full(len(arrival), -1, np.int64), np.zeros(len(arrival)))
        self.first, self.start = self.admitted
        self.scratch = Scratch(np.zeros(len(arrival), np.int64), np.zeros(max(MISFITS), np.int64))
        self.empty, self.begin, self.state = (empty_state(int(output.max())) for _ in range(3))

    def setting(self, rule: Rule) -> Setting:
        """What is served, by this rule."""
        return Setting(self.requests, self.costs, rule)

    def space(self, state: State) -> Workspace:
        """What a run from this state changes."""
        return Workspace(state, self.scratch, self.admitted)

    def plan(self, release: Floats, rank: Ints, rule: Rule) -> Plan:
        """A plan with its value [ms] by the metric; fills ``first`` and ``start``."""
        copy_state(self.empty, self.state)
        order = np.argsort(release, kind="stable")
        total = run_plan(self.setting(rule), Releases(order, release, rank), self.space(self.state), TO_THE_END)
        ended, first_tokens = self.state.now
        values = {TOTAL_LATENCY_MS: total, TOTAL_TTFT_MS: first_tokens, MAKESPAN_MS: ended}
        return Plan(release, rank, rule, float(values[self.metric]))

    def run(self, plan: Plan) -> float:
        """The value [ms] of a plan; fills ``first`` and ``start``."""
        return self.plan(plan.release, plan.rank, plan.rule).total

    def orders(self) -> Iterator[Ints]:
        """Ranks by effective work, arrival, volume and output."""
        arrival, prompt, output = self.requests
        costs, capacity = self.costs, self.rule.capacity
        volume = prompt * (output - 1) + output * (output + 1) // 2 - 1
        work = (
            costs.prefill_per_token * prompt
            + costs.decode_per_request * (output - 1)
            + (costs.decode_per_kv_token + (costs.decode_base / capacity if capacity > 0 else 0.0)) * volume
        )
        for key in (work, arrival, volume, output):
            yield ranks(np.lexsort((arrival, key)))

    def plan_of(self, residencies: Sequence[Residency]) -> Plan:
        """The plan that releases each request when its last stay began."""
        begun = np.zeros(len(self.by_arrival))
        for residency in residencies:
            begun[residency.request] = residency.begin
        release = np.maximum(begun[self.by_arrival] - 1e-3, self.requests.arrival)
        rule = self.rule._replace(misfits=max(MISFITS), gated_from=math.inf)
        return self.plan(release, ranks(np.argsort(release, kind="stable")), rule)

    def schedule(self, plan: Plan) -> Schedule:
        """The plan as a schedule of the instance."""
        self.run(plan)
        return self.written()

    def written(self) -> Schedule:
        """What was run last as a schedule of the instance."""
        names = [self.instance.requests[i].id for i in self.by_arrival]
        begins: dict[int, list[int]] = {}
        for i in np.argsort(self.first, kind="stable").tolist():
            begins.setdefault(int(self.first[i]), []).append(i)
        rounds = sorted(begins)
        last = int((self.first + self.requests.output).max())
        segments = []
        for k, following in zip(rounds, [*rounds[1:], last], strict=True):
            admitted = begins[k]
            at = float(self.start[admitted[0]]) / 1000
            segments.append(Segment(at, tuple(Admission(names[i]) for i in admitted), (), following - k))
        return Schedule(tuple(segments))
