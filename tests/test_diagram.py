"""The search with decision diagrams, against brute force and the solvers; conflict cliques against known optima."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest
from kv_brute_force import brute_force

import modelkit as mk
from modelkit.errors import UsageError
from modelkit.instance import Instance, Request, Server
from modelkit.judge import judge
from modelkit.problems.kv.cuts import Candidates, conflict
from modelkit.problems.kv.cuts.clique_program import CliqueProgram
from modelkit.problems.kv.diagram import Search, builder, climbs, refusal
from modelkit.problems.kv.diagram.builder import beam_search, first_diagram, refine
from modelkit.problems.kv.diagram.columns import ascend
from modelkit.problems.kv.diagram.diagram import SCALE, Diagram, Reversed
from modelkit.problems.kv.diagram.partitions import PartitionBound, Partitions
from modelkit.problems.kv.local_search import fits, latency, schedule_of
from modelkit.result import Progress
from modelkit.solving.candidates import first_starts
from modelkit.solving.known import Known, start_windows
from modelkit.sources.families import generate


def searched(instance: Instance, starts: np.ndarray | None = None, seconds: float = 60.0) -> Search:
    """A search run to its end, from a bad schedule unless another is given."""
    search = Search(instance, first_starts(instance) if starts is None else starts, time.perf_counter() + seconds)
    search.run()
    return search


@pytest.mark.parametrize("seeds", [range(40), pytest.param(range(40, 120), marks=pytest.mark.slow)])
def test_equals_brute_force(seeds: range, draw: Callable[..., Instance]) -> None:
    """Tests 120 random instances of up to 4 requests with arrivals: proven, and the value of brute force."""
    for seed in seeds:
        instance = draw(seed, 1 + seed % 4, most_memory=8 + seed % 5, spread=seed % 4)
        search = searched(instance)
        assert search.proven, seed
        assert search.value == search.bound == brute_force(instance)[0], seed
        assert judge(instance, schedule_of(instance, search.starts)).valid


def test_identical_requests(draw: Callable[..., Instance]) -> None:
    """Tests that breaking the symmetry of requests that are alike keeps the optimum."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        kinds = [(int(rng.integers(1, 3)), int(rng.integers(1, 6)), int(rng.integers(0, 3))) for _ in range(2)]
        requests = tuple(
            Request(id=f"q{i}", prompt_tokens=s, output_tokens=o, arrival=a)
            for i, (s, o, a) in enumerate(kinds[int(rng.integers(2))] for _ in range(4))
        )
        instance = Instance(name="alike", server=Server(kv_capacity_tokens=8), requests=requests)
        search = searched(instance)
        assert search.value == search.bound == brute_force(instance)[0], seed


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_highs(seed: int) -> None:
    """Tests 6 requests of both arrival models."""
    instance = generate(
        "kv-synthetic", seed=seed, requests=6, arrivals="poisson" if seed % 2 else "all-at-once", kv_capacity=16
    )
    result = mk.solve(instance, "kv-hindsight-flow", solver="highs", time_limit=60)
    search = searched(instance)
    assert result.status == "optimal"
    assert search.value == search.bound == result.objective.value


def test_conflicts_are_conflicts(draw: Callable[..., Instance]) -> None:
    """Tests all pairs of starts of two requests: they conflict iff together they exceed the memory in some round."""
    for seed in range(40):
        instance = draw(seed, 2)
        s, o = instance.arrays.prompt, instance.arrays.output
        capacity = instance.server.kv_capacity_tokens
        for k in range(12):
            for j in range(12):
                held = np.zeros(60, dtype=int)
                held[k + 1 : k + o[0] + 1] += s[0] + np.arange(1, o[0] + 1)
                held[j + 1 : j + o[1] + 1] += s[1] + np.arange(1, o[1] + 1)
                pair = Candidates(np.arange(2), np.array([k, j]), s, o, capacity)
                assert conflict(0, 1, pair) == bool((held > capacity).any()), (seed, k, j)


