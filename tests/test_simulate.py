"""The simulator and its policies: against a naive simulation, with wrong predictions, and with rogue policies."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modelkit import policies as registry
from modelkit.errors import InfeasibleError, UsageError
from modelkit.instance import Instance, LinearClock, Request, Server
from modelkit.judge import judge
from modelkit.policies import Policy, PolicyEntry, Seen, View
from modelkit.policies.lookahead import LookAhead, McSf
from modelkit.schedule import Schedule
from modelkit.simulation.simulate import PolicyError, clairvoyant_schedule, policy_schedule, simulate

Decisions = list[tuple[int, list[str], list[str]]]


# --- a second, naive simulation ----------------------------------------------------------------

#: What each look-ahead policy sorts by, from (arrival, prompt, predicted output).
ORDERS: dict[str, Callable[[int, int, int], int]] = {
    "mc-sf": lambda a, s, o: o,
    "mc-benchmark": lambda a, s, o: a,
    "svf": lambda a, s, o: sum(s + j for j in range(1, o + 1)),
}


def naive(instance: Instance, order: Callable[[int, int, int], int]) -> Decisions:
    """Decisions (round, admitted, evicted) of a look-ahead policy, every round and every check written out."""
    capacity, slots = instance.server.kv_capacity_tokens, instance.server.slots or 10**9
    requests = {i: (int(r.arrival), r.prompt_tokens, r.output_tokens) for i, r in enumerate(instance.requests)}
    predicted = {i: r.prediction[1] for i, r in enumerate(instance.requests)}
    if capacity is not None:
        predicted = {i: min(o, capacity - requests[i][1]) for i, o in predicted.items()}
    start: dict[int, int] = {}  # of those in progress, in the order of admission
    waiting: set[int] = set()
    unseen = set(requests)
    decisions: Decisions = []
    now = 0

    def held(after: int) -> int:
        return sum(requests[i][1] + after - k for i, k in start.items() if predicted[i] >= after - k)

    while unseen or waiting or start:
        for i in [i for i in start if start[i] + requests[i][2] == now]:
            del start[i]
        for i, k in start.items():  # it runs on, so it is longer than predicted
            predicted[i] = max(predicted[i], now - k + 1)
        arrived = {i for i in unseen if requests[i][0] <= now}
        unseen -= arrived
        waiting |= arrived
        evicted = []
        while capacity is not None and held(now + 1) > capacity:
            i, _ = start.popitem()
            evicted.append(i)
        waiting |= set(evicted)
        admitted = []
        for i in sorted(waiting, key=lambda i: (order(*requests[i][:2], predicted[i]), requests[i][0], i)):
            start[i] = now
            fits = capacity is None or all(held(start[j] + predicted[j]) <= capacity for j in start)
            if not fits or len(start) > slots:
                del start[i]
                break
            admitted.append(i)
        waiting -= set(admitted)
        if admitted or evicted:
            names = [r.id for r in instance.requests]
            decisions.append((now, [names[i] for i in admitted], [names[i] for i in evicted]))
        now += 1
    return decisions


def decisions(schedule: Schedule) -> Decisions:
    """The same of a schedule."""
    return [(int(s.at), [a.request for a in s.admit], list(s.evict)) for s in schedule.segments]


def random_instance(rng: random.Random, *, wrong: bool = False, slots: int | None = None) -> Instance:
    """Between 3 and 25 requests with many ties; with ``wrong`` predictions below, above and around the truth."""
    capacity = rng.randint(20, 60)
    last = rng.choice([0, 3, 15, 60])
    longest = rng.choice([4, 12, capacity])
    requests = []
    for i in range(rng.randint(3, 25)):
        s = rng.randint(1, 5)
        o = rng.randint(1, min(longest, capacity - s))
        lower, upper = sorted(max(1, o + rng.randint(-6, 6)) for _ in range(2))
        prediction = rng.choice([None, lower, upper, (lower, upper)]) if wrong else None
        requests.append(
            Request(
                id=f"q{i}",
                arrival=rng.randint(0, last),
                prompt_tokens=s,
                output_tokens=o,
                predicted_output_tokens=prediction,
            )
        )
    return Instance(server=Server(kv_capacity_tokens=capacity, slots=slots), requests=tuple(requests))


@pytest.mark.parametrize("policy", ORDERS)
def test_naive_simulation_agrees(policy: str) -> None:
    """With true predictions each look-ahead policy decides as in a naive simulation, and never evicts."""
    rng = random.Random(1)
    waited = 0
    for _ in range(200):
        instance = random_instance(rng)
        schedule = policy_schedule(instance, policy)
        assert decisions(schedule) == naive(instance, ORDERS[policy]), instance
        verdict = judge(instance, schedule)
        assert verdict.valid
        assert verdict.metrics["evictions"] == 0
        waited += verdict.metrics["total_latency_rounds"] > sum(r.output_tokens for r in instance.requests)
    assert waited > 100


@pytest.mark.parametrize("policy", ORDERS)
def test_naive_simulation_agrees_on_wrong_predictions(policy: str) -> None:
    """With wrong predictions too, and the schedule stays valid: what does not fit is evicted and served later."""
    rng = random.Random(2)
    evictions = 0.0
    for _ in range(150):
        instance = random_instance(rng, wrong=True, slots=rng.choice([None, None, 2, 4]))
        schedule = policy_schedule(instance, policy)
        assert decisions(schedule) == naive(instance, ORDERS[policy]), instance
        verdict = judge(instance, schedule)
        assert verdict.valid
        assert verdict.metrics["total_latency_rounds"] is not None
        evictions += verdict.metrics["evictions"] or 0
    assert evictions > 100


def test_orders_cover_the_registry() -> None:
    """No policy that scans by a key goes without a naive counterpart."""
    entries = registry.policies().items()
    assert set(ORDERS) == {name for name, entry in entries if getattr(entry.make, "admit", None) is LookAhead.admit}


@pytest.mark.parametrize("policy", ORDERS)
def test_clairvoyance_is_true_predictions(policy: str) -> None:
    """In hindsight a policy decides as if every prediction had been the truth."""
    rng = random.Random(3)
    for _ in range(20):
        instance = random_instance(rng, wrong=True)
        told = tuple(r.model_copy(update={"predicted_output_tokens": None}) for r in instance.requests)
        truth = instance.replace(requests=told)
        assert clairvoyant_schedule(instance, policy) == policy_schedule(truth, policy)


# --- by hand -----------------------------------------------------------------------------------


def small(*requests: tuple[Any, ...], capacity: int | None = 10, slots: int | None = None) -> Instance:
    """Instance of requests a, b, c, ... from (arrival, prompt, output[, prediction])."""
    return Instance(
        server=Server(kv_capacity_tokens=capacity, slots=slots),
        requests=tuple(
            Request(
                id="abcdefgh"[i],
                arrival=a,
                prompt_tokens=s,
                output_tokens=o,
                predicted_output_tokens=prediction[0] if prediction else None,
            )
            for i, (a, s, o, *prediction) in enumerate(requests)
        ),
    )


def test_mc_sf_by_hand() -> None:
    """Shortest predicted output first; b waits a round, until it is two tokens shorter at a's end."""
    instance = small((0, 2, 4), (0, 1, 4, 5), (0, 1, 2))
    # at a's end in round 4 a holds 6 tokens and b, started at k, 1 + 4 - k; together at most 10 from k = 1 on
    assert decisions(policy_schedule(instance, "mc-sf")) == [(0, ["c", "a"], []), (1, ["b"], [])]


