"""How long it takes until a solver holds a hindsight program of a million non-zeros, and in how much memory.

The plain program of the KV-cache problem,

    min  sum_{i,k} (k + o_i) x[i,k]
    s.t. sum_k x[i,k] = 1                                                       for every request i
         sum_i sum_{k = max(0, t - o_i)}^{t-1} (s_i + t - k) x[i,k] <= M        for every round t

is built by modelkit, by other modelling libraries and by hand, each for the same requests and starts, and
handed over to HiGHS without solving it. Beside it stands modelkit's flow formulation of the same problem.

Every run is a process of its own that hands the program over twice. The first time is what a fresh process
takes after its imports, with all that a library still loads when it is first used; the second time is without
that. Beside the wall-clock time stands the time on the processor, which other work on the machine does not
lengthen. The memory is what the process needs at its peak beyond what it held after its imports.

    python benchmarks/handover.py [--repeats N] [--output FILE]
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from record import stamp

RESULT = Path(__file__).parent / "results" / "handover.json"


@dataclass(frozen=True)
class Program:
    """Requests that all arrive at 0; request i starts in 0 .. rounds - o_i."""

    capacity: int
    rounds: int
    prompt: list[int]
    output: list[int]

    @property
    def starts(self) -> list[int]:
        """Number of starts of each request."""
        return [self.rounds - o + 1 for o in self.output]

    @property
    def size(self) -> tuple[int, int, int]:
        """Rows, columns and non-zeros of the plain program."""
        nonzeros = sum(n * (1 + o) for n, o in zip(self.starts, self.output, strict=True))
        return len(self.prompt) + self.rounds, sum(self.starts), nonzeros


def program(requests: int, rounds: int, capacity: int = 50, seed: int = 2) -> Program:
    """Lengths s ~ U{1..5} and o ~ U{1..M-s}."""
    rng = np.random.default_rng(seed)
    prompt = rng.integers(1, 6, requests)
    output = rng.integers(1, capacity - prompt + 1)
    return Program(capacity, rounds, prompt.tolist(), output.tolist())


PROGRAM = program(57, 842)


# --- modelkit ----------------------------------------------------------------------------------


def modelkit_formulation(name: str) -> Callable[[Program], Any]:
    """Hand-over of a formulation the way modelkit's HiGHS backend does it."""
    import highspy
    import pyomo.environ  # noqa: F401

    from modelkit.backends.engine import pass_model
    from modelkit.backends.standard_form import compile_model
    from modelkit.formulation.loading import load_formulation
    from modelkit.instance import Instance, Request, Server
    from modelkit.solving.known import known_of

    formulation = load_formulation(name)

    def hand_over(p: Program) -> Any:
        instance = Instance(
            server=Server(kv_capacity_tokens=p.capacity),
            requests=tuple(
                Request(id=f"r{i}", prompt_tokens=s, output_tokens=o)
                for i, (s, o) in enumerate(zip(p.prompt, p.output, strict=True), start=1)
            ),
        )

        known = known_of(formulation, instance)
        known.starts = [np.arange(n) for n in p.starts]
        model = formulation.instantiate(instance, known)
        form, _ = compile_model(model)
        solver = _silent(highspy.Highs())
        pass_model(solver, form)
        return solver

    return hand_over


def kv_hindsight() -> Callable[[Program], Any]:
    """modelkit, kv-hindsight."""
    return modelkit_formulation("kv-hindsight")


def kv_hindsight_flow() -> Callable[[Program], Any]:
    """modelkit, kv-hindsight-flow."""
    return modelkit_formulation("kv-hindsight-flow")


# --- by hand -----------------------------------------------------------------------------------


