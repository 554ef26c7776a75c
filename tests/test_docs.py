"""The documentation: every example runs as written, and the pages are built from the code."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import modelkit as mk
from modelkit import backends, policies
from modelkit.authoring.check import OF_FILES
from modelkit.cli import cli as commands
from modelkit.formulation.loading import load_formulation
from modelkit.judge.rules import Interval, Residency
from modelkit.sources import families, traces
from modelkit.sources.library import library_entries
from modelkit.text import metric_noun

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(p.relative_to(DOCS / "pages").as_posix() for p in (DOCS / "pages").rglob("*.md"))
COOKBOOK = sorted((DOCS / "pages" / "cookbook").glob("*.py"))
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an example registers is forgotten afterwards."""
    for registry in (policies.REGISTRY, families.REGISTRY, traces.REGISTRY, backends.REGISTRY):
        registry.entries()  # those of its modules stay
        for name in ("_added", "_generators"):
            monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own files and their runs need no process of their own; what those are for has its own tests."""
    from modelkit.experiments.workers import Finished, Task, done_here

    def run_all(tasks: Iterable[Task], **_: Any) -> Iterator[Finished]:
        return (done_here(run, path) for run, path in tasks)

    for module in ("formulation.hosting", "authoring.check"):
        monkeypatch.setattr(f"modelkit.{module}.is_bundled", lambda name: True)
    for module in ("compare", "study.running"):
        monkeypatch.setattr(f"modelkit.experiments.{module}.run_all", run_all)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow) if page.startswith(("cookbook/", "index", "tour")) else page
        for page in PAGES
    ],
)
def test_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]) -> None:
    """Tests a page from top to bottom: files are written, Python runs, commands print the lines that are shown."""
    monkeypatch.chdir(tmp_path)
    if page.startswith("cookbook/"):
        for path in COOKBOOK:
            shutil.copy(path, tmp_path)
        in_this_process(monkeypatch)
    names: dict[str, Any] = {"__name__": "__main__"}
    for language, settings, text in BLOCK.findall((DOCS / "pages" / page).read_text(encoding="utf-8")):
        options = dict(part.split("=") for part in settings.split())
        if "file" in options:
            Path(options["file"]).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, page, "exec"), names)
        elif language == "console":
            run_commands(text, int(options.get("exit", 0)), cli)
        else:
            assert language in ("sh", "json", "text"), f"{page}: nothing runs {language}"


def run_commands(text: str, code: int, cli: Callable[..., Any]) -> None:
    """Run the commands of a block; each must print the lines below it, in that order."""
    for block in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *shown = block.splitlines()
        program, name, *rest = shlex.split(command)
        assert program == "modelkit"
        printed = iter(cli(name, *rest, code=code).out.splitlines())
        for line in shown:
            assert any(line.split() == words.split() for words in printed), f"{command} does not print {line!r}"


@pytest.mark.slow
def test_pages_are_generated_from_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that the generated pages hold every command, public name and formulation."""
    pytest.importorskip("mkdocs")
    monkeypatch.syspath_prepend(str(DOCS))
    import generate  # type: ignore[import-not-found]

    pages = generate.generated()
    for command in commands.commands:
        assert f"## modelkit {command}\n" in pages["reference/commands.md"]
    for name in mk.__all__:
        assert f"## mk.{name}\n" in pages["reference/python.md"]
    assert 'id="kv-hindsight-flow"' in pages["mathematics.md"]
    del sys.modules["generate"]


