"""Pages of studies: means over seeds with intervals, pairs seed by seed, curves, and what the headline says."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest

import modelkit as mk
from modelkit.experiments.study import Store, cells, load_study, report_study
from modelkit.experiments.study.origins import draw
from modelkit.io import save_result
from modelkit.io.lookup import Instances
from modelkit.reporting.charts.sweeps import sweep_figure
from modelkit.reporting.entries import ReadFile
from modelkit.reporting.gathering import cases
from modelkit.reporting.pages.study import study_page
from modelkit.reporting.statistics import FEWEST, estimate
from modelkit.reporting.sweep import Sweep, Trial, merged
from modelkit.sources.families import generate

METRIC = "mean_latency_ms"


def test_intervals_cover_as_often_as_they_say() -> None:
    """Tests the share of intervals of five and of twelve normal numbers that hold their mean: about 95 %."""
    rng = random.Random(1)
    for n in (5, 12):
        found = [estimate([rng.gauss(3, 1) for _ in range(n)]) for _ in range(300)]
        assert 0.90 <= fmean(f is not None and f.covers(3.0) for f in found) <= 0.99
    few = estimate([1.0] * (FEWEST - 1))
    assert few is not None
    assert (few.value, few.low, few.high) == (1.0, None, None)
    assert estimate([]) is None
    assert estimate([2.0, 4.0, 9.0, 1.0, 3.0]) == estimate([2.0, 4.0, 9.0, 1.0, 3.0])


def sweep(value: Callable[[str, float, int], float], names: tuple[str, ...] = ("a", "b"), seeds: int = 10) -> Sweep:
    """Policies at three rates, with a bound of 90."""
    trials = [
        Trial(name, (None, rate), seed, {METRIC: value(name, rate, seed)}, {METRIC: 90.0})
        for name in names
        for rate in (1.0, 2.0, 4.0)
        for seed in range(seeds)
    ]
    kept, equals = merged(trials)
    return Sweep(tuple(kept), "rate", None, (METRIC,), len(trials), tuple(equals))


def test_problems_are_not_ranked_with_each_other() -> None:
    """Tests that a variant's runs stand in figures, are ranked with none and joined with none of equal numbers."""
    trials = [
        Trial(name, (None, None), seed, {METRIC: value + seed}, {}, problem=problem)
        for name, value, problem in (("v", 1.0, "own"), ("a", 2.0, None), ("b", 3.0, None), ("w", 2.0, "other"))
        for seed in range(6)
    ]
    kept, equals = merged(trials)
    assert equals == []
    found = Sweep(tuple(kept), None, None, (METRIC,), len(trials))
    assert found.methods == ["v", "a", "b", "w"]
    assert (found.rivals, list(found.shortfall(METRIC))) == (["a", "b"], ["a", "b"])
    headline, findings = said(found)
    assert headline.startswith("a has the lowest mean latency")
    assert "v and w solve problems of their own and are not ranked with the others." in findings
    alone = Sweep(tuple(t for t in kept if t.method == "v"), None, None, (METRIC,), 6)
    assert said(alone)[0].startswith("With v the mean latency is")


def test_a_ranking_of_some_groups_says_of_which() -> None:
    """Tests runs of groups that share no policy: the best of one group is not called the best of all."""
    trials = [
        Trial(name, (group, None), 0, {METRIC: value}, {})
        for group, name, value in (("large", "c", 1.0), ("small", "a", 2.0), ("small", "b", 3.0))
    ]
    headline, _ = said(Sweep(tuple(trials), None, "group", (METRIC,), len(trials)))
    assert headline == "a has the lowest mean latency, 33.3 % less than b, the next, at small"


def test_a_bound_is_that_of_the_runs_own_instance() -> None:
    """Tests two instances at one point, which the names of the runs tell apart: each has a bound of its own."""
    trials = [
        Trial(f"a, memory {memory}", (None, None), 0, {METRIC: 100.0}, {METRIC: bound})
        for memory, bound in ((10, 80.0), (5, 100.0))
    ]
    found = Sweep(tuple(trials), None, None, (METRIC,), 2)
    assert [found.above_bound(t.method, METRIC)[None, None] for t in trials] == [0.25, 0.0]
    assert found.bound((None, None), METRIC) == 80.0, "what holds of both"