def numpy_highspy() -> Callable[[Program], Any]:
    """NumPy arrays, no modelling library."""
    import highspy

    def hand_over(p: Program) -> Any:
        n, columns = len(p.prompt), sum(p.starts)
        request = np.repeat(np.arange(n), p.starts)
        start = np.concatenate([np.arange(count) for count in p.starts])
        prompt, output = np.array(p.prompt)[request], np.array(p.output)[request]
        # column (i, k) has its 1 in row i, then s_i + j in row n + k + j - 1 for j = 1 .. o_i
        begin = np.zeros(columns + 1, dtype=np.int32)
        np.cumsum(output + 1, out=begin[1:])
        j = np.arange(begin[-1], dtype=np.int32) - np.repeat(begin[:-1], output + 1)
        rows = np.repeat((n + start - 1).astype(np.int32), output + 1) + j
        values = np.repeat(prompt.astype(np.float64), output + 1) + j
        rows[begin[:-1]] = request
        values[begin[:-1]] = 1

        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = columns, n + p.rounds
        lp.col_cost_ = (start + output).astype(np.float64)
        lp.col_lower_, lp.col_upper_ = np.zeros(columns), np.ones(columns)
        lp.row_lower_ = np.concatenate([np.ones(n), np.full(p.rounds, -np.inf)])
        lp.row_upper_ = np.concatenate([np.ones(n), np.full(p.rounds, float(p.capacity))])
        lp.integrality_ = [highspy.HighsVarType.kInteger] * columns
        matrix = lp.a_matrix_
        matrix.format_ = highspy.MatrixFormat.kColwise
        matrix.num_col_, matrix.num_row_ = lp.num_col_, lp.num_row_
        matrix.start_, matrix.index_, matrix.value_ = begin, rows, values
        solver = _silent(highspy.Highs())
        solver.passModel(lp)
        return solver

    return hand_over


# --- other modelling libraries -----------------------------------------------------------------


def linopy_grouped() -> Callable[[Program], Any]:
    """linopy, the terms grouped by round, handed over directly."""
    import linopy
    import pandas as pd
    import xarray as xr

    def hand_over(p: Program) -> Any:
        model, x, request, start = _linopy_start(p)
        output = np.array(p.output)[request]
        column = np.repeat(np.arange(len(request)), output)
        j = np.arange(len(column)) - np.repeat(np.cumsum(output) - output, output) + 1
        term = pd.RangeIndex(len(column), name="term")
        held = xr.DataArray(np.array(p.prompt)[request][column] + j, coords=[term])
        rounds = pd.Series(start[column] + j, index=term, name="round")
        tokens = x.isel(start=xr.DataArray(column, coords=[term])) * held
        model.add_constraints(tokens.groupby(rounds).sum() <= p.capacity)
        return linopy.io.to_highspy(model)

    return hand_over


def linopy_padded() -> Callable[[Program], Any]:
    """linopy, the terms of the rounds as arrays padded by hand, handed over directly."""
    import linopy
    import xarray as xr

    def hand_over(p: Program) -> Any:
        model, x, request, start = _linopy_start(p)
        label = np.full((len(p.prompt), p.rounds), -1)
        label[request, start] = x.labels.values
        t = np.arange(1, p.rounds + 1)[:, None]
        labels, coefficients = [], []
        for i, (s, o) in enumerate(zip(p.prompt, p.output, strict=True)):
            j = np.arange(1, o + 1)
            possible = (t >= j) & (t - j <= p.rounds - o)
            labels.append(np.where(possible, label[i, np.where(possible, t - j, 0)], -1))
            coefficients.append(np.where(possible, s + j, np.nan))
        terms = {
            "coeffs": (("round", "_term"), np.hstack(coefficients)),
            "vars": (("round", "_term"), np.hstack(labels)),
        }
        held = linopy.LinearExpression(xr.Dataset(terms, coords={"round": t[:, 0]}), model)
        model.add_constraints(held <= p.capacity)
        return linopy.io.to_highspy(model)

    return hand_over


def _linopy_start(p: Program) -> tuple[Any, Any, Any, Any]:
    """Model with all but the capacity, its variables, and the request and start of each."""
    import linopy
    import pandas as pd
    import xarray as xr

    request = np.repeat(np.arange(len(p.prompt)), p.starts)
    start = np.concatenate([np.arange(count) for count in p.starts])
    index = pd.RangeIndex(len(request), name="start")
    model = linopy.Model()
    x = model.add_variables(binary=True, coords=[index], name="x")
    model.add_objective((x * xr.DataArray(start + np.array(p.output)[request], coords=[index])).sum())
    model.add_constraints(x.groupby(pd.Series(request, index=index, name="request")).sum() == 1)
    return model, x, request, start