def test_cliques_never_cut_off_an_optimum(draw: Callable[..., Instance]) -> None:
    """Tests that every optimal schedule keeps to every clique that was separated, and that cliques are that."""
    many = 0
    for seed in range(60):
        instance = draw(7000 + seed, 4, most_memory=10, spread=2)
        value, winners = brute_force(instance)
        program = CliqueProgram(instance, start_windows(instance, use_prices=False))
        bound = program.cut_and_solve(np.inf, np.inf)
        assert bound.bound <= value * SCALE
        of = program.candidates
        for clique, coefficients, right in program.cuts:
            many += 1
            assert right == 1
            assert (coefficients == 1).all()
            members = {(instance.requests[of.request[c]].id, int(of.start[c])) for c in clique}
            for starts in winners:
                assert sum((i, k) in members for i, k in starts.items()) <= 1
            for a in clique:
                for b in clique:
                    assert conflict(a, b, of)
    assert many > 50


def problem_of(instance: Instance) -> tuple[Reversed, PartitionBound]:
    """As the diagrams take it, with the bound by partitions at the highest floor that is not the last."""
    problem = Reversed.of(instance, start_windows(instance))
    floor = int(problem.prompt.max())
    partitions = Partitions.of(problem.capacity, problem.prompt + problem.output, np.maximum(problem.prompt, floor))
    assert partitions is not None
    return problem, PartitionBound(problem, floor, partitions)


def first(problem: Reversed, root: PartitionBound, multipliers: np.ndarray, limit: int) -> Diagram:
    return first_diagram(problem, root, multipliers, limit, np.inf)


def least(diagram: Diagram, problem: Reversed, multipliers: np.ndarray) -> int:
    """Cost of the cheapest path, times SCALE."""
    path = diagram.evaluate(problem, multipliers)
    assert path is not None
    return path.value


def test_partitions_are_all_multisets_that_fit() -> None:
    """Tests the states of two floors against an enumeration of what may be held, and their arcs."""
    peaks, floors, capacity = np.array([7, 5, 4]), np.array([2, 3, 4]), 12
    made = Partitions.of(capacity, peaks, floors)
    assert made is not None
    kinds = {int(k): (int(p), int(f)) for k, p, f in zip(made.kind, peaks, floors, strict=True) if k >= 0}
    seen: dict[tuple, int] = {(): 0}
    todo: list[tuple] = [()]
    while todo:
        state = todo.pop()
        number = seen[state]
        after = {tuple(sorted((h - 1, f) for h, f in state if h - 1 > f)): made.age[number]}
        for k, part in kinds.items():
            fits_in = sum(h for h, _ in state) + part[0] <= capacity
            assert (made.place[number, k] >= 0) == fits_in
            if fits_in:
                after[tuple(sorted([*state, part]))] = made.place[number, k]
        for other, found in after.items():
            if other not in seen:
                seen[other] = int(found)
                todo.append(other)
            assert seen[other] == found
    assert sorted(seen.values()) == list(range(len(made.age)))
    assert Partitions.of(capacity, peaks, floors, most=len(made.age)) is not None
    assert Partitions.of(capacity, peaks, floors, most=len(made.age) - 1) is None


def test_partitions_are_a_relaxation(draw: Callable[..., Instance]) -> None:
    """Tests that at any multipliers, with any floor, the bound is at most the optimum, and after column generation."""
    rng = np.random.default_rng(5)
    tight = 0
    for seed in range(24):
        instance = draw(8500 + seed, 3 + seed % 3, most_memory=9, spread=seed % 3)
        value, _ = brute_force(instance)
        problem = Reversed.of(instance, start_windows(instance))
        n = len(instance.requests)
        for floor in range(int(problem.prompt.min()), int((problem.prompt + problem.output).max())):
            partitions = Partitions.of(
                problem.capacity, problem.prompt + problem.output, np.maximum(problem.prompt, floor)
            )
            assert partitions is not None
            bound = PartitionBound(problem, floor, partitions)
            for _ in range(3):
                multipliers = rng.integers(-2 * SCALE, 2 * SCALE, n) + value * SCALE // n
                path = bound.evaluate(multipliers)
                assert path.value <= value * SCALE, (seed, floor)
                placed = problem.fixed + problem.slope * path.layers
                if (path.times <= 1).all():
                    assert path.latency(multipliers) == int((placed * path.times).sum())
            found = ascend(
                bound, bound.free(multipliers), target=value * SCALE, most=100 * value * SCALE, over=lambda: False
            )
            assert found.value <= value * SCALE, (seed, floor)
            tight += found.value > (value - 1) * SCALE
    assert tight > 24


