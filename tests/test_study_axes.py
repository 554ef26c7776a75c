"""Sweeps: what-if changes of instances, options and traces as axes, and the tidy table of their runs."""

from __future__ import annotations

import csv
import gzip
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import modelkit as mk
from modelkit.errors import InputError, UsageError
from modelkit.experiments.study import StoredRun, cells, estimate, export, load_study, new_study
from modelkit.experiments.study.origins import draw
from modelkit.experiments.study.page import shown_axes
from modelkit.experiments.study.paper_figures import PaperFigure
from modelkit.experiments.study.plan import Bounds, Formulations, Instances, Page, Policies, RunLimits, Study
from modelkit.sources.changes import changed
from modelkit.sources.families import generate

TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:15:{k:02d}.5,{10 + k},{3 + k}\n" for k in range(12)
)


@pytest.fixture
def chat() -> mk.Instance:
    """Eight chats in real time."""
    return generate("chat", requests=8, rate=4.0, server="llama2-70b-2xa100")


def study(folder: Path, text: str) -> Any:
    """A study of this text."""
    (folder / "s.toml").write_text(f'name = "s"\n{text}')
    return load_study(folder / "s.toml")


def test_changes(chat: mk.Instance) -> None:
    """Tests that what is given replaces the instance's own, that arrivals come at the rate, and all else stays."""
    levels = "ttft=450ms"
    faster = changed(chat, rate=8.0, kv_capacity=900, slots=3, replicas=2, slo=levels, server="llama2-70b-8xh100")
    gaps = [b.arrival - a.arrival for a, b in zip(faster.requests, faster.requests[1:], strict=False)]
    assert sum(gaps) / len(gaps) == pytest.approx(1 / 8)
    host = faster.server
    assert (host.kv_capacity_tokens, host.slots, host.replicas, host.slo.ttft_ms) == (900, 3, 2, 450)
    assert faster.server.clock == generate("chat", requests=1, server="llama2-70b-8xh100").server.clock
    assert [r.prompt_tokens for r in faster.requests] == [r.prompt_tokens for r in chat.requests]
    assert changed(chat) is chat
    assert faster.name.startswith(chat.name)
    rounds = changed(generate("kv-synthetic", arrivals="poisson", requests=9), rate=0.25)
    assert all(float(r.arrival).is_integer() for r in rounds.requests)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rate": 0.0}, "rate: found 0; allowed: more than 0"),
        ({"kv_capacity": 0}, "kv_capacity_tokens: found 0"),
        ({"server": "llama2-70b-2xh10"}, "did you mean 'llama2-70b-2xh100'"),
        ({"slo": "tfft=3ms"}, "did you mean 'ttft'"),
    ],
)
def test_wrong_changes(chat: mk.Instance, changes: dict[str, Any], words: str) -> None:
    """Tests that what cannot be is refused in words."""
    with pytest.raises(mk.ModelkitError, match=words):
        changed(chat, **changes)


def test_changes_that_an_instance_does_not_allow(two: mk.Instance) -> None:
    """Tests a rate where all come at once, and a server in seconds for arrivals in rounds."""
    together = two.replace(requests=[r.model_copy(update={"arrival": 0}) for r in two.requests])
    with pytest.raises(InputError, match="all requests arrive at once"):
        changed(together, rate=2.0)
    with pytest.raises(InputError, match="the requests arrive in rounds"):
        changed(two, server="llama2-70b-2xa100")


def test_axes_of_every_origin(tmp_path: Path, chat: mk.Instance) -> None:
    """Tests families, files and traces with the same axes, options of policies among them, each with its own key."""
    mk.save_instance(chat, tmp_path / "chat.json")
    (tmp_path / "conv.csv").write_text(TRACE)
    grid = cells(
        study(
            tmp_path,
            """
            [[instances]]
            file = "chat.json"
            parameters = { rate = [2.0, 4.0], kv_capacity = [900, 16492] }
            [[instances]]
            trace = "conv.csv"
            parameters = { requests = 6, skip = [0, 6], server = "llama2-70b-2xa100", slots = [2, 4] }
            [[instances]]
            family = "kv-synthetic"
            seeds = [0, 1]
            parameters = { requests = 3, slots = [1, 2] }
            [[policies]]
            names = ["mc-sf", "alpha-protection:alpha=0.3"]
            options = { gate = [2, 4] }
            """,
        )
    )
    assert len(grid) == len({cell.key for cell in grid}) == (4 + 4 + 4) * 2 * 2
    assert {cell.name for cell in grid} == {
        f"{name}gate={gate}" for name in ("mc-sf:", "alpha-protection:alpha=0.3,") for gate in (2, 4)
    }
    assert grid[0].axes == {"group": "chat", "gate": 2, "rate": 2.0, "kv_capacity": 900}
    assert grid[2].method(without=["gate"]) == "alpha-protection:alpha=0.3"
    drawn = {cell.instance.key: draw(cell.instance) for cell in grid}
    assert len({instance.sha256 for instance in drawn.values()}) == 12
    from_trace = [drawn[cell.instance.key] for cell in grid if cell.instance.format == "azure"]
    assert {instance.requests[0].prompt_tokens for instance in from_trace} == {10, 16}
    assert {instance.server.slots for instance in from_trace} == {2, 4}


