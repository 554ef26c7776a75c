"""Pages that are generated when the documentation is built: mathematics, commands, Python names, the library.

A hook of MkDocs. Everything comes from the code: the registries, Click's own help, docstrings, and the models; from the
library of instances; and from the notebook, as it was run last.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import click
import notebook
from library_pages import front_picture, library_pages
from mkdocs.structure.files import File, Files

import modelkit as mk
from modelkit.authoring.check.candidate import HEADINGS
from modelkit.authoring.show import mathematics
from modelkit.authoring.show.writing import html_fragment
from modelkit.cli import cli
from modelkit.formulation.loading import found_formulations
from modelkit.judge.metrics import METRICS
from modelkit.judge.rules import Interval, Residency
from modelkit.policies import policies
from modelkit.policies.dispatch import DISPATCH, STAGED_DISPATCH
from modelkit.policies.gates import GATE_OPTIONS
from modelkit.reporting.inline import inline_style
from modelkit.requests import SharedPrefixes


def on_files(files: Files, *, config: Any) -> Files:
    """Add the generated pages to those that are written by hand."""
    for path, text in {**generated(), "assets/modelkit.css": inline_style() + SITE_STYLE}.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the picture where the front page has a place for it."""
    return markdown.replace(PICTURE, front_picture()) if PICTURE in markdown else markdown


#: Where the picture of the front page goes.
PICTURE = "<!-- picture: front -->"
#: Tables that are wider than the page scroll, as on pages of reports.
SITE_STYLE = """
.col-md-9 { overflow-wrap: anywhere; }
.col-md-9 table {
  display: block; overflow-x: auto; max-width: 100%; width: fit-content; font-size: 0.9rem;
  background:
    linear-gradient(to right, var(--bs-body-bg) 40%, transparent) left / 2.4rem 100% local,
    linear-gradient(to left, var(--bs-body-bg) 40%, transparent) right -2px top / 2.6rem 100% local,
    linear-gradient(to right, #8888, transparent) left / 0.8rem 100% scroll,
    linear-gradient(to left, #8888, transparent) right / 0.8rem 100% scroll;
  background-repeat: no-repeat;
}
.col-md-9 .table > :not(caption) > * > * { background: none; box-shadow: none; overflow-wrap: normal; }
.col-md-9 td:first-child { min-width: 9rem; }
.col-md-9 td { overflow-wrap: anywhere; min-width: 4.5rem; }
.col-md-9 .formula { overflow-x: auto; }
.modelkit table { display: table; width: 100%; background: none; }
.modelkit .table > :not(caption) > * > * { color: inherit; padding: 0.42rem 1rem 0.42rem 0; }
.modelkit caption { caption-side: top; }
@media (max-width: 48rem) { .col-md-9 pre code { white-space: pre-wrap; } h1 { font-size: 1.9rem; } }
"""


