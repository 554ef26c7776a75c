"""The search for schedules in real time, and what `bound` makes of it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from realtime_brute_force import OBJECTIVES, optimum, question

import modelkit as mk
from modelkit.errors import InterruptedWith, UsageError
from modelkit.instance import LinearClock, Request
from modelkit.instance import Server as Machine
from modelkit.judge import judge
from modelkit.problems.problem import SERVING
from modelkit.problems.serving import search as searching
from modelkit.problems.serving.annealing import propose, seed_generator
from modelkit.problems.serving.plan_kernel import Releases
from modelkit.problems.serving.search import MOVED, Plan, Server, anneal_windows, grid_plans, search_schedule, tune_gate
from modelkit.runtime.deadline import Deadline
from modelkit.simulation.simulate import clairvoyant_schedule, fitting_policies
from modelkit.solving import serving as solving
from modelkit.solving.certified import Task
from modelkit.solving.serving import ServingSearch
from modelkit.sources.families import generate

METRICS = dict(zip(OBJECTIVES, ("total_latency_ms", "makespan_ms", "total_ttft_ms"), strict=True))


def chats(requests: int, rate: float, seed: int = 0) -> mk.Instance:
    return generate("chat", requests=requests, rate=rate, server="llama2-70b-2xa100", seed=seed)


@pytest.mark.parametrize("seed", range(16))
def test_plans_are_valid_and_worth_what_they_say(seed: int) -> None:
    """Tests the compiled run of a plan against the judge, under every clock and every metric."""
    instance, _, _ = question(seed)
    arrivals = {"makespan_ms": 0.0}
    for metric in SERVING.objectives:
        server = Server(instance, metric)
        for plan in list(grid_plans(server, Deadline()))[::7]:
            verdict = judge(instance, server.schedule(plan))
            assert verdict.violations == ()
            less = arrivals.get(metric, float(server.requests.arrival.sum()))
            assert verdict.metrics[metric] == pytest.approx(plan.total - less, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("seed", range(0, 40, 8))
def test_bound_and_schedule_enclose_the_optimum(seed: int) -> None:
    """Tests `bound` on tiny instances against exhaustive search: bound <= optimum <= best schedule."""
    instance, _, _ = question(seed)
    for objective, metric in METRICS.items():
        best = optimum(instance, objective).value
        found = mk.bound(instance, objective=metric, time_limit=1)
        assert found.value <= best * (1 + 1e-9) + 1e-6
        value = found.result.objective.value
        assert value is not None
        assert value >= best - 1e-6


def test_no_policy_beats_the_schedule_of_bound() -> None:
    """Tests that the best schedule is that of the best of all policies or better, and that the bound is below."""
    for instance in (chats(60, 20.0), chats(60, 3.0, seed=1)):
        task = Task(instance, "total_latency_ms", None, 0.0, 0, lambda news: None)
        search = ServingSearch(task)
        search.try_policies(Deadline())
        search.prove(Deadline())
        assert search.best is not None
        assert search.certificate is not None
        for name in [*fitting_policies(instance), "mc-sf:gate=auto", "svf:gate=auto"]:
            of_policy = judge(instance, clairvoyant_schedule(instance, name)).metrics["total_latency_ms"]
            assert of_policy is not None
            assert search.certificate.value <= search.best[0] <= of_policy * (1 + 1e-12)


def test_few_requests_are_solved_without_a_solver() -> None:
    """Tests that a search over states proves the optimum where a model is too large, and that `bound` finds it."""
    rows = [(0.0, 40, 500), (0.0, 30, 3), (0.01, 20, 40), (0.02, 10, 2)]
    instance = served(rows, prefill_base_ms=4.0, prefill_per_token_ms=0.5, decode_base_ms=3.0)
    best = optimum(instance).value
    solved = mk.solve(instance, time_limit=60)
    assert "too large" in solved.message
    assert (solved.status, solved.objective.bound_by, solved.certificate) == ("optimal", "solver", None)
    assert solved.objective.value == pytest.approx(best)
    found = mk.bound(instance, time_limit=30)
    assert found.result.objective.value == pytest.approx(best)
    assert found.result.objective.bound_by == "certificate"
    assert found.result.status == "optimal" or "optimal" in found.open_words


@pytest.mark.parametrize("time_limit", [0.01, None])
def test_a_hurried_bound_says_so(time_limit: float | None) -> None:
    """Tests that prices that had too little time are not taken for all that can be proven."""
    instance = chats(15, 13.0)
    search = ServingSearch(Task(instance, "total_latency_ms", time_limit, 0.0, 0, lambda news: None))
    search.try_policies(Deadline(0.0))
    search.prove(Deadline(0.0))
    search.price(search.task.deadline)
    assert search.hurried == (time_limit is not None)


@pytest.mark.parametrize("rate", [5.0, 40.0])
def test_annealing_improves_list_schedules(rate: float) -> None:
    """Tests that annealing finds better schedules than the grid, where memory binds and where it does not."""
    instance = chats(80, rate)
    listed = judge(instance, search_schedule(instance, anneal=False))
    annealed = judge(instance, search_schedule(instance, seed=1))
    assert annealed.violations == ()
    assert annealed.metrics["total_latency_ms"] < 0.9995 * listed.metrics["total_latency_ms"]  # type: ignore[operator]


def test_a_schedule_is_where_the_search_begins() -> None:
    """Tests that a schedule of a policy becomes a plan of the same value."""
    instance = chats(200, 20.0)
    verdict = judge(instance, clairvoyant_schedule(instance, "mc-sf:gate=auto"))
    server = Server(instance)
    plan = server.plan_of(verdict.residencies)
    value = verdict.metrics["total_latency_ms"]
    assert plan.total - float(server.requests.arrival.sum()) == pytest.approx(value, rel=1e-9)


def test_the_same_seed_gives_the_same_schedule() -> None:
    """Tests that a fixed amount of work is deterministic."""
    instance = chats(40, 10.0)
    assert search_schedule(instance, seed=3) == search_schedule(instance, seed=3)


def test_what_has_started_starts_at_the_same_time_again() -> None:
    """Tests that releases a little before the starts change nothing, where a short prefill comes before them."""
    instance = served([(0, 10, 3), (0, 10, 3), (0, 10, 3)], prefill_base_ms=10.0, decode_base_ms=50.0)
    server = Server(instance)
    plan = server.plan(np.array([0.0, 5.0, 5.0]), np.arange(3), server.rule)
    assert searching.started(server, plan).total == pytest.approx(plan.total)


def test_moves_release_nobody_too_early() -> None:
    """Tests that moves keep to the earliest releases, change several groups at once, and split them by outputs."""
    requests = Server(chats(40, 10.0)).requests
    order, release = np.arange(40), np.repeat(requests.arrival[3::4], 4)
    earliest = np.maximum(requests.arrival, float(requests.arrival[4]))
    plan = Releases(order, np.maximum(release, earliest), order)
    groups, split = set(), 0
    seed_generator(5)
    for _ in range(400):
        trial = plan.release.copy()
        propose(requests, plan, earliest, 9, trial)
        changed = np.flatnonzero(trial != plan.release)
        assert np.all(trial >= earliest)
        groups.add(len(set(changed // 4)))
        left = [k for k in changed if k in (8, 9, 10, 11)]
        stay = {8, 9, 10, 11} - set(left)
        if len(left) > 1 and stay and len(left) == len(changed):
            split += max(requests.output[left]) < min(requests.output[k] for k in stay)
    assert max(groups) > 3
    assert split > 3


def test_plans_are_crossed_where_that_gains() -> None:
    """Tests that two plans that are each good in one half make one that is better than both."""
    server = Server(chats(60, 5.0))
    plan = searching.started(server, min(grid_plans(server, Deadline()), key=lambda plan: plan.total))
    late = plan.release > np.median(plan.release)
    worse = [server.plan(plan.release + 800.0 * half, plan.rank, plan.rule) for half in (late, ~late)]
    found = list(searching.crossed(server, worse, Deadline()))
    assert found[-1].total < min(half.total for half in worse)
    assert server.run(found[-1]) == found[-1].total


def test_tuning_keeps_what_gains() -> None:
    """Tests that the gate's threshold, tuned by intervals of time, gives better plans than one threshold."""
    server = Server(chats(300, 10.0))
    best = min(grid_plans(server, Deadline()), key=lambda plan: plan.total)
    plans = [best, *tune_gate(server, best, Deadline(), 0)]
    totals = [plan.total for plan in plans]
    assert totals == sorted(totals, reverse=True)
    assert len(set(plans[-1].rule.threshold)) > 1
    assert server.run(plans[-1]) == totals[-1]


