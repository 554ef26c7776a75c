"""The documentation: every example runs as written, and the pages are built from the code."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import modelkit as mk
from modelkit import backends, policies
from modelkit.cli import cli as commands
from modelkit.sources import families, traces

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


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow) if page.startswith("cookbook/") else page for page in PAGES]
)
def test_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]) -> None:
    """Tests a page from top to bottom: files are written, Python runs, commands print the lines that are shown."""
    monkeypatch.chdir(tmp_path)
    if page.startswith("cookbook/"):
        for path in COOKBOOK:
            shutil.copy(path, tmp_path)
        for module in ("formulation.hosting", "authoring.check"):  # our own files need no process of their own
            monkeypatch.setattr(f"modelkit.{module}.is_bundled", lambda name: True)
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
    page = (tmp_path / "site" / "mathematics.html").read_text(encoding="utf-8")
    assert "kv_capacity_holds" in page