def generated() -> dict[str, str]:
    """Text of each generated page by its path."""
    return {
        "mathematics.md": _mathematics(),
        "reference/formulation-files.md": formulation_files(),
        "reference/policies.md": _policies(),
        "reference/commands.md": _commands(),
        "reference/python.md": _python(),
        "notebook.md": notebook.page(notebook.read()),
        **library_pages(),
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


def formulation_files() -> str:
    """What a formulation file states and what its functions get: every field, from the classes themselves."""
    headings = ", ".join(dict.fromkeys((*HEADINGS.values(), "Claim", "Reference")))
    parts = [
        "# Formulation files\n\nA file in which the loader finds one object, `FORMULATION = Formulation(...)`, named"
        " after the file with dashes for\nunderscores. It imports Pyomo, NumPy and public names of `modelkit`. Its"
        " docstring has the"
        f" headings\n{headings}, as far as there is something to say. Nothing else in\nthe file is looked at.\n\n"
        "Times that the judge says are rounds under the unit clock and milliseconds otherwise; arrivals are rounds or"
        " seconds."
    ]
    for thing, title, words in _IN_FORMULATION_FILES:
        parts.append(f"## {title}\n\n{words}\n\n{_fields_table(thing)}")
    parts.append(_metrics_table())
    return "\n\n".join(parts) + "\n"


def _metrics_table() -> str:
    """What the judge measures, which an objective may be."""
    rows = [f"| `{name.format(t='rounds', s='round')}` | {_cell(words)} |" for name, words in METRICS.items()]
    told = (
        "What `verdict.metrics` has, and what `objective` may name without its unit, as `total_latency` does: for any"
        " other\nobjective the file gives `value`. In real time `_rounds` is `_ms` and `_per_round` is `_per_second`;"
        " those in `_ms` here\nare there in real time alone, and those of pauses, prefixes and service levels where the"
        " server has them."
    )
    return "\n".join([f"## Metrics\n\n{told}\n", "| name | meaning |", "|---|---|", *rows])


#: What formulation files state and receive: class, heading, and what it is.
_IN_FORMULATION_FILES: tuple[tuple[type[Any], str, str], ...] = (
    (mk.Formulation, "Formulation", "What the file states. A variant inherits what it does not state."),
    (mk.Parameter, "Parameter", "One entry of `parameters`; its value is `instance.extra[name]`."),
    (mk.Instance, "Instance", "The first argument of all functions but `build`."),
    (mk.Request, "Request", "One of `instance.requests`."),
    (mk.Prefix, "Prefix", "`request.prefix`."),
    (SharedPrefixes, "SharedPrefixes", "`instance.shared_prefixes`: what requests share in the end."),
    (mk.Server, "Server", "`instance.server`."),
    (mk.PrefixCache, "PrefixCache", "`instance.server.prefix_cache`."),
    (mk.Pause, "Pause", "`instance.server.pause`."),
    (
        mk.Known,
        "Known",
        "The second argument of `data(instance, known)`; each part is found when it is first asked for.",
    ),
    (
        mk.Verdict,
        "Verdict",
        "What `admissible(instance, verdict)` and `value(instance, verdict)` get: the judge's replay.",
    ),
    (Residency, "Residency", "One of `verdict.residencies`; it was called a stay."),
    (Interval, "Interval", "One of `verdict.intervals`; it was called a stretch."),
    (mk.Segment, "Segment", "One step of the `Schedule` that `extract` returns."),
    (
        mk.View,
        "View",
        "What a [policy of your own](../how-to/policy.md) gets, beside the requests: the state of the server.",
    ),
)


def _fields_table(thing: type[Any]) -> str:
    """Fields and properties of a class with type, default and meaning; KeyError for one that is not documented."""
    said = _said_of_fields(thing)
    types, defaults = _types_of(thing), _defaults_of(thing)
    rows = ["| name | type | default | meaning |", "|---|---|---|---|"]
    rows += [
        f"| `{name}` | `{_cell(types[name])}` | {_cell(defaults.get(name, 'required'))} | {_cell(said[name])} |"
        for name in types
    ]
    for name, member in vars(thing).items():
        doc = inspect.getdoc(member)
        inner = getattr(member, "fget", None) or getattr(member, "func", None) or member
        if name.startswith("_") or name in types or name in _NOT_SHOWN or not doc or not inspect.isfunction(inner):
            continue
        method = inner is member
        returns = str(inspect.signature(inner).return_annotation)
        call = f"{name}({', '.join(list(inspect.signature(inner).parameters)[1:])})" if method else name
        rows.append(f"| `{call}` | `{_cell(returns)}` | – | {_cell(doc.partition(chr(10) * 2)[0])} |")
    return "\n".join(rows)


#: Public members that are of no use in a formulation file.
_NOT_SHOWN = {
    "abstract", "apply", "ask", "breaks", "chosen_for", "create_model", "document", "evaluate", "extend", "fault",
    "first", "from_frame", "hindrances", "hindsight", "in_full", "instantiate", "law", "local_search", "metric",
    "model_copy", "objective_doc", "on_replicas", "refusal", "resolved", "schedule_from", "separator_for", "set_start",
    "slot_search", "starts_kept", "stays", "stretches", "values", "windows", "with_parameters", "words",
}  # fmt: skip


#: What fields are that the schema leaves without words.
_SELF_EVIDENT = {
    "id": "Its name.",
    "name": "Its name.",
    "description": "A sentence about it.",
    "server": "What serves the requests.",
    "requests": "In the order of the file.",
    "clock": "How long rounds last: `UnitClock` or `LinearClock`.",
}


def _said_of_fields(thing: type[Any]) -> dict[str, str]:
    """What its docstring, in the sections Parameters and Attributes, or its schema says of each name."""
    if hasattr(thing, "model_fields"):
        told = {name: field.description or _SELF_EVIDENT.get(name) for name, field in thing.model_fields.items()}
        return {name: words for name, words in told.items() if words is not None}
    said: dict[str, list[str]] = {}
    names: list[str] = []
    section = ""
    lines = inspect.cleandoc(thing.__doc__ or "").splitlines()
    for here, after in zip(lines, [*lines[1:], ""], strict=True):
        if re.fullmatch(r"-{3,}", after):
            section, names = here, []
        elif section in ("Parameters", "Attributes") and here and not here.startswith((" ", "---")):
            names = here.split(", ")
        elif here.strip() and not here.startswith("---"):
            for name in names:
                said.setdefault(name, []).append(here.strip())
    return {name: " ".join(words) for name, words in said.items()}


def _types_of(thing: type[Any]) -> dict[str, str]:
    """Type of each field, as it is written."""
    if thing is mk.Known:
        return {}
    found = {name: field for name, field in inspect.get_annotations(thing).items() if not name.startswith("_")}
    return {
        name: re.sub(r"Annotated\[([\w| ]+), Field\([^()]*\)\]", r"\1", getattr(kind, "__forward_arg__", str(kind)))
        for name, kind in found.items()
        if name not in ("model_config", "in_full")
    }


def _defaults_of(thing: type[Any]) -> dict[str, str]:
    """Default of each field that has one, as it is written."""
    if hasattr(thing, "model_fields"):
        return {n: f"`{f.get_default(call_default_factory=True)!r}`" for n, f in thing.model_fields.items()
                if not f.is_required()}  # fmt: skip
    if dataclasses.is_dataclass(thing):
        return {
            f.name: f"`{getattr(f.default, '__name__', repr(f.default))}`"
            for f in dataclasses.fields(thing)
            if f.default is not dataclasses.MISSING
        }
    defaults = getattr(thing, "_field_defaults", {})
    return {n: f"`{v!r}`" if isinstance(v, int | tuple | None) else "nothing" for n, v in defaults.items()}


def _cell(words: str) -> str:
    return words.replace("``", "`").replace("|", "\\|")


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