def test_windows_keep_what_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests annealing in windows: totals fall, and are what the judge says."""
    monkeypatch.setattr(searching, "EFFORT", 60)
    instance = chats(3 * MOVED, 8.0)
    server = Server(instance)
    best = min(grid_plans(server, Deadline()), key=lambda plan: plan.total)
    totals = [best.total]
    plan = best
    for plan in anneal_windows(server, best, Deadline()):
        totals.append(plan.total)
    assert totals == sorted(totals, reverse=True)
    assert len(totals) > 1
    verdict = judge(instance, server.schedule(plan))
    arrivals = float(server.requests.arrival.sum())
    assert verdict.metrics["total_latency_ms"] == pytest.approx(plan.total - arrivals, rel=1e-9)


@pytest.mark.parametrize("mixed", [True, False])
def test_windows_end_where_all_start_together(mixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that windows move on past requests that no release tells apart: more arrive, and start, than are moved."""
    monkeypatch.setattr(searching, "WINDOW", 10)
    monkeypatch.setattr(searching, "MOVED", 4)
    monkeypatch.setattr(searching, "EFFORT", 2)
    rows = [(0.0, 3 + i % 5, 2 + i % 7) for i in range(30)] + [(0.01, 4, 3)] * 10
    instance = served(rows, mixed=mixed, prefill_base_ms=4.0, decode_base_ms=10.0)
    instance = instance.replace(server=instance.server.model_copy(update={"kv_capacity_tokens": 120}))
    server = Server(instance)
    plan = min(grid_plans(server, Deadline()), key=lambda plan: plan.total)
    windows: list[int] = []
    anneal_window = searching.anneal_window

    def counted(*arguments: Any, **settings: Any) -> Plan:
        windows.append(len(arguments[2]))
        assert len(windows) <= 40
        return anneal_window(*arguments, **settings)

    monkeypatch.setattr(searching, "anneal_window", counted)
    best = min([plan, *anneal_windows(server, plan, Deadline())], key=lambda plan: plan.total)
    assert np.all(np.diff(windows) < 0)
    assert judge(instance, server.schedule(best)).violations == ()


