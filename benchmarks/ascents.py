"""Three ascents on the same prices: volume algorithm, bundle with HiGHS as master, smooth ascent.

    python benchmarks/ascents.py [--seconds 15] [--output benchmarks/results/ascents.json]

All begin at the fluid prices and are judged by the bound over all starts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import highspy
import numpy as np
from record import stamp

from modelkit.bounds.prices import ascend, fluid_prices
from modelkit.bounds.relaxation import Relaxation
from modelkit.deadline import Deadline
from modelkit.families import generate
from modelkit.improve import first_schedule, latency
from modelkit.instance import Instance


def oracle(relaxation: Relaxation, prices: np.ndarray, hint: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """L, a subgradient, and the cheapest starts."""
    bound, starts = relaxation.bound(prices, hint)
    slope, jump = np.zeros(relaxation.size), np.zeros(relaxation.size)
    np.add.at(slope, starts + 1, 1)
    np.add.at(slope, starts + relaxation.output + 1, -1)
    np.add.at(jump, starts + 1, relaxation.prompt)
    np.add.at(jump, starts + relaxation.output + 1, -relaxation.prompt - relaxation.output)
    held = np.cumsum(jump + np.cumsum(slope))
    return bound, held[1 : relaxation.rounds + 1] - relaxation.capacity, starts


def volume(instance: Instance, starts: np.ndarray, seconds: float, tell: Callable[[float], None]) -> None:
    """Barahona and Anbil, The volume algorithm, Math. Programming 87 (2000)."""
    rounds = int((starts + instance.arrays.output).max()) + 1
    relaxation = Relaxation(instance, rounds)
    target = latency(instance, starts)
    best_prices = fluid_prices(instance, starts, rounds)
    best, average, hint = oracle(relaxation, best_prices, starts)
    tell(best)
    scale, stalled = 0.1, 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        step = scale * (target - best) / max(1e-9, float(average @ average))
        prices = np.maximum(0.0, best_prices + step * average)
        bound, gradient, hint = oracle(relaxation, prices, hint)
        difference = gradient - average
        weight = -float(average @ difference) / max(1e-9, float(difference @ difference))
        weight = min(0.1, max(0.01, weight))
        average = average + weight * difference
        if bound > best:
            if float(gradient @ average) > 0:
                scale = min(2.0, 1.1 * scale)
            best, best_prices, stalled = bound, prices, 0
            tell(best)
        else:
            stalled += 1
            if stalled >= 20:
                scale, stalled = max(1e-4, 0.66 * scale), 0


def bundle(instance: Instance, starts: np.ndarray, seconds: float, tell: Callable[[float], None]) -> None:
    """Cutting planes in a box around the best prices on 300 knots, the master solved by HiGHS."""
    rounds = int((starts + instance.arrays.output).max()) + 1
    relaxation = Relaxation(instance, rounds)
    places = np.unique(np.linspace(0, rounds - 1, 300).astype(int))
    base = np.eye(len(places))
    spread = np.stack([np.interp(np.arange(rounds), places, row) for row in base])  # [knots, rounds]
    best_x = fluid_prices(instance, starts, rounds)[places]
    best, gradient, hint = oracle(relaxation, best_x @ spread, starts)
    tell(best)
    cuts = [(spread @ gradient, best - float(spread @ gradient @ best_x))]
    radius = 0.1 * float(best_x.max() or 1.0)
    began = time.perf_counter()
    while time.perf_counter() - began < seconds and radius > 1e-12:
        master = highspy.Highs()
        master.setOptionValue("output_flag", False)
        columns = range(len(places) + 1)
        for knot in best_x:
            master.addVar(max(0.0, knot - radius), knot + radius)
        master.addVar(-highspy.kHighsInf, highspy.kHighsInf)
        master.changeColCost(len(places), -1.0)
        for slope, offset in cuts[-200:]:
            values = np.append(-slope, 1.0)
            master.addRow(-highspy.kHighsInf, offset, len(values), np.array(columns, dtype=np.int32), values)
        master.run()
        solution = np.array(master.getSolution().col_value)
        x, promised = solution[:-1], solution[-1]
        bound, gradient, hint = oracle(relaxation, np.maximum(0.0, x) @ spread, hint)
        cuts.append((spread @ gradient, bound - float(spread @ gradient @ x)))
        if bound > best + 0.1 * (promised - best):
            radius *= 1.5
        elif bound <= best:
            radius *= 0.5
        if bound > best:
            best, best_x = bound, x
            tell(best)


def smooth(instance: Instance, starts: np.ndarray, seconds: float, tell: Callable[[float], None]) -> None:
    """The ascent of ``modelkit.bounds.prices``."""
    ascend(instance, starts, deadline=Deadline.after(seconds), listen=tell)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--output", default="benchmarks/results/ascents.json")
    chosen = parser.parse_args()
    began_on = stamp()
    smooth(generate("kv-synthetic"), first_schedule(generate("kv-synthetic")), 5, lambda bound: None)  # compiles
    rows = []
    for size in (200, 1000, 3000):
        instance = generate("chat", requests=size, rate=50.0)
        starts = first_schedule(instance)
        for method in (volume, bundle, smooth):
            bounds: list[tuple[float, float]] = []
            began = time.perf_counter()
            method(
                instance, starts, chosen.seconds,
                lambda bound, told=bounds, began=began: told.append((time.perf_counter() - began, bound)),
            )  # fmt: skip
            row = {
                "instance": instance.name,
                "method": method.__name__,
                "bound": max(bound for _, bound in bounds),
                "after_2_s": max((bound for at, bound in bounds if at <= 2), default=None),
                "seconds": time.perf_counter() - began,
            }
            rows.append(row)
            print(row, flush=True)
    Path(chosen.output).write_text(json.dumps({**began_on, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
