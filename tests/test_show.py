"""Mathematics read from models: every formula is right for every row, or there is none."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyomo.environ as pyo
import pytest
from written_formulas import Reader, faults, terms_at

from modelkit.authoring.check.tiny_instances import tiny_instances
from modelkit.authoring.show import Mathematics, Named, mathematics, styles, writing
from modelkit.formulation.loading import found_formulations, load_formulation
from modelkit.solving.known import known_of

BUNDLED = [entry.name for entry in found_formulations()]


@cache
def known(name: str) -> Mathematics:
    """The mathematics of a bundled formulation, read once for all tests."""
    return mathematics(name)


def formula(name: str, family: str) -> str:
    """One formula as text."""
    read = known(name) if name in BUNDLED else mathematics(name)
    families = {f.name: f for f in (read.objective, *read.constraints)}
    made = writing.Writer(read, styles.Text()).formula(families[family])
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
            " ∑[i: (i,t - output[i] - 1) ∈ STARTS] start[i,t - output[i] - 1]",
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
    read = known(name)
    writer = writing.Writer(read, styles.Text())
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


@pytest.mark.parametrize("name", BUNDLED)
def test_no_range_is_left_open(name: str) -> None:
    """Tests that no bundled formula sums over "some" members: each was verified against the built rows."""
    text = writing.as_text(known(name))
    assert "[some" not in text
    assert writing.NOT_SHOWN not in " ".join(text.split())
    assert "not shown" not in text


SAMPLE = """
import pyomo.environ as pyo
from modelkit import Formulation, Schedule


def build(m):
    m.REQUESTS = pyo.Set(doc="requests")
    m.ONLY = pyo.Set(within=m.REQUESTS, doc="one of them")
    m.one = pyo.Param(m.REQUESTS, doc="among others 1 [1]")
    m.zero = pyo.Param(m.REQUESTS, doc="among others 0 [1]")
    m.minus = pyo.Param(m.REQUESTS, within=pyo.Reals, doc="among others -1 [1]")
    m.long = pyo.Param(m.REQUESTS, doc="output [token]")
    m.pair = pyo.Param(m.REQUESTS, m.REQUESTS, doc="of two [1]")
    m.cap = pyo.Param(doc="a limit [1]")
    m.moving = pyo.Param(initialize=3, mutable=True, doc="changes [1]")
    m.x = pyo.Var(m.REQUESTS, {bounds}doc="x")
    m.y = pyo.Var(m.REQUESTS, m.REQUESTS, doc="y")
    m.goal = pyo.Objective(expr={goal}, sense={sense}, doc="goal")
    m.rule = pyo.Constraint({over}rule=lambda m{index}: {rule}, doc="rule")


def data(instance):
    ids = [r.id for r in instance.requests]
    place = dict(enumerate(ids))
    return {{
        "REQUESTS": ids, "ONLY": ids[:1], "cap": 1 + len(ids) % 3,
        "one": {{i: 1 + n for n, i in place.items()}},
        "zero": {{i: n for n, i in place.items()}},
        "minus": {{i: n - 1 for n, i in place.items()}},
        "long": {{r.id: r.output_tokens for r in instance.requests}},
        "pair": {{(i, j): 1 + n * k for n, i in place.items() for k, j in place.items()}},
    }}


FORMULATION = Formulation(name="sample", summary="s", claim="exact", reference="r", objective="goal", build=build,
                          data=data, extract=lambda m, i: Schedule(()), value=lambda instance, verdict: 0.0)