def test_ctrl_c_keeps_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that an interrupted search carries its best schedule."""
    instance = chats(50, 10.0)

    def press(value: float) -> None:
        pressed.append(value)
        if len(pressed) == 3:
            raise KeyboardInterrupt

    pressed: list[float] = []
    with pytest.raises(InterruptedWith) as caught:
        search_schedule(instance, listen=press)
    assert judge(instance, caught.value.best).metrics["total_latency_ms"] == pytest.approx(pressed[-1])


def test_an_interrupted_bound_is_whole() -> None:
    """Tests that Ctrl-C in any phase of `bound` leaves a certified bound and a judged schedule."""
    instance = chats(50, 10.0)
    phases: list[str] = []
    mk.bound(instance, time_limit=2, listen=lambda news: phases.append(news.phase))
    for phase in dict.fromkeys(phases):

        def press(news: object, phase: str = phase) -> None:
            if getattr(news, "phase", None) == phase:
                raise KeyboardInterrupt

        found = mk.bound(instance, time_limit=5, listen=press)
        assert found.result.stop == "interrupted"
        assert found.result.objective.value is not None
        assert 0 < found.value <= found.result.objective.value


def test_plan_arrays_are_not_shared() -> None:
    """Tests that a plan handed out is not changed by what is searched afterwards."""
    server = Server(chats(30, 10.0))
    plans = list(searching.improve_plans(server, Deadline.after(0.5), 0, (), True))
    totals = [(plan.total, server.run(Plan(plan.release, plan.rank, plan.rule, 0.0))) for plan in plans]
    assert all(said == pytest.approx(runs) for said, runs in totals)
    assert np.all(np.diff([said for said, _ in totals]) <= 0) or len(totals) == 1


@pytest.mark.parametrize("mixed", [True, False])
def test_solve_takes_every_instance(mixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests `solve` where no formulation takes the instance, or its model is too large.

    Then it makes none of the windows of a model: of 1,000 requests these would be tens of millions.
    """
    monkeypatch.setattr("modelkit.solving.known.loose_windows", lambda _: pytest.fail("windows of no model"))
    instance = chats(40, 10.0)
    clock = instance.server.clock.model_copy(update={"mixed": mixed})
    instance = instance.replace(server=instance.server.model_copy(update={"clock": clock}))
    result = mk.solve(instance, time_limit=4)
    assert result.status == "feasible"
    assert result.objective.bound_by == "certificate"
    assert result.objective.value is not None
    assert 0 < (result.objective.bound or 0) <= result.objective.value
    assert "no solver ran" in result.message


