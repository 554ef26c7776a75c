"""Reports as text: golden bytes, what stands on a page, what is left out, nothing from outside unescaped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

import modelkit as mk
from modelkit.errors import UsageError
from modelkit.instance import Instance, LinearClock, Request, Server
from modelkit.judge import judge
from modelkit.reporting.charts.present import present
from modelkit.reporting.charts.timeline import Scene
from modelkit.reporting.templates import environment
from modelkit.result import Result, Seconds
from modelkit.runtime.resources import VERSION, bundled
from modelkit.schedule import Admission, Schedule, Segment
from modelkit.sources.families import generate
from modelkit.text import quantity
from modelkit.verify.exact_bounds import certify
from modelkit.verify.serving_work import earliest_completions

GOLDEN = Path(__file__).parent / "golden" / "two-requests.html"


def timeless(result: Result) -> Result:
    """Without what the clock measured."""
    return result.model_copy(update={"seconds": Seconds()})


def small(instance: Instance) -> list[Result | mk.Certificate]:
    """Two policies and a certificate at fixed prices."""
    prices = np.zeros(5)
    prices[3:5] = 0.125
    policies = [timeless(mk.simulate(instance, name)) for name in ("mc-sf", "alpha-protection")]
    return [*policies, certify(instance, prices)]


class Outline(HTMLParser):
    """Elements, headings and scripts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def written(tmp_path: Path, results: Any, **options: Any) -> str:
    """The page of these results."""
    path = mk.report(results, tmp_path / "report.html", **options)
    assert path is not None
    return path.read_text(encoding="utf-8")


def test_golden(tmp_path: Path) -> None:
    """Tests the bytes of a small report; GOLDEN=write renews the file after it was looked at."""
    instance = mk.load(bundled("instances") / "two-requests.json")
    text = written(tmp_path, small(instance), instances=[instance]).replace(f"modelkit {VERSION}", "modelkit VERSION")
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_same_files_same_bytes(tmp_path: Path) -> None:
    """Tests that a page depends on the files alone: neither on hash seeds nor on the time."""
    instance = generate("kv-synthetic", requests=8, seed=1)
    mk.save_instance(instance, tmp_path / "i.json")
    for name in ("mc-sf", "svf", "alpha-beta-clearing"):
        mk.save_result(mk.simulate(instance, name), tmp_path / f"{name}.result.json")
    pages = set()
    for seed in ("0", "1"):
        code = f"import modelkit as mk; mk.report([{str(tmp_path)!r}], {str(tmp_path / 'out.html')!r})"
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        pages.add((tmp_path / "out.html").read_bytes())
    assert len(pages) == 1