def test_an_axis_is_there_in_every_group(tmp_path: Path, chat: mk.Instance) -> None:
    """Tests that none stands at values of what only others have, and that an option of all policies is an axis."""
    mk.save_instance(chat, tmp_path / "chat.json")
    text = """
        [[instances]]
        group = "swept"
        file = "chat.json"
        parameters = { rate = [2.0, 4.0] }
        [[instances]]
        group = "as it is"
        file = "chat.json"
        [[policies]]
        names = ["mc-sf"]
        """
    assert shown_axes(study(tmp_path, text)) == (None, "group")
    assert shown_axes(study(tmp_path, text + "options = { gate = [2, 4] }")) == ("gate", "group")
    some = text + 'options = { gate = [2, 4] }\ngroups = ["swept"]'
    assert shown_axes(study(tmp_path, some)) == (None, "group")
    assert shown_axes(study(tmp_path, '[page]\naxis = "rate"\n' + text)) == ("rate", "group")


def test_the_table_has_a_column_for_every_axis(tmp_path: Path, chat: mk.Instance) -> None:
    """Tests that each run's place in the grid can be read from its row alone."""
    mk.save_instance(chat, tmp_path / "chat.json")
    grid = cells(
        study(
            tmp_path,
            '[[instances]]\nfile = "chat.json"\nparameters = { rate = [2.0, 9.0] }\n'
            '[[policies]]\nnames = ["mc-sf"]\noptions = { gate = [1, 4] }\nseeds = [0, 1]\n',
        )
    )
    done = [StoredRun.of(cell, mk.simulate(draw(cell.instance), cell.name, seed=cell.seed)) for cell in grid]
    export(done[::-1], tmp_path / "t.csv", grid)
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    places = [tuple(row[name] for name in ("group", "rate", "policy", "gate", "seed")) for row in rows]
    assert places == [("chat", r, "mc-sf", g, s) for r in ("2.0", "9.0") for g in ("1", "4") for s in ("0", "1")]
    assert all(float(row["mean_latency_ms"]) > 0 for row in rows)


def test_faults_of_axes(tmp_path: Path, chat: mk.Instance) -> None:
    """Tests that every fault is told with what is allowed."""
    mk.save_instance(chat, tmp_path / "chat.json")
    (tmp_path / "conv.csv").write_text(TRACE)
    text = """
        [page]
        axis = "rat"
        metrics = ["p99_tft_ms"]
        [[instances]]
        file = "chat.json"
        parameters = { rate = ["fast"], capacity = 3 }
        [[instances]]
        trace = "conv.csv"
        parameters = { request = 3 }
        [[instances]]
        trace = "none.csv"
        [[instances]]
        trace = "conv.csv"
        format = "azur"
        [[policies]]
        names = ["mc-sf"]
        options = { gate = [2, -1] }
    """
    with pytest.raises(InputError) as caught:
        study(tmp_path, text)
    told = {fault.path: fault.message for fault in caught.value.faults}
    assert "allowed: float" in told["$.instances[0].parameters.rate"]
    assert "known: kv_capacity, rate, replicas, server, slo, slots" in told["$.instances[0].parameters.capacity"]
    assert "did you mean 'requests'" in told["$.instances[1].parameters.request"]
    assert "no such file" in told["$.instances[2].trace"]
    assert "did you mean 'azure'" in told["$.instances[3].format"]
    assert "gate" in told["$.policies[0].names[0] with gate=-1"]
    assert "known: capacity, gate, group, rate, request" in told["$.page.axis"]
    assert "did you mean 'p99_ttft_ms'" in told["$.page.metrics[0]"]