def test_an_interrupted_warm_start_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that Ctrl-C while the first schedules are made loses none of them."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("modelkit.solving.serving.search_schedule", interrupt)
    result = mk.solve(chats(12, 10.0), time_limit=10)
    assert (result.status, result.stop) == ("feasible", "interrupted")


@pytest.mark.parametrize(
    "server",
    [
        Machine(slots=2, clock=LinearClock(kind="linear", decode_base_ms=5.0, prefill_base_ms=9.0)),
        Machine(slots=2, kv_capacity_tokens=40),
    ],
    ids=["slots with arrivals", "slots of unit rounds"],
)
def test_solve_takes_slots_with_arrivals(server: Machine) -> None:
    """Tests `solve` on slots whose requests arrive over time."""
    requests = tuple(Request(id=f"q{i}", arrival=3 * i, prompt_tokens=4, output_tokens=6 + i) for i in range(6))
    instance = mk.Instance(name="slots", server=server, requests=requests)
    result = mk.solve(instance, time_limit=4)
    assert result.status in ("feasible", "optimal")
    assert "no solver ran" in result.message
    assert mk.verify_result(result, instance).holds


def test_parameters_are_never_forgotten() -> None:
    """Tests that an instance with a parameter of a formulation is not solved without it."""
    with pytest.raises(mk.UsageError, match="none has all the parameters batch_cap"):
        mk.solve(chats(10, 10.0).replace(extra={"batch_cap": 2}))


def test_solve_says_what_can_never_run() -> None:
    """Tests an instance outside all formulations in which a request never fits."""
    instance = chats(5, 10.0)
    clock = instance.server.clock.model_copy(update={"mixed": False})
    server = instance.server.model_copy(update={"clock": clock, "kv_capacity_tokens": 2})
    result = mk.solve(instance.replace(server=server))
    assert result.status == "infeasible"
    assert "tokens" in result.message