def test_structure(tmp_path: Path) -> None:
    """Tests headings in order, captions, alternative texts, figures, and that nothing is loaded from elsewhere."""
    instance = generate("chat", requests=60, kv_capacity=900, rate=6.0)
    results = [mk.simulate(instance, n) for n in ("mc-sf", "alpha-protection")]
    text = written(tmp_path, [*results, mk.bound(instance, time_limit=0.5)], instances=[instance])
    page = Outline(text)
    assert page.count("h1") == 1
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert page.count("caption") == page.count("table") >= 3
    keys = [attributes["id"] for tag, attributes in page.tags if tag == "figure"]
    assert keys == ["distances", "timeline", "occupancy", "utilisation", "latency", "prices"]
    plots = [attributes for tag, attributes in page.tags if tag == "svg" and attributes.get("role") == "img"]
    assert len(plots) >= 9
    assert all(len(attributes["aria-label"] or "") > 20 for attributes in plots)
    links = {value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")}
    assert {link for link in links if not str(link).startswith("data:text/csv;charset=utf-8,")} == {"data:,", "#main"}
    taken = [attributes.get("download") for tag, attributes in page.tags if tag == "a" and attributes.get("download")]
    assert taken == [f"{key}.csv" for key in keys]
    assert "url(http" not in text
    assert "@import" not in text
    assert instance.sha256 in text


def test_a_chain_is_drawn_where_it_tells_something(tmp_path: Path) -> None:
    """Tests that the path to the makespan is drawn where all are there at once, and not for requests that drop in."""
    for arrivals, drawn in (("all-at-once", True), ("poisson", False)):
        instance = generate("kv-synthetic", requests=6, arrivals=arrivals)
        text = written(tmp_path, [mk.simulate(instance, "mc-sf")], instances=[instance])
        assert ('id="critical-path"' in text) is drawn
        assert 'id="utilisation"' not in text  # one bar says nothing that the table does not


def test_equal_schedules_are_said_to_be_equal(tmp_path: Path) -> None:
    """Tests the headline, the marks of the best and the legend where policies make the same schedule."""
    instance = generate("kv-synthetic", requests=2, kv_capacity=60)
    names = ("mc-sf", "svf", "vllm-like")
    text = written(tmp_path, [mk.simulate(instance, name) for name in names], instances=[instance])
    assert re.search(r"<h1>\S* \S*mc-sf</span> .*; svf and .*vllm-like</span> give the same schedule\.</h1>", text)
    assert text.count('<tr class="best">') == 3
    assert text.count("mc-sf, svf and vllm-like") >= 2


def test_marks_tell_names_and_times(tmp_path: Path) -> None:
    """Tests what is shown where the pointer is on a request: its name, state, and from when to when."""
    chat = generate("chat", requests=5, rate=8.0, server="llama2-70b-2xa100")
    text = written(tmp_path, [mk.simulate(chat, "mc-sf")], instances=[chat])
    assert re.search(r"<title>r1: decode, [\d.,]+\u202fm?s to [\d.,]+\u202fm?s, [\d.,]+\u202fm?s long</title>", text)
    assert "data%2520" not in text
    csv = re.search(r'download="timeline.csv" href="data:text/csv;charset=utf-8,([^"]+)"', text)
    assert csv is not None
    rows = unquote(csv[1]).splitlines()
    assert rows[0] == "request,slot,arrival,admitted,prefilled,end"
    assert len(rows) == 6


def test_nothing_from_outside_is_markup(tmp_path: Path, hostile: tuple[Instance, list[Result]]) -> None:
    """Tests that hostile names add no element, no attribute and no template expression."""
    instance, results = hostile
    text = written(tmp_path, results, instances=[instance], title=instance.name)
    page = Outline(text)
    assert page.count("script") == 1
    assert page.count("img") == page.count("iframe") == 0
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "{{7*7}}" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", text)
    assert "alert(1)" in text
    assert "<script>alert" not in text


def test_unprintable_text_can_be_written(tmp_path: Path, two: Instance) -> None:
    """Tests lone surrogates, which have no UTF-8."""
    result = mk.simulate(two, "mc-sf")
    producer = result.producer.model_copy(update={"options": {"o": "a\ud800b"}})
    assert "a\ufffdb" in written(tmp_path, [result.model_copy(update={"producer": producer})], instances=[two])


def test_missing_variables_are_errors() -> None:
    """Tests that a template cannot pass over what it is not given."""
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError, match="headline"):
        environment().get_template("instance.html.j2").render(
            version="", style="", style_hash="", script="", script_hash="", title="", kicker=""
        )


def test_without_the_instance(tmp_path: Path, two: Instance) -> None:
    """Tests that a page without the instance quotes the files, says so, and leaves figures out in words."""
    text = written(tmp_path, [mk.simulate(two, "mc-sf")])
    assert "The instance is not beside the results" in text
    assert "not checked: no instance" in text
    assert 'id="timeline"' not in text