def pyoptinterface_highs() -> Callable[[Program], Any]:
    """PyOptInterface, its HiGHS backend on highspy's library."""
    import highspy
    import pyoptinterface as poi
    from pyoptinterface import highs

    if not highs.is_library_loaded():
        library = next(Path(highspy.__file__).parent.glob("libhighs.so*"))
        if not highs.load_library(str(library)):
            raise RuntimeError(f"PyOptInterface does not load {library}")

    def hand_over(p: Program) -> Any:
        model = highs.Model()
        model.set_model_attribute(poi.ModelAttribute.Silent, True)
        x = [[model.add_variable(domain=poi.VariableDomain.Binary) for _ in range(count)] for count in p.starts]
        latency = poi.ExprBuilder()
        for o, row in zip(p.output, x, strict=True):
            for k, variable in enumerate(row):
                latency.add_affine_term(variable, k + o)
        model.set_objective(latency)
        for row in x:
            model.add_linear_constraint(poi.quicksum(row), poi.ConstraintSense.Equal, 1)
        for t in range(1, p.rounds + 1):
            held = poi.ExprBuilder()
            for s, o, row in zip(p.prompt, p.output, x, strict=True):
                for k in range(max(0, t - o), min(t, len(row))):
                    held.add_affine_term(row[k], s + t - k)
            model.add_linear_constraint(held, poi.ConstraintSense.LessEqual, p.capacity)
        return model

    return hand_over


def pulp_highspy() -> Callable[[Program], Any]:
    """PuLP, its highspy interface."""
    import pulp

    def hand_over(p: Program) -> Any:
        problem = pulp.LpProblem("kv", pulp.LpMinimize)
        add = problem.add_variable if hasattr(problem, "add_variable") else pulp.LpVariable
        x = [[add(f"x_{i}_{k}", cat=pulp.LpBinary) for k in range(count)] for i, count in enumerate(p.starts)]
        problem += pulp.LpAffineExpression(
            (variable, k + o) for o, row in zip(p.output, x, strict=True) for k, variable in enumerate(row)
        )
        for row in x:
            problem += pulp.lpSum(row) == 1
        for t in range(1, p.rounds + 1):
            held = pulp.LpAffineExpression(
                (row[k], s + t - k)
                for s, o, row in zip(p.prompt, p.output, x, strict=True)
                for k in range(max(0, t - o), min(t, len(row)))
            )
            problem += held <= p.capacity
        solver = pulp.HiGHS(msg=False)
        solver.createAndConfigureSolver(problem)
        solver.buildSolverModel(problem)
        return problem.solverModel

    return hand_over


COMPETITORS: dict[str, tuple[Callable[[], Callable[[Program], Any]], tuple[str, ...]]] = {
    "kv-hindsight-flow": (kv_hindsight_flow, ("modelkit", "pyomo", "highspy")),
    "kv-hindsight": (kv_hindsight, ("modelkit", "pyomo", "highspy")),
    "numpy": (numpy_highspy, ("numpy", "highspy")),
    "linopy": (linopy_grouped, ("linopy", "highspy")),
    "linopy, padded": (linopy_padded, ("linopy", "highspy")),
    "pyoptinterface": (pyoptinterface_highs, ("pyoptinterface", "highspy")),
    "pulp": (pulp_highspy, ("pulp", "highspy")),
}
BASE = "kv-hindsight-flow"
TIMES = ("first_s", "first_processor_s", "second_s", "second_processor_s")


# --- one run, in a process of its own ----------------------------------------------------------


