"""Families of cuts: no schedule is ever cut off, fractional points are."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import pytest
from kv_brute_force import brute_force

import modelkit as mk
from modelkit.authoring.check.brute_force import _fitting_placements as fitting_placements
from modelkit.backends import Limits, backend
from modelkit.backends.separator import Separator
from modelkit.errors import SolverError
from modelkit.formulation.loading import load_formulation
from modelkit.instance import Instance, Request, Server
from modelkit.problems.kv.cuts import Candidates, Cut, Family, conflict_cliques, triples
from modelkit.problems.kv.cuts.clique_program import SCALE, CliqueProgram
from modelkit.problems.kv.cuts.triples import exceed
from modelkit.runtime.resources import bundled
from modelkit.solving.known import known_of, start_windows
from modelkit.sources.families import generate

FAMILIES = (conflict_cliques, triples)
HARD = bundled("instances") / "hard"
TABLE = json.loads((HARD / "table.json").read_text())


@lru_cache
def all_schedules(instance: Instance) -> tuple[Candidates, np.ndarray]:
    """Every start up to the trivial horizon, and every schedule as a 0-1 row over them."""
    arrays = instance.arrays
    horizon = int(arrays.arrival.max() + arrays.output.sum())
    windows = [np.arange(a, horizon - o + 1) for a, o in zip(arrays.arrival, arrays.output, strict=True)]
    candidates = Candidates.of(instance, windows)
    column = {key: c for c, key in enumerate(zip(candidates.request, candidates.start, strict=True))}
    chosen = [
        [column[i, k] for i, (k, _) in enumerate(placed)] for placed in fitting_placements(instance, last=0, alike=True)
    ]
    taken = np.zeros((len(chosen), len(candidates.start)), dtype=np.int64)
    np.put_along_axis(taken, np.array(chosen), 1, axis=1)
    return candidates, taken


def left_side(cut: Cut, taken: np.ndarray) -> np.ndarray:
    """Of each schedule."""
    return np.asarray(taken[..., cut.members] @ cut.coefficients)


def points(candidates: Candidates, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Fractional points at which every request starts once: a few starts each, of equal or random weight."""
    for few in (2, 3, 4):
        x = np.zeros(len(candidates.start))
        for i in range(len(candidates.output)):
            own = np.flatnonzero(candidates.request == i)
            some = rng.choice(own[:12], min(few, len(own[:12])), replace=False)
            x[some] = 1 / len(some) if few == 2 else rng.dirichlet(np.ones(len(some)))
        yield x


@pytest.mark.parametrize("family", FAMILIES)
def test_no_schedule_is_cut_off(family: Family, draw: Callable[..., Instance]) -> None:
    """Tests every schedule of random instances of 3 and 4 requests, against rows at random points, all violated."""
    many = 0
    for seed in range(30):
        instance = draw(9000 + seed, 3 + seed % 2, most_memory=9, spread=seed % 3)
        candidates, taken = all_schedules(instance)
        for turn, x in enumerate(points(candidates, np.random.default_rng(seed))):
            for cut in family(candidates, x, 1e-6, 50, turn * 7):
                many += 1
                assert len(set(cut.members.tolist())) == len(cut.members)
                assert x[cut.members] @ cut.coefficients > cut.right
                assert left_side(cut, taken).max() <= cut.right, (seed, turn)
    assert many > 20


def test_triples_see_what_cliques_do_not() -> None:
    """Tests three requests of which any two fit and all three do not, at 4/5 each in one round."""
    requests = tuple(Request(id=f"q{i}", prompt_tokens=3, output_tokens=1) for i in range(3))
    instance = Instance(name="three", server=Server(kv_capacity_tokens=11), requests=requests)
    candidates = Candidates.of(instance, [np.arange(3)] * 3)
    x = np.where(candidates.start == 0, 0.8, np.where(candidates.start == 1, 0.2, 0.0))
    assert not conflict_cliques(candidates, x, 0.02, 10, 0)
    (cut, *_) = triples(candidates, x, 0.02, 10, 0)
    assert cut.right == 2
    assert x[cut.members] @ cut.coefficients == pytest.approx(2.4)