def test_broken_runs_are_shown(tmp_path: Path, two: Instance) -> None:
    """Tests a folder with a forged result, an unreadable file and a failed run."""
    mk.save_instance(two, tmp_path / "two.json")
    good = mk.simulate(two, "mc-sf")
    mk.save_result(good, tmp_path / "good.result.json")
    both = Schedule((Segment(0, (Admission("short"), Admission("long")), rounds=4),))
    producer = good.producer.model_copy(update={"name": "forged"})
    mk.save_result(good.model_copy(update={"schedule": both, "producer": producer}), tmp_path / "forged.result.json")
    (tmp_path / "cut.result.json").write_text('{"schema": "modelkit/result/1"')
    text = written(tmp_path, tmp_path)
    assert "forged:</bdi>" not in text
    assert "refused: the replay contradicts the file." in text
    assert "kv_capacity: from round 1" in text
    assert "Left out: cut.result.json: 1 fault" in text
    assert "forged (invalid)" in text
    with pytest.raises(UsageError, match="nothing to report"):
        mk.report([], tmp_path / "x.html")


def test_infeasible(tmp_path: Path, two: Instance) -> None:
    """Tests the page of an instance without a schedule: the reason stands once, in words."""
    tight = two.replace(server=Server(kv_capacity_tokens=5))
    text = written(tmp_path, [mk.solve(tight), mk.solve(tight, solver="scip")], instances=[tight])
    assert "<h1>No schedule exists for this instance.</h1>" in text
    assert text.count("request &#39;long&#39; needs 2 + 4 = 6 tokens") == 1


def test_problems_are_not_ranked_against_each_other(tmp_path: Path, two: Instance) -> None:
    """Tests a page on two problems: a headline, a table and anchors for each, and no bound of the other's."""
    weighted = mk.solve(two, "kv-weighted-latency", parameters={"weight": {"long": 5}})
    results = [mk.simulate(two, "mc-sf"), mk.solve(two), mk.bound(two, time_limit=0.1), weighted]
    text = written(tmp_path, results, instances=[two])
    page = Outline(text)
    assert "<h1>2 problems, which are not compared with each other.</h1>" in text
    headings = re.findall(r'<h2 id="findings-\d">(.*?)</h2>', text)
    assert [h.partition(" (")[0] for h in headings] == ["Total latency", "Weighted latency of kv-weighted-latency"]
    assert text.count("<span>Runs on this instance, compared by") == 2
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    own = text[text.index('id="findings-2"') :]
    assert "certified" not in own[: own.index('id="provenance"')]
    assert "No run gave a valid schedule" not in text
    alone = written(tmp_path, weighted, instances=[two])
    assert "kv-weighted-latency on HiGHS is optimal" in alone
    assert "no metric" not in alone


def test_many_instances_of_several_problems(tmp_path: Path) -> None:
    """Tests the summary: means are taken over results of one problem only."""
    instances = [generate("kv-synthetic", requests=4, seed=k) for k in range(2)]
    results: list[Any] = []
    for instance in instances:
        results += [
            mk.simulate(instance, "mc-sf"),
            mk.solve(instance, "kv-makespan"),
            mk.bound(instance, time_limit=0.1),
        ]
    text = written(tmp_path, results, instances=instances)
    headings = re.findall(r'<h2 id="findings-\d">(.*?)</h2>', text)
    assert headings == ["Total latency", "Makespan of kv-makespan"]
    assert text.count("<span>Each kind of run over 2 instances") == 2
    first = text[text.index('id="methods-1"') : text.index('id="instances-1"')]
    assert "kv-makespan" not in first


def test_runs_against_a_variants_rules_are_listed(tmp_path: Path, two: Instance) -> None:
    """Tests that what is said to be listed below is, with the problem that it is about, and under which unit."""
    roomy = [two.replace(name=f"roomy-{k}", server=Server(kv_capacity_tokens=60 + k)) for k in range(2)]
    results: list[Any] = []
    for instance in roomy:
        results += [mk.simulate(instance, "mc-sf"), mk.solve(instance, "kv-batch-cap", parameters={"batch_cap": 1})]
    text = written(tmp_path, results, instances=roomy)
    assert "2 schedules of policies break the rules of a variant; they are listed below." in text
    assert "gave no valid schedule" not in text
    assert "2 against the rules" in text
    table = text[text.index('id="failures"') : text.index('id="instances-2"')]
    assert table.count("the cap is 1") >= 2
    assert "total latency of kv-batch-cap (batch_cap = 1)" in table