def noise(seed: int) -> float:
    """The same for all policies."""
    return 10 * math.sin(seed * 12.9898)


def said(found: Sweep) -> tuple[str, list[str]]:
    """Headline and findings, beside the cases of one run."""
    one = mk.Instance(server={"kv_capacity_tokens": 9}, requests=[{"id": "a", "prompt_tokens": 2, "output_tokens": 2}])
    page = study_page(found, cases([ReadFile(mk.simulate(one, "mc-sf"))], Instances([], [one])))
    return page["headline"].replace("\u202f", " "), [s.replace("\u202f", " ") for s in page["findings"]]


def test_a_clear_winner() -> None:
    """Tests that a constant ratio is told as such, in both directions, with the distance from the bound."""
    headline, findings = said(sweep(lambda name, rate, seed: (100 + noise(seed)) * {"a": 1, "b": 1.25}[name]))
    assert headline == "a has the lowest mean latency, 20.0 % less than b, the next"
    assert findings[0] == (
        "a is better than b in 10 of 10 seeds, by 20.0 % (95 %: 20.0 to 20.0), in the mean over 3 values of rate."
    )
    assert findings[1] == "Lowest mean latency at every point: a."
    assert findings[2].startswith("No scheduler can have a mean latency below the certified bound; a is at most 15.4 %")


def test_no_clear_winner() -> None:
    """Tests that the sign of the mean alone is not taken for a difference."""
    found = sweep(lambda name, rate, seed: 100 + (noise(seed + 1) if name == "a" else noise(3 * seed + 5)))
    headline, findings = said(found)
    assert headline == "b and a cannot be told apart by mean latency"
    assert findings[0].partition(" by ")[0] in {f"a is better than b in {k} of 10 seeds," for k in range(3, 10)} | {
        f"b is better than a in {k} of 10 seeds," for k in range(3, 10)
    }
    assert "no clear difference" in findings[0]


def test_the_order_of_a_pair_makes_no_difference() -> None:
    """Tests that who is better does not depend on who comes first, even where ratios are wild."""
    found = sweep(lambda name, rate, seed: 100 * (40.0 if (name == "a") == (seed % 2 == 0) else 1.0))
    one, other = found.contest("a", "b", METRIC), found.contest("b", "a", METRIC)
    assert one is not None
    assert other is not None
    assert one.by.value == pytest.approx(0, abs=1e-9)
    assert other.by.value == pytest.approx(0, abs=1e-9)


def test_winners_by_point_and_few_seeds() -> None:
    """Tests that a crossing is told, and that two seeds have no interval."""
    headline, findings = said(sweep(lambda name, rate, seed: 100 + (rate * 20 if name == "a" else 50), seeds=2))
    assert headline == "a has the lowest mean latency, 3.6 % less than b, the next"
    assert findings[0].startswith("a is better than b in 2 of 2 seeds, by 3.6 % (fewer than 5 seeds, no interval)")
    assert findings[1] == "Lowest mean latency: a at rate 1 and rate 2; b at rate 4."


def test_ties_are_said_as_ties() -> None:
    """Tests that kinds of runs with the same results are drawn as one line and named."""
    found = sweep(lambda name, rate, seed: 100 + noise(seed) + (50 if name == "c" else 0), names=("a", "b", "c"))
    assert found.methods == ["a = b", "c"]
    headline, findings = said(found)
    assert headline.startswith("a = b has the lowest mean latency, ")
    assert "The same results in every run: a and b." in findings
    everything = sweep(lambda name, rate, seed: 100 + noise(seed), names=("a", "b", "c", "d"))
    assert said(everything)[0] == "a, b, c and d give the same results in every run"
    assert everything.methods == ["a = b = 2 more"]