def run_one(name: str) -> dict[str, Any]:
    """Import, then hand the program over twice with the clocks running."""
    begun = time.perf_counter()
    hand_over = COMPETITORS[name][0]()
    imported = time.perf_counter()
    before = _peak_mb()
    run: dict[str, Any] = {"import_s": imported - begun}
    for when in ("first", "second"):
        wall, processor = time.perf_counter(), time.process_time()
        solver = hand_over(PROGRAM)
        run[f"{when}_s"] = time.perf_counter() - wall
        run[f"{when}_processor_s"] = time.process_time() - processor
        run.setdefault("memory_mb", _peak_mb() - before)
        run["contents"] = contents(solver)
        del solver
        gc.collect()
    return run


def _peak_mb() -> float:
    """Most memory that this process has held so far [MB]."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def _silent(solver: Any) -> Any:
    solver.setOptionValue("log_to_console", False)
    return solver


def contents(solver: Any) -> dict[str, float]:
    """Size and sums of what the solver holds, by which equal programs are recognised."""
    if not hasattr(solver, "getLp"):  # PyOptInterface does not show its model: read what it writes
        import highspy

        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "model.mps")
            solver.write(file)
            solver = _silent(highspy.Highs())
            solver.readModel(file)
    lp = solver.getLp()
    return {
        "rows": lp.num_row_,
        "columns": lp.num_col_,
        "nonzeros": len(lp.a_matrix_.value_),
        "integers": sum(kind.name == "kInteger" for kind in lp.integrality_),
        "sum_of_coefficients": float(sum(lp.a_matrix_.value_)),
        "sum_of_costs": float(sum(lp.col_cost_)),
    }


# --- all runs ----------------------------------------------------------------------------------


def run_all(repeats: int) -> dict[str, Any]:
    """Every competitor ``repeats`` times, in turn, so that a busy moment of the machine hits all."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in COMPETITORS}
    for repeat in range(repeats):
        for name in COMPETITORS:
            print(f"\r{repeat + 1}/{repeats} {name:20}", end="", file=sys.stderr, flush=True)
            command = [sys.executable, __file__, "--one", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
    print(file=sys.stderr)
    plain = runs["kv-hindsight"][0]["contents"]
    assert (plain["rows"], plain["columns"], plain["nonzeros"]) == PROGRAM.size
    for name, found in runs.items():
        same = plain if name != "kv-hindsight-flow" else found[0]["contents"]
        assert all(run["contents"] == same for run in found), (
            f"{name} builds another program: {found} instead of {same}"
        )
    figures = {
        name: {
            "what": COMPETITORS[name][0].__doc__,
            **{key: statistics.median(run[key] for run in found) for key in ("import_s", *TIMES, "memory_mb")},
            "runs": [{key: run[key] for key in TIMES} for run in found],
            "contents": found[0]["contents"],
        }
        for name, found in runs.items()
    }
    for figure in figures.values():
        figure["ratios"] = {key: figure[key] / figures[BASE][key] for key in TIMES}
    packages = sorted({package for _, packages in COMPETITORS.values() for package in packages})
    return {
        "what": "seconds until HiGHS holds the program, in a fresh process after its imports and once more; medians",
        "program": {"requests": len(PROGRAM.prompt), "rounds": PROGRAM.rounds, "kv_capacity_tokens": PROGRAM.capacity},
        "repeats": repeats,
        "base": BASE,
        "figures": figures,
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in packages},
        },
    }


def table(result: dict[str, Any]) -> str:
    """The figures for people."""
    heads = ("first", "processor", "second", "processor")
    lines = [f"{'':18}" + "".join(f"{head:>10}  ratio" for head in heads) + f"{'memory':>10}{'imports':>9}"]
    for name, figure in sorted(result["figures"].items(), key=lambda item: item[1]["first_s"]):
        times = "".join(f"{figure[key]:8.2f} s{figure['ratios'][key]:7.2f}" for key in TIMES)
        lines.append(f"{name:18}{times}{figure['memory_mb']:7.0f} MB{figure['import_s']:7.2f} s")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="processes for each competitor; default 5")
    parser.add_argument(
        "--output", type=Path, default=RESULT, help="JSON file; default benchmarks/results/handover.json"
    )
    parser.add_argument("--one", choices=COMPETITORS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(options.one)))
        return
    result = stamp() | run_all(options.repeats)
    print(table(result))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