def test_unknown_keys_are_answered_with_the_allowed_ones(tmp_path: Path) -> None:
    """Tests keys that are like none."""
    with pytest.raises(InputError) as caught:
        study(tmp_path, '[[instances]]\nfamily = "chat"\nqqq = 1\n[page]\nzzz = 2\n')
    said = str(caught.value)
    assert "allowed: group, family, trace, format, file, seeds, parameters" in said
    assert "allowed: axis, panels, repeats, metrics" in said


def test_a_new_study_runs_as_it_stands(tmp_path: Path) -> None:
    """Tests the template: it is right, has two axes' worth of runs, and is written once."""
    path = new_study("my-rates", tmp_path)
    made = load_study(path)
    assert made.name == "my-rates"
    assert len(cells(made)) == 3 * 5 * 3
    for words in ("options = ", "trace = ", "file = "):
        assert f"# {words}" in path.read_text()
    with pytest.raises(UsageError, match="is there already"):
        new_study("my-rates.toml", tmp_path)
    with pytest.raises(UsageError, match="cannot name a study"):
        new_study("a/b", tmp_path)


def test_the_parts_of_the_template_in_comments_are_right(tmp_path: Path, chat: mk.Instance) -> None:
    """Tests that what the template only shows can be used."""
    text = new_study("all", tmp_path).read_text()
    text = re.sub(r"(?m)^# (?=\[\[|trace|file|parameters|names|options|panels)", "", text)
    mk.save_instance(chat, tmp_path / "mine.json")
    with gzip.open(tmp_path / "conv.csv.gz", "wt") as file:
        file.write(TRACE)
    (tmp_path / "all.toml").write_text(text)
    made = load_study(tmp_path / "all.toml")
    assert {cell.instance.group for cell in cells(made)} == {"chat", "conv", "mine"}
    assert made.page.panels == "kv_capacity"


def test_what_is_left_is_estimated(tmp_path: Path, chat: mk.Instance) -> None:
    """Tests that limits and finished runs count for what they tell, and what is unknown is said."""
    mk.save_instance(chat, tmp_path / "chat.json")
    made = study(
        tmp_path,
        '[[instances]]\nfile = "chat.json"\nparameters = { rate = [2.0, 9.0] }\n'
        '[[policies]]\nnames = ["mc-sf"]\n[[bounds]]\nlimits = { time_limit = 7 }\n',
    )
    grid = cells(made)
    untried = estimate(grid, [], jobs=1, trials=False)
    assert (untried.likely, untried.at_most, untried.unknown) == (0.0, 14.0, 2)
    done = [replace(StoredRun.of(grid[1], mk.simulate(chat, "mc-sf")), seconds=3.0)]
    like = estimate(grid, done, jobs=2)
    assert (like.likely, like.at_most, like.unknown) == (3.0, 7.0, 0)


@pytest.mark.slow
def test_a_trial_keeps_nothing(tmp_path: Path, chat: mk.Instance) -> None:
    """Tests that a policy of which nothing is known is tried, and that nothing of that is left."""
    mk.save_instance(chat, tmp_path / "chat.json")
    made = study(tmp_path, '[[instances]]\nfile = "chat.json"\n[[policies]]\nnames = ["mc-sf"]\n')
    tried = estimate(cells(made), [], jobs=2)
    assert 0 < tried.likely < 20
    assert (tried.at_most, tried.unknown, tried.longer) == (0.0, 0, 0)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "chat.json", tmp_path / "s.toml"]


def test_the_page_of_the_documentation_has_every_key() -> None:
    """Tests that each key of a study file is there as the models describe it, and that its examples are right."""
    page = (Path(__file__).parents[1] / "docs" / "pages" / "how-to" / "study.md").read_text()
    for model in (Study, Page, Instances, Policies, Formulations, Bounds, RunLimits, PaperFigure):
        for key, known in model.model_fields.items():
            assert f"| `{key}` | {known.description} |" in page


def test_examples_of_the_documentation_are_right(tmp_path: Path) -> None:
    """Tests that both files of the page are read without a fault, with the runs that it says."""
    page = (Path(__file__).parents[1] / "docs" / "pages" / "how-to" / "study.md").read_text()
    with gzip.open(tmp_path / "conv.csv.gz", "wt") as file:
        file.write(TRACE)
    sizes = {}
    for name, text in re.findall(r"```toml file=(\S+)\n(.*?)```", page, re.DOTALL):
        (tmp_path / name).write_text(text)
        sizes[name] = len(cells(load_study(tmp_path / name)))
    assert sizes == {"curve.toml": 80, "memory.toml": 16}