def test_the_figure_has_what_was_measured() -> None:
    """Tests a line with its band for each policy, the bound, and the numbers behind them."""
    found = sweep(lambda name, rate, seed: (100 + noise(seed)) * (rate if name == "a" else 2.5))
    figure = sweep_figure(found, METRIC)
    assert figure is not None
    (panel,) = figure.panels
    assert panel.svg.count('<path class="line s') == 2
    assert panel.svg.count('<path class="band s') == 2
    assert panel.svg.count('<path class="line floor"') == 1
    lines = figure.csv.splitlines()
    assert lines[0] == "run,rate,mean_latency_ms,low,high,seeds"
    assert len(lines) == 1 + 3 * 3
    mean = fmean(100 + noise(seed) for seed in range(10))
    assert lines[2].startswith(f"a,2,{2 * mean:.5g},")
    assert "<title>a, rate 2: " in panel.svg


def test_more_is_better_where_it_is() -> None:
    """Tests shares: the highest leads, differences are in points, and a share of 0 is no fault."""
    trials = [
        Trial(name, (None, None), seed, {"within_slo": share - 0.01 * (seed % 2)}, {})
        for name, share in (("a", 0.97), ("b", 0.01))
        for seed in range(6)
    ]
    found = Sweep(tuple(trials), None, None, ("within_slo",), 12)
    assert said(found)[0] == "a has the highest share within service levels, 96.0 points more than b, the next"


@pytest.mark.slow
def test_the_page_of_a_grid_is_short(tmp_path: Path) -> None:
    """Tests a study of 144 runs: few tables are open, no row is a run, no file is named, and all is within 150 kB."""
    study = tmp_path / "grid.toml"
    study.write_text(
        'name = "grid"\n[[instances]]\nfamily = "kv-synthetic"\nseeds = "0..5"\n'
        "parameters = { requests = [2, 3, 4], kv_capacity = [30, 40] }\n"
        '[[policies]]\nnames = ["mc-sf", "svf", "rad", "mc-benchmark"]\n'
    )
    made = load_study(study)
    grid = cells(made)
    assert len(grid) == 144
    with Store(tmp_path / "out", writing=True) as store:
        for cell in grid:
            store.instance(cell.instance)
            result = mk.simulate(draw(cell.instance), cell.name)
            store.path(cell.key).parent.mkdir(exist_ok=True)
            save_result(result, store.path(cell.key))
            store.add(cell, result)
    page = (report_study(made, tmp_path / "out", tmp_path / "grid.html") or tmp_path).read_text()
    assert len(page) < 150_000
    head = re.search(r"<h1>(.*?)</h1>", page)
    assert head is not None
    assert "latency" in head[1]
    assert not re.search(r"[0-9a-f]{32}|\.result|\.json", head[1])
    assert "Every run." not in page
    body = re.sub(r"(?s)<details class=\"fold\">.*?</details>", "", page)
    assert body.count("<tr") < 20
    assert page.count('<svg class="plot"') >= 2
    for anchor in re.findall(r'href="#([\w-]+)"', page):
        assert f'id="{anchor}"' in page


def test_bounds_on_goodput_lie_above(tmp_path: Path) -> None:
    """Tests that who must fall outside the service levels is drawn as a bound on the share within, and told so."""
    chat = generate("chat", requests=12, rate=20.0, kv_capacity=400, server="llama2-70b-2xa100")
    mk.save_instance(chat, tmp_path / "chat.json")
    (tmp_path / "s.toml").write_text(
        'name = "s"\n[page]\nmetrics = ["within_slo"]\n[[instances]]\nfile = "chat.json"\n'
        'parameters = { slo = "ttft=300ms" }\n[[policies]]\nnames = ["vllm-like"]\n'
        '[[bounds]]\nparameters = { objective = "goodput" }\n'
    )
    made = load_study(tmp_path / "s.toml")
    with Store(tmp_path / "out", writing=True) as store:
        for cell in cells(made):
            path, _ = store.instance(cell.instance)
            run = mk.bound(path, objective="goodput", time_limit=0.2).result if cell.kind == "bound" else None
            result = run or mk.simulate(path, cell.name)
            store.path(cell.key).parent.mkdir(exist_ok=True)
            save_result(result, store.path(cell.key))
            store.add(cell, result)
    page = (report_study(made, tmp_path / "out", tmp_path / "s.html") or tmp_path).read_text()
    assert re.search(r"<h1>With .*vllm-like.* the share within service levels is at most [\d.]+\u202f% below", page)
    assert "certified: none can be above" in page
