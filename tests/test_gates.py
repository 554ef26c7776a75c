"""Gates: prompts are held back until enough wait; the rule of ``gate=auto`` against a search for the best period."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import modelkit as mk
from modelkit.cli import cli
from modelkit.clock import LinearClock, UnitClock
from modelkit.errors import UsageError
from modelkit.instance import Instance, Request, Server
from modelkit.judge import judge
from modelkit.policies import Policy, Running, Seen, View, chosen_policy, policies, policy
from modelkit.policies.clearing import AlphaProtection
from modelkit.policies.gates import AutoGate, gate_policy
from modelkit.simulation.continuous import ContinuousSimulation
from modelkit.simulation.simulate import policy_schedule

LAW: dict[str, float] = {
    "prefill_base_ms": 10, "prefill_per_token_ms": 1, "decode_base_ms": 20, "decode_per_request_ms": 2,
}  # fmt: skip
GATED = sorted(name for name, entry in policies().items() if entry.clock == "unit" and not entry.pauses)


def case(*rows: tuple[float, int, int], unit: bool = False, capacity: int | None = None) -> Instance:
    """Requests from (arrival, prompt, output)."""
    clock: Any = UnitClock() if unit else LinearClock(kind="linear", mixed=True, **LAW)
    return Instance(
        server=Server(kv_capacity_tokens=capacity, clock=clock),
        requests=tuple(
            Request(id=f"r{i}", arrival=a, prompt_tokens=s, output_tokens=o) for i, (a, s, o) in enumerate(rows)
        ),
    )


def starts(instance: Instance, policy: str) -> list[tuple[float, list[str]]]:
    """(moment, who is admitted) of each admission [s, or rounds]."""
    schedule = policy_schedule(instance, policy)
    assert judge(instance, schedule).valid
    return [(segment.at, [a.request for a in segment.admit]) for segment in schedule.segments]


# --- by hand -----------------------------------------------------------------------------------


def test_prompts_wait_for_each_other() -> None:
    """The first starts at once on the empty server; the second waits for the third."""
    # r0 is read in 10 + 4 = 14 ms; its decode rounds of 22 ms end at 36, 58, 80, 102, ...
    instance = case((0, 4, 40), (0.020, 2, 2), (0.090, 2, 2))
    assert starts(instance, "mc-benchmark") == [(0, ["r0"]), (0.036, ["r1"]), (0.094, ["r2"])]
    assert starts(instance, "mc-benchmark:gate=2") == [(0, ["r0"]), (0.102, ["r1", "r2"])]


def test_the_oldest_waits_no_longer() -> None:
    """The simulation wakes up for it although nothing else happens."""
    instance = case((0, 4, 40), (0.020, 2, 2))
    assert starts(instance, "mc-benchmark:gate=2,wait=0.1") == [(0, ["r0"]), (0.124, ["r1"])]  # the round after 0.120
    assert starts(instance, "mc-benchmark:wait=0.1") == [(0, ["r0"]), (0.124, ["r1"])]


def test_the_last_do_not_wait_for_ever() -> None:
    """Fewer than the gate asks for are admitted when nobody is in progress."""
    instance = case((0, 4, 3), (0.020, 2, 2), (0.021, 2, 2))
    assert starts(instance, "mc-benchmark:gate=9") == [(0, ["r0"]), (0.058, ["r1", "r2"])]


def test_rounds_of_the_unit_clock() -> None:
    """There a wait counts rounds."""
    instance = case((0, 4, 20), (1, 2, 2), (3, 2, 2), unit=True)
    assert starts(instance, "svf:gate=2") == [(0, ["r0"]), (3, ["r1", "r2"])]
    assert starts(instance, "svf:gate=5,wait=7") == [(0, ["r0"]), (8, ["r1", "r2"])]
    assert starts(instance, "svf:wait=2.5") == [(0, ["r0"]), (4, ["r1", "r2"])]


def test_evicted_requests_wait_anew() -> None:
    """Who is evicted counts as waiting from then on, not from its arrival."""
    # two hold 2 (4 + t) after round t: r1 makes room after 6, and again after 10; r0 ends after 12
    instance = case((0, 4, 12), (0, 4, 12), unit=True, capacity=20)
    both = [(0, ["r0", "r1"]), (6, []), (9, ["r1"]), (10, []), (12, ["r1"])]
    assert starts(instance, "vllm-like:block=1,watermark=0,gate=9,wait=3") == both


# --- every policy ------------------------------------------------------------------------------


def random_instance(rng: random.Random) -> Instance:
    rows = [(rng.randint(0, 60) / 64, rng.randint(1, 9), rng.randint(1, 20)) for _ in range(rng.randint(3, 25))]
    instance = case(*rows, capacity=rng.randint(30, 80))
    if rng.random() < 0.3:
        requests = tuple(r.model_copy(update={"arrival": float(int(64 * r.arrival))}) for r in instance.requests)
        return instance.replace(server=Server(kv_capacity_tokens=40, clock=UnitClock()), requests=requests)
    return instance


class Watched(ContinuousSimulation):
    """A simulation that knows by itself whether the gate is open."""

    size: float
    patience: float

    def admit(self) -> list[Any]:
        now = self.time.seen()
        since: dict[int, float] = self.__dict__.setdefault("since", {})
        for i in self.waiting - since.keys():
            since[i] = now if i in self.__dict__.setdefault("known", set()) else self.seen[i].arrival
            self.known.add(i)  # type: ignore[attr-defined]
        closed = bool(self.running) and len(since) < self.size and now < min(since.values(), default=0) + self.patience
        admitted = super().admit()
        assert not (closed and admitted)
        for i in since.keys() - self.waiting:
            del since[i]
        return admitted


@pytest.mark.parametrize("name", GATED)
def test_nobody_passes_a_closed_gate(name: str) -> None:
    """Whatever the policy, only an open gate lets in; every schedule is valid, and a gate of one is always open."""
    rng = random.Random(name)
    for seed in range(25):
        instance = random_instance(rng)
        size, wait = rng.randint(2, 6), rng.choice([0.0, 0.05, 3.0])
        entry, options = chosen_policy(f"{name}:gate={size},wait={wait}")
        predicted = instance.arrays.predicted_lower, instance.arrays.predicted_upper
        run = Watched(instance, entry.build(options), np.random.default_rng(seed), predicted)
        run.size, run.patience = size, wait or float("inf")
        verdict = judge(instance, run.run())
        assert verdict.valid, verdict.violations
        assert policy_schedule(instance, name) == policy_schedule(instance, f"{name}:gate=1")
        assert judge(instance, policy_schedule(instance, f"{name}:gate=auto")).valid


def test_a_completion_behind_a_closed_gate_counts() -> None:
    """A policy that clears the cache fills it anew once somebody is done, although it was not asked in between."""
    made = AlphaProtection(alpha=0.0)
    seen = [Seen(i, 0, 4, 9, 9) for i in range(2)]
    running = {i: Running(seen[i], 0) for i in range(2)}
    view = View(5, 10, 18, running, None, np.random.default_rng(0))
    assert list(made.evict(view)) == [0, 1]
    for request in seen:
        made.ended(request, 5)
        made.arrived(request)
    assert made._share == 0.5
    made.ended(Seen(2, 0, 1, 1, 1), 6)
    assert made._share == 1.0


# --- the rule ----------------------------------------------------------------------------------


def best_period(law: LinearClock, rate: float, prompt: float, output: float) -> tuple[float, float]:
    """The period with the fewest requests in the system, and those in progress under it; by trying all."""
    base = law.base_ms + law.decode_base_ms
    reading = rate * law.prefill_per_token_ms * prompt
    left = 1 - reading - rate * output * law.decode_per_request_ms
    periods = np.geomspace(law.prefill_base_ms / left * 1.001, 1e6, 400_000)
    active = rate * output * base / (left - law.prefill_base_ms / periods)
    best = int(np.argmin(active + rate * periods * (0.5 + reading)))
    return float(periods[best]), float(active[best])


def test_the_rule_is_the_best_period() -> None:
    """The limits that follow from the state of a steady server are those that a search over all periods finds."""
    rng = random.Random(4)
    tried = 0
    while tried < 50:
        law = LinearClock(
            kind="linear", mixed=True, base_ms=rng.uniform(0, 9), prefill_base_ms=rng.uniform(5, 50),
            prefill_per_token_ms=rng.uniform(0, 0.4), decode_base_ms=rng.uniform(10, 60),
            decode_per_request_ms=rng.uniform(0, 0.2),
        )  # fmt: skip
        prompt, output = rng.randint(10, 400), rng.randint(50, 400)
        load = rng.uniform(0.2, 0.9)
        rate = load / (law.prefill_per_token_ms * prompt + output * law.decode_per_request_ms + 1e-3)
        period, active = best_period(law, rate, prompt, output)
        if not (rate < 0.2 and 100 < active < 50_000):
            continue
        tried += 1
        gate = AutoGate(McStub())
        for i in range(64):
            gate.arrived(Seen(i, i / rate / 1000, prompt, output, output))
        running = dict.fromkeys(range(round(active)), Running(Seen(0, 0, 1, 1, 1), 0))
        view = View(64 / rate / 1000, None, 0, running, None, np.random.default_rng(0), linear_clock=law)
        size, wait = gate.limits(view)
        assert wait * 1000 == pytest.approx(period, rel=0.01)
        assert size == pytest.approx(max(1, rate * period), rel=0.02, abs=0.6)


class McStub(Policy):
    """Ignores everything."""


def test_auto_helps_and_never_hurts_idle_servers() -> None:
    """Chats at 10/s on two A100 wait 5 % less; the schedule is the same where nothing is gained."""
    busy = mk.generate("chat", requests=1000, rate=10, server="llama2-70b-2xa100", seed=0)
    mean = {p: mk.simulate(busy, p).metrics["mean_latency_ms"] for p in ("mc-sf", "mc-sf:gate=auto")}
    assert mean["mc-sf:gate=auto"] < 0.96 * mean["mc-sf"]
    once = LinearClock(kind="linear", mixed=True, base_ms=60, prefill_per_token_ms=0.3, decode_per_request_ms=0.2)
    free = busy.replace(server=busy.server.model_copy(update={"clock": once}))  # prefills cost nothing of their own
    idle = mk.generate("chat", requests=300, rate=1, server="llama2-70b-2xa100", seed=0)
    unit = case(*((i % 7, 3, 5) for i in range(30)), unit=True, capacity=40)
    for instance in (idle, free, unit):
        assert policy_schedule(instance, "mc-sf:gate=auto") == policy_schedule(instance, "mc-sf")


# --- options -----------------------------------------------------------------------------------


def test_wrong_gates() -> None:
    """Faults name the option, what was found, and what is allowed."""
    instance = case((0, 4, 3))
    for words, fault in {
        "mc-sf:gate=-1": "gate: found -1; allowed: a whole number from 0 on, or auto",
        "mc-sf:gate=auto,gate=3": "option 'gate' twice",
        "mc-sf:gate=many": "gate: found 'many'; allowed: a whole number or auto",
        "mc-sf:gate=2.5": "gate: found '2.5'; allowed: a whole number or auto",
        "mc-sf:wait=-1": "wait: found -1.0; allowed: 0 or more seconds",
        "mc-sf:wait=nan": "wait: found nan; allowed",
        "mc-sf:wait=auto": "wait: found 'auto'; allowed: a number",
        "mc-sf:gates=1": "did you mean 'gate'",
    }.items():
        with pytest.raises(UsageError, match="option") as caught:
            mk.simulate(instance, words)
        assert fault in str(caught.value)
    with pytest.raises(UsageError, match="no option"):
        chosen_policy("sorted:gate=2")  # stages have none
    inner = McStub()
    assert gate_policy(inner) is inner


def test_options_called_as_the_gates() -> None:
    """A policy whose own option is called ``gate`` is refused: it would never see it."""
    with pytest.raises(ValueError, match="gate"):

        @policy("own-gate", summary="s", reference="r", gate="its own")
        class OwnGate(Policy):
            def __init__(self, *, gate: int = 1) -> None:
                pass


def test_gates_on_the_command_line(tmp_path: Path) -> None:
    """Result, note, ``show`` and ``list`` know them."""
    file = tmp_path / "a.json"
    mk.save_instance(case((0, 4, 40), (0.020, 2, 2), (0.090, 2, 2)), file)
    out = tmp_path / "r.json"
    done = CliRunner().invoke(cli, ["simulate", str(file), "-p", "svf:gate=2,wait=0.5", "-o", str(out)], obj={})
    assert done.exit_code == 0, done.output
    assert "svf:gate=2,wait=0.5 holds requests back on purpose" in done.output
    assert json.loads(out.read_text())["producer"]["options"] == {"gate": 2, "wait": 0.5}
    shown = CliRunner().invoke(cli, ["show", "svf"], obj={}).output
    assert ":gate=" in shown
    assert ":wait=" in shown
    assert "gate=0" in CliRunner().invoke(cli, ["list", "policies"], obj={}).output