"""


def sample(folder: Path, rule: str, *, indexed: bool = True, goal: str = "0*m.x[m.REQUESTS.first()] + m.cap",
           sense: str = "1", bounds: str = "") -> Path:  # fmt: skip
    """A formulation with this rule."""
    file = folder / "sample.py"
    over, index = ("m.REQUESTS, ", ", i") if indexed else ("", "")
    text = SAMPLE.format(rule=rule, over=over, index=index, goal=goal, sense=sense, bounds=bounds)
    file.write_text(text.replace("m.goal = pyo.Objective(expr=", "m.goal = pyo.Objective(rule=lambda m: "))
    return file


@pytest.mark.parametrize(
    ("rule", "indexed", "expected"),
    [
        ("sum(m.one[i] * m.x[i] for i in m.REQUESTS) <= m.cap", False, "∑[i ∈ REQUESTS] one[i] x[i] ≤ cap"),
        ("sum(m.minus[i] * m.x[i] for i in m.REQUESTS) <= m.cap", False, "∑[i ∈ REQUESTS] minus[i] x[i] ≤ cap"),
        ("sum(m.zero[i] * m.x[i] for i in m.REQUESTS) >= 2", False, "∑[i ∈ REQUESTS] zero[i] x[i] ≥ 2"),
        ("m.one[i] * m.x[i] <= 1", True, "one[i] x[i] ≤ 1"),
        ("m.one[i] * m.x[i] <= m.one[i]", True, "one[i] x[i] ≤ one[i]"),
        ("m.x[i] <= m.zero[i]", True, "x[i] ≤ zero[i]"),
        ("sum(m.x[i] for i in m.ONLY) <= 1", False, "∑[i ∈ ONLY] x[i] ≤ 1"),
        ("sum(m.one[i] * m.x[i] for i in m.ONLY) <= 1", False, "∑[i ∈ ONLY] one[i] x[i] ≤ 1"),
        ("m.x[i] + sum(m.x[j] for j in m.ONLY) <= 1", True, None),
        ("sum(m.x[i] for i in m.REQUESTS if m.long[i] > 3) <= 1", False, None),
        ("sum((1 if m.long[i] > 3 else 2) * m.x[i] for i in m.REQUESTS) <= 1", False, None),
        ("(0, m.x[i], 5)", True, None),
        ("sum(m.pair[i, j] * m.y[i, j] for i in m.REQUESTS for j in m.REQUESTS) == m.cap", False,
         "∑[i ∈ REQUESTS,i′ ∈ REQUESTS] pair[i,i′] y[i,i′] = cap"),
        ("sum(m.pair[i, j] * m.y[i, j] for j in m.REQUESTS) == m.cap", True,
         "∑[i′ ∈ REQUESTS] pair[i,i′] y[i,i′] = cap"),
        ("-m.x[i] >= -m.long[i]", True, "x[i] ≤ long[i]"),
        ("m.x[i] - m.long[i] == 0", True, "x[i] = long[i]"),
        ("m.one[i] * m.x[i] - m.x[i] <= 0", True, "(one[i] - 1) x[i] ≤ 0"),
        ("m.long[i] * m.one[i] * m.x[i] <= 7", True, "long[i] one[i] x[i] ≤ 7"),
        ("max(m.one[i], m.long[i]) * m.x[i] <= 7", True, None),
        ("abs(m.minus[i]) * m.x[i] <= 7", True, None),
        ("m.long[i] // 2 * m.x[i] <= 7", True, None),
        ("m.x[i] / m.long[i] <= 7", True, None),
        ("len(m.REQUESTS) * m.x[i] <= 7", True, None),
        ("m.moving * m.x[i] <= 7", True, None),
        ("m.x[i] ** 2 <= 7", True, None),
        ("0.12345678 * m.x[i] <= 1234567", True, "0.12345678 x[i] ≤ 1234567"),
        ("m.x[i] <= 7 if m.long[i] > 3 else m.x[i] >= 7", True, None),
    ],
)  # fmt: skip
def test_what_is_shown_is_in_the_model(rule: str, indexed: bool, expected: str | None, tmp_path: Path) -> None:
    """Tests awkward rules: the formula is the one written here by hand, or it is withheld and a row is shown."""
    read = mathematics(str(sample(tmp_path, rule, indexed=indexed)))
    writer = writing.Writer(read, styles.Text())
    made = writer.formula(read.constraints[0])
    flat = None if made is None else made.replace("\u00a0", " ")
    assert flat == expected
    text = " ".join(writing.as_text(read).split())
    assert (writing.NOT_SHOWN in text) == (expected is None)
    for page in (writing.as_latex(read), writing.as_html(read)):
        assert ("not shown" in page) == (expected is None)


@pytest.mark.parametrize(
    ("goal", "sense", "expected"),
    [
        ("sum(m.x[i] for i in m.REQUESTS) + m.cap", "1", "min  ∑[i ∈ REQUESTS] x[i] + cap"),
        ("sum(m.one[i] * m.x[i] for i in m.REQUESTS)", "-1", "max  ∑[i ∈ REQUESTS] one[i] x[i]"),
        ("sum(m.x[i] for i in m.REQUESTS) + len(m.REQUESTS)", "1", None),
        ("sum(m.x[i] ** 2 for i in m.REQUESTS)", "1", None),
    ],
)
def test_objectives_that_are_shown(goal: str, sense: str, expected: str | None, tmp_path: Path) -> None:
    """Tests constants and sense of the objective."""
    read = mathematics(str(sample(tmp_path, "m.x[i] <= 1", goal=goal, sense=sense)))
    made = writing.Writer(read, styles.Text()).formula(read.objective)
    assert (made and made.replace("\u00a0", " ")) == expected


def test_members_without_a_row_and_bounds_that_differ(tmp_path: Path) -> None:
    """Tests that a condition on the members is not passed over, nor bounds that only some variables have."""
    rule = "pyo.Constraint.Skip if i == m.REQUESTS.first() else m.x[i] <= 1"
    bounds = "bounds=lambda m, i: (-3, m.long[i]), "
    text = writing.as_text(mathematics(str(sample(tmp_path, rule, bounds=bounds))))
    assert "for all i ∈ REQUESTS, where the model has a row" in text
    assert "-3 ≤ x[i] ≤ long[i]" in text
    bounds = "bounds=lambda m, i: (None, 4 if i == m.REQUESTS.first() else None), "
    text = writing.as_text(mathematics(str(sample(tmp_path, rule, bounds=bounds))))
    assert "upper bounds differ by member and are not shown" in " ".join(text.split())


def written_faults(name: str, instances: int = 3, rows: int = 25) -> list[str]:
    """What is wrong with the formulas that are shown, on models that they were not read from, at random points."""
    formulation, read = load_formulation(name), known(name) if name in BUNDLED else mathematics(name)
    writer, chance, wrong = writing.Writer(read, styles.Text()), random.Random(1), []
    for instance in tiny_instances(formulation, instances, {}):
        model = formulation.instantiate(instance, known_of(formulation, instance))
        for variable in model.component_data_objects(pyo.Var):
            variable.set_value(chance.uniform(0.5, 3), skip_validation=True)
        reader = Reader(model, lambda variable: float(variable.value))
        for family in (read.objective, *read.constraints):
            made = writer.formula(family)
            if made is None:
                continue
            made, component = made.replace("\u00a0", " "), getattr(model, family.name)
            wrong += [f"{family.name}: {fault}" for fault in faults(made, family.letters, component, reader, rows)]
            missing = [k for k in component.index_set() if k not in component] if family.over else []
            for key in missing[:rows] if family.partial != "where the model has a row" else ():
                at = key if isinstance(key, tuple) else (key,)
                if terms_at(made, family.letters, at, reader):
                    wrong.append(f"{family.name}: has terms at {key}, but no row")
        for entry in read.variables:
            wrong += [f"{entry.name}: {fault}" for fault in bound_faults(writer, entry, model, reader)]
    return wrong


def bound_faults(writer: writing.Writer, entry: Named, model: Any, reader: Reader) -> Iterator[str]:
    """Bounds of a variable that are not those shown."""
    for side, end in ((entry.lower, "lb"), (entry.upper, "ub")):
        if side is None:
            continue
        text = writer.side(side, entry).replace("\u00a0", " ")
        for key, variable in getattr(model, entry.name).items():
            at = key if isinstance(key, tuple) else () if key is None else (key,)
            shown = reader.side(text, dict(zip(entry.letters, at, strict=True)))
            if abs(shown - getattr(variable, end)) > 1e-6:
                yield f"{variable.name}: {end} {getattr(variable, end)}, shown {text} = {shown:g}"


@pytest.mark.parametrize("name", BUNDLED)
def test_what_is_written_gives_the_built_rows(name: str) -> None:
    """Tests the text itself: read again, it has the value of each row at random points of models not read from."""
    assert written_faults(name) == []


#: Rules that are hard to write as one formula: over requests i, over numbers t, or of the whole.
AWKWARD = {
    "i": [
        "m.y[i, i] + sum(m.x[j] for j in m.REQUESTS if j != i) <= 1",
        "m.x[i] + sum(m.x[j] for j in m.ONLY if j != i) <= 1",
        "m.y[i, i] <= m.one[i]",
        "sum(m.y[j, i] for j in m.REQUESTS) == 1",
        "sum(m.pair[j, i] * m.y[i, j] for j in m.REQUESTS) <= m.cap",
        "sum(m.y[i, j] - m.y[j, i] for j in m.REQUESTS) == 0",
        "sum(m.y[i, j] - m.y[j, i] for j in m.REQUESTS if j != i) == m.zero[i]",
        "m.x[i] <= m.x[m.REQUESTS.first()]",
        "m.x[i] <= m.x[m.REQUESTS.last()]",
        "pyo.Constraint.Skip if i == m.REQUESTS.last() else m.x[i] <= m.x[m.REQUESTS.next(i)]",
        "pyo.Constraint.Skip if m.zero[i] == 0 else m.zero[i] * m.x[i] <= 1",
        "m.zero[i] * m.x[i] + m.y[i, i] <= 1",
        "2 * m.x[i] + 3 * m.x[i] - m.one[i] <= 4",
        "m.cap * m.cap * m.x[i] <= m.long[i] * m.one[i]",
        "m.x[i] + (m.part[i] if i in m.ONLY else 0) <= 1",
        "sum(m.long[j] * m.x[j] for j in m.REQUESTS if m.long[j] <= m.long[i]) <= 9",
        "sum((m.one[i] - m.one[j]) * m.y[i, j] for j in m.REQUESTS) <= 1",
        "m.x[i] * m.long[i] <= sum(m.z[t] for t in m.NUMBERS if t <= m.long[i])",
        "sum(m.x[j] for j in m.REQUESTS if m.REQUESTS.ord(j) < m.REQUESTS.ord(i)) + m.x[i] <= 2",
    ],
    "t": [
        "t * m.z[t] <= 1",
        "(t + 1) * m.z[t] - m.cap >= -t",
        "pyo.Constraint.Skip if t < 1 else m.z[t] >= m.z[t - 1]",
        "sum(m.z[s] for s in m.NUMBERS if s <= t) == t",
        "sum(m.z[s] for s in m.NUMBERS if s < t) + m.x[m.REQUESTS.first()] <= 4",
        "sum(m.z[s] for s in m.NUMBERS if t - 2 <= s <= t) <= 4",
        "sum(m.z[s] for s in m.NUMBERS if s % 2 == 0) + m.z[t] <= 4",
        "sum((t - s) * m.z[s] for s in m.NUMBERS if s <= t) <= 4",
        "sum(m.z[s] for s in m.NUMBERS if s != t) >= m.z[t]",
        "m.z[t] + m.z[m.NUMBERS.last()] <= 1",
        "m.z[t] <= max(1, t)",
        "sum(m.x[i] for i in m.REQUESTS if m.long[i] > t) <= 1 + m.z[t]",
        "(m.z[t] <= 1) if t % 2 else (m.z[t] <= 2)",
    ],
    "": [
        "sum(t * m.z[t] for t in m.NUMBERS) <= m.cap",
        "sum(m.x[i] for i in m.ONLY) == m.z[0]",
        "sum(m.x[i] * m.one[i] * m.one[i] for i in m.REQUESTS) <= sum(m.z[t] for t in m.NUMBERS if t > 0)",
        "sum(m.y[i, j] for i in m.REQUESTS for j in m.REQUESTS if i < j) <= 1",
        "sum(m.y[i, i] for i in m.REQUESTS) <= 1",
        "sum(m.x[i] for i in m.REQUESTS) <= len(m.REQUESTS) * m.cap",
    ],
}


def test_awkward_rules_are_right_or_withheld(tmp_path: Path) -> None:
    """Tests rules with conditions, diagonals, single elements and numbers: what is written gives the rows, if it is."""
    rules = [(letter, rule) for letter, some in AWKWARD.items() for rule in some]
    sets = {"i": "m.REQUESTS, ", "t": "m.NUMBERS, ", "": ""}
    lines = [
        '    m.NUMBERS = pyo.Set(doc="numbers")',
        '    m.z = pyo.Var(m.NUMBERS, doc="z")',
        '    m.part = pyo.Var(m.ONLY, doc="part")',
        *(
            f"    m.rule{n} = pyo.Constraint({sets[at]}rule=lambda m{', ' * bool(at)}{at}: {rule}, doc='{n}')"
            for n, (at, rule) in enumerate(rules)
        ),
    ]
    file = sample(tmp_path, "m.x[i] <= 9")
    text = file.read_text()
    text = text.replace("\n\n\ndef data", "\n" + "\n".join(lines) + "\n\n\ndef data")
    file.write_text(text.replace('"ONLY": ids[:1]', '"NUMBERS": range(3 + len(ids) % 2), "ONLY": ids[:1]'))
    read = mathematics(str(file))
    writer = writing.Writer(read, styles.Text())
    shown = [family.name for family in read.constraints if writer.formula(family) is not None]
    assert len(shown) >= 20, "what is withheld cannot be wrong"
    assert written_faults(str(file), 6) == []


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


def test_a_changed_model_changes_the_formula(edited: Callable[..., Path]) -> None:
    """Tests that the formula is read from the model: a wrong coefficient shows."""
    path = edited("wrong_coefficient", ("t - k) * m.start[i, k]", "t - k + 1) * m.start[i, k]"))
    assert formula(str(path), "kv_capacity_holds") == (
        "∑[(i,k) ∈ ACTIVE[t]] (t + prompt[i] + 1 - k) start[i,k] ≤ kv_capacity"
    )
