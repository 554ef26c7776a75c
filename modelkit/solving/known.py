"""What is known of an instance before its model is built: made once where a model is wanted, and handed down.

A solve makes one, finds its warm start with it, and gives it to the formulation's ``data``; `check`, `show`, `export`
and `diagnose` make one in the same way.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from modelkit.formulation.formulation import Formulation
from modelkit.instance import Instance
from modelkit.problems.kv import best_known
from modelkit.problems.kv.best_known import Hindsight
from modelkit.problems.kv.clique_rows import CliqueRow
from modelkit.problems.kv.clique_rows import clique_rows as find_rows
from modelkit.problems.kv.local_search import Ints
from modelkit.problems.kv.start_windows import Starts, check_size, count_starts, possible_starts
from modelkit.problems.kv.start_windows import start_windows as find_windows
from modelkit.problems.problem import KV, PREEMPTIVE, SERVING, SLOTS, UNIT_PREFIXES, UNIT_REPLICAS, problem_modelled
from modelkit.problems.replicas.search import hindsight_on_replicas
from modelkit.problems.replicas.servers import one_server
from modelkit.problems.serving.states import Windows, loose_windows
from modelkit.problems.serving.states import start_windows as search_states
from modelkit.problems.slots.search import SlotSearch
from modelkit.problems.slots.stage_limits import any_stages
from modelkit.problems.slots.stage_limits import stage_limits as limit_stages
from modelkit.runtime.deadline import current
from modelkit.solving.candidates import first_on_replicas, first_starts, least_latency, slot_search
from modelkit.solving.size import check_nonzeros

#: Share of the time that is left in which states are searched.
STATES_SHARE = 0.3


class Known:
    """What is known of an instance; each part is found when it is first asked for, and kept.

    A formulation asks ``starts``, ``clique_rows``, ``stage_limits``, ``iteration_windows`` and ``check_size``; they say
    what holds for its own problem. What only holds for an optimum of another problem, such as that of a formulation
    that it extends, is left out.

    Parameters
    ----------
    instance
        Of which everything is said.
    problem
        As `Formulation.problem`.
    formulation
        Name of the formulation, for messages.
    """

    def __init__(self, instance: Instance, problem: str | None = None, formulation: str = "") -> None:
        self.instance, self.modelled, self.formulation = instance, problem_modelled(problem), formulation

    def __repr__(self) -> str:
        of = "" if self.modelled is None else f", as {self.modelled.model}"
        return f"Known({self.instance!r}{of})"

    def __getstate__(self) -> dict[str, Any]:
        """All that is found, and what follows from it; the search itself does not travel."""
        if "slot_search" in self.__dict__ and self.slot_search.over:
            _ = self.stage_limits
        return {name: value for name, value in self.__dict__.items() if name != "slot_search"}

    def check_size(self, nonzeros: int) -> None:
        """Refuse a model with about this many non-zeros before any of it is made, where it cannot be built.

        Raises
        ------
        TooLargeError
            It would not fit the memory.
        TooLateError
            It could not be built and handed over within half of the time that is left.
        """
        check_nonzeros(nonzeros, self.formulation)

    @cached_property
    def starts(self) -> list[Ints]:
        """Starts that an optimal schedule may use, for each request in ascending order; unit clock, no slots.

        The start windows where the problem is ``kv-hindsight`` or ``kv-replicas``, else those up to a horizon that
        holds whenever an earlier end is never worse, and where the problem is ``kv-prefix`` that is no later than a
        policy leaves.

        Raises
        ------
        InfeasibleError
            Some request can never run.
        TooLargeError
            There are too many.
        """
        if self.modelled is UNIT_PREFIXES:
            return possible_starts(self.instance, least_latency(self.instance))
        if self.modelled is UNIT_REPLICAS:
            return find_windows(one_server(self.instance), self.on_replicas)
        return self.windows if self.modelled is KV else possible_starts(self.instance)

    @cached_property
    def on_replicas(self) -> Hindsight:
        """A schedule on the replicas, and prices on the memory of all of them together.

        Raises
        ------
        InfeasibleError, TooLargeError
            As `starts`.
        """
        return hindsight_on_replicas(self.instance, first_on_replicas(self.instance))

    @cached_property
    def last_rounds(self) -> list[int]:
        """Last round in which each request may make tokens in a best schedule; unit clock, with pauses.

        Up to a horizon that holds whenever an earlier end is never worse: a round after the last arrival in which
        nobody makes a token can be cut out. Where the problem is ``kv-preemptive``, no later than a policy leaves: the
        others' latencies are at least their outputs.

        Raises
        ------
        InfeasibleError
            Some request can never run.
        """
        arrays = self.instance.arrays
        tokens, last = int(arrays.output.sum()), int(arrays.arrival.max() + arrays.output.sum())
        value = least_latency(self.instance, ("srpt",)) if self.modelled is PREEMPTIVE else None
        if value is None:
            return [last] * len(arrays.output)
        return [min(last, int(a + value - (tokens - o))) for a, o in zip(arrays.arrival, arrays.output, strict=True)]

    @cached_property
    def clique_rows(self) -> tuple[list[Ints], list[CliqueRow]]:
        """Starts for each request, ascending, and rows of which few are in a schedule; there is a KV capacity.

        Raises
        ------
        InfeasibleError, TooLargeError
            As `starts`.
        """
        priced = self.modelled is KV
        return find_rows(self.instance, self.hindsight, self.windows, use_prices=priced)

    @cached_property
    def stage_limits(self) -> tuple[int, int]:
        """Least and largest number of stages that an optimal schedule can need; slots in stages, all known at 0.

        Raises
        ------
        InfeasibleError
            Some request can never run.
        """
        if self.modelled is not SLOTS:  # of another problem's optimum the best makespan says nothing
            return any_stages(self.instance)
        return limit_stages(self.instance, self.slot_search.run())

    @cached_property
    def searched_windows(self) -> Windows | None:
        """Those of a search over states, where the problem is ``serving`` and that search ends."""
        return search_states(self.instance, current().share(STATES_SHARE)) if self.modelled is SERVING else None

    @cached_property
    def iteration_windows(self) -> Windows:
        """Which iterations may process each prompt in real time, and when they end; mixed iterations without levels.

        Without `searched_windows` as many for each request as there are tokens in all: for a model only.
        """
        return self.searched_windows or loose_windows(self.instance)

    @cached_property
    def first(self) -> Ints:
        """Starts of the first schedule of the KV-cache problem, shape [n].

        Raises
        ------
        InfeasibleError
            Some request can never run.
        TooLargeError
            Arrivals and outputs reach too far.
        """
        return first_starts(self.instance)

    @cached_property
    def local_search(self) -> Hindsight:
        """See `modelkit.problems.kv.best_known.local_search`."""
        return best_known.local_search(self.instance, self.first)

    @cached_property
    def hindsight(self) -> Hindsight:
        """See `modelkit.problems.kv.best_known.hindsight`."""
        return best_known.hindsight(self.instance, self.local_search)

    @cached_property
    def windows(self) -> list[Ints]:
        """See `modelkit.problems.kv.start_windows.start_windows`."""
        check_size(self.instance, self.first)
        return find_windows(self.instance, self.hindsight)

    @property
    def starts_kept(self) -> Starts:
        """How many starts the windows keep."""
        return count_starts(self.instance, self.hindsight, self.windows)

    @cached_property
    def slot_search(self) -> SlotSearch:
        """The search for a schedule of the slot problem, as far as it has come."""
        return slot_search(self.instance)


def known_of(formulation: Formulation, instance: Instance) -> Known:
    """What is known of an instance for a formulation; nothing is looked for yet."""
    return Known(instance, formulation.problem, formulation.name)


# --- the same for code that is handed nothing; found anew at every call ----------------------------------------------


def start_windows(instance: Instance, *, use_prices: bool = True) -> list[Ints]:
    """Starts that a schedule of minimum total latency may use, for each request in ascending order.

    Parameters
    ----------
    instance
        Unit clock, no slots.
    use_prices
        Whether to use reduced costs too.

    Raises
    ------
    InfeasibleError, TooLargeError
        As `Known.starts`.
    """
    known = Known(instance)
    check_size(instance, known.first)
    return find_windows(instance, known.hindsight, use_prices=use_prices)


def clique_rows(instance: Instance, *, use_prices: bool = True) -> tuple[list[Ints], list[CliqueRow]]:
    """Starts for each request, ascending, and rows of which few are in a schedule.

    Parameters
    ----------
    instance
        Unit clock, no slots, with a KV capacity.
    use_prices
        Whether to keep only the starts that a schedule of minimum total latency may use. Without, the rows hold for
        every schedule.

    Raises
    ------
    InfeasibleError, TooLargeError
        As `Known.starts`.
    """
    return Known(instance, KV.model if use_prices else None).clique_rows


def stage_limits(instance: Instance) -> tuple[int, int]:
    """Least and largest number of stages that a schedule of minimum makespan can need.

    Parameters
    ----------
    instance
        One that the slot problem takes, all requests known at 0.

    Raises
    ------
    InfeasibleError
        Some request can never run.
    """
    return Known(instance, SLOTS.model).stage_limits
