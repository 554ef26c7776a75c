"""Pages that are generated when the documentation is built: mathematics, commands and Python names.

A hook of MkDocs. Everything comes from the code: the registries, Click's own help, docstrings, and the models.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import click
from mkdocs.structure.files import File, Files

import modelkit as mk
from modelkit.authoring.show import mathematics
from modelkit.authoring.show.writing import html_fragment
from modelkit.cli import cli
from modelkit.formulation.loading import found_formulations
from modelkit.policies import policies
from modelkit.policies.dispatch import DISPATCH, STAGED_DISPATCH
from modelkit.policies.gates import GATE_OPTIONS


def on_files(files: Files, *, config: Any) -> Files:
    """Add the generated pages to those that are written by hand."""
    for path, text in generated().items():
        files.append(File.generated(config, path, content=text))
    return files


def generated() -> dict[str, str]:
    """Text of each generated page by its path."""
    return {
        "mathematics.md": _mathematics(),
        "reference/policies.md": _policies(),
        "reference/commands.md": _commands(),
        "reference/python.md": _python(),
    }


def _mathematics() -> str:
    parts = [
        "# Mathematics of the formulations\n\nRead from the built models, as `modelkit show NAME` does: whatever stands"
        " here holds for every row of small models of each formulation.\n"
    ]
    for entry in found_formulations():
        if entry.formulation is not None:
            parts.append(
                f'<div id="{entry.name}" markdown="0">\n{html_fragment(mathematics(entry.name), level=2)}</div>\n'
            )
    return "\n".join(parts)


def _policies() -> str:
    parts = [
        "# Policies\n\nWhat `modelkit show NAME` says, and how each is read. Every policy of continuous batching also"
        " has the options of the [gate](../how-to/gates.md), and each policy says by `dispatch` which of several"
        " [replicas](../how-to/replicas.md) an arrival goes to.\n"
    ]
    clocks = {"unit": "the unit clock and continuous batching", "stages": "slots in stages"}
    for name, entry in policies().items():
        options = [o for o in entry.options if o not in (*GATE_OPTIONS, DISPATCH, STAGED_DISPATCH)]
        rows = [f"| `{o.name}` | {o.help} | {o.default} |" for o in options]
        table = "\n".join(["\n| option | what for | default |", "|---|---|---|", *rows, ""]) if rows else ""
        rule = f"{entry.summary[0].upper()}{entry.summary[1:]}."
        parts.append(
            f"## {name}\n\n{rule}\n\nFor {clocks[entry.clock]}. {entry.reference}."
            f"\n\n```text\n{inspect.getdoc(entry.make)}\n```\n{table}"
        )
    return "\n".join(parts)


def _commands() -> str:
    parts = ["# Commands\n\nWhat `modelkit COMMAND --help` says.\n"]

    def add(command: click.Command, path: tuple[str, ...]) -> None:
        with click.Context(command, info_name=" ".join(path), max_content_width=88, terminal_width=88) as context:
            parts.append(f"{'#' * (len(path) + 0)}# {' '.join(path)}\n\n```text\n{command.get_help(context)}\n```\n")
            if isinstance(command, click.Group):
                for name in command.list_commands(context):
                    child = command.get_command(context, name)
                    assert child is not None
                    add(child, (*path, name))

    add(cli, ("modelkit",))
    return "\n".join(parts)


def _python() -> str:
    parts = ["# Python\n\n`import modelkit as mk`; names are imported when they are first used.\n"]
    for name in mk.__all__:
        thing = getattr(mk, name)
        kind = "class" if inspect.isclass(thing) else "function"
        parts.append(f"## mk.{name}\n\n*{kind}*\n\n```text\n{name}{_signature(thing)}\n```\n\n{_docstring(thing)}\n")
    return "\n".join(parts)


def _signature(thing: Any) -> str:
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    made = str(signature)
    if len(made) <= 80:
        return made
    inside = ",\n".join(f"    {parameter}" for parameter in signature.parameters.values())
    returned = made.rpartition(" -> ")[2]
    return f"(\n{inside},\n)" + (f" -> {returned}" if " -> " in made else "")


def _docstring(thing: Any) -> str:
    """A NumPy docstring as Markdown: headings in bold, entries as definitions."""
    out = []
    lines = (inspect.getdoc(thing) or "").splitlines()
    entry = False
    for here, after in zip(lines, [*lines[1:], ""], strict=True):
        if re.fullmatch(r"-{3,}", here):
            continue
        if re.fullmatch(r"-{3,}", after):
            out.append(f"\n**{here}**\n")
            entry = True
        elif entry and here and not here.startswith(" "):
            out.append(f"\n- `{here}`")
        elif here.startswith("    "):
            out.append(f"  {here.strip()}")
        else:
            out.append(here)
    return "\n".join(out).replace("``", "`")
