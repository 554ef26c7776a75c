"""Finding and loading formulation files: in order, by name, and whatever is broken stands alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelkit.errors import FormulationError, UsageError
from modelkit.formulation.formulation import Formulation
from modelkit.formulation.loading import FOLDERS_VARIABLE, formulation_files, found_formulations, load_formulation
from modelkit.instance import Instance
from modelkit.runtime.resources import bundled
from modelkit.solving import solve

VARIANT = '''
"""At most two requests at a time."""
import pyomo.environ as pyo
from modelkit import Formulation


def build(m):
    m.batch_cap = pyo.Param(doc="requests in progress at once [request]")
    m.batch_is_small = pyo.Constraint(m.ROUNDS, rule=lambda m, t: m.running[t] <= m.batch_cap)


FORMULATION = Formulation(
    name="{name}",
    summary="kv-hindsight-flow with few requests at a time",
    claim="exact",
    reference="none",
    extends="{extends}",
    build=build,
    data=lambda instance: {{"batch_cap": 1}},
)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of formulations that the loader looks into."""
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path))
    return tmp_path


def write_variant(folder: Path, stem: str = "small_batches", extends: str = "kv-hindsight-flow") -> Path:
    """A variant that extends a bundled formulation."""
    path = folder / f"{stem}.py"
    path.write_text(VARIANT.format(name=stem.replace("_", "-"), extends=extends))
    return path


def test_bundled_formulations_load() -> None:
    """Tests that every bundled file holds a formulation of its own name with a claim (more: test_check)."""
    for entry in found_formulations():
        assert entry.error is None
        formulation = entry.formulation
        assert formulation is not None
        assert formulation.name == entry.name
        assert formulation.claim in ("exact", "lower-bound", "heuristic")
        assert formulation.value is not None or formulation.objective in ("total_latency", "makespan", "total_ttft")
        assert formulation.summary
        assert formulation.reference


def test_bundled_instances_are_there() -> None:
    """Tests that the instances come with the package."""
    assert (bundled("instances") / "conversation-60.json").is_file()


def test_a_variant_is_a_difference(folder: Path) -> None:
    """Tests a user's variant: found by name and by file, with what it inherits."""
    path = write_variant(folder)
    instance = Instance.model_validate(
        {
            "server": {"kv_capacity_tokens": 100},
            "requests": [{"id": i, "prompt_tokens": 1, "output_tokens": 3} for i in "ab"],
        }
    )
    assert solve(instance, formulation="kv-hindsight-flow").objective.value == 6
    for name in ("small-batches", str(path)):
        assert load_formulation(name).extends == "kv-hindsight-flow"
        # the second waits for the first: beyond every start that the base's own optimum needs
        result = solve(instance, formulation=name)
        assert (result.status, result.objective.value, result.start.accepted) == ("optimal", 9, False)
    variant = load_formulation("small-batches")
    assert variant.extract is load_formulation("kv-hindsight-flow").extract
    assert variant.problem is None


def test_broken_files_hide_nothing(folder: Path) -> None:
    """Tests that each broken file is listed with its place and the others work."""
    broken = {
        "syntax": ("x = (", "line 1: '(' was never closed"),
        "failing": ("\n1 / 0", "line 2: ZeroDivisionError"),
        "missing_import": ("import nonexistent_package", "line 1: ModuleNotFoundError"),
        "empty": ("", "defines no object FORMULATION"),
        "misnamed": (
            VARIANT.format(name="other", extends="kv-hindsight"),
            "is named 'other'; its file says 'misnamed'",
        ),
    }
    for stem, (text, _) in broken.items():
        (folder / f"{stem}.py").write_text(text)
    write_variant(folder)
    found = {entry.name: entry for entry in found_formulations()}
    assert found["small-batches"].formulation is not None
    assert found["kv-hindsight"].formulation is not None
    for stem, (_, words) in broken.items():
        error = found[stem.replace("_", "-")].error
        assert error is not None
        assert words in error
        assert f"{stem}.py" in error


def test_circles_and_missing_bases(folder: Path) -> None:
    """Tests variants that extend each other or nothing."""
    write_variant(folder, "one", "two")
    write_variant(folder, "two", "one")
    write_variant(folder, "three", "kv-hindsigth")
    with pytest.raises(FormulationError, match="in a circle: one -> two -> one"):
        load_formulation("one")
    with pytest.raises(UsageError, match="did you mean 'kv-hindsight'"):
        load_formulation("three")
    assert {entry.name for entry in found_formulations() if entry.error} == {"one", "two", "three"}


def test_the_bundled_name_counts(folder: Path) -> None:
    """Tests that a user's file cannot take the name of a bundled one, and that private files are left alone."""
    (folder / "kv_hindsight.py").write_text("1 / 0")
    (folder / "_helper.py").write_text("1 / 0")
    files = formulation_files()
    assert files["kv-hindsight"].parent == bundled("formulations")
    assert not any("helper" in name for name in files)


def test_nothing_is_picked_up_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that a file beside the user is loaded only when it is named."""
    path = write_variant(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert "small-batches" not in formulation_files()
    assert load_formulation(path.name).name == "small-batches"
    with pytest.raises(FormulationError, match="cannot read formulation nowhere.py: No such file"):
        load_formulation("nowhere.py")


@pytest.mark.parametrize(
    "line", ["from modelkit.parameters import Parameter", "from modelkit.formulation import Formulation"]
)
def test_inner_modules_that_moved_are_explained(line: str, tmp_path: Path) -> None:
    """Tests that a file which imports inner modules of another version is told what to write."""
    path = tmp_path / "old.py"
    path.write_text(f"{line}\n")
    with pytest.raises(FormulationError, match="line 1: .*from modelkit import Formulation, Instance, Parameter"):
        load_formulation(str(path))


@pytest.mark.parametrize(
    ("data", "taken"),
    [
        (lambda instance: {"taken": 1}, 1),
        (lambda instance, windows=sorted: {"taken": 1 if windows is sorted else 2}, 1),
        (lambda instance, known: {"taken": known}, "known"),
        (lambda instance, known=None: {"taken": known}, "known"),
        (lambda *arguments: {"taken": arguments[1]}, "known"),
        (functools.partial(lambda more, instance, known: {"taken": known}, 0), "known"),
    ],
)
def test_data_is_handed_what_it_takes(data: Callable[..., dict[str, Any]], taken: object, two: Instance) -> None:
    """Tests that a function of the instance alone goes on working, also one with a default of its own."""
    formulation = Formulation(name="x", summary="x", claim="exact", reference="x", data=data)
    assert formulation.values(two, "known") == {"taken": taken}