def test_slots_are_taken_from_the_lowest() -> None:
    """Under a slot limit each admission names the lowest free slot, and nobody starts without one."""
    instance = small((0, 1, 3), (0, 1, 1), (0, 1, 1), (7, 1, 1), capacity=None, slots=2)
    schedule = policy_schedule(instance, "mc-benchmark")
    assert [(s.at, [tuple(a) for a in s.admit]) for s in schedule.segments] == [
        (0, [("a", 0), ("b", 1)]),
        (1, [("c", 1)]),
        (7, [("d", 0)]),
    ]
    assert judge(instance, schedule).valid


def test_eviction_by_hand() -> None:
    """Two outputs of 4 predicted as 1 overfill 8 tokens in round 3: the later admitted makes room."""
    instance = small((0, 2, 4, 1), (0, 2, 4, 1), capacity=8)
    schedule = policy_schedule(instance, "mc-sf")
    # after 2 rounds a is predicted to end in the next, with 5 tokens: b may start again beside it; it does not end
    assert decisions(schedule) == [(0, ["a", "b"], []), (2, ["b"], ["b"]), (3, [], ["b"]), (4, ["b"], [])]
    metrics = judge(instance, schedule).metrics
    assert metrics["recomputed_tokens"] == (2 + 2) + (2 + 1)
    assert metrics["total_latency_rounds"] == 4 + 8