def test_no_policy_begins_that_would_not_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that policies stop where the longest so far is longer than what is left of their share, the best first."""
    instance, begun = chats(20, 10.0), list[tuple[str, float]]()
    until = Deadline.after(1.4)

    def slow(instance: mk.Instance, name: str) -> mk.Schedule:
        begun.append((name, until.left))
        time.sleep(0.25)
        return clairvoyant_schedule(instance, name)

    monkeypatch.setattr(solving, "clairvoyant_schedule", slow)
    ServingSearch(Task(instance, "total_latency_ms", None, 0.0, 0, lambda progress: None)).try_policies(until)
    assert [name for name, _ in begun] == [name for name in solving.FIRST if name != "srpt"][
        : len(begun)
    ]  # which needs pauses
    assert all(left >= 0.25 for _, left in begun[1:])


# --- odd instances ---------------------------------------------------------------------------------


def served(rows: list[tuple[float, int, int]], **law: Any) -> mk.Instance:
    """Requests (arrival in seconds, prompt, output) under a law, mixed unless it says otherwise."""
    requests = [Request(id=f"q{i}", arrival=a, prompt_tokens=s, output_tokens=o) for i, (a, s, o) in enumerate(rows)]
    clock = LinearClock(kind="linear", **{"mixed": True, **law})
    return mk.Instance(server={"kv_capacity_tokens": 5000, "clock": clock}, requests=requests)


@pytest.mark.parametrize(
    "instance",
    [
        pytest.param(served([(0, 5, 3), (0, 4, 2), (1, 3, 3)]), id="nothing lasts"),
        pytest.param(served([(0, 5, 3), (0, 4, 2)], mixed=False), id="nothing lasts, one after the other"),
        pytest.param(served([(0, 10, 5), (1e9, 10, 5)], decode_base_ms=10.0), id="years between arrivals"),
        pytest.param(
            served([(0, 3000, 3), (0, 1500, 2), (0.1, 5, 4)], decode_base_ms=10.0, prefill_levels=((2000, 60.0),)),
            id="a prompt beyond the largest level",
        ),
        pytest.param(
            served([(0, 1500, 3), (0, 1500, 2), (0, 5, 4)], decode_base_ms=10.0, prefill_levels=((2000, 60.0),)),
            id="prompts beyond the largest level together",
        ),
    ],
)
@pytest.mark.parametrize("metric", SERVING.objectives)
def test_bound_answers_on_odd_instances(instance: mk.Instance, metric: str) -> None:
    """Tests that there is a valid schedule, a bound below it, and that both are verified."""
    found = mk.bound(instance, objective=metric, time_limit=0.5)
    assert found.verdict.valid
    assert found.result.objective.value is not None
    assert found.value <= found.result.objective.value
    assert mk.verify_certificate(found.certificate, instance).faults == ()
    assert mk.verify_result(found.result, instance).faults == ()


def test_nothing_is_annealed_where_nothing_lasts() -> None:
    """Tests that there is no temperature to divide by."""
    instance = served([(0, 5, 3), (0, 4, 2), (1, 3, 3)])
    assert judge(instance, search_schedule(instance)).metrics["total_latency_ms"] == 0


def test_prompts_beyond_the_largest_level_are_no_plan() -> None:
    """Tests that the search refuses what it cannot plan, and `solve` answers with a policy's chunks."""
    instance = served([(0, 3000, 3), (0, 5, 4)], decode_base_ms=10.0, prefill_levels=((2000, 60.0),))
    with pytest.raises(UsageError, match="more than 2000 tokens"):
        search_schedule(instance)
    result = mk.solve(instance, time_limit=1)
    assert result.status == "feasible"
    assert result.schedule is not None
    assert result.schedule.tokens_per_iteration == 2000


@pytest.mark.parametrize("seed", range(5))
def test_policies_keep_to_the_largest_level(seed: int) -> None:
    """Tests every policy under levels that hold some prompts alone, no two of them together, or some not at all."""
    rng = np.random.default_rng(seed)
    n = 8
    rows = list(zip(*(rng.integers(1, high, n).tolist() for high in (3, 40, 6)), strict=True))
    mixed = seed % 3 > 0
    largest = int(max(s for _, s, _ in rows) * (rng.uniform(0.3, 1) if seed % 3 == 2 else 1.1))
    levels = ((largest, 9.0), (max(1, largest // 3), 4.0))
    instance = served([(a / 50, s, o) for a, s, o in rows], mixed=mixed, decode_base_ms=5.0, prefill_levels=levels)
    for name in fitting_policies(instance):
        assert judge(instance, clairvoyant_schedule(instance, name)).violations == (), name