def test_three_exceed_iff_no_schedule_has_them(draw: Callable[..., Instance]) -> None:
    """Tests all triples of starts of three requests against the memory in every round."""
    for seed in range(5):
        instance = draw(9500 + seed, 3, most_memory=10)
        s, o = instance.arrays.prompt.astype(np.int64), instance.arrays.output.astype(np.int64)
        capacity = instance.server.kv_capacity_tokens
        for k in np.ndindex(7, 7, 7):
            held = np.zeros(60, dtype=int)
            for i in range(3):
                held[k[i] + 1 : k[i] + o[i] + 1] += s[i] + np.arange(1, o[i] + 1)
            starts = Candidates(np.arange(3), np.array(k), s, o, capacity)
            assert exceed(0, 1, 2, starts) == bool((held > capacity).any()), (seed, k)


def relaxed(instance: Instance, families: tuple[Family, ...]) -> tuple[CliqueProgram, int, np.ndarray]:
    """The program with cuts of these families after a moment, its bound times SCALE and its fractional optimum."""
    program = CliqueProgram(instance, start_windows(instance), families)
    bound = program.cut_and_solve(time.perf_counter() + 0.3, float("inf")).bound
    solver = program.linear_program()
    solver.run()
    return program, bound, np.array(solver.getSolution().col_value)


NAMES = [name for name in sorted(TABLE) if "n12" in name or "n16" in name][:2]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [NAMES[0], pytest.param(NAMES[1], marks=pytest.mark.slow)])
def test_known_schedules_survive(name: str, family: Family) -> None:
    """Tests the best schedules of hard instances against the rows found in a moment, which prove no more than that."""
    instance, row = mk.load(str(HARD / f"{name}.json")), TABLE[name]
    program, bound, x = relaxed(instance, (family,))
    chosen = np.isin(program.candidates.start, row["starts"])
    chosen &= program.candidates.start == np.array(row["starts"])[program.candidates.request]
    assert chosen.sum() == len(row["starts"])
    cuts = [*program.cuts, *family(program.candidates, x, 0.0, 100, 3)]
    for point in points(program.candidates, np.random.default_rng(5)):
        cuts += family(program.candidates, point, 0.0, 100, 3)
    assert len(cuts) > 3
    for cut in cuts:
        assert left_side(cut, chosen.astype(np.int64)) <= cut.right
    assert bound <= row["value"] * SCALE


def test_cuts_in_the_tree_keep_the_optimum(draw: Callable[..., Instance]) -> None:
    """Tests the plain program on SCIP with cuts in the tree only, against brute force, and that cuts were found."""
    plain, cliques = load_formulation("kv-hindsight"), load_formulation("kv-hindsight-cliques")
    found = 0
    for seed in range(40):
        instance = draw(9800 + seed, 4, most_memory=10, spread=seed % 3)
        model = plain.instantiate(instance, known_of(plain, instance))
        options = {"presolving/maxrounds": 0, "separating/maxroundsroot": 20}
        outcome = backend("scip").solve(model, Limits(60), options, separator=cliques.separator_for(model, instance))
        assert outcome.cuts is not None
        found += outcome.cuts
        assert outcome.bound == brute_force(instance)[0], seed
    assert found > 20


def test_who_ignores_separators_says_so() -> None:
    """Tests the stage of the solver: SCIP counts the cuts of the tree, HiGHS takes none."""
    instance = generate("kv-synthetic", seed=1, requests=6)
    for solver, words in (("scip", r"scip, [0-9,]+ cuts found in the tree"), ("highs", "highs, no cuts in the tree")):
        result = mk.solve(instance, "kv-hindsight-cliques", solver)
        assert result.status == "optimal"
        assert re.fullmatch(words, result.stages[-1].note)


def broken(x: np.ndarray) -> list[Cut]:
    """A separator that fails; it goes to the solver's process as the name of this function, which is unknown there."""
    raise AssertionError(x)


def test_separators_that_fail_are_errors(two: mk.Instance) -> None:
    """Tests a function that cannot travel, one that cannot be loaded there, one that fails, a variable of no row."""
    plain, instance = load_formulation("kv-hindsight"), generate("kv-synthetic", seed=1, requests=5)
    model = plain.instantiate(instance, known_of(plain, instance))
    variables = list(model.start.values())

    def refused(separator: Separator) -> None:
        backend("scip").solve(model, Limits(30), {"presolving/maxrounds": 0}, separator=separator)

    with pytest.raises(SolverError, match="cannot go to the solver's process"):
        refused(Separator(variables, lambda x: []))
    with pytest.raises(SolverError, match="scip failed: ModuleNotFoundError"):
        refused(Separator(variables, broken))
    with pytest.raises(SolverError, match="scip failed: TypeError"):
        refused(Separator(variables, len))
    with pytest.raises(SolverError, match="in no row"):
        refused(Separator([*variables, plain.instantiate(two, known_of(plain, two)).start["long", 0]], len))