@pytest.mark.slow
def test_the_site_is_built(tmp_path: Path) -> None:
    """Tests that MkDocs builds the pages without a warning: no link leads nowhere."""
    pytest.importorskip("mkdocs")
    import subprocess

    made = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-q", "-f", str(DOCS / "mkdocs.yml"), "-d", str(tmp_path / "site")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    site = tmp_path / "site"
    assert "kv_capacity_holds" in (site / "mathematics.html").read_text(encoding="utf-8")
    assert 'class="plot"' in (site / "index.html").read_text(encoding="utf-8")
    for entry in library_entries().values():
        page = (site / "library" / f"{entry.instance}.html").read_text(encoding="utf-8")
        assert entry.sha256 in page
        assert ('class="plot"' in page) == (entry.upper_bound is not None)


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that each cell of the notebook shows what it showed: the same kinds, and the same where no clock counts."""
    monkeypatch.syspath_prepend(str(DOCS))
    import notebook  # type: ignore[import-not-found]

    stored = notebook.read()
    for before, after in zip(stored["cells"], notebook.executed(stored)["cells"], strict=True):
        if before["cell_type"] == "code":
            kinds = [[sorted(shown.get("data", ["text"])) for shown in cell["outputs"]] for cell in (before, after)]
            assert kinds[0] == kinds[1]
            assert before["outputs"] == after["outputs"] or before["metadata"] == {"tags": ["varies"]}
    page = notebook.page(stored)
    assert page.count('class="modelkit"') == 3
    assert "```python\nimport modelkit as mk" in page


def test_cookbook_pages_show_their_files() -> None:
    """Tests that each variant's page holds its whole file as it is, and is in the navigation and on the list."""
    listed = (DOCS / "pages" / "cookbook" / "index.md").read_text(encoding="utf-8")
    navigation = (DOCS / "mkdocs.yml").read_text(encoding="utf-8")
    assert len(COOKBOOK) == 10
    for path in COOKBOOK:
        page = path.with_suffix(".md")
        shown = {settings.strip(): text for _, settings, text in BLOCK.findall(page.read_text(encoding="utf-8"))}
        assert shown[f"file={path.name}"] == path.read_text(encoding="utf-8"), f"{page.name} shows another file"
        assert f"cookbook/{page.name}" in navigation
        assert f"({page.name})" in listed


def test_reference_of_formulation_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that the page has every field of what formulation files state and get, which all are documented."""
    pytest.importorskip("mkdocs")
    monkeypatch.syspath_prepend(str(DOCS))
    import generate  # type: ignore[import-not-found]

    page = generate.formulation_files()
    del sys.modules["generate"]
    sections = {part.partition("\n")[0]: part for part in page.split("## ")}
    for title, names in {
        "Formulation": [f.name for f in dataclasses.fields(mk.Formulation) if f.name != "in_full"],
        "Parameter": [f.name for f in dataclasses.fields(mk.Parameter)],
        "Instance": [*mk.Instance.model_fields, "shared_prefixes", "arrays", "is_unit"],
        "Known": ["starts", "clique_rows", "stage_limits", "iteration_windows", "last_rounds", "check_size(nonzeros)"],
        "Verdict": [*(f.name for f in dataclasses.fields(mk.Verdict)), "valid", "on(replica)"],
        "Residency": [*Residency._fields, "paused"],
        "Interval": Interval._fields,
        "View": [*mk.View._fields, "unread(request)", "taken(request)"],
    }.items():
        for name in names:
            assert f"| `{name}` |" in sections[title], f"{title}.{name}"
    assert "ForwardRef" not in page


@pytest.mark.slow
def test_cookbook_in_check_and_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]) -> None:
    """Tests each variant against every rule, and a study of all of them with two policies each.

    No run is invalid, each problem has its own objective and optimum, and none is ranked with another.
    """
    monkeypatch.chdir(tmp_path)
    in_this_process(monkeypatch)
    tables = ['name = "cookbook"']
    titles = []
    for path in COOKBOOK:
        shutil.copy(path, tmp_path)
    for path in COOKBOOK:
        formulation = load_formulation(str(tmp_path / path.name))
        own = runpy.run_path(path.name)["FORMULATION"]
        failed = [f for f in mk.check(own, instances=2) if f.status != "ok" and f.rule not in OF_FILES]
        assert failed == []
        text = path.with_suffix(".md").read_text(encoding="utf-8")
        name, data = next((s.split("=")[1], t) for k, s, t in BLOCK.findall(text) if k == "json")
        Path(name).write_text(data, encoding="utf-8")
        policies_of = re.findall(r"-p (\S+)", text)
        assert len(policies_of) == 2
        group = f'groups = ["{path.stem}"]'
        tables += [
            f'[[instances]]\nfile = "{name}"\ngroup = "{path.stem}"',
            f'[[formulations]]\nnames = ["{path.name}"]\n{group}',
            f"[[policies]]\nnames = {json.dumps(policies_of)}\n{group}",
        ]
        instance = formulation.with_parameters(mk.load(name))
        titles.append(f"{metric_noun(formulation.metric(instance))} of {formulation.name}")
    Path("cookbook.toml").write_text("\n".join(tables), encoding="utf-8")
    cli("study", "run", "cookbook.toml", "-q")
    cli("study", "report", "cookbook.toml", "-o", "page.html")
    page = html.unescape(re.sub(r"<[^>]+>", " ", Path("page.html").read_text(encoding="utf-8")))
    words = re.sub(r"\s+", " ", page)
    assert "invalid" not in words
    assert "the optimum is bounded by certificates" not in words
    assert "are not ranked with the others" in words
    for title in titles:
        assert title.lower() in words.lower(), title
