"""Mathematics read from models: every formula is right for every row, or there is none."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from modelkit.mathematics import mathematics, writing
from modelkit.plugins import found_formulations

BUNDLED = [entry.name for entry in found_formulations()]


def formula(name: str, family: str) -> str:
    """One formula as text."""
    read = mathematics(name)
    families = {f.name: f for f in (read.objective, *read.constraints)}
    made = writing.Writer(read, writing.Text()).formula(families[family])
    assert made is not None
    return made.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("name", "family", "expected"),
    [
        ("kv-hindsight", "total_latency", "min  ∑[(i,k) ∈ STARTS] (k + output[i] - arrival[i]) start[i,k]"),
        ("kv-hindsight", "started_once", "∑[k ∈ STARTS_OF[i]] start[i,k] = 1"),
        (
            "kv-hindsight",
            "kv_capacity_holds",
            "∑[(i,k) ∈ STARTS,t - output[i] ≤ k ≤ t - 1] (t + prompt[i] - k) start[i,k] ≤ kv_capacity",
        ),
        (
            "kv-hindsight-flow",
            "running_follows",
            "∑[i ∈ BEGINNING[t]] start[i,t - 1] + running[t - 1] = running[t] +"
            " ∑[i ∈ ENDED[t]] start[i,t - output[i] - 1]",
        ),
        ("kv-batch-cap", "batch_within_cap", "running[t] ≤ batch_cap"),
        ("kv-deadlines", "deadline_kept", "∑[k ∈ LATE_STARTS[i]] start[i,k] = 0"),
        (
            "kv-weighted-latency",
            "weighted_latency",
            "min  ∑[(i,k) ∈ STARTS] weight[i] (k + output[i] - arrival[i]) start[i,k]",
        ),
        ("kv-makespan", "completed_by_last", "∑[k ∈ STARTS_OF[i]] (k + output[i]) start[i,k] ≤ last"),
        ("slot-full-mip", "decoded_after_prefill",
         "decoded[i,j,k] ≤ ∑[k′ ∈ STAGES,k′ ≤ k] output[i] prefilled[i,j,k′]"),
        ("slot-full-mip", "level_chosen", "∑[l ∈ LEVELS] level[k,l] = used[k]"),
        ("makespan-bin-packing", "queue_no_longer", "∑[c: (c,j) ∈ QUEUES] c assigned[c,j] ≤ longest"),
        ("slot-lower-bound", "work_fits", "slots rounds ≥ work"),
    ],
)  # fmt: skip
def test_formulas_are_those_of_the_papers(name: str, family: str, expected: str) -> None:
    """Tests what is read from the rows against what the docstring and the paper say."""
    assert formula(name, family) == expected


@pytest.mark.parametrize("name", BUNDLED)
def test_every_family_has_a_formula(name: str) -> None:
    """Tests all bundled formulations: no family is left as an example, and all three forms are whole."""
    read = mathematics(name)
    writer = writing.Writer(read, writing.Text())
    for family in (read.objective, *read.constraints):
        assert writer.formula(family) is not None, family.name
    text = writing.as_text(read)
    assert max(map(len, text.splitlines())) <= 80
    for component in (*read.sets, *read.parameters, *read.variables):
        assert re.search(rf"\b{component.name}\b", text)
    latex = writing.as_latex(read)
    assert latex.count("{") == latex.count("}")
    assert latex.count(r"\[") == latex.count(r"\]")
    assert not re.search(r"[^\x00-\x7fõ]", latex), "only what LaTeX knows"
    parser = _Balanced()
    parser.feed(writing.as_html(read))
    assert parser.open == []


class _Balanced(HTMLParser):
    """Notes which elements are still open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_changed_model_changes_the_formula(tmp_path: object) -> None:
    """Tests that the formula is read from the model: the wrong coefficient of a wrong formulation shows."""
    from pathlib import Path

    path = Path(__file__).parent / "wrong_formulations" / "wrong_coefficient.py"
    assert formula(str(path), "kv_capacity_holds") == (
        "∑[(i,k) ∈ ACTIVE[t]] (t + prompt[i] + 1 - k) start[i,k] ≤ kv_capacity"
    )