def test_first_diagram_is_a_relaxation(draw: Callable[..., Instance]) -> None:
    """Tests that at any multipliers the cheapest path costs at most the optimum."""
    rng = np.random.default_rng(3)
    for seed in range(60):
        instance = draw(8000 + seed, 3 + seed % 2, most_memory=9, spread=2)
        value, _ = brute_force(instance)
        problem, root = problem_of(instance)
        multipliers = rng.integers(-2 * SCALE, 2 * SCALE, len(instance.requests)) + value * SCALE // 4
        diagram = first(problem, root, multipliers, (value + 4) * SCALE)
        assert least(diagram, problem, multipliers) <= value * SCALE, seed
        other = multipliers + rng.integers(-SCALE, SCALE, len(multipliers))
        assert least(diagram, problem, other) <= value * SCALE, seed


def test_refinement_is_a_relaxation(draw: Callable[..., Instance]) -> None:
    """Tests diagrams that know ever more: bounds at any multipliers, and the optimum in the end."""
    rng = np.random.default_rng(4)
    for seed in range(30):
        instance = draw(9000 + seed, 3 + seed % 3, most_memory=9, spread=2 if seed % 2 else 0)
        value, _ = brute_force(instance)
        problem, root = problem_of(instance)
        n = len(instance.requests)
        multipliers = rng.integers(-SCALE, SCALE, n) + value * SCALE // n
        diagram = first(problem.forget_below(root.floor), root, multipliers, value * SCALE)
        order = rng.permutation(n).tolist()
        for many in range(n + 1):
            diagram = refine(diagram, problem, multipliers, value * SCALE, np.inf, remembered=order[:many])
            multipliers = multipliers + rng.integers(-SCALE, SCALE, n)
            assert least(diagram, problem, multipliers) <= value * SCALE, (seed, many)
        assert diagram.exact
        path = diagram.evaluate(problem, multipliers)
        assert path is not None
        assert path.value == value * SCALE, seed
        assert (path.times == 1).all()
        assert fits(instance, problem.starts(path.layers))
        assert latency(instance, problem.starts(path.layers)) == value