def test_an_objective_of_its_own_has_no_unit_of_ours(tmp_path: Path, two: Instance) -> None:
    """Tests that no figure and no table gives a weighted sum in rounds."""
    weighted = mk.solve(two, "kv-weighted-latency", parameters={"weight": {"long": 5}})
    progress = [(0.1, 30.0, 20.0), (0.2, 26.0, 26.0)]
    text = written(tmp_path, weighted.model_copy(update={"progress": progress}), instances=[two])
    assert "incumbent 26, bound 26" in text
    assert "26\u202frounds" not in text


def test_many(tmp_path: Path) -> None:
    """Tests the summary of several instances: ratios, wins, failures, and a state for each instance."""
    results: list[Any] = []
    instances = [generate("kv-synthetic", requests=6, seed=k) for k in range(4)]
    for instance in instances:
        results += [mk.simulate(instance, "mc-sf"), mk.simulate(instance, "mc-benchmark")]
        results.append(mk.bound(instance, time_limit=0.2))
    tight = instances[0].replace(name="tight", server=Server(kv_capacity_tokens=3))
    results.append(mk.solve(tight))
    text = written(tmp_path, results, instances=[*instances, tight])
    page = Outline(text)
    keys = [attributes["id"] for tag, attributes in page.tags if tag == "figure"]
    assert keys == ["ratios-to-bound", "ratios-to-best", "wins"]
    distance = r"(at most|between [\d.]+\u202f% and) [\d.]+\u202f% above the optimum over 4 instances\."
    assert re.search(rf"<h1>(<.*>)?[a-z-]+(</.*>)? is on average {distance}", text)
    assert "1 instance of 5 has no schedule at all." in text
    assert "infeasible: no schedule exists" in text


@pytest.mark.parametrize("slots", [3, 300])
def test_slots_in_stages(tmp_path: Path, slots: int) -> None:
    """Tests the Gantt chart of slots, and the areas where slots are too many for it."""
    instance = generate("gsm8k", requests=40, slots=slots)
    text = written(tmp_path, [mk.simulate(instance, "sorted")], instances=[instance])
    assert ("Slots over time" in text) == (slots == 3)
    assert "prefill stage" in text


def test_mixed_clock(tmp_path: Path) -> None:
    """Tests a schedule under the linear clock with continuous batching, for which there is no policy yet."""
    instance = Instance(
        name="mixed",
        server=Server(
            kv_capacity_tokens=50,
            clock=LinearClock(kind="linear", mixed=True, prefill_base_ms=10.0, decode_base_ms=50.0),
        ),
        requests=tuple(Request(id=f"q{k}", arrival=0.1 * k, prompt_tokens=5, output_tokens=6) for k in range(4)),
    )
    from modelkit.judge import judge

    schedule = Schedule(tuple(Segment(0.1 * k, (Admission(f"q{k}"),), rounds=1 if k < 3 else 6) for k in range(4)))
    verdict = judge(instance, schedule)
    assert verdict.valid
    base = mk.simulate(generate("kv-synthetic", requests=2), "mc-sf")
    result = base.model_copy(
        update={
            "instance": type(base.instance).of(instance),
            "schedule": schedule,
            "metrics": verdict.metrics,
            "objective": base.objective.model_copy(
                update={"name": "mean_latency_ms", "value": verdict.metrics["mean_latency_ms"]}
            ),
        }
    )
    text = written(tmp_path, [result], instances=[instance])
    assert 'id="timeline"' in text
    assert "continuous batching" in text