def test_time_goes_by_in_events() -> None:
    """While nobody waits, late arrivals and long outputs take no round-by-round work."""
    instance = small((10**9, 1, 10**8), (10**9 - 10**8, 1, 10**8), capacity=10**9)
    schedule = policy_schedule(instance, "mc-sf")
    assert [(s.at, s.rounds) for s in schedule.segments] == [(10**9 - 10**8, 10**8), (10**9, 10**8)]


# --- what a policy sees ------------------------------------------------------------------------


@pytest.fixture
def register() -> Iterator[Callable[..., str]]:
    """Registers policies under the name ``test-policy``, until the test is over."""

    def add(make: Callable[[], Policy], *, clairvoyant: bool = False) -> str:
        registry.REGISTRY.remove("test-policy")
        registry.REGISTRY.add("test-policy", PolicyEntry("test-policy", "", "", make, clairvoyant, "unit"), make)
        return "test-policy"

    yield add
    registry.REGISTRY.remove("test-policy")


class Spy(McSf):
    """mc-sf that writes down all it is told and asked, with the moment."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple[str, float | None, Any]] = []

    def arrived(self, request: Seen) -> None:
        self.notes.append(("arrived", None, request))
        super().arrived(request)

    def started(self, request: Seen, now: float) -> None:
        self.notes.append(("started", now, request))
        super().started(request, now)

    def ended(self, request: Seen, now: float) -> None:
        self.notes.append(("ended", now, request))
        super().ended(request, now)

    def outgrew(self, request: Seen, now: float) -> None:
        self.notes.append(("outgrew", now, request))
        super().outgrew(request, now)

    def admit(self, view: View) -> Iterator[int]:
        self.note_view("admit", view)
        return super().admit(view)

    def evict(self, view: View) -> Iterator[int]:
        self.note_view("evict", view)
        return super().evict(view)

    def note_view(self, what: str, view: View) -> None:
        """Write down all fields of a view but the source of randomness."""
        state = (view.now, view.capacity, view.held, dict(view.running), view.free_slots)
        self.notes.append((what, view.now, state))


def spied(instance: Instance, register: Callable[..., str], *, clairvoyant: bool = False) -> Spy:
    """The spy after a run on the instance."""
    spies: list[Spy] = []

    def make() -> Spy:
        spies.append(Spy())
        return spies[-1]

    policy_schedule(instance, register(make, clairvoyant=clairvoyant))
    return spies[-1]  # the first was made to see whether its options can be


def test_policy_sees_predictions(register: Callable[..., str]) -> None:
    """On arrival a policy is told the predictions, cut to what the server could hold, and not the true length."""
    spy = spied(small((0, 2, 7, 3), (0, 2, 7, 9), (0, 2, 7, (1, 5)), (1, 2, 7)), register)
    first = {note[-1].number: note[-1] for note in reversed(spy.notes) if note[0] == "arrived"}
    assert [first[i] for i in range(4)] == [
        (0, 0, 2, 3, 3, 0),
        (1, 0, 2, 8, 8, 0),
        (2, 0, 2, 1, 5, 0),
        (3, 1, 2, 7, 7, 0),
    ]


def test_clairvoyant_policy_sees_the_truth(register: Callable[..., str]) -> None:
    """A policy that is registered as clairvoyant is told the true length in place of any prediction."""
    spy = spied(small((0, 2, 7, 3), (0, 2, 6, (1, 5))), register, clairvoyant=True)
    assert [note[-1] for note in spy.notes if note[0] == "arrived"] == [(0, 0, 2, 7, 7, 0), (1, 0, 2, 6, 6, 0)]


def test_policy_never_sees_the_future(register: Callable[..., str]) -> None:
    """Until the first completion of a request whose true length was changed, a policy sees the same."""
    rng = random.Random(4)
    compared = 0
    for _ in range(40):
        instance = random_instance(rng, wrong=True)
        requests, changed = [], set()
        for i, r in enumerate(instance.requests):
            o = r.output_tokens
            if rng.random() < 0.2 and o > 1:
                o = rng.randint(1, o - 1)
                changed.add(i)
            update = {"output_tokens": o, "predicted_output_tokens": r.prediction}
            requests.append(r.model_copy(update=update))
        other = instance.replace(requests=tuple(requests))
        ends, notes = [], []
        for run in (instance, other):
            spy = spied(run, register)
            residencies = judge(run, policy_schedule(run, "mc-sf")).residencies
            ends += [
                residency.end or 0 for residency in residencies if residency.completed and residency.request in changed
            ]
            notes.append(spy.notes)
        differing = min(ends, default=0)

        def before(all_notes: list[Any], moment: float) -> list[Any]:
            earlier = [p for p, (_, t, _) in enumerate(all_notes, start=1) if t is not None and t < moment]
            return all_notes[: max(earlier, default=0)]

        assert before(notes[0], differing) == before(notes[1], differing)
        compared += len(before(notes[0], differing))
    assert compared > 500


def test_outgrown_predictions_grow_with_time(register: Callable[..., str]) -> None:
    """A request that runs past its prediction is known to be one token longer, round after round."""
    spy = spied(small((0, 2, 5, (1, 2))), register)
    assert [note for note in spy.notes if note[0] == "outgrew"] == [
        ("outgrew", 2, (0, 0, 2, 3, 3, 0)),
        ("outgrew", 3, (0, 0, 2, 4, 4, 0)),
        ("outgrew", 4, (0, 0, 2, 5, 5, 0)),
    ]


def test_evicted_request_is_known_to_be_longer(register: Callable[..., str]) -> None:
    """A request evicted after two rounds has at least three tokens, which its prediction says from then on."""
    spy = spied(small((0, 2, 4, 1), (0, 2, 4, (1, 5)), capacity=8), register)
    told = [note[-1] for note in spy.notes if note[0] == "arrived" and note[-1].number == 1]
    assert told[:2] == [(1, 0, 2, 1, 5, 0), (1, 0, 2, 3, 5, 0)]


class Greedy(Policy):
    """Admits everybody to an empty server, whether they fit or not."""

    def __init__(self) -> None:
        self.waiting: list[int] = []

    def arrived(self, request: Seen) -> None:
        self.waiting.append(request.number)

    def started(self, request: Seen, now: float) -> None:
        self.waiting.remove(request.number)

    def admit(self, view: View) -> list[int]:
        return [] if view.running else list(self.waiting)


def test_overflow_is_foreseen(register: Callable[..., str]) -> None:
    """A policy is asked to evict before the round that would overflow, even when nothing else happens then."""
    instance = small((0, 2, 4), (0, 2, 4), capacity=8)
    schedule = policy_schedule(instance, register(Greedy))
    assert decisions(schedule) == [(0, ["a", "b"], []), (2, [], ["b"]), (4, ["b"], [])]


def test_view_is_read_only(register: Callable[..., str]) -> None:
    """A policy cannot change what is in progress through its view."""

    class Meddler(McSf):
        def admit(self, view: View) -> Iterator[int]:
            view.running[0] = None  # type: ignore[index]
            return super().admit(view)

    with pytest.raises(TypeError, match="does not support item assignment"):
        policy_schedule(small((0, 1, 1)), register(Meddler))


# --- determinism and results -------------------------------------------------------------------


@pytest.mark.parametrize("policy", ORDERS)
def test_same_seed_same_result(policy: str) -> None:
    """A simulation is a function of instance, policy and seed."""
    instance = random_instance(random.Random(5), wrong=True)
    one, two = (simulate(instance, policy, seed=7).document() for _ in range(2))
    assert {**one, "seconds": None} == {**two, "seconds": None}


def test_randomness_comes_from_the_seed(register: Callable[..., str]) -> None:
    """A policy's own source of randomness is seeded by the run."""

    class Hesitant(McSf):
        def admit(self, view: View) -> Iterator[int]:
            return iter(()) if view.running and view.rng.random() < 0.5 else super().admit(view)

    name = register(Hesitant)
    instance = small(*[(t, 1, 4) for t in range(8)], capacity=100)
    runs = [policy_schedule(instance, name, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert runs[0] == runs[1]
    assert len(set(runs)) > 1


def test_result_of_a_simulation() -> None:
    """The result states the policy, the judge's metrics and a feasible schedule, and claims no bound."""
    instance = small((0, 2, 4), (3, 2, 4))
    result = simulate(instance, "svf", seed=3)
    assert result.schedule is not None
    assert result.metrics == judge(instance, result.schedule).metrics
    assert (result.status, result.objective.value, result.objective.bound) == ("feasible", 8, None)
    assert (result.producer.kind, result.producer.name, result.producer.seed) == ("policy", "svf", 3)


# --- what is refused ---------------------------------------------------------------------------


class Rogue(Policy):
    """Admits and evicts what it is told to, whatever is the case."""

    def __init__(self, admit: list[Any], evict: list[Any] | None = None) -> None:
        self.numbers = admit
        self.evicted = evict

    def admit(self, view: View) -> list[Any]:
        return [] if view.running else self.numbers

    def evict(self, view: View) -> Any:
        return super().evict(view) if self.evicted is None else self.evicted


@pytest.mark.parametrize(
    ("admit", "evict", "slots", "message"),
    [
        ([0, 1, 2], None, None, "in round 1 the policy admits more tokens than the KV cache holds"),
        ([0, 0], None, None, "admits request 'a', which does not wait"),
        ([3], None, None, "admits request 'd', which does not wait"),
        ([4], None, None, "admits request number 4, which does not wait"),
        ([-1], None, None, "admits request number -1, which does not wait"),
        (["a"], None, None, "admits request number 'a', which does not wait"),
        ([0, 1], None, 1, "admits request 'b', but no slot is free"),
        ([], None, None, "admits no request although the server is empty"),
        ([0, 1], [2], None, "evicts request 'c', which is not in progress"),
        ([0, 1], [1, 1], None, "evicts request 'b', which is not in progress"),
        ([0, 1], [], None, "in round 3 the policy leaves more tokens than the KV cache holds"),
    ],
)
def test_rogue_policy(
    register: Callable[..., str], admit: list[Any], evict: list[Any] | None, slots: int | None, message: str
) -> None:
    """A policy that decides what the server cannot do is stopped with what it did."""
    # three fit for no round, two for two rounds; d arrives last
    instance = small((0, 2, 4), (0, 2, 4), (0, 2, 4), (9, 2, 4), capacity=8, slots=slots)
    if not admit:  # nobody is to come that it could wait for
        instance = small((0, 2, 4))
    with pytest.raises(PolicyError, match=message):
        policy_schedule(instance, register(lambda: Rogue(admit, evict)))


def test_waiting_for_arrivals_is_no_misbehaviour(register: Callable[..., str]) -> None:
    """A policy may leave an empty server empty while somebody is still to come."""

    class Pair(Greedy):
        def admit(self, view: View) -> list[int]:
            return super().admit(view) if len(self.waiting) == 2 else []

    instance = small((0, 1, 2), (6, 1, 2))
    assert decisions(policy_schedule(instance, register(Pair))) == [(6, ["a", "b"], [])]


def test_unknown_policy() -> None:
    """An unknown name is answered with the nearest one and all that there are."""
    with pytest.raises(UsageError) as caught:
        simulate(small((0, 1, 1)), "mc-fs")
    names = ", ".join(registry.policies())
    assert str(caught.value) == f"unknown policy 'mc-fs'; did you mean 'mc-sf'?\n  known: {names}"


def test_name_is_registered_once() -> None:
    """Two policies cannot share a name."""
    with pytest.raises(ValueError, match="'mc-sf' is registered twice"):
        registry.policy("mc-sf", summary="", reference="")(Spy)


def test_linear_clock_is_refused() -> None:
    """The simulator says which clock a policy is for."""
    instance = small((0, 1, 1)).replace(server=Server(slots=1, clock=LinearClock(kind="linear")))
    with pytest.raises(UsageError, match="unit clock"):
        simulate(instance)


def test_request_that_never_fits_is_refused() -> None:
    """An instance without any schedule is infeasible for a policy too, and the request at fault is named."""
    with pytest.raises(InfeasibleError, match=r"request 'b' needs 2 \+ 9 = 11 tokens"):
        simulate(small((0, 1, 1), (0, 2, 9)))