def test_a_climb_lowers_its_limit(draw: Callable[..., Instance], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that a climb without the room for its limit ends below it, with a bound that holds."""
    monkeypatch.setattr(climbs, "MOST_KEPT", 30)
    monkeypatch.setattr(builder, "MOST_ALL_ARCS", 300)
    lowered = 0
    for seed in range(5):
        instance = draw(9100 + seed, 6, most_memory=9, spread=2)
        value, _ = brute_force(instance)
        search = Search(instance, first_starts(instance))
        problem, root = problem_of(instance)
        found = search.ascend(root, root.equal(search.value), problem, np.inf)
        climb = climbs.Climbs(search, root, found).climb(1 << 40, np.inf)
        assert search.bound <= value <= search.value, seed
        lowered += climb.limit < search.value - 1
    assert lowered


def test_limited_keeps_what_is_within(draw: Callable[..., Instance]) -> None:
    """Tests that the limit is the highest that leaves so many arcs, and that paths within it stay."""
    for seed in range(30):
        instance = draw(9500 + seed, 4, most_memory=9, spread=2)
        value, _ = brute_force(instance)
        problem, root = problem_of(instance)
        multipliers = np.full(4, value * SCALE // 4)
        diagram = first(problem, root, multipliers, (value + 3) * SCALE)
        limit, left = diagram.find_limit(problem, multipliers, 0, value + 3, diagram.arcs // 2)
        assert left.arcs <= diagram.arcs // 2
        if limit < value + 3:
            _, more = diagram.find_limit(problem, multipliers, limit + 1, value + 3, 0)
            assert more.arcs > diagram.arcs // 2
        if limit >= value:
            assert least(left, problem, multipliers) == least(diagram, problem, multipliers)


def test_beams_hold_schedules(draw: Callable[..., Instance]) -> None:
    """Tests beams in partitions and in a diagram: complete paths are schedules, none too good; a wide one's is best."""
    for seed in range(30):
        instance = draw(9700 + seed, 5, most_memory=9, spread=2)
        value, _ = brute_force(instance)
        problem, root = problem_of(instance)
        multipliers = np.full(5, value * SCALE // 5)
        within = first(problem, root, multipliers, 2 * value * SCALE)
        for width in (1, 10, 10_000):
            for beam in (
                beam_search(problem, root, multipliers, 2 * value * SCALE, np.inf, width=width),
                refine(within, problem, multipliers, 2 * value * SCALE, np.inf, remembered=range(5), beam=width),
            ):
                path = beam.evaluate(problem, multipliers)
                if path is not None and (path.times == 1).all():
                    assert fits(instance, problem.starts(path.layers))
                    assert latency(instance, problem.starts(path.layers)) >= value
                assert width < 10_000 or latency(instance, problem.starts(path.layers)) == value


def test_no_schedule_that_does_not_fit_is_taken() -> None:
    """Tests that the search refuses starts before arrivals, and starts that exceed the memory."""
    instance = generate("kv-synthetic", seed=1, requests=9, kv_capacity=16)
    search = Search(instance, first_starts(instance))
    before = search.value
    search.offer(np.zeros(9, dtype=np.int64))
    search.offer(search.starts - 1)
    assert search.value == before
    search.offer(Known(instance).hindsight.starts)
    assert search.value < before


def test_a_stop_keeps_what_is_known() -> None:
    """Tests that a deadline that is over leaves the schedule given and a valid bound."""
    instance = generate("kv-synthetic", seed=2, requests=16)
    starts = Known(instance).hindsight.starts
    search = searched(instance, starts, seconds=0.0)
    assert search.value == latency(instance, starts)
    assert instance.arrays.output.sum() <= search.bound < search.value


def test_solve_takes_it_by_itself() -> None:
    """Tests the default: the value is the judge's, the stages say what they did, nothing is left to a solver."""
    instance = generate("kv-synthetic", seed=1, requests=9, kv_capacity=16)
    result = mk.solve(instance)
    assert (result.status, result.stop, result.producer.solver) == ("optimal", "finished", "diagram")
    assert result.objective.value == result.objective.bound
    names = [stage.name for stage in result.stages]
    assert names[:2] == ["warm start", "exact neighbourhoods"]
    assert {"start windows", "root"} <= set(names)
    bounds = [stage.bound for stage in result.stages if stage.bound is not None]
    assert bounds == sorted(bounds)
    assert bounds[-1] == result.objective.bound


def test_interrupt_keeps_schedule_and_bound() -> None:
    """Tests that Ctrl-C during the search gives the best schedule and the bound of the last stage."""
    instance = generate("kv-synthetic", seed=2, requests=16)
    heard: list[float] = []

    def press(news: Progress) -> None:
        if news.phase == "root" and news.bound is not None:
            heard.append(news.bound)
            os.kill(os.getpid(), signal.SIGINT)

    result = mk.solve(instance, listen=press, time_limit=60)
    assert (result.status, result.stop, result.producer.solver) == ("feasible", "interrupted", "diagram")
    assert result.objective.bound == heard[0] > instance.arrays.output.sum()
    assert [stage.name for stage in result.stages][-1] == "root"


def test_what_it_does_not_take() -> None:
    """Tests the reasons, and the message when it is asked for by name."""
    chat = generate("chat", requests=12, rate=0.0, kv_capacity=2000)
    assert "outputs of at most" in str(refusal(chat))
    with pytest.raises(UsageError, match="does not take this instance"):
        mk.solve(chat, solver="diagram")
    with pytest.raises(UsageError, match="has no options"):
        mk.solve(generate("kv-synthetic", requests=9), solver="diagram", options={"x": 1})
    assert refusal(generate("kv-synthetic", requests=64)) is not None