@pytest.mark.slow
def test_twenty_thousand_requests_stay_small(tmp_path: Path) -> None:
    """Tests that a page on the shipped hour, with three policies and the bound, has under 3 MB."""
    instance = mk.load(bundled("instances") / "service-hour.json.gz")
    policies = ("mc-sf", "svf", "alpha-protection")
    results: list[Any] = [mk.simulate(instance, name) for name in policies]
    text = written(tmp_path, [*results, mk.bound(instance, time_limit=2)], instances=[instance])
    assert 100_000 < len(text.encode()) < 3_000_000


def test_real_time_is_set_against_the_bound_of_each_objective(tmp_path: Path) -> None:
    """Tests that policies stand beside the bound of latency, makespan and first tokens, each in its own part."""
    chat = generate("chat", requests=30, rate=8.0, server="llama2-70b-2xa100")
    policies = [timeless(mk.simulate(chat, name)) for name in ("vllm-like", "wait")]
    bounds = [mk.bound(chat, objective=o, time_limit=1.0) for o in ("latency", "makespan", "ttft")]
    text = written(tmp_path, [*policies, *bounds], instances=[chat])
    for metric, noun in (
        ("mean_latency_ms", "mean latency"), ("makespan_ms", "makespan"), ("mean_ttft_ms", "mean time to first token"),
    ):  # fmt: skip
        bound = next(b for b in bounds if b.certificate.metric == metric.replace("mean_", "total_"))
        least = quantity(metric, bound.value / (1 if noun == "makespan" else 30))
        assert f"certified lower bound: {least}" in text
        alt = next(alt for alt in re.findall('aria-label="([^"]*)"', text) if alt.lower().startswith(f"{noun}: "))
        for run in policies:
            assert re.search(rf"{run.producer.name}( and wait)? {quantity(metric, run.metrics[metric])}", alt)
    assert text.count("Requests in the system</h3>") == 1


def test_the_least_number_present_is_below_every_schedule() -> None:
    """Tests the proven least number of requests in the system against policies, and by hand for one request."""
    for seed in range(6):
        options: dict[str, Any] = {"kv_capacity": 3000} if seed % 2 else {}
        chat = generate("chat", requests=40, rate=20.0, server="llama2-70b-2xa100", seed=seed, **options)
        if seed >= 4:
            clock = chat.server.clock.model_copy(update={"mixed": False})
            chat = chat.replace(server=chat.server.model_copy(update={"clock": clock}))
        least = np.array(earliest_completions(chat)) / 1024
        assert (np.diff(least) >= 0).all()
        for name in ("vllm-like", "svf"):
            schedule = mk.simulate(chat, name).schedule
            assert schedule is not None
            ends = sorted(s.end or 0.0 for s in judge(chat, schedule).residencies if s.completed)
            assert len(ends) == 40
            assert (least <= np.array(ends) + 1e-6).all()
    one = Instance(
        requests=[Request(id="r", arrival=1.0, prompt_tokens=10, output_tokens=3)],
        server=Server(
            clock=LinearClock(kind="linear", mixed=True, prefill_base_ms=4, prefill_per_token_ms=1, decode_base_ms=8)
        ),
    )
    assert earliest_completions(one)[0] / 1024 == pytest.approx(1000 + 4 + 10 + 2 * 8, abs=0.003)


def test_many_requests_in_the_system_are_drawn_in_columns() -> None:
    """Tests that the figure stays small for many requests, and that its area is the mean latency."""
    chat = generate("chat", requests=3000, rate=10.0, server="llama2-70b-2xa100")
    schedule = mk.simulate(chat, "vllm-like").schedule
    assert schedule is not None
    figure = present([Scene("vllm-like", chat, judge(chat, schedule))])
    assert figure is not None
    assert len(figure.panels[0].svg) < 60_000
    assert figure.table is not None
    assert [row[0] for row in figure.table[1]] == ["proven least at each moment", "vllm-like"]
